"""Memory of the next row, asked for while this one is worked on.

A row that goes through several phases waits for memory in the first, which reads it, and in the
last, which writes; in between it computes on what is in the cache. The phase in between therefore
prefetches, vector by vector, the same place of the next row and of this row's results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from niello.backends.cpu.render_memory import address
from niello.backends.cpu.render_types import memory_type
from niello.backends.cpu.vectors import Emitter, Scope
from niello.codegen.access import loads
from niello.codegen.plan import Nest
from niello.codegen.rows import Phase
from niello.kernel.bounds import affine
from niello.kernel.ir import Expr, Param, Range

_LONG_ROW = 4 << 10  # bytes of a row from which hardware prefetchers are left behind

Ahead = Callable[[Sequence[Scope]], None]


def rows_ahead(em: Emitter, this: Nest, *, writes: bool) -> tuple[Phase, Ahead] | None:
    """The phase of a nest that should prefetch, and what writes that at a point of its loop.

    ``writes``: whether the results are written through the caches, so that they too are wanted."""
    if not this.ranges or len(this.phases) < 3 or em.target.architecture != "x86_64":
        return None
    first, middle, last = this.phases[0], this.phases[-2], this.phases[-1]
    if not middle.reductions or not first.ranges == middle.ranges == last.ranges:
        return None
    row, lanes = this.ranges[-1], middle.ranges[-1]
    reads = [
        (x.param, x.index, affine(x.index).coefficient(row))
        for x in loads(first.roots)
        if x.gate is None and _is_row(em, x.param, x.index, row, lanes)
    ]
    results = [
        (s.param, s.index)
        for s in last.stores
        if writes and s.gate is None and _is_row(em, s.param, s.index, row, lanes)
    ]
    if not reads:
        return None

    def ahead(scopes: Sequence[Scope]) -> None:
        f = em.f
        for here in scopes:
            for param, index, step in reads:
                place = address(em, param, em.scalar(index, here))
                following = f.gep(memory_type(param.dtype), place, step, inbounds=False)
                f.prefetch(following, locality=3)
            for param, index in results:
                f.prefetch(address(em, param, em.scalar(index, here)), write=True, locality=3)

    return middle, ahead


def _is_row(em: Emitter, param: Param, index: Expr, row: Range, lanes: Range) -> bool:
    """Whether a buffer of the caller's is walked in long rows, one after the other."""
    form = affine(index)
    step = form.stride(row)
    return (
        param not in em.row_params
        and form.stride(lanes) == 1
        and step is not None
        and step * param.dtype.itemsize >= _LONG_ROW
        and param in em.pointers
    )


__all__ = ["Ahead", "rows_ahead"]
