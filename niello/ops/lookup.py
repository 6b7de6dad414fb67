"""Palettes: tensors whose elements are numbers of entries in lookup tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType, int64, uint4, uint8
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import normalise_axis, show
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, ScatterSpec, Value
from niello.kernel.ir import Expr, const
from niello.ops.define import check_dtype, graph_of

INDICES = (uint8, uint4)
Gradients = tuple[Tensor | None, ...]
Tensors = tuple[Tensor, ...]


@register
@frozen
class DequantizeLut(Op):
    """See the function `dequantize_lut`. Inputs: numbers of entries, tables."""

    axis: int | None = None
    name: ClassVar[str] = "dequantize_lut"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Entries of lookup tables by uint4 or uint8 numbers; a vector for each number with an axis."
    )

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        g, (q, table) = gradients[0], inputs
        assert g is not None
        return (None, g.graph.apply(LutGradient(self.axis), g, q, table))  # type: ignore[return-value]

    def infer(self, q: TensorType, table: TensorType) -> TensorType:
        check_dtype(self.name, q.dtype, INDICES)
        check_dtype(self.name, table.dtype, self.dtypes)
        if q.shape is None or table.shape is None:
            return TensorType(None, table.dtype)
        extra = 1 if self.axis is None else 2
        if len(table.shape) != len(q.shape) + extra:
            raise ShapeError(
                self.name,
                f"tables must have the dimensions of the tensor and {extra} more",
                received=f"{show(table.shape)} for {show(q.shape)}",
                advice="Use groups of size 1 where one table serves all",
            )
        entries = table.shape[len(q.shape)]
        if entries is not None and entries != 1 << q.dtype.bits:
            raise ShapeError(
                self.name,
                f"a table has an entry for each value of {q.dtype.name}, {1 << q.dtype.bits}",
                received=show(table.shape),
                advice="Pad the table",
            )
        for n, groups in zip(q.shape, table.shape, strict=False):
            if n is not None and groups is not None and (groups == 0 or n % groups):
                raise ShapeError(
                    self.name,
                    f"{groups} groups do not divide {n} places",
                    received=f"{show(table.shape)} for {show(q.shape)}",
                    advice="Group sizes must divide those of the tensor",
                )
        if self.axis is None:
            return TensorType(q.shape, table.dtype)
        at = normalise_axis(self.axis, len(q.shape), self.name)
        size, width = q.shape[at], table.shape[-1]
        made = None if size is None or width is None else size * width
        return TensorType((*q.shape[:at], made, *q.shape[at + 1 :]), table.dtype)

    def reference(self, q: np.ndarray, table: np.ndarray) -> np.ndarray:
        places = np.indices(q.shape)
        groups = [p // (n // t) for p, n, t in zip(places, q.shape, table.shape, strict=False)]
        found = table[(*groups, q.astype(np.int64))]
        if self.axis is None:
            return found
        at = normalise_axis(self.axis, q.ndim, self.name)
        moved = np.moveaxis(found, -1, at + 1)
        size = q.shape[at] * table.shape[-1]
        return moved.reshape(*q.shape[:at], size, *q.shape[at + 1 :])

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        q, table = inputs
        return table(*entry(k, self.axis, index, q, table.shape))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        rng = np.random.default_rng(9)
        bytes_ = rng.integers(0, 256, (4, 6)).astype(np.uint8)
        halves = rng.integers(0, 16, (4, 6)).astype(uint4.numpy)
        return [
            sample(bytes_, real(1, 1, 256)),
            sample(halves, real(2, 3, 16)),
            sample(halves, real(4, 1, 16, 2), axis=1),
            sample(halves, real(1, 2, 16, 3), axis=0),
            sample(halves[:0], real(1, 1, 16, 3), axis=-1),
        ]


def entry(
    k: Builder, axis: int | None, index: Index, q: Value, table: tuple[int, ...]
) -> tuple[Any, ...]:
    """Where in the tables the element at `index` of the result stands."""
    place = list(index)
    inner: tuple[Expr, ...] = ()
    if axis is not None:
        at = normalise_axis(axis, len(q.shape), "dequantize_lut")
        inner = (index[at] % table[-1],)
        place[at] = index[at] // table[-1]
    number = k.cast(q(*place), int64)
    groups = [i // (n // t) for i, n, t in zip(place, q.shape, table, strict=False)]
    return (*groups, number, *inner)


@register
@frozen
class LutGradient(Op):
    """Inputs: the gradient of the result, numbers of entries, tables (for their shape only)."""

    axis: int | None = None
    name: ClassVar[str] = "lut_gradient"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Adds up, for each entry of lookup tables, the gradients where it was used."
    )

    def infer(self, g: TensorType, q: TensorType, table: TensorType) -> TensorType:
        check_dtype(self.name, g.dtype, self.dtypes)
        check_dtype(self.name, q.dtype, INDICES)
        return TensorType(table.shape, g.dtype)

    def reference(self, g: np.ndarray, q: np.ndarray, table: np.ndarray) -> np.ndarray:
        numbers = np.arange(table.size).reshape(table.shape)
        at = DequantizeLut(self.axis).reference(q, numbers)
        total = np.zeros(table.size, np.float64)
        np.add.at(total, at, g.astype(np.float64))
        return total.reshape(table.shape).astype(g.dtype)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        h, q = gradients[0], inputs[1]
        assert h is not None
        return (h.graph.apply(DequantizeLut(self.axis), q, h), None, None)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        g, q, table = inputs

        def part(*r: Expr) -> Expr:
            spots = entry(k, self.axis, r, q, table.shape)
            mine = k.all_of(*(a.eq(b) for a, b in zip(map(as_expr, spots), index, strict=True)))
            return k.where(mine, g(*r), 0)

        return k.reduce("add", g.shape, part)

    def scatter(self, k: Builder, *inputs: Value) -> ScatterSpec:
        g, q, table = inputs
        return ScatterSpec(
            extents=g.shape,
            target=lambda *r: entry(k, self.axis, r, q, table.shape),
            inside=lambda *r: k.all_of(),
            value=lambda *r: g(*r),
        )

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for s in DequantizeLut.samples():
            q, table = s.inputs
            axis = s.attributes.get("axis")
            types = TensorType(q.shape, q.dtype), TensorType(table.shape)
            shape = DequantizeLut(axis).infer(*types).static_shape
            found.append(sample(real(*shape), q, table, axis=axis))
        rng = np.random.default_rng(10)
        q = rng.integers(0, 256, (40, 30)).astype(np.uint8)
        found.append(sample(real(40, 30), q, real(2, 1, 256), grad=False))
        return found


def as_expr(index: Any) -> Expr:
    return index if isinstance(index, Expr) else const(index, int64)


@opdef.function
def dequantize_lut(
    q: Any, table: Any, *, axis: int | None = None, name: str | None = None
) -> Tensor:
    """Entries of lookup tables (palettes) by number.

    `q` holds uint4 or uint8 numbers; `table` is [groups..., 16 or 256], a number of groups for each
    axis of q that divides its size (1: one table for the whole axis). With `axis` the table is
    [groups..., entries, width] and each number gives a vector of `width` values along that axis.
    Differentiable in the tables. Raises ShapeError for tables that do not fit.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> packed = graph.placeholder((64, 16), nl.uint8)
        >>> table = graph.placeholder((64, 1, 16))  # one for each row
        >>> nl.dequantize_lut(packed.unpack_int4(signed=False), table).shape
        (64, 32)
    """
    graph = graph_of("dequantize_lut", q, table)
    numbers, entries = graph.as_tensor(q), graph.as_tensor(table)
    return graph.apply(DequantizeLut(axis), numbers, entries, name=name)  # type: ignore[return-value]
