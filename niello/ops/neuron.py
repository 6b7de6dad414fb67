"""Further activations, and the neurons of convolution layers with up to three parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from niello.core.dtypes import FLOATS
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.shapes import normalise_axis
from niello.graph import opdef
from niello.graph.opdef import real, sample
from niello.graph.tensor import Tensor
from niello.ops.activation import numpy_softplus, sigmoid, softplus, softplus_expr
from niello.ops.binary import power
from niello.ops.comparison import greater
from niello.ops.define import elementwise, graph_of
from niello.ops.select import clamp, select
from niello.ops.unary import absolute, exp, identity, log, square, tanh

_LARGE = np.array([0.0, -0.0, 80.0, -80.0, 1000.0, -1000.0, 1e-6, -1e-6, np.nan])
_plain = (
    sample(real(2, 3, low=-3.0, high=3.0)),
    sample(real(0, 3)),
    sample(_LARGE, grad=False),
)

# --- smooth
softsign = elementwise(
    "softsign",
    FLOATS,
    numpy=lambda x: x / (1 + np.abs(x)),
    scalar=lambda k, x: x / (k.abs(x) + 1.0),
    grad=lambda g, x, y: g / square(absolute(x) + 1.0),
    samples=_plain,
    doc="x / (1 + |x|).",
)

log_sigmoid = elementwise(
    "log_sigmoid",
    FLOATS,
    numpy=lambda x: -numpy_softplus(-x),
    scalar=lambda k, x: -softplus_expr(k, -x),
    grad=lambda g, x, y: g * sigmoid(-x),
    samples=_plain,
    doc="log(sigmoid(x)) without overflow.",
)


def _celu_grad(g: Tensor, x: Tensor, y: Tensor, alpha: float) -> Tensor:
    below = exp(clamp(x, high=0.0) * (1.0 / alpha))
    return g * select(greater(x, 0.0), 1.0, below)


_celu_op = elementwise(
    "celu",
    FLOATS,
    numpy=lambda x, alpha: np.where(
        x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0) / x.dtype.type(alpha))
    ),
    scalar=lambda k, x, alpha: k.where(x > 0.0, x, k.expm1(x / alpha) * alpha),
    grad=_celu_grad,
    samples=[*_plain, sample(real(2, 3), alpha=0.5), sample(real(2, 3), alpha=2.0)],
    attributes={"alpha": 1.0},
    doc="x where x > 0, else alpha * (exp(x / alpha) - 1) (Barron 2017).",
    publish=False,
)


@opdef.function
def celu(x: Any, alpha: float = 1.0, *, name: str | None = None) -> Tensor:
    """x where x > 0, else alpha * (exp(x / alpha) - 1): an elu with a continuous slope.

    Source: Barron (2017). Raises AttributeValueError unless alpha is positive.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.celu(graph.placeholder((2, 3)), 0.5).shape
        (2, 3)
    """
    if not alpha > 0:
        raise AttributeValueError("celu", "alpha must be positive", received=alpha)
    return _celu_op(x, float(alpha), name=name)


# --- piecewise linear
thresholded_relu = elementwise(
    "thresholded_relu",
    FLOATS,
    numpy=lambda x, alpha: np.where(x > x.dtype.type(alpha), x, x * 0),
    scalar=lambda k, x, alpha: k.where(x > alpha, x, x * 0.0),
    grad=lambda g, x, y, alpha: select(greater(x, alpha), g, 0.0),
    samples=[*_plain, sample(real(2, 3), alpha=0.3)],
    attributes={"alpha": 1.0},
    doc="x where x > alpha, else 0 (ONNX ThresholdedRelu). The gradient at alpha is 0.",
)

hard_shrink = elementwise(
    "hard_shrink",
    FLOATS,
    numpy=lambda x, threshold: np.where(np.abs(x) > x.dtype.type(threshold), x, x * 0),
    scalar=lambda k, x, threshold: k.where(k.abs(x) > threshold, x, x * 0.0),
    grad=lambda g, x, y, threshold: select(greater(absolute(x), threshold), g, 0.0),
    samples=[*_plain, sample(real(2, 3), threshold=1.0)],
    attributes={"threshold": 0.5},
    doc="x where |x| > threshold, else 0 (PyTorch's hardshrink).",
)


def _shrink(k: Any, x: Any, threshold: float, bias: float) -> Any:
    return k.where(x < -threshold, x + bias, k.where(x > threshold, x - bias, x * 0.0))


def _numpy_shrink(x: np.ndarray, threshold: float, bias: float) -> Any:
    limit, step = x.dtype.type(threshold), x.dtype.type(bias)
    return np.where(x < -limit, x + step, np.where(x > limit, x - step, x * 0))


shrink = elementwise(
    "shrink",
    FLOATS,
    numpy=_numpy_shrink,
    scalar=_shrink,
    grad=lambda g, x, y, threshold, bias: select(greater(absolute(x), threshold), g, 0.0),
    samples=[*_plain, sample(real(2, 3), threshold=1.0, bias=0.25)],
    attributes={"threshold": 0.5, "bias": 0.0},
    doc="x + bias below -threshold, x - bias above threshold, else 0 (ONNX Shrink).",
)


def _relu_n_grad(g: Tensor, x: Tensor, y: Tensor, limit: float, slope: float) -> Tensor:
    inner = select(greater(x, 0.0), g, g * slope)
    return select(greater(limit, y), inner, 0.0)


relu_n = elementwise(
    "relu_n",
    FLOATS,
    numpy=lambda x, limit, slope: np.minimum(
        np.where(x >= 0, x, x * x.dtype.type(slope)), x.dtype.type(limit)
    ),
    scalar=lambda k, x, limit, slope: k.min(k.where(x >= 0.0, x, x * slope), limit),
    grad=_relu_n_grad,
    samples=[
        *_plain,
        sample(real(2, 3), limit=1.0),
        sample(real(2, 3, low=-9.0, high=9.0), slope=0.1),
    ],
    attributes={"limit": 6.0, "slope": 0.0},
    doc="min(x, limit) where x >= 0, else slope * x. With a limit of 6 it is relu6.",
)


@opdef.function
def relu6(x: Any, *, name: str | None = None) -> Tensor:
    """x between 0 and 6. The gradient at both is 0.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.relu6(graph.placeholder((2, 3))).shape
        (2, 3)
    """
    return relu_n(x, 6.0, 0.0, name=name)


@opdef.function
def tanh_shrink(x: Any, *, name: str | None = None) -> Tensor:
    """x - tanh(x) (PyTorch's tanhshrink).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.tanh_shrink(graph.placeholder((2, 3))).shape
        (2, 3)
    """
    found = x - tanh(x)
    return found if name is None else identity(found, name=name)


@opdef.function
def swish(x: Any, beta: float = 1.0, *, name: str | None = None) -> Tensor:
    """x * sigmoid(beta * x) (Ramachandran et al. 2017); `silu` is the one with beta = 1.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.swish(graph.placeholder((2, 3)), 1.702).shape
        (2, 3)
    """
    if beta == 1.0:
        return opdef.functions()["silu"](x, name=name)  # type: ignore[no-any-return]
    found = x * sigmoid(x * float(beta))
    return found if name is None else identity(found, name=name)


@opdef.function
def glu(x: Tensor, *, axis: int = -1, name: str | None = None) -> Tensor:
    """a * sigmoid(b), a and b the two halves of x along `axis` (Dauphin et al. 2016).

    Raises ShapeError when the size along `axis` is odd or unknown.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.glu(graph.placeholder((2, 6))).shape
        (2, 3)
    """
    if x.shape is None:
        raise ShapeError("glu", "the shape must be known", received=repr(x.type))
    at = normalise_axis(axis, len(x.shape), "glu")
    size = x.shape[at]
    if size is None or size % 2:
        raise ShapeError(
            "glu",
            f"the size along axis {at} must be known and even",
            received=repr(x.type),
            advice="Split into two equal halves yourself",
        )
    before = (slice(None),) * at
    found = x[(*before, slice(None, size // 2))] * sigmoid(x[(*before, slice(size // 2, None))])
    return found if name is None else identity(found, name=name)


# --- neurons
NEURONS = (
    "none", "relu", "linear", "sigmoid", "hard_sigmoid", "tanh", "absolute", "softplus",
    "softsign", "elu", "prelu", "relu_n", "power", "exponential", "logarithm", "gelu",
)  # fmt: skip


@opdef.function
def neuron(
    x: Any,
    kind: str,
    a: Any = 1.0,
    b: float = 0.0,
    c: float = 1.0,
    *,
    name: str | None = None,
) -> Tensor:
    """One of the neurons with parameters a, b and c that convolution layers are followed by.

    none x; relu x >= 0 ? x : a * x; linear a * x + b; sigmoid; hard_sigmoid a * x + b between 0 and
    1; tanh a * tanh(b * x); absolute |x|; softplus a * log(1 + exp(b * x)); softsign
    x / (1 + |x|); elu x >= 0 ? x : a * (exp(x) - 1); prelu as relu with a tensor a that broadcasts;
    relu_n min(relu, b); power (a * x + b)**c; exponential c**(a * x + b); logarithm
    log(a * x + b) / log(c); gelu x * (1 + erf(x / sqrt(2))) / 2. Raises AttributeValueError for
    another kind.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.neuron(graph.placeholder((2, 3)), "power", 2.0, 1.0, 3.0).shape
        (2, 3)
    """
    if kind not in NEURONS:
        raise AttributeValueError(
            "neuron", "unknown kind", received=repr(kind), advice=f"Use one of {', '.join(NEURONS)}"
        )
    tensor = graph_of("neuron", x).as_tensor(x)
    found = _neuron(tensor, kind, a, b, c)
    return found if name is None else identity(found, name=name)


def _neuron(x: Tensor, kind: str, a: Any, b: float, c: float) -> Tensor:
    call = opdef.functions()
    if kind in ("sigmoid", "softsign", "gelu", "absolute"):
        return call[kind](x)  # type: ignore[no-any-return]
    if kind in ("relu", "prelu"):
        return call["leaky_relu"](x, a)  # type: ignore[no-any-return]
    if kind == "elu":
        return call["elu"](x, float(a))  # type: ignore[no-any-return]
    if kind == "none":
        return x
    if kind == "hard_sigmoid":
        return call["hard_sigmoid"](x, float(a), float(b))  # type: ignore[no-any-return]
    if kind == "relu_n":
        return relu_n(x, float(b), float(a))
    if kind == "tanh":
        return tanh(x * b) * a  # type: ignore[no-any-return]
    if kind == "softplus":
        return softplus(x * b) * a  # type: ignore[no-any-return]
    inner: Tensor = x * a + b
    if kind == "power":
        return power(inner, c)
    if kind == "exponential":
        return exp(inner * math.log(c)) if c != math.e else exp(inner)
    if kind == "logarithm":
        return log(inner) * (1.0 / math.log(c))
    return inner  # linear
