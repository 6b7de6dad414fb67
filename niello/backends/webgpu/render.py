"""Kernels as WGSL.

    render(kernel, target=TARGET) -> GpuKernel

Storage holds words: elements of 8 and 16 bits are taken out of them, and written either a whole
word at a time by one thread or by atomic operations on their bits. 64-bit integers are pairs of
words, float64 does not exist. NaN and infinity are made and tested by their bits, because
implementations may assume that there are none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from niello.backends.webgpu.bindings import combines, declaration, pieces_of, variable_name
from niello.backends.webgpu.render_prelude import DEFINITIONS
from niello.codegen.gpu.blocks import Val
from niello.codegen.gpu.c_style import CStyle
from niello.codegen.gpu.entry import Entry
from niello.codegen.gpu.kernel import GpuKernel
from niello.codegen.gpu.registers import Reg
from niello.codegen.gpu.render import render as render_shared
from niello.codegen.gpu.routine import render_routine
from niello.codegen.gpu.target import GpuTarget
from niello.codegen.transcendental import FUNCTIONS
from niello.core.dtypes import DType, bool_, float64
from niello.core.errors import CompilerBug, UnsupportedDtype
from niello.core.nodes import walk
from niello.kernel.ir import Expr, Kernel, Param
from niello.kernel.routine import Routine

TARGET = GpuTarget(
    threads=256,
    most_threads=256,
    fill=1 << 15,
    row_values=16,
    lane_bytes=4,
    most_lanes=4,
    chunks=1,
    tile_side=4,
    shared_bytes=16 << 10,
    most_blocks=65535,
    most_buffers=8,
)

_TYPES = {
    Reg.BOOL: "bool", Reg.I32: "i32", Reg.U32: "u32", Reg.I64: "vec2<u32>", Reg.U64: "vec2<u32>",
    Reg.F32: "f32",
}  # fmt: skip
_ZEROS = {
    Reg.BOOL: "false", Reg.I32: "0i", Reg.U32: "0u", Reg.I64: "vec2<u32>(0u, 0u)",
    Reg.U64: "vec2<u32>(0u, 0u)", Reg.F32: "0.0f",
}  # fmt: skip


def render(kernel: Kernel | Routine, target: GpuTarget = TARGET) -> GpuKernel:
    """WGSL of a kernel and how to launch it. `target` holds the sizes of the adapter.

    Every buffer is bound as read-write storage in group 0, in the order of the launch's arguments.
    Raises UnsupportedDtype for float64 and LimitExceeded for a kernel that does not fit the target.
    """
    _refuse(kernel)
    dialect = WgslDialect(target)
    write = lambda entries: write_source(entries, target)  # noqa: E731
    if isinstance(kernel, Routine):
        return render_routine(kernel, dialect, target, _native, write)
    return render_shared(kernel, dialect, target, _native, write)


def _native(name: str, dtype: DType) -> bool:
    return name not in FUNCTIONS


def _refuse(kernel: Kernel | Routine) -> None:
    roots = kernel.body if isinstance(kernel, Routine) else kernel.stores
    wide = any(isinstance(n, Expr) and n.dtype is float64 for n in walk(roots))
    if wide or any(p.dtype is float64 for p in kernel.params):
        raise UnsupportedDtype(
            f"kernel {kernel.name}",
            "WebGPU has no float64",
            received="float64",
            advice="Use float32, or run this on the CPU",
        )


def write_source(entries: Sequence[Entry], target: GpuTarget) -> str:
    """The module of some entry points."""
    return DEFINITIONS.before("\n".join(_entry_text(e, target) for e in entries))


def _entry_text(entry: Entry, target: GpuTarget) -> str:
    body = "\n".join(entry.lines)
    lines: list[str] = []
    number = 0
    for p in entry.params:
        pieces = pieces_of(p, target)
        lines += declaration(number, p, variable_name(p, entry.stage), pieces, body)
        number += len(pieces)
    for name, (reg, size) in entry.shared.items():
        kind = f"atomic<{_TYPES[reg]}>" if combines(name, body) else _TYPES[reg]
        lines.append(f"var<workgroup> {name}: array<{kind}, {size}>;")
    block = "i32(group.x)"
    if entry.grid[1] > 1:
        block = f"i32(group.y * {entry.grid[0]}u + group.x)"
    lines += [
        f"@compute @workgroup_size({entry.threads}, 1, 1)",
        f"fn {entry.name}(@builtin(local_invocation_index) local: u32, "
        "@builtin(workgroup_id) group: vec3<u32>) {",
        *_opaque_lines(body),
        "  let tid = i32(local);",
        f"  let block = {block};",
        body,
        "}",
    ]
    return "\n".join(lines) + "\n"


def _opaque_lines(body: str) -> list[str]:
    """Set nl_nothing to a zero that no compiler can know to be one: grids have one layer."""
    used = re.search(r"\bnl_(opaque|float|f16_to_f32|truncmod)\b", body)
    return ["  nl_nothing = group.z;"] if used else []


class WgslDialect(CStyle):
    """WGSL."""

    name = "webgpu"
    has_shuffles = False
    vector_bytes = 4
    word_bytes = 4

    def __init__(self, target: GpuTarget = TARGET) -> None:
        self.target = target

    # --- values
    def type(self, reg: Reg) -> str:
        return _TYPES[reg]

    def literal(self, value: int | float | bool, reg: Reg) -> str:
        if reg is Reg.BOOL:
            return "true" if value else "false"
        if reg is Reg.F32:
            return _float_literal(np.float32(value))
        value = int(value)
        if reg is Reg.U32:
            return f"{value}u"
        if reg.is_wide:
            bits = value % (1 << 64)
            return f"vec2<u32>({bits & 0xFFFFFFFF}u, {bits >> 32}u)"
        if value == -(2**31):
            return "(-2147483647i - 1i)"
        return f"{value}i" if value >= 0 else f"({value}i)"

    def constant_line(self, reg: Reg, name: str, text: str) -> str:
        return f"let {name} = {text};"

    def variable_line(self, reg: Reg, name: str, text: str) -> str:
        return f"var {name}: {_TYPES[reg]} = {text};"

    def select(self, test: str, yes: str, no: str) -> str:
        return f"select({no}, {yes}, {test})"

    def convert(self, text: str, source: Reg, target: Reg) -> str:
        if source is target or (source.is_wide and target.is_wide):
            return text
        if source is Reg.BOOL:
            return f"select({_ZEROS[target]}, {self.literal(1, target)}, {text})"
        if source.is_wide and target in (Reg.I32, Reg.U32):
            return f"bitcast<i32>({text}.x)" if target is Reg.I32 else f"{text}.x"
        if target is Reg.U32 and source is Reg.F32:
            return f"nl_f32_to_i64({text}).x"
        if {source, target} == {Reg.I32, Reg.U32}:
            return f"bitcast<{_TYPES[target]}>({text})"
        if target is Reg.F32 and not source.is_wide:
            return f"f32({text})"
        return f"nl_{source.value}_to_{target.value}({text})"

    def half_to_float(self, text: str, dtype: DType) -> str:
        if dtype.name == "bfloat16":
            return f"bitcast<f32>({text} << 16u)"
        return f"nl_f16_to_f32({text})"

    def float_to_half(self, text: str, dtype: DType) -> str:
        return f"nl_f32_to_{'bf16' if dtype.name == 'bfloat16' else 'f16'}({text})"

    def bitcast(self, text: str, source: Reg, target: Reg) -> str:
        if source is target or source.is_wide:
            return text
        return f"bitcast<{_TYPES[target]}>({text})"

    def opaque(self, text: str) -> str:
        return f"nl_opaque({text})"

    def wrapped(self, text: str, dtype: DType) -> str:
        if dtype.kind == "int":
            return f"extractBits({text}, 0u, {dtype.bits}u)"
        return f"({text} & {(1 << dtype.bits) - 1}u)"

    def is_nan(self, text: str, reg: Reg) -> str:
        return f"nl_is_nan({text})"

    def compare(self, name: str, reg: Reg, a: str, b: str) -> str:
        if name == "ne" and reg.is_float:
            # NaN differs from everything, but WGSL's `!=` becomes an ordered comparison.
            return f"(!{super().compare('eq', reg, a, b)})"
        if not reg.is_wide:
            return super().compare(name, reg, a, b)
        if name == "eq":
            return f"all({a} == {b})"
        if name == "ne":
            return f"any({a} != {b})"
        if name == "le":
            return f"(!nl_lt_{reg.value}({b}, {a}))"
        return f"nl_lt_{reg.value}({a}, {b})"

    def scalar(self, name: str, dtype: DType, reg: Reg, args: Sequence[str]) -> str:
        name = name.removesuffix("_exact")
        if name in ("lt", "le", "eq", "ne"):
            return self.compare(name, reg, *args)
        if name in ("min", "max"):
            return self.least(name, reg, *args)
        if reg is Reg.F32:
            return self._float(name, args)
        return self._wide(name, reg, args) if reg.is_wide else self._integer(name, reg, args)

    def _float(self, name: str, args: Sequence[str]) -> str:
        if name in ("add", "sub", "mul", "div", "fma"):
            # Compilers take x * 0, x - x and 0 / x for zero, whatever x is.
            args = [_float_literal(np.float32(0), True) if a == "0.0f" else a for a in args]
            if name == "sub" and args[0] == args[1]:
                args[0] = self.opaque(args[0])
        if name in ("add", "sub", "mul", "div"):
            return self.binary(name, *args)
        if name == "neg":
            return f"(-{args[0]})"
        if name == "rint":
            return f"round({args[0]})"
        if name in ("abs", "sqrt", "floor", "ceil", "trunc", "fma"):
            return f"{name}({', '.join(args)})"
        if name == "floordiv":
            return f"floor({args[0]} / {args[1]})"
        if name in ("copysign", "truncmod", "floormod", "scalb"):
            return f"nl_{name}({', '.join(args)})"
        raise CompilerBug("WGSL", "no such function of floats", received=name)

    def _integer(self, name: str, reg: Reg, args: Sequence[str]) -> str:
        if name in ("add", "sub", "mul", "and", "or", "xor"):
            return self.binary(name, *args)
        if name == "neg":
            return f"(-{args[0]})" if reg is Reg.I32 else f"(0u - {args[0]})"
        if name == "not":
            return f"(~{args[0]})"
        if name == "abs":
            return f"abs({args[0]})" if reg is Reg.I32 else args[0]
        if name in ("div_any", "mod_any"):
            return f"({args[0]} {'/' if name == 'div_any' else '%'} {args[1]})"
        if name == "popcount":
            return f"countOneBits({args[0]})"
        if name == "mulhi":
            return f"nl_mulhi({args[0]}, {args[1]})"
        if name in ("truncdiv", "truncmod", "floordiv", "floormod") and reg is Reg.U32:
            return f"nl_{name[-3:]}_u32({args[0]}, {args[1]})"
        return f"nl_{name}_i32({', '.join(args)})"

    def _wide(self, name: str, reg: Reg, args: Sequence[str]) -> str:
        if name in ("and", "or", "xor"):
            return self.binary(name, *args)
        if name == "not":
            return f"(~{args[0]})"
        if name == "abs" and reg is Reg.U64:
            return args[0]
        if name in ("add", "sub", "mul", "neg", "abs", "popcount"):
            return f"nl_{name}64({', '.join(args)})"
        if name in ("div_any", "mod_any"):
            return f"nl_{name[:3]}_u64({args[0]}, {args[1]})"
        name = name.removesuffix("_positive")
        if reg is Reg.U64:
            return f"nl_{name[-3:]}_u64({args[0]}, {args[1]})"
        return f"nl_{name}_i64({args[0]}, {args[1]})"

    def shift_inside(self, name: str, reg: Reg, a: str, amount: str) -> str:
        if reg.is_wide:
            return f"nl_{'shl' if name == 'shl' else 'shr_' + reg.value}({a}, {amount})"
        return f"({a} {'<<' if name == 'shl' else '>>'} {amount})"

    # --- memory
    def subscript(self, index: Val) -> str:
        return self.convert(index.text, index.reg, Reg.I32)

    def load(self, param: Param, index: str) -> str:
        name = variable_name(param, self.stage)
        if param.dtype.itemsize >= 4:
            return self._word(param, index)
        return _element(param.dtype, f"{name}_get({index})")

    def store_lines(self, param: Param, index: str, value: str) -> list[str]:
        name = variable_name(param, self.stage)
        if param.dtype.itemsize >= 4:
            return [self._assign(param, index, value)]
        return [f"{name}_put({index}, {_pattern(param.dtype, value)});"]

    def _word(self, param: Param, index: str) -> str:
        """An element of 32 bits or more."""
        name = variable_name(param, self.stage)
        split = len(pieces_of(param, self.target)) > 1
        return f"{name}_at({index})" if split else f"{name}[{index}]"

    def _assign(self, param: Param, index: str, value: str) -> str:
        name = variable_name(param, self.stage)
        split = len(pieces_of(param, self.target)) > 1
        return f"{name}_to({index}, {value});" if split else f"{name}[{index}] = {value};"

    def load_lanes(
        self, param: Param, index: str, width: int, name: str, gate: str | None
    ) -> tuple[list[str], list[str]]:
        variable = variable_name(param, self.stage)
        size = param.dtype.itemsize
        per = max(1, 4 // size)
        lines, texts = [], []
        for n in range(width // per):
            if per == 1:
                reg = _word_register(param.dtype)
                read = self._word(param, f"{index} + {n}")
            else:
                reg = Reg.U32
                read = f"{variable}_word(({index} >> {per // 2}u) + {n})"
            piece = f"{name}_{n}"
            if gate is None:
                lines.append(f"let {piece} = {read};")
            else:
                lines.append(f"var {piece}: {_TYPES[reg]} = {_ZEROS[reg]};")
                lines.append(f"if ({gate}) {{ {piece} = {read}; }}")
            for k in range(per):
                bits = f"(({piece} >> {8 * size * k}u) & {(1 << (8 * size)) - 1}u)"
                texts.append(piece if per == 1 else _element(param.dtype, bits))
        return lines, texts

    def store_lanes(self, param: Param, index: str, values: Sequence[str], name: str) -> list[str]:
        variable = variable_name(param, self.stage)
        size = param.dtype.itemsize
        per = max(1, 4 // size)
        if per == 1:
            return [self._assign(param, f"{index} + {n}", v) for n, v in enumerate(values)]
        lines = []
        mask = (1 << (8 * size)) - 1
        for n in range(len(values) // per):
            parts = []
            for k, v in enumerate(values[n * per : (n + 1) * per]):
                bits = f"({_pattern(param.dtype, v)} & {mask}u)"
                parts.append(f"({bits} << {8 * size * k}u)" if k else bits)
            at = f"({index} >> {per // 2}u) + {n}"
            lines.append(f"{variable}_set({at}, {' | '.join(parts)});")
        return lines

    def gated_line(self, reg: Reg, name: str, gate: str, text: str) -> str:
        # The initial value is spelled out: without it, a loop may keep the last one.
        return f"var {name}: {_TYPES[reg]} = {_ZEROS[reg]}; if ({gate}) {{ {name} = {text}; }}"

    def multiply_add(self, dtype: DType, reg: Reg, a: str, b: str, total: str) -> str:
        if reg is Reg.F32:
            return f"fma({a}, {b}, {total})"
        if reg is Reg.BOOL:
            return f"({total} || ({a} && {b}))"
        return self.scalar("add", dtype, reg, [total, self.scalar("mul", dtype, reg, [a, b])])

    # --- threads
    def barrier_line(self) -> str:
        return "workgroupBarrier();"

    wants_agreement = True
    forever = "loop {"

    def barrier_lines(self, in_buffer: bool) -> list[str]:
        lines = ["workgroupBarrier();", "storageBarrier();"]
        return lines if in_buffer else lines[:1]

    def agreed_lines(self, array: str, name: str, reg: Reg, place: str = "") -> list[str]:
        return [f"let {name} = workgroupUniformLoad(&{place or f'{array}[0]'});"]

    def array_line(self, reg: Reg, name: str, elements: int) -> str:
        return f"var {name}: array<{_TYPES[reg]}, {elements}>;"

    def atomic_load(self, element: str) -> str:
        return f"atomicLoad(&{element})"

    def atomic_store(self, element: str, value: str) -> str:
        return f"atomicStore(&{element}, {value});"

    def atomic_line(self, op: str, element: str, value: str) -> str:
        return f"atomic{op.capitalize()}(&{element}, {value});"

    def shuffle(self, value: Val, mask: int) -> str:
        raise CompilerBug("WGSL", "threads exchange values through memory only", received=mask)

    def shared_line(self, name: str, reg: Reg, elements: int) -> str:
        return f"var<workgroup> {name}: array<{_TYPES[reg]}, {elements}>;"

    def loop(self, name: str, start: str, stop: str, step: str) -> str:
        return f"for (var {name}: i32 = {start}; {name} < {stop}; {name} += {step}) {{"

    def wide_index(self, block: str, step: int) -> str:
        raise CompilerBug("WGSL", "positions beyond 32 bits do not exist", received=step)


def _word_register(dtype: DType) -> Reg:
    if dtype.itemsize == 8:
        return Reg.U64
    return Reg.F32 if dtype.is_float else Reg.I32 if dtype.kind == "int" else Reg.U32


def _element(dtype: DType, bits: str) -> str:
    """The register of a narrow element from its bits in a u32."""
    if dtype is bool_:
        return f"({bits} != 0u)"
    if dtype.kind == "int":
        return f"extractBits(bitcast<i32>({bits}), 0u, {dtype.bits}u)"
    return bits


def _pattern(dtype: DType, value: str) -> str:
    """The bits of a narrow element in a u32, with anything above them."""
    if dtype is bool_:
        return f"select(0u, 1u, {value})"
    return f"bitcast<u32>({value})" if dtype.kind == "int" else value


def _float_literal(value: np.float32, opaque: bool = False) -> str:
    """A constant; `opaque`, or one that is not finite, is made at run time."""
    bits = int(value.view(np.uint32))
    if opaque or not math.isfinite(value):
        return f"nl_float(0x{bits:08x}u)"
    if value != 0 and abs(value) < 2.0**-126:
        return f"bitcast<f32>(0x{bits:08x}u)"
    if bits == 0x80000000:
        return "nl_float(0x80000000u)"
    text = re.sub(r"e([+-])0*(\d)", r"e\1\2", str(value))
    return f"{text}f" if not text.startswith("-") else f"({text}f)"
