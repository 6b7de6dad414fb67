"""asin, acos, atan and atan2 of float32 as primitive functions.

"Instructions" are vector instructions on AVX-512, counted by tools/ulp.py.
"""

from __future__ import annotations

from niello.codegen.transcendental_parts import bits, f32, fma, from_bits, horner, i32, where
from niello.kernel.ir import Expr, fn

PI_2_HIGH, PI_2_LOW = 1.5707963705062866, -4.371139000186242e-08  # float32 and the rest
SIGN = -0x80000000

# atan(r) = r + r^3 p(r^2), 0 <= r <= 1: 2^-25.8
_ATAN = (
    -0.33333152532577515, 0.19993767142295837, -0.14211003482341766, 0.10665786266326904,
    -0.07551731914281845, 0.0432061031460762, -0.016364412382245064, 0.002919830847531557,
)  # fmt: skip
# asin(r) = r + r^3 p(r^2), 0 <= r <= 1/2: 2^-27.6
_ASIN = (
    0.16666752099990845, 0.074953094124794, 0.04546914994716644, 0.024184778332710266,
    0.042158305644989014,
)  # fmt: skip


def _sum(high: Expr, low: Expr, s: Expr, correction: Expr) -> Expr:
    """(high + low) + (s + correction), smallest terms first."""
    return high + (s + (correction + low))


def atan(x: Expr) -> Expr:
    """Inverse tangent: of |x|, or pi/2 - atan(1 / |x|) where |x| > 1. 18 instructions, one
    division."""
    a = fn("abs", x)
    inverted = fn("lt", f32(1.0), a)
    t = where(inverted, f32(-1.0) / a, a)
    z = t * t
    correction = fma(t * z, horner(z, _ATAN), where(inverted, PI_2_LOW, 0.0))
    return fn("copysign", where(inverted, PI_2_HIGH, 0.0) + (t + correction), x)


def atan2(y: Expr, x: Expr) -> Expr:
    """Angle of the point (x, y), signed zeros and infinities as in IEEE 754. 26 instructions, one
    division."""
    ay, ax = fn("abs", y), fn("abs", x)
    steep = fn("lt", ax, ay)
    top, bottom = where(steep, ax, ay), where(steep, ay, ax)
    on_diagonal = where(fn("eq", top, f32(0.0)), 0.0, 1.0)  # also 0 / 0 and infinity / infinity
    t = where(fn("eq", top, bottom), on_diagonal, top / bottom)
    # octants: t; pi/2 - t where steep; pi - t where left of zero; pi/2 + t where both
    left = fn("lt", bits(x), i32(0))
    base = where(steep, 1.0, where(left, 2.0, 0.0))
    flip = fn("where", fn("ne", steep, left), i32(SIGN), i32(0))
    t = from_bits(bits(t) ^ flip)
    z = t * t
    angle = _sum(base * f32(PI_2_HIGH), base * f32(PI_2_LOW), t, t * z * horner(z, _ATAN))
    return fn("copysign", angle, y)


def _half_angle(a: Expr) -> tuple[Expr, Expr, Expr]:
    """(wide, s, c): asin a = s + c, or pi/2 - 2 (s + c) where a > 1/2. NaN for a > 1."""
    wide = fn("lt", f32(0.5), a)
    z = where(wide, fma(a, -0.5, 0.5), a * a)
    s = where(wide, fn("sqrt", z), a)
    return wide, s, s * z * horner(z, _ASIN)


def asin(x: Expr) -> Expr:
    """Inverse sine. 20 instructions, one square root."""
    wide, s, c = _half_angle(fn("abs", x))
    double = s + s
    rest = f32(PI_2_HIGH) - double
    lost = (f32(PI_2_HIGH) - rest) - double
    folded = rest + (lost + fma(c, -2.0, PI_2_LOW))
    return fn("copysign", where(wide, folded, s + c), x)


def acos(x: Expr) -> Expr:
    """Inverse cosine. 23 instructions, one square root."""
    wide, s, c = _half_angle(fn("abs", x))
    sign = bits(x) & i32(SIGN)
    # pi/2 - (s + c) with the sign of x; 2 (s + c); pi - 2 (s + c)
    flip = fn("where", wide, sign, sign ^ i32(SIGN))
    factor = from_bits(fn("where", wide, bits(f32(2.0)), bits(f32(1.0))) ^ flip)
    left = fn("lt", bits(x), i32(0))
    base = where(wide, where(left, 2.0, 0.0), 1.0)
    return _sum(base * f32(PI_2_HIGH), base * f32(PI_2_LOW), s * factor, c * factor)
