"""Nests whose innermost range has two to four points: lanes run over the range around it.

Pixels of three channels, pairs of real and imaginary parts: every point of the short range is a
vector of its own, and the vectors are interleaved when they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from niello.backends.cpu.llvm_text import Value, constant
from niello.backends.cpu.render_loops import share, unravel
from niello.backends.cpu.render_memory import address, pick, to_memory
from niello.backends.cpu.render_types import vector_bytes
from niello.backends.cpu.vectors import Emitter, Scope
from niello.codegen.access import cost, lane_bytes, loads, store_roots
from niello.kernel.bounds import affine
from niello.kernel.ir import Range, Store, free_ranges

_MOST_POINTS = 4
_BODY = 120  # cost of all points together above which writing them out takes too much code
_BLOCK = 64  # vectors that make one unit of work


@dataclass(frozen=True)
class Strands:
    """`lanes` runs over vectors of `width`, `short` is written out."""

    lanes: Range
    short: Range
    width: int


def strands_of(em: Emitter, ranges: Sequence[Range], stores: Sequence[Store]) -> Strands | None:
    """The ranges that make stores contiguous when they are interleaved, or None."""
    roots = store_roots(stores)
    if any(s.gate is not None for s in stores):
        return None
    width = vector_bytes(em.target) // lane_bytes([s.value for s in stores])
    gated = [x for x in loads(roots) if x.gate is not None]
    for short in ranges:
        if not 2 <= short.extent <= _MOST_POINTS or short.extent * cost(roots) > _BODY:
            continue
        for lanes in ranges:
            under = [x for x in gated if x.gate is not None and lanes in free_ranges(x.gate)]
            if any(affine(x.index).stride(lanes) not in (0, 1) for x in under):
                continue  # every second or third element under a mask would be gathered
            fits = lanes.extent >= 2 * width and width > 1
            if fits and all(
                affine(s.index).stride(short) == 1 and affine(s.index).stride(lanes) == short.extent
                for s in stores
            ):
                return Strands(lanes, short, width)
    return None


class Interleaved:
    """Writes a nest in strands."""

    def __init__(
        self, em: Emitter, ranges: Sequence[Range], stores: Sequence[Store], strands: Strands
    ) -> None:
        self.em, self.stores, self.strands = em, stores, strands
        self.roots = store_roots(stores)
        self.outer = [r for r in ranges if r is not strands.lanes and r is not strands.short]

    def write(
        self,
        thread: Value,
        threads: Value,
        grain_of: Callable[[float], int],
        rows: Callable[[Scope, Value | int, Value | int], None],
    ) -> int:
        """Write the nest; `rows(scope, start, stop)` writes the short range alone, for the rest.

        Returns how many threads can share it.
        """
        em, f, strands = self.em, self.em.f, self.strands
        lanes, width = strands.lanes, strands.width
        whole = lanes.extent // width
        blocks = -(-whole // _BLOCK)
        units = math.prod(r.extent for r in self.outer) * blocks
        work = (cost(self.roots) + 2) * strands.short.extent * min(whole, _BLOCK)
        grain = grain_of(work)
        first, end = share(em, units, grain, thread, threads)
        scope = Scope()
        inner = [lanes, strands.short]
        em.hoist(self.roots, scope, [*self.outer, *inner])
        with f.for_range(first, end) as unit:
            block = f.urem(unit, blocks)
            here = Scope(scope, unravel(em, f.udiv(unit, blocks), self.outer))
            em.hoist(self.roots, here, inner)
            start = f.mul(block, _BLOCK)
            stop = f.smin(f.add(start, _BLOCK), whole)
            with f.for_range(start, stop) as vector:
                self._strand(here, f.mul(vector, width))
            if lanes.extent % width:
                last = f.icmp("eq", stop, constant(whole))
                with f.if_then(last), f.for_range(whole * width, lanes.extent) as index:
                    at = Scope(here, {lanes: index})
                    em.hoist(self.roots, at, [strands.short])
                    rows(at, 0, strands.short.extent)
        return -(-units // grain)

    def _strand(self, scope: Scope, start: Value) -> None:
        em, strands = self.em, self.strands
        points = []
        for n in range(strands.short.extent):
            ranges = {strands.lanes: start, strands.short: constant(n)}
            at = Scope(scope, ranges, vector=strands.lanes, width=strands.width)
            points.append((at, [em.lanes(s.value, at) for s in self.stores]))
        for k, node in enumerate(self.stores):
            self._store(node, points[0][0], [values[k] for _, values in points])

    def _store(self, node: Store, at: Scope, values: Sequence[Value]) -> None:
        em, f, width = self.em, self.em.f, self.strands.width
        dtype = node.param.dtype
        pointer = address(em, node.param, em.scalar(node.index, at))
        data = [to_memory(em, v, dtype) for v in values]
        count = len(data)
        for n in range(count):
            places = [((n * width + k) % count, (n * width + k) // count) for k in range(width)]
            mixed = pick(em, data, places)
            target = f.gep(mixed.type, pointer, n)
            f.store(mixed, target, align=dtype.itemsize)
