"""Convolutions of one to three spatial axes, and transposed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.translations.movement import padded

Pairs = list[tuple[int, int]]


def window_padding(
    at: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Any
) -> Pairs:
    """(before, after) of each spatial axis, from `pads` or `auto_pad`."""
    count, auto = len(kernel), at.text("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = at.ints("pads", None) or [0] * (2 * count)
        return list(zip(pads[:count], pads[count:], strict=True))
    if auto == "VALID":
        return [(0, 0)] * count
    pairs = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        places = -(-size // stride)
        total = max(0, (places - 1) * stride + (k - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return pairs


def settings(at: Call, count: int) -> tuple[list[int], list[int]]:
    """Strides and dilations of a window over so many axes."""
    return at.ints("strides", None) or [1] * count, at.ints("dilations", None) or [1] * count


def convolve(
    x: nl.Tensor,
    weights: nl.Tensor,
    padding: Pairs,
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> nl.Tensor:
    """A convolution of one, two or three spatial axes, channels first."""
    count = len(padding)
    if count == 1:
        wide = convolve(
            nl.expand_dims(x, 2), nl.expand_dims(weights, 2), [(0, 0), *padding],
            [1, *strides], [1, *dilations], groups,
        )  # fmt: skip
        return nl.squeeze(wide, 2)
    function = nl.conv2d if count == 2 else nl.conv3d
    return function(
        x,
        weights,
        padding=tuple(padding),
        strides=tuple(strides),
        dilations=tuple(dilations),
        groups=groups,
    )


def with_bias(y: nl.Tensor, bias: nl.Tensor | None) -> nl.Tensor:
    """y plus one number for each channel (axis 1)."""
    if bias is None:
        return y
    assert y.shape is not None
    return nl.add(y, nl.reshape(bias, (1, -1, *(1,) * (len(y.shape) - 2))))


@translates("Conv")
def conv(at: Call) -> nl.Tensor:
    """Convolution, channels first."""
    y = convolution(at, at.tensor(0), at.tensor(1))
    return with_bias(y, at.optional(2))


def convolution(at: Call, x: nl.Tensor, weights: nl.Tensor) -> nl.Tensor:
    """The convolution that a node's attributes describe, of any two tensors."""
    sizes = at.spatial(x)
    kernel = at.sizes(weights)[2:]
    strides, dilations = settings(at, len(kernel))
    padding = window_padding(at, sizes, kernel, strides, dilations)
    return convolve(x, weights, padding, strides, dilations, at.integer("group", 1))


@translates("ConvTranspose")
def conv_transpose(at: Call) -> nl.Tensor:
    """Transposed convolution: the data gradient of a convolution."""
    kernel = at.shape(1)[2:]
    strides, dilations = settings(at, len(kernel))
    padding = _transposed_padding(at, at.spatial(at.value(0)), kernel, strides, dilations)
    y = _transposed(at, at.tensor(0), at.tensor(1), padding, strides, dilations)
    return with_bias(y, at.optional(2))


def _transposed_padding(
    at: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Any, dilations: Any
) -> Pairs:
    """How much is cut from both ends of each axis; less than nothing adds zeros."""
    count, auto = len(kernel), at.text("auto_pad", "NOTSET")
    extra = at.ints("output_padding", None) or [0] * count
    wanted = at.ints("output_shape", None)
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if wanted is None:
        pads = at.ints("pads", None) or [0] * (2 * count)
        return [(pads[i], pads[count + i] - extra[i]) for i in range(count)]
    pairs = []
    for i, target in enumerate(wanted[-count:]):
        full = strides[i] * (sizes[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1
        total = full - target
        half = total // 2
        upper = auto == "SAME_UPPER"
        before, after = (half, total - half) if upper else (total - half, half)
        pairs.append((before, after - extra[i]))
    return pairs


def _transposed(
    at: Call,
    x: nl.Tensor,
    weights: nl.Tensor,
    padding: Pairs,
    strides: Sequence[int],
    dilations: Sequence[int],
) -> nl.Tensor:
    if len(padding) == 1:
        wide = _transposed(
            at, nl.expand_dims(x, 2), nl.expand_dims(weights, 2), [(0, 0), *padding],
            [1, *strides], [1, *dilations],
        )  # fmt: skip
        return nl.squeeze(wide, 2)
    cut = tuple((max(0, before), max(0, after)) for before, after in padding)
    function = nl.conv_transpose2d if len(padding) == 2 else nl.conv_transpose3d
    y = function(
        x,
        weights,
        padding=cut,
        strides=tuple(strides),
        dilations=tuple(dilations),
        groups=at.integer("group", 1),
    )
    added = [(max(0, -before), max(0, -after)) for before, after in padding]
    return padded(y, [(0, 0), (0, 0), *added]) if any(map(any, added)) else y


@translates("DeformConv")
def deform_conv(at: Call) -> nl.Tensor:
    """Convolution whose kernel elements are moved by offsets (and weighted by a mask)."""
    x, weights, offset = at.tensor(0), at.tensor(1), at.tensor(2)
    (n, c, h, w), (o, _, kh, kw) = at.shape(0), at.shape(1)
    (sh, sw), (dh, dw) = settings(at, 2)
    pads = at.ints("pads", None) or [0] * 4
    parts, groups = at.integer("offset_group", 1), at.integer("group", 1)
    oh, ow = at.shape(2)[2:]
    kind = x.dtype.numpy
    rows = np.arange(oh)[None, None, :, None] * sh - pads[0]
    columns = np.arange(ow)[None, None, None, :] * sw - pads[1]
    rows = rows + (np.arange(kh) * dh)[:, None, None, None]
    columns = columns + (np.arange(kw) * dw)[None, :, None, None]
    moved = nl.reshape(offset, (n, parts, kh, kw, 2, oh, ow))
    dy, dx = (nl.squeeze(p, 4) for p in nl.split(moved, 2, 4))
    y = dy + at.constant(np.broadcast_to(rows, (kh, kw, oh, ow)).astype(kind))
    across = dx + at.constant(np.broadcast_to(columns, (kh, kw, oh, ow)).astype(kind))
    places = kh * kw * oh * ow
    flat_y, flat_x = (nl.reshape(t, (n, parts, 1, places)) for t in (y, across))
    pixels = nl.reshape(x, (n, parts, c // parts, h * w))
    sampled = bilinear(pixels, flat_y, flat_x, h, w)  # n, parts, c / parts, places
    if at.has(4):
        mask = nl.reshape(at.tensor(4), (n, parts, 1, places))
        sampled = sampled * mask
    # One product for each group: [o / g, c / g * kh * kw] x [c / g * kh * kw, oh * ow].
    columns_of = nl.reshape(sampled, (n, groups, (c // groups) * kh * kw, oh * ow))
    matrix = nl.reshape(weights, (1, groups, o // groups, (c // groups) * kh * kw))
    found = nl.reshape(nl.matmul(matrix, columns_of), (n, o, oh, ow))
    return with_bias(found, at.optional(3))


def bilinear(pixels: nl.Tensor, y: nl.Tensor, x: nl.Tensor, height: int, width: int) -> nl.Tensor:
    """Pixels [..., c, height * width] at the places y and x [..., 1, n], zeros outside."""
    total: nl.Tensor | None = None
    top, left = nl.floor(y), nl.floor(x)
    for down in (0, 1):
        for right in (0, 1):
            row, column = top + float(down), left + float(right)
            weight = (1.0 - nl.absolute(y - row)) * (1.0 - nl.absolute(x - column))
            inside = nl.logical_and(
                nl.logical_and(row >= 0.0, row <= float(height - 1)),
                nl.logical_and(column >= 0.0, column <= float(width - 1)),
            )
            place = nl.cast(row, nl.int64) * width + nl.cast(column, nl.int64)
            place = nl.select(inside, place, y.graph.constant(np.int64(0)))
            weight = nl.select(inside, weight, weight.graph.constant(np.zeros((), y.dtype.numpy)))
            assert pixels.shape is not None and place.shape is not None
            shape = (*pixels.shape[:-1], place.shape[-1])
            taken = nl.gather_along_axis(pixels, nl.broadcast_to(place, shape), -1)
            part = taken * weight
            total = part if total is None else total + part
    assert total is not None
    return total


@translates("Col2Im")
def col2im(at: Call) -> nl.Tensor:
    """Columns of windows added back into an image: the gradient of taking them."""
    image, block = at.known_ints(1), at.known_ints(2)
    count = len(image)
    strides, dilations = settings(at, count)
    pads = at.ints("pads", None) or [0] * (2 * count)
    n, rows, _ = at.shape(0)
    channels = rows // int(np.prod(block))
    padded_sizes = [image[i] + pads[i] + pads[count + i] for i in range(count)]
    places = [
        (padded_sizes[i] - (block[i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i in range(count)
    ]
    # The place in the padded image of each element of a window, for each window.
    grid = [
        (np.arange(block[i]) * dilations[i])[:, None] + (np.arange(places[i]) * strides[i])[None]
        for i in range(count)
    ]
    flat = np.zeros((1,) * (2 * count), np.int64)
    for i in range(count):
        shape = [1] * (2 * count)
        shape[i], shape[count + i] = block[i], places[i]
        flat = flat * padded_sizes[i] + grid[i].reshape(shape)
    columns = nl.reshape(at.tensor(0), (n, channels, -1))
    size = int(np.prod(padded_sizes))
    zeros = at.graph.constant(np.zeros((), columns.dtype.numpy), shape=(n, channels, size))
    index = at.constant(flat.reshape(-1))
    summed = nl.scatter(zeros, index, columns, 2, mode="add")
    full = nl.reshape(summed, (n, channels, *padded_sizes))
    starts = pads[:count]
    ends = [pads[i] + image[i] for i in range(count)]
    return nl.slice(full, starts, ends, axes=tuple(range(2, 2 + count)))
