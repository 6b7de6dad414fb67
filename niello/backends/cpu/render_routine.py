"""Routines as LLVM IR: threads share the teams, and a Spread is a loop over vectors of iterations.

A value inside a Spread is a scalar where all iterations agree on it, else a vector with a lane for
each iteration. Conditions that differ between lanes become masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import Module, Value, constant, vector
from niello.backends.cpu.render_casts import convert
from niello.backends.cpu.render_loops import share
from niello.backends.cpu.render_routine_fold import emit_fold, emit_scan
from niello.backends.cpu.render_routine_lanes import LaneEmitter, LaneScope, any_lane
from niello.backends.cpu.render_routine_memory import Places, combine, read, write
from niello.backends.cpu.render_routine_pairs import access, side_by_side
from niello.backends.cpu.render_routine_work import grain_of, lanes_of, weight_of
from niello.backends.cpu.render_types import register_type
from niello.core.dtypes import bool_
from niello.core.errors import CompilerBug
from niello.kernel.ir import Const, Expr
from niello.kernel.routine import (
    Body,
    Cell,
    Combine,
    Declare,
    Fold,
    For,
    Get,
    If,
    Read,
    Routine,
    Scan,
    Set,
    Spread,
    Statement,
    Var,
    While,
    Write,
    defined,
    expressions,
    statements,
    value_dtype,
)

Trip = Callable[[LaneScope], None]
_LARGE = 160  # instructions of a body that is not written twice, for whole vectors and for the rest


def render_routine(
    module: Module, made: Routine, target: CpuTarget, name: str, base: Places
) -> int:
    """Write a routine as a function; returns how many threads can share it.

    `base` says where the locals lie."""
    parameters = [("ptr noalias", f"b{p.slot}") for p in made.params]
    parameters += [("ptr", "scratch"), ("i64", "thread"), ("i64", "threads")]
    f = module.function(name, "void", parameters, internal=True, inline=False)
    base.begin(f)
    em = LaneEmitter(f, target)
    grain = grain_of(made)
    first, end = share(em, made.teams, grain, f.argument("thread"), f.argument("threads"))
    writer = RoutineWriter(em, base)
    scope = LaneScope(em)
    writer.hoist(made.body, scope, [made.team])
    with f.for_range(first, end) as team:
        inner = LaneScope(em, scope)
        inner.values[made.team] = team
        writer.body(made.body, inner)
    f.ret()
    return max(1, -(-made.teams // grain))


class RoutineWriter:
    """Writes statements into a function."""

    def __init__(self, em: LaneEmitter, places: Places) -> None:
        self.em, self.f, self.places = em, em.f, places
        self.cells: dict[Cell, Value] = {}

    def body(self, body: Body, scope: LaneScope) -> None:
        """Statements in order; what they define is known in `scope` from then on."""
        at = 0
        while at < len(body):
            count = side_by_side(body[at:], scope)
            if count:
                access(self, body[at : at + count], scope)
            else:
                self.statement(body[at], scope)
            at += max(1, count)

    def inside(self, body: Body, scope: LaneScope, mask: Value | None = None) -> None:
        """A body in a scope of its own."""
        inner = LaneScope(self.em, scope)
        if mask is not None:
            inner.mask = mask
        self.body(body, inner)

    def statement(self, s: Statement, scope: LaneScope) -> None:
        if isinstance(s, Read):
            self.define(s.var, read(self, s, scope), scope)
        elif isinstance(s, Get):
            self._get(s, scope)
        elif isinstance(s, (Declare, Set)):
            self._set(s, scope)
        elif isinstance(s, Write):
            write(self, s, scope)
        elif isinstance(s, Combine):
            combine(self, s, scope)
        elif isinstance(s, For):
            self._for(s, scope)
        elif isinstance(s, While):
            self._while(s, scope)
        elif isinstance(s, If):
            self._if(s, scope)
        elif isinstance(s, Spread):
            self._spread(s, scope)
        elif isinstance(s, Fold):
            emit_fold(self, s, scope)
        elif isinstance(s, Scan):
            emit_scan(self, s, scope)
        else:
            raise CompilerBug("cpu renderer", "an unknown statement", received=repr(s))

    def define(self, name: Var, value: Value, scope: LaneScope) -> None:
        """Give a variable its value."""
        if value.type[0] == "<":
            self.em.varying.add(name)
        scope.values[name] = value

    # --- cells
    def _cell_type(self, cell: Cell, scope: LaneScope) -> str:
        return vector(register_type(cell.dtype), scope.width)

    def _get(self, s: Get, scope: LaneScope) -> None:
        pointer = self.cells[s.cell]
        kind = self.em.cell_types[pointer.text]
        self.define(s.var, self.f.load(kind, pointer), scope)

    def _set(self, s: Declare | Set, scope: LaneScope) -> None:
        f, em = self.f, self.em
        value = em.lanes(s.value, scope)
        if isinstance(s, Declare):
            kind = self._cell_type(s.cell, scope)
            pointer = self.cells[s.cell] = f.alloca(kind)
            em.cell_types[pointer.text] = kind
        pointer = self.cells[s.cell]
        if isinstance(s, Set) and scope.mask is not None:
            old = f.load(em.cell_types[pointer.text], pointer)
            value = f.select(scope.mask, value, old)
        f.store(value, pointer)

    # --- control
    def hoist(self, body: Sequence[Statement], scope: LaneScope, more: Sequence[Var] = ()) -> None:
        """Compute what loops inside do not change before they are entered."""
        found = list(statements(body))
        inner = {v for s in found for v in defined(s)}
        self.em.hoist([e for s in found for e in expressions(s)], scope, {*inner, *more})

    def _for(self, s: For, scope: LaneScope) -> None:
        em, f = self.em, self.f
        self.hoist([s], scope)
        if any(scope.varies(e) for e in (s.start, s.stop, s.step)):
            self._for_lanes(s, scope)
            return
        start, stop, step = (em.value(e, scope) for e in (s.start, s.stop, s.step))
        if step.const is not None and step.const < 0:
            down = f.sub(start, stop)
            trips = f.sdiv(f.add(down, -step.const - 1), -step.const)
            with f.for_range(0, trips) as n:
                self._trip(s, f.add(start, f.mul(n, step)), scope)
            return
        with f.for_range(start, stop, step) as i:
            self._trip(s, i, scope)

    def _trip(self, s: For, value: Value, scope: LaneScope) -> None:
        inner = LaneScope(self.em, scope)
        inner.values[s.var] = value
        self.body(s.body, inner)

    def _for_lanes(self, s: For, scope: LaneScope) -> None:
        """A loop whose bounds differ between lanes: until all are done."""
        em, f = self.em, self.f
        start, stop, step = (em.lanes(e, scope) for e in (s.start, s.stop, s.step))
        down = isinstance(s.step, Const) and s.step.value < 0
        place = f.alloca(start.type)
        f.store(start, place)
        top, body, done = f.block("lanes"), f.block("body"), f.block("done")
        f.br(top)
        f.enter(top)
        at = f.load(start.type, place)
        active = f.icmp("sgt" if down else "slt", at, stop)
        if scope.mask is not None:
            active = f.and_(active, scope.mask)
        f.cond_br(any_lane(f, active), body, done)
        f.enter(body)
        inner = LaneScope(em, scope)
        inner.mask = active
        self.define(s.var, at, inner)
        self.body(s.body, inner)
        f.store(f.add(at, step), place)
        f.br(top)
        f.enter(done)

    def _while(self, s: While, scope: LaneScope) -> None:
        em, f = self.em, self.f
        self.hoist([s], scope)
        lanes = None
        if scope.vector is not None:
            kind = vector("i1", scope.width)
            lanes = f.alloca(kind)
            f.store(scope.mask or constant(1, kind), lanes)
        top, body, done = f.block("while"), f.block("body"), f.block("done")
        f.br(top)
        f.enter(top)
        inner = LaneScope(em, scope)
        if lanes is not None:
            inner.mask = f.load(vector("i1", scope.width), lanes)
        self.body(s.test, inner)
        holds = em.value(s.condition, inner)
        if lanes is not None and inner.mask is not None:
            holds = f.and_(inner.mask, em.widen(holds, inner))
            f.store(holds, lanes)
            inner = LaneScope(em, inner)
            inner.mask = holds
            holds = any_lane(f, holds)
        f.cond_br(holds, body, done)
        f.enter(body)
        self.inside(s.body, inner)
        f.br(top)
        f.enter(done)

    def _if(self, s: If, scope: LaneScope) -> None:
        em, f = self.em, self.f
        test = em.value(s.condition, scope)
        if test.type == "i1":
            if test.const is not None:
                self.inside(s.then if test.const else s.otherwise, scope)
                return
            for chosen, part in ((test, s.then), (None, s.otherwise)):
                if part:
                    with f.if_then(f.not_(test) if chosen is None else chosen):
                        self.inside(part, scope)
            return
        for part, mask in ((s.then, test), (s.otherwise, None)):
            if not part:
                continue
            mask = f.not_(test) if mask is None else mask
            if scope.mask is not None:
                mask = f.and_(scope.mask, mask)
            if all(isinstance(x, (Get, Set, Declare)) for x in part):
                self.inside(part, scope, mask)
                continue
            with f.if_then(any_lane(f, mask)):
                self.inside(part, scope, mask)

    # --- spreads
    def _spread(self, s: Spread, scope: LaneScope) -> None:
        self.hoist([s], scope)
        width = lanes_of(self.em.target, s)
        twice = weight_of(s.body) <= _LARGE

        def trip(inner: LaneScope) -> None:
            self.body(s.body, inner)

        def around(outer: tuple[Var, ...], extents: tuple[Expr, ...], inner: LaneScope) -> None:
            if not outer:
                self.sweep(s.var, s.count, width, inner, trip, twice=twice)
                return
            with self.f.for_range(0, self.em.value(extents[0], inner)) as i:
                within = LaneScope(self.em, inner)
                within.values[outer[0]] = i
                self.hoist(s.body, within, [*outer[1:], s.var])
                around(outer[1:], extents[1:], within)

        around(s.outer, s.extents, scope)

    def sweep(
        self, index: Var, count: Expr, width: int, scope: LaneScope, trip: Trip, *, twice: bool
    ) -> None:
        """Run `trip` for all vectors of iterations; the last may have a mask.

        `twice` writes it for whole vectors and again for the rest; else all have a mask."""
        em, f = self.em, self.f
        total = em.value(count, scope)
        if width == 1:
            with f.for_range(0, total) as i:
                inner = LaneScope(em, scope)
                inner.values[index] = i
                trip(inner)
            return
        known = total.const
        whole: Value | int = 0
        if known is not None and (twice or known % width == 0):
            whole = known // width * width
        elif twice:
            whole = f.and_(total, -width)
        if not (isinstance(whole, int) and whole == 0):
            with f.for_range(0, whole, width) as i:
                trip(em.vector_scope(scope, index, i, width, None))
        if known is not None and known == whole:
            return
        with f.for_range(whole, total, width) as i:
            mask = f.lane_mask(f.sub(total, i), width)
            trip(em.vector_scope(scope, index, i, width, mask))

    # --- conversions
    def loaded(self, value: Value, s: Read) -> Value:
        """What memory holds as the value of a variable."""
        dtype = s.place.dtype
        if dtype is bool_:
            return self.f.icmp("ne", value, constant(0, value.type))
        return convert(self.f, self.em.target, value, dtype, value_dtype(s.place))

    def stored(self, value: Value, s: Write) -> Value:
        """The value of an expression as memory holds it."""
        dtype = s.place.dtype
        if dtype is bool_:
            return self.f.cast("zext", value, "i8")
        return convert(self.f, self.em.target, value, value_dtype(s.place), dtype)
