"""Choosing among a library's algorithms by measuring them on random data.

Every candidate is captured several times into a CUDA graph, so that what is timed is the device's
work and not the calls. Data matters: on constant data the chip draws less power and ranks
algorithms otherwise than on real data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from niello.backends.cuda.graphs import Recording
from niello.core.dtypes import BY_NAME
from niello.core.errors import DeviceError
from niello.runtime.buffer import Buffer

if TYPE_CHECKING:
    from niello.backends.cuda.device import CudaDevice

_SECONDS = 2e-3  # of device time that a candidate gets in one measurement
_MOST_CALLS = 16
_SAMPLE = 1 << 18  # random elements, repeated

Call = Callable[[Any], None]  # queues one execution on a stream


def random_buffer(device: CudaDevice, size: int, dtype: str) -> Buffer:
    """A buffer of random numbers around zero."""
    kind = BY_NAME[dtype].numpy
    sample = np.random.default_rng(0).standard_normal(_SAMPLE).astype(kind)
    buffer = device.allocate(max(size, 1))
    first = min(size, sample.nbytes) // kind.itemsize * kind.itemsize
    if first:
        device.upload(buffer, 0, sample.view(np.uint8)[:first])
    done = first
    while 0 < done < size:
        more = min(done, size - done)
        device.copy(buffer.handle + done, buffer.handle, more)
        done += more
    return buffer


def fastest(device: CudaDevice, calls: Sequence[Call]) -> int:
    """The number of the fastest call; those that fail are passed over.

    Raises DeviceError when all fail.
    """
    best, chosen = math.inf, -1
    problem: DeviceError | None = None
    with device.lock:
        for number, call in enumerate(calls):
            try:
                seconds = _seconds(device, call)
            except DeviceError as error:
                problem = error
                continue
            if seconds < best:
                best, chosen = seconds, number
    if chosen < 0:
        raise problem or DeviceError("cuda device", "there is nothing to choose from")
    return chosen


def seconds_of(device: CudaDevice, call: Call) -> float:
    """Device time of one execution."""
    with device.lock:
        return _seconds(device, call)


def _seconds(device: CudaDevice, call: Call) -> float:
    once = _measure(device, call, 1)
    count = max(1, min(_MOST_CALLS, int(_SECONDS / max(once, 1e-7))))
    return _measure(device, call, count) if count > 1 else once


def seconds_of_recorded(device: CudaDevice, record: Callable[[Recording], object]) -> float:
    """Device time of what `record` adds to a graph."""
    with device.lock:
        return _launched(device, record)


def _measure(device: CudaDevice, call: Call, count: int) -> float:
    def queue(stream: Any) -> None:
        for _ in range(count):
            call(stream)

    return _launched(device, lambda r: r.commands(r.graph, [], queue)) / count


def _launched(device: CudaDevice, record: Callable[[Recording], object]) -> float:
    """The best time of three launches of a graph, after one to warm up."""
    driver, api = device.driver, device.driver.api
    recording = Recording(device)
    try:
        record(recording)
        graph = recording.finish()
    finally:
        recording.close()
    best = math.inf
    try:
        for turn in range(4):
            device.synchronize()
            started = time.perf_counter()
            driver.check("cuGraphLaunch", api.cuGraphLaunch(graph, device.stream))
            device.synchronize()
            if turn:
                best = min(best, time.perf_counter() - started)
    finally:
        driver.check("cuGraphExecDestroy", api.cuGraphExecDestroy(graph))
    return best
