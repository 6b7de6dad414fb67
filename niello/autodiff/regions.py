"""Gradients through branches and loops: operations of the same kinds, made of the bodies' own.

A branch: the gradient chooses by the same predicate, and computes its branch again before walking
back through it.

A loop: the forward loop also stacks the carried values that each iteration began with, and its
products; the backward loop walks along the stacks in the other direction, computes the rest of each
iteration again, and carries the gradients of the carried and captured values. Where these are
products (autodiff/products.py), it stacks their operands instead. The loop that stacks is a second
operation on the same body, which passes/unite.py makes one with the first. All are loops again, to
any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from niello.autodiff.products import (
    Product,
    chosen,
    copied,
    product_of,
    reachable,
    size,
    turned,
    worth_keeping,
)
from niello.core.errors import NotDifferentiable
from niello.graph.control_flow import If, Loop
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import functions
from niello.graph.operation import Operation
from niello.graph.region import Region, RegionGraph, RegionOp, building, inline, needed
from niello.graph.structural import ReadVariable
from niello.graph.tensor import Tensor

Gradients = Sequence[Tensor | None]
# The reverse walk: weighted tensors, wanted tensors -> a gradient for each wanted one.
Reverse = Callable[[Sequence[tuple[Tensor, Tensor]], Sequence[Tensor]], Gradients]


def region_gradients(
    operation: Operation, incoming: Gradients, reached: set[Tensor], reverse: Reverse
) -> Gradients:
    """Gradient for each input of a branch or loop that is among the `reached` tensors."""
    op = operation.op
    assert isinstance(op, RegionOp)
    for region in op.regions:
        _refuse_reads(operation, region)
    if isinstance(op, If):
        return _branch(operation, op, incoming, reached, reverse)
    assert isinstance(op, Loop)
    return _LoopGradient(operation, op, incoming, reached, reverse).made()


def filled_like(t: Tensor, value: float) -> Tensor:
    """A tensor of the type of another, with one value everywhere."""
    if t.type.is_static:
        return t.graph.constant(value, t.dtype, shape=t.shape)
    return functions()["broadcast_like"](t.graph.constant(value, t.dtype), t)  # type: ignore[no-any-return]


def zeros_like(t: Tensor) -> Tensor:
    """Zeros of the type of a tensor."""
    return filled_like(t, 0)


def _refuse_reads(operation: Operation, region: Region) -> None:
    inside = needed(region, effects=False)
    nested = [i for o in inside if isinstance(o.op, RegionOp) for i in o.op.operations()]
    for o in (*inside, *nested):
        if isinstance(o.op, ReadVariable):
            raise NotDifferentiable(
                "gradients",
                f"{operation.name} reads variable {o.op.variable!r} inside, and its gradient, "
                "which computes the inside again, would read what the variable holds by then",
                received=o.name,
                advice="Read the variable before, and use that value inside or carry it",
                operation=operation.op.name,
            )


def _wanted(tensors: Sequence[Tensor], reached: set[Tensor]) -> list[int]:
    return [i for i, t in enumerate(tensors) if t.dtype.is_inexact and t in reached]


def _used(results: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[int]:
    """Positions of the parameters that results depend on."""
    if not parameters:
        return []
    region = Region(parameters[0].graph, parameters, results)
    inside = set(needed(region))
    return [i for i, p in enumerate(parameters) if p.operation in inside]


# --- branches
def _branch(
    operation: Operation, op: If, incoming: Gradients, reached: set[Tensor], reverse: Reverse
) -> Gradients:
    predicate, *captured = operation.inputs
    wanted = _wanted(captured, reached)
    if not wanted:
        return [None] * len(operation.inputs)
    graph = operation.graph.innermost
    unique = graph.unique_name("if")
    given = [(i, g) for i, g in enumerate(incoming) if g is not None]
    built = []
    for region, label in ((op.then, "then"), (op.otherwise, "else")):
        inner = RegionGraph(graph, f"{unique}/{label}")
        values = [inner.parameter(t.type, _last(t)) for t in captured]
        weights = [inner.parameter(g.type, "gradient") for _, g in given]
        with building(inner):
            results = inline(inner, region, values, effects=False)
            seeds = [(results[i], w) for (i, _), w in zip(given, weights, strict=True)]
            found = reverse(seeds, [values[i] for i in wanted])
            made = [
                zeros_like(values[i]) if g is None else g
                for i, g in zip(wanted, found, strict=True)
            ]
        built.append((inner, values, weights, made))
    kept = sorted({i for _, values, _, made in built for i in _used(made, values)})
    regions = [
        inner.finish([*(values[i] for i in kept), *weights], made)
        for inner, values, weights, made in built
    ]
    inputs = (predicate, *(captured[i] for i in kept), *(g for _, g in given))
    outputs = graph.add_named(If(*regions), inputs, unique, ()).outputs
    by_input = dict(zip(wanted, outputs, strict=True))
    return [None, *(by_input.get(i) for i in range(len(captured)))]


# --- loops
@dataclass
class _Backward:
    """One iteration computed again and walked back through: what it takes and what it gives.

    Positions are those of the forward loop's carried, scanned and captured values.
    """

    graph: RegionGraph
    index: Tensor
    slices: list[Tensor]  # of what the forward loop walked along
    saved: list[Tensor]  # carried values at the start of the iteration
    rows: list[Tensor]  # gradients of what the iteration stacked
    captured: list[Tensor]
    copies: dict[Tensor, Tensor]  # what may be kept, in the forward body and here
    carried: list[Tensor]  # gradients of carried values, then sums for captured ones
    after: list[Tensor]  # those of `carried` after the iteration
    stacked: list[Tensor]  # gradients for slices, then operands of products
    sums: list[int]  # captured values whose gradients are carried
    products: dict[int, Product]  # captured values whose gradients are made after the loop

    @property
    def results(self) -> list[Tensor]:
        """What the region gives."""
        return [*self.after, *self.stacked]


class _LoopGradient:
    """Builds the gradient of one loop."""

    def __init__(
        self,
        operation: Operation,
        op: Loop,
        incoming: Gradients,
        reached: set[Tensor],
        reverse: Reverse,
    ) -> None:
        self.operation, self.op, self.reverse = operation, op, reverse
        self.parts = op.parts(operation.inputs)
        self.final = list(incoming[: op.carried])
        stacked = incoming[op.carried : op.carried + op.stacked]
        self.stacked = [(i, g) for i, g in enumerate(stacked) if g is not None]
        self.scanned = _wanted(self.parts.scanned, reached)
        self.captured = _wanted(self.parts.captured, reached)
        self.carried = self._active(reached)
        self.graph: GraphDefinition = operation.graph.innermost

    def _active(self, reached: set[Tensor]) -> list[int]:
        """Carried values that depend on what the gradient is asked for, in some iteration."""
        body, inside = self.op.body, self.op.body_parts()
        start = {
            p
            for given, parameters in (
                (self.parts.scanned, inside.scanned),
                (self.parts.carried, inside.carried),
                (self.parts.captured, inside.captured),
            )
            for t, p in zip(given, parameters, strict=True)
            if t in reached
        }
        while True:
            known = set(start)
            for o in body.graph.operations:
                if any(t in known for t in o.inputs):
                    known.update(o.outputs)
            after = body.results[: self.op.carried]
            more = {p for p, t in zip(inside.carried, after, strict=True) if t in known}
            if more <= start:
                break
            start |= more
        return [i for i, p in enumerate(inside.carried) if p in start and p.dtype.is_inexact]

    def made(self) -> Gradients:
        """A gradient or None for each input of the loop."""
        operation, op = self.operation, self.op
        if not (self.scanned or self.captured or self.carried):
            return [None] * len(operation.inputs)
        if op.length is None and not op.scanned:
            raise NotDifferentiable(
                "gradients",
                f"{operation.name} keeps the values of each iteration for its gradient, and may "
                "run any number of times",
                received=f"no maximum_iterations for {operation.name}",
                advice="Give the loop maximum_iterations",
                operation=op.name,
            )
        unique = self.graph.unique_name("loop")
        starts = [self._start(i) for i in self.carried]
        body = self._body(unique, starts)
        starts += [zeros_like(self.parts.captured[i]) for i in body.sums]
        met = chosen(body.results, worth_keeping(op.body, self._held()), body.copies)
        kept = [t for t, copy in body.copies.items() if copy in met]
        computed, _ = reachable(body.results, met)
        slices, saved, captured = (
            [i for i, t in enumerate(listed) if t.operation in computed]
            for listed in (body.slices, body.saved, body.captured)
        )
        operands = {t for p in body.products.values() for t in (p.left, p.right)}
        stacking = [i for i, t in enumerate(body.saved) if i in saved or t in operands]
        stacks, iterations = self._forward(stacking, kept)
        count = iterations if iterations is not None else self.parts.count
        if op.length is None and not (slices or saved or kept or body.rows):
            slices = [0]  # something must say how many iterations there are
        by_saved = dict(zip(stacking, stacks, strict=False))
        walked = [self.parts.scanned[i] for i in slices]
        walked += [by_saved[i] for i in saved]
        walked += [*stacks[len(stacking) :], *(g for _, g in self.stacked)]
        parameters = [body.index, *(body.slices[i] for i in slices)]
        parameters += [body.saved[i] for i in saved]
        parameters += [*(body.copies[t] for t in kept), *body.rows, *body.carried]
        parameters += [body.captured[i] for i in captured]
        backward = Loop(
            self._finished(unique, body, parameters),
            None,
            carried=len(body.carried),
            scanned=len(walked),
            counted=count is not None,
            length=op.length,
            reverse=not op.reverse,
        )
        ahead = [] if count is None else [count]
        inputs = (*ahead, *walked, *starts, *(self.parts.captured[i] for i in captured))
        outputs = self.graph.add_named(backward, inputs, unique, ()).outputs
        return self._by_input(body, by_saved, outputs)

    def _start(self, i: int) -> Tensor:
        given = self.final[i]
        return zeros_like(self.operation.outputs[i]) if given is None else given

    def _held(self) -> list[Tensor]:
        """What an iteration keeps, or is given, in any case."""
        inside = self.op.body_parts()
        return [*inside.carried, *inside.scanned]

    def _body(self, unique: str, starts: Sequence[Tensor]) -> _Backward:
        """Compute an iteration again, and walk back through it."""
        op, parts = self.op, self.op.body_parts()
        inner = RegionGraph(self.graph, f"{unique}/body")
        index = inner.parameter(op.body.parameters[0].type, "index")
        slices = [inner.parameter(t.type, _last(t)) for t in parts.scanned]
        saved = [inner.parameter(t.type, _last(t)) for t in parts.carried]
        rows = [
            inner.parameter(op.body.results[op.carried + i].type, "gradient")
            for i, _ in self.stacked
        ]
        before = [inner.parameter(t.type, "gradient") for t in starts]
        captured = [inner.parameter(t.type, _last(t)) for t in parts.captured]
        products = worth_keeping(op.body, self._held())
        listed = list(dict.fromkeys((*products, *products.values())))
        whole = Region(op.body.graph, op.body.parameters, (*op.body.results, *listed))
        with building(inner):
            results = inline(inner, whole, [index, *slices, *saved, *captured], effects=False)
            copies = dict(zip(listed, results[len(op.body.results) :], strict=True))
            seeds = [(results[i], g) for i, g in zip(self.carried, before, strict=True)]
            seeds += [
                (results[op.carried + i], g) for (i, _), g in zip(self.stacked, rows, strict=True)
            ]
            wanted = [saved[i] for i in self.carried]
            wanted += [slices[i] for i in self.scanned]
            found = list(self.reverse(seeds, [*wanted, *(captured[i] for i in self.captured)]))
            made = [zeros_like(t) if g is None else g for g, t in zip(found, wanted, strict=False)]
            n = len(self.carried)
            body = _Backward(
                inner,
                index,
                slices,
                saved,
                rows,
                captured,
                copies,
                before,
                made[:n],
                made[n:],
                [],
                {},
            )
            for i, g in zip(self.captured, found[len(wanted) :], strict=True):
                if g is not None:
                    self._total(body, i, g)
        return body

    def _total(self, body: _Backward, i: int, gradient: Tensor) -> None:
        """Add up the gradients of a captured value: after the loop where they are products whose
        operands take less room than the sum, in the loop otherwise."""
        product = product_of(gradient)
        if product is not None:
            given = {*body.saved, *body.stacked, *self._whole(body)}
            more = [t for t in (product.left, product.right) if t not in given]
            if sum(map(size, more)) <= size(gradient):
                body.stacked += dict.fromkeys(more)
                body.products[i] = product
                return
        before = body.graph.parameter(body.captured[i].type, "gradient")
        body.carried.append(before)
        body.after.append(before + gradient)
        body.sums.append(i)

    def _whole(self, body: _Backward) -> dict[Tensor, Tensor]:
        """What is walked along, by its slice, where the loop always walks along all of it."""
        if self.op.counted or self.op.condition is not None:
            return {}
        found = dict(zip(body.slices, self.parts.scanned, strict=True))
        found |= {t: g for t, (_, g) in zip(body.rows, self.stacked, strict=True)}
        return found

    def _finished(self, unique: str, body: _Backward, parameters: Sequence[Tensor]) -> Region:
        """The body in which parameters hold what is kept."""
        inner = RegionGraph(self.graph, f"{unique}/body")
        known = {t: inner.parameter(t.type, _last(t)) for t in parameters}
        return inner.finish(list(known.values()), copied(inner, body.graph, body.results, known))

    def _forward(
        self, saved: Sequence[int], kept: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """Stacks of carried values as they were when each iteration began and of `kept` tensors of
        the body, and the number of iterations where a condition decides it."""
        op, operation = self.op, self.operation
        if not (saved or kept):
            last = operation.outputs[-1] if op.condition is not None else None
            return [], last
        held = op.body_parts().carried
        results = (*op.body.results, *(held[i] for i in saved), *kept)
        body = Region(op.body.graph, op.body.parameters, results)
        condition = op.condition
        if condition is not None:
            condition = Region(condition.graph, condition.parameters, condition.results)
        again = self.graph.add(
            replace(op, body=body, condition=condition),
            operation.inputs,
            control_inputs=operation.control_inputs,
            name="stacking",
        )
        first = len(op.body.results)
        last = again.outputs[-1] if op.condition is not None else None
        return list(again.outputs[first : first + len(saved) + len(kept)]), last

    def _by_input(
        self, body: _Backward, by_saved: dict[int, Tensor], outputs: Sequence[Tensor]
    ) -> Gradients:
        first = len(self.carried)
        second = len(body.carried)
        carried = dict(zip(self.carried, outputs[:first], strict=True))
        captured = dict(zip(body.sums, outputs[first:second], strict=True))
        scanned = dict(zip(self.scanned, outputs[second:], strict=False))
        stacks = dict(zip(body.stacked, outputs[second:], strict=True))
        stacks |= {body.saved[i]: t for i, t in by_saved.items()} | self._whole(body)
        for i, product in body.products.items():
            around = turned(self.parts.captured[i]) is not None
            captured[i] = product.of(stacks[product.left], stacks[product.right], around)
        counted = [None] if self.op.counted else []
        return [
            *counted,
            *(scanned.get(i) for i in range(self.op.scanned)),
            *(carried.get(i) for i in range(self.op.carried)),
            *(captured.get(i) for i in range(len(self.parts.captured))),
        ]


def _last(tensor: Tensor) -> str:
    return tensor.name.rsplit("/", 1)[-1].replace(":", "_")
