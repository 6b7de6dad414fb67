"""Losses."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates


@translates("NegativeLogLikelihoodLoss")
def negative_log_likelihood(at: Call) -> nl.Tensor:
    """-weight[label] * x[label], reduced."""
    return _picked(at, at.tensor(0))


@translates("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(at: Call) -> Any:
    """The same of log(softmax(x)), which is a further output."""
    logs = nl.log_softmax(at.tensor(0), axis=1)
    loss = _picked(at, logs)
    return (loss, logs) if at.wants(1) else loss


def _picked(at: Call, logs: nl.Tensor) -> nl.Tensor:
    labels, kind = at.tensor(1), logs.dtype
    ignored = at.integer("ignore_index", None)
    zero = at.constant(np.zeros((), kind.numpy))
    used = None
    if ignored is not None:
        used = nl.not_equal(labels, at.constant(np.asarray(ignored).astype(labels.dtype.numpy)))
        labels = nl.select(used, labels, at.constant(np.zeros((), labels.dtype.numpy)))
    picked = nl.squeeze(nl.gather_along_axis(logs, nl.expand_dims(labels, 1), 1), 1)
    loss = nl.negative(picked)
    weight = None
    if at.has(2):
        weight = nl.gather(at.tensor(2), labels, 0)
    elif used is not None:
        weight = nl.cast(used, kind)
    if used is not None and at.has(2) and weight is not None:
        weight = nl.select(used, weight, zero)
    if weight is not None:
        loss = nl.select(nl.equal(weight, zero), zero, loss * weight)
    reduction = at.text("reduction", "mean")
    if reduction == "none":
        return loss
    if reduction == "sum":
        return nl.sum(loss)
    return nl.mean(loss) if weight is None else nl.sum(loss) / nl.sum(weight)
