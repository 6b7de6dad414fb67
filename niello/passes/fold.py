"""Evaluate operations whose inputs are all constants, by their reference semantics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from niello.core.dtypes import dtype
from niello.graph.opdef import Trait
from niello.graph.operation import Operation
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild, is_pure

FEW = 1024  # elements of a constant that may grow
FEW_IN_MATRIX = 64  # of one that may be the weights of a small layer


@dataclass(frozen=True)
class Fold:
    """Fold results up to `limit` elements, or any size when they cost no more than the inputs.

    Repeated values that memory does not hold count too: a sum over a large one is left to run.
    Small integers (weights of a quantized layer) are not made wider here, where they would take
    more memory and could not be multiplied as they are; what reduces them is folded.

    A result that repeats one value is kept as such and costs no memory.
    """

    limit: int = 1 << 16

    def __call__(self, source: Computation) -> Computation:
        return Rebuild(source, self).run(_Folding(self.limit).visit)


class _Folding:
    """One run of the pass. `late` tells how to compute what is known but was left to run."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.late: dict[Tensor, Callable[[], np.ndarray]] = {}

    def visit(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        if not inputs or not is_pure(operation) or operation.control_inputs:
            return None
        if not all(isinstance(t.operation.op, Constant) or t in self.late for t in inputs):
            return None
        if any(t in self.late for t in inputs):
            return self._behind_late(rebuild, operation, inputs)
        arrays = [t.operation.op.reference_all()[0] for t in inputs]
        splat = self._splat(rebuild, operation, arrays)
        if splat is not None:
            return splat
        size = sum(t.type.elements for t in operation.outputs)
        held = sum(a.size for a in arrays if any(a.strides))
        most = max(size, sum(a.size for a in arrays))
        if most > max(self.limit, held):
            return None
        if self._widens(operation, arrays):
            return self._leave(rebuild, operation, inputs)
        return self._folded(rebuild, operation, arrays)

    def _folded(
        self, rebuild: Rebuild, operation: Operation, arrays: list[np.ndarray]
    ) -> Sequence[Tensor]:
        found = operation.op.reference_all(*arrays)
        return [
            rebuild.graph.constant(a.reshape(-1)[0] if repeats(a) else a, t.dtype, shape=t.shape)
            for a, t in zip(found, operation.outputs, strict=True)
        ]

    @staticmethod
    def _widens(operation: Operation, arrays: list[np.ndarray]) -> bool:
        wide = max(t.dtype.itemsize for t in operation.outputs)
        elementwise = Trait.ELEMENTWISE in operation.op.traits
        return elementwise and any(
            a.size > (FEW_IN_MATRIX if sum(n > 1 for n in a.shape) > 1 else FEW)
            and any(a.strides)
            and a.dtype.itemsize < wide
            and dtype(a.dtype).is_integer
            and a.dtype.itemsize <= 2
            for a in arrays
        )

    def _leave(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor]:
        """The operation as it is, and how to compute it should something small need it."""
        made = rebuild.copy(operation, inputs).outputs

        def compute(output: int) -> np.ndarray:
            return operation.op.reference_all(*(self._value(t) for t in inputs))[output]

        for i, t in enumerate(made):
            self.late[t] = lambda i=i: compute(i)  # type: ignore[misc]
        return made

    def _value(self, t: Tensor) -> np.ndarray:
        known = self.late.get(t)
        return t.operation.op.reference_all()[0] if known is None else known()

    def _behind_late(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        size = sum(t.type.elements for t in operation.outputs)
        if 4 * size <= sum(t.type.elements for t in inputs):
            return self._folded(rebuild, operation, [self._value(t) for t in inputs])
        if operation.op.traits & (Trait.ELEMENTWISE | Trait.MOVEMENT):
            return self._leave(rebuild, operation, inputs)
        return None

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
