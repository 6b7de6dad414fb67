"""Splitting k among threads when the result is too small to divide: partial results, their sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

from niello.backends.cpu.gemm_plan import Plan
from niello.backends.cpu.gemm_types import Contraction, Place
from niello.backends.cpu.llvm_text import Function, Module, Value, byte_size, vector


def unravel(f: Function, flat: Value, extents: Sequence[int]) -> tuple[Value, ...]:
    """Indices of a row-major position."""
    out: list[Value] = []
    for extent in reversed(extents[1:]):
        out.append(f.urem(flat, extent))
        flat = f.udiv(flat, extent)
    return (flat, *reversed(out)) if extents else ()


def write_sum(module: Module, c: Contraction, plan: Plan) -> str:
    """Write the second stage: rows of partial results are added in order of k and finished."""
    name = f"{c.name}_sum"
    f = module.function(
        name,
        "void",
        [*c.parameters, ("ptr", "scratch"), ("i64", "thread"), ("i64", "threads")],
        internal=c.internal,
        inline=False,
    )
    extents = (*c.batch, *c.outer, *c.plane, c.m)
    rows = math.prod(extents)
    thread, threads = f.argument("thread"), f.argument("threads")
    first = f.udiv(f.mul(thread, rows), threads)
    last = f.udiv(f.mul(f.add(thread, 1), rows), threads)
    place = Place(tuple(f.arguments[: len(c.parameters)]))
    b, o = len(c.batch), len(c.batch) + len(c.outer)
    with f.for_range(first, last, vectorize=False, unroll=1) as row:
        index = unravel(f, row, extents)
        here = place.at(batch=index[:b], outer=index[b:o], plane=index[o:-1], m=index[-1])
        start = f.gep(c.element, f.argument("scratch"), f.mul(row, plan.sums_stride))
        width = plan.tile.width
        with f.for_range(0, c.n, width, vectorize=False, unroll=1) as n:
            _column(f, c, plan, here.at(n=n), f.gep(c.element, start, n))
    f.ret()
    return name


def _column(f: Function, c: Contraction, plan: Plan, place: Place, start: Value) -> None:
    """Sum one vector over the splits, in their order, and finish it."""
    width = plan.tile.width
    kind = vector(c.element, width)
    align = byte_size(c.element) * width
    step = plan.split_elements
    with f.loop(1, plan.k_splits, 1, [f.load(kind, start, align=align)], unroll=1) as loop:
        part = f.load(kind, f.gep(c.element, start, f.mul(loop.index, step)), align=align)
        add = f.fadd if c.element in ("float", "double") else f.add
        loop.next([add(loop.carried[0], part)])
    mask = None if c.n % width == 0 else f.lane_mask(f.sub(c.n, place.n), width)
    c.finish(f, place, loop.results[0], mask, "n")
