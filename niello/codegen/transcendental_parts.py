"""Pieces that the expansions of transcendental functions share.

All work on float32 expressions and use primitive functions only. `fma` may round once or twice.
Clamps are comparisons with `where`, not `min` and `max`: they let NaN pass, and become one
instruction, where `min` and `max` must look at both operands.
"""

from __future__ import annotations

from collections.abc import Sequence

from niello.core.dtypes import float32, int32
from niello.kernel.ir import Const, Expr, bitcast, const, fn

# Adding 1.5 * 2^23 leaves no bit for a fraction: the sum is rounded to an integer, whose low bits
# are the low bits of the sum's pattern.
SHIFTER = 1.5 * 2.0**23
SHIFTER_BITS = 0x4B400000

LN2_HIGH = 0.693145751953125  # 16 bits: a multiple by an integer below 256 is exact
LN2_LOW = 1.42860682030941723e-6
LOG2_E = 1.4426950408889634


def f32(value: float) -> Const:
    """A float32 literal."""
    return const(value, float32)


def i32(value: int) -> Const:
    """An int32 literal; bit patterns above the sign bit wrap."""
    return const(value, int32)


def fma(a: Expr | float, b: Expr | float, c: Expr | float) -> Expr:
    """a * b + c, rounded once or twice."""
    return fn("fma", *(x if isinstance(x, Expr) else f32(x) for x in (a, b, c)))


def where(test: Expr, yes: Expr | float, no: Expr | float) -> Expr:
    """`yes` where the test holds; Python numbers are float32."""
    return fn("where", test, *(x if isinstance(x, Expr) else f32(x) for x in (yes, no)))


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """sum coefficients[i] x^i: one fma for each coefficient but the last."""
    *rest, last = coefficients
    value: Expr = f32(last)
    for c in reversed(rest):
        value = fma(value, x, c)
    return value


def at_most(x: Expr, high: float) -> Expr:
    """The smaller of x and a constant; NaN stays."""
    return where(fn("lt", f32(high), x), high, x)


def at_least(x: Expr, low: float) -> Expr:
    """The larger of x and a constant; NaN stays."""
    return where(fn("lt", x, low), low, x)


def bits(x: Expr) -> Expr:
    """The pattern of a float32 as int32."""
    return bitcast(x, int32)


def from_bits(pattern: Expr) -> Expr:
    """The float32 with an int32 pattern."""
    return bitcast(pattern, float32)


def nearest(x: Expr, scale: Expr | float, bias: int = 0) -> tuple[Expr, Expr]:
    """x * scale rounded to an integer: as float32, and int32 whose low bits are it plus `bias`.

    For |x * scale| below 2^21. With `bias` 127 the second, shifted left by 23, is the pattern of
    two to that integer.
    """
    shifted = fma(x, scale, SHIFTER + bias)
    return shifted - f32(SHIFTER + bias), bits(shifted)


def power_of_two(biased: Expr) -> Expr:
    """2^n from an int32 whose low nine bits are n + 127, for n from -126 to 127."""
    return from_bits(fn("shl", biased, 23))


def reduce_ln2(x: Expr, n: Expr) -> Expr:
    """x - n ln 2 to about 2^-26, for integers |n| below 256."""
    return fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x))


def high_part(x: Expr) -> Expr:
    """x with the low 12 bits of its pattern cleared: products of two such are exact."""
    return from_bits(fn("and", bits(x), i32(-4096)))
