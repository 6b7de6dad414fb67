"""Model: an ONNX model that runs, compiles, and becomes graphs for the input types it meets."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.importer import Importer, NeedsValue, needed_inputs, tensors_in
from niello.frontends.onnx.reader import Source
from niello.frontends.onnx.signature import Input, inputs_of
from niello.frontends.onnx.values import EmptyOptional, Value, on_host

CACHE_LIMIT = 64


@dataclass(frozen=True)
class Imported:
    """A model as one Niello graph, for given input types.

    `inputs` holds placeholders by the model's names (a list of them for a sequence), `outputs`
    tensors by name: arrays where the value is known already, lists for sequences, None for an
    empty optional. `updates` are assignments that belong to each run: states of random generators.
    """

    graph: nl.Graph
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    updates: tuple[nl.Operation, ...] = ()

    @property
    def tensors(self) -> tuple[nl.Tensor, ...]:
        """The tensors among the outputs, each once, in order."""
        return tuple(dict.fromkeys(t for v in self.outputs.values() for t in tensors_in(v)))

    @property
    def placeholders(self) -> tuple[nl.Tensor, ...]:
        """The placeholders that the outputs depend on, in the order of the inputs."""
        listed = {t: "" for v in self.inputs.values() for t in tensors_in(v)}
        updated = [t for o in self.updates for t in o.inputs]
        needed = needed_inputs([*self.tensors, *updated], listed)
        return tuple(t for t in listed if t in needed)

    def results(self, computed: Mapping[nl.Tensor, Any]) -> dict[str, Any]:
        """The model's outputs by name, given the values of `tensors`."""
        return {name: _result(v, computed) for name, v in self.outputs.items()}


class Model:
    """An ONNX model, made by `load`.

    It is translated when the sizes of its inputs are known, once for each set of input types, so
    that what the model computes from shapes is known and folded. Inputs whose values decide a
    shape are taken from the feeds, and belong to the key.

    Example:
        >>> import numpy as np
        >>> from onnx import TensorProto, helper
        >>> from niello.frontends.onnx import load
        >>> x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
        >>> y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
        >>> graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
        >>> model = load(helper.make_model(graph))
        >>> model.inputs
        {'x': float32[?, 2]}
        >>> np.asarray(model.run({"x": np.array([[-1, 2]], np.float32)})["y"])
        array([[0., 2.]], dtype=float32)
    """

    def __init__(self, source: Source, inputs: Mapping[str, Any], *, trainable: bool) -> None:
        self.source = source
        self.trainable = trainable
        self._inputs = inputs_of(source, inputs)
        self._lock = threading.RLock()
        self._imports: OrderedDict[Hashable, Imported] = OrderedDict()
        self._demanded: dict[Hashable, frozenset[str]] = {}

    @property
    def inputs(self) -> dict[str, Any]:
        """The type of each input: a TensorType, with None for sizes known only at run time."""
        return {name: i.type for name, i in self._inputs.items()}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(o.name for o in self.source.graph.output)

    @property
    def imported(self) -> Imported:
        """The graph for the declared input types: for gradients, inspection or compilation.

        Raises FrontendError when an operator needs a size or value that is not declared.
        """
        return self.specialise()

    @property
    def graph(self) -> nl.Graph:
        """The graph for the declared input types; see `imported` for its inputs and outputs."""
        return self.imported.graph

    def specialise(self, inputs: Mapping[str, Any] | None = None) -> Imported:
        """The model as a graph for these inputs: a TensorType, a shape or an array for each.

        An array also gives the value, where the model needs it to know a shape. Inputs that are
        not named keep the type that the model declares.
        """
        asked = {n: self._input(n).specialised(v) for n, v in (inputs or {}).items()}
        given = {
            name: asked[name] if name in asked else i.declared()
            for name, i in self._inputs.items()
            if name in asked or not i.has_default
        }
        return self._import(given)

    def run(self, feeds: Any = None, *, device: str | None = None) -> dict[str, Any]:
        """Run, and return the outputs by name.

        `feeds` maps input names to arrays (a list of arrays for a sequence, None for an optional
        that is empty), or lists them in the model's order. Raises FeedError for missing, unknown
        or mistyped inputs.
        """
        values = self._fed({} if feeds is None else feeds)
        imported = self._import(values)
        targets = imported.tensors
        computed: Mapping[nl.Tensor, Any] = {}
        if targets:
            arrays = dict(_pairs(imported.inputs, values))
            fed = {t: arrays[t] for t in imported.placeholders}
            computed = imported.graph.run(fed, targets, imported.updates, device=device)
        return imported.results(computed)

    def compile(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        device: str | None = None,
        options: nl.CompileOptions | None = None,
    ) -> nl.Executable:
        """An executable for these input types (see `specialise`): it takes the model's inputs and
        returns its outputs in their order, as far as they are not constant."""
        imported = self.specialise(inputs)
        types = {t: t.type for t in imported.placeholders}
        return imported.graph.compile(
            types, imported.tensors, imported.updates, device=device, options=options
        )

    # --- inputs
    def _input(self, name: str) -> Input:
        found = self._inputs.get(name)
        if found is None:
            raise nl.errors.FeedError(
                f"ONNX model {self.source.name}",
                f"has no input {name!r}",
                received=repr(name),
                advice=f"Its inputs are {', '.join(map(repr, self._inputs)) or 'none'}",
                superfluous=[name],
            )
        return found

    def _fed(self, feeds: Any) -> dict[str, Any]:
        if not isinstance(feeds, Mapping):
            if not isinstance(feeds, Sequence) or len(feeds) > len(self._inputs):
                raise nl.errors.FeedError(
                    f"ONNX model {self.source.name}",
                    f"takes a mapping of names, or a list of at most {len(self._inputs)} arrays",
                    received=f"{type(feeds).__name__}",
                )
            feeds = dict(zip(self._inputs, feeds, strict=False))
        values = {name: self._input(name).fed(value) for name, value in feeds.items()}
        missing = [n for n, i in self._inputs.items() if n not in values and not i.has_default]
        if missing:
            raise nl.errors.FeedError(
                f"ONNX model {self.source.name}",
                f"input{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))} must be fed",
                received=f"feeds for {', '.join(map(repr, feeds)) or 'nothing'}",
                advice=f"Feed {', '.join(f'{n}: {self._inputs[n].type}' for n in missing)}",
                missing=missing,
            )
        self._check_dims(values)
        return {name: values[name] for name in self._inputs if name in values}

    def _check_dims(self, values: Mapping[str, Any]) -> None:
        """Sizes that the model gives one name must be equal."""
        sizes: dict[str, tuple[int, str]] = {}
        for name, value in values.items():
            for label, size in self._inputs[name].named_sizes(value):
                known, first = sizes.setdefault(label, (size, name))
                if known != size:
                    raise nl.errors.FeedError(
                        f"feed {name}",
                        f"the model calls a size {label!r}, which input {first!r} makes {known}",
                        received=f"{size}",
                        advice="Feed inputs of matching sizes",
                        tensor=name,
                    )

    # --- importing
    def _import(self, values: Mapping[str, Any]) -> Imported:
        """The graph for these inputs, each a TensorType, an array, a list of those, or EMPTY."""
        signature = tuple((name, _type_key(v)) for name, v in values.items())
        with self._lock:
            demanded = self._demanded.get(signature, frozenset())
            while True:
                key = (signature, tuple((n, _value_key(values.get(n))) for n in sorted(demanded)))
                found = self._imports.get(key)
                if found is not None:
                    self._imports.move_to_end(key)
                    return found
                try:
                    found = self._translate(values, demanded)
                except NeedsValue as needed:
                    self._check_demand(needed, values, demanded)
                    demanded |= needed.names
                    self._demanded[signature] = demanded
                    continue
                self._imports[key] = found
                if len(self._imports) > CACHE_LIMIT:
                    self._imports.popitem(last=False)
                return found

    def _check_demand(
        self, needed: NeedsValue, values: Mapping[str, Any], demanded: frozenset[str]
    ) -> None:
        for name in sorted(needed.names):
            if name in demanded or not _has_value(values[name]):
                raise nl.errors.FrontendError(
                    f"ONNX model {self.source.name}",
                    f"a shape depends on the value of input {name!r}, which is not given",
                    received=repr(values[name]),
                    advice=f"Give it: load(..., inputs={{{name!r}: array}}), or run the model",
                    tensor=name,
                )

    def _translate(self, values: Mapping[str, Any], demanded: frozenset[str]) -> Imported:
        graph = nl.Graph(self.source.graph.name or "onnx")
        importer = Importer(self.source, graph, trainable=self.trainable)
        inputs: dict[str, Any] = {}
        given: dict[str, Value] = {}
        for name, value in values.items():
            if name in demanded:
                given[name] = _without_types(value)
            else:
                given[name] = self._placeholders(importer, name, name, value)
                if isinstance(given[name], (nl.Tensor, list)):
                    inputs[name] = given[name]
        found = importer.main(given)
        outputs = {n: _output(v) for n, v in found.items()}
        return Imported(graph, inputs, outputs, tuple(importer.updates))

    def _placeholders(self, importer: Importer, source: str, label: str, value: Any) -> Value:
        if isinstance(value, list):
            return [
                self._placeholders(importer, source, f"{label}[{i}]", v)
                for i, v in enumerate(value)
            ]
        if isinstance(value, EmptyOptional):
            return value
        if on_host(value):
            raise NeedsValue(frozenset((source,)))
        made = importer.graph.placeholder(value.shape, value.dtype, name=label)
        importer.placeholders[made] = source
        return made


def _output(value: Value) -> Any:
    return None if isinstance(value, EmptyOptional) else value


def _result(value: Any, computed: Mapping[nl.Tensor, Any]) -> Any:
    if isinstance(value, list):
        return [_result(v, computed) for v in value]
    if isinstance(value, nl.Tensor):
        return computed[value]
    if isinstance(value, np.ndarray) and not on_host(value):
        return nl.TensorData.from_numpy(value)
    return value


def _pairs(inputs: Any, values: Any) -> list[tuple[nl.Tensor, Any]]:
    """Placeholders with the arrays fed for them."""
    if isinstance(inputs, nl.Tensor):
        return [(inputs, values)]
    if isinstance(inputs, Mapping):
        return [p for name, v in inputs.items() for p in _pairs(v, values[name])]
    if isinstance(inputs, list):
        return [p for i, v in zip(inputs, values, strict=True) for p in _pairs(i, v)]
    return []


def _type_key(value: Any) -> Hashable:
    if isinstance(value, list):
        return tuple(_type_key(v) for v in value)
    return None if isinstance(value, EmptyOptional) else (value.shape, str(value.dtype))


def _value_key(value: Any) -> Hashable:
    if isinstance(value, list):
        return tuple(_value_key(v) for v in value)
    if not isinstance(value, np.ndarray):
        return None
    if value.dtype.kind in "OSU":
        return tuple(value.reshape(-1))
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()


def _has_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(_has_value(v) for v in value)
    return isinstance(value, (np.ndarray, EmptyOptional))


def _without_types(value: Any) -> Value:
    return [_without_types(v) for v in value] if isinstance(value, list) else value
