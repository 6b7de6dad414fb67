"""Importer: walks an ONNX graph and builds a Niello graph, computing what is known already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx import registry
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.evaluate import NeedsValue, evaluate
from niello.frontends.onnx.functions import expansion
from niello.frontends.onnx.reader import Source
from niello.frontends.onnx.values import EMPTY, Labels, Maps, Value, on_host, show

# Nodes whose inputs are known are evaluated while importing up to this many elements; what is
# larger is a weight, which the compiler folds.
FOLDED_ELEMENTS = 1 << 16
# A value that a node needs is computed at once by at most so much; else by a graph of its own.
CHEAP_OPERATIONS = 64
CHEAP_ELEMENTS = 1 << 14


class Scope:
    """Values by name: those of a graph, and behind them those of the graph it is inside."""

    def __init__(
        self, opsets: Mapping[str, int], outer: Scope | None = None, attributes: Any = None
    ) -> None:
        self.opsets = opsets
        self.outer = outer
        self.attributes = attributes or {}  # those of the function that is being expanded
        self.values: dict[str, Value] = {}

    def find(self, name: str) -> Value | None:
        """The value of that name, or None."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return None


@dataclass(frozen=True)
class Stop:
    """Where a graph ends before the model does: at the node number `index`, which runs on the host
    (`node`), or for which the values of `names` must be known."""

    index: int
    node: Any | None
    names: frozenset[str]


class Cut(Exception):
    """The graph must end here; see Stop."""

    def __init__(
        self,
        names: frozenset[str] = frozenset(),
        *,
        host: bool = False,
        ahead: Mapping[str, nl.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.names = names
        self.host = host
        self.ahead = dict(ahead or {})  # what the host takes beside the node's inputs


def names_used(graph: Any, start: int) -> set[str]:
    """The names that nodes from `start` on, the graphs inside them, and the outputs use."""
    found = {o.name for o in graph.output}
    stack = list(graph.node[start:])
    while stack:
        node = stack.pop()
        found.update(node.input)
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else []
            for body in (*inner, *attribute.graphs):
                stack.extend(body.node)
                found.update(o.name for o in body.output)
        if node.op_type == "Gradient":
            found.update(s.decode() for a in node.attribute for s in (*a.strings, a.s))
    return found


def is_cheap(value: Value) -> bool:
    """Whether a tensor takes few and small operations, so that NumPy computes it at once."""
    seen: set[nl.Operation] = set()
    stack = [t.operation for t in tensors_in(value)]
    elements = 0
    while stack:
        o = stack.pop()
        if o in seen:
            continue
        seen.add(o)
        if any(not t.type.is_static for t in o.outputs) or isinstance(o.outputs[0], nl.Variable):
            return False
        elements += sum(t.type.elements for t in o.outputs)
        if len(seen) > CHEAP_OPERATIONS or elements > CHEAP_ELEMENTS:
            return False
        stack.extend(t.operation for t in o.inputs)
    return True


class Importer:
    """Builds `graph` from the main graph of `source`."""

    def __init__(
        self,
        source: Source,
        graph: nl.Graph,
        *,
        trainable: bool = False,
        weights: Sequence[str] = (),
        cuts: bool = False,
    ) -> None:
        self.source = source
        self.graph = graph
        self.trainable = trainable
        self.cuts = cuts  # the graph may end before a node that needs a value
        self._main: Scope | None = None
        self.used: dict[str, None] = {}  # weights that became variables
        self.placeholders: dict[nl.Tensor, str] = {}
        self.updates: list[nl.Operation] = []  # assignments that belong to each run
        self._constants: dict[int, tuple[np.ndarray, nl.Tensor]] = {}
        self._known: dict[nl.Tensor, np.ndarray] = {}
        self._weights: dict[int, str] = {}
        self._where: list[str] = []
        self._folding = False
        for name in weights:  # here, where no node gives them its name
            array = source.initializers[name]
            self._constants[id(array)] = (array, graph.variable(array, name=name))

    # --- graphs
    def main(
        self, given: Mapping[str, Value], start: int = 0
    ) -> tuple[dict[str, Value], Stop | None]:
        """Translate the model's graph from node `start` on, with these values; its outputs by name.

        Where it ends before, what is still needed by name, and how it goes on.
        """
        graph = self.source.graph
        scope = self._main = self._scope(given)
        for index in range(start, len(graph.node)):
            try:
                self.node(graph.node[index], scope)
            except Cut as cut:
                node = graph.node[index] if cut.host else None
                stop = Stop(index, node, cut.names)
                wanted = names_used(graph, index)
                live = {n: scope.values[n] for n in wanted if self._lives(n, scope)}
                return live | cut.ahead, stop
        outputs = {o.name: self._wanted(o.name, scope, "the graph's output") for o in graph.output}
        return outputs, None

    def single(self, node: Any, given: Mapping[str, Value]) -> dict[str, Any]:
        """The outputs of one node of the main graph, all of whose inputs are known."""
        scope = self._scope(given)
        self.node(node, scope)
        return {n: scope.values[n] for n in node.output if n}

    def _lives(self, name: str, scope: Scope) -> bool:
        return name in scope.values and name not in self.source.initializers

    def _scope(self, given: Mapping[str, Value]) -> Scope:
        """The names of the main graph: weights, and the values that are given."""
        scope = Scope(self.source.opsets)
        for name, array in self.source.initializers.items():
            scope.values[name] = array
            if self.trainable and array.dtype.kind == "f":
                self._weights[id(array)] = name
        scope.values.update(given)
        return scope

    def subgraph(self, graph: Any, outer: Scope, inputs: Sequence[Any] = ()) -> list[Value]:
        """Translate a body of If, Loop or Scan, given the values of its inputs; its outputs."""
        scope = Scope(outer.opsets, outer, outer.attributes)
        for proto in graph.initializer:
            scope.values[proto.name] = self.source.array(proto)
        for proto in graph.sparse_initializer:
            scope.values[proto.values.name] = self.source.sparse_array(proto)
        scope.values.update({i.name: v for i, v in zip(graph.input, inputs, strict=False)})
        return self._body(graph, scope)

    def _body(self, graph: Any, scope: Scope) -> list[Value]:
        for node in graph.node:
            self.node(node, scope)
        return [self._wanted(o.name, scope, "the graph's output") for o in graph.output]

    def _wanted(self, name: str, scope: Scope, asked: str) -> Value:
        found = scope.find(name)
        if found is None:
            raise nl.errors.FrontendError(
                f"ONNX model {self.source.name}",
                f"{asked} {name!r} is computed by no node before it",
                received=repr(name),
                advice="The model is not valid ONNX; run onnx.checker on it",
            )
        return found

    # --- nodes
    def describe(self, node: Any) -> str:
        """A node for an error message: operator and name."""
        path = "/".join([*self._where, node.name or (node.output[0] if node.output else "")])
        return f"ONNX {node.domain + '.' if node.domain else ''}{node.op_type} node {path!r}"

    def node(self, node: Any, scope: Scope) -> None:
        """Translate one node and note its outputs in the scope."""
        inputs = [
            self._wanted(n, scope, f"input of {self.describe(node)}") if n else None
            for n in node.input
        ]
        found = self._outputs(node, inputs, scope)
        for name, value in zip(node.output, found, strict=False):
            if name:
                scope.values[name] = value

    def _outputs(self, node: Any, inputs: list[Value | None], scope: Scope) -> Sequence[Value]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        function = self.source.function(domain, node.op_type, getattr(node, "overload", ""))
        if function is not None:
            return self._expand(function, node, inputs, scope)
        version = scope.opsets.get(domain, 1)
        translation = registry.find(domain, node.op_type, version)
        call = Call(self, _resolved(node, scope), version, inputs, scope)
        return self.expanded(call) if translation is None else self._translated(translation, call)

    def expanded(self, call: Call) -> Sequence[Value]:
        """A node by the operators that ONNX defines it with."""
        body = expansion(call)
        if body is None:
            raise call.refuse(
                f"Niello has no translation of it (opset {call.version})",
                advice="Replace the operator in the model",
            )
        return self._expand(body, call.node, call.inputs, call.scope)

    def _translated(self, translation: registry.Translation, call: Call) -> Sequence[Value]:
        fold = translation.host or (translation.fold and self._foldable(call))
        try:
            with self._scope_name(call):
                if translation.host:
                    call.inputs = self._known_inputs(call, translation)
                found = self._folded(translation, call) if fold else translation.translate(call)
        except nl.errors.FrontendError:
            raise
        except nl.errors.NielloError as error:
            error.asked = f"{self.describe(call.node)}: {error.asked}"
            error.where = ""
            raise
        except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError) as error:
            raise self._broken(call, error) from error
        except (TypeError, ValueError) as error:
            raise self._broken(call, error) from error
        return found if isinstance(found, tuple) else (found,)

    def _broken(self, call: Call, error: Exception) -> nl.errors.NielloError:
        """A node whose attributes or inputs do not fit together in a way that nothing foresaw."""
        return call.refuse(
            f"its attributes and inputs do not fit together: {type(error).__name__}: {error}",
            ", ".join(show(v) for v in call.inputs) or "no inputs",
            "Check the model with onnx.checker",
        )

    @contextmanager
    def _scope_name(self, call: Call) -> Iterator[None]:
        """Operations made for a node are named after it."""
        raw = call.node.name or call.operator
        name = ".".join(part for part in raw.split("/") if part)
        with self.graph.name_scope(name or call.operator):
            yield

    # --- functions
    def _expand(
        self, function: Any, node: Any, inputs: list[Value | None], scope: Scope
    ) -> Sequence[Value]:
        """A function's body in place of the node that calls it."""
        attributes = {a.name: a for a in function.attribute_proto}
        attributes |= {a.name: a for a in _resolved(node, scope).attribute}
        opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version
                  for o in function.opset_import}  # fmt: skip
        inner = Scope({**scope.opsets, **opsets}, None, attributes)
        for name, value in zip(function.input, inputs, strict=False):
            if value is not None:
                inner.values[name] = value
        absent = set(function.input) - set(inner.values)
        self._where.append(node.name or node.op_type)
        try:
            for inside in function.node:
                self.node(_without(inside, absent), inner)
        finally:
            self._where.pop()
        return [inner.find(name) if name else EMPTY for name in function.output]  # type: ignore[misc]

    # --- values
    def tensor(self, value: Value, call: Call) -> nl.Tensor:
        """A value as a tensor of the graph being built."""
        if isinstance(value, nl.Tensor):
            return value
        if not isinstance(value, np.ndarray):
            raise call.refuse("an input must be a tensor", show(value))
        if on_host(value):
            raise call.refuse(
                "graphs of Niello have no such element type",
                show(value),
                "Only casts and operators that move elements take it, while the model is imported",
            )
        known = self._constants.get(id(value))
        if known is None:
            known = (value, self._made(value))
            self._constants[id(value)] = known
        return known[1]

    def _made(self, array: np.ndarray) -> nl.Tensor:
        name = self._weights.get(id(array))
        if name is not None and not self._folding:
            self.used[name] = None
            return self.graph.variable(array, name=name)
        if array.size > 1 and not any(array.strides):
            return self.graph.constant(array.reshape(-1)[:1].reshape(()), shape=array.shape)
        return self.graph.constant(array)

    def array(self, value: Value, call: Call) -> np.ndarray:
        """The value of a tensor, which must not depend on what is fed.

        Raises NeedsValue with the model inputs that it depends on.
        """
        if isinstance(value, np.ndarray):
            return value
        if not isinstance(value, nl.Tensor):
            raise call.refuse("an input must be a tensor", show(value))
        return evaluate(value, self._known, self.placeholders)

    def demanded(self, value: Value, call: Call) -> np.ndarray:
        """The value of an input, which a node cannot do without.

        Where it takes more than a few operations, the graph ends before the node: raises Cut.
        """
        try:
            return self.array(value, call)
        except NeedsValue:
            if self._may_cut(call) and not is_cheap(value):
                names = frozenset(n for n, v in call.scope.values.items() if v is value)
                if names:
                    raise Cut(names) from None
            raise

    def _may_cut(self, call: Call) -> bool:
        return self.cuts and call.scope is self._main and not self._folding

    def _known_inputs(self, call: Call, translation: registry.Translation) -> list[Value | None]:
        """The inputs of a node that runs on the host."""
        try:
            return [self._host(v, call) for v in call.inputs]
        except NeedsValue:
            if not self._may_cut(call):
                raise
        made = translation.ahead(call) if translation.ahead is not None else None
        raise Cut(host=True, ahead={call.ahead_name(n): t for n, t in (made or {}).items()})

    def _host(self, value: Value | None, call: Call) -> Value | None:
        if isinstance(value, nl.Tensor):
            return self.array(value, call)
        return [self._host(v, call) for v in value] if isinstance(value, list) else value

    def proto_array(self, proto: Any, call: Call) -> np.ndarray:
        """The array of a TensorProto."""
        return self.source.array(proto)

    @contextmanager
    def region(self) -> Iterator[None]:
        """While a branch or loop body is built: constants made inside stay inside."""
        kept, self._constants = self._constants, dict(self._constants)
        updates = len(self.updates)
        try:
            yield
        finally:
            self._constants = kept
            del self.updates[updates:]  # assignments inside a region belong to it

    # --- folding
    def _foldable(self, call: Call) -> bool:
        """Whether the node's inputs are known and small, so that it is evaluated at once."""
        given = [v for v in call.inputs if v is not None]
        known = [v for v in given if isinstance(v, np.ndarray)]
        if not given or len(known) < len(given):
            return False
        if any(id(v) in self._weights or on_host(v) for v in known):
            return False
        # Integer weights stay integers: contractions of them are faster, and they are smaller.
        most = CHEAP_OPERATIONS if call.node.op_type == "DequantizeLinear" else FOLDED_ELEMENTS
        return sum(v.size for v in known) <= most

    def _folded(self, translation: registry.Translation, call: Call) -> tuple[Value, ...]:
        """Translate into a graph of its own, and evaluate that."""
        kept = self.graph, self._constants, self._folding
        self.graph, self._constants, self._folding = nl.Graph(), {}, True
        try:
            found = translation.translate(call)
            known: dict[nl.Tensor, np.ndarray] = {}
            outputs = found if isinstance(found, tuple) else (found,)
            return tuple(_evaluated(v, known) for v in outputs)
        finally:
            self.graph, self._constants, self._folding = kept


def _evaluated(value: Any, known: dict[nl.Tensor, np.ndarray]) -> Value:
    if isinstance(value, nl.Tensor):
        return evaluate(value, known, {})
    return [_evaluated(v, known) for v in value] if isinstance(value, list) else value


def _resolved(node: Any, scope: Scope) -> Any:
    """The node with attributes that refer to those of the enclosing function replaced."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    from onnx import NodeProto

    made = NodeProto()
    made.CopyFrom(node)
    del made.attribute[:]
    for a in node.attribute:
        given = scope.attributes.get(a.ref_attr_name) if a.ref_attr_name else a
        if given is not None:
            added = made.attribute.add()
            added.CopyFrom(given)
            added.name = a.name
    return made


def _without(node: Any, absent: set[str]) -> Any:
    """The node with inputs left out that the function's caller leaves out."""
    if not absent.intersection(node.input):
        return node
    from onnx import NodeProto

    made = NodeProto()
    made.CopyFrom(node)
    for i, name in enumerate(made.input):
        if name in absent:
            made.input[i] = ""
    while made.input and not made.input[-1]:
        made.input.pop()
    return made


def tensors_in(value: Value) -> Iterator[nl.Tensor]:
    """The tensors of a value: itself, or those of a sequence."""
    if isinstance(value, nl.Tensor):
        yield value
    elif isinstance(value, Labels):
        yield value.places
    elif isinstance(value, Maps):
        yield value.scores
    elif isinstance(value, list):
        for v in value:
            yield from tensors_in(v)


def needed_inputs(values: Iterable[Value], inputs: Mapping[nl.Tensor, str]) -> set[nl.Tensor]:
    """The placeholders that the values depend on."""
    found: set[nl.Tensor] = set()
    seen: set[nl.Operation] = set()
    stack = [t for v in values for t in tensors_in(v)]
    while stack:
        t = stack.pop()
        if t in inputs:
            found.add(t)
        elif t.operation not in seen:
            seen.add(t.operation)
            stack.extend(t.operation.inputs)
    return found


__all__ = ["Importer", "NeedsValue", "Scope", "needed_inputs", "tensors_in"]
