"""Operators whose result has a shape that depends on values: they run while importing.

Their inputs are taken from the feeds of the run, through everything that computes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.evaluate import NeedsValue
from niello.frontends.onnx.registry import translates


@translates("NonZero", host=True)
def non_zero(at: Call) -> Any:
    """Places of elements that are not zero, one row for each axis."""
    x = at.array(0)
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64).reshape(x.ndim or 1, -1)


@translates("Compress", host=True)
def compress(at: Call) -> Any:
    """Slices along an axis, or elements, where a condition holds."""
    axis = at.integer("axis", None)
    return np.compress(at.array(1), at.array(0), axis)


@translates("Unique", host=True)
def unique(at: Call) -> Any:
    """Each element, or slice along an axis, once; places of the first, inverse, and counts."""
    x, axis = at.array(0), at.integer("axis", None)
    values, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not at.integer("sorted", 1):
        order = np.argsort(first)
        values = np.take(values, order, 0 if axis is None else axis)
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        first, counts, inverse = first[order], counts[order], places[inverse]
    return values, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


def suppressed_ahead(at: Call) -> dict[str, nl.Tensor] | None:
    """The boxes that stay in the largest result that there may be, and their number."""
    try:
        most, overlap, least = _settings(at)
    except NeedsValue:
        return None
    if most <= 0 or at.dtype(1) is not nl.float32:
        return None
    found = nl.non_max_suppression(
        at.tensor(0),
        at.tensor(1),
        max_output_boxes_per_class=most,
        iou_threshold=overlap,
        score_threshold=least if np.isfinite(least) else None,
        center_point_box=bool(at.integer("center_point_box", 0)),
    )
    return {"indices": found.indices, "number": found.number}


def _settings(at: Call) -> tuple[int, float, float]:
    """The largest number of boxes for each class, and the thresholds of overlap and score."""
    values = [
        at.importer.array(at.value(i), at).reshape(()).item() if at.has(i) else default
        for i, default in ((2, 0), (3, 0.0), (4, -np.inf))
    ]
    return int(values[0]), float(values[1]), float(values[2])


@translates("NonMaxSuppression", host=True, ahead=suppressed_ahead)
def non_max_suppression(at: Call) -> Any:
    """Boxes that overlap no better one by more than a threshold, for each batch and class.

    In a run the graph before finds them; here is cut off what is none.
    """
    indices, number = at.ahead("indices"), at.ahead("number")
    if indices is not None and number is not None:
        return np.ascontiguousarray(indices[: int(number.reshape(()))])
    most, overlap, least = _settings(at)
    boxes, scores = at.array(0), at.array(1)
    corners = _corners(boxes, bool(at.integer("center_point_box", 0)))
    found = []
    for batch in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            kept = kept_boxes(corners[batch], scores[batch, kind], most, overlap, least)
            found += [(batch, kind, int(i)) for i in kept]
    return np.array(found, np.int64).reshape(-1, 3)


def _corners(boxes: np.ndarray, centred: bool) -> np.ndarray:
    """(y1, x1, y2, x2) with the smaller corner first."""
    if centred:
        x, y, w, h = np.moveaxis(boxes, -1, 0)
        return np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    y1, x1, y2, x2 = np.moveaxis(boxes, -1, 0)
    low = np.minimum(y1, y2), np.minimum(x1, x2)
    return np.stack([*low, np.maximum(y1, y2), np.maximum(x1, x2)], -1)


def kept_boxes(
    boxes: np.ndarray, scores: np.ndarray, most: int, overlap: float, least: float
) -> list[int]:
    """Indices of the boxes that stay, best first."""
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > least] if np.isfinite(least) else order
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.prod(np.maximum(high - low, 0), -1)
        union = areas[best] + areas[order] - shared
        order = order[shared <= overlap * union]
    return kept
