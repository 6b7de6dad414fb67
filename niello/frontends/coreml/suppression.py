"""Non-maximum suppression as Core ML has it: by the best class of each box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import niello as nl


def suppressed(
    boxes: nl.Tensor, scores: nl.Tensor, most: int, overlap: float, least: float | None, kinds: bool
) -> Sequence[nl.Tensor]:
    """Boxes [n, most, 4] (x, y, width, height about their centres), their scores [n, most,
    classes], their numbers int32 [n, most] and how many int32 [n] are left of `boxes` [n, B, 4] and
    `scores` [n, B, classes].

    The largest score of a box counts, and must not be below `least`. With `kinds` boxes take away
    those of their own class only. Behind the last box are zeros, and -1 as numbers.
    """
    best = nl.max(scores, -1, keepdims=True)
    classes = nl.argmax(scores, -1, dtype=nl.int32)
    # The operation asks for more than its threshold.
    above = None if least is None else float(np.nextafter(np.float32(least), np.float32(-np.inf)))
    found = nl.non_maximum_suppression(
        boxes,
        best,
        classes,
        max_output=most,
        iou_threshold=overlap,
        score_threshold=above,
        per_class=kinds,
        coordinates="centers_width_first",
    )
    there = nl.expand_dims(found.indices >= 0, -1)
    safe = nl.maximum(found.indices, 0)
    kept = [
        nl.where(there, rows, rows.graph.constant(0, rows.dtype))
        for rows in (nl.gather(t, safe, 1, batch_dims=1) for t in (boxes, scores))
    ]
    return *kept, found.indices, found.number
