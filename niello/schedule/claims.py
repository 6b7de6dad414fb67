"""Claims: contractions that a vendor library runs, found in stitched groups by their structure.

A back end says as data which kinds of contraction its libraries take, in which element types, with
which epilogues (runtime/target.py: Claim). Here they are matched against groups. A group that a
library takes whole becomes one call; of other groups the contraction alone is tried, and the rest
becomes a group of its own. What no library takes is left to generated kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from niello.core.dtypes import DType
from niello.core.nodes import walk
from niello.graph.tensor import Tensor
from niello.kernel.bounds import affine
from niello.kernel.ir import Cast, Const, Contract, Expr, Fn, Kernel, Load, Range
from niello.runtime.commands import LibraryCall
from niello.runtime.target import Claim
from niello.schedule.access import Kind
from niello.schedule.lower import Lowered, lower_group
from niello.schedule.stitch import Group, Layout, Stitcher

Attributes = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Claimed:
    """A call: the function, its settings, and the tensors it works on, the result last."""

    function: str
    attributes: Attributes
    tensors: tuple[Tensor, ...]

    def command(self, buffers: tuple[object, ...], names: tuple[str, ...] = ()) -> LibraryCall:
        """The call on buffers, one for each tensor."""
        written = (*(False,) * (len(self.tensors) - 1), True)
        return LibraryCall(self.function, self.attributes, buffers, written, names)  # type: ignore[arg-type]


class Claims:
    """The claims that can be used here, and the groups that became calls.

    `refusal` says why a library cannot run a call after all, or nothing.
    """

    def __init__(self, claims: Sequence[Claim], refusal: Callable[[LibraryCall], str]) -> None:
        self.claims = tuple(claims)
        self.refusal = refusal
        self.calls: dict[Group, Claimed] = {}
        self.refusals: list[str] = []

    def take(self, stitcher: Stitcher, groups: Sequence[Group]) -> list[Group]:
        """The groups, split where that lets a library run a contraction."""
        if not self.claims:
            return list(groups)
        result: list[Group] = []
        for g in groups:
            result += self._taken(stitcher, g)
        return sorted(result, key=lambda g: g.number)

    def _taken(self, stitcher: Stitcher, group: Group) -> list[Group]:
        contractions = [o for o in group.operations if stitcher.profiles[o].kind is Kind.CONTRACT]
        if len(contractions) != 1:
            return [group]
        whole = self._call(stitcher, group)
        if whole is not None:
            self.calls[group] = whole
            return [group]
        parts = _split(stitcher, group, contractions[0])
        if parts is None:
            return [group]
        found = self._call(stitcher, parts[0])
        if found is None:
            for o in group.operations:
                stitcher.group_of[o] = group
            return [group]
        self.calls[parts[0]] = found
        return parts

    def _call(self, stitcher: Stitcher, group: Group) -> Claimed | None:
        from niello.schedule.claims_product import product
        from niello.schedule.claims_window import window

        if len(group.outputs) != 1 or group.operations[0].control_inputs:
            return None
        inside = set(group.operations)
        lowered = lower_group(
            "claim", group.outputs, lambda o: o in inside or stitcher.is_view(o), group.domains()
        )
        matchers = {"product": product, "window": window}
        for claim in self.claims:
            found = matchers[claim.trait](claim, stitcher, group, lowered)
            if found is None:
                continue
            reason = self.refusal(found.command(()))
            if not reason:
                return found
            self.refusals.append(f"{group.names[-1]} not run by {claim.function}: {reason}")
        return None


def _split(stitcher: Stitcher, group: Group, contraction: object) -> list[Group] | None:
    """The contraction with what is computed inside its operands, and the rest."""
    layout = group.layout
    first = [o for o in group.operations if o is contraction or o in layout.prologue]
    rest = [o for o in group.operations if o not in first]
    if not rest:
        return None
    layouts = [stitcher.may_fuse(first), stitcher.may_fuse(rest)]
    parts: list[Group] = []
    for operations, found in zip((first, rest), layouts, strict=True):
        if not isinstance(found, Layout):
            return None
        parts.append(Group(operations, found))
    for part in parts:
        for o in part.operations:
            stitcher.group_of[o] = part
    for part in parts:
        part.outputs = stitcher._outputs(part)
    return parts


# --- what the matchers have in common -----------------------------------------------------------


@dataclass(frozen=True)
class Epilogue:
    """What happens to the sum before it is stored: relu(sum + bias), each where present."""

    bias: Load | None
    activation: str

    def allowed(self, claim: Claim) -> bool:
        """Whether a claim's function does this."""
        wanted = [n for n in ("bias" if self.bias else "", self.activation) if n]
        return all(n in claim.epilogue for n in wanted)


def the_contraction(kernel: Kernel) -> Contract | None:
    """The only contraction of a kernel with one plain store."""
    if len(kernel.stores) != 1 or kernel.stores[0].gate is not None:
        return None
    if kernel.stores[0].combine is not None or 0 in [r.extent for r in kernel.stores[0].ranges]:
        return None
    found = {n for n in walk([kernel.stores[0].value]) if isinstance(n, Contract)}
    return found.pop() if len(found) == 1 else None


def epilogue_of(value: Expr, contract: Contract, channel: Range | None) -> Epilogue | None:
    """The epilogue of a stored value; None when it is another one. `channel` is the range along
    which a bias runs, one element for each."""
    if isinstance(value, Cast) and value.x.dtype is contract.dtype:
        value = value.x
    activation, bias = "", None
    if isinstance(value, Fn) and value.name == "max":
        zeros = [a for a in value.args if isinstance(a, Const) and a.value == 0]
        rest = [a for a in value.args if not isinstance(a, Const)]
        if len(zeros) == 1 and len(rest) == 1:
            activation, value = "relu", rest[0]
    if isinstance(value, Fn) and value.name == "add" and contract in value.args:
        (other,) = [a for a in value.args if a is not contract] or [contract]
        bias = plain_load(other)
        if bias is None or channel is None:
            return None
        position = affine(bias.index)
        whole = bias.param.elements == channel.extent and position.is_affine
        if not whole or position.constant or position.coefficients != {channel: 1}:
            return None
        value = contract
    return Epilogue(bias, activation) if value is contract else None


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
