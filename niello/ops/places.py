"""How index tensors address data: the layouts that gather and scatter share.

Along an indexed axis of size n an index i from 0 to n - 1 is position i, from -n to -1 position
n + i (as in NumPy); any other index is outside: it reads zero, and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from niello.core.dtypes import INTEGERS, int64
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, Shape, merge_shapes, row_major_strides, show
from niello.core.types import TensorType
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import check_dtype
from niello.ops.movement import known_axis

# "slices": each index chooses a slice along the axis.
# "points": the last axis of the indices holds the coordinates of one point or slice.
# "along": the indices have the rank of the data; each belongs to the element in its place.
FORMS = ("slices", "points", "along")


def normalised(k: Builder, raw: Expr, size: int) -> Expr:
    """An index element as int64, negative ones counted from the end."""
    i = k.cast(raw, int64)
    return i if raw.dtype.kind == "uint" else k.where(i < 0, i + size, i)


@frozen
class Layout:
    """How the axes of data, indices and parts (what is gathered, or scattered) line up.

    data:    batch, before, n1 ... nK, after
    parts:   batch, before, chosen,    after
    indices: batch, chosen          (slices)
             batch, chosen, K       (points, which have no `before`)
             batch, chosen, after   (along, where chosen is one axis, and there is no `before`)
    """

    form: str
    axis: int  # the first indexed axis of the data
    batch: int
    depth: int  # K, the number of indexed axes
    chosen: int  # axes of the parts that stand for the indexed ones
    rank: int  # of the data

    def split(self, parts: Index) -> tuple[Index, Index, Index]:
        """The index of a part's element as batch and before; chosen; after."""
        end = self.axis + self.chosen
        return parts[: self.axis], parts[self.axis : end], parts[end:]

    def coordinates(
        self, index: Value, before: Index, where: Index, after: Index
    ) -> tuple[Expr, ...]:
        """The K index elements for a part's element."""
        if self.form == "along":
            return (index(*before, *where, *after),)
        if self.form == "points":
            return tuple(index(*before[: self.batch], *where, i) for i in range(self.depth))
        return (index(*before[: self.batch], *where),)

    def positions(
        self,
        k: Builder,
        index: Value,
        shape: Sequence[int],
        before: Index,
        where: Index,
        after: Index,
    ) -> tuple[list[Expr], Expr]:
        """Normalised positions on the indexed axes of data of a shape, and whether all of them are
        inside."""
        raw = self.coordinates(index, before, where, after)
        sizes = shape[self.axis : self.axis + self.depth]
        found = [normalised(k, r, size) for r, size in zip(raw, sizes, strict=True)]
        inside = [t for i, size in zip(found, sizes, strict=True) for t in (i >= 0, i < size)]
        return found, k.all_of(*inside)

    def parts_shape(self, data: Shape, index: Shape) -> Shape:
        """The shape of the parts of data of a shape."""
        if self.form == "along":
            return index
        end = self.batch + self.chosen
        rest = data[self.axis + self.depth :]
        return (*data[: self.axis], *index[self.batch : end], *rest)

    def flat(self, shape: Sequence[int], index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """NumPy: for each element of the parts, its row-major position in data of a shape (0 where
        it is outside), and whether it is inside."""
        parts = tuple(d or 0 for d in self.parts_shape(tuple(shape), index.shape))
        total = np.zeros(parts, np.int64)
        inside = np.ones(parts, bool)
        for d, (size, stride) in enumerate(zip(shape, row_major_strides(shape), strict=True)):
            if self.axis <= d < self.axis + self.depth:
                place = self._spread(index, d - self.axis, len(parts)).astype(np.int64)
                place = np.where(place < 0, place + size, place)
            else:
                own = d if d < self.axis else d + self.chosen - self.depth
                place = np.arange(parts[own]).reshape(-1, *[1] * (len(parts) - own - 1))
            inside &= (place >= 0) & (place < size)
            total += place * stride
        return np.where(inside, total, 0), inside

    def _spread(self, index: np.ndarray, which: int, rank: int) -> np.ndarray:
        """Coordinate number `which` of each index, with the axes of the parts."""
        if self.form == "along":
            return index
        one = index[..., which] if self.form == "points" else index
        after = rank - self.axis - self.chosen
        batch, chosen = one.shape[: self.batch], one.shape[self.batch :]
        return one.reshape((*batch, *[1] * (self.axis - self.batch), *chosen, *[1] * after))


def layout(
    asked: str, form: str, axis: int, batch: int, rank: int, index: TensorType
) -> Layout | None:
    """The layout for data of a rank; None while too little is known of the indices.

    Raises ShapeError for axes and ranks that do not fit."""
    axis = known_axis(asked, axis, rank)
    if not 0 <= batch <= axis:
        raise ShapeError(
            asked,
            "batch axes must come before the indexed axis",
            received=f"batch_dims {batch}, axis {axis}",
            advice="Use batch_dims from 0 to axis",
        )
    if index.shape is None:
        return None
    lead = batch + (form == "points")
    if len(index.shape) < lead or (form == "along" and len(index.shape) != rank):
        wanted = f"{rank}" if form == "along" else f"{lead} or more"
        raise ShapeError(
            asked,
            "the indices have the wrong rank",
            received=show(index.shape),
            advice=f"They need rank {wanted}",
        )
    if form == "along":
        return Layout(form, axis, axis, 1, 1, rank)
    if form == "slices":
        return Layout(form, axis, batch, 1, len(index.shape) - batch, rank)
    depth = index.shape[-1]
    if depth is None:
        return None
    if not 1 <= depth <= rank - axis:
        raise ShapeError(
            asked,
            "the last axis of the indices must hold the coordinates of a point",
            received=f"{depth} coordinates for {rank - axis} axes",
            advice=f"Use from 1 to {rank - axis} coordinates",
        )
    return Layout(form, axis, batch, depth, len(index.shape) - batch - 1, rank)


def check_indices(asked: str, data: Shape | None, index: TensorType, found: Layout | None) -> None:
    """Refuse indices of a wrong type, or whose sizes do not fit the data's."""
    check_dtype(asked, index.dtype, INTEGERS)
    if data is None or index.shape is None or found is None:
        return
    if found.form != "along":
        merge_shapes(data[: found.batch], index.shape[: found.batch], asked)
        return
    for axis, (ours, theirs) in enumerate(zip(data, index.shape, strict=True)):
        if axis != found.axis and ours is not None and theirs is not None and theirs > ours:
            raise ShapeError(
                asked,
                f"the indices are longer than the data along axis {axis}",
                received=f"{show(index.shape)} for {show(data)}",
                advice=f"Sizes may differ along axis {found.axis} only, or be smaller",
                axis=axis,
            )


def check_parts(asked: str, wanted: Sequence[Dim], parts: Shape | None) -> None:
    """Refuse updates whose shape does not fit the data and the indices."""
    if parts is None:
        return
    if len(parts) != len(wanted) or any(
        None not in (a, b) and a != b for a, b in zip(wanted, parts, strict=True)
    ):
        raise ShapeError(
            asked,
            "the updates do not have the shape that the indices choose",
            received=show(parts),
            advice=f"They need {show(tuple(wanted))}",
            shapes=(parts, tuple(wanted)),
        )


def count(shape: Sequence[int]) -> int:
    """Elements of a static shape."""
    return math.prod(shape)
