"""Translations of the operators of ML programs, by kind."""

from niello.frontends.coreml.operators import (
    classify,
    compression,
    elementwise,
    image,
    indexing,
    linear,
    movement,
    normalisation,
    recurrent,
    reduction,
    state,
    window,
)

__all__ = [
    "classify",
    "compression",
    "elementwise",
    "image",
    "indexing",
    "linear",
    "movement",
    "normalisation",
    "recurrent",
    "reduction",
    "state",
    "window",
]
