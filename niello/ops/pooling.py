"""The pooling functions that users call."""

from __future__ import annotations

from typing import Any

from niello.core.errors import AttributeValueError
from niello.graph import opdef
from niello.graph.tensor import Tensor
from niello.ops.pool import AveragePool, MaxPool, PoolSettings
from niello.ops.window import Layout, Window, as_padding, spatial_pair


def make_settings(
    asked: str,
    rank: int,
    kernel_size: Any,
    strides: Any,
    dilations: Any,
    padding: Any,
    ceil_mode: bool,
    data_layout: str,
) -> PoolSettings:
    """Checked settings of a pooling over `rank` spatial axes."""
    allowed = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}[rank]
    if data_layout not in allowed:
        raise AttributeValueError(
            asked, f"data_layout must be {' or '.join(allowed)}", received=repr(data_layout)
        )
    kernel = spatial_pair(kernel_size, rank, asked, "kernel_size")
    window = Window(
        kernel if strides is None else spatial_pair(strides, rank, asked, "strides"),
        spatial_pair(dilations, rank, asked, "dilations"),
        as_padding(padding, rank, asked),
        bool(ceil_mode),
    )
    return PoolSettings(kernel, window, Layout(data_layout))


@opdef.function
def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    *,
    strides: Any = None,
    dilations: Any = 1,
    padding: Any = "valid",
    ceil_mode: bool = False,
    data_layout: str = "NCHW",
    name: str | None = None,
) -> Tensor:
    """Maximum over windows of a [N, C, H, W] or [N, H, W, C] tensor; strides default to the kernel.

    Padding never wins; NaN does. The gradient goes to the first maximum of each window.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.max_pool2d(graph.placeholder((8, 28, 28, 32)), 2, data_layout="NHWC")
        <Tensor 'max_pool': float32[8, 14, 14, 32]>
    """
    settings = make_settings(
        "max_pool2d", 2, kernel_size, strides, dilations, padding, ceil_mode, data_layout
    )
    return x.graph.apply(MaxPool(settings), x, name=name)  # type: ignore[return-value]


@opdef.function
def average_pool2d(
    x: Tensor,
    kernel_size: Any,
    *,
    strides: Any = None,
    dilations: Any = 1,
    padding: Any = "valid",
    ceil_mode: bool = False,
    include_padding: bool = False,
    data_layout: str = "NCHW",
    name: str | None = None,
) -> Tensor:
    """Mean over windows of a [N, C, H, W] or [N, H, W, C] tensor; strides default to the kernel.

    With `include_padding` the padding counts as zeros, otherwise only elements of x are averaged; a
    window that holds none of them gives 0.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.average_pool2d(graph.placeholder((8, 32, 28, 28)), 3, strides=2, padding="same")
        <Tensor 'average_pool': float32[8, 32, 14, 14]>
    """
    settings = make_settings(
        "average_pool2d", 2, kernel_size, strides, dilations, padding, ceil_mode, data_layout
    )
    return x.graph.apply(AveragePool(settings, bool(include_padding)), x, name=name)  # type: ignore[return-value]


@opdef.function
def global_average_pool(
    x: Tensor, *, data_layout: str = "NCHW", keepdims: bool = True, name: str | None = None
) -> Tensor:
    """Mean of each channel over all spatial axes: [N, C, 1, 1] or [N, 1, 1, C], or [N, C] without
    `keepdims`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.global_average_pool(graph.placeholder((8, 512, 7, 7))).shape
        (8, 512, 1, 1)
    """
    axes = Layout(data_layout).spatial
    return opdef.functions()["mean"](x, axes=axes, keepdims=keepdims, name=name)  # type: ignore[no-any-return]


@opdef.function
def global_max_pool(
    x: Tensor, *, data_layout: str = "NCHW", keepdims: bool = True, name: str | None = None
) -> Tensor:
    """Maximum of each channel over all spatial axes: [N, C, 1, 1] or [N, 1, 1, C], or [N, C]
    without `keepdims`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((8, 7, 7, 512))
        >>> nl.global_max_pool(x, data_layout="NHWC", keepdims=False).shape
        (8, 512)
    """
    axes = Layout(data_layout).spatial
    return opdef.functions()["max"](x, axes=axes, keepdims=keepdims, name=name)  # type: ignore[no-any-return]
