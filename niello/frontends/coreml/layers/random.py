"""Random layers. With a seed every run draws the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer

Shape = Sequence[int]


def seed_of(number: int) -> int:
    """A seed of at least zero; -1 asks for any."""
    return int(number) if number >= 0 else int(np.random.default_rng().integers(1 << 31))


def normal(graph: nl.Graph, shape: Shape, mean: float, deviation: float, seed: int) -> nl.Tensor:
    """Normal numbers."""
    found = nl.random_normal(
        tuple(shape), mean=mean, standard_deviation=deviation, seed=seed_of(seed), graph=graph
    )
    assert isinstance(found, nl.Tensor)
    return found


def uniform(graph: nl.Graph, shape: Shape, low: float, high: float, seed: int) -> nl.Tensor:
    """Uniform numbers."""
    found = nl.random_uniform(tuple(shape), low=low, high=high, seed=seed_of(seed), graph=graph)
    assert isinstance(found, nl.Tensor)
    return found


def bernoulli(graph: nl.Graph, shape: Shape, probability: float, seed: int) -> nl.Tensor:
    """Ones with a probability, else zeros."""
    drawn = nl.random_uniform(tuple(shape), seed=seed_of(seed), graph=graph)
    return nl.cast(nl.less(drawn, probability), nl.float32)


def _normal(at: Layer, shape: Shape) -> nl.Tensor:
    p = at.p
    return normal(at.graph, shape, p.mean, p.stdDev, p.seed)


def _uniform(at: Layer, shape: Shape) -> nl.Tensor:
    p = at.p
    return uniform(at.graph, shape, p.minVal, p.maxVal, p.seed)


def _bernoulli(at: Layer, shape: Shape) -> nl.Tensor:
    return bernoulli(at.graph, shape, at.p.prob, at.p.seed)


def _drawing(kind: str, draw: Callable[[Layer, Shape], nl.Tensor]) -> None:
    @layer(f"random{kind}Like", fold=False)
    def like(at: Layer) -> nl.Tensor:
        return draw(at, at.shape())

    @layer(f"random{kind}Static", fold=False)
    def static(at: Layer) -> nl.Tensor:
        return draw(at, [int(d) for d in at.p.outputShape])

    @layer(f"random{kind}Dynamic", fold=False)
    def dynamic(at: Layer) -> nl.Tensor:
        return draw(at, at.ints(0))

    for function in (like, static, dynamic):
        function.__doc__ = f"{kind} numbers."


for _kind, _draw in {"Normal": _normal, "Uniform": _uniform, "Bernoulli": _bernoulli}.items():
    _drawing(_kind, _draw)


def categorical(x: nl.Tensor, samples: int, seed: int) -> nl.Tensor:
    """Numbers of classes drawn by logits along the last axis, by Gumbel noise: [..., samples]."""
    assert x.shape is not None
    *lead, classes = (int(d) for d in x.shape if d is not None)
    shape = (*lead, samples, classes)
    drawn = nl.random_uniform(shape, seed=seed_of(seed), graph=x.graph, low=1e-7, high=1.0)
    noise = -nl.log(-nl.log(drawn))
    return nl.argmax(nl.expand_dims(nl.cast(x, nl.float32), -2) + noise, -1)


@layer("categoricalDistribution", fold=False)
def categorical_distribution(at: Layer) -> nl.Tensor:
    """Numbers of classes, drawn by logits or probabilities."""
    p, x = at.p, at.tensor()
    logits = x if p.isLogits else nl.log(x + (p.eps or 1e-10))
    y = categorical(logits * (1.0 / (p.temperature or 1.0)), int(p.numSamples) or 1, p.seed)
    return nl.cast(y, nl.float32)
