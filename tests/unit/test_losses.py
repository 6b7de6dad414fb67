"""Losses: values and gradients against their definition in NumPy, weights, reductions, refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.graph.evaluate import evaluate

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(4, 3))
TARGETS = RNG.uniform(size=(4, 3))  # rows do not sum to one


def softmax_rows(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    return -(t * np.log(p)).sum(-1)


def binary(p: np.ndarray, t: np.ndarray) -> np.ndarray:
    return -(t * np.log(p) + (1 - t) * np.log(1 - p))


def huber(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    d = np.abs(x - t)
    return np.where(d <= 0.7, d * d / 2, 0.7 * (d - 0.35))


def focal(p: np.ndarray, t: np.ndarray) -> np.ndarray:
    weight = 0.3 * t + 0.7 * (1 - t)
    return binary(p, t) * weight * (p * (1 - t) + (1 - p) * t) ** 1.5


LOSSES: dict[str, tuple[Callable, Callable, np.ndarray]] = {
    "softmax_cross_entropy": (nl.softmax_cross_entropy, softmax_rows, LOGITS),
    "mean_squared_error": (nl.mean_squared_error, lambda x, t: (x - t) ** 2, LOGITS),
    "binary_cross_entropy": (nl.binary_cross_entropy, binary, 1 / (1 + np.exp(-LOGITS))),
    "sigmoid_cross_entropy": (
        nl.sigmoid_cross_entropy,
        lambda x, t: binary(1 / (1 + np.exp(-x)), t),
        LOGITS,
    ),
    "huber": (lambda x, t, **k: nl.huber(x, t, delta=0.7, **k), huber, LOGITS),
    "hinge": (nl.hinge, lambda x, t: np.maximum(0, 1 - x * t), LOGITS),
    "mean_absolute_error": (nl.mean_absolute_error, lambda x, t: np.abs(x - t), LOGITS),
    "smooth_l1": (
        lambda x, t, **k: nl.smooth_l1(x, t, beta=0.7, **k),
        lambda x, t: huber(x, t) / 0.7,
        LOGITS,
    ),
    "log_loss": (
        lambda x, t, **k: nl.log_loss(x, t, epsilon=1e-3, **k),
        lambda p, t: -(t * np.log(p + 1e-3) + (1 - t) * np.log(1 - p + 1e-3)),
        1 / (1 + np.exp(-LOGITS)),
    ),
    "kl_divergence": (nl.kl_divergence, lambda x, t: t * (np.log(t) - x), LOGITS),
    "kl_divergence of logarithms": (
        lambda x, t, **k: nl.kl_divergence(x, t, log_target=True, **k),
        lambda x, t: np.exp(t) * (t - x),
        LOGITS,
    ),
    "categorical_cross_entropy": (
        nl.categorical_cross_entropy,
        lambda p, t: -(t * np.log(p)).sum(-1),
        1 / (1 + np.exp(-LOGITS)),
    ),
    "focal": (
        lambda x, t, **k: nl.focal(x, t, alpha=0.3, gamma=1.5, **k),
        lambda x, t: focal(1 / (1 + np.exp(-x)), t),
        LOGITS,
    ),
    "cosine_distance": (
        nl.cosine_distance,
        lambda x, t: 1 - (x * t).sum(-1) / np.sqrt((x * x).sum(-1) * (t * t).sum(-1)),
        LOGITS,
    ),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


@each_loss
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_values(name: str, reduction: str, weighted: bool) -> None:
    function, numpy, prediction = LOSSES[name]
    graph = nl.Graph()
    x, t = graph.constant(prediction), graph.constant(TARGETS)
    expected = numpy(prediction, TARGETS)
    weights = np.linspace(0.0, 2.0, expected.size).reshape(expected.shape) if weighted else None
    if weights is not None:
        expected = expected * weights
    loss = function(x, t, reduction=reduction, weights=weights, name="loss")
    assert loss.name == "loss"
    reduced = {"none": lambda a: a, "sum": np.sum, "mean": np.mean}[reduction](expected)
    np.testing.assert_allclose(evaluate([loss])[0], reduced, rtol=1e-12)


@each_loss
def test_gradient_of_the_mean(name: str) -> None:
    function, numpy, prediction = LOSSES[name]
    graph = nl.Graph()
    x, t = graph.constant(prediction), graph.constant(TARGETS)
    slopes = graph.gradients(function(x, t, weights=2.0), [x, t])
    found = evaluate([slopes[x], slopes[t]])
    for which, slope in enumerate(found):
        pair = [prediction, TARGETS]
        near = np.zeros_like(prediction)
        for i in np.ndindex(near.shape):
            step = np.zeros_like(prediction)
            step[i] = 1e-6
            ends = [numpy(*(a + s * step if n == which else a for n, a in enumerate(pair)))
                    for s in (1, -1)]  # fmt: skip
            near[i] = 2.0 * (ends[0].mean() - ends[1].mean()) / 2e-6
        np.testing.assert_allclose(slope, near, rtol=1e-6, atol=1e-8)


def test_softmax_along_another_axis() -> None:
    graph = nl.Graph()
    x, t = graph.constant(LOGITS.T.copy()), graph.constant(TARGETS.T.copy())
    loss = nl.softmax_cross_entropy(x, t, axis=0, reduction="none")
    np.testing.assert_allclose(evaluate([loss])[0], softmax_rows(LOGITS, TARGETS))


def test_large_logits_do_not_overflow() -> None:
    graph = nl.Graph()
    x = graph.constant(np.float32([[1e4, -1e4], [-1e4, 1e4]]))
    t = graph.constant(np.float32([[1, 0], [1, 0]]))
    for function in (nl.softmax_cross_entropy, nl.sigmoid_cross_entropy):
        loss = function(x, t, reduction="sum")
        value, slope = evaluate([loss, graph.gradients(loss, [x])[x]])
        assert value == 2e4 and np.isfinite(slope).all()


def test_certain_probabilities_cost_100_nats() -> None:
    graph = nl.Graph()
    p = graph.constant([0.0, 1.0, 0.0, 1.0])
    loss = nl.binary_cross_entropy(p, [0.0, 1.0, 1.0, 0.0], reduction="none")
    value, slope = evaluate([loss, graph.gradients(loss, [p])[p]])
    assert value.tolist() == [0, 0, 100, 100]
    assert np.isfinite(slope).all() and slope[:2].tolist() == [0, 0]


@each_loss
def test_unknown_batch(name: str) -> None:
    function, numpy, prediction = LOSSES[name]
    graph = nl.Graph()
    x = graph.placeholder((None, 3), nl.float64)
    t = graph.placeholder((None, 3), nl.float64)
    loss = function(x, t)
    slope = graph.gradients(loss, [x])[x]
    made = graph.run({x: prediction, t: TARGETS}, [loss, slope])
    np.testing.assert_allclose(np.asarray(made[loss]), numpy(prediction, TARGETS).mean(), rtol=1e-9)
    assert np.asarray(made[slope]).shape == (4, 3)


@each_loss
def test_refusals(name: str) -> None:
    function = LOSSES[name][0]
    graph = nl.Graph()
    x = graph.placeholder((2, 3))
    with pytest.raises(AttributeValueError, match="unknown reduction; received 'average'"):
        function(x, x, reduction="average")
    with pytest.raises(ShapeError, match=r"do not broadcast|one size along"):
        function(x, graph.placeholder((2, 4)))
    with pytest.raises(DTypeError, match="int32"):
        function(graph.placeholder((2, 3), nl.int32), graph.placeholder((2, 3), nl.int32))


def test_axis_and_delta_outside_their_domain() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 3))
    with pytest.raises(ShapeError, match="axis 2 is outside a tensor of rank 2"):
        nl.softmax_cross_entropy(x, x, axis=2)
    for delta in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(AttributeValueError, match="delta must be positive"):
            nl.huber(x, x, delta=delta)


def test_sum_by_nonzero_weights() -> None:
    graph = nl.Graph()
    x, t = graph.constant(LOGITS), graph.constant(TARGETS)
    each = np.abs(LOGITS - TARGETS)
    weights = np.array([2.0, 0.0, 0.5])
    by = "sum_by_nonzero_weights"
    made = [
        nl.mean_absolute_error(x, t, weights=weights, reduction=by),
        nl.mean_absolute_error(x, t, weights=weights * 0, reduction=by),
        nl.mean_absolute_error(x, t, reduction=by),
    ]
    found = evaluate(made)
    np.testing.assert_allclose(found, [(each * weights).sum() / 8, 0.0, each.mean()])


def test_label_smoothing() -> None:
    graph = nl.Graph()
    x, t = graph.constant(LOGITS), graph.constant(TARGETS)
    soft = TARGETS * 0.9 + 0.1 / 3
    p = 1 / (1 + np.exp(-LOGITS))
    made = [
        nl.softmax_cross_entropy(x, t, label_smoothing=0.1, reduction="none"),
        nl.categorical_cross_entropy(x.sigmoid(), t, label_smoothing=0.1, reduction="none"),
        nl.sigmoid_cross_entropy(x, t, label_smoothing=0.1, reduction="none"),
    ]
    found = evaluate(made)
    np.testing.assert_allclose(found[0], softmax_rows(LOGITS, soft))
    np.testing.assert_allclose(found[1], -(soft * np.log(p)).sum(-1))
    np.testing.assert_allclose(found[2], binary(p, TARGETS * 0.9 + 0.05))
    with pytest.raises(AttributeValueError, match="label_smoothing"):
        nl.sigmoid_cross_entropy(x, t, label_smoothing=1.5)


def test_embeddings() -> None:
    graph = nl.Graph()
    a, b, c = (RNG.normal(size=(5, 4)) for _ in range(3))
    sign = np.array([1.0, -1.0, 1.0, -1.0, -1.0])
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    ta, tb, tc, ts = (graph.constant(v) for v in (a, b, c, sign))

    def distance(x: np.ndarray, y: np.ndarray, p: float = 2.0) -> np.ndarray:
        return (np.abs(x - y + 1e-6) ** p).sum(-1) ** (1 / p)

    made = [
        nl.cosine_embedding(ta, tb, ts, margin=0.1, reduction="none"),
        nl.triplet_margin(ta, tb, tc, reduction="none"),
        nl.triplet_margin(ta, tb, tc, p=3.0, swap=True, margin=0.5, reduction="none"),
    ]
    found = evaluate(made)
    near = np.where(sign > 0, 1 - cosine, np.maximum(cosine - 0.1, 0))
    np.testing.assert_allclose(found[0], near)
    np.testing.assert_allclose(found[1], np.maximum(distance(a, b) - distance(a, c) + 1, 0))
    far = np.minimum(distance(a, c, 3.0), distance(b, c, 3.0))
    np.testing.assert_allclose(found[2], np.maximum(distance(a, b, 3.0) - far + 0.5, 0))


def yolo_by_hand(x: np.ndarray, t: np.ndarray, anchors: list[tuple[float, float]]) -> np.ndarray:
    """The loss of each anchor, one after the other."""
    parts = x.shape[-1] // len(anchors)
    x, t = (v.reshape(*v.shape[:3], len(anchors), parts) for v in (x, t))
    loss = np.zeros(x.shape[:4])

    def logistic(v: float) -> float:
        return 1 / (1 + np.exp(-v))

    for cell in np.ndindex(*x.shape[:3]):
        overlaps = []
        for a, (wide, high) in enumerate(anchors):
            p, q = x[(*cell, a)], t[(*cell, a)]
            box = logistic(p[0]), logistic(p[1]), wide * np.exp(p[2]), high * np.exp(p[3])
            sides = [
                max(0.0, min(box[i] + box[i + 2] / 2, q[i] + q[i + 2] / 2)
                    - max(box[i] - box[i + 2] / 2, q[i] - q[i + 2] / 2))
                for i in (0, 1)
            ]  # fmt: skip
            common = sides[0] * sides[1]
            overlaps.append(common / (box[2] * box[3] + q[2] * q[3] - common))
        for a, (wide, high) in enumerate(anchors):
            p, q, iou = x[(*cell, a)], t[(*cell, a)], overlaps[a]
            holds = q[4] > 0
            answers = holds and (iou >= 0.7 or iou == max(overlaps))
            aim = iou if answers else 0.0
            sure = np.logaddexp(0, p[4]) - p[4] * aim
            if not answers:
                loss[(*cell, a)] = 0.0 if holds and iou > 0.3 else 5 * sure
                continue
            centre = (logistic(p[0]) - q[0]) ** 2 + (logistic(p[1]) - q[1]) ** 2
            gaps = np.abs([p[2] - np.log(q[2] / wide), p[3] - np.log(q[3] / high)])
            size = np.where(gaps <= 1, gaps**2 / 2, gaps - 0.5).sum()
            kinds = -(q[5:] * (p[5:] - np.log(np.exp(p[5:]).sum()))).sum()
            loss[(*cell, a)] = 10 * centre + 10 * size + 100 * sure + 2 * kinds
    return loss


def test_yolo() -> None:
    anchors = [(1.0, 1.5), (2.0, 0.7)]
    x = RNG.normal(size=(2, 3, 3, 16)) * 0.5
    t = RNG.uniform(0.2, 1.0, size=(2, 3, 3, 2, 8))
    t[..., 2:4] *= 2
    t[..., 4] = RNG.integers(0, 2, size=(2, 3, 3, 1))
    t = t.reshape(2, 3, 3, 16)
    graph = nl.Graph()
    tx, tt = graph.placeholder(x.shape, nl.float64), graph.constant(t)
    each = nl.yolo(tx, tt, anchors, reduction="none")
    total = nl.yolo(tx, tt, anchors)
    slope = graph.gradients(total, [tx])[tx]
    found, summed, gradient = evaluate([each, total, slope], {tx: x})
    expected = yolo_by_hand(x, t, anchors)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(summed, expected.sum())
    assert np.isfinite(gradient).all() and np.count_nonzero(gradient) > 50
    with pytest.raises(ShapeError, match="channels"):
        nl.yolo(tx, tt, [(1.0, 1.0)] * 3)
