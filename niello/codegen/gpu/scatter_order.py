"""Stable sorting of (row, payload) pairs by row, as routines over scratch buffers: what brings the
updates of one element together, in their order.

A pass sorts by some bits of the row, the lowest first. Each tile counts its digits; where the
elements of a digit go is the sum of what smaller digits and earlier tiles have of them; then each
tile sorts its elements in memory of its team, by half of the digit at a time, and writes them in
runs. A member of a team takes neighbouring elements, and counts them in a column of its own.
(Satish, Harris, Garland: Designing efficient sorting algorithms for manycore GPUs, 2009.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from niello.codegen.gpu.target import GpuTarget
from niello.core.dtypes import DType, int32, int64
from niello.kernel.ir import Expr, cast
from niello.kernel.routine import Routine
from niello.kernel.routine_build import Place, RoutineBuilder

DIGIT_BITS = 8  # of one pass
LARGE = (2048, 128)  # elements of a tile and members of its team
SMALL = (512, 64)  # where a block has little memory
LARGE_BYTES = 48 << 10  # of shared memory, from which on tiles are large

Make = Callable[[DType, int], Place]
Build = Callable[[RoutineBuilder], None]


@dataclass(frozen=True)
class Pairs:
    """Two buffers of equal length: rows, from 0 to `most`, and what belongs to them."""

    keys: Place
    payload: Place
    most: int

    @property
    def count(self) -> int:
        return self.keys.elements

    def key(self, r: RoutineBuilder, at: Expr) -> Expr:
        """The row at a place."""
        return r.read(self.keys, at, low=0, high=self.most)


def routine(name: str, build: Build) -> Routine:
    """The routine that `build` makes; places it reads and writes are known to it."""
    r = RoutineBuilder(name, (), ())
    build(r)
    return r.finish()


def tile_of(target: GpuTarget) -> tuple[int, int]:
    """(elements, members) of a tile."""
    return LARGE if target.shared_bytes >= LARGE_BYTES else SMALL


def sort_pairs(pairs: Pairs, make: Make, target: GpuTarget) -> tuple[list[Routine], Pairs]:
    """Routines that sort, and where the sorted pairs then are. The count is a multiple of a tile.
    `make` gives scratch buffers."""
    size, members = tile_of(target)
    tiles = pairs.count // size
    bits = max(1, pairs.most.bit_length())
    passes = -(-bits // DIGIT_BITS)
    widest = 1 << -(-bits // passes)
    counts, before = make(int32, widest * tiles), make(int32, widest * tiles)
    totals = make(int32, widest)
    other = Pairs(make(int32, pairs.count), make(pairs.payload.dtype, pairs.count), pairs.most)
    found: list[Routine] = []
    shift = 0
    for n in range(passes):
        width = bits // passes + (n < bits % passes)
        one = _Pass(pairs, other, shift, width, size, members, counts, before, totals)
        found += [
            routine("count", one.count),
            routine("sum", one.sum),
            routine("move", one.move),
        ]
        pairs, other = other, pairs
        shift += width
    return found, pairs


@dataclass(frozen=True)
class _Pass:
    """Sorting by `width` bits from `shift` on."""

    source: Pairs
    target: Pairs
    shift: int
    width: int
    size: int
    members: int
    counts: Place
    before: Place
    totals: Place

    @property
    def digits(self) -> int:
        return 1 << self.width

    @property
    def tiles(self) -> int:
        return self.source.count // self.size

    def digit(self, key: Expr, low: int = 0, width: int | None = None) -> Expr:
        """Some bits of the digit of a row."""
        bits = self.width if width is None else width
        return cast((key >> (self.shift + low)) & ((1 << bits) - 1), int64)

    def count(self, r: RoutineBuilder) -> None:
        """How many elements of each digit a tile has."""
        tile = r.teams(self.tiles)
        held = r.local(int32, self.digits)
        with r.spread(self.digits) as m:
            r.write(held, m, 0)
        with r.spread(self.size) as m:
            r.combine("add", held, self.digit(self.source.key(r, tile * self.size + m)), 1)
        with r.spread(self.digits) as m:
            r.write(self.counts, m * self.tiles + tile, r.read(held, m))

    def sum(self, r: RoutineBuilder) -> None:
        """How many of each digit the tiles before one have, and how many there are."""
        first = r.teams(self.digits) * self.tiles
        total = r.scan(
            "add",
            self.tiles,
            lambda m: r.read(self.counts, first + m),
            lambda m, before, after: r.write(self.before, first + m, before),
        )
        r.write(self.totals, r.team, total)

    def move(self, r: RoutineBuilder) -> None:
        """Bring a tile into order and write it where it belongs."""
        tile = r.teams(self.tiles)
        r.members(self.members)
        place = r.local(int32, self.digits)
        zero = r.const(0, int32)

        def parts(d: Expr) -> tuple[Expr, ...]:
            return r.read(self.totals, d), r.read(self.counts, d * self.tiles + tile)

        def then(d: Expr, before: list[Expr], after: list[Expr]) -> None:
            earlier = r.read(self.before, d * self.tiles + tile)
            r.write(place, d, before[0] + earlier - before[1])

        both = lambda a, b: (a[0] + b[0], a[1] + b[1])  # noqa: E731
        r.scan_by(self.digits, parts, then, (zero, zero), both)  # type: ignore[arg-type]
        high = self.width // 2
        low = self.width - high
        counts = r.local(int32, (1 << low) * self.members)

        def given(i: Expr) -> tuple[Expr, Expr]:
            at = tile * self.size + i
            return self.source.key(r, at), r.read(self.source.payload, at)

        held = self._split(r, counts, given, 0, low)
        if high:
            held = self._split(r, counts, held, low, high)
        with r.spread(self.size) as i:
            key, value = held(i)
            first = r.read(place, self.digit(key), low=0, high=self.source.count - 1)
            to = r.cast(first, int64) + i
            r.write(self.target.keys, to, key)
            r.write(self.target.payload, to, value)

    def _split(
        self,
        r: RoutineBuilder,
        counts: Place,
        given: Callable[[Expr], tuple[Expr, Expr]],
        low: int,
        width: int,
    ) -> Callable[[Expr], tuple[Expr, Expr]]:
        """The tile in the order of some bits, in memory of the team."""
        each = self.size // self.members
        # One unused element behind those of a member keeps members in different banks.
        room = self.members * (each + 1)
        keys, values = r.local(int32, room), r.local(self.source.payload.dtype, room)
        with r.spread(self.members) as m:
            for d in range(1 << width):
                r.write(counts, m + d * self.members, 0)
            for key in [given(m * each + e)[0] for e in range(each)]:
                at = self.digit(key, low, width) * self.members + m
                r.write(counts, at, r.read(counts, at) + 1)
        r.scan(
            "add",
            (1 << width) * self.members,
            lambda m: r.read(counts, m),
            lambda m, before, after: r.write(counts, m, before),
        )
        with r.spread(self.members) as m:
            for key, value in [given(m * each + e) for e in range(each)]:
                at = self.digit(key, low, width) * self.members + m
                to = r.read(counts, at, low=0, high=self.size - 1)
                r.write(counts, at, to + 1)
                spot = r.cast(to, int64)
                spot = spot + spot // each
                r.write(keys, spot, key)
                r.write(values, spot, value)

        def held(i: Expr) -> tuple[Expr, Expr]:
            spot = i + i // each
            return r.read(keys, spot, low=0, high=self.source.most), r.read(values, spot)

        return held
