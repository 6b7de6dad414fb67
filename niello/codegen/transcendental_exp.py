"""exp, exp2, expm1, sinh, cosh, tanh and erf of float32 as primitive functions.

All reduce the argument to x = n ln 2 + r with |r| <= (ln 2) / 2 and evaluate a polynomial in r.
tools/minimax.py derives the coefficients; the power of two beside each is the error that the
polynomial leaves in the result. "Instructions" are vector instructions on AVX-512, counted by
tools/ulp.py, which also measures the errors.
"""

from __future__ import annotations

from niello.codegen.transcendental_parts import (
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    SHIFTER_BITS,
    at_least,
    at_most,
    f32,
    fma,
    horner,
    i32,
    nearest,
    power_of_two,
    reduce_ln2,
    where,
)
from niello.kernel.ir import Expr, fn

# exp(r) = 1 + r + r^2 p(r), |r| <= 0.3469: 2^-28.2
_EXP = (
    1.0, 1.0, 0.4999999403953552, 0.1666652113199234, 0.04166827350854874, 0.00836868304759264,
    0.0013820076128467917,
)  # fmt: skip
# 2^r = 1 + r p(r), |r| <= 0.501: 2^-28.3
_EXP2 = (
    1.0, 0.6931471824645996, 0.24022647738456726, 0.05550359562039375, 0.009618505835533142,
    0.0013391023967415094, 0.0001532679598312825,
)  # fmt: skip
# exp(r) - 1 = r + r^2 p(r), |r| <= 0.3469: 2^-26.1
_EXPM1 = (
    0.4999999701976776, 0.1666654646396637, 0.04166743531823158, 0.008366270922124386,
    0.001387069234624505,
)  # fmt: skip
# sinh(r) = r + r^3 p(r^2), cosh(r) = 1 + r^2 p(r^2), |r| <= 0.3469: 2^-34.3, 2^-33.3
_SINH = (0.1666666716337204, 0.00833317544311285, 0.00019974083988927305)
_COSH = (0.5, 0.041666459292173386, 0.0013935451861470938)
# (exp(2 r) - 1) / 2 = r + r^2 p(r), |r| <= 0.1735: 2^-26.6
_TANH = (
    1.0000001192092896, 0.6666609644889832, 0.33332663774490356, 0.13389410078525543,
    0.044608719646930695,
)  # fmt: skip
# exp(r) - 1 = r + r^2 p(r) relative to 1 - exp(n ln 2 + r) < 1 for all integers n <= 0: 2^-26.9
_ERF_EXPM1 = (
    0.4999997615814209, 0.16666506230831146, 0.04167220741510391, 0.008370204828679562,
    0.0013617395889014006,
)  # fmt: skip
# erf(a) = 1 - exp(-a + a p(a)), 0 <= a <= 3.93: 2^-27.8
_ERF = (
    -0.12837916612625122, -0.6366195678710938, -0.10277630388736725, 0.019147826358675957,
    0.0001694845559541136, -0.001675638952292502, 0.000637330929748714, -0.00011884827836183831,
    9.386001693201251e-06,
)  # fmt: skip


def _in_pairs(r: Expr, z: Expr, c: tuple[float, ...]) -> Expr:
    """sum c[i] r^i of five terms, z = r^2: a shorter chain than Horner's, with as many fma.

    What counts most is added last, as in Horner's form, so errors are no larger.
    """
    return fma(r, fma(z, fma(r, c[4], c[3]), fma(r, c[2], c[1])), c[0])


def _scale(value: Expr, biased: Expr) -> Expr:
    """value * 2^n for n from -150 to 128 in two steps, so that subnormal results round once.

    `biased` holds n + 254 in its low bits, as `nearest` leaves it.
    """
    half = fn("shr", biased, 1)
    return value * power_of_two(half) * power_of_two(biased - half)


def exp(x: Expr) -> Expr:
    """e^x. 18 instructions."""
    x = at_least(at_most(x, 89.0), -104.0)
    n, biased = nearest(x, LOG2_E, 254)
    return _scale(horner(reduce_ln2(x, n), _EXP), biased)


def exp_by_scalb(x: Expr) -> Expr:
    """e^x, with the bits of `exp`, where scaling by a power of two is one instruction: 13."""
    x = at_least(at_most(x, 89.0), -104.0)
    n, _ = nearest(x, LOG2_E)
    return fn("scalb", horner(reduce_ln2(x, n), _EXP), n)


def exp2(x: Expr) -> Expr:
    """2^x. 17 instructions."""
    x = at_least(at_most(x, 128.25), -150.25)
    n, biased = nearest(x, 1.0, 254)
    return _scale(horner(x - n, _EXP2), biased)


def exp2_by_scalb(x: Expr) -> Expr:
    """2^x, with the bits of `exp2`, where scaling is one instruction: 11."""
    x = at_least(at_most(x, 128.25), -150.25)
    n, _ = nearest(x, 1.0)
    return fn("scalb", horner(x - n, _EXP2), n)


def two_to_sum(high: Expr, low: Expr) -> Expr:
    """2^(high + low) for |high| <= 160 and |low| <= 1/4, low a correction. 15 instructions."""
    n, biased = nearest(high + low, 1.0, 254)
    return _scale(horner((high - n) + low, _EXP2), biased)


def expm1(x: Expr) -> Expr:
    """e^x - 1. 18 instructions. Tiny arguments are their own result: -0, subnormals."""
    c = at_least(at_most(x, 89.0), -18.0)
    n, biased = nearest(c, LOG2_E, 126)
    r = reduce_ln2(c, n)
    s = power_of_two(biased)  # half of 2^n, which would overflow at n = 128
    grown = fma(r * r, horner(r, _EXPM1), r)
    y = fma(s, grown, s - f32(0.5))
    return where(fn("lt", fn("abs", x), 2.0**-26), x, y + y)


def _exp_halves(a: Expr) -> tuple[Expr, Expr, Expr, Expr]:
    """(2^(n - 2), 2^(-n - 2), cosh r - 1, sinh r) where a = n ln 2 + r, for 0 <= a <= 89.6."""
    n, biased = nearest(a, LOG2_E, 125)
    r = reduce_ln2(a, n)
    # 2^(-n - 2) ends at the normal numbers, where it no longer counts
    exponent = fn("max", i32(250 + SHIFTER_BITS) - biased, i32(0))
    z = r * r
    return (
        power_of_two(biased),
        power_of_two(exponent),
        z * horner(z, _COSH),
        fma(r * z, horner(z, _SINH), r),
    )


def sinh(x: Expr) -> Expr:
    """Hyperbolic sine. 25 instructions. Tiny arguments are their own result, as for `expm1`."""
    a = at_most(fn("abs", x), 89.6)
    grown, decayed, c, s = _exp_halves(a)
    difference = grown - decayed
    y = fma(difference, c, fma(grown + decayed, s, difference))
    y = where(fn("lt", a, f32(2.0**-13)), a, y + y)
    return fn("copysign", y, x)


def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine. 25 instructions."""
    grown, decayed, c, s = _exp_halves(at_most(fn("abs", x), 89.6))
    y = grown + fma(grown, c + s, decayed * ((c - s) + f32(1.0)))
    return y + y


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent. 19 instructions, one division.

    With h = (e^(2|x|) - 1) / 2, tanh |x| = h / (1 + h), which is both h - h (h / (1 + h)) and
    1 - 1 / (1 + h): b - b (b / (1 + h)) with b = min(h, 1) damps the rounding of the quotient.
    """
    a = at_most(fn("abs", x), 10.0)
    n, biased = nearest(a, 2 * LOG2_E, 127)
    r = fma(n, -(LN2_HIGH + LN2_LOW) / 2, a)
    s = power_of_two(biased)
    z = r * r
    grown = fma(z, _in_pairs(r, z, _TANH), r)
    h = fma(s, grown, fma(s, 0.5, -0.5))
    b = at_most(h, 1.0)
    return fn("copysign", fma(-b, b / (h + f32(1.0)), b), x)


def erf(x: Expr) -> Expr:
    """Error function as 1 - e^-z, z = |x| (1 + q(|x|)) = -log(erfc |x|). 25 instructions.

    One path for all arguments: near zero e^-z - 1 is evaluated without cancellation, and for large
    arguments errors of z are damped by e^-z.
    """
    a = at_most(fn("abs", x), 3.92)
    square = a * a
    high = fma(square, fma(square, _ERF[8], fma(a, _ERF[7], _ERF[6])), fma(a, _ERF[5], _ERF[4]))
    middle = fma(square, high, fma(a, _ERF[3], _ERF[2]))
    z = fma(a, fma(fma(middle, a, _ERF[1]), a, _ERF[0]), -a)
    n, biased = nearest(z, LOG2_E, 127)
    r = fma(n, -(LN2_HIGH + LN2_LOW), z)
    s = power_of_two(biased)
    square = r * r
    grown = fma(square, _in_pairs(r, square, _ERF_EXPM1), r)
    return fn("copysign", fma(s, grown, s - f32(1.0)), x)
