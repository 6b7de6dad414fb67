"""Back ends, found by listing this directory. Each folder exports one record, BACKEND."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from dataclasses import replace
from functools import cache

from niello.core.config import DEVICE
from niello.core.errors import BackendUnavailable
from niello.runtime.device import openers
from niello.runtime.target import Backend, CompileOptions, Device

# Tried in this order when the user names no device; a folder not listed here is never a default:
# webgpu lacks float64, so that a graph which runs elsewhere might be refused there.
PREFERENCE = ("cuda", "cpu", "numpy")

_devices: dict[str, Device] = {}
_lock = threading.Lock()


def names() -> tuple[str, ...]:
    """Names of all back ends that Niello has, whether or not they can run here."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg))


@cache
def backend(name: str) -> Backend:
    """The record of a back end. Raises BackendUnavailable for an unknown name."""
    if name not in names():
        raise BackendUnavailable(
            "device",
            "there is no such back end",
            received=repr(name),
            advice=f"Known back ends: {', '.join(names())}",
        )
    return importlib.import_module(f"{__name__}.{name}").BACKEND  # type: ignore[no-any-return]


def available() -> tuple[str, ...]:
    """Back ends whose device opens here."""
    found = []
    for name in names():
        try:
            device(name)
        except BackendUnavailable:
            continue
        found.append(name)
    return tuple(found)


def default_name() -> str:
    """The device used when none is named: NIELLO_DEVICE, else the first available of PREFERENCE."""
    return DEVICE.text() or _preferred()


@cache
def _preferred() -> str:
    """Looked for once: a driver that is not here does not come while the process runs."""
    for name in PREFERENCE:
        try:
            device(name)
        except BackendUnavailable:
            continue
        return name
    raise BackendUnavailable("device", "no back end can run here", received=PREFERENCE)


def for_target(text: str, options: CompileOptions) -> tuple[Device, Backend, CompileOptions]:
    """What `cpu`, `cpu:avx2` or `cuda:sm_90` asks for: a device, its back end, and the options.

    A level after the colon is one of machines to compile for, whether or not this is one.
    """
    name, _, level = text.partition(":")
    record = backend(name)
    if not level:
        return device(name), record, options
    if record.ahead is not None:
        found = record.ahead(level)
        limits = getattr(found, "limits", None) or record.limits
        return found, replace(record, limits=limits), options
    return device(name), record, replace(options, target=level)


def device(name: str | None = None) -> Device:
    """The opened device of a back end (opened once per process)."""
    chosen = default_name() if name is None else name
    found = _devices.get(chosen)
    if found is None:
        record = backend(chosen)
        with _lock:
            found = _devices.get(chosen)
            if found is None:
                found = _devices[chosen] = record.open()
    return found


openers.append(device)
