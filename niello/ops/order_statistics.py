"""Values by their rank or number along an axis: median, quantile, mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes as element_types
from niello.core.dtypes import ALL, FLOATS, DType, float32, int32, int64
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Shape
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    distinct,
    function,
    not_differentiable,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel import ir
from niello.kernel.ir import Expr
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.concat import stack
from niello.ops.define import cast_to, check_dtype, half_as_float32
from niello.ops.gather import gather_gradient
from niello.ops.indexing import gather_along_axis
from niello.ops.movement import apply, integer, known_axis, tensor_of, wide
from niello.ops.sort import SOME, ArgsortRows, SortRows, fill_network, ordered_zero, row_network
from niello.ops.sort_keys import from_key, key_dtype, last_key, to_key
from niello.ops.sort_network import Tuple


@frozen
class Rank:
    """Where a quantile of `count` ordered values lies: between two places, by a weight."""

    low: int
    high: int
    weight: float

    @classmethod
    def of(cls, q: float, count: int) -> Rank:
        """The place q (count - 1), between its neighbours."""
        place = q * (count - 1)
        return cls(math.floor(place), math.ceil(place), place - math.floor(place))


class OfAxis(Op):
    """Base of the ops here: one axis, `q` of which is taken."""

    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    axis: int

    def along(self, rank: int) -> int:
        """The axis."""
        return known_axis(self.name, self.axis, rank)

    def one(self, shape: Shape | None) -> Shape | None:
        """The shape with a size of 1 along the axis, which must have elements."""
        if shape is None:
            return None
        axis = self.along(len(shape))
        if shape[axis] == 0:
            raise ShapeError(
                self.name,
                f"axis {axis} has no elements to choose from",
                received=str(shape),
                advice="Give at least one element",
            )
        return tuple(1 if n == axis else d for n, d in enumerate(shape))

    def at(self, x: Tensor, place: int) -> Tensor:
        """The slice at a place along the axis, which keeps a size of 1."""
        axis = self.along(len(x.type.static_shape))
        return x[(*[slice(None)] * axis, slice(place, place + 1))]

    def sorted_rows(self, x: Tensor, op: Op) -> Tensor:
        """What an op of rows makes of the lines along the axis, in place."""
        rank = len(x.type.static_shape)
        axis = self.along(rank)
        if axis == rank - 1:
            return apply(op, x)
        order = [*(n for n in range(rank) if n != axis), axis]
        back = [order.index(n) for n in range(rank)]
        return apply(op, x.transpose(order)).transpose(back)


def _mixed(low: Any, high: Any, weight: float) -> Any:
    return low * (1.0 - weight) + high * weight


@register
@frozen
class Quantile(OfAxis):
    q: float
    axis: int
    name: ClassVar[str] = "quantile"
    doc: ClassVar[str] = (
        "The value at rank q (n - 1) of the n ordered values along an axis, between neighbours by "
        "linear interpolation; NaN where one is NaN. The axis keeps a size of 1. As np.quantile."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        if not 0.0 <= self.q <= 1.0:
            raise AttributeValueError(
                self.name, "q must lie between 0 and 1", received=self.q, advice="Use 0.5 for half"
            )
        return TensorType(self.one(x.shape), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        def found(a: np.ndarray) -> np.ndarray:
            axis = self.along(a.ndim)
            rank = Rank.of(self.q, a.shape[axis])
            ordered = np.sort(a, axis=axis)
            low, high = (np.take(ordered, [n], axis) for n in (rank.low, rank.high))
            value = low if rank.weight == 0 else _mixed(low, high, rank.weight)
            broken = np.isnan(a).any(axis=axis, keepdims=True)
            return np.where(broken, np.nan, value).astype(a.dtype)

        return np.asarray(half_as_float32(found, [x]))

    def decompose(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        ordered = self.sorted_rows(x, SortRows(False))
        count = x.type.static_shape[self.along(len(x.type.static_shape))]
        rank = Rank.of(self.q, count)
        value = wide(self.at(ordered, rank.low))
        if rank.weight:
            value = _mixed(value, wide(self.at(ordered, rank.high)), rank.weight)
        last = wide(self.at(ordered, count - 1))
        return cast_to(last.not_equal(last).select(last, value), x.dtype)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(QuantileSpread(self.q, self.axis), gradients[0], inputs[0])]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        special = np.array([[1, np.inf, 2, 3], [np.nan, 1, 2, 3]], np.float32)
        return [
            sample(distinct(3, 5), q=0.5, axis=-1),
            sample(distinct(3, 4), q=0.5, axis=1),
            sample(distinct(6, 3), q=0.3, axis=0),
            sample(distinct(2, 4, 3), q=1.0, axis=-2),
            sample(real(2, 130), q=0.25, axis=1, grad=False),
            sample(real(2, 1), q=0.0, axis=1, grad=False),
            sample(special, q=0.5, axis=1, dtypes=(float32,), grad=False),
        ]


@register
@frozen
class QuantilePick(OfAxis):
    q: float
    axis: int
    name: ClassVar[str] = "quantile_pick"
    doc: ClassVar[str] = "Values of the first input where the second has its quantile, mixed alike."

    def infer(self, v: TensorType, x: TensorType) -> TensorType:
        check_dtype(self.name, v.dtype, self.dtypes)
        return TensorType(self.one(x.shape if v.shape is None else v.shape), v.dtype)

    def reference(self, v: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.asarray(half_as_float32(self._pick, [v, x]))

    def _pick(self, v: np.ndarray, x: np.ndarray) -> np.ndarray:
        axis = self.along(v.ndim)
        order = np.argsort(x, axis=axis, kind="stable")
        rank = Rank.of(self.q, v.shape[axis])
        low, high = (
            np.take_along_axis(v, np.take(order, [n], axis), axis) for n in (rank.low, rank.high)
        )
        return np.asarray(_mixed(low, high, rank.weight).astype(v.dtype))

    def decompose(self, *inputs: Tensor) -> Tensor:
        v, x = inputs
        axis = self.along(len(x.type.static_shape))
        order = self.sorted_rows(x, ArgsortRows(False))
        rank = Rank.of(self.q, x.type.static_shape[axis])
        low, high = (
            wide(gather_along_axis(v, self.at(order, n), axis)) for n in (rank.low, rank.high)
        )
        return cast_to(_mixed(low, high, rank.weight), v.dtype)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(QuantileSpread(self.q, self.axis), gradients[0], inputs[1]), None]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(3, 5), distinct(3, 5), q=0.5, axis=-1, grad=False),
            sample(real(4, 3), distinct(4, 3), q=0.4, axis=0, grad=False),
        ]


@register
@frozen
class QuantileSpread(OfAxis):
    q: float
    axis: int
    name: ClassVar[str] = "quantile_spread"
    doc: ClassVar[str] = (
        "Zeros in the shape of the second input, with the first where that has its quantile: the "
        "gradient of quantile."
    )

    def infer(self, g: TensorType, x: TensorType) -> TensorType:
        check_dtype(self.name, g.dtype, self.dtypes)
        self.one(x.shape)
        return TensorType(x.shape, g.dtype)

    def reference(self, g: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.asarray(half_as_float32(self._spread, [g, x]))

    def _spread(self, g: np.ndarray, x: np.ndarray) -> np.ndarray:
        axis = self.along(x.ndim)
        order = np.argsort(x, axis=axis, kind="stable")
        rank = Rank.of(self.q, x.shape[axis])
        found = np.zeros(x.shape, g.dtype)
        for place, share in ((rank.low, 1.0 - rank.weight), (rank.high, rank.weight)):
            at = np.take(order, [place], axis)
            now = np.take_along_axis(found, at, axis)
            np.put_along_axis(found, at, now + (g * share).astype(g.dtype), axis)
        return found

    def decompose(self, *inputs: Tensor) -> Tensor:
        g, x = inputs
        axis = self.along(len(x.type.static_shape))
        order = self.sorted_rows(x, ArgsortRows(False))
        rank = Rank.of(self.q, x.type.static_shape[axis])
        like = x if x.dtype is g.dtype else cast_to(x, g.dtype)
        low = self.at(order, rank.low)
        found = gather_gradient(g * (1.0 - rank.weight), low, like, axis, axis, "along")
        if rank.weight:
            high = self.at(order, rank.high)
            found = found + gather_gradient(g * rank.weight, high, like, axis, axis, "along")
        return found

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(QuantilePick(self.q, self.axis), gradients[0], inputs[1]), None]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(3, 1), distinct(3, 5), q=0.5, axis=-1, grad=False),
            sample(real(1, 3), distinct(4, 3), q=0.4, axis=0, grad=False),
        ]


@register
@frozen
class ModeRows(Op):
    name: ClassVar[str] = "mode_rows"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "The most frequent value of each row (the smallest of several) and how often it occurs."
    )
    grad = not_differentiable("which value is most frequent does not change with the values")

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        check_dtype(self.name, x.dtype, self.dtypes)
        if x.shape is None:
            return x, TensorType(None, int32)
        if not x.shape or x.shape[-1] == 0:
            raise ShapeError(
                self.name,
                "there is nothing to choose from",
                received=str(x),
                advice="Give an axis with at least one element",
            )
        shape = (*x.shape[:-1], 1)
        return TensorType(shape, x.dtype), TensorType(shape, int32)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = x.reshape(-1, x.shape[-1])
        values = np.empty((len(rows), 1), x.dtype)
        counts = np.empty((len(rows), 1), np.int32)
        for n, row in enumerate(rows):
            exact = row.astype(np.float32) if x.dtype.name in ("float16", "bfloat16") else row
            found, often = np.unique(exact, return_counts=True)
            values[n], counts[n] = found[often.argmax()], often.max()
        shape = (*x.shape[:-1], 1)
        return values.reshape(shape), counts.reshape(shape)

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (x,) = inputs
        values, counts = r.outputs
        n, kind = x.shape[-1], key_dtype(x.dtype)
        row = r.teams(x.elements // n)
        network = row_network(r, n, (kind,))

        def key(i: Expr) -> Tuple:
            return (to_key(r, ordered_zero(r, r.read(x, row * n + i)), descending=False),)

        fill_network(r, network, n, key, (last_key(kind),))
        ordered = r.local(kind, n)
        with r.spread(n) as i:
            r.write(ordered, i, network.get(i)[0])
        lengths = r.local(int32, n)

        def begins(i: Expr) -> Expr:
            same = r.read(ordered, i).eq(r.read(ordered, r.max(i - 1, 0)))
            return r.where(same, 0, r.cast(i, int32))

        def keep(i: Expr, before: Expr, after: Expr) -> None:
            r.write(lengths, i, r.cast(i, int32) - after + 1)

        r.scan("max", n, begins, keep, initial=ir.const(0, int32))
        often, end = r.arg_reduce("max", n, lambda i: r.read(lengths, i))
        r.write(counts, row, often)
        value = r.read(ordered, r.min(end, r.index(n - 1)))
        r.write(values, row, from_key(r, value, x.dtype, descending=False))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        some = np.array([[3, 1, 2, 1, 3, 0, 1, 2], [5, 4, 5, 4, 6, 6, 0, 1]], np.float64)
        same = np.full((2, 90), 3.0)
        return [
            sample(some, grad=False),
            sample(same, grad=False, dtypes=SOME),
            sample(real(3, 40), grad=False, dtypes=SOME),
            sample(real(2, 1), grad=False),
        ]


def _axis_of(asked: str, x: Any, axis: int | None) -> tuple[Tensor, int]:
    x = tensor_of(asked, x)
    if axis is None:
        return x.reshape((-1,)), 0
    return x, known_axis(asked, integer(asked, axis, "an axis"), x.type.rank)


def _without(asked: str, x: Tensor, found: Tensor, axis: int | None, keepdims: bool) -> Tensor:
    """A result whose axis has a size of 1, in the shape that was asked for."""
    if axis is not None:
        return found if keepdims else found.squeeze(axis)
    if not keepdims:
        return found.reshape(())
    if x.type.rank is None:
        raise ShapeError(
            asked,
            "the rank of the tensor must be known to keep the axes",
            received=str(x.type),
            advice="Give the placeholder a shape, with None for the unknown sizes",
        )
    return found.reshape((1,) * x.type.rank)


@function
def quantile(
    x: Any,
    q: float | Sequence[float],
    axis: int | None = None,
    keepdims: bool = False,
    *,
    name: str | None = None,
) -> Tensor:
    """The value below which a share `q` (0 to 1) of the values along `axis` lies.

    Without an axis, of all values. Between two values the result is interpolated; NaN among the
    values gives NaN. Several shares give a new leading axis. The gradient goes to the one or two
    values in question. Raises ShapeError when there are no values. As NumPy's quantile.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> y = nl.quantile(g.constant([1.0, 2.0, 3.0, 4.0]), 0.25)
        >>> g.run(targets=[y])[y].numpy().item()
        1.75
    """
    if isinstance(q, Sequence):
        parts = [quantile(x, share, axis, keepdims) for share in q]
        return stack(parts, axis=0, name=name)
    line, place = _axis_of("quantile", x, axis)
    found = apply(Quantile(float(q), place), line, name=name)
    return _without("quantile", tensor_of("quantile", x), found, axis, keepdims)


@function
def median(
    x: Any, axis: int | None = None, keepdims: bool = False, *, name: str | None = None
) -> Tensor:
    """The middle value along `axis` (None: of all values), or the mean of the middle two.

    NaN among the values gives NaN. The gradient goes to the middle values. Raises ShapeError when
    there are no values. As NumPy's median.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> y = nl.median(g.constant([4.0, 1.0, 2.0, 3.0]))
        >>> g.run(targets=[y])[y].numpy().item()
        2.5
    """
    return quantile(x, 0.5, axis, keepdims, name=name)


@function
def mode(
    x: Any,
    axis: int | None = None,
    keepdims: bool = False,
    *,
    dtype: Any = int32,
    name: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The most frequent value along `axis` (None: of all values), and how often it occurs.

    Of several the smallest; NaN equals NaN, and -0 equals 0. Counts are int32, or int64 by `dtype`.
    Raises ShapeError when there are no values. As SciPy's stats.mode.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> values, counts = nl.mode(g.constant([3, 1, 3, 2]))
        >>> found = g.run(targets=[values, counts])
        >>> found[values].numpy().item(), found[counts].numpy().item()
        (3, 2)
    """
    wanted = element_types.dtype(dtype)
    check_dtype("mode", wanted, (int32, int64))
    line, place = _axis_of("mode", x, axis)
    rank = line.type.rank
    if rank is None:
        raise ShapeError(
            "mode",
            "the rank of the tensor must be known",
            received=str(line.type),
            advice="Give the placeholder a shape, with None for the unknown sizes",
        )
    order = [*(n for n in range(rank) if n != place), place]
    back = [order.index(n) for n in range(rank)]
    turned = line if place == rank - 1 else line.transpose(order)
    outputs = line.graph.add(ModeRows(), [turned], name=name).outputs
    parts = [t if place == rank - 1 else t.transpose(back) for t in outputs]
    whole = tensor_of("mode", x)
    values, counts = (_without("mode", whole, t, axis, keepdims) for t in parts)
    return values, cast_to(counts, wanted)
