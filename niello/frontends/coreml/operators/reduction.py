"""Reductions, arg-extremes, cumulative sums, sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import niello as nl
from niello.frontends.coreml.layers.reduction import REDUCTIONS, Reduction
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator


def _reducing(kind: str, function: Reduction) -> None:
    @operator(kind)
    def translate(at: Op) -> nl.Tensor:
        axes = tuple(a % at.rank() for a in at.ints("axes", range(at.rank())))
        return function(at.tensor(), axes, at.flag("keep_dims"))

    translate.__doc__ = f"{kind} over axes, or over all."


for _kind, _function in {
    "reduce_l1_norm": REDUCTIONS["L1"],
    "reduce_l2_norm": REDUCTIONS["L2"],
    "reduce_max": REDUCTIONS["MAX"],
    "reduce_min": REDUCTIONS["MIN"],
    "reduce_sum": REDUCTIONS["SUM"],
    "reduce_prod": REDUCTIONS["PROD"],
    "reduce_mean": REDUCTIONS["AVG"],
    "reduce_sum_square": REDUCTIONS["SUMSQUARE"],
    "reduce_log_sum": lambda x, axes, keep: nl.log(nl.sum(x, axes, keep)),
    "reduce_log_sum_exp": lambda x, axes, keep: nl.logsumexp(x, axes, keep),
}.items():
    _reducing(_kind, _function)


def _arg(kind: str, function: Callable[..., nl.Tensor]) -> None:
    @operator(kind)
    def translate(at: Op) -> nl.Tensor:
        found = function(at.tensor(), at.axis(), at.flag("keep_dims"))
        wanted = getattr(nl, at.text("output_dtype", "int32"))
        return found if wanted is nl.int32 else nl.cast(found, wanted)

    translate.__doc__ = f"Where along an axis the {kind[-3:]}imum is."


_arg("reduce_argmax", nl.argmax)
_arg("reduce_argmin", nl.argmin)


@operator("cumsum")
def cumsum(at: Op) -> nl.Tensor:
    """Sums of all elements so far along an axis."""
    return nl.cumsum(
        at.tensor(), axis=at.axis("axis", 0), exclusive=at.flag("exclusive"),
        reverse=at.flag("reverse"),
    )  # fmt: skip


@operator("argsort")
def argsort(at: Op) -> nl.Tensor:
    """Where the elements in order are, the largest first unless `ascending`."""
    return nl.argsort(at.tensor(), at.axis(), descending=not at.flag("ascending"))


@operator("topk")
def topk(at: Op) -> Any:
    """The largest (with `ascending` smallest) elements along an axis, and where they are."""
    k = at.integer("k", 1)
    axis = at.axis()
    k = at.shape()[axis] if k == -1 else k
    values, places = nl.top_k(at.tensor(), k, axis, largest=not at.flag("ascending"))
    wanted = getattr(nl, at.text("output_indices_dtype", "int32"))
    places = places if wanted is nl.int32 else nl.cast(places, wanted)
    return (values, places) if at.flag("return_indices", True) else values
