"""Linear algebra on stacks of real or complex matrices: solving, inverting, factoring, norms.

Half types and integers are computed in float32. The functions are NumPy's and PyTorch's; what a
singular or rank-deficient matrix gives is said where it matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, complex64, float32, int32
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, function, plain_function, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.blocked import adjoint, f
from niello.ops.define import as_operand, cast_to, check_dtype
from niello.ops.eigen import as_kind, epsilon, phases
from niello.ops.factor_panels import mixed
from niello.ops.factorize import (
    LU,
    Cholesky,
    Factorization,
    conjugate,
    identity_like,
    matmul,
    matrix_shape,
    triangular,
    turned,
    well_conditioned,
)
from niello.ops.fields import NUMBERS
from niello.ops.movement import apply, integer, tensor_of
from niello.ops.orthogonal import orthogonal, rotated, symmetric_eigen
from niello.ops.svd_gradient import svd_gradient

Array = np.ndarray


def _matrices(asked: str, x: Any, *, square: bool = False) -> Tensor:
    """The operand in a dtype that factorizations work in."""
    tensor = tensor_of(asked, x)
    matrix_shape(asked, tensor.type, square=square)
    if tensor.dtype in NUMBERS:
        return tensor
    return cast_to(tensor, complex64 if tensor.dtype.is_complex else float32)


def _together(asked: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Stacks of one shape, by broadcasting the leading axes."""
    b = cast_to(as_operand(asked, a, b), a.dtype)
    if a.shape is None or b.shape is None or None in a.shape[:-2] or None in b.shape[:-2]:
        if a.rank is not None and a.rank == b.rank:
            return a, b
        raise ShapeError(
            asked,
            "the leading axes of both sides must be known, or as many",
            received=f"{a.type} and {b.type}",
        )
    try:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[arg-type]
    except ValueError as error:
        raise ShapeError(
            asked,
            "the leading axes do not broadcast",
            received=f"{show(a.shape)} and {show(b.shape)}",
        ) from error
    wanted = [(*lead, *t.shape[-2:]) for t in (a, b)]  # type: ignore[index]
    found = [t if t.shape == s else t.broadcast_to(s) for t, s in zip((a, b), wanted, strict=True)]
    return found[0], found[1]


# --- factorizations


@plain_function
def lu(x: Any, *, name: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(permutation, L, U) with x[permutation] = L U: rows [..., n], unit lower, and upper matrices.

    Partial pivoting; a singular matrix gives a U with a zero on its diagonal. Raises ShapeError for
    matrices that are not square. As SciPy's lu with p_indices.

    Example:
        >>> import niello as nl
        >>> p, lower, upper = nl.lu(nl.Graph().placeholder((3, 3)))
        >>> p.type, lower.shape
        (int32[3], (3, 3))
    """
    a = _matrices("lu", x, square=True)
    packed, order, _, _ = a.graph.add(LU(), [a], name=name).outputs
    return order, f("tril")(packed, -1) + identity_like(packed), f("triu")(packed)


@function
def cholesky(x: Any, *, upper: bool = False, name: str | None = None) -> Tensor:
    """The lower triangular L with L L^H = x, or with `upper` its conjugate transpose.

    The Hermitian part of x is factored; from the first pivot that is not positive on there are NaNs
    (other libraries raise: test with `nl.is_nan`). As NumPy's cholesky.

    Example:
        >>> import niello as nl
        >>> nl.cholesky(nl.Graph().placeholder((2, 3, 3))).shape
        (2, 3, 3)
    """
    found = apply(Cholesky(), _matrices("cholesky", x, square=True), name=name)
    return adjoint(found) if upper else found


@plain_function
def qr(x: Any, *, mode: str = "reduced", name: str | None = None) -> tuple[Tensor, Tensor]:
    """(Q, R) with x = Q R, orthonormal columns of Q, and an upper R with a diagonal >= 0.

    mode "reduced": Q [..., m, min(m, n)]; "complete": Q [..., m, m]. The gradient is for "reduced"
    and m >= n with full rank. As NumPy's qr, but for the signs.

    Example:
        >>> import niello as nl
        >>> q, r = nl.qr(nl.Graph().placeholder((5, 3)))
        >>> q.shape, r.shape
        ((5, 3), (3, 3))
    """
    if mode not in ("reduced", "complete"):
        raise AttributeValueError("qr", "mode is reduced or complete", received=repr(mode))
    return orthogonal(_matrices("qr", x), mode == "complete")


@plain_function
def eigh(x: Any, *, name: str | None = None) -> tuple[Tensor, Tensor]:
    """(eigenvalues ascending [..., n], eigenvectors as columns [..., n, n]) of (x + x^H) / 2.

    Of each eigenvector the element of largest magnitude is positive. The gradient of the vectors is
    infinite where eigenvalues are equal. As NumPy's eigh, but for the signs.

    Example:
        >>> import niello as nl
        >>> values, vectors = nl.eigh(nl.Graph().placeholder((3, 3)))
        >>> values.shape, vectors.shape
        ((3,), (3, 3))
    """
    return symmetric_eigen(_matrices("eigh", x, square=True))


@function
def eigvalsh(x: Any, *, name: str | None = None) -> Tensor:
    """The eigenvalues of (x + x^H) / 2 in ascending order. As NumPy's eigvalsh.

    Example:
        >>> import niello as nl
        >>> nl.eigvalsh(nl.Graph().placeholder((3, 3))).shape
        (3,)
    """
    return symmetric_eigen(_matrices("eigvalsh", x, square=True))[0]


@register
@frozen
class SVD(Op):
    name: ClassVar[str] = "svd"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "A = U diag(s) V^H: U [m, k], s descending [k], V^H [k, n] with k = min(m, n) (LAPACK "
        "gesvd, but for the signs)."
    )

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        check_dtype(self.name, x.dtype, self.dtypes)
        shape = matrix_shape(self.name, x)
        if shape is None:
            return x, TensorType(None, x.dtype.plane), x
        *lead, m, n = shape
        k = None if m is None or n is None else min(m, n)
        u, v = (TensorType(t, x.dtype) for t in ((*lead, m, k), (*lead, k, n)))
        return u, TensorType((*lead, k), x.dtype.plane), v

    def reference(self, a: Array) -> tuple[Array, Array, Array]:
        u, s, v = np.linalg.svd(a, full_matrices=False)
        # The factor of which JacobiSVD turns the columns has definite phases.
        wide = a.shape[-2] < a.shape[-1]
        turn = phases(u) if wide else phases(np.swapaxes(v, -1, -2)).conj()
        return u * turn, s, v * np.swapaxes(turn, -1, -2).conj()

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [svd_gradient(gradients, outputs, inputs[0])]

    def decompose(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m, n = x.type.static_shape[-2:]
        s, v, rows = rotated(x if m < n else adjoint(x))
        # The rows are orthogonal, but those of singular values near zero have no direction.
        q, _ = orthogonal(adjoint(rows))
        return (adjoint(v), s, adjoint(q)) if m < n else (q, s, v)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        tall = well_conditioned(4, 3) @ np.diag([1.0, 2.0, 4.0])
        return [
            sample(tall, tolerance=100),
            sample(tall.T.copy(), tolerance=100),
            sample(np.stack([tall[:3], tall[1:] * 2]), tolerance=100),
            sample(np.array([[3.0], [4.0]])),
            sample(real(0, 3, 2), grad=False),
            sample(mixed(4, 3) @ np.diag([1.0, 2.0, 4.0]), tolerance=100),
            sample(np.diag([1.0, 2.0, 4.0]) @ mixed(3, 4), tolerance=100),
        ]


@plain_function
def svd(x: Any, *, name: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(U [..., m, k], s [..., k] descending, V^H [..., k, n]): x = U diag(s) V^H, k = min(m, n).

    One-sided Jacobi: small singular values are found to high relative accuracy, and the columns of
    U are orthonormal for rank-deficient matrices too. The gradient of U and V is infinite where
    singular values are equal, or zero. As NumPy's svd(full_matrices=False), but for the signs.

    Example:
        >>> import niello as nl
        >>> u, s, v = nl.svd(nl.Graph().placeholder((5, 3)))
        >>> u.shape, s.shape, v.shape
        ((5, 3), (3,), (3, 3))
    """
    a = _matrices("svd", x)
    u, s, v = a.graph.add(SVD(), [a], name=name).outputs
    return u, s, v


@function
def svdvals(x: Any, *, name: str | None = None) -> Tensor:
    """The singular values in descending order. As NumPy's svdvals.

    Example:
        >>> import niello as nl
        >>> nl.svdvals(nl.Graph().placeholder((5, 3))).shape
        (3,)
    """
    return svd(x)[1]


# --- solving


@register
@frozen
class Solve(Factorization):
    name: ClassVar[str] = "solve"
    doc: ClassVar[str] = "X with A X = B for square A, by LU with partial pivoting (LAPACK gesv)."

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        left = self.checked(a)
        check_dtype(self.name, b.dtype, (a.dtype,))
        right = matrix_shape(self.name, b)
        if left is not None and right is not None:
            pairs = zip(left[:-1], right[:-1], strict=False)
            if len(left) != len(right) or any(None not in p and p[0] != p[1] for p in pairs):
                raise ShapeError(
                    self.name,
                    "the matrix and the right side do not fit",
                    received=f"{show(left)} and {show(right)}",
                )
        return b

    def reference(self, a: Array, b: Array) -> Array:
        found = np.full_like(b, np.nan)
        lead = b.shape[:-2]
        for at in np.ndindex(*lead):
            try:
                found[at] = np.linalg.solve(a[at], b[at])
            except np.linalg.LinAlgError:
                continue
        return found

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        by_b = apply(self, turned(inputs[0]), gradients[0])
        return [-matmul(by_b, turned(outputs[0])), by_b]

    def decompose(self, a: Tensor, b: Tensor) -> Tensor:
        packed, order, _, _ = a.graph.add(LU(), [a]).outputs
        rank = len(b.type.static_shape)
        rows = f("gather")(b, order, axis=rank - 2, batch_dims=rank - 2)
        return triangular(packed, triangular(packed, rows, lower=True, unit=True), lower=False)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(well_conditioned(4, 4), real(4, 3), tolerance=60),
            sample(well_conditioned(2, 3, 3), real(2, 3, 1), tolerance=60),
            sample(well_conditioned(3, 3), real(3, 0)),
            sample(mixed(2, 3, 3), real(2, 3, 2), tolerance=60),
            sample(real(0, 3, 3), real(0, 3, 2)),
        ]


@plain_function
def solve(a: Any, b: Any, *, name: str | None = None) -> Tensor:
    """x with a x = b: a [..., n, n], b [..., n, k], or [n] when a is one matrix.

    LU with partial pivoting; a singular matrix gives infinities or NaN. Leading axes broadcast. As
    NumPy's solve.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.solve(g.placeholder((3, 3)), g.placeholder((3, 2))).shape
        (3, 2)
    """
    matrix = _matrices("solve", a, square=True)
    side = as_operand("solve", matrix, b)
    vector = side.rank == 1
    if vector:
        side = side.expand_dims(-1)
    found = apply(Solve(), *_together("solve", matrix, side), name=name)
    return found.squeeze(axes=-1) if vector else found


@plain_function
def solve_triangular(
    a: Any,
    b: Any,
    *,
    lower: bool = False,
    transpose: bool = False,
    unit_diagonal: bool = False,
    name: str | None = None,
) -> Tensor:
    """x with a x = b, or a^T x = b, where only one triangle of a is looked at.

    a [..., n, n]; b [..., n, k], or [n] when a is one matrix. Leading axes broadcast. As SciPy's
    solve_triangular.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.solve_triangular(g.placeholder((3, 3)), g.placeholder((3,)), lower=True).shape
        (3,)
    """
    matrix = _matrices("solve_triangular", a, square=True)
    side = as_operand("solve_triangular", matrix, b)
    vector = side.rank == 1
    if vector:
        side = side.expand_dims(-1)
    left, right = _together("solve_triangular", matrix, side)
    found = triangular(left, right, lower=lower, transpose=transpose, unit=unit_diagonal)
    return found.squeeze(axes=-1) if vector else found


@plain_function
def cholesky_solve(b: Any, factor: Any, *, upper: bool = False, name: str | None = None) -> Tensor:
    """x with A x = b, given the Cholesky factor of A. As PyTorch's cholesky_solve.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.cholesky_solve(g.placeholder((3, 2)), g.placeholder((3, 3))).shape
        (3, 2)
    """
    lower = _matrices("cholesky_solve", factor, square=True)
    if upper:
        lower = adjoint(lower)
    left, right = _together("cholesky_solve", lower, as_operand("cholesky_solve", lower, b))
    first = triangular(left, right, lower=True)
    return triangular(conjugate(left), first, lower=True, transpose=True)


@function
def inverse(x: Any, *, name: str | None = None) -> Tensor:
    """The inverse of square matrices [..., n, n]; infinities or NaN for a singular one.

    As NumPy's inv.

    Example:
        >>> import niello as nl
        >>> nl.inverse(nl.Graph().placeholder((2, 3, 3))).shape
        (2, 3, 3)
    """
    a = _matrices("inverse", x, square=True)
    return apply(Solve(), a, identity_like(a), name=name)


def _log_determinant(x: Tensor) -> tuple[Tensor, Tensor]:
    packed, _, _, swaps = x.graph.add(LU(), [x]).outputs
    diagonal = f("diagonal")(packed, 0, -2, -1)
    if x.dtype.is_complex:
        size = diagonal.absolute()
        angle = f("angle")(diagonal).sum(-1) + cast_to(swaps, size.dtype) * math.pi
        none = size.equal(0.0).any(-1)
        parts = (none.select(0.0, angle.cos()), none.select(0.0, angle.sin()))
        return f("complex")(*parts), size.log().sum(-1)
    negative = (diagonal.less(0.0).cast(int32).sum(-1) + swaps) % 2
    sign = 1.0 - 2.0 * cast_to(negative, x.dtype)
    zero = diagonal.equal(0.0).any(-1)
    return zero.select(0.0, sign), diagonal.absolute().log().sum(-1)


def _product(x: Tensor) -> Tensor:
    """The product along the last axis; that of complex numbers in halves."""
    n = x.type.static_shape[-1]
    if not x.dtype.is_complex or n == 0:
        real_part = x if not x.dtype.is_complex else f("real")(x)
        return as_kind(real_part.prod(-1), x)
    while n > 1:
        half = n // 2
        both = x[..., :half] * x[..., half : 2 * half]
        x = f("concat")([both, x[..., 2 * half :]], axis=-1) if n % 2 else both
        n -= half
    return x[..., 0]  # type: ignore[no-any-return]


@register
@frozen
class Determinant(Factorization):
    name: ClassVar[str] = "determinant"
    doc: ClassVar[str] = "The determinant of square matrices, from their LU factors."

    def infer(self, x: TensorType) -> TensorType:
        shape = self.checked(x)
        return TensorType(None if shape is None else shape[:-2], x.dtype)

    def reference(self, a: Array) -> Array:
        return np.asarray(np.linalg.det(a)).astype(a.dtype)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (a,) = inputs
        factor = (gradients[0] * outputs[0]).expand_dims(-1).expand_dims(-1)
        return [factor * turned(apply(Solve(), a, identity_like(a)))]

    def decompose(self, x: Tensor) -> Tensor:
        packed, _, _, swaps = x.graph.add(LU(), [x]).outputs
        sign = as_kind(1.0 - 2.0 * cast_to(swaps % 2, x.dtype.plane), x)
        return _product(f("diagonal")(packed, 0, -2, -1)) * sign

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(well_conditioned(4, 4), tolerance=40),
            sample(well_conditioned(2, 3, 3), tolerance=40),
            sample(np.array([[0.0, 1.0], [1.0, 0.0]])),
            sample(mixed(2, 3, 3), tolerance=40),
            sample(np.array([[1.0, 2.0], [2.0, 4.0]]), grad=False),
            sample(real(0, 2, 2)),
        ]


@function
def det(x: Any, *, name: str | None = None) -> Tensor:
    """The determinant of square matrices. Its gradient is for matrices that are not singular.

    As NumPy's det.

    Example:
        >>> import niello as nl
        >>> nl.det(nl.Graph().placeholder((2, 3, 3))).shape
        (2,)
    """
    return apply(Determinant(), _matrices("det", x, square=True), name=name)


@plain_function
def slogdet(x: Any, *, name: str | None = None) -> tuple[Tensor, Tensor]:
    """(sign, logarithm of the absolute value) of the determinant; 0 and -infinity when singular.

    As NumPy's slogdet.

    Example:
        >>> import niello as nl
        >>> sign, log = nl.slogdet(nl.Graph().placeholder((2, 3, 3)))
        >>> sign.shape, log.shape
        ((2,), (2,))
    """
    return _log_determinant(_matrices("slogdet", x, square=True))


@function
def pinv(x: Any, *, rtol: float | None = None, name: str | None = None) -> Tensor:
    """The Moore-Penrose inverse [..., n, m]: singular values up to rtol times the largest count as
    zero; rtol is max(m, n) times the spacing of numbers unless given. As NumPy's pinv.

    Example:
        >>> import niello as nl
        >>> nl.pinv(nl.Graph().placeholder((5, 3))).shape
        (3, 5)
    """
    a = _matrices("pinv", x)
    u, s, v = svd(a)
    small = s.less_equal(s.max(-1, True) * _tolerance("pinv", a, rtol))
    scale = as_kind(small.select(0.0, 1.0 / small.select(1.0, s)), a)
    return matmul(adjoint(v) * scale.expand_dims(-2), adjoint(u))


def _tolerance(asked: str, a: Tensor, rtol: float | None) -> float:
    if rtol is not None:
        return float(rtol)
    shape = a.shape
    if shape is None or None in shape[-2:]:
        raise ShapeError(
            asked, "the sizes of the matrices must be known, or rtol given", received=str(a.type)
        )
    return max(shape[-2:]) * epsilon(a.dtype)  # type: ignore[type-var,operator]


@plain_function
def lstsq(a: Any, b: Any, *, rtol: float | None = None, name: str | None = None) -> Tensor:
    """The x of least norm that minimises |a x - b|: a [..., m, n], b [..., m, k] or [m].

    By singular values, so rank-deficient systems have a solution too; `rtol` as in `pinv`. As
    NumPy's lstsq, of which it is the first result.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.lstsq(g.placeholder((5, 3)), g.placeholder((5, 2))).shape
        (3, 2)
    """
    matrix = _matrices("lstsq", a)
    side = as_operand("lstsq", matrix, b)
    vector = side.rank == 1
    if vector:
        side = side.expand_dims(-1)
    found = matmul(pinv(matrix, rtol=rtol), cast_to(side, matrix.dtype))
    return found.squeeze(axes=-1) if vector else found


@function
def matrix_rank(x: Any, *, rtol: float | None = None, name: str | None = None) -> Tensor:
    """How many singular values are above rtol times the largest, int32; see `pinv`.

    Example:
        >>> import niello as nl
        >>> nl.matrix_rank(nl.Graph().placeholder((2, 5, 3))).type
        int32[2]
    """
    a = _matrices("matrix_rank", x)
    s = svd(a)[1]
    return s.greater(s.max(-1, True) * _tolerance("matrix_rank", a, rtol)).cast(int32).sum(-1)  # type: ignore[no-any-return]


@function
def matrix_power(x: Any, n: int, *, name: str | None = None) -> Tensor:
    """Square matrices multiplied by themselves n times; of the inverse for n < 0. As NumPy's.

    Example:
        >>> import niello as nl
        >>> nl.matrix_power(nl.Graph().placeholder((3, 3)), 5).shape
        (3, 3)
    """
    power = integer("matrix_power", n, "the power")
    base = _matrices("matrix_power", x, square=True)
    if power < 0:
        base, power = inverse(base), -power
    found: Tensor | None = None
    while power:
        if power & 1:
            found = base if found is None else matmul(found, base)
        power >>= 1
        if power:
            base = matmul(base, base)
    return identity_like(base) if found is None else found
