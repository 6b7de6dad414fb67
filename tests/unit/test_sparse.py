"""Sparse matrices against SciPy: formats, products, gradients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, ShapeError

FORMATS = ("coo", "csr", "csc")


def random_matrix(rows: int, columns: int, density: float = 0.2) -> np.ndarray:
    generator = np.random.default_rng(rows)
    kept = generator.random((rows, columns)) < density
    return np.where(kept, generator.standard_normal((rows, columns)), 0).astype(np.float32)


def given(name: str, dense: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What SciPy holds for a matrix in a format."""
    found = sparse.csr_matrix(dense).asformat(name)
    if name == "coo":
        return found.data, found.row, found.col
    return found.data, found.indices, found.indptr


def run(*tensors: nl.Tensor, **feeds) -> list[np.ndarray]:
    graph = tensors[0].graph
    found = graph.run(targets=list(tensors), **feeds)
    return [found[t].numpy() for t in tensors]


@pytest.mark.parametrize("name", FORMATS)
def test_products_with_dense(name: str) -> None:
    dense = random_matrix(30, 41)
    graph = nl.Graph()
    a = nl.sparse_tensor(*given(name, dense), dense.shape, format=name, graph=graph)
    right, left = random_matrix(41, 9, 1.0), random_matrix(5, 30, 1.0)
    y, z, whole, turned = run(
        a @ graph.constant(right),
        nl.sparse_matmul(left, a),
        a.to_dense(),
        a.transpose().to_dense(),
    )
    np.testing.assert_allclose(y, dense @ right, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(z, left @ dense, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(whole, dense)
    np.testing.assert_array_equal(turned, dense.T)


@pytest.mark.parametrize("name", FORMATS)
def test_from_dense(name: str) -> None:
    dense = random_matrix(9, 6)
    graph = nl.Graph()
    x = graph.placeholder(dense.shape)
    count = int(np.count_nonzero(dense))
    a = nl.sparse_from_dense(x, count + 3, format=name)
    back, values, first, second = run(a.to_dense(), *a.tensors, feeds={x: dense})
    np.testing.assert_array_equal(back, dense)
    expected = given(name, dense)
    np.testing.assert_array_equal(values[:count], expected[0])
    np.testing.assert_array_equal(first[:count], expected[1])
    length = count if name == "coo" else len(expected[2])
    np.testing.assert_array_equal(second[:length], expected[2])
    fewer = nl.sparse_from_dense(x, 2).to_dense()
    assert np.count_nonzero(run(fewer, feeds={x: dense})[0]) == 2


@pytest.mark.parametrize("name", FORMATS)
def test_padding_does_not_touch_the_dense_matrix(name: str) -> None:
    """An entry that does not count must not bring in 0 times infinity."""
    graph = nl.Graph()
    a = nl.sparse_from_dense(graph.constant(np.diag([1.0, 0.0]).astype(np.float32)), 3, format=name)
    (y,) = run(a @ graph.constant([[2.0], [np.inf]]))
    assert y.tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize("name", FORMATS)
def test_gradients(name: str) -> None:
    dense, right = random_matrix(8, 6, 0.4), random_matrix(6, 3, 1.0)
    weights = random_matrix(8, 3, 1.0)
    data, first, second = given(name, dense)
    graph = nl.Graph()
    values, b = graph.placeholder(data.shape), graph.placeholder(right.shape)
    a = nl.sparse_tensor(values, first, second, dense.shape, format=name)
    loss = ((a @ b) * weights).sum()
    slopes = graph.gradients(loss, [values, b])
    at, bt = run(slopes[values], slopes[b], feeds={values: data, b: right})
    whole = weights @ right.T
    np.testing.assert_allclose(at, given(name, np.where(dense != 0, whole, 0))[0], rtol=1e-4)
    np.testing.assert_allclose(bt, dense.T @ weights, rtol=1e-4, atol=1e-5)


def test_refusals() -> None:
    graph = nl.Graph()
    values = graph.placeholder((3,))
    with pytest.raises(AttributeValueError, match="'bsr'"):
        nl.sparse_tensor(values, [0, 0, 0], [0, 1, 2], (2, 3), format="bsr")
    with pytest.raises(ShapeError, match="do not fit"):
        nl.sparse_tensor(values, [0, 0], [0, 1], (2, 3))
    with pytest.raises(ShapeError, match="do not fit"):
        nl.sparse_tensor(values, [0, 0, 0], [0, 1, 2], (4, 3), format="csr")
    with pytest.raises(DTypeError, match="float32"):
        nl.sparse_tensor(values, graph.placeholder((3,)), [0, 1, 2], (2, 3))
    a = nl.sparse_tensor(values, [0, 0, 0], [0, 1, 2], (2, 3))
    with pytest.raises(ShapeError, match="must be \\[3, n\\]"):
        nl.sparse_matmul(a, graph.placeholder((2, 3)))
    with pytest.raises(AttributeValueError, match="one sparse and one dense"):
        nl.sparse_matmul(a, a)
    with pytest.raises(ShapeError, match="known size"):
        nl.sparse_from_dense(graph.placeholder((None, 3)), 4)
