"""Loops of networks: a body network, repeated while a condition network holds.

Steps whose number is known and small become layers one after the other. Otherwise the first known
step is made so too (what it writes exists then), and the others become a loop of the graph, whose
carried values are the names that its networks write.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.builder import Unknown, Value
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.layers.broadcastable import truth
from niello.frontends.coreml.layers.control import BREAK, stops, written
from niello.frontends.coreml.registry import layer

# Loops of at most so many known steps become layers one after the other.
UNROLLED = 8


class _Loop:
    """A loop layer: its condition, its body, and how many steps it may have."""

    def __init__(self, at: Layer) -> None:
        self.at = at
        self.condition = list(at.p.conditionNetwork.layers)
        self.body = list(at.p.bodyNetwork.layers)
        self.breaks = stops(self.body)
        self.most: int | nl.Tensor | None = int(at.p.maxLoopIterations) or None
        if at.inputs:
            self.most = self._fed()
        elif self.most is None and not self.condition:
            self.most = 0

    def _fed(self) -> int | nl.Tensor:
        try:
            return int(self.at.builder.array(self.at.value()).reshape(()))
        except Unknown:
            return nl.reshape(nl.cast(self.at.tensor(), nl.int32), ())

    def holds(self, scope: dict[str, Value]) -> Value:
        """Whether there is another step, by the condition network: an array where it is known."""
        if not self.condition:
            return np.bool_(True)
        self.at.network.run(self.condition, scope)
        name = self.at.p.conditionVar
        if name not in scope:
            raise self.at.refuse("its condition network does not write its condition", repr(name))
        try:
            return np.bool_(np.any(self.at.builder.array(scope[name])))
        except Unknown:
            return nl.any(truth(self.at.builder.tensor(scope[name])))

    def step(self, scope: dict[str, Value]) -> Value:
        """The body, and whether there is another step after it."""
        scope[BREAK] = np.bool_(False)
        self.at.network.run(self.body, scope)
        broken = scope[BREAK]
        if isinstance(broken, nl.Tensor):
            return self._unless(broken, scope)
        return np.bool_(False) if broken else self.holds(scope)

    def _unless(self, broken: nl.Tensor, scope: dict[str, Value]) -> nl.Tensor:
        """The condition network is run where no break was met."""
        builder = self.at.builder
        names = [n for n in written(self.condition)[1] if n in scope]

        def side(goes_on: bool) -> Any:
            def build() -> list[nl.Tensor]:
                with builder.region():
                    inner = dict(scope)
                    go = self.holds(inner) if goes_on else np.bool_(False)
                    return [*(builder.tensor(inner[n]) for n in names), builder.tensor(go)]

            return build

        *values, go = nl.if_(broken, side(False), side(True))
        scope.update(zip(names, values, strict=True))
        return go  # type: ignore[no-any-return]

    def repeat(self, scope: dict[str, Value], go: Value, done: int) -> None:
        """The steps that are left, as a loop of the graph."""
        builder = self.at.builder
        possible = written(self.condition)[1] | written(self.body)[1]
        names = [n for n in possible if n in scope]

        def inside(values: Any) -> tuple[list[nl.Tensor], nl.Tensor]:
            with builder.region():
                inner = dict(scope)
                inner.update(zip(names, values, strict=True))
                more = builder.tensor(self.step(inner))
                return [builder.tensor(inner[n]) for n in names], more

        initial = [builder.tensor(scope[n]) for n in names]
        if not self.condition and not self.breaks:
            assert self.most is not None
            count = self.most - done
            found = nl.for_(
                count, initial, lambda i, *v: inside(v)[0], graph=self.at.graph
            )  # fmt: skip
            scope.update(zip(names, found, strict=True))
            return
        first = [builder.tensor(go), self.at.constant(done, np.int32)]
        most = self.most

        def condition(*v: nl.Tensor) -> nl.Tensor:
            return v[-2] if most is None else nl.logical_and(v[-2], nl.less(v[-1], most))

        def body(*v: nl.Tensor) -> list[nl.Tensor]:
            values, more = inside(v[:-2])
            return [*values, more, v[-1] + 1]

        found = nl.while_([*initial, *first], condition, body)
        scope.update(zip(names, found[:-2], strict=True))


@layer("loop", fold=False)
def loop(at: Layer) -> Any:
    """A body network, so often, or as long as a condition holds."""
    made, scope = _Loop(at), at.scope
    outer = scope.get(BREAK)
    go = made.holds(scope)
    known = isinstance(made.most, int)
    # Without a condition a long loop is known to be long: one step shows what it writes.
    long = not made.condition and not made.breaks and known and made.most > UNROLLED  # type: ignore[operator]
    for done in range((1 if long else UNROLLED) + 1):
        if not isinstance(go, nl.Tensor) and (not go or (known and done >= made.most)):  # type: ignore[operator]
            break
        limit = 1 if long else UNROLLED
        if isinstance(go, nl.Tensor) or done == limit or not (known or made.most is None):
            made.repeat(scope, go, done)
            break
        go = made.step(scope)
    scope.pop(BREAK, None)
    if outer is not None:
        scope[BREAK] = outer
    return ()
