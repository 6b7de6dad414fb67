"""Random tensors, by Niello's generator: ONNX does not say which one makes the numbers.

Each node has a generator of its own, a variable of the graph that every run moves on. A `seed`
chooses its stream; without one it is chosen when the model is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates

INT = 2  # AttributeProto.INT


def drawn(at: Call, make: Callable[[nl.Tensor], Any]) -> nl.Tensor:
    """What `make` draws with a generator state; each run leaves the state after it."""
    if at.has_attribute("seed"):
        raw = at.attributes["seed"]
        seed = raw.i if raw.type == INT else int(np.float32(raw.f).view(np.uint32))
    else:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    state = at.graph.variable(nl.random_state(seed & (2**64 - 1)), name="random_state")
    values, after = make(state)
    at.importer.updates.append(state.assign(after))
    return values  # type: ignore[no-any-return]


def _sizes(at: Call) -> tuple[int, ...]:
    return tuple(at.ints("shape")) if at.has_attribute("shape") else at.shape(0)


def _kind(at: Call) -> nl.DType:
    like = at.dtype(0) if at.inputs else nl.float32
    return at.dtype_attribute("dtype", like if like.is_float else nl.float32)


@translates("RandomUniform", "RandomUniformLike", fold=False)
def uniform(at: Call) -> Any:
    """Uniform between `low` and `high`."""
    low, high = at.real("low", 0.0), at.real("high", 1.0)
    sizes, kind = _sizes(at), _kind(at)
    return drawn(at, lambda s: nl.random_uniform(sizes, s, low=low, high=high, dtype=kind))


@translates("RandomNormal", "RandomNormalLike", fold=False)
def normal(at: Call) -> Any:
    """Normal of a mean and a deviation."""
    sizes, kind = _sizes(at), _kind(at)
    mean, scale = at.real("mean", 0.0), at.real("scale", 1.0)
    return drawn(
        at, lambda s: nl.random_normal(sizes, s, mean=mean, standard_deviation=scale, dtype=kind)
    )


@translates("Bernoulli", fold=False)
def bernoulli(at: Call) -> nl.Tensor:
    """1 with the probability that each element states."""
    x = at.tensor(0)
    sizes = at.shape(0)
    values = drawn(at, lambda s: nl.random_uniform(sizes, s))
    return nl.cast(nl.less(values, nl.cast(x, nl.float32)), at.dtype_attribute("dtype", x.dtype))


@translates("Multinomial", fold=False)
def multinomial(at: Call) -> nl.Tensor:
    """Classes drawn by unnormalised log-probabilities (the Gumbel maximum)."""
    batch, classes = at.shape(0)
    count = at.integer("sample_size", 1)
    values = drawn(at, lambda s: nl.random_uniform((batch, count, classes), s))
    gumbel = nl.negative(nl.log(nl.negative(nl.log(nl.maximum(values, 1e-30)))))
    scores = nl.expand_dims(nl.cast(at.tensor(0), nl.float32), 1) + gumbel
    found = nl.argmax(scores, -1, dtype=nl.int64)
    return nl.cast(found, at.dtype_attribute("dtype", nl.int32))
