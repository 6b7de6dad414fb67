"""MTGP32, the Mersenne Twister for graphic processors, period 2**11213 - 1.

Source: M. Saito, M. Matsumoto, "Variants of Mersenne Twister suitable for graphic processors", ACM
Transactions on Mathematical Software 39 (2013); the parameters are the first of those published
for the exponent 11213 by their dynamic creator (mtgp32dc_params_fast_11213).

A state is uint32[351]: the words of the recursion that come next to be used, the oldest first.
Word i of the stream is made of words i, i + 1, i + PICK - 1 and i + PICK of the recursion, so that
256 of them can be computed at once; a stream has to be walked through from its start.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import DType, uint32
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import elements, show
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel import ir
from niello.kernel.ir import Expr
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.define import check_dtype

WORDS = 351  # of a state: 11213 bits, rounded up
PICK = 88  # the recursion takes in the word at this distance from the oldest
SHIFTS = (19, 5)  # to the left, to the right
MASK = 0xFFF80000  # the bits of the oldest word that belong to the state
# Two linear maps of four bits, by the images of each bit: in the recursion, and for tempering.
RECURSION = (0xABA4D62C, 0xBB076F87, 0x22000000, 0x000095BA)
TEMPERING = (0x06100000, 0x25D80000, 0x282C0000, 0x3302DE00)
SEEDING = 1812433253  # the multiplier of MT19937's initialisation, which this one follows
TOGETHER = 256  # words that do not depend on each other: at most WORDS - PICK
PASSES = 16  # of so many words before a state is moved to the front again
STATE_TYPE = TensorType((WORDS,), uint32)


@opdef.plain_function
def mtgp32_state(seed: int) -> np.ndarray:
    """An MTGP32 state as a uint32[351] array, from a seed of 32 bits.

    Every function that takes a state of `random_state` takes this one too: random_bits,
    random_uniform, random_integers, random_normal and those made of them. Seeding is that of the
    authors (mtgp32_init_state). Raises AttributeValueError for a seed that does not fit.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> noise, after = nl.random_uniform((2, 3), graph.variable(nl.mtgp32_state(7)))
        >>> after.type
        uint32[351]
    """
    try:
        start = operator.index(seed)
    except TypeError:
        start = -1
    if not 0 <= start < 1 << 32:
        raise AttributeValueError(
            "mtgp32_state", "the seed must fit 32 bits, without sign", received=repr(seed)
        )
    hidden = RECURSION[2] ^ (RECURSION[3] << 16 & 0xFFFFFFFF)
    folded = hidden + (hidden >> 16) & 0xFFFFFFFF
    folded = folded + (folded >> 8) & 0xFF
    state = [folded * 0x01010101] * WORDS
    state[0], state[1] = start, hidden
    for i in range(1, WORDS):
        before = state[i - 1]
        state[i] ^= SEEDING * (before ^ before >> 30) + i & 0xFFFFFFFF
    return np.array(state, np.uint32)


def is_philox(state: Tensor) -> bool:
    """Whether a state is that of Philox; otherwise it is one of MTGP32."""
    shape = state.shape
    return shape is None or len(shape) != 1 or shape[0] != WORDS


def check_state(asked: str, state: TensorType) -> None:
    """Refuse what is not a state of MTGP32."""
    check_dtype(asked, state.dtype, (uint32,))
    if state.shape is not None and (len(state.shape) != 1 or state.shape[0] not in (None, WORDS)):
        raise ShapeError(
            asked,
            f"an MTGP32 state has {WORDS} words",
            received=show(state.shape),
            advice="Make one with mtgp32_state(seed)",
        )


# --- NumPy
def _images(bits: np.ndarray, images: Sequence[int]) -> np.ndarray:
    """A linear map of the lowest four bits."""
    found = np.zeros_like(bits)
    for n, image in enumerate(images):
        found ^= np.where(bits >> np.uint32(n) & np.uint32(1), np.uint32(image), np.uint32(0))
    return found


def numpy_mtgp32(state: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` words of the stream of a state, and the state after them."""
    left, right = (np.uint32(s) for s in SHIFTS)
    line = np.zeros(WORDS + count, np.uint32)
    line[:WORDS] = state
    words = np.zeros(count, np.uint32)
    for start in range(0, count, TOGETHER):
        size = min(TOGETHER, count - start)
        oldest, second, before, pick = (
            line[start + d : start + d + size] for d in (0, 1, PICK - 1, PICK)
        )
        x = oldest & np.uint32(MASK) ^ second
        x ^= x << left
        y = x ^ pick >> right
        new = y ^ _images(y, RECURSION)
        line[start + WORDS : start + WORDS + size] = new
        t = before ^ before >> np.uint32(16)
        t ^= t >> np.uint32(8)
        words[start : start + size] = new ^ _images(t, TEMPERING)
    return words, line[count:].copy()


# --- kernels
def _mapped(r: RoutineBuilder, x: Expr, bits: Expr, images: Sequence[int]) -> Expr:
    """x with the image of the lowest four bits of another word added."""
    for n, image in enumerate(images):
        x = x ^ r.where((bits & (1 << n)).ne(0), ir.const(image, uint32), 0)
    return x


def _next(r: RoutineBuilder, line: Place, at: Expr) -> tuple[Expr, Expr]:
    """A word of the recursion and one of the stream, of the state that begins at a place."""
    oldest, second, before, pick = (r.read(line, at + d) for d in (0, 1, PICK - 1, PICK))
    x = (oldest & MASK) ^ second
    x = x ^ (x << SHIFTS[0])
    y = x ^ (pick >> SHIFTS[1])
    new = _mapped(r, y, y, RECURSION)
    t = before ^ (before >> 16)
    return new, _mapped(r, new, t ^ (t >> 8), TEMPERING)


@register
@frozen
class Mtgp32Words(Op):
    """Words of the stream of an MTGP32 state, in row-major order, and the state after them."""

    shape: tuple[int, ...]
    name: ClassVar[str] = "mtgp32_words"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = (uint32,)
    doc: ClassVar[str] = (
        "uint32 words of MTGP32 (exponent 11213, the first parameters of its dynamic creator) in "
        "a given shape, and the state after them."
    )

    def infer(self, state: TensorType) -> tuple[TensorType, ...]:
        check_state(self.name, state)
        return TensorType(self.shape, uint32), STATE_TYPE

    def reference(self, state: np.ndarray) -> tuple[np.ndarray, ...]:
        words, after = numpy_mtgp32(state, elements(self.shape))
        return words.reshape(self.shape), after

    grad = not_differentiable("random bits are integers")

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (state,) = inputs
        words, after = r.outputs
        count = elements(self.shape)
        r.members(TOGETHER)
        run = TOGETHER * PASSES
        line = r.local(uint32, WORDS + run)
        with r.spread(WORDS) as m:
            r.write(line, m, r.read(state, m))

        def passes(start: Expr, full: int, rest: int) -> None:
            """So many passes from the front of the line, and a shorter one."""
            with r.loop(0, full) as p:
                one(start, p * TOGETHER, TOGETHER)
            if rest:
                one(start, r.index(full * TOGETHER), rest)

        def one(start: Expr, at: Expr, size: int) -> None:
            with r.spread(size) as m:
                new, word = _next(r, line, at + m)
                r.write(line, at + m + WORDS, new)
                r.write(words, start + at + m, word)

        with r.loop(0, count // run) as chunk:
            passes(chunk * run, PASSES, 0)
            with r.spread(WORDS) as m:
                r.write(line, m, r.read(line, m + run))
        left = count % run
        passes(r.index(count - left), left // TOGETHER, left % TOGETHER)
        with r.spread(WORDS) as m:
            r.write(after, m, r.read(line, m + left))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        state = mtgp32_state(1)
        turn = TOGETHER * PASSES
        shapes = ((2, 7), (), (0, 3), (TOGETHER,), (turn,), (2 * turn + 2 * TOGETHER + 5,))
        return [sample(state, shape=shape) for shape in shapes]


@register
@frozen
class Mtgp32WordsLike(Op):
    """`mtgp32_words` in the shape of a tensor, with a first axis of `copies` unless that is 0."""

    copies: int = 0
    name: ClassVar[str] = "mtgp32_words_like"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = dtypes.ALL
    doc: ClassVar[str] = (
        "uint32 words of MTGP32 in the shape of the second operand, with `copies` of it along a "
        "new first axis unless that is 0, and the state after them."
    )

    def _shape(self, shape: Any) -> Any:
        return shape if shape is None or not self.copies else (self.copies, *shape)

    def infer(self, state: TensorType, like: TensorType) -> tuple[TensorType, ...]:
        check_state(self.name, state)
        return TensorType(self._shape(like.shape), uint32), STATE_TYPE

    def reference(self, state: np.ndarray, like: np.ndarray) -> tuple[np.ndarray, ...]:
        return Mtgp32Words(self._shape(like.shape)).reference(state)

    grad = not_differentiable("random bits are integers")

    def decompose(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        state, like = inputs
        static = Mtgp32Words(self._shape(like.type.static_shape))
        return state.graph.add(static, (state,)).outputs

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(mtgp32_state(1), real(2, 3)), sample(mtgp32_state(2), real(3), copies=2)]
