"""What is known about integer expressions without running them: bounds, divisors, linear form.

Facts are cached on the (interned) nodes, so asking again is a dictionary lookup. Bounds are sound
also where integers wrap: a sum that might leave its dtype has the bounds of the dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from niello.core.dtypes import DType, bool_, int64
from niello.core.nodes import walk
from niello.kernel import ir
from niello.kernel.ir import ArgReduce, Cast, Const, Expr, Fn, Load, Range, Reduce

Bounds = tuple[int, int]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def interval(expr: Expr) -> Bounds:
    """Smallest and largest value `expr` can take, inclusive, for an integer or bool expression.

    Ranges without points count as if they had one. Float expressions have no interval: asking
    for one is a programming error and raises KeyError.
    """
    known: Bounds | None = expr.facts.get("interval")
    if known is not None:
        return known
    stack = [expr]
    while stack:
        node = stack[-1]
        if "interval" in node.facts:
            stack.pop()
            continue
        missing = [c for c in _operands(node) if "interval" not in c.facts]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        node.facts["interval"] = _clamp(_interval(node), node.dtype)
    return expr.facts["interval"]  # type: ignore[no-any-return]


def is_true(condition: Expr) -> bool:
    """Whether a bool expression holds for every value of its ranges and loads."""
    return interval(condition) == (1, 1)


def is_false(condition: Expr) -> bool:
    """Whether a bool expression holds for no value of its ranges and loads."""
    return interval(condition) == (0, 0)


def _operands(node: Expr) -> tuple[Expr, ...]:
    """The sub-expressions whose intervals the interval of `node` is made from."""
    if isinstance(node, Fn):
        return tuple(a for a in node.args if not a.dtype.is_float)
    if isinstance(node, Cast):
        return () if node.x.dtype.is_float else (node.x,)
    if isinstance(node, Reduce):
        return (node.body,)
    return ()


def _clamp(found: Bounds, dtype: DType) -> Bounds:
    """The bounds of the dtype when a result may have wrapped."""
    low, high = dtype_bounds(dtype)
    return found if low <= found[0] and found[1] <= high else (low, high)


def dtype_bounds(dtype: DType) -> Bounds:
    """Smallest and largest value of an integer dtype or bool."""
    if dtype is int64:
        return (INT64_MIN, INT64_MAX)
    if dtype is bool_:
        return (0, 1)
    if dtype.kind == "uint":
        return (0, (1 << dtype.bits) - 1)
    if dtype.kind == "int":
        return (-(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1)
    raise KeyError(f"{dtype.name} expressions have no interval")


def _interval(node: Expr) -> Bounds:
    if isinstance(node, Const):
        return (int(node.value), int(node.value))
    if isinstance(node, Range):
        return (0, max(0, node.extent - 1))
    if isinstance(node, Fn):
        rule = _FUNCTIONS.get(node.name)
        if rule is None or node.args[0].dtype.is_float:
            return dtype_bounds(node.dtype)
        if node.name == "not" and node.dtype is bool_:
            low, high = node.args[0].facts["interval"]
            return (1 - high, 1 - low)
        return rule(*(a.facts["interval"] for a in node.args))
    if isinstance(node, Cast):
        return _cast_interval(node)
    if isinstance(node, ArgReduce):
        return (0, max(0, math.prod(r.extent for r in node.ranges) - 1))
    if isinstance(node, Reduce):
        return _reduce_interval(node)
    return dtype_bounds(node.dtype)


def _cast_interval(node: Cast) -> Bounds:
    if node.x.dtype.is_float:
        return dtype_bounds(node.dtype)
    low, high = node.x.facts["interval"]
    if node.dtype is bool_:
        return (int(low > 0 or high < 0), int(low != 0 or high != 0))
    return (low, high)


def _reduce_interval(node: Reduce) -> Bounds:
    low, high = node.body.facts["interval"]
    points = math.prod(r.extent for r in node.ranges)
    if node.op == "add":
        return (low * points, high * points)
    if node.op in ("min", "max") and points > 0:
        return (low, high)
    return dtype_bounds(node.dtype)


# --- one rule per function: intervals of the arguments to the interval of the result -------------


def _mul(a: Bounds, b: Bounds) -> Bounds:
    corners = (a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1])
    return (min(corners), max(corners))


def _floordiv(a: Bounds, b: Bounds) -> Bounds:
    divisors = [d for d in (b[0], b[1], -1, 1) if b[0] <= d <= b[1] and d != 0]
    corners = [x // d for x in a for d in divisors]
    if b[0] <= 0 <= b[1]:
        corners.append(0)
    return (min(corners), max(corners))


def _truncdiv(a: Bounds, b: Bounds) -> Bounds:
    divisors = [d for d in (b[0], b[1], -1, 1) if b[0] <= d <= b[1] and d != 0]
    corners = [abs(x) // abs(d) * (1 if (x < 0) == (d < 0) else -1) for x in a for d in divisors]
    if b[0] <= 0 <= b[1]:
        corners.append(0)
    return (min(corners), max(corners))


def _floormod(a: Bounds, b: Bounds) -> Bounds:
    if b[0] == b[1] and b[0] > 0 and a[0] // b[0] == a[1] // b[0]:
        return (a[0] % b[0], a[1] % b[0])
    if a[0] >= 0 and b[0] > 0:
        return (0, min(a[1], b[1] - 1))
    return (min(0, b[0] + 1), max(0, b[1] - 1))


def _truncmod(a: Bounds, b: Bounds) -> Bounds:
    widest = max(0, abs(b[0]) - 1, abs(b[1]) - 1)
    if a[0] >= 0 and b[0] == b[1] and b[0] > 0 and a[0] // b[0] == a[1] // b[0]:
        return (a[0] % b[0], a[1] % b[0])
    return (max(min(0, a[0]), -widest), min(max(0, a[1]), widest))


def _abs(a: Bounds) -> Bounds:
    if a[0] >= 0:
        return a
    return (-a[1], -a[0]) if a[1] < 0 else (0, max(-a[0], a[1]))


def _and(a: Bounds, b: Bounds) -> Bounds:
    if a[0] >= 0 and b[0] >= 0:
        # Exact for bools; for other non-negative integers a sound lower bound is 0.
        low = int(a[0] == 1 and b[0] == 1) if max(a[1], b[1]) <= 1 else 0
        return (low, min(a[1], b[1]))
    return (INT64_MIN - 1, 0)  # unknown: outside of every dtype, so that it becomes the dtype's


def _or(a: Bounds, b: Bounds) -> Bounds:
    if a[0] >= 0 and b[0] >= 0:
        return (max(a[0], b[0]), (1 << max(a[1], b[1]).bit_length()) - 1)
    return (INT64_MIN - 1, 0)


def _xor(a: Bounds, b: Bounds) -> Bounds:
    if a[0] >= 0 and b[0] >= 0:
        if a[0] == a[1] and b[0] == b[1]:
            return (a[0] ^ b[0], a[0] ^ b[0])
        return (0, (1 << max(a[1], b[1]).bit_length()) - 1)
    return (INT64_MIN - 1, 0)


def _shl(a: Bounds, b: Bounds) -> Bounds:
    if b[0] == b[1] and 0 <= b[0] < 64:
        return (a[0] << b[0], a[1] << b[0])
    return (INT64_MIN - 1, 0)


def _shr(a: Bounds, b: Bounds) -> Bounds:
    if b[0] == b[1] and 0 <= b[0] < 64:
        return (a[0] >> b[0], a[1] >> b[0])
    return (min(a[0], 0), max(a[1], 0)) if a[0] >= 0 else (INT64_MIN - 1, 0)


def _lt(a: Bounds, b: Bounds) -> Bounds:
    return (int(a[1] < b[0]), int(a[0] < b[1]))


def _le(a: Bounds, b: Bounds) -> Bounds:
    return (int(a[1] <= b[0]), int(a[0] <= b[1]))


def _eq(a: Bounds, b: Bounds) -> Bounds:
    return (int(a[0] == a[1] == b[0] == b[1]), int(a[0] <= b[1] and b[0] <= a[1]))


def _ne(a: Bounds, b: Bounds) -> Bounds:
    low, high = _eq(a, b)
    return (1 - high, 1 - low)


def _where(test: Bounds, a: Bounds, b: Bounds) -> Bounds:
    if test == (1, 1):
        return a
    if test == (0, 0):
        return b
    return (min(a[0], b[0]), max(a[1], b[1]))


_FUNCTIONS: dict[str, Callable[..., Bounds]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _mul,
    "neg": lambda a: (-a[1], -a[0]),
    "abs": _abs,
    "floordiv": _floordiv,
    "truncdiv": _truncdiv,
    "floormod": _floormod,
    "truncmod": _truncmod,
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "and": _and,
    "or": _or,
    "xor": _xor,
    "not": lambda a: (~a[1], ~a[0]),  # of integers; bools are done where it is called
    "shl": _shl,
    "shr": _shr,
    "popcount": lambda a: (0, 64),
    "lt": _lt,
    "le": _le,
    "eq": _eq,
    "ne": _ne,
    "where": _where,
}


# --- linear form ---------------------------------------------------------------------------------

Terms = dict[Expr, int]


@dataclass(frozen=True)
class Affine:
    """`constant + sum(coefficients[r] * r) + sum(factor * term for term, factor in rest)`.

    `rest` holds what is not linear in ranges (quotients, remainders, loads, ...) with its factor;
    such a term may depend on ranges itself: see `depends_on`.
    """

    coefficients: dict[Range, int]
    constant: int
    rest: tuple[tuple[Expr, int], ...]

    def coefficient(self, r: Range) -> int:
        """The factor of a range in the linear part (0 when it is absent)."""
        return self.coefficients.get(r, 0)

    @property
    def is_affine(self) -> bool:
        """Whether the expression is linear in its ranges, with nothing left over."""
        return not self.rest

    def depends_on(self, r: Range) -> bool:
        """Whether a non-linear term contains `r`."""
        return any(r in ir.free_ranges(term) for term, _ in self.rest)

    def stride(self, r: Range) -> int | None:
        """How far the value moves when `r` grows by one; None when that is not a constant."""
        return None if self.depends_on(r) else self.coefficient(r)


def affine(expr: Expr) -> Affine:
    """The linear form of an integer expression, exact modulo the width of its dtype."""
    cached: Affine | None = expr.facts.get("affine")
    if cached is None:
        terms, constant = linear(expr)
        cached = expr.facts["affine"] = Affine(
            {t: c for t, c in terms.items() if isinstance(t, Range)},
            constant,
            tuple((t, c) for t, c in terms.items() if not isinstance(t, Range)),
        )
    return cached


def linear(expr: Expr) -> tuple[Terms, int]:
    """`expr` as (factor of each atom, constant). Atoms are anything but sums and multiples.

    The dictionary is shared through the cache: do not change it.
    """
    cached: tuple[Terms, int] | None = expr.facts.get("linear")
    if cached is not None:
        return cached
    stack = [expr]
    while stack:
        node = stack[-1]
        if "linear" in node.facts:
            stack.pop()
            continue
        parts = _linear_parts(node)
        missing = [p for p in parts if "linear" not in p.facts]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        node.facts["linear"] = _linear(node)
    return expr.facts["linear"]  # type: ignore[no-any-return]


def _linear_parts(node: Expr) -> tuple[Expr, ...]:
    if isinstance(node, Fn) and node.name in ("add", "sub", "mul", "neg", "shl"):
        return node.args
    return ()


def _linear(node: Expr) -> tuple[Terms, int]:
    if isinstance(node, Const):
        return {}, int(node.value)
    parts = _linear_parts(node)
    if parts:
        name = node.name  # type: ignore[attr-defined]
        terms, constant = parts[0].facts["linear"]
        if name == "neg":
            return {t: -c for t, c in terms.items()}, -constant
        others, other = parts[1].facts["linear"]
        if name in ("add", "sub"):
            return add_terms(terms, others, 1 if name == "add" else -1), (
                constant + other if name == "add" else constant - other
            )
        if name == "shl":
            if not others and 0 <= other < node.dtype.bits:
                return {t: c << other for t, c in terms.items()}, constant << other
        elif not others:
            return _scaled(terms, other), constant * other
        elif not terms:
            return _scaled(others, constant), other * constant
    return {node: 1}, 0


def _scaled(terms: Terms, factor: int) -> Terms:
    return {t: c * factor for t, c in terms.items()} if factor else {}


def add_terms(a: Terms, b: Terms, factor: int = 1) -> Terms:
    """a + factor * b, without terms that cancel."""
    total = dict(a)
    for term, c in b.items():
        new = total.get(term, 0) + c * factor
        if new:
            total[term] = new
        else:
            total.pop(term, None)
    return total


def terms_interval(terms: Terms, constant: int) -> Bounds:
    """Bounds of a linear form, not wrapped to any dtype."""
    low = high = constant
    for term, c in terms.items():
        a, b = interval(term)
        if c >= 0:
            low += c * a
            high += c * b
        else:
            low += c * b
            high += c * a
    return low, high


def divisor(expr: Expr) -> int:
    """The largest known number that divides every value of `expr`; 0 when it is always zero."""
    cached: int | None = expr.facts.get("divisor")
    if cached is None:
        terms, constant = linear(expr)
        cached = abs(constant)
        for term, c in terms.items():
            cached = math.gcd(cached, c * _atom_divisor(term))
        if expr.dtype.is_integer:
            low, high = terms_interval(terms, constant)
            bounds = dtype_bounds(expr.dtype)
            if low < bounds[0] or high > bounds[1]:
                cached = math.gcd(cached, 1 << expr.dtype.bits)  # it may wrap
        expr.facts["divisor"] = cached
    return cached


def _atom_divisor(term: Expr) -> int:
    if isinstance(term, Fn):
        if term.name == "mul":
            low, high = _mul(interval(term.args[0]), interval(term.args[1]))
            bounds = dtype_bounds(term.dtype)
            wraps = low < bounds[0] or high > bounds[1]
            product = divisor(term.args[0]) * divisor(term.args[1])
            return math.gcd(product, 1 << term.dtype.bits) if wraps else product
        if term.name in ("min", "max"):
            return math.gcd(divisor(term.args[0]), divisor(term.args[1]))
        if term.name == "where":
            return math.gcd(divisor(term.args[1]), divisor(term.args[2]))
        if term.name == "floormod":
            return math.gcd(divisor(term.args[0]), divisor(term.args[1]))
    if isinstance(term, Cast) and term.x.dtype.is_integer:
        low, high = interval(term.x)
        bounds = dtype_bounds(term.dtype)
        return divisor(term.x) if bounds[0] <= low and high <= bounds[1] else 1
    return 1


def is_multiple(expr: Expr, of: int) -> bool:
    """Whether every value of `expr` is a multiple of `of` (a positive number)."""
    return divisor(expr) % of == 0


def loads_of(expr: Expr) -> list[Load]:
    """Every Load inside an expression, each once."""
    return [n for n in walk([expr]) if isinstance(n, Load)]
