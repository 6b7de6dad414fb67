"""What a GPU renderer gives to the device that launches it: source text and geometry.

    GpuKernel = name  source  launches: Launch*  scratch: bytes*
    Launch    = entry  grid  block  shared_bytes  arguments: Argument*
    Argument  = slot | scratch, written, piece of the buffer

A device needs nothing else: compile `source` (one translation unit), allocate the scratch buffers,
and for each launch, in order, bind one buffer per argument and start `grid` blocks of `block`
threads. A launch reads what the launches before it wrote: it must see their writes.
"""

from __future__ import annotations

from dataclasses import dataclass

# Every buffer that is bound must begin at a multiple of this: accesses of 128 bits rely on it.
ALIGNMENT = 16
# Of shared memory, what the source declares; a launch that needs more brings all of it along.
DECLARED_SHARED_BYTES = 48 << 10
# Bytes are reached in words of this size: the bytes up to the next multiple belong to the buffer.
WORD_BYTES = 4


@dataclass(frozen=True)
class Argument:
    """One buffer of a launch: the kernel parameter `slot`, or scratch buffer number `scratch`.

    A buffer that is larger than a device binds has several arguments in a row, each for `bytes`
    from `offset` on; `bytes` is None for a whole buffer.
    """

    slot: int | None
    scratch: int | None
    written: bool
    offset: int = 0
    bytes: int | None = None


@dataclass(frozen=True)
class Launch:
    """One launch of an entry point of the source. Arguments are passed, or bound, in order from 0.

    `shared_bytes` up to DECLARED_SHARED_BYTES are declared in the source itself, and given to be
    compared with limits; a launch with more asks for them.
    """

    entry: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class GpuKernel:
    """A rendered kernel. Equal kernels give equal text.

    `launches` run in order; there is none when the kernel has no points. `scratch` holds the bytes
    of each scratch buffer: their contents need not be initialised and are not used afterwards, so
    that kernels which do not run at once may share them. Buffers are bound at multiples of
    ALIGNMENT and belong to the kernel up to the next multiple of WORD_BYTES.
    """

    name: str
    source: str
    launches: tuple[Launch, ...]
    scratch: tuple[int, ...] = ()
    alignment: int = ALIGNMENT
    notes: tuple[str, ...] = ()  # how each part was mapped, for the debug dump

    @property
    def shared_bytes(self) -> int:
        """The most shared memory that a launch uses."""
        return max((x.shared_bytes for x in self.launches), default=0)
