"""Custom layers: their code is outside of the file, so the user gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

import niello as nl


@dataclass(frozen=True)
class CustomLayer:
    """A custom layer (or custom operator of an ML program) as its implementation sees it.

    `inputs` are tensors by place, of float32 in neural networks ([1, 1, C, H, W] where arrays have
    five axes); in programs `named` has them by name. `parameters` are numbers, texts and truth
    values; `weights` flat float32 arrays. `outputs` is how many tensors are wanted.
    """

    class_name: str
    name: str
    inputs: tuple[nl.Tensor, ...]
    named: Mapping[str, Any]
    parameters: Mapping[str, Any]
    weights: tuple[np.ndarray, ...]
    outputs: int
    graph: nl.Graph


Implementation: TypeAlias = Callable[[CustomLayer], nl.Tensor | Sequence[nl.Tensor]]

_REGISTERED: dict[str, Implementation] = {}


def custom_layer(
    class_name: str, *, replace: bool = False
) -> Callable[[Implementation], Implementation]:
    """Register a function as the implementation of custom layers of a class, for every model.

    The function takes a CustomLayer and returns a tensor, or as many as the layer has outputs. For
    one model only, give it to `load(..., custom={class_name: function})`. Raises
    AttributeValueError for a class that has one, without `replace`.

    Example:
        >>> import niello as nl
        >>> from niello.frontends.coreml import custom_layer
        >>> @custom_layer("Swish", replace=True)
        ... def swish(layer):
        ...     x = layer.inputs[0]
        ...     return x * nl.sigmoid(x * layer.parameters.get("beta", 1.0))
    """

    def register(function: Implementation) -> Implementation:
        if class_name in _REGISTERED and not replace:
            raise nl.errors.AttributeValueError(
                "custom_layer",
                "there is an implementation of this class already",
                received=repr(class_name),
                advice="Pass replace=True to take its place",
            )
        _REGISTERED[class_name] = function
        return function

    return register


def implementations(given: Mapping[str, Implementation] | None) -> dict[str, Implementation]:
    """Those that are registered and those of one model, by class. Raises AttributeValueError."""
    for name, function in (given or {}).items():
        if not callable(function):
            raise nl.errors.AttributeValueError(
                "Core ML load",
                f"the implementation of {name!r} is no function",
                received=repr(function),
                advice="Give a function of a CustomLayer",
            )
    return {**_REGISTERED, **(given or {})}


def implemented(
    call: Any, layer: CustomLayer, implementation: Implementation
) -> tuple[nl.Tensor, ...]:
    """What an implementation returns, checked."""
    found: Any = implementation(layer)
    listed = tuple(found) if isinstance(found, (list, tuple)) else (found,)
    if len(listed) != layer.outputs or not all(isinstance(t, nl.Tensor) for t in listed):
        raise call.refuse(
            f"its implementation must return {layer.outputs} tensor(s)",
            ", ".join(type(t).__name__ for t in listed) or "nothing",
            "Return a niello Tensor, or a list of them",
        )
    return listed
