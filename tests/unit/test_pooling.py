"""Pooling functions against windows cut out by hand, over one to four axes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.graph.evaluate import evaluate

RNG = np.random.default_rng(2)
SHAPES = {1: (2, 3, 9), 2: (2, 3, 8, 7), 3: (1, 2, 5, 6, 4), 4: (3, 4, 3, 5)}
COUNTS = pytest.mark.parametrize("count", [1, 2, 3, 4])


def call(name: str, x: np.ndarray, *args: Any, **options: Any) -> list[np.ndarray]:
    graph = nl.Graph()
    t = graph.placeholder(x.shape, x.dtype)
    made = getattr(nl, name)(t, *args, **options)
    return evaluate(list(made) if isinstance(made, tuple) else [made], {t: x})


def axes_of(count: int) -> tuple[int, ...]:
    return tuple(range(4)) if count == 4 else tuple(range(2, 2 + count))


def windows(
    x: np.ndarray, axes: tuple[int, ...], kernel: int, stride: int, dilation: int, pad: int
) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """(output index, positions in x) of each window; positions in the padding are left out."""
    sizes = [x.shape[a] for a in axes]
    counts = [(n + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1 for n in sizes]
    outer = list(x.shape)
    for a, n in zip(axes, counts, strict=True):
        outer[a] = n
    for index in np.ndindex(*outer):
        spots = []
        for offset in itertools.product(range(kernel), repeat=len(axes)):
            at = list(index)
            for a, r in zip(axes, offset, strict=True):
                at[a] = index[a] * stride + r * dilation - pad
            if all(0 <= at[a] < x.shape[a] for a in axes):
                spots.append(tuple(at))
        yield index, spots


def pooled(
    x: np.ndarray, count: int, reduce: Callable[[np.ndarray], float], **k: int
) -> np.ndarray:
    found = {
        index: reduce(np.array([x[s] for s in spots]))
        for index, spots in windows(x, axes_of(count), **k)
    }
    shape = tuple(max(i[a] for i in found) + 1 for a in range(x.ndim))
    result = np.empty(shape)
    for index, value in found.items():
        result[index] = value
    return result


SETTINGS = {"kernel": 2, "stride": 2, "dilation": 1, "pad": 1}


@COUNTS
def test_values(count: int) -> None:
    x = RNG.normal(size=SHAPES[count])
    options = {"strides": 2, "padding": 1}
    (found,) = call(f"max_pool{count}d", x, 2, **options)
    np.testing.assert_array_equal(found, pooled(x, count, np.max, **SETTINGS))
    (found,) = call(f"average_pool{count}d", x, 2, **options)
    np.testing.assert_allclose(found, pooled(x, count, np.mean, **SETTINGS))
    (found,) = call(f"average_pool{count}d", x, 2, include_padding=True, **options)
    np.testing.assert_allclose(found, pooled(x, count, np.sum, **SETTINGS) / 2**count)
    (found,) = call(f"average_pool{count}d", x, 2, divisor=3.0, **options)
    np.testing.assert_allclose(found, pooled(x, count, np.sum, **SETTINGS) / 3)
    (found,) = call(f"lp_pool{count}d", x, 2, **options)
    np.testing.assert_allclose(found, pooled(x, count, np.linalg.norm, **SETTINGS))
    (found,) = call(f"lp_pool{count}d", x, 2, p=3.0, **options)
    cubes = pooled(x, count, lambda v: float((np.abs(v) ** 3).sum() ** (1 / 3)), **SETTINGS)
    np.testing.assert_allclose(found, cubes)


def flat(spot: tuple[int, ...], shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return int(np.ravel_multi_index([spot[a] for a in axes], [shape[a] for a in axes]))


@COUNTS
@pytest.mark.parametrize("mode", ["spatial", "tensor", "global_1d", "global_2d", "global_3d"])
def test_global_indices_name_the_maximum(count: int, mode: str) -> None:
    x = RNG.permutation(np.prod(SHAPES[count])).reshape(SHAPES[count]).astype(np.float32)
    _, found = call(
        f"max_pool{count}d", x, 2, strides=2, padding=1, return_indices=True, index_mode=mode
    )
    last = {"spatial": axes_of(count), "tensor": tuple(range(x.ndim))}
    axes = last.get(mode) or tuple(range(x.ndim))[-int(mode[-2]) :]
    for index, spots in windows(x, axes_of(count), **SETTINGS):
        best = max(spots, key=lambda s: x[s])
        assert found[index] == flat(best, x.shape, axes)


def test_local_indices_count_in_the_window() -> None:
    x = RNG.permutation(2 * 8 * 9).reshape(1, 2, 8, 9).astype(np.float32)
    two = call("max_pool2d", x, (2, 3), return_indices=True, index_mode="local_2d")[1]
    one = call("max_pool2d", x, (2, 3), return_indices=True, index_mode="local_1d")[1]
    blocks = x.reshape(1, 2, 4, 2, 3, 3).transpose(0, 1, 2, 4, 3, 5).reshape(1, 2, 4, 3, 6)
    np.testing.assert_array_equal(two, blocks.argmax(-1))
    np.testing.assert_array_equal(one, blocks.argmax(-1) % 3)


def test_indices_where_all_is_lowest() -> None:
    x = np.full((1, 1, 3, 3), -np.inf, np.float32)
    _, found = call("max_pool2d", x, 2, strides=2, padding=1, return_indices=True)
    assert found.tolist() == [[[[0, 1], [3, 4]]]]
    (bare,) = call("max_pool2d", np.full((1, 1, 2, 2), np.nan, np.float32), 2)
    assert np.isnan(bare).all()


@COUNTS
def test_gradients_by_recomputation_and_by_indices_agree(count: int) -> None:
    x = RNG.normal(size=SHAPES[count])
    graph = nl.Graph()
    t = graph.placeholder(x.shape, nl.float64)
    options: dict[str, Any] = {"strides": 1, "padding": "same"}
    pool = getattr(nl, f"max_pool{count}d")
    y, at = pool(t, 2, return_indices=True, index_mode="local_4d", **options)
    g = graph.constant(RNG.normal(size=y.shape))
    again = getattr(nl, f"max_pool{count}d_gradient")(g, t, 2, **options)
    sizes = tuple(x.shape[a] for a in axes_of(count))
    by_indices = getattr(nl, f"max_pool{count}d_gradient_by_indices")
    placed = by_indices(g, at, sizes, 2, index_mode="local_4d", **options)
    like = by_indices(g, at, t, 2, index_mode="local_4d", **options)
    wanted = graph.gradients(y, [t], seed=g)[t]
    first, *others = evaluate([wanted, again, placed, like], {t: x})
    assert np.count_nonzero(first)
    for other in others:
        np.testing.assert_allclose(other, first)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_unpooling_restores_what_was_largest(count: int) -> None:
    x = RNG.uniform(1, 2, size=(2, 3, *[6] * count)).astype(np.float32)
    for mode in ("spatial", "tensor"):
        graph = nl.Graph()
        t = graph.placeholder(x.shape)
        pool = getattr(nl, f"max_pool{count}d")
        values, at = pool(t, 2, return_indices=True, index_mode=mode)
        y = getattr(nl, f"max_unpool{count}d")(values, at, 2, index_mode=mode)
        back, kept = evaluate([y, values], {t: x})
        assert np.count_nonzero(back) == kept.size
        assert np.isclose(back.sum(), kept.sum()) and set(back[back > 0]) <= set(x.flat)


@pytest.mark.parametrize(("size", "output"), [(7, 3), (6, 2), (3, 5), (4, 4)])
def test_adaptive(size: int, output: int) -> None:
    x = RNG.normal(size=(2, 3, size, 5))
    bounds = [(o * size // output, -(-(o + 1) * size // output)) for o in range(output)]
    (mean,) = call("adaptive_average_pool2d", x, (output, None))
    expected = np.stack([x[:, :, a:b].mean(2) for a, b in bounds], 2)
    np.testing.assert_allclose(mean, expected)
    values, at = call("adaptive_max_pool2d", x, (output, 1), return_indices=True)
    expected = np.stack([x[:, :, a:b].max((2, 3)) for a, b in bounds], 2)[..., None]
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(
        np.take_along_axis(x.reshape(2, 3, -1), at.reshape(2, 3, -1), 2).reshape(at.shape), expected
    )


def test_channels_last_ceil_and_global() -> None:
    x = RNG.normal(size=(2, 3, 7, 7))
    (first,) = call("max_pool2d", x, 2, ceil_mode=True)
    (last,) = call("max_pool2d", np.moveaxis(x, 1, 3).copy(), 2, ceil_mode=True, data_layout="NHWC")
    assert first.shape == (2, 3, 4, 4)
    np.testing.assert_array_equal(np.moveaxis(last, 3, 1), first)
    (norm,) = call("global_lp_pool", x)
    np.testing.assert_allclose(norm[..., 0, 0], np.sqrt((x * x).sum((2, 3))))


def test_refusals() -> None:
    graph = nl.Graph()
    x = graph.placeholder((1, 2, 4, 4))
    with pytest.raises(ShapeError):
        nl.max_pool2d(x, 5)
    with pytest.raises(AttributeValueError):
        nl.max_pool2d(x, 2, return_indices=True, index_mode="flat")
    with pytest.raises(DTypeError):
        nl.max_pool2d(x, 2, return_indices=True, index_dtype=nl.int8)
    with pytest.raises(AttributeValueError):
        nl.lp_pool2d(x, 2, p=0.5)
    with pytest.raises(ShapeError):
        nl.max_pool3d(x, 2)
