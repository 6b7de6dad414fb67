"""Optimiser steps against NumPy, over several steps so that the state matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.graph.evaluate import evaluate

STEPS = 4
RATE, WEIGHT_DECAY, EPSILON = 0.05, 0.02, 1e-6
Arrays = list[np.ndarray]


def gradients_of_steps() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(3)
    for _ in range(STEPS):
        yield rng.normal(size=(2, 3))


def start(slots: int) -> Arrays:
    return [np.linspace(-1, 1, 6).reshape(2, 3), *[np.zeros((2, 3))] * slots]


def trajectory(step: Callable[..., Any], slots: int, as_tensors: bool) -> Arrays:
    """The values after all steps; hyper-parameters as numbers, or as tensors when asked."""
    state = start(slots)
    for t, gradient in enumerate(gradients_of_steps(), start=1):
        graph = nl.Graph()
        held = [graph.placeholder((2, 3), nl.float64) for _ in state]
        slope = graph.placeholder((2, 3), nl.float64)

        def number(value: float, graph: nl.Graph = graph) -> Any:
            return graph.constant(float(value), nl.float32) if as_tensors else value

        made = step(number, number(t), slope, *held)
        made = made if isinstance(made, tuple) else (made,)
        assert all(m.dtype is nl.float64 for m in made)
        state = evaluate(made, {**dict(zip(held, state, strict=True)), slope: gradient})
    return state


def numpy_trajectory(step: Callable[..., tuple], slots: int) -> Arrays:
    state = start(slots)
    for t, gradient in enumerate(gradients_of_steps(), start=1):
        state = list(step(t, gradient, *state))
    return state


def numpy_sgd(t, g, w):
    return (w - RATE * (g + WEIGHT_DECAY * w),)


def numpy_momentum(t, g, w, v, nesterov=False):
    v = 0.9 * v + g
    return w - RATE * (g + 0.9 * v if nesterov else v), v


def numpy_adam(t, g, w, m, v, top=None, decoupled=False):
    if decoupled:
        w = w - RATE * WEIGHT_DECAY * w
    else:
        g = g + WEIGHT_DECAY * w
    m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
    top = None if top is None else np.maximum(top, v)
    corrected = np.sqrt((v if top is None else top) / (1 - 0.95**t))
    w = w - RATE * (m / (1 - 0.8**t)) / (corrected + EPSILON)
    return (w, m, v) if top is None else (w, m, v, top)


def numpy_rmsprop(t, g, w, s, mean=None, velocity=None):
    s = 0.9 * s + 0.1 * g**2
    extra, spread = (), s
    if mean is not None:
        mean = 0.9 * mean + 0.1 * g
        extra, spread = (mean,), s - mean**2
    along = g / (np.sqrt(spread) + EPSILON)
    if velocity is None:
        return (w - RATE * along, s, *extra)
    velocity = 0.7 * velocity + along
    return (w - RATE * velocity, s, *extra, velocity)


def numpy_lion(t, g, w, m):
    step = np.sign(0.9 * m + 0.1 * g) + WEIGHT_DECAY * w
    return w - RATE * step, 0.8 * m + 0.2 * g


def numpy_lamb(t, g, w, m, v):
    m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
    step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + EPSILON) + WEIGHT_DECAY * w
    return w - RATE * np.linalg.norm(w) / np.linalg.norm(step) * step, m, v


def numpy_adagrad(t, g, w, s):
    g = g + WEIGHT_DECAY * w
    s = s + g**2
    return w - RATE / (1 + (t - 1) * 0.1) * g / (np.sqrt(s) + EPSILON), s


def numpy_adadelta(t, g, w, s, d):
    s = 0.9 * s + 0.1 * g**2
    step = np.sqrt(d + EPSILON) / np.sqrt(s + EPSILON) * g
    return w - RATE * step, s, 0.9 * d + 0.1 * step**2


def adam_like(function: Callable[..., tuple]) -> Callable[..., tuple]:
    def step(n, t, g, w, m, v, vmax=None):
        rates = (n(RATE), n(0.8), n(0.95), n(EPSILON))
        return function(*rates, t, w, m, v, g, vmax=vmax, weight_decay=n(WEIGHT_DECAY))

    return step


CASES = {
    "sgd": (
        lambda n, t, g, w: nl.sgd(n(RATE), w, g, weight_decay=n(WEIGHT_DECAY)),
        numpy_sgd,
        0,
    ),
    "momentum": (
        lambda n, t, g, w, v: nl.momentum(n(RATE), n(0.9), w, v, g),
        numpy_momentum,
        1,
    ),
    "nesterov": (
        lambda n, t, g, w, v: nl.momentum(n(RATE), n(0.9), w, v, g, nesterov=True),
        lambda *a: numpy_momentum(*a, nesterov=True),
        1,
    ),
    "adam": (adam_like(nl.adam), numpy_adam, 2),
    "amsgrad": (adam_like(nl.adam), numpy_adam, 3),
    "adamw": (adam_like(nl.adamw), lambda *a: numpy_adam(*a, decoupled=True), 2),
    "rmsprop": (
        lambda n, t, g, w, s: nl.rmsprop(n(RATE), n(0.9), n(EPSILON), w, s, g),
        numpy_rmsprop,
        1,
    ),
    "lion": (
        lambda n, t, g, w, m: nl.lion(
            n(RATE), n(0.9), n(0.8), w, m, g, weight_decay=n(WEIGHT_DECAY)
        ),
        numpy_lion,
        1,
    ),
    "lamb": (
        lambda n, t, g, w, m, v: nl.lamb(
            n(RATE), n(0.8), n(0.95), n(EPSILON), t, w, m, v, g, weight_decay=n(WEIGHT_DECAY)
        ),
        numpy_lamb,
        2,
    ),
    "adagrad": (
        lambda n, t, g, w, s: nl.adagrad(
            n(RATE), n(EPSILON), w, s, g, step=t, rate_decay=n(0.1), weight_decay=n(WEIGHT_DECAY)
        ),
        numpy_adagrad,
        1,
    ),
    "adadelta": (
        lambda n, t, g, w, s, d: nl.adadelta(n(RATE), n(0.9), n(EPSILON), w, s, d, g),
        numpy_adadelta,
        2,
    ),
    "rmsprop centered": (
        lambda n, t, g, w, s, m: nl.rmsprop(n(RATE), n(0.9), n(EPSILON), w, s, g, mean=m),
        numpy_rmsprop,
        2,
    ),
    "rmsprop with momentum": (
        lambda n, t, g, w, s, m, v: nl.rmsprop(
            n(RATE), n(0.9), n(EPSILON), w, s, g, mean=m, mu=n(0.7), velocity=v
        ),
        numpy_rmsprop,
        3,
    ),
}


@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_steps_follow_numpy(name: str, as_tensors: bool) -> None:
    step, numpy_step, slots = CASES[name]
    found = trajectory(step, slots, as_tensors)
    expected = numpy_trajectory(numpy_step, slots)
    tolerance = 1e-6 if as_tensors else 1e-13  # hyper-parameters in float32, or exact
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=10 * tolerance, atol=tolerance)


def test_centered_rmsprop_survives_a_constant_gradient() -> None:
    graph = nl.Graph()
    w, s, m, g = (graph.placeholder((1,), nl.float32) for _ in range(4))
    made = nl.rmsprop(0.1, 0.9, 1e-8, w, s, g, mean=m)
    fed = np.float32([0.1])
    # Mean square below the square of the mean: rounding after many equal steps.
    found = evaluate(made, {w: fed, s: fed**2 * np.float32(0.999), m: fed, g: fed})
    assert np.isfinite(found[0]).all()


def test_half_values_keep_their_dtype() -> None:
    graph = nl.Graph()
    w, g = graph.placeholder((2,), nl.float16), graph.placeholder((2,), nl.float16)
    rate = graph.placeholder((), nl.float32)
    assert nl.sgd(rate, w, g).dtype is nl.float16


def test_integers_are_refused() -> None:
    graph = nl.Graph()
    w = graph.placeholder((2,), nl.int32)
    with pytest.raises(TypeError, match="int32"):
        nl.sgd(0.1, w, w)


def test_lamb_of_zeros_takes_a_plain_step() -> None:
    graph = nl.Graph()
    w, g = graph.placeholder((2,), nl.float64), graph.placeholder((2,), nl.float64)
    made = nl.lamb(0.1, 0.9, 0.99, 1e-8, 1, w, w, w, g)
    zero = np.zeros(2)
    assert evaluate([made[0]], {w: zero, g: zero})[0].tolist() == [0, 0]
    np.testing.assert_allclose(evaluate([made[0]], {w: zero, g: zero + 1})[0], -0.1)


def test_adam_without_correction() -> None:
    """An infinite step leaves the learning rate as the caller corrected it."""
    graph = nl.Graph()
    w, m, v, g = (graph.placeholder((1,), nl.float64) for _ in range(4))
    one = np.ones(1)
    made = nl.adam(0.1, 0.9, 0.99, 0.0, float("inf"), w, m, v, g)
    assert np.isclose(evaluate([made[0]], {w: one, m: one, v: one, g: one})[0], 0.9)


def test_conditioned_gradients() -> None:
    graph = nl.Graph()
    w, g = graph.constant([2.0, -3.0]), graph.constant([8.0, -0.5])
    made = nl.condition_gradient(g, w, rescale=0.5, clip=(-1.0, 1.0), l1=0.1, l2=0.01)
    np.testing.assert_allclose(evaluate([made])[0], [1 + 0.1 + 0.02, -0.25 - 0.1 - 0.03], 1e-6)
    with pytest.raises(ValueError, match="need the value"):
        nl.condition_gradient(g, l2=0.1)
    clipped = nl.clip_by_global_norm([w, g * 0.0], 1.0)
    np.testing.assert_allclose(evaluate(clipped)[0], np.array([2, -3]) / np.sqrt(13), 1e-6)
    (same,) = nl.clip_by_global_norm([g], 100.0)
    assert evaluate([same])[0].tolist() == [8.0, -0.5]
