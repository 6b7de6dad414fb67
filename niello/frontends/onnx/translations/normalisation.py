"""Normalisations."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.translations.random import drawn


@translates("BatchNormalization")
def batch_normalization(at: Call) -> Any:
    """By given statistics; in training mode by those of the batch, with running averages."""
    x, epsilon = at.tensor(0), at.real("epsilon", 1e-5)
    scale, bias, mean, variance = (at.tensor(i) for i in range(1, 5))
    training = at.integer("training_mode", 0) if at.version >= 14 else False
    if not training:
        axis = 1 if at.rank(0) > 1 else 0
        return nl.batch_norm(x, mean, variance, scale, bias, axis=axis, epsilon=epsilon)
    momentum = at.real("momentum", 0.9)
    y, found_mean, found_variance = nl.batch_norm_training(x, scale, bias, axis=1, epsilon=epsilon)
    new_mean = mean * momentum + nl.cast(found_mean, mean.dtype) * (1 - momentum)
    new_variance = variance * momentum + nl.cast(found_variance, variance.dtype) * (1 - momentum)
    return y, new_mean, new_variance


@translates("InstanceNormalization")
def instance_normalization(at: Call) -> nl.Tensor:
    """Each channel of each element by its own statistics."""
    scale, bias = at.tensor(1), at.tensor(2)
    return nl.instance_norm(at.tensor(0), scale, bias, epsilon=at.real("epsilon", 1e-5))


@translates("GroupNormalization", since=21)
def group_normalization(at: Call) -> nl.Tensor:
    """Each group of channels of each element by its own statistics."""
    groups, epsilon = at.integer("num_groups"), at.real("epsilon", 1e-5)
    x = at.tensor(0)
    return nl.group_norm(x, groups, at.tensor(1), at.tensor(2), epsilon=epsilon)


@translates("GroupNormalization", since=18)
def group_normalization_18(at: Call) -> nl.Tensor:
    """The first version scales groups, not channels."""
    groups, epsilon = at.integer("num_groups"), at.real("epsilon", 1e-5)
    x, channels = at.tensor(0), at.shape(0)[1]
    each = channels // groups
    spread = [
        nl.reshape(nl.broadcast_to(nl.expand_dims(at.tensor(i), 1), (groups, each)), (channels,))
        for i in (1, 2)
    ]
    return nl.group_norm(x, groups, spread[0], spread[1], epsilon=epsilon)


@translates("LayerNormalization")
def layer_normalization(at: Call) -> Any:
    """Over the axes from `axis` on; mean and 1 / deviation are further outputs."""
    x, rank = at.tensor(0), at.rank(0)
    axes = tuple(range(at.integer("axis", -1) % rank, rank))
    epsilon = at.real("epsilon", 1e-5)
    y = layer_norm(x, at.tensor(1), at.optional(2), axes, epsilon)
    if not (at.wants(1) or at.wants(2)):
        return y
    wide = nl.cast(x, nl.float32) if x.dtype.is_half else x
    mean = nl.mean(wide, axes, True)
    variance = nl.variance(wide, axes, True)
    kind = at.dtype_attribute("stash_type", nl.float32)
    return y, nl.cast(mean, kind), nl.cast(nl.rsqrt(variance + epsilon), kind)


def layer_norm(
    x: nl.Tensor, scale: nl.Tensor, bias: nl.Tensor | None, axes: tuple[int, ...], epsilon: float
) -> nl.Tensor:
    """Layer normalisation, with scale and bias that broadcast to x."""
    assert x.shape is not None
    shape = tuple(x.shape[a] for a in axes)
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return nl.layer_norm(x, scale, bias, axes=axes, epsilon=epsilon)
    y = nl.layer_norm(x, axes=axes, epsilon=epsilon) * scale
    return y if bias is None else y + bias


@translates("RMSNormalization")
def rms_normalization(at: Call) -> nl.Tensor:
    """x over the root of its mean square, from `axis` on."""
    rank = at.rank(0)
    axes = tuple(range(at.integer("axis", -1) % rank, rank))
    x, scale = at.tensor(0), at.tensor(1)
    y = nl.rms_norm(x, axes=axes, epsilon=at.real("epsilon", 1e-5))
    return nl.cast(y, scale.dtype) * scale


@translates("LpNormalization")
def lp_normalization(at: Call) -> nl.Tensor:
    """x over its norm along an axis; 0 where the norm is 0."""
    x, axis = at.tensor(0), at.integer("axis", -1)
    if at.integer("p", 2) == 1:
        norm = nl.sum(nl.absolute(x), axis, True)
    else:
        norm = nl.sqrt(nl.sum(nl.square(x), axis, True))
    return nl.divide_no_nan(x, norm)


@translates("MeanVarianceNormalization")
def mean_variance_normalization(at: Call) -> nl.Tensor:
    """(x - mean) / deviation over axes."""
    x, axes = at.tensor(0), tuple(at.ints("axes", [0, 2, 3]))
    mean = nl.mean(x, axes, True)
    deviation = nl.sqrt(nl.mean(nl.square(x), axes, True) - nl.square(mean))
    return (x - mean) / (deviation + 1e-9)


@translates("LRN")
def local_response_normalization(at: Call) -> nl.Tensor:
    """x over a power of the mean square of nearby channels."""
    x, size = at.tensor(0), at.integer("size")
    alpha, beta, bias = at.real("alpha", 1e-4), at.real("beta", 0.75), at.real("bias", 1.0)
    squares, channels = nl.square(x), at.shape(0)[1]
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    pairs = [(0, 0), (before, after), *[(0, 0)] * (at.rank(0) - 2)]
    wide = nl.pad(squares, pairs)
    total = nl.slice(wide, [0], [channels], axes=[1])
    for k in range(1, size):
        total = total + nl.slice(wide, [k], [k + channels], axes=[1])
    return x / nl.power(total * (alpha / size) + bias, beta)


@translates("Dropout", fold=False)
def dropout(at: Call) -> Any:
    """The input itself, and in training mode elements dropped at random."""
    x = at.tensor(0)
    training = at.version >= 12 and at.has(2) and bool(at.array(2).reshape(()))
    ratio = float(at.array(1).reshape(())) if at.version >= 12 and at.has(1) else 0.5
    everything = np.broadcast_to(np.array(True), at.shape(0)) if at.wants(1) else None
    if not training or ratio == 0.0:
        # The mask was of the type of x before opset 10.
        if everything is not None and at.version < 10:
            everything = everything.astype(x.dtype.numpy)
        return at.value(0) if everything is None else (at.value(0), everything)
    sizes = at.shape(0)
    values = drawn(at, lambda s: nl.random_uniform(sizes, s))
    kept = nl.greater_equal(values, at.constant(ratio, nl.float32))
    scale = at.like(1 / (1 - ratio)) if ratio < 1 else at.like(0)
    return nl.select(kept, x * scale, at.like(0)), kept
