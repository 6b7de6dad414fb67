"""Point-wise nests that read along one range and write along another: transposes and their like.

A block does a square tile of the two ranges. Threads read what is contiguous along the first range
with neighbours along it, leave it in shared memory, and go on with neighbours along the second, so
that memory is reached in runs both ways.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from niello.codegen.access import loads
from niello.codegen.gpu.blocks import Scope, Val
from niello.codegen.gpu.expressions import Emitter
from niello.codegen.gpu.flat import Rewriter, flatten
from niello.codegen.gpu.phases import Nest
from niello.codegen.gpu.registers import Reg, register, register_of
from niello.codegen.gpu.target import GpuTarget
from niello.kernel.bounds import affine
from niello.kernel.ir import Load, Range, Store, free_ranges

_SIDE = 32  # points of a tile along either range
_LEAST_POINTS = 1 << 12
_LEAST_EXTENT = 8


@dataclass(frozen=True)
class Turned:
    """Stores over `outer`, `read` and `write`, and the loads that are contiguous along `read`."""

    outer: tuple[Range, ...]
    read: Range
    write: Range
    stores: tuple[Store, ...]
    loads: tuple[Load, ...]


def turned_of(nest: Nest, target: GpuTarget, word_bytes: int) -> Turned | None:
    """A nest as tiles that are turned, where most of what it reads lies across what it writes."""
    points = math.prod(r.extent for r in nest.units)
    if len(nest.phases) != 1 or nest.phases[0].ranges or points < _LEAST_POINTS:
        return None
    (phase,) = nest.phases
    if phase.reductions or target.threads % _SIDE or len(nest.units) < 2:
        return None
    along = [r for r in nest.units if affine(phase.stores[0].index).stride(r) == 1]
    small = any(s.param.dtype.itemsize < word_bytes for s in phase.stores)
    if small or len(along) != 1 or along[0].extent < _LEAST_EXTENT:
        return None
    write = along[0]
    found = loads(phase.roots)
    across: dict[Range, list[Load]] = {}
    for x in found:
        form = affine(x.index)
        for r in nest.units:
            if r is not write and form.stride(r) == 1 and form.stride(write) not in (0, 1):
                across.setdefault(r, []).append(x)
    if not across:
        return None
    read = max(across, key=lambda r: (sum(_bytes(x) for x in across[r]), r.extent))
    turned = [x for x in across[read] if {read, write} <= free_ranges(x)]
    total = sum(_bytes(x) for x in found if free_ranges(x))
    if read.extent < _LEAST_EXTENT or 2 * sum(_bytes(x) for x in turned) < total:
        return None
    size = sum(register_of(x.dtype).bytes for x in turned) * _SIDE * (_SIDE + 1)
    if not turned or size > target.shared_bytes:
        return None
    outer = tuple(r for r in nest.units if r not in (read, write))
    return Turned(outer, read, write, phase.stores, tuple(turned))


def _bytes(x: Load) -> int:
    return x.dtype.itemsize


class TurnedWriter:
    """Writes a turned nest for a block of threads."""

    def __init__(self, em: Emitter, turned: Turned, threads: int) -> None:
        self.em = em
        self.turned = turned
        self.threads = threads
        self.shared: dict[str, tuple[Reg, int]] = {}
        self.outer = flatten(turned.outer, 1, "outer")
        self.rewrite = Rewriter(self.outer.mapping)
        self.across = -(-turned.read.extent // _SIDE)
        self.along = -(-turned.write.extent // _SIDE)
        self.blocks = self.across * self.along * self.outer.points

    def describe(self) -> str:
        """For the dump."""
        return f"turned, {len(self.turned.loads)} loads through tiles of {_SIDE}x{_SIDE}"

    def write(self, scope: Scope, block: str) -> None:
        """The code of one block of threads."""
        em = self.em
        column = em.constant(scope, Reg.I32, f"({block} % {self.along})", "bi")
        rest = em.constant(scope, Reg.I32, f"({block} / {self.along})", "bo")
        row = em.constant(scope, Reg.I32, f"({rest.text} % {self.across})", "bj")
        outer = em.constant(scope, Reg.I32, f"({rest.text} / {self.across})", "bo")
        base = scope.beside({self.outer.chunk: outer})
        first_read = em.constant(scope, Reg.I32, f"{row.text} * {_SIDE}", "j")
        first_write = em.constant(scope, Reg.I32, f"{column.text} * {_SIDE}", "i")
        arrays = self._arrays()
        steps = [f"tid / {_SIDE} + {n}" for n in range(0, _SIDE, self.threads // _SIDE)]
        lane = f"tid % {_SIDE}"
        kept = [self.rewrite(x) for x in self.turned.loads]
        points = [self._point(base, first_read, lane, first_write, step) for step in steps]
        values = [[em.value(x, point) for x in kept] for point in points]  # type: ignore[arg-type]
        for step, line in zip(steps, values, strict=True):
            for array, value in zip(arrays, line, strict=True):
                text = em.converted(value, self.shared[array][0]).text
                scope.block.add(f"{array}[({step}) * {_SIDE + 1} + {lane}] = {text};")
        scope.block.add(em.dialect.barrier_line())
        stores = [self.rewrite(s) for s in self.turned.stores]
        scopes = []
        for step in steps:
            point = self._point(base, first_read, step, first_write, lane)
            for array, x in zip(arrays, kept, strict=True):
                held = em.constant(
                    point,
                    self.shared[array][0],
                    f"{array}[({lane}) * {_SIDE + 1} + {step}]",
                    "x",
                )
                home = point.home(free_ranges(x))
                home.values[x] = em.converted(held, register(x))  # type: ignore[arg-type]
            scopes.append(point)
        em.store_all(stores, scopes)  # type: ignore[arg-type]

    def _arrays(self) -> list[str]:
        names = []
        for x in self.turned.loads:
            name = self.em.name(f"turned{self.em.stage}_")
            self.shared[name] = (register_of(x.dtype), _SIDE * (_SIDE + 1))
            names.append(name)
        return names

    def _point(self, base: Scope, read: Val, at: str, write: Val, along: str) -> Scope:
        """The scope of the point `at`, `along` of the tile that begins at `read`, `write`."""
        em, t = self.em, self.turned
        j = em.constant(base, Reg.I32, f"{read.text} + {at}", "j")
        i = em.constant(base, Reg.I32, f"{write.text} + {along}", "i")
        scope = base.beside({t.read: j, t.write: i})
        tests = []
        for value, r in ((j, t.read), (i, t.write)):
            if r.extent % _SIDE:
                tests.append(f"({value.text} < {r.extent})")
        if tests:
            scope.guard = em.constant(base, Reg.BOOL, em.dialect.all_of(tests), "g").text
        return scope
