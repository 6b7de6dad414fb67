"""Horizontal stitching: independent pointwise kernels at the end of a program become one.

An optimiser step updates many parameters with the same small computation; launched one by one, the
launches cost more than the arithmetic.
"""

from __future__ import annotations

from niello.core.nodes import Node, transform
from niello.graph.tensor import Tensor
from niello.kernel.ir import Kernel, Param, Store
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
            _merge(order, batch)
            batch = []
        batch.append(step)
    _merge(order, batch)


def _buffers(steps: list[Step]) -> int:
    return sum(len(s.lowered.tensors) for s in steps if s.lowered is not None)


def _merge(order: Order, steps: list[Step]) -> None:
    if len(steps) < 2:
        return
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
