"""grid_sample as an op, and its transpose.

A sample is a sum over taps of weight times element, the weights being functions of the position.
Both ops carry an order of differentiation for each spatial axis: the derivative of a sample by the
position is the same sum with derivatives of the weights. So gradients of any order are samples and
their transposes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS
from niello.core.records import frozen
from niello.core.shapes import Dim, merge_shapes
from niello.core.types import TensorType
from niello.graph.opdef import Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.concat import stack
from niello.ops.define import cast_to, half_as_float32
from niello.ops.grid_positions import MODES, PADDINGS, Grid, Sampling
from niello.ops.grid_taps import WeightedGather, WeightedScatter, tapped
from niello.ops.movement import apply, wide, zeros_like


@register
@frozen
class GridSample(Grid):
    how: Sampling
    orders: tuple[int, ...]
    value: float
    name: ClassVar[str] = "grid_sample"
    doc: ClassVar[str] = (
        "The data (batch, channels, spatial axes) at the positions that a grid gives for each "
        "element of the result, or derivatives of that by the positions. As ONNX GridSample."
    )

    def infer(self, x: TensorType, grid: TensorType) -> TensorType:
        self.check(x, grid)
        unknown: tuple[Dim, ...] = (None,) * (self.count + 2)
        ours, theirs = x.shape or unknown, grid.shape or unknown
        batch = ours[0] if theirs[0] is None else theirs[0]
        return TensorType(self.joined(batch, self.split(ours)[1], theirs[1:-1]), x.dtype)

    def reference(self, x: np.ndarray, grid: np.ndarray) -> np.ndarray:
        def sampled(x: np.ndarray, grid: np.ndarray) -> np.ndarray:
            last = np.moveaxis(x, -1, 1) if self.how.channels_last else x
            sizes = last.shape[2:]
            total = np.zeros((*last.shape[:2], *grid.shape[1:-1]), x.dtype)
            batch = np.arange(len(x)).reshape(-1, *[1] * self.count)
            for combination in itertools.product(*self.numpy_taps(grid, sizes)):
                places = [p for p, _ in combination]
                valid = np.all([(p >= 0) & (p < s) for p, s in zip(places, sizes, strict=True)], 0)
                at = [np.where(valid, p, 0).astype(np.int64) for p in places]
                element = np.moveaxis(last, 1, -1)[(batch, *at)] if last.size else 0.0
                weight = np.prod([w for _, w in combination], 0)
                term = np.where(valid[..., None], element, x.dtype.type(self.value))
                total += np.moveaxis(term * weight[..., None], -1, 1).astype(x.dtype)
            return np.moveaxis(total, 1, -1) if self.how.channels_last else total

        return np.asarray(half_as_float32(sampled, [x, grid]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (g,) = gradients
        x, grid = inputs
        back = apply(GridSampleGradient(self.how, self.orders), g, grid, x)
        return [back, grid_gradient(self, g, x, grid)]

    def decompose(self, x: Tensor, grid: Tensor) -> Tensor:
        batch, channels, sizes = self.split(x.type.static_shape)
        index, weight = tapped(self, grid, sizes)
        flat = x.reshape(self.joined(batch, channels, [math.prod(sizes)]))
        return apply(WeightedGather(self.how.channels_last, self.value), flat, index, weight)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 2, 3, 4), real(2, 3, 2, 2, low=-1.4, high=1.4), **a, value=v)
            for a, v in _settings(2)
        ] + [
            sample(
                real(1, 2, 3, 2, 4), real(1, 2, 1, 3, 3, low=-1.3, high=1.3), value=0.0,
                how=Sampling(mode, "border", False), orders=(0, 0, 0), dtypes=FLOATS[2:],
                grad=mode == "linear", tolerance=4.0,
            )
            for mode in MODES
        ] + [
            sample(
                real(1, 3, 4, 2), real(1, 2, 2, 2, low=-0.9, high=3.2), value=0.25,
                how=Sampling("linear", "constant", False, normalised=False, channels_last=True),
                orders=(0, 0),
            ),
            sample(
                real(1, 1, 3, 4), real(1, 3, 4, 2, low=-0.8, high=0.8), value=0.0,
                how=Sampling("linear", "border", True, relative=True, normalised=False),
                orders=(0, 0),
            ),
            sample(
                real(1, 1, 4, 4), real(1, 2, 2, 2), value=0.0, orders=(1, 2),
                how=Sampling("cubic", "border", False), tolerance=20.0,
            ),
        ]  # fmt: skip


def _settings(count: int) -> list[tuple[dict[str, Any], float]]:
    """Each mode with each padding."""
    found: list[tuple[dict[str, Any], float]] = []
    for n, (mode, padding) in enumerate(itertools.product(MODES, PADDINGS)):
        how = Sampling(mode, padding, align_corners=n % 2 == 0)
        found.append(({"how": how, "orders": (0,) * count, "tolerance": 4.0}, 0.5 * (n % 3)))
    return found


def grid_gradient(op: Grid, g: Tensor, x: Tensor, grid: Tensor) -> Tensor:
    """The gradient by the grid, given that of the result: derivatives by each coordinate."""
    if op.how.mode == "nearest":
        return zeros_like(grid)
    parts = []
    for d in reversed(range(op.count)):
        orders = tuple(o + (i == d) for i, o in enumerate(op.orders))
        slope = apply(GridSample(op.how, orders, getattr(op, "value", 0.0)), x, grid)
        parts.append((g * slope).sum(-1 if op.how.channels_last else 1))
    return stack(parts, -1)


@register
@frozen
class GridSpread(Grid):
    """The transpose of grid_sample for data of known sizes."""

    how: Sampling
    orders: tuple[int, ...]
    sizes: tuple[int, ...]  # of the spatial axes
    name: ClassVar[str] = "grid_spread"
    doc: ClassVar[str] = (
        "Zeros with each element of the first input added, by its weights, to the elements that "
        "grid_sample would read at the positions of the second."
    )

    def infer(self, g: TensorType, grid: TensorType) -> TensorType:
        self.check(g, grid)
        if g.shape is None:
            return TensorType((None,) * (self.count + 2), g.dtype)
        batch, channel, at = self.split(g.shape)
        if grid.shape is not None:
            merge_shapes(at, grid.shape[1:-1], self.name)
        return TensorType(self.joined(batch, channel, self.sizes), g.dtype)

    def reference(self, g: np.ndarray, grid: np.ndarray) -> np.ndarray:
        def spread(g: np.ndarray, grid: np.ndarray) -> np.ndarray:
            first = g if self.how.channels_last else np.moveaxis(g, 1, -1)
            out = np.zeros((len(g), *self.sizes, first.shape[-1]), g.dtype)
            batch = np.arange(len(g)).reshape(-1, *[1] * self.count)
            for combination in itertools.product(*self.numpy_taps(grid, self.sizes)):
                places = [p for p, _ in combination]
                valid = np.all(
                    [(p >= 0) & (p < s) for p, s in zip(places, self.sizes, strict=True)], 0
                )
                weight = np.prod([w for _, w in combination], 0)
                at = [np.where(valid, p, 0).astype(np.int64) for p in places]
                term = np.where(valid[..., None], first * weight[..., None], 0).astype(g.dtype)
                np.add.at(out, (np.broadcast_to(batch, valid.shape), *at), term)
            return out if self.how.channels_last else np.moveaxis(out, -1, 1)

        return np.asarray(half_as_float32(spread, [g, grid]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return spread_gradient(self, gradients[0], *inputs)

    def decompose(self, g: Tensor, grid: Tensor) -> Tensor:
        batch, channels, _ = self.split(g.type.static_shape)
        index, weight = tapped(self, grid, self.sizes)
        op = WeightedScatter(self.how.channels_last, math.prod(self.sizes))
        return apply(op, g, index, weight).reshape(self.joined(batch, channels, self.sizes))  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 2, 3, 2), real(2, 3, 2, 2, low=-1.4, high=1.4), **a, sizes=(3, 4))
            for a, _ in _settings(2)[::2]
        ] + [
            sample(
                real(1, 2, 2, 3), real(1, 2, 2, 2, low=-0.9, high=3.2), orders=(0, 1), sizes=(3, 4),
                how=Sampling("linear", "border", False, normalised=False, channels_last=True),
            )
        ]  # fmt: skip


def spread_gradient(op: Grid, h: Tensor, g: Tensor, grid: Tensor) -> list[Tensor | None]:
    """Gradients of the transpose: samples of `h`, the gradient of its result."""
    back = apply(GridSample(op.how, op.orders, 0.0), h, grid)
    return [back, grid_gradient(GridSample(op.how, op.orders, 0.0), g, h, grid)]


@register
@frozen
class GridSampleGradient(Grid):
    """Stands for GridSpread until the sizes are known."""

    how: Sampling
    orders: tuple[int, ...]
    name: ClassVar[str] = "grid_sample_gradient"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY
    doc: ClassVar[str] = (
        "The gradient of grid_sample for its data: the first input added, at the positions of the "
        "second, to zeros in the shape of the third."
    )

    def infer(self, g: TensorType, grid: TensorType, like: TensorType) -> TensorType:
        self.check(g, grid)
        return TensorType(like.shape, g.dtype)

    def _static(self, shape: Sequence[int]) -> GridSpread:
        return GridSpread(self.how, self.orders, self.split(shape)[2])

    def reference(self, g: np.ndarray, grid: np.ndarray, like: np.ndarray) -> np.ndarray:
        return self._static(like.shape).reference(g, grid)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [*spread_gradient(self, gradients[0], *inputs[:2]), None]

    def decompose(self, g: Tensor, grid: Tensor, like: Tensor) -> Tensor:
        total = apply(self._static(like.type.static_shape), wide(g), wide(grid))
        return cast_to(total, g.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        how = Sampling("linear", "constant", False)
        return [
            sample(
                real(1, 2, 2, 3), real(1, 2, 3, 2), real(1, 2, 4, 3), how=how, orders=(0, 0),
                tolerance=4.0,
            )
        ]  # fmt: skip
