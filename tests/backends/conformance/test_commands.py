"""Command buffers, events and predicates on every device that runs."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import niello as nl
from niello import backends
from niello.core.errors import DeviceError, EventTimeout, OutOfMemory

SECONDS = 60.0
N = 1000
X = np.linspace(-3, 3, N, dtype=np.float32)


@pytest.fixture
def queue(running):
    with nl.CommandQueue(running, event_timeout=SECONDS) as made:
        yield made


@pytest.fixture
def double(running):
    """y = 2 x"""
    graph = nl.Graph()
    x = graph.placeholder((N,), name="x")
    return graph.compile({x: (N,)}, [x * 2.0], device=running.name)


@pytest.fixture
def counter(running):
    """A variable, and an executable that adds one to it."""
    graph = nl.Graph()
    v = graph.variable(np.zeros(3, np.float32), name="v")
    return v, graph.compile({}, [], [v.assign(v + 1.0)], device=running.name)


def flags(device, *values: int) -> nl.TensorData:
    return nl.TensorData.from_numpy(np.array(values, np.int32)).to(device)


def finish(buffer) -> None:
    buffer.commit()
    buffer.wait_until_completed(SECONDS)


def test_a_chain_stays_on_the_device(queue, double):
    buffer = queue.command_buffer()
    value = X
    for _ in range(4):
        (value,) = buffer.encode(double, [value])
        assert value.device is queue.device
    finish(buffer)
    assert buffer.status is nl.CommandStatus.COMPLETED
    assert np.allclose(value, X * 16)


def test_arrays_receive_results(queue, double):
    out = np.zeros(N, np.float32)
    buffer = queue.command_buffer()
    assert buffer.encode(double, [X], [out])[0] is out
    finish(buffer)
    assert np.allclose(out, X * 2)


def test_commit_and_continue_and_variables(queue, counter):
    v, step = counter
    buffer = queue.command_buffer(commit_after_kernels=3)
    for _ in range(10):
        buffer.encode(step)
    buffer.commit_and_continue()
    queue.drain()
    assert (v.value == 10).all() and buffer.status is nl.CommandStatus.ENCODING
    buffer.encode(step)
    finish(buffer)
    assert (v.value == 11).all()


def test_many_buffers_in_flight(running, double, counter):
    v, step = counter
    done = []
    with nl.CommandQueue(running, max_in_flight=3, event_timeout=SECONDS) as queue:
        found = []
        for n in range(20):
            buffer = queue.command_buffer()
            buffer.add_completed_handler(lambda b, error, n=n: done.append((n, error)))
            buffer.encode(step)
            found += buffer.encode(double, [X + n])
            assert queue.in_flight <= 3
            buffer.commit()
        queue.drain()
    assert done == [(n, None) for n in range(20)] and (v.value == 20).all()
    assert all(np.allclose(y, (X + n) * 2, atol=1e-5) for n, y in enumerate(found))


def test_events_order_two_queues(running, counter):
    v, step = counter
    ready = nl.SharedEvent()
    with (
        nl.CommandQueue(running, event_timeout=SECONDS) as one,
        nl.CommandQueue(running, event_timeout=SECONDS) as two,
    ):
        second, first = two.command_buffer(), one.command_buffer()
        second.encode_wait(ready, 1)
        second.encode(step)
        second.encode_signal(ready, 2)
        second.commit()
        first.encode(step)
        first.encode_signal(ready, 1)
        finish(first)
        assert ready.wait(2, SECONDS) == 2
        second.wait_until_completed(SECONDS)
    assert (v.value == 2).all()


def test_the_host_signals_and_is_told(queue, counter):
    v, step = counter
    event, told = nl.SharedEvent(), threading.Event()
    event.notify(2, lambda e, value: told.set())
    buffer = queue.command_buffer()
    buffer.encode_wait(event, 1)
    buffer.encode(step)
    buffer.encode_signal(event, 2)
    buffer.commit()
    assert not v.value.any() and not told.is_set()
    event.signal(1)
    assert told.wait(SECONDS) and (v.value == 1).all()
    buffer.wait_until_completed(SECONDS)


def test_a_wait_that_times_out_leaves_variables(queue, counter):
    v, step = counter
    buffer, later = queue.command_buffer(), queue.command_buffer()
    buffer.encode_wait(nl.SharedEvent(), 1, timeout=0.02)
    buffer.encode(step)
    later.encode(step)
    buffer.commit()
    later.commit()
    with pytest.raises(EventTimeout):
        buffer.wait_until_completed(SECONDS)
    later.wait_until_completed(SECONDS)
    assert (v.value == 1).all()


@pytest.mark.parametrize("flag", [0, 1, -1, 1 << 30])
def test_predicates(queue, double, counter, flag):
    v, step = counter
    predicate = nl.Predicate(flags(queue.device, 5, flag), 4)
    buffer = queue.command_buffer()
    buffer.encode(step, predicate=predicate)
    (y,) = buffer.encode(double, [X], predicate=predicate)
    buffer.encode(step)
    finish(buffer)
    assert (v.value == (2 if flag else 1)).all()
    assert np.allclose(y, X * 2) if flag else not np.asarray(y).any()


@pytest.mark.parametrize("flag", [0, 3])
def test_results_that_were_given_keep_their_contents(queue, double, flag):
    there = nl.TensorData.from_numpy(np.full(N, 7, np.float32), copy=True).to(queue.device)
    here = np.full(N, 7, np.float32)
    buffer = queue.command_buffer()
    buffer.predicate = nl.Predicate(flags(queue.device, flag))
    buffer.encode(double, [X], [there])
    buffer.encode(double, [X], [here])
    finish(buffer)
    for out in (there, here):
        assert np.allclose(out, X * 2) if flag else (np.asarray(out) == 7).all()


@pytest.mark.parametrize("most", [1.0, 10.0])
def test_a_predicate_computed_in_the_same_buffer(queue, double, most):
    graph = nl.Graph()
    x = graph.placeholder((N,), name="x")
    over = (nl.max(x) > most).cast(nl.int32)
    test = graph.compile({x: (N,)}, [over], device=queue.device.name)
    buffer = queue.command_buffer()
    (flag,) = buffer.encode(test, [X])
    (y,) = buffer.encode(double, [X], predicate=nl.Predicate(flag))
    finish(buffer)
    assert np.allclose(y, X * 2) if most < 3 else not np.asarray(y).any()


def test_a_predicate_is_read_when_the_work_runs(queue, counter):
    """The word changes after encoding, and between two runs of the same program."""
    v, step = counter
    graph = nl.Graph()
    x = graph.placeholder((1,), nl.int32)
    flip = graph.compile({x: (1,)}, [1 - x], device=queue.device.name)
    flag = flags(queue.device, 0)
    buffer = queue.command_buffer()
    for _ in range(6):
        buffer.encode(step, predicate=nl.Predicate(flag))
        (flag,) = buffer.encode(flip, [flag])
    finish(buffer)
    assert (v.value == 3).all()


def test_a_predicate_of_a_device_that_cannot_be_read(queue, double):
    if queue.device.host_memory:
        pytest.skip("host memory reads every predicate of the host")
    buffer = queue.command_buffer()
    host = nl.TensorData.from_numpy(np.ones(1, np.int32))
    with pytest.raises(DeviceError, match="Move it first"):
        buffer.encode(double, [X], predicate=nl.Predicate(host))


def test_out_of_memory_in_encode(queue, running):
    graph = nl.Graph()
    x = graph.placeholder((1,), name="x")
    size = 1 << 40
    if backends.backend(running.name).limits.max_buffer_bytes < size:
        pytest.skip(f"{running.name} refuses buffers of this size when compiling")
    huge = graph.compile({x: (1,)}, [nl.broadcast_to(x, (size // 4,))], device=running.name)
    before = running.memory_stats()["current"]
    buffer = queue.command_buffer()
    with pytest.raises(OutOfMemory) as error:
        buffer.encode(huge, [X[:1]])
    assert error.value.requested == size
    del buffer
    graph = nl.Graph()
    x = graph.placeholder((N,), name="x")
    assert np.allclose(graph.run({x: X}, [x + 1.0], device=running.name).popitem()[1], X + 1)
    assert running.memory_stats()["current"] - before < 1 << 20
