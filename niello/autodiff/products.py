"""Matrix products in the gradients of loops: which are kept, and which are made after the loop.

A product that an iteration computes costs more to compute again than to keep. The gradient of a
matrix that all iterations multiply by is a sum of products of an iteration's values: one product
of the stacks of these values, after the loop, reads and writes the sum once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from niello.core.dtypes import DType
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Trait, functions
from niello.graph.operation import Operation
from niello.graph.region import Region, RegionOp, needed, without_effects
from niello.graph.tensor import Tensor
from niello.ops.matmul import Matmul
from niello.ops.transpose import Transpose

# What is kept of a product, to what the iteration keeps anyway.
_KEPT = 4


# --- gradients that are products
@dataclass(frozen=True)
class Product:
    """left^T right, whose rows are summed over; of an iteration's values, or of their stacks."""

    left: Tensor
    right: Tensor
    transposed: bool
    accumulate: DType | None

    def of(self, left: Tensor, right: Tensor, around: bool = False) -> Tensor:
        """The sum over all iterations, of stacks; made as the transpose of its transpose with
        `around`, for what is transposed again."""
        swap, reshape = functions()["swap_axes"], functions()["reshape"]
        pair = [
            reshape(stack, (-1, t.shape[1]))  # type: ignore[index]
            for stack, t in ((left, self.left), (right, self.right))
        ]
        if self.transposed != around:
            pair.reverse()
        made = functions()["matmul"](swap(pair[0], 0, 1), pair[1], accumulate=self.accumulate)
        return swap(made, 0, 1) if around else made  # type: ignore[no-any-return]


def product_of(gradient: Tensor, transposed: bool = False) -> Product | None:
    """The product of two matrices of known width that a gradient is, if it is one."""
    back = turned(gradient)
    if back is not None:
        return product_of(back, not transposed)
    op = gradient.operation.op
    if not isinstance(op, Matmul):
        return None
    first, right = gradient.operation.inputs
    if first.rank != 2 or right.rank != 2:
        return None
    left = turned(first)
    if left is None:
        left = functions()["swap_axes"](first, 0, 1)
    if not all(t.shape and t.shape[1] for t in (left, right)):
        return None
    return Product(left, right, transposed, op.accumulate)


def turned(t: Tensor) -> Tensor | None:
    """What a matrix is the transpose of."""
    op = t.operation.op
    is_turn = isinstance(op, Transpose) and t.rank == 2 and op.axes in (None, (1, 0))
    return t.operation.inputs[0] if is_turn else None


def size(t: Tensor) -> int:
    """Bytes of a tensor where an unknown size is 1: for comparing those of one iteration."""
    return prod(n or 1 for n in t.shape or ()) * t.dtype.itemsize


# --- products that are kept
def worth_keeping(body: Region, held: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """Products of a body, each with what to keep of it: the last value that follows from it
    elementwise with nothing else made of what is in between. `held` is kept anyway."""
    operations = needed(body, effects=False)
    users: dict[Tensor, list[Operation]] = {}
    for o in operations:
        for t in o.inputs:
            users.setdefault(t, []).append(o)
    limit = _KEPT * sum(map(size, held))
    found = {}
    for o in operations:
        if Trait.CONTRACTION in o.op.traits and len(o.outputs) == 1:
            t = o.outputs[0]
            if size(t) <= limit and t.dtype.is_float:
                found[t] = _followed(t, users, set(body.results))
    return found


def _followed(t: Tensor, users: dict[Tensor, list[Operation]], results: set[Tensor]) -> Tensor:
    while t not in results and len(users.get(t, ())) == 1:
        (o,) = users[t]
        if Trait.ELEMENTWISE not in o.op.traits or [r.type for r in o.outputs] != [t.type]:
            break
        (t,) = o.outputs
    return t


def reachable(results: Sequence[Tensor], leaves: set[Tensor]) -> tuple[set[Operation], set[Tensor]]:
    """The operations that results need where `leaves` are given, and those leaves they need."""
    found: set[Operation] = set()
    met: set[Tensor] = set()
    stack = list(results)
    while stack:
        t = stack.pop()
        if t in leaves:
            met.add(t)
        elif t.operation not in found:
            found.add(t.operation)
            stack += t.operation.inputs
    return found, met


def chosen(
    results: Sequence[Tensor], products: dict[Tensor, Tensor], copies: dict[Tensor, Tensor]
) -> set[Tensor]:
    """What to keep so that results need no product: what follows from the products, and products
    themselves where they are used for more. All are copies of what `worth_keeping` found."""
    leaves = {copies[t] for t in products.values()}
    while True:
        computed, met = reachable(results, leaves)
        again = {copies[t] for t in products if copies[t].operation in computed}
        if not again:
            return met
        leaves |= again


def copied(
    graph: GraphDefinition,
    source: GraphDefinition,
    results: Sequence[Tensor],
    known: dict[Tensor, Tensor],
) -> list[Tensor]:
    """Results of another graph, computed again in `graph` from the tensors that are known there."""
    known = dict(known)
    computed, _ = reachable(results, set(known))
    for o in source.operations:
        if o in computed:
            op = without_effects(o.op) if isinstance(o.op, RegionOp) else o.op
            name = o.name.removeprefix(f"{source.name}/")
            made = graph.add(op, [known[t] for t in o.inputs], name=name, where=o.where)
            known.update(
                (t, m) for t, m in zip(o.outputs, made.outputs, strict=True) if t not in known
            )
    return [known[t] for t in results]
