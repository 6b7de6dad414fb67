"""Command buffers on a device whose plays return before they are done."""

from __future__ import annotations

import time

import numpy as np
import pytest
from queued_device import QueuedDevice, QueuedLoaded

import niello as nl
from niello import backends
from niello.core.errors import DeviceLost

SECONDS = 20.0
X = np.arange(4, dtype=np.float32)


@pytest.fixture
def device(monkeypatch):
    made = QueuedDevice()
    monkeypatch.setitem(backends._devices, "numpy", made)
    yield made
    made.gate.set()


def compiled():
    graph = nl.Graph()
    x = graph.placeholder((4,), name="x")
    return graph.compile({x: (4,)}, [x * 2.0], device="numpy")


def until(condition) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


def test_several_buffers_are_queued_on_the_device(device):
    double = compiled()
    with nl.CommandQueue("numpy") as queue:
        device.gate.clear()
        buffers, value = [], X
        for _ in range(3):
            buffer = queue.command_buffer()
            (value,) = buffer.encode(double, [value])
            buffer.commit()
            buffers.append(buffer)
        until(lambda: all(b.status is nl.CommandStatus.SCHEDULED for b in buffers))
        assert queue.in_flight == 3 and device.calls["play"] == 3
        device.gate.set()
        buffers[-1].wait_until_completed(SECONDS)
    assert value.tolist() == (X * 8).tolist() and "synchronize" not in device.calls


def test_an_event_is_signalled_when_the_device_gets_there(device):
    event = nl.SharedEvent()
    with nl.CommandQueue("numpy") as queue:
        device.gate.clear()
        buffer = queue.command_buffer()
        buffer.encode(compiled(), [X])
        buffer.encode_signal(event, 1)
        buffer.commit()
        until(lambda: device.calls.get("play") == 1)
        assert event.value == 0
        device.gate.set()
        assert event.wait(1, SECONDS) == 1


@pytest.mark.parametrize("flag", [0, 1])
def test_a_predicate_costs_no_round_trip(device, flag):
    word = nl.TensorData.from_numpy(np.array([flag], np.int32)).to("numpy")
    with nl.CommandQueue(device) as queue:
        buffer = queue.command_buffer()
        (y,) = buffer.encode(compiled(), [X], predicate=nl.Predicate(word))
        buffer.commit()
        buffer.wait_until_completed(SECONDS)
    assert device.calls["play_if"] == 1 and not {"play", "download"} & set(device.calls)
    assert y.tolist() == (X * 2 * flag).tolist()


@pytest.mark.parametrize("flag", [0, 1])
def test_a_device_that_cannot_skip_is_asked_for_the_word(device, flag, monkeypatch):
    monkeypatch.delattr(QueuedLoaded, "play_if")
    word = nl.TensorData.from_numpy(np.array([9, flag], np.int32)).to(device)
    with nl.CommandQueue(device) as queue:
        buffer = queue.command_buffer()
        (y,) = buffer.encode(compiled(), [X], predicate=nl.Predicate(word, 4))
        buffer.commit()
        buffer.wait_until_completed(SECONDS)
    assert device.calls["download"] == 1 and device.calls.get("play", 0) == flag
    assert y.tolist() == (X * 2 * flag).tolist()


def test_a_device_without_fences_is_waited_for(device, monkeypatch):
    fence = QueuedDevice.fence
    monkeypatch.delattr(QueuedDevice, "fence")
    monkeypatch.setattr(QueuedDevice, "synchronize", lambda self: fence(self)())
    event = nl.SharedEvent()
    with nl.CommandQueue(device) as queue:
        buffer = queue.command_buffer()
        (y,) = buffer.encode(compiled(), [X])
        buffer.encode_signal(event, 1)
        buffer.commit()
        buffer.wait_until_completed(SECONDS)
        assert event.value == 1 and queue._finisher is None
    assert y.tolist() == (X * 2).tolist()


def test_a_lost_device_fails_the_buffers_that_were_running(device):
    event = nl.SharedEvent()
    with nl.CommandQueue(device) as queue:
        buffer = queue.command_buffer()
        buffer.encode(compiled(), [X])
        buffer.encode_signal(event, 1)
        device.lost = DeviceLost("numpy", "the device stopped answering", received="silence")
        buffer.commit()
        with pytest.raises(DeviceLost):
            buffer.wait_until_completed(SECONDS)
    assert buffer.status is nl.CommandStatus.FAILED and event.value == 0


def test_values_move_between_devices(device):
    there = nl.TensorData.from_numpy(X).to("numpy")
    assert there.device is device and there.to(device) is there
    back = there.to("cpu")
    assert back.device is nl.device("cpu") and back.tolist() == X.tolist()
