"""The verifier takes good kernels and refuses broken ones."""

from __future__ import annotations

import pytest

from niello.core.dtypes import bool_, float16, float32, int32, int64
from niello.core.errors import CompilerBug
from niello.kernel import ir
from niello.kernel.ir import (
    ArgReduce,
    Bitcast,
    Cast,
    Const,
    Contract,
    Fn,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
    fn,
)
from niello.kernel.verify import verify

m, k = Range("m", 5), Range("k", 9)
P, OUT = Param(0, float32, 45, False), Param(1, float32, 5, True)
x = Load(P, m * 9 + k, None)
total = Reduce("add", (k,), x)


def kernel(
    value=total, *, index=m, ranges=(m,), gate=None, combine=None, params=(P, OUT), out=OUT
) -> Kernel:
    return Kernel("rows", params, (Store(out, ranges, index, value, gate, combine),))


def test_good_kernels() -> None:
    verify(kernel())
    verify(kernel(Contract((k,), x, x, float32), gate=fn("lt", m, 3), combine="add"))
    verify(kernel(Load(OUT, m, None) + total))
    verify(kernel(Load(P, m * 9 - 5, fn("lt", 0, m))))
    verify(kernel(Const(1.0, float32), ranges=(), index=ir.const(0, int64)))
    verify(kernel(Const(1.0, float32), ranges=(Range("none", 0),), index=Range("none", 0) + 7))


BROKEN = [
    (lambda: kernel(params=(OUT, P)), "another slot"),
    (lambda: kernel(params=(Param(0, float32, 44, False), OUT)), "not a parameter of this kernel"),
    (lambda: kernel(out=P, value=total), "read only"),
    (lambda: kernel(Cast(total, int32)), "value of another dtype"),
    (lambda: kernel(x), "used where it is not bound"),
    (lambda: kernel(ranges=(m, m)), "bound twice"),
    (lambda: kernel(Reduce("add", (k,), x * Reduce("add", (k,), x))), "bound twice"),
    (lambda: kernel(Reduce("add", (Range("m", 3),), x)), "share a name"),
    (lambda: kernel(Reduce("add", (), x), ranges=(m, k)), "over no ranges"),
    (lambda: kernel(index=Cast(m, int32)), "index is not int64"),
    (lambda: kernel(index=m + 1), "leaves buffer 1 of 5"),
    (lambda: kernel(Load(P, m * 9 - 1, None)), "from -1 to 35 leaves buffer 0"),
    (lambda: kernel(gate=m), "gate is not bool"),
    (lambda: kernel(Load(P, m, k)), "not bound|not bool"),
    (lambda: kernel(combine="average"), "unknown combine"),
    (lambda: kernel(Fn("frobnicate", (total,), float32)), "unknown function"),
    (lambda: kernel(Fn("add", (total,), float32)), "takes 2 arguments"),
    (lambda: kernel(Fn("add", (total, Cast(m, int32)), float32)), "mixes dtypes"),
    (lambda: kernel(Fn("and", (total, total), float32)), "does not take this dtype"),
    (lambda: kernel(Fn("lt", (total, total), float32)), "another result"),
    (lambda: kernel(Fn("where", (m, total, total), float32)), "test of a where"),
    (lambda: kernel(Bitcast(m, float32)), "changes the width"),
    (lambda: kernel(Cast(Const(1.0, float16), float32)), "literal of a half type"),
    (lambda: kernel(Cast(Const(1 << 40, int32), float32)), "literal outside its dtype"),
    (lambda: kernel(Cast(ArgReduce("add", (k,), x), float32)), "unknown reduction"),
    (lambda: kernel(Reduce("xor", (k,), x)), "reduction xor of float"),
    (lambda: kernel(Cast(Contract((k,), x, x, bool_), float32)), "contraction in this dtype"),
    (lambda: kernel(Load(OUT, 4 - m, None)), "loaded at one point and stored at another"),
]


@pytest.mark.parametrize(("broken", "problem"), BROKEN)
def test_broken_kernels(broken, problem: str) -> None:
    with pytest.raises(CompilerBug, match=problem) as caught:
        verify(broken())
    assert 'kernel "rows"' in str(caught.value)
