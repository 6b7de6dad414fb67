"""Branches and loops: if_, while_, for_, scan, and call.

The functions that users pass are called once, while the graph is built; what they make becomes a
region of the operation (graph/region.py). Tensors made outside are captured by themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from niello.core.dtypes import DType, bool_, int32
from niello.core.errors import AttributeValueError, DTypeError, GraphError, ShapeError
from niello.core.types import TensorType
from niello.graph.control_flow import If, Loop
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Op, plain_function
from niello.graph.operation import Operation
from niello.graph.region import RegionGraph, building, has_effect
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.ops.cast import cast
from niello.ops.define import cast_to
from niello.ops.reshape import reshape


# --- branches
@plain_function
def if_(
    predicate: Tensor,
    then: Callable[[], Any],
    otherwise: Callable[[], Any],
    *,
    name: str | None = None,
) -> Any:
    """What `then()` returns where `predicate` (one element, any dtype) is not zero, else what
    `otherwise()` returns; only one of the two is computed.

    Both functions are called once, now, without arguments; they use tensors from outside as they
    are. They return a tensor or a list of tensors, of the same types in both, and so does `if_`.
    Assignments that a function makes are run when its branch is. Functions that return nothing
    make an Operation, for `target_operations`. Raises GraphError, DTypeError and ShapeError where
    the branches differ.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((), name="x")
        >>> y = nl.if_(x > 0.0, lambda: x * 2.0, lambda: -x)
        >>> graph.run({x: -3.0}, [y])[y].tolist()
        3.0
    """
    if not isinstance(predicate, Tensor):
        raise GraphError(
            "if_",
            "the predicate must be a tensor",
            received=repr(predicate),
            advice="A Python condition needs Python's own if",
        )
    graph = _root(predicate).innermost
    unique = graph.unique_name(name or "if")
    first, first_given = _branch(graph, then, f"{unique}/then")
    second, second_given = _branch(graph, otherwise, f"{unique}/else")
    if (first_given is None) != (second_given is None):
        raise GraphError(
            "if_",
            "either both branches return tensors or none does",
            received="nothing from " + ("then" if first_given is None else "otherwise"),
        )
    likes = [_like(a, b) for a, b in zip(_listed(first_given), _listed(second_given), strict=False)]
    results = [
        _results("if_", g, given, likes)
        for g, given in ((first, first_given), (second, second_given))
    ]
    captured = _share_captures([first, second])
    regions = [
        g.finish([g.captured[t] for t in captured], made)
        for g, made in zip((first, second), results, strict=True)
    ]
    made = _append(graph, If(*regions), (_word(predicate), *captured), unique, [first, second])
    return made if first_given is None else _shaped(made.outputs, first_given)


def _branch(graph: GraphDefinition, build: Any, scope: str) -> tuple[RegionGraph, Any]:
    _callable("if_", build)
    region = RegionGraph(graph, scope)
    with building(region):
        return region, build()


# --- loops
@plain_function
def while_(
    initial: Any,
    condition: Callable[..., Any],
    body: Callable[..., Any],
    *,
    maximum_iterations: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Any:
    """Repeat `body` on carried values while `condition` of them is not zero.

    `initial` is a tensor or a list of tensors: the carried values. `condition(*values)` returns one
    element, `body(*values)` the next values, of the types of the initial ones; both are called
    once, now. The result has the form of `initial`. The loop ends after `maximum_iterations`, which
    gradients need: they keep the values of each iteration. `graph` is only needed where nothing
    among the initial values is a tensor. Raises GraphError, DTypeError and ShapeError.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> n = graph.placeholder((), nl.int32, name="n")
        >>> steps, _ = nl.while_(
        ...     [graph.constant(0), n],
        ...     lambda steps, n: n > 1,
        ...     lambda steps, n: [steps + 1, nl.select(nl.equal(n % 2, 0), n // 2, 3 * n + 1)],
        ... )
        >>> graph.run({n: 6}, [steps])[steps].item()
        8
    """
    most = None if maximum_iterations is None else _count("while_", maximum_iterations)
    plan = _Plan("while_", graph, initial, name or "while", body, condition=condition)
    return plan.make(lambda region, index, slices, values: body(*values), length=most)


@plain_function
def for_(
    count: Any,
    initial: Any,
    body: Callable[..., Any],
    *,
    maximum_iterations: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Any:
    """Repeat `body` on carried values a number of times.

    `count` is the number of iterations, or (lower, upper, step) of an index that runs from `lower`
    up to `upper`, which it does not reach; step must be positive where it is a tensor. All may be
    ints or int32 tensors of one element. `initial` is a tensor or a list of tensors: the carried
    values. `body(index, *values)` returns the next values, of the types of the initial ones; it is
    called once, now, with an int32 tensor as index. The result has the form of `initial`.

    Gradients keep the carried values of each iteration: where the count is a tensor they need
    `maximum_iterations`, after which the loop ends. Raises GraphError, DTypeError and ShapeError.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((), name="x")
        >>> y = nl.for_(4, x, lambda i, y: y * x + i.cast(nl.float32))
        >>> graph.run({x: 2.0}, [y])[y].item()
        43.0
    """
    listed = list(count) if isinstance(count, (tuple, list, range)) else None
    if isinstance(count, range):
        listed = [count.start, count.stop, count.step]
    plan = _Plan("for_", graph, initial, name or "for", body, listed or [count])
    if listed is None:
        lower, step, total = 0, 1, count
    else:
        lower, step, total = plan.bounds(listed)
    scaled = (lower, step) != (0, 1) if isinstance(lower, int) and isinstance(step, int) else True

    def build(region: RegionGraph, index: Tensor, slices: Any, values: list[Tensor]) -> Any:
        return body(index * step + lower if scaled else index, *values)

    most = None if maximum_iterations is None else _count("for_", maximum_iterations)
    if isinstance(total, Tensor) and isinstance(total.operation.op, Constant):
        total = int(total.operation.op.data.array.reshape(()).item())
    if isinstance(total, Tensor):
        return plan.make(build, count=_integer_word("for_", total), length=most)
    known = _count("for_", total)
    return plan.make(build, length=known if most is None else min(known, most))


@plain_function
def scan(
    inputs: Any,
    initial: Any,
    body: Callable[..., Any],
    *,
    reverse: bool = False,
    length: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Any:
    """Walk along the first axis of `inputs`, carrying values, and stack what each step gives.

    `inputs` is a list of tensors with equal first axes (it may be unknown until the graph is
    compiled), or empty when `length` says the number of steps; `initial` is the list of carried
    values. `body(index, slices, values)`, called once, now, with an int32 tensor and two lists,
    returns two lists: the next values, and the outputs of this step. `scan` returns two lists: the
    last values, and the outputs stacked along a new first axis. With `reverse` the walk begins at
    the end; the stacks keep the order of the inputs. As ONNX Scan.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((None,), name="x")
        >>> _, (sums,) = nl.scan([x], [0.0], lambda i, s, c: ([c[0] + s[0]], [c[0] + s[0]]))
        >>> graph.run({x: [1.0, 2.0, 4.0]}, [sums])[sums].tolist()
        [1.0, 3.0, 7.0]
    """
    scanned = _listed(inputs)
    if not scanned and length is None:
        raise GraphError(
            "scan", "without inputs it needs a length", received="no inputs", advice="Give length="
        )
    plan = _Plan("scan", graph, list(_listed(initial)), name or "scan", body, scanned)
    known = None if length is None else _count("scan", length)
    outputs: list[Any] = []

    def build(region: RegionGraph, index: Tensor, slices: Any, values: list[Tensor]) -> Any:
        found = body(index, list(slices), values)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise GraphError(
                "scan",
                "the body must return two lists: the next values, and the outputs",
                received=repr(found),
            )
        outputs.extend(_listed(found[1]))
        return [*_listed(found[0]), *outputs]

    made = plan.make(build, scanned=scanned, length=known, reverse=reverse, whole=True)
    return made[: len(plan.values)], made[len(plan.values) :]


class _Plan:
    """What a loop is made of, before its regions are built."""

    def __init__(
        self,
        asked: str,
        graph: GraphDefinition | None,
        initial: Any,
        name: str,
        body: Any,
        others: Sequence[Any] = (),
        condition: Any = None,
    ) -> None:
        self.asked, self.name = asked, name
        self.initial, self.body, self.condition = initial, body, condition
        _callable(asked, body)
        if condition is not None:
            _callable(asked, condition)
        given = _listed(initial)
        known = next((v for v in (*given, *others) if isinstance(v, Tensor)), None)
        if known is None and graph is None:
            raise GraphError(
                asked,
                "no graph to build it in: nothing among the initial values is a tensor",
                received=repr(initial),
                advice="Pass graph=",
            )
        base = graph if graph is not None else _root(known)
        assert base is not None
        self.graph = base.innermost
        self.values = [self.graph.local(self.graph.as_tensor(v)) for v in given]

    def bounds(self, listed: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Lower bound, step, and number of iterations of (lower, upper[, step])."""
        if len(listed) not in (2, 3):
            raise AttributeValueError(
                "for_", "bounds are (lower, upper, step)", received=repr(tuple(listed))
            )
        lower, upper, step = (*listed, 1) if len(listed) == 2 else listed
        if not any(isinstance(v, Tensor) for v in (lower, upper, step)):
            start, stop, stride = (_integer("for_", v) for v in (lower, upper, step))
            if stride == 0:
                raise AttributeValueError("for_", "the step must not be 0", received=stride)
            return start, stride, len(range(start, stop, stride))
        if isinstance(step, int) and step <= 0:
            raise AttributeValueError(
                "for_", "the step must be positive where a bound is a tensor", received=step
            )
        low, high, by = (
            _integer_word("for_", v if isinstance(v, Tensor) else self.graph.constant(v, int32))
            for v in (lower, upper, step)
        )
        total = (high - low + (by - 1)) // by
        return low, by, total

    def make(
        self,
        build: Callable[[RegionGraph, Tensor, list[Tensor], list[Tensor]], Any],
        *,
        count: Tensor | None = None,
        scanned: Sequence[Any] = (),
        length: int | None = None,
        reverse: bool = False,
        whole: bool = False,
    ) -> Any:
        """Build the regions and the operation; `whole` gives all results, not those carried."""
        graph = self.graph
        unique = graph.unique_name(self.name)
        inputs = [graph.local(graph.as_tensor(v)) for v in scanned]
        body = RegionGraph(graph, f"{unique}/body")
        index = body.parameter(TensorType((), int32), "index")
        slices = [_slice(body, t) for t in inputs]
        values = _parameters(body, self.values)
        with building(body):
            given = build(body, index, slices, values)
        graphs, likes = [body], [t.dtype for t in self.values]
        condition = None
        if self.condition is not None:
            condition = RegionGraph(graph, f"{unique}/condition")
            tested = _parameters(condition, self.values)
            with building(condition):
                word = condition.as_tensor(self.condition(*tested))
                word = _word(condition.local(word))
            graphs.append(condition)
        self._check_count(given, whole)
        results = _results(self.asked, body, given, likes)
        captured = _share_captures(graphs)
        made = [
            body.finish([index, *slices, *values, *(body.captured[t] for t in captured)], results)
        ]
        if condition is not None:
            if any(map(has_effect, condition.operations)):
                raise GraphError(
                    self.asked,
                    "a condition cannot assign variables",
                    received=", ".join(o.name for o in condition.operations if has_effect(o)),
                    advice="Assign them in the body",
                )
            rest = [condition.captured[t] for t in captured]
            made.append(condition.finish([*tested, *rest], [word]))
        op = Loop(
            made[0],
            made[1] if condition is not None else None,
            carried=len(self.values),
            scanned=len(inputs),
            counted=count is not None,
            length=length,
            reverse=reverse,
        )
        ahead = [] if count is None else [count]
        operands = (*ahead, *inputs, *self.values, *captured)
        operation = _append(graph, op, operands, unique, graphs)
        if whole:
            return list(operation.outputs)
        if not self.values:
            return operation
        return _shaped(operation.outputs[: len(self.values)], self.initial)

    def _check_count(self, given: Any, whole: bool) -> None:
        found = len(_listed(given))
        if found < len(self.values) or (not whole and found > len(self.values)):
            raise GraphError(
                self.asked,
                f"the body must return the {len(self.values)} values that it carries",
                received=f"{found}",
                advice="Return the next value of each initial one, in their order",
            )


def _slice(body: RegionGraph, tensor: Tensor) -> Tensor:
    if tensor.shape == ():
        raise ShapeError(
            "scan", "a scanned tensor needs a first axis to take slices of", received=repr(tensor)
        )
    shape = None if tensor.shape is None else tensor.shape[1:]
    return body.parameter(TensorType(shape, tensor.dtype), "slice")


def _parameters(region: RegionGraph, values: Sequence[Tensor]) -> list[Tensor]:
    return [region.parameter(t.type, "value") for t in values]


# --- calls
@plain_function
def call(symbol: str, inputs: Any, output_types: Any, *, name: str | None = None) -> list[Tensor]:
    """The results of another computation, which is named `symbol` when the graph is compiled.

    `inputs` are tensors for its inputs, in order; `output_types` the types of its results. An
    executable or a graph is given by `graph.compile(..., callables={symbol: executable})`; its
    operations are put in place of the call, so that stitching and gradients go through it.

    Example:
        >>> import niello as nl
        >>> inner = nl.Graph("square")
        >>> x = inner.placeholder((2,), name="x")
        >>> square = inner.compile({x: (2,)}, [x * x])
        >>> graph = nl.Graph()
        >>> a = graph.placeholder((2,), name="a")
        >>> (b,) = nl.call("square", [a], [nl.TensorType((2,))])
        >>> executable = graph.compile({a: (2,)}, [b], callables={"square": square})
        >>> executable.run([[1.0, 3.0]])[0].tolist()
        [1.0, 9.0]
    """
    listed = _listed(inputs)
    known = next((v for v in listed if isinstance(v, Tensor)), None)
    if known is None:
        raise GraphError(
            "call",
            "no graph to call in: none of the inputs is a tensor",
            received=repr(inputs),
            advice="Use graph.call",
        )
    return _root(known).call(symbol, listed, output_types, name=name)


# --- shared
def _root(tensor: Any) -> GraphDefinition:
    """The graph of a tensor."""
    assert isinstance(tensor, Tensor)
    return tensor.graph


def _callable(asked: str, given: Any) -> None:
    if not callable(given):
        raise GraphError(
            asked,
            "takes functions, which build a part of the graph",
            received=repr(given),
            advice="Write lambda: tensor",
        )


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _shaped(outputs: Sequence[Tensor], given: Any) -> Any:
    """A list where the user gave one, else the tensor."""
    return list(outputs) if isinstance(given, (list, tuple)) else outputs[0]


def _like(a: Any, b: Any) -> DType | None:
    """The dtype that a Python number in one branch takes from the other's tensor."""
    return next((v.dtype for v in (a, b) if isinstance(v, Tensor)), None)


def _results(
    asked: str, region: RegionGraph, given: Any, likes: Sequence[DType | None]
) -> list[Tensor]:
    """What a function returned, as tensors of its region."""
    found = []
    for i, value in enumerate(_listed(given)):
        like = likes[i] if i < len(likes) else None
        if isinstance(value, Operation):
            raise GraphError(
                asked,
                "a function returns tensors; assignments that it makes are run by themselves",
                received=repr(value),
            )
        found.append(region.local(region.as_tensor(value, dtype=like)))
    return found


def _share_captures(graphs: Sequence[RegionGraph]) -> list[Tensor]:
    """Tensors that any of the regions captured; afterwards all of them have."""
    captured = list(dict.fromkeys(t for g in graphs for t in g.captured))
    for g in graphs:
        for t in captured:
            g.local(t)
    return captured


def _append(
    graph: GraphDefinition,
    op: Op,
    inputs: Sequence[Tensor],
    unique: str,
    regions: Sequence[RegionGraph],
) -> Operation:
    awaited = list(dict.fromkeys(o for g in regions for o in g.awaited))
    return graph.add_named(op, inputs, unique, awaited)


def _word(predicate: Tensor) -> Tensor:
    """A predicate as one int32 word, zero or not."""
    shape = predicate.shape
    if shape is not None and any(d not in (1, None) for d in shape):
        raise ShapeError(
            "predicate",
            "it must have one element",
            received=repr(predicate),
            advice="Reduce it with nl.any or nl.all",
        )
    flat = predicate if shape == () else reshape(predicate, ())
    if flat.dtype is int32:
        return flat
    return cast(flat if flat.dtype is bool_ else cast(flat, bool_), int32)


def _integer_word(asked: str, value: Tensor) -> Tensor:
    """A count or bound as one int32."""
    if not value.dtype.is_integer:
        raise DTypeError(asked, "counts and bounds are integers", received=repr(value))
    shape = value.shape
    if shape is not None and any(d not in (1, None) for d in shape):
        raise ShapeError(asked, "counts and bounds have one element", received=repr(value))
    return cast_to(value if shape == () else reshape(value, ()), int32)


def _integer(asked: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise AttributeValueError(
            asked, "counts and bounds are integers", received=repr(value)
        ) from None


def _count(asked: str, value: Any) -> int:
    found = _integer(asked, value)
    if not 0 <= found < 1 << 31:
        raise AttributeValueError(
            asked, "the number of iterations is from 0 to 2**31 - 1", received=found
        )
    return found
