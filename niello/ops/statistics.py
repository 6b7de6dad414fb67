"""Variance and standard deviation over axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType, float32
from niello.core.errors import AttributeValueError
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.define import cast_to, check_dtype, half_as_float32
from niello.ops.movement import apply, integer, known_axes, tensor_of, wide
from niello.ops.reduce import Mean, as_float, axes_samples, reduced_shape, special_sample, spread


@register
@frozen
class Variance(Op):
    axes: tuple[int, ...] | None
    keepdims: bool
    correction: int = 0
    name: ClassVar[str] = "variance"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Mean squared distance from the mean over `axes`, with the number of elements less "
        "`correction` as the divisor; computed in two passes. As NumPy var."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return TensorType(reduced_shape(x.shape, self.axes, self.keepdims, self.name), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        def variance(a: np.ndarray) -> np.ndarray:
            total = np.sum(a, axis=self.axes, keepdims=True, dtype=a.dtype)
            all_of_them = np.sum(np.ones(a.shape, a.dtype), axis=self.axes, keepdims=True)
            centred = a - total / all_of_them
            square = np.sum(centred * centred, axis=self.axes, keepdims=self.keepdims)
            kept = np.sum(np.ones(a.shape), axis=self.axes, keepdims=self.keepdims)
            count = np.maximum(kept - self.correction, 0).astype(a.dtype)
            return square / count  # type: ignore[no-any-return]

        return np.asarray(half_as_float32(variance, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (x,) = inputs
        w = wide(x)
        share = spread(
            wide(gradients[0]), w, self.axes, self.keepdims, divide=True, correction=self.correction
        )
        return [cast_to(2.0 * share * (w - w.mean(self.axes, True)), x.dtype)]

    def decompose(self, x: Tensor) -> Tensor:
        w = wide(x)
        centred = w - w.mean(self.axes, True)
        found = apply(Mean(self.axes, self.keepdims, self.correction), centred * centred)
        return cast_to(found, x.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *axes_samples(),
            sample(real(3, 4), axes=(1,), keepdims=False, correction=1),
            sample(real(3, 4), axes=None, keepdims=True, correction=1),
            sample(real(3, 1), axes=(1,), keepdims=False, correction=1, grad=False),
            sample(real(3, 0), axes=(1,), keepdims=False, grad=False),
            sample(
                np.full((2, 3), 1e4, np.float32),
                axes=(1,),
                keepdims=False,
                grad=False,
                dtypes=FLOATS[:1] + FLOATS[2:],
            ),
            special_sample(float32),
        ]


@function
def variance(
    x: Tensor,
    axes: Any = None,
    keepdims: bool = False,
    *,
    mean: Tensor | None = None,
    correction: int = 0,
    name: str | None = None,
) -> Tensor:
    """Mean squared distance of `x` from its mean over `axes`: an int, several, or None for all.

    The divisor is the number of elements less `correction` (0: population, 1: sample). `mean`,
    when it is known, must broadcast to `x` (keepdims). Integers become float32 first; half types
    are computed in float32. Of nothing: NaN. As NumPy's var.

    Example:
        >>> import niello as nl
        >>> nl.variance(nl.Graph().placeholder((2, 3)), axes=-1).shape
        (2,)
    """
    value = as_float(tensor_of("variance", x))
    known = known_axes("variance", axes, x.rank)
    less = integer("variance", correction, "the correction")
    if less < 0:
        raise AttributeValueError("variance", "the correction must not be negative", received=less)
    if mean is None:
        return apply(Variance(known, bool(keepdims), less), value, name=name)
    w = wide(value)
    centred = w - cast_to(mean, w.dtype)
    found = apply(Mean(known, bool(keepdims), less), centred * centred)
    return cast_to(found, value.dtype)


@function
def standard_deviation(
    x: Tensor,
    axes: Any = None,
    keepdims: bool = False,
    *,
    correction: int = 0,
    name: str | None = None,
) -> Tensor:
    """Square root of the variance of `x` over `axes`; see `variance`.

    Its gradient is infinite, or NaN, where the variance is zero. As NumPy's std.

    Example:
        >>> import niello as nl
        >>> nl.standard_deviation(nl.Graph().placeholder((2, 3)), axes=-1).shape
        (2,)
    """
    found = wide(as_float(tensor_of("standard_deviation", x)))
    root = variance(found, axes, keepdims, correction=correction).sqrt(name=name)
    return cast_to(root, x.dtype) if x.dtype.is_float else root
