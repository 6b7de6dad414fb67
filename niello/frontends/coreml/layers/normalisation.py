"""Normalisations."""

from __future__ import annotations

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer
from niello.frontends.coreml.weights import is_given


@layer("batchnorm")
def batch_norm(at: Layer) -> nl.Tensor:
    """Batch norm by stored mean and variance, or with the image's own (instance norm)."""
    p, channels = at.p, int(at.p.channels)
    x = at.images()
    gamma = (
        at.weights(p.gamma, channels) if is_given(p.gamma) else at.constant([1.0] * channels, "f4")
    )
    beta = at.weights(p.beta, channels) if is_given(p.beta) else at.constant([0.0] * channels, "f4")
    if p.computeMeanVar and p.instanceNormalization:
        return at.like(nl.instance_norm(x, gamma, beta, epsilon=p.epsilon))
    if p.computeMeanVar:
        return at.like(nl.batch_norm_training(x, gamma, beta, epsilon=p.epsilon)[0])
    mean, variance = at.weights(p.mean, channels), at.weights(p.variance, channels)
    return at.like(nl.batch_norm(x, mean, variance, gamma, beta, epsilon=p.epsilon))


@layer("mvn")
def mean_variance(at: Layer) -> nl.Tensor:
    """x - mean, divided by (deviation + epsilon), over the image's or each channel's pixels."""
    p = at.p
    axes = (-3, -2, -1) if p.acrossChannels else (-2, -1)
    x = at.tensor()
    centred = x - nl.mean(x, axes, True)
    if not p.normalizeVariance:
        return centred
    return centred / (nl.sqrt(nl.mean(centred * centred, axes, True)) + p.epsilon)


@layer("l2normalize")
def l2_normalise(at: Layer) -> nl.Tensor:
    """x / sqrt(sum of squares + epsilon) over the last three axes."""
    x = at.tensor()
    axes = tuple(range(-min(3, at.rank()), 0))
    return x / nl.sqrt(nl.sum(x * x, axes, True) + at.p.epsilon)


def local_response(
    x: nl.Tensor, size: int, alpha: float, beta: float, k: float, axis: int
) -> nl.Tensor:
    """x / (k + alpha / size * sum of squares of `size` neighbouring channels) ** beta."""
    assert x.shape is not None
    channels = x.shape[axis]
    assert channels is not None
    before = (size - 1) // 2
    padding = [(0, 0)] * len(x.shape)
    padding[axis] = (before, size - 1 - before)
    squares = nl.pad(x * x, padding)
    total = nl.slice(squares, [0], [channels], axes=(axis,))
    for i in range(1, size):
        total = total + nl.slice(squares, [i], [i + channels], axes=(axis,))
    return x / nl.power(total * (alpha / size) + k, beta)


@layer("lrn")
def lrn(at: Layer) -> nl.Tensor:
    """Local response normalisation over channels."""
    p = at.p
    return local_response(at.tensor(), int(p.localSize), p.alpha, p.beta, p.k, at.rank() - 3)


@layer("softmax")
def softmax(at: Layer) -> nl.Tensor:
    """Softmax over the third axis from the end; over the last of what has fewer."""
    return nl.softmax(at.tensor(), -3 if at.rank() >= 3 else -1)


@layer("softmaxND")
def softmax_nd(at: Layer) -> nl.Tensor:
    """Softmax over an axis."""
    return nl.softmax(at.tensor(), at.axis(at.p.axis))


@layer("layerNormalization")
def layer_norm(at: Layer) -> nl.Tensor:
    """Layer norm over the last axes."""
    p = at.p
    shape = [int(d) for d in p.normalizedShape]
    axes = tuple(range(-len(shape), 0))
    gamma, beta = at.weights(p.gamma, *shape), at.weights(p.beta, *shape)
    return nl.layer_norm(at.tensor(), gamma, beta, axes=axes, epsilon=p.eps)
