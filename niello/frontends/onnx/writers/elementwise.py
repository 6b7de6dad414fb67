"""Elementwise operations, activations and reductions."""

from __future__ import annotations

import math

import numpy as np

import niello as nl
from niello.frontends.onnx.values import code_of
from niello.frontends.onnx.writer import Unwritable, Writer, static, writes

SAME = {
    "absolute": "Abs", "acos": "Acos", "acosh": "Acosh", "asin": "Asin", "asinh": "Asinh",
    "atan": "Atan", "atanh": "Atanh", "bitwise_not": "BitwiseNot", "ceil": "Ceil", "cos": "Cos",
    "cosh": "Cosh", "erf": "Erf", "exp": "Exp", "floor": "Floor", "hard_swish": "HardSwish",
    "identity": "Identity", "is_inf": "IsInf", "is_nan": "IsNaN", "log": "Log", "mish": "Mish",
    "negative": "Neg", "reciprocal": "Reciprocal", "relu": "Relu", "rint": "Round",
    "selu": "Selu", "sigmoid": "Sigmoid", "sign": "Sign", "sin": "Sin", "sinh": "Sinh",
    "softplus": "Softplus", "softsign": "Softsign", "sqrt": "Sqrt", "stop_gradient": "Identity",
    "tan": "Tan", "tanh": "Tanh",
    "add": "Add", "bitwise_and": "BitwiseAnd", "bitwise_or": "BitwiseOr",
    "bitwise_xor": "BitwiseXor", "divide": "Div", "equal": "Equal", "greater": "Greater",
    "greater_equal": "GreaterOrEqual", "less": "Less", "less_equal": "LessOrEqual",
    "logical_and": "And", "logical_or": "Or", "logical_xor": "Xor", "matmul": "MatMul",
    "maximum": "Max", "minimum": "Min", "multiply": "Mul", "power": "Pow", "prelu": "PRelu",
    "subtract": "Sub",
}  # fmt: skip


@writes(*SAME)
def same(w: Writer, o: nl.Operation, *names: str) -> str:
    """Operations that are ONNX operators."""
    if o.op.name == "matmul" and o.op.attributes.get("accumulate") is not None:
        raise Unwritable("ONNX has no choice of the type that products are summed in")
    operator = SAME[o.op.name]
    if operator == "BitwiseNot" and o.inputs[0].dtype is nl.bool_:
        operator = "Not"
    return w.node(operator, *names)


NEGATED = {"logical_nand": "And", "logical_nor": "Or", "logical_xnor": "Xor", "not_equal": "Equal"}


@writes(*NEGATED)
def negated(w: Writer, o: nl.Operation, a: str, b: str) -> str:
    """The opposite of an ONNX operator."""
    return w.node("Not", w.node(NEGATED[o.op.name], a, b))


@writes("logical_not")
def logical_not(w: Writer, o: nl.Operation, x: str) -> str:
    """Not, of what is made bool."""
    return w.node("Not", x if o.inputs[0].dtype is nl.bool_ else w.cast(x, nl.bool_))


@writes("modulo")
def modulo(w: Writer, o: nl.Operation, a: str, b: str) -> str:
    """The remainder with the sign of the dividend."""
    return w.node("Mod", a, b, fmod=1)


@writes("floor_modulo")
def floor_modulo(w: Writer, o: nl.Operation, a: str, b: str) -> str:
    """The remainder with the sign of the divisor."""
    if o.inputs[0].dtype.is_integer:
        return w.node("Mod", a, b, fmod=0)
    zero = w.like(0, o.inputs[0])
    left = w.node("Sub", a, w.node("Mul", w.node("Floor", w.node("Div", a, b)), b))
    return w.node("Where", w.node("Equal", b, zero), zero, left)


@writes("floor_divide")
def floor_divide(w: Writer, o: nl.Operation, a: str, b: str) -> str:
    """The quotient rounded down."""
    quotient, x = w.node("Div", a, b), o.inputs[0]
    if x.dtype.is_float:
        return w.node("Floor", quotient)
    if not x.dtype.is_signed:
        return quotient
    # ONNX cuts toward zero: one less where signs differ and something is left over.
    zero = w.like(0, x)
    left = w.node("Not", w.node("Equal", w.node("Mul", quotient, b), a))
    differ = w.node("Xor", w.node("Less", a, zero), w.node("Less", b, zero))
    return w.node("Sub", quotient, w.cast(w.node("And", left, differ), x.dtype))


@writes("divide_no_nan")
def divide_no_nan(w: Writer, o: nl.Operation, a: str, b: str) -> str:
    """The quotient, 0 where the divisor is 0."""
    zero = w.like(0, o.inputs[0])
    return w.node("Where", w.node("Equal", b, zero), zero, w.node("Div", a, b))


@writes("fmax", "fmin")
def fmax(w: Writer, o: nl.Operation, a: str, b: str) -> str:
    """The larger or smaller; where one is NaN the other."""
    best = w.node("Max" if o.op.name == "fmax" else "Min", a, b)
    if not o.inputs[0].dtype.is_float:
        return best
    inner = w.node("Where", w.node("IsNaN", b), a, best)
    return w.node("Where", w.node("IsNaN", a), b, inner)


@writes("select")
def select(w: Writer, o: nl.Operation, predicate: str, a: str, b: str) -> str:
    """Where."""
    kind = o.inputs[0].dtype
    return w.node("Where", predicate if kind is nl.bool_ else w.cast(predicate, nl.bool_), a, b)


@writes("clamp")
def clamp(w: Writer, o: nl.Operation, x: str, low: str, high: str) -> str:
    """Bounds that broadcast."""
    return w.node("Min", w.node("Max", x, low), high)


@writes("cast")
def cast(w: Writer, o: nl.Operation, x: str) -> str:
    """Another type."""
    source, target = o.inputs[0].dtype, o.outputs[0].dtype
    if source.is_complex or target.is_complex:
        raise Unwritable("ONNX does not cast complex numbers")
    if target.is_float and target.bits < 16:
        to, saturate = code_of(target), int(o.op.attributes["saturate"])
        return w.node("Cast", x, to=to, saturate=saturate)
    narrow = source.is_float and target.is_integer and target.bits < 8
    if narrow or (o.op.attributes["saturate"] and target.max < source.max):
        # ONNX leaves open what becomes of values that do not fit.
        x = w.node(
            "Clip",
            x,
            w.like(max(target.min, source.min), o.inputs[0]),
            w.like(target.max, o.inputs[0]),
        )
    return w.cast(x, target)


@writes("square")
def square(w: Writer, o: nl.Operation, x: str) -> str:
    """x * x"""
    return w.node("Mul", x, x)


@writes("rsqrt")
def rsqrt(w: Writer, o: nl.Operation, x: str) -> str:
    """1 / sqrt(x)"""
    return w.node("Reciprocal", w.node("Sqrt", x))


@writes("exp2", "exp10")
def exponential(w: Writer, o: nl.Operation, x: str) -> str:
    """A power of 2 or 10."""
    return w.node("Pow", w.like(2 if o.op.name == "exp2" else 10, o.inputs[0]), x)


@writes("log2", "log10")
def logarithm(w: Writer, o: nl.Operation, x: str) -> str:
    """To base 2 or 10."""
    base = math.log(2 if o.op.name == "log2" else 10)
    return w.node("Div", w.node("Log", x), w.like(base, o.inputs[0]))


@writes("log1p")
def log1p(w: Writer, o: nl.Operation, x: str) -> str:
    """log(1 + x); 2 * atanh(x / (x + 2)) keeps small x."""
    two = w.like(2, o.inputs[0])
    small = w.node("Mul", two, w.node("Atanh", w.node("Div", x, w.node("Add", x, two))))
    plain = w.node("Log", w.node("Add", x, w.like(1, o.inputs[0])))
    near = w.node("Less", w.node("Abs", x), w.like(0.5, o.inputs[0]))
    return w.node("Where", near, small, plain)


@writes("expm1")
def expm1(w: Writer, o: nl.Operation, x: str) -> str:
    """exp(x) - 1; with t = tanh(x / 2) it is 2 * t / (1 - t), which keeps small x."""
    one, two = w.like(1, o.inputs[0]), w.like(2, o.inputs[0])
    t = w.node("Tanh", w.node("Div", x, two))
    small = w.node("Div", w.node("Mul", two, t), w.node("Sub", one, t))
    plain = w.node("Sub", w.node("Exp", x), one)
    near = w.node("Less", w.node("Abs", x), one)
    return w.node("Where", near, small, plain)


@writes("is_finite")
def is_finite(w: Writer, o: nl.Operation, x: str) -> str:
    """Neither infinite nor NaN."""
    return w.node("Not", w.node("Or", w.node("IsInf", x), w.node("IsNaN", x)))


@writes("trunc", "round")
def trunc(w: Writer, o: nl.Operation, x: str) -> str:
    """Toward zero, or to the nearest with halves away from zero."""
    size = w.node("Abs", x)
    whole = w.node("Floor", size)
    if o.op.name == "round":
        up = w.node("GreaterOrEqual", w.node("Sub", size, whole), w.like(0.5, o.inputs[0]))
        whole = w.node("Add", whole, w.cast(up, o.inputs[0].dtype))
    return w.node("Mul", w.node("Sign", x), whole)


@writes("bitwise_left_shift", "bitwise_right_shift")
def shift(w: Writer, o: nl.Operation, a: str, b: str) -> str:
    """Bits moved; ONNX does it for unsigned integers before opset 28."""
    if o.inputs[0].dtype.is_signed and w.opset < 28:
        raise Unwritable("ONNX shifts signed integers from opset 28 on")
    return w.node("BitShift", a, b, direction="LEFT" if "left" in o.op.name else "RIGHT")


# --- activations
@writes("silu")
def silu(w: Writer, o: nl.Operation, x: str) -> str:
    """x * sigmoid(x)"""
    return w.node("Mul", x, w.node("Sigmoid", x))


@writes("log_sigmoid")
def log_sigmoid(w: Writer, o: nl.Operation, x: str) -> str:
    """-softplus(-x)"""
    return w.node("Neg", w.node("Softplus", w.node("Neg", x)))


SETTINGS = {
    "elu": ("Elu", {"alpha": "alpha"}),
    "celu": ("Celu", {"alpha": "alpha"}),
    "leaky_relu": ("LeakyRelu", {"alpha": "alpha"}),
    "gelu": ("Gelu", {"approximate": "approximate"}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": "alpha", "beta": "beta"}),
}


@writes(*SETTINGS)
def activation(w: Writer, o: nl.Operation, x: str) -> str:
    """Activations with settings that ONNX has, under its names."""
    operator, renamed = SETTINGS[o.op.name]
    if operator == "Celu" and o.inputs[0].dtype is not nl.float32 and w.opset < 28:
        raise Unwritable("ONNX has Celu for float32 before opset 28")
    return w.node(
        operator, x, **{theirs: o.op.attributes[ours] for theirs, ours in renamed.items()}
    )


@writes("thresholded_relu")
def thresholded_relu(w: Writer, o: nl.Operation, x: str) -> str:
    """x above alpha, else 0; NaN, which ONNX's own operator makes 0, stays."""
    low = w.node("LessOrEqual", x, w.like(o.op.attributes["alpha"], o.inputs[0]))
    return w.node("Where", low, w.like(0, o.inputs[0]), x)


@writes("shrink", "softshrink", "hard_shrink")
def shrink(w: Writer, o: nl.Operation, x: str) -> str:
    """x nearer to 0 by a bias, and 0 within the threshold; NaN stays, as above."""
    s = o.op.attributes
    bias = s.get("bias", s["threshold"] if o.op.name == "softshrink" else 0.0)
    low = w.node("LessOrEqual", w.node("Abs", x), w.like(s["threshold"], o.inputs[0]))
    less = w.node("Sub", x, w.node("Mul", w.node("Sign", x), w.like(bias, o.inputs[0])))
    return w.node("Where", low, w.like(0, o.inputs[0]), less if bias else x)


@writes("hard_tanh")
def hard_tanh(w: Writer, o: nl.Operation, x: str) -> str:
    """x between two numbers."""
    low, high = (w.like(o.op.attributes[k], o.inputs[0]) for k in ("low", "high"))
    return w.node("Clip", x, low, high)


@writes("softmax", "log_softmax")
def softmax(w: Writer, o: nl.Operation, x: str) -> str:
    """Along one axis; along several as one."""
    operator = "Softmax" if o.op.name == "softmax" else "LogSoftmax"
    shape = static(o.inputs[0])
    rank = len(shape)
    axes = o.op.attributes["axes"]
    listed = list(range(rank)) if axes is None else sorted(a % rank for a in axes)
    if len(listed) == 1:
        return w.node(operator, x, axis=listed[0])
    order = [*(a for a in range(rank) if a not in listed), *listed]
    kept = [shape[a] for a in order[: rank - len(listed)]]
    inner = math.prod(shape[a] for a in listed)
    flat = w.reshape(w.transpose(x, order), [*kept, inner])
    found = w.reshape(w.node(operator, flat, axis=-1), [shape[a] for a in order])
    return w.transpose(found, [order.index(a) for a in range(rank)])


# --- reductions
REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "logsumexp": "ReduceLogSumExp",
}


def _axes(w: Writer, o: nl.Operation) -> list[str]:
    axes = o.op.attributes["axes"]
    return [] if axes is None else [w.integers(*axes)]


@writes(*REDUCTIONS)
def reduction(w: Writer, o: nl.Operation, x: str) -> str:
    """Reductions of ONNX."""
    axes, keepdims = o.op.attributes["axes"], int(o.op.attributes["keepdims"])
    if axes == ():
        return w.cast(x, o.outputs[0].dtype)
    if 0 in static(o.inputs[0]) and not o.inputs[0].dtype.is_float:
        raise Unwritable("ONNX does not say what the largest integer of none is")
    return w.node(REDUCTIONS[o.op.name], x, *_axes(w, o), keepdims=keepdims)


@writes("reduce_mean")
def mean(w: Writer, o: nl.Operation, x: str) -> str:
    """The mean; with a correction the sum over a smaller number."""
    keepdims = int(o.op.attributes["keepdims"])
    correction = o.op.attributes["correction"]
    if o.op.attributes["axes"] == ():
        x = w.node("Identity", x)
        return x if not correction else w.node("Div", x, w.like(1 - correction, o.inputs[0]))
    if not correction:
        return w.node("ReduceMean", x, *_axes(w, o), keepdims=keepdims)
    shape, axes = static(o.inputs[0]), o.op.attributes["axes"]
    count = math.prod(shape if axes is None else [shape[a] for a in axes])
    total = w.node("ReduceSum", x, *_axes(w, o), keepdims=keepdims)
    return w.node("Div", total, w.like(count - correction, o.inputs[0]))


@writes("reduce_all", "reduce_any")
def truth(w: Writer, o: nl.Operation, x: str) -> str:
    """Whether all, or any, are true."""
    if o.inputs[0].dtype is not nl.bool_:
        x = w.cast(x, nl.bool_)
    if o.op.attributes["axes"] == ():
        return x
    operator = "ReduceMin" if o.op.name == "reduce_all" else "ReduceMax"
    keepdims = int(o.op.attributes["keepdims"])
    return w.node(operator, x, *_axes(w, o), keepdims=keepdims)


@writes("argmax", "argmin")
def arg(w: Writer, o: nl.Operation, x: str) -> str:
    """Position of the first extreme element."""
    operator = "ArgMax" if o.op.name == "argmax" else "ArgMin"
    axes, keepdims = o.op.attributes["axes"], int(o.op.attributes["keepdims"])
    shape = static(o.inputs[0])
    rank = len(shape)
    kind = o.outputs[0].dtype
    listed = list(range(rank)) if axes is None else [a % rank for a in axes]
    if len(listed) == 1:
        found = w.node(operator, x, axis=listed[0], keepdims=keepdims)
    elif len(listed) == rank:
        found = w.node(operator, w.reshape(x, [-1]), axis=0, keepdims=0)
        found = w.reshape(found, static(o.outputs[0]))
    else:
        raise Unwritable("ONNX has argmax along one axis")
    return found if kind is nl.int64 else w.cast(found, kind)


@writes("cumulative_sum", "cumulative_prod")
def cumulative(w: Writer, o: nl.Operation, x: str) -> str:
    """Running sums, and from opset 26 on products."""
    if o.op.name == "cumulative_prod" and w.opset < 26:
        raise Unwritable("ONNX has CumProd from opset 26 on")
    operator = "CumSum" if o.op.name == "cumulative_sum" else "CumProd"
    settings = o.op.attributes
    axis = w.weight(np.array(settings["axis"], np.int64))
    return w.node(
        operator, x, axis, exclusive=int(settings["exclusive"]), reverse=int(settings["reverse"])
    )
