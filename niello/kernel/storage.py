"""Bit patterns of element types by integer arithmetic, the same on every back end.

    decode(stored, dtype)    an element as kernels compute with it, from what a buffer holds
    encode(value, dtype)     the other way
    bits_of(value, dtype)    the bit pattern of an element, as an unsigned integer of its width
    of_bits(bits, dtype)     the element with a bit pattern

Buffers of storage types (int4, uint4, float8) hold bytes; 4-bit integers take the low half of one.
"""

from __future__ import annotations

from dataclasses import dataclass

from niello.core import dtypes
from niello.core.dtypes import DType, compute_dtype, float32, int8, uint8, uint32
from niello.kernel import ir
from niello.kernel.ir import Expr, bitcast, cast, const, fn


@dataclass(frozen=True)
class Format:
    """A small float: mantissa bits, exponent bias, code of infinity (or of NaN) and of NaN."""

    bits: int
    mantissa: int
    bias: int
    overflow: int
    nan: int


# Sources: IEEE 754 for float16; "FP8 Formats for Deep Learning" (Micikevicius et al. 2022).
FORMATS = {
    dtypes.float16: Format(16, 10, 15, 0x7C00, 0x7E00),
    dtypes.float8_e4m3fn: Format(8, 3, 7, 0x7F, 0x7F),
    dtypes.float8_e5m2: Format(8, 2, 15, 0x7C, 0x7E),
}


def _small_code(x: Expr, form: Format) -> Expr:
    """The code (uint32) of a float32, rounded to nearest, ties to even."""
    m = form.mantissa
    pattern = bitcast(x, uint32)
    sign = (pattern >> (32 - form.bits)) & (1 << (form.bits - 1))
    size = pattern & 0x7FFFFFFF
    shift = 23 - m
    odd = (size >> shift) & 1
    normal = ((size + odd + ((1 << (shift - 1)) - 1)) >> shift) - ((127 - form.bias) << m)
    # Below the smallest normal number the codes count multiples of the smallest number.
    tiny = cast(fn("rint", fn("abs", x) * 2.0 ** (form.bias - 1 + m)), uint32)
    code = fn("where", size < ((128 - form.bias) << 23), tiny, fn("min", normal, form.overflow))
    code = fn("where", fn("lt", 0x7F800000, size), form.nan, code)
    return code | sign


def _small_value(code: Expr, form: Format) -> Expr:
    """The float32 with a code (uint32)."""
    m = form.mantissa
    sign = (code & (1 << (form.bits - 1))) << (32 - form.bits)
    size = code & ((1 << (form.bits - 1)) - 1)
    normal = (size << (23 - m)) + ((127 - form.bias) << 23)
    tiny = bitcast(cast(size, float32) * 2.0 ** (1 - form.bias - m), uint32)
    pattern = fn("where", size < (1 << m), tiny, normal)
    if form.overflow != form.nan:
        infinite = (size << (23 - m)) | 0x7F800000
        pattern = fn("where", size < form.overflow, pattern, infinite)
    else:
        pattern = fn("where", size < form.nan, pattern, 0x7FC00000)
    return bitcast(pattern | sign, float32)


def _unsigned(dtype: DType) -> DType:
    return dtypes.BY_NAME[f"uint{max(8, dtype.bits)}"]


def bits_of(value: Expr, dtype: DType) -> Expr:
    """The bit pattern of an element of `dtype`, which `value` holds in its compute dtype.

    4-bit integers give a byte with four bits set at most. NaNs of float16 come out alike.
    """
    wide = _unsigned(dtype)
    if dtype in FORMATS:
        return cast(_small_code(value, FORMATS[dtype]), wide)
    if dtype is dtypes.bfloat16:
        return cast(bitcast(value, uint32) >> 16, wide)
    if dtype.bits == 4:
        return bitcast(value, uint8) & 15
    return bitcast(value, wide)


def of_bits(bits: Expr, dtype: DType) -> Expr:
    """The element of `dtype`, in its compute dtype, with a bit pattern of its width."""
    if dtype in FORMATS:
        return _small_value(cast(bits, uint32), FORMATS[dtype])
    if dtype is dtypes.bfloat16:
        return bitcast(cast(bits, uint32) << 16, float32)
    if dtype is dtypes.int4:
        return (bitcast(bits, int8) << 4) >> const(4, int8)
    if dtype is dtypes.uint4:
        return bits & 15
    return bitcast(bits, dtype)


def decode(stored: Expr, dtype: DType) -> Expr:
    """An element as kernels compute with it."""
    return of_bits(stored, dtype) if dtype.is_storage else cast(stored, compute_dtype(dtype))


def encode(value: Expr, dtype: DType) -> Expr:
    """What a buffer of `dtype` holds for a value in its compute dtype."""
    return bits_of(value, dtype) if dtype.is_storage else ir.cast(value, dtype)
