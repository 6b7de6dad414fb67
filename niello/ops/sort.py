"""Sorting along an axis: sort, argsort.

Values are ordered as NumPy orders them: NaN comes last (first when descending), -0 and 0 are equal
for `argsort`, which is stable: equal values keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes as element_types
from niello.core.dtypes import ALL, DType, float16, float32, int32, int64, uint8, uint64
from niello.core.records import frozen
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
from niello.kernel.ir import Expr
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.define import cast_to, check_dtype
from niello.ops.gather import gather_gradient
from niello.ops.movement import apply, integer, known_axis, tensor_of
from niello.ops.sort_keys import (
    from_key,
    key_dtype,
    last_key,
    place_kinds,
    place_of,
    to_key,
    with_place,
)
from niello.ops.sort_network import (
    BitonicSort,
    Tuple,
    lanes_for,
    padded,
    sort_registers,
)

SHORT = 32  # rows up to this length are sorted in registers, many rows side by side
ROWS = 256  # of a team that does so
SOME = (uint8, float16, float32, int64, uint64)  # dtypes of samples that take long to compile


def sort_rows(
    r: RoutineBuilder,
    rows: int,
    length: int,
    kinds: Sequence[DType],
    read: Callable[[Expr, Expr], Tuple],
    last: Tuple,
    write: Callable[[Expr, Expr, Tuple], None],
    wanted: int,
) -> None:
    """Statements that sort rows: `read(row, i)` gives an element, `write(row, i, element)` takes
    those from 0 to `wanted` - 1 of the order; `last` comes after all others."""
    if rows * length == 0:
        return
    if length <= SHORT:
        _short_rows(r, rows, length, read, write, wanted)
        return
    row = r.teams(rows)
    network = row_network(r, length, kinds)
    fill_network(r, network, length, lambda i: read(row, i), last)
    with r.spread(wanted) as i:
        write(row, i, network.get(i))


def row_network(r: RoutineBuilder, length: int, kinds: Sequence[DType]) -> BitonicSort:
    """A network for rows of a length."""
    lanes = lanes_for(kinds)
    total = padded(length, lanes)
    r.members(min(256, max(32, total // 8)))
    return BitonicSort(r, total, lanes, kinds)


def fill_network(
    r: RoutineBuilder,
    network: BitonicSort,
    length: int,
    read: Callable[[Expr], Tuple],
    last: Tuple,
) -> None:
    """Sort the elements `read(0)` ... `read(length - 1)`."""
    if network.total == length:
        network.run(read)
        return
    with r.spread(length) as i:
        network.put(i, read(i))
    with r.spread(network.total - length) as i:
        network.put(i + length, last)
    network.run()


def _short_rows(
    r: RoutineBuilder,
    rows: int,
    length: int,
    read: Callable[[Expr, Expr], Tuple],
    write: Callable[[Expr, Expr, Tuple], None],
    wanted: int,
) -> None:
    team = r.teams(-(-rows // ROWS))
    with r.spread(r.min(r.index(ROWS), rows - team * ROWS)) as m:
        row = team * ROWS + m
        found = sort_registers(r, [read(row, r.index(i)) for i in range(length)])
        for i in range(wanted):
            write(row, r.index(i), found[i])


class Ordering(Op):
    """Base of ops that order rows or an axis. Rows are the last axis."""

    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    descending: bool

    def along(self, rank: int) -> int:
        """The axis that is ordered."""
        return known_axis(self.name, getattr(self, "axis", -1), rank)

    def check(self, x: TensorType) -> None:
        check_dtype(self.name, x.dtype, self.dtypes)
        if x.shape is not None:
            self.along(len(x.shape))

    def last_first(self, x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        """`of` the tensor with the axis moved behind the others, and that moved back."""
        rank = len(x.type.static_shape)
        axis = self.along(rank)
        if axis == rank - 1:
            return of(x)
        order = [*(n for n in range(rank) if n != axis), axis]
        back = [order.index(n) for n in range(rank)]
        return of(x.transpose(order)).transpose(back)


def order_of(x: np.ndarray, axis: int, descending: bool) -> np.ndarray:
    """NumPy: the stable order of elements along an axis, NaN last (descending: first)."""
    wide = x.astype(np.float32) if x.dtype.name in ("float16", "bfloat16") else x
    if not descending:
        return np.argsort(wide, axis=axis, kind="stable")
    # The stable order of the reversed array, reversed, is descending and stable.
    turned = np.flip(np.argsort(np.flip(wide, axis), axis=axis, kind="stable"), axis)
    return wide.shape[axis] - 1 - turned


def sort_samples() -> list[Sample]:
    """Samples of ops with `descending`."""
    ties = np.array([[3, 1, 2, 1, 3, 0, 1, 2], [5, 5, 5, 5, 5, 5, 5, 5]], np.float64)
    special = np.array([[1, np.nan, -np.inf, np.inf, -1, 0, np.nan, 2]], np.float32)
    return [
        sample(distinct(3, 7), descending=False),
        sample(distinct(2, 3, 9), descending=True),
        sample(real(3, 40), descending=True, grad=False, dtypes=SOME),
        sample(real(2, 128), descending=False, grad=False, dtypes=SOME),
        sample(real(2, 300), descending=False, grad=False, dtypes=SOME),
        sample(ties, descending=True, grad=False),
        sample(ties, descending=False, grad=False),
        sample(special, descending=False, dtypes=(float32,), grad=False),
        sample(special, descending=True, dtypes=(float32,), grad=False),
        sample(real(3, 1), descending=False, grad=False),
        sample(real(2, 0), descending=False, grad=False),
    ]


class Sorting(Ordering):
    """Base of the ops that give values in order."""

    def infer(self, x: TensorType) -> TensorType:
        self.check(x)
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        axis = self.along(x.ndim)
        return np.take_along_axis(x, order_of(x, axis, self.descending), axis)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (x,), g = inputs, gradients[0]
        axis = getattr(self, "axis", -1)
        if x.type.rank is not None:
            axis = self.along(x.type.rank)
        index = apply(Argsort(axis, self.descending), x)
        return [gather_gradient(g, index, x, axis, axis, "along")]


@register
@frozen
class SortRows(Sorting):
    descending: bool
    name: ClassVar[str] = "sort_rows"
    doc: ClassVar[str] = "The elements of each row (the last axis) in order; NaN as the largest."

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (x,) = inputs
        (y,) = r.outputs
        n = x.shape[-1]
        kind = key_dtype(x.dtype)

        def read(row: Expr, i: Expr) -> Tuple:
            return (to_key(r, r.read(x, row * n + i), descending=self.descending),)

        def write(row: Expr, i: Expr, element: Tuple) -> None:
            value = from_key(r, element[0], x.dtype, descending=self.descending)
            r.write(y, row * n + i, value)

        rows = x.elements // max(1, n)
        sort_rows(r, rows, n, (kind,), read, (last_key(kind),), write, n)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return sort_samples()


@register
@frozen
class Sort(Sorting):
    axis: int
    descending: bool
    name: ClassVar[str] = "sort"
    doc: ClassVar[str] = "The elements along an axis in order; NaN as the largest. As np.sort."

    def decompose(self, *inputs: Tensor) -> Tensor:
        return self.last_first(inputs[0], lambda x: apply(SortRows(self.descending), x))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(distinct(3, 7), axis=-1, descending=True),
            sample(real(2, 0), axis=1, descending=False, grad=False),
            sample(distinct(5, 3), axis=0, descending=False),
            sample(distinct(2, 4, 3), axis=-2, descending=True),
        ]


class Argsorting(Ordering):
    """Base of the ops that give positions in the order of values."""

    grad = not_differentiable("its results are positions")

    def infer(self, x: TensorType) -> TensorType:
        self.check(x)
        return TensorType(x.shape, int32)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return order_of(x, self.along(x.ndim), self.descending).astype(np.int32)


@register
@frozen
class ArgsortRows(Argsorting):
    descending: bool
    name: ClassVar[str] = "argsort_rows"
    doc: ClassVar[str] = "Positions of the elements of each row in their order; stable."

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (x,) = inputs
        (y,) = r.outputs
        n = x.shape[-1]
        kind = key_dtype(x.dtype)

        def read(row: Expr, i: Expr) -> Tuple:
            value = ordered_zero(r, r.read(x, row * n + i))
            return with_place(r, to_key(r, value, descending=self.descending), i)

        def write(row: Expr, i: Expr, element: Tuple) -> None:
            r.write(y, row * n + i, place_of(r, element))

        last = with_place(r, last_key(kind), r.index(2**31 - 1))
        rows = x.elements // max(1, n)
        sort_rows(r, rows, n, place_kinds(x.dtype), read, last, write, n)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return sort_samples()


def ordered_zero(r: RoutineBuilder, x: Expr) -> Expr:
    """The value, with -0 as 0: equal values must have equal keys where order is stable."""
    return r.where(x.eq(0.0), 0.0, x) if x.dtype.is_float else x


@register
@frozen
class Argsort(Argsorting):
    axis: int
    descending: bool
    name: ClassVar[str] = "argsort"
    doc: ClassVar[str] = "Positions of the elements along an axis in their order; stable."

    def decompose(self, *inputs: Tensor) -> Tensor:
        return self.last_first(inputs[0], lambda x: apply(ArgsortRows(self.descending), x))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(distinct(3, 7), axis=-1, descending=True),
            sample(real(2, 0), axis=1, descending=False, grad=False),
            sample(distinct(5, 3), axis=0, descending=False),
            sample(distinct(2, 4, 3), axis=-2, descending=True),
        ]


def flat_if_none(asked: str, x: Any, axis: int | None) -> tuple[Tensor, int]:
    """The tensor and axis that are meant; without an axis, the flat tensor."""
    x = tensor_of(asked, x)
    if axis is None:
        return x.reshape((-1,)), 0
    return x, known_axis(asked, integer(asked, axis, "an axis"), x.type.rank)


@function
def sort(
    x: Any, axis: int | None = -1, *, descending: bool = False, name: str | None = None
) -> Tensor:
    """The elements of `x` in order along `axis` (None: of the flat tensor), of every dtype.

    NaN counts as larger than everything. The gradient goes to where each value came from. As
    NumPy's sort.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> y = nl.sort(g.constant([3.0, 1.0, 2.0]))
        >>> g.run(targets=[y])[y].numpy().tolist()
        [1.0, 2.0, 3.0]
    """
    x, axis = flat_if_none("sort", x, axis)
    return apply(Sort(axis, bool(descending)), x, name=name)


@function
def argsort(
    x: Any,
    axis: int | None = -1,
    *,
    descending: bool = False,
    dtype: Any = int32,
    name: str | None = None,
) -> Tensor:
    """Positions of the elements of `x` along `axis` (None: in the flat tensor) in their order.

    Equal elements keep their order, also when descending; NaN counts as larger than everything.
    The result is int32, or int64 by `dtype`. As NumPy's argsort(kind="stable").

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> y = nl.argsort(g.constant([3.0, 1.0, 2.0]), descending=True)
        >>> g.run(targets=[y])[y].numpy().tolist()
        [0, 2, 1]
    """
    x, axis = flat_if_none("argsort", x, axis)
    wanted = element_types.dtype(dtype)
    check_dtype("argsort", wanted, (int32, int64))
    found = apply(Argsort(axis, bool(descending)), x, name=name)
    return cast_to(found, wanted)
