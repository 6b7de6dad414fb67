"""Which contractions multiply 16-bit operands in pairs, and their operands in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

from niello.backends.cpu.contract_roles import Roles
from niello.backends.cpu.jit import CpuTarget
from niello.core import dtypes
from niello.core.dtypes import DType
from niello.kernel import ir
from niello.kernel.ir import Cast, Expr, Fn, Load

_SHORT = (dtypes.int8, dtypes.uint8, dtypes.int16)


@dataclass(frozen=True)
class Pairs:
    """Operands whose elements take 16 bits; `kind` is bfloat or i16."""

    kind: str
    a: Expr
    b: Expr


def find_pairs(roles: Roles, target: CpuTarget) -> Pairs | None:
    """The 16-bit form of a contraction, where it has one and the target multiplies pairs."""
    if roles.k[-1].extent < 8:
        return None
    if roles.result.dtype is dtypes.float32:
        if not target.has("avx512bf16") or target.vector_bits != 512:
            return None
        a, b = _as_bfloat16(roles.a), _as_bfloat16(roles.b)
        return None if a is None or b is None else Pairs("bfloat", a, b)
    if roles.result.dtype in (dtypes.int32, dtypes.uint32) and target.architecture == "x86_64":
        a, b = _as_int16(roles.a), _as_int16(roles.b)
        return None if a is None or b is None else Pairs("i16", a, b)
    return None


def _as_bfloat16(expr: Expr) -> Expr | None:
    """A load of bfloat16 that is exactly the operand."""
    if isinstance(expr, Cast) and isinstance(expr.x, Load) and expr.x.dtype is dtypes.bfloat16:
        return expr.x
    found = _guarded(expr)
    if found is None:
        return None
    test, value = found
    inner = _as_bfloat16(value)
    if not isinstance(inner, Load):
        return None
    gate = test if inner.gate is None or inner.gate is test else ir.fn("and", inner.gate, test)
    return Load(inner.param, inner.index, gate)


def _as_int16(expr: Expr) -> Expr | None:
    """The operand in int16, where all its values fit."""
    if isinstance(expr, Cast) and _fits(expr.x.dtype):
        return ir.cast(expr.x, dtypes.int16)
    if isinstance(expr, Fn) and expr.name in ("add", "sub"):
        # Bytes less a zero point: 9 bits and a sign.
        parts = [_as_byte(a) for a in expr.args]
        if None not in parts:
            return ir.fn(expr.name, *parts)
    found = _guarded(expr)
    if found is None:
        return None
    test, value = found
    inner = _as_int16(value)
    return None if inner is None else ir.fn("where", test, inner, ir.const(0, dtypes.int16))


def _as_byte(expr: Expr) -> Expr | None:
    """An int16 of values from -256 to 255."""
    if isinstance(expr, ir.Const) and -256 <= expr.value <= 255:
        return ir.const(expr.value, dtypes.int16)
    if isinstance(expr, Cast) and expr.x.dtype in (dtypes.int8, dtypes.uint8):
        return ir.cast(expr.x, dtypes.int16)
    return None


def _fits(dtype: DType) -> bool:
    return dtype in _SHORT


def _guarded(expr: Expr) -> tuple[Expr, Expr] | None:
    """(test, value) of an expression that is `value` where the test holds, else zero."""
    if isinstance(expr, Fn) and expr.name == "where":
        test, value, zero = expr.args
        if isinstance(zero, ir.Const) and zero.value == 0:
            return test, value
    return None
