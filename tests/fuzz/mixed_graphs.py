"""Random graphs of everything: every registered operation, every dtype, control flow, unknown
sizes.

Each graph has one operation in its focus, in turn of the registry, so that as many graphs as there
are operations draw every one of them; what surrounds it is random. All values are known while a
graph grows, and also what rounding noise makes of them (shaken_values.py): what is too large, not
finite or ill-conditioned is not built on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import random_graphs
from random_graphs import LARGEST, LARGEST_VALUE, Builder, Case
from rebuilt_cases import loosened, rebuilt
from shaken_values import Shake, as_wide, epsilon, run_operation, values_of

import niello as nl
from niello.core.dtypes import DType
from niello.core.dtypes import dtype as dtype_of
from niello.core.errors import NielloError, NotDifferentiable, ShapeError
from niello.graph.opdef import Trait
from niello.graph.region import RegionGraph, RegionOp
from niello.graph.structural import Placeholder, VariableOp
from niello.graph.tensor import Tensor

MOST_RANK = 10  # of what is built on
SHAKES = 2  # noisy evaluations that run along while a graph grows
LOUD = 8.0  # their noise, in that of the comparison
# How far noise may move the elements of a tensor that is built on, in units of itself.
MOST_GROWTH = 1024.0
MOST_GROWTH_HALF = 6.0
# Elsewhere a weight of zero may, or may not, make NaN of an infinity.
DEFINED_ON_SPECIALS = Trait.ELEMENTWISE | Trait.MOVEMENT | Trait.REDUCTION
FLOATS = (nl.float32, nl.float32, nl.float32, nl.float64, nl.float64, nl.float16, nl.bfloat16)
WORDS = (nl.int32, nl.int32, nl.int64, nl.int8, nl.uint8, nl.int16, nl.uint16, nl.uint32, nl.uint64)
PAIRS = (nl.complex64, nl.complex64, nl.complex128)


class MixedBuilder(Builder):
    """Grows a graph of all operations, with regions inside."""

    def __init__(self, seed: int, steps: int, dtypes: Sequence[DType] | None = None) -> None:
        super().__init__(seed, steps, smooth=False)
        self.case.shaken = [{} for _ in range(SHAKES)]
        self.shakes = [Shake(seed + 1 + i, LOUD) for i in range(SHAKES)]
        self.depth = 0  # of regions around what is made now
        self.ends: list[Tensor] = []  # results that nothing is built on
        self.allowed = dtypes  # None: all
        self.dtypes = self._theme()

    def _theme(self) -> list[DType]:
        """A few dtypes that the leaves of this graph have, so that they meet."""
        found = [self.pick(FLOATS)]
        found += [self.pick(FLOATS)] if self.chance(0.5) else []
        found += [self.pick(WORDS), nl.bool_]
        found += [self.pick(PAIRS)] if self.chance(0.3) else []
        if self.chance(0.2):
            found = [nl.float64, nl.int32, nl.bool_]  # gradients meet finite differences
        return [d for d in found if self.has(d)] or [nl.float32]

    def has(self, dtype: DType) -> bool:
        """Whether the devices of this run have a dtype."""
        return self.allowed is None or dtype.plane in self.allowed

    # --- leaves
    def array(self, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
        if dtype.is_complex:
            parts = [super(MixedBuilder, self).array(shape, nl.float32) for _ in "ab"]
            return np.asarray(parts[0] + 1j * parts[1]).astype(dtype.numpy)
        if dtype.is_integer and not dtype.is_storage and self.chance(0.05):
            return self.rng.integers(dtype.min, dtype.max, shape, endpoint=True, dtype=dtype.numpy)
        if dtype.is_integer and not dtype.is_signed:
            return self.rng.integers(0, 10, shape).astype(dtype.numpy)
        return super().array(shape, dtype)

    def leaf(self, shape: tuple[int, ...] | None = None, dtype: DType | None = None) -> Tensor:
        shape = self.shape() if shape is None else shape
        dtype = self.pick(self.dtypes) if dtype is None else dtype
        return self.leaf_of(self.array(shape, dtype))

    def leaf_of(self, array: np.ndarray, constant: bool = False) -> Tensor:
        """A tensor that holds an array: fed, stored in a variable, or part of the graph."""
        kinds = ("placeholder", "placeholder", "constant", "variable")
        kind = "constant" if constant or self.depth else self.pick(kinds)
        if kind == "placeholder":
            made = self.graph.placeholder(array.shape, array.dtype)
            self.case.feeds[made] = array
        elif kind == "variable" and not dtype_of(array.dtype).is_storage:
            made = self.graph.variable(array)
            self.case.initial[made] = array
        else:
            made = self.graph.constant(array)
        self.keep(made, array, exact=True)
        if made.dtype.is_storage or made.rank > MOST_RANK:  # few operations take it
            self.pool.remove(made)
        return made

    def keep(self, tensor: Tensor, value: np.ndarray, exact: bool) -> Tensor:
        for known in self.case.shaken:
            known[tensor] = value
        return super().keep(tensor, value, exact)

    def floating(self, shape: tuple[int, ...] | None = None, rank: int | None = None) -> Tensor:
        found = self.any(
            lambda t: t.dtype.is_float and shape in (None, t.shape) and rank in (None, t.rank)
        )
        if found is not None and self.chance(0.85):
            return found
        floats = [d for d in self.dtypes if d.is_float] or [nl.float32]
        return self.leaf(self.shape(rank) if shape is None else shape, self.pick(floats))

    # --- growing
    def step(self, maker: Callable[[Builder], Any]) -> bool:
        graph = self.graph.innermost
        before = len(graph.operations)
        found = maker(self)
        if found is None:
            return False
        self.know(graph, before)
        tensors = [found] if isinstance(found, Tensor) else list(found)
        plain = [t for t in tensors if self.worth(t)]
        plain = [t for t in plain if t.type.is_static and not t.dtype.is_storage]
        plain = [t for t in plain if t.rank <= MOST_RANK]
        self.pool += [t for t in plain if t not in self.pool[-8:]]
        last = [t for t in tensors if t not in plain and not self.depth and self.worth(t, True)]
        self.ends += last
        return bool(plain or last)

    def know(self, graph: Any, before: int = 0) -> None:
        """Evaluate the operations of a graph from number `before` on."""
        self._captures(graph)
        for operation in graph.operations[before:]:
            if all(t in self.case.values for t in operation.outputs):
                continue
            if isinstance(operation.op, (Placeholder, VariableOp)):
                continue
            self._run(operation, self.case.values, None)
            for shake, known in zip(self.shakes, self.case.shaken, strict=True):
                self._run(operation, known, shake)
            self._exact(operation)

    def _run(self, operation: Any, known: dict[Tensor, np.ndarray], shake: Shake | None) -> None:
        for t in operation.inputs:
            if t not in known:  # a constant that something else made, and this shares
                self._run(t.operation, known, None)
        arrays = [known[t] for t in operation.inputs]
        found = run_operation(operation, arrays, self.case.callables, shake)
        for t, array in zip(operation.outputs, found, strict=True):
            known.setdefault(t, array)

    def _captures(self, graph: Any) -> None:
        """Values of what a region takes from the graphs around it."""
        if not isinstance(graph, RegionGraph):
            return
        self._captures(graph.outer)
        for outside, inside in graph.captured.items():
            for known in (self.case.values, *self.case.shaken):
                known.setdefault(inside, known[outside])
            if outside in self.case.exact:
                self.case.exact.add(inside)

    def _exact(self, operation: Any) -> None:
        if isinstance(operation.op, RegionOp) or not all(map(self.is_exact, operation.inputs)):
            return
        whole = not any(t.dtype.is_inexact for t in operation.inputs)
        for t in operation.outputs:
            moved = operation.op.name in random_graphs.EXACT
            moved |= Trait.MOVEMENT in operation.op.traits
            if moved or (whole and not t.dtype.is_inexact):
                self.case.exact.add(t)

    def worth(self, t: Tensor, special: bool = False) -> bool:
        """Whether a tensor is worth building on: small, finite, and not moved far by noise. With
        `special` it may hold infinities and NaN, which is good for a result."""
        array = self.value(t)
        if array.size > LARGEST * 4:
            return False
        special = special and bool(t.operation.op.traits & DEFINED_ON_SPECIALS)
        shaken = [known[t] for known in self.case.shaken]
        return steady(array, shaken, LOUD, special)

    # --- several tensors as one asks for them
    def fit(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Elements of `t` as a tensor of another shape, by views where it can be."""
        wanted, size = int(np.prod(shape, dtype=int)), t.type.elements
        if t.shape == shape:
            return t
        if size == 1 and self.chance(0.5) and wanted:
            return t.reshape((1,) * len(shape)).broadcast_to(shape)
        if wanted and not size:
            return self.leaf(shape, t.dtype)
        flat = t.reshape((size,)) if t.rank != 1 else t
        if wanted > size:
            flat = flat.tile([-(-wanted // size)])
            size = flat.type.elements
        start = self.integer(0, size - wanted)
        cut = flat[start : start + wanted]
        if self.chance(0.3) and wanted > 1:
            cut = cut.reverse()
        return cut.reshape(shape)


def steady(
    array: np.ndarray, shaken: Sequence[np.ndarray], loud: float, special: bool = False
) -> bool:
    """Whether values are finite (unless `special`), not large, and not moved far by noise of
    strength `loud`."""
    found = dtype_of(array.dtype)
    if not found.is_inexact:
        return all(np.array_equal(array, s) for s in shaken)
    if found.is_storage:
        return all(array.tobytes() == s.tobytes() for s in shaken)
    wide, moved = as_wide(array), [as_wide(s) for s in shaken]
    finite = np.isfinite(wide)
    if not np.all(finite):
        if not special or not all(same_specials(wide, m) for m in moved):
            return False
        wide, moved = wide[finite], [m[finite] for m in moved]
    largest = float(np.abs(wide).max(initial=0.0))
    if largest > LARGEST_VALUE:
        return False
    growth = MOST_GROWTH_HALF if found.plane.is_half else MOST_GROWTH
    allowed = growth * loud * epsilon(array) * largest
    return all(np.abs(m - wide).max(initial=0.0) <= allowed for m in moved)


def same_specials(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are infinite and NaN at the same places."""
    finite = np.isfinite(a)
    return bool(
        np.array_equal(finite, np.isfinite(b))
        and np.array_equal(a[~finite], b[~finite], equal_nan=True)
    )


def mixed_case(seed: int, dtypes: Sequence[DType] | None = None) -> Case:
    """The graph of a seed. `dtypes` are those that the device to compare has (None: all).

    Seeds go through the operations, and then through the dtypes of each.
    """
    from mixed_operations import focus_makers, focus_names, surroundings

    names = focus_names()
    focus, turn = names[seed % len(names)], seed // len(names)
    builder = MixedBuilder(seed, 1 + seed % 9, dtypes)
    for _ in range(builder.integer(1, 3)):
        builder.leaf()
    makers = surroundings()
    split = builder.integer(0, builder.steps)
    _grow(builder, makers, split)
    for maker in focus_makers(focus, turn):
        if builder.step(maker):
            builder.case.focus = focus
            break
    _grow(builder, makers, builder.steps - split)
    random_graphs._choose_assigns(builder)
    if builder.chance(0.25):
        _loosen(builder)
    if builder.chance(0.5):
        _differentiate(builder)
    random_graphs._choose_targets(builder)
    builder.case.targets += builder.ends[:2]
    random_graphs._choose_reads(builder)
    _fetch_focus(builder)
    return builder.case


def _grow(b: MixedBuilder, makers: Sequence[Callable[[Builder], Any]], steps: int) -> None:
    made = 0
    for _ in range(steps * 4):
        if made >= steps:
            return
        made += b.step(b.pick(makers))


def _loosen(b: MixedBuilder) -> None:
    """The case with sizes and ranks of its placeholders unknown, as far as its operations go
    without them."""
    types = dict(loosened(b.case, b.rng))
    keep = [*b.pool, *b.ends, *b.case.feeds, *b.case.initial]
    while types:
        try:
            case, tensors = rebuilt(b.case, keep, b.case.assigns, types=types)
        except NielloError:  # an operation that must know: fewer of them
            types.pop(b.pick(list(types)))
            continue
        b.case, b.graph = case, case.graph
        b.pool = [tensors[t] for t in b.pool]
        b.ends = [tensors[t] for t in b.ends]
        return


def _differentiate(b: MixedBuilder) -> None:
    """Gradients of one tensor with respect to the leaves below it, as targets."""
    case = b.case
    leaves = [t for t in (*case.feeds, *case.initial) if t.dtype.is_inexact]
    leaves = [t for t in leaves if not t.dtype.is_storage]
    of = b.any(lambda t: t.dtype.is_float and not t.dtype.is_storage and not b.is_exact(t))
    if of is None or not leaves:
        return
    try:
        found = b.graph.gradients(of, leaves)
    except NotDifferentiable:
        return
    except ShapeError:
        if all(t.type.is_static for t in case.feeds):
            raise
        return  # a gradient that needs sizes
    b.case.derivative = (of, found)
    tensors = [t for t in dict.fromkeys(found.values()) if t not in case.values]
    for t, value in zip(tensors, values_of(tensors, case.values, case.callables), strict=True):
        case.values[t] = value
    for shake, known in zip(b.shakes, case.shaken, strict=True):
        for t, value in zip(tensors, values_of(tensors, known, case.callables, shake), strict=True):
            known[t] = value
    case.targets += [t for t in dict.fromkeys(found.values()) if b.worth(t) and b.chance(0.8)]


def _fetch_focus(b: MixedBuilder) -> None:
    """The result of the operation in the focus is a target, where it is not one already."""
    made = [t for t in (*b.pool, *b.ends) if t.operation.op.name == b.case.focus]
    if made and not set(made) & set(b.case.targets):
        b.case.targets.append(b.pick(made))
