"""Kernels as CUDA C++ for NVRTC: self-contained text, no headers.

render(kernel, target=TARGET) -> GpuKernel
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from niello.backends.cuda.render_prelude import DEFINITIONS
from niello.codegen.gpu.blocks import Val
from niello.codegen.gpu.c_style import CStyle
from niello.codegen.gpu.entry import Entry
from niello.codegen.gpu.kernel import DECLARED_SHARED_BYTES, GpuKernel
from niello.codegen.gpu.registers import Reg
from niello.codegen.gpu.render import render as render_shared
from niello.codegen.gpu.routine import render_routine
from niello.codegen.gpu.target import GpuTarget
from niello.core.dtypes import DType, bool_, float32
from niello.core.errors import CompilerBug
from niello.kernel.ir import Kernel, Param
from niello.kernel.routine import Routine

# On every GPU from compute capability 8.0 a block may have 99 KB, of which a kernel declares 48.
TARGET = GpuTarget(slices=8, tiles=("tensor", "registers"), most_shared_bytes=96 << 10)
# Generations of data centres multiply bfloat16 on tensor cores at eight times the rate of float32
# and more; on others six products of parts take longer than one of float32.
_SPLITTING = ("sm_80", "sm_90", "sm_100", "sm_103")
# Functions whose own expansion is closer than the device library's, which is off by 3 ulp or more.
_EXPANDED = frozenset(("pow", "tan", "sinh", "atan2", "asinh", "acosh", "atanh"))

_TYPES = {
    Reg.BOOL: "bool", Reg.I32: "int", Reg.U32: "unsigned", Reg.I64: "long long",
    Reg.U64: "unsigned long long", Reg.F32: "float", Reg.F64: "double",
}  # fmt: skip
_UNSIGNED = {Reg.I32: "unsigned", Reg.I64: "unsigned long long"}
_MEMORY = {
    "bool": "unsigned char", "int8": "signed char", "uint8": "unsigned char", "int16": "short",
    "uint16": "unsigned short", "float16": "unsigned short", "bfloat16": "unsigned short",
    "int32": "int", "uint32": "unsigned", "int64": "long long", "uint64": "unsigned long long",
    "float32": "float", "float64": "double",
}  # fmt: skip
_LIBRARY = frozenset(
    (
        "sqrt", "floor", "ceil", "trunc", "rint", "copysign", "exp", "exp2", "expm1", "log", "log2",
        "log10", "log1p", "pow", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh",
        "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "fma",
    )
)  # fmt: skip


def render(kernel: Kernel | Routine, target: GpuTarget = TARGET) -> GpuKernel:
    """CUDA C++ of a kernel and how to launch it.

    Needs sm_80 or later; compile with `--std=c++17` and without fast-math options. `target` holds
    the sizes of the device. Raises LimitExceeded for a kernel that does not fit it.
    """
    if isinstance(kernel, Routine):
        return render_routine(kernel, CudaDialect(), target, _native, write_source)
    return render_shared(kernel, CudaDialect(), target, _native, write_source)


def target_for(level: str) -> GpuTarget:
    """The sizes of a generation, such as sm_90."""
    if level not in _SPLITTING:
        return TARGET
    # A processor shares 164 KB (sm_80) or 228 KB, of which a block gets all but a few.
    alone = (84 if level == "sm_80" else 116) << 10
    return replace(
        TARGET,
        tiles=("tensor", "split", "registers"),
        most_shared_bytes=alone,
        alone_bytes=alone,
    )


def _native(name: str, dtype: DType) -> bool:
    return dtype is not float32 or name not in _EXPANDED


def write_source(entries: Sequence[Entry]) -> str:
    """The translation unit of some entry points."""
    return DEFINITIONS.before("\n".join(_entry_text(e) for e in entries))


def _entry_text(entry: Entry) -> str:
    parameters = ", ".join(
        f"{'' if w else 'const '}{_MEMORY[p.dtype.name]}* b{p.slot}"
        for p, w in zip(entry.params, entry.written, strict=True)
    )
    dialect = CudaDialect()
    bounds = f"{entry.threads}, {entry.resident}" if entry.resident > 1 else str(entry.threads)
    lines = [
        f'extern "C" __global__ void __launch_bounds__({bounds}) {entry.name}({parameters}) {{',
        *("  " + line for line in _shared_lines(entry, dialect)),
        "  const int tid = threadIdx.x;",
        "  const int block = blockIdx.x;"
        if entry.grid[1] == 1
        else f"  const int block = blockIdx.y * {entry.grid[0]} + blockIdx.x;",
        *entry.lines,
        "}",
    ]
    return "\n".join(lines) + "\n"


def _shared_lines(entry: Entry, dialect: CudaDialect) -> list[str]:
    """The arrays that threads share: declared one by one, or pieces of what a launch brings along
    where they are more than a kernel may declare."""
    if entry.shared_bytes <= DECLARED_SHARED_BYTES:
        return [dialect.shared_line(n, r, size) for n, (r, size) in entry.shared.items()]
    lines, offset = ["extern __shared__ uint4 nl_room[];"], 0
    for name, (reg, size) in entry.shared.items():
        lines.append(f"{_TYPES[reg]}* const {name} = ({_TYPES[reg]}*)(nl_room + {offset});")
        offset += -(-size * reg.bytes // 16)
    return lines


class CudaDialect(CStyle):
    """CUDA C++."""

    name = "cuda"
    has_shuffles = True
    vector_bytes = 16
    word_bytes = 1

    # --- values
    def type(self, reg: Reg) -> str:
        return _TYPES[reg]

    def literal(self, value: int | float | bool, reg: Reg) -> str:
        if reg is Reg.BOOL:
            return "true" if value else "false"
        if reg is Reg.F32:
            number = np.float32(value)
            if not math.isfinite(number):
                return f"__int_as_float(0x{int(number.view(np.uint32)):08x})"
            text = str(number)
            return f"{text}f" if not text.startswith("-") else f"({text}f)"
        if reg is Reg.F64:
            if not math.isfinite(value):
                bits = int(np.float64(value).view(np.int64))
                return f"__longlong_as_double({bits}LL)"
            text = repr(float(value))
            return text if not text.startswith("-") else f"({text})"
        return _integer(int(value), reg)

    def constant_line(self, reg: Reg, name: str, text: str) -> str:
        return f"const {_TYPES[reg]} {name} = {_bare(text)};"

    def variable_line(self, reg: Reg, name: str, text: str) -> str:
        return f"{_TYPES[reg]} {name} = {text};"

    def select(self, test: str, yes: str, no: str) -> str:
        return f"({test} ? {yes} : {no})"

    def convert(self, text: str, source: Reg, target: Reg) -> str:
        if source is target:
            return text
        if source.is_float and target in _FROM_FLOAT:
            return f"{_FROM_FLOAT[target]}({text})"
        return f"({_TYPES[target]})({text})"

    def half_to_float(self, text: str, dtype: DType) -> str:
        return f"nl_{dtype.name}_to_float({text})"

    def float_to_half(self, text: str, dtype: DType) -> str:
        return f"nl_float_to_{dtype.name}({text})"

    def bitcast(self, text: str, source: Reg, target: Reg) -> str:
        function = _BITCASTS.get((source, target))
        return f"({_TYPES[target]})({text})" if function is None else f"{function}({text})"

    def wrapped(self, text: str, dtype: DType) -> str:
        kind = "int" if dtype.kind == "int" else "unsigned"
        return f"({kind})({_MEMORY[dtype.name]})({text})"

    def is_nan(self, text: str, reg: Reg) -> str:
        return f"({text} != {text})"

    def scalar(self, name: str, dtype: DType, reg: Reg, args: Sequence[str]) -> str:
        if name.endswith("_exact"):
            name = name[: -len("_exact")]
            return f"(-{args[0]})" if name == "neg" else self.binary(name, *args)
        if name in ("div_any", "mod_any"):
            return f"({args[0]} {'/' if name == 'div_any' else '%'} {args[1]})"
        if reg.is_float:
            return self._float(name, reg, args)
        return self._integer(name, reg, args)

    def _float(self, name: str, reg: Reg, args: Sequence[str]) -> str:
        suffix = "f" if reg is Reg.F32 else ""
        if name in ("add", "sub", "mul", "div") or name in ("lt", "le", "eq", "ne"):
            return self.binary(name, *args)
        if name in _LIBRARY:
            return f"{name}{suffix}({', '.join(args)})"
        if name == "neg":
            return f"(-{args[0]})"
        if name == "abs":
            return f"fabs{suffix}({args[0]})"
        if name == "truncmod":
            return f"fmod{suffix}({', '.join(args)})"
        if name in ("min", "max"):
            return self.least(name, reg, *args)
        if name == "floordiv":
            return f"floor{suffix}({args[0]} / {args[1]})"
        if name == "floormod":
            return f"nl_floormod({', '.join(args)})"
        if name == "scalb":
            return f"scalbn{suffix}({args[0]}, (int)({args[1]}))"
        raise CompilerBug("CUDA", "no such function of floats", received=name)

    def _integer(self, name: str, reg: Reg, args: Sequence[str]) -> str:
        kind = _TYPES[reg]
        if name in ("add", "sub", "mul") and reg in _UNSIGNED:
            u = _UNSIGNED[reg]
            return f"({kind})({self.binary(name, *(f'({u}){a}' for a in args))})"
        if name in ("add", "sub", "mul", "and", "or", "xor", "lt", "le", "eq", "ne"):
            return self.binary(name, *args)
        if name == "neg":
            u = _UNSIGNED.get(reg, kind)
            return f"({kind})(0 - ({u}){args[0]})"
        if name == "abs":
            return f"nl_abs({args[0]})" if reg in _UNSIGNED else args[0]
        if name == "not":
            return f"(~{args[0]})"
        if name in ("min", "max"):
            return self.least(name, reg, *args)
        if name in ("floordiv_positive", "floormod_positive"):
            return f"nl_{name}({args[0]}, {args[1]})"
        if name in ("truncdiv", "truncmod", "floordiv", "floormod"):
            if reg not in _UNSIGNED:
                return f"nl_{name[-3:]}_unsigned({args[0]}, {args[1]})"
            return f"nl_{name}({args[0]}, {args[1]})"
        if name == "popcount":
            counter = "__popcll" if reg.is_wide else "__popc"
            return f"({kind}){counter}({args[0]})"
        if name == "mulhi":
            return f"__umulhi({args[0]}, {args[1]})"
        raise CompilerBug("CUDA", "no such function of integers", received=name)

    def shift_inside(self, name: str, reg: Reg, a: str, amount: str) -> str:
        if name == "shl":
            u = _UNSIGNED.get(reg)
            return f"({a} << {amount})" if u is None else f"({_TYPES[reg]})(({u}){a} << {amount})"
        return f"({a} >> {amount})"

    # --- memory
    def load(self, param: Param, index: str) -> str:
        text = f"b{param.slot}[{_bare(index)}]"
        return f"({text} != 0)" if param.dtype is bool_ else text

    def store_lines(self, param: Param, index: str, value: str) -> list[str]:
        return [f"b{param.slot}[{_bare(index)}] = {_bare(value)};"]

    def load_lanes(
        self, param: Param, index: str, width: int, name: str, gate: str | None
    ) -> tuple[list[str], list[str]]:
        pieces = _pieces(param.dtype, width)
        lines, texts = [], []
        place = 0
        for n, (kind, words, count) in enumerate(pieces):
            piece = f"{name}_{n}"
            at = f"b{param.slot} + {index}" if not place else f"b{param.slot} + {index} + {place}"
            read = f"*(const {kind}*)({at})"
            if gate is not None:
                lines.append(f"{kind} {piece} = {{}};")
                lines.append(f"if ({gate}) {piece} = {read};")
            else:
                lines.append(f"const {kind} {piece} = {read};")
            members = [piece] if words == 1 else [f"{piece}.{c}" for c in "xyzw"[:words]]
            texts += _unpacked(param.dtype, members, count)
            place += count
        return lines, texts

    def store_lanes(self, param: Param, index: str, values: Sequence[str], name: str) -> list[str]:
        lines = []
        place = 0
        for n, (kind, words, count) in enumerate(_pieces(param.dtype, len(values))):
            piece = f"{name}_{n}"
            part = list(values[place : place + count])
            members = _packed(param.dtype, part, words)
            at = f"b{param.slot} + {index}" if not place else f"b{param.slot} + {index} + {place}"
            if words == 1:
                lines.append(f"const {kind} {piece} = {members[0]};")
            else:
                lines.append(f"const {kind} {piece} = {{{', '.join(members)}}};")
            lines.append(f"*({kind}*)({at}) = {piece};")
            place += count
        return lines

    def gated_line(self, reg: Reg, name: str, gate: str, text: str) -> str:
        return f"const {_TYPES[reg]} {name} = {gate} ? {text} : {self.literal(0, reg)};"

    def load_shared(
        self, array: str, reg: Reg, index: str, width: int, name: str
    ) -> tuple[list[str], list[str]]:
        if reg is not Reg.F32 or width not in (2, 4):
            return super().load_shared(array, reg, index, width, name)
        line = f"const float{width} {name} = *(const float{width}*)({array} + {index});"
        return [line], [f"{name}.{c}" for c in "xyzw"[:width]]

    def multiply_add(self, dtype: DType, reg: Reg, a: str, b: str, total: str) -> str:
        if reg is Reg.F32:
            return f"fmaf({a}, {b}, {total})"
        if reg is Reg.F64:
            return f"fma({a}, {b}, {total})"
        if reg is Reg.BOOL:
            return f"({total} || ({a} && {b}))"
        return self.scalar("add", dtype, reg, [total, self.scalar("mul", dtype, reg, [a, b])])

    # --- threads
    def barrier_line(self) -> str:
        return "__syncthreads();"

    def agreed_lines(self, array: str, name: str, reg: Reg, place: str = "") -> list[str]:
        barrier = self.barrier_line()
        return [barrier, f"const {_TYPES[reg]} {name} = {place or f'{array}[0]'};", barrier]

    def array_line(self, reg: Reg, name: str, elements: int) -> str:
        return f"{_TYPES[reg]} {name}[{elements}];"

    def atomic_load(self, element: str) -> str:
        return element

    def atomic_store(self, element: str, value: str) -> str:
        return f"{element} = {value};"

    def atomic_line(self, op: str, element: str, value: str) -> str:
        return f"atomic{op.capitalize()}(&{element}, {value});"

    def shuffle(self, value: Val, mask: int) -> str:
        if value.reg is Reg.BOOL:
            return f"(__shfl_xor_sync(0xffffffffu, (int){value.text}, {mask}) != 0)"
        return f"__shfl_xor_sync(0xffffffffu, {value.text}, {mask})"

    def shared_line(self, name: str, reg: Reg, elements: int) -> str:
        return f"__shared__ __align__(16) {_TYPES[reg]} {name}[{elements}];"

    def loop(self, name: str, start: str, stop: str, step: str) -> str:
        return f"for (int {name} = {start}; {name} < {stop}; {name} += {step}) {{"

    def unrolled(self, head: str, times: int) -> str:
        return f"#pragma unroll {times}\n{head}"

    def wide_index(self, block: str, step: int) -> str:
        return f"(long long){block} * {step} + tid"


_FROM_FLOAT = {
    Reg.I32: "nl_to_int", Reg.I64: "nl_to_long", Reg.U64: "nl_to_ulong", Reg.U32: "nl_to_uint",
}  # fmt: skip
_BITCASTS = {
    (Reg.F32, Reg.I32): "__float_as_int",
    (Reg.F32, Reg.U32): "__float_as_uint",
    (Reg.I32, Reg.F32): "__int_as_float",
    (Reg.U32, Reg.F32): "__uint_as_float",
    (Reg.F64, Reg.I64): "__double_as_longlong",
    (Reg.F64, Reg.U64): "nl_double_as_ulong",
    (Reg.I64, Reg.F64): "__longlong_as_double",
    (Reg.U64, Reg.F64): "nl_ulong_as_double",
}


def _bare(text: str) -> str:
    """Without brackets around the whole."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for n, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and n < len(text) - 1:
            return text
    return text[1:-1]


def _integer(value: int, reg: Reg) -> str:
    if reg is Reg.U32:
        return f"{value}u"
    if reg is Reg.U64:
        return f"{value}ull"
    if reg is Reg.I64:
        if value == -(2**63):
            return f"({value + 1}ll - 1)"
        return f"{value}ll" if value >= 0 else f"({value}ll)"
    if value == -(2**31):
        return f"({value + 1} - 1)"
    return str(value) if value >= 0 else f"({value})"


def _pieces(dtype: DType, width: int) -> list[tuple[str, int, int]]:
    """(type, members, elements) of the accesses that cover neighbouring elements."""
    size = dtype.itemsize
    found = []
    left = width
    while left:
        count = min(left, max(1, 16 // size))
        bytes = count * size
        if size >= 4:
            stem = {"float": "float", "int": "int", "uint": "uint"}[dtype.kind]
            if size == 8:
                stem = {"float": "double", "int": "longlong", "uint": "ulonglong"}[dtype.kind]
            scalar = _MEMORY[dtype.name]
            found.append((f"{stem}{count}" if count > 1 else scalar, count, count))
        elif bytes >= 4:
            words = bytes // 4
            found.append((f"uint{words}" if words > 1 else "unsigned", words, count))
        else:
            found.append(("unsigned short" if bytes == 2 else "unsigned char", 1, count))
        left -= count
    return found


def _unpacked(dtype: DType, members: Sequence[str], count: int) -> list[str]:
    """The elements inside the members of an access, as registers."""
    size = dtype.itemsize
    if size >= 4:
        return list(members)
    each = max(1, count // len(members))
    texts = []
    for m in members:
        for k in range(each):
            shifted = f"({m} >> {8 * size * k})" if k else m
            if dtype is bool_:
                texts.append(f"(({shifted} & 0xff) != 0)")
            elif dtype.is_half:
                texts.append(f"({shifted} & 0xffff)")
            else:
                kind = "int" if dtype.kind == "int" else "unsigned"
                texts.append(f"({kind})({_MEMORY[dtype.name]})({shifted})")
    return texts


def _packed(dtype: DType, values: Sequence[str], words: int) -> list[str]:
    """Elements as the members of an access."""
    size = dtype.itemsize
    if size >= 4:
        return list(values)
    each = max(1, len(values) // words)
    mask = "0xff" if size == 1 else "0xffff"
    members = []
    for w in range(words):
        parts = []
        for k in range(each):
            v = f"((unsigned)({values[w * each + k]}) & {mask})"
            parts.append(f"({v} << {8 * size * k})" if k else v)
        members.append(" | ".join(parts))
    return members
