"""log, log2, log10, log1p, asinh, acosh and atanh of float32 as primitive functions.

All split the argument into 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)) by integer operations on
its pattern, and evaluate a polynomial in f, whose coefficients tools/minimax.py derives.
"Instructions" are vector instructions on AVX-512, counted by tools/ulp.py.
"""

from __future__ import annotations

import math

from niello.codegen.transcendental_parts import (
    LN2_HIGH,
    LN2_LOW,
    at_most,
    bits,
    f32,
    fma,
    from_bits,
    horner,
    i32,
    where,
)
from niello.core.dtypes import float32
from niello.kernel.ir import Expr, cast, fn

SQRT_HALF_BITS = 0x3F3504F3

# log(1 + f) = f + f^2 p(f), sqrt(1/2) <= 1 + f < sqrt(2): 2^-27.8
_LOG = (
    -0.49999988079071045, 0.33333325386047363, -0.25001609325408936, 0.20002004504203796,
    -0.16608411073684692, 0.14180852472782135, -0.132480651140213, 0.12912960350513458,
    -0.07619096338748932,
)  # fmt: skip
# log2(1 + f) = f + f p(f): 2^-27.0
_LOG2 = (
    0.4426950514316559, -0.7213475108146667, 0.4808965027332306, -0.3606826066970825,
    0.28861889243125916, -0.23995132744312286, 0.20415376126766205, -0.18825815618038177,
    0.1868886947631836, -0.1164160892367363,
)  # fmt: skip
# log10(1 + f) = f / 2 + f p(f): 2^-27.3
_LOG10 = (
    -0.06570551544427872, -0.21714724600315094, 0.14476454257965088, -0.10857661813497543,
    0.08687233179807663, -0.07221139222383499, 0.06158862262964249, -0.056961774826049805,
    0.05574631690979004, -0.03387410193681717,
)  # fmt: skip
LOG10_2_HIGH = 0.30103302001953125  # 16 bits
LOG10_2_LOW = -3.0243555500547862e-06


def split(x: Expr) -> tuple[Expr, Expr]:
    """(n, f) with x = 2^n (1 + f), for finite x > 0."""
    small = fn("lt", x, f32(2.0**-126))
    scaled = where(small, x * f32(2.0**23), x)
    pattern = bits(scaled) - i32(SQRT_HALF_BITS)
    exponent = cast(fn("shr", pattern, 23), float32)
    mantissa = from_bits(fn("and", pattern, i32(0x7FFFFF)) + i32(SQRT_HALF_BITS))
    return exponent + where(small, -23.0, 0.0), mantissa - f32(1.0)


def split_plus_one(x: Expr) -> tuple[Expr, Expr, Expr]:
    """(n, f, 2^(2 - n)) with 1 + x = 2^n (1 + f), f within half an ulp, for finite x > -1.

    (1 + x) / 4 cannot overflow and gives n; f = x 2^-n + (2^-n - 1) has one rounding.
    """
    pattern = bits(fma(x, 0.25, 0.25)) - i32(SQRT_HALF_BITS)
    inverse = from_bits(i32(0x3F800000) - fn("and", pattern, i32(-0x800000)))
    exponent = cast(fn("shr", pattern, 23), float32) + f32(2.0)
    return exponent, fma(x * inverse, 0.25, fma(inverse, 0.25, -1.0)), inverse


def natural(n: Expr, f: Expr, lost: Expr | None = None) -> Expr:
    """log(2^n (1 + f + lost)), within a little over half an ulp also near f = 0.

    `lost` is what rounding took from f.
    """
    low = fma(n, LN2_LOW, f)
    tail = horner(f, _LOG)
    if lost is None:
        return fma(n, LN2_HIGH, fma(f * f, tail, low))
    return fma(n, LN2_HIGH, low + fma(f * f, tail, lost))


def _defined(x: Expr, pole: float, y: Expr) -> Expr:
    """y, with the limits of logarithms: -inf at `pole`, NaN below; inf and NaN stay."""
    y = where(fn("lt", x, f32(math.inf)), y, x)
    outside = where(fn("eq", x, f32(pole)), -math.inf, math.nan)
    return where(fn("le", x, f32(pole)), outside, y)


def log(x: Expr) -> Expr:
    """Natural logarithm. 26 instructions."""
    return _defined(x, 0.0, natural(*split(x)))


def log2(x: Expr) -> Expr:
    """Logarithm to base 2, exact for powers of two. 25 instructions."""
    n, f = split(x)
    return _defined(x, 0.0, n + fma(f, horner(f, _LOG2), f))


def log10(x: Expr) -> Expr:
    """Logarithm to base 10. 27 instructions."""
    n, f = split(x)
    y = fma(f, horner(f, _LOG10), f * f32(0.5))
    return _defined(x, 0.0, fma(n, LOG10_2_HIGH, fma(n, LOG10_2_LOW, y)))


def log1p(x: Expr) -> Expr:
    """log(1 + x). 27 instructions."""
    n, f, _ = split_plus_one(x)
    y = natural(n, f)
    y = where(fn("eq", x, f32(0.0)), x, y)
    return _defined(x, -1.0, y)


def _log_of_large_pair(w: Expr, large: Expr, x: Expr, lost: Expr | None = None) -> Expr:
    """log(1 + w + lost), but log(2 x) where x is large. `lost` is below an ulp of w."""
    n, f, inverse = split_plus_one(where(large, x, w))
    n = n + where(large, 1.0, 0.0)
    return natural(n, f, None if lost is None else lost * (inverse * f32(0.25)))


def asinh(x: Expr) -> Expr:
    """Inverse hyperbolic sine: log(1 + w), w = a + a^2 / (1 + sqrt(1 + a^2)), a = |x|. 33
    instructions, one division and one square root."""
    a = fn("abs", x)
    large = fn("lt", f32(2.0**26), a)
    square = a * a
    w = a + square / (fn("sqrt", square + f32(1.0)) + f32(1.0))
    y = _log_of_large_pair(w, large, a)
    y = where(fn("lt", a, f32(math.inf)), y, a)
    return fn("copysign", y, x)


def acosh(x: Expr) -> Expr:
    """Inverse hyperbolic cosine: log(1 + t + sqrt(2 t + t^2)), t = x - 1. 38
    instructions, one square root."""
    t = x - f32(1.0)
    large = fn("lt", f32(2.0**26), x)
    root = fn("sqrt", fma(t, t, t + t))
    w = t + root
    lost = where(large, 0.0, t - (w - root))  # by rounding w: half an ulp that would count near 1
    y = _log_of_large_pair(w, large, x, lost)
    y = where(fn("lt", x, f32(math.inf)), y, x)
    return where(fn("lt", x, f32(1.0)), math.nan, y)


def atanh(x: Expr) -> Expr:
    """Inverse hyperbolic tangent: log(1 + w) / 2, w = 2 a / (1 - a) = 2 a + 2 a (a / (1 - a)).
    34 instructions, one division."""
    a = fn("abs", x)
    quotient = at_most(a, 1.0) / (f32(1.0) - a)
    w = fma(a + a, quotient, a + a)
    n, f, _ = split_plus_one(w)
    y = natural(n, f) * f32(0.5)
    y = where(fn("eq", a, f32(1.0)), math.inf, y)
    y = where(fn("lt", f32(1.0), a), math.nan, y)
    return fn("copysign", y, x)
