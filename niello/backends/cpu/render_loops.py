"""Loops: nests that carry values, sweeps over the lanes' range, and the threads' shares."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence

from niello.backends.cpu.llvm_text import Operand, Value, constant
from niello.backends.cpu.render_types import has_masks
from niello.backends.cpu.vectors import Emitter, Scope
from niello.kernel.ir import Expr, Range

Bounds = Mapping[Range, tuple[Value, Value]]
Sweep = Callable[[list[Scope], list[Value]], list[Value]]

_UNROLLED_POINTS = 16


def nest(
    em: Emitter,
    ranges: Sequence[Range],
    scopes: Sequence[Scope],
    roots: Sequence[Expr],
    carry: Sequence[Value],
    body: Sweep,
    *,
    unroll: bool = False,
    inner: Sequence[Range] = (),
    bounds: Bounds | None = None,
) -> list[Value]:
    """Loops over `ranges` around `body(scopes, carried)`, which gives the next carried values.

    Several scopes (vectors side by side) go through the loops together. What `roots` do not need
    from the inner loops (nor from `inner`, which the body itself loops over) is written outside of
    them. `unroll` writes every point out instead of looping. `bounds` gives ranges of which only a
    part is walked.
    """
    if not ranges:
        return body(list(scopes), list(carry))
    for scope in scopes:
        em.hoist(roots, scope, (*ranges, *inner))
    first, rest = ranges[0], ranges[1:]
    start, stop = (bounds or {}).get(first, (constant(0), constant(first.extent)))

    def deeper(index: Value, values: Sequence[Value]) -> list[Value]:
        below = [Scope(s, {first: index}) for s in scopes]
        return nest(em, rest, below, roots, values, body, unroll=unroll, inner=inner, bounds=bounds)

    if start.const is not None and stop.const is not None and (unroll or first.extent == 1):
        values = list(carry)
        for i in range(start.const, stop.const):
            values = deeper(constant(i), values)
        return values
    with em.f.loop(start, stop, 1, list(carry)) as loop:
        loop.next(deeper(loop.index, loop.carried))
    return loop.results


def worth_unrolling(ranges: Sequence[Range], cost: float) -> bool:
    """Whether to write every point of small ranges out."""
    points = 1
    for r in ranges:
        points *= r.extent
    return points <= _UNROLLED_POINTS and points * cost <= 120


class Rest(enum.Enum):
    """How the end of a sweep that is no whole vector is done, where its length is known.

    MASK: with masks. PAIR: the last vector is moved back over the one before it and both are
    written together, so that a body which stores only after it has read everything does no harm
    in doing some lanes twice. COUNT: the last vector is moved back, and `Scope.counted` tells the
    lanes that have not been done yet.
    """

    MASK = 0
    PAIR = 1
    COUNT = 2


def sweep(
    em: Emitter,
    lanes: Range,
    start: Operand,
    stop: Operand,
    scope: Scope,
    width: int,
    copies: int,
    element_bytes: int,
    carry: Sequence[Value],
    body: Sweep,
    rest: Rest = Rest.MASK,
) -> list[Value]:
    """Run `lanes` from `start` to `stop` in vectors of `width`, `copies` of them at once.

    `body(scopes, carried)` writes one trip for as many vectors as there are scopes and gives the
    next carried values. The rest is done as `rest` says, or with masks where the CPU has them for
    elements of `element_bytes`, else lane by lane.
    """
    f = em.f
    start, stop = f.as_value(start), f.as_value(stop)
    values = list(carry)
    if start.const is not None and stop.const is not None:
        known = _Known(em, lanes, start.const, stop.const, scope, width, copies, body)
        if rest is not Rest.MASK and stop.const - start.const >= width:
            return known.overlapping(values, rest)
        values, start = known.whole(values)
        if start.const == stop.const:
            return values
    masked = width > 1 and has_masks(em.target, element_bytes)
    if start.const is None or stop.const is None:
        # With masks the rest is one loop; without, whole vectors come before single elements.
        for count in [copies] if copies == 1 or masked else [copies, 1]:
            step = width * count
            bulk = f.add(start, f.mul(f.udiv(f.sub(stop, start), step), step))

            def trip(index: Value, carried: list[Value], count: int = count) -> list[Value]:
                return body(_scopes(em, lanes, index, scope, width, count), carried)

            values = _looped(em, start, bulk, step, values, trip)
            start = bulk
    if not masked:

        def one(index: Value, carried: list[Value]) -> list[Value]:
            return body([Scope(scope, {lanes: index})], carried)

        return _looped(em, start, stop, 1, values, one)
    return _masked_rest(em, lanes, start, stop, scope, width, values, body)


def _scopes(
    em: Emitter, lanes: Range, index: Value, scope: Scope, width: int, count: int
) -> list[Scope]:
    return [
        Scope(scope, {lanes: em.f.add(index, n * width)}, vector=lanes, width=width)
        for n in range(count)
    ]


class _Known:
    """A sweep between known bounds."""

    def __init__(
        self,
        em: Emitter,
        lanes: Range,
        start: int,
        stop: int,
        scope: Scope,
        width: int,
        copies: int,
        body: Sweep,
    ) -> None:
        self.em, self.lanes, self.start, self.stop = em, lanes, start, stop
        self.scope, self.width, self.copies, self.body = scope, width, copies, body

    def _at(self, index: int | Value, count: int) -> list[Scope]:
        value = self.em.f.as_value(index)
        return _scopes(self.em, self.lanes, value, self.scope, self.width, count)

    def _vectors(self, count: int, values: list[Value]) -> list[Value]:
        """The first `count` vectors."""
        f, step = self.em.f, self.width * self.copies
        trips, single = divmod(count, self.copies)
        end = self.start + trips * step

        def trip(index: Value, carried: list[Value]) -> list[Value]:
            return self.body(self._at(index, self.copies), carried)

        values = _looped(self.em, f.as_value(self.start), f.as_value(end), step, values, trip)
        return self.body(self._at(end, single), values) if single else values

    def whole(self, values: list[Value]) -> tuple[list[Value], Value]:
        """All whole vectors; returns the carried values and where the rest starts."""
        count = (self.stop - self.start) // self.width
        values = self._vectors(count, values)
        return values, self.em.f.as_value(self.start + count * self.width)

    def overlapping(self, values: list[Value], rest: Rest) -> list[Value]:
        """Everything, the last vector moved back so that it ends with the last element."""
        count, left = divmod(self.stop - self.start, self.width)
        last = self.stop - self.width
        if left == 0:
            return self._vectors(count, values)
        if rest is Rest.PAIR:
            values = self._vectors(count - 1, values)
            before = self.start + (count - 1) * self.width
            return self.body([*self._at(before, 1), *self._at(last, 1)], values)
        values = self._vectors(count, values)
        scope = self._at(last, 1)[0]
        new = [n >= self.width - left for n in range(self.width)]
        scope.counted = _constant_mask(new)
        return self.body([scope], values)


def _looped(
    em: Emitter,
    start: Value,
    stop: Value,
    step: int,
    values: list[Value],
    trip: Callable[[Value, list[Value]], list[Value]],
) -> list[Value]:
    if start.const is not None and stop.const is not None:
        if start.const == stop.const:
            return values
        if start.const + step == stop.const:
            return trip(start, values)
    with em.f.loop(start, stop, step, values) as loop:
        loop.next(trip(loop.index, loop.carried))
    return loop.results


def _masked_rest(
    em: Emitter,
    lanes: Range,
    start: Value,
    stop: Value,
    scope: Scope,
    width: int,
    values: list[Value],
    body: Sweep,
) -> list[Value]:
    f = em.f
    if start.const is not None and stop.const is not None:
        if start.const == stop.const:
            return values
        if start.const + 1 == stop.const:
            # Not with a mask of one known lane either: for a truncated value LLVM stores too much.
            return body([Scope(scope, {lanes: start})], values)
        mask = _constant_mask([n < stop.const - start.const for n in range(width)])
        tail = Scope(scope, {lanes: start}, vector=lanes, width=width, mask=mask)
        return body([tail], values)

    def trip(index: Value, carried: list[Value]) -> list[Value]:
        mask = f.lane_mask(f.sub(stop, index), width)
        here = Scope(scope, {lanes: index}, vector=lanes, width=width, mask=mask)
        return body([here], carried)

    return _looped(em, start, stop, width, values, trip)


def _constant_mask(lanes: Sequence[bool]) -> Value:
    bits = ", ".join(f"i1 {'true' if lane else 'false'}" for lane in lanes)
    return Value(f"<{bits}>", f"<{len(lanes)} x i1>")


def share(
    em: Emitter, units: Operand, grain: int, thread: Value, threads: Value
) -> tuple[Value, Value]:
    """This thread's contiguous share of `units`: first and end; at least `grain` units each."""
    f = em.f
    units = f.as_value(units)
    if units.const is not None and units.const <= grain:
        # One thread does it all; the others have an empty share.
        return constant(0), f.select(f.icmp("eq", thread, 0), units, constant(0))
    chunk = f.udiv(f.add(units, f.sub(threads, 1)), threads)
    if grain > 1:
        chunk = f.mul(f.udiv(f.add(chunk, grain - 1), grain), grain)
    first = f.smin(f.mul(thread, chunk), units)
    return first, f.smin(f.add(first, chunk), units)


def unravel(em: Emitter, unit: Value, ranges: Sequence[Range]) -> dict[Range, Value]:
    """Values of ranges at a row-major position."""
    f = em.f
    values: dict[Range, Value] = {}
    for position in range(len(ranges) - 1, -1, -1):
        r = ranges[position]
        if position == 0:
            values[r] = unit
        else:
            values[r] = f.urem(unit, r.extent)
            unit = f.udiv(unit, r.extent)
    return values
