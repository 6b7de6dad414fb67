"""The convolution functions that users call, over one, two or three axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from niello.core.errors import AttributeValueError, ShapeError
from niello.graph import opdef
from niello.graph.tensor import Tensor
from niello.ops.conv import (
    Convolution,
    ConvolutionDataGradient,
)
from niello.ops.conv_settings import ConvolutionSettings, WeightsLayout
from niello.ops.define import operands
from niello.ops.matmul import as_accumulate
from niello.ops.window import Layout, Window, as_padding, spatial_pair

DATA = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
WEIGHTS = {
    1: ("OIW", "WIO", "OWI"),
    2: ("OIHW", "HWIO", "OHWI"),
    3: ("OIDHW", "DHWIO", "ODHWI"),
}
AXES = (1, 2, 3)


def make_settings(
    asked: str,
    rank: int,
    strides: Any,
    dilations: Any,
    padding: Any,
    groups: int,
    data_layout: str | None,
    weights_layout: str | None,
    accumulate: Any = None,
) -> ConvolutionSettings:
    """Checked settings of a convolution over `rank` spatial axes."""
    data_layout = data_layout or DATA[rank][0]
    weights_layout = weights_layout or WEIGHTS[rank][0]
    for what, value, allowed in (
        ("data_layout", data_layout, DATA[rank]),
        ("weights_layout", weights_layout, WEIGHTS[rank]),
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


def published(function: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    """A function made for a number of axes, as niello.<name> and a method of Tensor."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return opdef.function(function)


def shape_words(count: int, first: str, last: str, channels_last: bool) -> str:
    """A shape in words: [N, C, H, W] or [N, H, W, C]."""
    spatial = list("DHW"[3 - count :])
    listed = [first, *spatial, last] if channels_last else [first, last, *spatial]
    return f"[{', '.join(listed)}]"


def weights_words(count: int) -> str:
    """Both layouts of weights in words."""
    kernel = [f"k{axis}" for axis in "DHW"[3 - count :]]
    first = ", ".join(["O", "C / groups", *kernel])
    return f"[{first}] or\n    [{', '.join([*kernel, 'C / groups', 'O'])}]"


def sizes_of(count: int, size: int) -> str:
    return ", ".join([str(size)] * count)


def _make_conv(count: int) -> Callable[..., Any]:
    asked = f"conv{count}d"

    def conv(
        x: Any,
        weights: Any,
        *,
        strides: Any = 1,
        dilations: Any = 1,
        padding: Any = "valid",
        groups: int = 1,
        data_layout: str | None = None,
        weights_layout: str | None = None,
        accumulate: Any = None,
        name: str | None = None,
    ) -> Tensor:
        settings = make_settings(
            asked, count, strides, dilations, padding, groups, data_layout, weights_layout,
            accumulate,
        )  # fmt: skip
        x, weights = operands(asked, x, weights)
        return x.graph.apply(Convolution(settings), x, weights, name=name)  # type: ignore[return-value]

    data, weights = DATA[count], WEIGHTS[count]
    doc = f"""{count}-D convolution (cross-correlation, as in ONNX Conv).

    x: {shape_words(count, "N", "C", False)} or {shape_words(count, "N", "C", True)} by
    `data_layout` ({data[0]}, the default, or {data[1]}); weights: {weights_words(count)}
    by `weights_layout` ({weights[0]}, the default, {weights[1]} or {weights[2]}). `padding` is
    "valid", "same", "same_lower", a number, one for each axis, or (before, after) for each axis.
    Half types accumulate in float32 unless `accumulate` names a wider dtype. Raises ShapeError,
    AttributeValueError, DTypeError.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((None, 3, {sizes_of(count, 8)}))
        >>> w = graph.placeholder((16, 3, {sizes_of(count, 3)}))
        >>> nl.{asked}(x, w, padding="same").shape
        (None, 16, {sizes_of(count, 8)})
    """
    return published(conv, asked, doc)


# --- transposed
def _make_transposed(count: int) -> Callable[..., Any]:
    asked = f"conv_transpose{count}d"

    def conv_transpose(
        x: Any,
        weights: Any,
        *,
        output_size: Any = None,
        strides: Any = 1,
        dilations: Any = 1,
        padding: Any = "valid",
        output_padding: Any = 0,
        groups: int = 1,
        data_layout: str | None = None,
        weights_layout: str | None = None,
        accumulate: Any = None,
        name: str | None = None,
    ) -> Tensor:
        settings = make_settings(
            asked, count, strides, dilations, padding, groups, data_layout, weights_layout,
            accumulate,
        )  # fmt: skip
        x, weights = operands(asked, x, weights)
        if isinstance(output_size, Tensor):
            op = ConvolutionDataGradient(settings)
            return x.graph.apply(op, x, weights, output_size, name=name)  # type: ignore[return-value]
        if output_size is None:
            extra = spatial_pair(output_padding, count, asked, "output_padding", 0)
            sizes = _transposed_sizes(asked, settings, x, weights, extra)
        else:
            sizes = spatial_pair(output_size, count, asked, "output_size", 0)
        op = ConvolutionDataGradient(settings, sizes)
        return x.graph.apply(op, x, weights, name=name)  # type: ignore[return-value]

    doc = f"""Transposed {count}-D convolution: the data gradient of conv{count}d.

    `weights` are those of that convolution, so x has its O channels and the result its C (PyTorch's
    and ONNX's layout [in, out / groups, ...]). The result's sizes are `output_size` (numbers, or a
    tensor of the result's shape, used for its shape only), or the smallest that fit plus
    `output_padding`; with "same" padding they are the sizes times the strides. Raises ShapeError
    when the sizes do not fit.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((1, 16, {sizes_of(count, 8)}))
        >>> w = graph.placeholder((16, 3, {sizes_of(count, 4)}))
        >>> nl.{asked}(x, w, strides=2, padding=1).shape
        (1, 3, {sizes_of(count, 16)})
    """
    return published(conv_transpose, asked, doc)


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


# --- depthwise
def depthwise_weights(asked: str, count: int, weights: Tensor, layout: str) -> tuple[Tensor, int]:
    """Weights [multiplier, C, ...] or [..., C, multiplier] as those of a convolution in C groups,
    and C. Raises ShapeError."""
    if weights.shape is None or len(weights.shape) != count + 2 or None in weights.shape:
        raise ShapeError(
            asked, "the shape of the weights must be known", received=repr(weights.type)
        )
    functions = opdef.functions()
    if layout == WEIGHTS[count][1]:
        *kernel, channels, multiplier = weights.shape
        return functions["reshape"](weights, (*kernel, 1, channels * multiplier)), channels  # type: ignore[operator,return-value]
    multiplier, channels, *kernel = weights.shape
    moved = functions["swap_axes"](weights, 0, 1)
    return functions["reshape"](moved, (channels * multiplier, 1, *kernel)), channels  # type: ignore[operator,return-value]


def _make_depthwise(count: int) -> Callable[..., Any]:
    asked = f"depthwise_conv{count}d"

    def depthwise_conv(
        x: Any,
        weights: Any,
        *,
        strides: Any = 1,
        dilations: Any = 1,
        padding: Any = "valid",
        data_layout: str | None = None,
        weights_layout: str | None = None,
        accumulate: Any = None,
        name: str | None = None,
    ) -> Tensor:
        weights_layout = weights_layout or WEIGHTS[count][0]
        x, weights = operands(asked, x, weights)
        shaped, channels = depthwise_weights(asked, count, weights, weights_layout)
        settings = make_settings(
            asked, count, strides, dilations, padding, channels, data_layout, weights_layout,
            accumulate,
        )  # fmt: skip
        return x.graph.apply(Convolution(settings), x, shaped, name=name)  # type: ignore[return-value]

    first, last = WEIGHTS[count][:2]
    kernel = ", ".join(f"k{axis}" for axis in "DHW"[3 - count :])
    doc = f"""Depthwise {count}-D convolution: each channel with `multiplier` filters of its own.

    weights: [multiplier, C, {kernel}] ({first}) or [{kernel}, C, multiplier] ({last}); the result
    has C * multiplier channels, channel c * multiplier + m from filter m of channel c.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((1, {sizes_of(count, 8)}, 6))
        >>> w = graph.placeholder(({sizes_of(count, 3)}, 6, 2))
        >>> nl.{asked}(
        ...     x, w, padding="same", data_layout="{DATA[count][1]}", weights_layout="{last}"
        ... ).shape
        (1, {sizes_of(count, 8)}, 12)
    """
    return published(depthwise_conv, asked, doc)


conv1d, conv2d, conv3d = map(_make_conv, AXES)
conv_transpose1d, conv_transpose2d, conv_transpose3d = map(_make_transposed, AXES)
depthwise_conv1d, depthwise_conv2d, depthwise_conv3d = map(_make_depthwise, AXES)
