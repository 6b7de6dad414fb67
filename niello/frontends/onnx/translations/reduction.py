"""Reductions along axes, and cumulative sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates

Reduce = Callable[[nl.Tensor, "tuple[int, ...] | None", bool], nl.Tensor]


def _l1(x: nl.Tensor, axes: tuple[int, ...] | None, keepdims: bool) -> nl.Tensor:
    return nl.sum(nl.absolute(x), axes, keepdims)


def _l2(x: nl.Tensor, axes: tuple[int, ...] | None, keepdims: bool) -> nl.Tensor:
    if x.dtype.is_float:
        return nl.sqrt(nl.sum(nl.square(x), axes, keepdims))
    total = nl.sum(nl.square(nl.cast(x, nl.float64)), axes, keepdims)
    return nl.cast(nl.sqrt(total), x.dtype)


def _log_sum(x: nl.Tensor, axes: tuple[int, ...] | None, keepdims: bool) -> nl.Tensor:
    if x.dtype.is_float:
        return nl.log(nl.sum(x, axes, keepdims))
    return nl.cast(nl.log(nl.sum(nl.cast(x, nl.float64), axes, keepdims)), x.dtype)


def _log_sum_exp(x: nl.Tensor, axes: tuple[int, ...] | None, keepdims: bool) -> nl.Tensor:
    if x.dtype.is_float:
        return nl.logsumexp(x, axes, keepdims)
    return nl.cast(nl.logsumexp(nl.cast(x, nl.float64), axes, keepdims), x.dtype)


def _sum_square(x: nl.Tensor, axes: tuple[int, ...] | None, keepdims: bool) -> nl.Tensor:
    return nl.sum(nl.square(x), axes, keepdims)


def _mean(x: nl.Tensor, axes: tuple[int, ...] | None, keepdims: bool) -> nl.Tensor:
    if x.dtype.is_float:
        return nl.mean(x, axes, keepdims)
    return nl.cast(nl.mean(nl.cast(x, nl.float64), axes, keepdims), x.dtype)


def _max(x: nl.Tensor, axes: tuple[int, ...] | None, keepdims: bool) -> nl.Tensor:
    return nl.any(x, axes, keepdims) if x.dtype is nl.bool_ else nl.max(x, axes, keepdims)


def _min(x: nl.Tensor, axes: tuple[int, ...] | None, keepdims: bool) -> nl.Tensor:
    return nl.all(x, axes, keepdims) if x.dtype is nl.bool_ else nl.min(x, axes, keepdims)


REDUCTIONS: dict[str, Reduce] = {
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _max,
    "ReduceMean": _mean,
    "ReduceMin": _min,
    "ReduceProd": nl.prod,
    "ReduceSum": nl.sum,
    "ReduceSumSquare": _sum_square,
}


@translates(*REDUCTIONS)
def reduce(at: Call) -> nl.Tensor:
    """A reduction over axes that are an attribute, or since opset 13 or 18 an input."""
    x = at.tensor(0)
    axes = at.known_ints(1) if at.has(1) else at.ints("axes", None)
    keepdims = bool(at.integer("keepdims", 1))
    if not axes:
        if at.integer("noop_with_empty_axes", 0):
            return _elementwise(at, x)
        return REDUCTIONS[at.operator](x, None, keepdims)
    return REDUCTIONS[at.operator](x, tuple(axes), keepdims)


def _elementwise(at: Call, x: nl.Tensor) -> nl.Tensor:
    """The reduction of each element by itself: its function without the sum."""
    before = {
        "ReduceL1": nl.absolute,
        "ReduceL2": nl.absolute,
        "ReduceSumSquare": nl.square,
        "ReduceLogSum": nl.log,
    }
    function = before.get(at.operator)
    return nl.identity(x) if function is None else function(x)


@translates("ArgMax", "ArgMin")
def arg(at: Call) -> nl.Tensor:
    """Position of the first, or by `select_last_index` the last, extreme element."""
    x, axis = at.tensor(0), at.integer("axis", 0)
    keepdims = bool(at.integer("keepdims", 1))
    function = nl.argmax if at.operator == "ArgMax" else nl.argmin
    if not at.integer("select_last_index", 0):
        return function(x, axis, keepdims, dtype=nl.int64)
    found = function(nl.reverse(x, axis), axis, keepdims, dtype=nl.int64)
    last = at.constant(np.int64(at.shape(0)[axis] - 1))
    return nl.subtract(last, found)


@translates("CumSum", "CumProd")
def cumulative(at: Call) -> nl.Tensor:
    """Running sums or products along an axis."""
    axis = at.known_ints(1)[0]
    function = nl.cumulative_sum if at.operator == "CumSum" else nl.cumulative_prod
    exclusive, reverse = bool(at.integer("exclusive", 0)), bool(at.integer("reverse", 0))
    return function(at.tensor(0), axis=axis, exclusive=exclusive, reverse=reverse)
