"""Kernels compiled for the CPU, alone, and compared with the interpreter."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from niello.backends.cpu.jit import compile_object, load_object, select_target
from niello.backends.cpu.program import render_program
from niello.backends.cpu.threads import Runner
from niello.core.dtypes import DType, bool_
from niello.core.types import TensorType
from niello.kernel.interpret import interpret
from niello.kernel.ir import (
    Expr,
    Kernel,
    Load,
    Param,
    Range,
    Store,
)
from niello.runtime.commands import BufferRef, Dispatch, Program, Space
from niello.runtime.target import CompileOptions

TARGETS = [t for t in ("host", "avx2", "baseline") if not select_target(t).missing_here()]
ROUNDING = {"float32": 4e-6, "float64": 1e-13, "float16": 1e-3, "bfloat16": 8e-3}


# --- running ----------------------------------------------------------------------------------


def aligned(elements: int, dtype: np.dtype) -> np.ndarray:
    room = np.zeros(elements * dtype.itemsize + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + elements * dtype.itemsize].view(dtype)


def program_of(kernel: Kernel) -> Program:
    types = tuple(TensorType((p.elements,), p.dtype) for p in kernel.params)
    buffers = tuple(BufferRef(Space.INPUT, n, 0, t.bytes) for n, t in enumerate(types))
    written = tuple(p.written for p in kernel.params)
    return Program((kernel,), (Dispatch(0, buffers, written),), types, (), (), (), 0)


class Compiled:
    """A kernel alone as a program."""

    def __init__(self, kernel: Kernel, target: str = "host") -> None:
        chosen = select_target(target)
        self.text = render_program(program_of(kernel), chosen, CompileOptions(threads=2))
        code = load_object(
            compile_object(self.text, chosen, verify=True), chosen, ("niello_run", "niello_info")
        )
        self.info = list((ctypes.c_int64 * 4).from_address(code.address("niello_info")))
        self.run = Runner(code, "niello_run")

    def __call__(self, arrays: Sequence[np.ndarray], threads: int) -> None:
        table = (ctypes.c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])
        shared, each = (-(-size // 64) * 64 for size in self.info[:2])
        scratch = aligned(shared + each * threads + 64, np.dtype(np.uint8))
        scratch[:] = 0xA5
        self.run(ctypes.addressof(table), scratch.ctypes.data, threads)


def check(
    kernel: Kernel,
    arrays: Sequence[np.ndarray],
    *,
    targets: Sequence[str] = TARGETS,
    threads: Sequence[int] = (1, 2, 5),
    tolerance: float = 1.0,
) -> None:
    """Compiled and interpreted results agree for all targets and numbers of threads."""
    expected = [a.copy() for a in arrays]
    interpret(kernel, expected)
    for target in targets:
        compiled = Compiled(kernel, target)
        for count in threads:
            found = [aligned(a.size, a.dtype) for a in arrays]
            for f, a in zip(found, arrays, strict=True):
                f[:] = a
            compiled(found, count)
            for p, f, e in zip(kernel.params, found, expected, strict=True):
                where = f"{target}, {count} threads, buffer {p.slot}"
                limit = ROUNDING.get(p.dtype.name)
                if limit is None:
                    np.testing.assert_array_equal(f, e, err_msg=where)
                else:
                    np.testing.assert_allclose(
                        f.astype(np.float64),
                        e.astype(np.float64),
                        rtol=limit * tolerance,
                        atol=limit * tolerance,
                        err_msg=where,
                    )


def values(dtype: DType, count: int, seed: int = 0) -> np.ndarray:
    """Values of a dtype with its special ones among them."""
    rng = np.random.default_rng(seed)
    if dtype is bool_:
        return rng.integers(0, 2, count).astype(bool)
    if dtype.is_float:
        data = (rng.standard_normal(count) * 3).astype(dtype.numpy)
        special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -2.5, 1e-6]
        data[: 2 * len(special)] = rng.permutation(special * 2)[:count]
        return data
    data = rng.integers(int(dtype.min), int(dtype.max), count, dtype=dtype.numpy, endpoint=True)
    small = rng.integers(0, 12, count).astype(dtype.numpy)
    data[::3] = small[::3]
    data[:4] = [0, int(dtype.max), int(dtype.min), 1]
    if dtype.is_signed:
        data[4:8] = [-1, int(dtype.min), -7, 7]
    return data


def pointwise(count: int, inputs: Sequence[DType], body, out: DType) -> Kernel:
    """out[i] = body(in0[i], in1[i], ...)"""
    i = Range("i", count)
    params = [Param(n, dtype, count, False) for n, dtype in enumerate(inputs)]
    target = Param(len(params), out, count, True)
    value = body(*(Load(p, i, None) for p in params))
    return Kernel("pointwise", (*params, target), (Store(target, (i,), i, value, None, None),))


def floats(*sizes: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(n).astype(np.float32) for n in sizes]


def store(
    p: Param,
    ranges: Sequence[Range],
    index: Expr,
    value: Expr,
    gate: Expr | None = None,
    combine: str | None = None,
) -> Store:
    return Store(p, tuple(ranges), index, value, gate, combine)
