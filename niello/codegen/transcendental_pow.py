"""pow of float32 as primitive functions: log2 to 34 bits as a sum of two floats, then 2^(y log2 x).

Errors of y log2 x are absolute in the exponent, which reaches 150: a float32 logarithm would lose
eight bits. Products that must be exact are of numbers of 12 bits, so that it does not matter
whether `fma` rounds once or twice.
"""

from __future__ import annotations

import math

from niello.codegen.transcendental_exp import two_to_sum
from niello.codegen.transcendental_log import split
from niello.codegen.transcendental_parts import (
    at_least,
    at_most,
    bits,
    f32,
    fma,
    from_bits,
    high_part,
    horner,
    i32,
    where,
)
from niello.kernel.ir import Const, Expr, fn

# log2((1 + s) / (1 - s)) = s (K + c s^2 + s^4 p(s^2)), |s| <= 0.1716, K = 2 / ln 2 as two floats,
# c = 31 / 32 + a small rest: 2^-36.8
_K_HIGH, _K_LOW = 2.885390043258667, 3.851925982253235e-08
_C_HIGH, _C_LOW = 0.96875, -0.006953306074024395
_TAIL = (0.5770801901817322, 0.41184964776039124, 0.33782851696014404)


def _log2(x: Expr) -> tuple[Expr, Expr]:
    """log2 of a finite x > 0 as (high, low), to about 2^-34 relative."""
    n, f = split(x)
    # s = f / (2 + f) = s1 + s2, s1 of 12 bits: the remainder of the division is exact but for 2^-35
    d = f + f32(2.0)
    inverse = f32(1.0) / d
    d1 = high_part(d)
    d2 = f - (d1 - f32(2.0))
    s = f * inverse
    s1 = high_part(s)
    s2 = fma(-s1, d2, fma(-s1, d1, f)) * inverse
    # z = s^2 = z1 + z2 with z1 of 12 bits; series = p1 + p2
    z = s * s
    square = s1 * s1
    z1 = high_part(square)
    z2 = fma(s2, s1 + s, square - z1)
    w1 = z1 * f32(_C_HIGH)
    w2 = fma(z, fma(z, horner(z, _TAIL), _C_LOW), z2 * f32(_C_HIGH))
    p = w1 + f32(_K_HIGH)
    p2 = (w1 - (p - f32(_K_HIGH))) + (w2 + f32(_K_LOW))
    p1 = high_part(p)
    # (s1 + s2) (p1 + (p - p1) + p2) + n
    first = s1 * p1
    second = fma(s1, p - p1, fma(s2, p + p2, s1 * p2))
    high = n + first
    return high, (first - (high - n)) + second


def _power_of_magnitude(a: Expr, y: Expr) -> Expr:
    """a^y for finite a > 0; infinite and huge y act as 2^32."""
    high, low = _log2(a)
    y = at_least(at_most(y, 2.0**32), -(2.0**32))
    y1, high1 = high_part(y), high_part(high)
    product = y1 * high1
    rest = fma(y1, high - high1, fma(y - y1, high, y * low))
    product = at_least(at_most(product, 160.0), -160.0)
    return two_to_sum(product, at_least(at_most(rest, 0.25), -0.25))


def power(x: Expr, y: Expr) -> Expr:
    """x^y with all special cases of IEEE 754-2019, 9.2.1. 95 instructions, two divisions.

    A constant exponent of 0, 1, 2, 3, 4, -1, 1/2 or -1/2 takes at most four instead.
    """
    if isinstance(y, Const) and (short := power_of_constant(x, y.value)) is not None:
        return short
    a = fn("abs", x)
    result = _power_of_magnitude(a, y)
    half = y * f32(0.5)
    integer = fn("eq", fn("trunc", y), y)
    odd = fn("and", integer, fn("ne", fn("trunc", half), half))
    # zero and infinity: equal to their double
    limit = where(fn("lt", y, f32(0.0)), f32(1.0) / a, a)
    extreme = fn("eq", a, a + a)
    no_root = fn("and", fn("lt", x, f32(0.0)), fn("not", integer))
    result = where(extreme, limit, where(no_root, math.nan, result))
    sign = fn("where", odd, bits(x) & i32(-0x80000000), i32(0))
    result = from_bits(bits(result) ^ sign)
    unknown = fn("or", fn("ne", x, x), fn("ne", y, y))
    one = fn("or", fn("eq", y, f32(0.0)), fn("eq", x, f32(1.0)))
    return where(one, 1.0, where(unknown, math.nan, result))


def power_of_constant(x: Expr, y: float) -> Expr | None:
    """x^y for an exponent that needs no logarithm, else None. Right to 2 ulp as well."""
    if y == 0.0:
        return f32(1.0)
    if y == 1.0:
        return x
    if y == -1.0:
        return f32(1.0) / x
    if y in (2.0, 3.0, 4.0):
        square = x * x
        return square if y == 2.0 else square * x if y == 3.0 else square * square
    if y in (0.5, -0.5):
        # unlike the square root: +0 for -0, infinity for -infinity
        root = fn("sqrt", where(fn("eq", x, f32(-math.inf)), math.inf, x)) + f32(0.0)
        return root if y == 0.5 else f32(1.0) / root
    return None
