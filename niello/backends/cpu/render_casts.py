"""Conversions between element types, for scalars and vectors alike.

Half types are their bits (i16) in registers. A float becomes an integer by truncation; what does
not fit saturates at 32 and 64 bits and wraps below, as NumPy does on x86; NaN becomes 0.
"""

from __future__ import annotations

from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import Function, Value, constant, mangle, with_element
from niello.backends.cpu.render_types import has_half, register_type
from niello.core.dtypes import DType, bfloat16, bool_, float16, float32, float64


def convert(f: Function, target: CpuTarget, x: Value, source: DType, wanted: DType) -> Value:
    """The value of `x` (of dtype `source`) as dtype `wanted`."""
    if source is wanted:
        return x
    if source.is_half:
        return convert(f, target, half_to_float(f, target, x, source), float32, wanted)
    if wanted.is_half:
        single = _to_odd(f, x) if (source, wanted) == (float64, float16) else None
        single = single or convert(f, target, x, source, float32)
        return float_to_half(f, target, single, wanted)
    if wanted is bool_:
        zero = constant(0, x.type)
        return f.fcmp("une", x, zero) if source.is_float else f.icmp("ne", x, zero)
    element = register_type(wanted)
    if source.is_float and wanted.is_float:
        return f.cast("fpext" if wanted.bits > source.bits else "fptrunc", x, element)
    if source.is_float:
        return _float_to_integer(f, x, wanted)
    signed = source.kind == "int"
    if wanted.is_float:
        return f.cast("sitofp" if signed else "uitofp", x, element)
    bits = 1 if source is bool_ else source.bits
    if wanted.bits <= bits:
        return f.cast("trunc", x, element)
    return f.cast("sext" if signed else "zext", x, element)


def _to_odd(f: Function, x: Value) -> Value:
    """float32 of a float64, to the odd neighbour where it is between two: what is rounded again, to
    float16, is then rounded once. (LLVM would also make one conversion of two, which no CPU has.)
    """
    word, long = with_element(x.type, "i32"), with_element(x.type, "i64")
    single = f.cast("fptrunc", x, "float")
    back = f.cast("fpext", single, "double")
    mask = constant((1 << 63) - 1, long)
    magnitude = f.and_(f.bitcast(x, long), mask)
    away = f.icmp("ugt", f.and_(f.bitcast(back, long), mask), magnitude)
    inexact = f.fcmp("one", back, x)  # false for NaN
    bits = f.bitcast(single, word)
    lower = f.sub(bits, constant(1, word))
    odd = f.or_(f.select(away, lower, bits), constant(1, word))
    return f.bitcast(f.select(inexact, odd, bits), with_element(x.type, "float"))


def _float_to_integer(f: Function, x: Value, wanted: DType) -> Value:
    # Narrow and unsigned types go through a wider signed one: beyond their range they wrap.
    through = "i64" if wanted.bits == 64 or (wanted.bits == 32 and wanted.kind == "uint") else "i32"
    name = "fptoui" if wanted.bits == 64 and wanted.kind == "uint" else "fptosi"
    result = with_element(x.type, through)
    full = f"llvm.{name}.sat.{mangle(result)}.{mangle(x.type)}"
    f.module.declare(full, result, [x.type])
    wide = f.emit(result, f"call {result} @{full}({x})")
    return f.cast("trunc", wide, f"i{wanted.bits}") if wanted.bits < int(through[1:]) else wide


def half_to_float(f: Function, target: CpuTarget, x: Value, source: DType) -> Value:
    """float32 value of the bits of a float16 or bfloat16."""
    single = with_element(x.type, "float")
    if source is bfloat16:
        return f.bitcast(f.shl(f.cast("zext", x, "i32"), constant(16, _wide(x))), single)
    if has_half(target):
        return f.cast("fpext", f.bitcast(x, with_element(x.type, "half")), "float")
    word = _wide(x)
    bits = f.cast("zext", x, "i32")
    magnitude = f.shl(f.and_(bits, constant(0x7FFF, word)), constant(13, word))
    # The exponent of a half seen as a float is 112 too small; the product is exact.
    scaled = f.bitcast(f.fmul(f.bitcast(magnitude, single), constant(2.0**112, single)), word)
    special = f.icmp("uge", magnitude, constant(0x7C00 << 13, word))
    scaled = f.select(special, f.or_(magnitude, constant(0x7F800000, word)), scaled)
    sign = f.shl(f.and_(bits, constant(0x8000, word)), constant(16, word))
    return f.bitcast(f.or_(scaled, sign), single)


def float_to_half(f: Function, target: CpuTarget, x: Value, wanted: DType) -> Value:
    """Bits of a float32 rounded to nearest even float16 or bfloat16; NaN stays NaN."""
    if wanted is bfloat16:
        return _to_bfloat(f, x)
    if has_half(target):
        half = f.cast("fptrunc", x, "half")
        return f.bitcast(half, with_element(x.type, "i16"))
    word = with_element(x.type, "i32")
    bits = f.bitcast(x, word)
    magnitude = f.and_(bits, constant(0x7FFFFFFF, word))
    odd = f.and_(f.lshr(magnitude, constant(13, word)), constant(1, word))
    rounded = f.add(f.add(magnitude, odd), constant(0xFFF - 0x38000000, word))
    normal = f.lshr(rounded, constant(13, word))
    # Below the normal halves: adding 0.5 rounds to multiples of 2^-24, the step of the subnormals.
    small = f.fadd(f.bitcast(magnitude, x.type), constant(0.5, x.type), "")
    small_bits = f.sub(f.bitcast(small, word), constant(0x3F000000, word))
    result = f.select(f.icmp("ult", magnitude, constant(0x38800000, word)), small_bits, normal)
    result = f.select(
        f.icmp("uge", magnitude, constant(0x47800000, word)), constant(0x7C00, word), result
    )
    result = f.select(
        f.icmp("ugt", magnitude, constant(0x7F800000, word)), constant(0x7E00, word), result
    )
    sign = f.and_(f.lshr(bits, constant(16, word)), constant(0x8000, word))
    return f.cast("trunc", f.or_(result, sign), "i16")


def _to_bfloat(f: Function, x: Value) -> Value:
    word = with_element(x.type, "i32")
    bits = f.bitcast(x, word)
    high = f.lshr(bits, constant(16, word))
    rounding = f.add(f.and_(high, constant(1, word)), constant(0x7FFF, word))
    rounded = f.lshr(f.add(bits, rounding), constant(16, word))
    quiet = f.or_(high, constant(0x40, word))
    return f.cast("trunc", f.select(f.fcmp("uno", x, x), quiet, rounded), "i16")


def _wide(x: Value) -> str:
    return with_element(x.type, "i32")
