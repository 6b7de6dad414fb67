"""Results whose size depends on values, and searching, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, ShapeError


def run(found: Any, feeds: dict[Any, np.ndarray]) -> list[np.ndarray]:
    listed = list(found) if isinstance(found, (tuple, list)) else [found]
    made = listed[0].graph.run(feeds, listed)
    return [np.asarray(made[t]) for t in listed]


def case(shape: tuple[int, ...], dtype: Any = np.float32) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.integers(-2, 3, shape).astype(dtype)
    return nl.Graph().placeholder(shape, dtype), a


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), ()])
def test_non_zero(shape: tuple[int, ...]) -> None:
    x, a = case(shape)
    indices, count = run(nl.non_zero(x), {x: a})
    expected = np.argwhere(a)
    assert count == len(expected)
    assert np.array_equal(indices[: int(count)], expected)
    assert (indices[int(count) :] == -1).all()


def test_non_zero_with_a_size() -> None:
    x, a = case((40, 50))
    indices, count = run(nl.non_zero(x, size=100, fill=7), {x: a})
    assert count == np.count_nonzero(a)
    assert np.array_equal(indices, np.argwhere(a)[:100])
    (total,) = run(nl.count_non_zero(x, 0), {x: a})
    assert np.array_equal(total, np.count_nonzero(a, 0))
    none, count = run(nl.non_zero(x, size=3, fill=7), {x: a * 0})
    assert count == 0 and (none == 7).all()


def test_masked_select_and_its_gradient() -> None:
    x, a = case((4, 6))
    found = nl.masked_select(x, x > 0, fill=-9.0)
    values, count = run(found, {x: a})
    assert np.array_equal(values[: int(count)], a[a > 0])
    assert (values[int(count) :] == -9).all()
    weights = np.arange(24, dtype=np.float32)
    g = x.graph.gradients((found.values * weights).sum(), [x])[x]
    expected = np.zeros((4, 6), np.float32)
    expected[a > 0] = weights[: int(count)]
    assert np.array_equal(run(g, {x: a})[0], expected)


def test_masked_select_broadcasts_and_takes_unknown_sizes() -> None:
    graph = nl.Graph()
    x, m = graph.placeholder((None, 3)), graph.placeholder((3,), nl.bool_)
    values, count = run(
        nl.masked_select(x, m, size=5),
        {x: np.arange(6, dtype=np.float32).reshape(2, 3), m: np.array([True, False, True])},
    )
    assert count == 4 and values.tolist() == [0, 2, 3, 5, 0]


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.uint8])
@pytest.mark.parametrize("shape", [(1,), (200,), (5, 31)])
def test_unique(shape: tuple[int, ...], dtype: Any) -> None:
    x, a = case(shape, np.int32)
    a = np.abs(a).astype(dtype)
    x = nl.Graph().placeholder(shape, dtype)
    values, first, inverse, counts, count = run(nl.unique(x), {x: a})
    expected = np.unique(a, return_index=True, return_inverse=True, return_counts=True)
    n = int(count)
    assert n == len(expected[0])
    assert np.array_equal(values[:n], expected[0])
    assert np.array_equal(first[:n], expected[1])
    assert np.array_equal(inverse, expected[2].reshape(shape))
    assert np.array_equal(counts[:n], expected[3])
    assert (values[n:] == a.min()).all() and (first[n:] == -1).all() and (counts[n:] == 0).all()


def test_unique_with_a_size_and_nan() -> None:
    a = np.array([2.0, np.nan, 1.0, np.nan, 2.0, 3.0], np.float32)
    x = nl.Graph().placeholder(a.shape)
    values, _, inverse, counts, count = run(nl.unique(x, size=6, fill=0.0), {x: a})
    assert count == 4
    assert np.array_equal(values, np.array([1, 2, 3, np.nan, 0, 0], np.float32), equal_nan=True)
    assert inverse.tolist() == [1, 3, 0, 3, 1, 2] and counts.tolist() == [1, 2, 1, 2, 0, 0]
    values, *_, count = run(nl.unique(x, size=2), {x: a})
    assert values.tolist() == [1, 2] and count == 4


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 1000])
def test_searchsorted(side: Any, size: int) -> None:
    rng = np.random.default_rng(size)
    line = np.sort(rng.integers(0, size, size)).astype(np.float32)
    values = rng.integers(-1, size + 1, (30, 4)).astype(np.float32)
    x = nl.Graph().placeholder(values.shape)
    (found,) = run(nl.searchsorted(line, x, side=side), {x: values})
    assert np.array_equal(found, np.searchsorted(line, values, side))
    (buckets,) = run(nl.bucketize(x, line, right=side == "right"), {x: values})
    assert np.array_equal(buckets, found)


def test_histogram_as_numpy() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=500).astype(np.float32)
    a[:3] = [-1.0, 1.0, np.nan]
    w = rng.uniform(size=500).astype(np.float32)
    x = nl.Graph().placeholder(a.shape)
    counts, edges = run(nl.histogram(x, 8, (-1.0, 1.0)), {x: a})
    expected, bounds = np.histogram(a, 8, (-1, 1))
    assert np.array_equal(counts, expected) and np.allclose(edges, bounds)
    sums, _ = run(nl.histogram(x, [-2.0, 0.0, 0.5, 2.0], weights=w), {x: a})
    assert np.allclose(sums, np.histogram(a, [-2, 0, 0.5, 2], weights=w)[0], rtol=1e-5)
    density, _ = run(nl.histogram(x, 8, (-1.0, 1.0), density=True), {x: a})
    assert np.allclose(density, np.histogram(a, 8, (-1, 1), density=True)[0], rtol=1e-5)
    rest = a[3:]
    y = nl.Graph().placeholder(rest.shape)
    counts, edges = run(nl.histogram(y, 5), {y: rest})
    assert counts.sum() == rest.size
    assert np.allclose(edges, np.histogram(rest, 5)[1], rtol=1e-5)


def test_bincount() -> None:
    a = np.array([3, 1, 1, -2, 9, 0], np.int32)
    x = nl.Graph().placeholder(a.shape, nl.int32)
    assert run(nl.bincount(x, 4), {x: a})[0].tolist() == [1, 2, 0, 1]
    w = np.arange(6, dtype=np.float32)
    assert run(nl.bincount(x, 4, weights=w), {x: a})[0].tolist() == [5, 3, 0, 0]
    small = nl.Graph().placeholder((3,), nl.uint8)
    given = {small: np.array([255, 1, 1], np.uint8)}
    assert run(nl.bincount(small, 300), given)[0][[1, 255]].tolist() == [2, 1]


@pytest.mark.parametrize("count", [3, 100])
def test_isin(count: int) -> None:
    rng = np.random.default_rng(count)
    a = rng.integers(0, 300, (20, 5)).astype(np.int32)
    values = rng.integers(0, 300, count).astype(np.int32)
    x = nl.Graph().placeholder(a.shape, nl.int32)
    assert np.array_equal(run(nl.isin(x, values), {x: a})[0], np.isin(a, values))
    inverted = run(nl.isin(x, values, invert=True), {x: a})[0]
    assert np.array_equal(inverted, ~np.isin(a, values))


def test_refusals() -> None:
    x = nl.Graph().placeholder((3, None))
    with pytest.raises(ShapeError, match="known size"):
        nl.unique(x)
    with pytest.raises(AttributeValueError, match="must not be negative"):
        nl.non_zero(x, size=-1)
    with pytest.raises(AttributeValueError, match="'left' or 'right'"):
        nl.searchsorted([0.0], x, side="middle")
    with pytest.raises(DTypeError):
        nl.bincount(x, 4)
    with pytest.raises(AttributeValueError, match="smaller to a larger"):
        nl.histogram(x, 4, (1.0, 0.0))
