"""Optimiser steps as graph functions: current values in, new values out; assign them yourself.

    new, velocity = nl.momentum(0.1, 0.9, w, w_velocity, gradient)
    steps = [w.assign(new), w_velocity.assign(velocity)]

Hyper-parameters are Python numbers or scalar tensors (a learning rate that changes needs no new
compilation). Results have the dtype of `value`. Each rule is that of the paper it names, in the
form PyTorch's optimiser of the same name computes.
"""

from __future__ import annotations

from typing import Any

from niello.core.dtypes import FLOATS
from niello.graph import opdef
from niello.graph.tensor import Tensor
from niello.ops.binary import maximum, power
from niello.ops.define import cast_to, check_dtype
from niello.ops.unary import sqrt, square


def scalar_of(value: Tensor, number: Any) -> Any:
    """A hyper-parameter beside `value`: a number, or a tensor of its dtype."""
    return cast_to(number, value.dtype) if isinstance(number, Tensor) else number


def scalars(asked: str, value: Tensor, *numbers: Any) -> list[Any]:
    """Hyper-parameters beside `value`, which must be of a float dtype."""
    check_dtype(asked, value.dtype, FLOATS)
    return [scalar_of(value, n) for n in numbers]


def is_zero(number: Any) -> bool:
    """A number, and zero: what it multiplies can be left out."""
    return isinstance(number, (int, float)) and number == 0


def decayed(value: Tensor, gradient: Tensor, weight_decay: Any) -> Tensor:
    """The gradient of the loss plus weight_decay / 2 times the squared values."""
    return gradient if is_zero(weight_decay) else gradient + value * weight_decay


@opdef.plain_function
def sgd(learning_rate: Any, value: Tensor, gradient: Tensor, *, weight_decay: Any = 0.0) -> Tensor:
    """Stochastic gradient descent: value - learning_rate * (gradient + weight_decay * value).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> w = graph.variable([1.0, 2.0])
        >>> step = w.assign(nl.sgd(0.1, w, w * 2.0))
    """
    rate, decay = scalars("sgd", value, learning_rate, weight_decay)
    step: Tensor = decayed(value, gradient, decay) * rate
    return value - step


@opdef.plain_function
def momentum(
    learning_rate: Any,
    mu: Any,
    value: Tensor,
    velocity: Tensor,
    gradient: Tensor,
    *,
    nesterov: bool = False,
    weight_decay: Any = 0.0,
) -> tuple[Tensor, Tensor]:
    """SGD with momentum; returns (value, velocity).

    velocity' = mu * velocity + gradient, value' = value - learning_rate * velocity'; with
    `nesterov` the step is along gradient + mu * velocity' (Sutskever et al. 2013).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> w, v = graph.variable([1.0, 2.0]), graph.variable([0.0, 0.0])
        >>> value, velocity = nl.momentum(0.1, 0.9, w, v, w * 2.0, nesterov=True)
    """
    rate, factor, decay = scalars("momentum", value, learning_rate, mu, weight_decay)
    slope = decayed(value, gradient, decay)
    new = velocity * factor + slope
    along = slope + new * factor if nesterov else new
    return value - along * rate, new


def moments(
    beta1: Any, beta2: Any, m: Tensor, v: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Running means of the gradient and of its square."""
    return (
        m * beta1 + gradient * (1.0 - beta1),
        v * beta2 + square(gradient) * (1.0 - beta2),
    )


def _adam_step(
    asked: str,
    learning_rate: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    step: Any,
    value: Tensor,
    m: Tensor,
    v: Tensor,
    gradient: Tensor,
    vmax: Tensor | None,
    decay: Any,
    decoupled: bool,
) -> tuple[Tensor, ...]:
    rate, b1, b2, eps, decay = scalars(asked, value, learning_rate, beta1, beta2, epsilon, decay)
    slope = gradient if decoupled else decayed(value, gradient, decay)
    start = value if not decoupled or is_zero(decay) else value * (1.0 - decay * rate)
    new_m, new_v = moments(b1, b2, m, v, slope)
    largest = None if vmax is None else maximum(vmax, new_v)
    count = scalar_of(value, step)
    if isinstance(count, Tensor):
        first, second = 1.0 - power(b1, count), sqrt(1.0 - power(b2, count))
    else:
        first, second = 1.0 - b1**count, (1.0 - b2**count) ** 0.5
    # PyTorch's epsilon: added to the corrected root, so here it is scaled by the correction.
    root = sqrt(new_v if largest is None else largest)
    new = start - new_m / (root + second * eps) * (rate * second / first)
    return (new, new_m, new_v) if largest is None else (new, new_m, new_v, largest)


@opdef.plain_function
def adam(
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
    vmax: Tensor | None = None,
    weight_decay: Any = 0.0,
) -> tuple[Tensor, ...]:
    """Adam (Kingma and Ba 2014); returns (value, m, v), and with `vmax` (value, m, v, vmax).

    `step` counts from 1 and is a number or a scalar tensor (of any dtype); the learning rate is
    corrected by sqrt(1 - beta2**step) / (1 - beta1**step), and epsilon is added to the corrected
    root as PyTorch does. `vmax`, the largest v so far, makes it AMSGrad (Reddi et al. 2018).
    `weight_decay` adds to the gradient.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> w, m, v = (graph.variable([1.0, 2.0]) for _ in range(3))
        >>> t = graph.variable(0.0)
        >>> new, new_m, new_v = nl.adam(1e-3, 0.9, 0.999, 1e-8, t + 1.0, w, m, v, w * 2.0)
    """
    return _adam_step(
        "adam", learning_rate, beta1, beta2, epsilon, step, value, m, v, gradient, vmax,
        weight_decay, decoupled=False,
    )  # fmt: skip


@opdef.plain_function
def adamw(
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
    vmax: Tensor | None = None,
    weight_decay: Any = 0.01,
) -> tuple[Tensor, ...]:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017); returns what `adam` does.

    The value first shrinks by learning_rate * weight_decay; the decay does not enter the moments.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> w, m, v = (graph.variable([1.0, 2.0]) for _ in range(3))
        >>> new, new_m, new_v = nl.adamw(1e-3, 0.9, 0.999, 1e-8, 1, w, m, v, w * 2.0)
    """
    return _adam_step(
        "adamw", learning_rate, beta1, beta2, epsilon, step, value, m, v, gradient, vmax,
        weight_decay, decoupled=True,
    )  # fmt: skip


@opdef.plain_function
def rmsprop(
    learning_rate: Any,
    decay: Any,
    epsilon: Any,
    value: Tensor,
    mean_square: Tensor,
    gradient: Tensor,
    *,
    mean: Tensor | None = None,
    mu: Any = 0.0,
    velocity: Tensor | None = None,
    weight_decay: Any = 0.0,
) -> tuple[Tensor, ...]:
    """RMSProp (Hinton 2012); returns (value, mean_square) and then mean, velocity where given.

    mean_square' = decay * mean_square + (1 - decay) * gradient**2, and the step is the gradient
    over sqrt(mean_square') + epsilon. With `mean`, the running mean of the gradient, its square is
    taken off mean_square' (centered, Graves 2013). With `velocity` steps add up:
    velocity' = mu * velocity + step.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> w, s = graph.variable([1.0, 2.0]), graph.variable([0.0, 0.0])
        >>> new, new_s = nl.rmsprop(1e-2, 0.99, 1e-8, w, s, w * 2.0)
    """
    rate, keep, eps, factor, shrink = scalars(
        "rmsprop", value, learning_rate, decay, epsilon, mu, weight_decay
    )
    slope = decayed(value, gradient, shrink)
    new_square = spread = mean_square * keep + square(slope) * (1.0 - keep)
    extra: tuple[Tensor, ...] = ()
    if mean is not None:
        extra = (mean * keep + slope * (1.0 - keep),)
        # A constant gradient leaves a difference of 0, which rounding may take below it.
        spread = maximum(new_square - square(extra[0]), 0.0)
    along = slope / (sqrt(spread) + eps)
    if velocity is None:
        return (value - along * rate, new_square, *extra)
    new_velocity = velocity * factor + along
    return (value - new_velocity * rate, new_square, *extra, new_velocity)
