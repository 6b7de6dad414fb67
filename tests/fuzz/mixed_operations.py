"""Makers for every registered operation, from the samples that it declares, and for regions.

A sample says which shapes, ranges and attributes an operation takes. Its inputs are new leaves, or
views of what the graph has already, brought into the range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import random_operations
from mixed_graphs import MixedBuilder
from shaped_operations import SHAPED

import niello as nl
from niello.core.dtypes import ALL, DType
from niello.core.shapes import MAX_RANK
from niello.graph.opdef import Op, Sample, Spec, Trait, registry
from niello.graph.tensor import Tensor
from tests.contract.contract_cases import dtypes_of, make

Maker = Callable[[MixedBuilder], Any]
REGIONS = ("if", "loop", "call")
TRIES = 6  # draws of each sample before a focus is given up


@cache
def focus_names() -> tuple[str, ...]:
    """Operations that compute something, in the order in which they are in the focus."""
    return tuple(
        n for n, c in sorted(registry().items()) if n in REGIONS or Trait.STRUCTURAL not in c.traits
    )


def focus_makers(name: str, turn: int) -> list[Maker]:
    """Makers of an operation in the order in which to try them; in each turn of it the inputs have
    another of its dtypes, if the device has it."""
    if name in REGIONS:
        return REGION_MAKERS[name] * TRIES
    tries = TRIES * len(registry()[name].samples())
    return [sample_maker(name, turn)] * tries + [sample_maker(name)] * tries


@cache
def surroundings() -> list[Maker]:
    """What the rest of a graph is made of: each family equally often."""
    names = [n for n, c in registry().items() if Trait.STRUCTURAL not in c.traits]
    return [
        _any_of([sample_maker(n) for n in names]),
        _any_of(SHAPED),
        _any_of(random_operations.elementwise_makers(smooth=False)),
        _any_of(random_operations.MOVEMENTS),
        _any_of(random_operations.STRUCTURED),
        _any_of(random_operations.OTHER),
        _any_of([m for makers in REGION_MAKERS.values() for m in makers]),
        _any_of([make_noise, make_optimiser, make_part, make_join]),
    ]


def _any_of(makers: Sequence[Maker]) -> Maker:
    return lambda b: b.pick(makers)(b)


# --- from samples
def sample_maker(name: str, turn: int | None = None) -> Maker:
    """Draws an operation on one of its samples; with `turn`, with its dtype of that number."""
    cls = registry()[name]

    def draw(b: MixedBuilder) -> Any:
        sample = b.pick(list(cls.samples()))
        options = _dtypes(b, cls, sample)
        if turn is not None:
            wanted = cls.dtypes[turn % len(cls.dtypes)]
            options = [wanted] if wanted in options else []
        if not options:
            return None
        known = [d for d in options if d in b.dtypes]
        dtype = b.pick(known if known and b.chance(0.7) else options)
        inputs = [
            _input(b, spec, dtype, i in cls.value_inputs) for i, spec in enumerate(sample.inputs)
        ]
        return b.graph.apply(cls(**sample.attributes), *inputs)

    draw.__name__ = name
    return draw


def _dtypes(b: MixedBuilder, cls: type[Op], sample: Sample) -> list[DType]:
    """The dtypes that a sample takes and the device has."""
    options = [d for d in dtypes_of(cls, sample) if b.has(d)]
    if any(len(s.shape) == MAX_RANK for s in sample.inputs):
        options = [d for d in options if not d.is_complex]
    return options


def _input(b: MixedBuilder, spec: Spec | np.ndarray, dtype: DType, constant: bool) -> Tensor:
    array = make(spec, dtype, b.integer(0, 1 << 30))
    if isinstance(spec, np.ndarray) or constant or spec.kind == "distinct" or b.chance(0.4):
        return b.leaf_of(array, constant)
    wanted = nl.TensorType(array.shape, array.dtype).dtype
    found = b.any(lambda t: t.dtype is wanted and (t.type.elements or not array.size))
    if found is None or found.type.elements > 4 * array.size + 64:
        return b.leaf_of(array)
    fitted = squeezed(b, b.fit(found, array.shape), spec)
    return b.leaf_of(array) if fitted is None else fitted


def squeezed(b: MixedBuilder, t: Tensor, spec: Spec) -> Tensor | None:
    """`t` with all values in the range of a sample's input."""
    low, high = spec.low, spec.high
    if t.dtype is nl.bool_:
        return t
    if t.dtype.is_complex:
        return nl.complex(b.within(t.real(), low, high), b.within(t.imag(), low, high))
    if t.dtype.is_float:
        if not b.blind and t in b.case.values:
            value = b.value(t).astype(np.float64)
            if value.size and value.min() >= low and value.max() <= high:
                return t
        return b.within(t, low, high)
    least = int(np.ceil(max(low, t.dtype.min)))
    most = int(np.floor(min(high, t.dtype.max)))
    return t.clamp(least, most) if least < most else None


# --- further families
def make_noise(b: MixedBuilder) -> Any:
    """Random numbers; a state in a variable is assigned the one after."""
    if b.depth:
        return None
    shape = b.shape(limit=512)
    state = b.graph.variable(nl.random_state(b.integer(0, 1000)))
    b.case.initial[state] = np.array(state.value)
    b.keep(state, b.case.initial[state], exact=True)
    b.pool.remove(state)
    kind = b.integer(0, 3)
    dtype = b.pick([d for d in b.dtypes if d.is_float] or [nl.float32])
    if kind == 0:
        made, after = nl.random_bits(shape, state)
    elif kind == 1:
        made, after = nl.random_uniform(shape, state, low=-1.0, dtype=dtype)
    elif kind == 2:
        made, after = nl.random_normal(shape, state, dtype=dtype)
    else:
        made, after = nl.random_integers(shape, state, low=-5, high=9)
    if b.chance(0.7):
        b.know(b.graph)
        b.case.assigns.append((state, after, state.assign(after)))
    return made


def make_optimiser(b: MixedBuilder) -> Any:
    value = b.floating()
    shape = value.type.static_shape
    gradient = b.fit(b.floating(), shape)
    if gradient.dtype is not value.dtype or value.dtype.is_half:
        return None
    moments = [b.leaf(shape, value.dtype) for _ in "ab"]
    second = moments[1].square()
    kind = b.integer(0, 4)
    if kind == 0:
        return nl.sgd(0.1, value, gradient, weight_decay=0.01)
    if kind == 1:
        return nl.momentum(0.1, 0.9, value, moments[0], gradient)
    if kind == 2:
        return nl.rmsprop(0.1, 0.9, 0.01, value, second, gradient)
    if kind == 3:
        return nl.adam(0.1, 0.9, 0.99, 0.01, b.integer(1, 9), value, moments[0], second, gradient)
    return nl.lion(0.1, 0.9, 0.99, value, moments[0], gradient)


def make_part(b: MixedBuilder) -> Any:
    """A real part of a complex tensor, or a complex tensor of real ones."""
    x = b.any(lambda t: t.dtype.is_complex)
    if x is not None and b.chance(0.7):
        return b.pick((nl.real, nl.imag, nl.conj, nl.absolute))(x)
    x = b.any(lambda t: t.dtype in (nl.float32, nl.float64) and t.rank < MAX_RANK)
    return None if x is None else nl.complex(x, b.like(x))


def make_join(b: MixedBuilder) -> Any:
    """Two tensors of any kind, the second made to fit the first."""
    x, y = b.any(lambda t: t.dtype is not nl.bool_), b.any(lambda t: t.type.elements > 0)
    if x is None or y is None or x.dtype.is_storage or y.dtype.is_storage:
        return None
    y = landed(b, b.fit(y, x.type.static_shape), x.type)
    return b.pick((lambda: x + y, lambda: x * y, lambda: nl.concat([y, x], 0)))() if x.rank else y


# --- regions
def landed(b: MixedBuilder, t: Tensor, type: nl.TensorType) -> Tensor:
    """`t` as a tensor of a type, with values that stay small when it is repeated."""
    if type.static_shape != t.shape:
        if not t.type.elements and type.elements:
            return b.graph.constant(1, type.dtype, shape=type.static_shape)
        t = b.fit(t, type.static_shape)
    if t.dtype.is_complex and not type.dtype.is_complex:
        t = t.real()
    if t.dtype is not type.dtype:
        if t.dtype.is_float and not type.dtype.is_inexact and type.dtype is not nl.bool_:
            t = t.clamp(0.0, 9.0)
        t = t.cast(type.dtype)
    if type.dtype.is_float:
        return t.tanh()
    return t.clamp(0, 9) if type.dtype.is_integer else t


def inside(b: MixedBuilder, build: Callable[[], Any], known: dict[Tensor, Tensor]) -> Any:
    """What `build` makes in the region that is open now, whose parameters have the values that
    the tensors of `known` have outside."""
    pool = list(b.pool)
    b.depth += 1
    b.blind = True
    try:
        for parameter, outside in known.items():
            for values in (b.case.values, *b.case.shaken):
                values[parameter] = values[outside]
            b.pool += [parameter] * 3
        return build()
    finally:
        b.depth -= 1
        b.blind = b.depth > 0
        b.pool = pool


def walk(b: MixedBuilder, start: Tensor, type: nl.TensorType) -> Tensor:
    """A few operations from `start` to a tensor of a type."""
    b.pool += [start] * 2
    for _ in range(b.integer(1, 3)):
        b.step(b.pick(surroundings()))
    reached = b.pool[-1] if b.chance(0.8) else start
    return landed(b, reached, type)


def carried(b: MixedBuilder) -> list[Tensor]:
    """Tensors that a loop may carry, or a branch may give."""
    found = [
        b.any(lambda t: t.dtype in ALL and 0 < t.type.elements <= 256)
        for _ in range(b.integer(1, 2))
    ]
    return [t for t in found if t is not None] or [b.leaf((2, 3), nl.float32)]


def predicate(b: MixedBuilder) -> Tensor:
    x = b.any(lambda t: t.dtype in ALL and 0 < t.type.elements <= 64)
    if x is None:
        x = b.leaf((4,), nl.bool_)
    if x.dtype is nl.bool_:
        return x.all() if b.chance(0.5) else x.any()
    return x.max() > b.integer(-1, 1) if x.dtype.is_signed else x.max() > 2


def make_if(b: MixedBuilder) -> Any:
    if b.depth > 1:
        return None
    test, likes = predicate(b), carried(b)

    def branch() -> list[Tensor]:
        return inside(b, lambda: [walk(b, t, t.type) for t in likes], {})

    return nl.if_(test, branch, branch)


def make_for(b: MixedBuilder) -> Any:
    if b.depth > 1:
        return None
    start = carried(b)
    count, most = _count(b)
    zero = _zero(b)

    def body(i: Tensor, *values: Tensor) -> list[Tensor]:
        known = {i: zero, **dict(zip(values, start, strict=True))}
        return inside(b, lambda: [walk(b, v, v.type) for v in values], known)

    return nl.for_(count, start, body, maximum_iterations=most)


def make_while(b: MixedBuilder) -> Any:
    if b.depth > 1:
        return None
    start = carried(b)
    count, _ = _count(b)
    zero = _zero(b)

    def body(n: Tensor, *values: Tensor) -> list[Tensor]:
        known = {n: zero, **dict(zip(values, start, strict=True))}
        return [n + 1, *inside(b, lambda: [walk(b, v, v.type) for v in values], known)]

    def condition(n: Tensor, *values: Tensor) -> Tensor:
        return n < count

    return nl.while_([zero, *start], condition, body, maximum_iterations=b.integer(0, 4))


def make_scan(b: MixedBuilder) -> Any:
    rows = b.any(lambda t: t.dtype in ALL and bool(t.shape) and 0 < t.type.elements <= 256)
    if b.depth > 1 or rows is None or rows.type.static_shape[0] > 9:
        return None
    start = carried(b)
    first, zero = rows[0], _zero(b)
    b.know(b.graph.innermost)

    def body(i: Tensor, slices: list[Tensor], values: list[Tensor]) -> Any:
        known = {i: zero, slices[0]: first, **dict(zip(values, start, strict=True))}
        build = lambda: [walk(b, v, v.type) for v in (*values, slices[0])]  # noqa: E731
        *after, stacked = inside(b, build, known)
        return after, [stacked]

    last, stacks = nl.scan([rows], start, body, reverse=b.chance(0.4))
    return [*last, *stacks]


def _zero(b: MixedBuilder) -> Tensor:
    """The index of a first iteration."""
    zero = b.graph.constant(0)
    b.know(b.graph.innermost)
    return zero


def _count(b: MixedBuilder) -> tuple[Any, int | None]:
    """How often a loop runs: known now, or by value."""
    if b.chance(0.5):
        return b.integer(0, 4), None
    array = np.array(b.integer(0, 4), np.int32)
    made = b.leaf_of(array)
    b.pool.remove(made)
    return made, b.integer(1, 4)


def make_call(b: MixedBuilder) -> Any:
    """A graph of its own, called."""
    if b.depth:
        return None
    given = carried(b)
    symbol = f"called{len(b.case.callables)}"
    inner = nl.Graph(symbol)
    inputs = [inner.placeholder(t.shape, t.dtype) for t in given]
    x = inputs[0]
    y = landed(b, x if len(inputs) == 1 else b.fit(inputs[1], x.type.static_shape), x.type)
    y = nl.stack([y, y * 2 if y.dtype is not nl.bool_ else y])
    b.case.callables[symbol] = inner
    return nl.call(symbol, given, [y.type])


REGION_MAKERS: dict[str, list[Maker]] = {
    "if": [make_if],
    "loop": [make_for, make_while, make_scan],
    "call": [make_call],
}
