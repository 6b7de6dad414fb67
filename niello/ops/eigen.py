"""Eigenvalues and eigenvectors of Hermitian matrices: routines, one team for each matrix.

Householder reflections make the matrix tridiagonal, implicit QL steps make that diagonal (Golub and
Van Loan, Matrix Computations, 8.3; Bowdler, Martin, Reinsch and Wilkinson, Numer. Math. 11, 1968).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, float64
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Sample, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops import fields
from niello.ops.blocked import adjoint, f
from niello.ops.define import check_dtype
from niello.ops.factor_panels import mixed
from niello.ops.factorize import Factorization, identity_like, matmul, well_conditioned
from niello.ops.fields import NUMBERS, Array
from niello.ops.movement import require_rank

STEPS = 40  # QL steps for an eigenvalue; two are usual


def epsilon(dtype: DType) -> float:
    """The spacing of numbers at 1."""
    return 2.0**-52 if dtype.plane is float64 else 2.0**-23


def phases(vectors: Array) -> Array:
    """Factors that make the largest element of each column positive."""
    if vectors.size == 0:
        return np.ones((*vectors.shape[:-2], 1, vectors.shape[-1]), vectors.dtype)
    at = np.argmax(np.abs(vectors), axis=-2, keepdims=True)
    largest = np.take_along_axis(vectors, at, axis=-2).conj()
    sizes = np.abs(largest)
    found = np.where(sizes == 0, 1, largest / np.where(sizes == 0, 1, sizes))
    return found.astype(vectors.dtype)


def as_kind(x: Tensor, like: Tensor) -> Tensor:
    """A real tensor, complex where `like` is."""
    return f("complex")(x, x * 0.0) if like.dtype.is_complex else x  # type: ignore[no-any-return]


@register
@frozen
class Eigh(Factorization):
    parts: int = 1  # 2: complex numbers, as a last axis of two
    name: ClassVar[str] = "eigh_factor"
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "Eigenvalues in ascending order and orthonormal eigenvectors (columns) of (A + A^H) / 2 "
        "(LAPACK heevd, but for the phases: the largest element of a vector is positive)."
    )

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        if self.parts == 2:
            check_dtype(self.name, x.dtype, NUMBERS[:2])
            require_rank(self.name, x, "to find the matrices")
            shape = fields.number_shape(x, 2)
        else:
            shape = self.checked(x)
        return TensorType(None if shape is None else shape[:-1], x.dtype.plane), x

    def reference(self, a: Array) -> tuple[Array, Array]:
        z = fields.as_numbers(a, self.parts)
        values, vectors = np.linalg.eigh((z + np.swapaxes(z, -1, -2).conj()) / 2)
        return values, fields.as_parts(vectors * phases(vectors), self.parts)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        by_values, by_vectors = gradients
        values, vectors = outputs
        eye = identity_like(vectors)
        inner: Tensor | None = None
        if by_values is not None:
            inner = eye * as_kind(by_values, vectors).expand_dims(-1)
        if by_vectors is not None:
            by_vectors = with_phases(by_vectors, vectors)
            level = as_kind(values, vectors)
            gaps = level.expand_dims(-2) - level.expand_dims(-1) + eye
            part = (1.0 - eye) / gaps * matmul(adjoint(vectors), by_vectors)
            inner = part if inner is None else inner + part
        assert inner is not None
        whole = matmul(matmul(vectors, inner), adjoint(vectors))
        return [(whole + adjoint(whole)) * 0.5]

    def planes(self, z: Any) -> Any:
        return fields.on_pairs(dataclasses.replace(self, parts=2), [z], (False, True))

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        if inputs[0].elements:
            _Eigen(r, inputs[0], self.parts).write()

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        spread = np.diag([1.0, -2.0, 4.0, 0.5]) + 0.3 * well_conditioned(4, 4)
        levels = np.diag([1.0, -2.0, 4.0])
        equal = np.kron(np.eye(2), np.array([[2.0, 1.0], [1.0, 2.0]]))
        return [
            sample(spread, tolerance=60),
            sample(well_conditioned(2, 3, 3), tolerance=60),
            sample(np.array([[2.0]])),
            sample(real(0, 3, 3), grad=False),
            sample(np.diag([3.0, 1.0, 2.0]), grad=False),
            sample(
                np.diag(np.arange(12.0)) + 0.2 * well_conditioned(12, 12), grad=False, tolerance=200
            ),
            sample(levels + 0.3 * mixed(3, 3), tolerance=60),
            sample(np.stack([levels + 0.3 * mixed(3, 3), levels + 0.2j * levels]), tolerance=60),
            sample(
                np.diag(np.arange(9.0)) + 0.2 * mixed(9, 9), grad=False, tolerance=200
            ),
            sample(np.zeros((3, 3)), grad=False),
            sample(equal[:2, :2], grad=False),
        ]  # fmt: skip


def with_phases(by_vectors: Tensor, vectors: Tensor, more: Tensor | None = None) -> Tensor:
    """The gradient with that of the phases, which keep the largest element of a vector real.

    `more` is what turning the columns does to something else that turns with them."""
    if not vectors.dtype.is_complex:
        return by_vectors
    size = f("absolute")(vectors)
    rows = vectors.shape[-2] if vectors.shape else None
    at = f("argmax")(size, axis=-2)
    here = f("swap_axes")(f("one_hot")(at, rows, dtype=size.dtype), -1, -2)
    turning = f("imag")(f("conj")(by_vectors) * vectors).sum(-2, True)
    if more is not None:
        turning = turning + more.expand_dims(-2)
    largest = (size * here).sum(-2, True)
    return by_vectors + f("complex")(size * 0.0, here * (turning / largest))  # type: ignore[no-any-return]


class _Eigen:
    """The matrix, the reflections and the vectors lie in scratch, row by row."""

    def __init__(self, r: RoutineBuilder, a: Place, parts: int) -> None:
        self.r, self.parts, self.dtype = r, parts, a.dtype
        *lead, self.n, _ = fields.shape_of(a, parts)
        n = self.n
        self.team = r.teams(math.prod(lead))
        self.a = fields.tensor_elements(r, a, parts)
        self.work = fields.scratch(r, a.dtype, n * n, parts)
        self.v = fields.scratch(r, a.dtype, n * n, parts)
        self.line = fields.scratch(r, a.dtype, n, parts)
        self.turns = fields.scratch(r, a.dtype, n, parts)
        self.rows = r.local(a.dtype, n * n)  # eigenvectors of the tridiagonal matrix
        names = ("d", "e", "c", "s", "factors")
        self.d, self.e, self.c, self.s, self.factors = (r.local(a.dtype, n) for _ in names)

    def write(self) -> None:
        r, n = self.r, self.n
        largest = self.load()
        fine = (largest > 0.0) & (largest < math.inf)
        scale = r.where(fine, largest, 1.0)
        with r.spread(n * n) as i:
            self.work.write(i, tuple(x / scale for x in self.work.read(i)))
            r.write(self.rows, i, r.where((i // n).eq(i % n), r.const(1, self.dtype), 0.0))
        with r.loop(0, max(n - 2, 0)) as k:
            self.reduce_column(k)
        self.take_diagonals()
        with r.when(fine), r.loop(0, n) as first:
            self.separate(first)
        self.back()
        self.sorted(scale)

    def load(self) -> Any:
        """The Hermitian part; returns its largest magnitude."""
        r, n = self.r, self.n
        base = self.team * (n * n)
        with r.spread(n * n) as i:
            other = fields.conjugate(self.a.read(base + (i % n) * n + i // n))
            self.work.write(i, fields.scaled(fields.plus(self.a.read(base + i), other), 0.5))
        return r.reduce("max", n * n, lambda i: fields.size(r, self.work.read(i)))

    # --- tridiagonal form
    def reduce_column(self, k: Any) -> None:
        """Reflect from both sides so that column k is zero below the first subdiagonal."""
        r, n, work = self.r, self.n, self.work
        row, rest = k * n + k + 1, n - k - 1  # the row is the column's conjugate
        square = r.reduce("add", rest, lambda t: fields.square(work.read(row + t)))
        norm = r.sqrt(square)
        head = fields.conjugate(work.read(row))
        size = r.sqrt(fields.square(head))
        none = size.eq(0.0)
        unit = r.where(none, 1.0, size)
        one, zero = (fields.number(r, x, self.dtype, self.parts) for x in (1.0, 0.0))
        turn = fields.chosen(r, none, one, tuple(x / unit for x in head))
        first = fields.plus(head, fields.scaled(turn, norm))
        nothing = norm.eq(0.0)
        divisor = fields.chosen(r, nothing, one, first)
        with r.spread(rest) as t:
            value = fields.over(r, fields.conjugate(work.read(row + t)), divisor)
            value = fields.chosen(r, t.eq(0), one, value)
            self.v.write(row + t, fields.chosen(r, nothing, zero, value))
        length = r.reduce("add", rest, lambda t: fields.square(self.v.read(row + t)))
        factor = r.where(nothing, r.const(0, self.dtype), 2.0 / r.where(nothing, 1.0, length))
        r.write(self.factors, k, factor)
        # The subdiagonal element, in the place of the row's first element: its conjugate.
        self.work.write(row, fields.conjugate(fields.scaled(turn, -norm)))
        self.update(k, factor)

    def update(self, k: Any, factor: Any) -> None:
        """S - v w^H - w v^H, with w = p - factor / 2 (v^H p) v and p = factor S v."""
        r, n, work = self.r, self.n, self.work
        row, rest = k * n + k + 1, n - k - 1
        corner = (k + 1) * (n + 1)
        with r.spread(rest) as j:
            total = [r.variable(self.dtype, 0.0) for _ in range(self.parts)]
            with r.loop(0, rest) as i:  # row i is column i conjugated
                entry = fields.conjugate(work.read(corner + i * n + j))
                product = fields.times(entry, self.v.read(row + i))
                for variable, x in zip(total, product, strict=True):
                    variable.set(variable.get() + x)
            self.line.write(j, tuple(variable.get() * factor for variable in total))
        dot = r.reduce(
            "add",
            rest,
            lambda j: fields.times(fields.conjugate(self.v.read(row + j)), self.line.read(j))[0],
        )
        half = dot * factor * 0.5
        with r.spread(rest) as j:
            moved = fields.scaled(self.v.read(row + j), half)
            self.line.write(j, fields.minus(self.line.read(j), moved))
        with r.spread_over(rest, rest) as (i, j):
            v, w = self.v.read(row + i), self.line.read(i)
            u, z = fields.conjugate(self.v.read(row + j)), fields.conjugate(self.line.read(j))
            at = corner + i * n + j
            both = fields.plus(fields.times(v, z), fields.times(w, u))
            work.write(at, fields.minus(work.read(at), both))

    def take_diagonals(self) -> None:
        """The real tridiagonal matrix, and the phases that made it real."""
        r, n, work = self.r, self.n, self.work
        with r.spread(n) as k:
            r.write(self.d, k, work.read(k * (n + 1))[0])
        r.write(self.e, n - 1, 0.0)
        phase = [r.variable(self.dtype, x) for x in (1.0, 0.0)[: self.parts]]
        self.turns.write(0, tuple(p.get() for p in phase))
        with r.loop(0, n - 1) as k:
            value = fields.conjugate(work.read(k * n + k + 1))
            size = r.sqrt(fields.square(value))
            r.write(self.e, k, size)
            none = size.eq(0.0)
            unit = r.where(none, 1.0, size)
            one = fields.number(r, 1.0, self.dtype, self.parts)
            turn = fields.chosen(r, none, one, tuple(x / unit for x in value))
            following = fields.times(tuple(p.get() for p in phase), turn)
            for variable, x in zip(phase, following, strict=True):
                variable.set(x)
            self.turns.write(k + 1, tuple(p.get() for p in phase))

    # --- QL steps
    def separate(self, first: Any) -> None:
        """QL steps until element `first` of the diagonal stands alone."""
        r, n = self.r, self.n
        steps = r.variable(self.dtype, 0.0)
        end = r.variable(r.index(0).dtype, 0, low=0, high=n - 1)
        end.set(self.alone(first))
        with r.repeat(lambda: (end.get() > first) & (steps.get() < float(STEPS))):
            steps.set(steps.get() + 1.0)
            last = end.get()
            self.step(first, last)
            with r.spread(n) as m:
                self.rotate(first, last, m)
            end.set(self.alone(first))

    def alone(self, first: Any) -> Any:
        """The first element from here on after which the subdiagonal is negligible."""
        r, n = self.r, self.n
        tiny = epsilon(self.dtype)
        at = r.variable(r.index(0).dtype, first, low=0, high=n - 1)

        def more() -> Any:
            m = r.min(at.get(), n - 1)
            near = r.abs(r.read(self.d, m)) + r.abs(r.read(self.d, r.min(m + 1, n - 1)))
            large = r.abs(r.read(self.e, m)) > near * tiny + tiny * tiny
            return (m < n - 1) & large

        with r.repeat(more):
            at.set(r.min(at.get() + 1, n - 1))
        return at.get()

    def step(self, first: Any, last: Any) -> None:
        """One implicit QL step on the block from `first` to `last`; its rotations are kept."""
        r, d, e = self.r, self.d, self.e
        here, off = r.read(d, first), r.read(e, first)
        ratio = (r.read(d, r.min(first + 1, self.n - 1)) - here) / (off * 2.0)
        root = r.sqrt(ratio * ratio + 1.0)
        shift = off / (ratio + r.copysign(root, ratio))
        g = r.variable(self.dtype, r.read(d, last) - here + shift)
        s, c = r.variable(self.dtype, 1.0), r.variable(self.dtype, 1.0)
        p = r.variable(self.dtype, 0.0)
        with r.loop(0, last - first) as t:
            i = last - 1 - t
            old = r.read(e, i)
            x, b, y = s.get() * old, c.get() * old, g.get()
            length = r.sqrt(x * x + y * y)
            r.write(e, i + 1, length)
            none = length.eq(0.0)
            safe = r.where(none, 1.0, length)
            sine = r.where(none, r.const(0.0, self.dtype), x / safe)
            cosine = r.where(none, r.const(1.0, self.dtype), y / safe)
            level = r.read(d, i + 1) - p.get()
            turned = (r.read(d, i) - level) * sine + cosine * b * 2.0
            p.set(sine * turned)
            r.write(d, i + 1, level + sine * turned)
            g.set(cosine * turned - b)
            s.set(sine)
            c.set(cosine)
            r.write(self.s, i, sine)
            r.write(self.c, i, cosine)
        r.write(d, first, r.read(d, first) - p.get())
        r.write(e, first, g.get())
        r.write(e, last, 0.0)

    def rotate(self, first: Any, last: Any, m: Any) -> None:
        """Element m of all vectors through the rotations of a step."""
        r, n = self.r, self.n
        carried = r.variable(self.dtype, r.read(self.rows, last * n + m))
        with r.loop(0, last - first) as t:
            i = last - 1 - t
            sine, cosine = r.read(self.s, i), r.read(self.c, i)
            upper, lower = carried.get(), r.read(self.rows, i * n + m)
            r.write(self.rows, (i + 1) * n + m, sine * lower + cosine * upper)
            carried.set(cosine * lower - sine * upper)
        r.write(self.rows, first * n + m, carried.get())

    # --- eigenvectors of the matrix
    def back(self) -> None:
        """Vectors become columns, and go through the phases and reflections."""
        r, n, work = self.r, self.n, self.work
        with r.spread_over(n, n) as (m, i):
            part = r.read(self.rows, i * n + m)
            work.write(m * n + i, fields.scaled(self.turns.read(m), part))
        with r.loop(0, max(n - 2, 0)) as step:
            k = n - 3 - step
            factor = r.read(self.factors, k)
            with r.spread(n) as i:
                total = [r.variable(self.dtype, 0.0) for _ in range(self.parts)]
                with r.loop(k + 1, n) as m:
                    v = fields.conjugate(self.v.read(k * n + m))
                    product = fields.times(v, work.read(m * n + i))
                    for variable, x in zip(total, product, strict=True):
                        variable.set(variable.get() + x)
                weight = tuple(variable.get() * factor for variable in total)
                with r.loop(k + 1, n) as m:
                    moved = fields.times(self.v.read(k * n + m), weight)
                    work.write(m * n + i, fields.minus(work.read(m * n + i), moved))

    def sorted(self, scale: Any) -> None:
        """Write values in ascending order, and vectors with their largest element positive."""
        r, n, work = self.r, self.n, self.work
        values, vectors = r.outputs
        out = fields.tensor_elements(r, vectors, self.parts)
        with r.spread(n) as i:
            mine = r.read(self.d, i)
            place = r.variable(r.index(0).dtype, 0, low=0, high=n - 1)
            best = r.variable(self.dtype, -1.0)
            head = [r.variable(self.dtype, x) for x in (1.0, 0.0)[: self.parts]]
            with r.loop(0, n) as j:
                other = r.read(self.d, j)
                first = (other < mine) | (other.eq(mine) & (j < i))
                place.set(r.min(place.get() + r.where(first, r.index(1), 0), n - 1))
                z = work.read(j * n + i)
                size = fields.square(z)
                better = size > best.get()
                best.set(r.where(better, size, best.get()))
                for variable, x in zip(head, z, strict=True):
                    variable.set(r.where(better, x, variable.get()))
            value = tuple(variable.get() for variable in head)
            length = r.sqrt(fields.square(value))
            unit = r.where(length.eq(0.0), 1.0, length)
            turn = fields.conjugate(tuple(x / unit for x in value))
            r.write(values, self.team * n + place.get(), mine * scale)
            with r.loop(0, n) as j:
                at = self.team * (n * n) + j * n + place.get()
                out.write(at, fields.times(work.read(j * n + i), turn))
