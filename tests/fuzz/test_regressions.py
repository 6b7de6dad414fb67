"""What random graphs have found, made small."""

from __future__ import annotations

import time

import numpy as np
import pytest

import niello as nl
from niello.graph.evaluate import evaluate
from niello.kernel.verify import verify

DEVICES = ("cpu", "numpy")
each_device = pytest.mark.parametrize("device", DEVICES)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def check(feeds: dict, targets: list, device: str) -> None:
    graph = targets[0].graph
    found = graph.run(feeds, targets, device=device)
    for t, expected in zip(targets, evaluate(targets, feeds), strict=True):
        np.testing.assert_allclose(found[t], expected, rtol=1e-4, atol=1e-5)


@each_device
def test_a_gate_does_not_open_loads_inside_an_index(device: str) -> None:
    """A gather read through a concatenation: the index is computed where the gate is shut, so
    the load of the position needs the gate too."""
    graph = nl.Graph()
    x, v, tail = graph.placeholder((33,)), graph.placeholder((8,)), graph.placeholder((4,))
    chosen = x.gather(graph.constant([1, 18, 14, 8, 13, 16, 28, 16]))
    y = nl.concat([(v * 0.9 + chosen).reverse(), tail]).exp()
    feeds = {x: floats(33), v: floats(8), tail: floats(4)}
    check(feeds, [y], device)
    executable = graph.compile({t: t.type for t in feeds}, [y], device=device)
    for kernel in executable.program.kernels:
        verify(kernel)


def test_gather_of_one_position() -> None:
    graph = nl.Graph()
    x = graph.placeholder((5,))
    for index in (0, 4, -1):
        y = x.gather(graph.constant(np.array(index, np.int32)))
        check({x: floats(5)}, [y], "numpy")


@each_device
@pytest.mark.parametrize(
    ("length", "step"),
    [
        (400, lambda y, i: (y + 1.0) * 0.5 if i % 2 else y.tanh()),
        (100, lambda y, i: y.gelu()),
        (800, lambda y, i: y.transpose().reverse(axes=0)),
    ],
)
def test_long_chains(length: int, step, device: str) -> None:
    """Deeper than Python recurses."""
    graph = nl.Graph()
    x = graph.placeholder((4, 5))
    y = x
    for i in range(length):
        y = step(y, i)
    check({x: floats(4, 5)}, [y + 0.0], device)


def test_nested_rows_compile_in_reasonable_time() -> None:
    """Twenty reductions that each need the last: time must not double with each."""
    graph = nl.Graph()
    x = graph.placeholder((4, 5))
    y = x
    for _ in range(10):
        y = nl.softmax(y) + 1.0
    started = time.perf_counter()
    check({x: floats(4, 5)}, [y], "cpu")
    assert time.perf_counter() - started < 30


@each_device
def test_empty_variables_are_updated(device: str) -> None:
    graph = nl.Graph()
    v = graph.variable(np.zeros((3, 0), np.float64))
    y = v.split([1, 2])[0]
    found = graph.run({}, [y], [v.assign(v - y.sum())], device=device)[y]
    assert found.shape == (1, 0)


@pytest.mark.parametrize("target", ["host", "avx2", "baseline"])
def test_conditions_on_vectors_of_two_lanes(target):
    """LLVM's reduction of a mask of two lanes lost terms of sums on AVX-512."""
    graph = nl.Graph()
    x = graph.placeholder((1, 24, 8, 2))

    def folded(part):
        return nl.fold(part, (3, 2, 4), (2, 1, 2), padding="same_lower", data_layout="NDHWC")

    y = nl.stack([folded(x[..., 0]), folded(x[..., 1])], -1)
    fed = np.random.default_rng(0).standard_normal((1, 24, 8, 2)).astype(np.float32)
    run = graph.compile({x: x.type}, [y], device="cpu", options=nl.CompileOptions(target=target))
    wanted = graph.run({x: fed}, [y], device="numpy")[y].numpy()
    np.testing.assert_allclose(run.run([fed])[0].numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("declared", [(4,), (None,)])
@pytest.mark.parametrize("known", [(4,), (None,)])
def test_a_call_in_place_of_which_less_or_more_is_known(declared, known) -> None:
    """The verifier refused a loop that takes the result of a call."""
    inner, graph = nl.Graph("double"), nl.Graph()
    a, x = inner.placeholder(known), graph.placeholder(known)
    _ = a * 2.0
    (y,) = nl.call("double", [x], [nl.TensorType(declared)])
    (z,) = nl.for_(2, [graph.constant(0.0)], lambda i, t: [t + y.sum()])
    executable = graph.compile({x: (4,)}, [z], device="cpu", callables={"double": inner})
    assert executable.run([np.ones(4, np.float32)])[0].item() == 16.0


def test_a_loop_that_does_not_run_has_stacks_of_unknown_sizes() -> None:
    """Evaluation asked for static sizes of what no iteration had made."""
    graph = nl.Graph()
    x = graph.placeholder((None, 3))
    n = graph.placeholder((), nl.int32)
    last, stacks = nl.scan([x], [n], lambda i, s, c: (c, [s[0] * 2.0]))
    wide = nl.scan([], [x], lambda i, s, c: (c, [c[0] + 1.0]), length=0)[1]
    feeds = {x: np.zeros((0, 3), np.float32), n: np.int32(1)}
    found = evaluate([last[0], stacks[0], wide[0]], feeds)
    assert [a.shape for a in found] == [(), (0, 3), (0, 0, 3)]


@pytest.mark.parametrize("target", ["host", "avx2", "baseline"])
@pytest.mark.parametrize("count", [1, 3, 200])
def test_float64_to_float16_rounds_once(target: str, count: int) -> None:
    """Rounded to float32 on the way, ties went wrong; and of the two conversions LLVM made one, for
    which it calls a function that is not there."""
    halves = np.linspace(0.1, 60000.0, count).astype(np.float16)
    ties = (halves.astype(np.float64) + np.nextafter(halves, np.float16(np.inf))) / 2
    graph = nl.Graph()
    x = graph.placeholder((count,), nl.float64)
    y, z = x.cast(nl.float16), x.cast(nl.float16).tanh()
    options = nl.CompileOptions(target=target)
    executable = graph.compile({x: x.type}, [y, z], device="cpu", options=options)
    for fed in (ties, ties * (1 + 1e-13), -ties * (1 - 1e-13), ties * 1e-9, ties * 1e300):
        with np.errstate(over="ignore"):
            wanted = fed.astype(np.float16)
        np.testing.assert_array_equal(np.asarray(executable.run([fed])[0]), wanted)


@pytest.mark.parametrize("target", ["host", "avx2", "baseline"])
@pytest.mark.parametrize("kernel", [(3, 2), (3, 3), (1, 2)])
def test_padding_of_narrow_images(target: str, kernel: tuple[int, int]) -> None:
    """LLVM's NewGVN took one mask for another, and failed an assertion on the next shape."""
    graph = nl.Graph()
    x, w = graph.placeholder((1, 5, 3, 9)), graph.placeholder((*kernel, 9, 5))
    y = nl.conv2d(x, w, padding="same", data_layout="NHWC", weights_layout="HWIO")
    feeds = {x: floats(1, 5, 3, 9), w: floats(*kernel, 9, 5)}
    options = nl.CompileOptions(threads=1, target=target)
    executable = graph.compile({t: t.type for t in feeds}, [y], device="cpu", options=options)
    wanted = evaluate([y], feeds)[0]
    found = np.asarray(executable.run(list(feeds.values()))[0])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_gradient_of_a_complex_tensor_that_a_loop_captures() -> None:
    """It was lost: only real tensors counted."""
    graph = nl.Graph()
    z, x = graph.placeholder((2,), nl.complex128), graph.placeholder((), nl.float64)
    (y,) = nl.for_(3, [x], lambda i, t: [t * 0.5 + (z * z).real().sum()])
    w = nl.if_(x > 0.0, lambda: (z * z).imag().sum(), lambda: z.real().sum())
    feeds = {z: np.array([1 + 2j, -0.5 + 1j]), x: np.float64(0.3)}
    found = evaluate([graph.gradients(t, [z])[z] for t in (y, w)], feeds)
    np.testing.assert_allclose(found[0], 1.75 * 2 * np.conj(feeds[z]))
    np.testing.assert_allclose(found[1], 2j * np.conj(feeds[z]))


@pytest.mark.parametrize("target", ["host", "avx2", "baseline"])
def test_rows_that_begin_with_padding(target: str) -> None:
    """A symmetric edge in front of a row is read from places that are not in order."""
    graph = nl.Graph()
    x = graph.placeholder((8, 3, 3, 3))
    padded = x.pad([(0, 2), (1, 2), (2, 2), (1, 0)], mode="symmetric")
    y = nl.log_softmax(padded, 3)
    options = nl.CompileOptions(target=target)
    executable = graph.compile({x: x.type}, [y], device="cpu", options=options)
    fed = floats(8, 3, 3, 3)
    np.testing.assert_allclose(
        np.asarray(executable.run([fed])[0]), evaluate([y], {x: fed})[0], rtol=1e-4, atol=1e-5
    )


@each_device
def test_a_part_without_elements_that_a_kernel_reads(device: str) -> None:
    """What has no elements is not computed, and had no place."""
    graph = nl.Graph()
    x = graph.placeholder((2, 0))
    part = graph.constant(np.zeros((2, 0), np.float32)) * (1.0 - x)
    placed = part.reshape((0,)).pad([(0, 72)]).reshape((2, 3, 4, 3))
    y = nl.concat([graph.constant(0.0, shape=(2, 3, 28, 3)), placed], 2)
    check({x: np.zeros((2, 0), np.float32)}, [y], device)
