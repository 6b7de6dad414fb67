"""How storage buffers are declared in WGSL, and the functions through which they are reached.

A buffer that is larger than a binding may be has several variables; which one an element is in are
the upper bits of its index. Elements of 8 and 16 bits are parts of words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from niello.codegen.gpu.target import GpuTarget
from niello.kernel.ir import Param


@dataclass(frozen=True)
class Pieces:
    """The variables of a buffer: `count`, each but the last of `words` words."""

    count: int
    words: int

    def __len__(self) -> int:
        return self.count


def pieces_of(param: Param, target: GpuTarget) -> Pieces:
    """How many bindings a buffer takes; their words have the size of an element, or 4 bytes."""
    found = target.pieces(param.elements * param.dtype.itemsize)
    return Pieces(len(found), target.piece_bytes // max(param.dtype.itemsize, 4))


def variable_name(param: Param, stage: int) -> str:
    """The stem of the names of a buffer in an entry point."""
    return f"b{param.slot}" if stage == 0 else f"b{param.slot}s{stage}"


def declaration(number: int, param: Param, name: str, pieces: Pieces, body: str) -> list[str]:
    """The variables of a buffer from binding `number` on, and the functions that `body` uses."""
    atomic = f"{name}_put(" in body or combines(name, body)
    word = _word_type(param)
    kind = f"atomic<{word}>" if atomic else word
    variables = [name] if len(pieces) == 1 else [f"{name}p{n}" for n in range(len(pieces))]
    lines = [
        f"@group(0) @binding({number + n}) var<storage, read_write> {v}: array<{kind}>;"
        for n, v in enumerate(variables)
    ]
    functions: dict[str, str] = {}
    if len(pieces) > 1:
        functions |= _split_functions(name, word, variables, pieces, atomic)
    if param.dtype.itemsize < 4:
        functions |= _narrow_functions(name, param, len(pieces) > 1, atomic)
    used = {f for f in functions if f"{f}(" in body}
    for f in reversed(functions):  # those that others use are listed before them
        if any(f"{f}(" in functions[g] for g in used if g != f):
            used.add(f)
    return lines + [text for f, text in functions.items() if f in used]


def combines(array: str, body: str) -> bool:
    """Whether threads combine into elements of an array of words by atomic operations."""
    return re.search(rf"\batomic[A-Z]\w*\(&{array}\[", body) is not None


def _word_type(param: Param) -> str:
    size = param.dtype.itemsize
    if size == 4 and param.dtype.is_float:
        return "f32"
    if size == 4 and param.dtype.kind == "int":
        return "i32"
    return "vec2<u32>" if size == 8 else "u32"


def _split_functions(
    name: str, word: str, variables: list[str], pieces: Pieces, atomic: bool
) -> dict[str, str]:
    """Words of a buffer in pieces: read, write, and atomic changes."""

    def chosen(line: str) -> str:
        tests = []
        for n, v in enumerate(variables):
            place = f"{v}[n - {n * pieces.words}u]" if n else f"{v}[n]"
            done = line.format(place)
            last = n + 1 == len(variables)
            tests.append(done if last else f"if (n < {(n + 1) * pieces.words}u) {{ {done} }}")
        return "let n = u32(i); " + " ".join(tests)

    read, write = ("return {};", "{} = v; return;")
    if atomic:
        read, write = "return atomicLoad(&{});", "atomicStore(&{}, v); return;"
    found = {
        f"{name}_at": f"fn {name}_at(i: i32) -> {word} {{ {chosen(read)} }}",
        f"{name}_to": f"fn {name}_to(i: i32, v: {word}) {{ {chosen(write)} }}",
    }
    if atomic:
        for f in ("And", "Or"):
            change = f"atomic{f}(&{{}}, v); return;"
            key = f"{name}_{f.lower()}"
            found[key] = f"fn {key}(i: i32, v: {word}) {{ {chosen(change)} }}"
    return found


def _narrow_functions(name: str, param: Param, split: bool, atomic: bool) -> dict[str, str]:
    """Elements of 8 or 16 bits in words of 32."""
    size = param.dtype.itemsize
    per, bits, mask = 4 // size, 8 * size, (1 << (8 * size)) - 1
    shift = {4: 2, 2: 1}[per]
    place = f"(u32(i) & {per - 1}u) * {bits}u"
    if split:
        read, write = f"{name}_at(i)", f"{name}_to(i, v);"
        clear = f"{name}_and(i >> {shift}u, ~({mask}u << s));"
        insert = f"{name}_or(i >> {shift}u, (v & {mask}u) << s);"
    else:
        read = f"atomicLoad(&{name}[i])" if atomic else f"{name}[i]"
        write = f"atomicStore(&{name}[i], v);" if atomic else f"{name}[i] = v;"
        clear = f"atomicAnd(&{name}[i >> {shift}u], ~({mask}u << s));"
        insert = f"atomicOr(&{name}[i >> {shift}u], (v & {mask}u) << s);"
    return {
        f"{name}_word": f"fn {name}_word(i: i32) -> u32 {{ return {read}; }}",
        f"{name}_get": (
            f"fn {name}_get(i: i32) -> u32 {{ "
            f"return ({name}_word(i >> {shift}u) >> ({place})) & {mask}u; }}"
        ),
        f"{name}_set": f"fn {name}_set(i: i32, v: u32) {{ {write} }}",
        f"{name}_put": f"fn {name}_put(i: i32, v: u32) {{ let s = {place}; {clear} {insert} }}",
    }
