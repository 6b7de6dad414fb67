"""What is the same in each iteration of a loop is computed before it."""

from __future__ import annotations

from collections.abc import Sequence

from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Trait
from niello.graph.operation import Operation
from niello.graph.region import Region, needed
from niello.graph.structural import Constant, Placeholder
from niello.graph.tensor import Tensor
from niello.passes.computation import Rebuild, is_pure


class Hoist:
    """Takes operations out of a loop's body as it is rebuilt.

    `taken` are tensors of the graph around it with the body's parameters that hold them, and, once
    the body is rebuilt, those that hold what was taken out. Movements and what makes more of less
    stay: kernels in the loop compute them as they read.
    """

    def __init__(
        self, graph: GraphDefinition, body: Region, taken: Sequence[tuple[Tensor, Tensor]]
    ) -> None:
        self.graph = graph
        self.taken: dict[Tensor, Tensor] = {}
        self._outside: dict[Tensor, Tensor] = {p: t for t, p in taken}
        self._same: set[Tensor] = set(self._outside)
        self._worth: set[Operation] = set()
        for o in needed(body):
            if isinstance(o.op, Constant):
                self._same.update(o.outputs)
            elif is_pure(o) and not o.control_inputs and all(t in self._same for t in o.inputs):
                self._same.update(o.outputs)
                if _is_worth(o):
                    self._worth.add(o)

    def visit(self, rebuild: Rebuild, operation: Operation) -> Sequence[Tensor] | None:
        """Parameters in place of the results of an operation that is taken out."""
        if operation not in self._worth:
            return None
        found = []
        for t in operation.outputs:
            held = rebuild.graph.add(Placeholder(t.type), name=operation.name.rsplit("/", 1)[-1])
            self.taken[self._computed(t)] = held.outputs[0]
            found.append(held.outputs[0])
        return found

    def _computed(self, tensor: Tensor) -> Tensor:
        """A tensor of the body, computed around the loop."""
        if tensor not in self._outside:
            o = tensor.operation
            inputs = [self._computed(t) for t in o.inputs]
            made = self.graph.add(
                o.op, inputs, name=o.name.rsplit("/", 1)[-1], where=o.where
            ).outputs
            self._outside.update(zip(o.outputs, made, strict=True))
        return self._outside[tensor]


def _is_worth(operation: Operation) -> bool:
    traits = operation.op.traits
    if not operation.inputs or Trait.MOVEMENT in traits:
        return False
    if traits & (Trait.CONTRACTION | Trait.REDUCTION | Trait.WINDOW):
        return True
    made = sum(t.type.bytes for t in operation.outputs)
    return made <= sum(t.type.bytes for t in operation.inputs)
