"""Fourier transforms by cuFFT, through the library's C interface.

Complex numbers lie as pairs of real and imaginary parts, which is how cuFFT wants them. One plan
transforms neighbouring axes of everything behind and in front of them; where axes follow that are
not transformed, it does so for one index of those in front at a time. cuFFT does not scale: where a
factor is asked for, a kernel multiplies the result.
"""

from __future__ import annotations

import ctypes
import importlib
import math
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

# Numbers of the C headers: library_types.h, cufft.h.
_REAL = {"float32": 0, "float64": 1}
_COMPLEX = {"float32": 4, "float64": 5}
_FORWARD, _INVERSE = -1, 1

MOST_AXES = 3
# Where a plan runs once for each index of the axes in front: at most so often, and each time on at
# least so many elements. Otherwise a generated kernel is faster.
MOST_RUNS = 256
LEAST_ELEMENTS = 1 << 14

_THREADS = 256
_ALIGNED = 256  # bytes: where memory that a call works in begins
_SCALE = """
extern "C" __global__ void scale_float32(
    const float* from, float* to, float factor, long long n) {
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  long long step = gridDim.x * (long long)blockDim.x;
  for (long long v = i; v < n / 4; v += step) {
    float4 a = reinterpret_cast<const float4*>(from)[v];
    a.x *= factor; a.y *= factor; a.z *= factor; a.w *= factor;
    reinterpret_cast<float4*>(to)[v] = a;
  }
  if (i < n % 4) to[n / 4 * 4 + i] = factor * from[n / 4 * 4 + i];
}
extern "C" __global__ void scale_float64(
    const double* from, double* to, double factor, long long n) {
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  long long step = gridDim.x * (long long)blockDim.x;
  for (long long v = i; v < n; v += step) to[v] = factor * from[v];
}
"""


@dataclass(frozen=True)
class Transform:
    """What a call asks for: neighbouring axes, and the sizes in front of them and behind."""

    dtype: str
    real_input: bool
    real_output: bool
    inverse: bool
    scale: float
    lengths: tuple[int, ...]
    outer: int
    inner: int

    @property
    def runs(self) -> int:
        """How often the plan is run."""
        return self.outer if self.inner > 1 else 1

    @property
    def batch(self) -> int:
        """Transforms of one run."""
        return self.inner if self.inner > 1 else self.outer

    def span(self, real: bool) -> int:
        """Numbers of one transform on the side that is real, or complex."""
        half = (self.real_input or self.real_output) and not real
        return math.prod(self.lengths[:-1]) * (
            self.lengths[-1] // 2 + 1 if half else self.lengths[-1]
        )

    def step(self, real: bool) -> int:
        """Bytes between two runs."""
        return self.span(real) * self.inner * BY_NAME[self.dtype].itemsize * (1 if real else 2)

    @property
    def result(self) -> int:
        """Real numbers of the whole result."""
        return self.outer * self.inner * self.span(self.real_output) * (2 - self.real_output)

    @property
    def source(self) -> int:
        """Bytes of the whole input."""
        return self.outer * self.step(self.real_input)

    @property
    def spoils(self) -> bool:
        """Whether cuFFT works in its input: a copy of it is made, and multiplied meanwhile."""
        return self.real_output and len(self.lengths) > 1


def transform_of(command: LibraryCall) -> Transform:
    """The transform that a call of `ops/fourier_pairs.py` is. Raises DeviceError for those that
    cuFFT does otherwise."""
    a = attributes_of(command)
    name = command.function
    (dtype, shape, *_), (_, result, _) = a["operands"][0], a["results"][0]
    real_input, real_output = name == "cufft.real_pairs", name == "cufft.hermitian_pairs"
    whole = result if real_output else shape
    sizes = whole if real_input or real_output else whole[:-1]
    along = [a["axis"]] if "axis" in a else []  # the axis that half a spectrum is kept of
    axes = sorted(x % len(sizes) for x in (*along, *a.get("axes", ())))
    scale = math.prod((a.get("scale", 1.0), *a.get("scales", ())))
    first, last = axes[0], axes[-1]
    found = Transform(
        dtype, real_input, real_output, a["inverse"], scale, tuple(sizes[first : last + 1]),
        math.prod(sizes[:first]), math.prod(sizes[last + 1 :]),
    )  # fmt: skip
    if 0 in sizes:
        raise DeviceError(name, "nothing is to be computed")
    if last - first + 1 != len(axes) or len(axes) > MOST_AXES:
        raise DeviceError(name, "the axes are not neighbours, or too many")
    if along and along[0] % len(sizes) != last:
        raise DeviceError(name, "half of another axis than the last one is kept")
    if (real_input or real_output) and a["inverse"] != real_output:
        raise DeviceError(name, "the exponent's sign is the other one")
    elements = math.prod(sizes) // found.runs
    if found.runs > 1 and (found.runs > MOST_RUNS or elements < LEAST_ELEMENTS):
        raise DeviceError(name, f"{found.runs} runs would be needed")
    return found


class Cufft:
    """cuFFT on a device."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._api = _load()
        number = ctypes.c_int()
        self._check("cufftGetVersion", self._api.cufftGetVersion(ctypes.byref(number)))
        self.version = f"{number.value // 1000}.{number.value // 100 % 10}.{number.value % 100}"
        self._plans: dict[Any, _Plan] = {}
        self._refused: dict[Any, str] = {}
        self._workspace: Buffer | None = None

    def refusal(self, command: LibraryCall) -> str:
        """Why a call cannot run, or should not; empty when it should."""
        try:
            self._plan(command)
        except DeviceError as error:
            return error.problem
        return ""

    def shares_workspace(self, command: LibraryCall) -> bool:
        """Whether the plan needs the workspace."""
        plan = self._plan(command)
        return plan.workspace > 0 or plan.transform.spoils

    def player(self, command: LibraryCall, buffers: Sequence[Where]) -> Play:
        """Queues a transform from one buffer to another."""
        plan = self._plan(command)
        source, target = buffers
        workspace = self._work(plan.workspace + plan.transform.source * plan.transform.spoils)
        t, api = plan.transform, self._api
        direction = _INVERSE if t.inverse else _FORWARD

        def play(stream: Any, handles: Sequence[int]) -> None:
            start, end = source.address(handles), target.address(handles)
            if t.spoils:
                copy = workspace.handle + plan.workspace
                self._scale(stream, t, start, copy, t.source // BY_NAME[t.dtype].itemsize)
                start = copy
            self._check("cufftSetStream", api.cufftSetStream(plan.handle, int(stream)))
            if plan.workspace:
                status = api.cufftSetWorkArea(plan.handle, ctypes.c_void_p(workspace.handle))
                self._check("cufftSetWorkArea", status)
            for run in range(t.runs):
                status = api.cufftXtExec(
                    plan.handle,
                    ctypes.c_void_p(start + run * t.step(t.real_input)),
                    ctypes.c_void_p(end + run * t.step(t.real_output)),
                    direction,
                )
                self._check("cufftXtExec", status)
            if t.scale != 1.0 and not t.spoils:
                self._scale(stream, t, end, end, t.result)

        return play

    def _work(self, size: int) -> Buffer:
        """Memory that calls work in; a larger one replaces it for the calls that come later."""
        if self._workspace is None or self._workspace.bytes < size:
            self._workspace = self._device.allocate(max(size, 1))
        return self._workspace

    def _plan(self, command: LibraryCall) -> _Plan:
        key = (command.function, command.attributes)
        found = self._plans.get(key)
        if found is not None:
            return found
        if key not in self._refused:
            try:
                made = self._plans[key] = _Plan(self._api, transform_of(command))
                return made
            except DeviceError as error:
                self._refused[key] = error.problem
        raise DeviceError(command.function, self._refused[key])

    def _check(self, name: str, status: int) -> None:
        if status:
            raise DeviceError("cuda device", f"{name} failed with status {status}")

    def _scale(self, stream: Any, t: Transform, source: int, target: int, count: int) -> None:
        driver = self._device.driver
        name = f"scale_{t.dtype}"
        function = self._device.function(_SCALE, name)
        factor = ctypes.c_float if t.dtype == "float32" else ctypes.c_double
        places = ctypes.c_void_p(source), ctypes.c_void_p(target)
        words = (*places, factor(t.scale), ctypes.c_longlong(count))
        pointers = (ctypes.c_void_p * 4)(*(ctypes.addressof(w) for w in words))
        most = 16 * driver.attribute("MULTIPROCESSOR_COUNT")
        blocks = max(1, min(most, -(-count // (4 * _THREADS))))
        answer = driver.api.cuLaunchKernel(
            function, blocks, 1, 1, _THREADS, 1, 1, 0, stream, ctypes.addressof(pointers), 0
        )
        driver.check(f"launch of {name}", answer)


class _Plan:
    """cuFFT's plan of a transform, and the bytes that it works in."""

    def __init__(self, api: Any, transform: Transform) -> None:
        self.transform = t = transform
        self._api = api
        self.handle = ctypes.c_int()
        self._check("cufftCreate", api.cufftCreate(ctypes.byref(self.handle)))
        self._made = True
        self._check("cufftSetAutoAllocation", api.cufftSetAutoAllocation(self.handle, 0))
        work = ctypes.c_size_t()
        sides = [self._side(t, real) for real in (t.real_input, t.real_output)]
        status = api.cufftXtMakePlanMany(
            self.handle,
            len(t.lengths),
            (ctypes.c_longlong * len(t.lengths))(*t.lengths),
            *sides[0],
            *sides[1],
            ctypes.c_longlong(t.batch),
            ctypes.byref(work),
            _COMPLEX[t.dtype],
        )
        self._check("cufftXtMakePlanMany", status)
        self.workspace = -(-int(work.value) // _ALIGNED) * _ALIGNED

    def _side(self, t: Transform, real: bool) -> tuple[Any, ...]:
        """Sizes, stride, distance between transforms, and type of the input or output."""
        half = (t.real_input or t.real_output) and not real
        sizes = (*t.lengths[:-1], t.lengths[-1] // 2 + 1 if half else t.lengths[-1])
        together = t.inner > 1
        return (
            (ctypes.c_longlong * len(sizes))(*sizes),
            ctypes.c_longlong(t.inner if together else 1),
            ctypes.c_longlong(1 if together else t.span(real)),
            (_REAL if real else _COMPLEX)[t.dtype],
        )

    def _check(self, name: str, status: int) -> None:
        if status:
            raise DeviceError("cuda device", f"{name} failed with status {status}")

    def __del__(self) -> None:
        if getattr(self, "_made", False):
            self._api.cufftDestroy(self.handle)


def _load() -> Any:
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
        found = pathfinder.load_nvidia_dynamic_lib("cufft")
        return ctypes.CDLL(found.abs_path)
    except Exception as error:
        raise BackendUnavailable(
            "cuda",
            f"cuFFT cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}",
            advice="Install niello[cuda]",
        ) from error
