"""Elementwise functions of one tensor: powers and logarithms, signs, rounding, trigonometry, tests.

Definitions are those of NumPy and of IEEE 754; where they leave a choice, the op's doc says which.
The rounding functions are constant between their steps, so they pass no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from niello.core.dtypes import ALL, FLOATS, NUMBERS, bool_
from niello.graph import opdef
from niello.graph.opdef import Trait, real, sample
from niello.graph.tensor import Tensor
from niello.ops import complex_planes
from niello.ops.define import elementwise, operands

LN2 = math.log(2.0)
LN10 = math.log(10.0)
TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)

# Zeros of both signs, infinities and NaN.
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0])
TIES = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.25, -0.25, 0.49999997, 8388609.0, 0.0, -0.0])

_special = sample(SPECIAL, grad=False)
_empty = sample(real(0, 3))


# --- copies
identity = elementwise(
    "identity",
    ALL,
    numpy=lambda x: x,
    scalar=lambda k, x: x,
    grad=lambda g, x, y: g,
    samples=[sample(real(2, 3)), sample(real()), _empty],
    doc="The same tensor under another name; any shape and dtype.",
    traits=Trait.LINEAR,
)

stop_gradient = elementwise(
    "stop_gradient",
    ALL,
    numpy=lambda x: x,
    scalar=lambda k, x: x,
    grad=lambda g, x, y: None,
    samples=[sample(real(2, 3), grad=False)],
    doc="The same tensor, through which no gradient flows: a constant to `gradients`.",
    traits=Trait.LINEAR,
)


# --- powers, exponentials, logarithms
exp = elementwise(
    "exp",
    FLOATS,
    numpy=np.exp,
    scalar=lambda k, x: k.exp(x),
    grad=lambda g, x, y: g * y,
    samples=[sample(real(2, 3)), _special, _empty],
    doc="e to the power of each element; overflows to infinity.",
    planes=complex_planes.exp,
)

exp2 = elementwise(
    "exp2",
    FLOATS,
    numpy=np.exp2,
    scalar=lambda k, x: k.exp2(x),
    grad=lambda g, x, y: g * y * LN2,
    samples=[sample(real(2, 3)), _special],
    doc="2 to the power of each element; overflows to infinity.",
    planes=complex_planes.exp2,
)

exp10 = elementwise(
    "exp10",
    FLOATS,
    numpy=lambda x: np.power(x.dtype.type(10.0), x),
    scalar=lambda k, x: k.pow(10.0, x),
    grad=lambda g, x, y: g * y * LN10,
    samples=[sample(real(2, 3)), _special],
    doc="10 to the power of each element; overflows to infinity.",
    planes=complex_planes.exp10,
)

expm1 = elementwise(
    "expm1",
    FLOATS,
    numpy=np.expm1,
    scalar=lambda k, x: k.expm1(x),
    grad=lambda g, x, y: g * exp(x),
    samples=[sample(real(2, 3)), sample(real(4, low=-1e-4, high=1e-4)), _special],
    doc="exp(x) - 1, accurate for small x.",
)

log = elementwise(
    "log",
    FLOATS,
    numpy=np.log,
    scalar=lambda k, x: k.log(x),
    grad=lambda g, x, y: g / x,
    samples=[sample(real(2, 3, low=0.1, high=4.0)), _special],
    doc="Natural logarithm of each element; -infinity at zero, NaN below.",
    planes=complex_planes.log,
)

log2 = elementwise(
    "log2",
    FLOATS,
    numpy=np.log2,
    scalar=lambda k, x: k.log2(x),
    grad=lambda g, x, y: g / (x * LN2),
    samples=[sample(real(2, 3, low=0.1, high=4.0)), _special],
    doc="Logarithm to base 2 of each element; -infinity at zero, NaN below.",
    planes=complex_planes.log2,
)

log10 = elementwise(
    "log10",
    FLOATS,
    numpy=np.log10,
    scalar=lambda k, x: k.log10(x),
    grad=lambda g, x, y: g / (x * LN10),
    samples=[sample(real(2, 3, low=0.1, high=4.0)), _special],
    doc="Logarithm to base 10 of each element; -infinity at zero, NaN below.",
    planes=complex_planes.log10,
)

log1p = elementwise(
    "log1p",
    FLOATS,
    numpy=np.log1p,
    scalar=lambda k, x: k.log1p(x),
    grad=lambda g, x, y: g / (x + 1.0),
    samples=[
        sample(real(2, 3, low=-0.9, high=4.0)),
        sample(real(4, low=-1e-4, high=1e-4)),
        _special,
    ],
    doc="log(1 + x), accurate for small x; -infinity at -1, NaN below.",
)

square = elementwise(
    "square",
    NUMBERS,
    numpy=lambda x: x * x,
    scalar=lambda k, x: x * x,
    grad=lambda g, x, y: g * (x + x),
    samples=[sample(real(2, 3)), _special],
    doc="x * x; integers wrap.",
    planes=complex_planes.square,
)

sqrt = elementwise(
    "sqrt",
    FLOATS,
    numpy=np.sqrt,
    scalar=lambda k, x: k.sqrt(x),
    grad=lambda g, x, y: g * 0.5 / y,
    samples=[sample(real(2, 3, low=0.1, high=4.0)), _special],
    doc="Square root of each element, correctly rounded; NaN below zero.",
    planes=complex_planes.sqrt,
)

rsqrt = elementwise(
    "rsqrt",
    FLOATS,
    numpy=lambda x: 1 / np.sqrt(x),
    scalar=lambda k, x: 1.0 / k.sqrt(x),
    grad=lambda g, x, y: g * y * y * y * -0.5,
    samples=[sample(real(2, 3, low=0.1, high=4.0)), _special],
    doc="1 / sqrt(x); infinity at zero, NaN below.",
    planes=complex_planes.rsqrt,
)

reciprocal = elementwise(
    "reciprocal",
    FLOATS,
    numpy=lambda x: 1 / x,
    scalar=lambda k, x: 1.0 / x,
    grad=lambda g, x, y: -(g * y * y),
    samples=[sample(real(2, 3, low=0.5, high=4.0)), _special],
    doc="1 / x; infinity at zero.",
    planes=complex_planes.reciprocal,
)


# --- signs
def _sign(k: Any, x: Any) -> Any:
    if not x.dtype.is_float:
        below = k.where(x < 0, -1, k.const(0, x.dtype)) if x.dtype.is_signed else 0
        return k.where(x > 0, k.const(1, x.dtype), below)
    # Zeros keep their sign and NaN stays: both fail x < 0 or x > 0.
    return k.where((x < 0.0) | (x > 0.0), k.copysign(k.const(1.0, x.dtype), x), x)


def _numpy_sign(x: np.ndarray) -> Any:
    if x.dtype.kind != "f":
        return np.sign(x)
    return np.where(x == 0, x, np.sign(x))


sign = elementwise(
    "sign",
    NUMBERS,
    numpy=_numpy_sign,
    scalar=_sign,
    grad=lambda g, x, y: None,
    samples=[sample(real(2, 3)), _special],
    doc="-1, 0 or 1 as each element is below, at or above zero; keeps the sign of zero, and NaN.",
)

_absolute = elementwise(
    "absolute",
    NUMBERS,
    numpy=np.abs,
    scalar=lambda k, x: k.abs(x),
    grad=lambda g, x, y: g * sign(x),
    samples=[sample(real(2, 3)), _special],
    doc="Absolute value; the lowest integer wraps to itself. The gradient at zero is zero.",
    publish=False,
)


@opdef.function
def absolute(x: Any, *, name: str | None = None) -> Tensor:
    """Absolute value of each element; the lowest integer wraps to itself.

    Of a complex tensor the modulus, a real tensor. The gradient at zero is zero. As NumPy's
    absolute.

    Example:
        >>> import niello as nl
        >>> nl.absolute(nl.Graph().placeholder((3,), nl.complex64)).type
        float32[3]
    """
    (tensor,) = operands("absolute", x)
    if tensor.dtype.is_complex:
        from niello.ops.complex import Modulus

        return tensor.graph.apply(Modulus(), tensor, name=name)  # type: ignore[return-value]
    return _absolute(tensor, name=name)


negative = elementwise(
    "negative",
    NUMBERS,
    numpy=np.negative,
    scalar=lambda k, x: -x,
    grad=lambda g, x, y: -g,
    samples=[sample(real(2, 3)), _special],
    doc="-x; unsigned integers wrap.",
    traits=Trait.LINEAR,
)


def _signbit(k: Any, x: Any) -> Any:
    if not x.dtype.is_float:
        return x < 0 if x.dtype.is_signed else k.const(False, bool_)
    return k.copysign(k.const(1.0, x.dtype), x) < 0.0


signbit = elementwise(
    "signbit",
    NUMBERS,
    numpy=lambda x: np.signbit(x) if x.dtype.kind == "f" else x < 0,
    scalar=_signbit,
    grad="its result is boolean",
    samples=[sample(real(2, 3)), _special],
    doc="Whether the sign is negative, that of zero, infinity and NaN included; a bool tensor.",
    result="bool",
)


# --- rounding
ceil = elementwise(
    "ceil",
    FLOATS,
    numpy=np.ceil,
    scalar=lambda k, x: k.ceil(x),
    grad=lambda g, x, y: None,
    samples=[sample(real(2, 3)), _special, sample(TIES, grad=False)],
    doc="The smallest whole number not below each element.",
)

floor = elementwise(
    "floor",
    FLOATS,
    numpy=np.floor,
    scalar=lambda k, x: k.floor(x),
    grad=lambda g, x, y: None,
    samples=[sample(real(2, 3)), _special, sample(TIES, grad=False)],
    doc="The largest whole number not above each element.",
)

trunc = elementwise(
    "trunc",
    FLOATS,
    numpy=np.trunc,
    scalar=lambda k, x: k.trunc(x),
    grad=lambda g, x, y: None,
    samples=[sample(real(2, 3)), _special, sample(TIES, grad=False)],
    doc="Each element without its fraction (toward zero).",
)

rint = elementwise(
    "rint",
    FLOATS,
    numpy=np.rint,
    scalar=lambda k, x: k.rint(x),
    grad=lambda g, x, y: None,
    samples=[sample(real(2, 3)), _special, sample(TIES, grad=False)],
    doc="The nearest whole number, halves to the even one (IEEE 754 roundTiesToEven).",
)


def _round(k: Any, x: Any) -> Any:
    # Not trunc(x + 0.5): that sum rounds, and 0.49999997 would become 1. The difference is exact.
    whole = k.trunc(x)
    away = whole + k.copysign(k.const(1.0, x.dtype), x)
    return k.where(k.abs(x - whole) >= 0.5, away, whole)


def _numpy_round(x: np.ndarray) -> Any:
    nearest = np.rint(x)
    tie = np.abs(x - np.trunc(x)) == 0.5
    return np.where(tie, np.trunc(x) + np.copysign(x.dtype.type(1), x), nearest)


round_half_away = elementwise(
    "round",
    FLOATS,
    numpy=_numpy_round,
    scalar=_round,
    grad=lambda g, x, y: None,
    samples=[sample(real(2, 3)), _special, sample(TIES, grad=False)],
    doc="The nearest whole number, halves away from zero (C's round); `rint` takes the even one.",
)


# --- trigonometric and hyperbolic functions; angles in radians
sin = elementwise(
    "sin",
    FLOATS,
    numpy=np.sin,
    scalar=lambda k, x: k.sin(x),
    grad=lambda g, x, y: g * cos(x),
    samples=[sample(real(2, 3)), _special],
    doc="Sine of each element, in radians.",
    planes=complex_planes.sin,
)

cos: Callable[..., Tensor] = elementwise(
    "cos",
    FLOATS,
    numpy=np.cos,
    scalar=lambda k, x: k.cos(x),
    grad=lambda g, x, y: -(g * sin(x)),
    samples=[sample(real(2, 3)), _special],
    doc="Cosine of each element, in radians.",
    planes=complex_planes.cos,
)

tan = elementwise(
    "tan",
    FLOATS,
    numpy=np.tan,
    scalar=lambda k, x: k.tan(x),
    grad=lambda g, x, y: g * (y * y + 1.0),
    samples=[sample(real(2, 3, low=-1.0, high=1.0)), _special],
    doc="Tangent of each element, in radians.",
    planes=complex_planes.tan,
)

asin = elementwise(
    "asin",
    FLOATS,
    numpy=np.arcsin,
    scalar=lambda k, x: k.asin(x),
    grad=lambda g, x, y: g * rsqrt((1.0 - x) * (1.0 + x)),
    samples=[sample(real(2, 3, low=-0.9, high=0.9)), _special],
    doc="Arc sine in radians, from -pi/2 to pi/2; NaN outside [-1, 1].",
)

acos = elementwise(
    "acos",
    FLOATS,
    numpy=np.arccos,
    scalar=lambda k, x: k.acos(x),
    grad=lambda g, x, y: -(g * rsqrt((1.0 - x) * (1.0 + x))),
    samples=[sample(real(2, 3, low=-0.9, high=0.9)), _special],
    doc="Arc cosine in radians, from 0 to pi; NaN outside [-1, 1].",
)

atan = elementwise(
    "atan",
    FLOATS,
    numpy=np.arctan,
    scalar=lambda k, x: k.atan(x),
    grad=lambda g, x, y: g / (x * x + 1.0),
    samples=[sample(real(2, 3)), _special],
    doc="Arc tangent in radians, from -pi/2 to pi/2.",
)

sinh = elementwise(
    "sinh",
    FLOATS,
    numpy=np.sinh,
    scalar=lambda k, x: k.sinh(x),
    grad=lambda g, x, y: g * cosh(x),
    samples=[sample(real(2, 3)), sample(real(4, low=-1e-3, high=1e-3)), _special],
    doc="Hyperbolic sine of each element.",
    planes=complex_planes.sinh,
)

cosh: Callable[..., Tensor] = elementwise(
    "cosh",
    FLOATS,
    numpy=np.cosh,
    scalar=lambda k, x: k.cosh(x),
    grad=lambda g, x, y: g * sinh(x),
    samples=[sample(real(2, 3)), _special],
    doc="Hyperbolic cosine of each element.",
    planes=complex_planes.cosh,
)

tanh = elementwise(
    "tanh",
    FLOATS,
    numpy=np.tanh,
    scalar=lambda k, x: k.tanh(x),
    grad=lambda g, x, y: g * (1.0 - y * y),
    samples=[sample(real(2, 3)), sample(real(4, low=-1e-3, high=1e-3)), _special],
    doc="Hyperbolic tangent of each element.",
    planes=complex_planes.tanh,
)

asinh = elementwise(
    "asinh",
    FLOATS,
    numpy=np.arcsinh,
    scalar=lambda k, x: k.asinh(x),
    grad=lambda g, x, y: g * rsqrt(x * x + 1.0),
    samples=[sample(real(2, 3)), _special],
    doc="Inverse hyperbolic sine of each element.",
)

acosh = elementwise(
    "acosh",
    FLOATS,
    numpy=np.arccosh,
    scalar=lambda k, x: k.acosh(x),
    grad=lambda g, x, y: g * (rsqrt(x - 1.0) * rsqrt(x + 1.0)),
    samples=[sample(real(2, 3, low=1.2, high=4.0)), _special],
    doc="Inverse hyperbolic cosine of each element; NaN below 1.",
)

atanh = elementwise(
    "atanh",
    FLOATS,
    numpy=np.arctanh,
    scalar=lambda k, x: k.atanh(x),
    grad=lambda g, x, y: g / ((1.0 - x) * (1.0 + x)),
    samples=[sample(real(2, 3, low=-0.8, high=0.8)), _special],
    doc="Inverse hyperbolic tangent; infinite at -1 and 1, NaN outside [-1, 1].",
)


def numpy_erf(x: np.ndarray) -> Any:
    """Error function of an array: NumPy has none, the standard library's is scalar."""
    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype)


erf = elementwise(
    "erf",
    FLOATS,
    numpy=numpy_erf,
    scalar=lambda k, x: k.erf(x),
    grad=lambda g, x, y: g * (exp(-(x * x)) * TWO_OVER_SQRT_PI),
    samples=[sample(real(2, 3)), _special, _empty],
    doc="Error function, 2/sqrt(pi) times the integral of exp(-t*t) from 0 to x.",
)


# --- tests of floats
is_nan = elementwise(
    "is_nan",
    FLOATS,
    numpy=np.isnan,
    scalar=lambda k, x: x.ne(x),
    grad="its result is boolean",
    samples=[sample(real(2, 3)), _special],
    doc="Whether each element is NaN; a bool tensor.",
    result="bool",
    planes=complex_planes.is_nan,
)

is_inf = elementwise(
    "is_inf",
    FLOATS,
    numpy=np.isinf,
    scalar=lambda k, x: k.abs(x).eq(math.inf),
    grad="its result is boolean",
    samples=[sample(real(2, 3)), _special],
    doc="Whether each element is infinite, of either sign; a bool tensor.",
    result="bool",
    planes=complex_planes.is_inf,
)

is_finite = elementwise(
    "is_finite",
    FLOATS,
    numpy=np.isfinite,
    scalar=lambda k, x: k.abs(x) < math.inf,
    grad="its result is boolean",
    samples=[sample(real(2, 3)), _special],
    doc="Whether each element is neither infinite nor NaN; a bool tensor.",
    result="bool",
    planes=complex_planes.is_finite,
)
