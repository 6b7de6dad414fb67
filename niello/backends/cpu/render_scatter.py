"""Stores that combine with what the buffer holds."""

from __future__ import annotations

from collections.abc import Sequence

from niello.backends.cpu.llvm_text import Value
from niello.backends.cpu.render_casts import convert
from niello.backends.cpu.render_functions import emit_function
from niello.backends.cpu.render_loops import nest
from niello.backends.cpu.render_memory import address, store, to_memory, to_register
from niello.backends.cpu.render_types import memory_type
from niello.backends.cpu.vectors import Emitter, Scope
from niello.codegen.access import store_roots
from niello.core.dtypes import compute_dtype
from niello.kernel.ir import Range, Store


def render_combine(
    em: Emitter,
    ranges: Sequence[Range],
    stores: Sequence[Store],
    thread: Value,
    threads: Value,
) -> int:
    """Stores that combine with what is there, in row-major order, by the first thread."""
    f = em.f
    scope = Scope()
    roots = store_roots(stores)

    def point(scopes: list[Scope], carry: list[Value]) -> list[Value]:
        for s in stores:
            if s.combine is None:
                store(em, s, em.value(s.value, scopes[0]), scopes[0])
            else:
                combine(em, s, scopes[0])
        return carry

    with f.if_then(f.icmp("eq", thread, 0)):
        nest(em, ranges, [scope], roots, [], point)
    return 1


def combine(em: Emitter, node: Store, scope: Scope) -> None:
    """buffer[index] = op(buffer[index], value) at one point, where the gate holds."""
    f, dtype = em.f, node.param.dtype
    value = em.value(node.value, scope)
    pointer = address(em, node.param, em.value(node.index, scope))

    def update() -> None:
        wide = compute_dtype(dtype)
        before = to_register(em, f.load(memory_type(dtype), pointer, align=dtype.itemsize), dtype)
        before = convert(f, em.target, before, dtype, wide)
        added = convert(f, em.target, value, dtype, wide)
        assert node.combine is not None
        after = emit_function(f, em.target, node.combine, wide, [before, added])
        after = convert(f, em.target, after, wide, dtype)
        f.store(to_memory(em, after, dtype), pointer, align=dtype.itemsize)

    if node.gate is None:
        update()
        return
    with f.if_then(em.value(node.gate, scope)):
        update()
