"""Zero borders of large convolutions as tensors of their own.

A contraction that reads its data through a border copies each line into a small window first; with
the border in memory it reads in place. The copy of the whole tensor costs less than the windows do
where lines are long (CPU, two threads, a 3x3 convolution with 64 channels in and out: 430 instead
of 560 GFLOP/s at 256x256 and 56x56; at 28x28 with 128 channels 580 instead of 560).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from niello.core.dtypes import float32
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.ops.conv import Convolution
from niello.ops.pad import Pad
from niello.passes.computation import Computation, Rebuild, is_pure

LONG_LINE = 32  # pixels of a line of the result from which its border is better off in memory
# With fewer input channels than this, strides over pixels are short enough for the same to hold.
_FEW_CHANNELS = 4


@dataclass(frozen=True)
class Borders:
    """Separate the padding of 2-D convolutions with channels last and long lines."""

    def __call__(self, source: Computation) -> Computation:
        return Rebuild(source, self).run(_visit)


def _visit(
    rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
) -> Sequence[Tensor] | None:
    op = operation.op
    if not isinstance(op, Convolution) or not is_pure(operation) or operation.control_inputs:
        return None
    pads = _borders(op, operation)
    if pads is None:
        return None
    (top, bottom), (left, right) = pads
    border = Pad((0, top, left, 0), (0, bottom, right, 0), "constant", 0.0)
    padded = rebuild.graph.apply(border, inputs[0])
    assert isinstance(padded, Tensor)
    window = replace(op.settings.window, padding=((0, 0), (0, 0)))
    whole = replace(op, settings=replace(op.settings, window=window))
    made = rebuild.graph.apply(whole, padded, inputs[1])
    assert isinstance(made, Tensor)
    return (made,)


def _borders(op: Convolution, operation: Operation) -> tuple[tuple[int, int], ...] | None:
    """Padding of each spatial axis, of a convolution that is better off with it in memory."""
    s, (x, w) = op.settings, operation.inputs
    if s.groups != 1 or x.dtype is not float32 or s.data.letters != "NHWC":
        return None
    _, channels, sizes = s.data.pick(x.type.static_shape)
    line = operation.outputs[0].type.static_shape[2]
    near = max(s.window.strides) == 1 or (channels or 0) <= _FEW_CHANNELS
    pads = s.window.amounts(sizes, s.kernel(w.type.static_shape))  # type: ignore[arg-type]
    if line < LONG_LINE or not near or not any(map(any, pads)) or min(map(min, pads)) < 0:
        return None
    return pads


__all__ = ["Borders"]
