"""Losses: a value per element or per row, weighted and reduced.

Every function takes `weights` (None, a number or a tensor that broadcasts to the loss) and
`reduction`: "none" keeps the loss of each element (or row), "sum" adds them, "mean" divides that
sum by their number (weights do not change the divisor).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType
from niello.core.errors import AttributeValueError
from niello.core.shapes import broadcast_shapes, normalise_axis
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.activation import sigmoid, softplus_expr
from niello.ops.comparison import greater
from niello.ops.define import check_dtype, elementwise, half_as_float32, operands, unbroadcast
from niello.ops.select import clamp, select
from niello.ops.unary import identity, log, log1p

REDUCTIONS = ("none", "sum", "mean")
# PyTorch's bound on the logarithm of a probability of 0, and on the divisor of its gradient.
LOWEST_LOG = -100.0
LEAST_VARIANCE = 1e-12


def check_reduction(asked: str, reduction: Any) -> None:
    """Refuse a reduction that is not one of REDUCTIONS."""
    if reduction not in REDUCTIONS:
        raise AttributeValueError(
            asked,
            "unknown reduction",
            received=repr(reduction),
            advice=f"Use one of {', '.join(map(repr, REDUCTIONS))}",
        )


def _finish(loss: Tensor, weights: Any, reduction: str, name: str | None) -> Tensor:
    """Weigh and reduce a loss; the last operation gets the name."""
    weighted = loss if weights is None else loss * weights
    if reduction == "none":
        return weighted if name is None else identity(weighted, name=name)
    return opdef.functions()[reduction](weighted, name=name)  # type: ignore[no-any-return]


# --- softmax cross-entropy
@register
@dataclass(frozen=True)
class SoftmaxCrossEntropy(Op):
    """The loss of each row: the function `softmax_cross_entropy` before weights and reduction."""

    axis: int = -1
    name: ClassVar[str] = "softmax_cross_entropy"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "-sum(labels * log_softmax(logits)) along an axis, which is removed; operands broadcast."
    )

    def infer(self, logits: TensorType, labels: TensorType) -> TensorType:
        for t in (logits, labels):
            check_dtype(self.name, t.dtype, self.dtypes)
        shape = broadcast_shapes(self.name, logits.shape, labels.shape)
        if shape is None:
            return TensorType(None, logits.dtype)
        axis = normalise_axis(self.axis, len(shape), self.name)
        return TensorType(shape[:axis] + shape[axis + 1 :], logits.dtype)

    def reference(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        def loss(x: np.ndarray, t: np.ndarray) -> Any:
            x, t = np.broadcast_arrays(x, t)
            if x.shape[self.axis] == 0:
                return np.sum(x, self.axis)
            shifted = x - np.max(x, axis=self.axis, keepdims=True)
            total = np.log(np.sum(np.exp(shifted), axis=self.axis, keepdims=True))
            return -np.sum(t * (shifted - total), axis=self.axis)

        return half_as_float32(loss, (logits, labels))  # type: ignore[no-any-return]

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        # Labels need not sum to one: d/dx = softmax(x) * sum(labels) - labels.
        call = opdef.functions()
        logits, labels = inputs
        outer = call["expand_dims"](gradients[0], self.axis)
        total = call["sum"](labels, axes=self.axis, keepdims=True)
        to_logits = outer * (call["softmax"](logits, axis=self.axis) * total - labels)
        to_labels = -(outer * call["log_softmax"](logits, axis=self.axis))
        return (unbroadcast(to_logits, logits), unbroadcast(to_labels, labels))

    def decompose(self, *inputs: Tensor) -> Tensor:
        call = opdef.functions()
        logits, labels = inputs
        scaled = labels * call["log_softmax"](logits, axis=self.axis)
        return -call["sum"](scaled, axes=self.axis)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 5), real(2, 5, low=0.0, high=1.0)),
            sample(real(2, 5, 3), real(2, 5, 3, low=0.0, high=1.0), axis=1),
            sample(real(3, 4, low=-90.0, high=90.0), real(3, 4, low=0.0, high=1.0), axis=0),
            sample(real(0, 3), real(0, 3)),
        ]


@opdef.function
def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    *,
    axis: int = -1,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """-sum(labels * log(softmax(logits))) along `axis`, in nats.

    `labels` has the shape of `logits`: a distribution along `axis` (one-hot, say), which need not
    sum to one. The loss has the shape of `logits` without `axis`; `weights` broadcasts to that and
    `reduction` ("none", "sum", "mean") acts on it. Differentiable in both operands. Raises
    ShapeError for an axis outside the rank or for labels of another shape.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x, t = graph.placeholder((64, 10)), graph.placeholder((64, 10))
        >>> nl.softmax_cross_entropy(x, t, reduction="none").shape
        (64,)
    """
    check_reduction("softmax_cross_entropy", reduction)
    x, t = _pair("softmax_cross_entropy", logits, labels)
    loss = x.graph.apply(SoftmaxCrossEntropy(int(axis)), x, t)
    return _finish(loss, weights, reduction, name)  # type: ignore[arg-type]


def _pair(asked: str, prediction: Any, target: Any) -> list[Tensor]:
    """Prediction and target of one float dtype."""
    pair = operands(asked, prediction, target)
    check_dtype(asked, pair[0].dtype, FLOATS)
    return pair


# --- losses of single elements
_PAIRS = (
    sample(real(2, 3), real(2, 3)),
    sample(real(2, 3), real(3)),
    sample(real(0, 3), real(0, 3)),
)

_squared_error = elementwise(
    "squared_error",
    FLOATS,
    numpy=lambda x, t: np.square(x - t),
    scalar=lambda k, x, t: (x - t) * (x - t),
    grad=lambda g, x, t, y: (g * (x - t) * 2.0, g * (t - x) * 2.0),
    samples=_PAIRS,
    doc="(prediction - target) squared, broadcast.",
    publish=False,
)


@opdef.function
def mean_squared_error(
    prediction: Any,
    target: Any,
    *,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """(prediction - target) squared, weighted and reduced ("none", "sum", "mean").

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.mean_squared_error(graph.placeholder((8, 1)), graph.placeholder((8, 1))).shape
        ()
    """
    check_reduction("mean_squared_error", reduction)
    loss = _squared_error(*_pair("mean_squared_error", prediction, target))
    return _finish(loss, weights, reduction, name)


def _binary(k: Any, p: Any, t: Any) -> Any:
    on = k.max(k.log(p), LOWEST_LOG)
    off = k.max(k.log1p(-p), LOWEST_LOG)
    return -(t * on + (1.0 - t) * off)


def _numpy_binary(p: np.ndarray, t: np.ndarray) -> Any:
    on, off = np.maximum(np.log(p), LOWEST_LOG), np.maximum(np.log1p(-p), LOWEST_LOG)
    return -(t * on + (1 - t) * off)


def _binary_grad(g: Tensor, p: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    variance = clamp(p * (1.0 - p), low=LEAST_VARIANCE)
    odds = clamp(log1p(-p), low=LOWEST_LOG) - clamp(log(p), low=LOWEST_LOG)
    return g * (p - t) / variance, g * odds


_binary_op = elementwise(
    "binary_cross_entropy",
    FLOATS,
    numpy=_numpy_binary,
    scalar=_binary,
    grad=_binary_grad,
    samples=[
        sample(real(2, 3, low=0.1, high=0.9), real(2, 3, low=0.0, high=1.0)),
        sample(real(2, 3, low=0.1, high=0.9), real(3, low=0.0, high=1.0)),
        sample(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0]), grad=False),
        sample(real(0), real(0)),
    ],
    doc="-(target * log(p) + (1 - target) * log(1 - p)) with logarithms of at least -100.",
    publish=False,
)


@opdef.function
def binary_cross_entropy(
    probability: Any,
    target: Any,
    *,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """-(target * log(p) + (1 - target) * log(1 - p)) in nats, weighted and reduced.

    `probability` and `target` lie in [0, 1]. Logarithms are held at -100 or above, as in PyTorch,
    so that the loss is finite at 0 and 1. From logits, `sigmoid_cross_entropy` is more exact.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> p = graph.placeholder((8,)).sigmoid()
        >>> nl.binary_cross_entropy(p, graph.placeholder((8,)), reduction="sum").shape
        ()
    """
    check_reduction("binary_cross_entropy", reduction)
    loss = _binary_op(*_pair("binary_cross_entropy", probability, target))
    return _finish(loss, weights, reduction, name)


_sigmoid_op = elementwise(
    "sigmoid_cross_entropy",
    FLOATS,
    # As PyTorch's: an infinite logit with a target of 0 gives NaN.
    numpy=lambda x, t: np.logaddexp(0, x) - x * t,
    scalar=lambda k, x, t: softplus_expr(k, x) - x * t,
    grad=lambda g, x, t, y: (g * (sigmoid(x) - t), -(g * x)),
    samples=[
        sample(real(2, 3, low=-4.0, high=4.0), real(2, 3, low=0.0, high=1.0)),
        sample(real(2, 3), real(3, low=0.0, high=1.0)),
        sample(np.array([80.0, -80.0, 80.0, -80.0]), np.array([1.0, 0.0, 0.0, 1.0]), tolerance=4.0),
        sample(real(0), real(0)),
    ],
    doc="Binary cross-entropy of sigmoid(logits) and the target, without overflow.",
    publish=False,
)


@opdef.function
def sigmoid_cross_entropy(
    logits: Any,
    target: Any,
    *,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """Binary cross-entropy of sigmoid(logits), in nats: softplus(x) - x * target.

    Exact for large logits of either sign. `target` lies in [0, 1].

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.sigmoid_cross_entropy(graph.placeholder((8,)), graph.placeholder((8,))).shape
        ()
    """
    check_reduction("sigmoid_cross_entropy", reduction)
    loss = _sigmoid_op(*_pair("sigmoid_cross_entropy", logits, target))
    return _finish(loss, weights, reduction, name)


def _huber(k: Any, x: Any, t: Any, delta: float) -> Any:
    size = k.abs(x - t)
    inner = k.min(size, delta)
    # Inside: size**2 / 2. Outside: delta * (size - delta / 2).
    return inner * (size - inner * 0.5)


def _numpy_huber(x: np.ndarray, t: np.ndarray, delta: float) -> Any:
    size, limit = np.abs(x - t), x.dtype.type(delta)
    return np.where(size <= limit, size * size / 2, limit * (size - limit / 2))


def _huber_grad(g: Tensor, x: Tensor, t: Tensor, y: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    slope = g * clamp(x - t, -delta, delta)
    return slope, -slope


_huber_op = elementwise(
    "huber",
    FLOATS,
    numpy=_numpy_huber,
    scalar=_huber,
    grad=_huber_grad,
    samples=[*_PAIRS, sample(real(2, 3), real(2, 3), delta=0.3)],
    attributes={"delta": 1.0},
    doc="(x - t)**2 / 2 where |x - t| <= delta, else delta * (|x - t| - delta / 2).",
    publish=False,
)


@opdef.function
def huber(
    prediction: Any,
    target: Any,
    *,
    delta: float = 1.0,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """d**2 / 2 where |d| <= delta, else delta * (|d| - delta / 2), for d = prediction - target.

    Source: Huber (1964). Raises AttributeValueError unless delta is positive and finite.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.huber(graph.placeholder((8,)), graph.placeholder((8,)), delta=2.0).shape
        ()
    """
    check_reduction("huber", reduction)
    if not 0 < delta < math.inf:
        raise AttributeValueError("huber", "delta must be positive and finite", received=delta)
    loss = _huber_op(*_pair("huber", prediction, target), float(delta))
    return _finish(loss, weights, reduction, name)


def _hinge_grad(g: Tensor, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    wrong = greater(y, 0.0)
    return select(wrong, -(g * t), 0.0), select(wrong, -(g * x), 0.0)


_hinge_op = elementwise(
    "hinge",
    FLOATS,
    numpy=lambda x, t: np.maximum(1 - x * t, 0),
    scalar=lambda k, x, t: k.max(1.0 - x * t, 0.0),
    grad=_hinge_grad,
    samples=[*_PAIRS, sample(real(4), np.array([1.0, -1.0, -1.0, 1.0]))],
    doc="max(0, 1 - prediction * target), broadcast.",
    publish=False,
)


@opdef.function
def hinge(
    prediction: Any,
    target: Any,
    *,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """max(0, 1 - prediction * target), with targets of -1 and 1. The gradient at the corner is 0.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.hinge(graph.placeholder((8,)), graph.placeholder((8,))).shape
        ()
    """
    check_reduction("hinge", reduction)
    loss = _hinge_op(*_pair("hinge", prediction, target))
    return _finish(loss, weights, reduction, name)
