"""Random numbers by rejection and by counting: gamma and Poisson distributions.

A value takes as many uniform numbers as it needs, each from its own words of the stream: a fixed
number of rounds is drawn at once, so that every back end makes the same values of the same state.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import compute_dtype, float32, float64, int32
from niello.core.errors import AttributeValueError
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import functions, plain_function
from niello.graph.tensor import Tensor
from niello.ops.define import cast_to, check_dtype
from niello.ops.random import (
    Drawn,
    _draw,
    _float_dtype,
    _named,
    _positive,
    _static,
)

# A round of the gamma method accepts with a probability above 0.95: all ROUNDS fail once in 1e15.
ROUNDS = 12
SMALL_RATE = 10.0  # up to which Poisson numbers are counted by products of uniform ones
COUNTED = 48  # products; a rate of 10 exceeds them once in 1e16


def _f(name: str) -> Any:
    return functions()[name]


def _uniforms(
    asked: str,
    count: int,
    shape: tuple[int, ...],
    state: Any,
    seed: int | None,
    graph: GraphDefinition | None,
    kind: Any,
) -> tuple[list[Tensor], Tensor | None]:
    """So many independent uniform tensors in (0, 1], and the state after them."""
    words = 2 if kind is float64 else 1
    bits, after = _draw(asked, shape, state, seed, graph, words * count)
    parts = [bits[i * words : (i + 1) * words] for i in range(count)]
    return [_positive(p if words == 2 else p[0], kind) for p in parts], after


def _shape(asked: str, shape: Any) -> tuple[int, ...]:
    return shape.type.static_shape if isinstance(shape, Tensor) else _static(asked, shape)


@plain_function
def random_gamma(
    shape: Any,
    state: Any = None,
    *,
    alpha: Any = 1.0,
    rate: Any = 1.0,
    dtype: Any = float32,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """Floats of the gamma distribution, density rate^alpha x^(alpha-1) exp(-rate x) / gamma(alpha).

    `alpha` and `rate` are positive numbers or tensors that broadcast to `shape`, whose sizes are
    known. By the method of Marsaglia and Tsang (ACM TOMS 26, 2000): a value is the first of 12
    proposals that is accepted; the last one counts if none is, once in 1e15 values. Differentiable
    in `rate`; with respect to `alpha` the gradient is that of the accepted proposal. With `state`
    returns (values, state after them), with `seed` and `graph` values that are the same in every
    run. Raises AttributeValueError for numbers that are not positive.

    Example:
        >>> import niello as nl
        >>> nl.random_gamma((2, 3), seed=7, graph=nl.Graph(), alpha=2.5).type
        float32[2, 3]
    """
    for what, given in (("alpha", alpha), ("rate", rate)):
        if isinstance(given, (int, float)) and not given > 0:
            raise AttributeValueError("random_gamma", f"{what} must be positive", received=given)
    kind = _float_dtype("random_gamma", dtype)
    wide = compute_dtype(kind)
    found = _shape("random_gamma", shape)
    count = 3 * ROUNDS + 1
    uniforms, after = _uniforms("random_gamma", count, found, state, seed, graph, wide)
    first = uniforms[-1]
    a = first * 0.0 + (cast_to(alpha, wide) if isinstance(alpha, Tensor) else float(alpha))
    small = a.less(1.0)
    d = small.select(a + 1.0, a) - 1.0 / 3.0
    scale = 1.0 / (d * 9.0).sqrt()
    value: Tensor | None = None
    for n in reversed(range(ROUNDS)):
        u, v, w = uniforms[3 * n : 3 * n + 3]
        x = (_f("log")(u) * -2.0).sqrt() * _f("cos")(v * (2.0 * math.pi))
        root = x * scale + 1.0
        positive = root.greater(0.0)
        cube = _f("maximum")(root * root * root, 2.0**-100)
        bound = x * x * 0.5 + d * (1.0 - cube + _f("log")(cube))
        accepted = positive.logical_and(_f("log")(w).less(bound))
        proposal = d * cube
        value = proposal if value is None else accepted.select(proposal, value)
    assert value is not None
    # alpha below 1: gamma(alpha) is gamma(alpha + 1) times u^(1 / alpha).
    boost = _f("exp")(_f("log")(first) / a)
    value = small.select(value * boost, value)
    divisor = cast_to(rate, wide) if isinstance(rate, Tensor) else float(rate)
    return _named(cast_to(value / divisor, kind), after, name)


@plain_function
def random_poisson(
    shape: Any,
    state: Any = None,
    *,
    rate: Any = 1.0,
    dtype: Any = int32,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """Numbers of the Poisson distribution: k with probability rate^k exp(-rate) / k!.

    `rate` is a number that is not negative, or a tensor of floats that broadcasts to `shape`, whose
    sizes are known. Rates up to 10 are counted by products of uniform numbers (Knuth, The Art of
    Computer Programming 2, 3.4.1), larger ones found by transformed rejection (Hormann, Insurance:
    Mathematics and Economics 12, 1993, algorithm PTRS). `dtype` is an integer or a float. With
    `state` returns (values, state after them), with `seed` and `graph` values that are the same in
    every run. Raises AttributeValueError for a negative rate.

    Example:
        >>> import niello as nl
        >>> nl.random_poisson((2, 3), seed=7, graph=nl.Graph(), rate=4.0).type
        int32[2, 3]
    """
    if isinstance(rate, (int, float)) and not rate >= 0:
        raise AttributeValueError("random_poisson", "rate must not be negative", received=rate)
    wanted = dtypes.dtype(dtype)
    check_dtype("random_poisson", wanted, (*dtypes.INTEGERS, *dtypes.FLOATS))
    found = _shape("random_poisson", shape)
    few = isinstance(rate, (int, float)) and rate <= SMALL_RATE
    many = isinstance(rate, (int, float)) and rate > SMALL_RATE
    count = 2 * ROUNDS if many else COUNTED
    uniforms, after = _uniforms("random_poisson", count, found, state, seed, graph, float32)
    level = uniforms[0] * 0.0 + (
        cast_to(rate, float32) if isinstance(rate, Tensor) else np.float32(rate).item()
    )
    if few:
        value = _counted(level, uniforms)
    elif many:
        value = _rejected(level, uniforms)
    else:
        safe = _f("maximum")(level, SMALL_RATE)
        large = _rejected(safe, uniforms)
        small = _counted(_f("minimum")(level, SMALL_RATE), uniforms)
        value = level.greater(SMALL_RATE).select(large, small)
    return _named(cast_to(value, wanted), after, name)


def _counted(rate: Tensor, uniforms: list[Tensor]) -> Tensor:
    """How many sums of exponential numbers stay below the rate."""
    total = -_f("log")(uniforms[0])
    value = cast_to(total.less(rate), float32)
    for u in uniforms[1:]:
        total = total - _f("log")(u)
        value = value + cast_to(total.less(rate), float32)
    return value


def _rejected(rate: Tensor, uniforms: list[Tensor]) -> Tensor:
    """The first of the proposals that is accepted, for rates of at least 10."""
    log = _f("log")
    b = rate.sqrt() * 2.53 + 0.931
    a = b * 0.02483 - 0.059
    inverse = 1.1239 + 1.1328 / (b - 3.4)
    sure = 0.9277 - 3.6224 / (b - 2.0)
    value = rate.floor()
    for n in reversed(range(len(uniforms) // 2)):
        u, v = uniforms[2 * n] - 0.5, uniforms[2 * n + 1]
        side = _f("maximum")(0.5 - u.absolute(), 2.0**-33)
        k = ((a * 2.0 / side + b) * u + rate + 0.43).floor()
        quick = side.greater_equal(0.07).logical_and(v.less_equal(sure))
        possible = k.greater_equal(0.0).logical_and(
            side.greater_equal(0.013).logical_or(v.less_equal(side))
        )
        within = _f("maximum")(k, 0.0)
        score = log(v * inverse / (a / (side * side) + b))
        slow = score.less_equal(_log_mass(within, rate))
        accepted = quick.logical_or(possible.logical_and(slow))
        value = accepted.select(within, value)
    return value


def _log_mass(k: Tensor, rate: Tensor) -> Tensor:
    """The logarithm of rate^k exp(-rate) / k!, by Stirling's series, without cancellation."""
    log = _f("log")
    n = _f("maximum")(k, 1.0)
    away = (rate - n) / n
    series = (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (n * n * 1260.0)) / (n * n)) / n
    found = n * (_f("log1p")(away) - away) - log(n * (2.0 * math.pi)) * 0.5 - series
    return k.less(0.5).select(-rate, found)  # type: ignore[no-any-return]
