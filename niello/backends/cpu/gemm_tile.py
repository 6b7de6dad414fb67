"""The register tile of a contraction: its shape, its choice, and the loop that fills it.

A tile is `rows` x `vectors` accumulator vectors. In every step k it loads `vectors` vectors of B,
broadcasts one element of A per row and does rows * vectors multiply-adds. All strides are known at
compile time, so rows cost no address registers: they are displacements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from niello.backends.cpu.gemm_pairs import BIASED, UNIT, bias, multiply_add_pairs
from niello.backends.cpu.llvm_text import Function, Operand, Value, byte_size, constant, vector

_UNROLLED_MULTIPLY_ADDS = 192  # body size up to which a short k loop is written out in full


@dataclass(frozen=True)
class Target:
    """What the tile choice knows of a CPU: vector registers, their bytes, cache bytes."""

    vector_bytes: int = 16
    registers: int = 16
    fused: bool = False
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10


@dataclass(frozen=True)
class Tile:
    """rows x vectors accumulators of `width` lanes."""

    rows: int
    vectors: int
    width: int

    @property
    def columns(self) -> int:
        return self.vectors * self.width


Rows = tuple[int, int]


@dataclass(frozen=True)
class KLoop:
    """One loop over k: how often, and by how many elements A and B advance per step.

    `live`, where it is known, gives for each step the rows [first, last) of the tile whose element
    of A is not zero; the loop is then written out, with multiply-adds for those rows only.
    """

    extent: Operand
    a_stride: int
    b_stride: int
    live: tuple[Rows, ...] | None = None


def _tile_cost(rows: int, vectors: int) -> float:
    """Cycles of one k step: multiply-adds and loads go two a cycle, a chain takes four."""
    return max(rows * vectors / 2, (rows + vectors) / 2 + 0.25, 4.0)


def _cover(total: int, size: int) -> tuple[int, int]:
    return total // size, total % size


def choose_tile(m: int, n: int, target: Target, element: str, *, threads: int = 1) -> Tile:
    """The tile with the least modelled time for an m x n result.

    `threads` is how many share its columns evenly, where that matters.

    The last tile of a column may have fewer rows (a second, smaller kernel); the last vector of a
    row is masked, so columns are rounded up to vectors and panels.
    """
    width = target.vector_bytes // byte_size(element)
    while width > 4 and width // 2 >= n:
        width //= 2
    best: tuple[float, Tile] | None = None
    spare = 1 if target.registers > 16 else 2
    vectors_needed = -(-n // width)
    widest = 4 if m > 2 else 16 // m  # a single row streams B: long runs of memory, many chains
    for vectors in range(1, min(widest, vectors_needed) + 1):
        limit = (target.registers - spare - vectors) // vectors
        for rows in range(1, min(limit, m, 24) + 1):
            panels = -(-vectors_needed // vectors)
            panels = -(-panels // threads) * threads
            full, rest = _cover(m, rows)
            time = full * _tile_cost(rows, vectors) + (_tile_cost(rest, vectors) if rest else 0)
            # A remainder is a second kernel to compile; few rows load B more often.
            time = panels * time * (1.02 if rest else 1.0) * (1 + 0.15 / rows + 0.03 / vectors)
            if best is None or time < best[0] - 1e-9:
                best = (time, Tile(rows, vectors, width))
    if best is None:
        return Tile(1, 1, width)
    return best[1]


@dataclass(frozen=True)
class Ahead:
    """Memory that each trip of the k loop prefetches: a cache line at each offset (in bytes) from
    the address `start`, which advances by `step` bytes; without a step, `start` is a distance from
    where the trip reads B."""

    start: Value
    offsets: Sequence[int]
    step: int


@dataclass
class TileCode:
    """Everything the k loops of one tile need, besides the function they are written into."""

    tile: Tile
    accumulate: str  # element type of the accumulators: float, double, i32, i64
    a_type: str
    b_type: str
    a_row_stride: int
    loops: Sequence[KLoop]
    signed: bool = True
    masks: Sequence[Value | None] = ()
    pairs: str = ""  # one of gemm_pairs.PER_UNIT: operands are units along k
    ahead: Ahead | None = None


Registers = list[Value]


def _convert(f: Function, value: Value, element: str, signed: bool) -> Value:
    source = value.type if value.type[0] != "<" else value.type[value.type.index(" x ") + 3 : -1]
    if source == element:
        return value
    if element in ("float", "double"):
        return f.cast("fpext", value, element)
    return f.cast("sext" if signed else "zext", value, element)


def emit_tile(f: Function, code: TileCode, a: Value, b: Value) -> Registers:
    """Write the k loops; returns rows * vectors accumulators, row by row."""
    kind = vector(code.accumulate, code.tile.width)
    rows, vectors = code.tile.rows, code.tile.vectors
    biased = code.pairs == BIASED
    start = [constant(0, kind)] * ((rows + biased) * vectors)
    found = _loops(f, code, 0, a, b, start, (0, rows + biased))
    if not biased:
        return found
    excess = found[rows * vectors :]
    return [f.sub(s, excess[i % vectors]) for i, s in enumerate(found[: rows * vectors])]


def _advance(f: Function, pointer: Value, elements: int, type: str) -> Value:
    return f.gep("i8", pointer, elements * byte_size(type), inbounds=False)


def _loops(
    f: Function, code: TileCode, level: int, a: Value, b: Value, acc: Registers, rows: Rows
) -> Registers:
    """Loops from `level` inwards; `acc` are the accumulators of `rows` only."""
    if level == len(code.loops):
        return _steps(f, code, KLoop(1, 0, 0), 1, a, b, acc, rows)
    here = code.loops[level]
    if here.live is not None:
        return _written_out(f, code, level, a, b, acc, rows)
    if level == len(code.loops) - 1:
        return _innermost(f, code, here, a, b, acc, rows)
    with f.loop(0, here.extent, 1, [*acc, a, b], unroll=1, vectorize=False) as loop:
        *inner, pa, pb = loop.carried
        inner = _loops(f, code, level + 1, pa, pb, inner, rows)
        following_a = _advance(f, pa, here.a_stride, code.a_type)
        following_b = _advance(f, pb, here.b_stride, code.b_type)
        loop.next([*inner, following_a, following_b])
    return loop.results[:-2]


def _written_out(
    f: Function, code: TileCode, level: int, a: Value, b: Value, acc: Registers, rows: Rows
) -> Registers:
    """A loop whose steps concern different rows."""
    here, vectors = code.loops[level], code.tile.vectors
    assert here.live is not None
    acc = list(acc)
    for step, (first, last) in enumerate(here.live):
        first, last = max(first, rows[0]), min(last, rows[1])
        if first >= last:
            continue
        part = slice((first - rows[0]) * vectors, (last - rows[0]) * vectors)
        pa = _advance(f, a, step * here.a_stride, code.a_type)
        pb = _advance(f, b, step * here.b_stride, code.b_type)
        acc[part] = _loops(f, code, level + 1, pa, pb, acc[part], (first, last))
    return acc


def _innermost(
    f: Function, code: TileCode, here: KLoop, a: Value, b: Value, acc: Registers, rows: Rows
) -> Registers:
    size = code.tile.rows * code.tile.vectors
    if isinstance(here.extent, int):
        if here.extent * size <= _UNROLLED_MULTIPLY_ADDS:
            return _steps(f, code, here, here.extent, a, b, acc, rows)
        count = steps_per_trip(here.extent, size)
        trips, rest = divmod(here.extent, count)
        acc, a, b = _repeat(f, code, here, count, trips, a, b, acc, rows)
        return _steps(f, code, here, rest, a, b, acc, rows) if rest else acc
    count = steps_per_trip(None, size)
    trips_value = f.lshr(here.extent, count.bit_length() - 1)
    acc, a, b = _repeat(f, code, here, count, trips_value, a, b, acc, rows)
    return _repeat(f, code, here, 1, f.and_(here.extent, count - 1), a, b, acc, rows)[0]


def steps_per_trip(extent: int | None, size: int) -> int:
    """Steps of k per loop trip: a divisor of the extent where it is known and has one."""
    limit = max(2, _UNROLLED_MULTIPLY_ADDS // size)
    if extent is None:
        return 4 if limit >= 4 else 2
    for count in (8, 6, 7, 5, 4, 3, 2):
        if count <= limit and extent % count == 0:
            return count
    return min(4, limit)


def _repeat(
    f: Function,
    code: TileCode,
    here: KLoop,
    count: int,
    trips: Operand,
    a: Value,
    b: Value,
    acc: Registers,
    rows: Rows,
) -> tuple[Registers, Value, Value]:
    ahead = code.ahead
    with f.loop(0, trips, 1, [*acc, a, b], unroll=1, vectorize=False, name="k") as loop:
        *inner, pa, pb = loop.carried
        if ahead is not None:
            if ahead.step:
                line = f.gep("i8", ahead.start, f.mul(loop.index, ahead.step), inbounds=False)
            else:
                line = f.gep("i8", pb, ahead.start, inbounds=False)
            for offset in ahead.offsets:
                f.prefetch(f.gep("i8", line, offset, inbounds=False), locality=2)
        inner = _steps(f, code, here, count, pa, pb, inner, rows)
        pa = _advance(f, pa, count * here.a_stride, code.a_type)
        pb = _advance(f, pb, count * here.b_stride, code.b_type)
        loop.next([*inner, pa, pb])
    *acc, a, b = loop.results
    return acc, a, b


def _steps(
    f: Function,
    code: TileCode,
    here: KLoop,
    count: int,
    a: Value,
    b: Value,
    acc: Registers,
    rows: Rows,
) -> Registers:
    tile, kind = code.tile, vector(code.accumulate, code.tile.width)
    stored = vector(UNIT if code.pairs else code.b_type, tile.width)
    acc = list(acc)
    align_b = byte_size(code.b_type)
    for step in range(count):
        columns = []
        for v in range(tile.vectors):
            p = _advance(f, b, step * here.b_stride + v * tile.width, code.b_type)
            mask = code.masks[v] if code.masks else None
            if mask is None:
                loaded = f.load(stored, p, align=align_b)
            else:
                loaded = f.masked_load(stored, p, mask, align=align_b)
            if not code.pairs:
                loaded = _convert(f, loaded, code.accumulate, code.signed)
            columns.append(loaded)
        for r in range(*rows):
            p = _advance(f, a, step * here.a_stride + r * code.a_row_stride, code.a_type)
            if r == tile.rows:
                spread = bias(tile.width)
            elif code.pairs:
                unit = f.load(UNIT, p, align=byte_size(code.a_type))
                spread = f.splat(unit, vector(UNIT, tile.width))
            else:
                scalar = _convert(f, f.load(code.a_type, p), code.accumulate, code.signed)
                spread = f.splat(scalar, kind)
            for v in range(tile.vectors):
                n = (r - rows[0]) * tile.vectors + v
                acc[n] = _multiply_add(f, code, spread, columns[v], acc[n])
    return acc


def _multiply_add(f: Function, code: TileCode, a: Value, b: Value, c: Value) -> Value:
    if code.pairs:
        return multiply_add_pairs(f, code.pairs, a, b, c)
    if code.accumulate in ("float", "double"):
        return f.multiply_add(a, b, c)
    return f.add(f.mul(a, b), c)
