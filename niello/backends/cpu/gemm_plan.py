"""How a contraction is cut up: cache blocks, chunks of work for threads, scratch layout."""

from __future__ import annotations

import math
from dataclasses import dataclass

from niello.backends.cpu.gemm_tile import Target, Tile, choose_tile
from niello.backends.cpu.gemm_types import Contraction, Direct, Packed, Ready, Window
from niello.backends.cpu.llvm_text import byte_size


@dataclass(frozen=True)
class Plan:
    """Sizes fixed at compile time. Units: `panels` are tile columns, `rows` are rows of m."""

    tile: Tile
    k_chunk: int  # steps of the first k loop per block
    k_blocks: int
    k_splits: int  # parts of k that different items sum; 1: k is not split
    rows: int  # of the whole result
    size: int  # bytes of an element
    panels: int  # of the whole n
    chunk_panels: int  # panels per work item
    chunk_rows: int  # rows per work item, a multiple of tile.rows (or m)
    chunk_outer: int  # outer points per work item
    block_rows: int  # rows of A packed at once
    items: int
    k_inner: int  # product of the other k loops
    a_stride: int  # packed A: elements between rows (along k) or between k rows (along m)
    pack_a: int  # bytes of scratch
    pack_b: int
    partial: int
    finish_along: str
    by_panel: bool  # all tiles of a panel of B run in a row; it is packed just before them

    @property
    def in_blocks(self) -> bool:
        """Whether a tile sees only part of k at a time."""
        return self.k_blocks > 1

    @property
    def sums_stride(self) -> int:
        """Elements between rows of partial sums."""
        panels = self.panels if self.k_splits > 1 else self.chunk_panels
        return panels * self.tile.columns

    @property
    def split_elements(self) -> int:
        """Elements of the partial result of one split."""
        return self.rows * self.sums_stride

    @property
    def shared(self) -> int:
        """Bytes of scratch that all threads share."""
        return _round_up(self.k_splits * self.split_elements * self.size, 64) * (self.k_splits > 1)

    @property
    def k_block(self) -> int:
        """k steps in a block."""
        return self.k_chunk * self.k_inner

    @property
    def scratch(self) -> int:
        """Bytes of scratch per thread."""
        return self.pack_a + self.pack_b + self.partial


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _even_chunk(total: int, limit: int, unit: int = 1) -> int:
    """A chunk of at most `limit` (a multiple of `unit`) that divides the total evenly."""
    limit = max(unit, limit // unit * unit)
    count = -(-total // limit)
    return min(_round_up(-(-total // count), unit), _round_up(total, unit))


def make_plan(c: Contraction, target: Target, tile: Tile | None = None) -> Plan:
    """Cut the contraction for a CPU."""
    alone = math.prod((*c.batch, *c.outer, *c.plane)) == 1 and c.m <= 2  # columns are divided
    threads = c.parallel if alone else 1
    tile = tile or choose_tile(c.m, c.n, target, c.element, threads=threads)
    size = byte_size(c.element)
    panels = -(-c.n // tile.columns)
    k_inner = math.prod(c.k[1:])
    k_chunk = _choose_k_chunk(c, tile, target, k_inner)
    outer = math.prod(c.outer)
    rows = math.prod(c.batch) * outer * math.prod(c.plane) * c.m
    k_splits = _choose_splits(c, tile, panels, rows, size)
    if k_splits > 1:
        k_chunk = min(k_chunk, -(-c.k[0] // k_splits))
        chunk_outer, chunk_panels, chunk_rows = outer, panels, c.m
    else:
        chunk_outer, chunk_panels, chunk_rows = _divide(c, tile, panels, outer)
    k_blocks = -(-c.k[0] // k_chunk)
    k_splits = min(k_splits, k_blocks)
    k_block = k_chunk * k_inner
    if not isinstance(c.b, Direct) and not _panels_first(c):
        budget = max(1, (target.l2_bytes * 5 // 8) // max(1, k_block * tile.columns * size))
        chunk_panels = _even_chunk(chunk_panels, min(chunk_panels, budget))
    partial = 0
    if k_blocks > 1 and k_splits == 1:
        row = chunk_panels * tile.columns * size
        chunk_outer, chunk_rows = _limit_rows(c, tile, chunk_outer, chunk_rows, _SUM_BYTES // row)
        partial = chunk_outer * math.prod(c.plane) * _round_up(chunk_rows, tile.rows) * row
    block_rows, a_stride, pack_a = _packed_a(c, tile, target, chunk_rows, k_block)
    by_panel = _panels_first(c) and block_rows >= chunk_rows
    if isinstance(c.b, Packed):
        by_panel = _used_once(c) and block_rows >= chunk_rows
    packed_panels = 0 if not isinstance(c.b, Packed) else 1 if by_panel else chunk_panels
    pack_b = packed_panels * tile.columns * k_block * size
    items = (
        k_splits
        * math.prod(c.batch)
        * -(-panels // chunk_panels)
        * -(-outer // chunk_outer)
        * -(-c.m // chunk_rows)
    )
    return Plan(
        tile,
        k_chunk,
        k_blocks,
        k_splits,
        rows,
        size,
        panels,
        chunk_panels,
        chunk_rows,
        chunk_outer,
        block_rows,
        items,
        k_inner,
        a_stride,
        _round_up(pack_a, 64),
        _round_up(pack_b, 64),
        _round_up(partial, 64),
        c.finish_along if k_splits == 1 else "n",
        by_panel,
    )


def turns_back(c: Contraction, plan: Plan, target: Target) -> bool:
    """Whether panels are gone through once, and are more than the second-level cache holds: then a
    thread that begins with those it used last finds them there."""
    if not isinstance(c.b, Ready) or not plan.by_panel or c.live or plan.in_blocks:
        return False
    once = math.prod((*c.batch, *c.outer, *c.plane)) == 1 and c.m <= plan.chunk_rows
    share = plan.chunk_panels * plan.tile.columns * math.prod(c.k) * plan.size
    return once and target.l2_bytes // 2 < share < 16 * target.l2_bytes


def _panels_first(c: Contraction) -> bool:
    """Whether all tiles of a panel may run in a row: it lies ready, and A needs no preparation that
    serves several panels, or serves them all at once."""
    return isinstance(c.b, Ready) and (_used_once(c) or isinstance(c.a, Direct))


def _used_once(c: Contraction) -> bool:
    """Whether one pass over rows of A is all that B serves."""
    return math.prod(c.outer) == 1 and math.prod(c.plane) == 1


def _limit_rows(c: Contraction, tile: Tile, outer: int, rows: int, most: int) -> tuple[int, int]:
    """Chunks of outer points and rows with at most `most` rows of partial sums, if they can."""
    planes = math.prod(c.plane)
    if outer * planes * rows > most:
        outer = _even_chunk(outer, max(1, most // (planes * rows)))
    if outer * planes * rows > most and not c.live:
        rows = _even_chunk(rows, max(tile.rows, most // planes), tile.rows)
    return outer, rows


def _packed_a(
    c: Contraction, tile: Tile, target: Target, chunk_rows: int, k_block: int
) -> tuple[int, int, int]:
    """Rows of A prepared at a time, their stride in elements, and the bytes that takes."""
    size = byte_size(c.element)
    if isinstance(c.a, Window):
        return chunk_rows, 0, c.a.elements_needed * size + 64
    if isinstance(c.a, Direct):
        return chunk_rows, 0, 0
    budget = max(tile.rows, (target.l2_bytes // 4) // max(1, k_block * size))
    rows = _even_chunk(chunk_rows, min(chunk_rows, budget), tile.rows)
    # One line more than a multiple of 64 bytes, against conflicts in a cache set.
    line = 64 // size
    stride = _round_up(k_block if c.a.along == "k" else rows, line) + line
    return rows, stride, stride * (rows if c.a.along == "k" else k_block) * size


def _choose_k_chunk(c: Contraction, tile: Tile, target: Target, k_inner: int) -> int:
    """Block k so that a panel of B stays in the first-level cache, unless all of k nearly fits."""
    size = byte_size(c.element)
    depth = max(64, int(target.l1_bytes * 0.75) // (tile.columns * size))
    total = c.k[0] * k_inner
    if isinstance(c.b, Ready) and c.m * math.prod(c.outer) * math.prod(c.plane) <= tile.rows:
        # Panels are read once, in sequence: blocks are for the accuracy of long sums.
        return _even_chunk(c.k[0], max(1, _LONGEST_SUM // k_inner))
    if isinstance(c.b, Direct) and c.m * math.prod(c.outer) <= 2 and len(c.k) == 1:
        # B is read once: a few whole rows at a time, which the hardware sees coming.
        return (
            _even_chunk(c.k[0], _STREAMED_ROWS) if c.b.k_steps[0] * size >= 2048 else max(1, c.k[0])
        )
    # Where A is a small window, only B is big: it may come from the second-level cache.
    limit = depth * (2 if isinstance(c.a, Packed) or not c.outer else 8)
    if total <= limit or isinstance(c.b, Direct):
        return max(1, c.k[0])
    if k_inner >= depth:
        return 1
    return _even_chunk(c.k[0], depth // k_inner, 4 if k_inner == 1 else 1)


_LONGEST_SUM = 512  # terms that are added up one after the other
_STREAMED_ROWS = 32  # rows of B read in place at a time, when each is used once
_SUM_BYTES = 8 << 20  # most that partial sums of a thread should take
_SPLIT_BYTES = 8 << 20  # most that partial results of a split k may take


def _choose_splits(c: Contraction, tile: Tile, panels: int, rows: int, size: int) -> int:
    """Parts to cut k into: as many as threads, where the tiles do not divide among them evenly."""
    threads = c.parallel
    tiles = rows // max(1, c.m) * -(-c.m // tile.rows) * panels
    idle = -(-tiles // threads) * threads / max(1, tiles)
    steps = math.prod(c.k)
    fits = threads * rows * panels * tile.columns * size <= _SPLIT_BYTES
    if threads == 1 or idle < 1.15 or steps < 256 * threads or c.k[0] < threads or not fits:
        return 1
    return threads


def _divide(c: Contraction, tile: Tile, panels: int, outer: int) -> tuple[int, int, int]:
    """(outer points, panels, rows) per work item, so that `parallel` threads get equal shares."""
    wanted = c.parallel
    batches = math.prod(c.batch)
    if batches % wanted == 0 or batches >= 8 * wanted:
        return outer, panels, c.m
    tiles = 1 if c.live else -(-c.m // tile.rows)  # live rows are known for whole columns only
    shares = []
    for units, repeated in (
        (outer, c.n),
        (panels, c.m * outer * math.prod(c.plane)),
        (tiles, c.n),
    ):
        pieces = min(units, wanted)
        waste = -(-units // pieces) * wanted / units
        shares.append(waste * (1 + repeated / 1e5))
    best = min(range(3), key=lambda i: shares[i])
    chunk = [outer, panels, c.m]
    units = (outer, panels, tiles)[best]
    chunk[best] = -(-units // min(units, wanted))
    if best == 2:
        rows = c.m if c.live else chunk[2] * tile.rows
        chunk[2] = min(rows, _round_up(c.m, tile.rows))
    return chunk[0], chunk[1], chunk[2]
