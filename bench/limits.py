"""What the machine itself can do: copy bandwidth and the peak of its multiply-add units."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numpy as np

from bench.harness import COPY, SETTLE_SECONDS, Contender, Plan, Prepared, Row, Work, measure
from bench.libraries import import_peer
from bench.machine import THREADS

ACCUMULATORS = 16


def aligned(shape: tuple[int, ...], fill: np.ndarray | float | None = None) -> np.ndarray:
    """A float32 array on a 64-byte boundary, so that every library may use it in place."""
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.empty(count * 4 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array = raw[start : start + count * 4].view(np.float32).reshape(shape)
    if fill is not None:
        array[...] = fill
    return array


def copies(count: int) -> tuple[Contender, ...]:
    """Contenders that copy `count` floats into a reused array: the floor of memory-bound work."""
    return (
        Contender(COPY, "two NumPy threads", lambda: _numpy_copy(count)),
        Contender(COPY, "torch copy_", lambda: _torch_copy(count)),
    )


def _numpy_copy(count: int) -> Prepared:
    source, target = aligned((count,), 1.0), aligned((count,), 0.0)
    pool = ThreadPoolExecutor(THREADS)
    half = count // 2

    def run() -> None:
        first = pool.submit(np.copyto, target[:half], source[:half])
        np.copyto(target[half:], source[half:])
        first.result()

    return Prepared(run, lambda: [])


def _torch_copy(count: int) -> Prepared:
    torch = import_peer("torch")
    source = torch.from_numpy(aligned((count,), 1.0))
    target = torch.from_numpy(aligned((count,), 0.0))
    return Prepared(lambda: target.copy_(source), lambda: [])


def _vector_width() -> int:
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx") else 4


def _peak_source(width: int) -> str:
    """LLVM IR of a loop of independent multiply-adds that touches no memory."""
    vector = f"<{width} x float>"
    numbers = range(ACCUMULATORS)
    seeds = "\n".join(
        f"  %s{n} = insertelement {vector} %x, float {float(n)}, i32 0" for n in numbers
    )
    phis = "\n".join(f"  %a{n} = phi {vector} [ %s{n}, %entry ], [ %b{n}, %loop ]" for n in numbers)
    steps = "\n".join(
        f"  %b{n} = call {vector} @llvm.fma.v{width}f32({vector} %a{n}, {vector} %x, {vector} %x)"
        for n in numbers
    )
    sums = "\n".join(
        f"  %t{n} = fadd {vector} {'%b0' if n == 1 else f'%t{n - 1}'}, %b{n}"
        for n in range(1, ACCUMULATORS)
    )
    return f"""
declare {vector} @llvm.fma.v{width}f32({vector}, {vector}, {vector})
define void @peak(i64 %count, ptr %data) {{
entry:
  %x = load {vector}, ptr %data, align 4
{seeds}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{phis}
{steps}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
{sums}
  store {vector} %t{ACCUMULATORS - 1}, ptr %data, align 4
  ret void
}}
"""


@cache
def _peak_engine(width: int) -> tuple[object, Callable[[int, int], None]]:
    """The compiled loop; the engine is returned too because it owns the machine code."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3
    )
    module = llvm.parse_assembly(_peak_source(width))
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    address = engine.get_function_address("peak")
    return engine, ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(address)


def matrix_peak(rounds: int = 25) -> float:
    """Highest rate of float32 multiply-adds that two threads reach, in FLOP/s."""
    width = _vector_width()
    _, function = _peak_engine(width)
    count = 2_000_000
    arrays = [np.full(64, 1e-3, np.float32) for _ in range(THREADS)]
    best = float("inf")
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(lambda array: function(count, array.ctypes.data), arrays))
            best = min(best, time.perf_counter() - start)
            time.sleep(SETTLE_SECONDS)
    return 2.0 * THREADS * ACCUMULATORS * width * count / best


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """Copies of the sizes that the other topics use."""
    found = []
    for label, count in (("copy 64 MiB", 16 << 20), ("copy 16 MiB", 4 << 20)):
        work = Work(label, copies(count), bytes=8.0 * count)
        found.append(measure("limits", work, plan, without))
    return found
