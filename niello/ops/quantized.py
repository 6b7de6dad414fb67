"""Arithmetic on quantized tensors: integer products, and quantization in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import FLOATS, DType, float32, int8, int32, uint8
from niello.core.errors import AttributeValueError, DTypeError
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Sample, Trait, real, register, sample
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.ops.binary import maximum, minimum
from niello.ops.comparison import equal
from niello.ops.conv import Convolution
from niello.ops.convolve import make_settings
from niello.ops.define import cast_to, check_dtype, graph_of, half_as_float32
from niello.ops.matmul import matmul
from niello.ops.pooling import check_layout
from niello.ops.quantize import (
    Gradients,
    ScaledOp,
    SpreadScales,
    SumOfBlocks,
    Tensors,
    blocks_of,
    quantize,
    sample_scales,
    spread_numpy,
)
from niello.ops.select import clamp, select
from niello.ops.unary import rint

SMALL = (dtypes.int4, dtypes.uint4, int8, uint8, dtypes.int16, dtypes.uint16)


# --- in training
@register
@frozen
class FakeQuantize(ScaledOp):
    """See the function `fake_quantize`. Inputs: x, scales and zero points (floats)."""

    low: int
    high: int
    axis: int | None = None
    name: ClassVar[str] = "fake_quantize"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "What is left of x after quantization to [low, high] and back; the gradient passes where "
        "the value lies in that range (Jacob et al. 2018; of the scale: Esser et al. 2020)."
    )

    def infer(self, x: TensorType, scale: TensorType, zero: TensorType) -> TensorType:
        for t in (x, scale, zero):
            check_dtype(self.name, t.dtype, self.dtypes)
        if x.is_static and scale.is_static:
            blocks_of(self.name, x.static_shape, scale.static_shape, self.axis)
        return x

    def reference(self, x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        def fake(x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Any:
            s = spread_numpy(self.name, scale, x.shape, self.axis)
            z = spread_numpy(self.name, zero, x.shape, self.axis)
            return (np.clip(np.rint(x / s) + z, self.low, self.high) - z) * s

        return np.asarray(half_as_float32(fake, (x, scale, zero))).astype(x.dtype)

    def _parts(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(x / scale, rounded and moved by the zero point, scale, zero point)."""
        x, scale, zero = inputs
        wide = dtypes.float64 if x.dtype is dtypes.float64 else float32
        s: Any = x.graph.apply(SpreadScales(self.axis), cast_to(scale, wide), x)
        z: Any = x.graph.apply(SpreadScales(self.axis), cast_to(zero, wide), x)
        ratio = cast_to(x, wide) / s
        return ratio, rint(ratio) + z, s, z

    def decompose(self, *inputs: Tensor) -> Tensor:
        _, moved, s, z = self._parts(*inputs)
        return cast_to((clamp(moved, self.low, self.high) - z) * s, inputs[0].dtype)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        g, (x, scale, _) = gradients[0], inputs
        assert g is not None
        ratio, moved, _, z = self._parts(*inputs)
        held = clamp(moved, self.low, self.high)
        inside = equal(held, moved)
        wide = cast_to(g, ratio.dtype)
        to_scale = wide * select(inside, held - z - ratio, held - z)
        total: Any = g.graph.apply(SumOfBlocks(self.axis), to_scale, scale)
        return cast_to(select(inside, wide, 0.0), x.dtype), cast_to(total, scale.dtype), None

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for x, scale, axis in sample_scales():
            # Rounding steps down everywhere: differences along it say nothing of the gradient.
            inputs = real(*x), real(*scale, low=0.3, high=0.5), np.zeros(scale)
            found.append(
                sample(*inputs, low=-3, high=4, axis=axis, grad=False, dtypes=(float32, FLOATS[3]))
            )
        return found


@opdef.function
def fake_quantize(
    x: Any,
    scale: Any,
    zero_point: Any = 0.0,
    *,
    low: int = -128,
    high: int = 127,
    axis: int | None = None,
    name: str | None = None,
) -> Tensor:
    """(clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale: what is left of x
    after quantization and back.

    The gradient passes to x unchanged where the rounded value lies between `low` and `high`, and is
    0 elsewhere (straight-through estimator); that of the scale is Esser et al.'s (2020). Scales and
    zero points have the forms of `quantize`, in floats. Raises AttributeValueError unless
    low < high.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.fake_quantize(graph.placeholder((8, 64)), 0.02).shape
        (8, 64)
    """
    if not low < high:
        raise AttributeValueError(
            "fake_quantize", "low must be less than high", received=f"{low} and {high}"
        )
    graph = graph_of("fake_quantize", x, scale)
    tensor = graph.as_tensor(x)
    check_dtype("fake_quantize", tensor.dtype, FLOATS)
    scales = graph.as_tensor(scale, dtype=tensor.dtype)
    zeros = cast_to(graph.as_tensor(zero_point, dtype=tensor.dtype), tensor.dtype)
    op = FakeQuantize(int(low), int(high), axis)
    return graph.apply(op, tensor, cast_to(scales, tensor.dtype), zeros, name=name)  # type: ignore[return-value]


@opdef.function
def dynamic_quantize_linear(x: Tensor, *, name: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """x in uint8, with a scale and a zero point found from its range: (q, scale, zero_point).

    The range is widened to hold 0, so that 0 is exact: scale = (max - min) / 255, and
    zero_point = round(-min / scale). A tensor of zeros has a scale of 1. Source: ONNX
    DynamicQuantizeLinear.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> q, scale, zero = nl.dynamic_quantize_linear(graph.placeholder((8, 64)))
        >>> q.type, zero.type
        (uint8[8, 64], uint8[])
    """
    call = opdef.functions()
    wide = cast_to(x, float32)
    high, low = maximum(call["max"](wide), 0.0), minimum(call["min"](wide), 0.0)
    span = (high - low) / 255.0
    scale = select(equal(span, 0.0), 1.0, span)
    zero = cast_to(rint(-low / scale), uint8)
    return quantize(wide, scale, zero, dtype=uint8, name=name), scale, zero


# --- products
def _whole(asked: str, x: Any) -> Tensor:
    tensor = graph_of(asked, x).as_tensor(x)
    if tensor.dtype not in SMALL:
        raise DTypeError(
            asked,
            "operands are integers of 4, 8 or 16 bits",
            received=tensor.dtype.name,
            advice="Quantize first",
            dtype=tensor.dtype,
        )
    return cast_to(tensor, int32)


def _point(x: Tensor, zero: Any, *, column: bool) -> Tensor | None:
    """A zero point in int32 that broadcasts against a product; None for none."""
    if zero is None:
        return None
    found = cast_to(x.graph.as_tensor(zero, dtype=int32), int32)
    if found.rank == 1 and column:
        return opdef.functions()["expand_dims"](found, axes=-1)  # type: ignore[no-any-return]
    return found


@opdef.function
def integer_matmul(
    a: Any,
    b: Any,
    a_zero: Any = None,
    b_zero: Any = None,
    *,
    name: str | None = None,
) -> Tensor:
    """(a - a_zero) @ (b - b_zero) in int32, for integers of up to 16 bits (ONNX MatMulInteger).

    `a_zero` is a number or one for each row of a, `b_zero` a number or one for each column of b.
    Zero points enter by the sums of the other operand's columns and rows, so that the product
    itself is of the integers as they are; sums of constant weights are computed once. Sums wrap at
    32 bits. Raises DTypeError for other operands.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> a = graph.placeholder((8, 64), nl.uint8)
        >>> b = graph.placeholder((64, 16), nl.int8)
        >>> nl.integer_matmul(a, b, 128).type
        int32[8, 16]
    """
    left, right = _whole("integer_matmul", a), _whole("integer_matmul", b)
    call = opdef.functions()
    za, zb = _point(left, a_zero, column=True), _point(left, b_zero, column=False)
    found = matmul(left, right, name=name if za is None and zb is None else None)
    if za is None and zb is None:
        return found
    if za is not None:
        columns = call["sum"](right, axes=-2, keepdims=True)
        if zb is not None:
            # (sum of b - k * b_zero) holds the product of both zero points.
            columns = call["sum"](right - zb, axes=-2, keepdims=True)
        found = found - za * columns
    if zb is not None:
        found = found - call["sum"](left, axes=-1, keepdims=True) * zb
    return found if name is None else call["identity"](found, name=name)  # type: ignore[no-any-return]


def scaled(total: Tensor, *scales: Any) -> Tensor:
    """A sum of products as float32 times its scales.

    What is known is multiplied once; what is not, element by element, so that no kernel of its own
    multiplies scales with each other.
    """
    known: Any = 1.0
    value = cast_to(total, float32)
    for s in scales:
        s = np.asarray(s, np.float32) if isinstance(s, np.ndarray) else s
        if isinstance(s, Tensor) and not isinstance(s.operation.op, Constant):
            value = value * s
        else:
            known = s if isinstance(known, float) and known == 1.0 else known * s
    return value if isinstance(known, float) and known == 1.0 else value * known


def finish_product(
    total: Tensor, scales: Sequence[Any], bias: Any, out_scale: Any, out_zero: Any, dtype: Any,
    name: Any,
) -> Tensor:  # fmt: skip
    """An int32 sum of products with its bias and scales, as floats or quantized anew."""
    if isinstance(bias, (Tensor, np.ndarray)):
        added = total.graph.as_tensor(bias)
        if added.dtype.is_integer:
            total, bias = total + cast_to(added, int32), None
        else:
            bias = added
    value = scaled(total, *scales)
    if bias is not None:
        value = value + bias
    if out_scale is None:
        return value if name is None else opdef.functions()["identity"](value, name=name)  # type: ignore[no-any-return]
    return quantize(value, out_scale, out_zero, dtype=dtype, name=name)


@opdef.plain_function
def quantized_matmul(
    a: Any,
    b: Any,
    a_scale: Any,
    b_scale: Any,
    *,
    a_zero: Any = None,
    b_zero: Any = None,
    bias: Any = None,
    out_scale: Any = None,
    out_zero: Any = None,
    dtype: Any = int8,
    name: str | None = None,
) -> Tensor:
    """The product of quantized matrices: a_scale * b_scale * integer_matmul(a, b, ...) + bias.

    `b_scale` is a number or one for each column; an integer `bias` is added before scaling (in
    units of a_scale * b_scale). The result is float32, or with `out_scale` quantized to `dtype`:
    product, bias and requantization are one kernel. Source: ONNX QLinearMatMul.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> a, b = graph.placeholder((8, 64), nl.int8), graph.placeholder((64, 16), nl.int8)
        >>> nl.quantized_matmul(a, b, 0.1, 0.02, out_scale=0.05).type
        int8[8, 16]
    """
    total = integer_matmul(a, b, a_zero, b_zero)
    return finish_product(total, (a_scale, b_scale), bias, out_scale, out_zero, dtype, name)


@opdef.plain_function
def integer_conv(
    x: Any,
    weights: Any,
    x_zero: Any = None,
    weights_zero: Any = None,
    *,
    strides: Any = 1,
    dilations: Any = 1,
    padding: Any = "valid",
    groups: int = 1,
    data_layout: str | None = None,
    weights_layout: str | None = None,
    name: str | None = None,
) -> Tensor:
    """The convolution of integers of up to 16 bits in int32, over one to three axes by their rank.

    The sum of (x - x_zero) * (weights - weights_zero); padding adds nothing, sums wrap at 32 bits.
    `weights_zero` is a number or one for each output channel. Source: ONNX ConvInteger. Raises
    DTypeError for other operands.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((1, 3, 8, 8), nl.uint8)
        >>> w = graph.placeholder((16, 3, 3, 3), nl.int8)
        >>> nl.integer_conv(x, w, 128).type
        int32[1, 16, 6, 6]
    """
    data, kernel = _whole("integer_conv", x), _whole("integer_conv", weights)
    count = max(1, min(3, (data.rank or 4) - 2))
    settings = make_settings(
        "integer_conv", count, strides, dilations, padding, groups, data_layout, weights_layout
    )
    if x_zero is not None:
        data = data - _along(data, x_zero, settings.data.channel, count)
    if weights_zero is not None:
        kernel = kernel - _along(data, weights_zero, settings.weights.letters.index("O"), count)
    return data.graph.apply(Convolution(settings), data, kernel, name=name)  # type: ignore[return-value]


def _along(like: Tensor, value: Any, axis: int, count: int) -> Any:
    """A value for each channel, in the shape that broadcasts; small integers in int32."""
    if value is None or isinstance(value, (int, float)):
        return value
    found = like.graph.as_tensor(value)
    if found.dtype in SMALL:
        found = cast_to(found, int32)
    if found.rank != 1:
        return found
    shape = [1] * (count + 2)
    shape[axis] = -1
    return opdef.functions()["reshape"](found, shape)


@opdef.plain_function
def quantized_conv(
    x: Any,
    weights: Any,
    x_scale: Any,
    weights_scale: Any,
    *,
    x_zero: Any = None,
    weights_zero: Any = None,
    bias: Any = None,
    out_scale: Any = None,
    out_zero: Any = None,
    dtype: Any = int8,
    strides: Any = 1,
    dilations: Any = 1,
    padding: Any = "valid",
    groups: int = 1,
    data_layout: str | None = None,
    weights_layout: str | None = None,
    name: str | None = None,
) -> Tensor:
    """The convolution of quantized tensors, over one to three axes by their rank.

    The sum of (x - x_zero) * (weights - weights_zero) in int32 (padding adds nothing), times
    x_scale * weights_scale, plus `bias`. `weights_scale`, `weights_zero` and `bias` are numbers or
    one for each output channel; an integer bias is added before scaling. The result is float32, or
    with `out_scale` quantized to `dtype`, all in one kernel. Source: ONNX QLinearConv,
    ConvInteger (scales of 1).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((1, 3, 8, 8), nl.uint8)
        >>> w = graph.placeholder((16, 3, 3, 3), nl.int8)
        >>> nl.quantized_conv(x, w, 0.1, 0.02, x_zero=128, out_scale=0.5).type
        int8[1, 16, 6, 6]
    """
    total = integer_conv(
        x, weights, x_zero, weights_zero, strides=strides, dilations=dilations, padding=padding,
        groups=groups, data_layout=data_layout, weights_layout=weights_layout,
    )  # fmt: skip
    count = max(1, (total.rank or 4) - 2)
    channel = check_layout("quantized_conv", count, data_layout).channel
    scales = [_along(total, s, channel, count) for s in (x_scale, weights_scale)]
    added = _along(total, bias, channel, count)
    return finish_product(total, scales, added, out_scale, out_zero, dtype, name)
