"""Model: a Core ML model that runs, compiles, and becomes graphs for the sizes it meets."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.builder import Builder
from niello.frontends.coreml.features import Input, Output
from niello.frontends.coreml.program import described
from niello.frontends.coreml.reader import Source
from niello.frontends.coreml.translate import check_model, translated

CACHE_LIMIT = 16


@dataclass(frozen=True)
class Imported:
    """A model as one Niello graph, for given input sizes.

    `inputs` and `outputs` are tensors by the model's names; images are pixels (see `Model`), a
    class label is its number, probabilities are a vector in the order of `labels`. `updates` are
    assignments of states (`graph.variables`) that belong to each run.
    """

    graph: nl.Graph
    inputs: Mapping[str, nl.Tensor]
    outputs: Mapping[str, nl.Tensor]
    features: Mapping[str, Output]
    updates: tuple[nl.Operation, ...] = ()

    @cached_property
    def tensors(self) -> tuple[nl.Tensor, ...]:
        """The outputs, each once, in order."""
        return tuple(dict.fromkeys(self.outputs.values()))

    @cached_property
    def placeholders(self) -> tuple[nl.Tensor, ...]:
        """The inputs that the outputs depend on, in order."""
        seen: set[nl.Operation] = set()
        stack = [t.operation for t in self.tensors] + list(self.updates)
        while stack:
            operation = stack.pop()
            if operation not in seen:
                seen.add(operation)
                stack.extend(t.operation for t in operation.inputs)
        return tuple(t for t in self.inputs.values() if t.operation in seen)

    @property
    def labels(self) -> Mapping[str, tuple[Any, ...]]:
        """The class labels of the outputs that have some."""
        return {name: o.labels for name, o in self.features.items() if o.labels}

    def run(self, values: Mapping[str, np.ndarray], device: str | None) -> dict[str, Any]:
        """The outputs by name, for the values of the inputs."""
        fed = {t: values[name] for name, t in self.inputs.items() if t in self.placeholders}
        found = self.graph.run(fed, self.tensors, self.updates, device=device)
        return {name: o.result(found[o.tensor]) for name, o in self.features.items()}


class Model:
    """A Core ML model, made by `load`.

    It is translated once for each set of input sizes. Images are uint8 arrays [height, width, 3]
    of red, green and blue, or [height, width] of gray values, or images of Pillow; arrays have the
    declared shape, doubles as float32. The states of a stateful model are variables of its graphs:
    each run goes on where the last one for these sizes ended, `reset_states` starts again.
    """

    def __init__(
        self, source: Source, inputs: Mapping[str, Any], *, function: str | None = None
    ) -> None:
        self.source = source
        self.function = function
        check_model(source, source.spec)
        self._description = described(source, source.spec, function)
        self._inputs = {f.name: Input(f) for f in self._description.input}
        self._given = {name: self._input(name).fixed(v) for name, v in inputs.items()}
        self._lock = threading.RLock()
        self._imports: OrderedDict[Any, Imported] = OrderedDict()

    @property
    def inputs(self) -> dict[str, nl.TensorType]:
        """The type of each input, with None for sizes known only at run time."""
        return {name: self._given.get(name, i.type) for name, i in self._inputs.items()}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(f.name for f in self._description.output)

    @property
    def metadata(self) -> dict[str, str]:
        """What the author says: short description, version, author, licence, and own entries."""
        m = self.source.spec.description.metadata
        named = {
            "description": m.shortDescription, "version": m.versionString,
            "author": m.author, "license": m.license,
        }  # fmt: skip
        return {k: v for k, v in named.items() if v} | dict(m.userDefined)

    @property
    def imported(self) -> Imported:
        """The graph for the declared input sizes."""
        return self.specialise()

    @property
    def graph(self) -> nl.Graph:
        """The graph for the declared input sizes."""
        return self.imported.graph

    def specialise(self, inputs: Mapping[str, Any] | None = None) -> Imported:
        """The model as a graph for these sizes: a TensorType, a shape or an array for each input.

        Raises FrontendError for sizes that the model leaves open and that are not given.
        """
        asked = {n: self._input(n).fixed(v) for n, v in (inputs or {}).items()}
        types: dict[str, nl.TensorType] = {}
        for name, declared in self.inputs.items():
            types[name] = asked.get(name, declared)
            if not types[name].is_static:
                raise nl.errors.FrontendError(
                    f"Core ML model {self.source.name}",
                    f"input {name!r} has sizes that the model leaves open",
                    received=repr(types[name]),
                    advice=f"Give them: load(..., inputs={{{name!r}: shape}}), or run the model",
                    tensor=name,
                )
        return self._imported(types)

    def _imported(self, types: Mapping[str, nl.TensorType]) -> Imported:
        key = tuple((n, t.shape) for n, t in types.items())
        with self._lock:
            found = self._imports.get(key)
            if found is None:
                found = self._imports[key] = self._translated(types)
                if len(self._imports) > CACHE_LIMIT:
                    self._imports.popitem(last=False)
            self._imports.move_to_end(key)
            return found

    def _translated(self, types: Mapping[str, nl.TensorType]) -> Imported:
        graph = nl.Graph("coreml")
        builder = Builder(graph)
        builder.function = self.function
        inputs = {n: graph.placeholder(t.shape, t.dtype, name=n) for n, t in types.items()}
        features = translated(self.source, self.source.spec, builder, inputs)
        outputs = {name: o.tensor for name, o in features.items()}
        return Imported(graph, inputs, outputs, features, tuple(builder.updates))

    def reset_states(self) -> None:
        """Start states again from zeros."""
        with self._lock:
            for imported in self._imports.values():
                for variable in imported.graph.variables:
                    variable.value = np.zeros(variable.type.static_shape, variable.dtype.numpy)

    def run(self, feeds: Any = None, *, device: str | None = None) -> dict[str, Any]:
        """Run, and return the outputs by name.

        Class probabilities are a dictionary by label, class labels text or an integer, all else
        arrays. `feeds` maps input names to values, or lists them in the model's order; optional
        inputs may be left out. Raises FeedError for missing, unknown or mistyped inputs.
        """
        values = self._fed({} if feeds is None else feeds)
        types = {n: nl.TensorType(v.shape, self._inputs[n].type.dtype) for n, v in values.items()}
        return self._imported(types).run(values, device)

    def compile(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        device: str | None = None,
        options: nl.CompileOptions | None = None,
    ) -> nl.Executable:
        """An executable for these input sizes (see `specialise`): it takes the model's inputs and
        returns its outputs in their order."""
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
                f"Core ML model {self.source.name}",
                f"has no input {name!r}",
                received=repr(name),
                advice=f"Its inputs are {', '.join(map(repr, self._inputs)) or 'none'}",
                superfluous=[name],
            )
        return found

    def _fed(self, feeds: Any) -> dict[str, np.ndarray]:
        if not isinstance(feeds, Mapping):
            if not isinstance(feeds, Sequence) or len(feeds) > len(self._inputs):
                raise nl.errors.FeedError(
                    f"Core ML model {self.source.name}",
                    f"takes a mapping of names, or a list of at most {len(self._inputs)} values",
                    received=type(feeds).__name__,
                )
            feeds = dict(zip(self._inputs, feeds, strict=False))
        values = {name: self._input(name).fed(value) for name, value in feeds.items()}
        missing = [n for n, i in self._inputs.items() if n not in values and not i.optional]
        if missing:
            listed = ", ".join(map(repr, missing))
            raise nl.errors.FeedError(
                f"Core ML model {self.source.name}",
                f"input{'s' if len(missing) > 1 else ''} {listed} must be fed",
                received=f"feeds for {', '.join(map(repr, feeds)) or 'nothing'}",
                advice=f"Feed {', '.join(f'{n}: {self._inputs[n].type}' for n in missing)}",
                missing=missing,
            )
        return {n: values[n] if n in values else i.default() for n, i in self._inputs.items()}
