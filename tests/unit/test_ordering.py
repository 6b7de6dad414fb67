"""Sorting, choosing and running results on sizes that the contract's samples do not have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core import dtypes
from niello.core.errors import AttributeValueError, DTypeError, ShapeError

Build = Callable[[nl.Tensor], Any]


def run(x: np.ndarray, build: Build, device: str = "cpu") -> list[np.ndarray]:
    graph = nl.Graph()
    p = graph.placeholder(x.shape, dtypes.dtype(x.dtype))
    made = build(p)
    targets = list(made) if isinstance(made, tuple) else [made]
    found = graph.run({p: x}, targets, device=device)
    return [np.asarray(found[t]) for t in targets]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- sorting


@pytest.mark.parametrize(
    "shape", [(5, 5000), (3, 4096), (1000, 16), (700, 31), (40, 33), (2, 70000)]
)
@pytest.mark.parametrize("descending", [False, True])
def test_sort_of_floats(shape: tuple[int, ...], descending: bool) -> None:
    x = normal(*shape)
    x[0, ::7] = np.nan
    x[-1, ::5] = np.inf
    want = np.sort(x, -1)
    (found,) = run(x, lambda p: nl.sort(p, descending=descending))
    np.testing.assert_array_equal(found, want[:, ::-1] if descending else want)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_sort_of_all_integers(dtype: type) -> None:
    limits = np.iinfo(dtype)
    x = np.random.default_rng(1).integers(limits.min, limits.max, (3, 1000), dtype, endpoint=True)
    x[:, :2] = limits.min, limits.max
    (found,) = run(x, nl.sort)
    np.testing.assert_array_equal(found, np.sort(x, -1))


@pytest.mark.parametrize("dtype", [np.int8, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("length", [20, 777])
def test_argsort_is_stable(dtype: type, length: int) -> None:
    x = np.random.default_rng(2).integers(0, 5, (4, length)).astype(dtype)
    (up,) = run(x, nl.argsort)
    np.testing.assert_array_equal(up, np.argsort(x, -1, kind="stable"))
    (down,) = run(x, lambda p: nl.argsort(p, descending=True, dtype=nl.int64))
    assert down.dtype == np.int64
    np.testing.assert_array_equal(down, np.argsort(-x.astype(np.int64), -1, kind="stable"))


def test_zeros_of_both_signs_are_equal() -> None:
    x = np.array([[0.0, -0.0, 0.0, -0.0, -1.0]], np.float32)
    (order,) = run(x, nl.argsort)
    np.testing.assert_array_equal(order, [[4, 0, 1, 2, 3]])


def test_sort_along_other_axes() -> None:
    x = normal(6, 50, 7)
    (found,) = run(x, lambda p: nl.sort(p, 1))
    np.testing.assert_array_equal(found, np.sort(x, 1))
    (flat,) = run(x, lambda p: nl.sort(p, None))
    np.testing.assert_array_equal(flat, np.sort(x, None))


def test_gradient_of_a_sort_returns_to_its_place() -> None:
    graph = nl.Graph()
    x = graph.placeholder((None, 50), nl.float32)
    weights = graph.constant(np.arange(50, dtype=np.float32))
    (g,) = graph.gradients(nl.sum(nl.sort(x) * weights), [x]).values()
    data = normal(3, 50)
    found = np.asarray(graph.run({x: data}, [g], device="cpu")[g])
    np.testing.assert_array_equal(found, np.argsort(np.argsort(data, -1), -1))


# --- choosing


@pytest.mark.parametrize("k", [1, 5, 64, 500])
@pytest.mark.parametrize("largest", [True, False])
def test_top_k_of_long_rows(k: int, largest: bool) -> None:
    x = normal(6, 3000, seed=k)
    x[0] = 1.0  # all reach the bound
    x[1] = np.sort(x[1])
    x[2] = np.sort(x[2])[::-1]
    x[3, 100:120] = np.nan
    values, places = run(x, lambda p: nl.top_k(p, k, largest=largest))
    order = np.argsort(-x if largest else x, -1, kind="stable")
    if largest:  # NaN first
        order[3] = np.argsort(np.where(np.isnan(x[3]), -np.inf, -x[3]), kind="stable")
    np.testing.assert_array_equal(places, order[:, :k])
    np.testing.assert_array_equal(values, np.take_along_axis(x, order[:, :k], -1))


def hard_rows(n: int, dtype: Any) -> np.ndarray:
    """Rows whose best elements lie where the groups of a first bound do not tell them apart."""
    m = np.arange(n)
    rows = [
        m % 2,  # many equal ones
        np.where(m % 64 < 3, 1000 + m // 64, m % 50),  # all of the best in a few groups
        np.where(m < n - 7, 0, 5),
        np.where(m % 64 == 5, 100 - m % 7, 0),
        -(m % 64) * 3 + (m // 64) % 3,
    ]
    return np.stack(rows).astype(dtype)


def hard_cases() -> list[tuple[str, int, Any]]:
    """(device, length, dtype); long rows on the CPU, where they take no time."""
    sizes, kinds = (3000, 20_000, 65_536), (np.float32, np.int32, np.int64, np.uint8)
    found = [("cpu", n, t) for n in sizes for t in kinds]
    others = [d for d in nl.available_devices() if d not in ("cpu", "null")]
    return found + [(d, 3000, t) for d in others for t in (np.float32, np.int64)]


@pytest.mark.parametrize(("device", "n", "dtype"), hard_cases())
def test_top_k_of_hard_rows(device: str, n: int, dtype: Any) -> None:
    x = hard_rows(n, dtype)
    for k, largest in ((10, True), (70, False)):
        values, places = run(x, partial(nl.top_k, k=k, largest=largest), device)
        wide = x.astype(np.float64)
        order = np.argsort(-wide if largest else wide, -1, kind="stable")[:, :k]
        np.testing.assert_array_equal(places, order)
        np.testing.assert_array_equal(values, np.take_along_axis(x, order, -1))


def test_top_k_of_one_very_long_row() -> None:
    """It is divided into parts where its length has a fitting divisor."""
    for n in (1 << 18, 3 * 70_000, 100_003):
        x = np.round(normal(2, n, seed=n) * 50)
        values, places = run(x, lambda p: nl.top_k(p, 12))
        order = np.argsort(-x, -1, kind="stable")[:, :12]
        np.testing.assert_array_equal(places, order)
        np.testing.assert_array_equal(values, np.take_along_axis(x, order, -1))


def test_bottom_k_along_an_axis() -> None:
    x = normal(300, 5)
    values, places = run(x, lambda p: nl.bottom_k(p, 3, 0, dtype=nl.int64))
    assert places.dtype == np.int64
    np.testing.assert_array_equal(values, np.sort(x, 0)[:3])


def test_positions_alone() -> None:
    """An output that nobody asks for has a place all the same."""
    x = normal(4, 100)
    (places,) = run(x, lambda p: nl.top_k(p, 2)[1] + 1)
    np.testing.assert_array_equal(places, np.argsort(-x, -1)[:, :2] + 1)


def test_what_cannot_be_chosen() -> None:
    graph = nl.Graph()
    x = graph.placeholder((3, 4), nl.float32)
    with pytest.raises(ShapeError, match="fewer than k = 5"):
        nl.top_k(x, 5)
    with pytest.raises(AttributeValueError, match="must not be negative"):
        nl.top_k(x, -1)
    with pytest.raises(DTypeError):
        nl.top_k(x, 2, dtype=nl.float32)
    with pytest.raises(ShapeError, match="no elements"):
        nl.median(graph.placeholder((3, 0), nl.float32), 1)
    with pytest.raises(AttributeValueError, match="between 0 and 1"):
        nl.quantile(x, 1.5, 1)


# --- statistics


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_median_and_quantiles(axis: int | None, keepdims: bool) -> None:
    x = normal(33, 40)
    (middle,) = run(x, lambda p: nl.median(p, axis, keepdims))
    np.testing.assert_allclose(middle, np.median(x, axis, keepdims=keepdims), rtol=1e-6)
    (several,) = run(x, lambda p: nl.quantile(p, (0.0, 0.1, 0.77, 1.0), axis, keepdims))
    want = np.quantile(x, [0.0, 0.1, 0.77, 1.0], axis, keepdims=keepdims)
    np.testing.assert_allclose(several, want, rtol=1e-5, atol=1e-6)


def test_gradient_of_a_median() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, None), nl.float32)
    (g,) = graph.gradients(nl.sum(nl.median(x, 1) * 3.0), [x]).values()
    data = np.array([[5, 1, 4, 2], [1, 2, 3, 9]], np.float32)
    found = np.asarray(graph.run({x: data}, [g], device="cpu")[g])
    np.testing.assert_array_equal(found, [[0, 0, 1.5, 1.5], [0, 1.5, 1.5, 0]])


@pytest.mark.parametrize("length", [5, 1000])
def test_mode(length: int) -> None:
    x = np.random.default_rng(3).integers(-3, 4, (20, length)).astype(np.int32)
    values, counts = run(x, lambda p: nl.mode(p, -1))
    for row, value, count in zip(x, values, counts, strict=True):
        found, often = np.unique(row, return_counts=True)
        assert (value, count) == (found[often.argmax()], often.max())


# --- running results


@pytest.mark.parametrize("shape", [(3, 5000), (5000, 3), (700, 8), (2, 300, 77)])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("exclusive", [False, True])
def test_running_sums_wrap(shape: tuple[int, ...], axis: int, exclusive: bool) -> None:
    x = np.random.default_rng(4).integers(-100, 100, shape).astype(np.int8)
    (found,) = run(x, lambda p: nl.cumulative_sum(p, axis=axis, exclusive=exclusive))
    want = np.cumsum(x, axis, dtype=np.int8)
    np.testing.assert_array_equal(found, want - x if exclusive else want)


def test_truth_values_are_counted() -> None:
    x = np.random.default_rng(5).integers(0, 2, (3, 400)).astype(bool)
    (found,) = run(x, lambda p: nl.cumsum(p, axis=1))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.cumsum(x, 1))
    (flat,) = run(x, nl.cumsum)
    np.testing.assert_array_equal(flat, np.cumsum(x))


def test_log_sums_of_wide_spans() -> None:
    """Neither overflow nor the loss of what is small beside what comes later."""
    x = np.concatenate([np.linspace(-500, 500, 301), np.full(50, -np.inf), [3.0]])[None]
    (found,) = run(x.astype(np.float32), lambda p: nl.logcumsumexp(p, axis=1))
    np.testing.assert_allclose(found, np.logaddexp.accumulate(x, 1), rtol=2e-6, atol=3e-7)
    first = np.full((1, 20), -np.inf, np.float32)
    (nothing,) = run(first, lambda p: nl.logcumsumexp(p, axis=1))
    np.testing.assert_array_equal(nothing, first)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradient_of_products_with_zeros(exclusive: bool, reverse: bool) -> None:
    data = np.array([[2.0, 0.0, 3.0, 0.0, 4.0], [1.0, 2.0, 0.0, 3.0, 5.0]])
    weights = np.arange(1.0, 11.0).reshape(2, 5)

    def value(x: np.ndarray) -> float:
        y = np.cumprod(x[:, ::-1] if reverse else x, 1)
        if exclusive:
            y = np.concatenate([np.ones((2, 1)), y[:, :-1]], 1)
        return float((weights * (y[:, ::-1] if reverse else y)).sum())

    graph = nl.Graph()
    x = graph.placeholder((2, 5), nl.float64)
    y = nl.cumprod(x, axis=1, exclusive=exclusive, reverse=reverse)
    (g,) = graph.gradients(nl.sum(y * graph.constant(weights)), [x]).values()
    found = np.asarray(graph.run({x: data}, [g], device="cpu")[g])
    for at in np.ndindex(2, 5):
        step = np.zeros((2, 5))
        step[at] = 0.5  # the value is linear in each element
        np.testing.assert_allclose(found[at], value(data + step) - value(data - step), rtol=1e-12)


def test_a_long_recurrence() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.uniform(-1, 1, (2, 3, 1000)).astype(np.float32)
    graph = nl.Graph()
    p, q = graph.placeholder((3, 1000), nl.float32), graph.placeholder((3, 1000), nl.float32)
    y = nl.linear_recurrence(p, q, axis=1)
    twice = nl.linear_recurrence(p, p, axis=1)
    found = graph.run({p: a, q: b}, [y, twice], device="cpu")
    for result, second in ((found[y], b), (found[twice], a)):
        h, want = np.zeros(3), np.empty((3, 1000))
        for i in range(1000):
            h = a[:, i].astype(np.float64) * h + second[:, i]
            want[:, i] = h
        np.testing.assert_allclose(np.asarray(result), want, rtol=1e-4, atol=1e-5)


# --- how routines are scheduled


def test_a_routine_stands_alone() -> None:
    """What is before and after it is computed by kernels of their own."""
    graph = nl.Graph()
    x = graph.placeholder((40, 30), nl.float32)
    y = nl.exp(nl.cumsum(nl.transpose(x) * 2.0, axis=1)) + 1.0
    exe = graph.compile({x: x.type}, [y], device="cpu")
    assert exe.kernel_count == 3
    assert "scan" in exe.as_text("kernels")
    data = normal(40, 30)
    want = np.exp(np.cumsum(data.T * 2, 1)) + 1
    np.testing.assert_allclose(np.asarray(exe.run([data])[0]), want, rtol=1e-4)


def test_a_routine_of_a_constant_and_of_a_view() -> None:
    graph = nl.Graph()
    x = graph.placeholder((6, 4), nl.float32)
    ones = graph.constant(1.0, nl.float32, shape=(6, 4))
    forgets = nl.linear_recurrence(ones, x, axis=0)
    view = nl.cumsum(x[::-1], axis=0)
    data = normal(6, 4)
    found = graph.run({x: data}, [forgets, view], device="cpu")
    np.testing.assert_allclose(np.asarray(found[forgets]), np.cumsum(data, 0), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(found[view]), np.cumsum(data[::-1], 0), rtol=1e-5)


def test_a_routine_into_a_variable() -> None:
    """The old value is read before the new one is written in its place."""
    graph = nl.Graph()
    v = graph.variable(np.arange(1, 9, dtype=np.float32), name="v")
    step = v.assign(nl.cumsum(v, axis=0))
    other = v.assign(nl.sort(nl.cumsum(graph.constant(np.ones(8, np.float32)), axis=0)))
    graph.run(target_operations=[step], device="cpu")
    np.testing.assert_array_equal(np.asarray(v.value), np.cumsum(np.arange(1, 9)))
    graph.run(target_operations=[other], device="cpu")
    np.testing.assert_array_equal(np.asarray(v.value), np.arange(1, 9))


def test_equal_routines_are_rendered_once() -> None:
    graph = nl.Graph()
    x = graph.placeholder((5, 64), nl.float32)
    y = nl.cumsum(nl.cumsum(nl.cumsum(x, axis=1), axis=1), axis=1)
    exe = graph.compile({x: x.type}, [y], device="cpu")
    assert len(exe.program.kernels) == 1
    data = normal(5, 64)
    want = np.cumsum(np.cumsum(np.cumsum(data, 1), 1), 1)
    np.testing.assert_allclose(np.asarray(exe.run([data])[0]), want, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_routines_in_loops_and_branches(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((4, 20), nl.float32)
    times = nl.for_(3, x, lambda i, y: nl.cumsum(y, axis=1) * 0.5)
    either = nl.if_(nl.sum(x) > 0.0, lambda: nl.sort(x), lambda: nl.sort(x, descending=True))
    data = np.abs(normal(4, 20))
    found = graph.run({x: data}, [times, either], device=device)
    want = data
    for _ in range(3):
        want = np.cumsum(want, 1) * 0.5
    np.testing.assert_allclose(np.asarray(found[times]), want, rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(found[either]), np.sort(data, 1))
    (other,) = graph.run({x: -data}, [either], device=device).values()
    np.testing.assert_array_equal(np.asarray(other), np.sort(-data, 1)[:, ::-1])


def test_a_saved_routine(tmp_path: Path) -> None:
    graph = nl.Graph()
    x = graph.placeholder((5, 100), nl.float32)
    exe = graph.compile({x: x.type}, [nl.median(x, 1), nl.cumprod(x, axis=0)], device="cpu")
    exe.save(tmp_path / "order.niello")
    data = normal(5, 100)
    middle, product = nl.load(tmp_path / "order.niello", device="cpu").run([data])
    np.testing.assert_allclose(np.asarray(middle), np.median(data, 1), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(product), np.cumprod(data, 0), rtol=1e-5)
