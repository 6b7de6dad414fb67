"""Gamma and Poisson numbers: moments, distribution, streams and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError

COUNT = 20000


def _drawn(make: Callable[[Any], Any], device: str = "cpu") -> np.ndarray:
    graph = nl.Graph()
    made = graph.compile({}, [make(graph)], device=device)
    return made.run([])[0].numpy()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5, 40.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gamma_has_its_moments(alpha: float, dtype: str) -> None:
    x = _drawn(
        lambda g: nl.random_gamma((COUNT,), seed=3, graph=g, alpha=alpha, rate=2.0, dtype=dtype)
    ).astype(np.float64)
    assert (x >= 0).all()
    assert x.mean() == pytest.approx(alpha / 2, abs=4 * math.sqrt(alpha / 4 / COUNT))
    assert x.var() == pytest.approx(alpha / 4, rel=0.12)


@pytest.mark.parametrize("rate", [0.0, 0.5, 4.0, 11.0, 300.0])
def test_poisson_has_its_probabilities(rate: float) -> None:
    x = _drawn(lambda g: nl.random_poisson((COUNT,), seed=5, graph=g, rate=rate))
    assert x.dtype == np.int32
    counts = np.bincount(x)
    k = np.arange(len(counts))
    logs = k * np.log(rate) - rate if rate else np.where(k == 0, 0.0, -np.inf)
    mass = COUNT * np.exp(logs - [math.lgamma(n + 1) for n in k])
    often = mass > 20
    chi = float(((counts[often] - mass[often]) ** 2 / mass[often]).sum())
    freedom = max(int(often.sum()) - 1, 1)
    assert chi < freedom + 4 * math.sqrt(2 * freedom)


def test_rates_may_differ() -> None:
    rates = np.linspace(0, 30, 50, dtype=np.float32)
    x = _drawn(lambda g: nl.random_poisson((2000, 50), seed=1, graph=g, rate=g.constant(rates)))
    assert np.abs(x.mean(0) - rates).max() < 5 * math.sqrt(30 / 2000)


def test_states_advance_and_devices_agree() -> None:
    graph = nl.Graph()
    state = graph.constant(nl.random_state(7))
    first, after = nl.random_poisson((100,), state, rate=20.0)
    second, _ = nl.random_poisson((100,), after, rate=20.0)
    runs = [
        [t.numpy() for t in graph.compile({}, [first, second], device=d).run([])]
        for d in ("cpu", "numpy")
    ]
    assert (runs[0][0] != runs[0][1]).any()
    np.testing.assert_array_equal(runs[0], runs[1])

    def gamma(g: Any) -> Any:
        return nl.random_gamma((100,), seed=3, graph=g, alpha=0.7)

    np.testing.assert_allclose(_drawn(gamma), _drawn(gamma, "numpy"), rtol=1e-5)


def test_refusals() -> None:
    graph = nl.Graph()
    with pytest.raises(AttributeValueError):
        nl.random_gamma((2,), seed=1, graph=graph, alpha=0.0)
    with pytest.raises(AttributeValueError):
        nl.random_poisson((2,), seed=1, graph=graph, rate=-1.0)
