"""Long scans of few teams: each line in segments, so that a GPU is busy.

Segments are folded first, each by a team; then a team for each line scans what the segments have;
then the segments are scanned, from what comes before them on. Memory is read twice, the second time
from its end, where it may still be in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from niello.codegen.gpu.stages import SCRATCH_SLOT
from niello.codegen.gpu.target import GpuTarget
from niello.core.dtypes import bool_, int64
from niello.core.nodes import Node, transform
from niello.kernel.ir import Const, Expr, Param, const, fn
from niello.kernel.routine import (
    Body,
    Combine,
    Declare,
    Get,
    Read,
    Routine,
    Scan,
    Statement,
    Var,
    Write,
    statements,
    team_var,
    var,
)

LONG = 1 << 14  # iterations of a scan that is worth three launches
UNIT = 4096  # iterations of a segment: a multiple of this
ROUNDS = 2  # segments for each team that runs at once


def split_scan(made: Routine, target: GpuTarget) -> tuple[list[Routine], list[Param]] | None:
    """The three routines in order and their scratch buffers; None for other routines."""
    at = next((n for n, s in enumerate(made.body) if isinstance(s, Scan)), None)
    if at is None or made.locals:
        return None
    scan, first, last = made.body[at], made.body[:at], made.body[at + 1 :]
    assert isinstance(scan, Scan)
    idle = made.teams * made.members * 8 <= target.fill
    if not isinstance(scan.count, Const) or scan.count.value < LONG or not idle:
        return None
    if any(e.dtype is bool_ for e in scan.given) or not _apart(first, scan, last):
        return None
    wanted = max(1, target.fill * ROUNDS // (made.members * made.teams))
    size = -(-scan.count.value // (wanted * UNIT)) * UNIT
    parts = -(-scan.count.value // size)
    if parts < 2:
        return None
    split = _Split(made, first, scan, last, size, parts)
    return [split.fold(), split.across(), split.again()], [*split.partial, *split.carried]


def _apart(first: Body, scan: Scan, last: Body) -> bool:
    """Whether what stands around the scan may be done in another launch than what it writes."""
    inside = list(statements([scan]))
    written = {s.place for s in inside if isinstance(s, (Write, Combine))}
    read = {s.place for s in (*first, *inside, *last) if isinstance(s, Read)}
    after = {s.place for s in last if isinstance(s, Write)}
    simple = all(isinstance(s, (Read, Get, Declare)) for s in first)
    simple = simple and all(isinstance(s, Write) for s in last)
    return simple and not (after & (written | read)) and not (written & read)


@dataclass(frozen=True)
class _Split:
    """The parts of a routine, and how its scan is divided."""

    made: Routine
    first: Body
    scan: Scan
    last: Body
    size: int
    parts: int

    @property
    def segments(self) -> int:
        return self.made.teams * self.parts

    @property
    def segment(self) -> Var:
        return team_var(self.segments)

    def _buffers(self, start: int) -> list[Param]:
        slots = range(SCRATCH_SLOT + start, SCRATCH_SLOT + start + len(self.scan.given))
        return [
            Param(slot, e.dtype, self.segments, True)
            for slot, e in zip(slots, self.scan.given, strict=True)
        ]

    @property
    def partial(self) -> list[Param]:
        """What the segments are together."""
        return self._buffers(0)

    @property
    def carried(self) -> list[Param]:
        """What comes before the segments."""
        return self._buffers(len(self.scan.given))

    def _routine(self, what: str, teams: int, body: Sequence[Statement]) -> Routine:
        return replace(self.made, name=f"{self.made.name}: {what}", teams=teams, body=tuple(body))

    def _segment(self, segment: Expr, initial: Sequence[Expr], then: Body) -> tuple[Body, Scan]:
        """What precedes the scan, and the scan, of one segment."""
        scan = self.scan
        assert isinstance(scan.count, Const)
        m = var("m", int64, 0, self.size - 1)
        start = segment % self.parts * self.size
        names: dict[Node, Node] = {self.made.team: segment // self.parts, scan.var: start + m}
        count: Expr = const(self.size, int64)
        if scan.count.value % self.size:
            count = fn("min", count, scan.count - start)

        def placed(node: Node) -> Node:
            return transform(node, lambda n: n, names)

        first, body, after = (
            tuple(placed(s) for s in part) for part in (self.first, scan.body, then)
        )
        given = tuple(placed(e) for e in scan.given)
        return first, Scan(  # type: ignore[return-value]
            scan.totals, m, count, body, given, tuple(initial), scan.identities, scan.left,
            scan.right, scan.combined, scan.before, scan.after, after,
        )  # fmt: skip

    def fold(self) -> Routine:
        """The segments, each by itself."""
        first, scan = self._segment(self.segment, self.scan.identities, ())
        writes = [Write(p, self.segment, t) for p, t in zip(self.partial, scan.totals, strict=True)]
        return self._routine("segments", self.segments, [*first, scan, *writes])

    def across(self) -> Routine:
        """The lines: what comes before each segment, and what follows the scan."""
        scan = self.scan
        m = var("m", int64, 0, self.parts - 1)
        at = self.made.team * self.parts + m
        given = tuple(var(f"p{n}", e.dtype) for n, e in enumerate(scan.given))
        body = tuple(Read(v, p, at) for v, p in zip(given, self.partial, strict=True))
        then = tuple(Write(p, at, v) for p, v in zip(self.carried, scan.before, strict=True))
        lines = Scan(
            scan.totals, m, const(self.parts, int64), body, given, scan.initial, scan.identities,
            scan.left, scan.right, scan.combined, scan.before, scan.after, then,
        )  # fmt: skip
        return self._routine("lines", self.made.teams, [*self.first, lines, *self.last])

    def again(self) -> Routine:
        """The segments from what comes before them on."""
        begin = tuple(var(f"p{n}", e.dtype) for n, e in enumerate(self.scan.given))
        segment = (self.segments - 1) - self.segment
        first, scan = self._segment(segment, begin, self.scan.then)
        reads = [Read(v, p, segment) for v, p in zip(begin, self.carried, strict=True)]
        return self._routine("scan", self.segments, [*reads, *first, scan])
