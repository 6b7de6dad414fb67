"""The cpu back end: LLVM through llvmlite, one native function for each program."""

from __future__ import annotations

from importlib.util import find_spec

from niello.backends.cpu.target import CpuTarget, vector_bits
from niello.core import dtypes
from niello.core.errors import BackendUnavailable
from niello.runtime.commands import Program
from niello.runtime.target import Backend, CompileOptions, Device, Limits

# Rows up to half of a typical second-level cache are worth keeping between two passes over them.
_ROW_BYTES = 512 << 10


def _open() -> Device:
    # Importing the code generator takes longer than loading a package, so it is only looked for.
    if find_spec("llvmlite") is None:
        raise BackendUnavailable(
            "cpu",
            "the code generator cannot be loaded: llvmlite is not installed",
            advice="Install the package llvmlite",
        )
    from niello.backends.cpu.device import CpuDevice

    return CpuDevice(_render)


def _render(program: Program, target: CpuTarget, options: CompileOptions) -> str:
    from niello.backends.cpu.program import render_program

    return render_program(program, target, options)


def _vector_bits() -> int:
    try:
        return vector_bits()
    except (ImportError, OSError):
        return 128


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
        borders=True,
    ),
    open=_open,
    notes="x86-64 and aarch64; vectors as wide as the machine has",
)
