"""Model: an ONNX model that runs, compiles, and becomes graphs for the input types it meets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import AHEAD
from niello.frontends.onnx.reader import Source
from niello.frontends.onnx.signature import Input, inputs_of
from niello.frontends.onnx.stage import Imported, Stage, on_cpu


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
        # The whole model as one graph, and as graphs that may end where a run needs a value.
        self._whole = Stage(source, trainable=trainable)
        self._staged = self._whole if trainable else Stage(source, cuts=True)

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
        return self._whole.imported(given)

    def run(self, feeds: Any = None, *, device: str | None = None) -> dict[str, Any]:
        """Run, and return the outputs by name.

        `feeds` maps input names to arrays (a list of arrays for a sequence, None for an optional
        that is empty), or lists them in the model's order. Raises FeedError for missing, unknown
        or mistyped inputs.
        """
        values = self._fed({} if feeds is None else feeds)
        stage = self._staged
        while True:
            imported = stage.imported(values)
            found = imported.run(values, device)
            if imported.stop is None:
                return found
            values = {n: on_cpu(v) for n, v in found.items() if n not in imported.rest.known}
            if imported.stop.node is not None:
                values |= imported.rest.host(imported.stop, values)
                values = {n: v for n, v in values.items() if not n.startswith(AHEAD)}
            stage = imported.rest

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
        for name, i in self._inputs.items():
            if name not in values and isinstance(i.override, np.ndarray):
                values[name] = i.override  # given at loading
        missing = [n for n, i in self._inputs.items() if n not in values and not i.has_default]
        if missing:
            listed = ", ".join(map(repr, missing))
            raise nl.errors.FeedError(
                f"ONNX model {self.source.name}",
                f"input{'s' if len(missing) > 1 else ''} {listed} must be fed",
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
