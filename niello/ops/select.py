"""Choosing elements by a predicate, and clamping to bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from niello.core.dtypes import ALL, NUMBERS
from niello.core.errors import AttributeValueError
from niello.graph import opdef
from niello.graph.opdef import Trait, booleans, real, sample
from niello.graph.tensor import Tensor
from niello.ops.comparison import greater, greater_equal, less, less_equal
from niello.ops.define import elementwise, operands
from niello.ops.logical import logical_and

select: Callable[..., Tensor] = elementwise(
    "select",
    ALL,
    numpy=np.where,
    scalar=lambda k, predicate, a, b: k.where(predicate, a, b),
    grad=lambda g, predicate, a, b, y: (None, select(predicate, g, 0.0), select(predicate, 0.0, g)),
    samples=[
        sample(booleans(2, 3), real(2, 3), real(2, 3)),
        sample(booleans(2, 1, 3), real(4, 1), real(3)),
        sample(booleans(), real(3), real()),
        sample(booleans(0, 3), real(3), real(1)),
        sample(
            np.array([True, False]), np.array([1.0, np.nan]), np.array([np.inf, 2.0]), grad=False
        ),
    ],
    doc=(
        "a where the predicate is true, else b; all three broadcast (NumPy's where). "
        "The predicate becomes bool."
    ),
    result="select",
    traits=Trait.LINEAR,
)


@opdef.plain_function
def where(predicate: Any, a: Any, b: Any, *, name: str | None = None) -> Tensor:
    """The same as `select(predicate, a, b)`, under NumPy's name.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((3,))
        >>> nl.where(x > 0, x, 0.0).shape
        (3,)
    """
    return select(predicate, a, b, name=name)


def _clamp_grad(
    g: Tensor, x: Tensor, low: Tensor, high: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # min(max(x, low), high): the upper bound wins where the bounds cross.
    inside = logical_and(greater_equal(x, low), less_equal(x, high))
    below = logical_and(less(x, low), less_equal(low, high))
    above = greater(opdef.functions()["maximum"](x, low), high)
    return select(inside, g, 0.0), select(below, g, 0.0), select(above, g, 0.0)


_clamp = elementwise(
    "clamp",
    NUMBERS,
    numpy=lambda x, low, high: np.minimum(np.maximum(x, low), high),
    scalar=lambda k, x, low, high: k.min(k.max(x, low), high),
    grad=_clamp_grad,
    samples=[
        sample(real(2, 3), real(low=-1.0, high=-0.5), real(low=0.5, high=1.0)),
        sample(real(2, 1, 3), real(4, 1, low=-1.0, high=0.0), real(3, low=0.1, high=1.0)),
        sample(real(4), real(low=0.5, high=1.0), real(low=-1.0, high=-0.5)),
        sample(real(0), real(), real()),
        sample(np.array([np.nan, np.inf, -np.inf]), np.array(-1.0), np.array(1.0), grad=False),
    ],
    doc="min(max(x, low), high), broadcast; NaN stays NaN.",
    publish=False,
)


@opdef.function
def clamp(x: Any, low: Any = None, high: Any = None, *, name: str | None = None) -> Tensor:
    """min(max(x, low), high) for each element; bounds are numbers or tensors and broadcast.

    A bound of None is no bound. Where the bounds cross the upper one wins; NaN stays NaN. The
    gradient goes to x from low to high inclusive, else to the bound that is in force. Follows
    NumPy's clip. Raises AttributeValueError without any bound.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((3,))
        >>> nl.clamp(x, 0.0, 6.0).shape
        (3,)
    """
    if low is None and high is None:
        raise AttributeValueError("clamp", "needs a bound", advice="Give low, high or both")
    given = operands("clamp", x, *(v for v in (low, high) if v is not None))
    kind, graph = given[0].dtype, given[0].graph
    lowest, highest = (-math.inf, math.inf) if kind.is_float else (kind.min, kind.max)
    lower = graph.constant(lowest, kind) if low is None else given[1]
    upper = graph.constant(highest, kind) if high is None else given[-1]
    return _clamp(given[0], lower, upper, name=name)
