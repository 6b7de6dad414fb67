"""Derives the polynomial coefficients of niello/codegen/transcendental_*.py.

Each entry of `TABLE` names a function f, an interval, the powers of a polynomial p and the weight
w that turns the error of p into the relative error of the result it is part of. The coefficients
minimise max |w (p - f)| (linear programming on a dense Chebyshev grid), rounded to float32 one
after the other from the lowest power, refitting the rest after each rounding. The figure printed
with each entry is log2 of that maximum with the rounded coefficients: -24 is half an ulp of 1.

Needs mpmath and SciPy (development only). Run `python tools/minimax.py [name ...]`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import numpy as np
from scipy.optimize import linprog

mp.mp.prec = 200
Real = Callable[[mp.mpf], mp.mpf]


@dataclass(frozen=True)
class Fit:
    """What to approximate: f on [low, high] by sum c_i x^powers[i], errors weighted by `weight`."""

    f: Real
    low: float
    high: float
    powers: tuple[int, ...]
    weight: Real


def chebyshev_grid(low: float, high: float, count: int) -> list[mp.mpf]:
    """Points of [low, high], dense at the ends, never exactly at an end or at zero."""
    middle, half = mp.mpf(low + high) / 2, mp.mpf(high - low) / 2
    return [middle - half * mp.cos(mp.pi * (i + mp.mpf(1) / 2) / count) for i in range(count)]


def minimax(x: np.ndarray, f: np.ndarray, w: np.ndarray, powers: tuple[int, ...]) -> np.ndarray:
    """Coefficients that minimise the maximum of |w (p - f)| on the grid `x`.

    A linear program for the correction of the least-squares fit, in units of that fit's error, so
    that the solver's tolerance does not matter; repeated once. Unlike an exchange it needs no
    Haar condition: the interval may hold zero while the power zero is missing.
    """
    scale = np.abs(x).max() ** np.array(powers, float)
    basis = w[:, None] * np.stack([x**p for p in powers], axis=1) / scale
    found = np.linalg.lstsq(basis, w * f, rcond=None)[0]
    column = np.abs(basis).max(axis=0)
    for _ in range(2):
        error = basis @ found - w * f
        unit = np.abs(error).max()
        a = np.concatenate([basis / column, -basis / column])
        system = np.concatenate([a, -np.ones((len(a), 1))], axis=1)
        limits = np.concatenate([-error, error]) / unit
        cost = np.r_[np.zeros(len(powers)), 1.0]
        bounds = [(None, None)] * len(powers) + [(0, None)]
        solved = linprog(cost, system, limits, bounds=bounds, method="highs")
        found = found + solved.x[:-1] / column * unit
    return found / scale


def fit(entry: Fit, count: int = 500) -> tuple[list[np.float32], float]:
    """Float32 coefficients, lowest power first, and log2 of the weighted maximum error."""
    grid = chebyshev_grid(entry.low, entry.high, count)
    x = np.array([float(v) for v in grid])
    f = np.array([float(entry.f(v)) for v in grid])
    w = np.array([abs(float(entry.weight(v))) for v in grid])
    found: list[np.float32] = []
    rest = f.copy()
    powers = list(entry.powers)
    while powers:
        c = np.float32(minimax(x, rest, w, tuple(powers))[0])
        found.append(c)
        rest = rest - float(c) * x ** powers.pop(0)
    return found, float(np.log2(np.abs(w * rest).max()))


LN2 = mp.log(2)


def _split_quotient(f: Real, lead: tuple[float, ...]) -> Real:
    """(f(x) - sum lead_i x^i) / x^len(lead): what remains after the leading terms."""

    def rest(x: mp.mpf) -> mp.mpf:
        return (f(x) - sum(c * x**i for i, c in enumerate(lead))) / x ** len(lead)

    return rest


def _erf_exponent(a: mp.mpf) -> mp.mpf:
    """q with erf(a) = 1 - exp(a + a q), negated: -log(erfc(a)) / a - 1."""
    return -(-mp.log(mp.erfc(a)) / a - 1)


def _tanh_weight(r: mp.mpf) -> mp.mpf:
    """tanh = h / (1 + h) with h = g (n = 0, r > 0) or 2 g + 1/2 (n = 1, r < 0 is worst)."""
    g = mp.expm1(2 * r) / 2
    return r * r / (g * (1 + g)) if r > 0 else r * r / ((g + 0.25) * (1.5 + 2 * g))


def _pow_tail(s: mp.mpf) -> mp.mpf:
    second = mp.mpf(31) / 32 + float(np.float32(2 / (3 * LN2) - mp.mpf(31) / 32))
    return (mp.log((1 + s) / (1 - s)) / LN2 / s - 2 / LN2 - second * s * s) / s**4


TABLE: dict[str, Fit] = {
    # exp(r) = 1 + r + r^2 p(r)
    "exp": Fit(
        _split_quotient(mp.exp, (1, 1)),
        -0.3469,
        0.3469,
        tuple(range(5)),
        lambda r: r * r / mp.exp(r),
    ),
    # 2^r = 1 + r p(r)
    "exp2": Fit(
        _split_quotient(lambda r: mp.mpf(2) ** r, (1,)),
        -0.501,
        0.501,
        tuple(range(6)),
        lambda r: r / mp.mpf(2) ** r,
    ),
    # (exp(2 r) - 1) / 2 = r + r^2 p(r)
    "tanh": Fit(
        _split_quotient(lambda r: mp.expm1(2 * r) / 2, (0, 1)),
        -0.1735,
        0.1735,
        tuple(range(5)),
        _tanh_weight,
    ),
    # exp(r) - 1 = r + r^2 p(r)
    "expm1": Fit(
        _split_quotient(mp.exp, (1, 1)),
        -0.3469,
        0.3469,
        tuple(range(5)),
        lambda r: r * r / mp.expm1(r),
    ),
    # the same for erf, 1 - exp(n ln 2 + r): small results come from n = 0 and
    # r < 0; near -1/3 other roundings add up, hence the double weight
    "erf_expm1": Fit(
        _split_quotient(mp.exp, (1, 1)),
        -0.3469,
        0.3469,
        tuple(range(5)),
        lambda r: r * r / (mp.expm1(r) / (2 if r < -0.25 else 1) if r < 0 else 2 - mp.exp(r)),
    ),
    # erf(a) = 1 - exp(-a + a p(a))
    "erf": Fit(_erf_exponent, 0.0, 3.93, tuple(range(9)), lambda a: a * mp.erfc(a) / mp.erf(a)),
    # log(1 + f) = f + f^2 p(f)
    "log": Fit(
        _split_quotient(mp.log1p, (0, 1)),
        -0.29290,
        0.41422,
        tuple(range(9)),
        lambda f: f * f / mp.log1p(f),
    ),
    # log2(1 + f) = f + f p(f)
    "log2": Fit(
        _split_quotient(lambda f: mp.log1p(f) / LN2 - f, (0,)),
        -0.29290,
        0.41422,
        tuple(range(10)),
        lambda f: f / (mp.log1p(f) / LN2),
    ),
    # log10(1 + f) = f / 2 + f p(f)
    "log10": Fit(
        _split_quotient(lambda f: mp.log10(1 + f) - f / 2, (0,)),
        -0.29290,
        0.41422,
        tuple(range(10)),
        lambda f: f / mp.log10(1 + f),
    ),
    # sinh(r) = r + r^3 p(r^2), cosh(r) = 1 + r^2 p(r^2)
    "sinh": Fit(
        lambda r: (mp.sinh(r) / r - 1) / r**2,
        0.0,
        0.3469,
        (0, 2, 4),
        lambda r: r**3 / mp.sinh(r),
    ),
    "cosh": Fit(
        lambda r: (mp.cosh(r) - 1) / r**2, 0.0, 0.3469, (0, 2, 4), lambda r: r * r / mp.cosh(r)
    ),
    # sin(r) = r + r^3 p(r^2), cos(r) = 1 - r^2 / 2 + r^4 p(r^2), tan(r) = r + r^3 p(r^2)
    "sin": Fit(
        lambda r: (mp.sin(r) / r - 1) / r**2,
        0.0,
        0.7855,
        (0, 2, 4),
        lambda r: r**3 / mp.sin(r),
    ),
    "cos": Fit(
        lambda r: (mp.cos(r) - 1 + r * r / 2) / r**4,
        0.0,
        0.7855,
        (0, 2, 4),
        lambda r: r**4 / mp.cos(r),
    ),
    "tan": Fit(
        lambda r: (mp.tan(r) / r - 1) / r**2,
        0.0,
        0.7855,
        (0, 2, 4, 6, 8, 10, 12),
        lambda r: r**3 / mp.tan(r),
    ),
    # atan(r) = r + r^3 p(r^2), asin(r) = r + r^3 p(r^2)
    "atan": Fit(
        lambda r: (mp.atan(r) / r - 1) / r**2,
        0.0,
        1.0,
        (0, 2, 4, 6, 8, 10, 12, 14),
        lambda r: r**3 / mp.atan(r),
    ),
    "asin": Fit(
        lambda r: (mp.asin(r) / r - 1) / r**2,
        0.0,
        0.5,
        (0, 2, 4, 6, 8),
        lambda r: r**3 / mp.asin(r),
    ),
    # log2((1 + s) / (1 - s)) / s = 2 / ln 2 + c s^2 + s^4 p(s^2), c = 31 / 32 + a float32
    "pow": Fit(_pow_tail, 0.0, 0.17158, (0, 2, 4), lambda s: s**4 * LN2 / 2),
}


def main(names: list[str]) -> None:
    for name in names or TABLE:
        coefficients, level = fit(TABLE[name])
        print(f"{name}: max error 2^{level:.2f}")
        for power, c in zip(TABLE[name].powers, coefficients, strict=True):
            print(f"    x^{power}  {float(c)!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
