"""Checks that a routine keeps to the language of kernel/routine.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from niello.core.dtypes import DType, bool_, int64
from niello.core.errors import CompilerBug
from niello.core.nodes import walk
from niello.kernel.bounds import interval
from niello.kernel.ir import (
    SCALAR_FUNCTIONS,
    Bitcast,
    Cast,
    Const,
    Expr,
    Fn,
    Param,
)
from niello.kernel.routine import (
    COMBINE_DTYPES,
    COMBINE_OPS,
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
    Team,
    Var,
    While,
    Write,
    defined,
    value_dtype,
)


def verify_routine(made: Routine) -> None:
    """Raise CompilerBug when a routine is not well-formed."""
    _Checker(made).run()


class _Checker:
    def __init__(self, made: Routine) -> None:
        self.made = made
        self.seen: set[Var] = set()  # defined anywhere
        self.inside = False  # a Spread, Fold or Scan
        self.own_cells: set[Cell] | None = None  # declared in it

    def require(self, holds: bool, what: str, received: Any) -> None:
        if not holds:
            raise CompilerBug(f"routine {self.made.name}", what, received=repr(received))

    def run(self) -> None:
        made = self.made
        self.require(made.teams >= 0, "a negative number of teams", made.teams)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.require(made.members in sizes, "members must be a power of two up to 256", made)
        for n, p in enumerate(made.params):
            self.require(isinstance(p, Param), "something that is no parameter", p)
            self.require(p.slot <= n or p.slot == n, "slots out of order", p)
        for t in made.locals:
            self.require(t.space in ("team", "member") and t.elements > 0, "a wrong local", t)
        self.body(made.body, {made.team}, set())

    def body(self, body: Body, known: set[Var], cells: set[Cell]) -> None:
        """Statements that see the variables `known` and the cells `cells`."""
        known, cells = set(known), set(cells)
        for s in body:
            self.require(isinstance(s, Statement), "something that is no statement", s)
            self.statement(s, known, cells)

    def define(self, names: Iterable[Var], known: set[Var]) -> None:
        for v in names:
            self.require(isinstance(v, Var) and v not in self.seen, "a name defined twice", v)
            self.seen.add(v)
            known.add(v)

    # --- statements
    def statement(self, s: Statement, known: set[Var], cells: set[Cell]) -> None:
        if isinstance(s, (Read, Get)):
            self.reading(s, known, cells)
            self.define(defined(s), known)
        elif isinstance(s, (Declare, Set)):
            self.cell(s, known, cells)
        elif isinstance(s, (Write, Combine)):
            self.writing(s, known)
        elif isinstance(s, For):
            for e in (s.start, s.stop, s.step):
                self.expr(e, known, int64)
            negative = isinstance(s.step, Const) and s.step.value < 0
            self.require(negative or interval(s.step)[0] > 0, "a step that may be zero", s)
            inner = set(known)
            self.define([s.var], inner)
            self.body(s.body, inner, cells)
        elif isinstance(s, While):
            self.test(s, known, cells)
        elif isinstance(s, If):
            self.expr(s.condition, known, bool_)
            self.body(s.then, known, cells)
            self.body(s.otherwise, known, cells)
        else:
            self.team(s, known, cells)

    def test(self, s: While, known: set[Var], cells: set[Cell]) -> None:
        inner, own = set(known), set(cells)
        for x in s.test:
            self.require(not isinstance(x, Team), "a test shared out among members", x)
            self.statement(x, inner, own)
        self.expr(s.condition, inner, bool_)
        self.body(s.body, inner, own)

    def reading(self, s: Read | Get, known: set[Var], cells: set[Cell]) -> None:
        if isinstance(s, Get):
            self.require(s.cell in cells, "a cell that is not declared here", s)
            self.require(s.var.dtype is s.cell.dtype, "a value of another dtype", s)
            return
        self.place(s.place)
        self.expr(s.index, known, int64)
        self.require(s.var.dtype is value_dtype(s.place), "a value of another dtype", s)

    def cell(self, s: Declare | Set, known: set[Var], cells: set[Cell]) -> None:
        self.expr(s.value, known, s.cell.dtype)
        self.require(not s.cell.dtype.is_half, "a cell of a half type", s)
        if isinstance(s, Declare):
            self.require(s.cell not in cells, "a cell declared twice", s)
            cells.add(s.cell)
            if self.own_cells is not None:
                self.own_cells.add(s.cell)
            return
        self.require(s.cell in cells, "a cell that is not declared here", s)
        own = self.own_cells is None or s.cell in self.own_cells
        self.require(own, "a cell of the whole team set by one iteration", s)

    def writing(self, s: Write | Combine, known: set[Var]) -> None:
        self.place(s.place)
        written = isinstance(s.place, Local) or s.place.written
        self.require(written, "an input that is written", s)
        self.expr(s.index, known, int64)
        self.expr(s.value, known, value_dtype(s.place))
        if isinstance(s, Combine):
            fits = s.op in COMBINE_OPS and s.place.dtype in COMBINE_DTYPES
            self.require(fits, "only int32 and uint32 combine, by add min max and or xor", s)
            self.require(self.inside, "a combination outside of a Spread", s)

    def place(self, place: Place) -> None:
        if isinstance(place, Local):
            self.require(place in self.made.locals, "a local of another routine", place)
            ours = place.space == "team" or self.inside
            self.require(ours, "a local of a member outside of a Spread", place)
        else:
            self.require(place in self.made.params, "a parameter of another routine", place)

    def team(self, s: Statement, known: set[Var], cells: set[Cell]) -> None:
        self.require(isinstance(s, Team), "an unknown statement", s)
        assert isinstance(s, Team)
        self.require(not self.inside, "a Spread, Fold or Scan inside another", s)
        self.expr(s.count, known, int64)
        self.inside, self.own_cells = True, set()
        inner, own = set(known), set(cells)
        self.define([s.var], inner)
        if isinstance(s, Spread):
            self.require(len(s.outer) == len(s.extents), "outer variables without extents", s)
            for e in s.extents:
                self.expr(e, known, int64)
            self.define(s.outer, inner)
            self.body(s.body, inner, own)
        else:
            for x in s.body:
                self.statement(x, inner, own)
            self.folding(s, known, inner)
            if isinstance(s, Scan):
                self.define((*s.before, *s.after), inner)
                self.body(s.then, inner, own)
        self.inside, self.own_cells = False, None
        if isinstance(s, (Fold, Scan)):
            self.define(s.totals if isinstance(s, Scan) else s.results, known)

    def folding(self, s: Fold | Scan, known: set[Var], inner: set[Var]) -> None:
        dtypes = [e.dtype for e in s.given]
        totals = s.totals if isinstance(s, Scan) else s.results
        for group in (s.left, s.right, totals, s.identities, s.combined):
            self.require([e.dtype for e in group] == dtypes, "tuples that differ", group)
        pair: set[Var] = set()
        self.define((*s.left, *s.right), pair)
        for e, dtype in zip(s.given, dtypes, strict=True):
            self.expr(e, inner, dtype)
        for e in s.identities:
            self.require(isinstance(e, Const), "an identity that is no constant", e)
        for e, dtype in zip(s.combined, dtypes, strict=True):
            self.expr(e, pair, dtype)
        if isinstance(s, Scan):
            for e, dtype in zip(s.initial, dtypes, strict=True):
                self.expr(e, known, dtype)

    # --- expressions
    def expr(self, root: Expr, known: set[Var], dtype: DType) -> None:
        self.require(root.dtype is dtype, f"an expression that should be {dtype.name}", root)
        for node in walk([root]):
            if isinstance(node, Var):
                self.require(node in known, "a name that is not defined here", node)
            elif isinstance(node, Fn):
                self.function(node)
            elif not isinstance(node, (Const, Cast, Bitcast)):
                self.require(False, "an expression of index notation", node)

    def function(self, node: Fn) -> None:
        spec = SCALAR_FUNCTIONS.get(node.name)
        self.require(spec is not None, "an unknown function", node)
        assert spec is not None
        args: Sequence[Expr] = node.args[1:] if node.name == "where" else node.args
        fits = len(node.args) == spec.arity and args[0].dtype.kind in spec.kinds
        same = all(a.dtype is args[0].dtype for a in args)
        self.require(fits and same, "wrong arguments of a function", node)
