"""Activations. Definitions follow PyTorch; the forms here do not overflow for large arguments.

At a kink (relu at 0, the corners of the hard functions) the gradient is that of the flat side, or
for leaky_relu, elu and selu that of the negative side: PyTorch's convention.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from niello.core.dtypes import FLOATS, NUMBERS
from niello.core.errors import AttributeValueError
from niello.graph import opdef
from niello.graph.opdef import real, sample
from niello.graph.tensor import Tensor
from niello.ops.comparison import greater, less
from niello.ops.define import elementwise
from niello.ops.logical import logical_and
from niello.ops.select import clamp, select
from niello.ops.unary import absolute, erf, exp, numpy_erf, square, tanh

SQRT_HALF = math.sqrt(0.5)
INVERSE_SQRT_TAU = 1.0 / math.sqrt(2.0 * math.pi)
GELU_SCALE = math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715
# Klambauer et al., "Self-Normalizing Neural Networks" (2017).
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805

_LARGE = np.array([0.0, -0.0, 80.0, -80.0, 1000.0, -1000.0, 1e-6, -1e-6, np.nan])
_large = sample(_LARGE, grad=False)
# Far enough that exp overflows in float32, for gradients as well.
_wide = sample(np.array([-120.0, -30.0, 30.0, 120.0]), tolerance=4.0)
_plain = (sample(real(2, 3, low=-3.0, high=3.0)), sample(real(0, 3)), _large)


# --- rectifiers
relu = elementwise(
    "relu",
    NUMBERS,
    numpy=lambda x: np.maximum(x, 0),
    scalar=lambda k, x: k.max(x, 0),
    grad=lambda g, x, y: select(greater(y, 0.0), g, 0.0),
    samples=[*_plain, _wide, sample(np.array([np.inf, -np.inf]), grad=False)],
    doc="max(x, 0) for each element; NaN stays NaN. The gradient at 0 is 0.",
)


def _leak(k: Any, x: Any, alpha: Any) -> Any:
    return k.where(x >= 0.0, x, x * alpha)


def _prelu_grad(g: Tensor, x: Tensor, alpha: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    positive = greater(x, 0.0)
    return select(positive, g, g * alpha), select(positive, 0.0, g * x)


_leaky_relu = elementwise(
    "leaky_relu",
    FLOATS,
    numpy=lambda x, alpha: np.where(x >= 0, x, x * x.dtype.type(alpha)),
    scalar=_leak,
    grad=lambda g, x, y, alpha: select(greater(x, 0.0), g, g * alpha),
    samples=[*_plain, sample(real(2, 3), alpha=0.3), sample(real(2, 3), alpha=0.0), _wide],
    attributes={"alpha": 0.01},
    doc="x where x >= 0, else alpha * x.",
    publish=False,
)

prelu = elementwise(
    "prelu",
    FLOATS,
    numpy=lambda x, alpha: np.where(x >= 0, x, x * alpha),
    scalar=_leak,
    grad=_prelu_grad,
    samples=[
        sample(real(2, 3), real(2, 3)),
        sample(real(2, 3, 2), real(3, 1, low=0.1, high=0.5)),
        sample(real(4), real()),
        sample(real(0, 3), real(3)),
    ],
    doc="x where x >= 0, else alpha * x, with a tensor alpha that broadcasts (per channel, say).",
)


@opdef.function
def leaky_relu(x: Any, alpha: Any = 0.01, *, name: str | None = None) -> Tensor:
    """x where x >= 0, else alpha * x.

    `alpha` is a number, or a tensor that broadcasts (then this is `prelu`). The gradient at 0 is
    alpha.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.leaky_relu(graph.placeholder((2, 3)), 0.2).shape
        (2, 3)
    """
    if isinstance(alpha, (int, float)):
        return _leaky_relu(x, float(alpha), name=name)
    return prelu(x, alpha, name=name)


# --- sigmoid and its kin
def sigmoid_expr(k: Any, x: Any) -> Any:
    """1 / (1 + exp(-x)): exp may overflow to infinity, and the quotient is then rightly 0."""
    return 1.0 / (k.exp(-x) + 1.0)


def softplus_expr(k: Any, x: Any) -> Any:
    """log(1 + exp(x)) without overflow."""
    return k.max(x, 0.0) + k.log1p(k.exp(-k.abs(x)))


def numpy_sigmoid(x: np.ndarray) -> Any:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def numpy_softplus(x: np.ndarray) -> Any:
    return np.logaddexp(x, x.dtype.type(0))


sigmoid = elementwise(
    "sigmoid",
    FLOATS,
    numpy=numpy_sigmoid,
    scalar=sigmoid_expr,
    grad=lambda g, x, y: g * (y * (1.0 - y)),
    samples=[*_plain, _wide, sample(np.array([np.inf, -np.inf]), grad=False)],
    doc="Logistic function, 1 / (1 + exp(-x)).",
)

softplus = elementwise(
    "softplus",
    FLOATS,
    numpy=numpy_softplus,
    scalar=softplus_expr,
    grad=lambda g, x, y: g * sigmoid(x),
    samples=[*_plain, _wide, sample(np.array([np.inf, -np.inf]), grad=False)],
    doc="log(1 + exp(x)), a smooth relu, without overflow for large x.",
)


def _silu_grad(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    s = sigmoid(x)
    return g * (s + y * (1.0 - s))


silu = elementwise(
    "silu",
    FLOATS,
    numpy=lambda x: x * numpy_sigmoid(x),
    scalar=lambda k, x: x / (k.exp(-x) + 1.0),
    grad=_silu_grad,
    samples=[*_plain, _wide],
    doc="x * sigmoid(x), also called swish.",
)


def _mish_grad(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    t = tanh(softplus(x))
    return g * (t + x * sigmoid(x) * (1.0 - t * t))


mish = elementwise(
    "mish",
    FLOATS,
    numpy=lambda x: x * np.tanh(numpy_softplus(x)),
    scalar=lambda k, x: x * k.tanh(softplus_expr(k, x)),
    grad=_mish_grad,
    samples=[*_plain, _wide],
    doc="x * tanh(softplus(x)) (Misra 2019).",
)


# --- gelu
def _gelu(k: Any, x: Any, approximate: str) -> Any:
    if approximate == "tanh":
        inner = x * (x * x * GELU_CUBIC + 1.0) * GELU_SCALE
        return x * 0.5 * (k.tanh(inner) + 1.0)
    return x * 0.5 * (k.erf(x * SQRT_HALF) + 1.0)


def _numpy_gelu(x: np.ndarray, approximate: str) -> Any:
    kind = x.dtype.type
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(kind(GELU_SCALE) * (x + kind(GELU_CUBIC) * x**3)))
    return x / 2 * (1 + numpy_erf(x * kind(SQRT_HALF)))


def _gelu_grad(g: Tensor, x: Tensor, y: Tensor, approximate: str) -> Tensor:
    if approximate == "none":
        density = exp(square(x) * -0.5) * INVERSE_SQRT_TAU
        return g * ((erf(x * SQRT_HALF) + 1.0) * 0.5 + x * density)
    # Beyond +-20 the slope of tanh is 0 and its factor would overflow: 0 * inf.
    near = clamp(x, -20.0, 20.0)
    squared = square(near)
    t = tanh(near * (squared * GELU_CUBIC + 1.0) * GELU_SCALE)
    slope = (squared * (3.0 * GELU_CUBIC) + 1.0) * GELU_SCALE
    return g * ((t + 1.0) * 0.5 + near * (1.0 - t * t) * slope * 0.5)


_gelu_op = elementwise(
    "gelu",
    FLOATS,
    numpy=_numpy_gelu,
    scalar=_gelu,
    grad=_gelu_grad,
    samples=[
        *_plain,
        _wide,
        sample(real(2, 3, low=-3.0, high=3.0), approximate="tanh"),
        sample(_LARGE, approximate="tanh", grad=False),
        sample(np.array([-120.0, -30.0, 30.0, 120.0]), approximate="tanh", tolerance=4.0),
    ],
    attributes={"approximate": "none"},
    doc="x times the normal distribution function of x, or its tanh form (Hendrycks, Gimpel 2016).",
    publish=False,
)


@opdef.function
def gelu(x: Any, *, approximate: str = "none", name: str | None = None) -> Tensor:
    """Gaussian error linear unit, x * (1 + erf(x / sqrt(2))) / 2.

    `approximate="tanh"` is x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2. Source:
    Hendrycks and Gimpel (2016). Raises AttributeValueError for another `approximate`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.gelu(graph.placeholder((2, 3)), approximate="tanh").shape
        (2, 3)
    """
    if approximate not in ("none", "tanh"):
        raise AttributeValueError(
            "gelu",
            "unknown approximation",
            received=repr(approximate),
            advice="Use 'none' or 'tanh'",
        )
    return _gelu_op(x, approximate, name=name)


# --- exponential linear units
def _elu(k: Any, x: Any, alpha: float) -> Any:
    return k.where(x > 0.0, x, k.expm1(x) * alpha)


elu = elementwise(
    "elu",
    FLOATS,
    numpy=lambda x, alpha: np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(x)),
    scalar=_elu,
    # alpha * exp(x) = y + alpha where x <= 0, and nothing overflows where x is large.
    grad=lambda g, x, y, alpha: select(greater(x, 0.0), g, g * (y + alpha)),
    samples=[*_plain, _wide, sample(real(2, 3), alpha=0.5)],
    attributes={"alpha": 1.0},
    doc="x where x > 0, else alpha * (exp(x) - 1) (Clevert et al. 2015). Gradient alpha at 0.",
)

selu = elementwise(
    "selu",
    FLOATS,
    numpy=lambda x: (
        x.dtype.type(SELU_SCALE) * np.where(x > 0, x, x.dtype.type(SELU_ALPHA) * np.expm1(x))
    ),
    scalar=lambda k, x: _elu(k, x, SELU_ALPHA) * SELU_SCALE,
    grad=lambda g, x, y: select(greater(x, 0.0), g * SELU_SCALE, g * (y + SELU_SCALE * SELU_ALPHA)),
    samples=[*_plain, _wide],
    doc="1.0507 * elu(x, 1.67326), self-normalising (Klambauer et al. 2017).",
)


# --- piecewise linear
def _between(x: Tensor, low: float, high: float) -> Tensor:
    inside: Tensor = logical_and(greater(x, low), less(x, high))
    return inside


hard_sigmoid = elementwise(
    "hard_sigmoid",
    FLOATS,
    numpy=lambda x, alpha, beta: np.clip(x.dtype.type(alpha) * x + x.dtype.type(beta), 0, 1),
    scalar=lambda k, x, alpha, beta: k.min(k.max(x * alpha + beta, 0.0), 1.0),
    grad=lambda g, x, y, alpha, beta: select(_between(y, 0.0, 1.0), g * alpha, 0.0),
    samples=[
        *_plain,
        sample(real(2, 3, low=-8.0, high=8.0)),
        sample(real(2, 3), alpha=0.2, beta=0.4),
    ],
    attributes={"alpha": 1.0 / 6.0, "beta": 0.5},
    doc="alpha * x + beta between 0 and 1 (PyTorch's alpha of 1/6; ONNX's default is 0.2).",
)


def _hard_swish_grad(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    inner = select(less(x, 3.0), g * (x * (1.0 / 3.0) + 0.5), g)
    return select(greater(x, -3.0), inner, 0.0)


hard_swish = elementwise(
    "hard_swish",
    FLOATS,
    numpy=lambda x: x * np.clip(x / 6 + x.dtype.type(0.5), 0, 1),
    scalar=lambda k, x: x * k.min(k.max(x * (1.0 / 6.0) + 0.5, 0.0), 1.0),
    grad=_hard_swish_grad,
    samples=[*_plain, sample(real(2, 3, low=-8.0, high=8.0))],
    doc="x * hard_sigmoid(x) (Howard et al. 2019). The gradient is 0 at -3 and 1 at 3.",
)

hard_tanh = elementwise(
    "hard_tanh",
    FLOATS,
    numpy=lambda x, low, high: np.clip(x, x.dtype.type(low), x.dtype.type(high)),
    scalar=lambda k, x, low, high: k.min(k.max(x, low), high),
    grad=lambda g, x, y, low, high: select(_between(x, low, high), g, 0.0),
    samples=[*_plain, sample(real(2, 3), low=-0.3, high=0.9)],
    attributes={"low": -1.0, "high": 1.0},
    doc="x between low and high, which are the limits beyond. The gradient at both limits is 0.",
)


def _softshrink(k: Any, x: Any, threshold: float) -> Any:
    # x * 0 rather than 0, so that NaN stays NaN.
    return k.where(x > threshold, x - threshold, k.where(x < -threshold, x + threshold, x * 0.0))


def _numpy_softshrink(x: np.ndarray, threshold: float) -> Any:
    limit = x.dtype.type(threshold)
    return x - np.clip(x, -limit, limit)


_softshrink_op = elementwise(
    "softshrink",
    FLOATS,
    numpy=_numpy_softshrink,
    scalar=_softshrink,
    grad=lambda g, x, y, threshold: select(greater(absolute(x), threshold), g, 0.0),
    samples=[*_plain, sample(real(2, 3), threshold=1.0), sample(real(2, 3), threshold=0.0)],
    attributes={"threshold": 0.5},
    doc="x moved toward 0 by threshold, and 0 within it.",
    publish=False,
)


@opdef.function
def softshrink(x: Any, threshold: float = 0.5, *, name: str | None = None) -> Tensor:
    """x - threshold above it, x + threshold below -threshold, 0 between.

    The gradient within and at the threshold is 0. Raises AttributeValueError for a negative
    threshold.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.softshrink(graph.placeholder((2, 3)), 0.1).shape
        (2, 3)
    """
    if not threshold >= 0:
        raise AttributeValueError(
            "softshrink", "the threshold must not be negative", received=threshold
        )
    return _softshrink_op(x, float(threshold), name=name)
