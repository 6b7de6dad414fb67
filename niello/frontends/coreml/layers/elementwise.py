"""Activations, unary functions and the elementwise layers of several inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer


def activation(
    at: Layer, params: Any, x: nl.Tensor, channels: Callable[[Any], nl.Tensor] | None = None
) -> nl.Tensor:
    """The function of an ActivationParams message; `channels` makes weights of each channel."""
    kind = params.WhichOneof("NonlinearityType")
    if kind is None:
        raise at.refuse("names no activation")
    f = getattr(params, kind)
    plain = {
        "ReLU": nl.relu, "tanh": nl.tanh, "sigmoid": nl.sigmoid,
        "softsign": nl.softsign, "softplus": nl.softplus,
    }  # fmt: skip
    if kind in plain:
        return plain[kind](x)
    made: dict[str, Callable[[], nl.Tensor]] = {
        "linear": lambda: x * f.alpha + f.beta,
        "leakyReLU": lambda: nl.leaky_relu(x, f.alpha),
        "thresholdedReLU": lambda: nl.select(x >= f.alpha, x, nl.zeros_like(x)),
        "scaledTanh": lambda: nl.tanh(x * f.beta) * f.alpha,
        "sigmoidHard": lambda: nl.hard_sigmoid(x, f.alpha, f.beta),
        "ELU": lambda: nl.elu(x, f.alpha),
    }
    if kind in made:
        return made[kind]()
    if channels is None:
        raise at.refuse("this activation has weights for channels, which a gate has not", kind)
    if kind == "PReLU":
        return nl.prelu(x, channels(f.alpha))
    return channels(f.alpha) * nl.softplus(channels(f.beta) * x)


@layer("activation")
def activation_layer(at: Layer) -> nl.Tensor:
    """An activation; weights of channels lie along the third axis from the end."""
    shape = at.shape()

    def channels(params: Any) -> nl.Tensor:
        count = 1 if len(params.floatValue) == 1 or len(shape) < 3 else shape[-3]
        return nl.reshape(at.weights(params, count), (count, 1, 1) if len(shape) >= 3 else (1,))

    return activation(at, at.p, at.tensor(), channels)


@layer("unary")
def unary(at: Layer) -> nl.Tensor:
    """A function of scale * x + shift."""
    p = at.p
    kind = p.Operation.Name(p.type)
    # Zero is the default that the message itself gives; a scale left out counts as one.
    x = at.tensor() * (p.scale or 1.0) + p.shift
    if kind == "POWER":
        return nl.power(x, p.alpha)
    if kind == "THRESHOLD":
        return nl.maximum(x, p.alpha)
    made: dict[str, Callable[[], nl.Tensor]] = {
        "SQRT": lambda: nl.sqrt(x),
        "RSQRT": lambda: 1.0 / nl.sqrt(x + p.epsilon),
        "INVERSE": lambda: 1.0 / (x + p.epsilon),
        "EXP": lambda: nl.exp(x),
        "LOG": lambda: nl.log(x + p.epsilon) if p.epsilon else nl.log(x),
        "ABS": lambda: nl.absolute(x),
    }
    return made[kind]()


def fitted(tensors: list[nl.Tensor]) -> list[nl.Tensor]:
    """Tensors of the legacy layers, which broadcast by leading axes of one: the same rank."""
    rank = max(len(t.shape or ()) for t in tensors)
    return [
        nl.reshape(t, ((1,) * (rank - len(t.shape or ())) + tuple(t.shape or ())))  # type: ignore[arg-type]
        for t in tensors
    ]


def combined(
    at: Layer, function: Callable[[nl.Tensor, nl.Tensor], nl.Tensor], other: Any = None
) -> nl.Tensor:
    """All inputs in one, or the only input with a number."""
    tensors = fitted(at.tensors())
    if len(tensors) == 1:
        return tensors[0] if other is None else function(tensors[0], other)
    y = tensors[0]
    for t in tensors[1:]:
        y = function(y, t)
    return y


@layer("add")
def add(at: Layer) -> nl.Tensor:
    """The sum of the inputs, or one input plus a number."""
    return combined(at, nl.add, at.p.alpha)


@layer("multiply")
def multiply(at: Layer) -> nl.Tensor:
    """The product of the inputs, or one input times a number."""
    return combined(at, nl.multiply, at.p.alpha)


@layer("average")
def average(at: Layer) -> nl.Tensor:
    """The mean of the inputs."""
    return combined(at, nl.add) * (1.0 / len(at.inputs))


@layer("max")
def maximum(at: Layer) -> nl.Tensor:
    """The largest of the inputs."""
    return combined(at, nl.maximum)


@layer("min")
def minimum(at: Layer) -> nl.Tensor:
    """The smallest of the inputs."""
    return combined(at, nl.minimum)


@layer("clip")
def clip(at: Layer) -> nl.Tensor:
    """x within two bounds."""
    return nl.clamp(at.tensor(), at.p.minVal, at.p.maxVal)


@layer("clampedReLU")
def clamped_relu(at: Layer) -> nl.Tensor:
    """min(beta, x) for positive x, min(beta, alpha * x) for the others."""
    return nl.minimum(nl.leaky_relu(at.tensor(), at.p.alpha), at.p.beta)


@layer("gelu")
def gelu(at: Layer) -> nl.Tensor:
    """The Gaussian error linear unit, exact or by tanh or sigmoid."""
    x = at.tensor()
    if at.p.mode == 2:
        return x * nl.sigmoid(x * 1.702)
    return nl.gelu(x, approximate="tanh" if at.p.mode == 1 else "none")


@layer("round")
def rounded(at: Layer) -> nl.Tensor:
    """The nearest integer."""
    return nl.rint(at.tensor())


def _plain(kind: str, name: str) -> None:
    @layer(kind)
    def translate(at: Layer) -> nl.Tensor:
        return getattr(nl, name)(at.tensor())  # type: ignore[no-any-return]

    translate.__doc__ = f"{name} of each element."


for _name in (
    "ceil", "floor", "sign", "exp2", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
    "tanh", "asinh", "acosh", "atanh", "erf",
):  # fmt: skip
    _plain(_name, _name)


@layer("copy", fold=False)
def copy(at: Layer) -> Any:
    """The input itself."""
    return at.value()
