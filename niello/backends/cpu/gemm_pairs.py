"""Units: small operands multiplied two or four at a time, summed in 32 bits, by one instruction.

Both sides are packed in units of 32 bits that hold neighbours along k; such a contraction counts
its innermost loop over k in units. What is missing at the end of a line is filled with zeros.

    bfloat   acc[i] += a[2i] * b[2i] + a[2i+1] * b[2i+1] in float32 (AVX512-BF16, which counts
             denormals as zero)
    i16      the same, exactly, in 32-bit integers (pmaddwd, vpdpwssd and their like)
    u8i8     four products, bytes of A without a sign and of B with one (vpdpbusd)
    i8u8     the same with the roles swapped
    i8       bytes with signs: those of A are packed plus 128, and each tile sums 128 * B in a row
             of its own, which it takes off in the end
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from niello.backends.cpu.gemm_types import Indices, Lines, Place, Read
from niello.backends.cpu.llvm_text import Function, Value, constant, vector

UNIT = "i32"
PER_UNIT = {"bfloat": 2, "i16": 2, "u8i8": 4, "i8u8": 4, "i8": 4}
BIASED = "i8"
# Registers that a tile cannot accumulate in: for an element of A, which the instruction does not
# read from memory, and for what a bias takes.
HELD = {"u8i8": 4, "i8": 4}
_BIAS_BYTES = -0x7F7F7F80  # 128 in each byte of a unit


@dataclass(frozen=True)
class Unit:
    """`count` elements of 32 / count bits; `biased` bytes are stored plus 128."""

    count: int
    biased: bool = False

    def closed(self, f: Function, values: Value, width: int) -> Value:
        """`width` units from their elements in sequence."""
        units = f.bitcast(values, vector(UNIT, width))
        return f.xor(units, bias(width)) if self.biased else units


def bias(width: int) -> Value:
    """Units of four bytes of 128."""
    return constant(_BIAS_BYTES, vector(UNIT, width))


def along_k(f: Function, read: Read, extent: int, unit: Unit) -> Read:
    """Units along k from a line of `extent` elements along k."""
    count = unit.count

    def units(index: Value, width: int, mask: Value | None) -> Value:
        first = f.mul(index, count)
        if mask is None and extent % count == 0:
            return unit.closed(f, read(first, count * width, None), width)
        exists = f.lane_mask(f.sub(extent, first), count * width)
        values = read(first, count * width, exists)
        values = f.select(exists, values, constant(0, values.type))
        return unit.closed(f, values, width)

    return units


def lines_along_k(lines: Lines, extent: int, unit: Unit) -> Lines:
    """Lines of units for a side packed along k."""
    return lambda f, place: along_k(f, lines(f, place), extent, unit)


def _woven(f: Function, parts: list[Value], width: int) -> Value:
    """Vectors of `width` lanes interleaved: a[0], b[0], ..., a[1], b[1], ..."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    low, high = _woven(f, parts[:half], width), _woven(f, parts[half:], width)
    order = []
    for lane in range(width):
        order += [lane * half + i for i in range(half)]
        order += [half * width + lane * half + i for i in range(half)]
    return f.shuffle(low, high, order)


def lines_across(lines: Lines, extent: int, unit: Unit) -> Lines:
    """Lines of units for a side packed along its own axis: as many lines woven together."""

    def woven(f: Function, place: Place) -> Read:
        *outer, number = place.k
        first = f.mul(number, unit.count)
        reads: list[tuple[Read, Value | None]] = []
        for i in range(unit.count):
            here = f.add(first, i) if i else first
            exists = None
            if i and extent % unit.count:
                exists = f.icmp("slt", here, extent)
                here = f.smin(here, extent - 1)
            reads.append((lines(f, place.at(k=(*outer, here))), exists))

        def units(index: Value, width: int, mask: Value | None) -> Value:
            parts = []
            for read, exists in reads:
                values = read(index, width, mask)
                if exists is not None:
                    values = f.select(exists, values, constant(0, values.type))
                parts.append(values)
            return unit.closed(f, _woven(f, parts, width), width)

        return units

    return woven


BoxLines = Callable[[Function, Place, Indices], Read]


def box_lines(lines: BoxLines, extent: int, unit: Unit) -> BoxLines:
    """Lines of units for a window whose last axis is the innermost loop over k."""
    return lambda f, place, index: along_k(f, lines(f, place, index), extent, unit)


def multiply_add_pairs(f: Function, kind: str, a: Value, b: Value, total: Value) -> Value:
    """total[i] plus the products of the elements of units a[i] and b[i]."""
    width = int(total.type[1 : total.type.index(" ")])
    if PER_UNIT[kind] == 4:
        without, signed = (b, a) if kind == "i8u8" else (a, b)
        name = f"llvm.x86.avx512.vpdpbusd.{width * 32}"
        # LLVM 22 names the operands as bytes, and takes this older form too.
        return f.call(name, total.type, [total, without, signed])
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
