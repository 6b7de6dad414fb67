"""States and random numbers."""

from __future__ import annotations

import niello as nl
from niello.frontends.coreml.blobs import numpy_dtype, type_name
from niello.frontends.coreml.layers.random import bernoulli, categorical, normal, uniform
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator


@operator("read_state", fold=False)
def read_state(at: Op) -> nl.Tensor:
    """What the state holds now."""
    return at.value("input").value  # type: ignore[no-any-return]


@operator("coreml_update_state", "write_state", fold=False)
def update_state(at: Op) -> nl.Tensor:
    """The state with a new value, which the next run begins with."""
    name = "state" if at.has("state") else "input"
    value = at.tensor("value" if at.has("value") else "data")
    at.value(name).write(value)
    return value


def _float(at: Op, y: nl.Tensor) -> nl.Tensor:
    """The element type that the operator declares."""
    declared = type_name(at.message.outputs[0].type.tensorType)
    wanted = nl.TensorType((), numpy_dtype(declared)).dtype
    return y if y.dtype is wanted else nl.cast(y, wanted)


@operator("random_normal", fold=False)
def random_normal(at: Op) -> nl.Tensor:
    """Normal numbers."""
    mean, deviation, seed = at.real("mean"), at.real("stddev", 1.0), at.integer("seed", -1)
    return _float(at, normal(at.graph, at.ints("shape"), mean, deviation, seed))


@operator("random_uniform", fold=False)
def random_uniform(at: Op) -> nl.Tensor:
    """Uniform numbers."""
    low, high, seed = at.real("low"), at.real("high", 1.0), at.integer("seed", -1)
    return _float(at, uniform(at.graph, at.ints("shape"), low, high, seed))


@operator("random_bernoulli", fold=False)
def random_bernoulli(at: Op) -> nl.Tensor:
    """Ones with a probability, else zeros."""
    seed = at.integer("seed", -1)
    return _float(at, bernoulli(at.graph, at.ints("shape"), at.real("prob", 0.5), seed))


@operator("random_categorical", fold=False)
def random_categorical(at: Op) -> nl.Tensor:
    """Numbers of classes, drawn by logits or probabilities."""
    x = at.tensor()
    logits = x if at.text("mode", "logits") == "logits" else nl.log(x)
    return _float(at, categorical(logits, at.integer("size", 1), at.integer("seed", -1)))
