"""Translations of layers and operators, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Translation:
    """How a layer or operator becomes operations of a graph.

    `fold`: with all inputs known it is computed at once.
    """

    translate: Callable[[Any], Any]
    fold: bool = True


LAYERS: dict[str, Translation] = {}
OPERATORS: dict[str, Translation] = {}


def layer(*names: str, fold: bool = True) -> Callable[[Function], Function]:
    """Register a function as the translation of layer types of neural networks."""
    return _registering(LAYERS, names, fold)


def operator(*names: str, fold: bool = True) -> Callable[[Function], Function]:
    """Register a function as the translation of operators of ML programs."""
    return _registering(OPERATORS, names, fold)


def _registering(
    table: dict[str, Translation], names: tuple[str, ...], fold: bool
) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        for name in names:
            assert name not in table, name
            table[name] = Translation(function, fold)
        return function

    return register
