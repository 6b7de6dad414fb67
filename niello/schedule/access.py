"""How an operation reads its inputs, found by lowering it alone and looking at its loads.

The stitcher knows operations only through this: no op names, no traits.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

from niello.core.dtypes import int64
from niello.core.nodes import Node, walk
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.kernel import ir
from niello.kernel.build import ravel
from niello.kernel.ir import ArgReduce, Contract, Expr, Fn, Load, Range, Reduce, Store
from niello.kernel.simplify import simplify_expr
from niello.schedule.claims_operation import is_call
from niello.schedule.lower import lower_group


class Kind(enum.Enum):
    """What an operation's kernel is made of."""

    POINTWISE = "pointwise"
    REDUCE = "reduce"
    CONTRACT = "contract"
    ROUTINE = "routine"  # an imperative kernel or a library's, between tensors in memory


class Way(enum.Enum):
    """How the element of an output relates to the elements it reads of one tensor."""

    IDENTITY = "identity"  # the element at the same row-major offset
    ROW_BROADCAST = "row broadcast"  # output is outer x row; reads element `outer`
    ROW_REDUCE = "row reduce"  # reads outer x row; output element is `outer`
    OTHER = "other"


@dataclass(frozen=True)
class Access:
    """One tensor read by an operation. `row` is the row length of the two row ways; `reuse` how
    often each element is evaluated when the tensor is computed in place of being loaded."""

    tensor: Tensor
    way: Way
    row: int = 1
    reuse: float = 1.0


@dataclass(frozen=True)
class Profile:
    """What the stitcher needs to know of an operation."""

    kind: Kind
    elements: int
    accesses: tuple[Access, ...]
    cost: float  # scalar operations per output element, without reductions' repetition


# Relative cost of scalar functions; whatever is not listed costs 1.
COSTS = {"div": 4, "sqrt": 4, "truncdiv": 20, "truncmod": 20, "floordiv": 20, "floormod": 20}
TRANSCENDENTAL_COST = 12
TRANSCENDENTAL = frozenset(
    name
    for name, spec in ir.SCALAR_FUNCTIONS.items()
    if spec.kinds == ("float",)
    and name not in ("div", "sqrt", "fma", "floor", "ceil", "trunc", "rint", "copysign")
)


def profile(operation: Operation, is_view: Callable[[Operation], bool]) -> Profile:
    """Lower `operation` alone (views of its inputs included) and classify what it loads."""
    if is_routine(operation) or is_call(operation):
        read = tuple(Access(t, Way.OTHER) for t in dict.fromkeys(operation.inputs))
        return Profile(Kind.ROUTINE, operation.outputs[0].type.elements, read, 0.0)
    lowered = lower_group("solo", operation.outputs, lambda o: o is operation or is_view(o))
    stores = lowered.kernel.stores
    nodes = list(walk([s.value for s in stores]))
    kind = Kind.POINTWISE
    if any(isinstance(n, (Reduce, ArgReduce)) for n in nodes):
        kind = Kind.REDUCE
    if any(isinstance(n, Contract) for n in nodes):
        kind = Kind.CONTRACT
    found: dict[Tensor, list[Access]] = {}
    for store in stores:
        for load, bound in _loads(store.value):
            tensor = lowered.tensors[load.param.slot]
            found.setdefault(tensor, []).append(_classify(tensor, load, bound, store, kind))
    accesses = []
    for tensor, ways in found.items():
        same = all((a.way, a.row) == (ways[0].way, ways[0].row) for a in ways)
        worst = max(a.reuse for a in ways)
        accesses.append(
            ways[0] if same else Access(tensor, Way.OTHER, reuse=max(worst, float(len(ways))))
        )
    elements = operation.outputs[0].type.elements
    return Profile(kind, elements, tuple(accesses), _cost(nodes))


def is_routine(operation: Operation) -> bool:
    """Whether an operation runs as an imperative kernel of its own."""
    return operation.op.has_routine() and not operation.op.has_lower()


def _cost(nodes: list[Node]) -> float:
    total = 0.0
    for node in nodes:
        if isinstance(node, Fn) and node.dtype is not int64:
            total += TRANSCENDENTAL_COST if node.name in TRANSCENDENTAL else COSTS.get(node.name, 1)
    return total


def _loads(value: Expr) -> list[tuple[Load, tuple[Range, ...]]]:
    """Every load below `value` with the ranges bound around it, outermost first."""
    found: dict[tuple[Load, tuple[Range, ...]], None] = {}
    seen: set[tuple[Node, tuple[Range, ...]]] = set()
    stack: list[tuple[Node, tuple[Range, ...]]] = [(value, ())]
    while stack:
        node, bound = stack.pop()
        if (node, bound) in seen:
            continue
        seen.add((node, bound))
        if isinstance(node, Load):
            found[node, bound] = None
        inner = bound
        if isinstance(node, (Reduce, ArgReduce, Contract)):
            inner = (*bound, *node.ranges)
        stack.extend((c, inner) for c in node.children)
    return list(found)


def _classify(
    tensor: Tensor, load: Load, bound: tuple[Range, ...], store: Store, kind: Kind
) -> Access:
    size = tensor.type.elements
    outer = math.prod(r.extent for r in store.ranges)
    inner = math.prod(r.extent for r in bound)
    if kind is Kind.CONTRACT:
        free = [r for r in (*store.ranges, *bound) if r in ir.free_ranges(load)]
        return Access(tensor, Way.OTHER, reuse=math.prod(r.extent for r in free) / max(size, 1))
    if size == 0:
        return Access(tensor, Way.OTHER)
    reuse = outer * inner / size
    if not bound and load.index is store.index and size == outer:
        return Access(tensor, Way.IDENTITY)
    if not bound and 0 < size < outer and outer % size == 0:
        row = outer // size
        leading = _leading(store.ranges, size)
        if leading is not None and load.index is leading:
            return Access(tensor, Way.ROW_BROADCAST, row)
    if bound and size == outer * inner:
        row_index = ravel(bound, [r.extent for r in bound])
        expected = simplify_expr(store.index * inner + row_index)
        if load.index is expected:
            return Access(tensor, Way.ROW_REDUCE, inner)
    return Access(tensor, Way.OTHER, reuse=reuse)


def _leading(ranges: tuple[Range, ...], size: int) -> Expr | None:
    """Row-major offset over the leading ranges whose extents multiply to `size`."""
    product = 1
    for count in range(len(ranges) + 1):
        if product == size:
            chosen = ranges[:count]
            return simplify_expr(ravel(chosen, [r.extent for r in chosen]))
        if count < len(ranges):
            product *= ranges[count].extent
    return None
