"""Prefetching the next panel of B from within the tiles of this one.

A panel is packed just before its tiles use it. Its source lies a row of B apart, which hardware
prefetchers do not follow; so the tiles of the panel before ask for it, a few cache lines per trip
of their k loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from niello.backends.cpu.gemm_plan import Plan
from niello.backends.cpu.gemm_tile import Ahead, steps_per_trip
from niello.backends.cpu.gemm_types import Contraction, Direct, Packed
from niello.backends.cpu.llvm_text import Function, Value, byte_size

_LINE = 64  # bytes that a prefetch brings


@dataclass(frozen=True)
class Prefetching:
    """How the lines of a panel are divided among the tiles of a column and trips of their k loop.

    A trip goes through `steps` rows of the panel of `lines` cache lines each. The first tile
    prefetches, in each trip, the first `share` of those steps * lines, the next tile the next.
    """

    source: Direct
    row_bytes: int  # from one row of the source to the next
    steps: int
    lines: int
    share: int
    rows: int  # of a tile

    @staticmethod
    def of(c: Contraction, plan: Plan) -> Prefetching | None:
        """None where panels are not packed one by one, or not from memory in rows."""
        if not plan.by_panel or not isinstance(c.b, Packed) or c.b.source is None:
            return None
        if len(c.k) > 1 or c.live:
            return None
        source, tile = c.b.source, plan.tile
        size = tile.rows * tile.vectors
        # A block of k has no extent known at compile time.
        steps = steps_per_trip(None if plan.in_blocks else c.k[0], size)
        lines = -(-tile.columns * plan.size // _LINE)
        tiles = -(-min(plan.chunk_rows, c.m) // tile.rows)
        turns = steps * lines
        share = next(
            s
            for s in range(1, turns + 1)
            if s * tiles >= turns and turns % s == 0 and (lines % s == 0 or s % lines == 0)
        )
        return Prefetching(
            source, source.k_steps[0] * byte_size(source.type), steps, lines, share, tile.rows
        )

    def start(self, f: Function, panel: Value, m: Value) -> Value:
        """The first line that the tile at row m of its block prefetches."""
        turn = f.urem(f.mul(f.udiv(m, self.rows), self.share), self.steps * self.lines)
        offset = f.add(
            f.mul(f.udiv(turn, self.lines), self.row_bytes),
            f.mul(f.urem(turn, self.lines), _LINE),
        )
        return f.gep("i8", panel, offset, inbounds=False)

    def of_tile(self, start: Value) -> Ahead:
        """What the k loop of a tile prefetches."""
        offsets = [
            turn // self.lines * self.row_bytes + turn % self.lines * _LINE
            for turn in range(self.share)
        ]
        return Ahead(start, offsets, self.steps * self.row_bytes)
