"""Regions: graphs inside operations (branches, loop bodies), and how they are built.

A Region is closed: its parameters are placeholders of its own graph, one for each value that the
operation around it hands in. While a user's function builds one, everything that is made belongs
to the innermost region, and a tensor of a graph around it becomes a parameter when it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from niello.core.errors import CompilerBug, GraphError
from niello.core.types import TensorType
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Op, Trait
from niello.graph.operation import Operation
from niello.graph.structural import Assign, Constant, Placeholder, ReadVariable
from niello.graph.tensor import Tensor, Variable


class Region:
    """A graph inside an operation: what goes in, what comes out, what is run for its effect.

    Equality is identity. `effects` are assignments, and operations with such inside.
    """

    __slots__ = ("effects", "graph", "parameters", "results")

    def __init__(
        self,
        graph: GraphDefinition,
        parameters: Sequence[Tensor],
        results: Sequence[Tensor],
        effects: Sequence[Operation] = (),
    ) -> None:
        self.graph = graph
        self.parameters = tuple(parameters)
        self.results = tuple(results)
        self.effects = tuple(effects)

    @property
    def parameter_types(self) -> tuple[TensorType, ...]:
        """Types of the values that the region takes."""
        return tuple(t.type for t in self.parameters)

    @property
    def result_types(self) -> tuple[TensorType, ...]:
        """Types of the values that the region gives."""
        return tuple(t.type for t in self.results)

    def operations(self) -> Iterator[Operation]:
        """The operations of this region and of those inside it, in order."""
        return every_operation(self.graph)

    def __repr__(self) -> str:
        return f"<Region {self.graph.name!r}: {len(self.graph.operations)} operations>"


class RegionOp(Op):
    """Base of operations that hold regions. They are differentiated by autodiff/regions.py."""

    traits = Trait.STRUCTURAL | Trait.STATEFUL

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions, in the order of `with_regions`."""
        raise CompilerBug(self.name, "an operation with regions must list them")

    def with_regions(self, regions: Sequence[Region]) -> RegionOp:
        """The same operation with other regions."""
        raise CompilerBug(self.name, "an operation with regions must take others")

    def region_types(self, *inputs: TensorType) -> list[tuple[TensorType, ...]]:
        """The types of the parameters of each region, from the operation's input types."""
        raise CompilerBug(self.name, "an operation with regions must type their parameters")

    def grad(self, gradients: Any, inputs: Any, outputs: Any) -> Any:
        raise CompilerBug(self.name, "is differentiated by the reverse walk itself")

    def operations(self) -> Iterator[Operation]:
        """All operations inside."""
        for region in self.regions:
            yield from region.operations()

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the variables that are assigned inside."""
        found: dict[str, None] = {}
        for o in (o for region in self.regions for o in region.effects):
            if isinstance(o.op, Assign):
                found[o.op.variable] = None
            elif isinstance(o.op, RegionOp):
                found.update(dict.fromkeys(o.op.written))
        return tuple(found)

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the variables that ordered reads inside take."""
        found = (o.op.variable for o in self.operations() if isinstance(o.op, ReadVariable))
        return tuple(dict.fromkeys(found))

    @property
    def has_effects(self) -> bool:
        """Whether running it changes a variable."""
        return any(r.effects for r in self.regions)


def needed(region: Region, *, effects: bool = True) -> list[Operation]:
    """The operations that the results of a region, and its effects, depend on, in order."""
    found: set[Operation] = set()
    stack = [t.operation for t in region.results]
    stack += region.effects if effects else ()
    while stack:
        o = stack.pop()
        if o not in found:
            found.add(o)
            stack += [t.operation for t in o.inputs]
            stack += o.control_inputs if effects else ()
    return [o for o in region.graph.operations if o in found]


def without_effects(op: RegionOp) -> RegionOp:
    """The operation with what its results depend on, and nothing else."""
    return op.with_regions([Region(r.graph, r.parameters, r.results) for r in op.regions])


def inline(
    graph: GraphDefinition,
    region: Region,
    values: Sequence[Tensor],
    *,
    controls: Sequence[Operation] = (),
    effects: bool = True,
) -> list[Tensor]:
    """Copy a region's operations into `graph`, with `values` for its parameters; its results.

    Operations run after `controls`. Without `effects`, only what the results need is copied.
    """
    known = dict(zip(region.parameters, values, strict=True))
    made: dict[Operation, Operation] = {}
    for operation in needed(region, effects=effects):
        if isinstance(operation.op, Placeholder):
            continue
        op = operation.op
        if isinstance(op, RegionOp) and not effects:
            op = without_effects(op)
        before = [made[c] for c in operation.control_inputs if c in made]
        copy = graph.add(
            op,
            [known[t] for t in operation.inputs],
            name=operation.name.removeprefix(f"{region.graph.name}/"),
            control_inputs=[*controls, *before],
            where=operation.where,
        )
        made[operation] = copy
        known.update(zip(operation.outputs, copy.outputs, strict=True))
    return [known[t] for t in region.results]


def every_operation(graph: GraphDefinition) -> Iterator[Operation]:
    """The operations of a graph and of all regions in it, each before those inside it."""
    for o in graph.operations:
        yield o
        if isinstance(o.op, RegionOp):
            yield from o.op.operations()


def has_effect(operation: Operation) -> bool:
    """Whether an operation changes a variable when it runs."""
    op = operation.op
    return isinstance(op, Assign) or (isinstance(op, RegionOp) and op.has_effects)


class RegionGraph(GraphDefinition):
    """The graph of a region while a user's function builds it inside `outer`.

    Tensors of the graphs around it become parameters when they are used; constants are copied.
    """

    def __init__(self, outer: GraphDefinition, scope: str) -> None:
        super().__init__(scope)
        self.outer = outer
        self.variable_states = outer.variable_states
        self.captured: dict[Tensor, Tensor] = {}  # of `outer`, to the parameter here
        self.awaited: dict[Operation, None] = {}  # of `outer`, that must run before the region
        self._copies: dict[Tensor, Tensor] = {}
        self._scopes = scope.split("/")
        self._finished = False

    def parameter(self, type: TensorType, name: str) -> Tensor:
        """A new parameter."""
        return self._append(Placeholder(type), (), name, (), "").outputs[0]

    def local(self, tensor: Tensor) -> Tensor:
        """A tensor of this graph for one of this graph or of a graph around it."""
        if tensor.graph is self:
            return tensor
        near = self.outer.local(tensor)
        if isinstance(near.operation.op, Constant):
            return self._copy(near)
        found = self.captured.get(near)
        if found is None:
            found = self.captured[near] = self.parameter(near.type, _last(near))
        return found

    def variable(self, initial: Any, dtype: Any = None, *, name: str | None = None) -> Variable:
        return self.outer.variable(initial, dtype, name=name)

    def _copy(self, tensor: Tensor) -> Tensor:
        """A constant, or a variable that a read or an assignment names, in this graph."""
        found = self._copies.get(tensor)
        if found is None:
            made = self._append(tensor.operation.op, (), _last(tensor), (), tensor.operation.where)
            found = self._copies[tensor] = made.outputs[0]
        return found

    def _append(
        self,
        op: Op,
        inputs: Sequence[Tensor],
        name: str | None,
        control_inputs: Iterable[Operation],
        line: str,
    ) -> Operation:
        if self._finished:
            raise GraphError(
                op.name,
                f"the region {self.name} is built: nothing can be added to it",
                received=", ".join(t.name for t in inputs) or "no tensors",
                advice="Return the tensor from the function that builds the region",
                where=line,
            )
        return super()._append(op, inputs, name, control_inputs, line)

    def add(
        self,
        op: Op,
        inputs: Sequence[Tensor] = (),
        *,
        name: str | None = None,
        control_inputs: Iterable[Operation] = (),
        where: str | None = None,
    ) -> Operation:
        if self._inner is None and isinstance(op, (ReadVariable, Assign)):
            # The first input only names the storage: it is not a value to capture.
            inputs = (self._copy(inputs[0]), *inputs[1:])
        return super().add(op, inputs, name=name, control_inputs=control_inputs, where=where)

    def _waits(self, operations: Iterable[Operation]) -> tuple[Operation, ...]:
        """Those of this graph; the others must run before the region."""
        kept = []
        for o in operations:
            if o.graph is self:
                kept.append(o)
            else:
                self.awaited[o] = None
        return tuple(kept)

    def finish(self, parameters: Sequence[Tensor], results: Sequence[Tensor]) -> Region:
        """The region, once the user's function is done."""
        self._finished = True
        effects = [o for o in self.operations if has_effect(o)]
        return Region(self, parameters, results, effects)


def _last(tensor: Tensor) -> str:
    """The last part of a tensor's name."""
    return tensor.name.rsplit("/", 1)[-1].replace(":", "_")


@contextmanager
def building(region: RegionGraph) -> Iterator[None]:
    """Inside, everything that is made in the graph around the region belongs to the region."""
    region.outer._inner = region
    try:
        yield
    finally:
        region.outer._inner = None
