"""Conversions between element types, from conversions between registers."""

from __future__ import annotations

from niello.codegen.gpu.c_style import Dialect
from niello.codegen.gpu.registers import Reg, register_of
from niello.core.dtypes import DType, bool_, float32


def cast_text(
    dialect: Dialect, text: str, held: Reg, source: DType, target: DType, want: Reg
) -> str:
    """The value of `text`, of dtype `source` in register `held`, as dtype `target` in `want`."""
    if target is bool_:
        return _to_bool(dialect, text, held, source)
    if source.is_half:
        as_float = dialect.half_to_float(text, source)
        return (
            as_float
            if target is float32
            else _numeric(dialect, as_float, Reg.F32, float32, target, want)
        )
    return _numeric(dialect, text, held, source, target, want)


def _to_bool(dialect: Dialect, text: str, held: Reg, source: DType) -> str:
    if source.is_half:
        bits = f"({text} & {dialect.literal(0x7FFF, Reg.U32)})"
        return f"({bits} != {dialect.literal(0, Reg.U32)})"
    if held is Reg.BOOL:
        return text
    return dialect.scalar("ne", source, held, [text, dialect.literal(0, held)])


def _numeric(
    dialect: Dialect, text: str, held: Reg, source: DType, target: DType, want: Reg
) -> str:
    if target.is_half:
        return dialect.float_to_half(dialect.convert(text, held, Reg.F32), target)
    if source.is_float and target.is_integer and target.bits <= 32:
        # Through int32, or int64 for uint32, as the definition of Cast says.
        through = Reg.I64 if target.kind == "uint" and target.bits == 32 else Reg.I32
        text, held = dialect.convert(text, held, through), through
    result = dialect.convert(text, held, want)
    if target.is_integer and target.bits < 32 and not _inside(source, target):
        result = dialect.wrapped(result, target)
    return result


def _inside(source: DType, target: DType) -> bool:
    """Whether every value of one integer dtype (or bool) is one of the other."""
    if source is bool_:
        return True
    return source.is_integer and target.min <= source.min and source.max <= target.max


def bitcast_text(dialect: Dialect, text: str, source: DType, target: DType) -> str:
    """The bits of a value of dtype `source` as dtype `target` of the same width."""
    held, want = register_of(source), register_of(target)
    if source.bits >= 32:
        return dialect.bitcast(text, held, want)
    result = dialect.convert(text, held, want)
    return (
        dialect.wrapped(result, target)
        if target.is_integer
        else f"({result} & {dialect.literal(0xFFFF, want)})"
    )
