"""Translations of the operators of ML programs, by kind."""

from niello.frontends.coreml.operators import (
    classify,
    compression,
    detection,
    elementwise,
    image,
    indexing,
    linear,
    lists,
    loops,
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
    "detection",
    "elementwise",
    "image",
    "indexing",
    "linear",
    "lists",
    "loops",
    "movement",
    "normalisation",
    "recurrent",
    "reduction",
    "state",
    "window",
]
