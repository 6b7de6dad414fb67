"""The machine as every contender sees it: two cores, two threads each.

This module imports nothing but the standard library, because thread counts must be in the
environment before a numerical library is loaded.
"""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path

THREADS = 2

PACKAGES = (
    "niello",
    "numpy",
    "llvmlite",
    "torch",
    "jax",
    "jaxlib",
    "onnxruntime",
    "openvino",
    "onnx",
)


def claim_two_cores() -> tuple[int, ...]:
    """Bind this process to two physical cores and say so to every library. Returns the cores.

    JAX has no switch for its thread count and takes one thread per usable core, so the process's
    affinity is what makes the comparison even.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NIELLO_THREADS"):
        os.environ[name] = str(THREADS)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if not hasattr(os, "sched_setaffinity"):
        return ()
    chosen = _physical_cores(sorted(os.sched_getaffinity(0)))[:THREADS]
    os.sched_setaffinity(0, chosen)
    return tuple(chosen)


def _physical_cores(usable: list[int]) -> list[int]:
    """One logical CPU per physical core, then the remaining ones."""
    seen: set[str] = set()
    first: list[int] = []
    rest: list[int] = []
    for cpu in usable:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings = path.read_text().strip() if path.exists() else str(cpu)
        (rest if siblings in seen else first).append(cpu)
        seen.add(siblings)
    return first + rest


class Neighbours:
    """How much of the machine others used since this was made.

    Libraries that spin at their barriers lose far more than their share when a third process
    wants a core, so figures taken beside a busy neighbour are not to be trusted.
    """

    def __init__(self) -> None:
        self.busy, self.own, self.wall = _busy_seconds(), _own_seconds(), time.perf_counter()

    def cores(self) -> float | None:
        """Mean number of cores that other processes and the host took; None if unknown."""
        busy = _busy_seconds()
        if busy is None or self.busy is None:
            return None
        others = (busy - self.busy) - (_own_seconds() - self.own)
        return max(0.0, others / max(time.perf_counter() - self.wall, 1e-9))


def _busy_seconds() -> float | None:
    """Seconds that all cores were busy or stolen since the machine started."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    ticks = [int(text) for text in path.read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, interrupts, soft, stolen = ticks
    total = user + nice + system + interrupts + soft + stolen
    return total / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def describe(cores: tuple[int, ...]) -> dict[str, object]:
    """What a reader needs to judge the figures: processor, cores, versions, load."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": list(cores) or f"not bound; {os.cpu_count()} present",
        "threads": THREADS,
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
