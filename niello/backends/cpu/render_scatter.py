"""Stores that combine with what the buffer holds: each element belongs to one thread.

Points that hit one element combine in row-major order whatever the number of threads. Where one
range alone tells destinations apart (the columns of an embedding table), threads share that range
and lanes run over it; else each thread owns a piece of the buffer and skips the other points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from niello.backends.cpu.llvm_text import Value, vector
from niello.backends.cpu.render_casts import convert
from niello.backends.cpu.render_functions import emit_function
from niello.backends.cpu.render_loops import nest, share, sweep
from niello.backends.cpu.render_memory import address, store, to_memory, to_register
from niello.backends.cpu.render_types import memory_type, vector_bytes
from niello.backends.cpu.vectors import Emitter, Scope
from niello.codegen.access import cost, lane_bytes, narrowest_bytes, store_roots
from niello.core.dtypes import compute_dtype
from niello.kernel.bounds import affine, divisor
from niello.kernel.ir import Expr, Range, Store

_WORTH_SHARING = 1 << 14  # points below which one thread does it all
_CHUNK = 16  # columns that threads share at least: a cache line of floats


def render_combine(
    em: Emitter,
    ranges: Sequence[Range],
    stores: Sequence[Store],
    thread: Value,
    threads: Value,
) -> int:
    """Write stores of which some combine; returns how many threads can share them."""
    most = 1
    for node in stores:
        columns = _columns(node, ranges)
        if columns is not None:
            most = max(most, _by_columns(em, ranges, node, columns, thread, threads))
        else:
            most = max(most, _by_owner(em, ranges, node, thread, threads))
    return most


def _columns(node: Store, ranges: Sequence[Range]) -> Range | None:
    """A range whose points all hit different elements, whatever the others do."""
    index = affine(node.index)
    for r in sorted(ranges, key=lambda r: -r.extent):
        if r.extent < 2 or index.stride(r) != 1:
            continue
        others = [c for other, c in index.coefficients.items() if other is not r]
        others += [factor * divisor(term) for term, factor in index.rest]
        if all(c % r.extent == 0 for c in others):
            return r
    return None


def _by_columns(
    em: Emitter,
    ranges: Sequence[Range],
    node: Store,
    columns: Range,
    thread: Value,
    threads: Value,
) -> int:
    roots = store_roots([node])
    outer = [r for r in ranges if r is not columns]
    points = math.prod(r.extent for r in outer)
    grain = max(_CHUNK, -(-_WORTH_SHARING // max(1, points)) // _CHUNK * _CHUNK)
    start, stop = share(em, columns.extent, grain, thread, threads)
    width = vector_bytes(em.target) // lane_bytes([node.value])
    while width > 2 and width // 2 >= columns.extent:
        width //= 2
    bytes = narrowest_bytes(roots, [node])

    def trip(scopes: list[Scope], carry: list[Value]) -> list[Value]:
        for here in scopes:
            _combine(em, node, here)
        return carry

    def row(scopes: list[Scope], carry: list[Value]) -> list[Value]:
        em.hoist(roots, scopes[0], [columns])
        return sweep(em, columns, start, stop, scopes[0], width, 1, bytes, [], trip)

    nest(em, outer, [Scope()], roots, [], row, inner=[columns])
    return -(-columns.extent // grain)


def _by_owner(
    em: Emitter, ranges: Sequence[Range], node: Store, thread: Value, threads: Value
) -> int:
    f = em.f
    roots = store_roots([node])
    points = math.prod(r.extent for r in ranges)
    pieces = min(node.param.elements, points // _WORTH_SHARING + 1)
    grain = -(-node.param.elements // max(1, pieces))
    if pieces == 1:
        first, end = share(em, 1, 1, thread, threads)
        with f.if_then(f.icmp("slt", first, end)):
            nest(em, ranges, [Scope()], roots, [], lambda scopes, carry: _point(em, node, scopes))
        return 1
    first, end = share(em, node.param.elements, grain, thread, threads)

    def point(scopes: list[Scope], carry: list[Value]) -> list[Value]:
        index = em.value(node.index, scopes[0])
        mine = f.and_(f.icmp("sge", index, first), f.icmp("slt", index, end))
        if node.gate is not None:
            mine = f.and_(mine, em.value(node.gate, scopes[0]))
        with f.if_then(mine):
            _update(em, node, Scope(scopes[0]))
        return carry

    kept: list[Expr] = [node.index] if node.gate is None else [node.index, node.gate]
    nest(em, ranges, [Scope()], kept, [], point)
    return pieces if cost([node.value]) > 4 else 1


def _point(em: Emitter, node: Store, scopes: Sequence[Scope]) -> list[Value]:
    if node.combine is None:
        store(em, node, em.value(node.value, scopes[0]), scopes[0])
    else:
        _combine(em, node, scopes[0])
    return []


def _combine(em: Emitter, node: Store, scope: Scope) -> None:
    """buffer[index] = op(buffer[index], value) at a point or along lanes, where the gate holds."""
    if scope.vector is not None:
        _combine_lanes(em, node, scope)
    elif node.gate is None:
        _update(em, node, scope)
    else:
        with em.f.if_then(em.value(node.gate, scope)):
            _update(em, node, Scope(scope))


def _update(em: Emitter, node: Store, scope: Scope) -> None:
    f, dtype = em.f, node.param.dtype
    value = em.value(node.value, scope)
    pointer = address(em, node.param, em.value(node.index, scope))
    if node.combine is not None:
        before = to_register(em, f.load(memory_type(dtype), pointer, align=dtype.itemsize), dtype)
        value = _combined(em, node, before, value)
    f.store(to_memory(em, value, dtype), pointer, align=dtype.itemsize)


def _combined(em: Emitter, node: Store, before: Value, value: Value) -> Value:
    f, dtype = em.f, node.param.dtype
    if node.combine is None:
        return value
    wide = compute_dtype(dtype)
    before = convert(f, em.target, before, dtype, wide)
    added = convert(f, em.target, value, dtype, wide)
    after = emit_function(f, em.target, node.combine, wide, [before, added])
    return convert(f, em.target, after, wide, dtype)


def _combine_lanes(em: Emitter, node: Store, scope: Scope) -> None:
    """The same for contiguous elements, one per lane."""
    f = em.f
    gate = None if node.gate is None else em.value(node.gate, scope)
    if gate is not None and gate.type == "i1":
        with f.if_then(gate):
            _contiguous(em, node, Scope(scope), scope.mask)
        return
    mask = scope.mask
    if gate is not None:
        mask = gate if mask is None else f.and_(mask, gate)
    _contiguous(em, node, scope, mask)


def _contiguous(em: Emitter, node: Store, scope: Scope, mask: Value | None) -> None:
    f, dtype = em.f, node.param.dtype
    pointer = address(em, node.param, em.scalar(node.index, scope))
    kind = vector(memory_type(dtype), scope.width)
    value = em.lanes(node.value, scope)
    size = dtype.itemsize
    if mask is None:
        before = f.load(kind, pointer, align=size)
    else:
        before = f.masked_load(kind, pointer, mask, align=size)
    after = _combined(em, node, to_register(em, before, dtype), value)
    if mask is None:
        f.store(to_memory(em, after, dtype), pointer, align=size)
    else:
        f.masked_store(to_memory(em, after, dtype), pointer, mask, align=size)
