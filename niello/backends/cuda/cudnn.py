"""cuDNN's graph interface: convolutions with what follows them in the same kernel, and attention.

cuDNN wants weights with the input channels innermost. Weights that lie otherwise are brought into
that order in memory of the call's own first (gradients of weights: out of it afterwards); they are
small beside the data.

Convolutions of float32, unless TF32 is allowed, and those of few channels are left to generated
kernels: decision 0008 has the figures.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niello.backends.cuda import cudnn_attention
from niello.backends.cuda.cudnn_attention import AttentionDraft
from niello.backends.cuda.libraries import attributes_of
from niello.backends.cuda.tuning import Call, fastest, random_buffer
from niello.core import config
from niello.core.errors import BackendUnavailable, DeviceError
from niello.runtime.buffer import Buffer
from niello.runtime.commands import LibraryCall
from niello.runtime.disk_cache import compiled_code

if TYPE_CHECKING:
    from niello.backends.cuda.device import CudaDevice
    from niello.backends.cuda.program import Play, Where

Dims = tuple[tuple[int, ...], tuple[int, ...]]  # sizes and strides

_THREADS = 256
_KINDS = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_approx_tanh",
    "silu": "swish",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
# Plans that are timed before one is chosen, for work that is worth it.
_TRIED = 8
_LARGE = 1 << 24  # multiply-adds

# Element i of dense memory against the element with the same coordinates in strided memory.
_PERMUTE = """
typedef unsigned short bits16;
struct Shape { int size[4]; long long stride[4]; };
__device__ long long place(Shape s, int i) {
  long long at = 0;
  for (int axis = 3; axis >= 0; --axis) {
    at += (i % s.size[axis]) * s.stride[axis];
    i /= s.size[axis];
  }
  return at;
}
extern "C" __global__ void gather2(const bits16* from, bits16* to, Shape s, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[i] = from[place(s, i)];
}
extern "C" __global__ void scatter2(const bits16* from, bits16* to, Shape s, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[place(s, i)] = from[i];
}
extern "C" __global__ void gather4(const unsigned* from, unsigned* to, Shape s, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[i] = from[place(s, i)];
}
extern "C" __global__ void scatter4(const unsigned* from, unsigned* to, Shape s, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[place(s, i)] = from[i];
}
"""
_FEW_CHANNELS = 4


class _Shape(ctypes.Structure):
    _fields_ = [("size", ctypes.c_int * 4), ("stride", ctypes.c_longlong * 4)]


@dataclass(frozen=True)
class Plan:
    """A built graph, which of its plans to use, its tensors by role, their bytes, and the bytes it
    works in."""

    graph: Any
    index: int
    tensors: dict[str, Any]
    sizes: dict[str, int]
    workspace: int
    weights: Dims | None  # as the graph of a convolution takes them


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
        self._workspace: Buffer | None = None

    def refusal(self, command: LibraryCall) -> str:
        """Why a call cannot run, or should not; empty when it should."""
        a = attributes_of(command)
        if command.function not in cudnn_attention.FUNCTIONS:
            if a["dtype"] == "float32" and not a["tf32"]:
                return "generated kernels are faster in float32, and exact"
            if a["kind"] == "forward" and a["x"][0][1] == _FEW_CHANNELS:
                return f"generated kernels are faster for {_FEW_CHANNELS} channels"
        try:
            self._plan(command)
        except DeviceError as error:
            return error.problem
        return ""

    def player(self, command: LibraryCall, buffers: Sequence[Where]) -> Play:
        """Queues a call."""
        plan = self._plan(command)
        if command.function in cudnn_attention.FUNCTIONS:
            return self._attention(command, plan, buffers)
        return self._convolution(command, plan, buffers)

    def _attention(self, command: LibraryCall, plan: Plan, buffers: Sequence[Where]) -> Play:
        """Operands and results in order; results that nobody reads go to memory of the call."""
        a = attributes_of(command)
        parts = cudnn_attention.used(a, command.function)
        moving = {name: (w, at) for (name, at), w in zip(parts, buffers, strict=True)}
        workspace = self._work(plan.workspace)
        spare = {
            name: self._device.allocate(plan.sizes[name])
            for name in plan.tensors
            if name not in moving
        }
        still = {plan.tensors[name]: buffer.handle for name, buffer in spare.items()}
        placed = [(plan.tensors[name], w, at) for name, (w, at) in moving.items()]

        def play(stream: Any, handles: Sequence[int], keep: Any = spare) -> None:
            self._on(stream)
            pack = {**still, **{t: w.address(handles) + at for t, w, at in placed}}
            plan.graph.execute_plan_at_index(
                pack, workspace.handle, plan.index, handle=self._handle
            )

        return play

    def _convolution(self, command: LibraryCall, plan: Plan, buffers: Sequence[Where]) -> Play:
        """Its two operands, the other values of the epilogue, and the result."""
        a = attributes_of(command)
        names = {"forward": "xwy", "data": "ywx", "weights": "yxw"}[a["kind"]]
        roles = {names[0]: buffers[0], names[1]: buffers[1], names[2]: buffers[-1]}
        for number, where in enumerate(buffers[2:-1]):
            roles[f"other{number}"] = where
        workspace = self._work(plan.workspace)
        dense = None
        size = _BYTES[a["dtype"]]
        if a["w"] != plan.weights:
            dense = self._device.allocate(size * math.prod(a["w"][0]))
        fixed = {} if dense is None else {"w": dense.handle}
        moving = [(plan.tensors[n], w) for n, w in roles.items() if n not in fixed]
        still = {plan.tensors[n]: address for n, address in fixed.items()}
        before = dense is not None and a["kind"] != "weights"
        after = dense is not None and a["kind"] == "weights"

        def play(stream: Any, handles: Sequence[int]) -> None:
            if dense is not None and before:
                weights = roles["w"].address(handles)
                self._move(f"gather{size}", stream, weights, dense.handle, a["w"])
            self._on(stream)
            pack = {**still, **{t: w.address(handles) for t, w in moving}}
            plan.graph.execute_plan_at_index(
                pack, workspace.handle, plan.index, handle=self._handle
            )
            if dense is not None and after:
                weights = roles["w"].address(handles)
                self._move(f"scatter{size}", stream, dense.handle, weights, a["w"])

        return play

    def shares_workspace(self, command: LibraryCall) -> bool:
        """Whether the chosen plan needs the workspace."""
        return self._plan(command).workspace > 0

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
        key = (command.function, command.attributes, config.DETERMINISTIC.text())
        found = self._plans.get(key)
        if found is not None:
            return found
        if key not in self._refused:
            try:
                made = self._plans[key] = self._build(command)
                return made
            except DeviceError as error:
                self._refused[key] = error.problem
            except Exception as error:
                # The interface raises errors of many classes for what it does not support.
                self._refused[key] = f"cuDNN has no plan: {_first_line(error)}"
        raise DeviceError(command.function, self._refused[key])

    def _build(self, command: LibraryCall) -> Plan:
        api, a = self._api, attributes_of(command)
        if command.function in cudnn_attention.FUNCTIONS:
            return self._first(AttentionDraft(api, self._handle, command.function, a))
        draft = _Draft(api, self._handle, a)
        graph = draft.graph
        self._prepare(graph)
        key = hashlib.sha256(
            repr(("cudnn", self.version, self._device.arch, sorted(a.items()))).encode()
        ).hexdigest()
        known = compiled_code().get(key)
        if known is not None:
            index = int(known)
            graph.build_plan_at_index(index)
        else:
            index = self._choose(draft, _TRIED if _multiply_adds(a) >= _LARGE else 1)
            compiled_code().put(key, str(index).encode())
        workspace = int(graph.get_workspace_size_plan_at_index(index))
        return Plan(graph, index, draft.tensors, draft.sizes, workspace, draft.weights)

    def _prepare(self, graph: Any) -> None:
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([self._api.heur_mode.A, self._api.heur_mode.FALLBACK])
        graph.check_support()

    def _first(self, draft: AttentionDraft) -> Plan:
        """The plan that cuDNN expects to be the fastest, of those that can be built."""
        self._prepare(draft.graph)
        index = self._buildable(draft.graph, 1)[0]
        workspace = int(draft.graph.get_workspace_size_plan_at_index(index))
        return Plan(draft.graph, index, draft.tensors, draft.sizes, workspace, None)

    def _choose(self, draft: _Draft, most: int) -> int:
        """The fastest of the first plans that can be built; just the first when most is 1."""
        graph = draft.graph
        built = self._buildable(graph, most)
        if len(built) == 1:
            return built[0]
        device = self._device
        memory = {
            t: random_buffer(device, draft.sizes[n], draft.dtype) for n, t in draft.tensors.items()
        }
        pack = {t: b.handle for t, b in memory.items()}
        calls = [self._trial(graph, index, pack) for index in built]
        return built[fastest(device, calls)]

    def _buildable(self, graph: Any, most: int) -> list[int]:
        """The first plans that can be built, in cuDNN's order. Raises DeviceError for none."""
        built: list[int] = []
        problem = "there are none"
        for index in range(graph.get_execution_plan_count()):
            try:
                graph.build_plan_at_index(index)
            except Exception as error:
                problem = _first_line(error)
                continue
            built.append(index)
            if len(built) == most:
                break
        if not built:
            raise DeviceError("cuDNN", problem)
        return built

    def _trial(self, graph: Any, index: int, pack: dict[Any, int]) -> Call:
        workspace = self._work(int(graph.get_workspace_size_plan_at_index(index)))

        def call(stream: Any) -> None:
            self._on(stream)
            try:
                graph.execute_plan_at_index(pack, workspace.handle, index, handle=self._handle)
            except Exception as error:
                raise DeviceError("cuDNN", _first_line(error)) from error

        return call

    def _move(self, name: str, stream: Any, source: int, target: int, strided: Dims) -> None:
        """Permute weights between [O, H, W, I] order and another."""
        driver = self._device.driver
        function = self._device.function(_PERMUTE, name)
        order = (0, 2, 3, 1)
        shape = _Shape(
            (ctypes.c_int * 4)(*(strided[0][i] for i in order)),
            (ctypes.c_longlong * 4)(*(strided[1][i] for i in order)),
        )
        count = math.prod(strided[0])
        words = (ctypes.c_void_p(source), ctypes.c_void_p(target), shape, ctypes.c_int(count))
        pointers = (ctypes.c_void_p * 4)(*(ctypes.addressof(w) for w in words))
        blocks = -(-count // _THREADS)
        answer = driver.api.cuLaunchKernel(
            function, blocks, 1, 1, _THREADS, 1, 1, 0, stream, ctypes.addressof(pointers), 0
        )
        driver.check(f"launch of {name}", answer)


class _Draft:
    """A graph under construction."""

    def __init__(self, api: Any, handle: Any, a: dict[str, Any]) -> None:
        self.kind = getattr(api.data_type, _KINDS[a["dtype"]])
        self.graph = api.pygraph(
            io_data_type=self.kind,
            intermediate_data_type=api.data_type.FLOAT,
            compute_data_type=api.data_type.FLOAT,
            handle=handle,
        )
        self.dtype = a["dtype"]
        self.tensors: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self.weights = _channels_innermost(a["w"][0])
        value, role, dims = self._window(a)
        value = self._epilogue(value, a, dims)
        value.set_output(True).set_data_type(self.kind)
        value.set_dim(list(dims[0])).set_stride(list(dims[1]))
        self._known(role, value, dims)

    def _known(self, name: str, tensor: Any, dims: Dims) -> Any:
        self.tensors[name] = tensor
        span = 1 + sum((d - 1) * s for d, s in zip(*dims, strict=True))
        self.sizes[name] = _BYTES[self.dtype] * max(span, math.prod(dims[0]))
        return tensor

    def _input(self, name: str, dims: Dims) -> Any:
        tensor = self.graph.tensor(
            name=name, dim=list(dims[0]), stride=list(dims[1]), data_type=self.kind
        )
        return self._known(name, tensor, dims)

    def _window(self, a: dict[str, Any]) -> tuple[Any, str, Dims]:
        window = {
            "pre_padding": list(a["before"]),
            "post_padding": list(a["after"]),
            "stride": list(a["strides"]),
            "dilation": list(a["dilations"]),
        }
        graph, put = self.graph, self._input
        if a["kind"] == "forward":
            value = graph.conv_fprop(
                image=put("x", a["x"]), weight=put("w", self.weights), **window
            )
            return value, "y", a["y"]
        if a["kind"] == "data":
            value = graph.conv_dgrad(loss=put("y", a["y"]), filter=put("w", self.weights), **window)
            role, dims = "x", a["x"]
        else:
            value = graph.conv_wgrad(image=put("x", a["x"]), loss=put("y", a["y"]), **window)
            role, dims = "w", self.weights
        value.set_dim(list(dims[0]))
        return value, role, dims

    def _epilogue(self, value: Any, a: dict[str, Any], dims: Dims) -> Any:
        """The steps after the sum, see schedule/claims.py."""
        number = 0
        for step in a["epilogue"]:
            word, _, layout = step.partition(" ")
            if not layout:
                value = getattr(self.graph, _ACTIVATIONS[word])(input=value)
                continue
            there = dims if layout == "full" else _vector(dims)
            other = self._input(f"other{number}", there)
            number += 1
            value = getattr(self.graph, word)(a=value, b=other)
        return value


def _vector(dims: Dims) -> Dims:
    """A vector along the channels of a result [N, C, H, W]."""
    size = dims[0][1]
    return (1, size, 1, 1), (size, 1, size, size)


def _multiply_adds(a: dict[str, Any]) -> int:
    return int(math.prod(a["y"][0]) * math.prod(a["w"][0][1:]))


def _channels_innermost(sizes: tuple[int, ...]) -> Dims:
    """Sizes with the strides of memory in [0, 2, 3, 1] order."""
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
