"""Calls of other computations: their operations are put in place of the call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from niello.autodiff.gradients import reverse
from niello.autodiff.regions import zeros_like
from niello.core.errors import GraphError, NielloError
from niello.core.shapes import merge_shapes
from niello.core.types import TensorType
from niello.graph.control_flow import Call
from niello.graph.graph import GraphDefinition
from niello.graph.operation import Operation
from niello.graph.region import Region, RegionOp, has_effect, inline
from niello.graph.structural import Assign, Placeholder, ReadVariable, VariableOp
from niello.graph.tensor import Tensor, VariableState
from niello.passes.computation import Computation, Rebuild
from niello.passes.regions import region_of

Callables = Mapping[str, Any]
MOST_DEPTH = 64  # of calls within calls


def resolve(source: Computation, callables: Callables) -> Computation:
    """The computation without calls. `callables` are executables and graphs by name.

    Raises GraphError for a name that is not among them, and where types do not fit.
    """
    if not any(map(_calls, source.reachable())):
        return source
    states = dict(source.graph.variable_states)
    return _Resolver(callables, states).resolved(source)


def _calls(operation: Operation) -> bool:
    op = operation.op
    return isinstance(op, Call) or (isinstance(op, RegionOp) and any(map(_calls, op.operations())))


class _Resolver:
    def __init__(self, callables: Callables, states: dict[str, VariableState]) -> None:
        self.callables = callables
        self.states = states
        self.bodies: dict[str, Region] = {}
        self.active: list[str] = []
        self.effects: set[Operation] = set()

    def resolved(self, source: Computation) -> Computation:
        """The same without calls; what called computations assign is run for its effect."""
        rebuild = Rebuild(source, self.resolved)
        rebuild.graph.variable_states = self.states
        made = rebuild.run(self._visit)
        added = [o for o in made.graph.operations if o in self.effects]
        return replace(made, operations=tuple(dict.fromkeys((*made.operations, *added))))

    def _visit(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        op = operation.op
        if not isinstance(op, Call):
            return None
        try:
            with rebuild.graph.control_dependencies(rebuild.controls(operation)):
                found = self._made(rebuild.graph, op, inputs)
            _check_types(op, found)
        except NielloError as error:
            error.where = error.where or operation.where
            raise
        return found

    def _made(self, graph: GraphDefinition, op: Call, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The results of a call."""
        body = self._order(op, op.order)
        if len(inputs) != len(body.parameters):
            raise GraphError(
                f"call {op.symbol!r}",
                f"it takes {len(body.parameters)} inputs",
                received=f"{len(inputs)}",
            )
        for t, p in zip(inputs, body.parameters, strict=True):
            _check_fit(op, f"input {p.name}", t.type, p.type)
        before = len(graph.operations)
        found = inline(graph, body, inputs)
        self.effects.update(o for o in graph.operations[before:] if has_effect(o))
        return found

    def _order(self, op: Call, order: int) -> Region:
        """What is called; at an order above 0, the gradients of the order below, whose inputs are
        followed by a weight for each result."""
        if order == 0:
            return self._body(op)
        below = self._order(op, order - 1)
        graph = GraphDefinition(op.symbol)
        graph.variable_states = self.states
        given = [graph.add(Placeholder(t), where="").outputs[0] for t in below.parameter_types]
        found = inline(graph, below, given, effects=False)
        weights = [graph.add(Placeholder(t.type), where="").outputs[0] for t in found]
        wanted = [t for t in given if t.dtype.is_float]
        pairs = [(t, w) for t, w in zip(found, weights, strict=True) if t.dtype.is_float]
        made = reverse(pairs, wanted)
        results = [zeros_like(t) if g is None else g for t, g in zip(wanted, made, strict=True)]
        return Region(graph, [*given, *weights], results)

    def _body(self, op: Call) -> Region:
        known = self.bodies.get(op.symbol)
        if known is not None:
            return known
        if op.symbol not in self.callables:
            raise GraphError(
                f"call {op.symbol!r}",
                "nothing of this name is given to compile",
                received=f"callables for {', '.join(map(repr, self.callables)) or 'nothing'}",
                advice=f"Compile with callables={{{op.symbol!r}: executable}}",
            )
        if op.symbol in self.active or len(self.active) > MOST_DEPTH:
            raise GraphError(
                f"call {op.symbol!r}",
                "it calls itself",
                received=" calls ".join(repr(s) for s in (*self.active, op.symbol)),
                advice="Use a loop",
            )
        computation = _computation(op, self.callables[op.symbol])
        self.active.append(op.symbol)
        try:
            found = region_of(self.resolved(self._named_apart(op.symbol, computation)))
        finally:
            self.active.pop()
        self.bodies[op.symbol] = found
        return found

    def _named_apart(self, symbol: str, source: Computation) -> Computation:
        """The called computation, its variables named after the symbol."""
        names: dict[str, str] = {}

        def name(old: str) -> str:
            if old not in names:
                state = source.graph.variable_states[old]
                new = f"{symbol}/{old}"
                while self.states.get(new, state) is not state:
                    new += "'"
                self.states[new] = state
                names[old] = new
            return names[old]

        def inside(computation: Computation) -> Computation:
            rebuild = Rebuild(computation, inside)
            rebuild.graph.variable_states = self.states
            return rebuild.run(visit)

        def visit(
            rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
        ) -> Sequence[Tensor] | None:
            op = operation.op
            if not isinstance(op, (VariableOp, ReadVariable, Assign)):
                return None
            return rebuild.copy(operation, inputs, replace(op, variable=name(op.variable))).outputs

        return inside(source)


def _computation(op: Call, given: Any) -> Computation:
    """What an executable was compiled from (what it calls itself in its place), or a graph whose
    results nothing in it reads."""
    found = getattr(given, "resolved", None)
    if isinstance(found, Computation):
        return found
    if not isinstance(given, GraphDefinition):
        raise GraphError(
            f"call {op.symbol!r}",
            "what it calls must be an executable or a graph",
            received=type(given).__name__,
        )
    read = {t for o in given.operations for t in o.inputs}
    targets = [
        t
        for o in given.operations
        for t in o.outputs
        if t not in read and not isinstance(o.op, (Placeholder, VariableOp))
    ]
    effects = [o for o in given.operations if not o.outputs]
    return Computation(given, given.placeholders, tuple(targets), tuple(effects))


def _check_types(op: Call, found: Sequence[Tensor]) -> None:
    if len(found) != len(op.types):
        raise GraphError(
            f"call {op.symbol!r}",
            f"it has {len(found)} results",
            received=f"{len(op.types)} output types",
        )
    for i, (t, wanted) in enumerate(zip(found, op.types, strict=True)):
        _check_fit(op, f"result {i}", t.type, wanted)


def _check_fit(op: Call, what: str, found: TensorType, wanted: TensorType) -> None:
    same = found.dtype is wanted.dtype
    try:
        merge_shapes(found.shape, wanted.shape, op.symbol)
    except NielloError:
        same = False
    if not same:
        raise GraphError(
            f"call {op.symbol!r}", f"{what} is declared as {wanted}", received=str(found)
        )
