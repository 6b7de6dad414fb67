"""Tensors of codes among the operands of contractions: integers of 8 bits with their zero points,
and with their scales where they stand for real numbers.

    (q - z) * s        a dequantized tensor
    q - z              integers less a zero point, as the quantized operators of ONNX have them

Axes of either may be in another order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from niello.core.dtypes import DType, float32, int32, uint8
from niello.graph import opdef
from niello.graph.opdef import Trait, functions
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.ops.cast import Cast
from niello.ops.define import cast_to
from niello.ops.quantize import Dequantize
from niello.ops.reshape import Reshape
from niello.ops.transpose import Transpose

SCALES = (2.0**-60, 2.0**60)
MOST_BITS = 8  # of codes: products of two have 16 bits, and their sums 32


@dataclass(frozen=True)
class Codes:
    """A tensor of codes: the integers with and without their zero points, and their scales.

    `scale` is a number, or one for each place along `axis`; None for integers that are no real
    numbers. `zero` is the zero point where it is a number that is known; None where it is another
    one. `largest` is the largest magnitude of a code less its zero point.
    """

    codes: Tensor
    centred: Tensor
    zero: int | None
    scale: Tensor | None
    axis: int | None
    largest: int

    def turned(self, order: tuple[int, ...]) -> Codes:
        """With the axes in another order."""
        turn = functions()["transpose"]
        axis = None if self.axis is None else order.index(self.axis)
        codes, centred = turn(self.codes, order), turn(self.centred, order)
        return replace(self, codes=codes, centred=centred, axis=axis)


def dequantized(tensor: Tensor) -> Codes | None:
    """The codes of a tensor of real numbers."""
    op, inputs = tensor.operation.op, tensor.operation.inputs
    if isinstance(op, Transpose) and not tensor.operation.control_inputs:
        found = dequantized(inputs[0])
        return None if found is None else found.turned(order_of(op, tensor))
    if not isinstance(op, Dequantize) or op.dtype is not float32 or not _are_codes(inputs[0]):
        return None
    if tensor.operation.control_inputs:
        return None
    q, scale, *zero = inputs
    single = scale.type.is_static and scale.type.elements == 1
    if not single and (scale.rank != 1 or tensor.rank == 1):
        return None
    rank = q.rank or 0
    axis = None if single else (1 if op.axis is None else op.axis) % rank
    reshape = functions()["reshape"]
    centred = cast_to(q, int32)
    if zero:
        shape = [-1 if i == axis else 1 for i in range(rank)] if axis is not None else ()
        centred = centred - reshape(cast_to(zero[0], int32), shape)
    flat = reshape(cast_to(scale, float32), (-1,) if axis is not None else ())
    known = known_number(zero[0]) if zero else 0
    return Codes(q, centred, known, flat, axis, _largest(q.dtype, bool(zero)))


def shifted(tensor: Tensor) -> Codes | None:
    """The codes of a tensor of integers: q, or q less a zero point, cast to int32."""
    op, inputs = tensor.operation.op, tensor.operation.inputs
    if tensor.operation.control_inputs or tensor.dtype is not int32:
        return None
    if isinstance(op, Transpose):
        found = shifted(inputs[0])
        return None if found is None else found.turned(order_of(op, tensor))
    if isinstance(op, Cast) and _are_codes(inputs[0]):
        return Codes(inputs[0], tensor, 0, None, None, _largest(inputs[0].dtype, False))
    if not isinstance(op, opdef.registry()["subtract"]):
        return None
    whole = shifted(inputs[0])
    if whole is None or whole.zero != 0 or inputs[0].shape != tensor.shape:
        return None
    zero = known_number(inputs[1])
    return replace(whole, centred=tensor, zero=zero, largest=_largest(whole.codes.dtype, True))


def order_of(op: Transpose, tensor: Tensor) -> tuple[int, ...]:
    """The order of axes that a transposition makes."""
    return tuple(reversed(range(tensor.rank or 0))) if op.axes is None else op.axes


def unsigned(tensor: Tensor) -> Tensor | None:
    """Signed codes plus 128: processors multiply bytes without a sign by bytes with one.

    None for what is given or constant, which nothing could store in that form.
    """
    if Trait.STRUCTURAL in tensor.operation.op.traits:
        return None
    return cast_to(cast_to(tensor, int32) + 128, uint8)


def known_number(tensor: Tensor) -> int | None:
    """A constant integer that is the same everywhere, in whatever shape."""
    while isinstance(tensor.operation.op, (Reshape, Cast)):
        tensor = tensor.operation.inputs[0]
    op = tensor.operation.op
    if not isinstance(op, Constant) or not op.data.array.size or not tensor.dtype.is_integer:
        return None
    values = np.unique(op.data.array)
    return int(values[0]) if values.size == 1 else None


def known_scale(tensor: Tensor) -> float | None:
    """A constant scale that is one positive number, far from the limits of floats."""
    while isinstance(tensor.operation.op, Reshape):
        tensor = tensor.operation.inputs[0]
    op = tensor.operation.op
    if not isinstance(op, Constant) or tensor.type.elements != 1:
        return None
    value = float(op.data.array.reshape(-1)[0])
    return value if SCALES[0] <= value <= SCALES[1] else None


def _are_codes(tensor: Tensor) -> bool:
    return tensor.dtype.is_integer and tensor.dtype.bits <= MOST_BITS


def _largest(codes: DType, moved: bool) -> int:
    low, high = int(codes.min), int(codes.max)
    return high - low if moved else max(-low, high)
