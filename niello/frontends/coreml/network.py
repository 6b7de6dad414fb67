"""Network: walks the layers of a neural network and builds a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml import layers as _layers  # noqa: F401  (registers the translations)
from niello.frontends.coreml.builder import Builder, Value, foldable, show
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.reader import Source, check_supported
from niello.frontends.coreml.registry import LAYERS


def all_layers(network: Any) -> Iterator[Any]:
    """The layers of a network and of the networks inside its branches and loops."""
    for message in network.layers:
        yield message
        kind = message.WhichOneof("layer")
        if kind == "branch":
            yield from all_layers(message.branch.ifBranch)
            yield from all_layers(message.branch.elseBranch)
        elif kind == "loop":
            yield from all_layers(message.loop.conditionNetwork)
            yield from all_layers(message.loop.bodyNetwork)


def check(source: Source, network: Any) -> None:
    """Refuse a network with layers that have no translation, naming them all."""

    def kind(message: Any) -> str:
        found = str(message.WhichOneof("layer"))
        return f"custom:{message.custom.className}" if found == "custom" else found

    def known(name: str) -> bool:
        if name.startswith("custom:"):
            return name.removeprefix("custom:") in source.custom
        return name in LAYERS

    check_supported(source, ((kind(m), m.name) for m in all_layers(network)), known, "layers")


class Network:
    """Builds the graph of a network. `rank5`: arrays have [sequence, batch, C, H, W]."""

    def __init__(self, source: Source, network: Any, builder: Builder) -> None:
        self.source = source
        self.network = network
        self.builder = builder
        self.rank5 = network.arrayInputShapeMapping == 0

    def build(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """All values by name, from those of the inputs."""
        found = dict(values)
        self.run(self.network.layers, found)
        return found

    def run(self, layers: Sequence[Any], values: dict[str, Value]) -> bool:
        """Translate layers, noting their outputs in `values`; whether one ended them early."""
        for i, message in enumerate(layers):
            inputs = [self._wanted(n, values, message) for n in message.input]
            call = Layer(self.builder, message, inputs, self)
            call.scope, call.rest = values, layers[i + 1 :]
            outputs = self._translated(call)
            if len(outputs) < len(message.output):
                raise call.refuse(f"has {len(outputs)} outputs", f"{len(message.output)} names")
            values.update(zip(message.output, outputs, strict=False))
            if call.stopped:
                return True
        return False

    def _wanted(self, name: str, values: Mapping[str, Value], message: Any) -> Value:
        if name not in values:
            raise nl.errors.FrontendError(
                f"Core ML layer {message.name!r}",
                f"its input {name!r} is computed by no layer before it",
                received=repr(name),
                advice="The file is not a valid model",
            )
        return values[name]

    def _translated(self, call: Layer) -> tuple[Value, ...]:
        translation = LAYERS[call.kind]
        fold = translation.fold and foldable(call.inputs)
        found = guarded(call, translation.translate, fold, call.inputs)
        return found if isinstance(found, tuple) else (found,)


def guarded(call: Any, translate: Any, fold: bool, inputs: Any) -> Any:
    """Translate, with errors that name the layer; what is known is computed at once."""
    try:
        with call.graph.name_scope(_scope_name(call)):
            return call.builder.folded(translate, call) if fold else translate(call)
    except nl.errors.FrontendError:
        raise
    except nl.errors.NielloError as error:
        error.asked = f"{call.title}: {error.asked}"
        error.where = ""
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        received = ", ".join(show(v) for v in inputs) or "no inputs"
        raise call.refuse(
            f"its parameters and inputs do not fit together: {type(error).__name__}: {error}",
            received,
            "The file is not a valid model",
        ) from error


def _scope_name(call: Any) -> str:
    raw = call.message.name if hasattr(call.message, "name") else ""
    return ".".join(part for part in raw.split("/") if part) or str(call.kind)


def in_rank5(x: nl.Tensor) -> nl.Tensor:
    """An array as networks of rank five hold it: [sequence, batch, C, H, W]."""
    shape = tuple(x.shape or ())
    if len(shape) == 1:
        return nl.reshape(x, (1, 1, shape[0], 1, 1))
    if len(shape) <= 5 and None not in shape:
        return nl.reshape(x, ((1,) * (5 - len(shape)) + shape))
    return x


def as_declared(x: nl.Tensor, shape: tuple[int, ...]) -> nl.Tensor:
    """An output in the shape that the model declares, or without leading axes of one."""
    found = tuple(d for d in x.shape or () if d is not None)
    if shape and int(np.prod(shape)) == int(np.prod(found)):
        return nl.reshape(x, shape)
    while len(found) > 3 and found[0] == 1:
        found = found[1:]
    return nl.reshape(x, found)
