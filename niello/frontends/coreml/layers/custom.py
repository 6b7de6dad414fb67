"""Custom layers, by the implementations that the user gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.custom import CustomLayer, implemented
from niello.frontends.coreml.registry import layer
from niello.frontends.coreml.weights import flat_weights


def _parameter(message: Any) -> Any:
    which = message.WhichOneof("value")
    return getattr(message, which) if which else None


@layer("custom", fold=False)
def custom(at: Layer) -> Any:
    """What the implementation of its class makes of the inputs."""
    p = at.p
    weights: list[np.ndarray] = [flat_weights(w) for w in p.weights]
    inputs = tuple(at.tensors())
    made = CustomLayer(
        class_name=p.className,
        name=at.message.name,
        inputs=inputs,
        named=dict(zip(at.message.input, inputs, strict=False)),
        parameters={name: _parameter(v) for name, v in p.parameters.items()},
        weights=tuple(weights),
        outputs=len(at.message.output),
        graph=at.graph,
    )
    return implemented(at, made, at.network.source.custom[p.className])
