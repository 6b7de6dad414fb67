"""How element types look in memory and in registers, and what a CPU target does natively."""

from __future__ import annotations

from functools import cache

from niello.backends.cpu.jit import CpuTarget
from niello.core.dtypes import DType, bool_

_FLOATS = {32: "float", 64: "double"}


@cache
def memory_type(dtype: DType) -> str:
    """LLVM type of an element in a buffer: bool is a byte, half types are their bits."""
    if dtype.is_float and not dtype.is_half:
        return _FLOATS[dtype.bits]
    return f"i{dtype.bits}"


@cache
def register_type(dtype: DType) -> str:
    """LLVM type of an element in a register: bool is one bit, half types are their bits."""
    return "i1" if dtype is bool_ else memory_type(dtype)


@cache
def vector_bytes(target: CpuTarget) -> int:
    """Bytes of the widest vector register that code for the target uses."""
    return target.vector_bits // 8


@cache
def has_masks(target: CpuTarget, bytes: int) -> bool:
    """Whether loads and stores of vectors of `bytes`-wide elements can be masked natively."""
    if target.has("avx512bw") and target.has("avx512vl"):
        return True
    return bytes >= 4 and target.has("avx2")


@cache
def has_gather(target: CpuTarget, bytes: int) -> bool:
    """Whether a vector can be loaded from a vector of addresses by one instruction."""
    return bytes >= 4 and (target.has("avx2") or target.has("avx512f"))


@cache
def has_half(target: CpuTarget) -> bool:
    """Whether float16 converts to and from float32 by an instruction."""
    return target.has("f16c") or target.architecture == "aarch64"


@cache
def has_rounding(target: CpuTarget) -> bool:
    """Whether floor, ceil, trunc and rint of floats are instructions."""
    return target.has("sse4.1") or target.architecture == "aarch64"
