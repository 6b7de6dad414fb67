"""Operators beside ONNX Runtime: its own fused and quantized ones, and the forms of old opsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from onnx import helper  # noqa: E402
from onnx_builder import model, node, tensor  # noqa: E402

from niello.frontends.onnx import load  # noqa: E402

MICROSOFT = "com.microsoft"
draw = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return draw.standard_normal(shape).astype(np.float32)


def bytes_(*shape: int, kind: Any = np.uint8) -> np.ndarray:
    info = np.iinfo(kind)
    return draw.integers(info.min, info.max + 1, shape).astype(kind)


def scale(value: float, *shape: int) -> np.ndarray:
    return np.full(shape, value, np.float32)


def zero(value: int, kind: Any = np.uint8) -> np.ndarray:
    return np.array(value, kind)


@dataclass(frozen=True)
class Check:
    """An operator, its inputs (None is left out) and attributes; how many outputs, how near."""

    operator: str
    inputs: Sequence[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: Sequence[str] = ("y",)
    domain: str = MICROSOFT
    opset: int = 13
    tolerance: float = 1e-5

    def __str__(self) -> str:
        shown = "-".join(f"{k}={v}" for k, v in self.attributes.items() if not isinstance(v, list))
        return f"{self.operator}-{self.opset}-{shown}"[:60]


def run(check: Check) -> tuple[list[Any], list[Any]]:
    """The outputs of ONNX Runtime and of Niello."""
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(check.inputs)]
    feeds = {n: a for n, a in zip(names, check.inputs, strict=True) if n}
    made = node(check.operator, names, list(check.outputs), domain=check.domain, **check.attributes)
    inputs = [
        tensor(n, list(a.shape), helper.np_dtype_to_tensor_dtype(a.dtype)) for n, a in feeds.items()
    ]
    domains = {check.domain: 1} if check.domain else {}
    wanted = [o for o in check.outputs if o]
    proto = model([made], inputs, wanted, opset=check.opset, domains=domains)
    proto.ir_version = 8
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(proto.SerializeToString(), options)
    expected = session.run(None, feeds)
    return expected, [np.asarray(v) for v in load(proto).run(feeds).values()]


QKV = {"num_heads": 2}
PROJECTED = (normal(2, 5, 8), normal(2, 5, 8), normal(2, 5, 8))
PAST = (normal(2, 2, 3, 4), normal(2, 2, 3, 4))
FUSED = [
    Check("Gelu", [normal(3, 4)]),
    Check("BiasGelu", [normal(3, 4), normal(4)]),
    Check("FastGelu", [normal(3, 4), normal(4)], tolerance=1e-3),
    Check("FastGelu", [normal(3, 4)], tolerance=1e-3),
    Check("QuickGelu", [normal(3, 4)], {"alpha": 1.5}),
    Check("FusedMatMul", [normal(2, 3, 4), normal(2, 4, 5)], {"alpha": 0.5}),
    Check("FusedMatMul", [normal(2, 4, 3), normal(2, 5, 4)], {"transA": 1, "transB": 1}),
    Check("FusedMatMul", [normal(3, 2, 4), normal(2, 4, 5)], {"transBatchA": 1}),
    Check("SkipLayerNormalization", [normal(2, 3, 8), normal(2, 3, 8), normal(8), normal(8)]),
    Check(
        "SkipLayerNormalization",
        [normal(2, 3, 8), normal(2, 3, 8), normal(8), normal(8), normal(8)],
        {"epsilon": 1e-5},
        ("y", "", "", "sum"),
    ),
    Check(
        "SkipSimplifiedLayerNormalization",
        [normal(2, 3, 8), normal(2, 3, 8), normal(8), normal(8)],
        {"epsilon": 1e-5},
        ("y", "", "", "sum"),
    ),
    Check("SimplifiedLayerNormalization", [normal(2, 3, 8), normal(8)], domain=""),
    Check(
        "EmbedLayerNormalization",
        [
            np.array([[1, 3, 2], [0, 5, 4]], np.int32),
            np.array([[0, 0, 1], [0, 1, 1]], np.int32),
            normal(6, 8), normal(4, 8), normal(2, 8), normal(8), normal(8),
            np.array([[1, 1, 0], [1, 1, 1]], np.int32),
        ],
        {"epsilon": 1e-6},
        ("y", "lengths"),
    ),
    Check(
        "FusedConv",
        [normal(1, 2, 6, 6), normal(4, 2, 3, 3), normal(4)],
        {"activation": "Relu", "kernel_shape": [3, 3]},
    ),
    Check(
        "FusedConv",
        [normal(1, 2, 6, 6), normal(4, 2, 3, 3), normal(4)],
        {"activation": "Clip", "activation_params": [-0.5, 0.5], "pads": [1, 1, 1, 1]},
    ),
    Check("FusedGemm", [normal(3, 4), normal(4, 5), normal(5)], {"activation": "Relu"}),
    Check(
        "FusedGemm",
        [normal(3, 4), normal(5, 4), normal(5)],
        {"activation": "LeakyRelu", "activation_alpha": 0.2, "transB": 1},
    ),
    Check("Attention", [normal(2, 5, 8), normal(8, 24), normal(24)], QKV),
    Check("Attention", [normal(2, 5, 8), normal(8, 24), normal(24)], {**QKV, "unidirectional": 1}),
    Check(
        "Attention",
        [normal(2, 5, 8), normal(8, 24), normal(24), np.array([3, 5], np.int32)],
        QKV,
    ),
    Check(
        "Attention",
        [normal(2, 5, 8), normal(8, 24), normal(24), draw.integers(0, 2, (2, 5)).astype(np.int32)],
        QKV,
    ),
    Check(
        "Attention",
        [normal(2, 5, 8), normal(8, 24), normal(24), None, normal(2, 2, 2, 3, 4)],
        QKV,
        ("y", "present"),
    ),
    Check(
        "Attention",
        [normal(2, 5, 8), normal(8, 20), normal(20)],
        {**QKV, "qkv_hidden_sizes": [8, 8, 4]},
    ),
    Check("MultiHeadAttention", PROJECTED, QKV),
    Check("MultiHeadAttention", [*PROJECTED, normal(24)], {**QKV, "scale": 0.3}),
    Check(
        "MultiHeadAttention",
        [*PROJECTED, None, draw.integers(0, 2, (2, 5)).astype(np.int32)],
        QKV,
    ),
    Check("MultiHeadAttention", [*PROJECTED, None, None, normal(1, 2, 5, 5)], QKV),
    Check("MultiHeadAttention", [*PROJECTED, None, None, None, *PAST], QKV, ("y", "k", "v")),
    Check(
        "MatMulNBits",
        [normal(3, 40), bytes_(6, 2, 16), np.abs(normal(12)) / 16],
        {"K": 40, "N": 6, "bits": 4, "block_size": 32},
        tolerance=2e-3,
    ),
    Check(
        "MatMulNBits",
        [normal(3, 64), bytes_(6, 2, 16), np.abs(normal(12)) / 16, bytes_(6)],
        {"K": 64, "N": 6, "bits": 4, "block_size": 32},
        tolerance=2e-3,
    ),
]  # fmt: skip
A, B, C = (scale(0.02), zero(120)), (scale(0.03), zero(10)), (scale(0.05), zero(99))
PIXELS = bytes_(1, 4, 6, 6)
QUANTIZED = [
    Check("QLinearAdd", [bytes_(3, 4), *A, bytes_(3, 4), *B, scale(0.05), zero(99)]),
    Check("QLinearMul", [bytes_(3, 4), *A, bytes_(4), *B, scale(0.05), zero(99)]),
    Check("QLinearSigmoid", [bytes_(3, 4), *A, scale(1 / 256), zero(0)]),
    Check("QLinearLeakyRelu", [bytes_(3, 4), *A, scale(0.02), zero(100)], {"alpha": 0.2}),
    Check("QLinearSoftmax", [bytes_(3, 4), *A, scale(1 / 256), zero(0)], {"opset": 13}),
    Check("QLinearConcat", [*C, bytes_(2, 3), *A, bytes_(2, 2), *B], {"axis": 1}),
    Check("QLinearGlobalAveragePool", [PIXELS, *A, scale(0.01), zero(100)]),
    Check(
        "QLinearAveragePool",
        [PIXELS, *A, scale(0.02), zero(120)],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    Check("QLinearWhere", [normal(3, 4) > 0, bytes_(3, 4), *A, bytes_(3, 4), *B, *C]),
    Check("QGemm", [bytes_(3, 4), *A, bytes_(4, 5), *B, None, scale(0.2), zero(9)], {"transB": 0}),
    Check("QGemm", [bytes_(3, 4), *A, bytes_(4, 5), *B, bytes_(5, kind=np.int32)]),
    Check("DynamicQuantizeMatMul", [normal(3, 8), bytes_(8, 5), scale(0.03), zero(10), normal(5)]),
    Check(
        "MatMulIntegerToFloat",
        [bytes_(3, 8), bytes_(8, 5), scale(0.02), scale(0.03), zero(120), zero(10), normal(5)],
    ),
    Check("NhwcMaxPool", [bytes_(1, 6, 6, 4)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Check("QuantizeLinear", [normal(3, 4), scale(0.02), zero(120)]),
    Check("DequantizeLinear", [bytes_(3, 4), *A]),
]  # fmt: skip
LEGACY = [
    Check("Upsample", [normal(1, 2, 3, 3)], {"scales": [1.0, 1.0, 2.0, 3.0]}, domain="", opset=7),
    Check("Upsample", [normal(1, 2, 3, 3)], {"mode": "linear", "scales": [1.0, 1.0, 2.0, 2.0]},
          domain="", opset=7),
    Check("Softmax", [normal(2, 3, 4)], domain="", opset=9),
    Check("LogSoftmax", [normal(2, 3, 4)], {"axis": 2}, domain="", opset=11),
    Check("Hardmax", [normal(2, 3, 4)], domain="", opset=9),
    Check("Slice", [normal(4, 5)], {"starts": [1, -3], "ends": [9, -1]}, domain="", opset=9),
    Check("Pad", [normal(2, 3)], {"pads": [0, 1, 2, 0], "value": 1.5}, domain="", opset=9),
    Check("Pad", [normal(4, 5)], {"pads": [-1, 2, 1, -2], "mode": "edge"}, domain="", opset=10),
    Check("Clip", [normal(3, 4)], {"min": -0.5, "max": 0.5}, domain="", opset=9),
    Check("Split", [normal(6, 2)], {"axis": 0, "split": [1, 5]}, ("a", "b"), domain="", opset=9),
    Check("Squeeze", [normal(1, 3, 1)], {"axes": [0]}, domain="", opset=9),
    Check("Unsqueeze", [normal(3)], {"axes": [0, 2]}, domain="", opset=9),
    Check("ReduceSum", [normal(2, 3, 4)], {"axes": [1], "keepdims": 0}, domain="", opset=9),
    Check("ReduceMean", [normal(2, 3, 4)], domain="", opset=11),
    Check("Dropout", [normal(2, 3)], {"ratio": 0.3}, domain="", opset=7),
    Check("BatchNormalization",
          [normal(2, 3, 4), normal(3), normal(3), normal(3), np.abs(normal(3))],
          domain="", opset=7),
    Check("TopK", [normal(3, 6)], {"k": 2}, ("v", "i"), domain="", opset=9),
    Check("Resize", [normal(1, 2, 4, 4), scale(0, 0), np.array([1, 1, 1.5, 2], np.float32)],
          {"mode": "linear"}, domain="", opset=11),
    Check("Resize", [normal(1, 1, 5, 5), None, np.array([1, 1, 0.6, 2.4], np.float32)],
          {"mode": "cubic", "coordinate_transformation_mode": "asymmetric"}, domain="", opset=13),
    Check("MaxRoiPool", [normal(1, 2, 8, 8), np.array([[0, 1, 1, 6, 6]], np.float32)],
          {"pooled_shape": [2, 2]}, domain="", opset=11),
    Check("Scatter", [normal(3, 3), np.array([[2, 0, 1]]), normal(1, 3)], domain="", opset=9),
    Check("Gemm", [normal(3, 4), normal(4, 5), normal(1, 5)], {"alpha": 0.5, "beta": 2.0},
          domain="", opset=7),
    Check("LSTM", [normal(12, 2, 3), normal(1, 16, 3), normal(1, 16, 4), normal(1, 32)],
          {"hidden_size": 4}, ("y", "h", "c"), domain="", opset=7),
    Check("GRU", [normal(12, 2, 3), normal(2, 12, 3), normal(2, 12, 4), normal(2, 24)],
          {"hidden_size": 4, "direction": "bidirectional", "linear_before_reset": 1},
          ("y", "h"), domain="", opset=7),
    Check("GRU", [normal(5, 2, 3), normal(1, 12, 3), normal(1, 12, 4), normal(1, 24),
                  np.array([3, 5], np.int32), normal(1, 2, 4)],
          {"hidden_size": 4, "direction": "reverse"}, ("y", "h"), domain="", opset=7),
    Check("RNN", [normal(10, 2, 3), normal(1, 4, 3), normal(1, 4, 4), normal(1, 8),
                  np.array([7, 10], np.int32)],
          {"hidden_size": 4, "activations": ["Relu"]}, ("y", "h"), domain="", opset=7),
]  # fmt: skip


@pytest.mark.parametrize("check", [*FUSED, *LEGACY], ids=str)
def test_floats(check: Check) -> None:
    expected, found = run(check)
    assert len(found) == len(expected)
    for wanted, value in zip(expected, found, strict=True):
        assert value.dtype == wanted.dtype
        np.testing.assert_allclose(value, wanted, rtol=check.tolerance, atol=check.tolerance)


@pytest.mark.parametrize("check", QUANTIZED, ids=str)
def test_quantized(check: Check) -> None:
    """Integers may differ by one step where a value lies between two."""
    expected, found = run(check)
    for wanted, value in zip(expected, found, strict=True):
        assert value.dtype == wanted.dtype
        assert value.shape == wanted.shape
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-3)
        else:
            assert np.abs(value.astype(int) - wanted.astype(int)).max() <= 1


@pytest.mark.parametrize("packed", ["query, key and value", "key and value"])
def test_packed_attention(packed: str) -> None:
    """ONNX Runtime takes these forms on GPUs only: they equal the ones that are apart."""
    query, key, value = (normal(2, 5, 2, 4) for _ in range(3))
    apart = [t.reshape(2, 5, 8) for t in (query, key, value)]
    if packed == "key and value":
        given = [apart[0], np.stack([key, value], 3)]
    else:
        given = [np.stack([query, key, value], 3)]
    results = []
    for arrays in (apart, given):
        names = [f"x{i}" for i in range(len(arrays))]
        made = node("MultiHeadAttention", names, ["y"], domain=MICROSOFT, num_heads=2)
        inputs = [tensor(n, list(a.shape)) for n, a in zip(names, arrays, strict=True)]
        proto = model([made], inputs, ["y"], domains={MICROSOFT: 1})
        results.append(np.asarray(load(proto).run(arrays)["y"]))
    np.testing.assert_array_equal(*results)
