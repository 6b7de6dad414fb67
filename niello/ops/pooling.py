"""The pooling functions that users call, over one, two, three or four axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from niello.core import dtypes
from niello.core.errors import AttributeValueError, DTypeError
from niello.graph import opdef
from niello.graph.tensor import Tensor
from niello.ops.pool import INDEX_DTYPES, MaxPool, MaxPoolIndices
from niello.ops.pool_average import AveragePool, LpPool
from niello.ops.pool_windows import Adaptive, PoolSettings, Sliding, check_index_mode
from niello.ops.window import Layout, Window, as_padding, spatial_pair

_LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}


def check_layout(asked: str, count: int, data_layout: str | None) -> Layout:
    """The layout of a tensor with `count` spatial axes; channels first unless named otherwise."""
    allowed = _LAYOUTS[count]
    if data_layout is not None and data_layout not in allowed:
        raise AttributeValueError(
            asked, f"data_layout must be {' or '.join(allowed)}", received=repr(data_layout)
        )
    return Layout(data_layout or allowed[0])


def _axes(asked: str, count: int, data_layout: str | None) -> tuple[tuple[int, ...], int]:
    """The pooled axes and the rank of the tensor."""
    if count == 4:
        return (0, 1, 2, 3), 4
    return check_layout(asked, count, data_layout).spatial, count + 2


def make_settings(
    asked: str,
    count: int,
    kernel_size: Any,
    strides: Any,
    dilations: Any,
    padding: Any,
    ceil_mode: bool,
    data_layout: str | None,
) -> PoolSettings:
    """Checked settings of a pooling over `count` axes."""
    kernel = spatial_pair(kernel_size, count, asked, "kernel_size")
    window = Window(
        kernel if strides is None else spatial_pair(strides, count, asked, "strides"),
        spatial_pair(dilations, count, asked, "dilations"),
        as_padding(padding, count, asked),
        bool(ceil_mode),
    )
    return PoolSettings(Sliding(kernel, window), *_axes(asked, count, data_layout))


def _index_dtype(asked: str, value: Any) -> dtypes.DType:
    found = dtypes.dtype(value)
    if found not in INDEX_DTYPES:
        raise DTypeError(
            asked,
            "indices are int32 or int64",
            received=found.name,
            advice="Cast them afterwards",
            dtype=found,
        )
    return found


def counted_of(include_padding: bool, divisor: Any, asked: str) -> str:
    if divisor is None:
        return "padded" if include_padding else "inside"
    if not divisor:
        raise AttributeValueError(asked, "the divisor must not be 0", received=repr(divisor))
    return "none"


def _published(function: Callable[..., Any], stem: str, count: int, doc: str) -> Callable[..., Any]:
    """`function` as niello.<stem><count>d, with a docstring for its number of axes."""
    size = {1: "16", 2: "28, 28", 3: "8, 8, 8", 4: ""}[count]
    shape = f"2, 4, {size}" if size else "2, 4, 8, 8"
    function.__name__ = function.__qualname__ = f"{stem}{count}d"
    layouts = " or ".join(f"[{', '.join(name)}]" for name in _LAYOUTS.get(count, ()))
    where = f"a {layouts} tensor" if layouts else "all axes of a tensor of rank 4"
    function.__doc__ = doc.format(count=count, where=where, shape=shape, name=f"{stem}{count}d")
    return opdef.function(function)


_MAX_DOC = """Maximum over windows of {where}; strides default to the kernel.

    `padding` is "valid", "same", "same_lower", a number, one for each axis, or (before, after) for
    each axis. Padding never wins; NaN does. The gradient goes to the first maximum of each window.
    With `return_indices` the result is (values, indices): flat indices of the first maxima, -1 for
    a window of padding only, counted by `index_mode` in the pooled axes ("spatial", as PyTorch),
    the whole tensor ("tensor", as ONNX), the innermost n axes ("global_1d" to "global_4d"), or the
    innermost n axes of the window ("local_1d" to "local_4d"). Raises ShapeError for a window that
    does not fit, AttributeValueError for an unknown mode or layout.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder(({shape}))
        >>> values, indices = nl.{name}(x, 2, return_indices=True)
        >>> values.shape == indices.shape
        True
    """

_AVERAGE_DOC = """Mean over windows of {where}; strides default to the kernel.

    With `include_padding` the padding counts as zeros, otherwise only elements of x are averaged; a
    window that holds none of them gives 0. A `divisor` replaces the number of elements (PyTorch's
    divisor_override).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder(({shape}))
        >>> nl.{name}(x, 3, strides=2, padding="same", include_padding=True).rank
        {rank}
    """

_LP_DOC = """The p-norm over windows of {where}: sum(|x|**p)**(1/p), p = 2 by default.

    Padding counts as zeros (ONNX LpPool). The gradient of a window of zeros is 0. Raises
    AttributeValueError unless p is at least 1 and finite.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.{name}(graph.placeholder(({shape})), 2).dtype
        niello.float32
    """


def _make_max(count: int) -> Callable[..., Any]:
    def max_pool(
        x: Tensor,
        kernel_size: Any,
        *,
        strides: Any = None,
        dilations: Any = 1,
        padding: Any = "valid",
        ceil_mode: bool = False,
        data_layout: str | None = None,
        return_indices: bool = False,
        index_mode: str = "spatial",
        index_dtype: Any = dtypes.int32,
        name: str | None = None,
    ) -> Any:
        asked = f"max_pool{count}d"
        settings = make_settings(
            asked, count, kernel_size, strides, dilations, padding, ceil_mode, data_layout
        )
        values = x.graph.apply(MaxPool(settings), x, name=name)
        if not return_indices:
            return values
        found = MaxPoolIndices(
            settings, check_index_mode(asked, index_mode), _index_dtype(asked, index_dtype)
        )
        return values, x.graph.apply(found, x)

    return _published(max_pool, "max_pool", count, _MAX_DOC)


def _make_average(count: int) -> Callable[..., Any]:
    def average_pool(
        x: Tensor,
        kernel_size: Any,
        *,
        strides: Any = None,
        dilations: Any = 1,
        padding: Any = "valid",
        ceil_mode: bool = False,
        include_padding: bool = False,
        divisor: float | None = None,
        data_layout: str | None = None,
        name: str | None = None,
    ) -> Tensor:
        asked = f"average_pool{count}d"
        settings = make_settings(
            asked, count, kernel_size, strides, dilations, padding, ceil_mode, data_layout
        )
        op = AveragePool(settings, counted_of(include_padding, divisor, asked))
        found: Any = x.graph.apply(op, x, name=name if divisor is None else None)
        if divisor is None:
            return found  # type: ignore[no-any-return]
        return opdef.functions()["divide"](found, float(divisor), name=name)  # type: ignore[no-any-return]

    doc = _AVERAGE_DOC.replace("{rank}", str(count + 2 if count < 4 else 4))
    return _published(average_pool, "average_pool", count, doc)


def _make_lp(count: int) -> Callable[..., Any]:
    def lp_pool(
        x: Tensor,
        kernel_size: Any,
        *,
        p: float = 2.0,
        strides: Any = None,
        dilations: Any = 1,
        padding: Any = "valid",
        ceil_mode: bool = False,
        data_layout: str | None = None,
        name: str | None = None,
    ) -> Tensor:
        asked = f"lp_pool{count}d"
        if not 1 <= p < float("inf"):
            raise AttributeValueError(asked, "p must be at least 1 and finite", received=p)
        settings = make_settings(
            asked, count, kernel_size, strides, dilations, padding, ceil_mode, data_layout
        )
        return x.graph.apply(LpPool(settings, float(p)), x, name=name)  # type: ignore[return-value]

    return _published(lp_pool, "lp_pool", count, _LP_DOC)


max_pool1d, max_pool2d, max_pool3d, max_pool4d = map(_make_max, (1, 2, 3, 4))
average_pool1d, average_pool2d, average_pool3d, average_pool4d = map(_make_average, (1, 2, 3, 4))
lp_pool1d, lp_pool2d, lp_pool3d, lp_pool4d = map(_make_lp, (1, 2, 3, 4))


# --- adaptive
def _adaptive(x: Tensor, output_size: Any, count: int, asked: str, layout: Any) -> PoolSettings:
    axes, rank = _axes(asked, count, layout)
    listed = list(output_size) if isinstance(output_size, Iterable) else [output_size] * len(axes)
    if len(listed) == len(axes) and x.shape is not None and len(x.shape) == rank:
        listed = [x.shape[a] if s is None else s for a, s in zip(axes, listed, strict=True)]
    return PoolSettings(Adaptive(spatial_pair(listed, count, asked, "output_size")), axes, rank)


_ADAPTIVE_DOC = """{what} over windows that divide {where} evenly into `output_size` of them.

    Window o of m over n elements runs from floor(o * n / m) to ceil((o + 1) * n / m), as in
    PyTorch. None in `output_size` keeps the size of that axis, which must be known.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.{name}(graph.placeholder(({shape})), 3).shape[2]
        3
    """


def _make_adaptive_average(count: int) -> Callable[..., Any]:
    def adaptive_average_pool(
        x: Tensor, output_size: Any, *, data_layout: str | None = None, name: str | None = None
    ) -> Tensor:
        asked = f"adaptive_average_pool{count}d"
        settings = _adaptive(x, output_size, count, asked, data_layout)
        return x.graph.apply(AveragePool(settings, "inside"), x, name=name)  # type: ignore[return-value]

    doc = _ADAPTIVE_DOC.replace("{what}", "Mean")
    return _published(adaptive_average_pool, "adaptive_average_pool", count, doc)


def _make_adaptive_max(count: int) -> Callable[..., Any]:
    def adaptive_max_pool(
        x: Tensor,
        output_size: Any,
        *,
        data_layout: str | None = None,
        return_indices: bool = False,
        index_mode: str = "spatial",
        index_dtype: Any = dtypes.int32,
        name: str | None = None,
    ) -> Any:
        asked = f"adaptive_max_pool{count}d"
        settings = _adaptive(x, output_size, count, asked, data_layout)
        values = x.graph.apply(MaxPool(settings), x, name=name)
        if not return_indices:
            return values
        mode, kind = check_index_mode(asked, index_mode), _index_dtype(asked, index_dtype)
        return values, x.graph.apply(MaxPoolIndices(settings, mode, kind), x)

    doc = _ADAPTIVE_DOC.replace("{what}", "Maximum")
    return _published(adaptive_max_pool, "adaptive_max_pool", count, doc)


adaptive_average_pool1d, adaptive_average_pool2d, adaptive_average_pool3d = map(
    _make_adaptive_average, (1, 2, 3)
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = map(_make_adaptive_max, (1, 2, 3))


# --- global
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


@opdef.function
def global_lp_pool(
    x: Tensor,
    *,
    p: float = 2.0,
    data_layout: str = "NCHW",
    keepdims: bool = True,
    name: str | None = None,
) -> Tensor:
    """The p-norm of each channel over all spatial axes (ONNX GlobalLpPool).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.global_lp_pool(graph.placeholder((8, 512, 7, 7))).shape
        (8, 512, 1, 1)
    """
    call = opdef.functions()
    axes = Layout(data_layout).spatial
    if p == 2.0:
        total = call["sum"](call["square"](x), axes=axes, keepdims=keepdims)
        return call["sqrt"](total, name=name)  # type: ignore[no-any-return]
    total = call["sum"](call["power"](call["absolute"](x), p), axes=axes, keepdims=keepdims)
    return call["power"](total, 1.0 / p, name=name)  # type: ignore[no-any-return]
