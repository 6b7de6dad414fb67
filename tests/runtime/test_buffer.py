"""The pool of host memory: reuse, bounds, statistics, lifetime."""

from __future__ import annotations

import gc
import itertools
import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from niello.core import dtypes
from niello.core.errors import DeviceError, OutOfMemory
from niello.runtime.buffer import (
    ALIGNMENT,
    CACHE_FLOOR,
    HUGE_PAGE,
    Buffer,
    HostPool,
    physical_memory,
    show_bytes,
    size_class,
)
from niello.runtime.device import HostDevice


@pytest.fixture
def device():
    return HostDevice("test")


@given(st.integers(0, 1 << 40))
def test_size_classes_hold_and_waste_little(size):
    capacity = size_class(size)
    assert capacity >= max(size, 1) and capacity % ALIGNMENT == 0
    assert capacity <= size * 1.25 + ALIGNMENT
    assert size_class(capacity) == capacity


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 4096, 1 << 20, (2 << 20) + 1, 9 << 20])
def test_buffers_are_aligned_and_writable(device, size):
    buffer = device.allocate(size)
    assert buffer.handle % ALIGNMENT == 0 and buffer.handle > 0
    assert buffer.bytes == size
    view = buffer.array(dtypes.uint8, (size,))
    view[:] = 7
    assert int(view.sum(dtype=np.int64)) == 7 * size


def test_large_buffers_start_at_huge_pages(device):
    buffer = device.allocate(4 << 20)
    assert buffer.handle % HUGE_PAGE == 0 or not hasattr(__import__("mmap"), "MADV_HUGEPAGE")


def test_dropped_memory_is_used_again(device):
    first = device.allocate(100_000)
    address = first.handle
    del first
    assert device.allocate(100_000).handle == address


def test_sizes_of_one_class_share_blocks(device):
    address = device.allocate(100_000).handle
    assert device.allocate(99_000).handle == address


def test_live_buffers_do_not_overlap(device):
    spans = sorted((b.handle, b.handle + b.bytes, b) for b in map(device.allocate, [1000] * 50))
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_view_keeps_the_buffer(device):
    buffer = device.allocate(64)
    view = buffer.array(dtypes.float32, (4, 4))
    view[...] = 5
    del buffer
    gc.collect()
    others = [device.allocate(64) for _ in range(10)]
    for other in others:
        other.array(dtypes.float32, (16,))[...] = 0
    assert (view == 5).all() and device.memory_stats()["current"] == 64 * 11
    del view
    assert device.memory_stats()["current"] == 64 * 10


def test_statistics(device):
    a, b = device.allocate(1024), device.allocate(2048)
    assert device.memory_stats() == {"current": 3072, "peak": 3072, "cached": 0}
    del a
    assert device.memory_stats() == {"current": 2048, "peak": 3072, "cached": 1024}
    device.reset_peak()
    assert device.memory_stats()["peak"] == 2048
    device.release_memory()
    assert device.memory_stats() == {"current": 2048, "peak": 2048, "cached": 0}
    assert b.bytes == 2048


def test_a_loop_holds_one_result(device):
    for _ in range(20):
        device.allocate(1 << 20)
    stats = device.memory_stats()
    assert stats == {"current": 0, "peak": 1 << 20, "cached": 1 << 20}


def test_cache_is_bounded():
    pool = HostPool()
    sizes = [CACHE_FLOOR // 4 + i * (CACHE_FLOOR // 16) for i in range(12)]
    for size in sizes:
        pool.give_back(pool.allocate(size))
    stats = pool.stats()
    assert stats["cached"] <= max(CACHE_FLOOR, stats["peak"])
    # What was used last is what was kept.
    kept = pool.allocate(sizes[-1])
    assert pool.stats()["cached"] <= stats["cached"] - kept.capacity


def test_out_of_memory_says_what_was_asked_and_held():
    pool = HostPool(limit=10 << 20)
    device = HostDevice("small", pool)
    held = device.allocate(8 << 20)
    with pytest.raises(OutOfMemory) as error:
        device.allocate(4 << 20)
    assert error.value.fields == {"requested": 4 << 20, "held": 8 << 20, "limit": 10 << 20}
    assert "4.0 MiB do not fit: 8.0 MiB are in use of 10.0 MiB" in str(error.value)
    assert isinstance(error.value, MemoryError)
    del held
    assert device.allocate(4 << 20).bytes == 4 << 20


def test_cached_memory_is_given_up_before_an_allocation_fails():
    device = HostDevice("small", HostPool(limit=10 << 20))
    device.allocate(8 << 20)
    assert device.memory_stats()["cached"] == 8 << 20
    held = device.allocate(6 << 20)
    assert device.memory_stats() == {"current": held.bytes, "peak": 8 << 20, "cached": 0}


def test_system_refusal_is_out_of_memory():
    pool = HostPool(limit=1 << 62)
    with pytest.raises(OutOfMemory) as error:
        pool.allocate(1 << 60)
    assert error.value.fields["requested"] == 1 << 60
    assert pool.stats()["current"] == 0


def test_more_than_the_machine_has(device):
    with pytest.raises(OutOfMemory):
        device.allocate(physical_memory() + 1)


def test_views_stay_inside(device):
    buffer = device.allocate(64)
    with pytest.raises(DeviceError, match="does not fit"):
        buffer.array(dtypes.float32, (17,))
    with pytest.raises(DeviceError, match="does not fit"):
        buffer.array(dtypes.float32, (16,), 4)
    with pytest.raises(DeviceError, match="does not fit"):
        buffer.array(dtypes.float32, (1,), -4)
    assert buffer.array(dtypes.float32, (2, 2), 48).shape == (2, 2)


def test_memory_the_host_cannot_see():
    class Far:
        name = "far"
        host_memory = False

    with pytest.raises(DeviceError, match="far"):
        Buffer(Far(), object(), 64).array(dtypes.float32, (1,))


def test_adopted_arrays(device):
    array = np.arange(8, dtype=np.float32)
    buffer = device.adopt(array)
    view = buffer.array(dtypes.float32, (8,))
    assert np.shares_memory(view, array) and view.flags.writeable
    array.flags.writeable = False
    assert not device.adopt(array).array(dtypes.float32, (8,)).flags.writeable
    assert device.memory_stats()["current"] == 0


def test_many_threads_allocate_and_drop(device):
    failures = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        held: list[tuple[Buffer, np.ndarray, int]] = []
        for i in range(300):
            buffer = device.allocate(int(rng.integers(1, 5000)))
            view = buffer.array(dtypes.uint8, (buffer.bytes,))
            view[:] = mark = (seed * 31 + i) % 256
            held.append((buffer, view, mark))
            if len(held) > 8:
                _, view, mark = held.pop(int(rng.integers(len(held))))
                if not (view == mark).all():
                    failures.append(seed)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    del workers
    gc.collect()
    assert not failures
    assert device.memory_stats()["current"] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_of_fork_can_allocate(device):
    with device._pool._lock:  # as if another thread were allocating at the moment of the fork
        child = os.fork()
        if child == 0:
            status = 1
            try:
                import signal

                signal.alarm(10)
                status = 0 if device.allocate(100).bytes == 100 else 1
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_for_people(size, text):
    assert show_bytes(size) == text
