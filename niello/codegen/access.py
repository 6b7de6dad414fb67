"""How expressions reach memory: which loads there are, and what they cost over lanes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from niello.core.dtypes import bool_, int64
from niello.core.nodes import walk
from niello.kernel.bounds import affine
from niello.kernel.ir import (
    ArgReduce,
    Const,
    Contract,
    Expr,
    Fn,
    Load,
    Range,
    Reduce,
    Store,
    cast,
    fn,
    free_ranges,
)

# What one vector costs, in loads of a contiguous vector.
CONTIGUOUS, BROADCAST, REVERSED, SCATTERED = 1.0, 0.3, 1.5, 10.0

_EXPENSIVE = frozenset(
    (
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "sin", "cos", "tan", "asin",
        "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf",
    )
)  # fmt: skip
_SLOW = frozenset(("div", "sqrt", "truncdiv", "truncmod", "floordiv", "floormod"))


def store_roots(stores: Iterable[Store]) -> list[Expr]:
    """Everything that stores evaluate: values, indices and gates."""
    roots: list[Expr] = []
    for s in stores:
        roots += (s.value, s.index)
        if s.gate is not None:
            roots.append(s.gate)
    return roots


def loads(roots: Iterable[Expr]) -> list[Load]:
    """Every load in the expressions, once."""
    return [n for n in walk(roots) if isinstance(n, Load)]


def cost(roots: Iterable[Expr]) -> float:
    """Instructions, roughly, that evaluating the expressions once takes; reductions count once."""
    total = 0.0
    for node in walk(roots):
        if isinstance(node, Fn):
            if node.dtype.kind in ("int", "uint") and node.dtype.bits == 64:
                total += 0.25  # mostly index arithmetic, done once per vector
            else:
                total += 15.0 if node.name in _EXPENSIVE else 4.0 if node.name in _SLOW else 1.0
        elif isinstance(node, Load):
            total += 1.0
    return total


def lane_bytes(roots: Iterable[Expr]) -> int:
    """Bytes of the widest elements that the values work on: they decide how many lanes there are.

    Index arithmetic, which is done in scalars or 32 bits, does not count, nor does bool.
    """
    widest = 1
    seen: set[Expr] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, Load):
            widest = max(widest, node.dtype.itemsize)
            continue
        if isinstance(node, (Range, Const)) or (node.dtype is int64 and not _touches_data(node)):
            continue
        if node.dtype is not bool_ and not isinstance(node, ArgReduce):
            widest = max(widest, node.dtype.itemsize)
        stack.extend(c for c in node.children if isinstance(c, Expr))
    return widest


def narrowest_bytes(roots: Iterable[Expr], stores: Iterable[Store] = ()) -> int:
    """Bytes of the narrowest elements that are loaded or stored."""
    sizes = [x.dtype.itemsize for x in loads(roots)] + [s.param.dtype.itemsize for s in stores]
    return min(sizes, default=4)


def _touches_data(expr: Expr) -> bool:
    """Whether an expression is more than arithmetic on ranges."""
    known: bool | None = expr.facts.get("data")
    if known is None:
        known = isinstance(expr, (Load, Reduce, ArgReduce, Contract)) or any(
            _touches_data(c) for c in expr.children if isinstance(c, Expr)
        )
        expr.facts["data"] = known
    return known


def index_cost(index: Expr, lanes: Range) -> float:
    """What a vector access costs whose lanes run over a range."""
    if lanes not in free_ranges(index):
        return BROADCAST
    stride = affine(index).stride(lanes)
    return CONTIGUOUS if stride == 1 else REVERSED if stride == -1 else SCATTERED


def lane_cost(lanes: Range, roots: Sequence[Expr], stores: Sequence[Store], width: int) -> float:
    """What running a range over the lanes costs per point: lower is better."""
    total = sum(index_cost(x.index, lanes) for x in loads(roots))
    for s in stores:
        # A store to one place from all lanes has to be gathered into lanes by hand: never.
        total += 1e6 if lanes not in free_ranges(s.index) else 1.5 * index_cost(s.index, lanes)
    total += 0.2 * cost(roots)
    used = -(-lanes.extent // width) * width
    return total * used / max(1, lanes.extent)


def is_reduction(node: object) -> bool:
    """Whether a node is a Reduce, an ArgReduce or a Contract."""
    return isinstance(node, (Reduce, ArgReduce, Contract))


def body_of(node: Expr) -> Expr:
    """What a reduction reduces: the product, for a Contract."""
    if isinstance(node, Contract):
        return fn("mul", cast(node.a, node.dtype), cast(node.b, node.dtype))
    assert isinstance(node, (Reduce, ArgReduce))
    return node.body
