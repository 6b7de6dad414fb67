"""Values of tensors while a model is imported: the shapes, indices and settings inside a graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import niello as nl


class NeedsValue(Exception):
    """Something that must be known while importing depends on these inputs of the model.

    Without names: it depends on a value that a loop carries.
    """

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = names


def evaluate(
    tensor: nl.Tensor, known: dict[nl.Tensor, np.ndarray], placeholders: Mapping[nl.Tensor, str]
) -> np.ndarray:
    """The value of a tensor by the references of the operations behind it.

    `known` keeps values between calls. Raises NeedsValue when it depends on placeholders.
    """
    order = _behind(tensor, known)
    fed = frozenset(placeholders[t] for t in order if t in placeholders)
    if fed:
        raise NeedsValue(fed)
    for t in order:
        if t not in known:
            operation = t.operation
            source = captured(t)
            if source is not None:
                known[t] = known[source]
            elif isinstance(t, nl.Variable):
                known[t] = t.value
            elif not operation.inputs and operation.op.name == "placeholder":
                raise NeedsValue(frozenset())
            else:
                found = operation.op.reference_all(*(known[i] for i in operation.inputs))
                known.update(zip(operation.outputs, map(np.asarray, found), strict=True))
    return known[tensor]


def captured(tensor: nl.Tensor) -> nl.Tensor | None:
    """The tensor around a branch or loop body for which a tensor inside it stands, or None."""
    inside: Mapping[nl.Tensor, nl.Tensor] = getattr(tensor.graph, "captured", {})
    for outer, inner in inside.items():
        if inner is tensor:
            return outer
    return None


def _behind(tensor: nl.Tensor, known: Mapping[nl.Tensor, np.ndarray]) -> list[nl.Tensor]:
    """Tensors that must be evaluated for `tensor`, those they depend on first."""
    order: dict[nl.Tensor, None] = {}
    stack: list[tuple[nl.Tensor, bool]] = [(tensor, False)]
    while stack:
        t, done = stack.pop()
        if done:
            order[t] = None
        elif t not in order and t not in known:
            stack.append((t, True))
            source = captured(t)
            before = t.operation.inputs if source is None else (source,)
            stack.extend((i, False) for i in before)
    return list(order)
