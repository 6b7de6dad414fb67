"""Emission of one contraction: the loops around the register tile.

The SPMD function divides work items (chunks of batch, n, outer and m) among threads; an item goes through
blocks of k, packs what must be packed, and calls the tile function for every tile. Partial sums between
blocks of k stay in scratch; the last block hands finished sums to the contraction's `finish`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from niello.backends.cpu.gemm_pack import (
    copy_window,
    pack_a_columns,
    pack_a_rows,
    pack_b,
    transpose,
)
from niello.backends.cpu.gemm_plan import Plan, make_plan
from niello.backends.cpu.gemm_tile import KLoop, Rows, Target, Tile, TileCode, emit_tile
from niello.backends.cpu.gemm_types import (
    Contraction,
    Direct,
    Emitted,
    Packed,
    Place,
    Window,
)
from niello.backends.cpu.llvm_text import Function, Module, Operand, Value, byte_size, vector

__all__ = ["Contraction", "Direct", "Emitted", "Packed", "Place", "Window", "emit_contraction"]


def emit_contraction(
    module: Module, c: Contraction, target: Target, tile: Tile | None = None
) -> Emitted:
    """Write the functions of a contraction into a module; see :class:`Emitted` for how to call them."""
    return _Emitter(module, c, target, make_plan(c, target, tile)).emit()


@dataclass
class _KBlock:
    """A block of k as the code of an item sees it."""

    start: Operand  # first step of the first k loop
    count: Operand  # steps of it
    first: Value | None  # i1, None when there is only one block
    last: Value | None


class _Emitter:
    def __init__(self, module: Module, c: Contraction, target: Target, plan: Plan) -> None:
        self.module, self.c, self.target, self.plan = module, c, target, plan
        self.size = byte_size(c.element)
        self.a_step, self.a_steps, self.a_type = self._a_layout()
        self.b_steps, self.b_type = self._b_layout()
        self.tiles: dict[tuple[object, ...], str] = {}
        self.names = (
            [f"batch{i}" for i in range(len(c.batch))]
            + [f"outer{i}" for i in range(len(c.outer))]
            + [f"plane{i}" for i in range(len(c.plane))]
        )

    # --- layouts of the two sides as a tile sees them

    def _flat_steps(self, unit: int) -> tuple[int, ...]:
        return tuple(unit * math.prod(self.c.k[i + 1 :]) for i in range(len(self.c.k)))

    def _a_layout(self) -> tuple[int, tuple[int, ...], str]:
        a = self.c.a
        if isinstance(a, Packed):
            if a.along == "k":
                return self.plan.a_stride, self._flat_steps(1), self.c.element
            return 1, self._flat_steps(self.plan.a_stride), self.c.element
        kind = a.type if isinstance(a, Direct) else self.c.element
        return a.step, a.k_steps, kind

    def _b_layout(self) -> tuple[tuple[int, ...], str]:
        b = self.c.b
        if isinstance(b, Packed):
            return self._flat_steps(self.plan.tile.columns), self.c.element
        return b.k_steps, b.type

    # --- the tile function

    def tile_function(self, rows: int, m: int | None) -> str:
        """Name of the function that computes a tile of this many rows (written on first use).

        `m` is the first row where it is a constant that matters: where rows are live in parts of k.
        """
        key = (rows, None if m is None else self._live(rows, m))
        if key not in self.tiles:
            self.tiles[key] = f"{self.c.name}_tile{len(self.tiles)}"
            self._write_tile(self.tiles[key], rows, {} if m is None else dict(self._live(rows, m)))
        return self.tiles[key]

    def _live(self, rows: int, m: int) -> tuple[tuple[int, tuple[Rows, ...]], ...]:
        """For each loop over k with live rows: those of a tile from row m on, per step."""
        found = []
        for i, of_step in self.c.live.items():
            spans = [of_step(step) for step in range(self.c.k[i])]
            found.append((i, tuple((max(lo - m, 0), min(hi - m, rows)) for lo, hi in spans)))
        return tuple(found)

    def _write_tile(self, name: str, rows: int, live: dict[int, tuple[Rows, ...]]) -> None:
        c, plan = self.c, self.plan
        parameters = [
            *c.parameters,
            ("ptr", "a"),
            ("ptr", "b"),
            ("ptr", "sums"),
            *[("i64", n) for n in self.names],
            ("i64", "m"),
            ("i64", "n"),
            ("i64", "k_start"),
            ("i64", "k_count"),
            ("i1", "is_first"),
            ("i1", "is_last"),
        ]
        f = self.module.function(name, "void", parameters, internal=True, inline=False)
        get = f.argument
        place = Place(
            tuple(f.arguments[: len(c.parameters)]),
            tuple(get(f"batch{i}") for i in range(len(c.batch))),
            tuple(get(f"outer{i}") for i in range(len(c.outer))),
            tuple(get(f"plane{i}") for i in range(len(c.plane))),
            get("m"),
            get("n"),
        )
        tile = Tile(rows, plan.tile.vectors, plan.tile.width)
        stores = self._column_masks(f, place.n, tile)
        loads = stores if isinstance(c.b, Direct) else [None] * tile.vectors
        a, b, loops = self._k_loops(
            f, place, get("a"), get("b"), get("k_start"), get("k_count"), live
        )
        signed = c.a.signed if isinstance(c.a, Direct) else True
        code = TileCode(
            tile, c.element, self.a_type, self.b_type, self.a_step, loops, signed, loads
        )
        sums = emit_tile(f, code, a, b)
        if plan.k_blocks == 1:
            self._finish_tile(f, place, tile, sums, stores)
        else:
            self._finish_block(f, place, tile, sums, stores)
        f.ret()

    def _column_masks(self, f: Function, n: Value, tile: Tile) -> list[Value | None]:
        whole = self.c.n % tile.columns == 0
        if whole:
            return [None] * tile.vectors
        return [
            f.lane_mask(f.sub(self.c.n, f.add(n, v * tile.width)), tile.width)
            for v in range(tile.vectors)
        ]

    def _k_loops(
        self,
        f: Function,
        place: Place,
        a: Value,
        b: Value,
        k_start: Value,
        k_count: Value,
        live: dict[int, tuple[Rows, ...]],
    ) -> tuple[Value, Value, list[KLoop]]:
        """The k loops with their trims applied, neighbours merged where both sides allow."""
        c = self.c
        loops: list[KLoop] = []
        for i, extent in enumerate(c.k):
            here: Operand = extent
            if i == 0 and self.plan.k_blocks > 1:
                here = k_count
            if i in c.trims:
                low, high = c.trims[i](f, place)
                low, high = f.as_value(low), f.as_value(high)
                if i == 0 and self.plan.k_blocks > 1:
                    low = f.smin(f.smax(f.sub(low, k_start), 0), k_count)
                    high = f.smin(f.sub(high, k_start), k_count)
                here = f.sub(high, low)
                a = f.gep(self.a_type, a, f.mul(low, self.a_steps[i]))
                b = f.gep(self.b_type, b, f.mul(low, self.b_steps[i]))
            loop = KLoop(here, self.a_steps[i], self.b_steps[i], live.get(i))
            if loops and i not in c.trims and self._mergeable(loops[-1], loop):
                outer = loops.pop()
                loop = KLoop(
                    outer.extent * extent
                    if isinstance(outer.extent, int)
                    else f.mul(outer.extent, extent),
                    loop.a_stride,
                    loop.b_stride,
                )
            loops.append(loop)
        return a, b, loops

    @staticmethod
    def _mergeable(outer: KLoop, inner: KLoop) -> bool:
        return (
            isinstance(inner.extent, int)
            and outer.live is None
            and inner.live is None
            and outer.a_stride == inner.extent * inner.a_stride
            and outer.b_stride == inner.extent * inner.b_stride
        )

    def _finish_tile(
        self,
        f: Function,
        place: Place,
        tile: Tile,
        sums: Sequence[Value],
        masks: Sequence[Value | None],
    ) -> None:
        if self.c.finish_along == "m":
            self._finish_crosswise(f, place, tile, sums)
            return
        for r in range(tile.rows):
            for v in range(tile.vectors):
                here = place.at(m=f.add(place.m, r), n=f.add(place.n, v * tile.width))
                self.c.finish(f, here, sums[r * tile.vectors + v], masks[v])

    def _finish_crosswise(
        self, f: Function, place: Place, tile: Tile, sums: Sequence[Value]
    ) -> None:
        """Transpose the tile in registers, so that each vector runs along m."""
        width = tile.width
        whole = self.c.n % tile.columns == 0
        nothing = Value("poison", sums[0].type)
        for first in range(0, tile.rows, width):
            count = min(width, tile.rows - first)
            here = place.at(m=f.add(place.m, first))
            for v in range(tile.vectors):
                square = [sums[(first + r) * tile.vectors + v] for r in range(count)]
                turned = transpose(f, square + [nothing] * (width - count))
                for lane, value in enumerate(turned):
                    n = f.add(place.n, v * width + lane)
                    lanes = f.as_value(count)
                    if not whole:
                        lanes = f.select(f.icmp("slt", n, self.c.n), lanes, 0)
                    mask = None if whole and count == width else f.lane_mask(lanes, width)
                    self.c.finish(f, here.at(n=n), value, mask)

    def _finish_block(
        self,
        f: Function,
        place: Place,
        tile: Tile,
        sums: Sequence[Value],
        masks: Sequence[Value | None],
    ) -> None:
        """Add what earlier blocks left, then store for the next one or finish."""
        kind = vector(self.c.element, tile.width)
        base = f.argument("sums")
        step = self.plan.chunk_panels * tile.columns
        spots = [
            f.gep(self.c.element, base, r * step + v * tile.width)
            for r in range(tile.rows)
            for v in range(tile.vectors)
        ]
        align = self.size * tile.width
        with f.if_else(f.argument("is_first")) as branch:
            with branch.then():
                branch.give(sums)
            with branch.otherwise():
                add = f.fadd if self.c.element in ("float", "double") else f.add
                branch.give(
                    [add(s, f.load(kind, p, align=align)) for s, p in zip(sums, spots, strict=True)]
                )
        with f.if_else(f.argument("is_last")) as ending:
            with ending.then():
                self._finish_tile(f, place, tile, branch.results, masks)
            with ending.otherwise():
                for value, spot in zip(branch.results, spots, strict=True):
                    f.store(value, spot, align=align)

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
        scratch = f.gep("i8", f.argument("scratch"), f.mul(thread, plan.scratch))
        first = f.udiv(f.mul(thread, plan.items), threads)
        last = f.udiv(f.mul(f.add(thread, 1), plan.items), threads)
        place = Place(tuple(f.arguments[: len(c.parameters)]))
        with f.for_range(first, last, vectorize=False, unroll=1) as item:
            self._item(f, place, item, scratch)
        f.ret()
        return Emitted((c.name,), 0, plan.scratch, max(1, plan.items))

    @staticmethod
    def _unravel(f: Function, flat: Value, extents: Sequence[int]) -> tuple[Value, ...]:
        out: list[Value] = []
        for extent in reversed(extents[1:]):
            out.append(f.urem(flat, extent))
            flat = f.udiv(flat, extent)
        return (flat, *reversed(out)) if extents else ()

    def _item(self, f: Function, place: Place, item: Value, scratch: Value) -> None:
        c, plan = self.c, self.plan
        outer = math.prod(c.outer)
        counts = (
            math.prod(c.batch),
            -(-plan.panels // plan.chunk_panels),
            -(-outer // plan.chunk_outer),
            -(-c.m // plan.chunk_rows),
        )
        batch, n_chunk, outer_chunk, m_chunk = self._unravel(f, item, counts)
        place = place.at(batch=self._unravel(f, batch, c.batch))
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
        if plan.k_blocks == 1:
            block = _KBlock(f.as_value(0), f.as_value(c.k[0]), None, None)
            self._block(f, place, block, space, (p0, p1), (o0, o1), (m0, m1))
            return
        with f.for_range(0, plan.k_blocks, vectorize=False, unroll=1) as kb:
            start = f.mul(kb, plan.k_chunk)
            count: Operand = f.as_value(plan.k_chunk)
            if c.k[0] % plan.k_chunk:
                count = f.smin(f.sub(c.k[0], start), plan.k_chunk)
            block = _KBlock(start, count, f.icmp("eq", kb, 0), f.icmp("eq", kb, plan.k_blocks - 1))
            self._block(f, place, block, space, (p0, p1), (o0, o1), (m0, m1))

    def _block(
        self,
        f: Function,
        place: Place,
        block: _KBlock,
        space: tuple[Value, Value, Value],
        panels: tuple[Value, Value],
        outers: tuple[Value, Value],
        rows: tuple[Value, Value],
    ) -> None:
        c, plan = self.c, self.plan
        if isinstance(c.b, Packed):
            pack_b(
                f,
                c,
                c.b,
                place,
                space[1],
                columns=plan.tile.columns,
                width=plan.tile.width,
                panels=panels,
                k_start=block.start,
                k_count=_plain(block.count),
                k_block=plan.k_block,
            )
        if not c.outer:
            self._rows(f, place, block, space, panels, rows, f.as_value(0))
            return
        with f.for_range(*outers, vectorize=False, unroll=1) as o:
            here = place.at(outer=self._unravel(f, o, c.outer))
            self._rows(f, here, block, space, panels, rows, f.sub(o, outers[0]))

    def _rows(
        self,
        f: Function,
        place: Place,
        block: _KBlock,
        space: tuple[Value, Value, Value],
        panels: tuple[Value, Value],
        rows: tuple[Value, Value],
        outer_done: Value,
    ) -> None:
        """Blocks of rows of A: prepare each, then go through planes and tiles."""
        c, plan = self.c, self.plan
        if plan.block_rows >= plan.chunk_rows:
            self._row_block(f, place, block, space, panels, rows, rows[0], outer_done)
            return
        with f.for_range(rows[0], rows[1], plan.block_rows, vectorize=False, unroll=1) as m:
            end = f.smin(f.add(m, plan.block_rows), rows[1])
            self._row_block(f, place, block, space, panels, (m, end), rows[0], outer_done)

    def _row_block(
        self,
        f: Function,
        place: Place,
        block: _KBlock,
        space: tuple[Value, Value, Value],
        panels: tuple[Value, Value],
        rows: tuple[Value, Value],
        m_origin: Value,
        outer_done: Value,
    ) -> None:
        c, plan = self.c, self.plan
        self._prepare_a(f, place.at(m=rows[0]), block, space[0], rows)
        planes = math.prod(c.plane)
        with f.for_range(0, planes, vectorize=False, unroll=1) as p:
            here = place.at(plane=self._unravel(f, p, c.plane))
            point = f.add(f.mul(outer_done, planes), p)
            with f.for_range(*panels, vectorize=False, unroll=1) as panel:
                self._panel(
                    f, here, block, space, panel, f.sub(panel, panels[0]), rows, point, m_origin
                )

    def _prepare_a(
        self, f: Function, place: Place, block: _KBlock, out: Value, rows: tuple[Value, Value]
    ) -> None:
        c, plan = self.c, self.plan
        width = plan.tile.width
        if isinstance(c.a, Window):
            copy_window(f, c, c.a, place, out, width=width)
        elif isinstance(c.a, Packed):
            count = f.sub(rows[1], rows[0])
            if c.a.along == "k":
                pack_a_rows(
                    f,
                    c,
                    c.a,
                    place,
                    out,
                    width=width,
                    rows=count,
                    row_stride=self.a_step,
                    k_start=block.start,
                    k_count=_plain(block.count),
                )
            else:
                pack_a_columns(
                    f,
                    c,
                    c.a,
                    place,
                    out,
                    width=width,
                    rows=count,
                    k_stride=self.plan.a_stride,
                    k_start=block.start,
                    k_count=_plain(block.count),
                )

    def _panel(
        self,
        f: Function,
        place: Place,
        block: _KBlock,
        space: tuple[Value, Value, Value],
        panel: Value,
        panel_done: Value,
        rows: tuple[Value, Value],
        point: Value,
        m_origin: Value,
    ) -> None:
        """All tiles of one panel: whole ones in a loop, then the rest of the rows."""
        c, plan = self.c, self.plan
        tile = plan.tile
        place = place.at(n=f.mul(panel, tile.columns))
        if isinstance(c.b, Packed):
            b = f.gep(c.element, space[1], f.mul(panel_done, plan.k_block * tile.columns))
        else:
            b = c.b.address(f, place)
            b = f.gep(c.b.type, b, f.mul(block.start, c.b.k_steps[0]))

        def run(m: Value, count: int, fixed: int | None = None) -> None:
            here = place.at(m=m)
            a = self._a_address(f, here, block, space[0], rows[0])
            spot = f.add(
                f.mul(
                    f.add(f.mul(point, plan.chunk_rows), f.sub(m, m_origin)),
                    plan.chunk_panels * tile.columns,
                ),
                f.mul(panel_done, tile.columns),
            )
            sums = f.gep(c.element, space[2], spot) if plan.k_blocks > 1 else space[2]
            self._call(f, here, block, (count, fixed), a, b, sums)

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

    def _a_address(
        self, f: Function, place: Place, block: _KBlock, packed: Value, m_first: Value
    ) -> Value:
        a = self.c.a
        if isinstance(a, Packed):
            return f.gep(self.c.element, packed, f.mul(f.sub(place.m, m_first), self.a_step))
        if isinstance(a, Window):
            address = f.gep(self.c.element, packed, a.offset(f, place))
            return f.gep(self.c.element, address, f.mul(block.start, a.k_steps[0]))
        return f.gep(a.type, a.address(f, place), f.mul(block.start, a.k_steps[0]))

    def _call(
        self,
        f: Function,
        place: Place,
        block: _KBlock,
        tile: tuple[int, int | None],
        a: Value,
        b: Value,
        sums: Value,
    ) -> None:
        yes = Value("true", "i1", 1)
        arguments = [
            *place.arguments,
            a,
            b,
            sums,
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
        f.call(self.tile_function(*tile), "void", arguments, declare=False)


def _plain(count: Operand) -> Operand:
    """A constant count as a Python int, so that loops over it are written without a test."""
    if isinstance(count, Value) and count.const is not None:
        return count.const
    return count
