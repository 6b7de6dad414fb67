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
from niello.ops.fourier_columns import table
from niello.ops.movement import require_rank


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
            (a, b), (c, d) = pair(k, i), pair(half - k, i)
            x, y = (b + d) * 0.5, (c - a) * 0.5
            s = r.read(sin, k) if self.inverse else -r.read(sin, k)
            t = r.read(cos, k)
            put(k, i, (a + c) * 0.5 + x * t - y * s, (b - d) * 0.5 + x * s + y * t)

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
