"""Code that looks for indices outside of what they index (CompileOptions.check_indices).

Operations say what their indices may be (`Op.index_bounds`). For each of their index tensors two
numbers are computed beside the result: the row-major position of the first index that is outside,
or -1, and that index. All of them form one further target, which the executable reads after a run.

Operations inside of branches and loops are checked too. Their numbers leave a branch as a further
result (-1 where the other one ran), and a loop as a further carried value, which keeps what the
first iteration with an index outside found; a loop with a condition ends there. Of a condition,
the evaluation that ends a loop with a largest number of iterations is not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from niello.core.dtypes import DType, int32, int64
from niello.core.errors import IndexOutOfRange
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.control_flow import If, Loop
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import IndexBounds
from niello.graph.operation import Operation
from niello.graph.region import Region, inline
from niello.graph.structural import Placeholder
from niello.graph.tensor import Tensor
from niello.ops.concat import concat
from niello.ops.coordinate import coordinate_like
from niello.ops.define import cast_to
from niello.ops.select import where
from niello.passes.computation import Computation, Rebuild
from niello.passes.regions import computation_of, region_of


@dataclass(frozen=True)
class IndexCheck:
    """One index tensor of one operation."""

    operation: str
    tensor: str
    shape: tuple[int, ...]
    bounds: IndexBounds
    line: str

    def error(self, position: int, value: int) -> IndexOutOfRange:
        """What the index at a row-major position is refused with."""
        at = [int(i) for i in np.unravel_index(position, self.shape)]
        sizes = self.bounds.sizes
        size = sizes[at[-1]] if self.bounds.points else sizes[0]
        return IndexOutOfRange(
            self.operation,
            f"an index is outside of an axis of size {size}",
            received=f"{value} at {show(tuple(at))} of {self.tensor}",
            advice=f"Use an index from {-size} to {size - 1}" if size else "The axis is empty",
            where=self.line,
            operation=self.operation,
            index=value,
            size=size,
            position=tuple(at),
        )


@dataclass(frozen=True)
class _Reports:
    """A computation whose last target, where there are checks, holds two numbers for each."""

    computation: Computation
    checks: tuple[IndexCheck, ...]

    @property
    def vector(self) -> Tensor:
        """The numbers."""
        return self.computation.targets[-1]


@dataclass
class CheckIndices:
    """Adds the target; `found` then holds what it says, two numbers for each entry."""

    found: list[IndexCheck] = field(default_factory=list)

    def __call__(self, source: Computation) -> Computation:
        made = _Walk().checked(source)
        self.found.extend(made.checks)
        return made.computation


class _Walk:
    """The checks of one computation, or of one region, in order."""

    def __init__(self) -> None:
        self.reports: list[Tensor] = []
        self.checks: list[IndexCheck] = []

    def checked(self, source: Computation) -> _Reports:
        """The computation with the target of its checks."""
        made = Rebuild(source).run(self._visit)
        if not self.reports:
            return _Reports(made, ())
        wide = int64 if any(r.dtype is int64 for r in self.reports) else int32
        target = concat([cast_to(r, wide) for r in self.reports])
        whole = Computation(made.graph, made.inputs, (*made.targets, target), made.operations)
        return _Reports(whole, tuple(self.checks))

    def _visit(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        op = operation.op
        if isinstance(op, If):
            return self._branches(rebuild, operation, op, inputs)
        if isinstance(op, Loop):
            return self._loop(rebuild, operation, op, inputs)
        limits = op.index_bounds(*(t.type for t in inputs))
        if not limits:
            return None
        made = rebuild.copy(operation, inputs)
        for bounds in limits:
            index, named = inputs[bounds.input], operation.inputs[bounds.input]
            if index.type.elements:
                shape = index.type.static_shape
                check = IndexCheck(operation.name, named.name, shape, bounds, operation.where)
                self._add(_report(index, bounds), [check])
        return made.outputs

    def _add(self, report: Tensor, checks: Sequence[IndexCheck]) -> None:
        self.reports.append(report)
        self.checks.extend(checks)

    # --- regions
    def _branches(
        self, rebuild: Rebuild, operation: Operation, op: If, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        both = [_Walk().checked(computation_of(r)) for r in op.regions]
        if not any(side.checks for side in both):
            return None
        kinds = {side.vector.dtype for side in both if side.checks}
        wide = int64 if int64 in kinds else int32
        regions = []
        for number, side in enumerate(both):
            made, count = side.computation, len(side.checks)
            none = _nothing(made.graph, len(both[1 - number].checks), wide)
            parts = [cast_to(side.vector, wide)] if count else []
            parts.insert(len(parts) if number == 0 else 0, none)
            results = made.targets[:-1] if count else made.targets
            regions.append(region_of(replace(made, targets=(*results, concat(parts)))))
        outputs = rebuild.copy(operation, inputs, op.with_regions(regions)).outputs
        self._add(outputs[-1], [*both[0].checks, *both[1].checks])
        return outputs[:-1]

    def _loop(
        self, rebuild: Rebuild, operation: Operation, op: Loop, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        body = _Walk().checked(computation_of(op.body))
        tested = None if op.condition is None else _Walk().checked(computation_of(op.condition))
        checks = [*body.checks, *(tested.checks if tested is not None else ())]
        if not checks:
            return None
        region = _carrying(op, body, tested)
        report = region.parameters[1 + op.scanned + op.carried].type
        start = int(op.counted) + op.scanned + op.carried
        first = _nothing(rebuild.graph, len(checks), report.dtype)
        made = replace(
            op,
            body=region,
            condition=None if op.condition is None else _ending(op, op.condition, report),
            carried=op.carried + 1,
        )
        outputs = rebuild.copy(operation, (*inputs[:start], first, *inputs[start:]), made).outputs
        self._add(outputs[op.carried], checks)
        endless = op.length is None and not op.counted and not op.scanned
        if endless and tested is not None and tested.checks:
            after = [*outputs[: op.carried], *inputs[start:]]
            (last,) = inline(rebuild.graph, _only_report(tested), after)
            self._add(last, tested.checks)
        return (*outputs[: op.carried], *outputs[op.carried + 1 :])


def _nothing(graph: GraphDefinition, count: int, dtype: DType) -> Tensor:
    """The numbers of so many checks that found nothing."""
    return graph.constant(np.tile([-1, 0], count).astype(dtype.numpy))


def _only_report(made: _Reports) -> Region:
    """A region that gives the numbers of its checks."""
    return Region(made.computation.graph, made.computation.inputs, [made.vector])


def _carrying(op: Loop, body: _Reports, tested: _Reports | None) -> Region:
    """The body of a loop with the numbers as its last carried value; those of the condition, which
    held before, are among them."""
    made = body.computation
    results = list(made.targets[:-1] if body.checks else made.targets)
    index, slices = made.inputs[0], made.inputs[1 : 1 + op.scanned]
    carried = made.inputs[1 + op.scanned : 1 + op.scanned + op.carried]
    captured = made.inputs[1 + op.scanned + op.carried :]
    parts = [body.vector] if body.checks else []
    if tested is not None and tested.checks:
        parts += inline(made.graph, _only_report(tested), [*carried, *captured])
    wide = int64 if any(p.dtype is int64 for p in parts) else int32
    new = concat([cast_to(p, wide) for p in parts])
    before = made.graph.add(Placeholder(new.type), where="").outputs[0]
    rows: Any = before.reshape((-1, 2))
    known = rows[:, :1] >= 0
    kept: Any = where(known, rows, new.reshape((-1, 2)))
    results.insert(op.carried, kept.reshape((-1,)))
    inputs = (index, *slices, *carried, before, *captured)
    return region_of(Computation(made.graph, inputs, tuple(results), made.operations))


def _ending(op: Loop, condition: Region, report: TensorType) -> Region:
    """The condition of a loop, which also ends it where an index was found outside: what is read
    there may never let it end."""
    made = Rebuild(computation_of(condition)).run(lambda *_: None)
    extra = made.graph.add(Placeholder(report), where="").outputs[0]
    inputs = (*made.inputs[: op.carried], extra, *made.inputs[op.carried :])
    rows: Any = extra.reshape((-1, 2))
    (word,) = made.targets
    goes_on = where(rows[:, 0].max() < 0, word, 0)
    return region_of(Computation(made.graph, inputs, (goes_on,), made.operations))


def _report(index: Tensor, bounds: IndexBounds) -> Tensor:
    """(position, value) of the first index outside, as a vector."""
    outside = _outside(index, bounds).reshape(-1)
    flat: Any = index.reshape(-1)
    kind = int64 if index.dtype.bits == 64 or index.dtype.name == "uint32" else int32
    number = coordinate_like(flat, 0, dtype=kind)
    count = index.type.elements
    first = where(outside, number, count).min(0, True)
    # Reading the value by a sum needs no index of its own.
    value = where(number.equal(first), flat.cast(kind), 0).sum(0, True)
    return concat([where(first < count, first, -1), value])


def _outside(index: Tensor, bounds: IndexBounds) -> Any:
    """Where an index is too large or too small; limits that the type cannot hold are met."""
    top, low = int(index.dtype.max), int(index.dtype.min)
    graph, sizes = index.graph, np.array(bounds.sizes, np.int64)
    most = np.minimum(sizes - 1, top)
    least = np.maximum(-sizes, low)
    # With size 0 everything is outside: above -1 and below 0.
    if not bounds.points:
        most, least = most[0], least[0]
    if low == 0:
        # An empty axis has no place for unsigned indices either.
        above = index > graph.constant(np.maximum(most, 0).astype(index.dtype.numpy))
        empty = graph.constant(sizes == 0 if bounds.points else bool(sizes[0] == 0))
        return above.logical_or(empty)
    above = index > graph.constant(np.asarray(most).astype(index.dtype.numpy))
    return above.logical_or(index < graph.constant(np.asarray(least).astype(index.dtype.numpy)))


def raise_for(report: np.ndarray, checks: Sequence[IndexCheck]) -> None:
    """Raise IndexOutOfRange for the first entry of a report that names an index."""
    for number, (position, value) in enumerate(report.reshape(-1, 2).tolist()):
        if position < 0:
            continue
        if number < len(checks):
            raise checks[number].error(position, value)
        raise IndexOutOfRange(
            "run", "an index is outside of the axis it indexes", received=value, index=value
        )
