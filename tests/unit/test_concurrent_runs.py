"""Runs from several threads, runs in flight, and errors that arrive later."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import niello as nl
from niello.core.errors import FeedError, ShapeError

DEVICES = ("cpu", "numpy")
each_device = pytest.mark.parametrize("device", DEVICES)
WAIT = 60  # seconds: far more than anything here takes


def full(value: float, size: int = 1000) -> np.ndarray:
    return np.full(size, value, np.float32)


def chain(device: str, size: int = 1000) -> nl.Executable:
    """Two kernels with an intermediate result, so that runs need an arena each."""
    graph = nl.Graph()
    x = graph.placeholder((size,))
    return graph.compile({x: (size,)}, [x - x.sum() / size, x * 2.0], device=device)


@each_device
@pytest.mark.parametrize("threads", [2, 8])
def test_one_executable_in_many_threads(threads: int, device: str) -> None:
    executable = chain(device)
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        start.wait(WAIT)
        for i in range(20):
            value = full(number * 100 + i)
            centred, doubled = executable.run([value])
            np.testing.assert_allclose(centred, 0.0, atol=1e-2)
            np.testing.assert_array_equal(doubled, value * 2)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, n) for n in range(threads)]:
            done.result(WAIT)


@each_device
@pytest.mark.parametrize("threads", [2, 8])
def test_updates_of_one_variable_are_not_lost(threads: int, device: str) -> None:
    graph = nl.Graph()
    v = graph.variable(full(0.0))
    x = graph.placeholder((1000,))
    total = v + x
    executable = graph.compile({x: (1000,)}, [total], [v.assign(total)], device=device)
    start = threading.Barrier(threads)

    def work() -> None:
        start.wait(WAIT)
        for _ in range(25):
            (seen,) = executable.run([full(1.0)])
            row = seen.numpy()
            assert (row == row[0]).all()  # no half-written value

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result(WAIT)
    np.testing.assert_array_equal(v.value, full(25.0 * threads))


@each_device
def test_two_executables_that_share_variables(device: str) -> None:
    """Both lock both variables, in one order: no deadlock, no lost update."""
    graph = nl.Graph()
    a, b = graph.variable(full(0.0)), graph.variable(full(0.0))
    up = [a.assign(a + 1.0), b.assign(b + 1.0)]
    down = [b.assign(b - 1.0), a.assign(a - 1.0)]
    first, second = (graph.compile({}, [], s, device=device) for s in (up, down))

    def work(executable: nl.Executable) -> None:
        for _ in range(40):
            executable.run()
            assert np.isfinite(a.value).all()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, e) for e in (first, second) * 2]:
            done.result(WAIT)
    np.testing.assert_array_equal(a.value, full(0.0))
    np.testing.assert_array_equal(b.value, full(0.0))


def test_graph_run_in_many_threads() -> None:
    """Compiling on demand, with different sizes at once."""
    graph = nl.Graph()
    x = graph.placeholder((None,))
    y = (x * 2.0).sum()

    def work(number: int) -> None:
        for size in (number + 1, 17, 33):
            found = graph.run({x: full(1.0, size)}, [y])[y]
            assert found.item() == 2.0 * size

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, n) for n in range(8)]:
            done.result(WAIT)
    assert graph.cache_info().size == len({*range(1, 9), 17, 33})


def test_building_graphs_in_many_threads() -> None:
    def work(number: int) -> None:
        graph = nl.Graph()
        x = graph.placeholder((4,))
        y = x
        for _ in range(20):
            y = (y + 1.0).tanh() if number % 2 else (y * 0.5).exp().clamp(0.0, 1.0)
        a = graph.run({x: full(0.5, 4)}, [y], device="numpy")[y].numpy()
        b = graph.run({x: full(0.5, 4)}, [y], device="cpu")[y].numpy()
        np.testing.assert_allclose(a, b, rtol=1e-5)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, n) for n in range(6)]:
            done.result(WAIT)


# --- asynchronous runs
@each_device
def test_run_async_delivers_results(device: str) -> None:
    executable = chain(device)
    seen: list[object] = []
    arrived = threading.Event()

    def handler(results: object, error: BaseException | None) -> None:
        seen.extend([results, error])
        arrived.set()

    future = executable.run_async([full(3.0)], completion_handler=handler)
    np.testing.assert_array_equal(future.result(WAIT)[1], full(6.0))
    assert arrived.wait(WAIT)
    assert seen[1] is None
    np.testing.assert_array_equal(seen[0][1], full(6.0))  # type: ignore[index]


def test_run_async_delivers_errors() -> None:
    executable = chain("cpu")
    seen: list[object] = []
    arrived = threading.Event()

    def handler(results: object, error: BaseException | None) -> None:
        seen.extend([results, error])
        arrived.set()

    future = executable.run_async([full(3.0, 7)], completion_handler=handler)
    with pytest.raises(FeedError, match="compiled for"):
        future.result(WAIT)
    assert arrived.wait(WAIT)
    assert seen[0] is None
    assert isinstance(seen[1], FeedError)
    assert executable.run_async([full(1.0)]).result(WAIT)  # the queue goes on


def test_graph_run_async() -> None:
    graph = nl.Graph()
    x, z = graph.placeholder((None, 2)), graph.placeholder((None, 3))
    y = x * 2.0
    bad = nl.matmul(x, z)
    assert graph.run_async({x: np.ones((1, 2), np.float32)}, [y]).result(WAIT)[y].shape == (1, 2)
    failing = graph.run_async(
        {x: np.ones((2, 2), np.float32), z: np.ones((5, 3), np.float32)}, [bad]
    )
    with pytest.raises(ShapeError):
        failing.result(WAIT)


@each_device
def test_asynchronous_runs_keep_their_order(device: str) -> None:
    graph = nl.Graph()
    v = graph.variable(full(1.0, 4))
    x = graph.placeholder((4,))
    executable = graph.compile({x: (4,)}, [], [v.assign(v * 2.0 + x)], device=device)
    expected = full(1.0, 4)
    pending = []
    for i in range(12):
        pending.append(executable.run_async([full(float(i), 4)]))
        expected = expected * 2 + i
    for p in pending:
        p.result(WAIT)
    np.testing.assert_array_equal(v.value, expected)


def test_cancelled_runs_reach_the_handler() -> None:
    graph = nl.Graph()
    x = graph.placeholder((1,))
    executable = graph.compile({x: (1,)}, [x + 1.0])
    release, arrived = threading.Event(), threading.Event()
    errors: list[BaseException | None] = []
    blocker = executable.run_async([full(1.0, 1)], completion_handler=lambda *_: release.wait(WAIT))
    pending = executable.run_async(
        [full(1.0, 1)], completion_handler=lambda _, e: (errors.append(e), arrived.set())
    )
    cancelled = pending.cancel()
    release.set()
    blocker.result(WAIT)
    assert arrived.wait(WAIT)
    assert (errors[0] is not None) == cancelled


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_asynchronous_runs_after_fork() -> None:
    """A child has none of its parent's threads and starts its own."""
    executable = chain("cpu", 100_000)
    executable.run_async([full(1.0, 100_000)]).result(WAIT)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            found = executable.run_async([full(3.0, 100_000)]).result(WAIT)
            code = int(found[1].numpy()[0] != 6.0)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@each_device
def test_double_buffering(device: str) -> None:
    executable = chain(device)
    found = []
    with executable.in_flight(2) as queue:
        pending = [queue.submit([full(float(i))]) for i in range(10)]
        found = [p.result(WAIT)[1] for p in pending]
    for i, result in enumerate(found):
        np.testing.assert_array_equal(result, full(2.0 * i))


def test_errors_in_flight() -> None:
    executable = chain("cpu")
    with executable.in_flight(2) as queue:
        good, bad, last = (queue.submit([full(1.0, n)]) for n in (1000, 3, 1000))
        assert good.result(WAIT)
        with pytest.raises(FeedError):
            bad.result(WAIT)
        assert last.result(WAIT)
