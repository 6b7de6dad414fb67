"""Row nests: reductions placed at the points they depend on, in phases over a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from niello.codegen.access import body_of, cost, is_reduction, store_roots
from niello.codegen.collapse import rename
from niello.core.nodes import Node, walk
from niello.kernel.build import ravel
from niello.kernel.ir import Const, Expr, Load, Param, Range, Store, free_ranges

_WORTH_KEEPING = 12.0  # cost above which a value is kept for the row rather than found again
_KEPT_BYTES = 128 << 10  # what the kept values of a row may take


@dataclass(frozen=True)
class Phase:
    """One loop over `ranges` (none: just the point), giving values to reductions and storing.

    `reductions` pairs each reduction node with its body, written over `ranges`.
    """

    ranges: tuple[Range, ...]
    reductions: tuple[tuple[Expr, Expr], ...]
    stores: tuple[Store, ...]

    @property
    def roots(self) -> list[Expr]:
        """Every expression the phase evaluates."""
        return [body for _, body in self.reductions] + store_roots(self.stores)


def placed(roots: Iterable[Expr], ranges: Sequence[Range]) -> list[Expr]:
    """Reductions, operands first, that depend on nothing but `ranges`."""
    bound = frozenset(ranges)
    return [n for n in walk(roots) if is_reduction(n) and free_ranges(n) <= bound]  # type: ignore[misc]


def level_of(node: Expr, nodes: frozenset[Expr]) -> int:
    """How many reductions of `nodes` have to be done one after the other before this one."""
    levels: dict[Node, int] = {}
    for n in walk([body_of(node)]):
        below = max((levels[c] for c in n.children), default=0)
        levels[n] = below + 1 if n in nodes else below
    return levels[body_of(node)]


def replace(root: Node, chosen: dict[Node, Node]) -> Node:
    """`root` with the outermost nodes of `chosen` replaced."""
    memo: dict[Node, Node] = dict(chosen)
    for node in _walk_until(root, chosen):
        if node not in memo:
            memo[node] = node.with_children(lambda c: memo[c])
    return memo[root]


def _walk_until(root: Node, stop: dict[Node, Node]) -> Iterable[Node]:
    """Nodes of `root`, children first, without what is below nodes of `stop`."""
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            if node not in stop:
                stack.extend((c, False) for c in node.children if c not in seen)


def phases_of(
    outer: tuple[Range, ...],
    rest: tuple[Range, ...],
    stores: Sequence[Store],
    buffer: Callable[[Expr, int], Param],
    joined: Sequence[Store] = (),
) -> tuple[tuple[Phase, ...], list[Param]]:
    """The phases at each point of `outer`, and the buffers of what they keep for a row.

    `rest` are the ranges of the stores that are not in `outer`; `buffer` makes a buffer with the
    type of an expression and a number of elements; `joined` are stores at the points of `outer`.
    """
    here = placed(store_roots([*stores, *joined]), outer)
    nodes = frozenset(here)
    groups: dict[tuple[int, tuple[int, ...]], list[Expr]] = {}
    for r in here:
        extents = tuple(k.extent for k in r.ranges)  # type: ignore[attr-defined]
        groups.setdefault((level_of(r, nodes), extents), []).append(r)
    canonical: dict[tuple[int, ...], tuple[Range, ...]] = {tuple(r.extent for r in rest): rest}
    phases = []
    for (_, extents), group in sorted(groups.items(), key=lambda item: item[0][0]):
        ranges = canonical.setdefault(extents, group[0].ranges)  # type: ignore[attr-defined]
        pairs = tuple(
            (r, rename(body_of(r), dict(zip(r.ranges, ranges, strict=True))))  # type: ignore[attr-defined]
            for r in group
        )
        phases.append(Phase(ranges, pairs, ()))  # type: ignore[arg-type]
    if joined:
        phases.append(Phase((), (), tuple(joined)))
    phases.append(Phase(rest, (), tuple(stores)))
    if rest and len(phases) > 1:
        return _keeping(phases, rest, nodes, buffer)
    return tuple(phases), []


def _keeping(
    phases: list[Phase],
    rest: tuple[Range, ...],
    nodes: frozenset[Expr],
    buffer: Callable[[Expr, int], Param],
) -> tuple[tuple[Phase, ...], list[Param]]:
    """Phases in which what is expensive and needed by several is stored once and loaded."""
    extents = [r.extent for r in rest]
    points = math.prod(extents)
    kept: list[Param] = []
    result = list(phases)
    for n, phase in enumerate(result):
        if phase.ranges != rest:
            continue
        later = [m for m in range(n + 1, len(result)) if result[m].ranges == rest]
        if not later:
            break
        shared = _shared(phase.roots, [e for m in later for e in result[m].roots], rest, nodes)
        for expr in shared:
            size = sum(p.elements * p.dtype.itemsize for p in kept) + points * expr.dtype.itemsize
            if size > _KEPT_BYTES:
                break
            param = buffer(expr, points)
            kept.append(param)
            index = ravel(rest, extents)
            keep = Store(param, rest, index, expr, None, None)
            result[n] = Phase(rest, result[n].reductions, (*result[n].stores, keep))
            loaded: dict[Node, Node] = {expr: Load(param, index, None)}
            for m in later:
                result[m] = Phase(
                    rest,
                    tuple((r, replace(b, loaded)) for r, b in result[m].reductions),  # type: ignore[misc]
                    tuple(replace(s, loaded) for s in result[m].stores),  # type: ignore[misc]
                )
    return tuple(result), kept


def _shared(
    now: Sequence[Expr], later: Sequence[Expr], rest: Sequence[Range], nodes: frozenset[Expr]
) -> list[Expr]:
    """The largest expensive expressions over a row that are in both."""
    stop: dict[Node, Node] = {n: n for n in nodes}
    mine = {n for root in now for n in _walk_until(root, stop)}
    found: list[Expr] = []
    seen: set[Node] = set()
    stack: list[Node] = list(later)
    row = frozenset(rest)
    while stack:
        node = stack.pop()
        if node in seen or node in stop or isinstance(node, (Const, Range, Param)):
            continue
        seen.add(node)
        if not isinstance(node, Expr) or row.isdisjoint(free_ranges(node)):
            continue
        if node in mine and not isinstance(node, Load) and _own_cost(node, stop) >= _WORTH_KEEPING:
            found.append(node)
        else:
            stack.extend(node.children)
    return found


def _own_cost(node: Expr, stop: dict[Node, Node]) -> float:
    """What evaluating an expression takes when the reductions in `stop` are known."""
    known: dict[Node, Node] = {n: Const(0.0, n.dtype) for n in stop if isinstance(n, Expr)}
    return cost([replace(node, known)])  # type: ignore[list-item]
