"""Dropout: random zeros, whose mask is computed again where the gradient needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType, compute_dtype, float32
from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value, ravel
from niello.kernel.ir import Expr
from niello.ops.define import cast_to, check_dtype, graph_of, half_as_float32, unbroadcast
from niello.ops.philox import (
    STATE_TYPE,
    advance,
    check_state,
    numpy_advance,
    numpy_words,
    random_state,
    word,
)


@register
@frozen
class Dropout(Op):
    """Inputs: x, the generator's state, and the rate as a scalar of x's dtype. See `dropout`."""

    name: ClassVar[str] = "dropout"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "x / (1 - rate) where a uniform random number in [0, 1) is at least `rate`, else 0; and "
        "the random state after it."
    )

    def infer(self, x: TensorType, state: TensorType, rate: TensorType) -> tuple[TensorType, ...]:
        check_dtype(self.name, x.dtype, self.dtypes)
        check_state(self.name, state)
        if rate.dtype is not x.dtype:
            raise DTypeError(
                self.name, f"the rate must be of {x.dtype.name}, as x is", received=rate.dtype.name
            )
        if rate.shape:
            raise ShapeError(
                self.name,
                "the rate must be a scalar",
                received=show(rate.shape),
                advice="Pass a number or a tensor of shape []",
            )
        return x, STATE_TYPE

    def reference(
        self, x: np.ndarray, state: np.ndarray, rate: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        uniform = (numpy_words(state, x.size).reshape(x.shape) >> np.uint32(8)) * np.float32(
            2.0**-24
        )

        def kept(x: np.ndarray, rate: np.ndarray) -> np.ndarray:
            return np.where(uniform >= rate, x * (x.dtype.type(1) / (1 - rate)), np.zeros_like(x))

        return half_as_float32(kept, (x, rate)), numpy_advance(state, x.size)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        if gradients[0] is None:
            return (None, None, None)
        # Linear in x: the same mask and scale, from the same state.
        _, state, rate = inputs
        to_x = rate.graph.apply(self, gradients[0], state, rate)[0]  # type: ignore[index]
        to_rate = gradients[0] * outputs[0] / (1.0 - rate)
        return (to_x, None, unbroadcast(to_rate, rate))

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x, state, rate = inputs
        count = int(np.prod(x.shape, dtype=np.int64))
        if output == 1:
            return advance(k, state, index[0], count)
        bits = word(k, state, ravel(index, x.shape), count)
        uniform = k.cast(k.shr(bits, 8), float32) * 2.0**-24
        share = rate()
        kind = compute_dtype(x.dtype)
        return k.where(k.cast(uniform, kind) >= share, x(*index) * (1.0 / (1.0 - share)), 0.0)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        state = np.array([9, 0, 0, 0, 5, 6], np.uint32)
        carry = np.array([0xFFFFFFFF, 0xFFFFFFFF, 3, 4, 5, 6], np.uint32)
        return [
            sample(real(3, 5), state, real(low=0.25, high=0.25)),
            sample(real(2, 3, 2), carry, real(low=0.6, high=0.6)),
            sample(real(4), state, real(low=0.0, high=0.0)),
            sample(real(4), state, real(low=1.0, high=1.0), grad=False),
            sample(real(0, 3), state, real(low=0.5, high=0.5)),
        ]


@opdef.function
def dropout(
    x: Any, rate: Any, state: Any = None, *, seed: int | None = None, name: str | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Zero each element of x with probability `rate`, and divide the others by 1 - rate.

    For training; leave it out for inference, the expected value is the same. `rate` is a number
    from 0 to 1 or a scalar tensor. With `state` (a uint32[6] tensor, see random_state) returns
    (values, state after them); with `seed` values whose mask is the same in every run. The gradient
    draws the same mask again; nothing is stored. Raises AttributeValueError for a rate outside
    [0, 1], or without exactly one of state and seed.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x, state = graph.placeholder((64, 10)), graph.variable(nl.random_state(7))
        >>> y, after = nl.dropout(x, 0.5, state)
        >>> y.shape
        (64, 10)
    """
    if isinstance(rate, (int, float)) and not 0 <= rate <= 1:
        raise AttributeValueError("dropout", "the rate must be from 0 to 1", received=rate)
    if (state is None) == (seed is None):
        raise AttributeValueError(
            "dropout",
            "needs either a state or a seed",
            received="both" if seed is not None else "neither",
            advice="Pass state=graph.variable(nl.random_state(7)), or seed=7",
        )
    graph = graph_of("dropout", x, state, rate)
    tensor = graph.as_tensor(x)
    check_dtype("dropout", tensor.dtype, FLOATS)
    start = graph.constant(random_state(seed)) if seed is not None else graph.as_tensor(state)
    share = graph.as_tensor(float(rate) if isinstance(rate, int) else rate, dtype=tensor.dtype)
    values, after = graph.apply(Dropout(), tensor, start, cast_to(share, tensor.dtype), name=name)
    return values if seed is not None else (values, after)
