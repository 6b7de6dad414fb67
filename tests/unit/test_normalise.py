"""Normalisations, as users call them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.graph.evaluate import evaluate

RNG = np.random.default_rng(11)


def value(tensor: Any, feeds: dict[Any, Any]) -> np.ndarray:
    return evaluate([tensor], feeds)[0]


def standard(a: np.ndarray, axes: Any, epsilon: float = 1e-5) -> np.ndarray:
    return (a - a.mean(axes, keepdims=True)) / np.sqrt(a.var(axes, keepdims=True) + epsilon)


def image(*shape: int) -> np.ndarray:
    return RNG.normal(3, 2, shape).astype(np.float32)


def test_layer_norm_over_one_and_two_axes() -> None:
    a, w, b = image(2, 3, 4), image(4), image(3, 4)
    g = nl.Graph()
    x, gamma, beta = (g.placeholder(v.shape) for v in (a, w, b))
    feeds = {x: a, gamma: w, beta: b}
    np.testing.assert_allclose(value(x.layer_norm(), feeds), standard(a, -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        value(x.layer_norm(gamma, beta, axes=(1, 2)), feeds),
        standard(a, (1, 2)) * w + b,
        rtol=1e-4,
        atol=1e-5,
    )


def test_rms_norm() -> None:
    a = image(2, 5)
    x = nl.Graph().placeholder((None, 5))
    expected = a / np.sqrt((a * a).mean(-1, keepdims=True) + 1e-5) * 2
    np.testing.assert_allclose(
        value(x.rms_norm(np.full(5, 2, np.float32)), {x: a}), expected, rtol=1e-5
    )


@pytest.mark.parametrize("axis", [1, -1])
def test_channel_normalisations_in_both_layouts(axis: int) -> None:
    a = image(2, 6, 5, 4)  # NCHW
    w, b = image(6), image(6)
    column = (1, 6, 1, 1)
    mean, variance = a.mean((0, 2, 3)), a.var((0, 2, 3))
    grouped = standard(a.reshape(2, 3, 2, 5, 4), (2, 3, 4)).reshape(a.shape)
    affine = {
        "batch_norm_training": standard(a, (0, 2, 3)),
        "batch_norm": standard(a, (0, 2, 3)),
        "instance_norm": standard(a, (2, 3)),
        "group_norm": grouped,
    }
    fed = a if axis == 1 else np.moveaxis(a, 1, -1)
    g = nl.Graph()
    x, gamma, beta = g.placeholder(fed.shape), g.placeholder((6,)), g.placeholder((6,))
    feeds = {x: fed, gamma: w, beta: b}
    y, m, v = x.batch_norm_training(gamma, beta, axis=axis)
    found = {
        "batch_norm_training": y,
        "batch_norm": x.batch_norm(mean, variance, gamma, beta, axis=axis),
        "instance_norm": x.instance_norm(gamma, beta, axis=axis),
        "group_norm": x.group_norm(3, gamma, beta, axis=axis),
    }
    for name, expected in affine.items():
        expected = expected * w.reshape(column) + b.reshape(column)
        result = value(found[name], feeds)
        result = result if axis == 1 else np.moveaxis(result, -1, 1)
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(value(m, feeds), mean, rtol=1e-5)
    np.testing.assert_allclose(value(v, feeds), variance, rtol=1e-4)
    out = g.run(feeds, targets=list(found.values()), device="numpy")
    for name, tensor in found.items():
        np.testing.assert_allclose(
            np.asarray(out[tensor]), value(tensor, feeds), rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_normalise_with_given_statistics() -> None:
    a = image(2, 3)
    x = nl.Graph().placeholder((None, 3))
    y = x.normalise(a.mean(), a.var(), epsilon=0.0)
    assert abs(value(y, {x: a}).mean()) < 1e-5
    assert abs(value(y, {x: a}).std() - 1) < 1e-5


def test_half_types_do_not_overflow() -> None:
    a = (image(2, 64) * 1000).astype(np.float16)  # squares are beyond float16
    x = nl.Graph().placeholder((2, 64), nl.float16)
    y = x.layer_norm()
    out = np.asarray(x.graph.run({x: a}, targets=[y], device="numpy")[y])
    np.testing.assert_allclose(
        out.astype(np.float32), standard(a.astype(np.float32), -1), rtol=2e-3, atol=2e-3
    )


def test_parameters_may_be_wider_than_the_tensor() -> None:
    g = nl.Graph()
    x, gamma = g.placeholder((2, 4), nl.bfloat16), g.placeholder((4,), nl.float32)
    y = x.layer_norm(gamma)
    assert y.dtype is nl.bfloat16
    grads = g.gradients(y, [x, gamma])
    assert grads[x].dtype is nl.bfloat16
    assert grads[gamma].dtype is nl.float32
    assert grads[gamma].shape == (4,)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, p: x.layer_norm(p, p),
        lambda x, p: x.batch_norm_training(p, p, axis=-1)[0],
        lambda x, p: x.instance_norm(p, p, axis=-1),
        lambda x, p: x.group_norm(2, p, p, axis=-1),
        lambda x, p: x.rms_norm(p),
    ],
)
def test_gradients_with_unknown_sizes(call: Any) -> None:
    a, w = image(3, 5, 4), image(4)
    results = []
    for shapes in (((3, 5, 4), (4,)), ((None, None, 4), (None,))):
        g = nl.Graph()
        x, p = g.placeholder(shapes[0]), g.placeholder(shapes[1])
        y = call(x, p)
        grads = g.gradients((y * y * y).sum(), [x, p])
        feeds = {x: a, p: w}
        expected = [value(grads[t], feeds) for t in (x, p)]
        out = g.run(feeds, targets=[grads[x], grads[p]], device="numpy")
        for t, e in zip((x, p), expected, strict=True):
            np.testing.assert_allclose(np.asarray(out[grads[t]]), e, rtol=1e-3, atol=1e-3)
        results.append(expected)
    for e, f in zip(*results, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-5)


def test_the_statistics_of_training_are_shared() -> None:
    x = nl.Graph().placeholder((8, 4, 6, 6))
    alone = x.graph.compile(feeds={x: x.type}, targets=[x.batch_norm_training()[0]], device="numpy")
    every = x.graph.compile(
        feeds={x: x.type}, targets=list(x.batch_norm_training()), device="numpy"
    )
    reductions = [e.as_text("schedule").count("reduce_mean") for e in (alone, every)]
    assert reductions[0] == reductions[1]


def test_layer_norm_is_one_kernel_forwards_and_backwards() -> None:
    g = nl.Graph()
    x, gamma, beta = g.placeholder((8, 16)), g.placeholder((16,)), g.placeholder((16,))
    y = x.layer_norm(gamma, beta)
    types = {t: t.type for t in (x, gamma, beta)}
    assert g.compile(feeds=types, targets=[y], device="numpy").kernel_count == 1
    dx = g.gradients((y * y).sum(), [x])[x]
    assert g.compile(feeds=types, targets=[dx], device="numpy").kernel_count == 1


def test_refusals() -> None:
    g = nl.Graph()
    x, p = g.placeholder((2, 6, 5)), g.placeholder((5,))
    with pytest.raises(ShapeError, match="gamma has 5 elements for 6 channels") as caught:
        x.instance_norm(p)
    assert caught.value.axis == 1
    with pytest.raises(ShapeError, match="gamma does not broadcast to the tensor"):
        x.layer_norm(g.placeholder((4, 2, 6, 5)))
    with pytest.raises(ShapeError, match="6 channels do not divide into 4 groups"):
        x.group_norm(4)
    with pytest.raises(AttributeValueError, match="at least one group"):
        x.group_norm(0)
    with pytest.raises(AttributeValueError, match="epsilon"):
        x.layer_norm(epsilon=-1.0)
    with pytest.raises(DTypeError):
        g.placeholder((2, 3), nl.int32).layer_norm()
    with pytest.raises(ShapeError, match="rank of the tensor must be known"):
        g.placeholder(None).batch_norm_training()
