"""Operations that rearrange, order and resample elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

import niello as nl
from niello.frontends.onnx.writer import Unwritable, Writer, static, writes


@writes("roll")
def roll(w: Writer, o: nl.Operation, x: str) -> str:
    """Both parts of each axis, exchanged."""
    shape, s = static(o.inputs[0]), o.op.attributes
    for shift, axis in zip(s["shifts"], s["axes"], strict=True):
        size = shape[axis]
        if not size or not shift % size:
            continue
        cut, along = size - shift % size, w.integers(axis)
        parts = [
            w.node("Slice", x, w.integers(a), w.integers(b), along)
            for a, b in ((cut, size), (0, cut))
        ]
        x = w.node("Concat", *parts, axis=axis)
    return w.node("Identity", x)


@writes("diagonal")
def diagonal(w: Writer, o: nl.Operation, x: str) -> str:
    """Places of the flattened matrices."""
    shape, s = static(o.inputs[0]), o.op.attributes
    ends = [s["axis1"] % len(shape), s["axis2"] % len(shape)]
    lead = [a for a in range(len(shape)) if a not in ends]
    rows, columns = (shape[a] for a in ends)
    flat = w.reshape(w.transpose(x, [*lead, *ends]), [*(shape[a] for a in lead), rows * columns])
    places = np.diagonal(np.arange(rows * columns).reshape(rows, columns), s["offset"])
    return w.node("Gather", flat, w.integers(*(int(p) for p in places)), axis=len(lead))


@writes("repeat")
def repeat(w: Writer, o: nl.Operation, x: str) -> str:
    """A new axis behind one, repeated, and both as one."""
    shape, s = static(o.inputs[0]), o.op.attributes
    axis = s["axis"] % len(shape) + 1
    apart = w.reshape(x, (*shape[:axis], 1, *shape[axis:]))
    wide = w.node("Expand", apart, w.integers(*shape[:axis], s["times"], *shape[axis:]))
    return w.reshape(wide, static(o.outputs[0]))


def _blocks(o: nl.Operation, wide: Sequence[int], own: int) -> tuple[list[int], list[int]]:
    """For a tensor with blocks in space (`wide` its sizes, `own` that of the target): all its axes,
    blocks apart, and which place each takes where the blocks are in the target."""
    s = o.op.attributes
    target, axes = s["target"], s["axes"]
    count = len(axes)
    start = target if s["first"] else target + 1
    sizes: list[int] = []
    order: list[int] = []
    for a, size in enumerate(wide):
        if a == target:
            order.append(target + count if s["first"] else target)
        else:
            order.append(a if a < target else a + count)
        if a in axes:
            block = s["blocks"][axes.index(a)]
            sizes += [size // block, block]
            order.append(start + axes.index(a))
        else:
            sizes.append(own if a == target else size)
    return sizes, order


@writes("space_to_axis")
def space_to_axis(w: Writer, o: nl.Operation, x: str) -> str:
    """Blocks of space into another axis."""
    shape = static(o.inputs[0])
    sizes, order = _blocks(o, shape, shape[o.op.attributes["target"]])
    turned = w.transpose(w.reshape(x, sizes), [order.index(i) for i in range(len(order))])
    return w.reshape(turned, static(o.outputs[0]))


@writes("axis_to_space")
def axis_to_space(w: Writer, o: nl.Operation, x: str) -> str:
    """Parts of an axis into blocks of space."""
    shape = static(o.outputs[0])
    sizes, order = _blocks(o, shape, shape[o.op.attributes["target"]])
    cut = [sizes[order.index(i)] for i in range(len(order))]
    return w.reshape(w.transpose(w.reshape(x, cut), order), shape)


# --- windows whose place is computed, or written
def _starts(w: Writer, start: str, shape: Sequence[int], sizes: Sequence[int]) -> str:
    """Where a window begins: negative numbers count from the end; then it is moved so that it
    fits. int64."""
    wide = w.cast(start, nl.int64)
    zeros = w.integers(*[0] * len(shape))
    turned = w.node("Add", wide, w.integers(*shape))
    counted = w.node("Where", w.node("Less", wide, zeros), turned, wide)
    room = w.integers(*(n - size for n, size in zip(shape, sizes, strict=True)))
    return w.node("Max", w.node("Min", counted, room), zeros)


@writes("dynamic_slice")
def dynamic_slice(w: Writer, o: nl.Operation, x: str, start: str) -> str:
    """Slice with computed bounds."""
    shape, sizes = static(o.inputs[0]), static(o.outputs[0])
    if not shape:
        return w.node("Identity", x)
    first = _starts(w, start, shape, sizes)
    last = w.node("Add", first, w.integers(*sizes))
    return w.node("Slice", x, first, last)


@writes("dynamic_update_slice")
def dynamic_update_slice(w: Writer, o: nl.Operation, x: str, update: str, start: str) -> str:
    """ScatterND at the places of the window."""
    shape, sizes = static(o.inputs[0]), static(o.inputs[1])
    if not shape:
        return w.node("Identity", update)
    first = _starts(w, start, shape, sizes)
    inside = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1)
    return w.node("ScatterND", x, w.node("Add", w.weight(inside.astype(np.int64)), first), update)


@writes("slice_update")
def slice_update(w: Writer, o: nl.Operation, x: str, update: str) -> str:
    """ScatterND at the places of the window."""
    shape, s = static(o.inputs[0]), o.op.attributes
    places = [np.arange(n) for n in shape]
    for axis, *bounds in zip(s["axes"], s["starts"], s["ends"], s["strides"], strict=True):
        places[axis] = places[axis][slice(*bounds)]
    index = np.stack(np.meshgrid(*places, indexing="ij"), -1).astype(np.int64)
    wanted = index.shape[:-1]
    if static(o.inputs[1]) != wanted:
        update = w.node("Expand", update, w.integers(*wanted))
    return w.node("ScatterND", x, w.weight(index), update)


# --- order
@writes("sort", "argsort", "sort_rows", "argsort_rows")
def sort(w: Writer, o: nl.Operation, x: str) -> str:
    """All elements of an axis by TopK; equal ones keep their order."""
    shape, s = static(o.inputs[0]), o.op.attributes
    if not shape:
        raise Unwritable("ONNX orders elements along an axis")
    axis = s.get("axis", -1) % len(shape)
    values, places = w.outputs(
        "TopK", (x, w.integers(shape[axis])), 2, axis=axis, largest=int(s["descending"]), sorted=1
    )
    if o.op.name.startswith("sort"):
        return values
    kind = o.outputs[0].dtype
    return places if kind is nl.int64 else w.cast(places, kind)


# --- resampling
COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    "tf_crop_and_resize",
)  # fmt: skip
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@writes("resize")
def resize(w: Writer, o: nl.Operation, x: str) -> str:
    """Resize to sizes, or by factors where those say where elements lie."""
    s, shape, target = o.op.attributes, static(o.inputs[0]), static(o.outputs[0])
    how = s["how"]
    if how.kernel not in ("nearest", "linear", "cubic"):
        raise Unwritable(f"ONNX has no resizing by {how.kernel}")
    if how.coordinates not in COORDINATES:
        raise Unwritable(f"ONNX has no coordinates {how.coordinates}")
    if how.coordinates == "half_pixel_symmetric" and w.opset < 19:
        raise Unwritable("ONNX has half_pixel_symmetric from opset 19 on")
    if how.kernel == "nearest" and how.rounding not in NEAREST:
        raise Unwritable(f"ONNX does not round by {how.rounding}")
    if s["policy"] != "stretch" or any(s["offsets"]) or 0 in shape:
        raise Unwritable("ONNX resizes to sizes or by factors")
    scales = dict(zip(s["axes"], s["scales"], strict=True))
    # Between aligned corners sizes alone count; ONNX would take its factors for them.
    by_size = not any(scales.values()) or how.coordinates == "align_corners"
    if any(scales.values()) and any(n > 0 for n in s["sizes"]):
        raise Unwritable("ONNX takes sizes or factors, not both")
    roi = ""
    if how.coordinates == "tf_crop_and_resize":
        roi = w.weight(_whole(s["axes"], s["roi"], len(shape)))
    factors = w.weight(np.array([scales.get(a, 1.0) for a in range(len(shape))], np.float32))
    given = ("", w.integers(*target)) if by_size else (factors,)
    return w.node(
        "Resize", x, roi, *given,
        mode=how.kernel,
        coordinate_transformation_mode=how.coordinates,
        nearest_mode=how.rounding if how.kernel == "nearest" else None,
        cubic_coeff_a=how.cubic if how.kernel == "cubic" else None,
        antialias=int(how.antialias) or None,
        exclude_outside=int(how.exclude_outside) or None,
        extrapolation_value=s["extrapolation"] or None,
    )  # fmt: skip


def _whole(axes: Sequence[int], roi: Sequence[float], rank: int) -> np.ndarray:
    """Starts and ends of all axes."""
    found = np.array([0.0] * rank + [1.0] * rank, np.float32)
    for i, axis in enumerate(axes):
        found[axis], found[rank + axis] = roi[i], roi[len(axes) + i]
    return found


PADDINGS = {"constant": "zeros", "border": "border", "reflect": "reflection",
            "symmetric": "reflection", "reflection": "reflection"}  # fmt: skip


@writes("grid_sample")
def grid_sample(w: Writer, o: nl.Operation, x: str, grid: str) -> str:
    """GridSample, channels first."""
    s, rank = o.op.attributes, len(static(o.inputs[0]))
    how = s["how"]
    if any(s["orders"]) or not how.normalised or how.relative:
        raise Unwritable("ONNX samples at positions from -1 to 1")
    if how.padding not in PADDINGS or (how.padding == "constant" and s["value"]):
        raise Unwritable(f"ONNX does not sample with {how.padding} {s['value']:g} outside")
    mirror = {"reflect": True, "symmetric": False}.get(how.padding, how.align_corners)
    if mirror != how.align_corners:
        raise Unwritable("ONNX mirrors at centres with align_corners only, else at edges")
    if how.mode == "nearest" and how.rounding != "round_to_even":
        raise Unwritable(f"ONNX does not round by {how.rounding}")
    if w.opset < 20 and rank != 4:
        raise Unwritable("ONNX samples images of two axes before opset 20")
    if rank != 4 and how.mode == "cubic":
        raise Unwritable("ONNX has cubic samples of two axes only")
    names = {"linear": "bilinear", "cubic": "bicubic"} if w.opset < 20 else {}
    forward = [0, rank - 1, *range(1, rank - 1)] if how.channels_last else list(range(rank))
    y = w.node(
        "GridSample",
        w.transpose(x, forward),
        grid,
        mode=names.get(how.mode, how.mode),
        padding_mode=PADDINGS[how.padding],
        align_corners=int(how.align_corners),
    )
    return w.transpose(y, [forward.index(a) for a in range(rank)])


# --- elementwise ones beside activations
@writes("relu_n")
def relu_n(w: Writer, o: nl.Operation, x: str) -> str:
    """x up to a limit; times a slope below 0."""
    s, like = o.op.attributes, o.inputs[0]
    top, zero = w.like(s["limit"], like), w.like(0, like)
    if not s["slope"]:
        return w.node("Min", w.node("Max", x, zero), top)
    low = w.node("Mul", x, w.like(s["slope"], like))
    return w.node("Where", w.node("Less", x, zero), low, w.node("Min", x, top))


@writes("absolute_error", "squared_error", "huber")
def error(w: Writer, o: nl.Operation, x: str, target: str) -> str:
    """How far numbers are apart."""
    apart = w.node("Sub", x, target)
    if o.op.name == "squared_error":
        return w.node("Mul", apart, apart)
    size = w.node("Abs", apart)
    if o.op.name == "absolute_error":
        return size
    like, delta = o.inputs[0], o.op.attributes["delta"]
    half = w.node("Mul", w.node("Mul", size, size), w.like(0.5, like))
    less = w.node("Sub", size, w.like(delta / 2, like))
    line = w.node("Mul", w.like(delta, like), less)
    return w.node("Where", w.node("LessOrEqual", size, w.like(delta, like)), half, line)


@writes("hinge")
def hinge(w: Writer, o: nl.Operation, x: str, target: str) -> str:
    """What is missing to a margin of one."""
    short = w.node("Sub", w.like(1, o.inputs[0]), w.node("Mul", x, target))
    return w.node("Max", short, w.like(0, o.inputs[0]))


@writes("determinant")
def determinant(w: Writer, o: nl.Operation, x: str) -> str:
    """Det."""
    if math.prod(static(o.inputs[0])) == 0:
        raise Unwritable("ONNX does not say what the determinant of nothing is")
    return w.node("Det", x)
