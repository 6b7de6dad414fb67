"""Whole operations that a vendor library runs: attention, Fourier transforms, recurrent layers.

A back end says as data which operations its libraries take (runtime/target.py: OperationClaim).
Those stay whole where other operations are decomposed, have a command of their own as routines
have, and are called with the attributes of the operation, what its operands are and where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from niello.core.dtypes import float32
from niello.core.errors import CompilerBug
from niello.core.shapes import row_major_strides
from niello.graph.opdef import Op, Trait
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.kernel import ir
from niello.kernel.bounds import affine
from niello.runtime.commands import LibraryCall
from niello.runtime.target import OperationClaim
from niello.schedule.lower import lower_group

Attributes = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Claimed:
    """A call: the function, its settings, and the tensors it works on, the results last."""

    function: str
    attributes: Attributes
    tensors: tuple[Tensor, ...]
    results: int = 1

    def command(self, buffers: tuple[object, ...], names: tuple[str, ...] = ()) -> LibraryCall:
        """The call on buffers, one for each tensor."""
        read = len(self.tensors) - self.results
        written = (*(False,) * read, *(True,) * self.results)
        return LibraryCall(self.function, self.attributes, buffers, written, names)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Operand:
    """An operand of a call: where its elements lie in a tensor that is in memory, counted in
    elements; or the value of all of them, which then are nowhere."""

    tensor: Tensor
    strides: tuple[int, ...]
    offset: int = 0
    value: float | None = None

    def description(self, type: Tensor) -> tuple[object, ...]:
        """What the call says of it: element type, shape, strides, offset, value."""
        shape = type.type.static_shape
        return (type.dtype.name, shape, self.strides, self.offset, self.value)


class OperationCalls:
    """The operations that libraries run here.

    Attributes of a call are those of the operation; `operands`, an `Operand.description` for each
    input; `results`: element type, shape, and whether somebody reads it, for each output; and
    `tf32`. Its buffers are the operands without a value, then the results that somebody reads,
    row-major. `refusal` says why a library cannot run a call, or nothing.
    """

    def __init__(
        self,
        claims: Sequence[OperationClaim],
        refusal: Callable[[LibraryCall], str],
        *,
        tf32: bool = False,
    ) -> None:
        self._claims = tuple(claims)
        self._tf32 = tf32
        self._refusal = refusal
        self._chosen: dict[Operation, tuple[OperationClaim, tuple[Operand, ...]]] = {}
        self.refusals: list[str] = []

    def runs(self, operation: Operation, used: Collection[Tensor]) -> bool:
        """Whether a library runs the operation, its operands being contiguous, for the results
        among the tensors that are used."""
        bare = operation.op.bare()
        if bare is not None and not _for_itself(operation, bare[1]):
            return False
        return self._choice(operation, used, strided=False) is not None

    def reads(self, operation: Operation, used: Collection[Tensor]) -> tuple[Tensor, ...]:
        """The tensors that the call of an operation needs in memory."""
        return tuple(o.tensor for o in self._operands(operation, used)[1] if o.value is None)

    def call(self, operation: Operation, used: Collection[Tensor]) -> Claimed:
        """The call of an operation that `runs`, of whose results some are used."""
        claim, operands = self._operands(operation, used)
        return self._claimed(claim, operation, operands, used)

    def _operands(
        self, operation: Operation, used: Collection[Tensor]
    ) -> tuple[OperationClaim, tuple[Operand, ...]]:
        found = self._chosen.get(operation)
        if found is None:
            found = self._choice(operation, used, strided=True)
            found = found or self._choice(operation, used, strided=False)
            if found is None:
                raise CompilerBug(
                    operation.name,
                    "no library runs what one had promised to run",
                    received=", ".join(self.refusals[-1:]),
                )
            self._chosen[operation] = found
        return found

    def _choice(
        self, operation: Operation, used: Collection[Tensor], *, strided: bool
    ) -> tuple[OperationClaim, tuple[Operand, ...]] | None:
        for claim in self._claims:
            if claim.operation != operation.op.name or not operation.inputs:
                continue
            static = all(t.type.is_static for t in (*operation.inputs, *operation.outputs))
            if not static or operation.inputs[0].dtype not in claim.dtypes:
                continue
            if strided and not claim.strided:
                continue
            operands = tuple(_operand(t, strided) for t in _plain(operation)[1])
            call = self._claimed(claim, operation, operands, used)
            reason = self._refusal(call.command(()))
            if not reason:
                return claim, operands
            self.refusals.append(f"{operation.name} not run by {claim.function}: {reason}")
        return None

    def _claimed(
        self,
        claim: OperationClaim,
        operation: Operation,
        operands: Sequence[Operand],
        used: Collection[Tensor],
    ) -> Claimed:
        op, inputs = _plain(operation)
        results = [t for t in operation.outputs if t in used]
        settings: dict[str, object] = {
            **op.attributes,
            "operands": tuple(o.description(t) for o, t in zip(operands, inputs, strict=True)),
            "results": tuple(
                (t.dtype.name, t.type.static_shape, t in results) for t in operation.outputs
            ),
            "tf32": self._tf32 and inputs[0].dtype is float32,
        }
        tensors = (*(o.tensor for o in operands if o.value is None), *results)
        return Claimed(claim.function, tuple(sorted(settings.items())), tensors, len(results))


def is_call(operation: Operation) -> bool:
    """Whether an operation is there to be run whole: all others like it have been decomposed."""
    return operation.op.has_decompose() and not operation.op.has_lower()


def _plain(operation: Operation) -> tuple[Op, tuple[Tensor, ...]]:
    """The operation and its inputs without those that are its own results."""
    bare = operation.op.bare()
    if bare is None:
        return operation.op, operation.inputs
    return bare[0], operation.inputs[: -bare[1]]


def _for_itself(operation: Operation, count: int) -> bool:
    """Whether the last inputs of an operation, and what only makes those, serve nobody else."""
    below = _ancestors(operation.inputs[:-count])
    own = _ancestors(operation.inputs[-count:]) - below
    own = {o for o in own if o.inputs or not Trait.STRUCTURAL & o.op.traits}
    readers = (o for o in operation.graph.operations if o is not operation and o not in own)
    return not any(t.operation in own for o in readers for t in o.inputs)


def _ancestors(tensors: Sequence[Tensor]) -> set[Operation]:
    found: set[Operation] = set()
    stack = [t.operation for t in tensors]
    while stack:
        o = stack.pop()
        if o not in found:
            found.add(o)
            stack += [t.operation for t in o.inputs]
    return found


def _operand(tensor: Tensor, strided: bool) -> Operand:
    """How a call reads a tensor: as a view of what is in memory where that is allowed."""
    shape = tensor.type.static_shape
    strides = row_major_strides(shape)
    if 0 in shape or not (strided or _repeats(tensor)):
        return Operand(tensor, strides)
    kernel = lower_group("view", (tensor,), _moves)
    store = kernel.kernel.stores[0]
    assert isinstance(store, ir.Store)
    value = store.value
    while isinstance(value, ir.Cast):  # elements of half types travel as float32
        value = value.x
    if isinstance(value, ir.Const):
        return Operand(tensor, strides, value=float(value.value))
    if not strided or not isinstance(value, ir.Load) or value.gate is not None:
        return Operand(tensor, strides)
    source = kernel.tensors[value.param.slot]
    place = affine(value.index)
    if not place.is_affine or source.dtype is not tensor.dtype:
        return Operand(tensor, strides)
    ranges = iter(store.ranges)  # axes of size 1 have none
    steps = [place.coefficients.get(next(ranges), 0) if n > 1 else 0 for n in shape]
    return Operand(source, tuple(steps), place.constant)


def _moves(operation: Operation) -> bool:
    """A movement of one tensor; composite ones, as stacks, are still there during Decompose."""
    traits = operation.op.traits
    moves = Trait.MOVEMENT in traits and Trait.MANY_SOURCES not in traits
    return moves and operation.op.has_lower()


def _repeats(tensor: Tensor) -> bool:
    """Whether all elements come from one constant that repeats a value."""
    while _moves(tensor.operation) and tensor.operation.inputs:
        tensor = tensor.operation.inputs[0]
    data = getattr(tensor.operation.op, "data", None)
    return data is not None and bool(data.is_splat)
