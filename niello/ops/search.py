"""Finding values: searchsorted, bucketize, histogram, bincount, isin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes as element_types
from niello.core.dtypes import FLOATS, INTEGERS, NUMBERS, DType, int32, int64
from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import merge_shapes, show
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    function,
    not_differentiable,
    plain_function,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import cast_to, check_dtype, operands
from niello.ops.movement import apply, integer, tensor_of
from niello.ops.scatter import scatter
from niello.ops.select import where


@register
@frozen
class SearchSorted(Op):
    right: bool
    dtype: DType
    name: ClassVar[str] = "searchsorted"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "For each value how many elements of a sorted vector (the last axis; leading axes are "
        "batches) are smaller or, to the right, not greater; NaN is the greatest. As NumPy."
    )
    grad = not_differentiable("positions do not vary continuously")

    def infer(self, line: TensorType, x: TensorType) -> TensorType:
        check_dtype(self.name, line.dtype, self.dtypes)
        if x.dtype is not line.dtype:
            raise DTypeError(
                self.name,
                "values and sorted elements have different types",
                received=f"{x.dtype.name} and {line.dtype.name}",
                advice="Cast one of them",
            )
        if line.shape is not None:
            if not line.shape:
                raise ShapeError(
                    self.name,
                    "needs a sorted vector",
                    received="[]",
                    advice="Give one axis or more",
                )
            if len(line.shape) > 1 and x.shape is not None:
                merge_shapes(line.shape[:-1], x.shape[:-1], self.name)
        return TensorType(x.shape, self.dtype)

    def reference(self, line: np.ndarray, x: np.ndarray) -> np.ndarray:
        side: Any = "right" if self.right else "left"
        if line.dtype.kind not in "iuf" or line.dtype.itemsize == 2:
            kind = np.float64 if line.dtype.kind not in "iu" else np.int64
            line, x = line.astype(kind), x.astype(kind)
        if line.ndim == 1:
            return np.asarray(np.searchsorted(line, x, side)).astype(self.dtype.numpy)
        out = np.zeros(x.shape, self.dtype.numpy)
        for batch in np.ndindex(*line.shape[:-1]):
            out[batch] = np.searchsorted(line[batch], x[batch], side)
        return out

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        line, x = inputs
        batch = index[: len(line.shape) - 1]
        size = line.shape[-1]
        value = x(*index)
        found: Expr = k.index(0)
        step = 1 << max(size, 1).bit_length() - 1
        # The largest count for which the element before it still belongs to the left.
        while step:
            tried = found + step
            fits = tried <= size

            def before(at: Expr = tried) -> Expr:
                element = line(*batch, at - 1)
                if self.right:
                    return k.not_(_less(k, value, element))
                return _less(k, element, value)

            taken = k.guarded(fits, before, False)
            found = k.where(taken, tried, found)
            step >>= 1
        return k.cast(found, self.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        line = np.array([-1.0, 0.0, 0.0, 1.0, 2.0])
        special = np.array([-np.inf, 0.0, np.inf, np.nan, np.nan])
        values = np.array([[-2.0, 0.0, 0.5], [2.0, 3.0, -1.0]])
        odd = np.array([np.nan, np.inf, -np.inf, 0.0])
        batch = np.sort(np.linspace(-2, 2, 14).reshape(2, 7), -1)

        def one(*inputs: Any, right: bool, dtype: DType = int32, **options: Any) -> Sample:
            return sample(*inputs, right=right, dtype=dtype, grad=False, **options)

        return [
            one(line, values, right=False),
            one(line, values, right=True, dtype=int64),
            one(special, odd, right=False),
            one(special, odd, right=True),
            one(batch, real(2, 3), right=True, dtypes=FLOATS),
            one(np.array([-1.0]), real(3), right=False, dtypes=FLOATS),
            one(np.zeros(0), real(3), right=False, dtypes=FLOATS),
            one(np.array([1, 1, 2, 5], np.uint8), np.array([0, 1, 9], np.uint8), right=True),
            one(np.array([-3, 1, 2], np.int64), np.array([1], np.int64), right=False),
        ]


def _less(k: Builder, a: Expr, b: Expr) -> Expr:
    """a < b, NaN being greater than everything else."""
    plain = a < b
    if not a.dtype.is_float:
        return plain
    return k.or_(plain, k.and_(b.ne(b), a.eq(a)))


@plain_function
def searchsorted(
    line: Any, values: Any, *, side: str = "left", dtype: Any = int32, name: str | None = None
) -> Tensor:
    """Where each value would be put into a sorted vector so that it stays sorted.

    "left" counts the elements that are smaller, "right" those that are not greater. `line` is
    sorted along its last axis; its leading axes are batches that `values` share. NaN counts as the
    greatest value. Raises AttributeValueError for another side. As NumPy's and PyTorch's
    searchsorted, by binary search.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.searchsorted(g.placeholder((100,)), g.placeholder((4, 5))).type
        int32[4, 5]
    """
    if side not in ("left", "right"):
        raise AttributeValueError(
            "searchsorted", "the side is 'left' or 'right'", received=repr(side)
        )
    sorted_, x = operands("searchsorted", line, values)
    kind = element_types.dtype(dtype)
    check_dtype("searchsorted", kind, (int32, int64))
    return apply(SearchSorted(side == "right", kind), sorted_, x, name=name)


@function
def bucketize(
    x: Tensor, boundaries: Any, *, right: bool = False, name: str | None = None
) -> Tensor:
    """The number of the bucket of each element: how many sorted boundaries lie below it.

    An element equal to a boundary is in the bucket that the boundary closes or, with `right`, in
    the next one. As PyTorch's bucketize.

    Example:
        >>> import niello as nl
        >>> nl.bucketize(nl.Graph().placeholder((4,)), [0.0, 1.0]).type
        int32[4]
    """
    side = "right" if right else "left"
    line = x.graph.as_tensor(boundaries)
    return searchsorted(cast_to(line, x.dtype), x, side=side, name=name)


@function
def bincount(x: Tensor, size: int, *, weights: Any = None, name: str | None = None) -> Tensor:
    """How often each integer from 0 to size - 1 occurs, or the sums of its weights.

    Integers outside are not counted. The result is int32[size], or has the type of the weights.
    Raises DTypeError for what is not integers. As NumPy's bincount with a known length.

    Example:
        >>> import niello as nl
        >>> nl.bincount(nl.Graph().placeholder((None,), nl.int32), 10).type
        int32[10]
    """
    check_dtype("bincount", tensor_of("bincount", x).dtype, INTEGERS)
    length = integer("bincount", size, "the size")
    if length < 0:
        raise AttributeValueError("bincount", "the size must not be negative", received=length)
    flat = x.reshape(-1)
    chosen = flat if x.dtype.kind == "uint" else where(flat < 0, length, flat)
    if weights is None:
        parts = x.graph.constant(1, int32).broadcast_like(flat)
    else:
        parts = x.graph.as_tensor(weights).reshape(-1)
    return scatter((length,), _in_range(chosen, length), parts, mode="add", name=name)


def _in_range(chosen: Tensor, length: int) -> Tensor:
    """Indices in a type that holds the length, which stands for "outside"."""
    return chosen if chosen.dtype.bits >= 32 else chosen.cast(int32)  # type: ignore[no-any-return]


@function
def histogram(
    x: Tensor,
    bins: Any = 10,
    range: tuple[float, float] | None = None,
    *,
    weights: Any = None,
    density: bool = False,
    name: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Counts of the elements in each bin, and the edges of the bins.

    `bins` is a number of equal bins over `range` (by default from the smallest to the largest
    element), or a tensor of sorted edges. Each bin takes its left edge, the last one its right edge
    too; elements outside and NaN are not counted. Counts are int32, sums of `weights` have their
    type; with `density` they are divided by their total and the width of the bin.

    Raises DTypeError for elements that are not floats. As NumPy's histogram.

    Example:
        >>> import niello as nl
        >>> counts, edges = nl.histogram(nl.Graph().placeholder((None,)), 4, (0.0, 1.0))
        >>> counts.type, edges.type
        (int32[4], float32[5])
    """
    check_dtype("histogram", tensor_of("histogram", x).dtype, FLOATS)
    flat = x.reshape(-1)
    edges = _edges(flat, bins, range)
    if edges.shape is None or edges.rank != 1 or edges.shape[0] is None or edges.shape[0] < 2:
        raise ShapeError(
            "histogram", "the edges must be a vector of known size", received=show(edges.shape),
            advice="Give two edges or more",
        )  # fmt: skip
    count = edges.shape[0] - 1
    place = searchsorted(edges, flat, side="right") - 1
    last = flat.equal(edges[-1])
    chosen = where(last, count - 1, where(place < 0, count, place))
    if weights is None:
        parts = x.graph.constant(1, int32).broadcast_like(flat)
    else:
        parts = x.graph.as_tensor(weights).reshape(-1)
    total = scatter((count,), chosen, parts, mode="add", name=None if density else name)
    if density:
        kind = x.dtype if total.dtype.is_integer else total.dtype
        widths = cast_to(edges[1:] - edges[:-1], kind)
        total = cast_to(total, kind)
        total = (total / total.sum()).divide(widths, name=name)
    return total, edges


def _edges(flat: Tensor, bins: Any, limits: tuple[float, float] | None) -> Tensor:
    """The edges of the bins, in the type of the elements."""
    graph = flat.graph
    if isinstance(bins, (Tensor, list, tuple, np.ndarray)):
        return cast_to(graph.as_tensor(bins), flat.dtype)
    count = integer("histogram", bins, "the number of bins")
    if count < 1:
        raise AttributeValueError("histogram", "there must be a bin", received=count)
    if limits is not None:
        if not limits[0] < limits[1]:
            raise AttributeValueError(
                "histogram", "the range must go from a smaller to a larger number", received=limits
            )
        line = np.linspace(limits[0], limits[1], count + 1)
        return graph.constant(line.astype(flat.dtype.numpy))
    low, high = flat.min(), flat.max()
    # As NumPy: a single value gets a bin of width 1 around it.
    single = low.equal(high)
    low, high = where(single, low - 0.5, low), where(single, high + 0.5, high)
    steps = graph.constant((np.arange(count + 1) / count).astype(flat.dtype.numpy))
    middle = low + (high - low) * steps
    ends = graph.constant(np.arange(count + 1) == count)
    return where(ends, high, middle)


_FEW = 32  # values that each element is compared with one by one


@function
def isin(x: Tensor, values: Any, *, invert: bool = False, name: str | None = None) -> Tensor:
    """True for each element that is one of the values. As NumPy's isin.

    `invert` says the opposite. NaN is in nothing. Both are compared in their common type.

    Example:
        >>> import niello as nl
        >>> nl.isin(nl.Graph().placeholder((4,), nl.int32), [1, 5]).type
        bool[4]
    """
    tensor_of("isin", x)
    given = x.graph.constant(np.asarray(values, x.dtype.numpy)) if isinstance(
        values, (list, tuple)
    ) else values  # fmt: skip
    a, b = operands("isin", x, given)
    line = b.reshape(-1)
    count = line.type.elements if line.type.is_static else None
    if count is not None and count <= _FEW:
        found = a.expand_dims(-1).equal(line).any(-1)
    else:
        from niello.graph.opdef import functions

        ordered = functions()["sort"](line)
        place = searchsorted(ordered, a)
        near = ordered.gather(place)
        found = near.equal(a) & (place < line.size())
    return found.logical_not(name=name) if invert else found.identity(name=name)  # type: ignore[no-any-return]
