"""Tiles of a contraction of half types for the tensor cores of NVIDIA's GPUs.

Operands go to shared memory as they are, 16 bytes at a time: past the registers where memory holds
them so (asynchronous copies), through the registers where they are computed. Warps read pieces of
16 x 16 and 16 x 8 with `ldmatrix` and multiply them with `mma`; sums are float32 registers.
"""

from __future__ import annotations

from collections.abc import Sequence

from niello.codegen.gpu.blocks import Scope, Val
from niello.codegen.gpu.contract import Contraction
from niello.codegen.gpu.expressions import Emitter
from niello.codegen.gpu.registers import Reg
from niello.codegen.gpu.staging import TID, Side, Staging
from niello.codegen.gpu.target import GpuTarget
from niello.codegen.gpu.tile_choice import TENSOR_RATE, TENSOR_TILES, Tile, choose
from niello.codegen.gpu.tiles import BlockTiles
from niello.core.dtypes import DType, float32
from niello.kernel.ir import Cast, Const, Expr, Fn, Load, cast, const, free_ranges, substitute

PIECE = 16  # points of k of one multiplication, and rows
_CHUNK = 8  # elements of an access of 16 bytes
_MOST_STAGES = 4  # steps in shared memory: one that is multiplied, others on their way
_LEAST = 16  # points along each side that are worth tensor cores
# Functions of halves, computed in float32, whose results are halves again.
_EXACT = frozenset(("where", "max", "min", "neg", "abs"))

Fours = list[list[str]]  # names of the registers of pieces, four each


def half_of(expr: Expr) -> DType | None:
    """The half type whose values a float32 expression has, if it has those of one only."""
    if isinstance(expr, Cast) and expr.x.dtype.is_half:
        return expr.x.dtype
    if isinstance(expr, Fn) and expr.name in _EXACT:
        values = expr.args[1:] if expr.name == "where" else expr.args
        found = {half_of(x) for x in values if not (isinstance(x, Const) and x.value == 0)}
        return found.pop() if len(found) == 1 else None
    return None


def _as_half(expr: Expr, dtype: DType) -> Expr:
    """The half of a float32 expression that has the value of one; a guarded load as itself."""
    if isinstance(expr, Cast) and expr.x.dtype is dtype:
        return expr.x
    if isinstance(expr, Fn) and expr.name == "where":
        test, value, zero = expr.args
        load = value.x if isinstance(value, Cast) else None
        if isinstance(load, Load) and load.gate is test and getattr(zero, "value", None) == 0:
            return load
    return cast(expr, dtype)


class WarpTiles(BlockTiles):
    """What tiles on tensor cores have in common: warps, and the pieces that they multiply."""

    def __init__(self, em: Emitter, c: Contraction, target: GpuTarget, tile: Tile) -> None:
        super().__init__(em, c, target, tile)
        self.threads = 32 * tile.threads
        self.warp_rows, self.warp_columns = tile.per_thread
        self.row_count = self.warp_rows // 8
        self.column_count, self.column_group = self.warp_columns // 4, 2

    def row_at(self, i: int) -> str:
        piece, high = divmod(i, 2)
        return f"{self._warp_row()} + {piece * 16 + high * 8} + {TID} % 32 / 4"

    def column_at(self, j: int) -> str:
        return f"{self._warp_column()} + {j // 2 * 8 + j % 2} + {TID} % 4 * 2"

    def _warp_row(self) -> str:
        return f"{TID} / {32 * self.tile.along} * {self.warp_rows}"

    def _warp_column(self) -> str:
        return f"{TID} / 32 % {self.tile.along} * {self.warp_columns}"

    # --- pieces
    def registers(self, scope: Scope, side: int) -> Fours:
        """Registers for the pieces of an operand (0: A, 1: B) at sixteen points of k."""
        count = (self.warp_rows, self.warp_columns)[side] // 16
        return [
            [self.em.variable(scope, Reg.U32, "0u", "f").text for _ in range(4)]
            for _ in range(count)
        ]

    def read_into(
        self, scope: Scope, held: Fours, source: HalfStaging, side: int, k: int, buffer: str
    ) -> None:
        """Read the pieces of an operand at k of a step from shared memory."""
        first = (self._warp_row, self._warp_column)[side]()
        for n, names in enumerate(held):
            source.read(scope, names, f"{first} + {16 * n}", k, buffer, k_first=side == 1)

    def read(self, scope: Scope, source: HalfStaging, side: int, k: int, buffer: str) -> Fours:
        """The same, into registers of its own."""
        held = self.registers(scope, side)
        self.read_into(scope, held, source, side, k, buffer)
        return held

    def products(
        self, scope: Scope, sums: list[list[Val]], held: tuple[Fours, Fours], half: str
    ) -> None:
        """Add the products of pieces to the sums."""
        columns = [part for four in held[1] for part in (four[:2], four[2:])]
        for i, x in enumerate(held[0]):
            for j, y in enumerate(columns):
                totals = [sums[2 * i + high][2 * j + low].text for high in (0, 1) for low in (0, 1)]
                words = ", ".join([*totals, *x, *y])
                scope.block.add(f"nl_mma_{half}({words});")


class TensorTiles(WarpTiles):
    """The inner tile on tensor cores, for factors of half types."""

    def __init__(self, em: Emitter, c: Contraction, target: GpuTarget) -> None:
        super().__init__(em, c, target, self.plan(c, target)[0])
        half = half_of(c.a)
        assert half is not None
        self.half = half
        tile = self.tile
        held = tile.rows * tile.columns // self.threads  # sums of a thread
        self.resident = 1 if held * self.threads > 1 << 14 else 2

    @classmethod
    def refusal(cls, c: Contraction, target: GpuTarget) -> str:
        """Why tensor cores cannot do a contraction; empty when they can."""
        kinds = {half_of(c.a), half_of(c.b)}
        if c.dtype is not float32 or None in kinds or len(kinds) > 1:
            return "its factors are not of one half type"
        if min(c.extent(x) for x in (c.m, c.n, c.k)) < _LEAST:
            return f"a side is shorter than {_LEAST}"
        return ""

    @classmethod
    def plan(cls, c: Contraction, target: GpuTarget) -> tuple[Tile, int]:
        """The tile for a contraction, and into how many parts of k to cut it."""
        return choose(c, target, TENSOR_TILES, TENSOR_RATE)

    def describe(self) -> str:
        """For the dump."""
        return f"tensor tiles {super().describe()}, {self.half.name}"

    # --- the loop over k
    def multiply(self, scope: Scope, sums: list[list[Val]], start: str, stop: str) -> None:
        first, last, tile = self.first_row, self.first_column, self.tile
        c, half = self.c, self.half
        a = HalfStaging(self, Side(_as_half(c.a, half), c.m, self.m, first, tile.rows, "a"))
        b = HalfStaging(self, Side(_as_half(c.b, half), c.n, self.n, last, tile.columns, "b"))
        alone = self.target.most_shared_bytes if self.resident == 1 else 0
        room = max(self.target.shared_bytes, alone) // (2 * (a.elements + b.elements))
        stages = min(room, _MOST_STAGES) if a.direct and b.direct else 2
        for x in (a, b):
            self.shared[x.array] = (Reg.U32, x.elements * stages // 2)
        held = [a.begin(scope), b.begin(scope)]
        if a.direct and b.direct:
            self._stream(scope, sums, (a, b), (start, stop), stages)
        else:
            self._alternate(scope, sums, (a, b), held, (start, stop))

    def _stream(
        self,
        scope: Scope,
        sums: list[list[Val]],
        both: tuple[HalfStaging, HalfStaging],
        limits: tuple[str, str],
        stages: int,
    ) -> None:
        """Operands that are copied as they are: several steps are on their way at once."""
        em, dialect, step = self.em, self.em.dialect, self.tile.step
        start, stop = limits
        for n in range(stages - 1):
            k = em.constant(scope, Reg.I32, f"{start} + {n * step}", "k").text
            early = scope.inner(closed=True)
            for x in both:
                x.copy(early, k, stop, str(n))
            scope.block.close(f"if ({k} < {stop}) {{", early.block)
            scope.block.add("nl_copies_close();")
        now = em.variable(scope, Reg.I32, "0", "now").text
        free = em.variable(scope, Reg.I32, str(stages - 1), "free").text
        ready = [f"nl_copies_wait({stages - 2});", dialect.barrier_line()]
        # Pieces are read one ahead of the multiplications, also from one step to the next.
        held = [self._pieces(scope), self._pieces(scope)]
        for line in ready:
            scope.block.add(line)
        self._read(scope, held[0], both, 0, now)
        name = em.name("k")
        loop = scope.inner(closed=True)
        ahead = loop.inner(closed=True)
        far = (stages - 1) * step
        following = em.constant(ahead, Reg.I32, f"{name} + {far}", "k")
        for x in both:
            x.copy(ahead, following.text, stop, free)
        loop.block.close(f"if ({name} + {far} < {stop}) {{", ahead.block)
        loop.block.add("nl_copies_close();")
        pieces = step // PIECE
        for n in range(pieces):
            if n == pieces - 1:
                for line in ready:
                    loop.block.add(line)
                loop.block.add(f"{free} = {now};")
                text = dialect.select(f"({now} == {stages - 1})", "0", f"{now} + 1")
                loop.block.add(f"{now} = {text};")
            self._read(loop, held[(n + 1) % 2], both, (n + 1) % pieces * PIECE, now)
            self._multiply(loop, sums, held[n % 2])
        scope.block.close(dialect.loop(name, start, stop, str(step)), loop.block)

    def _alternate(
        self,
        scope: Scope,
        sums: list[list[Val]],
        both: tuple[HalfStaging, HalfStaging],
        held: Sequence[list[list[Val]]],
        limits: tuple[str, str],
    ) -> None:
        """Operands of which one is computed: it goes through registers, one step ahead."""
        em, dialect, step = self.em, self.em.dialect, self.tile.step
        start, stop = limits
        now = em.variable(scope, Reg.I32, "0", "now").text
        first = scope.inner(closed=True)
        for x, registers in zip(both, held, strict=True):
            x.bring(first, start, stop, registers, "0")
            x.leave(first, registers, "0")
        scope.block.close("{", first.block)
        name = em.name("k")
        loop = scope.inner(closed=True)
        loop.block.add("nl_copies_close();")
        loop.block.add("nl_copies_wait(0);")
        loop.block.add(dialect.barrier_line())
        more = f"if ({name} + {step} < {stop}) {{"
        ahead = loop.inner(closed=True)
        following = em.constant(ahead, Reg.I32, f"{name} + {step}", "k")
        for x, registers in zip(both, held, strict=True):
            x.bring(ahead, following.text, stop, registers, f"(1 - {now})")
        loop.block.close(more, ahead.block)
        pieces = self._pieces(loop)
        for point in range(0, step, PIECE):
            self._read(loop, pieces, both, point, now)
            self._multiply(loop, sums, pieces)
        loop.block.add(f"{now} = 1 - {now};")
        behind = loop.inner(closed=True)
        for x, registers in zip(both, held, strict=True):
            x.leave(behind, registers, now)
        loop.block.close(more, behind.block)
        scope.block.close(dialect.loop(name, start, stop, str(step)), loop.block)

    # --- pieces
    def _pieces(self, scope: Scope) -> tuple[Fours, Fours]:
        return self.registers(scope, 0), self.registers(scope, 1)

    def _read(
        self,
        scope: Scope,
        held: tuple[Fours, Fours],
        both: tuple[HalfStaging, HalfStaging],
        k: int,
        buffer: str,
    ) -> None:
        for side, source in enumerate(both):
            self.read_into(scope, held[side], source, side, k, buffer)

    def _multiply(self, scope: Scope, sums: list[list[Val]], held: tuple[Fours, Fours]) -> None:
        self.products(scope, sums, held, self.half.name)


class HalfStaging(Staging):
    """Leaves elements of a half type in rows along the axis in which memory holds them.

    Chunks of a row lie in another order in each of eight rows, so that threads that read a column
    of chunks, as `ldmatrix` does, meet different banks.
    """

    widths = (8, 4, 2)
    held_in = Reg.U32  # elements on their way
    may_copy = True  # elements that memory holds as they are wanted

    def __init__(self, owner: WarpTiles, side: Side) -> None:
        em = owner.em
        super().__init__(em, owner.c, owner.z, side, owner.tile.step, owner.threads, self.held_in)
        self.inner = self.step if self.along_k else side.size
        # Rows of a power of two have their chunks turned, others begin in another bank.
        self.turns_chunks = self.inner & (self.inner - 1) == 0
        self.pitch = self.inner if self.turns_chunks else self.inner + _CHUNK
        self.elements = self.pitch * (side.size * self.step // self.inner)
        self.array = em.name(f"tile{em.stage}_")
        load = self.expr
        self.direct = (
            self.may_copy
            and isinstance(load, Load)
            and self.width == _CHUNK
            and self._one_access(load)
        )

    def _one_access(self, load: Load) -> bool:
        axis = self.k.lane if self.along_k else self.own.lane
        return load.gate is None or axis not in free_ranges(load.gate)

    def registers(self, scope: Scope) -> list[list[Val]]:
        return [] if self.direct else super().registers(scope)

    def _at(self, row: str, element: str) -> str:
        """The place of an element of a row, both given as bracketed text."""
        if not self.turns_chunks:
            return f"{row} * {self.pitch} + {element}"
        chunks = self.inner // _CHUNK
        turn = f"({row} & 7)" if chunks >= 8 else f"({row} / {8 // chunks} & {chunks - 1})"
        return f"{row} * {self.inner} + ({element} / 8 ^ {turn}) * 8 + {element} % 8"

    def target(self, n: int, buffer: str) -> str:
        """The element of the array at which a thread's n-th chunk begins."""
        row, point = self.place(n)
        rows = (
            (row, f"({point} * {self.width})")
            if self.along_k
            else (point, f"({row} * {self.width})")
        )
        return f"{buffer} * {self.elements} + {self._at(*rows)}"

    def copy(self, scope: Scope, k: str, stop: str, buffer: str) -> None:
        """Start the copies of the step that begins at k."""
        em, load = self.em, self.expr
        assert isinstance(load, Load)
        em.used.setdefault(load.param, False)
        axis = self.k.lane if self.along_k else self.own.lane
        index = substitute(load.index, {axis: const(0, load.index.dtype)})
        for n in range(self.turns):
            base = self.point(scope, n, k, stop)
            at = em.subscript(index, base)
            tests = em.guards(base)
            if load.gate is not None:
                tests.append(em.value(load.gate, base).text)
            there = em.dialect.all_of(tests) if tests else "true"
            line = (
                f"nl_copy_16({self.array} + ({self.target(n, buffer)}) / 2, "
                f"b{load.param.slot}, {at}, {there});"
            )
            exists = self.exists(n)
            em.under([exists] if exists is not None else [], [line], scope)

    def bring(self, scope: Scope, k: str, stop: str, held: list[list[Val]], buffer: str) -> None:
        """Start what brings the step that begins at k: copies, or loads into `held`."""
        if self.direct:
            self.copy(scope, k, stop, buffer)
        else:
            self.load(scope, k, stop, held)

    def leave(self, scope: Scope, held: list[list[Val]], buffer: str) -> None:
        """Write elements that came through registers to shared memory."""
        for n, line in enumerate(held):
            words = [line[0].text]
            if self.width > 1:
                words = [
                    f"({a.text} & 0xffff) | ({b.text} << 16)"
                    for a, b in zip(line[::2], line[1::2], strict=True)
                ]
            exists = self.exists(n)
            lines = self.put(self.target(n, buffer), words)
            self.em.under([exists] if exists is not None else [], lines, scope)

    def put(self, at: str, words: list[str]) -> list[str]:
        """Lines that write a chunk, two elements a word, from element `at` on."""
        if self.width == 1:
            return [f"nl_put_half({self.array}, {at}, {words[0]});"]
        place = f"{self.array} + ({at}) / 2"
        if len(words) == 1:
            return [f"*({place}) = {words[0]};"]
        name, kind = self.em.name("w"), f"uint{len(words)}"
        return [f"const {kind} {name} = {{{', '.join(words)}}};", f"*({kind}*)({place}) = {name};"]

    def read(
        self, scope: Scope, names: list[str], first: str, k: int, buffer: str, *, k_first: bool
    ) -> None:
        """Read the piece of 16 x 16 that begins at `first` and k into four registers.

        They hold its quarters of 8 x 8: down its own axis first, or along k first.
        """
        own_bit, k_bit = ("/ 16", "/ 8 % 2") if k_first else ("/ 8 % 2", "/ 16")
        lane = f"{TID} % 32"
        if self.along_k:
            row = f"({first} + {lane} % 8 + {lane} {own_bit} * 8)"
            at = self._at(row, f"({k} + {lane} {k_bit} * 8)")
        else:
            row = f"({k} + {lane} % 8 + {lane} {k_bit} * 8)"
            at = self._at(row, f"({first} + {lane} {own_bit} * 8)")
        turned = "" if self.along_k else "_turned"
        where = f"{self.array} + ({buffer} * {self.elements} + {at}) / 2"
        scope.block.add(f"nl_pieces{turned}({', '.join(names)}, {where});")
