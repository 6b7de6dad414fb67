"""The builder that `Op.routine` calls: statements are added in the order of the calls.

Example: the sums of the rows of a matrix, one team for each row.

    def routine(self, r, x):
        rows, columns = x.shape
        row = r.teams(rows)
        total = r.reduce("add", columns, lambda m: r.read(x, row * columns + m))
        r.write(r.outputs[0], row, total)

Expressions are those of kernel/ir.py and never change their value, wherever they are used: reading
memory or a variable gives the value of that moment. Python's `for` unrolls, `r.loop` loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from niello.core.dtypes import DType, bool_, compute_dtype, int64
from niello.core.errors import CompilerBug
from niello.core.nodes import walk
from niello.kernel import ir, routine
from niello.kernel.bounds import interval
from niello.kernel.build import ravel
from niello.kernel.ir import Expr, Param
from niello.kernel.routine import Cell, Local, Routine, Statement, Var, team_var, value_dtype, var

Index = Any  # an Expr or int (row-major offset), or a tuple of them (one for each axis)


class Place:
    """Memory that a routine reads or writes: an input, an output, or a local.

    `dtype` is that of the tensor; elements of half types are float32 when they are read.
    """

    __slots__ = ("dtype", "elements", "node", "shape")

    def __init__(self, node: routine.Place, shape: Sequence[int]) -> None:
        self.node = node
        self.shape = tuple(shape)
        self.dtype = node.dtype
        self.elements = node.elements

    def offset(self, index: Index) -> Expr:
        """The row-major offset of an index."""
        if isinstance(index, tuple):
            return ravel([as_index(i) for i in index], self.shape)
        return as_index(index)


class Variable:
    """Something that changes. `get()` is its value now; `set(x)` gives it another one."""

    __slots__ = ("builder", "cell", "high", "low")

    def __init__(
        self, builder: RoutineBuilder, cell: Cell, low: int | None = None, high: int | None = None
    ) -> None:
        self.builder = builder
        self.cell = cell
        self.low, self.high = low, high

    def get(self) -> Expr:
        """The value it has now."""
        made = self.builder.name(self.cell.dtype, self.low, self.high)
        self.builder.add(routine.Get(made, self.cell))
        return made

    def set(self, value: Any) -> None:
        """Give it a value."""
        self.builder.add(routine.Set(self.cell, self.builder.typed(value, self.cell.dtype)))

    @property
    def value(self) -> Expr:
        """The value it has now."""
        return self.get()


class RoutineBuilder:
    """Builds a routine. `inputs` and `outputs` are the operation's tensors.

    Scalar functions are methods: `r.exp(x)`, `r.where(c, a, b)`, `r.min(a, b)`, `r.and_(a, b)`.
    """

    def __init__(self, name: str, inputs: Sequence[Place], outputs: Sequence[Place]) -> None:
        self.title = name
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._count = 0
        self._body: list[Statement] = []
        self._locals: list[Local] = []
        self._teams = 1
        self._members = 256

    # --- the whole
    def teams(self, count: int) -> Expr:
        """Run this many teams; returns the number of a team, 0 ... count - 1. Call it first."""
        self._teams = count
        return team_var(count)

    @property
    def team(self) -> Expr:
        """The number of the team."""
        return team_var(self._teams)

    def members(self, count: int) -> None:
        """How many threads a team should have on a GPU: a power of two, at most 256."""
        self._members = count

    def local(self, dtype: DType, elements: int | Sequence[int], space: str = "team") -> Place:
        """Scratch memory, contents undefined: of the team, or (space "member") of one iteration of
        the Spread it is made in, where it should be small."""
        shape = (elements,) if isinstance(elements, int) else tuple(elements)
        total = 1
        for size in shape:
            total *= size
        node = Local(f"t{len(self._locals)}", dtype, max(1, total), space)
        self._locals.append(node)
        return Place(node, shape)

    def finish(self, params: Sequence[Param] = ()) -> Routine:
        """What was built, with these parameters (default: the inputs, then the outputs)."""
        places = [p.node for p in (*self.inputs, *self.outputs)]
        found = params or [p for p in places if isinstance(p, Param)]
        return Routine(
            self.title,
            tuple(found),
            self._teams,
            self._members,
            tuple(self._locals),
            tuple(self._body),
        )

    # --- names and statements
    def name(self, dtype: DType, low: int | None = None, high: int | None = None) -> Var:
        """A new variable of the routine."""
        self._count += 1
        return var(f"v{self._count}", dtype, low, high)

    def add(self, statement: Statement) -> None:
        """Append a statement."""
        self._body.append(statement)

    @contextmanager
    def _inside(self) -> Iterator[list[Statement]]:
        outer, self._body = self._body, []
        try:
            yield self._body
        finally:
            self._body = outer

    # --- expressions
    def const(self, value: Any, dtype: DType) -> Expr:
        """A literal."""
        return ir.const(value, compute_dtype(dtype))

    def typed(self, value: Any, dtype: DType) -> Expr:
        """A number as a literal of `dtype`; an expression stays as it is."""
        return value if isinstance(value, Expr) else ir.const(value, compute_dtype(dtype))

    def index(self, value: int) -> Expr:
        """An index literal."""
        return ir.const(value, int64)

    def fn(self, name: str, *args: Any) -> Expr:
        return ir.fn(name, *args)

    def __getattr__(self, name: str) -> Callable[..., Expr]:
        plain = name.rstrip("_")
        if plain not in ir.SCALAR_FUNCTIONS:
            raise AttributeError(name)
        return lambda *args: ir.fn(plain, *args)

    def cast(self, x: Expr, dtype: DType) -> Expr:
        return ir.cast(x, compute_dtype(dtype))

    def bitcast(self, x: Expr, dtype: DType) -> Expr:
        return ir.bitcast(x, dtype)

    def all_of(self, *conditions: Expr) -> Expr:
        """The conjunction of conditions; true when there are none."""
        result: Expr = ir.const(True, bool_)
        for c in conditions:
            result = ir.fn("and", result, c)
        return result

    # --- memory
    def read(
        self, place: Place, index: Index, *, low: int | None = None, high: int | None = None
    ) -> Expr:
        """The element at an index, as it is now. `low` and `high` promise bounds of integers."""
        made = self.name(value_dtype(place.node), low, high)
        self.add(routine.Read(made, place.node, place.offset(index)))
        return made

    def write(self, place: Place, index: Index, value: Any) -> None:
        """Set the element at an index."""
        value = self.typed(value, place.dtype)
        self.add(routine.Write(place.node, place.offset(index), value))

    def combine(self, op: str, place: Place, index: Index, value: Any) -> None:
        """Atomically add (min, max, and, or, xor) to an int32 or uint32 element."""
        value = self.typed(value, place.dtype)
        self.add(routine.Combine(place.node, place.offset(index), op, value))

    def variable(
        self, dtype: DType, initial: Any, *, low: int | None = None, high: int | None = None
    ) -> Variable:
        """A variable that may be set. `low` and `high` promise bounds of integers."""
        self._count += 1
        cell = Cell(f"c{self._count}", compute_dtype(dtype))
        self.add(routine.Declare(cell, self.typed(initial, dtype)))
        return Variable(self, cell, low, high)

    # --- control
    @contextmanager
    def loop(self, start: Any, stop: Any, step: Any = 1) -> Iterator[Expr]:
        """`with r.loop(start, stop, step) as i:` in order; the step is positive, or a negative
        number."""
        first, last, by = as_index(start), as_index(stop), as_index(step)
        a, b = interval(first), interval(last)
        down = interval(by)[0] < 0
        low, high = (min(a[0], b[0] + 1), a[1]) if down else (a[0], max(a[0], b[1] - 1))
        i = self.name(int64, low, high)
        with self._inside() as body:
            yield i
        self.add(routine.For(i, first, last, by, tuple(body)))

    @contextmanager
    def spread(self, count: Any) -> Iterator[Expr]:
        """`with r.spread(count) as m:` iterations 0 ... count - 1 shared out among the members."""
        with self.spread_over(count) as (m,):
            yield m

    @contextmanager
    def spread_over(self, *counts: Any) -> Iterator[tuple[Expr, ...]]:
        """`with r.spread_over(rows, columns) as (i, j):` one iteration for each pair (triple ...).

        On the CPU the lanes of vectors run along the last, with loops around."""
        totals = [as_index(c) for c in counts]
        names = [self.name(int64, 0, max(0, interval(t)[1] - 1)) for t in totals]
        with self._inside() as body:
            yield tuple(names)
        outer, extents = tuple(names[:-1]), tuple(totals[:-1])
        self.add(routine.Spread(outer, extents, names[-1], totals[-1], tuple(body)))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """`with r.when(condition):` what is done only where it holds."""
        with self._inside() as body:
            yield
        self.add(routine.If(condition, tuple(body), ()))

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """`with r.otherwise():` directly after a `when`: what is done where it does not hold."""
        last = self._body[-1] if self._body else None
        if not isinstance(last, routine.If) or last.otherwise:
            raise CompilerBug("otherwise", "it must follow a `when`", received=repr(last))
        with self._inside() as body:
            yield
        self._body[-1] = routine.If(last.condition, last.then, tuple(body))

    @contextmanager
    def repeat(self, test: Callable[[], Expr]) -> Iterator[None]:
        """`with r.repeat(lambda: condition):` while it holds; `test` is built once."""
        with self._inside() as before:
            condition = test()
        with self._inside() as body:
            yield
        self.add(routine.While(tuple(before), condition, tuple(body)))

    # --- folds and scans
    def reduce(self, op: str, count: Any, body: Callable[[Expr], Expr]) -> Expr:
        """`op` (add mul min max and or xor) of `body(m)` for m = 0 ... count - 1, shared out among
        the members; sums of floats may be reassociated."""
        given: list[Expr] = []

        def one(m: Expr) -> tuple[Expr, ...]:
            given.append(body(m))
            return (given[0],)

        def identity() -> tuple[Any, ...]:
            dtype = given[0].dtype
            return (ir.const(ir.reduce_identity(op, dtype), dtype),)

        return self._fold(count, one, identity, lambda a, b: (_together(op, a[0], b[0]),))[0]

    def arg_reduce(self, op: str, count: Any, body: Callable[[Expr], Expr]) -> tuple[Expr, Expr]:
        """The first minimum ("min") or maximum ("max") of `body(m)`, and its m; NaN wins.

        Over nothing it is the identity, and m is the count's largest possible value."""
        most = max(0, interval(as_index(count))[1])
        made: list[Expr] = []

        def values(m: Expr) -> tuple[Expr, ...]:
            made[:] = [body(m), m]
            return tuple(made)

        def better(a: Sequence[Expr], b: Sequence[Expr]) -> tuple[Expr, ...]:
            (x, i), (y, j) = a, b
            first = (y < x) if op == "max" else (x < y)
            same = x.eq(y)
            if x.dtype.is_float:
                first = first | (x.ne(x) & y.eq(y))
                same = same | (x.ne(x) & y.ne(y))
            takes = first | (same & (i < j))
            return ir.fn("where", takes, x, y), ir.fn("where", takes, i, j)

        def identity() -> tuple[Any, ...]:
            dtype = made[0].dtype
            return (ir.const(ir.reduce_identity(op, dtype), dtype), ir.const(most, int64))

        value, place = self._fold(count, values, identity, better, [None, (0, most)])
        return value, place

    def fold(
        self,
        count: Any,
        body: Callable[[Expr], tuple[Expr, ...]],
        identities: Sequence[Expr],
        combine: Callable[[Sequence[Expr], Sequence[Expr]], tuple[Expr, ...]],
    ) -> tuple[Expr, ...]:
        """The fold of the tuples `body(m)` by an associative, commutative function of two."""
        return self._fold(count, body, lambda: tuple(identities), combine)

    def _fold(
        self,
        count: Any,
        body: Callable[[Expr], tuple[Expr, ...]],
        identities: Callable[[], tuple[Any, ...]],
        combine: Callable[[Sequence[Expr], Sequence[Expr]], tuple[Expr, ...]],
        bounds: Sequence[tuple[int, int] | None] = (),
    ) -> tuple[Expr, ...]:
        total = as_index(count)
        m = self.name(int64, 0, max(0, interval(total)[1] - 1))
        with self._inside() as inner:
            given = body(m)
        known = [*bounds, *[None] * (len(given) - len(bounds))]
        left, right, results = (
            tuple(
                self.name(x.dtype, *(b or (None, None))) for x, b in zip(given, known, strict=True)
            )
            for _ in range(3)
        )
        combined = combine(left, right)
        self.add(
            routine.Fold(
                results, m, total, tuple(inner), tuple(given), identities(), left, right,
                tuple(combined),
            )
        )  # fmt: skip
        return results

    def scan(
        self,
        op: str,
        count: Any,
        body: Callable[[Expr], Expr],
        then: Callable[[Expr, Expr, Expr], None],
        *,
        initial: Any = None,
    ) -> Expr:
        """A running `op` (add mul min max and or xor) over m = 0 ... count - 1; returns the last.

        `then(m, before, after)` gets the running result without `body(m)`, and with it. `initial`
        comes first (default: the identity). Sums of floats may be reassociated.
        """
        made: list[Expr] = []

        def values(m: Expr) -> tuple[Expr, ...]:
            made[:] = [body(m)]
            return tuple(made)

        def identity() -> tuple[Expr, ...]:
            dtype = made[0].dtype
            return (ir.const(ir.reduce_identity(op, dtype), dtype),)

        def start() -> tuple[Expr, ...]:
            return identity() if initial is None else (self.typed(initial, made[0].dtype),)

        return self._scan(
            count,
            values,
            lambda m, before, after: then(m, before[0], after[0]),
            identity,
            start,
            lambda a, b: (_together(op, a[0], b[0]),),
        )[0]

    def scan_by(
        self,
        count: Any,
        body: Callable[[Expr], tuple[Expr, ...]],
        then: Callable[[Expr, Sequence[Expr], Sequence[Expr]], None],
        identities: Sequence[Expr],
        combine: Callable[[Sequence[Expr], Sequence[Expr]], tuple[Expr, ...]],
        *,
        initial: Sequence[Expr] | None = None,
    ) -> tuple[Expr, ...]:
        """The same for tuples, and any associative `combine(earlier, later)`."""
        first = identities if initial is None else initial
        neutral = tuple(identities)
        return self._scan(count, body, then, lambda: neutral, lambda: tuple(first), combine)

    def _scan(
        self,
        count: Any,
        body: Callable[[Expr], tuple[Expr, ...]],
        then: Callable[[Expr, Sequence[Expr], Sequence[Expr]], None],
        identities: Callable[[], tuple[Expr, ...]],
        initial: Callable[[], tuple[Expr, ...]],
        combine: Callable[[Sequence[Expr], Sequence[Expr]], tuple[Expr, ...]],
    ) -> tuple[Expr, ...]:
        total = as_index(count)
        m = self.name(int64, 0, max(0, interval(total)[1] - 1))
        with self._inside() as inner:
            given = body(m)
        left, right, before, after, totals = (
            tuple(self.name(x.dtype) for x in given) for _ in range(5)
        )
        combined = combine(left, right)
        with self._inside() as rest:
            then(m, before, after)
        self.add(
            routine.Scan(
                totals, m, total, tuple(inner), tuple(given), initial(), identities(), left, right,
                tuple(combined), before, after, tuple(rest),
            )
        )  # fmt: skip
        return totals


def as_index(value: Any) -> Expr:
    """An int64 expression of an index or count."""
    if isinstance(value, Expr):
        return ir.cast(value, int64)
    return ir.const(int(value), int64)


def _together(op: str, a: Expr, b: Expr) -> Expr:
    return ir.fn(op, a, b)


def uses(expr: Expr) -> frozenset[Var]:
    """The variables an expression depends on."""
    return frozenset(n for n in walk([expr]) if isinstance(n, Var))
