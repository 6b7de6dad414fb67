"""Resizing of the last two axes."""

from __future__ import annotations

import niello as nl
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator
from niello.frontends.coreml.sampling import bilinear, nearest


def _scaled(at: Op) -> list[int]:
    factors = (at.real("scale_factor_height", 1.0), at.real("scale_factor_width", 1.0))
    return [int(size * f) for size, f in zip(at.shape()[-2:], factors, strict=True)]


def _target(at: Op) -> list[int]:
    return [at.integer("target_size_height", 1), at.integer("target_size_width", 1)]


@operator("upsample_nearest_neighbor")
def upsample_nearest(at: Op) -> nl.Tensor:
    """Repeated elements."""
    return nearest(at.tensor(), _scaled(at))


@operator("resize_nearest_neighbor")
def resize_nearest(at: Op) -> nl.Tensor:
    """The element at or before each place."""
    return nearest(at.tensor(), _target(at))


@operator("upsample_bilinear")
def upsample_bilinear(at: Op) -> nl.Tensor:
    """Between two neighbours along each axis, by a factor."""
    if at.flag("align_corners", True):
        mode = "STRICT_ALIGN_CORNERS"
    else:
        mode = "UNALIGN_CORNERS" if at.flag("half_pixel_centers", True) else "DEFAULT"
    return bilinear(at.tensor(), mode, _scaled(at))


@operator("resize_bilinear")
def resize_bilinear(at: Op) -> nl.Tensor:
    """Between two neighbours along each axis, to a size."""
    return bilinear(at.tensor(), at.text("sampling_mode", "DEFAULT"), _target(at))


@operator("resize")
def resize(at: Op) -> nl.Tensor:
    """The last axes to a size, 0 keeps one; between neighbours or the nearest."""
    shape, wanted = at.shape(), at.ints("shape")
    count = at.integer("resized_dims", len(wanted))
    wanted = [w or s for w, s in zip(wanted[-count:], shape[-count:], strict=True)]
    x = at.tensor()
    if count == 1:
        x, wanted = nl.expand_dims(x, -2), [1, *wanted]
    elif count > 2:
        raise at.refuse("resizes one or two axes", count)
    if at.text("interpolation_mode", "LINEAR") == "LINEAR":
        y = bilinear(x, at.text("sampling_mode", "DEFAULT"), wanted)
    else:
        y = nearest(x, wanted)
    return nl.squeeze(y, -2) if count == 1 else y
