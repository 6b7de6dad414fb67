"""Scans on a block of threads, by rounds of as many iterations as the threads have lanes.

A thread folds its lanes in order. What comes before a thread is what earlier rounds carry, what
the warps before its own have found, and what the threads before it in its warp have: exchanges of
registers double the number of threads that each of them knows the fold of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from niello.codegen.gpu.blocks import Scope, Val
from niello.codegen.gpu.registers import Reg, register_of
from niello.codegen.gpu.routine_neighbours import LaneWriter
from niello.codegen.gpu.routine_team import (
    LANES,
    WARP,
    TeamWriter,
    private_arrays,
    written_places,
)
from niello.core.nodes import walk
from niello.kernel.ir import Const
from niello.kernel.routine import Scan, defined, expressions, statements

Arrays = list[tuple[str, Reg]]
Tuple = Sequence[Val]


@dataclass
class Round:
    """What a thread has of one round. Lanes of a group exist all or none."""

    lanes: LaneWriter
    groups: list[range]
    count: str
    full: bool  # all iterations of every round exist
    scopes: list[Scope] = field(default_factory=list)
    own: list[Tuple] = field(default_factory=list)  # by lane, the fold of the lanes up to it


class ScanWriter(TeamWriter):
    """Writes one scan."""

    def scan(self, s: Scan, scope: Scope) -> None:
        """The rounds, one after the other."""
        em = self.em
        arrays = self._arrays(s)
        carried = self._variables(s.initial, scope)
        width = self._lanes(s.count, LANES, s.body, s.then)
        size = self.members * width
        base = em.name("base")
        inner = scope.inner(closed=True)
        each = self._round(s, base, width, size, scope, inner)
        self._fold_lanes(s, each, inner)
        before, total = (self._across_warps if self.exchanges else self._across)(
            s, arrays, each.own[-1], f"{base} / {size}", inner
        )
        self._then(s, each, self._named(self._combined(s, carried, before, inner), inner), inner)
        following = self._combined(s, carried, total, inner)
        self._assign([x.text for x in carried], following, inner)
        written = self.writer.in_buffer(set(written_places(s)))
        if not self.exchanges:
            self._barrier(inner, written)
        scope.block.close(self.dialect.loop(base, "0", each.count, str(size)), inner.block)
        if self.exchanges:
            self._barrier(scope, written)
        for v, x in zip(s.totals, carried, strict=True):
            self.writer.define(v, x, scope)

    def _round(
        self, s: Scan, base: str, width: int, size: int, scope: Scope, inner: Scope
    ) -> Round:
        em = self.em
        count = em.converted(em.value(s.count, scope), Reg.I32).text
        first = em.constant(inner, Reg.I32, f"{base} + tid * {width}", "m")
        whole = width == 1 or (isinstance(s.count, Const) and s.count.value % width == 0)
        full = isinstance(s.count, Const) and s.count.value % size == 0
        lanes = LaneWriter(self.writer, s.var, self._numbers(first.text, width, inner), whole)
        groups = [range(width)] if whole else [range(n, n + 1) for n in range(width)]
        return Round(lanes, groups, count, full)

    def _close(self, each: Round, group: range, scope: Scope, inner: Scope) -> None:
        """End what is done where the lanes of a group exist."""
        if not each.full:
            number = each.lanes.numbers[group.start].text
            scope.block.close(f"if ({number} < {each.count}) {{", inner.block)

    def _body(self, s: Scan, each: Round, group: range, inner: Scope) -> list[Scope]:
        """The statements that make what is scanned; returns the lanes' scopes."""
        private_arrays(self.writer, s, inner)
        scopes = each.lanes.scopes(group, inner)
        each.lanes.body(s.body, group, scopes)
        return scopes

    def _fold_lanes(self, s: Scan, each: Round, scope: Scope) -> None:
        em = self.em
        before: Tuple = [
            em.converted(em.value(e, scope), register_of(e.dtype)) for e in s.identities
        ]
        for group in each.groups:
            held = [
                [em.variable(scope, x.reg, x.text, "a") for x in before]
                for _ in (() if each.full else group)
            ]
            inner = scope if each.full else scope.inner(closed=True)
            each.scopes = self._body(s, each, group, inner)
            for n, own in zip(group, each.scopes, strict=True):
                given = self._given(s, own)
                found = self._combined(s, before, given, inner) if n else given
                if each.full:
                    before = self._named(found, inner)
                else:
                    before = held[n - group.start]
                    self._assign([x.text for x in before], found, inner)
                each.own.append(before)
            self._close(each, group, scope, inner)

    # --- from thread to thread: the fold before a thread in this round, and that of all threads
    def _across_warps(
        self, s: Scan, arrays: Arrays, own: Tuple, number: str, scope: Scope
    ) -> tuple[Tuple, Tuple]:
        before = self._variables(s.identities, scope)
        total = [self.em.variable(scope, x.reg, x.text, "a") for x in own]
        step = 1
        while step < WARP:
            others = self._exchanged(total, step, scope)
            upper, lower = scope.inner(closed=True), scope.inner(closed=True)
            found = self._combined(s, others, before, upper)
            self._assign([x.text for x in before], found, upper)
            found = self._combined(s, others, total, upper)
            self._assign([x.text for x in total], found, upper)
            found = self._combined(s, total, others, lower)
            self._assign([x.text for x in total], found, lower)
            scope.block.close(f"if ((tid & {step}) != 0) {{", upper.block)
            scope.block.close("else {", lower.block)
            step *= 2
        warps = self.members // WARP
        if warps == 1:
            return before, self._named(total, scope)
        # Two halves of the arrays take turns: one barrier for each round.
        turn = self.em.constant(scope, Reg.I32, f"{number} % 2 * {warps}")
        self._leave(arrays, total, turn.text, scope)
        self._barrier(scope)
        earlier = self._variables(s.identities, scope)
        sum_ = self._variables(s.identities, scope)
        for warp in range(warps):
            there = self._named([Val(f"{a}[{turn.text} + {warp}]", r) for a, r in arrays], scope)
            if warp:
                inner = scope.inner(closed=True)
                self._assign([x.text for x in earlier], sum_, inner)
                scope.block.close(f"if (tid / {WARP} == {warp}) {{", inner.block)
            found = self._combined(s, sum_, there, scope)
            self._assign([x.text for x in sum_], found, scope)
        return self._combined(s, earlier, before, scope), sum_

    def _across(
        self, s: Scan, arrays: Arrays, own: Tuple, number: str, scope: Scope
    ) -> tuple[Tuple, Tuple]:
        """Through shared memory: each thread adds what lies ever further before it."""
        running = [self.em.variable(scope, x.reg, x.text, "a") for x in own]
        self._assign([f"{a}[tid]" for a, _ in arrays], running, scope)
        self._barrier(scope)
        step = 1
        while step < self.members:
            inner = scope.inner(closed=True)
            earlier = [Val(f"{a}[tid - {step}]", r) for a, r in arrays]
            values = self._combined(s, earlier, running, inner)
            self._assign([x.text for x in running], values, inner)
            scope.block.close(f"if (tid >= {step}) {{", inner.block)
            self._barrier(scope)
            self._assign([f"{a}[tid]" for a, _ in arrays], running, scope)
            self._barrier(scope)
            step *= 2
        before = self._variables(s.identities, scope)
        inner = scope.inner(closed=True)
        there = [Val(f"{a}[tid - 1]", r) for a, r in arrays]
        self._assign([x.text for x in before], there, inner)
        scope.block.close("if (tid > 0) {", inner.block)
        ends: list[Val] = []
        for array, reg in arrays:
            name = self.em.name()
            place = f"{array}[{self.members - 1}]"
            for line in self.dialect.agreed_lines(array, name, reg, place):
                scope.block.add(line)
            ends.append(Val(name, reg))
        return before, ends

    # --- what is done with the results
    def _then(self, s: Scan, each: Round, before: Tuple, scope: Scope) -> None:
        inside = list(statements(s.then))
        used = {n for x in inside for e in expressions(x) for n in walk([e])}
        again = bool(used & {v for x in statements(s.body) for v in defined(x)})
        for group in each.groups:
            inner = scope if each.full else scope.inner(closed=True)
            if each.full:
                scopes = each.scopes
            elif again:
                # What the values were made from is made again: it lay in other brackets.
                scopes = self._body(s, each, group, inner)
            else:
                private_arrays(self.writer, s, inner)
                scopes = each.lanes.scopes(group, inner)
            for n, own in zip(group, scopes, strict=True):
                if used & set(s.after):
                    found = self._combined(s, before, each.own[n], inner)
                    for v, x in zip(s.after, found, strict=True):
                        self.writer.define(v, x, own)
                if used & set(s.before):
                    earlier = self._combined(s, before, each.own[n - 1], inner) if n else before
                    for v, x in zip(s.before, earlier, strict=True):
                        self.writer.define(v, x, own)
            each.lanes.body(s.then, group, scopes)
            self._close(each, group, scope, inner)
