"""Computation: what passes read and build, and the rebuilding walk they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from niello.core.types import TensorType
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Op, Trait
from niello.graph.operation import Operation
from niello.graph.region import RegionOp
from niello.graph.structural import Placeholder
from niello.graph.tensor import Tensor


@dataclass(frozen=True)
class Computation:
    """A graph with what goes in, what comes out, and the operations run for their effect."""

    graph: GraphDefinition
    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    operations: tuple[Operation, ...] = ()

    def reachable(self) -> list[Operation]:
        """Operations that the targets and effects need, in graph order."""
        needed: set[Operation] = {t.operation for t in self.inputs}
        stack = [t.operation for t in self.targets] + list(self.operations)
        while stack:
            operation = stack.pop()
            if operation in needed and not any(operation is t.operation for t in self.inputs):
                continue
            needed.add(operation)
            stack.extend(t.operation for t in operation.inputs if t.operation not in needed)
            stack.extend(c for c in operation.control_inputs if c not in needed)
        return [o for o in self.graph.operations if o in needed]


# Given an operation and its inputs in the new graph, the new outputs; None copies the operation.
Visit = Callable[["Rebuild", Operation, tuple[Tensor, ...]], "Sequence[Tensor] | None"]


class Rebuild:
    """Copies the reachable part of a computation into a new graph, operation by operation.

    `inside`, the pass itself, is applied to the regions of operations that have some.
    """

    def __init__(
        self, source: Computation, inside: Callable[[Computation], Computation] | None = None
    ) -> None:
        self.source = source
        self.inside = inside
        self.graph = GraphDefinition(source.graph.name)
        self.graph.variable_states = source.graph.variable_states
        self.graph.reserve(source.graph.operations)
        self.tensors: dict[Tensor, Tensor] = {}
        self.operations: dict[Operation, tuple[Operation, ...]] = {}

    def copy(
        self, operation: Operation, inputs: Sequence[Tensor], op: Op | None = None
    ) -> Operation:
        """The same operation on other inputs, under its own name."""
        made = operation.op if op is None else op
        return self.graph.copy(operation, made, inputs, self.controls(operation))

    def controls(self, operation: Operation) -> list[Operation]:
        """Control inputs of an old operation, as operations of the new graph."""
        return [new for old in operation.control_inputs for new in self.operations.get(old, ())]

    def run(self, visit: Visit) -> Computation:
        for operation in self.source.reachable():
            inputs = tuple(self.tensors[t] for t in operation.inputs)
            before = len(self.graph.operations)
            with self.graph.in_place_of(operation):
                outputs = self._visited(visit, operation, inputs)
            if outputs is None:
                outputs = self.copy(operation, inputs).outputs
            made = tuple(self.graph.operations[before:])
            # Control dependencies on an operation that vanished fall on those that made its inputs.
            self.operations[operation] = made or tuple(t.operation for t in outputs)
            for old, new in zip(operation.outputs, outputs, strict=True):
                self.tensors[old] = new
        return Computation(
            self.graph,
            tuple(self.tensors[t] for t in self.source.inputs),
            tuple(self.tensors[t] for t in self.source.targets),
            tuple(new for old in self.source.operations for new in self.operations[old]),
        )

    def _visited(
        self, visit: Visit, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        from niello.passes.regions import mapped

        if self.inside is None or not isinstance(operation.op, RegionOp):
            return visit(self, operation, inputs)
        return self.copy(operation, inputs, mapped(operation.op, self.inside)).outputs


def specialised_inputs(
    source: Computation, types: Sequence[TensorType]
) -> dict[Operation, Placeholder]:
    """The placeholder op, with its static type, of each input."""
    return {t.operation: Placeholder(found) for t, found in zip(source.inputs, types, strict=True)}


def is_pure(operation: Operation) -> bool:
    """True when an operation may be shared, folded and dropped."""
    return not operation.op.traits & (Trait.STATEFUL | Trait.STRUCTURAL)
