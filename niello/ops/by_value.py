"""Operations whose shape is given by a tensor: it must be known when the graph is compiled.

A tensor is known that follows from constants and from shapes of other tensors, such as
concat([shape_of(x)[:1], [-1]]). Each of these operations becomes the one with fixed sizes as soon
as the types of the inputs are bound; a shape that depends on values that are fed is refused then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, INTEGERS, NUMBERS, DType
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, show
from niello.core.types import TensorType
from niello.graph.known import known_value
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.broadcast import TileGradient
from niello.ops.define import check_dtype
from niello.ops.movement import LikeOp, apply, integers, known_axis
from niello.ops.slice import place_like, window


class ByValue(Op):
    """Base. The inputs numbered in `value_inputs` hold sizes."""

    traits: ClassVar[Trait] = Trait.MOVEMENT
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    value_inputs: ClassVar[tuple[int, ...]] = (1,)

    def vector(self, found: TensorType, what: str) -> Dim:
        """The length of an integer vector, None when unknown. Raises for anything else."""
        check_dtype(self.name, found.dtype, INTEGERS)
        if found.shape is None:
            return None
        if len(found.shape) != 1:
            raise ShapeError(
                self.name, f"{what} must be a vector", received=show(found.shape),
                advice="Give one integer for each axis",
            )  # fmt: skip
        return found.shape[0]

    def known(self, tensor: Tensor) -> list[int]:
        """The value of an input, which must be known."""
        value = known_value(tensor)
        if value is None:
            raise ShapeError(
                self.name,
                f"the shape depends on the value of {tensor.name}, known only when the graph runs",
                received=str(tensor.type),
                advice="Make it of constants and of shapes of other tensors",
            )
        return [int(v) for v in value.reshape(-1)]


@register
@frozen
class ReshapeBy(ByValue):
    name: ClassVar[str] = "reshape_by"
    doc: ClassVar[str] = "reshape to the sizes that the second input holds. As ONNX Reshape."

    def infer(self, x: TensorType, shape: TensorType) -> TensorType:
        rank = self.vector(shape, "the shape")
        return TensorType(None if rank is None else (None,) * rank, x.dtype)

    def reference(self, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
        return x.reshape([int(d) for d in shape])

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [gradients[0].reshape_like(inputs[0]), None]

    def decompose(self, x: Tensor, shape: Tensor) -> Tensor:
        return x.reshape(self.known(shape))  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 6), np.array([3, -1], np.int64)),
            sample(real(2, 6), np.array([12], np.int32)),
            sample(real(1, 1), np.zeros(0, np.int64)),
        ]


@register
@frozen
class BroadcastBy(ByValue):
    name: ClassVar[str] = "broadcast_by"
    doc: ClassVar[str] = "broadcast_to the sizes that the second input holds. As ONNX Expand."

    def infer(self, x: TensorType, shape: TensorType) -> TensorType:
        rank = self.vector(shape, "the shape")
        return TensorType(None if rank is None else (None,) * rank, x.dtype)

    def reference(self, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
        lead = len(shape) - x.ndim
        return np.broadcast_to(
            x, [x.shape[i - lead] if d == -1 else int(d) for i, d in enumerate(shape)]
        )

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [gradients[0].sum_to_like(inputs[0]), None]

    def decompose(self, x: Tensor, shape: Tensor) -> Tensor:
        return x.broadcast_to(self.known(shape))  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(3, 1), np.array([2, 3, 4], np.int64)),
            sample(real(3, 1), np.array([-1, 2], np.int32)),
        ]


@register
@frozen
class TileBy(ByValue):
    name: ClassVar[str] = "tile_by"
    doc: ClassVar[str] = "tile as often as the second input says. As ONNX Tile."

    def infer(self, x: TensorType, multiples: TensorType) -> TensorType:
        count = self.vector(multiples, "the multiples")
        if x.shape is None or count is None:
            return TensorType(None, x.dtype)
        return TensorType((None,) * max(count, len(x.shape)), x.dtype)

    def reference(self, x: np.ndarray, multiples: np.ndarray) -> np.ndarray:
        return np.tile(x, [int(m) for m in multiples])

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(TileGradientBy(), gradients[0], inputs[1], inputs[0]), None]

    def decompose(self, x: Tensor, multiples: Tensor) -> Tensor:
        return x.tile(self.known(multiples))  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(real(2, 3), np.array([2, 1], np.int64))]


@register
@frozen
class TileGradientBy(ByValue):
    name: ClassVar[str] = "tile_gradient_by"
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY
    doc: ClassVar[str] = "Gradient of tile_by: sums of the repeated parts, in the third's shape."

    def infer(self, g: TensorType, multiples: TensorType, like: TensorType) -> TensorType:
        self.vector(multiples, "the multiples")
        return TensorType(like.shape, g.dtype)

    def reference(self, g: np.ndarray, multiples: np.ndarray, like: np.ndarray) -> np.ndarray:
        return TileGradient(tuple(int(m) for m in multiples)).reference(g, like)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(TileBy(), gradients[0], inputs[1]), None, None]

    def decompose(self, g: Tensor, multiples: Tensor, like: Tensor) -> Tensor:
        return apply(TileGradient(tuple(self.known(multiples))), g, like)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(real(4, 3), np.array([2, 1], np.int64), real(2, 3))]


@register
@frozen
class SliceBy(ByValue):
    axes: tuple[int, ...]
    name: ClassVar[str] = "slice_by"
    doc: ClassVar[str] = (
        "slice along some axes with the starts, ends and strides that further inputs hold. As ONNX "
        "Slice."
    )
    value_inputs: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def infer(self, x: TensorType, *bounds: TensorType) -> TensorType:
        for b, what in zip(bounds, ("starts", "ends", "strides"), strict=True):
            count = self.vector(b, f"the {what}")
            if count not in (None, len(self.axes)):
                raise ShapeError(
                    self.name, f"the {what} must be one for each axis", received=show(b.shape),
                    advice=f"Give {len(self.axes)}",
                )  # fmt: skip
        if x.shape is None:
            return x
        axes = [a % len(x.shape) for a in self.axes]
        return TensorType([None if a in axes else d for a, d in enumerate(x.shape)], x.dtype)

    def reference(self, x: np.ndarray, *bounds: np.ndarray) -> np.ndarray:
        parts = [slice(None)] * x.ndim
        for axis, *part in zip(self.axes, *(b.tolist() for b in bounds), strict=True):
            parts[axis] = slice(*_limits(part))
        return x[tuple(parts)]

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        x, *bounds = inputs
        return [apply(PlaceBy(self.axes), gradients[0], *bounds, x), None, None, None]

    def decompose(self, x: Tensor, *bounds: Tensor) -> Tensor:
        listed = [_limits(b) for b in zip(*(self.known(b) for b in bounds), strict=True)]
        starts, ends, steps = ([b[i] for b in listed] for i in range(3))
        return x.slice(starts, ends, steps, axes=self.axes)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def line(*values: int) -> np.ndarray:
            return np.array(values, np.int64)

        return [
            sample(real(5, 4), line(1), line(2**62), line(2), axes=(0,)),
            sample(real(5, 4), line(-1, 3), line(-(2**62), 0), line(-1, -2), axes=(0, -1)),
        ]


def _limits(part: Sequence[int]) -> tuple[int | None, int | None, int]:
    """Bounds as Python means them: an end far before the start of an axis (ONNX's way to reach
    position 0 backwards) is none."""
    start, end, step = part
    far = step < 0 and end < -(2**31) + 1
    return start, None if far else end, step


@register
@frozen
class PlaceBy(LikeOp):
    axes: tuple[int, ...]
    name: ClassVar[str] = "place_by"
    doc: ClassVar[str] = "Gradient of slice_by: zeros in the last input's shape, with the first in."
    value_inputs: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def infer(self, g: TensorType, *rest: TensorType) -> TensorType:
        return TensorType(rest[-1].shape, g.dtype)

    def reference(self, g: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        *bounds, like = rest
        out = np.zeros(like.shape, g.dtype)
        parts = [slice(None)] * like.ndim
        for axis, *part in zip(self.axes, *(b.tolist() for b in bounds), strict=True):
            parts[axis] = slice(*_limits(part))
        out[tuple(parts)] = g
        return out

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(SliceBy(self.axes), gradients[0], *inputs[1:4]), None, None, None, None]

    def decompose(self, g: Tensor, *rest: Tensor) -> Tensor:
        *bounds, like = rest
        known = [SliceBy(self.axes).known(b) for b in bounds]
        listed = [_limits(b) for b in zip(*known, strict=True)]
        starts, ends, steps = ([b[i] for b in listed] for i in range(3))
        return place_like(g, like, window(self.name, starts, ends, steps, self.axes, like.rank))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def line(*values: int) -> np.ndarray:
            return np.array(values, np.int64)

        return [sample(real(2, 4), line(1), line(3), line(1), real(5, 4), axes=(0,))]


def shaped(op: ByValue, x: Tensor, *values: Tensor, name: str | None = None) -> Tensor:
    """The operation, in its fixed form when everything is known already."""
    op.infer(x.type, *(v.type for v in values))
    if x.type.is_static and name is None and all(known_value(v) is not None for v in values):
        return op.decompose(x, *values)  # type: ignore[return-value]
    return apply(op, x, *values, name=name)


def slice_by(
    x: Tensor, given: Sequence[Any], bounds: Sequence[Tensor | None], axes: Any, name: str | None
) -> Tensor:
    """`slice` with bounds of which some are tensors."""
    count = next((b.shape[0] for b in bounds if b is not None and b.shape), None)
    if count is None:
        raise ShapeError(
            "slice",
            "the number of sliced axes is unknown",
            received=str([b.type for b in bounds if b is not None]),
            advice="Give vectors of known length",
        )
    starts, ends, strides = given
    plain = [starts, ends, [1] * count if strides is None else strides]
    operands = [
        x.graph.constant(np.asarray(integers("slice", p, "a bound"), np.int64)) if b is None else b
        for b, p in zip(bounds, plain, strict=True)
    ]
    where = range(count) if axes is None else integers("slice", axes, "an axis")
    op = SliceBy(tuple(known_axis("slice", a, x.rank) for a in where))
    return shaped(op, x, *operands, name=name)
