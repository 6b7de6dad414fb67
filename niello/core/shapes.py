"""Shapes: tuples of dimensions, where None is a size known only at run time.

A shape that is itself None has unknown rank. After specialisation every shape is a tuple of ints.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from niello.core.errors import ShapeError

Dim = int | None
Shape = tuple[Dim, ...]
StaticShape = tuple[int, ...]

MAX_RANK = 16
MAX_ELEMENTS = 2**62


def as_shape(value: Any, asked: str) -> Shape | None:
    """Check and normalise a user's shape: an int, an iterable of ints and None, or None."""
    if value is None:
        return None
    if not isinstance(value, Iterable):
        value = (value,)
    dims = tuple(as_dim(d, asked) for d in value)
    if len(dims) > MAX_RANK:
        raise ShapeError(asked, f"at most {MAX_RANK} dimensions are supported", received=list(dims))
    check_size(dims, asked)
    return dims


def as_dim(value: Any, asked: str) -> Dim:
    if value is None:
        return None
    try:
        size = operator.index(value)
    except TypeError:
        raise ShapeError(
            asked, "a dimension must be an integer or None", received=repr(value)
        ) from None
    if size < 0:
        raise ShapeError(asked, "a dimension cannot be negative", received=size)
    return size


def check_size(shape: Shape, asked: str) -> None:
    """Refuse a shape whose number of elements no buffer could index."""
    known = [d for d in shape if d is not None]
    if 0 not in known and math.prod(known) > MAX_ELEMENTS:
        raise ShapeError(
            asked,
            "the product of the dimensions overflows",
            received=list(shape),
            advice="At most 2**62 elements fit a tensor",
        )


def is_static(shape: Shape | None) -> bool:
    return shape is not None and None not in shape


def elements(shape: Sequence[int]) -> int:
    return math.prod(shape)


def row_major_strides(shape: Sequence[int]) -> StaticShape:
    """Element strides of a contiguous tensor, last dimension fastest."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def broadcast_shapes(asked: str, *shapes: Shape | None) -> Shape | None:
    """NumPy broadcasting of shapes with unknown dimensions and unknown ranks.

    An unknown dimension against 1 stays unknown; against a larger size it becomes that size
    (checked again when sizes are known).
    """
    if any(s is None for s in shapes):
        return None
    known = [s for s in shapes if s is not None]
    rank = max((len(s) for s in known), default=0)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        dims = [s[axis] for s in known if len(s) >= -axis]
        sizes = {d for d in dims if d is not None and d != 1}
        if len(sizes) > 1:
            raise ShapeError(
                asked,
                "shapes do not broadcast together",
                received=" and ".join(str(list(s)) for s in known),
                advice=f"Axis {axis} has sizes {sorted(sizes)}; they must be equal or 1",
                shapes=tuple(known),
                axis=axis,
            )
        if sizes:
            result.append(sizes.pop())
        else:
            result.append(None if None in dims else 1)
    return tuple(result)


def normalise_axis(axis: Any, rank: int, asked: str) -> int:
    """A non-negative axis below `rank`; negative axes count from the end."""
    try:
        index = operator.index(axis)
    except TypeError:
        raise ShapeError(asked, "an axis must be an integer", received=repr(axis)) from None
    if not -rank <= index < rank:
        raise ShapeError(
            asked,
            f"axis {index} is outside a tensor of rank {rank}",
            received=index,
            advice=f"Use an axis from {-rank} to {rank - 1}" if rank else "A scalar has no axes",
            axis=index,
            rank=rank,
        )
    return index % rank


def normalise_axes(axes: Any, rank: int, asked: str) -> tuple[int, ...]:
    """Sorted distinct non-negative axes; None means all of them."""
    if axes is None:
        return tuple(range(rank))
    listed = tuple(axes) if isinstance(axes, Iterable) else (axes,)
    result = tuple(normalise_axis(a, rank, asked) for a in listed)
    if len(set(result)) != len(result):
        raise ShapeError(asked, "an axis is given twice", received=list(listed))
    return tuple(sorted(result))


def merge_shapes(a: Shape | None, b: Shape | None, asked: str) -> Shape | None:
    """The more precise of two descriptions of one shape. Raises ShapeError if they disagree."""
    if a is None or b is None:
        return b if a is None else a
    if len(a) != len(b) or any(
        x is not None and y is not None and x != y for x, y in zip(a, b, strict=True)
    ):
        raise ShapeError(asked, "shapes disagree", received=f"{list(a)} and {list(b)}")
    return tuple(y if x is None else x for x, y in zip(a, b, strict=True))


def show(shape: Shape | None) -> str:
    """`[2, ?, 3]`, or `[...]` for an unknown rank: the form every message and dump uses."""
    if shape is None:
        return "[...]"
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
