"""Arithmetic and functions of complex tensors, written on their real and imaginary parts.

Quotients follow Smith (CACM 5, 1962, 435) and moduli are scaled, so that neither overflows before
its result does. Functions are principal values, with the cuts of C99 and NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from niello.graph.opdef import Planes, functions
from niello.graph.tensor import Tensor


def _f(name: str) -> Callable[..., Tensor]:
    return functions()[name]


def modulus(z: Planes) -> Tensor:
    """The absolute value, without overflow in between."""
    x, y = z.real.absolute(), z.imaginary.absolute()
    large, small = _f("maximum")(x, y), _f("minimum")(x, y)
    whole = large.less(math.inf)
    ratio = small / large.equal(0.0).select(1.0, large)
    found = large * (ratio * ratio + 1.0).sqrt()
    # An infinite part makes the modulus infinite, whatever the other is.
    infinite = x.equal(math.inf).logical_or(y.equal(math.inf))
    return infinite.select(math.inf, whole.select(found, large))


def phase(z: Planes) -> Tensor:
    """The angle in radians, from -pi to pi."""
    return _f("atan2")(z.imaginary, z.real)


def _turned(radius: Tensor, angle: Tensor) -> Planes:
    return Planes(radius * angle.cos(), radius * angle.sin())


def _times_i(z: Planes) -> Planes:
    return Planes(-z.imaginary, z.real)


def _scaled(z: Planes, factor: float) -> Planes:
    return Planes(z.real * factor, z.imaginary * factor)


# --- arithmetic
def multiply(a: Planes, b: Planes) -> Planes:
    return Planes(
        a.real * b.real - a.imaginary * b.imaginary, a.real * b.imaginary + a.imaginary * b.real
    )


def divide(a: Planes, b: Planes) -> Planes:
    flat = b.real.absolute().greater_equal(b.imaginary.absolute())
    large = flat.select(b.real, b.imaginary)
    small = flat.select(b.imaginary, b.real)
    ratio = small / large
    scale = large + small * ratio
    real = flat.select(a.real + a.imaginary * ratio, a.real * ratio + a.imaginary)
    imaginary = flat.select(a.imaginary - a.real * ratio, a.imaginary * ratio - a.real)
    return Planes(real / scale, imaginary / scale)


def divide_no_nan(a: Planes, b: Planes) -> Planes:
    found, zero = divide(a, b), equal(b, _zero_like(b))
    return Planes(zero.select(0.0, found.real), zero.select(0.0, found.imaginary))


def _zero_like(z: Planes) -> Planes:
    zero = z.real.graph.constant(0.0, z.real.dtype)
    return Planes(zero, zero)


def reciprocal(z: Planes) -> Planes:
    one = z.real.graph.constant(1.0, z.real.dtype)
    zero = z.real.graph.constant(0.0, z.real.dtype)
    return divide(Planes(one, zero), z)


def square(z: Planes) -> Planes:
    return Planes((z.real - z.imaginary) * (z.real + z.imaginary), z.real * z.imaginary * 2.0)


def power(a: Planes, b: Planes) -> Planes:
    nothing = equal(a, _zero_like(a))
    safe = Planes(nothing.select(1.0, a.real), a.imaginary)
    found = exp(multiply(b, log(safe)))
    # 0 to the power 0 is 1, to any other power 0.
    one = equal(b, _zero_like(b)).select(1.0, b.real * 0.0)
    return Planes(nothing.select(one, found.real), nothing.select(0.0, found.imaginary))


# --- exponentials, logarithms, roots
def exp(z: Planes) -> Planes:
    return _turned(z.real.exp(), z.imaginary)


def exp2(z: Planes) -> Planes:
    return exp(_scaled(z, math.log(2.0)))


def exp10(z: Planes) -> Planes:
    return exp(_scaled(z, math.log(10.0)))


def log(z: Planes) -> Planes:
    return Planes(modulus(z).log(), phase(z))


def log2(z: Planes) -> Planes:
    return _scaled(log(z), 1.0 / math.log(2.0))


def log10(z: Planes) -> Planes:
    return _scaled(log(z), 1.0 / math.log(10.0))


def sqrt(z: Planes) -> Planes:
    radius = modulus(z)
    root = ((radius + z.real.absolute()) * 0.5).sqrt()
    other = z.imaginary.absolute() * 0.5 / root.equal(0.0).select(1.0, root)
    right = z.real.greater_equal(0.0)
    # The sign of the imaginary part, that of zero included: the cut lies along negative numbers.
    turned = right.select(other, root)
    imaginary = z.imaginary.signbit().select(-turned, turned)
    return Planes(right.select(root, other), imaginary)


def rsqrt(z: Planes) -> Planes:
    return reciprocal(sqrt(z))


# --- trigonometric and hyperbolic functions
def sinh(z: Planes) -> Planes:
    x, y = z.real, z.imaginary
    return Planes(x.sinh() * y.cos(), x.cosh() * y.sin())


def cosh(z: Planes) -> Planes:
    x, y = z.real, z.imaginary
    return Planes(x.cosh() * y.cos(), x.sinh() * y.sin())


def tanh(z: Planes) -> Planes:
    # Beyond 20 the hyperbolic functions differ by less than a rounding of float64.
    x = z.real.clamp(-20.0, 20.0)
    y = z.imaginary
    square = x.sinh() * x.sinh()
    scale = square + y.cos() * y.cos()
    return Planes(x.sinh() * x.cosh() / scale, y.sin() * y.cos() / scale)


def sin(z: Planes) -> Planes:
    x, y = z.real, z.imaginary
    return Planes(x.sin() * y.cosh(), x.cos() * y.sinh())


def cos(z: Planes) -> Planes:
    x, y = z.real, z.imaginary
    return Planes(x.cos() * y.cosh(), -(x.sin() * y.sinh()))


def tan(z: Planes) -> Planes:
    # tan z = -i tanh(i z)
    found = tanh(_times_i(z))
    return Planes(found.imaginary, -found.real)


# --- tests
def equal(a: Planes, b: Planes) -> Tensor:
    found: Tensor = a.real.equal(b.real).logical_and(a.imaginary.equal(b.imaginary))
    return found


def not_equal(a: Planes, b: Planes) -> Tensor:
    found: Tensor = a.real.not_equal(b.real).logical_or(a.imaginary.not_equal(b.imaginary))
    return found


def _either(name: str) -> Callable[[Any], Tensor]:
    return lambda z: _f("logical_or")(_f(name)(z.real), _f(name)(z.imaginary))


is_nan = _either("is_nan")
is_inf = _either("is_inf")


def is_finite(z: Planes) -> Tensor:
    found: Tensor = z.real.is_finite().logical_and(z.imaginary.is_finite())
    return found
