"""Rules for values: casts, exact float identities, conditions, gates.

Float rules are those that IEEE 754 makes exact for every input, signed zeros and infinities
included; only the sign and payload of a NaN may differ.
"""

from __future__ import annotations

import math

from niello.core.dtypes import DType, bool_, compute_dtype, float32, float64, int64
from niello.core.nodes import Node, walk
from niello.core.rewrite import Rule, rewrite, rule
from niello.kernel.bounds import (
    add_terms,
    dtype_bounds,
    interval,
    is_false,
    is_true,
    linear,
    loads_of,
    terms_interval,
)
from niello.kernel.ir import (
    Cast,
    Const,
    Expr,
    Fn,
    Load,
    Range,
    cast,
    const,
    free_ranges,
    substitute,
)
from niello.kernel.order import order_key
from niello.kernel.rules_index import (
    INDEX,
    build,
    fits,
    interval_of_sum,
    is_division,
    ordered,
)

# --- casts ---------------------------------------------------------------------------------------


def lossless(x: Expr, to: DType) -> bool:
    """Whether every value that `x` can take is a value of `to`."""
    a = x.dtype
    if a is to or a is bool_:
        return True
    if to is bool_:
        return False
    if a.is_integer and to.is_integer:
        (low, high), (least, most) = interval(x), dtype_bounds(to)
        return least <= low and high <= most
    if a.is_integer:
        digits = {float32: 24, float64: 53}.get(to, 8)
        low, high = interval(x)
        return -(1 << digits) <= low and high <= 1 << digits
    return to.is_float and (to is float64 or (to is float32 and a.bits <= 32))


@rule(Cast)
def cast_of_cast(e: Cast) -> Expr | None:
    """cast<int32>(cast<int64>(x:int32)) --> x;  cast<f64>(cast<f32>(x:f16)) --> cast<f64>(x)"""
    x = e.x
    if isinstance(x, Const):
        return None if e.dtype.is_half else cast(x, e.dtype)
    if not isinstance(x, Cast):
        return None
    inner, between, outer = x.x, x.dtype, e.dtype
    if _is_plain_zero(inner) and not outer.is_half:
        return const(0, outer)
    if inner.dtype is outer:
        return inner if lossless(inner, between) else None
    if inner.dtype.is_half or outer.is_half:
        return None  # half types only ever meet float32
    if lossless(inner, between):
        return Cast(inner, outer)
    whole = inner.dtype.is_integer and between.is_integer and outer.is_integer
    return Cast(inner, outer) if whole and outer.bits <= between.bits else None


@rule(Cast)
def integer_to_bool(e: Cast) -> Expr | None:
    """cast<bool>(x:int32) --> x != 0"""
    if e.dtype is bool_ and e.x.dtype.is_integer:
        return Fn("ne", (e.x, const(0, e.x.dtype)), bool_)
    return None


@rule((Fn, "ne"), (Fn, "eq"))
def compare_cast_bool(e: Fn) -> Expr | None:
    """cast<f32>(c:bool) != 0 --> c;  cast<f32>(c:bool) == 0 --> not c"""
    a, b = e.args
    if isinstance(a, Cast) and a.x.dtype is bool_ and isinstance(b, Const) and b.value in (0, 1):
        return a.x if (b.value == 1) == (e.name == "eq") else Fn("not", (a.x,), bool_)
    return None


# --- floats --------------------------------------------------------------------------------------


def _float_value(e: Expr) -> float | None:
    return float(e.value) if isinstance(e, Const) and e.dtype.is_float else None


def _is_zero(e: Expr, sign: float) -> bool:
    value = _float_value(e)
    return value == 0 and math.copysign(1.0, value) == sign


def _negated(e: Expr) -> Expr | None:
    return e.args[0] if isinstance(e, Fn) and e.name == "neg" else None


@rule((Fn, "add"), (Fn, "sub"))
def float_sum(e: Fn) -> Expr | None:
    """x - 0.0 --> x;  x + -0.0 --> x;  a + neg(b) --> a - b;  a - neg(b) --> a + b"""
    if not e.dtype.is_float:
        return None
    a, b = e.args
    if e.name == "sub":
        if _is_zero(b, 1.0):
            return a
        inner = _negated(b)
        return None if inner is None else Fn("add", (a, inner), e.dtype)
    if _is_zero(b, -1.0):
        return a
    if _is_zero(a, -1.0):
        return b
    left, right = _negated(a), _negated(b)
    if right is not None:
        return Fn("sub", (a, right), e.dtype)
    return None if left is None else Fn("sub", (b, left), e.dtype)


@rule((Fn, "mul"))
def float_product(e: Fn) -> Expr | None:
    """x * 1 --> x;  x * -1 --> neg(x);  neg(a) * neg(b) --> a * b"""
    if not e.dtype.is_float:
        return None
    a, b = e.args
    for x, factor in ((a, _float_value(b)), (b, _float_value(a))):
        if factor == 1:
            return x
        if factor == -1:
            return Fn("neg", (x,), e.dtype)
    left, right = _negated(a), _negated(b)
    if left is not None and right is not None:
        return Fn("mul", (left, right), e.dtype)
    return None


@rule((Fn, "div"))
def float_quotient(e: Fn) -> Expr | None:
    """x / 1 --> x;  x / 8 --> x * 0.125 (powers of two only, where the product is exact)"""
    value = _float_value(e.args[1])
    if value is None or value == 0 or not math.isfinite(value):
        return None
    if value == 1:
        return e.args[0]
    mantissa, exponent = math.frexp(value)
    if abs(mantissa) != 0.5 or abs(exponent) > (120 if e.dtype.bits == 32 else 1000):
        return None
    return Fn("mul", (e.args[0], const(1 / value, e.dtype)), e.dtype)


@rule((Fn, "neg"), (Fn, "abs"))
def sign_of_sign(e: Fn) -> Expr | None:
    """neg(neg(x)) --> x;  abs(neg(x)) --> abs(x);  abs(abs(x)) --> abs(x)"""
    x = e.args[0]
    if not isinstance(x, Fn) or x.name not in ("neg", "abs"):
        return None
    if e.name == "neg":
        return x.args[0] if x.name == "neg" else None
    return x if x.name == "abs" else Fn("abs", x.args, e.dtype)


@rule((Fn, "pow"))
def small_power(e: Fn) -> Expr | None:
    """pow(x, 2) --> x * x;  pow(x, 1) --> x;  pow(x, 0) --> 1;  pow(x, -1) --> 1 / x"""
    x, value = e.args[0], _float_value(e.args[1])
    if value == 2:
        return Fn("mul", (x, x), e.dtype)
    if value == 1:
        return x
    if value == 0:
        return const(1, e.dtype)
    return Fn("div", (const(1, e.dtype), x), e.dtype) if value == -1 else None


# --- conditions ----------------------------------------------------------------------------------


def conjuncts(condition: Expr) -> list[Expr]:
    """The conditions whose conjunction `condition` is, each once, in order."""
    found: dict[Expr, None] = {}
    stack = [condition]
    while stack:
        e = stack.pop()
        if isinstance(e, Fn) and e.name == "and":
            stack.extend(reversed(e.args))
        else:
            found[e] = None
    return list(found)


def conjunction(conditions: list[Expr]) -> Expr:
    result: Expr | None = None
    for c in conditions:
        result = c if result is None else Fn("and", (result, c), bool_)
    return const(True, bool_) if result is None else result


Terms = tuple[tuple[Expr, int], ...]
Limit = tuple[Terms, bool, int]


def limit_of(condition: Expr) -> Limit | None:
    """What an int64 comparison says about a sum: (its terms, whether from above, the limit).

    `x < y + 3` is (x - y, True, 2); `4 < x` is (x, False, 5). The first term has a positive factor.
    """
    if not isinstance(condition, Fn) or condition.name != "lt":
        return None
    a, b = condition.args
    if a.dtype is not int64 or not fits(interval_of_sum(a)) or not fits(interval_of_sum(b)):
        return None
    (left, left_constant), (right, right_constant) = linear(a), linear(b)
    items = ordered(add_terms(left, right, -1))
    most = right_constant - left_constant - 1
    if not items:
        return None
    if items[0][1] > 0:
        return tuple(items), True, most
    return tuple((t, -c) for t, c in items), False, -most


@rule((Fn, "and"))
def canonical_and(e: Fn) -> Expr | None:
    """b & a & b --> a & b;  x < 5 & x < 9 --> x < 5;  c & not c --> false"""
    if e.dtype is not bool_:
        return None
    limits: dict[tuple[Terms, bool], tuple[int, Expr]] = {}
    kept: list[Expr] = []
    found = conjuncts(e)
    for c in found:
        if is_false(c):
            return const(False, bool_)
        if is_true(c):
            continue
        limit = limit_of(c)
        if limit is None:
            kept.append(c)
            continue
        terms, above, value = limit
        known = limits.get((terms, above))
        if known is None or (value < known[0] if above else value > known[0]):
            limits[terms, above] = (value, c)
    for (terms, above), (value, _) in limits.items():
        least = limits.get((terms, False))
        if above and least is not None and least[0] > value:
            return const(False, bool_)
    everything = set(found)
    if any(isinstance(c, Fn) and c.name == "not" and c.args[0] in everything for c in kept):
        return const(False, bool_)
    kept.extend(c for _, c in limits.values())
    return conjunction(sorted(kept, key=order_key))


@rule((Fn, "or"))
def repeated_or(e: Fn) -> Expr | None:
    """c | c --> c;  c | true --> true"""
    if e.dtype is not bool_:
        return None
    a, b = e.args
    if a is b or is_false(b):
        return a
    if is_false(a):
        return b
    return const(True, bool_) if is_true(a) or is_true(b) else None


@rule((Fn, "not"))
def negated_condition(e: Fn) -> Expr | None:
    """not(not c) --> c;  not(a < b) --> b <= a (integers);  not(a == b) --> a != b"""
    x = e.args[0]
    if not isinstance(x, Fn):
        return None
    if x.name == "not":
        return x.args[0]
    if e.dtype is not bool_:
        return None
    if x.name in ("eq", "ne"):
        return Fn("ne" if x.name == "eq" else "eq", x.args, bool_)
    if x.name in ("lt", "le") and not x.args[0].dtype.is_float:
        return Fn("le" if x.name == "lt" else "lt", (x.args[1], x.args[0]), bool_)
    return None


# --- where and gates -----------------------------------------------------------------------------


@rule((Fn, "where"))
def decided_where(e: Fn) -> Expr | None:
    """where(true, a, b) --> a;  where(not c, a, b) --> where(c, b, a);  where(c, a, a) --> a"""
    test, a, b = e.args
    if a is b or is_true(test):
        return a
    if is_false(test):
        return b
    if isinstance(test, Fn) and test.name == "not":
        return Fn("where", (test.args[0], b, a), e.dtype)
    if isinstance(a, Fn) and a.name == "where" and a.args[0] is test:
        return Fn("where", (test, a.args[1], b), e.dtype)
    if isinstance(b, Fn) and b.name == "where" and b.args[0] is test:
        return Fn("where", (test, a, b.args[2]), e.dtype)
    if e.dtype is bool_ and isinstance(a, Const) and isinstance(b, Const):
        return test if a.value else Fn("not", (test,), bool_)
    return None


def _is_plain_zero(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == 0 and math.copysign(1.0, e.value) > 0


@rule((Fn, "where"))
def where_is_gate(e: Fn) -> Expr | None:
    """where(g, b0[i if g], 0) --> b0[i if g];  where(g, b0[i if h], 0) --> b0[i if g & h]"""
    test, value, other = e.args
    if not _is_plain_zero(other):
        return None
    casts: list[DType] = []
    while isinstance(value, Cast):
        casts.append(value.dtype)
        value = value.x
    # A gate that reads memory itself is no cheaper than the load it would save.
    if not isinstance(value, Load) or (value.gate is None and loads_of(test)):
        return None
    gate = test if value.gate is None else Fn("and", (test, value.gate), bool_)
    result: Expr = Load(value.param, value.index, gate)
    for dtype in reversed(casts):
        result = Cast(result, dtype)
    return result


@rule(Load)
def decided_gate(e: Load) -> Expr | None:
    """b0[i if true] --> b0[i];  b0[i if false] --> 0"""
    if e.gate is None:
        return None
    if is_true(e.gate):
        return Load(e.param, e.index, None)
    if not is_false(e.gate):
        return None
    zero = const(0, compute_dtype(e.param.dtype))
    return Cast(zero, e.param.dtype) if e.param.dtype.is_half else zero


@rule(Load)
def index_under_gate(e: Load) -> Expr | None:
    """b0[(x - 1)//4%7 if 0 < x & x < 29] --> b0[(x - 1)//4 if 0 < x & x < 29]"""
    # Indices are computed whether or not the gate holds: a load inside one keeps its own gate.
    if e.gate is None or not _may_shrink(e.index) or loads_of(e.index):
        return None
    narrowed = under(e.gate, e.index)
    return None if narrowed is e.index else Load(e.param, narrowed, e.gate)


def _may_shrink(e: Expr) -> bool:
    """Whether knowing more about its ranges could simplify an index."""
    return any(
        is_division(t, "floordiv") or is_division(t, "floormod") or isinstance(t, Fn)
        for t in linear(e)[0]
    )


def under(condition: Expr, e: Expr) -> Expr:
    """`e` simplified with what `condition` says about sums of ranges.

    A limited sum, such as y + i of 2 <= y + i < 30, becomes a range of its own: y is written as
    that range + 2 - i, `e` is simplified, and the sum is put back.
    """
    free = free_ranges(e)
    limits: dict[Terms, list[int]] = {}
    for c in conjuncts(condition):
        limit = limit_of(c)
        if limit is None or not any(t in free for t, _ in limit[0]):
            continue
        bounds = limits.setdefault(limit[0], list(terms_interval(dict(limit[0]), 0)))
        bounds[1 if limit[1] else 0] = limit[2]
    there: dict[Node, Node] = {}
    back: dict[Node, Node] = {}
    for items, (low, high) in limits.items():
        chosen = next(
            (
                t
                for t, c in items
                if isinstance(t, Range) and abs(c) == 1 and t in free and t not in there
            ),
            None,
        )
        if chosen is None or low > high:
            continue
        terms = dict(items)
        sign = terms[chosen]
        inner = Range(f"{chosen.name}~", high - low + 1)
        back[inner] = build(terms, -low)
        solved = add_terms({inner: sign}, {t: c for t, c in items if t is not chosen}, -sign)
        there[chosen] = build(solved, sign * low)
    if not there:
        return e
    narrowed = rewrite(substitute(e, there), INDEX)
    result = rewrite(substitute(narrowed, back), INDEX)  # type: ignore[arg-type]
    return result if _size(result) < _size(e) else e  # type: ignore[arg-type, return-value]


def _size(e: Expr) -> int:
    """How much there is to compute in an index."""
    return sum(isinstance(n, Fn) for n in walk([e]))


SCALAR_RULES: tuple[Rule, ...] = (
    cast_of_cast,
    integer_to_bool,
    compare_cast_bool,
    float_sum,
    float_product,
    float_quotient,
    sign_of_sign,
    small_power,
    canonical_and,
    repeated_or,
    negated_condition,
    decided_where,
    where_is_gate,
    decided_gate,
    index_under_gate,
)
