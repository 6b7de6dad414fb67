"""Factorizations of square matrices, and triangular systems: routines, one team for each matrix.

LU with partial pivoting and Cholesky as in Golub and Van Loan, Matrix Computations, 3.4 and 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, float32, float64, int32
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import Shape, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, functions, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.define import check_dtype
from niello.ops.movement import apply, zeros_like

Array = np.ndarray
REALS = (float32, float64)


def f(name: str) -> Any:
    """A published function, which may be in a module that needs this one."""
    return functions()[name]


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return f("matmul")(a, b)  # type: ignore[no-any-return]


def turned(x: Tensor) -> Tensor:
    """The transpose of matrices."""
    return f("swap_axes")(x, -1, -2)  # type: ignore[no-any-return]


def identity_like(x: Tensor) -> Tensor:
    """Identity matrices of the shape of `x`, whose last two sizes need not be equal."""
    ones = zeros_like(x) + 1.0
    return f("tril")(f("triu")(ones))  # type: ignore[no-any-return]


def matrix_shape(asked: str, x: TensorType, *, square: bool = False) -> Shape | None:
    """The shape of a stack of matrices. Raises ShapeError for anything else."""
    if x.shape is None:
        return None
    if len(x.shape) < 2:
        raise ShapeError(asked, "takes matrices [..., m, n]", received=str(x))
    m, n = x.shape[-2:]
    if square and m is not None and n is not None and m != n:
        raise ShapeError(asked, "takes square matrices", received=show(x.shape))
    return x.shape


def well_conditioned(*shape: int, seed: int = 0) -> Array:
    """Random matrices with a strong diagonal, not symmetric."""
    rng = np.random.default_rng((seed, *shape))
    found = rng.uniform(-1.0, 1.0, shape)
    k = min(shape[-2:])
    found[..., range(k), range(k)] += 2.0 * np.where(rng.uniform(size=k) < 0.5, -1.0, 1.0)
    return found


def positive_definite(*shape: int) -> Array:
    """Random symmetric matrices with positive eigenvalues."""
    a = well_conditioned(*shape)
    return a @ np.swapaxes(a, -1, -2) + 0.5 * np.eye(shape[-1])


class Factorization(Op):
    """Base of ops of square matrices."""

    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = REALS

    def checked(self, x: TensorType) -> Shape | None:
        """The shape of the matrices."""
        check_dtype(self.name, x.dtype, self.dtypes)
        return matrix_shape(self.name, x, square=True)


@register
@frozen
class LU(Factorization):
    """Results: L below the diagonal and U, rows chosen, the inverse of that permutation, swaps."""

    name: ClassVar[str] = "lu_factor"
    doc: ClassVar[str] = (
        "A[permutation] = L U with partial pivoting: both factors in one matrix, the permutation, "
        "its inverse, and the number of swaps (LAPACK getrf)."
    )

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        shape = self.checked(x)
        rows = None if shape is None else shape[:-1]
        lead = None if shape is None else shape[:-2]
        return x, TensorType(rows, int32), TensorType(rows, int32), TensorType(lead, int32)

    def reference(self, a: Array) -> tuple[Array, ...]:
        n = a.shape[-1]
        lu = a.reshape(-1, n, n).copy() if a.size else a.reshape(math.prod(a.shape[:-2]), n, n)
        order = np.tile(np.arange(n, dtype=np.int32), (len(lu), 1))
        swaps = np.zeros(len(lu), np.int32)
        for one, rows, number in zip(lu, order, range(len(lu)), strict=True):
            for k in range(n):
                p = k + int(np.argmax(np.abs(one[k:, k])))
                if p != k:
                    one[[k, p]], rows[[k, p]] = one[[p, k]], rows[[p, k]]
                    swaps[number] += 1
                if one[k, k] != 0:
                    one[k + 1 :, k] /= one[k, k]
                one[k + 1 :, k + 1 :] -= np.outer(one[k + 1 :, k], one[k, k + 1 :])
        inverse = np.argsort(order, axis=-1).astype(np.int32)
        lead = a.shape[:-2]
        return (
            lu.reshape(a.shape),
            order.reshape(*lead, n),
            inverse.reshape(*lead, n),
            swaps.reshape(lead),
        )

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        g, packed = gradients[0], outputs[0]
        lower = f("tril")(packed, -1) + identity_like(packed)
        upper, tril, triu = f("triu")(packed), f("tril"), f("triu")
        inner = tril(matmul(turned(lower), tril(g, -1)), -1) + triu(matmul(triu(g), turned(upper)))
        left = triangular(packed, inner, lower=True, transpose=True, unit=True)
        right = turned(triangular(packed, turned(left), lower=False))
        return [f("gather")(right, outputs[2], axis=-2, batch_dims=_lead(right))]

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (a,) = inputs
        lu, order, inverse, swaps = r.outputs
        n = a.shape[-1]
        team = r.teams(max(math.prod(a.shape[:-2]), 1))
        if not math.prod(a.shape[:-2]):
            return
        base, first = team * (n * n), team * n
        with r.spread(n * n) as m:
            r.write(lu, base + m, r.read(a, base + m))
        with r.spread(n) as m:
            r.write(order, first + m, r.cast(m, int32))
        count = r.variable(int32, 0)
        with r.loop(0, n) as k:
            row = base + k * n
            _, at = r.arg_reduce("max", n - k, lambda m: r.abs(r.read(lu, base + (k + m) * n + k)))
            chosen = r.min(k + at, n - 1)
            with r.when(chosen.ne(k)):
                other = base + chosen * n
                with r.spread(n) as m:
                    x, y = r.read(lu, row + m), r.read(lu, other + m)
                    r.write(lu, row + m, y)
                    r.write(lu, other + m, x)
                i, j = r.read(order, first + k), r.read(order, first + chosen)
                r.write(order, first + k, j)
                r.write(order, first + chosen, i)
                count.set(count.get() + 1)
            pivot = r.read(lu, row + k)
            with r.loop(k + 1, n) as i:
                below = base + i * n
                value = r.read(lu, below + k)
                factor = r.where(pivot.eq(0.0), value, value / pivot)
                r.write(lu, below + k, factor)
                with r.spread(n - 1 - k) as m:
                    column = k + 1 + m
                    left = r.read(lu, below + column)
                    r.write(lu, below + column, left - factor * r.read(lu, row + column))
        with r.loop(0, n) as k:
            chosen = r.read(order, first + k, low=0, high=max(n - 1, 0))
            r.write(inverse, first + r.cast(chosen, r.index(0).dtype), r.cast(k, int32))
        r.write(swaps, team, count.get())

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(well_conditioned(4, 4), tolerance=40),
            sample(well_conditioned(2, 3, 3), tolerance=40),
            sample(well_conditioned(1, 1)),
            sample(np.array([[0.0, 1.0], [2.0, 0.0]]), grad=False),
            sample(np.array([[1.0, 2.0], [2.0, 4.0]]), grad=False),
            sample(real(0, 3, 3)),
            sample(well_conditioned(20, 20), grad=False, tolerance=100),
        ]


def _lead(x: Tensor) -> int:
    """How many axes come before the matrices."""
    assert x.rank is not None
    return x.rank - 2


@register
@frozen
class Cholesky(Factorization):
    name: ClassVar[str] = "cholesky_factor"
    doc: ClassVar[str] = (
        "The lower triangular L with L L^T = (A + A^T) / 2; NaN from the first pivot that is not "
        "positive on (LAPACK potrf)."
    )

    def infer(self, x: TensorType) -> TensorType:
        self.checked(x)
        return x

    def reference(self, a: Array) -> Array:
        symmetric = (a + np.swapaxes(a, -1, -2)) / 2
        found = np.zeros_like(symmetric)
        for i in range(a.shape[-1]):
            for j in range(i + 1):
                inner = (found[..., i, :j] * found[..., j, :j]).sum(-1, dtype=a.dtype)
                rest = symmetric[..., i, j] - inner
                found[..., i, j] = np.sqrt(rest) if i == j else rest / found[..., j, j]
        return found

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        lower = outputs[0]
        inner = matmul(turned(lower), gradients[0])
        halved = f("tril")(inner, -1) + identity_like(inner) * inner * 0.5
        left = triangular(lower, halved, lower=True, transpose=True)
        whole = turned(triangular(lower, turned(left), lower=True, transpose=True))
        return [(whole + turned(whole)) * 0.5]

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (a,) = inputs
        out = r.outputs[0]
        n = a.shape[-1]
        base = r.teams(max(math.prod(a.shape[:-2]), 1)) * (n * n)
        if not a.elements:
            return
        with r.spread(n * n) as m:
            r.write(out, base + m, 0.0)
        with r.loop(0, n) as i:
            with r.loop(0, i) as j:
                rest = self._rest(r, a, out, base, n, i, j)
                r.write(out, base + i * n + j, rest / r.read(out, base + j * n + j))
            r.write(out, base + i * n + i, r.sqrt(self._rest(r, a, out, base, n, i, i)))

    def _rest(
        self, r: RoutineBuilder, a: Place, out: Place, base: Any, n: int, i: Any, j: Any
    ) -> Any:
        """A[i, j] less what the columns before j make of it."""
        inner = r.reduce(
            "add",
            j,
            lambda m: r.read(out, base + i * n + m) * r.read(out, base + j * n + m),
        )
        both = r.read(a, base + i * n + j) + r.read(a, base + j * n + i)
        return both * 0.5 - inner

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(positive_definite(4, 4), tolerance=40),
            sample(positive_definite(2, 3, 3), tolerance=40),
            sample(positive_definite(1, 1)),
            sample(np.array([[1.0, 2.0], [2.0, 1.0]]), grad=False),
            sample(real(0, 3, 3)),
            sample(positive_definite(19, 19), grad=False, tolerance=100),
        ]


@register
@frozen
class TriangularSolve(Op):
    below: bool  # the lower triangle of the matrix
    transpose: bool  # solve with the transpose of the matrix
    unit: bool  # take the diagonal to be ones
    name: ClassVar[str] = "triangular_solve"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = REALS
    doc: ClassVar[str] = (
        "X with A X = B, or with `transpose` A^T X = B, where only the lower (upper) triangle of A "
        "is looked at (BLAS trsm)."
    )

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        check_dtype(self.name, a.dtype, self.dtypes)
        check_dtype(self.name, b.dtype, (a.dtype,))
        left = matrix_shape(self.name, a, square=True)
        right = matrix_shape(self.name, b)
        if left is None or right is None:
            return b
        pairs = [*zip(left[:-1], right[:-1], strict=False)]
        if len(left) != len(right) or any(None not in p and p[0] != p[1] for p in pairs):
            raise ShapeError(
                self.name,
                "the matrix and the right side do not fit",
                received=f"{show(left)} and {show(right)}",
            )
        return b

    def _triangle(self, a: Array) -> Array:
        kept = np.tril(a) if self.below else np.triu(a)
        if self.unit:
            n = a.shape[-1]
            kept = kept.copy()
            kept[..., range(n), range(n)] = 1
        return np.swapaxes(kept, -1, -2) if self.transpose else kept

    def reference(self, a: Array, b: Array) -> Array:
        t = self._triangle(a)
        n = t.shape[-1]
        found = np.array(b)
        order = range(n) if self.below != self.transpose else range(n - 1, -1, -1)
        done: list[int] = []
        for i in order:
            for j in done:
                found[..., i, :] -= t[..., i, j, None] * found[..., j, :]
            found[..., i, :] /= t[..., i, i, None]
            done.append(i)
        return found

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        a, x = inputs[0], outputs[0]
        by_b = apply(TriangularSolve(self.below, not self.transpose, self.unit), a, gradients[0])
        product = matmul(x, turned(by_b)) if self.transpose else matmul(by_b, turned(x))
        cut = f("tril" if self.below else "triu")
        by_a = cut(-product, (-1 if self.below else 1) if self.unit else 0)
        return [by_a, by_b]

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        a, b = inputs
        out = r.outputs[0]
        n, k = b.shape[-2:]
        team = r.teams(max(math.prod(b.shape[:-2]), 1))
        if not b.elements:
            return
        square, base = team * (n * n), team * (n * k)
        forward = self.below != self.transpose

        def entry(i: Any, j: Any) -> Any:
            row, column = (j, i) if self.transpose else (i, j)
            return r.read(a, square + row * n + column)

        with r.loop(0, n) as step:
            i = step if forward else n - 1 - step
            with r.spread(k) as m:
                rest = r.variable(b.dtype, r.read(b, base + i * k + m))
                with r.loop(0, step) as done:
                    j = done if forward else n - 1 - done
                    rest.set(rest.get() - entry(i, j) * r.read(out, base + j * k + m))
                value = rest.get()
                r.write(out, base + i * k + m, value if self.unit else value / entry(i, i))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        a = well_conditioned(4, 4)
        return [
            *(
                sample(a, real(4, 3), below=low, transpose=t, unit=u, tolerance=20)
                for low in (False, True)
                for t in (False, True)
                for u in (False, True)
            ),
            sample(
                well_conditioned(2, 3, 3), real(2, 3, 1), below=True, transpose=False, unit=False
            ),
            sample(a, real(4, 0), below=True, transpose=False, unit=False),
        ]


def triangular(
    a: Tensor, b: Tensor, *, lower: bool, transpose: bool = False, unit: bool = False
) -> Tensor:
    """X with A X = B for stacks of one shape; see TriangularSolve."""
    return apply(TriangularSolve(lower, transpose, unit), a, b)
