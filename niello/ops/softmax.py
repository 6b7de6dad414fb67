"""softmax, log_softmax and logsumexp, all shifted by the maximum so that nothing overflows.

Each decomposes into max, subtract, exp and sum; stitching makes one kernel of them. A row whose
elements are all -infinity, or that holds +infinity or NaN, gives NaN, except that logsumexp of all
-infinity is -infinity and of +infinity is +infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType, float32
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.define import cast_to, check_dtype, half_as_float32
from niello.ops.movement import apply, known_axes, tensor_of, wide
from niello.ops.reduce import as_float, axes_samples, reduced_shape, special_sample, spread

_WIDE_ROW = np.array([[1000.0, 1001.0, -1000.0], [-np.inf, 0.0, 1.0]], np.float32)


def _samples() -> list[Sample]:
    return [
        sample(real(2, 3), axes=(1,)),
        sample(real(2, 3, 4), axes=(1,)),
        sample(real(2, 3, 4), axes=(-1, 0)),
        sample(real(2, 3), axes=()),
        sample(real(), axes=()),
        sample(real(2, 0), axes=(1,)),
        sample(real(0, 2), axes=(1,)),
        sample(_WIDE_ROW, axes=(1,), dtypes=(float32,), grad=False),
        sample(np.full((1, 2), -np.inf, np.float32), axes=(1,), dtypes=(float32,), grad=False),
        sample(
            np.array([[1, np.nan], [np.inf, 0]], np.float32),
            axes=(1,),
            dtypes=(float32,),
            grad=False,
        ),
    ]


class RowWise(Op):
    """Base of ops that keep the shape and look at whole rows along `axes`."""

    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    axes: tuple[int, ...] | None

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        if x.shape is not None:
            known_axes(self.name, self.axes, len(x.shape))
        return x

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return _samples()


@register
@frozen
class Softmax(RowWise):
    axes: tuple[int, ...] | None
    name: ClassVar[str] = "softmax"
    doc: ClassVar[str] = "exp(x) / sum(exp(x)) along `axes`. As ONNX Softmax."

    def reference(self, x: np.ndarray) -> np.ndarray:
        def softmax(a: np.ndarray) -> np.ndarray:
            top = np.max(a, axis=self.axes, keepdims=True, initial=-np.inf)
            e = np.exp(a - top)
            return e / np.sum(e, axis=self.axes, keepdims=True, dtype=a.dtype)  # type: ignore[no-any-return]

        return np.asarray(half_as_float32(softmax, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        g, y = wide(gradients[0]), wide(outputs[0])
        inner = (g * y).sum(self.axes, True)
        return [cast_to(y * (g - inner), outputs[0].dtype)]

    def decompose(self, x: Tensor) -> Tensor:
        w = wide(x)
        e = (w - w.max(self.axes, True)).exp()
        return cast_to(e * (1.0 / e.sum(self.axes, True)), x.dtype)


@function
def softmax(x: Tensor, axis: Any = -1, *, name: str | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`: an int, several, or None for all of them.

    Integers become float32 first. A row of -infinity only, or with NaN or +infinity, gives NaN.
    Raises ShapeError for an axis that does not exist. As ONNX's Softmax.

    Example:
        >>> import niello as nl
        >>> nl.softmax(nl.Graph().placeholder((None, 10))).shape
        (None, 10)
    """
    value = as_float(tensor_of("softmax", x))
    return apply(Softmax(known_axes("softmax", axis, x.rank)), value, name=name)


@register
@frozen
class LogSoftmax(RowWise):
    axes: tuple[int, ...] | None
    name: ClassVar[str] = "log_softmax"
    doc: ClassVar[str] = "The logarithm of softmax, without its loss of precision. As ONNX."

    def reference(self, x: np.ndarray) -> np.ndarray:
        def log_softmax(a: np.ndarray) -> np.ndarray:
            shifted = a - np.max(a, axis=self.axes, keepdims=True, initial=-np.inf)
            total = np.sum(np.exp(shifted), axis=self.axes, keepdims=True, dtype=a.dtype)
            return shifted - np.log(total)  # type: ignore[no-any-return]

        return np.asarray(half_as_float32(log_softmax, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        g = wide(gradients[0])
        p = wide(outputs[0]).exp()
        return [cast_to(g - p * g.sum(self.axes, True), outputs[0].dtype)]

    def decompose(self, x: Tensor) -> Tensor:
        w = wide(x)
        shifted = w - w.max(self.axes, True)
        return cast_to(shifted - shifted.exp().sum(self.axes, True).log(), x.dtype)


@function
def log_softmax(x: Tensor, axis: Any = -1, *, name: str | None = None) -> Tensor:
    """The logarithm of softmax along `axis`: an int, several, or None for all of them.

    Computed as x - max - log(sum(exp(x - max))), so that small probabilities keep their precision.
    Raises ShapeError for an axis that does not exist. As ONNX's LogSoftmax.

    Example:
        >>> import niello as nl
        >>> nl.log_softmax(nl.Graph().placeholder((None, 10))).shape
        (None, 10)
    """
    value = as_float(tensor_of("log_softmax", x))
    return apply(LogSoftmax(known_axes("log_softmax", axis, x.rank)), value, name=name)


@register
@frozen
class LogSumExp(Op):
    axes: tuple[int, ...] | None
    keepdims: bool
    name: ClassVar[str] = "logsumexp"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = "log(sum(exp(x))) over `axes`, without overflow; of nothing, -infinity."

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return TensorType(reduced_shape(x.shape, self.axes, self.keepdims, self.name), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        def logsumexp(a: np.ndarray) -> np.ndarray:
            top = np.max(a, axis=self.axes, keepdims=True, initial=-np.inf)
            top = np.where(np.isfinite(top), top, np.zeros_like(top))
            total = np.sum(np.exp(a - top), axis=self.axes, keepdims=True, dtype=a.dtype)
            full = np.log(total) + top
            return full.reshape(reduced_shape(a.shape, self.axes, self.keepdims, self.name))  # type: ignore[arg-type,no-any-return]

        return np.asarray(half_as_float32(logsumexp, [x]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (x,) = inputs
        y = wide(outputs[0])
        # Of a row of -infinity only, the shift would be inf - inf; its gradient is zero.
        shift = y.equal(-np.inf).select(0.0, y)
        p = (wide(x) - spread(shift, x, self.axes, self.keepdims)).exp()
        g = spread(wide(gradients[0]), x, self.axes, self.keepdims)
        return [cast_to(g * p, x.dtype)]

    def decompose(self, x: Tensor) -> Tensor:
        w = wide(x)
        top = w.max(self.axes, True)
        top = top.absolute().less(np.inf).select(top, 0.0)
        full = (w - top).exp().sum(self.axes, True).log() + top
        shape = reduced_shape(x.shape, self.axes, self.keepdims, self.name)
        return cast_to(full if full.shape == shape else full.reshape(shape), x.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            *axes_samples(),
            sample(real(2, 0), axes=(1,), keepdims=False, grad=False),
            sample(_WIDE_ROW, axes=(1,), keepdims=False, dtypes=(float32,), grad=False),
            sample(
                np.full((1, 2), -np.inf, np.float32),
                axes=(1,),
                keepdims=False,
                dtypes=(float32,),
                grad=False,
            ),
            special_sample(float32),
        ]


@function
def logsumexp(
    x: Tensor, axes: Any = None, keepdims: bool = False, *, name: str | None = None
) -> Tensor:
    """log(sum(exp(x))) over `axes`: an int, several, or None for all of them.

    Computed around the maximum, so that it neither overflows nor underflows. Of nothing, and of
    -infinity only: -infinity. As SciPy's logsumexp.

    Example:
        >>> import niello as nl
        >>> nl.logsumexp(nl.Graph().placeholder((2, 3)), axes=-1).shape
        (2,)
    """
    value = as_float(tensor_of("logsumexp", x))
    return apply(LogSumExp(known_axes("logsumexp", axes, x.rank), bool(keepdims)), value, name=name)
