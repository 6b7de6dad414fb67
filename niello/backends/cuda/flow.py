"""Branches and loops of command lists as conditional nodes of CUDA graphs.

Small kernels decide on the device: whether a branch runs, how a loop's counter moves on and whether
its body runs once more. The host takes no part in a run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niello.runtime.commands import Loop, SliceCopy

if TYPE_CHECKING:
    from niello.backends.cuda.device import CudaDevice
    from niello.backends.cuda.graphs import Nodes, Recording

ENDLESS = (1 << 31) - 1
_THREADS = 256
_MOST_BLOCKS = 1024

_FLOW = """
extern "C" __device__ void cudaGraphSetConditional(unsigned long long handle, unsigned int value);

// The counter before the first iteration: `advance` moves it on.
extern "C" __global__ void begin(int* counter, const int* count, int trips, int reverse) {
  int total = count == nullptr || *count > trips ? trips : (*count > 0 ? *count : 0);
  *counter = reverse ? total : -1;
}

extern "C" __global__ void advance(unsigned long long handle, int* counter, const int* count,
                                   const int* condition, int* iterations, int trips, int reverse) {
  int total = count == nullptr || *count > trips ? trips : (*count > 0 ? *count : 0);
  int next = reverse ? *counter - 1 : *counter + 1;
  bool more = next >= 0 && next < total && (condition == nullptr || *condition != 0);
  if (more) {
    *counter = next;
  } else if (iterations != nullptr) {
    *iterations = reverse ? total - *counter : *counter + 1;
  }
  cudaGraphSetConditional(handle, more);
}
"""

_SLICE = """
extern "C" __global__ void slice(char* target, const char* source, const int* index,
                                 long long target_step, long long source_step, long long bytes) {
  target += target_step * *index;
  source += source_step * *index;
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  long long step = (long long)gridDim.x * blockDim.x;
  unsigned long long low = (unsigned long long)target | (unsigned long long)source | bytes;
  if (low % 16 == 0) {
    for (; i < bytes / 16; i += step) ((int4*)target)[i] = ((const int4*)source)[i];
  } else if (low % 4 == 0) {
    for (; i < bytes / 4; i += step) ((int*)target)[i] = ((const int*)source)[i];
  } else {
    for (; i < bytes; i += step) target[i] = source[i];
  }
}
"""


@dataclass(frozen=True)
class Words:
    """The addresses of what decides about a loop; 0 for what it does not have."""

    counter: int
    count: int
    condition: int
    iterations: int


def launch(
    device: CudaDevice,
    source: str,
    entry: str,
    arguments: Sequence[Any],
    stream: Any,
    geometry: tuple[int, int] = (1, 1),
) -> None:
    """Queue a kernel of the back end's own; arguments are ctypes values."""
    function = device.function(source, entry)
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
    blocks, threads = geometry
    answer = device.driver.api.cuLaunchKernel(
        function, blocks, 1, 1, threads, 1, 1, 0, stream, ctypes.addressof(pointers), 0
    )
    device.driver.check(f"launch of {entry}", answer)


def copy_slice(
    device: CudaDevice, command: SliceCopy, target: int, source: int, index: int, stream: Any
) -> None:
    """Queue the copy of a slice that a word in memory chooses."""
    size = command.bytes
    blocks = min(-(-size // (16 * _THREADS)), _MOST_BLOCKS)
    arguments = (
        ctypes.c_uint64(target),
        ctypes.c_uint64(source),
        ctypes.c_uint64(index),
        ctypes.c_int64(command.target_step),
        ctypes.c_int64(command.source_step),
        ctypes.c_int64(size),
    )
    if size:
        launch(device, _SLICE, "slice", arguments, stream, (blocks, _THREADS))


def add_loop(
    recording: Recording,
    graph: Any,
    after: Nodes,
    loop: Loop,
    words: Words,
    test: Callable[[Any, Nodes], Nodes],
    body: Callable[[Any, Nodes], Nodes],
) -> Nodes:
    """Add a loop to a graph: `test` and `body` add their commands to the graph that they are given,
    after the nodes that they are given, and return the last ones."""
    device = recording.device
    handle = recording.handle(graph)
    trips = ENDLESS if loop.trips is None else min(loop.trips, ENDLESS)
    bounds = (ctypes.c_int32(trips), ctypes.c_int32(loop.reverse))

    def begin(stream: Any) -> None:
        first = (ctypes.c_uint64(words.counter), ctypes.c_uint64(words.count), *bounds)
        launch(device, _FLOW, "begin", first, stream)

    def advance(stream: Any) -> None:
        places = (words.counter, words.count, words.condition, words.iterations)
        known = (ctypes.c_uint64(int(handle)), *(ctypes.c_uint64(p) for p in places))
        launch(device, _FLOW, "advance", (*known, *bounds), stream)

    after = recording.commands(graph, after, begin)
    after = test(graph, after)
    after = recording.commands(graph, after, advance)
    node, inside = recording.conditional(graph, after, handle, repeats=True)
    last = test(inside, body(inside, []))
    recording.commands(inside, last, advance)
    return [node]
