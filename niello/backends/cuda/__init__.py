"""The cuda back end: generated CUDA C++ and NVIDIA's libraries, played as CUDA graphs.

Nothing of CUDA is imported before a device is opened.
"""

from __future__ import annotations

from dataclasses import replace

from niello.core import dtypes
from niello.runtime.target import Backend, Claim, Device, Limits, OperationClaim

_HALVES = frozenset((dtypes.float16, dtypes.bfloat16))
_TRANSFORMED = frozenset((dtypes.float32, dtypes.float64))
_RECURRENT = frozenset((dtypes.float16, dtypes.float32, dtypes.float64))
_FUSED = (
    "any order", "add channel", "add full", "mul channel", "mul full",
    "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh",
)  # fmt: skip

# `cost` is the number of multiply-adds from which a call pays: below, a generated kernel that does
# the neighbouring operations too is faster. Products whose epilogue cuBLASLt lacks are followed by
# a generated kernel: on an H200 that is faster than cuDNN's fused products (8192^3, bf16, SiLU
# times another array: 1.41 ms against 1.46).
CLAIMS = (
    Claim(
        trait="product",
        dtypes=frozenset((*_HALVES, dtypes.float32, dtypes.float64)),
        epilogue=("add channel", "add full", "relu"),
        function="cublaslt.matmul",
        cost=4096,
    ),
    Claim(
        trait="window",
        dtypes=_HALVES,
        epilogue=_FUSED,
        function="cudnn.convolution",
        cost=1 << 20,
    ),
    Claim(
        trait="window",
        dtypes=frozenset((dtypes.float32,)),
        epilogue=("add channel", "relu"),
        function="cudnn.convolution",
        cost=1 << 26,
    ),
)
# Operations that a library runs whole. What it refuses is decomposed.
OPERATIONS = (
    OperationClaim("attention", _HALVES, "cudnn.attention", strided=True),
    OperationClaim("attention_gradient", _HALVES, "cudnn.attention_gradient", strided=True),
    OperationClaim("recurrent_layer", _RECURRENT, "cudnnrnn.layer"),
    OperationClaim("fourier_pairs", _TRANSFORMED, "cufft.fourier_pairs"),
    OperationClaim("real_pairs", _TRANSFORMED, "cufft.real_pairs"),
    OperationClaim("hermitian_pairs", _TRANSFORMED, "cufft.hermitian_pairs"),
)
# One vector a thread: more of them need registers, and then fewer threads hide the memory's latency
# (GeLU of 2^28 float32 on an H200: 0.501 ms with one, 0.521 with two).
_CHUNKS = 1


def _open() -> Device:
    from niello.backends.cuda.device import CudaDevice
    from niello.backends.cuda.driver import open_driver

    driver = open_driver()  # the reason why there is no device comes before anything else
    from niello.backends.cuda.render import render, target_for

    parts = (driver.attribute(f"COMPUTE_CAPABILITY_{x}") for x in ("MAJOR", "MINOR"))
    level = "sm_{}{}".format(*parts)
    target = replace(target_for(level), chunks=_CHUNKS)
    return CudaDevice(driver, lambda kernel: render(kernel, target))


def _ahead(level: str) -> Device:
    from niello.backends.cuda.ahead import open_ahead
    from niello.backends.cuda.render import render, target_for

    target = replace(target_for(level), chunks=_CHUNKS)
    return open_ahead(level, lambda kernel: render(kernel, target))


BACKEND = Backend(
    name="cuda",
    limits=Limits(
        dtypes=frozenset(dtypes.ALL),
        max_buffers=128,
        max_nodes=4096,
        max_buffer_bytes=1 << 40,
        workgroup_threads=1024,
        shared_bytes=48 << 10,
        vector_bits=128,
        channels_last=True,
        inputs_last=True,
        apart_bytes=64 << 20,
    ),
    open=_open,
    ahead=_ahead,
    claims=CLAIMS,
    operations=OPERATIONS,
    notes="NVIDIA GPUs from compute capability 8.0, through cuda-core; needs niello[cuda]",
)
