"""Which tile a contraction gets, and into how many parts of k it is cut.

A small model of time: a processor works off its blocks one after the other, each block's work over
the speed of its tile; parts of k add a pass over their sums. The speeds were measured on an H200.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from niello.codegen.gpu.contract import Contraction
from niello.codegen.gpu.registers import register_of
from niello.codegen.gpu.target import GpuTarget
from niello.core.dtypes import bool_
from niello.core.nodes import walk
from niello.kernel.ir import Load, free_ranges

_LEAST_PART = 128  # points of k that are worth a block of their own
_MOST_PARTS = 256
_START = 700.0  # cycles of a block around its multiplications
_GATHER = 1500.0  # cycles in which its slices add up their sums
_LAUNCH = 3000.0  # cycles before the first block multiplies and after the last
_AGAIN = 5000.0  # cycles of another launch
_BYTES = 1500.0  # that the device moves in a cycle
_OVERLAPPING = 4096  # results of a block, up to which others multiply while it stores

# Multiplications of a processor in a cycle, at its peak.
REGISTER_RATE = 128.0
TENSOR_RATE = 1024.0
SPLIT_RATE = TENSOR_RATE / 6  # six products of parts for each


@dataclass(frozen=True)
class Tile:
    """Rows and columns of C that a block computes, and points of k in a step.

    `across` and `along` are the threads (or warps) along rows and columns, `slices` how many groups
    of threads share each step's points of k. `speed` is the share of the multipliers' peak that
    the tile reaches once the device is full.
    """

    rows: int
    columns: int
    step: int
    across: int = 16
    along: int = 16
    slices: int = 1
    speed: float = 1.0

    @property
    def per_thread(self) -> tuple[int, int]:
        """Rows and columns of a thread (or warp)."""
        return self.rows // self.across, self.columns // self.along

    @property
    def threads(self) -> int:
        """Threads (or warps) of a block."""
        return self.across * self.along * self.slices


REGISTER_TILES = (
    Tile(128, 128, 8, speed=0.7),
    Tile(128, 64, 32, 8, 8, 4, speed=0.64),
    Tile(64, 128, 16, 8, 8, 4, speed=0.62),
    Tile(96, 64, 16, 8, 8, 4, speed=0.58),
    Tile(64, 96, 16, 16, 8, 2, speed=0.6),
    Tile(96, 32, 32, 8, 4, 8, speed=0.42),
    Tile(32, 32, 32, 8, 8, 8, speed=0.33),
    Tile(128, 64, 16, speed=0.58),
    Tile(64, 128, 16, speed=0.58),
    Tile(64, 64, 16, speed=0.45),
    Tile(128, 32, 16, speed=0.4),
    Tile(64, 32, 32, speed=0.35),
    Tile(32, 64, 32, speed=0.35),
    Tile(32, 32, 32, speed=0.25),
    Tile(32, 32, 16, speed=0.2),
)
# By warps, each of which multiplies pieces of 16 x 8.
TENSOR_TILES = (
    Tile(128, 256, 32, 2, 4, speed=0.81),
    Tile(128, 128, 32, 2, 2, speed=0.8),
    Tile(128, 64, 32, 2, 2, speed=0.65),
    Tile(64, 128, 32, 2, 2, speed=0.65),
    Tile(64, 64, 32, 2, 2, speed=0.45),
    Tile(32, 64, 32, 2, 2, speed=0.25),
    Tile(64, 32, 32, 2, 2, speed=0.25),
)


# The same, with three parts of each factor in shared memory.
SPLIT_TILES = (
    Tile(128, 128, 16, 2, 4, speed=0.72),
    Tile(128, 64, 32, 4, 2, speed=0.56),
    Tile(64, 128, 32, 2, 4, speed=0.56),
    Tile(96, 64, 32, 2, 4, speed=0.5),
    Tile(64, 96, 32, 4, 2, speed=0.55),
    Tile(96, 32, 32, 3, 2, speed=0.37),
    Tile(64, 64, 32, 2, 4, speed=0.53),
    Tile(64, 32, 32, 2, 2, speed=0.36),
    Tile(32, 64, 32, 2, 2, speed=0.36),
    Tile(32, 32, 32, 2, 2, speed=0.22),
)


def shared_bytes(tile: Tile, size: int, buffers: int) -> int:
    """Fast memory for both operands of a step."""
    return buffers * (tile.rows + tile.columns + 8) * tile.step * size


def buffers_for(tile: Tile, size: int, target: GpuTarget) -> int:
    """Two where the next step's operands fit beside this one's."""
    return 2 if shared_bytes(tile, size, 2) <= target.shared_bytes else 1


def register_tiles(c: Contraction, target: GpuTarget) -> Sequence[Tile]:
    """The tiles in registers that the target can hold."""
    size = register_of(c.dtype).bytes
    fitting = [
        t
        for t in REGISTER_TILES
        if (max(t.per_thread) * size <= 4 * target.tile_side or t.slices > 1)
        and t.slices <= (target.slices if size == 4 and c.dtype is not bool_ else 1)
        and shared_bytes(t, size, 1) <= target.shared_bytes
    ]
    return fitting or [REGISTER_TILES[-1]]


def choose(
    c: Contraction, target: GpuTarget, tiles: Sequence[Tile], rate: float
) -> tuple[Tile, int]:
    """The tile that should take the least time, and the parts of k with it.

    `rate` is the number of multiplications of a processor in a cycle, at its peak.
    """
    _, _, parts, number = _best(c, target, tiles, rate)
    return tiles[number], parts


def cycles(c: Contraction, target: GpuTarget, tiles: Sequence[Tile], rate: float) -> float:
    """The time that the tile of `choose` should take."""
    return _best(c, target, tiles, rate)[0]


def _best(
    c: Contraction, target: GpuTarget, tiles: Sequence[Tile], rate: float
) -> tuple[float, float, int, int]:
    """(cycles, speed below zero, parts, number of the tile) of the best choice."""
    return min(
        (_cycles(c, target, tile, parts, rate), -tile.speed, parts, n)
        for n, tile in enumerate(tiles)
        for parts in _parts(c, target, tile)
    )


def _blocks(c: Contraction, tile: Tile) -> int:
    m, n = c.extent(c.m), c.extent(c.n)
    return -(-m // tile.rows) * -(-n // tile.columns) * c.extent(c.z)


def _processors(target: GpuTarget) -> int:
    return max(1, target.fill // 2048)


def _parts(c: Contraction, target: GpuTarget, tile: Tile) -> Iterator[int]:
    """Numbers of parts that give every processor one block, or two, or three."""
    yield 1
    blocks, most = _blocks(c, tile), min(_MOST_PARTS, c.extent(c.k) // _LEAST_PART)
    for rounds in (1, 2, 3):
        parts = min(rounds * _processors(target) // blocks, most)
        if parts > 1:
            yield parts


def _cycles(c: Contraction, target: GpuTarget, tile: Tile, parts: int, rate: float) -> float:
    blocks, processors = _blocks(c, tile), _processors(target)
    results = tile.rows * tile.columns
    work = results * -(-c.extent(c.k) // parts) / (rate * tile.speed)
    if parts == 1:
        after = results * _bytes_of_result(c) * processors / _BYTES
        work = max(work, after) if results <= _OVERLAPPING else work + after
    rounds = -(-blocks * parts // processors)
    total = _LAUNCH + rounds * (work + _START + (_GATHER if tile.slices > 1 else 0.0))
    if parts > 1:
        sums = c.extent((*c.z, *c.m, *c.n)) * register_of(c.dtype).bytes
        total += _AGAIN + 2 * parts * sums / _BYTES
    return total


def _bytes_of_result(c: Contraction) -> int:
    """Bytes that the epilogue reads and writes at each result."""
    own = frozenset((*c.m, *c.n))
    read = {
        x.param: x.dtype.itemsize
        for x in walk([s.value for s in c.stores])
        if isinstance(x, Load) and x is not c.result and own <= free_ranges(x)
    }
    return sum(read.values()) + sum(s.param.dtype.itemsize for s in c.stores)
