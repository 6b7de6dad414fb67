"""Sampling of images by the grids of Core ML: which places of the source each target takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import niello as nl

# The modes of ML programs; the networks' sampling methods by number are the first four.
MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")
# What the four numbers of a box are; the networks' modes by number are these.
BOXES = (
    "CORNERS_HEIGHT_FIRST",
    "CORNERS_WIDTH_FIRST",
    "CENTER_SIZE_HEIGHT_FIRST",
    "CENTER_SIZE_WIDTH_FIRST",
)


def line(mode: str, size: int, target: int) -> tuple[float, float]:
    """(first place, spacing) of a grid over `size` elements, by the formulas of the specification.

    Places are kept within the source when they are used.
    """
    if mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / target
        return 0.5 * delta, delta
    if mode == "UNALIGN_CORNERS":
        return 0.5 * size / target - 0.5, size / target
    if mode == "DEFAULT":
        return 0.0, size / target
    if target == 1:
        return ((size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0), 1.0
    return 0.0, (size - 1) / (target - 1)


def bilinear(x: nl.Tensor, mode: str, target: Sequence[int]) -> nl.Tensor:
    """The last two axes of x sampled at a grid of the mode, between two neighbours along each."""
    assert x.shape is not None
    rank = len(x.shape)
    sizes = [int(d) for d in x.shape[-2:] if d is not None]
    scales, offsets = [], []
    for size, wanted in zip(sizes, target, strict=True):
        start, spacing = line(mode, size, wanted)
        spacing = spacing or 1.0  # of one element, which every place takes
        scales.append(1.0 / spacing)
        offsets.append(-start / spacing)
    return nl.resize(
        x,
        tuple(target),
        scale=tuple(scales),
        offset=tuple(offsets),
        mode="linear",
        coordinates="explicit",
        axes=(rank - 2, rank - 1),
    )


def nearest(x: nl.Tensor, target: Sequence[int]) -> nl.Tensor:
    """The last two axes of x, each target element the source's at floor(i * size / target)."""
    assert x.shape is not None
    rank = len(x.shape)
    return nl.resize(
        x,
        tuple(target),
        mode="nearest",
        coordinates="asymmetric",
        rounding="floor",
        axes=(rank - 2, rank - 1),
    )


def _grid(start: nl.Tensor, end: nl.Tensor, mode: str, target: int) -> nl.Tensor:
    """Places [boxes, target] of a grid of the mode over the intervals [start, end]."""
    length = end - start
    if mode == "OFFSET_CORNERS":
        spacing = nl.maximum(length, 1.0) * (1.0 / target)
        first = start + spacing * 0.5
    elif mode == "UNALIGN_CORNERS":
        spacing = (length + 1.0) * (1.0 / target)
        first = start + spacing * 0.5 - 0.5
    elif mode == "DEFAULT":
        spacing, first = (length + 1.0) * (1.0 / target), start
    elif target == 1:
        spacing = length * 0.0
        first = (start + end) * 0.5 if mode == "ALIGN_CORNERS" else start
    else:
        spacing, first = length * (1.0 / (target - 1)), start
    steps = start.graph.constant(np.arange(target, dtype=np.float32))
    return nl.expand_dims(first, 1) + nl.expand_dims(spacing, 1) * steps


def crops(
    x: nl.Tensor,
    boxes: nl.Tensor,
    images: nl.Tensor | None,
    target: Sequence[int],
    *,
    mode: str,
    corners: str,
    normalised: bool,
    scale: float,
    outside: float | None,
) -> nl.Tensor:
    """Parts of images, resized: [N, C, *target] of those that `images` (int32 [N]) names of x [B,
    C, H, W], or [N, B, C, *target] of all of them without it.

    `boxes` is [N, 4], `corners` one of BOXES. Places beyond the image repeat its edge, or hold the
    number `outside`.
    """
    batch, channels, height, width = (int(d) for d in x.shape or () if d is not None)
    a, b, c, d = (nl.cast(boxes[:, i], nl.float32) * scale for i in range(4))
    if corners.endswith("WIDTH_FIRST"):
        a, b, c, d = b, a, d, c
    if corners.startswith("CENTER"):
        a, b, c, d = a - c * 0.5, b - d * 0.5, a + c * 0.5, b + d * 0.5
    if normalised:
        a, c = a * (height - 1.0), c * (height - 1.0)
        b, d = b * (width - 1.0), d * (width - 1.0)
    rows, columns = _grid(a, c, mode, target[0]), _grid(b, d, mode, target[1])
    count = int((boxes.shape or (0,))[0] or 0)
    full = (count, *target)
    grid = nl.stack(
        [
            nl.broadcast_to(nl.expand_dims(columns, 1), full),
            nl.broadcast_to(nl.expand_dims(rows, 2), full),
        ],
        3,
    )
    source = x
    if images is not None:
        source = nl.gather(x, images, 0)
    elif batch != 1:
        source = nl.tile(x, (count, 1, 1, 1))
        spread = nl.broadcast_to(nl.expand_dims(grid, 1), (count, batch, *target, 2))
        grid = nl.reshape(spread, (-1, *target, 2))
    else:
        source = nl.broadcast_to(x, (count, channels, height, width))
    place = nl.cast(grid, source.dtype)
    y = nl.grid_sample(source, place, padding="border", normalised=False)
    if outside is not None:
        column, row = grid[..., 0], grid[..., 1]
        beyond = nl.logical_or(
            nl.logical_or(nl.less(column, 0.0), nl.greater(column, width - 1.0)),
            nl.logical_or(nl.less(row, 0.0), nl.greater(row, height - 1.0)),
        )
        y = nl.where(nl.expand_dims(beyond, 1), y.graph.constant(outside, y.dtype), y)
    return y if images is not None else nl.reshape(y, (count, batch, channels, *target))
