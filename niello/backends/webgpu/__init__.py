"""The webgpu back end: WGSL through wgpu on Metal, Vulkan and Direct3D 12.

Nothing of wgpu is imported before somebody asks for the record or opens the device. `BACKEND` is
made at that moment, because its limits are those of the adapter that will be opened.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from niello.core import dtypes
from niello.core.errors import BackendUnavailable
from niello.runtime.target import Backend, Device, Limits

if TYPE_CHECKING:
    BACKEND: Backend

# What every WebGPU adapter offers, browsers included.
PORTABLE = Limits(
    dtypes=frozenset(d for d in dtypes.ALL if d is not dtypes.float64),
    max_buffers=8,
    max_nodes=2048,
    max_buffer_bytes=256 << 20,
    workgroup_threads=256,
    shared_bytes=16 << 10,
    vector_bits=128,
    buffer_alignment=256,
)


def _open() -> Device:
    from niello.backends.webgpu.adapters import chosen_adapter
    from niello.backends.webgpu.device import WebGpuDevice

    return WebGpuDevice(chosen_adapter())


def _ahead(level: str) -> Device:
    from niello.backends.webgpu.ahead import open_ahead

    return open_ahead(level)


@cache
def _backend() -> Backend:
    from niello.backends.webgpu.adapters import chosen_adapter, limits_of

    try:
        limits = limits_of(chosen_adapter(), PORTABLE)
    except BackendUnavailable:
        limits = PORTABLE
    return Backend(
        name="webgpu",
        limits=limits,
        open=_open,
        ahead=_ahead,
        notes="Metal, Vulkan and Direct3D 12 through wgpu; no float64; needs niello[webgpu]",
    )


def __getattr__(name: str) -> Any:
    if name == "BACKEND":
        return _backend()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
