"""Claims: contractions that a vendor library runs, found in stitched groups by their structure.

A back end says as data which kinds of contraction its libraries take, in which element types, with
which epilogues (runtime/target.py: Claim). Here they are matched against groups. A group that a
library takes whole becomes one call; of other groups the contraction alone is tried, and the rest
becomes a group of its own. What no library takes is left to generated kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from niello.core.dtypes import DType
from niello.core.nodes import walk
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.kernel.bounds import affine
from niello.kernel.ir import (
    Cast,
    Contract,
    Expr,
    Fn,
    Kernel,
    Load,
    Range,
    Store,
    free_ranges,
)
from niello.kernel.routine import Routine
from niello.runtime.commands import LibraryCall
from niello.runtime.target import Claim, OperationClaim
from niello.schedule.access import Kind
from niello.schedule.claims_operation import Claimed, OperationCalls, is_call
from niello.schedule.lower import Lowered, lower_group
from niello.schedule.recompute import recompute
from niello.schedule.stitch import Group, Layout, Stitcher

MOST_STEPS = 6  # of an epilogue
# Multiply-adds from which operands that are computed are worth a kernel of their own, where a
# library then runs the rest.
_LEAST_APART = 1 << 22


class Claims:
    """The claims that can be used here, and the groups that became calls.

    `refusal` says why a library cannot run a call after all, or nothing. `tf32` lets libraries
    round the factors of float32 contractions. `operations` are run whole.
    """

    def __init__(
        self,
        claims: Sequence[Claim],
        refusal: Callable[[LibraryCall], str],
        *,
        tf32: bool = False,
        operations: Sequence[OperationClaim] = (),
    ) -> None:
        self.claims = tuple(claims)
        self.operations = OperationCalls(operations, refusal, tf32=tf32)
        self.tf32 = tf32
        self.refusal = refusal
        self.calls: dict[Group, Claimed] = {}
        self.refusals: list[str] = []

    def call(self, group: Group) -> Claimed | None:
        """The call that a group became, or None."""
        if is_call(group.operations[0]):
            return self.operations.call(group.operations[0], group.outputs)
        return self.calls.get(group)

    def take(self, stitcher: Stitcher, groups: Sequence[Group]) -> list[Group]:
        """The groups, split where that lets a library run a contraction."""
        if not self.claims:
            return list(groups)
        result: list[Group] = []
        for g in groups:
            result += self._taken(stitcher, g)
        if len(result) == len(groups):
            return sorted(result, key=lambda g: g.number)
        # What was split off a contraction may be cheaper to compute again where it is read.
        used = {t for call in self.calls.values() for t in call.tensors}
        return recompute(stitcher, result, used)

    def _taken(self, stitcher: Stitcher, group: Group) -> list[Group]:
        contractions = [o for o in group.operations if stitcher.profiles[o].kind is Kind.CONTRACT]
        if len(contractions) != 1:
            return [group]
        whole = self._call(stitcher, group)
        if whole is not None:
            self.calls[group] = whole
            return [group]
        for pieces, least in _pieces(group, contractions[0]):
            parts = _split(stitcher, pieces)
            if parts is None:
                continue
            part = next(p for p in parts if contractions[0] in p.operations)
            found = self._call(stitcher, part, least)
            if found is not None:
                self.calls[part] = found
                return parts
            for o in group.operations:
                stitcher.group_of[o] = group
        return [group]

    def _call(self, stitcher: Stitcher, group: Group, least: int = 0) -> Claimed | None:
        """The call that does a group with at least so many multiply-adds, or None."""
        from niello.schedule.claims_product import product
        from niello.schedule.claims_window import window

        if len(group.outputs) != 1 or group.operations[0].control_inputs:
            return None
        inside = set(group.operations)
        lowered = lower_group(
            "claim", group.outputs, lambda o: o in inside or stitcher.is_view(o), group.domains()
        )
        if least and _work(lowered.kernel) < least:
            return None
        matchers = {"product": product, "window": window}
        for claim in self.claims:
            found = matchers[claim.trait](claim, stitcher, group, lowered)
            if found is None:
                continue
            settings = dict(found.attributes)
            settings["tf32"] = self.tf32 and settings["dtype"] == "float32"
            found = replace(found, attributes=tuple(sorted(settings.items())))
            reason = self.refusal(found.command(()))
            if not reason:
                return found
            self.refusals.append(f"{group.names[-1]} not run by {claim.function}: {reason}")
        return None


def _pieces(
    group: Group, contraction: Operation
) -> Iterator[tuple[tuple[list[Operation], ...], int]]:
    """Ways to split a group so that a library may run a piece of it, best first, each with the
    multiply-adds from which it pays."""
    operations = group.operations
    inside = [o for o in operations if o in group.layout.prologue]
    after = [o for o in operations if o is not contraction and o not in inside]
    # With what is computed inside its operands, which may be no more than the way to read them.
    yield ([o for o in operations if o not in after], after), 0
    if inside:
        behind = [o for o in operations if o not in inside]
        yield (inside, behind), _LEAST_APART
        yield (inside, [contraction], after), _LEAST_APART


def _split(stitcher: Stitcher, pieces: Sequence[list[Operation]]) -> list[Group] | None:
    """A group for each piece, or None where that cannot be."""
    if not all(pieces):
        return None
    layouts = [stitcher.may_fuse(piece) for piece in pieces]
    parts: list[Group] = []
    for operations, found in zip(pieces, layouts, strict=True):
        if not isinstance(found, Layout):
            return None
        parts.append(Group(operations, found))
    for part in parts:
        for o in part.operations:
            stitcher.group_of[o] = part
    for part in parts:
        part.outputs = stitcher._outputs(part)
    return parts


def _work(kernel: Kernel | Routine) -> int:
    """Multiply-adds of the only contraction of a kernel."""
    node = the_contraction(kernel)
    return 0 if node is None else math.prod(r.extent for r in (*node.ranges, *free_ranges(node)))


# --- what the matchers have in common -----------------------------------------------------------


@dataclass(frozen=True)
class Epilogue:
    """What happens to the sum before it is stored, step by step.

    A step is an activation ("relu"), or what is done with another value: "add channel" adds a
    vector along the channels (a bias), "mul full" multiplies with an array like the result. `loads`
    are those values, in the order of the steps.
    """

    steps: tuple[str, ...]
    loads: tuple[Load, ...]

    def allowed(self, claim: Claim) -> bool:
        """Whether a claim's function does this: its steps in order, each at most once; or, where
        it says "any order", in any number and order."""
        if "any order" in claim.epilogue:
            return set(self.steps) <= set(claim.epilogue)
        position = 0
        for step in self.steps:
            for known in claim.epilogue[position:]:
                position += 1
                if step in known.split("|"):
                    break
            else:
                return False
        return True


def the_contraction(kernel: Kernel | Routine) -> Contract | None:
    """The only contraction of a kernel with one plain store."""
    if len(kernel.stores) != 1 or kernel.stores[0].gate is not None:
        return None
    if kernel.stores[0].combine is not None or 0 in [r.extent for r in kernel.stores[0].ranges]:
        return None
    found = {n for n in walk([kernel.stores[0].value]) if isinstance(n, Contract)}
    return found.pop() if len(found) == 1 else None


def epilogue_of(store: Store, contract: Contract, channel: Range | None) -> Epilogue | None:
    """The epilogue of a store; None when it is no chain of known steps.

    `channel` is the range along which a vector may run, one element for each.
    """
    value = store.value
    if isinstance(value, Cast) and value.x.dtype is contract.dtype:
        value = value.x
    steps: list[str] = []
    loads: list[Load] = []
    while value is not contract:
        found = _last_step(value, contract)
        if found is None or len(steps) == MOST_STEPS:
            return None
        name, value, load = found
        if load is not None:
            layout = _layout(load, store, channel)
            if layout is None:
                return None
            name = f"{name} {layout}"
            loads.append(load)
        steps.append(name)
    return Epilogue(tuple(reversed(steps)), tuple(reversed(loads)))


def _last_step(value: Expr, contract: Contract) -> tuple[str, Expr, Load | None] | None:
    """(step, what it is done to, the other value) of the outermost step."""
    from niello.schedule.activations import activation_of

    inside = _between(value, contract)
    known = activation_of(value, inside)
    if known is not None:
        return (*known, None)
    if isinstance(value, Fn) and value.name in ("add", "mul"):
        first, second = value.args
        if second in inside:
            first, second = second, first
        other = plain_load(second)
        if first in inside and second not in inside and other is not None:
            return value.name, first, other
    return None


def _between(value: Expr, contract: Contract) -> set[Expr]:
    """The nodes at or below `value` that depend on the contraction."""
    found: set[Expr] = set()
    known: dict[Expr, bool] = {contract: True}

    def depends(node: Expr) -> bool:
        if node not in known:
            known[node] = False
            below = [depends(c) for c in node.children if isinstance(c, Expr)]
            known[node] = any(below)
        if known[node]:
            found.add(node)
        return known[node]

    depends(value)
    return found


def _layout(load: Load, store: Store, channel: Range | None) -> str | None:
    position = affine(load.index)
    if load.index is store.index and load.param.elements == store.param.elements:
        return "full"
    if channel is None or not position.is_affine or position.constant:
        return None
    whole = load.param.elements == channel.extent
    return "channel" if whole and position.coefficients == {channel: 1} else None


def plain_load(value: Expr) -> Load | None:
    """A load, widened or not, that no condition guards."""
    if isinstance(value, Cast) and value.x.dtype.is_half:
        value = value.x
    return value if isinstance(value, Load) and value.gate is None else None


def tensor_of(lowered: Lowered, load: Load) -> Tensor:
    """The tensor behind a load."""
    return lowered.tensors[load.param.slot]


def accumulates_in(dtype: DType, contract: Contract) -> bool:
    """Whether the sum is in the type that libraries use for these elements."""
    return contract.dtype.name == ("float64" if dtype.name == "float64" else "float32")
