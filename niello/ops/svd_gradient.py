"""The gradient of the singular value decomposition, of real and of complex matrices."""

from __future__ import annotations

from collections.abc import Sequence

from niello.graph.tensor import Tensor
from niello.ops.blocked import adjoint, f
from niello.ops.eigen import as_kind, with_phases
from niello.ops.factorize import identity_like, matmul


def svd_gradient(
    gradients: Sequence[Tensor | None], outputs: Sequence[Tensor], x: Tensor
) -> Tensor:
    """The gradient of the matrices from those of U, s and V^H (Wan and Zhang, arXiv 1909.02659).

    In the complex case the phases of the vectors are those for which the largest element of each
    column of V, or of U where the matrix is wide, is real.
    """
    by_u, by_s, by_v = gradients
    u, s, v = outputs
    eye = identity_like(matmul(v, adjoint(v)))
    level = as_kind(s, x)
    column, row = level.expand_dims(-1), level.expand_dims(-2)
    inner = eye * 0.0 if by_s is None else eye * as_kind(by_s, x).expand_dims(-1)
    if x.dtype.is_complex and (by_u is not None or by_v is not None):
        by_u, by_v, more = _phases(by_u, by_v, outputs, x)
        inner = inner + eye * (more / level).expand_dims(-1)
    # (s_j - s_i)(s_j + s_i), which does not cancel as the difference of squares does.
    gaps = (1.0 - eye) / ((row - column) * (row + column) + eye)
    outer: Tensor | None = None
    if by_u is not None:
        part = matmul(adjoint(u), by_u)
        inner = inner + (part - adjoint(part)) * gaps * row
        outer = matmul((by_u - matmul(u, part)) / row, v)
    if by_v is not None:
        part = matmul(v, adjoint(by_v))
        inner = inner + column * ((part - adjoint(part)) * gaps)
        other = matmul(u / row, by_v - matmul(adjoint(part), v))
        outer = other if outer is None else outer + other
    found = matmul(matmul(u, inner), v)
    return found if outer is None else found + outer


def _phases(
    by_u: Tensor | None, by_v: Tensor | None, outputs: Sequence[Tensor], x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of U and V^H in the case that the side with definite phases has derivatives without
    a part along its own columns, and i times what the other side's such part adds to s's."""
    u, _, v = outputs
    g = u * 0.0 if by_u is None else by_u
    h = adjoint(v * 0.0 if by_v is None else by_v)
    columns = adjoint(v)
    shape = x.shape
    wide = shape is not None and None not in shape[-2:] and shape[-2] < shape[-1]  # type: ignore[operator]
    fixed, given, free, other = (u, g, columns, h) if wide else (columns, h, u, g)
    along = f("imag")(f("conj")(other) * free).sum(-2)  # minus that of free^H other
    given = with_phases(given, fixed, along)
    size = along if wide else -along
    more = f("complex")(size * 0.0, size)
    g, h = (given, other) if wide else (other, given)
    return g, adjoint(h), more
