"""Runs a routine with NumPy: the meaning of routines.

All teams (as many as fit the budget) run at once, and so do all iterations of a Spread: a value is
an array of shape (teams, iterations), either of which may be 1, and a mask says where a statement
is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from niello.core.errors import CompilerBug
from niello.core.nodes import walk
from niello.kernel.ir import (
    SCALAR_FUNCTIONS,
    Bitcast,
    Cast,
    Const,
    Expr,
    Fn,
    Param,
    cast_array,
)
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
    While,
    Write,
    value_dtype,
)
from niello.kernel.routine_races import Races

Array = np.ndarray[Any, Any]
BUDGET = 16 * 2**20  # bytes of team memory that run at once, roughly

_UFUNCS: dict[str, Any] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def interpret_routine(made: Routine, buffers: Sequence[Array]) -> None:
    """Run a routine on flat arrays, one per parameter; written parameters change in place.

    Raises CompilerBug when an index leaves its place.
    """
    memory: dict[Place, Array] = {}
    for param, array in zip(made.params, buffers, strict=True):
        if array.ndim != 1 or array.size < param.elements or array.dtype != param.dtype.numpy:
            raise CompilerBug(
                f"routine {made.name}, buffer {param.slot}",
                f"needs a flat array of {param.elements} x {param.dtype.name}",
                received=f"{array.shape} of {array.dtype}",
            )
        memory[param] = array
    own = sum(t.elements * t.dtype.itemsize for t in made.locals) + 1024
    step = max(1, BUDGET // own)
    with np.errstate(all="ignore"):
        for first in range(0, made.teams, step):
            _Run(made, memory, first, min(step, made.teams - first)).run()


class _Run:
    """Some teams, from the first to the last statement."""

    def __init__(self, made: Routine, memory: dict[Place, Array], first: int, teams: int) -> None:
        self.made = made
        self.memory = dict(memory)
        self.teams = teams
        self.rows = np.arange(teams)[:, None]
        numbers = np.arange(first, first + teams, dtype=np.int64)[:, None]
        self.values: dict[Expr, Array] = {made.team: numbers}
        self.cells: dict[Cell, Array] = {}
        self.width = 1  # iterations of the Spread that runs
        self.races = Races(made.name, numbers)
        self.first = first
        self.orders: dict[Expr, tuple[Expr, ...]] = {}
        for t in made.locals:
            if t.space == "team":
                self.memory[t] = np.zeros((teams, t.elements), t.dtype.numpy)

    def run(self) -> None:
        self.body(self.made.body, np.ones((self.teams, 1), np.bool_))

    def body(self, body: Body, mask: Array) -> None:
        for s in body:
            self.statement(s, mask)

    def statement(self, s: Statement, mask: Array) -> None:
        if isinstance(s, Read):
            self.values[s.var] = self.read(s.place, self.value(s.index), mask)
        elif isinstance(s, Get):
            self.values[s.var] = self.cells[s.cell]
        elif isinstance(s, Declare):
            self.cells[s.cell] = self.value(s.value)
        elif isinstance(s, Set):
            new, old = self.value(s.value), self.cells[s.cell]
            self.cells[s.cell] = new if mask.all() else np.where(mask, new, old)
        elif isinstance(s, (Write, Combine)):
            self.write(s, mask)
        elif isinstance(s, For):
            self.loop(s, mask)
        elif isinstance(s, While):
            self.repeat(s, mask)
        elif isinstance(s, If):
            test = self.value(s.condition)
            for part, chosen in ((s.then, mask & test), (s.otherwise, mask & ~test)):
                if part and chosen.any():
                    self.body(part, chosen)
        elif isinstance(s, Spread):
            self.spread(s, mask)
        elif isinstance(s, (Fold, Scan)):
            self.fold(s, mask)
        else:
            raise CompilerBug("routine", "an unknown statement", received=repr(s))

    # --- memory
    def read(self, place: Place, index: Array, mask: Array) -> Array:
        index = np.where(mask, index, 0)
        self.check(place, index, mask)
        array = self.memory[place]
        if isinstance(place, Local) and place.space == "member":
            found = array[self.rows, np.arange(self.width), index]
        elif not array.size:
            found = np.zeros(index.shape, array.dtype)
        else:
            at = (index,) if isinstance(place, Param) else (self.rows, index)
            found = array[at]
            self._watch(place, at, mask)
        return found.astype(value_dtype(place).numpy, copy=False)

    def _numbers(self, rows: Array, columns: Array) -> Array:
        """Numbers of iterations: the team's in the upper half."""
        return ((rows.astype(np.int64) + self.first) << 32) + columns

    def _watch(self, place: Place, at: tuple[Array, ...], mask: Array) -> None:
        """Look for a race in elements that are read where the mask holds."""
        if place not in self.races.writer and place not in self.races.owner:
            return
        shape = np.broadcast_shapes(mask.shape, at[-1].shape, (self.teams, 1))
        where = np.nonzero(np.broadcast_to(mask, shape))
        # Outside of spreads all members read; what they wrote inside is behind a barrier.
        columns = where[1] if shape[1] > 1 else np.zeros_like(where[0])
        parts = tuple(np.broadcast_to(a, shape)[where] for a in at)
        self.races.read(place, parts, self._numbers(where[0], columns))

    def write(self, s: Write | Combine, mask: Array) -> None:
        place = s.place
        member = isinstance(place, Local) and place.space == "member"
        width = self.width if member else 1
        parts = np.broadcast_arrays(
            np.broadcast_to(mask, (self.teams, max(mask.shape[1], width))),
            self.value(s.index),
            self.value(s.value),
        )
        chosen, index, value = parts
        where = np.nonzero(chosen)
        index, value = index[where], value[where].astype(place.dtype.numpy, copy=False)
        self.check(place, index, np.ones_like(index, np.bool_))
        array = self.memory[place]
        at: tuple[Array, ...] = (index,)
        if isinstance(place, Local):
            at = (where[0], where[1], index) if member else (where[0], index)
        if not member:
            columns = where[1] if chosen.shape[1] > 1 else np.zeros_like(where[0])
            who = self._numbers(where[0], columns)
            self.races.write(place, at, who, isinstance(s, Combine), array.shape)
        if isinstance(s, Combine):
            _UFUNCS[s.op].at(array, at, value)
        else:
            array[at] = value

    def check(self, place: Place, index: Array, mask: Array) -> None:
        wrong = ((index < 0) | (index >= place.elements)) & mask
        if wrong.any():
            raise CompilerBug(
                f"routine {self.made.name}",
                f"an index is outside the {place.elements} elements of {place!r}",
                received=int(np.broadcast_to(index, wrong.shape)[wrong].ravel()[0]),
            )

    # --- control
    def loop(self, s: For, mask: Array) -> None:
        at, stop, step = (self.value(e) for e in (s.start, s.stop, s.step))
        while True:
            active = mask & np.where(step > 0, at < stop, at > stop)
            if not active.any():
                return
            self.values[s.var] = at
            self.body(s.body, active)
            at = at + step

    def repeat(self, s: While, mask: Array) -> None:
        while True:
            self.body(s.test, mask)
            mask = mask & self.value(s.condition)
            if not mask.any():
                return
            self.body(s.body, mask)

    def enter(self, s: Spread | Fold | Scan, mask: Array) -> Array:
        """Give the iterations their numbers; returns the mask of those that there are."""
        self.races.spread()
        outer = [self.value(e) for e in s.extents] if isinstance(s, Spread) else []
        inner = self.value(s.count)
        count = np.where(mask, inner, 0)
        for extent in outer:
            count = count * np.maximum(extent, 0)
        self.width = max(0, int(count.max(initial=0)))
        numbers = np.arange(self.width, dtype=np.int64)[None, :]
        self.values[s.var] = numbers
        if isinstance(s, Spread) and s.outer:
            rest = numbers // np.maximum(inner, 1)
            self.values[s.var] = numbers % np.maximum(inner, 1)
            for v, extent in zip(reversed(s.outer), reversed(outer), strict=True):
                self.values[v] = rest % np.maximum(extent, 1)
                rest = rest // np.maximum(extent, 1)
        for t in self.made.locals:
            if t.space == "member":
                shape = (self.teams, self.width, t.elements)
                self.memory[t] = np.zeros(shape, t.dtype.numpy)
        return np.asarray(numbers < count)

    def spread(self, s: Spread, mask: Array) -> None:
        inside = self.enter(s, mask)
        if inside.any():
            self.body(s.body, inside)
        self.leave()

    def leave(self) -> None:
        """A Spread, Fold or Scan ends: what it wrote is visible to all."""
        self.width = 1
        self.races.spread()

    def fold(self, s: Fold | Scan, mask: Array) -> None:
        first = s.initial if isinstance(s, Scan) else s.identities
        running = [np.broadcast_to(self.value(e), (self.teams, 1)) for e in first]
        inside = self.enter(s, mask)
        before: list[list[Array]] = []
        after: list[list[Array]] = []
        if inside.any():
            self.body(s.body, inside)
            shape = (self.teams, self.width)
            given = [np.broadcast_to(self.value(e), shape) for e in s.given]
            for m in range(self.width):
                here = inside[:, m : m + 1]
                before.append(running)
                running = self.combine(s, running, [g[:, m : m + 1] for g in given], here)
                after.append(running)
            if isinstance(s, Scan):
                for names, columns in ((s.before, before), (s.after, after)):
                    for n, v in enumerate(names):
                        self.values[v] = np.concatenate([c[n] for c in columns], axis=1)
                self.body(s.then, inside)
        self.leave()
        for v, x in zip(s.totals if isinstance(s, Scan) else s.results, running, strict=True):
            self.values[v] = x

    def combine(
        self, s: Fold | Scan, a: Sequence[Array], b: Sequence[Array], mask: Array
    ) -> list[Array]:
        self.values.update(zip((*s.left, *s.right), (*a, *b), strict=True))
        made = [self.value(e) for e in s.combined]
        return [np.where(mask, new, old) for new, old in zip(made, a, strict=True)]

    # --- expressions
    def value(self, root: Expr) -> Array:
        """The value of an expression now."""
        order = self.orders.get(root)
        if order is None:
            order = self.orders[root] = tuple(walk([root]))  # type: ignore[arg-type]
        known: dict[Expr, Array] = {}
        for node in order:
            if isinstance(node, Const):
                known[node] = np.asarray(node.value, node.dtype.numpy).reshape(1, 1)
            elif isinstance(node, Fn):
                args = [known[a] for a in node.args]
                found = SCALAR_FUNCTIONS[node.name].numpy(*args)
                known[node] = np.asarray(found).astype(node.dtype.numpy, copy=False)
            elif isinstance(node, Cast):
                known[node] = cast_array(known[node.x], node.dtype)
            elif isinstance(node, Bitcast):
                known[node] = np.ascontiguousarray(known[node.x]).view(node.dtype.numpy)
            else:
                known[node] = self.values[node]
        return known[root]
