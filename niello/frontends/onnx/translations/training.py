"""Optimiser steps and gradients (ai.onnx.preview.training)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates

DOMAIN = "ai.onnx.preview.training"
Update = Callable[..., tuple[nl.Tensor, ...]]


def _updated(at: Call, states: int, update: Update) -> tuple[nl.Tensor, ...]:
    """A step for each tensor: inputs are all tensors, all gradients, then their states."""
    count = (len(at.inputs) - 2) // (2 + states)
    columns = [[at.tensor(2 + k * count + i) for k in range(2 + states)] for i in range(count)]
    results = [update(*column) for column in columns]
    return tuple(r[k] for k in range(1 + states) for r in results)


@translates("Adagrad", domain=DOMAIN)
def adagrad(at: Call) -> Any:
    """A step by the accumulated squared gradient."""
    rate, count = at.tensor(0), at.tensor(1)
    rate = rate / (nl.cast(count, rate.dtype) * at.real("decay_factor", 0.0) + 1.0)
    norm, epsilon = at.real("norm_coefficient", 0.0), at.real("epsilon", 0.0)

    def update(x: nl.Tensor, g: nl.Tensor, h: nl.Tensor) -> tuple[nl.Tensor, ...]:
        g = x * norm + g
        h = h + nl.square(g)
        return x - rate * g / (nl.sqrt(h) + epsilon), h

    return _updated(at, 1, update)


@translates("Adam", domain=DOMAIN)
def adam(at: Call) -> Any:
    """A step by running means of the gradient and of its square."""
    rate, count = at.tensor(0), at.tensor(1)
    alpha, beta = at.real("alpha", 0.9), at.real("beta", 0.999)
    norm, after = at.real("norm_coefficient", 0.0), at.real("norm_coefficient_post", 0.0)
    epsilon = at.real("epsilon", 0.0)
    steps = nl.cast(count, rate.dtype)
    powers = [nl.power(at.constant(np.asarray(b, rate.dtype.numpy)), steps) for b in (alpha, beta)]
    started = nl.greater(count, at.constant(np.zeros((), count.dtype.numpy)))
    corrected = rate * nl.sqrt(1.0 - powers[1]) / (1.0 - powers[0])
    rate = nl.select(started, corrected, rate)

    def update(x: nl.Tensor, g: nl.Tensor, v: nl.Tensor, h: nl.Tensor) -> tuple[nl.Tensor, ...]:
        g = x * norm + g
        v = v * alpha + g * (1 - alpha)
        h = h * beta + nl.square(g) * (1 - beta)
        return (x - rate * v / (nl.sqrt(h) + epsilon)) * (1 - after), v, h

    return _updated(at, 2, update)


@translates("Momentum", domain=DOMAIN)
def momentum(at: Call) -> Any:
    """A step by a running sum of gradients, plain or Nesterov's."""
    rate, count = at.tensor(0), at.tensor(1)
    alpha, beta, norm = at.real("alpha"), at.real("beta"), at.real("norm_coefficient")
    nesterov = at.text("mode") == "nesterov"
    started = nl.greater(count, at.constant(np.zeros((), count.dtype.numpy)))

    def update(x: nl.Tensor, g: nl.Tensor, v: nl.Tensor) -> tuple[nl.Tensor, ...]:
        g = x * norm + g
        v = v * alpha + nl.select(started, g * beta, g)
        return x - rate * (g + v * alpha if nesterov else v), v

    return _updated(at, 1, update)


@translates("Gradient", domain=DOMAIN, fold=False)
def gradient(at: Call) -> Any:
    """Derivatives of a tensor of the graph with respect to others."""
    names = at.texts("xs")
    of = at.scope.find(at.text("y"))
    by = [t for t in map(at.scope.find, names) if isinstance(t, nl.Tensor)]
    if not isinstance(of, nl.Tensor) or len(by) < len(names):
        raise at.refuse("needs tensors that are computed from inputs of the model", names)
    found = at.graph.gradients(of, by)
    return tuple(found[t] for t in by)
