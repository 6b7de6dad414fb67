"""Gradients of poolings as functions of their own, and unpooling, over one to four axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from niello.core.errors import AttributeValueError
from niello.graph import opdef
from niello.graph.tensor import Tensor
from niello.ops.pool import MaxPoolGradient, PlaceAtIndices
from niello.ops.pool_average import AveragePoolGradient, LpPool
from niello.ops.pool_windows import check_index_mode
from niello.ops.pooling import counted_of, make_settings
from niello.ops.window import spatial_pair

COUNTS = (1, 2, 3, 4)


def _published(function: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return opdef.plain_function(function)


def _shapes(count: int) -> tuple[str, str]:
    """Shapes of an example: pooled by 2 and before."""
    outer = "" if count == 4 else "2, 3, "
    return outer + ", ".join(["4"] * count), outer + ", ".join(["8"] * count)


def _example(count: int, call: str) -> str:
    small, large = _shapes(count)
    return f"""
    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> g, x = graph.placeholder(({small})), graph.placeholder(({large}))
        >>> {call}
        ({large})
    """


def _make_max(count: int) -> Callable[..., Any]:
    asked = f"max_pool{count}d_gradient"

    def gradient_of_max(
        gradient: Tensor,
        x: Tensor,
        kernel_size: Any,
        *,
        strides: Any = None,
        dilations: Any = 1,
        padding: Any = "valid",
        ceil_mode: bool = False,
        data_layout: str | None = None,
        name: str | None = None,
    ) -> Tensor:
        settings = make_settings(
            asked, count, kernel_size, strides, dilations, padding, ceil_mode, data_layout
        )
        return x.graph.apply(MaxPoolGradient(settings), gradient, x, name=name)  # type: ignore[return-value]

    doc = f"""Gradient of max_pool{count}d with respect to x: each window's gradient at its first
    maximum, which is found again.
{_example(count, f"nl.{asked}(g, x, 2).shape")}"""
    return _published(gradient_of_max, asked, doc)


def _make_by_indices(count: int) -> Callable[..., Any]:
    asked = f"max_pool{count}d_gradient_by_indices"

    def gradient_by_indices(
        gradient: Tensor,
        indices: Tensor,
        output_size: Any,
        kernel_size: Any,
        *,
        strides: Any = None,
        dilations: Any = 1,
        padding: Any = "valid",
        ceil_mode: bool = False,
        data_layout: str | None = None,
        index_mode: str = "spatial",
        name: str | None = None,
    ) -> Tensor:
        settings = make_settings(
            asked, count, kernel_size, strides, dilations, padding, ceil_mode, data_layout
        )
        mode = check_index_mode(asked, index_mode)
        if isinstance(output_size, Tensor):
            op = PlaceAtIndices(settings, mode)
            return gradient.graph.apply(op, gradient, indices, output_size, name=name)  # type: ignore[return-value]
        sizes = spatial_pair(output_size, count, asked, "output_size", 0)
        op = PlaceAtIndices(settings, mode, sizes)
        return gradient.graph.apply(op, gradient, indices, name=name)  # type: ignore[return-value]

    call = f"nl.{asked}(g, g.cast(nl.int32), 8, 2).shape"
    doc = f"""Gradient of max_pool{count}d with respect to x, by the indices that it returned.

    `output_size` gives the sizes of the pooled axes of x, or is a tensor of x's shape (used for its
    shape only). The other settings and `index_mode` must be those of the pooling; an index that
    does not lie in its window adds nothing.
{_example(count, call)}"""
    return _published(gradient_by_indices, asked, doc)


def _make_average(count: int) -> Callable[..., Any]:
    asked = f"average_pool{count}d_gradient"

    def gradient_of_average(
        gradient: Tensor,
        x: Tensor,
        kernel_size: Any,
        *,
        strides: Any = None,
        dilations: Any = 1,
        padding: Any = "valid",
        ceil_mode: bool = False,
        include_padding: bool = False,
        data_layout: str | None = None,
        name: str | None = None,
    ) -> Tensor:
        settings = make_settings(
            asked, count, kernel_size, strides, dilations, padding, ceil_mode, data_layout
        )
        op = AveragePoolGradient(settings, counted_of(include_padding, None, asked))
        return x.graph.apply(op, gradient, x, name=name)  # type: ignore[return-value]

    doc = f"""Gradient of average_pool{count}d with respect to x, which gives its shape only.
{_example(count, f"nl.{asked}(g, x, 2).shape")}"""
    return _published(gradient_of_average, asked, doc)


def _make_lp(count: int) -> Callable[..., Any]:
    asked = f"lp_pool{count}d_gradient"

    def gradient_of_lp(
        gradient: Tensor,
        x: Tensor,
        kernel_size: Any,
        *,
        p: float = 2.0,
        strides: Any = None,
        dilations: Any = 1,
        padding: Any = "valid",
        ceil_mode: bool = False,
        data_layout: str | None = None,
    ) -> Tensor:
        if not 1 <= p < float("inf"):
            raise AttributeValueError(asked, "p must be at least 1 and finite", received=p)
        settings = make_settings(
            asked, count, kernel_size, strides, dilations, padding, ceil_mode, data_layout
        )
        op = LpPool(settings, float(p))
        y: Any = x.graph.apply(op, x)
        return op.grad((gradient,), (x,), (y,))[0]  # type: ignore[return-value]

    doc = f"""Gradient of lp_pool{count}d with respect to x; 0 for a window of zeros.
{_example(count, f"nl.{asked}(g, x, 2).shape")}"""
    return _published(gradient_of_lp, asked, doc)


(
    max_pool1d_gradient,
    max_pool2d_gradient,
    max_pool3d_gradient,
    max_pool4d_gradient,
) = map(_make_max, COUNTS)
(
    max_pool1d_gradient_by_indices,
    max_pool2d_gradient_by_indices,
    max_pool3d_gradient_by_indices,
    max_pool4d_gradient_by_indices,
) = map(_make_by_indices, COUNTS)
(
    average_pool1d_gradient,
    average_pool2d_gradient,
    average_pool3d_gradient,
    average_pool4d_gradient,
) = map(_make_average, COUNTS)
(
    lp_pool1d_gradient,
    lp_pool2d_gradient,
    lp_pool3d_gradient,
    lp_pool4d_gradient,
) = map(_make_lp, COUNTS)
