"""Sparse matrices for users: the record, and the functions that take and make it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from niello.core.dtypes import int32
from niello.core.errors import AttributeValueError, ShapeError
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import function, functions, plain_function
from niello.graph.tensor import Tensor
from niello.ops.coordinate import Coordinate
from niello.ops.define import graph_of, operands
from niello.ops.indexing import gather
from niello.ops.movement import apply, integer, integers, tensor_of
from niello.ops.search import SearchSorted
from niello.ops.select import where
from niello.ops.sparse import TRANSPOSED, SparseMatmul, SparseToDense, as_format


@dataclass(frozen=True)
class SparseTensor:
    """A matrix by its entries: values and two index tensors, in one of three formats.

    "coo": `first` are rows and `second` columns; "csr": columns, and the row starts (one more than
    there are rows); "csc": rows, and the column starts. Made by `sparse_tensor` or
    `sparse_from_dense`; `a @ dense` and `dense @ a` multiply.
    """

    format: str
    shape: tuple[int, int]
    values: Tensor
    first: Tensor
    second: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Values and indices, as the operations take them."""
        return self.values, self.first, self.second

    def to_dense(self, *, name: str | None = None) -> Tensor:
        """The matrix as a tensor; see `sparse_to_dense`."""
        return sparse_to_dense(self, name=name)

    def transpose(self) -> SparseTensor:
        """The transposed matrix, of the same tensors: a csr matrix becomes a csc one."""
        first, second = self.first, self.second
        if self.format == "coo":
            first, second = second, first
        rows, columns = self.shape
        return SparseTensor(TRANSPOSED[self.format], (columns, rows), self.values, first, second)

    def with_values(self, values: Tensor) -> SparseTensor:
        """Other values at the same places."""
        return SparseTensor(self.format, self.shape, values, self.first, self.second)

    def __matmul__(self, dense: Any) -> Tensor:
        return sparse_matmul(self, dense)

    def __rmatmul__(self, dense: Any) -> Tensor:
        return sparse_matmul(dense, self)


@plain_function
def sparse_tensor(
    values: Any,
    first: Any,
    second: Any,
    shape: Sequence[int],
    *,
    format: str = "coo",
    graph: GraphDefinition | None = None,
) -> SparseTensor:
    """A sparse matrix of `shape` (rows, columns) from its values and indices.

    "coo": `first` holds the row and `second` the column of each value; "csr": the column of each
    value, and the rows + 1 places where rows start among them; "csc": the rows, and where columns
    start. Arrays become constants of the graph of the tensors among them, or of `graph`. Entries
    at one place add up; entries outside of the matrix, or behind the last start, count for nothing.
    Raises ShapeError, DTypeError and AttributeValueError for what does not fit.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> a = nl.sparse_tensor(g.placeholder((3,)), [0, 1, 1], [2, 0, 3], (2, 4))
        >>> (a @ g.placeholder((4, 8))).shape
        (2, 8)
    """
    asked = "sparse_tensor"
    chosen = as_format(asked, format)
    sizes = integers(asked, shape, "a size")
    if len(sizes) != 2 or min(sizes) < 0:
        raise AttributeValueError(asked, "the shape is (rows, columns)", received=repr(shape))
    home = graph_of(asked, values, first, second) if graph is None else graph
    numbers = home.as_tensor(values)
    places = [_indices(home, i) for i in (first, second)]
    SparseToDense(chosen, *sizes).infer(numbers.type, *(i.type for i in places))
    return SparseTensor(chosen, sizes, numbers, *places)


def _indices(graph: GraphDefinition, value: Any) -> Tensor:
    """Indices as a tensor; lists are int32."""
    return value if isinstance(value, Tensor) else graph.as_tensor(value, dtype=int32)


def _sparse(asked: str, value: Any) -> SparseTensor:
    if not isinstance(value, SparseTensor):
        raise AttributeValueError(
            asked,
            "needs a sparse matrix",
            received=type(value).__name__,
            advice="Make one with sparse_tensor or sparse_from_dense",
        )
    return value


@plain_function
def sparse_to_dense(a: SparseTensor, *, name: str | None = None) -> Tensor:
    """A sparse matrix as a tensor; entries at one place add up. Differentiable in the values.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> x = nl.sparse_to_dense(nl.sparse_tensor([2.0, 3.0], [0, 1], [1, 0], (2, 2), graph=g))
        >>> g.run(targets=[x])[x].numpy().tolist()
        [[0.0, 2.0], [3.0, 0.0]]
    """
    found = _sparse("sparse_to_dense", a)
    return apply(SparseToDense(found.format, *found.shape), *found.tensors, name=name)


@function
def sparse_from_dense(x: Tensor, number: int, *, format: str = "coo") -> SparseTensor:
    """The first `number` non-zero elements of a matrix of known size, as a sparse one.

    Their order is row-major (column-major for "csc"). With fewer non-zeros the rest of the entries
    count for nothing; those beyond `number` are lost, so choose it large enough. Differentiable.
    Raises ShapeError for what is not a matrix of known size.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> a = nl.sparse_from_dense(g.constant([[0.0, 5.0], [7.0, 0.0]]), 3, format="csr")
        >>> g.run(targets=[a.second])[a.second].numpy().tolist()
        [0, 1, 2]
    """
    asked = "sparse_from_dense"
    chosen = as_format(asked, format)
    count = integer(asked, number, "the number of entries")
    if count < 0:
        raise AttributeValueError(
            asked, "the number of entries must not be negative", received=count
        )
    if not tensor_of(asked, x).type.is_static or x.rank != 2:
        raise ShapeError(asked, "needs a matrix of known size", received=str(x.type))
    rows, columns = x.type.static_shape
    if chosen == "csc":
        found = sparse_from_dense(x.transpose((1, 0)), count, format="csr")
        return found.transpose()
    places, _ = functions()["non_zero"](x, size=count)
    row, column = places[:, 0], places[:, 1]
    there = row >= 0
    flat = where(there, row * columns + column, 0)
    # Negative indices would count from the end; those behind it are dropped.
    outside, beyond = where(there, row, rows), where(there, column, columns)
    zero = x.graph.constant(0, x.dtype)
    values = where(there, gather(x.reshape((-1,)), flat), zero)
    if chosen == "coo":
        return SparseTensor("coo", (rows, columns), values, outside, beyond)
    lines: Any = x.graph.apply(Coordinate((rows + 1,), 0, int32))
    starts = apply(SearchSorted(False, int32), outside, lines)
    return SparseTensor("csr", (rows, columns), values, beyond, starts)


@plain_function
def sparse_matmul(a: Any, b: Any, *, name: str | None = None) -> Tensor:
    """The product of a sparse and a dense matrix, in either order; the result is dense.

    Differentiable in the values of the sparse matrix and in the dense one. The dense matrix has two
    dimensions. Raises ShapeError for inner sizes that differ, DTypeError for different dtypes, and
    AttributeValueError unless just one of the two is a SparseTensor.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> a = nl.sparse_tensor([2.0, 3.0], [0, 1], [1, 0], (2, 2), graph=g)
        >>> y = nl.sparse_matmul(a, g.constant([[1.0], [10.0]]))
        >>> g.run(targets=[y])[y].numpy().tolist()
        [[20.0], [3.0]]
    """
    asked = "sparse_matmul"
    if isinstance(a, SparseTensor) == isinstance(b, SparseTensor):
        raise AttributeValueError(
            asked,
            "needs one sparse and one dense matrix",
            received=f"{type(a).__name__} and {type(b).__name__}",
            advice="Turn one of them into a dense one with sparse_to_dense, or use matmul",
        )
    if isinstance(b, SparseTensor):
        swap = functions()["swap_axes"]
        dense = b.values.graph.as_tensor(a)
        if dense.rank != 2:
            raise ShapeError(asked, "the dense matrix must be a matrix", received=str(dense.type))
        found = swap(sparse_matmul(b.transpose(), swap(dense, 0, 1)), 0, 1)
        return found if name is None else functions()["identity"](found, name=name)  # type: ignore[no-any-return]
    values, dense = operands(asked, a.values, b)
    op = SparseMatmul(a.format, *a.shape)
    return apply(op, values, a.first, a.second, dense, name=name)
