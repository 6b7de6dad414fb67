"""Losses from differences, logarithms, margins and angles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import broadcast_shapes, normalise_axis, show
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.comparison import equal, greater
from niello.ops.define import check_dtype, elementwise, half_as_float32, unbroadcast
from niello.ops.loss import PAIRS, check_reduction, finish, pair_of
from niello.ops.select import clamp, select
from niello.ops.unary import exp, log, sign, sqrt, square

# --- differences
_absolute_error = elementwise(
    "absolute_error",
    FLOATS,
    numpy=lambda x, t: np.abs(x - t),
    scalar=lambda k, x, t: k.abs(x - t),
    grad=lambda g, x, t, y: (g * sign(x - t), g * sign(t - x)),
    samples=PAIRS,
    doc="|prediction - target|, broadcast. The gradient at 0 is 0.",
    publish=False,
)


@opdef.function
def mean_absolute_error(
    prediction: Any,
    target: Any,
    *,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """|prediction - target|, weighted and reduced. The gradient where they are equal is 0.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.mean_absolute_error(graph.placeholder((8, 1)), graph.placeholder((8, 1))).shape
        ()
    """
    check_reduction("mean_absolute_error", reduction)
    loss = _absolute_error(*pair_of("mean_absolute_error", prediction, target))
    return finish(loss, weights, reduction, name)


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
    samples=[*PAIRS, sample(real(2, 3), real(2, 3), delta=0.3)],
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
    loss = _huber_op(*pair_of("huber", prediction, target), float(delta))
    return finish(loss, weights, reduction, name)


@opdef.function
def smooth_l1(
    prediction: Any,
    target: Any,
    *,
    beta: float = 1.0,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """d**2 / (2 * beta) where |d| <= beta, else |d| - beta / 2: `huber` divided by beta (PyTorch).

    Raises AttributeValueError unless beta is positive and finite.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.smooth_l1(graph.placeholder((8,)), graph.placeholder((8,)), beta=0.5).shape
        ()
    """
    check_reduction("smooth_l1", reduction)
    if not 0 < beta < math.inf:
        raise AttributeValueError("smooth_l1", "beta must be positive and finite", received=beta)
    loss = _huber_op(*pair_of("smooth_l1", prediction, target), float(beta)) * (1.0 / beta)
    return finish(loss, weights, reduction, name)


# --- logarithms
def _log_loss(k: Any, p: Any, t: Any, epsilon: float) -> Any:
    return -(t * k.log(p + epsilon) + (1.0 - t) * k.log((1.0 - p) + epsilon))


def _numpy_log_loss(p: np.ndarray, t: np.ndarray, epsilon: float) -> Any:
    small = p.dtype.type(epsilon)
    return -(t * np.log(p + small) + (1 - t) * np.log((1 - p) + small))


def _log_loss_grad(
    g: Tensor, p: Tensor, t: Tensor, y: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    slope = (1.0 - t) / ((1.0 - p) + epsilon) - t / (p + epsilon)
    odds = log((1.0 - p) + epsilon) - log(p + epsilon)
    return g * slope, g * odds


_log_op = elementwise(
    "log_loss",
    FLOATS,
    numpy=_numpy_log_loss,
    scalar=_log_loss,
    grad=_log_loss_grad,
    samples=[
        sample(real(2, 3, low=0.1, high=0.9), real(2, 3, low=0.0, high=1.0)),
        sample(real(2, 3, low=0.1, high=0.9), real(3, low=0.0, high=1.0), epsilon=1e-3),
        # 1 - p + epsilon loses digits of epsilon where p is 1.
        sample(np.array([0.0, 0.5]), np.array([1.0, 0.25]), grad=False, epsilon=1e-2),
        sample(real(0), real(0)),
    ],
    attributes={"epsilon": 1e-7},
    doc="-(target * log(p + epsilon) + (1 - target) * log(1 - p + epsilon)), broadcast.",
    publish=False,
)


@opdef.function
def log_loss(
    probability: Any,
    target: Any,
    *,
    epsilon: float = 1e-7,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """-(target * log(p + epsilon) + (1 - target) * log(1 - p + epsilon)) in nats.

    `probability` and `target` lie in [0, 1]. `binary_cross_entropy` bounds the logarithms instead,
    `sigmoid_cross_entropy` starts from logits. Raises AttributeValueError for a negative epsilon.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.log_loss(graph.placeholder((8,)).sigmoid(), graph.placeholder((8,))).shape
        ()
    """
    check_reduction("log_loss", reduction)
    if not epsilon >= 0:
        raise AttributeValueError("log_loss", "epsilon must not be negative", received=epsilon)
    loss = _log_op(*pair_of("log_loss", probability, target), float(epsilon))
    return finish(loss, weights, reduction, name)


def _divergence(k: Any, x: Any, t: Any) -> Any:
    return k.where(t > 0.0, t * (k.log(t) - x), t * 0.0)


def _divergence_grad(g: Tensor, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    positive = greater(t, 0.0)
    safe = select(positive, t, 1.0)
    return -(g * clamp(t, low=0.0)), select(positive, g * (log(safe) + 1.0 - x), 0.0)


_divergence_op = elementwise(
    "kl_divergence",
    FLOATS,
    numpy=lambda x, t: np.where(t > 0, t * (np.log(t) - x), t * 0),
    scalar=_divergence,
    grad=_divergence_grad,
    samples=[
        sample(real(2, 3, low=-3.0, high=0.0), real(2, 3, low=0.1, high=1.0)),
        sample(real(2, 3, low=-3.0, high=0.0), real(3, low=0.1, high=1.0)),
        sample(real(3, low=-3.0, high=0.0), np.array([0.0, 1.0, 0.5]), grad=False),
        sample(real(0), real(0)),
    ],
    doc="target * (log(target) - prediction), 0 where the target is 0 or less.",
    publish=False,
)


@opdef.function
def kl_divergence(
    log_prediction: Any,
    target: Any,
    *,
    log_target: bool = False,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """target * (log(target) - log_prediction) for each element: Kullback and Leibler (1951).

    `log_prediction` are logarithms of probabilities (`log_softmax`); `target` are probabilities, or
    their logarithms with `log_target`. Where the target is 0 the loss is 0. The divergence of whole
    distributions is the sum along their axis; "mean" divides by the number of elements (PyTorch's
    kl_div).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x, t = graph.placeholder((8, 10)).log_softmax(), graph.placeholder((8, 10))
        >>> nl.kl_divergence(x, t, reduction="sum").shape
        ()
    """
    check_reduction("kl_divergence", reduction)
    x, t = pair_of("kl_divergence", log_prediction, target)
    loss = exp(t) * (t - x) if log_target else _divergence_op(x, t)
    return finish(loss, weights, reduction, name)


# --- margins
def _hinge_grad(g: Tensor, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    wrong = greater(y, 0.0)
    return select(wrong, -(g * t), 0.0), select(wrong, -(g * x), 0.0)


_hinge_op = elementwise(
    "hinge",
    FLOATS,
    numpy=lambda x, t: np.maximum(1 - x * t, 0),
    scalar=lambda k, x, t: k.max(1.0 - x * t, 0.0),
    grad=_hinge_grad,
    samples=[*PAIRS, sample(real(4), np.array([1.0, -1.0, -1.0, 1.0]))],
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
    loss = _hinge_op(*pair_of("hinge", prediction, target))
    return finish(loss, weights, reduction, name)


@opdef.plain_function
def triplet_margin(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    epsilon: float = 1e-6,
    swap: bool = False,
    axis: int = -1,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), d the p-norm of the difference.

    The distance is taken along `axis` of a - b + epsilon (PyTorch's triplet_margin_loss). With
    `swap` the smaller of d(anchor, negative) and d(positive, negative) counts (Balntas et al.
    2016). Raises AttributeValueError unless p is positive and finite.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> a, b, c = (graph.placeholder((8, 16)) for _ in range(3))
        >>> nl.triplet_margin(a, b, c, reduction="none").shape
        (8,)
    """
    check_reduction("triplet_margin", reduction)
    if not 0 < p < math.inf:
        raise AttributeValueError("triplet_margin", "p must be positive and finite", received=p)
    call = opdef.functions()

    def distance(a: Tensor, b: Tensor) -> Tensor:
        difference = a - b + epsilon
        if p == 2.0:
            return sqrt(call["sum"](square(difference), axes=axis))
        powers = call["power"](call["absolute"](difference), p)
        return call["power"](call["sum"](powers, axes=axis), 1.0 / p)  # type: ignore[no-any-return]

    a, b = pair_of("triplet_margin", anchor, positive)
    a, c = pair_of("triplet_margin", a, negative)
    far = distance(a, c)
    if swap:
        far = call["minimum"](far, distance(b, c))
    loss = clamp(distance(a, b) - far + margin, low=0.0)
    return finish(loss, weights, reduction, name)


# --- angles
@register
@frozen
class CosineSimilarity(Op):
    """The function `cosine_similarity`."""

    axis: int = -1
    epsilon: float = 1e-8
    name: ClassVar[str] = "cosine_similarity"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "sum(a * b) / (max(|a|, epsilon) * max(|b|, epsilon)) along an axis, which is removed."
    )

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        for t in (a, b):
            check_dtype(self.name, t.dtype, self.dtypes)
        shape = broadcast_shapes(self.name, a.shape, b.shape)
        if shape is None or a.shape is None or b.shape is None:
            return TensorType(None, a.dtype)
        axis = normalise_axis(self.axis, len(shape), self.name)
        sizes = {s[axis] for s in (a.shape, b.shape) if len(s) == len(shape)} - {None}
        if len(a.shape) != len(b.shape) or len(sizes) > 1:
            raise ShapeError(
                self.name,
                f"operands must have one rank and one size along axis {axis}",
                received=f"{show(a.shape)} and {show(b.shape)}",
                advice="Broadcast them along this axis first",
            )
        return TensorType(shape[:axis] + shape[axis + 1 :], a.dtype)

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        def similarity(a: np.ndarray, b: np.ndarray) -> Any:
            a, b = np.broadcast_arrays(a, b)
            lengths = [np.sqrt(np.sum(x * x, axis=self.axis)) for x in (a, b)]
            low = a.dtype.type(self.epsilon)
            bounded = np.maximum(lengths[0], low) * np.maximum(lengths[1], low)
            return np.sum(a * b, axis=self.axis) / bounded

        return np.asarray(half_as_float32(similarity, (a, b)))

    def _length(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The norm held at epsilon or above, and whether it was below."""
        total = opdef.functions()["sum"](square(x), axes=self.axis, keepdims=True)
        short = greater(self.epsilon**2, total)
        return sqrt(select(short, self.epsilon**2, total)), short

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        # Of s / (|a| |b|): b / (|a| |b|) - y a / |a|^2, without the last where |a| is held.
        call = opdef.functions()
        a, b = inputs
        g = call["expand_dims"](gradients[0], self.axis)
        y = call["expand_dims"](outputs[0], self.axis)
        size_a, short_a = self._length(a)
        size_b, short_b = self._length(b)
        both = size_a * size_b
        to_a = g * (b / both - select(short_a, 0.0, y / square(size_a)) * a)
        to_b = g * (a / both - select(short_b, 0.0, y / square(size_b)) * b)
        return unbroadcast(to_a, a), unbroadcast(to_b, b)

    def decompose(self, *inputs: Tensor) -> Tensor:
        call = opdef.functions()
        a, b = inputs
        (size_a, _), (size_b, _) = self._length(a), self._length(b)
        total = call["sum"](a * b, axes=self.axis, keepdims=True)
        return call["squeeze"](total / (size_a * size_b), axes=self.axis)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 5), real(2, 5)),
            sample(real(2, 5, 3), real(1, 5, 1), axis=1),
            sample(real(3, 4), real(3, 4), axis=0, epsilon=100.0),
            sample(real(0, 3), real(0, 3)),
        ]


@opdef.function
def cosine_similarity(
    a: Any, b: Any, *, axis: int = -1, epsilon: float = 1e-8, name: str | None = None
) -> Tensor:
    """sum(a * b) / (|a| * |b|) along `axis`, which is removed; the other axes broadcast.

    Operands have one rank, and one size along `axis` (ShapeError otherwise). Each norm is held at
    `epsilon` or above, so that vectors of zeros give 0 (PyTorch).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.cosine_similarity(graph.placeholder((8, 16)), graph.placeholder((8, 16))).shape
        (8,)
    """
    a, b = pair_of("cosine_similarity", a, b)
    op = CosineSimilarity(int(axis), float(epsilon))
    return a.graph.apply(op, a, b, name=name)  # type: ignore[return-value]


@opdef.function
def cosine_distance(
    prediction: Any,
    target: Any,
    *,
    axis: int = -1,
    normalise: bool = True,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """1 - cosine similarity along `axis`; 1 - sum(prediction * target) without `normalise`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.cosine_distance(graph.placeholder((8, 16)), graph.placeholder((8, 16))).shape
        ()
    """
    check_reduction("cosine_distance", reduction)
    x, t = pair_of("cosine_distance", prediction, target)
    if normalise:
        near = cosine_similarity(x, t, axis=axis)
    else:
        near = opdef.functions()["sum"](x * t, axes=axis)
    return finish(1.0 - near, weights, reduction, name)


@opdef.plain_function
def cosine_embedding(
    a: Any,
    b: Any,
    target: Any,
    *,
    margin: float = 0.0,
    axis: int = -1,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """1 - cos(a, b) where the target is 1, max(0, cos(a, b) - margin) where it is -1 (PyTorch's
    cosine_embedding_loss).

    `target` has the shape of a without `axis`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> a, b = graph.placeholder((8, 16)), graph.placeholder((8, 16))
        >>> nl.cosine_embedding(a, b, graph.placeholder((8,)), margin=0.2).shape
        ()
    """
    check_reduction("cosine_embedding", reduction)
    near = cosine_similarity(a, b, axis=axis)
    loss = select(equal(target, 1), 1.0 - near, clamp(near - margin, low=0.0))
    return finish(loss, weights, reduction, name)
