"""Nests: threads share the points, lanes run over one range, phases run at each point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from niello.backends.cpu.llvm_text import Value, constant
from niello.backends.cpu.render_ahead import rows_ahead
from niello.backends.cpu.render_interleave import Interleaved, strands_of
from niello.backends.cpu.render_loops import Rest, nest, share, sweep, unravel, worth_unrolling
from niello.backends.cpu.render_memory import address, store
from niello.backends.cpu.render_reduce import (
    Accumulator,
    fitting_width,
    reduce_together,
)
from niello.backends.cpu.render_scatter import render_combine
from niello.backends.cpu.render_tile import Tiles, square_of
from niello.backends.cpu.render_types import vector_bytes
from niello.backends.cpu.vectors import Emitter, Scope
from niello.codegen.access import (
    cost,
    lane_bytes,
    lane_cost,
    loads,
    narrowest_bytes,
    store_roots,
)
from niello.codegen.collapse import rename
from niello.codegen.plan import Nest
from niello.codegen.rows import Phase
from niello.core.dtypes import int64
from niello.kernel.bounds import affine
from niello.kernel.ir import Expr, Range, Store, const, free_ranges

GRAIN = 8192  # instructions' worth of work below which another thread is not worth waking
_BLOCK = 4096  # elements of a long row that make one unit of work where there are few rows
_ENOUGH_UNITS = 64
_KEPT_BYTES = 24 << 10  # of what all rows use, that a first-level cache surely keeps
_AROUND_CACHES = 32 << 20  # bytes of results that would push everything else out of the caches
_STREAMED_ROW = 256  # elements: rows of a multiple of these are whole vectors and long


@dataclass(frozen=True)
class _Pieces:
    """How many pieces of `size` elements the lanes' range is cut into, and whether all rows go
    through one piece before the next."""

    count: int
    size: int
    outermost: bool = False


@dataclass(frozen=True)
class _Lanes:
    """The range over the lanes (None: phases choose their own), their number, vectors at once."""

    range: Range | None
    width: int
    copies: int


def render_nest(em: Emitter, this: Nest, thread: Value, threads: Value) -> int:
    """Write a nest into the emitter's function; returns how many threads can share it."""
    if any(s.combine is not None for s in this.stores):
        return render_combine(em, this.ranges, this.stores, thread, threads)
    writer = _Nest(em, this)
    if len(this.phases) == 1 and not this.phases[0].ranges:
        strands = strands_of(em, this.ranges, this.stores)
        if strands is not None:
            interleaved = Interleaved(em, this.ranges, this.stores, strands)
            width = fitting_width(em, strands.short.extent, lane_bytes(writer.roots))
            writer.lanes = _Lanes(strands.short, width, 1)
            return interleaved.write(thread, threads, _grain, writer.vectors)
        square = square_of(em, this.ranges, this.stores)
        if square is not None:
            tiles = Tiles(em, this.ranges, this.stores, square)
            writer.lanes = _Lanes(square.lanes, square.side, 1)
            return tiles.write(thread, threads, _grain, writer.vectors)
    return writer.write(thread, threads)


class _Nest:
    def __init__(self, em: Emitter, this: Nest) -> None:
        self.em, self.this = em, this
        self.roots = [root for p in this.phases for root in p.roots]
        self.lanes = _choose(em, this)
        self.around_caches = False  # whether the last phase of a row stores around the caches
        self.work = 2.0 + sum(
            (cost(p.roots) + 1) * math.prod(r.extent for r in p.ranges) for p in this.phases
        )

    def write(self, thread: Value, threads: Value) -> int:
        em, lanes = self.em, self.lanes
        em.expect((node for p in self.this.phases for node, _ in p.reductions), self.roots)
        scope = Scope()
        em.hoist(self.roots, scope, this_ranges(self.this))
        outer = [r for r in self.this.ranges if r is not lanes.range]
        if lanes.range is not None and not outer:
            grain = -(-_grain(self.work / lanes.width) // 64) * 64
            first, end = share(em, lanes.range.extent, grain, thread, threads)
            if self._streams(lanes):
                self._around_caches(scope, first, end)
            else:
                self.vectors(scope, first, end)
            return -(-lanes.range.extent // grain)
        shared = _shared_prefix(outer)
        pieces = self._pieces(shared)
        units = math.prod(r.extent for r in shared) * pieces.count
        points = math.prod(r.extent for r in self.this.ranges)
        grain = _grain(self.work / lanes.width * points / max(1, units))
        first, end = share(em, units, grain, thread, threads)
        self.around_caches = lanes.range is None and _rows_stream(em, self.this)
        with em.f.for_range(first, end) as unit:
            self._unit(scope, unit, shared, outer[len(shared) :], pieces)
        if self.around_caches:
            _fence(em)
        return -(-units // grain)

    def _unit(
        self,
        scope: Scope,
        unit: Value,
        shared: Sequence[Range],
        inner: Sequence[Range],
        pieces: _Pieces,
    ) -> None:
        em, lanes = self.em, self.lanes.range
        piece: Value | None = None
        if pieces.outermost:
            points = math.prod(r.extent for r in shared)
            piece, unit = em.f.udiv(unit, points), em.f.urem(unit, points)
        elif pieces.count > 1:
            piece, unit = em.f.urem(unit, pieces.count), em.f.udiv(unit, pieces.count)
        here = Scope(scope, unravel(em, unit, shared))
        below = [r for r in this_ranges(self.this) if r not in shared and r not in inner]

        def row(scopes: list[Scope], carry: list[Value]) -> list[Value]:
            at = scopes[0]
            em.hoist(self.roots, at, below)
            if lanes is None:
                self._phases([at])
            elif piece is None:
                self.vectors(at, 0, lanes.extent)
            else:
                start = em.f.mul(piece, pieces.size)
                self.vectors(at, start, em.f.smin(em.f.add(start, pieces.size), lanes.extent))
            return carry

        nest(em, inner, [here], self.roots, [], row, inner=below)

    def _pieces(self, shared: Sequence[Range]) -> _Pieces:
        """Pieces of each row: where there are too few rows to share, or where what all rows use,
        as the weights of channels, would leave the cache before the next row."""
        lanes = self.lanes.range
        if lanes is None:
            return _Pieces(1, 0)
        rows = math.prod(r.extent for r in shared)
        used = [x for x in loads(self.roots) if lanes in free_ranges(x.index)]
        again = [x for x in used if free_ranges(x.index).isdisjoint(self.this.ranges[:-1])]
        kept = sum(x.dtype.itemsize for x in again) * lanes.extent
        if rows > 1 and lanes is self.this.ranges[-1] and kept > _KEPT_BYTES:
            size = max(64, _KEPT_BYTES // 2 * lanes.extent // kept // 64 * 64)
            return _Pieces(-(-lanes.extent // size), size, True)
        if rows >= _ENOUGH_UNITS or lanes.extent < 2 * _BLOCK:
            return _Pieces(1, 0)
        return _Pieces(-(-lanes.extent // _BLOCK), _BLOCK)

    def _streams(self, lanes: _Lanes) -> bool:
        """Whether the results are contiguous and too large to be found in a cache later."""
        assert lanes.range is not None
        sizes = [lanes.range.extent * s.param.dtype.itemsize for s in self.this.stores]
        return (
            self.em.target.architecture == "x86_64"
            and sum(sizes) >= _AROUND_CACHES
            and all(
                s.gate is None and affine(s.index).stride(lanes.range) == 1
                for s in self.this.stores
            )
        )

    def _around_caches(self, scope: Scope, first: Value, end: Value) -> None:
        """Store without reading what is overwritten; needs whole, aligned vectors."""
        stores, sweep = self.this.stores, lambda: self.vectors(scope, first, end)
        # Lanes start at multiples of 64 elements: the alignment is that of the first element.
        _unless_misaligned(self.em, stores, self.lanes.range, scope, sweep)
        _fence(self.em)

    def vectors(self, scope: Scope, start: Value | int, stop: Value | int) -> None:
        """Sweep the lanes' range and run the phases on every vector."""
        lanes = self.lanes
        assert lanes.range is not None

        def trip(scopes: list[Scope], carry: list[Value]) -> list[Value]:
            self._phases(scopes)
            return carry

        bytes = min(narrowest_bytes(self.roots, self.this.stores), 4)
        # Vectors side by side would keep their rows in one place.
        keeps = any(s.param in self.em.row_params for s in self.this.stores)
        copies, rest = (1, Rest.MASK) if keeps else (lanes.copies, Rest.PAIR)
        sweep(self.em, lanes.range, start, stop, scope, lanes.width, copies, bytes, [], trip, rest)

    def _phases(self, scopes: Sequence[Scope]) -> None:
        around = self.around_caches
        ahead = None
        if self.lanes.range is None:
            ahead = rows_ahead(self.em, self.this, writes=not around)
        for phase in self.this.phases:
            self.em.ahead = ahead[1] if ahead is not None and ahead[0] is phase else None
            for scope in scopes:
                # What a phase needs of earlier ones is written once, outside of its loops.
                if phase.ranges:
                    self.em.hoist(phase.roots, scope, phase.ranges)
            run_phase(self.em, phase, scopes, around and phase is self.this.phases[-1])


def _rows_stream(em: Emitter, this: Nest) -> bool:
    """Whether rows are written last, whole vectors at a time, and are too many to stay cached."""
    last = this.phases[-1]
    stores = [s for s in this.stores if s.param not in em.row_params]
    if em.target.architecture != "x86_64" or len(last.ranges) != 1 or last.reductions:
        return False
    row = last.ranges[0]
    points = math.prod(r.extent for r in this.ranges) * row.extent
    return (
        row.extent % _STREAMED_ROW == 0
        and stores == list(last.stores)
        and points * sum(s.param.dtype.itemsize for s in stores) >= _AROUND_CACHES
        and all(s.gate is None and affine(s.index).stride(row) == 1 for s in stores)
    )


def _unless_misaligned(
    em: Emitter,
    stores: Sequence[Store],
    lanes: Range | None,
    scope: Scope,
    write: Callable[[], object],
) -> None:
    """Write around the caches, without reading what is overwritten, which wants whole, aligned
    vectors; through the caches where the first element is not aligned."""
    f = em.f
    misaligned: Value = constant(0)
    for s in stores:
        pointer = address(em, s.param, em.value(_first(s, lanes), scope))
        number = f.emit("i64", f"ptrtoint {pointer} to i64")
        misaligned = f.or_(misaligned, f.and_(number, vector_bytes(em.target) - 1))
    with f.if_else(f.icmp("eq", misaligned, 0)) as branches:
        with branches.then():
            em.nontemporal = True
            write()
            em.nontemporal = False
        with branches.otherwise():
            write()


def _fence(em: Emitter) -> None:
    """What was stored around the caches is in memory before another thread is told."""
    em.f.module.declare("llvm.x86.sse.sfence", "void", [])
    em.f.line("call void @llvm.x86.sse.sfence()")


def _first(store: Store, lanes: Range | None) -> Expr:
    """Index of the first element that a store over one range writes."""
    assert lanes is not None
    return rename(store.index, {lanes: const(0, int64)})  # type: ignore[return-value]


def this_ranges(this: Nest) -> list[Range]:
    """All ranges that a nest loops over."""
    found = list(this.ranges)
    for phase in this.phases:
        found += [r for r in phase.ranges if r not in found]
    return found


def run_phase(em: Emitter, phase: Phase, scopes: Sequence[Scope], around: bool = False) -> None:
    """One phase at the scopes' points: its reductions get values there, its stores are written."""
    if phase.reductions:
        group = [Accumulator(em, node, body, phase.ranges) for node, body in phase.reductions]  # type: ignore[arg-type]
        keep = None
        if phase.stores:
            keep = lambda here: write(em, phase.stores, here)  # noqa: E731
        found = reduce_together(em, group, scopes, also=store_roots(phase.stores), write=keep)
        for scope, values in zip(scopes, found, strict=True):
            scope.values.update(
                (node, value) for (node, _), value in zip(phase.reductions, values, strict=True)
            )
    elif not phase.ranges:
        write(em, phase.stores, scopes)
    elif scopes[0].vector is not None:
        _loop_around_lanes(em, phase, scopes)
    else:
        for scope in scopes:
            _own_lanes(em, phase, scope, around)


def _loop_around_lanes(em: Emitter, phase: Phase, scopes: Sequence[Scope]) -> None:
    def body(here: list[Scope], carry: list[Value]) -> list[Value]:
        write(em, phase.stores, here)
        return carry

    unroll = worth_unrolling(phase.ranges, cost(phase.roots) * len(scopes))
    nest(em, phase.ranges, scopes, phase.roots, [], body, unroll=unroll)


def _own_lanes(em: Emitter, phase: Phase, scope: Scope, around: bool) -> None:
    """Stores over the ranges of a phase, in lanes over the best of them."""
    lanes = _best(em, phase.ranges, phase.roots, phase.stores)
    if lanes.range is None:
        _loop_around_lanes(em, phase, [scope])
        return
    own = lanes.range
    outer = [r for r in phase.ranges if r is not own]
    bytes = min(narrowest_bytes(phase.roots, phase.stores), 4)

    def trip(scopes: list[Scope], carry: list[Value]) -> list[Value]:
        write(em, phase.stores, scopes)
        return carry

    def row(scopes: list[Scope], carry: list[Value]) -> list[Value]:
        at = scopes[0]
        em.hoist(phase.roots, at, [own])
        width, copies = lanes.width, lanes.copies

        def whole() -> list[Value]:
            return sweep(em, own, 0, own.extent, at, width, copies, bytes, [], trip, Rest.PAIR)

        if not around:
            return whole()
        _unless_misaligned(em, phase.stores, own, at, whole)
        return []

    nest(em, outer, [scope], phase.roots, [], row, inner=[own])


def write(em: Emitter, stores: Sequence[Store], scopes: Sequence[Scope]) -> None:
    """Evaluate all stores at all scopes, then write: a store may overwrite what it reads."""
    made = [[em.value(s.value, here) for s in stores] for here in scopes]
    for here, values in zip(scopes, made, strict=True):
        for s, value in zip(stores, values, strict=True):
            store(em, s, value, here)


# --- choices --------------------------------------------------------------------------------------


def _choose(em: Emitter, this: Nest) -> _Lanes:
    """Lanes over a range of the nest, or none where lanes inside of each phase are better."""
    best = _best(em, this.ranges, *_everything(em, this))
    looping = [p for p in this.phases if p.ranges]
    if best.range is None or not looping:
        return best
    around = inside = 0.0
    for p in looping:
        stores = [s for s in p.stores if s.param not in em.row_params]
        width = vector_bytes(em.target) // lane_bytes(p.roots)
        around += lane_cost(best.range, p.roots, stores, width)
        inside += min(lane_cost(r, p.roots, stores, width) for r in p.ranges)
    if inside <= around:
        return _Lanes(None, 1, 1)
    weight = sum(cost(p.roots) for p in this.phases)
    copies = 4 if weight <= 12 else 2 if weight <= 24 else 1
    while copies > 1 and copies * best.width > best.range.extent:
        copies //= 2
    return _Lanes(best.range, best.width, copies)


def _everything(em: Emitter, this: Nest) -> tuple[list[Expr], list[Store]]:
    roots = [root for p in this.phases for root in p.roots]
    stores = [s for p in this.phases for s in p.stores if s.param not in em.row_params]
    return roots, stores


def _best(
    em: Emitter, ranges: Sequence[Range], roots: Sequence[Expr], stores: Sequence[Store]
) -> _Lanes:
    """The cheapest range to run over lanes; None when all lanes would store to one place."""
    widest = lane_bytes([s.value for s in stores] or roots)
    width = vector_bytes(em.target) // widest
    best: tuple[float, Range] | None = None
    for r in ranges:
        if r.extent < 2:
            continue
        price = lane_cost(r, roots, stores, width)
        if best is None or price <= best[0]:
            best = (price, r)
    if best is None or best[0] >= 1e6:
        return _Lanes(None, 1, 1)
    width = fitting_width(em, best[1].extent, widest)
    weight = cost(roots)
    copies = 4 if weight <= 6 else 2 if weight <= 16 else 1
    return _Lanes(best[1], width, copies)


def _grain(work: float) -> int:
    """Units that make enough work for a thread."""
    return max(1, math.ceil(GRAIN / max(work, 0.01)))


def _shared_prefix(outer: Sequence[Range]) -> list[Range]:
    """The outermost ranges whose points are the units that threads share."""
    shared: list[Range] = []
    for r in outer:
        if shared and math.prod(s.extent for s in shared) >= _ENOUGH_UNITS:
            break
        shared.append(r)
    return shared


__all__ = ["render_nest", "run_phase", "write"]
