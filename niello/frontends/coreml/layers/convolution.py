"""Convolutions of two and three spatial axes, and transposed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer

Pairs = list[tuple[int, int]]


def same_padding(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    lower: bool = False,
) -> Pairs:
    """(before, after) of each axis for ceil(size / stride) places; `lower`: more before."""
    pairs = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        places = -(-size // stride)
        pairs.append(halves(max(0, (places - 1) * stride + (k - 1) * dilation + 1 - size), lower))
    return pairs


def halves(total: int, lower: bool) -> tuple[int, int]:
    """A padding in two parts, the larger one after, or with `lower` before."""
    less = total // 2
    return (total - less, less) if lower else (less, total - less)


def border(amounts: Any, count: int = 2) -> Pairs:
    """The pairs of a BorderAmounts message; none mean zero."""
    pairs = [(int(e.startEdgeSize), int(e.endEdgeSize)) for e in amounts.borderAmounts]
    return pairs or [(0, 0)] * count


def with_bias(y: nl.Tensor, bias: nl.Tensor) -> nl.Tensor:
    """y plus one number for each channel (axis 1)."""
    assert y.shape is not None
    return nl.add(y, nl.reshape(bias, (1, -1, *(1,) * (len(y.shape) - 2))))


def transposed_padding(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    target: Sequence[int],
    lower: bool = False,
) -> Pairs:
    """What is cut from both ends for results of the target sizes; less than nothing adds zeros."""
    pairs = []
    for i, wanted in enumerate(target):
        full = (sizes[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        pairs.append(halves(full - wanted, lower))
    return pairs


def convolve(
    x: nl.Tensor,
    weights: nl.Tensor,
    padding: Pairs,
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    transposed: bool = False,
) -> nl.Tensor:
    """A convolution of one to three spatial axes, channels first."""
    count = len(padding)
    kind = "conv_transpose" if transposed else "conv"
    function = getattr(nl, f"{kind}{count}d")
    cut = [(max(0, a), max(0, b)) for a, b in padding] if transposed else padding
    y: nl.Tensor = function(
        x,
        weights,
        padding=tuple(cut),
        strides=tuple(strides),
        dilations=tuple(dilations),
        groups=groups,
    )
    if transposed:
        added = [(max(0, -a), max(0, -b)) for a, b in padding]
        if any(map(any, added)):
            y = nl.pad(y, [(0, 0), (0, 0), *added])
    return y


def settings(values: Any, default: int = 1, count: int = 2) -> list[int]:
    """A repeated field with one number for each axis, or its default."""
    return [int(v) for v in values] or [default] * count


@layer("convolution", fold=False)
def convolution(at: Layer) -> nl.Tensor:
    """Convolution, or with isDeconvolution the transposed one, over height and width."""
    p = at.p
    x = at.images()
    kernel = settings(p.kernelSize, 3)
    strides, dilations = settings(p.stride), settings(p.dilationFactor)
    groups, outputs = max(1, int(p.nGroups)), int(p.outputChannels)
    sizes = at.sizes(x)[2:]
    rows = [int(p.kernelChannels), outputs // groups] if p.isDeconvolution else [
        outputs, int(p.kernelChannels)
    ]  # fmt: skip
    weights = _weights(at, [*rows, *kernel])
    same = p.WhichOneof("ConvolutionPaddingType") == "same"
    lower = same and p.same.asymmetryMode == 1
    if not p.isDeconvolution:
        padding = (
            same_padding(sizes, kernel, strides, dilations, lower)
            if same
            else border(p.valid.paddingAmounts)
        )
    elif len(p.outputShape) or same:
        target = [int(d) for d in p.outputShape] or [
            a * b for a, b in zip(sizes, strides, strict=True)
        ]
        padding = transposed_padding(sizes, kernel, strides, dilations, target, lower)
    else:
        padding = border(p.valid.paddingAmounts)
    y = convolve(x, weights, padding, strides, dilations, groups, bool(p.isDeconvolution))
    if p.hasBias:
        y = with_bias(y, at.weights(p.bias, outputs))
    return at.like(y)


def _weights(at: Layer, shape: Sequence[int]) -> nl.Tensor:
    """The layer's weights, or its second input where they are computed."""
    return at.tensor(1) if len(at.inputs) > 1 else at.weights(at.p.weights, *shape)


AXES = ("Depth", "Height", "Width")
SIDES = ("Front", "Back", "Top", "Bottom", "Left", "Right")


def custom_padding(p: Any) -> Pairs:
    """The padding of a layer over three axes, where it is given in numbers."""
    six = [int(getattr(p, f"customPadding{side}")) for side in SIDES]
    return list(zip(six[::2], six[1::2], strict=True))


def three(p: Any, name: str, default: int = 1) -> list[int]:
    """A setting of each of three axes; unset ones are 0 in the message."""
    return [int(getattr(p, f"{name}{axis}")) or default for axis in AXES]


@layer("convolution3d", fold=False)
def convolution3d(at: Layer) -> nl.Tensor:
    """Convolution over depth, height and width, or the transposed one."""
    p = at.p
    x = at.tensor()
    kernel, strides, dilations = three(p, "kernel", 3), three(p, "stride"), three(p, "dilation")
    groups, outputs = max(1, p.nGroups), int(p.outputChannels)
    sizes = at.shape()[2:]
    kind = p.PaddingType.Name(p.paddingType)
    rows = [p.inputChannels, outputs // groups] if p.isDeconvolution else [
        outputs, p.inputChannels // groups
    ]  # fmt: skip
    if p.isDeconvolution and (len(p.outputShape) or kind == "SAME"):
        target = [int(d) for d in p.outputShape][-3:] or [
            a * b for a, b in zip(sizes, strides, strict=True)
        ]
        padding = transposed_padding(sizes, kernel, strides, dilations, target)
    elif kind == "SAME":
        padding = same_padding(sizes, kernel, strides, dilations)
    else:
        padding = custom_padding(p) if kind == "CUSTOM" else [(0, 0)] * 3
    weights = at.weights(p.weights, *rows, *kernel)
    y = convolve(x, weights, padding, strides, dilations, groups, p.isDeconvolution)
    return with_bias(y, at.weights(p.bias, outputs)) if p.hasBias else y
