"""Folds and scans of routines: lanes hold parts of the result, and are put together at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from niello.backends.cpu.llvm_text import Value, constant, vector
from niello.backends.cpu.render_routine_lanes import LaneScope
from niello.backends.cpu.render_routine_work import lanes_of, weight_of
from niello.backends.cpu.render_types import register_type
from niello.kernel.ir import Const
from niello.kernel.routine import Fold, Scan

if TYPE_CHECKING:
    from niello.backends.cpu.render_routine import RoutineWriter

_SMALL = 24  # instructions of a body of which several are worked on at once
_STRANDS = 4  # accumulators side by side: the latency of one hides behind the others

Values = list[Value]


def emit_fold(writer: RoutineWriter, s: Fold, scope: LaneScope) -> None:
    """The results of a Fold, known in `scope` afterwards."""
    em, f = writer.em, writer.f
    writer.hoist([s], scope)
    width = lanes_of(em.target, s)
    strands = _STRANDS if weight_of(s.body) <= _SMALL and width > 1 else 1
    total = em.value(s.count, scope)
    start = _identities(s, width)
    block = width * strands
    whole = constant(0)
    if strands > 1:
        whole = f.mul(f.sdiv(total, block), block)
    running = [start for _ in range(strands)]
    if strands > 1:
        running = _strands(writer, s, scope, running, whole, width)
        joined = running[0]
        for other in running[1:]:
            joined = _combined(writer, s, joined, other, scope, width)
        running = [joined]
    end = f.and_(total, -width) if width > 1 else total
    with f.loop(whole, end, width, running[0]) as loop:
        given = _given(writer, s, scope, loop.index, width, None)
        loop.next(_combined(writer, s, loop.carried, given, scope, width))
    found = loop.results
    if width > 1 and not (total.const is not None and total.const % width == 0):
        with f.loop(end, total, width, found) as loop:
            mask = f.lane_mask(f.sub(total, loop.index), width)
            given = _given(writer, s, scope, loop.index, width, mask)
            loop.next(_combined(writer, s, loop.carried, given, scope, width))
        found = loop.results
    for v, x in zip(s.results, _across(writer, s, found, scope, width), strict=True):
        scope.values[v] = x


def _strands(
    writer: RoutineWriter, s: Fold, scope: LaneScope, running: list[Values], end: Value, width: int
) -> list[Values]:
    """Several vectors of iterations at once, each with its own accumulator."""
    f = writer.f
    count = len(running[0])
    carry = [x for part in running for x in part]
    with f.loop(0, end, width * len(running), carry) as loop:
        made: Values = []
        for n in range(len(running)):
            own = loop.carried[n * count : (n + 1) * count]
            at = f.add(loop.index, n * width)
            given = _given(writer, s, scope, at, width, None)
            made += _combined(writer, s, own, given, scope, width)
        loop.next(made)
    found = loop.results
    return [found[n * count : (n + 1) * count] for n in range(len(running))]


def _identities(s: Fold | Scan, width: int) -> Values:
    return [
        constant(e.value, vector(register_type(e.dtype), width))
        for e in s.identities
        if isinstance(e, Const)
    ]


def _inner(
    writer: RoutineWriter, s: Fold | Scan, scope: LaneScope, at: Value, width: int,
    mask: Value | None,
) -> LaneScope:  # fmt: skip
    em = writer.em
    if width > 1:
        return em.vector_scope(scope, s.var, at, width, mask)
    inner = LaneScope(em, scope)
    inner.values[s.var] = at
    return inner


def _given(
    writer: RoutineWriter,
    s: Fold | Scan,
    scope: LaneScope,
    at: Value,
    width: int,
    mask: Value | None,
) -> Values:
    """What the iterations from `at` give; identities where there is no iteration."""
    return _given_in(writer, s, _inner(writer, s, scope, at, width, mask))


def _given_in(writer: RoutineWriter, s: Fold | Scan, inner: LaneScope) -> Values:
    em, f = writer.em, writer.f
    writer.body(s.body, inner)
    given = [em.lanes(e, inner) for e in s.given]
    if inner.mask is None:
        return given
    neutral = _identities(s, inner.width)
    return [f.select(inner.mask, x, n) for x, n in zip(given, neutral, strict=True)]


def _combined(
    writer: RoutineWriter,
    s: Fold | Scan,
    left: Sequence[Value],
    right: Sequence[Value],
    scope: LaneScope,
    width: int,
) -> Values:
    em = writer.em
    inner = LaneScope(em, scope)
    if width > 1:
        inner.vector, inner.width, inner.mask = s.var, width, None
        em.varying.update((*s.left, *s.right))
    inner.values.update(zip((*s.left, *s.right), (*left, *right), strict=True))
    return [em.lanes(e, inner) for e in s.combined]


def _across(writer: RoutineWriter, s: Fold, values: Values, scope: LaneScope, width: int) -> Values:
    """All lanes together."""
    f = writer.f
    step = width // 2
    while step:
        turned = [lane ^ step for lane in range(width)]
        others = [f.shuffle(x, None, turned) for x in values]
        values = _combined(writer, s, values, others, scope, width)
        step //= 2
    return [f.extract(x, 0) for x in values]


def emit_scan(writer: RoutineWriter, s: Scan, scope: LaneScope) -> None:
    """A Scan; its totals are known in `scope` afterwards."""
    em, f = writer.em, writer.f
    writer.hoist([s], scope)
    width = lanes_of(em.target, s)
    total = em.value(s.count, scope)
    initial = [em.value(e, scope) for e in s.initial]
    carried = [f.splat(x, vector(x.type, width)) for x in initial]
    end = f.and_(total, -width) if width > 1 else total
    with f.loop(0, end, width, carried) as loop:
        loop.next(_scanned(writer, s, scope, loop.index, width, None, loop.carried))
    carried = loop.results
    if width > 1 and not (total.const is not None and total.const % width == 0):
        with f.loop(end, total, width, carried) as loop:
            mask = f.lane_mask(f.sub(total, loop.index), width)
            loop.next(_scanned(writer, s, scope, loop.index, width, mask, loop.carried))
        carried = loop.results
    for v, x in zip(s.totals, carried, strict=True):
        scope.values[v] = f.extract(x, 0)


def _scanned(
    writer: RoutineWriter,
    s: Scan,
    scope: LaneScope,
    at: Value,
    width: int,
    mask: Value | None,
    carried: Sequence[Value],
) -> Values:
    """One vector of iterations; returns what is carried on, in all lanes."""
    em, f = writer.em, writer.f
    inner = _inner(writer, s, scope, at, width, mask)
    found = _given_in(writer, s, inner)
    # As neutral as 0, and LLVM does not turn what shifts it in into an expansion, which is slow.
    neutral = [
        constant(-0.0, x.type) if e.dtype.is_float and x.text == "zeroinitializer" else x
        for e, x in zip(s.identities, _identities(s, width), strict=True)
    ]
    step = 1
    while step < width:
        lanes = [lane - step if lane >= step else width + lane for lane in range(width)]
        earlier = [f.shuffle(x, n, lanes) for x, n in zip(found, neutral, strict=True)]
        found = _combined(writer, s, earlier, found, scope, width)
        step *= 2
    after = _combined(writer, s, carried, found, scope, width)
    if width == 1:
        before = list(carried)
        following = after
    else:
        lanes = [width, *range(width - 1)]
        before = [f.shuffle(x, c, lanes) for x, c in zip(after, carried, strict=True)]
        last = [f.shuffle(x, None, [width - 1] * width) for x in found]
        following = _combined(writer, s, carried, last, scope, width)
        em.varying.update((*s.before, *s.after))
    inner.values.update(zip((*s.before, *s.after), (*before, *after), strict=True))
    writer.body(s.then, inner)
    return following
