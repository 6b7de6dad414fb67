"""Operations on tensors of small integers and half types, which memory holds as they are."""

from __future__ import annotations

from niello.graph.opdef import Trait
from niello.graph.operation import Operation
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.schedule.access import profile

CHAIN = 4  # operations from codes to values: a cast, a zero point, a cast, a scale
CHEAP_STEP = 1.0  # scalar operations for each element that one of them may take


def is_splat(tensor: Tensor) -> bool:
    """A constant that repeats one value: an immediate, not memory."""
    op = tensor.operation.op
    return isinstance(op, Constant) and op.data.is_splat


def narrows(operation: Operation) -> bool:
    """Makes a half type, or an integer of 8 bits, of a wider one."""
    made = operation.outputs[0].dtype
    if made.is_integer and made.bits <= 8:
        return any(t.dtype.bits > 16 for t in operation.inputs)
    return made.is_half and not any(t.dtype.is_half for t in operation.inputs)


def widens(operation: Operation) -> bool:
    """Makes a wider float of one half tensor."""
    made = operation.outputs[0].dtype
    return (
        len(operation.inputs) == 1
        and operation.inputs[0].dtype.is_half
        and (made.is_float and not made.is_half)
    )


def unpacks(operation: Operation, chain: int = CHAIN) -> bool:
    """Makes wider values of one tensor of 8-bit integers and numbers, at little cost: what reads
    them reads bytes instead and does the same."""
    if Trait.ELEMENTWISE not in operation.op.traits:
        return False
    made = operation.outputs[0].type
    varying = [t for t in operation.inputs if t.type.elements != 1 and not is_splat(t)]
    if made.dtype.bits <= 8 or len(varying) != 1 or varying[0].type.elements != made.elements:
        return False
    (source,) = varying
    from_bytes = source.dtype.is_integer and source.dtype.bits <= 8
    if not from_bytes and (chain == 1 or not unpacks(source.operation, chain - 1)):
        return False
    return profile(operation, _is_nothing).cost <= CHEAP_STEP


def _is_nothing(operation: Operation) -> bool:
    return False


def is_small(tensor: Tensor, depth: int = 4) -> bool:
    """Integers of at most 16 bits or a number, or made of such element by element."""
    if tensor.type.elements == 1 or (tensor.dtype.is_integer and tensor.dtype.bits <= 16):
        return True
    made = tensor.operation
    return (
        depth > 0
        and tensor.dtype.is_integer
        and Trait.ELEMENTWISE in made.op.traits
        and all(is_small(t, depth - 1) for t in made.inputs)
    )
