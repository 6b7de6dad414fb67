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
    with pytest.raises(ShapeError, match="do not broadcast"):
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
