"""The first half of a reduction with few results: each thread adds up its share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from niello.backends.cpu.llvm_text import Value
from niello.backends.cpu.render_loops import Bounds, Rest, nest, share, sweep
from niello.backends.cpu.render_memory import address, to_memory, to_register
from niello.backends.cpu.render_reduce import Accumulator, fitting_width, reduce_together
from niello.backends.cpu.render_types import memory_type
from niello.backends.cpu.vectors import Emitter, Scope
from niello.codegen.access import cost, lane_bytes, narrowest_bytes
from niello.codegen.plan import Split
from niello.kernel.build import ravel
from niello.kernel.ir import Param, Range

_ROWS_AT_ONCE = 4
_REGISTER_VECTORS = 4  # accumulators that stay in registers; more live in the first-level cache
_BLOCK_ROWS = 512  # rows whose sums are kept apart, for precision
_GRAIN = 16384


def render_split(em: Emitter, this: Split, thread: Value, threads: Value) -> int:
    """Write the first half into the emitter's function; returns how many threads can share it."""
    return _Split(em, this).write(thread, threads)


class _Split:
    def __init__(self, em: Emitter, this: Split) -> None:
        self.em, self.this = em, this
        self.group = [
            Accumulator(em, node, body, this.phase.ranges)  # type: ignore[arg-type]
            for node, body in this.phase.reductions
        ]
        self.roots = [a.body for a in self.group]
        self.bytes = narrowest_bytes(self.roots)
        self.lanes = this.lanes
        self.places: dict[Param, Value] = {}  # where results lie, if not in the partials

    def write(self, thread: Value, threads: Value) -> int:
        em, this = self.em, self.this
        along = this.along
        others = math.prod(r.extent for r in (*this.ranges, *this.phase.ranges)) // along.extent
        work = cost(self.roots) * others / 8
        grain = max(1, math.ceil(_GRAIN / max(work, 0.01)))
        lanes = self.lanes
        if lanes is None:
            grain = -(-grain // 64) * 64
        start, stop = share(em, along.extent, grain, thread, threads)
        bounds = {along: (start, stop)}
        scope = Scope()
        em.hoist(self.roots, scope, [*this.ranges, *this.phase.ranges])
        outer = [r for r in this.ranges if r is not lanes]

        def point(scopes: list[Scope], carry: list[Value]) -> list[Value]:
            if lanes is None:
                values = reduce_together(em, self.group, scopes, bounds=bounds)
                self._leave(scopes[0], values[0])
            else:
                self._columns(scopes[0], lanes, bounds)
            return carry

        inner = [*([lanes] if lanes else []), *this.phase.ranges]
        nest(em, outer, [scope], self.roots, [], point, inner=inner)
        return -(-along.extent // grain)

    def _address(self, param: Param, scope: Scope) -> Value:
        ranges = self.this.ranges
        place = self.places.get(param)
        if place is not None:
            assert self.lanes is not None
            return self.em.f.gep(memory_type(param.dtype), place, scope.ranges[self.lanes])
        index = ravel(ranges, [r.extent for r in ranges])
        return address(self.em, param, self.em.scalar(index, scope))

    def _leave(self, scope: Scope, values: Sequence[Value]) -> None:
        """Write this thread's results (or a vector of them) for the point of a scope."""
        for param, value in zip(self.this.partials, values, strict=True):
            pointer = self._address(param, scope)
            data = to_memory(self.em, value, param.dtype)
            size = param.dtype.itemsize
            if scope.mask is None:
                self.em.f.store(data, pointer, align=size)
            else:
                self.em.f.masked_store(data, pointer, scope.mask, align=size)

    def _held(self, scope: Scope) -> list[Value]:
        """What `_leave` wrote."""
        found = []
        for param in self.this.partials:
            pointer = self._address(param, scope)
            size = param.dtype.itemsize
            kind = memory_type(param.dtype)
            if scope.vector is not None:
                kind = f"<{scope.width} x {kind}>"
            if scope.mask is None:
                value = self.em.f.load(kind, pointer, align=size)
            else:
                value = self.em.f.masked_load(kind, pointer, scope.mask, align=size)
            found.append(to_register(self.em, value, param.dtype))
        return found

    def _columns(self, scope: Scope, lanes: Range, bounds: Bounds) -> None:
        em = self.em
        width = fitting_width(em, lanes.extent, lane_bytes(self.roots))
        inner = self.this.phase.ranges[-1]
        vectors = -(-lanes.extent // width)
        if vectors * len(self.group) <= _REGISTER_VECTORS or inner.extent < 4 * _ROWS_AT_ONCE:

            def trip(scopes: list[Scope], carry: list[Value]) -> list[Value]:
                found = reduce_together(em, self.group, scopes, bounds=bounds)
                for here, values in zip(scopes, found, strict=True):
                    self._leave(here, values)
                return carry

            copies = max(1, min(4, _REGISTER_VECTORS // len(self.group), vectors))
            copies = 1 << (copies.bit_length() - 1)
            extent = lanes.extent
            sweep(em, lanes, 0, extent, scope, width, copies, self.bytes, [], trip, Rest.PAIR)
            return
        self._stream(scope, lanes, width, bounds)

    def _stream(self, scope: Scope, lanes: Range, width: int, bounds: Bounds) -> None:
        """Walk whole rows, several at once; the sums lie in the first-level cache."""
        em = self.em

        def clear(scopes: list[Scope], carry: list[Value]) -> list[Value]:
            for here in scopes:
                wide = here.width if here.vector is not None else 1
                self._leave(here, [a.start(wide)[0] for a in self.group])
            return carry

        extent = lanes.extent
        blocks = {p: em.f.alloca(memory_type(p.dtype), lanes.extent) for p in self.this.partials}

        def wipe() -> None:
            sweep(em, lanes, 0, extent, scope, width, 1, self.bytes, [], clear, Rest.PAIR)

        wipe()
        *outer, inner = self.this.phase.ranges
        start, stop = bounds.get(inner, (em.f.as_value(0), em.f.as_value(inner.extent)))

        def rows(scopes: list[Scope], carry: list[Value]) -> list[Value]:
            if inner.extent < 2 * _BLOCK_ROWS:
                self._block(scopes[0], lanes, width, inner, start, stop)
                return carry
            # Sums of blocks of rows are summed, which keeps the error small.
            with em.f.for_range(start, stop, _BLOCK_ROWS) as block:
                self.places = blocks
                wipe()
                end = em.f.smin(em.f.add(block, _BLOCK_ROWS), stop)
                self._block(scopes[0], lanes, width, inner, block, end)
                self._add_block(scope, lanes, width, blocks)
            return carry

        nest(em, outer, [scope], self.roots, [], rows, inner=[lanes, inner], bounds=bounds)

    def _block(
        self, at: Scope, lanes: Range, width: int, inner: Range, start: Value, end: Value
    ) -> None:
        f = self.em.f
        count = f.udiv(f.sub(end, start), _ROWS_AT_ONCE)
        middle = f.add(start, f.mul(count, _ROWS_AT_ONCE))
        with f.for_range(start, middle, _ROWS_AT_ONCE) as row:
            self._add_rows(at, lanes, width, inner, row, _ROWS_AT_ONCE)
        with f.for_range(middle, end) as row:
            self._add_rows(at, lanes, width, inner, row, 1)

    def _add_block(
        self, scope: Scope, lanes: Range, width: int, blocks: dict[Param, Value]
    ) -> None:
        """Merge a block's results, which lie in `blocks`, into this thread's; then forget them."""

        def trip(scopes: list[Scope], carry: list[Value]) -> list[Value]:
            made = []
            for column in scopes:
                self.places = blocks
                block = self._held(column)
                self.places = {}
                triples = zip(self.group, self._held(column), block, strict=True)
                made.append([a.merge([x], [y])[0] for a, x, y in triples])
            for column, found in zip(scopes, made, strict=True):
                self._leave(column, found)
            return carry

        extent = lanes.extent
        sweep(self.em, lanes, 0, extent, scope, width, 1, self.bytes, [], trip, Rest.PAIR)

    def _add_rows(
        self, scope: Scope, lanes: Range, width: int, inner: Range, row: Value, count: int
    ) -> None:
        em = self.em
        at = [Scope(scope, {inner: em.f.add(row, n)}) for n in range(count)]
        for here in at:
            em.hoist(self.roots, here, [lanes])

        def trip(scopes: list[Scope], carry: list[Value]) -> list[Value]:
            made = []
            for column in scopes:
                states = [[v] for v in self._held(column)]
                for here in at:
                    both = Scope(
                        here,
                        {lanes: column.ranges[lanes]},
                        vector=column.vector,
                        width=column.width,
                        mask=column.mask,
                    )
                    states = [a.step(both, s) for a, s in zip(self.group, states, strict=True)]
                made.append([s[0] for s in states])
            for column, found in zip(scopes, made, strict=True):
                self._leave(column, found)
            return carry

        extent = lanes.extent
        sweep(em, lanes, 0, extent, scope, width, 1, self.bytes, [], trip, Rest.PAIR)
