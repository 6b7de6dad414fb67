"""Kernels survive a round trip through text."""

from __future__ import annotations

import kernel_expressions as ex
import pytest
from hypothesis import given, settings

from niello.core.dtypes import bool_, float16, float32, int64, uint32
from niello.core.errors import CorruptFile
from niello.kernel import ir
from niello.kernel.ir import (
    ArgReduce,
    Bitcast,
    Cast,
    Const,
    Contract,
    Expr,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
    fn,
)
from niello.kernel.text import parse_kernel, print_kernel

m, k = Range("m", 5), Range('odd "name"/1', 9)
P, OUT = Param(0, float32, 45, False), Param(1, float32, 5, True)


def round_trip(kernel: Kernel) -> None:
    text = print_kernel(kernel)
    assert parse_kernel(text) == kernel, text
    assert print_kernel(parse_kernel(text)) == text


@settings(max_examples=200, deadline=None)
@given(ex.indices)
def test_random_expressions(e: Expr) -> None:
    out = Param(1, int64, 99, True)
    round_trip(Kernel("k", (ex.TABLE, out), (Store(out, ex.RANGES, e, e, None, None),)))


def test_every_construct() -> None:
    x = Load(P, m * 9 + k, fn("lt", k, 8))
    value = Reduce("add", (k,), x) + Contract((k,), x, fn("exp", x), float32)
    value = value + Cast(ArgReduce("max", (k,), x), float32) + Bitcast(Const(7, uint32), float32)
    value = value + fn("fma", Cast(Cast(value, float16), float32), 1e-30, float("-inf"))
    value = fn(
        "where", Load(Param(2, bool_, 1, False), ir.const(0, int64), None), value, float("nan")
    )
    stores = (
        Store(OUT, (m,), m, value, fn("lt", m, 3) & fn("ne", m, 1), "max"),
        Store(OUT, (), ir.const(0, int64), Const(-0.0, float32), None, None),
    )
    round_trip(Kernel('a "kernel"', (P, OUT, Param(2, bool_, 1, False)), stores))


def test_the_text_is_readable() -> None:
    value = Reduce("max", (Range("r", 9),), Load(P, m * 9 + Range("r", 9), None))
    kernel = Kernel("rows", (P, OUT), (Store(OUT, (m,), m, fn("exp", value) + value, None, None),))
    assert print_kernel(kernel) == (
        'kernel "rows" {\n'
        "  param b0: float32[45]\n"
        "  param b1: float32[5] written\n"
        "  %0 = reduce.max(r:9; b0[((m:5 * 9) + r:9)])\n"
        "  store b1[m:5] for (m:5) = (exp(%0) + %0)\n"
        "}\n"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('kernel "k" {', "the end should have"),
        ('kernel "k" { param b0: float99[3] }', "an element type"),
        (
            'kernel "k" {\n store b0[0] for () = 1 }',
            "line 2 should have a parameter of this kernel",
        ),
        ('kernel "k" { param b0: int64[1] store b0[%3] for () = 1 }', "defined above"),
        ('kernel "k" { %0 = frobnicate(1) }', "scalar function"),
        ('kernel "k" { %0 = (1 1) }', "an operator"),
        ('kernel "k" { %0 = 1:float99 }', "known element type"),
        ('kernel "k" { } }', "the end of the text"),
        ('kernel "k" { ? }', "cannot be read"),
    ],
)
def test_broken_text(text: str, problem: str) -> None:
    with pytest.raises(CorruptFile, match=problem):
        parse_kernel(text)
