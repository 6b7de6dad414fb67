"""The webgpu device: one adapter, one queue, a caching pool of its storage buffers.

Runs and transfers are queued in the order in which they are asked for; `download` and `synchronize`
wait.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from niello.backends.webgpu.adapters import adapter_name, load_wgpu, request_device
from niello.backends.webgpu.byte_kernels import COPY, COUNT, FILL, GATE, SLICE
from niello.backends.webgpu.memory import BlockPool, Handle, Window
from niello.backends.webgpu.render import TARGET, render
from niello.backends.webgpu.transfers import Transfers
from niello.codegen.gpu.kernel import GpuKernel
from niello.codegen.gpu.target import GpuTarget
from niello.core.errors import CompilerBug, DeviceError, DeviceLost, OutOfMemory
from niello.kernel.ir import Kernel
from niello.kernel.routine import Routine
from niello.runtime.buffer import Buffer, show_bytes
from niello.runtime.commands import LibraryCall, Program
from niello.runtime.target import Claim, CompileOptions, Loaded
from niello.runtime.tensor_data import TensorData

Render = Callable[[Kernel | Routine, GpuTarget], GpuKernel]

# DLPack's number for WebGPU buffers.
_DLPACK_WEBGPU = 15
# Runs that may wait in the queue; more would only hold memory.
_QUEUED_RUNS = 64
# Pipelines kept for programs to come; those of a program that lives are kept by its plans.
_PIPELINES = 4096


class WebGpuDevice:
    """An adapter opened for computing. `render` turns a kernel into WGSL."""

    host_memory = False

    def __init__(self, adapter: Any, render: Render = render) -> None:
        self.name = "webgpu"
        self.wgpu = load_wgpu()
        self.adapter = adapter
        self.gpu = request_device(adapter)
        self.limits: dict[str, int] = dict(self.gpu.limits)
        self.features = frozenset(self.gpu.features)
        self.target = target_of(self.limits)
        self._render = render
        # Command lists of several threads must not mix: a program's scratch memory is shared.
        self.lock = threading.RLock()
        self._layouts: dict[tuple[str, ...], tuple[Any, Any]] = {}
        self._pipelines: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._pool = BlockPool(self._create, self.limits["max-buffer-size"])
        self._transfers = Transfers(self)
        self._queued = 0

    def describe(self) -> str:
        """One line: adapter, interface, limits."""
        limits = self.limits
        return (
            f"webgpu: {adapter_name(self.adapter)}, buffers up to "
            f"{show_bytes(limits['max-buffer-size'])}, "
            f"{limits['max-storage-buffers-per-shader-stage']} bindings of up to "
            f"{show_bytes(limits['max-storage-buffer-binding-size'])}, workgroups of "
            f"{limits['max-compute-invocations-per-workgroup']}"
        )

    # --- memory
    def allocate(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes, contents undefined.

        Raises OutOfMemory, with the bytes asked for, held and available.
        """
        block = self._pool.allocate(size)
        handle = Handle(block)  # type: ignore[arg-type]
        return Buffer(self, handle, max(size, 0), owner=block, release=self._pool.give_back)

    def _create(self, capacity: int) -> Any:
        usage = self.wgpu.BufferUsage
        flags = usage.STORAGE | usage.COPY_SRC | usage.COPY_DST
        with self.guarded("allocate"):
            return self.gpu.create_buffer(size=capacity, usage=flags)

    def upload(self, buffer: Buffer, offset: int, array: np.ndarray) -> None:
        """Queue a copy of a C-contiguous array into a buffer; the array may change at once."""
        data = array.reshape(-1).view(np.uint8)
        self._inside(buffer, offset, data.nbytes)
        if data.nbytes:
            with self.lock, self.guarded("upload"):
                self._transfers.upload(buffer, offset, data)

    def download(self, buffer: Buffer, offset: int, array: np.ndarray) -> None:
        """Fill a C-contiguous array from a buffer, after what was started before."""
        data = array.reshape(-1).view(np.uint8)
        self._inside(buffer, offset, data.nbytes)
        if data.nbytes:
            with self.lock, self.guarded("download"):
                self._transfers.download(buffer.handle + offset, data)
                self._queued = 0

    def _inside(self, buffer: Buffer, offset: int, size: int) -> None:
        if offset < 0 or offset + size > buffer.bytes:
            raise DeviceError(
                "webgpu device",
                f"a transfer of {size} bytes at {offset} does not fit the buffer",
                received=f"{buffer.bytes} bytes",
            )

    def synchronize(self) -> None:
        """Wait until everything that was started is done. Raises DeviceLost, DeviceError."""
        self.fence()()
        self._queued = 0

    def fence(self) -> Callable[[], None]:
        """A function that waits until everything started so far is done."""
        # wgpu's own callback for finished work is declared wrongly in some of its releases; a
        # buffer that is written last can be mapped when everything before it is done.
        with self.lock, self.guarded("synchronize"):
            usage = self.wgpu.BufferUsage
            mark = self.gpu.create_buffer(size=16, usage=usage.MAP_READ | usage.COPY_DST)
            encoder = self.gpu.create_command_encoder()
            encoder.clear_buffer(mark)
            self.gpu.queue.submit([encoder.finish()])
            mapped = mark.map_async("READ_NOSYNC")

        def wait() -> None:
            with self.guarded("synchronize"):
                mapped.sync_wait()
                mark.destroy()

        return wait

    def memory_stats(self) -> dict[str, int]:
        """Bytes: current, peak, cached."""
        return self._pool.stats()

    def release_memory(self) -> None:
        """Give cached memory back to the system."""
        self.synchronize()
        self._pool.release()

    def reset_peak(self) -> None:
        """Start counting peak memory anew."""
        self._pool.reset_peak()

    # --- programs
    def compile(self, program: Program, options: CompileOptions) -> Loaded:
        """Pipelines for the whole command list."""
        from niello.backends.webgpu.program import WebGpuProgram, render_kernels

        return WebGpuProgram(self, program, render_kernels(program, self.render))

    def load(self, program: Program, options: CompileOptions, image: bytes) -> Loaded:
        """The program with the WGSL that `Loaded.image` gave earlier. Raises CorruptFile."""
        from niello.backends.webgpu.image import unpack
        from niello.backends.webgpu.program import WebGpuProgram

        return WebGpuProgram(self, program, unpack(image, program))

    def render(self, kernel: Kernel | Routine) -> GpuKernel:
        """WGSL and launches of a kernel."""
        return self._render(kernel, self.target)

    def usable_claims(self, claims: Sequence[Claim]) -> tuple[Claim, ...]:
        """There are no vendor libraries behind WebGPU."""
        return ()

    def refusal(self, command: LibraryCall) -> str:
        """Why no library takes a call: empty when one does."""
        return "webgpu has no libraries"

    # --- DLPack
    def dlpack_device(self) -> tuple[int, int]:
        """DLPack's device type and number."""
        return (_DLPACK_WEBGPU, 0)

    def export_dlpack(self, value: TensorData, **options: Any) -> Any:
        """No library takes WebGPU buffers through DLPack: always a DeviceError."""
        raise DeviceError(
            "TensorData",
            "the memory of a webgpu device cannot be shared with other libraries",
            received=f"a request for a DLPack capsule of {value.type}",
            advice="Use value.numpy(), which copies it to the host",
        )

    def import_dlpack(self, tensor: Any) -> TensorData | None:
        """No library gives WebGPU buffers through DLPack."""
        return None

    # --- what programs and transfers use
    def build(self, kernels: Sequence[GpuKernel]) -> None:
        """Make the pipelines of kernels, several at once: wgpu works without the interpreter's
        lock. Raises CompilerBug with the source that was refused."""
        with self.lock:
            wanted = {
                (k.source, x.entry): (STORAGE,) * len(x.arguments)
                for k in kernels
                for x in k.launches
                if (k.source, x.entry) not in self._pipelines
            }
            sources = list(dict.fromkeys(source for source, _ in wanted))
            for bindings in wanted.values():
                self.layout(bindings)

            def make(source: str) -> dict[tuple[str, str], Any]:
                with self.guarded("compile", source):
                    module = self.gpu.create_shader_module(code=source)
                    return {
                        key: self.gpu.create_compute_pipeline(
                            layout=self.layout(bindings)[1],
                            compute={"module": module, "entry_point": key[1]},
                        )
                        for key, bindings in wanted.items()
                        if key[0] == source
                    }

            if len(sources) < 2:
                made = [make(s) for s in sources]
            else:
                with ThreadPoolExecutor(min(len(sources), os.cpu_count() or 1)) as pool:
                    made = list(pool.map(make, sources))
            for pipelines in made:
                self._pipelines.update(pipelines)
            while len(self._pipelines) > _PIPELINES:
                self._pipelines.popitem(last=False)

    def pipeline(self, source: str, entry: str, bindings: tuple[str, ...]) -> Any:
        """The compute pipeline of an entry point whose bindings 0, 1, ... are of these types."""
        key = (source, entry)
        found = self._pipelines.get(key)
        if found is None:
            with self.guarded("compile", source):
                module = self.gpu.create_shader_module(code=source)
                found = self._pipelines[key] = self.gpu.create_compute_pipeline(
                    layout=self.layout(bindings)[1],
                    compute={"module": module, "entry_point": entry},
                )
        return found

    def layout(self, bindings: tuple[str, ...]) -> tuple[Any, Any]:
        """The bind group layout and the pipeline layout for buffer bindings of these types."""
        found = self._layouts.get(bindings)
        if found is None:
            stage = self.wgpu.ShaderStage.COMPUTE
            entries = [
                {"binding": i, "visibility": stage, "buffer": {"type": kind}}
                for i, kind in enumerate(bindings)
            ]
            group = self.gpu.create_bind_group_layout(entries=entries)
            found = (group, self.gpu.create_pipeline_layout(bind_group_layouts=[group]))
            self._layouts[bindings] = found
        return found

    def bind_bytes(self, name: str, windows: list[Window], parameters: bytes) -> tuple[Any, Any]:
        """Pipeline and bind group of a byte kernel: copy, fill or gate."""
        source, bindings = BYTE_KERNELS[name]
        uniform = self.uniform(parameters)
        group = self.bind(bindings, [*windows, (uniform, 0, uniform.size)])
        return self.pipeline(source, "main", bindings), group

    def bind(self, bindings: tuple[str, ...], windows: list[Window]) -> Any:
        """A bind group of (buffer, offset, size) windows."""
        entries = [
            {"binding": i, "resource": {"buffer": buffer, "offset": offset, "size": size}}
            for i, (buffer, offset, size) in enumerate(windows)
        ]
        return self.gpu.create_bind_group(layout=self.layout(bindings)[0], entries=entries)

    def uniform(self, data: bytes) -> Any:
        """A uniform buffer with these contents."""
        padded = data + bytes(-len(data) % 16)
        return self.gpu.create_buffer_with_data(data=padded, usage=self.wgpu.BufferUsage.UNIFORM)

    def read(self, handle: Handle, data: np.ndarray) -> None:
        """Fill a host array from a place, after everything queued so far. Hold the lock."""
        self._transfers.download(handle, data.view(np.uint8))

    def submit(self, encoder: Any) -> None:
        """Queue recorded commands; waits where too much is queued already."""
        self.gpu.queue.submit([encoder.finish()])
        self._queued += 1
        if self._queued >= _QUEUED_RUNS:
            self.synchronize()

    @contextmanager
    def guarded(self, asked: str, source: str = "") -> Iterator[None]:
        """Errors of wgpu as errors of Niello."""
        wgpu = self.wgpu
        try:
            yield
        except wgpu.GPUOutOfMemoryError as error:
            raise OutOfMemory(
                f"webgpu {asked}",
                "the device has no memory left",
                received=_last_line(error),
                advice="Drop results that are no longer needed, or use a smaller batch",
                requested=0,
                held=self._pool.stats()["current"] if asked != "allocate" else 0,
                limit=self.limits["max-buffer-size"],
            ) from error
        except (wgpu.GPUError, RuntimeError) as error:
            if isinstance(error, DeviceError):
                raise
            if "lost" in str(error).casefold():
                raise DeviceLost(
                    f"webgpu {asked}",
                    "the device is gone: the driver was reset or the adapter removed",
                    received=_last_line(error),
                    advice="Start the program again",
                ) from error
            if source and isinstance(error, wgpu.GPUValidationError):
                raise CompilerBug(
                    "webgpu compiler",
                    f"a generated kernel was refused: {error}",
                    received=source if len(source) < 4000 else f"{source[:4000]} …",
                ) from error
            raise DeviceError(
                f"webgpu {asked}", "the device refused", received=str(error)
            ) from error

    def __repr__(self) -> str:
        return f"<niello device {self.name}>"


STORAGE = "storage"
READ_ONLY = "read-only-storage"
BYTE_KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "copy": (COPY, (STORAGE, STORAGE, "uniform")),
    "slice": (SLICE, (STORAGE, STORAGE, STORAGE, "uniform")),
    "count": (COUNT, (STORAGE, "uniform")),
    "fill": (FILL, (STORAGE, "uniform")),
    "gate": (GATE, (STORAGE, READ_ONLY, READ_ONLY, "uniform")),
}


def target_of(limits: dict[str, int]) -> GpuTarget:
    """What the code generation needs to know of an adapter."""
    return dataclasses.replace(
        TARGET,
        most_blocks=limits["max-compute-workgroups-per-dimension"],
        most_buffers=limits["max-storage-buffers-per-shader-stage"],
        most_binding_bytes=limits["max-storage-buffer-binding-size"],
    )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
