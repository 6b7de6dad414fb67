"""Operators that move elements: reshape, transpose, concat, split, slice, pad, tile."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.layers.indexing import reversed_steps
from niello.frontends.coreml.layers.movement import windows
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator


@operator("reshape")
def reshape(at: Op) -> nl.Tensor:
    """Another shape; -1 takes what is left, 0 keeps a size."""
    shape, target = at.shape(), at.ints("shape")
    kept = [
        shape[i] if d == 0 and i < len(shape) and 0 not in shape else d
        for i, d in enumerate(target)
    ]
    return nl.reshape(at.tensor(), tuple(kept))


@operator("reshape_like")
def reshape_like(at: Op) -> nl.Tensor:
    """A shape made of parts of the shapes of other tensors."""
    target: list[int] = []
    references = at.tensors("ref_tensors")
    begins, ends, masks = at.ints("begins"), at.ints("ends"), at.flags("end_masks", len(references))
    for i, reference in enumerate(references):
        sizes = at.sizes(reference)
        target.extend(sizes[begins[i] :] if masks[i] else sizes[begins[i] : ends[i]])
    return nl.reshape(at.tensor(), tuple(target))


@operator("expand_dims")
def expand_dims(at: Op) -> nl.Tensor:
    """With new axes of one at these places of the result."""
    axes = at.ints("axes")
    rank = at.rank() + len(axes)
    return nl.expand_dims(at.tensor(), tuple(sorted(a % rank for a in axes)))


@operator("squeeze")
def squeeze(at: Op) -> nl.Tensor:
    """Without axes of one: these, or all."""
    shape = at.shape()
    axes = at.ints("axes", ()) or [i for i, d in enumerate(shape) if d == 1]
    return nl.squeeze(at.tensor(), tuple(a % len(shape) for a in axes)) if axes else at.tensor()


@operator("transpose")
def transpose(at: Op) -> nl.Tensor:
    """Axes in another order."""
    return nl.transpose(at.tensor(), tuple(at.ints("perm")))


@operator("flatten2d")
def flatten_2d(at: Op) -> nl.Tensor:
    """A matrix: the axes before one, and the others."""
    shape, axis = at.shape(), at.integer("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    rows, columns = (int(np.prod(s, dtype=np.int64)) for s in (shape[:axis], shape[axis:]))
    return nl.reshape(at.tensor(), (rows, columns))


@operator("concat")
def concat(at: Op) -> nl.Tensor:
    """Tensors along an axis, with `interleave` element by element."""
    tensors = at.tensors("values")
    axis = at.axis("axis", 0, len(at.sizes(tensors[0])))
    if len(tensors) == 1:
        return tensors[0]
    return nl.concat(tensors, axis, interleave=at.flag("interleave"))


@operator("split")
def split(at: Op) -> Any:
    """Parts along an axis."""
    parts: Any = at.ints("split_sizes", ()) or at.integer("num_splits")
    return tuple(nl.split(at.tensor(), parts, at.axis("axis", 0)))


@operator("stack")
def stack(at: Op) -> nl.Tensor:
    """Tensors along a new axis."""
    tensors = at.tensors("values")
    return nl.stack(tensors, at.axis("axis", 0, len(at.sizes(tensors[0])) + 1))


@operator("reverse")
def reverse(at: Op) -> nl.Tensor:
    """The elements of some axes (or all) in the opposite order."""
    return nl.reverse(at.tensor(), tuple(at.ints("axes", range(at.rank()))))


@operator("reverse_sequence")
def reverse_sequence(at: Op) -> nl.Tensor:
    """The first steps of each sequence reversed."""
    batch, time = at.axis("batch_axis", 0), at.axis("seq_axis", 0)
    return reversed_steps(at.tensor(), at.tensor("lengths"), batch, time)


def _bounds(at: Op, name: str, masks: list[bool], count: int) -> list[int | None]:
    return [
        None if masked else value for value, masked in zip(at.ints(name), masks, strict=True)
    ] or [None] * count


@operator("slice_by_index")
def slice_by_index(at: Op) -> nl.Tensor:
    """A slice of each axis; squeezed axes have one element and go."""
    rank = at.rank()
    begins = _bounds(at, "begin", at.flags("begin_mask", rank), rank)
    ends = _bounds(at, "end", at.flags("end_mask", rank), rank)
    strides = at.ints("stride", [1] * rank)
    gone = [i for i, s in enumerate(at.flags("squeeze_mask", rank)) if s]
    for i in gone:
        begin = begins[i] or 0
        begins[i], ends[i], strides[i] = begin, None if begin == -1 else begin + 1, 1
    y = nl.slice(at.tensor(), begins, ends, strides)
    return nl.squeeze(y, tuple(gone)) if gone else y


@operator("slice_update")
def slice_update(at: Op) -> nl.Tensor:
    """x with an update in place of a slice."""
    rank = at.rank()
    begins = _bounds(at, "begin", at.flags("begin_mask", rank), rank)
    ends = _bounds(at, "end", at.flags("end_mask", rank), rank)
    strides = at.ints("stride", [1] * rank)
    gone = [i for i, s in enumerate(at.flags("squeeze_mask", rank)) if s]
    update = at.tensor("update")
    for i in gone:
        begin = begins[i] or 0
        begins[i], ends[i], strides[i] = begin, None if begin == -1 else begin + 1, 1
    update = nl.expand_dims(update, tuple(gone)) if gone else update
    return nl.slice_update(at.tensor(), update, begins, ends, strides)


@operator("slice_by_size")
def slice_by_size(at: Op) -> nl.Tensor:
    """So many elements of each axis from a place on; -1 takes all that are left."""
    shape, size = at.shape(), at.ints("size")
    if -1 not in size:
        starts = nl.cast(at.tensor("begin"), nl.int32)
        return nl.dynamic_slice(at.tensor(), starts, tuple(size))
    begin = at.ints("begin")
    ends = [d if s == -1 else b + s for b, s, d in zip(begin, size, shape, strict=True)]
    return nl.slice(at.tensor(), begin, ends)


@operator("pad")
def pad(at: Op) -> nl.Tensor:
    """The last axes with a border of a number, of mirrored or of repeated elements."""
    amounts = at.ints("pad")
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}[
        at.text("mode", "constant")
    ]
    axes = tuple(range(at.rank() - len(pairs), at.rank()))
    return nl.pad(at.tensor(), pairs, mode=mode, value=at.real("constant_val"), axes=axes)


@operator("crop")
def crop(at: Op) -> nl.Tensor:
    """Height and width less their borders."""
    shape = at.shape()
    (top, bottom), (left, right) = at.ints("crop_height"), at.ints("crop_width")
    return nl.slice(
        at.tensor(), [top, left], [shape[-2] - bottom, shape[-1] - right], axes=(-2, -1)
    )


@operator("tile")
def tile(at: Op) -> nl.Tensor:
    """The input so often along each axis."""
    return nl.tile(at.tensor(), tuple(at.ints("reps")))


@operator("sliding_windows")
def sliding_windows(at: Op) -> nl.Tensor:
    """Windows along an axis: a new axis before it counts them."""
    return windows(at, at.tensor(), at.axis(), at.integer("size"), at.integer("stride", 1))


@operator("depth_to_space")
def depth_to_space(at: Op) -> nl.Tensor:
    """Channels into blocks of pixels."""
    return nl.depth_to_space(at.tensor(), at.integer("block_size"))


@operator("space_to_depth")
def space_to_depth(at: Op) -> nl.Tensor:
    """Blocks of pixels into channels."""
    return nl.space_to_depth(at.tensor(), at.integer("block_size"))


@operator("pixel_shuffle")
def pixel_shuffle(at: Op) -> nl.Tensor:
    """Channels into blocks of pixels, as PyTorch orders them."""
    return nl.depth_to_space(at.tensor(), at.integer("upscale_factor"), order="CRD")


@operator("pixel_unshuffle")
def pixel_unshuffle(at: Op) -> nl.Tensor:
    """Blocks of pixels into channels, as PyTorch orders them."""
    return nl.space_to_depth(at.tensor(), at.integer("downscale_factor"), order="CRD")


@operator("band_part")
def band_part(at: Op) -> nl.Tensor:
    """The diagonals of matrices within a band."""
    return nl.band_part(at.tensor(), at.integer("lower", -1), at.integer("upper", -1))


@operator("shape", fold=False)
def shape_of(at: Op) -> np.ndarray:
    """The sizes of the input."""
    return np.array(at.shape(), np.int32)


@operator("fill", fold=False)
def fill(at: Op) -> nl.Tensor:
    """A number in a shape."""
    value = at.array("value") if at.has("value") else np.zeros((), np.float32)
    return at.graph.constant(value.reshape(()), shape=tuple(at.ints("shape")))


@operator("fill_like", fold=False)
def fill_like(at: Op) -> nl.Tensor:
    """A number in the shape of another tensor."""
    value = at.array("value") if at.has("value") else np.zeros((), np.float32)
    return at.graph.constant(value.reshape(()), shape=at.shape("ref_tensor"))


@operator("range_1d", fold=False)
def range_1d(at: Op) -> np.ndarray:
    """Numbers from a start to an end, which is left out."""
    start, end, step = (at.array(n).reshape(()) for n in ("start", "end", "step"))
    return np.arange(start.item(), end.item(), step.item(), dtype=end.dtype)


@operator("non_zero", fold=False)
def non_zero(at: Op) -> np.ndarray:
    """Coordinates of the elements that are not zero; they must be known while importing."""
    return np.argwhere(at.array("x")).astype(np.int32)


def _pairs(at: Op, name: str) -> list[tuple[int, int]]:
    numbers = at.ints(name)
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@operator("space_to_batch")
def space_to_batch(at: Op) -> nl.Tensor:
    """Blocks of the last axes as elements of the batch, after a border of zeros."""
    blocks = at.ints("block_shape")
    axes = tuple(range(at.rank() - len(blocks), at.rank()))
    return nl.space_to_batch(
        at.tensor(), tuple(blocks), paddings=_pairs(at, "paddings"), axes=axes, batch_axis=0
    )


@operator("batch_to_space")
def batch_to_space(at: Op) -> nl.Tensor:
    """Elements of the batch as blocks of the other axes, less a border."""
    blocks = at.ints("block_shape")
    axes = tuple(range(at.rank() - len(blocks), at.rank()))
    return nl.batch_to_space(
        at.tensor(), tuple(blocks), crops=_pairs(at, "crops"), axes=axes, batch_axis=0
    )
