"""Reductions, softmax and their kin, as users call them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, NotDifferentiable, ShapeError
from niello.graph.evaluate import evaluate

RNG = np.random.default_rng(7)


def value(tensor: Any, feeds: dict[Any, Any] | None = None) -> np.ndarray:
    return evaluate([tensor], feeds)[0]


def gradient(call: Any, a: np.ndarray, shape: Any = "same") -> np.ndarray:
    """Gradient of the sum of `call(x)` at `a`, through the reference and the compiler alike."""
    g = nl.Graph()
    x = g.placeholder(a.shape if shape == "same" else shape, a.dtype)
    found = g.gradients(call(x).sum(), [x])[x]
    expected = value(found, {x: a})
    out = np.asarray(g.run({x: a}, targets=[found], device="numpy")[found])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    return expected


@pytest.mark.parametrize("name", ["sum", "prod", "min", "max", "mean"])
@pytest.mark.parametrize("axes", [None, 0, -1, (0, 2), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions_are_numpys(name: str, axes: Any, keepdims: bool) -> None:
    a = RNG.normal(size=(2, 3, 4))
    x = nl.Graph().placeholder((None, 3, None), nl.float64)
    y = getattr(nl, name)(x, axes, keepdims)
    expected = getattr(np, name)(a, axis=axes, keepdims=keepdims)
    np.testing.assert_allclose(value(y, {x: a}), expected, rtol=1e-12)
    assert y.rank == np.ndim(expected)


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        ("sum", 0.0),
        ("prod", 1.0),
        ("min", np.inf),
        ("max", -np.inf),
        ("mean", np.nan),
        ("variance", np.nan),
        ("logsumexp", -np.inf),
    ],
)
def test_reduction_of_nothing_is_the_identity(name: str, empty: float) -> None:
    x = nl.Graph().placeholder((2, 0))
    y = getattr(nl, name)(x, 1)
    a = np.zeros((2, 0), np.float32)
    np.testing.assert_array_equal(value(y, {x: a}), [empty] * 2)
    out = x.graph.run({x: a}, targets=[y], device="numpy")[y]
    np.testing.assert_array_equal(np.asarray(out), [empty] * 2)


def test_integer_extremes_of_nothing() -> None:
    x = nl.Graph().placeholder((0,), nl.int8)
    a = np.zeros(0, np.int8)
    assert value(x.max(), {x: a}) == -128
    assert value(x.min(), {x: a}) == 127


def test_result_types() -> None:
    g = nl.Graph()
    assert g.placeholder((3,), nl.bool_).sum().dtype is nl.int32
    assert g.placeholder((3,), nl.int8).sum().dtype is nl.int8
    assert g.placeholder((3,), nl.int8).mean().dtype is nl.float32
    assert g.placeholder((3,), nl.float16).mean().dtype is nl.float16
    assert g.placeholder((3,), nl.bool_).max().dtype is nl.bool_
    assert g.placeholder((3,)).any().dtype is nl.bool_
    assert g.placeholder((3,)).argmax().dtype is nl.int32
    assert g.placeholder((3,)).argmax(dtype=nl.int64).dtype is nl.int64
    assert g.placeholder((3,), nl.int32).softmax().dtype is nl.float32


def test_integers_wrap() -> None:
    x = nl.Graph().placeholder((3,), nl.int8)
    assert value(x.sum(), {x: np.array([100, 100, 1], np.int8)}) == -55


def test_half_types_add_in_float32() -> None:
    a = np.full(4096, 100, np.float16)
    x = nl.Graph().placeholder((4096,), nl.float16)
    targets = [x.mean(), x.variance(), x.softmax().sum()]
    out = x.graph.run({x: a}, targets=targets, device="numpy")
    assert [float(np.asarray(out[t])) for t in targets] == [100.0, 0.0, 1.0]


def test_axes_that_do_not_exist() -> None:
    x = nl.Graph().placeholder((2, 3))
    for call in (x.sum, x.max, x.mean, x.logsumexp, x.variance, x.argmax):
        with pytest.raises(ShapeError, match="outside a tensor of rank 2") as caught:
            call(2)
        assert caught.value.axis == 2
    with pytest.raises(ShapeError, match="given twice"):
        x.sum((0, -2))
    with pytest.raises(ShapeError, match="must be an integer"):
        x.sum("a")


def test_axes_checked_again_when_the_rank_is_known() -> None:
    x = nl.Graph().placeholder(None)
    y = x.sum(3)
    with pytest.raises(ShapeError, match="axis 3"):
        x.graph.run({x: np.zeros((2, 3), np.float32)}, targets=[y], device="numpy")


def test_argmax_of_nothing() -> None:
    with pytest.raises(ShapeError, match="no extreme of nothing"):
        nl.Graph().placeholder((2, 0)).argmax(1)
    assert nl.Graph().placeholder((0, 3)).argmax(1).shape == (0,)
    with pytest.raises(DTypeError):
        nl.Graph().placeholder((2,)).argmax(dtype=nl.float32)


def test_argmax_over_several_axes_counts_rows() -> None:
    a = RNG.permutation(24).reshape(2, 3, 4).astype(np.float32)
    x = nl.Graph().placeholder(a.shape)
    assert value(x.argmax(), {x: a}) == a.argmax()
    expected = a.transpose(1, 0, 2).reshape(3, 8).argmax(1)
    assert np.array_equal(value(x.argmax((0, 2)), {x: a}), expected)


def test_positions_have_no_gradient() -> None:
    x = nl.Graph().placeholder((3,))
    with pytest.raises(NotDifferentiable):
        x.graph.gradients(x.argmax(), [x])
    with pytest.raises(NotDifferentiable):
        x.graph.gradients(x.any(), [x])


# --- gradients ------------------------------------------------------------------------------------


def test_ties_share_the_gradient() -> None:
    a = np.array([[1, 3, 3, 3], [2, 2, 0, 1]], np.float32)
    expected = [[0, 1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0, 0]]
    np.testing.assert_allclose(gradient(lambda x: x.max(1), a), expected, rtol=1e-6)
    np.testing.assert_allclose(gradient(lambda x: (-x).min(1), a), -np.array(expected), rtol=1e-6)


def test_infinite_extremes_have_gradients() -> None:
    a = np.array([1, np.inf, np.inf], np.float32)
    assert gradient(lambda x: x.max(), a).tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", ["same", (None, None)])
def test_gradient_of_prod_with_zeros(zeros: int, shape: Any) -> None:
    for size in (1, 2, 3, 5, 8, 13):
        a = RNG.uniform(0.5, 2, (2, size)).astype(np.float32)
        a[0, : min(zeros, size)] = 0
        expected = np.stack([np.prod(np.delete(a, i, 1), 1) for i in range(size)], 1)
        found = gradient(lambda x: x.prod(1), a, shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gradient_of_prod_neither_overflows_nor_underflows() -> None:
    a = np.array([1e-30, 1e-30, 1e30, np.inf], np.float32)
    assert gradient(lambda x: x.prod(), a)[3] == np.float32(1e-30)


def test_gradient_of_prod_over_several_axes() -> None:
    a = RNG.uniform(0.5, 2, (2, 3, 4)).astype(np.float32)
    a[0, 1, 2] = 0
    flat = a.transpose(1, 0, 2).reshape(3, 8)
    others = np.stack([np.prod(np.delete(flat, i, 1), 1) for i in range(8)], 1)
    expected = others.reshape(3, 2, 4).transpose(1, 0, 2)
    np.testing.assert_allclose(gradient(lambda x: x.prod((0, 2)), a), expected, rtol=1e-5)


def test_second_gradient_of_prod_with_zeros() -> None:
    a = np.array([2.0, 0.0, 3.0])
    g = nl.Graph()
    x = g.placeholder((3,), nl.float64)
    first = g.gradients(x.prod(), [x])[x]
    second = g.gradients(first.sum(), [x])[x]  # sum over i != j of the product without i and j
    assert value(second, {x: a}).tolist() == [3.0, 5.0, 2.0]


def test_second_gradient_of_prod_needs_sizes() -> None:
    g = nl.Graph()
    x = g.placeholder((None,))
    first = g.gradients(x.prod(), [x])[x]
    with pytest.raises(NotDifferentiable, match="needs the sizes"):
        g.gradients(first.sum(), [x])


@pytest.mark.parametrize("correction", [0, 1])
def test_variance_and_its_gradient(correction: int) -> None:
    a = RNG.normal(size=(3, 5)) + 100
    x = nl.Graph().placeholder((None, None), nl.float64)
    y = x.variance(1, correction=correction)
    np.testing.assert_allclose(value(y, {x: a}), a.var(1, ddof=correction), rtol=1e-4)
    deviation = x.standard_deviation(1, correction=correction)
    np.testing.assert_allclose(value(deviation, {x: a}), a.std(1, ddof=correction), rtol=1e-4)
    expected = 2 * (a - a.mean(1, keepdims=True)) / (5 - correction)
    found = gradient(lambda t: t.variance(1, correction=correction), a, (None, None))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_variance_around_a_given_mean() -> None:
    a = RNG.normal(size=(3, 5)).astype(np.float32)
    x = nl.Graph().placeholder((3, 5))
    y = x.variance(1, mean=x.mean(1, True))
    np.testing.assert_allclose(value(y, {x: a}), a.var(1), rtol=1e-5)
    with pytest.raises(AttributeValueError):
        x.variance(1, correction=-1)


# --- softmax --------------------------------------------------------------------------------------


def test_softmax_of_wide_rows() -> None:
    a = np.array([[1e4, 0, -1e4], [-np.inf, 0, 0]], np.float32)
    x = nl.Graph().placeholder(a.shape)
    assert value(x.softmax(), {x: a}).tolist() == [[1, 0, 0], [0, 0.5, 0.5]]
    assert value(x.log_softmax(), {x: a})[0].tolist() == [0, -1e4, -2e4]
    np.testing.assert_allclose(value(x.logsumexp(1), {x: a}), [1e4, np.log(2)], rtol=1e-6)


def test_rows_of_minus_infinity() -> None:
    a = np.full((1, 3), -np.inf, np.float32)
    x = nl.Graph().placeholder(a.shape)
    targets = [x.softmax(), x.log_softmax(), x.logsumexp(1)]
    out = x.graph.run({x: a}, targets=targets, device="numpy")
    assert np.isnan(np.asarray(out[targets[0]])).all()
    assert np.isnan(np.asarray(out[targets[1]])).all()
    assert np.asarray(out[targets[2]]) == -np.inf
    assert gradient(lambda t: t.logsumexp(1), a).tolist() == [[0, 0, 0]]


def test_softmax_over_several_axes() -> None:
    a = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    x = nl.Graph().placeholder((None, 3, 4))
    e = np.exp(a)
    np.testing.assert_allclose(
        value(x.softmax((0, 2)), {x: a}), e / e.sum((0, 2), keepdims=True), rtol=1e-5
    )


def test_gradient_of_log_softmax_is_exact_for_small_probabilities() -> None:
    a = np.array([[0.0, 100.0]], np.float32)
    found = gradient(lambda t: t.log_softmax()[:, 0], a)
    np.testing.assert_allclose(found, [[1, -1]], rtol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.softmax(),
        lambda x: x.log_softmax(),
        lambda x: x.logsumexp(-1),
        lambda x: x.variance(-1),
        lambda x: x.softmax((0, 1)),
    ],
)
def test_row_operations_are_one_kernel(call: Any) -> None:
    x = nl.Graph().placeholder((8, 16))
    made = x.graph.compile(feeds={x: x.type}, targets=[call(x)], device="numpy")
    assert made.kernel_count == 1, made.as_text("schedule")
