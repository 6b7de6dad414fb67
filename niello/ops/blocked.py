"""Factorizations of large matrices by blocks: panels of columns by routines, the rest by products.

Half of the columns go step by step on the whole matrix, with the same few kernels in every step;
then the other half, a quarter of the matrix, is factored in the same way. Small matrices are one
panel. All of it works for real and for complex matrices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from niello.graph.opdef import Op, functions
from niello.graph.tensor import Tensor
from niello.ops.factor_panels import COLUMNS, CholeskyPanel, LUPanel, LURows

SMALL = 2 * COLUMNS  # matrices of which one team does all


def f(name: str) -> Any:
    """A published function, which may be in a module that needs this one."""
    return functions()[name]


def adjoint(x: Tensor) -> Tensor:
    """The conjugate transpose of matrices."""
    turned = f("swap_axes")(x, -1, -2)
    return f("conj")(turned) if x.dtype.is_complex else turned  # type: ignore[no-any-return]


def number_of(like: Tensor, block: int) -> Tensor:
    """The number of a block, as panels take it."""
    return like.graph.constant(np.array(block, np.int32))


def _apply(op: Op, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(inputs[0].graph.add(op, list(inputs)).outputs)


def _half(n: int) -> int:
    """Columns of about a half, in whole blocks."""
    return -(-n // COLUMNS) // 2 * COLUMNS


def _rows(x: Tensor, order: Tensor, axis: int) -> Tensor:
    """Rows (axis -2) or elements (axis -1) in an order that each matrix has for itself."""
    lead = len(x.type.static_shape) + axis
    return f("gather")(x, order, axis=lead, batch_dims=lead)  # type: ignore[no-any-return]


def lu(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L and U in one matrix, the order of rows, and the number of swaps, of [..., n, n]."""
    n = a.type.static_shape[-1]
    if n <= SMALL:
        packed, _, rows_order, count = _apply(LUPanel(max(n, 1), 1), a, number_of(a, 0))
        return packed, rows_order, count
    half = _half(n)
    order: Tensor | None = None
    swaps: Tensor | None = None
    for b in range(half // COLUMNS):
        block = number_of(a, b)
        panel, below, one, count = _apply(LUPanel(COLUMNS, 1), a, block)
        a, rows = _apply(LURows(COLUMNS, 1), a, one, panel, block)
        a = a - f("matmul")(below, rows)
        order = one if order is None else _rows(order, one, -1)
        swaps = count if swaps is None else swaps + count
    assert order is not None and swaps is not None
    rest, later, more = lu(a[..., half:, half:])
    concat = f("concat")
    bottom = concat([_rows(a[..., half:, :half], later, -2), rest], axis=-1)
    lower = _rows(order[..., half:], later, -1)
    return (
        concat([a[..., :half, :], bottom], axis=-2),
        concat([order[..., :half], lower], axis=-1),
        swaps + more,
    )


def cholesky(a: Tensor) -> Tensor:
    """The lower factor of Hermitian matrices [..., n, n], whose lower triangle is looked at."""
    n = a.type.static_shape[-1]
    if n <= SMALL:
        return _apply(CholeskyPanel(max(n, 1), 1), a, number_of(a, 0))[0]
    half = _half(n)
    panels = []
    for b in range(half // COLUMNS):
        (panel,) = _apply(CholeskyPanel(COLUMNS, 1), a, number_of(a, b))
        a = a - f("matmul")(panel, adjoint(panel))
        panels.append(panel)
    rest = cholesky(a[..., half:, half:])
    lead = [(0, 0)] * (len(a.type.static_shape) - 2)
    right = rest.pad([*lead, (half, 0), (0, 0)])
    return f("concat")([*panels, right], axis=-1)  # type: ignore[no-any-return]


def triangular(leaf: Any, a: Tensor, b: Tensor) -> Tensor:
    """X with op(A) X = B; `leaf` is the operation for small matrices, and says which triangle."""
    n = a.type.static_shape[-1]
    if n <= COLUMNS:
        return _apply(leaf, a, b)[0]
    half = -(-n // (2 * COLUMNS)) * COLUMNS
    first, second = slice(0, half), slice(half, None)
    aside = a[..., second, first] if leaf.below else a[..., first, second]
    if leaf.transpose:
        aside = f("swap_axes")(aside, -1, -2)
    forward = leaf.below != leaf.transpose
    begin, end = (first, second) if forward else (second, first)
    x = triangular(leaf, a[..., begin, begin], b[..., begin, :])
    rest = b[..., end, :] - f("matmul")(aside, x)
    y = triangular(leaf, a[..., end, end], rest)
    return f("concat")([x, y] if forward else [y, x], axis=-2)  # type: ignore[no-any-return]


__all__ = ["SMALL", "adjoint", "cholesky", "f", "lu", "number_of", "triangular"]
