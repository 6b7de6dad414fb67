"""Nests for teams of threads: units, and the phases that a team goes through at each unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from niello.codegen.access import body_of, loads, store_roots
from niello.codegen.collapse import rename
from niello.codegen.rows import level_of, placed
from niello.kernel.bounds import affine
from niello.kernel.ir import Expr, Range, Store


@dataclass(frozen=True)
class Phase:
    """One pass of a team over `ranges` (none: just the unit): reductions, and stores at the end.

    `reductions` pairs each reduction with its body over `ranges`. Only the first `limit` points
    exist, where there is a limit: an expression of the unit.
    """

    ranges: tuple[Range, ...]
    reductions: tuple[tuple[Expr, Expr], ...]
    stores: tuple[Store, ...]
    limit: Expr | None = None

    @property
    def points(self) -> int:
        """How many points the phase visits at a unit, at most."""
        return math.prod(r.extent for r in self.ranges)

    @property
    def roots(self) -> list[Expr]:
        """Every expression that the phase evaluates."""
        return [body for _, body in self.reductions] + store_roots(self.stores)


@dataclass(frozen=True)
class Nest:
    """At every point of `units`, independent of the others: `phases`, one after the other."""

    units: tuple[Range, ...]
    phases: tuple[Phase, ...]

    @property
    def unit_count(self) -> int:
        return math.prod(r.extent for r in self.units)

    @property
    def row(self) -> int:
        """Points of the longest phase."""
        return max(p.points for p in self.phases)


def nest_of(
    units: tuple[Range, ...],
    stores: Sequence[Store],
    joined: Sequence[Store] = (),
    limits: dict[Expr, Expr] | None = None,
) -> Nest:
    """The phases of stores at each point of `units`; `joined` are stores over the units alone.

    `limits` says how many points of a reduction exist.
    """
    rest = tuple(r for s in stores[:1] for r in s.ranges if r not in units)
    here = placed(store_roots([*stores, *joined]), units)
    nodes = frozenset(here)
    groups: dict[tuple[int, tuple[int, ...], Expr | None], list[Expr]] = {}
    for r in here:
        extents = tuple(k.extent for k in r.ranges)  # type: ignore[attr-defined]
        limit = None if limits is None else limits.get(r)
        groups.setdefault((level_of(r, nodes), extents, limit), []).append(r)
    canonical: dict[tuple[int, ...], tuple[Range, ...]] = {tuple(r.extent for r in rest): rest}
    phases = []
    for (_, extents, limit), group in sorted(groups.items(), key=lambda item: item[0][0]):
        ranges = canonical.setdefault(extents, group[0].ranges)  # type: ignore[attr-defined]
        pairs = tuple(
            (r, rename(body_of(r), dict(zip(r.ranges, ranges, strict=True))))  # type: ignore[attr-defined]
            for r in group
        )
        phases.append(Phase(ranges, pairs, (), limit))  # type: ignore[arg-type]
    if joined:
        phases.append(Phase((), (), tuple(joined)))
    if stores:
        phases.append(Phase(rest, (), tuple(stores)))
    return Nest(units, tuple(phases))


def lanes_over_units(units: Sequence[Range], phases: Sequence[Phase]) -> bool:
    """Whether neighbours in memory are neighbouring units rather than points of one phase."""
    across = along = 0
    last = next((r for r in reversed(units) if r.extent > 1), None)
    for phase in phases:
        inner = next((r for r in reversed(phase.ranges) if r.extent > 1), None)
        indices = [(x.index, x.param) for x in loads(phase.roots)]
        indices += [(s.index, s.param) for s in phase.stores]
        for index, param in indices:
            form = affine(index)
            if last is not None and form.stride(last) == 1:
                across += param.dtype.itemsize * phase.points
            if inner is not None and form.stride(inner) == 1:
                along += param.dtype.itemsize * phase.points
    return across > along
