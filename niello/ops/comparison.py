"""Elementwise comparisons: broadcast like NumPy, any dtype, a bool tensor as result.

Comparisons with NaN are false, except `not_equal`, which is true (IEEE 754).
"""

from __future__ import annotations

import numpy as np

from niello.core.dtypes import ALL
from niello.graph.opdef import Trait, real, sample
from niello.ops import complex_planes
from niello.ops.define import elementwise

_NO_GRADIENT = "its result is boolean"
_NAN = np.array([np.nan, np.nan, 1.0, 0.0, np.inf, -np.inf])
_OTHER = np.array([np.nan, 1.0, 1.0, -0.0, np.inf, np.inf])
_SAMPLES = (
    sample(real(2, 3), real(2, 3)),
    sample(real(2, 1, 3), real(4, 1)),
    sample(real(2, 3, low=0, high=1), real(low=0, high=1)),
    sample(real(0, 3), real(3)),
    sample(_NAN, _OTHER, grad=False),
)

equal = elementwise(
    "equal",
    ALL,
    numpy=np.equal,
    scalar=lambda k, a, b: a.eq(b),
    grad=_NO_GRADIENT,
    samples=_SAMPLES,
    doc="a == b for each element, broadcast; a bool tensor.",
    result="bool",
    traits=Trait.COMMUTATIVE,
    planes=complex_planes.equal,
)

not_equal = elementwise(
    "not_equal",
    ALL,
    numpy=np.not_equal,
    scalar=lambda k, a, b: a.ne(b),
    grad=_NO_GRADIENT,
    samples=_SAMPLES,
    doc="a != b for each element, broadcast; true where one is NaN; a bool tensor.",
    result="bool",
    traits=Trait.COMMUTATIVE,
    planes=complex_planes.not_equal,
)

less = elementwise(
    "less",
    ALL,
    numpy=np.less,
    scalar=lambda k, a, b: a < b,
    grad=_NO_GRADIENT,
    samples=_SAMPLES,
    doc="a < b for each element, broadcast; a bool tensor.",
    result="bool",
)

less_equal = elementwise(
    "less_equal",
    ALL,
    numpy=np.less_equal,
    scalar=lambda k, a, b: a <= b,
    grad=_NO_GRADIENT,
    samples=_SAMPLES,
    doc="a <= b for each element, broadcast; a bool tensor.",
    result="bool",
)

greater = elementwise(
    "greater",
    ALL,
    numpy=np.greater,
    scalar=lambda k, a, b: a > b,
    grad=_NO_GRADIENT,
    samples=_SAMPLES,
    doc="a > b for each element, broadcast; a bool tensor.",
    result="bool",
)

greater_equal = elementwise(
    "greater_equal",
    ALL,
    numpy=np.greater_equal,
    scalar=lambda k, a, b: a >= b,
    grad=_NO_GRADIENT,
    samples=_SAMPLES,
    doc="a >= b for each element, broadcast; a bool tensor.",
    result="bool",
)
