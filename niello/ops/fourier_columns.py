"""One Fourier transform along an axis, of real and imaginary parts in two tensors: a routine.

Stockham's self-sorting algorithm (Cochran et al., Proc. IEEE 55, 1967) with mixed radices, on a
block of columns at a time: the columns are the lanes of vectors, so every stage is contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, compute_dtype, float16, float32, float64
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, real, register
from niello.graph.tensor import Tensor
from niello.kernel.ir import Expr
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.define import check_dtype
from niello.ops.movement import require_rank

LANES = 16
# Factors that have a butterfly; other lengths go through a convolution (fourier_lengths.py).
LARGEST_PRIME = 13

Number = tuple[Expr, Expr]


@cache
def radices(n: int) -> tuple[int, ...] | None:
    """`n` as a product of radices, or None when it has a prime factor above LARGEST_PRIME."""
    found = []
    for r in (8, 4, 2, 3, 5, 7, 11, 13):
        while n % r == 0 and (r != 8 or n != 16):
            found.append(r)
            n //= r
    return tuple(found) if n == 1 else None


@cache
def table(n: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi k / n for k = 0 ... n - 1, in float64, exact where they are."""
    angle = 2.0 * np.pi * np.arange(n) / max(n, 1)
    cos, sin = np.cos(angle), np.sin(angle)
    for part in (cos, sin):
        part[np.abs(part) < 1e-15] = 0.0
        part.setflags(write=False)
    return cos, sin


@cache
def middle_table(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi i j / (rows columns), for i < rows and j < columns, row-major."""
    cos, sin = table(rows * columns)
    index = np.outer(np.arange(rows), np.arange(columns)).reshape(-1)
    return cos[index], sin[index]


def split_of(n: int) -> int:
    """Rows of the matrix that a contiguous transform of n elements is seen as, so that rows and
    columns both fill vectors; 0 where n has no such factors."""
    best = 0
    for rows in range(LANES, math.isqrt(n) + 1, LANES):
        if n % rows == 0 and (n // rows) % LANES == 0:
            best = rows
    return best


class Turning(Op):
    """Base of the ops that transform by butterflies."""

    axis: int
    inverse: bool  # the sign of the exponent: plus
    scale: float
    rows: int

    def pairs_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the complex numbers that the first input holds."""
        return shape[:-1]


@register
@frozen
class FourierColumns(Turning):
    """Inputs: pairs along a last axis of two, cosines and sines of `table(n)`; with `rows` those of
    `middle_table(rows, n / rows)` too."""

    axis: int
    inverse: bool  # the sign of the exponent: plus
    scale: float
    rows: int = (
        0  # the axis is the last but one: each transform is one of a matrix with so many rows
    )
    name: ClassVar[str] = "fourier_columns"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = (float16, float32, float64)
    doc: ClassVar[str] = (
        "The discrete Fourier transform, times `scale`, along an axis of real and imaginary parts "
        "[..., 2]; its size has no prime factor above 13."
    )

    def infer(self, *types: TensorType) -> TensorType:
        x = types[0]
        check_dtype(self.name, x.dtype, self.dtypes)
        for t in types[1:]:
            check_dtype(self.name, t.dtype, (x.dtype, compute_dtype(x.dtype)))
        require_rank(self.name, x, "to transform an axis")
        return x

    def reference(self, *arrays: np.ndarray) -> np.ndarray:
        pairs = arrays[0].astype(np.float64)
        z = pairs[..., 0] + 1j * pairs[..., 1]
        n = z.shape[self.axis]
        found = (
            np.fft.ifft(z, axis=self.axis) * n if self.inverse else np.fft.fft(z, axis=self.axis)
        )
        both = np.stack([found.real, found.imag], -1) * self.scale
        return both.astype(arrays[0].dtype)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        back = FourierColumns(self.axis, not self.inverse, self.scale, self.rows)
        assert gradients[0] is not None
        found = inputs[0].graph.add(back, [gradients[0], *inputs[1:]]).outputs
        return [*found, *(None for _ in inputs[1:])]

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        if not inputs[0].elements:
            return
        if self.rows:
            Matrix(self, r, inputs).write()
        else:
            _Columns(self, r, inputs).write()

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        shapes = [(2, 8, 3), (1, 12, 20), (20, 5, 1), (3, 1, 2), (1, 7, 4), (1, 64, 33)]
        shapes += [(1, 26, 2), (1, 11, 2), (1, 9, 2), (0, 4, 2), (3, 512, 1)]
        found = []
        for number, shape in enumerate(shapes):
            rows = split_of(shape[1]) if shape[2] == 1 else 0
            tables = [*table(shape[1]), *(middle_table(rows, shape[1] // rows) if rows else ())]
            attributes = {"axis": 1, "inverse": bool(number % 2), "scale": 0.5, "rows": rows}
            # The gradient of the tables is nobody's business.
            inputs = (real(*shape, 2), *(np.array(t) for t in tables))
            found.append(Sample(inputs, attributes, None, False, 20))
        return found


class Transformed:
    """The statements of one transform; subclasses say where elements come from and go to."""

    def __init__(self, op: Turning, r: RoutineBuilder, inputs: Sequence[Place]) -> None:
        self.op, self.r = op, r
        self.source, self.tables = inputs[0], inputs[1:]
        shape, axis = op.pairs_of(inputs[0].shape), op.axis
        self.outer, self.n = math.prod(shape[:axis]), shape[axis]
        self.inner = math.prod(shape[axis + 1 :])
        self.kind = compute_dtype(inputs[0].dtype)
        self.sign = 1.0 if op.inverse else -1.0

    def read_pair(self, at: Any) -> Number:
        """An element of the tensor."""
        return self.r.read(self.source, at * 2), self.r.read(self.source, at * 2 + 1)

    def write_pair(self, at: Any, value: Number) -> None:
        """Set an element of the result."""
        if self.op.scale != 1.0:
            value = scaled(value, self.op.scale)
        self.r.write(self.r.outputs[0], at * 2, value[0])
        self.r.write(self.r.outputs[0], at * 2 + 1, value[1])

    def turn(self, which: int, index: Any) -> Number:
        """exp(sign 2 pi i index / n), from a pair of tables."""
        r = self.r
        cos, sin = (r.cast(r.read(t, index), self.kind) for t in self.tables[which : which + 2])
        return cos, sin if self.sign > 0 else -sin

    def stages(
        self,
        n: int,
        width: int,
        load: Callable[[Any, Any, Any], Number],
        store: Callable[[Any, Any, Any, Number], None],
        buffers: Sequence[Sequence[Place]],
    ) -> None:
        """Transforms of length n over `width` columns: `load(_, position, column)` gives an
        element, `store` takes one of the result; what is between goes through the buffers."""
        r = self.r
        steps = radices(n)
        assert steps is not None, n
        stride, length = 1, n
        for number, radix in enumerate(steps):
            parts = length // radix
            source = buffers[(number - 1) % 2] if number else None
            target = buffers[number % 2] if number < len(steps) - 1 else None
            with r.loop(0, parts) as p:
                turns = [
                    self.turn(0, p * (t * (self.n // length))) if parts > 1 else None
                    for t in range(radix)
                ]
                # A vector holds columns of one group only, or whole vectors of several groups.
                together = width % LANES == 0 or stride == 1
                with (
                    r.loop(0, 1 if together else stride) as q,
                    r.spread(stride * width if together else width) as m,
                ):
                    group, column = (m // width, m % width) if together else (q, m)
                    self._butterflies(
                        (group, column, width),
                        (p, parts, radix, stride),
                        turns,
                        load if source is None else _reader(r, source),
                        store if target is None else _writer(r, target),
                    )
            stride, length = stride * radix, length // radix

    def _butterflies(
        self,
        where: tuple[Any, Any, int],
        step: tuple[Any, int, int, int],
        turns: Sequence[Number | None],
        load: Callable[[Any, Any, Any], Number],
        store: Callable[[Any, Any, Any, Number], None],
    ) -> None:
        """One butterfly for each lane; `load(at, position, column)`, where `at` is the place of
        the element in a buffer."""
        group, column, width = where
        p, parts, radix, stride = step
        inside = group * width + column
        given: list[Number] = []
        for k in range(radix):
            row = (p + parts * k) * stride
            given.append(load(inside + row * width, group + row, column))
        for t, z in enumerate(butterfly(given, self.sign)):
            turn = turns[t]
            row = (p * radix + t) * stride
            value = z if t == 0 or turn is None else times(z, turn)
            store(inside + row * width, group + row, column, value)

    def pair_of_buffers(self, elements: int) -> list[Place]:
        return [self.r.local(self.kind, elements) for _ in range(2)]


def _reader(r: RoutineBuilder, pair: Sequence[Place]) -> Callable[[Any, Any, Any], Number]:
    return lambda at, position, column: (r.read(pair[0], at), r.read(pair[1], at))


def _writer(r: RoutineBuilder, pair: Sequence[Place]) -> Callable[[Any, Any, Any, Number], None]:
    def write(at: Any, position: Any, column: Any, value: Number) -> None:
        r.write(pair[0], at, value[0])
        r.write(pair[1], at, value[1])

    return write


class _Columns(Transformed):
    """Blocks of columns, or of rows, one in each lane."""

    def write(self) -> None:
        r = self.r
        within = self.inner >= LANES or self.outer == 1
        across = self.inner if within else self.outer * self.inner
        lanes = min(LANES, across)
        blocks = -(-across // lanes)
        r.members(64)
        team = r.teams(blocks * (self.outer if within else 1))
        # The last block begins early enough to be full: it computes some columns again, which the
        # block before it writes.
        first = r.min((team % blocks) * lanes, across - lanes)
        base = (team // blocks) * (self.n * self.inner) + first if within else first

        def address(position: Any, lane: Any) -> Any:
            if within:
                return base + lane + position * self.inner
            if self.inner == 1:
                return (base + lane) * self.n + position
            column = base + lane
            outer = (column // self.inner) * (self.n * self.inner)
            return outer + column % self.inner + position * self.inner

        def put(position: Any, lane: Any, value: Number) -> None:
            if across % lanes == 0:
                self.write_pair(address(position, lane), value)
                return
            with r.when(first + lane >= (team % blocks) * lanes):
                self.write_pair(address(position, lane), value)

        if self.n == 1:  # one element each: a copy
            with r.spread(lanes) as lane:
                put(0, lane, self.read_pair(address(0, lane)))
            return
        steps = radices(self.n) or ()
        self.stages(
            self.n,
            lanes,
            lambda _, position, lane: self.read_pair(address(position, lane)),
            lambda _, position, lane, value: put(position, lane, value),
            [self.pair_of_buffers(self.n * lanes) for _ in range(min(len(steps) - 1, 2))],
        )


class Matrix(Transformed):
    """Contiguous rows of n: each is seen as a matrix, its columns are transformed, turned, and then
    its rows (Bailey, J. Supercomputing 4, 1990), all in fast memory."""

    def write(self) -> None:
        r, rows = self.r, self.op.rows
        columns = self.n // rows
        padded = columns + 1  # so that a column is not all in one set of the cache
        base = r.teams(self.outer) * self.n
        buffers = [self.pair_of_buffers(self.n) for _ in range(2)]
        middle = self.pair_of_buffers(rows * padded)

        def keep(_: Any, row: Any, column: Any, value: Number) -> None:
            turned = times(value, self.turn(2, row * columns + column))
            for place, part in zip(middle, turned, strict=True):
                r.write(place, row * padded + column, part)

        self.stages(
            rows,
            columns,
            lambda _, row, column: self.read_pair(base + row * columns + column),
            keep,
            buffers,
        )
        self.stages(
            columns,
            rows,
            lambda _, column, row: (
                r.read(middle[0], row * padded + column),
                r.read(middle[1], row * padded + column),
            ),
            lambda _, place, row, value: self.put(base, place * rows + row, value),
            buffers,
        )
        self.finish(base)

    def put(self, base: Any, place: Any, value: Number) -> None:
        """Take an element of the result of the transform that begins at `base`."""
        self.write_pair(base + place, value)

    def finish(self, base: Any) -> None:
        """What is left to do when all elements are taken."""


def times(a: Number, b: Number) -> Number:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def plus(a: Number, b: Number) -> Number:
    return a[0] + b[0], a[1] + b[1]


def minus(a: Number, b: Number) -> Number:
    return a[0] - b[0], a[1] - b[1]


def turned(a: Number, sign: float) -> Number:
    """a times sign i."""
    return (-a[1], a[0]) if sign > 0 else (a[1], -a[0])


def scaled(a: Number, factor: float) -> Number:
    return a[0] * factor, a[1] * factor


def butterfly(x: list[Number], sign: float) -> list[Number]:
    """The transform of a few numbers, with the exponent's sign."""
    n = len(x)
    if n == 1:
        return x
    if n == 2:
        return [plus(x[0], x[1]), minus(x[0], x[1])]
    if n in (4, 8):
        even, odd = butterfly(x[::2], sign), butterfly(x[1::2], sign)
        found: list[Number] = [*even, *odd]
        for k in range(n // 2):
            z = _rotated(odd[k], k, n, sign)
            found[k], found[k + n // 2] = plus(even[k], z), minus(even[k], z)
        return found
    return _odd(x, sign)


def _rotated(a: Number, k: int, n: int, sign: float) -> Number:
    """a times exp(sign 2 pi i k / n), for n of 4 or 8."""
    if k == 0:
        return a
    if 4 * k == n:
        return turned(a, sign)
    half = math.sqrt(0.5)
    if 8 * k == n:
        return scaled(plus(a, turned(a, sign)), half)
    return scaled(minus(turned(a, sign), a), half)  # 3/8 of a turn


def _odd(x: list[Number], sign: float) -> list[Number]:
    """The transform of an odd prime number of elements, by sums and differences of pairs."""
    n = len(x)
    half = n // 2
    sums = [plus(x[k], x[n - k]) for k in range(1, half + 1)]
    differences = [minus(x[k], x[n - k]) for k in range(1, half + 1)]
    total = x[0]
    for s in sums:
        total = plus(total, s)
    found: list[Number] = [total] * n
    for t in range(1, half + 1):
        level, across = x[0], None
        for k in range(1, half + 1):
            angle = 2.0 * math.pi * ((t * k) % n) / n
            level = plus(level, scaled(sums[k - 1], math.cos(angle)))
            part = scaled(differences[k - 1], math.sin(angle))
            across = part if across is None else plus(across, part)
        assert across is not None
        side = turned(across, sign)
        found[t], found[n - t] = plus(level, side), minus(level, side)
    return found
