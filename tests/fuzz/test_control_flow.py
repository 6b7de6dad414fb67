"""Random nests of branches and loops: optimised = unoptimised = reference, gradients included."""

from __future__ import annotations

import random

import numpy as np
import pytest

import niello as nl
from niello.graph.evaluate import evaluate
from niello.graph.verify import verify

SIZE = 3


class Writer:
    """Writes a random computation on vectors of float64."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.graph = nl.Graph(f"random {seed}")
        self.inputs = [self.graph.placeholder((SIZE,), nl.float64, name=f"x{i}") for i in range(2)]
        self.matrix = self.graph.placeholder((SIZE, SIZE), nl.float64, name="m")
        self.number = self.graph.placeholder((), nl.int32, name="n")
        self.budget = 24
        self.variable = self.graph.variable(np.full(SIZE, 0.5), name="v")

    def expression(self, known: list[nl.Tensor], depth: int) -> nl.Tensor:
        """A vector made of known ones."""
        self.budget -= 1
        kinds = ["leaf"]
        if self.budget > 0:
            kinds += ["unary", "binary", "matrix"]
        if self.budget > 0 and depth > 0:
            kinds += ["if", "for", "while", "scan", "for by value"] * 2
        return getattr(self, "_" + self.random.choice(kinds).replace(" ", "_"))(known, depth)

    def chosen(self, known: list[nl.Tensor]) -> nl.Tensor:
        return self.random.choice(known)

    def _leaf(self, known, depth):
        return self.chosen(known)

    def _unary(self, known, depth):
        name = self.random.choice(["sin", "tanh", "cos", "negative", "square"])
        return getattr(self.expression(known, depth), name)() * 0.7

    def _binary(self, known, depth):
        a, b = self.expression(known, depth), self.expression(known, depth)
        return self.random.choice([lambda: a + b, lambda: a * b, lambda: a - b * 0.5])().tanh()

    def _matrix(self, known, depth):
        return (self.expression(known, depth).expand_dims(0) @ self.matrix).squeeze(0)

    def predicate(self, known):
        return self.chosen(known).sum() > self.random.uniform(-0.5, 0.5)

    def _if(self, known, depth):
        return nl.if_(
            self.predicate(known),
            lambda: self.expression(known, depth - 1),
            lambda: self.expression(known, depth - 1),
        )

    def _for(self, known, depth):
        initial = [self.chosen(known) for _ in range(self.random.randint(1, 3))]

        def body(i, *values):
            inside = [*known, *values, values[0] * i.cast(nl.float64) * 0.1]
            return [self.expression(inside, depth - 1) for _ in values]

        return self.chosen(nl.for_(self.random.randint(0, 4), initial, body))

    def _for_by_value(self, known, depth):
        count = self.number + self.random.randint(-2, 1)
        return nl.for_(
            count,
            self.chosen(known),
            lambda i, a: self.expression([*known, a], depth - 1),
            maximum_iterations=self.random.randint(1, 4),
        )

    def _while(self, known, depth):
        most = self.random.randint(0, 4)
        a, _ = nl.while_(
            [self.chosen(known), self.graph.constant(0)],
            lambda a, n: (n < self.number) & (a.sum() > -2.0),
            lambda a, n: [self.expression([*known, a], depth - 1), n + 1],
            maximum_iterations=most,
        )
        return a

    def _scan(self, known, depth):
        rows = nl.stack([self.chosen(known) for _ in range(self.random.randint(1, 3))])

        def body(i, slices, carried):
            inside = [*known, *slices, *carried]
            return [self.expression(inside, depth - 1)], [self.expression(inside, depth - 1)]

        reverse = self.random.random() < 0.5
        (last,), (made,) = nl.scan([rows], [self.chosen(known)], body, reverse=reverse)
        return self.random.choice([last, made.sum(axes=0), made[0] * made[-1]])

    def feeds(self) -> dict[nl.Tensor, np.ndarray]:
        r = np.random.default_rng(self.random.randint(0, 1 << 30))
        found = {t: r.normal(size=SIZE) for t in self.inputs}
        found[self.matrix] = r.normal(size=(SIZE, SIZE)) / 2
        found[self.number] = np.array(self.random.randint(0, 4), np.int32)
        return found


def check(seed: int) -> None:
    writer = Writer(seed)
    known = [*writer.inputs, writer.variable]
    y = writer.expression(known, 3)
    loss = (y * y).sum() + sum((t * 0.0).sum() for t in (*writer.inputs, writer.matrix))
    loss = loss + writer.number.cast(nl.float64) * 0.0
    first = writer.graph.gradients(loss, [*writer.inputs, writer.matrix])
    targets = [y, loss, *first.values()]
    if seed % 3 == 0:
        squares = sum((g * g).sum() for g in first.values())
        targets += writer.graph.gradients(squares, writer.inputs[:1]).values()
    verify(writer.graph)
    feeds = writer.feeds()
    expected = evaluate(targets, feeds)
    again = nl.parse_graph(nl.print_graph(writer.graph))
    assert nl.print_graph(again) == nl.print_graph(writer.graph)
    types = {t: a.shape for t, a in feeds.items()}
    for optimise in (True, False):
        options = nl.CompileOptions(optimise=optimise)
        executable = writer.graph.compile(types, targets, device="cpu", options=options)
        for _ in range(2):
            for a, b in zip(executable.run(list(feeds.values())), expected, strict=True):
                np.testing.assert_allclose(np.asarray(a), b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(25))
def test_random_nests(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25, 400))
def test_many_random_nests(seed: int) -> None:
    check(seed)
