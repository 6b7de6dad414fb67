"""Matrix products by cuBLASLt, through the library's C interface.

A call is D[batch, m, n] = epilogue(A[batch, m, k] B[batch, k, n]) over row-major results, with a
bias along n, another array D's shape that is added, and ReLU as the epilogue. cuBLASLt thinks in
columns, so it is asked for the transposed product with the operands exchanged.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from niello.backends.cuda.libraries import attributes_of
from niello.backends.cuda.tuning import fastest, random_buffer
from niello.core.dtypes import BY_NAME
from niello.core.errors import BackendUnavailable, CompilerBug, DeviceError
from niello.runtime.commands import LibraryCall
from niello.runtime.disk_cache import compiled_code

if TYPE_CHECKING:
    from niello.backends.cuda.device import CudaDevice
    from niello.backends.cuda.program import Play, Where

WORKSPACE_BYTES = 64 << 20
# Algorithms that are timed before one is chosen, for work that is worth it.
_TRIED = 8
_LARGE = 1 << 18  # multiply-adds
_LEAST_FLOAT32 = 1 << 30  # multiply-adds from which products of float32 are faster here

# Numbers of the C headers: library_types.h, cublas_api.h, cublasLt.h.
_DATA = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32F_TF32 = 68, 70, 77
_DESC_TRANSA, _DESC_TRANSB, _DESC_EPILOGUE, _DESC_BIAS = 3, 4, 7, 8
_LAYOUT_BATCH, _LAYOUT_BATCH_STRIDE = 5, 6
_PREFERENCE_WORKSPACE = 1
_PREFERENCE_ALIGNMENTS = (5, 6, 7, 8)
_EPILOGUES = {
    (): 1,
    ("relu",): 2,
    ("add channel",): 4,
    ("add channel", "relu"): 6,
}
_TRANSPOSED = 1


class _Heuristic(ctypes.Structure):
    _fields_ = [
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("status", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


class CublasLt:
    """cuBLASLt on a device."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._api = _load()
        self._api.cublasLtGetVersion.restype = ctypes.c_size_t
        number = int(self._api.cublasLtGetVersion())
        self.version = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
        self._handle = ctypes.c_void_p()
        status = self._api.cublasLtCreate(ctypes.byref(self._handle))
        if status:
            raise BackendUnavailable("cuda", f"cublasLtCreate failed with status {status}")
        self._workspace: Any = None
        self._plans: dict[Any, _Plan] = {}

    def workspace(self) -> int:
        """Address of memory that calls use while they run; they run one after the other."""
        if self._workspace is None:
            self._workspace = self._device.allocate(WORKSPACE_BYTES)
        return int(self._workspace.handle)

    def refusal(self, command: LibraryCall) -> str:
        """Why a product cannot run, or should not; empty when it should."""
        a = attributes_of(command)
        if a["dtype"] == "float32" and not a["tf32"] and _work(a) < _LEAST_FLOAT32:
            return "generated kernels are as fast, and take the neighbouring operations along"
        try:
            self._plan(command)
        except DeviceError as error:
            return error.problem
        return ""

    def player(self, command: LibraryCall, buffers: Sequence[Where]) -> Play:
        """Queues a product: operands a, b, the bias if there is one, and the result."""
        plan = self._plan(command)
        first, second, *middle, result = buffers
        bias = middle[0] if plan.biased else None
        added = middle[-1] if plan.added else result

        def play(stream: Any, handles: Sequence[int]) -> None:
            self._run(
                plan,
                plan.heuristic,
                stream,
                [w.address(handles) for w in (first, second, added, result)],
                None if bias is None else bias.address(handles),
            )

        return play

    def shares_workspace(self, command: LibraryCall) -> bool:
        """Whether the chosen algorithm needs the workspace."""
        return bool(self._plan(command).heuristic.workspace)

    def _plan(self, command: LibraryCall) -> _Plan:
        found = self._plans.get(command.attributes)
        if found is None:
            a = attributes_of(command)
            found = _Plan(self._api, self._handle, a, self.workspace())
            found.heuristic = self._chosen(found, a)
            self._plans[command.attributes] = found
        return found

    def _chosen(self, plan: _Plan, a: dict[str, Any]) -> _Heuristic:
        """The first algorithm that the library proposes, or for work that is worth it the fastest
        of several, remembered on disk."""
        proposals = plan.proposals(self._handle, _TRIED)
        if len(proposals) == 1 or _work(a) < _LARGE:
            return proposals[0]
        device = self._device
        text = repr(("cublaslt", self.version, device.arch, sorted(a.items())))
        key = hashlib.sha256(text.encode()).hexdigest()
        known = compiled_code().get(key)
        if known is not None and len(known) == ctypes.sizeof(_Heuristic):
            return _Heuristic.from_buffer_copy(known)
        memory = [random_buffer(device, size, a["dtype"]) for size in _sizes(a)]
        *operands, bias = (b.handle for b in memory)
        calls = [
            lambda stream, h=h: self._run(plan, h, stream, operands, bias)  # type: ignore[misc]
            for h in proposals
        ]
        best = proposals[fastest(device, calls)]
        compiled_code().put(key, bytes(best))
        return best

    def _run(
        self,
        plan: _Plan,
        algorithm: _Heuristic,
        stream: Any,
        operands: Sequence[int],
        bias: int | None,
    ) -> None:
        api = self._api
        first, second, added, result = operands
        one, beta = plan.scalars
        if bias is not None and plan.biased:
            _set(api, plan.descriptor, _DESC_BIAS, ctypes.c_uint64(bias))
        status = api.cublasLtMatmul(
            self._handle,
            plan.descriptor,
            ctypes.byref(one),
            ctypes.c_void_p(second),
            plan.b,
            ctypes.c_void_p(first),
            plan.a,
            ctypes.byref(beta),
            ctypes.c_void_p(added),
            plan.c,
            ctypes.c_void_p(result),
            plan.c,
            ctypes.byref(algorithm.algorithm),
            ctypes.c_void_p(self.workspace()),
            ctypes.c_size_t(WORKSPACE_BYTES),
            ctypes.c_void_p(int(stream)),
        )
        if status:
            raise DeviceError("cuda device", f"cublasLtMatmul failed with status {status}")


class _Plan:
    """Descriptors and the chosen algorithm of one product."""

    def __init__(self, api: Any, handle: Any, a: dict[str, Any], address: int) -> None:
        dtype = a["dtype"]
        double = dtype == "float64"
        scalar = ctypes.c_double if double else ctypes.c_float
        self.added = "add full" in a["epilogue"]
        self.scalars = (scalar(1), scalar(int(self.added)))
        self._api = api
        self.descriptor = ctypes.c_void_p()
        compute = _COMPUTE_64F if double else _COMPUTE_32F_TF32 if a["tf32"] else _COMPUTE_32F
        self._check(
            "cublasLtMatmulDescCreate",
            api.cublasLtMatmulDescCreate(ctypes.byref(self.descriptor), compute, int(double)),
        )
        m, n, k, batch = a["m"], a["n"], a["k"], a["batch"]
        # Stored [m, k] in rows is [k, m] in columns; transposed storage is [m, k] in columns.
        a_t, a_ld, a_step = a["a"]
        b_t, b_ld, b_step = a["b"]
        c_ld, c_step = a["c"]
        if b_t:
            self._set(_DESC_TRANSA, ctypes.c_int32(_TRANSPOSED))
        if a_t:
            self._set(_DESC_TRANSB, ctypes.c_int32(_TRANSPOSED))
        self._set(_DESC_EPILOGUE, ctypes.c_uint32(_epilogue(a)))
        self.biased = "add channel" in a["epilogue"]
        if self.biased:
            # The address that counts is set for each call; choosing an algorithm wants one too.
            self._set(_DESC_BIAS, ctypes.c_uint64(address))
        self.b = self._layout(dtype, *((k, n) if b_t else (n, k)), b_ld, batch, b_step)
        self.a = self._layout(dtype, *((m, k) if a_t else (k, m)), a_ld, batch, a_step)
        self.c = self._layout(dtype, n, m, c_ld, batch, c_step)
        self.heuristic = _Heuristic()

    def _check(self, name: str, status: int) -> None:
        if status:
            raise DeviceError("cuda device", f"{name} failed with status {status}")

    def _set(self, which: int, value: Any) -> None:
        _set(self._api, self.descriptor, which, value)

    def _layout(
        self, dtype: str, rows: int, columns: int, ld: int, batch: int, step: int
    ) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._check(
            "cublasLtMatrixLayoutCreate",
            self._api.cublasLtMatrixLayoutCreate(
                ctypes.byref(made),
                _DATA[dtype],
                ctypes.c_uint64(rows),
                ctypes.c_uint64(columns),
                ctypes.c_int64(ld),
            ),
        )
        if batch > 1:
            for which, value in (
                (_LAYOUT_BATCH, ctypes.c_int32(batch)),
                (_LAYOUT_BATCH_STRIDE, ctypes.c_int64(step)),
            ):
                self._check(
                    "cublasLtMatrixLayoutSetAttribute",
                    self._api.cublasLtMatrixLayoutSetAttribute(
                        made, which, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))
                    ),
                )
        return made

    def proposals(self, handle: Any, most: int) -> list[_Heuristic]:
        """Algorithms in the order in which the library expects them to be fast."""
        api = self._api
        preference = ctypes.c_void_p()
        self._check(
            "cublasLtMatmulPreferenceCreate",
            api.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)),
        )
        settings: list[tuple[int, Any]] = [
            (_PREFERENCE_WORKSPACE, ctypes.c_uint64(WORKSPACE_BYTES))
        ]
        settings += [(which, ctypes.c_uint32(16)) for which in _PREFERENCE_ALIGNMENTS]
        for which, value in settings:
            self._check(
                "cublasLtMatmulPreferenceSetAttribute",
                api.cublasLtMatmulPreferenceSetAttribute(
                    preference, which, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))
                ),
            )
        found = (_Heuristic * most)()
        count = ctypes.c_int()
        status = api.cublasLtMatmulAlgoGetHeuristic(
            handle,
            self.descriptor,
            self.b,
            self.a,
            self.c,
            self.c,
            preference,
            most,
            ctypes.byref(found),
            ctypes.byref(count),
        )
        api.cublasLtMatmulPreferenceDestroy(preference)
        if status or not count.value:
            raise DeviceError(
                "cuda device", f"cuBLASLt has no algorithm for the product (status {status})"
            )
        return [h for h in found[: count.value] if h.status == 0]

    def __del__(self) -> None:
        for name in ("a", "b", "c"):
            layout = getattr(self, name, None)
            if layout:
                self._api.cublasLtMatrixLayoutDestroy(layout)
        if self.descriptor:
            self._api.cublasLtMatmulDescDestroy(self.descriptor)


def _work(a: dict[str, Any]) -> int:
    """Multiply-adds of a product."""
    return int(a["batch"] * a["m"] * a["n"] * a["k"])


def _sizes(a: dict[str, Any]) -> list[int]:
    """Bytes of the operands, what is added, the result and the bias."""
    size = BY_NAME[a["dtype"]].itemsize

    def span(rows: int, columns: int, pitch: int, step: int, transposed: bool) -> int:
        one = pitch * (columns if transposed else rows)
        return size * (one + (a["batch"] - 1) * step)

    (at, ap, astep), (bt, bp, bstep), (cp, cstep) = a["a"], a["b"], a["c"]
    return [
        span(a["m"], a["k"], ap, astep, at),
        span(a["k"], a["n"], bp, bstep, bt),
        *[span(a["m"], a["n"], cp, cstep, False)] * 2,
        size * a["n"],
    ]


def _epilogue(a: dict[str, Any]) -> int:
    """cuBLASLt's number of the steps after the addition of an array."""
    return _EPILOGUES[tuple(step for step in a["epilogue"] if step != "add full")]


def _set(api: Any, descriptor: Any, which: int, value: Any) -> None:
    status = api.cublasLtMatmulDescSetAttribute(
        descriptor, which, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))
    )
    if status:
        raise CompilerBug(
            "cublasLtMatmulDescSetAttribute", f"status {status}", received=(which, value.value)
        )


def _load() -> Any:
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
        found = pathfinder.load_nvidia_dynamic_lib("cublasLt")
        return ctypes.CDLL(found.abs_path)
    except Exception as error:
        raise BackendUnavailable(
            "cuda",
            f"cuBLASLt cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}",
            advice="Install niello[cuda]",
        ) from error
