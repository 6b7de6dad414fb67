"""Detection of objects: which boxes stay."""

from __future__ import annotations

from typing import Any

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer
from niello.frontends.coreml.suppression import suppressed


@layer("NonMaximumSuppression", fold=False)
def non_maximum_suppression(at: Layer) -> Any:
    """Boxes that overlap no better one, their scores, their numbers, and how many there are.

    Thresholds and the largest number may come as inputs, which must be known.
    """
    p = at.p

    def setting(i: int, otherwise: float) -> float:
        known = len(at.inputs) > i
        return float(at.known(at.value(i)).reshape(())) if known else float(otherwise)

    overlap, least = setting(2, p.iouThreshold), setting(3, p.scoreThreshold)
    most = int(setting(4, p.maxBoxes))
    *floats, indices, number = suppressed(
        at.tensor(0), at.tensor(1), most, overlap, least, bool(p.perClassSuppression)
    )
    return *floats, nl.cast(indices, nl.float32), nl.cast(number, nl.float32)
