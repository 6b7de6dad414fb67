"""Blocks of Householder reflections: QR of large and of complex matrices.

The product of a block's reflections is I - V T V^H (Schreiber and Van Loan, SIAM J. Sci. Stat.
Comput. 10, 1989), so that all but the block itself is three products of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Sample, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops import fields
from niello.ops.blocked import adjoint, f, number_of
from niello.ops.factor_panels import Panel, mixed
from niello.ops.fields import Array, as_numbers, as_parts

WIDTH = 32  # columns of a block


@register
@frozen
class ReflectionPanel(Panel):
    width: int
    parts: int
    name: ClassVar[str] = "reflection_panel"
    complex_results: ClassVar[tuple[bool, ...]] = (True, True)
    doc: ClassVar[str] = (
        "V [m, w] and T [w, w] of the block reflection I - V T V^H whose conjugate transpose makes "
        "columns [b w, b w + w) of a matrix upper triangular (LAPACK geqrf and larft)."
    )

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        *lead, m, _ = self.checked(*types)
        shapes = ((*lead, m, self.width), (*lead, self.width, self.width))
        v, t = (fields.extended(types[0], s, self.parts) for s in shapes)
        return v, t

    def reference(self, a: Array, block: Array) -> tuple[Array, ...]:
        z = as_numbers(a, self.parts)
        *lead, m, n = z.shape
        w, start = self.width, int(block) * self.width
        v = np.zeros((math.prod(lead), m, w), z.dtype)
        t = np.zeros((math.prod(lead), w, w), z.dtype)
        for i, one in enumerate(z.reshape(math.prod(lead), m, n)):
            work = one[:, start : start + w].copy()
            for k in range(min(w, min(m, n) - start)):
                q = start + k
                x = work[q:, k]
                norm = np.linalg.norm(x)
                head = x[0] / abs(x[0]) if x[0] != 0 else 1.0
                first = x[0] + head * norm
                if first == 0:
                    continue
                v[i, q:, k] = x / first
                v[i, q, k] = 1
                factor = 2.0 / np.vdot(v[i, :, k], v[i, :, k]).real
                t[i, k, k] = factor
                t[i, :k, k] = -factor * (t[i, :k, :k] @ (v[i, :, :k].conj().T @ v[i, :, k]))
                work -= factor * np.outer(v[i, :, k], v[i, :, k].conj() @ work)
        shapes = ((*lead, m, w), (*lead, w, w))
        return tuple(
            as_parts(x.reshape(s), self.parts) for x, s in zip((v, t), shapes, strict=True)
        )

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        if inputs[0].elements:
            _Reflections(self, r, inputs).write()

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        cases = [
            (mixed(7, 6).real, 3, 1),
            (np.stack([mixed(4, 6), mixed(4, 6, seed=1)]), 3, 1),
            (mixed(5, 5), 5, 0),
            (np.zeros((3, 2)), 2, 0),
        ]
        for a, width, number in cases:
            block = np.array(number, np.int32)
            found.append(sample(a, block, width=width, parts=1, grad=False, tolerance=100))
        return found


class _Reflections:
    """The columns of the block lie in scratch, each contiguous, and so do the vectors."""

    def __init__(self, op: ReflectionPanel, r: RoutineBuilder, inputs: Sequence[Place]) -> None:
        self.r, self.parts, self.width = r, op.parts, op.width
        self.dtype = inputs[0].dtype
        *lead, self.m, self.n = fields.shape_of(inputs[0], op.parts)
        least = min(self.m, self.n)
        self.team = r.teams(math.prod(lead))
        self.a = fields.tensor_elements(r, inputs[0], op.parts)
        last = -(-least // op.width) - 1
        block = r.cast(r.read(inputs[-1], 0, low=0, high=last), r.index(0).dtype)
        self.start = block * op.width
        self.count = r.min(r.index(op.width), least - self.start)
        self.work = fields.scratch(r, self.dtype, op.width * self.m, op.parts)
        self.v = fields.scratch(r, self.dtype, op.width * self.m, op.parts)
        self.t = fields.scratch(r, self.dtype, op.width * op.width, op.parts)
        self.line = fields.scratch(r, self.dtype, op.width, op.parts)

    def write(self) -> None:
        r, m, w = self.r, self.m, self.width
        base = self.team * (m * self.n) + self.start
        zero = fields.number(r, 0.0, self.dtype, self.parts)
        with r.spread_over(self.count, m) as (c, i):
            self.work.write(c * m + i, self.a.read(base + i * self.n + c))
        with r.spread(w * m) as i:
            self.v.write(i, zero)
        with r.spread(w * w) as i:
            self.t.write(i, zero)
        with r.loop(0, self.count) as k:
            factor = self.reflect(k)
            self.combine(k, factor)
        v, t = (fields.tensor_elements(r, p, self.parts) for p in r.outputs)
        with r.loop(0, m) as i, r.spread(w) as c:
            v.write(self.team * (m * w) + i * w + c, self.v.read(c * m + i))
        with r.spread(w * w) as i:
            t.write(self.team * (w * w) + i, self.t.read(i))

    def reflect(self, k: Any) -> Any:
        """The vector of column k and its factor, and the columns after it reflected."""
        r, m, work = self.r, self.m, self.work
        q = self.start + k
        here = k * m + q
        largest = r.reduce("max", m - q, lambda i: fields.size(r, work.read(here + i)))
        scale = r.where(largest > 0.0, largest, 1.0)
        total = r.reduce(
            "add", m - q, lambda i: fields.square(tuple(x / scale for x in work.read(here + i)))
        )
        norm = r.sqrt(total) * scale
        first = self.head(work.read(here), norm)
        nothing = fields.size(r, first).eq(0.0)
        one = fields.number(r, 1.0, self.dtype, self.parts)
        zero = fields.number(r, 0.0, self.dtype, self.parts)
        divisor = fields.chosen(r, nothing, one, first)
        with r.spread(m - q) as i:
            value = fields.over(r, work.read(here + i), divisor)
            value = fields.chosen(r, i.eq(0), one, value)
            self.v.write(here + i, fields.chosen(r, nothing, zero, value))
        length = r.reduce("add", m - q, lambda i: fields.square(self.v.read(here + i)))
        factor = r.where(nothing, r.const(0, self.dtype), 2.0 / r.where(nothing, 1.0, length))
        with r.loop(k + 1, self.count) as c:
            dot = self.product(k, lambda i: work.read(c * m + q + i))
            weight = fields.scaled(dot, factor)
            with r.spread(m - q) as i:
                at = c * m + q + i
                part = fields.times(self.v.read(here + i), weight)
                work.write(at, fields.minus(work.read(at), part))
        return factor

    def head(self, x: fields.Number, norm: Any) -> fields.Number:
        """x + norm x / |x|, which does not cancel."""
        r = self.r
        if self.parts == 1:
            return (x[0] + r.copysign(norm, x[0]),)
        large = r.max(r.abs(x[0]), r.abs(x[1]))
        none = large.eq(0.0)
        safe = r.where(none, 1.0, large)
        u, w = x[0] / safe, x[1] / safe
        modulus = r.sqrt(u * u + w * w)
        unit = r.where(none, 1.0, modulus)
        turn = (r.where(none, r.const(1.0, self.dtype), u / unit), r.where(none, 0.0 * w, w / unit))
        return fields.plus(x, fields.scaled(turn, norm))

    def product(self, k: Any, other: Any) -> fields.Number:
        """The inner product of vector k with other numbers, from its first element on."""
        q = self.start + k
        return fields.sum_of(
            self.r,
            self.m - q,
            lambda i: fields.times(fields.conjugate(self.v.read(k * self.m + q + i)), other(i)),
            self.parts,
            self.dtype,
        )

    def combine(self, k: Any, factor: Any) -> None:
        """Column k of T."""
        r, w, m = self.r, self.width, self.m
        q = self.start + k
        with r.loop(0, k) as c:  # v_c^H v_k
            # Vector k is zero above its first element.
            dot = self.product(k, lambda i: self.v.read(c * m + q + i))
            self.line.write(c, fields.conjugate(dot))
        with r.spread(k) as row:
            total = [r.variable(self.dtype, 0.0) for _ in range(self.parts)]
            with r.loop(0, k) as c:
                part = fields.times(self.t.read(row * w + c), self.line.read(c))
                for variable, x in zip(total, part, strict=True):
                    variable.set(variable.get() + x)
            value = tuple(variable.get() for variable in total)
            self.t.write(row * w + k, fields.scaled(value, -factor))
        diagonal = (factor, *[r.const(0.0, self.dtype)] * (self.parts - 1))
        self.t.write(k * w + k, diagonal)


def qr(a: Tensor, complete: bool) -> tuple[Tensor, Tensor]:
    """Q and R of matrices of any size, real or complex; the diagonal of R is not negative."""
    *lead, m, n = a.type.static_shape
    least = min(m, n)
    k = m if complete else least
    width = min(WIDTH, max(least, 1))
    matmul = f("matmul")
    blocks = []
    for b in range(-(-least // width)):
        op = ReflectionPanel(width, 1)
        v, t = a.graph.add(op, [a, number_of(a, b)]).outputs
        a = a - matmul(v, matmul(adjoint(t), matmul(adjoint(v), a)))
        blocks.append((v, t))
    eye = a.graph.constant(np.eye(m, k, dtype=a.dtype.numpy)).broadcast_to((*lead, m, k))
    q: Tensor = eye
    for v, t in reversed(blocks):
        q = q - matmul(v, matmul(t, matmul(adjoint(v), q)))
    upper = f("triu")(a[..., :k, :])
    turns = _turns(upper, k)
    if turns is None:
        return q, upper
    back = f("conj")(turns) if a.dtype.is_complex else turns
    return q * turns.expand_dims(-2), upper * back.expand_dims(-1)


def _turns(upper: Tensor, k: int) -> Tensor | None:
    """Factors of modulus 1 [..., k] for the columns of Q, ones where R has no diagonal."""
    *lead, _, n = upper.type.static_shape
    least = min(k, n)
    if not least:
        return None
    diagonal = f("diagonal")(upper, 0, -2, -1)
    if upper.dtype.is_complex:
        size = diagonal.absolute()
        nothing = size.equal(0.0)
        safe = f("complex")(nothing.select(1.0, size), size * 0.0)
        one = f("complex")(size * 0.0 + 1.0, size * 0.0)
        found = nothing.select(one, diagonal / safe)
    else:
        found = diagonal.less(0.0).select(-1.0, diagonal * 0.0 + 1.0)
    if k == least:
        return found  # type: ignore[no-any-return]
    rest = upper.graph.constant(np.ones((*lead, k - least), upper.dtype.numpy))
    return f("concat")([found, rest], axis=-1)  # type: ignore[no-any-return]
