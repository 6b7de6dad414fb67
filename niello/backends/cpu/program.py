"""A whole program as one LLVM module: the command list becomes a function that threads play.

`niello_run` walks the command list with a barrier wherever a command needs what an unfinished one
writes; equal kernels are written once. `niello_info` says what a run needs (see device.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from niello.backends.cpu.constants import PackedConstants, constant_slots
from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import Function, Module, Value, constant
from niello.backends.cpu.render import KernelCode, Scratch, render_kernel
from niello.backends.cpu.slices import read_in_place
from niello.backends.cpu.threads import barrier_text, thread_count
from niello.core.errors import UnsupportedOp
from niello.kernel.ir import Kernel
from niello.kernel.routine import Routine
from niello.runtime.commands import (
    BufferRef,
    Command,
    Copy,
    Dispatch,
    Fill,
    If,
    Loop,
    Program,
    SliceCopy,
    walk,
)
from niello.runtime.target import CompileOptions

_RUN = (
    ("ptr", "arguments"),
    ("ptr", "scratch"),
    ("i64", "thread"),
    ("i64", "threads"),
    ("ptr", "barrier"),
)
_ENDLESS = (1 << 63) - 1
_PIECE = 64 << 10  # bytes of a copy or fill that are worth another thread


def render_program(program: Program, target: CpuTarget, options: CompileOptions) -> str:
    """LLVM IR text that exports `niello_run` and `niello_info`, as device.py describes them.

    Raises UnsupportedOp for a command that this device does not have.
    """
    module = Module(triple=target.triple)
    return _Writer(module, program, target, options.threads or thread_count()).text()


@dataclass
class _Use:
    """What a command, with those nested in it, does besides reading and writing buffers."""

    uses_scratch: bool = False
    exclusive: bool = False
    several: frozenset[str] = frozenset()  # kernels of more than one stage

    def __or__(self, other: _Use) -> _Use:
        return _Use(
            self.uses_scratch or other.uses_scratch,
            self.exclusive or other.exclusive,
            self.several | other.several,
        )


class _Pending:
    """Commands since the last barrier."""

    def __init__(self) -> None:
        self.reads: list[BufferRef] = []
        self.writes: list[BufferRef] = []
        self.use = _Use()
        self.any = False

    def blocks(self, command: Command, use: _Use) -> bool:
        """Whether a command must wait for the end of these."""
        ours = self.use
        return (
            (use.exclusive and ours.uses_scratch)
            or (use.uses_scratch and ours.exclusive)
            or bool(use.several & ours.several)
            or _touch(_read(command), self.writes)
            or _touch(command.writes, self.reads)
            or _touch(command.writes, self.writes)
        )

    def add(self, command: Command, use: _Use) -> None:
        """Remember a command that has been written."""
        self.any = True
        self.reads += _read(command)
        self.writes += command.writes
        self.use = self.use | use


def _read(command: Command) -> list[BufferRef]:
    predicate = getattr(command, "predicate", None)
    return [*command.reads, *([] if predicate is None else [predicate])]


class _Writer:
    def __init__(self, module: Module, program: Program, target: CpuTarget, expected: int) -> None:
        self.module = module
        self.program = program
        self.target = target
        self.expected = expected
        self.kernels: dict[object, KernelCode] = {}
        self.scratch = Scratch()
        self.threads = 1
        self.codes: dict[Command, KernelCode] = {}
        self.loops = 0
        self.alone = False  # what is written now is played by one thread
        self.packed = PackedConstants(program)
        self.in_place: dict[BufferRef, SliceCopy] = {}  # slices that are not copied

    def text(self) -> str:
        """The whole module."""
        for command in walk(self.program.commands):
            if isinstance(command, Dispatch):
                code = self._kernel(self.program.kernels[command.kernel], constant_slots(command))
                self.codes[command] = code
                self.packed.add(command, code)
        run = self.module.function("niello_run", "void", _RUN)
        self._list(run, self.program.commands)
        run.ret()
        self.packed.write(self.module, _RUN, self._address)
        text = self.module.text() + self._info() + self.scratch.globals_text()
        text += self.packed.absorbed_text(self.codes)
        return text + _SYNCHRONISE + barrier_text(self.target.triple)

    def _list(self, run: Function, commands: Sequence[Command]) -> bool:
        """Commands in order, with barriers between them; whether some follow the last barrier."""
        pending = _Pending()
        for command in commands:
            if command in self.in_place.values():
                continue
            use = self._use(command)
            if pending.blocks(command, use):
                self._barrier(run)
                pending = _Pending()
            self._command(run, command)
            pending.add(command, use)
        return pending.any

    def _use(self, command: Command) -> _Use:
        found = _Use()
        for inside in walk((command,)):
            code = self.codes.get(inside)
            if code is not None:
                several = frozenset(code.stages[:1] if len(code.stages) > 1 else ())
                found = found | _Use(code.uses_scratch, code.exclusive, several)
        return found

    def _info(self) -> str:
        arguments = sum(1 for _ in self.program.buffers())
        scratch = self.scratch
        sizes = (scratch.shared_bytes, scratch.thread_bytes)
        values = (*sizes, self.threads, arguments, self.packed.size)
        body = ", ".join(f"i64 {v}" for v in values)
        return f"@niello_info = constant [{len(values)} x i64] [{body}]\n"

    def _kernel(self, kernel: Kernel | Routine, constants: frozenset[int]) -> KernelCode:
        key = (kernel.structure, constants)
        known = self.kernels.get(key)
        if known is None:
            name = f"kernel{len(self.kernels)}"
            known = render_kernel(
                self.module, kernel, self.target, name, self.scratch, self.expected, constants
            )
            self.kernels[key] = known
            self.threads = max(self.threads, known.threads)
        return known

    def _barrier(self, run: Function) -> None:
        if self.alone:
            return
        arguments = [run.argument(n) for n in ("barrier", "thread", "threads")]
        run.call("niello_synchronise", "void", arguments, declare=False)

    def _command(self, run: Function, command: Command) -> None:
        with self._predicated(run, getattr(command, "predicate", None)):
            if isinstance(command, Dispatch):
                self._dispatch(run, command, self.codes[command])
            elif isinstance(command, Copy):
                self._copy(run, command)
            elif isinstance(command, Fill):
                self._fill(run, command)
            elif isinstance(command, SliceCopy):
                self._copy_slice(run, command)
            elif isinstance(command, If):
                self._branch(run, command)
            elif isinstance(command, Loop):
                self._loop(run, command)
            else:
                raise UnsupportedOp(
                    "cpu",
                    "no such command on this device",
                    received=type(command).__name__,
                    advice="Compile for another device",
                )

    @contextmanager
    def _predicated(self, run: Function, predicate: BufferRef | None) -> Iterator[None]:
        if predicate is None:
            yield
            return
        word = run.load("i32", self._address(run, predicate), align=4)
        with run.if_then(run.icmp("ne", word, 0)):
            yield

    def _dispatch(self, run: Function, command: Dispatch, code: KernelCode) -> None:
        addresses = [self._address(run, b) for b in command.buffers]
        addresses += self.packed.address(run, command, code)
        rest = [run.argument(n) for n in ("scratch", "thread", "threads")]
        for n, stage in enumerate(code.stages):
            if n:
                self._barrier(run)
            run.call(stage, "void", [*addresses, *rest], declare=False)

    def _share(self, run: Function, bytes: int) -> tuple[Value, Value]:
        """First byte and number of bytes of this thread's share of a buffer."""
        self.threads = max(self.threads, -(-bytes // _PIECE))
        pieces = -(-bytes // _PIECE)
        threads = run.argument("threads")
        each = run.udiv(run.add(run.sub(threads, 1), pieces), threads)
        size = run.mul(each, _PIECE)
        start = run.smin(run.mul(run.argument("thread"), size), bytes)
        return start, run.sub(run.smin(run.add(start, size), bytes), start)

    def _branch(self, run: Function, command: If) -> None:
        word = run.load("i32", self._address(run, command.condition), align=4)
        with run.if_else(run.icmp("ne", word, 0)) as branches:
            with branches.then():
                self._list(run, command.then)
            with branches.otherwise():
                self._list(run, command.otherwise)

    def _loop(self, run: Function, command: Loop) -> None:
        """A loop in which only one thread finds work is played by one, without barriers."""
        if self.alone or not all(map(self._is_small, walk((command,)))):
            self._repeat(run, command)
            return
        self.loops += 1
        name = f"niello_loop{self.loops}"
        alone = self.module.function(name, "void", _RUN, internal=True, inline=False)
        self.alone = True
        self._repeat(alone, command)
        alone.ret()
        self.alone = False
        with run.if_then(run.icmp("eq", run.argument("thread"), 0)):
            given = [run.argument("arguments"), run.argument("scratch")]
            numbers = [constant(0, "i64"), constant(1, "i64")]
            run.call(name, "void", [*given, *numbers, run.argument("barrier")], declare=False)

    def _is_small(self, command: Command) -> bool:
        """Whether a second thread would find nothing to do."""
        if isinstance(command, Dispatch):
            return self.codes[command].threads <= 1
        if isinstance(command, (If, Loop)):
            return True
        size = command.bytes if isinstance(command, SliceCopy) else command.writes[0].bytes
        return size <= _PIECE

    def _repeat(self, run: Function, command: Loop) -> None:
        """All threads count alike. Each writes the counter: the same number, before it reads it."""
        total = constant(_ENDLESS if command.trips is None else command.trips, "i64")
        if command.count is not None:
            count = run.load("i32", self._address(run, command.count), align=4)
            total = run.smin(run.smax(run.cast("sext", count, "i64"), 0), total)
        with run.counting() as loop:
            loop.leave_unless(run.icmp("slt", loop.index, total))
            if command.condition is not None:
                if self._list(run, command.test):
                    self._barrier(run)
                word = run.load("i32", self._address(run, command.condition), align=4)
                loop.leave_unless(run.icmp("ne", word, 0))
            number = loop.index
            if command.reverse:
                number = run.sub(run.sub(total, 1), number)
            number = run.cast("trunc", number, "i32")
            run.store(number, self._address(run, command.counter), align=4)
            outer, self.in_place = self.in_place, read_in_place(self.program, command)
            self.in_place = {**outer, **self.in_place}
            self._list(run, command.body)
            self.in_place = outer
            # The next time writes what this one reads: words, carried values, the counter.
            self._barrier(run)
        if command.iterations is not None:
            done = run.cast("trunc", loop.index, "i32")
            run.store(done, self._address(run, command.iterations), align=4)

    def _copy(self, run: Function, command: Copy) -> None:
        start, count = self._share(run, command.target.bytes)
        target = run.gep("i8", self._address(run, command.target), start)
        source = run.gep("i8", self._address(run, command.source), start)
        self._move(run, target, source, count)

    def _copy_slice(self, run: Function, command: SliceCopy) -> None:
        start, count = self._share(run, command.bytes)
        word = run.load("i32", self._address(run, command.index), align=4)
        index = run.cast("sext", word, "i64")
        sides = []
        for ref, step in (
            (command.target, command.target_step),
            (command.source, command.source_step),
        ):
            offset = run.add(run.mul(index, step), start) if step else start
            sides.append(run.gep("i8", self._address(run, ref), offset))
        self._move(run, sides[0], sides[1], count)

    def _move(self, run: Function, target: Value, source: Value, count: Value) -> None:
        name = "llvm.memcpy.p0.p0.i64"
        self.module.declare(name, "void", ["ptr", "ptr", "i64", "i1 immarg"])
        run.line(f"call void @{name}({target}, {source}, {count}, i1 false)")

    def _fill(self, run: Function, command: Fill) -> None:
        size = len(command.pattern)
        start, count = self._share(run, command.target.bytes)
        pattern = constant(int.from_bytes(command.pattern, "little"), f"i{8 * size}")
        target = run.gep("i8", self._address(run, command.target), start)
        if len(set(command.pattern)) == 1:
            name = "llvm.memset.p0.i64"
            self.module.declare(name, "void", ["ptr", "i8", "i64", "i1 immarg"])
            byte = constant(command.pattern[0], "i8")
            run.line(f"call void @{name}({target}, {byte}, {count}, i1 false)")
            return
        with run.for_range(0, run.udiv(count, size)) as i:
            run.store(pattern, run.gep(pattern.type, target, i), align=1)

    def _address(self, run: Function, buffer: BufferRef) -> Value:
        slice_ = self.in_place.get(buffer)
        if slice_ is not None:
            number = run.load("i32", self._address(run, slice_.index), align=4)
            offset = run.mul(run.cast("sext", number, "i64"), slice_.source_step)
            return run.gep("i8", self._address(run, slice_.source), offset)
        position = self.program.argument(buffer.space, buffer.index)
        slot = run.gep("ptr", run.argument("arguments"), position)
        return run.gep("i8", run.load("ptr", slot, align=8, invariant=True), buffer.offset)


_SYNCHRONISE = """
define internal void @niello_synchronise(ptr %barrier, i64 %thread, i64 %threads) nounwind {
  %several = icmp sgt i64 %threads, 1
  br i1 %several, label %wait, label %done
wait:
  call void @niello_barrier(ptr %barrier, i64 %thread, i64 %threads)
  br label %done
done:
  ret void
}
"""


def _touch(a: Sequence[BufferRef], b: Sequence[BufferRef]) -> bool:
    return any(x.overlaps(y) for x in a for y in b)
