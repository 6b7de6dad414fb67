"""ResNet-50 (He et al. 2015, with the stride in the 3x3 convolution) in Niello's graph operations.

Data is [N, H, W, C]. Images have a fourth channel of zeros, as the first layer's weights do: no
machine reads three values at once. Parameters are named as in torchvision and drawn from one seed,
so that every contender computes the same. Weights are [O, H, W, I]: that is how a PyTorch weight in
the channels-last memory format lies in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import niello as nl

CLASSES = 1000
SIZE = 224
# (channels inside a block, blocks, stride of the first) of the four stages.
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
WIDER = 4  # channels after a block over those inside
EPSILON = 1e-5
KEPT = 0.9  # of the running statistics in a step
RATE, MOMENTUM, DECAY = 0.1, 0.9, 1e-4

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """A convolution with the batch normalisation after it."""

    name: str
    norm: str
    inputs: int
    outputs: int
    size: int
    stride: int


@dataclass(frozen=True)
class Block:
    """Three convolutions beside a shortcut, which is a convolution where the shape changes."""

    layers: tuple[Layer, Layer, Layer]
    shortcut: Layer | None


COLOURS, CHANNELS = 3, 4  # of an image, and as it lies in memory
STEM = Layer("conv1", "bn1", CHANNELS, 64, 7, 2)


def blocks() -> Iterator[Block]:
    """The blocks in order."""
    inputs = STEM.outputs
    for stage, (inside, count, first) in enumerate(STAGES, 1):
        for number in range(count):
            stem, stride = f"layer{stage}.{number}", first if number == 0 else 1
            outputs = inside * WIDER
            layers = (
                Layer(f"{stem}.conv1", f"{stem}.bn1", inputs, inside, 1, 1),
                Layer(f"{stem}.conv2", f"{stem}.bn2", inside, inside, 3, stride),
                Layer(f"{stem}.conv3", f"{stem}.bn3", inside, outputs, 1, 1),
            )
            down = f"{stem}.downsample"
            shortcut = Layer(f"{down}.0", f"{down}.1", inputs, outputs, 1, stride)
            yield Block(layers, shortcut if number == 0 else None)
            inputs = outputs


def layers() -> Iterator[Layer]:
    """Every convolution in order."""
    yield STEM
    for block in blocks():
        yield from block.layers
        if block.shortcut is not None:
            yield block.shortcut


def parameters(seed: int = 0) -> Arrays:
    """float32 parameters and running statistics by name; weights [O, H, W, I], dense [I, O]."""
    rng = np.random.default_rng(seed)
    made: Arrays = {}
    for layer in layers():
        shape = (layer.outputs, layer.size, layer.size, layer.inputs)
        spread = np.sqrt(2 / (layer.outputs * layer.size**2))
        made[f"{layer.name}.weight"] = rng.standard_normal(shape, np.float32) * np.float32(spread)
        made[f"{layer.norm}.weight"] = rng.uniform(0.5, 1.0, layer.outputs).astype(np.float32)
        made[f"{layer.norm}.bias"] = rng.uniform(-0.1, 0.1, layer.outputs).astype(np.float32)
        made[f"{layer.norm}.running_mean"] = np.zeros(layer.outputs, np.float32)
        made[f"{layer.norm}.running_var"] = np.ones(layer.outputs, np.float32)
    made[f"{STEM.name}.weight"][..., COLOURS:] = 0
    features = STAGES[-1][0] * WIDER
    made["fc.weight"] = rng.standard_normal((features, CLASSES), np.float32) * np.float32(0.01)
    made["fc.bias"] = np.zeros(CLASSES, np.float32)
    return made


def images(batch: int, dtype: Any) -> np.ndarray:
    """Random images."""
    found = np.zeros((batch, SIZE, SIZE, CHANNELS), np.float32)
    found[..., :COLOURS] = np.random.default_rng(1).standard_normal(
        (batch, SIZE, SIZE, COLOURS), np.float32
    )
    return found.astype(dtype.numpy)


def folded(values: Arrays, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of a convolution with its batch normalisation inside."""
    norm = layer.norm
    scale = values[f"{norm}.weight"] / np.sqrt(values[f"{norm}.running_var"] + EPSILON)
    weights = values[f"{layer.name}.weight"] * scale[:, None, None, None]
    return weights, values[f"{norm}.bias"] - values[f"{norm}.running_mean"] * scale


def _convolved(x: Any, weights: Any, layer: Layer) -> Any:
    return nl.conv2d(
        x,
        weights,
        strides=layer.stride,
        padding=layer.size // 2,
        data_layout="NHWC",
        weights_layout="OHWI",
    )


@dataclass(frozen=True)
class Inference:
    """A graph with its input and output."""

    graph: nl.Graph
    image: nl.Tensor
    logits: nl.Tensor


def inference(batch: int, values: Arrays, dtype: Any = nl.bfloat16) -> Inference:
    """The network for inference: constants, batch normalisation folded into the convolutions."""
    graph = nl.Graph("resnet50")
    image = graph.placeholder((batch, SIZE, SIZE, CHANNELS), dtype, name="image")

    def convolution(x: Any, layer: Layer) -> Any:
        weights, bias = (graph.constant(v.astype(dtype.numpy)) for v in folded(values, layer))
        return _convolved(x, weights, layer) + bias

    x = convolution(image, STEM).relu()
    x = nl.max_pool2d(x, 3, strides=2, padding=1, data_layout="NHWC")
    for block in blocks():
        shortcut = x if block.shortcut is None else convolution(x, block.shortcut)
        first, second, third = block.layers
        found = convolution(convolution(x, first).relu(), second).relu()
        x = (convolution(found, third) + shortcut).relu()
    pooled = x.mean((1, 2))
    weights = graph.constant(values["fc.weight"].astype(dtype.numpy))
    logits = pooled @ weights + graph.constant(values["fc.bias"].astype(dtype.numpy))
    return Inference(graph, image, logits)


@dataclass(frozen=True)
class Training:
    """A graph with its inputs, the loss and the operations of a step."""

    graph: nl.Graph
    image: nl.Tensor
    label: nl.Tensor
    loss: nl.Tensor
    steps: tuple[nl.Operation, ...]


@dataclass
class _Trainer:
    """Makes layers whose data and gradients have `dtype`; all the rest is float32."""

    graph: nl.Graph
    values: Arrays
    dtype: Any
    parameters: dict[str, nl.Variable] = field(default_factory=dict)
    steps: list[nl.Operation] = field(default_factory=list)

    def parameter(self, name: str) -> nl.Variable:
        self.parameters[name] = self.graph.variable(self.values[name], name=name)
        return self.parameters[name]

    def layer(self, x: Any, layer: Layer) -> Any:
        """Convolution and batch normalisation over the batch, in one pass over the data."""
        weights = nl.cast(self.parameter(f"{layer.name}.weight"), self.dtype)
        y = nl.cast(_convolved(x, weights, layer), nl.float32)
        points = float(np.prod(y.shape[:-1]))
        mean = y.sum((0, 1, 2)) / points
        variance = (nl.square(y).sum((0, 1, 2)) / points - mean * mean).maximum(0.0)
        for name, value in (("running_mean", mean), ("running_var", variance)):
            kept = self.graph.variable(self.values[f"{layer.norm}.{name}"])
            self.steps.append(kept.assign(kept * KEPT + value * (1 - KEPT)))
        scale = nl.rsqrt(variance + EPSILON) * self.parameter(f"{layer.norm}.weight")
        return y * scale + (self.parameter(f"{layer.norm}.bias") - mean * scale)


def training(batch: int, values: Arrays, dtype: Any = nl.bfloat16) -> Training:
    """A step of SGD with momentum and weight decay: data and its gradients are of `dtype`,
    parameters, statistics and the optimiser of float32."""
    graph = nl.Graph("resnet50")
    image = graph.placeholder((batch, SIZE, SIZE, CHANNELS), nl.float32, name="image")
    label = graph.placeholder((batch,), nl.int32, name="label")
    make = _Trainer(graph, values, dtype)
    x = nl.cast(make.layer(nl.cast(image, dtype), STEM), dtype).relu()
    x = nl.max_pool2d(x, 3, strides=2, padding=1, data_layout="NHWC")
    for block in blocks():
        down = block.shortcut
        shortcut = nl.cast(x, nl.float32) if down is None else make.layer(x, down)
        first, second, third = block.layers
        found = nl.cast(make.layer(x, first), dtype).relu()
        found = nl.cast(make.layer(found, second), dtype).relu()
        x = nl.cast(make.layer(found, third) + shortcut, dtype).relu()
    weights = nl.cast(make.parameter("fc.weight"), dtype)
    logits = nl.cast(x.mean((1, 2)) @ weights, nl.float32) + make.parameter("fc.bias")
    wanted = nl.one_hot(label, CLASSES, dtype=nl.float32)
    loss = nl.softmax_cross_entropy(logits, wanted, axis=-1, reduction="mean")
    found = graph.gradients(loss, list(make.parameters.values()))
    for parameter, gradient in found.items():
        velocity = graph.variable(np.zeros(parameter.type.static_shape, np.float32))
        new = nl.momentum(RATE, MOMENTUM, parameter, velocity, gradient, weight_decay=DECAY)
        make.steps += [t.assign(n) for t, n in zip((parameter, velocity), new, strict=True)]
    return Training(graph, image, label, loss, tuple(make.steps))
