"""Maximum pooling: the values, where they came from, and gradients by either.

max_pool           values
max_pool_indices   positions of the first maxima, in one of INDEX_MODES
max_pool_gradient  each window's gradient goes to its first maximum, found again
place_at_indices   each window's value goes to the position that an index names
pick_at_indices    the transpose of that: from each window the element that an index names
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import FLOATS, NUMBERS, DType, int64
from niello.core.records import frozen
from niello.core.shapes import Shape
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    distinct,
    not_differentiable,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value, ravel, unravel
from niello.kernel.ir import Expr
from niello.ops.define import check_dtype
from niello.ops.pool_windows import Exprs, PoolSettings, Sizes, sample_settings

Gradients = tuple[Tensor | None, ...]
Tensors = tuple[Tensor, ...]
INDEX_DTYPES = (dtypes.int32, dtypes.int64)


def lowest(dtype: DType) -> Any:
    """What padding holds for a maximum."""
    return -math.inf if dtype.is_float else dtype.min


def winner(k: Builder, s: PoolSettings, x: Value, index: Index) -> Exprs:
    """Offset in the window at `index` of its first maximum that lies in the input."""
    sizes = s.pick(x.shape)
    extents = s.windows.extents(sizes)
    found = k.arg_reduce("max", extents, lambda *r: s.element(k, x, index, r, lowest(x.dtype)))
    offset = unravel(found, extents)
    # Padding is first only where all that the window reads is as low as padding.
    first = s.windows.first(k, s.pick(index), sizes)
    return tuple(r if f is None else k.max(r, f) for r, f in zip(offset, first, strict=True))


@register
@frozen
class MaxPool(Op):
    """Maximum of each window."""

    settings: PoolSettings
    name: ClassVar[str] = "max_pool"
    traits: ClassVar[Trait] = Trait.WINDOW
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "Maximum over windows of some axes; padding never wins, NaN does (ONNX MaxPool)."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return self.settings.output(self.name, x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        low = -np.inf if x.dtype.kind not in "iu" else np.iinfo(x.dtype).min
        return self.settings.stacked(x, low).max(axis=0).astype(x.dtype, copy=False)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        g, x, s = gradients[0], inputs[0], self.settings
        assert g is not None
        if s.windows.apart():
            return (x.graph.apply(MaxPoolGradient(s), g, x),)  # type: ignore[return-value]
        # Where windows overlap, each winner is found once and not for every element of a window.
        at: Any = x.graph.apply(MaxPoolIndices(s, "spatial"), x)
        return (x.graph.apply(PlaceAtIndices(s, "spatial"), g, at, x),)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        return self.settings.over_window(k, "max", x, index, lowest(x.dtype))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(distinct(*x), settings=s) for x, s in sample_settings()]


@register
@frozen
class MaxPoolIndices(Op):
    """Where the maximum of each window is."""

    settings: PoolSettings
    mode: str
    dtype: DType = dtypes.int32
    name: ClassVar[str] = "max_pool_indices"
    traits: ClassVar[Trait] = Trait.WINDOW
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "Flat index of the first maximum of each window: in the tensor, in its innermost axes, in "
        "the pooled axes, or in the window; -1 for a window of padding only (ONNX MaxPool)."
    )
    grad = not_differentiable("it gives positions")

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return TensorType(self.settings.output(self.name, x).shape, self.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        spots = self.settings.positions(self.mode, x.shape)
        found = np.take_along_axis(spots, self.settings.winners(x)[None], 0)[0]
        holds = (self.settings.sources(x.shape) >= 0).any(axis=0)
        return np.where(holds, found, -1).astype(self.dtype.numpy)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        s = self.settings
        offset = winner(k, s, x, index)
        sizes = s.pick(x.shape)
        there, source = s.windows.read(k, s.pick(index), offset, sizes)
        extents = s.windows.extents(sizes)
        there = k.all_of(there, *(r < n for r, n in zip(offset, extents, strict=True)))
        found = s.position(self.mode, x.shape, index, offset, source)
        return k.cast(k.where(there, found, -1), self.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        modes = ("spatial", "local_2d", "global_1d", "global_3d", "tensor", "local_4d")
        found = []
        for i, (x, s) in enumerate(sample_settings()):
            for mode in (modes[i % 6], modes[(i + 3) % 6]):
                found.append(sample(distinct(*x), settings=s, mode=mode))
        bottom = np.full((1, 2, 5, 6), -np.inf)
        bottom[0, 0, 3, 3] = 1.0
        padded = sample_settings()[2][1]
        found.append(sample(bottom, settings=padded, mode="spatial", dtype=dtypes.int64))
        return found


def routed(
    k: Builder,
    s: PoolSettings,
    index: Index,
    sizes: Sizes,
    outputs: Sizes,
    share: Callable[[Exprs, Index], Expr],
) -> Expr:
    """The sum over all windows that read the element `index` of share(offset in it, window)."""
    place = s.pick(index)

    def part(*r: Expr) -> Expr:
        there, window, offset = s.windows.covering(k, place, r, sizes, outputs)
        return k.guarded(there, lambda: share(offset, s.place(index, window)), 0)

    return k.reduce("add", s.windows.cover_extents(sizes, outputs), part)


@register
@frozen
class MaxPoolGradient(Op):
    """Routes each window's gradient to its first maximum. Inputs: gradient, pooled tensor."""

    settings: PoolSettings
    name: ClassVar[str] = "max_pool_gradient"
    traits: ClassVar[Trait] = Trait.WINDOW
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Gradient of max pooling: each window's gradient goes to its first maximum in row-major "
        "order."
    )

    def infer(self, g: TensorType, x: TensorType) -> TensorType:
        check_dtype(self.name, g.dtype, self.dtypes)
        return x

    def reference(self, g: np.ndarray, x: np.ndarray) -> np.ndarray:
        s = self.settings
        numbers = np.arange(math.prod(s.windows.extents(s.pick(x.shape))))
        mine = s.winners(x)[None] == numbers.reshape(-1, *(1,) * x.ndim)
        return s.scattered(np.where(mine, g.astype(np.float64), 0.0), x.shape).astype(g.dtype)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        h, x = gradients[0], inputs[1]
        assert h is not None
        # Linear in the gradient: its transpose picks, for each window, the winner's element.
        at: Any = x.graph.apply(MaxPoolIndices(self.settings, "spatial"), x)
        return (h.graph.apply(PickAtIndices(self.settings, "spatial"), h, at), None)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        g, x = inputs
        s = self.settings
        sizes = s.pick(x.shape)
        extents = s.windows.extents(sizes)

        def share(offset: Exprs, window: Index) -> Expr:
            chosen = ravel(winner(k, s, x, window), extents)
            return k.where(chosen.eq(ravel(offset, extents)), g(*window), 0)

        return routed(k, s, index, sizes, s.pick(g.shape), share)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for x, s in sample_settings():
            out = s.output(cls.name, TensorType(x)).static_shape
            found.append(sample(real(*out), distinct(*x), settings=s))
        return found


def _indices_of(s: PoolSettings, x: Sizes, mode: str, seed: int) -> np.ndarray:
    """Sample indices: those of random values."""
    values = np.random.default_rng(seed).standard_normal(x)
    return MaxPoolIndices(s, mode).reference(values)


class IndexedPool(Op):
    """What the two ops that follow indices have in common; not an op itself."""

    settings: PoolSettings
    mode: str

    def _named(self, index: Index, offset: Exprs, source: Exprs, shape: Sizes) -> Expr:
        return self.settings.position(self.mode, shape, index, offset, source)

    def _check(self, values: TensorType, at: TensorType) -> None:
        check_dtype(self.name, values.dtype, FLOATS)
        check_dtype(self.name, at.dtype, INDEX_DTYPES)


@register
@frozen
class PlaceAtIndices(IndexedPool):
    """Inputs: values, indices and, unless `sizes` gives the pooled axes, a tensor of the result's
    shape."""

    settings: PoolSettings
    mode: str
    sizes: Sizes | None = None
    name: ClassVar[str] = "place_at_indices"
    traits: ClassVar[Trait] = Trait.WINDOW | Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Gradient of max pooling by its indices: adds each window's value at the place in the "
        "window that its index names, in zeros."
    )

    def infer(self, g: TensorType, at: TensorType, *like: TensorType) -> TensorType:
        self._check(g, at)
        if like:
            return TensorType(like[0].shape, g.dtype)
        if g.shape is None or self.sizes is None:
            return TensorType(None, g.dtype)
        shape: Shape = self.settings.place(g.shape, self.sizes)
        self.settings.output(self.name, TensorType(shape, g.dtype))
        return TensorType(shape, g.dtype)

    def _shape(self, g: Sizes, like: Sequence[Any]) -> Sizes:
        if like:
            return tuple(like[0].shape)
        assert self.sizes is not None
        return self.settings.place(g, self.sizes)

    def reference(self, g: np.ndarray, at: np.ndarray, *like: np.ndarray) -> np.ndarray:
        shape = self._shape(g.shape, like)
        s = self.settings
        mine = (s.positions(self.mode, shape) == at[None]) & (s.sources(shape) >= 0)
        return s.scattered(np.where(mine, g.astype(np.float64), 0.0), shape).astype(g.dtype)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        h, at = gradients[0], inputs[1]
        assert h is not None
        picked: Any = h.graph.apply(PickAtIndices(self.settings, self.mode), h, at)
        return (picked, *(None for _ in inputs[1:]))

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        if len(inputs) < 3:
            return None
        sizes = self.settings.pick(inputs[2].type.static_shape)
        return inputs[0].graph.apply(replace(self, sizes=sizes), *inputs[:2])  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        g, at = inputs[:2]
        s = self.settings
        shape = self._shape(g.shape, inputs[2:])

        def share(offset: Exprs, window: Index) -> Expr:
            named = self._named(index, offset, s.pick(index), shape)
            return k.where(k.cast(at(*window), int64).eq(named), g(*window), 0)

        return routed(k, s, index, s.pick(shape), s.pick(g.shape), share)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        modes = ("spatial", "local_3d", "tensor", "local_1d", "global_2d", "local_4d")
        for i, (x, s) in enumerate(sample_settings()):
            mode = modes[i % 6]
            at = _indices_of(s, x, mode, i)
            found.append(sample(real(*at.shape), at, settings=s, mode=mode, sizes=s.pick(x)))
        x, s = sample_settings()[2]
        at = _indices_of(s, x, "spatial", 50).astype(np.int64)
        found.append(sample(real(*at.shape), at, real(*x), settings=s, mode="spatial"))
        return found


@register
@frozen
class PickAtIndices(IndexedPool):
    """Inputs: a tensor of the shape that was pooled, and indices."""

    settings: PoolSettings
    mode: str
    name: ClassVar[str] = "pick_at_indices"
    traits: ClassVar[Trait] = Trait.WINDOW
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = "From each window, the element that an index of max pooling names."

    def infer(self, h: TensorType, at: TensorType) -> TensorType:
        self._check(h, at)
        return self.settings.output(self.name, h)

    def reference(self, h: np.ndarray, at: np.ndarray) -> np.ndarray:
        s = self.settings
        mine = (s.positions(self.mode, h.shape) == at[None]) & (s.sources(h.shape) >= 0)
        return np.where(mine, s.stacked(h, 0).astype(np.float64), 0.0).sum(axis=0).astype(h.dtype)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        g, (h, at) = gradients[0], inputs
        assert g is not None
        sizes = None if h.shape is None else self.settings.pick(h.shape)
        if sizes is not None and None not in sizes:
            op = PlaceAtIndices(self.settings, self.mode, sizes)
            return (g.graph.apply(op, g, at), None)  # type: ignore[return-value]
        return (g.graph.apply(PlaceAtIndices(self.settings, self.mode), g, at, h), None)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        h, at = inputs
        s = self.settings
        sizes = s.pick(h.shape)

        def chosen(*r: Expr) -> Expr:
            _, source = s.windows.read(k, s.pick(index), r, sizes)
            named = self._named(index, r, source, h.shape)
            mine = k.cast(at(*index), int64).eq(named)
            return k.where(mine, s.element(k, h, index, r, 0), 0)

        return k.reduce("add", s.windows.extents(sizes), chosen)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        modes = ("spatial", "local_3d", "tensor", "local_1d", "global_2d", "local_4d")
        for i, (x, s) in enumerate(sample_settings()):
            mode = modes[(i + 1) % 6]
            found.append(sample(real(*x), _indices_of(s, x, mode, i), settings=s, mode=mode))
        return found
