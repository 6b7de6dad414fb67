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
    If,
    LibraryCall,
    Loop,
    Program,
    SliceCopy,
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
            self._all(memory, self.program.commands)
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

    def _all(self, memory: list[Array], commands: Sequence[Command]) -> None:
        for command in commands:
            if self._enabled(memory, command):
                self._run(memory, command)

    def _word(self, memory: list[Array], ref: BufferRef) -> int:
        return int(self._view(memory, ref)[:4].view(np.int32)[0])

    def _enabled(self, memory: list[Array], command: Command) -> bool:
        predicate = getattr(command, "predicate", None)
        return predicate is None or self._word(memory, predicate) != 0

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
        elif isinstance(command, SliceCopy):
            self._copy_slice(memory, command)
        elif isinstance(command, If):
            holds = self._word(memory, command.condition) != 0
            self._all(memory, command.then if holds else command.otherwise)
        elif isinstance(command, Loop):
            self._loop(memory, command)
        elif isinstance(command, LibraryCall):
            raise UnsupportedOp(
                "numpy device",
                "it has no library functions",
                received=command.function,
                advice="Compile the graph for this device",
            )
        else:
            raise CompilerBug("numpy device", "an unknown command", received=repr(command))

    def _copy_slice(self, memory: list[Array], command: SliceCopy) -> None:
        index, size = self._word(memory, command.index), command.bytes
        start, end = index * command.target_step, index * command.source_step
        target, source = (self._view(memory, r) for r in (command.target, command.source))
        target[start : start + size] = source[end : end + size]

    def _loop(self, memory: list[Array], loop: Loop) -> None:
        bounds = [] if loop.trips is None else [loop.trips]
        if loop.count is not None:
            bounds.append(max(self._word(memory, loop.count), 0))
        total = min(bounds, default=None)
        done = 0
        while total is None or done < total:
            self._all(memory, loop.test)
            if loop.condition is not None and self._word(memory, loop.condition) == 0:
                break
            number = total - 1 - done if loop.reverse and total is not None else done
            self._view(memory, loop.counter)[:4].view(np.int32)[0] = number
            self._all(memory, loop.body)
            done += 1
        if loop.iterations is not None:
            self._view(memory, loop.iterations)[:4].view(np.int32)[0] = done


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
