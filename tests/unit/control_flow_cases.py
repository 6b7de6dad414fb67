"""Branches and loops with what they must give, computed by plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import niello as nl

X = np.array([0.5, -1.5, 2.0], np.float32)
W = np.array([[0.3, -0.2, 0.1], [0.4, 0.2, -0.5], [-0.1, 0.6, 0.2]], np.float32)


@dataclass
class Built:
    """A graph to run: what is fed, what is fetched, and what must come out."""

    graph: nl.Graph
    feeds: dict[nl.Tensor, Any]
    targets: list[nl.Tensor]
    expected: list[Any]
    extra: dict[str, Any] = field(default_factory=dict)

    def types(self) -> dict[nl.Tensor, tuple[int, ...]]:
        return {t: np.shape(a) for t, a in self.feeds.items()}


def branch(flag: float) -> Built:
    g = nl.Graph()
    x = g.placeholder((None,), name="x")
    p = g.placeholder((), name="p")
    y, z = nl.if_(p > 0.0, lambda: [x * 2.0, x.sum()], lambda: [-x, x.max()])
    want = [X * 2, X.sum()] if flag > 0 else [-X, X.max()]
    return Built(g, {x: X, p: np.float32(flag)}, [y, z], want)


def counted(n: int) -> Built:
    """A count known when the graph is built, of values that read each other."""
    g = nl.Graph()
    x = g.placeholder((3,), name="x")
    a, b = nl.for_(n, [x, x * 2.0], lambda i, a, b: [b, a + i.cast(nl.float32)])
    u, v = X.copy(), X * 2
    for i in range(n):
        u, v = v, u + np.float32(i)
    return Built(g, {x: X}, [a, b], [u, v])


def counted_by_value(n: int) -> Built:
    g = nl.Graph()
    x = g.placeholder((3,), name="x")
    w = g.placeholder((3, 3), name="w")
    count = g.placeholder((), nl.int32, name="count")
    y = nl.for_(count, x, lambda i, a: (a @ w).tanh() + i.cast(nl.float32))
    a = X
    for i in range(n):
        a = np.tanh(a @ W) + np.float32(i)
    return Built(g, {x: X, w: W, count: np.int32(n)}, [y], [a])


def bounds(lower: int, upper: int, step: int) -> Built:
    g = nl.Graph()
    low, high = (g.placeholder((), nl.int32, name=n) for n in ("low", "high"))
    total, last = nl.for_(
        (low, high, step), [g.constant(0), g.constant(-7)], lambda i, s, last: [s + i, i]
    )
    listed = list(range(lower, upper, step))
    want = [sum(listed), listed[-1] if listed else -7]
    return Built(g, {low: np.int32(lower), high: np.int32(upper)}, [total, last], want)


def static_bounds(lower: int, upper: int, step: int) -> Built:
    g = nl.Graph()
    x = g.placeholder((), nl.int32, name="x")
    y = nl.for_((lower, upper, step), x, lambda i, s: s * 3 + i)
    s = 5
    for i in range(lower, upper, step):
        s = s * 3 + i
    return Built(g, {x: np.int32(5)}, [y], [s])


def collatz(n: int) -> Built:
    g = nl.Graph()
    x = g.placeholder((), nl.int32, name="x")

    def step(steps, v):
        return [steps + 1, nl.if_(nl.equal(v % 2, 0), lambda: v // 2, lambda: 3 * v + 1)]

    steps, _ = nl.while_([g.constant(0), x], lambda steps, v: v > 1, step)
    done, v = 0, n
    while v > 1:
        done, v = done + 1, v // 2 if v % 2 == 0 else 3 * v + 1
    return Built(g, {x: np.int32(n)}, [steps], [done])


def limited(n: int) -> Built:
    """The condition would hold much longer."""
    g = nl.Graph()
    x = g.placeholder((3,), name="x")
    y = nl.while_(x, lambda a: a.sum() < 1e9, lambda a: a + 1.0, maximum_iterations=n)
    return Built(g, {x: X}, [y], [X + np.float32(n)])


def stacked(n: int, reverse: bool) -> Built:
    g = nl.Graph()
    x = g.placeholder((None, 3), name="x")
    w = g.placeholder((3, 3), name="w")

    def step(i, slices, carried):
        new = (carried[0] @ w + slices[0]).tanh()
        return [new, carried[1] + 1], [new, carried[0].sum() + i.cast(nl.float32)]

    (last, count), (rows, sums) = nl.scan(
        [x], [g.constant(X), g.constant(0)], step, reverse=reverse
    )
    values = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    h, r, s = X, np.zeros((n, 3), np.float32), np.zeros(n, np.float32)
    for i in range(n)[::-1] if reverse else range(n):
        s[i] = h.sum() + np.float32(i)
        h = r[i] = np.tanh(h @ W + values[i])
    return Built(g, {x: values, w: W}, [last, count, rows, sums], [h, n, r, s])


def nested(n: int) -> Built:
    """A loop in a branch in a loop, with captures from every level."""
    g = nl.Graph()
    x = g.placeholder((3,), name="x")
    count = g.placeholder((), nl.int32, name="count")

    def outer(i, a):
        shift = a.sum() * 0.125

        def many():
            return nl.for_(i + 1, a, lambda j, b: b * 0.5 + x * j.cast(nl.float32) + shift)

        return nl.if_(i % 2 > 0, many, lambda: a - shift)

    y = nl.for_(count, x, outer)
    a = X
    for i in range(n):
        shift = a.sum() * np.float32(0.125)
        if i % 2 == 0:
            a = a - shift
            continue
        b = a
        for j in range(i + 1):
            b = b * np.float32(0.5) + X * np.float32(j) + shift
        a = b
    return Built(g, {x: X, count: np.int32(n)}, [y], [a])


def big(rows: int) -> Built:
    """Carried values of more than one thread's work, one of them unchanged, one unused."""
    g = nl.Graph()
    x = g.placeholder((rows, 64), name="x")
    w = g.placeholder((64, 64), name="w")
    y, _, same, _ = nl.for_(
        5,
        [x, x * 0.0, x, g.constant(0)],
        lambda i, a, unread, same, n: [(a @ w).relu() + same * 0.5, unread + 1.0, same, n + i],
    )
    r = np.random.default_rng(0)
    a = values = r.normal(size=(rows, 64)).astype(np.float32)
    b = (r.normal(size=(64, 64)) / 16).astype(np.float32)
    for _ in range(5):
        a = np.maximum(a @ b, 0) + values * np.float32(0.5)
    return Built(g, {x: values, w: b}, [y, same], [a, values])


def constants() -> Built:
    """What is known when the graph is compiled leaves no branch and no loop."""
    g = nl.Graph()
    x = g.placeholder((3,), name="x")
    yes = g.constant(True)
    a = nl.if_(yes, lambda: x + 1.0, lambda: x * 0.0)
    b = nl.for_(0, x, lambda i, v: v * 0.0)
    c = nl.for_(1, x, lambda i, v: v + i.cast(nl.float32) + 3.0)
    d = nl.for_(g.constant(2) - 1, x, lambda i, v: v * 5.0, maximum_iterations=9)
    return Built(g, {x: X}, [a, b, c, d], [X + 1, X, X + 3, X * 5])


CASES: dict[str, Callable[[], Built]] = {
    "if taken": lambda: branch(1.0),
    "if not taken": lambda: branch(-1.0),
    "for 0": lambda: counted(0),
    "for 1": lambda: counted(1),
    "for 7": lambda: counted(7),
    "for of a value 0": lambda: counted_by_value(0),
    "for of a value -3": lambda: counted_by_value(-3),
    "for of a value 5": lambda: counted_by_value(5),
    "bounds": lambda: bounds(3, 11, 3),
    "bounds, exact": lambda: bounds(-4, 8, 4),
    "bounds, empty": lambda: bounds(5, 5, 1),
    "bounds, reversed": lambda: bounds(9, 2, 2),
    "bounds down": lambda: static_bounds(9, -2, -3),
    "bounds known": lambda: static_bounds(2, 9, 2),
    "while": lambda: collatz(27),
    "while never": lambda: collatz(1),
    "while limited": lambda: limited(6),
    "while limited to 0": lambda: limited(0),
    "scan": lambda: stacked(5, False),
    "scan reversed": lambda: stacked(5, True),
    "scan of one": lambda: stacked(1, False),
    "scan of nothing": lambda: stacked(0, False),
    "nested": lambda: nested(6),
    "big": lambda: big(600),
    "constants": lambda: constants(),
}
