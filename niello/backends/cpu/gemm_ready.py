"""Sides that are packed once, before any run: weights known at compile time.

Panels hold all of k, one panel after the other, for each batch in turn, so that blocks of k and
chunks of panels are addresses and no layouts of their own.
"""

from __future__ import annotations

import math

from niello.backends.cpu.gemm_pack import pack_b
from niello.backends.cpu.gemm_plan import Plan
from niello.backends.cpu.gemm_split import unravel
from niello.backends.cpu.gemm_types import Contraction, Place, Ready
from niello.backends.cpu.llvm_text import Function, Module, Operand, Value


def ready_bytes(c: Contraction, plan: Plan) -> int:
    """Memory that the panels of side B take."""
    return math.prod(c.batch) * plan.panels * _panel_elements(c, plan) * plan.size


def _panel_elements(c: Contraction, plan: Plan) -> int:
    return math.prod(c.k) * plan.tile.columns


def panel_offset(
    f: Function, c: Contraction, plan: Plan, place: Place, panel: Value, k_start: Operand
) -> Value:
    """The elements before a panel, from step `k_start` of the first loop over k on."""
    number = f.as_value(0)
    for index, extent in zip(place.batch, c.batch, strict=True):
        number = f.add(f.mul(number, extent), index)
    number = f.add(f.mul(number, plan.panels), panel)
    steps = f.mul(k_start, plan.k_inner * plan.tile.columns)
    return f.add(f.mul(number, _panel_elements(c, plan)), steps)


def panel_address(
    f: Function, c: Contraction, plan: Plan, place: Place, panel: Value, k_start: Operand
) -> Value:
    """Where a panel lies, from step `k_start` of the first loop over k on."""
    assert isinstance(c.b, Ready)
    offset = panel_offset(f, c, plan, place, panel, k_start)
    return f.gep(c.element, c.b.memory(place), offset)


def emit_pack(module: Module, c: Contraction, plan: Plan) -> str:
    """Write the function that fills the panels, and give its name.

    It is `void f(parameters..., i64 thread, i64 threads)`: threads share the panels.
    """
    assert isinstance(c.b, Ready)
    f = module.function(
        f"{c.name}_pack",
        "void",
        [*c.parameters, ("i64", "thread"), ("i64", "threads")],
        internal=c.internal,
        inline=False,
    )
    items = math.prod(c.batch) * plan.panels
    thread, threads = f.argument("thread"), f.argument("threads")
    first = f.udiv(f.mul(thread, items), threads)
    last = f.udiv(f.mul(f.add(thread, 1), items), threads)
    place = Place(tuple(f.arguments[: len(c.parameters)]))
    with f.for_range(first, last, vectorize=False, unroll=1) as item:
        *batch, panel = unravel(f, item, (*c.batch, plan.panels))
        here = place.at(batch=tuple(batch))
        pack_b(
            f,
            c,
            c.b.packed,
            here,
            panel_address(f, c, plan, here, panel, 0),
            columns=plan.tile.columns,
            width=plan.tile.width,
            panels=(panel, f.add(panel, 1)),
            k_start=0,
            k_count=c.k[0],
            k_block=math.prod(c.k),
        )
    f.ret()
    return f.name
