"""Random routines without races: every element is written by one iteration."""

from __future__ import annotations

import random

from routine_cases import Case, case

from niello.core.dtypes import DType, float32, int32, int64
from niello.kernel import ir
from niello.kernel.ir import Expr
from niello.kernel.routine_build import Place, RoutineBuilder, Variable

TEAMS, SIZE = 3, 40  # rows and columns of all tensors


class Maker:
    """Builds one routine from random choices. Values stay small, so that nothing overflows."""

    def __init__(self, r: RoutineBuilder, inputs: tuple[Place, ...], rng: random.Random) -> None:
        self.r, self.inputs, self.rng = r, inputs, rng
        self.team = r.teams(TEAMS)
        self.scratch: list[Place] = []
        self.index: Expr | None = None  # the iteration, inside a spread
        self.numbers: list[Expr] = [r.index(0), self.team]

    def build(self) -> None:
        for dtype in (float32, int32):
            self.scratch.append(self.r.local(dtype, SIZE))
            with self.r.spread(SIZE) as m:
                self.r.write(self.scratch[-1], m, self.r.cast(m % 5, dtype))
        for _ in range(self.rng.randint(2, 5)):
            self.uniform(2)
        with self.r.spread(SIZE) as m:
            for place, out in zip(self.scratch, self.r.outputs, strict=True):
                self.r.write(out, (self.team, m), self.r.read(place, m))

    # --- values
    def value(self, dtype: DType, depth: int = 2) -> Expr:
        r, rng = self.r, self.rng
        choice = rng.randrange(6) if depth else rng.randrange(2)
        if choice == 0:
            return r.cast(rng.choice(self.numbers), dtype)
        if choice == 1:
            return r.read(rng.choice([p for p in self.places() if p.dtype is dtype]), self.place())
        if choice == 2:
            other = int32 if dtype is float32 else float32
            return r.cast(self.value(other, depth - 1), dtype)
        a, b = self.value(dtype, depth - 1), self.value(dtype, depth - 1)
        if choice == 3:
            return r.where(self.test(depth - 1), a, b)
        return self.bounded(r.fn(rng.choice(("add", "sub", "min", "max")), a, b))

    def bounded(self, x: Expr) -> Expr:
        limit = ir.const(50, x.dtype)
        return self.r.min(self.r.max(x, -limit), limit)

    def test(self, depth: int = 1) -> Expr:
        a, b = self.value(int32, depth), self.value(int32, depth)
        return self.r.fn(self.rng.choice(("lt", "le", "eq", "ne")), a, b)

    def places(self) -> list[Place]:
        """What may be read here: inside of a spread, nothing that it writes."""
        return list(self.inputs) if self.index is not None else [*self.inputs, *self.scratch]

    def place(self) -> Expr:
        """An index of a row of an input, or of scratch memory."""
        rng = self.rng
        m = rng.choice(self.numbers)
        forms = (
            m,
            m + rng.randrange(SIZE),
            SIZE - 1 - m,
            m * rng.randint(2, 5),
            m ^ rng.randrange(64),
        )
        return rng.choice(forms) % SIZE

    # --- statements
    def uniform(self, depth: int) -> None:
        """A statement outside of spreads."""
        r, rng = self.r, self.rng
        choice = rng.randrange(6 if depth else 4)
        if choice <= 1:
            self.spread()
        elif choice == 2:
            place = rng.choice(self.scratch)
            r.write(place, self.place(), self.value(place.dtype))
        elif choice == 3:
            self.reduction()
        elif choice == 4:
            kept = list(self.numbers)
            with r.loop(0, self.count(4)) as i:
                self.numbers = [*self.numbers, i]
                self.uniform(depth - 1)
            self.numbers = kept
        else:
            kept = list(self.numbers)
            with r.when(self.test()):
                self.uniform(depth - 1)
            self.numbers = kept
            with r.otherwise():
                self.uniform(depth - 1)
            self.numbers = kept

    def count(self, most: int) -> Expr:
        return self.r.cast(self.r.abs(self.value(int32, 1)), int64) % (most + 1)

    def reduction(self) -> None:
        r, rng = self.r, self.rng
        inside = self.inner(lambda m: self.value(int32))
        if rng.random() < 0.5:
            op = rng.choice(("add", "min", "max"))
            found = self.bounded(r.reduce(op, self.count(SIZE), inside))
        else:
            place = self.scratch[1]
            op = rng.choice(("add", "max"))
            then = lambda m, before, after: r.write(place, m, self.bounded(after - before))  # noqa: E731
            found = self.bounded(r.scan(op, self.count(SIZE), inside, then, initial=2))
        self.numbers = [*self.numbers, r.cast(found, int64) % SIZE]

    def inner(self, value):
        """A function of an iteration, inside of which nothing is read that is written."""

        def made(m: Expr) -> Expr:
            kept, self.index = list(self.numbers), m
            self.numbers = [*self.numbers, m]
            found = value(m)
            self.numbers, self.index = kept, None
            return found

        return made

    def spread(self) -> None:
        r, rng = self.r, self.rng
        place = rng.choice(self.scratch)
        kept = list(self.numbers)
        with r.spread(rng.choice((SIZE, 16, r.min(self.count(SIZE), SIZE)))) as m:
            self.index = m
            self.numbers = [*self.numbers, m]
            total = r.variable(place.dtype, self.value(place.dtype))
            self.body(total, 2)
            target = m if rng.random() < 0.7 else SIZE - 1 - m
            if rng.random() < 0.5:
                with r.when(self.test()):
                    r.write(place, target, total.get())
            else:
                r.write(place, target, total.get())
        self.index, self.numbers = None, kept

    def body(self, total: Variable, depth: int) -> None:
        """Statements of an iteration that change a variable."""
        r, rng = self.r, self.rng
        choice = rng.randrange(4 if depth else 1)
        kept = list(self.numbers)
        if choice == 0:
            added = self.value(total.cell.dtype)
            total.set(self.bounded(total.get() + added))
        elif choice == 1:
            start, stop = self.count(6), self.count(9)
            with r.loop(start, stop, rng.choice((1, 2))) as i:
                self.numbers = [*self.numbers, i]
                self.body(total, depth - 1)
        elif choice == 2:
            with r.when(self.test()):
                self.body(total, depth - 1)
            self.numbers = list(kept)
            with r.otherwise():
                self.body(total, depth - 1)
        else:
            left = r.variable(int32, r.cast(self.count(5), int32))
            with r.repeat(lambda: left.get() > 0):
                left.set(left.get() - 1)
                self.body(total, depth - 1)
        self.numbers = kept


def random_case(seed: int) -> Case:
    """A routine with its inputs."""
    rng = random.Random(seed)
    shaped = [((TEAMS, SIZE), float32), ((TEAMS, SIZE), int32)]
    made = case(f"random{seed}", lambda r, *inputs: Maker(r, inputs, rng).build(), shaped, shaped)
    return made
