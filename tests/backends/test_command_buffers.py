"""Command queues, command buffers, events and predicates, on the cpu device."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest

import niello as nl
from niello.core.errors import (
    AttributeValueError,
    BackendUnavailable,
    CommandError,
    DeviceError,
    EventTimeout,
    FeedError,
    OutOfMemory,
)

SECONDS = 20.0  # bound of waits that end at once when all is well
X = np.arange(6, dtype=np.float32)


@pytest.fixture
def queue():
    with nl.CommandQueue("cpu", event_timeout=SECONDS) as made:
        yield made


def doubling(n: int = 6) -> nl.Executable:
    graph = nl.Graph()
    x = graph.placeholder((n,), name="x")
    return graph.compile({x: (n,)}, [nl.multiply(x, 2.0, name="y")], device="cpu")


def counter() -> tuple[nl.Graph, nl.Variable, nl.Executable]:
    graph = nl.Graph()
    v = graph.variable(np.zeros(2, np.float32), name="v")
    step = graph.compile({}, [], [v.assign(v + 1.0)], device="cpu")
    return graph, v, step


class FailingLoaded:
    """A program whose plays fail, before they write anything."""

    def __init__(self, program):
        self.program = program

    def play(self, handles):
        raise DeviceError("play", "the device is on fire", received="smoke")


def failing() -> nl.Executable:
    executable = doubling()
    executable.loaded = FailingLoaded(executable.program)
    return executable


# --- results
def test_results_of_earlier_encodes_are_inputs_of_later_ones(queue):
    double = doubling()
    buffer = queue.command_buffer()
    values = [X]
    for _ in range(5):
        values += buffer.encode(double, [values[-1]])
    assert buffer.status is nl.CommandStatus.ENCODING
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert buffer.status is nl.CommandStatus.COMPLETED and buffer.error is None
    assert [v.tolist() for v in values[1:]] == [(X * 2**n).tolist() for n in range(1, 6)]


def test_nothing_runs_before_commit(queue):
    _, v, step = counter()
    buffer = queue.command_buffer()
    buffer.encode(step)
    queue.drain()
    assert not v.value.any() and not buffer._done.is_set()
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert (v.value == 1).all()


def test_inputs_by_name_and_given_results(queue):
    double, out = doubling(), np.zeros(6, np.float32)
    buffer = queue.command_buffer()
    found = buffer.encode(double, {"x": X})
    given = buffer.encode(double, {"x": X}, [out])
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert found["y"].tolist() == (X * 2).tolist()
    assert given["y"] is out and (out == X * 2).all()


def test_graph_encode_trains_like_run():
    def step(graph):
        w = graph.variable(np.ones((3, 1), np.float32), name="w")
        x = graph.placeholder((None, 3), name="x")
        loss = ((x @ w) * (x @ w)).mean()
        grads = graph.gradients(loss, [w])
        return w, x, loss, w.assign(nl.sgd(0.1, w, grads[w]))

    feeds = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(np.float32)
    one, two = nl.Graph(), nl.Graph()
    w, x, loss, update = step(one)
    expected = [float(one.run({x: f}, [loss], [update], device="cpu")[loss]) for f in feeds]
    trained = w.value
    w, x, loss, update = step(two)
    with nl.CommandQueue("cpu") as queue:
        buffer = queue.command_buffer()
        losses = [two.encode(buffer, {x: f}, [loss], [update])[loss] for f in feeds]
        buffer.commit()
        buffer.wait_until_completed(SECONDS)
    assert [float(v) for v in losses] == expected and (w.value == trained).all()
    assert two.cache_info().misses == 1


def test_buffers_play_in_the_order_of_their_commits(queue):
    order = []
    buffers = [queue.command_buffer() for _ in range(8)]
    for n, buffer in enumerate(buffers):
        buffer.add_completed_handler(lambda b, error, n=n: order.append(n))
    for buffer in reversed(buffers):
        buffer.commit()
    buffers[0].wait_until_completed(SECONDS)
    assert order == [7, 6, 5, 4, 3, 2, 1, 0]


def test_memory_of_played_work_is_dropped(queue):
    buffer = queue.command_buffer()
    (first,) = buffer.encode(doubling(), [X])
    (second,) = buffer.encode(doubling(), [first])
    alive = weakref.ref(first.buffer)
    del first
    gc.collect()
    assert alive() is not None, "the encoded work holds it"
    buffer.commit_and_continue()
    queue.drain()
    gc.collect()
    assert alive() is None and second.tolist() == (X * 4).tolist()


# --- commit and continue
def test_commit_and_continue_starts_what_was_encoded(queue):
    _, v, step = counter()
    buffer = queue.command_buffer()
    buffer.encode(step)
    buffer.commit_and_continue()
    queue.drain()
    assert (v.value == 1).all() and buffer.status is nl.CommandStatus.ENCODING
    buffer.encode(step)
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert (v.value == 2).all()


@pytest.mark.parametrize("option", ["commit_after_kernels", "commit_after_bytes"])
def test_a_buffer_commits_by_itself(queue, option):
    _, v, step = counter()
    limit = {"commit_after_kernels": 2, "commit_after_bytes": 2 * step.bytes_moved}[option]
    buffer = queue.command_buffer(**{option: limit})
    buffer.encode(step)
    queue.drain()
    assert not v.value.any()
    buffer.encode(step)
    queue.drain()
    assert (v.value == 2).all()
    with pytest.raises(AttributeValueError) as error:
        queue.command_buffer(**{option: 0})
    assert option in str(error.value) and error.value.received == 0


def test_parts_after_a_failed_one_do_not_run(queue):
    _, v, step = counter()
    buffer = queue.command_buffer()
    buffer.encode(step)
    buffer.encode(failing(), [X])
    buffer.encode(step)
    buffer.commit_and_continue()
    buffer.encode(step)
    buffer.commit()
    with pytest.raises(DeviceError, match="on fire"):
        buffer.wait_until_completed(SECONDS)
    assert (v.value == 1).all()


# --- handlers and errors
def test_handlers_see_the_buffer_in_order(queue):
    seen = []
    buffer = queue.command_buffer()
    buffer.add_scheduled_handler(lambda b: seen.append(("scheduled", b, b.status)))
    buffer.add_completed_handler(lambda b, error: seen.append((error, b, b.status)))
    buffer.encode(doubling(), [X])
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert seen == [
        ("scheduled", buffer, nl.CommandStatus.SCHEDULED),
        (None, buffer, nl.CommandStatus.COMPLETED),
    ]


def test_errors_reach_handlers_and_waits_and_later_buffers_run(queue):
    seen = []
    _, v, step = counter()
    bad, good = queue.command_buffer(), queue.command_buffer()
    bad.add_completed_handler(lambda b, error: seen.append(error))
    bad.encode(failing(), [X])
    bad.encode(step)
    good.encode(step)
    bad.commit()
    good.commit()
    good.wait_until_completed(SECONDS)
    for _ in range(2):
        with pytest.raises(DeviceError) as error:
            bad.wait_until_completed(SECONDS)
        assert error.value is bad.error is seen[0]
    assert bad.status is nl.CommandStatus.FAILED and good.error is None
    assert (v.value == 1).all(), "of the failed buffer nothing, of the good one all"


def test_a_handler_that_raises_does_not_stop_the_queue(queue, monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    called = []
    buffer = queue.command_buffer()
    buffer.add_completed_handler(lambda b, error: 1 / 0)
    buffer.add_completed_handler(lambda b, error: called.append(error))
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert called == [None] and [r.exc_type for r in reported] == [ZeroDivisionError]


def test_a_handler_may_commit_the_next_buffer():
    with nl.CommandQueue("cpu", max_in_flight=1) as queue:
        _, v, step = counter()
        following = queue.command_buffer()
        following.encode(step)
        first = queue.command_buffer()
        first.encode(step)
        first.add_completed_handler(lambda b, error: following.commit())
        first.commit()
        first.wait_until_completed(SECONDS)
        following.wait_until_completed(SECONDS)
        assert (v.value == 2).all()


def test_a_handler_cannot_wait_for_its_own_queue(queue):
    errors = []
    other = queue.command_buffer()

    def handler(buffer, error):
        other.commit()
        for wait in (other.wait_until_completed, queue.drain):
            try:
                wait()
            except CommandError as caught:
                errors.append(caught)

    buffer = queue.command_buffer()
    buffer.add_completed_handler(handler)
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert [e.asked for e in errors] == ["wait_until_completed", "drain"]


def test_a_failed_encode_leaves_the_buffer_as_it_was(queue):
    _, v, step = counter()
    buffer = queue.command_buffer()
    buffer.encode(step)
    with pytest.raises(FeedError):
        buffer.encode(doubling(), [X[:3]])
    with pytest.raises(FeedError):
        buffer.encode(doubling(), [])
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert (v.value == 1).all()


# --- wrong use
@pytest.mark.parametrize(
    "use",
    [
        lambda b: b.encode(doubling(), [X]),
        lambda b: b.encode_signal(nl.SharedEvent(), 1),
        lambda b: b.encode_wait(nl.SharedEvent(), 1),
        lambda b: b.add_completed_handler(print),
        lambda b: b.add_scheduled_handler(print),
        lambda b: b.commit(),
        lambda b: b.commit_and_continue(),
    ],
    ids=["encode", "signal", "wait", "completed", "scheduled", "commit", "continue"],
)
def test_a_committed_buffer_takes_nothing(queue, use):
    buffer = queue.command_buffer()
    buffer.commit()
    with pytest.raises(CommandError, match="was committed; received a buffer that is") as error:
        use(buffer)
    assert "new CommandBuffer" in error.value.advice


def test_waiting_before_commit(queue):
    with pytest.raises(CommandError, match=r"not committed.*Call commit\(\) first"):
        queue.command_buffer().wait_until_completed()


def test_a_closed_queue_takes_no_work():
    _, v, step = counter()
    queue = nl.CommandQueue("cpu")
    before, after = queue.command_buffer(), queue.command_buffer()
    before.encode(step)
    before.commit()
    queue.close()
    assert before.status is nl.CommandStatus.COMPLETED and (v.value == 1).all()
    for use in (after.commit, after.commit_and_continue):
        with pytest.raises(CommandError, match="the command queue was closed"):
            use()
    assert after.status is nl.CommandStatus.ENCODING


def test_an_executable_of_another_device(queue):
    graph = nl.Graph()
    x = graph.placeholder((6,))
    other = graph.compile({x: (6,)}, [x + 1.0], device="numpy")
    with pytest.raises(DeviceError, match="belongs to cpu; received an executable for numpy"):
        queue.command_buffer().encode(other, [X])


@pytest.mark.parametrize("options", [{"max_in_flight": 0}, {"event_timeout": -1.0}])
def test_queue_options(options):
    with pytest.raises(AttributeValueError, match=next(iter(options))):
        nl.CommandQueue("cpu", **options)


def test_queue_of_no_device():
    with pytest.raises(BackendUnavailable, match="abacus"):
        nl.CommandQueue("abacus")
    with pytest.raises(AttributeValueError, match="received 5"):
        nl.CommandQueue(5)
    assert nl.CommandQueue(nl.device("cpu")).device is nl.device("cpu")


# --- in flight
def test_commits_wait_for_a_place_in_flight():
    event = nl.SharedEvent()
    with nl.CommandQueue("cpu", max_in_flight=2, event_timeout=SECONDS) as queue:
        first = queue.command_buffer()
        first.encode_wait(event, 1)
        first.commit()
        queue.command_buffer().commit()
        third = queue.command_buffer()
        committing = threading.Thread(target=third.commit)
        committing.start()
        committing.join(0.1)
        assert committing.is_alive() and queue.in_flight == 2
        event.signal(1)
        committing.join(SECONDS)
        assert not committing.is_alive()
        third.wait_until_completed(SECONDS)
        assert queue.in_flight == 0


def test_threads_may_share_a_queue(queue):
    _, v, step = counter()

    def work():
        for _ in range(20):
            buffer = queue.command_buffer()
            buffer.encode(step)
            buffer.commit()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    queue.drain()
    assert (v.value == 80).all()


def test_a_dropped_queue_ends_its_thread():
    queue = nl.CommandQueue("cpu")
    buffer = queue.command_buffer()
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    (number,) = queue._threads
    del buffer, queue
    gc.collect()
    limit = time.monotonic() + SECONDS
    while number in {t.ident for t in threading.enumerate()}:
        assert time.monotonic() < limit
        time.sleep(0.01)


# --- events
def test_work_waits_for_an_event_and_signals_another(queue):
    _, v, step = counter()
    go, done = nl.SharedEvent(name="go"), nl.SharedEvent(3, name="done")
    buffer = queue.command_buffer()
    buffer.encode_wait(go, 1)
    buffer.encode(step)
    buffer.encode_signal(done, 4)
    buffer.commit()
    with pytest.raises(EventTimeout):
        done.wait(4, timeout=0.05)
    assert not v.value.any() and done.value == 3
    go.signal(1)
    assert done.wait(4, SECONDS) == 4 and (v.value == 1).all()
    buffer.wait_until_completed(SECONDS)


def test_two_queues_meet_at_events():
    ping, pong = nl.SharedEvent(), nl.SharedEvent()
    _, v, step = counter()
    with (
        nl.CommandQueue("cpu", event_timeout=SECONDS) as one,
        nl.CommandQueue("cpu", event_timeout=SECONDS) as two,
    ):
        a, b = one.command_buffer(), two.command_buffer()
        for turn in range(1, 6):
            a.encode(step)
            a.encode_signal(ping, turn)
            a.encode_wait(pong, turn)
            b.encode_wait(ping, turn)
            b.encode(step)
            b.encode_signal(pong, turn)
        b.commit()
        a.commit()
        for buffer in (a, b):
            buffer.wait_until_completed(SECONDS)
    assert (v.value == 10).all() and ping.value == pong.value == 5


def test_an_event_that_nobody_signals():
    _, v, step = counter()
    never = nl.SharedEvent(name="never")
    with nl.CommandQueue("cpu", event_timeout=0.05) as queue:
        buffer, later = queue.command_buffer(), queue.command_buffer()
        buffer.encode_wait(never, 2)
        buffer.encode(step)
        buffer.encode_signal(never, 9)
        later.encode(step)
        buffer.commit()
        later.commit()
        with pytest.raises(EventTimeout) as error:
            buffer.wait_until_completed(SECONDS)
        later.wait_until_completed(SECONDS)
    assert str(error.value) == (
        "encode_wait: never did not reach 2 within 0.05 seconds; received value 0. "
        "Signal the event before something waits for it, or wait longer."
    )
    assert isinstance(error.value, TimeoutError) and error.value.reached == 0
    assert (v.value == 1).all() and never.value == 0


def test_a_wait_can_have_a_timeout_of_its_own(queue):
    buffer = queue.command_buffer()
    buffer.encode_wait(nl.SharedEvent(), 1, timeout=0.01)
    buffer.commit()
    with pytest.raises(EventTimeout, match=r"within 0\.01 seconds"):
        buffer.wait_until_completed(SECONDS)


def test_waiting_for_a_buffer_has_a_timeout(queue):
    event = nl.SharedEvent()
    buffer = queue.command_buffer()
    buffer.encode_wait(event, 1)
    buffer.commit()
    with pytest.raises(EventTimeout, match=r"not done within 0\.01 seconds"):
        buffer.wait_until_completed(timeout=0.01)
    event.signal(1)
    buffer.wait_until_completed(SECONDS)


def test_signalling_less_than_the_value_fails_the_buffer(queue):
    event = nl.SharedEvent(5)
    buffer = queue.command_buffer()
    buffer.encode_signal(event, 4)
    buffer.commit()
    with pytest.raises(AttributeValueError, match="only grows"):
        buffer.wait_until_completed(SECONDS)
    assert event.value == 5


def test_event_handlers_are_called_once_in_order_of_value():
    event, seen = nl.SharedEvent(), []
    for value in (3, 1, 2, 1):
        event.notify(value, lambda e, v: seen.append(v))
    event.signal(2)
    assert seen == [1, 1, 2]
    event.signal(2)
    event.signal(7)
    assert seen == [1, 1, 2, 3]
    event.notify(6, lambda e, v: seen.append(v))
    assert seen == [1, 1, 2, 3, 6]


@pytest.mark.parametrize("value", [-1, 1 << 64, 1.5, True, None])
def test_event_values(value):
    event = nl.SharedEvent()
    for use in (event.signal, event.wait, lambda v: event.notify(v, print), nl.SharedEvent):
        with pytest.raises(AttributeValueError, match="from 0 to"):
            use(value)


# --- predicates
def test_the_predicate_of_a_buffer_applies_to_what_follows(queue):
    _, v, step = counter()
    off, on = (nl.TensorData.from_numpy(np.array([n], np.int32)) for n in (0, 1))
    buffer = queue.command_buffer()
    buffer.predicate = nl.Predicate(off)
    buffer.encode(step)
    buffer.encode(step, predicate=nl.Predicate(on))
    buffer.predicate = None
    buffer.encode(step)
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert (v.value == 2).all()


@pytest.mark.parametrize("offset", [-4, 2, 8, True, "0"])
def test_predicate_offsets(offset):
    value = nl.TensorData.from_numpy(np.zeros(2, np.int32))
    with pytest.raises(AttributeValueError):
        nl.Predicate(value, offset)


def test_predicate_of_an_array():
    with pytest.raises(AttributeValueError, match=r"TensorData\.from_numpy"):
        nl.Predicate(np.zeros(1, np.int32))


# --- memory
def test_work_goes_on_after_out_of_memory(queue):
    graph = nl.Graph()
    x = graph.placeholder((None,), name="x")
    huge = graph.compile({x: (1,)}, [nl.broadcast_to(x, (1 << 44,))], device="cpu")
    gc.collect()
    before = nl.memory_stats("cpu")["current"]
    double, buffer = doubling(), queue.command_buffer()
    with pytest.raises(OutOfMemory) as error:
        buffer.encode(huge, [X[:1]])
    with pytest.raises(OutOfMemory):
        huge.run([X[:1]])
    assert error.value.requested == 4 << 44 and error.value.limit < error.value.requested
    (twice,) = buffer.encode(double, [X])
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert twice.tolist() == (X * 2).tolist()
    del twice, buffer, double
    gc.collect()
    assert nl.memory_stats("cpu")["current"] == before


def test_out_of_memory_while_playing_fails_the_buffer_only(queue):
    """Intermediate results get memory when the work runs."""
    graph, n = nl.Graph(), 1 << 22
    a, b = graph.placeholder((n, 2), name="a"), graph.placeholder((2, n), name="b")
    inputs = [np.ones((n, 2), np.float32), np.ones((2, n), np.float32)]
    huge = graph.compile({a: (n, 2), b: (2, n)}, [nl.matmul(nl.matmul(a, b), a)], device="cpu")
    assert huge.arena_bytes >= 4 * n * n
    _, v, step = counter()
    bad, good = queue.command_buffer(), queue.command_buffer()
    bad.encode(huge, inputs)
    bad.encode(step)
    good.encode(step)
    bad.commit()
    good.commit()
    with pytest.raises(OutOfMemory) as error:
        bad.wait_until_completed(SECONDS)
    good.wait_until_completed(SECONDS)
    assert error.value.requested >= 4 * n * n and (v.value == 1).all()


def test_graph_encode_fills_given_results(queue):
    graph = nl.Graph()
    x = graph.placeholder((6,), name="x")
    y, z = x + 1.0, x * 3.0
    out = {y: np.zeros(6, np.float32), z: np.zeros(6, np.float32)}
    buffer = queue.command_buffer()
    found = graph.encode(buffer, {x: X}, [y, z], results=out)
    with pytest.raises(FeedError, match="for each target"):
        graph.encode(buffer, {x: X}, [y, z], results={y: out[y]})
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert (out[y] == X + 1).all() and (out[z] == X * 3).all() and found[y] is out[y]


def test_an_executable_encodes_itself(queue):
    buffer = queue.command_buffer()
    off = nl.TensorData.from_numpy(np.zeros(1, np.uint32))
    (y,) = doubling().encode(buffer, [X])
    (z,) = doubling().encode(buffer, [X], predicate=nl.Predicate(off))
    buffer.commit()
    buffer.wait_until_completed(SECONDS)
    assert (y.numpy() == X * 2).all() and not z.numpy().any()
