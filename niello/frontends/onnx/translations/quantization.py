"""Quantized tensors: to and from integers, and operators on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.translations.convolution import convolution, with_bias
from niello.frontends.onnx.translations.linear import product
from niello.frontends.onnx.values import code_of_array, dtype_of, host_dtype, on_host

INTEGERS = (nl.int8, nl.uint8, nl.int16, nl.uint16, nl.int32, nl.int4, nl.uint4)
SMALL_FLOATS = (nl.float8_e4m3fn, nl.float8_e5m2)


@dataclass(frozen=True)
class Scale:
    """How numbers become integers: a scale and zero point, one for all, for each place along
    `axis`, or for each block of that many places."""

    value: nl.Tensor
    zero: nl.Tensor | None = None
    axis: int = 1
    block: int = 0

    def quantize(self, x: nl.Tensor, kind: nl.DType, *, saturate: bool = True) -> nl.Tensor:
        """round(x / scale) + zero in an integer type, or x / scale in a small float."""
        plain = kind in INTEGERS or (kind in SMALL_FLOATS and saturate and self.zero is None)
        if plain and self._fits(x):
            value, zero, axis = self._settings()
            return nl.quantize(x, value, zero, dtype=kind, axis=axis)
        y = nl.divide(x, self.spread(x, self.value))
        zero = None if self.zero is None else self.spread(x, self.zero)
        if kind.is_float:
            y = y if zero is None else nl.add(y, nl.cast(zero, y.dtype))
            return nl.cast(y, kind, saturate=saturate)
        y = nl.cast(nl.rint(y), nl.float32) if y.dtype.is_half else nl.rint(y)
        return nl.cast(y if zero is None else nl.add(y, nl.cast(zero, y.dtype)), kind)

    def dequantize(self, q: nl.Tensor, kind: nl.DType) -> nl.Tensor:
        """(q - zero) * scale"""
        if q.dtype in (*INTEGERS, *SMALL_FLOATS) and self._fits(q):
            value, zero, axis = self._settings()
            return nl.dequantize(q, value, zero, dtype=kind, axis=axis)
        scale = self.spread(q, self.value)
        wide = nl.float32 if kind.is_half else kind
        if self.zero is not None:
            exact = nl.int32 if q.dtype.is_integer else nl.float32
            zero = nl.cast(self.spread(q, self.zero), exact)
            q = nl.subtract(nl.cast(q, exact), zero)
        return nl.cast(nl.multiply(nl.cast(q, wide), nl.cast(scale, wide)), kind)

    def _settings(self) -> tuple[nl.Tensor, nl.Tensor | None, int | None]:
        """As Niello's own functions take them."""
        if self.value.type.elements == 1:
            zero = None if self.zero is None else nl.reshape(self.zero, ())
            return nl.reshape(self.value, ()), zero, None
        return self.value, self.zero, None if self.block else self.axis

    def _fits(self, x: nl.Tensor) -> bool:
        """Whether Niello's own functions find the same blocks: sizes alone tell them."""
        if not self.block or self.value.type.elements == 1:
            return x.type.is_static and self.value.type.is_static
        size = x.type.static_shape[self.axis]
        return -(-size // -(-size // self.block)) == self.block

    def spread(self, x: nl.Tensor, settings: nl.Tensor) -> nl.Tensor:
        """A scale or zero point so that it broadcasts to x."""
        rank, shape = x.rank, settings.type.static_shape
        assert rank is not None
        if self.block:
            size = x.type.static_shape[self.axis]
            return nl.gather(settings, x.graph.constant(np.arange(size) // self.block), self.axis)
        if len(shape) != 1:
            return settings
        if shape == (1,):
            return nl.reshape(settings, ())
        wide = [1] * rank
        wide[self.axis % rank] = -1
        return nl.reshape(settings, tuple(wide))


def widened(at: Call, i: int) -> nl.Tensor:
    """Input i; of a type that graphs lack as int32 or float32, which hold all its values."""
    value = at.value(i)
    if not on_host(value):
        return at.tensor(i)
    array = at.array(i)
    wide = np.int32 if "int" in array.dtype.name else np.float32
    return at.constant(array.astype(wide))


def _quantized_on_host(at: Call, code: int) -> np.ndarray:
    """Quantized to a type that graphs lack: what is quantized must be known."""
    from niello.frontends.onnx.translations.typing import narrow

    x, scale = at.constant(at.array(0)), at.constant(at.array(1))
    how = _scale(at, scale, widened(at, 2) if at.has(2) else None)
    y = nl.divide(nl.cast(x, scale.dtype), how.spread(x, scale))
    zero = None if how.zero is None else how.spread(x, how.zero)
    kind = host_dtype(code)
    assert kind is not None
    if "int" not in kind.name:
        y = y if zero is None else nl.add(y, nl.cast(zero, y.dtype))
        return narrow(at.importer.array(y, at), code, bool(at.integer("saturate", 1)))
    import ml_dtypes

    y = nl.rint(y) if zero is None else nl.add(nl.rint(y), nl.cast(zero, y.dtype))
    limits = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
    clipped = np.clip(at.importer.array(y, at).astype(np.float32), limits.min, limits.max)
    return clipped.astype(np.int8).astype(kind)


@translates("QuantizeLinear")
def quantize_linear(at: Call) -> Any:
    """To integers (or small floats): whole, by axis, or by block."""
    code = code_of_array(at.array(2)) if on_host(at.inputs[2] if at.has(2) else None) else None
    code = code or at.integer("output_dtype", 0)
    if code and host_dtype(code) is not None:
        return _quantized_on_host(at, code)
    x, scale = at.tensor(0), at.tensor(1)
    kind = at.dtype(2) if at.has(2) else at.dtype_attribute("output_dtype", nl.uint8)
    precision = at.integer("precision", 0)
    wide = dtype_of(precision) if precision else scale.dtype
    x = x if x.dtype is wide else nl.cast(x, wide)
    how = _scale(at, nl.cast(scale, wide), at.optional(2))
    return how.quantize(x, kind, saturate=bool(at.integer("saturate", 1)))


def _scale(at: Call, value: nl.Tensor, zero: nl.Tensor | None) -> Scale:
    """The scale of a node, by its attributes."""
    return Scale(value, zero, at.integer("axis", 1), at.integer("block_size", 0))


@translates("DequantizeLinear")
def dequantize_linear(at: Call) -> nl.Tensor:
    """From integers (or small floats): whole, by axis, or by block."""
    scale = at.tensor(1)
    kind = at.dtype_attribute("output_dtype", scale.dtype)
    how = _scale(at, scale, widened(at, 2) if at.has(2) else None)
    return how.dequantize(widened(at, 0), kind)


@translates("DynamicQuantizeLinear")
def dynamic_quantize_linear(at: Call) -> Any:
    """To uint8 with the scale and zero point that fit the values."""
    x = at.tensor(0)
    zero = at.constant(np.float32(0))
    low, high = nl.minimum(nl.min(x), zero), nl.maximum(nl.max(x), zero)
    scale = (high - low) / 255.0
    scale = nl.select(nl.equal(scale, zero), at.constant(np.float32(1)), scale)
    point = nl.cast(nl.clamp(nl.rint(nl.negative(low) / scale), 0.0, 255.0), nl.uint8)
    return Scale(scale, point).quantize(x, nl.uint8), scale, point


def centred(x: nl.Tensor, zero: nl.Tensor | None) -> nl.Tensor:
    """x - zero as int32."""
    wide = nl.cast(x, nl.int32)
    return wide if zero is None else nl.subtract(wide, nl.cast(zero, nl.int32))


def _by_row(zero: nl.Tensor | None) -> nl.Tensor | None:
    """A zero point for each row of a matrix, as a column."""
    return nl.expand_dims(zero, -1) if zero is not None and zero.rank == 1 else zero


def requantized(
    total: nl.Tensor, scale: nl.Tensor, out_scale: nl.Tensor, zero: nl.Tensor, kind: nl.DType
) -> nl.Tensor:
    """An int32 sum of products in the output's scale."""
    factor = nl.divide(nl.cast(scale, nl.float32), nl.cast(out_scale, nl.float32))
    y = nl.rint(nl.multiply(nl.cast(total, nl.float32), factor))
    return nl.cast(nl.add(y, nl.cast(zero, nl.float32)), kind)


@translates("MatMulInteger")
def matmul_integer(at: Call) -> nl.Tensor:
    """A matrix product of integers, in int32."""
    a = centred(at.tensor(0), _by_row(at.optional(2)))
    return product(a, centred(at.tensor(1), at.optional(3)))


@translates("QLinearMatMul")
def qlinear_matmul(at: Call) -> nl.Tensor:
    """A matrix product of quantized tensors."""
    a = centred(at.tensor(0), _by_row(at.tensor(2)))
    b = centred(at.tensor(3), at.tensor(5))
    a_scale = at.tensor(1)
    a_scale = nl.expand_dims(a_scale, -1) if a_scale.rank == 1 else a_scale
    scale = nl.multiply(nl.cast(a_scale, nl.float32), nl.cast(at.tensor(4), nl.float32))
    return requantized(product(a, b), scale, at.tensor(6), at.tensor(7), at.dtype(7))


def _weights_zero(at: Call, i: int) -> nl.Tensor | None:
    """The zero point of convolution weights: one, or one for each output channel."""
    zero = at.optional(i)
    if zero is None or zero.rank == 0:
        return zero
    return nl.reshape(zero, (-1, *(1,) * (at.rank(0) - 1)))


@translates("ConvInteger")
def conv_integer(at: Call) -> nl.Tensor:
    """A convolution of integers, in int32."""
    x = centred(at.tensor(0), at.optional(2))
    return convolution(at, x, centred(at.tensor(1), _weights_zero(at, 3)))


@translates("QLinearConv")
def qlinear_conv(at: Call) -> nl.Tensor:
    """A convolution of quantized tensors; the bias is in the scale of the sum of products."""
    x = centred(at.tensor(0), at.tensor(2))
    weights_zero = at.tensor(5)
    if weights_zero.rank == 1:
        weights_zero = nl.reshape(weights_zero, (-1, *(1,) * (len(at.shape(3)) - 1)))
    total = convolution(at, x, centred(at.tensor(3), weights_zero))
    total = with_bias(total, at.optional(8))
    weights_scale = at.tensor(4)
    if weights_scale.rank == 1:
        weights_scale = nl.reshape(weights_scale, (1, -1, *(1,) * (len(at.shape(3)) - 2)))
    scale = nl.multiply(at.tensor(1), weights_scale)
    return requantized(total, scale, at.tensor(6), at.tensor(7), at.dtype(7))
