"""Layers that move elements: reshape, permute, concat, split, slice, crop, pad, repeat."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.layers.convolution import border
from niello.frontends.coreml.registry import layer


@layer("flatten")
def flatten(at: Layer) -> nl.Tensor:
    """The last three axes as [C * H * W, 1, 1]; CHANNEL_LAST walks over channels fastest."""
    shape, x = at.shape(), at.tensor()
    if len(shape) < 3:
        return x
    if at.p.mode == 1:
        order = (*range(len(shape) - 3), len(shape) - 2, len(shape) - 1, len(shape) - 3)
        x = nl.transpose(x, order)
    return nl.reshape(x, (*shape[:-3], int(np.prod(shape[-3:])), 1, 1))


@layer("reshape")
def reshape(at: Layer) -> nl.Tensor:
    """[C, H, W] or [seq, C, H, W] from the last three axes (and the sequence)."""
    shape, x = at.shape(), at.tensor()
    target = [int(d) for d in at.p.targetShape]
    last = at.p.mode == 1 and len(shape) >= 3
    if last:
        x = nl.transpose(
            x, (*range(len(shape) - 3), len(shape) - 2, len(shape) - 1, len(shape) - 3)
        )
    image = target[-3:]
    # With four numbers the sequence's length, the first axis of rank five, is among them.
    if len(target) == 4 and len(shape) == 5:
        lead = [target[0], shape[1]]
    elif len(target) == 4:
        lead = [target[0]]
    else:
        lead = list(shape[:-3])
    if not last:
        return nl.reshape(x, (*lead, *image))
    y = nl.reshape(x, (*lead, image[1], image[2], image[0]))
    rank = len(lead) + 3
    return nl.transpose(y, (*range(rank - 3), rank - 1, rank - 3, rank - 2))


@layer("permute")
def permute(at: Layer) -> nl.Tensor:
    """Axes [seq, C, H, W] in another order; rank five has the batch between seq and C."""
    axes = [int(a) for a in at.p.axis]
    rank = at.rank()
    if rank == 5:
        places = [0, 2, 3, 4]
        order = [places[a] for a in axes]
        return nl.transpose(at.tensor(), (order[0], 1, *order[1:]))
    if rank == 3:
        axes = [a - 1 for a in axes if a]
    return nl.transpose(at.tensor(), tuple(axes))


@layer("transpose")
def transpose(at: Layer) -> nl.Tensor:
    """Axes in another order."""
    return nl.transpose(at.tensor(), tuple(int(a) for a in at.p.axes))


@layer("concat")
def concat(at: Layer) -> nl.Tensor:
    """Channels one after the other, or the steps of sequences (rank five)."""
    axis = 0 if at.p.sequenceConcat and at.rank() == 5 else at.rank() - 3
    return nl.concat(at.tensors(), max(0, axis))


@layer("split")
def split(at: Layer) -> Any:
    """Channels in equal parts."""
    return tuple(nl.split(at.tensor(), int(at.p.nOutputs), max(0, at.rank() - 3)))


@layer("sequenceRepeat")
def sequence_repeat(at: Layer) -> nl.Tensor:
    """The input so often along its first axis."""
    return nl.tile(at.tensor(), (int(at.p.nRepetitions) or 1, *(1,) * (at.rank() - 1)))


@layer("slice")
def slice_channel(at: Layer) -> nl.Tensor:
    """Every stride-th place of one of the last three axes; -1 as the end keeps the last."""
    p = at.p
    axis = at.rank() - 3 + p.axis
    size = at.shape()[axis]
    start, end = int(p.startIndex), int(p.endIndex)
    start = start + size if start < 0 else start
    end = end + size + 1 if end < 0 else end
    return nl.slice(at.tensor(), [start], [end], [int(p.stride) or 1], axes=(axis,))


@layer("crop")
def crop(at: Layer) -> nl.Tensor:
    """Height and width less their borders, or as large as a second input from an offset on."""
    p, shape = at.p, at.shape()
    if len(at.inputs) > 1:
        offset = [int(o) for o in p.offset] or [0, 0]
        ends = [o + s for o, s in zip(offset, at.shape(1)[-2:], strict=True)]
        return nl.slice(at.tensor(), offset, ends, axes=(-2, -1))
    pairs = border(p.cropAmounts)
    ends = [size - after for size, (_, after) in zip(shape[-2:], pairs, strict=True)]
    return nl.slice(at.tensor(), [before for before, _ in pairs], ends, axes=(-2, -1))


@layer("padding")
def padding(at: Layer) -> nl.Tensor:
    """Height and width with a border of a number, of mirrored or of repeated elements."""
    p = at.p
    pairs = border(p.paddingAmounts)
    kind = p.WhichOneof("PaddingType")
    mode = {"reflection": "reflect", "replication": "edge"}.get(kind, "constant")
    value = p.constant.value if kind == "constant" else 0.0
    return nl.pad(at.tensor(), pairs, mode=mode, value=value, axes=(-2, -1))


@layer("constantPad")
def constant_pad(at: Layer) -> nl.Tensor:
    """A border of a number: pairs for each axis, or up to given sizes."""
    p, shape = at.p, at.shape()
    amounts = at.ints(1) if len(at.inputs) > 1 else [int(a) for a in p.padAmounts]
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    if p.padToGivenOutputSizeMode:
        # One of each pair says on which side, by the size that is wanted in the end.
        pairs = [
            (max(0, a - size) if a else 0, max(0, b - size) if b else 0)
            for (a, b), size in zip(pairs, shape, strict=True)
        ]
    return nl.pad(at.tensor(), pairs, value=p.value)


@layer("reorganizeData")
def reorganise(at: Layer) -> nl.Tensor:
    """Blocks of pixels into channels, or the other way."""
    kind, block = at.p.ReorganizationType.Name(at.p.mode), int(at.p.blockSize)
    x = at.images()
    if kind == "SPACE_TO_DEPTH":
        return at.like(nl.space_to_depth(x, block))
    order = "DCR" if kind == "DEPTH_TO_SPACE" else "CRD"
    return at.like(nl.depth_to_space(x, block, order=order))


@layer("tile")
def tile(at: Layer) -> nl.Tensor:
    """The input so often along each axis."""
    reps = at.ints(1) if len(at.inputs) > 1 else [int(r) for r in at.p.reps]
    return nl.tile(at.tensor(), tuple(reps))


@layer("stack")
def stack(at: Layer) -> nl.Tensor:
    """The inputs along a new axis."""
    return nl.stack(at.tensors(), at.axis(at.p.axis, at.rank() + 1))


@layer("concatND")
def concat_nd(at: Layer) -> nl.Tensor:
    """The inputs along an axis, with `interleave` element by element."""
    axis = at.axis(at.p.axis)
    filled = [t for t in at.tensors() if 0 not in at.sizes(t)] or at.tensors()[:1]
    return nl.concat(filled, axis, interleave=bool(at.p.interleave))


@layer("splitND")
def split_nd(at: Layer) -> Any:
    """The input in parts along an axis."""
    p = at.p
    sizes = [int(s) for s in p.splitSizes]
    parts = sizes or int(p.numSplits) or len(at.message.output)
    return tuple(nl.split(at.tensor(), parts, at.axis(p.axis)))


@layer("reverse")
def reverse(at: Layer) -> nl.Tensor:
    """The elements of some axes in the opposite order."""
    axes = tuple(i for i, turned in enumerate(at.p.reverseDim) if turned)
    return nl.reverse(at.tensor(), axes) if axes else at.tensor()


def _bounds(
    at: Any, x: Any, begins: list[int], ends: list[int], strides: list[int], p: Any
) -> nl.Tensor:
    """A slice; masked bounds are those of the axis, squeezed axes have one element and go."""
    starts: list[int | None] = []
    stops: list[int | None] = []
    gone = [i for i, s in enumerate(p.squeezeMasks) if s]
    for i in range(len(begins)):
        masked_begin = i < len(p.beginMasks) and p.beginMasks[i]
        masked_end = i < len(p.endMasks) and p.endMasks[i]
        starts.append(None if masked_begin else begins[i])
        stops.append(None if masked_end else ends[i])
        if i in gone:
            last = begins[i] == -1
            starts[i], stops[i] = begins[i], None if last else begins[i] + 1
            strides[i] = 1
    y = nl.slice(at.builder.tensor(x), starts, stops, strides)
    return nl.squeeze(y, tuple(gone)) if gone else y


@layer("sliceStatic")
def slice_static(at: Layer) -> nl.Tensor:
    """A slice of each axis."""
    p = at.p
    begins, ends = [int(b) for b in p.beginIds], [int(e) for e in p.endIds]
    strides = [int(s) for s in p.strides] or [1] * len(begins)
    y = _bounds(at, at.value(), begins, ends, strides, p)
    return nl.reshape(y, (1,)) if not y.shape else y


@layer("sliceDynamic")
def slice_dynamic(at: Layer) -> nl.Tensor:
    """A slice of each axis, whose bounds inputs give."""
    p = at.p
    begins = at.ints(1)
    ends = at.ints(2) if len(at.inputs) > 2 else [int(e) for e in p.endIds]
    strides = at.ints(3) if len(at.inputs) > 3 else [int(s) for s in p.strides]
    strides = strides or [1] * len(begins)
    y = _bounds(at, at.value(), begins, ends or begins, strides, p)
    return nl.reshape(y, (1,)) if not y.shape else y


@layer("sliceBySize")
def slice_by_size(at: Layer) -> nl.Tensor:
    """So many elements along an axis, from the place that the second input gives."""
    axis, size = at.axis(at.p.axis), int(at.p.size)
    start = nl.reshape(at.indices(1), ())
    starts = [at.constant(0, np.int32)] * at.rank()
    starts[axis] = start
    sizes = list(at.shape())
    sizes[axis] = size
    return nl.dynamic_slice(at.tensor(), nl.stack(starts, 0), tuple(sizes))


@layer("slidingWindows")
def sliding_windows(at: Layer) -> nl.Tensor:
    """Windows along an axis: a new axis before it counts them."""
    p = at.p
    axis, size, step = at.axis(p.axis), int(p.windowSize), int(p.step)
    return windows(at, at.tensor(), axis, size, step)


def windows(at: Any, x: nl.Tensor, axis: int, size: int, step: int) -> nl.Tensor:
    """Windows of x along an axis: [..., windows, size, ...]."""
    count = (at.sizes(x)[axis] - size) // step + 1
    places = np.arange(count)[:, None] * step + np.arange(size)
    return nl.gather(x, at.constant(places, np.int32), axis)
