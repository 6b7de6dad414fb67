"""Slices of stacks that the body of a loop reads where they are, without a copy.

A walk over time copies the slice of the moment to one place and reads it there. Where nothing else
touches that place, the readers may as well take the address of the slice itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from niello.runtime.commands import (
    BufferRef,
    Command,
    Copy,
    Dispatch,
    If,
    Loop,
    Program,
    SliceCopy,
    Space,
    walk,
)

ALIGNMENT = 64  # bytes at whose multiples all tensors begin


def read_in_place(program: Program, loop: Loop) -> dict[BufferRef, SliceCopy]:
    """The copies in the loop's body that need not be made, by the places they would fill."""
    inside = [*walk((*loop.test, *loop.body))]
    around = [c for c in walk(program.commands) if all(c is not i for i in (loop, *inside))]
    found: dict[BufferRef, SliceCopy] = {}
    for number, command in enumerate(loop.body):
        if isinstance(command, SliceCopy) and _may_stay(command, loop, number, inside, around):
            found[command.target] = command
    return found


def _may_stay(
    copy: SliceCopy,
    loop: Loop,
    number: int,
    inside: Sequence[Command],
    around: Sequence[Command],
) -> bool:
    target, source = copy.target, copy.source
    if copy.target_step or target.space is not Space.ARENA or copy.index != loop.counter:
        return False
    if copy.source_step % ALIGNMENT or source.offset % ALIGNMENT:
        return False
    writes = [w for c in inside if c is not copy for w in _own_writes(c)]
    if _overlaps(writes, (target, source)):
        return False
    earlier = (*loop.test, *loop.body[:number])
    if any(_overlaps(_all_reads(c), (target,)) for c in (*walk(earlier), *around)):
        return False
    readers = [c for c in inside if _overlaps(_all_reads(c), (target,))]
    return all(_reads_whole(c, target) for c in readers)


def _reads_whole(command: Command, place: BufferRef) -> bool:
    """Whether a command takes exactly this place as an operand, and no part of it otherwise."""
    if not isinstance(command, (Dispatch, Copy)):
        return False
    touching = [r for r in _all_reads(command) if r.overlaps(place)]
    return touching.count(place) == len(touching) and command.predicate != place


def _all_reads(command: Command) -> Iterator[BufferRef]:
    """What a command reads itself: those nested in it count for themselves."""
    predicate = getattr(command, "predicate", None)
    yield from command.words if isinstance(command, (If, Loop)) else command.reads
    if predicate is not None:
        yield predicate


def _own_writes(command: Command) -> Sequence[BufferRef]:
    if isinstance(command, If):
        return ()
    if isinstance(command, Loop):
        return [w for w in (command.counter, command.iterations) if w is not None]
    return command.writes


def _overlaps(some: Sequence[BufferRef] | Iterator[BufferRef], others: Sequence[BufferRef]) -> bool:
    return any(a.overlaps(b) for a in some for b in others)
