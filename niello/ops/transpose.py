"""Ops that put axes into another order, or run along them backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import normalise_axis, show
from niello.core.types import TensorType
from niello.graph.opdef import Sample, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.movement import Movement, apply, integers, known_axes, known_axis, tensor_of


@register
@frozen
class Transpose(Movement):
    axes: tuple[int, ...] | None  # axis `axes[i]` of the input becomes axis i; None: reversed
    name: ClassVar[str] = "transpose"
    doc: ClassVar[str] = "The axes in another order; reversed when none is given. As NumPy."

    def _order(self, rank: int) -> tuple[int, ...]:
        return tuple(reversed(range(rank))) if self.axes is None else self.axes

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            rank = None if self.axes is None else len(self.axes)
            return TensorType(None if rank is None else (None,) * rank, x.dtype)
        order = self._order(len(x.shape))
        if sorted(order) != list(range(len(x.shape))):
            raise ShapeError(
                self.name,
                "the axes are not a permutation",
                received=f"{list(order)} for {show(x.shape)}",
                advice=f"Name each axis from 0 to {len(x.shape) - 1} once",
                axes=order,
            )
        return TensorType([x.shape[a] for a in order], x.dtype)

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        (x,) = inputs
        rank = len(x.type.static_shape)
        order = self._order(rank)
        if order == tuple(range(rank)):
            return x
        inner = x.operation.op
        if isinstance(inner, Transpose):
            first = inner._order(rank)
            return apply(Transpose(tuple(first[a] for a in order)), x.operation.inputs[0])
        return None if order == self.axes else apply(Transpose(order), x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.transpose(x, self.axes)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        back = None if self.axes is None else tuple(int(a) for a in np.argsort(self.axes))
        return [apply(Transpose(back), gradients[0])]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        source: list[Expr] = list(index)
        for i, axis in enumerate(self._order(len(index))):
            source[axis] = index[i]
        return inputs[0](*source)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), axes=None),
            sample(real(2, 3, 4), axes=(1, 2, 0)),
            sample(real(2, 3, 4, 5), axes=(0, 2, 3, 1)),
            sample(real(), axes=None),
            sample(real(0, 3), axes=(1, 0)),
            sample(real(2, *[1] * 14, 3), axes=None),
        ]


@function
def transpose(x: Tensor, axes: Any = None, *, name: str | None = None) -> Tensor:
    """`x` with its axes in another order: axis `axes[i]` becomes axis i; None reverses them.

    Axes may be negative. Raises ShapeError when they are not a permutation. As NumPy's transpose.

    Example:
        >>> import niello as nl
        >>> nl.transpose(nl.Graph().placeholder((None, 28, 28, 1)), (0, 3, 1, 2)).shape
        (None, 1, 28, 28)
    """
    tensor_of("transpose", x)
    order = None
    if axes is not None:
        order = integers("transpose", axes, "an axis")
        order = tuple(normalise_axis(a, len(order), "transpose") for a in order)
    elif x.rank is not None:
        order = tuple(reversed(range(x.rank)))
    return apply(Transpose(order), x, name=name)


@register
@frozen
class SwapAxes(Movement):
    first: int
    second: int
    name: ClassVar[str] = "swap_axes"
    doc: ClassVar[str] = "Two axes exchanged. As NumPy swapaxes."

    def _order(self, rank: int) -> tuple[int, ...]:
        order = list(range(rank))
        a = known_axis(self.name, self.first, rank)
        b = known_axis(self.name, self.second, rank)
        order[a], order[b] = order[b], order[a]
        return tuple(order)

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x
        return TensorType([x.shape[a] for a in self._order(len(x.shape))], x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.swapaxes(x, self.first, self.second)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(self, gradients[0])]

    def decompose(self, x: Tensor) -> Tensor:
        return transpose(x, self._order(len(x.type.static_shape)))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(real(2, 3, 4), first=0, second=-1), sample(real(2, 3), first=1, second=1)]


@function
def swap_axes(x: Tensor, first: int, second: int, *, name: str | None = None) -> Tensor:
    """`x` with two axes exchanged; they may be negative.

    Raises ShapeError for an axis that does not exist. As NumPy's swapaxes.

    Example:
        >>> import niello as nl
        >>> nl.swap_axes(nl.Graph().placeholder((2, 3, 4)), 0, -1).shape
        (4, 3, 2)
    """
    tensor_of("swap_axes", x)
    op = SwapAxes(known_axis("swap_axes", first, x.rank), known_axis("swap_axes", second, x.rank))
    if x.rank is None:
        return apply(op, x, name=name)
    return apply(Transpose(op._order(x.rank)), x, name=name)


@register
@frozen
class Reverse(Movement):
    axes: tuple[int, ...] | None  # None: all
    name: ClassVar[str] = "reverse"
    doc: ClassVar[str] = "The elements in opposite order along `axes` (None: all). As NumPy flip."

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is not None:
            known_axes(self.name, self.axes, len(x.shape))
        return x

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        (x,) = inputs
        shape = x.type.static_shape
        axes = tuple(a for a in known_axes(self.name, self.axes, len(shape)) or () if shape[a] > 1)
        if not axes:
            return x
        return None if axes == self.axes else apply(Reverse(axes), x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.flip(x, self.axes)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(self, gradients[0])]

    def _mirror(self, index: Index, shape: Sequence[int]) -> Index:
        axes = known_axes(self.name, self.axes, len(index)) or ()
        return tuple(shape[a] - 1 - i if a in axes else i for a, i in enumerate(index))

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        return x(*self._mirror(index, x.shape))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), axes=None),
            sample(real(2, 3, 4), axes=(1,)),
            sample(real(2, 3, 4), axes=(-1, 0)),
            sample(real(2, 3), axes=()),
            sample(real(0, 3), axes=(0,)),
            sample(real(), axes=None),
        ]


@function
def reverse(x: Tensor, axes: Any = None, *, name: str | None = None) -> Tensor:
    """`x` in opposite order along `axes`: an int, several, or None for all of them.

    Raises ShapeError for an axis that does not exist. As NumPy's flip.

    Example:
        >>> import niello as nl
        >>> nl.reverse(nl.Graph().placeholder((2, 3)), -1).shape
        (2, 3)
    """
    return apply(Reverse(known_axes("reverse", axes, tensor_of("reverse", x).rank)), x, name=name)
