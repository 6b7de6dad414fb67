"""Matrix products among the contractions: C[b, m, n] = sum over k of A[b, m, k] B[b, k, n].

Found by strides alone, so a product of transposed, batched or reshaped operands is one too,
whatever operation it came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from niello.kernel.bounds import affine
from niello.kernel.ir import Contract, Expr, Range, free_ranges
from niello.runtime.target import Claim
from niello.schedule.claims import (
    accumulates_in,
    epilogue_of,
    plain_load,
    tensor_of,
    the_contraction,
)
from niello.schedule.claims_operation import Claimed
from niello.schedule.lower import Lowered
from niello.schedule.stitch import Group, Stitcher

Strides = dict[Range, int]


@dataclass(frozen=True)
class Axis:
    """Merged ranges: how many points, and the stride in each array that they run along."""

    extent: int
    strides: tuple[int, ...]


def product(claim: Claim, stitcher: Stitcher, group: Group, lowered: Lowered) -> Claimed | None:
    """The call that computes a group which is a matrix product, or None."""
    contract = the_contraction(lowered.kernel)
    if contract is None:
        return None
    store = lowered.kernel.stores[0]
    left, right = plain_load(contract.a), plain_load(contract.b)
    points = math.prod(r.extent for r in (*store.ranges, *contract.ranges))
    if left is None or right is None or points < claim.cost:
        return None
    dtype, out = left.param.dtype, store.param.dtype
    if dtype is not right.param.dtype or dtype not in claim.dtypes:
        return None
    if out is not dtype or not accumulates_in(dtype, contract):
        return None
    result = _strides(store.index)
    strides = _strides(left.index), _strides(right.index)
    if result is None or strides[0] is None or strides[1] is None:
        return None
    found = _Product(store.ranges, contract, result, strides[0], strides[1]).run()
    if found is None:
        return None
    swapped, attributes, channel = found
    epilogue = epilogue_of(store, contract, channel)
    if epilogue is None or not epilogue.allowed(claim):
        return None
    if any(load.param.dtype is not out for load in epilogue.loads):
        return None
    loads = [*((right, left) if swapped else (left, right)), *epilogue.loads]
    settings = {
        **attributes,
        "kind": "product",
        "dtype": dtype.name,
        "epilogue": epilogue.steps,
    }
    return Claimed(
        claim.function,
        tuple(sorted(settings.items())),
        (*(tensor_of(lowered, x) for x in loads), lowered.tensors[store.param.slot]),
    )


def _strides(index: Expr) -> Strides | None:
    """Strides of an index that is linear and starts at element 0."""
    form = affine(index)
    if not form.is_affine or form.constant:
        return None
    return dict(form.coefficients)


class _Product:
    """Ranges sorted into batch, m, n and k, and merged to one axis each."""

    def __init__(
        self,
        ranges: Sequence[Range],
        contract: Contract,
        result: Strides,
        left: Strides,
        right: Strides,
    ) -> None:
        self.ranges = [r for r in ranges if r.extent > 1]
        self.k = [r for r in contract.ranges if r.extent > 1]
        self.in_left = free_ranges(contract.a)
        self.in_right = free_ranges(contract.b)
        self.result, self.left, self.right = result, left, right

    def run(self) -> tuple[bool, dict[str, object], Range | None] | None:
        """(operands exchanged, settings, the range of n if it is one), or None."""
        in_left, in_right = self.in_left, self.in_right
        rows = [r for r in self.ranges if r in in_left and r not in in_right]
        columns = [r for r in self.ranges if r in in_right and r not in in_left]
        batch = [r for r in self.ranges if r in in_left and r in in_right]
        if len(rows) + len(columns) + len(batch) != len(self.ranges) or not self.k:
            return None
        swapped = any(self.result.get(r) == 1 for r in rows) and bool(rows)
        a, b = self.left, self.right
        if swapped:
            a, b, rows, columns = b, a, columns, rows
        m = self._one(rows, (a, self.result))
        n = self._one(columns, (b, self.result))
        k = self._one(self.k, (a, b))
        along = self._one(batch, (a, b, self.result))
        if m is None or n is None or k is None or along is None:
            return None
        if n.extent > 1 and n.strides[1] != 1:
            return None
        first = _matrix(m.extent, k.extent, m.strides[0], k.strides[0])
        second = _matrix(k.extent, n.extent, k.strides[1], n.strides[0])
        if first is None or second is None:
            return None
        pitch = m.strides[1] if m.extent > 1 else n.extent
        if pitch < n.extent:
            return None
        settings: dict[str, object] = {
            "m": m.extent,
            "n": n.extent,
            "k": k.extent,
            "batch": along.extent,
            "a": (*first, along.strides[0]),
            "b": (*second, along.strides[1]),
            "c": (pitch, along.strides[2]),
        }
        return swapped, settings, columns[0] if len(columns) == 1 else None

    def _one(self, ranges: Sequence[Range], arrays: Sequence[Strides]) -> Axis | None:
        """The ranges as one axis of every array, or None."""
        ordered = sorted(ranges, key=lambda r: -arrays[-1].get(r, 0))
        extent, strides = 1, (0,) * len(arrays)
        for r in reversed(ordered):
            found = tuple(s.get(r, 0) for s in arrays)
            if extent > 1 and found != tuple(s * extent for s in strides):
                return None
            if any(s <= 0 for s in found):
                return None
            strides = strides if extent > 1 else found
            extent *= r.extent
        return Axis(extent, strides)


def _matrix(rows: int, columns: int, row: int, column: int) -> tuple[bool, int] | None:
    """(stored transposed, leading dimension) of a matrix with these strides, or None."""
    if columns == 1:
        column = 1 if rows == 1 or row != 1 else max(rows, 1)
    if rows == 1:
        row = 1 if column != 1 else max(columns, 1)
    if column == 1 and row >= columns:
        return False, row
    if row == 1 and column >= rows:
        return True, column
    return None
