"""Strided data gradients without the multiplications by zero.

The gradient of a convolution of stride s reads a window only where (h + c - kh) % s == 0. Written
with h = s * h' + p and kh = s * j + (p + c) % s that condition always holds: for each phase p the
sum runs over the part of the kernel that meets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from niello.core.dtypes import bool_, int64
from niello.core.nodes import Node, transform, walk
from niello.kernel import ir
from niello.kernel.bounds import affine
from niello.kernel.ir import Expr, Fn, Load, Range, free_ranges
from niello.kernel.simplify import simplify_expr


@dataclass(frozen=True)
class Phases:
    """A result range cut into `coarse` steps and `phase`, and the sum's range `inner` of a phase.

    `mapping` rewrites expressions; `inside` is the condition that `inner` is in the kernel.
    """

    old: Range
    old_k: Range
    coarse: Range
    phase: Range
    inner: Range
    mapping: dict[Node, Node]
    inside: Expr | None


def find_phases(
    exprs: Sequence[Expr], results: Sequence[Range], k: Sequence[Range]
) -> Phases | None:
    """The first stride condition in gates of `exprs` that can be resolved, or None."""
    gates = [n.gate for n in walk(exprs) if isinstance(n, Load) and n.gate is not None]
    for node in walk(gates):
        if isinstance(node, Fn) and node.name == "eq":
            found = _resolve(node, results, k)
            if found is not None:
                return found
    return None


def _resolve(test: Fn, results: Sequence[Range], k: Sequence[Range]) -> Phases | None:
    rest, zero = test.args
    if not (isinstance(rest, Fn) and rest.name == "floormod" and isinstance(zero, ir.Const)):
        return None
    position, by = rest.args
    if zero.value != 0 or not isinstance(by, ir.Const) or by.value < 2:
        return None
    stride = int(by.value)
    form = affine(position)
    used = [r for r, c in form.coefficients.items() if c]
    old = [r for r in used if r in results]
    old_k = [r for r in used if r in k]
    if form.rest or len(used) != 2 or len(old) != 1 or len(old_k) != 1:
        return None
    a, b = form.coefficient(old[0]), form.coefficient(old_k[0])
    if abs(a) != 1 or abs(b) != 1 or old[0].extent % stride:
        return None
    coarse = Range(f"{old[0].name}_coarse", old[0].extent // stride)
    phase = Range(f"{old[0].name}_phase", stride)
    inner = Range(f"{old_k[0].name}_inner", -(-old_k[0].extent // stride))
    first = ((phase * a + form.constant) * -b) % stride
    inside = None
    if old_k[0].extent % stride:
        inside = simplify_expr(ir.fn("le", inner, (old_k[0].extent - 1 - first) // stride))
    mapping: dict[Node, Node] = {
        test: ir.const(True, bool_),
        old[0]: coarse * stride + phase,
        old_k[0]: inner * stride + first,
    }
    return Phases(old[0], old_k[0], coarse, phase, inner, mapping, inside)


def rewrite_operand(expr: Expr, phases: Phases) -> Expr:
    """An operand in terms of the new ranges: zero where the sum leaves the kernel."""
    found = rewrite_result(expr, phases)
    if phases.inside is None:
        return found
    memo: dict[Node, Node] = {}
    for node in walk([found]):
        if isinstance(node, Load):
            gate = phases.inside if node.gate is None else ir.fn("and", node.gate, phases.inside)
            memo[node] = Load(node.param, node.index, gate)
    if isinstance(found, Load):
        return memo[found]  # type: ignore[return-value]
    gated: Expr = transform(found, _again, memo)  # type: ignore[assignment]
    return ir.fn("where", phases.inside, gated, ir.const(0, found.dtype))


def rewrite_result(expr: Expr, phases: Phases) -> Expr:
    """An expression in terms of the new ranges."""
    changed: Expr = transform(expr, _again, dict(phases.mapping))  # type: ignore[assignment]
    changed = simplify_expr(changed)
    memo: dict[Node, Node] = {}
    for node in walk([changed]):
        if isinstance(node, Fn) and node.name in ("lt", "le") and node.args[0].dtype is int64:
            memo[node] = _divided(node, phases)
    return transform(changed, _again, memo)  # type: ignore[return-value]


def _divided(test: Fn, phases: Phases) -> Expr:
    """A comparison whose ranges all move in steps of the stride, in steps of one."""
    stride = phases.phase.extent
    left, right = test.args
    room = right - left if test.name == "le" else right - left - 1
    form = affine(room)
    moving = {r: c for r, c in form.coefficients.items() if c and r is not phases.phase}
    fixed = all(free_ranges(t) <= {phases.phase} for t, _ in form.rest)
    if not moving or not fixed or any(c % stride for c in moving.values()):
        return test
    still = ir.substitute(room, {r: ir.const(0, int64) for r in moving})
    steps: Expr = simplify_expr(still // stride)
    for r, c in moving.items():
        steps = steps + r * (c // stride)
    return ir.fn("le", ir.const(0, int64), steps)


def _again(node: Node) -> Node:
    return ir.fn(node.name, *node.args) if isinstance(node, Fn) else node
