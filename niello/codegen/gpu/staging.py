"""Operands of a contraction on their way to shared memory: which thread evaluates which elements.

A step's elements of an operand lie along its own axis (rows of A, columns of B) and along k.
Threads take chunks of neighbours in memory, so that an access is as wide as it can be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from niello.codegen.gpu.blocks import Lanes, Scope, Val
from niello.codegen.gpu.contract import Contraction
from niello.codegen.gpu.expressions import Emitter, adjacent
from niello.codegen.gpu.flat import Flat, Rewriter, flatten
from niello.codegen.gpu.registers import Reg
from niello.core.nodes import walk
from niello.kernel.bounds import affine
from niello.kernel.ir import Cast, Expr, Load, Range, free_ranges

TID = "tid"  # the number of the thread in its block


@dataclass(frozen=True)
class Side:
    """One operand of a block: its element, the ranges of its own axis and their points, where the
    block begins and how many points it has."""

    expr: Expr
    ranges: tuple[Range, ...]
    extent: int
    first: Val
    size: int
    stem: str


class Staging:
    """Evaluates the elements of a step into registers. Subclasses leave them in shared memory."""

    widths: tuple[int, ...] = (4, 2)

    def __init__(
        self, em: Emitter, c: Contraction, z: Flat, side: Side, step: int, threads: int, reg: Reg
    ) -> None:
        self.em, self.c, self.side, self.step, self.threads = em, c, side, step, threads
        self.reg = reg
        self.points = c.extent(c.k)
        self.along_k, self.width = self._direction()
        stem = side.stem
        self.own = flatten(side.ranges, 1 if self.along_k else self.width, stem)
        self.k = flatten(c.k, self.width if self.along_k else 1, f"{stem}k")
        rewrite = Rewriter({**z.mapping, **self.own.mapping, **self.k.mapping})
        self.expr: Expr = rewrite(side.expr)  # type: ignore[assignment]
        self.chunks = side.size * step // self.width
        self.turns = -(-self.chunks // threads)  # chunks of a thread
        # For each chunk of a thread: what is known of it whatever the step, and its place along k.
        self.known: list[tuple[Scope, Val]] = []

    # --- which elements
    def _direction(self) -> tuple[bool, int]:
        """Whether neighbouring threads take neighbouring points of k, and how many at once."""
        side, c = self.side, self.c
        loads = [x for x in walk([side.expr]) if isinstance(x, Load)]

        def near(r: Range | None) -> int:
            return sum(
                x.param.dtype.itemsize for x in loads if r and affine(x.index).stride(r) == 1
            )

        own = near(side.ranges[-1] if side.ranges else None)
        along_k = near(c.k[-1] if c.k else None) > own
        axis = c.k if along_k else side.ranges
        points = math.prod(r.extent for r in axis)
        for width in self.widths:
            whole = points % width == 0 and c.part_size % width == 0
            room = side.size * self.step // width >= self.threads // 2
            if whole and room and loads and self._together(loads, axis, width):
                return along_k, width
        return along_k, 1

    def _together(self, loads: Sequence[Load], axis: tuple[Range, ...], width: int) -> bool:
        flat = flatten(axis, width, "probe")
        rewrite = Rewriter(flat.mapping)
        return all(
            adjacent(rewrite.position(x.index), flat.lane, width)
            for x in loads
            if free_ranges(x) & frozenset(axis)
        )

    def _chunk(self, n: int) -> str:
        return f"({TID} + {n * self.threads})" if n else TID

    def exists(self, n: int) -> str | None:
        """The condition that a thread's n-th chunk exists, where it may not."""
        last = n == self.turns - 1 and self.chunks % self.threads
        return f"({self._chunk(n)} < {self.chunks})" if last else None

    def place(self, n: int) -> tuple[str, str]:
        """Where a thread's n-th chunk begins in the step: (own axis, k), one of them in chunks."""
        chunk = self._chunk(n)
        if self.along_k:
            per_k = self.step // self.width
            return f"({chunk} / {per_k})", f"({chunk} % {per_k})"
        per_own = self.side.size // self.width
        return f"({chunk} % {per_own})", f"({chunk} / {per_own})"

    def begin(self, scope: Scope) -> list[list[Val]]:
        """Before the first step: where the thread's chunks lie along the operand's own axis, and
        variables for the elements that are on their way."""
        em, side = self.em, self.side
        width = self.own.width
        first = f"{side.first.text} / {width}" if width > 1 else side.first.text
        for n in range(self.turns):
            row, point = self.place(n)
            own = em.constant(scope, Reg.I32, f"{first} + {row}", "i")
            tests = [t for t in (self.exists(n),) if t is not None]
            if side.extent % side.size:
                tests.append(f"({own.text} < {side.extent // width})")
            base = scope.beside({self.own.chunk: own})
            if tests:
                base.guard = em.constant(scope, Reg.BOOL, em.dialect.all_of(tests), "g").text
            self.known.append((base, em.constant(scope, Reg.I32, point, "k")))
        return self.registers(scope)

    def point(self, scope: Scope, n: int, k: str, stop: str) -> Scope:
        """The scope of a thread's n-th chunk in the step that begins at k."""
        em = self.em
        outside, point = self.known[n]
        width = self.k.width
        begin = f"{k} / {width}" if width > 1 else k
        at = em.constant(scope, Reg.I32, f"{begin} + {point.text}", "k")
        base = Scope(outside, scope.block, {self.k.chunk: at})
        exact = stop.isdigit() and int(stop) % self.step == 0
        if not (exact or self._parts_exact()):
            limit = f"{stop} / {width}" if width > 1 else stop
            base.guard = em.constant(scope, Reg.BOOL, f"({at.text} < {limit})", "g").text
        return base

    def _parts_exact(self) -> bool:
        c = self.c
        return (
            c.part is not None and self.points % c.part_size == 0 and c.part_size % self.step == 0
        )

    # --- registers
    def registers(self, scope: Scope) -> list[list[Val]]:
        """Variables for the elements that a thread has on their way."""
        zero = self.em.dialect.literal(0, self.reg)
        return [
            [self.em.variable(scope, self.reg, zero, self.side.stem) for _ in range(self.width)]
            for _ in range(self.turns)
        ]

    def load(self, scope: Scope, k: str, stop: str, held: list[list[Val]]) -> None:
        """Evaluate the elements of the step that begins at k, into `held`."""
        em = self.em
        for n, line in enumerate(held):
            base = self.point(scope, n, k, stop)
            axis = self.k.lane if self.along_k else self.own.lane
            # A load is zero by itself where its point does not exist; whatever looks at what it
            # gives would wait for it.
            guards = [] if loaded(self.expr) else em.guards(base)
            lanes = Lanes(base, axis, [em.literal(x, Reg.I32) for x in range(self.width)])
            for target, inner in zip(line, lanes.scopes, strict=True):
                text = em.converted(em.value(self.expr, inner), self.reg).text
                if guards:
                    zero = em.dialect.literal(0, self.reg)
                    text = em.dialect.select(em.dialect.all_of(guards), text, zero)
                scope.block.add(f"{target.text} = {text};")


def loaded(expr: Expr) -> bool:
    """A load, in whatever type."""
    return isinstance(expr, Load) or (isinstance(expr, Cast) and loaded(expr.x))


class RegisterStaging(Staging):
    """Leaves elements as they are computed with, the points of k one after the other."""

    def __init__(
        self,
        em: Emitter,
        c: Contraction,
        z: Flat,
        side: Side,
        step: int,
        threads: int,
        reg: Reg,
        shared: dict[str, tuple[Reg, int]],
        buffers: int,
    ) -> None:
        super().__init__(em, c, z, side, step, threads, reg)
        self.pitch = side.size + 4  # so that columns of the tile lie in different banks
        self.array = em.name(f"tile{em.stage}_")
        shared[self.array] = (reg, self.pitch * step * buffers)

    def leave(self, scope: Scope, held: list[list[Val]], buffer: str | None) -> None:
        """Write the elements to shared memory."""
        start = "" if buffer is None else f"{buffer} * {self.pitch * self.step} + "
        for n, line in enumerate(held):
            row, point = self.place(n)
            lines = []
            for x, value in enumerate(line):
                if self.along_k:
                    at = f"({point} * {self.width} + {x}) * {self.pitch} + {row}"
                else:
                    at = f"{point} * {self.pitch} + {row} * {self.width} + {x}"
                lines.append(f"{self.array}[{start}{at}] = {value.text};")
            there = self.exists(n)
            self.em.under([there] if there is not None else [], lines, scope)

    def read(self, scope: Scope, k: str, thread: str, count: int, buffer: str | None) -> list[str]:
        """The elements of a thread at a point of the step."""
        em = self.em
        found: list[str] = []
        start = "" if buffer is None else f"{buffer} * {self.pitch * self.step} + "
        group = group_of(count)
        for first in range(0, count, group):
            at = f"{start}{k} * {self.pitch} + {spread(thread, first, count, self.side.size)}"
            lines, texts = em.dialect.load_shared(self.array, self.reg, at, group, em.name("w"))
            for line in lines:
                scope.block.add(line)
            found += texts
        return found


def group_of(count: int) -> int:
    """Neighbours that a thread takes together, of its `count` items along a side."""
    return next(g for g in (4, 2, 1) if count % g == 0)


def spread(thread: str, index: int, count: int, size: int) -> str:
    """Where item `index` of a thread's `count` items lies along a side of `size` points.

    Items come in groups of up to four neighbours; the groups of a thread are far apart, so that
    neighbouring threads reach neighbouring memory.
    """
    group = group_of(count)
    return f"{thread} * {group} + {index // group * (size // (count // group)) + index % group}"
