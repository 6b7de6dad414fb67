"""Elements moved around an axis, and repeated in place: roll and repeat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import NUMBERS, DType
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import check_dtype, half_as_float32
from niello.ops.indexing import gather
from niello.ops.movement import Movement, apply, integers, known_axis, tensor_of


@register
@frozen
class Roll(Movement):
    shifts: tuple[int, ...]
    axes: tuple[int, ...]
    name: ClassVar[str] = "roll"
    doc: ClassVar[str] = "Elements shifted along axes; what leaves at one end enters at the other."

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is not None:
            for a in self.axes:
                known_axis(self.name, a, len(x.shape))
        return x

    def _totals(self, shape: Sequence[int]) -> dict[int, int]:
        """The shift of each axis that is shifted, from 1 to its size - 1."""
        found: dict[int, int] = {}
        for shift, a in zip(self.shifts, self.axes, strict=True):
            axis = known_axis(self.name, a, len(shape))
            found[axis] = found.get(axis, 0) + shift
        sizes = {a: max(shape[a], 1) for a in found}
        return {a: s % sizes[a] for a, s in found.items() if s % sizes[a]}

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.roll(x, self.shifts, self.axes)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(Roll(tuple(-s for s in self.shifts), self.axes), gradients[0])]

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        return None if self._totals(inputs[0].type.static_shape) else inputs[0]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        source = list(index)
        for a, shift in self._totals(x.shape).items():
            i = index[a]
            source[a] = k.where(i < shift, i + (x.shape[a] - shift), i - shift)
        return x(*source)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(5), shifts=(2,), axes=(0,)),
            sample(real(3, 4), shifts=(-1, 7), axes=(0, -1)),
            sample(real(3, 4), shifts=(1, 1), axes=(1, 1)),
            sample(real(3, 4), shifts=(3,), axes=(0,)),
            sample(real(0, 2), shifts=(1,), axes=(0,)),
        ]


@function
def roll(x: Tensor, shift: Any, axis: Any = None, *, name: str | None = None) -> Tensor:
    """`x` with its elements shifted along axes; what leaves at one end enters at the other.

    `shift` and `axis` are numbers or lists of equal length; without an axis the flat tensor is
    rolled. Raises AttributeValueError for lists that do not match. As NumPy's roll.

    Example:
        >>> import niello as nl
        >>> nl.roll(nl.Graph().placeholder((3, 4)), 1, axis=-1).shape
        (3, 4)
    """
    tensor_of("roll", x)
    shifts = integers("roll", shift, "a shift")
    if axis is None:
        flat = apply(Roll((sum(shifts),), (0,)), x.reshape(-1))
        return flat.reshape_like(x, name=name)  # type: ignore[no-any-return]
    axes = tuple(known_axis("roll", a, x.rank) for a in integers("roll", axis, "an axis"))
    count = max(len(shifts), len(axes))
    shifts = shifts * count if len(shifts) == 1 else shifts
    axes = axes * count if len(axes) == 1 else axes
    if len(shifts) != len(axes):
        raise AttributeValueError(
            "roll",
            "there must be one shift for each axis",
            received=f"{list(shifts)}, {list(axes)}",
        )
    return apply(Roll(shifts, axes), x, name=name)


@register
@frozen
class Repeat(Movement):
    times: int
    axis: int
    name: ClassVar[str] = "repeat"
    doc: ClassVar[str] = "Each element repeated a number of times along an axis. As NumPy repeat."

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x
        axis = known_axis(self.name, self.axis, len(x.shape))
        size = x.shape[axis]
        new = None if size is None else size * self.times
        return TensorType((*x.shape[:axis], new, *x.shape[axis + 1 :]), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.repeat(x, self.times, self.axis)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        if self.times == 0:
            from niello.ops.movement import zeros_like

            return [zeros_like(inputs[0])]
        return [apply(RepeatSum(self.times, self.axis), gradients[0])]

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        return inputs[0] if self.times == 1 else None

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        axis = known_axis(self.name, self.axis, len(index))
        return inputs[0](*index[:axis], index[axis] // max(self.times, 1), *index[axis + 1 :])

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), times=2, axis=0),
            sample(real(2, 3), times=3, axis=-1),
            sample(real(2, 3), times=0, axis=1),
            sample(real(0, 3), times=2, axis=0),
        ]


@register
@frozen
class RepeatSum(Op):
    times: int
    axis: int
    name: ClassVar[str] = "repeat_sum"
    traits: ClassVar[Trait] = Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = "Sums of as many neighbours along an axis as repeat makes of one element."

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        if x.shape is None:
            return x
        axis = known_axis(self.name, self.axis, len(x.shape))
        size = x.shape[axis]
        if size is not None and size % self.times:
            raise ShapeError(
                self.name, f"the size is no multiple of {self.times}", received=show(x.shape),
                advice="Cut off what is left over",
            )  # fmt: skip
        new = None if size is None else size // self.times
        return TensorType((*x.shape[:axis], new, *x.shape[axis + 1 :]), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        axis = known_axis(self.name, self.axis, x.ndim)
        size = x.shape[axis] // self.times
        parts = (*x.shape[:axis], size, self.times, *x.shape[axis + 1 :])
        total = half_as_float32(lambda a: a.reshape(parts).sum(axis + 1, dtype=a.dtype), [x])
        return np.asarray(total)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(Repeat(self.times, self.axis), gradients[0])]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        axis = known_axis(self.name, self.axis, len(index))

        def term(r: Expr) -> Expr:
            at = index[axis] * self.times + r
            return inputs[0](*index[:axis], at, *index[axis + 1 :])

        return k.reduce("add", (self.times,), term)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(4, 3), times=2, axis=0),
            sample(real(2, 6), times=3, axis=-1),
            sample(real(0, 2), times=2, axis=0),
        ]


@function
def repeat(x: Tensor, times: Any, axis: int | None = None, *, name: str | None = None) -> Tensor:
    """Each element of `x` repeated along `axis`, or of the flat tensor when it is None.

    `times` is one number, or a list with one for each position along the axis. Raises
    AttributeValueError for negative numbers and lists of another length. As NumPy's repeat.

    Example:
        >>> import niello as nl
        >>> nl.repeat(nl.Graph().placeholder((2, 3)), 2, axis=0).shape
        (4, 3)
    """
    if axis is None:
        x, axis = tensor_of("repeat", x).reshape(-1), 0
    where = known_axis("repeat", axis, tensor_of("repeat", x).rank)
    counts = integers("repeat", times, "a number of times")
    if any(c < 0 for c in counts):
        raise AttributeValueError(
            "repeat",
            "an element cannot be repeated a negative number of times",
            received=list(counts),
        )
    if not isinstance(times, Iterable):
        return apply(Repeat(counts[0], where), x, name=name)
    size = None if x.shape is None else x.shape[where]
    if size is not None and size != len(counts):
        raise AttributeValueError(
            "repeat", f"there must be a number for each of {size} positions", received=list(counts)
        )
    chosen = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return gather(x, chosen, where, name=name)
