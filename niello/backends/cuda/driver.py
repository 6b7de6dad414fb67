"""The CUDA driver as this back end calls it: every status checked, every failure a Niello error.

CUDA's Python packages are imported here and in compile.py only, when a device is opened: Niello
imports without them.
"""

from __future__ import annotations

import importlib
import threading
from typing import Any

from niello.core.errors import BackendUnavailable, DeviceError, DeviceLost

# After one of these the context is gone: every later call gives the same error.
_LOST = frozenset(
    (
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_LAUNCH_FAILED",
        "CUDA_ERROR_LAUNCH_TIMEOUT",
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_ASSERT",
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        "CUDA_ERROR_DEVICE_UNAVAILABLE",
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "CUDA_ERROR_MPS_CLIENT_TERMINATED",
        "CUDA_ERROR_EXTERNAL_DEVICE",
        "CUDA_ERROR_CONTAINED",
        "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    )
)


class MemoryFull(Exception):
    """The device has no memory of the size that was asked for; the pool makes an error of it."""


class Driver:
    """The driver interface of one device, in its primary context (which other libraries share)."""

    def __init__(self, number: int) -> None:
        self.api = _load()
        self.number = number
        self._local = threading.local()
        _opening("cuInit", self.api.cuInit(0))
        count = _opening("cuDeviceGetCount", self.api.cuDeviceGetCount())
        if count <= number:
            raise BackendUnavailable(
                "cuda", f"there are {count} CUDA devices", received=f"device {number}"
            )
        self.device = _opening("cuDeviceGet", self.api.cuDeviceGet(number))
        self.context = _opening(
            "cuDevicePrimaryCtxRetain", self.api.cuDevicePrimaryCtxRetain(self.device)
        )

    def activate(self) -> None:
        """Make the context current on this thread; every entry into the back end does this."""
        if not getattr(self._local, "active", False):
            self.check("cuCtxSetCurrent", self.api.cuCtxSetCurrent(self.context))
            self._local.active = True

    def check(self, name: str, answer: tuple[Any, ...]) -> Any:
        """The value of a driver call. Raises MemoryFull, DeviceLost or DeviceError."""
        status = answer[0]
        if status.value:
            self.fail(name, status)
        rest = answer[1:]
        return rest[0] if len(rest) == 1 else rest

    def fail(self, name: str, status: Any) -> None:
        """Raise the error of a failed call."""
        if status.name == "CUDA_ERROR_OUT_OF_MEMORY":
            raise MemoryFull(name)
        text = _describe(self.api, status)
        if status.name in _LOST:
            raise DeviceLost(
                "cuda device",
                f"it stopped working in {name}: {text}",
                received=status.name,
                advice="What it held is gone; start the process again to use it",
            )
        raise DeviceError("cuda device", f"{name} failed: {text}", received=status.name)

    def attribute(self, name: str) -> int:
        """A number that the driver reports of the device, such as MULTIPROCESSOR_COUNT."""
        which = getattr(self.api.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        found = self.check(
            "cuDeviceGetAttribute", self.api.cuDeviceGetAttribute(which, self.device)
        )
        return int(found)

    def name(self) -> str:
        """The model."""
        raw = self.check("cuDeviceGetName", self.api.cuDeviceGetName(256, self.device))
        return bytes(raw).split(b"\0")[0].decode(errors="replace").strip()

    def total_memory(self) -> int:
        """Bytes of device memory."""
        return int(self.check("cuDeviceTotalMem", self.api.cuDeviceTotalMem(self.device)))

    def free_memory(self) -> int:
        """Bytes of device memory that nobody has taken."""
        self.activate()
        return int(self.check("cuMemGetInfo", self.api.cuMemGetInfo())[0])

    def version(self) -> str:
        """The CUDA version of the driver, such as 13.0."""
        number = int(self.check("cuDriverGetVersion", self.api.cuDriverGetVersion()))
        return f"{number // 1000}.{number % 1000 // 10}"

    def new_stream(self) -> Any:
        """A stream that does not wait for the default stream of other libraries."""
        self.activate()
        kind = self.api.CUstream_flags.CU_STREAM_NON_BLOCKING
        return self.check("cuStreamCreate", self.api.cuStreamCreate(kind))

    def new_event(self) -> Any:
        """An event without time stamps, for ordering."""
        kind = self.api.CUevent_flags.CU_EVENT_DISABLE_TIMING
        return self.check("cuEventCreate", self.api.cuEventCreate(kind))

    def wait(self, waiting: Any, running: Any) -> None:
        """Let stream `waiting` go on only when what stream `running` holds now is done."""
        event = self.new_event()
        self.check("cuEventRecord", self.api.cuEventRecord(event, running))
        self.check("cuStreamWaitEvent", self.api.cuStreamWaitEvent(waiting, event, 0))
        # The driver keeps the event until the wait is over.
        self.check("cuEventDestroy", self.api.cuEventDestroy(event))


def _load() -> Any:
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise BackendUnavailable(
            "cuda",
            f"CUDA's Python packages cannot be imported: {error}",
            advice="Install niello[cuda]",
        ) from error


def _opening(name: str, answer: Any) -> Any:
    status = answer[0]
    if status.value:
        raise BackendUnavailable(
            "cuda",
            f"{name} failed: {status.name}",
            advice="Check that an NVIDIA GPU and its driver are installed (nvidia-smi)",
        )
    return answer[1] if len(answer) > 1 else None


def _describe(api: Any, status: Any) -> str:
    found = api.cuGetErrorString(status)
    text = found[1] if not found[0].value else None
    return text.decode(errors="replace") if text else status.name


def open_driver(number: int = 0) -> Driver:
    """The driver of a device. Raises BackendUnavailable, with the reason."""
    try:
        return Driver(number)
    except RuntimeError as error:
        # The bindings raise RuntimeError when the driver's library cannot be loaded.
        if isinstance(error, DeviceError):
            raise
        raise BackendUnavailable(
            "cuda",
            f"there is no NVIDIA driver: {error}",
            advice="Install the driver, or choose another device",
        ) from error
