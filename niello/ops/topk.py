"""The largest and smallest elements along an axis: top_k, bottom_k.

Rows that are long for k are not sorted. Groups of elements that lie side by side each give their
best one; the k-th best of these is a bound that at least k elements reach. Those that do, usually
few more than k, are put together and sorted; when they are many, a closer bound is searched first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes as element_types
from niello.core.dtypes import ALL, DType, float32, int32, int64
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    distinct,
    function,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.ir import Expr
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.define import cast_to, check_dtype
from niello.ops.gather import Gather, gather_gradient
from niello.ops.movement import apply, integer, known_axis, tensor_of
from niello.ops.sort import SOME, order_of, ordered_zero, row_network, sort_rows
from niello.ops.sort_keys import (
    from_key,
    key_dtype,
    key_of,
    last_key,
    place_kinds,
    place_of,
    to_key,
    with_place,
)
from niello.ops.sort_network import BitonicSort, Tuple

LEAST_GROUPS = 64
MOST_PACKED = 1 << 14  # elements of a row whose two counts share an int32
PART = 8192  # elements of a part of a long row, at least
ENOUGH_ROWS = 512  # rows, or parts of them, that keep a device busy
WORTH_CHOOSING = 4  # times as many elements as groups: shorter rows are sorted


class Choosing(Op):
    """Base of top_k of rows and of an axis: values and positions, the best first."""

    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    k: int
    largest: bool

    def along(self, rank: int) -> int:
        """The axis that is chosen from."""
        return known_axis(self.name, getattr(self, "axis", -1), rank)

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        check_dtype(self.name, x.dtype, self.dtypes)
        if self.k < 0:
            raise AttributeValueError(
                self.name, "k must not be negative", received=self.k, advice="Use 0 or more"
            )
        if x.shape is None:
            return x, TensorType(None, int32)
        axis = self.along(len(x.shape))
        size = x.shape[axis]
        if size is not None and size < self.k:
            raise ShapeError(
                self.name,
                f"there are fewer than k = {self.k} elements along axis {axis}",
                received=str(x),
                advice=f"Use a k of at most {size}",
            )
        shape = (*x.shape[:axis], self.k, *x.shape[axis + 1 :])
        return TensorType(shape, x.dtype), TensorType(shape, int32)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        axis = self.along(x.ndim)
        order = np.take(order_of(x, axis, self.largest), range(self.k), axis)
        return np.take_along_axis(x, order, axis), order.astype(np.int32)

    def grad(
        self,
        gradients: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> Sequence[Tensor | None]:
        (x,), g = inputs, gradients[0]
        if g is None:
            return [None]
        axis = getattr(self, "axis", -1)
        if x.type.rank is not None:
            axis = self.along(x.type.rank)
        return [gather_gradient(g, outputs[1], x, axis, axis, "along")]


def choice_samples() -> list[Sample]:
    """Samples of ops with `k` and `largest`."""
    ties = np.array([[3, 1, 2, 1, 3, 0, 1, 2], [5, 5, 5, 5, 5, 5, 5, 5]], np.float64)
    special = np.array([[1, np.nan, -np.inf, np.inf, -1, 0, np.nan, 2]], np.float32)
    same = np.ones((2, 400), np.float32)
    return [
        sample(distinct(3, 7), k=2, largest=True),
        sample(distinct(2, 3, 9), k=4, largest=False),
        sample(distinct(2, 5), k=5, largest=True),
        sample(real(2, 70), k=3, largest=False, grad=False, dtypes=SOME),
        sample(real(2, 400), k=5, largest=True, grad=False, dtypes=SOME),
        sample(real(2, 300), k=100, largest=False, grad=False, dtypes=SOME),
        sample(ties, k=4, largest=True, grad=False),
        sample(same, k=3, largest=True, dtypes=(float32,), grad=False),
        sample(special, k=3, largest=True, dtypes=(float32,), grad=False),
        sample(special, k=7, largest=False, dtypes=(float32,), grad=False),
        sample(real(2, 3), k=0, largest=False, grad=False),
    ]


class ChoosingRows(Choosing):
    """Base of what chooses from each row, or from each of its parts, by a routine."""

    parts: int = 1

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (x,) = inputs
        n = x.shape[-1] // self.parts
        rows = x.elements // max(1, n)
        if self.k * rows == 0:
            return
        groups = max(LEAST_GROUPS, 1 << (2 * self.k - 1).bit_length())
        if n >= WORTH_CHOOSING * groups:
            self._choose(r, x, rows, n, groups)
            return
        last = with_place(r, last_key(key_dtype(x.dtype)), r.index(2**31 - 1))

        def read(row: Expr, i: Expr) -> Tuple:
            return with_place(r, self._key(r, x, row * n + i), i)

        def write(row: Expr, i: Expr, element: Tuple) -> None:
            self._write(r, row, i, element, x)

        sort_rows(r, rows, n, place_kinds(x.dtype), read, last, write, self.k)

    def _key(self, r: RoutineBuilder, x: Place, at: Expr) -> Expr:
        return to_key(r, ordered_zero(r, r.read(x, at)), descending=self.largest)

    def _write(self, r: RoutineBuilder, row: Expr, i: Expr, element: Tuple, x: Place) -> None:
        values, places = r.outputs
        key = key_of(r, element)
        at = row * self.k + i
        place = place_of(r, element)
        if self.parts > 1:
            place = place + r.cast(row % self.parts * (x.shape[-1] // self.parts), int32)
        r.write(values, at, from_key(r, key, x.dtype, descending=self.largest))
        r.write(places, at, place)

    def _choose(self, r: RoutineBuilder, x: Place, rows: int, n: int, groups: int) -> None:
        kind = key_dtype(x.dtype)
        kinds = place_kinds(x.dtype)
        row = r.teams(rows)
        start = row * n
        last = with_place(r, last_key(kind), r.index(2**31 - 1))
        first = self._bound(r, x, start, n, groups)
        few = row_network(r, groups, kinds)
        r.members(min(256, groups))
        with r.spread(few.total) as i:
            few.put(i, last)

        def keep(i: Expr, before: Expr, after: Expr) -> None:
            with r.when(before < after), r.when(before < few.total):
                element = with_place(r, self._key(r, x, start + i), i)
                few.put(r.cast(r.min(before, few.total - 1), int64), element)

        found = r.scan("add", n, lambda i: self._reaches(r, x, start + i, first), keep)
        with r.when(found > few.total):
            closer = self._closer(r, x, start, n, first, few.total - self.k)
            with r.spread(few.total) as i:
                few.put(i, last)
            self._keep_better(r, x, start, n, closer, few)
        few.run()
        with r.spread(self.k) as i:
            self._write(r, row, i, few.get(i), x)

    def _keep_better(
        self, r: RoutineBuilder, x: Place, start: Expr, n: int, bound: Expr, few: BitonicSort
    ) -> None:
        """Give the network what is better than a bound, and the first k elements that equal it.
        One sum counts these in its upper half, and the better ones in its lower half."""
        wide = int64 if n > MOST_PACKED else int32
        half = wide.bits // 2
        mask = (1 << half) - 1

        def counted(i: Expr) -> Expr:
            key = self._key(r, x, start + i)
            equal = r.where(key.eq(bound), 1 << half, r.const(0, wide))
            return r.where(key < bound, 1, equal)

        def keep(i: Expr, before: Expr, after: Expr) -> None:
            found, equal = before & mask, before >> half
            better = (after & mask) > found
            at = r.where(better, found, few.total - 1 - equal)
            with r.when(before.ne(after)), r.when(better | (equal < self.k)):
                element = with_place(r, self._key(r, x, start + i), i)
                few.put(r.cast(r.min(r.max(at, 0), few.total - 1), int64), element)

        r.scan("add", n, counted, keep)

    def _bound(self, r: RoutineBuilder, x: Place, start: Expr, n: int, groups: int) -> Expr:
        """The k-th best of the groups' best keys."""
        kind = key_dtype(x.dtype)
        network = row_network(r, groups, (kind,))
        with r.spread(groups) as m:
            best = r.variable(kind, last_key(kind))
            with r.loop(0, n // groups) as i:
                best.set(r.min(best.get(), self._key(r, x, start + i * groups + m)))
            rest = n // groups * groups
            with r.when(m < n - rest):
                best.set(r.min(best.get(), self._key(r, x, start + rest + m)))
            network.put(m, (best.get(),))
        network.run()
        # One read for the whole team.
        held = r.local(kind, 1)
        with r.spread(1) as m:
            r.write(held, m, network.get(m + self.k - 1)[0])
        return r.read(held, 0)

    def _closer(
        self, r: RoutineBuilder, x: Place, start: Expr, n: int, high: Expr, most: int
    ) -> Expr:
        """A bound that at least k elements reach, of which at most `most` are better: halving what
        lies between two keys."""
        kind = high.dtype
        low, top = r.variable(kind, kind.min), r.variable(kind, high)
        with r.repeat(lambda: low.get() < top.get()):
            a, b = low.get(), top.get()
            middle = (a & b) + ((a ^ b) >> 1)
            reach = r.reduce("add", n, lambda i: self._reaches(r, x, start + i, middle))
            with r.when(reach < self.k):
                low.set(middle + 1)
            with r.otherwise():
                top.set(middle)
                with r.when(reach <= most):
                    low.set(middle)
        return top.get()

    def _reaches(self, r: RoutineBuilder, x: Place, at: Expr, bound: Expr) -> Expr:
        return r.where(self._key(r, x, at) <= bound, 1, r.const(0, int32))


@register
@frozen
class TopKRows(ChoosingRows):
    k: int
    largest: bool
    name: ClassVar[str] = "top_k_rows"
    doc: ClassVar[str] = "The k largest or smallest elements of each row, with their positions."

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return choice_samples()


@register
@frozen
class TopKParts(ChoosingRows):
    k: int
    largest: bool
    parts: int
    name: ClassVar[str] = "top_k_parts"
    doc: ClassVar[str] = (
        "The k largest or smallest elements of each of the equal parts of each row, one part after "
        "the other, with their positions in the row."
    )

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        check_dtype(self.name, x.dtype, self.dtypes)
        if x.shape is None:
            return x, TensorType(None, int32)
        known_axis(self.name, -1, len(x.shape))
        *lead, n = x.shape
        if self.parts < 1 or (n is not None and (n % self.parts or self.k * self.parts > n)):
            raise ShapeError(
                self.name,
                f"{self.parts} equal parts with {self.k} elements each are not in a row",
                received=str(x),
                advice="Let the parts divide the rows",
            )
        shape = (*lead, self.parts * self.k)
        return TensorType(shape, x.dtype), TensorType(shape, int32)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = x.shape[-1] // self.parts
        divided = x.reshape(*x.shape[:-1], self.parts, size)
        order = order_of(divided, -1, self.largest)[..., : self.k]
        order = order + np.arange(self.parts)[:, None] * size
        order = order.reshape(*x.shape[:-1], self.parts * self.k)
        return np.take_along_axis(x, order, -1), order.astype(np.int32)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        ties = np.array([[3, 1, 2, 1, 3, 0, 1, 2], [5, 5, 5, 5, 5, 5, 5, 5]], np.float64)
        return [
            sample(distinct(3, 8), k=2, largest=True, parts=2),
            sample(ties, k=2, largest=False, parts=4, grad=False),
            sample(real(2, 800), k=5, largest=True, parts=2, grad=False, dtypes=SOME),
        ]


@register
@frozen
class TopK(Choosing):
    k: int
    axis: int
    largest: bool
    name: ClassVar[str] = "top_k"
    doc: ClassVar[str] = (
        "The k largest (or smallest) elements along an axis, the best first, with their positions; "
        "of equal ones the first. As torch.topk."
    )

    def decompose(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        (x,) = inputs
        rank = len(x.type.static_shape)
        axis = self.along(rank)
        if axis == rank - 1:
            return self._of_rows(x)
        order = [*(n for n in range(rank) if n != axis), axis]
        back = [order.index(n) for n in range(rank)]
        found = self._of_rows(x.transpose(order))
        return tuple(t.transpose(back) for t in found)

    def _of_rows(self, x: Tensor) -> tuple[Tensor, ...]:
        """The best of the last axis; few long rows in parts, then the best of what those have."""
        op = TopKRows(self.k, self.largest)
        *lead, n = x.type.static_shape
        parts = _parts(math.prod(lead), n, self.k)
        if parts == 1:
            return x.graph.add(op, [x]).outputs
        values, places = x.graph.add(TopKParts(self.k, self.largest, parts), [x]).outputs
        best, at = x.graph.add(op, [values]).outputs
        axis = len(lead)
        return best, apply(Gather(axis, axis, "along"), places, at)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(distinct(3, 7), k=2, axis=-1, largest=True),
            sample(real(2, 0), k=0, axis=1, largest=True, grad=False),
            sample(distinct(5, 3), k=2, axis=0, largest=True),
            sample(distinct(2, 4, 3), k=3, axis=-2, largest=False),
        ]


def _parts(rows: int, n: int, k: int) -> int:
    """Into how many parts rows are divided: 1 where there are enough of them, or they are short."""
    least = max(PART, WORTH_CHOOSING * max(LEAST_GROUPS, 4 * k))
    if k == 0 or rows == 0:
        return 1
    fitting = (p for p in range(n // least, 1, -1) if n % p == 0 and rows * p <= ENOUGH_ROWS)
    return next(fitting, 1)


def _choose(
    asked: str, x: Any, k: int, axis: int, largest: bool, name: str | None
) -> tuple[Tensor, Tensor]:
    x = tensor_of(asked, x)
    place = known_axis(asked, integer(asked, axis, "an axis"), x.type.rank)
    op = TopK(integer(asked, k, "k"), place, largest)
    values, positions = x.graph.add(op, [x], name=name).outputs
    return values, positions


@function
def top_k(
    x: Any,
    k: int,
    axis: int = -1,
    *,
    largest: bool = True,
    dtype: Any = int32,
    name: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The `k` largest elements along `axis`, the largest first, and their positions.

    Any k up to the size of the axis, any axis, every dtype. Of equal elements the first comes
    first; NaN counts as larger than everything. With `largest` false the smallest. Positions are
    int32, or int64 by `dtype`. The gradient of the values goes to where they came from. Raises
    ShapeError when there are fewer than k. As PyTorch's topk.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> values, positions = nl.top_k(g.constant([3.0, 1.0, 4.0, 2.0]), 2)
        >>> found = g.run(targets=[values, positions])
        >>> found[values].numpy().tolist(), found[positions].numpy().tolist()
        ([4.0, 3.0], [2, 0])
    """
    values, positions = _choose("top_k", x, k, axis, bool(largest), name)
    check_dtype("top_k", _wanted(dtype), (int32, int64))
    return values, cast_to(positions, _wanted(dtype))


@function
def bottom_k(
    x: Any, k: int, axis: int = -1, *, dtype: Any = int32, name: str | None = None
) -> tuple[Tensor, Tensor]:
    """The `k` smallest elements along `axis`, the smallest first, and their positions.

    As `top_k` otherwise; NaN counts as larger than everything.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> values, positions = nl.bottom_k(g.constant([3.0, 1.0, 4.0, 2.0]), 2)
        >>> g.run(targets=[values])[values].numpy().tolist()
        [1.0, 2.0]
    """
    values, positions = _choose("bottom_k", x, k, axis, False, name)
    check_dtype("bottom_k", _wanted(dtype), (int32, int64))
    return values, cast_to(positions, _wanted(dtype))


def _wanted(dtype: Any) -> DType:
    return element_types.dtype(dtype)
