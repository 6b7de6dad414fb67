"""Contractions with few rows whose vector side lies along k: dot products, without packing.

Packing B pays when many rows use it. With a row or a few, the time is that of reading B once; each
result is then a dot product of two lines along k, summed in vectors and added up at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from niello.backends.cpu.gemm_split import unravel
from niello.backends.cpu.gemm_tile import Target
from niello.backends.cpu.gemm_types import Contraction, Emitted, Packed, Place, Read
from niello.backends.cpu.llvm_text import Function, Module, Value, byte_size, constant, vector

MOST_ROWS = 4
_COLUMNS = 4  # dot products at a time: streams of memory, chains of additions


def suits_dot(c: Contraction) -> bool:
    """Whether the contraction is a few rows of dot products."""
    return (
        isinstance(c.a, Packed)
        and c.a.along == "k"
        and isinstance(c.b, Packed)
        and c.b.along == "k"
        and len(c.k) == 1
        and c.k[0] >= 64
        and c.m * math.prod(c.outer) * math.prod(c.plane) <= MOST_ROWS
        and c.finish_along == "n"
        and not c.pairs
    )


def emit_dot(module: Module, c: Contraction, target: Target) -> Emitted:
    """Write the function of a contraction that :func:`suits_dot` accepts."""
    f = module.function(
        c.name,
        "void",
        [*c.parameters, ("ptr", "scratch"), ("i64", "thread"), ("i64", "threads")],
        internal=c.internal,
        inline=False,
    )
    width = max(1, target.vector_bytes // byte_size(c.element))
    blocks = -(-c.n // width)
    extents = (*c.batch, *c.outer, *c.plane, blocks)
    items = math.prod(extents)
    thread, threads = f.argument("thread"), f.argument("threads")
    first = f.udiv(f.mul(thread, items), threads)
    last = f.udiv(f.mul(f.add(thread, 1), items), threads)
    results = f.alloca(vector(c.element, width), c.m)
    place = Place(tuple(f.arguments[: len(c.parameters)]))
    b, o = len(c.batch), len(c.batch) + len(c.outer)
    with f.for_range(first, last, vectorize=False, unroll=1) as item:
        index = unravel(f, item, extents)
        here = place.at(
            batch=index[:b],
            outer=index[b:o],
            plane=index[o:-1],
            n=f.mul(index[-1], width),
            k=(f.as_value(0),),
        )
        _block(f, c, here, results, width)
    f.ret()
    return Emitted((c.name,), 0, 0, items)


def _block(f: Function, c: Contraction, place: Place, results: Value, width: int) -> None:
    """`width` columns of all rows: sums into `results`, then one vector a row is finished."""
    assert isinstance(c.a, Packed) and isinstance(c.b, Packed)
    columns = min(_COLUMNS, width)
    rows = [c.a.lines(f, place.at(m=f.as_value(m))) for m in range(c.m)]
    with f.for_range(0, width, columns, vectorize=False, unroll=1) as group:
        start = f.add(place.n, group)
        # Columns past the end repeat the last one and are not stored.
        numbers = [f.smin(f.add(start, i), c.n - 1) for i in range(columns)]
        lines = [c.b.lines(f, place.at(n=n)) for n in numbers]
        sums = _dots(f, c, rows, lines, width)
        for n, total in enumerate(sums):
            m, i = divmod(n, columns)
            spot = f.add(f.add(group, i), m * width)
            f.store(total, f.gep(c.element, results, spot), align=byte_size(c.element))
    mask = None if c.n % width == 0 else f.lane_mask(f.sub(c.n, place.n), width)
    kind = vector(c.element, width)
    for m in range(c.m):
        value = f.load(kind, f.gep(c.element, results, m * width), align=byte_size(c.element))
        c.finish(f, place.at(m=f.as_value(m), k=()), value, mask, "n")


def _dots(
    f: Function, c: Contraction, rows: Sequence[Read], lines: Sequence[Read], width: int
) -> list[Value]:
    """Every row times every line, row by row."""
    kind = vector(c.element, width)
    depth = c.k[0]
    whole = depth // width * width
    sums = [constant(0, kind)] * (len(rows) * len(lines))

    def step(at: Value, mask: Value | None, sums: Sequence[Value]) -> list[Value]:
        left = [read(at, width, mask) for read in rows]
        right = [read(at, width, mask) for read in lines]
        made = []
        for n, total in enumerate(sums):
            m, i = divmod(n, len(lines))
            if c.element in ("float", "double"):
                more = f.multiply_add(left[m], right[i], total)
            else:
                more = f.add(f.mul(left[m], right[i]), total)
            made.append(more if mask is None else f.select(mask, more, total))
        return made

    if whole:
        with f.loop(0, whole, width, sums, vectorize=False, unroll=1) as loop:
            loop.next(step(loop.index, None, loop.carried))
        sums = loop.results
    if depth > whole:
        sums = step(f.as_value(whole), f.lane_mask(f.as_value(depth - whole), width), sums)
    return [_across(f, c.element, s, width) for s in sums]


def _across(f: Function, element: str, value: Value, width: int) -> Value:
    """Sum of the lanes, in halves."""
    while width > 1:
        width //= 2
        low = f.shuffle(value, None, range(width))
        high = f.shuffle(value, None, range(width, 2 * width))
        value = f.fadd(low, high) if element in ("float", "double") else f.add(low, high)
    return value
