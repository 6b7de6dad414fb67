"""Reductions over axes: sum, prod, mean. (min, max, any, all: extremes.py.)

Sums and products of half types accumulate in float32 and round once; integers accumulate in their
own width and wrap; bool counts as int32. A reduction over nothing gives the identity (0, 1, the
largest or smallest value); `mean` of nothing is NaN. NaN propagates through `min` and `max`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, FLOATS, NUMBERS, DType, bool_, float32, int32
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import Shape, show
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    function,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import cast_to, check_dtype, half_as_float32
from niello.ops.movement import apply, known_axes, tensor_of, wide
from niello.ops.prod_gradient import prod_gradient


def reduced_shape(shape: Shape | None, axes: Any, keepdims: bool, asked: str) -> Shape | None:
    """The shape that is left when `axes` (None: all) are reduced."""
    if shape is None:
        return () if axes is None and not keepdims else None
    gone = known_axes(asked, axes, len(shape)) or ()
    if keepdims:
        return tuple(1 if i in gone else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in gone)


class Reduction(Op):
    """Base of reductions. `axes` is None (all axes) only while the rank is unknown."""

    traits: ClassVar[Trait] = Trait.REDUCTION
    axes: tuple[int, ...] | None
    keepdims: bool

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        shape = reduced_shape(x.shape, self.axes, self.keepdims, self.name)
        return TensorType(shape, self.result(x.dtype))

    def result(self, dtype: DType) -> DType:
        """Dtype of the result for an input dtype."""
        return dtype

    def gone(self, rank: int) -> tuple[int, ...]:
        """The reduced axes, sorted and non-negative."""
        return known_axes(self.name, self.axes, rank) or ()

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        (x,) = inputs
        axes = self.gone(len(x.type.static_shape))
        if axes == self.axes:
            return None
        return apply(dataclasses.replace(self, axes=axes), x)  # type: ignore[type-var]

    def split(self, index: Index, x: Value) -> tuple[list[int], Any]:
        """Extents of the reduced axes, and a function from their ranges to an input element."""
        gone = self.gone(len(x.shape))

        def element(*ranges: Expr) -> Expr:
            inner = iter(ranges)
            outer = iter(i for a, i in enumerate(index) if not (self.keepdims and a in gone))
            return x(*(next(inner) if a in gone else next(outer) for a in range(len(x.shape))))

        return [x.shape[a] for a in gone], element


@register
@frozen
class Spread(Op):
    """The way back of a reduction: a reduced tensor repeated over the axes that were reduced.

    With `divide`, each element is divided by the number of elements it is repeated to, less
    `correction`: the gradient of a mean.
    """

    axes: tuple[int, ...] | None
    keepdims: bool  # whether the reduced tensor kept the axes
    divide: bool = False
    correction: int = 0
    name: ClassVar[str] = "spread"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY | Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "A reduced tensor repeated to the shape of the second input: the gradient of sum, and with "
        "`divide` of mean."
    )

    def infer(self, x: TensorType, like: TensorType) -> TensorType:
        if like.shape is not None and x.shape is not None:
            wanted = reduced_shape(like.shape, self.axes, self.keepdims, self.name) or ()
            fits = len(wanted) == len(x.shape) and all(
                a is None or b is None or a == b for a, b in zip(wanted, x.shape, strict=True)
            )
            if not fits:
                raise ShapeError(
                    self.name,
                    f"does not fit {show(like.shape)} reduced over {self.axes}",
                    received=show(x.shape),
                )
        return TensorType(like.shape, x.dtype)

    def _count(self, shape: Sequence[int]) -> int:
        gone = known_axes(self.name, self.axes, len(shape)) or ()
        return max(math.prod(shape[a] for a in gone) - self.correction, 0)

    def reference(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        def spread(a: np.ndarray) -> np.ndarray:
            kept = reduced_shape(like.shape, self.axes, True, self.name)
            full = np.broadcast_to(a.reshape(kept), like.shape)  # type: ignore[arg-type]
            return full / np.asarray(self._count(like.shape), a.dtype) if self.divide else full

        return np.asarray(half_as_float32(spread, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        if self.divide:
            return [apply(Mean(self.axes, self.keepdims, self.correction), gradients[0]), None]
        return [apply(Sum(self.axes, self.keepdims), gradients[0]), None]

    def decompose(self, x: Tensor, like: Tensor) -> Tensor:
        shape = like.type.static_shape
        kept = reduced_shape(shape, self.axes, True, self.name)
        value = wide(x) / float(self._count(shape)) if self.divide else x
        value = cast_to(value, x.dtype)
        value = value if value.shape == kept else value.reshape(kept)
        return value if kept == shape else value.broadcast_to(shape)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2), real(2, 3), axes=(1,), keepdims=False),
            sample(real(1, 3), real(2, 3), axes=(0,), keepdims=True),
            sample(real(), real(2, 3), axes=None, keepdims=False),
            sample(real(2), real(2, 0), axes=(1,), keepdims=False),
            sample(real(2), real(2, 3), axes=(-1,), keepdims=False, divide=True, dtypes=FLOATS),
            sample(
                real(2),
                real(2, 3),
                axes=(1,),
                keepdims=False,
                divide=True,
                correction=1,
                dtypes=FLOATS,
            ),
        ]


def spread(
    x: Tensor,
    like: Tensor,
    axes: tuple[int, ...] | None,
    keepdims: bool,
    *,
    divide: bool = False,
    correction: int = 0,
) -> Tensor:
    """`x`, which is `like` reduced over `axes`, repeated to the shape of `like`; with `divide`
    divided by the number of elements that were reduced, less `correction`."""
    return apply(Spread(axes, keepdims, divide, correction), x, like)


def axes_samples(
    dtypes: tuple[DType, ...] | None = None, kind: Any = real, **more: Any
) -> list[Sample]:
    """Samples that every reduction over axes has."""
    return [
        sample(kind(2, 3), axes=(1,), keepdims=False, dtypes=dtypes, **more),
        sample(kind(2, 3), axes=(0,), keepdims=True, dtypes=dtypes, **more),
        sample(kind(2, 3, 4), axes=(0, 2), keepdims=False, dtypes=dtypes, **more),
        sample(kind(2, 3, 4), axes=(-1,), keepdims=True, dtypes=dtypes, **more),
        sample(kind(2, 3), axes=None, keepdims=False, dtypes=dtypes, **more),
        sample(kind(2, 3), axes=(), keepdims=False, dtypes=dtypes, **more),
        sample(kind(), axes=(), keepdims=False, dtypes=dtypes, **more),
        sample(kind(0, 3), axes=(1,), keepdims=False, dtypes=dtypes, **more),
    ]


_SPECIAL = np.array([[1.0, np.nan, 2.0], [np.inf, -np.inf, 0.0], [np.inf, 1.0, 2.0]])


def special_sample(kind: DType, **attributes: Any) -> Sample:
    """NaN and infinity."""
    array = _SPECIAL.astype(kind.numpy)
    return sample(array, dtypes=(kind,), grad=False, axes=(1,), keepdims=False, **attributes)


@register
@frozen
class Sum(Reduction):
    axes: tuple[int, ...] | None
    keepdims: bool
    name: ClassVar[str] = "reduce_sum"
    traits: ClassVar[Trait] = Trait.REDUCTION | Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "Sum over `axes`; bool counts as int32, integers wrap, half types add in float32."
    )

    def result(self, dtype: DType) -> DType:
        return int32 if dtype is bool_ else dtype

    def reference(self, x: np.ndarray) -> np.ndarray:
        def total(a: np.ndarray) -> np.ndarray:
            kind = np.int32 if a.dtype == bool else a.dtype
            return np.asarray(np.sum(a, axis=self.axes, dtype=kind, keepdims=self.keepdims))

        return np.asarray(half_as_float32(total, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [spread(gradients[0], inputs[0], self.axes, self.keepdims)]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        extents, element = self.split(index, inputs[0])
        if inputs[0].dtype is bool_:
            return k.reduce("add", extents, lambda *r: k.cast(element(*r), int32))
        return k.reduce("add", extents, element)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *axes_samples(),
            sample(real(3, 0), axes=(1,), keepdims=False),
            sample(real(2, *[1] * 14, 3), axes=(15,), keepdims=False),
            special_sample(FLOATS[2]),
        ]


@register
@frozen
class Prod(Reduction):
    axes: tuple[int, ...] | None
    keepdims: bool
    name: ClassVar[str] = "reduce_prod"
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = "Product over `axes`; integers wrap, half types multiply in float32."

    def reference(self, x: np.ndarray) -> np.ndarray:
        def product(a: np.ndarray) -> np.ndarray:
            return np.prod(a, axis=self.axes, dtype=a.dtype, keepdims=self.keepdims)  # type: ignore[no-any-return]

        return np.asarray(half_as_float32(product, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (x,) = inputs
        full = spread(gradients[0], x, self.axes, self.keepdims)
        return [prod_gradient(full, x, self.axes)]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        extents, element = self.split(index, inputs[0])
        return k.reduce("mul", extents, element)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        zeros = np.array([[2.0, 0.0, 3.0], [0.0, 4.0, 0.0], [1.0, 2.0, 3.0]], np.float32)
        return [
            *axes_samples(),
            sample(real(3, 0), axes=(1,), keepdims=False),
            sample(zeros, axes=(1,), keepdims=False, dtypes=(FLOATS[2],)),
            special_sample(FLOATS[2]),
        ]


@register
@frozen
class Mean(Reduction):
    axes: tuple[int, ...] | None
    keepdims: bool
    correction: int = 0
    name: ClassVar[str] = "reduce_mean"
    traits: ClassVar[Trait] = Trait.REDUCTION | Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Sum over `axes` divided by the number of elements less `correction`; of nothing, NaN."
    )

    def _count(self, shape: Sequence[int]) -> int:
        return max(math.prod(shape[a] for a in self.gone(len(shape))) - self.correction, 0)

    def reference(self, x: np.ndarray) -> np.ndarray:
        def mean(a: np.ndarray) -> np.ndarray:
            total = np.sum(a, axis=self.axes, dtype=a.dtype, keepdims=self.keepdims)
            return total / np.asarray(self._count(a.shape), a.dtype)  # type: ignore[no-any-return]

        return np.asarray(half_as_float32(mean, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [
            spread(
                gradients[0],
                inputs[0],
                self.axes,
                self.keepdims,
                divide=True,
                correction=self.correction,
            )
        ]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        extents, element = self.split(index, inputs[0])
        return k.reduce("add", extents, element) / float(self._count(inputs[0].shape))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *axes_samples(),
            *axes_samples(correction=1)[:2],
            sample(real(3, 0), axes=(1,), keepdims=False, grad=False),
            special_sample(FLOATS[2]),
        ]


def reduce(op: type[Reduction], x: Tensor, axes: Any, keepdims: bool, name: str | None) -> Tensor:
    """Apply a reduction op with the axes a user gave."""
    asked = op.name
    known = known_axes(asked, axes, tensor_of(asked, x).rank)
    return apply(op(known, bool(keepdims)), x, name=name)  # type: ignore[call-arg]


@function
def sum(x: Tensor, axes: Any = None, keepdims: bool = False, *, name: str | None = None) -> Tensor:
    """Sum of `x` over `axes`: an int, several, or None for all of them.

    With `keepdims` the axes stay, with size 1. The dtype stays, integers wrap; bool gives int32
    counts; half types add in float32 and round once. Of nothing: 0. As NumPy's sum.

    Example:
        >>> import niello as nl
        >>> nl.sum(nl.Graph().placeholder((2, 3)), axes=-1, keepdims=True).shape
        (2, 1)
    """
    return reduce(Sum, x, axes, keepdims, name)


@function
def prod(x: Tensor, axes: Any = None, keepdims: bool = False, *, name: str | None = None) -> Tensor:
    """Product of `x` over `axes`: an int, several, or None for all of them.

    The dtype stays, integers wrap; half types multiply in float32. Of nothing: 1. The gradient is
    right where elements are zero. As NumPy's prod.

    Example:
        >>> import niello as nl
        >>> nl.prod(nl.Graph().placeholder((2, 3)), axes=0).shape
        (3,)
    """
    return reduce(Prod, x, axes, keepdims, name)


@function
def mean(x: Tensor, axes: Any = None, keepdims: bool = False, *, name: str | None = None) -> Tensor:
    """Arithmetic mean of `x` over `axes`: an int, several, or None for all of them.

    Integers and bool become float32 first; half types add in float32. Of nothing: NaN. As NumPy's
    mean.

    Example:
        >>> import niello as nl
        >>> nl.mean(nl.Graph().placeholder((2, 3)), axes=(0, 1)).shape
        ()
    """
    tensor_of("mean", x)
    return reduce(Mean, as_float(x), axes, keepdims, name)


def as_float(x: Tensor) -> Tensor:
    """`x`, as float32 when it holds integers or truth values."""
    return x if x.dtype.is_inexact else cast_to(x, float32)
