"""Branches and loops that need not be: constant predicates, no iteration or one, unused results.

Whatever stays hands in and out only what is needed, knows the constants that it uses, and does not
repeat what is the same in each iteration.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from niello.core.types import TensorType
from niello.graph.control_flow import If, Loop
from niello.graph.opdef import functions
from niello.graph.operation import Operation
from niello.graph.region import Region, RegionOp, inline, needed
from niello.graph.structural import Constant, Placeholder
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild
from niello.passes.invariant import Hoist
from niello.passes.regions import mapped, region_of


@dataclass(frozen=True)
class Control:
    """Simplify operations with regions, outermost first. Types must be static."""

    def __call__(self, source: Computation) -> Computation:
        reachable = source.reachable()
        if not any(isinstance(o.op, RegionOp) for o in reachable):
            return source
        used = {t for o in reachable for t in o.inputs} | set(source.targets)

        def visit(
            rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
        ) -> Sequence[Tensor] | None:
            if isinstance(operation.op, If):
                return self._branch(rebuild, operation, operation.op, inputs, used)
            if isinstance(operation.op, Loop):
                return self._loop(rebuild, operation, operation.op, inputs, used)
            return None

        return Rebuild(source).run(visit)

    def _branch(
        self,
        rebuild: Rebuild,
        operation: Operation,
        op: If,
        inputs: tuple[Tensor, ...],
        used: Collection[Tensor],
    ) -> Sequence[Tensor]:
        word, *captured = inputs
        chosen = _constant(word)
        if chosen is not None:
            region = op.then if chosen else op.otherwise
            return inline(rebuild.graph, region, captured, controls=rebuild.controls(operation))
        kept = [i for i, t in enumerate(operation.outputs) if t in used]
        bodies = [
            _Body(r, [r.results[i] for i in kept], list(zip(captured, r.parameters, strict=True)))
            for r in op.regions
        ]
        captured, regions = _join(bodies)
        new = mapped(If(*regions), self)
        made = iter(_copied(rebuild, operation, new, (word, *captured)))
        return [
            next(made) if i in kept else _absent(rebuild, t.type)
            for i, t in enumerate(operation.outputs)
        ]

    def _loop(
        self,
        rebuild: Rebuild,
        operation: Operation,
        op: Loop,
        inputs: tuple[Tensor, ...],
        used: Collection[Tensor],
    ) -> Sequence[Tensor]:
        op, inputs = _counted(op, inputs)
        trips = None if op.counted else op.trips([t.type for t in inputs])
        if trips == 0:
            return _skipped(rebuild, operation, op, inputs)
        if trips == 1 and op.condition is None:
            return _once(rebuild, operation, op, inputs)
        parts, inside = op.parts(inputs), op.body_parts()
        unchanged = [i for i, p in enumerate(inside.carried) if op.body.results[i] is p]
        outputs = operation.outputs
        stacked = [i for i in range(op.stacked) if outputs[op.carried + i] in used]
        carried = _live(op, [outputs[i] in used for i in range(op.carried)], stacked, unchanged)
        results = [op.body.results[i] for i in (*carried, *(op.carried + i for i in stacked))]
        lead = [op.body.parameters[0], *inside.scanned, *(inside.carried[i] for i in carried)]
        taken = [(parts.carried[i], inside.carried[i]) for i in unchanged]
        taken += zip(parts.captured, inside.captured, strict=True)
        bodies = [_Body(op.body, results, taken, lead, Hoist(rebuild.graph, op.body, taken))]
        if op.condition is not None:
            given = op.condition.parameters
            tested = [(parts.carried[i], given[i]) for i in unchanged]
            tested += zip(parts.captured, given[op.carried :], strict=True)
            bodies.append(
                _Body(op.condition, op.condition.results, tested, [given[i] for i in carried])
            )
        captured, regions = _join(bodies)
        condition = regions[1] if len(regions) > 1 else None
        new = replace(op, body=regions[0], condition=condition, carried=len(carried))
        ahead = inputs[: int(op.counted) + op.scanned]
        operands = (*ahead, *(parts.carried[i] for i in carried), *captured)
        made = iter(_copied(rebuild, operation, mapped(new, self), operands))
        found: list[Tensor] = []
        for i, t in enumerate(outputs):
            if i in unchanged:
                found.append(parts.carried[i])
            elif i in carried or i - op.carried in stacked or i >= len(op.body.results):
                found.append(next(made))
            else:
                found.append(_absent(rebuild, t.type))
        return found


def _constant(tensor: Tensor) -> int | None:
    """The value of a constant word."""
    op = tensor.operation.op
    return int(op.data.array.reshape(()).item()) if isinstance(op, Constant) else None


def _absent(rebuild: Rebuild, kind: TensorType) -> Tensor:
    """In place of a result that nobody reads."""
    return rebuild.graph.constant(0, kind.dtype, shape=kind.static_shape)


def _copied(
    rebuild: Rebuild, operation: Operation, op: RegionOp, inputs: Sequence[Tensor]
) -> Sequence[Tensor]:
    """The operation in its new form, under its own name."""
    return rebuild.copy(operation, inputs, op).outputs


# --- what regions take
class _Body:
    """A region, rebuilt with the constants it is given, and what it takes from outside.

    `taken` are values around it with the parameters that hold them; `lead` are the parameters that
    come before those. `hoist` takes operations out.
    """

    def __init__(
        self,
        region: Region,
        results: Sequence[Tensor],
        taken: Sequence[tuple[Tensor, Tensor]],
        lead: Sequence[Tensor] = (),
        hoist: Hoist | None = None,
    ) -> None:
        constants = {
            p.operation: t.operation.op for t, p in taken if isinstance(t.operation.op, Constant)
        }
        source = Computation(region.graph, region.parameters, tuple(results), region.effects)
        first: dict[Tensor, Tensor] = {}  # of the parameters that hold one value
        for t, p in sorted(taken, key=lambda pair: pair[1].operation.number):
            first.setdefault(t, p)
        again = {p.operation: first[t] for t, p in taken if first[t] is not p}

        def visit(
            rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
        ) -> Sequence[Tensor] | None:
            known = constants.get(operation)
            if known is not None:
                return rebuild.copy(operation, (), known).outputs
            if operation in again:
                return [rebuild.tensors[again[operation]]]
            return None if hoist is None else hoist.visit(rebuild, operation)

        made = Rebuild(source)
        self.region = region_of(made.run(visit))
        self.graph = self.region.graph
        self.lead = [made.tensors[p] for p in lead]
        self.taken = {t: made.tensors[p] for t, p in taken if p.operation not in constants}
        if hoist is not None:
            self.taken.update(hoist.taken)

    def needs(self) -> set[Tensor]:
        """The values around it that it reads."""
        inside = set(needed(self.region))
        return {t for t, p in self.taken.items() if p.operation in inside}

    def finish(self, captured: Sequence[Tensor]) -> Region:
        """The region with one parameter for each captured value."""
        parameters = list(self.lead)
        for t in captured:
            held = self.taken.get(t)
            if held is None or held in parameters:
                op = Placeholder(t.type)
                held = self.graph.add(op, name="unused", where="").outputs[0]
            parameters.append(held)
        return Region(self.graph, parameters, self.region.results, self.region.effects)


def _join(bodies: Sequence[_Body]) -> tuple[list[Tensor], list[Region]]:
    """What the regions of an operation take together, and the regions."""
    wanted = set().union(*(b.needs() for b in bodies))
    captured = list(dict.fromkeys(t for b in bodies for t in b.taken if t in wanted))
    return captured, [b.finish(captured) for b in bodies]


# --- loops
def _counted(op: Loop, inputs: tuple[Tensor, ...]) -> tuple[Loop, tuple[Tensor, ...]]:
    """A constant number of iterations becomes an attribute, unless stacks are longer."""
    if not op.counted:
        return op, inputs
    count = _constant(inputs[0])
    if count is None:
        return op, inputs
    count = max(count, 0)
    most = op.trips([t.type for t in inputs])
    if most is not None and most <= count:
        return replace(op, counted=False), inputs[1:]
    if not (op.stacked or op.scanned):
        return replace(op, counted=False, length=count), inputs[1:]
    return op, inputs


def _live(
    op: Loop, read: Sequence[bool], stacked: Sequence[int], unchanged: Sequence[int]
) -> list[int]:
    """Carried values that somebody reads: outside, or to make what is read."""
    inside, results = op.body_parts().carried, op.body.results
    condition = set() if op.condition is None else set(needed(op.condition))
    live = {i for i in range(op.carried) if read[i]}
    if op.condition is not None:
        given = op.condition.parameters
        live |= {i for i in range(op.carried) if given[i].operation in condition}
    while True:
        roots = [results[i] for i in live] + [results[op.carried + i] for i in stacked]
        region = Region(op.body.graph, op.body.parameters, roots, op.body.effects)
        inner = set(needed(region))
        more = {i for i, p in enumerate(inside) if p.operation in inner} - live
        if not more:
            return [i for i in sorted(live) if i not in unchanged]
        live |= more


def _skipped(
    rebuild: Rebuild, operation: Operation, op: Loop, inputs: tuple[Tensor, ...]
) -> list[Tensor]:
    """The results of a loop that never runs."""
    stacks = operation.outputs[op.carried : op.carried + op.stacked]
    last = [] if op.condition is None else [_absent(rebuild, operation.outputs[-1].type)]
    return [*op.parts(inputs).carried, *(_absent(rebuild, t.type) for t in stacks), *last]


def _once(
    rebuild: Rebuild, operation: Operation, op: Loop, inputs: tuple[Tensor, ...]
) -> list[Tensor]:
    """The body of a loop that runs once, in its place."""
    reshape = functions()["reshape"]
    parts = op.parts(inputs)
    slices = [reshape(t, t.shape[1:]) for t in parts.scanned if t.shape]
    values = [rebuild.graph.constant(0), *slices, *parts.carried, *parts.captured]
    controls = rebuild.controls(operation)
    found = inline(rebuild.graph, op.body, values, controls=controls)
    rows = [reshape(t, (1, *t.type.static_shape)) for t in found[op.carried :]]
    return [*found[: op.carried], *rows]
