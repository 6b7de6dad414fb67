"""The operations with regions: a branch, a loop, and a call of another computation.

`niello.if_`, `while_`, `for_`, `scan` and `call` (ops/control_flow.py) make them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, DType, int32
from niello.core.errors import DTypeError, GraphError, NielloError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, merge_shapes, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, register
from niello.graph.region import Region, RegionOp

WORD = TensorType((), int32)  # predicates and counts


def _word(asked: str, what: str, found: TensorType) -> None:
    if found != WORD and (found.dtype is not int32 or found.shape is not None):
        raise DTypeError(
            asked,
            f"{what} must be a single int32",
            received=str(found),
            advice="Reshape it to [] and cast it",
        )


def _same_count(asked: str, what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise GraphError(asked, f"{what} must be {wanted} tensors", received=f"{found}")


def merged(asked: str, what: str, a: TensorType, b: TensorType, advice: str) -> TensorType:
    """The more precise of two types that must be one. Raises DTypeError and ShapeError."""
    if a.dtype is not b.dtype:
        raise DTypeError(asked, what, received=f"{a} and {b}", advice=advice)
    try:
        return TensorType(merge_shapes(a.shape, b.shape, asked), a.dtype)
    except ShapeError as error:
        raise ShapeError(asked, what, received=f"{a} and {b}", advice=advice) from error


@register
@frozen
class If(RegionOp):
    """One of two regions, by a word. Both take all inputs but the first."""

    then: Region
    otherwise: Region
    name: ClassVar[str] = "if"
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "The results of one of two regions: the first unless the word is zero."

    @property
    def regions(self) -> tuple[Region, ...]:
        return self.then, self.otherwise

    def with_regions(self, regions: Sequence[Region]) -> If:
        return If(*regions)

    def region_types(self, *inputs: TensorType) -> list[tuple[TensorType, ...]]:
        return [inputs[1:], inputs[1:]]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        _word("if", "the predicate", inputs[0])
        for region in self.regions:
            _same_count("if", "its inputs", len(region.parameters), len(inputs) - 1)
        first, second = self.then.result_types, self.otherwise.result_types
        if len(first) != len(second):
            raise GraphError(
                "if_",
                "both branches must return as many tensors",
                received=f"{len(first)} from then, {len(second)} from otherwise",
            )
        return tuple(
            merged(
                "if_",
                f"result {i} of the branches must have one type",
                a,
                b,
                "Cast, reshape or pad in one of the branches",
            )
            for i, (a, b) in enumerate(zip(first, second, strict=True))
        )

    def reference(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        word, *rest = arrays
        return run_region(self.then if word.item() else self.otherwise, rest)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return ()


@frozen
class Parts:
    """The inputs of a loop, or the parameters of its body, by what they are."""

    count: Any  # of iterations; in the body, the index of the iteration
    scanned: tuple[Any, ...]
    carried: tuple[Any, ...]
    captured: tuple[Any, ...]


@register
@frozen
class Loop(RegionOp):
    """A region repeated, with values carried from each iteration to the next.

    Inputs: the number of iterations (when `counted`), `scanned` tensors, of which iteration i takes
    slice i along the first axis, `carried` initial values, and captured tensors.
    `body` takes the index of the iteration (int32), the slices, the carried values and the
    captured tensors; it gives the next carried values, and what is stacked.
    `condition` (or none) takes the carried values and captured tensors, and gives a word: the loop
    ends before the first iteration where it is zero.

    Results: the last carried values; each stacked value along a new first axis of `length` (or of
    the size of the scanned tensors' first), zeros where no iteration ran; and, with a condition,
    the number of iterations.

    The loop runs as often as the least of what is given says: `length`, the scanned tensors' first
    axis, the count, the condition. With `reverse` the index runs down to 0.
    """

    body: Region
    condition: Region | None
    carried: int
    scanned: int
    counted: bool
    length: int | None
    reverse: bool
    name: ClassVar[str] = "loop"
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "A region repeated by a count, a condition or the slices of its inputs, with carried "
        "values and stacked results."
    )

    @property
    def regions(self) -> tuple[Region, ...]:
        return (self.body,) if self.condition is None else (self.body, self.condition)

    def with_regions(self, regions: Sequence[Region]) -> Loop:
        condition = regions[1] if len(regions) > 1 else None
        return dataclasses.replace(self, body=regions[0], condition=condition)

    @property
    def stacked(self) -> int:
        """How many results of the body are stacked."""
        return len(self.body.results) - self.carried

    def parts(self, inputs: Sequence[Any]) -> Parts:
        """The inputs of the operation by what they are."""
        count = inputs[0] if self.counted else None
        return self._parts(count, inputs[int(self.counted) :])

    def body_parts(self) -> Parts:
        """The parameters of the body by what they are."""
        return self._parts(self.body.parameters[0], self.body.parameters[1:])

    def _parts(self, count: Any, rest: Sequence[Any]) -> Parts:
        first, second = self.scanned, self.scanned + self.carried
        return Parts(count, tuple(rest[:first]), tuple(rest[first:second]), tuple(rest[second:]))

    def trips(self, inputs: Sequence[TensorType]) -> int | None:
        """The largest number of iterations that is known, or None."""
        known = [t.shape[0] for t in self.parts(inputs).scanned if t.shape]
        return min((n for n in (*known, self.length) if n is not None), default=None)

    def region_types(self, *inputs: TensorType) -> list[tuple[TensorType, ...]]:
        parts = self.parts(inputs)
        slices = [TensorType(t.shape and t.shape[1:], t.dtype) for t in parts.scanned]
        found = [(WORD, *slices, *parts.carried, *parts.captured)]
        return found if self.condition is None else [*found, (*parts.carried, *parts.captured)]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        parts = self.parts(inputs)
        if self.counted:
            _word("loop", "the number of iterations", parts.count)
        for region, types in zip(self.regions, self.region_types(*inputs), strict=True):
            _same_count("loop", "the parameters", len(region.parameters), len(types))
        if self.condition is not None:
            _same_count("while_", "what the condition gives", len(self.condition.results), 1)
            _word("while_", "what the condition gives", self.condition.results[0].type)
        stack = self._stack_length(parts)
        after = self.body.result_types
        if len(after) < self.carried:
            raise GraphError(
                "loop",
                f"the body must return the {self.carried} values that it carries",
                received=f"{len(after)}",
            )
        final = [
            merged(
                "loop",
                f"carried value {i} must keep its type",
                a,
                b,
                "The body must return what it was given: cast, or start with the right type",
            )
            for i, (a, b) in enumerate(zip(parts.carried, after, strict=False))
        ]
        stacks = [
            TensorType(t.shape if t.shape is None else (stack, *t.shape), t.dtype)
            for t in after[self.carried :]
        ]
        return (*final, *stacks, *([] if self.condition is None else [WORD]))

    def _stack_length(self, parts: Parts) -> Dim:
        if self.length is not None and self.length < 0:
            raise ShapeError("loop", "the number of iterations is negative", received=self.length)
        for t in parts.scanned:
            if t.shape == ():
                raise ShapeError(
                    "scan", "a scanned tensor needs a first axis to take slices of", received=str(t)
                )
        sizes = {t.shape[0] for t in parts.scanned if t.shape and t.shape[0] is not None}
        if len(sizes | ({self.length} - {None})) > 1:
            raise ShapeError(
                "scan",
                "the first axes of the scanned tensors must be equal",
                received=" and ".join(show(t.shape) for t in parts.scanned),
                advice=f"The loop has {self.length} iterations" if self.length is not None else "",
            )
        if self.stacked and self.length is None and not parts.scanned:
            raise GraphError(
                "loop",
                "the stack of its results has no length",
                received="no length and no scanned tensors",
                advice="Give the largest number of iterations (maximum_iterations)",
            )
        return next(iter(sizes), self.length)

    def reference(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        parts = self.parts(arrays)
        known = [len(a) for a in parts.scanned]
        most = min((n for n in (*known, self.length) if n is not None), default=None)
        count = None if parts.count is None else max(int(parts.count), 0)
        total = min((n for n in (most, count) if n is not None), default=None)
        values, captured = list(parts.carried), parts.captured
        rows: list[tuple[int, tuple[np.ndarray, ...]]] = []
        done = 0
        while total is None or done < total:
            if self.condition is not None:
                (word,) = run_region(self.condition, [*values, *captured])
                if not word.item():
                    break
            i = total - 1 - done if self.reverse and total is not None else done
            slices = [a[i] for a in parts.scanned]
            found = run_region(self.body, [np.int32(i), *slices, *values, *captured])
            values = list(found[: self.carried])
            rows.append((i, found[self.carried :]))
            done += 1
        stacks = []
        types = self.body.result_types[self.carried :]
        if not rows and not all(t.is_static for t in types):
            # Sizes that no iteration showed: those of one on zeros.
            slices = [np.zeros(a.shape[1:], a.dtype) for a in parts.scanned]
            found = run_region(self.body, [np.int32(0), *slices, *values, *captured])
            types = tuple(TensorType(np.shape(a), np.asarray(a).dtype) for a in found)[
                self.carried :
            ]
        for n, t in enumerate(types):
            shape = rows[0][1][n].shape if rows else t.static_shape
            stacks.append(np.zeros((most or 0, *shape), t.dtype.numpy))
            for i, row in rows:
                stacks[-1][i] = row[n]
        return (*values, *stacks, *([] if self.condition is None else [np.int32(done)]))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return ()


def run_region(region: Region, arrays: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """The results of a region for values of its parameters, by the references of its operations."""
    from niello.graph.evaluate import evaluate

    given = {
        t: np.asarray(a, t.dtype.numpy) for t, a in zip(region.parameters, arrays, strict=True)
    }
    return tuple(evaluate(region.results, given))


@register
@frozen
class Call(Op):
    """Another computation, which compilation puts in its place by the name `symbol`.

    At `order` 0 the inputs and results are those of the computation. At each order above it, the
    inputs are those of the order below followed by weights for each of its results, and the
    results are gradients of the weighted sum for each floating-point input.
    """

    symbol: str
    types: tuple[TensorType, ...]
    order: int = 0
    name: ClassVar[str] = "call"
    traits: ClassVar[Trait] = Trait.STRUCTURAL | Trait.STATEFUL
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "The results of another computation, which is named when this is compiled."

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return self.types

    def reference(self, *arrays: np.ndarray) -> np.ndarray:
        raise NielloError(
            f"call {self.symbol!r}",
            "what it calls is known when the graph is compiled",
            advice="Compile it with callables=",
        )

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> Sequence[Any]:
        from niello.graph.opdef import functions

        weights = []
        for t, g in zip(outputs, gradients, strict=True):
            zero = t.graph.constant(0, t.dtype)
            weights.append(g if g is not None else functions()["broadcast_like"](zero, t))
        wanted = [t for t in inputs if t.dtype.is_float]
        op = Call(self.symbol, tuple(t.type for t in wanted), self.order + 1)
        found = iter(inputs[0].graph.add(op, (*inputs, *weights)).outputs if wanted else ())
        return [next(found) if t.dtype.is_float else None for t in inputs]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return ()
