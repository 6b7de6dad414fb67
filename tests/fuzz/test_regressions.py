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
