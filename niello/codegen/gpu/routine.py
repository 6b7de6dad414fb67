"""Routines as launches: a team is a block of threads, which share out the iterations of a Spread.

All threads of a block walk the uniform statements together. One of them writes; a barrier stands
between what some thread writes and what another one reads, and between what all have read and what
one overwrites. Values that decide the way through uniform statements pass through shared memory,
where the language wants to be sure that all threads agree on them.
"""

from __future__ import annotations

from collections.abc import Sequence

from niello.codegen.gpu.blocks import Block, Scope, Val
from niello.codegen.gpu.c_style import CStyle
from niello.codegen.gpu.entry import Entry, Writer, entry_grid, entry_launch, identifier
from niello.codegen.gpu.expressions import Emitter, Reducer
from niello.codegen.gpu.kernel import GpuKernel
from niello.codegen.gpu.registers import Reg, register, register_of
from niello.codegen.gpu.routine_long import split_scan
from niello.codegen.gpu.routine_memory import Access, Memory
from niello.codegen.gpu.routine_neighbours import run_length, write_run
from niello.codegen.gpu.routine_scan import ScanWriter
from niello.codegen.gpu.routine_team import TeamWriter, spread_lines
from niello.codegen.gpu.routine_uniform import deciding
from niello.codegen.gpu.target import GpuTarget
from niello.codegen.transcendental import Native, expand_statements
from niello.core.errors import CompilerBug
from niello.kernel.ir import Const, Expr, Param, Range
from niello.kernel.routine import (
    Body,
    Cell,
    Combine,
    Declare,
    Fold,
    For,
    Get,
    If,
    Local,
    Place,
    Read,
    Routine,
    Scan,
    Set,
    Spread,
    Statement,
    Var,
    While,
    Write,
)


def render_routine(
    made: Routine, dialect: CStyle, target: GpuTarget, native: Native, write: Writer
) -> GpuKernel:
    """The launch of a routine; arguments as those of `render`."""
    made = expand_statements(made, native)
    if made.teams == 0:
        return GpuKernel(made.name, "", ())
    parts = split_scan(made, target)
    if parts is not None:
        return render_several(made.name, *parts, dialect, target, write)
    memory = Memory(made, target, min(made.members, target.most_threads))
    entry = routine_entry(identifier(made.name), memory, dialect)
    note = f"{entry.name}: {made.teams} teams of {memory.members}, {memory.blocks} at once"
    launch = entry_launch(entry, target)
    return GpuKernel(made.name, write([entry]), (launch,), tuple(memory.scratch), notes=(note,))


def render_several(
    title: str,
    routines: Sequence[Routine],
    scratch: Sequence[Param],
    dialect: CStyle,
    target: GpuTarget,
    write: Writer,
    reduce: Reducer | None = None,
) -> GpuKernel:
    """The launches of routines that follow each other, with the scratch buffers between them."""
    base = identifier(title)
    entries, notes, buffers = [], [], list(scratch)
    for n, made in enumerate(routines):
        members = min(made.members, target.most_threads)
        memory = Memory(made, target, members, len(buffers), n)
        buffers += memory.spilled.values()
        entries.append(routine_entry(base if n == 0 else f"{base}_{n}", memory, dialect, reduce))
        notes.append(f"{entries[-1].name}: {made.name}, {made.teams} teams of {members}")
    launches = tuple(entry_launch(e, target) for e in entries)
    sizes = tuple(-(-p.elements * p.dtype.itemsize // 256) * 256 for p in buffers)
    return GpuKernel(title, write(entries), launches, sizes, notes=tuple(notes))


def routine_entry(
    name: str, memory: Memory, dialect: CStyle, reduce: Reducer | None = None
) -> Entry:
    """The entry point of the routine that `memory` is of. `reduce` writes reductions of index
    notation, where there may be some."""
    made, target = memory.made, memory.target
    dialect.stage = memory.stage
    em = Emitter(dialect, reduce or _no_reduction, memory.stage)
    root = Block(1)
    scope = Scope(None, root)
    grid = entry_grid(memory.blocks, target)
    several = memory.blocks < made.teams  # teams that a block takes one after the other
    alone = grid[0] * grid[1] == made.teams
    inner = scope if alone else scope.inner(closed=True)
    writer = RoutineWriter(em, memory)
    inner.ranges[made.team] = Val("team" if several else "block", Reg.I32)
    inner.ranges[memory.block] = Val("block", Reg.I32)
    writer.body(made.body, inner)
    if several:
        writer.settle(inner)
        first = dialect.loop("team", "block", str(made.teams), str(memory.blocks))
        if grid[0] * grid[1] == memory.blocks:
            scope.block.close(first, inner.block)
        else:
            scope.block.close(f"if (block < {memory.blocks}) {{ {first}", inner.block, "} }")
    elif not alone:
        scope.block.close(f"if (block < {made.teams}) {{", inner.block)
    params = tuple(sorted(em.used, key=lambda p: p.slot))
    written = tuple(em.used[p] for p in params)
    lines = tuple(root.lines)
    return Entry(name, params, written, memory.shared, memory.members, grid, lines, memory.stage)


def _no_reduction(em: Emitter, node: Expr, scope: Scope) -> Val:
    raise CompilerBug("GPU code", "index notation in a routine", received=repr(node))


class RoutineWriter:
    """Writes statements. `inside` is the Spread, Fold or Scan being written, if any."""

    def __init__(self, em: Emitter, memory: Memory) -> None:
        self.em, self.dialect, self.memory = em, em.dialect, memory
        self.access = Access(em, memory)
        self.cells: dict[Cell, str] = {}
        self.inside = False
        self.deciding = deciding(memory.made)
        # What has happened since the last barrier: uniform reads of what may be overwritten, and
        # writes by one thread.
        self.read_since: set[Place] = set()
        self.written_since: set[Place] = set()

    # --- barriers
    def barrier(self, scope: Scope, places: Sequence[Place] = ()) -> None:
        """Make what was written visible to all threads."""
        for line in self.dialect.barrier_lines(self.in_buffer({*places, *self.written_since})):
            scope.block.add(line)
        self.read_since.clear()
        self.written_since.clear()

    def in_buffer(self, places: set[Place]) -> bool:
        """Whether some of the places lie in buffers."""
        return any(self.memory.buffer(p) is not None for p in places)

    def settle(self, scope: Scope) -> None:
        """A barrier if anything is outstanding."""
        if self.read_since or self.written_since:
            self.barrier(scope)

    # --- statements
    def body(self, body: Body, scope: Scope) -> None:
        """Statements in order; neighbouring elements in one access."""
        at = 0
        while at < len(body):
            length = run_length(self, body, at) if self.inside else 1
            if length > 1:
                write_run(self, body[at : at + length], scope)
            else:
                self.statement(body[at], scope)
            at += length

    def block(self, head: str, body: Body, scope: Scope, ranges: dict[Range, Val]) -> Block:
        """A body in brackets; its lines are added by the caller."""
        inner = scope.inner(ranges, closed=True)
        self.body(body, inner)
        if not self.inside:
            self.settle(inner)
        return inner.block

    def statement(self, s: Statement, scope: Scope) -> None:
        if isinstance(s, Read):
            self._read(s, scope)
        elif isinstance(s, Get):
            self.define(s.var, Val(self.cells[s.cell], register_of(s.cell.dtype)), scope)
        elif isinstance(s, Declare):
            self._declare(s, scope)
        elif isinstance(s, Set):
            value = self.em.converted(self.em.value(s.value, scope), register_of(s.cell.dtype))
            scope.block.add(f"{self.cells[s.cell]} = {value.text};")
        elif isinstance(s, Write):
            self._write(s, scope)
        elif isinstance(s, Combine):
            scope.block.add(self.access.combine_line(s, scope))
        elif isinstance(s, For):
            self._for(s, scope)
        elif isinstance(s, While):
            self._while(s, scope)
        elif isinstance(s, If):
            self._if(s, scope)
        elif isinstance(s, (Spread, Fold, Scan)):
            self._team(s, scope)
        else:
            raise CompilerBug("GPU code", "an unknown statement", received=repr(s))

    def define(self, name: Var, value: Val, scope: Scope) -> None:
        """Give a variable its value, as it is now."""
        held = self.em.converted(value, register(name))
        scope.ranges[name] = self.em.constant(scope, held.reg, held.text)

    def _declare(self, s: Declare, scope: Scope) -> None:
        reg = register_of(s.cell.dtype)
        value = self.em.converted(self.em.value(s.value, scope), reg)
        self.cells[s.cell] = self.em.variable(scope, reg, value.text, "c").text

    # --- memory
    def _changes(self, place: Place) -> bool:
        return isinstance(place, Local) or place.written

    def _read(self, s: Read, scope: Scope) -> None:
        if not self.inside and s.place in self.written_since:
            self.barrier(scope)
        if not self.inside and s.var in self.deciding and self.dialect.wants_agreement:
            self._agreed(s, scope)
            return
        self.define(s.var, self.access.read(s.place, s.index, scope), scope)
        if not self.inside and self._changes(s.place):
            self.read_since.add(s.place)

    def _agreed(self, s: Read, scope: Scope) -> None:
        """Read by one thread, and handed to all."""
        found = self.em.converted(self.access.read(s.place, s.index, scope), register(s.var))
        array = self.memory.share(f"u_{found.reg.value}", found.reg, 1)
        scope.block.add(f"if (tid == 0) {{ {array}[0] = {found.text}; }}")
        name = self.em.name()
        for line in self.dialect.agreed_lines(array, name, found.reg):
            scope.block.add(line)
        scope.ranges[s.var] = Val(name, found.reg)

    def _write(self, s: Write, scope: Scope) -> None:
        if self.inside:
            for line in self.access.write_lines(s.place, s.index, s.value, scope):
                scope.block.add(line)
            return
        if self.read_since:
            self.barrier(scope)
        lines = self.access.write_lines(s.place, s.index, s.value, scope)
        scope.block.add("if (tid == 0) {")
        for line in lines:
            scope.block.add("  " + line)
        scope.block.add("}")
        self.written_since.add(s.place)

    # --- control
    def _for(self, s: For, scope: Scope) -> None:
        em, dialect = self.em, self.dialect
        if not self.inside:
            self.settle(scope)
        start, stop, step = (
            em.converted(em.value(e, scope), Reg.I32).text for e in (s.start, s.stop, s.step)
        )
        name = em.name("i")
        down = isinstance(s.step, Const) and s.step.value < 0
        head = dialect.loop(name, start, stop, step)
        if down:
            head = head.replace(f"{name} < {stop}", f"{name} > {stop}")
        inner = self.block(head, s.body, scope, {s.var: Val(name, Reg.I32)})
        scope.block.close(head, inner)

    def _while(self, s: While, scope: Scope) -> None:
        if not self.inside:
            self.settle(scope)
        inner = scope.inner(closed=True)
        self.body(s.test, inner)
        if not self.inside:
            self.settle(inner)
        test = self.em.value(s.condition, inner)
        inner.block.add(f"if (!{test.text}) {{ break; }}")
        self.body(s.body, inner)
        if not self.inside:
            self.settle(inner)
        scope.block.close(self.dialect.forever, inner.block)

    def _if(self, s: If, scope: Scope) -> None:
        if not self.inside:
            self.settle(scope)
        test = self.em.value(s.condition, scope)
        scope.block.close(f"if ({test.text}) {{", self.block("", s.then, scope, {}))
        if s.otherwise:
            inner = self.block("", s.otherwise, scope, {})
            scope.block.close(f"if (!{test.text}) {{", inner)

    # --- teams
    def _team(self, s: Spread | Fold | Scan, scope: Scope) -> None:
        self.settle(scope)
        self.inside = True
        if isinstance(s, Spread):
            written = spread_lines(self, s, scope)
            self.inside = False
            self.barrier(scope, written)
            return
        if isinstance(s, Fold):
            TeamWriter(self).fold(s, scope)
        else:
            ScanWriter(self).scan(s, scope)
        self.inside = False
