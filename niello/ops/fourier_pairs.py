"""Fourier transforms of real and imaginary parts that lie side by side, each as one operation.

What `fourier.py` has of complex tensors becomes these; a device whose library transforms such pairs
takes them whole, others get what `fourier_lengths.py` makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, float16, float32, float64
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Planes, Sample, Trait, not_differentiable, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops import fourier_lengths
from niello.ops.define import check_dtype
from niello.ops.fourier_lengths import _pairs as joined
from niello.ops.fourier_lengths import _parts as parted
from niello.ops.movement import require_rank

Array = np.ndarray
REALS = (float16, float32, float64)


def _complex(pairs: Array) -> Array:
    wide = pairs.astype(np.float64)
    found: Array = wide[..., 0] + 1j * wide[..., 1]
    return found


def _pairs(z: Array, dtype: Any) -> Array:
    return np.stack([z.real, z.imag], -1).astype(dtype)


@register
@frozen
class FourierPairs(Op):
    axes: tuple[int, ...]
    inverse: bool  # the sign of the exponent: plus
    scales: tuple[float, ...]  # a factor for each axis
    name: ClassVar[str] = "fourier_pairs"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = REALS
    doc: ClassVar[str] = (
        "The discrete Fourier transform along several axes of real and imaginary parts [..., 2], "
        "times a factor for each axis (NumPy's fftn)."
    )
    grad = not_differentiable("fourier, which it is the form of on pairs, has its own")

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        require_rank(self.name, x, "to transform axes")
        return x

    def reference(self, x: Array) -> Array:
        z = _complex(x)
        if not z.size:
            return x
        found = np.fft.fftn(z.conj() if self.inverse else z, axes=self.axes)
        found = found.conj() if self.inverse else found
        return _pairs(found * math.prod(self.scales), x.dtype)

    def decompose(self, x: Tensor) -> Tensor:
        """One axis after the other; each of them is asked for again."""
        if len(self.axes) == 1:
            z = fourier_lengths.transform(parted(x), self.axes[0], self.inverse, self.scales[0])
            return joined(z)
        for axis, scale in zip(self.axes, self.scales, strict=True):
            x = x.graph.apply(FourierPairs((axis,), self.inverse, (scale,)), x)  # type: ignore[assignment]
        return x

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(shape: tuple[int, ...], axes: tuple[int, ...], inverse: bool) -> Sample:
            scales = tuple(0.5 for _ in axes)
            return sample(real(*shape, 2), axes=axes, inverse=inverse, scales=scales, tolerance=20)

        return [
            one((3, 8), (1,), False),
            one((8, 3), (0,), True),
            one((4, 6), (0, 1), False),
            one((2, 5, 3), (1, 2), True),
            one((4, 3, 2), (2, 0), False),
            one((0, 4), (1,), False),
            one((2, 17), (1,), False),
        ]


@register
@frozen
class RealPairs(Op):
    axis: int
    inverse: bool
    scale: float
    axes: tuple[int, ...] = ()  # transformed afterwards, whole
    scales: tuple[float, ...] = ()
    name: ClassVar[str] = "real_pairs"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = REALS
    doc: ClassVar[str] = (
        "The first n // 2 + 1 elements of the transform of a real tensor along an axis, then "
        "along others, as real and imaginary parts [..., 2] (NumPy's rfft)."
    )
    grad = not_differentiable("real_fourier, which it is the form of on pairs, has its own")

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        require_rank(self.name, x, "to transform an axis")
        shape = list(x.shape or ())
        n = shape[self.axis]
        shape[self.axis] = None if n is None else n // 2 + 1
        return TensorType((*shape, 2), x.dtype)

    def reference(self, x: Array) -> Array:
        found = np.fft.rfft(x.astype(np.float64), axis=self.axis)
        found = np.fft.fftn(found, axes=self.axes) if self.axes and found.size else found
        found = found * (self.scale * math.prod(self.scales))
        return _pairs(found.conj() if self.inverse else found, x.dtype)

    def decompose(self, x: Tensor) -> Tensor:
        if self.axes:
            half = x.graph.apply(RealPairs(self.axis, self.inverse, self.scale), x)
            return x.graph.apply(FourierPairs(self.axes, self.inverse, self.scales), half)  # type: ignore[return-value, arg-type]
        z = fourier_lengths.real_transform(x, self.axis, self.inverse, self.scale)
        return joined(z)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(shape: tuple[int, ...], axis: int, *axes: int) -> Sample:
            scales, inverse = tuple(0.5 for _ in axes), axis != 1
            return sample(
                real(*shape), axis=axis, inverse=inverse, scale=0.5, axes=axes, scales=scales,
                tolerance=20,
            )  # fmt: skip

        return [
            *(one(shape, 1) for shape in ((3, 8), (2, 5), (2, 1), (4, 2, 3))),
            one((6, 3), 0),
            one((4, 6), 1, 0),
            one((4, 6, 3), 0, 2, 1),
        ]


@register
@frozen
class HermitianPairs(Op):
    axis: int
    inverse: bool
    scale: float
    length: int  # of the result
    axes: tuple[int, ...] = ()  # transformed before, whole
    name: ClassVar[str] = "hermitian_pairs"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = REALS
    doc: ClassVar[str] = (
        "The transform of pairs [..., 2] along some axes, then the real one along another, whose "
        "missing elements are the conjugates of those that are there (NumPy's irfft)."
    )
    grad = not_differentiable("hermitian_fourier, which it is the form of on pairs, has its own")

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        require_rank(self.name, x, "to transform an axis")
        shape = list(x.shape or ())[:-1]
        shape[self.axis] = self.length
        return TensorType(shape, x.dtype)

    def reference(self, x: Array) -> Array:
        z, n = _complex(x), self.length
        z = z if self.inverse else z.conj()
        if self.axes and z.size:
            z = np.fft.ifftn(z, axes=self.axes) * math.prod(z.shape[a] for a in self.axes)
        found = np.fft.irfft(z, n=n, axis=self.axis) * n
        return np.asarray(found * self.scale).astype(x.dtype)

    def decompose(self, x: Tensor) -> Tensor:
        if self.axes:
            ones = (1.0,) * len(self.axes)
            x = x.graph.apply(FourierPairs(self.axes, self.inverse, ones), x)  # type: ignore[assignment]
            return x.graph.apply(replace(self, axes=()), x)  # type: ignore[return-value]
        return fourier_lengths.hermitian_transform(
            parted(x), self.axis, self.inverse, self.scale, self.length
        )

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        cases: list[tuple[tuple[int, ...], int, int]] = [
            ((3, 5), 1, 8), ((4, 3), 0, 6), ((2, 3), 1, 5), ((2, 1), 1, 1), ((2, 2), 1, 2)
        ]  # fmt: skip
        found = [
            sample(real(*s, 2), axis=a, inverse=n % 4 > 0, scale=0.5, length=n, tolerance=20)
            for s, a, n in cases
        ]
        several: dict[str, Any] = {
            "axis": 2,
            "scale": 0.5,
            "length": 4,
            "axes": (0, 1),
            "tolerance": 20,
        }
        return [*found, *(sample(real(2, 3, 3, 2), inverse=i, **several) for i in (False, True))]


# --- what complex tensors become


def transform(z: Planes, axis: int, inverse: bool, scale: float) -> Planes:
    """The transform of both parts along an axis of static size. Several axes, one after the other,
    are one operation; an intermediate result that is needed too is computed beside it."""
    pairs = joined(z)
    axis %= len(pairs.type.static_shape) - 1
    before = pairs.operation.op
    op: Op = FourierPairs((axis,), inverse, (float(scale),))
    if isinstance(before, (FourierPairs, RealPairs)) and before.inverse == inverse:
        axes, scales = (*before.axes, axis), (*before.scales, float(scale))
        first = () if isinstance(before, FourierPairs) else (before.axis,)
        if axis not in (*before.axes, *first):
            op, pairs = replace(before, axes=axes, scales=scales), pairs.operation.inputs[0]
    return _applied(op, pairs)


def real_transform(x: Tensor, axis: int, inverse: bool, scale: float) -> Planes:
    """The first half of the transform of a real tensor."""
    return _applied(RealPairs(axis % len(x.type.static_shape), inverse, float(scale)), x)


def hermitian_transform(z: Planes, axis: int, inverse: bool, scale: float, n: int) -> Tensor:
    """The real transform of n elements of which the first n // 2 + 1 are given."""
    axis %= len(z.real.type.static_shape)
    given = joined(z)
    before = given.operation.op
    axes: tuple[int, ...] = ()
    if isinstance(before, FourierPairs) and before.inverse == inverse and axis not in before.axes:
        axes, scale = before.axes, scale * math.prod(before.scales)
        given = given.operation.inputs[0]
    found = given.graph.apply(HermitianPairs(axis, inverse, float(scale), n, axes), given)
    assert isinstance(found, Tensor)
    return found


def _applied(op: Op, x: Tensor) -> Planes:
    found = x.graph.apply(op, x)
    assert isinstance(found, Tensor)
    return parted(found)
