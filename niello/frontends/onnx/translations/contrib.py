"""Fused operators of ONNX Runtime (com.microsoft)."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import MICROSOFT, translates
from niello.frontends.onnx.translations.activation import gelu
from niello.frontends.onnx.translations.convolution import convolution, with_bias
from niello.frontends.onnx.translations.linear import gemm, scaled
from niello.frontends.onnx.translations.movement import trilu
from niello.frontends.onnx.translations.normalisation import layer_norm
from niello.frontends.onnx.translations.pooling import pooled_max

translates("Gelu", domain=MICROSOFT)(gelu)
translates("Trilu", domain=MICROSOFT)(trilu)


@translates("BiasGelu", "FastGelu", domain=MICROSOFT)
def bias_gelu(at: Call) -> nl.Tensor:
    """Gelu of a sum; FastGelu by its tanh approximation."""
    x = nl.add(at.tensor(0), at.tensor(1)) if at.has(1) else at.tensor(0)
    return nl.gelu(x, approximate="tanh" if at.operator == "FastGelu" else "none")


@translates("QuickGelu", domain=MICROSOFT)
def quick_gelu(at: Call) -> nl.Tensor:
    """x * sigmoid(alpha * x)"""
    x = at.tensor(0)
    return x * nl.sigmoid(x * at.real("alpha", 1.702))


@translates("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(at: Call) -> nl.Tensor:
    """alpha * A' @ B', transposed where asked; `transBatch` moves the first axis inward."""
    a = _turned(at.tensor(0), at.integer("transA", 0), at.integer("transBatchA", 0))
    b = _turned(at.tensor(1), at.integer("transB", 0), at.integer("transBatchB", 0))
    return scaled(nl.matmul(a, b), at.real("alpha", 1.0))


def _turned(x: nl.Tensor, matrix: int, batch: int) -> nl.Tensor:
    assert x.shape is not None
    order = list(range(len(x.shape)))
    if batch:
        order = [*order[1:-1], order[0], order[-1]]
    if matrix:
        order[-2:] = order[-1], order[-2]
    return x if order == sorted(order) else nl.transpose(x, order)


def activated(at: Call, y: nl.Tensor) -> nl.Tensor:
    """The activation that a fused node names."""
    name = at.text("activation", "")
    settings = at.floats("activation_params", None) or [
        v for v in (at.real("activation_alpha", None), at.real("activation_beta", None)) if v
    ]
    if name in ("", "Identity"):
        return y
    if name in ("Relu", "Tanh", "Sigmoid", "HardSwish"):
        return getattr(nl, {"HardSwish": "hard_swish"}.get(name, name.lower()))(y)  # type: ignore[no-any-return]
    if name == "LeakyRelu":
        return nl.leaky_relu(y, alpha=settings[0] if settings else 0.01)
    if name == "Clip":
        return nl.clamp(y, settings[0], settings[1])
    if name == "HardSigmoid":
        alpha, beta = settings or (0.2, 0.5)
        return nl.hard_sigmoid(y, alpha=alpha, beta=beta)
    raise at.refuse("the activation is not translated", name)


@translates("FusedConv", domain=MICROSOFT)
def fused_conv(at: Call) -> nl.Tensor:
    """A convolution with bias, a tensor to add, and an activation."""
    y = with_bias(convolution(at, at.tensor(0), at.tensor(1)), at.optional(2))
    return activated(at, nl.add(y, at.tensor(3)) if at.has(3) else y)


@translates("FusedGemm", domain=MICROSOFT)
def fused_gemm(at: Call) -> nl.Tensor:
    """Gemm and an activation."""
    return activated(at, gemm(at))


@translates("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(at: Call) -> Any:
    """Layer normalisation of a sum; the sum is the fourth output."""
    total = nl.add(at.tensor(0), at.tensor(1))
    total = nl.add(total, at.tensor(4)) if at.has(4) else total
    epsilon = at.real("epsilon", 1e-12)
    y = layer_norm(total, at.tensor(2), at.optional(3), (at.rank(0) - 1,), epsilon)
    if not (at.wants(1) or at.wants(2)):
        return y, None, None, total
    mean = nl.mean(total, -1, True)
    return y, mean, nl.rsqrt(nl.variance(total, -1, True) + epsilon), total


@translates("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_normalization(at: Call) -> Any:
    """Root-mean-square normalisation of a sum; the sum is the fourth output."""
    total = nl.add(at.tensor(0), at.tensor(1))
    total = nl.add(total, at.tensor(3)) if at.has(3) else total
    y = nl.rms_norm(total, axes=-1, epsilon=at.real("epsilon", 1e-12)) * at.tensor(2)
    return y, None, None, total


@translates("SimplifiedLayerNormalization")
@translates("SimplifiedLayerNormalization", domain=MICROSOFT)
def rms_normalization(at: Call) -> nl.Tensor:
    """Root-mean-square normalisation."""
    rank = at.rank(0)
    axes = tuple(range(at.integer("axis", -1) % rank, rank))
    return nl.rms_norm(at.tensor(0), axes=axes, epsilon=at.real("epsilon", 1e-5)) * at.tensor(1)


@translates("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(at: Call) -> Any:
    """The normalised sum of word, position and segment embeddings, and the lengths by a mask."""
    batch, length = at.shape(0)
    words = nl.gather(at.tensor(2), at.tensor(0), 0)
    if at.has(8):
        positions = nl.gather(at.tensor(3), at.tensor(8), 0)
    else:
        positions = nl.slice(at.tensor(3), [0], [length], axes=(0,))
    total = words + positions
    if at.has(1):
        total = total + nl.gather(at.tensor(4), at.tensor(1), 0)
    y = layer_norm(total, at.tensor(5), at.tensor(6), (2,), at.real("epsilon", 1e-12))
    if at.has(7):
        lengths: Any = nl.cast(nl.sum(nl.cast(at.tensor(7), nl.int32), 1), nl.int32)
    else:
        lengths = np.zeros(batch, np.int32)
    return y, lengths, total


@translates("NhwcMaxPool", domain=MICROSOFT)
def nhwc_max_pool(at: Call) -> nl.Tensor:
    """Maximum over windows, channels last."""
    rank = at.rank(0)
    x = nl.transpose(at.tensor(0), (0, rank - 1, *range(1, rank - 1)))
    return nl.transpose(pooled_max(at, x), (0, *range(2, rank), 1))
