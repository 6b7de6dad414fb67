"""Writes ONNX models of networks layer by layer, with random weights from one seed.

Data is [N, C, H, W] as ONNX has it. The builder counts the multiply-adds of convolutions and matrix
products, two operations each: `flops` is what the mathematics needs for one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

OPSET = 20
IR_VERSION = 10


@dataclass(frozen=True)
class Network:
    """A model as the bytes of its file, arrays to feed in order, and operations of one run."""

    name: str
    file: bytes
    inputs: tuple[np.ndarray, ...]
    flops: float = 0.0


class Builder:
    """A model that grows: each method appends nodes and returns the name of its result."""

    def __init__(self, onnx: Any, name: str, seed: int = 0) -> None:
        self.onnx, self.name = onnx, name
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.feeds: list[np.ndarray] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.flops = 0.0

    def feed(self, name: str, value: np.ndarray) -> str:
        """An input of the type of `value`, which is what it will be fed."""
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, kind, value.shape))
        self.feeds.append(value)
        self.shapes[name] = value.shape
        return name

    def constant(self, value: np.ndarray) -> str:
        """A weight."""
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(value, name))
        self.shapes[name] = value.shape
        return name

    def normal(self, shape: Sequence[int], spread: float) -> str:
        """A float32 weight of normally distributed values around 0."""
        return self.constant(self.random.standard_normal(shape, np.float32) * np.float32(spread))

    def node(self, kind: str, inputs: Sequence[str], shape: Sequence[int], **flags: Any) -> str:
        """A node with one result of the given shape."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], **flags))
        self.shapes[name] = tuple(shape)
        return name

    def elementwise(self, kind: str, *inputs: str, **flags: Any) -> str:
        """A node whose result has the broadcast shape of its inputs."""
        shape = np.broadcast_shapes(*(self.shapes[i] for i in inputs))
        return self.node(kind, inputs, shape, **flags)

    def convolution(
        self,
        x: str,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> str:
        """A square convolution, padded so that stride 1 keeps the size of the picture."""
        n, channels, *picture = self.shapes[x]
        pad = size // 2
        height, width = ((s + 2 * pad - size) // stride + 1 for s in picture)
        fan = channels // groups * size**2
        weights = self.normal((outputs, channels // groups, size, size), (2 / fan) ** 0.5)
        operands = [x, weights, *([self.normal((outputs,), 0.01)] if bias else [])]
        self.flops += 2.0 * n * outputs * height * width * fan
        return self.node(
            "Conv",
            operands,
            (n, outputs, height, width),
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=groups,
        )

    def upsampling(self, x: str, outputs: int) -> str:
        """A transposed 2x2 convolution of stride 2 with bias: twice the size."""
        n, channels, height, width = self.shapes[x]
        weights = self.normal((channels, outputs, 2, 2), channels**-0.5)
        operands = [x, weights, self.normal((outputs,), 0.01)]
        self.flops += 2.0 * n * channels * outputs * 4 * height * width
        shape = (n, outputs, 2 * height, 2 * width)
        return self.node("ConvTranspose", operands, shape, kernel_shape=[2, 2], strides=[2, 2])

    def batch_norm(self, x: str, scale: tuple[float, float] = (0.5, 1.0)) -> str:
        """Batch normalisation for inference, whose running statistics are near 0 and 1."""
        channels = self.shapes[x][1]

        def uniform(low: float, high: float) -> str:
            return self.constant(self.random.uniform(low, high, channels).astype(np.float32))

        operands = [uniform(*scale), uniform(-0.1, 0.1), uniform(-0.1, 0.1), uniform(0.8, 1.2)]
        return self.node("BatchNormalization", [x, *operands], self.shapes[x], epsilon=1e-5)

    def max_pool(self, x: str, size: int, pad: int = 0) -> str:
        """The greatest of each square, with stride 2."""
        n, channels, *picture = self.shapes[x]
        shape = (n, channels, *((s + 2 * pad - size) // 2 + 1 for s in picture))
        return self.node(
            "MaxPool", [x], shape, kernel_shape=[size, size], strides=[2, 2], pads=[pad] * 4
        )

    def matmul(self, a: str, b: str) -> str:
        """A matrix product; leading sizes broadcast."""
        (*left, rows, inner), (*right, _, columns) = self.shapes[a], self.shapes[b]
        shape = (*np.broadcast_shapes(tuple(left), tuple(right)), rows, columns)
        self.flops += 2.0 * float(np.prod(shape)) * inner
        return self.node("MatMul", [a, b], shape)

    def dense(self, x: str, outputs: int, spread: float) -> str:
        """A matrix product with weights [inputs, outputs], and a bias."""
        product = self.matmul(x, self.normal((self.shapes[x][-1], outputs), spread))
        return self.elementwise("Add", product, self.normal((outputs,), 0.01))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """The same values in another shape."""
        return self.node("Reshape", [x, self.constant(np.array(shape, np.int64))], shape)

    def transpose(self, x: str, order: Sequence[int]) -> str:
        """Axes in another order."""
        return self.node("Transpose", [x], [self.shapes[x][i] for i in order], perm=list(order))

    def classify(self, x: str, classes: int) -> str:
        """Mean over the picture, then a dense layer."""
        n, channels = self.shapes[x][:2]
        pooled = self.node("GlobalAveragePool", [x], (n, channels, 1, 1))
        flat = self.node("Flatten", [pooled], (n, channels), axis=1)
        weights, bias = self.normal((classes, channels), 0.01), self.normal((classes,), 0.01)
        self.flops += 2.0 * n * channels * classes
        return self.node("Gemm", [flat, weights, bias], (n, classes), transB=1)

    def finish(self, *outputs: str) -> Network:
        """The model with these float32 outputs."""
        helper = self.onnx.helper
        kind = self.onnx.TensorProto.FLOAT
        found = [helper.make_tensor_value_info(o, kind, self.shapes[o]) for o in outputs]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, found, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        self.onnx.checker.check_model(model, full_check=True)
        return Network(self.name, model.SerializeToString(), tuple(self.feeds), self.flops)
