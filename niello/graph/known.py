"""Values that are known while compiling: constants, shapes of static tensors, and what follows."""

from __future__ import annotations

import numpy as np

from niello.core.types import TensorType
from niello.graph.opdef import Trait
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor

MOST_ELEMENTS = 1 << 12  # in any tensor on the way: shapes and bounds are small


def known_value(tensor: Tensor) -> np.ndarray | None:
    """The value of a tensor when it follows from constants and static shapes alone, else None."""
    memo: dict[Tensor, np.ndarray | None] = {}
    stack = [tensor]
    while stack:
        t = stack[-1]
        if t in memo:
            stack.pop()
            continue
        waiting = [i for i in _needed(t) if i not in memo]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        memo[t] = _value(t, memo)
    return memo[tensor]


def _needed(tensor: Tensor) -> tuple[Tensor, ...]:
    """Tensors whose values decide this one's; those that serve for their shape do not."""
    operation = tensor.operation
    if not _followed(tensor):
        return ()
    if Trait.SHAPE_ONLY in operation.op.traits:
        return operation.inputs[:-1]
    return operation.inputs


def _followed(tensor: Tensor) -> bool:
    op = tensor.operation.op
    kept = Trait.STATEFUL | Trait.STRUCTURAL | Trait.CREATION
    small = tensor.type.is_static and tensor.type.elements <= MOST_ELEMENTS
    return small and not op.traits & kept


def _value(tensor: Tensor, memo: dict[Tensor, np.ndarray | None]) -> np.ndarray | None:
    operation = tensor.operation
    op = operation.op
    if isinstance(op, Constant):
        return op.reference()
    if not _followed(tensor):
        return None
    arrays = [memo[t] for t in _needed(tensor)]
    if Trait.SHAPE_ONLY in op.traits:
        like = operation.inputs[-1].type
        arrays.append(_anything(like) if like.is_static else None)
    if any(a is None for a in arrays):
        return None
    return np.asarray(op.reference_all(*arrays)[tensor.index])  # type: ignore[arg-type]


def _anything(type: TensorType) -> np.ndarray:
    """An array of a type that takes no memory."""
    return np.broadcast_to(np.zeros((), type.dtype.numpy), type.static_shape)
