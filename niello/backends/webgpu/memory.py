"""Memory of a WebGPU device: storage buffers behind a cache, and what programs bind of them.

Everything that Niello does on a device goes through one queue, so a buffer that was dropped while a
kernel still reads it may be handed out at once: whoever gets it uses it later in the same queue.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from niello.core.errors import NielloError, OutOfMemory
from niello.runtime.buffer import HostPool, physical_memory, show_bytes

# What is bound: a buffer, the first byte, and how many.
Window = tuple[Any, int, int]

_numbers = itertools.count(1)


class Block:
    """A storage buffer. `number` belongs to no other one of this process."""

    __slots__ = ("buffer", "capacity", "number", "order")

    def __init__(self, buffer: Any, capacity: int) -> None:
        self.buffer = buffer
        self.capacity = capacity
        self.number = next(_numbers)
        self.order = 0


@dataclass(frozen=True, eq=False, slots=True)
class Handle:
    """Where a value begins: `offset` bytes into a block. What programs of this device take."""

    block: Block
    offset: int = 0

    def __add__(self, bytes: int) -> Handle:
        return Handle(self.block, self.offset + bytes)

    @property
    def key(self) -> tuple[int, int]:
        """Equal only for the same place."""
        return (self.block.number, self.offset)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"storage buffer {self.block.number}+{self.offset}"


def window(handle: Handle, size: int, alignment: int) -> tuple[Window, int]:
    """The binding that covers `size` bytes from a place on, and where in it they begin."""
    start = handle.offset - handle.offset % alignment
    inside = handle.offset - start
    length = -(-(inside + max(size, 1)) // 16) * 16
    length = min(length, handle.block.capacity - start)
    return (handle.block.buffer, start, length), inside


class BlockPool(HostPool):
    """The caching allocator of a device; classes of sizes and statistics as in HostPool.

    `create` makes a storage buffer of some bytes and raises OutOfMemory when the device refuses;
    `largest` is the size of the largest buffer it makes.
    """

    def __init__(
        self, create: Callable[[int], Any], largest: int, limit: int | None = None
    ) -> None:
        super().__init__(limit=physical_memory() if limit is None else limit)
        self._create = create
        self._largest = largest
        # The collector may finalize a cycle that holds a value, and wgpu's buffer with it, at the
        # moment when the value's block comes back here: buffers end only when this pool says so.
        self._alive: dict[int, Any] = {}

    def _new_block(self, capacity: int, asked: int) -> Block:  # type: ignore[override]
        if self._current + self._cached + capacity > self._limit:
            self._drop_cache()
        if capacity > self._largest or self._current + capacity > self._limit:
            raise self._full(asked)
        try:
            return self._made(capacity)
        except OutOfMemory:
            self._drop_cache()
        try:
            return self._made(capacity)
        except OutOfMemory:
            raise self._full(asked) from None

    def _made(self, capacity: int) -> Block:
        block = Block(self._create(capacity), capacity)
        self._alive[block.number] = block.buffer
        return block

    def _end(self, block: Block) -> None:
        self._alive.pop(block.number).destroy()

    def _drop_cache(self) -> None:
        for blocks in self._free.values():
            for block in blocks:
                self._end(block)  # type: ignore[arg-type]
        super()._drop_cache()

    def _drop_oldest(self) -> None:
        capacity = min((b for b in self._free if self._free[b]), key=self._oldest)
        self._end(self._free[capacity].pop(0))  # type: ignore[arg-type]
        self._cached -= capacity

    def _full(self, asked: int) -> NielloError:
        most = min(self._largest, self._limit)
        return OutOfMemory(
            "allocate",
            f"{show_bytes(asked)} do not fit: {show_bytes(self._current)} are in use, and the "
            f"largest buffer of this device has {show_bytes(most)}",
            received=f"{asked} bytes",
            advice="Drop results that are no longer needed, or use a smaller batch",
            requested=asked,
            held=self._current,
            limit=most,
        )
