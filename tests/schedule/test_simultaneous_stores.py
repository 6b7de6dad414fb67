"""Stores of one kernel over the same ranges: all values of a point come before its stores.

Momentum and Adam write what they read: with `velocity` stored before `value` is computed, the
step would be taken with half-new state. Sizes around the widths of vectors and thread chunks.
"""

from __future__ import annotations

import numpy as np
import pytest
from networks import plan

import niello as nl
from niello.kernel.interpret import interpret
from niello.kernel.ir import Kernel, Load, Param, Range, Store, fn

SIZES = (1, 7, 16, 33, 1000, 100_003)
TARGETS = ("host", "avx2", "baseline")


def arrays(size: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(size)
    return [rng.uniform(-1, 1, size).astype(np.float32) for _ in range(count)]


def run(graph: nl.Graph, feeds, steps, device: str, target: str, threads: int) -> None:
    options = nl.CompileOptions(target=target, threads=threads)
    kinds = {x: x.type for x in feeds}
    executable = graph.compile(kinds, [], steps, device=device, options=options)
    assert executable.kernel_count == 1
    assert executable.arena_bytes == 0
    executable.run(list(feeds.values()))


WAYS = [("cpu", t, n) for t in TARGETS for n in (1, 2)] + [("numpy", "host", 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("device", "target", "threads"), WAYS)
def test_momentum(device: str, target: str, threads: int, size: int) -> None:
    value, velocity, slope = arrays(size, 3)
    graph = nl.Graph()
    w, v, g = graph.variable(value), graph.variable(velocity), graph.placeholder((size,))
    new = nl.momentum(0.1, 0.9, w, v, g, nesterov=True)
    run(graph, {g: slope}, [w.assign(new[0]), v.assign(new[1])], device, target, threads)
    expected = velocity * np.float32(0.9) + slope
    np.testing.assert_allclose(v.value, expected, rtol=1e-6, atol=1e-6)
    along = slope + expected * np.float32(0.9)
    np.testing.assert_allclose(w.value, value - along * np.float32(0.1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("device", "target", "threads"), WAYS)
def test_adam(device: str, target: str, threads: int, size: int) -> None:
    value, first, second, slope = arrays(size, 4)
    second = np.abs(second)
    graph = nl.Graph()
    w, m, s = (graph.variable(a) for a in (value, first, second))
    g = graph.placeholder((size,))
    new = nl.adam(1e-2, 0.9, 0.99, 1e-8, 3, w, m, s, g)
    steps = [a.assign(b) for a, b in zip((w, m, s), new, strict=True)]
    run(graph, {g: slope}, steps, device, target, threads)
    expected_m = 0.9 * first.astype(np.float64) + 0.1 * slope
    expected_s = 0.99 * second.astype(np.float64) + 0.01 * slope.astype(np.float64) ** 2
    moved = 1e-2 * (expected_m / (1 - 0.9**3)) / (np.sqrt(expected_s / (1 - 0.99**3)) + 1e-8)
    np.testing.assert_allclose(m.value, expected_m, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(s.value, expected_s, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(w.value, value - moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_three_variables_from_each_other(size: int) -> None:
    """Every new value reads every old one; all three in place, in one kernel."""
    a, b, c = arrays(size, 3)
    graph = nl.Graph()
    va, vb, vc = (graph.variable(x) for x in (a, b, c))
    steps = [va.assign(vb + vc), vb.assign(va - vc), vc.assign(va * vb)]
    found = plan(graph, {}, (), steps)
    graph.run({}, [], steps, device="cpu")
    np.testing.assert_allclose(va.value, b + c, rtol=1e-6)
    np.testing.assert_allclose(vb.value, a - c, rtol=1e-6)
    np.testing.assert_allclose(vc.value, a * b, rtol=1e-6)
    assert found.program.arena_bytes <= 4 * (size + 16) * 2


def test_meaning_in_the_kernel_language() -> None:
    """The interpreter, which defines it: a swap of two buffers in one kernel."""
    i = Range("i", 5)
    a, b = (Param(n, nl.float32, 5, True) for n in (0, 1))
    stores = (
        Store(a, (i,), i, fn("add", Load(b, i, None), 1.0), None, None),
        Store(b, (i,), i, Load(a, i, None), None, None),
    )
    left, right = np.zeros(5, np.float32), np.arange(5, dtype=np.float32)
    interpret(Kernel("swap", (a, b), stores), [left, right])
    np.testing.assert_array_equal(left, np.arange(5) + 1)
    np.testing.assert_array_equal(right, np.zeros(5))
