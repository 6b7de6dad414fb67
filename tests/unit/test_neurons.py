"""Neurons with parameters, gated units, and 8-bit floats and 4-bit integers as users meet them."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.types import TensorType
from niello.graph.evaluate import evaluate
from niello.ops.neuron import NEURONS

X = np.linspace(-2.2, 2.5, 9)
A, B, C = 0.4, 1.3, 2.0
EXPECTED = {
    "none": X,
    "relu": np.where(X >= 0, X, A * X),
    "linear": A * X + B,
    "sigmoid": 1 / (1 + np.exp(-X)),
    "hard_sigmoid": np.clip(A * X + B, 0, 1),
    "tanh": A * np.tanh(B * X),
    "absolute": np.abs(X),
    "softplus": A * np.log1p(np.exp(B * X)),
    "softsign": X / (1 + np.abs(X)),
    "elu": np.where(X >= 0, X, A * np.expm1(X)),
    "prelu": np.where(X >= 0, X, A * X),
    "relu_n": np.minimum(np.where(X >= 0, X, A * X), B),
    "power": (A * X + B) ** C,
    "exponential": C ** (A * X + B),
    "logarithm": np.log(A * X + B) / np.log(C),
    "gelu": X * np.array([1 + math.erf(v / math.sqrt(2)) for v in X]) / 2,
}


@pytest.mark.parametrize("kind", NEURONS)
def test_neurons(kind: str) -> None:
    graph = nl.Graph()
    x = graph.constant(X)
    a = graph.constant(np.full(9, A)) if kind == "prelu" else A
    y = nl.neuron(x, kind, a, B, C, name="y")
    assert y.name == "y"
    np.testing.assert_allclose(evaluate([y])[0], EXPECTED[kind], rtol=1e-12)


def test_gates_and_compositions() -> None:
    graph = nl.Graph()
    x = graph.constant(X[:8].reshape(2, 4))
    made = [nl.glu(x), nl.glu(x, axis=0), nl.swish(x, 1.7), nl.tanh_shrink(x), nl.relu6(x * 4.0)]
    found = evaluate(made)
    a = X[:8].reshape(2, 4)

    def logistic(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    np.testing.assert_allclose(found[0], a[:, :2] * logistic(a[:, 2:]))
    np.testing.assert_allclose(found[1], a[:1] * logistic(a[1:]))
    np.testing.assert_allclose(found[2], a * logistic(1.7 * a))
    np.testing.assert_allclose(found[3], a - np.tanh(a))
    np.testing.assert_allclose(found[4], np.clip(4 * a, 0, 6))


def test_refusals() -> None:
    graph = nl.Graph()
    with pytest.raises(AttributeValueError, match="unknown kind"):
        nl.neuron(graph.placeholder((2,)), "step")
    with pytest.raises(AttributeValueError):
        nl.celu(graph.placeholder((2,)), 0.0)
    with pytest.raises(ShapeError, match="even"):
        nl.glu(graph.placeholder((2, 3)))


# --- storage types
@pytest.mark.parametrize("kind", ["int4", "uint4", "float8_e4m3fn", "float8_e5m2"])
def test_storage_types_go_in_and_come_out(kind: str) -> None:
    values = np.array([[-3.0, 0.0, 1.0], [5.0, 7.0, -1.0]])
    stored = values.astype(np.int8 if "int" in kind else np.float32).astype(
        getattr(ml_dtypes, kind)
    )
    graph = nl.Graph()
    x = graph.placeholder(stored.shape, stored.dtype)
    held = graph.variable(stored, name="held")
    wide = x.cast(nl.float32)
    targets = [wide, (wide * 1.0).cast(x.dtype), held.cast(nl.float32), graph.constant(stored)]
    executable = graph.compile({x: TensorType(stored.shape, stored.dtype)}, targets, device="cpu")
    found = [np.asarray(a) for a in executable.run({x: stored}).values()]
    expected = stored.astype(np.float32)
    assert x.dtype.name == kind
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[2], expected)
    for array in (found[1], found[3]):
        assert array.dtype == stored.dtype
        np.testing.assert_array_equal(array.astype(np.float32), expected)


def test_packages_hold_storage_types(tmp_path: Path) -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 6))
    weights = graph.constant((np.arange(24) - 8).reshape(6, 4).astype(ml_dtypes.int4))
    bias = graph.variable(np.linspace(-3, 3, 4).astype(ml_dtypes.float8_e4m3fn), name="bias")
    y = x @ nl.dequantize(weights, 0.5) + bias.cast(nl.float32)
    executable = graph.compile({x: TensorType((2, 6))}, [y], device="cpu")
    executable.save(tmp_path / "small.niello")
    array = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 6)
    expected = np.asarray(executable.run({x: array})[y])
    (found,) = nl.load(tmp_path / "small.niello", device="cpu").run([array])
    np.testing.assert_array_equal(np.asarray(found), expected)


def test_every_float_of_8_bits_survives() -> None:
    for kind in (nl.float8_e4m3fn, nl.float8_e5m2):
        codes = np.arange(256, dtype=np.uint8)
        graph = nl.Graph()
        x = graph.placeholder((256,), nl.uint8)
        back = x.bitcast(kind).cast(nl.float32).cast(kind).bitcast(nl.uint8)
        executable = graph.compile({x: TensorType((256,), nl.uint8)}, [back], device="cpu")
        found = np.asarray(executable.run({x: codes})[back])
        numbers = ~np.isnan(codes.view(kind.numpy).astype(np.float32))
        np.testing.assert_array_equal(found[numbers], codes[numbers])
        assert np.isnan(found[~numbers].view(kind.numpy).astype(np.float32)).all()


def test_saturating_casts() -> None:
    graph = nl.Graph()
    x = graph.constant(np.array([-300, -129, 0, 127, 255, 70000], np.int32))
    wide = graph.constant(np.array([-1e9, 449.0, np.inf, np.nan], np.float32))
    made = [
        x.cast(nl.int8, saturate=True),
        x.cast(nl.uint8, saturate=True),
        x.cast(nl.uint8),
        wide.cast(nl.float8_e4m3fn, saturate=True),
        wide.cast(nl.float8_e4m3fn),
    ]
    found = evaluate(made)
    assert found[0].tolist() == [-128, -128, 0, 127, 127, 127]
    assert found[1].tolist() == [0, 0, 0, 127, 255, 255]
    assert found[2].tolist() == [212, 127, 0, 127, 255, 112]
    small = [a.astype(np.float32) for a in found[3:]]
    np.testing.assert_array_equal(small[0], [-448, 448, 448, np.nan])
    np.testing.assert_array_equal(small[1], [np.nan, 448, np.nan, np.nan])
