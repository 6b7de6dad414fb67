"""Quantized operators of ONNX Runtime (com.microsoft)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import MICROSOFT, translates
from niello.frontends.onnx.translations.linear import product
from niello.frontends.onnx.translations.quantization import (
    Scale,
    centred,
    dequantize_linear,
    qlinear_conv,
    quantize_linear,
)

translates("QuantizeLinear", domain=MICROSOFT)(quantize_linear)
translates("DequantizeLinear", domain=MICROSOFT)(dequantize_linear)

ELEMENTWISE: dict[str, Callable[..., nl.Tensor]] = {
    "QLinearAdd": nl.add,
    "QLinearMul": nl.multiply,
}


def _real(at: Call, i: int) -> nl.Tensor:
    """The tensor at input i, whose scale and zero point follow it, as float32."""
    return Scale(at.tensor(i + 1), at.optional(i + 2)).dequantize(at.tensor(i), nl.float32)


def _quantized(at: Call, y: nl.Tensor, i: int) -> nl.Tensor:
    """y by the scale and zero point at inputs i and i + 1."""
    kind = at.dtype(i + 1) if at.has(i + 1) else at.dtype(0)
    return Scale(at.tensor(i), at.optional(i + 1)).quantize(y, kind)


@translates(*ELEMENTWISE, domain=MICROSOFT)
def elementwise(at: Call) -> nl.Tensor:
    """A sum or product of quantized tensors."""
    y = ELEMENTWISE[at.operator](_real(at, 0), _real(at, 3))
    return _quantized(at, y, 6)


@translates("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def activation(at: Call) -> nl.Tensor:
    """An activation of a quantized tensor."""
    x = _real(at, 0)
    if at.operator == "QLinearSigmoid":
        return _quantized(at, nl.sigmoid(x), 3)
    return _quantized(at, nl.leaky_relu(x, alpha=at.real("alpha", 0.01)), 3)


@translates("QLinearSoftmax", domain=MICROSOFT)
def softmax(at: Call) -> nl.Tensor:
    """Softmax of a quantized tensor; along all axes from `axis` on before opset 13."""
    x, axis = _real(at, 0), at.integer("axis", -1)
    axes: Any = axis
    if at.integer("opset", at.scope.opsets.get("", 13)) < 13:
        axes = tuple(range(axis % at.rank(0), at.rank(0)))
    return _quantized(at, nl.softmax(x, axis=axes), 3)


@translates("QLinearConcat", domain=MICROSOFT)
def concat(at: Call) -> nl.Tensor:
    """Quantized tensors, each with its scale and zero point, in one scale."""
    parts = [_real(at, i) for i in range(2, len(at.inputs), 3)]
    return _quantized(at, nl.concat(parts, at.integer("axis")), 0)


@translates("QLinearGlobalAveragePool", domain=MICROSOFT)
def global_average_pool(at: Call) -> nl.Tensor:
    """Mean over the spatial axes."""
    last = bool(at.integer("channels_last", 0))
    axes = tuple(range(1, at.rank(0) - 1)) if last else tuple(range(2, at.rank(0)))
    return _quantized(at, nl.mean(_real(at, 0), axes, True), 3)


@translates("QLinearAveragePool", domain=MICROSOFT)
def average_pool(at: Call) -> nl.Tensor:
    """Mean over windows."""
    from niello.frontends.onnx.translations.pooling import averaged

    x = _real(at, 0)
    if not at.integer("channels_last", 0):
        return _quantized(at, averaged(at, x), 3)
    y = nl.transpose(averaged(at, nl.transpose(x, (0, 3, 1, 2))), (0, 2, 3, 1))
    return _quantized(at, y, 3)


@translates("QLinearReduceMean", domain=MICROSOFT)
def reduce_mean(at: Call) -> nl.Tensor:
    """Mean over axes."""
    axes = tuple(at.ints("axes", None) or range(at.rank(0)))
    y = nl.mean(_real(at, 0), axes, bool(at.integer("keepdims", 1)))
    return _quantized(at, y, 3)


@translates("QLinearConv", domain=MICROSOFT)
def conv(at: Call) -> nl.Tensor:
    """A convolution of quantized tensors, channels last where asked."""
    if not at.integer("channels_last", 0):
        return qlinear_conv(at)
    rank = at.rank(0)
    inputs = [nl.transpose(at.tensor(0), (0, rank - 1, *range(1, rank - 1))), *at.inputs[1:]]
    y = qlinear_conv(Call(at.importer, at.node, at.version, inputs, at.scope))
    return nl.transpose(y, (0, *range(2, rank), 1))


@translates("QLinearWhere", domain=MICROSOFT)
def where(at: Call) -> nl.Tensor:
    """Elements of one quantized tensor or another."""
    y = nl.select(at.tensor(0), _real(at, 1), _real(at, 4))
    return _quantized(at, y, 7)


@translates("QGemm", domain=MICROSOFT)
def qgemm(at: Call) -> nl.Tensor:
    """A product of quantized matrices, left in float32 where no output scale is given."""
    across = bool(at.integer("transB", 0))
    zero = at.optional(5)
    if across and zero is not None and zero.rank == 1:
        zero = nl.expand_dims(zero, -1)  # one for each column of the product
    a, b = centred(at.tensor(0), at.optional(2)), centred(at.tensor(3), zero)
    a = nl.transpose(a, (1, 0)) if at.integer("transA", 0) else a
    b = nl.transpose(b, (1, 0)) if across else b
    total = nl.matmul(a, b)
    total = nl.add(total, at.tensor(6)) if at.has(6) else total
    scale = nl.multiply(at.tensor(1), at.tensor(4)) * at.real("alpha", 1.0)
    y = nl.multiply(nl.cast(total, nl.float32), scale)
    return _quantized(at, y, 7) if at.has(7) else y


def _dynamic(x: nl.Tensor) -> tuple[nl.Tensor, nl.Tensor, nl.Tensor]:
    """x as uint8, and the scale and zero point that fit it."""
    zero = x.graph.constant(np.float32(0))
    low, high = nl.minimum(nl.min(x), zero), nl.maximum(nl.max(x), zero)
    scale = (high - low) / 255.0
    scale = nl.select(nl.equal(scale, zero), x.graph.constant(np.float32(1)), scale)
    point = nl.cast(nl.clamp(nl.rint(nl.negative(low) / scale), 0.0, 255.0), nl.uint8)
    return Scale(scale, point).quantize(x, nl.uint8), scale, point


@translates("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(at: Call) -> nl.Tensor:
    """A product of floats, quantized on the way, with quantized weights."""
    a, scale, point = _dynamic(at.tensor(0))
    total = product(centred(a, point), centred(at.tensor(1), at.optional(3)))
    y = nl.multiply(nl.cast(total, nl.float32), nl.multiply(scale, at.tensor(2)))
    return nl.add(y, at.tensor(4)) if at.has(4) else y


@translates("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(at: Call) -> nl.Tensor:
    """A product of quantized matrices as float32."""
    a = centred(at.tensor(0), at.optional(4))
    b = centred(at.tensor(1), at.optional(5))
    scale = nl.multiply(at.tensor(2), at.tensor(3))
    y = nl.multiply(nl.cast(product(a, b), nl.float32), scale)
    return nl.add(y, at.tensor(6)) if at.has(6) else y
