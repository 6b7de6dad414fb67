"""Convolution functions over one to three axes against sums by hand; gradients as functions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import ShapeError
from niello.graph.evaluate import evaluate

RNG = np.random.default_rng(8)
COUNTS = pytest.mark.parametrize("count", [1, 2, 3])
OPTIONS: dict[str, Any] = {"strides": 2, "dilations": 2, "padding": 1}


def sizes(count: int, size: int) -> tuple[int, ...]:
    return tuple(size + i for i in range(count))


def by_hand(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    """The convolution of OPTIONS, channels first."""
    count = x.ndim - 2
    padded = np.pad(x, ((0, 0), (0, 0), *[(1, 1)] * count))
    kernel = w.shape[2:]
    outs = [(n - 2 * (k - 1) - 1) // 2 + 1 for n, k in zip(padded.shape[2:], kernel, strict=True)]
    y = np.zeros((x.shape[0], w.shape[0], *outs))
    each, inner = w.shape[0] // groups, w.shape[1]
    for o in range(w.shape[0]):
        part = padded[:, o // each * inner : (o // each + 1) * inner]
        for offset in itertools.product(*map(range, kernel)):
            spots = tuple(
                slice(2 * r, 2 * r + 2 * n - 1, 2) for r, n in zip(offset, outs, strict=True)
            )
            y[:, o] += np.tensordot(part[(..., *spots)], w[(o, slice(None), *offset)], ((1,), (0,)))
    return y


def last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1).copy()


@COUNTS
def test_forward_in_both_layouts(count: int) -> None:
    x, w = RNG.normal(size=(2, 4, *sizes(count, 7))), RNG.normal(size=(6, 2, *sizes(count, 2)))
    expected = by_hand(x, w, 2)
    conv = getattr(nl, f"conv{count}d")
    graph = nl.Graph()
    c = graph.constant
    first = conv(c(x), c(w), groups=2, **OPTIONS)
    spatial = "DHW"[3 - count :] if count > 1 else "W"
    back = conv(
        c(last(x)), c(np.moveaxis(w, (0, 1), (-1, -2)).copy()), groups=2,
        data_layout=f"N{spatial}C", weights_layout=f"{spatial}IO", **OPTIONS,
    )  # fmt: skip
    found, moved = evaluate([first, back])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(np.moveaxis(moved, -1, 1), expected, atol=1e-12)


@COUNTS
def test_gradients_as_functions(count: int) -> None:
    graph = nl.Graph()
    x = graph.constant(RNG.normal(size=(2, 4, *sizes(count, 7))))
    w = graph.constant(RNG.normal(size=(6, 2, *sizes(count, 2))))
    y = getattr(nl, f"conv{count}d")(x, w, groups=2, **OPTIONS)
    g = graph.constant(RNG.normal(size=y.shape))
    wanted = graph.gradients(y, [x, w], seed=g)
    to_data = getattr(nl, f"conv{count}d_data_gradient")
    to_weights = getattr(nl, f"conv{count}d_weights_gradient")
    made = [
        wanted[x],
        to_data(g, w, sizes(count, 7), groups=2, **OPTIONS),
        to_data(g, w, x, groups=2, **OPTIONS),
        wanted[w],
        to_weights(g, x, sizes(count, 2), groups=2, **OPTIONS),
        to_weights(g, x, w, groups=2, **OPTIONS),
    ]
    found = evaluate(made)
    for expected, others in ((found[0], found[1:3]), (found[3], found[4:])):
        for other in others:
            np.testing.assert_allclose(other, expected)


@COUNTS
def test_transposed(count: int) -> None:
    graph = nl.Graph()
    x = graph.constant(RNG.normal(size=(2, 6, *sizes(count, 3))))
    w = graph.constant(RNG.normal(size=(6, 2, *sizes(count, 2))))
    transpose = getattr(nl, f"conv_transpose{count}d")
    y = transpose(x, w, groups=2, output_padding=1, **OPTIONS)
    smallest = tuple(
        (n - 1) * 2 + 2 * (k - 1) + 1 - 2
        for n, k in zip(sizes(count, 3), sizes(count, 2), strict=True)
    )
    assert y.shape == (2, 4, *(n + 1 for n in smallest))
    assert transpose(x, w, groups=2, **OPTIONS).shape == (2, 4, *smallest)
    # The transpose: <conv(z), x> = <z, transposed(x)>.
    z = graph.constant(RNG.normal(size=y.shape))
    forward = getattr(nl, f"conv{count}d")(z, w, groups=2, **OPTIONS)
    g = graph.constant(RNG.normal(size=y.shape))
    wanted = graph.gradients(y, [x, w], seed=g)
    to_data = getattr(nl, f"conv_transpose{count}d_data_gradient")(g, w, groups=2, **OPTIONS)
    to_weights = getattr(nl, f"conv_transpose{count}d_weights_gradient")(
        g, x, sizes(count, 2), groups=2, **OPTIONS
    )
    a, b, *rest = evaluate(
        [(forward * x).sum(), (z * y).sum(), wanted[x], to_data, wanted[w], to_weights]
    )
    np.testing.assert_allclose(a, b)
    np.testing.assert_allclose(rest[0], rest[1])
    np.testing.assert_allclose(rest[2], rest[3])


@COUNTS
def test_depthwise_and_its_gradients(count: int) -> None:
    x = RNG.normal(size=(2, 3, *sizes(count, 7)))
    w = RNG.normal(size=(2, 3, *sizes(count, 2)))  # [multiplier, channels, ...]
    shaped = np.moveaxis(w, 0, 1).reshape(6, 1, *sizes(count, 2))
    graph = nl.Graph()
    tx, tw = graph.constant(x), graph.constant(w)
    y = getattr(nl, f"depthwise_conv{count}d")(tx, tw, **OPTIONS)
    g = graph.constant(RNG.normal(size=y.shape))
    wanted = graph.gradients(y, [tx, tw], seed=g)
    to_data = getattr(nl, f"depthwise_conv{count}d_data_gradient")(
        g, tw, sizes(count, 7), **OPTIONS
    )
    to_weights = getattr(nl, f"depthwise_conv{count}d_weights_gradient")(
        g, tx, sizes(count, 2), **OPTIONS
    )
    found = evaluate([y, wanted[tx], to_data, wanted[tw], to_weights])
    np.testing.assert_allclose(found[0], by_hand(x, shaped, 3), atol=1e-12)
    np.testing.assert_allclose(found[1], found[2])
    np.testing.assert_allclose(found[3], found[4])


def test_unfold_times_weights_is_a_convolution() -> None:
    graph = nl.Graph()
    x = graph.constant(RNG.normal(size=(2, 3, 7, 6)))
    w = graph.constant(RNG.normal(size=(4, 3, 3, 2)))
    columns = nl.unfold(x, (3, 2), **OPTIONS)
    product = w.reshape((4, 18)) @ columns
    direct = nl.conv2d(x, w, **OPTIONS)
    ones = nl.fold(nl.unfold(x * 0 + 1, 2), (7, 6), 2)
    a, b, counts = evaluate([product, direct, ones])
    np.testing.assert_allclose(a.reshape(b.shape), b)
    assert counts[0, 0, 0, :3].tolist() == [1, 2, 2] and counts[0, 0, 3, 3] == 4


def test_refusals() -> None:
    graph = nl.Graph()
    x = graph.placeholder((1, 3, 8))
    with pytest.raises(ShapeError):
        nl.conv1d(x, graph.placeholder((4, 2, 3)))
    with pytest.raises(ShapeError):
        nl.conv_transpose1d(graph.placeholder((1, 4, None)), graph.placeholder((4, 3, 3)))
    with pytest.raises(ShapeError):
        nl.fold(graph.placeholder((1, 27, 35)), (8, 8), 3)
    with pytest.raises(ShapeError):
        nl.unfold(graph.placeholder(None), 3)
