"""Convolution and pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.layers.convolution import (
    Pairs,
    convolve,
    same_padding,
    transposed_padding,
    with_bias,
)
from niello.frontends.coreml.layers.pooling import complete, pooled
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.operators.compression import along
from niello.frontends.coreml.registry import operator


def _padding(at: Op, kernel: Any, strides: Any, dilations: Any) -> Pairs:
    kind, count = at.text("pad_type", "valid"), len(kernel)
    if kind in ("same", "same_lower"):
        sizes = at.shape()[2:]
        return same_padding(sizes, kernel, strides, dilations, kind == "same_lower")
    pads = at.ints("pad", [0] * (2 * count)) if kind == "custom" else [0] * (2 * count)
    return list(zip(pads[::2], pads[1::2], strict=True))


@operator("conv", fold=False)
def conv(at: Op) -> nl.Tensor:
    """Convolution over one to three spatial axes, channels first."""
    return _convolved(at, at.tensor("weight"))


@operator("conv_quantized", fold=False)
def conv_quantized(at: Op) -> nl.Tensor:
    """Convolution whose weights are integers: times a scale plus a bias, of all or each channel."""
    kind = at.text("quantization_type", "linear")
    if kind != "linear":
        raise at.refuse(
            "weights by a lookup table need a table, which the operator has no input for",
            repr(kind),
            "Use constexpr_lut_to_dense and conv",
        )
    raw = at.array("weight").astype(np.float32)
    scale, bias = (at.array(n).reshape(-1) for n in ("quant_scale", "quant_bias"))
    rows = [along(v if v.size > 1 else v.reshape(()), 0, raw.ndim) for v in (scale, bias)]
    return _convolved(at, at.constant(raw * rows[0] + rows[1], scale.dtype))


def _convolved(at: Op, weight: nl.Tensor) -> nl.Tensor:
    kernel = at.shape("weight")[2:]
    ones = [1] * len(kernel)
    strides, dilations = at.ints("strides", ones), at.ints("dilations", ones)
    padding = _padding(at, kernel, strides, dilations)
    groups = at.integer("groups", 1)
    y = convolve(at.tensor(), weight, padding, strides, dilations, groups)
    return with_bias(y, nl.cast(at.tensor("bias"), y.dtype)) if at.has("bias") else y


@operator("conv_transpose", fold=False)
def conv_transpose(at: Op) -> nl.Tensor:
    """Transposed convolution; weights are [in, out / groups, ...]."""
    kernel, sizes = at.shape("weight")[2:], at.shape()[2:]
    ones = [1] * len(kernel)
    strides, dilations = at.ints("strides", ones), at.ints("dilations", ones)
    kind = at.text("pad_type", "valid")
    if at.has("output_shape"):
        target = at.ints("output_shape")[-len(kernel) :]
        padding = transposed_padding(
            sizes, kernel, strides, dilations, target, kind == "same_lower"
        )
        if kind == "custom":  # what is missing to the wanted size is added at the end
            pads = at.ints("pad", [0] * (2 * len(kernel)))
            padding = [
                (pads[2 * i], before + after - pads[2 * i])
                for i, (before, after) in enumerate(padding)
            ]
    elif kind in ("same", "same_lower"):
        target = [a * b for a, b in zip(sizes, strides, strict=True)]
        padding = transposed_padding(
            sizes, kernel, strides, dilations, target, kind == "same_lower"
        )
    else:
        padding = _padding(at, kernel, strides, dilations)
    groups = at.integer("groups", 1)
    y = convolve(at.tensor(), at.tensor("weight"), padding, strides, dilations, groups, True)
    return with_bias(y, at.tensor("bias")) if at.has("bias") else y


def _pooling(kind: str) -> None:
    @operator(f"{kind}_pool")
    def translate(at: Op) -> nl.Tensor:
        kernel = at.ints("kernel_sizes")
        ones = [1] * len(kernel)
        strides = at.ints("strides", ones)
        padding, uncounted = _padding(at, kernel, strides, ones), None
        if at.flag("ceil_mode"):
            padding, uncounted = complete(at.shape()[2:], kernel, strides, padding)
        name = "average" if kind == "avg" else kind
        exclude = at.flag("exclude_padding_from_average")
        return pooled(at, at.tensor(), name, kernel, strides, padding, uncounted, exclude)

    translate.__doc__ = f"{kind} of windows over one to three spatial axes."


for _kind in ("avg", "max", "l2"):
    _pooling(_kind)
