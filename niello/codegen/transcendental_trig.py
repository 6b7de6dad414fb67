"""sin, cos and tan of float32 as primitive functions, for all arguments.

|x| is reduced to q pi/2 + hi + lo with |hi + lo| <= pi/4 (and a little), to about 2^-27 relative:
up to 6000 by subtracting multiples of pi/2 given in four parts, beyond that by multiplying the
mantissa with the 96 bits of 2/pi that matter (Payne and Hanek). The second way takes 62 vector
instructions and hardly any argument needs it: every selection between the two has the fact
"rare" set to 1, the position of the argument that is rarely chosen, so that a renderer may skip
that side where no lane wants it.
"""

from __future__ import annotations

import math
from itertools import pairwise

from niello.codegen.transcendental_parts import (
    bits,
    f32,
    fma,
    from_bits,
    horner,
    i32,
    nearest,
    where,
)
from niello.core.dtypes import float32, int32, uint32
from niello.kernel.ir import Expr, bitcast, cast, const, fn

# pi/2 in four parts, low ones negative or positive: integers below 2^12 times the first three are
# exact, and the first two are multiples of 2^-24, so that subtracting them is exact too.
PI_2_PARTS = (1.57080078125, -4.470348358154297e-06, 1.5890691429376602e-08, 2.563344151594519e-12)
PI_2_REST = -4.454455103380768e-06  # pi/2 less the first part
LARGEST_SIMPLE = 6000.0
TWO_OVER_PI = (0x0000A2F9, 0x836E4E44, 0x1529FC27, 0x57D1F534, 0xDDC0DB62, 0x95993C43, 0x9041FE51)

# sin(r) = r + r^3 p(r^2), |r| <= 0.7855: 2^-27.9
_SIN = (-0.16666655242443085, 0.008332189172506332, -0.00019518283079378307)
# cos(r) = 1 - r^2 / 2 + r^4 p(r^2): 2^-33.0
_COS = (-0.5, 0.04166664555668831, -0.0013887309469282627, 2.4432327336398885e-05)
# tan(r) = r + r^3 p(r^2): 2^-29.6
_TAN = (
    0.33333349227905273, 0.13332675397396088, 0.05405891314148903, 0.02128620818257332,
    0.0108274444937706, 9.824216249398887e-05, 0.004372701048851013,
)  # fmt: skip


def _u32(value: int) -> Expr:
    return const(value, uint32)


def _reduce_simple(a: Expr) -> tuple[Expr, Expr, Expr]:
    """(hi, lo, q) for 0 <= a <= 6000; q int32 whose low bits count."""
    n, q = nearest(a, 2 / math.pi)
    first, second, third, fourth = PI_2_PARTS
    rest = fma(n, -second, fma(n, -first, a))
    product = n * f32(third)
    hi = rest - product
    return hi, fma(n, -fourth, (rest - hi) - product), q


def _window(shift: Expr) -> tuple[Expr, Expr, Expr]:
    """96 bits of TWO_OVER_PI from bit `shift` (uint32, below 128) on, as three words."""
    words: list[Expr] = [_u32(w) for w in TWO_OVER_PI]
    for step in (2, 1):
        skip = fn("ne", shift & _u32(32 * step), _u32(0))
        words = [fn("where", skip, b, a) for a, b in zip(words, words[step:], strict=False)]
    left = shift & _u32(31)
    right = left ^ _u32(31)
    a, b, c = ((high << left) | ((low >> _u32(1)) >> right) for high, low in pairwise(words))
    return a, b, c


def _reduce_large(a: Expr) -> tuple[Expr, Expr, Expr]:
    """(hi, lo, q) for a >= 4096; NaN in lo for infinity."""
    pattern = bitcast(a, uint32)
    mantissa = (pattern & _u32(0x7FFFFF)) | _u32(0x800000)
    # a = mantissa 2^(e - 150): bits of 2/pi before e - 151 give whole turns; 16 zeros come first.
    w0, w1, w2 = _window((pattern >> _u32(23)) - _u32(136))
    middle = mantissa * w1
    low = middle + fn("mulhi", mantissa, w2)
    carry = fn("where", fn("lt", low, middle), _u32(1), _u32(0))
    high = mantissa * w0 + fn("mulhi", mantissa, w1) + carry
    # high:low is the quotient mod 4 with 62 bits of fraction: round, and take the rest's sign off
    turn = high + _u32(1 << 29)
    rest = (turn & _u32(0x3FFFFFFF)) - _u32(1 << 29)
    negative = bitcast(fn("shr", bitcast(rest, int32), 31), uint32)
    rest, low = rest ^ negative, low ^ negative
    hi, lo = _quarter_turns(rest, low)
    sign = bitcast(negative & _u32(0x80000000), int32)
    hi = from_bits(bits(hi) ^ sign)
    lo = fma(a, 0.0, from_bits(bits(lo) ^ sign))
    return hi, lo, bitcast(turn >> _u32(30), int32)


def _quarter_turns(rest: Expr, low: Expr) -> tuple[Expr, Expr]:
    """pi/2 (rest 2^-30 + low 2^-62) as two floats, for rest up to 2^29."""

    def number(x: Expr) -> Expr:
        return cast(bitcast(x, int32), float32)

    first = PI_2_PARTS[0]  # 12 bits, as a and b have: their products are exact
    a, b = number(rest >> _u32(18)), number((rest >> _u32(6)) & _u32(0xFFF))
    c = number(((rest & _u32(63)) << _u32(25)) | (low >> _u32(7)))
    product = a * f32(first * 2.0**-12)
    hi = fma(b, first * 2.0**-24, product)
    lo = fma(b, first * 2.0**-24, product - hi)
    lo = fma(b, PI_2_REST * 2.0**-24, fma(a, PI_2_REST * 2.0**-12, lo))
    lo = fma(c, math.pi / 2 * 2.0**-55, lo)
    total = hi + lo
    return total, lo - (total - hi)


def reduce(a: Expr) -> tuple[Expr, Expr, Expr]:
    """(hi, lo, q) with a = q pi/2 + hi + lo for a >= 0; NaN in hi or lo for infinity and NaN."""
    large = fn("lt", f32(LARGEST_SIMPLE), a)
    chosen = []
    for rare, common in zip(_reduce_large(a), _reduce_simple(a), strict=True):
        node = fn("where", large, rare, common)
        node.facts["rare"] = 1
        chosen.append(node)
    return chosen[0], chosen[1], chosen[2]


def _sin_and_cos(hi: Expr, lo: Expr) -> tuple[Expr, Expr]:
    z = hi * hi
    sin = hi + fma(hi * z, horner(z, _SIN), lo)
    cos = fma(z, horner(z, _COS), -(hi * lo)) + f32(1.0)
    return sin, cos


def _choose(odd: Expr, yes: Expr, no: Expr, q: Expr) -> Expr:
    """`yes` where bit 0 of `odd` is set; negated where bit 1 of q is."""
    chosen = where(fn("ne", odd & i32(1), i32(0)), yes, no)
    return from_bits(bits(chosen) ^ ((q & i32(2)) << i32(30)))


def sin(x: Expr) -> Expr:
    """Sine. 26 vector instructions (AVX-512), and 62 to reduce large arguments."""
    hi, lo, q = reduce(fn("abs", x))
    sin, cos = _sin_and_cos(hi, lo)
    return from_bits(bits(_choose(q, cos, sin, q)) ^ (bits(x) & i32(-0x80000000)))


def cos(x: Expr) -> Expr:
    """Cosine. 26 vector instructions (AVX-512), and 62 to reduce large arguments."""
    hi, lo, q = reduce(fn("abs", x))
    sin, cos = _sin_and_cos(hi, lo)
    return _choose(q, sin, cos, q + i32(1))


def tan(x: Expr) -> Expr:
    """Tangent. 24 vector instructions (AVX-512), one division, and 62 to reduce large arguments."""
    hi, lo, q = reduce(fn("abs", x))
    z = hi * hi
    t = hi + fma(hi * z, horner(z, _TAN), fma(lo, z, lo))
    y = where(fn("ne", q & i32(1), i32(0)), f32(-1.0) / t, t)
    return from_bits(bits(y) ^ (bits(x) & i32(-0x80000000)))
