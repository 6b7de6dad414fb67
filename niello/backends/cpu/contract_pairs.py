"""Which contractions multiply small operands two or four at a time, and their operands in that."""

from __future__ import annotations

from dataclasses import dataclass

from niello.backends.cpu.contract_roles import Roles
from niello.backends.cpu.gemm_pairs import BIASED, PER_UNIT, Unit
from niello.backends.cpu.jit import CpuTarget
from niello.core import dtypes
from niello.core.dtypes import DType
from niello.kernel import ir
from niello.kernel.ir import Cast, Expr, Fn, Load

_SHORT = (dtypes.int8, dtypes.uint8, dtypes.int16)


@dataclass(frozen=True)
class Pairs:
    """Operands whose elements take 16 or 8 bits; `kind` is one of gemm_pairs.PER_UNIT."""

    kind: str
    a: Expr
    b: Expr

    @property
    def count(self) -> int:
        """Elements in a unit."""
        return PER_UNIT[self.kind]

    @property
    def unit_a(self) -> Unit:
        return Unit(self.count, self.kind == BIASED)

    @property
    def unit_b(self) -> Unit:
        return Unit(self.count)


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
        bytes_ = _find_bytes(roles, target)
        if bytes_ is not None:
            return bytes_
        a, b = _as_int16(roles.a), _as_int16(roles.b)
        return None if a is None or b is None else Pairs("i16", a, b)
    return None


def _find_bytes(roles: Roles, target: CpuTarget) -> Pairs | None:
    """The form with four bytes in a unit: one operand without a sign, or both with one."""
    wide = target.vector_bits == 512 and target.has("avx512vnni") and target.has("avx512vl")
    if not (wide or (target.vector_bits == 256 and target.has("avxvnni"))):
        return None
    if roles.k[-1].extent < 16:
        return None
    a, b = _as_byte_operand(roles.a), _as_byte_operand(roles.b)
    if a is None or b is None:
        return None
    signs = (a.dtype.is_signed, b.dtype.is_signed)
    kinds = {(True, True): BIASED, (False, True): "u8i8", (True, False): "i8u8"}
    return Pairs(kinds[signs], a, b) if signs in kinds else None


def _as_byte_operand(expr: Expr) -> Expr | None:
    """The operand in 8 bits, where it is made of such."""
    if isinstance(expr, Cast) and expr.x.dtype in (dtypes.int8, dtypes.uint8):
        return expr.x
    found = _guarded(expr)
    if found is None:
        return None
    test, value = found
    inner = _as_byte_operand(value)
    return None if inner is None else ir.fn("where", test, inner, ir.const(0, inner.dtype))


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
