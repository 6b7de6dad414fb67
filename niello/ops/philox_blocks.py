"""Philox in whole blocks: four words of the stream for each evaluation of the generator.

`random_bits` gives any word by itself, so that it stitches into what uses it, at the price of a
block for each word. Where the numbers are stored anyway, a routine computes each block once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, bfloat16, float16, float32, int32, uint32
from niello.core.records import frozen
from niello.core.shapes import elements
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, register, sample
from niello.kernel.ir import Expr
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.philox import (
    STATE_TYPE,
    STATE_WORDS,
    advanced,
    block,
    check_state,
    numpy_advance,
    numpy_words,
)

BLOCKS = 8192  # of a team
KEPT_BITS = {"float16": 11, "bfloat16": 8, "float32": 24}  # as many as a dtype holds exactly


def philox_routine(
    r: RoutineBuilder, state: Place, count: int, convert: Callable[[Expr], Expr]
) -> None:
    """Statements that fill the first output with `convert` of each word of the stream, and the
    second with the state after them."""
    values, after = r.outputs
    full = count // 4
    team = r.teams(max(1, -(-full // BLOCKS)))
    words = [r.read(state, i) for i in range(STATE_WORDS)]
    counter, key = words[:4], words[4:]

    def made(number: Expr) -> list[Expr]:
        high = r.cast(number >> 32, uint32) if full >> 32 else None
        return [
            convert(w) for w in block(r, advanced(r, counter, r.cast(number, uint32), high), key)
        ]

    if full:
        first = team * BLOCKS
        with r.spread(r.min(r.index(BLOCKS), full - first)) as m:
            for lane, value in enumerate(made(first + m)):
                r.write(values, (first + m) * 4 + lane, value)
    with r.when(team.eq(0)):
        for lane, value in enumerate(made(r.index(full))[: count % 4] if count % 4 else []):
            r.write(values, full * 4 + lane, value)
        blocks = -(-count // 4)
        upper = r.const(blocks >> 32, uint32) if blocks >> 32 else None
        moved = advanced(r, counter, r.const(blocks & 0xFFFFFFFF, uint32), upper)
        for i, new in enumerate([*moved, *key]):
            r.write(after, i, new)


@register
@frozen
class RandomWords(Op):
    """The same as RandomBits, stored."""

    shape: tuple[int, ...]
    name: ClassVar[str] = "random_words"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = (uint32,)
    doc: ClassVar[str] = (
        "uint32 words of Philox 4x32-10 in a given shape, and the state after them; a block of "
        "four is computed once."
    )

    def infer(self, state: TensorType) -> tuple[TensorType, ...]:
        check_state(self.name, state)
        return TensorType(self.shape, uint32), STATE_TYPE

    def reference(self, state: np.ndarray) -> tuple[np.ndarray, ...]:
        count = elements(self.shape)
        return numpy_words(state, count).reshape(self.shape), numpy_advance(state, count)

    grad = not_differentiable("random bits are integers")

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        philox_routine(r, inputs[0], elements(self.shape), lambda w: w)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(state, shape=shape) for state, shape in block_samples()]


@register
@frozen
class RandomUnit(Op):
    """Uniform floats, stored."""

    shape: tuple[int, ...]
    dtype: DType
    low: float = 0.0
    high: float = 1.0
    name: ClassVar[str] = "random_unit"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = (uint32,)
    doc: ClassVar[str] = (
        "Uniform floats from low to high of words of Philox 4x32-10 in a given shape, and the "
        "state after them; a block of four words is computed once."
    )

    def infer(self, state: TensorType) -> tuple[TensorType, ...]:
        check_state(self.name, state)
        return TensorType(self.shape, self.dtype), STATE_TYPE

    @property
    def _settings(self) -> tuple[int, float]:
        kept = KEPT_BITS[self.dtype.name]
        return 32 - kept, 2.0**-kept

    @property
    def _plain(self) -> bool:
        return self.low == 0 and self.high == 1

    def reference(self, state: np.ndarray) -> tuple[np.ndarray, ...]:
        count = elements(self.shape)
        shift, step = self._settings
        unit = (numpy_words(state, count) >> np.uint32(shift)).astype(np.float32)
        found = (unit * np.float32(step)).astype(self.dtype.numpy)
        if not self._plain:
            # Half types round after each of the two steps, as the two operations do.
            span = np.asarray(self.high - self.low, self.dtype.numpy).astype(np.float32)
            scaled = (found.astype(np.float32) * span).astype(self.dtype.numpy)
            low = np.asarray(self.low, self.dtype.numpy).astype(np.float32)
            found = (scaled.astype(np.float32) + low).astype(self.dtype.numpy)
        return found.reshape(self.shape), numpy_advance(state, count)

    grad = not_differentiable("it has no input but random bits")

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        shift, step = self._settings

        def convert(w: Expr) -> Expr:
            # Below 2**31 the conversion from int32 is the cheaper one.
            unit = r.cast(r.bitcast(w >> shift, int32), float32) * step
            return unit if self._plain else unit * (self.high - self.low) + self.low

        philox_routine(r, inputs[0], elements(self.shape), convert)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = [sample(state, shape=shape, dtype=float32) for state, shape in block_samples()]
        state: Any = block_samples()[0][0]
        return [
            *found,
            sample(state, shape=(21,), dtype=float32, low=-2.0, high=5.0),
            sample(state, shape=(21,), dtype=float16),
            sample(state, shape=(3, 5), dtype=bfloat16),
        ]


def block_samples() -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """States and shapes: a part of a block, several teams, a counter that carries."""
    state = np.array([1, 2, 3, 4, 5, 6], np.uint32)
    carry = np.array([0xFFFFFFF0, 0xFFFFFFFF, 0xFFFFFFFF, 7, 5, 6], np.uint32)
    return [(state, (2, 7)), (carry, (150,)), (state, ()), (state, (0, 3)), (state, (8,)),
            (carry, (4 * BLOCKS + 5,))]  # fmt: skip
