"""Slices described by masks, as TensorFlow and MPSGraph describe them."""

from __future__ import annotations

from typing import Any

from niello.core.errors import AttributeValueError
from niello.graph.opdef import function
from niello.graph.tensor import Tensor
from niello.ops.movement import integers, tensor_of


def _bounds(
    asked: str,
    starts: Any,
    ends: Any,
    strides: Any,
    masks: tuple[int, int, int],
) -> tuple[list[int | None], list[int | None], list[int], list[int]]:
    """Starts, ends and strides as Python means them, and the axes that go."""
    first = list(integers(asked, starts, "a start"))
    last = list(integers(asked, ends, "an end"))
    steps = [1] * len(first) if strides is None else list(integers(asked, strides, "a stride"))
    if not len(first) == len(last) == len(steps):
        raise AttributeValueError(
            asked,
            "starts, ends and strides differ in number",
            received=f"{len(first)}, {len(last)} and {len(steps)}",
            advice="Give one of each for each sliced axis",
        )
    begin: list[int | None] = []
    end: list[int | None] = []
    gone = []
    start_mask, end_mask, squeeze_mask = masks
    for i, (a, b) in enumerate(zip(first, last, strict=True)):
        if squeeze_mask >> i & 1:
            gone.append(i)
            begin.append(a)
            end.append(None if a == -1 else a + 1)
            steps[i] = 1
            continue
        begin.append(None if start_mask >> i & 1 else a)
        end.append(None if end_mask >> i & 1 else b)
    return begin, end, steps, gone


@function
def strided_slice(
    x: Tensor,
    starts: Any,
    ends: Any,
    strides: Any = None,
    *,
    start_mask: int = 0,
    end_mask: int = 0,
    squeeze_mask: int = 0,
    name: str | None = None,
) -> Tensor:
    """`slice` of the first axes, with bit masks.

    Bit i of `start_mask` (`end_mask`) leaves that side of axis i open; bit i of `squeeze_mask`
    takes the one position at its start, and the axis goes. Raises AttributeValueError for lists of
    different lengths. As TensorFlow's strided_slice.

    Example:
        >>> import niello as nl
        >>> x = nl.Graph().placeholder((5, 4, 3))
        >>> nl.strided_slice(x, [1, 2], [9, 0], [2, 1], end_mask=1, squeeze_mask=2).shape
        (2, 3)
    """
    masks = (start_mask, end_mask, squeeze_mask)
    begin, end, steps, gone = _bounds("strided_slice", starts, ends, strides, masks)
    tensor_of("strided_slice", x)
    if not gone:
        return x.slice(begin, end, steps, name=name)  # type: ignore[no-any-return]
    return x.slice(begin, end, steps).squeeze(gone, name=name)  # type: ignore[no-any-return]


@function
def strided_slice_update(
    x: Tensor,
    update: Any,
    starts: Any,
    ends: Any,
    strides: Any = None,
    *,
    start_mask: int = 0,
    end_mask: int = 0,
    squeeze_mask: int = 0,
    name: str | None = None,
) -> Tensor:
    """`x` with `update` in place of what `strided_slice` with the same bounds takes.

    Raises ShapeError for an update of another shape. As TensorFlow's tensor_strided_slice_update.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> x, row = g.placeholder((5, 4)), g.placeholder((4,))
        >>> nl.strided_slice_update(x, row, [2], [0], squeeze_mask=1).shape
        (5, 4)
    """
    masks = (start_mask, end_mask, squeeze_mask)
    begin, end, steps, gone = _bounds("strided_slice_update", starts, ends, strides, masks)
    new = tensor_of("strided_slice_update", x).graph.as_tensor(update, dtype=x.dtype)
    if gone:
        new = new.expand_dims(gone)
    return x.slice_update(new, begin, end, steps, name=name)  # type: ignore[no-any-return]


@function
def narrow(x: Tensor, axis: int, start: int, length: int, *, name: str | None = None) -> Tensor:
    """`length` positions of one axis, from `start` on. As PyTorch's narrow.

    Raises AttributeValueError for a negative length.

    Example:
        >>> import niello as nl
        >>> nl.narrow(nl.Graph().placeholder((5, 4)), 0, 1, 3).shape
        (3, 4)
    """
    first, count = integers("narrow", (start, length), "a bound")
    if count < 0:
        raise AttributeValueError("narrow", "the length must not be negative", received=count)
    end = None if first < 0 and first + count == 0 else first + count
    return x.slice([first], [end], axes=[axis], name=name)  # type: ignore[no-any-return]
