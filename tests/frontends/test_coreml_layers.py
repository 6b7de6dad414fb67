"""Layers of Core ML neural networks against NumPy, each in a network of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from niello.frontends.coreml import load
from niello.frontends.coreml.messages import layer_types, new_model
from niello.frontends.coreml.registry import LAYERS

FLOAT32 = 65568
RNG = np.random.default_rng(7)


def network(shapes: dict[str, tuple[int, ...]], outputs: tuple[str, ...] = ("y",)) -> Any:
    """A model with these inputs, whose arrays keep their rank."""
    spec = new_model()
    spec.specificationVersion = 4
    for name, shape in shapes.items():
        feature = spec.description.input.add(name=name)
        feature.type.multiArrayType.shape.extend(shape)
        feature.type.multiArrayType.dataType = FLOAT32
    for name in outputs:
        spec.description.output.add(name=name).type.multiArrayType.dataType = FLOAT32
    spec.neuralNetwork.arrayInputShapeMapping = 1
    return spec


def result(kind: str, settings: dict[str, Any], *inputs: np.ndarray, outputs: int = 1) -> Any:
    """The outputs of one layer."""
    names = [f"x{i}" for i in range(len(inputs))]
    written = tuple("yzuvw"[:outputs])
    spec = network({n: x.shape for n, x in zip(names, inputs, strict=True)}, written)
    added = spec.neuralNetwork.layers.add(name="l", input=names, output=list(written))
    params = getattr(added, kind)
    params.SetInParent()
    for name, value in settings.items():
        put(params, name, value)
    found = load(spec).run(dict(zip(names, inputs, strict=True)))
    arrays = [found[n].numpy() for n in written]
    return arrays[0] if outputs == 1 else arrays


def put(params: Any, name: str, value: Any) -> None:
    """Set a field: an array as weights, a list as repeated, a dictionary as a message."""
    if isinstance(value, np.ndarray):
        getattr(params, name).floatValue.extend(value.reshape(-1).tolist())
    elif isinstance(value, list):
        getattr(params, name).extend(value)
    elif isinstance(value, dict):
        inner = getattr(params, name)
        inner.SetInParent()
        for key, v in value.items():
            put(inner, key, v)
    else:
        setattr(params, name, value)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def convolved(
    x: np.ndarray, w: np.ndarray, stride: int, pads: tuple[int, int], dilation: int = 1
) -> np.ndarray:
    """A convolution of one group by its definition."""
    x = np.pad(x, ((0, 0), (0, 0), pads, pads))
    k = (w.shape[2] - 1) * dilation + 1
    places = [(n - k) // stride + 1 for n in x.shape[2:]]
    y = np.zeros((x.shape[0], w.shape[0], *places), np.float32)
    for i in range(places[0]):
        for j in range(places[1]):
            rows = slice(i * stride, i * stride + k, dilation)
            columns = slice(j * stride, j * stride + k, dilation)
            y[:, :, i, j] = np.einsum("nchw,ochw->no", x[:, :, rows, columns], w)
    return y


def close(found: Any, wanted: Any) -> None:
    assert found.shape == np.shape(wanted)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


# --- windows


@pytest.mark.parametrize(
    ("stride", "dilation", "heavy", "pads"),
    [(1, 1, 0, (1, 1)), (2, 1, 0, (0, 1)), (2, 1, 1, (1, 0)), (1, 2, 0, (2, 2))],
)
def test_convolution_with_same_padding(stride: int, dilation: int, heavy: int, pads: Any) -> None:
    x, w, b = random(1, 2, 6, 6), random(4, 2, 3, 3), random(4)
    found = result(
        "convolution",
        {
            "outputChannels": 4, "kernelChannels": 2, "nGroups": 1, "kernelSize": [3, 3],
            "stride": [stride] * 2, "dilationFactor": [dilation] * 2,
            "same": {"asymmetryMode": heavy}, "hasBias": True, "weights": w, "bias": b,
        },
        x,
    )  # fmt: skip
    close(found, convolved(x, w, stride, pads, dilation) + b[:, None, None])


def test_convolution_by_channel() -> None:
    x, w = random(1, 3, 5, 5), random(3, 1, 3, 3)
    found = result(
        "convolution",
        {
            "outputChannels": 3, "kernelChannels": 1, "nGroups": 3, "kernelSize": [3, 3],
            "valid": {}, "weights": w,
        },
        x,
    )  # fmt: skip
    parts = [convolved(x[:, i : i + 1], w[i : i + 1], 1, (0, 0)) for i in range(3)]
    close(found, np.concatenate(parts, 1))


@pytest.mark.parametrize(("padding", "size"), [("valid", 7), ("same", 6)])
def test_transposed_convolution(padding: str, size: int) -> None:
    x, w = random(1, 2, 3, 3), random(2, 4, 3, 3)  # [in, out, h, w]
    found = result(
        "convolution",
        {
            "outputChannels": 4, "kernelChannels": 2, "nGroups": 1, "kernelSize": [3, 3],
            "stride": [2, 2], "isDeconvolution": True, padding: {}, "weights": w,
        },
        x,
    )  # fmt: skip
    full = np.zeros((1, 4, 7, 7), np.float32)
    for i in range(3):
        for j in range(3):
            part = np.einsum("nc,cohw->nohw", x[:, :, i, j], w)
            full[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += part
    close(found, full[:, :, :size, :size])


def test_pooling_with_the_last_pixel() -> None:
    x = random(1, 1, 6, 6)
    settings: dict[str, Any] = {"kernelSize": [3, 3], "stride": [2, 2]}
    settings["includeLastPixel"] = {"paddingAmounts": [0, 0]}
    wide = np.pad(x[0, 0], ((0, 1), (0, 1)), constant_values=np.nan)
    windows = np.array([[wide[i : i + 3, j : j + 3] for j in (0, 2, 4)] for i in (0, 2, 4)])
    close(result("pooling", {**settings, "type": 0}, x)[0, 0], np.nanmax(windows, (2, 3)))
    close(result("pooling", {**settings, "type": 1}, x)[0, 0], np.nanmean(windows, (2, 3)))


def test_pooling_kinds() -> None:
    x = random(1, 2, 4, 4)
    blocks = x.reshape(1, 2, 2, 2, 2, 2)
    window: dict[str, Any] = {"kernelSize": [2, 2], "stride": [2, 2], "valid": {}}
    close(result("pooling", {**window, "type": 0}, x), blocks.max((3, 5)))
    close(result("pooling", {**window, "type": 1}, x), blocks.mean((3, 5)))
    close(result("pooling", {**window, "type": 2}, x), np.sqrt((blocks**2).sum((3, 5))))
    close(result("pooling", {"type": 0, "globalPooling": True}, x), x.max((2, 3), keepdims=True))


# --- elementwise, each with its formula

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)
ACTIVATIONS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "linear": ({"alpha": 2.0, "beta": 1.0}, lambda x: 2 * x + 1),
    "ReLU": ({}, lambda x: np.maximum(x, 0)),
    "leakyReLU": ({"alpha": 0.25}, lambda x: np.where(x > 0, x, x / 4)),
    "thresholdedReLU": ({"alpha": 0.5}, lambda x: np.where(x >= 0.5, x, 0)),
    "tanh": ({}, np.tanh),
    "scaledTanh": ({"alpha": 2.0, "beta": 0.5}, lambda x: 2 * np.tanh(x / 2)),
    "sigmoid": ({}, lambda x: 1 / (1 + np.exp(-x))),
    "sigmoidHard": ({"alpha": 0.25, "beta": 0.5}, lambda x: np.clip(x / 4 + 0.5, 0, 1)),
    "ELU": ({"alpha": 0.5}, lambda x: np.where(x >= 0, x, 0.5 * np.expm1(x))),
    "softsign": ({}, lambda x: x / (1 + abs(x))),
    "softplus": ({}, lambda x: np.log1p(np.exp(x))),
    "PReLU": (
        {"alpha": np.array([0.5, 2.0], np.float32)},
        lambda x: np.where(x > 0, x, x * np.array([0.5, 2.0])[:, None, None]),
    ),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation(kind: str) -> None:
    settings, formula = ACTIVATIONS[kind]
    close(result("activation", {kind: settings}, X), formula(X))


P = abs(X) + 0.5
Y = random(3, 1) + 3
CASES: list[tuple[str, dict[str, Any], tuple[np.ndarray, ...], Callable[..., Any]]] = [
    ("unary", {"type": 0, "scale": 2.0, "shift": 1.0}, (P,), lambda x: np.sqrt(2 * x + 1)),
    ("unary", {"type": 1, "scale": 1.0, "epsilon": 0.5}, (P,), lambda x: 1 / np.sqrt(x + 0.5)),
    ("unary", {"type": 2, "scale": 1.0, "epsilon": 0.5}, (P,), lambda x: 1 / (x + 0.5)),
    ("unary", {"type": 3, "scale": 1.0, "alpha": 3.0}, (P,), lambda x: x**3),
    ("unary", {"type": 5, "scale": 1.0}, (P,), np.log),
    ("unary", {"type": 7, "scale": 1.0, "alpha": 0.5}, (X,), lambda x: np.maximum(x, 0.5)),
    ("add", {"alpha": 2.0}, (X,), lambda x: x + 2),
    ("multiply", {}, (X, P), np.multiply),
    ("average", {}, (X, P), lambda a, b: (a + b) / 2),
    ("clip", {"minVal": -1.0, "maxVal": 0.5}, (X,), lambda x: np.clip(x, -1, 0.5)),
    ("clampedReLU", {"alpha": 0.5, "beta": 1.0}, (X,),
     lambda x: np.minimum(np.where(x > 0, x, x / 2), 1)),
    ("powBroadcastable", {}, (P, Y), np.power),
    ("modBroadcastable", {}, (X, Y), np.mod),
    ("floorDivBroadcastable", {}, (X, Y), np.floor_divide),
    ("divideBroadcastable", {}, (X, Y), np.divide),
    ("greaterThan", {"alpha": 0.5}, (X,), lambda x: (x > 0.5).astype(np.float32)),
    ("logicalNot", {}, (np.array([0, 1, 2], np.float32),), lambda x: (x == 0).astype(np.float32)),
    ("whereBroadcastable", {}, ((X > 0).astype(np.float32), X, P),
     lambda c, a, b: np.where(c, a, b)),
    ("softmaxND", {"axis": 1}, (X,),
     lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    ("softmax", {}, (X,), lambda x: np.exp(x) / np.exp(x).sum(0, keepdims=True)),
    ("mvn", {"acrossChannels": False, "normalizeVariance": True, "epsilon": 0.1}, (X,),
     lambda x: (x - x.mean((1, 2), keepdims=True)) / (x.std((1, 2), keepdims=True) + 0.1)),
    ("l2normalize", {"epsilon": 0.1}, (X,), lambda x: x / np.sqrt((x**2).sum() + 0.1)),
    ("reduce", {"mode": 6, "axis": 1}, (X,),
     lambda x: np.sqrt((x**2).sum((1, 2), keepdims=True))),
    ("reduceLogSumExp", {"axes": [-1], "keepDims": True}, (X,),
     lambda x: np.log(np.exp(x).sum(-1, keepdims=True))),
    ("reduceMean", {"reduceAll": True}, (X,), lambda x: x.mean().reshape(1)),
    ("argMax", {"axis": 1, "removeDim": True}, (X,),
     lambda x: x.argmax(1).astype(np.float32)),
    ("cumSum", {"axis": 2, "reverse": True}, (X,),
     lambda x: np.flip(np.flip(x, 2).cumsum(2), 2)),
    ("flatten", {"mode": 1}, (X,), lambda x: x.transpose(1, 2, 0).reshape(24, 1, 1)),
    ("reshape", {"targetShape": [4, 3, 2], "mode": 1}, (X,),
     lambda x: x.transpose(1, 2, 0).reshape(3, 2, 4).transpose(2, 0, 1)),
    ("permute", {"axis": [0, 2, 3, 1]}, (X,), lambda x: x.transpose(1, 2, 0)),
    ("slice", {"axis": 2, "startIndex": 1, "endIndex": -1, "stride": 2}, (X,),
     lambda x: x[:, :, 1::2]),
    ("sliceStatic", {"beginIds": [0, -1, 1], "endIds": [0, 0, 3], "strides": [1, 1, 1],
     "beginMasks": [True, False, False], "endMasks": [True, False, False],
     "squeezeMasks": [False, True, False]}, (X,), lambda x: x[:, -1, 1:3]),
    ("slidingWindows", {"axis": 2, "windowSize": 3, "step": 1}, (X,),
     lambda x: np.stack([x[..., 0:3], x[..., 1:4]], 2)),
    ("constantPad", {"value": 5.0, "padAmounts": [0, 0, 1, 0, 0, 2]}, (X,),
     lambda x: np.pad(x, ((0, 0), (1, 0), (0, 2)), constant_values=5)),
    ("padding", {"reflection": {}, "paddingAmounts": {}}, (X,), lambda x: x),
    ("concatND", {"axis": 1}, (X, P), lambda a, b: np.concatenate([a, b], 1)),
    ("stack", {"axis": -1}, (X, P), lambda a, b: np.stack([a, b], -1)),
    ("tile", {"reps": [1, 2, 1]}, (X,), lambda x: np.tile(x, (1, 2, 1))),
    ("gather", {"axis": 1}, (X, np.array([-1, 0], np.float32)), lambda x, i: x[:, [2, 0]]),
    ("gatherAlongAxis", {"axis": 0}, (X, np.ones((1, 3, 4), np.float32)),
     lambda x, i: x[1:]),
    ("matrixBandPart", {"numLower": 0, "numUpper": -1}, (X,), np.triu),
    ("reverse", {"reverseDim": [False, True, True]}, (X,), lambda x: x[:, ::-1, ::-1]),
    ("reverseSeq", {"batchAxis": 0, "sequenceAxis": 1}, (X, np.array([2, 3], np.float32)),
     lambda x, n: np.stack([x[0][[1, 0, 2]], x[1][::-1]])),
    ("oneHot", {"oneHotVectorSize": 3, "axis": -1, "onValue": 2.0, "offValue": 1.0},
     (np.array([0, 2, -1], np.float32),), lambda i: 1 + np.eye(3, dtype=np.float32)[[0, 2, 2]]),
    ("rankPreservingReshape", {"targetShape": [3, -1, 0]}, (X,),
     lambda x: x.reshape(3, 2, 4)),
    ("broadcastToStatic", {"targetShape": [2, 3, 4]}, (Y,),
     lambda y: np.broadcast_to(y, (2, 3, 4))),
    ("dot", {}, (X, P), lambda a, b: (a * b).sum(0, keepdims=True)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_layer(case: Any) -> None:
    kind, settings, inputs, formula = case
    close(result(kind, settings, *inputs), formula(*inputs))


# --- products, images, recurrence


def test_inner_product_takes_the_last_three_axes() -> None:
    x, w, b = random(2, 3, 1, 1), random(5, 3), random(5)
    settings = {"inputChannels": 3, "outputChannels": 5, "hasBias": True, "weights": w, "bias": b}
    close(result("innerProduct", settings, x), (x[..., 0, 0] @ w.T + b)[..., None, None])


def test_batched_matmul_holds_its_matrix_by_columns() -> None:
    x, w = random(2, 3), random(3, 4)
    settings = {"weightMatrixFirstDimension": 3, "weightMatrixSecondDimension": 4, "weights": w.T}
    close(result("batchedMatmul", settings, x), x @ w)


def test_reorganize_as_the_specification_shows() -> None:
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 8, 1, 2)
    deep = result("reorganizeData", {"mode": 1, "blockSize": 2}, x)
    assert deep[0, 0].tolist() == [[1, 5, 2, 6], [9, 13, 10, 14]]
    shuffled = result("reorganizeData", {"mode": 2, "blockSize": 2}, x)
    assert shuffled[0, 0].tolist() == [[1, 3, 2, 4], [5, 7, 6, 8]]


@pytest.mark.parametrize(
    ("method", "points"),
    [(0, [0, 0.25, 0.5, 0.75, 1]), (2, [0, 0.4, 0.8, 1, 1]), (3, [0.1, 0.3, 0.5, 0.7, 0.9])],
)
def test_resize_takes_the_grid_points_of_the_specification(method: int, points: Any) -> None:
    x = np.array([[[[0, 1]]]], np.float32)
    settings = {"targetSize": [1, 5], "mode": {"samplingMethod": method}}
    close(result("resizeBilinear", settings, x)[0, 0, 0], np.array(points, np.float32))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("steps", [3, 12])
def test_lstm(steps: int) -> None:
    x = random(steps, 1, 2, 1, 1)
    gates = ["inputGate", "forgetGate", "outputGate", "blockInput"]
    w, r, b = random(4, 3, 2), random(4, 3, 3), random(4, 3)
    weights: dict[str, Any] = {}
    for i, g in enumerate(gates):
        weights |= {f"{g}WeightMatrix": w[i], f"{g}RecursionMatrix": r[i], f"{g}BiasVector": b[i]}
    spec = network({"x": x.shape}, ("y", "h", "c"))
    spec.neuralNetwork.layers.add(name="l", input=["x"], output=["y", "h", "c"])
    params = spec.neuralNetwork.layers[0].uniDirectionalLSTM
    params.inputVectorSize, params.outputVectorSize = 2, 3
    params.params.sequenceOutput = params.params.hasBiasVectors = True
    for kind in ("sigmoid", "tanh", "tanh"):
        getattr(params.activations.add(), kind).SetInParent()
    for name, value in weights.items():
        put(params.weightParams, name, value)
    found = load(spec).run({"x": x})
    h, c, rows = np.zeros(3), np.zeros(3), []
    for step in x[:, 0, :, 0, 0]:
        i, f, o, z = (w[k] @ step + r[k] @ h + b[k] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(z)
        h = sigmoid(o) * np.tanh(c)
        rows.append(h)
    close(found["y"].numpy()[:, 0, :, 0, 0], np.array(rows, np.float32))
    close(found["c"].numpy().reshape(3), c.astype(np.float32))


def test_quantized_weights() -> None:
    x = random(1, 4)
    spec = network({"x": x.shape})
    layer = spec.neuralNetwork.layers.add(name="l", input=["x"], output=["y"])
    p = layer.innerProduct
    p.inputChannels, p.outputChannels = 4, 2
    p.weights.quantization.numberOfBits = 2
    p.weights.quantization.lookupTableQuantization.floatValue.extend([-1.0, 0.0, 0.5, 2.0])
    p.weights.rawValue = bytes([0b00011011, 0b11100100])
    table = np.array([[-1, 0, 0.5, 2], [2, 0.5, 0, -1]], np.float32)
    close(load(spec).run({"x": x})["y"].numpy(), x @ table.T)


def test_branch_runs_one_side() -> None:
    for value, wanted in ((1.0, 3.0), (-1.0, 2.0)):
        spec = network({"x": (1,)})
        layers = spec.neuralNetwork.layers
        compare = layers.add(name="p", input=["x"], output=["p"])
        compare.greaterThan.alpha = 0.0
        layers.add(name="y0", input=["x"], output=["y"]).add.alpha = 0.0
        branch = layers.add(name="b", input=["p"]).branch
        branch.ifBranch.layers.add(name="t", input=["x"], output=["y"]).add.alpha = 2.0
        branch.elseBranch.layers.add(name="e", input=["x"], output=["y"]).multiply.alpha = -2.0
        close(load(spec).run({"x": [value]})["y"].numpy(), np.array([wanted], np.float32))


def test_coverage_of_the_specification() -> None:
    assert set(layer_types()) == set(LAYERS)
