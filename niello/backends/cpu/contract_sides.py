"""How each operand of a contraction is read: in place, or packed through its expression."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from niello.backends.cpu.contract_pairs import Pairs
from niello.backends.cpu.contract_roles import Roles, slack
from niello.backends.cpu.contract_window import Box, find_box
from niello.backends.cpu.gemm_dot import MOST_ROWS
from niello.backends.cpu.gemm_pairs import BoxLines, box_lines, lines_across, lines_along_k
from niello.backends.cpu.gemm_tile import Target, choose_tile
from niello.backends.cpu.gemm_types import (
    NOWHERE,
    Direct,
    Packed,
    Place,
    Read,
    Ready,
    Trim,
    Window,
)
from niello.backends.cpu.llvm_text import Function, Operand, Value
from niello.backends.cpu.render_types import memory_type, register_type
from niello.backends.cpu.vectors import Emitter, Scope
from niello.core.dtypes import bfloat16, int8, int16, uint8
from niello.core.nodes import walk
from niello.kernel import ir
from niello.kernel.bounds import Affine, affine, is_true
from niello.kernel.ir import Cast, Expr, Fn, Load, Range, free_ranges

Live = Callable[[int], tuple[int, int]]
Emitters = Callable[[Function, Place], Emitter]


class Sides:
    """Decides and builds the two sides of a contraction."""

    def __init__(
        self, roles: Roles, target: Target, emitters: Emitters, pairs: Pairs | None = None
    ) -> None:
        if pairs is not None:
            roles = replace(roles, a=pairs.a, b=pairs.b)
        self.roles, self.target, self.emitters, self.pairs = roles, target, emitters, pairs
        self.last = roles.k[-1].extent  # elements of the innermost loop over k
        self.element = register_type(roles.result.dtype)
        self.size = roles.result.dtype.itemsize
        self.rows = math.prod(r.extent for r in (roles.m, *roles.outer))
        self.depth = math.prod(r.extent for r in roles.k)

    # --- places

    def ranges_at(self, f: Function, place: Place) -> dict[Range, Value]:
        """The values of the ranges that a place knows."""
        roles = self.roles
        known: dict[Range, Value] = {}
        known.update(zip(roles.batch, place.batch, strict=False))
        known.update(zip(roles.outer, place.outer, strict=False))
        known.update(zip(roles.k, place.k, strict=False))
        if place.m is not NOWHERE:
            known[roles.m] = place.m
        if place.n is not NOWHERE:
            known[roles.n] = place.n
        return known

    # --- side A

    def a(self) -> Rowside:
        """How the row side is read, and what is known of its zeros."""
        roles, expr = self.roles, self.roles.a
        zeros = self._zeros(expr)
        if isinstance(expr, Load) and self._plain(expr, [roles.m, *roles.k]):
            live = self._live(zeros.bordered)
            if zeros.exact and live is not None and self._a_in_place(expr):
                form = affine(expr.index)
                steps = self._unit_steps(form)
                step = form.coefficient(roles.m)
                side = Direct(memory_type(expr.param.dtype), self._address(expr), step, steps)
                return Rowside(side, zeros.trims, live)
        boxed = self._without_trims(expr)
        count = 0 if self.pairs is None else self.pairs.count
        box = find_box(boxed, roles.m, roles.k, self.size, per_unit=count)
        if box is not None and self._box_pays(box):
            return Rowside(self._window(box), zeros.trims, {})
        along = self._a_axis_name(expr)
        axis = roles.m if along == "m" else roles.k[-1]
        lines = self._lines(expr, axis)
        if self.pairs is not None:
            packed = lines_along_k if along == "k" else lines_across
            lines = packed(lines, self.last, self.pairs.unit_a)
        return Rowside(Packed(lines, along), {}, {})

    def _unit_steps(self, form: Affine) -> tuple[int, ...]:
        """Strides of the loops over k, where the innermost may count units."""
        steps = [form.coefficient(r) for r in self.roles.k]
        if self.pairs is not None:
            steps[-1] *= self.pairs.count
        return tuple(steps)

    def _a_in_place(self, expr: Load) -> bool:
        """Packing A costs a copy per panel pass; reading in place costs cache conflicts.

        Where B is packed already, nothing else is copied into the cache, and in place is better.
        """
        roles = self.roles
        if (roles.n.extent > 128 and not roles.b_is_constant) or self.rows <= MOST_ROWS:
            return False
        step = affine(expr.index).coefficient(roles.m) * self.size
        return step % 4096 != 0 or roles.m.extent <= 8

    def _box_pays(self, box: Box) -> bool:
        fits = box.elements * self.size <= self.target.l2_bytes // 2
        runs = box.axes[-1].extent >= 4
        return fits and runs and box.elements < self.roles.m.extent * self.depth

    def _window(self, box: Box) -> Window:
        def line(f: Function, place: Place, index: tuple[Value, ...]) -> Read:
            known = self.ranges_at(f, place)
            known.update(zip(box.axes, index, strict=False))
            return self._line(f, place, box.value, box.axes[-1], known)

        def offset(f: Function, place: Place) -> Value:
            return f.add(f.mul(place.m, box.m_step), box.base)

        extents = [r.extent for r in box.axes]
        lines: BoxLines = line
        if self.pairs is not None:
            lines = box_lines(line, self.last, self.pairs.unit_a)
            extents[-1] = -(-extents[-1] // self.pairs.count)
        return Window(tuple(extents), box.strides, lines, offset, box.m_step, box.k_steps)

    def _a_axis_name(self, expr: Expr) -> str:
        loads = _main_loads(expr, self.roles.k[-1], self.roles.m)
        along_m = sum(affine(n.index).stride(self.roles.m) == 1 for n in loads)
        along_k = sum(affine(n.index).stride(self.roles.k[-1]) == 1 for n in loads)
        return "m" if along_m > along_k else "k"

    # --- side B

    def b(self) -> Direct | Packed | Ready:
        """The vector side. What never changes is packed before any run, behind the parameters."""
        side = self._b()
        if isinstance(side, Packed) and self.roles.b_is_constant:
            return Ready(side, lambda place: place.arguments[-1])
        return side

    def _b(self) -> Direct | Packed:
        roles = self.roles
        expr = roles.b
        if (
            isinstance(expr, Load)
            and expr.gate is None
            and self.pairs is None
            and self._plain(expr, [roles.n, *roles.k])
        ):
            form = affine(expr.index)
            few = self.rows <= 16
            if form.coefficient(roles.n) == 1:
                steps = tuple(form.coefficient(r) for r in roles.k)
                # Rows far apart, as those of one group among many, fall into few cache sets.
                reach = sum((r.extent - 1) * s for r, s in zip(roles.k, steps, strict=True))
                small = (reach + roles.n.extent) * self.size <= self.target.l1_bytes
                side = Direct(memory_type(expr.param.dtype), self._address(expr), 1, steps)
                if small or (few and not roles.b_is_constant):
                    return side
                return Packed(self._lines(expr, roles.n), "n", source=side)
        loads = _main_loads(expr, roles.n, *roles.k)
        forms = [affine(n.index) for n in loads]
        along_n = sum(f.stride(roles.n) in (0, 1) for f in forms)
        runs = [sum(f.stride(r) == 1 for f in forms) for r in roles.k]
        axis = max(range(len(runs)), key=lambda i: runs[i])
        crosswise = runs[axis] > along_n and roles.k[axis].extent >= 3
        if self.pairs is not None:
            if crosswise and axis == len(runs) - 1:
                lines = self._lines(expr, roles.k[-1])
                return Packed(lines_along_k(lines, self.last, self.pairs.unit_b), "k", axis)
            lines = self._lines(expr, roles.n)
            return Packed(lines_across(lines, self.last, self.pairs.unit_b), "n")
        if crosswise:
            return Packed(self._lines(expr, roles.k[axis]), "k", axis)
        return Packed(self._lines(expr, roles.n), "n")

    # --- shared

    def _plain(self, expr: Load, axes: Sequence[Range]) -> bool:
        """Whether elements lie in memory as the sum adds them, at constant strides along `axes`."""
        form = affine(expr.index)
        if any(form.stride(r) is None for r in axes):
            return False
        if self.pairs is not None:
            in_units = form.stride(self.roles.k[-1]) == 1 and self.last % self.pairs.count == 0
            small = (int8, uint8) if self.pairs.count == 4 else (bfloat16, int16)
            return in_units and not self.pairs.unit_a.biased and expr.param.dtype in small
        return expr.param.dtype is self.roles.result.dtype

    def _address(self, expr: Load) -> Callable[[Function, Place], Value]:
        """Address of the element at a place, with k = 0."""

        def address(f: Function, place: Place) -> Value:
            em = self.emitters(f, place)
            known = self.ranges_at(f, place)
            for r in self.roles.k:
                known[r] = f.as_value(0)
            index = em.scalar(expr.index, Scope(ranges=known))
            return f.gep(
                memory_type(expr.param.dtype), em.pointers[expr.param], index, inbounds=False
            )

        return address

    def _lines(self, expr: Expr, axis: Range) -> Callable[[Function, Place], Read]:
        return lambda f, place: self._line(f, place, expr, axis, self.ranges_at(f, place))

    def _line(
        self, f: Function, place: Place, expr: Expr, axis: Range, known: dict[Range, Value]
    ) -> Read:
        em = self.emitters(f, place)
        known.pop(axis, None)
        shared = Scope(ranges=known)
        em.hoist([expr], shared, [axis, *bound_ranges([expr])])

        def read(index: Value, width: int, mask: Value | None) -> Value:
            scope = Scope(shared, {axis: index}, vector=axis, width=width, mask=mask)
            return em.lanes(expr, scope)

        return read

    # --- zeros of the row side

    def _without_trims(self, expr: Expr) -> Expr:
        """The operand without conditions on a loop over k alone, which trims see to.

        Only where the position along that loop and the row has both its bounds among the other
        conditions: what is then read more lies inside the buffer.
        """
        if not isinstance(expr, Load) or expr.gate is None:
            return expr
        kept: list[Expr] = []
        alone: list[tuple[Expr, Range]] = []
        bounds: dict[Range, set[bool]] = {}
        for condition in _conjuncts(expr.gate):
            room = _half_space(condition)
            free = frozenset() if room is None else free_ranges(room)
            inside = [r for r in self.roles.k if r in free]
            if room is None or len(inside) != 1:
                kept.append(condition)
            elif self.roles.m in free:
                kept.append(condition)
                growing = (affine(room).stride(self.roles.m) or 0) > 0
                bounds.setdefault(inside[0], set()).add(growing)
            elif affine(room).stride(inside[0]) in (1, -1):
                alone.append((condition, inside[0]))
            else:
                kept.append(condition)
        kept += [c for c, r in alone if len(bounds.get(r, ())) < 2]
        gate: Expr | None = None
        for condition in kept:
            gate = condition if gate is None else ir.fn("and", gate, condition)
        return Load(expr.param, expr.index, gate)

    def _zeros(self, expr: Expr) -> _Zeros:
        """Sort the conditions outside of which an operand is zero."""
        roles = self.roles
        limits: dict[int, list[tuple[Expr, int]]] = {}
        bordered: list[Expr] = []
        exact = True
        for condition in _conjuncts(_zero_gate(expr)):
            room = _half_space(condition)
            if room is None:
                exact = False
                continue
            free = free_ranges(room)
            inside = [i for i, r in enumerate(roles.k) if r in free]
            if roles.m in free and roles.n not in free:
                bordered.append(room)
                continue
            if len(inside) == 1 and roles.n not in free:
                step = affine(room).stride(roles.k[inside[0]])
                if step in (1, -1):
                    limits.setdefault(inside[0], []).append((room, step))
                    continue
            exact = False
        trims = {i: self._trim(i, parts) for i, parts in limits.items()}
        return _Zeros(trims, bordered, exact)

    def _live(self, bordered: Sequence[Expr]) -> dict[int, Live] | None:
        """Rows that are not zero, per step of a loop over k, where a few tiles cover all rows.

        None where the conditions do not allow it, or would need too many different tiles.
        """
        roles = self.roles
        if not bordered:
            return {}
        rows = choose_tile(roles.m.extent, roles.n.extent, self.target, self.element).rows
        if -(-roles.m.extent // rows) > 2:
            return None
        found: dict[int, list[tuple[int, int, int]]] = {}
        for room in bordered:
            form = affine(room)
            inside = [i for i, r in enumerate(roles.k) if r in free_ranges(room)]
            only = {roles.m, *(roles.k[i] for i in inside)}
            if len(inside) != 1 or form.rest or free_ranges(room) - only:
                return None
            k = roles.k[inside[0]]
            if form.coefficient(roles.m) == 0 or k.extent > 16:
                return None
            parts = (form.coefficient(roles.m), form.coefficient(k), form.constant)
            found.setdefault(inside[0], []).append(parts)
        if len(found) != 1:
            return None
        return {i: self._rows_of(parts) for i, parts in found.items()}

    def _rows_of(self, parts: Sequence[tuple[int, int, int]]) -> Live:
        extent = self.roles.m.extent

        def rows(step: int) -> tuple[int, int]:
            alive = [
                m for m in range(extent) if all(a * m + b * step + c >= 0 for a, b, c in parts)
            ]
            # Conditions are half spaces: what holds between two rows that are alive is alive.
            return (alive[0], alive[-1] + 1) if alive else (0, 0)

        return rows

    def _trim(self, loop: int, parts: Sequence[tuple[Expr, int]]) -> Trim:
        k = self.roles.k[loop]

        def trim(f: Function, place: Place) -> tuple[Operand, Operand]:
            em = self.emitters(f, place)
            known = self.ranges_at(f, place)
            known[k] = f.as_value(0)
            low, high = f.as_value(0), f.as_value(k.extent)
            for room, step in parts:
                # room(k) = rest + step * k must be at least 0.
                rest = em.scalar(room, Scope(ranges=known))
                if step > 0:
                    low = f.smax(low, f.sub(0, rest))
                else:
                    high = f.smin(high, f.add(rest, 1))
            low = f.smin(low, k.extent)
            return low, f.smax(high, low)

        return trim


@dataclass(frozen=True)
class Rowside:
    """The row side and its zeros, as a Contraction takes them."""

    side: Direct | Packed | Window
    trims: dict[int, Trim]
    live: dict[int, Live]


@dataclass(frozen=True)
class _Zeros:
    """Conditions of an operand: parts of k loops, slacks (>= 0) that depend on the row, and whether
    that is all of them."""

    trims: dict[int, Trim]
    bordered: list[Expr]
    exact: bool


def _zero_gate(expr: Expr) -> Expr | None:
    """A condition outside of which an expression is zero."""
    if isinstance(expr, Load):
        return expr.gate
    if isinstance(expr, Cast):
        return _zero_gate(expr.x)
    if isinstance(expr, Fn) and expr.name == "where":
        zero = expr.args[2]
        if isinstance(zero, ir.Const) and zero.value == 0:
            return expr.args[0]
    return None


def _conjuncts(gate: Expr | None) -> list[Expr]:
    if gate is None or is_true(gate):
        return []
    if isinstance(gate, Fn) and gate.name == "and":
        return _conjuncts(gate.args[0]) + _conjuncts(gate.args[1])
    return [gate]


def _half_space(condition: Expr) -> Expr | None:
    """An index expression that is >= 0 exactly where an order comparison of indices holds."""
    if not isinstance(condition, Fn) or condition.name not in ("lt", "le"):
        return None
    difference = slack(condition)
    if difference is None:
        return None
    return difference - 1 if condition.name == "lt" else difference


def bound_ranges(exprs: Sequence[Expr]) -> list[Range]:
    """Ranges that reductions inside expressions run over."""
    inner = [n for n in walk(exprs) if isinstance(n, (ir.Reduce, ir.ArgReduce, ir.Contract))]
    return [r for n in inner for r in n.ranges]


def _main_loads(expr: Expr, *axes: Range) -> list[Load]:
    """Loads whose position changes along the axes."""
    wanted = set(axes)
    return [n for n in walk([expr]) if isinstance(n, Load) and wanted & free_ranges(n.index)]
