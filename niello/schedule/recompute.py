"""Recomputing instead of storing: cheap results are computed again by each kernel that reads them.

A pointwise result that only other kernels read costs a write and a read for each of them. When what
it is made of is in memory anyway, the readers can start from that: `x - mean` is not stored beside
`x`, and a product that is only summed is never stored at all.
"""

from __future__ import annotations

from collections.abc import Collection

from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.schedule.access import Kind, Way, profile
from niello.schedule.codes import is_splat
from niello.schedule.stitch import Group, Stitcher

# Scalar operations that are worth a byte less of memory traffic for each element.
COST_PER_READER = 16.0


def recompute(
    stitcher: Stitcher, groups: list[Group], kept: Collection[Tensor] = ()
) -> list[Group]:
    """Turn cheap results into views, readers' side first; returns the groups that are left.

    Results that are `kept` stay in memory.
    """
    needed = {*stitcher.required, *kept}
    candidates = [t for g in groups for t in g.outputs if t not in needed]
    for tensor in sorted(candidates, key=lambda t: -t.operation.number):
        group = stitcher.group_of.get(tensor.operation)
        if group is None:
            continue
        cone = _cone(stitcher, group, tensor)
        if cone and _worth_it(stitcher, group, tensor, cone):
            _inline(stitcher, cone)
    return stitcher.finish()


def _cone(stitcher: Stitcher, group: Group, tensor: Tensor) -> list[Operation]:
    """The operations of the group between results in memory and this one; empty when one of them
    is no plain pointwise operation."""
    outputs = set(group.outputs)
    inside = set(group.operations)
    found: dict[Operation, None] = {}
    stack = [tensor.operation]
    while stack:
        o = stack.pop()
        if o in found:
            continue
        plain = stitcher.profiles[o].kind is Kind.POINTWISE and len(o.outputs) == 1
        if not plain or o.control_inputs or any(t in stitcher.required for t in o.outputs):
            return []
        found[o] = None
        for a in stitcher.profiles[o].accesses:
            if a.tensor.operation in inside and a.tensor not in outputs:
                stack.append(a.tensor.operation)
    return list(found)


def _leaves(stitcher: Stitcher, cone: list[Operation]) -> set[Tensor]:
    return {
        a.tensor
        for o in cone
        for a in stitcher.profiles[o].accesses
        if a.tensor.operation not in cone and not is_splat(a.tensor)
    }


def _worth_it(stitcher: Stitcher, group: Group, tensor: Tensor, cone: list[Operation]) -> bool:
    """Whether reading the leaves instead moves fewer bytes, at a tolerable cost."""
    leaves = _leaves(stitcher, cone)
    readers = [r for r in stitcher.readers.get(tensor.operation, ()) if r in stitcher.group_of]
    outside = {stitcher.group_of[r] for r in readers} - {group}
    if not outside or len(readers) != len(stitcher.readers.get(tensor.operation, ())):
        return False
    for r in readers:
        if stitcher.group_of[r] is not group and not _may_recompute(stitcher, r, tensor):
            return False
    before = tensor.type.bytes * (1 + len(outside))
    if set(group.operations) == set(cone):  # nothing is left that reads the leaves here
        before += sum(leaf.type.bytes for leaf in leaves)
    after = sum(leaf.type.bytes for g in outside for leaf in leaves - _read_by(stitcher, g))
    cost = sum(stitcher.profiles[o].cost for o in cone)
    # On a tie recomputing wins: writes cost more than reads, and readers of the same may be merged.
    return after <= before and cost <= COST_PER_READER and _fits(stitcher, outside, leaves)


def _may_recompute(stitcher: Stitcher, reader: Operation, tensor: Tensor) -> bool:
    """A reader that takes each element once, and is no contraction (those read from memory)."""
    found = stitcher.profiles[reader]
    if found.kind is Kind.CONTRACT:
        return False
    return all(
        a.way is not Way.OTHER or a.reuse <= 1.0 for a in found.accesses if a.tensor is tensor
    )


def _read_by(stitcher: Stitcher, group: Group) -> set[Tensor]:
    """What a group has at hand: what it loads, and what it computes itself."""
    inside = {t for o in group.operations for t in o.outputs}
    return inside | {a.tensor for o in group.operations for a in stitcher.profiles[o].accesses}


def _fits(stitcher: Stitcher, groups: set[Group], leaves: set[Tensor]) -> bool:
    return all(len(_read_by(stitcher, g) | leaves) <= stitcher.limits.max_buffers for g in groups)


def _inline(stitcher: Stitcher, cone: list[Operation]) -> None:
    """Make views of the operations and look at their readers again."""
    affected = {r for o in cone for r in stitcher.readers.get(o, ())} - set(cone)
    for o in cone:
        stitcher.inline(o)
    for r in affected:
        if r in stitcher.profiles:
            stitcher.profiles[r] = profile(r, stitcher.is_view)
