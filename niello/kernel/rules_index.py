"""Rules for index algebra: int64 sums, quotients, remainders and comparisons.

A sum is canonical: terms sorted, factors collected, constant last, built from add and mul only, so
equal sums are the same node. Sums are exact modulo 2**64; rules that divide first prove that the
numbers they move do not leave int64. Division is by a positive constant throughout and floors.
"""

from __future__ import annotations

from math import gcd

from niello.core.dtypes import bool_, int64
from niello.core.rewrite import Rule, RuleSet, rewrite, rule
from niello.kernel.bounds import (
    INT64_MAX,
    INT64_MIN,
    Bounds,
    Terms,
    add_terms,
    interval,
    linear,
    terms_interval,
)
from niello.kernel.ir import Const, Expr, Fn, Range
from niello.kernel.order import order_key

Sum = tuple[Terms, int]


# --- building ------------------------------------------------------------------------------------


def index(value: int) -> Const:
    """An int64 literal; values wrap as int64 does."""
    return Const((value + 2**63) % 2**64 - 2**63, int64)


def build(terms: Terms, constant: int) -> Expr:
    """The canonical sum of a linear form."""
    total: Expr | None = None
    for term, factor in ordered(terms):
        part: Expr = term if factor == 1 else Fn("mul", (term, index(factor)), int64)
        total = part if total is None else Fn("add", (total, part), int64)
    if total is None:
        return index(constant)
    last = index(constant)
    return Fn("add", (total, last), int64) if last.value else total


def ordered(terms: Terms) -> list[tuple[Expr, int]]:
    """Terms with the largest factors first; ties in the order of their structure."""
    items = [(t, c) for t, c in terms.items() if c % 2**64]
    if len(items) > 1:
        items.sort(key=lambda item: (-abs(item[1]), order_key(item[0])))
    return items


def quotient(terms: Terms, constant: int, by: int) -> Expr:
    return Fn("floordiv", (build(terms, constant), index(by)), int64)


def remainder(terms: Terms, constant: int, by: int) -> Expr:
    return Fn("floormod", (build(terms, constant), index(by)), int64)


def fits(bounds: Bounds) -> bool:
    return bounds[0] >= INT64_MIN and bounds[1] <= INT64_MAX


def scale(terms: Terms, factor: int) -> Terms:
    return {t: c * factor for t, c in terms.items()}


def shrink(terms: Terms, by: int) -> Terms:
    return {t: c // by for t, c in terms.items()}


def residue(factor: int, by: int) -> int:
    """What is left of a factor after whole multiples of `by`, with its sign: 7, 5 --> 2."""
    return factor % by if factor >= 0 else -(-factor % by)


def positive_constant(e: Expr) -> int:
    """The value of a positive literal, or 0."""
    return e.value if isinstance(e, Const) and e.value > 0 else 0


def is_division(e: Expr, name: str) -> bool:
    """Whether `e` is `name` (floordiv or floormod) by a positive literal."""
    return isinstance(e, Fn) and e.name == name and positive_constant(e.args[1]) > 0


# --- sums ----------------------------------------------------------------------------------------


@rule((Fn, "add"), (Fn, "sub"), (Fn, "mul"), (Fn, "neg"), (Fn, "shl"))
def canonical_sum(e: Fn) -> Expr | None:
    """y + 3 + x*2 - y*2 --> x*2 - y + 3;  x//4*4 + x%4 --> x"""
    if e.dtype is not int64:
        return None
    terms, constant = linear(e)
    if len(terms) == 1 and e in terms:
        return _ordered_product(e)
    return build(*recombine(terms, constant))


def _ordered_product(e: Fn) -> Expr:
    if e.name == "mul" and order_key(e.args[1]) < order_key(e.args[0]):
        return Fn("mul", (e.args[1], e.args[0]), int64)
    return e


def recombine(terms: Terms, constant: int) -> Sum:
    """Put quotients and remainders of one value back together, as reshapes of reshapes need."""
    again = True
    while again:
        again = False
        for term, factor in terms.items():
            if not is_division(term, "floormod"):
                continue
            whole, by = term.args[0], positive_constant(term.args[1])  # type: ignore[attr-defined]
            whole_terms, whole_constant = linear(whole)
            parts, offset = linear(rewrite(quotient(whole_terms, whole_constant, by), INDEX))  # type: ignore[arg-type]
            step = factor * by
            if parts and all(terms.get(p) == step * c for p, c in parts.items()):
                terms = add_terms(add_terms(terms, parts, -step), {term: 1}, -factor)
                terms = add_terms(terms, whole_terms, factor)
                constant += factor * whole_constant - step * offset
                again = True
                break
    return terms, constant


# --- quotients and remainders --------------------------------------------------------------------


@rule((Fn, "floordiv"))
def divide(e: Fn) -> Expr | None:
    """(x*12 + y)//4 --> x*3 + y//4;  (x*4 + y)//8 --> x//2 if 0 <= y < 4;  x//3//4 --> x//12"""
    by = positive_constant(e.args[1])
    if e.dtype is not int64 or not by:
        return None
    terms, constant = linear(e.args[0])
    low, high = terms_interval(terms, constant)
    if not fits((low, high)):
        return None
    if low // by == high // by:
        return index(low // by)
    if by == 1:
        return e.args[0]
    return (
        _divide_multiples(terms, constant, by)
        or _divide_common(terms, constant, by)
        or _divide_small(terms, constant, by)
        or _divide_quotient(terms, constant, by)
        or _divide_remainder(terms, constant, by)
    )


def _divide_multiples(terms: Terms, constant: int, by: int) -> Expr | None:
    exact = {t: (c - residue(c, by)) // by for t, c in terms.items() if abs(c) >= by}
    if not exact and 0 <= constant < by:
        return None
    rest = {t: residue(c, by) for t, c in terms.items() if c % by}
    if not fits(terms_interval(rest, constant % by)):
        return None
    return Fn("add", (build(exact, constant // by), quotient(rest, constant % by, by)), int64)


def _divide_common(terms: Terms, constant: int, by: int) -> Expr | None:
    common = gcd(by, *terms.values())
    if common == 1:
        return None
    return quotient(shrink(terms, common), constant // common, by // common)


def small_part(terms: Terms, constant: int, by: int) -> tuple[int, Terms, Terms, int] | None:
    """Split a sum into A + B where a factor g > 1 of `by` divides A and B // g is one number.

    Gives (g, A, B with `constant` left out, B // g).
    """
    items = ordered(terms)
    common = by
    for split in range(1, len(items) + 1):
        common = gcd(common, items[split - 1][1])
        if common == 1:
            return None
        small = dict(items[split:])
        low, high = terms_interval(small, constant)
        if low // common == high // common and (small or constant):
            return common, dict(items[:split]), small, low // common
    return None


def _divide_small(terms: Terms, constant: int, by: int) -> Expr | None:
    found = small_part(terms, constant, by)
    if found is None:
        return None
    common, large, _, carry = found
    return quotient(shrink(large, common), carry, by // common)


def _divide_quotient(terms: Terms, constant: int, by: int) -> Expr | None:
    """(y//d + rest)//by is (y + d*rest)//(d*by)."""
    for term, factor in terms.items():
        if factor != 1 or not is_division(term, "floordiv"):
            continue
        inner, by_inner = term.args[0], positive_constant(term.args[1])  # type: ignore[attr-defined]
        rest = scale({t: c for t, c in terms.items() if t is not term}, by_inner)
        inner_terms, inner_constant = linear(inner)
        total = add_terms(rest, inner_terms)
        offset = inner_constant + constant * by_inner
        moves = [terms_interval(inner_terms, inner_constant), terms_interval(total, offset)]
        if by * by_inner <= INT64_MAX and all(map(fits, moves)):
            return quotient(total, offset, by * by_inner)
    return None


def _divide_remainder(terms: Terms, constant: int, by: int) -> Expr | None:
    """(y%d)//by is (y//by)%(d//by) where by divides d."""
    if constant or len(terms) != 1:
        return None
    ((term, factor),) = terms.items()
    if factor != 1 or not is_division(term, "floormod"):
        return None
    inner, modulus = term.args[0], positive_constant(term.args[1])  # type: ignore[attr-defined]
    if modulus % by:
        return None
    return Fn("floormod", (Fn("floordiv", (inner, index(by)), int64), index(modulus // by)), int64)


@rule((Fn, "floormod"))
def modulo(e: Fn) -> Expr | None:
    """(x*12 + y)%4 --> y%4;  (x*4 + y)%8 --> x%2*4 + y if 0 <= y < 4;  x%12%4 --> x%4"""
    by = positive_constant(e.args[1])
    if e.dtype is not int64 or not by:
        return None
    terms, constant = linear(e.args[0])
    low, high = terms_interval(terms, constant)
    if not fits((low, high)):
        return None
    if low // by == high // by:
        return build(terms, constant - low // by * by)
    return (
        _modulo_multiples(terms, constant, by)
        or _modulo_common(terms, constant, by)
        or _modulo_small(terms, constant, by)
    )


def _modulo_multiples(terms: Terms, constant: int, by: int) -> Expr | None:
    kept: Terms = {}
    offset = constant
    for term, factor in terms.items():
        if is_division(term, "floormod") and factor * positive_constant(term.args[1]) % by == 0:  # type: ignore[attr-defined]
            inner, inner_constant = linear(term.args[0])  # type: ignore[attr-defined]
            if fits(terms_interval(inner, inner_constant)):
                kept = add_terms(kept, inner, factor)
                offset += inner_constant * factor
                continue
        kept = add_terms(kept, {term: factor})
    reduced = {t: residue(c, by) for t, c in kept.items() if c % by}
    if (reduced == terms and offset % by == constant) or not fits(
        terms_interval(reduced, offset % by)
    ):
        return None
    return remainder(reduced, offset % by, by)


def _modulo_common(terms: Terms, constant: int, by: int) -> Expr | None:
    common = gcd(by, *terms.values())
    if common == 1:
        return None
    part = remainder(shrink(terms, common), constant // common, by // common)
    return build({part: common}, constant % common)


def _modulo_small(terms: Terms, constant: int, by: int) -> Expr | None:
    found = small_part(terms, constant, by)
    if found is None:
        return None
    common, large, small, carry = found
    part = remainder(shrink(large, common), carry, by // common)
    return build(add_terms({part: common}, small), constant - carry * common)


@rule((Fn, "truncdiv"), (Fn, "truncmod"))
def floor_is_truncation(e: Fn) -> Expr | None:
    """truncdiv(x, 4) --> x//4 if x >= 0"""
    if e.dtype is not int64 or interval(e.args[0])[0] < 0 or interval(e.args[1])[0] <= 0:
        return None
    return Fn("floordiv" if e.name == "truncdiv" else "floormod", e.args, int64)


@rule((Fn, "min"), (Fn, "max"))
def decided_extremum(e: Fn) -> Expr | None:
    """min(x, 100) --> x if x <= 100"""
    a, b = e.args
    if a is b:
        return a
    if not e.dtype.is_integer:
        return None
    if e.dtype is int64:
        low, high = terms_interval(*_difference(a, b))
        if not fits(interval_of_sum(a)) or not fits(interval_of_sum(b)):
            return None
    else:
        (a_low, a_high), (b_low, b_high) = interval(a), interval(b)
        low, high = a_low - b_high, a_high - b_low
    if high <= 0:
        return a if e.name == "min" else b
    if low >= 0:
        return b if e.name == "min" else a
    return None


# --- comparisons ---------------------------------------------------------------------------------


def _difference(a: Expr, b: Expr) -> Sum:
    (left, left_constant), (right, right_constant) = linear(a), linear(b)
    return add_terms(left, right, -1), left_constant - right_constant


def interval_of_sum(e: Expr) -> Bounds:
    """Bounds of the sum before it wraps to int64."""
    return terms_interval(*linear(e))


@rule((Fn, "lt"), (Fn, "le"), (Fn, "eq"), (Fn, "ne"))
def decided_comparison(e: Fn) -> Expr | None:
    """x < 28 --> true if x <= 27"""
    a, b = e.args
    if a.dtype.is_float:
        return Const(False, bool_) if a is b and e.name == "lt" else None
    low, high = interval(e)
    if low == high:
        return Const(bool(low), bool_)
    if a is b:
        return Const(e.name in ("le", "eq"), bool_)
    if a.dtype is bool_ and e.name in ("eq", "ne") and isinstance(b, Const):
        return a if bool(b.value) == (e.name == "eq") else Fn("not", (a,), bool_)
    return None


@rule((Fn, "lt"), (Fn, "le"))
def canonical_less(e: Fn) -> Expr | None:
    """x*4 + 8 <= y*4 + 11 --> x < y + 1;  x//4 < 3 --> x < 12;  0 < -x --> x < 0"""
    a, b = e.args
    if a.dtype is not int64 or not fits(interval_of_sum(a)) or not fits(interval_of_sum(b)):
        return None
    terms, constant = _difference(a, b)
    bound = -constant + (e.name == "le")  # sum of terms < bound
    return less(terms, bound)


def less(terms: Terms, bound: int) -> Expr | None:
    """The canonical form of `sum of terms < bound`; None if a side of it might wrap."""
    while True:
        low, high = terms_interval(terms, 0)
        if high < bound or low >= bound:
            return Const(high < bound, bool_)
        common = gcd(*terms.values())
        if common > 1:
            terms, bound = shrink(terms, common), -(-bound // common)
        narrowed = _less_small(terms, bound) or _less_quotient(terms, bound)
        if narrowed is None:
            break
        terms, bound = narrowed
    positive = {t: c for t, c in terms.items() if c > 0}
    negative = {t: -c for t, c in terms.items() if c < 0}
    if not fits(terms_interval(positive, 0)) or not fits(terms_interval(negative, bound)):
        return None
    if not positive:
        return Fn("lt", (index(-bound), build(negative, 0)), bool_)
    return Fn("lt", (build(positive, 0), build(negative, bound)), bool_)


def _less_small(terms: Terms, bound: int) -> Sum | None:
    """A + B < m does not depend on B where B spans less than the common factor of A."""
    items = ordered(terms)
    common = 0
    for split in range(1, len(items)):
        common = gcd(common, items[split - 1][1])
        if common == 1:
            return None
        low, high = terms_interval(dict(items[split:]), 0)
        if (bound - 1 - low) // common == (bound - 1 - high) // common:
            return shrink(dict(items[:split]), common), (bound - 1 - low) // common + 1
    return None


def _less_quotient(terms: Terms, bound: int) -> Sum | None:
    if len(terms) != 1:
        return None
    ((term, factor),) = terms.items()
    if abs(factor) != 1 or not is_division(term, "floordiv"):
        return None
    inner, by = term.args[0], positive_constant(term.args[1])  # type: ignore[attr-defined]
    inner_terms, offset = linear(inner)
    limit = bound * by if factor == 1 else (1 - bound) * by  # inner < limit, or inner >= limit
    if not fits(terms_interval(inner_terms, offset)) or not fits((limit - offset, limit - offset)):
        return None
    if factor == 1:
        return inner_terms, limit - offset
    return scale(inner_terms, -1), 1 - (limit - offset)


@rule((Fn, "eq"), (Fn, "ne"))
def canonical_equal(e: Fn) -> Expr | None:
    """x*4 + 8 == y*4 --> x + 2 == y (written y == x + 2);  x*2 == 3 --> false"""
    a, b = e.args
    if a.dtype is not int64 or not fits(interval_of_sum(a)) or not fits(interval_of_sum(b)):
        return None
    terms, constant = _difference(a, b)
    low, high = terms_interval(terms, constant)
    common = gcd(*terms.values())
    if low > 0 or high < 0 or (common and constant % common):
        return Const(e.name == "ne", bool_)
    if not terms:
        return Const((constant == 0) == (e.name == "eq"), bool_)
    sign = common if ordered(terms)[0][1] > 0 else -common
    terms, constant = shrink(terms, sign), constant // sign
    positive = {t: c for t, c in terms.items() if c > 0}
    negative = {t: -c for t, c in terms.items() if c < 0}
    if not fits(terms_interval(positive, 0)) or not fits(terms_interval(negative, -constant)):
        return None
    return Fn(e.name, (build(positive, 0), build(negative, -constant)), bool_)


@rule(Range)
def unit_range(e: Range) -> Expr | None:
    """r:1 --> 0"""
    return index(0) if e.extent == 1 else None


INDEX_RULES: tuple[Rule, ...] = (
    unit_range,
    canonical_sum,
    divide,
    modulo,
    floor_is_truncation,
    decided_extremum,
    decided_comparison,
    canonical_less,
    canonical_equal,
)
INDEX = RuleSet("index", INDEX_RULES)
