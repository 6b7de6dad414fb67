"""Which threads do what: the units of a nest are shared among teams, and a unit inside a team."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from niello.codegen.access import cost, loads
from niello.codegen.gpu.expressions import adjacent
from niello.codegen.gpu.flat import Rewriter, flatten
from niello.codegen.gpu.phases import Nest, lanes_over_units
from niello.codegen.gpu.target import GpuTarget
from niello.kernel.ir import Expr, Param, Range, free_ranges

_SIDE = 32  # neighbouring threads that take neighbouring units, so that they share accesses
_LEAST_SIDE = 8  # so that they share accesses at all
_DEEPEST = 32  # threads of a team that are not neighbours
_LIGHT, _HEAVY = 100, 400  # instructions of a point from which a thread takes fewer points


@dataclass(frozen=True)
class Mapping:
    """How a nest runs: `team` threads share a unit, or `unit_lanes` neighbouring units.

    Threads of a team are neighbours (`rows`), or neighbours belong to different teams. Each thread
    takes `row_lanes` neighbouring points of a phase at once. A thread of a nest without teams goes
    through `chunks` groups of units.
    """

    team: int
    rows: bool
    unit_lanes: int
    row_lanes: int
    chunks: int

    def units_per_block(self, threads: int) -> int:
        """Groups of `unit_lanes` units that a block of threads works on."""
        return threads // self.team * self.chunks

    def describe(self) -> str:
        """For the dump."""
        side = "row" if self.rows else "column"
        return (
            f"team {self.team} ({side}), lanes {self.unit_lanes}x{self.row_lanes}, "
            f"chunks {self.chunks}"
        )


def threads_wanted(nests: Sequence[tuple[Nest, Mapping]], target: GpuTarget) -> int:
    """Threads of a block for nests that run in one launch."""
    wanted = [target.threads]
    for nest, m in nests:
        groups = -(-nest.unit_count // m.unit_lanes)
        across = 1 if m.rows else min(_SIDE, _power_above(groups))
        # Few threads in all: in smaller blocks they reach more processors.
        while across > _LEAST_SIDE and groups * m.team < target.fill // 2:
            if m.team * across <= target.threads:
                break
            across //= 2
        wanted.append(min(m.team * across, target.most_threads) if m.team > 1 else 1)
    return max(wanted)


def map_nest(nest: Nest, target: GpuTarget, word_bytes: int) -> Mapping:
    """Choose for a nest; `word_bytes` is the narrowest access that elements may share."""
    units, row = nest.unit_count, nest.row
    columns = lanes_over_units(nest.units, nest.phases)
    if row <= 1:
        width = _width(nest.units, nest, target, word_bytes)
        each = units // width
        many = each >= 4 * target.fill * target.chunks and not any(p.ranges for p in nest.phases)
        chunks = target.chunks if many and _nest_cost(nest) <= _LIGHT else 1
        return Mapping(1, False, width, 1, chunks)
    if columns or row < 4:
        return _columns(nest, units, row, target, word_bytes)
    return _rows(nest, units, row, target, word_bytes)


def _columns(nest: Nest, units: int, row: int, target: GpuTarget, word_bytes: int) -> Mapping:
    """Neighbouring threads take neighbouring units; several share one where there are few."""
    width = _width(nest.units, nest, target, word_bytes)
    while width > 1 and units // width * max(1, row // 4) < target.fill // 8:
        width //= 2
    if units % width:
        width = 1
    groups = -(-units // width)
    team = 1
    across = min(_SIDE, _power_above(groups))
    most = min(_DEEPEST, target.most_threads // across, _power(row // 4))
    while team < most and groups * team < target.fill // 2:
        team *= 2
    return Mapping(team, False, width, 1, 1)


def _rows(nest: Nest, units: int, row: int, target: GpuTarget, word_bytes: int) -> Mapping:
    """A team of neighbours for each unit."""
    width = min(_width(p.ranges, nest, target, word_bytes) for p in nest.phases if p.ranges)
    vectors = -(-row // width)
    if row <= 8 and units >= target.fill // 8:
        return Mapping(1, False, 1, 1, 1)
    # A few vectors for each thread; more threads where that leaves the device idle.
    team = _power(max(1, vectors // 4))
    team = max(min(32, _power(vectors)), min(team, target.threads))
    while team < min(target.most_threads, _power(vectors)) and (
        units * team < target.fill // 2 or -(-vectors // team) * width > target.row_values
    ):
        team *= 2
    return Mapping(team, True, 1, width, 1)


def _nest_cost(nest: Nest) -> float:
    """Instructions of a point, roughly."""
    return cost([e for p in nest.phases for e in p.roots])


def _power_above(n: int) -> int:
    """The smallest power of two that is at least `n`."""
    return 1 << max(0, n - 1).bit_length()


def _power(n: int) -> int:
    """The largest power of two that is at most `n`, and at least 1."""
    return 1 << (max(1, n).bit_length() - 1)


def _width(ranges: Sequence[Range], nest: Nest, target: GpuTarget, word_bytes: int) -> int:
    """How many neighbouring points of `ranges` a thread takes at once."""
    if not ranges:
        return 1
    points = math.prod(r.extent for r in ranges)
    accesses = _accesses(nest, ranges)
    sizes = [p.dtype.itemsize for _, p in accesses]
    if not sizes:
        return 1
    width = min(target.most_lanes, max(1, target.lane_bytes // min(sizes)))
    if _nest_cost(nest) > _HEAVY:
        width = max(1, min(width, word_bytes // min(sizes)))
    inside_units = any(r in nest.units for r in ranges)
    while width > 1:
        fits = points % width == 0 if nest.row > 1 or not inside_units else points >= width
        if fits and _worth(accesses, ranges, width, word_bytes):
            return width
        width //= 2
    return 1


def _accesses(nest: Nest, ranges: Sequence[Range]) -> list[tuple[Expr, Param]]:
    """Positions in memory that depend on one of `ranges`."""
    found: dict[tuple[Expr, Param], None] = {}
    wanted = frozenset(ranges)
    for phase in nest.phases:
        for x in loads(phase.roots):
            if wanted & free_ranges(x):
                found[x.index, x.param] = None
        for s in phase.stores:
            found[s.index, s.param] = None
    return list(found)


def _worth(
    accesses: Sequence[tuple[Expr, Param]], ranges: Sequence[Range], width: int, word_bytes: int
) -> bool:
    """Whether half of the bytes are read or written by lanes together."""
    flat = flatten(ranges, width, "probe")
    rewrite = Rewriter(flat.mapping)
    together = total = 0
    for index, param in accesses:
        size = param.dtype.itemsize
        total += size
        if size * width >= word_bytes and adjacent(rewrite.position(index), flat.lane, width):
            together += size
    return 2 * together >= total
