"""Contractions: which range plays which part, and operands and epilogue in terms of flat ranges.

    C[z, m, n] = epilogue( sum over k of A(z, m, k) * B(z, k, n) )

A range of the stores that only one operand depends on belongs to that operand, a range of both or
of none is a batch. `m`, `n`, `k` and `z` are each walked as one flat range; where several ranges
are behind one, positions are taken apart by divisions. Operands and epilogue are any expressions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from niello.codegen.collapse import collapsed, divided, rename
from niello.codegen.rows import replace
from niello.core.dtypes import DType, compute_dtype, int64
from niello.core.nodes import Node, walk
from niello.kernel.bounds import affine
from niello.kernel.build import ravel
from niello.kernel.ir import (
    ArgReduce,
    Contract,
    Expr,
    Fn,
    Load,
    Param,
    Range,
    Reduce,
    Store,
    cast,
    const,
    fn,
    free_ranges,
)
from niello.kernel.simplify import simplify_expr

_RESULT_SLOT = -1  # no kernel has this parameter: it stands for the finished sum
_LEAST_WORK = 1 << 14  # multiplications below which tiles do not pay


@dataclass(frozen=True)
class Contraction:
    """A contraction for tiles. `stores` hold at every point of z, m and n, in terms of `result`.

    `a` runs over `z`, `m` and `k`, `b` over `z`, `n` and `k`; both have dtype `dtype`, in which the
    sums are kept. With several `parts`, each sums its share of k, of `part_size` points, and `part`
    is its number in the stores.
    """

    z: tuple[Range, ...]
    m: tuple[Range, ...]
    n: tuple[Range, ...]
    k: tuple[Range, ...]
    a: Expr
    b: Expr
    result: Expr
    stores: tuple[Store, ...]
    dtype: DType
    parts: int = 1
    part: Range | None = None
    part_size: int = 0

    def extent(self, ranges: Sequence[Range]) -> int:
        """Points of some ranges."""
        return math.prod(r.extent for r in ranges)

    @property
    def work(self) -> int:
        """Multiplications."""
        return self.extent((*self.z, *self.m, *self.n, *self.k))


def as_reduction(node: Node) -> Node:
    """A contraction as a sum of products; any other node as it is."""
    if not isinstance(node, Contract):
        return node
    dtype = compute_dtype(node.dtype)
    body = fn("mul", cast(node.a, dtype), cast(node.b, dtype))
    return cast(Reduce("add", node.ranges, body) if node.ranges else body, node.dtype)


def worth_tiles(node: Contract) -> bool:
    """Whether a contraction has rows and columns enough to be worth tiles."""
    in_a, in_b = free_ranges(node.a), free_ranges(node.b)
    rows = math.prod(r.extent for r in in_a - in_b - frozenset(node.ranges))
    columns = math.prod(r.extent for r in in_b - in_a - frozenset(node.ranges))
    points = math.prod(r.extent for r in (*node.ranges, *free_ranges(node)))
    if any(r.extent == 0 for r in node.ranges):
        return False
    return rows >= 4 and columns >= 4 and points >= _LEAST_WORK


def can_finish(node: Contract, ranges: Sequence[Range], stores: Sequence[Store]) -> bool:
    """Whether the stores can be evaluated at each result by itself, where it has been summed."""
    if frozenset(r for r in ranges if r.extent > 1) - free_ranges(node):
        return False
    for s in stores:
        reached = set(walk([s.value]))
        if node not in reached or s.combine is not None:
            return False
        if any(isinstance(x, Contract) and x is not node for x in reached):
            return False
        if s.gate is not None and node in set(walk([s.gate])):
            return False
        for x in reached:
            if isinstance(x, (Reduce, ArgReduce, Load)) and node in set(walk([x])):
                return False
            # Another reduction at each result: cheap ones only.
            long = isinstance(x, (Reduce, ArgReduce)) and math.prod(r.extent for r in x.ranges) > 16
            if long:
                return False
    return True


def contraction_of(node: Contract, ranges: Sequence[Range], stores: Sequence[Store]) -> Contraction:
    """The roles of a contraction whose results the stores are made from."""
    dtype = compute_dtype(node.dtype)
    cut, digits = divided(node.ranges, [node.a, node.b])
    factors = [
        simplify_expr(rename(x, digits)) if digits else x  # type: ignore[arg-type]
        for x in (node.a, node.b)
    ]
    k, mapping = collapsed(cut, factors)
    a, b = (_operand(cast(rename(x, mapping), dtype)) for x in factors)  # type: ignore[arg-type]
    in_a, in_b = free_ranges(a), free_ranges(b)
    m = tuple(r for r in ranges if r in in_a and r not in in_b)
    n = tuple(r for r in ranges if r in in_b and r not in in_a)
    z = tuple(r for r in ranges if r not in m and r not in n)
    position = affine(stores[0].index)
    if any(position.stride(r) == 1 for r in m):
        # Neighbouring results belong to neighbouring columns.
        a, b, m, n = b, a, n, m
    k = _ordered(k, a, b)
    result = _result(dtype, ranges)
    chosen: dict[Node, Node] = {node: cast(result, node.dtype)}
    finished = tuple(replace(s, chosen) for s in stores)
    return Contraction(z, m, n, k, a, b, result, finished, dtype)  # type: ignore[arg-type]


def in_parts(whole: Contraction, parts: int, buffer: Param, step: int) -> Contraction:
    """The contraction whose sums over shares of k are left in a buffer.

    Shares are multiples of `step` points. The buffer holds (part, z, m, n) in row-major order.
    """
    points = whole.extent(whole.k)
    size = -(-points // parts)
    size = -(-size // step) * step
    part = Range("k_part", -(-points // size))
    ranges = (part, *whole.z, *whole.m, *whole.n)
    index = ravel(ranges, [r.extent for r in ranges])
    store = Store(buffer, ranges, index, whole.result, None, None)
    return Contraction(
        whole.z, whole.m, whole.n, whole.k, whole.a, whole.b, whole.result, (store,),
        whole.dtype, part.extent, part, size,
    )  # fmt: skip


def part_count(whole: Contraction, parts: int, step: int) -> int:
    """How many parts `in_parts` makes when that many are asked for."""
    points = whole.extent(whole.k)
    size = -(-points // parts)
    return -(-points // (-(-size // step) * step))


def _result(dtype: DType, ranges: Sequence[Range]) -> Expr:
    """A leaf that stands for the finished sum: it has its dtype and depends on all ranges."""
    position: Expr = const(0, int64)
    for r in ranges:
        position = position + r
    return Load(Param(_RESULT_SLOT, dtype, 1, False), position, None)


def _operand(expr: Expr) -> Expr:
    """An operand without what a gated load does by itself: a zero where the gate is false."""
    if isinstance(expr, Fn) and expr.name == "where":
        test, value, zero = expr.args
        gated = isinstance(value, Load) and value.gate is test
        if gated and getattr(zero, "value", None) == 0:
            return value
    return expr


def _ordered(k: tuple[Range, ...], a: Expr, b: Expr) -> tuple[Range, ...]:
    """Ranges of k, the one that an operand is contiguous along last."""
    for expr in (a, b):
        for x in walk([expr]):
            if isinstance(x, Load):
                near = [r for r in k if affine(x.index).stride(r) == 1]
                if near:
                    return (*(r for r in k if r is not near[0]), near[0])
    return k
