"""Command buffers: throughput and peak memory of four ways to feed a residual network.

A network for 32x32 images runs over several batches, each of its blocks an executable of its own.
The host crops, flips and normalises the images of a batch, then encodes the blocks.

    single            one buffer for a batch; the next batch waits until it is done
    double            two batches are under way: the host prepares one while the other runs
    continue          single, but every block starts when it is encoded, at most two blocks ahead
    double, continue  both
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bench.harness import (
    NIELLO,
    TORCH_EAGER,
    Contender,
    Entry,
    Missing,
    Plan,
    Prepared,
    Row,
    Work,
    measure,
)
from bench.libraries import import_niello, import_peer

BATCH, BATCHES, SIZE, CLASSES = 64, 6, 32, 10
# (channels in, channels out, stride) of the residual blocks; the first layer makes 16 channels.
BLOCKS = (
    *((16, 16, 1),) * 3,
    *((16, 32, 2), *((32, 32, 1),) * 2),
    *((32, 64, 2), *((64, 64, 1),) * 2),
)


@dataclass(frozen=True)
class Mode:
    """How batches are handed to the queue."""

    name: str
    batches: int  # under way at once
    continues: bool


MODES = (
    Mode("single", 1, False),
    Mode("double", 2, False),
    Mode("continue", 1, True),
    Mode("double, continue", 2, True),
)


@cache
def weights() -> list[dict[str, np.ndarray]]:
    """Weights of the layers in HWIO, the same for every contender."""
    rng = np.random.default_rng(0)

    def filters(size: int, inputs: int, outputs: int) -> np.ndarray:
        scale = np.sqrt(2 / (size * size * inputs))
        return (rng.standard_normal((size, size, inputs, outputs)) * scale).astype(np.float32)

    layers = [{"a": filters(3, 3, 16)}]
    for inputs, outputs, stride in BLOCKS:
        layer = {"a": filters(3, inputs, outputs), "b": filters(3, outputs, outputs) * 0.3}
        if stride > 1:
            layer["shortcut"] = filters(1, inputs, outputs)
        layers.append(layer)
    layers.append({"a": filters(1, 64, CLASSES)[0, 0]})
    return layers


@cache
def photographs() -> np.ndarray:
    """Random images in 8 bits, with a border to crop from."""
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (BATCHES * BATCH, SIZE + 8, SIZE + 8, 3), np.uint8)


def prepared_batch(number: int) -> np.ndarray:
    """The host's work: a crop and a flip for each image, chosen by the number, and float32."""
    rng = np.random.default_rng(number)
    images = photographs()[number * BATCH : (number + 1) * BATCH]
    corners, flips = rng.integers(0, 9, (BATCH, 2)), rng.integers(0, 2, BATCH)
    out = np.empty((BATCH, SIZE, SIZE, 3), np.float32)
    for n, image in enumerate(images):
        y, x = corners[n]
        part = image[y : y + SIZE, x : x + SIZE]
        out[n] = part[:, ::-1] if flips[n] else part
    out -= 127.5
    out *= 1 / 64
    return out


def flops() -> float:
    """Two for each multiply-add of the convolutions and the last layer, over all batches."""
    total, size = 9 * 3 * 16 * SIZE * SIZE, SIZE
    for inputs, outputs, stride in BLOCKS:
        size //= stride
        total += 9 * (inputs + outputs) * outputs * size * size
        total += inputs * outputs * size * size if stride > 1 else 0
    return 2.0 * (total + 64 * CLASSES) * BATCH * BATCHES


class NielloNetwork:
    """The blocks as executables, and a queue to play them on."""

    def __init__(self, nl: Any, mode: Mode) -> None:
        self.nl, self.mode, self.device = nl, mode, nl.default_device()
        self.blocks = [self._compile(n) for n in range(len(weights()))]
        self.queue = nl.CommandQueue(self.device, max_in_flight=2)

    def _compile(self, number: int) -> Any:
        nl, layer = self.nl, weights()[number]
        options = {"data_layout": "NHWC", "weights_layout": "HWIO", "padding": "same"}
        graph = nl.Graph(f"block{number}")
        if number == 0:
            x = graph.placeholder((BATCH, SIZE, SIZE, 3), name="x")
            y = nl.conv2d(x, layer["a"], **options).relu()
        elif number <= len(BLOCKS):
            inputs, _, stride = BLOCKS[number - 1]
            size = SIZE * 16 // inputs
            x = graph.placeholder((BATCH, size, size, inputs), name="x")
            y = nl.conv2d(x, layer["a"], strides=stride, **options).relu()
            y = nl.conv2d(y, layer["b"], **options)
            if stride > 1:
                x = nl.conv2d(x, layer["shortcut"], strides=stride, **options)
            y = (x + y).relu()
        else:
            x = graph.placeholder((BATCH, SIZE // 4, SIZE // 4, 64), name="x")
            y = nl.matmul(nl.mean(x, axes=(1, 2)), layer["a"])
        return graph.compile(
            {graph.placeholders[0]: graph.placeholders[0].shape}, [y], device=self.device
        )

    def __call__(self) -> list[np.ndarray]:
        """The scores of all batches."""
        pending: deque[Any] = deque()
        scores = []
        for number in range(BATCHES):
            images = prepared_batch(number)
            while len(pending) >= self.mode.batches:
                pending.popleft().wait_until_completed()
            # Where parts start by themselves, a part is a block.
            buffer = self.queue.command_buffer(
                commit_after_kernels=1 if self.mode.continues else None
            )
            value = images
            for block in self.blocks:
                (value,) = buffer.encode(block, [value])
            buffer.commit()
            pending.append(buffer)
            scores.append(value)
        for buffer in pending:
            buffer.wait_until_completed()
        return [np.asarray(s) for s in scores]


class TorchNetwork:
    """The same in PyTorch, eager, batch after batch."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.layers = [{k: self._filters(k, w) for k, w in layer.items()} for layer in weights()]

    def _filters(self, name: str, value: np.ndarray) -> Any:
        torch = self.torch
        if value.ndim == 2:
            return torch.from_numpy(value)
        moved = torch.from_numpy(value.transpose(3, 2, 0, 1).copy())
        return moved.to(memory_format=torch.channels_last)

    def _same(self, x: Any, filters: Any, stride: int = 1) -> Any:
        """A convolution with "same" padding: for stride 2 and size 3 one row after, none before."""
        functional = self.torch.nn.functional
        reach = filters.shape[2] - stride
        if stride > 1 and reach > 0:
            x = functional.pad(x, (reach // 2, reach - reach // 2) * 2)
            return functional.conv2d(x, filters, stride=stride)
        return functional.conv2d(x, filters, stride=stride, padding=filters.shape[2] // 2)

    def __call__(self) -> list[np.ndarray]:
        """The scores of all batches."""
        torch, scores = self.torch, []
        with torch.inference_mode():
            for number in range(BATCHES):
                x = torch.from_numpy(prepared_batch(number)).permute(0, 3, 1, 2)
                x = torch.relu(self._same(x, self.layers[0]["a"]))
                for (_, _, stride), layer in zip(BLOCKS, self.layers[1:-1], strict=True):
                    y = torch.relu(self._same(x, layer["a"], stride))
                    y = self._same(y, layer["b"])
                    short = self._same(x, layer["shortcut"], stride) if stride > 1 else x
                    x = torch.relu(short + y)
                scores.append((x.mean((2, 3)) @ self.layers[-1]["a"]).numpy())
        return scores


def _contender(peer: str, variant: str, build: Callable[[], Any]) -> Contender:
    def make() -> Prepared:
        network = build()
        return Prepared(network, network)

    return Contender(peer, variant, make)


def time_work(mode: Mode) -> Work:
    """All batches in one mode, beside PyTorch."""
    return Work(
        f"residual network, {BATCHES} batches of {BATCH} images: {mode.name}",
        (
            _contender(NIELLO, "", lambda: NielloNetwork(import_niello(), mode)),
            _contender(TORCH_EAGER, "", lambda: TorchNetwork(import_peer("torch"))),
        ),
        flops=flops(),
        rtol=1e-3,
        atol=1e-3,
    )


def peak_bytes(mode: Mode) -> int:
    """Device memory in use at most, beyond what the network holds between runs."""
    nl = import_niello()
    network = NielloNetwork(nl, mode)
    for _ in range(2):
        network()
    nl.reset_peak_memory(network.device)
    before = nl.memory_stats(network.device)["current"]
    network()
    return int(nl.memory_stats(network.device)["peak"] - before)


def memory_row(mode: Mode) -> Row:
    """Peak memory in one mode; no time is measured."""
    entry = Entry(NIELLO, "")
    try:
        entry.samples.append(float(peak_bytes(mode)))
    except Missing as reason:
        entry.status, entry.note = "missing", str(reason)
    work = Work(f"residual network, peak memory: {mode.name}", (), unit="MiB")
    return Row("command_buffers", work, [entry])


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic: time in each mode, then peak memory in each."""
    found = [measure("command_buffers", time_work(m), plan, without) for m in MODES]
    return found + ([] if NIELLO in without else [memory_row(m) for m in MODES])
