"""Sums over taps: tables of positions and weights, and what reads or writes through them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, INTEGERS, DType, compute_dtype, int32, int64
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import Shape, row_major_strides, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, ScatterSpec, Value, unravel
from niello.kernel.ir import Expr
from niello.ops.define import check_dtype, half_as_float32
from niello.ops.grid_positions import Grid, Sampling

_REFUSAL = "grid_sample, which it is a part of, has one"
_UNROLLED = 8  # taps written out; more are a loop


@register
@frozen
class GridTaps(Grid):
    """Outputs: for each tap and position, the row-major place of the element, -1 where there is
    none, and its weight: [N, taps, *positions]."""

    how: Sampling
    orders: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: DType  # of the places
    name: ClassVar[str] = "grid_taps"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    doc: ClassVar[str] = "The elements that grid_sample reads for each position, and their weights."
    grad = not_differentiable(_REFUSAL)

    def infer(self, grid: TensorType) -> tuple[TensorType, ...]:
        check_dtype(self.name, grid.dtype, self.dtypes)
        shape: Shape = (None,) * (self.count + 2) if grid.shape is None else grid.shape
        if len(shape) != self.count + 2 or shape[-1] not in (None, self.count):
            raise ShapeError(
                self.name, f"the grid must hold {self.count} coordinates", received=show(shape),
                advice="Give [N, H, W, 2], or one axis more",
            )  # fmt: skip
        made = (shape[0], self.how.taps**self.count, *shape[1:-1])
        return TensorType(made, self.dtype), TensorType(made, compute_dtype(grid.dtype))

    def reference(self, grid: np.ndarray) -> tuple[np.ndarray, ...]:
        wide = grid.astype(compute_dtype(TensorType(grid.shape, grid.dtype).dtype).numpy)
        places, weights = [], []
        for combination in itertools.product(*self.numpy_taps(wide, self.sizes)):
            valid = np.ones(grid.shape[:-1], bool)
            flat = np.zeros(grid.shape[:-1], np.int64)
            weight = np.ones(grid.shape[:-1], wide.dtype)
            strides = row_major_strides(self.sizes)
            for (p, w), size, stride in zip(combination, self.sizes, strides, strict=True):
                inside = (p >= 0) & (p <= size - 1)
                flat += np.where(inside, p, 0).astype(np.int64) * stride
                valid &= inside
                weight = weight * w
            places.append(np.where(valid, flat, -1).astype(self.dtype.numpy))
            weights.append(weight.astype(wide.dtype))
        return np.stack(places, 1), np.stack(weights, 1)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (grid,) = inputs
        batch, tap, at = index[0], index[1], index[2:]
        which = unravel(tap, (self.how.taps,) * self.count)
        place: Expr = k.index(0)
        inside: list[Expr] = []
        weight: Expr | None = None
        axes = zip(
            which, self.taps(k, grid, batch, at, self.sizes), self.sizes,
            row_major_strides(self.sizes), strict=True,
        )  # fmt: skip
        for t, taps, size, stride in axes:
            own, w = taps[-1]
            for n in reversed(range(len(taps) - 1)):
                own = k.where(t.eq(n), taps[n][0], own)
                w = k.where(t.eq(n), taps[n][1], w)
            inside += [own >= 0, own <= float(size - 1)]
            place = place + k.cast(own, int64) * stride
            weight = w if weight is None else weight * w
        if output == 1:
            assert weight is not None
            return weight
        return k.cast(k.where(k.all_of(*inside), place, -1), self.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        grid = real(2, 3, 2, 2, low=-1.4, high=1.4)

        def one(how: Sampling, dtype: DType = int32) -> Sample:
            return sample(
                grid, how=how, orders=(0, 0), sizes=(3, 4), dtype=dtype, dtypes=FLOATS[2:],
                grad=False, tolerance=8.0,
            )  # fmt: skip

        return [
            one(Sampling("nearest", "constant", False)),
            one(Sampling("linear", "constant", True), int64),
            one(Sampling("cubic", "symmetric", False)),
        ]


def tapped(op: Grid, grid: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Places and weights of the taps for a grid."""
    kind = int32 if math.prod(sizes) < 2**31 else int64
    found = grid.graph.apply(GridTaps(op.how, op.orders, tuple(sizes), kind), grid)
    assert isinstance(found, tuple)
    return found[0], found[1]


class Weighted(Op):
    """Base of the two ops that work through tables. Data are [N, C, places], or [N, places, C]."""

    channels_last: bool
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    grad = not_differentiable(_REFUSAL)

    def check(self, x: TensorType, index: TensorType, weight: TensorType) -> None:
        """Refuse element types that do not fit."""
        check_dtype(self.name, x.dtype, self.dtypes)
        check_dtype(self.name, index.dtype, INTEGERS)
        check_dtype(self.name, weight.dtype, (compute_dtype(x.dtype),))

    def split(self, index: Sequence[Any]) -> tuple[Any, Any, tuple[Any, ...]]:
        """Batch, channel and the rest of an index or shape."""
        last = self.channels_last
        rest = index[1:-1] if last else index[2:]
        return index[0], index[-1] if last else index[1], tuple(rest)

    def joined(self, batch: object, channel: object, rest: Sequence[object]) -> tuple[Any, ...]:
        return (batch, *rest, channel) if self.channels_last else (batch, channel, *rest)


@register
@frozen
class WeightedGather(Weighted):
    channels_last: bool
    value: float  # in place of elements that are not there
    name: ClassVar[str] = "weighted_gather"
    doc: ClassVar[str] = (
        "For each position the sum over taps of a weight, from the third input, times the element "
        "at a place, from the second."
    )

    def infer(self, x: TensorType, index: TensorType, weight: TensorType) -> TensorType:
        self.check(x, index, weight)
        if x.shape is None or index.shape is None:
            return TensorType(None, x.dtype)
        batch, channel, _ = self.split(x.shape)
        return TensorType(self.joined(batch, channel, index.shape[2:]), x.dtype)

    def reference(self, x: np.ndarray, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
        def total(x: np.ndarray) -> np.ndarray:
            first = x if self.channels_last else np.moveaxis(x, 1, -1)
            batch = np.arange(len(x)).reshape(-1, *[1] * (index.ndim - 1))
            taken = first[batch, np.maximum(index, 0)]
            taken = np.where(index[..., None] < 0, x.dtype.type(self.value), taken)
            out = (taken * weight[..., None]).sum(1).astype(x.dtype)
            return out if self.channels_last else np.moveaxis(out, -1, 1)

        return np.asarray(half_as_float32(total, [x]))

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x, places, weights = inputs
        batch, channel, at = self.split(index)

        def term(t: Expr) -> Expr:
            place = places(batch, t, *at)
            source = self.joined(batch, channel, [k.cast(place, int64)])
            element = k.guarded(place >= 0, lambda: x(*source), self.value)
            return weights(batch, t, *at) * element

        taps = places.shape[1]
        if taps > _UNROLLED:
            return k.reduce("add", (taps,), term)
        total = term(k.index(0))
        for t in range(1, taps):
            total = total + term(k.index(t))
        return total

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        places = np.array([[[0, 3, -1], [2, 2, 1]], [[4, -1, 0], [1, 1, 1]]], np.int32)
        weights = np.linspace(-1, 1, 12).reshape(2, 2, 3)
        many = np.arange(18, dtype=np.int64).reshape(1, 9, 2) % 5
        full = FLOATS[2:]
        return [
            sample(real(2, 3, 5), places, weights, channels_last=False, value=0.5, dtypes=full),
            sample(real(2, 5, 3), places, weights, channels_last=True, value=0.0, dtypes=full),
            sample(real(1, 2, 5), many, many / 9.0, channels_last=False, value=0.0, dtypes=full),
        ]


@register
@frozen
class WeightedScatter(Weighted):
    """The transpose of WeightedGather, into `places` places."""

    channels_last: bool
    places: int
    name: ClassVar[str] = "weighted_scatter"
    doc: ClassVar[str] = (
        "Zeros with each element of the first input, times the weights of its taps, added at their "
        "places."
    )

    def infer(self, g: TensorType, index: TensorType, weight: TensorType) -> TensorType:
        self.check(g, index, weight)
        if g.shape is None:
            return TensorType((None,) * 3, g.dtype)
        batch, channel, _ = self.split(g.shape)
        return TensorType(self.joined(batch, channel, [self.places]), g.dtype)

    def reference(self, g: np.ndarray, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
        def spread(g: np.ndarray) -> np.ndarray:
            first = g if self.channels_last else np.moveaxis(g, 1, -1)
            out = np.zeros((len(g), self.places, first.shape[-1]), g.dtype)
            batch = np.broadcast_to(
                np.arange(len(g)).reshape(-1, *[1] * (index.ndim - 1)), index.shape
            )
            terms = (first[:, None] * weight[..., None]).astype(g.dtype)
            inside = index >= 0
            np.add.at(out, (batch[inside], index[inside]), terms[inside])
            return out if self.channels_last else np.moveaxis(out, -1, 1)

        return np.asarray(half_as_float32(spread, [g]))

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        g, places, weights = inputs
        batch, channel, (own,) = self.split(index)

        def term(t: Expr, *at: Expr) -> Expr:
            here = k.cast(places(batch, t, *at), int64).eq(own)
            return k.where(here, g(*self.joined(batch, channel, at)) * weights(batch, t, *at), 0)

        return k.reduce("add", places.shape[1:], term)

    def scatter(self, k: Builder, *inputs: Value) -> ScatterSpec:
        """One addition for each element of the first input and each tap."""
        g, places, weights = inputs
        _, _, positions = self.split(g.shape)

        def parts(point: Any) -> tuple[Expr, Expr, Index]:
            """Batch, channel, and an index into the tables."""
            batch, channel, rest = self.split(point)
            return batch, channel, (batch, *rest)

        def target(*point: Expr) -> Index:
            batch, channel, at = parts(point)
            return self.joined(batch, channel, [k.cast(places(*at), int64)])

        def inside(*point: Expr) -> Expr:
            return places(*parts(point)[2]) >= 0

        def value(*point: Expr) -> Expr:
            batch, channel, at = parts(point)
            return g(*self.joined(batch, channel, at[2:])) * weights(*at)

        batch, channel, _ = self.split(g.shape)
        extents = self.joined(batch, channel, (places.shape[1], *positions))
        return ScatterSpec(extents, target, inside, value)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        places = np.array([[[0, 3, -1], [2, 2, 1]], [[4, -1, 0], [1, 1, 1]]], np.int32)
        weights = np.linspace(-1, 1, 12).reshape(2, 2, 3)
        full = FLOATS[2:]
        return [
            sample(real(2, 2, 3), places, weights, channels_last=False, places=5, dtypes=full),
            sample(real(2, 3, 2), places, weights, channels_last=True, places=5, dtypes=full),
        ]
