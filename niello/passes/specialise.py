"""Bind the types of the inputs: from here on every shape is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from niello.core.errors import ShapeError
from niello.core.types import TensorType
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild, specialised_inputs


@dataclass(frozen=True)
class Specialise:
    """Replace placeholders by ones of the given static types and infer all types again."""

    types: tuple[TensorType, ...]

    def __call__(self, source: Computation) -> Computation:
        bound = specialised_inputs(source, self.types)

        def visit(
            rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
        ) -> Sequence[Tensor] | None:
            if operation in bound:
                return rebuild.copy(operation, (), bound[operation]).outputs
            made = rebuild.copy(operation, inputs)
            for t in made.outputs:
                if not t.type.is_static:
                    raise ShapeError(
                        operation.op.name,
                        f"the shape of {operation.name} depends on values",
                        received=repr(t.type),
                        advice="Make the sizes known when the graph is compiled",
                        where=operation.where,
                    )
            return made.outputs

        return Rebuild(source).run(visit)
