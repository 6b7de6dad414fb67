"""Quantized arithmetic end to end: values on the cpu, kernel counts, gradients, refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.core.types import TensorType
from niello.graph.evaluate import evaluate
from niello.runtime.commands import Dispatch
from niello.runtime.target import CompileOptions

RNG = np.random.default_rng(11)


def run(
    build: Callable[..., nl.Tensor], *arrays: np.ndarray, target: str = "host"
) -> tuple[np.ndarray, int]:
    """The result on the cpu, and how many kernels gave it."""
    graph = nl.Graph()
    inputs = [graph.placeholder(a.shape, a.dtype) for a in arrays]
    y = build(*inputs)
    types = {t: TensorType(a.shape, a.dtype) for t, a in zip(inputs, arrays, strict=True)}
    executable = graph.compile(types, [y], device="cpu", options=CompileOptions(target=target))
    found = executable.run(dict(zip(inputs, arrays, strict=True)))
    return np.asarray(found[y]), sum(isinstance(c, Dispatch) for c in executable.program.commands)


def integers(kind: type, *shape: int) -> np.ndarray:
    limits = np.iinfo(kind)
    return RNG.integers(limits.min, limits.max, shape, endpoint=True).astype(kind)


KINDS = [(np.int8, np.int8), (np.uint8, np.int8), (np.int8, np.uint8), (np.uint8, np.uint8)]


@pytest.mark.parametrize(("left", "right"), [*KINDS, (np.int16, np.int8)])
@pytest.mark.parametrize("sizes", [(33, 70, 45), (64, 256, 64), (1, 300, 17), (5, 7, 3)])
def test_integer_products_are_exact(left: type, right: type, sizes: tuple[int, int, int]) -> None:
    m, k, n = sizes
    a, b = integers(left, m, k), integers(right, k, n)
    found, count = run(nl.integer_matmul, a, b)
    assert found.dtype == np.int32 and count == 1
    assert np.array_equal(found, a.astype(np.int32) @ b.astype(np.int32))
    portable, _ = run(nl.integer_matmul, a, b, target="baseline")
    assert np.array_equal(portable, found)
    # The other operand along k in memory, and weights known at compile time.
    turned, _ = run(lambda a, b: nl.integer_matmul(a, b.transpose()), a, np.ascontiguousarray(b.T))
    fixed, _ = run(lambda a: nl.integer_matmul(a, a.graph.constant(b)), a)
    assert np.array_equal(turned, found) and np.array_equal(fixed, found)


def test_zero_points_of_products() -> None:
    a, b = integers(np.uint8, 20, 40), integers(np.int8, 40, 24)
    rows, columns = integers(np.uint8, 20), integers(np.int8, 24)
    found, _ = run(nl.integer_matmul, a, b, rows, columns)
    wide = (a.astype(np.int32) - rows[:, None]) @ (b.astype(np.int32) - columns)
    assert np.array_equal(found, wide)
    found, count = run(lambda a: nl.integer_matmul(a, a.graph.constant(b), 128), a)
    assert np.array_equal(found, (a.astype(np.int32) - 128) @ b.astype(np.int32))
    assert count == 1  # the sums of constant columns are a constant


@pytest.mark.parametrize("bias", [np.int32, np.float32])
def test_product_bias_and_requantization_are_one_kernel(bias: type) -> None:
    a, b = integers(np.int8, 48, 96), integers(np.int8, 96, 40)
    added = RNG.integers(-3000, 3000, 40).astype(bias)
    scales = RNG.uniform(0.01, 0.02, 40).astype(np.float32)

    def product(a: nl.Tensor, b: nl.Tensor, c: nl.Tensor, s: nl.Tensor) -> nl.Tensor:
        return nl.quantized_matmul(a, b, 0.05, s, bias=c, out_scale=4.0, out_zero=3)

    found, count = run(product, a, b, added, scales)
    total = a.astype(np.int32) @ b.astype(np.int32)
    total = (total + added) if bias is np.int32 else total
    wide = total.astype(np.float32) * scales * np.float32(0.05)
    wide = wide if bias is np.int32 else wide + added
    expected = np.clip(np.rint(wide.astype(np.float32) / np.float32(4.0)) + 3, -128, 127)
    assert count == 1 and found.dtype == np.int8
    # A product that lies half way between two integers may be rounded either way.
    assert np.abs(found - expected).max() <= 1 and (found != expected).mean() < 0.01


@pytest.mark.parametrize("zero", [None, 120])
@pytest.mark.parametrize("layouts", [("NHWC", "HWIO"), ("NCHW", "OIHW")])
def test_convolutions(zero: int | None, layouts: tuple[str, str]) -> None:
    x, w = integers(np.uint8, 2, 9, 8, 16), integers(np.int8, 3, 3, 16, 24)
    expected, _ = run(
        lambda x, w: nl.conv2d(x, w, padding="same", data_layout="NHWC", weights_layout="HWIO"),
        x.astype(np.float64) - (zero or 0),
        w.astype(np.float64),
    )
    if layouts[0] == "NCHW":
        x, w = np.moveaxis(x, 3, 1).copy(), w.transpose(3, 2, 0, 1).copy()
        expected = np.moveaxis(expected, 3, 1)

    def conv(x: nl.Tensor, w: nl.Tensor) -> nl.Tensor:
        return nl.integer_conv(
            x, w, zero, padding="same", data_layout=layouts[0], weights_layout=layouts[1]
        )

    found, _ = run(conv, x, w)
    assert np.array_equal(found, expected.astype(np.int32))


def test_quantized_convolution_is_one_kernel() -> None:
    x, w = integers(np.int8, 1, 12, 12, 32), integers(np.int8, 3, 3, 32, 16)
    bias = RNG.integers(-999, 999, 16).astype(np.int32)

    def conv(x: nl.Tensor) -> nl.Tensor:
        constant = x.graph.constant
        return nl.quantized_conv(
            x, constant(w), 0.1, 0.02, x_zero=-3, bias=constant(bias), out_scale=2.0, out_zero=5,
            dtype=nl.uint8, padding="same", data_layout="NHWC", weights_layout="HWIO",
        )  # fmt: skip

    found, count = run(conv, x)
    assert count == 1 and found.dtype == np.uint8 and 0 < found.mean() < 255


def test_packed_weights_are_read_as_bytes_in_one_kernel() -> None:
    q = RNG.integers(-8, 8, (24, 64)).astype(np.int8)
    packed = ((q[:, 0::2] & 15) | (q[:, 1::2] & 15) << 4).astype(np.uint8)
    scale = RNG.uniform(0.1, 0.2, (24, 4)).astype(np.float32)
    x = RNG.normal(size=(32, 64)).astype(np.float32)

    def layer(x: nl.Tensor, packed: nl.Tensor, scale: nl.Tensor) -> nl.Tensor:
        return x @ nl.dequantize(packed.unpack_int4(), scale).transpose()

    found, count = run(layer, x, packed, scale)
    assert count == 1
    np.testing.assert_allclose(found, x @ (q * np.repeat(scale, 16, 1)).T, rtol=1e-4, atol=1e-4)
    again, _ = run(nl.pack_int4, q)
    assert np.array_equal(again, packed)


def test_constants_of_small_integers_stay_small() -> None:
    q = RNG.integers(-8, 8, (64, 64)).astype(np.int8)
    graph = nl.Graph()
    x = graph.placeholder((32, 64))
    y = x @ nl.dequantize(graph.constant(q), 0.1)
    executable = graph.compile({x: TensorType((32, 64))}, [y], device="cpu")
    assert sum(c.nbytes for c in executable.program.constants) <= q.size + 64


def test_fake_quantization_and_its_gradients() -> None:
    x = np.array([-9.0, -0.3, 0.26, 0.9, 7.0])
    graph = nl.Graph()
    t, s = graph.placeholder((5,), nl.float64), graph.placeholder((), nl.float64)
    y = nl.fake_quantize(t, s, low=-4, high=3)
    grads = graph.gradients(y.sum(), [t, s])
    value, to_x, to_scale = evaluate([y, grads[t], grads[s]], {t: x, s: np.array(0.5)})
    np.testing.assert_allclose(value, [-2.0, -0.5, 0.5, 1.0, 1.5])
    assert to_x.tolist() == [0, 1, 1, 1, 0]
    # Inside round(x / s) - x / s, outside the limit itself.
    np.testing.assert_allclose(to_scale, -4 + (-1 + 0.6) + (1 - 0.52) + (2 - 1.8) + 3)


def test_dynamic_quantization_holds_zero() -> None:
    x = RNG.uniform(-1, 3, (7, 9)).astype(np.float32)
    graph = nl.Graph()
    t = graph.placeholder(x.shape)
    q, scale, zero = evaluate(list(nl.dynamic_quantize_linear(t)), {t: x})
    assert q.dtype == np.uint8 and zero.dtype == np.uint8
    np.testing.assert_allclose((q.astype(np.float32) - zero) * scale, x, atol=scale)
    q, scale, zero = evaluate(list(nl.dynamic_quantize_linear(t)), {t: np.zeros_like(x)})
    assert not q.any() and scale == 1 and zero == 0


def test_refusals() -> None:
    graph = nl.Graph()
    x = graph.placeholder((4, 6))
    with pytest.raises(ShapeError, match="scales"):
        nl.quantize(x, graph.placeholder((5, 6)))
    with pytest.raises(ShapeError, match="axis 1"):
        nl.quantize(x, graph.placeholder((4,)))
    with pytest.raises(DTypeError):
        nl.quantize(x, 0.1, dtype=nl.int64)
    with pytest.raises(DTypeError):
        nl.integer_matmul(x, x)
    with pytest.raises(AttributeValueError):
        nl.fake_quantize(x, 0.1, low=3, high=3)
    with pytest.raises(DTypeError, match="cast first"):
        graph.placeholder((4,), nl.int4) + 1
    with pytest.raises(ShapeError):
        graph.placeholder((3,), nl.int8).cast(nl.int4).bitcast(nl.uint8)
