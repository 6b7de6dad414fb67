"""Contractions of dequantized tensors run on the integers themselves.

    conv((q - z) * s, (w - y) * t)    becomes    conv(q - z, w - y) * (s * t)

with the sums in int32, which are exact. What follows (bias, activation, quantization) is stitched
into the same kernel as ever; only roundings of float sums go away.

A constant zero point z of the data enters by the sums of the weights: the contraction is then of
bytes as they are, which processors multiply four at a time.

    conv(q - z, w)    becomes    conv(q padded with z, w) - z * sum(w)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from niello.core.dtypes import DType, float32, int32
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import functions
from niello.graph.operation import Operation
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.ops.conv import Convolution
from niello.ops.define import cast_to
from niello.ops.matmul import Matmul
from niello.ops.quantize import Dequantize
from niello.ops.reshape import Reshape
from niello.passes.computation import Computation, Rebuild

MOST_BITS = 8  # of codes: products of two have 16 bits, and their sums 32


@dataclass(frozen=True)
class Integers:
    """Fold dequantization into the convolutions and matrix products that follow it."""

    def __call__(self, source: Computation) -> Computation:
        return Rebuild(source, self).run(_visit)


@dataclass(frozen=True)
class _Codes:
    """A dequantized operand: the integers without their zero points, scales, largest magnitude.

    `scale` is a number, or one for each place along `axis`. `zero` is the zero point where it is a
    number that is known; None where it is another one.
    """

    codes: Tensor
    centred: Tensor
    zero: int | None
    scale: Tensor
    axis: int | None
    largest: int


def _visit(
    rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
) -> Sequence[Tensor] | None:
    op = operation.op
    output = operation.outputs[0] if operation.outputs else None
    if operation.control_inputs or output is None or output.dtype is not float32:
        return None
    if isinstance(op, Convolution) and op.settings.accumulate is None:
        weights = op.settings.weights.letters.index("O")
        return _integers(Convolution(op.settings), inputs, weights, op.settings.data.channel)
    if isinstance(op, Matmul) and op.accumulate is None and output.rank is not None:
        return _integers(Matmul(), inputs, len(inputs[1].type.static_shape) - 1, output.rank - 1)
    return None


def _integers(
    op: Any, inputs: tuple[Tensor, ...], weights_axis: int, channel: int
) -> Sequence[Tensor] | None:
    """The contraction over integers, scaled; None where an operand is something else."""
    if not all(t.type.is_static for t in inputs):
        return None
    left, right = (_matching(t) for t in inputs)
    if left is None or right is None:
        return None
    a, b = _codes(*left), _codes(*right)
    terms = prod(inputs[1].type.static_shape) // max(inputs[1].type.static_shape[weights_axis], 1)
    # Sums with and without the zero point of the data must both fit.
    if 2 * terms * a.largest * b.largest >= 1 << 31 or a.axis is not None:
        return None
    if b.axis not in (None, weights_axis):
        return None
    total = _product(op, a, b, weights_axis, channel)
    scale = b.scale
    if b.axis is not None:
        shape = [1] * (total.rank or 0)
        shape[channel] = -1
        scale = functions()["reshape"](scale, shape)
    return (cast_to(total, float32) * (a.scale * scale),)


def _product(op: Any, a: _Codes, b: _Codes, weights_axis: int, channel: int) -> Tensor:
    """The contraction of the integers, less their zero points."""
    graph = a.codes.graph
    weights = b.codes if b.zero == 0 else b.centred
    if a.zero is None or a.zero == 0:
        whole = a.centred if a.zero is None else a.codes
        return _applied(graph, op, cast_to(whole, int32), cast_to(weights, int32))
    data = a.codes
    if isinstance(op, Convolution):
        window, layout = op.settings.window, op.settings.data
        kernel = op.settings.kernel(b.codes.type.static_shape)
        amounts = window.amounts(layout.pick(data.type.static_shape)[2], kernel)
        if any(n for pair in amounts for n in pair):
            pads = layout.build((0, 0), (0, 0), amounts)
            data = functions()["pad"](data, list(pads), value=a.zero)
        op = Convolution(replace(op.settings, window=replace(window, padding="valid")))
    wide = cast_to(weights, int32)
    found = _applied(graph, op, cast_to(data, int32), wide)
    rank = wide.rank or 0
    if isinstance(op, Matmul):
        sums = functions()["sum"](wide, axes=-2, keepdims=True)
    else:
        axes = [i for i in range(rank) if i != weights_axis]
        shape = [-1 if i == channel else 1 for i in range(rank)]
        sums = functions()["reshape"](functions()["sum"](wide, axes=axes), shape)
    return found - sums * a.zero  # type: ignore[no-any-return]


def _applied(graph: GraphDefinition, op: Any, a: Tensor, b: Tensor) -> Tensor:
    found = graph.apply(op, a, b)
    assert isinstance(found, Tensor)
    return found


def _matching(tensor: Tensor) -> tuple[Dequantize, tuple[Tensor, ...]] | None:
    """The dequantization of small integers that makes a tensor."""
    op = tensor.operation.op
    if not isinstance(op, Dequantize) or op.dtype is not float32:
        return None
    codes = tensor.operation.inputs[0].dtype
    if not codes.is_integer or codes.bits > MOST_BITS or tensor.operation.control_inputs:
        return None
    scale = tensor.operation.inputs[1].type
    single = scale.is_static and scale.elements == 1
    if not single and (scale.rank != 1 or tensor.rank == 1):
        return None
    return op, tensor.operation.inputs


def _codes(op: Dequantize, parts: tuple[Tensor, ...]) -> _Codes:
    q, scale, *zero = parts
    rank = q.rank or 0
    axis = None
    reshape = functions()["reshape"]
    if scale.type.elements != 1:
        axis = (1 if op.axis is None else op.axis) % rank
    centred = cast_to(q, int32)
    if zero:
        shape = [-1 if i == axis else 1 for i in range(rank)] if axis is not None else ()
        centred = centred - reshape(cast_to(zero[0], int32), shape)
    flat = reshape(cast_to(scale, float32), (-1,) if axis is not None else ())
    known = _known(zero[0]) if zero else 0
    return _Codes(q, centred, known, flat, axis, _largest(q.dtype, bool(zero)))


def _known(zero: Tensor) -> int | None:
    """A constant zero point that is the same everywhere, in whatever shape."""
    while isinstance(zero.operation.op, Reshape):
        zero = zero.operation.inputs[0]
    op = zero.operation.op
    if not isinstance(op, Constant) or not op.data.array.size:
        return None
    values = np.unique(op.data.array)
    return int(values[0]) if values.size == 1 else None


def _largest(codes: DType, shifted: bool) -> int:
    """The largest magnitude of a code less its zero point."""
    low, high = int(codes.min), int(codes.max)
    return high - low if shifted else max(-low, high)
