"""Convolutions over any number of spatial axes, and their two gradients.

The three ops are each other's derivatives: convolution(x, w) is linear in both operands, so the
data gradient and the weights gradient are the two transposes of one trilinear form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import NUMBERS, DType
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import Shape, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.conv_settings import ConvolutionSettings, sample_settings
from niello.ops.define import check_dtype
from niello.ops.matmul import accumulator, check_accumulate, summed
from niello.ops.window import Layout, Window, inside, visit_windows


def _channel_last(x: np.ndarray, layout: Layout) -> np.ndarray:
    return np.moveaxis(x, (layout.batch, *layout.spatial, layout.channel), range(x.ndim))


def _from_channel_last(x: np.ndarray, layout: Layout) -> np.ndarray:
    return np.moveaxis(x, range(x.ndim), (layout.batch, *layout.spatial, layout.channel))


class ConvolutionOp(Op):
    """What the three convolution ops have in common; not an op itself."""

    traits: ClassVar[Trait] = Trait.CONTRACTION
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    settings: ConvolutionSettings

    def _rank(self, *types: TensorType) -> bool:
        """Check dtypes and ranks; False when a rank is unknown."""
        wanted = len(self.settings.data.letters)
        for t in types:
            check_dtype(self.name, t.dtype, self.dtypes)
            check_dtype(self.name, t.dtype, (types[0].dtype,))
            check_accumulate(self.name, t.dtype, self.settings.accumulate)
            if t.shape is None:
                return False
            if len(t.shape) != wanted:
                raise ShapeError(
                    self.name,
                    f"operands must have {wanted} dimensions "
                    f"({self.settings.data.letters} and {self.settings.weights.letters})",
                    received=show(t.shape),
                )
        return True

    def _check_channels(
        self, channels: int | None, inputs: int | None, outputs: int | None
    ) -> None:
        groups = self.settings.groups
        if outputs is not None and outputs % groups:
            raise ShapeError(
                self.name,
                f"{outputs} output channels do not divide into {groups} groups",
                received=outputs,
            )
        if channels is not None and inputs is not None and channels != inputs * groups:
            raise ShapeError(
                self.name,
                f"the data has {channels} channels, the weights expect {inputs} x {groups} groups",
                received=channels,
                advice="Check data_layout, weights_layout and groups",
                channels=channels,
            )


@register
@frozen
class Convolution(ConvolutionOp):
    """Cross-correlation of data with weights."""

    settings: ConvolutionSettings
    name: ClassVar[str] = "convolution"
    doc: ClassVar[str] = (
        "Convolution (cross-correlation) of data [N, C, ...] with weights [O, C/groups, ...] in "
        "any layout; source: ONNX Conv."
    )

    def infer(self, x: TensorType, w: TensorType) -> TensorType:
        if not self._rank(x, w):
            return TensorType(None, x.dtype)
        s = self.settings
        batch, channels, sizes = s.data.pick(x.shape)
        inputs, outputs, kernel = s.weights.pick(w.shape)  # type: ignore[arg-type]
        self._check_channels(channels, inputs, outputs)  # type: ignore[arg-type]
        found = s.window.output(self.name, sizes, kernel)
        return TensorType(s.data.build(batch, outputs, found), x.dtype)

    def reference(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return summed(self._reference, (x, w), self.settings.accumulate)

    def _reference(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        s = self.settings
        xl = _channel_last(x, s.data)
        kernel = s.kernel(w.shape)
        sizes = xl.shape[1:-1]
        pads = s.window.amounts(sizes, kernel)
        outputs = s.window.output(self.name, sizes, kernel)
        padded = np.pad(xl, ((0, 0), *_padding_for(pads, outputs, kernel, s.window, sizes), (0, 0)))
        inner, outer = s.per_group(w.shape)
        result = np.zeros((xl.shape[0], *outputs, outer * s.groups), x.dtype)  # type: ignore[arg-type]

        def visit(offset: tuple[int, ...], slices: tuple[slice, ...]) -> None:
            part = padded[slices]
            for g in range(s.groups):
                matrix = s.tensordot_weights(w, g, offset)
                result[..., g * outer : (g + 1) * outer] += (
                    part[..., g * inner : (g + 1) * inner] @ matrix
                )

        axes = tuple(range(1, xl.ndim - 1))
        visit_windows(padded, s.window, kernel, outputs, axes, visit)  # type: ignore[arg-type]
        return _from_channel_last(result, s.data)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        g, (x, w) = gradients[0], inputs
        assert g is not None
        return data_gradient(self.settings, g, w, x), weights_gradient(self.settings, g, x, w)

    def domain(self, *inputs: TensorType) -> tuple[int, ...] | None:
        return self.settings.grouped(self.infer(*inputs).static_shape)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x, w = inputs
        s = self.settings
        batch, channel, position = s.data.pick(index)
        _, _, sizes = s.data.pick(x.shape)
        kernel = s.kernel(w.shape)
        before = s.window.before(sizes, kernel)
        inner, outer = s.per_group(w.shape)
        group, _ = s.split_channel(channel, outer)
        acc = accumulator(x.dtype, s.accumulate)

        def data(*r: Expr) -> Expr:
            *offset, i = r
            source = s.window.source(position, tuple(offset), before)
            value = k.guarded(
                inside(k, source, sizes),
                lambda: x(*s.data.build(batch, group * inner + i, source)),
                0,
            )
            return k.cast(value, acc)

        def weight(*r: Expr) -> Expr:
            *offset, i = r
            return k.cast(w(*s.weights.build(i, channel, offset)), acc)

        found = contraction(k, (*kernel, inner), data, weight, acc, depthwise=inner == outer == 1)
        return k.cast(found, dtypes.compute_dtype(x.dtype))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(*x), real(*w), grad=grad, settings=settings)
            for x, w, settings, grad in sample_settings()
        ]


def contraction(
    k: Builder, extents: Sequence[int], a: object, b: object, acc: DType, *, depthwise: bool
) -> Expr:
    """A Contract; for one channel a group, a plain sum, which vectorises over the channels."""
    if depthwise:
        return k.reduce("add", extents, lambda *r: a(*r) * b(*r))  # type: ignore[operator]
    return k.contract(extents, a, b, acc)  # type: ignore[arg-type]


def _padding_for(
    pads: tuple[tuple[int, int], ...],
    outputs: Shape,
    kernel: tuple[int, ...],
    window: Window,
    sizes: tuple[int, ...],
) -> list[tuple[int, int]]:
    """Padding for the reference: at least what the last window reads (ceil mode reads further)."""
    found = []
    for (low, high), out, k, s, d, size in zip(
        pads, outputs, kernel, window.strides, window.dilations, sizes, strict=True
    ):
        assert out is not None
        needed = (out - 1) * s + (k - 1) * d + 1 - size - low if out else 0
        found.append((low, max(high, needed)))
    return found


@register
@frozen
class ConvolutionDataGradient(ConvolutionOp):
    """Gradient of a convolution with respect to its data; also the transposed convolution.

    The data's spatial sizes come from `sizes`, or from the third input, which is used only for its
    shape.
    """

    settings: ConvolutionSettings
    sizes: tuple[int, ...] | None = None
    name: ClassVar[str] = "convolution_data_gradient"
    traits: ClassVar[Trait] = Trait.CONTRACTION | Trait.SHAPE_ONLY
    doc: ClassVar[str] = (
        "Gradient of a convolution with respect to its data, from the gradient of its result and "
        "the weights: the transposed convolution; source: ONNX ConvTranspose."
    )

    def infer(self, g: TensorType, w: TensorType, *like: TensorType) -> TensorType:
        if not self._rank(g, w):
            return TensorType(None if not like else like[0].shape, g.dtype)
        s = self.settings
        batch, channels, outputs = s.data.pick(g.shape)
        inputs, expected, kernel = s.weights.pick(w.shape)  # type: ignore[arg-type]
        if channels is not None and expected is not None and channels != expected:
            raise ShapeError(
                self.name,
                f"the data has {channels} channels, the weights have {expected} output channels",
                received=f"{show(g.shape)} and {show(w.shape)}",
            )
        data_channels = None if inputs is None else inputs * s.groups  # type: ignore[operator]
        sizes: Shape | None = self.sizes
        if like:
            sizes = None if like[0].shape is None else s.data.pick(like[0].shape)[2]
        if sizes is None:
            sizes = (None,) * len(kernel)
        forward = s.window.output(self.name, sizes, kernel)
        for have, made in zip(outputs, forward, strict=True):
            if have is not None and made is not None and have != made:
                raise ShapeError(
                    self.name,
                    f"data of sizes {show(sizes)} would give {show(forward)}",
                    received=show(outputs),
                    advice="Check the output sizes, strides and padding",
                )
        return TensorType(s.data.build(batch, data_channels, sizes), g.dtype)

    def reference(self, g: np.ndarray, w: np.ndarray, *like: np.ndarray) -> np.ndarray:
        sizes = self.settings.data.pick(like[0].shape)[2] if like else self.sizes
        assert sizes is not None
        return summed(lambda a, b: self._reference(a, b, sizes), (g, w), self.settings.accumulate)

    def _reference(self, g: np.ndarray, w: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
        s = self.settings
        gl = _channel_last(g, s.data)
        kernel = s.kernel(w.shape)
        pads = s.window.amounts(sizes, kernel)
        outputs = gl.shape[1:-1]
        spans = _padding_for(pads, outputs, kernel, s.window, sizes)
        inner, outer = s.per_group(w.shape)
        padded = np.zeros(
            (
                gl.shape[0],
                *(low + size + high for size, (low, high) in zip(sizes, spans, strict=True)),
                inner * s.groups,
            ),
            g.dtype,
        )

        def visit(offset: tuple[int, ...], slices: tuple[slice, ...]) -> None:
            part = padded[slices]
            for n in range(s.groups):
                matrix = s.tensordot_weights(w, n, offset)
                part[..., n * inner : (n + 1) * inner] += (
                    gl[..., n * outer : (n + 1) * outer] @ matrix.T
                )

        visit_windows(padded, s.window, kernel, outputs, tuple(range(1, gl.ndim - 1)), visit)
        crop = tuple(slice(low, low + size) for size, (low, _) in zip(sizes, spans, strict=True))
        return _from_channel_last(padded[(slice(None), *crop)], s.data)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        h, (g, w, *like) = gradients[0], inputs
        assert h is not None
        forward: Any = g.graph.apply(Convolution(self.settings), h, w)
        return (forward, weights_gradient(self.settings, g, h, w), *(None for _ in like))  # type: ignore[return-value]

    def domain(self, *inputs: TensorType) -> tuple[int, ...] | None:
        return self.settings.grouped(self.infer(*inputs).static_shape)

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        if len(inputs) < 3:
            return None
        sizes = self.settings.data.pick(inputs[2].type.static_shape)[2]
        return inputs[0].graph.apply(replace(self, sizes=sizes), *inputs[:2])  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        g, w = inputs[:2]
        s = self.settings
        sizes = s.data.pick(inputs[2].shape)[2] if len(inputs) > 2 else self.sizes
        assert sizes is not None
        batch, channel, position = s.data.pick(index)
        _, _, outputs = s.data.pick(g.shape)
        kernel = s.kernel(w.shape)
        before = s.window.before(sizes, kernel)
        inner, outer = s.per_group(w.shape)
        group, within = s.split_channel(channel, inner)
        acc = accumulator(g.dtype, s.accumulate)

        def data(*r: Expr) -> Expr:
            *offset, o = r
            there, window = s.window.covering(k, position, tuple(offset), before, outputs)
            value = k.guarded(there, lambda: g(*s.data.build(batch, group * outer + o, window)), 0)
            return k.cast(value, acc)

        def weight(*r: Expr) -> Expr:
            *offset, o = r
            return k.cast(w(*s.weights.build(within, group * outer + o, offset)), acc)

        found = contraction(k, (*kernel, outer), data, weight, acc, depthwise=inner == outer == 1)
        return k.cast(found, dtypes.compute_dtype(g.dtype))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for x, w, settings, grad in sample_settings():
            out = Convolution(settings).infer(TensorType(x), TensorType(w)).static_shape
            sizes = settings.data.pick(x)[2]
            found.append(sample(real(*out), real(*w), grad=grad, settings=settings, sizes=sizes))
        x, w, settings, _ = next(iter(sample_settings()))
        out = Convolution(settings).infer(TensorType(x), TensorType(w)).static_shape
        found.append(sample(real(*out), real(*w), real(*x), settings=settings, sizes=None))
        return found


@register
@frozen
class ConvolutionWeightsGradient(ConvolutionOp):
    """Gradient of a convolution with respect to its weights.

    The kernel sizes come from `kernel`, or from the third input, used only for its shape.
    """

    settings: ConvolutionSettings
    kernel: tuple[int, ...] | None = None
    name: ClassVar[str] = "convolution_weights_gradient"
    traits: ClassVar[Trait] = Trait.CONTRACTION | Trait.SHAPE_ONLY
    doc: ClassVar[str] = (
        "Gradient of a convolution with respect to its weights, from the gradient of its result "
        "and the data."
    )

    def infer(self, g: TensorType, x: TensorType, *like: TensorType) -> TensorType:
        if not self._rank(g, x):
            return TensorType(None if not like else like[0].shape, g.dtype)
        s = self.settings
        _, outputs, _ = s.data.pick(g.shape)
        _, channels, _ = s.data.pick(x.shape)
        kernel: Shape | None = self.kernel
        if like:
            kernel = None if like[0].shape is None else s.weights.pick(like[0].shape)[2]
        if kernel is None:
            kernel = (None,) * len(s.data.spatial)
        inputs = None if channels is None else channels // s.groups
        return TensorType(s.weights.build(inputs, outputs, kernel), g.dtype)

    def reference(self, g: np.ndarray, x: np.ndarray, *like: np.ndarray) -> np.ndarray:
        kernel = self.settings.kernel(like[0].shape) if like else self.kernel
        assert kernel is not None
        return summed(lambda a, b: self._reference(a, b, kernel), (g, x), self.settings.accumulate)

    def _reference(self, g: np.ndarray, x: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
        s = self.settings
        gl, xl = _channel_last(g, s.data), _channel_last(x, s.data)
        sizes, outputs = xl.shape[1:-1], gl.shape[1:-1]
        pads = s.window.amounts(sizes, kernel)
        padded = np.pad(xl, ((0, 0), *_padding_for(pads, outputs, kernel, s.window, sizes), (0, 0)))
        inner, outer = xl.shape[-1] // s.groups, gl.shape[-1] // s.groups
        result = np.zeros((*kernel, inner, gl.shape[-1]), g.dtype)
        summed = tuple(range(gl.ndim - 1))

        def visit(offset: tuple[int, ...], slices: tuple[slice, ...]) -> None:
            part = padded[slices]
            for n in range(s.groups):
                chosen = slice(n * outer, (n + 1) * outer)
                result[offset][:, chosen] = np.tensordot(
                    part[..., n * inner : (n + 1) * inner], gl[..., chosen], (summed, summed)
                )

        visit_windows(padded, s.window, kernel, outputs, tuple(range(1, gl.ndim - 1)), visit)
        letters = s.weights.letters
        order = (*s.weights.spatial, letters.index("I"), letters.index("O"))
        return np.moveaxis(result, range(result.ndim), order)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        h, (g, x, *like) = gradients[0], inputs
        assert h is not None
        forward: Any = g.graph.apply(Convolution(self.settings), x, h)
        return (forward, data_gradient(self.settings, g, h, x), *(None for _ in like))  # type: ignore[return-value]

    def domain(self, *inputs: TensorType) -> tuple[int, ...] | None:
        s = self.settings
        shape = self.infer(*inputs).static_shape
        if s.groups == 1:
            return None
        axis = s.weights.letters.index("O")
        return (*shape[:axis], s.groups, shape[axis] // s.groups, *shape[axis + 1 :])

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        if len(inputs) < 3:
            return None
        kernel = self.settings.kernel(inputs[2].type.static_shape)
        return inputs[0].graph.apply(replace(self, kernel=kernel), *inputs[:2])  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        g, x = inputs[:2]
        s = self.settings
        kernel = s.kernel(inputs[2].shape) if len(inputs) > 2 else self.kernel
        assert kernel is not None
        within, channel, offset = s.weights.pick(index)
        count, outs, outputs = s.data.pick(g.shape)
        _, channels, sizes = s.data.pick(x.shape)
        before = s.window.before(sizes, kernel)
        group, _ = s.split_channel(channel, outs // s.groups)  # type: ignore[arg-type]
        acc = accumulator(g.dtype, s.accumulate)

        def data(*r: Expr) -> Expr:
            batch, *position = r
            source = s.window.source(tuple(position), offset, before)  # type: ignore[arg-type]
            inner = group * (channels // s.groups) + within  # type: ignore[operator]
            value = k.guarded(
                inside(k, source, sizes), lambda: x(*s.data.build(batch, inner, source)), 0
            )
            return k.cast(value, acc)

        def gradient(*r: Expr) -> Expr:
            batch, *position = r
            return k.cast(g(*s.data.build(batch, channel, position)), acc)

        depthwise = channels == outs == s.groups
        extents = (count, *outputs)
        found = contraction(k, extents, data, gradient, acc, depthwise=depthwise)
        return k.cast(found, dtypes.compute_dtype(g.dtype))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for x, w, settings, grad in sample_settings():
            out = Convolution(settings).infer(TensorType(x), TensorType(w)).static_shape
            found.append(
                sample(
                    real(*out), real(*x), grad=grad, settings=settings, kernel=settings.kernel(w)
                )
            )
        x, w, settings, _ = next(iter(sample_settings()))
        out = Convolution(settings).infer(TensorType(x), TensorType(w)).static_shape
        found.append(sample(real(*out), real(*x), real(*w), settings=settings, kernel=None))
        return found


def data_gradient(settings: ConvolutionSettings, g: Tensor, w: Tensor, like: Tensor) -> Tensor:
    """The data gradient, with the data's sizes when they are known and `like` otherwise."""
    sizes = None if like.shape is None else settings.data.pick(like.shape)[2]
    if sizes is not None and None not in sizes:
        return g.graph.apply(ConvolutionDataGradient(settings, sizes), g, w)  # type: ignore[return-value]
    return g.graph.apply(ConvolutionDataGradient(settings), g, w, like)  # type: ignore[return-value]


def weights_gradient(settings: ConvolutionSettings, g: Tensor, x: Tensor, like: Tensor) -> Tensor:
    """The weights gradient, with the kernel's sizes when they are known and `like` otherwise."""
    kernel = None if like.shape is None else settings.weights.pick(like.shape)[2]
    if kernel is not None and None not in kernel:
        return g.graph.apply(ConvolutionWeightsGradient(settings, kernel), g, x)  # type: ignore[return-value,arg-type]
    return g.graph.apply(ConvolutionWeightsGradient(settings), g, x, like)  # type: ignore[return-value]
