"""Which range of a contraction plays which part, and its expressions rewritten for that.

    C[batch, outer, m, n] = epilogue( sum over k of A(batch, outer, m, k) * B(batch, n, k) )

A range of the stores that only one operand depends on belongs to that operand; a range of both is a
batch. The vector side (B) is the operand that owns the range along which results are contiguous.
Neighbouring ranges are merged wherever every index expression allows it; what is left over becomes
loops, or one flat range taken apart by divisions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from niello.backends.cpu.contract_strides import (
    Phases,
    find_phases,
    rewrite_operand,
    rewrite_result,
)
from niello.core.dtypes import int64
from niello.core.nodes import Node, transform, walk
from niello.kernel import ir
from niello.kernel.bounds import affine, is_false, is_true
from niello.kernel.ir import Contract, Expr, Kernel, Load, Param, Range, Store, free_ranges


@dataclass(frozen=True)
class Roles:
    """A contraction ready to emit; every expression is in terms of these ranges.

    `result` stands for the finished sum in the values of `stores`. `a` and `b` have the
    contraction's dtype.
    """

    batch: tuple[Range, ...]
    outer: tuple[Range, ...]
    m: Range
    n: Range
    k: tuple[Range, ...]
    a: Expr
    b: Expr
    result: Expr
    stores: tuple[Store, ...]
    b_is_constant: bool = False

    @property
    def contiguous(self) -> Range | None:
        """The axis of a tile, m or n, along which the first store is contiguous."""
        position = affine(self.stores[0].index)
        for axis in (self.n, self.m):
            if axis.extent > 1 and position.stride(axis) == 1:
                return axis
        return None


def contraction_of(kernel: Kernel) -> Contract | None:
    """The one contraction a kernel computes, or None if tiles do not suit it.

    They suit when all stores run over the same ranges, none accumulates, there is one Contract and
    no other bound range around it, and each of its operands has something of its own to be
    multiplied with.
    """
    contracts = {n for n in walk(kernel.stores) if isinstance(n, Contract)}
    if len(contracts) != 1:
        return None
    (contract,) = contracts
    first = kernel.stores[0]
    for store in kernel.stores:
        if store.ranges != first.ranges or store.combine is not None:
            return None
        if contract not in set(walk([store.value])):
            return None
        for node in walk([store.index, *([store.gate] if store.gate else [])]):
            if node is contract:
                return None
    own = {r for r in first.ranges if r.extent != 1}
    if not free_ranges(contract) <= set(first.ranges) or any(
        r.extent == 0 for r in (*contract.ranges, *first.ranges)
    ):
        return None
    for node in walk([s.value for s in kernel.stores]):
        # A reduction over the contraction needs all of its results at once.
        if isinstance(node, (ir.Reduce, ir.ArgReduce)) and contract in set(walk([node])):
            return None
        if isinstance(node, Load) and contract in set(walk([node.index])):
            return None
    a, b = free_ranges(contract.a) & own, free_ranges(contract.b) & own
    return contract if (a - b or b - a) else None


def assign_roles(
    kernel: Kernel, contract: Contract, width: int, constants: frozenset[int] = frozenset()
) -> Roles:
    """Classify, merge and rewrite. `width` is the number of lanes of the widest vector.

    `constants` are the slots of parameters that hold the same in every run.
    """
    return _Assignment(kernel, contract, width, constants).run()


class _Assignment:
    def __init__(
        self, kernel: Kernel, contract: Contract, width: int, constants: frozenset[int]
    ) -> None:
        self.contract, self.width, self.constants = contract, width, constants
        self.stores = list(kernel.stores)
        self.a = _operand(ir.cast(contract.a, contract.dtype))
        self.b = _operand(ir.cast(contract.b, contract.dtype))
        self.ranges = tuple(r for r in self.stores[0].ranges if r.extent != 1)
        ones: dict[Node, Node] = {
            r: ir.const(0, int64)
            for r in (*self.stores[0].ranges, *contract.ranges)
            if r.extent == 1
        }
        self.mark = _result(contract, self.stores[0].ranges)
        self.k = [r for r in contract.ranges if r.extent != 1]
        self._rewrite({contract: self.mark})
        self._rewrite(ones)
        while (phases := find_phases([self.a, self.b], self.ranges, self.k)) is not None:
            self._split(phases)

    # --- expressions

    def _rewrite(self, mapping: dict[Node, Node]) -> None:
        if not mapping:
            return
        memo = dict(mapping)

        def change(expr: Expr) -> Expr:
            return transform(expr, _visit, memo)  # type: ignore[return-value]

        self.a, self.b = _operand(change(self.a)), _operand(change(self.b))
        self.mark = change(self.mark)
        self.stores = [
            Store(
                s.param,
                (),
                change(s.index),
                change(s.value),
                None if s.gate is None else change(s.gate),
                None,
            )
            for s in self.stores
        ]

    def _split(self, phases: Phases) -> None:
        """Rewrite everything for a result range that is cut into phases."""
        self.a = _operand(rewrite_operand(self.a, phases))
        self.b = _operand(rewrite_operand(self.b, phases))
        swap = (phases.coarse, phases.phase)
        self.ranges = tuple(new for r in self.ranges for new in (swap if r is phases.old else (r,)))
        self.k = [phases.inner if r is phases.old_k else r for r in self.k]
        self._rewrite({self.mark: _result(self.contract, self.ranges)})

        def change(expr: Expr) -> Expr:
            return rewrite_result(expr, phases)

        self.stores = [
            Store(
                s.param,
                (),
                change(s.index),
                change(s.value),
                None if s.gate is None else change(s.gate),
                None,
            )
            for s in self.stores
        ]
        values = walk([s.value for s in self.stores])
        self.mark = next(n for n in values if isinstance(n, Load) and _is_result(n))

    def _expressions(self) -> list[Expr]:
        gates = [s.gate for s in self.stores if s.gate is not None]
        indices = [s.index for s in self.stores]
        return [self.a, self.b, *indices, *[s.value for s in self.stores], *gates]

    # --- roles

    def run(self) -> Roles:
        in_a, in_b = free_ranges(self.a), free_ranges(self.b)
        position = affine(self.stores[0].index)

        def far(r: Range) -> int:
            return -abs(position.coefficient(r))

        m = sorted((r for r in self.ranges if r in in_a and r not in in_b), key=far)
        n = sorted((r for r in self.ranges if r in in_b and r not in in_a), key=far)
        batch = [r for r in self.ranges if r not in m and r not in n]
        k = self._order_k([r for r in self.k if r.extent != 1])
        m, n, k = self._merge(m, "m"), self._merge(n, "n"), self._merge(k, "k")
        batch = self._merge(batch, "batch")
        if self._swap(m, n, k):
            self.a, self.b, m, n = self.b, self.a, n, m
        k = self._deepen(k)
        n_range, more = self._vector_axis(n)
        m_range, outer = self._row_axis(m)
        # The result varies with the row and lane of a tile even where an axis has one point.
        self._rewrite(
            {self.mark: _result(self.contract, (*batch, *more, *outer, m_range, n_range))}
        )
        return Roles(
            tuple(batch + more),
            tuple(outer),
            m_range,
            n_range,
            tuple(k) or (Range("contract_k", 1),),
            self.a,
            self.b,
            self.mark,
            tuple(self.stores),
            self._is_constant(self.b),
        )

    def _is_constant(self, operand: Expr) -> bool:
        """Whether an operand is made of memory that never changes."""
        loads = [n for n in walk([operand]) if isinstance(n, Load)]
        return bool(loads) and all(n.param.slot in self.constants for n in loads)

    def _swap(self, m: Sequence[Range], n: Sequence[Range], k: Sequence[Range]) -> bool:
        """Whether the operand called A should be the vector side."""
        if not m or not n:
            return not n
        contiguous = {r for s in self.stores for r in (*m, *n) if affine(s.index).stride(r) == 1}
        points = math.prod(r.extent for r in k)

        def cost(vector: Sequence[Range], rows: Sequence[Range], b: Expr, a: Expr) -> float:
            """Modelled cycles, times two: multiply-adds, results, and packing both operands."""
            columns = math.prod(r.extent for r in vector)
            height = math.prod(r.extent for r in rows)
            run = vector[-1].extent
            lanes = self.width * -(-run // self.width) / run if run >= 4 else 1.0
            vectors = max(1.0, lanes * columns / self.width) * height
            crosswise = contiguous.isdisjoint(vector)
            slow = 2.5 if height < 3 else 1.3 if height < 5 else 1.0  # few rows: units wait
            packing = 0.0  # of constants, before any run
            if not self._is_constant(b):
                packing = _packing(b, vector, k, transposes=True) * columns * points
            packing += _packing(a, rows, k, transposes=False) * height * points
            return vectors * points * slow + vectors * (16 if crosswise else 2) + packing

        return cost(m, n, self.a, self.b) < cost(n, m, self.b, self.a)

    def _order_k(self, k: list[Range]) -> list[Range]:
        """Put the range along which an operand is contiguous last: it is the innermost loop."""
        for expr in (self.a, self.b):
            if isinstance(expr, Load):
                index = affine(expr.index)
                near = [r for r in k if index.stride(r) == 1]
                if near and len(k) > 1 and any(index.stride(r) in (1, 2, 3) for r in self.ranges):
                    # Rows of pixels meet again in steps along the kernel: no innermost loop.
                    near = [r for r in k if r is not near[0]][-1:]
                if near:
                    return [r for r in k if r is not near[0]] + [near[0]]
        return k

    def _deepen(self, k: list[Range]) -> list[Range]:
        """Make a long loop the innermost where that is a short one, as channels before a kernel."""
        if len(k) < 2 or k[-1].extent >= 8 or not isinstance(self.b, Load):
            return k
        gates = [n.gate for n in walk([self.a]) if isinstance(n, Load) and n.gate is not None]
        gated = frozenset().union(*map(free_ranges, gates))
        far = 16384 // self.b.param.dtype.itemsize
        position = affine(self.b.index)
        near = [
            r
            for r in k[:-1]
            if r.extent >= 8 and r not in gated and 0 < abs(position.stride(r) or 0) <= far
        ]
        if not near:
            return k
        longest = max(near, key=lambda r: r.extent)
        return [r for r in k if r is not longest] + [longest]

    def _merge(self, ranges: Sequence[Range], name: str) -> list[Range]:
        """Merge neighbours (outer, inner) that every expression sees as one range."""
        merged: list[Range] = []
        for r in ranges:
            if merged and all(_one_range(e, merged[-1], r) for e in self._expressions()):
                outer = merged.pop()
                both = Range(
                    f"contract_{name}{len(merged)}_{outer.extent * r.extent}",
                    outer.extent * r.extent,
                )
                self._rewrite({outer: ir.const(0, int64), r: both})
                r = both
            merged.append(r)
        return merged

    def _flatten(self, ranges: Sequence[Range], name: str) -> Range:
        """One range for all points of several, which it is taken apart into by divisions."""
        total = math.prod(r.extent for r in ranges)
        flat = Range(f"contract_{name}", total)
        mapping: dict[Node, Node] = {}
        rest: Expr = flat
        for r in reversed(ranges[1:]):
            mapping[r] = rest % r.extent
            rest = rest // r.extent
        mapping[ranges[0]] = rest
        self._rewrite(mapping)
        return flat

    def _vector_axis(self, n: list[Range]) -> tuple[Range, list[Range]]:
        """The range that runs over lanes, and vector-side ranges that become loops around."""
        if not n:
            return Range("contract_n", 1), []
        inner = n[-1].extent
        used = inner / (-(-inner // self.width) * self.width)
        if len(n) == 1 or used >= 0.7:
            return n[-1], n[:-1]
        return self._flatten(n, "n"), []

    def _row_axis(self, m: list[Range]) -> tuple[Range, list[Range]]:
        """The range that runs over the rows of tiles, and the loops around it."""
        if not m:
            return Range("contract_m", 1), []
        if len(m) == 1 or m[-1].extent >= 6:
            return m[-1], m[:-1]
        # A long range that no condition depends on (channels, say) needs no border.
        loads = [n for n in walk([self.a]) if isinstance(n, Load)]
        gated = frozenset().union(*(free_ranges(n.gate) for n in loads if n.gate is not None))
        free = [r for r in m if r.extent >= 6 and r not in gated]
        if free:
            longest = max(free, key=lambda r: r.extent)
            return longest, [r for r in m if r is not longest]
        return self._flatten(m, "m"), []


_RESULT_SLOT = -1_000_000


def _is_result(expr: Expr) -> bool:
    return isinstance(expr, Load) and expr.param.slot == _RESULT_SLOT


def _result(contract: Contract, ranges: Sequence[Range]) -> Expr:
    """A leaf that stands for the finished sum: it has its dtype and depends on all ranges."""
    position: Expr = ir.const(0, int64)
    for r in ranges:
        position = position + r
    return Load(Param(_RESULT_SLOT, contract.dtype, 1 << 62, False), position, None)


def _operand(expr: Expr) -> Expr:
    """An operand without what a gated load does by itself: a zero where the gate is false."""
    if isinstance(expr, ir.Fn) and expr.name == "where":
        test, value, zero = expr.args
        if (
            isinstance(value, Load)
            and value.gate is test
            and isinstance(zero, ir.Const)
            and zero.value == 0
        ):
            return value
    return expr


def _visit(node: Node) -> Node:
    """Keep rewritten expressions folded: scalar functions again through their constructor."""
    if isinstance(node, ir.Fn):
        return ir.fn(node.name, *node.args)
    if isinstance(node, Load) and node.gate is not None:
        if is_true(node.gate):
            return Load(node.param, node.index, None)
        if is_false(node.gate) and not node.param.dtype.is_half:
            return ir.const(0, node.param.dtype)
    return node


def slack(condition: Expr) -> Expr | None:
    """For a comparison of indices: right side minus left side, which is all that decides it."""
    if isinstance(condition, ir.Fn) and condition.name in ("lt", "le", "eq", "ne"):
        left, right = condition.args
        if left.dtype is int64:
            return right - left
    return None


def _one_range(expr: Expr, outer: Range, inner: Range) -> bool:
    """Whether outer * inner.extent + inner can be one range everywhere in `expr`."""
    free = free_ranges(expr)
    if (outer not in free and inner not in free) or _is_result(expr):
        return True
    expr = slack(expr) or expr
    if expr.dtype is int64 and not isinstance(expr, (ir.Reduce, ir.ArgReduce, Load)):
        form = affine(expr)
        if form.coefficient(outer) != form.coefficient(inner) * inner.extent:
            return False
        return all(
            not free_ranges(term) & {outer, inner}
            or (not isinstance(term, Range) and _one_in_children(term, outer, inner))
            for term, _ in form.rest
        )
    return _one_in_children(expr, outer, inner)


def _one_in_children(expr: Expr, outer: Range, inner: Range) -> bool:
    children: Iterable[Node] = expr.children
    return all(_one_range(c, outer, inner) for c in children if isinstance(c, Expr))


def _packing(expr: Expr, own: Sequence[Range], k: Sequence[Range], *, transposes: bool) -> float:
    """Cost per element of packing an operand: low along memory, high where it is gathered."""
    forms = [affine(n.index) for n in walk([expr]) if isinstance(n, Load)]
    best = 1.0
    for ranges, price in ((own, 0.1), (k, 0.3 if transposes else 0.1)):
        runs = [r.extent for f in forms for r in ranges if f.stride(r) == 1]
        if len(runs) >= len(forms):
            run = min(runs, default=16)
            best = min(best, price if run >= 32 else price + 0.2 if run >= 8 else 1.0)
    return best
