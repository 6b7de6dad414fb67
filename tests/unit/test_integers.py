"""Contractions of dequantized tensors become integer contractions with the same results."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl

RNG = np.random.default_rng(8)


def codes(*shape: int, kind: nl.DType = nl.int8) -> np.ndarray:
    return RNG.integers(int(kind.min), int(kind.max) + 1, shape).astype(kind.numpy)


def contraction_types(found: nl.Executable) -> list[str]:
    left = [o for o in found.optimised.graph.operations if o.op.name in ("convolution", "matmul")]
    return [o.outputs[0].dtype.name for o in left]


def both(y: nl.Tensor, feeds: dict[nl.Tensor, np.ndarray], rtol: float = 1e-5) -> nl.Executable:
    """The optimised executable, after comparing it with the one that is not."""
    types = {t: nl.TensorType(a.shape, a.dtype) for t, a in feeds.items()}
    graph = y.graph
    plain = graph.compile(types, [y], options=nl.CompileOptions(optimise=False))
    found = graph.compile(types, [y])
    expected = plain.run(list(feeds.values()))[0].numpy().astype(np.float64)
    result = found.run(list(feeds.values()))[0].numpy().astype(np.float64)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(result, expected, rtol=rtol, atol=rtol * largest)
    return found


@pytest.mark.parametrize("kind", [nl.int8, nl.uint8])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_convolutions(kind: nl.DType, channels: bool, zero: bool) -> None:
    graph = nl.Graph()
    x = graph.placeholder((1, 4, 6, 5), kind, name="x")
    data = nl.dequantize(x, 0.05, kind.numpy.type(7) if zero else None)
    scale = np.float32([0.01, 0.02, 0.005]) if channels else np.float32(0.01)
    points = np.zeros_like(scale, np.int8) + np.int8(3) if zero else None
    w = nl.dequantize(graph.constant(codes(3, 4, 3, 3)), scale, points, axis=0)
    y = (nl.conv2d(data, w, padding="same") + 0.5).relu()
    found = both(y, {x: codes(1, 4, 6, 5, kind=kind)})
    assert contraction_types(found) == ["int32"]


@pytest.mark.parametrize("layout", [("NHWC", "HWIO", 3), ("NCHW", "OIHW", 0)])
def test_layouts_and_groups(layout: tuple[str, str, int]) -> None:
    data_layout, weights_layout, axis = layout
    graph = nl.Graph()
    shape = (1, 5, 5, 4) if data_layout == "NHWC" else (1, 4, 5, 5)
    x = graph.placeholder(shape, nl.uint8, name="x")
    kernel = (3, 3, 2, 6) if weights_layout == "HWIO" else (6, 2, 3, 3)
    scale = RNG.uniform(0.01, 0.02, 6).astype(np.float32)
    w = nl.dequantize(graph.constant(codes(*kernel)), scale, axis=axis)
    y = nl.conv2d(
        nl.dequantize(x, 0.1, np.uint8(128)), w, groups=2, data_layout=data_layout,
        weights_layout=weights_layout, strides=2,
    )  # fmt: skip
    assert contraction_types(both(y, {x: codes(*shape, kind=nl.uint8)})) == ["int32"]


def test_matrix_products() -> None:
    graph = nl.Graph()
    x = graph.placeholder((5, 16), nl.int8, name="x")
    scale = RNG.uniform(0.01, 0.02, 7).astype(np.float32)
    w = nl.dequantize(graph.constant(codes(16, 7)), scale, np.int8([1] * 7), axis=1)
    y = nl.dequantize(x, 0.1, np.int8(-3)) @ w
    assert contraction_types(both(y, {x: codes(5, 16)})) == ["int32"]


def test_dequantize_operate_quantize_is_one_kernel() -> None:
    graph = nl.Graph()
    layouts = {"padding": "same", "data_layout": "NHWC", "weights_layout": "HWIO"}
    x = graph.placeholder((1, 6, 6, 8), nl.uint8, name="x")
    w = nl.dequantize(graph.constant(codes(3, 3, 8, 16)), 0.01)
    y = nl.conv2d(nl.dequantize(x, 0.02, np.uint8(120)), w, **layouts).relu()
    q = nl.quantize(y, 0.3, np.uint8(10), dtype=nl.uint8)
    made = graph.compile({x: nl.TensorType((1, 6, 6, 8), nl.uint8)}, [q])
    assert made.kernel_count == 1 and contraction_types(made) == ["int32"]
    feed = codes(1, 6, 6, 8, kind=nl.uint8)
    plain = graph.compile(
        {x: nl.TensorType((1, 6, 6, 8), nl.uint8)}, [q], options=nl.CompileOptions(optimise=False)
    )
    apart = made.run([feed])[0].numpy().astype(int) - plain.run([feed])[0].numpy().astype(int)
    assert np.abs(apart).max() <= 1, "halves may round either way"
    assert np.mean(apart != 0) < 0.01


def test_what_has_no_integer_form_stays() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 4), nl.int8, name="x")
    wide = graph.constant(codes(4, 3, kind=nl.int16))
    rows = nl.dequantize(graph.constant(codes(4, 3)), np.full(4, 0.1, np.float32), axis=0)
    floats = graph.constant(RNG.normal(size=(4, 3)).astype(np.float32))
    data = nl.dequantize(x, 0.1)
    for w in (nl.dequantize(wide, 0.1), rows, floats):
        assert contraction_types(both(data @ w, {x: codes(2, 4)})) == ["float32"]


def test_sums_that_could_overflow_stay() -> None:
    graph = nl.Graph()
    x = graph.placeholder((1, 70_000), nl.uint8, name="x")
    w = nl.dequantize(graph.constant(codes(70_000, 1)), 0.1, np.int8(4))
    y = nl.dequantize(x, 0.1, np.uint8(9)) @ w
    made = graph.compile({x: nl.TensorType((1, 70_000), nl.uint8)}, [y])
    assert contraction_types(made) == ["float32"]


def test_off_without_optimisation() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 4), nl.int8, name="x")
    y = nl.dequantize(x, 0.1) @ nl.dequantize(graph.constant(codes(4, 3)), 0.1)
    options = nl.CompileOptions(optimise=False)
    made = graph.compile({x: nl.TensorType((2, 4), nl.int8)}, [y], options=options)
    assert contraction_types(made) == ["float32"]


def origins(found: nl.Executable, name: str) -> list[str]:
    """What the operands of the contractions of a kind are, cast or moved: no arithmetic."""
    origin = []
    for operation in found.optimised.graph.operations:
        for t in operation.inputs if operation.op.name == name else ():
            while t.operation.op.name in ("cast", "transpose", "reshape", "pad"):
                t = t.operation.inputs[0]
            origin.append(f"{t.operation.op.name} {t.dtype.name}")
    return origin


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_integer_convolutions_multiply_bytes(padding: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((1, 8, 6, 5), nl.uint8, name="x")
    w = graph.constant(codes(16, 8, 3, 3))
    y = nl.integer_conv(x, w, np.uint8(117), padding=padding)
    found = both(y, {x: codes(1, 8, 6, 5, kind=nl.uint8)}, rtol=0)
    assert origins(found, "convolution") == ["placeholder uint8", "constant int8"]


def test_weights_that_are_transposed() -> None:
    graph = nl.Graph()
    x = graph.placeholder((5, 96), nl.uint8, name="x")
    scale = RNG.uniform(0.01, 0.02, 24).astype(np.float32)
    w = nl.dequantize(graph.constant(codes(24, 96)), scale, axis=0)
    y = nl.dequantize(x, 0.1, np.uint8(3)) @ w.transpose([1, 0])
    assert contraction_types(both(y, {x: codes(5, 96, kind=nl.uint8)})) == ["int32"]


def test_quantizing_again_what_was_moved_and_dequantized_is_nothing() -> None:
    graph = nl.Graph()
    x = graph.placeholder((4, 6), nl.float32, name="x")
    q = nl.quantize(x, 0.1, np.int8(7), dtype=nl.int8)
    moved = nl.dequantize(q, 0.1, np.int8(7)).transpose([1, 0])[:4]
    again = nl.quantize(moved, 0.1, np.int8(7), dtype=nl.int8)
    other = nl.quantize(moved, 0.2, np.int8(7), dtype=nl.int8)
    feed = RNG.normal(0, 5, (4, 6)).astype(np.float32)
    feed[0, :2] = np.nan, np.inf
    for y, rounds in ((again, 1), (other, 2)):
        found = both(y, {x: feed}, rtol=0)
        names = [o.op.name for o in found.optimised.graph.operations]
        assert names.count("rint") == rounds
