"""Few combining stores: every element belongs to one thread (scatter_sorted.py is for many).

All threads walk all points in order and take those whose element is theirs, so that the points
which hit one element combine in row-major order, without atomic operations and always alike. Where
one range alone tells destinations apart (the columns of an embedding table), threads share that
range too, and the walk is over the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from niello.codegen.gpu.blocks import Scope, Val
from niello.codegen.gpu.expressions import Emitter
from niello.codegen.gpu.registers import Reg, register_of
from niello.codegen.gpu.target import GpuTarget
from niello.core.dtypes import bool_, compute_dtype
from niello.kernel.bounds import affine, divisor
from niello.kernel.ir import Expr, Range, Store, fn


@dataclass(frozen=True)
class Scatter:
    """One combining store over its ranges."""

    ranges: tuple[Range, ...]
    store: Store


def columns_of(store: Store, ranges: Sequence[Range]) -> Range | None:
    """A range whose points all hit different elements, whatever the others do."""
    index = affine(store.index)
    for r in sorted(ranges, key=lambda r: -r.extent):
        if r.extent < 2 or index.stride(r) != 1:
            continue
        others = [c for other, c in index.coefficients.items() if other is not r]
        others += [factor * divisor(term) for term, factor in index.rest]
        if all(c % r.extent == 0 for c in others) and index.constant % r.extent == 0:
            return r
    return None


class ScatterWriter:
    """Writes a scatter for a block of threads."""

    def __init__(self, em: Emitter, scatter: Scatter, target: GpuTarget, threads: int) -> None:
        self.em = em
        self.scatter = scatter
        self.threads = threads
        self.shared: dict[str, tuple[Reg, int]] = {}
        store = scatter.store
        self.columns = columns_of(store, scatter.ranges)
        self.width = 1 if self.columns is None else self.columns.extent
        rows = max(1, store.param.elements // self.width)
        self.owners = max(1, min(rows, target.fill // self.width))

    @property
    def blocks(self) -> int:
        """Blocks that the scatter takes."""
        return -(-self.owners * self.width // self.threads)

    def describe(self) -> str:
        """For the dump."""
        return f"scatter, {self.owners} owners x {self.width} columns"

    def write(self, scope: Scope, block: str) -> None:
        """The code of one block of threads."""
        em, dialect = self.em, self.em.dialect
        mine = em.constant(scope, Reg.I32, f"{block} * {self.threads} + tid", "u")
        total = dialect.literal(self.owners * self.width, Reg.I32)
        owner = Range("owner", self.owners)
        inner = scope.inner(closed=True)
        inner.ranges[owner] = Val(f"({mine.text} / {self.width})", Reg.I32)
        if self.columns is not None:
            inner.ranges[self.columns] = Val(f"({mine.text} % {self.width})", Reg.I32)
        walked = [r for r in self.scatter.ranges if r is not self.columns]
        self._walk(walked, owner, inner)
        scope.block.close(
            f"if ({dialect.compare('lt', Reg.I32, mine.text, total)}) {{", inner.block
        )

    def _walk(self, ranges: Sequence[Range], owner: Range, scope: Scope) -> None:
        if not ranges:
            self._point(owner, scope)
            return
        name = self.em.name("r")
        inner = scope.inner({ranges[0]: Val(name, Reg.I32)})
        self._walk(ranges[1:], owner, inner)
        scope.block.close(self.em.dialect.loop(name, "0", str(ranges[0].extent), "1"), inner.block)

    def _point(self, owner: Range, scope: Scope) -> None:
        store = self.scatter.store
        row = store.index // self.width
        test: Expr = fn("eq", row % self.owners, owner)
        if store.gate is not None:
            test = fn("and", store.gate, test)
        gate = self.em.value(test, scope)
        inner = scope.inner(closed=True)
        self._update(inner)
        scope.block.close(f"if ({gate.text}) {{", inner.block)

    def _update(self, scope: Scope) -> None:
        em, dialect, store = self.em, self.em.dialect, self.scatter.store
        dtype = store.param.dtype
        index = em.value(store.index, scope)
        added = em.converted(em.value(store.value, scope), register_of(dtype)).text
        before = dialect.load(store.param, dialect.subscript(index))
        reg = register_of(compute_dtype(dtype))
        if dtype.is_half:
            added, before = (dialect.half_to_float(x, dtype) for x in (added, before))
        op = store.combine
        assert op is not None
        held = em.constant(scope, reg, before)
        if dtype is bool_:
            name = {"add": "or", "mul": "and"}.get(op, op)
            after = dialect.boolean(name, [held.text, added])
        elif op in ("min", "max"):
            after = dialect.least(op, reg, held.text, added)
        else:
            after = dialect.scalar(op, compute_dtype(dtype), reg, [held.text, added])
        if dtype.is_integer and dtype.bits < 32:
            after = dialect.wrapped(after, dtype)
        if dtype.is_half:
            after = dialect.float_to_half(after, dtype)
        em.store(store.param, index, Val(after, register_of(dtype)), [], scope)
