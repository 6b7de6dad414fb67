"""Translations of the layers of neural networks, by kind."""

from niello.frontends.coreml.layers import (
    broadcastable,
    control,
    convolution,
    elementwise,
    image,
    indexing,
    linear,
    movement,
    normalisation,
    pooling,
    random,
    recurrent,
    reduction,
    shape,
)

__all__ = [
    "broadcastable",
    "control",
    "convolution",
    "elementwise",
    "image",
    "indexing",
    "linear",
    "movement",
    "normalisation",
    "pooling",
    "random",
    "recurrent",
    "reduction",
    "shape",
]
