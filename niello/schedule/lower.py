"""One group of operations to one kernel: elements are pulled from the outputs to the inputs.

Inside the group an operation's value is its `lower`ed expression; outside it is a Load. Elements of
half types travel as float32 and are rounded when they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from niello.core.dtypes import carrier, compute_dtype, int64
from niello.core.nodes import Node, transform, walk
from niello.core.shapes import StaticShape
from niello.graph.operation import Operation
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.kernel import ir
from niello.kernel.build import Builder, Index, Value, ravel, unravel
from niello.kernel.ir import Expr, Kernel, Param, Range, Store
from niello.kernel.routine import Routine
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.kernel.simplify import simplify, simplify_expr
from niello.kernel.storage import decode, encode

OPERATIONS_PER_STACK = 40  # of at most about ten frames each


def on_new_stack(function: Callable[[], Expr]) -> Expr:
    """The result of `function`, which may recurse as deep as a new thread allows."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="niello-lower") as fresh:
        return fresh.submit(function).result()


@dataclass(frozen=True)
class Lowered:
    """A kernel, and the tensor behind each of its parameters (inputs and outputs of the group)."""

    kernel: Kernel | Routine
    tensors: tuple[Tensor, ...]


class Lowering:
    """The state of lowering one group: memo of elements, parameters made so far.

    `inside(operation)` says whether an operation is computed here or its result loaded.
    """

    def __init__(self, inside: Callable[[Operation], bool]) -> None:
        self.inside = inside
        self.memo: dict[tuple[object, ...], Expr] = {}
        self.gates: list[Expr] = []
        self.values: dict[Tensor, Value] = {}
        self.loads: dict[Tensor, Param] = {}
        self.order: list[Tensor] = []
        self.depth = 0  # operations being lowered, each waiting for the next
        self.numbers: dict[Operation, int] = {}  # of a kernel alone, so that equal ones are equal

    def value(self, tensor: Tensor) -> Value:
        found = self.values.get(tensor)
        if found is None:
            found = Value(
                tensor.type.static_shape, tensor.dtype, lambda index: self.element(tensor, index)
            )
            self.values[tensor] = found
        return found

    def element(self, tensor: Tensor, index: Index) -> Expr:
        """An element of a tensor: an immediate, a computed expression, or a load."""
        operation = tensor.operation
        op = operation.op
        # Indices in canonical form, so that one element asked twice is one node.
        index = tuple(simplify_expr(i) if isinstance(i, ir.Fn) else i for i in index)
        if isinstance(op, Constant) and op.data.is_splat and op.data.array.size:
            return ir.const(op.data.array.reshape(-1)[0].item(), compute_dtype(tensor.dtype))
        key = (tensor, index, tuple(self.gates))
        found = self.memo.get(key)
        if found is None:
            found = self.memo[key] = (
                self._nested(operation, tensor.index, index)
                if self.inside(operation)
                else self._loaded(tensor, index)
            )
        return found

    def _nested(self, operation: Operation, output: int, index: Index) -> Expr:
        """`_computed`, however deep the chain of operations: each takes several Python frames."""
        self.depth += 1
        try:
            if self.depth % OPERATIONS_PER_STACK:
                return self._computed(operation, output, index)
            return on_new_stack(lambda: self._computed(operation, output, index))
        finally:
            self.depth -= 1

    def _computed(self, operation: Operation, output: int, index: Index) -> Expr:
        number = self.numbers.setdefault(operation, len(self.numbers))
        k = Builder(f"r{number}", self.gates)
        inputs = [self.value(t) for t in operation.inputs]
        found = operation.op.lower(k, output, index, *inputs)
        return ir.cast(found, compute_dtype(operation.outputs[output].dtype))

    def _loaded(self, tensor: Tensor, index: Index) -> Expr:
        param = self.loads.get(tensor)
        if param is None:
            dtype = carrier(tensor.dtype)
            param = Param(-1 - len(self.order), dtype, tensor.type.elements, False)
            self.loads[tensor] = param
            self.order.append(tensor)
        offset = ravel(index, tensor.type.static_shape)
        loaded = Builder("load", self.gates).load(param, offset)
        return decode(loaded, tensor.dtype)


def lower_group(
    name: str,
    outputs: Sequence[Tensor],
    inside: Callable[[Operation], bool],
    domains: Sequence[StaticShape] = (),
) -> Lowered:
    """A simplified kernel that stores `outputs`, computing the operations `inside` says and loading
    the rest.

    `domains` are the natural iteration spaces of the group (a contraction's own output shape, say):
    an output iterates in row-major order over the first that has as many elements, or else over
    its own shape.
    """
    lowering = Lowering(inside)
    drafts = [_draft_store(lowering, t, domains) for t in outputs]
    return _finish(name, outputs, drafts, lowering)


@dataclass(frozen=True)
class Draft:
    """A store before its parameter is known."""

    ranges: tuple[Range, ...]
    index: Expr
    value: Expr
    gate: Expr | None = None
    combine: str | None = None


def _draft_store(lowering: Lowering, tensor: Tensor, domains: Sequence[StaticShape]) -> Draft:
    shape = tensor.type.static_shape
    over = next((d for d in domains if math.prod(d) == tensor.type.elements), shape)
    ranges, position = domain_ranges(over)
    offset = ravel(position, over)
    index = position if over == shape else unravel(offset, shape)
    value = lowering.element(tensor, index)
    return Draft(ranges, offset, encode(value, tensor.dtype))


def lower_scatter(
    name: str, operation: Operation, inside: Callable[[Operation], bool]
) -> tuple[Lowered, bytes]:
    """A kernel that combines into the operation's result, and the pattern that fills it before."""
    lowering = Lowering(inside)
    tensor = operation.outputs[0]
    k = Builder("s", lowering.gates)
    spec = operation.op.scatter(k, *(lowering.value(t) for t in operation.inputs))
    assert spec is not None
    ranges, point = domain_ranges(spec.extents)
    gate = spec.inside(*point)
    with k.gate(gate):
        value = ir.cast(spec.value(*point), tensor.dtype)
    target = ravel(spec.target(*point), tensor.type.static_shape)
    draft = Draft(ranges, target, value, gate, spec.combine)
    pattern = np.asarray(spec.initial, tensor.dtype.numpy).tobytes()
    return _finish(name, (tensor,), (draft,), lowering), pattern


def build_routine(name: str, operation: Operation) -> Lowered:
    """The imperative kernel of an operation: its distinct inputs are read, its outputs written."""
    read = tuple(dict.fromkeys(operation.inputs))
    tensors = (*read, *operation.outputs)
    params = [
        Param(slot, t.dtype, t.type.elements, slot >= len(read)) for slot, t in enumerate(tensors)
    ]
    places = [Place(p, t.type.static_shape) for p, t in zip(params, tensors, strict=True)]
    inputs = [places[read.index(t)] for t in operation.inputs]
    r = RoutineBuilder(name, inputs, places[len(read) :])
    operation.op.routine(r, *inputs)
    return Lowered(r.finish(tuple(params)), tensors)


def domain_ranges(shape: StaticShape) -> tuple[tuple[Range, ...], Index]:
    """Ranges over a shape, named in order, and the index they form; axes of size 1 have none."""
    index: list[Expr] = []
    ranges: list[Range] = []
    for size in shape:
        if size == 1:
            index.append(ir.const(0, int64))
        else:
            ranges.append(Range(f"i{len(ranges)}", size))
            index.append(ranges[-1])
    return tuple(ranges), tuple(index)


def _finish(
    name: str, outputs: Sequence[Tensor], drafts: Sequence[Draft], lowering: Lowering
) -> Lowered:
    """Simplify, then number the parameters: loaded tensors that are left first, then outputs."""
    loads = {lowering.loads[t]: t for t in lowering.order}
    written = [
        Param(slot, carrier(t.dtype), t.type.elements, True) for slot, t in enumerate(outputs)
    ]
    drawn = tuple(
        Store(param, d.ranges, d.index, d.value, d.gate, d.combine)
        for param, d in zip(written, drafts, strict=True)
    )
    kernel = simplify(Kernel(name, (*loads, *written), drawn))
    used = {n.param for n in walk(kernel.stores) if isinstance(n, ir.Load)}
    kept = [p for p in loads if p in used]
    memo: dict[Node, Node] = {}
    params: list[Param] = []
    for old in (*kept, *written):
        params.append(Param(len(params), old.dtype, old.elements, old.written))
        memo[old] = params[-1]
    stores = tuple(transform(s, lambda n: n, memo) for s in kernel.stores)
    tensors = (*(loads[p] for p in kept), *outputs)
    return Lowered(Kernel(name, tuple(params), stores), tensors)  # type: ignore[arg-type]
