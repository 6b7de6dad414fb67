"""Tiles of a contraction for a block of threads, in registers: what every GPU can run.

A block computes a tile of C. Threads evaluate the operands' elements (whatever expressions they
are) for one step of k, leave them in shared memory, and multiply what is there into sums that they
hold in registers; the next step's elements are on their way meanwhile. The epilogue runs on the
registers.

Another inner tile is another class with the methods of `TileWriter`, listed in INNER_TILES and
named by the targets that have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from niello.codegen.gpu.blocks import Lanes, Scope, Val
from niello.codegen.gpu.contract import Contraction
from niello.codegen.gpu.expressions import Emitter, adjacent
from niello.codegen.gpu.flat import Flat, Rewriter, flatten
from niello.codegen.gpu.registers import Reg, register_of
from niello.codegen.gpu.target import GpuTarget
from niello.core.nodes import walk
from niello.kernel.bounds import affine
from niello.kernel.ir import Expr, Load, Range, Store, free_ranges


class TileWriter(Protocol):
    """Writes a contraction for a block of `threads` threads."""

    threads: int
    resident: int  # blocks that a processor should hold at once, which bounds their registers
    blocks: int
    shared: dict[str, tuple[Reg, int]]

    def write(self, scope: Scope, block: str) -> None:
        """The code of one block; `block` is the text of its number."""

    def describe(self) -> str:
        """For the dump."""


@dataclass(frozen=True)
class Tile:
    """Rows and columns of C that a block computes, and points of k in a step."""

    rows: int
    columns: int
    step: int

    SIDE: ClassVar[int] = 16  # threads along either side of the tile

    @property
    def per_thread(self) -> tuple[int, int]:
        """Rows and columns of a thread."""
        return self.rows // self.SIDE, self.columns // self.SIDE


THREADS = Tile.SIDE * Tile.SIDE
_LEAST_PART = 128  # points of k that are worth a block of their own
# Tiles, and how fast each is once the device is full, relative to the first.
TILES = (
    (Tile(128, 128, 8), 1.0),
    (Tile(128, 64, 16), 0.85),
    (Tile(64, 128, 16), 0.85),
    (Tile(64, 64, 16), 0.7),
    (Tile(128, 32, 16), 0.6),
    (Tile(64, 32, 32), 0.5),
    (Tile(32, 64, 32), 0.5),
    (Tile(32, 32, 32), 0.4),
    (Tile(32, 32, 16), 0.35),
)


def choose_tile(c: Contraction, target: GpuTarget) -> Tile:
    """The tile that should take the least time: large ones reuse more, small ones fill gaps."""
    m, n = c.extent(c.m), c.extent(c.n)
    size = register_of(c.dtype).bytes
    slots = max(1, target.fill // (4 * THREADS))

    def time(choice: tuple[Tile, float]) -> float:
        tile, speed = choice
        blocks = -(-m // tile.rows) * -(-n // tile.columns) * c.extent(c.z)
        rounds = blocks / slots if blocks > 4 * slots else -(-blocks // slots)
        return rounds * tile.rows * tile.columns / speed

    fitting = [
        (t, speed)
        for t, speed in TILES
        if max(t.per_thread) * size <= 4 * target.tile_side
        and (t.rows + t.columns + 8) * t.step * size <= target.shared_bytes
    ]
    return min(fitting or [TILES[-1]], key=time)[0]


def parts_for(c: Contraction, tile: Tile, target: GpuTarget) -> int:
    """Into how many parts of k to split, so that the device is busy."""
    m, n, k = c.extent(c.m), c.extent(c.n), c.extent(c.k)
    blocks = -(-m // tile.rows) * -(-n // tile.columns) * c.extent(c.z)
    wanted = target.fill // (4 * THREADS)
    if blocks * 2 > wanted:
        return 1
    return max(1, min(wanted // blocks, k // _LEAST_PART, 256))


class RegisterTiles:
    """The inner tile in registers."""

    threads = THREADS
    resident = 2

    def __init__(self, em: Emitter, c: Contraction, target: GpuTarget) -> None:
        self.em = em
        self.c = c
        self.tile = choose_tile(c, target)
        self.reg = register_of(c.dtype)
        self.shared: dict[str, tuple[Reg, int]] = {}
        self.m, self.n, self.k = c.extent(c.m), c.extent(c.n), c.extent(c.k)
        self.row_blocks = -(-self.m // self.tile.rows)
        self.column_blocks = -(-self.n // self.tile.columns)
        self.z = flatten(c.z, 1, "z")
        self.blocks = self.row_blocks * self.column_blocks * c.extent(c.z) * c.parts

    @classmethod
    def accepts(cls, c: Contraction, target: GpuTarget) -> bool:
        """Whether this tile can do a contraction: any."""
        return True

    def describe(self) -> str:
        """For the dump."""
        t = self.tile
        return (
            f"tiles {t.rows}x{t.columns}x{t.step} of {self.m}x{self.n}x{self.k}, "
            f"{self.c.extent(self.c.z)} batches, {self.c.parts} parts"
        )

    def write(self, scope: Scope, block: str) -> None:
        """The code of one block of threads."""
        em, tile = self.em, self.tile
        column = em.constant(scope, Reg.I32, f"({block} % {self.column_blocks})", "bn")
        rest = em.constant(scope, Reg.I32, f"({block} / {self.column_blocks})", "bz")
        row = em.constant(scope, Reg.I32, f"({rest.text} % {self.row_blocks})", "bm")
        batch = em.constant(scope, Reg.I32, f"({rest.text} / {self.row_blocks})", "bz")
        self.first_row = em.constant(scope, Reg.I32, f"{row.text} * {tile.rows}", "m")
        self.first_column = em.constant(scope, Reg.I32, f"{column.text} * {tile.columns}", "n")
        base = scope.beside({})
        start, stop = "0", str(self.k)
        if self.c.part is not None:
            part = em.constant(scope, Reg.I32, f"({batch.text} % {self.c.parts})", "part")
            batch = em.constant(scope, Reg.I32, f"({batch.text} / {self.c.parts})", "bz")
            base.ranges[self.c.part] = part
            size = self.c.part_size
            start = em.constant(scope, Reg.I32, f"{part.text} * {size}", "k").text
            end = f"{start} + {size}"
            if self.k % size:
                test = f"({end} < {self.k})"
                end = em.dialect.select(test, end, em.dialect.literal(self.k, Reg.I32))
            stop = em.constant(scope, Reg.I32, end, "k").text
        base.ranges[self.z.chunk] = batch
        sums = self._sums(base)
        self._multiply(base, sums, start, stop)
        self._finish(base, sums)

    def _sums(self, scope: Scope) -> list[list[Val]]:
        rows, columns = self.tile.per_thread
        zero = self.em.dialect.literal(0, self.reg)
        return [
            [self.em.variable(scope, self.reg, zero, "c") for _ in range(columns)]
            for _ in range(rows)
        ]

    # --- the loop over k
    def _multiply(self, scope: Scope, sums: list[list[Val]], start: str, stop: str) -> None:
        em, dialect, step = self.em, self.em.dialect, self.tile.step
        a = _Staging(self, self.c.a, self.c.m, self.m, self.first_row, self.tile.rows, "a")
        b = _Staging(self, self.c.b, self.c.n, self.n, self.first_column, self.tile.columns, "b")
        held = [a.registers(scope), b.registers(scope)]
        first = scope.inner(closed=True)
        a.load(first, start, stop, held[0])
        b.load(first, start, stop, held[1])
        scope.block.close("{", first.block)
        name = em.name("k")
        loop = scope.inner(closed=True)
        loop.block.add(dialect.barrier_line())
        a.leave(loop, held[0])
        b.leave(loop, held[1])
        loop.block.add(dialect.barrier_line())
        ahead = loop.inner(closed=True)
        following = em.constant(ahead, Reg.I32, f"{name} + {step}", "k")
        a.load(ahead, following.text, stop, held[0])
        b.load(ahead, following.text, stop, held[1])
        loop.block.close(f"if ({name} + {step} < {stop}) {{", ahead.block)
        self._inner(loop, sums, a, b)
        scope.block.close(dialect.loop(name, start, stop, str(step)), loop.block)

    def _inner(self, scope: Scope, sums: list[list[Val]], a: _Staging, b: _Staging) -> None:
        """Multiply one step of both operands into the sums."""
        em, dialect = self.em, self.em.dialect
        name = em.name("kk")
        inner = scope.inner(closed=True)
        rows = a.read(inner, name, f"({em_tid()} / {Tile.SIDE})", self.tile.per_thread[0])
        columns = b.read(inner, name, f"({em_tid()} % {Tile.SIDE})", self.tile.per_thread[1])
        for x, line in zip(rows, sums, strict=True):
            for y, total in zip(columns, line, strict=True):
                text = dialect.multiply_add(self.c.dtype, self.reg, x, y, total.text)
                inner.block.add(f"{total.text} = {text};")
        head = dialect.loop(name, "0", str(self.tile.step), "1")
        scope.block.close(dialect.unrolled(head, self.tile.step), inner.block)

    # --- the epilogue
    def _finish(self, scope: Scope, sums: list[list[Val]]) -> None:
        em, tile = self.em, self.tile
        rows, columns = tile.per_thread
        group = min(4, columns)
        width = group if self._vector_columns(group) else 1
        m_flat, n_flat = flatten(self.c.m, 1, "m"), flatten(self.c.n, width, "n")
        rewrite = Rewriter({**self.z.mapping, **m_flat.mapping, **n_flat.mapping})
        stores = [rewrite(s) for s in self.c.stores]
        result = rewrite(self.c.result)
        if self.c.dtype.is_integer and self.c.dtype.bits < 32:
            self._wrap(scope, sums)
        fixed = self._column_loads(stores, n_flat)  # type: ignore[arg-type]
        groups = self._column_groups(scope, columns, group, n_flat, fixed)
        for i in range(rows):
            m = _spread(f"({em_tid()} / {Tile.SIDE})", i, rows, tile.rows)
            row = em.constant(scope, Reg.I32, f"{self.first_row.text} + {m}", "m")
            line = scope.beside({m_flat.chunk: row})
            if self.m % tile.rows:
                line.guard = em.constant(scope, Reg.BOOL, f"({row.text} < {self.m})", "g").text
            scopes: list[Scope] = []
            for j, (chunk, guard, known) in enumerate(groups):
                base = line.beside({n_flat.chunk: chunk})
                base.guard = guard
                lanes = Lanes(base, n_flat.lane, [em.literal(x, Reg.I32) for x in range(width)])
                for x, inner in enumerate(lanes.scopes):
                    # Each where what depends on it looks for it.
                    for node, value in known[x].items():
                        inner.home(free_ranges(node)).values[node] = value
                    inner.home(free_ranges(result)).values[result] = sums[i][j * width + x]
                scopes += lanes.scopes
            em.store_all(stores, scopes)  # type: ignore[arg-type]

    def _wrap(self, scope: Scope, sums: list[list[Val]]) -> None:
        for line in sums:
            for total in line:
                scope.block.add(
                    f"{total.text} = {self.em.dialect.wrapped(total.text, self.c.dtype)};"
                )

    def _vector_columns(self, group: int) -> bool:
        """Whether neighbouring columns can be stored at once."""
        if self.n % group:
            return False
        flat = flatten(self.c.n, group, "n")
        rewrite = Rewriter({**self.z.mapping, **flatten(self.c.m, 1, "m").mapping, **flat.mapping})
        return any(adjacent(rewrite.position(s.index), flat.lane, group) for s in self.c.stores)

    def _column_loads(self, stores: Sequence[Store], n: Flat) -> list[Load]:
        """Loads of the epilogue that are the same for every row."""
        own = frozenset((n.chunk, n.lane))
        return [
            x
            for x in walk([s.value for s in stores])
            if isinstance(x, Load) and free_ranges(x) and free_ranges(x) <= own
        ]

    def _column_groups(
        self, scope: Scope, columns: int, group: int, n: Flat, fixed: Sequence[Load]
    ) -> list[tuple[Val, str | None, list[dict[Expr, Val]]]]:
        """The position of each group of columns of a thread, its guard, and what is known there."""
        em = self.em
        found = []
        for j in range(0, columns, n.width):
            place = _spread(f"({em_tid()} % {Tile.SIDE})", j, columns, self.tile.columns)
            text = f"({self.first_column.text} + {place})"
            column = em.constant(
                scope, Reg.I32, f"{text} / {n.width}" if n.width > 1 else text, "n"
            )
            guard = None
            if self.n % self.tile.columns:
                guard = em.constant(
                    scope, Reg.BOOL, f"({column.text} < {self.n // n.width})", "g"
                ).text
            base = scope.beside({n.chunk: column})
            base.guard = guard
            lanes = Lanes(base, n.lane, [em.literal(x, Reg.I32) for x in range(n.width)])
            known: list[dict[Expr, Val]] = []
            for inner in lanes.scopes:
                for x in fixed:
                    em.value(x, inner)
                known.append({x: v for x in fixed if (v := inner.find(x)) is not None})
            found.append((column, guard, known))
        return found


def em_tid() -> str:
    """The number of the thread in its block."""
    return "tid"


def _spread(thread: str, index: int, count: int, size: int) -> str:
    """Where item `index` of a thread's `count` items lies along a side of `size` points.

    Items come in groups of up to four neighbours; the groups of a thread are far apart, so that
    neighbouring threads reach neighbouring memory.
    """
    group = min(4, count)
    return f"{thread} * {group} + {index // group * (size // (count // group)) + index % group}"


class _Staging:
    """One operand on its way to shared memory: which thread evaluates which elements."""

    def __init__(
        self,
        owner: RegisterTiles,
        expr: Expr,
        ranges: tuple[Range, ...],
        extent: int,
        first: Val,
        size: int,
        stem: str,
    ) -> None:
        self.owner, self.em, self.extent, self.first, self.size = (
            owner,
            owner.em,
            extent,
            first,
            size,
        )
        self.step = owner.tile.step
        self.stem = stem
        self.along_k, self.width = self._direction(expr, ranges)
        self.own = flatten(ranges, 1 if self.along_k else self.width, stem)
        self.k = flatten(owner.c.k, self.width if self.along_k else 1, f"{stem}k")
        rewrite = Rewriter({**owner.z.mapping, **self.own.mapping, **self.k.mapping})
        self.expr: Expr = rewrite(expr)  # type: ignore[assignment]
        self.pitch = size + 4  # so that columns of the tile lie in different banks
        self.array = self.em.name(f"tile{self.em.stage}_")
        owner.shared[self.array] = (owner.reg, self.pitch * self.step)
        self.steps = max(1, size * self.step // self.width // THREADS)

    def _direction(self, expr: Expr, ranges: tuple[Range, ...]) -> tuple[bool, int]:
        """Whether neighbouring threads take neighbouring points of k, and how many at once."""
        loads = [x for x in walk([expr]) if isinstance(x, Load)]
        k = self.owner.c.k

        def near(r: Range | None) -> int:
            return sum(
                x.param.dtype.itemsize for x in loads if r and affine(x.index).stride(r) == 1
            )

        along_k = near(k[-1] if k else None) > near(ranges[-1] if ranges else None)
        axis = k if along_k else ranges
        points = math.prod(r.extent for r in axis)
        widest = 4 if self.owner.c.part_size % 4 == 0 else 1
        for width in (4, 2):
            whole = points % width == 0 and width <= widest
            room = self.size * self.step // width >= THREADS
            if whole and room and loads and self._together(expr, loads, axis, width):
                return along_k, width
        return along_k, 1

    def _together(
        self, expr: Expr, loads: Sequence[Load], axis: tuple[Range, ...], width: int
    ) -> bool:
        flat = flatten(axis, width, "probe")
        rewrite = Rewriter(flat.mapping)
        return all(
            adjacent(rewrite.position(x.index), flat.lane, width)
            for x in loads
            if free_ranges(x) & frozenset(axis)
        )

    def registers(self, scope: Scope) -> list[list[Val]]:
        """Variables for the elements that a thread has on their way."""
        zero = self.em.dialect.literal(0, self.owner.reg)
        return [
            [self.em.variable(scope, self.owner.reg, zero, self.stem) for _ in range(self.width)]
            for _ in range(self.steps)
        ]

    def _place(self, n: int) -> tuple[str, str]:
        """Row of the tile (in elements or chunks) and point of k of a thread's n-th chunk."""
        per_k = self.step // self.width if self.along_k else self.step
        per_own = self.size if self.along_k else self.size // self.width
        chunk = f"({em_tid()} + {n * THREADS})" if n else em_tid()
        if self.along_k:
            return f"({chunk} / {per_k})", f"({chunk} % {per_k})"
        return f"({chunk} % {per_own})", f"({chunk} / {per_own})"

    def load(self, scope: Scope, k: str, stop: str, held: list[list[Val]]) -> None:
        """Evaluate the elements of the step that begins at k, into `held`."""
        em = self.em
        for n, line in enumerate(held):
            row, point = self._place(n)
            own_width, k_width = self.own.width, self.k.width
            first = f"{self.first.text} / {own_width}" if own_width > 1 else self.first.text
            own = em.constant(scope, Reg.I32, f"{first} + {row}", "i")
            begin = f"{k} / {k_width}" if k_width > 1 else k
            at = em.constant(scope, Reg.I32, f"{begin} + {point}", "k")
            tests = []
            if self.extent % self.size:
                tests.append(f"({own.text} < {self.extent // own_width})")
            exact = stop.isdigit() and int(stop) % self.step == 0
            if not (exact or self._parts_exact()):
                limit = f"{stop} / {k_width}" if k_width > 1 else stop
                tests.append(f"({at.text} < {limit})")
            base = scope.beside({self.own.chunk: own, self.k.chunk: at})
            if tests:
                base.guard = em.constant(scope, Reg.BOOL, em.dialect.all_of(tests), "g").text
            axis = self.k.lane if self.along_k else self.own.lane
            lanes = Lanes(base, axis, [em.literal(x, Reg.I32) for x in range(self.width)])
            for target, inner in zip(line, lanes.scopes, strict=True):
                value = em.converted(em.value(self.expr, inner), self.owner.reg)
                text = value.text
                if tests and base.guard is not None:
                    zero = em.dialect.literal(0, self.owner.reg)
                    text = em.dialect.select(base.guard, text, zero)
                scope.block.add(f"{target.text} = {text};")

    def _parts_exact(self) -> bool:
        c = self.owner.c
        return (
            c.part is not None and self.owner.k % c.part_size == 0 and c.part_size % self.step == 0
        )

    def leave(self, scope: Scope, held: list[list[Val]]) -> None:
        """Write the elements to shared memory."""
        for n, line in enumerate(held):
            row, point = self._place(n)
            for x, value in enumerate(line):
                if self.along_k:
                    at = f"({point} * {self.width} + {x}) * {self.pitch} + {row}"
                else:
                    at = f"{point} * {self.pitch} + {row} * {self.width} + {x}"
                scope.block.add(f"{self.array}[{at}] = {value.text};")

    def read(self, scope: Scope, k: str, thread: str, count: int) -> list[str]:
        """The elements of a thread at a point of the step."""
        em = self.em
        found: list[str] = []
        group = min(4, count)
        for first in range(0, count, group):
            at = f"{k} * {self.pitch} + {_spread(thread, first, count, self.size)}"
            lines, texts = em.dialect.load_shared(
                self.array, self.owner.reg, at, group, em.name("w")
            )
            for line in lines:
                scope.block.add(line)
            found += texts
        return found


def contraction_writer(em: Emitter, c: Contraction, target: GpuTarget) -> TileWriter:
    """The writer of the first inner tile of the target that takes a contraction."""
    for name in target.tiles:
        kind = INNER_TILES[name]
        if kind.accepts(c, target):
            return kind(em, c, target)
    return RegisterTiles(em, c, target)


# Inner tiles by name. Another one is a class like RegisterTiles, added here by its module.
INNER_TILES: dict[str, type[RegisterTiles]] = {"registers": RegisterTiles}
