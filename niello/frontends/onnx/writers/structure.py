"""Shapes, indices, normalisations and quantization."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.writer import Unwritable, Writer, static, writes

END = np.iinfo(np.int64).max


@writes("reshape")
def reshape(w: Writer, o: nl.Operation, x: str) -> str:
    """Another shape."""
    return w.reshape(x, o.op.attributes["shape"])


@writes("transpose")
def transpose(w: Writer, o: nl.Operation, x: str) -> str:
    """Axes in another order."""
    return w.node("Transpose", x, perm=o.op.attributes["axes"])


@writes("broadcast_to")
def broadcast_to(w: Writer, o: nl.Operation, x: str) -> str:
    """Repeated to a shape."""
    return w.node("Expand", x, w.integers(*static(o.outputs[0])))


@writes("tile")
def tile(w: Writer, o: nl.Operation, x: str) -> str:
    """Repeated along axes."""
    multiples, rank = o.op.attributes["multiples"], len(static(o.inputs[0]))
    if len(multiples) < rank:
        multiples = (*(1,) * (rank - len(multiples)), *multiples)
    elif len(multiples) > rank:
        x = w.reshape(x, (*(1,) * (len(multiples) - rank), *static(o.inputs[0])))
    return w.node("Tile", x, w.integers(*multiples))


@writes("concat")
def concat(w: Writer, o: nl.Operation, *names: str) -> str:
    """One after the other."""
    return w.node("Concat", *names, axis=o.op.attributes["axis"])


@writes("split")
def split(w: Writer, o: nl.Operation, x: str) -> tuple[str, ...]:
    """Parts along an axis."""
    settings = o.op.attributes
    sizes = [static(t)[settings["axis"]] for t in o.outputs]
    return w.outputs("Split", (x, w.integers(*sizes)), len(sizes), axis=settings["axis"])


@writes("slice")
def slice_(w: Writer, o: nl.Operation, x: str) -> str:
    """A strided window; sides that are left open get bounds beyond the ends."""
    s = o.op.attributes
    starts, ends = [], []
    for start, end, stride in zip(s["starts"], s["ends"], s["strides"], strict=True):
        first, last = (0, END) if stride > 0 else (END, -END)
        starts.append(first if start is None else start)
        ends.append(last if end is None else end)
    if not starts:
        return w.node("Identity", x)
    bounds = (w.integers(*starts), w.integers(*ends), w.integers(*s["axes"]))
    return w.node("Slice", x, *bounds, w.integers(*s["strides"]))


@writes("reverse")
def reverse(w: Writer, o: nl.Operation, x: str) -> str:
    """Axes from the end to the start."""
    axes = o.op.attributes["axes"]
    listed = range(len(static(o.inputs[0]))) if axes is None else axes
    count = len(listed)
    if not count:
        return w.node("Identity", x)
    bounds = (w.integers(*[-1] * count), w.integers(*[-END] * count), w.integers(*listed))
    return w.node("Slice", x, *bounds, w.integers(*[-1] * count))


@writes("pad")
def pad(w: Writer, o: nl.Operation, x: str) -> str:
    """Elements added at the ends of axes."""
    s = o.op.attributes
    if s["mode"] == "symmetric":
        raise Unwritable("ONNX has no symmetric padding")
    widths = w.integers(*s["before"], *s["after"])
    if s["mode"] == "constant":
        return w.node("Pad", x, widths, w.like(s["value"], o.inputs[0]), mode="constant")
    return w.node("Pad", x, widths, mode=s["mode"])


@writes("band_part")
def band_part(w: Writer, o: nl.Operation, x: str) -> str:
    """A band around the diagonal: two triangles."""
    s = o.op.attributes
    if s["below"] is not None:
        x = w.node("Trilu", x, w.weight(np.array(-s["below"], np.int64)), upper=1)
    if s["above"] is not None:
        x = w.node("Trilu", x, w.weight(np.array(s["above"], np.int64)), upper=0)
    return w.node("Identity", x)


def _index(w: Writer, o: nl.Operation, i: int, name: str) -> str:
    """An index in a type that ONNX takes."""
    kind = o.inputs[i].dtype
    return name if kind in (nl.int32, nl.int64) else w.cast(name, nl.int64)


@writes("gather")
def gather(w: Writer, o: nl.Operation, x: str, index: str) -> str:
    """Slices, points, or elements along an axis. Indices must lie inside."""
    s = o.op.attributes
    index = _index(w, o, 1, index)
    if s["form"] == "slices" and s["batch_dims"] == 0:
        return w.node("Gather", x, index, axis=s["axis"])
    if s["form"] == "points":
        wide = index if o.inputs[1].dtype is nl.int64 else w.cast(index, nl.int64)
        return w.node("GatherND", x, wide, batch_dims=s["batch_dims"])
    if s["form"] == "along":
        return w.node("GatherElements", x, index, axis=s["axis"])
    raise Unwritable("ONNX has no gather with batch axes")


MODES = {"set": "none", "add": "add", "mul": "mul", "max": "max", "min": "min"}


@writes("scatter")
def scatter(w: Writer, o: nl.Operation, x: str, index: str, updates: str) -> str:
    """Points, or elements along an axis, put where an index says. Indices must lie inside."""
    s = o.op.attributes
    if s["mode"] not in MODES or s["batch_dims"] or s["form"] == "slices":
        raise Unwritable(f"ONNX has no scatter of {s['form']} with mode {s['mode']}")
    reduction = MODES[s["mode"]]
    if s["form"] == "along":
        index = _index(w, o, 1, index)
        return w.node("ScatterElements", x, index, updates, axis=s["axis"], reduction=reduction)
    wide = index if o.inputs[1].dtype is nl.int64 else w.cast(index, nl.int64)
    return w.node("ScatterND", x, wide, updates, reduction=reduction)


@writes("one_hot")
def one_hot(w: Writer, o: nl.Operation, index: str) -> str:
    """`on` where the index equals a place along the new axis."""
    s, rank = o.op.attributes, len(static(o.outputs[0]))
    axis = s["axis"] % rank
    index = w.cast(index, nl.int64)
    places = np.arange(s["depth"], dtype=np.int64).reshape(-1, *(1,) * (rank - 1 - axis))
    hot = w.node("Equal", w.node("Unsqueeze", index, w.integers(axis)), w.weight(places))
    if s["dtype"] is nl.bool_ and bool(s["on"]) != bool(s["off"]):
        return hot if s["on"] else w.node("Not", hot)
    on, off = (w.weight(np.asarray(s[k]).astype(s["dtype"].numpy)) for k in ("on", "off"))
    return w.node("Where", hot, on, off)


# --- normalisations
@writes("layer_norm")
def layer_norm(w: Writer, o: nl.Operation, x: str, *affine: str) -> str:
    """Over the last axes."""
    s, shape = o.op.attributes, static(o.inputs[0])
    rank = len(shape)
    axes = sorted(a % rank for a in (range(rank) if s["axes"] is None else s["axes"]))
    if not axes or axes != list(range(axes[0], rank)) or 0 in shape:
        raise Unwritable("ONNX normalises over the last axes")
    given = list(affine)
    kind = o.inputs[0].dtype.numpy
    inner = shape[axes[0] :]
    scale = given.pop(0) if s["scaled"] else w.weight(np.ones(inner, kind))
    shift = [given.pop(0)] if s["shifted"] else []
    return w.node("LayerNormalization", x, scale, *shift, axis=axes[0], epsilon=s["epsilon"])


@writes("instance_norm", "group_norm")
def group_norm(w: Writer, o: nl.Operation, x: str, *affine: str) -> str:
    """Each channel, or group of channels, of each element by its own statistics."""
    s, shape = o.op.attributes, static(o.inputs[0])
    rank = len(shape)
    axis = s["axis"] % rank
    if rank < 3 or 0 in shape:
        raise Unwritable("ONNX normalises tensors with spatial axes")
    given, kind = list(affine), o.inputs[0].dtype.numpy
    channels = shape[axis]
    scale = given.pop(0) if s["scaled"] else w.weight(np.ones(channels, kind))
    shift = given.pop(0) if s["shifted"] else w.weight(np.zeros(channels, kind))
    order = [0, axis, *(a for a in range(1, rank) if a != axis)]
    moved = w.transpose(x, order)
    if o.op.name == "instance_norm":
        y = w.node("InstanceNormalization", moved, scale, shift, epsilon=s["epsilon"])
    else:
        settings = {"num_groups": s["groups"], "epsilon": s["epsilon"]}
        y = w.node("GroupNormalization", moved, scale, shift, **settings)
    return w.transpose(y, [order.index(a) for a in range(rank)])


# --- quantization
def _scales(w: Writer, o: nl.Operation) -> dict[str, Any]:
    """The axis, or the axis and size of blocks, of scales."""
    x, scale = static(o.inputs[0]), static(o.inputs[1])
    axis = o.op.attributes["axis"]
    if math.prod(scale) == 1:
        return {}
    if len(scale) == 1 and (axis is not None or len(x) != 1):
        return {"axis": 1 if axis is None else axis}
    blocks = [a for a in range(len(x)) if x[a] != scale[a]]
    if len(blocks) > 1:
        raise Unwritable("ONNX has blocks along one axis")
    along = blocks[0] if blocks else 0
    return {"axis": along, "block_size": -(-x[along] // scale[along])}


def _scalar(w: Writer, o: nl.Operation, i: int, name: str) -> str:
    """One scale or zero point as a scalar."""
    shape = static(o.inputs[i])
    return w.reshape(name, ()) if shape and math.prod(shape) == 1 else name


@writes("quantize")
def quantize(w: Writer, o: nl.Operation, x: str, scale: str, *zero: str) -> str:
    """QuantizeLinear."""
    kind = o.outputs[0].dtype
    if kind is nl.int32:
        raise Unwritable("ONNX does not quantize to int32")
    settings = _scales(w, o)
    if o.inputs[0].dtype.is_half:  # Niello divides in float32
        x, scale = w.cast(x, nl.float32), w.cast(scale, nl.float32)
    given = [_scalar(w, o, 1, scale)]
    given += [_scalar(w, o, 2, z if o.inputs[2].dtype is kind else w.cast(z, kind)) for z in zero]
    if not zero:
        shape = () if not settings else static(o.inputs[1])
        given.append(w.weight(np.zeros(shape, kind.numpy)))
    return w.node("QuantizeLinear", x, *given, **settings)


@writes("dequantize")
def dequantize(w: Writer, o: nl.Operation, q: str, scale: str, *zero: str) -> str:
    """DequantizeLinear."""
    settings, kind = _scales(w, o), o.inputs[0].dtype
    if o.inputs[1].dtype is nl.float64:
        raise Unwritable("ONNX has no scales of float64")
    out = o.outputs[0].dtype
    wide = nl.float32 if out is nl.float64 else out
    given = [_scalar(w, o, 1, scale if o.inputs[1].dtype is wide else w.cast(scale, wide))]
    given += [_scalar(w, o, 2, z if o.inputs[2].dtype is kind else w.cast(z, kind)) for z in zero]
    y = w.node("DequantizeLinear", q, *given, **settings)
    return y if wide is out else w.cast(y, out)


@writes("top_k")
def top_k(w: Writer, o: nl.Operation, x: str) -> tuple[str, str]:
    """TopK, whose positions are int64."""
    s = o.op.attributes
    values, places = w.outputs(
        "TopK", (x, w.integers(s["k"])), 2, axis=s["axis"], largest=int(s["largest"]), sorted=1
    )
    kind = o.outputs[1].dtype
    return values, places if kind is nl.int64 else w.cast(places, kind)
