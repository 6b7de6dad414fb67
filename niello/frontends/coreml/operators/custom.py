"""Custom operators, by the implementations that the user gives."""

from __future__ import annotations

from typing import Any

import niello as nl
from niello.frontends.coreml.custom import CustomLayer, implemented
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import Translation


def custom(at: Op) -> Any:
    """What the implementation of its type makes of the inputs."""
    tensors = {n: v for n, v in at.inputs.items() if isinstance(v, nl.Tensor)}
    made = CustomLayer(
        class_name=at.kind,
        name=at.name,
        inputs=tuple(tensors.values()),
        named=dict(at.inputs),
        parameters={n: v for n, v in at.inputs.items() if n not in tensors},
        weights=(),
        outputs=len(at.message.outputs),
        graph=at.graph,
    )
    return implemented(at, made, at.program.source.custom[at.kind])


CUSTOM = Translation(custom, fold=False)
