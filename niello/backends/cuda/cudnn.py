"""Convolutions by cuDNN's graph interface, with bias and ReLU in the same kernel.

cuDNN wants weights with the input channels innermost. Weights that lie otherwise are brought into
that order in memory of the call's own first (gradients of weights: out of it afterwards); they are
small beside the data.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niello.backends.cuda import compile as nvrtc
from niello.backends.cuda.libraries import attributes_of
from niello.core.errors import BackendUnavailable, DeviceError
from niello.runtime.buffer import Buffer
from niello.runtime.commands import LibraryCall

if TYPE_CHECKING:
    from niello.backends.cuda.device import CudaDevice
    from niello.backends.cuda.program import Play, Where

Dims = tuple[tuple[int, ...], tuple[int, ...]]  # sizes and strides

_THREADS = 256
# Element i of dense memory against the element with the same coordinates in strided memory.
_PERMUTE = """
struct Shape { int size[4]; long long stride[4]; };
__device__ long long place(Shape s, int i) {
  long long at = 0;
  for (int axis = 3; axis >= 0; --axis) {
    at += (i % s.size[axis]) * s.stride[axis];
    i /= s.size[axis];
  }
  return at;
}
extern "C" __global__ void gather(const unsigned short* from, unsigned short* to, Shape s, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[i] = from[place(s, i)];
}
extern "C" __global__ void scatter(const unsigned short* from, unsigned short* to, Shape s, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[place(s, i)] = from[i];
}
"""


class _Shape(ctypes.Structure):
    _fields_ = [("size", ctypes.c_int * 4), ("stride", ctypes.c_longlong * 4)]


@dataclass(frozen=True)
class Plan:
    """A built graph: its tensors by role, and the bytes that it works in."""

    graph: Any
    tensors: dict[str, Any]
    workspace: int
    weights: Dims  # as the graph takes them


class Cudnn:
    """cuDNN on a device."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._api = _load()
        self.version = _version(self._api)
        try:
            self._handle = self._api.create_handle()
        except Exception as error:
            raise BackendUnavailable(
                "cuda", f"cuDNN cannot be used: {_first_line(error)}"
            ) from error
        self._stream: int | None = None
        self._plans: dict[Any, Plan] = {}
        self._refused: dict[Any, str] = {}
        self._permute: dict[str, Any] = {}
        self._workspace: Buffer | None = None

    def refusal(self, command: LibraryCall) -> str:
        """Why a convolution cannot run; empty when it can."""
        try:
            self._plan(command)
        except DeviceError as error:
            return error.problem
        return ""

    def player(self, command: LibraryCall, buffers: Sequence[Where]) -> Play:
        """Queues a convolution: its two operands, the bias if there is one, and the result."""
        a = attributes_of(command)
        plan = self._plan(command)
        first, second, *middle, result = buffers
        roles = {
            "forward": {"x": first, "w": second, "y": result},
            "data": {"y": first, "w": second, "x": result},
            "weights": {"y": first, "x": second, "w": result},
        }[a["kind"]]
        if middle:
            roles["bias"] = middle[0]
        workspace = self._work(plan.workspace)
        dense = None
        if a["w"] != plan.weights:
            dense = self._device.allocate(2 * math.prod(a["w"][0]))
        fixed = {} if dense is None else {"w": dense.handle}
        moving = [(plan.tensors[n], w) for n, w in roles.items() if n not in fixed]
        still = {plan.tensors[n]: address for n, address in fixed.items()}
        before = dense is not None and a["kind"] != "weights"
        after = dense is not None and a["kind"] == "weights"

        def play(stream: Any, handles: Sequence[int]) -> None:
            if dense is not None and before:
                self._move("gather", stream, roles["w"].address(handles), dense.handle, a["w"])
            self._on(stream)
            pack = {**still, **{t: w.address(handles) for t, w in moving}}
            plan.graph.execute(pack, workspace.handle, handle=self._handle)
            if dense is not None and after:
                self._move("scatter", stream, dense.handle, roles["w"].address(handles), a["w"])

        return play

    def _on(self, stream: Any) -> None:
        number = int(stream)
        if self._stream != number:
            self._api.set_stream(handle=self._handle, stream=number)
            self._stream = number

    def _work(self, size: int) -> Buffer:
        """Memory that calls work in; a larger one replaces it for the calls that come later."""
        if self._workspace is None or self._workspace.bytes < size:
            self._workspace = self._device.allocate(max(size, 1))
        return self._workspace

    def _plan(self, command: LibraryCall) -> Plan:
        key = command.attributes
        found = self._plans.get(key)
        if found is not None:
            return found
        if key not in self._refused:
            try:
                made = self._plans[key] = self._build(attributes_of(command))
                return made
            except Exception as error:
                # The interface raises errors of many classes for what it does not support.
                self._refused[key] = f"cuDNN has no plan: {_first_line(error)}"
        raise DeviceError("cudnn.convolution", self._refused[key])

    def _build(self, a: dict[str, Any]) -> Plan:
        api = self._api
        kind = getattr(api.data_type, {"float16": "HALF", "bfloat16": "BFLOAT16"}[a["dtype"]])
        graph = api.pygraph(
            io_data_type=kind,
            intermediate_data_type=api.data_type.FLOAT,
            compute_data_type=api.data_type.FLOAT,
            handle=self._handle,
        )
        weights = _channels_innermost(a["w"][0])

        def tensor(name: str, dims: Dims) -> Any:
            return graph.tensor(name=name, dim=list(dims[0]), stride=list(dims[1]), data_type=kind)

        window = {
            "pre_padding": list(a["before"]),
            "post_padding": list(a["after"]),
            "stride": list(a["strides"]),
            "dilation": list(a["dilations"]),
        }
        tensors: dict[str, Any] = {}
        if a["kind"] == "forward":
            tensors = {"x": tensor("x", a["x"]), "w": tensor("w", weights)}
            value = graph.conv_fprop(image=tensors["x"], weight=tensors["w"], **window)
            role, dims = "y", a["y"]
        elif a["kind"] == "data":
            tensors = {"y": tensor("y", a["y"]), "w": tensor("w", weights)}
            value = graph.conv_dgrad(loss=tensors["y"], filter=tensors["w"], **window)
            role, dims = "x", a["x"]
        else:
            tensors = {"y": tensor("y", a["y"]), "x": tensor("x", a["x"])}
            value = graph.conv_wgrad(image=tensors["x"], loss=tensors["y"], **window)
            role, dims = "w", weights
        if a["kind"] != "forward":
            value.set_dim(list(dims[0]))
        if a["bias"]:
            channels = dims[0][1]
            tensors["bias"] = tensor(
                "bias", ((1, channels, 1, 1), (channels, 1, channels, channels))
            )
            value = graph.bias(input=value, bias=tensors["bias"])
        if a["epilogue"] == "relu":
            value = graph.relu(input=value)
        value.set_output(True).set_data_type(kind).set_dim(list(dims[0])).set_stride(list(dims[1]))
        tensors[role] = value
        graph.build([api.heur_mode.A, api.heur_mode.FALLBACK])
        return Plan(graph, tensors, int(graph.get_workspace_size()), weights)

    def _move(self, name: str, stream: Any, source: int, target: int, strided: Dims) -> None:
        """Permute weights between [O, H, W, I] order and another."""
        driver = self._device.driver
        function = self._permute.get(name)
        if function is None:
            (cubin,) = nvrtc.compile_sources([_PERMUTE], self._device.arch)
            module = driver.check("cuModuleLoadData", driver.api.cuModuleLoadData(cubin))
            for entry in ("gather", "scatter"):
                answer = driver.api.cuModuleGetFunction(module, entry.encode())
                self._permute[entry] = driver.check("cuModuleGetFunction", answer)
            function = self._permute[name]
        order = (0, 2, 3, 1)
        shape = _Shape(
            (ctypes.c_int * 4)(*(strided[0][i] for i in order)),
            (ctypes.c_longlong * 4)(*(strided[1][i] for i in order)),
        )
        count = math.prod(strided[0])
        values = (source, target, shape, count)
        kinds = (ctypes.c_void_p, ctypes.c_void_p, None, ctypes.c_int)
        words = [v if k is None else k(v) for v, k in zip(values, kinds, strict=True)]
        pointers = (ctypes.c_void_p * 4)(*(ctypes.addressof(w) for w in words))
        blocks = -(-count // _THREADS)
        answer = driver.api.cuLaunchKernel(
            function, blocks, 1, 1, _THREADS, 1, 1, 0, stream, ctypes.addressof(pointers), 0
        )
        driver.check(f"launch of {name}", answer)


def _channels_innermost(sizes: tuple[int, ...]) -> Dims:
    _, inputs, height, width = sizes
    return sizes, (inputs * height * width, 1, width * inputs, inputs)


def _load() -> Any:
    try:
        return importlib.import_module("cudnn")
    except Exception as error:
        raise BackendUnavailable(
            "cuda",
            f"the package nvidia-cudnn-frontend cannot be imported: {_first_line(error)}",
            advice="Install niello[cuda]",
        ) from error


def _version(api: Any) -> str:
    number = int(api.backend_version())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
