"""Tiles of a contraction for a block of threads, in registers: what every GPU can run.

A block computes a tile of C. Threads evaluate the operands' elements (whatever expressions they
are) for one step of k, leave them in shared memory, and multiply what is there into sums that they
hold in registers; the next step's elements are on their way meanwhile. The epilogue runs on the
registers.

Where a tile is small beside its k, several groups of threads (slices) share a step's points of k,
and their sums are added up in shared memory at the end.

Another inner tile is another class like `RegisterTiles`, listed in inner_tiles.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from niello.codegen.gpu.blocks import Lanes, Scope, Val
from niello.codegen.gpu.contract import Contraction
from niello.codegen.gpu.expressions import Emitter, adjacent
from niello.codegen.gpu.flat import Flat, Rewriter, flatten
from niello.codegen.gpu.registers import Reg, register_of
from niello.codegen.gpu.staging import TID, RegisterStaging, Side, group_of, spread
from niello.codegen.gpu.target import GpuTarget
from niello.codegen.gpu.tile_choice import (
    REGISTER_RATE,
    Tile,
    buffers_for,
    choose,
    register_tiles,
)
from niello.core.nodes import walk
from niello.kernel.ir import Expr, Load, Store, free_ranges

_BAND = 8  # rows of blocks that run together, so that they share what they read


class BlockTiles(ABC):
    """What inner tiles have in common: where a block is, its share of k, and the epilogue."""

    threads: int
    resident = 2  # blocks that a processor should hold at once, which bounds their registers
    # Rows and columns of C of a thread; columns come in groups of neighbours.
    row_count: int
    column_count: int
    column_group: int
    remarks: tuple[str, ...] = ()  # for the dump: why other tiles do not do

    def __init__(self, em: Emitter, c: Contraction, target: GpuTarget, tile: Tile) -> None:
        self.em = em
        self.c = c
        self.target = target
        self.tile = tile
        self.reg = register_of(c.dtype)
        self.shared: dict[str, tuple[Reg, int]] = {}
        self.m, self.n, self.k = c.extent(c.m), c.extent(c.n), c.extent(c.k)
        self.row_blocks = -(-self.m // tile.rows)
        self.column_blocks = -(-self.n // tile.columns)
        self.z = flatten(c.z, 1, "z")
        self.blocks = self.row_blocks * self.column_blocks * c.extent(c.z) * c.parts

    def describe(self) -> str:
        """For the dump."""
        t = self.tile
        return (
            f"{t.rows}x{t.columns}x{t.step} of {self.m}x{self.n}x{self.k}, "
            f"{self.c.extent(self.c.z)} batches, {self.c.parts} parts"
            + "".join(f"; {x}" for x in self.remarks)
        )

    # --- what an inner tile says
    @classmethod
    @abstractmethod
    def refusal(cls, c: Contraction, target: GpuTarget) -> str:
        """Why this tile cannot do a contraction; empty when it can."""

    @classmethod
    @abstractmethod
    def plan(cls, c: Contraction, target: GpuTarget) -> tuple[Tile, int]:
        """The tile for a contraction, and into how many parts of k to cut it."""

    @abstractmethod
    def multiply(self, scope: Scope, sums: list[list[Val]], start: str, stop: str) -> None:
        """Add the products of the points of k from `start` to `stop` to the sums."""

    @abstractmethod
    def row_at(self, i: int) -> str:
        """Where a thread's row lies in the tile."""

    @abstractmethod
    def column_at(self, j: int) -> str:
        """Where a thread's column lies in the tile."""

    # --- a block
    def write(self, scope: Scope, block: str) -> None:
        """The code of one block of threads."""
        em, tile = self.em, self.tile
        row, column, batch = self._position(scope, block)
        self.first_row = em.constant(scope, Reg.I32, f"{row} * {tile.rows}", "m")
        self.first_column = em.constant(scope, Reg.I32, f"{column} * {tile.columns}", "n")
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
        sums = self.sums(base)
        self.multiply(base, sums, start, stop)
        self.finish(base, sums)
        self._keep_apart()

    def _keep_apart(self) -> None:
        """Keep blocks that are about one for each processor from sharing one, as they do where
        another kernel still runs on its neighbours: the last would finish twice as late."""
        processors = self.target.fill // 2048
        used = sum(-(-reg.bytes * n // 16) * 16 for reg, n in self.shared.values())
        missing = self.target.alone_bytes - used
        if missing > 0 and processors // 2 < self.blocks <= processors:
            self.shared[self.em.name("room")] = (Reg.U32, missing // 4)

    def _position(self, scope: Scope, block: str) -> tuple[str, str, Val]:
        """Row and column of a block, and its batch. Blocks go down bands of rows."""
        em, rows, columns = self.em, self.row_blocks, self.column_blocks
        batch = em.constant(scope, Reg.I32, f"({block} / {rows * columns})", "bz")
        place = em.constant(scope, Reg.I32, f"({block} % {rows * columns})", "place").text
        if rows <= _BAND or columns <= _BAND:
            row = em.constant(scope, Reg.I32, f"({place} / {columns})", "bm").text
            return row, em.constant(scope, Reg.I32, f"({place} % {columns})", "bn").text, batch
        band = em.constant(scope, Reg.I32, f"({place} / {_BAND * columns})", "band").text
        inside = em.constant(scope, Reg.I32, f"({place} % {_BAND * columns})", "place").text
        high = str(_BAND)
        if rows % _BAND:
            last = f"({band} == {rows // _BAND})"
            left = em.dialect.literal(rows % _BAND, Reg.I32)
            text = em.dialect.select(last, left, em.dialect.literal(_BAND, Reg.I32))
            high = em.constant(scope, Reg.I32, text, "high").text
        row = em.constant(scope, Reg.I32, f"{band} * {_BAND} + ({inside} % {high})", "bm").text
        return row, em.constant(scope, Reg.I32, f"({inside} / {high})", "bn").text, batch

    def sums(self, scope: Scope) -> list[list[Val]]:
        """Variables for the sums of a thread."""
        zero = self.em.dialect.literal(0, self.reg)
        return [
            [self.em.variable(scope, self.reg, zero, "c") for _ in range(self.column_count)]
            for _ in range(self.row_count)
        ]

    # --- the epilogue
    def finish(self, scope: Scope, sums: list[list[Val]]) -> None:
        """Store what is made from the sums."""
        em, tile = self.em, self.tile
        group = self.column_group
        width = group if self._vector_columns(group) else 1
        m_flat, n_flat = flatten(self.c.m, 1, "m"), flatten(self.c.n, width, "n")
        rewrite = Rewriter({**self.z.mapping, **m_flat.mapping, **n_flat.mapping})
        stores = [rewrite(s) for s in self.c.stores]
        result = rewrite(self.c.result)
        if self.c.dtype.is_integer and self.c.dtype.bits < 32:
            self._wrap(scope, sums)
        fixed = self._column_loads(stores, n_flat)  # type: ignore[arg-type]
        groups = self._column_groups(scope, n_flat, fixed)
        for i in range(self.row_count):
            row = em.constant(scope, Reg.I32, f"{self.first_row.text} + {self.row_at(i)}", "m")
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
        self, scope: Scope, n: Flat, fixed: Sequence[Load]
    ) -> list[tuple[Val, str | None, list[dict[Expr, Val]]]]:
        """The position of each group of columns of a thread, its guard, and what is known there."""
        em = self.em
        found = []
        for j in range(0, self.column_count, n.width):
            text = f"({self.first_column.text} + {self.column_at(j)})"
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


class RegisterTiles(BlockTiles):
    """The inner tile in registers."""

    def __init__(self, em: Emitter, c: Contraction, target: GpuTarget) -> None:
        super().__init__(em, c, target, self.plan(c, target)[0])
        tile = self.tile
        self.threads = tile.threads
        held = tile.rows * tile.columns * tile.slices  # sums of a block
        self.resident = 2 if max(held, 64 * self.threads) <= 1 << 14 else 1
        self.buffers = buffers_for(tile, self.reg.bytes, target)
        self.row_count, self.column_count = tile.per_thread
        self.column_group = group_of(self.column_count)
        self.team = tile.across * tile.along  # threads of a slice
        self.member = f"({TID} % {self.team})" if tile.slices > 1 else TID

    @classmethod
    def refusal(cls, c: Contraction, target: GpuTarget) -> str:
        """Nothing: registers take every contraction."""
        return ""

    @classmethod
    def plan(cls, c: Contraction, target: GpuTarget) -> tuple[Tile, int]:
        """The tile for a contraction, and into how many parts of k to cut it."""
        return choose(c, target, register_tiles(c, target), REGISTER_RATE)

    def describe(self) -> str:
        """For the dump."""
        return f"tiles {super().describe()}"

    def row_at(self, i: int) -> str:
        thread = f"({self.member} / {self.tile.along})"
        return spread(thread, i, self.row_count, self.tile.rows)

    def column_at(self, j: int) -> str:
        thread = f"({self.member} % {self.tile.along})"
        return spread(thread, j, self.column_count, self.tile.columns)

    # --- the loop over k
    def multiply(self, scope: Scope, sums: list[list[Val]], start: str, stop: str) -> None:
        em, dialect, step, c = self.em, self.em.dialect, self.tile.step, self.c
        sides = (
            Side(c.a, c.m, self.m, self.first_row, self.tile.rows, "a"),
            Side(c.b, c.n, self.n, self.first_column, self.tile.columns, "b"),
        )
        a, b = (
            RegisterStaging(
                em, c, self.z, side, step, self.threads, self.reg, self.shared, self.buffers
            )
            for side in sides
        )
        self.exchange = max(a.array, b.array, key=lambda name: self.shared[name][1])
        held = [a.begin(scope), b.begin(scope)]
        current = None
        if self.buffers == 2:
            current = em.variable(scope, Reg.I32, "0", "now").text
        first = scope.inner(closed=True)
        for x, registers in zip((a, b), held, strict=True):
            x.load(first, start, stop, registers)
            if current is not None:
                x.leave(first, registers, "0")
        scope.block.close("{", first.block)
        name = em.name("k")
        loop = scope.inner(closed=True)
        loop.block.add(dialect.barrier_line())
        if current is None:
            for x, registers in zip((a, b), held, strict=True):
                x.leave(loop, registers, None)
            loop.block.add(dialect.barrier_line())
        more = f"if ({name} + {step} < {stop}) {{"
        ahead = loop.inner(closed=True)
        following = em.constant(ahead, Reg.I32, f"{name} + {step}", "k")
        for x, registers in zip((a, b), held, strict=True):
            x.load(ahead, following.text, stop, registers)
        loop.block.close(more, ahead.block)
        self._inner(loop, sums, a, b, current)
        if current is not None:
            loop.block.add(f"{current} = 1 - {current};")
            behind = loop.inner(closed=True)
            for x, registers in zip((a, b), held, strict=True):
                x.leave(behind, registers, current)
            loop.block.close(more, behind.block)
        scope.block.close(dialect.loop(name, start, stop, str(step)), loop.block)

    def _inner(
        self,
        scope: Scope,
        sums: list[list[Val]],
        a: RegisterStaging,
        b: RegisterStaging,
        buffer: str | None,
    ) -> None:
        """Multiply one step of both operands into the sums."""
        em, dialect, tile = self.em, self.em.dialect, self.tile
        name = em.name("kk")
        inner = scope.inner(closed=True)
        each = tile.step // tile.slices
        point = name if tile.slices == 1 else f"({TID} / {self.team} * {each} + {name})"
        row, column = f"({self.member} / {tile.along})", f"({self.member} % {tile.along})"
        rows = a.read(inner, point, row, self.row_count, buffer)
        columns = b.read(inner, point, column, self.column_count, buffer)
        for x, line in zip(rows, sums, strict=True):
            for y, total in zip(columns, line, strict=True):
                text = dialect.multiply_add(self.c.dtype, self.reg, x, y, total.text)
                inner.block.add(f"{total.text} = {text};")
        head = dialect.loop(name, "0", str(each), "1")
        scope.block.close(dialect.unrolled(head, each), inner.block)

    # --- slices
    def finish(self, scope: Scope, sums: list[list[Val]]) -> None:
        """Add up what the slices have, and let the first store it."""
        if self.tile.slices == 1:
            super().finish(scope, sums)
            return
        self._gather(scope, sums)
        inner = scope.inner(closed=True)
        super().finish(inner, sums)
        scope.block.close(f"if ({TID} < {self.team}) {{", inner.block)

    def _gather(self, scope: Scope, sums: list[list[Val]]) -> None:
        em, dialect = self.em, self.em.dialect
        others = self.tile.slices - 1
        array = self.exchange  # what was multiplied is not needed any more
        most = max(1, self.shared[array][1] // (others * self.team))
        flat = [total for line in sums for total in line]
        for first in range(0, len(flat), most):
            batch = flat[first : first + most]
            scope.block.add(dialect.barrier_line())
            size = self.team * others
            give = [
                f"{array}[{n * size} + ({TID} - {self.team})] = {total.text};"
                for n, total in enumerate(batch)
            ]
            em.under([f"({TID} >= {self.team})"], give, scope)
            scope.block.add(dialect.barrier_line())
            take = [
                f"{total.text} = {total.text} + {array}[{n * size + other * self.team} + {TID}];"
                for n, total in enumerate(batch)
                for other in range(others)
            ]
            em.under([f"({TID} < {self.team})"], take, scope)
