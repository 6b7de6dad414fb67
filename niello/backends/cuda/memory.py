"""Memory of a CUDA device: stream-ordered allocations behind a cache, and pinned staging.

Everything that Niello does on a device is queued on one stream, so a block that was dropped while a
kernel still reads it may be handed out at once: whoever gets it uses it later on the same stream.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from niello.backends.cuda.driver import Driver, MemoryFull
from niello.core.errors import OutOfMemory
from niello.runtime.buffer import HostPool, show_bytes

# Smaller transfers go straight through the driver, which has staging memory of its own for them.
STAGED_BYTES = 256 << 10
CHUNK_BYTES = 8 << 20


class DeviceBlock:
    """Device memory of one allocation; it goes back to the driver when the pool drops it."""

    __slots__ = ("_driver", "_stream", "address", "capacity", "order")

    def __init__(self, driver: Driver, stream: Any, address: int, capacity: int) -> None:
        self._driver = driver
        self._stream = stream
        self.address = address
        self.capacity = capacity
        self.order = 0

    def free(self) -> None:
        """Give the memory back, in the order of the stream."""
        api = self._driver.api
        self._driver.activate()
        self._driver.check("cuMemFreeAsync", api.cuMemFreeAsync(self.address, self._stream))


class DevicePool(HostPool):
    """The caching allocator of a device; bounds and statistics as in HostPool."""

    def __init__(self, driver: Driver, stream: Any) -> None:
        super().__init__(limit=driver.total_memory())
        self._driver = driver
        self._stream = stream

    def _new_block(self, capacity: int, asked: int) -> DeviceBlock:  # type: ignore[override]
        if self._current + capacity > self._limit:
            raise self._full(asked)
        for attempt in range(2):
            try:
                return DeviceBlock(self._driver, self._stream, self._take(capacity), capacity)
            except MemoryFull:
                if attempt == 0:
                    self._drop_cache()
        raise self._full(asked) from None

    def _take(self, capacity: int) -> int:
        self._driver.activate()
        api = self._driver.api
        return int(
            self._driver.check("cuMemAllocAsync", api.cuMemAllocAsync(capacity, self._stream))
        )

    def _drop_cache(self) -> None:
        for blocks in self._free.values():
            for block in blocks:
                block.free()  # type: ignore[attr-defined]
        super()._drop_cache()
        api = self._driver.api
        self._driver.activate()
        self._driver.check("cuStreamSynchronize", api.cuStreamSynchronize(self._stream))
        pool = self._driver.check(
            "cuDeviceGetDefaultMemPool", api.cuDeviceGetDefaultMemPool(self._driver.device)
        )
        self._driver.check("cuMemPoolTrimTo", api.cuMemPoolTrimTo(pool, 0))

    def _drop_oldest(self) -> None:
        capacity = min((b for b in self._free if self._free[b]), key=self._oldest)
        self._free[capacity].pop(0).free()  # type: ignore[attr-defined]
        self._cached -= capacity

    def _full(self, asked: int) -> OutOfMemory:
        free = self._driver.free_memory()
        others = max(self._limit - free - self._current - self._cached, 0)
        return OutOfMemory(
            "allocate",
            f"{show_bytes(asked)} do not fit: of {show_bytes(self._limit)}, Niello uses "
            f"{show_bytes(self._current)} and others {show_bytes(others)}",
            received=f"{asked} bytes",
            advice="Drop results that are no longer needed, or use a smaller batch",
            requested=asked,
            held=self._current,
            limit=self._limit,
        )


class Staging:
    """Two pinned pieces of host memory that large transfers go through in turns.

    While the device copies one, the host fills or empties the other. Not thread safe.
    """

    def __init__(self, driver: Driver, stream: Any) -> None:
        self._driver = driver
        self._stream = stream
        self._pieces: list[tuple[np.ndarray, int]] = []
        self._events: list[Any] = []

    def upload(self, address: int, data: np.ndarray) -> None:
        """Queue a copy of host bytes to the device; `data` may change as soon as this returns."""
        api, check = self._driver.api, self._driver.check
        if data.nbytes <= STAGED_BYTES:
            # From pageable memory the driver returns when it has taken the bytes.
            source = data.__array_interface__["data"][0]
            answer = api.cuMemcpyHtoDAsync(address, source, data.nbytes, self._stream)
            check("cuMemcpyHtoDAsync", answer)
            return
        self._open()
        for number, start in enumerate(range(0, data.nbytes, CHUNK_BYTES)):
            piece, source = self._pieces[number % 2]
            part = data[start : start + CHUNK_BYTES]
            self._wait(number % 2)
            piece[: part.nbytes] = part
            answer = api.cuMemcpyHtoDAsync(address + start, source, part.nbytes, self._stream)
            check("cuMemcpyHtoDAsync", answer)
            self._mark(number % 2)

    def download(self, address: int, data: np.ndarray) -> None:
        """Fill host bytes from the device; blocks until they are there."""
        api, check = self._driver.api, self._driver.check
        if data.nbytes <= STAGED_BYTES:
            target = data.__array_interface__["data"][0]
            answer = api.cuMemcpyDtoHAsync(target, address, data.nbytes, self._stream)
            check("cuMemcpyDtoHAsync", answer)
            check("cuStreamSynchronize", api.cuStreamSynchronize(self._stream))
            return
        self._open()
        waiting: list[tuple[int, int]] = []
        for number, start in enumerate(range(0, data.nbytes, CHUNK_BYTES)):
            if len(waiting) == 2:
                self._empty(*waiting.pop(0), data)
            self._wait(number % 2)
            size = min(CHUNK_BYTES, data.nbytes - start)
            target = self._pieces[number % 2][1]
            answer = api.cuMemcpyDtoHAsync(target, address + start, size, self._stream)
            check("cuMemcpyDtoHAsync", answer)
            self._mark(number % 2)
            waiting.append((number % 2, start))
        for which, start in waiting:
            self._empty(which, start, data)

    def _empty(self, which: int, start: int, data: np.ndarray) -> None:
        self._wait(which)
        part = data[start : start + CHUNK_BYTES]
        part[...] = self._pieces[which][0][: part.nbytes]

    def _open(self) -> None:
        if self._pieces:
            return
        api, check = self._driver.api, self._driver.check
        for _ in range(2):
            address = int(check("cuMemHostAlloc", api.cuMemHostAlloc(CHUNK_BYTES, 0)))
            memory = (ctypes.c_uint8 * CHUNK_BYTES).from_address(address)
            self._pieces.append((np.ctypeslib.as_array(memory), address))
            self._events.append(self._driver.new_event())

    def _wait(self, which: int) -> None:
        api = self._driver.api
        self._driver.check("cuEventSynchronize", api.cuEventSynchronize(self._events[which]))

    def _mark(self, which: int) -> None:
        api = self._driver.api
        self._driver.check("cuEventRecord", api.cuEventRecord(self._events[which], self._stream))
