"""Accesses of a routine that take neighbouring elements of a buffer at once.

Neighbours are found in two places: statements that follow each other and read (or write) elements
2i, 2i + 1 or 4i ... 4i + 3 of one buffer, and iterations that follow each other and that one
thread takes together, its lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from niello.codegen.gpu.blocks import Scope, Val
from niello.codegen.gpu.casts import cast_text
from niello.codegen.gpu.registers import Reg, register_of
from niello.core.dtypes import int64
from niello.kernel.bounds import affine, is_multiple
from niello.kernel.ir import Expr, Param, const, free_ranges, substitute
from niello.kernel.routine import (
    Body,
    Cell,
    For,
    Get,
    Place,
    Read,
    Statement,
    Var,
    While,
    Write,
    statements,
    value_dtype,
)

if TYPE_CHECKING:
    from niello.codegen.gpu.routine import RoutineWriter

_RUNS = (8, 4, 2)
_BYTES = 16  # of one access
_LONGEST = 24  # statements that are worth writing once for each lane


# --- neighbouring statements
def run_length(writer: RoutineWriter, body: Body, at: int) -> int:
    """How many statements from `at` on are one access."""
    first = body[at]
    if not isinstance(first, (Read, Write)):
        return 1
    for length in _RUNS:
        together = body[at : at + length]
        plain = len(together) == length and _plain(writer, first.place, length)
        if plain and first.place.dtype.itemsize * length <= _BYTES and _together(first, together):
            return length
    return 1


def _plain(writer: RoutineWriter, place: Place, count: int) -> bool:
    """Whether so many elements of a place may be accessed together."""
    words = writer.dialect.word_bytes
    return (
        isinstance(place, Param)
        and place not in writer.memory.atomic
        and place.dtype.itemsize * count % words == 0
    )


def _together(first: Read | Write, others: Sequence[Statement]) -> bool:
    if not is_multiple(first.index, len(others)):
        return False
    start = affine(first.index)
    for n, other in enumerate(others):
        if type(other) is not type(first) or other.place is not first.place:  # type: ignore[attr-defined]
            return False
        form = affine(other.index)  # type: ignore[attr-defined]
        same = form.coefficients == start.coefficients and form.rest == start.rest
        if not same or form.constant - start.constant != n:
            return False
    return True


def write_run(writer: RoutineWriter, together: Body, scope: Scope) -> None:
    """The statements of a run, as one access."""
    first = together[0]
    if isinstance(first, Read):
        found = loaded(writer, first.place, first.index, len(together), scope)
        for s, value in zip(together, found, strict=True):
            writer.define(s.var, value, scope)  # type: ignore[attr-defined]
        return
    assert isinstance(first, Write)
    texts = [writer.access.held_text(s.place, s.value, scope) for s in together]  # type: ignore[attr-defined]
    store(writer, first.place, first.index, texts, scope)


# --- accesses
def loaded(writer: RoutineWriter, place: Place, index: Expr, width: int, scope: Scope) -> list[Val]:
    """The values of `width` neighbours from an index on."""
    em, dialect = writer.em, writer.dialect
    assert isinstance(place, Param)
    em.used.setdefault(place, False)
    at = dialect.subscript(em.value(index, scope))
    lines, texts = dialect.load_lanes(place, at, width, em.name("w"), None)
    for line in lines:
        scope.block.add(line)
    held = register_of(place.dtype)
    if not place.dtype.is_half:
        return [Val(t, held) for t in texts]
    dtype = value_dtype(place)
    reg = register_of(dtype)
    return [Val(cast_text(dialect, t, held, place.dtype, dtype, reg), Reg.F32) for t in texts]


def store(
    writer: RoutineWriter, place: Place, index: Expr, texts: Sequence[str], scope: Scope
) -> None:
    """Write neighbours from an index on."""
    em, dialect = writer.em, writer.dialect
    assert isinstance(place, Param)
    em.used[place] = True
    at = dialect.subscript(em.value(index, scope))
    for line in dialect.store_lanes(place, at, texts, em.name("w")):
        scope.block.add(line)


# --- lanes
def suits_lanes(body: Body) -> bool:
    """Whether statements may be written once for each lane: few, without arrays and loops."""
    inside = list(statements(body))
    loops = any(isinstance(s, (For, While)) for s in inside)
    own = any(getattr(getattr(s, "place", None), "space", "") == "member" for s in inside)
    return not loops and not own and len(inside) <= _LONGEST


class LaneWriter:
    """Writes statements for the lanes of a thread: each statement for all of them, then the next.

    `axis` is the variable of the iterations and `numbers` are those of the lanes, the first a
    multiple of how many there are. `whole` says that all of them exist where one does.
    """

    def __init__(
        self, writer: RoutineWriter, axis: Var, numbers: Sequence[Val], whole: bool
    ) -> None:
        self.writer, self.axis, self.whole = writer, axis, whole
        self.numbers = list(numbers)
        self.cells: list[dict[Cell, str]] = [dict(writer.cells) for _ in numbers]

    def scopes(self, lanes: Sequence[int], base: Scope) -> list[Scope]:
        """A scope for each of some lanes, in the block of `base`."""
        return [base.beside({self.axis: self.numbers[n]}) for n in lanes]

    def body(self, body: Body, lanes: Sequence[int], scopes: Sequence[Scope]) -> None:
        """Statements of some lanes, which have a scope each."""
        if len(self.numbers) == 1:
            self.writer.body(body, scopes[0])
            return
        outer = self.writer.cells
        for n, s in enumerate(body):
            if isinstance(s, Read) and self._together(body, n, lanes):
                self._read(s, scopes)
            elif isinstance(s, Write) and self._together(body, n, lanes):
                self._write(s, scopes)
            else:
                for lane, scope in zip(lanes, scopes, strict=True):
                    self.writer.cells = self.cells[lane]
                    self.writer.statement(s, scope)
                self.writer.cells = outer

    def _together(self, body: Body, n: int, lanes: Sequence[int]) -> bool:
        """Whether a read or write is one access for all lanes: of elements that count upwards or
        downwards with the iterations."""
        s, width = body[n], len(self.numbers)
        assert isinstance(s, (Read, Write))
        made = {x.var for x in body[:n] if isinstance(x, (Read, Get))}
        free = free_ranges(s.index)
        if not self.whole or len(lanes) != width or not _plain(self.writer, s.place, width):
            return False
        stride = affine(s.index).stride(self.axis)
        if made & free or stride not in (1, -1):
            return False
        low = substitute(s.index, {self.axis: const(0, int64)}) - (width - 1 if stride < 0 else 0)
        return is_multiple(low, width)

    def _read(self, s: Read, scopes: Sequence[Scope]) -> None:
        turned = affine(s.index).stride(self.axis) == -1
        first = scopes[-1] if turned else scopes[0]
        found = loaded(self.writer, s.place, s.index, len(scopes), first)
        for scope, value in zip(scopes, reversed(found) if turned else found, strict=True):
            self.writer.define(s.var, value, scope)

    def _write(self, s: Write, scopes: Sequence[Scope]) -> None:
        turned = affine(s.index).stride(self.axis) == -1
        texts = [self.writer.access.held_text(s.place, s.value, scope) for scope in scopes]
        first = scopes[-1] if turned else scopes[0]
        store(self.writer, s.place, s.index, texts[::-1] if turned else texts, first)
