"""Elements chosen by index tensors: gather, its gradient, one_hot; and the subscript x[...].

Along a gathered axis of size n an index i from 0 to n - 1 is position i, from -n to -1 position
n + i (as in NumPy); any other index gives zeros, and contributes no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes as element_types
from niello.core.dtypes import (
    ALL,
    INTEGERS,
    NUMBERS,
    DType,
    bool_,
    compute_dtype,
    float32,
    int64,
)
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.shapes import Shape, merge_shapes, normalise_axis, show
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    function,
    indices,
    not_differentiable,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, ScatterSpec, Value
from niello.kernel.ir import Expr
from niello.ops.define import as_operand, check_dtype, half_as_float32
from niello.ops.movement import apply, integer, known_axis, require_rank, tensor_of


def _normalised(k: Builder, raw: Expr, size: int) -> Expr:
    """An index element as int64, negative ones counted from the end."""
    i = k.cast(raw, int64)
    return i if raw.dtype.kind == "uint" else k.where(i < 0, i + size, i)


def _positions(index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """NumPy: positions, with 0 where the index is outside, and whether it is inside."""
    i = index.astype(np.int64)
    i = np.where(i < 0, i + size, i)
    inside = (i >= 0) & (i < size)
    return np.where(inside, i, 0), inside


@dataclass(frozen=True)
class _Layout:
    """How the axes of data, indices and result line up.

    data:    batch, before, n, after
    indices: batch, chosen
    result:  batch, before, chosen, after
    """

    axis: int
    batch: int

    def split(self, result: Index, chosen: int) -> tuple[Index, Index, Index]:
        """The parts of a result's index: batch and before; chosen; after."""
        return (
            result[: self.axis],
            result[self.axis : self.axis + chosen],
            result[self.axis + chosen :],
        )


class Gathering(Op):
    """Base of gather and its gradient."""

    traits: ClassVar[Trait] = Trait.NONE
    axis: int
    batch_dims: int

    def layout(self, rank: int) -> _Layout:
        """The layout for data of a rank."""
        axis = known_axis(self.name, self.axis, rank)
        if not 0 <= self.batch_dims <= axis:
            raise ShapeError(
                self.name,
                "batch axes must come before the gathered axis",
                received=f"batch_dims {self.batch_dims}, axis {axis}",
                advice="Use batch_dims from 0 to axis",
            )
        return _Layout(axis, self.batch_dims)

    def check_indices(self, data: Shape | None, index: TensorType) -> None:
        """Refuse indices of a wrong type, or whose batch axes differ from the data's."""
        check_dtype(self.name, index.dtype, INTEGERS)
        if index.shape is None:
            return
        if len(index.shape) < self.batch_dims:
            raise ShapeError(
                self.name,
                "the indices lack batch axes",
                received=show(index.shape),
                advice=f"They need rank {self.batch_dims} or more",
            )
        if data is not None:
            merge_shapes(data[: self.batch_dims], index.shape[: self.batch_dims], self.name)


@register
@dataclass(frozen=True)
class Gather(Gathering):
    axis: int
    batch_dims: int
    name: ClassVar[str] = "gather"
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "Slices of the first input along an axis, chosen by the second; negative indices count "
        "from the end, others outside give zeros. As ONNX Gather, with TensorFlow's batch_dims."
    )

    def infer(self, x: TensorType, index: TensorType) -> TensorType:
        if x.shape is None:
            self.check_indices(None, index)
            return x
        layout = self.layout(len(x.shape))
        self.check_indices(x.shape, index)
        if index.shape is None:
            return TensorType(None, x.dtype)
        chosen = index.shape[self.batch_dims :]
        return TensorType((*x.shape[: layout.axis], *chosen, *x.shape[layout.axis + 1 :]), x.dtype)

    def reference(self, x: np.ndarray, index: np.ndarray) -> np.ndarray:
        axis = self.layout(x.ndim).axis
        b, size = self.batch_dims, x.shape[axis]
        shape = self.infer(TensorType(x.shape, x.dtype), TensorType(index.shape, index.dtype))
        out = np.zeros(shape.static_shape, x.dtype)
        if size == 0:
            return out
        for batch in np.ndindex(*index.shape[:b]):
            place, inside = _positions(index[batch], size)
            taken = np.take(x[batch], place, axis=axis - b)
            mask = np.reshape(inside, (*np.shape(inside), *[1] * (x.ndim - axis - 1)))
            out[batch] = np.where(mask, taken, np.zeros_like(taken))
        return out

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        x, index = inputs
        return [gather_gradient(gradients[0], index, x, self.axis, self.batch_dims), None]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x, chosen = inputs
        layout = self.layout(len(x.shape))
        before, where, after = layout.split(index, len(chosen.shape) - layout.batch)
        size = x.shape[layout.axis]
        i = _normalised(k, chosen(*index[: layout.batch], *where), size)
        inside = k.all_of(i >= 0, i < size)
        return k.guarded(inside, lambda: x(*before, i, *after), 0)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        outside = np.array([[0, 5], [-1, -6], [-5, 4]], np.int32)
        return [
            sample(real(5, 3), indices(4, high=5), axis=0, batch_dims=0),
            sample(real(2, 5, 3), indices(2, 2, high=5), axis=1, batch_dims=0),
            sample(real(2, 5, 3), indices(2, 4, high=5), axis=1, batch_dims=1),
            sample(real(2, 3, 5), indices(2, 4, high=5), axis=-1, batch_dims=1),
            sample(real(5, 2), outside, axis=0, batch_dims=0),
            sample(real(5), outside.astype(np.int64), axis=0, batch_dims=0),
            sample(real(5, 2), indices(high=5), axis=0, batch_dims=0),
            sample(real(5, 2), indices(0, high=5), axis=0, batch_dims=0),
            sample(real(0, 2), indices(3, high=5), axis=0, batch_dims=0),
            sample(real(5, 2), np.array([4, 0, 200], np.uint8), axis=0, batch_dims=0),
        ]


@register
@dataclass(frozen=True)
class GatherSum(Gathering):
    """The gradient of gather: slices added where they were taken from."""

    axis: int
    batch_dims: int
    size: int
    name: ClassVar[str] = "gather_sum"
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "Zeros, `size` along an axis, to which the slices of the first input are added at the "
        "indices of the second: the gradient of gather."
    )

    def infer(self, dy: TensorType, index: TensorType) -> TensorType:
        check_dtype(self.name, dy.dtype, self.dtypes)
        self.check_indices(dy.shape, index)
        if dy.shape is None or index.shape is None:
            return TensorType(None, dy.dtype)
        layout, chosen = self._parts(len(dy.shape), len(index.shape))
        merge_shapes(
            dy.shape[layout.axis : layout.axis + chosen], index.shape[layout.batch :], self.name
        )
        shape = (*dy.shape[: layout.axis], self.size, *dy.shape[layout.axis + chosen :])
        return TensorType(shape, dy.dtype)

    def _parts(self, rank: int, index_rank: int) -> tuple[_Layout, int]:
        chosen = index_rank - self.batch_dims
        return self.layout(rank - chosen + 1), chosen

    def reference(self, dy: np.ndarray, index: np.ndarray) -> np.ndarray:
        layout, chosen = self._parts(dy.ndim, index.ndim)
        axis, b = layout.axis, layout.batch

        def total(dy: np.ndarray) -> np.ndarray:
            shape = (*dy.shape[:axis], self.size, *dy.shape[axis + chosen :])
            out = np.zeros(shape, dy.dtype)
            for batch in np.ndindex(*index.shape[:b]):
                place, inside = _positions(index[batch], self.size)
                source = np.moveaxis(dy[batch], range(axis - b, axis - b + chosen), range(chosen))
                part = np.moveaxis(out[batch], axis - b, 0)
                np.add.at(part, place[inside], source[inside])
            return out

        return np.asarray(half_as_float32(total, [dy]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(Gather(self.axis, self.batch_dims), gradients[0], inputs[1]), None]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        dy, places = inputs
        layout, _ = self._parts(len(dy.shape), len(places.shape))
        batch = index[: layout.batch]
        before, after = index[: layout.axis], index[layout.axis + 1 :]

        def term(*chosen: Expr) -> Expr:
            here = _normalised(k, places(*batch, *chosen), self.size).eq(index[layout.axis])
            return k.where(here, dy(*before, *chosen, *after), 0)

        return k.reduce("add", places.shape[layout.batch :], term)

    def scatter(self, k: Builder, *inputs: Value) -> ScatterSpec:
        """The same as one addition for each element of the first input."""
        dy, places = inputs
        layout, chosen = self._parts(len(dy.shape), len(places.shape))

        def position(*point: Expr) -> Expr:
            _, where, _ = layout.split(point, chosen)
            return _normalised(k, places(*point[: layout.batch], *where), self.size)

        def target(*point: Expr) -> Index:
            before, _, after = layout.split(point, chosen)
            return (*before, position(*point), *after)

        def inside(*point: Expr) -> Expr:
            i = position(*point)
            return k.all_of(i >= 0, i < self.size)

        return ScatterSpec(dy.shape, target, inside, dy)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        outside = np.array([[0, 5], [-1, -6], [-5, 4]], np.int32)
        same = np.zeros(4, np.int32)
        return [
            sample(real(4, 3), indices(4, high=5), axis=0, batch_dims=0, size=5),
            sample(real(4, 3), same, axis=0, batch_dims=0, size=2),
            sample(real(2, 4, 3), indices(2, 4, high=5), axis=1, batch_dims=1, size=5),
            sample(real(2, 3, 4), indices(4, high=5), axis=-1, batch_dims=0, size=5),
            sample(real(3, 2, 2), outside, axis=0, batch_dims=0, size=5),
            sample(real(2), indices(high=5), axis=0, batch_dims=0, size=5),
            sample(real(0, 2), indices(0, high=5), axis=0, batch_dims=0, size=5),
        ]


@register
@dataclass(frozen=True)
class GatherGradient(Gathering):
    """Stands for GatherSum until the size of the axis is known."""

    axis: int
    batch_dims: int
    name: ClassVar[str] = "gather_gradient"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "The slices of the first input added at the indices of the second to zeros in the shape of "
        "the third: the gradient of gather."
    )

    def infer(self, dy: TensorType, index: TensorType, like: TensorType) -> TensorType:
        check_dtype(self.name, dy.dtype, self.dtypes)
        check_dtype(self.name, index.dtype, INTEGERS)
        return TensorType(like.shape, dy.dtype)

    def _static(self, like: Shape) -> GatherSum:
        axis = self.layout(len(like)).axis
        size = like[axis]
        assert size is not None
        return GatherSum(axis, self.batch_dims, size)

    def reference(self, dy: np.ndarray, index: np.ndarray, like: np.ndarray) -> np.ndarray:
        return self._static(like.shape).reference(dy, index)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(Gather(self.axis, self.batch_dims), gradients[0], inputs[1]), None, None]

    def decompose(self, dy: Tensor, index: Tensor, like: Tensor) -> Tensor:
        return apply(self._static(like.type.static_shape), dy, index)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(4, 3), indices(4, high=5), real(5, 3), axis=0, batch_dims=0),
            sample(real(2, 4, 3), indices(2, 4, high=5), real(2, 5, 3), axis=-2, batch_dims=1),
        ]


def gather_gradient(dy: Tensor, index: Tensor, like: Tensor, axis: int, batch_dims: int) -> Tensor:
    """Slices of `dy` added at `index` along `axis` to zeros in the shape of `like`."""
    size = None if like.shape is None else like.shape[axis]
    if like.rank is not None and size is not None:
        axis = normalise_axis(axis, like.rank, "gather_gradient")
        return apply(GatherSum(axis, batch_dims, size), dy, index)
    return apply(GatherGradient(axis, batch_dims), dy, index, like)


@function
def gather(
    x: Tensor, indices: Any, axis: int = 0, *, batch_dims: int = 0, name: str | None = None
) -> Tensor:
    """Slices of `x` along `axis`, chosen by an integer tensor, whose axes replace it.

    With axis 0 this looks up rows of an embedding table. Negative indices count from the end;
    indices outside of the axis give zeros. The first `batch_dims` axes of both tensors are matched
    with each other. The gradient adds each slice back where it came from.

    Raises DTypeError for indices that are not integers, ShapeError for axes that do not fit. As
    ONNX's Gather and TensorFlow's gather.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.gather(g.placeholder((1000, 64)), g.placeholder((None, 12), nl.int32)).shape
        (None, 12, 64)
    """
    where = known_axis("gather", axis, tensor_of("gather", x).rank)
    chosen = as_operand(
        "gather", x, np.asarray(indices) if isinstance(indices, (int, list, tuple)) else indices
    )
    op = Gather(where, integer("gather", batch_dims, "the number of batch axes"))
    return apply(op, x, chosen, name=name)


@function
def gather_along_axis(
    x: Tensor, indices: Any, axis: int = -1, *, name: str | None = None
) -> Tensor:
    """Elements of `x` along `axis`, each chosen by the element of `indices` in its place.

    All sizes but those along `axis` must agree. Negative indices count from the end; indices
    outside of the axis give 0. Raises ShapeError for shapes that do not fit. As NumPy's
    take_along_axis and ONNX's GatherElements.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.gather_along_axis(g.placeholder((8, 10)), g.placeholder((8, 1), nl.int32)).shape
        (8, 1)
    """
    tensor_of("gather_along_axis", x)
    rank = require_rank("gather_along_axis", x.type, "to line the indices up")
    where = normalise_axis(axis, rank, "gather_along_axis")
    chosen = as_operand("gather_along_axis", x, indices)
    if chosen.rank not in (None, rank):
        raise ShapeError(
            "gather_along_axis",
            f"the indices do not have rank {rank}",
            received=show(chosen.shape),
            advice="Give one index for each element",
        )
    # With the axis last, everything before it is a batch.
    last = rank - 1
    if where == last:
        return gather(x, chosen, last, batch_dims=last, name=name)
    found = gather(x.swap_axes(where, last), chosen.swap_axes(where, last), last, batch_dims=last)
    return found.swap_axes(where, last, name=name)  # type: ignore[no-any-return]


@register
@dataclass(frozen=True)
class OneHot(Op):
    depth: int
    axis: int  # of the result
    dtype: DType
    on: float
    off: float
    name: ClassVar[str] = "one_hot"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = INTEGERS
    doc: ClassVar[str] = (
        "A new axis of size `depth` that holds `on` at the position of each index and `off` "
        "elsewhere; an index outside of 0 to depth - 1 gives `off` only. As TensorFlow one_hot."
    )
    grad = not_differentiable("its input holds indices")

    def infer(self, index: TensorType) -> TensorType:
        check_dtype(self.name, index.dtype, self.dtypes)
        if index.shape is None:
            return TensorType(None, self.dtype)
        axis = known_axis(self.name, self.axis, len(index.shape) + 1)
        return TensorType((*index.shape[:axis], self.depth, *index.shape[axis:]), self.dtype)

    def reference(self, index: np.ndarray) -> np.ndarray:
        axis = known_axis(self.name, self.axis, index.ndim + 1)
        places = np.arange(self.depth).reshape(-1, *[1] * (index.ndim - axis))
        hit = np.expand_dims(index.astype(np.int64), axis) == places
        return np.where(hit, self.on, self.off).astype(self.dtype.numpy)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        axis = known_axis(self.name, self.axis, len(index))
        found = k.cast(inputs[0](*index[:axis], *index[axis + 1 :]), int64)
        kind = compute_dtype(self.dtype)
        return k.where(found.eq(index[axis]), k.const(self.on, kind), k.const(self.off, kind))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(depth: int, axis: int, dtype: DType, on: float, off: float, *shape: int) -> Sample:
            return sample(
                real(*shape, low=0, high=4),
                depth=depth,
                axis=axis,
                dtype=dtype,
                on=on,
                off=off,
                grad=False,
            )

        outside = np.array([-1, 0, 3, 7], np.int32)
        return [
            one(4, -1, float32, 1.0, 0.0, 3),
            one(4, 0, float32, 1.0, 0.0, 3, 2),
            one(3, 1, ALL[3], 5, -1, 3, 2),
            one(3, 1, bool_, 1, 0, 3),
            one(3, 1, ALL[9], 0.5, 0.25, 3),
            one(0, -1, float32, 1.0, 0.0, 3),
            one(4, -1, float32, 1.0, 0.0),
            sample(outside, depth=4, axis=-1, dtype=float32, on=1.0, off=0.0, grad=False),
        ]


@function
def one_hot(
    indices: Tensor,
    depth: int,
    *,
    axis: int = -1,
    dtype: Any = float32,
    on: float = 1.0,
    off: float = 0.0,
    name: str | None = None,
) -> Tensor:
    """`on` at the position each index names along a new axis of size `depth`, `off` elsewhere.

    The new axis is `axis` of the result. An index outside of 0 to depth - 1 (a negative one too)
    gives `off` only. Raises DTypeError for indices that are not integers. As TensorFlow's one_hot.

    Example:
        >>> import niello as nl
        >>> nl.one_hot(nl.Graph().placeholder((None,), nl.int32), 10).shape
        (None, 10)
    """
    rank = tensor_of("one_hot", indices).rank
    size = integer("one_hot", depth, "the depth")
    if size < 0:
        raise AttributeValueError("one_hot", "the depth must not be negative", received=size)
    kind = element_types.dtype(dtype)
    where = known_axis("one_hot", axis, None if rank is None else rank + 1)
    number = float if kind.is_float else int
    return apply(OneHot(size, where, kind, number(on), number(off)), indices, name=name)
