"""Buffers, and the pool that host memory comes from.

A `Buffer` is a piece of a device's memory. It goes back to where it came from when the last
reference to it (or to a NumPy view of it) is dropped. Host memory comes from a `HostPool`, which
keeps freed blocks and hands them out again: a run that allocates its results anew each time gets
the pages of the previous results, already mapped and warm.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from niello.core.dtypes import DType
from niello.core.errors import DeviceError, OutOfMemory

ALIGNMENT = 64
# Blocks from this size on are mapped directly and ask for huge pages.
MAPPED_BYTES = 1 << 20
HUGE_PAGE = 2 << 20
# Freed memory that is kept even when the peak of use was lower.
CACHE_FLOOR = 256 << 20


class Buffer:
    """A piece of a device's memory, freed when the last reference to it is dropped.

    `handle` is what the device's programs take: the address, for devices with host memory.
    `bytes` is the usable size. `owner` is whatever must live as long as the buffer; `release`, when
    given, is called with it at the end.
    """

    __slots__ = ("__weakref__", "_owner", "_release", "bytes", "device", "handle", "writable")

    def __init__(
        self,
        device: Any,
        handle: Any,
        size: int,
        *,
        owner: Any = None,
        release: Callable[[Any], None] | None = None,
        writable: bool = True,
    ) -> None:
        self.device = device
        self.handle = handle
        self.bytes = size
        self.writable = writable
        self._owner = owner
        self._release = release

    def __del__(self) -> None:
        if self._release is not None:
            self._release(self._owner)

    def array(self, dtype: DType, shape: tuple[int, ...], offset: int = 0) -> np.ndarray:
        """A NumPy view of the memory, `offset` bytes in; the view keeps the buffer alive.

        Raises DeviceError for devices whose memory the host cannot see, and for views that
        reach beyond the end.
        """
        if not self.device.host_memory:
            raise DeviceError(
                "Buffer.array",
                "the host cannot see the memory of this device",
                received=self.device.name,
                advice="Copy the tensor to the cpu device first",
            )
        plain = dtype.plain_numpy
        size = plain.itemsize
        for extent in shape:
            size *= extent
        if offset < 0 or offset + size > self.bytes:
            raise DeviceError(
                "Buffer.array",
                f"a view of {size} bytes at {offset} does not fit the buffer",
                received=f"{self.bytes} bytes",
            )
        view = np.asarray(_Window(self, plain, shape, offset))
        return view if plain == dtype.numpy else view.view(dtype.numpy)

    def __repr__(self) -> str:
        where = f"{self.handle:#x}" if isinstance(self.handle, int) else repr(self.handle)
        return f"Buffer({self.device.name}, {self.bytes} bytes at {where})"


class _Window:
    """What NumPy makes a view from; it becomes the view's base and holds the buffer."""

    __slots__ = ("__array_interface__", "buffer")

    def __init__(
        self, buffer: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int
    ) -> None:
        self.buffer = buffer
        self.__array_interface__ = {
            "version": 3,
            "typestr": dtype.str,
            "shape": shape,
            "data": (buffer.handle + offset, not buffer.writable),
        }


class _Block:
    """Memory of one allocation: `storage` is the NumPy array that owns it."""

    __slots__ = ("address", "capacity", "order", "storage")

    def __init__(self, address: int, capacity: int, storage: np.ndarray) -> None:
        self.address = address
        self.capacity = capacity
        self.storage = storage
        self.order = 0


class HostPool:
    """A caching allocator of 64-byte aligned host memory. All methods are thread safe.

    Sizes are rounded up to classes of at most a quarter more. Freed blocks are kept, up to the
    peak of what was in use at once (and at least 256 MiB); `release` gives them to the system.

    Example:
        >>> pool = HostPool()
        >>> block = pool.allocate(1000)
        >>> pool.stats()["current"]
        1024
        >>> pool.give_back(block)
        >>> pool.stats()["cached"]
        1024
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = physical_memory() if limit is None else limit
        self._lock = threading.Lock()
        self._free: dict[int, list[_Block]] = {}
        # Finalizers run at any moment, even inside this class with the lock held: they only
        # append here, which needs no lock.
        self._returned: deque[_Block] = deque()
        self.give_back = self._returned.append
        self._current = 0
        self._cached = 0
        self._peak = 0
        self._count = 0
        _pools.add(self)

    def allocate(self, size: int) -> _Block:
        """A block of at least `size` bytes, contents undefined. Raises OutOfMemory."""
        capacity = size_class(size)
        with self._lock:
            if self._returned:
                # Runs in a loop take back what the last one dropped: no need to file it.
                block = self._returned.popleft()
                if block.capacity == capacity:
                    return block
                self._returned.appendleft(block)
                self._collect()
            free = self._free.get(capacity)
            if free:
                block = free.pop()
                self._cached -= capacity
            else:
                block = self._new_block(capacity, size)
            self._current += capacity
            if self._current > self._peak:
                self._peak = self._current
        return block

    def stats(self) -> dict[str, int]:
        """Bytes in use now, in use at most so far, and kept for reuse: current, peak, cached."""
        with self._lock:
            self._collect()
            return {"current": self._current, "peak": self._peak, "cached": self._cached}

    def release(self) -> None:
        """Gives all memory kept for reuse back to the system."""
        with self._lock:
            self._collect()
            self._drop_cache()

    def reset_peak(self) -> None:
        """Starts counting the peak anew from what is in use now."""
        with self._lock:
            self._collect()
            self._peak = self._current

    def renew_lock(self) -> None:
        """After fork: whoever held the lock does not exist in the child."""
        self._lock = threading.Lock()

    def _collect(self) -> None:
        """Files returned blocks into the free lists; then drops the oldest beyond the bound."""
        while self._returned:
            block = self._returned.popleft()
            self._current -= block.capacity
            self._cached += block.capacity
            self._count += 1
            block.order = self._count
            self._free.setdefault(block.capacity, []).append(block)
        bound = max(self._peak, CACHE_FLOOR)
        while self._cached > bound:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        capacity = min((b for b in self._free if self._free[b]), key=self._oldest)
        self._free[capacity].pop(0)
        self._cached -= capacity

    def _oldest(self, capacity: int) -> int:
        return self._free[capacity][0].order

    def _drop_cache(self) -> None:
        self._free.clear()
        self._cached = 0

    def _new_block(self, capacity: int, asked: int) -> _Block:
        if self._current + self._cached + capacity > self._limit:
            self._drop_cache()
        if self._current + capacity > self._limit:
            raise self._out_of_memory(asked)
        try:
            return _new_block(capacity)
        except (MemoryError, OSError, ValueError, OverflowError):
            self._drop_cache()
        try:
            return _new_block(capacity)
        except (MemoryError, OSError, ValueError, OverflowError):
            raise self._out_of_memory(asked) from None

    def _out_of_memory(self, asked: int) -> OutOfMemory:
        return OutOfMemory(
            "allocate",
            f"{show_bytes(asked)} do not fit: {show_bytes(self._current)} are in use of "
            f"{show_bytes(self._limit)}",
            received=f"{asked} bytes",
            advice="Drop results that are no longer needed, or use a smaller batch",
            requested=asked,
            held=self._current,
            limit=self._limit,
        )


_pools: weakref.WeakSet[HostPool] = weakref.WeakSet()


def _renew_locks() -> None:
    for pool in list(_pools):
        pool.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def size_class(size: int) -> int:
    """The capacity of the block that holds `size` bytes: four classes for each doubling."""
    if size <= 4 * ALIGNMENT:
        return max(ALIGNMENT, -(-size // ALIGNMENT) * ALIGNMENT)
    step = 1 << ((size - 1).bit_length() - 3)
    return -(-size // step) * step


def show_bytes(size: int) -> str:
    """A size for people: 512 bytes, 3.2 MiB."""
    if size < 1024:
        return f"{size} bytes"
    amount = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} TiB"


@cache
def physical_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's."""
    sizes = []
    try:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        sizes.append(1 << 62)
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    return min(sizes)


def _new_block(capacity: int) -> _Block:
    if capacity >= MAPPED_BYTES:
        return _mapped_block(capacity)
    storage = np.empty(capacity + ALIGNMENT, np.uint8)
    start = storage.__array_interface__["data"][0]
    return _Block(-(-start // ALIGNMENT) * ALIGNMENT, capacity, storage)


def _mapped_block(capacity: int) -> _Block:
    huge = capacity >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE")
    # Huge pages need a start at a multiple of their size; address space costs nothing.
    mapping = mmap.mmap(-1, capacity + HUGE_PAGE if huge else capacity)
    if huge:
        try:
            mapping.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            huge = False
    storage = np.frombuffer(mapping, np.uint8)
    start = storage.__array_interface__["data"][0]
    if huge:
        start = -(-start // HUGE_PAGE) * HUGE_PAGE
    return _Block(start, capacity, storage)
