"""The webgpu device: which adapter, its memory, and what goes wrong with it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
from webgpu_devices import opened

from niello import backends
from niello.backends.webgpu import PORTABLE, adapters
from niello.backends.webgpu.device import WebGpuDevice
from niello.backends.webgpu.memory import BlockPool
from niello.core.dtypes import float32, float64
from niello.core.errors import BackendUnavailable, DeviceError, DeviceLost, OutOfMemory
from niello.core.types import TensorType
from niello.runtime.tensor_data import TensorData, on_device


@pytest.fixture
def device():
    return opened()


@pytest.fixture
def own(device):
    """A device that belongs to one test."""
    return WebGpuDevice(adapters.chosen_adapter())


def run_python(text: str, **environment: str) -> str:
    import os

    made = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_importing_niello_does_not_load_wgpu():
    text = "import niello, sys; niello.Graph(); print('wgpu' in sys.modules)"
    assert run_python(text).strip() == "False"


def test_absence_of_wgpu_is_said():
    text = (
        "import sys; sys.modules['wgpu'] = None\n"
        "from niello import backends\n"
        "try: backends.device('webgpu')\n"
        "except backends.BackendUnavailable as e: print(e)\n"
        "print(backends.backend('webgpu').limits == backends.backend('webgpu').limits)\n"
        "print('webgpu' in backends.available(), 'cpu' in backends.available())"
    )
    said, *rest = run_python(text).splitlines()
    assert "wgpu cannot be loaded" in said and "niello[webgpu]" in said
    assert rest == ["True", "False True"]


def test_adapter_by_name(device, monkeypatch):
    name = adapters.adapter_name(device.adapter)
    monkeypatch.setenv("NIELLO_WEBGPU_ADAPTER", name[1:8].upper())
    assert name[1:8].casefold() in adapters.adapter_name(adapters.chosen_adapter()).casefold()
    monkeypatch.setenv("NIELLO_WEBGPU_ADAPTER", "abacus 3000")
    with pytest.raises(BackendUnavailable) as error:
        adapters.chosen_adapter()
    assert "abacus" in error.value.received and name in error.value.advice


def test_no_adapter(device, monkeypatch):
    monkeypatch.setattr(adapters, "adapters", tuple)
    with pytest.raises(BackendUnavailable) as error:
        adapters.chosen_adapter()
    assert "Vulkan" in error.value.problem and "driver" in error.value.advice


def test_limits(device):
    limits = backends.backend("webgpu").limits
    assert float64 not in limits.dtypes and float32 in limits.dtypes
    assert limits.buffer_alignment % device.limits["min-storage-buffer-offset-alignment"] == 0
    assert limits.max_buffers <= device.limits["max-storage-buffers-per-shader-stage"]
    assert limits.max_buffers >= PORTABLE.max_buffers
    assert limits.max_buffer_bytes <= max(device.limits["max-buffer-size"], 256 << 20)


@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 31])
def test_transfers_of_parts_of_words(device, offset, size):
    before = np.arange(64, dtype=np.uint8) + 100
    buffer = device.allocate(64)
    device.upload(buffer, 0, before)
    part = np.arange(size, dtype=np.uint8) + 1
    device.upload(buffer, offset, part)
    wanted = before.copy()
    wanted[offset : offset + size] = part
    whole = np.zeros(64, np.uint8)
    device.download(buffer, 0, whole)
    assert whole.tobytes() == wanted.tobytes()
    back = np.zeros(size, np.uint8)
    device.download(buffer, offset, back)
    assert back.tobytes() == part.tobytes()


def test_transfers_in_pieces(device, monkeypatch):
    monkeypatch.setattr("niello.backends.webgpu.transfers.CHUNK_BYTES", 1 << 12)
    data = np.random.default_rng(0).integers(0, 256, 3 * (1 << 12) + 5, np.uint8)
    buffer = device.allocate(data.nbytes)
    device.upload(buffer, 0, data)
    back = np.zeros_like(data)
    device.download(buffer, 0, back)
    assert back.tobytes() == data.tobytes()


def test_upload_takes_the_array_at_once(device):
    data = np.full(1 << 16, 7, np.uint8)
    buffer = device.allocate(data.nbytes)
    device.upload(buffer, 0, data)
    data[:] = 9
    back = np.zeros_like(data)
    device.download(buffer, 0, back)
    assert (back == 7).all()


@pytest.mark.parametrize(("offset", "size"), [(-1, 4), (60, 5), (0, 65)])
def test_transfers_beyond_the_end(device, offset, size):
    buffer = device.allocate(64)
    for move in (device.upload, device.download):
        with pytest.raises(DeviceError, match="does not fit the buffer"):
            move(buffer, offset, np.zeros(size, np.uint8))


def test_values_on_the_device(device):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = on_device(array, device)
    assert value.device is device and value.tolist() == array.tolist()
    assert value.copy().to(backends.device("cpu")).tolist() == array.tolist()
    assert np.asarray(value).tolist() == array.tolist()
    with pytest.raises(DeviceError, match="numpy"):
        value.__dlpack__()
    assert value.__dlpack_device__() == (15, 0)
    assert device.import_dlpack(array) is None


def test_out_of_memory_names_what_is_held(own):
    held = own.allocate(1 << 20)
    with pytest.raises(OutOfMemory) as error:
        own.allocate(own.limits["max-buffer-size"] + 1)
    assert error.value.fields["held"] == held.bytes
    assert error.value.fields["limit"] <= own.limits["max-buffer-size"]
    assert own.allocate(64).bytes == 64


def test_a_refusal_of_the_driver_empties_the_cache():
    class Memory:
        def destroy(self) -> None:
            room.append(None)

    room = [None] * 2

    def create(capacity: int) -> Memory:
        if not room:
            raise OutOfMemory("allocate", "full", requested=capacity)
        room.pop()
        return Memory()

    pool = BlockPool(create, 1 << 30, limit=1 << 30)
    first, second = pool.allocate(100), pool.allocate(1000)
    with pytest.raises(OutOfMemory) as error:
        pool.allocate(5000)
    assert error.value.fields["requested"] == 5000 and error.value.fields["held"] == 1152
    pool.give_back(first)
    third = pool.allocate(5000)
    assert third.capacity >= 5000 and pool.stats()["cached"] == 0
    assert second.number != third.number


def test_memory_comes_back(own):
    value = own.allocate(5 << 20)
    first = value.handle.block.number
    del value
    assert own.allocate(5 << 20).handle.block.number == first
    gc.collect()
    assert own.memory_stats()["cached"] >= 5 << 20
    own.release_memory()
    assert own.memory_stats()["cached"] == 0
    own.reset_peak()
    assert own.memory_stats()["peak"] == 0


def test_values_that_end_in_a_cycle(own):
    """The collector finalizes a cycle's members in any order, wgpu's objects among them."""
    for turn in range(3):
        value = TensorData(own.allocate(1000), TensorType((250,), float32))
        cycle = {"value": value}
        cycle["self"] = cycle
        del value, cycle
        gc.collect()
        again = own.allocate(1000)
        data = np.full(250, turn, np.float32)
        own.upload(again, 0, data)
        back = np.zeros_like(data)
        own.download(again, 0, back)
        assert (back == turn).all()
        del again


def test_a_lost_device_says_so(own):
    buffer = own.allocate(1000)
    data = np.zeros(1000, np.uint8)
    own.upload(buffer, 0, data)
    own.gpu.destroy()
    for use in (
        lambda: own.allocate(1 << 16),
        lambda: own.upload(buffer, 0, data),
        lambda: own.upload(buffer, 1, data[:6]),
        lambda: own.download(buffer, 0, data),
        own.synchronize,
    ):
        with pytest.raises(DeviceLost) as error:
            use()
        assert "lost" in error.value.received.casefold()


def test_fences(device):
    fences = [device.fence() for _ in range(3)]
    threads = [threading.Thread(target=f) for f in fences]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
        assert not t.is_alive()
