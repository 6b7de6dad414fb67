"""Where the places of a routine lie on a GPU: buffers, memory shared by a block, own arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

from niello.codegen.gpu.blocks import Scope, Val
from niello.codegen.gpu.casts import cast_text
from niello.codegen.gpu.expressions import Emitter
from niello.codegen.gpu.registers import Reg, register_of
from niello.codegen.gpu.stages import SCRATCH_SLOT
from niello.codegen.gpu.target import GpuTarget
from niello.core.dtypes import int64
from niello.core.errors import LimitExceeded
from niello.kernel.ir import Expr, Param, const
from niello.kernel.routine import (
    Combine,
    Fold,
    Local,
    Place,
    Routine,
    Scan,
    Var,
    statements,
    value_dtype,
    var,
)


def exchange_arrays(made: Routine) -> dict[str, Reg]:
    """The shared arrays, of one element for each thread, through which folds and scans work."""
    found: dict[str, Reg] = {}
    for s in statements(made.body):
        if isinstance(s, (Fold, Scan)):
            for n, e in enumerate(s.given):
                reg = register_of(e.dtype)
                found[exchange_name(n, reg)] = reg
    return found


def exchange_name(number: int, reg: Reg) -> str:
    """The shared array for a component of a tuple."""
    return f"x{number}_{reg.value}"


@dataclass
class Memory:
    """The places of a routine. `shared` fills as they are used; `scratch` are the buffers, in
    bytes, of locals that do not fit the memory of a block. There is one of these for each of
    `blocks`, which then take more than one team, one after the other."""

    made: Routine
    target: GpuTarget
    members: int
    taken: int = 0  # scratch buffers that belong to others
    stage: int = 0  # the number of the entry point: languages name shared arrays in one space
    shared: dict[str, tuple[Reg, int]] = field(default_factory=dict)
    scratch: list[int] = field(default_factory=list)
    spilled: dict[Local, Param] = field(default_factory=dict)
    atomic: set[Place] = field(default_factory=set)

    @property
    def blocks(self) -> int:
        """Blocks of threads that are launched."""
        resident = max(1, self.target.fill // self.members)
        return min(self.made.teams, resident) if self.spilled else self.made.teams

    @property
    def block(self) -> Var:
        """The number of the block that runs."""
        return var("block", int64, 0, max(0, self.blocks - 1))

    def __post_init__(self) -> None:
        arrays = exchange_arrays(self.made)
        left = self.target.shared_bytes - 64
        left -= sum(r.bytes for r in arrays.values()) * self.members
        teams = [t for t in self.made.locals if t.space == "team"]
        large: list[Local] = []
        for t in sorted(teams, key=lambda t: t.elements * register_of(t.dtype).bytes):
            size = t.elements * register_of(t.dtype).bytes
            if size <= left:
                left -= size
            else:
                large.append(t)
        resident = max(1, self.target.fill // self.members)
        for t in large:
            elements = t.elements * min(self.made.teams, resident)
            slot = SCRATCH_SLOT + self.taken + len(self.scratch)
            self.spilled[t] = Param(slot, t.dtype, elements, True)
            self.scratch.append(-(-elements * t.dtype.itemsize // 256) * 256)
        self.atomic = {s.place for s in statements(self.made.body) if isinstance(s, Combine)}
        for place in self.atomic:
            buffer = self.buffer(place)
            if buffer is not None and len(self.target.pieces(buffer.elements * 4)) > 1:
                raise LimitExceeded(
                    f"routine {self.made.name}",
                    "a buffer that threads combine into must be one binding of this device",
                    received=f"{buffer.elements * 4} bytes",
                    advice="Split the tensor",
                )

    def buffer(self, place: Place) -> Param | None:
        """The buffer that a place is, or is a part of."""
        return place if isinstance(place, Param) else self.spilled.get(place)

    def index(self, place: Place, index: Expr) -> Expr:
        """The element of the buffer."""
        if isinstance(place, Local) and place in self.spilled:
            return self.block * const(place.elements, int64) + index
        return index

    def name(self, place: Local) -> str:
        """The name of a local's array."""
        if place.space != "team":
            return place.name
        return self.share(place.name, register_of(place.dtype), place.elements)

    def share(self, name: str, reg: Reg, elements: int) -> str:
        """The name of an array that the members share, by its name in the routine."""
        full = f"{name}_{self.stage}" if self.stage else name
        self.shared[full] = (reg, elements)
        return full


class Access:
    """Reads and writes elements."""

    def __init__(self, em: Emitter, memory: Memory) -> None:
        self.em, self.memory = em, memory

    def read(self, place: Place, index: Expr, scope: Scope) -> Val:
        """The text of an element, in the register of its values."""
        em, dialect = self.em, self.em.dialect
        at = em.value(self.memory.index(place, index), scope)
        held = register_of(place.dtype)
        buffer = self.memory.buffer(place)
        if buffer is not None:
            em.used[buffer] = em.used.get(buffer, False) or self._atomic(place)
            text = dialect.load(buffer, dialect.subscript(at))
            if self._atomic(place):
                text = dialect.atomic_load(text)
        else:
            assert isinstance(place, Local)
            text = f"{self.memory.name(place)}[{dialect.subscript(at)}]"
            if self._atomic(place):
                text = dialect.atomic_load(text)
        if place.dtype.is_half:
            dtype = value_dtype(place)
            return Val(
                cast_text(dialect, text, held, place.dtype, dtype, register_of(dtype)), Reg.F32
            )
        return Val(text, held)

    def _atomic(self, place: Place) -> bool:
        return place in self.memory.atomic

    def held_text(self, place: Place, value: Expr, scope: Scope) -> str:
        """A value as an element of a place is held."""
        em, held = self.em, register_of(place.dtype)
        found = em.value(value, scope)
        if place.dtype.is_half:
            return cast_text(em.dialect, found.text, found.reg, value.dtype, place.dtype, held)
        return em.converted(found, held).text

    def write_lines(self, place: Place, index: Expr, value: Expr, scope: Scope) -> list[str]:
        """Lines that set an element."""
        em, dialect = self.em, self.em.dialect
        at = em.value(self.memory.index(place, index), scope)
        text = self.held_text(place, value, scope)
        buffer = self.memory.buffer(place)
        if buffer is not None:
            em.used[buffer] = True
            if self._atomic(place):
                element = dialect.load(buffer, dialect.subscript(at))
                return [dialect.atomic_store(element, text)]
            return dialect.store_lines(buffer, dialect.subscript(at), text)
        assert isinstance(place, Local)
        element = f"{self.memory.name(place)}[{dialect.subscript(at)}]"
        if self._atomic(place):
            return [dialect.atomic_store(element, text)]
        return [f"{element} = {text};"]

    def combine_line(self, s: Combine, scope: Scope) -> str:
        """A line that combines into an element."""
        em, dialect = self.em, self.em.dialect
        at = em.value(self.memory.index(s.place, s.index), scope)
        value = em.converted(em.value(s.value, scope), register_of(s.place.dtype))
        buffer = self.memory.buffer(s.place)
        if buffer is not None:
            em.used[buffer] = True
            element = dialect.load(buffer, dialect.subscript(at))
        else:
            assert isinstance(s.place, Local)
            element = f"{self.memory.name(s.place)}[{dialect.subscript(at)}]"
        return dialect.atomic_line(s.op, element, value.text)
