"""Convolutions of known weights with bias and ReLU, one image: the layers of image classifiers.

Each peer works in the layout of its model format: ONNX Runtime and OpenVINO take NCHW and reorder
inside. Niello appears twice, with NHWC data and, as an imported ONNX model would have it, NCHW.
A row is named by the network and the number of times the network has the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.harness import OPENVINO, ORT, Contender, Plan, Row, Target, Work, measure
from bench.libraries import niello_executable, onnx_model, onnxruntime_session, openvino_model
from bench.limits import aligned

PEERS = (ORT, OPENVINO)


@dataclass(frozen=True)
class Layer:
    """A square convolution; `pixels` counts the input's rows, `times` its uses in `network`."""

    network: str
    times: int
    kernel: int
    inputs: int
    outputs: int
    pixels: int
    stride: int = 1
    groups: int = 1
    residual: bool = False  # adds a tensor of the result's shape before the ReLU
    images: int = 1

    @property
    def result(self) -> int:
        """Rows of the result."""
        return (self.pixels + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def flops(self) -> float:
        """Multiplications and additions, without those of the padding."""
        taps = sum(
            0 <= row * self.stride + tap - self.padding < self.pixels
            for row in range(self.result)
            for tap in range(self.kernel)
        )
        return 2.0 * self.images * taps**2 * (self.inputs // self.groups) * self.outputs

    @property
    def bytes(self) -> float:
        """Data, weights and result, each once."""
        data = self.images * self.pixels**2 * self.inputs
        result = self.images * self.result**2 * self.outputs * (1 + self.residual)
        weights = self.kernel**2 * self.inputs // self.groups * self.outputs
        return 4.0 * (data + result + weights)

    def __str__(self) -> str:
        shape = f"{self.kernel}x{self.kernel} {self.inputs}-{self.outputs} at {self.pixels}"
        parts = [shape]
        if self.stride > 1:
            parts.append(f"stride {self.stride}")
        if self.groups > 1:
            parts.append("depthwise" if self.groups == self.inputs else f"{self.groups} groups")
        if self.residual:
            parts.append("+ residual")
        return f"{self.network} {self.times}x: {' '.join(parts)}"


def _resnet50() -> list[Layer]:
    net = "ResNet-50"
    layers = [Layer(net, 1, 7, 3, 64, 224, 2), Layer(net, 1, 1, 64, 64, 56)]
    width, pixels, inputs = 64, 56, 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        stride = 1 if stage == 0 else 2
        before = pixels * stride
        if stage:
            layers.append(Layer(net, 1, 1, inputs, width, before))
            layers.append(Layer(net, 1, 3, width, width, before, 2))
        layers.append(Layer(net, 1, 1, inputs, 4 * width, before, stride))  # the shortcut
        layers.append(Layer(net, blocks - 1, 1, 4 * width, width, pixels))
        layers.append(Layer(net, blocks - (stage > 0), 3, width, width, pixels))
        layers.append(Layer(net, blocks, 1, width, 4 * width, pixels, residual=True))
        inputs, width, pixels = 4 * width, 2 * width, pixels // 2
    return layers


def _mobilenet() -> list[Layer]:
    net = "MobileNetV2"
    depthwise = [
        (1, 32, 112, 1), (1, 96, 112, 2), (1, 144, 56, 1), (1, 144, 56, 2), (2, 192, 28, 1),
        (1, 192, 28, 2), (4, 384, 14, 1), (2, 576, 14, 1), (1, 576, 14, 2), (3, 960, 7, 1),
    ]  # fmt: skip
    wide = [
        (1, 32, 16, 112), (1, 16, 96, 112), (1, 96, 24, 56), (2, 24, 144, 56), (1, 144, 32, 28),
        (3, 32, 192, 28), (2, 192, 32, 28), (1, 192, 64, 14), (4, 64, 384, 14), (3, 384, 64, 14),
        (1, 384, 96, 14), (3, 96, 576, 14), (2, 576, 96, 14), (1, 576, 160, 7), (3, 160, 960, 7),
        (2, 960, 160, 7), (1, 960, 320, 7), (1, 320, 1280, 7),
    ]  # fmt: skip
    found = [Layer(net, 1, 3, 3, 32, 224, 2)]
    found += [Layer(net, n, 3, c, c, size, s, groups=c) for n, c, size, s in depthwise]
    found += [Layer(net, n, 1, a, b, size) for n, a, b, size in wide]
    return found


def _resnext() -> list[Layer]:
    stages = ((3, 128, 56), (3, 256, 28), (5, 512, 14), (2, 1024, 7))
    return [Layer("ResNeXt-50", n, 3, c, c, size, groups=32) for n, c, size in stages]


LAYERS = (*_resnet50(), *_mobilenet(), *_resnext())


def _random(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return aligned(shape, values * np.float32(scale))


def _onnx(layer: Layer, weights: np.ndarray, bias: np.ndarray) -> Any:
    def model(onnx: Any) -> Any:
        node = onnx.helper.make_node
        p, s = layer.padding, layer.stride
        conv = node(
            "Conv", ["x", "w", "b"], ["sum"], pads=[p] * 4, strides=[s, s], group=layer.groups
        )
        nodes, last = [conv], "sum"
        result = (layer.images, layer.outputs, layer.result, layer.result)
        inputs = {"x": (layer.images, layer.inputs, layer.pixels, layer.pixels)}
        if layer.residual:
            nodes.append(node("Add", ["sum", "r"], ["added"]))
            inputs["r"], last = result, "added"
        nodes.append(node("Relu", [last], ["y"]))
        return onnx_model(onnx, nodes, inputs, ("y", result), {"w": weights, "b": bias})

    return model


def _niello(layer: Layer, layout: str) -> Any:
    def build(nl: Any, x: Any, *rest: Any) -> Any:
        *added, w, b = rest
        names = ("NCHW", "OIHW") if layout == "NCHW" else ("NHWC", "HWIO")
        y = nl.conv2d(
            x,
            w,
            strides=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
            data_layout=names[0],
            weights_layout=names[1],
        )
        if layout == "NCHW":
            b = nl.reshape(b, (1, layer.outputs, 1, 1))
        for r in added:
            y = y + b + r
        return (y if added else y + b).relu()

    return build


def layer_work(layer: Layer) -> Work:
    """A layer with bias and ReLU; a residual is added before the ReLU."""
    fan_in = layer.kernel**2 * layer.inputs // layer.groups
    pixels, result = layer.pixels, layer.result
    data = [_random((layer.images, layer.inputs, pixels, pixels), 0)]
    if layer.residual:
        data.append(_random((layer.images, layer.outputs, result, result), 3))
    weights = _random(
        (layer.outputs, layer.inputs // layer.groups, layer.kernel, layer.kernel), 1, fan_in**-0.5
    )
    bias = _random((layer.outputs,), 2)
    last = [aligned(a.transpose(0, 2, 3, 1).shape, a.transpose(0, 2, 3, 1)) for a in data]
    turned = weights.transpose(2, 3, 1, 0)
    hwio = aligned(turned.shape, turned)
    nchw = [
        niello_executable(
            _niello(layer, "NCHW"), data, reuse=True, weights=[weights, bias], variant="NCHW"
        ),
        onnxruntime_session(_onnx(layer, weights, bias), data, reuse=True),
        openvino_model(_onnx(layer, weights, bias), data),
    ]
    contenders: list[Contender] = [
        niello_executable(
            _niello(layer, "NHWC"), last, reuse=True, weights=[hwio, bias], variant="NHWC"
        ),
        *(_channels_last(c) for c in nchw),
    ]
    return Work(
        str(layer),
        tuple(contenders),
        flops=layer.flops,
        bytes=layer.bytes,
        rtol=1e-3,
        atol=1e-4,
        targets=(Target(1.0, PEERS),),
    )


def _channels_last(contender: Contender) -> Contender:
    """The same contender; its result is turned to NHWC for the comparison, not for the timing."""

    def make() -> Any:
        prepared = contender.make()

        def outputs() -> list[np.ndarray]:
            return [array.transpose(0, 2, 3, 1) for array in prepared.outputs()]

        return type(prepared)(prepared.run, outputs)

    return Contender(contender.peer, contender.variant, make)


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All layers."""
    return [measure("convolutions", layer_work(layer), plan, without) for layer in LAYERS]
