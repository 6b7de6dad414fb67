"""Level 3: the command list, which a package stores and the executor plays.

A Program is closed: kernels, a list of commands over numbered buffers, and the types of what comes
in and goes out. Branches and loops are commands that hold lists of commands (`walk` visits all).
Buffers live in five spaces; `offset` and `bytes` count bytes.
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
    from niello.kernel.routine import Routine


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
class SliceCopy(Command):
    """Copy one slice of a stack, chosen by a 32-bit word: `index` times a step of bytes is added to
    the offset of the source and of the target. `source` and `target` are the whole stacks; a side
    whose step is 0 is a single slice, and gives the number of bytes."""

    source: BufferRef
    target: BufferRef
    index: BufferRef
    source_step: int
    target_step: int

    @property
    def bytes(self) -> int:
        """Bytes that are copied."""
        return self.source.bytes if self.source_step == 0 else self.target.bytes

    @property
    def reads(self) -> tuple[BufferRef, ...]:
        return (self.source, self.index)

    @property
    def writes(self) -> tuple[BufferRef, ...]:
        return (self.target,)


@dataclass(frozen=True)
class If(Command):
    """Run `then` unless the 32-bit word `condition` is zero, else `otherwise`."""

    condition: BufferRef
    then: tuple[Command, ...]
    otherwise: tuple[Command, ...]
    names: tuple[str, ...] = ()  # the operation of the graph

    @property
    def bodies(self) -> tuple[tuple[Command, ...], ...]:
        """The nested command lists."""
        return self.then, self.otherwise

    @property
    def words(self) -> tuple[BufferRef, ...]:
        """What the command itself reads."""
        return (self.condition,)

    @property
    def reads(self) -> tuple[BufferRef, ...]:
        return (self.condition, *_reads((*self.then, *self.otherwise)))

    @property
    def writes(self) -> tuple[BufferRef, ...]:
        return _writes((*self.then, *self.otherwise))


@dataclass(frozen=True)
class Loop(Command):
    """Run `body` again and again; before each time `counter` (a 32-bit word) is its number.

    It ends after `trips` times (None: no such bound), after as many as the word `count` said when
    the loop began, and when the word `condition` is zero; the commands `test` make that before each
    time. With `reverse` (then `trips` or `count` is known) the numbers run down to 0. `iterations`
    receives how often the body ran.
    """

    body: tuple[Command, ...]
    counter: BufferRef
    trips: int | None = None
    count: BufferRef | None = None
    condition: BufferRef | None = None
    test: tuple[Command, ...] = ()
    reverse: bool = False
    iterations: BufferRef | None = None
    names: tuple[str, ...] = ()  # the operation of the graph

    @property
    def bodies(self) -> tuple[tuple[Command, ...], ...]:
        """The nested command lists."""
        return self.test, self.body

    @property
    def words(self) -> tuple[BufferRef, ...]:
        """What the command itself reads."""
        return tuple(w for w in (self.count, self.condition) if w is not None)

    @property
    def reads(self) -> tuple[BufferRef, ...]:
        return (*self.words, *_reads((*self.test, *self.body)))

    @property
    def writes(self) -> tuple[BufferRef, ...]:
        words = [w for w in (self.counter, self.iterations) if w is not None]
        return (*words, *_writes((*self.test, *self.body)))


def _reads(commands: tuple[Command, ...]) -> tuple[BufferRef, ...]:
    words = (getattr(c, "predicate", None) for c in commands)
    found = (*(b for c in commands for b in c.reads), *(w for w in words if w is not None))
    return tuple(dict.fromkeys(found))


def _writes(commands: tuple[Command, ...]) -> tuple[BufferRef, ...]:
    return tuple(dict.fromkeys(b for c in commands for b in c.writes))


def walk(commands: tuple[Command, ...]) -> Iterator[Command]:
    """Every command, and every command nested in it, each before what it holds."""
    for command in commands:
        yield command
        if isinstance(command, (If, Loop)):
            for body in command.bodies:
                yield from walk(body)


@dataclass(frozen=True)
class Variable:
    """A buffer that outlives a run."""

    name: str
    type: TensorType


@dataclass(frozen=True, eq=False)
class Program:
    """Everything a back end needs to compile and run; types are static."""

    kernels: tuple[Kernel | Routine, ...]
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
        """Bytes that commands read and write, each buffer once per command; a loop's body as often
        as it is known to run (once where that depends on values), and the longer of two branches.
        """
        return _moved(self.commands)


def _moved(commands: tuple[Command, ...]) -> int:
    total = 0
    for command in commands:
        if isinstance(command, If):
            total += max(map(_moved, command.bodies))
        elif isinstance(command, Loop):
            trips = 1 if command.trips is None else command.trips
            total += trips * (_moved(command.test) + _moved(command.body))
        elif isinstance(command, SliceCopy):
            total += 2 * command.bytes
        else:
            total += sum(b.bytes for b in {*command.reads, *command.writes})
    return total
