"""Gradients of graphs: several uses, higher orders, what is unused, unknown sizes, refusals."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.core.errors import DTypeError, GraphError, NotDifferentiable, ShapeError
from niello.graph.evaluate import evaluate


def value_of(tensor: nl.Tensor, feeds: dict) -> np.ndarray:
    return evaluate([tensor], feeds)[0]


def test_a_value_used_twice() -> None:
    graph = nl.Graph()
    x = graph.placeholder((3,), nl.float64)
    y = x * x + x.exp() * x
    slope = graph.gradients(y, [x])[x]
    a = np.array([0.5, -1.0, 2.0])
    np.testing.assert_allclose(value_of(slope, {x: a}), 2 * a + np.exp(a) * (a + 1))


def test_higher_orders() -> None:
    graph = nl.Graph()
    x = graph.placeholder((), nl.float64)
    y = x.sin() * x
    a = 0.7
    expected = [
        np.sin(a) * a,
        np.sin(a) + a * np.cos(a),
        2 * np.cos(a) - a * np.sin(a),
        -3 * np.sin(a) - a * np.cos(a),
        -4 * np.cos(a) + a * np.sin(a),
    ]
    for value in expected:
        np.testing.assert_allclose(value_of(y, {x: np.float64(a)}), value, rtol=1e-12)
        y = graph.gradients(y, [x])[x]


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_gradient_of_a_gradient_norm(device: str) -> None:
    """A gradient penalty: differentiates through the gradient of a small network."""
    graph = nl.Graph()
    rng = np.random.default_rng(0)
    x = graph.placeholder((4, 3))
    w = graph.variable(rng.standard_normal((3, 5)).astype(np.float32))
    out = nl.matmul(x, w).tanh().sum()
    penalty = (graph.gradients(out, [x])[x] ** 2.0).sum()
    slope = graph.gradients(penalty, [w])[w]
    feed = rng.standard_normal((4, 3)).astype(np.float32)
    found = graph.run({x: feed}, [slope], device=device)[slope]
    step, direction = 1e-3, rng.standard_normal((3, 5)).astype(np.float32)
    start, totals = w.value, []
    for sign in (1, -1):
        w.value = start + sign * step * direction
        totals.append(graph.run({x: feed}, [penalty], device="numpy")[penalty].item())
    near = (totals[0] - totals[1]) / (2 * step)
    np.testing.assert_allclose(np.sum(found * direction), near, rtol=2e-2)


def test_unused_tensors_get_zeros() -> None:
    graph = nl.Graph()
    x, unused = graph.placeholder((2,)), graph.placeholder((3, None))
    found = graph.gradients(x.sum(), [x, unused])
    assert list(found) == [x, unused]
    zeros = value_of(found[unused], {unused: np.ones((3, 4), np.float32)})
    np.testing.assert_array_equal(zeros, np.zeros((3, 4)))


def test_gradient_with_respect_to_itself_and_to_something_between() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2,))
    y = x * 3.0
    z = y * y
    found = graph.gradients(z, [z, y, x])
    feeds = {x: np.array([1.0, 2.0], np.float32)}
    np.testing.assert_array_equal(value_of(found[z], feeds), [1, 1])
    np.testing.assert_array_equal(value_of(found[y], feeds), [6, 12])
    np.testing.assert_array_equal(value_of(found[x], feeds), [18, 36])


def test_a_single_tensor_need_not_be_a_list() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2,))
    assert list(graph.gradients((x * 2.0).sum(), x)) == [x]


def test_seed() -> None:
    graph = nl.Graph()
    x, seed = graph.placeholder((2, 2)), graph.placeholder((2, 2))
    slope = graph.gradients(x * x, [x], seed=seed)[x]
    a = np.array([[1, 2], [3, 4]], np.float32)
    np.testing.assert_array_equal(value_of(slope, {x: a, seed: a}), 2 * a * a)


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        ((2,), nl.float32, ShapeError),
        ((), nl.float32, ShapeError),
        ((2, 2), nl.float64, DTypeError),
    ],
)
def test_seed_that_does_not_fit(shape, dtype, error) -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 2))
    with pytest.raises(error) as caught:
        graph.gradients(x * x, [x], seed=graph.placeholder(shape, dtype))
    assert "seed" in str(caught.value)


def test_unknown_sizes() -> None:
    graph = nl.Graph()
    x, w, b = graph.placeholder((None, None)), graph.placeholder((None, 3)), graph.placeholder((3,))
    loss = ((nl.matmul(x, w) + b).relu() ** 2.0).mean()
    slopes = graph.gradients(loss, [x, w, b])
    rng = np.random.default_rng(0)
    for rows, inner in ((1, 2), (5, 4)):
        feeds = {
            x: rng.standard_normal((rows, inner)).astype(np.float32),
            w: rng.standard_normal((inner, 3)).astype(np.float32),
            b: rng.standard_normal(3).astype(np.float32),
        }
        out = feeds[x] @ feeds[w] + feeds[b]
        inner_slope = 2 * np.maximum(out, 0) / out.size
        found = graph.run(feeds, list(slopes.values()))
        np.testing.assert_allclose(found[slopes[b]], inner_slope.sum(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[slopes[w]], feeds[x].T @ inner_slope, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[slopes[x]], inner_slope @ feeds[w].T, rtol=1e-4, atol=1e-6)


def test_unknown_rank() -> None:
    graph = nl.Graph()
    x = graph.placeholder(None)
    slope = graph.gradients((x.exp() * x).sum(), [x])[x]
    for shape in ((), (3,), (2, 2)):
        a = np.full(shape, 0.5, np.float32)
        np.testing.assert_allclose(
            graph.run({x: a}, [slope])[slope], np.exp(a) * (a + 1), rtol=1e-6
        )


def test_broadcasting_sums_back() -> None:
    graph = nl.Graph()
    a, b = graph.placeholder((3, 1)), graph.placeholder((4,))
    found = graph.gradients(a * b, [a, b])
    x, y = np.array([[1], [2], [3]], np.float32), np.array([1, 2, 3, 4], np.float32)
    feeds = {a: x, b: y}
    np.testing.assert_array_equal(value_of(found[a], feeds), np.full((3, 1), 10.0))
    np.testing.assert_array_equal(value_of(found[b], feeds), np.full(4, 6.0))


def test_through_variables_and_ordered_reads() -> None:
    graph = nl.Graph()
    v = graph.variable(np.array([1.0, 2.0], np.float32))
    loss = (v.read() * v.read() + v).sum()
    slope = graph.gradients(loss, [v])[v]
    np.testing.assert_array_equal(graph.run({}, [slope])[slope], [3, 5])


def test_integer_paths_carry_nothing() -> None:
    graph = nl.Graph()
    x = graph.placeholder((3,))
    hot = x.argmax(0).cast(nl.float32) + (x > 0.0).cast(nl.float32).sum()
    slope = graph.gradients(x.sum() * 2.0 + hot, [x])[x]
    np.testing.assert_array_equal(value_of(slope, {x: np.ones(3, np.float32)}), [2, 2, 2])


def test_stop_gradient() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2,))
    slope = graph.gradients(x * x.stop_gradient(), [x])[x]
    a = np.array([3.0, 4.0], np.float32)
    np.testing.assert_array_equal(value_of(slope, {x: a}), a)


def test_empty_tensors() -> None:
    graph = nl.Graph()
    x = graph.placeholder((0, 3))
    slope = graph.gradients((x * x).sum(), [x])[x]
    assert value_of(slope, {x: np.zeros((0, 3), np.float32)}).shape == (0, 3)


# --- refusals
def test_foreign_tensors() -> None:
    graph, other = nl.Graph(), nl.Graph()
    x, y = graph.placeholder((1,)), other.placeholder((1,))
    for call in (
        lambda: graph.gradients(x, [y]),
        lambda: graph.gradients(x, [x], seed=y),
        lambda: graph.gradients(x, [3]),  # type: ignore[list-item]
    ):
        with pytest.raises(GraphError) as caught:
            call()
        assert caught.value.received


def test_integers_have_no_gradient() -> None:
    graph = nl.Graph()
    x, n = graph.placeholder((2,)), graph.placeholder((2,), nl.int32)
    for of, wrt in ((x, n), (n, x)):
        with pytest.raises(NotDifferentiable, match="int32"):
            graph.gradients(of, [wrt])


def test_gradients_add_no_work_when_they_are_not_fetched() -> None:
    graph = nl.Graph()
    x = graph.placeholder((8,))
    y = x.exp().sum()
    graph.gradients(y, [x])
    assert graph.compile({x: (8,)}, [y]).kernel_count == 1
