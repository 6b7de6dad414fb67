"""Evaluate operations whose inputs are all constants, by their reference semantics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from niello.graph.opdef import Trait
from niello.graph.operation import Operation
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild, is_pure


@dataclass(frozen=True)
class Fold:
    """Fold results up to `limit` elements, or any size when they cost no more than the inputs.

    Repeated values that memory does not hold count too: a sum over a large one is left to run.

    A result that repeats one value is kept as such and costs no memory.
    """

    limit: int = 1 << 16

    def __call__(self, source: Computation) -> Computation:
        return Rebuild(source).run(self._visit)

    def _visit(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        if not is_pure(operation) or operation.control_inputs:
            return None
        if not all(isinstance(t.operation.op, Constant) for t in inputs):
            return None
        arrays = [t.operation.op.reference_all()[0] for t in inputs]
        splat = self._splat(rebuild, operation, arrays)
        if splat is not None:
            return splat
        size = sum(t.type.elements for t in operation.outputs)
        held = sum(a.size for a in arrays if any(a.strides))
        most = max(size, sum(a.size for a in arrays))
        if not inputs or most > max(self.limit, held):
            return None
        found = operation.op.reference_all(*arrays)
        return [
            rebuild.graph.constant(a.reshape(-1)[0] if repeats(a) else a, t.dtype, shape=t.shape)
            for a, t in zip(found, operation.outputs, strict=True)
        ]

    def _splat(
        self, rebuild: Rebuild, operation: Operation, arrays: list[np.ndarray]
    ) -> Sequence[Tensor] | None:
        """Elementwise ops and movements of one repeated value need one evaluation."""
        splats = all((a.size > 0 and not any(a.strides)) or a.size == 1 for a in arrays)
        if not arrays or not splats or Trait.ELEMENTWISE not in operation.op.traits:
            return None
        found = operation.op.reference_all(*(a.reshape(-1)[:1].reshape(()) for a in arrays))
        return [
            rebuild.graph.constant(a.reshape(()), t.dtype, shape=t.shape)
            for a, t in zip(found, operation.outputs, strict=True)
        ]


def repeats(array: np.ndarray) -> bool:
    """Whether all elements have the same bits."""
    if array.size == 0:
        return False
    plain = np.ascontiguousarray(array).reshape(array.size, 1).view(np.uint8)
    return bool((plain == plain[0]).all())
