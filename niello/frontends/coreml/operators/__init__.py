"""Translations of the operators of ML programs, by kind."""

from niello.frontends.coreml.operators import (
    classify,
    elementwise,
    linear,
    movement,
)

__all__ = [
    "classify",
    "elementwise",
    "linear",
    "movement",
]
