"""The cuda device: one GPU, one stream, a caching pool of its memory.

Runs, transfers and allocations are queued on the device's stream in the order in which they are
asked for; `download` and `synchronize` wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from niello.backends.cuda import dlpack
from niello.backends.cuda.driver import Driver
from niello.backends.cuda.libraries import Libraries
from niello.backends.cuda.memory import DevicePool, Staging
from niello.codegen.gpu.kernel import ALIGNMENT, GpuKernel
from niello.core.errors import DeviceError
from niello.kernel.ir import Kernel
from niello.kernel.routine import Routine
from niello.runtime.buffer import Buffer, show_bytes
from niello.runtime.commands import LibraryCall, Program
from niello.runtime.target import Claims, CompileOptions, Loaded
from niello.runtime.tensor_data import TensorData

# A kernel to source and launches.
Render = Callable[[Kernel | Routine], GpuKernel]

# DLPack's numbers of the streams that every context has.
_LEGACY, _PER_THREAD = 1, 2


class CudaDevice:
    """An NVIDIA GPU. `render` turns a kernel into CUDA C++."""

    host_memory = False

    def __init__(self, driver: Driver, render: Render) -> None:
        self.name = "cuda"
        self.driver = driver
        self.render = render
        driver.activate()
        major = driver.attribute("COMPUTE_CAPABILITY_MAJOR")
        minor = driver.attribute("COMPUTE_CAPABILITY_MINOR")
        self.arch = f"sm_{major}{minor}"
        self.stream = driver.new_stream()
        # Command lists of several threads must not mix on the stream: scratch memory is shared.
        self.lock = threading.RLock()
        self.libraries = Libraries(self)
        self._capturing: Any = None
        self._functions: dict[tuple[str, str], Any] = {}
        self._pool = DevicePool(driver, self.stream)
        self._staging = Staging(driver, self.stream)
        # Filled by finalizers, at any moment and on any thread; emptied by `settle`.
        self._dropped: deque[Any] = deque()
        self._lent: deque[tuple[Buffer, Any]] = deque()
        self._borrowed: deque[tuple[Any, Any]] = deque()

    def describe(self) -> str:
        """One line: model, level, memory, driver, libraries."""
        driver = self.driver
        driver.activate()
        return (
            f"cuda: {driver.name()} ({self.arch}, {driver.attribute('MULTIPROCESSOR_COUNT')} "
            f"multiprocessors, {show_bytes(driver.total_memory())}), CUDA {driver.version()}, "
            f"{self.libraries.describe()}"
        )

    # --- memory
    def allocate(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes, 256-byte aligned, contents undefined.

        Raises OutOfMemory, with the bytes asked for, held and available.
        """
        block = self._pool.allocate(size)
        return Buffer(self, block.address, max(size, 0), owner=block, release=self._pool.give_back)

    def upload(self, buffer: Buffer, offset: int, array: np.ndarray) -> None:
        """Queue a copy of a C-contiguous array into a buffer; the array may change at once."""
        data = _bytes_of(array)
        self._inside(buffer, offset, data.nbytes)
        if data.nbytes:
            with self.lock:
                self.settle()
                self._staging.upload(buffer.handle + offset, data)

    def download(self, buffer: Buffer, offset: int, array: np.ndarray) -> None:
        """Fill a C-contiguous array from a buffer, after what was started before."""
        data = _bytes_of(array)
        self._inside(buffer, offset, data.nbytes)
        if data.nbytes:
            with self.lock:
                self.settle()
                self._staging.download(buffer.handle + offset, data)

    def _inside(self, buffer: Buffer, offset: int, size: int) -> None:
        if offset < 0 or offset + size > buffer.bytes:
            raise DeviceError(
                "cuda device",
                f"a transfer of {size} bytes at {offset} does not fit the buffer",
                received=f"{buffer.bytes} bytes",
            )

    def synchronize(self) -> None:
        """Wait until everything that was started is done. Raises DeviceLost, DeviceError."""
        self.settle()
        api = self.driver.api
        self.driver.check("cuStreamSynchronize", api.cuStreamSynchronize(self.stream))

    def fence(self) -> Callable[[], None]:
        """What blocks until everything started so far is done; more may be started meanwhile, and
        any thread may call it. Raises DeviceLost, DeviceError."""
        with self.lock:
            self.settle()
            return _Fence(self.driver, self.stream)

    def memory_stats(self) -> dict[str, int]:
        """Bytes: current, peak, cached."""
        self.settle()
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
        """Machine code for the whole command list, from the disk cache where it is there."""
        from niello.backends.cuda.program import CudaProgram

        self.driver.activate()
        return CudaProgram(self, program, options)

    def load(self, program: Program, options: CompileOptions, image: bytes) -> Loaded:
        """The program with machine code that `Loaded.image` gave earlier.

        Raises CorruptFile, and BackendUnavailable for code of another kind of device.
        """
        from niello.backends.cuda.compile import unpack
        from niello.backends.cuda.program import CudaProgram

        self.driver.activate()
        return CudaProgram(self, program, options, unpack(image, self.arch))

    def code_needs(self, options: CompileOptions) -> tuple[str, ...]:
        """The GPU generation."""
        return (self.arch,)

    def lacks(self, needs: Sequence[str]) -> tuple[str, ...]:
        """Generations whose code does not run here: others, and later ones of this one."""
        return tuple(n for n in needs if n[:-1] != self.arch[:-1] or n[-1] > self.arch[-1])

    def usable_claims(self, claims: Sequence[Claims]) -> tuple[Claims, ...]:
        """The claims whose libraries are here."""
        return self.libraries.usable(claims)

    def refusal(self, command: LibraryCall) -> str:
        """Why a library cannot run a call, or nothing."""
        self.driver.activate()
        return self.libraries.refusal(command)

    # --- DLPack
    def dlpack_device(self) -> tuple[int, int]:
        """DLPack's device type and number."""
        return (dlpack.CUDA, self.driver.number)

    def export_dlpack(
        self, value: TensorData, *, stream: Any = None, copy: bool | None = None, **options: Any
    ) -> Any:
        """A capsule over the memory of a value; the consumer's `stream` waits for its writers."""
        if copy:
            value = value.copy()
        with self.lock:
            self.settle()
            number = _LEGACY if stream is None else int(stream)
            consumer = None if number == -1 else self.driver.api.CUstream(number)
            if consumer is not None:
                self.driver.wait(consumer, self.stream)
        buffer, lent = value.buffer, self._lent
        # Streams that may be gone by then cannot be waited for: the whole device is.
        after = consumer if number in (_LEGACY, _PER_THREAD) else None
        return dlpack.export(
            value.handle, value.type, self.driver.number, lambda: lent.append((buffer, after))
        )

    def import_dlpack(self, tensor: Any) -> TensorData | None:
        """A value that shares the memory of another library's tensor; None when it is elsewhere.

        Raises FeedError for tensors that are not contiguous.
        """
        kind, number = tensor.__dlpack_device__()
        if int(kind) not in (dlpack.CUDA, dlpack.CUDA_MANAGED) or number != self.driver.number:
            return None
        with self.lock:
            self.settle()
            # The other library makes our stream wait for its work on the tensor.
            capsule = tensor.__dlpack__(stream=int(self.stream))
            address, type = dlpack.read(capsule)
            buffer = Buffer(self, address, type.bytes, owner=capsule, release=self._dropped.append)
            if address % ALIGNMENT == 0:
                return TensorData(buffer, type)
            own = self.allocate(max(type.bytes, 1))
            self.copy(own.handle, address, type.bytes)
            return TensorData(own, type)

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy between addresses of the device."""
        if size:
            api = self.driver.api
            answer = api.cuMemcpyDtoDAsync(target, source, size, self.stream)
            self.driver.check("cuMemcpyDtoDAsync", answer)

    def capture_stream(self) -> Any:
        """The stream on which graphs are recorded. Hold the lock."""
        if self._capturing is None:
            self._capturing = self.driver.new_stream()
        return self._capturing

    def function(self, source: str, entry: str) -> Any:
        """A kernel of the back end's own, compiled when it is first used."""
        from niello.backends.cuda.graphs import load_function

        found = self._functions.get((source, entry))
        if found is None:
            found = self._functions[source, entry] = load_function(self, source, entry)
        return found

    def settle(self) -> None:
        """Make this thread ready for the driver, and let go of memory shared with other libraries
        once the work on it is done."""
        driver = self.driver
        driver.activate()
        if not (self._dropped or self._lent or self._borrowed):
            return
        api = driver.api
        while self._lent:
            buffer, after = self._lent.popleft()
            if after is None:
                driver.check("cuCtxSynchronize", api.cuCtxSynchronize())
            else:
                driver.wait(self.stream, after)
            del buffer
        while self._dropped:
            event = driver.new_event()
            driver.check("cuEventRecord", api.cuEventRecord(event, self.stream))
            self._borrowed.append((event, self._dropped.popleft()))
        while self._borrowed and not api.cuEventQuery(self._borrowed[0][0])[0].value:
            event, _ = self._borrowed.popleft()
            driver.check("cuEventDestroy", api.cuEventDestroy(event))

    def __repr__(self) -> str:
        return f"<niello device {self.name}>"


class _Fence:
    """An event of the stream that somebody may wait for."""

    def __init__(self, driver: Driver, stream: Any) -> None:
        self._driver = driver
        self._event = driver.new_event()
        driver.check("cuEventRecord", driver.api.cuEventRecord(self._event, stream))

    def __call__(self) -> None:
        self._driver.activate()
        answer = self._driver.api.cuEventSynchronize(self._event)
        self._driver.check("cuEventSynchronize", answer)

    def __del__(self) -> None:
        try:
            self._driver.activate()
            self._driver.api.cuEventDestroy(self._event)
        except (DeviceError, TypeError, AttributeError):
            return  # the device or the interpreter is gone, and the event with it


def _bytes_of(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)
