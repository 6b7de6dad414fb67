"""Recurrent layers by cuDNN's RNN interface, forward: single gate, LSTM, GRU.

What the operands mean is said in `ops/recurrent_layer.py`. cuDNN wants weights and biases in one
piece of memory: they are copied there before the layer runs. Its sums in float32 are as exact as
generated ones, unless TF32 is allowed.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niello.backends.cuda.libraries import attributes_of
from niello.core.dtypes import BY_NAME
from niello.core.errors import BackendUnavailable, DeviceError
from niello.runtime.buffer import Buffer
from niello.runtime.commands import LibraryCall

if TYPE_CHECKING:
    from niello.backends.cuda.device import CudaDevice
    from niello.backends.cuda.program import Play, Where

FUNCTION = "cudnnrnn.layer"
# In float32 without TF32, cuDNN is slow for more sequences than this: larger batches run in parts,
# at once, or in generated loops.
MOST_BATCH = 16
MOST_PARTS = 4

# Numbers of cudnn_adv.h and cudnn_graph.h.
_CELLS = {"relu": 0, "tanh": 1, "lstm": 2, "gru": 3}
_KINDS = {"float32": 0, "float64": 1, "float16": 2}
_ACCUMULATED = {"float32": 0, "float64": 1, "float16": 0}
_DEFAULT_MATH, _TENSOR_MATH, _EXACT_MATH = 0, 1, 3
_NO_BIAS, _INPUT_BIAS, _BOTH_BIASES = 0, 1, 2
_PACKED, _STANDARD, _INFERENCE = 1, 0, 0


class Recurrent:
    """cuDNN's recurrent layers on a device."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._api = api = _load()
        api.cudnnGetVersion.restype = ctypes.c_size_t
        number = int(api.cudnnGetVersion())
        self.version = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
        # For each part of a batch that runs beside the others.
        self._handles: list[ctypes.c_void_p] = []
        self._streams: list[Any] = []
        self._layers: dict[Any, list[Layer]] = {}
        self._refused: dict[Any, str] = {}
        self._workspace: Buffer | None = None
        self._handle(0)

    def _handle(self, number: int) -> ctypes.c_void_p:
        while len(self._handles) <= number:
            made = ctypes.c_void_p()
            if self._api.cudnnCreate(ctypes.byref(made)):
                raise BackendUnavailable("cuda", "cudnnCreate failed")
            self._handles.append(made)
        return self._handles[number]

    def _stream(self, number: int) -> Any:
        while len(self._streams) <= number:
            self._streams.append(self._device.driver.new_stream())
        return self._streams[number]

    def refusal(self, command: LibraryCall) -> str:
        """Why a layer cannot run, or should not; empty when it should."""
        try:
            self._parts(command)
        except DeviceError as error:
            return error.problem
        return ""

    def shares_workspace(self, command: LibraryCall) -> bool:
        """It does: weights are put there."""
        return True

    def player(self, command: LibraryCall, buffers: Sequence[Where]) -> Play:
        """Queues a layer: its weights are put together, then the parts of its batch run."""
        layers = self._parts(command)
        first, driver = layers[0], self._device.driver
        each = [layer.temporary + layer.copied * (len(layers) > 1) for layer in layers]
        workspace = self._work(first.weights + sum(each))
        places = dict(zip(("source", "recurrent", "weight", *first.given), buffers, strict=False))
        result = buffers[-1]
        copies = first.copies()

        def play(stream: Any, handles: Sequence[int]) -> None:
            start = workspace.handle
            if first.zeros:
                answer = driver.api.cuMemsetD8Async(start, 0, first.weights, stream)
                driver.check("cuMemsetD8Async", answer)
            for name, source, target, size in copies:
                origin = places[name].address(handles) + source
                answer = driver.api.cuMemcpyDtoDAsync(start + target, origin, size, stream)
                driver.check("cuMemcpyDtoDAsync", answer)
            state, cell = (
                places[n].address(handles) if n in places else None
                for n in ("initial_state", "initial_cell")
            )
            given = Given(
                start, places["source"].address(handles), result.address(handles), state, cell
            )
            if len(layers) == 1:
                first.run(int(stream), given, start + first.weights)
            else:
                self._beside(stream, layers, given)

        return play

    def _beside(self, stream: Any, layers: Sequence[Layer], given: Given) -> None:
        """Run parts of a batch at once, each on copies of its part of the source and result."""
        driver = self._device.driver
        streams = [stream, *(self._stream(n) for n in range(len(layers) - 1))]
        for other in streams[1:]:
            driver.wait(other, stream)
        batch, begin, at = (
            sum(layer.batch for layer in layers),
            0,
            given.weights + layers[0].weights,
        )
        for layer, own in zip(layers, streams, strict=True):
            source, result = at + layer.temporary, at + layer.temporary + layer.source_bytes
            row, wide = layer.source_row, layer.result_row
            part = layer.batch
            self._rows(own, given.source + begin * row, batch * row, source, part * row, layer, row)
            states = (
                None if s is None else s + begin * layer.state_row
                for s in (given.state, given.cell)
            )
            layer.run(int(own), Given(given.weights, source, result, *states), at)
            target = given.result + begin * wide
            self._rows(own, result, part * wide, target, batch * wide, layer, wide)
            begin += part
            at += layer.temporary + layer.copied
        for other in streams[1:]:
            driver.wait(stream, other)

    def _rows(
        self, stream: Any, source: int, apart: int, target: int, there: int, layer: Layer, row: int
    ) -> None:
        """Copy a part of a batch at all times, which are `apart` and `there` bytes apart."""
        driver = self._device.driver
        copy = driver.api.CUDA_MEMCPY2D()
        kind = driver.api.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcMemoryType = copy.dstMemoryType = kind
        copy.srcDevice, copy.srcPitch = driver.api.CUdeviceptr(source), apart
        copy.dstDevice, copy.dstPitch = driver.api.CUdeviceptr(target), there
        copy.WidthInBytes, copy.Height = layer.batch * row, layer.time
        driver.check("cuMemcpy2DAsync", driver.api.cuMemcpy2DAsync(copy, stream))

    def _work(self, size: int) -> Buffer:
        """Memory that calls work in; a larger one replaces it for the calls that come later."""
        if self._workspace is None or self._workspace.bytes < size:
            self._workspace = self._device.allocate(max(size, 1))
        return self._workspace

    def _parts(self, command: LibraryCall) -> list[Layer]:
        """The layer of each part of the batch. Raises DeviceError where cuDNN should not run it."""
        key = command.attributes
        found = self._layers.get(key)
        if found is not None:
            return found
        if key not in self._refused:
            try:
                made = self._layers[key] = self._made(attributes_of(command))
                return made
            except DeviceError as error:
                self._refused[key] = error.problem
        raise DeviceError(command.function, self._refused[key])

    def _made(self, a: dict[str, Any]) -> list[Layer]:
        dtype, (_, batch, _), *_ = a["operands"][0]
        exact = dtype == "float32" and not a["tf32"]
        count = max(-(-batch // MOST_BATCH), 1) if exact else 1
        if count > MOST_PARTS:
            raise DeviceError(FUNCTION, "generated loops are faster in float32")
        parts = [batch * (n + 1) // count - batch * n // count for n in range(count)]
        return [Layer(self._api, self._handle(n), a, part) for n, part in enumerate(parts)]


@dataclass(frozen=True)
class Given:
    """Addresses of a run."""

    weights: int
    source: int
    result: int
    state: int | None
    cell: int | None


class Layer:
    """Descriptors of a layer for a part of its batch, and where its weights go."""

    def __init__(self, api: Any, handle: Any, a: dict[str, Any], batch: int) -> None:
        self._api, self._handle = api, handle
        self.given: tuple[str, ...] = a["given"]
        self._cell, self._first = a["cell"], a["reset_gate_first"]
        self._both = a["bidirectional"]
        self._dtype = a["operands"][0][0]
        self._check_operands(a)
        self.time, _, self._features = a["operands"][0][1]
        self.batch = batch
        self._hidden = a["operands"][1][1][-1]
        biases = [n for n in ("bias", "secondary_bias") if n in self.given]
        self._bias = _BOTH_BIASES if "secondary_bias" in biases else _INPUT_BIAS
        if not biases:
            self._bias = _NO_BIAS
        self._rnn = self._described(a["tf32"])
        self._x, self._y = (
            self._data(n) for n in (self._features, self._hidden * (1 + self._both))
        )
        self._state = self._states()
        self.weights, self.temporary = self._sizes()
        # Biases that the operation lacks are zeros.
        self.zeros = self._bias == _BOTH_BIASES
        self._addresses = self._places()
        size = BY_NAME[self._dtype].itemsize
        self.source_row, self.state_row = size * self._features, size * self._hidden
        self.result_row = self.state_row * (1 + self._both)

    @property
    def source_bytes(self) -> int:
        """Bytes of the source, up to where something else may begin."""
        return _aligned(self.time * self.batch * self.source_row)

    @property
    def copied(self) -> int:
        """Bytes of the source and of the result."""
        return self.source_bytes + _aligned(self.time * self.batch * self.result_row)

    def _check_operands(self, a: dict[str, Any]) -> None:
        shapes = [o[1] for o in a["operands"]]
        if any(o[4] is not None for o in a["operands"]) or any(0 in s for s in shapes):
            raise DeviceError(FUNCTION, "an operand is not in memory, or empty")
        if self._both and {"initial_state", "initial_cell"} & {*self.given}:
            raise DeviceError(FUNCTION, "two directions begin at states that lie side by side")
        if not a["results"][0][2] or any(r[2] for r in a["results"][1:]):
            raise DeviceError(FUNCTION, "the cells at all times are wanted, which cuDNN keeps")

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._api, name)(*arguments)
        if status:
            raise DeviceError(FUNCTION, f"{name} failed with status {status}")

    def _new(self, kind: str) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._call(f"cudnnCreate{kind}Descriptor", ctypes.byref(made))
        return made

    def _described(self, tf32: bool) -> ctypes.c_void_p:
        dropout, rnn = self._new("Dropout"), self._new("RNN")
        none = ctypes.c_size_t(0)
        self._call(
            "cudnnSetDropoutDescriptor", dropout, self._handle, ctypes.c_float(0), None, none,
            ctypes.c_ulonglong(0),
        )  # fmt: skip
        math_type = _TENSOR_MATH if self._dtype == "float16" else _DEFAULT_MATH
        if self._dtype != "float16" and not tf32:
            math_type = _EXACT_MATH
        self._call(
            "cudnnSetRNNDescriptor_v8", rnn, _STANDARD, _CELLS[self._cell], self._bias,
            int(self._both), 0, _KINDS[self._dtype], _ACCUMULATED[self._dtype], math_type,
            self._features, self._hidden, self._hidden, 1, dropout, 0,
        )  # fmt: skip
        return rnn

    def _data(self, width: int) -> ctypes.c_void_p:
        made = self._new("RNNData")
        lengths = (ctypes.c_int * self.batch)(*[self.time] * self.batch)
        self._call(
            "cudnnSetRNNDataDescriptor", made, _KINDS[self._dtype], _PACKED, self.time,
            self.batch, width, lengths, None,
        )  # fmt: skip
        return made

    def _states(self) -> ctypes.c_void_p:
        made = self._new("Tensor")
        sizes = (1 + self._both, self.batch, self._hidden)
        strides = (sizes[1] * sizes[2], sizes[2], 1)
        self._call(
            "cudnnSetTensorNdDescriptor", made, _KINDS[self._dtype], 3,
            (ctypes.c_int * 3)(*sizes), (ctypes.c_int * 3)(*strides),
        )  # fmt: skip
        return made

    def _sizes(self) -> tuple[int, int]:
        weights, work, reserve = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudnnGetRNNWeightSpaceSize", self._handle, self._rnn, ctypes.byref(weights))
        self._call(
            "cudnnGetRNNTempSpaceSizes", self._handle, self._rnn, _INFERENCE, self._x,
            ctypes.byref(work), ctypes.byref(reserve),
        )  # fmt: skip
        self._weight_bytes = weights
        self._work_bytes = work
        return _aligned(weights.value), _aligned(work.value)

    def _places(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Bytes from the beginning of the weights to the matrix and the bias of each direction and
        number of cuDNN's, gates of the input first."""
        matrix, bias = self._new("Tensor"), self._new("Tensor")
        base = 1 << 20  # any address: cuDNN only adds to it
        found = {}
        for direction in range(1 + self._both):
            for number in range(2 * self._gates):
                at = [ctypes.c_void_p(), ctypes.c_void_p()]
                self._call(
                    "cudnnGetRNNWeightParams", self._handle, self._rnn, direction,
                    self._weight_bytes, ctypes.c_void_p(base), number, matrix,
                    ctypes.byref(at[0]), bias, ctypes.byref(at[1]),
                )  # fmt: skip
                found[direction, number] = ((at[0].value or base) - base, (at[1].value or 0) - base)
        return found

    @property
    def _gates(self) -> int:
        return {"lstm": 4, "gru": 3}.get(self._cell, 1)

    def copies(self) -> list[tuple[str, int, int, int]]:
        """(operand, bytes into it, bytes into the weights, bytes) of what is copied, neighbours
        together."""
        size, h, gates = BY_NAME[self._dtype].itemsize, self._hidden, self._gates
        # cuDNN's GRU has the reset gate first.
        order = [1, 0, 2] if self._cell == "gru" and not self._first else list(range(gates))
        found: list[tuple[str, int, int, int]] = []
        for d in range(1 + self._both):
            for gate, ours in enumerate(order):
                row = (d * gates + ours) * h
                w, b = self._addresses[d, gate]
                r, second = self._addresses[d, gates + gate]
                found.append(("weight", row * self._features * size, w, h * self._features * size))
                found.append(("recurrent", row * h * size, r, h * h * size))
                if "bias" in self.given:
                    found.append(("bias", row * size, b, h * size))
                if "secondary_bias" in self.given and gate == gates - 1:
                    found.append(("secondary_bias", d * h * size, second, h * size))
        return _joined(sorted(found, key=lambda c: (c[0], c[1])))

    def run(self, stream: int, given: Given, temporary: int) -> None:
        """Queue the layer, which works in memory at `temporary`."""
        place = ctypes.c_void_p
        self._call("cudnnSetStream", self._handle, place(stream))
        lstm = self._cell == "lstm"
        self._call(
            "cudnnRNNForward", self._handle, self._rnn, _INFERENCE, None,
            self._x, place(given.source), self._y, place(given.result),
            self._state, place(given.state), None,
            self._state if lstm else None, place(given.cell), None,
            self._weight_bytes, place(given.weights), self._work_bytes, place(temporary),
            ctypes.c_size_t(0), None,
        )  # fmt: skip


def _aligned(size: int) -> int:
    return -(-size // 256) * 256


def _joined(copies: list[tuple[str, int, int, int]]) -> list[tuple[str, int, int, int]]:
    found: list[tuple[str, int, int, int]] = []
    for name, source, target, size in copies:
        if found:
            last, a, b, n = found[-1]
            if last == name and (a + n, b + n) == (source, target):
                found[-1] = (name, a, b, n + size)
                continue
        found.append((name, source, target, size))
    return found


def _load() -> Any:
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cudnn").abs_path)
    except Exception as error:
        raise BackendUnavailable(
            "cuda",
            f"cuDNN cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}",
            advice="Install niello[cuda]",
        ) from error
