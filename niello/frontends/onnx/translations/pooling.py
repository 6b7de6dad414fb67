"""Pooling over windows and over everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.translations.convolution import settings, window_padding


def _window(at: Call, sizes: Sequence[int]) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Kernel size, and the settings that all kinds of pooling share."""
    kernel = tuple(at.ints("kernel_shape"))
    strides, dilations = settings(at, len(kernel))
    padding = window_padding(at, sizes, kernel, strides, dilations)
    return kernel, {
        "strides": tuple(strides),
        "dilations": tuple(dilations),
        "padding": tuple(padding),
        "ceil_mode": bool(at.integer("ceil_mode", 0)),
    }


def _function(kind: str, at: Call) -> Any:
    return getattr(nl, f"{kind}_pool{at.rank(0) - 2}d")


@translates("MaxPool")
def max_pool(at: Call) -> Any:
    """Maximum over windows, and where it was found."""
    x = at.tensor(0)
    if not at.wants(1):
        return pooled_max(at, x)
    kernel, shared = _window(at, at.shape(0)[2:])
    if not at.integer("storage_order", 0):
        return _function("max", at)(
            x, kernel, return_indices=True, index_mode="tensor", index_dtype=nl.int64, **shared
        )
    values, places = _function("max", at)(
        x, kernel, return_indices=True, index_mode="spatial", index_dtype=nl.int64, **shared
    )
    return values, _column_major(at, places)


def pooled_max(at: Call, x: nl.Tensor) -> nl.Tensor:
    """The maximum over the windows that a node's attributes describe, of any tensor."""
    kernel, shared = _window(at, at.spatial(x))
    return _function("max", at)(x, kernel, **shared)  # type: ignore[no-any-return]


def _column_major(at: Call, places: nl.Tensor) -> nl.Tensor:
    """Flat places in the spatial axes, recounted with the first of them running fastest."""
    n, c, *sizes = at.shape(0)
    total, weight = None, 1
    left = places
    digits = []
    for size in reversed(sizes):
        digits.append(nl.floor_modulo(left, size))
        left = nl.floor_divide(left, size)
    for size, digit in zip(sizes, reversed(digits), strict=True):
        part = digit * weight
        total = part if total is None else total + part
        weight *= size
    assert total is not None
    images = np.arange(n * c, dtype=np.int64).reshape(n, c, *(1,) * len(sizes)) * weight
    return nl.add(total, at.constant(images))


@translates("AveragePool")
def average_pool(at: Call) -> nl.Tensor:
    """Mean over windows."""
    return averaged(at, at.tensor(0))


def averaged(at: Call, x: nl.Tensor) -> nl.Tensor:
    """The mean over the windows that a node's attributes describe, of any tensor."""
    kernel, shared = _window(at, at.spatial(x))
    include = bool(at.integer("count_include_pad", 0))
    return _function("average", at)(x, kernel, include_padding=include, **shared)  # type: ignore[no-any-return]


@translates("LpPool")
def lp_pool(at: Call) -> nl.Tensor:
    """The p-norm over windows."""
    kernel, shared = _window(at, at.spatial(at.value(0)))
    p = at.integer("p", 2) if at.version >= 2 else at.real("p", 2.0)
    return _function("lp", at)(at.tensor(0), kernel, p=float(p), **shared)  # type: ignore[no-any-return]


def _spatial(at: Call) -> tuple[int, ...]:
    return tuple(range(2, at.rank(0)))


@translates("GlobalAveragePool")
def global_average_pool(at: Call) -> nl.Tensor:
    """Mean over all spatial axes."""
    return nl.mean(at.tensor(0), _spatial(at), True)


@translates("GlobalMaxPool")
def global_max_pool(at: Call) -> nl.Tensor:
    """Maximum over all spatial axes."""
    return nl.max(at.tensor(0), _spatial(at), True)


@translates("GlobalLpPool")
def global_lp_pool(at: Call) -> nl.Tensor:
    """The p-norm over all spatial axes."""
    x = at.tensor(0)
    p = at.integer("p", 2) if at.version >= 2 else at.real("p", 2.0)
    powers = nl.power(nl.absolute(x), p)
    return nl.power(nl.sum(powers, _spatial(at), True), 1 / p)


@translates("MaxUnpool")
def max_unpool(at: Call) -> nl.Tensor:
    """Elements put back where the maximum was found, zeros elsewhere."""
    n, c, *sizes = at.shape(0)
    kernel = at.ints("kernel_shape")
    strides, _ = settings(at, len(kernel))
    pads = at.ints("pads", None) or [0] * (2 * len(kernel))
    inner = [
        (size - 1) * strides[i] + kernel[i] - pads[i] - pads[len(kernel) + i]
        for i, size in enumerate(sizes)
    ]
    wanted = at.known_ints(2) if at.has(2) else [n, c, *inner]
    x = nl.reshape(at.tensor(0), (-1,))
    places = nl.reshape(at.tensor(1), (-1,))
    if wanted[2:] != inner:
        places = _moved(at, places, [n, c, *inner], wanted)
    zeros = at.graph.constant(np.zeros((), x.dtype.numpy), shape=(int(np.prod(wanted)),))
    return nl.reshape(nl.scatter(zeros, places, x, 0, mode="set"), tuple(wanted))


def _moved(at: Call, places: nl.Tensor, old: Sequence[int], new: Sequence[int]) -> nl.Tensor:
    """Flat places in a tensor of shape `old` as places in one of shape `new`."""
    total: nl.Tensor | None = None
    weight = 1
    for i in reversed(range(len(old))):
        part = nl.floor_modulo(places, old[i]) * weight
        places = nl.floor_divide(places, old[i])
        weight *= new[i]
        total = part if total is None else total + part
    assert total is not None
    return total
