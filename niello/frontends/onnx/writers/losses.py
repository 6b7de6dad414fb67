"""Losses of single elements, and bits as another type."""

from __future__ import annotations

import niello as nl
from niello.frontends.onnx.values import code_of
from niello.frontends.onnx.writer import Unwritable, Writer, writes


@writes("sigmoid_cross_entropy")
def sigmoid_cross_entropy(w: Writer, o: nl.Operation, x: str, target: str) -> str:
    """max(x, 0) - x * target + log(1 + exp(-|x|))"""
    positive = w.node("Max", x, w.like(0, o.inputs[0]))
    rest = w.node("Softplus", w.node("Neg", w.node("Abs", x)))
    return w.node("Add", w.node("Sub", positive, w.node("Mul", x, target)), rest)


@writes("binary_cross_entropy", "log_loss")
def binary_cross_entropy(w: Writer, o: nl.Operation, p: str, target: str) -> str:
    """-(target * log(p) + (1 - target) * log(1 - p)), logarithms bounded or moved from 0."""
    like = o.inputs[0]
    one, least = w.like(1, like), w.like(-100, like)
    epsilon = w.like(o.op.attributes.get("epsilon", 0), like)

    def logarithm(share: str) -> str:
        if o.op.name == "log_loss":
            return w.node("Log", w.node("Add", share, epsilon))
        return w.node("Max", w.node("Log", share), least)

    first = w.node("Mul", target, logarithm(p))
    second = w.node("Mul", w.node("Sub", one, target), logarithm(w.node("Sub", one, p)))
    return w.node("Neg", w.node("Add", first, second))


@writes("kl_divergence")
def kl_divergence(w: Writer, o: nl.Operation, prediction: str, target: str) -> str:
    """target * (log(target) - prediction), 0 where there is no target."""
    zero = w.like(0, o.inputs[1])
    loss = w.node("Mul", target, w.node("Sub", w.node("Log", target), prediction))
    return w.node("Where", w.node("LessOrEqual", target, zero), zero, loss)


@writes("bitcast")
def bitcast(w: Writer, o: nl.Operation, x: str) -> str:
    """The same bits as another type of the same width."""
    source, target = o.inputs[0].dtype, o.outputs[0].dtype
    if w.opset < 26:
        raise Unwritable("ONNX has BitCast from opset 26 on")
    if source.bits != target.bits or nl.bool_ in (source, target) or source.is_complex:
        raise Unwritable("ONNX keeps the width of elements")
    return w.node("BitCast", x, to=code_of(target))
