"""Losses: a value per element or per row, weighted and reduced.

Every function takes `weights` (None, a number or a tensor that broadcasts to the loss) and
`reduction`: "none" keeps the loss of each element (or row), "sum" adds them, "mean" divides that
sum by their number (weights do not change the divisor), "sum_by_nonzero_weights" by the number of
weights that are not zero (at least 1).

Here are the losses from cross-entropies and differences; loss_margin.py and loss_detection.py have
the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import broadcast_shapes, normalise_axis
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.activation import sigmoid, softplus_expr
from niello.ops.comparison import not_equal
from niello.ops.define import (
    cast_to,
    check_dtype,
    elementwise,
    half_as_float32,
    operands,
    unbroadcast,
)
from niello.ops.select import clamp
from niello.ops.unary import identity, log, log1p

REDUCTIONS = ("none", "sum", "mean", "sum_by_nonzero_weights")
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


def finish(loss: Tensor, weights: Any, reduction: str, name: str | None) -> Tensor:
    """Weigh and reduce a loss; the last operation gets the name."""
    weighted = loss if weights is None else loss * weights
    if reduction == "none":
        return weighted if name is None else identity(weighted, name=name)
    call = opdef.functions()
    if reduction != "sum_by_nonzero_weights":
        return call[reduction](weighted, name=name)  # type: ignore[no-any-return]
    if weights is None:
        return call["mean"](loss, name=name)  # type: ignore[no-any-return]
    used = cast_to(not_equal(loss * 0.0 + weights, 0.0), loss.dtype)
    count = clamp(call["sum"](used), low=1.0)
    return call["divide"](call["sum"](weighted), count, name=name)  # type: ignore[no-any-return]


def smoothed(labels: Tensor, smoothing: float, classes: Any, asked: str) -> Tensor:
    """Labels moved toward 1 / classes: labels * (1 - smoothing) + smoothing / classes."""
    if not 0 <= smoothing <= 1:
        raise AttributeValueError(
            asked, "label_smoothing must lie between 0 and 1", received=smoothing
        )
    if smoothing == 0:
        return labels
    if classes is None:
        raise ShapeError(
            asked,
            "smoothing of labels needs the number of classes",
            received=repr(labels.type),
            advice="Give labels with a known size along the axis",
        )
    return labels * (1.0 - smoothing) + smoothing / classes


def class_count(labels: Tensor, axis: int, asked: str) -> Any:
    """The size of `labels` along an axis; None where unknown."""
    if labels.shape is None:
        return None
    return labels.shape[normalise_axis(axis, len(labels.shape), asked)]


# --- softmax cross-entropy
@register
@frozen
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
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """-sum(labels * log(softmax(logits))) along `axis`, in nats.

    `labels` has the shape of `logits`: a distribution along `axis` (one-hot, say), which need not
    sum to one; `label_smoothing` s makes it labels * (1 - s) + s / classes. The loss has the shape
    of `logits` without `axis`; `weights` broadcasts to that and `reduction` acts on it.
    Differentiable in both operands. Raises
    ShapeError for an axis outside the rank or for labels of another shape.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x, t = graph.placeholder((64, 10)), graph.placeholder((64, 10))
        >>> nl.softmax_cross_entropy(x, t, reduction="none").shape
        (64,)
    """
    check_reduction("softmax_cross_entropy", reduction)
    x, t = pair_of("softmax_cross_entropy", logits, labels)
    classes = class_count(t, axis, "softmax_cross_entropy") if label_smoothing else None
    t = smoothed(t, label_smoothing, classes, "softmax_cross_entropy")
    loss = x.graph.apply(SoftmaxCrossEntropy(int(axis)), x, t)
    return finish(loss, weights, reduction, name)  # type: ignore[arg-type]


def pair_of(asked: str, prediction: Any, target: Any) -> list[Tensor]:
    """Prediction and target of one float dtype."""
    pair = operands(asked, prediction, target)
    check_dtype(asked, pair[0].dtype, FLOATS)
    return pair


# --- losses of single elements
PAIRS = (
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
    samples=PAIRS,
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
    loss = _squared_error(*pair_of("mean_squared_error", prediction, target))
    return finish(loss, weights, reduction, name)


@opdef.function
def categorical_cross_entropy(
    probability: Any,
    labels: Any,
    *,
    axis: int = -1,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """-sum(labels * log(probability)) along `axis`, in nats, logarithms held at -100 or above.

    Operands have one shape; `label_smoothing` s makes the labels labels * (1 - s) + s / classes.
    From logits, `softmax_cross_entropy` is more exact.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> p, t = graph.placeholder((8, 10)).softmax(), graph.placeholder((8, 10))
        >>> nl.categorical_cross_entropy(p, t, label_smoothing=0.1, reduction="none").shape
        (8,)
    """
    asked = "categorical_cross_entropy"
    check_reduction(asked, reduction)
    p, t = pair_of(asked, probability, labels)
    t = smoothed(
        t, label_smoothing, class_count(t, axis, asked) if label_smoothing else None, asked
    )
    loss = -opdef.functions()["sum"](t * clamp(log(p), low=LOWEST_LOG), axes=axis)
    return finish(loss, weights, reduction, name)


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
    loss = _binary_op(*pair_of("binary_cross_entropy", probability, target))
    return finish(loss, weights, reduction, name)


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
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """Binary cross-entropy of sigmoid(logits), in nats: softplus(x) - x * target.

    Exact for large logits of either sign. `target` lies in [0, 1]; `label_smoothing` s makes it
    target * (1 - s) + s / 2.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.sigmoid_cross_entropy(graph.placeholder((8,)), graph.placeholder((8,))).shape
        ()
    """
    check_reduction("sigmoid_cross_entropy", reduction)
    x, t = pair_of("sigmoid_cross_entropy", logits, target)
    loss = _sigmoid_op(x, smoothed(t, label_smoothing, 2, "sigmoid_cross_entropy"))
    return finish(loss, weights, reduction, name)
