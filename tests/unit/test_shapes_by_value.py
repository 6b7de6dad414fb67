"""Shapes given by tensors: fixed when the graph is compiled, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.dtypes import float64
from niello.core.errors import DTypeError, ShapeError
from niello.graph.opdef import registry
from tests.contract.contract_cases import Case, cases

BY_VALUE = sorted(n for n, cls in registry().items() if cls.value_inputs)
A = np.arange(12, dtype=np.float32).reshape(3, 4)


def run(y: Any, feeds: dict[Any, np.ndarray]) -> np.ndarray:
    return np.asarray(y.graph.run(feeds, [y])[y])


def built(case: Case) -> tuple[Any, dict[Any, np.ndarray], Any]:
    """The op with placeholders of unknown sizes, and constants for the values that it needs."""
    graph = nl.Graph()
    inputs, feeds = [], {}
    for n, a in enumerate(case.arrays):
        if n in case.op.value_inputs:
            inputs.append(graph.constant(a))
        else:
            inputs.append(graph.placeholder((None,) * a.ndim, a.dtype))
            feeds[inputs[-1]] = a
    return graph.apply(case.op, *inputs), feeds, inputs[0]


@pytest.mark.parametrize("name", BY_VALUE)
def test_run_is_reference(name: str) -> None:
    for case in cases(name):
        if case.dtype.is_complex:
            continue
        y, feeds, _ = built(case)
        (expected,) = case.reference()
        assert y.rank == expected.ndim
        assert np.array_equal(run(y, feeds), expected)


@pytest.mark.parametrize("name", BY_VALUE)
def test_gradient_is_finite_difference(name: str) -> None:
    for case in cases(name, lambda sample, dtype: dtype is float64):
        y, feeds, x = built(case)
        found = run(x.graph.gradients((y * y).sum(), [x])[x], feeds)
        along = np.random.default_rng(0).uniform(-1, 1, found.shape)

        def total(sign: float, f: Any = feeds, t: Any = x, d: Any = along, out: Any = y) -> float:
            return float((run(out, {**f, t: f[t] + sign * 1e-6 * d}) ** 2).sum())

        near = (total(1) - total(-1)) / 2e-6
        assert abs(near - (found * along).sum()) < 1e-5 * (1 + abs(near))


def test_shapes_made_of_shapes() -> None:
    graph = nl.Graph()
    x = graph.placeholder((None, None))
    sizes = nl.shape_of(x)
    y = x.reshape(nl.concat([sizes[1:], np.array([-1], np.int32)]))
    assert y.shape == (None, None)
    assert np.array_equal(run(y, {x: A}), A.reshape(4, 3))
    z = nl.broadcast_to(x[:1], [sizes[0] * 2, sizes[1]])
    assert np.array_equal(run(z, {x: A}), np.tile(A[:1], (6, 1)))
    w = x.slice(sizes[:1] - 2, [9], axes=[0])
    assert np.array_equal(run(w, {x: A}), A[1:])
    t = nl.tile(x, [1, sizes[0]])
    assert np.array_equal(run(t, {x: A}), np.tile(A, (1, 3)))


def test_what_is_known_at_once_is_fixed_at_once() -> None:
    graph = nl.Graph()
    x = graph.placeholder((3, 4))
    assert x.reshape(nl.shape_of(x)[::-1]).shape == (4, 3)
    assert x.slice(graph.constant([1]), [3]).shape == (2, 4)


def test_a_shape_that_is_fed_is_refused() -> None:
    graph = nl.Graph()
    x, shape = graph.placeholder((None, 4)), graph.placeholder((1,), nl.int32)
    y = x.reshape(shape)
    assert y.shape == (None,)
    with pytest.raises(ShapeError, match="known only when the graph runs"):
        run(y, {x: A, shape: np.array([12], np.int32)})
    with pytest.raises(DTypeError):
        x.reshape(graph.constant([12.0]))
    with pytest.raises(ShapeError, match="must be a vector"):
        x.reshape(graph.constant([[12]]))
