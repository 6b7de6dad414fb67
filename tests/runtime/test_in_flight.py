"""Executions in flight: order, bound, errors, memory."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from niello.core import dtypes
from niello.core.errors import AttributeValueError, DeviceError
from niello.core.types import TensorType
from niello.runtime.device import HostDevice
from niello.runtime.in_flight import InFlight
from niello.runtime.tensor_data import TensorData


def test_results_come_in_order():
    seen = []
    with InFlight(lambda x: seen.append(x) or x * 2, depth=3) as queue:
        pending = [queue.submit(i) for i in range(20)]
        assert [p.result(10) for p in pending] == [i * 2 for i in range(20)]
    assert seen == list(range(20))


def test_submit_waits_when_depth_are_unfinished():
    gate = threading.Event()
    queue = InFlight(lambda: gate.wait(10), depth=2)
    queue.submit()
    queue.submit()
    third = threading.Thread(target=queue.submit)
    third.start()
    time.sleep(0.05)
    assert third.is_alive()
    gate.set()
    third.join(10)
    assert not third.is_alive()
    queue.close()


def test_caller_runs_ahead():
    gate = threading.Event()
    with InFlight(lambda: gate.wait(10), depth=2) as queue:
        first = queue.submit()
        assert not first.done()
        gate.set()
        assert first.result(10)


def test_errors_arrive_with_the_result_and_do_not_stop_the_queue():
    def run(x):
        return 1 // x

    with InFlight(run, depth=2) as queue:
        pending = [queue.submit(x) for x in (1, 0, 1, 0, 1)]
        with pytest.raises(ZeroDivisionError):
            pending[1].result(10)
        assert pending[4].result(10) == 1


def test_completion_handler_and_options():
    done = []
    with InFlight(lambda x, *, y: x + y) as queue:
        queue.submit(1, y=2, completion_handler=lambda f: done.append(f.result()))
        queue.drain()
    assert done == [3]


def test_drain_waits():
    finished = []
    with InFlight(lambda x: (time.sleep(0.01), finished.append(x)), depth=2) as queue:
        for i in range(4):
            queue.submit(i)
        queue.drain()
        assert finished == [0, 1, 2, 3]


def test_closed_queue_takes_no_more():
    queue = InFlight(lambda: None)
    queue.close()
    with pytest.raises(DeviceError, match="closed"):
        queue.submit()


@pytest.mark.parametrize("depth", [0, -1])
def test_depth_must_be_positive(depth):
    with pytest.raises(AttributeValueError) as error:
        InFlight(lambda: None, depth)
    assert error.value.received == depth


def test_result_buffers_rotate():
    device = HostDevice("test")
    kind = TensorType((1000,), dtypes.float32)

    def run(x):
        result = TensorData(device.allocate(kind.bytes), kind)
        result.numpy()[...] = x
        return result

    addresses = set()
    with InFlight(run, depth=2) as queue:
        last = queue.submit(0)
        for i in range(1, 30):
            following = queue.submit(i)
            value = last.result(10)
            assert (np.asarray(value) == i - 1).all()
            addresses.add(value.handle)
            del value
            last = following
    assert len(addresses) <= 3
    assert device.memory_stats()["peak"] <= 3 * 4096
