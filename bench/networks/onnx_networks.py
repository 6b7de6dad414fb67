"""Well-known networks as ONNX models, with the layer shapes of their papers and random weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.networks.onnx_builder import Builder, Network

CLASSES = 1000
# (channels inside a block, blocks, stride of the first) of the four stages of ResNet-50.
RESNET_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
# (expansion, channels, blocks, stride of the first): table 2 of the MobileNetV2 paper.
MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
UNET_CHANNELS = (64, 128, 256, 512, 1024)
BERT_LAYERS, BERT_WIDTH, BERT_HEADS, BERT_WORDS = 12, 768, 12, 30522
BERT_LENGTH = 128


def _picture(net: Builder, size: int) -> str:
    random = np.random.default_rng(1)
    return net.feed("image", random.standard_normal((1, 3, size, size), np.float32))


def resnet50(onnx: Any) -> Network:
    """ResNet-50 (He et al. 2015, with the stride in the 3x3 convolution), 224 x 224."""
    net = Builder(onnx, "ResNet-50")

    def layer(x: str, outputs: int, size: int, stride: int = 1, scale: float = 1.0) -> str:
        found = net.convolution(x, outputs, size, stride=stride)
        # A small scale at the end of a block keeps the sums of 16 blocks within range.
        return net.batch_norm(found, (0.5 * scale, scale))

    x = net.elementwise("Relu", layer(_picture(net, 224), 64, 7, 2))
    x = net.max_pool(x, 3, pad=1)
    for inside, count, first in RESNET_STAGES:
        for number in range(count):
            stride = first if number == 0 else 1
            found = net.elementwise("Relu", layer(x, inside, 1))
            found = net.elementwise("Relu", layer(found, inside, 3, stride))
            found = layer(found, 4 * inside, 1, scale=0.3)
            shortcut = layer(x, 4 * inside, 1, stride) if number == 0 else x
            x = net.elementwise("Relu", net.elementwise("Add", found, shortcut))
    return net.finish(net.classify(x, CLASSES))


def mobilenet_v2(onnx: Any) -> Network:
    """MobileNetV2 (Sandler et al. 2018) of width 1, 224 x 224."""
    net = Builder(onnx, "MobileNetV2")
    low, high = (net.constant(np.array(v, np.float32)) for v in (0, 6))

    def layer(x: str, outputs: int, size: int, stride: int = 1, groups: int = 1) -> str:
        return net.batch_norm(net.convolution(x, outputs, size, stride=stride, groups=groups))

    def clipped(x: str) -> str:
        return net.node("Clip", [x, low, high], net.shapes[x])

    x = clipped(layer(_picture(net, 224), 32, 3, 2))
    for expansion, channels, count, first in MOBILENET_STAGES:
        for number in range(count):
            stride, inputs = first if number == 0 else 1, net.shapes[x][1]
            inside = inputs * expansion
            found = x if expansion == 1 else clipped(layer(x, inside, 1))
            found = clipped(layer(found, inside, 3, stride, groups=inside))
            found = layer(found, channels, 1)
            x = net.elementwise("Add", x, found) if stride == 1 and inputs == channels else found
    return net.finish(net.classify(clipped(layer(x, 1280, 1)), CLASSES))


def unet(onnx: Any) -> Network:
    """U-Net (Ronneberger et al. 2015) with padded convolutions, 256 x 256, two classes."""
    net = Builder(onnx, "U-Net 256 x 256")

    def both(x: str, channels: int) -> str:
        for _ in range(2):
            x = net.elementwise("Relu", net.convolution(x, channels, 3, bias=True))
        return x

    x = both(_picture(net, 256), UNET_CHANNELS[0])
    kept = []
    for channels in UNET_CHANNELS[1:]:
        kept.append(x)
        x = both(net.max_pool(x, 2), channels)
    for channels, beside in zip(reversed(UNET_CHANNELS[:-1]), reversed(kept), strict=True):
        shape = (1, 2 * channels, *net.shapes[beside][2:])
        x = net.node("Concat", [beside, net.upsampling(x, channels)], shape, axis=1)
        x = both(x, channels)
    return net.finish(net.convolution(x, 2, 1, bias=True))


class _Bert:
    """The encoder of BERT: sequences are [1, length, width]."""

    def __init__(self, net: Builder) -> None:
        self.net = net
        self.heads = (1, BERT_LENGTH, BERT_HEADS, BERT_WIDTH // BERT_HEADS)
        self.flat = (1, BERT_LENGTH, BERT_WIDTH)
        self.scale = net.constant(np.array((BERT_WIDTH // BERT_HEADS) ** 0.5, np.float32))

    def embeddings(self, words: str) -> str:
        net = self.net
        table = net.normal((BERT_WORDS, BERT_WIDTH), 0.02)
        x = net.node("Gather", [table, words], self.flat)
        # Positions and the first token type are the same in every run.
        for rows in (BERT_LENGTH, 1):
            x = net.elementwise("Add", x, net.normal((1, rows, BERT_WIDTH), 0.02))
        return self.normalised(x)

    def normalised(self, x: str) -> str:
        net = self.net
        ones = net.constant(np.ones(BERT_WIDTH, np.float32))
        bias = net.normal((BERT_WIDTH,), 0.02)
        return net.node("LayerNormalization", [x, ones, bias], self.flat, axis=-1, epsilon=1e-12)

    def split(self, x: str, order: tuple[int, ...]) -> str:
        projected = self.net.dense(x, BERT_WIDTH, 0.02)
        return self.net.transpose(self.net.reshape(projected, self.heads), order)

    def attention(self, x: str, mask: str) -> str:
        net = self.net
        queries, keys = self.split(x, (0, 2, 1, 3)), self.split(x, (0, 2, 3, 1))
        values = self.split(x, (0, 2, 1, 3))
        scores = net.elementwise("Div", net.matmul(queries, keys), self.scale)
        masked = net.elementwise("Add", scores, mask)
        weights = net.elementwise("Softmax", masked, axis=-1)
        found = net.transpose(net.matmul(weights, values), (0, 2, 1, 3))
        return net.dense(net.reshape(found, self.flat), BERT_WIDTH, 0.02)

    def layer(self, x: str, mask: str) -> str:
        net = self.net
        x = self.normalised(net.elementwise("Add", self.attention(x, mask), x))
        inside = net.elementwise("Gelu", net.dense(x, 4 * BERT_WIDTH, 0.02))
        return self.normalised(net.elementwise("Add", net.dense(inside, BERT_WIDTH, 0.02), x))


def bert_base(onnx: Any) -> Network:
    """The encoder of BERT-base (Devlin et al. 2018) on 128 tokens, the last 16 of them masked."""
    net = Builder(onnx, "BERT-base, 128 tokens")
    words = np.random.default_rng(1).integers(0, BERT_WORDS, (1, BERT_LENGTH))
    present = np.ones((1, 1, 1, BERT_LENGTH), np.float32)
    present[..., -16:] = 0
    net.feed("words", words)
    net.feed("present", present)
    one, most = (net.constant(np.array(v, np.float32)) for v in (1, -10000))
    mask = net.elementwise("Mul", net.elementwise("Sub", one, "present"), most)
    bert = _Bert(net)
    x = bert.embeddings("words")
    for _ in range(BERT_LAYERS):
        x = bert.layer(x, mask)
    return net.finish(x)
