"""Random tensors from explicit state: the same state gives the same values on every device.

Every function takes `shape` and either `state`, and then returns (values, state after them), or
`seed` with `graph`, and then returns values that are the same in every run. A shape is a tuple of
ints, or a tensor whose shape (known or not) is taken.

    state = graph.variable(nl.random_state(7))
    noise, after = nl.random_normal((64, 8), state)
    graph.run(targets=[noise], target_operations=[state.assign(after)])

Bits, integers and uniform floats are equal everywhere to the last bit; normal values are equal up
to the rounding of the logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import FLOATS, DType, compute_dtype, float64, uint32, uint64
from niello.core.errors import AttributeValueError, GraphError
from niello.core.records import frozen
from niello.core.shapes import as_shape, elements
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value, ravel
from niello.kernel.ir import Expr
from niello.ops.binary import add, multiply
from niello.ops.cast import cast
from niello.ops.define import cast_to, check_dtype
from niello.ops.logical import bitwise_and, bitwise_right_shift
from niello.ops.mtgp32 import Mtgp32Words, Mtgp32WordsLike, is_philox
from niello.ops.philox import (
    STATE_TYPE,
    advance,
    check_state,
    numpy_advance,
    numpy_words,
    random_state,
    word,
)
from niello.ops.philox_blocks import RandomUnit, RandomWords
from niello.ops.quantile import normal_quantile
from niello.ops.select import clamp, select
from niello.ops.unary import cos, log, negative, sqrt

Drawn = Tensor | tuple[Tensor, Tensor]
# From so many words on it is faster to store them than to compute a block of four for each.
STORED = 1 << 14
_STATE = np.array([1, 2, 3, 4, 5, 6], np.uint32)
_ABOUT_TO_CARRY = np.array([0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 7, 5, 6], np.uint32)


@register
@frozen
class RandomBits(Op):
    """Words of the stream of a state, in row-major order, and the state after them."""

    shape: tuple[int, ...]
    name: ClassVar[str] = "random_bits"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = (uint32,)
    doc: ClassVar[str] = (
        "uint32 words of Philox 4x32-10 in a given shape, and the state after them."
    )

    def infer(self, state: TensorType) -> tuple[TensorType, ...]:
        check_state(self.name, state)
        return TensorType(self.shape, uint32), STATE_TYPE

    def reference(self, state: np.ndarray) -> tuple[np.ndarray, ...]:
        count = elements(self.shape)
        return numpy_words(state, count).reshape(self.shape), numpy_advance(state, count)

    grad = not_differentiable("random bits are integers")

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        count = elements(self.shape)
        if output == 1:
            return advance(k, inputs[0], index[0], count)
        return word(k, inputs[0], ravel(index, self.shape), count)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(_STATE, shape=(2, 7)),
            sample(_ABOUT_TO_CARRY, shape=(9,)),
            sample(_STATE, shape=()),
            sample(_STATE, shape=(0, 3)),
        ]


@register
@frozen
class RandomBitsLike(Op):
    """`random_bits` in the shape of a tensor, with a first axis of `copies` unless that is 0."""

    copies: int = 0
    name: ClassVar[str] = "random_bits_like"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY | Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = dtypes.ALL
    doc: ClassVar[str] = (
        "uint32 words of Philox 4x32-10 in the shape of the second operand, with `copies` of it "
        "along a new first axis unless that is 0, and the state after them."
    )

    def _shape(self, shape: Any) -> Any:
        return shape if shape is None or not self.copies else (self.copies, *shape)

    def infer(self, state: TensorType, like: TensorType) -> tuple[TensorType, ...]:
        check_state(self.name, state)
        return TensorType(self._shape(like.shape), uint32), STATE_TYPE

    def reference(self, state: np.ndarray, like: np.ndarray) -> tuple[np.ndarray, ...]:
        return RandomBits(self._shape(like.shape)).reference(state)

    grad = not_differentiable("random bits are integers")

    def decompose(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        state, like = inputs
        static = philox_bits(self._shape(like.type.static_shape))
        return state.graph.add(static, (state,)).outputs

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(_STATE, real(2, 3)), sample(_STATE, real(3), copies=2)]


# --- drawing
def philox_bits(shape: tuple[int, ...]) -> Op:
    """Words of Philox: each by itself, or stored where they are many."""
    return RandomWords(shape) if elements(shape) >= STORED else RandomBits(shape)


def _draw(
    asked: str,
    shape: Any,
    state: Any,
    seed: int | None,
    graph: GraphDefinition | None,
    copies: int,
) -> tuple[Tensor, Tensor | None]:
    """Bits in `shape` (with a first axis unless copies is 0), and the state after, if asked for."""
    start, wanted = _start(asked, shape, state, seed, graph)
    if wanted is None:
        like_op = RandomBitsLike if is_philox(start) else Mtgp32WordsLike
        bits, after = start.graph.apply(like_op(copies), start, shape)
    else:
        full = (copies, *wanted) if copies else wanted
        op = philox_bits(full) if is_philox(start) else Mtgp32Words(full)
        bits, after = start.graph.apply(op, start)
    return bits, (after if seed is None else None)


def _start(
    asked: str, shape: Any, state: Any, seed: int | None, graph: GraphDefinition | None
) -> tuple[Tensor, tuple[int, ...] | None]:
    """The state to draw from, and the shape wanted, where it is known now."""
    if (state is None) == (seed is None):
        raise AttributeValueError(
            asked,
            "needs either a state or a seed",
            received="both" if seed is not None else "neither",
            advice="Pass state=graph.variable(nl.random_state(7)), or seed=7 and graph=",
        )
    graph = next((v.graph for v in (state, shape) if isinstance(v, Tensor)), graph)
    if graph is None:
        raise GraphError(
            asked, "no graph to draw in", received=shape, advice="Pass graph= beside seed="
        )
    start = graph.constant(random_state(seed)) if seed is not None else graph.as_tensor(state)
    if isinstance(shape, Tensor):
        return start, shape.type.static_shape if shape.type.is_static else None
    return start, _static(asked, shape)


def _static(asked: str, shape: Any) -> tuple[int, ...]:
    found = as_shape(shape, asked)
    if found is None or None in found:
        raise AttributeValueError(
            asked,
            "a shape with unknown sizes",
            received=found,
            advice="Pass a tensor to take its shape when it is known",
        )
    return tuple(d for d in found if d is not None)


def _named(values: Tensor, after: Tensor | None, name: str | None) -> Drawn:
    if name is not None:
        values = opdef.functions()["identity"](values, name=name)
    return values if after is None else (values, after)


def _float_dtype(asked: str, dtype: Any) -> DType:
    found = dtypes.dtype(dtype)
    check_dtype(asked, found, FLOATS)
    return found


def _unit(bits: Tensor, dtype: DType) -> Tensor:
    """Uniform floats in [0, 1), as many equally likely values as the dtype holds exactly."""
    if dtype is float64:
        high = cast(bitwise_right_shift(bits[0], 5), float64)
        low = cast(bitwise_right_shift(bits[1], 6), float64)
        return (high * 2.0**26 + low) * 2.0**-53
    kept = {"float16": 11, "bfloat16": 8, "float32": 24}[dtype.name]
    return cast(bitwise_right_shift(bits, 32 - kept), dtype) * 2.0**-kept


def _positive(bits: Tensor, dtype: DType, sign_bit: bool = False) -> Tensor:
    """Floats in (0, 1], fine near 0; with `sign_bit` from the lower bits only, in (0, 0.5]."""
    top = bits[0] if dtype is float64 else bits
    first = bitwise_and(top, 0x7FFFFFFF) if sign_bit else top
    if dtype is float64:
        return (cast(first, float64) * 2.0**32 + (cast(bits[1], float64) + 0.5)) * 2.0**-64
    return (cast(first, dtype) + 0.5) * 2.0**-32


def _copies(dtype: DType) -> int:
    """Words per value, as the leading axis: two for float64."""
    return 2 if dtype is float64 else 0


# --- published
@opdef.plain_function
def random_bits(
    shape: Any,
    state: Any = None,
    *,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """Random uint32 words of Philox 4x32-10 (Salmon et al. 2011).

    With `state` (a uint32[6] tensor) returns (words, state after them); with `seed` and `graph`
    returns words that are the same in every run.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> words, after = nl.random_bits((2, 3), graph.variable(nl.random_state(7)))
        >>> words.type
        uint32[2, 3]
    """
    bits, after = _draw("random_bits", shape, state, seed, graph, 0)
    return _named(bits, after, name)


@opdef.plain_function
def random_uniform(
    shape: Any,
    state: Any = None,
    *,
    low: Any = 0.0,
    high: Any = 1.0,
    dtype: Any = dtypes.float32,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """Random floats, uniform from low (included) to high (excluded, up to rounding).

    `low` and `high` are numbers or tensors that broadcast to `shape`. With `state` returns (values,
    state after them), with `seed` and `graph` values that are the same in every run. Raises
    DTypeError unless dtype is a float.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.random_uniform((2, 3), seed=7, graph=graph, low=-1.0).type
        float32[2, 3]
    """
    kind = _float_dtype("random_uniform", dtype)
    numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
    start, wanted = _start("random_uniform", shape, state, seed, graph)
    if wanted is not None and kind is not float64 and is_philox(start):
        # Stored in any case, and so a block of four words at a time.
        bounds = (float(low), float(high)) if numbers else (0.0, 1.0)
        values, moved = start.graph.apply(RandomUnit(wanted, kind, *bounds), start)
        after = moved if seed is None else None
        low, high = (0, 1) if numbers else (low, high)
    else:
        bits, after = _draw("random_uniform", shape, state, seed, graph, _copies(kind))
        values = _unit(bits, kind)
    if not (numbers and (low, high) == (0, 1)):
        values = add(multiply(values, high - low), low)
    return _named(cast_to(values, kind), after, name)


@opdef.plain_function
def random_integers(
    shape: Any,
    state: Any = None,
    *,
    low: int = 0,
    high: int,
    dtype: Any = dtypes.int32,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """Random integers from low (included) to high (excluded).

    Each comes from one 32-bit word (its product with high - low, divided by 2**32), so the odds of
    two values differ by at most (high - low) / 2**32. With `state` returns (values, state after
    them), with `seed` and `graph` values that are the same in every run. Raises AttributeValueError
    unless 0 < high - low <= 2**32 and both ends fit the dtype.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.random_integers((2, 3), seed=7, graph=graph, high=10).type
        int32[2, 3]
    """
    kind = dtypes.dtype(dtype)
    check_dtype("random_integers", kind, dtypes.INTEGERS)
    if not 0 < high - low <= 2**32:
        raise AttributeValueError(
            "random_integers",
            "high - low must be from 1 to 2**32",
            received=f"low={low}, high={high}",
        )
    if low < kind.min or high - 1 > kind.max:
        raise AttributeValueError(
            "random_integers",
            f"the range does not fit {kind.name}",
            received=f"{low} to {high - 1}",
        )
    bits, after = _draw("random_integers", shape, state, seed, graph, 0)
    offset = bitwise_right_shift(cast(bits, uint64) * (high - low), 32)
    values = cast(offset, kind)
    return _named(values + low if low else values, after, name)


@opdef.plain_function
def random_normal(
    shape: Any,
    state: Any = None,
    *,
    mean: Any = 0.0,
    standard_deviation: Any = 1.0,
    method: str = "inverse_cdf",
    dtype: Any = dtypes.float32,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """Random floats from a normal distribution.

    `method` is "inverse_cdf" (one word a value) or "box_muller" (two). `mean` and
    `standard_deviation` are numbers or tensors that broadcast to `shape`, and are differentiable.
    Values reach 6.3 standard deviations (9.1 in float64). With `state` returns (values, state after
    them), with `seed` and `graph` values that are the same in every run.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.random_normal((2, 3), seed=7, graph=graph, mean=1.0).type
        float32[2, 3]
    """
    if method not in ("inverse_cdf", "box_muller"):
        raise AttributeValueError(
            "random_normal",
            "unknown method",
            received=repr(method),
            advice="Use 'inverse_cdf' or 'box_muller'",
        )
    kind = _float_dtype("random_normal", dtype)
    wide = compute_dtype(kind)
    if method == "box_muller":
        bits, after = _draw("random_normal", shape, state, seed, graph, 4 if wide is float64 else 2)
        values = _box_muller(bits, wide)
    else:
        bits, after = _draw("random_normal", shape, state, seed, graph, _copies(wide))
        below = normal_quantile(_positive(bits, wide, sign_bit=True))
        top = bits[0] if wide is float64 else bits
        values = select(opdef.functions()["less"](top, 2**31), below, negative(below))
    if not (isinstance(standard_deviation, (int, float)) and standard_deviation == 1):
        values = values * standard_deviation
    if not (isinstance(mean, (int, float)) and mean == 0):
        values = values + mean
    return _named(cast_to(values, kind), after, name)


def _box_muller(bits: Tensor, dtype: DType) -> Tensor:
    """sqrt(-2 log u) cos(2 pi v) of two uniform values (Box and Muller 1958)."""
    first, second = (bits[:2], bits[2:]) if dtype is float64 else (bits[0], bits[1])
    radius = sqrt(log(_positive(first, dtype)) * -2.0)
    return radius * cos(_unit(second, dtype) * (2.0 * math.pi))


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@opdef.plain_function
def random_truncated_normal(
    shape: Any,
    state: Any = None,
    *,
    mean: float = 0.0,
    standard_deviation: float = 1.0,
    low: float = -2.0,
    high: float = 2.0,
    dtype: Any = dtypes.float32,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """Random floats from the part of a normal distribution that lies from `low` to `high`.

    Bounds are values, not multiples of the standard deviation; either may be infinite. Drawn by the
    inverse distribution function. With `state` returns (values, state after them), with `seed` and
    `graph` values that are the same in every run. Raises AttributeValueError when the bounds cross,
    or hold less than 1e-30 of the distribution.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.random_truncated_normal((2, 3), seed=7, graph=graph, low=0.0).type
        float32[2, 3]
    """
    kind = _float_dtype("random_truncated_normal", dtype)
    if not (low < high and standard_deviation > 0):
        raise AttributeValueError(
            "random_truncated_normal",
            "needs low < high and a positive standard deviation",
            received=f"low={low}, high={high}, standard_deviation={standard_deviation}",
        )
    ends = ((low - mean) / standard_deviation, (high - mean) / standard_deviation)
    # In the upper tail probabilities crowd at 1; draw from the mirror image, where they are exact.
    flip = ends[0] > 0
    a, b = (_normal_cdf(-ends[1]), _normal_cdf(-ends[0])) if flip else map(_normal_cdf, ends)
    if b - a < 1e-30:
        raise AttributeValueError(
            "random_truncated_normal",
            "next to nothing of the distribution lies within the bounds",
            received=f"{b - a:.1e} from {low} to {high}",
        )
    wide = compute_dtype(kind)
    bits, after = _draw("random_truncated_normal", shape, state, seed, graph, _copies(wide))
    standard = normal_quantile(_positive(bits, wide) * (b - a) + a)
    values = standard * (-standard_deviation if flip else standard_deviation) + mean
    return _named(clamp(cast_to(values, kind), low, high), after, name)
