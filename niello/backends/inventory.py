"""What users ask about devices: which there are, how many threads, how much memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from niello import backends
from niello.core.errors import BackendUnavailable
from niello.runtime.device import opened


@dataclass(frozen=True)
class DeviceRecord:
    """A back end as seen from here.

    `description` says what the device is, or, when it is not `available`, why. `memory` holds the
    bytes in use now, at most so far, and kept for reuse (current, peak, cached); None when it is
    not available. `runs` is False for one that only compiles.
    """

    name: str
    available: bool
    description: str
    memory: dict[str, int] | None
    runs: bool


def devices() -> tuple[DeviceRecord, ...]:
    """All back ends of Niello by name, whether or not they can run here. Opens those that can.

    Example:
        >>> import niello as nl
        >>> [d.name for d in nl.devices() if d.name in ("cpu", "numpy") and d.available]
        ['cpu', 'numpy']
    """
    return tuple(_record(name) for name in backends.names())


def _record(name: str) -> DeviceRecord:
    try:
        found = backends.device(name)
    except BackendUnavailable as error:
        return DeviceRecord(name, False, str(error), None, False)
    runs = backends.backend(name).runs
    return DeviceRecord(name, True, found.describe(), found.memory_stats(), runs)


def default_device() -> str:
    """The name of the device used when none is named: NIELLO_DEVICE, or the first that opens.

    Raises BackendUnavailable when NIELLO_DEVICE names one that does not.

    Example:
        >>> import niello as nl
        >>> nl.default_device() in nl.device_names()
        True
    """
    return backends.device(backends.default_name()).name


def set_threads(count: int | None) -> None:
    """Set how many threads runs on the cpu device use from now on; None goes back to the default.

    The default is NIELLO_THREADS, or the number of usable cores. Raises ConfigError outside 1 to
    1024, and BackendUnavailable without a cpu device.

    Example:
        >>> import niello as nl
        >>> nl.set_threads(2)
        >>> nl.thread_count()
        2
        >>> nl.set_threads(None)
    """
    _threads().set_threads(count)


def thread_count() -> int:
    """How many threads runs on the cpu device use. Raises BackendUnavailable without one."""
    return _threads().thread_count()  # type: ignore[no-any-return]


def _threads() -> Any:
    backends.device("cpu")  # says what is missing where the module below cannot be imported
    from niello.backends.cpu import threads

    return threads


def memory_stats(device: Any = None) -> dict[str, int]:
    """Bytes of a device's memory: current (in use), peak (at most so far), cached (kept for reuse).

    `device` is a name, an opened device, or None for the default one.

    Example:
        >>> import niello as nl
        >>> sorted(nl.memory_stats("cpu"))
        ['cached', 'current', 'peak']
    """
    return opened(device).memory_stats()  # type: ignore[no-any-return]


def release_memory(device: Any = None) -> None:
    """Give a device's memory that is kept for reuse back to the system.

    Example:
        >>> import niello as nl
        >>> nl.release_memory("cpu")
        >>> nl.memory_stats("cpu")["cached"]
        0
    """
    opened(device).release_memory()


def reset_peak_memory(device: Any = None) -> None:
    """Start counting a device's peak memory anew, from what is in use now."""
    opened(device).reset_peak()
