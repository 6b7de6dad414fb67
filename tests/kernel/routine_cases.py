"""Routines that between them use everything the language has, with their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from niello.core.dtypes import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    int8,
    int32,
    int64,
    uint8,
    uint32,
    uint64,
)
from niello.kernel import ir
from niello.kernel.ir import Param
from niello.kernel.routine import Routine
from niello.kernel.routine_build import Place, RoutineBuilder

Shaped = tuple[tuple[int, ...], DType]
Build = Callable[..., None]


@dataclass(frozen=True)
class Case:
    """A routine and the arrays it runs on; outputs start as zeros."""

    name: str
    routine: Routine
    arrays: tuple[np.ndarray, ...]

    def copies(self) -> list[np.ndarray]:
        return [a.copy() for a in self.arrays]


def case(name: str, build: Build, inputs: Sequence[Shaped], outputs: Sequence[Shaped]) -> Case:
    """The routine that `build(r, *inputs)` makes."""
    rng = np.random.default_rng(len(name))
    places, arrays = [], []
    for slot, (shape, dtype) in enumerate((*inputs, *outputs)):
        size = int(np.prod(shape))
        param = Param(slot, dtype, size, slot >= len(inputs))
        places.append(Place(param, shape))
        arrays.append(values(rng, size, dtype) if slot < len(inputs) else _zeros(size, dtype))
    r = RoutineBuilder(name, places[: len(inputs)], places[len(inputs) :])
    build(r, *places[: len(inputs)])
    return Case(name, r.finish(), tuple(arrays))


def values(rng: np.random.Generator, size: int, dtype: DType) -> np.ndarray:
    if dtype is bool_:
        return rng.integers(0, 2, size).astype(bool)
    if dtype.is_float:
        return (rng.integers(-40, 40, size) / 8).astype(dtype.numpy)
    low = 0 if dtype.kind == "uint" else -50
    return rng.integers(low, 100, size).astype(dtype.numpy)


def _zeros(size: int, dtype: DType) -> np.ndarray:
    return np.zeros(size, dtype.numpy)


# --- the routines


def row_sums(r: RoutineBuilder, x: Place) -> None:
    rows, columns = x.shape
    row = r.teams(rows)
    total = r.reduce("add", columns, lambda m: r.read(x, (row, m)))
    r.write(r.outputs[0], row, total)
    least = r.reduce("min", columns, lambda m: r.read(x, (row, m)))
    r.write(r.outputs[1], row, least)


def first_largest(r: RoutineBuilder, x: Place) -> None:
    rows, columns = x.shape
    row = r.teams(rows)
    value, place = r.arg_reduce("max", columns, lambda m: r.read(x, (row, m)))
    r.write(r.outputs[0], row, value)
    r.write(r.outputs[1], row, place)


def running_sums(r: RoutineBuilder, x: Place) -> None:
    """Inclusive and exclusive sums, from 3 on."""
    rows, columns = x.shape
    row = r.teams(rows)
    inclusive, exclusive, totals = r.outputs

    def then(m: ir.Expr, before: ir.Expr, after: ir.Expr) -> None:
        r.write(inclusive, (row, m), after)
        r.write(exclusive, (row, m), before)

    total = r.scan("add", columns, lambda m: r.read(x, (row, m)), then, initial=3)
    r.write(totals, row, total)


def running_mixtures(r: RoutineBuilder, a: Place, b: Place) -> None:
    """h = a h + b: an associative function of pairs."""
    rows, columns = a.shape
    row = r.teams(rows)
    one, zero = ir.const(1.0, float32), ir.const(0.0, float32)
    r.scan_by(
        columns,
        lambda m: (r.read(a, (row, m)) * 0.125, r.read(b, (row, m))),
        lambda m, before, after: r.write(r.outputs[0], (row, m), after[1]),
        (one, zero),
        lambda f, g: (f[0] * g[0], f[1] * g[0] + g[1]),
    )


def backward_sums(r: RoutineBuilder, x: Place) -> None:
    """From the end of each row, by few members; what the terms are made of is used again."""
    rows, columns = x.shape
    row = r.teams(rows)
    r.members(32)
    seen: list[ir.Expr] = []

    def term(m: ir.Expr) -> ir.Expr:
        seen[:] = [r.read(x, (row, columns - 1 - m))]
        return r.cast(seen[0] * 2, int32)

    def then(m: ir.Expr, before: ir.Expr, after: ir.Expr) -> None:
        r.write(r.outputs[0], (row, columns - 1 - m), after)
        r.write(r.outputs[1], (row, columns - 1 - m), seen[0])

    r.scan("add", columns, term, then)


def kept_in_order(r: RoutineBuilder, x: Place) -> None:
    """Elements that meet a condition, brought to the front of each row; how many, and a while
    loop around scans and folds."""
    rows, columns = x.shape
    row = r.teams(rows)
    r.members(64)
    least = r.variable(int32, 40)
    found = r.variable(int32, 0)

    def keeps(m: ir.Expr) -> ir.Expr:
        return r.where(r.read(x, (row, m)) >= bound, 1, r.const(0, int32))

    def keep(m: ir.Expr, before: ir.Expr, after: ir.Expr) -> None:
        with r.when(before < after):
            r.write(r.outputs[0], (row, r.cast(before, int64)), r.read(x, (row, m)))

    with r.repeat(lambda: (found.get() < columns // 3) & (least.get() > -60)):
        bound = least.get()
        found.set(r.scan("add", columns, keeps, keep))
        top = r.reduce("max", columns, lambda m: r.read(x, (row, m)))
        least.set(bound - 7 - top % 3)
    r.write(r.outputs[1], row, found.get())


def lower_products(r: RoutineBuilder, x: Place, y: Place) -> None:
    """Loops whose bounds differ between the iterations of a Spread, and conditions."""
    n = x.shape[1]
    team = r.teams(x.shape[0])
    with r.spread(n) as m:
        total = r.variable(float32, 0.0)
        with r.loop(0, m + 1) as j:
            total.set(total.get() + r.read(x, (team, j)) * r.read(y, (team, m - j)))
        with r.when((m % 3).eq(1)):
            total.set(total.get() * 2.0)
            r.write(r.outputs[1], (team, m), r.cast(m, int32))
        with r.otherwise(), r.loop(m, -1, -2) as j:
            total.set(total.get() - r.read(x, (team, j)))
        r.write(r.outputs[0], (team, m), total.get())


def odd_even_sort(r: RoutineBuilder, x: Place) -> None:
    """Phases over shared scratch, with a uniform loop around spreads."""
    n = x.shape[1]
    row = r.teams(x.shape[0])
    held = r.local(x.dtype, n)
    with r.spread(n) as m:
        r.write(held, m, r.read(x, (row, m)))
    with r.loop(0, n) as phase, r.spread(n // 2) as m:
        first = m * 2 + phase % 2
        with r.when(first + 1 < n):
            a, b = r.read(held, first), r.read(held, first + 1)
            r.write(held, first, r.min(a, b))
            r.write(held, first + 1, r.max(a, b))
    with r.spread(n) as m:
        r.write(r.outputs[0], (row, m), r.read(held, m))


def bitonic_steps(r: RoutineBuilder, x: Place) -> None:
    """Indices made of quotients, remainders and exclusive ors."""
    n = x.shape[1]
    row = r.teams(x.shape[0])
    held = r.local(x.dtype, n)
    with r.spread(n) as m:
        r.write(held, m, r.read(x, (row, m)))
    size = 2
    while size <= n:
        step = size // 2
        while step:
            with r.spread(n // 2) as m:
                low = (m // step) * (2 * step) + m % step
                a, b = r.read(held, low), r.read(held, low + step)
                up = ((low // size) % 2).eq(0)
                swap = up.eq(b < a)
                r.write(held, low, r.where(swap, b, a))
                r.write(held, low + step, r.where(swap, a, b))
            step //= 2
        size *= 2
    with r.spread(n) as m:
        r.write(r.outputs[0], (row, m), r.read(held, m))
        r.write(r.outputs[1], (row, m), r.read(held, m ^ 64))


def histogram(r: RoutineBuilder, x: Place) -> None:
    """Atomic combinations into shared scratch and into an output that all teams share."""
    n = x.shape[1]
    row = r.teams(x.shape[0])
    counts = r.local(int32, 16)
    with r.spread(16) as m:
        r.write(counts, m, 0)
    with r.spread(n) as m:
        r.combine("add", counts, r.cast(r.read(x, (row, m)), int64) % 16, 1)
    with r.spread(16) as m:
        r.combine("add", r.outputs[0], m, r.read(counts, m))
        r.combine("max", r.outputs[1], m, r.cast(r.read(counts, m) * 3, uint32))


def insertion_sort(r: RoutineBuilder, x: Place) -> None:
    """A While in each iteration, on memory of its own, with several rows in a Spread."""
    rows, n = x.shape
    team = r.teams(-(-rows // 24))
    with r.spread(r.min(24, rows - team * 24)) as m:
        row = team * 24 + m
        own = r.local(x.dtype, n, "member")
        with r.loop(0, n) as i:
            value = r.read(x, (row, i))
            at = r.variable(int64, i, low=0, high=n)

            def larger(at=at, value=value, own=own) -> ir.Expr:
                here = at.get()
                before = r.read(own, r.max(here - 1, 0))
                return (here > 0) & (value < before)

            with r.repeat(larger):
                here = at.get()
                r.write(own, here, r.read(own, here - 1))
                at.set(here - 1)
            r.write(own, at.get(), value)
        with r.loop(0, n) as i:
            r.write(r.outputs[0], (row, i), r.read(own, i))


def collatz(r: RoutineBuilder, x: Place) -> None:
    """Uniform control that depends on memory: While, If and For around spreads."""
    row = r.teams(x.shape[0])
    number = r.variable(int32, r.read(x, row) + 60)
    steps = r.variable(int32, 0)
    with r.repeat(lambda: number.get() > 1):
        now = number.get()
        steps.set(steps.get() + 1)
        with r.when((now % 2).eq(0)):
            number.set(now // 2)
        with r.otherwise():
            number.set(now * 3 + 1)
    r.write(r.outputs[0], row, steps.get())
    total = r.variable(int32, 0)
    with r.loop(0, r.read(r.outputs[0], row) % 8) as i:
        with r.spread(5) as m:
            r.write(r.outputs[1], row * 5 + m, r.cast(m + i, int32))
        total.set(total.get() + r.read(r.outputs[1], row * 5 + 4))
    r.write(r.outputs[0], row, total.get() * 1000 + steps.get())


def strides(r: RoutineBuilder, x: Place) -> None:
    """Every distance between neighbours, forwards and backwards."""
    n = x.shape[1] // 4
    row = r.teams(x.shape[0])
    with r.spread(n) as m:
        total = r.read(x, (row, m * 2)) + r.read(x, (row, m * 3)) + r.read(x, (row, m * 4))
        total = total + r.read(x, (row, n - 1 - m)) + r.read(x, row * 4 * n)
        r.write(r.outputs[0], (row, n - 1 - m), total)
        r.write(r.outputs[1], (row, m * 2), total - 1.0)


def complex_products(r: RoutineBuilder, x: Place, y: Place) -> None:
    """Parts of numbers side by side, two and four at a time."""
    n = x.shape[1]
    row = r.teams(x.shape[0])
    with r.spread(n) as m:
        a, b = r.read(x, (row, m, 0)), r.read(x, (row, m, 1))
        c, d = r.read(y, (row, m, 0)), r.read(y, (row, m, 1))
        r.write(r.outputs[0], (row, m, 0), a * c - b * d)
        r.write(r.outputs[0], (row, m, 1), a * d + b * c)
    with r.spread(n // 2) as m:
        at = row * (2 * n) + m * 4
        parts = [r.read(x, at + i) for i in range(4)]
        for i in range(4):
            r.write(r.outputs[1], row * (4 * (n // 2)) + m * 4 + i, parts[3 - i])


def mixed_types(r: RoutineBuilder, *inputs: Place) -> None:
    """Every dtype, read and written."""
    n = inputs[0].shape[0]
    r.teams(3)
    third = -(-n // 3)
    with r.spread(r.min(third, n - r.team * third)) as m:
        for x, y in zip(inputs, r.outputs, strict=True):
            value = r.read(x, r.team * third + m)
            if x.dtype is bool_:
                r.write(y, r.team * third + m, r.not_(value))
            else:
                r.write(y, r.team * third + m, value + r.min(value, 7))


def large_scratch(r: RoutineBuilder, x: Place) -> None:
    """More scratch than the memory of a workgroup holds."""
    n = x.shape[1]
    row = r.teams(x.shape[0])
    held = r.local(x.dtype, n)
    with r.spread(n) as m:
        r.write(held, n - 1 - m, r.read(x, (row, m)))
    total = r.reduce("add", n // 2, lambda m: r.read(held, m * 2))
    with r.spread(n) as m:
        r.write(r.outputs[0], (row, m), r.read(held, m) + r.exp(total / 1000.0))


def outer_products(r: RoutineBuilder, x: Place, y: Place) -> None:
    """Spreads over pairs and triples, whose counts a team decides."""
    n = x.shape[1]
    team = r.teams(x.shape[0])
    size = n - team
    with r.spread_over(size, n) as (i, j):
        r.write(r.outputs[0], (team, i, j), r.read(x, (team, i)) * r.read(y, (team, j)))
    with r.spread_over(2, 3, size) as (i, j, k):
        r.write(r.outputs[1], (team, i, j, k), r.read(x, (team, k)) + r.cast(i * 3 + j, float32))


def lane_cases() -> list[Case]:
    """Folds and scans of which a thread of a GPU takes several iterations together."""
    f = float32
    found = []
    for n in (700, 1024, 1030, 2100):  # all of them exist, or not
        found += [
            case(f"row_sums_{n}", row_sums, [((3, n), f)], [((3,), f), ((3,), f)]),
            case(f"first_largest_{n}", first_largest, [((3, n), f)], [((3,), f), ((3,), int64)]),
            case(
                f"running_sums_{n}", running_sums, [((3, n), int32)],
                [((3, n), int32), ((3, n), int32), ((3,), int32)],
            ),
        ]  # fmt: skip
    found += [
        case(f"backward_{n}_{t.name}", backward_sums, [((3, n), t)], [((3, n), int32), ((3, n), t)])
        for n, t in ((128, int32), (130, f), (160, float16), (64, uint8))
    ]
    found += [
        case(f"kept_{n}", kept_in_order, [((4, n), int32)], [((4, n), int32), ((4,), int32)])
        for n in (50, 256, 300)
    ]
    return found


def cases() -> list[Case]:
    """All of them, in sizes that fill vectors and that do not."""
    f = float32
    found = []
    for n in (1, 7, 64, 300):
        found += [
            case(f"row_sums_{n}", row_sums, [((3, n), f)], [((3,), f), ((3,), f)]),
            case(f"first_largest_{n}", first_largest, [((3, n), f)], [((3,), f), ((3,), int64)]),
            case(
                f"running_sums_{n}", running_sums, [((3, n), int32)],
                [((3, n), int32), ((3, n), int32), ((3,), int32)],
            ),
            case(
                f"running_mixtures_{n}", running_mixtures, [((2, n), f), ((2, n), f)],
                [((2, n), f)],
            ),
            case(f"odd_even_{n}", odd_even_sort, [((2, n), f)], [((2, n), f)]),
        ]  # fmt: skip
    found += lane_cases()
    found += [
        case("mixtures_1024", running_mixtures, [((2, 1024), f)] * 2, [((2, 1024), f)]),
        case("lower", lower_products, [((2, 37), f)] * 2, [((2, 37), f), ((2, 37), int32)]),
        case("bitonic", bitonic_steps, [((3, 256), f)], [((3, 256), f)] * 2),
        case("bitonic_int8", bitonic_steps, [((1, 128), int8)], [((1, 128), int8)] * 2),
        case("histogram", histogram, [((5, 333), uint8)], [((16,), int32), ((16,), uint32)]),
        case("insertion", insertion_sort, [((53, 9), f)], [((53, 9), f)]),
        case("insertion_halves", insertion_sort, [((53, 9), float16)], [((53, 9), float16)]),
        case("collatz", collatz, [((9,), int32)], [((9,), int32), ((45,), int32)]),
        case("strides", strides, [((3, 212), f)], [((3, 53), f), ((3, 106), f)]),
        case("strides_whole", strides, [((3, 256), f)], [((3, 64), f), ((3, 128), f)]),
        case(
            "outer",
            outer_products,
            [((3, 21), f)] * 2,
            [((3, 21, 21), f), ((3, 2, 3, 21), f)],
        ),
        *(
            case(
                f"complex_{t.name}_{n}",
                complex_products,
                [((2, n, 2), t)] * 2,
                [((2, n, 2), t), ((2, n // 2, 4), t)],
            )
            for t, n in ((f, 53), (f, 64), (int32, 9), (float16, 40))
        ),
        case("large", large_scratch, [((2, 9000), f)], [((2, 9000), f)]),
    ]
    kinds = [bool_, int8, uint8, int32, uint32, int64]
    more = [uint64, float16, bfloat16]
    for name, some in (("types", kinds[:4]), ("more_types", kinds[4:]), ("rest", more)):
        shaped = [((50,), t) for t in some]
        found.append(case(name, mixed_types, shaped, shaped))
    return found
