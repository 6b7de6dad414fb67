"""Movements that a contraction reads from memory: its operands should lie on straight lines."""

from __future__ import annotations

from niello.core.dtypes import float32, int64
from niello.core.nodes import walk
from niello.graph.operation import Operation
from niello.kernel.ir import Fn, Load, free_ranges
from niello.passes.borders import LONG_LINE
from niello.schedule.lower import domain_ranges, lower_group

_TURNS = ("where", "min", "max")


def bends(operation: Operation) -> bool:
    """Whether a movement makes more elements than it reads, by turning around at some index.

    Padding that reflects or repeats an edge does. A contraction would work out where each element
    lies as often as it reads it, once for each position of a convolution's kernel, instead of
    loading rows of them.
    """
    loads = _loads(operation)
    return any(
        isinstance(n, Fn) and n.name in _TURNS and n.dtype is int64
        for n in walk([load.index for load in loads])
    )


def is_border(operation: Operation) -> bool:
    """Whether a movement puts zeros around images with long lines, channels last: they are read
    faster with the border in memory than line by line through a small copy that has one."""
    shape = operation.outputs[0].type.static_shape
    if len(shape) != 4 or shape[2] <= LONG_LINE or operation.outputs[0].dtype is not float32:
        return False
    gates = [load.gate for load in _loads(operation) if load.gate is not None]
    channel = domain_ranges(shape)[0][-1:] if shape[3] > 1 else ()
    return bool(gates) and all(free_ranges(g).isdisjoint(channel) for g in gates)


def _loads(operation: Operation) -> list[Load]:
    """What a movement reads that makes more elements than there were."""
    if operation.outputs[0].type.elements <= operation.inputs[0].type.elements:
        return []
    lowered = lower_group("solo", operation.outputs, lambda o: o is operation)
    return [n for n in walk([s.value for s in lowered.kernel.stores]) if isinstance(n, Load)]
