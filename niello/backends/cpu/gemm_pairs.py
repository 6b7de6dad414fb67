"""Pairs: 16-bit operands multiplied two at a time, and summed in 32 bits, by one instruction.

Both sides are packed in units of 32 bits that hold two neighbours along k; a contraction in pairs
counts its innermost loop over k in units. An odd end is filled with zeros.

    bfloat   acc[i] += a[2i] * b[2i] + a[2i+1] * b[2i+1] in float32 (AVX512-BF16, which counts
             denormals as zero)
    i16      the same, exactly, in 32-bit integers (pmaddwd, vpdpwssd and their like)
"""

from __future__ import annotations

from collections.abc import Callable

from niello.backends.cpu.gemm_types import Indices, Lines, Place, Read
from niello.backends.cpu.llvm_text import Function, Value, constant, vector

UNIT = "i32"


def along_k(f: Function, read: Read, extent: int) -> Read:
    """Units along k from a line of `extent` 16-bit elements along k."""

    def units(index: Value, width: int, mask: Value | None) -> Value:
        first = f.mul(index, 2)
        if mask is None and extent % 2 == 0:
            return f.bitcast(read(first, 2 * width, None), vector(UNIT, width))
        exists = f.lane_mask(f.sub(extent, first), 2 * width)
        values = read(first, 2 * width, exists)
        values = f.select(exists, values, constant(0, values.type))
        return f.bitcast(values, vector(UNIT, width))

    return units


def lines_along_k(lines: Lines, extent: int) -> Lines:
    """Lines of units for a side packed along k."""
    return lambda f, place: along_k(f, lines(f, place), extent)


def lines_across(lines: Lines, extent: int) -> Lines:
    """Lines of units for a side packed along its own axis: two lines woven together."""

    def woven(f: Function, place: Place) -> Read:
        *outer, unit = place.k
        even = f.mul(unit, 2)
        odd = f.add(even, 1)
        last = None
        if extent % 2:
            last = f.icmp("slt", odd, extent)
            odd = f.smin(odd, extent - 1)
        low = lines(f, place.at(k=(*outer, even)))
        high = lines(f, place.at(k=(*outer, odd)))

        def units(index: Value, width: int, mask: Value | None) -> Value:
            a, b = low(index, width, mask), high(index, width, mask)
            if last is not None:
                b = f.select(last, b, constant(0, b.type))
            order = [n // 2 + width * (n % 2) for n in range(2 * width)]
            return f.bitcast(f.shuffle(a, b, order), vector(UNIT, width))

        return units

    return woven


BoxLines = Callable[[Function, Place, Indices], Read]


def box_lines(lines: BoxLines, extent: int) -> BoxLines:
    """Lines of units for a window whose last axis is the innermost loop over k."""
    return lambda f, place, index: along_k(f, lines(f, place, index), extent)


def multiply_add_pairs(f: Function, kind: str, a: Value, b: Value, total: Value) -> Value:
    """total[i] + a[2i] * b[2i] + a[2i+1] * b[2i+1] for vectors of units a and b."""
    width = int(total.type[1 : total.type.index(" ")])
    if kind == "bfloat":
        wide = vector("bfloat", 2 * width)
        name = f"llvm.x86.avx512bf16.dpbf16ps.{width * 32}"
        return f.call(name, total.type, [total, f.bitcast(a, wide), f.bitcast(b, wide)])
    wide = vector("i16", 2 * width)
    # Written out; LLVM knows the instruction that does this.
    full = vector("i32", 2 * width)
    left = f.cast("sext", f.bitcast(a, wide), full)
    right = f.cast("sext", f.bitcast(b, wide), full)
    products = f.emit(full, f"mul nsw {full} {left.text}, {right.text}")
    even = f.shuffle(products, None, range(0, 2 * width, 2))
    odd = f.shuffle(products, None, range(1, 2 * width, 2))
    return f.add(f.add(even, odd), total)
