"""Gather and scatter."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.values import on_host

REDUCTIONS = {"none": "set", "add": "add", "mul": "mul", "max": "max", "min": "min"}


@translates("Gather")
def gather(at: Call) -> Any:
    """Slices along an axis."""
    axis = at.integer("axis", 0)
    if on_host(at.value(0)):
        return np.take(at.array(0), at.array(1), axis)
    return nl.gather(at.tensor(0), at.tensor(1), axis)


@translates("GatherElements")
def gather_elements(at: Call) -> nl.Tensor:
    """One element of the axis for each index, whose tensor may be smaller in other axes."""
    axis = at.integer("axis", 0)
    x, indices = at.tensor(0), at.tensor(1)
    x = cropped(at, x, at.shape(1), axis % at.rank(0))
    return nl.gather_along_axis(x, indices, axis)


def cropped(at: Call, x: nl.Tensor, sizes: tuple[int, ...], axis: int) -> nl.Tensor:
    """The leading part of x, of these sizes but along `axis`."""
    others = [
        a for a, s in enumerate(sizes) if a != axis and x.shape is not None and x.shape[a] != s
    ]
    if not others:
        return x
    return nl.slice(x, [0] * len(others), [sizes[a] for a in others], axes=tuple(others))


@translates("GatherND")
def gather_nd(at: Call) -> nl.Tensor:
    """Slices whose places are the rows of an index tensor."""
    return nl.gather_nd(at.tensor(0), at.tensor(1), batch_dims=at.integer("batch_dims", 0))


@translates("Scatter", "ScatterElements")
def scatter_elements(at: Call) -> nl.Tensor:
    """Updates put, or combined, where an index tensor of their shape says."""
    x, indices, updates = at.tensor(0), at.tensor(1), at.tensor(2)
    mode = REDUCTIONS[at.text("reduction", "none")]
    return nl.scatter_along_axis(x, indices, updates, at.integer("axis", 0), mode=mode)


@translates("ScatterND")
def scatter_nd(at: Call) -> nl.Tensor:
    """Slices put, or combined, where the rows of an index tensor say."""
    mode = REDUCTIONS[at.text("reduction", "none")]
    return nl.scatter_nd(at.tensor(0), at.tensor(1), at.tensor(2), mode=mode)


@translates("TensorScatter")
def tensor_scatter(at: Call) -> nl.Tensor:
    """A cache with new entries from a position on, for each element of the batch."""
    cache, update = at.tensor(0), at.tensor(1)
    axis = at.integer("axis", -2) % at.rank(0)
    length, new = at.shape(0)[axis], at.shape(1)[axis]
    batch = at.shape(0)[0]
    starts = (
        nl.cast(at.tensor(2), nl.int64) if at.has(2) else at.constant(np.zeros(batch, np.int64))
    )
    places = nl.expand_dims(starts, 1) + at.constant(np.arange(new, dtype=np.int64)[None])
    if at.text("mode", "linear") == "circular":
        places = nl.floor_modulo(places, at.constant(np.int64(length)))
    shape = [1] * at.rank(0)
    shape[0], shape[axis] = batch, new
    full = nl.broadcast_like(nl.reshape(places, tuple(shape)), update)
    return nl.scatter_along_axis(cache, full, update, axis, mode="set")
