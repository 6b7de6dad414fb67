"""ONNX Runtime's own operators: beside it where its CPU has them, otherwise by their formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from onnx import helper  # noqa: E402
from onnx_builder import model, node, tensor  # noqa: E402
from test_onnx_runtime import MICROSOFT, Check, bytes_, draw, normal, run, scale, zero  # noqa: E402

from niello import errors  # noqa: E402
from niello.frontends.onnx import load, registry  # noqa: E402
from tools.onnx_page import NOT_TRANSLATED  # noqa: E402

ANGLES = np.outer(np.arange(16), [1, 0.3, 0.1, 0.03, 0.5, 0.2, 0.7, 0.01])
COSINE, SINE = np.cos(ANGLES).astype(np.float32), np.sin(ANGLES).astype(np.float32)
NARROW = COSINE[:, :4], SINE[:, :4]


def f32(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def i32(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def i64(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


def grouped(
    length: int, past: int, total: int, ends: Sequence[int], *more: Any, packed: bool = False,
    outputs: Sequence[str] = ("y", "k", "v"), **attributes: Any,
) -> Check:  # fmt: skip
    """GroupQueryAttention of four heads, two of them for keys and values, of width 16."""
    batch = len(ends)
    parts = [normal(batch, length, n * 16) for n in (4, 2, 2)]
    given = [np.concatenate(parts, 2), None, None] if packed else parts
    cache = [normal(batch, 2, past, 16) for _ in range(2)]
    inputs = [*given, *cache, i32(*ends), i32(total), *more]
    settings = {"num_heads": 4, "kv_num_heads": 2, **attributes}
    return Check("GroupQueryAttention", inputs, settings, outputs)


ROTARY: dict[str, Any] = {"do_rotary": 1}
ATTENTION = [
    Check("RotaryEmbedding", [normal(2, 5, 16), i64(3), *NARROW]),
    Check("RotaryEmbedding", [normal(2, 5, 16), draw.integers(0, 16, (2, 5)), *NARROW],
          {"interleaved": 1}),
    Check("RotaryEmbedding", [normal(2, 3, 5, 8), draw.integers(0, 16, (2, 5)), *NARROW]),
    Check("RotaryEmbedding", [normal(2, 5, 24), i64(0), *NARROW],
          {"rotary_embedding_dim": 8, "num_heads": 2}),
    grouped(5, 0, 5, (4, 4)),
    grouped(5, 0, 5, (4, 4), packed=True),
    grouped(1, 6, 7, (6, 3)),
    grouped(1, 10, 7, (6, 3)),
    grouped(3, 6, 9, (8,), COSINE, SINE, **ROTARY),
    grouped(5, 0, 5, (4, 4), COSINE, SINE, **ROTARY),
    grouped(1, 6, 7, (6, 4), COSINE, SINE, packed=True, **ROTARY, rotary_interleaved=1),
    grouped(5, 0, 5, (4, 4), local_window_size=2),
    grouped(1, 6, 7, (6, 6), local_window_size=3),
    grouped(5, 0, 5, (4, 4), softcap=2.0, scale=0.7),
    grouped(5, 0, 5, (4, 4), None, None, None, normal(1, 1, 5, 5), softcap=2.0),
    grouped(5, 0, 5, (4, 4), None, None, None, normal(2, 4, 5, 5)),
    grouped(5, 0, 5, (4, 4), None, None, None, None, normal(4)),
    grouped(5, 0, 5, (4, 4), smooth_softmax=1),
    grouped(5, 0, 5, (4, 4), outputs=("y", "k", "v", "s"), qk_output=1),
    grouped(5, 0, 5, (4, 4), outputs=("y", "k", "v", "s"), qk_output=2),
    grouped(5, 0, 5, (4, 4), causal=0),
    Check("QAttention",
          [bytes_(2, 5, 8), bytes_(8, 24, kind=np.int8), normal(24), scale(0.02), scale(0.02),
           i32(3, 5), zero(128), zero(0, np.int8)], {"num_heads": 2}, tolerance=1e-4),
    Check("QAttention",
          [bytes_(2, 5, 8), bytes_(8, 24), normal(24), scale(0.02), np.abs(normal(24)) * 0.02,
           None, zero(128), bytes_(24), normal(2, 2, 2, 3, 4)], {"num_heads": 2},
          ("y", "present"), tolerance=1e-4),
]  # fmt: skip
NIBBLES = {"K": 64, "N": 6, "block_size": 32}
WEIGHTS = [
    Check("MatMulNBits",
          [normal(3, 64), bytes_(6, 2, 16), np.abs(normal(12)) / 16, None,
           draw.permutation(np.arange(64) // 32).astype(np.int32)], {**NIBBLES, "bits": 4},
          tolerance=2e-3),
    Check("MatMulNBits", [normal(3, 64), bytes_(6, 2, 32), np.abs(normal(12)) / 16],
          {**NIBBLES, "bits": 8}, tolerance=2e-2),
    Check("MatMulNBits", [normal(3, 64), bytes_(6, 2, 8), np.abs(normal(12)) / 16],
          {**NIBBLES, "bits": 2}, tolerance=2e-2),
    Check("MatMulBnb4", [normal(3, 32), bytes_(80), np.abs(normal(10))],
          {"K": 32, "N": 5, "block_size": 16, "quant_type": 1}, tolerance=1e-4),
    Check("MatMulBnb4", [normal(3, 32), bytes_(80), np.abs(normal(10))],
          {"K": 32, "N": 5, "block_size": 16, "quant_type": 0}, tolerance=1e-4),
    Check("GatherBlockQuantized", [bytes_(6, 16), i64([1, 5], [0, 3]), np.abs(normal(6, 2))],
          {"block_size": 16, "gather_axis": 0, "quantize_axis": 1, "bits": 4}),
    Check("GatherBlockQuantized",
          [bytes_(6, 16), i64([1, 5], [0, 3]), np.abs(normal(6, 2)), bytes_(6, 1)],
          {"block_size": 16, "gather_axis": 0, "quantize_axis": 1, "bits": 4}),
    Check("GatherBlockQuantized",
          [bytes_(6, 32), i64(2, 4), np.abs(normal(6, 2)), bytes_(6, 2)],
          {"block_size": 16, "gather_axis": 0, "quantize_axis": 1, "bits": 8}),
    Check("MoE", [normal(3, 8), normal(3, 4), normal(4, 6, 8), normal(4, 6), normal(4, 8, 6),
                  normal(4, 8)], {"k": 2, "activation_type": "relu"}, tolerance=1e-4),
    Check("MoE", [normal(2, 3, 8), normal(6, 4), normal(4, 6, 8), None, normal(4, 8, 6)],
          {"k": 2, "activation_type": "silu", "normalize_routing_weights": 1}, tolerance=1e-4),
    Check("MoE", [normal(3, 8), normal(3, 4), normal(4, 12, 8), normal(4, 12), normal(4, 8, 6),
                  normal(4, 8)],
          {"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.7,
           "activation_beta": 1.0, "swiglu_limit": 1.0, "normalize_routing_weights": 1},
          tolerance=1e-4),
    Check("MatMulInteger16",
          [bytes_(3, 4, kind=np.int16) // 64, bytes_(4, 5, kind=np.int16) // 64]),
    Check("DynamicQuantizeLSTM",
          [normal(4, 2, 3), bytes_(1, 3, 16), bytes_(1, 4, 16), normal(1, 32), None, None, None,
           None, f32(0.01), bytes_(1), f32(0.01), bytes_(1)], {"hidden_size": 4},
          ("y", "h", "c"), tolerance=2e-2),
    Check("QEmbedLayerNormalization",
          [i32([1, 3, 2], [0, 5, 4]), i32([0, 0, 1], [0, 1, 1]), bytes_(6, 8), bytes_(4, 8),
           bytes_(2, 8), bytes_(8), bytes_(8), i32([1, 1, 0], [1, 1, 1]), scale(0.02),
           scale(0.03), scale(0.04), scale(0.01), scale(0.02), zero(120), zero(100), zero(90),
           zero(10), zero(128)], {"epsilon": 1e-5}, ("y", "lengths"), tolerance=1e-4),
]  # fmt: skip
SMALL = [
    Check("ExpandDims", [normal(3, 4), np.array(1, np.int32)]),
    Check("ExpandDims", [normal(3, 4), np.array(-1, np.int32)]),
    Check("GatherND", [normal(3, 4), i64([0, 1], [2, 3])]),
    Check("GridSample", [normal(1, 2, 4, 4), normal(1, 3, 3, 2)]),
    Check("Pad", [normal(3, 4), i64(0, 1, 2, 0), f32(3)]),
    Check("Pad", [normal(3, 4), i64(0, 1, 2, -1)], {"mode": "edge"}),
    Check("Range", [f32(1), f32(5), f32(0.5)]),
    Check("Range", [f32(1), f32(5)]),
    Check("Unique", [f32(2, 1, 1, 3, 4, 3)], outputs=("y", "places", "counts")),
    Check("Inverse", [normal(2, 3, 3)], tolerance=1e-3),
    Check("SampleOp", [normal(3)]),
    Check("UnfoldTensor", [normal(3, 8)], {"dim": 1, "size": 3, "step": 2}),
    Check("UnfoldTensor", [normal(3, 8, 2)], {"dim": 1, "size": 3}),
    Check("CDist", [normal(3, 4), normal(5, 4)], {"metric": "euclidean"}, tolerance=1e-4),
    Check("CDist", [normal(3, 4), normal(5, 4)], {"metric": "sqeuclidean"}, tolerance=1e-4),
    Check("NGramRepeatBlock", [draw.integers(0, 3, (3, 9)), normal(3, 4)], {"ngram_size": 3}),
    Check("NGramRepeatBlock", [draw.integers(0, 3, (3, 9)), normal(3, 4)], {"ngram_size": 1}),
    Check("CropAndResize",
          [normal(2, 3, 6, 7), f32([0.1, 0.2, 0.9, 0.8], [-0.1, 0, 0.5, 1.2]), i32(1, 0),
           i32(3, 4)], {"extrapolation_value": 9.0}),
    Check("CropAndResize",
          [normal(2, 3, 6, 7), f32([0.1, 0.2, 0.9, 0.8], [0.3, 0, 0.5, 1]), i32(1, 0), i32(1, 4)],
          {"mode": "nearest"}),
    Check("GatedAdd", [normal(3, 4), normal(3, 4), normal(3, 1)]),
    Check("GatedRMSNorm", [normal(3, 8), normal(4), normal(3, 8)]),
    Check("ScaledSiLU", [normal(3, 4)], {"alpha": 2.0}),
]  # fmt: skip


@pytest.mark.parametrize("check", [*ATTENTION, *WEIGHTS, *SMALL], ids=str)
def test_beside_onnx_runtime(check: Check) -> None:
    expected, found = run(check)
    assert len(found) == len(expected)
    for wanted, value in zip(expected, found, strict=True):
        assert (value.dtype, value.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(value, wanted, rtol=check.tolerance, atol=check.tolerance)


def test_quantized_convolution_of_channels_last() -> None:
    x, w = bytes_(1, 6, 6, 4), bytes_(3, 4, 3, 3)
    settings = (scale(0.02), zero(120)), (scale(0.03), zero(10)), (scale(0.5), zero(100))
    inputs = [x, *settings[0], w, *settings[1], *settings[2]]
    expected, found = run(
        Check("QLinearConv", inputs, {"channels_last": 1, "kernel_shape": [3, 3]})
    )
    assert np.abs(found[0].astype(int) - expected[0].astype(int)).max() <= 1


# --- operators that ONNX Runtime has on GPUs only, or has a schema of only


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    from math import erf

    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


def normed(x: np.ndarray, groups: int) -> np.ndarray:
    """Groups of the channels of [n, h, w, c] by their own statistics."""
    n, h, w, c = x.shape
    parts = x.reshape(n, h, w, groups, c // groups)
    mean, spread = parts.mean((1, 2, 4), keepdims=True), parts.var((1, 2, 4), keepdims=True)
    return ((parts - mean) / np.sqrt(spread + 1e-5)).reshape(x.shape)


def convolved(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A convolution of [n, h, w, c] without padding."""
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    parts = [
        np.einsum("nhwc,oc->nhwo", x[:, i : i + rows, j : j + columns], w[:, :, i, j])
        for i in range(3)
        for j in range(3)
    ]
    return np.asarray(sum(parts) + b)


S, B8 = normal(2, 3, 4), normal(4)
PIXELS, KERNEL = normal(1, 5, 6, 2), normal(4, 2, 3, 3)
IMAGE, SCALE, SHIFT = normal(2, 3, 3, 8), normal(8), normal(8)
FORMULAS: list[tuple[str, list[Any], dict[str, Any], Callable[..., Any]]] = [
    ("BiasAdd", [S, B8, S + 1], {}, lambda x, b, s: x + b + s),
    ("BiasSplitGelu", [S, B8], {}, lambda x, b: (x + b)[..., :2] * gelu((x + b)[..., 2:])),
    ("BiasSoftmax", [S, normal(2, 1, 4)], {"axis": 2, "is_inner_broadcast": 1},
     lambda x, b: np.exp(x + b) / np.exp(x + b).sum(-1, keepdims=True)),
    ("BiasDropout", [S, B8, S], {}, lambda x, b, r: x + b + r),
    ("GemmFastGelu", [normal(3, 4), normal(4, 5), normal(5)], {},
     lambda x, w, b: (y := x @ w + b) * (1 + np.tanh(0.7978845608 * (y + 0.044715 * y**3))) / 2),
    ("FusedMatMulActivation", [normal(3, 4), normal(5, 4)], {"activation": "Relu", "transB": 1},
     lambda a, b: np.maximum(a @ b.T, 0)),
    ("NhwcConv", [PIXELS, KERNEL, normal(4)], {"kernel_shape": [3, 3]}, convolved),
    ("NhwcFusedConv", [PIXELS, KERNEL, normal(4), normal(1, 3, 4, 4)],
     {"kernel_shape": [3, 3], "activation": "Relu"},
     lambda x, w, b, z: np.maximum(convolved(x, w, b) + z, 0)),
    ("GroupNorm", [IMAGE, SCALE, SHIFT], {"groups": 2, "activation": 1},
     lambda x, s, b: (y := normed(x, 2) * s + b) * sigmoid(y)),
    ("SkipGroupNorm", [IMAGE, SCALE, SHIFT, normal(2, 8), normal(8)],
     {"groups": 4, "activation": 0},
     lambda x, s, b, k, c: normed(x + k[:, None, None] + c, 4) * s + b),
    ("ComplexMul", [normal(3, 2), normal(3, 2)], {},
     lambda a, b: np.stack([a[:, 0] * b[:, 0] - a[:, 1] * b[:, 1],
                            a[:, 0] * b[:, 1] + a[:, 1] * b[:, 0]], -1)),
    ("ComplexMulConj", [normal(3, 2), normal(3, 2)], {},
     lambda a, b: np.stack([a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1],
                            a[:, 1] * b[:, 0] - a[:, 0] * b[:, 1]], -1)),
    ("IsAllFinite", [normal(3), f32(1, np.inf)], {}, lambda *x: np.bool_(False)),
    ("IsAllFinite", [normal(3), f32(1, np.inf)], {"isnan_only": 1}, lambda *x: np.bool_(True)),
    ("TorchEmbedding", [normal(5, 3), i64([0, 4], [1, 2])], {}, lambda t, i: t[i]),
    ("MulInteger", [bytes_(3, 4), zero(3), bytes_(4), zero(9)], {},
     lambda a, p, b, q: (a.astype(np.int32) - p) * (b.astype(np.int32) - q)),
    ("ReduceSumInteger", [bytes_(3, 4)], {"axes": [1], "keepdims": 0},
     lambda x: x.sum(1, dtype=np.uint32)),
    ("QLinearReduceMean", [bytes_(3, 4), scale(0.02), zero(120), scale(0.01), zero(99)],
     {"axes": [1], "keepdims": 1},
     lambda x, s, z, t, p: np.clip(
         np.rint((x.astype(np.float32) - z).mean(1, keepdims=True) * s / t) + p, 0, 255
     ).astype(np.uint8)),
    ("GemmaRotaryEmbedding", [normal(2, 5, 8), *(normal(2, 3, 5, 8) for _ in range(4))], {},
     lambda e, q, r, k, t: q * np.cos(e)[:, None] + r * np.sin(e)[:, None]),
]  # fmt: skip


@pytest.mark.parametrize("case", FORMULAS, ids=lambda c: c[0])
def test_by_formula(case: Any) -> None:
    operator, inputs, attributes, formula = case
    names = [f"x{i}" for i in range(len(inputs))]
    outputs = ["y", "z"] if operator == "GemmaRotaryEmbedding" else ["y"]
    made = node(operator, names, outputs, domain=MICROSOFT, **attributes)
    kinds = [helper.np_dtype_to_tensor_dtype(a.dtype) for a in inputs]
    described = [tensor(n, list(a.shape), k) for n, a, k in zip(names, inputs, kinds, strict=True)]
    proto = model([made], described, outputs, domains={MICROSOFT: 1})
    found = np.asarray(load(proto).run(inputs)["y"])
    wanted = np.asarray(formula(*inputs))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_every_operator_of_the_runtime_is_listed() -> None:
    schemas = runtime.capi.onnxruntime_pybind11_state.get_all_operator_schema()
    known = {s.name for s in schemas if s.domain == MICROSOFT}
    translated = {name for domain, name in registry.translated() if domain == MICROSOFT}
    listed = {name for names in NOT_TRANSLATED.values() for name in names}
    assert not translated & listed
    assert not known - translated - listed


def test_what_is_left_out_is_refused() -> None:
    check = grouped(5, 0, 5, (4, 4), sliding_window_cache=1, local_window_size=2)
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(check.inputs)]
    made = node(check.operator, names, ["y"], domain=MICROSOFT, **check.attributes)
    feeds = {n: a for n, a in zip(names, check.inputs, strict=True) if n}
    inputs = [
        tensor(n, list(a.shape), helper.np_dtype_to_tensor_dtype(a.dtype)) for n, a in feeds.items()
    ]
    with pytest.raises(errors.FrontendError, match="window's size"):
        load(model([made], inputs, ["y"], domains={MICROSOFT: 1})).run(feeds)
