"""Spread, Fold and Scan on a block of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from niello.codegen.gpu.blocks import Scope, Val
from niello.codegen.gpu.registers import Reg, register, register_of
from niello.codegen.gpu.routine_memory import exchange_name
from niello.core.nodes import walk
from niello.kernel.ir import Const, Expr, Range
from niello.kernel.routine import (
    Combine,
    Fold,
    Local,
    Place,
    Read,
    Scan,
    Spread,
    Var,
    Write,
    defined,
    expressions,
    statements,
)

if TYPE_CHECKING:
    from niello.codegen.gpu.routine import RoutineWriter


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
    return _written(s)


def private_arrays(writer: RoutineWriter, s: Spread | Fold | Scan, scope: Scope) -> None:
    """Declare the locals that each iteration has for itself."""
    used: dict[Local, None] = {}
    for x in statements([s]):
        place = x.place if isinstance(x, (Read, Write, Combine)) else None
        if isinstance(place, Local) and place.space == "member":
            used[place] = None
    for t in used:
        scope.block.add(writer.dialect.array_line(register_of(t.dtype), t.name, t.elements))


def _written(s: Spread | Fold | Scan) -> list[Place]:
    return [x.place for x in statements([s]) if isinstance(x, (Write, Combine))]


class TeamWriter:
    """Writes folds and scans, through arrays with an element for each thread."""

    def __init__(self, writer: RoutineWriter) -> None:
        self.writer, self.em, self.dialect = writer, writer.em, writer.dialect
        self.members = writer.memory.members

    # --- pieces
    def _arrays(self, s: Fold | Scan) -> list[tuple[str, Reg]]:
        found = []
        for n, e in enumerate(s.given):
            reg = register_of(e.dtype)
            name = exchange_name(n, reg)
            self.writer.memory.shared[name] = (reg, self.members)
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

    # --- folds
    def fold(self, s: Fold, scope: Scope) -> None:
        """Every thread folds its iterations, then halves of the threads are put together."""
        em = self.em
        arrays = self._arrays(s)
        running = self._variables(s.identities, scope)
        count = em.converted(em.value(s.count, scope), Reg.I32).text
        name = em.name("m")
        inner = scope.inner({s.var: Val(name, Reg.I32)}, closed=True)
        private_arrays(self.writer, s, inner)
        self.writer.body(s.body, inner)
        given = [em.converted(em.value(e, inner), register_of(e.dtype)) for e in s.given]
        self._assign([x.text for x in running], self._combined(s, running, given, inner), inner)
        scope.block.close(self.dialect.loop(name, "tid", count, str(self.members)), inner.block)
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

    # --- scans
    def scan(self, s: Scan, scope: Scope) -> None:
        """Rounds of as many iterations as there are threads; each carries on to the next."""
        em, dialect = self.em, self.dialect
        arrays = self._arrays(s)
        carried = self._variables(s.initial, scope)
        count = em.converted(em.value(s.count, scope), Reg.I32).text
        base = em.name("base")
        round_ = scope.inner(closed=True)
        at = em.constant(round_, Reg.I32, f"{base} + tid", "m")
        there = f"{at.text} < {count}"
        own = self._variables(s.identities, round_)
        first = round_.inner({s.var: at}, closed=True)
        private_arrays(self.writer, s, first)
        self.writer.body(s.body, first)
        given = [em.converted(em.value(e, first), register_of(e.dtype)) for e in s.given]
        self._assign([x.text for x in own], given, first)
        round_.block.close(f"if ({there}) {{", first.block)
        self._across(s, arrays, own, round_)
        last = round_.inner({s.var: at}, closed=True)
        self._then(s, arrays, carried, own, last)
        round_.block.close(f"if ({there}) {{", last.block)
        ends = []
        for array, reg in arrays:
            name = em.name()
            place = f"{array}[{self.members - 1}]"
            for line in dialect.agreed_lines(array, name, reg, place):
                round_.block.add(line)
            ends.append(Val(name, reg))
        following = self._combined(s, carried, ends, round_)
        self._assign([x.text for x in carried], following, round_)
        self._barrier(round_, self.writer._in_buffer(set(_written(s))))
        scope.block.close(dialect.loop(base, "0", count, str(self.members)), round_.block)
        for v, x in zip(s.totals, carried, strict=True):
            self.writer.define(v, x, scope)

    def _across(
        self, s: Scan, arrays: list[tuple[str, Reg]], own: Sequence[Val], scope: Scope
    ) -> None:
        """Leave in the arrays, and in `own`, the fold of the threads up to each."""
        self._assign([f"{a}[tid]" for a, _ in arrays], own, scope)
        self._barrier(scope)
        step = 1
        while step < self.members:
            inner = scope.inner(closed=True)
            earlier = [Val(f"{a}[tid - {step}]", r) for a, r in arrays]
            values = self._combined(s, earlier, own, inner)
            self._assign([x.text for x in own], values, inner)
            scope.block.close(f"if (tid >= {step}) {{", inner.block)
            self._barrier(scope)
            self._assign([f"{a}[tid]" for a, _ in arrays], own, scope)
            self._barrier(scope)
            step *= 2

    def _then(
        self,
        s: Scan,
        arrays: list[tuple[str, Reg]],
        carried: Sequence[Val],
        own: Sequence[Val],
        scope: Scope,
    ) -> None:
        em = self.em
        inside = list(statements(s.then))
        used = {n for x in inside for e in expressions(x) for n in walk([e])}
        if used & {v for x in statements(s.body) for v in defined(x)}:
            # What the values were made from is made again: it lay in other brackets.
            private_arrays(self.writer, s, scope)
            self.writer.body(s.body, scope)
        if used & set(s.after):
            found = self._combined(s, carried, own, scope)
            for v, x in zip(s.after, found, strict=True):
                self.writer.define(v, x, scope)
        if used & set(s.before):
            before = [em.variable(scope, c.reg, c.text, "a") for c in carried]
            inner = scope.inner(closed=True)
            earlier = [Val(f"{a}[tid - 1]", r) for a, r in arrays]
            values = self._combined(s, carried, earlier, inner)
            self._assign([x.text for x in before], values, inner)
            scope.block.close("if (tid > 0) {", inner.block)
            for v, x in zip(s.before, before, strict=True):
                self.writer.define(v, x, scope)
        self.writer.body(s.then, scope)
