"""Prefetching the next panel of B from within the tiles of this one.

A panel that was packed before any run comes from memory or a far cache when its tiles first use it.
A panel that is packed just before its tiles use it is worse: its source lies a row of B apart,
which hardware prefetchers do not follow. So the tiles that work before ask for it, a few cache
lines per trip of their k loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from niello.backends.cpu.gemm_plan import Plan
from niello.backends.cpu.gemm_tile import Ahead, steps_per_trip
from niello.backends.cpu.gemm_types import Contraction, Direct, Packed, Ready
from niello.backends.cpu.llvm_text import Function, Value, byte_size

_LINE = 64  # bytes that a prefetch brings


@dataclass(frozen=True)
class Prefetching:
    """How the lines of a panel are divided among the tiles of a column and trips of their k loop.

    A trip goes through `steps` rows of the panel of `lines` cache lines each. The first tile
    prefetches, in each trip, the first `share` of those steps * lines, the next tile the next.
    `source` is what the next panel is packed from; None where it lies packed already, as the panel
    in use does: then it is asked for at a distance from what is being read.
    """

    source: Direct | None
    row_bytes: int  # from one row of the source to the next
    steps: int
    lines: int
    share: int
    rows: int  # of a tile
    tiles: int  # of the rows at one point of the loops around them

    @staticmethod
    def of(c: Contraction, plan: Plan, innermost: int | None) -> Prefetching | None:
        """None where it would not help. `innermost` is the extent of a tile's innermost loop over
        k, where that is known."""
        tile = plan.tile
        tiles = -(-min(plan.chunk_rows, c.m) // tile.rows)
        points = plan.chunk_outer * math.prod(c.plane)
        row_bytes = tile.columns * plan.size
        source = None
        if isinstance(c.b, Packed):
            source = c.b.source
            if source is None or not plan.by_panel or len(c.k) > 1 or c.live:
                return None
            row_bytes = source.k_steps[0] * byte_size(source.type)
        elif not isinstance(c.b, Ready) or not plan.by_panel:
            return None  # a block of panels that is used again fills the cache as it is
        elif c.m <= tile.rows and tiles * points == 1:
            return None  # nothing but a stream of memory, which the hardware sees coming
        steps = steps_per_trip(innermost, tile.rows * tile.vectors)
        lines = -(-tile.columns * plan.size // _LINE)
        turns = steps * lines
        share = next(
            s
            for s in range(1, turns + 1)
            if s * tiles * points >= turns and turns % s == 0 and (lines % s == 0 or s % lines == 0)
        )
        return Prefetching(source, row_bytes, steps, lines, share, tile.rows, tiles)

    def first(self, f: Function, m: Value, point: Value) -> Value:
        """Bytes from the beginning of a trip's lines to the first that a tile prefetches: at row m
        of its block, at a point of the loops around the rows."""
        tile = f.add(f.mul(point, self.tiles), f.udiv(m, self.rows))
        turn = f.urem(f.mul(tile, self.share), self.steps * self.lines)
        return f.add(
            f.mul(f.udiv(turn, self.lines), self.row_bytes),
            f.mul(f.urem(turn, self.lines), _LINE),
        )

    def of_tile(self, start: Value) -> Ahead:
        """What the k loop of a tile prefetches, from an address or at a distance."""
        offsets = [
            turn // self.lines * self.row_bytes + turn % self.lines * _LINE
            for turn in range(self.share)
        ]
        step = 0 if self.source is None else self.steps * self.row_bytes
        return Ahead(start, offsets, step)
