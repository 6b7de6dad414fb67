"""Small models to count kernels of, and a plan of them without machine code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.backends import backend
from niello.core.types import TensorType
from niello.kernel.verify import verify
from niello.passes import pipeline
from niello.passes.computation import Computation
from niello.runtime.commands import Command, Dispatch, Program
from niello.schedule.program import Scheduled, schedule


def plan(
    graph: nl.Graph,
    feeds: Mapping[nl.Tensor, Any],
    targets: Sequence[nl.Tensor] = (),
    operations: Sequence[nl.Operation] = (),
    *,
    fuse: bool = True,
    device: str = "cpu",
) -> Scheduled:
    """Commands and kernels for a device's limits, as a compilation would make them."""
    source = Computation(graph, tuple(feeds), tuple(targets), tuple(operations))
    types = [f if isinstance(f, TensorType) else TensorType(f, t.dtype) for t, f in feeds.items()]
    passes = pipeline.optimising(types) if fuse else pipeline.plain(types)
    found = schedule(pipeline.run(passes, source), backend(device).limits, fuse=fuse)
    for kernel in found.program.kernels:
        verify(kernel)
    return found


def kernels(program: Program) -> int:
    return len(commands(program, Dispatch))


def commands(program: Program, kind: type[Command]) -> list[Command]:
    return [c for c in program.commands if isinstance(c, kind)]


def gelu_of_primitives(x: nl.Tensor) -> nl.Tensor:
    """GeLU in its tanh form, as eight primitive operations."""
    scale = math.sqrt(2.0 / math.pi)
    inner = (x * x * (0.044715 * scale) + scale) * x
    return (inner.tanh() + 1.0) * x * 0.5


class Digits:
    """The digit network: two convolutions with pooling, two dense layers, cross entropy, SGD."""

    def __init__(self, side: int = 28, channels: int = 32, hidden: int = 1024) -> None:
        self.side = side
        self.graph = nl.Graph("digits")
        self.random = np.random.default_rng(0)
        self.image = self.graph.placeholder((None, side, side, 1), name="image")
        self.label = self.graph.placeholder((None, 10), name="label")
        self.logits = self._network(channels, hidden)
        self.loss = nl.softmax_cross_entropy(self.logits, self.label, axis=-1, reduction="mean")

    def _variable(self, name: str, *shape: int) -> nl.Variable:
        initial = self.random.standard_normal(shape) * 0.05
        return self.graph.variable(initial.astype(np.float32), name=name)

    def _network(self, channels: int, hidden: int) -> nl.Tensor:
        layout = {"padding": "same", "data_layout": "NHWC", "weights_layout": "HWIO"}
        t, inputs = self.image, 1
        for number, outputs in enumerate((channels, 2 * channels), 1):
            weights = self._variable(f"w{number}", 5, 5, inputs, outputs)
            t = (nl.conv2d(t, weights, **layout) + self._variable(f"b{number}", outputs)).relu()
            t = t.max_pool2d(2, data_layout="NHWC")
            inputs = outputs
        features = (self.side // 4) ** 2 * inputs
        t = t.reshape((-1, features))
        t = nl.matmul(t, self._variable("w3", features, hidden)) + self._variable("b3", hidden)
        t = nl.matmul(t.relu(), self._variable("w4", hidden, 10)) + self._variable("b4", 10)
        return t

    def feeds(self, batch: int) -> dict[nl.Tensor, tuple[int, ...]]:
        return {self.image: (batch, self.side, self.side, 1), self.label: (batch, 10)}

    def gradients(self) -> dict[nl.Variable, nl.Tensor]:
        return self.graph.gradients(self.loss, self.graph.variables)  # type: ignore[return-value]

    def sgd(self, rate: float = 0.05) -> list[nl.Operation]:
        return [v.assign(nl.sgd(rate, v, g)) for v, g in self.gradients().items()]
