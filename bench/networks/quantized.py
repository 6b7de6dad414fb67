"""Networks in 8 bits: ONNX models with each result quantized and dequantized again.

Written by ONNX Runtime's quantization, which runs the model once to see the range of each tensor:
bytes without a sign between layers, weights with a scale for each output channel.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.libraries import import_peer
from bench.networks.onnx_builder import Network


def quantized(make: Callable[[Any], Network], onnx: Any) -> Network:
    """The network that `make` builds, in 8 bits. Raises Missing without ONNX Runtime."""
    tools = import_peer("onnxruntime.quantization")
    shapes = import_peer("onnxruntime.quantization.shape_inference")
    network = make(onnx)
    names = [i.name for i in onnx.load_from_string(network.file).graph.input]
    feeds = dict(zip(names, network.inputs, strict=True))
    logging.getLogger().setLevel(logging.ERROR)  # its advice is about files of its own making
    with tempfile.TemporaryDirectory() as folder:
        plain, folded, small = (Path(folder) / f"{n}.onnx" for n in ("plain", "folded", "small"))
        plain.write_bytes(network.file)
        shapes.quant_pre_process(plain, folded, skip_symbolic_shape=True)
        tools.quantize_static(
            folded,
            small,
            _samples(tools, feeds),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
        return Network(f"{network.name} int8", small.read_bytes(), network.inputs, network.flops)


def _samples(tools: Any, feeds: dict[str, np.ndarray]) -> Any:
    """What the quantization reads: one set of inputs."""
    left = iter([feeds])
    reader = type("Samples", (tools.CalibrationDataReader,), {"get_next": lambda self: None})()
    reader.get_next = partial(next, left, None)
    return reader
