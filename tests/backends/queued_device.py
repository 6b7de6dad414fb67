"""A device that behaves like a GPU: memory the host cannot see, and work that is queued."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from niello import backends
from niello.runtime.buffer import Buffer, HostPool


class QueuedDevice:
    """Programs of the numpy device, played one after the other by a thread.

    `gate` holds the thread up while it is cleared; `calls` counts what was asked of the device.
    """

    host_memory = False
    name = "numpy"

    def __init__(self) -> None:
        self._inner = backends.backend("numpy").open()
        self._pool = HostPool()
        self._stream = ThreadPoolExecutor(1)
        self.gate = threading.Event()
        self.gate.set()
        self.calls: dict[str, int] = {}
        self.lost: Exception | None = None

    def count(self, what: str) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1

    def enqueue(self, work: Callable[[], Any]) -> Any:
        def run() -> Any:
            self.gate.wait(60)
            return work()

        return self._stream.submit(run)

    def describe(self) -> str:
        return "numpy: queued"

    def allocate(self, size: int) -> Buffer:
        block = self._pool.allocate(size)
        return Buffer(self, block.address, max(size, 0), owner=block, release=self._pool.give_back)

    def upload(self, buffer: Buffer, offset: int, array: np.ndarray) -> None:
        self.count("upload")
        data = array.tobytes()
        self.enqueue(lambda: ctypes.memmove(buffer.handle + offset, data, len(data)))

    def download(self, buffer: Buffer, offset: int, array: np.ndarray) -> None:
        self.count("download")
        source, target = buffer.handle + offset, array.ctypes.data
        self.enqueue(lambda: ctypes.memmove(target, source, array.nbytes)).result()

    def import_dlpack(self, tensor: Any) -> None:
        """Tensors of other libraries are never in this device's memory."""

    def synchronize(self) -> None:
        self.count("synchronize")
        self.fence()()

    def fence(self) -> Callable[[], None]:
        done = self.enqueue(lambda: None)

        def wait() -> None:
            done.result()
            if self.lost is not None:
                raise self.lost

        return wait

    def compile(self, program: Any, options: Any) -> QueuedLoaded:
        return QueuedLoaded(self, self._inner.compile(program, options))

    def memory_stats(self) -> dict[str, int]:
        return self._pool.stats()


class QueuedLoaded:
    """A program of the queued device."""

    def __init__(self, device: QueuedDevice, inner: Any) -> None:
        self.device, self.inner, self.program = device, inner, inner.program

    def play(self, handles: Sequence[int]) -> None:
        self.device.count("play")
        taken = list(handles)
        self.device.enqueue(lambda: self.inner.play(taken))

    def play_if(self, handles: Sequence[int], predicate: int, offset: int) -> None:
        self.device.count("play_if")
        taken = list(handles)

        def run() -> None:
            if ctypes.c_int32.from_address(predicate + offset).value:
                self.inner.play(taken)

        self.device.enqueue(run)

    def source(self) -> str:
        return self.inner.source()
