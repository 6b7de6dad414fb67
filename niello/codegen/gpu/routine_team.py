"""Spread and Fold on a block of threads, and what Scan shares with Fold.

In a fold a thread takes several neighbouring iterations together, its lanes. What the threads have
found goes through their warp by exchanges of registers, and from warp to warp through shared
memory; languages without exchanges use shared memory for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from niello.codegen.gpu.blocks import Scope, Val
from niello.codegen.gpu.registers import Reg, register, register_of
from niello.codegen.gpu.routine_memory import exchange_name
from niello.codegen.gpu.routine_neighbours import LaneWriter, suits_lanes
from niello.kernel.bounds import interval
from niello.kernel.ir import Const, Expr, Range
from niello.kernel.routine import (
    Body,
    Combine,
    Fold,
    Local,
    Place,
    Read,
    Scan,
    Spread,
    Var,
    Write,
    statements,
)

if TYPE_CHECKING:
    from niello.codegen.gpu.routine import RoutineWriter

WARP = 32
LANES = 4  # iterations that a thread takes together


def spread_lines(writer: RoutineWriter, s: Spread, scope: Scope) -> list[Place]:
    """The iterations of each thread; returns the places that they write."""
    em, dialect = writer.em, writer.dialect
    members = writer.memory.members
    counts = [em.converted(em.value(e, scope), Reg.I32) for e in (*s.extents, s.count)]
    whole: Expr = s.count
    for e in s.extents:
        whole = whole * e
    count = em.converted(em.value(whole, scope), Reg.I32).text
    inner = scope.inner(closed=True)
    private_arrays(writer, s, inner)
    few = isinstance(whole, Const) and whole.value <= members
    name = "tid" if few else em.name("m")
    rest = name
    for n in range(len(s.outer), 0, -1):
        variable = s.outer[n] if n < len(s.outer) else s.var
        at = em.constant(inner, Reg.I32, f"{rest} % {counts[n].text}", "m")
        inner.ranges[variable] = at
        rest = em.constant(inner, Reg.I32, f"{rest} / {counts[n].text}", "m").text
    inner.ranges[s.outer[0] if s.outer else s.var] = Val(rest, Reg.I32)
    writer.body(s.body, inner)
    head = f"if (tid < {count}) {{" if few else dialect.loop(name, "tid", count, str(members))
    scope.block.close(head, inner.block)
    return written_places(s)


def private_arrays(writer: RoutineWriter, s: Spread | Fold | Scan, scope: Scope) -> None:
    """Declare the locals that each iteration has for itself."""
    used: dict[Local, None] = {}
    for x in statements([s]):
        place = x.place if isinstance(x, (Read, Write, Combine)) else None
        if isinstance(place, Local) and place.space == "member":
            used[place] = None
    for t in used:
        scope.block.add(writer.dialect.array_line(register_of(t.dtype), t.name, t.elements))


def written_places(s: Spread | Fold | Scan) -> list[Place]:
    return [x.place for x in statements([s]) if isinstance(x, (Write, Combine))]


class TeamWriter:
    """Writes folds and scans, through arrays with an element for each thread."""

    def __init__(self, writer: RoutineWriter) -> None:
        self.writer, self.em, self.dialect = writer, writer.em, writer.dialect
        self.members = writer.memory.members
        self.exchanges = self.dialect.has_shuffles and self.members >= WARP

    # --- pieces
    def _arrays(self, s: Fold | Scan) -> list[tuple[str, Reg]]:
        found = []
        for n, e in enumerate(s.given):
            reg = register_of(e.dtype)
            name = self.writer.memory.share(exchange_name(n, reg), reg, self.members)
            found.append((name, reg))
        return found

    def _variables(self, values: Sequence[Expr], scope: Scope) -> list[Val]:
        """Changing values that begin with those of expressions."""
        found = []
        for e in values:
            reg = register_of(e.dtype)
            value = self.em.converted(self.em.value(e, scope), reg)
            found.append(self.em.variable(scope, reg, value.text, "a"))
        return found

    def _combined(
        self, s: Fold | Scan, left: Sequence[Val], right: Sequence[Val], scope: Scope
    ) -> list[Val]:
        """The two tuples together; they may be elements of arrays and are read once."""
        names: dict[Range, Val] = {}
        for v, x in zip((*s.left, *s.right), (*left, *right), strict=True):
            held = self.em.converted(x, register(v))
            names[v] = self.em.constant(scope, held.reg, held.text)
        inner = scope.beside(names)
        inner.closed = True
        return [
            self.em.converted(self.em.value(e, inner), register_of(e.dtype)) for e in s.combined
        ]

    def _assign(self, targets: Sequence[str], values: Sequence[Val], scope: Scope) -> None:
        for target, value in zip(targets, values, strict=True):
            scope.block.add(f"{target} = {value.text};")

    def _agree(self, names: Sequence[Var], arrays: list[tuple[str, Reg]], scope: Scope) -> None:
        """Variables with the first elements of the arrays, alike for all threads."""
        for v, (array, reg) in zip(names, arrays, strict=True):
            name = self.em.name()
            for line in self.dialect.agreed_lines(array, name, reg):
                scope.block.add(line)
            held = self.em.converted(Val(name, reg), register(v))
            scope.ranges[v] = self.em.constant(scope, held.reg, held.text)

    def _barrier(self, scope: Scope, in_buffer: bool = False) -> None:
        for line in self.dialect.barrier_lines(in_buffer):
            scope.block.add(line)

    def _lanes(self, count: Expr, most: int, *bodies: Body) -> int:
        """How many neighbouring iterations a thread takes together."""
        if not all(suits_lanes(b) for b in bodies):
            return 1
        width, points = most, interval(count)[1]
        while width > 1 and width * self.members > points:
            width //= 2
        return width

    def _numbers(self, first: str, width: int, scope: Scope) -> list[Val]:
        """The numbers of the lanes that begin with an iteration."""
        more = [self.em.constant(scope, Reg.I32, f"{first} + {n}", "m") for n in range(1, width)]
        return [Val(first, Reg.I32), *more]

    def _named(self, values: Sequence[Val], scope: Scope) -> list[Val]:
        """Values under names of their own."""
        return [self.em.constant(scope, x.reg, x.text) for x in values]

    def _exchanged(self, values: Sequence[Val], mask: int, scope: Scope) -> list[Val]:
        """What another thread of the warp has."""
        texts = [self.dialect.shuffle(v, mask) for v in values]
        return [self.em.constant(scope, v.reg, t) for v, t in zip(values, texts, strict=True)]

    def _given(self, s: Fold | Scan, scope: Scope) -> list[Val]:
        """The tuple of the iteration that a scope stands for."""
        em = self.em
        return [em.converted(em.value(e, scope), register_of(e.dtype)) for e in s.given]

    # --- folds
    def fold(self, s: Fold, scope: Scope) -> None:
        """Every thread folds its iterations, then what the threads found is put together."""
        arrays = self._arrays(s)
        running = self._variables(s.identities, scope)
        self._walk(s, running, scope)
        if self.exchanges:
            self._fold_warps(s, arrays, running, scope)
            return
        self._assign([f"{a}[tid]" for a, _ in arrays], running, scope)
        half = self.members // 2
        while half:
            self._barrier(scope)
            inner = scope.inner(closed=True)
            left = [Val(f"{a}[tid]", r) for a, r in arrays]
            right = [Val(f"{a}[tid + {half}]", r) for a, r in arrays]
            values = self._combined(s, left, right, inner)
            self._assign([x.text for x in left], values, inner)
            scope.block.close(f"if (tid < {half}) {{", inner.block)
            half //= 2
        self._agree(s.results, arrays, scope)

    def _walk(self, s: Fold, running: Sequence[Val], scope: Scope) -> None:
        """The iterations of each thread, into its running values."""
        width = self._lanes(s.count, LANES if self.exchanges else 1, s.body)
        if not isinstance(s.count, Const) or s.count.value % width:
            width = 1
        count = self.em.converted(self.em.value(s.count, scope), Reg.I32).text
        name = self.em.name("m")
        inner = scope.inner({s.var: Val(name, Reg.I32)}, closed=True)
        scopes = [inner]
        if width == 1:
            private_arrays(self.writer, s, inner)
            self.writer.body(s.body, inner)
        else:
            numbers = self._numbers(name, width, inner)
            lanes = LaneWriter(self.writer, s.var, numbers, whole=True)
            scopes = lanes.scopes(range(width), inner)
            lanes.body(s.body, range(width), scopes)
        for own in scopes:
            together = self._combined(s, running, self._given(s, own), inner)
            self._assign([x.text for x in running], together, inner)
        first = "tid" if width == 1 else f"tid * {width}"
        head = self.dialect.loop(name, first, count, str(self.members * width))
        scope.block.close(head, inner.block)

    def _fold_warps(
        self, s: Fold, arrays: list[tuple[str, Reg]], running: Sequence[Val], scope: Scope
    ) -> None:
        """Through the warp, then from warp to warp."""
        mask = WARP // 2
        while mask:
            others = self._exchanged(running, mask, scope)
            together = self._combined(s, running, others, scope)
            self._assign([x.text for x in running], together, scope)
            mask //= 2
        self._leave(arrays, running, "0", scope)
        self._barrier(scope)
        # All threads put them together alike, so that all have the same bits.
        total = self._named([Val(f"{a}[0]", r) for a, r in arrays], scope)
        for warp in range(1, self.members // WARP):
            there = [Val(f"{a}[{warp}]", r) for a, r in arrays]
            total = self._named(self._combined(s, total, there, scope), scope)
        self._barrier(scope)
        for v, x in zip(s.results, total, strict=True):
            self.writer.define(v, x, scope)

    def _leave(
        self, arrays: list[tuple[str, Reg]], values: Sequence[Val], first: str, scope: Scope
    ) -> None:
        """The first thread of each warp leaves its values for the others, from `first` on."""
        inner = scope.inner(closed=True)
        at = f"tid / {WARP}" if first == "0" else f"{first} + tid / {WARP}"
        self._assign([f"{a}[{at}]" for a, _ in arrays], values, inner)
        scope.block.close(f"if (tid % {WARP} == 0) {{", inner.block)
