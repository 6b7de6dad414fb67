"""Ops that repeat elements, and the sums that are their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import NUMBERS, DType
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import MAX_RANK, Dim, Shape, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import broadcast_index, check_dtype, half_as_float32
from niello.ops.movement import (
    LikeOp,
    Movement,
    apply,
    integers,
    same_shape,
    sizes_tensor,
    tensor_of,
)


def _refuse(asked: str, source: Shape, target: Sequence[Dim]) -> ShapeError:
    return ShapeError(
        asked,
        "the shape does not broadcast to the other",
        received=f"{show(source)} to {show(tuple(target))}",
        advice="Sizes must be equal or 1, counted from the last axis",
        shapes=(source, tuple(target)),
    )


def _broadcast_to(asked: str, source: Shape, target: Sequence[Dim]) -> list[Dim]:
    """Result of broadcasting `source` to `target`, whose unknown sizes stay unknown."""
    if len(source) > len(target):
        raise _refuse(asked, source, target)
    lead = len(target) - len(source)
    for ours, theirs in zip(source, target[lead:], strict=True):
        if ours not in (1, None) and theirs is not None and ours != theirs:
            raise _refuse(asked, source, target)
    # A size above 1 cannot change, so it tells an unknown target.
    return [
        *target[:lead],
        *(
            s if t is None and s not in (1, None) else t
            for s, t in zip(source, target[lead:], strict=True)
        ),
    ]


@register
@frozen
class BroadcastTo(Movement):
    shape: tuple[int, ...]  # -1 keeps the size of the input's axis
    name: ClassVar[str] = "broadcast_to"
    doc: ClassVar[str] = "Repeat axes of size 1, and add leading ones, up to a shape. As NumPy."

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return TensorType([None if d == -1 else d for d in self.shape], x.dtype)
        lead = len(self.shape) - len(x.shape)
        if lead < 0 or -1 in self.shape[:lead]:
            raise _refuse(self.name, x.shape, self.shape)
        # Where the input's size is unknown too, -1 stays unknown.
        target = [x.shape[i - lead] if d == -1 else d for i, d in enumerate(self.shape)]
        return TensorType(_broadcast_to(self.name, x.shape, target), x.dtype)

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        (x,) = inputs
        shape = self.infer(x.type).static_shape
        if x.shape == shape:
            return x
        return None if shape == self.shape else apply(BroadcastTo(shape), x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        lead = len(self.shape) - x.ndim
        target = [x.shape[i - lead] if d == -1 else d for i, d in enumerate(self.shape)]
        return np.broadcast_to(x, target)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [sum_to_like(gradients[0], inputs[0])]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        return x(*broadcast_index(index, x.shape))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(3), shape=(2, 3)),
            sample(real(2, 1), shape=(4, 2, 3)),
            sample(real(2, 1), shape=(4, -1, 3)),
            sample(real(), shape=(2, 2)),
            sample(real(), shape=()),
            sample(real(1), shape=(0,)),
            sample(real(0, 1), shape=(2, 0, 3)),
        ]


@function
def broadcast_to(x: Tensor, shape: Any, *, name: str | None = None) -> Tensor:
    """`x` repeated along axes of size 1, and new leading ones, up to `shape`.

    A size of -1 keeps that of `x`. Sizes may be tensors, as for `reshape`. Raises ShapeError when
    the shapes do not fit. As NumPy's broadcast_to.

    Example:
        >>> import niello as nl
        >>> nl.broadcast_to(nl.Graph().placeholder((None, 1)), (4, -1, 3)).shape
        (4, None, 3)
    """
    tensor_of("broadcast_to", x)
    by = sizes_tensor("broadcast_to", shape)
    if by is not None:
        from niello.ops.by_value import BroadcastBy, shaped

        return shaped(BroadcastBy(), x, by, name=name)
    sizes = integers("broadcast_to", shape, "a size")
    if any(s < -1 for s in sizes):
        raise ShapeError(
            "broadcast_to",
            "sizes must not be negative, except for -1",
            received=list(sizes),
            advice="Use -1 to keep a size",
        )
    op = BroadcastTo(sizes)
    inferred = op.infer(x.type)
    return apply(BroadcastTo(inferred.static_shape) if inferred.is_static else op, x, name=name)


@register
@frozen
class BroadcastLike(LikeOp):
    name: ClassVar[str] = "broadcast_like"
    doc: ClassVar[str] = "The first input broadcast to the shape of the second."

    def infer(self, x: TensorType, like: TensorType) -> TensorType:
        if x.shape is None or like.shape is None:
            return TensorType(like.shape, x.dtype)
        return TensorType(_broadcast_to(self.name, x.shape, like.shape), x.dtype)

    def reference(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        return np.broadcast_to(x, like.shape)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [sum_to_like(gradients[0], inputs[0]), None]

    def decompose(self, x: Tensor, like: Tensor) -> Tensor:
        return broadcast_to(x, like.type.static_shape)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(real(3), real(2, 3)), sample(real(), real(2, 0)), sample(real(2), real(2))]


@function
def broadcast_like(x: Tensor, like: Tensor, *, name: str | None = None) -> Tensor:
    """`x` broadcast to the shape of `like`, whose values are not used.

    Raises ShapeError when the shapes do not fit.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.broadcast_like(g.placeholder((3,)), g.placeholder((2, 3))).shape
        (2, 3)
    """
    tensor_of("broadcast_like", x)
    if name is None and same_shape(x, like):
        return x
    if like.type.is_static:
        return broadcast_to(x, like.shape, name=name)
    return apply(BroadcastLike(), x, like, name=name)


@register
@frozen
class SumToLike(Op):
    name: ClassVar[str] = "sum_to_like"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY | Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "Sums over the axes along which the second input's shape broadcasts to the first's: the "
        "gradient of broadcasting."
    )

    def infer(self, x: TensorType, like: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        if x.shape is not None and like.shape is not None:
            _broadcast_to(self.name, like.shape, x.shape)
        return TensorType(like.shape, x.dtype)

    def reference(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        lead = x.ndim - like.ndim
        ones = [i + lead for i, d in enumerate(like.shape) if d == 1 and x.shape[i + lead] != 1]
        axes = (*range(lead), *ones)

        def total(a: np.ndarray) -> np.ndarray:
            return np.sum(a, axis=axes, dtype=a.dtype).reshape(like.shape)  # type: ignore[no-any-return]

        return np.asarray(half_as_float32(total, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [broadcast_like(gradients[0], inputs[0]), None]

    def decompose(self, x: Tensor, like: Tensor) -> Tensor:
        source, target = x.type.static_shape, like.type.static_shape
        lead = len(source) - len(target)
        axes = (
            *range(lead),
            *(lead + i for i, d in enumerate(target) if d == 1 and source[lead + i] != 1),
        )
        total = x.sum(axes) if axes else x
        return total if total.shape == target else total.reshape(target)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(4, 2, 3), real(2, 1)),
            sample(real(2, 3), real()),
            sample(real(2, 3), real(2, 3)),
            sample(real(0, 3), real(3)),
            sample(real(1, 3), real(1, 1)),
        ]


@function
def sum_to_like(x: Tensor, like: Tensor, *, name: str | None = None) -> Tensor:
    """Sums of `x` in the shape of `like`, which must broadcast to that of `x`.

    The inverse of `broadcast_like` in the sense of gradients; the values of `like` are not used.
    Raises ShapeError when the shapes do not fit.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.sum_to_like(g.placeholder((4, 2, 3)), g.placeholder((2, 1))).shape
        (2, 1)
    """
    tensor_of("sum_to_like", x)
    if name is None and same_shape(x, like):
        return x
    return apply(SumToLike(), x, like, name=name)


def _multiples(asked: str, multiples: Sequence[int], rank: int) -> tuple[int, ...]:
    """One multiple for each axis of the result."""
    full = (*[1] * (rank - len(multiples)), *multiples)
    if len(full) > MAX_RANK:
        raise ShapeError(asked, f"at most {MAX_RANK} dimensions are supported", received=len(full))
    return full


@register
@frozen
class Tile(Movement):
    multiples: tuple[int, ...]
    name: ClassVar[str] = "tile"
    doc: ClassVar[str] = "The tensor repeated a number of times along each axis. As NumPy tile."

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x
        full = _multiples(self.name, self.multiples, len(x.shape))
        sizes = (*[1] * (len(full) - len(x.shape)), *x.shape)
        return TensorType(
            [None if d is None else d * m for d, m in zip(sizes, full, strict=True)], x.dtype
        )

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.tile(x, self.multiples)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(TileGradient(self.multiples), gradients[0], inputs[0])]

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        (x,) = inputs
        once = all(m == 1 for m in self.multiples) and len(self.multiples) <= len(x.shape or ())
        return x if once else None

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        lead = len(index) - len(x.shape)
        full = _multiples(self.name, self.multiples, len(index))
        source = [
            i if m == 1 else i % max(size, 1)
            for i, m, size in zip(index[lead:], full[lead:], x.shape, strict=True)
        ]
        return x(*source)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), multiples=(2, 1)),
            sample(real(2, 3), multiples=(2,)),
            sample(real(3), multiples=(2, 2)),
            sample(real(2, 3), multiples=(0, 2)),
            sample(real(), multiples=(3,)),
            sample(real(0, 3), multiples=(2, 2)),
        ]


@function
def tile(x: Tensor, multiples: Any, *, name: str | None = None) -> Tensor:
    """`x` repeated `multiples[i]` times along axis i, counted from the last axis.

    Multiples may be tensors, as the sizes of `reshape`. Raises AttributeValueError for a negative
    number of times. As NumPy's tile.

    Example:
        >>> import niello as nl
        >>> nl.tile(nl.Graph().placeholder((2, 3)), (2, 1)).shape
        (4, 3)
    """
    by = sizes_tensor("tile", multiples)
    if by is not None:
        from niello.ops.by_value import TileBy, shaped

        return shaped(TileBy(), x, by, name=name)
    times = integers("tile", multiples, "a multiple")
    if any(t < 0 for t in times):
        raise AttributeValueError(
            "tile", "a tensor cannot be repeated a negative number of times", received=list(times)
        )
    return apply(Tile(times), tensor_of("tile", x), name=name)


@register
@frozen
class TileSum(Op):
    multiples: tuple[int, ...]  # all positive, one for each axis
    name: ClassVar[str] = "tile_sum"
    traits: ClassVar[Trait] = Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = "Sum of the repeated parts of each axis: what tile repeats, this adds."

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        if x.shape is None:
            return x
        if len(x.shape) != len(self.multiples) or any(
            d is not None and d % m for d, m in zip(x.shape, self.multiples, strict=True)
        ):
            raise ShapeError(
                self.name,
                "the sizes are not multiples of the numbers of parts",
                received=f"{show(x.shape)} in {list(self.multiples)} parts",
            )
        sizes = [
            None if d is None else d // m for d, m in zip(x.shape, self.multiples, strict=True)
        ]
        return TensorType(sizes, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        def total(a: np.ndarray) -> np.ndarray:
            for axis, m in enumerate(self.multiples):
                parts = (*a.shape[:axis], m, a.shape[axis] // m, *a.shape[axis + 1 :])
                a = a.reshape(parts).sum(axis, dtype=a.dtype)
            return a

        return np.asarray(half_as_float32(total, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(Tile(self.multiples), gradients[0])]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        repeated = [axis for axis, m in enumerate(self.multiples) if m > 1]

        def part(*which: Expr) -> Expr:
            source = list(index)
            for axis, number in zip(repeated, which, strict=True):
                source[axis] = number * (x.shape[axis] // self.multiples[axis]) + index[axis]
            return x(*source)

        return k.reduce("add", [self.multiples[a] for a in repeated], part)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(4, 3), multiples=(2, 1)),
            sample(real(4, 6), multiples=(2, 3)),
            sample(real(0, 4), multiples=(2, 2)),
        ]


@register
@frozen
class TileGradient(LikeOp):
    multiples: tuple[int, ...]
    name: ClassVar[str] = "tile_gradient"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY | Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = "Gradient of tile: the sum of the repeated parts, in the second's shape."

    def infer(self, g: TensorType, like: TensorType) -> TensorType:
        check_dtype(self.name, g.dtype, self.dtypes)
        return TensorType(like.shape, g.dtype)

    def reference(self, g: np.ndarray, like: np.ndarray) -> np.ndarray:
        full = _multiples(self.name, self.multiples, like.ndim)
        if 0 in full:
            return np.zeros(like.shape, g.dtype)
        return TileSum(full).reference(g).reshape(like.shape)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(Tile(self.multiples), gradients[0]), None]

    def decompose(self, g: Tensor, like: Tensor) -> Tensor:
        shape = like.type.static_shape
        full = _multiples(self.name, self.multiples, len(shape))
        if 0 in full:
            return g.graph.constant(0, g.dtype, shape=shape)
        total = apply(TileSum(full), g)
        return total if total.shape == shape else total.reshape(shape)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(4, 3), real(2, 3), multiples=(2, 1)),
            sample(real(2, 6), real(3), multiples=(2, 2)),
            sample(real(0, 6), real(2, 3), multiples=(0, 2)),
        ]
