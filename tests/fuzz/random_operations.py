"""What random graphs are made of: one small function for each kind of operation.

A maker takes the builder and returns the new tensor or tensors, or None when nothing in the graph
fits. Elementwise operations come from the registry, on the domains that their samples state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from random_graphs import LARGEST, Builder

import niello as nl
from niello.graph.opdef import Sample, Spec, Trait, registry
from niello.graph.tensor import Tensor

Maker = Callable[[Builder], Any]

# Elementwise operations whose value or slope jumps.
JUMPING = frozenset(
    [
        "floor",
        "ceil",
        "trunc",
        "rint",
        "round",
        "sign",
        "signbit",
        "floor_divide",
        "floor_modulo",
        "modulo",
        "equal",
        "not_equal",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "is_nan",
        "is_inf",
        "is_finite",
        "atan2",
    ]
)
KINKED = frozenset(
    [
        "absolute",
        "relu",
        "leaky_relu",
        "prelu",
        "elu",
        "selu",
        "hard_sigmoid",
        "hard_swish",
        "hard_tanh",
        "hinge",
        "huber",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "clamp",
        "softshrink",
        "divide_no_nan",
        "sigmoid_cross_entropy",
    ]
)
# Losses of finite logits: their references are other formulas, with other values at infinity.
FINITE = frozenset(["binary_cross_entropy", "hinge", "huber", "sigmoid_cross_entropy"])
# Made by makers of their own, or of use with special operands only; the graphs hold no complex
# tensors (tests/contract has those).
ELSEWHERE = frozenset(
    ["bitwise_left_shift", "bitwise_right_shift", "cast", "complex", "power", "select"]
)


# --- elementwise
def elementwise_makers(smooth: bool, special: bool = False) -> list[Maker]:
    makers = []
    for name, cls in sorted(registry().items()):
        if Trait.ELEMENTWISE not in cls.traits or name in ELSEWHERE:
            continue
        if smooth and (name in JUMPING or name in KINKED):
            continue
        if special and name in FINITE:
            continue
        samples = [s for s in cls.samples() if all(isinstance(i, Spec) for i in s.inputs)]
        if samples:
            makers.append(elementwise_maker(name, samples))
    return makers


def elementwise_maker(name: str, samples: list[Sample]) -> Maker:
    cls = registry()[name]

    def make(b: Builder) -> Any:
        sample = b.pick(samples)
        allowed = list(sample.dtypes or cls.dtypes)
        needs_exact = name in JUMPING
        first = b.any(lambda t: t.dtype in allowed and (b.is_exact(t) or not needs_exact))
        if first is None:
            return None
        operands = [first]
        for _ in sample.inputs[1:]:
            other = b.like(operands[0])
            if needs_exact and not b.is_exact(other):
                return None
            if not broadcasts_all([*operands, other]):
                return None
            operands.append(other)
        fitted = [domain(b, t, spec) for t, spec in zip(operands, sample.inputs, strict=True)]
        if any(t is None for t in fitted):
            return None
        if needs_exact and any(t is not o for t, o in zip(fitted, operands, strict=True)):
            return None  # squeezing rounds
        return b.graph.apply(cls(**sample.attributes), *fitted)

    make.__name__ = name
    return make


def broadcasts_all(tensors: list[Tensor]) -> bool:
    try:
        shape = np.broadcast_shapes(*(t.type.static_shape for t in tensors))
    except ValueError:
        return False
    return int(np.prod(shape, dtype=int)) <= LARGEST


def domain(b: Builder, t: Tensor, spec: Spec) -> Tensor | None:
    """`t` brought into the interval of a sample, where it is not already."""
    value = b.value(t)
    if t.dtype is nl.bool_ or (b.special and t.dtype.is_float):
        return t
    if t.dtype.is_complex:
        parts = (b.within(part, spec.low, spec.high) for part in (t.real(), t.imag()))
        return nl.complex(*parts)
    if value.size == 0 or (not b.blind and value.min() >= spec.low and value.max() <= spec.high):
        return t
    if t.dtype.is_float:
        return b.within(t, spec.low, spec.high)
    low, high = int(np.ceil(max(spec.low, t.dtype.min))), int(np.floor(min(spec.high, t.dtype.max)))
    return t.clamp(low, high) if low < high else None


def make_power(b: Builder) -> Any:
    base = b.floating()
    exponent = b.like(base)
    if not broadcasts_all([base, exponent]):
        return None
    return b.within(base, 0.5, 2.0) ** b.within(exponent, -2.0, 2.0)


def make_integer_power(b: Builder) -> Any:
    base = b.any(lambda t: t.dtype in (nl.int32, nl.int64))
    return None if base is None else base.clamp(-5, 5) ** b.integer(0, 4)


def make_shift(b: Builder) -> Any:
    x = b.any(lambda t: t.dtype.is_integer)
    if x is None:
        return None
    return (x << b.integer(0, 5)) if b.chance(0.5) else (x >> b.integer(0, 5))


def make_python_number(b: Builder) -> Any:
    x = b.any(lambda t: t.dtype.is_float or t.dtype in (nl.int32, nl.int64))
    if x is None:
        return None
    number = b.integer(-3, 3) if b.chance(0.5) or not x.dtype.is_float else 0.25
    which = b.integer(0, 3)
    return (x + number, number - x, x * number, x - number)[which]


def make_cast(b: Builder) -> Any:
    x = b.any(lambda t: b.is_exact(t) or t.dtype.is_float)
    if x is None:
        return None
    if x.dtype.is_complex:
        return None if x.dtype is nl.complex128 else x.cast(nl.complex128)
    wanted = [nl.float32, nl.float64]
    if b.is_exact(x):
        wanted += [nl.int32, nl.int64, nl.bool_]
    target = b.pick(wanted)
    return None if target is x.dtype else x.cast(target)


def make_select(b: Builder) -> Any:
    a = b.floating()
    other = b.like(a)
    test = b.any(lambda t: t.dtype is nl.bool_ and broadcasts_all([t, a, other]))
    if test is None:
        test = b.leaf(a.type.static_shape, nl.bool_)
    return nl.where(test, a, other) if broadcasts_all([test, a, other]) else None


# --- movements
def some(b: Builder, rank: int = 0) -> Tensor | None:
    return b.any(lambda t: (t.rank or 0) >= rank)


def make_transpose(b: Builder) -> Any:
    x = some(b, 1)
    return None if x is None else x.transpose([int(a) for a in b.rng.permutation(x.rank)])


def make_reshape(b: Builder) -> Any:
    x = some(b)
    if x is None:
        return None
    sizes: list[int] = []
    left = x.type.elements
    while left > 1 and len(sizes) < 4:
        factors = [f for f in range(1, left + 1) if left % f == 0]
        sizes.append(b.pick(factors))
        left //= sizes[-1]
    if x.type.elements == 0:
        return x.reshape((b.integer(0, 3), 0, 2))
    return x.reshape((*sizes, left) if left > 1 or b.chance(0.3) else tuple(sizes))


def make_slice(b: Builder) -> Any:
    x = b.any(lambda t: (t.rank or 0) >= 1 and t.type.elements > 0)
    if x is None:
        return None
    key: list[Any] = []
    for size in x.type.static_shape:
        form = b.integer(0, 4)
        start = b.integer(0, size - 1)
        if form == 0:
            key.append(start)
        elif form == 1:
            key.append(slice(None, None, -b.integer(1, 3)))
        elif form == 2:
            key.append(slice(start, None, b.integer(1, 3)))
        elif form == 3:
            key.append(slice(-start - 1, size))
        else:
            key.append(slice(None))
    return x[tuple(key)]


def make_reverse(b: Builder) -> Any:
    x = some(b, 1)
    return None if x is None else x.reverse(axes=b.integer(0, x.rank - 1))


def make_broadcast(b: Builder) -> Any:
    x = b.any(lambda t: (t.rank or 0) <= 3 and t.type.elements <= LARGEST // 8)
    if x is None:
        return None
    shape = tuple(b.integer(2, 3) if d == 1 and b.chance(0.7) else d for d in x.type.static_shape)
    shape = (b.integer(1, 4), *shape) if b.chance(0.5) else shape
    return x.broadcast_to(shape) if np.prod(shape, dtype=int) <= LARGEST else None


def make_expand(b: Builder) -> Any:
    x = b.any(lambda t: (t.rank or 0) <= 3)
    if x is None:
        return None
    return x.expand_dims(b.integer(0, x.rank)) if b.chance(0.6) else x.squeeze()


def make_tile(b: Builder) -> Any:
    x = b.any(lambda t: (t.rank or 0) >= 1 and t.type.elements <= LARGEST // 16)
    return None if x is None else x.tile([b.integer(1, 2) for _ in range(x.rank)])


def make_pad(b: Builder) -> Any:
    x = b.any(lambda t: (t.rank or 0) >= 1 and t.type.elements <= LARGEST // 16)
    if x is None or x.type.elements == 0:
        return None
    mode = b.pick(("constant", "constant", "edge", "reflect", "symmetric"))
    amounts = []
    for size in x.type.static_shape:
        most = 2 if mode in ("constant", "edge") else min(2, size - (mode == "reflect"))
        amounts.append((b.integer(0, most), b.integer(0, most)))
    value = b.integer(0, 1)
    return (
        x.pad(amounts, mode=mode, value=value) if mode == "constant" else x.pad(amounts, mode=mode)
    )


def make_concat(b: Builder) -> Any:
    x = b.any(lambda t: (t.rank or 0) >= 1 and t.type.elements <= LARGEST // 2)
    if x is None:
        return None
    axis = b.integer(0, x.rank - 1)
    parts = [x]
    for _ in range(b.integer(1, 3)):
        shape = list(x.type.static_shape)
        same = b.any(lambda t: t.type == x.type)
        if same is None or b.chance(0.4):
            shape[axis] = b.integer(0, 4)
            same = b.leaf(tuple(shape), x.dtype)
        parts.append(same)
    if b.chance(0.3) and all(p.type == x.type for p in parts) and x.rank < 4:
        return nl.stack(parts, axis)
    return nl.concat(parts, axis)


def make_split(b: Builder) -> Any:
    x = b.any(lambda t: (t.rank or 0) >= 1 and max(t.type.static_shape) > 1)
    if x is None:
        return None
    axis = int(np.argmax(x.type.static_shape))
    size = x.type.static_shape[axis]
    if b.chance(0.3) and size <= 8:
        return x.unstack(axis)
    first = b.integer(0, size)
    return x.split([first, size - first], axis)


def make_update(b: Builder) -> Any:
    x = b.any(lambda t: (t.rank or 0) >= 1 and t.type.elements > 0)
    if x is None:
        return None
    starts = [b.integer(0, d - 1) for d in x.type.static_shape]
    ends = [b.integer(s + 1, d) for s, d in zip(starts, x.type.static_shape, strict=True)]
    part = b.leaf(tuple(e - s for s, e in zip(starts, ends, strict=True)), x.dtype)
    return x.slice_update(part, starts, ends)


def make_gather(b: Builder) -> Any:
    x = b.any(lambda t: (t.rank or 0) >= 1 and t.type.elements > 0)
    if x is None:
        return None
    axis = b.integer(0, x.rank - 1)
    size = x.type.static_shape[axis]
    indices = b.graph.constant(
        b.rng.integers(0, size, b.shape(b.integer(0, 2), 16)).astype(np.int32)
    )
    b.keep(indices, indices.operation.op.reference(), exact=True)
    return x.gather(indices, axis)


def make_one_hot(b: Builder) -> Any:
    x = b.any(lambda t: t.dtype is nl.int32 and t.type.elements <= LARGEST // 8 and t.rank <= 3)
    return None if x is None else x.one_hot(5)


# --- reductions
def axes_of(b: Builder, x: Tensor) -> Any:
    if b.chance(0.3):
        return None
    if b.chance(0.4):
        return -1 if x.rank else None
    return tuple(int(a) for a in np.flatnonzero(b.rng.integers(0, 2, x.rank)))


def reduction_maker(name: str, floats: bool, exact: bool) -> Maker:
    def make(b: Builder) -> Any:
        x = b.any(
            lambda t: (
                t.dtype is not nl.bool_
                and (t.dtype.is_float or not floats)
                and (name == "sum" or not t.dtype.is_complex)
                and t.type.elements > 0
                and (b.is_exact(t) or not exact)
            )
        )
        if x is None:
            return None
        if name in ("argmax", "argmin"):
            return getattr(x, name)(b.integer(0, x.rank - 1) if x.rank else None)
        if name == "prod" and x.dtype.is_float:
            x = b.within(x, 0.8, 1.2)
        if name == "standard_deviation":
            return x.standard_deviation(axes_of(b, x)) if b.value(x).std() > 0.1 else None
        return getattr(x, name)(axes_of(b, x), b.chance(0.5))

    make.__name__ = name
    return make


def make_truth(b: Builder) -> Any:
    x = b.any(lambda t: t.dtype is nl.bool_)
    if x is None:
        return None
    return (nl.any if b.chance(0.5) else nl.all)(x, axes_of(b, x), b.chance(0.5))


def make_softmax(b: Builder) -> Any:
    x = b.any(lambda t: t.dtype.is_float and (t.rank or 0) >= 1 and t.type.elements > 0)
    if x is None:
        return None
    function = b.pick((nl.softmax, nl.log_softmax))
    return function(x, b.integer(0, x.rank - 1) if b.chance(0.5) else -1)


def make_norm(b: Builder) -> Any:
    x = b.any(
        lambda t: (
            t.dtype.is_float
            and (t.rank or 0) >= 2
            and t.type.elements > 0
            and t.type.static_shape[-1] > 1
        )
    )
    if x is None:
        return None
    form = b.integer(0, 3)
    last = x.type.static_shape[-1]
    if form == 0:
        gamma, beta = b.leaf((last,), x.dtype), b.leaf((last,), x.dtype)
        return x.layer_norm(gamma, beta, epsilon=0.1)
    if form == 1:
        return x.rms_norm(epsilon=0.1)
    if form == 2 and x.rank >= 3:
        return x.instance_norm(axis=1, epsilon=0.1)
    return x.batch_norm_training(axis=1, epsilon=0.1)


def make_cross_entropy(b: Builder) -> Any:
    x = b.any(lambda t: t.dtype.is_float and t.rank == 2 and t.type.elements > 0)
    if x is None:
        return None
    rows, classes = x.type.static_shape
    chosen = np.eye(classes, dtype=x.dtype.numpy)[b.rng.integers(0, classes, rows)]
    labels = b.graph.constant(chosen)
    b.keep(labels, chosen, exact=True)
    return nl.softmax_cross_entropy(x, labels, reduction=b.pick(("none", "sum", "mean")))


# --- contractions and windows
def make_matmul(b: Builder) -> Any:
    x = b.any(lambda t: t.dtype.is_float and (t.rank or 0) >= 1 and t.type.elements > 0)
    if x is None:
        return None
    inner = x.type.static_shape[-1]
    known = b.any(
        lambda t: (
            t.dtype is x.dtype
            and t.rank == 2
            and t.type.static_shape[0] == inner
            and t.type.elements > 0
        )
    )
    if known is None or b.chance(0.4):
        batch = x.type.static_shape[:-2] if b.chance(0.3) else ()
        known = b.leaf((*batch, inner, b.pick(SIZES_OUT)), x.dtype)
    return nl.matmul(x, known) / float(inner)


SIZES_OUT = (1, 2, 3, 8, 17, 32, 48)


def image(b: Builder) -> Tensor:
    shape = (b.integer(1, 2), b.integer(3, 8), b.integer(3, 9), b.integer(3, 9))
    found = b.any(lambda t: t.dtype.is_float and t.rank == 4 and min(t.type.static_shape[1:]) >= 3)
    return found if found is not None and b.chance(0.7) else b.leaf(shape, nl.float32)


def make_conv(b: Builder) -> Any:
    x = image(b)
    nhwc = b.chance(0.5)
    sizes = x.type.static_shape
    channels = sizes[-1] if nhwc else sizes[1]
    out, kernel = b.integer(1, 6), (b.integer(1, 3), b.integer(1, 3))
    hwio = b.chance(0.5)
    shape = (*kernel, channels, out) if hwio else (out, channels, *kernel)
    weights = b.leaf(shape, x.dtype)
    y = nl.conv2d(
        x,
        weights,
        strides=b.integer(1, 2),
        padding=b.pick(("same", "valid")),
        data_layout="NHWC" if nhwc else "NCHW",
        weights_layout="HWIO" if hwio else "OIHW",
    )
    y = y / float(channels)
    return y.relu() if b.chance(0.3) and not b.smooth else y


def make_conv_transpose(b: Builder) -> Any:
    x = image(b)
    channels = x.type.static_shape[1]
    weights = b.leaf((channels, b.integer(1, 3), 3, 3), x.dtype)
    return nl.conv_transpose2d(x, weights, strides=b.integer(1, 2)) / float(channels)


def make_depthwise(b: Builder) -> Any:
    x = image(b)
    weights = b.leaf((b.integer(1, 2), x.type.static_shape[1], 3, 3), x.dtype)
    return nl.depthwise_conv2d(x, weights, padding="same")


def make_pool(b: Builder) -> Any:
    x = image(b)
    options = {
        "strides": b.pick((None, 1, 2)),
        "padding": b.pick(("same", "valid")),
        "data_layout": b.pick(("NCHW", "NHWC")),
    }
    if b.chance(0.5) and (b.is_exact(x) or not b.smooth):
        return x.max_pool2d(b.integer(1, 3), **options)
    return x.average_pool2d(b.integer(1, 3), **options)


def make_sgd(b: Builder) -> Any:
    value = b.floating()
    gradient = b.any(lambda t: t.type == value.type)
    if gradient is None:
        return None
    return nl.momentum(0.1, 0.9, value, b.leaf(value.type.static_shape, value.dtype), gradient)


MOVEMENTS: list[Maker] = [
    make_transpose,
    make_reshape,
    make_slice,
    make_reverse,
    make_broadcast,
    make_expand,
    make_tile,
    make_pad,
    make_concat,
    make_split,
    make_update,
    make_gather,
]
FLOAT_REDUCTIONS = [reduction_maker(n, True, False) for n in ("mean", "variance", "logsumexp")]
STRUCTURED: list[Maker] = [
    *FLOAT_REDUCTIONS,
    reduction_maker("sum", True, False),
    make_softmax,
    make_norm,
    make_cross_entropy,
    make_matmul,
    make_conv,
    make_conv_transpose,
    make_depthwise,
    make_pool,
    make_sgd,
]
OTHER: list[Maker] = [
    make_power,
    make_integer_power,
    make_shift,
    make_python_number,
    make_cast,
    make_select,
    make_one_hot,
    make_truth,
    reduction_maker("sum", False, False),
    reduction_maker("prod", False, False),
    reduction_maker("standard_deviation", True, False),
    reduction_maker("max", False, False),
    reduction_maker("min", False, False),
    reduction_maker("argmax", False, True),
    reduction_maker("argmin", False, True),
]


def _any_of(makers: list[Maker]) -> Maker:
    return lambda b: b.pick(makers)(b)


# Each family equally often, however many operations it has.
MAKERS: list[Maker] = [
    _any_of(elementwise_makers(smooth=False)),
    _any_of(MOVEMENTS),
    _any_of(STRUCTURED),
    _any_of(OTHER),
]
SMOOTH: list[Maker] = [
    _any_of(elementwise_makers(smooth=True)),
    _any_of(MOVEMENTS),
    _any_of(STRUCTURED),
    _any_of([make_power, make_python_number, make_select]),
]
# Where NaN, infinity and the sign of zero have a meaning that must survive every rewriting.
SPECIALS: list[Maker] = [
    _any_of(elementwise_makers(smooth=False, special=True)),
    _any_of(MOVEMENTS),
    _any_of(
        [
            make_select,
            make_python_number,
            *(reduction_maker(n, True, False) for n in ("max", "min", "sum")),
        ]
    ),
]
