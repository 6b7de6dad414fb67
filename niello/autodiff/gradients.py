"""The reverse walk: asks each operation for its gradient, and sums where a value is used twice.

The result is ordinary operations in the same graph, so gradients can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from niello.autodiff.regions import filled_like, region_gradients, zeros_like
from niello.core.errors import DTypeError, GraphError, NotDifferentiable
from niello.core.shapes import merge_shapes
from niello.graph.opdef import Trait, functions
from niello.graph.operation import Operation
from niello.graph.region import RegionOp
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
    asked = wanted = list(with_respect_to)
    graph = of.graph.innermost
    wanted = [graph.local(t) if isinstance(t, Tensor) else t for t in wanted]
    _check(of, wanted, seed)
    with graph.name_scope("gradients"):
        start = filled_like(of, 1) if seed is None else seed
        found = reverse([(of, start)], wanted)
        made = [zeros_like(t) if g is None else g for t, g in zip(wanted, found, strict=True)]
    return dict(zip(asked, made, strict=True))


def reverse(
    seeds: Sequence[tuple[Tensor, Tensor]], wanted: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradient of the weighted sum of tensors with respect to each wanted one; None where none of
    them depends on it. `seeds` are tensors of one graph, each with the weights of its elements."""
    path, reached = _between([t for t, _ in seeds], wanted)
    sums: dict[Tensor, Tensor] = {}
    for tensor, weight in seeds:
        sums[tensor] = weight if tensor not in sums else sums[tensor] + weight
    for operation in reversed(path):
        incoming = tuple(sums.get(t) for t in operation.outputs)
        if all(g is None for g in incoming):
            continue
        if isinstance(operation.op, RegionOp):
            found = region_gradients(operation, incoming, reached, reverse)
        else:
            found = _gradient(operation, incoming)
        for tensor, gradient in zip(operation.inputs, found, strict=True):
            if gradient is None or not tensor.dtype.is_inexact:
                continue
            known = sums.get(tensor)
            sums[tensor] = gradient if known is None else known + gradient
    return [sums.get(t) for t in wanted]


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
        if not t.dtype.is_inexact:
            raise NotDifferentiable(
                "gradients",
                f"{t.name} holds {t.dtype.name}, which has no gradient",
                received=repr(t),
                advice="Differentiate with respect to floating-point tensors",
            )
    if of.dtype.is_complex and seed is None:
        raise NotDifferentiable(
            "gradients",
            f"{of.name} is complex: what is differentiated is real, or weighted by a seed",
            received=repr(of),
            advice="Take nl.real, nl.absolute or nl.absolute_square of it, or give seed=",
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


def _gradient(operation: Operation, incoming: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
    """What an operation says, where all is complex between conjugations: its `grad` multiplies by
    the derivative, and the gradient of a real loss takes the conjugate of a holomorphic one."""
    op = operation.op
    tensors = [t for t in (*operation.inputs, *operation.outputs) if t.dtype.is_inexact]
    whole = bool(tensors) and all(t.dtype.is_complex for t in tensors)
    if not whole or op.traits & (Trait.LINEAR | Trait.MOVEMENT | Trait.STRUCTURAL):
        return op.grad(incoming, operation.inputs, operation.outputs)
    conj = functions()["conj"]
    turned = tuple(None if g is None else conj(g) for g in incoming)
    found = op.grad(turned, operation.inputs, operation.outputs)
    return [
        None if g is None or not t.dtype.is_inexact else conj(g)
        for g, t in zip(found, operation.inputs, strict=True)
    ]


def _between(of: Iterable[Tensor], wanted: Iterable[Tensor]) -> tuple[list[Operation], set[Tensor]]:
    """Operations on a path from the wanted tensors to any of `of`, in graph order, and the tensors
    that depend on the wanted ones."""
    reached: set[Tensor] = set(wanted)
    needed: set[Operation] = set()
    stack = [t.operation for t in of]
    while stack:
        operation = stack.pop()
        if operation in needed:
            continue
        needed.add(operation)
        stack.extend(t.operation for t in operation.inputs)
    path = []
    for operation in sorted(needed, key=lambda o: o.number):
        if any(t in reached for t in operation.inputs):
            path.append(operation)
            reached.update(operation.outputs)
    return path, reached
