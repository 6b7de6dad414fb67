"""The reverse walk: asks each operation for its gradient, and sums where a value is used twice.

The result is ordinary operations in the same graph, so gradients can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence

from niello.core.errors import DTypeError, GraphError, NotDifferentiable
from niello.core.shapes import merge_shapes
from niello.graph.opdef import functions
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor


def gradients(
    of: Tensor, with_respect_to: Tensor | Sequence[Tensor], *, seed: Tensor | None = None
) -> dict[Tensor, Tensor]:
    """Gradient of the sum of `of` with respect to each listed tensor.

    `seed` weights the elements of `of`, whose shape and dtype it has (default: ones, so a scalar
    loss needs none). A tensor that `of` does not depend on gets zeros. Raises NotDifferentiable
    when a path leads through an operation without a gradient, GraphError for tensors of another
    graph, ShapeError or DTypeError for a seed that does not fit.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((3,), name="x")
        >>> graph.gradients((x * x).sum(), [x])[x]
        <Tensor 'gradients/add': float32[3]>
    """
    if isinstance(with_respect_to, Tensor):
        with_respect_to = (with_respect_to,)
    wanted = list(with_respect_to)
    _check(of, wanted, seed)
    graph = of.graph
    path = _between(of, wanted)
    sums: dict[Tensor, Tensor] = {}
    with graph.name_scope("gradients"):
        sums[of] = _filled_like(of, 1) if seed is None else seed
        for operation in reversed(path):
            incoming = tuple(sums.get(t) for t in operation.outputs)
            if all(g is None for g in incoming):
                continue
            found = operation.op.grad(incoming, operation.inputs, operation.outputs)
            for tensor, gradient in zip(operation.inputs, found, strict=True):
                if gradient is None or not tensor.dtype.is_float:
                    continue
                known = sums.get(tensor)
                sums[tensor] = gradient if known is None else known + gradient
        return {t: sums[t] if t in sums else _filled_like(t, 0) for t in wanted}


def _check(of: Tensor, wanted: list[Tensor], seed: Tensor | None) -> None:
    for t in (of, *wanted, *(() if seed is None else (seed,))):
        if not isinstance(t, Tensor):
            raise GraphError(
                "gradients",
                "needs tensors of a graph",
                received=type(t).__name__,
                advice="Give a tensor and a list of tensors it depends on",
            )
        if t.graph is not of.graph:
            raise GraphError(
                "gradients",
                "a tensor belongs to another graph",
                received=repr(t),
                advice="Differentiate within one graph",
            )
        if not t.dtype.is_float:
            raise NotDifferentiable(
                "gradients",
                f"{t.name} holds {t.dtype.name}, which has no gradient",
                received=repr(t),
                advice="Differentiate with respect to floating-point tensors",
            )
    if seed is not None:
        if seed.dtype is not of.dtype:
            raise DTypeError(
                "gradients",
                f"the seed must be of {of.dtype.name}, as the tensor that it weights",
                received=seed.dtype.name,
                advice="Cast the seed",
            )
        merge_shapes(of.shape, seed.shape, f"gradients: the seed for {of.name}")


def _between(of: Tensor, wanted: list[Tensor]) -> list[Operation]:
    """Operations on a path from the wanted tensors to `of`, in graph order."""
    start = set(wanted)
    needed: set[Operation] = set()
    stack = [of.operation]
    while stack:
        operation = stack.pop()
        if operation in needed:
            continue
        needed.add(operation)
        stack.extend(t.operation for t in operation.inputs)
    reached: set[Tensor] = set(start)
    path = []
    for operation in of.graph.operations[: of.operation.number + 1]:
        if operation in needed and any(t in reached for t in operation.inputs):
            path.append(operation)
            reached.update(operation.outputs)
    return path


def _filled_like(t: Tensor, value: float) -> Tensor:
    if t.type.is_static:
        return t.graph.constant(value, t.dtype, shape=t.shape)
    return functions()["broadcast_like"](t.graph.constant(value, t.dtype), t)  # type: ignore[no-any-return]
