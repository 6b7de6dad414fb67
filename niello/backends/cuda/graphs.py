"""CUDA graphs of command lists: commands in a row, some of them under a condition.

A condition is a word of device memory that is read when the graph runs: a small kernel hands it to
a conditional node, whose body is a graph of its own. The host takes no part.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from niello.backends.cuda import compile as nvrtc

if TYPE_CHECKING:
    from niello.backends.cuda.device import CudaDevice

_CHOOSE = """
extern "C" __device__ void cudaGraphSetConditional(unsigned long long handle, unsigned int value);
extern "C" __global__ void choose(unsigned long long handle, const unsigned int* word) {
  cudaGraphSetConditional(handle, *word != 0);
}
extern "C" __global__ void refuse(unsigned long long handle, const unsigned int* word) {
  cudaGraphSetConditional(handle, *word == 0);
}
"""

Nodes = list[Any]


class Recording:
    """A graph under construction. Hold the device's lock. Every method that adds something takes
    the nodes that it comes after and returns those that the next must come after."""

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self._driver = device.driver
        self._api = device.driver.api
        self.graph = self._driver.check("cuGraphCreate", self._api.cuGraphCreate(0))

    def commands(self, graph: Any, after: Nodes, queue: Callable[[Any], None]) -> Nodes:
        """Add what `queue` queues on the stream that it is given."""
        api, check = self._api, self._driver.check
        stream = self.device.capture_stream()
        mode = api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        answer = api.cuStreamBeginCaptureToGraph(stream, graph, after, None, len(after), mode)
        check("cuStreamBeginCaptureToGraph", answer)
        try:
            queue(stream)
            found = check("cuStreamGetCaptureInfo", api.cuStreamGetCaptureInfo(stream))
        finally:
            ended = api.cuStreamEndCapture(stream)
        check("cuStreamEndCapture", ended)
        return list(found[3]) or after

    def handle(self, graph: Any) -> Any:
        """A new handle, by which kernels decide about a conditional node of this graph."""
        answer = self._api.cuGraphConditionalHandleCreate(graph, self._driver.context, 0, 0)
        return self._driver.check("cuGraphConditionalHandleCreate", answer)

    def conditional(
        self, graph: Any, after: Nodes, handle: Any, *, repeats: bool = False
    ) -> tuple[Any, Any]:
        """Add a conditional node: the node, and the graph of its body, which runs where the value
        behind the handle is not zero; with `repeats`, until it is."""
        api, driver = self._api, self._driver
        kinds = api.CUgraphConditionalNodeType
        params = api.CUgraphNodeParams()
        params.type = api.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL
        params.conditional.handle = handle
        params.conditional.type = (
            kinds.CU_GRAPH_COND_TYPE_WHILE if repeats else kinds.CU_GRAPH_COND_TYPE_IF
        )
        params.conditional.size = 1
        params.conditional.ctx = driver.context
        answer = api.cuGraphAddNode(graph, after, None, len(after), params)
        node = driver.check("cuGraphAddNode", answer)
        return node, params.conditional.phGraph_out[0]

    def condition(
        self,
        graph: Any,
        after: Nodes,
        word: int,
        body: Callable[[Any], object],
        *,
        unless: bool = False,
    ) -> Nodes:
        """Add what `body` adds to the graph that it is given, to run unless the word is zero; with
        `unless`, to run where it is zero."""
        handle = self.handle(graph)
        driver = self._driver
        entry = "refuse" if unless else "choose"
        function = self.device.function(_CHOOSE, entry)
        words = (ctypes.c_uint64 * 2)(int(handle), word)
        start = ctypes.addressof(words)
        pointers = (ctypes.c_void_p * 2)(start, start + ctypes.sizeof(ctypes.c_uint64))

        def choose(stream: Any) -> None:
            answer = self._api.cuLaunchKernel(
                function, 1, 1, 1, 1, 1, 1, 0, stream, ctypes.addressof(pointers), 0
            )
            driver.check(f"launch of {entry}", answer)

        after = self.commands(graph, after, choose)
        node, inside = self.conditional(graph, after, handle)
        body(inside)
        return [node]

    def finish(self) -> Any:
        """The graph, ready to be launched."""
        answer = self._api.cuGraphInstantiate(self.graph, 0)
        return self._driver.check("cuGraphInstantiate", answer)

    def close(self) -> None:
        """Drop the description; what `finish` gave stays."""
        self._driver.check("cuGraphDestroy", self._api.cuGraphDestroy(self.graph))


def load_function(device: CudaDevice, source: str, entry: str) -> Any:
    """A kernel of this back end's own, compiled and loaded; the device keeps it."""
    driver = device.driver
    (cubin,) = nvrtc.compile_sources([source], device.arch)
    module = driver.check("cuModuleLoadData", driver.api.cuModuleLoadData(cubin))
    answer = driver.api.cuModuleGetFunction(module, entry.encode())
    return driver.check("cuModuleGetFunction", answer)
