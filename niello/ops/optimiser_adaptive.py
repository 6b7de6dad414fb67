"""Further optimiser steps, and what is done to gradients before a step.

The conventions are those of optimiser.py: current values in, new values out; hyper-parameters are
numbers or scalar tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from niello.core.dtypes import float32
from niello.core.errors import AttributeValueError
from niello.graph import opdef
from niello.graph.tensor import Tensor
from niello.ops.binary import power
from niello.ops.comparison import greater
from niello.ops.define import cast_to
from niello.ops.logical import logical_and
from niello.ops.optimiser import decayed, is_zero, moments, scalar_of, scalars
from niello.ops.select import clamp, select
from niello.ops.unary import sign, sqrt, square


@opdef.plain_function
def condition_gradient(
    gradient: Tensor,
    value: Tensor | None = None,
    *,
    rescale: Any = 1.0,
    clip: tuple[float, float] | None = None,
    l1: Any = 0.0,
    l2: Any = 0.0,
) -> Tensor:
    """A gradient ready for a step: rescaled, then clipped to [low, high], then regularised.

    Regularisation adds the gradient of l1 * sum(|value|) + l2 / 2 * sum(value**2); it needs
    `value`. Raises AttributeValueError when that is missing.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> w = graph.variable([1.0, 2.0])
        >>> nl.condition_gradient(w * 2.0, w, rescale=0.5, clip=(-1.0, 1.0), l2=1e-4).shape
        (2,)
    """
    scale, one, two = scalars("condition_gradient", gradient, rescale, l1, l2)
    found = gradient if isinstance(scale, (int, float)) and scale == 1 else gradient * scale
    if clip is not None:
        found = clamp(found, clip[0], clip[1])
    if is_zero(one) and is_zero(two):
        return found
    if value is None:
        raise AttributeValueError("condition_gradient", "l1 and l2 need the value", received=None)
    if not is_zero(one):
        found = found + sign(value) * one
    return decayed(value, found, two)


@opdef.plain_function
def clip_by_global_norm(gradients: Sequence[Tensor], largest: Any) -> list[Tensor]:
    """All gradients times min(1, largest / norm), the norm being that of all of them together.

    Squares are summed in float32 (or wider); a norm of 0 changes nothing (PyTorch's
    clip_grad_norm_ with norm_type 2).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> a, b = graph.variable([3.0, 0.0]), graph.variable([[4.0]])
        >>> [g.shape for g in nl.clip_by_global_norm([a * 2.0, b * 2.0], 1.0)]
        [(2,), (1, 1)]
    """
    call = opdef.functions()
    listed = list(gradients)
    if not listed:
        return []
    wide = [g if not g.dtype.is_half else cast_to(g, float32) for g in listed]
    total = call["sum"](square(wide[0]))
    for g in wide[1:]:
        total = total + call["sum"](square(g))
    norm = sqrt(total)
    limit = scalar_of(norm, largest)
    safe = select(greater(norm, 0.0), norm, 1.0)
    factor = select(greater(norm, limit), limit / safe, 1.0)
    return [g * cast_to(factor, g.dtype) for g in listed]


@opdef.plain_function
def lion(
    learning_rate: Any,
    beta1: Any,
    beta2: Any,
    value: Tensor,
    m: Tensor,
    gradient: Tensor,
    *,
    weight_decay: Any = 0.0,
) -> tuple[Tensor, Tensor]:
    """Lion (Chen et al. 2023); returns (value, m).

    The step is learning_rate * (sign(beta1 * m + (1 - beta1) * gradient) + weight_decay * value),
    and m' = beta2 * m + (1 - beta2) * gradient.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> w, m = graph.variable([1.0, 2.0]), graph.variable([0.0, 0.0])
        >>> new, new_m = nl.lion(1e-4, 0.9, 0.99, w, m, w * 2.0)
    """
    rate, b1, b2, decay = scalars("lion", value, learning_rate, beta1, beta2, weight_decay)
    along: Tensor = sign(m * b1 + gradient * (1.0 - b1))
    if not is_zero(decay):
        along = along + value * decay
    return value - along * rate, m * b2 + gradient * (1.0 - b2)


@opdef.plain_function
def lamb(
    learning_rate: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    step: Any,
    value: Tensor,
    m: Tensor,
    v: Tensor,
    gradient: Tensor,
    *,
    weight_decay: Any = 0.01,
    bounds: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """LAMB (You et al. 2019); returns (value, m, v).

    r = m^ / (sqrt(v^) + epsilon) + weight_decay * value with the corrected moments of Adam, and the
    step is learning_rate * |value| / |r| * r; where either norm is 0 the ratio is 1. `bounds` holds
    |value| between two numbers. The norms are those of the whole tensor; `step` counts from 1.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> w, m, v = (graph.variable([1.0, 2.0]) for _ in range(3))
        >>> new, new_m, new_v = nl.lamb(1e-3, 0.9, 0.999, 1e-6, 1, w, m, v, w * 2.0)
    """
    rate, b1, b2, eps, decay = scalars(
        "lamb", value, learning_rate, beta1, beta2, epsilon, weight_decay
    )
    new_m, new_v = moments(b1, b2, m, v, gradient)
    count = scalar_of(value, step)
    if isinstance(count, Tensor):
        first, second = 1.0 - power(b1, count), 1.0 - power(b2, count)
    else:
        first, second = 1.0 - b1**count, 1.0 - b2**count
    along = (new_m / first) / (sqrt(new_v / second) + eps)
    if not is_zero(decay):
        along = along + value * decay
    total = opdef.functions()["sum"]
    size: Tensor = sqrt(total(square(value)))
    if bounds is not None:
        size = clamp(size, bounds[0], bounds[1])
    length = sqrt(total(square(along)))
    usable = logical_and(greater(size, 0.0), greater(length, 0.0))
    ratio = select(usable, size / select(usable, length, 1.0), 1.0)
    return value - along * (ratio * rate), new_m, new_v


@opdef.plain_function
def adagrad(
    learning_rate: Any,
    epsilon: Any,
    value: Tensor,
    total: Tensor,
    gradient: Tensor,
    *,
    step: Any = 1,
    rate_decay: Any = 0.0,
    weight_decay: Any = 0.0,
) -> tuple[Tensor, Tensor]:
    """Adagrad (Duchi et al. 2011); returns (value, total).

    total' = total + gradient**2, and the step is rate * gradient / (sqrt(total') + epsilon) with
    rate = learning_rate / (1 + (step - 1) * rate_decay); `step` counts from 1.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> w, s = graph.variable([1.0, 2.0]), graph.variable([0.0, 0.0])
        >>> new, new_s = nl.adagrad(1e-2, 1e-10, w, s, w * 2.0)
    """
    rate, eps, count, slowing, decay = scalars(
        "adagrad", value, learning_rate, epsilon, step, rate_decay, weight_decay
    )
    slope = decayed(value, gradient, decay)
    new_total = total + square(slope)
    if not is_zero(slowing):
        rate = rate / ((count - 1.0) * slowing + 1.0)
    return value - slope / (sqrt(new_total) + eps) * rate, new_total


@opdef.plain_function
def adadelta(
    learning_rate: Any,
    rho: Any,
    epsilon: Any,
    value: Tensor,
    mean_square: Tensor,
    mean_step: Tensor,
    gradient: Tensor,
    *,
    weight_decay: Any = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Adadelta (Zeiler 2012); returns (value, mean_square, mean_step).

    mean_square' = rho * mean_square + (1 - rho) * gradient**2, the step is
    d = sqrt(mean_step + epsilon) / sqrt(mean_square' + epsilon) * gradient,
    mean_step' = rho * mean_step + (1 - rho) * d**2 and value' = value - learning_rate * d.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> w, s, d = (graph.variable([1.0, 2.0]) for _ in range(3))
        >>> new, new_s, new_d = nl.adadelta(1.0, 0.9, 1e-6, w, s, d, w * 2.0)
    """
    rate, keep, eps, decay = scalars("adadelta", value, learning_rate, rho, epsilon, weight_decay)
    slope = decayed(value, gradient, decay)
    new_square = mean_square * keep + square(slope) * (1.0 - keep)
    along = sqrt(mean_step + eps) / sqrt(new_square + eps) * slope
    return value - along * rate, new_square, mean_step * keep + square(along) * (1.0 - keep)
