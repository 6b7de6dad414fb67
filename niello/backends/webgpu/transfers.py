"""Bytes between the host and storage buffers, at any offset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from niello.backends.webgpu.byte_kernels import copy_parameters, grid_of, words_touched
from niello.backends.webgpu.memory import Handle, window

if TYPE_CHECKING:
    from niello.backends.webgpu.device import WebGpuDevice
    from niello.runtime.buffer import Buffer

CHUNK_BYTES = 32 << 20


class Transfers:
    """Not thread safe: the device's lock is held."""

    def __init__(self, device: WebGpuDevice) -> None:
        self._device = device
        self._landing: Any = None

    def upload(self, buffer: Buffer, offset: int, data: np.ndarray) -> None:
        """Queue the copy; `data` may change as soon as this returns."""
        handle: Handle = buffer.handle + offset
        place = handle.offset
        at_end = offset + data.nbytes == buffer.bytes  # the rest of the last word is nobody's
        if place % 4 or (data.nbytes % 4 and not at_end):
            self._upload_bytes(handle, data)
            return
        for start in range(0, data.nbytes, CHUNK_BYTES):
            part = data[start : start + CHUNK_BYTES]
            if part.nbytes % 4:
                part = np.concatenate([part, np.zeros(-part.nbytes % 4, np.uint8)])
            self._device.gpu.queue.write_buffer(handle.block.buffer, place + start, part)

    def _upload_bytes(self, handle: Handle, data: np.ndarray) -> None:
        """Where a word is shared with other bytes: to memory of its own, and on by a kernel."""
        for start in range(0, data.nbytes, CHUNK_BYTES):
            self._upload_part(handle + start, data[start : start + CHUNK_BYTES])

    def _upload_part(self, handle: Handle, data: np.ndarray) -> None:
        device = self._device
        between = device.allocate(data.nbytes)
        self.upload(between, 0, data)
        alignment = device.limits["min-storage-buffer-offset-alignment"]
        target, start = window(handle, data.nbytes, alignment)
        source, first = window(between.handle, data.nbytes, alignment)
        parameters = copy_parameters(start, data.nbytes, first)
        pipeline, group = device.bind_bytes("copy", [target, source], parameters)
        encoder = device.gpu.create_command_encoder()
        run = encoder.begin_compute_pass()
        run.set_pipeline(pipeline)
        run.set_bind_group(0, group)
        most = device.limits["max-compute-workgroups-per-dimension"]
        run.dispatch_workgroups(*grid_of(words_touched(start, data.nbytes), most))
        run.end()
        device.submit(encoder)

    def download(self, handle: Handle, data: np.ndarray) -> None:
        """Fill host bytes from the device; blocks until they are there."""
        for start in range(0, data.nbytes, CHUNK_BYTES):
            self._download(handle + start, data[start : start + CHUNK_BYTES])

    def _download(self, handle: Handle, data: np.ndarray) -> None:
        device = self._device
        first = handle.offset - handle.offset % 4
        skip = handle.offset - first
        size = -(-(skip + data.nbytes) // 4) * 4
        landing = self._room(size)
        encoder = device.gpu.create_command_encoder()
        encoder.copy_buffer_to_buffer(handle.block.buffer, first, landing, 0, size)
        device.gpu.queue.submit([encoder.finish()])
        landing.map_sync("READ_NOSYNC", 0, size)
        try:
            view = landing.read_mapped(0, size, copy=False)
            data[...] = np.frombuffer(view, np.uint8)[skip : skip + data.nbytes]
        finally:
            landing.unmap()

    def _room(self, size: int) -> Any:
        """A buffer that the host can read, kept for the next download."""
        if self._landing is None or self._landing.size < size:
            if self._landing is not None:
                self._landing.destroy()
            usage = self._device.wgpu.BufferUsage
            capacity = max(1 << 16, 1 << (size - 1).bit_length())
            self._landing = self._device.gpu.create_buffer(
                size=capacity, usage=usage.MAP_READ | usage.COPY_DST
            )
        return self._landing
