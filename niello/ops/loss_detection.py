"""Losses of object detection: focal loss, and the loss of YOLO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from niello.core.dtypes import FLOATS
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.shapes import show
from niello.graph import opdef
from niello.graph.opdef import real, sample
from niello.graph.tensor import Tensor
from niello.ops.activation import numpy_sigmoid, sigmoid, sigmoid_expr, softplus, softplus_expr
from niello.ops.binary import maximum, minimum, power
from niello.ops.comparison import equal, greater
from niello.ops.define import cast_to, elementwise
from niello.ops.logical import logical_and, logical_or
from niello.ops.loss import check_reduction, finish, pair_of, sigmoid_cross_entropy
from niello.ops.loss_margin import huber
from niello.ops.select import clamp, select
from niello.ops.unary import exp, stop_gradient

LEAST_EXTENT = 1e-9  # of a target box, so that its logarithm is finite


# --- focal loss
def _focal(k: Any, x: Any, t: Any, alpha: float, gamma: float) -> Any:
    p = sigmoid_expr(k, x)
    miss = p + t - p * t * 2.0  # 1 - the probability of the target
    weight = 1.0 if alpha < 0 else t * (2.0 * alpha - 1.0) + (1.0 - alpha)
    return (softplus_expr(k, x) - x * t) * k.pow(miss, gamma) * weight


def _numpy_focal(x: np.ndarray, t: np.ndarray, alpha: float, gamma: float) -> Any:
    p = numpy_sigmoid(x)
    weight = 1.0 if alpha < 0 else alpha * t + (1 - alpha) * (1 - t)
    loss = (np.logaddexp(0, x) - x * t) * (p * (1 - t) + (1 - p) * t) ** gamma * weight
    return loss.astype(x.dtype)


def _focal_grad(
    g: Tensor, x: Tensor, t: Tensor, y: Tensor, alpha: float, gamma: float
) -> tuple[Tensor, Tensor]:
    p = sigmoid(x)
    miss = p + t - p * t * 2.0
    weight: Any = 1.0 if alpha < 0 else t * (2.0 * alpha - 1.0) + (1.0 - alpha)
    entropy = softplus(x) - x * t
    focus = power(miss, gamma)
    # gamma * miss**(gamma - 1), finite where miss is 0
    slope = power(select(equal(miss, 0.0), 1.0, miss), gamma - 1.0) * gamma
    slope = select(equal(miss, 0.0), float(gamma == 1.0), slope)
    to_x = weight * (focus * (p - t) + entropy * slope * (p * (1.0 - p)) * (1.0 - t * 2.0))
    to_t = weight * (entropy * slope * (1.0 - p * 2.0) - x * focus)
    if alpha >= 0:
        to_t = to_t + entropy * focus * (2.0 * alpha - 1.0)
    return g * to_x, g * to_t


_focal_op = elementwise(
    "focal",
    FLOATS,
    numpy=_numpy_focal,
    scalar=_focal,
    grad=_focal_grad,
    samples=[
        sample(real(2, 3), real(2, 3, low=0.0, high=1.0), tolerance=4.0),
        sample(real(2, 3), real(3, low=0.0, high=1.0), alpha=-1.0, gamma=1.5, tolerance=4.0),
        sample(real(4), np.array([0.0, 1.0, 1.0, 0.0]), gamma=0.0, tolerance=4.0),
        sample(real(0), real(0)),
    ],
    attributes={"alpha": 0.25, "gamma": 2.0},
    doc=(
        "Cross-entropy of sigmoid(logits) times alpha_t * (1 - p_t)**gamma, p_t the probability of "
        "the target (Lin et al. 2017)."
    ),
    publish=False,
)


@opdef.function
def focal(
    logits: Any,
    target: Any,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "mean",
    weights: Any = None,
    name: str | None = None,
) -> Tensor:
    """Cross-entropy of sigmoid(logits), less for what is already right (Lin et al. 2017).

    Each element is weighted by (1 - p_t)**gamma, where p_t is the probability of the target, and by
    alpha for targets of 1 and 1 - alpha for those of 0; a negative alpha leaves that out. Raises
    AttributeValueError for alpha above 1 or a negative gamma.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.focal(graph.placeholder((8,)), graph.placeholder((8,)), gamma=1.5).shape
        ()
    """
    check_reduction("focal", reduction)
    if not (alpha <= 1 and gamma >= 0):
        raise AttributeValueError(
            "focal",
            "alpha must be at most 1, gamma must not be negative",
            received=f"alpha={alpha}, gamma={gamma}",
        )
    loss = _focal_op(*pair_of("focal", logits, target), float(alpha), float(gamma))
    return finish(loss, weights, reduction, name)


# --- YOLO
def _overlap(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    """Intersection over union of boxes (x, y, width, height), x and y their centres."""
    sides = []
    for axis in (0, 1):
        high = minimum(a[axis] + a[axis + 2] * 0.5, b[axis] + b[axis + 2] * 0.5)
        low = maximum(a[axis] - a[axis + 2] * 0.5, b[axis] - b[axis + 2] * 0.5)
        sides.append(clamp(high - low, low=0.0))
    common = sides[0] * sides[1]
    total = a[2] * a[3] + b[2] * b[3] - common
    return common / clamp(total, low=LEAST_EXTENT)


def _anchors(prediction: Tensor, anchors: Any) -> np.ndarray:
    array = np.asarray(anchors, np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not array.size or (array <= 0).any():
        raise AttributeValueError(
            "yolo", "anchors must be positive (width, height) pairs", received=repr(anchors)
        )
    shape = prediction.shape
    if shape is None or len(shape) != 4 or shape[-1] is None:
        raise ShapeError(
            "yolo",
            "the prediction must be [N, H, W, anchors * (5 + classes)]",
            received=repr(prediction.type),
        )
    if shape[-1] % len(array) or shape[-1] // len(array) < 5:
        raise ShapeError(
            "yolo",
            f"the channels must be those of {len(array)} anchors with at least 5 numbers each",
            received=show(shape),
            advice="Check the number of anchors",
        )
    return array


@opdef.plain_function
def yolo(
    prediction: Any,
    target: Any,
    anchors: Sequence[Sequence[float]],
    *,
    scale_xy: float = 10.0,
    scale_wh: float = 10.0,
    scale_object: float = 100.0,
    scale_no_object: float = 5.0,
    scale_class: float = 2.0,
    least_overlap: float = 0.7,
    most_overlap_of_nothing: float = 0.3,
    rescore: bool = True,
    reduction: str = "sum",
    name: str | None = None,
) -> Tensor:
    """The loss of a grid of boxes (Redmon and Farhadi, YOLO9000, 2017).

    `prediction` and `target` are [N, H, W, A * (5 + C)]: for each of A `anchors` (width and height
    in cells) x, y, w, h, confidence and C classes. Of a prediction, sigmoid(x, y) is the centre in
    the cell, anchor * exp(w, h) the size, sigmoid the confidence, softmax the classes. A target has
    the centre in the cell, the size in cells, 1 as confidence where the cell holds an object, and
    the distribution of classes.

    An anchor answers for the object in its cell where their overlap (intersection over union) is
    `least_overlap` or more, or the largest of the cell. For those count: squared errors of the
    centre, Huber's of the logarithm of the size, cross-entropy of the confidence (toward the
    overlap with `rescore`, else 1) and of the classes. Anchors that answer for nothing and overlap
    by `most_overlap_of_nothing` or less count with a confidence of 0. Overlaps pass no gradient.

    `reduction` is "none" (the loss of each anchor, [N, H, W, A]), "sum" or "mean". Raises
    ShapeError for channels that do not fit the anchors.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x, t = graph.placeholder((1, 4, 4, 14)), graph.placeholder((1, 4, 4, 14))
        >>> nl.yolo(x, t, [(1.0, 1.0), (2.0, 1.5)], reduction="none").shape
        (1, 4, 4, 2)
    """
    check_reduction("yolo", reduction)
    call = opdef.functions()
    x, t = pair_of("yolo", prediction, target)
    sizes = _anchors(x, anchors)
    count = len(sizes)
    parts = x.shape[-1] // count  # type: ignore[index,operator]
    x, t = (_apart(v, count, parts) for v in (x, t))
    wide, high = (x.graph.constant(sizes[:, i].astype(x.dtype.numpy)) for i in (0, 1))
    box = sigmoid(x[..., 0]), sigmoid(x[..., 1]), x[..., 2], x[..., 3]
    real_box = t[..., 0], t[..., 1], t[..., 2], t[..., 3]
    guess = stop_gradient(box[0]), stop_gradient(box[1]), exp(box[2]) * wide, exp(box[3]) * high
    overlap = stop_gradient(_overlap(guess, real_box))
    holds = greater(t[..., 4], 0.0)
    best = call["max"](overlap, axes=-1, keepdims=True)
    answers = logical_and(
        holds, logical_or(call["greater_equal"](overlap, least_overlap), equal(overlap, best))
    )
    near = greater(overlap, most_overlap_of_nothing)
    nothing = call["logical_not"](logical_or(answers, logical_and(holds, near)))
    mine, none = cast_to(answers, x.dtype), cast_to(nothing, x.dtype)

    centre = call["square"](box[0] - real_box[0]) + call["square"](box[1] - real_box[1])
    logs = [
        call["log"](clamp(r, low=LEAST_EXTENT) / a)
        for r, a in zip(real_box[2:], (wide, high), strict=True)
    ]
    size = huber(box[2], logs[0], reduction="none") + huber(box[3], logs[1], reduction="none")
    aim = mine * overlap if rescore else mine
    confidence = sigmoid_cross_entropy(x[..., 4], aim, reduction="none")
    loss = mine * (centre * scale_xy + size * scale_wh) + confidence * (
        mine * scale_object + none * scale_no_object
    )
    if parts > 5:
        kinds = call["softmax_cross_entropy"](x[..., 5:], t[..., 5:], reduction="none")
        loss = loss + mine * kinds * scale_class
    return finish(loss, None, reduction, name)


def _apart(x: Tensor, count: int, parts: int) -> Tensor:
    """[N, H, W, count * parts] as [N, H, W, count, parts]."""
    call = opdef.functions()
    pieces = [x[..., i * parts : (i + 1) * parts] for i in range(count)]
    return call["stack"](pieces, axis=-2)  # type: ignore[no-any-return]
