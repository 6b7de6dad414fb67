"""Complex tensors: made of real ones, and taken apart.

complex64 is a pair of float32, complex128 of float64, complex32 of float16. Gradients are those of
PyTorch: of a real loss L with respect to z = x + iy, dL/dx + i dL/dy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import COMPLEX, DType, float16, float32, float64
from niello.core.errors import DTypeError
from niello.core.records import frozen
from niello.core.shapes import broadcast_shapes
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Planes, Sample, Trait, register, sample
from niello.graph.opdef import real as reals
from niello.graph.tensor import Tensor
from niello.ops import complex_planes
from niello.ops.define import cast_to, check_dtype, half_as_float32, operands, unbroadcast
from niello.ops.movement import apply, tensor_of

PAIRS: dict[DType, DType] = {d.plane: d for d in COMPLEX}


def _samples(*, grad: bool = True) -> list[Sample]:
    corners = np.array([1 + 2j, -3 + 0j, 0 - 1j, -0.5 - 0.25j, 0 + 0j])
    return [
        sample(reals(2, 3), grad=grad),
        sample(reals(), grad=grad),
        sample(reals(0, 3), grad=grad),
        sample(corners, grad=False),
    ]


class OfComplex(Op):
    """Base of ops of one complex tensor."""

    traits: ClassVar[Trait] = Trait.ELEMENTWISE
    dtypes: ClassVar[tuple[DType, ...]] = COMPLEX

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return TensorType(x.shape, x.dtype.plane)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return _samples()


@register
@frozen
class Complex(Op):
    name: ClassVar[str] = "complex"
    traits: ClassVar[Trait] = Trait.ELEMENTWISE
    dtypes: ClassVar[tuple[DType, ...]] = (float16, float32, float64)
    doc: ClassVar[str] = "The complex tensor with the given real and imaginary parts, broadcast."

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        check_dtype(self.name, y.dtype, (x.dtype,))
        return TensorType(broadcast_shapes(self.name, x.shape, y.shape), PAIRS[x.dtype])

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = np.empty(np.broadcast_shapes(x.shape, y.shape), PAIRS[dtypes.dtype(x.dtype)].numpy)
        parts = found.reshape(-1).view(x.dtype).reshape(*found.shape, 2)
        parts[..., 0], parts[..., 1] = x, y
        return found

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        g = gradients[0]
        return [unbroadcast(part, x) for part, x in zip((real(g), imag(g)), inputs, strict=True)]

    def planes(self, x: Tensor, y: Tensor) -> Planes:
        shape = broadcast_shapes(self.name, x.shape, y.shape)
        x, y = (t if t.shape == shape else t.broadcast_to(shape) for t in (x, y))
        return Planes(x, y)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(reals(2, 3), reals(2, 3)),
            sample(reals(2, 1), reals(3)),
            sample(reals(0, 3), reals(3)),
        ]


@register
@frozen
class Real(OfComplex):
    name: ClassVar[str] = "real"
    doc: ClassVar[str] = "The real part of each element."

    def reference(self, x: np.ndarray) -> np.ndarray:
        return _parts(x)[..., 0]

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [complex_(gradients[0], gradients[0] * 0.0)]

    def planes(self, z: Planes) -> Tensor:
        return z.real


@register
@frozen
class Imaginary(OfComplex):
    name: ClassVar[str] = "imag"
    doc: ClassVar[str] = "The imaginary part of each element."

    def reference(self, x: np.ndarray) -> np.ndarray:
        return _parts(x)[..., 1]

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [complex_(gradients[0] * 0.0, gradients[0])]

    def planes(self, z: Planes) -> Tensor:
        return z.imaginary


@register
@frozen
class Modulus(OfComplex):
    name: ClassVar[str] = "modulus"
    doc: ClassVar[str] = "The absolute value of each complex element; its gradient at 0 is 0."

    def reference(self, x: np.ndarray) -> np.ndarray:
        found = np.abs(x.astype(np.complex64) if x.dtype.itemsize == 4 else x)
        return found.astype(dtypes.dtype(x.dtype).plane.numpy)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (z,), (y,) = inputs, outputs
        scale = opdef.functions()["divide_no_nan"](gradients[0], y)
        return [complex_(scale * real(z), scale * imag(z))]

    def planes(self, z: Planes) -> Tensor:
        return complex_planes.modulus(z)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *_samples(),
            sample(np.array([1e30 + 1e30j, 1e-30j]), dtypes=COMPLEX[1:], grad=False),
        ]


@register
@frozen
class Angle(OfComplex):
    name: ClassVar[str] = "angle"
    doc: ClassVar[str] = "The angle of each complex element in radians, from -pi to pi."

    def reference(self, x: np.ndarray) -> np.ndarray:
        wide = x.astype(np.complex64) if x.dtype.itemsize == 4 else x
        return np.angle(wide).astype(dtypes.dtype(x.dtype).plane.numpy)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        x, y = real(inputs[0]), imag(inputs[0])
        scale = opdef.functions()["divide_no_nan"](gradients[0], x * x + y * y)
        return [complex_(-(scale * y), scale * x)]

    def planes(self, z: Planes) -> Tensor:
        return complex_planes.phase(z)


@register
@frozen
class Conjugate(OfComplex):
    name: ClassVar[str] = "conjugate"
    doc: ClassVar[str] = "Each element with the sign of its imaginary part changed."

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(half_as_float32(np.conjugate, [x]))

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        # `gradients` conjugates what arrives and what is given, as for holomorphic functions.
        return [conj(gradients[0])]

    def planes(self, z: Planes) -> Planes:
        return Planes(z.real, -z.imaginary)


def _parts(x: np.ndarray) -> np.ndarray:
    """A complex array as a real one with a last axis of two."""
    part = dtypes.dtype(x.dtype).plane.numpy
    return np.ascontiguousarray(x).reshape(-1).view(part).reshape(*x.shape, 2)


def _complex_tensor(asked: str, x: Any) -> Tensor:
    tensor = tensor_of(asked, x)
    if not (tensor.dtype.is_complex or tensor.dtype.is_float):
        raise DTypeError(
            asked,
            "takes complex and floating-point tensors",
            received=tensor.dtype.name,
            advice="Cast it first",
            dtype=tensor.dtype,
        )
    return tensor


@opdef.plain_function
def complex(x: Any, y: Any = 0.0, *, name: str | None = None) -> Tensor:
    """The complex tensor x + iy; the parts broadcast.

    float16 parts make complex32, float32 complex64, float64 complex128; integers and bfloat16
    become float32 first. Raises DTypeError for complex parts.

    Example:
        >>> import niello as nl
        >>> x = nl.Graph().placeholder((3,))
        >>> nl.complex(x, -1.0).type
        complex64[3]
    """
    parts = operands("complex", x, y)
    kind = parts[0].dtype if parts[0].dtype in PAIRS else float32
    if parts[0].dtype.is_complex:
        raise DTypeError(
            "complex", "its parts are real", received=parts[0].dtype.name, advice="Use nl.real(x)"
        )
    return apply(Complex(), *(cast_to(p, kind) for p in parts), name=name)


complex_ = complex


@opdef.function
def real(x: Any, *, name: str | None = None) -> Tensor:
    """The real part of each element; a real tensor is its own. As NumPy's real.

    Raises DTypeError for integers.

    Example:
        >>> import niello as nl
        >>> nl.real(nl.Graph().placeholder((3,), nl.complex64)).type
        float32[3]
    """
    tensor = _complex_tensor("real", x)
    return apply(Real(), tensor, name=name) if tensor.dtype.is_complex else tensor


@opdef.function
def imag(x: Any, *, name: str | None = None) -> Tensor:
    """The imaginary part of each element; zeros for a real tensor. As NumPy's imag.

    Raises DTypeError for integers.

    Example:
        >>> import niello as nl
        >>> nl.imag(nl.Graph().placeholder((3,), nl.complex64)).type
        float32[3]
    """
    tensor = _complex_tensor("imag", x)
    return apply(Imaginary(), tensor, name=name) if tensor.dtype.is_complex else tensor * 0.0


@opdef.function
def conj(x: Any, *, name: str | None = None) -> Tensor:
    """Each element with the sign of its imaginary part changed; a real tensor is its own.

    As NumPy's conj. Raises DTypeError for integers.

    Example:
        >>> import niello as nl
        >>> nl.conj(nl.Graph().placeholder((3,), nl.complex64)).type
        complex64[3]
    """
    tensor = _complex_tensor("conj", x)
    return apply(Conjugate(), tensor, name=name) if tensor.dtype.is_complex else tensor


@opdef.function
def angle(x: Any, *, name: str | None = None) -> Tensor:
    """The angle of each element in radians, from -pi to pi: 0 or pi for a real tensor.

    As NumPy's angle. Raises DTypeError for integers.

    Example:
        >>> import niello as nl
        >>> nl.angle(nl.Graph().placeholder((3,), nl.complex64)).type
        float32[3]
    """
    tensor = _complex_tensor("angle", x)
    if tensor.dtype.is_complex:
        return apply(Angle(), tensor, name=name)
    return opdef.functions()["atan2"](tensor * 0.0, tensor, name=name)  # type: ignore[no-any-return]


@opdef.function
def absolute_square(x: Any, *, name: str | None = None) -> Tensor:
    """real(x)**2 + imag(x)**2 of each element: a real tensor.

    Example:
        >>> import niello as nl
        >>> nl.absolute_square(nl.Graph().placeholder((3,), nl.complex64)).type
        float32[3]
    """
    tensor = _complex_tensor("absolute_square", x)
    if not tensor.dtype.is_complex:
        return opdef.functions()["square"](tensor, name=name)  # type: ignore[no-any-return]
    x, y = real(tensor), imag(tensor)
    return opdef.functions()["add"](x * x, y * y, name=name)  # type: ignore[no-any-return]


@opdef.plain_function
def polar(modulus: Any, angle: Any, *, name: str | None = None) -> Tensor:
    """The complex tensor of these absolute values and angles in radians. As PyTorch's polar.

    Example:
        >>> import niello as nl
        >>> x = nl.Graph().placeholder((3,))
        >>> nl.polar(x, x).type
        complex64[3]
    """
    radius, turn = operands("polar", modulus, angle)
    return complex(radius * turn.cos(), radius * turn.sin(), name=name)


@opdef.function
def planar(x: Tensor, *, name: str | None = None) -> Tensor:
    """All real parts, then all imaginary parts, along the last axis, which doubles.

    A real tensor is its own. Raises ShapeError for a scalar.

    Example:
        >>> import niello as nl
        >>> nl.planar(nl.Graph().placeholder((2, 3), nl.complex64)).type
        float32[2, 6]
    """
    tensor = _complex_tensor("planar", x)
    if not tensor.dtype.is_complex:
        return tensor
    return opdef.functions()["concat"]([real(tensor), imag(tensor)], axis=-1, name=name)  # type: ignore[no-any-return]
