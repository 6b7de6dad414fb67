"""QR, symmetric eigenvalues and singular values: routines, one team for each matrix.

Householder reflections (Golub and Van Loan, Matrix Computations, 5.2) and Jacobi rotations (8.5,
8.6.3), which find small singular values to high relative accuracy. Signs are made definite: the
diagonal of R is not negative, and of each eigenvector the element that is largest in magnitude (the
first of equal ones) is positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, float32, float64
from niello.core.errors import NotDifferentiable, ShapeError
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops import fields, reflections
from niello.ops.blocked import adjoint, f
from niello.ops.define import check_dtype
from niello.ops.eigen import Eigh, epsilon, phases
from niello.ops.factor_panels import mixed
from niello.ops.factorize import (
    conjugate,
    identity_like,
    matmul,
    matrix_shape,
    triangular,
    well_conditioned,
)
from niello.ops.fields import NUMBERS

Array = np.ndarray
REALS = (float32, float64)
MOST_IN_ONE = 32  # columns of a matrix that one team makes orthogonal
SWEEPS = 40  # Jacobi's method needs six to ten; more means that there are NaNs


@register
@frozen
class QR(Op):
    complete: bool  # Q square rather than [m, min(m, n)]
    name: ClassVar[str] = "qr_factor"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "A = Q R with orthonormal columns of Q and an upper triangular R, whose diagonal is not "
        "negative (LAPACK geqrf, but for the signs)."
    )

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        check_dtype(self.name, x.dtype, self.dtypes)
        shape = matrix_shape(self.name, x)
        if shape is None:
            return x, x
        *lead, m, n = shape
        least = None if m is None or n is None else min(m, n)
        k = m if self.complete else least
        return TensorType((*lead, m, k), x.dtype), TensorType((*lead, k, n), x.dtype)

    def reference(self, a: Array) -> tuple[Array, Array]:
        m, n = a.shape[-2:]
        lead, least = a.shape[:-2], min(m, n)
        k = m if self.complete else least
        q = np.zeros((math.prod(lead), m, k), a.dtype)
        r = np.zeros((math.prod(lead), k, n), a.dtype)
        for i, one in enumerate(a.reshape(math.prod(lead), m, n)):
            found_q, found_r = np.linalg.qr(one, mode="complete" if self.complete else "reduced")
            signs, diagonal = np.ones(k, a.dtype), np.diagonal(found_r)
            none = diagonal == 0
            signs[:least] = np.where(none, 1, diagonal / np.where(none, 1, np.abs(diagonal)))
            q[i], r[i] = found_q * signs, found_r * signs[:, None].conj()
        return q.reshape(*lead, m, k), r.reshape(*lead, k, n)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        q, r = outputs
        shape = inputs[0].shape
        if shape is None or None in shape[-2:]:
            raise ShapeError(
                self.name,
                "its gradient needs the sizes of the matrices",
                received=str(inputs[0].type),
                advice="Give the placeholder its sizes",
            )
        if self.complete or shape[-2] < shape[-1]:  # type: ignore[operator]
            raise NotDifferentiable(
                "gradients",
                "the QR factorization has a gradient for m >= n and a reduced Q",
                received=str(inputs[0].type),
                operation=self.name,
                advice="Factor the transpose, or use lstsq or solve",
            )
        # `gradients` conjugates what arrives and what is given, as for holomorphic functions.
        by_q, by_r = (None if g is None else conjugate(g) for g in gradients)
        inner = None
        if by_r is not None:
            inner = matmul(r, adjoint(by_r))
        if by_q is not None:
            part = matmul(adjoint(by_q), q)
            inner = -part if inner is None else inner - part
        assert inner is not None
        below = f("tril")(inner, -1)
        diagonal = identity_like(inner) * ((inner + conjugate(inner)) * 0.5)
        total = matmul(q, below + adjoint(below) + diagonal)
        if by_q is not None:
            total = total + by_q
        # total R^-H: rows solve R x = row.
        return [conjugate(adjoint(triangular(r, adjoint(total), lower=False)))]

    def decompose(self, a: Tensor) -> tuple[Tensor, Tensor]:
        if a.dtype.is_complex or min(a.type.static_shape[-2:]) > MOST_IN_ONE:
            return reflections.qr(a, self.complete)
        q, r = a.graph.add(QRWhole(self.complete), [a]).outputs
        return q, r

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        slim = well_conditioned(150, 70)
        return [
            *_qr_samples(),
            sample(mixed(4, 4), complete=False, tolerance=60),
            sample(np.stack([mixed(5, 3)] * 2), complete=False, tolerance=60),
            sample(mixed(3, 5), complete=True, grad=False, tolerance=60),
            sample(mixed(4, 2), complete=True, grad=False, tolerance=60),
            sample(slim, complete=False, grad=False, tolerance=2000),
            sample(slim.T.copy(), complete=True, grad=False, tolerance=2000),
        ]


def _qr_samples() -> list[Sample]:
    return [
        sample(well_conditioned(4, 4), complete=False, tolerance=40),
        sample(well_conditioned(5, 3), complete=False, tolerance=40),
        sample(well_conditioned(2, 3, 2), complete=False, tolerance=40),
        sample(well_conditioned(3, 5), complete=False, grad=False, tolerance=40),
        sample(well_conditioned(4, 4), complete=True, grad=False, tolerance=40),
        sample(real(0, 3, 2), complete=False, grad=False),
        sample(well_conditioned(20, 17), complete=False, grad=False, tolerance=100),
    ]


@register
@frozen
class QRWhole(Op):
    complete: bool
    name: ClassVar[str] = "qr_whole"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = REALS
    doc: ClassVar[str] = "qr_factor of small real matrices, each by one team."
    grad = not_differentiable("qr_factor, which is made of it, has its own")

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        return QR(self.complete).infer(x)

    def reference(self, a: Array) -> tuple[Array, Array]:
        return QR(self.complete).reference(a)

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (a,) = inputs
        team = r.teams(max(math.prod(a.shape[:-2]), 1))
        if math.prod(a.shape[:-2]) and a.shape[-2]:
            _Householder(r, a, team).write()

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return _qr_samples()


class _Householder:
    """Reflections from the left, kept in scratch, then multiplied from the last to the first."""

    def __init__(self, r: RoutineBuilder, a: Place, team: Any) -> None:
        self.r, self.a = r, a
        self.m, self.n = a.shape[-2:]
        self.k = r.outputs[0].shape[-1]
        self.least = min(self.m, self.n)
        self.start = team * (self.m * self.n)
        self.base = team * (self.m * self.k)
        self.result = team * (self.k * self.n)
        self.dtype = a.dtype
        self.work = r.local(a.dtype, max(self.m * self.n, 1))
        self.vectors = r.local(a.dtype, max(self.least * self.m, 1))
        self.factors = r.local(a.dtype, max(self.least, 1))

    def write(self) -> None:
        r, m, n, k = self.r, self.m, self.n, self.k
        with r.spread(m * n) as i:
            r.write(self.work, i, r.read(self.a, self.start + i))
        with r.loop(0, self.least) as j:
            self.reflect(j)
        q = r.outputs[0]
        with r.spread(m * k) as i:
            r.write(q, self.base + i, r.where((i // k).eq(i % k), r.const(1, self.dtype), 0.0))
        with r.loop(0, self.least) as step:
            j = self.least - 1 - step
            self.apply(j, k, lambda row: self.base + row * k, q)
        self.finish()

    def reflect(self, j: Any) -> None:
        """The vector of column j, its factor, and the reflection of the columns from j on."""
        r, m, n = self.r, self.m, self.n

        def below(i: Any) -> Any:
            return r.read(self.work, (j + i) * n + j)

        largest = r.reduce("max", m - j, lambda i: r.abs(below(i)))
        scale = r.where(largest > 0.0, largest, 1.0)
        square = r.reduce("add", m - j, lambda i: (below(i) / scale) * (below(i) / scale))
        norm = r.sqrt(square) * scale
        head = r.read(self.work, j * n + j)
        first = head + r.copysign(norm, head)
        nothing = first.eq(0.0)
        # v = x / first with v[0] = 1; H = I - factor v v^T.
        divisor = r.where(nothing, r.const(1, self.dtype), first)
        tail = r.reduce(
            "add",
            m - j - 1,
            lambda i: (below(i + 1) / divisor) * (below(i + 1) / divisor),
        )
        factor = r.where(nothing, r.const(0, self.dtype), 2.0 / (1.0 + tail))
        r.write(self.factors, j, factor)
        with r.spread(m - j) as i:
            value = r.where(i.eq(0), r.const(1, self.dtype), below(i) / divisor)
            r.write(self.vectors, j * m + j + i, value)
        self.apply(j, n, lambda row: row * n, self.work)

    def apply(self, j: Any, width: int, row: Any, place: Place) -> None:
        """Reflection j on all columns of a matrix with rows of `width`."""
        r, m = self.r, self.m
        factor = r.read(self.factors, j)
        with r.spread(width) as column:
            total = r.variable(self.dtype, 0.0)
            with r.loop(j, m) as i:
                v = r.read(self.vectors, j * m + i)
                total.set(total.get() + v * r.read(place, row(i) + column))
            weight = factor * total.get()
            with r.loop(j, m) as i:
                v = r.read(self.vectors, j * m + i)
                old = r.read(place, row(i) + column)
                r.write(place, row(i) + column, old - weight * v)

    def finish(self) -> None:
        """R with a diagonal that is not negative, and Q to fit."""
        r, n, k = self.r, self.n, self.k
        q, out = r.outputs
        with r.loop(0, k) as i:
            sign = r.variable(self.dtype, 1.0)
            with r.when(i < self.least):
                pivot = r.read(self.work, i * n + r.min(i, self.n - 1))
                with r.when(pivot < 0.0):
                    sign.set(-1.0)
            flip = sign.get()
            with r.spread(n) as c:
                value = r.read(self.work, i * n + c)
                r.write(
                    out,
                    self.result + i * n + c,
                    r.where(c < i, r.const(0, self.dtype), value * flip),
                )
            with r.when(flip < 0.0), r.spread(self.m) as row:
                at = self.base + row * k + i
                r.write(q, at, -r.read(q, at))


def _rotation(r: RoutineBuilder, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
    """Cosine and sine that make the off-diagonal element z between diagonal x and y zero."""
    theta = (y - x) / (z * 2.0)
    size = r.abs(theta)
    # 1 / (|theta| + sqrt(theta^2 + 1)), which must not overflow.
    large = size > 1e15
    safe = r.where(large, r.const(1.0, x.dtype), size)
    t = r.where(large, 0.5 / size, 1.0 / (safe + r.sqrt(safe * safe + 1.0)))
    t = r.copysign(t, theta)
    c = 1.0 / r.sqrt(t * t + 1.0)
    return c, t * c


@register
@frozen
class JacobiSVD(Op):
    """Rows of the input are turned into orthogonal ones by rotations from the left."""

    parts: int = 1  # 2: complex numbers, as a last axis of two
    name: ClassVar[str] = "jacobi_svd"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "For A^H [n, m] with n <= m: singular values in descending order, V^H, and V^H A^H, whose "
        "rows are orthogonal (one-sided Jacobi)."
    )

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        check_dtype(self.name, x.dtype, self.dtypes)
        shape = fields.number_shape(x, self.parts)
        if shape is None:
            return TensorType(None, x.dtype.plane), x, x
        matrix_shape(self.name, TensorType(shape, x.dtype))
        *lead, n, _ = shape
        values = TensorType((*lead, n), x.dtype.plane)
        return values, fields.extended(x, (*lead, n, n), self.parts), x

    def reference(self, adjoint: Array) -> tuple[Array, Array, Array]:
        a = fields.as_numbers(adjoint, self.parts)
        _, s, v = np.linalg.svd(np.swapaxes(a, -1, -2).conj(), full_matrices=False)
        v = v * np.swapaxes(phases(np.swapaxes(v, -1, -2)), -1, -2)
        return s, fields.as_parts(v, self.parts), fields.as_parts(v @ a, self.parts)

    grad = not_differentiable("svd, which is made of it, has its own")

    def planes(self, z: Any) -> Any:
        return fields.on_pairs(JacobiSVD(2), [z], (False, True, True))

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        if inputs[0].elements:
            _Jacobi(r, inputs[0], self.parts).write()

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        spread = np.diag([1.0, -2.0, 4.0]) @ well_conditioned(3, 5)
        return [
            sample(spread, grad=False, tolerance=60),
            sample(np.stack([spread[:2], 2 * spread[1:]]), grad=False, tolerance=60),
            sample(np.array([[3.0, 4.0]]), grad=False),
            sample(real(0, 2, 3), grad=False),
            sample(np.diag([1.0, -2.0, 4.0]) @ mixed(3, 5), grad=False, tolerance=60),
        ]


class _Jacobi:
    """The rows, and what they are turned by, lie in scratch."""

    def __init__(self, r: RoutineBuilder, x: Place, parts: int) -> None:
        self.r, self.parts, self.dtype = r, parts, x.dtype
        *lead, self.n, self.m = fields.shape_of(x, parts)
        self.team = r.teams(math.prod(lead))
        self.x = fields.tensor_elements(r, x, parts)
        self.work = fields.scratch(r, x.dtype, self.n * self.m, parts)
        self.turns = fields.scratch(r, x.dtype, self.n * self.n, parts)

    def write(self) -> None:
        r, n, m = self.r, self.n, self.m
        with r.spread(n * m) as i:
            self.work.write(i, self.x.read(self.team * (n * m) + i))
        one, zero = (fields.number(r, x, self.dtype, self.parts) for x in (1.0, 0.0))
        with r.spread(n * n) as i:
            self.turns.write(i, fields.chosen(r, (i // n).eq(i % n), one, zero))
        tiny = epsilon(self.dtype) * 2.0
        sweep, moved = r.variable(self.dtype, 0.0), r.variable(self.dtype, 1.0)
        with r.repeat(lambda: (moved.get() > 0.0) & (sweep.get() < float(SWEEPS))):
            moved.set(0.0)
            sweep.set(sweep.get() + 1.0)
            with r.loop(0, n - 1) as p, r.loop(p + 1, n) as q:
                a, b = self.square(p), self.square(q)
                g = self.product(p, q)
                size = r.abs(g[0]) if self.parts == 1 else r.sqrt(fields.square(g))
                with r.when(size > r.sqrt(a) * r.sqrt(b) * tiny):
                    moved.set(1.0)
                    level = g[0] if self.parts == 1 else size
                    c, s = _rotation(r, a, b, level)
                    turn = tuple(x / level for x in g) if self.parts == 2 else None
                    self.rotate(self.work, p * m, q * m, m, (c, s), turn)
                    self.rotate(self.turns, p * n, q * n, n, (c, s), turn)
        self.sorted()

    def square(self, p: Any) -> Any:
        """The squared length of a row."""
        m = self.m
        return self.r.reduce("add", m, lambda i: fields.square(self.work.read(p * m + i)))

    def product(self, p: Any, q: Any) -> fields.Number:
        """The inner product of row p with row q conjugated."""
        m, work = self.m, self.work
        return fields.sum_of(
            self.r,
            m,
            lambda i: fields.times(work.read(p * m + i), fields.conjugate(work.read(q * m + i))),
            self.parts,
            self.dtype,
        )

    def rotate(self, x: Any, p: Any, q: Any, n: int, by: tuple[Any, Any], turn: Any) -> None:
        """Rows that begin at p and q, the latter times `turn` first, through a rotation."""
        c, s = by
        with self.r.spread(n) as i:
            a, b = x.read(p + i), x.read(q + i)
            if turn is not None:
                b = fields.times(b, turn)
            x.write(p + i, fields.minus(fields.scaled(a, c), fields.scaled(b, s)))
            x.write(q + i, fields.plus(fields.scaled(a, s), fields.scaled(b, c)))

    def sorted(self) -> None:
        """Values in descending order; of each row of V^H the largest element is positive."""
        r, n, m, team = self.r, self.n, self.m, self.team
        values = r.outputs[0]
        vectors, rows = (fields.tensor_elements(r, p, self.parts) for p in r.outputs[1:])
        sizes = r.local(self.dtype, n)
        with r.loop(0, n) as i:
            r.write(sizes, i, r.sqrt(self.square(i)))
        with r.loop(0, n) as i:
            mine = r.read(sizes, i)

            def before(j: Any, i: Any = i, mine: Any = mine) -> Any:
                other = r.read(sizes, j)
                first = (other > mine) | (other.eq(mine) & (j < i))
                return r.where(first, r.index(1), 0)

            place = r.max(r.min(r.reduce("add", n, before), n - 1), 0)
            r.write(values, team * n + place, mine)

            def magnitude(j: Any, start: Any = i * n) -> Any:
                return fields.square(self.turns.read(start + j))

            _, at = r.arg_reduce("max", n, magnitude)
            head = self.turns.read(i * n + r.min(at, n - 1))
            length = r.sqrt(fields.square(head))
            unit = r.where(length.eq(0.0), 1.0, length)
            turn = fields.conjugate(tuple(x / unit for x in head))
            with r.spread(n) as j:
                value = fields.times(self.turns.read(i * n + j), turn)
                vectors.write(team * (n * n) + place * n + j, value)
            with r.spread(m) as j:
                value = fields.times(self.work.read(i * m + j), turn)
                rows.write(team * (n * m) + place * m + j, value)


def orthogonal(x: Tensor, complete: bool = False) -> tuple[Tensor, Tensor]:
    """Q and R of stacks of matrices."""
    q, r = x.graph.add(QR(complete), [x]).outputs
    return q, r


def rotated(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What JacobiSVD gives."""
    s, v, rows = x.graph.add(JacobiSVD(), [x]).outputs
    return s, v, rows


def symmetric_eigen(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors."""
    values, vectors = x.graph.add(Eigh(), [x]).outputs
    return values, vectors
