"""Small ONNX models for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSET = 21


def tensor(name: str, shape: Sequence[Any] | None, kind: int = TensorProto.FLOAT) -> Any:
    """A named tensor type; strings in the shape name sizes."""
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[str | Any],
    *,
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = OPSET,
    domains: Mapping[str, int] | None = None,
    functions: Sequence[Any] = (),
) -> ModelProto:
    """A model of these nodes; outputs that are only named get any type."""
    listed = [helper.make_empty_tensor_value_info(o) if isinstance(o, str) else o for o in outputs]
    initializers = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "test", list(inputs), listed, initializers)
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(d, v) for d, v in (domains or {}).items()]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


node = helper.make_node
