"""Normalisations: layer, RMS, batch, instance and group, and with given statistics.

All compute in float32 for half types. The gradients recompute the statistics rather than keep
them: in a compiled graph they are the same operations as in the forward pass, and are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType, compute_dtype
from niello.core.errors import CompilerBug, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Shape, broadcast_shapes, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.define import cast_to, check_dtype
from niello.ops.movement import known_axes, known_axis, require_rank, wide

Array = np.ndarray


def standardise(w: Tensor, axes: Any, epsilon: float) -> tuple[Tensor, Tensor]:
    """(w - mean) / sqrt(variance + epsilon) over `axes`, and 1 / sqrt(variance + epsilon)."""
    centred = w - w.mean(axes, True)
    scale = ((centred * centred).mean(axes, True) + epsilon).rsqrt()
    return centred * scale, scale


def standardise_gradient(g: Tensor, w: Tensor, axes: Any, epsilon: float) -> Tensor:
    """Gradient of `standardise` with respect to `w`."""
    normal, scale = standardise(w, axes, epsilon)
    inner: Tensor = g - g.mean(axes, True) - normal * (g * normal).mean(axes, True)
    return scale * inner


def _mean(x: Array, axes: Any) -> Array:
    """NumPy's mean, without its warning for empty rows."""
    total = np.sum(x, axis=axes, keepdims=True, dtype=x.dtype)
    return total / np.asarray(x.size // max(total.size, 1), x.dtype)  # type: ignore[no-any-return]


def _standardise_reference(x: Array, axes: Any, epsilon: float) -> Array:
    centred = x - _mean(x, axes)
    variance = _mean(centred * centred, axes)
    return centred / np.sqrt(variance + np.asarray(epsilon, x.dtype))  # type: ignore[no-any-return]


def _check_fits(asked: str, x: Shape | None, parameter: Shape | None, what: str) -> None:
    """Refuse a parameter that would make the result larger than `x`."""
    if x is None or parameter is None:
        return
    together = broadcast_shapes(asked, x, parameter)
    if (
        together is None
        or len(together) != len(x)
        or any(None not in (a, b) and a != b for a, b in zip(together, x, strict=True))
    ):
        raise ShapeError(
            asked,
            f"{what} does not broadcast to the tensor",
            received=f"{show(parameter)} for {show(x)}",
            advice="Its sizes must be 1 or those of the tensor, counted from the last axis",
        )


def _check_floats(asked: str, types: Sequence[TensorType]) -> None:
    for t in types:
        check_dtype(asked, t.dtype, FLOATS)


def wide_reference(call: Callable[..., Array], arrays: Sequence[Array]) -> Array:
    """Evaluate in the dtype that kernels compute in for the first array, and round back."""
    kind = arrays[0].dtype
    half = kind.itemsize == 2
    computed = np.dtype(np.float32) if half else kind
    return np.asarray(call(*(a.astype(computed) for a in arrays))).astype(kind)


class Affine(Op):
    """Base of ops that normalise their first input, then apply gamma and beta where present.

    The parameters may have another float type than the input; the result has the input's.
    """

    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    epsilon: float
    scaled: bool  # there is a gamma
    shifted: bool  # there is a beta

    # What a subclass says: the normalised tensor, its gradient, its meaning, and how a parameter
    # lines up with the tensor.
    def normal(self, w: Tensor) -> Tensor:
        """The normalised tensor."""
        raise CompilerBug(self.name, "lacks normal")

    def normal_gradient(self, g: Tensor, w: Tensor) -> Tensor:
        """Gradient of `normal` with respect to its operand."""
        raise CompilerBug(self.name, "lacks normal_gradient")

    def normal_reference(self, x: Array) -> Array:
        """`normal` in NumPy."""
        raise CompilerBug(self.name, "lacks normal_reference")

    def aligned(self, parameter: Tensor, x: Tensor) -> Tensor:
        """A parameter in the form that broadcasts against `x`."""
        return parameter

    def aligned_reference(self, parameter: Array, x: Array) -> Array:
        """`aligned` in NumPy."""
        return parameter

    def parameters(self, values: Sequence[Any]) -> tuple[Any, Any]:
        """(gamma or None, beta or None) of the inputs after the first."""
        rest = iter(values)
        return next(rest) if self.scaled else None, next(rest) if self.shifted else None

    def reference(self, x: Array, *parameters: Array) -> Array:
        def call(x: Array, *parameters: Array) -> Array:
            gamma, beta = self.parameters(parameters)
            y = self.normal_reference(x)
            y = y if gamma is None else y * self.aligned_reference(gamma, x)
            return y if beta is None else y + self.aligned_reference(beta, x)

        return wide_reference(call, (x, *parameters))

    def decompose(self, x: Tensor, *parameters: Tensor) -> Tensor:
        w = wide(x)
        gamma, beta = self.parameters(parameters)
        y = self.normal(w)
        if gamma is not None:
            y = y * self.aligned(cast_to(gamma, w.dtype), x)
        if beta is not None:
            y = y + self.aligned(cast_to(beta, w.dtype), x)
        return cast_to(y, x.dtype)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        x, *rest = inputs
        gamma, beta = self.parameters(rest)
        w, g = wide(x), wide(gradients[0])
        found: list[Tensor | None] = []
        inner = g
        if gamma is not None:
            aligned = self.aligned(cast_to(gamma, w.dtype), x)
            inner = g * aligned
            found.append(self._collect(g * self.normal(w), aligned, gamma))
        if beta is not None:
            found.append(self._collect(g, self.aligned(cast_to(beta, w.dtype), x), beta))
        return [cast_to(self.normal_gradient(inner, w), x.dtype), *found]

    def _collect(self, full: Tensor, aligned: Tensor, parameter: Tensor) -> Tensor:
        """Sum a full-size gradient to a parameter's shape and type."""
        total = full.sum_to_like(aligned).reshape_like(parameter)
        return cast_to(total, parameter.dtype)


@register
@frozen
class LayerNorm(Affine):
    axes: tuple[int, ...] | None
    epsilon: float
    scaled: bool
    shifted: bool
    name: ClassVar[str] = "layer_norm"
    doc: ClassVar[str] = (
        "(x - mean) / sqrt(variance + epsilon) * gamma + beta with statistics over `axes`; gamma "
        "and beta broadcast to x. As ONNX LayerNormalization (Ba et al. 2016)."
    )

    def infer(self, x: TensorType, *parameters: TensorType) -> TensorType:
        _check_floats(self.name, (x, *parameters))
        if x.shape is not None:
            known_axes(self.name, self.axes, len(x.shape))
        for p, what in zip(parameters, ("gamma", "beta"), strict=False):
            _check_fits(self.name, x.shape, p.shape, what)
        return x

    def normal(self, w: Tensor) -> Tensor:
        return standardise(w, self.axes, self.epsilon)[0]

    def normal_gradient(self, g: Tensor, w: Tensor) -> Tensor:
        return standardise_gradient(g, w, self.axes, self.epsilon)

    def normal_reference(self, x: Array) -> Array:
        return _standardise_reference(x, self.axes, self.epsilon)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *_affine_samples(real(2, 5), real(5), axes=(-1,)),
            sample(
                real(2, 3, 4),
                real(3, 4),
                real(1, 4),
                axes=(1, 2),
                epsilon=1e-5,
                scaled=True,
                shifted=True,
            ),
            sample(real(0, 3), real(3), axes=(1,), epsilon=1e-5, scaled=True, shifted=False),
            sample(real(3, 0), real(0), axes=(1,), epsilon=1e-5, scaled=True, shifted=False),
        ]


@register
@frozen
class RMSNorm(Affine):
    axes: tuple[int, ...] | None
    epsilon: float
    scaled: bool
    shifted: bool
    name: ClassVar[str] = "rms_norm"
    doc: ClassVar[str] = (
        "x / sqrt(mean(x * x) + epsilon) * gamma with the mean over `axes`. As ONNX "
        "RMSNormalization (Zhang and Sennrich 2019)."
    )

    def infer(self, x: TensorType, *parameters: TensorType) -> TensorType:
        _check_floats(self.name, (x, *parameters))
        if x.shape is not None:
            known_axes(self.name, self.axes, len(x.shape))
        for p, what in zip(parameters, ("gamma", "beta"), strict=False):
            _check_fits(self.name, x.shape, p.shape, what)
        return x

    def _scale(self, w: Tensor) -> Tensor:
        return ((w * w).mean(self.axes, True) + self.epsilon).rsqrt()  # type: ignore[no-any-return]

    def normal(self, w: Tensor) -> Tensor:
        return w * self._scale(w)

    def normal_gradient(self, g: Tensor, w: Tensor) -> Tensor:
        scale = self._scale(w)
        normal = w * scale
        inner: Tensor = g - normal * (g * normal).mean(self.axes, True)
        return scale * inner

    def normal_reference(self, x: Array) -> Array:
        square = _mean(x * x, self.axes)
        return x / np.sqrt(square + np.asarray(self.epsilon, x.dtype))  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return _affine_samples(real(2, 5), real(5), axes=(-1,))


def _affine_samples(x: Any, parameter: Any, **attributes: Any) -> list[Sample]:
    """With both parameters, with either, and with none."""
    return [
        sample(
            x,
            *[parameter] * (scaled + shifted),
            epsilon=1e-5,
            scaled=scaled,
            shifted=shifted,
            **attributes,
        )
        for scaled, shifted in ((True, True), (True, False), (False, True), (False, False))
    ]


class ChannelNorm(Affine):
    """Base of normalisations whose parameters are vectors along the channel axis."""

    axis: int

    def infer(self, x: TensorType, *parameters: TensorType) -> TensorType:
        _check_floats(self.name, (x, *parameters))
        for p, what in zip(parameters, ("gamma", "beta"), strict=False):
            if p.rank not in (None, 1):
                raise ShapeError(
                    self.name,
                    f"{what} must be a vector",
                    received=show(p.shape),
                    advice="Give one element for each channel",
                )
        if x.shape is None:
            return x
        channels = x.shape[known_axis(self.name, self.axis, len(x.shape))]
        for p, what in zip(parameters, ("gamma", "beta"), strict=False):
            size = None if p.shape is None else p.shape[0]
            if None not in (size, channels) and size != channels:
                raise ShapeError(
                    self.name,
                    f"{what} has {size} elements for {channels} channels",
                    received=show(p.shape),
                    advice=f"Axis {self.axis} of x holds the channels",
                    axis=self.axis,
                )
        self.check_shape(x.shape)
        return x

    def check_shape(self, x: Shape) -> None:
        """Refuse shapes that the op cannot normalise."""

    def axes_of(self, rank: int) -> tuple[int, ...]:
        """The axes that the statistics are taken over."""
        raise CompilerBug(self.name, "lacks axes_of")

    def aligned(self, parameter: Tensor, x: Tensor) -> Tensor:
        return channel_vector(self.name, parameter, x, self.axis)

    def aligned_reference(self, parameter: Array, x: Array) -> Array:
        axis = known_axis(self.name, self.axis, x.ndim)
        return parameter.reshape(-1, *[1] * (x.ndim - axis - 1))

    def normal(self, w: Tensor) -> Tensor:
        rank = require_rank(self.name, w.type, "to tell the axes")
        return standardise(w, self.axes_of(rank), self.epsilon)[0]

    def normal_gradient(self, g: Tensor, w: Tensor) -> Tensor:
        rank = require_rank(self.name, w.type, "to tell the axes")
        return standardise_gradient(g, w, self.axes_of(rank), self.epsilon)

    def normal_reference(self, x: Array) -> Array:
        return _standardise_reference(x, self.axes_of(x.ndim), self.epsilon)


def channel_vector(asked: str, vector: Tensor, x: Tensor, axis: int) -> Tensor:
    """A vector with an element for each channel, in the form that broadcasts against `x`."""
    rank = require_rank(asked, x.type, "to line the channels up")
    behind = rank - 1 - known_axis(asked, axis, rank)
    return vector.expand_dims(tuple(range(1, behind + 1))) if behind else vector


@register
@frozen
class BatchNorm(ChannelNorm):
    axis: int
    epsilon: float
    scaled: bool
    shifted: bool
    name: ClassVar[str] = "batch_norm_training"
    doc: ClassVar[str] = (
        "(x - mean) / sqrt(variance + epsilon) * gamma + beta with statistics over all axes but "
        "the channels' (Ioffe and Szegedy 2015)."
    )

    def axes_of(self, rank: int) -> tuple[int, ...]:
        channel = known_axis(self.name, self.axis, rank)
        return tuple(a for a in range(rank) if a != channel)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *_affine_samples(real(4, 3, 2), real(3), axis=1),
            sample(
                real(2, 3, 2, 2), real(2), real(2), axis=-1, epsilon=1e-3, scaled=True, shifted=True
            ),
            sample(real(5, 3), real(3), real(3), axis=1, epsilon=1e-3, scaled=True, shifted=True),
        ]


@register
@frozen
class InstanceNorm(ChannelNorm):
    axis: int
    epsilon: float
    scaled: bool
    shifted: bool
    name: ClassVar[str] = "instance_norm"
    doc: ClassVar[str] = (
        "(x - mean) / sqrt(variance + epsilon) * gamma + beta with statistics over all axes but "
        "the first (the batch) and the channels'. As ONNX InstanceNormalization."
    )

    def axes_of(self, rank: int) -> tuple[int, ...]:
        channel = known_axis(self.name, self.axis, rank)
        return tuple(a for a in range(1, rank) if a != channel)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *_affine_samples(real(2, 3, 4), real(3), axis=1),
            sample(
                real(2, 2, 3, 2), real(2), real(2), axis=-1, epsilon=1e-3, scaled=True, shifted=True
            ),
        ]


@register
@frozen
class GroupNorm(ChannelNorm):
    axis: int
    groups: int
    epsilon: float
    scaled: bool
    shifted: bool
    name: ClassVar[str] = "group_norm"
    doc: ClassVar[str] = (
        "(x - mean) / sqrt(variance + epsilon) * gamma + beta with statistics over each group of "
        "channels and all axes but the first. As ONNX GroupNormalization (Wu and He 2018)."
    )

    def check_shape(self, x: Shape) -> None:
        channels = x[known_axis(self.name, self.axis, len(x))]
        if channels is not None and channels % self.groups:
            raise ShapeError(
                self.name,
                f"{channels} channels do not divide into {self.groups} groups",
                received=show(x),
                advice="Use a number of groups that divides the channels",
                axis=self.axis,
            )

    def _split(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """`x` with groups apart from the channels in them, and the axes of the statistics."""
        rank = require_rank(self.name, x.type, "to tell the axes")
        axis = known_axis(self.name, self.axis, rank)
        parts = x.unflatten(axis, (self.groups, -1))
        return parts, tuple(a for a in range(1, rank + 1) if a != axis)

    def normal(self, w: Tensor) -> Tensor:
        parts, axes = self._split(w)
        return standardise(parts, axes, self.epsilon)[0].reshape_like(w)  # type: ignore[no-any-return]

    def normal_gradient(self, g: Tensor, w: Tensor) -> Tensor:
        parts, axes = self._split(w)
        found = standardise_gradient(self._split(g)[0], parts, axes, self.epsilon)
        return found.reshape_like(w)  # type: ignore[no-any-return]

    def normal_reference(self, x: Array) -> Array:
        axis = known_axis(self.name, self.axis, x.ndim)
        per = x.shape[axis] // self.groups
        parts = x.reshape(*x.shape[:axis], self.groups, per, *x.shape[axis + 1 :])
        axes = tuple(a for a in range(1, parts.ndim) if a != axis)
        return _standardise_reference(parts, axes, self.epsilon).reshape(x.shape)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *_affine_samples(real(2, 4, 3), real(4), axis=1, groups=2),
            sample(
                real(2, 3, 2, 4),
                real(4),
                real(4),
                axis=-1,
                groups=2,
                epsilon=1e-3,
                scaled=True,
                shifted=True,
            ),
            sample(real(2, 3, 2), axis=1, groups=1, epsilon=1e-3, scaled=False, shifted=False),
        ]


@register
@frozen
class Normalise(Op):
    epsilon: float
    scaled: bool
    shifted: bool
    name: ClassVar[str] = "normalise"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "(x - mean) / sqrt(variance + epsilon) * gamma + beta with given statistics; all broadcast "
        "to x."
    )

    def infer(self, x: TensorType, *rest: TensorType) -> TensorType:
        _check_floats(self.name, (x, *rest))
        names = ["mean", "variance", *["gamma"] * self.scaled, *["beta"] * self.shifted]
        for t, what in zip(rest, names, strict=True):
            _check_fits(self.name, x.shape, t.shape, what)
        return x

    def _parts(self, rest: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
        mean, variance, *parameters = rest
        left = iter(parameters)
        gamma = next(left) if self.scaled else None
        return mean, variance, gamma, next(left) if self.shifted else None

    def reference(self, x: Array, *rest: Array) -> Array:
        def call(x: Array, *rest: Array) -> Array:
            mean, variance, gamma, beta = self._parts(rest)
            y = (x - mean) / np.sqrt(variance + np.asarray(self.epsilon, x.dtype))
            y = y if gamma is None else y * gamma
            return y if beta is None else y + beta  # type: ignore[no-any-return]

        return wide_reference(call, (x, *rest))

    def decompose(self, x: Tensor, *rest: Tensor) -> Tensor:
        kind = compute_dtype(x.dtype)
        mean, variance, gamma, beta = self._parts([cast_to(t, kind) for t in rest])
        scale = (variance + self.epsilon).rsqrt()
        y = (wide(x) - mean) * (scale if gamma is None else scale * gamma)
        return cast_to(y if beta is None else y + beta, x.dtype)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        x, *rest = inputs
        kind = compute_dtype(x.dtype)
        mean, variance, gamma, beta = self._parts([cast_to(t, kind) for t in rest])
        g = wide(gradients[0])
        centred = wide(x) - mean
        scale = (variance + self.epsilon).rsqrt()
        factor = scale if gamma is None else scale * gamma
        shifted = g * centred  # the one full-size product that both sums below need
        over_gamma = shifted if gamma is None else shifted * gamma
        found = [
            g * factor,
            -(g * factor).sum_to_like(mean),
            (over_gamma * (-0.5 * scale * scale * scale)).sum_to_like(variance),
        ]
        if gamma is not None:
            found.append((shifted * scale).sum_to_like(gamma))
        if beta is not None:
            found.append(g.sum_to_like(beta))
        return [cast_to(f, t.dtype) for f, t in zip(found, inputs, strict=True)]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        variance = real(3, 1, low=0.5, high=2.0)
        mean = real(3, 1)
        return [
            sample(
                real(2, 3, 4),
                mean,
                variance,
                real(3, 1),
                real(3, 1),
                epsilon=1e-5,
                scaled=True,
                shifted=True,
            ),
            sample(
                real(2, 3, 4), mean, variance, real(4), epsilon=1e-5, scaled=True, shifted=False
            ),
            sample(real(2, 3, 4), mean, variance, real(), epsilon=1e-3, scaled=False, shifted=True),
            sample(
                real(2, 3, 4),
                real(2, 3, 4),
                real(low=1.0),
                epsilon=1e-3,
                scaled=False,
                shifted=False,
            ),
            sample(real(0, 3, 4), mean, variance, epsilon=1e-3, scaled=False, shifted=False),
        ]
