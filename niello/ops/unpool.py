"""Unpooling: values back at the positions that max pooling took them from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from niello.core.errors import AttributeValueError, ShapeError
from niello.graph import opdef
from niello.graph.tensor import Tensor
from niello.ops.pooling import check_layout
from niello.ops.window import Layout, as_padding, spatial_pair

MODES = ("spatial", "tensor")


def _sizes(
    asked: str, have: tuple[int, ...], kernel: Any, strides: Any, padding: Any
) -> tuple[int, ...]:
    """The smallest sizes that the pooling may have had."""
    count = len(have)
    size = spatial_pair(kernel, count, asked, "kernel_size")
    step = size if strides is None else spatial_pair(strides, count, asked, "strides")
    pads = as_padding(padding, count, asked)
    if isinstance(pads, str):
        raise AttributeValueError(
            asked, "padding must be given in numbers", received=repr(padding),
            advice="Or give output_size",
        )  # fmt: skip
    rows = zip(have, size, step, pads, strict=True)
    return tuple((n - 1) * s + k - low - high for n, k, s, (low, high) in rows)


def _placed(
    values: Tensor, indices: Tensor, layout: Layout, sizes: Any, index_mode: str, name: str | None
) -> Tensor:
    """Zeros with values at their indices."""
    call = opdef.functions()
    batch, channels, have = layout.pick(values.type.static_shape)
    made = layout.build(batch, channels, sizes)
    start, given, axis = [math.prod(made)], [-1], 0
    if index_mode == "spatial":
        axis = layout.spatial[0]
        start, given = [batch, channels], [batch, channels]
        start.insert(axis, math.prod(sizes))
        given.insert(axis, math.prod(have))
    flat = call["scatter_along_axis"](
        tuple(start), call["reshape"](indices, given), call["reshape"](values, given), axis=axis
    )
    return call["reshape"](flat, made, name=name)  # type: ignore[no-any-return]


def _make_unpool(count: int) -> Callable[..., Any]:
    asked = f"max_unpool{count}d"

    def max_unpool(
        values: Tensor,
        indices: Tensor,
        kernel_size: Any,
        *,
        strides: Any = None,
        padding: Any = 0,
        output_size: Any = None,
        index_mode: str = "spatial",
        data_layout: str | None = None,
        name: str | None = None,
    ) -> Tensor:
        layout = check_layout(asked, count, data_layout)
        if index_mode not in MODES:
            raise AttributeValueError(
                asked, f"index_mode must be {' or '.join(MODES)}", received=repr(index_mode)
            )
        shape = values.shape
        if shape is None or len(shape) != count + 2 or None in shape:
            raise ShapeError(
                asked,
                f"values must be of a known shape with {count + 2} dimensions",
                received=repr(values.type),
            )
        if output_size is None:
            sizes = _sizes(asked, layout.pick(shape)[2], kernel_size, strides, padding)
        else:
            sizes = spatial_pair(output_size, count, asked, "output_size", 0)
        return _placed(values, indices, layout, sizes, index_mode, name)

    max_unpool.__name__ = max_unpool.__qualname__ = asked
    last = ", ".join(["8"] * count)
    max_unpool.__doc__ = f"""Zeros with `values` at `indices`, as max_pool{count}d returned them.

    The sizes are `output_size`, or the smallest that the pooling may have had. Indices count in the
    spatial axes ("spatial", PyTorch's MaxUnpool) or in the whole tensor ("tensor", ONNX's) of the
    result; of repeated ones the last stays. Raises ShapeError for values of unknown shape.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((2, 3, {last}))
        >>> values, indices = nl.max_pool{count}d(x, 2, return_indices=True)
        >>> nl.{asked}(values, indices, 2).shape
        (2, 3, {last})
    """
    return opdef.function(max_unpool)


max_unpool1d, max_unpool2d, max_unpool3d = map(_make_unpool, (1, 2, 3))
