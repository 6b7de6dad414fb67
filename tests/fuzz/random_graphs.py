"""Random valid graphs with their values, for comparing back ends and pipelines.

A graph grows operation by operation, and every new tensor is evaluated at once with the reference
semantics: what is too large, NaN or infinite is not used any further, so that rounding errors
stay small enough to compare. `exact` tensors have the same bits everywhere (inputs, movements,
integers); operations that jump (floor, comparisons, argmax) take those only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import niello as nl
from niello.core.errors import NielloError
from niello.graph.evaluate import evaluate
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor, Variable

SIZES = (1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33)
LARGEST = 4096  # elements of one tensor
LARGEST_VALUE = 1e3
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0)
FLOATS = (nl.float32, nl.float32, nl.float32, nl.float64)
OTHERS = (nl.int32, nl.int32, nl.bool_, nl.int64, nl.uint8)


@dataclass
class Case:
    """A graph, what to feed and fetch, and the values that everything must have."""

    seed: int
    graph: nl.Graph
    feeds: dict[Tensor, np.ndarray] = field(default_factory=dict)
    initial: dict[Variable, np.ndarray] = field(default_factory=dict)
    targets: list[Tensor] = field(default_factory=list)
    assigns: list[tuple[Variable, Tensor, Operation]] = field(default_factory=list)
    values: dict[Tensor, np.ndarray] = field(default_factory=dict)
    exact: set[Tensor] = field(default_factory=set)
    reads: dict[Tensor, Tensor] = field(default_factory=dict)  # ordered read -> what was assigned
    callables: dict[str, Any] = field(default_factory=dict)  # what calls name
    shaken: list[dict[Tensor, np.ndarray]] = field(default_factory=list)  # values with noise
    derivative: tuple[Tensor, dict[Tensor, Tensor]] | None = None  # a tensor, and its gradients
    driver: bool = False  # compared with a device whose functions are less precise
    focus: str = ""  # the operation that the graph is about

    @property
    def operations(self) -> list[Operation]:
        return [operation for _, _, operation in self.assigns]

    def used_feeds(self) -> dict[Tensor, np.ndarray]:
        """Feeds that the targets and assignments depend on."""
        roots = [*self.targets, *(value for _, value, _ in self.assigns)]
        needed, stack = set(), [t.operation for t in roots]
        while stack:
            operation = stack.pop()
            if operation not in needed:
                needed.add(operation)
                stack += [t.operation for t in operation.inputs] + list(operation.control_inputs)
        return {t: a for t, a in self.feeds.items() if t.operation in needed}

    def final(self) -> dict[Variable, np.ndarray]:
        """What each variable holds after one run from its initial value."""
        found = dict(self.initial)
        for variable, value, _ in self.assigns:
            found[variable] = self.values[value]
        return found


class Builder:
    """Grows one graph from random numbers."""

    def __init__(self, seed: int, steps: int, smooth: bool, special: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = nl.Graph(f"random_{seed}")
        self.case = Case(seed, self.graph)
        self.pool: list[Tensor] = []
        self.steps = steps
        self.smooth = smooth  # only operations whose gradient does not jump
        self.special = special  # inputs hold NaN, infinities, zeros of both signs
        self.blind = False  # whether the values known are those of one iteration only

    # --- choices
    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def shape(self, rank: int | None = None, limit: int = LARGEST) -> tuple[int, ...]:
        rank = self.integer(0, 4) if rank is None else rank
        while True:
            found = tuple(self.pick(SIZES) for _ in range(rank))
            if self.chance(0.02) and rank:
                found = (*found[:-1], 0)
            if np.prod(found, dtype=int) <= limit:
                return found

    def array(self, shape: tuple[int, ...], dtype: nl.DType) -> np.ndarray:
        if dtype is nl.bool_:
            return self.rng.integers(0, 2, shape).astype(bool)
        if dtype.is_integer:
            return self.rng.integers(0 if dtype is nl.uint8 else -9, 10, shape).astype(dtype.numpy)
        values = self.rng.uniform(-2.0, 2.0, shape)
        if self.chance(0.4):
            values = np.round(values * 4.0) / 4.0  # ties, zeros and equal elements
        if self.special:
            values = np.where(self.rng.random(shape) < 0.3, self.rng.choice(SPECIAL, shape), values)
        return np.asarray(values).astype(dtype.numpy)

    # --- tensors
    def leaf(self, shape: tuple[int, ...] | None = None, dtype: nl.DType | None = None) -> Tensor:
        """A new placeholder, variable or constant."""
        shape = self.shape() if shape is None else shape
        dtype = self.pick(FLOATS if self.chance(0.7) else OTHERS) if dtype is None else dtype
        array = self.array(shape, dtype)
        kind = self.pick(("placeholder", "placeholder", "variable", "constant", "splat"))
        if kind == "placeholder":
            made = self.graph.placeholder(shape, dtype)
            self.case.feeds[made] = array
        elif kind == "variable":
            made = self.graph.variable(array)
            self.case.initial[made] = array
        elif kind == "constant":
            made = self.graph.constant(array)
        else:
            array = np.full(shape, array.reshape(-1)[0] if array.size else 1, dtype.numpy)
            value = array.reshape(-1)[0] if array.size else 1
            made = self.graph.constant(value, dtype, shape=shape)
        return self.keep(made, array, exact=True)

    def keep(self, tensor: Tensor, value: np.ndarray, exact: bool) -> Tensor:
        self.case.values[tensor] = value
        if exact:
            self.case.exact.add(tensor)
        self.pool.append(tensor)
        return tensor

    def value(self, tensor: Tensor) -> np.ndarray:
        return self.case.values[tensor]

    def is_exact(self, tensor: Tensor) -> bool:
        return tensor in self.case.exact

    def any(self, accept: Callable[[Tensor], bool]) -> Tensor | None:
        found = [t for t in self.pool if accept(t)]
        # Recent tensors more often: deep graphs rather than wide ones.
        if not found:
            return None
        return found[-1] if self.chance(0.4) else self.pick(found)

    def floating(self, shape: tuple[int, ...] | None = None, rank: int | None = None) -> Tensor:
        found = self.any(
            lambda t: t.dtype.is_float and shape in (None, t.shape) and rank in (None, t.rank)
        )
        if found is not None and self.chance(0.85):
            return found
        return self.leaf(self.shape(rank) if shape is None else shape, self.pick(FLOATS))

    def like(self, t: Tensor) -> Tensor:
        """Another tensor that broadcasts with `t`."""
        shape = t.type.static_shape
        found = self.any(lambda u: u.dtype is t.dtype and broadcasts(u.type.static_shape, shape))
        if found is not None and self.chance(0.7):
            return found
        cut = shape[self.integer(0, len(shape)) :]
        return self.leaf(tuple(1 if self.chance(0.2) else d for d in cut), t.dtype)

    def within(self, t: Tensor, low: float, high: float) -> Tensor:
        """`t` squeezed smoothly into an interval."""
        return low + (high - low) * t.sigmoid()

    # --- growing
    def grow(self, makers: list[Callable[[Builder], Any]]) -> Case:
        for _ in range(self.integer(1, 4)):
            self.leaf()
        made = 0
        for _ in range(self.steps * 6):
            if made >= self.steps:
                break
            made += self.step(self.pick(makers))
        return self.case

    def step(self, maker: Callable[[Builder], Any]) -> bool:
        """Run one maker and keep what it makes; False when it had nothing to work on."""
        before = len(self.graph.operations)
        found = maker(self)
        if found is None:
            return False
        tensors = list(found) if isinstance(found, (list, tuple)) else [found]
        new = [o for o in self.graph.operations[before:] if o.outputs]
        outputs = [t for o in new for t in o.outputs if t not in self.case.values]
        arrays = dict(zip(outputs, evaluate(outputs, self.case.values), strict=True))
        for o in new:
            for t in o.outputs:
                if t in self.case.values:
                    continue
                self.case.values[t] = arrays[t]
                inputs = all(self.is_exact(i) for i in o.inputs)
                if inputs and (not t.dtype.is_float or o.op.name in EXACT):
                    self.case.exact.add(t)
        kept = [
            t
            for t in tensors
            if t.type.elements <= LARGEST * 4 and (self.special or usable(arrays.get(t)))
        ]
        self.pool += kept
        return bool(kept)


# Floating-point operations that round nothing.
EXACT = frozenset(
    [
        "absolute",
        "broadcast_to",
        "clamp",
        "concat",
        "constant",
        "expand_dims",
        "fmax",
        "fmin",
        "flatten",
        "flatten_axes",
        "gather",
        "identity",
        "max_pool",
        "maximum",
        "minimum",
        "negative",
        "one_hot",
        "pad",
        "place",
        "reduce_max",
        "reduce_min",
        "relu",
        "reshape",
        "reverse",
        "select",
        "slice",
        "slice_update",
        "split",
        "squeeze",
        "stack",
        "stop_gradient",
        "swap_axes",
        "tile",
        "transpose",
        "unflatten",
        "unstack",
        "sign",
        "floor",
        "ceil",
        "trunc",
        "rint",
        "round",
        "cast",
    ]
)


def broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        return int(np.prod(np.broadcast_shapes(a, b), dtype=int)) <= LARGEST
    except ValueError:
        return False


def usable(array: np.ndarray | None) -> bool:
    """Whether a value is worth building on."""
    if array is None or array.dtype.kind != "f":
        return array is not None
    return bool(np.all(np.isfinite(array))) and (
        array.size == 0 or float(np.max(np.abs(array))) <= LARGEST_VALUE
    )


def random_case(seed: int, steps: int, *, gradients: bool = False, special: bool = False) -> Case:
    """The graph of a seed: `steps` operations, then targets, gradients and assignments."""
    from random_operations import MAKERS, SMOOTH, SPECIALS

    builder = Builder(seed, steps, gradients, special)
    makers = SPECIALS if special else SMOOTH if gradients else MAKERS
    case = builder.grow(makers)
    if gradients:
        _differentiate(builder)
    _choose_targets(builder)
    _choose_assigns(builder)
    _choose_reads(builder)
    return case


def _differentiate(b: Builder) -> None:
    """Gradients of one tensor with respect to some of the leaves below it."""
    leaves = [t for t in (*b.case.feeds, *b.case.initial) if t.dtype.is_float]
    of = b.any(lambda t: t.dtype.is_float and not b.is_exact(t))
    if of is None or not leaves:
        return
    try:
        found = b.graph.gradients(of, leaves)
    except NielloError:
        return  # a path through an operation that has no gradient
    tensors = list(dict.fromkeys(found.values()))
    known = dict(b.case.values)
    values = evaluate(tensors, known)
    for t, value in zip(tensors, values, strict=True):
        b.case.values.setdefault(t, value)
        if usable(value):
            b.pool.append(t)
            if b.chance(0.7):
                b.case.targets.append(t)


def _choose_targets(b: Builder) -> None:
    for _ in range(b.integer(1, 4)):
        b.case.targets.append(b.pool[-1] if b.chance(0.4) else b.pick(b.pool))
    if b.chance(0.8):
        b.case.targets = list(dict.fromkeys(b.case.targets))


def _choose_assigns(b: Builder) -> None:
    for variable in list(b.case.initial):
        if b.chance(0.3):
            continue
        for _ in range(2 if b.chance(0.1) else 1):
            value = b.any(lambda t, v=variable: t.type == v.type and t is not v)
            if value is None or b.chance(0.5):
                mine = b.any(lambda t, v=variable: t.dtype is v.dtype and fits(t.shape, v.shape))
                if variable.dtype is nl.bool_:
                    value = ~variable
                else:
                    value = variable - (variable if mine is None else mine)
            missing = [t for t in [value] if t not in b.case.values]
            for t, array in zip(missing, evaluate(missing, b.case.values), strict=True):
                b.case.values[t] = array
            controls = b.case.operations[-1:] if b.chance(0.2) else []
            with b.graph.control_dependencies(controls):
                operation = variable.assign(value)
            b.case.assigns.append((variable, value, operation))


def _choose_reads(b: Builder) -> None:
    """Fetch some variables, before (as operands) and after (as ordered reads) their assignment."""
    last = {variable: (value, operation) for variable, value, operation in b.case.assigns}
    for variable, (value, operation) in last.items():
        if b.chance(0.2):
            b.case.targets.append(variable)
        if b.chance(0.3):
            with b.graph.control_dependencies([operation]):
                read = variable.read()
            b.case.values[read] = b.case.values[value]
            b.case.reads[read] = value
            b.case.targets.append(read)


def fits(shape: Any, wanted: Any) -> bool:
    try:
        return np.broadcast_shapes(shape, wanted) == tuple(wanted)
    except ValueError:
        return False
