"""Layers about shapes: constants, fills, ranges, reshapes, broadcasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer


@layer("loadConstant", fold=False)
def load_constant(at: Layer) -> Any:
    """An array of the file, [C, H, W], with leading axes of one where networks are of rank five."""
    shape = [int(d) for d in at.p.shape]
    rank = 5 if at.network.rank5 else len(shape)
    lead = [1] * max(0, rank - len(shape))
    return at.builder.array(at.weights(at.p.data, *lead, *shape))


@layer("loadConstantND", fold=False)
def load_constant_nd(at: Layer) -> Any:
    """An array of the file."""
    return at.builder.array(at.weights(at.p.data, *(int(d) for d in at.p.shape)))


@layer("getShape", fold=False)
def get_shape(at: Layer) -> np.ndarray:
    """The sizes of the input."""
    return np.array(at.shape(), np.float32)


def _filled(at: Layer, shape: Sequence[int]) -> nl.Tensor:
    return at.graph.constant(np.float32(at.p.value), shape=tuple(shape))


@layer("fillLike", fold=False)
def fill_like(at: Layer) -> nl.Tensor:
    """A number in the shape of the input."""
    return _filled(at, at.shape())


@layer("fillStatic", fold=False)
def fill_static(at: Layer) -> nl.Tensor:
    """A number in a shape."""
    return _filled(at, [int(d) for d in at.p.targetShape])


@layer("fillDynamic", fold=False)
def fill_dynamic(at: Layer) -> nl.Tensor:
    """A number in the shape that the input holds."""
    return _filled(at, at.ints(0))


def _range(start: float, end: float, step: float) -> np.ndarray:
    return np.arange(start, end, step, dtype=np.float32)


@layer("rangeStatic", fold=False)
def range_static(at: Layer) -> np.ndarray:
    """Numbers from a start to an end, which is left out."""
    return _range(at.p.startValue, at.p.endValue, at.p.stepSizeValue)


@layer("rangeDynamic", fold=False)
def range_dynamic(at: Layer) -> np.ndarray:
    """Numbers up to the first input; the second is the start, the third the step."""
    given = [float(at.known(v).reshape(())) for v in at.inputs]
    start = given[1] if len(given) > 1 else at.p.startValue
    step = given[2] if len(given) > 2 else at.p.stepSizeValue
    return _range(start, given[0], step)


def _broadcast(at: Layer, target: Sequence[int]) -> nl.Tensor:
    shape = np.broadcast_shapes(at.shape(), tuple(target))
    return nl.broadcast_to(at.tensor(), shape)


@layer("broadcastToLike")
def broadcast_to_like(at: Layer) -> nl.Tensor:
    """The first input in the shape of the second."""
    return _broadcast(at, at.shape(1))


@layer("broadcastToStatic")
def broadcast_to_static(at: Layer) -> nl.Tensor:
    """The input in a shape."""
    return _broadcast(at, [int(d) for d in at.p.targetShape])


@layer("broadcastToDynamic")
def broadcast_to_dynamic(at: Layer) -> nl.Tensor:
    """The first input in the shape that the second holds."""
    return _broadcast(at, at.ints(1))


@layer("squeeze")
def squeeze(at: Layer) -> nl.Tensor:
    """Without axes of one; the result has one axis at least."""
    shape = at.shape()
    axes = [i for i, d in enumerate(shape) if d == 1] if at.p.squeezeAll else [
        at.axis(int(a)) for a in at.p.axes
    ]  # fmt: skip
    if any(shape[a] != 1 for a in axes):
        raise at.refuse("squeezed axes have one element", f"axes {axes} of {list(shape)}")
    kept = [d for i, d in enumerate(shape) if i not in axes]
    return nl.reshape(at.tensor(), tuple(kept) or (1,))


@layer("expandDims")
def expand_dims(at: Layer) -> nl.Tensor:
    """With new axes of one at these places of the result."""
    axes = tuple(int(a) for a in at.p.axes)
    rank = at.rank() + len(axes)
    return nl.expand_dims(at.tensor(), tuple(sorted(a % rank for a in axes)))


@layer("flattenTo2D")
def flatten_to_2d(at: Layer) -> nl.Tensor:
    """A matrix: the axes before one, and the others."""
    shape = at.shape()
    axis = int(at.p.axis)
    axis = axis + len(shape) if axis < 0 else axis
    return nl.reshape(at.tensor(), (int(np.prod(shape[:axis], dtype=np.int64)), -1))


@layer("reshapeLike")
def reshape_like(at: Layer) -> nl.Tensor:
    """The first input in the shape of the second."""
    return nl.reshape(at.tensor(), at.shape(1))


@layer("reshapeStatic")
def reshape_static(at: Layer) -> nl.Tensor:
    """The input in a shape, one of whose sizes may be -1."""
    return nl.reshape(at.tensor(), tuple(int(d) for d in at.p.targetShape))


@layer("reshapeDynamic")
def reshape_dynamic(at: Layer) -> nl.Tensor:
    """The first input in the shape that the second holds."""
    return nl.reshape(at.tensor(), tuple(at.ints(1)))


@layer("rankPreservingReshape")
def rank_preserving_reshape(at: Layer) -> nl.Tensor:
    """The input in a shape of as many axes; 0 keeps a size, -1 takes what is left."""
    target = [d or s for d, s in zip((int(d) for d in at.p.targetShape), at.shape(), strict=True)]
    return nl.reshape(at.tensor(), tuple(target))
