"""Gathers, scatters, sorting and other layers about places."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.layers.broadcastable import truth
from niello.frontends.coreml.registry import layer

# The modes of scatter: Niello's name, and what is done to the updates before.
MODES = {"UPDATE": "set", "ADD": "add", "SUB": "add", "MUL": "multiply", "DIV": "multiply",
         "MAX": "max", "MIN": "min"}  # fmt: skip


def scattered(updates: nl.Tensor, mode: str) -> tuple[nl.Tensor, str]:
    """Updates and Niello's mode for a mode of Core ML: less is adding the negative."""
    if mode == "SUB":
        updates = nl.negative(updates)
    elif mode == "DIV":
        updates = nl.reciprocal(updates)
    return updates, MODES[mode]


def counted(indices: nl.Tensor, size: int) -> nl.Tensor:
    """Indices from the front: negative ones count from the end."""
    zero = indices.graph.constant(np.zeros((), indices.dtype.numpy))
    return nl.select(nl.less(indices, zero), indices + size, indices)


def _mode(at: Layer) -> str:
    from_message = at.p.DESCRIPTOR.fields_by_name["mode"].enum_type
    return str(from_message.values_by_number[at.p.mode].name).removeprefix("SCATTER_")


@layer("gather")
def gather(at: Layer) -> nl.Tensor:
    """Slices along an axis, by number."""
    axis = at.axis(at.p.axis)
    return nl.gather(at.tensor(), counted(at.indices(1), at.shape()[axis]), axis)


@layer("gatherND")
def gather_nd(at: Layer) -> nl.Tensor:
    """Points or slices by coordinates."""
    return nl.gather_nd(at.tensor(), at.indices(1))


@layer("gatherAlongAxis")
def gather_along_axis(at: Layer) -> nl.Tensor:
    """One element for each index along an axis."""
    axis = at.axis(at.p.axis)
    return nl.gather_along_axis(at.tensor(), counted(at.indices(1), at.shape()[axis]), axis)


@layer("scatter")
def scatter(at: Layer) -> nl.Tensor:
    """Slices along an axis written or combined."""
    axis = at.axis(at.p.axis)
    updates, mode = scattered(at.tensor(2), _mode(at))
    return nl.scatter(
        at.tensor(), counted(at.indices(1), at.shape()[axis]), updates, axis, mode=mode
    )


@layer("scatterND")
def scatter_nd(at: Layer) -> nl.Tensor:
    """Points or slices written or combined by coordinates."""
    updates, mode = scattered(at.tensor(2), _mode(at))
    return nl.scatter_nd(at.tensor(), at.indices(1), updates, mode=mode)


@layer("scatterAlongAxis")
def scatter_along_axis(at: Layer) -> nl.Tensor:
    """Elements written or combined by their place along an axis."""
    axis = at.axis(at.p.axis)
    updates, mode = scattered(at.tensor(2), _mode(at))
    places = counted(at.indices(1), at.shape()[axis])
    return nl.scatter_along_axis(at.tensor(), places, updates, axis, mode=mode)


def reversed_steps(x: nl.Tensor, lengths: nl.Tensor, batch_axis: int, time_axis: int) -> nl.Tensor:
    """The first `length` steps of each element of the batch in the opposite order."""
    assert x.shape is not None
    rank, steps = len(x.shape), x.shape[time_axis]
    assert steps is not None
    column = [1] * rank
    column[batch_axis] = -1
    length = nl.reshape(nl.cast(lengths, nl.int32), tuple(column))
    row = [1] * rank
    row[time_axis] = steps
    place = x.graph.constant(np.arange(steps, dtype=np.int32).reshape(row))
    turned = nl.where(nl.less(place, length), length - 1 - place, place)
    return nl.gather_along_axis(x, nl.broadcast_to(turned, x.shape), time_axis)


@layer("reverseSeq")
def reverse_sequence(at: Layer) -> nl.Tensor:
    """The first steps of each sequence reversed, as many as the second input says."""
    p = at.p
    return reversed_steps(at.tensor(), at.indices(1), at.axis(p.batchAxis), at.axis(p.sequenceAxis))


@layer("topK")
def top_k(at: Layer) -> Any:
    """The largest (or smallest) elements along an axis, and where they are."""
    p = at.p
    axis = at.axis(p.axis)
    k = at.ints(1)[0] if len(at.inputs) > 1 else int(p.K)
    k = at.shape()[axis] if k == -1 else k
    values, places = nl.top_k(at.tensor(), k, axis, largest=not p.useBottomK)
    return values, nl.cast(places, nl.float32)


@layer("argSort")
def argsort(at: Layer) -> nl.Tensor:
    """Where the elements in order are."""
    places = nl.argsort(at.tensor(), at.axis(at.p.axis), descending=bool(at.p.descending))
    return nl.cast(places, nl.float32)


@layer("oneHot")
def one_hot(at: Layer) -> nl.Tensor:
    """A new axis with one value at the index and another one elsewhere."""
    p = at.p
    depth = at.ints(1)[0] if len(at.inputs) > 1 else int(p.oneHotVectorSize)
    indices = counted(at.indices(0), depth)
    return nl.one_hot(indices, depth, axis=int(p.axis), on=p.onValue, off=p.offValue)


@layer("whereNonZero")
def where_non_zero(at: Layer) -> np.ndarray:
    """Coordinates of the elements that are not zero; they must be known while importing."""
    return np.argwhere(at.known(at.value())).astype(np.float32)


@layer("matrixBandPart")
def band_part(at: Layer) -> nl.Tensor:
    """The diagonals of matrices within a band; a negative width keeps that side."""
    return nl.band_part(at.tensor(), int(at.p.numLower), int(at.p.numUpper))


@layer("lowerTriangular")
def lower(at: Layer) -> nl.Tensor:
    """Matrices with zeros above a diagonal."""
    return nl.tril(at.tensor(), int(at.p.k))


@layer("upperTriangular")
def upper(at: Layer) -> nl.Tensor:
    """Matrices with zeros below a diagonal."""
    return nl.triu(at.tensor(), int(at.p.k))


__all__ = ["counted", "reversed_steps", "scattered", "truth"]
