"""Gathers, scatters and one-hot vectors."""

from __future__ import annotations

import numpy as np

import niello as nl
from niello.frontends.coreml.layers.indexing import counted, scattered
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator


def _places(at: Op, axis: int, name: str = "x") -> nl.Tensor:
    indices = at.tensor("indices")
    indices = indices if indices.dtype is nl.int64 else nl.cast(indices, nl.int32)
    return counted(indices, at.shape(name)[axis])


@operator("gather")
def gather(at: Op) -> nl.Tensor:
    """Slices along an axis, by number."""
    axis = at.axis("axis", 0)
    return nl.gather(at.tensor(), _places(at, axis), axis, batch_dims=at.integer("batch_dims"))


@operator("gather_along_axis")
def gather_along_axis(at: Op) -> nl.Tensor:
    """One element for each index along an axis."""
    axis = at.axis("axis", 0)
    return nl.gather_along_axis(at.tensor(), _places(at, axis), axis)


@operator("gather_nd")
def gather_nd(at: Op) -> nl.Tensor:
    """Points or slices by coordinates."""
    indices = nl.cast(at.tensor("indices"), nl.int32)
    return nl.gather_nd(at.tensor(), indices, batch_dims=at.integer("batch_dims"))


def _updates(at: Op) -> tuple[nl.Tensor, str]:
    return scattered(at.tensor("updates"), at.text("mode", "add").upper())


@operator("scatter")
def scatter(at: Op) -> nl.Tensor:
    """Slices along an axis written or combined."""
    axis = at.axis("axis", 0, at.rank("data"))
    updates, mode = _updates(at)
    return nl.scatter(at.tensor("data"), _places(at, axis, "data"), updates, axis, mode=mode)


@operator("scatter_along_axis")
def scatter_along_axis(at: Op) -> nl.Tensor:
    """Elements written or combined by their place along an axis."""
    axis = at.axis("axis", 0, at.rank("data"))
    updates, mode = _updates(at)
    places = _places(at, axis, "data")
    return nl.scatter_along_axis(at.tensor("data"), places, updates, axis, mode=mode)


@operator("scatter_nd")
def scatter_nd(at: Op) -> nl.Tensor:
    """Points or slices written or combined by coordinates."""
    updates, mode = _updates(at)
    indices = nl.cast(at.tensor("indices"), nl.int32)
    return nl.scatter_nd(at.tensor("data"), indices, updates, mode=mode)


@operator("one_hot")
def one_hot(at: Op) -> nl.Tensor:
    """A new axis with one value at the index and another one elsewhere."""
    depth = at.integer("one_hot_vector_size")
    on = at.array("on_value") if at.has("on_value") else np.int32(1)
    off = at.array("off_value") if at.has("off_value") else np.int32(0)
    indices = counted(nl.cast(at.tensor("indices"), nl.int32), depth)
    dtype = nl.TensorType((), on.dtype).dtype
    return nl.one_hot(
        indices, depth, axis=at.integer("axis", -1), dtype=dtype, on=float(on), off=float(off)
    )
