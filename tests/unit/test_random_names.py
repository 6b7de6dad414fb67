"""Distributions made of others, against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.graph.evaluate import evaluate
from niello.ops.philox_blocks import RandomUnit, RandomWords

SIZE = 40000


def value(tensor: nl.Tensor) -> np.ndarray:
    return evaluate([tensor])[0]


def distance(values: np.ndarray, cdf) -> float:
    """Kolmogorov-Smirnov distance, times sqrt(n): above 1.95 once in a thousand."""
    exact = np.array([cdf(v) for v in np.sort(values.astype(np.float64))])
    steps = np.arange(len(exact) + 1) / len(exact)
    gap = max(np.max(exact - steps[:-1]), np.max(steps[1:] - exact))
    return float(gap * math.sqrt(len(exact)))


@pytest.mark.parametrize("start", [nl.random_state(3), nl.mtgp32_state(3)], ids=["philox", "mtgp"])
def test_continuous(start: np.ndarray) -> None:
    state = nl.Graph().constant(start)
    for dtype in (nl.float32, nl.float64):
        times, after = nl.random_exponential((SIZE,), state, rate=2.0, dtype=dtype)
        gumbel, _ = nl.random_gumbel((SIZE,), state, location=1.0, scale=0.5, dtype=dtype)
        assert times.dtype is dtype and after.shape == start.shape
        assert distance(value(times), lambda v: 1 - math.exp(-2 * v)) < 1.95
        assert distance(value(gumbel), lambda v: math.exp(-math.exp(-(v - 1) / 0.5))) < 1.95


def test_bernoulli_and_integers() -> None:
    graph = nl.Graph()
    coins = value(nl.random_bernoulli((SIZE,), seed=1, graph=graph, probability=0.3))
    assert coins.dtype == np.bool_ and abs(coins.mean() - 0.3) < 4 * math.sqrt(0.21 / SIZE)
    never = nl.random_bernoulli((SIZE,), seed=1, graph=graph, probability=0, dtype=nl.float32)
    always = nl.random_bernoulli((SIZE,), seed=1, graph=graph, probability=1)
    assert value(never).sum() == 0 and value(always).all()
    low = value(nl.randint(5, shape=(SIZE,), seed=1, graph=graph))
    both = value(nl.randint(-2, 3, (SIZE,), seed=1, graph=graph))
    assert set(low.tolist()) == set(range(5)) and (both + 2).tolist() == low.tolist()


def test_categorical() -> None:
    shares = np.array([0.1, 0.2, 0.7])
    graph = nl.Graph()
    logits = graph.placeholder((None, 3))
    drawn, after = nl.random_categorical(logits, graph.constant(nl.random_state(4)))
    feeds = {logits: np.tile(np.log(shares).astype(np.float32) + 5, (SIZE, 1))}
    found, moved = evaluate([drawn, after], feeds)
    counts = np.bincount(found, minlength=3)
    expected = shares * SIZE
    assert np.sum((counts - expected) ** 2 / expected) < 13.8  # chi squared, 2 degrees, 0.1 %
    assert moved.tolist() == nl.random_state(4, counter=SIZE * 3 // 4).tolist()


def test_permutation() -> None:
    graph = nl.Graph()
    order = value(nl.random_permutation(1000, seed=5, graph=graph))
    assert sorted(order.tolist()) == list(range(1000)) and order.tolist() != list(range(1000))
    rows = graph.constant(np.arange(2000).reshape(1000, 2))
    mixed, _ = nl.random_permutation(rows, graph.constant(nl.random_state(5)))
    assert value(mixed)[:, 0].tolist() == (order * 2).tolist()
    unknown = graph.placeholder((None, 2), nl.int64)
    shuffled = nl.random_permutation(unknown, seed=5)
    found = evaluate([shuffled], {unknown: np.arange(2000).reshape(1000, 2)})[0]
    assert found[:, 0].tolist() == (order * 2).tolist()


def test_state_from_counters() -> None:
    made = nl.random_counter_state(2**64 - 1, 5, 2**40)
    assert made.tolist() == [2**32 - 1, 2**32 - 1, 5, 0, 0, 256]
    with pytest.raises(AttributeValueError, match="the key must fit 64 bits"):
        nl.random_counter_state(0, 0, 2**64)


@pytest.mark.parametrize("count", [1 << 14, (1 << 14) + 3])
def test_stored_words_are_the_same(count: int) -> None:
    """Long tensors take the routine; short ones are computed element by element."""
    graph = nl.Graph()
    state = graph.constant(nl.random_state(9, counter=2**64 - 5))
    long, after = nl.random_bits((count,), state)
    short, _ = nl.random_bits((1000,), state)
    unit, moved = nl.random_uniform((count,), state)
    assert isinstance(long.operation.op, RandomWords) and isinstance(unit.operation.op, RandomUnit)
    found = graph.run(targets=[long, after, short, unit, moved])
    words = found[long].numpy()
    assert words[:1000].tolist() == found[short].numpy().tolist()
    assert found[unit].numpy().tolist() == ((words >> 8) * np.float32(2.0**-24)).tolist()
    assert found[after].numpy().tolist() == found[moved].numpy().tolist()


def test_refusals() -> None:
    graph = nl.Graph()
    with pytest.raises(AttributeValueError, match="from 0 to 1"):
        nl.random_bernoulli((2,), seed=1, graph=graph, probability=1.5)
    with pytest.raises(DTypeError, match="int32"):
        nl.random_categorical(graph.placeholder((2, 3), nl.int32), seed=1)
    with pytest.raises(ShapeError, match="axis of classes"):
        nl.random_categorical(graph.placeholder(()), seed=1)
    with pytest.raises(ShapeError, match="no rows"):
        nl.random_permutation(graph.placeholder(()), seed=1)
