"""The product of a matrix in compressed rows and a dense one: each row of the result is made at
once, its columns being the lanes of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from niello.core.dtypes import NUMBERS, DType, compute_dtype, int64
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, real, register, sample
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.define import check_dtype, half_as_float32

ROWS = 16  # of a team


@register
@dataclass(frozen=True)
class SparseRows(Op):
    """Inputs: values, columns, row starts, dense [columns, n]."""

    rows: int
    name: ClassVar[str] = "sparse_rows"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "The product [rows, n] of a matrix in compressed rows and a dense one [columns, n]; "
        "entries whose column is outside count for nothing."
    )
    grad = not_differentiable("sparse_matmul, which it is made for, has the gradient")

    def infer(
        self, values: TensorType, columns: TensorType, starts: TensorType, dense: TensorType
    ) -> TensorType:
        check_dtype(self.name, values.dtype, self.dtypes)
        check_dtype(self.name, dense.dtype, (values.dtype,))
        width = None if dense.shape is None else dense.shape[1]
        return TensorType((self.rows, width), values.dtype)

    def reference(self, *arrays: np.ndarray) -> np.ndarray:
        values, columns, starts, dense = arrays
        line = np.searchsorted(starts[1:], np.arange(len(values)), side="right")
        there = (line < self.rows) & (columns >= 0) & (columns < len(dense))

        def product(v: np.ndarray, d: np.ndarray) -> np.ndarray:
            found = np.zeros((self.rows, d.shape[1]), d.dtype)
            np.add.at(found, line[there], v[there, None] * d[columns[there]])
            return found

        found = half_as_float32(product, [values, dense])
        return np.asarray(found).astype(values.dtype, copy=False)

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        values, columns, starts, dense = inputs
        (y,) = r.outputs
        count, (height, width) = values.elements, dense.shape
        if not self.rows * width:
            return
        first = r.teams(-(-self.rows // ROWS)) * ROWS
        r.members(min(256, max(32, 1 << (width - 1).bit_length())))
        kind = compute_dtype(values.dtype)
        with r.loop(0, r.min(r.index(ROWS), self.rows - first)) as line:
            row = first + line
            # Starts are data: nothing outside of the entries may be read.
            ends = [
                r.max(r.min(r.cast(r.read(starts, row + d), int64), r.index(count)), r.index(0))
                for d in (0, 1)
            ]
            with r.spread(width) as lane:
                total = r.variable(kind, 0)
                if count and height:
                    with r.loop(*ends) as e:
                        column = r.cast(r.read(columns, e), int64)
                        inside = (column >= 0) & (column < height)
                        safe = r.max(r.min(column, r.index(height - 1)), r.index(0))
                        term = r.read(values, e) * r.read(dense, safe * width + lane)
                        total.set(total.get() + r.where(inside, term, r.const(0, kind)))
                r.write(y, row * width + lane, total.get())

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        columns = np.array([1, 4, 0, 2, -1, 1, 9], np.int32)
        starts = np.array([0, 2, 2, 5, 6], np.int32)
        long = np.arange(40, dtype=np.int64) * 7 % 5
        return [
            sample(real(7), columns, starts, real(5, 9), rows=4, tolerance=4),
            sample(real(40), long, np.arange(0, 41, 2), real(5, 17), rows=20, tolerance=4),
            sample(real(0), columns[:0], starts[:1] * np.ones(3, np.int32), real(3, 2), rows=2),
            sample(real(7), columns, starts, real(0, 2), rows=4),
            sample(real(7), columns, starts, real(5, 0), rows=4),
        ]
