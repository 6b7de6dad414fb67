"""Code that looks for indices outside of what they index (CompileOptions.check_indices).

Operations say what their indices may be (`Op.index_bounds`). For each of their index tensors two
numbers are computed beside the result: the row-major position of the first index that is outside,
or -1, and that index. All of them form one further target, which the executable reads after a run.
Operations inside of branches and loops are not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from niello.core.dtypes import int32, int64
from niello.core.errors import IndexOutOfRange
from niello.core.shapes import show
from niello.graph.opdef import IndexBounds
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.ops.concat import concat
from niello.ops.coordinate import coordinate_like
from niello.ops.select import where
from niello.passes.computation import Computation, Rebuild


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


@dataclass
class CheckIndices:
    """Adds the target; `found` then holds what it says, two numbers for each entry."""

    found: list[IndexCheck] = field(default_factory=list)

    def __call__(self, source: Computation) -> Computation:
        reports: list[Tensor] = []

        def visit(
            rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
        ) -> Sequence[Tensor] | None:
            limits = operation.op.index_bounds(*(t.type for t in inputs))
            if not limits:
                return None
            made = rebuild.copy(operation, inputs)
            for bounds in limits:
                index, named = inputs[bounds.input], operation.inputs[bounds.input]
                if index.type.elements:
                    reports.append(_report(index, bounds))
                    shape = index.type.static_shape
                    entry = IndexCheck(operation.name, named.name, shape, bounds, operation.where)
                    self.found.append(entry)
            return made.outputs

        made = Rebuild(source).run(visit)
        if not reports:
            return made
        wide = int64 if any(r.dtype is int64 for r in reports) else int32
        target = concat([r if r.dtype is wide else r.cast(wide) for r in reports])
        return Computation(made.graph, made.inputs, (*made.targets, target), made.operations)


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
