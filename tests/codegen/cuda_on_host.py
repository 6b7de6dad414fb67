"""Runs generated CUDA C++ on the host: threads of a block are fibres that take turns at barriers.

A translation unit compiles with g++ after a header that gives CUDA's words a meaning. Blocks run
one after the other, so that `static` arrays are their shared memory. Slow, and exact enough to
compare with the interpreter: it finds wrong indices, barriers that not all threads reach, and wrong
geometry without a GPU.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from niello.codegen.gpu.kernel import GpuKernel

HEADER = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <vector>
using namespace std;
#define __global__
#define __device__ static
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
struct Dim { int x, y, z; };
static Dim threadIdx, blockIdx;
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) longlong2 { long long x, y; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };
template <class A, class B> static A bits_of(B b) { A a; memcpy(&a, &b, sizeof a); return a; }
static int __float_as_int(float x) { return bits_of<int>(x); }
static unsigned __float_as_uint(float x) { return bits_of<unsigned>(x); }
static float __int_as_float(int x) { return bits_of<float>(x); }
static float __uint_as_float(unsigned x) { return bits_of<float>(x); }
static long long __double_as_longlong(double x) { return bits_of<long long>(x); }
static double __longlong_as_double(long long x) { return bits_of<double>(x); }
static int __popc(unsigned x) { return __builtin_popcount(x); }
static int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }

template <class T> static T atomicAdd(T* p, T v) { T old = *p; *p = old + v; return old; }
template <class T> static T atomicMin(T* p, T v) { T old = *p; if (v < old) *p = v; return old; }
template <class T> static T atomicMax(T* p, T v) { T old = *p; if (old < v) *p = v; return old; }
template <class T> static T atomicAnd(T* p, T v) { T old = *p; *p = old & v; return old; }
template <class T> static T atomicOr(T* p, T v) { T old = *p; *p = old | v; return old; }
template <class T> static T atomicXor(T* p, T v) { T old = *p; *p = old ^ v; return old; }

static ucontext_t scheduler, fibres[1024];
static int current;
static bool finished[1024];
static uint64_t exchange[1024];
static void (*body)();
static void __syncthreads() { swapcontext(&fibres[current], &scheduler); }
template <class T> static T __shfl_xor_sync(unsigned, T value, int mask) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  exchange[current] = bits;
  __syncthreads();
  const uint64_t other = exchange[current ^ mask];
  __syncthreads();
  memcpy(&value, &other, sizeof value);
  return value;
}
static void enter() {
  body();
  finished[current] = true;
  swapcontext(&fibres[current], &scheduler);
}
static const int STACK = 1 << 16;
// Returns the number of blocks in which threads did not meet at the same barriers.
static int launch(void (*f)(), int gx, int gy, int threads) {
  static vector<char> stacks;
  stacks.resize((size_t)STACK * 1024);
  body = f;
  int wrong = 0;
  for (int by = 0; by < gy; by++) for (int bx = 0; bx < gx; bx++) {
    blockIdx = {bx, by, 0};
    for (int t = 0; t < threads; t++) {
      finished[t] = false;
      getcontext(&fibres[t]);
      fibres[t].uc_stack.ss_sp = &stacks[(size_t)STACK * t];
      fibres[t].uc_stack.ss_size = STACK;
      fibres[t].uc_link = nullptr;
      makecontext(&fibres[t], enter, 0);
    }
    int left = threads;
    while (left) {
      int ended = 0;
      for (int t = 0; t < threads; t++) if (!finished[t]) {
        current = t;
        threadIdx = {t, 0, 0};
        swapcontext(&scheduler, &fibres[t]);
        ended += finished[t];
      }
      if (ended && ended != left) { wrong++; }
      left -= ended;
    }
  }
  return wrong;
}
static float nl_float16_to_float(unsigned h) { return (float)bits_of<_Float16>((uint16_t)h); }
static unsigned nl_float_to_float16(float f) { return bits_of<uint16_t>((_Float16)f); }
static unsigned nl_float_to_bfloat16(float f) {
  const unsigned b = __float_as_uint(f);
  if ((b & 0x7fffffff) > 0x7f800000) return (b >> 16) | 0x40;
  return (b + 0x7fff + ((b >> 16) & 1)) >> 16;
}
static unsigned nl_split_off(float& x, float& y) {
  const unsigned a = nl_float_to_bfloat16(x), b = nl_float_to_bfloat16(y);
  x -= __uint_as_float(a << 16);
  y -= __uint_as_float(b << 16);
  return a | b << 16;
}
// Tensor cores: what threads of a warp (32 neighbours) have is laid out for all to see.
static void nl_copy_16(unsigned* to, const unsigned short* from, long long at, bool is) {
  if (is) memcpy(to, from + at, 16); else memset(to, 0, 16);
}
static void nl_copies_close() {}
static void nl_copies_wait(int) {}
static const uint16_t* rows_of[1024];
static uint16_t piece(int first, int row, int column) { return rows_of[first + row][column]; }
static void nl_pieces_any(unsigned** out, const unsigned* row, bool turned) {
  rows_of[current] = (const uint16_t*)row;
  __syncthreads();
  const int lane = current % 32, start = current - lane, g = lane / 4, t = 2 * (lane % 4);
  for (int p = 0; p < 4; p++) {
    const int first = start + 8 * p;
    const unsigned low = turned ? piece(first, t, g) : piece(first, g, t);
    const unsigned high = turned ? piece(first, t + 1, g) : piece(first, g, t + 1);
    *out[p] = low | high << 16;
  }
  __syncthreads();
}
static void nl_pieces(unsigned& a, unsigned& b, unsigned& c, unsigned& d, const unsigned* row) {
  unsigned* out[] = {&a, &b, &c, &d};
  nl_pieces_any(out, row, false);
}
static void nl_pieces_turned(
    unsigned& a, unsigned& b, unsigned& c, unsigned& d, const unsigned* row) {
  unsigned* out[] = {&a, &b, &c, &d};
  nl_pieces_any(out, row, true);
}
static unsigned factors_a[1024][4], factors_b[1024][2];
static float from_bfloat16(unsigned h) { return __uint_as_float(h << 16); }
static void nl_mma_any(float** c, const unsigned* a, const unsigned* b, float (*value)(unsigned)) {
  memcpy(factors_a[current], a, 16);
  memcpy(factors_b[current], b, 8);
  __syncthreads();
  const int lane = current % 32, start = current - lane;
  for (int n = 0; n < 4; n++) {
    const int row = lane / 4 + n / 2 * 8, column = lane % 4 * 2 + n % 2;
    float total = 0;
    for (int k = 0; k < 16; k++) {
      const int high = k % 2 * 16, half = k / 8, thread = k % 8 / 2;
      const unsigned x = factors_a[start + row % 8 * 4 + thread][row / 8 + 2 * half] >> high;
      const unsigned y = factors_b[start + column * 4 + thread][half] >> high;
      total += value(x & 0xffff) * value(y & 0xffff);
    }
    *c[n] += total;
  }
  __syncthreads();
}
#define MMA(name, value) static void nl_mma_##name(                                      \
    float& c0, float& c1, float& c2, float& c3, unsigned a0, unsigned a1, unsigned a2,   \
    unsigned a3, unsigned b0, unsigned b1) {                                             \
  float* c[] = {&c0, &c1, &c2, &c3};                                                     \
  const unsigned a[] = {a0, a1, a2, a3}, b[] = {b0, b1};                                 \
  nl_mma_any(c, a, b, value);                                                            \
}
MMA(bfloat16, from_bfloat16)
MMA(float16, nl_float16_to_float)
"""

_NATIVE = (
    "nl_float16_to_float", "nl_float_to_float16", "nl_float_to_bfloat16", "nl_copy_16",
    "nl_copies_close", "nl_copies_wait", "nl_pieces", "nl_pieces_turned",
    "nl_mma_bfloat16", "nl_mma_float16", "nl_split_off",
)  # fmt: skip


def compiler() -> str | None:
    """The host's C++ compiler, if there is one."""
    return shutil.which("g++")


def _host_text(source: str, prefix: str) -> str:
    """A translation unit with its entries renamed, and thread numbers read where they are used."""
    for name in _NATIVE:
        source = re.sub(rf"__device__ inline \w+ {name}\(.*?\n}}\n", "", source, flags=re.S)
    source = source.replace("#pragma unroll", "// unroll")
    source = source.replace("extern __shared__ uint4 nl_room[]", "static uint4 nl_room[8192]")
    return re.sub(r"\b(k_\w+|k)\(", rf"{prefix}_\1(", source)


def build(kernels: Sequence[GpuKernel], folder: Path) -> ctypes.CDLL:
    """A library with the kernels: `run<i>_<j>` is launch j of kernel i.

    Raises AssertionError with the compiler's words when the text is not C++.
    """
    parts = [HEADER]
    for i, kernel in enumerate(kernels):
        parts.append(f"namespace n{i} {{")
        parts.append(_host_text(kernel.source, f"e{i}").replace('extern "C" ', ""))
        for j, launch in enumerate(kernel.launches):
            name = f"e{i}_{launch.entry}"
            types = _parameter_types(kernel.source, launch.entry)
            arguments = ", ".join(f"({t})a{j}[{n}]" for n, t in enumerate(types))
            parts.append(f"static void** a{j};\nstatic void call{j}() {{ {name}({arguments}); }}")
            parts.append(
                f'extern "C" int run{i}_{j}(void** p) {{ a{j} = p; '
                f"return launch(call{j}, {launch.grid[0]}, {launch.grid[1]}, {launch.block[0]}); }}"
            )
        parts.append("}")
    text = folder / "kernels.cpp"
    text.write_text("\n".join(parts))
    library = folder / "kernels.so"
    command = [
        compiler() or "g++", "-O0", "-std=c++20", "-w", "-fwrapv", "-fno-strict-aliasing",
        "-shared", "-ffp-contract=off", "-fPIC", "-o", str(library), str(text),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return ctypes.CDLL(str(library))


def _parameter_types(source: str, entry: str) -> list[str]:
    found = re.search(rf"\b{entry}\(([^)]*)\)", source)
    assert found is not None
    return [p.rsplit(" ", 1)[0] for p in found.group(1).split(", ") if p]


def run(
    library: ctypes.CDLL, number: int, kernel: GpuKernel, buffers: Sequence[np.ndarray]
) -> None:
    """Play the launches of a kernel on flat arrays, one per parameter, changed in place."""
    held = [_aligned(a) for a in buffers]
    scratch = [_aligned(np.full(n, 0xA5, np.uint8)) for n in kernel.scratch]
    for j, launch in enumerate(kernel.launches):
        pointers = [
            (held[a.slot] if a.slot is not None else scratch[a.scratch or 0]).ctypes.data
            for a in launch.arguments
        ]
        array = (ctypes.c_void_p * max(1, len(pointers)))(*pointers)
        wrong = getattr(library, f"run{number}_{j}")(array)
        assert wrong == 0, f"threads of {launch.entry} do not meet at the same barriers"
    for array, copy in zip(buffers, held, strict=True):
        array[...] = copy[: array.nbytes].view(array.dtype)


def _aligned(array: np.ndarray) -> np.ndarray:
    """The bytes of an array at a multiple of 256, with room after them."""
    raw = np.zeros(array.nbytes + 512, np.uint8)
    start = -raw.ctypes.data % 256
    view = raw[start : start + max(16, array.nbytes)]
    view[: array.nbytes] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    return view
