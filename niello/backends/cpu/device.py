"""The cpu device: compiles whole programs to one native function and plays it with all threads.

What a generated module must export is written down here:

    void niello_run(ptr arguments, ptr scratch, i64 thread, i64 threads, ptr barrier)
        plays the command list as thread `thread` of `threads`; `arguments` points to one address
        for each buffer, in the order of Program.buffers; commands end with a barrier when there
        is more than one thread
    void niello_pack(...)
        the same parameters; fills the packed copies of constants, whose address follows the
        buffers' among the arguments, and is played once, before anything else
    [5 x i64] niello_info
        scratch bytes that all threads share, scratch bytes of each thread, the largest number of
        threads that any command can make use of, the number of buffers, bytes of packed constants
    [n x i8] niello_absorbed
        for each constant, whether only niello_pack reads it

Scratch is 64-byte aligned: the shared bytes first, then those of each thread in turn, both sizes
rounded up to 64.
"""

from __future__ import annotations

import ctypes
import importlib
import platform
import threading
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from niello.backends.cpu import image, threads
from niello.backends.cpu.code import load_code, refuse_missing
from niello.backends.cpu.target import CpuTarget, links_elf, missing, select_target
from niello.core import config
from niello.core.dtypes import uint8
from niello.core.errors import BackendUnavailable, CompilerBug, CorruptFile
from niello.runtime.buffer import ALIGNMENT, Buffer, physical_memory, show_bytes
from niello.runtime.commands import Program, Space
from niello.runtime.device import HostDevice
from niello.runtime.disk_cache import DiskCache
from niello.runtime.target import CompileOptions, Loaded

Render = Callable[[Program, CpuTarget, CompileOptions], str]

# Raise the number whenever what a module exports changes: packages hold modules.
INTERFACE = "interface-2"
_EXPORTS = ("niello_run", "niello_pack", "niello_info", "niello_absorbed")


class CpuDevice(HostDevice):
    """The processor this process runs on.

    `render` turns a program into a module of LLVM IR text; `cache` keeps compiled modules.
    """

    def __init__(self, render: Render, cache: DiskCache | None = None) -> None:
        super().__init__("cpu")
        self._render = render
        self._cache = cache

    def describe(self) -> str:
        """One line: model, level, threads, memory."""
        target = select_target("host")
        return (
            f"cpu: {_model()} ({target.cpu}, {target.vector_bits}-bit vectors), "
            f"{threads.thread_count()} threads, {show_bytes(physical_memory())}"
        )

    def compile(self, program: Program, options: CompileOptions) -> Loaded:
        """Machine code for the whole command list, from the disk cache when it is there."""
        jit = _code_generator()
        target = select_target(options.target)
        text = self._render(program, target, options)
        verify = config.VERIFY.integer(0, 2) > 0
        code = jit.cached_object(
            text, target, self._cache, verify=verify, optimise=options.optimise
        )
        return CpuProgram(self, program, options, code, self._render)

    def load(self, program: Program, options: CompileOptions, data: bytes) -> Loaded:
        """The program with machine code that `Loaded.image` gave earlier.

        Raises CorruptFile for bytes that are not that, and BackendUnavailable when this machine
        lacks something that the code uses.
        """
        code, pool = image.split(data)
        if pool:
            threads.provide_pool(pool)
        return CpuProgram(self, program, options, code, self._render)

    def code_needs(self, options: CompileOptions) -> tuple[str, ...]:
        """The interface, the kind of system, and the instruction sets that code may use."""
        return (INTERFACE, *select_target(options.target).needs)

    def lacks(self, needs: Sequence[str]) -> tuple[str, ...]:
        """Those that this machine does not have."""
        return missing(n for n in needs if n != INTERFACE)


class CpuProgram:
    """A program linked into this process. Several threads may play it at once."""

    def __init__(
        self,
        device: CpuDevice,
        program: Program,
        options: CompileOptions,
        data: bytes,
        render: Render,
    ) -> None:
        self.program = program
        self._device = device
        self._options = options
        self._object = data
        self._render = render
        if options.target != "host":
            refuse_missing(options.target, select_target(options.target).missing_here())
        code = load_code(data, _EXPORTS)
        info = (ctypes.c_int64 * 5).from_address(code.address("niello_info"))
        self._shared, self._each = _rounded(info[0]), _rounded(info[1])
        self._most_threads = max(1, info[2])
        self._arguments = sum(1 for _ in program.buffers())
        if info[3] != self._arguments or min(info[0], info[1], info[4]) < 0:
            raise CorruptFile(
                "load",
                f"the machine code belongs to another program: it takes {info[3]} buffers",
                received=f"a program with {self._arguments}",
                advice="Compile the program again",
            )
        self._packed_bytes = int(info[4])
        self._packed: Buffer | None = None
        self._packing = threading.Lock()
        flags = (ctypes.c_int8 * len(program.constants)).from_address(
            code.address("niello_absorbed")
        )
        self.absorbed = frozenset(i for i, flag in enumerate(flags) if flag)
        self._pack = threads.Runner(code, "niello_pack")
        self._run = threads.Runner(code, "niello_run")
        self._scratch: deque[tuple[int, Buffer]] = deque()

    def play(self, handles: Sequence[int]) -> None:
        """Runs the command list on one address per buffer (Program.buffers); blocks until done.

        The GIL is free meanwhile. Same addresses' contents and same thread count: same bits.
        """
        if len(handles) != self._arguments:
            raise CompilerBug(
                "play", f"the program takes {self._arguments} buffers", received=len(handles)
            )
        count = self._most_threads
        if count > 1:
            count = min(count, self._options.threads or threads.thread_count())
        table = array("Q", handles)
        if self._packed_bytes:
            packed = self._packed or self._pack_constants(table)
            table.append(packed.handle)
        size = self._shared + self._each * count
        if size == 0:
            self._run(table.buffer_info()[0], 0, count)
            return
        scratch = self._take_scratch(size)
        try:
            self._run(table.buffer_info()[0], scratch.handle, count)
        finally:
            self._scratch.append((size, scratch))

    def take_constants(self, addresses: Sequence[int]) -> frozenset[int]:
        """Pack constants, given one address for each, and say which no run will read again.

        The handles of those may be anything from then on. What is not called for before the first
        `play` is packed then.
        """
        if not self._packed_bytes:
            return frozenset()
        first = self.program.argument(Space.CONSTANT, 0)
        table = array("Q", bytes(8 * self._arguments))
        table[first : first + len(addresses)] = array("Q", addresses)
        self._pack_constants(table)
        return self.absorbed

    def packed_constants(self) -> np.ndarray | None:
        """The bytes of the packed copies, for a package; None where there are none."""
        if self._packed is None:
            return None
        return self._packed.array(uint8, (self._packed_bytes,))

    def use_packed(self, data: np.ndarray) -> frozenset[int]:
        """Read packed copies where they are: those that `packed_constants` of the same code gave.

        Returns what `take_constants` does. Raises CorruptFile for another number of bytes.
        """
        if data.shape != (self._packed_bytes,) or data.dtype != np.uint8:
            raise CorruptFile(
                "load",
                f"the machine code reads {self._packed_bytes} bytes of packed constants",
                received=f"{data.dtype}{list(data.shape)}",
                advice="Compile the program again",
            )
        self._packed = self._device.adopt(data)
        return self.absorbed

    def _pack_constants(self, table: array[int]) -> Buffer:
        with self._packing:
            if self._packed is None:
                packed = self._device.allocate(self._packed_bytes)
                table = array("Q", [*table, packed.handle])
                count = self._options.threads or threads.thread_count()
                self._pack(table.buffer_info()[0], 0, count)
                self._packed = packed
            return self._packed

    def image(self) -> bytes:
        """The object file, with that of the worker pool where it is linked without LLVM."""
        return image.join(self._object, threads.pool_object()) if links_elf() else self._object

    def source(self) -> str:
        """The generated LLVM IR text."""
        target = select_target(self._options.target)
        return self._render(self.program, target, self._options)

    def assembly(self) -> str:
        """The machine code, to read."""
        found: str = _code_generator().assembly(self.source(), select_target(self._options.target))
        return found

    def _take_scratch(self, size: int) -> Buffer:
        # Each concurrent run has scratch of its own; what a run leaves behind serves the next.
        try:
            had, buffer = self._scratch.pop()
        except IndexError:
            had = -1
        return buffer if had == size else self._device.allocate(size)


def _code_generator() -> ModuleType:
    """The module jit, which loads LLVM."""
    try:
        return importlib.import_module("niello.backends.cpu.jit")
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            "cpu",
            f"the code generator cannot be loaded: {error}",
            advice="Install the package llvmlite again, or use the device numpy",
        ) from error


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
