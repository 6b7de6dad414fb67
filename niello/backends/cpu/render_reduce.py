"""Reductions: accumulators over the lanes of the loop around them, or over lanes of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from niello.backends.cpu.llvm_text import Value, constant, lanes, vector
from niello.backends.cpu.render_functions import emit_function
from niello.backends.cpu.render_loops import Bounds, Rest, Sweep, nest, sweep, worth_unrolling
from niello.backends.cpu.render_memory import register_vector
from niello.backends.cpu.render_types import vector_bytes
from niello.backends.cpu.vectors import Emitter, Scope, is_narrow
from niello.codegen.access import body_of, cost, lane_bytes, lane_cost, narrowest_bytes
from niello.core.errors import CompilerBug
from niello.kernel.build import ravel
from niello.kernel.ir import (
    ArgReduce,
    Contract,
    Expr,
    Fn,
    Range,
    Reduce,
    reduce_identity,
)

# Elements whose sum is kept apart, for precision: over lanes of their own, and one by one.
_LONG = 1 << 14
_LONG_COLUMN = 1 << 10

Reduction = Reduce | ArgReduce | Contract
State = list[Value]


class Accumulator:
    """One reduction under way: its state is a list of values carried through the loops."""

    def __init__(
        self,
        em: Emitter,
        node: Reduction,
        body: Expr | None = None,
        ranges: tuple[Range, ...] | None = None,
    ) -> None:
        self.em = em
        self.node = node
        self.body = body_of(node) if body is None else body
        self.ranges = node.ranges if ranges is None else ranges
        self.op = "add" if isinstance(node, Contract) else node.op
        self.size = 2 if isinstance(node, ArgReduce) else 1
        self.dtype = self.body.dtype
        self.ordered = True  # whether elements (of a lane) come in order of their positions
        self.is_sum = self.op == "add" and self.dtype.is_float and self.size == 1

    def start(self, width: int) -> State:
        """The state before the first element, in vectors of `width`."""
        kind = register_vector(self.dtype, width)
        state = [constant(reduce_identity(self.op, self.dtype), kind)]
        if isinstance(self.node, ArgReduce):
            state.append(constant(0, vector(self._position_type(), width)))
        return state

    def _position_type(self) -> str:
        return "i32" if is_narrow(self._position()) else "i64"

    def _position(self) -> Expr:
        return ravel(self.ranges, [r.extent for r in self.ranges])

    def step(self, scope: Scope, state: State) -> State:
        """The state after the element (or vector of elements) at the scope."""
        em = self.em
        if isinstance(self.node, ArgReduce):
            return self._arg_step(scope, state)
        fused = self._fused(scope, state[0])
        if fused is not None:
            return [fused]
        value = self._shaped(em.value(self.body, scope), state[0])
        counted = scope.mask or scope.counted
        if counted is not None and lanes(value.type) > 1:
            identity = constant(reduce_identity(self.op, self.dtype), value.type)
            value = em.f.select(counted, value, identity)
        if self._is_extreme() and lanes(value.type) > 1:
            # A NaN as a constant: with the value itself LLVM makes one slow choice out of two.
            nan = em.f.fcmp("uno", value, value)
            return [em.f.select(nan, constant(math.nan, value.type), self._first(value, state[0]))]
        # The new value first: then little of a maximum that keeps NaN waits for the state.
        return [self._combine(value, state[0])]

    def _shaped(self, value: Value, like: Value) -> Value:
        return value if value.type == like.type else self.em.f.splat(value, like.type)

    def _fused(self, scope: Scope, total: Value) -> Value | None:
        """total + a * b, rounded once or twice."""
        body = self.body
        if self.op != "add" or not self.dtype.is_float:
            return None
        if scope.mask is not None or scope.counted is not None:
            return None
        if not isinstance(body, Fn) or body.name != "mul" or scope.find(body) is not None:
            return None
        a, b = (self._shaped(self.em.value(x, scope), total) for x in body.args)
        return self.em.f.multiply_add(a, b, total)

    def _combine(self, a: Value, b: Value) -> Value:
        return emit_function(self.em.f, self.em.target, self.op, self.dtype, [a, b])

    def _arg_step(self, scope: Scope, state: State) -> State:
        em, f = self.em, self.em.f
        value = self._shaped(em.value(self.body, scope), state[0])
        position = self._position()
        where = (em.narrow if is_narrow(position) else em.value)(position, scope)
        where = self._shaped(where, state[1])
        better = self._goes_before([value, where], state)
        counted = scope.mask or scope.counted
        if counted is not None and lanes(better.type) > 1:
            better = f.and_(better, counted)
        return [f.select(better, value, state[0]), f.select(better, where, state[1])]

    def _better(self, a: Value, b: Value) -> Value:
        """Whether a goes before b: smaller (or larger), or the first NaN."""
        f = self.em.f
        less = self.op == "min"
        if self.dtype.is_float:
            return f.and_(f.fcmp("ult" if less else "ugt", a, b), f.fcmp("ord", b, b))
        args = [a, b] if less else [b, a]
        return emit_function(f, self.em.target, "lt", self.dtype, args)

    def merge(self, a: State, b: State) -> State:
        """The state of two disjoint parts together."""
        if not isinstance(self.node, ArgReduce):
            return [self._combine(a[0], b[0])]
        take = self._goes_before(b, a, ordered=False)
        return [self.em.f.select(take, y, x) for x, y in zip(a, b, strict=True)]

    def _goes_before(self, a: State, b: State, *, ordered: bool | None = None) -> Value:
        """Whether a is better than b, or as good and at a lower position.

        Positions need no look where elements come in order and `a` is the later one.
        """
        f = self.em.f
        better = self._better(a[0], b[0])
        if self.ordered if ordered is None else ordered:
            return better
        if self.dtype.is_float:
            both_nan = f.and_(f.fcmp("uno", a[0], a[0]), f.fcmp("uno", b[0], b[0]))
            same = f.or_(f.fcmp("oeq", a[0], b[0]), both_nan)
        else:
            same = f.icmp("eq", a[0], b[0])
        return f.or_(better, f.and_(same, f.icmp("slt", a[1], b[1])))

    def together(self, states: Sequence[State]) -> State:
        """The state of all parts (a power of two) and all their lanes together, as scalars."""
        if self._is_extreme():
            return [self._extreme([state[0] for state in states])]
        return self._halved(states, self.merge)

    def _halved(self, states: Sequence[State], merge: Callable[[State, State], State]) -> State:
        """Parts are merged in pairs, then halves of the lanes with halves."""
        f, parts = self.em.f, list(states)
        while len(parts) > 1:
            parts = [merge(*parts[n : n + 2]) for n in range(0, len(parts), 2)]
        state = parts[0]
        count = lanes(state[0].type)
        while count > 1:
            count //= 2
            halves = [
                [f.shuffle(v, None, range(base, base + count)) for v in state]
                for base in (0, count)
            ]
            state = merge(*halves)
        return state

    def _is_extreme(self) -> bool:
        return self.dtype.is_float and self.op in ("min", "max") and self.size == 1

    def _first(self, a: Value, b: Value) -> Value:
        """The smaller (or larger); b if one is NaN, as in the instructions of x86."""
        before = "olt" if self.op == "min" else "ogt"
        return self.em.f.select(self.em.f.fcmp(before, a, b), a, b)

    def _extreme(self, parts: list[Value]) -> Value:
        """The minimum or maximum of all lanes: one look for a NaN serves all the comparisons."""
        f = self.em.f
        nan = f.fcmp("uno", parts[0], parts[-1])
        for part in parts[1:-1]:
            nan = f.or_(nan, f.fcmp("uno", part, part))
        count = lanes(nan.type)
        if count > 1:
            nan = f.icmp("ne", f.bitcast(nan, f"i{count}"), 0)
        best = self._halved([[p] for p in parts], lambda a, b: [self._first(a[0], b[0])])[0]
        return f.select(nan, constant(math.nan, best.type), best)

    def result(self, state: State) -> Value:
        """The value of the reduction."""
        if isinstance(self.node, ArgReduce):
            return self.em.f.cast("sext", state[1], "i64")
        return state[0]


def emit_reduction(em: Emitter, node: Expr, scope: Scope) -> Value:
    """The value of one reduction at a scope: what an Emitter calls for a node it meets."""
    if not isinstance(node, (Reduce, ArgReduce, Contract)):
        raise CompilerBug("cpu renderer", "not a reduction", received=type(node).__name__)
    return reduce_together(em, [Accumulator(em, node)], [scope])[0][0]


Write = Callable[[Sequence[Scope]], None]


def reduce_together(
    em: Emitter,
    group: Sequence[Accumulator],
    scopes: Sequence[Scope],
    *,
    bounds: Bounds | None = None,
    also: Sequence[Expr] = (),
    write: Write | None = None,
) -> list[list[Value]]:
    """The values of reductions over the same ranges, found in one loop: a list for each scope.

    Lanes of the scopes carry on as lanes of the accumulators; without lanes the loop makes its own
    and adds them up at the end. `write(scopes)` is called at every point, for stores that keep
    values (`also` are the expressions it needs); `bounds` are the parts of ranges to walk.
    """
    ranges = group[0].ranges
    roots = [a.body for a in group] + list(also)
    walk = _Walk(em, list(group), ranges, roots, bounds or {}, write)
    if any(s.varies(a.node) for a in group for s in scopes):
        return walk.over_outer_lanes(scopes)
    own, width = own_lanes(em, ranges, roots)
    if own is None:
        return [r for s in scopes for r in walk.over_outer_lanes([s])]
    return [walk.over_own_lanes(s, own, width) for s in scopes]


class _Walk:
    """One loop nest of reductions."""

    def __init__(
        self,
        em: Emitter,
        group: list[Accumulator],
        ranges: Sequence[Range],
        roots: Sequence[Expr],
        bounds: Bounds,
        write: Write | None,
    ) -> None:
        self.em, self.group, self.ranges, self.roots = em, group, ranges, roots
        self.bounds, self.write = bounds, write
        self.size = sum(a.size for a in group)

    def _states(self, values: Sequence[Value]) -> list[State]:
        states, at = [], 0
        for a in self.group:
            states.append(list(values[at : at + a.size]))
            at += a.size
        return states

    def _start(self, width: int) -> list[Value]:
        return [v for a in self.group for v in a.start(width)]

    def _step(self, scope: Scope, values: Sequence[Value]) -> list[Value]:
        pairs = zip(self.group, self._states(values), strict=True)
        return [v for a, state in pairs for v in a.step(scope, state)]

    def _merge(self, a: Sequence[Value], b: Sequence[Value]) -> list[Value]:
        triples = zip(self.group, self._states(a), self._states(b), strict=True)
        return [v for one, x, y in triples for v in one.merge(x, y)]

    def over_outer_lanes(self, scopes: Sequence[Scope]) -> list[list[Value]]:
        """Accumulators with the lanes of the scopes; the loops go over single points."""
        size = self.size
        carry = []
        for s in scopes:
            for a in self.group:
                carry += a.start(s.width if s.varies(a.node) else 1)

        def body(here: list[Scope], values: list[Value]) -> list[Value]:
            following = []
            for n, scope in enumerate(here):
                following += self._step(scope, values[n * size : (n + 1) * size])
            if self.write is not None:
                self.write(here)
            return following

        *outer, last = self.ranges
        long = last.extent >= 2 * _LONG_COLUMN and any(a.is_sum for a in self.group)
        unroll = worth_unrolling(self.ranges, cost(self.roots) * len(scopes))

        def blocks(here: list[Scope], values: list[Value]) -> list[Value]:
            return self._blocks(last, here, values, carry, body)

        if long:
            values = nest(
                self.em, outer, scopes, self.roots, carry, blocks, inner=[last], bounds=self.bounds
            )
        else:
            values = nest(
                self.em,
                self.ranges,
                scopes,
                self.roots,
                carry,
                body,
                unroll=unroll,
                bounds=self.bounds,
            )
        return [self._results(values[n * size : (n + 1) * size]) for n in range(len(scopes))]

    def _blocks(
        self,
        last: Range,
        scopes: list[Scope],
        values: list[Value],
        identity: list[Value],
        body: Sweep,
    ) -> list[Value]:
        """The last range in blocks: sums of blocks are summed, which keeps the error small."""
        f, size = self.em.f, self.size
        start, stop = self.bounds.get(last, (constant(0), constant(last.extent)))
        with f.loop(start, stop, _LONG_COLUMN, values) as loop:
            end = f.smin(f.add(loop.index, _LONG_COLUMN), stop)
            block = {last: (loop.index, end)}
            found = nest(self.em, [last], scopes, self.roots, identity, body, bounds=block)
            following = []
            for n in range(0, len(values), size):
                following += self._merge(loop.carried[n : n + size], found[n : n + size])
            loop.next(following)
        return loop.results

    def _results(self, values: Sequence[Value]) -> list[Value]:
        return [a.result(s) for a, s in zip(self.group, self._states(values), strict=True)]

    def over_own_lanes(self, scope: Scope, own: Range, width: int) -> list[Value]:
        """Accumulators with lanes over `own`, added up after the loops."""
        em, size = self.em, self.size
        for a in self.group:
            a.ordered = own is self.ranges[-1]
        outer = [r for r in self.ranges if r is not own]
        copies = accumulator_copies(self.group, self.roots, own.extent // width)
        start, stop = self.bounds.get(own, (constant(0), constant(own.extent)))
        bytes = narrowest_bytes(self.roots)
        identity = self._start(width) * copies

        def trip(scopes: list[Scope], values: list[Value]) -> list[Value]:
            following = list(values)
            if em.ahead is not None:
                em.ahead(scopes)
            for n, here in enumerate(scopes):
                if here.vector is None:
                    following = self._lane_step(here, following)
                else:
                    part = slice(n * size, (n + 1) * size)
                    following[part] = self._step(here, values[part])
            if self.write is not None:
                self.write(scopes)
            return following

        def piece(here: Scope, first: Value, end: Value, values: Sequence[Value]) -> list[Value]:
            return sweep(em, own, first, end, here, width, copies, bytes, values, trip, Rest.COUNT)

        def rows(scopes: list[Scope], values: list[Value]) -> list[Value]:
            here = scopes[0]
            em.hoist(self.roots, here, [own])
            if own.extent < 2 * _LONG or not any(a.is_sum for a in self.group):
                return piece(here, start, stop, values)
            # Sums of blocks are summed: the error grows with the blocks, not with the elements.
            with em.f.loop(start, stop, _LONG, values) as loop:
                end = em.f.smin(em.f.add(loop.index, _LONG), stop)
                found = piece(here, loop.index, end, identity)
                pairs = [
                    self._merge(loop.carried[n : n + size], found[n : n + size])
                    for n in range(0, size * copies, size)
                ]
                loop.next([v for p in pairs for v in p])
            return loop.results

        alone = scope.without_lanes()
        em.hoist(self.roots, alone, self.ranges)
        values = nest(
            em, outer, [alone], self.roots, identity, rows, inner=[own], bounds=self.bounds
        )
        parts = [self._states(values[n * size : (n + 1) * size]) for n in range(copies)]
        states = zip(*parts, strict=True)
        return [a.result(a.together(s)) for a, s in zip(self.group, states, strict=True)]

    def _lane_step(self, here: Scope, values: list[Value]) -> list[Value]:
        """One element into lane 0 of the first accumulators: the rest of a range without masks."""
        f = self.em.f
        scalars = self._step(here, [f.extract(v, 0) for v in values[: self.size]])
        first = [
            f.insert(v, s, 0) if v.type[0] == "<" else s
            for v, s in zip(values, scalars, strict=False)
        ]
        return [*first, *values[self.size :]]


def own_lanes(
    em: Emitter, ranges: Sequence[Range], roots: Sequence[Expr]
) -> tuple[Range | None, int]:
    """The range whose lanes a loop without lanes around it uses, and how many."""
    widest = lane_bytes(roots)
    best: tuple[float, Range] | None = None
    for r in ranges:
        if r.extent < 2:
            continue
        price = lane_cost(r, roots, (), vector_bytes(em.target) // widest)
        if best is None or price <= best[0]:
            best = (price, r)
    if best is None:
        return None, 1
    return best[1], fitting_width(em, best[1].extent, widest)


def fitting_width(em: Emitter, extent: int, widest: int) -> int:
    """Lanes of a vector of elements of `widest` bytes, fewer if a range is shorter than that."""
    width = vector_bytes(em.target) // widest
    while width > 2 and width > extent:
        width //= 2
    return width


def accumulator_copies(group: Sequence[Accumulator], roots: Sequence[Expr], trips: int) -> int:
    """How many vectors to work on at once: enough to hide the latency of the additions."""
    weight = cost(roots)
    copies = 4 if weight <= 12 else 2 if weight <= 60 else 1
    while copies > 1 and (copies * len(group) > 8 or copies > trips):
        copies //= 2
    return copies


__all__ = [
    "Accumulator",
    "Reduction",
    "accumulator_copies",
    "emit_reduction",
    "fitting_width",
    "own_lanes",
    "reduce_together",
]
