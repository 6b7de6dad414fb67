"""Floats rounded to the codes of a quantized tensor: saturate(rint(x / scale) + zero).

The whole is a handful of instructions where its parts, each for all floats, are many: what is
saturated in the end is limited first, so that rounding is one addition and nothing overflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import Function, Value, constant, with_element
from niello.core.dtypes import float32, int32
from niello.kernel.ir import Cast, Const, Expr, Fn

MOST = 1 << 16  # largest magnitude of codes and zero points
MAGIC = 1.5 * 2.0**23  # added to a float of up to 22 bits, it leaves the rounded integer in the low
MAGIC_BITS = 0x4B400000
SCALES = (2.0**-60, 2.0**60)  # divisors whose quotients do not leave the normal floats


@dataclass(frozen=True)
class Codes:
    """min(max(rint(x / scale) + zero, low), high) in int32; NaN counts as 0.

    Without `rounds` x is truncated instead, and scale and zero are 1 and 0.
    """

    x: Expr
    scale: float
    zero: int
    low: int
    high: int
    rounds: bool


def find_codes(expr: Expr) -> Codes | None:
    """How an expression makes codes of floats, or None."""
    if not isinstance(expr, Fn) or expr.name not in ("min", "max") or expr.dtype is not int32:
        return None
    if "codes" not in expr.facts:
        expr.facts["codes"] = _find(expr)
    found: Codes | None = expr.facts["codes"]
    return found


def _find(expr: Fn) -> Codes | None:
    limits: dict[str, int] = {}
    inner: Expr = expr
    while isinstance(inner, Fn) and inner.name in ("min", "max") and inner.name not in limits:
        value, limit = inner.args
        if not isinstance(limit, Const) or abs(limit.value) > MOST:
            return None
        limits[inner.name] = int(limit.value)
        inner = value
    if len(limits) < 2 or limits["min"] < limits["max"]:
        return None
    if not isinstance(inner, Cast) or inner.x.dtype is not float32:
        return None
    low, high, x, zero = limits["max"], limits["min"], inner.x, 0
    whole = x
    if isinstance(x, Fn) and x.name == "add" and isinstance(x.args[1], Const):
        shift = x.args[1].value
        if float(shift).is_integer() and abs(shift) <= MOST:
            zero, whole = int(shift), x.args[0]
    if not isinstance(whole, Fn) or whole.name != "rint":
        return Codes(x, 1.0, 0, low, high, False)
    ratio = whole.args[0]
    if isinstance(ratio, Fn) and ratio.name == "div" and isinstance(ratio.args[1], Const):
        scale = float(ratio.args[1].value)
        if SCALES[0] <= scale <= SCALES[1]:
            return Codes(ratio.args[0], scale, zero, low, high, True)
    return Codes(ratio, 1.0, zero, low, high, True)


def emit_codes(f: Function, target: CpuTarget, codes: Codes, x: Value) -> Value:
    """The codes (i32) of a float or a vector of them."""
    low, high = (_edge(limit - codes.zero, codes.scale) for limit in (codes.low, codes.high))
    # In this order a NaN becomes the lowest code.
    held = f.select(f.fcmp("ogt", x, constant(low, x.type)), x, constant(low, x.type))
    held = f.select(f.fcmp("olt", held, constant(high, x.type)), held, constant(high, x.type))
    word = with_element(x.type, "i32")
    if codes.rounds:
        quotient = _divided(f, target, codes, held)
        sum_ = f.fadd(quotient, constant(MAGIC, x.type), "")
        found = f.sub(f.bitcast(sum_, word), constant(MAGIC_BITS - codes.zero, word))
    else:
        found = f.cast("fptosi", held, "i32")
    of_nan = min(max(0, codes.low), codes.high)
    if of_nan == codes.low:
        return found
    return f.select(f.fcmp("uno", x, x), constant(of_nan, word), found)


def _edge(multiple: int, scale: float) -> float:
    """The value that is this many steps: within a rounding, so its quotient rounds to them."""
    return float(np.float32(multiple * scale))


def _divided(f: Function, target: CpuTarget, codes: Codes, x: Value) -> Value:
    if codes.scale == 1.0:
        return x
    scale = constant(codes.scale, x.type)
    fused = target.architecture == "aarch64" or target.has("fma")
    if not fused or not rounds_alike(codes.scale, codes.low - codes.zero, codes.high - codes.zero):
        return f.fdiv(x, scale, "")
    high, low = reciprocal(codes.scale)
    small = f.fmul(x, constant(low, x.type), "")
    return f.fma(x, constant(high, x.type), small)


def reciprocal(scale: float) -> tuple[float, float]:
    """1 / scale as the sum of two floats."""
    high = np.float32(1 / np.float64(scale))
    # 1 - high * scale is exact in float64: 48 bits.
    return float(high), float(np.float32((1 - np.float64(high) * scale) / scale))


@cache
def rounds_alike(scale: float, low: int, high: int) -> bool:
    """Whether x * reciprocal, in two parts, rounds to the integer that x / scale rounds to.

    Both lie within two units in the last place of the quotient: only where that is next to half an
    integer may they differ, and there all floats are tried.
    """
    halves = np.arange(low, high + 1, dtype=np.float64) + 0.5
    near = (halves * scale).astype(np.float32)
    lines = [near]
    for direction in (-np.inf, np.inf):
        moved = near
        for _ in range(8):
            moved = np.nextafter(moved, np.float32(direction))
            lines.append(moved)
    x = np.concatenate(lines)
    expected = np.rint(x / np.float32(scale))
    first, second = map(np.float32, reciprocal(scale))
    # The product is exact; the sum is rounded at 53 bits, which the margins allow for.
    sums = x.astype(np.float64) * first.astype(np.float64) + (x * second).astype(np.float64)
    return all(
        np.array_equal(np.rint((sums * (1 + margin)).astype(np.float32)), expected)
        for margin in (-(2.0**-50), 2.0**-50)
    )
