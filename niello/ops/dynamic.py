"""Windows whose place is known only at run time: dynamic_slice and dynamic_update_slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, INTEGERS, DType, int32
from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Shape, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, function, indices, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.concat import stack
from niello.ops.define import as_operand, cast_to, check_dtype
from niello.ops.movement import apply, integers, tensor_of, zeros_like
from niello.ops.places import normalised


class Dynamic(Op):
    """Base of ops whose last operand but `like` holds the start along every axis.

    A negative start counts from the end; then it is moved so that the window fits."""

    traits: ClassVar[Trait] = Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = ALL

    def check_starts(self, rank: int | None, starts: TensorType) -> None:
        """Refuse starts that are not one integer for each axis."""
        check_dtype(self.name, starts.dtype, INTEGERS)
        if starts.shape is None:
            return
        count = starts.shape[0] if len(starts.shape) == 1 else -1
        if count is not None and (count < 0 or (rank is not None and count != rank)):
            raise ShapeError(
                self.name,
                "there must be a start for each axis",
                received=f"{show(starts.shape)} for rank {rank}",
                advice="Give a vector of integers",
            )

    def first(
        self, k: Builder, starts: Value, whole: Sequence[int], sizes: Sequence[int]
    ) -> list[Expr]:
        """Where the window begins along each axis."""
        return [
            k.max(k.min(normalised(k, starts(d), n), n - size), 0) if size != n else k.index(0)
            for d, (n, size) in enumerate(zip(whole, sizes, strict=True))
        ]


def window_of(starts: np.ndarray, whole: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    """NumPy: the window."""
    found = []
    for start, n, size in zip(starts.astype(np.int64).tolist(), whole, sizes, strict=True):
        first = max(min(start + n if start < 0 else start, n - size), 0)
        found.append(slice(first, first + size))
    return tuple(found)


def _fits(asked: str, whole: Shape | None, sizes: Shape | None) -> None:
    if whole is None or sizes is None:
        return
    if len(whole) != len(sizes) or any(
        None not in (n, s) and s > n  # type: ignore[operator]
        for n, s in zip(whole, sizes, strict=True)
    ):
        raise ShapeError(
            asked,
            "the window does not fit into the tensor",
            received=f"{show(sizes)} of {show(whole)}",
            advice="Sizes must not exceed the tensor's, one for each axis",
        )


@register
@frozen
class DynamicSlice(Dynamic):
    sizes: tuple[int, ...]  # -1: the whole axis
    name: ClassVar[str] = "dynamic_slice"
    doc: ClassVar[str] = (
        "A window of given sizes that begins where the second input says; it is moved so that it "
        "fits. As XLA's DynamicSlice."
    )

    def infer(self, x: TensorType, starts: TensorType) -> TensorType:
        self.check_starts(len(self.sizes), starts)
        if x.shape is None:
            return TensorType([None if s < 0 else s for s in self.sizes], x.dtype)
        _fits(self.name, x.shape, tuple(None if s < 0 else s for s in self.sizes))
        return TensorType(
            [d if s < 0 else s for s, d in zip(self.sizes, x.shape, strict=True)], x.dtype
        )

    def reference(self, x: np.ndarray, starts: np.ndarray) -> np.ndarray:
        sizes = [d if s < 0 else s for s, d in zip(self.sizes, x.shape, strict=True)]
        return x[window_of(starts, x.shape, sizes)].copy()

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        x, starts = inputs
        return [apply(DynamicUpdateSlice(), zeros_like(x), gradients[0], starts), None]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x, starts = inputs
        sizes = [d if s < 0 else s for s, d in zip(self.sizes, x.shape, strict=True)]
        first = self.first(k, starts, x.shape, sizes)
        return x(*(i + f for i, f in zip(index, first, strict=True)))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(*starts: int) -> np.ndarray:
            return np.array(starts, np.int32)

        return [
            sample(real(4, 5), one(1, 2), sizes=(2, 3)),
            sample(real(4, 5), one(3, -4), sizes=(2, 3)),
            sample(real(4, 5), one(-9, 9).astype(np.int64), sizes=(-1, 1)),
            sample(real(3), indices(1, high=2), sizes=(3,)),
            sample(real(3, 0), one(1, 1), sizes=(2, -1)),
            sample(real(3), one(1), sizes=(0,)),
        ]


@register
@frozen
class DynamicSliceLike(Dynamic):
    name: ClassVar[str] = "dynamic_slice_like"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY | Trait.LINEAR
    doc: ClassVar[str] = "dynamic_slice with the sizes of the third input."

    def infer(self, x: TensorType, starts: TensorType, like: TensorType) -> TensorType:
        self.check_starts(x.rank, starts)
        _fits(self.name, x.shape, like.shape)
        return TensorType(like.shape, x.dtype)

    def reference(self, x: np.ndarray, starts: np.ndarray, like: np.ndarray) -> np.ndarray:
        return DynamicSlice(like.shape).reference(x, starts)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        x, starts = inputs[:2]
        return [apply(DynamicUpdateSlice(), zeros_like(x), gradients[0], starts), None, None]

    def decompose(self, x: Tensor, starts: Tensor, like: Tensor) -> Tensor:
        return apply(DynamicSlice(like.type.static_shape), x, starts)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(real(4, 5), np.array([1, 3], np.int32), real(2, 3))]


@register
@frozen
class DynamicUpdateSlice(Dynamic):
    name: ClassVar[str] = "dynamic_update_slice"
    doc: ClassVar[str] = (
        "The first input with the second in place of a window that begins where the third says; it "
        "is moved so that it fits. As XLA's DynamicUpdateSlice."
    )

    def infer(self, x: TensorType, update: TensorType, starts: TensorType) -> TensorType:
        self.check_starts(x.rank, starts)
        if update.dtype is not x.dtype:
            raise DTypeError(
                self.name,
                "the update has another element type",
                received=f"{update.dtype.name} for {x.dtype.name}",
                advice="Cast it first",
            )
        _fits(self.name, x.shape, update.shape)
        return x

    def reference(self, x: np.ndarray, update: np.ndarray, starts: np.ndarray) -> np.ndarray:
        out = x.copy()
        out[window_of(starts, x.shape, update.shape)] = update
        return out

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (g,) = gradients
        update, starts = inputs[1:]
        kept = apply(self, g, zeros_like(update), starts)
        if update.type.is_static:
            return [kept, apply(DynamicSlice(update.type.static_shape), g, starts), None]
        return [kept, apply(DynamicSliceLike(), g, starts, update), None]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x, update, starts = inputs
        first = self.first(k, starts, x.shape, update.shape)
        inside, source = [], []
        for i, f, n, size in zip(index, first, x.shape, update.shape, strict=True):
            source.append(i if n == size else i - f)
            if n != size:
                inside += [i >= f, i < f + size]
        return k.guarded(k.all_of(*inside), lambda: update(*source), x(*index))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(4, 5), real(2, 3), np.array([1, 2], np.int32)),
            sample(real(4, 5), real(2, 5), np.array([-1, 0], np.int32)),
            sample(real(3), real(3), np.array([2], np.int64)),
            sample(real(3), real(0), np.array([1], np.int32)),
        ]


def _starts(asked: str, x: Tensor, starts: Any) -> Tensor:
    """Starts as one vector: from a tensor, or a list of integers and scalar tensors."""
    if isinstance(starts, Tensor):
        return starts
    listed = list(starts)
    if not any(isinstance(s, Tensor) for s in listed):
        return x.graph.constant(np.asarray(integers(asked, listed, "a start"), np.int32))
    parts = [s if isinstance(s, Tensor) else x.graph.constant(s, int32) for s in listed]
    for p in parts:
        check_dtype(asked, p.dtype, INTEGERS)
    wide = max((p.dtype for p in parts), key=lambda d: d.bits)
    return stack([cast_to(p, wide) for p in parts])


@function
def dynamic_slice(x: Tensor, starts: Any, sizes: Any, *, name: str | None = None) -> Tensor:
    """The window of `x` of the given sizes that begins at `starts`, known only at run time.

    `starts` is an integer vector, or a list of integers and integer scalars, one for each axis. A
    negative start counts from the end; then the window is moved so that it fits. A size of -1 takes
    the whole axis. Raises ShapeError for a window that is larger than the tensor. As JAX's
    lax.dynamic_slice.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.dynamic_slice(g.placeholder((8, 4)), [g.placeholder((), nl.int32), 0], (2, -1)).shape
        (2, 4)
    """
    where = _starts("dynamic_slice", tensor_of("dynamic_slice", x), starts)
    window = integers("dynamic_slice", sizes, "a size")
    if any(s < -1 for s in window):
        raise AttributeValueError(
            "dynamic_slice", "sizes must not be negative, except for -1", received=list(window)
        )
    return apply(DynamicSlice(window), x, where, name=name)


@function
def dynamic_update_slice(x: Tensor, update: Any, starts: Any, *, name: str | None = None) -> Tensor:
    """`x` with `update` in place of the window that `dynamic_slice` would take at `starts`.

    Raises ShapeError for an update that is larger than the tensor, DTypeError for one of another
    type. As JAX's
    lax.dynamic_update_slice.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> cache, row = g.placeholder((8, 4)), g.placeholder((1, 4))
        >>> nl.dynamic_update_slice(cache, row, [g.placeholder((), nl.int32), 0]).shape
        (8, 4)
    """
    where = _starts("dynamic_update_slice", tensor_of("dynamic_update_slice", x), starts)
    new = as_operand("dynamic_update_slice", x, update)
    return apply(DynamicUpdateSlice(), x, new, where, name=name)
