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

from niello.core.dtypes import DType, float64
from niello.core.errors import NotDifferentiable, ShapeError
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.define import check_dtype
from niello.ops.factorize import (
    REALS,
    Factorization,
    f,
    identity_like,
    matmul,
    matrix_shape,
    triangular,
    turned,
    well_conditioned,
)

Array = np.ndarray
SWEEPS = 40  # Jacobi's method needs six to ten; more means that there are NaNs


def epsilon(dtype: DType) -> float:
    """The spacing of numbers at 1."""
    return 2.0**-52 if dtype is float64 else 2.0**-23


@register
@frozen
class QR(Op):
    complete: bool  # Q square rather than [m, min(m, n)]
    name: ClassVar[str] = "qr_factor"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = REALS
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
            signs = np.ones(k, a.dtype)
            signs[:least] = np.where(np.diagonal(found_r) < 0, -1, 1)
            q[i], r[i] = found_q * signs, found_r * signs[:, None]
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
        by_q, by_r = gradients
        inner = None
        if by_r is not None:
            inner = matmul(r, turned(by_r))
        if by_q is not None:
            part = matmul(turned(by_q), q)
            inner = -part if inner is None else inner - part
        assert inner is not None
        below = f("tril")(inner, -1)
        symmetric = below + turned(below) + identity_like(inner) * inner
        total = matmul(q, symmetric)
        if by_q is not None:
            total = total + by_q
        # total R^-T: rows solve R x = row.
        return [turned(triangular(r, turned(total), lower=False))]

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (a,) = inputs
        team = r.teams(max(math.prod(a.shape[:-2]), 1))
        if math.prod(a.shape[:-2]) and a.shape[-2]:
            _Householder(r, a, team).write()

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(well_conditioned(4, 4), complete=False, tolerance=40),
            sample(well_conditioned(5, 3), complete=False, tolerance=40),
            sample(well_conditioned(2, 3, 2), complete=False, tolerance=40),
            sample(well_conditioned(3, 5), complete=False, grad=False, tolerance=40),
            sample(well_conditioned(4, 4), complete=True, grad=False, tolerance=40),
            sample(real(0, 3, 2), complete=False, grad=False),
            sample(well_conditioned(20, 17), complete=False, grad=False, tolerance=100),
        ]


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


@register
@frozen
class Eigh(Factorization):
    name: ClassVar[str] = "eigh_factor"
    doc: ClassVar[str] = (
        "Eigenvalues in ascending order and orthonormal eigenvectors (columns) of (A + A^T) / 2 "
        "(LAPACK syevd, but for the signs)."
    )

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        shape = self.checked(x)
        return TensorType(None if shape is None else shape[:-1], x.dtype), x

    def reference(self, a: Array) -> tuple[Array, Array]:
        values, vectors = np.linalg.eigh((a + np.swapaxes(a, -1, -2)) / 2)
        return values, vectors * _signs(vectors)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        by_values, by_vectors = gradients
        values, vectors = outputs
        inner: Tensor | None = None
        if by_values is not None:
            inner = identity_like(vectors) * by_values.expand_dims(-1)
        if by_vectors is not None:
            gaps = values.expand_dims(-2) - values.expand_dims(-1) + identity_like(vectors)
            turning = (1.0 - identity_like(vectors)) / gaps
            part = turning * matmul(turned(vectors), by_vectors)
            inner = part if inner is None else inner + part
        assert inner is not None
        whole = matmul(matmul(vectors, inner), turned(vectors))
        return [(whole + turned(whole)) * 0.5]

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (a,) = inputs
        n = a.shape[-1]
        team = r.teams(max(math.prod(a.shape[:-2]), 1))
        if not a.elements:
            return
        base = team * (n * n)
        work, vectors = r.local(a.dtype, n * n), r.local(a.dtype, n * n)  # eigenvectors are rows
        with r.spread(n * n) as i:
            both = r.read(a, base + i) + r.read(a, base + (i % n) * n + i // n)
            r.write(work, i, both * 0.5)
            r.write(vectors, i, r.where((i // n).eq(i % n), r.const(1, a.dtype), 0.0))
        tiny = epsilon(a.dtype)
        largest = r.reduce("max", n * n, lambda i: r.abs(r.read(work, i)))
        nothing = largest * (tiny * tiny)
        sweep, moved = r.variable(a.dtype, 0.0), r.variable(a.dtype, 1.0)
        with r.repeat(lambda: (moved.get() > 0.0) & (sweep.get() < float(SWEEPS))):
            moved.set(0.0)
            sweep.set(sweep.get() + 1.0)
            with r.loop(0, n - 1) as p, r.loop(p + 1, n) as q:
                x, y = r.read(work, p * n + p), r.read(work, q * n + q)
                z = r.read(work, p * n + q)
                with r.when(r.abs(z) > r.max(r.sqrt(r.abs(x)) * r.sqrt(r.abs(y)) * tiny, nothing)):
                    moved.set(1.0)
                    c, s = _rotation(r, x, y, z)
                    _rotate_rows(r, work, p * n, q * n, n, c, s)
                    _rotate_columns(r, work, p, q, n, c, s)
                    _rotate_rows(r, vectors, p * n, q * n, n, c, s)
        self._sorted(r, work, vectors, team, n)

    def _sorted(self, r: RoutineBuilder, work: Place, vectors: Place, team: Any, n: int) -> None:
        values, out = r.outputs
        with r.loop(0, n) as i:
            mine = r.read(work, i * n + i)

            def before(j: Any, i: Any = i, mine: Any = mine) -> Any:
                other = r.read(work, j * n + j)
                first = (other < mine) | (other.eq(mine) & (j < i))
                return r.where(first, r.index(1), 0)

            rank = r.reduce("add", n, before)
            place = r.max(r.min(rank, n - 1), 0)
            r.write(values, team * n + place, mine)
            _, at = _largest(r, vectors, i * n, n)
            head = r.read(vectors, i * n + r.min(at, n - 1))
            with r.spread(n) as j:
                v = r.read(vectors, i * n + j)
                r.write(out, team * (n * n) + j * n + place, r.where(head < 0.0, -v, v))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        spread = np.diag([1.0, -2.0, 4.0, 0.5]) + 0.3 * well_conditioned(4, 4)
        return [
            sample(spread, tolerance=60),
            sample(well_conditioned(2, 3, 3), tolerance=60),
            sample(np.array([[2.0]])),
            sample(real(0, 3, 3), grad=False),
            sample(np.diag([3.0, 1.0, 2.0]), grad=False),
            sample(
                np.diag(np.arange(12.0)) + 0.2 * well_conditioned(12, 12), grad=False, tolerance=200
            ),
        ]


def _signs(vectors: Array) -> Array:
    """Factors that make the largest element of each column positive."""
    at = np.argmax(np.abs(vectors), axis=-2, keepdims=True)
    if vectors.size == 0:
        return np.ones(at.shape, vectors.dtype)
    return np.where(np.take_along_axis(vectors, at, axis=-2) < 0, -1, 1).astype(vectors.dtype)


def _largest(r: RoutineBuilder, x: Place, start: Any, n: int) -> tuple[Any, Any]:
    """The largest magnitude of n elements, and where it is."""
    return r.arg_reduce("max", n, lambda j: r.abs(r.read(x, start + j)))


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


def _rotate_rows(r: RoutineBuilder, x: Place, p: Any, q: Any, n: int, c: Any, s: Any) -> None:
    with r.spread(n) as m:
        a, b = r.read(x, p + m), r.read(x, q + m)
        r.write(x, p + m, c * a - s * b)
        r.write(x, q + m, s * a + c * b)


def _rotate_columns(r: RoutineBuilder, x: Place, p: Any, q: Any, n: int, c: Any, s: Any) -> None:
    with r.spread(n) as m:
        a, b = r.read(x, m * n + p), r.read(x, m * n + q)
        r.write(x, m * n + p, c * a - s * b)
        r.write(x, m * n + q, s * a + c * b)


@register
@frozen
class JacobiSVD(Op):
    """Rows of the input are turned into orthogonal ones by rotations from the left."""

    name: ClassVar[str] = "jacobi_svd"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = REALS
    doc: ClassVar[str] = (
        "For A^T [n, m] with n <= m: singular values in descending order, V^T, and V^T A^T, whose "
        "rows are orthogonal (one-sided Jacobi)."
    )

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        check_dtype(self.name, x.dtype, self.dtypes)
        shape = matrix_shape(self.name, x)
        if shape is None:
            return x, x, x
        *lead, n, _ = shape
        return TensorType((*lead, n), x.dtype), TensorType((*lead, n, n), x.dtype), x

    def reference(self, at: Array) -> tuple[Array, Array, Array]:
        _, s, v = np.linalg.svd(np.swapaxes(at, -1, -2), full_matrices=False)
        v = v * np.swapaxes(_signs(np.swapaxes(v, -1, -2)), -1, -2)
        return s, v, v @ at

    grad = not_differentiable("svd, which is made of it, has its own")

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (x,) = inputs
        n, m = x.shape[-2:]
        team = r.teams(max(math.prod(x.shape[:-2]), 1))
        if not x.elements:
            return
        work, turns = r.local(x.dtype, n * m), r.local(x.dtype, n * n)
        with r.spread(n * m) as i:
            r.write(work, i, r.read(x, team * (n * m) + i))
        with r.spread(n * n) as i:
            r.write(turns, i, r.where((i // n).eq(i % n), r.const(1, x.dtype), 0.0))
        tiny = epsilon(x.dtype) * 2.0
        sweep, moved = r.variable(x.dtype, 0.0), r.variable(x.dtype, 1.0)
        with r.repeat(lambda: (moved.get() > 0.0) & (sweep.get() < float(SWEEPS))):
            moved.set(0.0)
            sweep.set(sweep.get() + 1.0)
            with r.loop(0, n - 1) as p, r.loop(p + 1, n) as q:
                a = _product(r, work, p * m, p * m, m)
                b = _product(r, work, q * m, q * m, m)
                g = _product(r, work, p * m, q * m, m)
                with r.when(r.abs(g) > r.sqrt(a) * r.sqrt(b) * tiny):
                    moved.set(1.0)
                    c, s = _rotation(r, a, b, g)
                    _rotate_rows(r, work, p * m, q * m, m, c, s)
                    _rotate_rows(r, turns, p * n, q * n, n, c, s)
        self._sorted(r, work, turns, team, n, m)

    def _sorted(
        self, r: RoutineBuilder, work: Place, turns: Place, team: Any, n: int, m: int
    ) -> None:
        values, vectors, rows = r.outputs
        sizes = r.local(work.dtype, n)
        with r.loop(0, n) as i:
            r.write(sizes, i, r.sqrt(_product(r, work, i * m, i * m, m)))
        with r.loop(0, n) as i:
            mine = r.read(sizes, i)

            def before(j: Any, i: Any = i, mine: Any = mine) -> Any:
                other = r.read(sizes, j)
                first = (other > mine) | (other.eq(mine) & (j < i))
                return r.where(first, r.index(1), 0)

            place = r.max(r.min(r.reduce("add", n, before), n - 1), 0)
            r.write(values, team * n + place, mine)
            _, at = _largest(r, turns, i * n, n)
            flip = r.read(turns, i * n + r.min(at, n - 1)) < 0.0
            with r.spread(n) as j:
                v = r.read(turns, i * n + j)
                r.write(vectors, team * (n * n) + place * n + j, r.where(flip, -v, v))
            with r.spread(m) as j:
                v = r.read(work, i * m + j)
                r.write(rows, team * (n * m) + place * m + j, r.where(flip, -v, v))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        spread = np.diag([1.0, -2.0, 4.0]) @ well_conditioned(3, 5)
        return [
            sample(spread, grad=False, tolerance=60),
            sample(np.stack([spread[:2], 2 * spread[1:]]), grad=False, tolerance=60),
            sample(np.array([[3.0, 4.0]]), grad=False),
            sample(real(0, 2, 3), grad=False),
        ]


def _product(r: RoutineBuilder, x: Place, p: Any, q: Any, m: int) -> Any:
    return r.reduce("add", m, lambda i: r.read(x, p + i) * r.read(x, q + i))


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
