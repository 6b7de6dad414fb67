"""Replace composite operations by the primitive ones they are defined with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from niello.graph.operation import Operation
from niello.graph.region import RegionOp, needed
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild


@dataclass(frozen=True)
class Decompose:
    """Expand every operation that has no lowering of its own, repeatedly."""

    def __call__(self, source: Computation) -> Computation:
        while any(_composite(o) for o in source.reachable()):
            source = Rebuild(source, self).run(_expand)
        return source


def _composite(operation: Operation) -> bool:
    if isinstance(operation.op, RegionOp):
        return any(_composite(o) for r in operation.op.regions for o in needed(r))
    return operation.op.has_decompose() and not operation.op.has_lower()


def _expand(
    rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
) -> Sequence[Tensor] | None:
    if not _composite(operation):
        return None
    with rebuild.graph.control_dependencies(rebuild.controls(operation)):
        found = operation.op.decompose(*inputs)
    return found if isinstance(found, tuple) else (found,)
