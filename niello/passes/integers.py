"""Contractions of dequantized tensors run on the integers themselves.

    conv((q - z) * s, (w - y) * t)    becomes    conv(q - z, w - y) * (s * t)

with the sums in int32, which are exact. What follows (bias, activation, quantization) is stitched
into the same kernel as ever; only roundings of float sums go away.

A constant zero point z of the data enters by the sums of the weights: the contraction is then of
bytes as they are, which processors multiply four at a time.

    conv(q - z, w)    becomes    conv(q padded with z, w) - z * sum(w)

Between contractions codes stay codes: signed ones are stored plus 128, a maximum is one of codes,
and quantizing again what has just been dequantized is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from niello.core.dtypes import float32, int8, int32
from niello.graph.opdef import Op, functions, registry
from niello.graph.operation import Operation
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.ops.cast import Cast
from niello.ops.conv import Convolution
from niello.ops.conv_settings import WeightsLayout
from niello.ops.define import cast_to
from niello.ops.matmul import Matmul
from niello.ops.pool import MaxPool
from niello.ops.pool_windows import Sliding
from niello.ops.quantize import Dequantize, Quantize
from niello.ops.reshape import Reshape
from niello.ops.slice import Slice
from niello.ops.transpose import Transpose
from niello.passes.codes import (
    Codes,
    dequantized,
    known_number,
    known_scale,
    shifted,
    unsigned,
)
from niello.passes.computation import Computation, Rebuild

UNIT = 4  # bytes that processors multiply at a time: fewer channels are filled up to so many
MOVES = (Reshape, Transpose, Slice)


@dataclass(frozen=True)
class Integers:
    """Fold dequantization into the convolutions and matrix products that follow it."""

    def __call__(self, source: Computation) -> Computation:
        return Rebuild(source, self).run(_Walk().visit)


@dataclass
class _Walk:
    """What is known while one computation is rebuilt: signed codes by their unsigned form."""

    without_sign: dict[Tensor, Tensor] = field(default_factory=dict)

    def visit(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        op = operation.op
        if operation.control_inputs or not operation.outputs:
            return None
        if not all(t.type.is_static for t in inputs):
            return None
        made: Tensor | None = None
        if isinstance(op, Convolution) and op.settings.accumulate is None:
            made = _convolution(op, operation.outputs[0], inputs)
        elif isinstance(op, Matmul) and op.accumulate is None:
            made = _matmul(op, operation.outputs[0], inputs)
        elif isinstance(op, Dequantize):
            made = self._dequantize(op, inputs)
        elif isinstance(op, Quantize):
            made = self._quantize(op, inputs)
        elif isinstance(op, MaxPool):
            made = _max_pool(op, inputs[0])
        return None if made is None else [made]

    def _dequantize(self, op: Dequantize, inputs: tuple[Tensor, ...]) -> Tensor | None:
        """Signed codes by their unsigned form."""
        q, scale, *points = inputs
        zero = known_number(points[0]) if points else 0
        if q.dtype is not int8 or zero is None or scale.type.elements != 1:
            return None
        if q not in self.without_sign:
            found = unsigned(q)
            if found is None:
                return None
            self.without_sign[q] = found
        codes = self.without_sign[q]
        point = q.graph.constant(np.full(scale.type.static_shape, zero + 128, np.uint8))
        return _applied(Dequantize(op.dtype, op.axis), codes, scale, point)

    def _quantize(self, op: Quantize, inputs: tuple[Tensor, ...]) -> Tensor | None:
        """The codes that x was dequantized from (and moved, perhaps), where they are the same."""
        x, scale, *points = inputs
        moves: list[Op] = []
        while isinstance(x.operation.op, MOVES):
            moves.append(x.operation.op)
            x = x.operation.inputs[0]
        source = x.operation.op
        if not isinstance(source, Dequantize) or source.dtype is not float32:
            return None
        q, before, *points_before = x.operation.inputs
        step = known_scale(scale)
        zeros = [known_number(p[0]) if p else 0 for p in (points, points_before)]
        if step is None or step != known_scale(before) or None in zeros:
            return None
        found = q
        for move in reversed(moves):
            found = _applied(move, found)
        if op.dtype is q.dtype and zeros[0] == zeros[1]:
            return found
        if op.dtype is int8 and q.dtype.name == "uint8" and zeros[0] + 128 == zeros[1]:  # type: ignore[operator]
            signed = cast_to(cast_to(found, int32) - 128, int8)
            self.without_sign[signed] = found
            return signed
        return None


def _max_pool(op: MaxPool, x: Tensor) -> Tensor | None:
    """The greatest codes: dequantization keeps their order."""
    source = x.operation.op
    if not isinstance(source, Dequantize) or not _always_inside(op, x):
        return None
    q, scale, *zero = x.operation.inputs
    if known_scale(scale) is None:
        return None
    return _applied(source, _applied(op, q), scale, *zero)


def _always_inside(op: MaxPool, x: Tensor) -> bool:
    """Whether every window sees some element of the input."""
    windows = op.settings.windows
    if not isinstance(windows, Sliding):
        return True
    sizes = op.settings.pick(x.type.static_shape)
    amounts = windows.window.amounts(sizes, windows.kernel)
    plain = all(d == 1 for d in windows.window.dilations)
    return plain and all(max(pair) < n for pair, n in zip(amounts, windows.kernel, strict=True))


# --- contractions
def _operands(output: Tensor, inputs: tuple[Tensor, ...], terms: int) -> tuple[Codes, Codes] | None:
    """The codes of both operands, where the contraction has an integer form that pays."""
    real = output.dtype is float32
    if not real and output.dtype is not int32:
        return None
    a, b = ((dequantized if real else shifted)(t) for t in inputs)
    if a is None or b is None or a.axis is not None:
        return None
    if real:
        # Sums with and without the zero point of the data must both fit.
        return (a, b) if 2 * terms * a.largest * b.largest < 1 << 31 else None
    return (a, b) if a.zero else None


def _matmul(op: Matmul, output: Tensor, inputs: tuple[Tensor, ...]) -> Tensor | None:
    rank = len(inputs[1].type.static_shape)
    if output.rank is None or rank < 2 or not output.type.is_static:
        return None
    found = _operands(output, inputs, inputs[1].type.static_shape[-2])
    if found is None or found[1].axis not in (None, rank - 1):
        return None
    a, b = found
    weights = b.codes if b.zero == 0 else b.centred
    if not a.zero:
        whole = a.centred if a.zero is None else a.codes
        total = _applied(Matmul(), cast_to(whole, int32), cast_to(weights, int32))
    else:
        wide = cast_to(weights, int32)
        sums = functions()["sum"](wide, axes=-2, keepdims=True)
        total = _applied(Matmul(), cast_to(a.codes, int32), wide) - sums * a.zero
    return _scaled(total, a, b, output.rank - 1)


def _convolution(op: Convolution, output: Tensor, inputs: tuple[Tensor, ...]) -> Tensor | None:
    settings = op.settings
    letters = settings.weights.letters
    shape = inputs[1].type.static_shape
    outputs = letters.index("O")
    found = _operands(output, inputs, prod(shape) // max(shape[outputs], 1))
    if found is None or found[1].axis not in (None, outputs):
        return None
    a, b = found
    weights = b.codes if b.zero == 0 else b.centred
    if isinstance(weights.operation.op, Constant):
        # In the order in which they are multiplied with channels last.
        wanted = "".join(c for c in letters if c not in "IO") + "IO"
        weights = functions()["transpose"](weights, tuple(map(letters.index, wanted)))
        settings = replace(settings, weights=WeightsLayout(wanted))
    total = _Integral(settings, a, weights).total()
    return _scaled(total, a, b, settings.data.channel)


def _scaled(total: Tensor, a: Codes, b: Codes, channel: int) -> Tensor:
    """The sums times the scales of both operands, where they stand for real numbers."""
    if a.scale is None or b.scale is None:
        return total
    scale = b.scale
    if b.axis is not None:
        shape = [1] * (total.rank or 0)
        shape[channel] = -1
        scale = functions()["reshape"](scale, shape)
    return cast_to(total, float32) * (a.scale * scale)  # type: ignore[no-any-return]


@dataclass
class _Integral:
    """A convolution of integers, less their zero points."""

    settings: Any
    a: Codes
    weights: Tensor

    def total(self) -> Tensor:
        settings, a = self.settings, self.a
        if a.zero is None:
            return self._applied(a.centred, self.weights, settings)
        layout, window = settings.data, settings.window
        shape = a.codes.type.static_shape
        _, channels, sizes = layout.pick(shape)
        pads: list[tuple[int, int]] = [(0, 0)] * len(shape)
        kernel = settings.kernel(self.weights.type.static_shape)
        amounts = window.amounts(sizes, kernel)
        if a.zero and any(n for pair in amounts for n in pair):
            pads = list(layout.build((0, 0), (0, 0), amounts))
        if a.zero:
            settings = replace(settings, window=replace(window, padding="valid"))
        weights = self.weights
        extra = UNIT - channels if settings.groups == 1 and channels < UNIT else 0
        if extra:
            pads[layout.channel] = (0, extra)
            inputs = settings.weights.letters.index("I")
            filled = [(0, extra if i == inputs else 0) for i in range(weights.rank or 0)]
            weights = functions()["pad"](weights, filled, value=0)
        data = a.codes
        if any(n for pair in pads for n in pair):
            stored = self._stored(pads) if extra else None
            data = functions()["pad"](data, pads, value=a.zero) if stored is None else stored
        found = self._applied(data, weights, settings)
        return found - self._sums() * a.zero if a.zero else found  # type: ignore[no-any-return]

    def _stored(self, pads: list[tuple[int, int]]) -> Tensor | None:
        """The data with few channels filled up, padded and put last, where it is quantized here."""
        layout, zero = self.settings.data, self.a.zero
        assert zero is not None
        last = (layout.batch, *layout.spatial, layout.channel)
        found = _padded_before(self.a.codes, pads, zero, last)
        back = tuple(map(last.index, range(len(last))))
        return None if found is None else functions()["transpose"](found, back)  # type: ignore[no-any-return]

    def _applied(self, data: Tensor, weights: Tensor, settings: Any) -> Tensor:
        return _applied(Convolution(settings), cast_to(data, int32), cast_to(weights, int32))

    def _sums(self) -> Tensor:
        """The sums of the weights of each output channel, as they broadcast against the result."""
        outputs = self.settings.weights.letters.index("O")
        rank = self.weights.rank or 0
        axes = [i for i in range(rank) if i != outputs]
        shape = [-1 if i == self.settings.data.channel else 1 for i in range(rank)]
        sums = functions()["sum"](cast_to(self.weights, int32), axes=axes)
        return functions()["reshape"](sums, shape)  # type: ignore[no-any-return]


def _padded_before(
    q: Tensor, pads: list[tuple[int, int]], zero: int, order: tuple[int, ...]
) -> Tensor | None:
    """Codes padded with their zero point as what quantizes to it, with axes in another order: one
    kernel stores them so. None where they are not quantized here.
    """
    op, inputs = q.operation.op, q.operation.inputs
    if isinstance(op, Quantize):
        x, scale, *points = inputs
        point = known_number(points[0]) if points else 0
        if known_scale(scale) is None or point != zero:
            return None
        padded = functions()["pad"](x, pads, value=0.0)
        return _applied(op, functions()["transpose"](padded, order), scale, *points)
    if isinstance(op, Cast) and inputs[0].dtype.is_integer:
        found = _padded_before(inputs[0], pads, zero, order)
        return None if found is None else _applied(op, found)
    if isinstance(op, registry()["add"]):
        shift = known_number(inputs[1])
        if shift is None or inputs[1].type.elements != 1:
            return None
        found = _padded_before(inputs[0], pads, zero - shift, order)
        return None if found is None else _applied(op, found, inputs[1])
    return None


def _applied(op: Any, *inputs: Tensor) -> Tensor:
    found = inputs[0].graph.apply(op, *inputs)
    assert isinstance(found, Tensor)
    return found
