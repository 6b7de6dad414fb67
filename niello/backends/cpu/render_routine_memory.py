"""Elements that statements of routines read and write: one, neighbouring ones, or any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from niello.backends.cpu.llvm_text import Function, Value, vector
from niello.backends.cpu.render_functions import emit_function
from niello.backends.cpu.render_memory import pick
from niello.backends.cpu.render_routine_lanes import LaneScope, permuted, stride
from niello.backends.cpu.render_scratch import ThreadScratch
from niello.backends.cpu.render_types import has_gather, memory_type
from niello.backends.cpu.vectors import is_narrow
from niello.core.dtypes import int64
from niello.core.errors import CompilerBug
from niello.kernel.ir import Expr, Param, const, fn
from niello.kernel.routine import Combine, Local, Place, Read, Routine, Write

if TYPE_CHECKING:
    from niello.backends.cpu.render_routine import RoutineWriter

_ZEROS = 1024  # bytes of zeros that lanes without a place to read from read instead
_ON_STACK = 4 << 10  # bytes of a team's local that lies on the stack
_MOST_PICKED = 4  # longest stride that is read as neighbouring vectors


class Places:
    """Addresses of a routine's parameters and locals. `bytes` of the thread's scratch are used."""

    def __init__(self, made: Routine) -> None:
        self.made = made
        self.bytes = 0
        self.offsets: dict[Local, int] = {}
        self.pointers: dict[Place, Value] = {}
        self.own: dict[tuple[Local, int], Value] = {}
        for t in made.locals:
            size = t.elements * t.dtype.itemsize
            if t.space == "team" and size > _ON_STACK:
                self.offsets[t] = self.bytes
                self.bytes += -(-size // 64) * 64

    def begin(self, f: Function) -> None:
        """Find the addresses in the function that is being written."""
        for p in self.made.params:
            self.pointers[p] = f.argument(f"b{p.slot}")
        for t in self.made.locals:
            if t in self.offsets:
                where = f.add(ThreadScratch(f).rows(), self.offsets[t])
                self.pointers[t] = f.cast("inttoptr", where, "ptr")
            elif t.space == "team":
                self.pointers[t] = f.alloca(memory_type(t.dtype), t.elements)

    def address(self, place: Place, width: int, f: Function) -> Value:
        """Where a place begins; `width` is the number of lanes that have one each."""
        if isinstance(place, Param) or place.space == "team":
            return self.pointers[place]
        key = (place, width)
        if key not in self.own:
            self.own[key] = f.alloca(memory_type(place.dtype), place.elements * width)
        return self.own[key]


def _member(place: Place) -> bool:
    return isinstance(place, Local) and place.space == "member"


def _offset(place: Place, index: Expr, scope: LaneScope) -> Expr:
    """The element of memory: locals of a member lie side by side, one for each lane."""
    if not _member(place) or scope.width == 1:
        return index
    lane = fn("floormod", scope.vector, const(scope.width, int64))
    return index * scope.width + lane


def read(writer: RoutineWriter, s: Read, scope: LaneScope) -> Value:
    """The value of a Read: a vector where the index varies."""
    em, f = writer.em, writer.f
    dtype = s.place.dtype
    start = writer.places.address(s.place, scope.width, f)
    kind = memory_type(dtype)
    index = _offset(s.place, s.index, scope)
    step = stride(index, scope)
    size = dtype.itemsize
    if step == 0:
        pointer = f.gep(kind, start, em.value(index, scope))
        return writer.loaded(f.load(kind, pointer, align=size), s)
    width, mask = scope.width, scope.mask
    whole = vector(kind, width)
    if step in (1, -1):
        pointer = f.gep(kind, start, em.scalar(index, scope), inbounds=False)
        turned = range(width - 1, -1, -1)
        if step < 0:
            pointer = f.gep(kind, pointer, 1 - width, inbounds=False)
            mask = None if mask is None else f.shuffle(mask, None, turned)
        if mask is None:
            found = f.load(whole, pointer, align=size)
        else:
            found = f.masked_load(whole, pointer, mask, align=size)
        return writer.loaded(found if step > 0 else f.shuffle(found, None, turned), s)
    if mask is None and step is not None and 2 <= step <= _MOST_PICKED:
        pointer = f.gep(kind, start, em.scalar(index, scope))
        return writer.loaded(_picked(writer, kind, pointer, size, width, step), s)
    turn = None if step is not None else permuted(index, scope)
    if turn is not None:
        pointer = f.gep(kind, start, em.scalar(turn[0], scope))
        lanes = [lane ^ turn[1] for lane in range(width)]
        if mask is None:
            value = f.load(whole, pointer, align=size)
        else:
            value = f.masked_load(whole, pointer, f.shuffle(mask, None, lanes), align=size)
        return writer.loaded(f.shuffle(value, None, lanes), s)
    pointers = _pointers(writer, start, kind, index, scope)
    if mask is not None and not has_gather(em.target, size):
        zeros = f.splat(f.module.zeros("niello_zeros", _ZEROS), pointers.type)
        pointers, mask = f.select(mask, pointers, zeros), None
    return writer.loaded(f.gather(whole, pointers, align=size, mask=mask), s)


def _picked(
    writer: RoutineWriter, kind: str, pointer: Value, size: int, width: int, step: int
) -> Value:
    """Every second (third, fourth) element out of neighbouring vectors; nothing beyond is read."""
    f = writer.f
    back = (step - 1) * (width - 1)
    starts = [*(n * width for n in range(step - 1)), back]
    vectors = [f.load(vector(kind, width), f.gep(kind, pointer, n), align=size) for n in starts]
    places = []
    for lane in range(width):
        at = lane * step
        n = at // width
        places.append((n, at - n * width) if n < step - 1 else (step - 1, at - back))
    return pick(writer.em, vectors, places)


def _pointers(
    writer: RoutineWriter, start: Value, kind: str, index: Expr, scope: LaneScope
) -> Value:
    em = writer.em
    offsets = em.narrow(index, scope) if is_narrow(index) else em.lanes(index, scope)
    return em.f.gep(kind, start, em.widen(offsets, scope), inbounds=False)


def write(writer: RoutineWriter, s: Write, scope: LaneScope) -> None:
    """Write an element, or one for each lane."""
    em, f = writer.em, writer.f
    kind, size = memory_type(s.place.dtype), s.place.dtype.itemsize
    start = writer.places.address(s.place, scope.width, f)
    if scope.vector is None:
        value = writer.stored(em.value(s.value, scope), s)
        f.store(value, f.gep(kind, start, em.value(s.index, scope)), align=size)
        return
    index = _offset(s.place, s.index, scope)
    value = writer.stored(em.lanes(s.value, scope), s)
    step, mask, width = stride(index, scope), scope.mask, scope.width
    if step in (1, -1):
        pointer = f.gep(kind, start, em.scalar(index, scope), inbounds=False)
        if step < 0:
            turned = range(width - 1, -1, -1)
            pointer = f.gep(kind, pointer, 1 - width, inbounds=False)
            value = f.shuffle(value, None, turned)
            mask = None if mask is None else f.shuffle(mask, None, turned)
        if mask is None:
            f.store(value, pointer, align=size)
        else:
            f.masked_store(value, pointer, mask, align=size)
        return
    f.scatter(value, _pointers(writer, start, kind, index, scope), align=size, mask=mask)


_SIGNED = {"min": "min", "max": "max"}


def combine(writer: RoutineWriter, s: Combine, scope: LaneScope) -> None:
    """Combine into an element; threads may meet in a parameter."""
    em, f = writer.em, writer.f
    if scope.vector is not None:
        raise CompilerBug("cpu renderer", "lanes that combine", received=repr(s))
    kind = memory_type(s.place.dtype)
    start = writer.places.address(s.place, 1, f)
    pointer = f.gep(kind, start, em.value(s.index, scope))
    value = em.value(s.value, scope)
    if isinstance(s.place, Local):
        old = f.load(kind, pointer, align=4)
        new = emit_function(f, em.target, s.op, s.place.dtype, [old, value])
        f.store(new, pointer, align=4)
        return
    word = s.op
    if word in _SIGNED and s.place.dtype.kind == "uint":
        word = "u" + word
    f.emit(kind, f"atomicrmw {word} {pointer}, {value} monotonic")
