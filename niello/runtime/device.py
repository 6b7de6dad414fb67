"""Devices with host memory: what the cpu and numpy back ends have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from niello.core.dtypes import uint8
from niello.core.errors import AttributeValueError
from niello.runtime.buffer import Buffer, HostPool
from niello.runtime.commands import LibraryCall
from niello.runtime.target import Claims


class HostDevice:
    """A device whose buffers are plain host memory, from one caching pool.

    Back ends derive from it and add `describe`, `compile` and `load` (see runtime/target.py).
    """

    host_memory = True

    def __init__(self, name: str, pool: HostPool | None = None) -> None:
        self.name = name
        self._pool = HostPool() if pool is None else pool

    def allocate(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes, 64-byte aligned, contents undefined.

        Raises OutOfMemory, with the bytes asked for, held and available.
        """
        block = self._pool.allocate(size)
        return Buffer(self, block.address, max(size, 0), owner=block, release=self._pool.give_back)

    def adopt(self, array: np.ndarray) -> Buffer:
        """A buffer that is the memory of a C-contiguous array; it keeps the array alive."""
        address, read_only = array.__array_interface__["data"]
        return Buffer(self, address, array.nbytes, owner=array, writable=not read_only)

    def upload(self, buffer: Buffer, offset: int, array: np.ndarray) -> None:
        """Copy a C-contiguous array into a buffer, `offset` bytes in."""
        buffer.array(uint8, (array.nbytes,), offset)[...] = array.reshape(-1).view(np.uint8)

    def download(self, buffer: Buffer, offset: int, array: np.ndarray) -> None:
        """Fill a C-contiguous array from a buffer, `offset` bytes in."""
        array.reshape(-1).view(np.uint8)[...] = buffer.array(uint8, (array.nbytes,), offset)

    def synchronize(self) -> None:
        """Wait for everything that was started: nothing here, runs block."""

    def usable_claims(self, claims: Sequence[Claims]) -> tuple[Claims, ...]:
        """None: devices with host memory have no vendor libraries to call."""
        return ()

    def refusal(self, command: LibraryCall) -> str:
        """Why a claimed call cannot run."""
        return f"{self.name} has no library functions"

    def memory_stats(self) -> dict[str, int]:
        """Bytes: current, peak, cached."""
        return self._pool.stats()

    def release_memory(self) -> None:
        """Give cached memory back to the system."""
        self._pool.release()

    def reset_peak(self) -> None:
        """Start counting peak memory anew."""
        self._pool.reset_peak()

    def __repr__(self) -> str:
        return f"<niello device {self.name}>"


# Host memory that belongs to no back end: values that users make from arrays live here, and every
# device with host memory takes them as they are.
HOST = HostDevice("host")


# Who opens devices by name: niello.backends, which is above this folder, puts its function here.
openers: list[Callable[[str | None], Any]] = []


def opened(device: Any) -> Any:
    """An opened device as it is; one named by a string, or the default one for None, opened.

    Raises BackendUnavailable, and AttributeValueError for anything else.
    """
    if device is None or isinstance(device, str):
        return openers[-1](device)
    if not hasattr(device, "host_memory"):
        raise AttributeValueError(
            "device",
            "takes the name of a device or an opened one",
            received=repr(device),
            advice="Call niello.device_names() for the names",
        )
    return device
