"""Replace composite operations by the primitive ones they are defined with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from niello.graph.operation import Operation
from niello.graph.region import RegionOp
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild
from niello.passes.regions import computation_of

# Whether a device runs an operation as it is, given the tensors that somebody reads.
Keeps = Callable[[Operation, Collection[Tensor]], bool]


@dataclass(frozen=True)
class Decompose:
    """Expand every operation that has no lowering of its own, repeatedly, but for those that the
    device runs as they are: those of which `keeps` says so."""

    keeps: Keeps | None = None

    def __call__(self, source: Computation) -> Computation:
        while True:
            turn = _Turn(source, self.keeps)
            if not any(map(turn.changes, turn.operations)):
                return source
            source = Rebuild(source, self).run(turn.expand)


class _Turn:
    """One walk over a computation."""

    def __init__(self, source: Computation, keeps: Keeps | None) -> None:
        self.operations = source.reachable()
        self.keeps = keeps
        self.used = {*source.targets, *(t for o in self.operations for t in o.inputs)}

    def changes(self, operation: Operation) -> bool:
        """Whether an operation, or one in a region of it, does not stay as it is."""
        if isinstance(operation.op, RegionOp):
            regions = [computation_of(r) for r in operation.op.regions]
            turns = [_Turn(region, self.keeps) for region in regions]
            return any(t.changes(o) for t in turns for o in t.operations)
        if not operation.op.has_decompose() or operation.op.has_lower():
            return False
        return not self._kept(operation) or operation.op.bare() is not None

    def _kept(self, operation: Operation) -> bool:
        return self.keeps is not None and self.keeps(operation, self.used)

    def expand(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        if not self.changes(operation):
            return None
        with rebuild.graph.control_dependencies(rebuild.controls(operation)):
            bare = operation.op.bare()
            if bare is not None and self._kept(operation):
                op, count = bare
                return rebuild.graph.add(op, inputs[:-count]).outputs
            found = operation.op.decompose(*inputs)
        return found if isinstance(found, tuple) else (found,)
