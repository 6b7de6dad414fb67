"""Element types: what a tensor holds, and how two of them combine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from niello.core.errors import DTypeError

KINDS = ("bool", "uint", "int", "float", "complex")


@dataclass(frozen=True, eq=False, repr=False)
class DType:
    """An element type. Two dtypes are equal only when they are the same object."""

    name: str
    kind: str
    bits: int

    @property
    def itemsize(self) -> int:
        """Bytes that one element takes in memory."""
        return max(1, self.bits // 8)

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype with the same layout (bfloat16 through ml_dtypes)."""
        return _numpy_dtype(self.name)

    @property
    def plain_numpy(self) -> np.dtype[Any]:
        """A NumPy dtype of this width that its array interface knows: integers for ml_dtypes'."""
        known = self.numpy.isbuiltin == 1  # 2 for those of ml_dtypes, whatever kind they claim
        return self.numpy if known else np.dtype(f"uint{8 * self.numpy.itemsize}")

    @property
    def is_float(self) -> bool:
        """True for floating-point types."""
        return self.kind == "float"

    @property
    def is_complex(self) -> bool:
        """True for complex types, which passes split into two tensors of `plane`."""
        return self.kind == "complex"

    @property
    def is_inexact(self) -> bool:
        """True for floating-point and complex types: those that have gradients."""
        return self.kind in ("float", "complex")

    @property
    def plane(self) -> DType:
        """The type of the real and of the imaginary part of a complex type; others are their own.

        complex32 is a pair of float16."""
        return BY_NAME[f"float{self.bits // 2}"] if self.is_complex else self

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers; bool is none."""
        return self.kind in ("int", "uint")

    @property
    def is_signed(self) -> bool:
        """True for types with negative values."""
        return self.kind in ("int", "float", "complex")

    @property
    def is_storage(self) -> bool:
        """True for types that are only stored, cast and quantized: kernels compute in others."""
        return self in STORAGE

    @property
    def is_native(self) -> bool:
        """True for types that NumPy has itself, rather than through ml_dtypes."""
        return self.name not in ("bfloat16", "complex32") and not self.is_storage

    @property
    def is_half(self) -> bool:
        """True for the 16-bit floats, which kernels compute in float32."""
        return self.kind == "float" and self.bits == 16

    @property
    def min(self) -> int | float:
        """Smallest finite value."""
        return dtype_range(self)[0]

    @property
    def max(self) -> int | float:
        """Largest finite value."""
        return dtype_range(self)[1]

    def __repr__(self) -> str:
        return f"niello.{self.name}"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return (dtype, (self.name,))


bool_ = DType("bool", "bool", 8)
int8 = DType("int8", "int", 8)
int16 = DType("int16", "int", 16)
int32 = DType("int32", "int", 32)
int64 = DType("int64", "int", 64)
uint8 = DType("uint8", "uint", 8)
uint16 = DType("uint16", "uint", 16)
uint32 = DType("uint32", "uint", 32)
uint64 = DType("uint64", "uint", 64)
float16 = DType("float16", "float", 16)
bfloat16 = DType("bfloat16", "float", 16)
float32 = DType("float32", "float", 32)
float64 = DType("float64", "float", 64)
complex32 = DType("complex32", "complex", 32)
complex64 = DType("complex64", "complex", 64)
complex128 = DType("complex128", "complex", 128)

# Storage types take a byte an element; see docs/decisions on them.
int4 = DType("int4", "int", 4)
uint4 = DType("uint4", "uint", 4)
float8_e4m3fn = DType("float8_e4m3fn", "float", 8)
float8_e5m2 = DType("float8_e5m2", "float", 8)

SIGNED = (int8, int16, int32, int64)
UNSIGNED = (uint8, uint16, uint32, uint64)
INTEGERS = SIGNED + UNSIGNED
FLOATS = (float16, bfloat16, float32, float64)
COMPLEX = (complex32, complex64, complex128)
NUMBERS = INTEGERS + FLOATS
ALL = (bool_, *NUMBERS)  # what kernels know
STORAGE = (int4, uint4, float8_e4m3fn, float8_e5m2)

BY_NAME = {d.name: d for d in (*ALL, *STORAGE, *COMPLEX)}


@cache
def _numpy_dtype(name: str) -> np.dtype[Any]:
    if not BY_NAME[name].is_native:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


@cache
def is_narrow(found: np.dtype[Any]) -> bool:
    """True for NumPy dtypes of 16-bit floats and of pairs of them, which references widen."""
    return found.name in ("float16", "bfloat16", "complex32")


@cache
def dtype_range(d: DType) -> tuple[int | float, int | float]:
    """Smallest and largest finite value of `d`, or of the parts of a complex one."""
    if d.is_complex:
        return dtype_range(d.plane)
    if d.kind == "bool":
        return 0, 1
    if d.is_integer:
        top = 1 << (d.bits - (d.kind == "int"))
        return -top if d.kind == "int" else 0, top - 1
    known = {bfloat16: 3.3895313892515355e38, float8_e4m3fn: 448.0, float8_e5m2: 57344.0}
    if d in known:
        return -known[d], known[d]
    limits = np.finfo(d.numpy)
    return float(limits.min), float(limits.max)


def dtype(value: Any) -> DType:
    """The dtype that `value` names: a DType, a name, a NumPy dtype or scalar type.

    Raises DTypeError for anything Niello has no element type for.
    """
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in BY_NAME:
        return BY_NAME[value]
    if value is bool:
        return bool_
    if value is int:
        return int64
    if value is float:
        return float32
    if value is complex:
        return complex64
    try:
        name = np.dtype(value).name
    except TypeError:
        name = ""
    found = BY_NAME.get(name)
    if found is None:
        raise DTypeError(
            "dtype",
            "no such element type",
            received=repr(value),
            advice=f"Use one of {', '.join(BY_NAME)}",
        )
    return found


_ORDER = {kind: i for i, kind in enumerate(KINDS)}


@cache
def promote(a: DType, b: DType) -> DType:
    """The dtype in which `a` and `b` combine.

    Within a kind the wider wins; bool < integer < float < complex; a complex type grows to hold a
    wider float (bfloat16 counts as float32 there); float16 with bfloat16 gives float32;
    signed with unsigned gives the next wider signed type. Source: NumPy's and PyTorch's rules,
    except that an integer never widens a float. Raises DTypeError for uint64 with a signed type.
    """
    if a is b:
        return a
    if a.kind == b.kind:
        if a.bits == b.bits:
            return float32  # float16 with bfloat16, or the two of 8 bits
        return a if a.bits > b.bits else b
    if {a.kind, b.kind} == {"int", "uint"}:
        signed, unsigned = (a, b) if a.kind == "int" else (b, a)
        bits = max(signed.bits, unsigned.bits * 2)
        if bits > 64:
            raise DTypeError(
                "promote",
                f"no integer type holds both {a.name} and {b.name}",
                received=f"{a.name} and {b.name}",
                advice="Cast one of them first",
            )
        return BY_NAME[f"int{bits}"]
    if {a.kind, b.kind} == {"complex", "float"}:
        pair, part = (a, b) if a.is_complex else (b, a)
        part = float32 if part is bfloat16 else part
        return BY_NAME[f"complex{2 * max(part.bits, pair.bits // 2)}"]
    return a if _ORDER[a.kind] > _ORDER[b.kind] else b


@cache
def compute_dtype(d: DType) -> DType:
    """The dtype kernels compute in when tensors hold `d`: float32 for floats of 16 bits or fewer,
    8-bit integers for those of four."""
    if d.bits == 4:
        return int8 if d.kind == "int" else uint8
    return float32 if d.is_float and d.bits <= 16 else d


def carrier(d: DType) -> DType:
    """The dtype of the buffers that hold `d`: bytes for storage types, else `d` itself."""
    return uint8 if d.is_storage else d
