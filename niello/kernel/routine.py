"""Routines: the imperative form of a kernel, for what index notation cannot say, on one page.

    Routine   = name  params: Param*  teams: int  members: int  locals: Local*  body: Statement*
    Local     = name  dtype  elements  space             space "team", or "member": an iteration's
    Statement = Read(var, place, index)                  var is the element of a Param or a Local
              | Get(var, cell)                           var is what the cell holds now
              | Declare(cell, value) | Set(cell, value)
              | Write(place, index, value)
              | Combine(place, index, op, value)         atomic; integers of 32 bits
              | For(var, start, stop, step, body)        in order
              | While(test, condition, body)             the statements of test, then condition
              | If(condition, then, otherwise)
              | Spread(outer, extents, var, count, body) iterations in any order, or at once
              | Fold(results, ...)                       an associative, commutative fold
              | Scan(totals, ...)                        a loop that carries an associative fold
    Expr      = Const | Var | Fn | Cast | Bitcast        of kernel/ir.py, over variables

A routine runs `teams` times, each with its own number in the variable `team`, in any order or at
once. A team has `members` (threads of a workgroup on a GPU, lanes of vectors on a CPU). What stands
outside of Spread, Fold and Scan is uniform: all members agree on every value and condition, and
what it writes is written once. The iterations of a Spread are shared out among the members; none
may read what another one of them writes. Whatever was written before a statement is visible to all
members in it. Spread, Fold and Scan do not nest, and cells declared outside of them are not set
inside. A local of space "member" belongs to one iteration and holds nothing when it begins.

Elements of half types are float32 in variables, and are rounded when they are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from niello.core.dtypes import DType, compute_dtype, int32, int64, uint32
from niello.core.nodes import Node
from niello.kernel.bounds import dtype_bounds
from niello.kernel.ir import Expr, Param, Range, Store


class Var(Range):
    """A value that a statement gives a name to. `low` and `high` bound integers, inclusive."""

    __slots__ = ("dtype", "high", "low")
    dtype: DType
    low: int
    high: int
    fields = ("name", "extent", "dtype", "low", "high")  # type: ignore[assignment]

    def __new__(cls, *values: Any) -> Var:
        node = super().__new__(cls, *values)
        if not node.dtype.is_float:
            node.facts.setdefault("interval", (node.low, node.high))
        return node


def var(name: str, dtype: DType, low: int | None = None, high: int | None = None) -> Var:
    """A variable; without bounds an integer has those of its dtype."""
    if dtype.is_float:
        return Var(name, 1, dtype, 0, 0)
    least, most = dtype_bounds(dtype)
    low = least if low is None else max(low, least)
    high = most if high is None else min(high, most)
    high = max(high, low)
    return Var(name, max(1, high + 1), dtype, low, high)


class Local(Node):
    """Scratch memory of a team or of one iteration."""

    __slots__ = ("dtype", "elements", "name", "space")
    name: str
    dtype: DType
    elements: int
    space: str
    fields = ("name", "dtype", "elements", "space")


Place = Param | Local


class Cell(Node):
    """A variable that may be set: each member has its own where it is declared in a Spread."""

    __slots__ = ("dtype", "name")
    name: str
    dtype: DType
    fields = ("name", "dtype")


class Statement(Node):
    """Something that is done."""

    __slots__ = ()


Body = tuple[Statement, ...]


class Read(Statement):
    """`var` becomes element `index` of `place`."""

    __slots__ = ("index", "place", "var")
    var: Var
    place: Place
    index: Expr
    fields = ("var", "place", "index")


class Get(Statement):
    """`var` becomes what `cell` holds."""

    __slots__ = ("cell", "var")
    var: Var
    cell: Cell
    fields = ("var", "cell")


class Declare(Statement):
    """`cell` begins here, holding `value`."""

    __slots__ = ("cell", "value")
    cell: Cell
    value: Expr
    fields = ("cell", "value")


class Set(Statement):
    """`cell` now holds `value`."""

    __slots__ = ("cell", "value")
    cell: Cell
    value: Expr
    fields = ("cell", "value")


class Write(Statement):
    """Element `index` of `place` becomes `value`."""

    __slots__ = ("index", "place", "value")
    place: Place
    index: Expr
    value: Expr
    fields = ("place", "index", "value")


class Combine(Statement):
    """Element `index` of `place` becomes `op` of itself and `value`, atomically."""

    __slots__ = ("index", "op", "place", "value")
    place: Place
    index: Expr
    op: str
    value: Expr
    fields = ("place", "index", "op", "value")


COMBINE_OPS = ("add", "min", "max", "and", "or", "xor")
COMBINE_DTYPES = (int32, uint32)


class For(Statement):
    """`body` for `var` = start, start + step, ... before `stop`; step is positive or a negative
    constant."""

    __slots__ = ("body", "start", "step", "stop", "var")
    var: Var
    start: Expr
    stop: Expr
    step: Expr
    body: Body
    fields = ("var", "start", "stop", "step", "body")


class While(Statement):
    """`test`, and while `condition` (which may use what `test` defines) holds, `body` and again."""

    __slots__ = ("body", "condition", "test")
    test: Body
    condition: Expr
    body: Body
    fields = ("test", "condition", "body")


class If(Statement):
    """One of two bodies."""

    __slots__ = ("condition", "otherwise", "then")
    condition: Expr
    then: Body
    otherwise: Body
    fields = ("condition", "then", "otherwise")


class Spread(Statement):
    """`body` for `var` = 0 ... count - 1, in any order or at once; where there are `outer`
    variables, for all of them from 0 to their `extents` - 1, too."""

    __slots__ = ("body", "count", "extents", "outer", "var")
    outer: tuple[Var, ...]
    extents: tuple[Expr, ...]
    var: Var
    count: Expr
    body: Body
    fields = ("outer", "extents", "var", "count", "body")


class Fold(Statement):
    """`results` are the fold of `given` over `var` = 0 ... count - 1, which `body` prepares.

    `combined` makes one tuple of two (`left`, `right`); it is associative and commutative, up to
    the rounding of floats, and `identities` are neutral to it.
    """

    __slots__ = (
        "body", "combined", "count", "given", "identities", "left", "results", "right", "var",
    )  # fmt: skip
    results: tuple[Var, ...]
    var: Var
    count: Expr
    body: Body
    given: tuple[Expr, ...]
    identities: tuple[Expr, ...]
    left: tuple[Var, ...]
    right: tuple[Var, ...]
    combined: tuple[Expr, ...]
    fields = (
        "results", "var", "count", "body", "given", "identities", "left", "right", "combined",
    )  # fmt: skip


class Scan(Statement):
    """The same with every partial result: in `then`, `before` are the fold of all values before
    `var`, and `after` with its own. `initial` comes first of all; `combined` is associative and
    `identities` are neutral to it. `totals` are the fold of everything."""

    __slots__ = (
        "after", "before", "body", "combined", "count", "given", "identities", "initial", "left",
        "right", "then", "totals", "var",
    )  # fmt: skip
    totals: tuple[Var, ...]
    var: Var
    count: Expr
    body: Body
    given: tuple[Expr, ...]
    initial: tuple[Expr, ...]
    identities: tuple[Expr, ...]
    left: tuple[Var, ...]
    right: tuple[Var, ...]
    combined: tuple[Expr, ...]
    before: tuple[Var, ...]
    after: tuple[Var, ...]
    then: Body
    fields = (
        "totals", "var", "count", "body", "given", "initial", "identities", "left", "right",
        "combined", "before", "after", "then",
    )  # fmt: skip


Team = (Spread, Fold, Scan)  # what the members of a team share out


@dataclass(frozen=True)
class Routine:
    """A kernel that says how. `params[i].slot == i`; inputs come first, then outputs."""

    name: str
    params: tuple[Param, ...]
    teams: int
    members: int
    locals: tuple[Local, ...]
    body: Body

    @property
    def stores(self) -> tuple[Store, ...]:
        """Stores in index notation: a routine has none."""
        return ()

    @property
    def structure(self) -> tuple[object, ...]:
        """Everything but the name."""
        return (self.params, self.teams, self.members, self.locals, self.body)

    @property
    def team(self) -> Var:
        """The number of a team."""
        return team_var(self.teams)


def team_var(teams: int) -> Var:
    """The variable that holds the number of a team."""
    return var("team", int64, 0, teams - 1)


def bodies(statement: Statement) -> tuple[Body, ...]:
    """The statements inside a statement, in order."""
    if isinstance(statement, (For, Spread, Fold)):
        return (statement.body,)
    if isinstance(statement, While):
        return (statement.test, statement.body)
    if isinstance(statement, If):
        return (statement.then, statement.otherwise)
    if isinstance(statement, Scan):
        return (statement.body, statement.then)
    return ()


def expressions(statement: Statement) -> tuple[Expr, ...]:
    """The expressions that a statement evaluates itself, without those of its bodies."""
    own = defined(statement)
    return tuple(c for c in statement.children if isinstance(c, Expr) and c not in own)


def defined(statement: Statement) -> tuple[Var, ...]:
    """The variables that a statement defines, those of its bodies not counted."""
    if isinstance(statement, (Read, Get, For)):
        return (statement.var,)
    if isinstance(statement, Spread):
        return (*statement.outer, statement.var)
    if isinstance(statement, Fold):
        return (*statement.results, statement.var, *statement.left, *statement.right)
    if isinstance(statement, Scan):
        own = (statement.var, *statement.left, *statement.right)
        return (*statement.totals, *own, *statement.before, *statement.after)
    return ()


def statements(body: Sequence[Statement]) -> Iterator[Statement]:
    """All statements of a body and of the bodies inside, each before what is inside it."""
    for s in body:
        yield s
        for inner in bodies(s):
            yield from statements(inner)


def value_dtype(place: Place) -> DType:
    """The dtype of a place's elements in variables."""
    return compute_dtype(place.dtype)
