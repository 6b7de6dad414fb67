"""Horizontal stitching: independent kernels become one.

An optimiser step updates many parameters with the same small computation; launched one by one, the
launches cost more than the arithmetic. Reductions of the same tensors over the same axes (the sums
of a gradient and of its product with the input) share one pass over memory.
"""

from __future__ import annotations

from niello.core.nodes import Node, transform, walk
from niello.graph.tensor import Tensor
from niello.kernel.ir import ArgReduce, Kernel, Param, Reduce, Store
from niello.runtime.target import Limits
from niello.schedule.access import Kind
from niello.schedule.lower import Lowered
from niello.schedule.order import Order, Step
from niello.schedule.stitch import Group


def stitch_sinks(order: Order, limits: Limits) -> None:
    """Merge pointwise kernels that no other kernel reads, as far as the limits allow."""
    read = {b for s in order.steps for b in s.before}
    batch: list[Step] = []
    for step in list(order.steps):
        pointwise = step.group is not None and step.group.layout.kind is Kind.POINTWISE
        if not pointwise or step.fill or step in read:
            continue
        if batch and _buffers([*batch, step]) > limits.max_buffers:
            _merge_all(order, batch)
            batch = []
        batch.append(step)
    _merge_all(order, batch)


def stitch_siblings(order: Order, limits: Limits) -> None:
    """Merge reductions over the same ranges that read mostly the same memory."""
    waiting: dict[tuple[object, ...], list[Step]] = {}
    for step in list(order.steps):
        space = _reduction_space(step)
        if space is None:
            continue
        batch = waiting.setdefault(space, [])
        for i, other in enumerate(batch):
            fits = _buffers([other, step]) <= limits.max_buffers
            if fits and _share_memory(other, step) and _independent(order, other, step):
                batch[i] = _merge(order, [other, step])
                break
        else:
            batch.append(step)


def _reduction_space(step: Step) -> tuple[object, ...] | None:
    """Result ranges and reduced extents of a kernel that is one plain reduction."""
    if step.group is None or step.lowered is None or step.fill:
        return None
    layout = step.group.layout
    if layout.kind is not Kind.REDUCE or layout.row > 1:
        return None
    spaces = set()
    for s in step.lowered.kernel.stores:
        reductions = [n for n in walk([s.value]) if isinstance(n, (Reduce, ArgReduce))]
        if len(reductions) != 1:
            return None
        spaces.add((s.ranges, tuple(r.extent for r in reductions[0].ranges)))
    return spaces.pop() if len(spaces) == 1 else None


def _share_memory(a: Step, b: Step) -> bool:
    ours, theirs = set(a.reads), set(b.reads)
    common = sum(t.type.bytes for t in ours & theirs)
    smaller = min(sum(t.type.bytes for t in ours), sum(t.type.bytes for t in theirs))
    return 2 * common >= smaller > 0


def _independent(order: Order, a: Step, b: Step) -> bool:
    return not order.reaches(a, b) and not order.reaches(b, a)


def _buffers(steps: list[Step]) -> int:
    return sum(len(s.lowered.tensors) for s in steps if s.lowered is not None)


def _merge(order: Order, steps: list[Step]) -> Step:
    groups = [s.group for s in steps if s.group is not None]
    operations = sorted((o for g in groups for o in g.operations), key=lambda o: o.number)
    whole = Group(operations, groups[0].layout, [t for g in groups for t in g.outputs], groups)
    lowered = concatenate(f"together_{len(steps)}", [s.lowered for s in steps if s.lowered])
    merged = Step(max(s.number for s in steps), lowered, whole)
    for s in steps:
        merged.before |= s.before
        merged.in_place.update(s.in_place)
        order.steps.remove(s)
    for o in operations:
        order.step_of[o] = merged
    order.steps.append(merged)
    for s in order.steps:
        if s.before & set(steps):
            s.before = (s.before - set(steps)) | {merged}
    return merged


def _merge_all(order: Order, steps: list[Step]) -> None:
    if len(steps) > 1:
        _merge(order, steps)


def concatenate(name: str, parts: list[Lowered]) -> Lowered:
    """One kernel with the stores of all parts; buffers that several parts read are passed once."""
    slots: dict[Tensor, int] = {}
    written: dict[Tensor, bool] = {}
    like: dict[Tensor, Param] = {}
    for part in parts:
        for tensor, param in zip(part.tensors, part.kernel.params, strict=True):
            slots.setdefault(tensor, len(slots))
            written[tensor] = written.get(tensor, False) or param.written
            like[tensor] = param
    params = tuple(
        Param(slot, like[t].dtype, like[t].elements, written[t]) for t, slot in slots.items()
    )
    stores: list[Store] = []
    for part in parts:
        memo: dict[Node, Node] = {
            p: params[slots[t]] for t, p in zip(part.tensors, part.kernel.params, strict=True)
        }
        for s in part.kernel.stores:
            new = transform(s, lambda n: n, memo)
            assert isinstance(new, Store)
            stores.append(new)
    return Lowered(Kernel(name, params, tuple(stores)), tuple(slots))
