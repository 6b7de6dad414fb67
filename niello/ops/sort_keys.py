"""Integers in the order of values: what sorting compares.

Floats are ordered as NumPy sorts them: -0 before 0, NaN last, whatever its sign.
"""

from __future__ import annotations

from niello.core.dtypes import DType, bool_, compute_dtype, int32, int64, uint32
from niello.kernel import ir
from niello.kernel.ir import Expr
from niello.kernel.routine_build import RoutineBuilder


def key_dtype(dtype: DType) -> DType:
    """The dtype of the keys of a dtype's values."""
    return int64 if compute_dtype(dtype).bits == 64 else int32


def to_key(r: RoutineBuilder, x: Expr, *, descending: bool) -> Expr:
    """The key of a value: an int32 or int64 that is smaller where the value comes earlier."""
    kind = key_dtype(x.dtype)
    if x.dtype.is_float:
        bits = r.bitcast(x, kind)
        # Below zero the magnitude counts downwards.
        key = bits ^ (bits >> (kind.bits - 1) & (kind.max))
        key = r.where(x.ne(x), ir.const(kind.max, kind), key)
    elif x.dtype.kind == "uint" and x.dtype.bits == kind.bits:
        key = r.bitcast(x, kind) ^ ir.const(kind.min, kind)
    else:
        key = r.cast(x, kind)
    return r.not_(key) if descending else key


def from_key(r: RoutineBuilder, key: Expr, dtype: DType, *, descending: bool) -> Expr:
    """The value that has a key; any NaN becomes the same one."""
    kind, value = key.dtype, compute_dtype(dtype)
    if descending:
        key = r.not_(key)
    if value.is_float:
        bits = key ^ (key >> (kind.bits - 1) & (kind.max))
        return r.bitcast(bits, value)
    if value.kind == "uint" and value.bits == kind.bits:
        return r.bitcast(key ^ ir.const(kind.min, kind), value)
    return key.ne(0) if value is bool_ else r.cast(key, value)


def last_key(kind: DType) -> Expr:
    """A key that no value comes after."""
    return ir.const(kind.max, kind)


def with_place(r: RoutineBuilder, key: Expr, place: Expr) -> tuple[Expr, ...]:
    """An element that is ordered by its key, then by its place (0 ... 2^31 - 1): stable sorting
    in any order of comparisons. Keys of 32 bits share an int64 with the place."""
    if key.dtype is int32:
        return ((r.cast(key, int64) << 32) | r.cast(place, int64),)
    return key, r.cast(place, int32)


def place_kinds(dtype: DType) -> tuple[DType, ...]:
    """The dtypes of such elements."""
    return (int64,) if key_dtype(dtype) is int32 else (int64, int32)


def place_of(r: RoutineBuilder, element: tuple[Expr, ...]) -> Expr:
    """The place in an element, as int32."""
    if len(element) == 1:
        return r.bitcast(r.cast(element[0] & 0xFFFFFFFF, uint32), int32)
    return element[1]


def key_of(r: RoutineBuilder, element: tuple[Expr, ...]) -> Expr:
    """The key in an element."""
    return r.cast(element[0] >> 32, int32) if len(element) == 1 else element[0]
