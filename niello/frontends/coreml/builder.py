"""Builder: the graph of a model while it is translated, and what is known of it already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

import niello as nl

# A value that is known, one that is computed when the model runs, or several of those (a tuple).
Value: TypeAlias = Any

# What is known and has at most so many elements is computed while importing; the rest are weights.
FOLDED_ELEMENTS = 1 << 16


class Unknown(Exception):
    """A value that must be known while importing depends on what is fed."""


class Builder:
    """A graph, its inputs, and its constants."""

    def __init__(self, graph: nl.Graph) -> None:
        self.graph = graph
        self.updates: list[nl.Operation] = []  # assignments of states that belong to each run
        self.function: str | None = None  # which one of a program
        self._constants: dict[int, tuple[np.ndarray, nl.Tensor]] = {}
        self._known: dict[nl.Tensor, np.ndarray] = {}

    def tensor(self, value: Value) -> nl.Tensor:
        """A value as a tensor of the graph; each array becomes one constant."""
        if isinstance(value, nl.Tensor):
            return value
        known = self._constants.get(id(value))
        if known is None:
            known = (value, self.graph.constant(np.asarray(value)))
            self._constants[id(value)] = known
        return known[1]

    def array(self, value: Value) -> np.ndarray:
        """The value, by the references of the operations behind it. Raises Unknown."""
        if not isinstance(value, nl.Tensor):
            return np.asarray(value)
        return evaluate(value, self._known)

    def folded(self, translate: Callable[[Any], Any], call: Any) -> Any:
        """Translate into a graph of its own, and compute that."""
        kept = self.graph, self._constants
        self.graph, self._constants = nl.Graph(), {}
        try:
            known: dict[nl.Tensor, np.ndarray] = {}
            return _evaluated(translate(call), known)
        finally:
            self.graph, self._constants = kept

    @contextmanager
    def region(self) -> Iterator[None]:
        """While a branch or loop body is built: constants made inside stay inside."""
        kept, self._constants = self._constants, dict(self._constants)
        try:
            yield
        finally:
            self._constants = kept


def foldable(values: Sequence[Value]) -> bool:
    """Whether all values are known and small."""
    flat = list(_flat(values))
    return (
        bool(flat)
        and all(isinstance(v, np.ndarray) and v.dtype.kind in "biuf" for v in flat)
        and sum(v.size for v in flat) <= FOLDED_ELEMENTS
    )


def _flat(values: Sequence[Value]) -> Iterator[Any]:
    for v in values:
        if isinstance(v, (list, tuple)):
            yield from _flat(v)
        elif v is not None:
            yield v


def _evaluated(value: Any, known: dict[nl.Tensor, np.ndarray]) -> Any:
    if isinstance(value, nl.Tensor):
        return evaluate(value, known)
    if isinstance(value, (list, tuple)):
        return tuple(_evaluated(v, known) for v in value)
    return value


def evaluate(tensor: nl.Tensor, known: dict[nl.Tensor, np.ndarray]) -> np.ndarray:
    """The value of a tensor; `known` keeps values between calls.

    Raises Unknown when it depends on placeholders or variables.
    """
    stack = [tensor]
    while stack:
        t = stack[-1]
        missing = [i for i in t.operation.inputs if i not in known]
        if t in known:
            stack.pop()
        elif isinstance(t, nl.Variable) or t.operation.op.name == "placeholder":
            raise Unknown
        elif missing:
            stack.extend(missing)
        else:
            inputs = (known[i] for i in t.operation.inputs)
            found = t.operation.op.reference_all(*inputs)
            known.update(zip(t.operation.outputs, map(np.asarray, found), strict=True))
            stack.pop()
    return known[tensor]


def show(value: Value) -> str:
    """A value for an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name}{list(value.shape)}"
    return repr(value.type) if isinstance(value, nl.Tensor) else repr(value)
