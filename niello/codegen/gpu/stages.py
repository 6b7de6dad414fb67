"""From a kernel to nests in levels: nests of one level do not depend on each other.

Reductions become launches of their own where one would leave the device idle: partial sums go to
scratch buffers first, and the next level adds them up. All of it is rewriting of the kernel
language, so that code generation sees ordinary stores and loads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from niello.codegen.access import body_of, store_roots
from niello.codegen.collapse import collapse_reductions, rename
from niello.codegen.gpu.contract import (
    Contraction,
    as_reduction,
    can_finish,
    contraction_of,
    in_parts,
    part_count,
    worth_tiles,
)
from niello.codegen.gpu.inner_tiles import plan
from niello.codegen.gpu.phases import Nest, lanes_over_units, nest_of
from niello.codegen.gpu.scatter import Scatter
from niello.codegen.gpu.target import GpuTarget
from niello.codegen.gpu.teams import map_nest
from niello.codegen.plan import collapse_stores
from niello.codegen.rows import level_of, placed, replace
from niello.core.dtypes import int32, int64
from niello.core.nodes import Node, transform, walk
from niello.kernel.build import ravel, unravel
from niello.kernel.ir import (
    ArgReduce,
    Contract,
    Expr,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
    cast,
    const,
    fn,
    free_ranges,
)

SCRATCH_SLOT = 1000  # scratch buffers are parameters from here on
_SMALL = 1 << 15  # points for which another launch costs more than it brings
_LEAST_STEPS = 8  # accesses of a thread in its part of a split reduction


Part = Nest | Scatter | Contraction


@dataclass
class Stages:
    """Levels of nests, and the scratch buffers they exchange results through."""

    levels: list[list[Part]] = field(default_factory=list)
    scratch: list[Param] = field(default_factory=list)

    def add(self, level: int, nest: Part) -> None:
        """Put a nest into a level."""
        while len(self.levels) <= level:
            self.levels.append([])
        self.levels[level].append(nest)

    def buffer(self, like: Expr, elements: int) -> Param:
        """A scratch buffer with the element type of an expression."""
        found = Param(SCRATCH_SLOT + len(self.scratch), like.dtype, elements, True)
        self.scratch.append(found)
        return found


def stages_of(kernel: Kernel, target: GpuTarget) -> Stages:
    """The nests of a kernel, in levels."""
    return _Planner(target).run(kernel)


Group = tuple[tuple[Range, ...], list[Store]]


class _Planner:
    def __init__(self, target: GpuTarget) -> None:
        self.target = target
        self.result = Stages()
        self.waiting: list[Group] = []

    def run(self, kernel: Kernel) -> Stages:
        groups: dict[tuple[Range, ...], list[Store]] = {}
        memo: dict[Expr, Expr] = {}
        for store in kernel.stores:
            if any(r.extent == 0 for r in store.ranges):
                continue
            value = collapse_reductions(_without_small_contracts(store.value), memo)
            changed = Store(
                store.param, store.ranges, store.index, value, store.gate, store.combine
            )
            groups.setdefault(store.ranges, []).append(changed)
        for ranges, stores in groups.items():
            combining = [s for s in stores if s.combine is not None]
            plain = [s for s in stores if s.combine is None]
            for s in combining:
                self.result.add(0, Scatter(ranges, s))
            if plain:
                self.waiting.append(collapse_stores(ranges, plain))
        # Statistics that are stored as well as used join the nest that uses them: widest first.
        self.waiting.sort(key=lambda group: -len(group[0]))
        while self.waiting:
            self.group(*self.waiting.pop(0))
        return self.result

    def _joining(self, units: tuple[Range, ...]) -> list[Store]:
        """Stores that wait for a nest over `units`; they are taken off the list."""
        found = [g for g in self.waiting if frozenset(g[0]) == frozenset(units)]
        self.waiting = [g for g in self.waiting if g not in found]
        return [s for _, stores in found for s in stores]

    def group(self, ranges: tuple[Range, ...], stores: Sequence[Store], level: int = 0) -> int:
        """Plan stores over common ranges, not before a level; returns the level they are in."""
        contracts = _contracts(store_roots(stores))
        if contracts:
            return self._contract(ranges, list(stores), contracts, level)
        found = placed(store_roots(stores), ranges)
        partial = [r for r in found if free_ranges(r) < frozenset(ranges)]
        units = self._units(ranges, stores, partial) if partial else ranges
        apart = [r for r in partial if free_ranges(r) != frozenset(units)]
        if apart:
            made, stores = self._apart(ranges, stores, apart, level)
            return self.group(ranges, stores, made + 1)
        if not partial:
            split = self._split(ranges, stores, found, level)
            if split is not None:
                return split
        joined = self._joining(units) if units != ranges else []
        self.result.add(level, nest_of(units, stores, joined))
        return level

    # --- contractions
    def _contract(
        self,
        ranges: tuple[Range, ...],
        stores: list[Store],
        contracts: Sequence[Contract],
        level: int,
    ) -> int:
        """Plan stores that need contractions: as an epilogue, or after them."""
        if len(contracts) == 1 and can_finish(contracts[0], ranges, stores):
            return self._tiles(contracts[0], ranges, stores, level)
        last = level
        chosen: dict[Node, Node] = {}
        for node in contracts:
            free = free_ranges(node)
            own = tuple(r for r in ranges if r in free)
            own += tuple(sorted(free - frozenset(own), key=lambda r: r.name))
            made: dict[tuple[Range, ...], list[Store]] = {}
            chosen[node] = self._written(own, node, made)
            last = max(last, self._tiles(node, own, made[own], level))
        return self.group(ranges, [replace(s, chosen) for s in stores], last + 1)  # type: ignore[misc]

    def _tiles(
        self, node: Contract, ranges: tuple[Range, ...], stores: Sequence[Store], level: int
    ) -> int:
        """Plan one contraction with its epilogue, in parts of k where the device would idle."""
        whole = contraction_of(node, ranges, stores)
        tile, wanted = plan(whole, self.target)
        parts = part_count(whole, wanted, tile.step)
        if parts < 2:
            self.result.add(level, whole)
            return level
        results = math.prod(r.extent for r in ranges)
        buffer = self.result.buffer(whole.result, parts * results)
        piece = in_parts(whole, parts, buffer, tile.step)
        self.result.add(level, piece)
        assert piece.part is not None
        total = Reduce("add", (piece.part,), Load(buffer, piece.stores[0].index, None))
        final = [replace(s, {whole.result: total}) for s in whole.stores]
        return self.group(ranges, final, level + 1)  # type: ignore[arg-type]

    # --- rows
    def _units(
        self, ranges: tuple[Range, ...], stores: Sequence[Store], partial: Sequence[Expr]
    ) -> tuple[Range, ...]:
        """The ranges whose points are the units of a row nest; all where rows do not pay."""
        choices = {free_ranges(r) for r in partial}
        ordered = [tuple(r for r in ranges if r in free) for free in choices]
        ordered.sort(key=lambda f: (-math.prod(r.extent for r in f), len(f)))
        total = math.prod(r.extent for r in ranges)
        for units in ordered:
            count = math.prod(r.extent for r in units)
            if total <= _SMALL:
                return units
            nest = nest_of(units, stores)
            target = self.target
            idle = target.fill // max(1, count)  # threads that each unit would keep busy
            if lanes_over_units(units, nest.phases):
                # Columns: rows are read again from memory, by few threads each.
                if nest.row <= 64 and idle <= 64:
                    return units
            elif nest.row <= target.most_threads * target.row_values:
                return units  # rows stay in registers
            elif idle <= target.most_threads * 4:
                return units
        return ranges

    def _apart(
        self, ranges: tuple[Range, ...], stores: Sequence[Store], apart: Sequence[Expr], level: int
    ) -> tuple[int, list[Store]]:
        """Reductions that become scratch buffers, written in earlier levels."""
        chosen: dict[Node, Node] = {}
        made: dict[tuple[Range, ...], list[Store]] = {}
        for node in _outermost(store_roots(stores), frozenset(apart)):
            own = tuple(r for r in ranges if r in free_ranges(node))
            chosen[node] = self._written(own, node, made)
        last = level
        for own, group in made.items():
            group += self._joining(own)
            last = max(last, self.group(*collapse_stores(own, group), level))
        return last, [replace(s, chosen) for s in stores]  # type: ignore[misc]

    def _written(
        self, own: tuple[Range, ...], node: Expr, made: dict[tuple[Range, ...], list[Store]]
    ) -> Load:
        """What reads `node` back from a scratch buffer that a store in `made` fills."""
        extents = [r.extent for r in own]
        buffer = self.result.buffer(node, math.prod(extents))
        index = ravel(own, extents)
        made.setdefault(own, []).append(Store(buffer, own, index, node, None, None))
        return Load(buffer, index, None)

    # --- splits
    def _split(
        self, ranges: tuple[Range, ...], stores: Sequence[Store], found: Sequence[Expr], level: int
    ) -> int | None:
        """Plan reductions with few results and much to add up: blocks share what is added."""
        nodes = [r for r in found if free_ranges(r) <= frozenset(ranges)]
        first = [r for r in nodes if level_of(r, frozenset(nodes)) == 0]
        if not first:
            return None
        parts = [self._parts(ranges, r) for r in first]
        if max(parts) < 2:
            return None
        count = math.prod(r.extent for r in ranges)
        index = ravel(ranges, [r.extent for r in ranges])
        chosen: dict[Node, Node] = {}
        last = level
        for together, wanted in _alike(first, parts):
            found_here, made = self._partials(ranges, together, wanted, count, index, level)
            chosen.update(found_here)
            last = max(last, made)
        if len(first) < len(nodes):
            writes: dict[tuple[Range, ...], list[Store]] = {}
            read: dict[Node, Node] = {
                node: self._written(ranges, total, writes)  # type: ignore[arg-type]
                for node, total in chosen.items()
            }
            for own, group in writes.items():
                self.result.add(last + 1, nest_of(own, group))
            return self.group(ranges, [replace(s, read) for s in stores], last + 2)  # type: ignore[misc]
        final = [replace(s, chosen) for s in stores]
        self.result.add(last + 1, nest_of(ranges, final))  # type: ignore[arg-type]
        return last + 1

    def _parts(self, ranges: tuple[Range, ...], node: Expr) -> int:
        """Into how many parts a reduction should be split; 1 where one launch does."""
        units = math.prod(r.extent for r in ranges)
        points = math.prod(r.extent for r in node.ranges)  # type: ignore[attr-defined]
        if units * points < 2 * _SMALL or not node.ranges:  # type: ignore[attr-defined]
            return 1
        nest = nest_of(
            ranges,
            [
                Store(
                    Param(0, node.dtype, units, True),
                    ranges,
                    ravel(ranges, [r.extent for r in ranges]),
                    node,
                    None,
                    None,
                )
            ],
        )
        target = self.target
        mapping = map_nest(nest, target, 4)
        width = max(mapping.unit_lanes, mapping.row_lanes)
        workers = -(-units // mapping.unit_lanes) * mapping.team
        least = mapping.team * _LEAST_STEPS * (1 if not mapping.rows else width)
        if workers * 4 > target.fill or points < 2 * least:
            return 1
        extent = max(node.ranges, key=lambda r: r.extent).extent  # type: ignore[attr-defined]
        return max(1, min(-(-target.fill // workers), points // least, extent, 1024))

    def _partials(
        self,
        ranges: tuple[Range, ...],
        nodes: Sequence[Expr],
        parts: int,
        count: int,
        index: Expr,
        level: int,
    ) -> tuple[dict[Node, Node], int]:
        """What combines the partial results of reductions over equal ranges, which share one pass
        over memory, and the level that writes them."""
        extents = [r.extent for r in nodes[0].ranges]  # type: ignore[attr-defined]
        arg = isinstance(nodes[0], ArgReduce)
        if arg and extents[0] < 2:
            return {n: n for n in nodes}, level
        first = arg or extents[0] >= parts
        axis = 0 if first else extents.index(max(extents))
        size = _part_size(extents[axis], parts)
        part = Range(f"part{len(self.result.scratch)}", -(-extents[axis] // size))
        units = (part, *ranges)
        position = part * count + index
        stores: list[Store] = []
        limits: dict[Expr, Expr] = {}
        chosen: dict[Node, Node] = {}
        for node in nodes:
            local, each = self._piece(node, axis, size, part)
            buffer = self.result.buffer(each, part.extent * count)
            if extents[axis] % size:
                left = const(extents[axis], int64) - part * size
                rest = math.prod(extents) // extents[axis]
                limits[local] = fn("min", left, const(size, int64)) * rest
            stores.append(Store(buffer, units, position, each, None, None))
            chosen[node] = self._joined(node, part, size, buffer, count, index)
        self.result.add(level, nest_of(units, stores, limits=limits))
        return chosen, level

    def _piece(self, node: Expr, axis: int, size: int, part: Range) -> tuple[Expr, Expr]:
        """The reduction of one part, and the same as it is stored."""
        inner: tuple[Range, ...] = node.ranges  # type: ignore[attr-defined]
        along = inner[axis]
        piece = Range(f"{along.name}_part", size)
        others = tuple(r for r in inner if r is not along)
        body = rename(body_of(node), {along: part * size + piece})
        if isinstance(node, ArgReduce):
            local: Expr = ArgReduce(node.op, (piece, *others), body)  # type: ignore[arg-type]
            small = math.prod(r.extent for r in inner) < 2**31
            return local, cast(local, int32) if small else local
        local = Reduce(node.op, (piece, *others), body)  # type: ignore[attr-defined,arg-type]
        return local, local

    def _joined(
        self, node: Expr, part: Range, size: int, buffer: Param, count: int, index: Expr
    ) -> Expr:
        """What makes the whole reduction of its parts in a buffer."""
        inner: tuple[Range, ...] = node.ranges  # type: ignore[attr-defined]
        position = part * count + index
        if not isinstance(node, ArgReduce):
            return Reduce(node.op, (part,), Load(buffer, position, None))  # type: ignore[attr-defined]
        step = math.prod(r.extent for r in inner[1:])

        def place(at: Expr) -> Expr:
            """The position in the whole of what part `at` found."""
            found = cast(Load(buffer, at * count + index, None), int64)
            return at * (size * step) + found

        where = unravel(place(part), [r.extent for r in inner])
        best = ArgReduce(
            node.op,
            (part,),
            rename(body_of(node), dict(zip(inner, where, strict=True))),  # type: ignore[arg-type]
        )
        return place(best)


def _alike(nodes: Sequence[Expr], parts: Sequence[int]) -> list[tuple[list[Expr], int]]:
    """Reductions over ranges of equal extents together, with the most parts that one wants."""
    found: dict[object, tuple[list[Expr], int]] = {}
    for node, wanted in zip(nodes, parts, strict=True):
        extents = tuple(r.extent for r in node.ranges)  # type: ignore[attr-defined]
        key = node if isinstance(node, ArgReduce) else extents
        before, most = found.get(key, ([], 2))
        found[key] = ([*before, node], max(most, wanted))
    return list(found.values())


def _part_size(extent: int, parts: int) -> int:
    """Points of a part: a divisor of the extent or a multiple of 1024 if there is one near."""
    size = -(-extent // parts)
    for candidate in range(size, min(extent - 1, size + size // 2) + 1):
        if extent % candidate == 0 and (candidate % 8 == 0 or candidate < 64):
            return candidate
    unit = 1024 if size >= 4096 else 8 if size >= 32 else 1
    return -(-size // unit) * unit


def _without_small_contracts(value: Expr) -> Expr:
    """Contractions that tiles do not suit, or that stand inside another, as sums of products."""
    outer = set(_contracts([value]))
    # Inner ones first: `transform` meets operands before what is made from them.
    kept: dict[Node, Node] = {c: c.with_children(_all_as_reductions) for c in outer}
    return transform(value, as_reduction, kept)  # type: ignore[return-value]


def _all_as_reductions(node: Node) -> Node:
    return transform(node, as_reduction)


def _contracts(roots: Sequence[Expr]) -> list[Contract]:
    """Contractions worth tiles that are reached without going through another of them."""
    wanted = frozenset(n for n in walk(roots) if isinstance(n, Contract) and worth_tiles(n))
    return _outermost(roots, wanted)  # type: ignore[arg-type,return-value]


def _outermost(roots: Sequence[Expr], wanted: frozenset[Expr]) -> list[Expr]:
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
