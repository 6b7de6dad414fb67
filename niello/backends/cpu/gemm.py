"""Emission of one contraction: the loops around the register tile.

The SPMD function divides work items (chunks of batch, n, outer and m) among threads; an item goes
through blocks of k, packs what must be packed, and calls the tile function for every tile. Partial
sums between blocks of k stay in scratch; the last block hands finished sums to the contraction's
`finish`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from niello.backends.cpu.gemm_dot import emit_dot, suits_dot
from niello.backends.cpu.gemm_micro import TileWriter
from niello.backends.cpu.gemm_pack import copy_window, pack_a_columns, pack_a_rows, pack_b
from niello.backends.cpu.gemm_plan import Plan, make_plan, turns_back
from niello.backends.cpu.gemm_ready import emit_pack, panel_address, panel_offset, ready_bytes
from niello.backends.cpu.gemm_split import unravel, write_sum
from niello.backends.cpu.gemm_tile import Target, Tile
from niello.backends.cpu.gemm_types import (
    Contraction,
    Direct,
    Emitted,
    Packed,
    Place,
    Ready,
    Window,
)
from niello.backends.cpu.llvm_text import Function, Module, Operand, Value

_LINE = 64  # bytes that no two threads write

__all__ = ["Contraction", "Direct", "Emitted", "Packed", "Place", "Window", "emit_contraction"]


def emit_contraction(
    module: Module, c: Contraction, target: Target, tile: Tile | None = None
) -> Emitted:
    """Write the functions of a contraction; see :class:`Emitted` for how to call them."""
    if tile is None and suits_dot(c):
        return emit_dot(module, c, target)
    plan = make_plan(c, target, tile)
    return _Emitter(module, c, plan, turns_back(c, plan, target)).emit()


@dataclass
class _KBlock:
    """A block of k as the code of an item sees it."""

    start: Operand  # first step of the first k loop
    count: Operand  # steps of it
    first: Value | None  # i1, None when there is only one block
    last: Value | None


@dataclass(frozen=True)
class _Work:
    """One work item: its scratch (A, B, sums) and its parts [first, last) of the loops."""

    space: tuple[Value, Value, Value]
    panels: tuple[Value, Value]
    outers: tuple[Value, Value]
    rows: tuple[Value, Value]
    batch: Value
    split: Value


class _Emitter:
    def __init__(self, module: Module, c: Contraction, plan: Plan, turns_back: bool) -> None:
        self.module, self.c, self.plan = module, c, plan
        self.turns_back = turns_back
        self.backwards: Value | None = None
        self.tiles = TileWriter(module, c, plan)

    # --- the SPMD function

    def emit(self) -> Emitted:
        """Write the SPMD function."""
        c, plan = self.c, self.plan
        f = self.module.function(
            c.name,
            "void",
            [*c.parameters, ("ptr", "scratch"), ("i64", "thread"), ("i64", "threads")],
            internal=c.internal,
            inline=False,
        )
        thread, threads = f.argument("thread"), f.argument("threads")
        own = f.gep("i8", f.argument("scratch"), plan.shared)
        own_bytes = plan.scratch + (_LINE if self.turns_back else 0)
        own = f.gep("i8", own, f.mul(thread, own_bytes))
        if self.turns_back:
            self.backwards = self._other_way(f, f.gep("i8", own, plan.scratch))
        first = f.udiv(f.mul(thread, plan.items), threads)
        last = f.udiv(f.mul(f.add(thread, 1), plan.items), threads)
        place = Place(tuple(f.arguments[: len(c.parameters)]))
        with f.for_range(first, last, vectorize=False, unroll=1) as item:
            self._item(f, place, item, own)
        f.ret()
        stages = [c.name]
        if plan.k_splits > 1:
            stages.append(write_sum(self.module, c, plan))
        made = Emitted(tuple(stages), plan.shared, own_bytes, max(1, plan.items))
        if isinstance(c.b, Ready):
            pack = emit_pack(self.module, c, plan)
            made = replace(made, pack=pack, ready_bytes=ready_bytes(c, plan))
        return made

    @staticmethod
    def _other_way(f: Function, mark: Value) -> Value:
        """Whether to go backwards: the opposite of what this thread did last. The mark lies in
        scratch; where somebody else wrote there, either way is right."""
        was = f.load("i64", mark)
        f.store(f.xor(was, 1), mark)
        return f.icmp("ne", f.and_(was, 1), 0)

    def _item(self, f: Function, place: Place, item: Value, scratch: Value) -> None:
        c, plan = self.c, self.plan
        outer = math.prod(c.outer)
        counts = (
            math.prod(c.batch),
            -(-plan.panels // plan.chunk_panels),
            -(-outer // plan.chunk_outer),
            -(-c.m // plan.chunk_rows),
            plan.k_splits,
        )
        batch, n_chunk, outer_chunk, m_chunk, split = unravel(f, item, counts)
        place = place.at(batch=unravel(f, batch, c.batch))
        p0 = f.mul(n_chunk, plan.chunk_panels)
        p1 = f.smin(f.add(p0, plan.chunk_panels), plan.panels)
        o0 = f.mul(outer_chunk, plan.chunk_outer)
        o1 = f.smin(f.add(o0, plan.chunk_outer), outer)
        m0 = f.mul(m_chunk, plan.chunk_rows)
        m1 = f.smin(f.add(m0, plan.chunk_rows), c.m)
        space = (
            scratch,
            f.gep("i8", scratch, plan.pack_a),
            f.gep("i8", scratch, plan.pack_a + plan.pack_b),
        )
        work = _Work(space, (p0, p1), (o0, o1), (m0, m1), batch, split)
        if not plan.in_blocks:
            self._block(f, place, _KBlock(f.as_value(0), f.as_value(c.k[0]), None, None), work)
            return
        first = f.udiv(f.mul(split, plan.k_blocks), plan.k_splits)
        last = f.udiv(f.mul(f.add(split, 1), plan.k_blocks), plan.k_splits)
        with f.for_range(first, last, vectorize=False, unroll=1) as kb:
            start = f.mul(kb, plan.k_chunk)
            count: Operand = f.as_value(plan.k_chunk)
            if c.k[0] % plan.k_chunk:
                count = f.smin(f.sub(c.k[0], start), plan.k_chunk)
            is_last = f.icmp("eq", kb, f.sub(last, 1))
            self._block(f, place, _KBlock(start, count, f.icmp("eq", kb, first), is_last), work)

    def _block(self, f: Function, place: Place, block: _KBlock, work: _Work) -> None:
        c = self.c
        if not self.plan.by_panel:
            self._pack_b(f, place, block, work.space[1], work.panels)
        elif math.prod(c.outer) * math.prod(c.plane) > 1:
            with f.for_range(*work.panels, vectorize=False, unroll=1) as panel:
                self._points(f, place, block, work, panel)
            return
        if not c.outer:
            self._rows(f, place, block, work, f.as_value(0))
            return
        with f.for_range(*work.outers, vectorize=False, unroll=1) as o:
            self._rows(f, place.at(outer=unravel(f, o, c.outer)), block, work, o)

    def _points(self, f: Function, place: Place, block: _KBlock, work: _Work, panel: Value) -> None:
        """All tiles of one panel, at all points of the loops around the rows."""
        c, planes = self.c, math.prod(self.c.plane)
        first, last = (f.mul(o, planes) for o in work.outers)
        with f.for_range(first, last, vectorize=False, unroll=1) as point:
            outer = unravel(f, f.udiv(point, planes), c.outer)
            plane = unravel(f, f.urem(point, planes), c.plane)
            here = place.at(outer=outer, plane=plane, m=work.rows[0])
            self._panel(f, here, block, work, panel, work.rows, point)

    def _pack_b(
        self, f: Function, place: Place, block: _KBlock, out: Value, panels: tuple[Value, Value]
    ) -> None:
        c, plan = self.c, self.plan
        if isinstance(c.b, Packed):
            pack_b(
                f,
                c,
                c.b,
                place,
                out,
                columns=plan.tile.columns,
                width=plan.tile.width,
                panels=panels,
                k_start=block.start,
                k_count=_plain(block.count),
                k_block=plan.k_block,
            )

    def _rows(self, f: Function, place: Place, block: _KBlock, work: _Work, outer: Value) -> None:
        """Blocks of rows of A: prepare each, then go through planes and tiles."""
        plan, rows = self.plan, work.rows
        if plan.block_rows >= plan.chunk_rows:
            self._row_block(f, place, block, work, rows, outer)
            return
        with f.for_range(rows[0], rows[1], plan.block_rows, vectorize=False, unroll=1) as m:
            end = f.smin(f.add(m, plan.block_rows), rows[1])
            self._row_block(f, place, block, work, (m, end), outer)

    def _row_block(
        self,
        f: Function,
        place: Place,
        block: _KBlock,
        work: _Work,
        rows: tuple[Value, Value],
        outer: Value,
    ) -> None:
        c = self.c
        self._prepare_a(f, place.at(m=rows[0]), block, work.space[0], rows)
        planes = math.prod(c.plane)
        with f.for_range(0, planes, vectorize=False, unroll=1) as p:
            here = place.at(plane=unravel(f, p, c.plane))
            point = f.add(f.mul(outer, planes), p)
            with f.for_range(*work.panels, vectorize=False, unroll=1) as step:
                panel = step
                if self.backwards is not None:
                    mirrored = f.sub(f.sub(f.add(*work.panels), 1), step)
                    panel = f.select(self.backwards, mirrored, step)
                self._panel(f, here, block, work, panel, rows, point)

    def _prepare_a(
        self, f: Function, place: Place, block: _KBlock, out: Value, rows: tuple[Value, Value]
    ) -> None:
        c, plan = self.c, self.plan
        width = plan.tile.width
        if isinstance(c.a, Window):
            copy_window(f, c, c.a, place, out, width=width)
        elif isinstance(c.a, Packed):
            pack = pack_a_rows if c.a.along == "k" else pack_a_columns
            pack(
                f,
                c,
                c.a,
                place,
                out,
                width=width,
                rows=f.sub(rows[1], rows[0]),
                stride=plan.a_stride,
                k_start=block.start,
                k_count=_plain(block.count),
            )

    def _sums(self, f: Function, work: _Work, panel: Value, point: Value, m: Value) -> Value:
        """Where the partial sums of a tile are."""
        c, plan = self.c, self.plan
        if plan.k_splits > 1:
            # In the part that all threads share: a whole result for each split.
            points = math.prod(c.outer) * math.prod(c.plane)
            row = f.add(f.mul(f.add(f.mul(work.batch, points), point), c.m), m)
            spot = f.add(f.mul(row, plan.sums_stride), f.mul(panel, plan.tile.columns))
            spot = f.add(spot, f.mul(work.split, plan.split_elements))
            return f.gep(c.element, f.argument("scratch"), spot)
        point = f.sub(point, f.mul(work.outers[0], math.prod(c.plane)))
        row = f.add(f.mul(point, plan.chunk_rows), f.sub(m, work.rows[0]))
        column = f.mul(f.sub(panel, work.panels[0]), plan.tile.columns)
        return f.gep(c.element, work.space[2], f.add(f.mul(row, plan.sums_stride), column))

    def _panel(
        self,
        f: Function,
        place: Place,
        block: _KBlock,
        work: _Work,
        panel: Value,
        rows: tuple[Value, Value],
        point: Value,
    ) -> None:
        """All tiles of one panel: whole ones in a loop, then the rest of the rows."""
        c, plan = self.c, self.plan
        tile = plan.tile
        place = place.at(n=f.mul(panel, tile.columns))
        prefetching = self.tiles.ahead
        if isinstance(c.b, Ready):
            b = panel_address(f, c, plan, place, panel, block.start)
        elif plan.by_panel:
            b = work.space[1]
            self._pack_b(f, place, block, b, (panel, f.add(panel, 1)))
        elif isinstance(c.b, Packed):
            done = f.sub(panel, work.panels[0])
            b = f.gep(c.element, work.space[1], f.mul(done, plan.k_block * tile.columns))
        else:
            b = c.b.address(f, place)
            b = f.gep(c.b.type, b, f.mul(block.start, c.b.k_steps[0]))

        first_point = f.mul(work.outers[0], math.prod(c.plane))

        def run(m: Value, count: int, fixed: int | None = None) -> None:
            here = place.at(m=m)
            a = self._a_address(f, here, block, work.space[0], rows[0])
            sums = self._sums(f, work, panel, point, m) if plan.in_blocks else a
            pointers = [a, b, sums]
            if prefetching is not None:
                first = prefetching.first(f, f.sub(m, rows[0]), f.sub(point, first_point))
                pointers.append(self._ahead(f, place, block, work, panel, first))
            self._call(f, here, block, self.tiles.function(count, fixed), pointers)

        if c.live:
            for first in range(0, c.m, tile.rows):
                run(f.as_value(first), min(tile.rows, c.m - first), first)
            return
        whole = f.sub(rows[1], f.srem(f.sub(rows[1], rows[0]), tile.rows))
        if c.m % tile.rows == 0 and plan.chunk_rows % tile.rows == 0:
            whole = rows[1]
        if c.m >= tile.rows:
            with f.for_range(rows[0], whole, tile.rows, vectorize=False, unroll=1) as m:
                run(m, tile.rows)
        if c.m % tile.rows:
            with f.if_then(f.icmp("slt", whole, rows[1])):
                run(whole, c.m % tile.rows)

    def _ahead(
        self, f: Function, place: Place, block: _KBlock, work: _Work, panel: Value, first: Value
    ) -> Value:
        """Where a tile begins to prefetch the panel of B that is used after this one, in the next
        block of k perhaps: its address, or its distance from this one.

        After the last panel it may lie outside the operand: it is prefetched only.
        """
        c, plan, prefetching = self.c, self.plan, self.tiles.ahead
        assert prefetching is not None
        wraps = f.icmp("eq", f.add(panel, 1), work.panels[1])
        next_panel = f.select(wraps, work.panels[0], f.add(panel, 1))
        if self.backwards is not None:  # the last panel is the first one of the next time
            before = f.smax(f.sub(panel, 1), work.panels[0])
            behind = f.select(wraps, panel, f.add(panel, 1))
            next_panel = f.select(self.backwards, before, behind)
        k = f.add(block.start, f.select(wraps, f.as_value(plan.k_chunk), f.as_value(0)))
        source = prefetching.source
        if source is None:
            here = panel_offset(f, c, plan, place, panel, block.start)
            there = panel_offset(f, c, plan, place, next_panel, k)
            return f.add(f.mul(f.sub(there, here), plan.size), first)
        address = source.address(f, place.at(n=f.mul(next_panel, plan.tile.columns)))
        address = f.gep(source.type, address, f.mul(k, source.k_steps[0]), inbounds=False)
        return f.gep("i8", address, first, inbounds=False)

    def _a_address(
        self, f: Function, place: Place, block: _KBlock, packed: Value, m_first: Value
    ) -> Value:
        a = self.c.a
        if isinstance(a, Packed):
            return f.gep(self.c.element, packed, f.mul(f.sub(place.m, m_first), self.tiles.a_step))
        if isinstance(a, Window):
            address = f.gep(self.c.element, packed, a.offset(f, place))
            return f.gep(self.c.element, address, f.mul(block.start, a.k_steps[0]))
        return f.gep(a.type, a.address(f, place), f.mul(block.start, a.k_steps[0]))

    @staticmethod
    def _call(
        f: Function, place: Place, block: _KBlock, name: str, pointers: Sequence[Value]
    ) -> None:
        yes = Value("true", "i1", 1)
        arguments = [
            *place.arguments,
            *pointers,
            *place.batch,
            *place.outer,
            *place.plane,
            place.m,
            place.n,
            f.as_value(block.start),
            f.as_value(block.count),
            block.first or yes,
            block.last or yes,
        ]
        f.call(name, "void", arguments, declare=False)


def _plain(count: Operand) -> Operand:
    """A constant count as a Python int, so that loops over it are written without a test."""
    if isinstance(count, Value) and count.const is not None:
        return count.const
    return count
