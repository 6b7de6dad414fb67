"""Layers that resample images."""

from __future__ import annotations

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer
from niello.frontends.coreml.sampling import BOXES, MODES, bilinear, crops, nearest


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


@layer("cropResize")
def crop_resize(at: Layer) -> nl.Tensor:
    """Boxes of images, resized: of all images, or with five numbers of the one that the first
    names. [N, images, C, H, W]."""
    p, x, rois = at.p, at.images(), at.tensor(1)
    count, numbers = at.shape(1)[0], at.shape(1)[-3] if at.rank(1) == 5 else at.shape(1)[-1]
    if numbers not in (4, 5):
        raise at.refuse("boxes have four or five numbers", list(at.shape(1)))
    flat = nl.reshape(rois, (count, numbers))
    images = nl.cast(flat[:, 0], nl.int32) if numbers == 5 else None
    y = crops(
        x,
        flat[:, numbers - 4 :],
        images,
        [int(s) for s in p.targetSize] or [1, 1],
        mode=MODES[p.mode.samplingMethod],
        corners=BOXES[p.boxIndicesMode.boxMode],
        normalised=bool(p.normalizedCoordinates),
        scale=p.spatialScale or 1.0,
        outside=None,
    )
    return nl.expand_dims(y, 1) if images is not None else y
