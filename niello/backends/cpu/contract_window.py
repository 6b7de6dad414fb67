"""A row operand read from a small copy with a zero border, as convolutions with padding want.

Along the row axis m and one loop over k (the kernel's width, say) the operand's position is a sum
q_m * m + q_k * k. The window holds every position once, where a matrix of k by m would repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass

from niello.backends.cpu.contract_roles import slack
from niello.core.dtypes import int64
from niello.core.nodes import Node, transform, walk
from niello.kernel import ir
from niello.kernel.bounds import affine
from niello.kernel.ir import Expr, Load, Range, free_ranges


@dataclass(frozen=True)
class Box:
    """A box of positions: `value` is an element in terms of `axes` (and of outer and batch ranges).

    A(m, k...) is at offset `base + m_step * m + sum(k_steps[i] * k[i])` of a buffer with `strides`.
    """

    value: Expr
    axes: tuple[Range, ...]
    strides: tuple[int, ...]
    base: int
    m_step: int
    k_steps: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Size of the copy, in what offsets count."""
        return 1 + sum((r.extent - 1) * s for r, s in zip(self.axes, self.strides, strict=True))


def find_box(
    expr: Expr, m: Range, k: tuple[Range, ...], size: int, *, per_unit: int = 0
) -> Box | None:
    """The box that a row operand is read from, or None if its positions do not form one.

    `size` is the number of bytes of an element, for a layout without cache conflicts. With
    `per_unit` the last axis must be the innermost loop over k, and offsets count units along it.
    """
    loads = [n for n in walk([expr]) if isinstance(n, Load) and m in free_ranges(n.index)]
    if not loads:
        return None
    first = affine(loads[0].index)
    if any(first.stride(r) is None for r in (m, *k)):
        return None
    step_m = first.coefficient(m)
    partner: Range | None = None
    unit = m
    for r in k:
        step = first.coefficient(r)
        if step and step_m and (step % step_m == 0 or step_m % step == 0):
            candidate = m if step % step_m == 0 else r
            if _proportional(expr, {m: step_m, r: step}):
                partner, unit = r, candidate
                break
    if partner is None:
        return None
    unit_step = first.coefficient(unit)
    factors = {r: first.coefficient(r) // unit_step for r in (m, partner)}
    low = sum(min(0, q * (r.extent - 1)) for r, q in factors.items())
    high = sum(max(0, q * (r.extent - 1)) for r, q in factors.items())
    position = Range("window_position", high - low + 1)
    mapping: dict[Node, Node] = {r: ir.const(0, int64) for r in (m, partner)}
    mapping[unit] = position + low
    value: Expr = transform(expr, _again, mapping)  # type: ignore[assignment]
    axes = sorted(
        [position, *(r for r in k if r is not partner)],
        key=lambda r: -abs(unit_step if r is position else first.coefficient(r)),
    )
    if per_unit:
        return (
            _lay_out(value, axes, None, position, factors, low, m, k, size, per_unit)
            if (axes[-1] is k[-1])
            else None
        )
    steps = {r: unit_step if r is position else first.coefficient(r) for r in axes}
    inner = axes[-1]
    line = None
    in_sequence = len(axes) > 1 and axes[-2] is position and steps[inner] == 1
    if in_sequence and steps[position] == inner.extent < 16:
        line = Range("window_line", position.extent * inner.extent)
        value = _one_line(value, position, inner, line)
    return _lay_out(value, axes, line, position, factors, low, m, k, size)


def _one_line(value: Expr, position: Range, inner: Range, line: Range) -> Expr:
    """The same elements along one range: position * inner.extent + inner, contiguous in memory."""
    extent = inner.extent
    apart: dict[Node, Node] = {position: line // extent, inner: line % extent}
    for node in walk([value]):
        room = slack(node) if isinstance(node, ir.Fn) and node.name in ("lt", "le") else None
        if room is None or inner in free_ranges(room) or position not in free_ranges(room):
            continue
        step = affine(room).stride(position)
        if step not in (1, -1):
            continue
        # position >= p holds for elements from p * extent on, position <= p up to the end of p.
        rest = ir.substitute(room, {position: ir.const(0, int64)})
        if node.name == "lt":  # type: ignore[attr-defined]
            rest = rest - 1
        moved = rest * extent + line if step > 0 else rest * extent + (extent - 1) - line
        apart[node] = ir.fn("le", ir.const(0, int64), moved)
    memo = dict(apart)
    for node in walk([value]):
        if isinstance(node, Load) and not free_ranges(node.index).isdisjoint((position, inner)):
            form = affine(node.index)
            if form.stride(inner) == 1 and form.stride(position) == extent:
                index = ir.substitute(node.index, {position: ir.const(0, int64), inner: line})
                gate = node.gate
                if gate is not None:
                    gate = transform(gate, _again, dict(apart))  # type: ignore[assignment]
                memo[node] = Load(node.param, index, gate)
    return transform(value, _again, memo)  # type: ignore[return-value]


def _lay_out(
    value: Expr,
    axes: list[Range],
    line: Range | None,
    position: Range,
    factors: dict[Range, int],
    low: int,
    m: Range,
    k: tuple[Range, ...],
    size: int,
    per_unit: int = 0,
) -> Box:
    strides: dict[Range, int] = {}
    step = 1
    for r in reversed(axes):
        strides[r] = step
        step *= -(-r.extent // per_unit) if per_unit and r is axes[-1] else r.extent
        if step * size % 2048 == 0 and (line is None or r is position):
            step += 64 // size  # rows a multiple of half a page apart fall into one cache set
    k_steps = tuple(strides[position] * factors[r] if r in factors else strides[r] for r in k)
    shown = axes if line is None else [*axes[:-2], line]
    widths = [strides[r] if r is not line else 1 for r in shown]
    return Box(
        value,
        tuple(shown),
        tuple(widths),
        -low * strides[position],
        strides[position] * factors[m],
        k_steps,
    )


def _again(node: Node) -> Node:
    return ir.fn(node.name, *node.args) if isinstance(node, ir.Fn) else node


def _proportional(expr: Expr, steps: dict[Range, int]) -> bool:
    """Whether every index in `expr` moves along the ranges in the proportion of `steps`."""
    free = free_ranges(expr)
    if free.isdisjoint(steps):
        return True
    expr = slack(expr) or expr
    if expr.dtype is int64 and not isinstance(expr, (ir.Reduce, ir.ArgReduce, Load)):
        form = affine(expr)
        (a, p), (b, q) = steps.items()
        return form.coefficient(a) * q == form.coefficient(b) * p and all(
            free_ranges(t).isdisjoint(steps)
            or (not isinstance(t, Range) and _in_children(t, steps))
            for t, _ in form.rest
        )
    return _in_children(expr, steps)


def _in_children(expr: Expr, steps: dict[Range, int]) -> bool:
    return all(_proportional(c, steps) for c in expr.children if isinstance(c, Expr))
