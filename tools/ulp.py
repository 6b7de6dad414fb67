"""Measures the expansions of niello/codegen/transcendental.py against float64 NumPy.

Each function is rendered to vector code through LLVM, with fused multiply-add and without, and run
over all float32 inputs (or every `--stride`-th). Reported: the largest error in units in the last
place of the exact result, where it happens, the number of results whose NaN, infinity or zero sign
differs, the vector instructions but moves and the time per element.

    python tools/ulp.py exp tanh --stride 16
"""

from __future__ import annotations

import argparse
import ctypes
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from niello.codegen.transcendental import expand
from niello.core.dtypes import DType, bool_, float32, int32, int64, uint32
from niello.core.nodes import walk
from niello.kernel.ir import Bitcast, Cast, Const, Expr, Fn, Kernel, Load, Param, Range, Store, fn

LANES = 16
BLOCK = 1 << 16
_TYPES: dict[DType, str] = {
    float32: "float",
    int32: "i32",
    uint32: "i32",
    int64: "i64",
    bool_: "i1",
}
_FLOAT_OPS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT_OPS = {"add", "sub", "mul", "and", "or", "xor", "shl"}
_COMPARE = {
    "lt": ("olt", "slt", "ult"),
    "le": ("ole", "sle", "ule"),
    "eq": ("oeq", "eq", "eq"),
    "ne": ("une", "ne", "ne"),
}
_INTRINSICS = {
    "sqrt": "sqrt",
    "floor": "floor",
    "rint": "rint",
    "abs": "fabs",
    "ceil": "ceil",
    "copysign": "copysign",
    "fma": "fma",
    "trunc": "trunc",
}


def unary_kernel(name: str, arity: int = 1, elements: int = BLOCK) -> Kernel:
    """out[i] = name(in0[i], ...) for float32, before expansion."""
    params = tuple(Param(i, float32, elements, i == arity) for i in range(arity + 1))
    i = Range("i", elements)
    value = fn(name, *(Load(p, i, None) for p in params[:arity]))
    return Kernel(name, params, (Store(params[arity], (i,), i, value, None, None),))


class Renderer:
    """LLVM text of one vector of results. Only what the expansions use."""

    def __init__(self, fused: bool) -> None:
        self.fused = fused
        self.lines: list[str] = []
        self.declared: set[str] = set()
        self.names: dict[Any, str] = {}

    def emit(self, text: str) -> str:
        name = f"%v{len(self.lines)}"
        self.lines.append(f"  {name} = {text}")
        return name

    def vector(self, d: DType) -> str:
        return f"<{LANES} x {_TYPES[d]}>"

    def call(self, name: str, d: DType, args: list[str]) -> str:
        full = f"@llvm.{name}.v{LANES}{'f' if d is float32 else 'i'}32"
        v = self.vector(d)
        self.declared.add(f"declare {v} {full}({', '.join([v] * len(args))})")
        return self.emit(f"call {v} {full}({', '.join(f'{v} {a}' for a in args)})")

    def constant(self, node: Const) -> str:
        kind = _TYPES[node.dtype]
        if node.dtype is float32:
            bits = int(np.float64(np.float32(node.value)).view(np.uint64))
            return f"splat (float 0x{bits:016X})"
        return f"splat ({kind} {int(node.value)})"

    def node(self, e: Expr) -> str:
        if isinstance(e, Const):
            return self.constant(e)
        if isinstance(e, Load):
            return f"%in{e.param.slot}"
        if isinstance(e, Bitcast):
            source = self.names[e.x]
            same = _TYPES[e.dtype] == _TYPES[e.x.dtype]
            return (
                source
                if same
                else self.emit(
                    f"bitcast {self.vector(e.x.dtype)} {source} to {self.vector(e.dtype)}"
                )
            )
        if isinstance(e, Cast):
            return self.cast(e)
        assert isinstance(e, Fn)
        return self.function(e, [self.names[a] for a in e.args])

    def cast(self, e: Cast) -> str:
        a, b = e.x.dtype, e.dtype
        if a is float32:
            op = "fptosi" if b is int32 else "fptoui"
        elif b is float32:
            op = "sitofp" if a is int32 else "uitofp"
        elif a is bool_:
            op = "zext"
        else:
            return self.names[e.x]
        return self.emit(f"{op} {self.vector(a)} {self.names[e.x]} to {self.vector(b)}")

    def function(self, e: Fn, a: list[str]) -> str:
        name, d = e.name, e.args[0].dtype
        v = self.vector(d)
        if name == "where":
            w = self.vector(e.dtype)
            return self.emit(f"select {v} {a[0]}, {w} {a[1]}, {w} {a[2]}")
        if name in _COMPARE:
            predicate = _COMPARE[name][0 if d is float32 else 1 if d is int32 else 2]
            op = "fcmp" if d is float32 else "icmp"
            return self.emit(f"{op} {predicate} {v} {a[0]}, {a[1]}")
        if name == "fma" and not self.fused:
            return self.emit(f"fadd {v} {self.emit(f'fmul {v} {a[0]}, {a[1]}')}, {a[2]}")
        if name == "neg" and d is float32:
            return self.emit(f"fneg {v} {a[0]}")
        if d is float32 and name in _FLOAT_OPS:
            return self.emit(f"{_FLOAT_OPS[name]} {v} {a[0]}, {a[1]}")
        if d is float32:
            return self.call(_INTRINSICS[name], d, a)
        if name in ("min", "max"):
            return self.call(("s" if d is int32 else "u") + name, d, a)
        if name == "not":
            return self.emit(f"xor {v} {a[0]}, splat ({_TYPES[d]} {'true' if d is bool_ else -1})")
        if name == "mulhi":
            return self.mulhi(a)
        if name == "shr":
            return self.emit(f"{'ashr' if d is int32 else 'lshr'} {v} {a[0]}, {a[1]}")
        assert name in _INT_OPS, name
        return self.emit(f"{name} {v} {a[0]}, {a[1]}")

    def mulhi(self, a: list[str]) -> str:
        narrow, wide = f"<{LANES} x i32>", f"<{LANES} x i64>"
        x, y = (self.emit(f"zext {narrow} {v} to {wide}") for v in a)
        high = self.emit(f"lshr {wide} {self.emit(f'mul {wide} {x}, {y}')}, splat (i64 32)")
        return self.emit(f"trunc {wide} {high} to {narrow}")


def render(kernel: Kernel, fused: bool) -> str:
    """A function (in..., out, n) over n elements, n a multiple of LANES."""
    value = kernel.stores[0].value
    r = Renderer(fused)
    for node in walk([value]):
        if isinstance(node, Expr) and not isinstance(node, Range):
            r.names[node] = r.node(node)
    count = len(kernel.params) - 1
    v = f"<{LANES} x float>"
    args = ", ".join(f"ptr noalias %p{i}" for i in range(count + 1))
    loads = "".join(
        f"  %a{i} = getelementptr float, ptr %p{i}, i64 %i\n"
        f"  %in{i} = load {v}, ptr %a{i}, align 64\n"
        for i in range(count)
    )
    body = "\n".join(r.lines)
    return (
        "\n".join(sorted(r.declared))
        + f"""
define void @f({args}, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{loads}{body}
  %out = getelementptr float, ptr %p{count}, i64 %i
  store {v} {r.names[value]}, ptr %out, align 64
  %next = add i64 %i, {LANES}
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""
    )


@dataclass
class Compiled:
    """Machine code of one kernel: call it with arrays."""

    engine: Any
    entry: Callable[..., None]
    assembly: str

    def __call__(self, *arrays: np.ndarray[Any, Any]) -> None:
        self.entry(*(a.ctypes.data for a in arrays), arrays[0].size)

    @property
    def instructions(self) -> int:
        """Vector instructions of the loop, moves left out."""
        lines = [line.strip() for line in self.assembly.splitlines()]
        labels = [
            i for i, line in enumerate(lines) if line.startswith(".LBB") and line.endswith(":")
        ]
        spans = [
            (i, j)
            for i in labels
            for j, line in enumerate(lines)
            if j > i and line.startswith("j") and lines[i][:-1] in line
        ]
        start, end = max(spans, key=lambda s: s[1] - s[0])
        return sum(x.startswith("v") and "mov" not in x[:6] for x in lines[start + 1 : end])


def compile_kernel(kernel: Kernel, fused: bool) -> Compiled:
    """JIT for this CPU at full optimisation."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit"
    machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)
    module = llvm.parse_assembly(render(kernel, fused))
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    llvm.create_pass_builder(machine, options).getModulePassManager().run(
        module, llvm.create_pass_builder(machine, options)
    )
    assembly = machine.emit_assembly(module)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    types = [ctypes.c_void_p] * len(kernel.params) + [ctypes.c_int64]
    entry = ctypes.CFUNCTYPE(None, *types)(engine.get_function_address("f"))
    return Compiled(engine, entry, assembly)


# --- measuring ----------------------------------------------------------------------


def reference(name: str) -> Callable[..., np.ndarray[Any, Any]]:
    """The function on float64 arrays."""
    if name == "erf":
        from scipy.special import erf

        return erf
    renamed = {
        "asin": "arcsin",
        "acos": "arccos",
        "atan": "arctan",
        "atan2": "arctan2",
        "asinh": "arcsinh",
        "acosh": "arccosh",
        "atanh": "arctanh",
        "pow": "power",
    }
    return getattr(np, renamed.get(name, name))


def ulp_error(got: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Errors in float32 ulps of the exact result; inf where NaN, infinity or a zero differs."""
    wanted = exact.astype(np.float32)
    exponent = (exact.view(np.uint64) >> np.uint64(52)).astype(np.int64) & 0x7FF
    exponent = np.maximum(exponent, 1023 - 126)
    scale = ((2046 - exponent + 23).astype(np.uint64) << np.uint64(52)).view(np.float64)
    error = np.abs(got.astype(np.float64) - exact) * scale
    special = ~np.isfinite(wanted) | ~np.isfinite(got) | (wanted == 0) & (exact == 0)
    if special.any():
        g, e = got[special], wanted[special]
        same = (g.view(np.uint32) == e.view(np.uint32)) | (np.isnan(g) & np.isnan(e))
        error[special] = np.where(same, 0.0, np.inf)
    return error


def blocks(stride: int) -> Iterator[np.ndarray[Any, Any]]:
    """All float32 bit patterns, or every stride-th from a varying start, in blocks."""
    step = BLOCK * stride
    offsets = np.arange(BLOCK, dtype=np.uint64) * np.uint64(stride)
    for n, start in enumerate(range(0, 1 << 32, step)):
        bits = offsets + np.uint64(start + (n * 7919) % stride)
        yield (bits & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)


@dataclass
class Worst:
    """The largest finite error so far, its arguments, and the count of special mismatches."""

    ulp: float = 0.0
    at: tuple[float, ...] = ()
    wrong: int = 0
    wrong_at: tuple[float, ...] = ()

    def add(self, error: np.ndarray[Any, Any], arguments: tuple[np.ndarray[Any, Any], ...]) -> None:
        bad = np.isinf(error)
        if bad.any():
            self.wrong += int(bad.sum())
            self.wrong_at = tuple(float(a[np.argmax(bad)]) for a in arguments)
            error = np.where(bad, 0.0, error)
        i = int(np.argmax(error))
        if error[i] > self.ulp:
            self.ulp, self.at = float(error[i]), tuple(float(a[i]) for a in arguments)


def aligned(count: int) -> np.ndarray[Any, Any]:
    """A float32 array at a 64-byte boundary."""
    raw = np.zeros(count + 16, np.float32)
    skip = (-raw.ctypes.data % 64) // 4
    return raw[skip : skip + count]


def measure(name: str, code: Compiled, inputs: Iterator[tuple[np.ndarray[Any, Any], ...]]) -> Worst:
    """The worst error of compiled code over blocks of arguments."""
    exact_function = reference(name)
    worst = Worst()
    buffers: list[np.ndarray[Any, Any]] = []
    for arguments in inputs:
        buffers = buffers or [aligned(BLOCK) for _ in range(len(arguments) + 1)]
        for buffer, a in zip(buffers, arguments, strict=False):
            buffer[:] = a
        code(*buffers)
        with np.errstate(all="ignore"):
            exact = exact_function(*(a.astype(np.float64) for a in arguments))
            worst.add(ulp_error(buffers[-1], exact), arguments)
    return worst


def nanoseconds(code: Compiled, arity: int, low: float, high: float) -> float:
    """Best time per element over arrays that stay in cache."""
    rng = np.random.default_rng(0)
    arrays = [aligned(8192) for _ in range(arity + 1)]
    for a in arrays[:arity]:
        a[:] = rng.uniform(low, high, a.size)
    pointers = [a.ctypes.data for a in arrays]
    best = math.inf
    for _ in range(1000):
        start = time.perf_counter_ns()
        code.entry(*pointers, arrays[0].size)
        best = min(best, time.perf_counter_ns() - start)
    return best / arrays[0].size


def pairs(stride: int) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    """Argument pairs of the two-argument functions: random bits, and results in range."""
    rng = np.random.default_rng(1)
    for n in range(max(1, (1 << 16) // stride // 8)):
        a = rng.integers(0, 1 << 32, BLOCK, dtype=np.uint32).view(np.float32)
        b = rng.integers(0, 1 << 32, BLOCK, dtype=np.uint32).view(np.float32)
        if n % 4 == 1:  # exponents that keep a^b finite
            with np.errstate(all="ignore"):
                b = (rng.uniform(-151, 129, BLOCK) / np.log2(np.abs(a))).astype(np.float32)
        if n % 4 == 2:  # bases close to one
            a = (1 + rng.uniform(-1, 1, BLOCK) * 2.0 ** -rng.uniform(0, 23, BLOCK)).astype(
                np.float32
            )
            with np.errstate(all="ignore"):
                b = (rng.uniform(-151, 129, BLOCK) / np.log2(np.abs(a))).astype(np.float32)
        if n % 4 == 3:  # comparable magnitudes, integers
            a = np.rint(rng.normal(0, 10, BLOCK)).astype(np.float32)
            b = np.rint(rng.normal(0, 20, BLOCK)).astype(np.float32)
        yield a, b


def main() -> None:
    """Print one line per function and kind of multiply-add."""
    from niello.codegen.transcendental import FUNCTIONS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--stride", type=int, default=61)
    parser.add_argument("--low", type=float, default=0.1)
    parser.add_argument("--high", type=float, default=0.9)
    parser.add_argument("--assembly", action="store_true")
    options = parser.parse_args()
    for name in options.names or FUNCTIONS:
        arity = 2 if name in ("pow", "atan2") else 1
        for fused in (True, False):
            code = compile_kernel(expand(unary_kernel(name, arity), lambda *_: False), fused)
            inputs = pairs(options.stride) if arity == 2 else ((b,) for b in blocks(options.stride))
            w = measure(name, code, inputs)
            ns = nanoseconds(code, arity, options.low, options.high)
            at = ", ".join(f"{a:.9g}" for a in w.at)
            wrong = f" wrong {w.wrong} e.g. {w.wrong_at}" if w.wrong else ""
            print(
                f"{name:6} {'fma' if fused else 'mul+add':8} {w.ulp:6.3f} ulp at {at}  "
                f"{code.instructions} instructions {ns:.3f} ns{wrong}",
                flush=True,
            )
            if options.assembly:
                print(code.assembly)


if __name__ == "__main__":
    main()
