"""Norms of vectors and of matrices."""

from __future__ import annotations

import math
from typing import Any

from niello.core.dtypes import float32
from niello.core.errors import AttributeValueError
from niello.graph.opdef import function
from niello.graph.tensor import Tensor
from niello.ops.blocked import f
from niello.ops.define import cast_to
from niello.ops.linear_algebra import svd
from niello.ops.movement import known_axes, tensor_of


@function
def norm(
    x: Any,
    order: Any = None,
    axes: Any = None,
    keepdims: bool = False,
    *,
    name: str | None = None,
) -> Tensor:
    """A norm over `axes`: of vectors over one axis, of matrices over two, of all elements for None.

    Vectors: order None or 2 (Euclidean), 0 (elements that are not zero), infinities, any number p.
    Matrices: None or "fro", "nuc" (sum of singular values), 1, -1, infinities, 2, -2 (largest and
    smallest singular value). Raises AttributeValueError for others. As NumPy's norm.

    Example:
        >>> import niello as nl
        >>> nl.norm(nl.Graph().placeholder((4, 3)), axes=-1).shape
        (4,)
    """
    tensor = tensor_of("norm", x)
    tensor = tensor if tensor.dtype.is_inexact else cast_to(tensor, float32)
    chosen = known_axes("norm", axes, tensor.rank)
    if axes is None and order is None:
        return f("square")(tensor.absolute()).sum(None, keepdims).sqrt()  # type: ignore[no-any-return]
    if chosen is None or len(chosen) not in (1, 2):
        raise AttributeValueError(
            "norm", "takes one axis, or two for matrices", received=axes, advice="Give axes="
        )
    if len(chosen) == 1:
        return _vector_norm(tensor.absolute(), order, chosen[0], keepdims)
    listed = (axes,) if isinstance(axes, int) else tuple(axes)
    rows, columns = (a % (tensor.rank or 1) for a in listed)
    return _matrix_norm(tensor, order, rows, columns, keepdims)


def _vector_norm(x: Tensor, order: Any, axis: int, keepdims: bool) -> Tensor:
    if order is None or order == 2:
        return (x * x).sum(axis, keepdims).sqrt()
    if order == math.inf:
        return x.max(axis, keepdims)
    if order == -math.inf:
        return x.min(axis, keepdims)
    if order == 0:
        return cast_to(x.not_equal(0.0), x.dtype).sum(axis, keepdims)
    if order == 1:
        return x.sum(axis, keepdims)
    if isinstance(order, (int, float)):
        return (x ** float(order)).sum(axis, keepdims) ** (1.0 / float(order))
    raise AttributeValueError("norm", "the order of a vector norm is a number", received=order)


def _matrix_norm(x: Tensor, order: Any, rows: int, columns: int, keepdims: bool) -> Tensor:
    if order is None or order == "fro":
        size = x.absolute()
        return (size * size).sum((rows, columns), keepdims).sqrt()
    if order in (1, -1, math.inf, -math.inf):
        first, second = (rows, columns) if abs(order) == 1 else (columns, rows)
        sums = x.absolute().sum(first, True)
        found = sums.max(second, True) if order > 0 else sums.min(second, True)
    elif order in (2, -2, "nuc"):
        rest = [a for a in range(x.rank or 0) if a not in (rows, columns)]
        last = x.transpose((*rest, rows, columns))
        s = svd(last)[1]
        reduced = {2: s.max, -2: s.min, "nuc": s.sum}[order](-1)
        found = reduced
        for axis in sorted((rows, columns)):
            found = found.expand_dims(axis)
    else:
        raise AttributeValueError(
            "norm",
            'a matrix norm is "fro", "nuc", 1, 2, inf or a negative of these',
            received=order,
        )
    return found if keepdims else found.squeeze(axes=(rows, columns))
