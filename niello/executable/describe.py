"""Schedules for people: commands, kernels, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from niello.kernel.text import print_kernel
from niello.runtime.commands import Copy, Dispatch, Fill, Program

if TYPE_CHECKING:
    from niello.schedule.program import Scheduled


def commands_text(scheduled: Scheduled) -> str:
    """One line per command, then the memory plan."""
    program = scheduled.program
    lines = []
    for i, command in enumerate(program.commands):
        if isinstance(command, Dispatch):
            kernel = program.kernels[command.kernel]
            written = ", ".join(str(b) for b in command.writes)
            read = ", ".join(
                str(b) for b, w in zip(command.buffers, command.written, strict=True) if not w
            )
            lines.append(f"{i:4d}  {kernel.name}: {read or 'nothing'} -> {written}")
            lines.append(f"      {' '.join(command.names)}")
        elif isinstance(command, Copy):
            lines.append(f"{i:4d}  copy: {command.source} -> {command.target}")
        elif isinstance(command, Fill):
            lines.append(f"{i:4d}  fill {command.pattern.hex()}: -> {command.target}")
        else:
            lines.append(f"{i:4d}  {command}")
    lines.append(
        f"arena {program.arena_bytes} bytes (at least {scheduled.arena_lower_bound} needed); "
        f"{program.bytes_moved()} bytes moved; "
        f"{sum(c.nbytes for c in program.constants)} bytes of constants"
    )
    return "\n".join(lines)


def kernels_text(program: Program) -> str:
    """All kernels in index notation."""
    return "\n\n".join(print_kernel(k) for k in program.kernels)
