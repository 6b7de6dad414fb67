"""What every device promises about its memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from niello import backends
from niello.core import dtypes
from niello.core.errors import DeviceError, OutOfMemory
from niello.core.types import TensorType
from niello.runtime.buffer import Buffer
from niello.runtime.tensor_data import TensorData


def test_record(device):
    record = backends.backend(device.name)
    assert record.name == device.name
    assert record.limits.dtypes <= frozenset(dtypes.ALL) and dtypes.float32 in record.limits.dtypes
    assert record.limits.max_buffers >= 8 and record.limits.max_nodes >= 64
    assert record.limits.max_buffer_bytes >= 1 << 27
    assert "\n" not in device.describe() and device.name in device.describe()


def test_unknown_name():
    with pytest.raises(DeviceError) as error:
        backends.device("abacus")
    assert "abacus" in error.value.received and "cpu" in error.value.advice


@pytest.mark.parametrize("size", [0, 1, 4, 1000, 1 << 20, 3 << 20])
def test_allocate(device, size):
    buffer = device.allocate(size)
    assert isinstance(buffer, Buffer) and buffer.device is device and buffer.bytes >= size
    if device.host_memory:
        assert buffer.handle % 64 == 0
        buffer.array(dtypes.uint8, (size,))[...] = 1


def test_buffers_are_distinct(device):
    buffers = [device.allocate(256) for _ in range(20)]
    assert len({b.handle for b in buffers}) == 20


def test_statistics_follow_use(device):
    gc.collect()
    before = device.memory_stats()
    assert set(before) == {"current", "peak", "cached"}
    buffer = device.allocate(1 << 20)
    during = device.memory_stats()
    assert during["current"] - before["current"] == 1 << 20
    assert during["peak"] >= during["current"]
    del buffer
    assert device.memory_stats()["current"] == before["current"]
    device.release_memory()
    assert device.memory_stats()["cached"] == 0


def test_out_of_memory(device):
    with pytest.raises(OutOfMemory) as error:
        device.allocate(1 << 60)
    assert error.value.fields["requested"] == 1 << 60
    assert device.allocate(64).bytes == 64


def test_values_read_back(device):
    if not device.host_memory:
        pytest.skip("memory that the host cannot see")
    value = TensorData(device.allocate(24), TensorType((2, 3), dtypes.float32))
    np.asarray(value)[...] = np.arange(6).reshape(2, 3)
    assert value.tolist() == [[0, 1, 2], [3, 4, 5]] and value.device is device
