"""Importer: walks an ONNX graph and builds a Niello graph, computing what is known already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx import registry
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.evaluate import NeedsValue, evaluate
from niello.frontends.onnx.functions import expansion
from niello.frontends.onnx.reader import Source
from niello.frontends.onnx.values import EMPTY, Value, on_host, show

# Nodes whose inputs are known are evaluated while importing up to this many elements; what is
# larger is a weight, which the compiler folds.
FOLDED_ELEMENTS = 1 << 16


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


class Importer:
    """Builds `graph` from the main graph of `source`."""

    def __init__(self, source: Source, graph: nl.Graph, *, trainable: bool = False) -> None:
        self.source = source
        self.graph = graph
        self.trainable = trainable
        self.placeholders: dict[nl.Tensor, str] = {}
        self.updates: list[nl.Operation] = []  # assignments that belong to each run
        self._constants: dict[int, tuple[np.ndarray, nl.Tensor]] = {}
        self._known: dict[nl.Tensor, np.ndarray] = {}
        self._weights: dict[int, str] = {}
        self._where: list[str] = []
        self._folding = False

    # --- graphs
    def main(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """Translate the model's graph with these inputs; its outputs by name."""
        graph = self.source.graph
        scope = Scope(self.source.opsets)
        for name, array in self.source.initializers.items():
            scope.values[name] = array
            if self.trainable and array.dtype.kind == "f":
                self._weights[id(array)] = name
        scope.values.update(given)
        found = self._body(graph, scope)
        return {o.name: v for o, v in zip(graph.output, found, strict=True)}

    def subgraph(self, graph: Any, outer: Scope, inputs: Sequence[Value] = ()) -> list[Value]:
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
        if translation is None:
            body = expansion(call)
            if body is None:
                raise call.refuse(
                    f"Niello has no translation of it (opset {version})",
                    advice="Replace the operator in the model",
                )
            return self._expand(body, call.node, inputs, scope)
        return self._translated(translation, call)

    def _translated(self, translation: registry.Translation, call: Call) -> Sequence[Value]:
        fold = translation.host or (translation.fold and self._foldable(call))
        try:
            with self._scope_name(call):
                if translation.host:
                    call.inputs = [self._host(v, call) for v in call.inputs]
                found = self._folded(translation, call) if fold else translation.translate(call)
        except nl.errors.FrontendError:
            raise
        except nl.errors.NielloError as error:
            error.asked = f"{self.describe(call.node)}: {error.asked}"
            error.where = ""
            raise
        return found if isinstance(found, tuple) else (found,)

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
        if not given or not all(isinstance(v, np.ndarray) for v in given):
            return False
        if any(id(v) in self._weights or on_host(v) for v in given):
            return False
        return sum(v.size for v in given) <= FOLDED_ELEMENTS  # type: ignore[union-attr]

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
