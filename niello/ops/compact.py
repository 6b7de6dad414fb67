"""Results whose size depends on values: non_zero, masked_select, unique.

Niello compiles for sizes that are known. What these find is at the front of a result of a given
size (by default large enough for everything), the rest is filled, and a number says how much there
is: as in JAX with size= and fill_value=.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from niello.core.dtypes import ALL, DType, bool_, int32
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import row_major_strides
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    booleans,
    function,
    functions,
    not_differentiable,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.ops.concat import concat, stack
from niello.ops.coordinate import Coordinate
from niello.ops.define import as_operand, cast_to, check_dtype
from niello.ops.indexing import gather
from niello.ops.movement import apply, integer, tensor_of
from niello.ops.scatter import scatter
from niello.ops.search import SearchSorted
from niello.ops.select import where


@register
@frozen
class TruePositions(Op):
    size: int  # -1: as many as there are elements
    name: ClassVar[str] = "true_positions"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = (bool_,)
    doc: ClassVar[str] = (
        "Row-major positions of the true elements in order, filled up with -1 or cut off at a "
        "size, and how many there are."
    )
    grad = not_differentiable("positions do not vary continuously")

    def infer(self, mask: TensorType) -> tuple[TensorType, ...]:
        check_dtype(self.name, mask.dtype, self.dtypes)
        if mask.is_static and mask.elements >= 2**31:
            raise ShapeError(
                self.name,
                "positions do not fit an int32",
                received=str(mask),
                advice="Take the tensor in parts",
            )
        size = self.size if self.size >= 0 else mask.elements if mask.is_static else None
        return TensorType((size,), int32), TensorType((), int32)

    def reference(self, mask: np.ndarray) -> tuple[np.ndarray, ...]:
        found = np.flatnonzero(mask)
        size = mask.size if self.size < 0 else self.size
        out = np.full(size, -1, np.int32)
        out[: min(size, len(found))] = found[:size]
        return out, np.asarray(len(found), np.int32)

    def decompose(self, mask: Tensor) -> tuple[Tensor, ...]:
        count = mask.type.elements
        size = count if self.size < 0 else self.size
        graph, flat = mask.graph, mask.reshape(-1)
        total = flat.cast(int32).sum()
        if not count or not size:
            return graph.constant(-1, int32, shape=(size,)), total
        # The n-th true element is where the running count reaches n.
        running = functions()["cumulative_sum"](flat.cast(int32), axis=0)
        wanted: Any = graph.apply(Coordinate((size,), 0, int32))
        found = apply(SearchSorted(False, int32), running, wanted + 1)
        return where(wanted < total, found, -1), total

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(booleans(7), size=-1, grad=False),
            sample(booleans(3, 4), size=5, grad=False),
            sample(booleans(2, 2), size=6, grad=False),
            sample(booleans(0, 3), size=2, grad=False),
            sample(np.ones((2, 3), bool), size=3, grad=False),
        ]


@register
@frozen
class UnravelIndex(Op):
    fill: int
    name: ClassVar[str] = "unravel_index"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "Coordinates, along a new last axis, of row-major positions in the shape of the second "
        "input; negative positions become a fill value. As NumPy unravel_index."
    )
    grad = not_differentiable("its input holds indices")

    def infer(self, position: TensorType, like: TensorType) -> TensorType:
        check_dtype(self.name, position.dtype, (int32,))
        if position.shape is None:
            return TensorType(None, int32)
        return TensorType((*position.shape, like.rank), int32)

    def reference(self, position: np.ndarray, like: np.ndarray) -> np.ndarray:
        safe = np.maximum(position, 0)
        parts = [
            safe // stride % size if size else safe * 0
            for stride, size in zip(row_major_strides(like.shape), like.shape, strict=True)
        ]
        found = np.stack(parts, -1) if parts else np.zeros((*position.shape, 0), np.int32)
        return np.where(position[..., None] < 0, self.fill, found).astype(np.int32)

    def decompose(self, position: Tensor, like: Tensor) -> Tensor:
        shape = like.type.static_shape
        if not shape or 0 in shape:
            sizes = (*position.type.static_shape, len(shape))
            fill = position.graph.constant(self.fill, int32, shape=sizes)
            inside = (position >= 0).expand_dims(-1)
            return where(inside, 0, fill) if shape else fill
        parts = []
        for stride, size in zip(row_major_strides(shape), shape, strict=True):
            part = (position // stride) % size
            parts.append(where(position < 0, self.fill, part))
        return stack(parts, -1)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        places = np.array([0, 5, 11, -1], np.int32)
        return [
            sample(places, real(3, 4), fill=-1, grad=False),
            sample(places.reshape(2, 2), real(2, 2, 3), fill=0, grad=False),
            sample(places[:1], real(), fill=7, grad=False),
            sample(places[3:], real(0, 2), fill=7, grad=False),
        ]


def _size(asked: str, size: Any) -> int:
    """The size of a result, -1 for "large enough"."""
    if size is None:
        return -1
    found = integer(asked, size, "the size")
    if found < 0:
        raise AttributeValueError(asked, "the size must not be negative", received=found)
    return found


def _true(x: Tensor) -> Tensor:
    return x if x.dtype is bool_ else x.not_equal(0)  # type: ignore[no-any-return]


class NonZero(NamedTuple):
    """Coordinates, and how many of them were found."""

    indices: Tensor
    number: Tensor


@function
def non_zero(
    x: Tensor, *, size: int | None = None, fill: int = -1, name: str | None = None
) -> NonZero:
    """Coordinates of the elements that are not zero, in row-major order, and their number.

    `indices` is int32[size, rank]; rows behind the first `number` hold `fill`. `size` defaults to
    the number of elements, which is always enough; when there are more than `size`, the first ones
    are given, and `number` still counts all. In NumPy, `indices[:number]` is what argwhere gives.

    Example:
        >>> import niello as nl
        >>> found = nl.non_zero(nl.Graph().placeholder((3, 4)), size=5)
        >>> found.indices.type, found.number.type
        (int32[5, 2], int32[])
    """
    op = TruePositions(_size("non_zero", size))
    places, count = x.graph.apply(op, _true(tensor_of("non_zero", x)))  # type: ignore[misc]
    value = integer("non_zero", fill, "the fill value")
    return NonZero(apply(UnravelIndex(value), places, x, name=name), count)


@function
def count_non_zero(x: Tensor, axes: Any = None, *, name: str | None = None) -> Tensor:
    """How many elements over `axes` are not zero, as int32. As NumPy's count_nonzero.

    Example:
        >>> import niello as nl
        >>> nl.count_non_zero(nl.Graph().placeholder((3, 4)), -1).type
        int32[3]
    """
    return _true(tensor_of("count_non_zero", x)).cast(int32).sum(axes, name=name)  # type: ignore[no-any-return]


class Selected(NamedTuple):
    """Values, and how many of them were selected."""

    values: Tensor
    number: Tensor


@function
def masked_select(
    x: Tensor, mask: Any, *, size: int | None = None, fill: Any = 0, name: str | None = None
) -> Selected:
    """The elements of `x` where `mask` is true, in row-major order, and their number.

    Both broadcast. `values` is a vector of `size` elements (by default of as many as there are);
    those behind the first `number` hold `fill`. When more than `size` are selected, the first ones
    are given, and `number` still counts all. Gradients flow to what was selected. As PyTorch's
    masked_select and ONNX's Compress.

    Example:
        >>> import niello as nl
        >>> x = nl.Graph().placeholder((3, 4))
        >>> found = nl.masked_select(x, x > 0, size=5)
        >>> found.values.type, found.number.type
        (float32[5], int32[])
    """
    graph = tensor_of("masked_select", x).graph
    chosen = cast_to(graph.as_tensor(mask), bool_)
    if x.shape != chosen.shape or not x.type.is_static:
        # Each takes the shape of both.
        ones = x.graph.constant(True).broadcast_like(x)
        chosen = chosen.logical_and(ones)
        x = x.broadcast_like(chosen)
    op = TruePositions(_size("masked_select", size))
    places, count = graph.apply(op, chosen)  # type: ignore[misc]
    flat = x.reshape(-1)
    values = gather(flat, places, 0)
    rest = as_operand("masked_select", x, fill)
    return Selected(where(places < 0, cast_to(rest, x.dtype), values, name=name), count)


class Unique(NamedTuple):
    """Sorted distinct values; where each first occurs; the number of the value of each element; how
    often each occurs; and how many values there are."""

    values: Tensor
    indices: Tensor
    inverse: Tensor
    counts: Tensor
    number: Tensor


@function
def unique(
    x: Tensor, *, size: int | None = None, fill: Any = None, name: str | None = None
) -> Unique:
    """The sorted distinct elements of `x`, and where they come from.

    `values`, `indices` (positions of first occurrences in the flat tensor) and `counts` have `size`
    elements, by default as many as `x`. Behind the first `number` of them, `values` holds `fill`
    (by default the smallest element), `indices` -1 and `counts` 0. `inverse` has the shape of `x`:
    `values[inverse]` is `x`, where `size` is large enough. All NaN count as one value, the last.

    Raises ShapeError while sizes are unknown and for tensors without elements. As NumPy's unique.

    Example:
        >>> import niello as nl
        >>> found = nl.unique(nl.Graph().placeholder((6,), nl.int32), size=4)
        >>> found.values.type, found.inverse.type
        (int32[4], int32[6])
    """
    if not tensor_of("unique", x).type.is_static or not x.type.elements:
        raise ShapeError(
            "unique",
            "needs a tensor of known size that is not empty",
            received=str(x.type),
            advice="Give the placeholder all its sizes",
        )
    number = x.type.elements
    length = number if size is None else _size("unique", size)
    flat = x.reshape(-1)
    order = cast_to(functions()["argsort"](flat, 0), int32)
    ordered = gather(flat, order)
    starts = _starts(ordered)
    group = functions()["cumulative_sum"](starts.cast(int32), axis=0) - 1
    inverse = scatter((number,), order, group).reshape_like(x)
    bounds, count = x.graph.apply(TruePositions(length + 1), starts)  # type: ignore[misc]
    places, after = bounds[:-1], bounds[1:]
    valid = places >= 0
    first = gather(order, places)
    found = gather(ordered, places)
    rest = ordered[0] if fill is None else cast_to(as_operand("unique", x, fill), x.dtype)
    return Unique(
        where(valid, found, rest, name=name),
        where(valid, first, -1),
        inverse,
        where(valid, where(after < 0, number, after) - places, 0),
        count,
    )


def _starts(ordered: Tensor) -> Tensor:
    """True for the first of each run of equal elements."""
    before, after = ordered[:-1], ordered[1:]
    differs = before.not_equal(after)
    if ordered.dtype.is_float:
        differs = differs.logical_and(before.is_nan().logical_and(after.is_nan()).logical_not())
    return concat([ordered.graph.constant(np.ones(1, bool)), differs])
