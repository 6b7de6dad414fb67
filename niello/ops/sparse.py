"""Sparse matrices as a few tensors: coordinates (COO), compressed rows (CSR) and columns (CSC).

A matrix is the tensors `values`, `first`, `second` and a shape:

    "coo"   values[n], rows[n], columns[n]
    "csr"   values[n], columns[n], row starts[rows + 1]
    "csc"   values[n], rows[n], column starts[columns + 1]

The number n of entries is fixed; entries that are not needed lie outside of the matrix (COO) or
behind the last start, and count for nothing. Entries at one place add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import NUMBERS, DType, int32, int64
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, functions, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.coordinate import Coordinate
from niello.ops.define import check_dtype, half_as_float32
from niello.ops.indexing import gather
from niello.ops.movement import apply
from niello.ops.scatter import scatter, scatter_nd
from niello.ops.search import SearchSorted
from niello.ops.sparse_rows import SparseRows

LANES = 8  # columns that are worth a vector
FORMATS = ("coo", "csr", "csc")
TRANSPOSED = {"coo": "coo", "csr": "csc", "csc": "csr"}


@dataclass(frozen=True)
class Entries:
    """What the ops share: the format and the sizes of the matrix."""

    format: str
    rows: int
    columns: int

    def check(self, asked: str, values: TensorType, *indices: TensorType) -> None:
        """Refuse tensors that are not such a matrix."""
        check_dtype(asked, values.dtype, NUMBERS)
        starts = {"coo": None, "csr": self.rows + 1, "csc": self.columns + 1}[self.format]
        count = None if values.shape is None else values.shape[0] if len(values.shape) == 1 else -1
        for name, t, size in zip(
            ("values", "the first indices", "the second indices"),
            (values, *indices),
            (count, count, count if starts is None else starts),
            strict=True,
        ):
            if t is not values:
                check_dtype(asked, t.dtype, (int32, int64))
            if t.shape is None:
                continue
            if len(t.shape) != 1 or (None not in (t.shape[0], size) and t.shape[0] != size):
                raise ShapeError(
                    asked,
                    f"{name} of a {self.format} matrix [{self.rows}, {self.columns}] do not fit",
                    received=show(t.shape),
                    advice="values and indices are vectors of one length; starts have one more "
                    "element than there are rows (csr) or columns (csc)",
                )

    def places(self, values: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of the entries; those that do not count are outside of the matrix."""
        if self.format == "coo":
            return self._inside(first, self.rows), self._inside(second, self.columns)
        count = values.type.elements
        numbers = values.graph.apply(Coordinate((count,), 0, second.dtype))
        # Entry e belongs to the line whose start is the last one not behind e.
        line = apply(SearchSorted(True, int32), second[1:], numbers)
        if self.format == "csr":
            return line, self._inside(first, self.columns)
        return self._inside(first, self.rows), line

    def _inside(self, index: Tensor, size: int) -> Tensor:
        """Indices, negative ones (which would count from the end) as the size."""
        return functions()["where"](index < 0, size, index)  # type: ignore[no-any-return]

    def numpy_places(
        self, count: int, first: np.ndarray, second: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns, and which entries count."""
        if self.format == "coo":
            rows, columns = first, second
        else:
            line = np.searchsorted(second[1:], np.arange(count), side="right")
            rows, columns = (line, first) if self.format == "csr" else (first, line)
        there = (rows >= 0) & (rows < self.rows) & (columns >= 0) & (columns < self.columns)
        return rows, columns, there

    def dense(self, values: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """NumPy: the matrix."""
        rows, columns, there = self.numpy_places(len(values), first, second)
        found = np.zeros((self.rows, self.columns), values.dtype)
        np.add.at(found, (rows[there], columns[there]), values[there])
        return found

    @property
    def transposed(self) -> Entries:
        """Of the transposed matrix with the same tensors (COO: with the indices exchanged)."""
        return Entries(TRANSPOSED[self.format], self.columns, self.rows)


def exchanged(entries: Entries, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The index tensors of the transposed matrix."""
    return (second, first) if entries.format == "coo" else (first, second)


class SparseOp(Op):
    """Base of ops on the tensors of a sparse matrix."""

    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    format: str
    rows: int
    columns: int

    @property
    def entries(self) -> Entries:
        return Entries(self.format, self.rows, self.columns)


@register
@dataclass(frozen=True)
class SparseToDense(SparseOp):
    format: str
    rows: int
    columns: int
    name: ClassVar[str] = "sparse_to_dense"
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "The matrix [rows, columns] of values and indices in the format coo, csr or csc; entries "
        "at one place add up, those outside count for nothing."
    )

    def infer(self, values: TensorType, first: TensorType, second: TensorType) -> TensorType:
        self.entries.check(self.name, values, first, second)
        return TensorType((self.rows, self.columns), values.dtype)

    def reference(self, values: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        found = half_as_float32(lambda v: self.entries.dense(v, first, second), [values])
        return np.asarray(found).astype(values.dtype, copy=False)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        g = gradients[0]
        assert g is not None
        return [apply(SparsePick(self.format, self.rows, self.columns), g, *inputs), None, None]

    def decompose(self, *inputs: Tensor) -> Tensor:
        places = functions()["stack"](self.entries.places(*inputs), -1)
        return scatter_nd((self.rows, self.columns), places, inputs[0], mode="add")

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(real(len(first) if count is None else count), first, second, **settings)
                for count, first, second, settings in matrices()]  # fmt: skip


@register
@dataclass(frozen=True)
class SparsePick(SparseOp):
    """The second input, the values of the matrix, serves for its shape."""

    format: str
    rows: int
    columns: int
    name: ClassVar[str] = "sparse_pick"
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "The elements of a matrix [rows, columns] at the places of a sparse one; zero for entries "
        "outside. The transpose of sparse_to_dense."
    )

    def infer(
        self, x: TensorType, values: TensorType, first: TensorType, second: TensorType
    ) -> TensorType:
        self.entries.check(self.name, values, first, second)
        return TensorType(values.shape, x.dtype)

    def reference(
        self, x: np.ndarray, values: np.ndarray, first: np.ndarray, second: np.ndarray
    ) -> np.ndarray:
        rows, columns, there = self.entries.numpy_places(len(values), first, second)
        found = np.zeros(len(values), x.dtype)
        found[there] = x[rows[there], columns[there]]
        return found

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        back = SparseToDense(self.format, self.rows, self.columns)
        assert gradients[0] is not None
        return [apply(back, gradients[0], *inputs[2:]), None, None, None]

    def decompose(self, *inputs: Tensor) -> Tensor:
        x, values, first, second = inputs
        places = functions()["stack"](self.entries.places(values, first, second), -1)
        return functions()["gather_nd"](x, places)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for count, first, second, settings in matrices():
            shape = (settings["rows"], settings["columns"])
            number = len(first) if count is None else count
            found.append(sample(real(*shape), real(number), first, second, **settings))
        return found


@register
@dataclass(frozen=True)
class SparseMatmul(SparseOp):
    """Inputs: values, first, second, dense."""

    format: str
    rows: int
    columns: int
    name: ClassVar[str] = "sparse_matmul"
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "The product [rows, n] of a sparse matrix [rows, columns] in the format coo, csr or csc "
        "and a dense one [columns, n]; half types accumulate in float32."
    )

    def infer(
        self, values: TensorType, first: TensorType, second: TensorType, dense: TensorType
    ) -> TensorType:
        self.entries.check(self.name, values, first, second)
        check_dtype(self.name, dense.dtype, (values.dtype,))
        if dense.shape is None:
            return TensorType((self.rows, None), values.dtype)
        if len(dense.shape) != 2 or dense.shape[0] not in (self.columns, None):
            raise ShapeError(
                self.name,
                f"the dense matrix must be [{self.columns}, n]",
                received=show(dense.shape),
                advice="Transpose it, or check the order",
            )
        return TensorType((self.rows, dense.shape[1]), values.dtype)

    def reference(
        self, values: np.ndarray, first: np.ndarray, second: np.ndarray, dense: np.ndarray
    ) -> np.ndarray:
        def product(v: np.ndarray, d: np.ndarray) -> np.ndarray:
            return self.entries.dense(v, first, second) @ d

        found = half_as_float32(product, [values, dense])
        return np.asarray(found).astype(values.dtype, copy=False)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        g, (values, first, second, dense) = gradients[0], inputs
        assert g is not None
        back = self.entries.transposed
        to_dense = SparseMatmul(back.format, back.rows, back.columns)
        indices = exchanged(self.entries, first, second)
        sampled = SparseSampled(self.format, self.rows, self.columns)
        return [
            apply(sampled, values, first, second, g, dense),
            None,
            None,
            apply(to_dense, values, *indices, g),
        ]

    def decompose(self, *inputs: Tensor) -> Tensor:
        values, first, second, dense = inputs
        if self.format == "csr" and dense.type.static_shape[1] >= LANES:
            return apply(SparseRows(self.rows), values, first, second, dense)
        rows, columns = self.entries.places(values, first, second)
        parts = gather(dense, columns, 0) * values.expand_dims(-1)
        shape = (self.rows, dense.type.static_shape[1])
        return scatter(shape, rows, parts, 0, mode="add")

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for count, first, second, settings in matrices():
            number = len(first) if count is None else count
            found.append(
                sample(
                    real(number), first, second, real(settings["columns"], 3), tolerance=4,
                    **settings,
                )
            )  # fmt: skip
        return found


@register
@dataclass(frozen=True)
class SparseSampled(SparseOp):
    """Inputs: values (for their shape), first, second, a [rows, n], b [columns, n]."""

    format: str
    rows: int
    columns: int
    name: ClassVar[str] = "sparse_sampled"
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "The product of a [rows, n] and the transpose of b [columns, n] at the places of a sparse "
        "matrix [rows, columns] only."
    )

    def infer(
        self,
        values: TensorType,
        first: TensorType,
        second: TensorType,
        a: TensorType,
        b: TensorType,
    ) -> TensorType:
        self.entries.check(self.name, values, first, second)
        check_dtype(self.name, b.dtype, (a.dtype,))
        return TensorType(values.shape, a.dtype)

    def reference(self, *arrays: np.ndarray) -> np.ndarray:
        values, first, second, a, b = arrays
        rows, columns, there = self.entries.numpy_places(len(values), first, second)

        def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            found = np.zeros(len(values), a.dtype)
            found[there] = (a[rows[there]] * b[columns[there]]).sum(-1)
            return found

        return np.asarray(half_as_float32(product, [a, b])).astype(a.dtype, copy=False)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        g, (_, first, second, a, b) = gradients[0], inputs
        assert g is not None
        here, back = self.entries, self.entries.transposed
        indices = exchanged(here, first, second)
        return [
            None,
            None,
            None,
            apply(SparseMatmul(here.format, here.rows, here.columns), g, first, second, b),
            apply(SparseMatmul(back.format, back.rows, back.columns), g, *indices, a),
        ]

    def decompose(self, *inputs: Tensor) -> Tensor:
        values, first, second, a, b = inputs
        rows, columns = self.entries.places(values, first, second)
        return (gather(a, rows, 0) * gather(b, columns, 0)).sum(-1)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for count, first, second, settings in matrices():
            number = len(first) if count is None else count
            found.append(
                sample(
                    real(number), first, second, real(settings["rows"], 3),
                    real(settings["columns"], 3), tolerance=4, **settings,
                )
            )  # fmt: skip
        return found


def matrices() -> list[tuple[int | None, np.ndarray, np.ndarray, dict[str, Any]]]:
    """(number of entries, first, second, attributes): every format, repeated places, an empty row,
    entries that do not count."""

    def index(*values: int, kind: Any = np.int32) -> np.ndarray:
        return np.array(values, kind)

    def settings(name: str, rows: int, columns: int) -> dict[str, Any]:
        return {"format": name, "rows": rows, "columns": columns}

    return [
        (None, index(0, 2, 2, 3, -1, 4), index(1, 0, 0, 4, 0, 0), settings("coo", 4, 5)),
        (None, index(0, 3, 2), index(1, 2, 0, kind=np.int64), settings("coo", 4, 3)),
        (None, index(1, 4, 0, 2, 3, 1), index(0, 2, 2, 5), settings("csr", 3, 5)),
        (None, index(1, 2, 0, 2, 3), index(0, 2, 2, 5), settings("csc", 4, 3)),
        (None, index(), index(0, 0, 0), settings("csr", 2, 3)),
    ]


def as_format(asked: str, value: Any) -> str:
    """One of FORMATS. Raises AttributeValueError."""
    if value not in FORMATS:
        raise AttributeValueError(
            asked,
            "unknown sparse format",
            received=repr(value),
            advice=f"Use one of {', '.join(FORMATS)}",
        )
    return str(value)
