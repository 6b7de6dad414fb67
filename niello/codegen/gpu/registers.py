"""What values are held in while a thread computes with them.

Elements narrower than 32 bits live in 32-bit registers: integers wrapped to their dtype, bool as
`bool`, and the half types as their bit pattern, which only casts look into. An int64 expression
whose values fit 32 bits (bounds.interval says so) lives in 32 bits too: that is nearly all index
arithmetic.
"""

from __future__ import annotations

import enum

from niello.core.dtypes import DType, bool_
from niello.kernel.bounds import interval
from niello.kernel.ir import Expr


class Reg(enum.Enum):
    """A kind of register."""

    BOOL = "bool"
    I32 = "i32"
    U32 = "u32"
    I64 = "i64"
    U64 = "u64"
    F32 = "f32"
    F64 = "f64"

    @property
    def is_float(self) -> bool:
        return self in (Reg.F32, Reg.F64)

    @property
    def is_wide(self) -> bool:
        """Whether it is an integer of 64 bits."""
        return self in (Reg.I64, Reg.U64)

    @property
    def bytes(self) -> int:
        """Bytes of a value in shared memory."""
        return 8 if self in (Reg.I64, Reg.U64, Reg.F64) else 4


def register_of(dtype: DType) -> Reg:
    """Where elements of a dtype are held."""
    if dtype is bool_:
        return Reg.BOOL
    if dtype.is_float:
        return Reg.F64 if dtype.bits == 64 else Reg.U32 if dtype.is_half else Reg.F32
    if dtype.kind == "int":
        return Reg.I64 if dtype.bits == 64 else Reg.I32
    return Reg.U64 if dtype.bits == 64 else Reg.U32


def fits_32(expr: Expr) -> bool:
    """Whether all values of an integer expression fit an int32."""
    low, high = interval(expr)
    return low >= -(2**31) and high < 2**31


def register(expr: Expr) -> Reg:
    """Where the values of an expression are held."""
    found = register_of(expr.dtype)
    if found is Reg.I64 and fits_32(expr):
        return Reg.I32
    return found
