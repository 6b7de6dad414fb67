"""Which values decide the way of a whole team: languages want to know that its threads agree."""

from __future__ import annotations

from niello.core.nodes import walk
from niello.kernel.ir import Expr
from niello.kernel.routine import (
    Body,
    Cell,
    Declare,
    Fold,
    For,
    Get,
    If,
    Routine,
    Scan,
    Set,
    Var,
    While,
    statements,
)


def deciding(made: Routine) -> frozenset[Var]:
    """The variables that conditions and bounds outside of spreads depend on."""
    roots: list[Expr] = []
    _conditions(made.body, roots)
    holds: dict[Cell, list[Expr]] = {}
    cell_of: dict[Var, Cell] = {}
    counters: dict[Var, list[Expr]] = {}
    for s in statements(made.body):
        if isinstance(s, (Declare, Set)):
            holds.setdefault(s.cell, []).append(s.value)
        elif isinstance(s, Get):
            cell_of[s.var] = s.cell
        elif isinstance(s, For):
            counters[s.var] = [s.start, s.stop, s.step]
    found: set[Var] = set()
    stack = [*roots]
    while stack:
        for node in walk([stack.pop()]):
            if isinstance(node, Var) and node not in found:
                found.add(node)
                stack += counters.get(node, [])
                if node in cell_of:
                    stack += holds.get(cell_of[node], [])
    return frozenset(found)


def _conditions(body: Body, roots: list[Expr]) -> None:
    for s in body:
        if isinstance(s, For):
            roots += [s.start, s.stop, s.step]
            _conditions(s.body, roots)
        elif isinstance(s, While):
            roots.append(s.condition)
            _conditions(s.test, roots)
            _conditions(s.body, roots)
        elif isinstance(s, If):
            roots.append(s.condition)
            _conditions(s.then, roots)
            _conditions(s.otherwise, roots)
        elif isinstance(s, (Fold, Scan)):
            roots.append(s.count)
