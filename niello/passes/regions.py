"""Passes inside regions: a region as a computation and back.

`computation_of` and `region_of` let a pass treat a branch or a loop body as any computation.
"""

from __future__ import annotations

from collections.abc import Callable

from niello.graph.region import Region, RegionOp, has_effect
from niello.passes.computation import Computation


def computation_of(region: Region) -> Computation:
    """The region as passes read it."""
    return Computation(region.graph, region.parameters, region.results, region.effects)


def region_of(computation: Computation) -> Region:
    """What a pass made of a region."""
    effects = [o for o in computation.operations if has_effect(o)]
    return Region(computation.graph, computation.inputs, computation.targets, effects)


def mapped(op: RegionOp, inside: Callable[[Computation], Computation]) -> RegionOp:
    """The operation with a pass applied to each of its regions."""
    return op.with_regions([region_of(inside(computation_of(r))) for r in op.regions])
