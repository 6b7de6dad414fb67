"""The cpu back end: LLVM through llvmlite, one native function for each program."""

from __future__ import annotations

import importlib

from niello.core import dtypes
from niello.core.errors import BackendUnavailable
from niello.runtime.target import Backend, Device, Limits

# Rows up to half of a typical second-level cache are worth keeping between two passes over them.
_ROW_BYTES = 512 << 10


def _open() -> Device:
    try:
        importlib.import_module("llvmlite.binding")
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            "cpu",
            f"the code generator cannot be loaded: {error}",
            advice="Install the package llvmlite",
        ) from error
    from niello.backends.cpu.device import CpuDevice
    from niello.backends.cpu.program import render_program

    return CpuDevice(render_program)


def _vector_bits() -> int:
    try:
        from niello.backends.cpu.jit import host_target
    except (ImportError, OSError):
        return 128
    return host_target().vector_bits


BACKEND = Backend(
    name="cpu",
    limits=Limits(
        dtypes=frozenset(dtypes.ALL),
        max_buffers=128,
        max_nodes=4096,
        max_buffer_bytes=1 << 47,
        workgroup_threads=1,
        shared_bytes=_ROW_BYTES,
        vector_bits=_vector_bits(),
        channels_last=True,
        integers=True,
    ),
    open=_open,
    notes="x86-64 and aarch64; vectors as wide as the machine has",
)
