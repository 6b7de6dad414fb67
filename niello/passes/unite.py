"""Loops over one body become one loop: a gradient's loop that stacks values joins the original."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from niello.graph.control_flow import Loop
from niello.graph.operation import Operation
from niello.graph.region import Region, RegionOp
from niello.graph.tensor import Tensor
from niello.graph.text import print_graph
from niello.passes.computation import Computation, Rebuild
from niello.passes.regions import mapped


@dataclass(frozen=True)
class Unite:
    """Merge loops on the same inputs whose bodies are the same graph with different results.

    The same is what prints the same, so that graphs read from text are united too. Passes rebuild
    every region, so this one comes first.
    """

    def __call__(self, source: Computation) -> Computation:
        reachable = source.reachable()
        if not any(isinstance(o.op, RegionOp) for o in reachable):
            return source
        groups: dict[Hashable, list[Operation]] = {}
        for o in reachable:
            if isinstance(o.op, Loop):
                groups.setdefault(_key(o, o.op), []).append(o)
        made: dict[Hashable, tuple[list[str], Operation]] = {}

        def visit(
            rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
        ) -> Sequence[Tensor] | None:
            op = operation.op
            if not isinstance(op, Loop):
                new = mapped(op, self) if isinstance(op, RegionOp) else None
                return rebuild.copy(operation, inputs, new).outputs
            key = _key(operation, op)
            if key not in made:
                stacked = _stacked(groups[key])
                copy = rebuild.copy(operation, inputs, mapped(_whole(groups[key], stacked), self))
                made[key] = stacked, copy
            return _outputs(op, *made[key])

        return Rebuild(source).run(visit)


def _key(operation: Operation, op: Loop) -> Hashable:
    graphs = tuple(print_graph(r.graph) for r in op.regions)
    rest = (op.carried, op.scanned, op.counted, op.length, op.reverse)
    carried = tuple(t.name for t in op.body.results[: op.carried])
    return (graphs, carried, rest, operation.inputs, operation.control_inputs)


def _stacked(group: Sequence[Operation]) -> list[str]:
    """Names of what any of the loops stacks, tensors of their bodies."""
    found: dict[str, None] = {}
    for operation in group:
        op = operation.op
        assert isinstance(op, Loop)
        found.update(dict.fromkeys(t.name for t in op.body.results[op.carried :]))
    return list(found)


def _whole(group: Sequence[Operation], stacked: Sequence[str]) -> Loop:
    """One loop with the results and the effects of all."""
    ops = [o.op for o in group]
    first = ops[0]
    assert isinstance(first, Loop)
    regions = []
    for n, region in enumerate(first.regions):
        effects = {e.name for op in ops for e in op.regions[n].effects}  # type: ignore[attr-defined]
        run = [o for o in region.graph.operations if o.name in effects]
        tensors = {t.name: t for o in region.graph.operations for t in o.outputs}
        results = region.results
        if n == 0:
            results = (*results[: first.carried], *(tensors[name] for name in stacked))
        regions.append(Region(region.graph, region.parameters, results, run))
    condition = regions[1] if len(regions) > 1 else None
    return replace(first, body=regions[0], condition=condition)


def _outputs(op: Loop, stacked: Sequence[str], made: Operation) -> list[Tensor]:
    """The results of one of the loops, among those of the loop that stands for all."""
    names = [t.name for t in op.body.results[op.carried :]]
    rows = [made.outputs[op.carried + stacked.index(n)] for n in names]
    last = [] if op.condition is None else [made.outputs[-1]]
    return [*made.outputs[: op.carried], *rows, *last]
