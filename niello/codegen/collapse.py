"""Fewer, longer ranges: neighbours that every index walks as one become one range."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from niello.core.dtypes import int64
from niello.core.nodes import Node, walk
from niello.kernel.bounds import linear
from niello.kernel.build import ravel
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
    const,
    fn,
    free_ranges,
)
from niello.kernel.simplify import simplify_expr


def rename(root: Node, mapping: dict[Range, Expr]) -> Node:
    """`root` with free ranges replaced; what does not depend on them is the same node.

    Unlike `ir.substitute`, ranges of the same name that are bound inside are left alone.
    """
    memo: dict[Node, Node] = {}
    names = frozenset(mapping)

    def visit(node: Node) -> Node:
        if isinstance(node, Range):
            return mapping.get(node, node)
        if names.isdisjoint(free_ranges(node)):
            return node
        found = memo.get(node)
        if found is None:
            if isinstance(node, (Reduce, ArgReduce, Contract, Store)):
                inner = {r: e for r, e in mapping.items() if r not in node.ranges}
                if len(inner) < len(mapping):
                    memo[node] = found = node.with_children(lambda c: rename(c, inner))
                    return found
            memo[node] = found = _rebuilt(node, visit)
        return found

    # Operands first: a long chain of operations is nested deeper than Python recurses.
    for node in _operands_first(root, names):
        visit(node)
    return visit(root)


def _operands_first(root: Node, names: frozenset[Range]) -> Iterator[Node]:
    """What depends on the ranges `names`, each node once, after what it is made of."""
    seen: set[Node] = set()
    stack = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            yield node
        elif node not in seen and not names.isdisjoint(free_ranges(node)):
            seen.add(node)
            stack.append((node, True))
            stack.extend((c, False) for c in node.children)


def _rebuilt(node: Node, visit: Callable[[Node], Node]) -> Node:
    if isinstance(node, Fn):
        # Through `fn`, so that constants fold again.
        return fn(node.name, *(visit(a) for a in node.args))
    return node.with_children(visit)


def walks_as_one(roots: Iterable[Expr], outer: Range, inner: Range) -> bool:
    """Whether `roots` depend on two neighbouring ranges only as `outer * extent + inner`."""
    seen: set[Expr] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        free = free_ranges(node)
        if node in seen or (outer not in free and inner not in free):
            continue
        seen.add(node)
        if isinstance(node, (Reduce, ArgReduce, Contract)) and (
            outer in node.ranges or inner in node.ranges
        ):
            return False
        if node.dtype is int64 and not isinstance(node, Load):
            terms, _ = linear(node)
            if terms.get(outer, 0) != inner.extent * terms.get(inner, 0):
                return False
            atoms = [t for t in terms if t is not outer and t is not inner]
            if atoms != [node]:
                stack.extend(atoms)
                continue
        stack.extend(c for c in node.children if isinstance(c, Expr))
    return True


def collapsed(
    ranges: Sequence[Range], roots: Sequence[Expr]
) -> tuple[tuple[Range, ...], dict[Range, Expr]]:
    """Ranges that do the same with fewer loops, and what the old ones become.

    Ranges of extent 1 vanish; neighbours merge where `roots` walk them as one.
    """
    mapping: dict[Range, Expr] = {r: const(0, int64) for r in ranges if r.extent == 1}
    kept: list[tuple[Range, list[Range]]] = []
    for r in (r for r in ranges if r.extent != 1):
        if kept and walks_as_one(roots, kept[-1][1][-1], r):
            kept[-1][1].append(r)
        else:
            kept.append((r, [r]))
    result: list[Range] = []
    for _, members in kept:
        if len(members) == 1:
            result.append(members[0])
            continue
        extent = 1
        for m in members:
            extent *= m.extent
        merged = Range(members[-1].name + "_all", extent)
        mapping.update((m, const(0, int64)) for m in members[:-1])
        mapping[members[-1]] = merged
        result.append(merged)
    return tuple(result), mapping


def divided(
    ranges: Sequence[Range], roots: Iterable[Expr]
) -> tuple[tuple[Range, ...], dict[Range, Expr]]:
    """Ranges cut into digits where `roots` ask for their quotients and remainders.

    A reshape in front of a transpose reads at `r // c` and `r % c`: with `r = c * high + low` both
    are ranges of their own, and memory is walked in steps that are known.
    """
    divisors: dict[Range, set[int]] = {}
    for node in walk(roots):
        if isinstance(node, Fn) and node.name in ("floordiv", "floormod"):
            r, c = node.args
            if isinstance(r, Range) and isinstance(c, Const) and 1 < c.value < r.extent:
                divisors.setdefault(r, set()).add(int(c.value))
    mapping: dict[Range, Expr] = {}
    result: list[Range] = []
    for r in ranges:
        digits = _digits(r, divisors.get(r, set()))
        result += digits
        if len(digits) > 1:
            mapping[r] = ravel(digits, [d.extent for d in digits])
    return tuple(result), mapping


def _digits(r: Range, divisors: set[int]) -> list[Range]:
    """Digits of a range, highest first, that give its quotients by the divisors that fit."""
    steps = [1]
    for c in sorted(divisors):
        if c % steps[-1] == 0 and r.extent % c == 0:
            steps.append(c)
    if len(steps) == 1:
        return [r]
    steps.append(r.extent)
    extents = [b // a for a, b in itertools.pairwise(steps)]
    return [Range(f"{r.name}_{n}", e) for n, e in reversed(list(enumerate(extents)))]


def collapse_reductions(root: Expr, memo: dict[Expr, Expr] | None = None) -> Expr:
    """The expression with the ranges of every reduction inside it collapsed."""
    from niello.core.nodes import transform

    def visit(node: Node) -> Node:
        if not isinstance(node, (Reduce, ArgReduce)):
            return node
        ranges, body = node.ranges, node.body
        cut, mapping = divided(ranges, [body])
        if mapping:
            ranges, body = cut, simplify_expr(rename(body, mapping))  # type: ignore[arg-type]
        fewer, mapping = collapsed(ranges, [body])
        if fewer == node.ranges:
            return node
        body = rename(body, mapping)  # type: ignore[assignment]
        return type(node)(node.op, fewer, body) if fewer else node

    return transform(root, visit, memo)  # type: ignore[arg-type,return-value]
