"""Sampling at computed positions: taps, weights and padding, and the two ops made of them.

A sample is a sum over taps of weight times element, the weights being functions of the position.
Both ops carry an order of differentiation for each spatial axis: the derivative of a sample by the
position is the same sum with derivatives of the weights. So gradients of any order are samples and
their transposes. Positions follow PyTorch's grid_sample and ONNX GridSample.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType, int64
from niello.core.errors import DTypeError, ShapeError
from niello.core.shapes import Dim, merge_shapes, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, real, record, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, ScatterSpec, Value
from niello.kernel.ir import Expr
from niello.ops.concat import stack
from niello.ops.define import cast_to, check_dtype, half_as_float32
from niello.ops.movement import apply, wide, zeros_like

MODES = ("nearest", "linear", "cubic")
PADDINGS = ("constant", "border", "reflection", "reflect", "symmetric")
CUBIC = -0.75  # the kernel's a, as PyTorch and ONNX have it


@record
@dataclass(frozen=True)
class Sampling:
    """How positions are read from a grid and what lies outside."""

    mode: str
    padding: str
    align_corners: bool
    normalised: bool = True
    relative: bool = False
    rounding: str = "round_to_even"
    channels_last: bool = False

    @property
    def border(self) -> str:
        """Whether positions are mirrored at element centres (reflect) or edges (symmetric)."""
        if self.padding == "reflection":
            return "reflect" if self.align_corners else "symmetric"
        return self.padding

    @property
    def taps(self) -> int:
        """Elements that one position reads along an axis."""
        return {"nearest": 1, "linear": 2, "cubic": 4}[self.mode]

    def scale(self, size: int) -> float:
        """Elements per unit of a grid's coordinates."""
        if not self.normalised:
            return 1.0
        return (size - 1) / 2 if self.align_corners else size / 2

    def middle(self, size: int) -> float:
        """The position of coordinate 0."""
        return (size - 1) / 2 if self.normalised and not self.relative else 0.0


class NumpyMath:
    """The few functions below, for arrays instead of kernel expressions."""

    floor, ceil, rint, abs = np.floor, np.ceil, np.rint, np.abs
    where, min, max = np.where, np.minimum, np.maximum


def _folded(f: Any, c: Any, how: Sampling, size: int) -> tuple[Any, Any]:
    """A position brought inside, and the derivative of that (1, -1 or 0)."""
    border = how.border
    one = c * 0 + 1
    if border == "constant":
        return c, one
    slope = one
    if border != "border":
        low, span = (0.0, size - 1.0) if border == "reflect" else (-0.5, float(size))
        if span == 0.0:
            return c * 0, c * 0
        slope = f.where(c < low, -one, one)
        c = f.abs(c - low)
        flips = f.floor(c / span)
        rest = c - flips * span
        odd = (flips - f.floor(flips / 2) * 2) > 0.5
        c = f.where(odd, span - rest, rest) + low
        slope = f.where(odd, -slope, slope)
    inside = f.max(f.min(c, c * 0 + (size - 1.0)), c * 0)
    # Where it was cut off, the result does not follow the position.
    stays = f.where(inside >= c, f.where(inside <= c, slope, slope * 0), slope * 0)
    return inside, stays


def _cubic(t: Any, order: int, far: bool) -> Any:
    """Derivative of the cubic kernel, by the distance, from 0 to 1 or (far) from 1 to 2."""
    a = CUBIC
    c3, c2, c1, c0 = (a, -5 * a, 8 * a, -4 * a) if far else (a + 2, -(a + 3), 0.0, 1.0)
    if order == 0:
        return ((t * c3 + c2) * t + c1) * t + c0
    if order == 1:
        return (t * (3 * c3) + 2 * c2) * t + c1
    if order == 2:
        return t * (6 * c3) + 2 * c2
    return t * 0 + (6 * c3 if order == 3 else 0.0)


def _rounded(f: Any, c: Any, rounding: str) -> Any:
    if rounding in ("floor", "ceil"):
        return f.floor(c) if rounding == "floor" else f.ceil(c)
    if rounding == "round_prefer_ceil":
        return f.floor(c + 0.5)
    if rounding == "round_prefer_floor":
        return f.ceil(c - 0.5)
    return f.rint(c)


def axis_taps(f: Any, c: Any, how: Sampling, size: int, order: int) -> list[tuple[Any, Any]]:
    """(position of the element, weight) of each tap along one axis, for position `c`.

    `f` is a kernel builder or NumpyMath. Positions may be outside with padding "constant" only."""
    factor = how.scale(size) ** order
    if how.mode == "nearest":
        c, _ = _folded(f, c, how, size)
        return [(_rounded(f, c, how.rounding), c * 0 + (1.0 if order == 0 else 0.0))]
    if how.mode == "linear":
        c, slope = _folded(f, c, how, size)
        low = f.floor(c)
        part = c - low
        if order == 0:
            return [(low, part * -1 + 1), (_next(f, low, how, size), part)]
        weight = slope * (factor if order == 1 else 0.0)
        return [(low, -weight), (_next(f, low, how, size), weight)]
    low = f.floor(c)
    part = c - low
    sign = factor * (-1) ** order
    weights = [
        _cubic(part + 1, order, True) * factor,
        _cubic(part, order, False) * factor,
        _cubic(part * -1 + 1, order, False) * sign,
        _cubic(part * -1 + 2, order, True) * sign,
    ]
    return [
        (_folded(f, low + i, how, size)[0], w) for i, w in zip(range(-1, 3), weights, strict=True)
    ]


def _next(f: Any, low: Any, how: Sampling, size: int) -> Any:
    """The second neighbour: weighted by 0 where it would be outside of a padded axis."""
    after = low + 1
    return after if how.border == "constant" else f.min(after, after * 0 + (size - 1.0))


class Grid(Op):
    """Base of both ops. `orders` has one entry for each spatial axis, outermost first."""

    how: Sampling
    orders: tuple[int, ...]
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    traits: ClassVar[Trait] = Trait.NONE

    @property
    def count(self) -> int:
        """Spatial axes."""
        return len(self.orders)

    def split(self, index: Sequence[Any]) -> tuple[Any, Any, tuple[Any, ...]]:
        """Batch, channel and spatial parts of an index or shape of the data."""
        if self.how.channels_last:
            return index[0], index[-1], tuple(index[1:-1])
        return index[0], index[1], tuple(index[2:])

    def joined(self, batch: Any, channel: Any, spatial: Sequence[Any]) -> tuple[Any, ...]:
        if self.how.channels_last:
            return (batch, *spatial, channel)
        return (batch, channel, *spatial)

    def check(self, x: TensorType, grid: TensorType) -> None:
        """Refuse data and grids that do not fit each other."""
        check_dtype(self.name, x.dtype, self.dtypes)
        if grid.dtype is not x.dtype:
            raise DTypeError(
                self.name,
                "the grid has another element type than the data",
                received=f"{grid.dtype.name} for {x.dtype.name}",
                advice="Cast one of them",
            )
        rank = self.count + 2
        for what, t in (("data", x), ("grid", grid)):
            if t.rank not in (None, rank):
                raise ShapeError(
                    self.name,
                    f"the {what} must have rank {rank}",
                    received=show(t.shape),
                    advice="Take [N, C, H, W] with [N, H, W, 2], or one axis more of each",
                )
        if grid.shape is not None and grid.shape[-1] not in (None, self.count):
            raise ShapeError(
                self.name,
                f"the last axis of the grid must hold {self.count} coordinates",
                received=show(grid.shape),
            )
        if x.shape is not None and grid.shape is not None:
            merge_shapes(x.shape[:1], grid.shape[:1], self.name)

    def taps(
        self, k: Builder, grid: Value, batch: Expr, at: Index, sizes: Sequence[int]
    ) -> list[list[tuple[Expr, Expr]]]:
        """The taps along each spatial axis for one position of the grid."""
        found = []
        for d, (size, order) in enumerate(zip(sizes, self.orders, strict=True)):
            raw = grid(batch, *at, self.count - 1 - d)
            c = raw * self.how.scale(size) + self.how.middle(size)
            if self.how.relative:
                c = c + k.cast(at[d], raw.dtype)
            found.append(axis_taps(k, c, self.how, size, order))
        return found

    def numpy_taps(
        self, grid: np.ndarray, sizes: Sequence[int]
    ) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """The same for all positions of a grid."""
        found = []
        for d, (size, order) in enumerate(zip(sizes, self.orders, strict=True)):
            raw = grid[..., self.count - 1 - d]
            c = raw * raw.dtype.type(self.how.scale(size)) + raw.dtype.type(self.how.middle(size))
            if self.how.relative:
                c = c + np.arange(c.shape[d + 1]).reshape(-1, *[1] * (self.count - 1 - d))
            found.append(axis_taps(NumpyMath, c.astype(raw.dtype), self.how, size, order))
        return found


def _inside(k: Builder, place: Expr, size: int) -> Expr:
    return k.all_of(place >= 0, place <= float(size - 1))


@register
@dataclass(frozen=True)
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

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x, grid = inputs
        batch, channel, at = self.split(index)
        sizes = self.split(x.shape)[2]
        taps = self.taps(k, grid, batch, at, sizes)

        def along(places: tuple[Expr, ...], inside: Expr) -> Expr:
            d = len(places)
            if d == self.count:
                source = self.joined(batch, channel, [k.cast(p, int64) for p in places])
                return k.guarded(inside, lambda: x(*source), self.value)
            total: Expr | None = None
            for place, weight in taps[d]:
                valid = k.all_of(inside, _inside(k, place, sizes[d]))
                term = weight * along((*places, place), valid)
                total = term if total is None else total + term
            assert total is not None
            return total

        return along((), k.all_of())

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
@dataclass(frozen=True)
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

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        g, grid = inputs
        batch, channel, own = self.split(index)

        def term(*at: Expr) -> Expr:
            total = g(*self.joined(batch, channel, at))
            for i, taps in zip(own, self.taps(k, grid, batch, at, self.sizes), strict=True):
                here = k.cast(i, total.dtype)
                hits = [k.where(place.eq(here), weight, 0) for place, weight in taps]
                share = hits[0]
                for h in hits[1:]:
                    share = share + h
                total = total * share
            return total

        return k.reduce("add", self.split(g.shape)[2], term)

    def scatter(self, k: Builder, *inputs: Value) -> ScatterSpec:
        """One addition for each element of the first input and each of its taps."""
        g, grid = inputs
        rank = len(g.shape)

        def chosen(*point: Expr) -> tuple[Index, list[Expr], list[Expr]]:
            """The element's index; places and weights of the taps that the ranges choose."""
            index, which = point[:rank], point[rank:]
            batch, _, at = self.split(index)
            places, weights = [], []
            for t, taps in zip(which, self.taps(k, grid, batch, at, self.sizes), strict=True):
                place, weight = taps[-1]
                for n in reversed(range(len(taps) - 1)):
                    place = k.where(t.eq(n), taps[n][0], place)
                    weight = k.where(t.eq(n), taps[n][1], weight)
                places.append(place)
                weights.append(weight)
            return index, places, weights

        def target(*point: Expr) -> Index:
            index, places, _ = chosen(*point)
            batch, channel, _ = self.split(index)
            return self.joined(batch, channel, [k.cast(p, int64) for p in places])

        def inside(*point: Expr) -> Expr:
            _, places, _ = chosen(*point)
            return k.all_of(*(_inside(k, p, s) for p, s in zip(places, self.sizes, strict=True)))

        def value(*point: Expr) -> Expr:
            index, _, weights = chosen(*point)
            total = g(*index)
            for w in weights:
                total = total * w
            return total

        extents = (*g.shape, *[self.how.taps] * self.count)
        return ScatterSpec(extents, target, inside, value)

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
@dataclass(frozen=True)
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
