"""Extremes and truth over axes: min, max, argmin, argmax, any, all.

NaN wins in `min`, `max`, `argmin` and `argmax`, as in NumPy. The extreme of nothing is the identity
(infinity for floats); its position is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes as element_types
from niello.core.dtypes import ALL, FLOATS, DType, bool_, int32, int64
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, show
from niello.core.types import TensorType
from niello.graph.opdef import (
    Sample,
    booleans,
    distinct,
    function,
    not_differentiable,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr, reduce_identity
from niello.ops.define import cast_to, check_dtype, half_as_float32
from niello.ops.movement import apply, known_axes, tensor_of, wide
from niello.ops.reduce import (
    Reduction,
    Sum,
    axes_samples,
    reduce,
    reduced_shape,
    special_sample,
    spread,
)


class Extreme(Reduction):
    """Base of min and max. The gradient is shared equally by all elements that attain it."""

    dtypes: ClassVar[tuple[DType, ...]] = ALL
    word: ClassVar[str]  # "min" or "max"

    def reference(self, x: np.ndarray) -> np.ndarray:
        ufunc: Any = np.minimum if self.word == "min" else np.maximum
        start = np.asarray(reduce_identity(self.word, element_types.dtype(x.dtype)))

        def extreme(a: np.ndarray) -> np.ndarray:
            axes = tuple(range(a.ndim)) if self.axes is None else self.axes
            found = ufunc.reduce(
                a, axis=axes, keepdims=self.keepdims, initial=start.astype(a.dtype)
            )
            return np.asarray(found)

        return np.asarray(half_as_float32(extreme, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (x,) = inputs
        hit = x.equal(spread(outputs[0], x, self.axes, self.keepdims))
        wide_g = wide(gradients[0])
        ties = apply(Sum(self.axes, self.keepdims), cast_to(hit, wide_g.dtype))
        share = spread(cast_to(wide_g / ties, x.dtype), x, self.axes, self.keepdims)
        return [hit.select(share, 0.0)]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        extents, element = self.split(index, inputs[0])
        if inputs[0].dtype is bool_:
            return k.reduce("and" if self.word == "min" else "or", extents, element)
        return k.reduce(self.word, extents, element)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        ties = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], np.float32)
        return [
            *axes_samples(kind=distinct),
            sample(real(3, 0), axes=(1,), keepdims=False, grad=False),
            sample(ties, axes=(1,), keepdims=False, dtypes=(FLOATS[2],), grad=False),
            special_sample(FLOATS[2]),
        ]


@register
@frozen
class Min(Extreme):
    axes: tuple[int, ...] | None
    keepdims: bool
    name: ClassVar[str] = "reduce_min"
    word: ClassVar[str] = "min"
    doc: ClassVar[str] = "Smallest element over `axes`; NaN wins; of nothing, the largest value."


@register
@frozen
class Max(Extreme):
    axes: tuple[int, ...] | None
    keepdims: bool
    name: ClassVar[str] = "reduce_max"
    word: ClassVar[str] = "max"
    doc: ClassVar[str] = "Largest element over `axes`; NaN wins; of nothing, the smallest value."


class Logical(Reduction):
    """Base of any and all."""

    dtypes: ClassVar[tuple[DType, ...]] = (bool_,)
    word: ClassVar[str]  # "or" or "and"
    grad = not_differentiable("its values are truth values")

    def reference(self, x: np.ndarray) -> np.ndarray:
        call = np.any if self.word == "or" else np.all
        return np.asarray(call(x, axis=self.axes, keepdims=self.keepdims))

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        extents, element = self.split(index, inputs[0])
        return k.reduce(self.word, extents, element)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *axes_samples(kind=booleans, grad=False),
            sample(booleans(3, 0), axes=(1,), keepdims=False, grad=False),
        ]


@register
@frozen
class Any_(Logical):
    axes: tuple[int, ...] | None
    keepdims: bool
    name: ClassVar[str] = "reduce_any"
    word: ClassVar[str] = "or"
    doc: ClassVar[str] = "True where an element over `axes` is true; of nothing, false."


@register
@frozen
class All_(Logical):
    axes: tuple[int, ...] | None
    keepdims: bool
    name: ClassVar[str] = "reduce_all"
    word: ClassVar[str] = "and"
    doc: ClassVar[str] = "True where every element over `axes` is true; of nothing, true."


class ArgExtreme(Reduction):
    """Base of argmin and argmax: row-major position over `axes`."""

    dtypes: ClassVar[tuple[DType, ...]] = ALL
    dtype: DType
    word: ClassVar[str]  # "min" or "max"
    grad = not_differentiable("positions do not vary continuously")

    def result(self, dtype: DType) -> DType:
        return self.dtype

    def infer(self, x: TensorType) -> TensorType:
        found = super().infer(x)
        check_dtype(self.name, self.dtype, (int32, int64))
        if x.shape is not None:
            sizes: list[Dim] = [x.shape[a] for a in self.gone(len(x.shape))]
            if 0 in sizes and 0 not in (found.shape or ()):
                raise ShapeError(
                    self.name,
                    "there is no extreme of nothing",
                    received=show(x.shape),
                    advice="Reduce axes that are not empty",
                    axes=self.axes,
                )
        return found

    def reference(self, x: np.ndarray) -> np.ndarray:
        gone = self.gone(x.ndim)
        rest = [a for a in range(x.ndim) if a not in gone]
        rows = (
            x.transpose(*rest, *gone).reshape(*(x.shape[a] for a in rest), -1)
            if x.size
            else (np.zeros((*(x.shape[a] for a in rest), 1), x.dtype))
        )
        if rows.dtype.kind == "V" or rows.dtype.itemsize == 2:
            rows = rows.astype(np.float64)
        found = np.argmin(rows, -1) if self.word == "min" else np.argmax(rows, -1)
        shape = reduced_shape(x.shape, self.axes, self.keepdims, self.name)
        return np.asarray(found, self.dtype.numpy).reshape(shape)  # type: ignore[arg-type]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        extents, element = self.split(index, inputs[0])
        return k.cast(k.arg_reduce(self.word, extents, element), self.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        ties = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], np.float32)
        return [
            *axes_samples(kind=distinct, grad=False, dtype=int32),
            sample(real(2, 3), axes=(1,), keepdims=False, dtype=int64, grad=False),
            sample(ties, axes=(1,), keepdims=False, dtype=int32, dtypes=(FLOATS[2],), grad=False),
            special_sample(FLOATS[2], dtype=int32),
        ]


@register
@frozen
class ArgMin(ArgExtreme):
    axes: tuple[int, ...] | None
    keepdims: bool
    dtype: DType
    name: ClassVar[str] = "argmin"
    word: ClassVar[str] = "min"
    doc: ClassVar[str] = "Position of the first smallest element along an axis; NaN wins. As NumPy."


@register
@frozen
class ArgMax(ArgExtreme):
    axes: tuple[int, ...] | None
    keepdims: bool
    dtype: DType
    name: ClassVar[str] = "argmax"
    word: ClassVar[str] = "max"
    doc: ClassVar[str] = "Position of the first largest element along an axis; NaN wins. As NumPy."


@function
def min(x: Tensor, axes: Any = None, keepdims: bool = False, *, name: str | None = None) -> Tensor:
    """Smallest element of `x` over `axes`: an int, several, or None for all of them.

    NaN wins; of nothing: infinity, or the largest integer. Equal elements share the gradient
    equally. As NumPy's min.

    Example:
        >>> import niello as nl
        >>> nl.min(nl.Graph().placeholder((2, 3)), axes=0).shape
        (3,)
    """
    return reduce(Min, x, axes, keepdims, name)


@function
def max(x: Tensor, axes: Any = None, keepdims: bool = False, *, name: str | None = None) -> Tensor:
    """Largest element of `x` over `axes`: an int, several, or None for all of them.

    NaN wins; of nothing: -infinity, or the smallest integer. Equal elements share the gradient
    equally. As NumPy's max.

    Example:
        >>> import niello as nl
        >>> nl.max(nl.Graph().placeholder((2, 3)), axes=0).shape
        (3,)
    """
    return reduce(Max, x, axes, keepdims, name)


@function
def any(x: Tensor, axes: Any = None, keepdims: bool = False, *, name: str | None = None) -> Tensor:
    """Whether an element of `x` over `axes` is true, that is not zero. Of nothing: False.

    `axes` is an int, several, or None for all of them. As NumPy's any.

    Example:
        >>> import niello as nl
        >>> nl.any(nl.Graph().placeholder((2, 3), nl.bool_), axes=0)
        <Tensor 'reduce_any': bool[3]>
    """
    return reduce(Any_, cast_to(tensor_of("any", x), bool_), axes, keepdims, name)


@function
def all(x: Tensor, axes: Any = None, keepdims: bool = False, *, name: str | None = None) -> Tensor:
    """Whether every element of `x` over `axes` is true, that is not zero. Of nothing: True.

    `axes` is an int, several, or None for all of them. As NumPy's all.

    Example:
        >>> import niello as nl
        >>> nl.all(nl.Graph().placeholder((2, 3), nl.bool_), axes=0)
        <Tensor 'reduce_all': bool[3]>
    """
    return reduce(All_, cast_to(tensor_of("all", x), bool_), axes, keepdims, name)


def _position(
    op: type[ArgExtreme], x: Tensor, axis: Any, keepdims: bool, dtype: Any, name: str | None
) -> Tensor:
    known = known_axes(op.name, axis, tensor_of(op.name, x).rank)
    return apply(op(known, bool(keepdims), element_types.dtype(dtype)), x, name=name)  # type: ignore[call-arg]


@function
def argmin(
    x: Tensor,
    axis: Any = None,
    keepdims: bool = False,
    *,
    dtype: Any = int32,
    name: str | None = None,
) -> Tensor:
    """Position of the first smallest element along `axis`, as int32 (or int64 by `dtype`).

    With several axes, or None for all, the position counts in row-major order over them. NaN wins.
    Raises ShapeError when there is nothing to choose from. As NumPy's argmin.

    Example:
        >>> import niello as nl
        >>> nl.argmin(nl.Graph().placeholder((2, 3)), -1)
        <Tensor 'argmin': int32[2]>
    """
    return _position(ArgMin, x, axis, keepdims, dtype, name)


@function
def argmax(
    x: Tensor,
    axis: Any = None,
    keepdims: bool = False,
    *,
    dtype: Any = int32,
    name: str | None = None,
) -> Tensor:
    """Position of the first largest element along `axis`, as int32 (or int64 by `dtype`).

    With several axes, or None for all, the position counts in row-major order over them. NaN wins.
    Raises ShapeError when there is nothing to choose from. As NumPy's argmax.

    Example:
        >>> import niello as nl
        >>> nl.argmax(nl.Graph().placeholder((2, 3)), -1)
        <Tensor 'argmax': int32[2]>
    """
    return _position(ArgMax, x, axis, keepdims, dtype, name)
