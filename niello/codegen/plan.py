"""From a kernel in index notation to loop nests, in stages with a barrier between them.

    Plan   = stages: Stage*  shared: Param*  exchange: Param*
    Stage  = nests: (Nest | Split)*             independent of each other
    Nest   = ranges: Range*  phases: Phase*     phases run one after the other at each point
    Phase  = ranges: Range*  reductions: (node, body)*  stores: Store*
    Split  = ranges: Range*  phase: Phase  along: Range  partials: Param*

A point-wise nest has one phase without ranges. In a row nest (softmax, layer norm) the ranges are
the rows and each phase is one loop over a row: reductions that do not depend on each other share
a phase, and what is expensive and needed again is kept for the row. A Split is the first half of
a reduction with few results: each thread does its share of the range `along` and leaves what it
found in `partials`; the next stage reads them together (`Partial`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from niello.codegen.access import (
    body_of,
    cost,
    is_reduction,
    lane_bytes,
    lane_cost,
    store_roots,
)
from niello.codegen.collapse import collapse_reductions, collapsed, divided, rename
from niello.codegen.rows import Phase, level_of, phases_of, placed, replace
from niello.codegen.unroll import unroll_reductions
from niello.core.dtypes import DType, compute_dtype
from niello.core.nodes import Node
from niello.kernel.bounds import affine
from niello.kernel.build import ravel
from niello.kernel.ir import (
    ArgReduce,
    Expr,
    Kernel,
    Load,
    Param,
    Range,
    Store,
    cast,
    fn,
    free_ranges,
)
from niello.kernel.simplify import simplify_expr

_ENOUGH_UNITS = 16  # units of work that keep the threads of a usual machine busy
_SMALL = 1 << 15  # points that are not worth a barrier
_ROW_BYTES = 512 << 10  # what the phases of one row may touch to find it again in the cache
_SPLIT_COLUMNS = 8192  # results of a split reduction: each thread holds that many


class Partial(Expr):
    """`op` over all threads of element `index` of the partial results that each left behind."""

    __slots__ = ("index", "op", "param")
    param: Param
    index: Expr
    op: str
    fields = ("param", "index", "op")

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.param.dtype


@dataclass(frozen=True)
class Nest:
    """Loops over `ranges`, outermost first, around phases."""

    ranges: tuple[Range, ...]
    phases: tuple[Phase, ...]

    @property
    def stores(self) -> tuple[Store, ...]:
        return tuple(s for p in self.phases for s in p.stores)


@dataclass(frozen=True)
class Split:
    """Reductions at the points of `ranges`, of which each thread does a share of `along`.

    `lanes` is the last of `ranges`, or None where the reduction has lanes of its own; results lie
    in row-major order of `ranges`.
    """

    ranges: tuple[Range, ...]
    lanes: Range | None
    phase: Phase
    along: Range
    partials: tuple[Param, ...]


@dataclass
class Plan:
    """The stages of a kernel and the buffers they exchange results through.

    `shared` buffers are for all threads together, `exchange` buffers for each thread, and `rows`
    are what phases keep for later phases: private to a thread, forgotten after each row.
    """

    stages: list[list[Nest | Split]] = field(default_factory=list)
    shared: list[Param] = field(default_factory=list)
    exchange: list[Param] = field(default_factory=list)
    rows: list[Param] = field(default_factory=list)

    def add(self, stage: int, nest: Nest | Split) -> None:
        """Put a nest into a stage."""
        while len(self.stages) <= stage:
            self.stages.append([])
        self.stages[stage].append(nest)


def plan(kernel: Kernel, vector_bytes: int = 64) -> Plan:
    """The loop nests of a kernel, for vectors of `vector_bytes`."""
    maker = _Planner(vector_bytes)
    groups: dict[tuple[Range, ...], list[Store]] = {}
    memo: dict[Expr, Expr] = {}
    for store in kernel.stores:
        value = unroll_reductions(store.value, store.ranges)
        simple = _plain(_with_value(store, collapse_reductions(value, memo)))
        groups.setdefault(store.ranges, []).append(simple)
    ready = []
    for ranges, stores in groups.items():
        if any(s.combine is not None for s in stores):
            maker.result.add(0, Nest(ranges, (Phase((), (), tuple(stores)),)))
        else:
            ready.append(collapse_stores(ranges, stores))
    # Statistics that are stored as well as used join the nest that uses them: widest first.
    ready.sort(key=lambda group: -len(group[0]))
    maker.waiting = ready
    while maker.waiting:
        maker.group(*maker.waiting.pop(0))
    return maker.result


def collapse_stores(
    ranges: tuple[Range, ...], stores: Sequence[Store]
) -> tuple[tuple[Range, ...], list[Store]]:
    """Stores over common ranges, over ranges that walk memory better: see collapse.py."""
    cut, mapping = divided(ranges, store_roots(stores))
    if mapping:
        stores = [_renamed(s, cut, mapping, simplify_expr) for s in stores]
        ranges = cut
    fewer, mapping = collapsed(ranges, store_roots(stores))
    return fewer, [_renamed(s, fewer, mapping) for s in stores]


def _renamed(
    store: Store,
    ranges: tuple[Range, ...],
    mapping: dict[Range, Expr],
    then: Callable[[Expr], Expr] = lambda e: e,
) -> Store:
    def change(e: Expr) -> Expr:
        return then(rename(e, mapping))  # type: ignore[arg-type]

    gate = None if store.gate is None else change(store.gate)
    return Store(store.param, ranges, change(store.index), change(store.value), gate, store.combine)


def _with_value(store: Store, value: Expr) -> Store:
    return Store(store.param, store.ranges, store.index, value, store.gate, store.combine)


def _plain(store: Store) -> Store:
    """A store that combines but hits no element twice, as one that reads and overwrites."""
    if store.combine is None or not _injective(store):
        return store
    dtype = store.param.dtype
    wide = compute_dtype(dtype)
    before = Load(store.param, store.index, store.gate)
    value = fn(store.combine, cast(before, wide), cast(store.value, wide))
    return Store(store.param, store.ranges, store.index, cast(value, dtype), store.gate, None)


def _injective(store: Store) -> bool:
    """Whether different points surely hit different elements."""
    index = affine(store.index)
    steps = sorted((abs(index.coefficient(r)), r.extent) for r in store.ranges if r.extent > 1)
    reach = 0
    for step, extent in steps:
        if step <= reach:
            return False
        reach += step * (extent - 1)
    return index.is_affine


class _Planner:
    def __init__(self, vector_bytes: int) -> None:
        self.result = Plan()
        self.vector_bytes = vector_bytes
        self._count = 0
        self.waiting: list[tuple[tuple[Range, ...], list[Store]]] = []

    def _joining(self, ranges: tuple[Range, ...]) -> list[Store]:
        """Stores that wait for a nest over `ranges`; they are taken off the list."""
        found = [g for g in self.waiting if frozenset(g[0]) == frozenset(ranges)]
        self.waiting = [g for g in self.waiting if g not in found]
        return [s for _, stores in found for s in stores]

    def buffer(self, like: Expr, elements: int) -> Param:
        """A buffer of our own, with the element type of an expression."""
        self._count += 1
        return Param(1000 + self._count, like.dtype, elements, True)

    def group(self, ranges: tuple[Range, ...], stores: Sequence[Store]) -> int:
        """Plan stores over common ranges; returns the stage that their nest is in."""
        found = placed(store_roots(stores), ranges)
        partial = [r for r in found if len(free_ranges(r)) < len(ranges)]
        outer = ranges
        stage = 0
        if partial:
            outer = self._rows(ranges, stores, partial)
            apart = [r for r in partial if free_ranges(r) != frozenset(outer)]
            if apart:
                stage, stores = self._earlier(ranges, stores, apart)
        if outer == ranges:
            split = self._split(ranges, stores, found)
            if split is not None:
                return split
        rest = tuple(r for r in ranges if r not in outer)
        joined = self._joining(outer) if rest else []
        phases, kept = phases_of(outer, rest, stores, self.buffer, joined)
        self.result.rows += kept
        self.result.add(stage, Nest(outer, phases))
        return stage

    def _width(self, roots: Iterable[Expr]) -> int:
        return max(1, self.vector_bytes // lane_bytes(roots))

    def _lanes(self, ranges: Sequence[Range], stores: Sequence[Store]) -> Range | None:
        """The range of the points that would run over lanes."""
        roots = store_roots(stores)
        width = self._width(s.value for s in stores)
        priced = [(lane_cost(r, roots, stores, width), -n, r) for n, r in enumerate(ranges)]
        return min(priced)[2] if priced else None

    def _rows(
        self, ranges: tuple[Range, ...], stores: Sequence[Store], partial: Sequence[Expr]
    ) -> tuple[Range, ...]:
        """The ranges over whose points the phases run; all of them where rows do not pay."""
        choices = {free_ranges(r) for r in partial}
        ordered = [tuple(r for r in ranges if r in free) for free in choices]
        ordered.sort(key=lambda f: (-math.prod(r.extent for r in f), len(f)))
        lanes = self._lanes(ranges, stores)
        width = self._width(s.value for s in stores)
        for outer in ordered:
            units = math.prod(r.extent for r in outer)
            row = math.prod(r.extent for r in ranges) // max(1, units)
            if units * row <= _SMALL:
                return outer
            if lanes in outer:
                if row * width * 8 <= _ROW_BYTES and units >= _ENOUGH_UNITS * width // 2:
                    return outer
            elif units >= _ENOUGH_UNITS:
                return outer
        return ranges

    def _earlier(
        self, ranges: tuple[Range, ...], stores: Sequence[Store], apart: Sequence[Expr]
    ) -> tuple[int, list[Store]]:
        """Reductions that become buffers, written in earlier stages."""
        chosen: dict[Node, Node] = {}
        made: dict[tuple[Range, ...], list[Store]] = {}
        used = _outermost(store_roots(stores), frozenset(apart))
        for node in used:
            own = tuple(r for r in ranges if r in free_ranges(node))
            extents = [r.extent for r in own]
            buffer = self.buffer(node, math.prod(extents))
            self.result.shared.append(buffer)
            index = ravel(own, extents)
            made.setdefault(own, []).append(Store(buffer, own, index, node, None, None))
            chosen[node] = Load(buffer, index, None)
        stage = 0
        for own, group in made.items():
            group += self._joining(own)
            stage = max(stage, 1 + self.group(*collapse_stores(own, group)))
        return stage, [replace(s, chosen) for s in stores]  # type: ignore[misc]

    def _split(
        self, ranges: tuple[Range, ...], stores: Sequence[Store], found: Sequence[Expr]
    ) -> int | None:
        """Plan reductions with few results and much to add up: threads share what is added."""
        nodes = [r for r in found if free_ranges(r) <= frozenset(ranges)]
        first = [r for r in nodes if level_of(r, frozenset(nodes)) == 0]
        if not first or any(isinstance(r, ArgReduce) for r in first):
            return None
        if not all(self._worth_splitting(ranges, r) for r in first):
            return None
        results = math.prod(r.extent for r in ranges)
        chosen: dict[Node, Node] = {}
        groups: dict[tuple[int, ...], list[Expr]] = {}
        for r in first:
            groups.setdefault(tuple(k.extent for k in r.ranges), []).append(r)  # type: ignore[attr-defined]
        for group in groups.values():
            phase = _reduction_phase(group)
            partials = tuple(self.buffer(r, results) for r in group)
            self.result.exchange += partials
            along = max(phase.ranges, key=lambda k: k.extent)
            if phase.ranges[0].extent >= 4 * _ENOUGH_UNITS:
                along = phase.ranges[0]
            lanes = self._split_lanes(ranges, phase.ranges, [b for _, b in phase.reductions])
            ordered = (*(r for r in ranges if r is not lanes), *([lanes] if lanes else []))
            index = ravel(ordered, [r.extent for r in ordered])
            self.result.add(0, Split(ordered, lanes, phase, along, partials))
            for r, p in zip(group, partials, strict=True):
                op = "add" if not hasattr(r, "op") else r.op
                chosen[r] = Partial(p, index, op)
        if len(first) == len(nodes):
            stage, final = 1, [replace(s, chosen) for s in stores]
            phases, kept = phases_of(ranges, (), final, self.buffer)  # type: ignore[arg-type]
            self.result.rows += kept
            self.result.add(stage, Nest(ranges, phases))
            return stage
        return self._further(ranges, stores, chosen)

    def _further(
        self, ranges: tuple[Range, ...], stores: Sequence[Store], chosen: dict[Node, Node]
    ) -> int:
        """What follows a split whose results other reductions need: they become buffers first."""
        index = ravel(ranges, [r.extent for r in ranges])
        loads: dict[Node, Node] = {}
        writes = []
        for node, partial in chosen.items():
            buffer = self.buffer(node, math.prod(r.extent for r in ranges))  # type: ignore[arg-type]
            self.result.shared.append(buffer)
            writes.append(Store(buffer, ranges, index, partial, None, None))
            loads[node] = Load(buffer, index, None)
        self.result.add(1, Nest(ranges, (Phase((), (), tuple(writes)),)))
        later = _Planner(self.vector_bytes)
        later._count = self._count + 1000
        stage = later.group(ranges, [replace(s, loads) for s in stores])  # type: ignore[misc]
        for n, nests in enumerate(later.result.stages):
            for nest in nests:
                self.result.add(n + 2, nest)
        self.result.shared += later.result.shared
        self.result.exchange += later.result.exchange
        self.result.rows += later.result.rows
        self._count = later._count
        return stage + 2

    def _worth_splitting(self, ranges: tuple[Range, ...], node: Expr) -> bool:
        results = math.prod(r.extent for r in ranges)
        points = math.prod(k.extent for k in node.ranges)  # type: ignore[attr-defined]
        if results * points < 4 * _SMALL or results > _SPLIT_COLUMNS:
            return False
        if self._split_lanes(ranges, node.ranges, [body_of(node)]) is not None:  # type: ignore[attr-defined]
            return points >= 64  # columns: a thread walks whole rows
        return results < _ENOUGH_UNITS

    def _split_lanes(
        self, ranges: Sequence[Range], reduced: Sequence[Range], bodies: Sequence[Expr]
    ) -> Range | None:
        """The range of the results that runs over lanes; None when one of `reduced` does."""
        width = self._width(bodies)
        several = [r for r in (*ranges, *reduced) if r.extent > 1]
        lanes = min(several, key=lambda r: lane_cost(r, bodies, (), width))
        return lanes if lanes in ranges else None


def _reduction_phase(group: Sequence[Expr]) -> Phase:
    """Reductions over equal extents as one phase over the ranges of the first."""
    ranges = group[0].ranges  # type: ignore[attr-defined]
    pairs = []
    for r in group:
        mapping = dict(zip(r.ranges, ranges, strict=True))  # type: ignore[attr-defined]
        pairs.append((r, rename(body_of(r), mapping)))
    return Phase(ranges, tuple(pairs), ())  # type: ignore[arg-type]


def _outermost(roots: Iterable[Expr], wanted: frozenset[Expr]) -> list[Expr]:
    """Those of `wanted` that are reached without going through another of them."""
    found: list[Expr] = []
    seen: set[Expr] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in wanted:
            found.append(node)
        else:
            stack.extend(c for c in node.children if isinstance(c, Expr))
    return found


__all__ = ["Nest", "Partial", "Phase", "Plan", "Split", "cost", "is_reduction", "plan"]
