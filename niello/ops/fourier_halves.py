"""The transform of a real tensor from that of its even and odd elements as complex numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, float32, float64
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, real, register
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.define import check_dtype
from niello.ops.fourier_columns import (
    Matrix,
    Number,
    Turning,
    middle_table,
    scaled,
    split_of,
    table,
)
from niello.ops.movement import require_rank


def of_halves(z: Number, mirrored: Number, turn: Number) -> Number:
    """X[k] from Z[k], Z[-k] and exp(sign 2 pi i k / n); see HalfSpectrum."""
    (a, b), (c, d), (t, s) = z, mirrored, turn
    x, y = (b + d) * 0.5, (c - a) * 0.5
    return (a + c) * 0.5 + x * t - y * s, (b - d) * 0.5 + x * s + y * t


@register
@frozen
class HalfSpectrum(Op):
    """Inputs: pairs along a last axis of two, cosines and sines of `table(n)`.

    With Z the transform of even + i odd, E = (Z[k] + conj Z[-k]) / 2 is that of the even elements,
    O = (Z[k] - conj Z[-k]) / 2i that of the odd ones, and X[k] = E + exp(sign 2 pi i k / n) O.
    """

    axis: int
    inverse: bool  # the sign of the exponent: plus
    name: ClassVar[str] = "half_spectrum"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = (float32, float64)
    doc: ClassVar[str] = (
        "n / 2 + 1 elements of the transform of n real ones along an axis of pairs [..., 2], from "
        "the n / 2 of the transform of the even elements plus i times the odd ones."
    )
    grad = not_differentiable("real_fourier, which is made of it, has its own")

    def infer(self, *types: TensorType) -> TensorType:
        x = types[0]
        for t in types:
            check_dtype(self.name, t.dtype, self.dtypes)
        require_rank(self.name, x, "to find the axis")
        shape = list(x.shape or ())
        size = shape[self.axis]
        shape[self.axis] = None if size is None else size + 1
        return TensorType(shape, x.dtype)

    def reference(self, *arrays: np.ndarray) -> np.ndarray:
        pairs = np.moveaxis(arrays[0].astype(np.float64), self.axis, 0)
        z = pairs[..., 0] + 1j * pairs[..., 1]
        half = len(z)
        ahead = np.concatenate([z, z[:1]])
        back = ahead[::-1].conj()
        sign = 1.0 if self.inverse else -1.0
        turn = np.exp(sign * 1j * np.pi * np.arange(half + 1) / half)
        turn = turn.reshape(-1, *[1] * (z.ndim - 1))
        found = (ahead + back) / 2 + turn * (ahead - back) / 2j
        both = np.stack([found.real, found.imag], -1)
        return np.moveaxis(both, 0, self.axis).astype(arrays[0].dtype)

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        source, cos, sin = inputs
        out = r.outputs[0]
        shape = source.shape[:-1]
        half = shape[self.axis]
        outer, inner = math.prod(shape[: self.axis]), math.prod(shape[self.axis + 1 :])
        if not source.elements:
            return
        team = r.teams(outer)
        first, base = team * (half * inner), team * ((half + 1) * inner)

        def pair(k: Any, i: Any) -> tuple[Any, Any]:
            at = (first + k * inner + i) * 2
            return r.read(source, at), r.read(source, at + 1)

        def put(k: Any, i: Any, x: Any, y: Any) -> None:
            at = (base + k * inner + i) * 2
            r.write(out, at, x)
            r.write(out, at + 1, y)

        def one(k: Any, i: Any) -> None:
            turn = r.read(cos, k), r.read(sin, k) if self.inverse else -r.read(sin, k)
            put(k, i, *of_halves(pair(k, i), pair(half - k, i), turn))

        with r.spread(inner) as i:
            x, y = pair(0, i)
            put(0, i, x + y, 0.0)
            put(half, i, x - y, 0.0)
        if inner == 1:
            with r.spread(half - 1) as m:
                one(m + 1, 0)
        else:
            with r.loop(1, half) as k, r.spread(inner) as i:
                one(k, i)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            Sample(
                (real(*shape, 2), *(np.array(t) for t in table(2 * shape[1]))),
                {"axis": 1, "inverse": bool(number % 2)},
                None,
                False,
                8,
            )
            for number, shape in enumerate([(2, 1, 1), (2, 8, 1), (3, 5, 4), (1, 40, 1), (0, 2, 1)])
        ]


@register
@frozen
class RealRows(Turning):
    """Inputs: real rows of n, cosines and sines of `table(n / 2)`, those of `middle_table(rows, n /
    2 / rows)`, those of `table(n)`."""

    axis: int  # the last
    inverse: bool  # the sign of the exponent: plus
    scale: float
    rows: int  # of the matrix that n / 2 elements are seen as
    name: ClassVar[str] = "real_rows"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = (float32, float64)
    doc: ClassVar[str] = (
        "n / 2 + 1 elements of the Fourier transform, times `scale`, of contiguous rows of n real "
        "numbers, as pairs [..., 2]."
    )
    grad = not_differentiable("real_fourier, which is made of it, has its own")

    def infer(self, *types: TensorType) -> TensorType:
        x = types[0]
        for t in types:
            check_dtype(self.name, t.dtype, self.dtypes)
        require_rank(self.name, x, "to find the axis")
        *lead, n = x.shape or (None,)
        return TensorType((*lead, None if n is None else n // 2 + 1, 2), x.dtype)

    def reference(self, *arrays: np.ndarray) -> np.ndarray:
        x = arrays[0].astype(np.float64)
        found = np.fft.rfft(x, axis=-1) * self.scale
        sign = -1.0 if self.inverse else 1.0
        return np.stack([found.real, sign * found.imag], -1).astype(arrays[0].dtype)

    def pairs_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], shape[-1] // 2)

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        if inputs[0].elements:
            _RealMatrix(self, r, inputs).write()

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for number, (count, n) in enumerate([(2, 512), (1, 1024), (0, 512)]):
            rows = split_of(n // 2)
            tables = (*table(n // 2), *middle_table(rows, n // 2 // rows), *table(n))
            attributes = {"axis": -1, "inverse": bool(number % 2), "scale": 0.5, "rows": rows}
            inputs = (real(count, n), *(np.array(t) for t in tables))
            found.append(Sample(inputs, attributes, None, False, 40))
        return found


class _RealMatrix(Matrix):
    """The transform of even elements plus i times odd ones is kept, then made into that of all."""

    def write(self) -> None:
        self.kept = self.pair_of_buffers(self.n)
        super().write()

    def put(self, base: Any, place: Any, value: Number) -> None:
        for buffer, part in zip(self.kept, scaled(value, self.op.scale), strict=True):
            self.r.write(buffer, place, part)

    def _kept(self, k: Any) -> Number:
        return self.r.read(self.kept[0], k), self.r.read(self.kept[1], k)

    def finish(self, base: Any) -> None:
        r, half = self.r, self.n
        out = r.outputs[0]
        first = r.team * (2 * (half + 1))

        def result(k: Any, value: Number) -> None:
            r.write(out, first + k * 2, value[0])
            r.write(out, first + k * 2 + 1, value[1])

        x, y = self._kept(0)
        result(0, (x + y, r.const(0, self.kind)))
        result(half, (x - y, r.const(0, self.kind)))
        with r.spread(half - 1) as m:
            k = m + 1
            result(k, of_halves(self._kept(k), self._kept(half - k), self.turn(4, k)))
