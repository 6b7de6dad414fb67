"""The digit network of the training rows, as plain NumPy data and as one step per library.

conv 5x5x32, relu, max pool 2, conv 5x5x64, relu, max pool 2, dense 1024, relu, dense 10, softmax
cross-entropy (mean over the batch), plain SGD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCH = 64
RATE = 0.01
NAMES = ("w1", "b1", "w2", "b2", "w3", "b3", "w4", "b4")
SHAPES = {
    "w1": (5, 5, 1, 32),
    "b1": (32,),
    "w2": (5, 5, 32, 64),
    "b2": (64,),
    "w3": (7 * 7 * 64, 1024),
    "b3": (1024,),
    "w4": (1024, 10),
    "b4": (10,),
}
FLATTENED = (7, 7, 64)


def _valid_taps(pixels: int, kernel: int) -> int:
    """Multiplications along one axis of a "same" convolution, without those by padding."""
    reach = kernel // 2
    return pixels * kernel - reach * (reach + 1)


def convolution_flops(images: int, pixels: int, kernel: int, into: int, out: int) -> float:
    """Multiply-adds of a square "same" convolution, counted as two, padding not counted."""
    return 2.0 * images * _valid_taps(pixels, kernel) ** 2 * into * out


def step_flops() -> float:
    """Forward, data gradients (not of the images) and weight gradients of all four layers."""
    first = convolution_flops(BATCH, 28, 5, 1, 32)
    second = convolution_flops(BATCH, 14, 5, 32, 64)
    dense = 2.0 * BATCH * (3136 * 1024 + 1024 * 10)
    return 2.0 * first + 3.0 * (second + dense)


@dataclass(frozen=True)
class Data:
    """A batch (N, H, W, C), its one-hot labels, its labels as numbers, and the weights."""

    images: np.ndarray
    onehot: np.ndarray
    labels: np.ndarray
    weights: dict[str, np.ndarray]


def data() -> Data:
    """The same random batch and weights for everybody."""
    generator = np.random.default_rng(7)
    images = generator.random((BATCH, 28, 28, 1), dtype=np.float32)
    labels = generator.integers(0, 10, BATCH)
    weights = {}
    for name, shape in SHAPES.items():
        fan = int(np.prod(shape[:-1])) if name.startswith("w") else 100
        values = generator.standard_normal(shape, dtype=np.float32) * np.float32(fan**-0.5)
        weights[name] = np.ascontiguousarray(values)
    return Data(images, np.eye(10, dtype=np.float32)[labels], labels, weights)


# PyTorch


class TorchStep:
    """One training step in PyTorch. Call it to do a step; it returns the loss tensor.

    `style` is "eager", "compiled" (loss and its backward compiled, optimiser eager) or
    "functional" (loss, gradients and update compiled as one function).
    """

    def __init__(self, torch: Any, style: str, channels_last: bool) -> None:
        self.torch = torch
        given = data()
        self.order = torch.channels_last if channels_last else torch.contiguous_format
        self.channels_last = channels_last
        images = torch.from_numpy(given.images.transpose(0, 3, 1, 2).copy())
        self.images = images.contiguous(memory_format=self.order)
        self.labels = torch.from_numpy(given.labels)
        self.weights = [self._import(name, given.weights[name]) for name in NAMES]
        self.step = {"eager": self._eager, "compiled": self._compiled}.get(
            style, self._functional
        )()

    def __call__(self) -> Any:
        return self.step()

    def _import(self, name: str, value: np.ndarray) -> Any:
        """PyTorch's own layouts: OIHW, (out, in), features in the order of its flatten."""
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif name == "w3" and not self.channels_last:
            value = value.reshape(*FLATTENED, -1).transpose(3, 2, 0, 1).reshape(-1, 3136)
        elif value.ndim == 2:
            value = value.T
        tensor = self.torch.from_numpy(np.array(value, order="C"))
        if value.ndim == 4:
            tensor = tensor.contiguous(memory_format=self.order)
        return tensor.requires_grad_(True)

    def export(self) -> list[np.ndarray]:
        """The weights now, in the layouts of this module."""
        found = []
        for name, tensor in zip(NAMES, self.weights, strict=True):
            value = np.array(tensor.detach().contiguous())
            if value.ndim == 4:
                value = value.transpose(2, 3, 1, 0)
            elif name == "w3" and not self.channels_last:
                value = value.reshape(-1, 64, 7, 7).transpose(2, 3, 1, 0).reshape(3136, -1)
            elif value.ndim == 2:
                value = value.T
            found.append(value)
        return found

    def _loss(self, images: Any, labels: Any, weights: list[Any]) -> Any:
        f = self.torch.nn.functional
        w1, b1, w2, b2, w3, b3, w4, b4 = weights
        x = f.max_pool2d(f.relu(f.conv2d(images, w1, b1, padding=2)), 2)
        x = f.max_pool2d(f.relu(f.conv2d(x, w2, b2, padding=2)), 2)
        x = x.permute(0, 2, 3, 1) if self.channels_last else x
        x = f.relu(f.linear(x.reshape(BATCH, -1), w3, b3))
        return f.cross_entropy(f.linear(x, w4, b4), labels)

    def _optimiser(self) -> Any:
        return self.torch.optim.SGD(self.weights, lr=RATE)

    def _eager(self) -> Callable[[], Any]:
        optimiser = self._optimiser()

        def step() -> Any:
            loss = self._loss(self.images, self.labels, self.weights)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            return loss.detach()

        return step

    def _compiled(self) -> Callable[[], Any]:
        optimiser = self._optimiser()
        compiled = self.torch.compile(
            lambda images, labels, weights: self._loss(images, labels, weights), dynamic=False
        )

        def step() -> Any:
            loss = compiled(self.images, self.labels, self.weights)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            return loss.detach()

        return step

    def _functional(self) -> Callable[[], Any]:
        torch = self.torch
        weights = [weight.detach() for weight in self.weights]
        self.weights = weights

        def whole(images: Any, labels: Any, parameters: list[Any]) -> Any:
            gradients, loss = torch.func.grad_and_value(
                lambda values: self._loss(images, labels, values)
            )(parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=RATE)
            return loss

        compiled = torch.compile(whole, dynamic=False)

        def step() -> Any:
            with torch.no_grad():
                return compiled(self.images, self.labels, weights)

        return step


# JAX


class JaxStep:
    """One training step in JAX: a jitted function whose weights are donated."""

    def __init__(self, jax: Any, layout: str = "NHWC") -> None:
        given = data()
        self.jax, self.layout = jax, layout
        images = given.images if layout == "NHWC" else given.images.transpose(0, 3, 1, 2)
        self.images, self.labels = jax.device_put(images), jax.device_put(given.onehot)
        self.weights = [jax.device_put(self._order(n, given.weights[n])) for n in NAMES]
        self.compiled = jax.jit(self._update, donate_argnums=0)

    def __call__(self) -> Any:
        self.weights, loss = self.compiled(self.weights, self.images, self.labels)
        return self.jax.block_until_ready((self.weights, loss))[1]

    def _order(self, name: str, value: np.ndarray) -> np.ndarray:
        if name == "w3" and self.layout == "NCHW":
            return value.reshape(*FLATTENED, -1).transpose(2, 0, 1, 3).reshape(value.shape)
        return value

    def export(self) -> list[np.ndarray]:
        """The weights now, in the layouts of this module."""
        found = [np.array(weight) for weight in self.weights]
        if self.layout == "NCHW":
            shape = found[4].shape
            found[4] = found[4].reshape(64, 7, 7, -1).transpose(1, 2, 0, 3).reshape(shape)
        return found

    def _layer(self, x: Any, weight: Any, bias: Any) -> Any:
        lax, layout = self.jax.lax, self.layout
        numbers = (layout, "HWIO", layout)
        x = lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=numbers)
        x = self.jax.nn.relu(x + (bias if layout == "NHWC" else bias[:, None, None]))
        window = (1, 2, 2, 1) if layout == "NHWC" else (1, 1, 2, 2)
        return lax.reduce_window(x, -np.inf, lax.max, window, window, "VALID")

    def _loss(self, weights: list[Any], images: Any, labels: Any) -> Any:
        nn = self.jax.nn
        w1, b1, w2, b2, w3, b3, w4, b4 = weights
        x = self._layer(self._layer(images, w1, b1), w2, b2)
        x = nn.relu(x.reshape(BATCH, -1) @ w3 + b3)
        return -(labels * nn.log_softmax(x @ w4 + b4)).sum(-1).mean()

    def _update(self, weights: list[Any], images: Any, labels: Any) -> Any:
        loss, gradients = self.jax.value_and_grad(self._loss)(weights, images, labels)
        return [w - RATE * g for w, g in zip(weights, gradients, strict=True)], loss


# Niello


class NielloStep:
    """One training step in Niello: an executable whose weights are variables of the graph."""

    def __init__(self, nl: Any) -> None:
        given = data()
        graph = nl.Graph()
        self.images = graph.placeholder(given.images.shape, nl.float32, name="images")
        self.labels = graph.placeholder(given.onehot.shape, nl.float32, name="labels")
        self.variables = [graph.variable(given.weights[n], name=n) for n in NAMES]
        self.loss = self._loss(nl)
        gradients = graph.gradients(self.loss, self.variables)
        steps = [v.assign(nl.sgd(RATE, v, g)) for v, g in gradients.items()]
        self.executable = graph.compile(
            feeds={
                self.images: nl.TensorType(given.images.shape),
                self.labels: nl.TensorType(given.onehot.shape),
            },
            targets=[self.loss],
            target_operations=steps,
            device="cpu",
        )
        self.inputs = [given.images, given.onehot]

    def __call__(self) -> Any:
        return self.executable.run(self.inputs)[0]

    def export(self) -> list[np.ndarray]:
        """The weights now."""
        return [np.array(np.asarray(variable.value)) for variable in self.variables]

    def _loss(self, nl: Any) -> Any:
        w1, b1, w2, b2, w3, b3, w4, b4 = self.variables
        layouts = {"data_layout": "NHWC"}

        def layer(x: Any, weight: Any, bias: Any) -> Any:
            x = nl.conv2d(x, weight, padding="same", weights_layout="HWIO", **layouts) + bias
            return nl.max_pool2d(x.relu(), (2, 2), **layouts)

        x = layer(layer(self.images, w1, b1), w2, b2).reshape((BATCH, 3136))
        x = nl.relu(nl.matmul(x, w3) + b3)
        logits = nl.matmul(x, w4) + b4
        return nl.softmax_cross_entropy(logits, self.labels, axis=-1, reduction="mean")
