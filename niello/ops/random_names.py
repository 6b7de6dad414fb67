"""Distributions made of the ones in random.py: the same streams, states and seeds.

Every function takes `shape` and either `state`, and then returns (values, state after them), or
`seed` with `graph`, and then returns values that are the same in every run. The state may be one of
Philox (random_state) or of MTGP32 (mtgp32_state).
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import FLOATS, bool_, compute_dtype, float32, float64, int32
from niello.core.errors import AttributeValueError, ShapeError
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import functions, plain_function
from niello.graph.tensor import Tensor
from niello.ops.define import cast_to, check_dtype
from niello.ops.movement import tensor_of
from niello.ops.philox import random_state
from niello.ops.random import (
    Drawn,
    _copies,
    _draw,
    _float_dtype,
    _named,
    _positive,
    random_bits,
    random_integers,
    random_uniform,
)


@plain_function
def random_counter_state(counter_low: int, counter_high: int, key: int) -> np.ndarray:
    """A Philox state from its parts, 64 bits each: both halves of the counter, and the key.

    As MPSGraph's randomPhiloxStateTensorWithCounterLow:counterHigh:key:. Raises AttributeValueError
    for numbers that do not fit.

    Example:
        >>> import niello as nl
        >>> nl.random_counter_state(1, 2, 3)
        array([1, 0, 2, 0, 3, 0], dtype=uint32)
    """
    for what, value in (("low counter", counter_low), ("high counter", counter_high), ("key", key)):
        if not 0 <= operator.index(value) < 1 << 64:
            raise AttributeValueError(
                "random_counter_state",
                f"the {what} must fit 64 bits, without sign",
                received=value,
            )
    return random_state(key, counter=counter_high << 64 | counter_low)


def _parted(drawn: Drawn) -> tuple[Tensor, Tensor | None]:
    return drawn if isinstance(drawn, tuple) else (drawn, None)


@plain_function
def random_bernoulli(
    shape: Any,
    state: Any = None,
    *,
    probability: Any = 0.5,
    dtype: Any = bool_,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """True (or 1) with a probability, which is a number or a tensor that broadcasts to `shape`.

    With `state` returns (values, state after them), with `seed` and `graph` values that are the
    same in every run. Raises AttributeValueError for a number outside [0, 1].

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.random_bernoulli((2, 3), seed=7, graph=graph, probability=0.2).type
        bool[2, 3]
    """
    if isinstance(probability, (int, float)) and not 0 <= probability <= 1:
        raise AttributeValueError(
            "random_bernoulli", "the probability must be from 0 to 1", received=probability
        )
    unit, after = _parted(random_uniform(shape, state, seed=seed, graph=graph))
    return _named(cast_to(unit < probability, dtypes.dtype(dtype)), after, name)


@plain_function
def random_exponential(
    shape: Any,
    state: Any = None,
    *,
    rate: Any = 1.0,
    dtype: Any = float32,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """Exponentially distributed floats, density rate * exp(-rate * x): -log(u) / rate.

    `rate` is a number or a tensor that broadcasts to `shape`, differentiable. With `state` returns
    (values, state after them), with `seed` and `graph` values that are the same in every run.

    Example:
        >>> import niello as nl
        >>> nl.random_exponential((2, 3), seed=7, graph=nl.Graph(), rate=2.0).type
        float32[2, 3]
    """
    return _from_open("random_exponential", shape, state, dtype, seed, graph, name,
                      lambda u: -functions()["log"](u) / rate)  # fmt: skip


@plain_function
def random_gumbel(
    shape: Any,
    state: Any = None,
    *,
    location: Any = 0.0,
    scale: Any = 1.0,
    dtype: Any = float32,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """Floats of the Gumbel distribution (of maxima): location - scale * log(-log u).

    With `state` returns (values, state after them), with `seed` and `graph` values that are the
    same in every run. As NumPy's gumbel.

    Example:
        >>> import niello as nl
        >>> nl.random_gumbel((2, 3), seed=7, graph=nl.Graph()).type
        float32[2, 3]
    """
    return _from_open("random_gumbel", shape, state, dtype, seed, graph, name,
                      lambda u: _gumbel(u) * scale + location)  # fmt: skip


def _gumbel(u: Tensor) -> Tensor:
    log = functions()["log"]
    # The words reach 1, where -log u is 0.
    tiny = 2.0**-34 if u.dtype is float32 else 2.0**-66
    return -log(functions()["maximum"](-log(u), tiny))  # type: ignore[no-any-return]


def _from_open(
    asked: str,
    shape: Any,
    state: Any,
    dtype: Any,
    seed: int | None,
    graph: GraphDefinition | None,
    name: str | None,
    make: Any,
) -> Drawn:
    """A function of uniform values in (0, 1] that are fine near 0."""
    kind = _float_dtype(asked, dtype)
    wide = compute_dtype(kind)
    bits, after = _draw(asked, shape, state, seed, graph, _copies(wide))
    return _named(cast_to(make(_positive(bits, wide)), kind), after, name)


@plain_function
def random_categorical(
    logits: Tensor,
    state: Any = None,
    *,
    dtype: Any = int32,
    seed: int | None = None,
    name: str | None = None,
) -> Drawn:
    """For each row of unnormalised log-probabilities (the last axis) the number of a class.

    One draw for each row, by the largest of logits plus Gumbel noise (Gumbel 1954). The result has
    the shape of `logits` without its last axis. With `state` returns (values, state after them),
    with `seed` values that are the same in every run. Raises DTypeError unless the logits are
    floats.

    Example:
        >>> import niello as nl
        >>> nl.random_categorical(nl.Graph().placeholder((8, 10)), seed=7).type
        int32[8]
    """
    asked = "random_categorical"
    check_dtype(asked, tensor_of(asked, logits).dtype, FLOATS)
    if logits.rank == 0:
        raise ShapeError(asked, "logits need an axis of classes", received=str(logits.type))
    wanted = dtypes.dtype(dtype)
    check_dtype(asked, wanted, dtypes.INTEGERS)
    kind = float64 if logits.dtype is float64 else float32
    noise, after = _parted(random_gumbel(logits, state, dtype=kind, seed=seed, graph=logits.graph))
    chosen = functions()["argmax"](cast_to(logits, kind) + noise, -1)
    return _named(cast_to(chosen, wanted), after, name)


@plain_function
def random_permutation(
    size: Any,
    state: Any = None,
    *,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """The integers below `size` in random order (int32), or the rows of a tensor in random order.

    By sorting random words; of equal ones, rarer than once in 2**32 pairs, the earlier stays first.
    With `state` returns (values, state after them), with `seed` and `graph` values that are the
    same in every run. As NumPy's permutation.

    Example:
        >>> import niello as nl
        >>> nl.random_permutation(10, seed=7, graph=nl.Graph()).type
        int32[10]
    """
    rows = size if isinstance(size, Tensor) else None
    if rows is not None and rows.rank == 0:
        raise ShapeError("random_permutation", "a scalar has no rows", received=str(rows.type))
    length: Any
    if rows is None:
        length = (operator.index(size),)
    else:
        # A vector as long as there are rows, whatever is known of them.
        length, graph = rows[(slice(None), *[0] * ((rows.rank or 1) - 1))], rows.graph
    words, after = _parted(random_bits(length, state, seed=seed, graph=graph))
    order = functions()["argsort"](words)
    found = order if rows is None else functions()["gather"](rows, order, 0)
    return _named(found, after, name)


@plain_function
def randint(
    low: int,
    high: int | None = None,
    shape: Any = (),
    state: Any = None,
    *,
    dtype: Any = int32,
    seed: int | None = None,
    graph: GraphDefinition | None = None,
    name: str | None = None,
) -> Drawn:
    """Random integers from low to high - 1, or below `low` when it stands alone.

    `random_integers` with the arguments of NumPy's randint.

    Example:
        >>> import niello as nl
        >>> nl.randint(10, shape=(2, 3), seed=7, graph=nl.Graph()).type
        int32[2, 3]
    """
    bounds = (0, low) if high is None else (low, high)
    return random_integers(
        shape, state, low=bounds[0], high=bounds[1], dtype=dtype, seed=seed, graph=graph, name=name
    )
