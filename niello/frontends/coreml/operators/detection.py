"""Detection of objects: which boxes stay."""

from __future__ import annotations

from typing import Any

import niello as nl
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator
from niello.frontends.coreml.suppression import suppressed


@operator("non_maximum_suppression", fold=False)
def non_maximum_suppression(at: Op) -> Any:
    """Boxes that overlap no better one, their scores and their numbers.

    With a score threshold (until iOS 16) boxes are rows, and their number is the fourth result;
    without (from iOS 17 on) they are columns.
    """
    rows = at.has("score_threshold")
    boxes, scores = at.tensor("boxes"), at.tensor("scores")
    if not rows:
        boxes, scores = (nl.transpose(t, (0, 2, 1)) for t in (boxes, scores))
    least = at.real("score_threshold") if rows else None
    most, kinds = at.integer("max_boxes"), at.flag("per_class_suppression")
    places, kept, indices, number = suppressed(
        boxes, scores, most, at.real("iou_threshold"), least, kinds
    )
    if rows:
        return places, kept, indices, number
    return nl.transpose(places, (0, 2, 1)), nl.transpose(kept, (0, 2, 1)), indices
