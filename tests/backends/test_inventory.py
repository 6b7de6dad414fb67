"""What users ask about devices."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import niello as nl
from niello import backends
from niello.core.errors import BackendUnavailable, ConfigError, OutOfMemory


def test_every_back_end_is_listed_with_what_it_is_or_lacks():
    found = {d.name: d for d in nl.devices()}
    assert tuple(found) == nl.device_names()
    for name in ("cpu", "numpy"):
        record = found[name]
        assert record.available and record.runs and record.description == nl.device(name).describe()
        assert set(record.memory) == {"current", "peak", "cached"}
    assert found["null"].available and not found["null"].runs
    for record in found.values():
        assert record.available == (record.name in nl.available_devices())
        if not record.available:
            assert record.memory is None and record.description.startswith(record.name)


def test_the_default_device(monkeypatch):
    monkeypatch.delenv("NIELLO_DEVICE", raising=False)
    assert nl.default_device() == backends.default_name()
    monkeypatch.setenv("NIELLO_DEVICE", "numpy")
    assert nl.default_device() == "numpy" and nl.CommandQueue().device.name == "numpy"
    graph = nl.Graph()
    y = graph.constant(2.0) * graph.variable(3.0)
    assert graph.run(targets=[y])[y].device.name == "numpy"
    monkeypatch.setenv("NIELLO_DEVICE", "abacus")
    with pytest.raises(BackendUnavailable, match="'abacus'"):
        nl.default_device()
    with pytest.raises(BackendUnavailable, match="'abacus'"):
        graph.run(targets=[y])


def test_the_default_is_the_first_that_opens(monkeypatch):
    monkeypatch.delenv("NIELLO_DEVICE", raising=False)
    for present, wanted in ((("cuda", "cpu", "numpy"), "cuda"), (("cpu", "numpy"), "cpu")):
        asked = []

        def opening(name, present=present, asked=asked):
            asked.append(name)
            if name not in present:
                raise BackendUnavailable("device", "not here", received=name)

        monkeypatch.setattr(backends, "device", opening)
        backends._preferred.cache_clear()
        assert backends.default_name() == backends.default_name() == wanted
        assert asked == ["cuda", "cpu"][: len(asked)]  # looked for once, the GPU first
    backends._preferred.cache_clear()


def test_threads():
    usual = nl.thread_count()
    try:
        nl.set_threads(3)
        assert nl.thread_count() == 3
        with pytest.raises(ConfigError, match="1 to 1024; received 0"):
            nl.set_threads(0)
    finally:
        nl.set_threads(None)
    assert nl.thread_count() == usual


def test_memory_of_a_device():
    gc.collect()
    before = nl.memory_stats("cpu")
    value = nl.TensorData(nl.device("cpu").allocate(1 << 20), nl.TensorType((1 << 18,)))
    during = nl.memory_stats(nl.device("cpu"))
    assert during["current"] - before["current"] == 1 << 20 and during["peak"] >= during["current"]
    del value
    after = nl.memory_stats("cpu")
    assert after["current"] == before["current"] and after["cached"] >= 1 << 20
    nl.release_memory("cpu")
    nl.reset_peak_memory("cpu")
    assert nl.memory_stats("cpu") == {**before, "cached": 0, "peak": before["current"]}


def test_running_after_out_of_memory():
    graph = nl.Graph()
    x = graph.placeholder((1,), name="x")
    y, huge = x + 1.0, nl.broadcast_to(x, (1 << 44,))
    feed = {x: np.ones(1, np.float32)}
    graph.run(feed, [y], device="cpu")
    gc.collect()
    before = nl.memory_stats("cpu")
    with pytest.raises(OutOfMemory, match=r"64\.0 TiB do not fit: .* are in use of") as error:
        graph.run(feed, [huge], device="cpu")
    assert error.value.requested == 1 << 46 and error.value.held == before["current"]
    assert nl.memory_stats("cpu")["current"] == before["current"]
    assert nl.memory_stats("cpu")["peak"] == before["peak"], "what was refused was never in use"
    assert graph.run(feed, [y], device="cpu")[y].tolist() == [2.0]


def test_values_move_by_name():
    value = nl.TensorData.from_numpy(np.arange(3.0))
    assert value.to("cpu") is value and value.to("numpy").tolist() == [0, 1, 2]
    with pytest.raises(BackendUnavailable):
        value.to("abacus")
