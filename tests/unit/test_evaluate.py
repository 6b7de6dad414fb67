"""Evaluating a graph through the references of its operations."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.core.errors import FeedError, GraphError, ShapeError
from niello.graph.evaluate import evaluate


def test_any_tensor_may_be_fed() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2,))
    inner = x * 2.0
    assert evaluate([inner + 1.0], {inner: np.float32([1, 2])})[0].tolist() == [2, 3]


def test_a_missing_feed_is_named() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, None), name="x")
    with pytest.raises(FeedError, match=r"evaluate x: a placeholder needs .*float32\[2, \?\]"):
        evaluate([x + 1.0])


def test_feeds_are_checked() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, None))
    with pytest.raises(FeedError, match="holds float32; received float64"):
        evaluate([x], {x: np.zeros((2, 2))})
    with pytest.raises(ShapeError):
        evaluate([x], {x: np.zeros((3, 2), np.float32)})


def test_variables_have_their_present_value() -> None:
    graph = nl.Graph()
    w = graph.variable([1.0, 2.0])
    doubled = w * 2.0
    w.value = np.float32([3.0, 4.0])
    assert evaluate([doubled, w.read()])[0].tolist() == [6, 8]


def test_assignments_are_not_performed() -> None:
    graph = nl.Graph()
    w = graph.variable([1.0])
    with graph.control_dependencies([w.assign([2.0])]):
        late = w.read()
    with pytest.raises(GraphError, match="after an assignment"):
        evaluate([late])


def test_several_outputs_and_shared_work() -> None:
    graph = nl.Graph()
    state = graph.constant(nl.random_state(1))
    bits, after = nl.random_bits((3,), state)
    found = evaluate([bits, after, bits])
    assert found[0] is found[2] and found[1].shape == (6,)
