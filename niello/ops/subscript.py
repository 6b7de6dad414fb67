"""x[...]: what Tensor.__getitem__ calls."""

from __future__ import annotations

import builtins
import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from niello.core.errors import DTypeError, ShapeError
from niello.core.shapes import show
from niello.graph.opdef import plain_function
from niello.graph.tensor import Tensor
from niello.ops.indexing import gather
from niello.ops.movement import integer, tensor_of
from niello.ops.slice import slice as take_slice


@dataclass
class _Plan:
    """What the parts of a subscript ask for; axes count from the end after an Ellipsis."""

    windows: list[tuple[int, Any, Any, int]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)  # axes of the input
    added: list[int] = field(default_factory=list)  # axes of the result
    chosen: tuple[int, Tensor] | None = None


def _part(x: Tensor, part: Any) -> Any:
    """A part of a subscript as an int, slice, None or integer tensor."""
    if part is None or isinstance(part, builtins.slice):
        return part
    if isinstance(part, (bool, np.bool_)):
        raise DTypeError(
            "index",
            "a truth value is not an index",
            received=repr(part),
            advice="Use niello.select to choose by a condition",
        )
    if isinstance(part, (list, np.ndarray)):
        part = x.graph.constant(np.asarray(part))
    if isinstance(part, Tensor):
        if not part.dtype.is_integer:
            raise DTypeError(
                "index",
                "a tensor that indexes must hold integers",
                received=part.dtype.name,
                advice="Use niello.select to choose by a condition",
            )
        return part
    try:
        return operator.index(part)
    except TypeError:
        raise DTypeError(
            "index",
            "a subscript takes integers, slices, None, ... and one integer tensor",
            received=repr(part),
        ) from None


def _parts(x: Tensor, key: Any) -> tuple[list[Any], list[Any] | None]:
    """The parts of a subscript before an Ellipsis, and after it (None: there is none)."""
    listed = list(key) if isinstance(key, tuple) else [key]
    dots = [i for i, p in enumerate(listed) if p is Ellipsis]
    if len(dots) > 1:
        raise ShapeError(
            "index", "a subscript takes at most one Ellipsis (...)", received=str(len(dots))
        )
    parts = [p if p is Ellipsis else _part(x, p) for p in listed]
    used = sum(p is not None and p is not Ellipsis for p in parts)
    if x.rank is not None and used > x.rank:
        raise ShapeError(
            "index",
            f"{used} indices for a tensor of rank {x.rank}",
            received=show(x.shape),
            advice="Use fewer indices",
        )
    if not dots:
        return parts, None
    return parts[: dots[0]], parts[dots[0] + 1 :]


def _size(x: Tensor, axis: int) -> int | None:
    return None if x.shape is None else x.shape[axis]


def _read(x: Tensor, plan: _Plan, part: Any, axis: int) -> None:
    """Enter one part that stands for an axis of the input."""
    if isinstance(part, builtins.slice):
        if part != builtins.slice(None):
            step = 1 if part.step is None else integer("index", part.step, "a stride")
            plan.windows.append((axis, part.start, part.stop, step))
    elif isinstance(part, Tensor):
        if plan.chosen is not None:
            raise ShapeError(
                "index",
                "only one axis can be indexed by a tensor",
                received="two",
                advice="Apply niello.gather twice, or gather_along_axis",
            )
        plan.chosen = (axis, part)
    else:
        size = _size(x, axis)
        if size is not None and not -size <= part < size:
            raise ShapeError(
                "index",
                f"index {part} is outside of axis {axis}, of size {size}",
                received=part,
                advice=f"Use an index from {-size} to {size - 1}",
                axis=axis,
            )
        plan.windows.append((axis, part, None if part == -1 else part + 1, 1))
        plan.dropped.append(axis)


def _plan(x: Tensor, key: Any) -> _Plan:
    front, back = _parts(x, key)
    plan = _Plan()
    axis = place = 0
    for part in front:
        if part is None:
            plan.added.append(place)
            place += 1
            continue
        _read(x, plan, part, axis)
        axis += 1
        place += 0 if isinstance(part, int) else part.rank or 0 if isinstance(part, Tensor) else 1
    axis = place = -1
    for part in reversed(back or []):
        if part is None:
            plan.added.append(place)
            place -= 1
            continue
        _read(x, plan, part, axis if x.rank is None else axis + x.rank)
        axis -= 1
        place -= 0 if isinstance(part, int) else part.rank or 0 if isinstance(part, Tensor) else 1
    return plan


def _check_mixture(key: Any) -> None:
    """Integers beside a tensor mean the same as in NumPy only where they adjoin it."""
    listed = key if isinstance(key, tuple) else (key,)
    kinds = [
        "slice" if p is None or p is Ellipsis or isinstance(p, builtins.slice) else "index"
        for p in listed
    ]
    runs = sum(
        a == "index" and b == "slice" for a, b in zip(kinds, [*kinds[1:], "slice"], strict=True)
    )
    if runs > 1:
        raise ShapeError(
            "index",
            "integers and a tensor must be next to each other in one subscript",
            received=repr(key),
            advice="Apply the integers first: x[..., 0][tensor]",
        )


@plain_function
def index(x: Tensor, key: Any) -> Tensor:
    """x[key], with integers, slices, None (a new axis), ... and at most one integer tensor.

    Slices and integers mean what they mean in NumPy. An integer tensor (or list, or array) takes
    the place of its axis, as `gather`: its indices outside of the axis give zeros.

    Raises ShapeError for too many indices and integers out of range, DTypeError for anything else.

    Example:
        >>> import niello as nl
        >>> x = nl.Graph().placeholder((4, 5, 6))
        >>> x[0, ..., ::-2].shape, x[:, None, 1].shape
        ((5, 3), (4, 1, 6))
    """
    plan = _plan(tensor_of("index", x), key)
    if plan.chosen is not None:
        _check_mixture(key)
    result = x
    if plan.windows:
        axes, starts, ends, steps = zip(*plan.windows, strict=True)
        result = take_slice(result, starts, ends, steps, axes=axes)
    if plan.chosen is not None:
        axis, chosen = plan.chosen
        result = gather(result, chosen, axis)
        # Axes behind the gathered one have moved by what it became.
        rank = chosen.rank
        if rank is None and plan.dropped:
            raise ShapeError(
                "index",
                "the rank of the tensor that indexes is unknown",
                received=str(chosen.type),
                advice="Use niello.gather",
            )
        moved = (rank or 0) - 1
        plan.dropped = [
            d + moved if d > axis >= 0 else d - moved if d < axis < 0 else d for d in plan.dropped
        ]
    if plan.dropped:
        result = result.squeeze(plan.dropped)
    if plan.added:
        result = result.expand_dims(plan.added)
    return result
