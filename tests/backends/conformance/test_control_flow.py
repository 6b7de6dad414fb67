"""Branches and loops on every device: by hand, and through the compiler with gradients.

On a machine with a GPU: NIELLO_REQUIRE_CUDA=1 pytest -k cuda with the path of this file.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

import niello as nl
from niello.core.dtypes import float32, int32
from niello.core.types import TensorType
from niello.graph.evaluate import evaluate
from niello.runtime.commands import (
    BufferRef,
    Command,
    Copy,
    Fill,
    If,
    Loop,
    Program,
    SliceCopy,
    Space,
)
from tests.backends.conformance.test_programs import N, Played, X, affine, dispatch
from tests.unit.control_flow_cases import CASES

KIND = TensorType((N,), float32)
WORDS = TensorType((4,), int32)
OUTPUT = BufferRef(Space.OUTPUT, 0, 0, KIND.bytes)
STEP = 4096  # of the arena, beyond any alignment
HALF = BufferRef(Space.ARENA, 0, STEP, KIND.bytes)
COUNTER = BufferRef(Space.ARENA, 0, 0, 4)


def word(i: int) -> BufferRef:
    """One of the words that are fed."""
    return BufferRef(Space.INPUT, 1, 4 * i, 4)


def program(*listed: Command, output: TensorType = KIND) -> Program:
    return Program((affine(),), listed, (KIND, WORDS), (output,), (), (), 3 * STEP)


START = Copy(BufferRef(Space.INPUT, 0, 0, KIND.bytes), OUTPUT)
TWICE = (dispatch(0, OUTPUT, HALF), Copy(HALF, OUTPUT))  # out = out * 2 + 1


def after(n: int) -> np.ndarray:
    x = X.copy()
    for _ in range(n):
        x = x * np.float32(2) + np.float32(1)
    return x


def play(device, made: Program, words=(0, 0, 0, 0)) -> np.ndarray:
    played = Played(device, made, [X, np.array(words, np.int32)])
    first = played.play()[0]
    assert np.array_equal(played.play()[0], first)  # also when it is recorded
    return first


@pytest.mark.parametrize("value", [0, 1, -5, 1 << 30])
def test_branches(running, value):
    both = If(word(2), (START, *TWICE), (Fill(OUTPUT, np.float32(7).tobytes()),))
    expected = after(1) if value else np.full(N, 7, np.float32)
    assert np.allclose(play(running, program(both), (0, 0, value, 0)), expected)
    one = If(word(2), (), TWICE)
    expected = X if value else after(1)
    assert np.allclose(play(running, program(START, one), (0, 0, value, 0)), expected)


@pytest.mark.parametrize("trips", [0, 1, 2, 9])
def test_counted_loop(running, trips):
    made = program(START, Loop(TWICE, COUNTER, trips))
    assert np.allclose(play(running, made), after(trips))


@pytest.mark.parametrize(
    ("count", "trips", "runs"), [(-2, None, 0), (0, None, 0), (3, None, 3), (5, 4, 4), (3, 9, 3)]
)
def test_loop_by_a_word(running, count, trips, runs):
    made = program(START, Loop(TWICE, COUNTER, trips, word(1)))
    assert np.allclose(play(running, made, (0, count, 0, 0)), after(runs))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("count", [None, 2])
def test_slices_by_the_counter(running, reverse, count):
    """Rows of three floats, which begin at any word; the last iteration also fills another row."""
    rows, width = 4, TensorType((3,), float32)
    stack = TensorType((rows, 3), float32)
    source = BufferRef(Space.INPUT, 0, 0, stack.bytes)
    target = BufferRef(Space.OUTPUT, 0, 0, stack.bytes)
    row = BufferRef(Space.ARENA, 0, STEP, width.bytes)
    body = (
        SliceCopy(source, row, COUNTER, width.bytes, 0),
        SliceCopy(row, target, COUNTER, 0, width.bytes),
    )
    ref = None if count is None else word(1)
    loop = Loop(body, COUNTER, rows, ref, reverse=reverse)
    seen = Copy(COUNTER, BufferRef(Space.ARENA, 0, 2 * STEP, 4))
    made = program(Fill(target, bytes(1)), loop, seen, output=stack)
    expected = np.zeros((rows, 3), np.float32)
    done = rows if count is None else count
    expected[:done] = X[: done * 3].reshape(done, 3)
    assert np.array_equal(play(running, made, (0, 0 if count is None else count, 0, 0)), expected)


def test_nested_loops_and_branches(running):
    """The inner loop runs as often as the outer counter says, where a word allows it."""
    inner = Loop(TWICE, BufferRef(Space.ARENA, 0, 2 * STEP, 4), None, COUNTER)
    outer = Loop((If(word(2), (inner,), TWICE),), COUNTER, 4)
    assert np.allclose(play(running, program(START, outer), (0, 0, 1, 0)), after(0 + 1 + 2 + 3))
    assert np.allclose(play(running, program(START, outer), (0, 0, 0, 0)), after(4))


@pytest.mark.parametrize("name", CASES)
def test_cases(running, name):
    if running.name == "numpy" and name == "big":
        pytest.skip("numpy interprets each element: minutes for this case")
    built = CASES[name]()
    executable = built.graph.compile(built.types(), built.targets, device=running.name)
    for _ in range(3):
        found = executable.run(list(built.feeds.values()))
        for a, b in zip(found, built.expected, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-4, atol=1e-5)


def gradient_case():
    """A scan with a data-dependent branch inside, and gradients of its loss."""
    g = nl.Graph()
    x = g.placeholder((5, 8), name="x")
    w = g.placeholder((8, 8), name="w")

    def step(i, slices, carried):
        new = nl.if_(
            carried[0].sum() > 0.0,
            lambda: (carried[0] @ w + slices[0]).tanh(),
            lambda: carried[0] * 0.5 + slices[0],
        )
        return [new], [new.sum()]

    (last,), (sums,) = nl.scan([x], [g.constant(np.full((1, 8), 0.25, np.float32))], step)
    grown, _ = nl.while_(
        [last, g.constant(0)],
        lambda a, n: n < 4,
        lambda a, n: [a + (a @ w).sin() * 0.1, n + 1],
        maximum_iterations=6,
    )
    loss = (grown * grown).sum() + sums.sum()
    grads = g.gradients(loss, [x, w])
    r = np.random.default_rng(0)
    feeds = {
        x: r.normal(size=(5, 8)).astype(np.float32),
        w: (r.normal(size=(8, 8)) / 3).astype(np.float32),
    }
    return g, feeds, [loss, last, sums, *grads.values()]


def test_gradients(running):
    g, feeds, targets = gradient_case()
    expected = evaluate(targets, feeds)
    types = {t: a.shape for t, a in feeds.items()}
    executable = g.compile(types, targets, device=running.name)
    for _ in range(3):
        for a, b in zip(executable.run(list(feeds.values())), expected, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-3, atol=1e-4)


def test_variables_in_loops(running):
    g = nl.Graph()
    v = g.variable(np.ones(3, np.float32), name="v")
    x = g.placeholder((3,), name="x")

    def body(i, a):
        now = v.read()
        v.assign(now * 2.0 + i.cast(nl.float32))
        return a + now

    y = nl.for_(4, x, body)
    found = np.asarray(g.run({x: np.zeros(3, np.float32)}, [y], device=running.name)[y])
    value, total = np.ones(3, np.float32), np.zeros(3, np.float32)
    for i in range(4):
        total, value = total + value, value * 2 + i
    assert np.allclose(found, total) and np.allclose(v.value, value)


def test_threads_share_an_executable(running):
    if running.name == "numpy":
        pytest.skip("numpy interprets each element: minutes for this case")
    built = CASES["nested"]()
    executable = built.graph.compile(built.types(), built.targets, device=running.name)
    wrong = []

    def work() -> None:
        for _ in range(5):
            found = np.asarray(executable.run(list(built.feeds.values()))[0])
            if not np.allclose(found, built.expected[0], rtol=1e-4):
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("flag", [0, 1])
def test_a_whole_run_under_a_predicate(running, flag):
    """The words that decide inside must not be asked for where nothing runs."""
    built = CASES["while"]()
    executable = built.graph.compile(built.types(), built.targets, device=running.name)
    kinds = nl.TensorData.from_numpy(np.array([flag], np.int32))
    kinds = kinds if running.host_memory else kinds.to(running.name)
    buffer = nl.CommandBuffer(nl.CommandQueue(running.name))
    (found,) = buffer.encode(executable, list(built.feeds.values()), predicate=nl.Predicate(kinds))
    buffer.commit()
    buffer.wait_until_completed()
    assert np.asarray(found).item() == (built.expected[0] if flag else 0)
