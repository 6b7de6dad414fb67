"""Bounds hold for every value, affine forms add up, divisors divide."""

from __future__ import annotations

import kernel_expressions as ex
import numpy as np
import pytest
from hypothesis import given, settings

from niello.core.dtypes import float32, int8, int32, int64, uint8
from niello.kernel import bounds, ir
from niello.kernel.ir import ArgReduce, Cast, Expr, Load, Param, Range, Reduce, fn

i, j = Range("i", 4), Range("j", 6)


@settings(max_examples=400, deadline=None)
@given(ex.indices | ex.conditions)
def test_intervals_are_sound(e: Expr) -> None:
    low, high = bounds.interval(e)
    values = ex.values(e)
    assert low <= values.min() and values.max() <= high
    assert bounds.is_true(e) <= bool(values.all())
    assert bounds.is_false(e) <= (not values.any())


@settings(max_examples=300, deadline=None)
@given(ex.indices)
def test_affine_forms_add_up(e: Expr) -> None:
    form = bounds.affine(e)
    total: Expr = ir.const(form.constant, int64)
    for term, factor in [*form.coefficients.items(), *form.rest]:
        total = total + term * factor
    ranges = tuple(sorted(ir.free_ranges(e), key=lambda r: r.name))
    np.testing.assert_array_equal(ex.values_over(total, ranges), ex.values_over(e, ranges))


@settings(max_examples=300, deadline=None)
@given(ex.indices)
def test_divisors_divide(e: Expr) -> None:
    d = bounds.divisor(e)
    values = ex.values(e)
    assert not values.any() if d == 0 else not (values % d).any()


def test_affine() -> None:
    form = bounds.affine(i * 12 + j * 2 - 3 + (j // 4) * 5)
    assert form.coefficients == {i: 12, j: 2} and form.constant == -3
    assert form.rest == ((j // 4, 5),) and not form.is_affine
    assert form.stride(i) == 12 and form.stride(j) is None and form.coefficient(j) == 2
    assert bounds.affine(i * 12).stride(j) == 0


@pytest.mark.parametrize(
    ("e", "expected"),
    [
        (i * 6 + j, (0, 23)),
        (i * 6 - j, (-5, 18)),
        ((i * 6 + j) // 4, (0, 5)),
        ((i - 2) // 2, (-1, 0)),
        (i % 3, (0, 2)),
        (fn("min", i, j) + 1, (1, 4)),
        (Cast(fn("lt", i, 2), int64) * 7, (0, 7)),
        (Cast(Load(Param(0, uint8, 4, False), i, None), int64), (0, 255)),
        (Cast(i * 100, int8), (-128, 127)),
        (Reduce("add", (j,), j), (0, 30)),
        (ArgReduce("max", (i, j), Load(Param(0, float32, 24, False), i * 6 + j, None)), (0, 23)),
        (Range("none", 0), (0, 0)),
        (Load(Param(0, int32, 4, False), i, None) + 1, (-(2**31), 2**31 - 1)),
    ],
)
def test_intervals(e: Expr, expected: tuple[int, int]) -> None:
    assert bounds.interval(e) == expected


def test_a_float_has_no_interval() -> None:
    with pytest.raises(KeyError, match="float32"):
        bounds.interval(ir.Cast(i, float32))


def test_multiples() -> None:
    assert bounds.divisor(i * 12 + j * 8 + 4) == 4
    assert bounds.is_multiple((i * 12) % 8, 4)
    assert not bounds.is_multiple(i * 12 + 1, 2)


def test_a_deep_expression_needs_no_recursion() -> None:
    e: Expr = i
    for step in range(5000):
        e = fn("max", e, step % 7)
    assert bounds.interval(e) == (6, 6)
