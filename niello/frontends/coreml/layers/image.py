"""Layers that resample images."""

from __future__ import annotations

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer
from niello.frontends.coreml.sampling import MODES, bilinear, nearest


@layer("upsample")
def upsample(at: Layer) -> nl.Tensor:
    """Height and width times a factor, by repeating or between neighbours."""
    p, shape = at.p, at.shape()
    factors = [float(f) for f in (p.fractionalScalingFactor or p.scalingFactor)] or [1.0, 1.0]
    target = [int(size * f) for size, f in zip(shape[-2:], factors, strict=True)]
    if p.mode == 0:
        return nearest(at.tensor(), target)
    mode = ("DEFAULT", "STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS")[p.linearUpsampleMode]
    return bilinear(at.tensor(), mode, target)


@layer("resizeBilinear")
def resize_bilinear(at: Layer) -> nl.Tensor:
    """Height and width of given sizes."""
    target = [int(s) for s in at.p.targetSize] or [1, 1]
    return bilinear(at.tensor(), MODES[at.p.mode.samplingMethod], target)
