"""A device that is always absent: for compiling and inspecting where there is no hardware."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from niello.core import dtypes
from niello.core.errors import DeviceError
from niello.kernel.text import print_kernel
from niello.runtime.commands import Program
from niello.runtime.device import HostDevice
from niello.runtime.target import Backend, CompileOptions, Limits


class NullDevice(HostDevice):
    """Gives host memory for buffers, so that everything up to a run works."""

    def __init__(self) -> None:
        super().__init__("null")

    def describe(self) -> str:
        return "null: compiles every program and runs none"

    def compile(self, program: Program, options: CompileOptions) -> NullLoaded:
        """Where a real back end renders and compiles; here the kernels stay as they are."""
        return NullLoaded(program)

    def load(self, program: Program, options: CompileOptions, image: bytes) -> NullLoaded:
        """Where a real back end takes the stored machine code."""
        return NullLoaded(program)


class NullLoaded:
    """A compiled program. Playing it raises DeviceError."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def play(self, handles: Sequence[Any]) -> None:
        raise DeviceError(
            "null device",
            "it only compiles programs",
            received=f"a run of {len(self.program.commands)} commands",
            advice="Run on another device, such as cpu or numpy",
        )

    def image(self) -> bytes:
        return b""

    def source(self) -> str:
        return "\n".join(print_kernel(k) for k in self.program.kernels)


BACKEND = Backend(
    name="null",
    limits=Limits(
        dtypes=frozenset(dtypes.ALL),
        max_buffers=1 << 20,
        max_nodes=4096,
        max_buffer_bytes=1 << 62,
        workgroup_threads=1,
        shared_bytes=1 << 30,
        vector_bits=64,
    ),
    open=NullDevice,
    runs=False,
    notes="Compiles every program and runs none; the skeleton of a new back end.",
)
