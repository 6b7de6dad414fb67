"""Schedules for people: commands, kernels, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from niello.kernel.text import print_kernel
from niello.runtime.commands import (
    Command,
    Copy,
    Dispatch,
    Fill,
    If,
    Loop,
    Program,
    SliceCopy,
)

if TYPE_CHECKING:
    from niello.schedule.program import Scheduled


def commands_text(scheduled: Scheduled) -> str:
    """One line per command, those of branches and loops indented; then the memory plan."""
    program = scheduled.program
    lines = list(_lines(program, program.commands))
    lines.append(
        f"arena {program.arena_bytes} bytes (at least {scheduled.arena_lower_bound} needed); "
        f"{program.bytes_moved()} bytes moved; "
        f"{sum(c.nbytes for c in program.constants)} bytes of constants"
    )
    return "\n".join(lines)


def _lines(program: Program, commands: Sequence[Command]) -> Iterator[str]:
    for i, command in enumerate(commands):
        if isinstance(command, Dispatch):
            kernel = program.kernels[command.kernel]
            written = ", ".join(str(b) for b in command.writes)
            read = ", ".join(
                str(b) for b, w in zip(command.buffers, command.written, strict=True) if not w
            )
            yield f"{i:4d}  {kernel.name}: {read or 'nothing'} -> {written}"
            yield f"      {' '.join(command.names)}"
        elif isinstance(command, Copy):
            yield f"{i:4d}  copy: {command.source} -> {command.target}"
        elif isinstance(command, Fill):
            yield f"{i:4d}  fill {command.pattern.hex()}: -> {command.target}"
        elif isinstance(command, SliceCopy):
            steps = f"steps {command.source_step} and {command.target_step} by {command.index}"
            yield f"{i:4d}  copy slice: {command.source} -> {command.target} {steps}"
        elif isinstance(command, If):
            yield f"{i:4d}  if {command.condition}: {' '.join(command.names)}"
            yield from _nested(program, "then", command.then)
            yield from _nested(program, "else", command.otherwise)
        elif isinstance(command, Loop):
            yield f"{i:4d}  loop {_bounds(command)}: {' '.join(command.names)}"
            yield from _nested(program, "test", command.test)
            yield from _nested(program, "body", command.body)
        else:
            yield f"{i:4d}  {command}"


def _nested(program: Program, label: str, commands: Sequence[Command]) -> Iterator[str]:
    if commands:
        yield f"      {label}:"
        yield from (f"    {line}" for line in _lines(program, commands))


def _bounds(loop: Loop) -> str:
    """How often a loop runs, in words."""
    parts = [] if loop.trips is None else [f"{loop.trips} times"]
    parts += [] if loop.count is None else [f"up to {loop.count}"]
    parts += [] if loop.condition is None else [f"while {loop.condition}"]
    down = ", counting down" if loop.reverse else ""
    return f"{' and '.join(parts)} with {loop.counter}{down}"


def kernels_text(program: Program) -> str:
    """All kernels in index notation."""
    return "\n\n".join(print_kernel(k) for k in program.kernels)
