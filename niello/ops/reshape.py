"""Ops that keep every element and its row-major position: reshape, flatten, expand, squeeze."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, DType, int32, int64
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import MAX_RANK, Dim, Shape, normalise_axes, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Planes, Sample, Trait, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel import ir
from niello.kernel.build import Builder, Index, Value, ravel, unravel
from niello.kernel.ir import Expr
from niello.ops.movement import (
    LikeOp,
    Movement,
    apply,
    integer,
    integers,
    known_axes,
    known_axis,
    sizes_tensor,
    tensor_of,
)


def known_elements(shape: Shape | None) -> int | None:
    """Number of elements of a shape, or None when it cannot be told."""
    if shape is None:
        return None
    if 0 in shape:
        return 0
    return None if None in shape else math.prod(d for d in shape if d is not None)


def product(dims: Sequence[Dim]) -> Dim:
    """The product of dimensions, or None when it cannot be told."""
    return known_elements(tuple(dims))


def _groups(a: Sequence[int], b: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Split two shapes without zeros into the smallest runs of axes with equal products.

    Axes of size 1 belong to no run.
    """
    left = [i for i, size in enumerate(a) if size != 1]
    right = [i for i, size in enumerate(b) if size != 1]
    i = j = 0
    while i < len(left):
        first, second = [left[i]], [right[j]]
        n, m = a[left[i]], b[right[j]]
        i, j = i + 1, j + 1
        while n != m:
            if n < m:
                first.append(left[i])
                n *= a[left[i]]
                i += 1
            else:
                second.append(right[j])
                m *= b[right[j]]
                j += 1
        yield first, second


def reshape_index(index: Index, shape: Sequence[int], source: Sequence[int]) -> Index:
    """The index in `source` of the element at `index` in `shape`, both of as many elements.

    Axes that the two shapes share need no division.
    """
    found: list[Expr] = [ir.const(0, int64)] * len(source)
    if 0 in source:
        return tuple(found)
    for ours, theirs in _groups(shape, source):
        offset = ravel([index[i] for i in ours], [shape[i] for i in ours])
        for axis, part in zip(theirs, unravel(offset, [source[i] for i in theirs]), strict=True):
            found[axis] = part
    return tuple(found)


@register
@frozen
class Reshape(Movement):
    shape: tuple[int, ...]  # at most one -1, which takes what is left
    name: ClassVar[str] = "reshape"
    doc: ClassVar[str] = (
        "The elements in row-major order with another shape; one size may be -1. As NumPy reshape."
    )

    def infer(self, x: TensorType) -> TensorType:
        fixed = math.prod(d for d in self.shape if d != -1)
        total = known_elements(x.shape)
        if -1 not in self.shape:
            if total is not None and total != fixed:
                self._refuse(x, f"{total} elements cannot take {fixed} places")
            return TensorType(self.shape, x.dtype)
        if total is not None and (fixed == 0 or total % fixed):
            self._refuse(x, f"no size for -1 makes {total} elements")
        rest = None if total is None else total // fixed
        return TensorType([rest if d == -1 else d for d in self.shape], x.dtype)

    def _refuse(self, x: TensorType, problem: str) -> None:
        raise ShapeError(
            self.name,
            problem,
            received=f"{show(x.shape)} to {list(self.shape)}",
            advice="The number of elements must stay the same",
            shapes=(x.shape, self.shape),
        )

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        (x,) = inputs
        shape = self.infer(x.type).static_shape
        if x.shape == shape:
            return x
        if isinstance(x.operation.op, Reshape):
            return reshape(x.operation.inputs[0], shape)
        return None if shape == self.shape else reshape(x, shape)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.reshape(x, self.shape)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [reshape_like(gradients[0], inputs[0])]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        shape = self.infer(TensorType(x.shape, x.dtype)).static_shape
        return x(*reshape_index(index, shape, x.shape))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 6), shape=(3, 4)),
            sample(real(2, 3, 4), shape=(-1, 4)),
            sample(real(4, 1, 6), shape=(2, 2, 2, 3, 1)),
            sample(real(1, 1), shape=()),
            sample(real(), shape=(1, 1, 1)),
            sample(real(0, 3), shape=(3, 0, 2)),
            sample(real(2, *[1] * 14, 3), shape=(*[1] * 14, 3, 2)),
        ]


@function
def reshape(x: Tensor, shape: Any, *, name: str | None = None) -> Tensor:
    """The elements of `x`, in row-major order, with another shape.

    One size may be -1: it takes what is left. Sizes may be an integer vector of the graph, or
    scalars of it among the integers, whose values follow from constants and shapes of tensors.

    Raises ShapeError when the number of elements would change, or sizes are not known when the
    graph is compiled. As NumPy's and ONNX's Reshape.

    Example:
        >>> import niello as nl
        >>> x = nl.Graph().placeholder((2, 6))
        >>> nl.reshape(x, (3, -1)).shape
        (3, 4)
    """
    tensor_of("reshape", x)
    by = sizes_tensor("reshape", shape)
    if by is not None:
        from niello.ops.by_value import ReshapeBy, shaped

        return shaped(ReshapeBy(), x, by, name=name)
    sizes = integers("reshape", shape, "a size")
    if any(s < -1 for s in sizes) or sizes.count(-1) > 1:
        raise ShapeError(
            "reshape",
            "sizes must not be negative, except for one -1",
            received=list(sizes),
            advice="Use -1 for at most one size",
        )
    op = Reshape(sizes)
    inferred = op.infer(x.type)
    return apply(Reshape(inferred.static_shape) if inferred.is_static else op, x, name=name)


@register
@frozen
class ReshapeLike(LikeOp):
    name: ClassVar[str] = "reshape_like"
    doc: ClassVar[str] = "The elements of the first input with the shape of the second."

    def infer(self, x: TensorType, like: TensorType) -> TensorType:
        ours, theirs = known_elements(x.shape), known_elements(like.shape)
        if ours is not None and theirs is not None and ours != theirs:
            raise ShapeError(
                self.name,
                "the tensors have different numbers of elements",
                received=f"{show(x.shape)} and {show(like.shape)}",
                shapes=(x.shape, like.shape),
            )
        return TensorType(like.shape, x.dtype)

    def reference(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        return np.reshape(x, like.shape)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [reshape_like(gradients[0], inputs[0]), None]

    def decompose(self, x: Tensor, like: Tensor) -> Tensor:
        return reshape(x, like.type.static_shape)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(real(2, 6), real(3, 4)), sample(real(0, 2), real(5, 0))]


@function
def reshape_like(x: Tensor, like: Tensor, *, name: str | None = None) -> Tensor:
    """The elements of `x` with the shape of `like`, whose values are not used.

    Raises ShapeError when the numbers of elements differ.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.reshape_like(g.placeholder((6,)), g.placeholder((2, 3))).shape
        (2, 3)
    """
    if like.type.is_static:
        return x if name is None and x.shape == like.shape else reshape(x, like.shape, name=name)
    return apply(ReshapeLike(), x, like, name=name)


class Regrouping(Movement):
    """Base of reshapes that stand for sizes they do not know yet; they become Reshape."""

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [reshape_like(gradients[0], inputs[0])]

    def decompose(self, x: Tensor) -> Tensor:
        return reshape(x, self.infer(x.type).static_shape)  # type: ignore[union-attr]

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.reshape(x, self.infer(TensorType(x.shape, self.dtypes[0])).static_shape)  # type: ignore[union-attr]


@register
@frozen
class Flatten(Regrouping):
    axis: int
    name: ClassVar[str] = "flatten"
    doc: ClassVar[str] = (
        "Rank 2: the axes before `axis` become the rows, the others the columns. As ONNX Flatten."
    )

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return TensorType((None, None), x.dtype)
        rank = len(x.shape)
        if not -rank <= self.axis <= rank:
            raise ShapeError(
                self.name,
                f"axis {self.axis} is outside a tensor of rank {rank}",
                received=self.axis,
                advice=f"Use an axis from {-rank} to {rank}",
                axis=self.axis,
                rank=rank,
            )
        cut = self.axis + rank if self.axis < 0 else self.axis
        return TensorType((product(x.shape[:cut]), product(x.shape[cut:])), x.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3, 4), axis=1),
            sample(real(2, 3, 4), axis=0),
            sample(real(2, 3, 4), axis=3),
            sample(real(2, 3, 4), axis=-1),
            sample(real(), axis=0),
            sample(real(0, 3), axis=1),
        ]


@function
def flatten(x: Tensor, axis: int = 1, *, name: str | None = None) -> Tensor:
    """A matrix: the axes before `axis` become its rows, the rest its columns (ONNX Flatten).

    `axis` goes from -rank to rank; with 0 there is one row. Raises ShapeError outside of that.

    Example:
        >>> import niello as nl
        >>> nl.flatten(nl.Graph().placeholder((None, 7, 7, 64))).shape
        (None, 3136)
    """
    return apply(Flatten(integer("flatten", axis, "an axis")), x, name=name)


@register
@frozen
class FlattenAxes(Regrouping):
    start: int
    end: int  # inclusive
    name: ClassVar[str] = "flatten_axes"
    doc: ClassVar[str] = "The axes from `start` to `end` (inclusive) as one. As PyTorch flatten."

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x
        if not x.shape:
            return TensorType((1,), x.dtype)
        start = known_axis(self.name, self.start, len(x.shape))
        end = known_axis(self.name, self.end, len(x.shape))
        if start > end:
            raise ShapeError(
                self.name,
                "the first axis comes after the last one",
                received=f"start {self.start}, end {self.end} of {show(x.shape)}",
            )
        merged = product(x.shape[start : end + 1])
        return TensorType((*x.shape[:start], merged, *x.shape[end + 1 :]), x.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3, 4), start=0, end=-1),
            sample(real(2, 3, 4), start=1, end=2),
            sample(real(), start=0, end=-1),
            sample(real(2, 0, 4), start=-2, end=-1),
        ]


@function
def flatten_axes(
    x: Tensor, start_axis: int = 0, end_axis: int = -1, *, name: str | None = None
) -> Tensor:
    """The axes from `start_axis` to `end_axis`, both included, as one axis (PyTorch flatten).

    A scalar becomes a vector of one element. Raises ShapeError for axes that do not exist.

    Example:
        >>> import niello as nl
        >>> nl.flatten_axes(nl.Graph().placeholder((2, 3, 4)), 1).shape
        (2, 12)
    """
    start = integer("flatten_axes", start_axis, "an axis")
    end = integer("flatten_axes", end_axis, "an axis")
    return apply(FlattenAxes(start, end), x, name=name)


@register
@frozen
class Unflatten(Regrouping):
    axis: int
    sizes: tuple[int, ...]  # at most one -1
    name: ClassVar[str] = "unflatten"
    doc: ClassVar[str] = "One axis as several of the given sizes (one may be -1). As PyTorch."

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x
        axis = known_axis(self.name, self.axis, len(x.shape))
        part = Reshape(self.sizes).infer(TensorType((x.shape[axis],), x.dtype)).shape
        assert part is not None
        return TensorType((*x.shape[:axis], *part, *x.shape[axis + 1 :]), x.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 6), axis=1, sizes=(2, -1)),
            sample(real(6, 2), axis=-2, sizes=(3, 2)),
        ]


@function
def unflatten(x: Tensor, axis: int, sizes: Any, *, name: str | None = None) -> Tensor:
    """One axis of `x` as several axes of the given sizes, of which one may be -1.

    Raises ShapeError when their product is not the size of the axis. As PyTorch's unflatten.

    Example:
        >>> import niello as nl
        >>> nl.unflatten(nl.Graph().placeholder((None, 6, 5)), 1, (2, -1)).shape
        (None, 2, 3, 5)
    """
    op = Unflatten(known_axis("unflatten", axis, x.rank), integers("unflatten", sizes, "a size"))
    return apply(op, x, name=name)


@register
@frozen
class ExpandDims(Regrouping):
    axes: tuple[int, ...]  # of the result
    name: ClassVar[str] = "expand_dims"
    doc: ClassVar[str] = "New axes of size 1 at the positions `axes` of the result. As NumPy."

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x
        rank = len(x.shape) + len(self.axes)
        if rank > MAX_RANK:
            raise ShapeError(
                self.name, f"at most {MAX_RANK} dimensions are supported", received=rank
            )
        axes = normalise_axes(self.axes, rank, self.name)
        rest = iter(x.shape)
        return TensorType([1 if i in axes else next(rest) for i in range(rank)], x.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), axes=(0,)),
            sample(real(2, 3), axes=(1, -1)),
            sample(real(), axes=(0, 1)),
            sample(real(0, 2), axes=(2,)),
        ]


@function
def expand_dims(x: Tensor, axes: Any, *, name: str | None = None) -> Tensor:
    """`x` with new axes of size 1 at the positions `axes` (an int or several) of the result.

    Raises ShapeError for a position outside of the result. As NumPy's expand_dims.

    Example:
        >>> import niello as nl
        >>> nl.expand_dims(nl.Graph().placeholder((2, 3)), (0, -1)).shape
        (1, 2, 3, 1)
    """
    tensor_of("expand_dims", x)
    listed = integers("expand_dims", axes, "an axis")
    if x.rank is not None:
        listed = normalise_axes(listed, x.rank + len(listed), "expand_dims")
    return apply(ExpandDims(listed), x, name=name)


@register
@frozen
class Squeeze(Regrouping):
    axes: tuple[int, ...] | None  # None: every axis of size 1
    name: ClassVar[str] = "squeeze"
    doc: ClassVar[str] = "Without the axes of size 1: the given ones, or all of them. As NumPy."

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x
        if self.axes is None:
            if None in x.shape:
                return TensorType(None, x.dtype)
            return TensorType([d for d in x.shape if d != 1], x.dtype)
        axes = normalise_axes(self.axes, len(x.shape), self.name)
        for axis in axes:
            if x.shape[axis] not in (1, None):
                raise ShapeError(
                    self.name,
                    f"axis {axis} has size {x.shape[axis]}",
                    received=show(x.shape),
                    advice="Only axes of size 1 can go",
                    axis=axis,
                )
        return TensorType([d for i, d in enumerate(x.shape) if i not in axes], x.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(1, 3, 1), axes=(0,)),
            sample(real(1, 3, 1), axes=(0, -1)),
            sample(real(1, 3, 1), axes=None),
            sample(real(1, 1), axes=None),
            sample(real(1, 0), axes=(0,)),
        ]


@function
def squeeze(x: Tensor, axes: Any = None, *, name: str | None = None) -> Tensor:
    """`x` without axes of size 1: the given ones, or every one when `axes` is None.

    Raises ShapeError when a given axis has another size. As NumPy's squeeze.

    Example:
        >>> import niello as nl
        >>> nl.squeeze(nl.Graph().placeholder((1, 3, 1)), -1).shape
        (1, 3)
    """
    tensor_of("squeeze", x)
    listed = None if axes is None else known_axes("squeeze", axes, x.rank)
    return apply(Squeeze(listed), x, name=name)


class ShapeQuery(Op):
    """Base of ops that tell the shape of their input: constants once it is known."""

    traits: ClassVar[Trait] = Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = ALL

    def planes(self, z: Planes) -> Tensor:
        return apply(self, z.real)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [None]  # a shape does not depend on the values

    def decompose(self, x: Tensor) -> Tensor:
        found = self.reference(np.broadcast_to(np.int8(0), x.type.static_shape))
        return x.graph.constant(found)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), grad=False),
            sample(real(), grad=False),
            sample(real(0, 4), grad=False),
        ]


def _fits_int32(asked: str, x: TensorType) -> None:
    total = known_elements(x.shape)
    if total is not None and total >= 2**31:
        raise ShapeError(asked, "the size does not fit an int32", received=show(x.shape))


@register
@frozen
class ShapeOf(ShapeQuery):
    name: ClassVar[str] = "shape_of"
    doc: ClassVar[str] = "The shape of a tensor as an int32 vector."

    def infer(self, x: TensorType) -> TensorType:
        return TensorType((x.rank,), int32)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x.shape, np.int32)


@function
def shape_of(x: Tensor, *, name: str | None = None) -> Tensor:
    """The shape of `x` as an int32 vector: a constant when every size is known.

    Example:
        >>> import niello as nl
        >>> nl.shape_of(nl.Graph().placeholder((None, 3)))
        <Tensor 'shape_of': int32[2]>
    """
    op = ShapeOf()
    if tensor_of("shape_of", x).type.is_static:
        return x.graph.constant(np.asarray(x.shape, np.int32), name=name)
    return apply(op, x, name=name)


@register
@frozen
class SizeOf(ShapeQuery):
    name: ClassVar[str] = "size"
    doc: ClassVar[str] = "The number of elements of a tensor as an int32 scalar."

    def infer(self, x: TensorType) -> TensorType:
        _fits_int32(self.name, x)
        return TensorType((), int32)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x.size, np.int32)


@function
def size(x: Tensor, *, name: str | None = None) -> Tensor:
    """The number of elements of `x` as an int32 scalar: a constant when every size is known.

    Raises ShapeError when it does not fit.

    Example:
        >>> import niello as nl
        >>> nl.size(nl.Graph().placeholder((None, 3)))
        <Tensor 'size': int32[]>
    """
    op = SizeOf()
    if tensor_of("size", x).type.is_static:
        op.infer(x.type)
        return x.graph.constant(np.asarray(x.type.elements, np.int32), name=name)
    return apply(op, x, name=name)
