"""Stage: a model's graph from some node on, translated for the types that it meets.

A run may need a value before the graph can go on: the input of an operator that runs on the host,
or what decides a shape. Where computing it takes more than a few operations, the graph ends there:
a first stage computes that value and all that is still needed, the rest is translated for the types
(and the values that decide shapes) that came out. Both are kept, so that later runs only play them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.importer import Importer, NeedsValue, Stop, needed_inputs, tensors_in
from niello.frontends.onnx.reader import Source
from niello.frontends.onnx.values import EMPTY, EmptyOptional, Labels, Maps, Value, on_host

CACHE_LIMIT = 64


@dataclass(frozen=True)
class Imported:
    """A model as one Niello graph, for given input types.

    `inputs` holds placeholders by the model's names (a list of them for a sequence), `outputs`
    tensors by name: arrays where the value is known already, lists for sequences, None for an
    empty optional. `updates` are assignments that belong to each run: states of random generators.
    In the middle of a run, `outputs` are what is still needed, and `rest` is the stage after it.
    """

    graph: nl.Graph
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    updates: tuple[nl.Operation, ...] = ()
    stop: Stop | None = None
    rest: Any = None  # the Stage that follows

    @cached_property
    def tensors(self) -> tuple[nl.Tensor, ...]:
        """The tensors among the outputs, each once, in order."""
        return tuple(dict.fromkeys(t for v in self.outputs.values() for t in tensors_in(v)))

    @cached_property
    def placeholders(self) -> tuple[nl.Tensor, ...]:
        """The placeholders that the outputs depend on, in the order of the inputs."""
        return self._behind(self.tensors)

    @cached_property
    def _fed(self) -> tuple[nl.Tensor, ...]:
        """Those that something is computed from."""
        return self._behind(t for t in self.tensors if t not in self._inputs)

    @cached_property
    def _inputs(self) -> dict[nl.Tensor, str]:
        return {t: name for name, v in self.inputs.items() for t in tensors_in(v)}

    def _behind(self, tensors: Iterable[nl.Tensor]) -> tuple[nl.Tensor, ...]:
        updated = [t for o in self.updates for t in o.inputs]
        needed = needed_inputs([*tensors, *updated], self._inputs)
        return tuple(t for t in self._inputs if t in needed)

    def run(self, values: Mapping[str, Any], device: str | None) -> dict[str, Any]:
        """The outputs by name, for the values of the inputs."""
        arrays = dict(_pairs(self.inputs, values))
        targets = tuple(t for t in self.tensors if t not in arrays)
        computed: dict[nl.Tensor, Any] = {}
        if targets or self.updates:
            fed = {t: arrays[t] for t in self._fed}
            computed.update(self.graph.run(fed, targets, self.updates, device=device))
        for t in self.tensors:
            if t in arrays:
                computed[t] = nl.TensorData.from_numpy(arrays[t])
        return self.results(computed)

    def results(self, computed: Mapping[nl.Tensor, Any]) -> dict[str, Any]:
        """The model's outputs by name, given the values of `tensors`."""
        return {name: _result(v, computed) for name, v in self.outputs.items()}


class Stage:
    """The model's graph from node number `start` on, as graphs for the inputs that it met.

    `known` are values from the stages before, `demanded` inputs whose values decide shapes, and
    `cuts` says whether the graph may end before what needs a value.
    """

    def __init__(
        self,
        source: Source,
        *,
        start: int = 0,
        known: Mapping[str, Any] | None = None,
        demanded: frozenset[str] = frozenset(),
        trainable: bool = False,
        cuts: bool = False,
    ) -> None:
        self.source = source
        self.start = start
        self.known = dict(known or {})
        self.trainable = trainable
        self.cuts = cuts
        self._first = demanded
        self._lock = threading.RLock()
        self._imports: OrderedDict[Hashable, Imported] = OrderedDict()
        self._demanded: dict[Hashable, frozenset[str]] = {}

    def imported(self, values: Mapping[str, Any]) -> Imported:
        """The graph for these inputs, each a TensorType, an array, a list of those, or EMPTY."""
        signature = tuple((name, _type_key(v)) for name, v in values.items())
        with self._lock:
            demanded = self._demanded.get(signature, self._first)
            self._check_values(demanded, values)
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
        self._check_values(needed.names, {n: v for n, v in values.items() if n not in demanded})

    def _check_values(self, names: frozenset[str], values: Mapping[str, Any]) -> None:
        for name in sorted(names):
            if not _has_value(values.get(name)):
                raise nl.errors.FrontendError(
                    f"ONNX model {self.source.name}",
                    f"a shape depends on the value of input {name!r}, which is not given",
                    received=repr(values.get(name)),
                    advice=f"Give it: load(..., inputs={{{name!r}: array}}), or run the model",
                    tensor=name,
                )

    def _translate(self, values: Mapping[str, Any], demanded: frozenset[str]) -> Imported:
        weights: tuple[str, ...] = ()
        if self.trainable:  # which float weights are tensors, and not settings, is seen by trying
            trial = Importer(self.source, nl.Graph(), trainable=True)
            self._imported_by(trial, values, demanded)
            weights = tuple(trial.used)
        graph = nl.Graph(self.source.graph.name or "onnx")
        importer = Importer(
            self.source, graph, trainable=self.trainable, weights=weights, cuts=self.cuts
        )
        return self._imported_by(importer, values, demanded)

    def _imported_by(
        self, importer: Importer, values: Mapping[str, Any], demanded: frozenset[str]
    ) -> Imported:
        inputs: dict[str, Any] = {}
        given: dict[str, Value] = {}
        for name, value in values.items():
            if name in demanded:
                given[name] = _without_types(value)
            else:
                given[name] = self._placeholders(importer, name, name, value)
                if isinstance(given[name], (nl.Tensor, list)):
                    inputs[name] = given[name]
        found, stop = importer.main({**self.known, **given}, self.start)
        outputs = {n: _output(v) for n, v in found.items()}
        rest = None if stop is None else self._following(found, stop)
        return Imported(importer.graph, inputs, outputs, tuple(importer.updates), stop, rest)

    def _following(self, live: Mapping[str, Value], stop: Stop) -> Stage:
        """The stage after a stop: behind the node that the host runs, or with known values."""
        known = {n: v for n, v in live.items() if isinstance(v, np.ndarray)}
        start = stop.index + (stop.node is not None)
        return Stage(self.source, start=start, known=known, demanded=stop.names, cuts=True)

    def host(self, stop: Stop, values: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs of the node at a stop, which runs on the host."""
        importer = Importer(self.source, nl.Graph())
        return importer.single(stop.node, {**self.known, **values})

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
    if isinstance(value, Labels):
        return value.made(computed[value.places].numpy())
    if isinstance(value, Maps):
        return value.made(computed[value.scores].numpy())
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
    return None if isinstance(value, EmptyOptional) else (value.shape, value.dtype.name)


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


def on_cpu(value: Any) -> Any:
    """A result of one stage as the next one takes it."""
    if isinstance(value, list):
        return [on_cpu(v) for v in value]
    if value is None:
        return EMPTY
    return value.numpy() if isinstance(value, nl.TensorData) else value
