"""Branches and loops on devices: values, variables, threads, failures, memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import niello as nl
from niello.core.errors import FeedError
from niello.graph.evaluate import evaluate
from niello.runtime.commands import Dispatch, If, Loop, walk
from tests.unit.control_flow_cases import CASES, W, X, counted_by_value, nested

DEVICES = ("cpu", "numpy")


def close(found, expected) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_values(name: str, device: str, optimise: bool) -> None:
    built = CASES[name]()
    options = nl.CompileOptions(optimise=optimise)
    executable = built.graph.compile(built.types(), built.targets, device=device, options=options)
    for _ in range(2):  # what a run leaves in memory must not matter to the next
        for found, expected in zip(
            executable.run(list(built.feeds.values())), built.expected, strict=True
        ):
            close(found, expected)


@pytest.mark.parametrize("name", CASES)
def test_reference(name: str) -> None:
    built = CASES[name]()
    feeds = {t: np.asarray(a) for t, a in built.feeds.items()}
    for found, expected in zip(evaluate(built.targets, feeds), built.expected, strict=True):
        close(found, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_one_thread_and_many(device: str) -> None:
    for threads in (1, 2, 5):
        built = CASES["big"]()
        options = nl.CompileOptions(threads=threads)
        executable = built.graph.compile(
            built.types(), built.targets, device=device, options=options
        )
        for _ in range(20 if device == "cpu" else 1):
            found = executable.run(list(built.feeds.values()))
            close(found[0], built.expected[0])


def test_known_predicates_and_counts_leave_nothing() -> None:
    built = CASES["constants"]()
    executable = built.graph.compile(built.types(), built.targets)
    assert not [c for c in walk(executable.program.commands) if isinstance(c, (If, Loop))]


def test_same_executable_on_threads() -> None:
    built = nested(7)
    executable = built.graph.compile(built.types(), built.targets)
    feeds = list(built.feeds.values())
    wrong: list[object] = []

    def work(scale: float) -> None:
        x = X * np.float32(scale)
        expected = evaluate(built.targets, dict(zip(built.feeds, [x, feeds[1]], strict=True)))
        for _ in range(200):
            found = np.asarray(executable.run([x, feeds[1]])[0])
            if not np.allclose(found, expected[0], rtol=1e-4):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(s,)) for s in (1.0, -2.0, 0.5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_failing_feed_leaves_the_executable_working() -> None:
    built = counted_by_value(4)
    executable = built.graph.compile(built.types(), built.targets)
    values = list(built.feeds.values())
    with pytest.raises(FeedError):
        executable.run([values[0], values[1].astype(np.float64), values[2]])
    with pytest.raises(FeedError):
        executable.run([values[0], values[1], np.int32([4, 4])])
    close(executable.run(values)[0], built.expected[0])


# --- variables
@pytest.mark.parametrize("device", DEVICES)
def test_assignments_of_each_iteration(device: str) -> None:
    g = nl.Graph()
    v = g.variable(np.ones(3, np.float32), name="v")
    x = g.placeholder((3,), name="x")

    def body(i, a):
        now = v.read()
        v.assign(now * 2.0 + i.cast(nl.float32))
        return a + now

    y = nl.for_(4, x, body)
    found = g.run({x: X}, [y], device=device)[y]
    value, total = np.ones(3, np.float32), X
    for i in range(4):
        total = total + value
        value = value * 2 + np.float32(i)
    close(found, total)
    close(v.value, value)


@pytest.mark.parametrize("device", DEVICES)
def test_old_value_of_a_variable_that_the_loop_assigns(device: str) -> None:
    g = nl.Graph()
    v = g.variable(np.float32(3), name="v")
    x = g.placeholder((), name="x")

    def body(i, a):
        with g.control_dependencies(v.assign(v.read() + 1.0)):
            return a + v * 10.0 + v.read()  # as the run began; after the assignment

    y = nl.for_(3, x, body)
    assert g.run({x: 0.0}, [y], device=device)[y].item() == 3 * 30 + 4 + 5 + 6
    assert v.value == 6


@pytest.mark.parametrize("device", DEVICES)
def test_effects_only(device: str) -> None:
    g = nl.Graph()
    v = g.variable(np.int32(0), name="v")
    p = g.placeholder((), nl.bool_, name="p")
    step = nl.if_(
        p, lambda: v.assign(v.read() + 5) and None, lambda: v.assign(v.read() - 1) and None
    )
    loop = nl.for_(3, [], lambda i: v.assign(v.read() * 2 + i) and None, graph=g)
    assert isinstance(step, nl.Operation) and isinstance(loop, nl.Operation)
    g.run({p: True}, [], [step], device=device)
    assert v.value == 5
    g.run({p: False}, [], [step], device=device)
    assert v.value == 4
    g.run({}, [], [loop], device=device)
    assert v.value == ((4 * 2 + 0) * 2 + 1) * 2 + 2


@pytest.mark.parametrize("device", DEVICES)
def test_reads_after_and_before_a_loop(device: str) -> None:
    g = nl.Graph()
    v = g.variable(np.float32(1), name="v")
    x = g.placeholder((), name="x")
    y = nl.for_(3, x, lambda i, a: [a, v.assign(v.read() * 2.0)][0] + v.read())
    with g.control_dependencies(y):
        after = v.read()
    before = v + 0.0
    found = g.run({x: 0.0}, [y, after, before], device=device)
    # A read that is ordered after nothing comes before the assignment of its iteration.
    assert [np.asarray(found[t]).item() for t in (y, after, before)] == [1 + 2 + 4, 8, 1]


@pytest.mark.parametrize("device", DEVICES)
def test_branches_that_assign_different_variables(device: str) -> None:
    g = nl.Graph()
    a, b = (g.variable(np.zeros(2, np.float32), name=n) for n in "ab")
    x = g.placeholder((2,), name="x")

    def give(v, sign):
        v.assign(x * sign)
        return x + sign

    y = nl.if_(x.sum() > 0.0, lambda: give(a, 1.0), lambda: give(b, -1.0))
    for value in ([1.0, 2.0], [-3.0, 1.0]):
        g.run({x: value}, [y], device=device)
    close(a.value, [1, 2])
    close(b.value, [3, -1])


# --- other parts of Niello inside regions
@pytest.mark.parametrize("device", DEVICES)
def test_random_numbers_carry_their_state(device: str) -> None:
    g = nl.Graph()
    state = g.constant(nl.random_state(7))

    def body(i, s, total):
        values, after = nl.random_uniform((3,), state=s)
        return [after, total + values]

    after, total = nl.for_(4, [state, g.constant(np.zeros(3, np.float32))], body)
    straight = nl.Graph()
    s, expected = straight.constant(nl.random_state(7)), 0.0
    for _ in range(4):
        values, s = nl.random_uniform((3,), state=s)
        expected = expected + values
    found = g.run({}, [after, total], device=device)
    want = straight.run({}, [s, expected], device=device)
    assert (np.asarray(found[after]) == np.asarray(want[s])).all()
    close(found[total], np.asarray(want[expected]))


def test_autocast_reaches_bodies() -> None:
    g = nl.Graph()
    g.autocast = nl.bfloat16
    x = g.placeholder((3, 3), name="x")
    w = g.placeholder((3, 3), name="w")
    y = nl.for_(3, x, lambda i, a: (a @ w).tanh())
    executable = g.compile({x: (3, 3), w: (3, 3)}, [y])
    assert "bfloat16" in executable.as_text("graph")
    a = W
    for _ in range(3):
        a = np.tanh(a @ W)
    np.testing.assert_allclose(np.asarray(executable.run([W, W])[0]), a, rtol=0.05, atol=0.02)
    # The weights are the same in each iteration: they are cast once, before the loop.
    (loop,) = [c for c in executable.program.commands if isinstance(c, Loop)]
    before = executable.program.commands.index(loop)
    assert any(isinstance(c, Dispatch) for c in executable.program.commands[:before])


@pytest.mark.parametrize("length", [0, 1, 9])
def test_unknown_sizes_are_bound_when_compiled(length: int) -> None:
    g = nl.Graph()
    x = g.placeholder((None, None), name="x")
    y = nl.for_(2, x, lambda i, a: a * 2.0 + a.sum(axes=0, keepdims=True))
    z = nl.while_(x, lambda a: a.sum() < 10.0, lambda a: a + 1.0)
    values = np.full((length, 2), 0.25, np.float32)
    want = values
    for _ in range(2):
        want = want * 2 + want.sum(axis=0, keepdims=True)
    found = g.run({x: values}, [y], device="cpu")
    close(found[y], want)
    if length:
        w = values
        while w.sum() < 10:
            w = w + 1
        close(g.run({x: values}, [z])[z], w)


def test_control_dependencies_across_a_loop() -> None:
    g = nl.Graph()
    v = g.variable(np.float32(2), name="v")
    x = g.placeholder((), name="x")
    first = v.assign(x)

    def body(i, a):
        with g.control_dependencies(first):
            return a + v.read()

    y = nl.for_(2, x, body)
    assert g.run({x: 5.0}, [y])[y].item() == 15


def test_training_loop() -> None:
    """Gradient descent inside a loop, with gradients taken inside the body."""
    g = nl.Graph()
    x = g.placeholder((8, 3), name="x")
    t = g.placeholder((8,), name="t")

    def body(i, w):
        loss = (((x * w).sum(axes=-1) - t) ** 2.0).mean()
        return w - 0.1 * g.gradients(loss, [w])[w]

    w = nl.for_(300, np.zeros(3, np.float32), body, graph=g)
    r = np.random.default_rng(0)
    values = r.normal(size=(8, 3)).astype(np.float32)
    wanted = np.array([1.0, -2.0, 0.5], np.float32)
    found = g.run({x: values, t: values @ wanted}, [w])[w]
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-2)


@pytest.mark.parametrize("device", DEVICES)
def test_training_of_variables_inside_a_loop(device: str) -> None:
    g = nl.Graph()
    x = g.placeholder((8, 3), name="x")
    t = g.placeholder((8,), name="t")
    v = g.variable(np.zeros(3, np.float32), name="w")

    def body(i, last):
        w = v.read()
        loss = (((x * w).sum(axes=-1) - t) ** 2.0).mean()
        v.assign(w - 0.1 * g.gradients(loss, [w])[w])
        return loss

    loss = nl.for_(100, g.constant(0.0), body)
    r = np.random.default_rng(0)
    values = r.normal(size=(8, 3)).astype(np.float32)
    wanted = np.array([1.0, -2.0, 0.5], np.float32)
    last = g.run({x: values, t: values @ wanted}, [loss], device=device)[loss].item()
    w = np.zeros(3)
    for _ in range(100):
        error = values @ w - values @ wanted
        before = (error**2).mean()
        w = w - 0.1 * 2 / 8 * error @ values
    np.testing.assert_allclose(v.value, w, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(last, before, rtol=1e-2, atol=1e-5)


def test_gradient_with_respect_to_captured_variables() -> None:
    g = nl.Graph()
    x = g.placeholder((3,), name="x")
    v = g.variable(W, name="w")
    y = nl.for_(2, x, lambda i, a: (a @ v).tanh()).sum()
    step = v.assign(v - 0.5 * g.gradients(y, [v])[v])
    g.run({x: X}, [y], [step])
    h = np.tanh(X @ W)
    top = 1 - np.tanh(h @ W) ** 2
    below = (W @ top) * (1 - h**2)
    close(v.value, W - 0.5 * (np.outer(h, top) + np.outer(X, below)))


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_masks_are_computed_again_in_gradients(device: str) -> None:
    g = nl.Graph()
    x = g.placeholder((50,), name="x")
    state = g.constant(nl.random_state(3))

    def body(i, a, s):
        kept, after = nl.dropout(a, 0.25, state=s)
        return [kept, after]

    y, _ = nl.for_(3, [x, state], body)
    grad = g.gradients(y.sum(), [x])[x]
    ones = np.ones(50, np.float32)
    found = g.run({x: ones}, [y, grad], device=device)
    close(found[grad], np.asarray(found[y]))  # linear in x, and x is one
    assert 0 < (np.asarray(found[y]) == 0).sum() < 50


@pytest.mark.parametrize("device", DEVICES)
def test_complex_values(device: str) -> None:
    g = nl.Graph()
    z = g.placeholder((3,), nl.complex64, name="z")
    rows = g.placeholder((4, 3), nl.complex64, name="rows")

    def walk_(i, s, c):
        return [c[0] * s[0] + z], [c[0] + s[0]]

    (last,), (sums,) = nl.scan([rows], [z], walk_)
    y = nl.if_(nl.real(last).sum() > 0.0, lambda: last * 2.0, lambda: last - z)
    r = np.random.default_rng(0)
    a = (r.normal(size=3) + 1j * r.normal(size=3)).astype(np.complex64)
    b = (r.normal(size=(4, 3)) + 1j * r.normal(size=(4, 3))).astype(np.complex64)
    c, want = a, []
    for row in b:
        want.append(c + row)
        c = c * row + a
    found = g.run({z: a, rows: b}, [last, sums, y], device=device)
    close(found[last], c)
    close(found[sums], np.array(want))
    close(found[y], c * 2 if c.real.sum() > 0 else c - a)


def test_encoded_into_a_command_buffer() -> None:
    built = nested(5)
    buffer = nl.CommandBuffer(nl.CommandQueue("cpu"))
    found = built.graph.encode(buffer, built.feeds, built.targets)
    buffer.commit()
    buffer.wait_until_completed()
    close(found[built.targets[0]], built.expected[0])


def test_time_of_each_command() -> None:
    built = CASES["big"]()
    executable = built.graph.compile(built.types(), built.targets, device="cpu")
    times = executable.time_commands(1)
    assert "loop" in [t.name for t in times] and all(t.seconds > 0 for t in times)
