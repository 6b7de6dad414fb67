"""Stencils and Hamming distances against NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, ShapeError

NUMPY = {
    "sum": np.sum, "min": np.min, "max": np.max, "prod": np.prod, "argmin": np.argmin,
    "argmax": np.argmax,
}  # fmt: skip
PAD_MODES = {"constant": "constant", "clamp": "edge", "reflect": "reflect",
             "symmetric": "symmetric", "periodic": "wrap"}  # fmt: skip


def run(tensor: nl.Tensor) -> np.ndarray:
    return tensor.graph.run(targets=[tensor])[tensor].numpy()


def plain(padded: np.ndarray, w: np.ndarray, strides, dilations, reduce) -> np.ndarray:
    """A stencil over the last axes of an array that has its padding."""
    count = w.ndim
    lead = padded.shape[:-count]
    sizes = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(padded.shape[-count:], w.shape, strides, dilations, strict=True)
    ]
    out = np.zeros((*lead, *sizes))
    for at in itertools.product(*(range(n) for n in (*lead, *sizes))):
        head, tail = at[: len(lead)], at[len(lead) :]
        window = padded[head][
            tuple(
                slice(i * s, i * s + (k - 1) * d + 1, d)
                for i, s, d, k in zip(tail, strides, dilations, w.shape, strict=True)
            )
        ]
        out[at] = reduce((window * w).reshape(-1))
    return out


@pytest.mark.parametrize("reduction", NUMPY)
@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "dilations"),
    [
        ((9,), (3,), (2,), (2,)),
        ((2, 6, 7), (3, 2), (1, 2), (2, 1)),
        ((2, 4, 3, 5), (2, 1, 2), (1, 1, 1), (1, 1, 2)),
        ((3, 3, 4, 3), (2, 2, 2, 2), (1, 1, 2, 1), (1, 1, 1, 1)),
    ],
)
def test_reductions(shape, kernel, strides, dilations, reduction: str) -> None:
    generator = np.random.default_rng(1)
    x = generator.standard_normal(shape).astype(np.float32)
    w = generator.standard_normal(kernel).astype(np.float32)
    y = nl.stencil(
        nl.Graph().constant(x), w, reduction=reduction, strides=strides, dilations=dilations
    )
    expected = plain(x, w, strides, dilations, NUMPY[reduction])
    np.testing.assert_allclose(run(y), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("boundary", PAD_MODES)
def test_boundaries_and_padding(boundary: str) -> None:
    x = np.random.default_rng(2).standard_normal((2, 5, 6)).astype(np.float32)
    w = np.arange(6, dtype=np.float32).reshape(3, 2)
    pads = ((2, 1), (0, 2))
    value = 3.0 if boundary == "constant" else 0.0
    y = nl.stencil(nl.Graph().constant(x), w, padding=pads, boundary=boundary, value=value)
    extra = {"constant_values": 3.0} if boundary == "constant" else {}
    padded = np.pad(x, [(0, 0), *pads], mode=PAD_MODES[boundary], **extra)
    np.testing.assert_allclose(run(y), plain(padded, w, (1, 1), (1, 1), np.sum), rtol=1e-5)
    same = nl.stencil(nl.Graph().constant(x), w, padding="same", boundary=boundary, value=value)
    around = np.pad(x, [(0, 0), (1, 1), (0, 1)], mode=PAD_MODES[boundary], **extra)
    np.testing.assert_allclose(run(same), plain(around, w, (1, 1), (1, 1), np.sum), rtol=1e-5)


@pytest.mark.parametrize("offset", [-2, -1, 0, 1])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("boundary", ["zero", "wrap", "edge"])
def test_offsets(boundary: str, stride: int, offset: int) -> None:
    x = np.arange(1.0, 8.0, dtype=np.float32)
    w = np.float32([1.0, 10.0, 100.0])
    y = run(
        nl.stencil(nl.Graph().constant(x), w, offsets=offset, strides=stride, boundary=boundary)
    )
    rules = {
        "zero": lambda i: x[i] if 0 <= i < 7 else 0.0,
        "wrap": lambda i: x[i % 7],
        "edge": lambda i: x[min(max(i, 0), 6)],
    }
    expected = [
        sum(rules[boundary](i * stride + offset + j) * w[j] for j in range(3))
        for i in range(-(-7 // stride))
    ]
    np.testing.assert_allclose(y, expected)


@pytest.mark.parametrize("reduction", ["sum", "min", "max", "prod"])
def test_gradients(reduction: str) -> None:
    generator = np.random.default_rng(3)
    x, w = generator.standard_normal((2, 5)), generator.standard_normal((3,))
    graph = nl.Graph()
    a, b = graph.placeholder(x.shape, nl.float64), graph.placeholder(w.shape, nl.float64)
    loss = nl.stencil(a, b, reduction=reduction, padding=1, boundary="edge").square().sum()
    slopes = graph.gradients(loss, [a, b])
    found = graph.run({a: x, b: w}, targets=[slopes[a], slopes[b]])

    def total(x: np.ndarray, w: np.ndarray) -> float:
        padded = np.pad(x, [(0, 0), (1, 1)], mode="edge")
        return float((plain(padded, w, (1,), (1,), NUMPY[reduction]) ** 2).sum())

    for array, slope in ((x, slopes[a]), (w, slopes[b])):
        expected = np.zeros_like(array)
        for at in np.ndindex(array.shape):
            kept = array[at]
            ends = []
            for step in (1e-6, -1e-6):
                array[at] = kept + step
                ends.append(total(x, w))
            array[at] = kept
            expected[at] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(found[slope].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_halves_and_unknown_sizes() -> None:
    graph = nl.Graph()
    x = graph.placeholder((None, None), nl.float16)
    y = nl.stencil(x, np.ones(9, np.float16), padding="same")
    data = np.random.default_rng(4).standard_normal((2, 40)).astype(np.float16)
    found = graph.run({x: data}, targets=[y])[y].numpy()
    exact = plain(np.pad(data.astype(np.float32), [(0, 0), (4, 4)]), np.ones(9), (1,), (1,), np.sum)
    assert found.tolist() == exact.astype(np.float16).tolist()


def test_hamming_distance() -> None:
    generator = np.random.default_rng(5)
    for kind, result in ((np.uint8, nl.uint16), (np.uint32, nl.uint32)):
        a = generator.integers(0, np.iinfo(kind).max, (3, 4, 6), kind, endpoint=True)
        b = generator.integers(0, np.iinfo(kind).max, (5, 6), kind, endpoint=True)
        graph = nl.Graph()
        found = run(nl.hamming_distance(graph.constant(a), b, dtype=result))
        assert found.dtype == result.numpy
        for n, i, j in np.ndindex(3, 4, 5):
            bits = sum(int(p ^ q).bit_count() for p, q in zip(a[n, i], b[j], strict=True))
            assert found[n, i, j] == bits


def test_refusals() -> None:
    graph = nl.Graph()
    x = graph.placeholder((None, 4))
    with pytest.raises(AttributeValueError, match="'mean'"):
        nl.stencil(x, [1.0], reduction="mean")
    with pytest.raises(AttributeValueError, match="offsets or padding"):
        nl.stencil(x, [1.0], offsets=1, padding=1)
    with pytest.raises(ShapeError, match="one to four known sizes"):
        nl.stencil(x, graph.placeholder((None,)))
    with pytest.raises(ShapeError, match="sizes that are known"):
        nl.stencil(graph.placeholder((None,)), [1.0], offsets=1, strides=2)
    with pytest.raises(DTypeError, match="float32"):
        nl.hamming_distance(x, x)
