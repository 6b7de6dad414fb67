"""The primitives of indexing: gather, its transpose (scatter_reduce), and gather's gradient.

How the axes of data, indices and parts line up is in places.py; the functions users call are in
indexing.py and scatter.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, NUMBERS, DType, compute_dtype
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import (
    IndexBounds,
    Op,
    Planes,
    Sample,
    Trait,
    indices,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, ScatterSpec, Value
from niello.kernel.ir import Expr, reduce_identity
from niello.ops.define import cast_to, check_dtype, half_as_float32
from niello.ops.movement import apply, is_static, wide
from niello.ops.places import Layout, check_indices, check_parts, layout, normalised

COMBINE = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
OUTSIDE = np.array([[0, 5], [-1, -6], [-5, 4]], np.int32)


class Indexing(Op):
    """Base of the ops that address data through indices."""

    traits: ClassVar[Trait] = Trait.NONE
    axis: int
    batch_dims: int
    form: str

    def layout(self, rank: int, index: TensorType) -> Layout | None:
        """How data of a rank lines up with the indices."""
        return layout(self.name, self.form, self.axis, self.batch_dims, rank, index)

    def known(self, rank: int, index: Value | np.ndarray) -> Layout:
        """The same when everything is known."""
        found = self.layout(rank, TensorType(index.shape, index.dtype))
        assert found is not None
        return found

    def bounds(self, number: int, data: TensorType, index: TensorType) -> tuple[IndexBounds, ...]:
        """What indices, input `number`, may be."""
        shape = data.static_shape
        found = self.layout(len(shape), index)
        assert found is not None
        sizes = shape[found.axis : found.axis + found.depth]
        return (IndexBounds(number, sizes, self.form == "points"),)


@register
@frozen
class Gather(Indexing):
    axis: int
    batch_dims: int
    form: str
    name: ClassVar[str] = "gather"
    traits: ClassVar[Trait] = Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "Slices, points or elements of the first input chosen by the second; negative indices "
        "count from the end, others outside give zeros. As ONNX Gather, GatherND, GatherElements."
    )

    def infer(self, x: TensorType, index: TensorType) -> TensorType:
        if x.shape is None:
            check_indices(self.name, None, index, None)
            return TensorType(index.shape if self.form == "along" else None, x.dtype)
        found = self.layout(len(x.shape), index)
        check_indices(self.name, x.shape, index, found)
        if found is None or index.shape is None:
            rank = len(x.shape) if self.form == "along" else None
            return TensorType(None if rank is None else (None,) * rank, x.dtype)
        return TensorType(found.parts_shape(x.shape, index.shape), x.dtype)

    def index_bounds(self, *inputs: TensorType) -> Sequence[IndexBounds]:
        return self.bounds(1, *inputs)

    def reference(self, x: np.ndarray, index: np.ndarray) -> np.ndarray:
        flat, inside = self.known(x.ndim, index).flat(x.shape, index)
        if not x.size:
            return np.zeros(flat.shape, x.dtype)
        taken = x.reshape(-1)[flat]
        return np.where(inside, taken, np.zeros((), x.dtype))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        x, index = inputs
        return [
            gather_gradient(gradients[0], index, x, self.axis, self.batch_dims, self.form),
            None,
        ]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x, chosen = inputs
        found = self.known(len(x.shape), chosen)
        before, where, after = found.split(index)
        at, inside = found.positions(k, chosen, x.shape, before, where, after)
        return k.guarded(inside, lambda: x(*before, *at, *after), 0)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        points = np.array([[0, 1], [-2, 2], [1, -3], [2, 0]], np.int32)

        def slices(*inputs: object, axis: int = 0, batch_dims: int = 0) -> Sample:
            return sample(*inputs, axis=axis, batch_dims=batch_dims, form="slices")

        return [
            slices(real(5, 3), indices(4, high=5)),
            slices(real(2, 5, 3), indices(2, 2, high=5), axis=1),
            slices(real(2, 5, 3), indices(2, 4, high=5), axis=1, batch_dims=1),
            slices(real(2, 3, 5), indices(2, 4, high=5), axis=-1, batch_dims=1),
            slices(real(5, 2), OUTSIDE),
            slices(real(5), OUTSIDE.astype(np.int64)),
            slices(real(5, 2), indices(high=5)),
            slices(real(5, 2), indices(0, high=5)),
            slices(real(0, 2), indices(3, high=5)),
            slices(real(5, 2), np.array([4, 0, 200], np.uint8)),
            sample(real(2, 3), points, axis=0, batch_dims=0, form="points"),
            sample(real(3, 4), indices(2, 1, high=3), axis=0, batch_dims=0, form="points"),
            sample(real(2, 3, 2, 2), indices(2, 4, 2, high=3), axis=1, batch_dims=1, form="points"),
            sample(real(3, 4), indices(3, 2, high=4), axis=1, batch_dims=1, form="along"),
            sample(real(5, 3), OUTSIDE, axis=0, batch_dims=0, form="along"),
            sample(real(2, 3, 4), indices(2, 5, 4, high=3), axis=1, batch_dims=1, form="along"),
        ]


@register
@frozen
class ScatterReduce(Indexing):
    """The transpose of gather: parts combined where they would have been taken from."""

    combine: str  # add, mul, min or max
    axis: int
    batch_dims: int
    form: str
    shape: tuple[int, ...]
    name: ClassVar[str] = "scatter_reduce"
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "The identity of add, mul, min or max in a given shape, with the elements of the first "
        "input combined at the indices of the second, in row-major order."
    )

    def infer(self, parts: TensorType, index: TensorType) -> TensorType:
        # Complex numbers are only added.
        check_dtype(self.name, parts.dtype, self.dtypes if self.combine == "add" else NUMBERS)
        found = self.layout(len(self.shape), index)
        check_indices(self.name, self.shape, index, found)
        if found is not None and index.shape is not None:
            check_parts(self.name, found.parts_shape(self.shape, index.shape), parts.shape)
        return TensorType(self.shape, parts.dtype)

    def reference(self, parts: np.ndarray, index: np.ndarray) -> np.ndarray:
        flat, inside = self.known(len(self.shape), index).flat(self.shape, index)

        def total(parts: np.ndarray) -> np.ndarray:
            start = identity(self.combine, parts.dtype)
            out = np.full(int(np.prod(self.shape)), start, parts.dtype)
            COMBINE[self.combine].at(out, flat[inside], parts[inside])
            return out.reshape(self.shape)

        return np.asarray(half_as_float32(total, [parts]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        from niello.ops.scatter import combined_gradient

        parts, index = inputs
        return [combined_gradient(self, gradients[0], parts, index, outputs[0]), None]

    def planes(self, *inputs: Any) -> Any:
        parts, index = inputs
        return Planes(apply(self, parts.real, index), apply(self, parts.imaginary, index))

    def gather(self, x: Tensor, index: Tensor) -> Tensor:
        """Parts of `x` at the places that this op combines into."""
        return apply(Gather(self.axis, self.batch_dims, self.form), x, index)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        parts, places = inputs
        found = self.known(len(index), places)
        end = found.axis + found.depth
        before, at, after = index[: found.axis], index[found.axis : end], index[end:]
        sizes = self.shape[found.axis : end]
        start = k.const(reduce_identity(self.combine, parts.dtype), compute_dtype(parts.dtype))
        # Of indices that are shorter than the data, the rest of the data gets nothing.
        fits = [
            i < size
            for i, size, whole in zip(
                (*before, *after),
                (*parts.shape[: found.axis], *parts.shape[found.axis + found.chosen :]),
                (*self.shape[: found.axis], *self.shape[end:]),
                strict=True,
            )
            if size < whole
        ]

        def term(*chosen: Expr) -> Expr:
            raw = found.coordinates(places, before, chosen, after)
            hits = [normalised(k, r, size).eq(a) for r, size, a in zip(raw, sizes, at, strict=True)]
            return k.where(k.all_of(*hits), parts(*before, *chosen, *after), start)

        extents = parts.shape[found.axis : found.axis + found.chosen]
        if fits:
            return k.guarded(k.all_of(*fits), lambda: k.reduce(self.combine, extents, term), start)
        return k.reduce(self.combine, extents, term)

    def scatter(self, k: Builder, *inputs: Value) -> ScatterSpec:
        """The same as one update for each element of the first input."""
        parts, places = inputs
        found = self.known(len(self.shape), places)

        def target(*point: Expr) -> Index:
            before, where, after = found.split(point)
            at, _ = found.positions(k, places, self.shape, before, where, after)
            return (*before, *at, *after)

        def inside(*point: Expr) -> Expr:
            return found.positions(k, places, self.shape, *found.split(point))[1]

        start = reduce_identity(self.combine, parts.dtype)
        return ScatterSpec(parts.shape, target, inside, parts, self.combine, start)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(
            *inputs: object, shape: tuple[int, ...], combine: str = "add", axis: int = 0,
            batch_dims: int = 0, form: str = "slices",
        ) -> Sample:  # fmt: skip
            kinds = None if combine == "add" else NUMBERS
            return sample(
                *inputs, dtypes=kinds, combine=combine, axis=axis, batch_dims=batch_dims,
                form=form, shape=shape,
            )  # fmt: skip

        same = np.zeros(4, np.int32)
        away = real(4, 3, low=1, high=3)
        points = np.array([[0, 1], [-2, 2], [0, 1], [2, 0]], np.int32)
        return [
            one(real(4, 3), indices(4, high=5), shape=(5, 3)),
            one(real(4, 3), same, shape=(2, 3)),
            one(real(2, 4, 3), indices(2, 4, high=5), axis=1, batch_dims=1, shape=(2, 5, 3)),
            one(real(2, 3, 4), indices(4, high=5), axis=-1, shape=(2, 3, 5)),
            one(real(3, 2, 2), OUTSIDE, shape=(5, 2)),
            one(real(2), indices(high=5), shape=(5, 2)),
            one(real(0, 2), indices(0, high=5), shape=(5, 2)),
            one(away, indices(4, high=3), combine="mul", shape=(3, 3)),
            one(away, same, combine="min", shape=(2, 3)),
            one(away, indices(4, high=3), combine="max", shape=(3, 3)),
            one(real(4), points, form="points", shape=(2, 3)),
            one(
                real(2, 4), indices(2, 4, 2, high=3), axis=1, batch_dims=1, form="points",
                shape=(2, 3, 2), combine="max",
            ),
            one(real(3, 2), OUTSIDE, form="along", shape=(5, 3)),
            one(
                real(2, 5, 4), indices(2, 5, 4, high=3), axis=1, batch_dims=1, form="along",
                shape=(3, 3, 4),
            ),
        ]  # fmt: skip


def identity(combine: str, dtype: np.dtype) -> float | int:
    """What a combination starts from: the value that changes nothing."""
    if combine in ("add", "mul"):
        return 0 if combine == "add" else 1
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).max if combine == "min" else np.iinfo(dtype).min)
    return np.inf if combine == "min" else -np.inf


@register
@frozen
class GatherGradient(Indexing):
    """Stands for ScatterReduce until the shape is known."""

    axis: int
    batch_dims: int
    form: str
    name: ClassVar[str] = "gather_gradient"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY | Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "The first input added at the indices of the second to zeros in the shape of the third: "
        "the gradient of gather."
    )

    def infer(self, dy: TensorType, index: TensorType, like: TensorType) -> TensorType:
        check_dtype(self.name, dy.dtype, self.dtypes)
        check_indices(self.name, None, index, None)
        return TensorType(like.shape, dy.dtype)

    def _static(self, shape: Sequence[int]) -> ScatterReduce:
        return ScatterReduce("add", self.axis, self.batch_dims, self.form, tuple(shape))

    def reference(self, dy: np.ndarray, index: np.ndarray, like: np.ndarray) -> np.ndarray:
        return self._static(like.shape).reference(dy, index)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        back = apply(Gather(self.axis, self.batch_dims, self.form), gradients[0], inputs[1])
        return [back, None, None]

    def decompose(self, dy: Tensor, index: Tensor, like: Tensor) -> Tensor:
        # Half types are summed in float32, which only a buffer of float32 can hold.
        total = apply(self._static(like.type.static_shape), wide(dy), index)
        return cast_to(total, dy.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(
                real(4, 3), indices(4, high=5), real(5, 3), axis=0, batch_dims=0, form="slices"
            ),
            sample(
                real(2, 4, 3), indices(2, 4, high=5), real(2, 5, 3), axis=-2, batch_dims=1,
                form="slices",
            ),
            sample(real(3, 2), OUTSIDE, real(5, 2), axis=0, batch_dims=0, form="along"),
        ]  # fmt: skip


def gather_gradient(
    dy: Tensor, index: Tensor, like: Tensor, axis: int, batch_dims: int, form: str
) -> Tensor:
    """Parts `dy` added at `index` to zeros in the shape of `like`."""
    if is_static(dy, like, index) and not dy.dtype.is_half:
        op = ScatterReduce("add", axis, batch_dims, form, like.type.static_shape)
        return apply(op, dy, index)
    return apply(GatherGradient(axis, batch_dims, form), dy, index, like)
