"""Level 3: the command list, which a package stores and the executor plays.

A Program is closed: kernels, a flat list of commands over numbered buffers, and the types of what
comes in and goes out. Buffers live in five spaces; `offset` and `bytes` count bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from niello.core.types import TensorType

if TYPE_CHECKING:
    import numpy as np

    from niello.kernel.ir import Kernel


class Space(enum.Enum):
    """Where a buffer lives."""

    INPUT = "input"  # fed by the caller, read only
    OUTPUT = "output"  # results, allocated or given by the caller
    VARIABLE = "variable"  # keeps its value between runs, read and written in place
    CONSTANT = "constant"  # known at compile time, read only
    ARENA = "arena"  # intermediate results; index is always 0


@dataclass(frozen=True, order=False)
class BufferRef:
    """A piece of a buffer."""

    space: Space
    index: int
    offset: int
    bytes: int

    def overlaps(self, other: BufferRef) -> bool:
        """True when both touch a common byte."""
        return (
            self.space is other.space
            and self.index == other.index
            and self.offset < other.offset + other.bytes
            and other.offset < self.offset + self.bytes
        )

    def __str__(self) -> str:
        where = f"{self.space.value}{'' if self.space is Space.ARENA else self.index}"
        return f"{where}[{self.offset}:{self.offset + self.bytes}]"


@dataclass(frozen=True)
class Command:
    """Base of commands. `predicate` is a 32-bit integer that skips the command when zero."""

    @property
    def reads(self) -> tuple[BufferRef, ...]:
        return ()

    @property
    def writes(self) -> tuple[BufferRef, ...]:
        return ()


@dataclass(frozen=True)
class Dispatch(Command):
    """Launch `program.kernels[kernel]` with one buffer per kernel parameter."""

    kernel: int
    buffers: tuple[BufferRef, ...]
    written: tuple[bool, ...]
    names: tuple[str, ...] = ()  # operations of the graph that this kernel computes
    predicate: BufferRef | None = None

    @property
    def reads(self) -> tuple[BufferRef, ...]:
        return self.buffers  # a written buffer may be read too (in-place, scatter)

    @property
    def writes(self) -> tuple[BufferRef, ...]:
        return tuple(b for b, w in zip(self.buffers, self.written, strict=True) if w)


@dataclass(frozen=True)
class LibraryCall(Command):
    """Run a vendor library's function on buffers; `attributes` are its JSON-like settings."""

    function: str
    attributes: tuple[tuple[str, object], ...]
    buffers: tuple[BufferRef, ...]
    written: tuple[bool, ...]
    names: tuple[str, ...] = ()
    predicate: BufferRef | None = None

    @property
    def reads(self) -> tuple[BufferRef, ...]:
        return self.buffers

    @property
    def writes(self) -> tuple[BufferRef, ...]:
        return tuple(b for b, w in zip(self.buffers, self.written, strict=True) if w)


@dataclass(frozen=True)
class Copy(Command):
    """Copy bytes from `source` to `target`; both have the same size and do not overlap."""

    source: BufferRef
    target: BufferRef
    predicate: BufferRef | None = None

    @property
    def reads(self) -> tuple[BufferRef, ...]:
        return (self.source,)

    @property
    def writes(self) -> tuple[BufferRef, ...]:
        return (self.target,)


@dataclass(frozen=True)
class Fill(Command):
    """Fill `target` with repetitions of `pattern` (1, 2, 4 or 8 bytes)."""

    target: BufferRef
    pattern: bytes
    predicate: BufferRef | None = None

    @property
    def writes(self) -> tuple[BufferRef, ...]:
        return (self.target,)


@dataclass(frozen=True)
class Variable:
    """A buffer that outlives a run."""

    name: str
    type: TensorType


@dataclass(frozen=True, eq=False)
class Program:
    """Everything a back end needs to compile and run; types are static."""

    kernels: tuple[Kernel, ...]
    commands: tuple[Command, ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    variables: tuple[Variable, ...]
    constants: tuple[np.ndarray, ...]
    arena_bytes: int

    def buffers(self) -> Iterator[tuple[Space, int, int]]:
        """(space, index, bytes) of every buffer, in the order back ends number their arguments:
        inputs, outputs, variables, constants, arena."""
        for space, types in (
            (Space.INPUT, self.inputs),
            (Space.OUTPUT, self.outputs),
            (Space.VARIABLE, tuple(v.type for v in self.variables)),
        ):
            for i, t in enumerate(types):
                yield space, i, t.bytes
        for i, c in enumerate(self.constants):
            yield Space.CONSTANT, i, c.nbytes
        yield Space.ARENA, 0, self.arena_bytes

    def argument(self, space: Space, index: int) -> int:
        """Position of a buffer among the arguments."""
        base = {
            Space.INPUT: 0,
            Space.OUTPUT: len(self.inputs),
            Space.VARIABLE: len(self.inputs) + len(self.outputs),
            Space.CONSTANT: len(self.inputs) + len(self.outputs) + len(self.variables),
            Space.ARENA: len(self.inputs)
            + len(self.outputs)
            + len(self.variables)
            + len(self.constants),
        }
        return base[space] + index

    def bytes_moved(self) -> int:
        """Bytes that commands read and write, each buffer once per command."""
        total = 0
        for command in self.commands:
            total += sum(b.bytes for b in {*command.reads, *command.writes})
        return total
