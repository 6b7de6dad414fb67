"""LLVM types as strings, typed values, and exact constants."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import cache

_FLOATS = {"half": 16, "bfloat": 16, "float": 32, "double": 64}
_MANGLED = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}
_BYTES = {"half": 2, "bfloat": 2, "float": 4, "double": 8, "ptr": 8, "i1": 1}


class Value:
    """A typed LLVM value: ``text`` is how it is written, ``const`` its Python int if known."""

    __slots__ = ("const", "text", "type")

    def __init__(self, text: str, type: str, const: int | None = None) -> None:
        self.text = text
        self.type = type
        self.const = const

    def __repr__(self) -> str:
        return f"{self.type} {self.text}"

    __str__ = __repr__


Operand = Value | int | float


# --- types ----------------------------------------------------------------------


@cache
def vector(type: str, count: int) -> str:
    """Vector type of ``count`` elements; ``count == 1`` is the scalar type itself."""
    return type if count == 1 else f"<{count} x {type}>"


@cache
def element_type(type: str) -> str:
    """Scalar type of a vector type; a scalar type is its own element."""
    return type[type.index(" x ") + 3 : -1] if type[0] == "<" else type


@cache
def lanes(type: str) -> int:
    """Number of elements: 1 for a scalar type."""
    return int(type[1 : type.index(" ")]) if type[0] == "<" else 1


@cache
def with_element(type: str, element: str) -> str:
    """The type with the shape (lanes) of ``type`` and another element."""
    return vector(element, lanes(type))


@cache
def mangle(type: str) -> str:
    """Name of a type in an overloaded intrinsic: ``<16 x float>`` is ``v16f32``."""
    if type[0] == "<":
        return f"v{lanes(type)}{mangle(element_type(type))}"
    return _MANGLED.get(type, type)


@cache
def byte_size(type: str) -> int:
    """Bytes that one value of the type takes in memory."""
    if type[0] == "<":
        return lanes(type) * byte_size(element_type(type))
    return _BYTES[type] if type in _BYTES else max(1, int(type[1:]) // 8)


def is_float(type: str) -> bool:
    """Whether the element type is a floating-point type."""
    return element_type(type) in _FLOATS


# --- constants ----------------------------------------------------------------------


def _float_text(value: float, type: str) -> str:
    """Bit pattern of a float constant: LLVM writes float and double as a 64-bit double pattern."""
    value = float(value)
    if type == "half":
        try:
            bits = struct.unpack("<H", struct.pack("<e", value))[0]
        except OverflowError:
            bits = 0x7C00 if value > 0 else 0xFC00
        return f"0xH{bits:04X}"
    if type == "bfloat":
        return f"0xR{_bfloat_bits(value):04X}"
    if type == "float":
        try:
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            value = math.copysign(math.inf, value)
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def _bfloat_bits(value: float) -> int:
    if math.isnan(value):
        return 0x7FC0
    try:
        bits = int.from_bytes(struct.pack("<f", value), "little")
    except OverflowError:
        return 0x7F80 if value > 0 else 0xFF80
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


def constant(value: int | float | bool, type: str = "i64") -> Value:
    """Constant of a scalar or vector type (a vector constant has the same value in every lane).

    Float constants are bit patterns of ``value`` rounded to the type; integers wrap to the width.
    """
    if type[0] == "<":
        inner = constant(value, element_type(type))
        if inner.text in ("0", "0x0000000000000000", "0xH0000", "0xR0000", "false"):
            return Value("zeroinitializer", type)
        return Value(f"splat ({inner.type} {inner.text})", type)
    if type in _FLOATS:
        return Value(_float_text(value, type), type)
    if type == "ptr":
        if value:
            raise ValueError("only the null pointer (0) is a pointer constant")
        return Value("null", type)
    if type == "i1":
        return Value("true" if value else "false", "i1", 1 if value else 0)
    bits = int(type[1:])
    number = int(value) & ((1 << bits) - 1)
    if number >> (bits - 1):
        number -= 1 << bits
    return Value(str(number), type, number)


def vector_constant(values: Sequence[int | float], element: str) -> Value:
    """Vector constant with one value per lane."""
    body = ", ".join(f"{element} {constant(v, element).text}" for v in values)
    return Value(f"<{body}>", vector(element, len(values)))
