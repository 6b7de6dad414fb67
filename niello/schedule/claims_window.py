"""Two-dimensional convolutions and their gradients, as a library that knows windows takes them.

A window cannot be read off an index map without doubt (its stride and its dilation may hide in one
factor), so this looks at the operation's settings; the epilogue is found in the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.kernel.bounds import affine
from niello.kernel.build import ravel
from niello.kernel.ir import Range
from niello.kernel.simplify import simplify_expr
from niello.ops.conv import (
    Convolution,
    ConvolutionDataGradient,
    ConvolutionOp,
    ConvolutionWeightsGradient,
)
from niello.runtime.target import Claim
from niello.schedule.access import Kind
from niello.schedule.claims import accumulates_in, epilogue_of, tensor_of, the_contraction
from niello.schedule.claims_operation import Claimed
from niello.schedule.lower import Lowered
from niello.schedule.stitch import Group, Stitcher

KINDS = {
    Convolution: "forward",
    ConvolutionDataGradient: "data",
    ConvolutionWeightsGradient: "weights",
}


def window(claim: Claim, stitcher: Stitcher, group: Group, lowered: Lowered) -> Claimed | None:
    """The call that computes a group which is a convolution, or None."""
    operation = next(
        (o for o in group.operations if stitcher.profiles[o].kind is Kind.CONTRACT), None
    )
    contract = the_contraction(lowered.kernel)
    if operation is None or contract is None or not isinstance(operation.op, ConvolutionOp):
        return None
    kind = KINDS.get(type(operation.op))
    dtype = operation.outputs[0].dtype
    store = lowered.kernel.stores[0]
    points = math.prod(r.extent for r in (*store.ranges, *contract.ranges))
    if kind is None or dtype not in claim.dtypes or not accumulates_in(dtype, contract):
        return None
    if points < claim.cost or store.param.dtype is not dtype:
        return None
    if any(not _in_memory(stitcher, group, t) for t in operation.inputs[:2]):
        return None
    settings = describe(operation, kind)
    if settings is None or not _row_major(store.index, store.ranges, operation):
        return None
    channel = _channel(store.ranges, operation)
    epilogue = epilogue_of(store, contract, channel if kind == "forward" else None)
    if epilogue is None or not epilogue.allowed(claim):
        return None
    if any(load.param.dtype is not dtype for load in epilogue.loads):
        return None
    tensors = [
        *operation.inputs[:2],
        *(tensor_of(lowered, load) for load in epilogue.loads),
        lowered.tensors[store.param.slot],
    ]
    attributes = {**settings, "dtype": dtype.name, "epilogue": epilogue.steps}
    return Claimed(claim.function, tuple(sorted(attributes.items())), tuple(tensors))


def _in_memory(stitcher: Stitcher, group: Group, tensor: Tensor) -> bool:
    """Whether a tensor lies in memory as the operation sees it."""
    o = tensor.operation
    return o not in group.operations and not stitcher.is_view(o) and tensor.type.elements > 0


def _row_major(index: Any, ranges: Sequence[Range], operation: Operation) -> bool:
    """Whether results are stored in the order of the operation's own output."""
    total = math.prod(r.extent for r in ranges)
    plain = simplify_expr(ravel(tuple(ranges), [r.extent for r in ranges]))
    same = affine(index).coefficients == affine(plain).coefficients and affine(index).is_affine
    return same and total == operation.outputs[0].type.elements


def _channel(ranges: Sequence[Range], operation: Operation) -> Range | None:
    """The range of the output channels, where it can be told from the others."""
    settings = operation.op.settings  # type: ignore[attr-defined]
    shape = operation.outputs[0].type.static_shape
    wide = [axis for axis, d in enumerate(shape) if d > 1]
    if settings.groups != 1 or [shape[a] for a in wide] != [r.extent for r in ranges]:
        return None
    axis = settings.data.channel
    return ranges[wide.index(axis)] if axis in wide else None


def describe(operation: Operation, kind: str) -> dict[str, object] | None:
    """Sizes, strides and padding of a two-dimensional convolution; None for others.

    Sizes and strides are those of [N, C, H, W] data and results and [O, I, H, W] weights.
    """
    op: Any = operation.op
    settings = op.settings
    if len(settings.data.letters) != 4:
        return None
    first, second = (t.type.static_shape for t in operation.inputs[:2])
    result = operation.outputs[0].type.static_shape
    # (data, weights, results) of the forward convolution.
    x, w, y = {
        "forward": (first, second, result),
        "data": (result, second, first),
        "weights": (second, result, first),
    }[kind]
    data = settings.data
    order = (data.batch, data.channel, *data.spatial)
    letters = settings.weights.letters
    weights_order = (letters.index("O"), letters.index("I"), *settings.weights.spatial)
    sizes = tuple(x[a] for a in data.spatial)
    kernel = tuple(w[a] for a in settings.weights.spatial)
    window = settings.window
    pads = window.amounts(sizes, kernel)
    outputs = tuple(y[a] for a in data.spatial)
    after = []
    for size, (low, _), k, s, d, out in zip(
        sizes, pads, kernel, window.strides, window.dilations, outputs, strict=True
    ):
        reach = (out - 1) * s + (k - 1) * d + 1
        high = max(reach - size - low, 0)
        if (size + low + high - (k - 1) * d - 1) // s + 1 != out:
            return None
        after.append(high)
    return {
        "kind": kind,
        "groups": settings.groups,
        "x": _dims(x, order),
        "w": _dims(w, weights_order),
        "y": _dims(y, order),
        "before": tuple(low for low, _ in pads),
        "after": tuple(after),
        "strides": tuple(window.strides),
        "dilations": tuple(window.dilations),
    }


def _dims(shape: tuple[int, ...], order: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(sizes, strides) of a row-major array with its axes in another order."""
    steps, step = [0] * len(shape), 1
    for axis in reversed(range(len(shape))):
        steps[axis] = step
        step *= shape[axis]
    return tuple(shape[a] for a in order), tuple(steps[a] for a in order)
