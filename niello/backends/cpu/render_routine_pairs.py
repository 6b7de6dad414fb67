"""Neighbouring statements on neighbouring elements: the parts of complex numbers, pixels, points.

Where each lane reads (writes) 2, 4, 8 ... elements that lie side by side, and the next lane the
next ones, whole vectors are read (written) and their lanes put in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from niello.backends.cpu.llvm_text import Function, Value, lanes, vector
from niello.backends.cpu.render_routine_lanes import LaneScope, stride
from niello.backends.cpu.render_types import memory_type
from niello.kernel.bounds import linear
from niello.kernel.ir import fn
from niello.kernel.routine import Local, Read, Statement, Write

if TYPE_CHECKING:
    from niello.backends.cpu.render_routine import RoutineWriter

_COUNTS = (2, 4, 8, 16, 32)


def side_by_side(body: Sequence[Statement], scope: LaneScope) -> int:
    """How many statements at the beginning of `body` are one access to neighbours; 0 if none."""
    first = body[0]
    if scope.vector is None or scope.width == 1 or not isinstance(first, (Read, Write)):
        return 0
    if isinstance(first.place, Local) and first.place.space == "member":
        return 0
    count = stride(first.index, scope)
    if count not in _COUNTS or len(body) < count:
        return 0
    for n, s in enumerate(body[:count]):
        if type(s) is not type(first) or s.place is not first.place:  # type: ignore[attr-defined]
            return 0
        apart = linear(fn("sub", s.index, first.index))  # type: ignore[attr-defined]
        if apart != ({}, n):
            return 0
    return count


def access(writer: RoutineWriter, body: Sequence[Statement], scope: LaneScope) -> None:
    """Write such statements."""
    first = body[0]
    assert isinstance(first, (Read, Write))
    em, f = writer.em, writer.f
    kind, size = memory_type(first.place.dtype), first.place.dtype.itemsize
    start = writer.places.address(first.place, scope.width, f)
    pointer = f.gep(kind, start, em.scalar(first.index, scope))
    width, count = scope.width, len(body)
    masks: list[Value] | None = None
    if scope.mask is not None:
        masks = _mixed(f, [scope.mask] * count)
    places = [f.gep(kind, pointer, n * width) for n in range(count)]
    whole = vector(kind, width)
    if isinstance(first, Read):
        parts = [
            f.load(whole, p, align=size)
            if masks is None
            else f.masked_load(whole, p, masks[n], align=size)
            for n, p in enumerate(places)
        ]
        for s, value in zip(body, _parted(f, parts), strict=True):
            assert isinstance(s, Read)
            writer.define(s.var, writer.loaded(value, s), scope)
        return
    values = [writer.stored(em.lanes(s.value, scope), s) for s in body if isinstance(s, Write)]
    for n, (value, p) in enumerate(zip(_mixed(f, values), places, strict=True)):
        if masks is None:
            f.store(value, p, align=size)
        else:
            f.masked_store(value, p, masks[n], align=size)


def _mixed(f: Function, values: Sequence[Value]) -> list[Value]:
    """Vectors that hold lane 0 of all values, then lane 1 of all, and so on."""
    if len(values) == 1:
        return list(values)
    width = lanes(values[0].type)
    found = []
    for a, b in zip(_mixed(f, values[::2]), _mixed(f, values[1::2]), strict=True):
        for half in range(2):
            at = [half * width // 2 + n // 2 + (width if n % 2 else 0) for n in range(width)]
            found.append(f.shuffle(a, b, at))
    return found


def _parted(f: Function, vectors: Sequence[Value]) -> list[Value]:
    """The values that `_mixed` would make these vectors of."""
    if len(vectors) == 1:
        return list(vectors)
    width = lanes(vectors[0].type)
    even, odd = [], []
    for a, b in zip(vectors[::2], vectors[1::2], strict=True):
        even.append(f.shuffle(a, b, range(0, 2 * width, 2)))
        odd.append(f.shuffle(a, b, range(1, 2 * width, 2)))
    found: list[Value] = []
    for a, b in zip(_parted(f, even), _parted(f, odd), strict=True):
        found += [a, b]
    return found
