"""Convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import niello as nl
from niello.frontends.onnx.writer import Unwritable, Writer, static, writes


def _channels_first(letters: str, first: str) -> list[int]:
    """The order that brings a layout's letters to `first` and spatial axes."""
    spatial = [i for i, c in enumerate(letters) if c not in first]
    return [*(letters.index(c) for c in first), *spatial]


def _inverse(order: Sequence[int]) -> list[int]:
    return [list(order).index(a) for a in range(len(order))]


def _settings(window: Any, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> dict[str, Any]:
    pairs = window.amounts(sizes, kernel)
    return {
        "kernel_shape": list(kernel),
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "pads": [*(p[0] for p in pairs), *(p[1] for p in pairs)],
    }


@writes("convolution")
def convolution(w: Writer, o: nl.Operation, x: str, weights: str) -> str:
    """Conv, with transposes around it where the channels are last."""
    s = o.op.attributes["settings"]
    if not o.inputs[0].dtype.is_float or s.accumulate is not None:
        raise Unwritable("ONNX's Conv is for floats, summed in a type of its own choice")
    data = _channels_first(s.data.letters, "NC")
    kernel = _channels_first(s.weights.letters, "OI")
    shape, sizes = static(o.inputs[0]), static(o.inputs[1])
    settings = _settings(
        s.window,
        tuple(shape[a] for a in data[2:]),
        tuple(sizes[a] for a in kernel[2:]),
    )
    y = w.node(
        "Conv", w.transpose(x, data), w.transpose(weights, kernel), group=s.groups, **settings
    )
    return w.transpose(y, _inverse(data))


@writes("convolution_data_gradient")
def transposed(w: Writer, o: nl.Operation, x: str, weights: str, *like: str) -> str:
    """ConvTranspose: the transposed convolution."""
    s = o.op.attributes["settings"]
    if not o.inputs[0].dtype.is_float or s.accumulate is not None:
        raise Unwritable("ONNX's ConvTranspose is for floats, summed in a type of its own choice")
    data = _channels_first(s.data.letters, "NC")
    kernel = _channels_first(s.weights.letters, "OI")
    shape, sizes = static(o.inputs[0]), static(o.inputs[1])
    full = static(o.outputs[0])
    out = tuple(full[a] for a in data[2:])
    inner = tuple(sizes[a] for a in kernel[2:])
    settings = _settings(s.window, out, inner)
    pairs = s.window.amounts(out, inner)
    # What the output has beyond the smallest that fits is ONNX's output_padding.
    places = [shape[a] for a in data[2:]]
    extra = [
        size - ((n - 1) * stride + (k - 1) * dilation + 1 - sum(pair))
        for size, n, k, stride, dilation, pair in zip(
            out, places, inner, s.window.strides, s.window.dilations, pairs, strict=True
        )
    ]
    y = w.node(
        "ConvTranspose",
        w.transpose(x, data),
        w.transpose(weights, kernel),
        group=s.groups,
        output_padding=extra,
        **settings,
    )
    return w.transpose(y, _inverse(data))


POOLS = {"max_pool": "MaxPool", "average_pool": "AveragePool", "lp_pool": "LpPool"}


@writes(*POOLS)
def pool(w: Writer, o: nl.Operation, x: str) -> str:
    """Pooling over the spatial axes, wherever they are."""
    s = o.op.attributes["settings"]
    sliding, shape = s.windows, static(o.inputs[0])
    window = getattr(sliding, "window", None)
    kernel = getattr(sliding, "kernel", None)
    if window is None or kernel is None:
        raise Unwritable("ONNX has no pooling to a given size")
    rest = [a for a in range(len(shape)) if a not in s.axes]
    if len(rest) != 2:
        raise Unwritable("ONNX pools over all axes but two")
    order = [*rest, *s.axes]
    settings = _settings(window, tuple(shape[a] for a in s.axes), tuple(kernel))
    settings["ceil_mode"] = int(window.ceil)
    if o.op.name == "average_pool":
        counted = o.op.attributes["counted"]
        if counted not in ("padded", "inside"):
            raise Unwritable("ONNX has no sum over windows")
        settings["count_include_pad"] = int(counted == "padded")
    if o.op.name == "lp_pool":
        p = o.op.attributes["p"]
        if p != int(p):
            raise Unwritable("ONNX has whole numbers p only")
        settings["p"] = int(p)
    y = w.node(POOLS[o.op.name], w.transpose(x, order), **settings)
    return w.transpose(y, _inverse(order))
