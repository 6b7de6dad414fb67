"""Constants of a program on a device: packed by the program where it wants to, copied otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from niello.runtime.buffer import Buffer
from niello.runtime.target import Device, Loaded, PackingLoaded
from niello.runtime.tensor_data import on_device


def place_constants(
    constants: Sequence[np.ndarray], loaded: Loaded, device: Device
) -> tuple[list[Buffer], list[Any]]:
    """Buffers to keep alive, and a handle for each constant to play with.

    A constant that the program reads from a packed copy only gets no buffer, and the handle 0.
    """
    packed: frozenset[int] = frozenset()
    if device.host_memory and hasattr(loaded, "take_constants"):
        arrays = [np.ascontiguousarray(c) for c in constants]
        addresses = [a.__array_interface__["data"][0] for a in arrays]
        packed = cast(PackingLoaded, loaded).take_constants(addresses)
    buffers: list[Buffer] = []
    handles: list[Any] = []
    for i, constant in enumerate(constants):
        if i in packed:
            handles.append(0)
            continue
        buffers.append(on_device(constant, device).buffer)
        handles.append(buffers[-1].handle)
    return buffers, handles
