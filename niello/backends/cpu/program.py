"""A whole program as one LLVM module: the command list becomes a function that threads play.

`niello_run` walks the command list with a barrier wherever a command needs what an unfinished one
writes; equal kernels are written once. `niello_info` says what a run needs (see device.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import Function, Module, Value, constant
from niello.backends.cpu.render import KernelCode, Scratch, render_kernel
from niello.backends.cpu.threads import barrier_text, thread_count
from niello.core.errors import UnsupportedOp
from niello.kernel.ir import Kernel
from niello.runtime.commands import BufferRef, Command, Copy, Dispatch, Fill, Program
from niello.runtime.target import CompileOptions

_RUN = (
    ("ptr", "arguments"),
    ("ptr", "scratch"),
    ("i64", "thread"),
    ("i64", "threads"),
    ("ptr", "barrier"),
)
_PIECE = 64 << 10  # bytes of a copy or fill that are worth another thread


def render_program(program: Program, target: CpuTarget, options: CompileOptions) -> str:
    """LLVM IR text that exports `niello_run` and `niello_info`, as device.py describes them.

    Raises UnsupportedOp for a command that this device does not have.
    """
    module = Module(triple=target.triple)
    return _Writer(module, program, target, options.threads or thread_count()).text()


@dataclass
class _Pending:
    """Commands since the last barrier."""

    reads: list[BufferRef]
    writes: list[BufferRef]
    uses_scratch: bool = False
    exclusive: bool = False

    def blocks(self, command: Command, code: KernelCode | None) -> bool:
        """Whether a command must wait for the end of these."""
        reads = list(command.reads)
        predicate = getattr(command, "predicate", None)
        if predicate is not None:
            reads.append(predicate)
        if code is not None and (
            (code.exclusive and self.uses_scratch) or (code.uses_scratch and self.exclusive)
        ):
            return True
        return (
            _touch(reads, self.writes)
            or _touch(command.writes, self.reads)
            or _touch(command.writes, self.writes)
        )

    def add(self, command: Command, code: KernelCode | None) -> None:
        """Remember a command that has been written."""
        self.reads += command.reads
        self.writes += command.writes
        predicate = getattr(command, "predicate", None)
        if predicate is not None:
            self.reads.append(predicate)
        if code is not None:
            self.uses_scratch = self.uses_scratch or code.uses_scratch
            self.exclusive = self.exclusive or code.exclusive


class _Writer:
    def __init__(self, module: Module, program: Program, target: CpuTarget, expected: int) -> None:
        self.module = module
        self.program = program
        self.target = target
        self.expected = expected
        self.kernels: dict[object, KernelCode] = {}
        self.scratch = Scratch()
        self.threads = 1

    def text(self) -> str:
        """The whole module."""
        codes = [
            self._kernel(self.program.kernels[c.kernel]) if isinstance(c, Dispatch) else None
            for c in self.program.commands
        ]
        run = self.module.function("niello_run", "void", _RUN)
        pending = _Pending([], [])
        several: set[str] = set()
        for command, code in zip(self.program.commands, codes, strict=True):
            again = code is not None and len(code.stages) > 1 and code.stages[0] in several
            if again or pending.blocks(command, code):
                self._barrier(run)
                pending = _Pending([], [])
                several = set()
            self._command(run, command, code)
            pending.add(command, code)
            if code is not None and len(code.stages) > 1:
                several.add(code.stages[0])
        run.ret()
        text = self.module.text() + self._info() + self.scratch.globals_text()
        return text + _SYNCHRONISE + barrier_text(self.target.triple)

    def _info(self) -> str:
        arguments = sum(1 for _ in self.program.buffers())
        scratch = self.scratch
        values = (scratch.shared_bytes, scratch.thread_bytes, self.threads, arguments)
        body = ", ".join(f"i64 {v}" for v in values)
        return f"@niello_info = constant [4 x i64] [{body}]\n"

    def _kernel(self, kernel: Kernel) -> KernelCode:
        key = (kernel.params, kernel.stores)
        known = self.kernels.get(key)
        if known is None:
            name = f"kernel{len(self.kernels)}"
            known = render_kernel(
                self.module, kernel, self.target, name, self.scratch, self.expected
            )
            self.kernels[key] = known
            self.threads = max(self.threads, known.threads)
        return known

    def _barrier(self, run: Function) -> None:
        arguments = [run.argument(n) for n in ("barrier", "thread", "threads")]
        run.call("niello_synchronise", "void", arguments, declare=False)

    def _command(self, run: Function, command: Command, code: KernelCode | None) -> None:
        with self._predicated(run, getattr(command, "predicate", None)):
            if code is not None and isinstance(command, Dispatch):
                self._dispatch(run, command, code)
            elif isinstance(command, Copy):
                self._copy(run, command)
            elif isinstance(command, Fill):
                self._fill(run, command)
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

    def _copy(self, run: Function, command: Copy) -> None:
        start, count = self._share(run, command.target.bytes)
        target = run.gep("i8", self._address(run, command.target), start)
        source = run.gep("i8", self._address(run, command.source), start)
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
