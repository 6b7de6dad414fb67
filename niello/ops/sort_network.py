"""Sorting networks as statements of a routine.

A row of P = L q elements, both powers of two, lies in scratch memory so that element i is at
(i % q) L + i // q: a vector of L lanes holds elements that are q apart. Comparisons of elements
less than q apart are then between whole vectors, and several rounds of them are done in registers
(Batcher's bitonic sort, 1968; a block that is to be sorted downwards holds the complements of its
keys). What has one order for keys and one for their complements is an integer; an element may be a
tuple of them, compared from the first on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from niello.core.dtypes import DType, int64
from niello.kernel import ir
from niello.kernel.ir import Expr
from niello.kernel.routine_build import Place, RoutineBuilder

Tuple = tuple[Expr, ...]
TOGETHER = 3  # rounds that are done in registers: 2^3 vectors


def in_order(r: RoutineBuilder, a: Tuple, b: Tuple) -> tuple[Tuple, Tuple]:
    """The smaller and the larger of two elements."""
    if len(a) == 1:
        return (r.min(a[0], b[0]),), (r.max(a[0], b[0]),)
    first = less(a, b)
    low = tuple(r.where(first, x, y) for x, y in zip(a, b, strict=True))
    high = tuple(r.where(first, y, x) for x, y in zip(a, b, strict=True))
    return low, high


def less(a: Tuple, b: Tuple) -> Expr:
    """Whether one element comes before another."""
    if len(a) == 1:
        return a[0] < b[0]
    return (a[0] < b[0]) | (a[0].eq(b[0]) & less(a[1:], b[1:]))


def comparators(count: int) -> Iterator[tuple[int, int]]:
    """Batcher's odd-even merge sort of any number of elements."""
    size = 1
    while size < count:
        step = size
        while step:
            for start in range(step % size, count - step, 2 * step):
                for i in range(start, min(start + step, count - step)):
                    if i // (2 * size) == (i + step) // (2 * size):
                        yield i, i + step
            step //= 2
        size *= 2


def sort_registers(r: RoutineBuilder, elements: list[Tuple]) -> list[Tuple]:
    """Elements in order, by comparisons that do not depend on them."""
    found = list(elements)
    for i, j in comparators(len(found)):
        found[i], found[j] = in_order(r, found[i], found[j])
    return found


class BitonicSort:
    """Sorts rows of `total` elements in scratch memory.

    `lanes` is L of the layout. `kinds` are the dtypes of an element's parts. The elements are
    written to `place` by `put`; after `run` element i of the order is `get(i)`.
    """

    def __init__(self, r: RoutineBuilder, total: int, lanes: int, kinds: Sequence[DType]) -> None:
        self.r, self.total, self.lanes = r, total, lanes
        self.place = [r.local(t, total) for t in kinds]
        self.other = [r.local(t, total) for t in kinds]
        self.levels = total.bit_length() - 1
        self.vertical = (total // lanes).bit_length() - 1  # levels of whole vectors

    # --- elements
    def put(self, at: Expr, element: Tuple) -> None:
        """Give the network an element at a place of the scratch; which one does not matter."""
        self._write(self.place, at, element)

    def get(self, i: Expr) -> Tuple:
        """Element `i` of the order."""
        depth = self.total // self.lanes
        return self._read(self.place, (i % depth) * self.lanes + i // depth)

    def _read(self, places: Sequence[Place], at: Expr) -> Tuple:
        return tuple(self.r.read(p, at) for p in places)

    def _write(self, places: Sequence[Place], at: Expr, element: Tuple) -> None:
        for p, x in zip(places, element, strict=True):
            self.r.write(p, at, x)

    # --- rounds
    def run(self, source: Callable[[Expr], Tuple] | None = None) -> None:
        """Sort; elements come from `source(place)` where they have not been put."""
        first = min(TOGETHER, self.vertical)
        self._begin(first, source)
        for phase in range(first + 1, self.levels + 1):
            self._phase(phase)

    def _begin(self, levels: int, source: Callable[[Expr], Tuple] | None) -> None:
        """Blocks of 2^levels elements in order, upwards and downwards in turn."""
        r, wide = self.r, self.lanes
        size = 1 << levels
        with r.spread(self.total // size) as m:
            block = m // wide
            start = block * (wide * size) + m % wide
            read = source or (lambda at: self._read(self.place, at))
            turned = self._direction(levels, m, block)
            elements = [self._xor(read(start + e * wide), turned) for e in range(size)]
            for e, x in enumerate(sort_registers(r, elements)):
                self._write(self.place, start + e * wide, x)

    def _direction(self, phase: int, m: Expr, block: Expr) -> Expr | None:
        """Whether the block of 2^phase elements around an iteration is held in complements: the
        last bit of its number, which is `block`, or counts the lanes."""
        if phase == self.levels:
            return None
        if phase < self.vertical:
            return (block % 2).eq(1)
        return self._lane_bit(m, phase - self.vertical)

    def _lane_bit(self, m: Expr, bit: int) -> Expr:
        return (m % self.lanes & (1 << bit)).ne(0)

    def _xor(self, element: Tuple, turned: Expr | None, also: Expr | bool = False) -> Tuple:
        """The element, or its complement where exactly one of two conditions holds."""
        r = self.r
        if isinstance(also, bool):
            test = turned if not also else None if turned is None else r.not_(turned)
            if test is None:
                return tuple(r.not_(x) for x in element) if also else element
        else:
            test = also if turned is None else turned.ne(also)
        return tuple(x ^ r.where(test, ir.const(-1, x.dtype), 0) for x in element)

    def _phase(self, phase: int) -> None:
        """Merge pairs of blocks to blocks of 2^phase elements."""
        fresh = True
        for level in range(phase - 1, self.vertical - 1, -1):
            self._across(level - self.vertical, phase, fresh)
            fresh = False
        for top, bottom in _groups(min(phase, self.vertical)):
            self._vectors(top, bottom, phase if fresh else None)
            fresh = False

    def _across(self, bit: int, phase: int, fresh: bool) -> None:
        """Comparisons between lanes; when the phase begins, directions change."""
        r = self.r
        step = 1 << bit
        with r.spread(self.total) as m:
            own = self._read(self.place, m)
            partner = self._read(self.place, m ^ step)
            upper = self._lane_bit(m, bit)
            if fresh:
                turned = self._direction(phase, m, m)
                own = self._xor(own, turned, upper)
                partner = self._xor(partner, turned, r.not_(upper))
            low, high = in_order(r, own, partner)
            chosen = tuple(r.where(upper, y, x) for x, y in zip(low, high, strict=True))
            self._write(self.other, m, chosen)
        self.place, self.other = self.other, self.place

    def _vectors(self, top: int, bottom: int, phase: int | None) -> None:
        """Comparisons of vectors 2^(top-1) ... 2^bottom apart; `phase` if they begin one."""
        r = self.r
        count = 1 << (top - bottom)
        step = self.lanes << bottom
        with r.spread(self.total // count) as m:
            block = m // step
            start = block * (step * count) + m % step
            elements = [self._read(self.place, start + e * step) for e in range(count)]
            if phase is not None:
                turned = self._direction(phase, m, block)
                elements = [self._xor(x, turned, 2 * e >= count) for e, x in enumerate(elements)]
            half = count // 2
            while half:
                for e in range(count):
                    if not e & half:
                        pair = in_order(r, elements[e], elements[e + half])
                        elements[e], elements[e + half] = pair
                half //= 2
            for e, x in enumerate(elements):
                self._write(self.place, start + e * step, x)


def _groups(levels: int) -> Iterator[tuple[int, int]]:
    """Rounds put together, from the widest: (first, last) levels as top and bottom."""
    parts = -(-levels // TOGETHER)
    ends = [levels * n // parts for n in range(parts, -1, -1)]
    yield from pairwise(ends)


def padded(count: int, lanes: int) -> int:
    """The number of elements of the network that sorts `count`."""
    return max(4 * lanes, 1 << (max(1, count) - 1).bit_length())


def lanes_for(kinds: Sequence[DType]) -> int:
    """Lanes of the layout for elements of these dtypes."""
    return 8 if int64 in kinds else 16
