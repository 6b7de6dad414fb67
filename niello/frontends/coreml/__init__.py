"""Core ML in: `load` makes a model that runs from a .mlmodel file or a .mlpackage folder.

Needs the package `coremltools` (the extra `niello[coreml]`) for the messages of the file format,
which are imported when they are first used; it runs anywhere, not only on a Mac.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from niello.frontends.coreml.custom import CustomLayer, Implementation, custom_layer
from niello.frontends.coreml.model import Imported, Model
from niello.frontends.coreml.reader import Source


def load(
    model: str | os.PathLike[str] | bytes | Any,
    *,
    inputs: Mapping[str, Any] | None = None,
    function: str | None = None,
    custom: Mapping[str, Implementation] | None = None,
) -> Model:
    """Read a Core ML model: a path, the bytes of a .mlmodel file, or a Model message.

    `inputs` gives sizes that the model leaves open: a TensorType, a shape, or an array by input
    name. `function` names one of several functions of an ML program. `custom` gives the code of
    custom layers (and of custom operators) by class: functions of a CustomLayer; `custom_layer`
    registers one for every model.

    Raises FrontendError for files that are no Core ML models or damaged ones, for layers and
    operators without a translation (all named at once, custom layers without code among them), and
    for missing weights; FeedError for unknown or mistyped `inputs`.

    Example:
        >>> from coremltools.proto import Model_pb2
        >>> from niello.frontends.coreml import load
        >>> spec = Model_pb2.Model(specificationVersion=1)
        >>> for feature in (spec.description.input.add(), spec.description.output.add()):
        ...     feature.type.multiArrayType.shape.append(3)
        ...     feature.type.multiArrayType.dataType = 65568
        >>> spec.description.input[0].name, spec.description.output[0].name = "x", "y"
        >>> layer = spec.neuralNetwork.layers.add(name="relu", input=["x"], output=["y"])
        >>> layer.activation.ReLU.SetInParent()
        >>> load(spec).run({"x": [-1.0, 0.0, 2.0]})["y"].numpy()
        array([0., 0., 2.], dtype=float32)
    """
    return Model(Source(model, custom), inputs or {}, function=function)


__all__ = ["CustomLayer", "Imported", "Model", "custom_layer", "load"]
