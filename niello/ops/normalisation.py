"""The functions users call to normalise; their ops are in normalise.py."""

from __future__ import annotations

from typing import Any

from niello.core.errors import AttributeValueError
from niello.graph.opdef import function
from niello.graph.tensor import Tensor
from niello.ops.define import as_operand, cast_to
from niello.ops.movement import (
    apply,
    integer,
    known_axes,
    known_axis,
    require_rank,
    tensor_of,
    wide,
)
from niello.ops.normalise import (
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Normalise,
    RMSNorm,
    channel_vector,
)


def _epsilon(asked: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or not value >= 0:
        raise AttributeValueError(
            asked, "epsilon must be a number, not negative", received=repr(value)
        )
    return float(value)


def _given(asked: str, x: Tensor, *values: Any) -> list[Tensor]:
    """The optional operands that are there, as tensors."""
    return [as_operand(asked, x, v) for v in values if v is not None]


@function
def normalise(
    x: Tensor,
    mean: Any,
    variance: Any,
    gamma: Any = None,
    beta: Any = None,
    *,
    epsilon: float = 1e-5,
    name: str | None = None,
) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, with given statistics.

    Every operand broadcasts to `x`; `gamma` and `beta` may be absent. The result has the dtype of
    `x`. Raises ShapeError for operands that would make the result larger than `x`.

    Example:
        >>> import niello as nl
        >>> x = nl.Graph().placeholder((2, 3))
        >>> nl.normalise(x, x.mean(1, True), x.variance(1, True)).shape
        (2, 3)
    """
    tensor_of("normalise", x)
    op = Normalise(_epsilon("normalise", epsilon), gamma is not None, beta is not None)
    return apply(op, x, *_given("normalise", x, mean, variance, gamma, beta), name=name)


@function
def layer_norm(
    x: Tensor,
    gamma: Any = None,
    beta: Any = None,
    *,
    axes: Any = -1,
    epsilon: float = 1e-5,
    name: str | None = None,
) -> Tensor:
    """`x` with mean 0 and variance 1 over `axes`, times `gamma`, plus `beta`.

    `axes` is an int or several; `gamma` and `beta`, which may be absent, broadcast to `x`. Raises
    ShapeError where they do not. As ONNX's LayerNormalization (Ba et al. 2016).

    Example:
        >>> import niello as nl
        >>> nl.layer_norm(nl.Graph().placeholder((None, 64))).shape
        (None, 64)
    """
    known = known_axes("layer_norm", axes, tensor_of("layer_norm", x).rank)
    op = LayerNorm(known, _epsilon("layer_norm", epsilon), gamma is not None, beta is not None)
    return apply(op, x, *_given("layer_norm", x, gamma, beta), name=name)


@function
def rms_norm(
    x: Tensor, gamma: Any = None, *, axes: Any = -1, epsilon: float = 1e-5, name: str | None = None
) -> Tensor:
    """x / sqrt(mean(x * x) + epsilon) * gamma, with the mean over `axes`.

    `gamma`, which may be absent, broadcasts to `x`. As ONNX's RMSNormalization (Zhang and Sennrich
    2019).

    Example:
        >>> import niello as nl
        >>> nl.rms_norm(nl.Graph().placeholder((None, 64))).shape
        (None, 64)
    """
    known = known_axes("rms_norm", axes, tensor_of("rms_norm", x).rank)
    op = RMSNorm(known, _epsilon("rms_norm", epsilon), gamma is not None, False)
    return apply(op, x, *_given("rms_norm", x, gamma), name=name)


@function
def batch_norm(
    x: Tensor,
    mean: Any,
    variance: Any,
    gamma: Any = None,
    beta: Any = None,
    *,
    axis: int = 1,
    epsilon: float = 1e-5,
    name: str | None = None,
) -> Tensor:
    """Batch normalisation with given statistics: the form for inference.

    `mean`, `variance` and, where present, `gamma` and `beta` are vectors with one element for each
    channel; `axis` is the channels' (1 for NCHW, -1 for NHWC). Raises ShapeError when they do not
    fit. As ONNX's BatchNormalization.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> x, m, v = g.placeholder((2, 3, 4)), g.placeholder((3,)), g.placeholder((3,))
        >>> nl.batch_norm(x, m, v, axis=1).shape
        (2, 3, 4)
    """
    tensor_of("batch_norm", x)
    given = [
        None if p is None else channel_vector("batch_norm", as_operand("batch_norm", x, p), x, axis)
        for p in (mean, variance, gamma, beta)
    ]
    return normalise(x, *given, epsilon=epsilon, name=name)


@function
def batch_norm_training(
    x: Tensor,
    gamma: Any = None,
    beta: Any = None,
    *,
    axis: int = 1,
    epsilon: float = 1e-5,
    name: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation with the statistics of `x` itself: the form for training.

    Returns the result, and the mean and the (population) variance of each channel, from which
    running averages are kept. `gamma` and `beta`, where present, are vectors with one element for
    each channel; `axis` is the channels' (1 for NCHW, -1 for NHWC). Raises ShapeError when they do
    not fit. (Ioffe and Szegedy 2015.)

    Example:
        >>> import niello as nl
        >>> y, mean, variance = nl.batch_norm_training(nl.Graph().placeholder((8, 3, 4, 4)))
        >>> y.shape, mean.shape
        ((8, 3, 4, 4), (3,))
    """
    asked = "batch_norm_training"
    rank = require_rank(asked, tensor_of(asked, x).type, "to tell the axes")
    op = BatchNorm(
        known_axis(asked, axis, rank), _epsilon(asked, epsilon), gamma is not None, beta is not None
    )
    y = apply(op, x, *_given(asked, x, gamma, beta), name=name)
    # The same operations as inside the op, so that they are shared with it.
    w = wide(x)
    axes = op.axes_of(rank)
    mean = w.mean(axes, True)
    centred = w - mean
    variance = (centred * centred).mean(axes, True)
    return y, cast_to(mean.squeeze(axes), x.dtype), cast_to(variance.squeeze(axes), x.dtype)


@function
def instance_norm(
    x: Tensor,
    gamma: Any = None,
    beta: Any = None,
    *,
    axis: int = 1,
    epsilon: float = 1e-5,
    name: str | None = None,
) -> Tensor:
    """`x` with mean 0 and variance 1 in each channel of each element of the batch (axis 0).

    `gamma` and `beta`, where present, are vectors with one element for each channel; `axis` is the
    channels' (1 for NCHW, -1 for NHWC). Raises ShapeError when they do not fit. As ONNX's
    InstanceNormalization.

    Example:
        >>> import niello as nl
        >>> nl.instance_norm(nl.Graph().placeholder((8, 3, 4, 4))).shape
        (8, 3, 4, 4)
    """
    axis = known_axis("instance_norm", axis, tensor_of("instance_norm", x).rank)
    op = InstanceNorm(axis, _epsilon("instance_norm", epsilon), gamma is not None, beta is not None)
    return apply(op, x, *_given("instance_norm", x, gamma, beta), name=name)


@function
def group_norm(
    x: Tensor,
    groups: int,
    gamma: Any = None,
    beta: Any = None,
    *,
    axis: int = 1,
    epsilon: float = 1e-5,
    name: str | None = None,
) -> Tensor:
    """`x` with mean 0 and variance 1 in each of `groups` groups of channels, for each element of
    the batch (axis 0).

    `gamma` and `beta`, where present, are vectors with one element for each channel; `axis` is the
    channels' (1 for NCHW, -1 for NHWC). Raises ShapeError when they do not fit, or the groups do
    not divide the channels. As ONNX's GroupNormalization (Wu and He 2018).

    Example:
        >>> import niello as nl
        >>> nl.group_norm(nl.Graph().placeholder((8, 6, 4, 4)), 3).shape
        (8, 6, 4, 4)
    """
    axis = known_axis("group_norm", axis, tensor_of("group_norm", x).rank)
    count = integer("group_norm", groups, "the number of groups")
    if count < 1:
        raise AttributeValueError("group_norm", "there must be at least one group", received=count)
    op = GroupNorm(
        axis, count, _epsilon("group_norm", epsilon), gamma is not None, beta is not None
    )
    return apply(op, x, *_given("group_norm", x, gamma, beta), name=name)
