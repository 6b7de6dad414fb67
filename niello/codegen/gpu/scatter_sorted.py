"""Scatters of many points, as routines: by atomic operations where any order of the updates gives
the same bits, else by sorting.

Sums of floats depend on the order in which they are taken, and so do products. The updates are
sorted by the row of elements that they go to, which keeps those of one row in their order; then
neighbours are put together: by segmented scans where a row is one element, else by threads that
walk a stretch of updates for a column each. Results do not change from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from niello.codegen.gpu.scatter import columns_of
from niello.codegen.gpu.scatter_order import Pairs, routine, sort_pairs, tile_of
from niello.codegen.gpu.stages import SCRATCH_SLOT
from niello.codegen.gpu.target import GpuTarget
from niello.core.dtypes import DType, bool_, float32, int32, int64, uint32
from niello.core.nodes import Node
from niello.kernel.build import unravel
from niello.kernel.ir import (
    Expr,
    Kernel,
    Param,
    Range,
    Store,
    bitcast,
    cast,
    const,
    fn,
    free_ranges,
    reduce_identity,
    substitute,
)
from niello.kernel.routine import Routine
from niello.kernel.routine_build import Place, RoutineBuilder, Variable

LEAST_POINTS = 1024  # fewer are walked by every owner of an element (scatter.py)
PIECE = 2048  # points of a team, and of a scan
MEMBERS = 256
MANY = 1 << 22  # points of which a thread takes several
STRETCHES = (16, 256)  # updates that a thread walks, at least and at most
TOGETHER = 4  # updates whose values are loaded before the first is used
WIDE = 32  # columns from which on sorting is cheaper than atomic operations
_INTEGERS = (int32, uint32)


@dataclass
class Steps:
    """Routines in order, and the buffers between them."""

    routines: list[Routine] = field(default_factory=list)
    scratch: list[Param] = field(default_factory=list)

    def buffer(self, dtype: DType, elements: int) -> Place:
        """A scratch buffer."""
        param = Param(SCRATCH_SLOT + len(self.scratch), dtype, elements, True)
        self.scratch.append(param)
        return Place(param, (elements,))


def steps_of(kernel: Kernel, target: GpuTarget) -> Steps | None:
    """The routines of a kernel that is one scatter of many points; None for other kernels."""
    if len(kernel.stores) != 1 or kernel.stores[0].combine is None:
        return None
    store = kernel.stores[0]
    dtype = store.param.dtype
    points = math.prod(r.extent for r in store.ranges)
    fits = dtype is not bool_ and not dtype.is_half and dtype.itemsize >= 4
    if not fits or points < LEAST_POINTS or store.param.elements == 0:
        return None
    made = _Points.of(store)
    if made.count < LEAST_POINTS or max(made.rows, made.count, points) >= 2**31 - PIECE:
        return None
    if target.pieces(store.param.elements * 4)[1:]:
        return None
    steps = Steps()
    if _any_order(store, made):
        _atomic(steps, store)
    else:
        _sorted(steps, made, target)
    return steps


def _any_order(store: Store, made: _Points) -> bool:
    """Whether atomic operations give the same in any order, and pay."""
    if store.param.dtype in _INTEGERS:
        return store.combine in ("add", "min", "max")
    extreme = store.param.dtype is float32 and store.combine in ("min", "max")
    return extreme and made.width < WIDE


def _at(store: Store, point: Expr, mapped: Sequence[Range]) -> dict[Node, Node]:
    """What the ranges are at a point, row-major over `mapped`."""
    extents = [r.extent for r in mapped]
    return dict(zip(mapped, unravel(point, extents), strict=True))


# --- atomic operations
def _pieces(r: RoutineBuilder, count: int, body: Callable[[Expr], None]) -> None:
    """`body(point)` for all points, which many threads take one each."""
    size = PIECE if count >= MANY else MEMBERS
    first = r.teams(-(-count // size)) * size
    r.members(MEMBERS)
    with r.spread(r.min(r.index(size), count - first)) as m:
        body(first + m)


def _atomic(steps: Steps, store: Store) -> None:
    """Combinations of integers; floats are compared as integers in the same order."""
    out = Place(store.param, (store.param.elements,))
    dtype, op = store.param.dtype, store.combine or ""
    held = out if dtype in _INTEGERS else steps.buffer(int32, out.elements)

    def key(r: RoutineBuilder, x: Expr) -> Expr:
        """The number of a value among the values; NaN wins."""
        if dtype in _INTEGERS:
            return x
        bits = bitcast(x, int32)
        first = const(int32.max if op == "max" else int32.min, int32)
        return r.where(x.ne(x), first, bits ^ (bits >> 31 & int32.max))

    def start(r: RoutineBuilder) -> None:
        _pieces(r, out.elements, lambda i: r.write(held, i, key(r, r.read(out, i))))

    def update(r: RoutineBuilder) -> None:
        def body(point: Expr) -> None:
            names = _at(store, point, store.ranges)
            value, index = (substitute(e, names) for e in (store.value, store.index))
            with r.when(_gate(store, names)):
                r.combine(op, held, index, key(r, value))

        _pieces(r, math.prod(x.extent for x in store.ranges), body)

    def finish(r: RoutineBuilder) -> None:
        def body(i: Expr) -> None:
            found = r.read(held, i)
            r.write(out, i, bitcast(found ^ (found >> 31 & int32.max), float32))

        _pieces(r, out.elements, body)

    if held is out:
        steps.routines = [routine("update", update)]
    else:
        steps.routines = [
            routine("start", start),
            routine("update", update),
            routine("finish", finish),
        ]


def _gate(store: Store, names: dict[Node, Node]) -> Expr:
    return const(True, bool_) if store.gate is None else substitute(store.gate, names)


# --- sorting
@dataclass(frozen=True)
class _Points:
    """A scatter as updates of rows: `walked` are the ranges of the updates, `columns` that of the
    elements of a row, if they have one for themselves."""

    store: Store
    walked: tuple[Range, ...]
    columns: Range | None

    @classmethod
    def of(cls, store: Store) -> _Points:
        """Rows of columns where one range tells the columns apart and nothing else of the place."""
        columns = columns_of(store, store.ranges)
        if columns is not None and store.gate is not None and columns in free_ranges(store.gate):
            columns = None
        return cls(store, tuple(r for r in store.ranges if r is not columns), columns)

    @property
    def width(self) -> int:
        return 1 if self.columns is None else self.columns.extent

    @property
    def rows(self) -> int:
        return self.store.param.elements // self.width

    @property
    def count(self) -> int:
        return math.prod(r.extent for r in self.walked)

    def key(self, point: Expr) -> Expr:
        """The row of an update, or the number of rows if it has none."""
        names = _at(self.store, point, self.walked)
        if self.columns is not None:
            names[self.columns] = const(0, int64)
        row = substitute(self.store.index, names) // self.width
        return fn("where", _gate(self.store, names), cast(row, int32), const(self.rows, int32))

    def value(self, point: Expr, column: Expr) -> Expr:
        """What an update brings to a column."""
        names = _at(self.store, point, self.walked)
        if self.columns is not None:
            names[self.columns] = column
        return cast(substitute(self.store.value, names), self.store.param.dtype)

    def together(self, a: Expr, b: Expr) -> Expr:
        return fn(self.store.combine or "", a, b)

    @property
    def identity(self) -> Expr:
        dtype = self.store.param.dtype
        return const(reduce_identity(self.store.combine or "", dtype), dtype)


def _sorted(steps: Steps, made: _Points, target: GpuTarget) -> None:
    dtype = made.store.param.dtype
    carries = made.width == 1 and dtype.itemsize == 4  # the values themselves are sorted
    count = -(-made.count // PIECE) * PIECE
    assert PIECE % tile_of(target)[0] == 0
    keys = steps.buffer(int32, count)
    payload = steps.buffer(dtype if carries else int32, count)
    pairs = Pairs(keys, payload, made.rows)

    def begin(r: RoutineBuilder) -> None:
        def body(point: Expr) -> None:
            with r.when(point < made.count):
                r.write(keys, point, made.key(point))
                carried = made.value(point, r.index(0)) if carries else cast(point, int32)
                r.write(payload, point, carried)
            with r.otherwise():
                r.write(keys, point, made.rows)
                r.write(payload, point, 0)

        _pieces(r, count, body)

    steps.routines.append(routine("begin", begin))
    more, pairs = sort_pairs(pairs, steps.buffer, target)
    steps.routines += more
    if carries:
        _segments(steps, made, pairs)
    else:
        _stretches(steps, made, pairs, target)


def _write_out(r: RoutineBuilder, made: _Points, at: Expr, value: Expr) -> None:
    out = Place(made.store.param, (made.store.param.elements,))
    r.write(out, at, made.together(r.read(out, at), value))


def _row(r: RoutineBuilder, made: _Points, key: Expr) -> Expr:
    """The row of a key that is one."""
    return r.cast(r.min(key, made.rows - 1), int64)


def _segments(steps: Steps, made: _Points, pairs: Pairs) -> None:
    """Rows of one element: scans that begin anew where the row changes."""
    tiles = pairs.count // PIECE
    dtype = made.store.param.dtype
    heads = steps.buffer(dtype, tiles)  # the fold of a row that began before a tile and ends in it
    tails = steps.buffer(dtype, tiles)  # of the last row of a tile, which may go on
    fresh = steps.buffer(int32, tiles)  # whether that began in the tile
    last = pairs.count - 1
    zero = const(0, int32)

    def both(a: Sequence[Expr], b: Sequence[Expr]) -> tuple[Expr, ...]:
        (f, x), (g, y) = a, b
        return f | g, fn("where", g.ne(0), y, made.together(x, y))

    def within(r: RoutineBuilder) -> None:
        tile = r.teams(tiles)

        def given(m: Expr) -> tuple[Expr, ...]:
            at = tile * PIECE + m
            before = pairs.key(r, r.max(at - 1, 0))
            begins = at.eq(0) | before.ne(pairs.key(r, at))
            return r.where(begins, 1, zero), r.read(pairs.payload, at)

        def then(m: Expr, before: Sequence[Expr], after: Sequence[Expr]) -> None:
            at = tile * PIECE + m
            flag, value = after
            key = pairs.key(r, at)
            ends = at.eq(last) | pairs.key(r, r.min(at + 1, last)).ne(key)
            with r.when(ends & (key < made.rows)):
                with r.when(flag.ne(0)):
                    _write_out(r, made, _row(r, made, key), value)
                with r.otherwise():
                    r.write(heads, tile, value)
            with r.when(m.eq(PIECE - 1)):
                r.write(tails, tile, value)
                r.write(fresh, tile, flag)

        r.scan_by(PIECE, given, then, (zero, made.identity), both)

    def across(r: RoutineBuilder) -> None:
        r.teams(1)

        def then(tile: Expr, before: Sequence[Expr], after: Sequence[Expr]) -> None:
            key = pairs.key(r, tile * PIECE)
            with r.when(_goes_on(r, pairs, tile, PIECE, key) & (key < made.rows)):
                value = made.together(before[1], r.read(heads, tile))
                _write_out(r, made, _row(r, made, key), value)

        r.scan_by(
            tiles,
            lambda tile: (r.read(fresh, tile), r.read(tails, tile)),
            then,
            (zero, made.identity),
            both,
        )

    steps.routines += [routine("within", within), routine("across", across)]


def _goes_on(r: RoutineBuilder, pairs: Pairs, piece: Expr, size: int, key: Expr) -> Expr:
    """Whether the first row of a piece began before it and ends in it; `key` is that row."""
    last = pairs.count - 1
    before = pairs.key(r, r.max(piece * size - 1, 0))
    after = pairs.key(r, r.min((piece + 1) * size, last))
    ends = after.ne(key) | ((piece + 1) * size > last)
    return (piece > 0) & before.eq(key) & ends


def _updates(
    r: RoutineBuilder, made: _Points, pairs: Pairs, first: Expr, column: Expr
) -> tuple[list[Expr], list[Variable]]:
    """Rows from a place on, with the one after them, and what their updates bring to a column:
    all of it is loaded before any of it is used."""
    numbers = range(TOGETHER)
    rows = [pairs.key(r, first + n) for n in numbers]
    rows.append(pairs.key(r, r.min(first + TOGETHER, pairs.count - 1)))
    updates = [r.read(pairs.payload, first + n, low=0, high=made.count - 1) for n in numbers]
    dtype = made.store.param.dtype
    return rows, [r.variable(dtype, made.value(r.cast(u, int64), column)) for u in updates]


def _stretches(steps: Steps, made: _Points, pairs: Pairs, target: GpuTarget) -> None:
    """Rows of columns: a thread walks a stretch of updates for one column."""
    dtype, width = made.store.param.dtype, made.width
    least, most = STRETCHES
    wanted = max(least, min(most, made.count * width // (2 * target.fill)))
    size = 1 << (wanted - 1).bit_length()
    count = pairs.count // size
    heads, tails = (steps.buffer(dtype, count * width) for _ in range(2))
    fresh = steps.buffer(int32, count)
    last = pairs.count - 1

    def within(r: RoutineBuilder) -> None:
        def body(m: Expr) -> None:
            piece, column = m // width, m % width
            first = piece * size
            known = pairs.key(r, r.max(first - 1, 0)).ne(pairs.key(r, first)) | piece.eq(0)
            begun = r.variable(int32, r.where(known, 1, const(0, int32)))
            total = r.variable(dtype, made.identity)
            with r.loop(0, size, TOGETHER) as i:
                rows, values = _updates(r, made, pairs, first + i, column)
                for n, value in enumerate(values):
                    row = rows[n]
                    total.set(made.together(total.get(), value.get()))
                    ends = rows[n + 1].ne(row) | (first + i + n).eq(last)
                    with r.when(ends & (row < made.rows)):
                        with r.when(begun.get().ne(0)):
                            at = _row(r, made, row) * width + column
                            _write_out(r, made, at, total.get())
                        with r.otherwise():
                            r.write(heads, m, total.get())
                    with r.when(ends):
                        total.set(made.identity)
                        begun.set(1)
            r.write(tails, m, total.get())
            with r.when(column.eq(0)):
                r.write(fresh, piece, begun.get())

        _pieces(r, count * width, body)

    def across(r: RoutineBuilder) -> None:
        def body(m: Expr) -> None:
            piece, column = m // width, m % width
            key = pairs.key(r, piece * size)
            with r.when(_goes_on(r, pairs, piece, size, key) & (key < made.rows)):
                total = r.variable(dtype, r.read(heads, m))
                at = r.variable(int64, piece - 1, low=-1, high=count - 1)
                going = r.variable(int32, 1)
                with r.repeat(lambda: going.get().ne(0)):
                    here = r.max(at.get(), 0)
                    total.set(made.together(r.read(tails, here * width + column), total.get()))
                    going.set(r.where(r.read(fresh, here).ne(0), 0, const(1, int32)))
                    at.set(here - 1)
                _write_out(r, made, _row(r, made, key) * width + column, total.get())

        _pieces(r, count * width, body)

    steps.routines += [routine("within", within), routine("across", across)]
