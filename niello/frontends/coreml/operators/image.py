"""Resizing of the last two axes, and sampling at computed places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import niello as nl
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator
from niello.frontends.coreml.sampling import BOXES, MODES, bilinear, crops, nearest


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


def _one_of(at: Op, name: str, default: str, allowed: Sequence[str]) -> str:
    found = at.text(name, default)
    if found not in allowed:
        raise at.refuse(f"there is no such {name}", repr(found), f"Use one of {', '.join(allowed)}")
    return found


@operator("crop_resize")
def crop_resize(at: Op) -> nl.Tensor:
    """Boxes of images, resized. Until iOS 16 boxes are `roi` [N, 1, 4 or 5, 1, 1]; then [N, 4],
    with the numbers of their images beside them."""
    images = None
    if at.has("roi"):
        count, numbers = at.shape("roi")[0], at.shape("roi")[2]
        boxes = nl.reshape(at.tensor("roi"), (count, numbers))
        if numbers == 5:
            images, boxes = nl.cast(boxes[:, 0], nl.int32), boxes[:, 1:]
    else:
        boxes = at.tensor("boxes")
        given = at.optional("box_indices")
        count = at.shape("boxes")[0]
        images = at.constant(np.arange(count), np.int32) if given is None else given
        images = nl.cast(images, nl.int32)
    # The oldest version has no value for what is outside, and repeats the edge.
    y = crops(
        at.tensor(),
        boxes,
        images,
        [at.integer("target_height", 1), at.integer("target_width", 1)],
        mode=_one_of(at, "sampling_mode", "DEFAULT", MODES),
        corners=_one_of(at, "box_coordinate_mode", BOXES[0], BOXES),
        normalised=at.flag("normalized_coordinates"),
        scale=at.real("spatial_scale", 1.0),
        outside=at.real("pad_value") if at.has("pad_value") else None,
    )
    return nl.expand_dims(y, 1) if at.has("roi") and images is not None else y


def _sampled(at: Op, x: nl.Tensor, grid: nl.Tensor, mode: str, normalised: bool) -> nl.Tensor:
    paddings = {
        "constant": "constant", "border": "border", "reflection": "reflect",
        "symmetric": "symmetric",
    }  # fmt: skip
    padding = paddings[_one_of(at, "padding_mode", "constant", tuple(paddings))]
    return nl.grid_sample(
        x,
        nl.cast(grid, x.dtype),
        mode="nearest" if mode == "nearest" else "linear",
        padding=padding,
        value=at.real("padding_value") if padding == "constant" else 0.0,
        align_corners=at.flag("align_corners") or not normalised,
        normalised=normalised,
    )


_PLACES = ("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one")


@operator("resample")
def resample(at: Op) -> nl.Tensor:
    """An image at places that the second input holds as (x, y)."""
    kind = _one_of(at, "coordinates_mode", _PLACES[1], _PLACES)
    mode = _one_of(at, "sampling_mode", "bilinear", ("bilinear", "nearest"))
    grid = nl.cast(at.tensor("coordinates"), nl.float32)
    if kind == "normalized_zero_to_one":
        grid = grid * 2.0 - 1.0
    return _sampled(at, at.tensor(), grid, mode, kind != "unnormalized")


@operator("affine")
def affine(at: Op) -> nl.Tensor:
    """An image at places that a linear map of the result's own places gives, from -1 to 1."""
    kind = _one_of(at, "coordinates_mode", _PLACES[1], _PLACES)
    mode = _one_of(at, "sampling_mode", "bilinear", ("bilinear", "nearest"))
    x, matrix, batch = at.tensor(), at.tensor("transform_matrix"), at.shape()[0]
    if at.shape("transform_matrix")[0] != batch:
        matrix = nl.broadcast_to(matrix, (batch, 6))
    height, width = at.integer("output_height"), at.integer("output_width")
    corners = at.flag("align_corners")
    lines = [_line(n, kind, corners) for n in (width, height)]
    grid = np.stack([*np.broadcast_arrays(lines[0][None, :], lines[1][:, None])], -1)
    ones = np.concatenate([grid, np.ones((height, width, 1), np.float32)], -1)
    rows = at.constant(ones.reshape(1, height * width, 3), np.float32)
    theta = nl.reshape(nl.cast(matrix, nl.float32), (batch, 2, 3))
    places = nl.reshape(
        nl.matmul(
            nl.broadcast_to(rows, (batch, height * width, 3)), nl.transpose(theta, (0, 2, 1))
        ),
        (batch, height, width, 2),
    )
    if kind == "normalized_zero_to_one":
        places = places * 2.0 - 1.0
    return _sampled(at, x, places, mode, kind != "unnormalized")


def _line(count: int, kind: str, corners: bool) -> np.ndarray:
    """The places of the elements of a result, in the coordinates of the kind."""
    numbers = np.arange(count, dtype=np.float32)
    if kind == "unnormalized":
        return numbers
    share = numbers / max(1, count - 1) if corners else (numbers + 0.5) / count
    return share if kind == "normalized_zero_to_one" else share * 2 - 1
