"""Pooling over windows: maximum and average, their gradients, and global pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, NUMBERS, DType, compute_dtype, int64
from niello.core.errors import ShapeError
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, distinct, real, record, register, sample
from niello.graph.tensor import Tensor
from niello.kernel import ir
from niello.kernel.build import Builder, Index, Value, ravel
from niello.kernel.ir import Expr
from niello.ops.define import check_dtype, half_as_float32
from niello.ops.window import (
    Layout,
    Window,
    inside,
    visit_windows,
)


@record
@dataclass(frozen=True)
class PoolSettings:
    """Kernel sizes, window and layout of a pooling."""

    kernel: tuple[int, ...]
    window: Window
    data: Layout

    def output(self, asked: str, x: TensorType) -> TensorType:
        if x.shape is None:
            return TensorType(None, x.dtype)
        if len(x.shape) != len(self.data.letters):
            raise ShapeError(
                asked,
                f"the input must have {len(self.data.letters)} dimensions ({self.data.letters})",
                received=show(x.shape),
            )
        batch, channel, sizes = self.data.pick(x.shape)
        found = self.window.output(asked, sizes, self.kernel)
        return TensorType(self.data.build(batch, channel, found), x.dtype)

    def padded(self, x: np.ndarray, fill: Any, outputs: tuple[int, ...]) -> np.ndarray:
        """The input in channel-last order, padded so that every window fits."""
        moved = np.moveaxis(
            x, (self.data.batch, *self.data.spatial, self.data.channel), range(x.ndim)
        )
        sizes = moved.shape[1:-1]
        pads = []
        for size, (low, high), k, s, d, out in zip(
            sizes,
            self.window.amounts(sizes, self.kernel),
            self.kernel,
            self.window.strides,
            self.window.dilations,
            outputs,
            strict=True,
        ):
            reach = (out - 1) * s + (k - 1) * d + 1 - size - low if out else 0
            pads.append((low, max(high, reach)))
        return np.pad(moved, ((0, 0), *pads, (0, 0)), constant_values=fill)

    def restore(self, x: np.ndarray) -> np.ndarray:
        """From channel-last order back to the layout."""
        return np.moveaxis(
            x, range(x.ndim), (self.data.batch, *self.data.spatial, self.data.channel)
        )

    def stacked(self, asked: str, x: np.ndarray, fill: Any) -> np.ndarray:
        """[kernel elements, N, out..., C]: what each window reads."""
        out_shape = self.output(asked, TensorType(x.shape, x.dtype)).static_shape
        outputs = self.data.pick(out_shape)[2]
        padded = self.padded(x, fill, outputs)
        parts: list[np.ndarray] = []
        axes = tuple(range(1, x.ndim - 1))
        visit_windows(
            padded, self.window, self.kernel, outputs, axes, lambda _, s: parts.append(padded[s])
        )
        return np.stack(parts)


class PoolOp(Op):
    """What pooling ops have in common; not an op itself."""

    settings: PoolSettings

    def _element(
        self,
        k: Builder,
        x: Value,
        batch: Expr,
        channel: Expr,
        position: tuple[Expr, ...],
        offset: tuple[Expr, ...],
        fill: Any,
    ) -> Expr:
        """What the window at `position` reads at kernel `offset`, `fill` in the padding."""
        s = self.settings
        _, _, sizes = s.data.pick(x.shape)
        before = s.window.before(sizes, s.kernel)
        source = s.window.source(position, offset, before)
        return k.guarded(
            inside(k, source, sizes), lambda: x(*s.data.build(batch, channel, source)), fill
        )

    def _winner(
        self, k: Builder, x: Value, batch: Expr, channel: Expr, position: tuple[Expr, ...]
    ) -> Expr:
        """Row-major offset in the window of its first maximum."""
        low = _lowest(x.dtype)
        return k.arg_reduce(
            "max",
            self.settings.kernel,
            lambda *r: self._element(k, x, batch, channel, position, r, low),
        )


def _lowest(dtype: DType) -> Any:
    return -math.inf if dtype.is_float else dtype.min


@register
@dataclass(frozen=True)
class MaxPool(PoolOp):
    """Maximum of each window."""

    settings: PoolSettings
    name: ClassVar[str] = "max_pool"
    traits: ClassVar[Trait] = Trait.WINDOW
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "Maximum over sliding windows of the spatial axes; padding never wins, NaN does "
        "(ONNX MaxPool)."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return self.settings.output(self.name, x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        low = -np.inf if x.dtype.kind not in "iu" else np.iinfo(x.dtype).min
        found = self.settings.stacked(self.name, x, low).max(axis=0)
        return self.settings.restore(found).astype(x.dtype, copy=False)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        g, x = gradients[0], inputs[0]
        assert g is not None
        return (x.graph.apply(MaxPoolGradient(self.settings), g, x),)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        batch, channel, position = self.settings.data.pick(index)
        low = _lowest(x.dtype)
        return k.reduce(
            "max",
            self.settings.kernel,
            lambda *r: self._element(k, x, batch, channel, position, r, low),
        )

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(distinct(*x), settings=s) for x, s in sample_settings()]


@register
@dataclass(frozen=True)
class MaxPoolGradient(PoolOp):
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
        winners = s.stacked("max_pool", x, -np.inf).argmax(axis=0)
        sizes = s.data.pick(x.shape)[2]
        outputs = s.data.pick(g.shape)[2]
        order = (s.data.batch, *s.data.spatial, s.data.channel)
        moved = np.moveaxis(g, order, range(g.ndim)).astype(np.float64)
        padded = np.zeros_like(s.padded(x, 0, outputs), dtype=np.float64)
        kernel = s.kernel

        def visit(offset: tuple[int, ...], slices: tuple[slice, ...]) -> None:
            number = int(np.ravel_multi_index(offset, kernel))
            padded[slices] += np.where(winners == number, moved, 0)

        visit_windows(padded, s.window, kernel, outputs, tuple(range(1, x.ndim - 1)), visit)
        before = s.window.before(sizes, kernel)
        crop = tuple(slice(p, p + n) for p, n in zip(before, sizes, strict=True))
        return s.restore(padded[(slice(None), *crop)]).astype(g.dtype)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        h, x = gradients[0], inputs[1]
        assert h is not None
        # Linear in the gradient: its transpose picks, for each window, the winner's element.
        return (x.graph.apply(PickMaximum(self.settings), h, x), None)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        g, x = inputs
        s = self.settings
        batch, channel, position = s.data.pick(index)
        _, _, sizes = s.data.pick(x.shape)
        _, _, outputs = s.data.pick(g.shape)
        before = s.window.before(sizes, s.kernel)

        def share(offset: tuple[Expr, ...], there: Expr, window: tuple[Expr, ...]) -> Expr:
            def won() -> Expr:
                winner = self._winner(k, x, batch, channel, window)
                mine = winner.eq(ravel(offset, s.kernel))
                return k.where(mine, g(*s.data.build(batch, channel, window)), 0)

            return k.guarded(there, won, 0)

        plain = zip(s.kernel, s.window.strides, s.window.dilations, strict=True)
        if all(n <= step and d == 1 for n, step, d in plain):
            # Windows do not overlap: at most one reads this element.
            starts = [i + p for i, p in zip(position, before, strict=True)]
            window = tuple(i // step for i, step in zip(starts, s.window.strides, strict=True))
            offset = tuple(i % step for i, step in zip(starts, s.window.strides, strict=True))
            tests = [w < n for w, n in zip(window, outputs, strict=True)]
            tests += [o < n for o, n in zip(offset, s.kernel, strict=True)]
            return share(offset, k.all_of(*tests), window)
        return k.reduce(
            "add",
            s.kernel,
            lambda *r: share(r, *s.window.covering(k, position, r, before, outputs)),
        )

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for x, s in sample_settings():
            out = s.output(cls.name, TensorType(x)).static_shape
            found.append(sample(real(*out), distinct(*x), settings=s))
        return found


@register
@dataclass(frozen=True)
class PickMaximum(PoolOp):
    """From each window, the element of the first input where the second has its first maximum."""

    settings: PoolSettings
    name: ClassVar[str] = "pick_maximum"
    traits: ClassVar[Trait] = Trait.WINDOW
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "From each window, the element of the first tensor at the place of the second's maximum."
    )

    def infer(self, h: TensorType, x: TensorType) -> TensorType:
        check_dtype(self.name, h.dtype, self.dtypes)
        return self.settings.output(self.name, TensorType(x.shape, h.dtype))

    def reference(self, h: np.ndarray, x: np.ndarray) -> np.ndarray:
        s = self.settings
        winners = s.stacked("max_pool", x, -np.inf).argmax(axis=0)
        found = np.take_along_axis(s.stacked("max_pool", h, 0), winners[None], 0)[0]
        return s.restore(found).astype(h.dtype, copy=False)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        g, x = gradients[0], inputs[1]
        assert g is not None
        return (x.graph.apply(MaxPoolGradient(self.settings), g, x), None)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        h, x = inputs
        batch, channel, position = self.settings.data.pick(index)
        winner = self._winner(k, x, batch, channel, position)

        def chosen(*r: Expr) -> Expr:
            mine = winner.eq(ravel(r, self.settings.kernel))
            value = self._element(k, h, batch, channel, position, r, 0)
            return k.where(mine, value, 0)

        return k.reduce("add", self.settings.kernel, chosen)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(real(*x), distinct(*x), settings=s) for x, s in sample_settings()]


@register
@dataclass(frozen=True)
class AveragePool(PoolOp):
    """Mean of each window."""

    settings: PoolSettings
    include_padding: bool
    name: ClassVar[str] = "average_pool"
    traits: ClassVar[Trait] = Trait.WINDOW
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Mean over sliding windows of the spatial axes; padding counts as zeros or not at all "
        "(ONNX AveragePool)."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return self.settings.output(self.name, x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        def mean(x: np.ndarray) -> np.ndarray:
            total = self.settings.stacked(self.name, x, 0).sum(axis=0)
            return self.settings.restore(total / self._counts_of(x))

        return np.asarray(half_as_float32(mean, (x,))).astype(x.dtype, copy=False)

    def _counts_of(self, x: np.ndarray) -> np.ndarray:
        """How many elements each window averages over; 1 for a window that holds none."""
        s = self.settings
        if not self.include_padding:
            return np.maximum(s.stacked(self.name, np.ones_like(x), 0).sum(axis=0), 1)
        # Declared padding counts, what ceil mode reads beyond it does not.
        sizes = s.data.pick(x.shape)[2]
        pads = s.window.amounts(sizes, s.kernel)
        widths = s.data.build((0, 0), (0, 0), pads)
        ones = np.ones_like(np.pad(x, widths))
        bare = replace(s, window=replace(s.window, padding=((0, 0),) * len(sizes)))
        return bare.stacked(self.name, ones, 0).sum(axis=0)

    def count(self, position: tuple[Expr, ...], sizes: tuple[int, ...]) -> Expr | int:
        """Number of elements a window averages over, per axis and multiplied."""
        s = self.settings
        total: Expr | int = 1
        for o, size, n, step, d, (low, high) in zip(
            position,
            sizes,
            s.kernel,
            s.window.strides,
            s.window.dilations,
            s.window.amounts(sizes, s.kernel),
            strict=True,
        ):
            first = o * step - low
            bottom, top = (-low, size + high) if self.include_padding else (0, size)
            count: Expr | int = ir.const(0, int64)
            for r in range(n):
                spot = first + r * d
                ok = ir.fn("and", ir.fn("le", bottom, spot), spot < top)
                count = count + ir.cast(ok, int64)
            total = count * total
        return total

    def scale(
        self, k: Builder, position: tuple[Expr, ...], sizes: tuple[int, ...], dtype: DType
    ) -> Expr:
        """The number of elements of a window as a number of the compute dtype."""
        found = self.count(position, sizes)
        if isinstance(found, int):
            return k.const(max(found, 1), compute_dtype(dtype))
        return k.cast(k.max(found, 1), compute_dtype(dtype))

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        g, x = gradients[0], inputs[0]
        assert g is not None
        op = AveragePoolGradient(self.settings, self.include_padding)
        return (x.graph.apply(op, g, x),)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        batch, channel, position = self.settings.data.pick(index)
        sizes = self.settings.data.pick(x.shape)[2]
        total = k.reduce(
            "add",
            self.settings.kernel,
            lambda *r: self._element(k, x, batch, channel, position, r, 0),
        )
        return total / self.scale(k, position, sizes, x.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(*x), settings=s, include_padding=flag)
            for x, s in sample_settings()
            for flag in (False, True)
        ]


@register
@dataclass(frozen=True)
class AveragePoolGradient(PoolOp):
    """Spreads each window's gradient over its elements. The second input gives the shape."""

    settings: PoolSettings
    include_padding: bool
    name: ClassVar[str] = "average_pool_gradient"
    traits: ClassVar[Trait] = Trait.WINDOW | Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = "Gradient of average pooling: each element receives its windows' shares."

    def _forward(self) -> AveragePool:
        return AveragePool(self.settings, self.include_padding)

    def infer(self, g: TensorType, x: TensorType) -> TensorType:
        check_dtype(self.name, g.dtype, self.dtypes)
        return TensorType(x.shape, g.dtype)

    def reference(self, g: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.asarray(half_as_float32(self._reference, (g, x))).astype(g.dtype, copy=False)

    def _reference(self, g: np.ndarray, x: np.ndarray) -> np.ndarray:
        s = self.settings
        sizes, outputs = s.data.pick(x.shape)[2], s.data.pick(g.shape)[2]
        order = (s.data.batch, *s.data.spatial, s.data.channel)
        share = np.moveaxis(g, order, range(g.ndim)) / self._forward()._counts_of(x)
        padded = np.zeros_like(s.padded(x, 0, outputs), dtype=share.dtype)

        def visit(_: tuple[int, ...], slices: tuple[slice, ...]) -> None:
            padded[slices] += share

        visit_windows(padded, s.window, s.kernel, outputs, tuple(range(1, x.ndim - 1)), visit)
        before = s.window.before(sizes, s.kernel)
        crop = tuple(slice(p, p + n) for p, n in zip(before, sizes, strict=True))
        return s.restore(padded[(slice(None), *crop)])

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        h = gradients[0]
        assert h is not None
        return (h.graph.apply(self._forward(), h), None)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        g, x = inputs
        s = self.settings
        batch, channel, position = s.data.pick(index)
        _, _, sizes = s.data.pick(x.shape)
        _, _, outputs = s.data.pick(g.shape)
        before = s.window.before(sizes, s.kernel)

        def share(*r: Expr) -> Expr:
            there, window = s.window.covering(k, position, r, before, outputs)

            def part() -> Expr:
                count = self._forward().scale(k, window, sizes, g.dtype)
                return g(*s.data.build(batch, channel, window)) / count

            return k.guarded(there, part, 0)

        return k.reduce("add", s.kernel, share)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for x, s in sample_settings():
            out = s.output(cls.name, TensorType(x)).static_shape
            for flag in (False, True):
                found.append(sample(real(*out), real(*x), settings=s, include_padding=flag))
        return found


def sample_settings() -> list[tuple[tuple[int, ...], PoolSettings]]:
    """(data shape, settings) that cover every attribute."""
    one, two, three = (1, 1), (2, 2), (3, 3)
    wide = ((1, 1), (0, 1))
    return [
        ((2, 4, 6, 3), PoolSettings(two, Window(two, one, "valid"), Layout("NHWC"))),
        ((1, 2, 5, 5), PoolSettings(two, Window(two, one, "same"), Layout("NCHW"))),
        ((1, 2, 5, 6), PoolSettings(three, Window(one, one, wide), Layout("NCHW"))),
        ((1, 6, 5, 2), PoolSettings(three, Window(two, one, "valid", True), Layout("NHWC"))),
        ((1, 7, 7, 2), PoolSettings(two, Window((2, 3), two, "same_lower"), Layout("NHWC"))),
        ((1, 5, 5, 2), PoolSettings((1, 2), Window(two, one, wide), Layout("NHWC"))),
        ((2, 7, 3), PoolSettings((3,), Window((2,), (1,), "same"), Layout("NWC"))),
        ((0, 4, 4, 2), PoolSettings(two, Window(two, one, "valid"), Layout("NHWC"))),
    ]
