"""Regions of interest."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates


@translates("RoiAlign")
def roi_align(at: Call) -> nl.Tensor:
    """Means (or maxima) of bilinear samples in the cells of a grid over each region.

    With `sampling_ratio` 0 the number of samples depends on the regions, whose values are then
    needed while importing.
    """
    samples = at.integer("sampling_ratio", 0)
    regions = at.constant(at.array(1)) if samples == 0 else at.tensor(1)
    count, kind = at.shape(1)[0], at.dtype(0)
    rows, columns = at.integer("output_height", 1), at.integer("output_width", 1)
    scale = at.real("spatial_scale", 1.0)
    default = "half_pixel" if at.version >= 16 else "output_half_pixel"
    half = at.text("coordinate_transformation_mode", default) == "half_pixel"
    x1, y1, x2, y2 = (
        nl.reshape(p * scale - (0.5 if half else 0.0), (count,)) for p in nl.split(regions, 4, 1)
    )
    height, width = y2 - y1, x2 - x1
    if not half:
        height, width = nl.maximum(height, 1.0), nl.maximum(width, 1.0)
    y, y_used = _samples(at, y1, height, rows, samples)
    x, x_used = _samples(at, x1, width, columns, samples)
    pixels = nl.gather(at.tensor(0), at.tensor(2), 0)  # regions, channels, h, w
    best = at.text("mode", "avg") == "max"
    found = _sampled(at, pixels, y, x, best)  # regions, channels, rows, sy, columns, sx
    used = nl.reshape(y_used, (count, 1, 1, -1, 1, 1)) * nl.reshape(x_used, (count, 1, 1, 1, 1, -1))
    if not best:
        total = nl.sum(found * used, (3, 5))
        return nl.cast(total / nl.sum(used, (3, 5)), kind)
    lowest = at.constant(np.asarray(-np.inf).astype(kind.numpy))
    return nl.max(nl.select(used > 0.0, found, lowest), (3, 5))


def _samples(
    at: Call, start: nl.Tensor, size: nl.Tensor, cells: int, samples: int
) -> tuple[nl.Tensor, nl.Tensor]:
    """Places [regions, cells, samples] along an axis; which samples [regions, samples] count."""
    graph = start.graph
    kind = start.dtype.numpy
    step = size / float(cells)
    if samples:
        number: nl.Tensor = graph.constant(np.full(at.shape(1)[0], samples).astype(kind))
        most = samples
    else:
        sizes = at.importer.array(step, at)
        counts = np.maximum(np.ceil(sizes), 1)
        number, most = graph.constant(counts.astype(kind)), int(counts.max(initial=1))
    column = nl.expand_dims(number, 1)
    index = graph.constant(np.arange(most).astype(kind)[None])
    inside = nl.expand_dims((index + 0.5) / column * nl.expand_dims(step, 1), 1)
    cell = nl.expand_dims(
        nl.expand_dims(step, 1) * graph.constant(np.arange(cells).astype(kind)), 2
    )
    places = nl.reshape(start, (-1, 1, 1)) + cell + inside
    return places, nl.cast(nl.less(index, column), start.dtype)


def _sampled(at: Call, pixels: nl.Tensor, y: nl.Tensor, x: nl.Tensor, best: bool) -> nl.Tensor:
    """Bilinear samples of pixels [r, c, h, w] at y [r, rows, sy] and x [r, columns, sx].

    With `best` a sample is the largest of its four weighted pixels, as ONNX defines the maximum.
    """
    r, c, h, w = at.sizes(pixels)
    rows, columns = at.sizes(y)[1:], at.sizes(x)[1:]
    total: Any = None
    tops, lefts = _neighbours(y, h), _neighbours(x, w)
    for row, row_weight in tops:
        for column, column_weight in lefts:
            place = nl.reshape(row, (r, -1, 1)) * w + nl.reshape(column, (r, 1, -1))
            weight = nl.reshape(row_weight, (r, -1, 1)) * nl.reshape(column_weight, (r, 1, -1))
            flat = nl.reshape(place, (r, 1, -1))
            wide = nl.broadcast_to(flat, (r, c, int(np.prod(rows)) * int(np.prod(columns))))
            taken = nl.gather_along_axis(nl.reshape(pixels, (r, c, h * w)), wide, -1)
            part = taken * nl.reshape(weight, (r, 1, -1))
            combine = nl.maximum if best else nl.add
            total = part if total is None else combine(total, part)
    return nl.reshape(total, (r, c, *rows, *columns))


def _neighbours(places: nl.Tensor, size: int) -> list[tuple[nl.Tensor, nl.Tensor]]:
    """The two pixels around each place with their weights; none from 1 beyond the edge on."""
    inside = nl.cast(nl.logical_and(places >= -1.0, places <= float(size)), places.dtype)
    place = nl.maximum(places, 0.0)
    low = nl.minimum(nl.floor(place), float(size - 1))
    high = nl.minimum(low + 1.0, float(size - 1))
    part = nl.select(nl.greater_equal(low, float(size - 1)), place * 0.0, place - low)
    return [
        (nl.cast(low, nl.int64), (1.0 - part) * inside),
        (nl.cast(high, nl.int64), part * inside),
    ]


@translates("MaxRoiPool")
def max_roi_pool(at: Call) -> nl.Tensor:
    """Maxima of the cells of a grid over each region, whose values must be known."""
    rows, columns = at.ints("pooled_shape")
    scale = at.real("spatial_scale", 1.0)
    x, (_, c, h, w) = at.tensor(0), at.shape(0)
    regions = at.array(1)
    made = []
    for batch, x1, y1, x2, y2 in regions:
        left, top, right, bottom = (int(np.floor(v * scale + 0.5)) for v in (x1, y1, x2, y2))
        ys = _cells(top, max(bottom - top + 1, 1), rows, h)
        xs = _cells(left, max(right - left + 1, 1), columns, w)
        cells = [_cell(at, x, int(batch), y, place, c) for y in ys for place in xs]
        made.append(nl.reshape(nl.stack(cells, 1), (c, rows, columns)))
    return nl.stack(made, 0)


def _cells(start: int, size: int, count: int, limit: int) -> list[tuple[int, int]]:
    edges = []
    for i in range(count):
        first = start + int(np.floor(i * size / count))
        last = start + int(np.ceil((i + 1) * size / count))
        edges.append((min(max(first, 0), limit), min(max(last, 0), limit)))
    return edges


def _cell(
    at: Call, x: nl.Tensor, batch: int, y: tuple[int, int], place: tuple[int, int], channels: int
) -> nl.Tensor:
    if y[0] >= y[1] or place[0] >= place[1]:
        return at.graph.constant(np.zeros((), x.dtype.numpy), shape=(channels,))
    part = nl.slice(x, [batch, y[0], place[0]], [batch + 1, y[1], place[1]], axes=(0, 2, 3))
    return nl.max(part, (0, 2, 3))
