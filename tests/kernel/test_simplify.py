"""Simplified expressions have the values of the originals, and the expected forms."""

from __future__ import annotations

import kernel_expressions as ex
import numpy as np
import pytest
from hypothesis import given, settings

from niello.core.dtypes import bool_, float16, float32, float64, int8, int32, int64
from niello.core.nodes import walk
from niello.kernel import ir
from niello.kernel.build import ravel, unravel
from niello.kernel.ir import (
    Cast,
    Const,
    Contract,
    Expr,
    Fn,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
    fn,
)
from niello.kernel.simplify import simplify, simplify_expr
from niello.kernel.text import print_expr

n, y, x, f = Range("n", 64), Range("y", 28), Range("x", 28), Range("f", 64 * 3136)
P = Param(0, float32, 100_000, False)


def check_same(e: Expr) -> None:
    simple = simplify_expr(e)
    ranges = tuple(sorted(ir.free_ranges(e), key=lambda r: r.name))
    assert ir.free_ranges(simple) <= set(ranges)
    expected, got = ex.values_over(e, ranges), ex.values_over(simple, ranges)
    np.testing.assert_array_equal(
        got, expected, err_msg=f"{print_expr(e)}\n-->\n{print_expr(simple)}"
    )
    assert simplify_expr(simple) is simple


@settings(max_examples=400, deadline=None)
@given(ex.indices)
def test_random_indices_keep_their_values(e: Expr) -> None:
    check_same(e)


@settings(max_examples=200, deadline=None)
@given(ex.conditions)
def test_random_conditions_keep_their_values(e: Expr) -> None:
    check_same(e)


@settings(max_examples=400, deadline=None)
@given(ex.scalars)
def test_random_values_keep_their_bits(e: Expr) -> None:
    simple = simplify_expr(e)
    ranges = tuple(sorted(ir.free_ranges(e), key=lambda r: r.name))
    expected, got = ex.values_over(e, ranges), ex.values_over(simple, ranges)
    assert expected.dtype == got.dtype
    np.testing.assert_array_equal(
        got, expected, err_msg=f"{print_expr(e)}\n-->\n{print_expr(simple)}"
    )
    if e.dtype.is_float:
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(got)[numbers], np.signbit(expected)[numbers])


@settings(max_examples=150, deadline=None)
@given(ex.reshapes())
def test_reshapes_of_reshapes_cancel(e: Expr) -> None:
    check_same(e)
    found = [n.name for n in walk([simplify_expr(e)]) if isinstance(n, Fn)]
    assert not {"floordiv", "floormod"} & set(found), print_expr(simplify_expr(e))


FORMS = [
    (lambda: y + 3 + x * 2 - y, lambda: x * 2 + 3),
    (lambda: (n * 3136 + y * 28 + x) // 28, lambda: n * 112 + y),
    (lambda: (n * 784 + y * 28 + x) % 784, lambda: y * 28 + x),
    (lambda: (n * 784 + y * 28 + x) // 784, lambda: n),
    (lambda: ravel(unravel(f, (64, 7, 7, 64)), (64, 7, 7, 64)), lambda: f),
    (
        lambda: ravel(
            unravel(ravel(unravel(f, (64, 3136)), (64, 3136)), (64, 49, 64)), (64, 49, 64)
        ),
        lambda: f,
    ),
    (lambda: x // 3 // 4, lambda: x // 12),
    (lambda: x % 12 % 4, lambda: x % 4),
    (lambda: x % 12 // 4, lambda: x // 4 % 3),
    (lambda: x % 28, lambda: x),
    (lambda: x // 28, lambda: ir.const(0, int64)),
    (lambda: fn("lt", x, 28), lambda: ir.const(True, bool_)),
    (lambda: fn("lt", x * 4 + Range("z", 4), 12), lambda: fn("lt", x, 3)),
    (lambda: fn("le", 3, x // 4), lambda: fn("lt", 11, x)),
    (lambda: fn("lt", x, 5) & fn("lt", x, 9), lambda: fn("lt", x, 5)),
    (lambda: fn("lt", x, 5) & fn("lt", 7, x), lambda: ir.const(False, bool_)),
    (lambda: fn("eq", x * 2, 3), lambda: ir.const(False, bool_)),
    (lambda: Range("u", 1) + x, lambda: x),
    (lambda: fn("min", x, 100), lambda: x),
]


@pytest.mark.parametrize(("before", "after"), FORMS)
def test_forms(before, after) -> None:
    assert simplify_expr(before()) is simplify_expr(after())


def test_equal_sums_are_one_node() -> None:
    assert simplify_expr(x * 2 + y * 3 + 1) is simplify_expr(1 + y * 2 + x + (y + x))


def test_division_that_may_wrap_is_left_alone() -> None:
    huge = Load(Param(0, int64, 4, False), ir.const(0, int64), None)
    e = (huge * 4 + 3) // 4
    assert simplify_expr(e) is e
    assert simplify_expr(huge // 4 // 2) is simplify_expr(huge // 8)


# --- values --------------------------------------------------------------------------------------


def load(param: Param = P) -> Load:
    return Load(param, x, None)


def test_where_becomes_a_gate() -> None:
    gate = fn("lt", x, 5)
    e = fn("where", gate, Cast(Load(P, x, gate), float64), 0.0)
    assert simplify_expr(e) is Cast(Load(P, x, gate), float64)
    negative_zero = fn("where", gate, Load(P, x, gate), -0.0)
    assert simplify_expr(negative_zero) is negative_zero


def test_gates_that_hold_or_never_hold() -> None:
    assert simplify_expr(Load(P, x, fn("lt", x, 99))) is Load(P, x, None)
    assert simplify_expr(Load(P, x, fn("lt", 99, x))) is ir.const(0.0, float32)


def test_an_index_uses_what_its_gate_says() -> None:
    gate = fn("lt", 0, y) & fn("lt", y, 21)
    e = simplify_expr(Load(P, (y - 1) % 20 + (y - 1) // 20 * 20, gate))
    assert isinstance(e, Load) and e.index is simplify_expr(y - 1)
    e = simplify_expr(Load(P, (y - 1) % 20, gate))
    assert isinstance(e, Load) and e.index is simplify_expr(y - 1)


def test_an_index_uses_what_its_gate_says_about_sums() -> None:
    kernel_row, row = Range("kernel_row", 5), y + Range("kernel_row", 5) - 2
    gate = fn("le", 0, row) & fn("lt", row, 28)
    e = simplify_expr(Load(P, (row * 28 + x) % 784 + kernel_row, gate))
    assert isinstance(e, Load) and e.index is simplify_expr(row * 28 + x + kernel_row)


def test_a_gate_that_loads_stays_a_where() -> None:
    mask = fn("lt", 0.0, Load(P, x + 100, None))
    e = fn("where", mask, load(), 0.0)
    assert simplify_expr(e) is e


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda v: v * 1.0, lambda v: v),
        (lambda v: v / 1.0, lambda v: v),
        (lambda v: v / 8.0, lambda v: v * 0.125),
        (lambda v: fn("neg", -v), lambda v: v),
        (lambda v: v - 0.0, lambda v: v),
        (lambda v: v + (-0.0), lambda v: v),
        (lambda v: v + 0.0, lambda v: v + 0.0),
        (lambda v: v * 0.0, lambda v: v * 0.0),
        (lambda v: v - v, lambda v: v - v),
        (lambda v: v / 3.0, lambda v: v / 3.0),
        (lambda v: fn("pow", v, 2.0), lambda v: v * v),
        (lambda v: fn("abs", -v), lambda v: fn("abs", v)),
        (lambda v: fn("eq", v, v), lambda v: fn("eq", v, v)),
        (lambda v: fn("not", fn("lt", v, 1.0)), lambda v: fn("not", fn("lt", v, 1.0))),
    ],
)
def test_float_rules_are_exact(before, after) -> None:
    assert simplify_expr(before(load())) is after(load())


def test_casts() -> None:
    i, h = Load(Param(1, int8, 4, False), x, None), Load(Param(1, float16, 4, False), x, None)
    assert simplify_expr(Cast(Cast(i, int64), int8)) is i
    assert simplify_expr(Cast(Cast(i, int32), float32)) is Cast(i, float32)
    assert simplify_expr(Cast(Cast(h, float32), float16)) is h
    rounding = Cast(Cast(load(), float16), float32)
    assert simplify_expr(rounding) is rounding
    assert simplify_expr(Cast(Cast(x, int32), int64)) is x
    through_float = Cast(Cast(load(), int32), float32)
    assert simplify_expr(through_float) is through_float
    assert simplify_expr(Cast(Cast(fn("lt", x, 3), float32), bool_)) is fn("lt", x, 3)


# --- reductions and stores -----------------------------------------------------------------------


def test_reductions() -> None:
    r, s, unit = Range("r", 4), Range("s", 5), Range("u", 1)
    body = Load(P, r * 5 + s, None)
    nested = Reduce("add", (r,), Reduce("add", (s, unit), body))
    assert simplify_expr(nested) is Reduce("add", (r, s), simplify_expr(body))
    assert simplify_expr(Reduce("max", (r, s), Load(P, s, None))) is Reduce(
        "max", (s,), Load(P, s, None)
    )
    assert simplify_expr(Reduce("add", (r,), load())) is load() * 4.0
    assert simplify_expr(Reduce("min", (Range("none", 0),), load())) is ir.const(np.inf, float32)
    assert simplify_expr(Contract((unit,), load(), load(), float32)) is load() * load()
    summed = Reduce("add", (r,), Contract((s,), body, body, float32))
    assert isinstance(simplify_expr(summed), Contract)


def test_stores() -> None:
    out = Param(1, float32, 28, True)
    unit = Range("u", 1)
    stores = (
        Store(out, (unit, x), unit * 28 + x, load(), fn("lt", unit, 1), None),
        Store(out, (x,), x, load(), fn("lt", x, 0), None),
        Store(out, (Range("none", 0),), Range("none", 0), ir.const(1.0, float32), None, None),
    )
    kernel = simplify(Kernel("k", (P, out), stores))
    assert kernel.stores == (Store(out, (x,), x, load(), None, None),)
    assert kernel.params == (P, out)
    assert isinstance(simplify_expr(unit), Const)
