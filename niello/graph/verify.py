"""Structural rules of a graph, one function each. Run after every pass with NIELLO_VERIFY=1.

graph_rules     what holds for every GraphDefinition
verify(graph)   raises CompilerBug, with the operation's text, for the first rule that is broken
acyclic(...)    the one rule that users can break: GraphError
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from niello.core.errors import CompilerBug, GraphError, NielloError, ShapeError
from niello.core.shapes import merge_shapes
from niello.core.types import TensorType
from niello.graph.graph import GraphDefinition
from niello.graph.operation import Operation
from niello.graph.region import Region, RegionOp, needed
from niello.graph.structural import Assign, Constant, Placeholder, ReadVariable, VariableOp
from niello.graph.tensor import Tensor

# A rule yields (operation, what is wrong with it).
Broken = tuple[Operation, str]


def verify(graph: GraphDefinition) -> None:
    """Raise CompilerBug unless every rule holds for every operation."""
    for rule in RULES:
        for operation, problem in rule(graph):
            raise CompilerBug(
                f"verify graph {graph.name}",
                f"{rule.__name__}: {problem}",
                received=_text(operation),
                rule=rule.__name__,
                operation=operation.name,
            )
    acyclic(graph.operations)


def operations_are_numbered(graph: GraphDefinition) -> Iterator[Broken]:
    """An operation knows its graph and its place in it."""
    for position, o in enumerate(graph.operations):
        if o.graph is not graph:
            yield o, "it belongs to another graph"
        if o.number != position:
            yield o, f"its number is {o.number}, its place {position}"


def operands_come_first(graph: GraphDefinition) -> Iterator[Broken]:
    """Every operand is a result of an earlier operation of the same graph."""
    made: set[Tensor] = set()
    for o in graph.operations:
        for i, t in enumerate(o.inputs):
            if t.graph is not graph:
                yield o, f"operand {i}, {t.name}, belongs to another graph"
            elif t not in made:
                yield o, f"operand {i}, {t.name}, is not made before it"
        made.update(o.outputs)


def results_know_their_place(graph: GraphDefinition) -> Iterator[Broken]:
    """A result points back at its operation and its index."""
    for o in graph.operations:
        for i, t in enumerate(o.outputs):
            if t.operation is not o or t.index != i:
                yield o, f"result {i} says it is result {t.index} of {t.operation.name}"


def types_are_inferred(graph: GraphDefinition) -> Iterator[Broken]:
    """Results have the types that the op infers from its operands."""
    for o in graph.operations:
        try:
            found = o.op.infer_all(*(t.type for t in o.inputs))
        except NielloError as error:
            yield o, f"its operands are refused: {error}"
            continue
        have = tuple(t.type for t in o.outputs)
        if found != have:
            yield o, f"its results are {_types(have)}, inferred are {_types(found)}"


def names_are_unique(graph: GraphDefinition) -> Iterator[Broken]:
    """No two operations or tensors share a name."""
    taken: set[str] = set()
    for o in graph.operations:
        for name in dict.fromkeys((o.name, *(t.name for t in o.outputs))):
            if not name or name in taken:
                yield o, f"the name {name!r} is taken or empty"
            taken.add(name)


def controls_belong_here(graph: GraphDefinition) -> Iterator[Broken]:
    """Control inputs are operations of the same graph."""
    known = set(graph.operations)
    for o in graph.operations:
        for c in o.control_inputs:
            if c not in known:
                yield o, f"its control input {c.name} is not in the graph"


def _forms(stored: TensorType) -> tuple[TensorType, ...]:
    """Passes see complex storage as pairs (passes/split_complex.py)."""
    if not stored.dtype.is_complex:
        return (stored,)
    return (stored, TensorType((*stored.static_shape, 2), stored.dtype.plane))


def variables_have_storage(graph: GraphDefinition) -> Iterator[Broken]:
    """A variable has storage of its type; reads and assignments name the variable they take."""
    for o in graph.operations:
        if isinstance(o.op, VariableOp):
            state = graph.variable_states.get(o.op.variable)
            if state is None:
                yield o, f"there is no storage named {o.op.variable!r}"
            elif o.op.type not in _forms(TensorType(state.array.shape, state.array.dtype)):
                yield o, f"its storage is {state.array.dtype.name}{list(state.array.shape)}"
        if isinstance(o.op, (ReadVariable, Assign)):
            source = o.inputs[0].operation.op
            if not isinstance(source, VariableOp) or source.variable != o.op.variable:
                yield o, f"its first operand is not variable {o.op.variable!r}"


def constants_are_frozen(graph: GraphDefinition) -> Iterator[Broken]:
    """A constant's array has the constant's dtype and cannot be written."""
    for o in graph.operations:
        if isinstance(o.op, Constant):
            array = o.op.data.array
            if array.dtype != o.op.dtype.numpy:
                yield o, f"its array is of {array.dtype.name}"
            if array.flags.writeable:
                yield o, "its array can be written"


def regions_fit(graph: GraphDefinition) -> Iterator[Broken]:
    """A region's parameters are its graph's placeholders and take what the operation hands in; its
    results and effects are of its graph, and the same rules hold inside."""
    for o in graph.operations:
        if not isinstance(o.op, RegionOp):
            continue
        wanted = o.op.region_types(*(t.type for t in o.inputs))
        for region, types in zip(o.op.regions, wanted, strict=True):
            given = region.parameter_types
            if len(given) != len(types) or not all(map(_fits, given, types)):
                found = _types(given)
                yield o, f"the parameters of {region.graph.name} are {found}, not {_types(types)}"
            yield from ((o, problem) for problem in _broken_region(region))


def _fits(parameter: TensorType, given: TensorType) -> bool:
    """Whether a parameter can take a value; a size may be known of one of them only, as where what
    was called has taken the place of the call."""
    try:
        merge_shapes(parameter.shape, given.shape, "verify")
    except ShapeError:
        return False
    return parameter.dtype is given.dtype


def _broken_region(region: Region) -> Iterator[str]:
    made = {t for inside in region.graph.operations for t in inside.outputs}
    sources = {t.operation for t in region.parameters}
    for t in (*region.parameters, *region.results):
        if t not in made:
            yield f"{t.name} is not of the region {region.graph.name}"
    for inside in needed(region):
        if isinstance(inside.op, Placeholder) and inside not in sources:
            yield f"it depends on {inside.name}, a placeholder that is no parameter"
    try:
        verify(region.graph)
    except CompilerBug as error:
        yield str(error)


RULES: tuple[Callable[[GraphDefinition], Iterator[Broken]], ...] = (
    operations_are_numbered,
    operands_come_first,
    results_know_their_place,
    types_are_inferred,
    names_are_unique,
    controls_belong_here,
    variables_have_storage,
    constants_are_frozen,
    regions_fit,
)


def acyclic(operations: Iterable[Operation]) -> None:
    """Raise GraphError when operands and control inputs lead from an operation back to itself."""
    # Operands are older than what reads them: only a control input can point forward.
    if all(c.number < o.number for o in operations for c in o.control_inputs):
        return
    done: set[Operation] = set()
    path: dict[Operation, None] = {}
    for root in operations:
        stack: list[tuple[Operation, Iterator[Operation]]] = []
        _enter(root, done, path, stack)
        while stack:
            operation, before = stack[-1]
            following = next(before, None)
            if following is None:
                stack.pop()
                del path[operation]
                done.add(operation)
            else:
                _enter(following, done, path, stack)


def _enter(
    operation: Operation,
    done: set[Operation],
    path: dict[Operation, None],
    stack: list[tuple[Operation, Iterator[Operation]]],
) -> None:
    if operation in path:
        names = [o.name for o in path]
        cycle = [*names[names.index(operation.name) :], operation.name]
        raise GraphError(
            "control dependencies",
            "they form a cycle",
            received=" after ".join(cycle),
            advice="Remove one of these control inputs",
            where=operation.where,
            cycle=tuple(cycle),
        )
    if operation not in done:
        path[operation] = None
        before = [t.operation for t in operation.inputs] + list(operation.control_inputs)
        stack.append((operation, iter(before)))


def _types(types: tuple[TensorType, ...]) -> str:
    return ", ".join(map(repr, types)) or "none"


def _text(operation: Operation) -> str:
    operands = ", ".join(t.name for t in operation.inputs)
    return f"{operation.name} = {operation.op.name}({operands})"
