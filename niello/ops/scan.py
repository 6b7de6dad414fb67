"""Running results along an axis: sums, products, extremes, log-sum-exp, linear recurrences.

Element i of a result along the axis is made of elements 0 to i of the input, or with `exclusive` of
elements 0 to i - 1 (the first is then the identity: 0, 1, an infinity or the dtype's limit). With
`reverse` the axis is walked from its end. Half types accumulate in float32 and round once for each
element; integers accumulate in their own width and wrap; bool counts as int32 in sums and products.
Sums and products of floats may be taken in another order than from left to right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes as element_types
from niello.core.dtypes import ALL, FLOATS, DType, bool_, float32, int32
from niello.core.errors import CompilerBug
from niello.core.records import frozen
from niello.core.shapes import merge_shapes
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    distinct,
    function,
    plain_function,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel import ir
from niello.kernel.ir import Expr, reduce_identity
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.define import cast_to, check_dtype, half_as_float32
from niello.ops.movement import apply, integer, known_axis, tensor_of
from niello.ops.scan_lines import Lines, Parts, scan_lines


class Cumulative(Op):
    """Base of running reductions."""

    traits: ClassVar[Trait] = Trait.NONE
    axis: int
    exclusive: bool
    reverse: bool

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        if x.shape is not None:
            known_axis(self.name, self.axis, len(x.shape))
        return TensorType(x.shape, self.result(x.dtype))

    def result(self, dtype: DType) -> DType:
        """Dtype of the result for an input dtype."""
        return dtype

    def accumulate(self, x: np.ndarray, axis: int) -> np.ndarray:
        """NumPy: the inclusive result along an axis."""
        raise CompilerBug(self.name, "the op lacks accumulate")

    def identity(self, dtype: DType) -> Any:
        """What comes before the first element, for a dtype of the result."""
        raise CompilerBug(self.name, "the op lacks identity")

    def together(self, a: Expr, b: Expr) -> Expr:
        """The associative function."""
        raise CompilerBug(self.name, "the op lacks together")

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(half_as_float32(self._reference, [x]))

    def _reference(self, x: np.ndarray) -> np.ndarray:
        dtype = self.result(element_types.dtype(x.dtype))
        axis = known_axis(self.name, self.axis, x.ndim)
        turned = np.moveaxis(x.astype(dtype.numpy, copy=False), axis, -1)
        turned = turned[..., ::-1] if self.reverse else turned
        found = self.accumulate(turned, -1).astype(dtype.numpy, copy=False)
        if self.exclusive:
            first = np.full((*found.shape[:-1], 1), self.identity(dtype), found.dtype)
            found = np.concatenate([first, found], axis=-1)[..., : turned.shape[-1]]
        found = found[..., ::-1] if self.reverse else found
        return np.ascontiguousarray(np.moveaxis(found, -1, axis))

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (x,) = inputs
        (y,) = r.outputs
        dtype = element_types.compute_dtype(y.dtype)
        lines = Lines.of(x.shape, known_axis(self.name, self.axis, len(x.shape)))
        scan_lines(
            r,
            lines,
            lambda at: (r.cast(r.read(x, at), dtype),),
            lambda at, terms: r.write(y, at, terms[0]),
            (ir.const(self.identity(dtype), dtype),),
            lambda a, b: (self.together(a[0], b[0]),),
            exclusive=self.exclusive,
            reverse=self.reverse,
        )

    def again(self, x: Tensor, *, exclusive: bool) -> Tensor:
        """The same function of another tensor."""
        return apply(type(self)(self.axis, exclusive, self.reverse), x)  # type: ignore[call-arg]

    def suffixes(self, factors: Tensor, g: Tensor) -> Tensor:
        """u[i] = g[i] + f[i+1] u[i+1] for an inclusive result, g[i+1] + f[i+1] u[i+1] for an
        exclusive one: what gradients of running results are made of."""
        recurrence = LinearRecurrence(self.axis, True, not self.reverse)
        if self.exclusive:
            return apply(recurrence, factors, g)
        return g + apply(recurrence, factors, factors * g)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        plain: dict[str, Any] = {"exclusive": False, "reverse": False}
        found = [
            sample(distinct(7), axis=0, **plain),
            sample(distinct(3, 5), axis=1, exclusive=True, reverse=False),
            sample(distinct(3, 5), axis=0, exclusive=False, reverse=True),
            sample(distinct(2, 4, 3), axis=-2, exclusive=True, reverse=True),
            sample(real(2, 40), axis=-1, grad=False, exclusive=True, reverse=True),
            sample(real(3, 33, 37), axis=1, grad=False, tolerance=4, **plain),
            sample(real(2, 3, 0), axis=1, grad=False, **plain),
            sample(real(2, 0), axis=1, grad=False, **plain),
            sample(real(4, 1), axis=1, grad=False, exclusive=True, reverse=False),
        ]
        special = np.array([[1.0, np.inf, 2.0, np.nan, 1.0], [-np.inf, 1, 2, 3, -4]], np.float32)
        found.append(sample(special, axis=1, dtypes=(float32,), grad=False, **plain))
        return found


def _whole(dtype: DType) -> DType:
    return int32 if dtype is bool_ else dtype


@register
@frozen
class CumulativeSum(Cumulative):
    axis: int
    exclusive: bool
    reverse: bool
    name: ClassVar[str] = "cumulative_sum"
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "Sums of the elements up to each, along an axis. As ONNX CumSum."

    def result(self, dtype: DType) -> DType:
        return _whole(dtype)

    def accumulate(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.cumsum(x, axis=axis, dtype=x.dtype)

    def identity(self, dtype: DType) -> Any:
        return 0

    def together(self, a: Expr, b: Expr) -> Expr:
        return a + b

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        back = CumulativeSum(self.axis, self.exclusive, not self.reverse)
        return [apply(back, gradients[0])]


@register
@frozen
class CumulativeProd(Cumulative):
    axis: int
    exclusive: bool
    reverse: bool
    name: ClassVar[str] = "cumulative_prod"
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "Products of the elements up to each, along an axis. As np.cumprod."

    def result(self, dtype: DType) -> DType:
        return _whole(dtype)

    def accumulate(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.cumprod(x, axis=axis, dtype=x.dtype)

    def identity(self, dtype: DType) -> Any:
        return 1

    def together(self, a: Expr, b: Expr) -> Expr:
        return a * b

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        # Without a division, so that zeros need no case of their own.
        x, y = inputs[0], outputs[0]
        before = y if self.exclusive else self.again(x, exclusive=True)
        return [before * self.suffixes(x, gradients[0])]


class CumulativeExtreme(Cumulative):
    """Base of running extremes. The gradient goes to the last element that attains each."""

    dtypes: ClassVar[tuple[DType, ...]] = ALL
    word: ClassVar[str]

    def accumulate(self, x: np.ndarray, axis: int) -> np.ndarray:
        ufunc: Any = np.minimum if self.word == "min" else np.maximum
        return np.asarray(ufunc.accumulate(x, axis=axis))

    def identity(self, dtype: DType) -> Any:
        return reduce_identity(self.word, dtype)

    def together(self, a: Expr, b: Expr) -> Expr:
        return ir.fn(self.word, a, b)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        x, y = inputs[0], outputs[0]
        before = y if self.exclusive else self.again(x, exclusive=True)
        keeps = x < before if self.word == "max" else x > before
        stays = cast_to(keeps, x.dtype)
        return [keeps.select(0.0, self.suffixes(stays, gradients[0]))]


@register
@frozen
class CumulativeMin(CumulativeExtreme):
    axis: int
    exclusive: bool
    reverse: bool
    name: ClassVar[str] = "cumulative_min"
    word: ClassVar[str] = "min"
    doc: ClassVar[str] = "Smallest of the elements up to each, along an axis; NaN wins."


@register
@frozen
class CumulativeMax(CumulativeExtreme):
    axis: int
    exclusive: bool
    reverse: bool
    name: ClassVar[str] = "cumulative_max"
    word: ClassVar[str] = "max"
    doc: ClassVar[str] = "Largest of the elements up to each, along an axis; NaN wins."


@register
@frozen
class CumulativeLogSumExp(Cumulative):
    axis: int
    exclusive: bool
    reverse: bool
    name: ClassVar[str] = "cumulative_logsumexp"
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Logarithms of the sums of exponentials of the elements up to each, along an axis, without "
        "overflow. As torch.logcumsumexp."
    )

    def accumulate(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(np.logaddexp.accumulate(x, axis=axis))

    def identity(self, dtype: DType) -> Any:
        return -math.inf

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (x,), (y,) = inputs, r.outputs
        dtype = element_types.compute_dtype(y.dtype)

        def combine(a: Parts, b: Parts) -> tuple[Expr, ...]:
            """Sums s exp(m) as pairs of m, the largest exponent, and s."""
            (m, s), (n, t) = a, b
            # Equal infinities have no difference.
            share = r.exp(r.where(m.eq(n), 0.0, -r.abs(m - n)))
            return r.max(m, n), r.where(m < n, s * share + t, s + t * share)

        scan_lines(
            r,
            Lines.of(x.shape, known_axis(self.name, self.axis, len(x.shape))),
            lambda at: (r.read(x, at), ir.const(1, dtype)),
            lambda at, terms: r.write(y, at, terms[0] + r.log(terms[1])),
            (ir.const(-math.inf, dtype), ir.const(0, dtype)),
            combine,
            exclusive=self.exclusive,
            reverse=self.reverse,
        )

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        # Ratios of neighbouring sums are at most 1: nothing overflows on the way back.
        x, y = inputs[0], outputs[0]
        before = y if self.exclusive else self.again(x, exclusive=True)
        after = self.again(x, exclusive=False) if self.exclusive else y
        some = after > -math.inf
        floor = some.select(after, 0.0)
        ratio = some.select((before - floor).exp(), 0.0)
        share = some.select((x - floor).exp(), 0.0)
        return [share * self.suffixes(ratio, gradients[0])]


@register
@frozen
class LinearRecurrence(Op):
    axis: int
    exclusive: bool
    reverse: bool
    name: ClassVar[str] = "linear_recurrence"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "h[i] = a[i] h[i-1] + b[i] along an axis, from zero; exclusive: h[i-1] in place of h[i]."
    )

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        check_dtype(self.name, a.dtype, self.dtypes)
        check_dtype(self.name, b.dtype, (a.dtype,))
        for t in (a, b):
            if t.shape is not None:
                known_axis(self.name, self.axis, len(t.shape))
        return TensorType(same_shapes(self.name, a, b), a.dtype)

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(half_as_float32(self._reference, [a, b]))

    def _reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        axis = known_axis(self.name, self.axis, a.ndim)
        x, y = (np.moveaxis(t, axis, 0)[:: -1 if self.reverse else 1] for t in (a, b))
        found = np.empty_like(y)
        h = np.zeros(y.shape[1:], y.dtype)
        for i in range(len(y)):
            after = x[i] * h + y[i]
            found[i] = h if self.exclusive else after
            h = after
        found = found[::-1] if self.reverse else found
        return np.ascontiguousarray(np.moveaxis(found, 0, axis))

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        a, b = inputs
        (y,) = r.outputs
        dtype = element_types.compute_dtype(y.dtype)
        lines = Lines.of(a.shape, known_axis(self.name, self.axis, len(a.shape)))
        scan_lines(
            r,
            lines,
            lambda at: (r.read(a, at), r.read(b, at)),
            lambda at, terms: r.write(y, at, terms[1]),
            (ir.const(1, dtype), ir.const(0, dtype)),
            lambda f, g: (f[0] * g[0], f[1] * g[0] + g[1]),
            exclusive=self.exclusive,
            reverse=self.reverse,
        )

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (a, b), g = inputs, gradients[0]
        back = LinearRecurrence(self.axis, True, not self.reverse)
        of_b = apply(back, a, g) if self.exclusive else g + apply(back, a, a * g)
        forth = LinearRecurrence(self.axis, True, self.reverse)
        before = outputs[0] if self.exclusive else apply(forth, a, b)
        return [of_b * before, of_b]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(5), real(5), axis=0, exclusive=False, reverse=False),
            sample(real(3, 4), real(3, 4), axis=1, exclusive=True, reverse=False),
            sample(real(3, 4, 2), real(3, 4, 2), axis=-2, exclusive=False, reverse=True),
            sample(
                real(2, 70, low=-0.9, high=0.9), real(2, 70), axis=1, exclusive=True,
                reverse=True, grad=False, tolerance=4,
            ),
            sample(real(2, 0), real(2, 0), axis=1, exclusive=False, reverse=False, grad=False),
        ]  # fmt: skip


def same_shapes(asked: str, a: TensorType, b: TensorType) -> Any:
    """The shape of two tensors that must be alike."""
    if a.shape is None or b.shape is None:
        return b.shape if a.shape is None else a.shape
    return merge_shapes(a.shape, b.shape, asked)


def cumulative(
    op: type[Cumulative], x: Any, axis: int | None, exclusive: bool, reverse: bool, name: str | None
) -> Tensor:
    """A running reduction; of all elements in row-major order when no axis is given."""
    x = tensor_of(op.name, x)
    if axis is None:
        x, axis = x.reshape((-1,)), 0
    place = known_axis(op.name, integer(op.name, axis, "an axis"), x.type.rank)
    return apply(op(place, bool(exclusive), bool(reverse)), x, name=name)  # type: ignore[call-arg]


@function
def cumulative_sum(
    x: Any,
    *,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """Sums of the elements up to each along `axis` (None: of all elements, as a vector).

    `exclusive` leaves each element's own value out; `reverse` starts from the end. The shape is
    that of `x`; bool counts as int32, other integers wrap. As ONNX CumSum and np.cumsum.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> y = nl.cumulative_sum(x, axis=1)
        >>> graph.run(targets=[y])[y].numpy().tolist()
        [[1.0, 3.0], [3.0, 7.0]]
    """
    return cumulative(CumulativeSum, x, axis, exclusive, reverse, name)


@function
def cumulative_prod(
    x: Any,
    *,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """Products of the elements up to each along `axis`; see `cumulative_sum`. As np.cumprod.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> y = nl.cumulative_prod(graph.constant([1.0, 2.0, 3.0]), axis=0)
        >>> graph.run(targets=[y])[y].numpy().tolist()
        [1.0, 2.0, 6.0]
    """
    return cumulative(CumulativeProd, x, axis, exclusive, reverse, name)


@function
def cumulative_min(
    x: Any,
    *,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """Smallest of the elements up to each along `axis`; see `cumulative_sum`. NaN wins.

    The gradient of each result goes to the last element that attains it. As
    np.minimum.accumulate.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> y = nl.cumulative_min(graph.constant([2.0, 1.0, 3.0]), axis=0)
        >>> graph.run(targets=[y])[y].numpy().tolist()
        [2.0, 1.0, 1.0]
    """
    return cumulative(CumulativeMin, x, axis, exclusive, reverse, name)


@function
def cumulative_max(
    x: Any,
    *,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """Largest of the elements up to each along `axis`; see `cumulative_sum`. NaN wins.

    The gradient of each result goes to the last element that attains it. As
    np.maximum.accumulate.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> y = nl.cumulative_max(graph.constant([2.0, 1.0, 3.0]), axis=0)
        >>> graph.run(targets=[y])[y].numpy().tolist()
        [2.0, 2.0, 3.0]
    """
    return cumulative(CumulativeMax, x, axis, exclusive, reverse, name)


@function
def cumulative_logsumexp(
    x: Any,
    *,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """log(exp(x[0]) + ... + exp(x[i])) along `axis` for every i, without overflow.

    See `cumulative_sum` for `exclusive` and `reverse`. As torch.logcumsumexp.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> y = nl.cumulative_logsumexp(graph.constant([0.0, 0.0]), axis=0)
        >>> graph.run(targets=[y])[y].numpy().tolist()
        [0.0, 0.693147...]
    """
    return cumulative(CumulativeLogSumExp, x, axis, exclusive, reverse, name)


@plain_function
def linear_recurrence(
    a: Any,
    b: Any,
    *,
    axis: int,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """h[i] = a[i] h[i-1] + b[i] along `axis`, starting from zero: a running sum that forgets.

    `a` and `b` have one shape and dtype. `exclusive` gives h[i-1] in place of h[i]; `reverse`
    starts from the end. It runs as a scan over pairs (Blelloch, "Prefix Sums and Their
    Applications", 1990), which also serves state space models.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> a, b = graph.constant([0.5, 0.5, 0.5]), graph.constant([1.0, 1.0, 1.0])
        >>> h = nl.linear_recurrence(a, b, axis=0)
        >>> graph.run(targets=[h])[h].numpy().tolist()
        [1.0, 1.5, 1.75]
    """
    rank = tensor_of("linear_recurrence", a).type.rank
    place = known_axis("linear_recurrence", integer("linear_recurrence", axis, "an axis"), rank)
    return apply(LinearRecurrence(place, bool(exclusive), bool(reverse)), a, b, name=name)
