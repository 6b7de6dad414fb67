"""Tiles of a contraction of float32 on tensor cores, as exact as on the ordinary multipliers.

A float32 has 24 bits, a bfloat16 eight: every factor becomes the sum of three bfloat16, each the
rounded rest of those before it. Of the nine products of two such sums the six largest are added up;
the others lie below half a unit in the last place. (The idea is that of Markidis et al., "NVIDIA
Tensor Core Programmability, Performance & Precision", 2018, and of Ootomo and Yokota, "Recovering
single precision accuracy from Tensor Cores", 2022.)

Three things make the results those of float32 arithmetic, or closer:

- Tensor cores truncate when they add. Their sums reach over one step only; the sums over steps
  are rounded float32 additions.
- Factors are scaled by 2^33 on their way to shared memory, so that the parts of the smallest
  denormal numbers are normal ones.
- What overflows in that scale, infinities and NaN leave a sum that is not finite. A thread that
  finds one computes its results again from memory, with ordinary multiplications.
"""

from __future__ import annotations

from niello.codegen.gpu.blocks import Scope, Val
from niello.codegen.gpu.contract import Contraction
from niello.codegen.gpu.expressions import Emitter
from niello.codegen.gpu.flat import Flat, Rewriter, flatten
from niello.codegen.gpu.registers import Reg
from niello.codegen.gpu.staging import Side, loaded
from niello.codegen.gpu.target import GpuTarget
from niello.codegen.gpu.tile_choice import (
    REGISTER_RATE,
    SPLIT_RATE,
    SPLIT_TILES,
    Tile,
    choose,
    cycles,
    register_tiles,
)
from niello.codegen.gpu.tiles_tensor import PIECE, Fours, HalfStaging, WarpTiles
from niello.core.dtypes import float32
from niello.kernel.ir import Expr, Range

_LEAST = 16  # points along each side that are worth tensor cores
_LEAST_STEPS = 128  # points of k: below, a contraction is all beginning and end
_MARGIN = 1.1  # by which tiles in registers may seem slower and still be taken
_PARTS = 3  # of a factor, largest first
# Pairs of parts whose products count, smallest first.
_PRODUCTS = ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0))
_UNSCALE = 2.0**-66  # sums are those of products of scaled factors
_BUFFERS = 2


class SplitTiles(WarpTiles):
    """The inner tile on tensor cores, for factors of float32."""

    def __init__(self, em: Emitter, c: Contraction, target: GpuTarget) -> None:
        super().__init__(em, c, target, self.plan(c, target)[0])
        # The sums of a step have registers of their own: large pieces leave no room for a bound.
        self.resident = 2 if self.warp_rows * self.warp_columns <= 512 else 1

    @classmethod
    def refusal(cls, c: Contraction, target: GpuTarget) -> str:
        """Why the parts of float32 do not do for a contraction; empty when they do."""
        if c.dtype is not float32:
            return "its factors are not of float32"
        if min(c.extent(x) for x in (c.m, c.n, c.k)) < _LEAST:
            return f"a side is shorter than {_LEAST}"
        if c.extent(c.k) < _LEAST_STEPS:
            return f"its sums have fewer than {_LEAST_STEPS} terms"
        alone = cycles(c, target, register_tiles(c, target), REGISTER_RATE)
        if alone <= _MARGIN * cycles(c, target, SPLIT_TILES, SPLIT_RATE):
            return "tiles in registers are faster"
        return ""

    @classmethod
    def plan(cls, c: Contraction, target: GpuTarget) -> tuple[Tile, int]:
        """The tile for a contraction, and into how many parts of k to cut it."""
        return choose(c, target, SPLIT_TILES, SPLIT_RATE)

    def describe(self) -> str:
        """For the dump."""
        return f"split tiles {super().describe()}"

    # --- the loop over k
    def multiply(self, scope: Scope, sums: list[list[Val]], start: str, stop: str) -> None:
        em, dialect, c, step = self.em, self.em.dialect, self.c, self.tile.step
        a = SplitStaging(self, Side(c.a, c.m, self.m, self.first_row, self.tile.rows, "a"))
        b = SplitStaging(self, Side(c.b, c.n, self.n, self.first_column, self.tile.columns, "b"))
        for x in (a, b):
            self.shared[x.array] = (Reg.U32, _PARTS * _BUFFERS * x.elements // 2)
        held = [a.begin(scope), b.begin(scope)]
        now = em.variable(scope, Reg.I32, "0", "now").text
        self._load(scope, (a, b), held, start, stop)
        self._leave(scope, (a, b), held, "0")
        self._load(scope, (a, b), held, f"({start} + {step})", stop)
        name = em.name("k")
        loop = scope.inner(closed=True)
        loop.block.add(dialect.barrier_line())
        parts = [[em.variable(loop, Reg.F32, "0.0f", "t") for _ in line] for line in sums]
        # The next step is on its way in registers. It goes to shared memory, and that after it
        # sets out, while the tensor cores work off the first piece.
        for point in range(0, step, PIECE):
            self._piece(loop, parts, (a, b), point, now)
            if point == 0:
                self._leave(loop, (a, b), held, f"(1 - {now})")
                self._load(loop, (a, b), held, f"({name} + {2 * step})", stop)
        for line, more in zip(sums, parts, strict=True):
            for total, part in zip(line, more, strict=True):
                loop.block.add(f"{total.text} += {part.text};")
        loop.block.add(f"{now} = 1 - {now};")
        scope.block.close(dialect.loop(name, start, stop, str(step)), loop.block)
        self._settle(scope, sums, start, stop)

    def _load(
        self,
        scope: Scope,
        both: tuple[SplitStaging, SplitStaging],
        held: list[list[list[Val]]],
        first: str,
        stop: str,
    ) -> None:
        """Start to bring the step that begins at `first`, if there is one."""
        inner = scope.inner(closed=True)
        k = self.em.constant(inner, Reg.I32, first, "k").text
        for x, registers in zip(both, held, strict=True):
            x.load(inner, k, stop, registers)
        scope.block.close(f"if ({first} < {stop}) {{", inner.block)

    def _leave(
        self,
        scope: Scope,
        both: tuple[SplitStaging, SplitStaging],
        held: list[list[list[Val]]],
        buffer: str,
    ) -> None:
        inner = scope.inner(closed=True)
        for x, registers in zip(both, held, strict=True):
            x.leave(inner, registers, buffer)
        scope.block.close("{", inner.block)

    def _piece(
        self,
        scope: Scope,
        sums: list[list[Val]],
        both: tuple[SplitStaging, SplitStaging],
        point: int,
        buffer: str,
    ) -> None:
        """Multiply what lies at sixteen points of a step."""
        known: dict[tuple[int, int], Fours] = {}
        for x, y in _PRODUCTS:
            for side, part in ((0, x), (1, y)):
                if (side, part) not in known:
                    where = f"({buffer} * {_PARTS} + {part})"
                    known[side, part] = self.read(scope, both[side], side, point, where)
            self.products(scope, sums, (known[0, x], known[1, y]), "bfloat16")

    # --- what does not fit
    def _settle(self, scope: Scope, sums: list[list[Val]], start: str, stop: str) -> None:
        """Take the scale off the sums, or compute those of this thread again."""
        em = self.em
        test = em.variable(scope, Reg.F32, "0.0f", "test").text
        flat = [total.text for line in sums for total in line]
        for total in flat:  # zero times what is not finite is NaN
            scope.block.add(f"{test} = fmaf({total}, 0.0f, {test});")
        scope.block.add(f"if ({test} == 0.0f) {{")
        unscale = em.dialect.literal(_UNSCALE, Reg.F32)
        for total in flat:
            scope.block.add(f"  {total} = {total} * {unscale};")
        scope.block.add("} else {")
        inner = scope.inner(closed=True)
        self._again(inner, sums, start, stop)
        scope.block.lines += inner.block.lines
        scope.block.add("}")

    def _again(self, scope: Scope, sums: list[list[Val]], start: str, stop: str) -> None:
        """The sums of a thread, from memory and with ordinary multiplications."""
        em, c = self.em, self.c
        for line in sums:
            for total in line:
                scope.block.add(f"{total.text} = 0.0f;")
        name = em.name("k")
        loop = scope.inner(closed=True)
        point = Val(name, Reg.I32)
        rows = [f"{self.first_row.text} + {self.row_at(i)}" for i in range(self.row_count)]
        columns = [
            f"{self.first_column.text} + {self.column_at(j)}" for j in range(self.column_count)
        ]
        a = self._elements(loop, c.a, c.m, rows, point)
        b = self._elements(loop, c.b, c.n, columns, point)
        for x, line in zip(a, sums, strict=True):
            for y, total in zip(b, line, strict=True):
                text = em.dialect.multiply_add(float32, Reg.F32, x, y, total.text)
                loop.block.add(f"{total.text} = {text};")
        scope.block.close(em.dialect.loop(name, start, stop, "1"), loop.block)

    def _elements(
        self, scope: Scope, expr: Expr, ranges: tuple[Range, ...], places: list[str], k: Val
    ) -> list[str]:
        """An operand at some points of its own axis and a point of k."""
        em = self.em
        own: Flat = flatten(ranges, 1, "again")
        along = flatten(self.c.k, 1, "again_k")
        rewrite = Rewriter({**self.z.mapping, **own.mapping, **along.mapping})
        element = rewrite(expr)
        extent = self.c.extent(ranges)
        found = []
        for text in places:
            place = em.constant(scope, Reg.I32, text, "i")
            base = scope.beside({own.chunk: place, along.chunk: k})
            base.guard = em.constant(scope, Reg.BOOL, f"({place.text} < {extent})", "g").text
            value = em.converted(em.value(element, base), Reg.F32).text  # type: ignore[arg-type]
            if not loaded(element):  # type: ignore[arg-type]
                zero = em.dialect.literal(0, Reg.F32)
                value = em.dialect.select(em.dialect.all_of(em.guards(base)), value, zero)
            found.append(em.constant(scope, Reg.F32, value, "x").text)
        return found


class SplitStaging(HalfStaging):
    """Leaves the parts of elements: those of one size lie together."""

    held_in = Reg.F32
    may_copy = False

    def leave(self, scope: Scope, held: list[list[Val]], buffer: str) -> None:
        """Write the parts of the elements to shared memory."""
        em = self.em
        for n, line in enumerate(held):
            words: list[list[str]] = [[] for _ in range(_PARTS)]
            lines = []
            for x in range(0, self.width, 2):
                pair = [v.text for v in line[x : x + 2]]
                names = [em.name("w") for _ in range(_PARTS)]
                lines.append(f"unsigned {', '.join(names)};")
                lines.append(f"nl_split({', '.join([*pair, '0.0f'][:2])}, {', '.join(names)});")
                for part, name in zip(words, names, strict=True):
                    part.append(name)
            for number, found in enumerate(words):
                lines += self.put(self.target(n, f"({buffer} * {_PARTS} + {number})"), found)
            exists = self.exists(n)
            em.under([exists] if exists is not None else [], lines, scope)
