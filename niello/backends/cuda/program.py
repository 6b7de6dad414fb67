"""A compiled command list on a CUDA device: played as a CUDA graph, one launch for a whole run.

The first run with a set of buffers queues every command by itself; when the same buffers come again
the commands are recorded into a graph, which later runs launch. Buffers come again because the
device's pool hands out what was dropped last. Commands under a predicate are always recorded.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niello.backends.cuda import compile as nvrtc
from niello.backends.cuda.flow import Words, add_loop, copy_slice
from niello.backends.cuda.graphs import Nodes, Recording
from niello.backends.cuda.tuning import seconds_of, seconds_of_recorded
from niello.codegen.gpu.kernel import DECLARED_SHARED_BYTES, GpuKernel, Launch
from niello.core.errors import CompilerBug, CorruptFile, DeviceError, UnsupportedOp
from niello.runtime.buffer import Buffer
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
    walk,
)
from niello.runtime.target import CompileOptions

if TYPE_CHECKING:
    from niello.backends.cuda.device import CudaDevice

# Graphs kept for different sets of buffers, and sets remembered that were seen once.
GRAPHS = 16
SEEN = 256
_SCRATCH_STEP = 256
# Kernels have scratch memory of their own, and so may run at once, up to this many bytes in all.
SEPARATE_SCRATCH = 64 << 20
# Commands among which independence is looked for; batches run one after the other.
BATCH = 64

# Queues one command on a stream, given the address of every argument.
Play = Callable[[Any, Sequence[int]], None]


@dataclass(frozen=True)
class Where:
    """An address of a run: `offset` bytes into an argument."""

    argument: int
    offset: int

    def address(self, handles: Sequence[int]) -> int:
        """The address in a run with these arguments."""
        return handles[self.argument] + self.offset


@dataclass(frozen=True)
class Step:
    """A command ready to be queued, the word that skips it when zero, and what it touches."""

    play: Play
    predicate: Where | None
    reads: tuple[tuple[Where, int], ...]  # with the number of bytes
    writes: tuple[tuple[Where, int], ...]
    shares: frozenset[str]  # what it works in together with other steps
    command: Command
    bodies: tuple[tuple[Step, ...], ...] = ()  # of a branch or a loop, which `play` cannot queue


class CudaProgram:
    """A program loaded into a device. Several threads may play it; their runs take turns."""

    def __init__(
        self,
        device: CudaDevice,
        program: Program,
        options: CompileOptions,
        cubins: dict[str, bytes] | None = None,
    ) -> None:
        self.program = program
        self._device = device
        self._arguments = sum(1 for _ in program.buffers())
        self._rendered: dict[int, GpuKernel] = {}
        for command in walk(program.commands):
            if isinstance(command, Dispatch):
                self._render(command)
        self._cubins = self._machine_code(cubins)
        self._modules: dict[str, Any] = {}
        self._functions: dict[tuple[str, str], Any] = {}
        self._scratch, self._scratch_at = self._place_scratch()
        self._numbers = itertools.count()
        self._steps = self._make_steps(program.commands)
        calls = any(isinstance(c, LibraryCall) for c in program.commands)
        # One kernel is launched as fast as a graph of it; one library call is not.
        self._worth_a_graph = calls or len(self._steps) > 1
        self._predicated = any(s.predicate is not None or s.bodies for s in self._steps)
        self._graphs: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._seen: OrderedDict[tuple[int, ...], None] = OrderedDict()

    # --- making
    def _render(self, command: Dispatch) -> GpuKernel:
        found = self._rendered.get(command.kernel)
        if found is None:
            kernel = self.program.kernels[command.kernel]
            found = self._rendered[command.kernel] = self._device.render(kernel)
        return found

    def _machine_code(self, given: dict[str, bytes] | None) -> dict[str, bytes]:
        sources = [k.source for k in self._rendered.values() if k.launches]
        if given is None:
            made = nvrtc.compile_sources(sources, self._device.arch)
            return dict(zip((nvrtc.digest_of(s) for s in sources), made, strict=True))
        wanted = [nvrtc.digest_of(s) for s in sources]
        missing = [d for d in wanted if d not in given]
        if missing:
            raise CorruptFile(
                "load",
                f"the machine code lacks {len(missing)} of {len(wanted)} kernels of the program",
                received=f"{len(given)} kernels",
                advice="Compile the program again",
            )
        return {d: given[d] for d in wanted}

    def _function(self, source: str, entry: str) -> Any:
        digest = nvrtc.digest_of(source)
        found = self._functions.get((digest, entry))
        if found is not None:
            return found
        driver = self._device.driver
        module = self._modules.get(digest)
        if module is None:
            answer = driver.api.cuModuleLoadData(self._cubins[digest])
            module = self._modules[digest] = driver.check("cuModuleLoadData", answer)
        answer = driver.api.cuModuleGetFunction(module, entry.encode())
        found = self._functions[digest, entry] = driver.check("cuModuleGetFunction", answer)
        return found

    def _where(self, ref: BufferRef) -> Where:
        return Where(self.program.argument(ref.space, ref.index), ref.offset)

    def _place_scratch(self) -> tuple[Buffer | None, list[int]]:
        """Scratch memory, and where that of each command begins: kernels have scratch of their own
        unless that takes too much."""
        sizes = [
            _scratch_bytes(self._render(c)) if isinstance(c, Dispatch) else 0
            for c in walk(self.program.commands)
        ]
        ends = list(itertools.accumulate(sizes, initial=0))
        if ends[-1] == 0:
            return None, ends
        if ends[-1] <= SEPARATE_SCRATCH:
            return self._device.allocate(ends[-1]), ends
        return self._device.allocate(max(sizes)), [0] * len(ends)

    def _make_steps(self, commands: Sequence[Command]) -> tuple[Step, ...]:
        """Steps in the order of `walk`, by which scratch is numbered."""
        return tuple(self._step(next(self._numbers), c) for c in commands)

    def _step(self, number: int, command: Command) -> Step:
        word = getattr(command, "predicate", None)
        reads = [*command.reads, *([] if word is None else [word])]
        bodies: tuple[tuple[Step, ...], ...] = ()
        if isinstance(command, (If, Loop)):
            bodies = tuple(self._make_steps(body) for body in command.bodies)
        return Step(
            self._player(number, command),
            None if word is None else self._where(word),
            tuple((self._where(b), b.bytes) for b in reads),
            tuple((self._where(b), b.bytes) for b in command.writes),
            self._shares(command).union(*(s.shares for body in bodies for s in body)),
            command,
            bodies,
        )

    def _shares(self, command: Command) -> frozenset[str]:
        if isinstance(command, LibraryCall):
            shared = self._device.libraries.shares(command)
            return frozenset([shared] if shared else [])
        if isinstance(command, Dispatch) and self._render(command).scratch:
            return frozenset(["scratch"] if self._scratch_at[-1] == 0 else [])
        return frozenset()

    def _player(self, number: int, command: Command) -> Play:
        if isinstance(command, Dispatch):
            kernel = self._render(command)
            start = self._scratch_at[number]
            launches = [self._launcher(command, kernel, x, start) for x in kernel.launches]
            return launches[0] if len(launches) == 1 else _all(launches)
        if isinstance(command, Copy):
            return self._copier(command)
        if isinstance(command, Fill):
            return self._filler(command)
        if isinstance(command, SliceCopy):
            return self._slicer(command)
        if isinstance(command, LibraryCall):
            return self._device.libraries.player(command, [self._where(b) for b in command.buffers])
        if isinstance(command, (If, Loop)):
            return _recorded_only
        raise UnsupportedOp(
            "cuda",
            "no such command on this device",
            received=type(command).__name__,
            advice="Compile for another device",
        )

    def _slicer(self, command: SliceCopy) -> Play:
        places = [self._where(r) for r in (command.target, command.source, command.index)]

        def play(stream: Any, handles: Sequence[int]) -> None:
            target, source, index = (p.address(handles) for p in places)
            copy_slice(self._device, command, target, source, index, stream)

        return play

    def _launcher(self, command: Dispatch, kernel: GpuKernel, launch: Launch, scratch: int) -> Play:
        """Queues one launch. The words of its arguments are written anew for each: the driver takes
        them before it returns, and runs take turns."""
        driver = self._device.driver
        start = driver.api.cuLaunchKernel
        function = self._function(kernel.source, launch.entry)
        wheres: list[Where | None] = []
        words = (ctypes.c_uint64 * len(launch.arguments))()
        starts = _scratch_starts(kernel)
        for i, argument in enumerate(launch.arguments):
            if argument.scratch is None:
                assert argument.slot is not None
                wheres.append(self._where(command.buffers[argument.slot]))
            else:
                assert self._scratch is not None
                words[i] = self._scratch.handle + scratch + starts[argument.scratch]
                wheres.append(None)
        each = ctypes.sizeof(ctypes.c_uint64)
        pointers = (ctypes.c_void_p * len(wheres))(
            *(ctypes.addressof(words) + each * i for i in range(len(wheres)))
        )
        at = ctypes.addressof(pointers)
        moving = [(i, w) for i, w in enumerate(wheres) if w is not None]
        geometry = (*launch.grid, *launch.block)
        room = launch.shared_bytes if launch.shared_bytes > DECLARED_SHARED_BYTES else 0
        if room:
            most = driver.api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            driver.check("shared memory", driver.api.cuFuncSetAttribute(function, most, room))

        def play(stream: Any, handles: Sequence[int], keep: Any = pointers) -> None:
            for i, w in moving:
                words[i] = handles[w.argument] + w.offset
            status = start(function, *geometry, room, stream, at, 0)[0]
            if status.value:
                driver.fail(f"launch of {launch.entry}", status)

        return play

    def _copier(self, command: Copy) -> Play:
        driver = self._device.driver
        source, target = self._where(command.source), self._where(command.target)
        size = command.target.bytes

        def play(stream: Any, handles: Sequence[int]) -> None:
            to, what = target.address(handles), source.address(handles)
            if size:
                answer = driver.api.cuMemcpyDtoDAsync(to, what, size, stream)
                driver.check("cuMemcpyDtoDAsync", answer)

        return play

    def _filler(self, command: Fill) -> Play:
        driver, api = self._device.driver, self._device.driver.api
        target, pattern, size = self._where(command.target), command.pattern, command.target.bytes
        width = len(pattern)
        if len(set(pattern)) == 1:
            pattern, width = pattern[:1], 1
        count = size // width
        words = [int.from_bytes(pattern[i : i + 4], "little") for i in range(0, width, 4)]

        def play(stream: Any, handles: Sequence[int]) -> None:
            to = target.address(handles)
            if count == 0:
                return
            if width == 1:
                driver.check("cuMemsetD8Async", api.cuMemsetD8Async(to, words[0], count, stream))
            elif width == 2:
                driver.check("cuMemsetD16Async", api.cuMemsetD16Async(to, words[0], count, stream))
            elif width == 4:
                driver.check("cuMemsetD32Async", api.cuMemsetD32Async(to, words[0], count, stream))
            else:
                for half, word in enumerate(words):  # a column of words, eight bytes apart
                    at = to + 4 * half
                    answer = api.cuMemsetD2D32Async(at, width, word, 1, count, stream)
                    driver.check("cuMemsetD2D32Async", answer)

        return play

    # --- running
    def play(self, handles: Sequence[int]) -> None:
        """Queue a run on one address for each buffer (Program.buffers); returns when it is queued.

        Runs, uploads and downloads of the device happen in the order of the calls.
        """
        key = tuple(handles)
        if len(key) != self._arguments:
            raise CompilerBug(
                "play", f"the program takes {self._arguments} buffers", received=len(key)
            )
        device = self._device
        with device.lock:
            device.settle()
            graph = self._graphs.get(key)
            if graph is not None:
                self._launch(graph)
            elif self._predicated or (self._worth_a_graph and self._seen.pop(key, 0) is None):
                self._launch(self._recorded(key, None))
            else:
                self._queue(key)

    def play_if(self, handles: Sequence[int], predicate: int, offset: int) -> None:
        """Queue a run that skips everything when the 32-bit word `offset` bytes into a buffer is
        zero by then."""
        word = predicate + offset
        key = (*handles, word)
        with self._device.lock:
            self._device.settle()
            graph = self._graphs.get(key)
            self._launch(self._recorded(key, word) if graph is None else graph)

    def _launch(self, graph: Any) -> None:
        driver = self._device.driver
        status = driver.api.cuGraphLaunch(graph, self._device.stream)[0]
        if status.value:
            driver.fail("cuGraphLaunch", status)

    def _queue(self, key: tuple[int, ...]) -> None:
        """Queue the commands one by one, and remember the buffers."""
        self._seen[key] = None
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        stream = self._device.stream
        for step in self._steps:
            step.play(stream, key)

    def _recorded(self, key: tuple[int, ...], word: int | None) -> Any:
        """A graph for these buffers, kept for the next run; under a condition with a word."""
        recording = Recording(self._device)
        try:
            if word is None:
                self._record(recording, recording.graph, key)
            else:
                handles = key[:-1]
                recording.condition(
                    recording.graph,
                    [],
                    word,
                    lambda body: self._record(recording, body, handles),
                )
            graph = self._graphs[key] = recording.finish()
        finally:
            recording.close()
        while len(self._graphs) > GRAPHS:
            _, old = self._graphs.popitem(last=False)
            driver = self._device.driver
            driver.check("cuGraphExecDestroy", driver.api.cuGraphExecDestroy(old))
        return graph

    def _record(
        self,
        recording: Recording,
        graph: Any,
        handles: Sequence[int],
        steps: Sequence[Step] | None = None,
        ends: Sequence[Any] = (),
    ) -> Nodes:
        """Add commands, those of the whole run unless others are given, after the nodes `ends`;
        those that have nothing to do with each other may run at once. Returns the last nodes."""
        steps = self._steps if steps is None else steps
        last = list(ends)
        for start in range(0, len(steps), BATCH):
            batch = steps[start : start + BATCH]
            nodes: list[list[Any]] = []
            leaves = set(range(len(batch)))
            for step, before in zip(batch, dependencies(batch, handles), strict=True):
                leaves -= set(before)
                after = [n for b in before for n in nodes[b]] or last
                nodes.append(self._add(recording, graph, after, step, handles))
            last = [n for leaf in sorted(leaves) for n in nodes[leaf]]
        return last

    def _add(
        self, recording: Recording, graph: Any, after: list[Any], step: Step, handles: Sequence[int]
    ) -> list[Any]:
        def queue(stream: Any) -> None:
            step.play(stream, handles)

        if isinstance(step.command, If):
            return self._add_branch(recording, graph, after, step, handles)
        if isinstance(step.command, Loop):
            return self._add_loop(recording, graph, after, step, step.command, handles)
        if step.predicate is None:
            return recording.commands(graph, after, queue)
        word = step.predicate.address(handles)
        return recording.condition(
            graph, after, word, lambda inner: recording.commands(inner, [], queue)
        )

    def _add_branch(
        self, recording: Recording, graph: Any, after: list[Any], step: Step, handles: Sequence[int]
    ) -> list[Any]:
        assert isinstance(step.command, If)
        word = self._where(step.command.condition).address(handles)
        for body, unless in zip(step.bodies, (False, True), strict=True):
            if body:
                after = recording.condition(
                    graph,
                    after,
                    word,
                    lambda inner, body=body: self._record(recording, inner, handles, body),  # type: ignore[misc]
                    unless=unless,
                )
        return after

    def _add_loop(
        self,
        recording: Recording,
        graph: Any,
        after: list[Any],
        step: Step,
        loop: Loop,
        handles: Sequence[int],
    ) -> list[Any]:
        def address(ref: BufferRef | None) -> int:
            return 0 if ref is None else self._where(ref).address(handles)

        words = Words(*map(address, (loop.counter, loop.count, loop.condition, loop.iterations)))
        test, body = step.bodies
        return add_loop(
            recording,
            graph,
            after,
            loop,
            words,
            lambda inner, ends: self._record(recording, inner, handles, test, ends),
            lambda inner, ends: self._record(recording, inner, handles, body, ends),
        )

    def command_seconds(self, handles: Sequence[int]) -> list[float]:
        """Device time of each command, measured alone on these buffers."""
        return [self._seconds(step, handles) for step in self._steps]

    def _seconds(self, step: Step, handles: Sequence[int]) -> float:
        if step.bodies:
            return seconds_of_recorded(
                self._device, lambda r: self._add(r, r.graph, [], step, handles)
            )
        return seconds_of(self._device, lambda stream: step.play(stream, handles))

    def __del__(self) -> None:
        graphs = getattr(self, "_graphs", {})
        modules = getattr(self, "_modules", {})
        if not graphs and not modules:
            return
        driver = self._device.driver
        try:
            driver.activate()
            driver.api.cuStreamSynchronize(self._device.stream)  # runs may be on their way
            for graph in graphs.values():
                driver.api.cuGraphExecDestroy(graph)
            for module in modules.values():
                driver.api.cuModuleUnload(module)
        except (DeviceError, TypeError, AttributeError):
            return  # the device or the interpreter is gone, and this memory with it

    # --- what it is
    def image(self) -> bytes:
        """The cubins."""
        return nvrtc.pack(self._device.arch, list(self._cubins.items()))

    def source(self) -> str:
        """The generated CUDA C++."""
        return "\n".join(
            "".join(f"// {line}\n" for line in (k.name, *k.notes)) + k.source
            for k in self._rendered.values()
        )


def dependencies(steps: Sequence[Step], handles: Sequence[int]) -> list[list[int]]:
    """For each step, the earlier ones that must be done before it; what follows from others is left
    out. Addresses decide, so buffers that are one piece of memory are seen as such."""

    def spans(places: Sequence[tuple[Where, int]]) -> list[tuple[int, int]]:
        found = []
        for where, size in places:
            start = where.address(handles)
            found.append((start, start + size))
        return found

    reads = [spans(s.reads) for s in steps]
    writes = [spans(s.writes) for s in steps]
    result: list[list[int]] = []
    ancestors: list[int] = []  # as bits
    for n, step in enumerate(steps):
        before: list[int] = []
        known = 0
        for b in reversed(range(n)):
            if known >> b & 1:
                continue
            if (
                step.shares & steps[b].shares
                or _overlap(reads[n], writes[b])
                or _overlap(writes[n], reads[b])
                or _overlap(writes[n], writes[b])
            ):
                before.append(b)
                known |= ancestors[b] | 1 << b
        result.append(before)
        ancestors.append(known)
    return result


def _recorded_only(stream: Any, handles: Sequence[int]) -> None:
    raise CompilerBug("cuda program", "a branch or a loop is recorded, never queued by itself")


def _overlap(a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]]) -> bool:
    return any(s < f and t < e for s, e in a for t, f in b)


def _scratch_starts(kernel: GpuKernel) -> list[int]:
    starts, position = [], 0
    for size in kernel.scratch:
        starts.append(position)
        position += -(-size // _SCRATCH_STEP) * _SCRATCH_STEP
    return starts


def _scratch_bytes(kernel: GpuKernel) -> int:
    return sum(-(-size // _SCRATCH_STEP) * _SCRATCH_STEP for size in kernel.scratch)


def _all(plays: Sequence[Play]) -> Play:
    def play(stream: Any, handles: Sequence[int]) -> None:
        for one in plays:
            one(stream, handles)

    return play
