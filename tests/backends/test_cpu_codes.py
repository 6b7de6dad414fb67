"""Floats become codes of quantized tensors in a few instructions, and the same codes as ever."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_kernels import check, pointwise

from niello.backends.cpu.render_codes import Codes, find_codes, reciprocal, rounds_alike
from niello.core.dtypes import DType, float32, int8, int16, int32, uint8
from niello.kernel import ir
from niello.kernel.ir import Expr, Load, Param, Range

RANGES = {uint8: (0, 255), int8: (-128, 127), int16: (-32768, 32767)}
SCALES = [1.0, 0.02, 0.1, 1 / 3, 0.0235294122248888, 7.5, 1.1920929e-07, 1e30]


def saturated(whole: Expr, low: int, high: int) -> Expr:
    wide = ir.cast(whole, int32)
    return ir.fn("min", ir.fn("max", wide, ir.const(low, int32)), ir.const(high, int32))


def quantized(x: Expr, scale: float, zero: int, kind: DType) -> Expr:
    ratio = ir.fn("div", x, ir.const(np.float32(scale).item(), float32))
    whole = ir.fn("add", ir.fn("rint", ratio), ir.const(float(zero), float32))
    return ir.cast(saturated(whole, *RANGES[kind]), kind)


def around_halves(scale: float, zero: int, kind: DType) -> np.ndarray:
    """Floats next to those whose quotients lie between two codes, and special ones."""
    low, high = RANGES[kind]
    halves = np.arange(max(low, -700) - zero - 2, min(high, 700) - zero + 2) + 0.5
    near = (halves * np.float64(np.float32(scale))).astype(np.float32)
    below, above = (np.nextafter(near, np.float32(d)) for d in (-np.inf, np.inf))
    special = np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-42, -0.0, 0.0])
    random = np.random.default_rng(3).normal(0, 60, 500).astype(np.float32) * np.float32(scale)
    return np.concatenate([near, below, above, special, random])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("kind", "zero"), [(uint8, 0), (uint8, 117), (int8, 0), (int8, -128)])
def test_codes_are_those_of_a_division(scale: float, kind: DType, zero: int) -> None:
    x = around_halves(scale, zero, kind)
    kernel = pointwise(x.size, [float32], lambda v: quantized(v, scale, zero, kind), kind)
    check(kernel, [x, np.zeros(x.size, kind.numpy)], threads=(1,))


def test_wide_codes_and_products_of_a_factor() -> None:
    x = around_halves(0.01, 5, int16)

    def body(v: Expr) -> Expr:
        scaled = ir.fn("rint", ir.fn("mul", v, ir.const(100.0, float32)))
        return ir.cast(saturated(scaled, *RANGES[int16]), int16)

    check(pointwise(x.size, [float32], body, int16), [x, np.zeros(x.size, np.int16)], threads=(1,))


def test_what_is_not_rounded_is_truncated() -> None:
    x = np.float32([0.9, -0.9, 254.99, 255.5, 300, -1.5, np.nan, np.inf, -np.inf, 2.5] * 7)
    kernel = pointwise(x.size, [float32], lambda v: ir.cast(saturated(v, 0, 255), uint8), uint8)
    check(kernel, [x, np.zeros(x.size, np.uint8)], threads=(1,))


def test_which_expressions_are_codes() -> None:
    i = Range("i", 4)
    x = Load(Param(0, float32, 4, False), i, None)
    whole = saturated(ir.fn("rint", x), 0, 255)
    assert find_codes(whole) == Codes(x, 1.0, 0, 0, 255, True)
    assert find_codes(saturated(x, -8, 7)) == Codes(x, 1.0, 0, -8, 7, False)
    moved = ir.fn("add", ir.fn("rint", x), ir.const(0.5, float32))
    assert find_codes(saturated(moved, 0, 255)) == Codes(moved, 1.0, 0, 0, 255, False)
    assert find_codes(saturated(ir.fn("rint", x), 0, 1 << 20)) is None
    assert find_codes(ir.fn("min", ir.cast(x, int32), ir.const(9, int32))) is None
    integers = Load(Param(1, int32, 4, False), i, None)
    assert find_codes(saturated(integers, 0, 255)) is None


def test_products_with_both_parts_of_a_reciprocal_round_like_quotients() -> None:
    scales = np.random.default_rng(1).uniform(1e-4, 4, 300).astype(np.float32)
    kept = sum(rounds_alike(float(s), -128, 255) for s in scales)
    assert kept >= 295, "almost every scale needs no division"
    high, low = reciprocal(float(np.float32(0.1)))
    assert high == np.float32(10) and abs(high + low - 1 / np.float64(np.float32(0.1))) < 1e-13


def test_one_part_of_a_reciprocal_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from niello.backends.cpu import render_codes

    monkeypatch.setattr(render_codes, "reciprocal", lambda s: (float(np.float32(1 / s)), 0.0))
    scales = np.random.default_rng(1).uniform(1e-4, 4, 50).astype(np.float32)
    assert not all(rounds_alike.__wrapped__(float(s), -128, 255) for s in scales)
