"""Branches and loops, as If and Loop. What a body takes from outside, it takes by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.values import code_of
from niello.frontends.onnx.writer import Unwritable, Writer, writes


def _graph(name: str, nodes: Sequence[Any], inputs: Any, outputs: Any) -> Any:
    """A body; inputs and outputs are (name, tensor) pairs."""
    from onnx import helper

    def infos(pairs: Any) -> list[Any]:
        return [helper.make_tensor_value_info(n, code_of(d), shape) for n, d, shape in pairs]

    return helper.make_graph(list(nodes), name, infos(inputs), infos(outputs))


def _named(w: Writer, nodes: list[Any], names: Sequence[str], tensors: Any) -> list[Any]:
    """Outputs of a body under names of their own, whatever computes them."""
    from onnx import helper

    found = []
    for name, t in zip(names, tensors, strict=True):
        own = w.unique(f"{w.prefix}.result")
        nodes.append(helper.make_node("Identity", [name], [own], own))
        found.append((own, t.dtype, t.shape))
    return found


def _check(o: nl.Operation) -> None:
    op: Any = o.op
    if op.has_effects:
        raise Unwritable("ONNX has no variables to assign")


@writes("if")
def if_(w: Writer, o: nl.Operation, predicate: str, *captured: str) -> tuple[str, ...]:
    """If."""
    _check(o)
    op: Any = o.op
    prefix, bodies = w.prefix, []
    for region in (op.then, op.otherwise):
        nodes, names = w.region(region, captured)
        w.prefix = prefix
        outputs = _named(w, nodes, names, region.results)
        bodies.append(_graph(w.unique(f"{prefix}.body"), nodes, [], outputs))
    condition = w.cast(predicate, nl.bool_)
    count = len(o.outputs)
    return w.outputs("If", (condition,), count, then_branch=bodies[0], else_branch=bodies[1])


@writes("loop")
def loop(w: Writer, o: nl.Operation, *names: str) -> tuple[str, ...]:
    """Loop, with its slices taken by Gather and its condition asked at the end of each step."""
    _check(o)
    op: Any = o.op
    prefix = w.prefix
    if op.stacked and (op.counted or op.condition is not None):
        raise Unwritable("ONNX stacks as many results as there are steps, and no zeros behind them")
    parts, types = op.parts(names), op.parts(o.inputs)
    trips = op.trips([t.type for t in o.inputs])
    limit = _limit(w, parts.count, trips)
    if op.reverse and (trips is None or op.counted or op.condition is not None):
        raise Unwritable("a loop that runs backward needs a known number of steps")

    inner = w.nodes
    body: list[Any] = []
    w.nodes = body
    step, going = w.unique(f"{prefix}.step"), w.unique(f"{prefix}.going")
    place = step
    if op.reverse:
        place = w.node("Sub", w.weight(np.array((trips or 0) - 1, np.int64)), step)
    slices = [w.node("Gather", n, place, axis=0) for n in parts.scanned]
    carried = [w.unique(f"{prefix}.carried") for _ in parts.carried]
    given = [w.cast(place, nl.int32), *slices, *carried, *parts.captured]
    nodes, results = w.region(op.body, given)
    w.prefix = prefix
    body += nodes
    on = going
    if op.condition is not None:
        asked, (word,) = w.region(op.condition, [*results[: op.carried], *parts.captured])
        w.prefix = prefix
        body += asked
        on = w.cast(word, nl.bool_)
    counter = op.condition is not None
    inputs = [(step, nl.int64, ()), (going, nl.bool_, ())]
    inputs += [(n, t.dtype, t.shape) for n, t in zip(carried, types.carried, strict=True)]
    outputs = _named(w, body, [on], [_Like(nl.bool_, ())])
    outputs += _named(w, body, results[: op.carried], types.carried)
    if counter:
        steps = w.unique(f"{prefix}.steps")
        inputs.append((steps, nl.int32, ()))
        more = w.node("Add", steps, w.weight(np.array(1, np.int32)))
        outputs += _named(w, body, [more], [_Like(nl.int32, ())])
    outputs += _named(w, body, results[op.carried :], op.body.results[op.carried :])
    w.nodes = inner
    return _written(w, o, body, inputs, outputs, limit, parts)


def _written(
    w: Writer, o: nl.Operation, body: list[Any], inputs: Any, outputs: Any, limit: str, parts: Any
) -> tuple[str, ...]:
    op: Any = o.op
    prefix = w.prefix
    start = ""
    given = list(parts.carried)
    if op.condition is not None:
        nodes, (word,) = w.region(op.condition, [*parts.carried, *parts.captured])
        w.prefix = prefix
        w.nodes += nodes
        start = w.cast(word, nl.bool_)
        given.append(w.weight(np.array(0, np.int32)))
    graph = _graph(w.unique(f"{prefix}.body"), body, inputs, outputs)
    found = w.outputs("Loop", (limit, start, *given), len(outputs) - 1, body=graph)
    if op.reverse:
        ends = (w.integers(-1), w.integers(-(2**62)), w.integers(0), w.integers(-1))
        turned = (w.node("Slice", n, *ends) for n in found[op.carried :])
        return (*found[: op.carried], *turned)
    return found


class _Like:
    """The type of a tensor that the graph itself does not have."""

    def __init__(self, dtype: nl.DType, shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape


def _limit(w: Writer, count: str | None, trips: int | None) -> str:
    """The largest number of steps, as int64; an empty name for no limit."""
    known = "" if trips is None else w.weight(np.array(trips, np.int64))
    if count is None:
        return known
    asked = w.cast(count, nl.int64)
    return w.node("Min", asked, known) if known else asked
