"""Philox against its published vectors; distributions against their definition; dropout's mask."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, GraphError, ShapeError
from niello.graph.evaluate import evaluate
from niello.graph.tensor import Tensor
from niello.kernel import ir
from niello.kernel.build import Builder, Value
from niello.kernel.interpret import evaluate as evaluate_expression
from niello.ops.philox import numpy_advance, numpy_words, word

# Random123, kat_vectors: philox4x32, 10 rounds: counter, key, result.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
SIZE = 40000


def value(tensor: Tensor) -> np.ndarray:
    return evaluate([tensor])[0]


def state_of(counter: list[int], key: list[int]) -> np.ndarray:
    return np.array([*counter, *key], np.uint32)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_published_vectors(counter: list[int], key: list[int], words: list[int]) -> None:
    state = state_of(counter, key)
    assert numpy_words(state, 4).tolist() == words
    param = ir.Param(0, nl.uint32, 6, False)
    position = ir.Range("i", 4)
    given = Value((6,), nl.uint32, lambda index: ir.Load(param, index[0], None))
    expression = word(Builder(), given, position, 4)
    assert evaluate_expression(expression, (position,), (state,)).tolist() == words


@pytest.mark.parametrize("low", [0, 2**32 - 2, 2**64 - 2, 2**96 - 2, 2**128 - 2])
def test_counter_carries(low: int) -> None:
    """Every block is that of its own counter, also where the addition carries or wraps."""
    state = nl.random_state(5, counter=low)
    stream = numpy_words(state, 16)
    for block in range(4):
        alone = nl.random_state(5, counter=(low + block) % 2**128)
        assert stream[4 * block : 4 * block + 4].tolist() == numpy_words(alone, 4).tolist()
        assert numpy_advance(state, 4 * block).tolist() == alone.tolist()


def test_state_continues_the_stream() -> None:
    graph = nl.Graph()
    state = graph.constant(nl.random_state(11))
    first, middle = nl.random_bits((3, 4), state)
    second, _ = nl.random_bits((8,), middle)
    whole, _ = nl.random_bits((20,), state)
    a, b, both = evaluate([first, second, whole])
    assert np.concatenate([a.reshape(-1), b]).tolist() == both.tolist()


def test_seed_is_a_state() -> None:
    graph = nl.Graph()
    by_seed = nl.random_uniform((5,), seed=2**40 + 3, graph=graph)
    by_state, _ = nl.random_uniform((5,), graph.constant(nl.random_state(2**40 + 3)))
    other = nl.random_uniform((5,), seed=4, graph=graph)
    a, b, c = evaluate([by_seed, by_state, other])
    assert a.tolist() == b.tolist() != c.tolist()


def against_cdf(values: np.ndarray, cdf) -> float:
    """Kolmogorov-Smirnov distance, times sqrt(n): above 1.95 once in a thousand."""
    ordered = np.sort(values.astype(np.float64).reshape(-1))
    exact = np.array([cdf(v) for v in ordered])
    steps = np.arange(len(ordered) + 1) / len(ordered)
    gap = max(np.max(exact - steps[:-1]), np.max(steps[1:] - exact))
    return float(gap * math.sqrt(len(ordered)))


@pytest.mark.parametrize("dtype", [nl.float16, nl.bfloat16, nl.float32, nl.float64])
def test_uniform(dtype: nl.DType) -> None:
    made = value(nl.random_uniform((SIZE,), seed=1, graph=nl.Graph(), dtype=dtype))
    assert made.dtype == dtype.numpy
    wide = made.astype(np.float64)
    assert wide.min() >= 0 and wide.max() < 1
    if not dtype.is_half:
        assert against_cdf(made, lambda v: v) < 1.95
    else:  # a coarse grid: compare the mean and the spread
        step = 2.0 ** -(11 if dtype is nl.float16 else 8)
        assert abs(wide.mean() - (1 - step) / 2) < 4 * 0.289 / math.sqrt(SIZE)


def test_uniform_between_bounds() -> None:
    graph = nl.Graph()
    scaled = nl.random_uniform((SIZE,), seed=1, graph=graph, low=-3.0, high=5.0)
    assert against_cdf(value(scaled), lambda v: (v + 3) / 8) < 1.95
    low = graph.constant(np.float32([[0.0], [10.0]]))
    both = value(nl.random_uniform((2, 50), seed=1, graph=graph, low=low, high=low + 1.0))
    assert both[0].max() <= 1 and both[1].min() >= 10


@pytest.mark.parametrize("method", ["inverse_cdf", "box_muller"])
@pytest.mark.parametrize("dtype", [nl.float32, nl.float64])
def test_normal(method: str, dtype: nl.DType) -> None:
    made = nl.random_normal(
        (SIZE,), seed=3, graph=nl.Graph(), mean=2.0, standard_deviation=0.5, method=method,
        dtype=dtype,
    )  # fmt: skip
    assert against_cdf(value(made), NormalDist(2.0, 0.5).cdf) < 1.95


def test_normal_of_halves_is_float32_rounded() -> None:
    graph = nl.Graph()
    half = nl.random_normal((100,), seed=3, graph=graph, dtype=nl.float16)
    single = nl.random_normal((100,), seed=3, graph=graph)
    a, b = evaluate([half, single])
    assert a.tolist() == b.astype(np.float16).tolist()


@pytest.mark.parametrize("bounds", [(-2.0, 2.0), (0.5, math.inf), (6.0, 7.0), (-9.0, -6.0)])
def test_truncated_normal(bounds: tuple[float, float]) -> None:
    low, high = bounds
    made = value(
        nl.random_truncated_normal((SIZE // 2,), seed=3, graph=nl.Graph(), low=low, high=high)
    )
    assert made.min() >= low and made.max() <= high

    def tail(x: float) -> float:
        return 0.5 * math.erfc(x / math.sqrt(2.0))

    def cdf(v: float) -> float:
        if low > 0:
            return (tail(low) - tail(v)) / (tail(low) - tail(high))
        return (tail(-v) - tail(-low)) / (tail(-high) - tail(-low))

    assert against_cdf(made, cdf) < 1.95


def test_integers() -> None:
    graph = nl.Graph()
    made = value(nl.random_integers((SIZE,), seed=1, graph=graph, low=-3, high=4, dtype=nl.int8))
    found, counts = np.unique(made, return_counts=True)
    assert found.tolist() == list(range(-3, 4)) and made.dtype == np.int8
    expected = SIZE / 7
    assert np.sum((counts - expected) ** 2 / expected) < 22.5  # chi squared, 6 degrees, 0.1 %
    words = value(nl.random_bits((9,), seed=1, graph=graph))
    whole = value(nl.random_integers((9,), seed=1, graph=graph, high=2**32, dtype=nl.uint32))
    assert whole.tolist() == words.tolist()


def test_shape_of_a_tensor() -> None:
    graph = nl.Graph()
    like = graph.placeholder((None, 3))
    for dtype in (nl.float32, nl.float64):
        made = nl.random_normal(like, seed=1, dtype=dtype)
        assert made.shape == (None, 3)
        found = evaluate([made], {like: np.zeros((2, 3), np.float32)})[0]
        fixed = nl.random_normal((2, 3), seed=1, graph=graph, dtype=dtype)
        assert found.tolist() == value(fixed).tolist()


def test_dropout_scales_and_counts() -> None:
    graph = nl.Graph()
    x, state = graph.placeholder((SIZE,)), graph.constant(nl.random_state(1))
    y, after = nl.dropout(x, 0.3, state)
    made, moved = evaluate([y, after], {x: np.ones(SIZE, np.float32)})
    kept = made != 0
    assert set(np.unique(made).tolist()) == {0.0, float(np.float32(1) / (1 - np.float32(0.3)))}
    assert abs(kept.mean() - 0.7) < 4 * math.sqrt(0.21 / SIZE)
    assert moved.tolist() == nl.random_state(1, counter=SIZE // 4).tolist()


def test_dropout_gradient_has_the_same_mask() -> None:
    graph = nl.Graph()
    x = graph.placeholder((50,))
    y = nl.dropout(x, 0.5, seed=8)
    slope = graph.gradients(y, [x])[x]
    made, gradient = evaluate([y, slope], {x: np.full(50, 3.0, np.float32)})
    assert (made / 3.0).tolist() == gradient.tolist()
    assert 0 < np.count_nonzero(made) < 50


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda g: nl.random_state(-1), AttributeValueError, "seed must fit 64 bits"),
        (lambda g: nl.random_state(0, counter=2**128), AttributeValueError, "128 bits"),
        (lambda g: nl.random_bits((2,)), AttributeValueError, "received neither"),
        (lambda g: nl.random_bits((2,), seed=1), GraphError, "Pass graph="),
        (lambda g: nl.random_bits((2, None), seed=1, graph=g), AttributeValueError, "unknown"),
        (lambda g: nl.random_bits((2,), g.constant([1, 2])), DTypeError, "int32"),
        (
            lambda g: nl.random_bits((2,), g.constant([1, 2], nl.uint32)),
            ShapeError,
            "six words; received \\[2\\]",
        ),
        (
            lambda g: nl.random_normal((2,), seed=1, graph=g, method="ziggurat"),
            AttributeValueError,
            "'ziggurat'",
        ),
        (
            lambda g: nl.random_uniform((2,), seed=1, graph=g, dtype=nl.int32),
            DTypeError,
            "int32",
        ),
        (
            lambda g: nl.random_integers((2,), seed=1, graph=g, high=300, dtype=nl.uint8),
            AttributeValueError,
            "does not fit uint8",
        ),
        (
            lambda g: nl.random_integers((2,), seed=1, graph=g, low=4, high=4),
            AttributeValueError,
            "low=4, high=4",
        ),
        (
            lambda g: nl.random_truncated_normal((2,), seed=1, graph=g, low=2.0, high=1.0),
            AttributeValueError,
            "low < high",
        ),
        (
            lambda g: nl.random_truncated_normal((2,), seed=1, graph=g, low=40.0, high=41.0),
            AttributeValueError,
            "next to nothing",
        ),
        (lambda g: nl.dropout(g.placeholder((2,)), 1.5, seed=1), AttributeValueError, "1.5"),
        (lambda g: nl.dropout(g.placeholder((2,)), 0.5), AttributeValueError, "neither"),
        (lambda g: nl.dropout(g.placeholder((2,), nl.int32), 0.5, seed=1), DTypeError, "int32"),
        (
            lambda g: nl.dropout(g.placeholder((2,)), g.placeholder((2,)), seed=1),
            ShapeError,
            "scalar; received \\[2\\]",
        ),
    ],
)
def test_refusals(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(nl.Graph())
