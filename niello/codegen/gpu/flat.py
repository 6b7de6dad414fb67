"""Several ranges as one: chunks of neighbouring points, and the lanes inside a chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from niello.codegen.collapse import rename
from niello.core.dtypes import int64
from niello.core.nodes import Node, transform
from niello.kernel.build import unravel
from niello.kernel.ir import Expr, Load, Range, Store, const
from niello.kernel.simplify import simplify_expr


@dataclass(frozen=True)
class Flat:
    """The points of `ranges` in row-major order: point `chunk * width + lane`.

    `mapping` gives the old ranges in terms of the new ones; `tail` points beyond the last whole
    chunk are left when the width does not divide their number.
    """

    ranges: tuple[Range, ...]
    chunk: Range
    lane: Range
    mapping: dict[Range, Expr]

    @property
    def width(self) -> int:
        return self.lane.extent

    @property
    def points(self) -> int:
        return math.prod(r.extent for r in self.ranges)

    @property
    def tail(self) -> int:
        return self.points % self.width


def flatten(ranges: Sequence[Range], width: int, stem: str) -> Flat:
    """Ranges as chunks of `width` points, with new ranges named after `stem`."""
    points = math.prod(r.extent for r in ranges)
    chunk = Range(f"{stem}_chunk", max(1, -(-points // width)))
    lane = Range(f"{stem}_lane", width)
    mapping: dict[Range, Expr] = {}
    if ranges and ranges[-1].extent % width == 0:
        last = ranges[-1]
        per_row = last.extent // width
        extents = [r.extent for r in ranges[:-1]] + [per_row]
        *outer, inner = unravel(chunk, extents)
        mapping = dict(zip(ranges[:-1], outer, strict=True))
        mapping[last] = inner * width + lane
    else:
        parts = unravel(chunk * width + lane, [r.extent for r in ranges])
        mapping = dict(zip(ranges, parts, strict=True))
    if width == 1:
        zero: dict[Range, Expr] = {lane: const(0, int64)}
        mapping = {r: rename(e, zero) for r, e in mapping.items()}  # type: ignore[misc]
    return Flat(tuple(ranges), chunk, lane, mapping)


@dataclass
class Rewriter:
    """Rewrites nodes over new ranges, with their positions in memory simplified.

    The same node becomes the same node wherever it stands, reductions included. Stores lose their
    ranges: they stand for one point.
    """

    mapping: dict[Range, Expr]
    done: dict[Node, Node] = field(default_factory=dict)

    def __call__(self, root: Node) -> Node:
        if isinstance(root, Store):
            root = Store(root.param, (), root.index, root.value, root.gate, root.combine)
        return transform(rename(root, self.mapping), _simpler, self.done)

    def position(self, index: Expr) -> Expr:
        """A position in memory over the new ranges."""
        return simplify_expr(rename(index, self.mapping))  # type: ignore[arg-type]


def _simpler(node: Node) -> Node:
    if not isinstance(node, (Load, Store)):
        return node
    index = simplify_expr(node.index)
    gate = None if node.gate is None else simplify_expr(node.gate)
    if isinstance(node, Load):
        return Load(node.param, index, gate)
    return Store(node.param, node.ranges, index, node.value, gate, node.combine)
