"""Shapes: reshape, transpose, slice, concatenate, pad, and what reads a shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.values import Value, on_host

INT64_MAX = np.iinfo(np.int64).max


@translates("Identity")
def identity(at: Call) -> Value:
    """The input itself."""
    return at.value(0)


@translates("Shape")
def shape(at: Call) -> Any:
    """The sizes, or some of them, as int64."""
    rank = at.rank(0)
    start, end = at.integer("start", 0), at.integer("end", rank)
    wanted = range(rank)[slice(start, end)]
    value = at.value(0)
    known = [value.shape[i] for i in wanted]  # type: ignore[union-attr,index]
    if None not in known:
        return np.array(known, np.int64)
    sizes = nl.cast(nl.shape_of(at.tensor(0)), nl.int64)
    return nl.slice(sizes, [wanted.start], [wanted.stop])


@translates("Size")
def size(at: Call) -> Any:
    """The number of elements, as int64."""
    value = at.value(0)
    known = getattr(value, "shape", None)
    if known is not None and None not in known:
        return np.array(np.prod(known, dtype=np.int64))
    return nl.cast(nl.size(at.tensor(0)), nl.int64)


@translates("Reshape")
def reshape(at: Call) -> Any:
    """Another shape: 0 keeps a size (unless `allowzero`), -1 takes what is left."""
    wanted = at.ints("shape") if at.version < 5 else at.known_ints(1)
    value = at.value(0)
    if not at.integer("allowzero", 0):
        kept: tuple[Any, ...] = getattr(value, "shape", ())
        if any(w == 0 and (i >= len(kept) or kept[i] is None) for i, w in enumerate(wanted)):
            kept = at.shape(0)
        wanted = [kept[i] if w == 0 and i < len(kept) else w for i, w in enumerate(wanted)]
    if -1 in wanted and 0 in wanted:
        wanted = [0 if w == -1 else w for w in wanted]
    if on_host(value):
        return np.reshape(at.array(0), wanted)
    return nl.reshape(at.tensor(0), tuple(wanted))


@translates("Flatten")
def flatten(at: Call) -> nl.Tensor:
    """A matrix: the axes before `axis`, and the rest."""
    x, axis = at.tensor(0), at.integer("axis", 1)
    shape = x.shape or at.shape(0)
    axis = axis if axis >= 0 else len(shape) + axis
    if None in shape[:axis] and None not in shape[axis:] and 0 not in shape:
        return nl.reshape(x, (-1, math.prod(d for d in shape[axis:] if d)))
    sizes = at.sizes(x)
    return nl.reshape(x, (math.prod(sizes[:axis]), math.prod(sizes[axis:])))


def _axes(at: Call) -> list[int] | None:
    return at.known_ints(1) if at.has(1) else at.ints("axes", None)


@translates("Squeeze")
def squeeze(at: Call) -> Any:
    """Without axes of size 1."""
    axes = _axes(at)
    if on_host(at.value(0)):
        return np.squeeze(at.array(0), None if axes is None else tuple(axes))
    return nl.squeeze(at.tensor(0), None if axes is None else tuple(axes))


@translates("Unsqueeze")
def unsqueeze(at: Call) -> Any:
    """With new axes of size 1."""
    axes = tuple(_axes(at) or ())
    if on_host(at.value(0)):
        return np.expand_dims(at.array(0), axes)
    return nl.expand_dims(at.tensor(0), axes)


@translates("Transpose")
def transpose(at: Call) -> Any:
    """The axes in another order."""
    order = at.ints("perm", None)
    if on_host(at.value(0)):
        return np.transpose(at.array(0), order)
    return nl.transpose(at.tensor(0), order)


@translates("Concat")
def concat(at: Call) -> Any:
    """Tensors one after the other."""
    axis = at.integer("axis", 1 if at.version < 4 else ...)
    if any(on_host(v) for v in at.inputs):
        return np.concatenate([at.array(i) for i in range(len(at.inputs))], axis)
    return nl.concat(at.tensors(), axis)


@translates("Split")
def split(at: Call) -> tuple[Any, ...]:
    """Parts along an axis, of stated sizes or as equal as can be."""
    axis = at.integer("axis", 0)
    sizes = at.known_ints(1) if at.has(1) else at.ints("split", None)
    if sizes is None:
        count = at.integer("num_outputs", len(at.outputs))
        total = at.shape(0)[axis]
        most = -(-total // count)
        sizes = [max(0, min(most, total - most * i)) for i in range(count)]
    if on_host(at.value(0)):
        return tuple(np.split(at.array(0), np.cumsum(sizes)[:-1], axis))
    return tuple(nl.split(at.tensor(0), sizes, axis))


@translates("Slice")
def slice_attributes(at: Call) -> Any:
    """Before opset 10: bounds are attributes."""
    starts, ends = at.ints("starts"), at.ints("ends")
    return _sliced(at, starts, ends, at.ints("axes", None), None)


@translates("Slice", since=10)
def slice_inputs(at: Call) -> Any:
    """Every step-th element from start up to end along axes."""
    axes = at.known_ints(3) if at.has(3) else None
    steps = at.known_ints(4) if at.has(4) else None
    return _sliced(at, at.known_ints(1), at.known_ints(2), axes, steps)


def _sliced(
    at: Call, starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None
) -> Any:
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    # "To the end" is written as a huge number. Backward, an end before -size is "down to 0".
    bounds: list[tuple[int | None, int | None]] = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = getattr(at.value(0), "shape", ())[axis]
        if size is None and (step < 0 or end >= 1 << 31):
            bounds.append((start, None if end >= 1 << 31 else end))
        elif size is None:
            bounds.append((start, end))
        else:
            bounds.append(_exact(start, end, step, size))
    if on_host(at.value(0)):
        key: list[Any] = [slice(None)] * at.rank(0)
        for axis, bound, step in zip(axes, bounds, steps, strict=True):
            key[axis] = slice(*bound, step)
        return at.array(0)[tuple(key)]
    return nl.slice(
        at.tensor(0), [b[0] for b in bounds], [b[1] for b in bounds], steps, axes=tuple(axes)
    )


def _exact(start: int, end: int, step: int, size: int) -> tuple[int | None, int | None]:
    """Bounds as Python's slices take them, by ONNX's rules for clamping."""
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    if step > 0:
        return min(max(start, 0), size), min(max(end, 0), size)
    first = min(max(start, -1), size - 1)
    if first < 0:
        return 0, 0
    last = min(max(end, -1), size - 1)
    return first, None if last < 0 else last


@translates("Expand")
def expand(at: Call) -> Any:
    """Broadcast to a shape, and the other way around."""
    wanted = tuple(at.known_ints(1))
    if on_host(at.value(0)):
        return at.array(0) * np.ones(wanted, object)
    full = np.broadcast_shapes(at.shape(0), wanted)
    return nl.broadcast_to(at.tensor(0), full)


@translates("Tile")
def tile_by_axis(at: Call) -> Any:
    """Before opset 6: repeated along one axis."""
    times, axis = at.known_ints(1)[0], at.known_ints(2)[0]
    multiples = [1] * at.rank(0)
    multiples[axis] = times
    return nl.tile(at.tensor(0), tuple(multiples))


@translates("Tile", since=6)
def tile(at: Call) -> Any:
    """Repeated along each axis."""
    if on_host(at.value(0)):
        return np.tile(at.array(0), at.known_ints(1))
    return nl.tile(at.tensor(0), tuple(at.known_ints(1)))


@translates("Pad")
def pad(at: Call) -> nl.Tensor:
    """Elements added along the axes; negative widths cut off."""
    rank = at.rank(0)
    if at.version < 11:
        widths = at.ints("pads" if at.version >= 2 else "paddings")
        value: Any = at.real("value", 0.0)
        axes = list(range(rank))
    else:
        widths = at.known_ints(1)
        value = at.array(2).reshape(()).item() if at.has(2) else 0
        axes = [a % rank for a in at.known_ints(3)] if at.has(3) else list(range(rank))
    pairs = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        pairs[axis] = (widths[i], widths[len(axes) + i])
    return padded(at.tensor(0), pairs, at.text("mode", "constant"), value)


def padded(
    x: nl.Tensor, pairs: list[tuple[int, int]], mode: str = "constant", value: Any = 0
) -> nl.Tensor:
    """x with (before, after) elements more along each axis; fewer where negative."""
    if any(w < 0 for pair in pairs for w in pair):
        axes = tuple(range(len(pairs)))
        starts = [max(0, -before) for before, _ in pairs]
        ends = [None if after >= 0 else after for _, after in pairs]
        x = nl.slice(x, starts, ends, axes=axes)
        pairs = [(max(0, before), max(0, after)) for before, after in pairs]
    if not any(w for pair in pairs for w in pair):
        return nl.identity(x)
    if mode == "constant":
        return nl.pad(x, pairs, value=value)
    if mode in ("reflect", "wrap"):
        return _repeated_pad(x, pairs, mode)
    return nl.pad(x, pairs, mode=mode)


def _repeated_pad(x: nl.Tensor, pairs: list[tuple[int, int]], mode: str) -> nl.Tensor:
    """Mirrored or wrapped parts may be longer than the axis: they go on."""
    for axis, (before, after) in enumerate(pairs):
        if not before and not after:
            continue
        size = x.shape[axis] if x.shape is not None else None
        most = size if size is None or mode == "wrap" else size - 1
        if most is None or max(before, after) <= most:
            x = nl.pad(x, [(before, after)], mode=mode, axes=(axis,))
            continue
        assert size is not None
        places = np.arange(-before, size + after)
        if mode == "wrap" or size == 1:
            places %= size
        else:
            places %= 2 * (size - 1)
            places = np.where(places < size, places, 2 * (size - 1) - places)
        x = nl.gather(x, x.graph.constant(places), axis)
    return x


@translates("DepthToSpace")
def depth_to_space(at: Call) -> nl.Tensor:
    """Channels become blocks of pixels, by depth first ("DCR") or columns and rows ("CRD")."""
    block, (n, c, h, w) = at.integer("blocksize"), at.shape(0)
    rest = c // (block * block)
    if at.text("mode", "DCR") == "DCR":
        x = nl.reshape(at.tensor(0), (n, block, block, rest, h, w))
        x = nl.transpose(x, (0, 3, 4, 1, 5, 2))
    else:
        x = nl.reshape(at.tensor(0), (n, rest, block, block, h, w))
        x = nl.transpose(x, (0, 1, 4, 2, 5, 3))
    return nl.reshape(x, (n, rest, h * block, w * block))


@translates("SpaceToDepth")
def space_to_depth(at: Call) -> nl.Tensor:
    """Blocks of pixels become channels, behind the blocks ("DCR") or before them ("CRD")."""
    block, (n, c, h, w) = at.integer("blocksize"), at.shape(0)
    x = nl.reshape(at.tensor(0), (n, c, h // block, block, w // block, block))
    first = at.text("mode", "DCR") == "DCR"
    x = nl.transpose(x, (0, 3, 5, 1, 2, 4) if first else (0, 1, 3, 5, 2, 4))
    return nl.reshape(x, (n, c * block * block, h // block, w // block))


@translates("ReverseSequence")
def reverse_sequence(at: Call) -> nl.Tensor:
    """The first `sequence_lens[i]` steps of each element of a batch in reverse order."""
    time, batch = at.integer("time_axis", 0), at.integer("batch_axis", 1)
    lengths = nl.cast(at.tensor(1), nl.int64)
    return reversed_steps(at.tensor(0), lengths, time, batch)


def reversed_steps(x: nl.Tensor, lengths: nl.Tensor, time: int, batch: int) -> nl.Tensor:
    """x with the first lengths[i] of its steps (axis `time`) of batch element i reversed."""
    assert x.shape is not None
    steps = x.shape[time]
    assert steps is not None
    position = x.graph.constant(np.arange(steps, dtype=np.int64)[:, None])
    length = nl.expand_dims(lengths, 0)
    source = nl.select(nl.less(position, length), length - 1 - position, position)
    # Step and batch element first, the rest behind them; gathered step by step in each element.
    order = [time, batch, *(a for a in range(len(x.shape)) if a not in (time, batch))]
    moved = nl.transpose(x, order)
    full = nl.reshape(source, (steps, -1, *(1,) * (len(order) - 2)))
    found = nl.gather_along_axis(moved, nl.broadcast_like(full, moved), 0)
    return nl.transpose(found, [order.index(a) for a in range(len(order))])


@translates("Trilu")
def trilu(at: Call) -> nl.Tensor:
    """The upper or lower triangle, zeros elsewhere."""
    rows, columns = at.shape(0)[-2:]
    k = at.known_ints(1)[0] if at.has(1) else 0
    position = np.arange(columns)[None, :] - np.arange(rows)[:, None]
    kept = position >= k if at.integer("upper", 1) else position <= k
    return nl.select(at.constant(kept), at.tensor(0), at.like(0))


@translates("CenterCropPad")
def center_crop_pad(at: Call) -> nl.Tensor:
    """Cropped or zero-padded around the centre, to a shape."""
    sizes, rank = at.shape(0), at.rank(0)
    wanted = at.known_ints(1)
    axes = [a % rank for a in at.ints("axes", range(rank))]
    pairs = [(0, 0)] * rank
    for axis, target in zip(axes, wanted, strict=True):
        more = target - sizes[axis]
        before = more // 2 if more >= 0 else -((-more) // 2)
        pairs[axis] = (before, more - before)
    return padded(at.tensor(0), pairs)
