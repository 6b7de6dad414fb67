"""Gradients through branches, loops and calls, against finite differences of the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import NotDifferentiable
from niello.graph.evaluate import evaluate
from niello.graph.verify import verify
from niello.runtime.commands import Loop, walk

STEP = 1e-6
SHAPE = (2, 2)
Make = Callable[[nl.Graph, nl.Tensor, nl.Tensor], nl.Tensor]


def scanned(reverse: bool) -> Make:
    def make(g: nl.Graph, x: nl.Tensor, w: nl.Tensor) -> nl.Tensor:
        def step(i, slices, carried):
            return [carried[0] * slices[0].sin()], [carried[0].sum() * slices[0]]

        (last,), (rows,) = nl.scan([x], [w], step, reverse=reverse)
        return (last * rows[1] * rows).sum()

    return make


def swapped(g: nl.Graph, x: nl.Tensor, w: nl.Tensor) -> nl.Tensor:
    a, b = nl.for_(3, [x, w], lambda i, a, b: [b.sin(), a * b])
    return (a * a * b).sum()


def counted_by_value(g: nl.Graph, x: nl.Tensor, w: nl.Tensor) -> nl.Tensor:
    count = (x * 0.0).sum().cast(nl.int32) + 2
    return nl.for_(count, x, lambda i, a: (a @ w).tanh(), maximum_iterations=4).sum()


def conditioned(g: nl.Graph, x: nl.Tensor, w: nl.Tensor) -> nl.Tensor:
    a, _ = nl.while_(
        [x, g.constant(0)],
        lambda a, n: n < 3,
        lambda a, n: [(a @ w).tanh() + n.cast(nl.float64), n + 1],
        maximum_iterations=5,
    )
    return (a * a).sum()


def nested(g: nl.Graph, x: nl.Tensor, w: nl.Tensor) -> nl.Tensor:
    def outer(i, a):
        return nl.if_(
            i > 0, lambda: nl.for_(2, a, lambda j, b: (b * w).sin() + a), lambda: a * a * w
        )

    return nl.for_(2, x, outer).sum()


def integers_inside(g: nl.Graph, x: nl.Tensor, w: nl.Tensor) -> nl.Tensor:
    a, _ = nl.for_(
        3,
        [x, g.constant(1)],
        lambda i, a, n: [(a @ w).tanh() * n.cast(nl.float64), n + i],
    )
    return a.sum()


def only_captured(g: nl.Graph, x: nl.Tensor, w: nl.Tensor) -> nl.Tensor:
    """What is carried does not depend on x when the loop begins."""
    return nl.for_(3, np.zeros(SHAPE), lambda i, a: a + (a + w).sin() * x, graph=g).sum()


def unused(g: nl.Graph, x: nl.Tensor, w: nl.Tensor) -> nl.Tensor:
    """A carried value that nobody reads, and one that w does not reach."""
    a, _, c = nl.for_(3, [x, w, x], lambda i, a, b, c: [a.sin(), b * a, c.cos()])
    return (a * w + c).sum()


def taken(flag: bool) -> Make:
    def make(g: nl.Graph, x: nl.Tensor, w: nl.Tensor) -> nl.Tensor:
        p = (x * 0.0).sum() + (1.0 if flag else -1.0) > 0.0
        a, b = nl.if_(p, lambda: [x * w.sin(), x.exp()], lambda: [x.exp() * 2.0, w])
        return (a * b).sum()

    return make


CASES: Mapping[str, Make] = {
    "then": taken(True),
    "else": taken(False),
    "for": lambda g, x, w: nl.for_(3, x, lambda i, a: (a @ w).tanh()).sum(),
    "for, swapped": swapped,
    "for, integers": integers_inside,
    "for, captured": only_captured,
    "for, unused": unused,
    "for, by value": counted_by_value,
    "for, never": lambda g, x, w: (nl.for_(0, x, lambda i, a: a * w) * w).sum(),
    "for, index": lambda g, x, w: nl.for_(
        (5, 1, -2), x, lambda i, a: (a * w).sin() * i.cast(nl.float64)
    ).sum(),
    "while": conditioned,
    "scan": scanned(False),
    "scan reversed": scanned(True),
    "nested": nested,
}


def differences(
    loss: nl.Tensor, by: nl.Tensor, feeds: Mapping[nl.Tensor, np.ndarray]
) -> np.ndarray:
    found = np.zeros_like(feeds[by])
    for place in np.ndindex(found.shape):
        ends = []
        for sign in (1, -1):
            moved = feeds[by].copy()
            moved[place] += sign * STEP
            ends.append(evaluate([loss], {**feeds, by: moved})[0])
        found[place] = (ends[0] - ends[1]) / (2 * STEP)
    return found


def checked(
    g: nl.Graph, loss: nl.Tensor, by: list[nl.Tensor], feeds: Mapping[nl.Tensor, np.ndarray]
) -> dict[nl.Tensor, nl.Tensor]:
    made = g.gradients(loss, by)
    verify(g)
    for t, found in zip(by, evaluate([made[t] for t in by], feeds), strict=True):
        np.testing.assert_allclose(found, differences(loss, t, feeds), rtol=2e-5, atol=1e-7)
    return made


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives(name: str) -> None:
    g = nl.Graph()
    x, w = (g.placeholder(SHAPE, nl.float64, name=n) for n in "xw")
    r = np.random.default_rng(3)
    feeds = {x: r.normal(size=SHAPE), w: r.normal(size=SHAPE)}
    loss = CASES[name](g, x, w)
    first = checked(g, loss, [x, w], feeds)
    square = (first[x] * first[x]).sum() + (first[w] * first[w]).sum()
    second = checked(g, square, [x, w], feeds)
    targets = [loss, *first.values(), *second.values()]
    expected = evaluate(targets, feeds)
    types = dict.fromkeys(feeds, SHAPE)
    for device, optimise in (("cpu", True), ("cpu", False), ("numpy", True)):
        options = nl.CompileOptions(optimise=optimise)
        executable = g.compile(types, targets, device=device, options=options)
        for a, b in zip(executable.run(list(feeds.values())), expected, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-9, atol=1e-9)


def test_third_derivative() -> None:
    g = nl.Graph()
    x, w = (g.placeholder(SHAPE, nl.float64, name=n) for n in "xw")
    r = np.random.default_rng(1)
    feeds = {x: r.normal(size=SHAPE) / 2, w: r.normal(size=SHAPE) / 2}
    total = nl.for_(2, x, lambda i, a: (a * w).sin()).sum()
    for _ in range(3):
        total = (checked(g, total, [x], feeds)[x] ** 2.0).sum()


def test_the_forward_loop_runs_once() -> None:
    """The loop that keeps values for the gradient is the loop itself."""
    g = nl.Graph()
    x, w = (g.placeholder((4, 4), name=n) for n in "xw")
    loss = nl.for_(3, x, lambda i, a: (a @ w).tanh()).sum()
    grads = g.gradients(loss, [w])
    executable = g.compile({x: (4, 4), w: (4, 4)}, [loss, grads[w]])
    loops = [c for c in walk(executable.program.commands) if isinstance(c, Loop)]
    assert len(loops) == 2 and [c.reverse for c in loops] == [False, True]


def test_effects_do_not_run_twice() -> None:
    g = nl.Graph()
    v = g.variable(np.float32(0), name="v")
    x = g.placeholder((), name="x")
    y = nl.for_(3, x, lambda i, a: [a * a, v.assign(v.read() + 1.0)][0])
    grads = g.gradients(y, [x])
    for optimise in (True, False):
        v.value = 0
        options = nl.CompileOptions(optimise=optimise)
        executable = g.compile({x: ()}, [y, grads[x]], options=options)
        found = [np.asarray(t).item() for t in executable.run([np.float32(1.5)])]
        np.testing.assert_allclose(found, [1.5**8, 8 * 1.5**7], rtol=1e-6)
        assert v.value == 3


def test_gradient_of_a_graph_with_unknown_sizes() -> None:
    g = nl.Graph()
    x = g.placeholder((None, 3), name="x")
    (last,), _ = nl.scan([x], [x[0]], lambda i, s, c: ([c[0] * s[0].sin()], []))
    grad = g.gradients(last.sum(), [x])[x]
    r = np.random.default_rng(0)
    for rows in (1, 4):
        values = r.normal(size=(rows, 3)).astype(np.float32)
        found = np.asarray(g.run({x: values}, [grad])[grad])

        def product(v: np.ndarray) -> Any:
            return (v[0] * np.sin(v).prod(axis=0)).sum()

        for place in np.ndindex(values.shape):
            moved = values.astype(np.float64)
            moved[place] += STEP
            above = product(moved)
            moved[place] -= 2 * STEP
            slope = (above - product(moved)) / (2 * STEP)
            assert abs(slope - found[place]) < 1e-4


def test_refusals() -> None:
    g = nl.Graph()
    x = g.placeholder((), name="x")
    v = g.variable(np.float32(1), name="v")
    endless = nl.while_(x, lambda a: a < 5.0, lambda a: a * 2.0)
    with pytest.raises(NotDifferentiable, match="maximum_iterations"):
        g.gradients(endless, [x])
    reading = nl.for_(2, x, lambda i, a: a * v.read())
    with pytest.raises(NotDifferentiable, match="reads variable 'v'"):
        g.gradients(reading, [x])
    # What is read but does not matter is no hindrance.
    beside = nl.for_(2, [x, x], lambda i, a, b: [a * a, b * v.read()])
    with pytest.raises(NotDifferentiable):
        g.gradients(beside[1], [x])
    stopped = nl.if_(x > 0.0, lambda: x.round() * 2.0, lambda: x)
    assert g.run({x: 2.2}, [g.gradients(stopped, [x])[x]])


def test_half_types() -> None:
    g = nl.Graph()
    x = g.placeholder((4,), nl.bfloat16, name="x")
    y = nl.for_(3, x, lambda i, a: a * a * 0.5)
    grad = g.gradients(y.sum(), [x])[x]
    assert grad.dtype is nl.bfloat16
    value = np.array([1.0, 0.5, 2.0, -1.0], nl.bfloat16.numpy)
    found = np.asarray(g.run({x: value}, [grad])[grad]).astype(np.float32)
    a = value.astype(np.float32)
    np.testing.assert_allclose(found, 8 * a**7 * 0.5**7, rtol=0.05)
