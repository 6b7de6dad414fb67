"""Non-maximum suppression: of boxes that overlap, the one with the best score.

Boxes are walked through from the best score on; each that is still there is kept, and takes away
those behind it whose intersection with it is more than a threshold times their union. Equal scores
keep their order. Results have a fixed size, are filled up with -1, and come with their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from niello.core.dtypes import FLOATS, DType, float32, int32, int64
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    function,
    functions,
    not_differentiable,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.ir import Expr
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.compact import TruePositions
from niello.ops.concat import stack
from niello.ops.define import cast_to, check_dtype
from niello.ops.indexing import gather, take_along_axis
from niello.ops.movement import integer, tensor_of
from niello.ops.select import where

COORDINATES = (
    "corners_height_first",
    "corners_width_first",
    "centers_height_first",
    "centers_width_first",
)


@register
@dataclass(frozen=True)
class SuppressSorted(Op):
    """Inputs: corners float32[rows, 4, boxes] as (low, low, high, high), classes int32[rows,
    boxes], and how many of the boxes take part, int32[rows]. Outputs: positions and numbers."""

    most: int
    overlap: float
    per_class: bool
    name: ClassVar[str] = "suppress_sorted"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = (float32,)
    doc: ClassVar[str] = (
        "Positions of the boxes of each row that no earlier kept one overlaps by more than a share "
        "of their union, filled up with -1, and how many there are."
    )
    grad = not_differentiable("its results are positions")

    def infer(
        self, corners: TensorType, classes: TensorType, count: TensorType
    ) -> tuple[TensorType, TensorType]:
        check_dtype(self.name, corners.dtype, self.dtypes)
        for t in (classes, count):
            check_dtype(self.name, t.dtype, (int32,))
        if corners.shape is not None and (
            len(corners.shape) != 3 or corners.shape[1] not in (4, None)
        ):
            raise ShapeError(
                self.name, "corners are [rows, 4, boxes]", received=show(corners.shape)
            )
        rows = None if corners.shape is None else corners.shape[0]
        return TensorType((rows, self.most), int32), TensorType((rows,), int32)

    def reference(
        self, corners: np.ndarray, classes: np.ndarray, count: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        kept = np.full((len(corners), self.most), -1, np.int32)
        number = np.zeros(len(corners), np.int32)
        for row in range(len(corners)):
            found: list[int] = []
            left = list(range(int(count[row])))
            while left and len(found) < self.most:
                best = left[0]
                found.append(best)
                rest = np.array(left[1:], np.int64)
                over = self._overlaps(corners[row], best, rest)
                if self.per_class:
                    over &= classes[row, rest] == classes[row, best]
                left = [int(i) for i in rest[~over]]
            kept[row, : len(found)] = found
            number[row] = len(found)
        return kept, number

    def _overlaps(self, corners: np.ndarray, best: int, rest: np.ndarray) -> np.ndarray:
        a, b = corners[:, best], corners[:, rest]
        sides = np.minimum(a[2:, None], b[2:]) - np.maximum(a[:2, None], b[:2])
        shared = np.maximum(sides, 0).prod(0)
        area_a, area_b = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
        union = area_a + area_b - shared
        return np.asarray(shared > np.float32(self.overlap) * union)

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        corners, classes, count = inputs
        kept, number = r.outputs
        rows, _, boxes = corners.shape
        if not rows:
            return
        row = r.teams(rows)
        with r.spread(self.most) as m:
            r.write(kept, (row, m), -1)
        if not boxes or not self.most:
            r.write(number, row, 0)
            return
        there = r.local(int32, boxes)
        with r.spread(boxes) as m:
            r.write(there, m, 1)
        total = r.cast(r.read(count, row, low=0, high=boxes), int64)
        found = r.variable(int64, 0, low=0, high=self.most)
        at = r.variable(int64, 0, low=0, high=boxes)
        with r.repeat(lambda: (at.value < total) & (found.value < self.most)):
            best = at.value
            # A bound that is known keeps the index arithmetic in 32 bits.
            best = r.min(best, r.index(boxes - 1))
            with r.when(r.read(there, best).ne(0)):
                place = r.min(found.value, r.index(self.most - 1))
                r.write(kept, (row, place), r.cast(best, int32))
                found.set(place + 1)
                self._take_away(r, corners, classes, there, row, best, total)
            at.set(best + 1)
        r.write(number, row, r.cast(found.value, int32))

    def _take_away(
        self,
        r: RoutineBuilder,
        corners: Place,
        classes: Place,
        there: Place,
        row: Expr,
        best: Expr,
        total: Expr,
    ) -> None:
        """Statements that mark the boxes behind `best` that it overlaps."""
        boxes = corners.shape[2]

        def box(i: Expr) -> list[Expr]:
            return [r.read(corners, (row, c, i)) for c in range(4)]

        def area(b: list[Expr]) -> Expr:
            return (b[2] - b[0]) * (b[3] - b[1])

        a, kind = box(best), r.read(classes, (row, best))
        area_a = area(a)
        with r.spread(r.max(r.min(total, r.index(boxes)) - best - 1, r.index(0))) as m:
            i = best + 1 + m
            b = box(i)
            height = r.max(r.min(a[2], b[2]) - r.max(a[0], b[0]), 0.0)
            width = r.max(r.min(a[3], b[3]) - r.max(a[1], b[1]), 0.0)
            shared = height * width
            over = (area_a + area(b) - shared) * self.overlap < shared
            if self.per_class:
                over = over & r.read(classes, (row, i)).eq(kind)
            r.write(there, i, r.where(over, 0, r.read(there, i)))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        generator = np.random.default_rng(5)

        def inputs(rows: int, boxes: int, kinds: int) -> tuple[np.ndarray, ...]:
            low = generator.random((rows, 2, boxes), np.float32) * 4
            corners = np.concatenate([low, low + generator.random(low.shape, np.float32) * 3], 1)
            classes = generator.integers(0, kinds, (rows, boxes)).astype(np.int32)
            count = generator.integers(0, boxes + 1, rows).astype(np.int32)
            count[:1] = boxes
            return corners, classes, count

        return [
            sample(*inputs(2, 12, 2), most=5, overlap=0.25, per_class=True),
            sample(*inputs(3, 70, 3), most=70, overlap=0.5, per_class=False),
            sample(*inputs(2, 33, 1), most=4, overlap=0.0, per_class=True),
            sample(*inputs(1, 9, 1), most=20, overlap=1.0, per_class=False),
            sample(*inputs(2, 0, 1), most=3, overlap=0.5, per_class=True),
            sample(*inputs(2, 5, 1), most=0, overlap=0.5, per_class=True),
            sample(*inputs(0, 5, 1), most=2, overlap=0.5, per_class=True),
        ]


# --- functions
class Suppressed(NamedTuple):
    """For each image the boxes that stay, the best first: their numbers, classes and scores, and
    how many there are."""

    indices: Tensor
    classes: Tensor
    scores: Tensor
    number: Tensor


class SelectedBoxes(NamedTuple):
    """Rows (batch, class, box), and how many of them were selected."""

    indices: Tensor
    number: Tensor


def _corners(asked: str, boxes: Tensor, coordinates: str) -> Tensor:
    """Boxes [n, boxes, 4] as float32 corners [n, 4, boxes]."""
    if coordinates not in COORDINATES:
        raise AttributeValueError(
            asked,
            "unknown coordinates",
            received=repr(coordinates),
            advice=f"Use one of {', '.join(COORDINATES)}",
        )
    check_dtype(asked, boxes.dtype, FLOATS)
    if boxes.shape is None or len(boxes.shape) != 3 or boxes.shape[2] not in (4, None):
        raise ShapeError(asked, "boxes are [n, boxes, 4]", received=str(boxes.type))
    wide = cast_to(boxes, float32)
    a, b, c, d = (wide[:, :, i] for i in range(4))
    if coordinates.startswith("centers"):
        edges = [a - c * 0.5, b - d * 0.5, a + c * 0.5, b + d * 0.5]
    else:
        low, high = functions()["minimum"], functions()["maximum"]
        edges = [low(a, c), low(b, d), high(a, c), high(b, d)]
    return stack(edges, 1)


def _thresholds(asked: str, overlap: float, least: float | None, most: Any) -> int:
    if not 0 <= overlap <= 1:
        raise AttributeValueError(
            asked, "the overlap threshold is from 0 to 1", received=repr(overlap)
        )
    if least is not None and least != least:
        raise AttributeValueError(asked, "the score threshold is NaN", received=repr(least))
    size = integer(asked, most, "the largest number of results")
    if size < 0:
        raise AttributeValueError(
            asked, "the largest number of results must not be negative", received=size
        )
    return size


def _ordered(scores: Tensor, least: float | None) -> tuple[Tensor, Tensor]:
    """The order of the last axis, the best score first, and how many scores are high enough."""
    enough = scores > least if least is not None else scores.is_nan().logical_not()
    worst = scores.graph.constant(-np.inf, scores.dtype)
    order = functions()["argsort"](where(enough, scores, worst), -1, descending=True)
    return order, enough.cast(int32).sum(-1)


@function
def non_maximum_suppression(
    boxes: Tensor,
    scores: Any,
    class_indices: Any = None,
    *,
    max_output: int,
    iou_threshold: float = 0.5,
    score_threshold: float | None = None,
    per_class: bool = True,
    coordinates: str = "corners_height_first",
    name: str | None = None,
) -> Suppressed:
    """Of boxes that overlap, those with the best scores.

    `boxes` is [n, boxes, 4], `scores` [n, boxes, classes]; or with `class_indices` (int32 [n,
    boxes]) [n, boxes, 1]. Every pair of a box and a class whose score is more than
    `score_threshold` (None: every one but NaN) is a candidate. From the best score on, each that is
    left is kept and takes away those whose intersection over union with it is more than
    `iou_threshold`: of its class only with `per_class`, otherwise of all.

    `coordinates`: "corners_height_first" (y1, x1, y2, x2), "corners_width_first" (x1, y1, x2, y2),
    "centers_height_first" (y, x, height, width) or "centers_width_first" (x, y, width, height).
    Corners may come in any order.

    Each result is [n, max_output]: numbers of boxes and classes (-1 behind the last) and scores (0
    there), and `number` is int32 [n]. Gradients flow to the scores. As MPSGraph's
    nonMaximumSuppression; equal scores keep their order.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> boxes = g.constant([[[0.0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]]])
        >>> found = nl.non_maximum_suppression(
        ...     boxes, g.constant([[[0.8], [0.9], [0.3]]]), max_output=4)
        >>> g.run(targets=[found.indices])[found.indices].numpy().tolist()
        [[1, 2, -1, -1]]
    """
    asked = "non_maximum_suppression"
    size = _thresholds(asked, iou_threshold, score_threshold, max_output)
    corners = _corners(asked, tensor_of(asked, boxes), coordinates)
    values = boxes.graph.as_tensor(scores)
    check_dtype(asked, values.dtype, FLOATS)
    kinds = values.shape[2] if values.shape is not None and len(values.shape) == 3 else None
    if kinds is None or not kinds or (class_indices is not None and kinds != 1):
        raise ShapeError(
            asked,
            "scores are [n, boxes, classes], with a known number of classes (one with indices)",
            received=str(values.type),
        )
    flat = functions()["flatten_axes"](values, 1, 2)
    order, count = _ordered(flat, score_threshold)
    box = order // kinds if kinds > 1 else order
    if class_indices is not None:
        given = cast_to(boxes.graph.as_tensor(class_indices), int32)
        kind = take_along_axis(given, box, 1)
    else:
        kind = order % kinds
    op = SuppressSorted(size, float(iou_threshold), bool(per_class))
    places: Any = gather(corners, box, 2, batch_dims=1)
    kept, number = boxes.graph.apply(op, places, kind, count)  # type: ignore[misc]
    there = kept >= 0
    safe = functions()["maximum"](kept, 0)
    score = take_along_axis(flat, take_along_axis(order, safe, 1), 1)
    return Suppressed(
        where(there, take_along_axis(box, safe, 1), -1, name=name),
        where(there, take_along_axis(kind, safe, 1), -1),
        where(there, score, boxes.graph.constant(0, values.dtype)),
        number,
    )


@function
def non_max_suppression(
    boxes: Tensor,
    scores: Any,
    *,
    max_output_boxes_per_class: int,
    iou_threshold: float = 0.0,
    score_threshold: float | None = None,
    center_point_box: bool = False,
    size: int | None = None,
    name: str | None = None,
) -> SelectedBoxes:
    """Non-maximum suppression with the tensors of ONNX's NonMaxSuppression.

    `boxes` is [n, boxes, 4], as (y1, x1, y2, x2) in any order of the corners, or with
    `center_point_box` as (x, y, width, height); `scores` is [n, classes, boxes], with known sizes.
    `indices` is int64 [size, 3]: rows (batch, class, box), ordered by batch, class and falling
    score, and rows of -1 behind the first `number` (int32). `size` defaults to n * classes *
    min(max_output_boxes_per_class, boxes), which is always enough; when it is less, the first rows
    are given, and `number` still counts all.

    Raises ShapeError for shapes that do not fit or are unknown, AttributeValueError for thresholds
    out of range.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> boxes = g.constant([[[0.0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]]])
        >>> found = nl.non_max_suppression(
        ...     boxes, g.constant([[[0.8, 0.9, 0.3]]]), max_output_boxes_per_class=2,
        ...     iou_threshold=0.5)
        >>> g.run(targets=[found.indices])[found.indices].numpy().tolist()
        [[0, 0, 1], [0, 0, 2]]
    """
    asked = "non_max_suppression"
    most = _thresholds(asked, iou_threshold, score_threshold, max_output_boxes_per_class)
    mode = "centers_width_first" if center_point_box else "corners_height_first"
    corners = _corners(asked, tensor_of(asked, boxes), mode)
    values = boxes.graph.as_tensor(scores)
    check_dtype(asked, values.dtype, FLOATS)
    if not values.type.is_static or len(values.type.static_shape) != 3:
        raise ShapeError(
            asked, "scores are [n, classes, boxes], with known sizes", received=str(values.type)
        )
    batch, kinds, length = values.type.static_shape
    most = min(most, length)
    rows = batch * kinds
    order, count = _ordered(values, score_threshold)
    places = gather(corners, order, 2, batch_dims=1)  # [n, 4, classes, boxes]
    places = places.transpose((0, 2, 1, 3)).reshape((rows, 4, length))
    none = boxes.graph.constant(0, int32, shape=(rows, length))
    op = SuppressSorted(most, float(iou_threshold), False)
    kept, _ = boxes.graph.apply(op, places, none, count.reshape((rows,)))  # type: ignore[misc]
    box = take_along_axis(order.reshape((rows, length)), functions()["maximum"](kept, 0), 1)
    limit = rows * most if size is None else integer(asked, size, "the size")
    if limit < 0:
        raise AttributeValueError(asked, "the size must not be negative", received=limit)
    at, number = boxes.graph.apply(TruePositions(limit), kept >= 0)  # type: ignore[misc]
    there = at >= 0
    safe = functions()["maximum"](at, 0)
    row = safe // max(1, most)
    parts = [row // max(1, kinds), row % max(1, kinds), gather(box.reshape((-1,)), safe)]
    found = stack([where(there, p, -1).cast(int64) for p in parts], 1)
    return SelectedBoxes(
        found if name is None else functions()["identity"](found, name=name), number
    )
