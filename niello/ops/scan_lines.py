"""Scans along the lines of an array, as statements of a routine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from niello.core.records import frozen
from niello.kernel.ir import Expr
from niello.kernel.routine_build import RoutineBuilder

Parts = Sequence[Expr]
BLOCK = 256  # columns of one team where the axis is not the last
SHORT = (2, 4, 8, 16)  # lengths of rows of which a member takes a whole one
FEW_TEAMS = 32  # fewer teams than this take smaller blocks


@frozen
class Lines:
    """An array as lines along an axis: `outer` blocks of `length` rows of `inner` elements."""

    outer: int
    length: int
    inner: int

    @classmethod
    def of(cls, shape: Sequence[int], axis: int) -> Lines:
        """The lines of a static shape."""
        return cls(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


def scan_lines(
    r: RoutineBuilder,
    lines: Lines,
    given: Callable[[Expr], tuple[Expr, ...]],
    write: Callable[[Expr, Parts], None],
    identities: Parts,
    combine: Callable[[Parts, Parts], tuple[Expr, ...]],
    *,
    exclusive: bool,
    reverse: bool,
) -> None:
    """Statements of a scan along all lines: `given(offset)` are the terms of an element,
    `write(offset, terms)` takes what they give together."""
    if lines.outer * lines.inner * lines.length == 0:
        return
    if lines.inner == 1 and lines.length in SHORT and lines.outer >= BLOCK // 4:
        _scan_short(r, lines, given, write, identities, combine, exclusive, reverse)
    elif lines.inner == 1:
        _scan_rows(r, lines, given, write, identities, combine, exclusive, reverse)
    else:
        _scan_columns(r, lines, given, write, identities, combine, exclusive, reverse)


def _scan_rows(
    r: RoutineBuilder,
    lines: Lines,
    given: Callable[[Expr], tuple[Expr, ...]],
    write: Callable[[Expr, Parts], None],
    identities: Parts,
    combine: Callable[[Parts, Parts], tuple[Expr, ...]],
    exclusive: bool,
    reverse: bool,
) -> None:
    """One team for each row; its members scan together."""
    n = lines.length
    start = r.teams(lines.outer) * n
    r.members(members_for(n))

    def offset(m: Expr) -> Expr:
        return start + ((n - 1) - m if reverse else m)

    def then(m: Expr, before: Parts, after: Parts) -> None:
        write(offset(m), before if exclusive else after)

    r.scan_by(n, lambda m: given(offset(m)), then, identities, combine)


def _scan_short(
    r: RoutineBuilder,
    lines: Lines,
    given: Callable[[Expr], tuple[Expr, ...]],
    write: Callable[[Expr, Parts], None],
    identities: Parts,
    combine: Callable[[Parts, Parts], tuple[Expr, ...]],
    exclusive: bool,
    reverse: bool,
) -> None:
    """Members take a row each; neighbouring rows are neighbours in memory."""
    n = lines.length
    team = r.teams(-(-lines.outer // BLOCK))
    with r.spread(r.min(r.index(BLOCK), lines.outer - team * BLOCK)) as m:
        start = (team * BLOCK + m) * n
        terms = [given(start + i) for i in range(n)]
        results: list[Parts] = [()] * n
        running: Parts = identities
        for i in reversed(range(n)) if reverse else range(n):
            before, running = running, combine(running, terms[i])
            results[i] = before if exclusive else running
        for i, found in enumerate(results):
            write(start + i, found)


def _scan_columns(
    r: RoutineBuilder,
    lines: Lines,
    given: Callable[[Expr], tuple[Expr, ...]],
    write: Callable[[Expr, Parts], None],
    identities: Parts,
    combine: Callable[[Parts, Parts], tuple[Expr, ...]],
    exclusive: bool,
    reverse: bool,
) -> None:
    """Members walk neighbouring lines side by side, so that memory is read in its order."""
    n, inner = lines.length, lines.inner
    block = BLOCK if lines.outer * -(-inner // BLOCK) >= FEW_TEAMS else BLOCK // 4
    blocks = -(-inner // block)
    team = r.teams(lines.outer * blocks)
    r.members(members_for(min(block, inner)))
    first = (team % blocks) * block
    start = team // blocks * (n * inner) + first
    with r.spread(r.min(r.index(block), inner - first)) as m:
        running = [r.variable(e.dtype, e) for e in identities]
        with r.loop(0, n) as i:
            offset = start + ((n - 1) - i if reverse else i) * inner + m
            terms = given(offset)
            before = [v.get() for v in running]
            after = combine(before, terms)
            for v, value in zip(running, after, strict=True):
                v.set(value)
            write(offset, before if exclusive else after)


def members_for(count: int) -> int:
    """Threads of a team that works on so many things at a time."""
    return min(256, max(32, 1 << (max(1, count) - 1).bit_length()))
