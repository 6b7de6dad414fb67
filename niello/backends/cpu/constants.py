"""Constants that kernels want packed: where the copies lie, and the function that fills them.

`niello_pack` has the parameters of `niello_run` and is played once, before the first run. The
packed copies are one buffer, whose address follows those of the program's buffers among the
arguments. Dispatches of one kernel on the same constants share a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from niello.backends.cpu.llvm_text import Function, Module, Value
from niello.backends.cpu.render import KernelCode
from niello.runtime.commands import (
    BufferRef,
    Command,
    Dispatch,
    If,
    Loop,
    Program,
    Space,
    walk,
)

_ALIGN = 64
Address = Callable[[Function, BufferRef], Value]


def constant_slots(command: Dispatch) -> frozenset[int]:
    """Parameters of the kernel that a dispatch binds to constants."""
    return frozenset(i for i, b in enumerate(command.buffers) if b.space is Space.CONSTANT)


class PackedConstants:
    """The packed copies of a program. `size` is their bytes."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.size = 0
        self._copies: dict[tuple[object, ...], tuple[int, Dispatch, KernelCode]] = {}

    def add(self, command: Dispatch, code: KernelCode) -> None:
        """Give a dispatch its packed copy, where its kernel wants one."""
        key = _key(command, code)
        if code.pack and key not in self._copies:
            self._copies[key] = (self.size, command, code)
            self.size += -(-code.ready_bytes // _ALIGN) * _ALIGN

    def address(self, f: Function, command: Dispatch, code: KernelCode) -> list[Value]:
        """What a dispatch passes behind its buffers: the address of its packed copy, if any."""
        if not code.pack:
            return []
        return [self._place(f, self._copies[_key(command, code)][0])]

    def _place(self, f: Function, offset: int) -> Value:
        position = self.program.argument(Space.ARENA, 0) + 1
        slot = f.gep("ptr", f.argument("arguments"), position)
        return f.gep("i8", f.load("ptr", slot, align=8, invariant=True), offset)

    def write(
        self, module: Module, parameters: Sequence[tuple[str, str]], address: Address
    ) -> None:
        """Write `niello_pack`."""
        f = module.function("niello_pack", "void", parameters)
        rest = [f.argument("thread"), f.argument("threads")]
        for offset, command, code in self._copies.values():
            addresses = [address(f, b) for b in command.buffers]
            addresses.append(self._place(f, offset))
            f.call(code.pack, "void", [*addresses, *rest], declare=False)
        f.ret()

    def absorbed_text(self, codes: Mapping[Command, KernelCode | None]) -> str:
        """A byte for each constant, not zero where runs read its packed copies only."""
        read: set[int] = set()
        packed: set[int] = set()
        for command in walk(self.program.commands):
            read |= _constants_read(command, codes.get(command))
            packed |= {b.index for b in command.reads if b.space is Space.CONSTANT}
        count = max(1, len(self.program.constants))
        flags = (f"i8 {int(n in packed and n not in read)}" for n in range(count))
        return f"@niello_absorbed = constant [{count} x i8] [{', '.join(flags)}]\n"


def _key(command: Dispatch, code: KernelCode) -> tuple[object, ...]:
    constants = tuple(b for b in command.buffers if b.space is Space.CONSTANT)
    return (code.pack, constants)


def _constants_read(command: Command, code: KernelCode | None) -> set[int]:
    """Constants that a command reads as they are; those nested in it do so for themselves."""
    buffers = list(command.words if isinstance(command, (If, Loop)) else command.reads)
    predicate = getattr(command, "predicate", None)
    if predicate is not None:
        buffers.append(predicate)
    if code is not None and isinstance(command, Dispatch):
        absorbed = code.absorbed
        buffers = [b for n, b in enumerate(command.buffers) if n not in absorbed]
    return {b.index for b in buffers if b.space is Space.CONSTANT}
