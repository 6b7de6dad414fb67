"""Functions composed of other operations, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, GraphError, ShapeError

A = np.arange(24, dtype=np.float32).reshape(4, 6)


def run(y: Any, feeds: Any = None) -> np.ndarray:
    return np.asarray(y.graph.run(feeds or {}, [y])[y])


def given(array: np.ndarray = A) -> tuple[Any, dict[Any, np.ndarray]]:
    x = nl.Graph().placeholder(array.shape, array.dtype)
    return x, {x: array}


def test_concat_interleaved() -> None:
    x, feeds = given()
    y = nl.concat([x, x + 100.0], 1, interleave=True)
    expected = np.stack([A, A + 100], 2).reshape(4, 12)
    assert np.array_equal(run(y, feeds), expected)
    assert np.array_equal(run(nl.concat([x, x + 100.0], -1, interleave=True), feeds), expected)
    with pytest.raises(ShapeError):
        nl.concat([x, x[:, :3]], 1, interleave=True)


def test_padding_by_other_names() -> None:
    x, feeds = given()
    for ours, numpy in (("circular", "wrap"), ("replicate", "edge"), ("zero", "constant")):
        y = nl.pad(x, [(1, 2), (3, 0)], mode=ours)
        assert np.array_equal(run(y, feeds), np.pad(A, [(1, 2), (3, 0)], mode=numpy))


def test_antiperiodic_padding_changes_the_sign_along_each_axis() -> None:
    a = np.array([[1, 2], [3, 4]], np.float32)
    x, feeds = given(a)
    y = nl.pad(x, 1, mode="antiperiodic")
    expected = [[4, -3, -4, 3], [-2, 1, 2, -1], [-4, 3, 4, -3], [2, -1, -2, 1]]
    assert run(y, feeds).tolist() == expected
    g = x.graph.gradients(y.sum(), [x])[x]
    assert run(g, feeds).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(DTypeError):
        nl.pad(x.cast(nl.uint8), 1, mode="antiperiodic")


def test_slices_with_masks() -> None:
    x, feeds = given()
    y = nl.strided_slice(x, [3, 1], [0, 9], [-1, 2], end_mask=1)
    assert np.array_equal(run(y, feeds), A[3::-1, 1:9:2])
    y = nl.strided_slice(x, [-1, 2], [0, 0], squeeze_mask=1, end_mask=2)
    assert np.array_equal(run(y, feeds), A[-1, 2:])
    y = nl.strided_slice(x, [5, 0], [2, 2], start_mask=1)
    assert np.array_equal(run(y, feeds), A[:2, 0:2])
    y = nl.strided_slice_update(x, np.zeros(3, np.float32), [1, 1], [0, 6], [1, 2], squeeze_mask=1)
    expected = A.copy()
    expected[1, 1:6:2] = 0
    assert np.array_equal(run(y, feeds), expected)
    assert np.array_equal(run(nl.narrow(x, 1, -2, 2), feeds), A[:, -2:])
    with pytest.raises(AttributeValueError, match="differ in number"):
        nl.strided_slice(x, [0], [1, 2])


def test_space_and_batch_and_back() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 5, 7, 3)).astype(np.float32)
    x, feeds = given(a)
    paddings = [(1, 0), (0, 1)]
    y = nl.space_to_batch(x, (2, 2), paddings=paddings)
    found = run(y, feeds)
    padded = np.pad(a, [(0, 0), *paddings, (0, 0)])
    expected = padded.reshape(2, 3, 2, 4, 2, 3).transpose(2, 4, 0, 1, 3, 5).reshape(8, 3, 4, 3)
    assert np.array_equal(found, expected)
    back = nl.batch_to_space(y, (2, 2), crops=paddings)
    assert np.array_equal(run(back, feeds), a)


def test_pixel_shuffle_order() -> None:
    a = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)
    x, feeds = given(a)
    shuffled = run(nl.pixel_shuffle(x, 2), feeds)
    assert shuffled.tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]
    assert np.array_equal(run(nl.pixel_unshuffle(nl.pixel_shuffle(x, 2), 2), feeds), a)
    depth = run(nl.depth_to_space(x, 2), feeds)
    assert depth.tolist() == [[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]]
    last, feeds = given(a.reshape(1, 1, 1, 8))
    assert run(nl.depth_to_space(last, 2, layout="NHWC"), feeds)[0, 0, 1].tolist() == [2, 3]


def test_diagonals() -> None:
    x, feeds = given()
    for offset in (-2, 0, 3):
        assert np.array_equal(run(nl.diag(x, offset), feeds), np.diag(A, offset))
        assert np.array_equal(run(nl.tril(x, offset), feeds), np.tril(A, offset))
        assert np.array_equal(run(nl.triu(x, offset), feeds), np.triu(A, offset))
        assert run(nl.trace(x, offset), feeds) == np.trace(A, offset)
    v, feeds = given(A[0, :3])
    assert np.array_equal(run(nl.diag(v, 1), feeds), np.diag(A[0, :3], 1))
    b, feeds = given()
    assert np.array_equal(run(nl.band_part(b, 1, 0), feeds), np.tril(np.triu(A, -1)))


def test_roll_and_repeat() -> None:
    x, feeds = given()
    assert np.array_equal(run(nl.roll(x, 5), feeds), np.roll(A, 5))
    assert np.array_equal(run(nl.roll(x, (1, -2), (0, 1)), feeds), np.roll(A, (1, -2), (0, 1)))
    assert np.array_equal(run(nl.repeat(x, 3), feeds), np.repeat(A, 3))
    counts = [0, 2, 1, 3]
    assert np.array_equal(run(nl.repeat(x, counts, 0), feeds), np.repeat(A, counts, 0))
    with pytest.raises(AttributeValueError, match="number for each of 4"):
        nl.repeat(x, [1, 2], 0)


def test_creation() -> None:
    g = nl.Graph()
    assert np.array_equal(run(nl.arange(1, 9, 3, graph=g)), np.arange(1, 9, 3))
    assert np.allclose(run(nl.arange(0.0, 1.0, 0.25, graph=g)), np.arange(0, 1, 0.25))
    assert np.allclose(run(nl.linspace(0, 1, 5, graph=g)), np.linspace(0, 1, 5))
    assert np.array_equal(run(nl.eye(2, 4, offset=1, graph=g)), np.eye(2, 4, 1))
    assert run(nl.full((2, 2), 7, graph=g)).tolist() == [[7, 7], [7, 7]]
    x, _ = given()
    assert np.array_equal(run(nl.full_like(x, 2)), np.full_like(A, 2))
    assert run(nl.coordinate((2, 3), 1, graph=g)).tolist() == [[0, 1, 2], [0, 1, 2]]
    with pytest.raises(GraphError, match="needs the graph"):
        nl.arange(3)


def test_coordinate_of_a_tensor_of_unknown_size() -> None:
    x = nl.Graph().placeholder((None, 3))
    y = nl.coordinate(x, 0, dtype=nl.float32)
    assert y.shape == (None, 3)
    assert run(y, {x: np.zeros((2, 3), np.float32)}).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_meshgrid() -> None:
    x, feeds = given(A[0])
    y = x.graph.constant(np.arange(3, dtype=np.float32))
    for indexing in ("xy", "ij"):
        found = nl.meshgrid(x, y, indexing=indexing)
        expected = np.meshgrid(A[0], np.arange(3, dtype=np.float32), indexing=indexing)
        for f, e in zip(found, expected, strict=True):
            assert np.array_equal(run(f, feeds), e)


def test_windows_placed_at_run_time() -> None:
    graph = nl.Graph()
    x, i = graph.placeholder(A.shape), graph.placeholder((), nl.int32)
    y = nl.dynamic_slice(x, [i, 0], (2, -1))
    for start, first in ((1, 1), (-1, 2), (9, 2), (-9, 0)):
        found = run(y, {x: A, i: np.array(start, np.int32)})
        assert np.array_equal(found, A[first : first + 2])
    z = nl.dynamic_update_slice(x, np.zeros((1, 6), np.float32), [i, 0])
    found = run(z, {x: A, i: np.array(2, np.int32)})
    assert found[2].tolist() == [0] * 6 and np.array_equal(found[[0, 1, 3]], A[[0, 1, 3]])


def test_a_cache_is_written_in_place() -> None:
    """The row that a decoder adds to its cache is all that the kernel has to write."""
    graph = nl.Graph()
    cache = graph.variable(np.zeros((6, 4), np.float32), name="cache")
    at, row = graph.placeholder((), nl.int32), graph.placeholder((1, 4))
    step = cache.assign(nl.dynamic_update_slice(cache, row, [at, 0]))
    for n in range(6):
        feeds = {at: np.array(n, np.int32), row: np.full((1, 4), n + 1, np.float32)}
        graph.run(feeds, [], [step])
    assert cache.value[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
