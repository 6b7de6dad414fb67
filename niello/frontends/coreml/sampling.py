"""Sampling of images by the grids of Core ML: which places of the source each target takes."""

from __future__ import annotations

from collections.abc import Sequence

import niello as nl

# The modes of ML programs; the networks' sampling methods by number are the first four.
MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


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
