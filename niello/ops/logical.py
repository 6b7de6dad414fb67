"""Elementwise logic on booleans, and on the bits of integers.

Logical functions take any dtype: what is not bool becomes so (nonzero is true). Bitwise functions
take integers, and bool where that has a meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from niello.core.dtypes import INTEGERS, bool_
from niello.graph import opdef
from niello.graph.opdef import Trait, booleans, real, sample
from niello.graph.tensor import Tensor
from niello.ops.define import cast_to, document, elementwise, graph_of

_NO_GRADIENT = "its result is boolean"
_INTEGER = "integers have no gradient"
_PAIRS = (
    sample(np.array([False, False, True, True]), np.array([False, True, False, True])),
    sample(booleans(2, 1, 3), booleans(4, 1)),
    sample(booleans(0, 3), booleans(3)),
)


def _logical(name: str, numpy: Any, scalar: Any, doc: str, pairs: bool = True) -> Any:
    """Define a logical op and publish a function that first converts its operands to bool."""
    call = elementwise(
        name,
        (bool_,),
        numpy=numpy,
        scalar=scalar,
        grad=_NO_GRADIENT,
        samples=_PAIRS if pairs else [sample(booleans(2, 3)), sample(booleans(0))],
        doc=doc,
        traits=Trait.COMMUTATIVE if pairs else Trait.NONE,
        publish=False,
    )

    def as_bool(asked: str, *values: Any) -> list[Tensor]:
        graph = graph_of(asked, *values)
        return [cast_to(graph.as_tensor(v), bool_) for v in values]

    def one(x: Any, *, name: str | None = None) -> Tensor:
        return call(*as_bool(published.__name__, x), name=name)

    def two(a: Any, b: Any, *, name: str | None = None) -> Tensor:
        return call(*as_bool(published.__name__, a, b), name=name)

    published: Callable[..., Tensor] = two if pairs else one
    published.__name__ = published.__qualname__ = name
    published.__doc__ = document(name, doc, ("a", "b") if pairs else ("x",), (bool_,))
    return opdef.function(published)


logical_and = _logical(
    "logical_and",
    np.logical_and,
    lambda k, a, b: a & b,
    "Whether both elements are true; operands broadcast and become bool.",
)
logical_or = _logical(
    "logical_or",
    np.logical_or,
    lambda k, a, b: a | b,
    "Whether either element is true; operands broadcast and become bool.",
)
logical_xor = _logical(
    "logical_xor",
    np.logical_xor,
    lambda k, a, b: a ^ b,
    "Whether exactly one element is true; operands broadcast and become bool.",
)
logical_nand = _logical(
    "logical_nand",
    lambda a, b: ~(a & b),
    lambda k, a, b: k.not_(a & b),
    "Whether not both elements are true; operands broadcast and become bool.",
)
logical_nor = _logical(
    "logical_nor",
    lambda a, b: ~(a | b),
    lambda k, a, b: k.not_(a | b),
    "Whether neither element is true; operands broadcast and become bool.",
)
logical_xnor = _logical(
    "logical_xnor",
    lambda a, b: a == b,
    lambda k, a, b: k.not_(a ^ b),
    "Whether both elements are equally true; operands broadcast and become bool.",
)
logical_not = _logical(
    "logical_not",
    np.logical_not,
    lambda k, x: k.not_(x),
    "Whether each element is false; the operand becomes bool.",
    pairs=False,
)


_BITS = (bool_, *INTEGERS)
_INTEGER_PAIRS = (
    sample(real(2, 3, low=-100, high=100), real(2, 3, low=-100, high=100)),
    sample(real(2, 1, 3, low=-9, high=9), real(4, 1, low=-9, high=9)),
    sample(real(0, 3), real(3)),
)

bitwise_and = elementwise(
    "bitwise_and",
    _BITS,
    numpy=np.bitwise_and,
    scalar=lambda k, a, b: a & b,
    grad=_INTEGER,
    samples=_INTEGER_PAIRS,
    doc="Bits set in both integers, broadcast.",
    traits=Trait.COMMUTATIVE,
)

bitwise_or = elementwise(
    "bitwise_or",
    _BITS,
    numpy=np.bitwise_or,
    scalar=lambda k, a, b: a | b,
    grad=_INTEGER,
    samples=_INTEGER_PAIRS,
    doc="Bits set in either integer, broadcast.",
    traits=Trait.COMMUTATIVE,
)

bitwise_xor = elementwise(
    "bitwise_xor",
    _BITS,
    numpy=np.bitwise_xor,
    scalar=lambda k, a, b: a ^ b,
    grad=_INTEGER,
    samples=_INTEGER_PAIRS,
    doc="Bits set in exactly one of two integers, broadcast.",
    traits=Trait.COMMUTATIVE,
)

bitwise_not = elementwise(
    "bitwise_not",
    _BITS,
    numpy=np.invert,
    scalar=lambda k, x: k.not_(x),
    grad=_INTEGER,
    samples=[sample(real(2, 3, low=-100, high=100)), sample(real(0))],
    doc="Every bit of an integer inverted; `not` of a bool.",
)


def _numpy_shift(a: np.ndarray, b: np.ndarray, left: bool) -> np.ndarray:
    """Shift in Python's unbounded integers, then wrap: slow, and plainly right."""
    bits = a.dtype.itemsize * 8

    def one(x: Any, n: Any) -> Any:
        x, n = int(x), int(n)
        if not 0 <= n < bits:
            return 0 if left or x >= 0 else -1
        return (x << n) & ((1 << bits) - 1) if left else x >> n

    a, b = np.broadcast_arrays(a, b)
    found = [one(x, n) % (1 << bits) for x, n in zip(a.flat, b.flat, strict=True)]
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    return np.array(found, unsigned).view(a.dtype).reshape(a.shape)


_SHIFTS = (
    sample(real(2, 3, low=-100, high=100), real(2, 3, low=0, high=7)),
    sample(
        real(2, 1, low=-100, high=100),
        np.array([0, 1, 7, 8, 31, 64, 100]).astype(np.int8),
        dtypes=(INTEGERS[0],),
    ),
    sample(real(4, low=-9, high=9), real(low=-3, high=-1)),
    sample(real(0), real(0)),
)

bitwise_left_shift = elementwise(
    "bitwise_left_shift",
    INTEGERS,
    numpy=lambda a, b: _numpy_shift(a, b, True),
    scalar=lambda k, a, b: a << b,
    grad=_INTEGER,
    samples=_SHIFTS,
    doc="Bits of `a` moved up by `b` places, broadcast; 0 unless `b` is from 0 to the width.",
)

bitwise_right_shift = elementwise(
    "bitwise_right_shift",
    INTEGERS,
    numpy=lambda a, b: _numpy_shift(a, b, False),
    scalar=lambda k, a, b: a >> b,
    grad=_INTEGER,
    samples=_SHIFTS,
    doc=(
        "Bits of `a` moved down by `b` places, broadcast, keeping the sign of signed integers; "
        "0 (or -1 for a negative `a`) when `b` is negative or the width or more."
    ),
)

popcount = elementwise(
    "popcount",
    INTEGERS,
    numpy=lambda x: np.array(
        [bin(int(v) % (1 << x.dtype.itemsize * 8)).count("1") for v in x.flat], x.dtype
    ).reshape(x.shape),
    scalar=lambda k, x: k.popcount(x),
    grad=_INTEGER,
    samples=[sample(real(2, 3, low=-100, high=100)), sample(real(0))],
    doc="Number of set bits of each integer, in two's complement, in the operand's dtype.",
)
