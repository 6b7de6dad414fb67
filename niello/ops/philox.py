"""Philox 4x32-10, the counter-based generator behind all random operations.

Source: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as
1, 2, 3" (2011). A state is uint32[6]: the 128-bit counter, lowest word first, then the 64-bit key.
Word i of a stream is word i mod 4 of the block whose counter is that of the state plus i // 4, so
every element can be computed by itself, and on every device to the same bits.
"""

from __future__ import annotations

import numpy as np

from niello.core.dtypes import uint32
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph import opdef
from niello.kernel.build import Builder, Value
from niello.kernel.ir import Expr
from niello.kernel.routine_build import RoutineBuilder
from niello.ops.define import check_dtype

STATE_WORDS = 6
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
STATE_TYPE = TensorType((STATE_WORDS,), uint32)


@opdef.plain_function
def random_state(seed: int, *, counter: int = 0) -> np.ndarray:
    """A generator state as a uint32[6] array, for a variable, a constant or a feed.

    `seed` (64 bits) chooses the stream, `counter` (128 bits) where in it to start, in blocks of
    four words. Streams of different seeds do not overlap. Raises AttributeValueError for numbers
    that do not fit.

    Example:
        >>> import niello as nl
        >>> nl.random_state(7)
        array([0, 0, 0, 0, 7, 0], dtype=uint32)
    """
    for what, value, bits in (("seed", seed, 64), ("counter", counter, 128)):
        if not 0 <= int(value) < 1 << bits:
            raise AttributeValueError(
                "random_state", f"the {what} must fit {bits} bits, without sign", received=value
            )
    words = [int(counter) >> shift for shift in (0, 32, 64, 96)]
    words += [int(seed), int(seed) >> 32]
    return np.array([w & 0xFFFFFFFF for w in words], np.uint32)


def check_state(asked: str, state: TensorType) -> None:
    """Refuse what is not a generator state."""
    check_dtype(asked, state.dtype, (uint32,))
    if state.shape is not None and (len(state.shape) != 1 or state.shape[0] not in (None, 6)):
        raise ShapeError(
            asked,
            "a random state has six words",
            received=show(state.shape),
            advice="Make one with random_state(seed)",
        )


# --- NumPy
def numpy_words(state: np.ndarray, count: int) -> np.ndarray:
    """The first `count` words of the stream of a state."""
    blocks = -(-count // 4)
    start = sum(int(w) << (32 * i) for i, w in enumerate(state[:4]))
    # The low 64 bits per block, and the few blocks after which they have wrapped.
    low = np.uint64(start & (2**64 - 1)) + np.arange(blocks, dtype=np.uint64)
    wrapped = low < np.uint64(start & (2**64 - 1))
    high = (start >> 64) & (2**64 - 1)
    after = (high + 1) & (2**64 - 1)
    upper = np.where(wrapped, np.uint64(after), np.uint64(high))
    mask = np.uint64(0xFFFFFFFF)
    c = [low & mask, low >> np.uint64(32), upper & mask, upper >> np.uint64(32)]
    key = [int(state[4]), int(state[5])]
    for _ in range(ROUNDS):
        first, second = (c[i] * np.uint64(m) for i, m in zip((0, 2), MULTIPLIERS, strict=True))
        c = [
            (second >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]),
            second & mask,
            (first >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]),
            first & mask,
        ]
        key = [(k + step) & 0xFFFFFFFF for k, step in zip(key, KEY_STEPS, strict=True)]
    return np.stack(c, axis=-1).reshape(-1)[:count].astype(np.uint32)


def numpy_advance(state: np.ndarray, count: int) -> np.ndarray:
    """The state after `count` words, rounded up to whole blocks."""
    counter = sum(int(w) << (32 * i) for i, w in enumerate(state[:4])) + -(-count // 4)
    words = [(counter >> (32 * i)) & 0xFFFFFFFF for i in range(4)]
    return np.array([*words, *state[4:]], np.uint32)


# --- kernel expressions
def advanced(
    k: Builder | RoutineBuilder, counter: list[Expr], low: Expr, high: Expr | None
) -> list[Expr]:
    """A 128-bit counter plus a number of one or two words."""
    result: list[Expr] = []
    carry: Expr | None = None
    for word, addend in zip(counter, (low, high, None, None), strict=True):
        total, overflow = word, None
        for term in (addend, carry):
            if term is not None:
                total = total + term
                over = total < term
                overflow = over if overflow is None else overflow | over
        result.append(total)
        carry = None if overflow is None else k.cast(overflow, uint32)
    return result


def block(k: Builder | RoutineBuilder, counter: list[Expr], key: list[Expr]) -> list[Expr]:
    """The four words of the block of a counter."""
    c = counter
    multipliers = [k.const(m, uint32) for m in MULTIPLIERS]
    for _ in range(ROUNDS):
        c = [
            k.mulhi(multipliers[1], c[2]) ^ c[1] ^ key[0],
            multipliers[1] * c[2],
            k.mulhi(multipliers[0], c[0]) ^ c[3] ^ key[1],
            multipliers[0] * c[0],
        ]
        key = [x + step for x, step in zip(key, KEY_STEPS, strict=True)]
    return c


def word(k: Builder, state: Value, position: Expr, count: int) -> Expr:
    """The word at `position` (int64, below `count`) of the stream of a state."""
    number = position // 4
    high = k.cast(k.shr(number, 32), uint32) if count > 4 << 32 else None
    counter = advanced(k, [state(i) for i in range(4)], k.cast(number, uint32), high)
    c = block(k, counter, [state(4), state(5)])
    lane = position % 4
    even = k.where(lane.eq(0), c[0], c[2])
    odd = k.where(lane.eq(1), c[1], c[3])
    return k.where((lane % 2).eq(0), even, odd)


def advance(k: Builder, state: Value, index: Expr, count: int) -> Expr:
    """Word `index` of the state after `count` words of its stream."""
    blocks = -(-count // 4)
    high = k.const(blocks >> 32, uint32) if blocks >> 32 else None
    moved = advanced(k, [state(i) for i in range(4)], k.const(blocks, uint32), high)
    result = state(index)
    for i, new in enumerate(moved):
        result = k.where(index.eq(i), new, result)
    return result
