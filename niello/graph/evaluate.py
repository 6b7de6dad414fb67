"""Evaluate tensors of a graph with NumPy, operation by operation, through each op's reference.

This is the meaning of a graph: the oracle of the tests and the simplest way to look at a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from niello.core.errors import FeedError, GraphError
from niello.core.shapes import merge_shapes, show
from niello.graph.operation import Operation
from niello.graph.region import RegionOp, has_effect
from niello.graph.structural import Placeholder, ReadVariable, VariableOp
from niello.graph.tensor import Tensor


def evaluate(
    targets: Sequence[Tensor], feeds: Mapping[Tensor, Any] | None = None
) -> list[np.ndarray]:
    """Values of `targets`, given arrays for the tensors in `feeds`.

    Any tensor may be fed, not placeholders only; what lies behind it is then not evaluated.
    Variables have the value they hold now, and nothing is assigned. Raises FeedError for a
    placeholder that is missing or an array of another shape or dtype, GraphError where an
    assignment would have to run.

    Example:
        >>> import numpy as np
        >>> from niello.graph.graph import GraphDefinition
        >>> import niello.ops
        >>> graph = GraphDefinition()
        >>> x = graph.placeholder((2,))
        >>> evaluate([x + 1.0], {x: np.zeros(2, np.float32)})
        [array([1., 1.], dtype=float32)]
    """
    values = {t: _fed(t, array) for t, array in (feeds or {}).items()}
    for operation in _needed(targets, values):
        missing = [t for t in operation.outputs if t not in values]
        if missing:
            found = _run(operation, values)
            values.update(
                (t, a) for t, a in zip(operation.outputs, found, strict=True) if t in missing
            )
    return [values[t] for t in targets]


def _fed(tensor: Tensor, array: Any) -> np.ndarray:
    given = np.asarray(array)
    if given.dtype != tensor.dtype.numpy:
        raise FeedError(
            f"evaluate {tensor.name}", f"holds {tensor.dtype.name}", received=given.dtype.name
        )
    if tensor.shape is not None:
        merge_shapes(tensor.shape, given.shape, f"evaluate {tensor.name}")
    return given


def _needed(targets: Sequence[Tensor], known: Mapping[Tensor, Any]) -> list[Operation]:
    """Operations to run, in graph order; nothing behind a known tensor."""
    needed: set[Operation] = set()
    stack = [t for t in targets if t not in known]
    while stack:
        operation = stack.pop().operation
        if operation not in needed:
            needed.add(operation)
            stack.extend(t for t in operation.inputs if t not in known)
    return sorted(needed, key=lambda o: o.number)


def _run(operation: Operation, values: Mapping[Tensor, np.ndarray]) -> tuple[np.ndarray, ...]:
    op = operation.op
    if isinstance(op, Placeholder):
        raise FeedError(
            f"evaluate {operation.name}",
            "a placeholder needs a value",
            received=f"feeds for {[t.name for t in values]}",
            advice=f"Feed an array of {op.type.dtype.name}{show(op.type.shape)}",
        )
    if isinstance(op, (VariableOp, ReadVariable)):
        if any(has_effect(c) for c in operation.control_inputs):
            raise _unordered(operation, [c.name for c in operation.control_inputs])
        return (operation.graph.variable_states[op.variable].read(),)
    if isinstance(op, RegionOp) and set(op.written) & set(op.read):
        raise _unordered(operation, op.written)
    found = op.reference_all(*(values[t] for t in operation.inputs))
    # References may return NumPy scalars and wider dtypes for empty or 0-d results: check, not fix.
    return tuple(np.asarray(a) for a in found)


def _unordered(operation: Operation, after: Any) -> GraphError:
    return GraphError(
        f"evaluate {operation.name}",
        "reads a variable after an assignment, which evaluation does not perform",
        received=list(after),
        advice="Run the graph instead",
    )
