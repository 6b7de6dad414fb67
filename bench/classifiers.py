"""Whole image classifiers, one image of 224 x 224: ResNet-50, MobileNetV2, and ResNeXt-50.

Weights are random and known when the network is compiled; batch normalisation is folded into them,
as exporters do. All take NCHW images, as ONNX models have them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.harness import OPENVINO, ORT, Plan, Row, Target, Work, measure
from bench.libraries import niello_executable, onnx_model, onnxruntime_session, openvino_model
from bench.limits import aligned

CLASSES = 1000
PIXELS = 224


class Builder:
    """Writes a network down in one library's terms; tensors are whatever that library has."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.shapes: dict[Any, tuple[int, ...]] = {}

    def weights(self, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
        """Weights that keep the variance of what they multiply, times a scale."""
        fan_in = int(np.prod(shape[1:]))
        values = self.random.standard_normal(shape, dtype=np.float32)
        return values * np.float32(scale * (2.0 / fan_in) ** 0.5)

    def conv(
        self, x: Any, outputs: int, kernel: int, stride: int = 1, groups: int = 1, scale: float = 1
    ) -> Any:
        """A convolution with bias; an odd kernel's half is the padding."""
        batch, inputs, size, _ = self.shapes[x]
        w = self.weights((outputs, inputs // groups, kernel, kernel), scale)
        bias = self.random.standard_normal(outputs, dtype=np.float32) * np.float32(0.1)
        made = self.convolution(x, w, bias, stride, kernel // 2, groups)
        result = (size + 2 * (kernel // 2) - kernel) // stride + 1
        self.shapes[made] = (batch, outputs, result, result)
        return made

    def same(self, x: Any, made: Any) -> Any:
        self.shapes[made] = self.shapes[x]
        return made

    def act(self, x: Any) -> Any:
        return self.same(x, self.relu(x))

    def act6(self, x: Any) -> Any:
        return self.same(x, self.relu6(x))

    def plus(self, x: Any, y: Any) -> Any:
        return self.same(x, self.add(x, y))

    def pool(self, x: Any) -> Any:
        """Maxima of 3x3 windows, stride 2."""
        batch, channels, size, _ = self.shapes[x]
        made = self.max_pool(x)
        self.shapes[made] = (batch, channels, size // 2, size // 2)
        return made

    def head(self, x: Any) -> Any:
        """The mean over pixels and a dense layer."""
        channels = self.shapes[x][1]
        w, b = self.weights((CLASSES, channels)), np.zeros(CLASSES, np.float32)
        return self.dense(self.mean(x), w, b)

    # what a library provides
    convolution: Callable[..., Any]
    relu: Callable[[Any], Any]
    relu6: Callable[[Any], Any]
    add: Callable[[Any, Any], Any]
    max_pool: Callable[[Any], Any]
    mean: Callable[[Any], Any]
    dense: Callable[..., Any]


class NielloBuilder(Builder):
    """Niello's functions on data and weights with channels first."""

    def __init__(self, nl: Any) -> None:
        super().__init__()
        self.nl = nl

    def convolution(
        self, x: Any, w: np.ndarray, b: np.ndarray, stride: int, padding: int, groups: int
    ) -> Any:
        y = self.nl.conv2d(x, w, strides=stride, padding=padding, groups=groups)
        return y + b.reshape(1, -1, 1, 1)

    def relu(self, x: Any) -> Any:
        return self.nl.relu(x)

    def relu6(self, x: Any) -> Any:
        return self.nl.clamp(x, 0.0, 6.0)

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def max_pool(self, x: Any) -> Any:
        return self.nl.max_pool2d(x, 3, strides=2, padding=1)

    def mean(self, x: Any) -> Any:
        return self.nl.mean(x, axes=(2, 3))

    def dense(self, x: Any, w: np.ndarray, b: np.ndarray) -> Any:
        weights = x.graph.constant(w)
        return self.nl.matmul(x, weights.transpose((1, 0))) + b


class OnnxBuilder(Builder):
    """Nodes of an ONNX graph; tensors are names."""

    def __init__(self, onnx: Any) -> None:
        super().__init__()
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def node(self, kind: str, inputs: list[Any], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, names, [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def convolution(
        self, x: str, w: np.ndarray, b: np.ndarray, stride: int, padding: int, groups: int
    ) -> str:
        sizes = {"strides": [stride] * 2, "pads": [padding] * 4, "group": groups}
        return self.node("Conv", [x, w, b], **sizes)

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def relu6(self, x: str) -> str:
        return self.node("Clip", [x, np.float32(0.0), np.float32(6.0)])

    def add(self, x: str, y: str) -> str:
        return self.node("Add", [x, y])

    def max_pool(self, x: str) -> str:
        return self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def mean(self, x: str) -> str:
        return self.node("Flatten", [self.node("GlobalAveragePool", [x])])

    def dense(self, x: str, w: np.ndarray, b: np.ndarray) -> str:
        return self.node("Gemm", [x, w, b], transB=1)


def resnet50(net: Builder, x: Any, groups: int = 1) -> Any:
    """He and others 2015, with the stride in the 3x3 convolution; with 32 groups, ResNeXt-50."""
    x = net.pool(net.act(net.conv(x, 64, 7, 2)))
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = (64 if groups == 1 else 128) << stage
        outputs = 256 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            short = x if block else net.conv(x, outputs, 1, stride)
            y = net.act(net.conv(x, width, 1))
            y = net.act(net.conv(y, width, 3, stride, groups))
            # Small residuals, as after training, keep 16 blocks from growing without bounds.
            x = net.act(net.plus(net.conv(y, outputs, 1, scale=0.3), short))
    return net.head(x)


def resnext50(net: Builder, x: Any) -> Any:
    """Xie and others 2016: 32 groups of 4 channels."""
    return resnet50(net, x, 32)


def mobilenet_v2(net: Builder, x: Any) -> Any:
    """Sandler and others 2018, width 1."""
    x = net.act6(net.conv(x, 32, 3, 2))
    plan = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    )  # fmt: skip
    for expand, outputs, blocks, stride in plan:
        for block in range(blocks):
            inputs = net.shapes[x][1]
            y, wide = x, inputs * expand
            if expand > 1:
                y = net.act6(net.conv(y, wide, 1))
            y = net.act6(net.conv(y, wide, 3, 1 if block else stride, groups=wide))
            y = net.conv(y, outputs, 1)
            x = net.plus(x, y) if block else y
    return net.head(net.act6(net.conv(x, 1280, 1)))


NETWORKS = {"ResNet-50": resnet50, "MobileNetV2": mobilenet_v2, "ResNeXt-50": resnext50}


def network_work(name: str) -> Work:
    """A network on one image, into a reused result."""
    function = NETWORKS[name]
    shape = (1, 3, PIXELS, PIXELS)
    image = aligned(shape, np.random.default_rng(1).standard_normal(shape, dtype=np.float32))

    def build(nl: Any, x: Any) -> Any:
        net = NielloBuilder(nl)
        net.shapes[x] = shape
        return function(net, x)

    def model(onnx: Any) -> Any:
        net = OnnxBuilder(onnx)
        net.shapes["x"] = shape
        y = function(net, "x")
        return onnx_model(onnx, net.nodes, {"x": shape}, (y, (1, CLASSES)), net.constants)

    contenders = (
        niello_executable(build, [image], reuse=True),
        onnxruntime_session(model, [image], reuse=True),
        openvino_model(model, [image]),
    )
    return Work(
        f"{name}, one image",
        contenders,
        rtol=2e-3,
        atol=2e-3,
        targets=(Target(1.0, (ORT, OPENVINO)),),
    )


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All networks."""
    return [measure("classifiers", network_work(name), plan, without) for name in NETWORKS]
