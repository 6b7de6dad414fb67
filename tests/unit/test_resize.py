"""Resizing and sampling against published values and plain formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, ShapeError


def run(y: Any, feeds: dict[Any, np.ndarray]) -> np.ndarray:
    return np.asarray(y.graph.run(feeds, [y])[y])


def resized(a: np.ndarray, **options: Any) -> np.ndarray:
    x = nl.Graph().placeholder(a.shape, a.dtype)
    return run(nl.resize(x, axes=range(a.ndim), **options), {x: a})


SMALL = np.array([[1, 2], [3, 4]], np.float32)
GRID = np.arange(1, 17, dtype=np.float32).reshape(4, 4)


def test_linear_as_the_onnx_examples_have_it() -> None:
    """resize_upsample_scales_linear and its relatives in ONNX's operator documentation."""
    expected = [
        [1.0, 1.25, 1.75, 2.0],
        [1.5, 1.75, 2.25, 2.5],
        [2.5, 2.75, 3.25, 3.5],
        [3.0, 3.25, 3.75, 4.0],
    ]
    assert np.allclose(resized(SMALL, scale=2, mode="linear"), expected)
    corners = resized(SMALL, scale=2, mode="linear", coordinates="align_corners")
    assert np.allclose(corners[0], [1, 4 / 3, 5 / 3, 2])
    row = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    by_scale = resized(row, scale=0.6, mode="linear", coordinates="align_corners_by_scale")
    assert np.allclose(by_scale, [[1.0, 3.142857]])
    half = resized(row, scale=0.6, mode="linear")
    assert np.allclose(half, [[2.6666665, 4.3333331]])


def test_cubic_as_the_onnx_examples_have_it() -> None:
    found = resized(GRID, scale=2, mode="cubic")
    expected = [0.47265625, 0.76953125, 1.24609375, 1.875, 2.28125, 2.91015625, 3.38671875]
    assert np.allclose(found[0, :7], expected)
    left_out = resized(GRID, scale=2, mode="cubic", cubic=-0.5, exclude_outside=True)
    assert np.allclose(left_out[0, :3], [0.55882353, 0.81494204, 1.35698249])


def test_antialias_as_the_onnx_examples_have_it() -> None:
    """resize_downsample_scales_linear_antialias: the kernel is widened, edges repeat."""
    found = resized(GRID, scale=0.6, mode="linear", antialias=True, exclude_outside=False)
    assert np.allclose(found, [[2.875, 4.5], [9.375, 11.0]])
    cubic = resized(GRID, scale=0.6, mode="cubic", antialias=True, exclude_outside=False)
    assert np.allclose(cubic, [[2.5180721, 4.2858863], [9.589329, 11.357142]])


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("round_prefer_floor", [0, 1, 2]),
        ("round_prefer_ceil", [1, 2, 3]),
        ("floor", [0, 1, 2]),
        ("ceil", [1, 2, 3]),
        ("round_to_even", [0, 2, 2]),
        ("round_to_odd", [1, 1, 3]),
    ],
)
def test_ties_of_nearest(rounding: str, expected: list[int]) -> None:
    """Positions 0.5, 1.5 and 2.5 of 0, 1, 2, 3."""
    a = np.arange(4, dtype=np.int32)
    options = {"mode": "nearest", "coordinates": "explicit", "rounding": rounding}
    assert resized(a, size=3, scale=1.0, offset=-0.5, **options).tolist() == expected


def test_area_is_the_mean_of_what_is_covered() -> None:
    assert np.allclose(resized(GRID, size=(2, 2), mode="area"), [[3.5, 5.5], [11.5, 13.5]])
    a = np.arange(5, dtype=np.float32)
    assert np.allclose(resized(a, size=2, mode="area"), [1.0, 3.0])


def test_sizes_unknown_until_the_run() -> None:
    graph = nl.Graph()
    x = graph.placeholder((None, None, 3))
    y = nl.resize(x, scale=(2.0, 0.5), mode="linear", axes=(0, 1))
    assert y.shape == (None, None, 3)
    assert run(y, {x: np.ones((3, 4, 3), np.float32)}).shape == (6, 2, 3)
    kept = nl.resize(x, (6, 6), mode="linear", axes=(0, 1), policy="not_larger")
    assert run(kept, {x: np.ones((3, 2, 3), np.float32)}).shape == (6, 4, 3)


def test_refusals() -> None:
    x = nl.Graph().placeholder((1, 2, 4, 4))
    with pytest.raises(AttributeValueError, match="needs a size or a scale"):
        nl.resize(x)
    with pytest.raises(AttributeValueError, match="no such mode"):
        nl.resize(x, 2, mode="lanczos")
    with pytest.raises(AttributeValueError, match="positive"):
        nl.resize(x, scale=-1.0)
    with pytest.raises(DTypeError):
        nl.resize(x.cast(nl.int32), 2, mode="linear")
    with pytest.raises(ShapeError, match="batch of images"):
        nl.resize(nl.Graph().placeholder((4, 4)), 2)
    with pytest.raises(AttributeValueError, match="no such padding"):
        nl.grid_sample(x, np.zeros((1, 1, 1, 2), np.float32), padding="mirror")
    with pytest.raises(ShapeError, match="coordinates"):
        nl.grid_sample(x, np.zeros((1, 1, 1, 3), np.float32))


def test_an_identity_grid_is_the_image() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    graph = nl.Graph()
    x = graph.placeholder(a.shape)
    same = np.tile(np.array([[[1, 0, 0], [0, 1, 0]]], np.float32), (2, 1, 1))
    for align in (False, True):
        grid = nl.affine_grid(graph.constant(same), a.shape, align_corners=align)
        for mode in ("nearest", "linear", "cubic"):
            y = nl.grid_sample(x, grid, mode=mode, align_corners=align)
            assert np.allclose(run(y, {x: a}), a, atol=1e-5)
    still = nl.grid_sample(x, np.zeros((2, 4, 5, 2), np.float32), relative=True)
    assert np.allclose(run(still, {x: a}), a)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ("zeros", [0, 0, 1, 3, 0, 0]),
        ("constant", [9, 9, 1, 3, 9, 9]),
        ("border", [1, 1, 1, 3, 3, 3]),
        ("reflect", [3, 2, 1, 3, 2, 1]),
        ("symmetric", [2, 1, 1, 3, 3, 2]),
    ],
)
def test_paddings(padding: str, expected: list[float]) -> None:
    graph = nl.Graph()
    x = graph.constant(np.array([1, 2, 3], np.float32).reshape(1, 1, 1, 3))
    places = np.array([-2, -1, 0, 2, 3, 4], np.float32)
    grid = np.stack([places, np.zeros(6, np.float32)], -1).reshape(1, 1, 6, 2)
    y = nl.grid_sample(x, grid, mode="nearest", padding=padding, value=9.0, normalised=False)
    assert run(y, {}).ravel().tolist() == expected
