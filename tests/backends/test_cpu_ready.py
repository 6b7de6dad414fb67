"""Constants that contractions read from panels packed before the first run."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.executable.executable import Executable

RANDOM = np.random.default_rng(5)


def random(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def compiled(build, x: np.ndarray, *weights: np.ndarray, fed: bool = False) -> Executable:
    """An executable of `build(x, *weights)`; the weights are constants, or fed."""
    graph = nl.Graph()
    first = graph.placeholder(x.shape, x.dtype)
    feeds = {first: nl.TensorType(x.shape, first.dtype)}
    if fed:
        rest = [graph.placeholder(w.shape, w.dtype) for w in weights]
        feeds |= {t: nl.TensorType(t.shape, t.dtype) for t in rest}
    else:
        rest = [graph.constant(w) for w in weights]
    return graph.compile(feeds=feeds, targets=[build(first, *rest)], device="cpu")


def results(build, x: np.ndarray, *weights: np.ndarray) -> tuple[Executable, np.ndarray]:
    """The executable with constants, and its result, which must be that of fed weights."""
    constant = compiled(build, x, *weights)
    fed = compiled(build, x, *weights, fed=True)
    got = np.asarray(constant.run([x])[0])
    want = np.asarray(fed.run([x, *weights])[0])
    scale = np.abs(want.astype(np.float64)).max()
    assert np.abs(got.astype(np.float64) - want.astype(np.float64)).max() <= 2e-5 * scale
    np.testing.assert_array_equal(np.asarray(constant.run([x])[0]), got)
    return constant, got


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "shape", [(128, 700, 300), (1, 4096, 1000), (3, 513, 97), (49, 512, 200), (40, 2000, 16)]
)
def test_matrix_products(shape: tuple[int, int, int], turned: bool) -> None:
    m, k, n = shape
    x, w, b = random(m, k), random(n, k) if turned else random(k, n), random(n)

    def build(t, weights, bias):
        return nl.gelu(nl.matmul(t, weights.transpose((1, 0)) if turned else weights) + bias)

    executable, _ = results(build, x, w, b)
    assert executable.loaded.absorbed == {0}
    assert executable.loaded._packed_bytes >= w.nbytes


def test_batches_of_constants() -> None:
    x, w = random(3, 50, 300), random(3, 300, 200)
    executable, _ = results(nl.matmul, x, w)
    assert executable.loaded.absorbed == {0}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("layouts", [("NHWC", "HWIO"), ("NHWC", "OIHW"), ("NCHW", "OIHW")])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_convolutions(layouts: tuple[str, str], groups: int, kernel: int, stride: int) -> None:
    data, letters = layouts
    inputs, outputs, pixels = 64, 160, 14
    x = random(2, pixels, pixels, inputs) if data == "NHWC" else random(2, inputs, pixels, pixels)
    if letters == "HWIO":
        w = random(kernel, kernel, inputs // groups, outputs)
    else:
        w = random(outputs, inputs // groups, kernel, kernel)
    b = random(outputs)

    def build(t, weights, bias):
        y = nl.conv2d(
            t,
            weights,
            strides=stride,
            padding=kernel // 2,
            groups=groups,
            data_layout=data,
            weights_layout=letters,
        )
        return (y + (bias if data == "NHWC" else bias.reshape((outputs, 1, 1)))).relu()

    results(build, x, w, b)


def test_half_and_integer_weights() -> None:
    x, w = random(40, 300).astype(nl.bfloat16.numpy), random(300, 200).astype(nl.bfloat16.numpy)
    assert results(nl.matmul, x, w)[0].loaded.absorbed == {0}
    small = RANDOM.integers(-9, 9, (40, 300)).astype(np.int32)
    results(nl.matmul, small, RANDOM.integers(-9, 9, (300, 200)).astype(np.int32))


def test_kernels_alike_have_panels_of_their_own() -> None:
    x = random(64, 300)
    one, two = random(300, 300), random(300, 300)

    def build(t, a, b):
        return nl.matmul(nl.matmul(nl.matmul(t, a), b), a)

    executable, _ = results(build, x, one, two)
    assert executable.loaded.absorbed == {0, 1}
    assert executable.loaded._packed_bytes < 2.5 * one.nbytes  # the one used twice counts once


def test_a_constant_that_is_read_elsewhere_stays() -> None:
    x, w = random(64, 300), random(300, 300)

    def build(t, weights):
        return nl.matmul(t, weights) + nl.sum(nl.exp(weights + t[0:1]), axes=0)

    executable, _ = results(build, x, w)
    assert executable.loaded._packed_bytes > 0
    assert executable.loaded.absorbed == frozenset()


def test_unpacked_copies_are_dropped() -> None:
    x, w = random(64, 1024), random(1024, 1024)
    executable = compiled(nl.matmul, x, w)
    assert executable._constants == []
    np.testing.assert_allclose(np.asarray(executable.run([x])[0]), x @ w, rtol=1e-3, atol=1e-3)


def test_a_program_packs_at_its_first_play_when_nobody_asked_before() -> None:
    x, w = random(64, 300), random(300, 200)
    executable = compiled(nl.matmul, x, w)
    device = executable.device
    loaded = device.load(executable.program, executable.options, executable.loaded.image())
    out = np.zeros((64, 200), np.float32)
    constant = np.ascontiguousarray(executable.program.constants[0])
    handles = [a.__array_interface__["data"][0] for a in (x, out, constant)]
    loaded.play([*handles, device.allocate(max(1, executable.arena_bytes)).handle])
    np.testing.assert_array_equal(out, np.asarray(executable.run([x])[0]))


def test_any_number_of_threads_packs_the_same() -> None:
    x, w = random(64, 300), random(300, 333)
    found = []
    for threads in (1, 2, 5):
        nl.set_threads(threads)
        try:
            executable = compiled(nl.matmul, x, w)
            found.append(np.asarray(executable.run([x])[0]))
        finally:
            nl.set_threads(None)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-5, atol=1e-4)
