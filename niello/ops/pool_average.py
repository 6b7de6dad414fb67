"""Average and Lp pooling, and the gradient of a windowed sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType, compute_dtype
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.comparison import equal
from niello.ops.define import check_dtype, half_as_float32
from niello.ops.pool import Gradients, Tensors, routed
from niello.ops.pool_windows import COUNTS, Exprs, PoolSettings, sample_settings
from niello.ops.select import select


def divisor(
    k: Builder, s: PoolSettings, counted: str, index: Index, shape: tuple[int, ...], dtype: DType
) -> Expr:
    """What the sum of the window at `index` is divided by, as a number of the compute dtype."""
    found = s.windows.count(s.pick(index), s.pick(shape), counted)
    if isinstance(found, int):
        return k.const(max(found, 1), compute_dtype(dtype))
    return k.cast(k.max(found, 1), compute_dtype(dtype))


@register
@frozen
class AveragePool(Op):
    """Mean of each window, or its sum where `counted` is "none"."""

    settings: PoolSettings
    counted: str
    name: ClassVar[str] = "average_pool"
    traits: ClassVar[Trait] = Trait.WINDOW
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Mean over windows of some axes; padding counts as zeros or not at all, or nothing is "
        "divided by (ONNX AveragePool)."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return self.settings.output(self.name, x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        def mean(x: np.ndarray) -> Any:
            total = self.settings.stacked(x, 0).sum(axis=0)
            if self.counted == "none":
                return total
            return (total / self.settings.counts(x.shape, self.counted)).astype(x.dtype)

        return np.asarray(half_as_float32(mean, (x,))).astype(x.dtype, copy=False)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        g, x = gradients[0], inputs[0]
        assert g is not None
        op = AveragePoolGradient(self.settings, self.counted)
        return (x.graph.apply(op, g, x),)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        total = self.settings.over_window(k, "add", x, index, 0)
        if self.counted == "none":
            return total
        return total / divisor(k, self.settings, self.counted, index, x.shape, x.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(*x), settings=s, counted=counted)
            for x, s in sample_settings()
            for counted in COUNTS
        ]


@register
@frozen
class AveragePoolGradient(Op):
    """Spreads each window's gradient over its elements. The second input gives the shape."""

    settings: PoolSettings
    counted: str
    name: ClassVar[str] = "average_pool_gradient"
    traits: ClassVar[Trait] = Trait.WINDOW | Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = "Gradient of average pooling: each element receives its windows' shares."

    def infer(self, g: TensorType, x: TensorType) -> TensorType:
        check_dtype(self.name, g.dtype, self.dtypes)
        return TensorType(x.shape, g.dtype)

    def reference(self, g: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.asarray(half_as_float32(self._reference, (g, x))).astype(g.dtype, copy=False)

    def _reference(self, g: np.ndarray, x: np.ndarray) -> np.ndarray:
        s = self.settings
        share = g if self.counted == "none" else g / s.counts(x.shape, self.counted)
        sources = s.sources(x.shape)
        return s.scattered(np.broadcast_to(share, sources.shape), x.shape)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        h = gradients[0]
        assert h is not None
        return (h.graph.apply(AveragePool(self.settings, self.counted), h), None)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        g, x = inputs
        s = self.settings

        def share(offset: Exprs, window: Index) -> Expr:
            if self.counted == "none":
                return g(*window)
            return g(*window) / divisor(k, s, self.counted, window, x.shape, g.dtype)

        return routed(k, s, index, s.pick(x.shape), s.pick(g.shape), share)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for x, s in sample_settings():
            out = s.output(cls.name, TensorType(x)).static_shape
            for counted in COUNTS:
                found.append(sample(real(*out), real(*x), settings=s, counted=counted))
        return found


@register
@frozen
class LpPool(Op):
    """The p-norm of each window."""

    settings: PoolSettings
    p: float = 2.0
    name: ClassVar[str] = "lp_pool"
    traits: ClassVar[Trait] = Trait.WINDOW
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "sum(|x|**p)**(1/p) over windows of some axes; padding counts as zeros (ONNX LpPool). The "
        "gradient of a window of zeros is 0."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return self.settings.output(self.name, x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        def norm(x: np.ndarray) -> Any:
            total = (np.abs(self.settings.stacked(x, 0)).astype(np.float64) ** self.p).sum(axis=0)
            return (total ** (1 / self.p)).astype(x.dtype)

        return np.asarray(half_as_float32(norm, (x,))).astype(x.dtype, copy=False)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        g, x, y = gradients[0], inputs[0], outputs[0]
        assert g is not None
        call = opdef.functions()
        zero = equal(y, 0.0)
        if self.p == 2.0:
            slope, scale = x, y
        elif self.p == 1.0:
            slope, scale = call["sign"](x), y * 0.0 + 1.0
        else:
            near = select(equal(x, 0.0), 1.0, call["absolute"](x))
            slope = call["sign"](x) * call["power"](near, self.p - 1.0)
            scale = call["power"](select(zero, 1.0, y), self.p - 1.0)
        share: Any = select(zero, 0.0, g / select(zero, 1.0, scale))
        spread: Any = x.graph.apply(AveragePoolGradient(self.settings, "none"), share, x)
        return (spread * slope,)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        s = self.settings

        def term(*r: Expr) -> Expr:
            value = s.element(k, x, index, r, 0)
            if self.p == 2.0:
                return value * value
            size = k.abs(value)
            return size if self.p == 1.0 else k.pow(size, self.p)

        total = k.reduce("add", s.windows.extents(s.pick(x.shape)), term)
        if self.p == 1.0:
            return total
        return k.sqrt(total) if self.p == 2.0 else k.pow(total, 1.0 / self.p)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = [sample(real(*x, low=0.2), settings=s) for x, s in sample_settings()]
        x, s = sample_settings()[2]
        found += [sample(real(*x, low=0.2), settings=s, p=p, tolerance=4.0) for p in (1.0, 3.0)]
        found.append(sample(real(*x), settings=s, p=2.5, grad=False, tolerance=4.0))
        found.append(sample(np.zeros(x), settings=s, grad=False))
        return found
