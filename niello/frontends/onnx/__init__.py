"""ONNX in and out: `load` makes a model that runs from a file, `export` writes a graph as one.

Needs the package `onnx` (the extra `niello[onnx]`), which is imported when it is first used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from niello.frontends.onnx.exporter import export
from niello.frontends.onnx.model import Model
from niello.frontends.onnx.reader import Source
from niello.frontends.onnx.stage import Imported


def load(
    model: str | os.PathLike[str] | bytes | Any,
    *,
    inputs: Mapping[str, Any] | None = None,
    trainable: bool = False,
) -> Model:
    """Read an ONNX model: a path, the bytes of a file, or a ModelProto.

    `inputs` gives sizes that the model leaves open, or values that decide shapes: a TensorType, a
    shape, or an array by input name. With `trainable`, float weights are variables of the graph
    (`model.graph.variables`, under the model's names) instead of constants.

    Raises FrontendError for files that are no ONNX models, operators without a translation (all
    named at once), unknown operator sets, and weights that are missing, too short, or outside of
    the model's folder; FeedError for unknown or mistyped `inputs`.

    Example:
        >>> import numpy as np
        >>> from onnx import TensorProto, helper
        >>> from niello.frontends.onnx import load
        >>> x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
        >>> y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
        >>> graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "g", [x], [y])
        >>> model = load(helper.make_model(graph), inputs={"x": (4,)})
        >>> model.imported.outputs["y"].shape
        (4,)
    """
    return Model(Source(model), inputs or {}, trainable=trainable)


__all__ = ["Imported", "Model", "export", "load"]
