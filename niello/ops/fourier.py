"""Fourier transforms: complex to complex, real to complex, complex to real; any axes, any length.

A transform over several axes is one after the other. `norm` says how results are scaled, as in
NumPy, with "none" for no scaling in either direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import COMPLEX, DType, float16, float32, float64
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Planes,
    Sample,
    Trait,
    function,
    functions,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.ops import fourier_lengths, fourier_pairs
from niello.ops.complex import PAIRS
from niello.ops.complex import complex as complex_of
from niello.ops.define import cast_to, check_dtype
from niello.ops.movement import apply, integer, known_axes, known_axis, tensor_of

Array = np.ndarray
REALS = (float16, float32, float64)
NORMS = ("backward", "ortho", "forward", "none")


def _wide(x: Array) -> Array:
    """In double precision, so that the reference is better than what it judges."""
    return x.astype(np.complex128 if dtypes.dtype(x.dtype).is_complex else np.float64)


def _transformed(z: Array, axis: int, inverse: bool) -> Array:
    n = z.shape[axis]
    if n == 0:
        return z
    return np.fft.ifft(z, axis=axis) * n if inverse else np.fft.fft(z, axis=axis)


class Transform(Op):
    """What the transforms have in common: an axis, and a factor for the result."""

    traits: ClassVar[Trait] = Trait.EXPENSIVE
    axis: int
    inverse: bool
    scale: float

    def size(self, x: TensorType) -> int | None:
        """How many elements are transformed together."""
        if x.shape is None:
            return None
        n = x.shape[known_axis(self.name, self.axis, len(x.shape))]
        if n == 0:
            raise ShapeError(
                self.name,
                "a transform is of at least one element",
                received=f"{show(x.shape)} along axis {self.axis}",
            )
        return n


@register
@frozen
class Fourier(Transform):
    axis: int
    inverse: bool  # the sign of the exponent: plus
    scale: float
    name: ClassVar[str] = "fourier"
    dtypes: ClassVar[tuple[DType, ...]] = COMPLEX
    doc: ClassVar[str] = (
        "sum over j of x[j] exp(-2 pi i j k / n), or with `inverse` exp(+2 pi i j k / n), times "
        "`scale`, along an axis (NumPy's fft)."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        self.size(x)
        return x

    def reference(self, x: Array) -> Array:
        return (_transformed(_wide(x), self.axis, self.inverse) * self.scale).astype(x.dtype)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        # The matrix is symmetric; `gradients` sees to the conjugation.
        return [apply(self, gradients[0])]

    def planes(self, z: Planes) -> Planes:
        return fourier_pairs.transform(z, self.axis, self.inverse, self.scale)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *(
                sample(real(2, n), axis=1, inverse=bool(n % 2), scale=1.0, tolerance=20)
                for n in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 17, 19, 30, 37)
            ),
            sample(real(5, 3, 2), axis=0, inverse=False, scale=0.2, tolerance=20),
            sample(real(2, 6, 3), axis=-2, inverse=True, scale=1.0, tolerance=20),
            sample(real(0, 4), axis=1, inverse=False, scale=1.0),
            sample(real(300), axis=0, inverse=False, scale=1.0, grad=False, tolerance=40),
            sample(real(2, 256), axis=1, inverse=True, scale=1.0, grad=False, tolerance=40),
            sample(real(1, 211), axis=1, inverse=False, scale=1.0, grad=False, tolerance=100),
        ]


@register
@frozen
class RealFourier(Transform):
    axis: int
    inverse: bool
    scale: float
    name: ClassVar[str] = "real_fourier"
    dtypes: ClassVar[tuple[DType, ...]] = REALS
    doc: ClassVar[str] = (
        "The first n // 2 + 1 elements of the transform of a real tensor along an axis; the others "
        "are their conjugates (NumPy's rfft)."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        n = self.size(x)
        if x.shape is None:
            return TensorType(None, PAIRS[x.dtype])
        shape = list(x.shape)
        shape[known_axis(self.name, self.axis, len(shape))] = None if n is None else n // 2 + 1
        return TensorType(shape, PAIRS[x.dtype])

    def reference(self, x: Array) -> Array:
        found = _transformed(_wide(x) + 0j, self.axis, self.inverse)
        kept = np.take(found, range(x.shape[self.axis] // 2 + 1), axis=self.axis)
        return (kept * self.scale).astype(PAIRS[dtypes.dtype(x.dtype)].numpy)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (x,) = inputs
        return [apply(RealFourierGradient(self.axis, self.inverse, self.scale), gradients[0], x)]

    def planes(self, x: Tensor) -> Planes:
        return fourier_pairs.real_transform(x, self.axis, self.inverse, self.scale)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return _real_samples()


def _real_samples() -> list[Sample]:
    found = [
        sample(real(2, n), axis=1, inverse=bool(n % 3), scale=1.0, tolerance=20)
        for n in (1, 2, 3, 4, 5, 6, 8, 10, 16, 34)
    ]
    return [*found, sample(real(4, 3), axis=0, inverse=False, scale=0.5, tolerance=20)]


@register
@frozen
class RealFourierGradient(Transform):
    """Inputs: the gradient of the result, and the tensor, for its shape."""

    axis: int
    inverse: bool
    scale: float
    name: ClassVar[str] = "real_fourier_gradient"
    traits: ClassVar[Trait] = Trait.EXPENSIVE | Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = COMPLEX
    doc: ClassVar[str] = "Gradient of the real transform with respect to its tensor."

    def infer(self, g: TensorType, like: TensorType) -> TensorType:
        check_dtype(self.name, g.dtype, self.dtypes)
        return TensorType(like.shape, g.dtype.plane)

    def reference(self, g: Array, like: Array) -> Array:
        n = like.shape[self.axis]
        widths = [(0, 0)] * g.ndim
        widths[self.axis] = (0, n - g.shape[self.axis])
        found = _transformed(np.pad(_wide(g), widths), self.axis, not self.inverse)
        return np.asarray(found.real * self.scale).astype(dtypes.dtype(g.dtype).plane.numpy)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(RealFourier(self.axis, self.inverse, self.scale), gradients[0]), None]

    def planes(self, g: Planes, like: Any) -> Tensor:
        n = (like.real if isinstance(like, Planes) else like).type.static_shape[self.axis]
        padded = fourier_lengths.resized(g, self.axis, n)
        return fourier_pairs.transform(padded, self.axis, not self.inverse, self.scale).real

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, n // 2 + 1), real(2, n), axis=1, inverse=False, scale=0.5, tolerance=20)
            for n in (1, 2, 3, 6, 7)
        ]


@register
@frozen
class HermitianFourier(Transform):
    """`odd`: the result has 2 (m - 1) + 1 elements, otherwise 2 (m - 1)."""

    axis: int
    inverse: bool
    scale: float
    odd: bool
    name: ClassVar[str] = "hermitian_fourier"
    dtypes: ClassVar[tuple[DType, ...]] = COMPLEX
    doc: ClassVar[str] = (
        "The real transform along an axis of a tensor whose missing elements are the conjugates of "
        "those that are there (NumPy's irfft); imaginary parts that must be zero are ignored."
    )

    def length(self, m: int) -> int:
        """The size of the result for m elements."""
        return max(2 * (m - 1) + self.odd, 1)

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        m = self.size(x)
        if x.shape is None:
            return TensorType(None, x.dtype.plane)
        shape = list(x.shape)
        shape[known_axis(self.name, self.axis, len(shape))] = None if m is None else self.length(m)
        return TensorType(shape, x.dtype.plane)

    def reference(self, x: Array) -> Array:
        z = np.moveaxis(_wide(x), self.axis, -1)
        n = self.length(z.shape[-1])
        found = np.fft.irfft(z if self.inverse else z.conj(), n=n, axis=-1) * (n * self.scale)
        return np.moveaxis(found, -1, self.axis).astype(dtypes.dtype(x.dtype).plane.numpy)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        g = gradients[0]
        whole = apply(RealFourier(self.axis, not self.inverse, self.scale), g)
        return [apply(Doubled(self.axis, self.odd), whole)]

    def planes(self, z: Planes) -> Tensor:
        return fourier_pairs.hermitian_transform(
            z, self.axis, self.inverse, self.scale, self.length(z.real.type.static_shape[self.axis])
        )

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *(
                sample(real(2, m), axis=1, inverse=bool(m % 2), scale=0.5, odd=odd, tolerance=20)
                for m in (1, 2, 3, 4, 5, 9)
                for odd in (False, True)
            ),
            sample(real(4, 2), axis=0, inverse=True, scale=1.0, odd=False, tolerance=20),
        ]


@register
@frozen
class Doubled(Op):
    axis: int
    odd: bool
    name: ClassVar[str] = "hermitian_doubled"
    traits: ClassVar[Trait] = Trait.LINEAR
    doc: ClassVar[str] = (
        "Twice each element along an axis, but for those of a half spectrum that stand alone: the "
        "first, and with an even number of elements behind it the last."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return x

    def _weights(self, m: int, rank: int) -> Array:
        weights = np.full(m, 2.0)
        weights[0] = 1.0
        if not self.odd:
            weights[-1] = 1.0
        shape = [1] * rank
        shape[self.axis] = m
        return weights.reshape(shape)

    def reference(self, x: Array) -> Array:
        return (_wide(x) * self._weights(x.shape[self.axis], x.ndim)).astype(x.dtype)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(self, gradients[0])]

    def decompose(self, x: Tensor) -> Tensor:
        shape = x.type.static_shape
        weights = self._weights(shape[self.axis], len(shape))
        return x * x.graph.constant(weights.astype(x.dtype.numpy))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 5), axis=1, odd=False),
            sample(real(4, 2), axis=0, odd=True),
            sample(real(1), axis=0, odd=False),
        ]


# --- what users call


def _factor(asked: str, norm: str, inverse: bool, n: int | None) -> float:
    """What a result is multiplied by."""
    if norm not in NORMS:
        raise AttributeValueError(asked, f"norm is one of {', '.join(NORMS)}", received=repr(norm))
    if norm == "none" or ((norm == "backward") != inverse and norm != "ortho"):
        return 1.0
    if n is None:
        raise ShapeError(
            asked,
            f"the size of the axis must be known for norm={norm!r}",
            received="an unknown size",
            advice='Use norm="none" and divide, or give the placeholder a size',
        )
    return 1.0 / (math.sqrt(n) if norm == "ortho" else n)


def _axes(asked: str, x: Tensor, axes: Any) -> tuple[int, ...]:
    listed = (axes,) if isinstance(axes, int) else tuple(axes)
    known = [known_axis(asked, a, x.rank) for a in listed]
    if len(set(known)) != len(known):
        raise AttributeValueError(asked, "an axis is named twice", received=axes)
    return tuple(known)


def _as_complex(asked: str, x: Any) -> Tensor:
    tensor = tensor_of(asked, x)
    if tensor.dtype.is_complex:
        return tensor
    return complex_of(tensor if tensor.dtype in REALS else cast_to(tensor, float32), 0.0)


def _sized(x: Tensor, axis: int) -> int | None:
    return None if x.shape is None else x.shape[axis]


def _all_axes(asked: str, x: Any, axes: Any, norm: str, inverse: bool) -> Tensor:
    tensor = _as_complex(asked, x)
    for axis in _axes(asked, tensor, axes):
        factor = _factor(asked, norm, inverse, _sized(tensor, axis))
        tensor = apply(Fourier(axis, inverse, factor), tensor)
    return tensor


def _named(x: Tensor, name: str | None) -> Tensor:
    return x if name is None else functions()["identity"](x, name=name)  # type: ignore[no-any-return]


@function
def fft(x: Any, axes: Any = -1, *, norm: str = "backward", name: str | None = None) -> Tensor:
    """The discrete Fourier transform along `axes`: sum of x[j] exp(-2 pi i j k / n).

    `x` is complex, or real and becomes so; `axes` is an int or several; the shape stays. `norm`:
    "backward" scales the inverse by 1 / n, "forward" this one, "ortho" both by 1 / sqrt(n), "none"
    neither. Any length. Raises ShapeError for an axis of size zero or one that does not exist,
    AttributeValueError for another norm. As NumPy's fft and fftn.

    Example:
        >>> import niello as nl
        >>> nl.fft(nl.Graph().placeholder((4, 100), nl.complex64), axes=(0, 1)).type
        complex64[4, 100]
    """
    return _named(_all_axes("fft", x, axes, norm, False), name)


@function
def ifft(x: Any, axes: Any = -1, *, norm: str = "backward", name: str | None = None) -> Tensor:
    """The inverse of `fft` with the same norm: sum of x[j] exp(+2 pi i j k / n), scaled.

    Raises what `fft` raises. As NumPy's ifft and ifftn.

    Example:
        >>> import niello as nl
        >>> nl.ifft(nl.Graph().placeholder((4, 100), nl.complex64)).type
        complex64[4, 100]
    """
    return _named(_all_axes("ifft", x, axes, norm, True), name)


@function
def rfft(x: Any, axes: Any = -1, *, norm: str = "backward", name: str | None = None) -> Tensor:
    """The transform of a real tensor; the last axis named keeps its first n // 2 + 1 elements.

    The others are their conjugates. `norm` as in `fft`. Raises DTypeError for a complex tensor and
    what `fft` raises. As NumPy's rfft and rfftn.

    Example:
        >>> import niello as nl
        >>> nl.rfft(nl.Graph().placeholder((4, 100)), axes=(0, 1)).type
        complex64[4, 51]
    """
    tensor = tensor_of("rfft", x)
    check_dtype("rfft", tensor.dtype, dtypes.ALL)
    tensor = tensor if tensor.dtype in REALS else cast_to(tensor, float32)
    *others, last = _axes("rfft", tensor, axes)
    factor = _factor("rfft", norm, False, _sized(tensor, last))
    half = apply(RealFourier(last, False, factor), tensor)
    return _named(_all_axes("rfft", half, others, norm, False), name)


@function
def irfft(
    x: Any,
    axes: Any = -1,
    *,
    odd: bool = False,
    norm: str = "backward",
    name: str | None = None,
) -> Tensor:
    """The inverse of `rfft`: a real tensor with 2 (m - 1) elements along the last axis named.

    With `odd` one more. The missing half is taken to be the conjugate of the given one; imaginary
    parts that must be zero are ignored. `norm` as in `fft`. Raises what `fft` raises. As NumPy's
    irfft and irfftn.

    Example:
        >>> import niello as nl
        >>> nl.irfft(nl.Graph().placeholder((4, 51), nl.complex64)).type
        float32[4, 100]
    """
    tensor = _as_complex("irfft", x)
    *others, last = _axes("irfft", tensor, axes)
    tensor = _all_axes("irfft", tensor, others, norm, True)
    m = _sized(tensor, last)
    length = None if m is None else max(2 * (m - 1) + bool(odd), 1)
    factor = _factor("irfft", norm, True, length)
    return apply(HermitianFourier(last, True, factor, bool(odd)), tensor, name=name)


def _shifted(asked: str, x: Any, axes: Any, back: bool, name: str | None) -> Tensor:
    tensor = tensor_of(asked, x)
    chosen = known_axes(asked, axes, tensor.rank)
    if chosen is None or not all(_sized(tensor, a) is not None for a in chosen):
        raise ShapeError(asked, "the sizes of the axes must be known", received=str(tensor.type))
    sizes = [integer(asked, _sized(tensor, a), "a size") for a in chosen]
    by = [(-(n // 2) if back else n // 2) for n in sizes]
    return functions()["roll"](tensor, by, list(chosen), name=name)  # type: ignore[no-any-return]


@function
def fftshift(x: Any, axes: Any = None, *, name: str | None = None) -> Tensor:
    """The element of frequency zero moved to the middle of each axis. As NumPy's fftshift.

    Example:
        >>> import niello as nl
        >>> nl.fftshift(nl.Graph().placeholder((4, 5))).shape
        (4, 5)
    """
    return _shifted("fftshift", x, axes, False, name)


@function
def ifftshift(x: Any, axes: Any = None, *, name: str | None = None) -> Tensor:
    """The inverse of `fftshift`. As NumPy's ifftshift.

    Example:
        >>> import niello as nl
        >>> nl.ifftshift(nl.Graph().placeholder((4, 5))).shape
        (4, 5)
    """
    return _shifted("ifftshift", x, axes, True, name)
