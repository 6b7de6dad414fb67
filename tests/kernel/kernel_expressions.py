"""Random integer expressions for property tests, and their values by direct NumPy."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from niello.core.dtypes import DType, bool_, float16, float32, float64, int8, int32, int64, uint8
from niello.kernel import ir
from niello.kernel.interpret import evaluate
from niello.kernel.ir import Expr, Fn, Param, Range

RANGES = (Range("a", 1), Range("b", 2), Range("c", 3), Range("d", 5), Range("e", 8))
TABLE = Param(0, int32, 16, False)
TABLE_VALUES = np.array([3, -7, 0, 5, 1, 2, -1, 9, 100, -100, 4, 4, 6, 8, 15, 12], np.int32)


def const(value: int) -> Expr:
    return ir.Const(value, int64)


def _plain(name: str, *args: Expr) -> Expr:
    """A function as it is, without folding: the rules see more cases."""
    compares = name in ("lt", "le", "eq", "ne")
    return Fn(name, args, bool_ if compares else args[-1].dtype)


small = st.integers(-6, 12).map(const)
positive = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]).map(const)


def _loads(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    def load(x: Expr, gate: Expr | None) -> Expr:
        inside = _plain("floormod", x, const(16))
        return ir.Cast(ir.Load(TABLE, inside, gate), int64)

    def between(x: Expr, low: int, size: int) -> Expr:
        """A load of x, gated where x is inside a span: what padding makes."""
        gate = _plain("and", _plain("le", const(low), x), _plain("lt", x, const(low + size)))
        return load(x, gate)

    return st.builds(load, inner, st.none() | _conditions(inner)) | st.builds(
        between, inner, st.integers(-3, 3), st.integers(1, 16)
    )


def _conditions(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    compare = st.builds(_plain, st.sampled_from(["lt", "le", "eq", "ne"]), inner, inner)
    compare |= st.builds(_plain, st.sampled_from(["lt", "le"]), inner, small)
    compare |= st.builds(_plain, st.sampled_from(["lt", "le"]), small, inner)
    return st.recursive(
        compare,
        lambda c: (
            st.builds(_plain, st.sampled_from(["and", "and", "or"]), c, c)
            | st.builds(_plain, st.just("not"), c)
        ),
        max_leaves=5,
    )


def _grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    divide = st.sampled_from(["floordiv", "floormod", "truncdiv", "truncmod"])
    return st.one_of(
        st.builds(_plain, st.sampled_from(["add", "add", "sub", "min", "max"]), inner, inner),
        st.builds(_plain, st.just("mul"), inner, small),
        st.builds(_plain, st.sampled_from(["floordiv", "floormod"]), inner, positive),
        st.builds(_plain, divide, inner, small),
        st.builds(_plain, st.just("neg"), inner),
        st.builds(lambda c, a, b: _plain("where", c, a, b), _conditions(inner), inner, inner),
        _loads(inner),
        st.builds(lambda x: ir.Cast(ir.Cast(x, int32), int64), inner),
    )


leaves = st.sampled_from(RANGES) | small
indices = st.recursive(leaves, _grow, max_leaves=12)
conditions = _conditions(st.recursive(leaves, _grow, max_leaves=6))


@st.composite
def reshapes(draw: st.DrawFn) -> Expr:
    """An offset that went through shapes of equal size, as views of views make it."""
    from niello.kernel.build import ravel, unravel

    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=4))
    total = math.prod(sizes)
    offset: Expr = Range("f", total)
    if draw(st.booleans()):
        parts = tuple(Range(f"r{i}", s) for i, s in enumerate(sizes))
        offset = ravel(parts, sizes)
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.permutations(sizes))
        cut = draw(st.integers(1, len(shape)))
        merged = [math.prod(shape[:cut]), *shape[cut:]]
        offset = ravel(unravel(offset, merged), merged)
    return offset


# --- values: floats, bools and casts between everything

FLOATS = Param(1, float32, 16, False)
FLOAT_VALUES = np.array(
    [0.0, -0.0, 1, -1, 8, -0.125, np.nan, np.inf, -0.0, 0.0, -np.inf, 3, 1e-40, 3e38, -7, 0.1],
    np.float32,
)
DTYPES = (bool_, int8, uint8, int32, int64, float32, float64)


def _of(e: Expr, dtype: DType) -> Expr:
    return e if e.dtype is dtype else ir.Cast(e, dtype)


def _float_const(value: float) -> Expr:
    return ir.Const(value, float32)


value_leaves = st.one_of(
    st.sampled_from(RANGES).map(lambda r: ir.Load(FLOATS, _plain("add", r, const(8)), None)),
    st.sampled_from(RANGES).map(lambda r: ir.Load(FLOATS, r, _plain("lt", r, const(3)))),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 8.0, 0.5, 3.0]).map(_float_const),
    st.sampled_from(RANGES),
)


neutral = st.sampled_from([0.0, -0.0, 1.0, -1.0]).map(_float_const)


def _grow_values(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    arithmetic = st.sampled_from(["add", "sub", "mul", "div", "min", "max"])
    compare = st.sampled_from(["lt", "le", "eq", "ne"])
    logic = st.sampled_from(["and", "or"])

    def pair(name: str, a: Expr, b: Expr, dtype: DType) -> Expr:
        return _plain(name, _safe_cast(a, dtype), _safe_cast(b, dtype))

    def reduce(op: str, e: Expr) -> Expr:
        free = sorted(ir.free_ranges(e), key=lambda r: r.name)
        return ir.Reduce(op, tuple(free[:2]), e) if free else e

    return st.one_of(
        st.builds(pair, arithmetic, inner, inner, st.just(float32)),
        st.builds(pair, arithmetic, inner, neutral, st.just(float32)),
        st.builds(pair, arithmetic, neutral, inner, st.just(float32)),
        st.builds(pair, st.sampled_from(["add", "mul", "min"]), inner, inner, st.just(int32)),
        st.builds(pair, compare, inner, inner, st.sampled_from(DTYPES)),
        st.builds(pair, logic, inner, inner, st.just(bool_)),
        st.builds(
            lambda name, e: _plain(name, _of(e, float32)), st.sampled_from(["neg", "abs"]), inner
        ),
        st.builds(lambda e: _plain("not", _of(e, bool_)), inner),
        st.builds(
            lambda c, a, b: _plain("where", _of(c, bool_), _of(a, float32), _of(b, float32)),
            inner,
            inner,
            inner,
        ),
        st.builds(_safe_cast, inner, st.sampled_from(DTYPES)),
        st.builds(lambda e: ir.Cast(ir.Cast(_of(e, float32), float16), float32), inner),
        st.builds(reduce, st.sampled_from(["min", "max"]), inner),
    )


def _safe_cast(e: Expr, dtype: DType) -> Expr:
    """A cast whose result is defined: floats go to integers only by way of a comparison."""
    if e.dtype.is_float and dtype.is_integer:
        e = _plain("lt", e, ir.Const(2.0, e.dtype))
    return _of(e, dtype)


_any_value = st.recursive(value_leaves, _grow_values, max_leaves=10)
scalars = _any_value | st.builds(
    lambda name, a, b: _plain(name, _safe_cast(a, float32), b),
    st.sampled_from(["add", "sub", "mul", "div"]),
    _any_value,
    neutral,
)


def values(e: Expr) -> np.ndarray:
    """The values of `e` at every point of the ranges it may depend on."""
    ranges = sorted(ir.free_ranges(e), key=lambda r: r.name)
    return evaluate(e, ranges, [TABLE_VALUES, FLOAT_VALUES])


def values_over(e: Expr, ranges: tuple[Range, ...]) -> np.ndarray:
    return evaluate(e, ranges, [TABLE_VALUES, FLOAT_VALUES])
