"""Elementwise layers of two inputs that broadcast as NumPy's: arithmetic, comparisons, logic."""

from __future__ import annotations

from collections.abc import Callable

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer

Function = Callable[[nl.Tensor, nl.Tensor], nl.Tensor]


def _reducing(kind: str, function: Function) -> None:
    @layer(kind)
    def translate(at: Layer) -> nl.Tensor:
        y, *rest = at.tensors()
        for t in rest:
            y = function(y, t)
        return y

    translate.__doc__ = f"{kind}: all inputs in one."


for _kind, _function in {
    "addBroadcastable": nl.add,
    "multiplyBroadcastable": nl.multiply,
    "maxBroadcastable": nl.maximum,
    "minBroadcastable": nl.minimum,
    "subtractBroadcastable": nl.subtract,
    "divideBroadcastable": nl.divide,
    "powBroadcastable": nl.power,
    "modBroadcastable": lambda a, b: a - nl.floor(a / b) * b,
    "floorDivBroadcastable": lambda a, b: nl.floor(a / b),
}.items():
    _reducing(_kind, _function)


def truth(x: nl.Tensor) -> nl.Tensor:
    """Which elements are not zero: the layers hold truth values as floats."""
    return nl.not_equal(x, 0.0)


def as_float(x: nl.Tensor) -> nl.Tensor:
    """Truth values as 0.0 and 1.0."""
    return nl.cast(x, nl.float32)


def _comparing(kind: str, function: Function) -> None:
    @layer(kind)
    def translate(at: Layer) -> nl.Tensor:
        other = at.tensor(1) if len(at.inputs) > 1 else at.constant(at.p.alpha, "f4")
        return as_float(function(at.tensor(), other))

    translate.__doc__ = f"{kind}: of two inputs, or of one and a number."


for _kind, _function in {
    "equal": nl.equal,
    "notEqual": nl.not_equal,
    "lessThan": nl.less,
    "lessEqual": nl.less_equal,
    "greaterThan": nl.greater,
    "greaterEqual": nl.greater_equal,
}.items():
    _comparing(_kind, _function)


def _logical(kind: str, function: Function) -> None:
    @layer(kind)
    def translate(at: Layer) -> nl.Tensor:
        y, *rest = (truth(t) for t in at.tensors())
        for t in rest:
            y = function(y, t)
        return as_float(y)

    translate.__doc__ = f"{kind} of truth values."


for _kind, _function in {
    "logicalOr": nl.logical_or,
    "logicalXor": nl.logical_xor,
    "logicalAnd": nl.logical_and,
}.items():
    _logical(_kind, _function)


@layer("logicalNot")
def logical_not(at: Layer) -> nl.Tensor:
    """The opposite of a truth value."""
    return as_float(nl.logical_not(truth(at.tensor())))


@layer("whereBroadcastable")
def where(at: Layer) -> nl.Tensor:
    """Elements of the second input where the first is not zero, else of the third."""
    return nl.where(truth(at.tensor(0)), at.tensor(1), at.tensor(2))
