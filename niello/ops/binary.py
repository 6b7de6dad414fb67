"""Elementwise arithmetic of two tensors, broadcast like NumPy.

Operands promote to a common dtype (core.dtypes.promote). Integers wrap; integer division and
remainders by zero give 0. Where a function is not smooth the op's doc states its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from niello.core.dtypes import FLOATS, INTEGERS, NUMBERS, float32
from niello.graph import opdef
from niello.graph.opdef import Trait, real, sample
from niello.graph.tensor import Tensor
from niello.ops import complex_planes
from niello.ops.comparison import equal, less, less_equal
from niello.ops.define import cast_to, elementwise, operands
from niello.ops.logical import logical_and
from niello.ops.select import select
from niello.ops.unary import is_nan, log, reciprocal, rint, sqrt, square

_NAN = np.array([np.nan, np.nan, 1.0, 0.0, np.inf, -np.inf, -0.0, 3.0])
_OTHER = np.array([np.nan, 1.0, np.nan, -0.0, np.inf, np.inf, 0.0, -np.inf])

_special = sample(_NAN, _OTHER, grad=False)
_broadcast = (
    sample(real(2, 3), real(2, 3)),
    sample(real(2, 1, 3), real(4, 1)),
    sample(real(), real(3)),
    sample(real(0, 3), real(3)),
)
# Divisors that are not zero, of either sign.
_quotients = (
    sample(real(2, 3, low=-9, high=9), real(2, 3, low=1.0, high=3.0)),
    sample(real(2, 3, low=-9, high=9), real(2, 3, low=-3.0, high=-1.0)),
    sample(real(2, 1, 3), real(4, 1, low=1.0, high=3.0)),
    sample(real(0, 3), real(3, low=1.0)),
    sample(real(3, low=1.0), np.zeros(3), grad=False),
    _special,
)
_zero_divisor = sample(
    np.array([5, -5, 0], np.int32), np.array([0, 0, 0], np.int32), dtypes=(INTEGERS[2],)
)
_signs = sample(
    np.array([7, 7, -7, -7], np.int32), np.array([3, -3, 3, -3], np.int32), dtypes=(INTEGERS[2],)
)


add = elementwise(
    "add",
    NUMBERS,
    numpy=np.add,
    scalar=lambda k, a, b: a + b,
    grad=lambda g, a, b, y: (g, g),
    samples=[*_broadcast, _special],
    doc="a + b for each element, broadcast.",
    traits=Trait.COMMUTATIVE | Trait.LINEAR,
)

subtract = elementwise(
    "subtract",
    NUMBERS,
    numpy=np.subtract,
    scalar=lambda k, a, b: a - b,
    grad=lambda g, a, b, y: (g, -g),
    samples=[*_broadcast, _special],
    doc="a - b for each element, broadcast.",
    traits=Trait.LINEAR,
)

multiply = elementwise(
    "multiply",
    NUMBERS,
    numpy=np.multiply,
    scalar=lambda k, a, b: a * b,
    grad=lambda g, a, b, y: (g * b, g * a),
    samples=[*_broadcast, _special],
    doc="a * b for each element, broadcast.",
    traits=Trait.COMMUTATIVE,
    planes=complex_planes.multiply,
)


def _float_operands(asked: str, a: Any, b: Any) -> list[Tensor]:
    """Operands of one float dtype: integers and booleans become float32."""
    return [x if x.dtype.is_inexact else cast_to(x, float32) for x in operands(asked, a, b)]


_divide = elementwise(
    "divide",
    FLOATS,
    numpy=np.divide,
    scalar=lambda k, a, b: a / b,
    grad=lambda g, a, b, y: (g / b, -(g * y / b)),
    samples=_quotients,
    doc="a / b for each element, broadcast; integers divide as float32.",
    publish=False,
    planes=complex_planes.divide,
)

_divide_no_nan: Callable[..., Tensor] = elementwise(
    "divide_no_nan",
    FLOATS,
    numpy=lambda a, b: np.where(b == 0, np.zeros_like(a), a / b),
    scalar=lambda k, a, b: k.where(b.eq(0.0), 0.0, a / b),
    grad=lambda g, a, b, y: (_divide_no_nan(g, b), -_divide_no_nan(g * y, b)),
    samples=_quotients,
    doc="a / b for each element, broadcast, but 0 where b is 0; integers divide as float32.",
    publish=False,
    planes=complex_planes.divide_no_nan,
)


@opdef.function
def divide(a: Any, b: Any, *, name: str | None = None) -> Tensor:
    """a / b for each element, broadcast; integers divide as float32.

    Division by zero gives an infinity, or NaN for 0 / 0 (IEEE 754).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.divide(graph.placeholder((2, 3), nl.int32), 4).type
        float32[2, 3]
    """
    return _divide(*_float_operands("divide", a, b), name=name)


@opdef.function
def divide_no_nan(a: Any, b: Any, *, name: str | None = None) -> Tensor:
    """a / b for each element, broadcast, but 0 where b is 0; integers divide as float32.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.divide_no_nan(graph.placeholder((2, 3)), 0.0).shape
        (2, 3)
    """
    return _divide_no_nan(*_float_operands("divide_no_nan", a, b), name=name)


def _numpy_modulo(a: np.ndarray, b: np.ndarray) -> Any:
    if a.dtype.kind == "f":
        return np.fmod(a, b)
    return np.where(b == 0, np.zeros_like(a), np.fmod(a, np.where(b == 0, np.ones_like(b), b)))


modulo = elementwise(
    "modulo",
    NUMBERS,
    numpy=_numpy_modulo,
    scalar=lambda k, a, b: k.truncmod(a, b),
    # (a - y) / b is the whole quotient up to rounding.
    grad=lambda g, a, b, y: (g, -(g * rint((a - y) / b))),
    samples=[*_quotients, _zero_divisor, _signs],
    doc=(
        "Remainder of a / b truncated, with the sign of a (C's fmod and %), broadcast; "
        "by zero 0 for integers, NaN for floats."
    ),
)


def _numpy_floor_modulo(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    safe = np.where(b == 0, np.ones_like(b), b)
    whole = a - np.floor(a / safe) * safe if a.dtype.kind == "f" else a % safe
    return np.where(b == 0, np.zeros_like(a), whole)


floor_modulo = elementwise(
    "floor_modulo",
    NUMBERS,
    numpy=_numpy_floor_modulo,
    scalar=lambda k, a, b: k.floormod(a, b),
    grad=lambda g, a, b, y: (g, -(g * rint(_divide_no_nan(a - y, b)))),
    samples=[*_quotients, _zero_divisor, _signs],
    doc="a - floor(a / b) * b, with the sign of b (Python's %), broadcast; 0 where b is 0.",
)


def _numpy_floor_divide(a: np.ndarray, b: np.ndarray) -> Any:
    if a.dtype.kind == "f":
        return np.floor(a / b)
    safe = np.where(b == 0, np.ones_like(b), b)
    return np.where(b == 0, np.zeros_like(a), a // safe)


floor_divide = elementwise(
    "floor_divide",
    NUMBERS,
    numpy=_numpy_floor_divide,
    scalar=lambda k, a, b: a // b,
    grad=lambda g, a, b, y: (None, None),
    samples=[*_quotients, _zero_divisor, _signs],
    doc=(
        "floor(a / b) for each element, broadcast (Python's //); integers by zero give 0. "
        "Passes no gradient, being constant between steps."
    ),
)


# --- powers
def _integer_power(k: Any, a: Any, b: Any) -> Any:
    """Square and multiply over the bits of the exponent, wrapping like other integer arithmetic."""
    one = k.const(1, a.dtype)
    result, base = one, a
    bits = a.dtype.bits - (1 if a.dtype.is_signed else 0)
    for bit in range(bits):
        result = k.where((b & k.const(1 << bit, b.dtype)).ne(0), result * base, result)
        base = base * base
    if not a.dtype.is_signed:
        return result
    # 1 / a**|b| truncated: only 1 and -1 leave something.
    odd = (b & one).ne(0)
    inverse = k.where(a.eq(1), one, k.where(a.eq(-1), k.where(odd, k.const(-1, a.dtype), one), 0))
    return k.where(b < 0, inverse, result)


def _numpy_power(a: np.ndarray, b: np.ndarray) -> Any:
    if a.dtype.kind in "fc":
        return np.power(a, b)
    below = np.where(a == 1, 1, np.where(a == 0 - 1, np.where(b % 2 == 0, 1, -1), 0))
    positive = np.power(a, np.where(b < 0, 0, b).astype(b.dtype))
    return np.where(b < 0, below.astype(a.dtype), positive)


def _power_grad(g: Tensor, a: Tensor, b: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    # b = 0 is constant in a even at a = 0, where 0 * 0**-1 would be NaN; and 0**b is constant in b.
    to_base = select(equal(b, 0.0), 0.0, g * b * _power(a, b - 1.0))
    to_exponent = select(equal(a, 0.0), 0.0, g * y * log(select(equal(a, 0.0), 1.0, a)))
    return to_base, to_exponent


_power = elementwise(
    "power",
    NUMBERS,
    numpy=_numpy_power,
    scalar=lambda k, a, b: k.pow(a, b) if a.dtype.is_float else _integer_power(k, a, b),
    grad=_power_grad,
    samples=[
        sample(real(2, 3, low=0.5, high=3.0), real(2, 3)),
        sample(real(2, 1, 3, low=1.0, high=3.0), real(4, 1, low=0.0, high=3.0)),
        sample(
            np.array([-2.0, -1.5, 0.0, 2.0, 0.0]), np.array([2.0, 3.0, 2.0, -1.0, 0.0]), grad=False
        ),
        sample(
            np.array([-1, 1, 2, 0, -3, 7, -1], np.int32),
            np.array([-3, -2, -1, -1, 3, 31, -2], np.int32),
            dtypes=(INTEGERS[2],),
        ),
        sample(real(0, 3), real(3)),
        _special,
    ],
    doc=(
        "a to the power b, broadcast. Integers wrap, and a negative integer exponent truncates "
        "the fraction to 0."
    ),
    traits=Trait.EXPENSIVE,
    publish=False,
    planes=complex_planes.power,
)


@opdef.function
def power(a: Any, b: Any, *, name: str | None = None) -> Tensor:
    """a to the power b for each element, broadcast.

    A Python number as exponent becomes cheaper operations where that is at least as exact: 1, 2, 3,
    and for floats 0.5 and -1. Integers wrap, and a negative integer exponent truncates the fraction
    to 0. A float beside integers makes float32. Follows NumPy's power.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((3,))
        >>> (x ** 2.5).shape
        (3,)
    """
    x, exponent = operands("power", a, b)
    if isinstance(b, (int, float)) and not isinstance(b, bool):
        if b == 2:
            return square(x, name=name)
        if b == 3:
            return multiply(square(x), x, name=name)
        if b == 0.5 and x.dtype.is_inexact:
            return sqrt(x, name=name)
        if b == -1 and x.dtype.is_inexact:
            return reciprocal(x, name=name)
        if b == 1:
            return x if name is None else opdef.functions()["identity"](x, name=name)
    return _power(x, exponent, name=name)


# --- minimum and maximum
def _halved_at_ties(pick: Any) -> Any:
    """Gradient of min or max: to the chosen operand, half to each where they are equal."""

    def grad(g: Tensor, a: Tensor, b: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        tie = equal(a, b)
        half = g * 0.5
        return select(tie, half, select(pick(a, b), g, 0.0)), select(
            tie, half, select(pick(b, a), g, 0.0)
        )

    return grad


_ORDERED = [*_broadcast, _special]

minimum = elementwise(
    "minimum",
    NUMBERS,
    numpy=np.minimum,
    scalar=lambda k, a, b: k.min(a, b),
    grad=_halved_at_ties(less),
    samples=_ORDERED,
    doc="The smaller of a and b, broadcast; NaN if either is. Equal operands share the gradient.",
    traits=Trait.COMMUTATIVE,
)

maximum = elementwise(
    "maximum",
    NUMBERS,
    numpy=np.maximum,
    scalar=lambda k, a, b: k.max(a, b),
    grad=_halved_at_ties(lambda a, b: less(b, a)),
    samples=_ORDERED,
    doc="The larger of a and b, broadcast; NaN if either is. Equal operands share the gradient.",
    traits=Trait.COMMUTATIVE,
)


def _without_nan(function: str) -> Any:
    """min or max that takes the other operand when one is NaN."""

    def scalar(k: Any, a: Any, b: Any) -> Any:
        chosen = k.fn(function, a, b)
        if not a.dtype.is_float:
            return chosen
        return k.where(a.ne(a), b, k.where(b.ne(b), a, chosen))

    return scalar


def _skip_nan(grad: Any) -> Any:
    def skipping(g: Tensor, a: Tensor, b: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        to_a, to_b = grad(g, a, b, y)
        missing_a, missing_b = is_nan(a), is_nan(b)
        # Both NaN: the result is b, as `scalar` has it.
        only_b = logical_and(missing_b, less_equal(a, a))
        return select(only_b, g, to_a), select(missing_a, g, to_b)

    return skipping


fmin = elementwise(
    "fmin",
    NUMBERS,
    numpy=np.fmin,
    scalar=_without_nan("min"),
    grad=_skip_nan(_halved_at_ties(less)),
    samples=_ORDERED,
    doc="The smaller of a and b, broadcast; where one is NaN the other (IEEE 754 minNum).",
)

fmax = elementwise(
    "fmax",
    NUMBERS,
    numpy=np.fmax,
    scalar=_without_nan("max"),
    grad=_skip_nan(_halved_at_ties(lambda a, b: less(b, a))),
    samples=_ORDERED,
    doc="The larger of a and b, broadcast; where one is NaN the other (IEEE 754 maxNum).",
)


def _atan2_grad(g: Tensor, a: Tensor, b: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    scaled = g / (square(a) + square(b))
    return scaled * b, -(scaled * a)


atan2 = elementwise(
    "atan2",
    FLOATS,
    numpy=np.arctan2,
    scalar=lambda k, a, b: k.atan2(a, b),
    grad=_atan2_grad,
    samples=[
        sample(real(2, 3, low=0.5), real(2, 3)),
        sample(real(2, 3), real(2, 3, low=-2.0, high=-0.5)),
        sample(real(2, 1, 3, low=0.5), real(4, 1)),
        _special,
    ],
    doc="Angle in radians, from -pi to pi, of the point (b, a): arc tangent of a / b by quadrant.",
)
