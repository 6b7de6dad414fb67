"""Copying the sides of a contraction into scratch, in the order in which a tile reads them.

B becomes panels: for each panel of tile columns, k rows of `columns` elements. A becomes rows of k
elements (read along k) or, where it is computed along m, k rows of `block_rows` elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from niello.backends.cpu.gemm_types import Contraction, Packed, Place, Window
from niello.backends.cpu.llvm_text import Function, Operand, Value, byte_size


def k_nest(
    f: Function,
    extents: Sequence[Operand],
    starts: Sequence[Operand],
    body: Callable[[tuple[Value, ...], Value], None],
) -> None:
    """Loops over `extents`: `body(indices, flat)` with flat = row-major position."""

    def level(n: int, indices: tuple[Value, ...], flat: Value) -> None:
        if n == len(extents):
            body(indices, flat)
            return
        with f.for_range(0, extents[n], vectorize=False, unroll=1) as i:
            here = f.add(i, starts[n])
            level(n + 1, (*indices, here), f.add(f.mul(flat, extents[n]), i))

    level(0, (), f.as_value(0))


def _masked_chunks(
    f: Function, extent: Operand, width: int, body: Callable[[Value, Value | None], None]
) -> None:
    """Vectors along an axis: whole ones, then one with a mask if the extent leaves a rest."""
    if isinstance(extent, int):
        whole = extent // width * width
        if whole <= 4 * width:
            for start in range(0, whole, width):
                body(f.as_value(start), None)
        else:
            with f.for_range(0, whole, width, vectorize=False, unroll=1) as i:
                body(i, None)
        if extent > whole:
            body(f.as_value(whole), f.lane_mask(f.as_value(extent - whole), width))
        return
    with f.for_range(0, extent, width, vectorize=False, unroll=1) as i:
        body(i, f.lane_mask(f.sub(extent, i), width))


def pack_b(
    f: Function,
    c: Contraction,
    side: Packed,
    place: Place,
    out: Value,
    *,
    columns: int,
    width: int,
    panels: tuple[Value, Value],
    k_start: Operand,
    k_count: Operand,
    k_block: int,
) -> None:
    """Panels [first, last) of B for k rows [k_start, k_start + k_count) of the first k loop."""
    size = byte_size(c.element)
    first, last = panels
    extents: list[Operand] = [k_count, *c.k[1:]]
    starts: list[Operand] = [k_start] + [0] * (len(c.k) - 1)
    with f.for_range(first, last, vectorize=False, unroll=1) as panel:
        base = f.gep("i8", out, f.mul(f.sub(panel, first), k_block * columns * size))
        n0 = f.mul(panel, columns)
        if side.along == "n":
            _panel_along_n(f, c, side, place.at(n=n0), base, columns, width, extents, starts)
        else:
            _panel_along_k(f, c, side, place.at(n=n0), base, columns, width, extents, starts)


def _column_mask(f: Function, c: Contraction, n: Value, columns: int, width: int) -> Value | None:
    if c.n % width == 0 and c.n % columns == 0:
        return None
    return f.lane_mask(f.sub(c.n, n), width)


def _panel_along_n(
    f: Function,
    c: Contraction,
    side: Packed,
    place: Place,
    base: Value,
    columns: int,
    width: int,
    extents: Sequence[Operand],
    starts: Sequence[Operand],
) -> None:
    starts_n = [f.add(place.n, v * width) for v in range(columns // width)]
    masks = [_column_mask(f, c, n, columns, width) for n in starts_n]

    def row(indices: tuple[Value, ...], flat: Value) -> None:
        target = f.gep("i8", base, f.mul(flat, columns * byte_size(c.element)))
        read = side.lines(f, place.at(k=indices))
        for v, (n, mask) in enumerate(zip(starts_n, masks, strict=True)):
            values = read(n, width, mask)
            f.store(values, f.gep(c.element, target, v * width), align=byte_size(values.type))

    k_nest(f, extents, starts, row)


def transpose(f: Function, rows: Sequence[Value]) -> list[Value]:
    """Transpose a square of vectors in registers (a power of two of them)."""
    rows = list(rows)
    count = len(rows)
    step = count // 2
    while step:
        low, high = [], []
        for lane in range(count):
            block = lane & step
            low.append(lane if not block else count + lane - step)
            high.append(lane + step if not block else count + lane)
        merged = list(rows)
        for i in range(count):
            if not i & step:
                merged[i] = f.shuffle(rows[i], rows[i + step], low)
                merged[i + step] = f.shuffle(rows[i], rows[i + step], high)
        rows = merged
        step //= 2
    return rows


def _panel_along_k(
    f: Function,
    c: Contraction,
    side: Packed,
    place: Place,
    base: Value,
    columns: int,
    width: int,
    extents: Sequence[Operand],
    starts: Sequence[Operand],
) -> None:
    """Read `width` columns along one loop over k, transpose them, store rows of the panel."""
    size = byte_size(c.element)
    axis = side.axis % len(extents)
    steps = [math.prod(c.k[i + 1 :]) for i in range(len(c.k))]
    others = [i for i in range(len(extents)) if i != axis]

    def square(indices: tuple[Value, ...], n: Value) -> None:
        first_row = f.as_value(0)
        for i, index in zip(others, indices, strict=True):
            first_row = f.add(first_row, f.mul(f.sub(index, starts[i]), steps[i]))

        k = (*indices[:axis], f.as_value(0), *indices[axis:])
        # Columns past the end repeat the last one: their sums are never stored.
        columns_n = [f.smin(f.add(n, lane), c.n - 1) for lane in range(width)]
        reads = [side.lines(f, place.at(n=column, k=k)) for column in columns_n]

        def chunk(i: Value, mask: Value | None) -> None:
            here = f.add(i, starts[axis])
            lines = [read(here, width, mask) for read in reads]
            row = f.add(first_row, f.mul(i, steps[axis]))
            offset = f.add(f.mul(row, columns), f.sub(n, place.n))
            target = f.gep(c.element, base, offset)
            lanes_left = f.sub(extents[axis], i)
            for lane, line in enumerate(transpose(f, lines)):
                at = f.gep(c.element, target, lane * columns * steps[axis])
                if mask is None:
                    f.store(line, at, align=size * width)
                    continue
                exists = f.icmp("slt", lane, lanes_left)
                if exists.const is None:
                    with f.if_then(exists):
                        f.store(line, at, align=size * width)
                elif exists.const:
                    f.store(line, at, align=size * width)

        _masked_chunks(f, extents[axis], width, chunk)

    def outer(indices: tuple[Value, ...], flat: Value) -> None:
        with f.for_range(0, columns, width, vectorize=False, unroll=1) as v:
            square(indices, f.add(place.n, v))

    k_nest(f, [extents[i] for i in others], [starts[i] for i in others], outer)


def pack_a_rows(
    f: Function,
    c: Contraction,
    side: Packed,
    place: Place,
    out: Value,
    *,
    width: int,
    rows: Value,
    stride: int,
    k_start: Operand,
    k_count: Operand,
) -> None:
    """`rows` rows of A from place.m on, each as k elements in sequence `stride` elements apart."""
    extents: list[Operand] = [k_count, *c.k[1:]]
    starts: list[Operand] = [k_start] + [0] * (len(c.k) - 1)
    inner = extents[-1]
    with f.for_range(0, rows, vectorize=False, unroll=1) as r:
        base = f.gep(c.element, out, f.mul(r, stride))
        here = place.at(m=f.add(place.m, r))

        def line(
            indices: tuple[Value, ...], flat: Value, base: Value = base, here: Place = here
        ) -> None:
            target = f.gep(c.element, base, f.mul(flat, inner))
            read = side.lines(f, here.at(k=(*indices, f.as_value(0))))

            def chunk(i: Value, mask: Value | None) -> None:
                values = read(f.add(i, starts[-1]), width, mask)
                at = f.gep(c.element, target, i)
                if mask is None:
                    f.store(values, at, align=byte_size(c.element))
                else:
                    f.masked_store(values, at, mask, align=byte_size(c.element))

            _masked_chunks(f, inner, width, chunk)

        k_nest(f, extents[:-1], starts[:-1], line)


def pack_a_columns(
    f: Function,
    c: Contraction,
    side: Packed,
    place: Place,
    out: Value,
    *,
    width: int,
    rows: Value,
    stride: int,
    k_start: Operand,
    k_count: Operand,
) -> None:
    """Rows of A as vectors along m: element (m, k) lies at k * stride + m."""
    extents: list[Operand] = [k_count, *c.k[1:]]
    starts: list[Operand] = [k_start] + [0] * (len(c.k) - 1)

    def line(indices: tuple[Value, ...], flat: Value) -> None:
        base = f.gep(c.element, out, f.mul(flat, stride))
        read = side.lines(f, place.at(k=indices))
        with f.for_range(0, rows, width, vectorize=False, unroll=1) as i:
            mask = f.lane_mask(f.sub(rows, i), width)
            values = read(f.add(place.m, i), width, mask)
            f.masked_store(values, f.gep(c.element, base, i), mask, align=byte_size(c.element))

    k_nest(f, extents, starts, line)


def copy_window(
    f: Function, c: Contraction, side: Window, place: Place, out: Value, *, width: int
) -> None:
    """Copy the box of a window side."""
    inner = side.extents[-1]
    leading = side.extents[:-1]

    def line(indices: tuple[Value, ...], flat: Value) -> None:
        offset = f.as_value(0)
        for index, stride in zip(indices, side.strides, strict=False):
            offset = f.add(offset, f.mul(index, stride))
        target = f.gep(c.element, out, offset)

        read = side.lines(f, place, indices)

        def chunk(i: Value, mask: Value | None) -> None:
            values = read(i, width, mask)
            at = f.gep(c.element, target, i)
            if mask is None:
                f.store(values, at, align=byte_size(c.element))
            else:
                f.masked_store(values, at, mask, align=byte_size(c.element))

        _masked_chunks(f, inner, width, chunk)

    k_nest(f, leading, [0] * len(leading), line)
