"""The cpu device: compiles whole programs to one native function and plays it with all threads.

What a generated module must export is written down here:

    void niello_run(ptr arguments, ptr scratch, i64 thread, i64 threads, ptr barrier)
        plays the command list as thread `thread` of `threads`; `arguments` points to one address
        for each buffer, in the order of Program.buffers; commands end with a barrier when there
        is more than one thread
    [4 x i64] niello_info
        scratch bytes that all threads share, scratch bytes of each thread, the largest number of
        threads that any command can make use of, the number of arguments

Scratch is 64-byte aligned: the shared bytes first, then those of each thread in turn, both sizes
rounded up to 64.
"""

from __future__ import annotations

import ctypes
import platform
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from niello.backends.cpu import jit, threads
from niello.core import config
from niello.core.errors import CompilerBug, CorruptFile
from niello.runtime.buffer import ALIGNMENT, Buffer, physical_memory, show_bytes
from niello.runtime.commands import Program
from niello.runtime.device import HostDevice
from niello.runtime.disk_cache import DiskCache
from niello.runtime.target import CompileOptions, Loaded

Render = Callable[[Program, jit.CpuTarget, CompileOptions], str]

_EXPORTS = ("niello_run", "niello_info")


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
        target = jit.host_target()
        return (
            f"cpu: {_model()} ({target.cpu}, {target.vector_bits}-bit vectors), "
            f"{threads.thread_count()} threads, {show_bytes(physical_memory())}"
        )

    def compile(self, program: Program, options: CompileOptions) -> Loaded:
        """Machine code for the whole command list, from the disk cache when it is there."""
        target = jit.select_target(options.target)
        text = self._render(program, target, options)
        verify = config.VERIFY.integer(0, 2) > 0
        image = jit.cached_object(
            text, target, self._cache, verify=verify, optimise=options.optimise
        )
        return CpuProgram(self, program, options, image, self._render)

    def load(self, program: Program, options: CompileOptions, image: bytes) -> Loaded:
        """The program with machine code that `Loaded.image` gave earlier.

        Raises CorruptFile for bytes that are not that, and BackendUnavailable when this machine
        lacks something that the code uses.
        """
        return CpuProgram(self, program, options, image, self._render)


class CpuProgram:
    """A program linked into this process. Several threads may play it at once."""

    def __init__(
        self,
        device: CpuDevice,
        program: Program,
        options: CompileOptions,
        image: bytes,
        render: Render,
    ) -> None:
        self.program = program
        self._device = device
        self._options = options
        self._image = image
        self._render = render
        target = jit.select_target(options.target)
        code = jit.load_object(image, target, _EXPORTS)
        info = (ctypes.c_int64 * 4).from_address(code.address("niello_info"))
        self._shared, self._each = _rounded(info[0]), _rounded(info[1])
        self._most_threads = max(1, info[2])
        self._arguments = sum(1 for _ in program.buffers())
        if info[3] != self._arguments or info[0] < 0 or info[1] < 0:
            raise CorruptFile(
                "load",
                f"the machine code belongs to another program: it takes {info[3]} buffers",
                received=f"a program with {self._arguments}",
                advice="Compile the program again",
            )
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
        size = self._shared + self._each * count
        if size == 0:
            self._run(table.buffer_info()[0], 0, count)
            return
        scratch = self._take_scratch(size)
        try:
            self._run(table.buffer_info()[0], scratch.handle, count)
        finally:
            self._scratch.append((size, scratch))

    def image(self) -> bytes:
        """The object file."""
        return self._image

    def source(self) -> str:
        """The generated LLVM IR text."""
        target = jit.select_target(self._options.target)
        return self._render(self.program, target, self._options)

    def assembly(self) -> str:
        """The machine code, to read."""
        return jit.assembly(self.source(), jit.select_target(self._options.target))

    def _take_scratch(self, size: int) -> Buffer:
        # Each concurrent run has scratch of its own; what a run leaves behind serves the next.
        try:
            had, buffer = self._scratch.pop()
        except IndexError:
            had = -1
        return buffer if had == size else self._device.allocate(size)


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
