"""Short reductions written out: the taps of a window become one expression over the lanes.

A depthwise convolution or a pooling reduces a few points at every result. As loops they cost more
than what they add up; written out, their addresses and conditions are found once for a row of
results, and processors overlap the sums of neighbouring results.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from niello.codegen.access import cost, loads
from niello.codegen.collapse import rename
from niello.core.dtypes import int64
from niello.core.nodes import Node, transform
from niello.kernel.bounds import affine
from niello.kernel.ir import Expr, Fn, Range, Reduce, const, fn, free_ranges
from niello.kernel.simplify import simplify_expr

_POINTS = 32  # that are written out at most
_COST = 600.0  # of all points together, in instructions
_LANES = 4  # results in a row for which it pays


def unroll_reductions(
    root: Expr, ranges: Sequence[Range], memo: dict[Expr, Expr] | None = None
) -> Expr:
    """The expression of a store over `ranges` with its short reductions written out.

    Those are taken that differ at all points, and whose elements lie side by side along the last of
    the ranges, which is then the one to run over lanes.
    """
    if not ranges or ranges[-1].extent < _LANES:
        return root
    points = frozenset(r for r in ranges if r.extent > 1)

    def visit(node: Node) -> Node:
        if isinstance(node, Reduce) and points <= free_ranges(node) and _suits(node, ranges[-1]):
            return _written_out(node)
        return node

    return transform(root, visit, memo)  # type: ignore[arg-type,return-value]


def _suits(node: Reduce, lanes: Range) -> bool:
    points = math.prod(r.extent for r in node.ranges)
    if not 0 < points <= _POINTS or points * cost([node.body]) > _COST:
        return False
    if lanes not in free_ranges(node.body) or lanes in node.ranges:
        return False
    # What lies side by side along a reduced range is better off with lanes over that.
    for x in loads([node.body]):
        index = affine(x.index)
        step = index.stride(lanes)
        if step not in (0, 1, 2) or (step == 0 and any(index.stride(r) == 1 for r in node.ranges)):
            return False
    return True


def _written_out(node: Reduce) -> Expr:
    total: Expr | None = None
    for point in itertools.product(*(range(r.extent) for r in node.ranges)):
        at: dict[Range, Expr] = {
            r: const(i, int64) for r, i in zip(node.ranges, point, strict=True)
        }
        term: Expr = simplify_expr(rename(node.body, at))  # type: ignore[arg-type]
        if total is None:
            total = term
        elif node.op == "add" and _is_product(term):
            total = fn("fma", *term.args, total)  # type: ignore[attr-defined]
        else:
            total = fn(node.op, total, term)
    assert total is not None
    return total


def _is_product(term: Expr) -> bool:
    return isinstance(term, Fn) and term.name == "mul" and term.dtype.is_float


__all__ = ["unroll_reductions"]
