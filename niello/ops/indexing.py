"""The functions that choose elements by index tensors; their ops are in gather.py.

Along an indexed axis of size n an index i from 0 to n - 1 is position i, from -n to -1 position
n + i (as in NumPy); any other index gives zeros, and contributes no gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from niello.core.errors import ShapeError
from niello.core.shapes import show
from niello.graph.opdef import function
from niello.graph.tensor import Tensor
from niello.ops.define import as_operand
from niello.ops.gather import Gather
from niello.ops.movement import apply, integer, known_axis, require_rank, tensor_of


def index_operand(asked: str, x: Tensor, indices: Any) -> Tensor:
    """Indices as a tensor: a number or a nested list becomes int32."""
    listed = isinstance(indices, (int, list, tuple))
    return as_operand(asked, x, np.asarray(indices, np.int32) if listed else indices)


@function
def gather(
    x: Tensor, indices: Any, axis: int = 0, *, batch_dims: int = 0, name: str | None = None
) -> Tensor:
    """Slices of `x` along `axis`, chosen by an integer tensor, whose axes replace it.

    With axis 0 this looks up rows of an embedding table. Negative indices count from the end;
    indices outside of the axis give zeros, unless the graph is compiled with
    `CompileOptions(check_indices=True)`. The first `batch_dims` axes of both tensors are matched
    with each other. The gradient adds each slice back where it came from.

    Raises DTypeError for indices that are not integers, ShapeError for axes that do not fit. As
    ONNX's Gather and TensorFlow's gather.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.gather(g.placeholder((1000, 64)), g.placeholder((None, 12), nl.int32)).shape
        (None, 12, 64)
    """
    where = known_axis("gather", axis, tensor_of("gather", x).rank)
    op = Gather(where, integer("gather", batch_dims, "the number of batch axes"), "slices")
    return apply(op, x, index_operand("gather", x, indices), name=name)


@function
def gather_nd(x: Tensor, indices: Any, *, batch_dims: int = 0, name: str | None = None) -> Tensor:
    """Points or slices of `x`, each chosen by the coordinates along the last axis of `indices`.

    With K coordinates the first K axes of `x` (after `batch_dims` axes that both tensors share) are
    replaced by the other axes of the indices. Negative coordinates count from the end; a point
    outside gives zeros. Raises DTypeError for indices that are not integers, ShapeError for axes
    that do not fit. As ONNX's GatherND and TensorFlow's gather_nd.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.gather_nd(g.placeholder((4, 5, 6)), g.placeholder((7, 2), nl.int32)).shape
        (7, 6)
    """
    tensor_of("gather_nd", x)
    batch = integer("gather_nd", batch_dims, "the number of batch axes")
    return apply(
        Gather(batch, batch, "points"), x, index_operand("gather_nd", x, indices), name=name
    )


def along(asked: str, x: Tensor, indices: Any, axis: int) -> tuple[Tensor, int]:
    """Indices of the rank of `x`, and the axis as a non-negative number."""
    tensor_of(asked, x)
    rank = require_rank(asked, x.type, "to line the indices up")
    chosen = index_operand(asked, x, indices)
    if chosen.rank not in (None, rank):
        raise ShapeError(
            asked,
            f"the indices do not have rank {rank}",
            received=show(chosen.shape),
            advice="Give one index for each element",
        )
    return chosen, known_axis(asked, axis, rank)


@function
def gather_along_axis(
    x: Tensor, indices: Any, axis: int = -1, *, name: str | None = None
) -> Tensor:
    """Elements of `x` along `axis`, each chosen by the element of `indices` in its place.

    The result has the shape of the indices, which along the other axes may be shorter than `x`.
    Negative indices count from the end; indices outside of the axis give 0. Raises ShapeError for
    shapes that do not fit. As PyTorch's gather and ONNX's GatherElements.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.gather_along_axis(g.placeholder((8, 10)), g.placeholder((8, 1), nl.int32)).shape
        (8, 1)
    """
    chosen, where = along("gather_along_axis", x, indices, axis)
    return apply(Gather(where, where, "along"), x, chosen, name=name)


@function
def take_along_axis(
    x: Tensor, indices: Any, axis: int | None = -1, *, name: str | None = None
) -> Tensor:
    """Elements of `x` along `axis`, each chosen by the element of `indices` in its place.

    As NumPy's take_along_axis: sizes of 1 along the other axes are repeated, and with `axis` None
    both tensors are flat. Otherwise as `gather_along_axis`. Raises ShapeError for shapes that do
    not fit.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.take_along_axis(g.placeholder((8, 10)), g.placeholder((1, 3), nl.int32)).shape
        (8, 3)
    """
    if axis is None:
        x, axis = tensor_of("take_along_axis", x).reshape(-1), 0
    chosen, where = along("take_along_axis", x, indices, axis)
    if x.type.is_static and chosen.type.is_static:
        ours, theirs = list(x.type.static_shape), list(chosen.type.static_shape)
        ours[where] = theirs[where]
        if ours != theirs:
            chosen = chosen.broadcast_to(ours)
    return apply(Gather(where, where, "along"), x, chosen, name=name)


@function
def take(x: Tensor, indices: Any, axis: int | None = None, *, name: str | None = None) -> Tensor:
    """Slices of `x` along `axis`, as `gather`; with `axis` None, elements of the flat tensor.

    As NumPy's take, except that indices outside give zeros.

    Example:
        >>> import niello as nl
        >>> nl.take(nl.Graph().placeholder((4, 5)), [0, 19]).shape
        (2,)
    """
    if axis is None:
        return gather(tensor_of("take", x).reshape(-1), indices, 0, name=name)
    return gather(x, indices, axis, name=name)


@function
def index_select(x: Tensor, axis: int, indices: Any, *, name: str | None = None) -> Tensor:
    """Slices of `x` along `axis`: `gather` with the arguments in PyTorch's order.

    Example:
        >>> import niello as nl
        >>> nl.index_select(nl.Graph().placeholder((4, 5)), 1, [0, 3, 3]).shape
        (4, 3)
    """
    return gather(x, indices, axis, name=name)
