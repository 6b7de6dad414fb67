"""The convolution functions that users call."""

from __future__ import annotations

from typing import Any

from niello.core.errors import AttributeValueError, ShapeError
from niello.graph import opdef
from niello.graph.tensor import Tensor
from niello.ops.conv import (
    Convolution,
    ConvolutionDataGradient,
    ConvolutionSettings,
    ConvolutionWeightsGradient,
    WeightsLayout,
)
from niello.ops.define import operands
from niello.ops.matmul import as_accumulate
from niello.ops.window import Layout, Window, as_padding, spatial_pair

_DATA = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
_WEIGHTS = {1: ("OIW", "WIO"), 2: ("OIHW", "HWIO"), 3: ("OIDHW", "DHWIO")}


def make_settings(
    asked: str,
    rank: int,
    strides: Any,
    dilations: Any,
    padding: Any,
    groups: int,
    data_layout: str,
    weights_layout: str,
    accumulate: Any = None,
) -> ConvolutionSettings:
    """Checked settings of a convolution over `rank` spatial axes."""
    for what, value, allowed in (
        ("data_layout", data_layout, _DATA[rank]),
        ("weights_layout", weights_layout, _WEIGHTS[rank]),
    ):
        if value not in allowed:
            raise AttributeValueError(
                asked, f"{what} must be {' or '.join(allowed)}", received=repr(value)
            )
    if not isinstance(groups, int) or groups < 1:
        raise AttributeValueError(asked, "groups must be a positive integer", received=repr(groups))
    window = Window(
        spatial_pair(strides, rank, asked, "strides"),
        spatial_pair(dilations, rank, asked, "dilations"),
        as_padding(padding, rank, asked),
    )
    layouts = Layout(data_layout), WeightsLayout(weights_layout)
    return ConvolutionSettings(window, groups, *layouts, as_accumulate(accumulate))


@opdef.function
def conv2d(
    x: Any,
    weights: Any,
    *,
    strides: Any = 1,
    dilations: Any = 1,
    padding: Any = "valid",
    groups: int = 1,
    data_layout: str = "NCHW",
    weights_layout: str = "OIHW",
    accumulate: Any = None,
    name: str | None = None,
) -> Tensor:
    """2-D convolution (cross-correlation, as in ONNX Conv).

    x: [N, C, H, W] or [N, H, W, C] by `data_layout`; weights: [O, C / groups, kH, kW] or
    [kH, kW, C / groups, O] by `weights_layout`. `padding` is "valid", "same", "same_lower", a
    number, one for each axis, or (before, after) for each axis. Half types accumulate in float32
    unless `accumulate` names a wider dtype. Raises ShapeError, AttributeValueError, DTypeError.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x, w = graph.placeholder((None, 28, 28, 1)), graph.placeholder((5, 5, 1, 32))
        >>> nl.conv2d(x, w, padding="same", data_layout="NHWC", weights_layout="HWIO")
        <Tensor 'convolution': float32[?, 28, 28, 32]>
    """
    settings = make_settings(
        "conv2d", 2, strides, dilations, padding, groups, data_layout, weights_layout, accumulate
    )
    x, weights = operands("conv2d", x, weights)
    return x.graph.apply(Convolution(settings), x, weights, name=name)  # type: ignore[return-value]


@opdef.function
def conv_transpose2d(
    x: Any,
    weights: Any,
    *,
    output_size: Any = None,
    strides: Any = 1,
    dilations: Any = 1,
    padding: Any = "valid",
    output_padding: Any = 0,
    groups: int = 1,
    data_layout: str = "NCHW",
    weights_layout: str = "OIHW",
    accumulate: Any = None,
    name: str | None = None,
) -> Tensor:
    """Transposed 2-D convolution: the data gradient of conv2d with these settings.

    `weights` are those of that convolution, so x has its O channels and the result its C. The
    result's (H, W) are `output_size`, or the smallest that fit plus `output_padding`; with "same"
    padding they are H * stride. Raises ShapeError when the sizes do not fit.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x, w = graph.placeholder((1, 16, 8, 8)), graph.placeholder((16, 3, 4, 4))
        >>> nl.conv_transpose2d(x, w, strides=2, padding=1).shape
        (1, 3, 16, 16)
    """
    asked = "conv_transpose2d"
    settings = make_settings(
        asked, 2, strides, dilations, padding, groups, data_layout, weights_layout, accumulate
    )
    x, weights = operands(asked, x, weights)
    if output_size is None:
        sizes = _transposed_sizes(
            asked, settings, x, weights, spatial_pair(output_padding, 2, asked, "output_padding", 0)
        )
    else:
        sizes = spatial_pair(output_size, 2, asked, "output_size", 0)
    op = ConvolutionDataGradient(settings, sizes)
    return x.graph.apply(op, x, weights, name=name)  # type: ignore[return-value]


def _transposed_sizes(
    asked: str, settings: ConvolutionSettings, x: Tensor, weights: Tensor, extra: tuple[int, ...]
) -> tuple[int, ...]:
    if x.shape is None or weights.shape is None:
        raise ShapeError(asked, "ranks must be known", received=f"{x.type} and {weights.type}")
    have = settings.data.pick(x.shape)[2]
    kernel = settings.kernel(weights.shape)
    window = settings.window
    sizes = []
    for axis, (size, k) in enumerate(zip(have, kernel, strict=True)):
        if size is None or k is None:
            raise ShapeError(
                asked,
                "spatial sizes must be known",
                received=f"{x.type} and {weights.type}",
                advice="Give output_size",
            )
        stride = window.strides[axis]
        if window.padding in ("same", "same_lower"):
            sizes.append(size * stride + extra[axis])
            continue
        low, high = (0, 0) if isinstance(window.padding, str) else window.padding[axis]
        reach = (k - 1) * window.dilations[axis] + 1
        sizes.append((size - 1) * stride + reach - low - high + extra[axis])
    return tuple(sizes)


@opdef.function
def depthwise_conv2d(
    x: Any,
    weights: Any,
    *,
    strides: Any = 1,
    dilations: Any = 1,
    padding: Any = "valid",
    data_layout: str = "NCHW",
    weights_layout: str = "OIHW",
    accumulate: Any = None,
    name: str | None = None,
) -> Tensor:
    """Depthwise 2-D convolution: each channel with `multiplier` filters of its own.

    weights: [multiplier, C, kH, kW] (OIHW) or [kH, kW, C, multiplier] (HWIO); the result has
    C * multiplier channels, channel c * multiplier + m from filter m of channel c.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x, w = graph.placeholder((1, 32, 32, 8)), graph.placeholder((3, 3, 8, 1))
        >>> nl.depthwise_conv2d(
        ...     x, w, padding="same", data_layout="NHWC", weights_layout="HWIO"
        ... ).shape
        (1, 32, 32, 8)
    """
    asked = "depthwise_conv2d"
    x, weights = operands(asked, x, weights)
    if weights.shape is None or len(weights.shape) != 4 or None in weights.shape:
        raise ShapeError(
            asked, "the shape of the weights must be known", received=repr(weights.type)
        )
    functions = opdef.functions()
    if weights_layout == "HWIO":
        height, width, channels, multiplier = weights.shape
        shaped = functions["reshape"](weights, (height, width, 1, channels * multiplier))
    else:
        multiplier, channels, height, width = weights.shape
        moved = functions["swap_axes"](weights, 0, 1)
        shaped = functions["reshape"](moved, (channels * multiplier, 1, height, width))
    return conv2d(
        x,
        shaped,
        strides=strides,
        dilations=dilations,
        padding=padding,
        groups=channels,
        data_layout=data_layout,
        weights_layout=weights_layout,
        accumulate=accumulate,
        name=name,
    )


@opdef.plain_function
def conv2d_data_gradient(
    gradient: Any,
    weights: Any,
    output_size: Any,
    *,
    strides: Any = 1,
    dilations: Any = 1,
    padding: Any = "valid",
    groups: int = 1,
    data_layout: str = "NCHW",
    weights_layout: str = "OIHW",
    accumulate: Any = None,
    name: str | None = None,
) -> Tensor:
    """Gradient of conv2d with respect to its data, whose (H, W) are `output_size`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> g, w = graph.placeholder((1, 4, 6, 6)), graph.placeholder((4, 3, 3, 3))
        >>> nl.conv2d_data_gradient(g, w, (8, 8)).shape
        (1, 3, 8, 8)
    """
    asked = "conv2d_data_gradient"
    settings = make_settings(
        asked, 2, strides, dilations, padding, groups, data_layout, weights_layout, accumulate
    )
    gradient, weights = operands(asked, gradient, weights)
    op = ConvolutionDataGradient(settings, spatial_pair(output_size, 2, asked, "output_size", 0))
    return gradient.graph.apply(op, gradient, weights, name=name)  # type: ignore[return-value]


@opdef.plain_function
def conv2d_weights_gradient(
    gradient: Any,
    x: Any,
    kernel_size: Any,
    *,
    strides: Any = 1,
    dilations: Any = 1,
    padding: Any = "valid",
    groups: int = 1,
    data_layout: str = "NCHW",
    weights_layout: str = "OIHW",
    accumulate: Any = None,
    name: str | None = None,
) -> Tensor:
    """Gradient of conv2d with respect to its weights, whose (kH, kW) are `kernel_size`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> g, x = graph.placeholder((1, 4, 6, 6)), graph.placeholder((1, 3, 8, 8))
        >>> nl.conv2d_weights_gradient(g, x, 3).shape
        (4, 3, 3, 3)
    """
    asked = "conv2d_weights_gradient"
    settings = make_settings(
        asked, 2, strides, dilations, padding, groups, data_layout, weights_layout, accumulate
    )
    gradient, x = operands(asked, gradient, x)
    op = ConvolutionWeightsGradient(settings, spatial_pair(kernel_size, 2, asked, "kernel_size"))
    return gradient.graph.apply(op, gradient, x, name=name)  # type: ignore[return-value]
