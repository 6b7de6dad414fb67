"""Entry points of a source, for any language: what a renderer hands to the one that writes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from niello.codegen.gpu.kernel import Argument, Launch
from niello.codegen.gpu.registers import Reg
from niello.codegen.gpu.stages import SCRATCH_SLOT
from niello.codegen.gpu.target import GpuTarget
from niello.core.errors import LimitExceeded
from niello.kernel.ir import Param

_LONGEST_NAME = 40


@dataclass(frozen=True)
class Entry:
    """One entry point, for the dialect to write: its body knows `tid` and `block`."""

    name: str
    params: tuple[Param, ...]  # in the order of arguments
    written: tuple[bool, ...]
    shared: dict[str, tuple[Reg, int]]
    threads: int
    grid: tuple[int, int, int]
    lines: tuple[str, ...]
    stage: int
    resident: int = 1  # blocks that a processor should hold at once

    @property
    def shared_bytes(self) -> int:
        """Bytes of the shared arrays, each at a multiple of 16."""
        return sum(-(-r.bytes * n // 16) * 16 for r, n in self.shared.values())


Writer = Callable[[Sequence[Entry]], str]


def identifier(name: str) -> str:
    """A name that both languages accept, of bounded length."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:_LONGEST_NAME].rstrip("_")
    return f"k_{plain}" if plain else "k"


def entry_grid(blocks: int, target: GpuTarget) -> tuple[int, int, int]:
    """A grid of at least that many blocks, by rows that are as long as the device allows."""
    if blocks <= target.most_blocks:
        return (blocks, 1, 1)
    rows = -(-blocks // target.most_blocks)
    return (-(-blocks // rows), rows, 1)


def entry_launch(entry: Entry, target: GpuTarget) -> Launch:
    """How an entry point is started. Raises LimitExceeded for what the device cannot do."""
    arguments: list[Argument] = []
    for p, written in zip(entry.params, entry.written, strict=True):
        of_scratch = p.slot >= SCRATCH_SLOT
        slot = None if of_scratch else p.slot
        scratch = p.slot - SCRATCH_SLOT if of_scratch else None
        pieces = target.pieces(p.elements * p.dtype.itemsize)
        if len(pieces) == 1:
            arguments.append(Argument(slot, scratch, written))
        else:
            arguments += [Argument(slot, scratch, written, at, size) for at, size in pieces]
    if len(arguments) > target.most_buffers:
        raise LimitExceeded(
            f"kernel {entry.name}",
            f"a launch of this device takes {target.most_buffers} buffers",
            received=f"{len(arguments)} buffers",
            advice="Stitch fewer operations together",
        )
    bytes, most = entry.shared_bytes, max(target.shared_bytes, target.most_shared_bytes)
    if bytes > most:
        raise LimitExceeded(
            f"kernel {entry.name}",
            f"a block of this device shares {most} bytes",
            received=f"{bytes} bytes",
        )
    return Launch(entry.name, entry.grid, (entry.threads, 1, 1), bytes, tuple(arguments))
