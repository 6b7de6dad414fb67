"""What the ops that move data share: the base class, attribute checks, and how an op is applied.

The ops themselves are in reshape.py, transpose.py, broadcast.py, slice.py, concat.py, pad.py and
indexing.py. They are index maps: a stitched kernel reads through them and copies nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, ClassVar

from niello.core.dtypes import ALL, DType, float32, int64
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.shapes import normalise_axes, normalise_axis
from niello.core.types import TensorType
from niello.graph.opdef import Op, Trait, functions
from niello.graph.tensor import Tensor
from niello.ops.define import cast_to, graph_of


class Movement(Op):
    """Base of ops whose output elements are elements of an input (or a fill value)."""

    traits: ClassVar[Trait] = Trait.MOVEMENT
    dtypes: ClassVar[tuple[DType, ...]] = ALL


class LikeOp(Op):
    """Base of ops whose last input serves only for its shape; they decompose once it is known."""

    traits: ClassVar[Trait] = Trait.MOVEMENT | Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = ALL


def apply(op: Op, *inputs: Any, name: str | None = None) -> Tensor:
    """Append `op` to the graph of its operands and return its single output."""
    graph = graph_of(op.name, *inputs)
    tensors = [graph.as_tensor(i) for i in inputs]
    return graph.apply(op, *tensors, name=name)  # type: ignore[return-value]


def tensor_of(asked: str, value: Any) -> Tensor:
    """`value` when it is a tensor. Raises GraphError otherwise."""
    graph_of(asked, value)
    return value  # type: ignore[no-any-return]


def integer(asked: str, value: Any, what: str) -> int:
    """An attribute that must be an integer."""
    try:
        return operator.index(value)
    except TypeError:
        raise AttributeValueError(
            asked, f"{what} must be an integer", received=repr(value)
        ) from None


def integers(asked: str, value: Any, what: str) -> tuple[int, ...]:
    """An attribute that must be an integer or a sequence of integers."""
    listed = value if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    return tuple(integer(asked, v, what) for v in listed)


def known_axes(asked: str, axes: Any, rank: int | None) -> tuple[int, ...] | None:
    """Axes as an op stores them: sorted and non-negative when the rank is known, otherwise as
    given (None: all of them)."""
    if rank is not None:
        return normalise_axes(axes, rank, asked)
    return None if axes is None else integers(asked, axes, "an axis")


def known_axis(asked: str, axis: Any, rank: int | None) -> int:
    """One axis as an op stores it: non-negative when the rank is known, otherwise as given."""
    return integer(asked, axis, "an axis") if rank is None else normalise_axis(axis, rank, asked)


def require_rank(asked: str, x: TensorType, why: str) -> int:
    """The rank of `x`. Raises ShapeError when it is unknown."""
    if x.rank is None:
        raise ShapeError(
            asked,
            f"the rank of the tensor must be known {why}",
            received=str(x),
            advice="Give the placeholder a shape, with None for the unknown sizes",
        )
    return x.rank


def is_static(*tensors: Tensor) -> bool:
    """True when every size of every tensor is known."""
    return all(t.type.is_static for t in tensors)


def same_shape(a: Tensor, b: Tensor) -> bool:
    """True when both shapes are fully known and equal."""
    return a.type.is_static and a.shape == b.shape


def zeros_like(x: Tensor) -> Tensor:
    """Zeros of the type of `x`."""
    zero = x.graph.constant(0, x.dtype)
    if x.type.is_static:
        return x.graph.constant(0, x.dtype, shape=x.shape) if x.shape else zero
    return zero.broadcast_like(x)  # type: ignore[no-any-return]


def wide(x: Tensor) -> Tensor:
    """`x` in the dtype in which it is computed: float32 for the half types.

    Ops that decompose into several cast first and round once at the end, as their reference does.
    """
    return cast_to(x, float32) if x.dtype.is_half else x


def sizes_tensor(asked: str, value: Any) -> Tensor | None:
    """Sizes that are a tensor, or a list of which some are scalar tensors, as one vector; None for
    plain integers."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, (list, tuple)) or not any(isinstance(v, Tensor) for v in value):
        return None
    graph = graph_of(asked, *value)
    parts = [v.cast(int64) if isinstance(v, Tensor) else graph.constant(v, int64) for v in value]
    return functions()["stack"]([p.reshape(()) for p in parts])  # type: ignore[no-any-return]
