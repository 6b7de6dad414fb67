"""Elementwise arithmetic, comparison and logic."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.values import on_host

UNARY = {
    "Abs": "absolute",
    "Acos": "acos",
    "Acosh": "acosh",
    "Asin": "asin",
    "Asinh": "asinh",
    "Atan": "atan",
    "Atanh": "atanh",
    "BitwiseNot": "bitwise_not",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "IsNaN": "is_nan",
    "Log": "log",
    "Neg": "negative",
    "Not": "logical_not",
    "Reciprocal": "reciprocal",
    "Round": "rint",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Tan": "tan",
}
BINARY = {
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Equal": "equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
}
VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


@translates(*UNARY)
def unary(at: Call) -> nl.Tensor:
    """Operators that are functions of Niello."""
    function: Callable[..., nl.Tensor] = getattr(nl, UNARY[at.operator])
    return function(at.tensor(0))


def pair(at: Call) -> tuple[nl.Tensor, nl.Tensor]:
    """Both operands; before opset 7 the second one broadcasts from `axis` on."""
    a, b = at.tensor(0), at.tensor(1)
    if at.version < 7 and at.integer("broadcast", 0) and at.has_attribute("axis"):
        axis = at.integer("axis") % max(at.rank(0), 1)
        trailing = at.rank(0) - axis - at.rank(1)
        if trailing > 0:
            b = nl.reshape(b, (*at.shape(1), *(1,) * trailing))
    return a, b


@translates(*BINARY)
def binary(at: Call) -> Any:
    """Operators with two broadcast operands."""
    if at.operator == "Equal" and any(map(on_host, at.inputs)):
        return np.asarray(at.array(0) == at.array(1), np.bool_)
    function: Callable[..., nl.Tensor] = getattr(nl, BINARY[at.operator])
    return function(*pair(at))


@translates("Div")
def divide(at: Call) -> nl.Tensor:
    """Division; of integers truncated toward zero, as in C."""
    return truncated(*pair(at))


def truncated(a: nl.Tensor, b: nl.Tensor) -> nl.Tensor:
    """a / b; of integers the whole part."""
    if not a.dtype.is_integer:
        return nl.divide(a, b)
    quotient = nl.floor_divide(a, b)
    if not a.dtype.is_signed:
        return quotient
    # One more where rounding down went away from zero: signs differ and something is left over.
    zero = a.graph.constant(np.zeros((), a.dtype.numpy))
    inexact = nl.not_equal(nl.multiply(quotient, b), a)
    differ = nl.logical_xor(nl.less(a, zero), nl.less(b, zero))
    return nl.add(quotient, nl.cast(nl.logical_and(inexact, differ), a.dtype))


@translates("Mod")
def modulo(at: Call) -> nl.Tensor:
    """The remainder with the sign of the divisor, or with `fmod` that of the dividend."""
    a, b = at.tensor(0), at.tensor(1)
    if at.integer("fmod", 0):
        return nl.modulo(a, b)
    if not a.dtype.is_float:
        return nl.floor_modulo(a, b)
    # By way of the exact remainder: an infinite divisor leaves a, or is itself the result.
    left = nl.modulo(a, b)
    zero = at.like(0)
    moved = nl.select(nl.logical_xor(nl.signbit(left), nl.signbit(b)), left + b, left)
    signed = nl.select(nl.signbit(b), at.like(-0.0), zero)
    return nl.select(nl.equal(left, zero), signed, moved)


@translates("Pow")
def power(at: Call) -> nl.Tensor:
    """The result has the type of the base, whatever that of the exponent."""
    a, b = pair(at)
    exponent = at.inputs[1]
    if isinstance(exponent, np.ndarray) and exponent.size == 1 and exponent.ndim <= at.rank(0):
        number = exponent.reshape(()).item()
        if float(number).is_integer() or a.dtype.is_float:
            return nl.power(a, int(number) if float(number).is_integer() else number)
    if a.dtype is b.dtype:
        return nl.power(a, b)
    if a.dtype.is_float:
        return nl.power(a, nl.cast(b, a.dtype))
    if b.dtype.is_integer:
        return nl.cast(nl.power(nl.cast(a, nl.int64), nl.cast(b, nl.int64)), a.dtype)
    return nl.cast(nl.power(nl.cast(a, nl.float64), nl.cast(b, nl.float64)), a.dtype)


@translates(*VARIADIC)
def variadic(at: Call) -> nl.Tensor:
    """Operators over any number of operands."""
    function: Callable[..., nl.Tensor] = getattr(nl, VARIADIC[at.operator])
    return reduce(function, at.tensors())


@translates("Mean")
def mean(at: Call) -> nl.Tensor:
    """The mean of several tensors."""
    total = reduce(nl.add, at.tensors())
    return nl.divide(total, at.like(len(at.inputs)))


@translates("BitShift")
def bit_shift(at: Call) -> nl.Tensor:
    """Bits moved left or right."""
    right = at.text("direction") == "RIGHT"
    function = nl.bitwise_right_shift if right else nl.bitwise_left_shift
    return function(at.tensor(0), at.tensor(1))


@translates("Where")
def where(at: Call) -> Any:
    """Elements of one tensor or the other."""
    if any(map(on_host, at.inputs)):
        return np.where(at.array(0), at.array(1), at.array(2))
    return nl.select(at.tensor(0), at.tensor(1), at.tensor(2))


@translates("IsInf")
def is_inf(at: Call) -> nl.Tensor:
    """Infinite elements, of one sign where the other is not asked for."""
    x = at.tensor(0)
    found = nl.is_inf(x)
    if not at.integer("detect_negative", 1):
        found = nl.logical_and(found, nl.logical_not(nl.signbit(x)))
    if not at.integer("detect_positive", 1):
        found = nl.logical_and(found, nl.signbit(x))
    return found


@translates("Clip")
def clip(at: Call) -> nl.Tensor:
    """Elements between two bounds, either of which may be absent."""
    x = at.tensor(0)
    if at.version < 11:
        low, high = at.real("min", None), at.real("max", None)
        bounds = [None if b is None else at.like(b) for b in (low, high)]
    else:
        bounds = [at.optional(1), at.optional(2)]
    low, high = bounds
    if low is None and high is None:
        return nl.identity(x)
    if low is not None:
        x = nl.maximum(x, low)
    return x if high is None else nl.minimum(x, high)
