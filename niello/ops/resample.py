"""Linear maps along axes: which elements, with which weights, make each element of a resized axis.

A map is two tables: for every output position the positions it reads and their weights. Transposed,
the same tables are the gradient. Coordinates follow ONNX Resize, whose formulas are in its
operator documentation; the cubic kernel is that of Keys (1981).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from niello.core.dtypes import ALL, INTEGERS, DType, compute_dtype, int64
from niello.core.errors import DTypeError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    indices,
    not_differentiable,
    real,
    record,
    register,
    sample,
)
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import check_dtype, half_as_float32

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "align_corners_by_scale",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
    "explicit",
)
ROUNDINGS = (
    "round_prefer_floor",
    "round_prefer_ceil",
    "floor",
    "ceil",
    "round_to_even",
    "round_to_odd",
)
KERNELS = ("nearest", "linear", "cubic", "area")
UNROLLED = 4  # taps written out; more are a loop


@record
@frozen
class Filter:
    """How an axis is resized, whatever its size."""

    kernel: str
    coordinates: str
    rounding: str = "round_prefer_floor"
    cubic: float = -0.75
    antialias: bool = False
    exclude_outside: bool = False


@frozen
class Axis:
    """One axis to resize: from `source` to `target` elements, by `scale` (target per source)."""

    source: int
    target: int
    scale: float
    offset: float = 0.0
    start: float = 0.0
    end: float = 1.0


@frozen
class Table:
    """`index[t, o]` and `weight[t, o]`: tap t of output position o. Weights are None where every
    position reads just one element."""

    index: np.ndarray
    weight: np.ndarray | None
    outside: np.ndarray  # positions that get the extrapolation value

    @property
    def taps(self) -> int:
        return self.index.shape[0]

    def is_identity(self, source: int) -> bool:
        """Whether the map changes nothing."""
        same = self.weight is None and self.index.shape[1] == source
        return same and bool((self.index[0] == np.arange(source)).all())


def positions(axis: Axis, coordinates: str) -> np.ndarray:
    """Where in the source each target element lies, as float64."""
    n, m, s = axis.source, axis.target, axis.scale
    o = np.arange(m, dtype=np.float64)
    if coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and m > 1):
        return (o + 0.5) / s - 0.5
    if coordinates == "half_pixel_symmetric":
        return n / 2 * (1 - m / (n * s)) + (o + 0.5) / s - 0.5
    if coordinates in ("align_corners", "align_corners_by_scale"):
        length = n * s if coordinates == "align_corners_by_scale" else m
        return o * (n - 1) / (length - 1) if m > 1 and length != 1 else o * 0.0
    if coordinates == "asymmetric":
        return o / s
    if coordinates == "tf_half_pixel_for_nn":
        return (o + 0.5) / s
    if coordinates == "tf_crop_and_resize":
        if m == 1:
            return np.full(1, 0.5 * (axis.start + axis.end) * (n - 1))
        return axis.start * (n - 1) + o * (axis.end - axis.start) * (n - 1) / (m - 1)
    if coordinates == "explicit":
        return (o - axis.offset) / s
    return o * 0.0  # pytorch_half_pixel of a single element


def rounded(c: np.ndarray, rounding: str) -> np.ndarray:
    """Positions as integers."""
    if rounding == "floor":
        return np.floor(c)
    if rounding == "ceil":
        return np.ceil(c)
    if rounding == "round_prefer_ceil":
        return np.floor(c + 0.5)
    if rounding == "round_prefer_floor":
        return np.ceil(c - 0.5)
    even = np.rint(c)
    if rounding == "round_to_even":
        return even
    tie = np.abs(c - np.trunc(c)) == 0.5
    return np.where(tie, np.floor(c) + np.ceil(c) - even, even)


def _linear(t: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(t))


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    def weight(t: np.ndarray) -> np.ndarray:
        t = np.abs(t)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        return np.where(t <= 1, near, np.where(t < 2, far, 0.0))

    return weight


def _filtered(axis: Axis, how: Filter, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Taps and weights of the linear and cubic kernels, [target, taps], not yet inside."""
    shrink = min(axis.scale, 1.0) if how.antialias else 1.0
    reach = math.ceil((1 if how.kernel == "linear" else 2) / shrink)
    kernel = _linear if how.kernel == "linear" else _cubic(how.cubic)
    taps = np.floor(c)[:, None] + np.arange(1 - reach, reach + 1)
    return taps, kernel((taps - c[:, None]) * shrink)


def table(axis: Axis, how: Filter, transposed: bool = False) -> Table:
    """The map of an axis, or its transpose."""
    n, m = axis.source, axis.target
    c = positions(axis, how.coordinates)
    outside = np.zeros(m, bool)
    if how.coordinates == "tf_crop_and_resize":
        outside = (c < 0) | (c > n - 1)
    if how.kernel == "nearest":
        taps = rounded(c, how.rounding)[:, None]
        weights = np.ones((m, 1))
    elif how.kernel == "area":
        low = np.arange(m) * n // m
        high = -(-(np.arange(1, m + 1) * n) // m)
        taps = low[:, None] + np.arange(int((high - low).max(initial=1)))
        weights = (taps < high[:, None]) / (high - low)[:, None]
    else:
        taps, weights = _filtered(axis, how, c)
        if how.exclude_outside:
            weights = np.where((taps < 0) | (taps >= n), 0.0, weights)
        if how.exclude_outside or how.antialias:
            weights = weights / weights.sum(1, keepdims=True)
    weights = np.where(outside[:, None], 0.0, weights)
    into = np.broadcast_to(np.arange(m)[:, None], taps.shape)
    kept = weights != 0
    source = np.clip(taps, 0, n - 1).astype(np.int64)[kept]
    pairs = (source, into[kept]) if transposed else (into[kept], source)
    index, packed = _pack(n if transposed else m, *pairs, weights[kept])
    plain = how.kernel == "nearest" and not transposed and not outside.any()
    return Table(index, None if plain else packed, outside & (not transposed))


def _pack(
    rows: int, row: np.ndarray, column: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(row, column, weight) triples as dense [taps, rows] tables, unused places with weight 0."""
    order = np.argsort(row, kind="stable")
    row, column, weight = row[order], column[order], weight[order]
    counts = np.bincount(row, minlength=rows)
    starts = np.cumsum(counts) - counts
    slot = np.arange(len(row)) - starts[row]
    taps = max(1, int(counts.max(initial=0)))
    index = np.zeros((taps, rows), np.int32)
    # Unused taps read what the first one reads: it is in the cache.
    index[:, counts > 0] = column[starts[counts > 0]]
    dense = np.zeros((taps, rows))
    index[slot, row] = column
    dense[slot, row] = weight
    return index, dense


@register
@frozen
class Resample(Op):
    """Inputs: data, then for each axis an index table and, when `weighted`, a weight table."""

    axes: tuple[int, ...]
    weighted: bool
    name: ClassVar[str] = "resample"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "Along each of some axes, output position o is the sum over t of weight[t, o] times the "
        "element at index[t, o]; without weights, the element at index[0, o]."
    )
    grad = not_differentiable("its tables are made already; resize has a gradient")

    @property
    def _step(self) -> int:
        return 2 if self.weighted else 1

    def infer(self, x: TensorType, *tables: TensorType) -> TensorType:
        if self.weighted and not x.dtype.is_float:
            check_dtype(self.name, x.dtype, tuple(d for d in ALL if d.is_float))
        indices_, weights = tables[:: self._step], tables[1::2] if self.weighted else ()
        if len(tables) != self._step * len(self.axes):
            raise ShapeError(self.name, "tables are missing", received=len(tables))
        for t in indices_:
            check_dtype(self.name, t.dtype, INTEGERS)
        for t in weights:
            if t.dtype is not compute_dtype(x.dtype):
                raise DTypeError(
                    self.name,
                    "weights must have the type that elements are computed in",
                    received=t.dtype.name,
                    advice=f"Use {compute_dtype(x.dtype).name}",
                )
        if x.shape is None:
            return x
        sizes = list(x.shape)
        for axis, t in zip(self.axes, indices_, strict=True):
            if t.shape is not None and len(t.shape) != 2:
                raise ShapeError(
                    self.name,
                    "a table has two axes",
                    received=show(t.shape),
                    advice="Give [taps, positions]",
                )
            sizes[axis] = None if t.shape is None else t.shape[1]
        return TensorType(sizes, x.dtype)

    def reference(self, x: np.ndarray, *tables: np.ndarray) -> np.ndarray:
        def apply(x: np.ndarray) -> np.ndarray:
            for number, axis in enumerate(self.axes):
                index = tables[number * self._step]
                shape = [-1 if a == axis else 1 for a in range(x.ndim)]
                parts = [np.take(x, i, axis=axis) for i in index]
                if not self.weighted:
                    x = parts[0]
                    continue
                weight = tables[number * 2 + 1].astype(x.dtype)
                terms = [p * w.reshape(shape) for p, w in zip(parts, weight, strict=True)]
                x = np.asarray(sum(terms[1:], terms[0]))
            return x

        return np.asarray(half_as_float32(apply, [x]))

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x, tables = inputs[0], inputs[1:]

        def along(number: int, source: Index) -> Expr:
            if number == len(self.axes):
                return x(*source)
            axis, chosen = self.axes[number], tables[number * self._step]

            def term(t: Expr) -> Expr:
                at = k.cast(chosen(t, index[axis]), int64)
                found = along(number + 1, (*source[:axis], at, *source[axis + 1 :]))
                if not self.weighted:
                    return found
                return tables[number * 2 + 1](t, index[axis]) * found

            taps = chosen.shape[0]
            if taps > UNROLLED:
                return k.reduce("add", (taps,), term)
            terms = [term(k.index(t)) for t in range(taps)]
            total = terms[0]
            for t in terms[1:]:
                total = total + t
            return total

        return along(0, index)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        pick = np.array([[2, 0, 1, 1]], np.int32)
        floats = tuple(d for d in ALL if d.is_float)

        def weighted(dtype: DType, taps: int) -> Sample:
            weights = np.linspace(-1, 1, taps * 4, dtype=compute_dtype(dtype).numpy)
            spec = real(2, 3, 3)
            table = np.arange(taps * 4, dtype=np.int32).reshape(taps, 4) % 3
            w = weights.reshape(taps, 4)
            # Tables keep their own type: only the data follow the sample's.
            return sample(
                spec, table, w, table, w, axes=(1, 2), weighted=True, dtypes=(dtype,), grad=False
            )

        return [
            sample(real(3, 2), pick, axes=(0,), weighted=False, grad=False),
            sample(real(2, 3, 3), pick, pick, axes=(1, 2), weighted=False, grad=False),
            sample(real(3, 0), indices(1, 5, high=3), axes=(0,), weighted=False, grad=False),
            *(weighted(d, taps) for d in floats if not d.is_half for taps in (2, 6)),
        ]
