"""Reductions, arg-extremes and cumulative sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer

Reduction = Callable[[nl.Tensor, tuple[int, ...], bool], nl.Tensor]

REDUCTIONS: dict[str, Reduction] = {
    "SUM": lambda x, axes, keep: nl.sum(x, axes, keep),
    "AVG": lambda x, axes, keep: nl.mean(x, axes, keep),
    "PROD": lambda x, axes, keep: nl.prod(x, axes, keep),
    "SUMSQUARE": lambda x, axes, keep: nl.sum(x * x, axes, keep),
    "L1": lambda x, axes, keep: nl.sum(nl.absolute(x), axes, keep),
    "L2": lambda x, axes, keep: nl.sqrt(nl.sum(x * x, axes, keep)),
    "MAX": lambda x, axes, keep: nl.max(x, axes, keep),
    "MIN": lambda x, axes, keep: nl.min(x, axes, keep),
}


@layer("reduce")
def reduce(at: Layer) -> nl.Tensor:
    """A reduction over channels, height or width, which stay as axes of one."""
    p, x = at.p, at.tensor()
    axes = {"CHW": (-3, -2, -1), "HW": (-2, -1), "C": (-3,), "H": (-2,), "W": (-1,)}[
        p.ReduceAxis.Name(p.axis)
    ]
    kind = p.ReduceOperation.Name(p.mode)
    if kind == "LOGSUM":
        return nl.sum(nl.log(x + p.epsilon), axes, True)
    if kind == "ARGMAX":
        if len(axes) > 1:
            raise at.refuse("ARGMAX is over one axis", p.ReduceAxis.Name(p.axis))
        return nl.cast(nl.argmax(x, axes[0], True), nl.float32)
    return REDUCTIONS[kind](x, axes, True)


def _reducing(kind: str, function: Reduction) -> None:
    @layer(kind)
    def translate(at: Layer) -> nl.Tensor:
        p = at.p
        every = p.reduceAll or not len(p.axes)
        axes = tuple(at.axis(int(a)) for a in (range(at.rank()) if every else p.axes))
        keep = bool(p.keepDims) and not p.reduceAll
        y = function(at.tensor(), axes, keep)
        return nl.reshape(y, (1,)) if not y.shape else y

    translate.__doc__ = f"{kind} over axes; of all axes the result has one element."


for _kind, _function in {
    "reduceL1": REDUCTIONS["L1"],
    "reduceL2": REDUCTIONS["L2"],
    "reduceMax": REDUCTIONS["MAX"],
    "reduceMin": REDUCTIONS["MIN"],
    "reduceSum": REDUCTIONS["SUM"],
    "reduceProd": REDUCTIONS["PROD"],
    "reduceMean": REDUCTIONS["AVG"],
    "reduceLogSum": lambda x, axes, keep: nl.log(nl.sum(x, axes, keep)),
    "reduceSumSquare": REDUCTIONS["SUMSQUARE"],
    "reduceLogSumExp": lambda x, axes, keep: nl.logsumexp(x, axes, keep),
}.items():
    _reducing(_kind, _function)


def _extreme(at: Layer, function: Any) -> nl.Tensor:
    y = nl.cast(function(at.tensor(), at.axis(at.p.axis), not at.p.removeDim), nl.float32)
    return nl.reshape(y, (1,)) if not y.shape else y


@layer("argMax")
def argmax(at: Layer) -> nl.Tensor:
    """Where along an axis the largest element is."""
    return _extreme(at, nl.argmax)


@layer("argMin")
def argmin(at: Layer) -> nl.Tensor:
    """Where along an axis the smallest element is."""
    return _extreme(at, nl.argmin)


@layer("cumSum")
def cumulative_sum(at: Layer) -> nl.Tensor:
    """Sums of all elements so far along an axis, which a second input may give."""
    p = at.p
    number = at.ints(1)[0] if len(at.inputs) > 1 else int(p.axis)
    return nl.cumsum(
        at.tensor(),
        axis=at.axis(number),
        exclusive=bool(p.excludeFinalSum),
        reverse=bool(p.reverse),
    )
