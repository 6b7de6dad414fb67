"""Factorizations of square matrices, and triangular systems, real and complex.

LU with partial pivoting and Cholesky as in Golub and Van Loan, Matrix Computations, 3.4 and 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, int32
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import Shape, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops import blocked
from niello.ops.blocked import adjoint, f
from niello.ops.define import check_dtype
from niello.ops.factor_panels import hermitian, mixed
from niello.ops.fields import NUMBERS
from niello.ops.movement import apply, zeros_like
from niello.ops.triangular import InvertedOrder, TriangularColumns

Array = np.ndarray


def conjugate(x: Tensor) -> Tensor:
    """The complex conjugate; real tensors are their own."""
    return f("conj")(x) if x.dtype.is_complex else x  # type: ignore[no-any-return]


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
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS

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
                p = k + int(np.argmax(np.abs(one[k:, k].real) + np.abs(one[k:, k].imag)))
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

    def decompose(self, a: Tensor) -> tuple[Tensor, ...]:
        packed, order, swaps = blocked.lu(a)
        inverse = apply(InvertedOrder(), order)
        return packed, order, inverse, swaps

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
            sample(mixed(2, 4, 4), tolerance=60),
            sample(well_conditioned(150, 150), grad=False, tolerance=1000),
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
        "The lower triangular L with L L^H = (A + A^H) / 2; NaN from the first pivot that is not "
        "positive on (LAPACK potrf)."
    )

    def infer(self, x: TensorType) -> TensorType:
        self.checked(x)
        return x

    def reference(self, a: Array) -> Array:
        symmetric = (a + np.swapaxes(a, -1, -2).conj()) / 2
        found = np.zeros_like(symmetric)
        for i in range(a.shape[-1]):
            for j in range(i + 1):
                inner = (found[..., i, :j] * found[..., j, :j].conj()).sum(-1, dtype=a.dtype)
                rest = symmetric[..., i, j] - inner
                found[..., i, j] = np.sqrt(rest.real) if i == j else rest / found[..., j, j]
        return found

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        # `gradients` conjugates what arrives and what is given, as for holomorphic functions.
        lower, g = outputs[0], conjugate(gradients[0])
        inner = matmul(adjoint(lower), g)
        halved = f("tril")(inner, -1) + identity_like(inner) * inner * 0.5
        upper = conjugate(lower)  # of whose transposes the systems are
        left = triangular(upper, halved, lower=True, transpose=True)
        whole = adjoint(triangular(upper, adjoint(left), lower=True, transpose=True))
        return [conjugate((whole + adjoint(whole)) * 0.5)]

    def decompose(self, a: Tensor) -> Tensor:
        return blocked.cholesky((a + adjoint(a)) * 0.5)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(positive_definite(4, 4), tolerance=40),
            sample(positive_definite(2, 3, 3), tolerance=40),
            sample(positive_definite(1, 1)),
            sample(np.array([[1.0, 2.0], [2.0, 1.0]]), grad=False),
            sample(real(0, 3, 3)),
            sample(positive_definite(19, 19), grad=False, tolerance=100),
            sample(hermitian(mixed(2, 4, 4)), tolerance=60),
            sample(positive_definite(150, 150) / 150, grad=False, tolerance=1000),
        ]


@register
@frozen
class TriangularSolve(Op):
    below: bool  # the lower triangle of the matrix
    transpose: bool  # solve with the transpose of the matrix
    unit: bool  # take the diagonal to be ones
    name: ClassVar[str] = "triangular_solve"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
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

    def decompose(self, a: Tensor, b: Tensor) -> Tensor:
        leaf = TriangularColumns(self.below, self.transpose, self.unit, 1)
        return blocked.triangular(leaf, a, b)

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
            sample(mixed(4, 4), real(4, 3), below=True, transpose=True, unit=False, tolerance=20),
            *(
                sample(
                    well_conditioned(100, 100) + 10 * np.eye(100),
                    real(100, 2),
                    below=low,
                    transpose=t,
                    unit=False,
                    grad=False,
                    tolerance=60,
                )
                for low in (False, True)
                for t in (False, True)
            ),
        ]


def triangular(
    a: Tensor, b: Tensor, *, lower: bool, transpose: bool = False, unit: bool = False
) -> Tensor:
    """X with A X = B for stacks of one shape; see TriangularSolve."""
    return apply(TriangularSolve(lower, transpose, unit), a, b)
