"""Routines as text, and back: expressions as in kernel/text.py, statements one on a line.

routine "sums" teams 4 members 256 {
  param b0: float32[12]
  param b1: float32[4] written
  fold v3: float32 over v1: int64 in 0 to 2, 3 by v4: float32, v5: float32 {
    read v2: float32 = b0[((team * 3) + v1)]
  } of (v2) from (0.0:float32) combine ((v4 + v5))
  write b1[team] = v3
}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from niello.core.nodes import Node
from niello.kernel.ir import Expr, Param
from niello.kernel.routine import (
    Body,
    Cell,
    Combine,
    Declare,
    Fold,
    For,
    Get,
    If,
    Local,
    Place,
    Read,
    Routine,
    Scan,
    Set,
    Spread,
    Statement,
    Var,
    While,
    Write,
    expressions,
    team_var,
    var,
)
from niello.kernel.text import _Parser, _Printer


def print_routine(made: Routine) -> str:
    """The routine as text that `parse_routine` reads back to the same nodes."""
    return _RoutinePrinter(made).text()


def parse_routine(text: str) -> Routine:
    """Read what `print_routine` wrote. Raises CorruptFile that says where the text is wrong."""
    parser = _RoutineParser(text)
    made = parser.routine()
    if parser.position < len(parser.tokens):
        parser.wrong("the end of the text")
    return made


class _RoutinePrinter(_Printer):
    def __init__(self, made: Routine) -> None:
        super().__init__()
        self.made = made
        self.lines: list[str] = []
        self.depth_ = 1

    def text(self) -> str:
        made = self.made
        head = f"routine {json.dumps(made.name)} teams {made.teams} members {made.members} {{"
        self.lines = [head]
        for p in made.params:
            self.line(f"param b{p.slot}: {p.dtype.name}[{p.elements}]{' written' * p.written}")
        for t in made.locals:
            self.line(f"local {t.name}: {t.dtype.name}[{t.elements}] {t.space}")
        self.body(made.body, 0)
        self.lines.append("}")
        return "\n".join(self.lines) + "\n"

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth_ + text)

    def body(self, body: Body, deeper: int = 1) -> None:
        self.depth_ += deeper
        for s in body:
            self.statement(s)
        self.depth_ -= deeper

    def expr(self, e: Node) -> str:
        return e.name if isinstance(e, Var) else super().expr(e)

    def define(self, found: Iterable[Var]) -> str:
        """Variables with their dtypes and bounds."""
        return ", ".join(
            f"{v.name}: {v.dtype.name}" + ("" if v.dtype.is_float else f" in {v.low} to {v.high}")
            for v in found
        )

    def several(self, found: Iterable[Expr]) -> str:
        return "(" + ", ".join(self.expr(e) for e in found) + ")"

    def place(self, place: Place, index: Expr) -> str:
        name = f"b{place.slot}" if isinstance(place, Param) else place.name
        return f"{name}[{self.expr(index)}]"

    def prepare(self, roots: Sequence[Expr]) -> None:
        for text in self.shared(roots, self.made.body):
            self.line(text)

    def statement(self, s: Statement) -> None:
        if not isinstance(s, (While, Fold, Scan)):
            self.prepare(expressions(s))
        if isinstance(s, Read):
            self.line(f"read {self.define([s.var])} = {self.place(s.place, s.index)}")
        elif isinstance(s, Get):
            self.line(f"get {self.define([s.var])} = {s.cell.name}")
        elif isinstance(s, Declare):
            self.line(f"declare {s.cell.name}: {s.cell.dtype.name} = {self.expr(s.value)}")
        elif isinstance(s, Set):
            self.line(f"set {s.cell.name} = {self.expr(s.value)}")
        elif isinstance(s, Write):
            self.line(f"write {self.place(s.place, s.index)} = {self.expr(s.value)}")
        elif isinstance(s, Combine):
            self.line(f"combine {s.op} {self.place(s.place, s.index)} = {self.expr(s.value)}")
        else:
            self.block(s)

    def block(self, s: Statement) -> None:
        if isinstance(s, For):
            bounds = ", ".join(self.expr(e) for e in (s.start, s.stop, s.step))
            self.line(f"for {self.define([s.var])}, {bounds} {{")
            self.body(s.body)
        elif isinstance(s, While):
            self.line("while {")
            self.body(s.test)
            self.prepare([s.condition])
            self.line(f"}} ({self.expr(s.condition)}) {{")
            self.body(s.body)
        elif isinstance(s, If):
            self.line(f"if ({self.expr(s.condition)}) {{")
            self.body(s.then)
            if s.otherwise:
                self.line("} else {")
                self.body(s.otherwise)
        elif isinstance(s, Spread):
            pairs = zip((*s.outer, s.var), (*s.extents, s.count), strict=True)
            over = "; ".join(f"{self.define([v])}, {self.expr(e)}" for v, e in pairs)
            self.line(f"spread {over} {{")
            self.body(s.body)
        elif isinstance(s, (Fold, Scan)):
            self.fold(s)
            return
        self.line("}")

    def fold(self, s: Fold | Scan) -> None:
        self.prepare([s.count])
        word, totals = ("scan", s.totals) if isinstance(s, Scan) else ("fold", s.results)
        pair = f"{self.define(s.left)}, {self.define(s.right)}"
        over = f"{self.define([s.var])}, {self.expr(s.count)} by {pair}"
        self.line(f"{word} {self.define(totals)} over {over} {{")
        self.body(s.body)
        self.depth_ += 1
        self.prepare([*s.given, *(s.initial if isinstance(s, Scan) else ()), *s.combined])
        self.depth_ -= 1
        tail = f"}} of {self.several(s.given)} from {self.several(s.identities)}"
        tail += f" combine {self.several(s.combined)}"
        if isinstance(s, Scan):
            names = f"{self.define(s.before)}, {self.define(s.after)}"
            self.line(f"{tail} after {self.several(s.initial)} with {names} {{")
            self.body(s.then)
            tail = "}"
        self.line(tail)


class _RoutineParser(_Parser):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.locals: dict[str, Local] = {}
        self.vars: dict[str, Var] = {}
        self.cells: dict[str, Cell] = {}

    def routine(self) -> Routine:
        self.take("routine")
        name = json.loads(self.take(kind="string"))
        self.take("teams")
        teams = int(self.take(kind="const"))
        self.take("members")
        members = int(self.take(kind="const"))
        self.vars["team"] = team_var(teams)
        self.take("{")
        while self.accept("param"):
            self.param()
        while self.accept("local"):
            self.local()
        body = self.body()
        params, found = tuple(self.params.values()), tuple(self.locals.values())
        return Routine(name, params, teams, members, found, body)

    def local(self) -> None:
        name = self.take(kind="word")
        self.take(":")
        dtype = self.dtype()
        self.take("[")
        elements = int(self.take(kind="const"))
        self.take("]")
        self.locals[name] = Local(name, dtype, elements, self.take(kind="word"))

    def body(self) -> Body:
        """Statements up to the closing bracket."""
        found: list[Statement] = []
        while not self.accept("}"):
            if self.kind() == "value":
                value = self.take()
                self.take("=")
                self.values[value] = self.expr()
                continue
            word = self.take(kind="word")
            if word not in _WORDS:
                self.position -= 1
                self.wrong("a statement")
            found.append(getattr(self, f"_{word}")())
        return tuple(found)

    # --- pieces
    def define(self, count: int = 1) -> tuple[Var, ...]:
        found = []
        for n in range(count):
            if n:
                self.take(",")
            name = self.take(kind="word")
            self.take(":")
            dtype = self.dtype()
            low = high = None
            if self.accept("in"):
                low = int(self.take(kind="const"))
                self.take("to")
                high = int(self.take(kind="const"))
            self.vars[name] = var(name, dtype, low, high)
            found.append(self.vars[name])
        return tuple(found)

    def names(self) -> tuple[Var, ...]:
        """Variables up to something that is no comma."""
        found = list(self.define())
        while self.accept(","):
            found += self.define()
        return tuple(found)

    def several(self) -> tuple[Expr, ...]:
        self.take("(")
        found = [self.expr()]
        while self.accept(","):
            found.append(self.expr())
        self.take(")")
        return tuple(found)

    def place(self) -> tuple[Place, Expr]:
        local = self.locals.get(self.peek())
        place: Place = self.known_param() if local is None else local
        self.position += local is not None
        self.take("[")
        index = self.expr()
        self.take("]")
        return place, index

    def cell(self) -> Cell:
        if self.peek() not in self.cells:
            self.wrong("a cell that was declared above")
        return self.cells[self.take()]

    def expr(self) -> Expr:
        if self.kind() == "word" and self.peek() in self.vars:
            return self.vars[self.take()]
        return super().expr()

    def value(self) -> Expr:
        self.take("=")
        return self.expr()

    # --- statements
    def _read(self) -> Statement:
        (made,) = self.define()
        self.take("=")
        return Read(made, *self.place())

    def _get(self) -> Statement:
        (made,) = self.define()
        self.take("=")
        return Get(made, self.cell())

    def _declare(self) -> Statement:
        name = self.take(kind="word")
        self.take(":")
        cell = self.cells[name] = Cell(name, self.dtype())
        return Declare(cell, self.value())

    def _set(self) -> Statement:
        return Set(self.cell(), self.value())

    def _write(self) -> Statement:
        return Write(*self.place(), self.value())

    def _combine(self) -> Statement:
        op = self.take(kind="word")
        place, index = self.place()
        return Combine(place, index, op, self.value())

    def _for(self) -> Statement:
        (made,) = self.define()
        bounds = []
        while self.accept(","):
            bounds.append(self.expr())
        self.take("{")
        if len(bounds) != 3:
            self.wrong("start, stop and step")
        return For(made, bounds[0], bounds[1], bounds[2], self.body())

    def _while(self) -> Statement:
        self.take("{")
        test = self.body()
        (condition,) = self.several()
        self.take("{")
        return While(test, condition, self.body())

    def _if(self) -> Statement:
        (condition,) = self.several()
        self.take("{")
        then = self.body()
        otherwise: Body = ()
        if self.accept("else"):
            self.take("{")
            otherwise = self.body()
        return If(condition, then, otherwise)

    def _spread(self) -> Statement:
        names: list[Var] = []
        counts: list[Expr] = []
        while not names or self.accept(";"):
            names += self.define()
            self.take(",")
            counts.append(self.expr())
        self.take("{")
        return Spread(tuple(names[:-1]), tuple(counts[:-1]), names[-1], counts[-1], self.body())

    def _fold(self) -> Statement:
        return self.folding(False)

    def _scan(self) -> Statement:
        return self.folding(True)

    def folding(self, scan: bool) -> Statement:
        totals = self.names()
        self.take("over")
        (made,) = self.define()
        self.take(",")
        count = self.expr()
        self.take("by")
        pair = self.names()
        half = len(pair) // 2
        self.take("{")
        body = self.body()
        self.take("of")
        given = self.several()
        self.take("from")
        identities = self.several()
        self.take("combine")
        combined = self.several()
        common = (made, count, body, given)
        rest = (identities, pair[:half], pair[half:], combined)
        if not scan:
            return Fold(totals, *common, *rest)
        self.take("after")
        initial = self.several()
        self.take("with")
        names = self.names()
        self.take("{")
        return Scan(totals, *common, initial, *rest, names[:half], names[half:], self.body())


_WORDS = frozenset(
    ("read", "get", "declare", "set", "write", "combine", "for", "while", "if", "spread", "fold",
     "scan")
)  # fmt: skip
