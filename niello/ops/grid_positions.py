"""Sampling at computed positions: where taps lie, their weights, and padding.

Positions follow PyTorch's grid_sample and ONNX GridSample. The ops are in grid_taps.py and grid.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType
from niello.core.errors import DTypeError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import merge_shapes, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Trait, record
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import check_dtype

MODES = ("nearest", "linear", "cubic")
PADDINGS = ("constant", "border", "reflection", "reflect", "symmetric")
CUBIC = -0.75  # the kernel's a, as PyTorch and ONNX have it


@record
@frozen
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
