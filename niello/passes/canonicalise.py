"""Ask each operation for a simpler form of itself (`Op.canonical`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild, is_pure


@dataclass(frozen=True)
class Canonicalise:
    """Replace operations by the simpler ones they say they equal (x * 1, reshape of reshape)."""

    def __call__(self, source: Computation) -> Computation:
        return Rebuild(source, self).run(_visit)


def _visit(
    rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
) -> Sequence[Tensor] | None:
    if not is_pure(operation) or operation.control_inputs:
        return None
    found = operation.op.canonical(*inputs)
    return None if found is None else (found,)
