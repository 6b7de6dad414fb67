"""Bind the types of the inputs: from here on every shape is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from niello.core.errors import NielloError, ShapeError
from niello.core.types import TensorType
from niello.graph.opdef import Op
from niello.graph.operation import Operation
from niello.graph.region import RegionOp
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild, specialised_inputs
from niello.passes.regions import computation_of, region_of


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
            if operation.op.value_inputs:
                with rebuild.graph.control_dependencies(rebuild.controls(operation)):
                    return [operation.op.decompose(*inputs)]  # type: ignore[list-item]
            made = rebuild.copy(operation, inputs, _inside(operation, inputs))
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


def _inside(operation: Operation, inputs: tuple[Tensor, ...]) -> Op | None:
    """The operation with its regions specialised for the types of its inputs."""
    op = operation.op
    if not isinstance(op, RegionOp):
        return None
    wanted = op.region_types(*(t.type for t in inputs))
    try:
        return op.with_regions(
            [
                region_of(Specialise(types)(computation_of(region)))
                for region, types in zip(op.regions, wanted, strict=True)
            ]
        )
    except NielloError as error:
        error.where = error.where or operation.where
        raise
