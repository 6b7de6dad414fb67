"""Pooling over two and three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.layers.convolution import (
    Pairs,
    border,
    custom_padding,
    same_padding,
    settings,
    three,
)
from niello.frontends.coreml.registry import layer


def complete(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: Pairs
) -> tuple[Pairs, Pairs]:
    """Padding so that the last element is in a window, and how much of it no average counts.

    Windows that would begin in the padding after the end are left out, as Caffe has it.
    """
    made, uncounted = [], []
    for size, k, stride, (before, after) in zip(sizes, kernel, strides, padding, strict=True):
        places = -(-max(0, size + before + after - k) // stride) + 1
        if before + after and (places - 1) * stride >= size + before:
            places -= 1
        last = (places - 1) * stride + k - size - before
        made.append((before, max(0, last)))
        uncounted.append((0, max(0, last - after)))
    return made, uncounted


def counts(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Pairs,
    uncounted: Pairs,
) -> np.ndarray:
    """How many elements each window averages over."""
    total = np.ones((1, 1), np.float32)
    for i, (size, k, stride) in enumerate(zip(sizes, kernel, strides, strict=True)):
        before, after = padding[i]
        counted = np.ones(size + before + after, np.float32)
        if uncounted[i][1]:
            counted[-uncounted[i][1] :] = 0
        starts = range(0, counted.size - k + 1, stride)
        line = np.array([counted[s : s + k].sum() for s in starts], np.float32)
        total = total[..., None] * line
    return total


def pooled(
    at: Any,
    x: nl.Tensor,
    kind: str,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Pairs,
    uncounted: Pairs | None = None,
    exclude: bool = False,
) -> nl.Tensor:
    """Windows of x as maxima ("max"), means ("average") or the roots of sums of squares ("l2")."""
    count = len(kernel)
    options = {"strides": tuple(strides), "padding": tuple(padding)}
    if kind == "max":
        return getattr(nl, f"max_pool{count}d")(x, tuple(kernel), **options)  # type: ignore[no-any-return]
    if kind == "l2":
        return getattr(nl, f"lp_pool{count}d")(x, tuple(kernel), p=2.0, **options)  # type: ignore[no-any-return]
    function = getattr(nl, f"average_pool{count}d")
    if exclude or not any(map(any, padding)):
        return function(x, tuple(kernel), include_padding=False, **options)  # type: ignore[no-any-return]
    y: nl.Tensor = function(x, tuple(kernel), include_padding=True, **options)
    if uncounted and any(map(any, uncounted)):
        number = counts(at.sizes(x)[2:], kernel, strides, padding, uncounted)
        y = y * at.constant((float(np.prod(kernel)) / number).astype(x.dtype.numpy))
    return y


@layer("pooling")
def pooling(at: Layer) -> nl.Tensor:
    """Maxima, means or root of sums of squares of windows over height and width."""
    p = at.p
    kind = ("max", "average", "l2")[p.type]
    x = at.images()
    if p.globalPooling:
        return at.like(_whole(x, kind, (2, 3)))
    kernel, strides = settings(p.kernelSize, 3), settings(p.stride)
    sizes = at.sizes(x)[2:]
    uncounted = None
    padding_kind = p.WhichOneof("PoolingPaddingType")
    if padding_kind == "same":
        padding = same_padding(sizes, kernel, strides, [1, 1], p.same.asymmetryMode == 1)
    elif padding_kind == "includeLastPixel":
        each = settings(p.includeLastPixel.paddingAmounts, 0)
        padding, uncounted = complete(sizes, kernel, strides, [(a, a) for a in each])
    else:
        padding = border(p.valid.paddingAmounts)
    y = pooled(at, x, kind, kernel, strides, padding, uncounted, bool(p.avgPoolExcludePadding))
    return at.like(y)


def _whole(x: nl.Tensor, kind: str, axes: tuple[int, ...]) -> nl.Tensor:
    if kind == "max":
        return nl.max(x, axes, True)
    return nl.mean(x, axes, True) if kind == "average" else nl.sqrt(nl.sum(x * x, axes, True))


@layer("pooling3d")
def pooling3d(at: Layer) -> nl.Tensor:
    """Maxima or means of windows over depth, height and width."""
    p = at.p
    kernel, strides = three(p, "kernel"), three(p, "stride")
    kind = p.Pooling3DPaddingType.Name(p.paddingType)
    if kind == "SAME":
        padding = same_padding(at.shape()[2:], kernel, strides, [1, 1, 1])
    else:
        padding = custom_padding(p) if kind == "CUSTOM" else [(0, 0)] * 3
    name = ("max", "average")[p.type]
    exclude = bool(p.countExcludePadding)
    return pooled(at, at.tensor(), name, kernel, strides, padding, None, exclude)


@layer("globalPooling3d")
def global_pooling3d(at: Layer) -> nl.Tensor:
    """The maximum or mean of each channel."""
    return _whole(at.tensor(), ("max", "average")[at.p.type], (2, 3, 4))
