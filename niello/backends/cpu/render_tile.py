"""Nests that read along one range and write along another: squares transposed in registers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from niello.backends.cpu.gemm_pack import transpose
from niello.backends.cpu.llvm_text import Value, constant
from niello.backends.cpu.render_loops import share, unravel
from niello.backends.cpu.render_memory import load, store
from niello.backends.cpu.render_types import vector_bytes
from niello.backends.cpu.vectors import Emitter, Scope
from niello.codegen.access import cost, lane_bytes, loads, narrowest_bytes, store_roots
from niello.kernel.bounds import affine
from niello.kernel.ir import Load, Range, Store, free_ranges

_BODY = 24  # nodes of the stores above which writing a square out costs too much code


@dataclass(frozen=True)
class Square:
    """`crossed` loads run along `down` while the stores run along `lanes`; `side` of a square."""

    lanes: Range
    down: Range
    side: int
    crossed: tuple[Load, ...]


def square_of(em: Emitter, ranges: Sequence[Range], stores: Sequence[Store]) -> Square | None:
    """The square that a nest is best walked in, or None where no load crosses the stores."""
    roots = store_roots(stores)
    if cost(roots) > _BODY or any(s.gate is not None for s in stores):
        return None
    found = loads(roots)
    best: Square | None = None
    for lanes in ranges:
        if any(affine(s.index).stride(lanes) != 1 for s in stores):
            continue
        for down in ranges:
            crossed = tuple(x for x in found if _crosses(x, lanes, down))
            side = _side(em, lanes, down, [s.value for s in stores])
            better = best is None or len(crossed) > len(best.crossed)
            if crossed and down is not lanes and side >= 4 and better:
                best = Square(lanes, down, side, crossed)
    return best


def _crosses(node: Load, lanes: Range, down: Range) -> bool:
    index = affine(node.index)
    stride = index.stride(lanes)
    if index.stride(down) != 1 or stride is None or abs(stride) < 2:
        return False
    return node.gate is None or free_ranges(node.gate).isdisjoint((lanes, down))


def _side(em: Emitter, lanes: Range, down: Range, values: Sequence[object]) -> int:
    widest = lane_bytes(values)  # type: ignore[arg-type]
    side = min(vector_bytes(em.target) // max(widest, 1), 16)
    while side > 1 and (side > lanes.extent or side > down.extent):
        side //= 2
    return side


class Tiles:
    """Writes a nest in squares."""

    def __init__(
        self, em: Emitter, ranges: Sequence[Range], stores: Sequence[Store], square: Square
    ) -> None:
        self.em, self.stores, self.square = em, stores, square
        self.roots = store_roots(stores)
        self.outer = [r for r in ranges if r is not square.lanes and r is not square.down]
        self.bytes = narrowest_bytes(self.roots, stores)

    def write(
        self,
        thread: Value,
        threads: Value,
        grain_of: Callable[[float], int],
        rows: Callable[[Scope, Value | int, Value | int], None],
    ) -> int:
        """Write the nest; `rows(scope, start, stop)` writes lanes of single rows, for the rest.

        Returns how many threads can share it.
        """
        em, square = self.em, self.square
        blocks = -(-square.down.extent // square.side)
        units = math.prod(r.extent for r in self.outer) * blocks
        work = (cost(self.roots) + 4) * square.lanes.extent
        grain = grain_of(work)
        first, end = share(em, units, grain, thread, threads)
        scope = Scope()
        em.hoist(self.roots, scope, [*self.outer, square.down, square.lanes])
        with em.f.for_range(first, end) as unit:
            which = em.f.urem(unit, blocks)
            here = Scope(scope, unravel(em, em.f.udiv(unit, blocks), self.outer))
            em.hoist(self.roots, here, [square.down, square.lanes])
            self._band(here, em.f.mul(which, square.side), rows)
        return -(-units // grain)

    def _band(
        self, scope: Scope, top: Value, rows: Callable[[Scope, Value | int, Value | int], None]
    ) -> None:
        """All squares side by side, then what is left of the band's rows."""
        em, square = self.em, self.square
        f, side = em.f, square.side
        edge = square.lanes.extent // side * side

        def one(stop: Value, left: int) -> None:
            with f.for_range(top, stop) as down:
                at = Scope(scope, {square.down: down})
                em.hoist(self.roots, at, [square.lanes])
                rows(at, left, square.lanes.extent)

        def whole() -> None:
            with f.for_range(0, edge, side) as left:
                self._square(scope, top, left)
            if edge < square.lanes.extent:
                one(f.add(top, side), edge)

        if square.down.extent % side == 0:
            whole()
            return
        with f.if_else(f.icmp("sle", top, square.down.extent - side)) as branches:
            with branches.then():
                whole()
            with branches.otherwise():
                one(constant(square.down.extent), 0)

    def _square(self, scope: Scope, down: Value, left: Value) -> None:
        em, square = self.em, self.square
        f, side = em.f, square.side
        columns: dict[Load, list[Value]] = {}
        for node in square.crossed:
            lines = []
            for lane in range(side):
                at = Scope(
                    scope,
                    {square.lanes: f.add(left, lane), square.down: down},
                    vector=square.down,
                    width=side,
                )
                lines.append(load(em, node, at, True))
            columns[node] = transpose(f, lines)
        for row in range(side):
            ranges = {square.lanes: left, square.down: f.add(down, row)}
            at = Scope(scope, ranges, vector=square.lanes, width=side)
            at.values.update((node, lines[row]) for node, lines in columns.items())
            made = [em.value(s.value, at) for s in self.stores]
            for s, value in zip(self.stores, made, strict=True):
                store(em, s, value, at)
