"""Text under construction: nested blocks of lines, and what is known inside each.

A Scope belongs to a block. A value goes to the outermost scope in which everything it depends on is
known; the lines of a block are added to its parent when it ends, so what was moved out of a loop
stands before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from niello.codegen.gpu.registers import Reg
from niello.core.nodes import Node
from niello.kernel.ir import Range


@dataclass(frozen=True)
class Val:
    """A value of a thread: a name or short expression, and the register it is in."""

    text: str
    reg: Reg


@dataclass
class Block:
    """Lines of one nesting level."""

    depth: int
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Append a line, indented."""
        self.lines.append("  " * self.depth + line)

    def close(self, head: str, inner: Block, tail: str = "}") -> None:
        """Append a finished inner block between its first and last line."""
        for line in head.split("\n"):
            self.add(line)
        self.lines += inner.lines
        self.add(tail)


class Scope:
    """Values known in a block. `ranges` are those that it gives values to.

    Nothing that is evaluated in a `closed` scope moves out of it: it runs under a condition. Where
    a `guard` does not hold, the scope's point does not exist: loads give zero, stores do nothing.
    """

    def __init__(
        self,
        parent: Scope | None,
        block: Block,
        ranges: dict[Range, Val] | None = None,
        *,
        closed: bool = False,
    ) -> None:
        self.parent = parent
        self.block = block
        self.ranges: dict[Range, Val] = ranges or {}
        self.closed = closed
        self.guard: str | None = None
        self.live: list[str] = []  # further conditions of stores
        self.values: dict[Node, Val] = {}
        self.lanes: Lanes | None = None
        self.lane = 0

    def find(self, node: Node) -> Val | None:
        """The value of a node, if it is known here."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.values.get(node)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def range_value(self, r: Range) -> Val | None:
        """The value of a range, if it has one here."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.ranges.get(r)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def home(self, free: Iterable[Range]) -> Scope:
        """The outermost scope where values that depend on `free` may be evaluated."""
        wanted = frozenset(free)
        scope = self
        while scope.parent is not None and not scope.closed and wanted.isdisjoint(scope.ranges):
            scope = scope.parent
        return scope

    def inner(self, ranges: dict[Range, Val] | None = None, *, closed: bool = False) -> Scope:
        """A scope in a new block inside this one; end it with `block.close`."""
        return Scope(self, Block(self.block.depth + 1), ranges, closed=closed)

    def beside(self, ranges: dict[Range, Val]) -> Scope:
        """A scope in the same block, with values for more ranges."""
        return Scope(self, self.block, ranges)


class Lanes:
    """Neighbouring points that a thread works on together: `axis` takes the values 0 to width - 1.

    `scopes` has one scope for each, all in the block of `base`.
    """

    def __init__(self, base: Scope, axis: Range, literal: list[Val]) -> None:
        self.base = base
        self.axis = axis
        self.width = len(literal)
        self.scopes = [base.beside({axis: v}) for v in literal]
        self.loaded: dict[Node, list[Val]] = {}
        for n, scope in enumerate(self.scopes):
            scope.lanes, scope.lane = self, n
