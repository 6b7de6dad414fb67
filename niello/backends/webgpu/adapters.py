"""Which adapter of this machine is used, and what is asked of it.

`NIELLO_WEBGPU_ADAPTER` names one, by any part of its name; otherwise the fastest kind is taken:
discrete, integrated, other, software.
"""

from __future__ import annotations

import dataclasses
import importlib
from functools import cache
from typing import Any

from niello.core.config import WEBGPU_ADAPTER
from niello.core.errors import BackendUnavailable
from niello.runtime.target import Limits

# Browsers and all modern drivers have these; OpenGL lacks parts of WebGPU and is left out.
_APIS = ("Vulkan", "Metal", "D3D12")
_KINDS = ("DiscreteGPU", "IntegratedGPU", "Unknown", "CPU")
# Asked for where the adapter has them.
_FEATURES = ("shader-f16", "subgroup", "subgroups", "shader-int64", "timestamp-query")
# Raised from WebGPU's defaults to what the adapter gives.
_RAISED = (
    "max-buffer-size",
    "max-storage-buffer-binding-size",
    "max-storage-buffers-per-shader-stage",
    "max-compute-invocations-per-workgroup",
    "max-compute-workgroup-size-x",
    "max-compute-workgroup-size-y",
    "max-compute-workgroup-size-z",
    "max-compute-workgroup-storage-size",
    "max-compute-workgroups-per-dimension",
    "min-storage-buffer-offset-alignment",
)
# Kernels need a few buffers more than their operations have, for partial results.
_SPARE_BUFFERS = 4
_MOST_BUFFERS = 32


def load_wgpu() -> Any:
    """The module wgpu. Raises BackendUnavailable with the reason when it cannot be loaded."""
    try:
        wgpu = importlib.import_module("wgpu")
        extras = importlib.import_module("wgpu.backends.wgpu_native.extras")
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendUnavailable(
            "webgpu",
            f"the package wgpu cannot be loaded: {error}",
            advice="Install niello[webgpu]",
        ) from error
    try:
        # Looking for OpenGL adapters takes long and prints warnings of window systems.
        extras.set_instance_extras(backends=["Vulkan", "Metal", "DX12"])
    except RuntimeError:
        return wgpu  # the program uses wgpu already: its choice stands
    return wgpu


@cache
def adapters() -> tuple[Any, ...]:
    """The adapters of this machine that can be used, in order of preference."""
    wgpu = load_wgpu()
    try:
        found = wgpu.gpu.enumerate_adapters_sync()
    except (RuntimeError, ValueError, wgpu.GPUError) as error:
        raise BackendUnavailable(
            "webgpu", f"the adapters cannot be listed: {error}", advice="Update the driver"
        ) from error
    usable = [a for a in found if a.info["backend_type"] in _APIS]
    return tuple(sorted(usable, key=_rank))


def _rank(adapter: Any) -> int:
    kind = adapter.info["adapter_type"]
    return _KINDS.index(kind) if kind in _KINDS else len(_KINDS)


def adapter_name(adapter: Any) -> str:
    """A name for people: model, kind, interface."""
    return str(adapter.summary)


def chosen_adapter() -> Any:
    """The adapter that NIELLO_WEBGPU_ADAPTER names, or the first. Raises BackendUnavailable."""
    found = adapters()
    wanted = WEBGPU_ADAPTER.text()
    fitting = [a for a in found if wanted.casefold() in adapter_name(a).casefold()]
    if fitting:
        return fitting[0]
    if not found:
        raise BackendUnavailable(
            "webgpu",
            "this machine has no adapter for Metal, Vulkan or Direct3D 12",
            advice="Install a Vulkan driver; Mesa's mesa-vulkan-drivers runs on any processor",
        )
    raise BackendUnavailable(
        "webgpu",
        f"no adapter has {WEBGPU_ADAPTER.name} in its name",
        received=repr(wanted),
        advice=f"There are: {', '.join(adapter_name(a) for a in found)}",
    )


def request_device(adapter: Any) -> Any:
    """An opened wgpu device with all the adapter offers. Raises BackendUnavailable."""
    limits = {name: adapter.limits[name] for name in _RAISED if name in adapter.limits}
    features = [f for f in _FEATURES if f in adapter.features]
    wgpu = load_wgpu()
    try:
        return adapter.request_device_sync(required_features=features, required_limits=limits)
    except (RuntimeError, ValueError, wgpu.GPUError) as error:
        raise BackendUnavailable(
            "webgpu",
            f"the adapter gives no device: {error}",
            received=adapter_name(adapter),
            advice="Update the driver, or name another adapter in NIELLO_WEBGPU_ADAPTER",
        ) from error


def limits_of(adapter: Any, portable: Limits) -> Limits:
    """The bounds of an adapter for the stitcher; never below the portable ones."""
    given = adapter.limits
    buffers = min(given["max-storage-buffers-per-shader-stage"] - _SPARE_BUFFERS, _MOST_BUFFERS)
    return dataclasses.replace(
        portable,
        max_buffers=max(portable.max_buffers, buffers),
        max_buffer_bytes=max(portable.max_buffer_bytes, given["max-buffer-size"]),
        workgroup_threads=given["max-compute-invocations-per-workgroup"],
        shared_bytes=given["max-compute-workgroup-storage-size"],
    )
