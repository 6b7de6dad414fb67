"""Activations and softmax."""

from __future__ import annotations

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates

PLAIN = {
    "HardSwish": "hard_swish",
    "Mish": "mish",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Tanh": "tanh",
}


@translates(*PLAIN)
def plain(at: Call) -> nl.Tensor:
    """Activations without settings."""
    x = at.tensor(0)
    if at.operator == "Relu" and x.dtype.is_integer:
        return nl.maximum(x, at.like(0))
    return getattr(nl, PLAIN[at.operator])(x)  # type: ignore[no-any-return]


@translates("Elu")
def elu(at: Call) -> nl.Tensor:
    """Exponential linear unit."""
    return nl.elu(at.tensor(0), alpha=at.real("alpha", 1.0))


@translates("Celu")
def celu(at: Call) -> nl.Tensor:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))"""
    x, alpha = at.tensor(0), at.real("alpha", 1.0)
    return nl.elu(x / alpha) * alpha


@translates("Selu")
def selu(at: Call) -> nl.Tensor:
    """Scaled exponential linear unit."""
    alpha = at.real("alpha", 1.67326319217681884765625)
    gamma = at.real("gamma", 1.05070102214813232421875)
    return nl.elu(at.tensor(0), alpha=alpha) * gamma


@translates("LeakyRelu")
def leaky_relu(at: Call) -> nl.Tensor:
    """x, or alpha * x below zero."""
    return nl.leaky_relu(at.tensor(0), alpha=at.real("alpha", 0.01))


@translates("PRelu")
def prelu(at: Call) -> nl.Tensor:
    """x, or slope * x below zero."""
    x, slope = at.tensor(0), at.tensor(1)
    if at.version < 7 and at.rank(1) == 1 and at.rank(0) > 1 and at.shape(1) != (1,):
        slope = nl.reshape(slope, (-1, *(1,) * (at.rank(0) - 2)))
    return nl.select(nl.less(x, at.like(0)), nl.multiply(x, slope), x)


@translates("HardSigmoid")
def hard_sigmoid(at: Call) -> nl.Tensor:
    """alpha * x + beta between 0 and 1."""
    alpha, beta = at.real("alpha", 0.2), at.real("beta", 0.5)
    return nl.hard_sigmoid(at.tensor(0), alpha=alpha, beta=beta)


@translates("Softsign")
def softsign(at: Call) -> nl.Tensor:
    """x / (1 + |x|)"""
    x = at.tensor(0)
    return x / (nl.absolute(x) + 1.0)


@translates("ThresholdedRelu")
def thresholded_relu(at: Call) -> nl.Tensor:
    """x above alpha, else 0."""
    x = at.tensor(0)
    return nl.select(nl.greater(x, at.like(at.real("alpha", 1.0))), x, at.like(0))


@translates("Shrink")
def shrink(at: Call) -> nl.Tensor:
    """x - bias above lambd, x + bias below -lambd, 0 between."""
    x = at.tensor(0)
    bias, limit = at.real("bias", 0.0), at.real("lambd", 0.5)
    kind = x.dtype
    wide = x if kind.is_float else nl.cast(x, nl.float32)
    above = nl.select(wide > limit, wide - bias, at.constant(np.zeros((), wide.dtype.numpy)))
    return nl.cast(nl.select(wide < -limit, wide + bias, above), kind)


@translates("Gelu")
def gelu(at: Call) -> nl.Tensor:
    """Gaussian error linear unit."""
    return nl.gelu(at.tensor(0), approximate=at.text("approximate", "none"))


@translates("Swish")
def swish(at: Call) -> nl.Tensor:
    """x * sigmoid(alpha * x)"""
    x, alpha = at.tensor(0), at.real("alpha", 1.0)
    return nl.silu(x) if alpha == 1.0 else x * nl.sigmoid(x * alpha)


@translates("Softmax", "LogSoftmax", since=13)
def softmax(at: Call) -> nl.Tensor:
    """Softmax along one axis."""
    function = nl.softmax if at.operator == "Softmax" else nl.log_softmax
    return function(at.tensor(0), axis=at.integer("axis", -1))


@translates("Softmax", "LogSoftmax", "Hardmax")
def flat_softmax(at: Call) -> nl.Tensor:
    """Before opset 13: along all axes from `axis` on, as one."""
    x, rank = at.tensor(0), at.rank(0)
    axis = at.integer("axis", 1)
    axes = tuple(range(axis % rank if rank else 0, rank)) or None
    if at.operator != "Hardmax":
        function = nl.softmax if at.operator == "Softmax" else nl.log_softmax
        return function(x, axis=axes)
    shape = at.shape(0)
    flat = nl.reshape(x, (int(np.prod(shape[: axes[0]], dtype=np.int64)), -1)) if axes else x
    return nl.reshape(_hardmax(flat, -1), shape)


@translates("Hardmax", since=13)
def hardmax(at: Call) -> nl.Tensor:
    """1 at the first largest element along the axis, 0 elsewhere."""
    return _hardmax(at.tensor(0), at.integer("axis", -1))


def _hardmax(x: nl.Tensor, axis: int) -> nl.Tensor:
    assert x.shape is not None
    depth = x.shape[axis]
    assert depth is not None
    return nl.one_hot(nl.argmax(x, axis=axis), depth, axis=axis, dtype=x.dtype)
