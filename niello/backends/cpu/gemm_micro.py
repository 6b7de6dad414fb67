"""The function that computes one tile: its k loops, its share of partial sums, its finish."""

from __future__ import annotations

import math
from collections.abc import Sequence

from niello.backends.cpu.gemm_ahead import Prefetching
from niello.backends.cpu.gemm_pack import transpose
from niello.backends.cpu.gemm_plan import Plan
from niello.backends.cpu.gemm_tile import KLoop, Rows, Tile, TileCode, emit_tile
from niello.backends.cpu.gemm_types import Contraction, Direct, Packed, Place, Ready
from niello.backends.cpu.llvm_text import Function, Module, Operand, Value, byte_size, vector


class TileWriter:
    """Writes the tile functions of a contraction, one for each number of rows that occurs."""

    def __init__(self, module: Module, c: Contraction, plan: Plan) -> None:
        self.module, self.c, self.plan = module, c, plan
        self.size = byte_size(c.element)
        self.a_step, self.a_steps, self.a_type = self._a_layout()
        self.b_steps, self.b_type = self._b_layout()
        self.tiles: dict[tuple[object, ...], str] = {}
        self.ahead = Prefetching.of(c, plan, self._innermost())
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
        if isinstance(b, (Packed, Ready)):
            return self._flat_steps(self.plan.tile.columns), self.c.element
        return b.k_steps, b.type

    def _innermost(self) -> int | None:
        """Extent of a tile's innermost loop over k; None where it is not known."""
        c = self.c
        inner = KLoop(c.k[-1], self.a_steps[-1], self.b_steps[-1])
        for i in range(len(c.k) - 1, 0, -1):
            outer = KLoop(c.k[i - 1], self.a_steps[i - 1], self.b_steps[i - 1])
            if i in c.trims or i in c.live or i - 1 in c.live or not self._mergeable(outer, inner):
                return inner.extent if isinstance(inner.extent, int) else None
            inner = KLoop(c.k[i - 1] * inner.extent, inner.a_stride, inner.b_stride)  # type: ignore[operator]
        return None if self.plan.in_blocks or 0 in c.trims else math.prod(c.k)

    def _ahead_parameter(self) -> list[tuple[str, str]]:
        if self.ahead is None:
            return []
        return [("i64" if self.ahead.source is None else "ptr", "ahead")]

    # --- the tile function

    def function(self, rows: int, m: int | None) -> str:
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
            *self._ahead_parameter(),
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
            tile, c.element, self.a_type, self.b_type, self.a_step, loops, signed, loads, c.pairs
        )
        if self.ahead is not None:
            code.ahead = self.ahead.of_tile(get("ahead"))
        sums = emit_tile(f, code, a, b)
        if not plan.in_blocks:
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
            if i == 0 and self.plan.in_blocks:
                here = k_count
            if i in c.trims:
                low, high = c.trims[i](f, place)
                low, high = f.as_value(low), f.as_value(high)
                if i == 0 and self.plan.in_blocks:
                    low = f.smin(f.smax(f.sub(low, k_start), 0), k_count)
                    high = f.smin(f.sub(high, k_start), k_count)
                here = f.smax(f.sub(high, low), 0)
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
        if self.plan.finish_along == "m":
            self._finish_crosswise(f, place, tile, sums)
            return
        for r in range(tile.rows):
            for v in range(tile.vectors):
                here = place.at(m=f.add(place.m, r), n=f.add(place.n, v * tile.width))
                self.c.finish(f, here, sums[r * tile.vectors + v], masks[v], "n")

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
                    self.c.finish(f, here.at(n=n), value, mask, "m")

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
        step = self.plan.sums_stride
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
        if self.plan.k_splits > 1:
            for value, spot in zip(branch.results, spots, strict=True):
                f.store(value, spot, align=align)
            return
        with f.if_else(f.argument("is_last")) as ending:
            with ending.then():
                self._finish_tile(f, place, tile, branch.results, masks)
            with ending.otherwise():
                for value, spot in zip(branch.results, spots, strict=True):
                    f.store(value, spot, align=align)
