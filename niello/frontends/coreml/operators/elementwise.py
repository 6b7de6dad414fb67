"""Unary and binary elementwise operators, activations, comparisons, casts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import niello as nl
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator

_UNARY: dict[str, str] = {
    "abs": "absolute", "acos": "acos", "asin": "asin", "atan": "atan", "atanh": "atanh",
    "ceil": "ceil", "cos": "cos", "cosh": "cosh", "erf": "erf", "exp": "exp", "exp2": "exp2",
    "floor": "floor", "identity": "identity", "logical_not": "logical_not", "round": "rint",
    "sign": "sign", "sin": "sin", "sinh": "sinh", "sqrt": "sqrt", "square": "square", "tan": "tan",
    "tanh": "tanh", "relu": "relu", "relu6": "relu6", "sigmoid": "sigmoid", "silu": "silu",
    "softplus": "softplus", "softsign": "softsign",
}  # fmt: skip
_BINARY: dict[str, str] = {
    "add": "add", "sub": "subtract", "mul": "multiply", "maximum": "maximum", "minimum": "minimum",
    "pow": "power", "equal": "equal", "not_equal": "not_equal", "less": "less",
    "less_equal": "less_equal", "greater": "greater", "greater_equal": "greater_equal",
    "logical_and": "logical_and", "logical_or": "logical_or", "logical_xor": "logical_xor",
}  # fmt: skip


def _unary(kind: str, name: str) -> None:
    @operator(kind)
    def translate(at: Op) -> nl.Tensor:
        return getattr(nl, name)(at.tensor())  # type: ignore[no-any-return]

    translate.__doc__ = f"{name} of each element."


def _binary(kind: str, name: str) -> None:
    @operator(kind)
    def translate(at: Op) -> nl.Tensor:
        return getattr(nl, name)(at.tensor("x"), at.tensor("y"))  # type: ignore[no-any-return]

    translate.__doc__ = f"{name} of two tensors that broadcast."


for _kind, _name in _UNARY.items():
    _unary(_kind, _name)
for _kind, _name in _BINARY.items():
    _binary(_kind, _name)


@operator("real_div")
def real_div(at: Op) -> nl.Tensor:
    """x / y; of integers the quotient rounded towards zero, which keeps their type."""
    x, y = at.tensor("x"), at.tensor("y")
    if x.dtype.is_float:
        return nl.divide(x, y)
    return nl.cast(nl.trunc(nl.cast(x, nl.float32) / nl.cast(y, nl.float32)), x.dtype)


@operator("floor_div")
def floor_div(at: Op) -> nl.Tensor:
    """floor(x / y)."""
    return nl.floor_divide(at.tensor("x"), at.tensor("y"))


@operator("mod")
def mod(at: Op) -> nl.Tensor:
    """x - floor(x / y) * y."""
    return nl.floor_modulo(at.tensor("x"), at.tensor("y"))


@operator("clip")
def clip(at: Op) -> nl.Tensor:
    """x within alpha and beta."""
    return nl.clamp(at.tensor(), at.real("alpha"), at.real("beta"))


@operator("inverse")
def inverse(at: Op) -> nl.Tensor:
    """1 / (x + epsilon)."""
    return nl.reciprocal(at.tensor() + at.real("epsilon", 1e-4))


@operator("log")
def log(at: Op) -> nl.Tensor:
    """log(x + epsilon)."""
    return nl.log(at.tensor() + at.real("epsilon", 1e-45))


@operator("rsqrt")
def rsqrt(at: Op) -> nl.Tensor:
    """1 / sqrt(x + epsilon)."""
    return nl.rsqrt(at.tensor() + at.real("epsilon", 1e-12))


@operator("threshold")
def threshold(at: Op) -> nl.Tensor:
    """max(x, alpha)."""
    return nl.maximum(at.tensor(), at.real("alpha"))


@operator("cast")
def cast(at: Op) -> nl.Tensor:
    """Another element type; floats become integers towards zero."""
    name = at.text("dtype")
    types = {"fp16": nl.float16, "fp32": nl.float32, "fp64": nl.float64, "bool": nl.bool_}
    wanted = types.get(name) or getattr(nl, name, None)
    if not isinstance(wanted, nl.DType):
        raise at.refuse("unknown element type", name)
    x = at.tensor()
    return x if x.dtype is wanted else nl.cast(x, wanted)


# --- activations
def _activation(kind: str, function: Callable[[nl.Tensor, float, float], nl.Tensor]) -> None:
    @operator(kind)
    def translate(at: Op) -> nl.Tensor:
        return function(at.tensor(), at.real("alpha"), at.real("beta"))

    translate.__doc__ = f"{kind} of each element."


for _kind, _function in {
    "clamped_relu": lambda x, a, b: nl.minimum(nl.leaky_relu(x, a), b),
    "elu": lambda x, a, b: nl.elu(x, a),
    "leaky_relu": lambda x, a, b: nl.leaky_relu(x, a),
    "linear_activation": lambda x, a, b: x * a + b,
    "scaled_tanh": lambda x, a, b: nl.tanh(x * b) * a,
    "sigmoid_hard": lambda x, a, b: nl.hard_sigmoid(x, a, b),
    "thresholded_relu": lambda x, a, b: nl.select(x >= a, x, nl.zeros_like(x)),
}.items():
    _activation(_kind, _function)


@operator("gelu")
def gelu(at: Op) -> nl.Tensor:
    """The Gaussian error linear unit, exact or by tanh or sigmoid."""
    x, mode = at.tensor(), at.text("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return x * nl.sigmoid(x * 1.702)
    return nl.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def _channels(at: Op, name: str) -> nl.Tensor:
    """A vector with one element for each channel (axis 1)."""
    return nl.reshape(at.tensor(name), (-1, *(1,) * (at.rank() - 2)))


@operator("prelu")
def prelu(at: Op) -> nl.Tensor:
    """x, or alpha of the channel times x where it is negative."""
    return nl.prelu(at.tensor(), _channels(at, "alpha"))


@operator("softplus_parametric")
def softplus_parametric(at: Op) -> nl.Tensor:
    """alpha * log(1 + exp(beta * x)), with one alpha and beta for each channel."""
    return _channels(at, "alpha") * nl.softplus(_channels(at, "beta") * at.tensor())


@operator("softmax")
def softmax(at: Op) -> nl.Tensor:
    """Softmax over an axis."""
    return nl.softmax(at.tensor(), at.axis())


@operator("select")
def select(at: Op) -> nl.Tensor:
    """Elements of a where the condition holds, else of b."""
    cond = at.tensor("cond")
    cond = cond if cond.dtype is nl.bool_ else nl.not_equal(cond, at.number(0, cond))
    return nl.where(cond, at.tensor("a"), at.tensor("b"))


def as_array(value: object, dtype: object) -> np.ndarray:
    """A number as an array of a NumPy dtype."""
    return np.asarray(value).astype(dtype)  # type: ignore[call-overload, no-any-return]
