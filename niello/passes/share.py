"""Common subexpressions: the same op on the same inputs is computed once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from niello.graph.operation import Operation
from niello.graph.structural import Constant, VariableOp
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild, is_pure


@dataclass(frozen=True)
class Share:
    """Merge equal pure operations, constants, and reads of one variable."""

    def __call__(self, source: Computation) -> Computation:
        known: dict[Hashable, tuple[Tensor, ...]] = {}

        def visit(
            rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
        ) -> Sequence[Tensor] | None:
            sharable = is_pure(operation) or isinstance(operation.op, (Constant, VariableOp))
            if not sharable or operation.control_inputs:
                return None
            # 0.0 and -0.0, or 1 and True, are equal but not the same attribute.
            key = (operation.op, repr(operation.op.attributes), inputs)
            if key not in known:
                known[key] = rebuild.copy(operation, inputs).outputs
            return known[key]

        return Rebuild(source, self).run(visit)
