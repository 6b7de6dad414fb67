"""A case written again: without what is not asked for, cut short, or with less known of its types.

Cut tensors become placeholders, fed with the value they had.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from random_graphs import Case

import niello as nl
from niello.graph.operation import Operation
from niello.graph.region import RegionOp
from niello.graph.structural import Assign, Placeholder, ReadVariable, VariableOp
from niello.graph.tensor import Tensor, Variable
from niello.passes.computation import Rebuild, specialised_inputs
from niello.passes.regions import computation_of, region_of

Loosening = Mapping[Tensor, nl.TensorType]
Assignment = tuple[Variable, Tensor, Operation]


@dataclass
class Copying:
    """One case on its way into a new graph."""

    old: Case
    new: Case
    types: Loosening
    tensors: dict[Tensor, Tensor] = field(default_factory=dict)
    operations: dict[Operation, Operation] = field(default_factory=dict)

    def cut(self, tensor: Tensor) -> None:
        """The tensor as a placeholder."""
        array = self.old.values[tensor]
        made = self.new.graph.placeholder(array.shape, array.dtype)
        self.new.feeds[made] = array
        self.note(tensor, made)
        self.new.exact.add(made)

    def note(self, old: Tensor, new: Tensor) -> None:
        self.tensors[old] = new
        if old in self.old.values:
            self.new.values[new] = self.old.values[old]
        for a, b in zip(self.old.shaken, self.new.shaken, strict=True):
            if old in a:
                b[new] = a[old]
        if old in self.old.exact:
            self.new.exact.add(new)

    def copy(self, operation: Operation) -> None:
        graph, op = self.new.graph, operation.op
        outputs = operation.outputs
        controls = [self.operations[c] for c in operation.control_inputs if c in self.operations]
        if isinstance(op, Placeholder):
            made = graph.placeholder(*_parts(self.types.get(outputs[0], op.type)))
            self.new.feeds[made] = self.old.feeds[outputs[0]]
            self.note(outputs[0], made)
        elif isinstance(op, VariableOp):
            made = graph.variable(self.old.initial[outputs[0]])
            self.new.initial[made] = self.old.initial[outputs[0]]
            self.note(outputs[0], made)
        elif isinstance(op, ReadVariable):
            with graph.control_dependencies(controls):
                made = self.tensors[operation.inputs[0]].read()
            self.note(outputs[0], made)
            if outputs[0] in self.old.reads:
                self.new.reads[made] = self.tensors[self.old.reads[outputs[0]]]
        elif isinstance(op, Assign):
            variable, value = (self.tensors[t] for t in operation.inputs)
            with graph.control_dependencies(controls):
                self.operations[operation] = variable.assign(value)
            self.new.assigns.append((variable, value, self.operations[operation]))
        else:
            inputs = [self.tensors[t] for t in operation.inputs]
            if isinstance(op, RegionOp):
                op = retyped(op, [t.type for t in inputs])
            found = graph.add(op, inputs, control_inputs=controls)
            self.operations[operation] = found
            for t, made in zip(outputs, found.outputs, strict=True):
                if t not in self.tensors:
                    self.note(t, made)


def rebuilt(
    case: Case,
    keep: Sequence[Tensor],
    assigns: Sequence[Assignment],
    *,
    cut: Collection[Tensor] = (),
    types: Loosening | None = None,
) -> tuple[Case, dict[Tensor, Tensor]]:
    """A case with what `keep` and the assignments need, and where each tensor went.

    The new case has those of the old targets that were kept.
    """
    graph = nl.Graph(case.graph.name)
    new = Case(case.seed, graph, callables=case.callables, focus=case.focus, driver=case.driver)
    new.shaken = [{} for _ in case.shaken]
    copying = Copying(case, new, {} if types is None else types)
    cut = set(cut)
    for operation in _needed([*keep], [o for _, _, o in assigns], cut):
        for t in operation.outputs:
            if t in cut:
                copying.cut(t)
        if not operation.outputs or not all(t in cut for t in operation.outputs):
            copying.copy(operation)
    new.targets = [copying.tensors[t] for t in case.targets if t in copying.tensors and t in keep]
    return new, copying.tensors


def retyped(op: RegionOp, types: Sequence[nl.TensorType]) -> RegionOp:
    """An operation with its regions for inputs of other types, which may be less known."""
    regions = []
    for region, given in zip(op.regions, op.region_types(*types), strict=True):
        source = computation_of(region)
        bound = specialised_inputs(source, given)

        def visit(rebuild, operation, inputs, bound=bound):
            inner = bound.get(operation, operation.op)
            if isinstance(inner, RegionOp):
                inner = retyped(inner, [t.type for t in inputs])
            return rebuild.copy(operation, inputs, inner).outputs

        regions.append(region_of(Rebuild(source).run(visit)))
    return op.with_regions(regions)


def _parts(type: nl.TensorType) -> tuple:
    return type.shape, type.dtype


def _needed(
    tensors: Sequence[Tensor], operations: Sequence[Operation], cut: set[Tensor]
) -> list[Operation]:
    needed: set[Operation] = set()
    stack = [t.operation for t in tensors] + list(operations)
    while stack:
        operation = stack.pop()
        if operation in needed:
            continue
        needed.add(operation)
        if operation.outputs and all(t in cut for t in operation.outputs):
            continue
        stack += [t.operation for t in operation.inputs]
        stack += operation.control_inputs
    return sorted(needed, key=lambda o: o.number)


def loosened(case: Case, rng: np.random.Generator) -> Loosening:
    """What placeholders may be typed as instead: sizes unknown, or the rank too."""
    found: dict[Tensor, nl.TensorType] = {}
    for t in case.feeds:
        shape = t.type.static_shape
        if rng.random() < 0.15:
            found[t] = nl.TensorType(None, t.dtype)
        elif shape and rng.random() < 0.7:
            free = [None if rng.random() < 0.6 else d for d in shape]
            found[t] = nl.TensorType(tuple(free), t.dtype)
    return found
