"""Time of each command of an executable, measured one by one with its own buffers."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from niello.core.nodes import walk
from niello.kernel.ir import Contract, Kernel
from niello.kernel.routine import Routine
from niello.runtime.commands import Command, Dispatch

if TYPE_CHECKING:
    from niello.executable.executable import Executable


@dataclass(frozen=True)
class CommandTime:
    """Best time of one command, in seconds, with what it moves and multiplies."""

    name: str
    operations: tuple[str, ...]
    seconds: float
    bytes: int
    flops: int

    @property
    def gigabytes_per_second(self) -> float:
        return self.bytes / self.seconds / 1e9

    @property
    def gigaflops(self) -> float:
        """Of multiply-adds in contractions only, two operations each."""
        return self.flops / self.seconds / 1e9


def time_commands(executable: Executable, repeats: int = 5) -> list[CommandTime]:
    """Run every command alone, several times, and keep the best time of each.

    Variables are written with copies of their own, so their values stay as they are. Times of
    commands that depend on values (branches) are those for zeros.
    """
    program = executable.program
    device = executable.device
    buffers = [device.allocate(max(size, 1)) for _, _, size in program.buffers()]
    for b, (_, _, size) in zip(buffers, program.buffers(), strict=True):
        device.upload(b, 0, np.zeros(size, np.uint8))
    handles = [b.handle for b in buffers]
    found = []
    for command in program.commands:
        alone = dataclasses.replace(program, commands=(command,))
        loaded = device.compile(alone, executable.options)
        best = float("inf")
        loaded.play(handles)
        device.synchronize()
        for _ in range(repeats):
            started = time.perf_counter()
            loaded.play(handles)
            device.synchronize()
            best = min(best, time.perf_counter() - started)
        found.append(_describe(command, program.kernels, best))
    return found


def _describe(
    command: Command, kernels: tuple[Kernel | Routine, ...], seconds: float
) -> CommandTime:
    size = sum(b.bytes for b in {*command.reads, *command.writes})
    if isinstance(command, Dispatch):
        kernel = kernels[command.kernel]
        return CommandTime(kernel.name, command.names, seconds, size, contraction_flops(kernel))
    return CommandTime(type(command).__name__.lower(), (), seconds, size, 0)


def contraction_flops(kernel: Kernel | Routine) -> int:
    """Two for each multiply-add of the kernel's contractions, padding included."""
    total = 0
    seen = set()
    for store in kernel.stores:
        points = 1
        for r in store.ranges:
            points *= r.extent
        for node in walk([store.value]):
            if isinstance(node, Contract) and node not in seen:
                seen.add(node)
                inner = 1
                for r in node.ranges:
                    inner *= r.extent
                total += 2 * points * inner
    return total
