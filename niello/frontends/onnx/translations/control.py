"""If, Loop and Scan.

What is decided by known values is decided while importing: one branch is taken, few steps are
unrolled. Otherwise they become Niello's branches and loops; and where those do not fit, because
shapes change from step to step or sequences are carried, the deciding values are taken from the
feeds of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.evaluate import NeedsValue
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.values import EMPTY, Value, dtype_of, show

# Loops of more steps become loops of the graph.
UNROLLED = 8


class _Undecided(Exception):
    """A loop's end depends on values that are computed."""


def known(at: Call, value: Value | None) -> np.ndarray | None:
    """The value of a tensor where it depends on no input of the model, else None."""
    if value is None:
        return None
    try:
        return at.importer.array(value, at)
    except NeedsValue:
        return None


def _truth(array: np.ndarray) -> bool:
    return bool(array.reshape(-1)[0])


def _tensors(at: Call, values: Sequence[Value]) -> list[nl.Tensor]:
    return [at.importer.tensor(v, at) for v in values]


# --- If
@translates("If", fold=False)
def if_(at: Call) -> tuple[Value, ...]:
    """One of two bodies."""
    condition = known(at, at.value(0))
    if condition is None:
        try:
            return _branches(at)
        except (NeedsValue, nl.errors.NielloError):
            condition = at.array(0)
    branch = "then_branch" if _truth(condition) else "else_branch"
    return tuple(at.importer.subgraph(at.body(branch), at.scope))


def _branches(at: Call) -> tuple[Value, ...]:
    """Both bodies, as branches of the graph."""

    def branch(name: str) -> Callable[[], list[nl.Tensor]]:
        def build() -> list[nl.Tensor]:
            with at.importer.region():
                return _tensors(at, at.importer.subgraph(at.body(name), at.scope))

        return build

    return tuple(nl.if_(at.tensor(0), branch("then_branch"), branch("else_branch")))


# --- Loop
@translates("Loop", fold=False)
def loop(at: Call) -> tuple[Value, ...]:
    """A body repeated at most so many times, while its condition holds."""
    limit = known(at, at.inputs[0]) if at.has(0) else np.array(np.iinfo(np.int64).max)
    start = known(at, at.inputs[1]) if at.has(1) else np.array(True)
    if limit is not None and start is not None:
        steps = int(limit.reshape(-1)[0]) if _truth(start) else 0
        try:
            if steps > UNROLLED:
                return _counted(at, steps)
            return _unrolled(at, steps, decide=known)
        except (NeedsValue, nl.errors.NielloError, _Undecided):
            pass
    try:
        return _while(at)
    except (NeedsValue, nl.errors.NielloError, _Undecided):
        return _by_values(at)


def _parts(at: Call) -> tuple[Any, list[Value], int]:
    """The body, the carried values, and the number of results that each step gives."""
    body = at.body("body")
    state: list[Value] = [EMPTY if v is None else v for v in at.inputs[2:]]
    return body, state, len(body.output) - 1 - len(state)


def _by_values(at: Call) -> tuple[Value, ...]:
    """Unrolled, by the values of what decides its end."""
    limit = at.known_ints(0)[0] if at.has(0) else None
    start = _truth(at.array(1)) if at.has(1) else True
    return _unrolled(at, limit if start else 0, decide=lambda call, v: call.importer.array(v, call))


def _unrolled(
    at: Call, limit: int | None, decide: Callable[[Call, Value], np.ndarray | None]
) -> tuple[Value, ...]:
    body, state, outputs = _parts(at)
    carried = len(state)
    scans: list[list[Value]] = [[] for _ in range(outputs)]
    step, going = 0, True
    while going and (limit is None or step < limit):
        given = [np.array(step, np.int64), np.array(True), *state]
        found = at.importer.subgraph(body, at.scope, given)
        condition = decide(at, found[0])
        if condition is None:
            raise _Undecided
        going = _truth(condition)
        state = found[1 : 1 + carried]
        for into, value in zip(scans, found[1 + carried :], strict=True):
            into.append(value)
        step += 1
    types = [o.type.tensor_type for o in body.output[1 + carried :]]
    stacked = [stack(at, values, t, 0) for values, t in zip(scans, types, strict=True)]
    return (*state, *stacked)


def _counted(at: Call, steps: int) -> tuple[Value, ...]:
    """A loop of the graph over a known number of steps, whose condition stays true."""
    body, state, _ = _parts(at)

    def step(index: nl.Tensor, slices: Any, values: Any) -> tuple[list[nl.Tensor], list[nl.Tensor]]:
        with at.importer.region():
            given = [nl.cast(index, nl.int64), np.array(True), *values]
            found = at.importer.subgraph(body, at.scope, given)
            condition = known(at, found[0])
            if condition is None or not _truth(condition):
                raise _Undecided
            made = _tensors(at, found[1:])
        return made[: len(state)], made[len(state) :]

    last, stacks = nl.scan([], _tensors(at, state), step, length=steps, graph=at.graph)
    return (*last, *stacks)


def _while(at: Call) -> tuple[Value, ...]:
    """A loop of the graph whose end is computed; it carries tensors and stacks nothing."""
    body, state, outputs = _parts(at)
    if outputs:
        raise _Undecided
    limit = nl.cast(nl.reshape(at.tensor(0), ()), nl.int64) if at.has(0) else None
    start = at.tensor(1) if at.has(1) else at.constant(np.array(True))
    initial = [at.constant(np.int64(0)), nl.reshape(start, ()), *_tensors(at, state)]

    def going(index: nl.Tensor, condition: nl.Tensor, *values: nl.Tensor) -> nl.Tensor:
        return condition if limit is None else nl.logical_and(condition, nl.less(index, limit))

    def step(index: nl.Tensor, condition: nl.Tensor, *values: nl.Tensor) -> list[nl.Tensor]:
        with at.importer.region():
            found = at.importer.subgraph(body, at.scope, [index, condition, *values])
            made = _tensors(at, found)
            return [index + 1, nl.reshape(nl.cast(made[0], nl.bool_), ()), *made[1:]]

    return tuple(nl.while_(initial, going, step, graph=at.graph)[2:])


def stack(at: Call, values: list[Value], declared: Any, axis: int) -> Value:
    """Results of all steps side by side; of no step, an empty tensor of the declared type."""
    if not values:
        inner = [d.dim_value for d in declared.shape.dim]
        return np.zeros((0, *inner), dtype_of(declared.elem_type).numpy)
    if all(isinstance(v, np.ndarray) for v in values):
        return np.stack(values, axis)  # type: ignore[arg-type]
    return nl.stack(_tensors(at, values), axis)


# --- Scan
@translates("Scan", since=9, fold=False)
def scan(at: Call) -> tuple[Value, ...]:
    """A body applied along axes of some inputs, with a state handed on."""
    count = at.integer("num_scan_inputs")
    states = len(at.inputs) - count
    return _scan(at, at.inputs[:states], at.inputs[states:])


@translates("Scan", since=8, fold=False)
def scan_8(at: Call) -> tuple[Value, ...]:
    """The first version runs over a batch."""
    count = at.integer("num_scan_inputs")
    inputs = at.inputs[1:]
    states = len(inputs) - count
    if at.has(0):
        raise at.refuse("sequence lengths of Scan 8 are not translated", at.known_ints(0))
    batch = at.sizes(inputs[0])[0]  # type: ignore[arg-type]
    results = []
    for i in range(batch):
        rows = [_row(at, v, i) for v in inputs]
        results.append(_scan(at, rows[:states], rows[states:]))
    return tuple(stack(at, list(each), None, 0) for each in zip(*results, strict=True))


def _row(at: Call, value: Value | None, i: int, axis: int = 0) -> Value:
    if isinstance(value, np.ndarray):
        return np.take(value, i, axis)
    if not isinstance(value, nl.Tensor):
        raise at.refuse("an input must be a tensor", show(value))
    return nl.squeeze(nl.slice(value, [i], [i + 1], axes=(axis,)), axis)


def _scan(at: Call, state: Any, sources: Any) -> tuple[Value, ...]:
    axes = at.ints("scan_input_axes", None) or [0] * len(sources)
    if at.sizes(sources[0])[axes[0]] > UNROLLED:
        try:
            return _scanned(at, state, sources)
        except (NeedsValue, nl.errors.NielloError):
            pass
    return _scan_unrolled(at, state, sources)


def _scanned(at: Call, state: Any, sources: Any) -> tuple[Value, ...]:
    """A loop of the graph."""
    body = at.body("body")
    outputs = len(body.output) - len(state)
    axes = at.ints("scan_input_axes", None) or [0] * len(sources)
    flips = at.ints("scan_input_directions", at.ints("directions", None)) or [0] * len(sources)
    moved = []
    for value, axis, flip in zip(_tensors(at, sources), axes, flips, strict=True):
        turned = nl.reverse(value, axis) if flip else value
        moved.append(_moved(turned, axis, 0))

    def step(index: Any, rows: Any, values: Any) -> tuple[list[nl.Tensor], list[nl.Tensor]]:
        with at.importer.region():
            made = _tensors(at, at.importer.subgraph(body, at.scope, [*values, *rows]))
        return made[: len(state)], made[len(state) :]

    last, stacks = nl.scan(moved, _tensors(at, state), step)
    out_axes = at.ints("scan_output_axes", None) or [0] * outputs
    out_flips = at.ints("scan_output_directions", None) or [0] * outputs
    ordered = []
    for found, axis, flip in zip(stacks, out_axes, out_flips, strict=True):
        ordered.append(_moved(nl.reverse(found, 0) if flip else found, 0, axis))
    return (*last, *ordered)


def _moved(x: nl.Tensor, source: int, target: int) -> nl.Tensor:
    """x with one axis at another place."""
    assert x.shape is not None
    rank = len(x.shape)
    order = [a for a in range(rank) if a != source % rank]
    order.insert(target % rank, source % rank)
    return x if order == list(range(rank)) else nl.transpose(x, order)


def _scan_unrolled(at: Call, state: Any, sources: Any) -> tuple[Value, ...]:
    body = at.body("body")
    outputs = len(body.output) - len(state)
    axes = at.ints("scan_input_axes", None) or [0] * len(sources)
    flips = at.ints("scan_input_directions", at.ints("directions", None)) or [0] * len(sources)
    out_axes = at.ints("scan_output_axes", None) or [0] * outputs
    out_flips = at.ints("scan_output_directions", None) or [0] * outputs
    steps = at.sizes(sources[0])[axes[0]]
    scans: list[list[Value]] = [[] for _ in range(outputs)]
    current = list(state)
    for step in range(steps):
        rows = [
            _row(at, v, steps - 1 - step if flip else step, axis)
            for v, axis, flip in zip(sources, axes, flips, strict=True)
        ]
        found = at.importer.subgraph(body, at.scope, [*current, *rows])
        current = found[: len(state)]
        for into, value in zip(scans, found[len(state) :], strict=True):
            into.append(value)
    stacked = []
    for i, values in enumerate(scans):
        listed = values[::-1] if out_flips[i] else values
        declared = body.output[len(state) + i].type.tensor_type
        stacked.append(stack(at, listed, declared, out_axes[i]))
    return (*current, *stacked)
