"""The network: two convolutions, each with ReLU and max pooling, and two dense layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

import niello as nl
from niello.cli.digits.data import CLASSES

KERNEL = 5
CHANNELS = (32, 64)
HIDDEN = 1024
RATE = 1e-3
SLOWING = 1000  # steps after which the learning rate is half
DECAY = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class Network:
    """A graph with the tensors that a user of it needs."""

    graph: nl.Graph
    image: nl.Tensor
    label: nl.Tensor
    logits: nl.Tensor
    loss: nl.Tensor
    parameters: tuple[nl.Variable, ...]


class _Weights:
    """Makes parameters: He et al. (2015) for weights, zeros for biases."""

    def __init__(self, graph: nl.Graph, seed: int) -> None:
        self.graph = graph
        self.random = np.random.default_rng([seed, 0])
        self.made: list[nl.Variable] = []

    def weights(self, name: str, *shape: int) -> nl.Variable:
        spread = math.sqrt(2 / math.prod(shape[:-1]))
        initial = self.random.standard_normal(shape, np.float32) * np.float32(spread)
        return self._add(name, initial)

    def bias(self, name: str, size: int) -> nl.Variable:
        return self._add(name, np.zeros(size, np.float32))

    def _add(self, name: str, initial: np.ndarray) -> nl.Variable:
        self.made.append(self.graph.variable(initial, name=name))
        return self.made[-1]


def build(size: int, seed: int, dropout: float = 0.0) -> Network:
    """The network for images of size x size pixels; `dropout` is for training only."""
    graph = nl.Graph("digits")
    make = _Weights(graph, seed)
    image = graph.placeholder((None, size, size, 1), nl.float32, name="image")
    label = graph.placeholder((None, CLASSES), nl.float32, name="label")
    found, channels = image, 1
    for number, wider in enumerate(CHANNELS, 1):
        with graph.name_scope(f"conv{number}"):
            weights = make.weights("weights", KERNEL, KERNEL, channels, wider)
            found = nl.conv2d(
                found, weights, padding="same", data_layout="NHWC", weights_layout="HWIO"
            )
            found = (found + make.bias("bias", wider)).relu()
            found = nl.max_pool2d(found, 2, data_layout="NHWC")
            channels = wider
    side = size // 4
    with graph.name_scope("dense1"):
        weights = make.weights("weights", side * side * channels, HIDDEN)
        found = (found.flatten() @ weights + make.bias("bias", HIDDEN)).relu()
    if dropout:
        found = _dropout(graph, found, dropout, seed)
    with graph.name_scope("dense2"):
        logits = found @ make.weights("weights", HIDDEN, CLASSES) + make.bias("bias", CLASSES)
    loss = nl.softmax_cross_entropy(logits, label, axis=-1, reduction="mean")
    return Network(graph, image, label, logits, loss, tuple(make.made))


def _dropout(graph: nl.Graph, found: nl.Tensor, rate: float, seed: int) -> nl.Tensor:
    """Zeros some of the hidden values; the generator's state is a variable, so it is saved."""
    with graph.name_scope("dropout"):
        state = graph.variable(nl.random_state(seed), name="state")
        kept, after = nl.dropout(found, rate, state)
        state.assign(after, name="advance")
        return kept


def training_step(network: Network) -> list[nl.Operation]:
    """The operations of one step of Adam over all parameters (and of the dropout's state)."""
    graph = network.graph
    gradients = graph.gradients(network.loss, network.parameters)
    steps = [o for o in graph.operations if o.name == "dropout/advance"]
    with graph.name_scope("adam"):
        count = graph.variable(0.0, name="step")
        now = count + 1.0
        rate = RATE / (1.0 + count / SLOWING)
        steps.append(count.assign(now))
        for parameter, gradient in gradients.items():
            zeros = np.zeros(parameter.type.static_shape, np.float32)
            with graph.name_scope(parameter.name.replace("/", "_")):
                m, v = graph.variable(zeros, name="m"), graph.variable(zeros, name="v")
            new = nl.adam(rate, *DECAY, EPSILON, now, parameter, m, v, gradient)
            steps += [t.assign(n) for t, n in zip((parameter, m, v), new, strict=True)]
    return steps


class Classifier:
    """Reads images with a trained network, `batch` at a time (the last batch is filled up)."""

    def __init__(
        self, network: Network, *, batch: int, device: str | None, options: nl.CompileOptions
    ) -> None:
        self.batch = batch
        size = network.image.shape[1]  # type: ignore[index]
        self.executable = network.graph.compile(
            {network.image: (batch, size, size, 1)},  # type: ignore[dict-item]
            [network.logits],
            device=device,
            options=options,
        )

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """float32[N, 10] for images float32[N, size, size, 1]."""
        found = np.empty((len(pixels), CLASSES), np.float32)
        for start in range(0, len(pixels), self.batch):
            part = pixels[start : start + self.batch]
            given = np.zeros((self.batch, *part.shape[1:]), np.float32)
            given[: len(part)] = part
            logits = np.asarray(self.executable.run([given])[0])[: len(part)]
            raised = np.exp(logits - logits.max(axis=1, keepdims=True))
            found[start : start + self.batch] = raised / raised.sum(axis=1, keepdims=True)
        return found
