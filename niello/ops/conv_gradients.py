"""Gradients of convolutions as functions of their own, over one, two or three axes.

    convNd_data_gradient(gradient, weights, output_size)      of convNd, with respect to x
    convNd_weights_gradient(gradient, x, kernel_size)         of convNd, with respect to weights
    conv_transposeNd_..., depthwise_convNd_...                of those

`output_size` and `kernel_size` are numbers, or a tensor that has the shape of the result and serves
for nothing else: then the sizes may be known at run time only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from niello.core.errors import ShapeError
from niello.graph import opdef
from niello.graph.tensor import Tensor
from niello.ops.conv import (
    Convolution,
    ConvolutionDataGradient,
    ConvolutionWeightsGradient,
)
from niello.ops.conv_settings import ConvolutionSettings
from niello.ops.convolve import (
    AXES,
    WEIGHTS,
    depthwise_weights,
    make_settings,
    published,
    sizes_of,
)
from niello.ops.define import operands
from niello.ops.window import spatial_pair


def _to_data(
    asked: str, settings: ConvolutionSettings, g: Tensor, w: Tensor, size: Any, name: str | None
) -> Tensor:
    if isinstance(size, Tensor):
        return g.graph.apply(ConvolutionDataGradient(settings), g, w, size, name=name)  # type: ignore[return-value]
    sizes = spatial_pair(size, len(settings.data.spatial), asked, "output_size", 0)
    return g.graph.apply(ConvolutionDataGradient(settings, sizes), g, w, name=name)  # type: ignore[return-value]


def _to_weights(
    asked: str, settings: ConvolutionSettings, g: Tensor, x: Tensor, size: Any, name: str | None
) -> Tensor:
    if isinstance(size, Tensor):
        return g.graph.apply(ConvolutionWeightsGradient(settings), g, x, size, name=name)  # type: ignore[return-value]
    kernel = spatial_pair(size, len(settings.data.spatial), asked, "kernel_size")
    return g.graph.apply(ConvolutionWeightsGradient(settings, kernel), g, x, name=name)  # type: ignore[return-value]


def _make_data(count: int) -> Callable[..., Any]:
    asked = f"conv{count}d_data_gradient"

    def data_gradient(
        gradient: Any,
        weights: Any,
        output_size: Any,
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
        gradient, weights = operands(asked, gradient, weights)
        return _to_data(asked, settings, gradient, weights, output_size, name)

    doc = f"""Gradient of conv{count}d with respect to its data.

    The spatial sizes of the data are `output_size`: numbers, or a tensor of the data's shape.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> g = graph.placeholder((1, 4, {sizes_of(count, 6)}))
        >>> w = graph.placeholder((4, 3, {sizes_of(count, 3)}))
        >>> nl.{asked}(g, w, 8).shape
        (1, 3, {sizes_of(count, 8)})
    """
    return published(data_gradient, asked, doc)


def _make_weights(count: int) -> Callable[..., Any]:
    asked = f"conv{count}d_weights_gradient"

    def weights_gradient(
        gradient: Any,
        x: Any,
        kernel_size: Any,
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
        gradient, x = operands(asked, gradient, x)
        return _to_weights(asked, settings, gradient, x, kernel_size, name)

    doc = f"""Gradient of conv{count}d with respect to its weights, whose spatial sizes are
    `kernel_size`: numbers, or a tensor of the weights' shape.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> g = graph.placeholder((1, 4, {sizes_of(count, 6)}))
        >>> x = graph.placeholder((1, 3, {sizes_of(count, 8)}))
        >>> nl.{asked}(g, x, 3).shape
        (4, 3, {sizes_of(count, 3)})
    """
    return published(weights_gradient, asked, doc)


# --- of transposed convolutions: the roles of data and result are swapped
def _make_transposed_data(count: int) -> Callable[..., Any]:
    asked = f"conv_transpose{count}d_data_gradient"

    def data_gradient(
        gradient: Any,
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
        gradient, weights = operands(asked, gradient, weights)
        return gradient.graph.apply(Convolution(settings), gradient, weights, name=name)  # type: ignore[return-value]

    doc = f"""Gradient of conv_transpose{count}d with respect to its data: the convolution of the
    gradient with the same weights and settings.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> g = graph.placeholder((1, 3, {sizes_of(count, 8)}))
        >>> w = graph.placeholder((4, 3, {sizes_of(count, 2)}))
        >>> nl.{asked}(g, w, strides=2).shape
        (1, 4, {sizes_of(count, 4)})
    """
    return published(data_gradient, asked, doc)


def _make_transposed_weights(count: int) -> Callable[..., Any]:
    asked = f"conv_transpose{count}d_weights_gradient"

    def weights_gradient(
        gradient: Any,
        x: Any,
        kernel_size: Any,
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
        gradient, x = operands(asked, gradient, x)
        return _to_weights(asked, settings, x, gradient, kernel_size, name)

    doc = f"""Gradient of conv_transpose{count}d with respect to its weights.

    Their spatial sizes are `kernel_size`: numbers, or a tensor of the weights' shape.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> g = graph.placeholder((1, 3, {sizes_of(count, 8)}))
        >>> x = graph.placeholder((1, 4, {sizes_of(count, 4)}))
        >>> nl.{asked}(g, x, 2, strides=2).shape
        (4, 3, {sizes_of(count, 2)})
    """
    return published(weights_gradient, asked, doc)


# --- of depthwise convolutions
def _make_depthwise_data(count: int) -> Callable[..., Any]:
    asked = f"depthwise_conv{count}d_data_gradient"

    def data_gradient(
        gradient: Any,
        weights: Any,
        output_size: Any,
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
        gradient, weights = operands(asked, gradient, weights)
        shaped, channels = depthwise_weights(asked, count, weights, weights_layout)
        settings = make_settings(
            asked, count, strides, dilations, padding, channels, data_layout, weights_layout,
            accumulate,
        )  # fmt: skip
        return _to_data(asked, settings, gradient, shaped, output_size, name)

    doc = f"""Gradient of depthwise_conv{count}d with respect to its data, whose spatial sizes are
    `output_size`: numbers, or a tensor of the data's shape.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> g = graph.placeholder((1, 6, {sizes_of(count, 6)}))
        >>> w = graph.placeholder((2, 3, {sizes_of(count, 3)}))
        >>> nl.{asked}(g, w, 8).shape
        (1, 3, {sizes_of(count, 8)})
    """
    return published(data_gradient, asked, doc)


def _make_depthwise_weights(count: int) -> Callable[..., Any]:
    asked = f"depthwise_conv{count}d_weights_gradient"

    def weights_gradient(
        gradient: Any,
        x: Any,
        kernel_size: Any,
        *,
        strides: Any = 1,
        dilations: Any = 1,
        padding: Any = "valid",
        data_layout: str | None = None,
        weights_layout: str | None = None,
        accumulate: Any = None,
        name: str | None = None,
    ) -> Tensor:
        gradient, x = operands(asked, gradient, x)
        kernel = spatial_pair(kernel_size, count, asked, "kernel_size")
        probe = make_settings(asked, count, 1, 1, 0, 1, data_layout, weights_layout)
        axis = probe.data.channel
        known = x.shape is not None and len(x.shape) == count + 2
        channels = x.shape[axis] if known and x.shape is not None else None
        outputs = gradient.shape[axis] if known and gradient.shape is not None else None
        if channels is None or outputs is None:
            raise ShapeError(
                asked,
                "the numbers of channels must be known",
                received=f"{gradient.type}, {x.type}",
            )
        settings = make_settings(
            asked, count, strides, dilations, padding, channels, data_layout, weights_layout,
            accumulate,
        )  # fmt: skip
        found = _to_weights(asked, settings, gradient, x, kernel, None)
        functions = opdef.functions()
        multiplier = outputs // channels
        if settings.weights.letters == WEIGHTS[count][1]:
            return functions["reshape"](found, (*kernel, channels, multiplier), name=name)  # type: ignore[no-any-return]
        apart = functions["reshape"](found, (channels, multiplier, *kernel))
        return functions["swap_axes"](apart, 0, 1, name=name)  # type: ignore[no-any-return]

    doc = f"""Gradient of depthwise_conv{count}d with respect to its weights.

    Their spatial sizes are `kernel_size`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> g = graph.placeholder((1, 6, {sizes_of(count, 6)}))
        >>> x = graph.placeholder((1, 3, {sizes_of(count, 8)}))
        >>> nl.{asked}(g, x, 3).shape
        (2, 3, {sizes_of(count, 3)})
    """
    return published(weights_gradient, asked, doc)


conv1d_data_gradient, conv2d_data_gradient, conv3d_data_gradient = map(_make_data, AXES)
conv1d_weights_gradient, conv2d_weights_gradient, conv3d_weights_gradient = map(_make_weights, AXES)
(
    conv_transpose1d_data_gradient,
    conv_transpose2d_data_gradient,
    conv_transpose3d_data_gradient,
) = map(_make_transposed_data, AXES)
(
    conv_transpose1d_weights_gradient,
    conv_transpose2d_weights_gradient,
    conv_transpose3d_weights_gradient,
) = map(_make_transposed_weights, AXES)
(
    depthwise_conv1d_data_gradient,
    depthwise_conv2d_data_gradient,
    depthwise_conv3d_data_gradient,
) = map(_make_depthwise_data, AXES)
(
    depthwise_conv1d_weights_gradient,
    depthwise_conv2d_weights_gradient,
    depthwise_conv3d_weights_gradient,
) = map(_make_depthwise_weights, AXES)
