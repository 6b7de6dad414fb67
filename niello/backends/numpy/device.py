"""Plays a command list with `kernel/interpret.py`, one command after the other."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from niello.core import dtypes
from niello.core.errors import CompilerBug, UnsupportedOp
from niello.kernel.interpret import interpret
from niello.kernel.text import print_kernel
from niello.runtime.commands import (
    BufferRef,
    Command,
    Copy,
    Dispatch,
    Fill,
    LibraryCall,
    Program,
    Space,
)
from niello.runtime.device import HostDevice
from niello.runtime.target import Backend, CompileOptions, Limits

Array = np.ndarray[Any, Any]


class NumpyDevice(HostDevice):
    """Runs programs in this process; buffers are host memory."""

    def __init__(self) -> None:
        super().__init__("numpy")

    def describe(self) -> str:
        return f"numpy {np.__version__} on {platform.machine()} (reference, slow)"

    def compile(self, program: Program, options: CompileOptions) -> NumpyLoaded:
        """Nothing to translate: kernels are interpreted."""
        return NumpyLoaded(program)

    def load(self, program: Program, options: CompileOptions, image: bytes) -> NumpyLoaded:
        """A package holds no machine code for this device; the program is all it needs."""
        return NumpyLoaded(program)


class NumpyLoaded:
    """A program ready to be interpreted. Holds no state, so threads may play it at once."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def play(self, handles: Sequence[int]) -> None:
        """Run all commands on the memory at the addresses `handles`, one for each buffer.

        Variables keep their values when a command fails (no memory, an interrupt).
        """
        memory = [
            _memory(address, size)
            for address, (_, _, size) in zip(handles, self.program.buffers(), strict=True)
        ]
        first = self.program.argument(Space.VARIABLE, 0)
        variables = memory[first : first + len(self.program.variables)]
        before = [v.copy() for v in variables]
        try:
            for command in self.program.commands:
                if self._enabled(memory, command):
                    self._run(memory, command)
        except BaseException:
            for now, old in zip(variables, before, strict=True):
                now[:] = old
            raise

    def image(self) -> bytes:
        return b""

    def source(self) -> str:
        return "\n".join(print_kernel(k) for k in self.program.kernels)

    def _view(self, memory: list[Array], ref: BufferRef) -> Array:
        whole = memory[self.program.argument(ref.space, ref.index)]
        return whole[ref.offset : ref.offset + ref.bytes]

    def _enabled(self, memory: list[Array], command: Command) -> bool:
        predicate = getattr(command, "predicate", None)
        if predicate is None:
            return True
        return int.from_bytes(self._view(memory, predicate)[:4].tobytes(), "little") != 0

    def _run(self, memory: list[Array], command: Command) -> None:
        if isinstance(command, Dispatch):
            kernel = self.program.kernels[command.kernel]
            arrays = [
                self._view(memory, ref)[: param.elements * param.dtype.itemsize].view(
                    param.dtype.numpy
                )
                for ref, param in zip(command.buffers, kernel.params, strict=True)
            ]
            interpret(kernel, arrays)
        elif isinstance(command, Copy):
            self._view(memory, command.target)[:] = self._view(memory, command.source)
        elif isinstance(command, Fill):
            target = self._view(memory, command.target)
            pattern = np.frombuffer(command.pattern, np.uint8)
            target[:] = np.resize(pattern, target.size)
        elif isinstance(command, LibraryCall):
            raise UnsupportedOp(
                "numpy device",
                "it has no library functions",
                received=command.function,
                advice="Compile the graph for this device",
            )
        else:
            raise CompilerBug("numpy device", "an unknown command", received=repr(command))


class _Window:
    """Memory at an address, as NumPy's array interface describes it."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (address, False),
        }


def _memory(address: int, size: int) -> Array:
    if size == 0:
        return np.empty(0, np.uint8)
    return np.asarray(_Window(address, size))


BACKEND = Backend(
    name="numpy",
    limits=Limits(
        dtypes=frozenset(dtypes.ALL),
        max_buffers=1 << 20,
        max_nodes=4096,
        max_buffer_bytes=1 << 62,
        workgroup_threads=1,
        shared_bytes=1 << 30,
        vector_bits=64,
    ),
    open=NumpyDevice,
    notes="The reference: every kernel interpreted with NumPy.",
)
