"""Writes a nest for a block of threads: units to teams, phases to loops or to registers.

A row that fits the registers of its team is read once: every phase goes through the same unrolled
steps, and what one phase has evaluated at a step is still there for the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from niello.codegen.access import body_of, cost
from niello.codegen.gpu.accumulate import (
    Accumulator,
    Team,
    begin,
    identity,
    join,
    points_of,
    result_of,
)
from niello.codegen.gpu.blocks import Lanes, Scope, Val
from niello.codegen.gpu.expressions import Emitter
from niello.codegen.gpu.flat import Flat, Rewriter, flatten
from niello.codegen.gpu.phases import Nest, Phase
from niello.codegen.gpu.registers import Reg, register_of
from niello.codegen.gpu.target import GpuTarget
from niello.codegen.gpu.teams import Mapping
from niello.kernel.bounds import is_multiple
from niello.kernel.build import ravel
from niello.kernel.ir import ArgReduce, Expr, Range, free_ranges

_SHORT = 16  # points that a thread alone goes through without a loop
_LONGEST_TEXT = 4000  # instructions, roughly, that an unrolled phase may have


def inline_reduce(em: Emitter, node: Expr, scope: Scope) -> Val:
    """A reduction that one thread evaluates by loops, at the point of a scope."""
    if points_of(node) == 0:
        reg = register_of(node.dtype)
        value = 0 if isinstance(node, ArgReduce) else identity(node)
        # A variable: some languages refuse to divide constants by zero.
        return em.variable(scope, reg, em.dialect.literal(value, reg))
    accumulator = begin(em, node, scope)
    ranges: tuple[Range, ...] = node.ranges  # type: ignore[attr-defined]
    _loops(em, ranges, scope, lambda inner: _term(em, accumulator, ranges, inner))
    return result_of(em, node, accumulator.parts)


def _term(em: Emitter, accumulator: Accumulator, ranges: Sequence[Range], scope: Scope) -> None:
    value = em.value(body_of(accumulator.node), scope)
    position = _position(em, accumulator.node, ranges, scope)
    join(em, accumulator, value, position, scope)


def _position(em: Emitter, node: Expr, ranges: Sequence[Range], scope: Scope) -> Val | None:
    """The row-major position of a term of an ArgReduce."""
    if not isinstance(node, ArgReduce):
        return None
    return em.value(ravel(ranges, [r.extent for r in ranges]), scope)


def _loops(em: Emitter, ranges: Sequence[Range], scope: Scope, body) -> None:  # type: ignore[no-untyped-def]
    """Loops over ranges, outermost first, around what `body` writes into the innermost scope."""
    if not ranges:
        body(scope)
        return
    first, *rest = ranges
    name = em.name("r")
    inner = scope.inner({first: Val(name, Reg.I32)})
    _loops(em, rest, inner, body)
    head = em.dialect.loop(name, "0", str(first.extent), "1")
    if first.extent <= 8:
        head = em.dialect.unrolled(head, first.extent)
    scope.block.close(head, inner.block)


class NestWriter:
    """Writes one nest for blocks of `threads` threads."""

    def __init__(
        self, em: Emitter, nest: Nest, mapping: Mapping, target: GpuTarget, threads: int
    ) -> None:
        self.em = em
        self.nest = nest
        self.mapping = mapping
        self.target = target
        self.threads = threads
        self.team = Team(em, mapping.team, mapping.rows, threads, "tid")
        self.units = flatten(nest.units, mapping.unit_lanes, "unit")
        rewrite = Rewriter(self.units.mapping)
        self.phases = [
            Phase(
                p.ranges,
                tuple((rewrite(n), rewrite(b)) for n, b in p.reductions),  # type: ignore[misc]
                tuple(rewrite(s) for s in p.stores),  # type: ignore[misc]
                None if p.limit is None else rewrite(p.limit),  # type: ignore[arg-type]
            )
            for p in nest.phases
        ]

    @property
    def shared(self) -> dict[str, tuple[Reg, int]]:
        """The arrays that the threads of a block share."""
        return self.team.shared

    @shared.setter
    def shared(self, arrays: dict[str, tuple[Reg, int]]) -> None:
        self.team.shared = arrays

    def describe(self) -> str:
        """For the dump."""
        return self.mapping.describe()

    @property
    def blocks(self) -> int:
        """Blocks that the nest takes."""
        return -(-self.units.chunk.extent // self.mapping.units_per_block(self.threads))

    # --- units
    def write(self, scope: Scope, block: str) -> None:
        """The code of one block of threads."""
        m, em = self.mapping, self.em
        if m.team == 1:
            self._alone(scope, block)
            return
        per_block = self.threads // m.team
        first = f"{block} * {per_block} + {self.team.place()}" if per_block > 1 else block
        extent = self.units.chunk.extent
        unit = em.constant(scope, Reg.I32, first, "u")
        inner = scope
        active: str | None = None
        if extent % per_block:
            # Teams beyond the end go along, for the barriers, and store nothing.
            active = em.constant(scope, Reg.BOOL, f"({unit.text} < {extent})", "live").text
            last = em.dialect.literal(extent - 1, Reg.I32)
            unit = em.constant(scope, Reg.I32, em.dialect.select(active, unit.text, last), "u")
        inner = scope.beside({self.units.chunk: unit})
        self._unit([inner], active)

    def _alone(self, scope: Scope, block: str) -> None:
        """Each thread works on its own units."""
        m = self.mapping
        extent = self.units.chunk.extent
        whole = extent - (1 if self.units.tail else 0)
        for n in range(1 if self._shared_chunks() else m.chunks):
            chunks = m.chunks if self._shared_chunks() else 1
            self._chunk_group(scope, block, n, chunks, whole)

    def _shared_chunks(self) -> bool:
        """Whether the chunks of a thread are evaluated together, so that their loads overlap."""
        return self.mapping.chunks > 1

    def _chunk_group(self, scope: Scope, block: str, n: int, chunks: int, whole: int) -> None:
        em, m = self.em, self.mapping
        start = f"{block} * {self.threads * m.chunks} + tid"
        if self._big():
            start = em.dialect.wide_index(block, self.threads * m.chunks)
        reg = Reg.I64 if self._big() else Reg.I32
        names = []
        for k in range(chunks):
            offset = (n + k) * self.threads
            text = f"{start} + {offset}" if offset else start
            names.append(em.constant(scope, reg, text, "u"))
        covered = self.blocks * self.threads * m.chunks
        if covered == whole and not self.units.tail:
            self._unit([scope.beside({self.units.chunk: u}) for u in names], None)
            return
        last = names[-1]
        limit = em.dialect.literal(whole, reg)
        inner = scope.inner(closed=True)
        self._unit([inner.beside({self.units.chunk: u}) for u in names], None)
        scope.block.close(f"if ({em.dialect.compare('lt', reg, last.text, limit)}) {{", inner.block)
        if chunks > 1:
            for u in names:
                self._single(scope, u, whole, before=last)
        if self.units.tail:
            for u in names:
                self._tail(scope, u, whole)

    def _single(self, scope: Scope, u: Val, whole: int, before: Val) -> None:
        """One chunk, where not all chunks of the thread exist."""
        em = self.em
        limit = em.dialect.literal(whole, u.reg)
        tests = [
            em.dialect.compare("lt", u.reg, u.text, limit),
            em.dialect.compare("le", before.reg, limit, before.text),
        ]
        inner = scope.inner(closed=True)
        self._unit([inner.beside({self.units.chunk: u})], None)
        scope.block.close(f"if ({em.dialect.all_of(tests)}) {{", inner.block)

    def _tail(self, scope: Scope, u: Val, whole: int) -> None:
        """The points after the last whole chunk, one by one."""
        em = self.em
        inner = scope.inner(closed=True)
        name = em.name("t")
        loop = inner.inner({self.units.chunk: u, self.units.lane: Val(name, Reg.I32)})
        self._phases_alone(loop)
        inner.block.close(em.dialect.loop(name, "0", str(self.units.tail), "1"), loop.block)
        test = em.dialect.compare("eq", u.reg, u.text, em.dialect.literal(whole, u.reg))
        scope.block.close(f"if ({test}) {{", inner.block)

    def _big(self) -> bool:
        return self.units.chunk.extent + self.threads * self.mapping.chunks >= 2**31

    def _phases_alone(self, scope: Scope) -> None:
        """All phases at one point, without lanes."""
        _UnitWriter(self, [scope], None, plain=True).write()

    def _unit(self, scopes: list[Scope], active: str | None) -> None:
        _UnitWriter(self, scopes, active).write()


class _UnitWriter:
    """Writes the phases at some groups of units, each with a scope."""

    def __init__(
        self, writer: NestWriter, scopes: list[Scope], active: str | None, *, plain: bool = False
    ) -> None:
        self.w = writer
        self.em = writer.em
        self.active = active
        self.base = scopes[0]
        self.steps: dict[tuple[Range, ...], list[Lanes]] = {}
        self.flats: dict[tuple[Range, ...], tuple[Flat, Rewriter]] = {}
        width = 1 if plain else writer.units.width
        axis = writer.units.lane
        self.points: list[Scope] = []  # one for each unit that this thread works on
        self.groups: list[Lanes | None] = []
        for scope in scopes:
            if width == 1:
                self.groups.append(None)
                self.points.append(scope)
            else:
                lanes = self._lanes(scope, axis, width)
                self.groups.append(lanes)
                self.points += lanes.scopes

    def _lanes(self, base: Scope, axis: Range, width: int) -> Lanes:
        return Lanes(base, axis, [self.em.literal(n, Reg.I32) for n in range(width)])

    def write(self) -> None:
        for phase in self.w.phases:
            if phase.reductions:
                self._reduce(phase)
            if phase.stores:
                self._store(phase)

    # --- how a phase is walked
    def _unrolls(self, phase: Phase) -> bool:
        """Whether the points of a phase become registers rather than a loop."""
        m = self.w.mapping
        if phase.limit is not None:
            return False
        if m.team == 1:
            return phase.points * len(self.points) <= _SHORT and phase.points > 0
        each = -(-phase.points // m.team)
        short = each * cost(phase.roots) <= _LONGEST_TEXT
        return m.rows and each <= self.w.target.row_values and short

    def _flat(self, phase: Phase) -> tuple[Flat, Rewriter]:
        found = self.flats.get(phase.ranges)
        if found is None:
            width = self.w.mapping.row_lanes
            while phase.points % width or (phase.limit and not is_multiple(phase.limit, width)):
                width //= 2
            flat = flatten(phase.ranges, width, f"row{len(self.flats)}")
            found = self.flats[phase.ranges] = (flat, Rewriter(flat.mapping))
        return found

    def _chunk_count(self, phase: Phase, flat: Flat) -> str:
        if phase.limit is None:
            return str(flat.chunk.extent)
        limit = self.em.value(phase.limit, self.base)
        return f"{limit.text} / {flat.width}" if flat.width > 1 else limit.text

    def _steps(self, phase: Phase, flat: Flat) -> list[Lanes]:
        """The unrolled steps of a phase; phases over the same ranges share them."""
        found = self.steps.get(phase.ranges)
        if found is not None:
            return found
        found = []
        size, extent = self.w.team.size, flat.chunk.extent
        rank = self.w.team.rank()
        for n in range(-(-extent // size)):
            first = n * size
            text = str(n) if size == 1 else f"{rank} + {first}" if n else rank
            if size == 1:
                position = self.em.literal(n, Reg.I32)
            else:
                position = self.em.constant(self.base, Reg.I32, text, "j")
            scope = self.base.beside({flat.chunk: position})
            if first + size > extent:
                scope.guard = self.em.constant(
                    self.base, Reg.BOOL, f"({position.text} < {extent})", "g"
                ).text
            found.append(self._lanes(scope, flat.lane, flat.width))
        self.steps[phase.ranges] = found
        return found

    # --- reductions
    def _reduce(self, phase: Phase) -> None:
        em = self.em
        nodes = [node for node, _ in phase.reductions]
        if phase.points == 0:
            for point in self.points:
                for node in nodes:
                    point.values[node] = inline_reduce(em, node, point)
            return
        flat, rewrite = self._flat(phase)
        bodies = [rewrite(body) for _, body in phase.reductions]
        if self._unrolls(phase) and len(self.points) == 1:
            held = self._unrolled(phase, flat, nodes, bodies)  # type: ignore[arg-type]
        elif self.w.mapping.team == 1 and phase.limit is None:
            held = self._nested(phase)
        else:
            held = self._looped(phase, flat, nodes, bodies)  # type: ignore[arg-type]
        for point, accumulators in zip(self.points, held, strict=True):
            combined = self.w.team.combined(accumulators, self.base)
            for node, parts in zip(nodes, combined, strict=True):
                # What depends on the result alone looks for it where it may be evaluated itself.
                point.home(free_ranges(node)).values[node] = result_of(em, node, parts)

    def _unrolled(
        self, phase: Phase, flat: Flat, nodes: Sequence[Expr], bodies: Sequence[Expr]
    ) -> list[list[Accumulator]]:
        em = self.em
        steps = self._steps(phase, flat)
        held = [begin(em, node, self.base) for node in nodes]
        for lanes in steps:
            for scope in lanes.scopes:
                for accumulator, body in zip(held, bodies, strict=True):
                    value = em.value(body, scope)
                    position = self._where(accumulator.node, flat, scope)
                    join(em, accumulator, value, position, scope)
        return [held]

    def _where(self, node: Expr, flat: Flat, scope: Scope) -> Val | None:
        if not isinstance(node, ArgReduce):
            return None
        position: Expr = flat.chunk * flat.width + flat.lane
        if flat.width == 1:
            position = flat.chunk
        return self.em.value(position, scope)

    def _looped(
        self, phase: Phase, flat: Flat, nodes: Sequence[Expr], bodies: Sequence[Expr]
    ) -> list[list[Accumulator]]:
        """A loop in which the team goes through the points together."""
        em, base = self.em, self.base
        width = flat.width
        held = [
            [[begin(em, node, base) for node in nodes] for _ in range(width)] for _ in self.points
        ]
        stop = self._chunk_count(phase, flat)
        name = em.name("j")
        inner = base.inner({flat.chunk: Val(name, Reg.I32)})
        for row, point in self._inner_points(inner):
            lanes = self._lanes(point, flat.lane, width)
            for accumulators, scope in zip(held[row], lanes.scopes, strict=True):
                if width == 1:
                    scope.lanes, scope.lane = point.lanes, point.lane
                for accumulator, body in zip(accumulators, bodies, strict=True):
                    value = em.value(body, scope)
                    join(em, accumulator, value, self._where(accumulator.node, flat, scope), scope)
        rank = self.w.team.rank()
        head = em.dialect.loop(name, rank, stop, str(self.w.team.size))
        base.block.close(em.dialect.unrolled(head, 4), inner.block)
        return [self._folded(several) for several in held]

    def _folded(self, several: list[list[Accumulator]]) -> list[Accumulator]:
        """The accumulators of all lanes in those of the first."""
        first, *rest = several
        for others in rest:
            for a, b in zip(first, others, strict=True):
                position = b.position
                join(self.em, a, b.value, position, self.base)
        return first

    def _inner_points(self, inner: Scope) -> list[tuple[int, Scope]]:
        """The units of this thread inside a loop, with what is known about each."""
        if len(self.points) == 1:
            return [(0, inner)]
        found: list[tuple[int, Scope]] = []
        for group in self.groups:
            assert group is not None
            lanes = self._lanes(inner, self.w.units.lane, group.width)
            for outside, scope in zip(group.scopes, lanes.scopes, strict=True):
                scope.values.update(outside.values)
                found.append((len(found), scope))
        return found

    def _nested(self, phase: Phase) -> list[list[Accumulator]]:
        """Loops of one thread over the ranges of a phase."""
        em = self.em
        held = [[begin(em, node, self.base) for node, _ in phase.reductions] for _ in self.points]

        def body(inner: Scope) -> None:
            for row, scope in self._inner_points(inner):
                for accumulator, (_, term) in zip(held[row], phase.reductions, strict=True):
                    position = _position(em, accumulator.node, phase.ranges, scope)
                    join(em, accumulator, em.value(term, scope), position, scope)

        _loops(em, phase.ranges, self.base, body)
        return held

    # --- stores
    def _store(self, phase: Phase) -> None:
        em, team = self.em, self.w.team
        if not phase.ranges:
            live = [] if self.active is None else [self.active]
            if team.size > 1:
                live.append(f"({team.rank()} == 0)")
            for point in self.points:
                point.live = live
            em.store_all(phase.stores, self.points)
            return
        flat, rewrite = self._flat(phase)
        stores = [rewrite(s) for s in phase.stores]
        live = [] if self.active is None else [self.active]
        if self._unrolls(phase) and len(self.points) == 1:
            scopes = [s for lanes in self._steps(phase, flat) for s in lanes.scopes]
            for scope in scopes:
                scope.live = live
            em.store_all(stores, scopes)  # type: ignore[arg-type]
            return
        name = em.name("j")
        inner = self.base.inner({flat.chunk: Val(name, Reg.I32)})
        scopes = []
        for _, point in self._inner_points(inner):
            lanes = self._lanes(point, flat.lane, flat.width)
            if flat.width == 1:
                lanes.scopes[0].lanes, lanes.scopes[0].lane = point.lanes, point.lane
            scopes += lanes.scopes
        for scope in scopes:
            scope.live = live
        em.store_all(stores, scopes)  # type: ignore[arg-type]
        rank = team.rank()
        head = em.dialect.loop(name, rank, self._chunk_count(phase, flat), str(team.size))
        self.base.block.close(head, inner.block)
