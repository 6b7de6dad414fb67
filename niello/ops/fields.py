"""Real and complex numbers in routines: one algorithm for both.

A number is a tuple of one or two expressions. Tensors of complex numbers are real ones with a last
axis of two; scratch memory holds real and imaginary parts apart, so that vectors are contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import DType, complex64, complex128, float32, float64
from niello.core.types import TensorType
from niello.graph.opdef import Op, Planes, functions
from niello.graph.tensor import Tensor
from niello.kernel.ir import Expr
from niello.kernel.routine_build import Place, RoutineBuilder

Array = np.ndarray
Number = tuple[Expr, ...]
NUMBERS = (float32, float64, complex64, complex128)


@dataclass(frozen=True)
class Elements:
    """Numbers in memory: in one place (complex ones as pairs), or a place for each part."""

    r: RoutineBuilder
    places: tuple[Place, ...]
    parts: int

    def read(self, at: Any) -> Number:
        """Number `at`."""
        r = self.r
        if len(self.places) == self.parts:
            return tuple(r.read(p, at) for p in self.places)
        return tuple(r.read(self.places[0], at * 2 + part) for part in range(2))

    def write(self, at: Any, value: Sequence[Any]) -> None:
        """Set number `at`."""
        if len(self.places) == self.parts:
            for p, v in zip(self.places, value, strict=True):
                self.r.write(p, at, v)
            return
        for part in range(2):
            self.r.write(self.places[0], at * 2 + part, value[part])


def tensor_elements(r: RoutineBuilder, place: Place, parts: int) -> Elements:
    """The numbers of an input or an output."""
    return Elements(r, (place,), parts)


def scratch(r: RoutineBuilder, dtype: DType, count: int, parts: int) -> Elements:
    """Memory of the team for `count` numbers."""
    return Elements(r, tuple(r.local(dtype, max(count, 1)) for _ in range(parts)), parts)


def shape_of(place: Place, parts: int) -> tuple[int, ...]:
    """The shape in numbers."""
    return place.shape[: len(place.shape) - (parts == 2)]


# --- arithmetic
def plus(a: Number, b: Number) -> Number:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def minus(a: Number, b: Number) -> Number:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def times(a: Number, b: Number) -> Number:
    if len(a) == 1:
        return (a[0] * b[0],)
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def scaled(a: Number, factor: Any) -> Number:
    """Times a real number."""
    return tuple(x * factor for x in a)


def conjugate(a: Number) -> Number:
    return a if len(a) == 1 else (a[0], -a[1])


def size(r: RoutineBuilder, a: Number) -> Expr:
    """The sum of the parts' magnitudes, which is as good as a modulus to compare pivots by."""
    total = r.abs(a[0])
    return total if len(a) == 1 else total + r.abs(a[1])


def square(a: Number) -> Expr:
    """The squared modulus."""
    total = a[0] * a[0]
    return total if len(a) == 1 else total + a[1] * a[1]


def over(r: RoutineBuilder, a: Number, b: Number) -> Number:
    """A quotient, which does not overflow before its result does (Smith, CACM 5, 1962)."""
    if len(a) == 1:
        return (a[0] / b[0],)
    flat = r.abs(b[0]) >= r.abs(b[1])
    large, small = r.where(flat, b[0], b[1]), r.where(flat, b[1], b[0])
    ratio = small / large
    scale = large + small * ratio
    x = r.where(flat, a[0] + a[1] * ratio, a[0] * ratio + a[1])
    y = r.where(flat, a[1] - a[0] * ratio, a[1] * ratio - a[0])
    return x / scale, y / scale


def chosen(r: RoutineBuilder, condition: Expr, a: Number, b: Number) -> Number:
    return tuple(r.where(condition, x, y) for x, y in zip(a, b, strict=True))


def number(r: RoutineBuilder, value: float, dtype: DType, parts: int) -> Number:
    """A real number as one of the field."""
    return tuple(r.const(value if part == 0 else 0.0, dtype) for part in range(parts))


def sum_of(r: RoutineBuilder, count: Any, body: Any, parts: int, dtype: DType) -> Number:
    """The sum of the numbers `body(m)`."""
    if parts == 1:
        return (r.reduce("add", count, lambda m: body(m)[0]),)
    zero = r.const(0.0, dtype)
    return r.fold(count, body, (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]))


# --- tensors
def as_numbers(a: Array, parts: int) -> Array:
    """Arrays with a last axis of two as complex ones."""
    if parts == 1:
        return a
    flat = np.ascontiguousarray(a).reshape(-1)
    kind = complex64 if dtypes.dtype(a.dtype) is float32 else complex128
    return flat.view(kind.numpy).reshape(a.shape[:-1])


def as_parts(a: Array, parts: int) -> Array:
    """The opposite; real arrays get a zero imaginary part."""
    if parts == 1:
        return a
    if not np.iscomplexobj(a):
        a = a.astype(np.complex64 if a.dtype == np.float32 else np.complex128)
    return np.stack([a.real, a.imag], -1)


def pairs_of(z: Planes) -> Tensor:
    """Both parts along a last axis."""
    if z.pairs is not None:
        return z.pairs
    return functions()["stack"]([z.real, z.imaginary], axis=-1)  # type: ignore[no-any-return]


def planes_of(pairs: Tensor) -> Planes:
    """A tensor with a last axis of two as planes."""
    real, imaginary = functions()["unstack"](pairs, axis=-1)
    return Planes(real, imaginary, pairs)


def on_pairs(op: Op, inputs: Sequence[Any], which: Sequence[bool]) -> list[Any]:
    """Apply an operation on pairs to planes; `which` of its results are complex."""
    given = [pairs_of(z) if isinstance(z, Planes) else z for z in inputs]
    outputs = given[0].graph.add(op, given).outputs
    return [planes_of(t) if pair else t for t, pair in zip(outputs, which, strict=True)]


def extended(type: TensorType, shape: Any, parts: int) -> TensorType:
    """A type of `type`'s dtype and a shape in numbers."""
    if shape is None:
        return TensorType(None, type.dtype)
    return TensorType((*shape, 2) if parts == 2 else tuple(shape), type.dtype)


def number_shape(type: TensorType, parts: int) -> Any:
    """The shape in numbers, or None."""
    if type.shape is None:
        return None
    return type.shape[:-1] if parts == 2 else type.shape
