"""Blocks and scalar instructions of the LLVM text emitter: arithmetic, comparison, casts, calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from niello.backends.cpu.llvm_types import (
    Operand,
    Value,
    constant,
    element_type,
    is_float,
    mangle,
    with_element,
)

if TYPE_CHECKING:
    from niello.backends.cpu.llvm_text import Module


class _Block:
    __slots__ = ("label", "lines")

    def __init__(self, label: str) -> None:
        self.label = label
        self.lines: list[str] = []


_INT_FOLD: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "shl": lambda a, b: a << b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "slt": lambda a, b: a < b,
    "sle": lambda a, b: a <= b,
    "sgt": lambda a, b: a > b,
    "sge": lambda a, b: a >= b,
}
# What an operation with a constant right operand returns unchanged: x + 0, x * 1, x << 0 ...
_NEUTRAL = {
    "add": 0,
    "sub": 0,
    "mul": 1,
    "shl": 0,
    "lshr": 0,
    "ashr": 0,
    "or": 0,
    "xor": 0,
    "sdiv": 1,
    "udiv": 1,
}


class Instructions:
    """What a Function of llvm_text is made of first: blocks and plain instructions."""

    def __init__(
        self,
        module: Module,
        name: str,
        result: str,
        parameters: Sequence[tuple[str, str]],
        internal: bool,
        group: int,
    ) -> None:
        self.module = module
        self.name = name
        self.result = result
        self.parameters = list(parameters)
        self.arguments = [
            Value(f"%{n}", t.split(" ")[0] if t[0] != "<" else t) for t, n in parameters
        ]
        self.fast = ""  # fast-math flags written on every float instruction, e.g. "contract"
        self._internal = internal
        self._group = group
        self._count = 0
        self._blocks = [_Block("entry")]
        self._block = self._blocks[0]
        self._allocas: list[str] = []

    def argument(self, name: str) -> Value:
        """Argument by name."""
        for value in self.arguments:
            if value.text == f"%{name}":
                return value
        raise KeyError(name)

    # --- plumbing

    def _value(self, type: str, line: str) -> Value:
        self._count += 1
        name = f"%v{self._count}"
        self._block.lines.append(f"{name} = {line}")
        return Value(name, type)

    def emit(self, type: str, line: str) -> Value:
        """Append a raw instruction that has a result of ``type``."""
        return self._value(type, line)

    def line(self, line: str) -> None:
        """Append a raw instruction without a result."""
        self._block.lines.append(line)

    def block(self, hint: str = "b") -> str:
        """Make a new block (not entered yet); returns its label."""
        self._count += 1
        block = _Block(f"{hint}{self._count}")
        self._blocks.append(block)
        return block.label

    def enter(self, label: str) -> None:
        """Continue writing in this block; blocks are laid out in the order they are entered."""
        for n in range(len(self._blocks) - 1, -1, -1):
            if self._blocks[n].label == label:
                self._block = self._blocks.pop(n)
                self._blocks.append(self._block)
                return
        raise KeyError(label)

    @property
    def current(self) -> str:
        """Label of the block being written."""
        return self._block.label

    def br(self, label: str, loop: int | None = None) -> None:
        """Jump."""
        self.line(f"br label %{label}" + (f", !llvm.loop !{loop}" if loop is not None else ""))

    def cond_br(self, condition: Value, then: str, other: str, loop: int | None = None) -> None:
        """Jump to ``then`` if the condition holds, else to ``other``."""
        tail = f", !llvm.loop !{loop}" if loop is not None else ""
        self.line(f"br i1 {condition.text}, label %{then}, label %{other}{tail}")

    def phi(self, type: str, incoming: Sequence[tuple[Value, str]]) -> Value:
        """Value that depends on the block we came from: ``(value, label)`` pairs."""
        body = ", ".join(f"[ {v.text}, %{label} ]" for v, label in incoming)
        return self._value(type, f"phi {type} {body}")

    def ret(self, value: Value | None = None) -> None:
        """Return."""
        self.line(f"ret {value}" if value is not None else "ret void")

    def alloca(self, type: str, count: int = 1, *, align: int = 64) -> Value:
        """Stack space, allocated once at function entry whatever block is current."""
        self._count += 1
        name = f"%v{self._count}"
        self._allocas.append(f"{name} = alloca {type}, i64 {count}, align {align}")
        return Value(name, "ptr")

    def text(self) -> str:
        """The function's text."""
        linkage = "internal " if self._internal else ""
        parameters = ", ".join(f"{t} %{n}" for t, n in self.parameters)
        out = [f"define {linkage}{self.result} @{self.name}({parameters}) #{self._group} {{"]
        for block in self._blocks:
            out.append(f"{block.label}:")
            if block.label == "entry":
                out += self._allocas
            out += block.lines
        out.append("}")
        return "\n".join(out)

    # --- operands

    def as_value(self, operand: Operand, type: str = "i64") -> Value:
        """A Python number becomes a constant of ``type``; a value stays."""
        return operand if isinstance(operand, Value) else constant(operand, type)

    def _pair(self, a: Operand, b: Operand) -> tuple[Value, Value]:
        if isinstance(a, Value):
            return a, (b if isinstance(b, Value) else constant(b, a.type))
        if isinstance(b, Value):
            return constant(a, b.type), b
        return constant(a), constant(b)

    # --- integer arithmetic

    def _integer(self, op: str, a: Operand, b: Operand, flags: str = "") -> Value:
        a, b = self._pair(a, b)
        if b.const is not None:
            if a.const is not None:
                folded = self._fold(op, a.const, b.const)
                if folded is not None:
                    return constant(folded, a.type)
            if _NEUTRAL.get(op) == b.const:
                return a
            if op == "mul" and b.const == 0:
                return b
            if op == "mul" and b.const > 1 and b.const & (b.const - 1) == 0:
                op, b = "shl", constant(b.const.bit_length() - 1, a.type)
        elif (a.const == 0 and op in ("add", "or", "xor")) or (a.const == 1 and op == "mul"):
            return b
        elif a.const == 0 and op == "mul":
            return a
        return self._value(a.type, f"{op} {flags}{a.type} {a.text}, {b.text}")

    @staticmethod
    def _fold(op: str, a: int, b: int) -> int | None:
        if op in _INT_FOLD:
            return _INT_FOLD[op](a, b)
        if b and op in ("sdiv", "srem"):
            quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
            return quotient if op == "sdiv" else a - quotient * b
        if b > 0 and a >= 0 and op in ("udiv", "urem"):
            return a // b if op == "udiv" else a % b
        if a >= 0 and op in ("lshr", "ashr"):
            return a >> b
        return None

    def add(self, a: Operand, b: Operand, flags: str = "") -> Value:
        return self._integer("add", a, b, flags)

    def sub(self, a: Operand, b: Operand, flags: str = "") -> Value:
        return self._integer("sub", a, b, flags)

    def mul(self, a: Operand, b: Operand, flags: str = "") -> Value:
        return self._integer("mul", a, b, flags)

    def sdiv(self, a: Operand, b: Operand) -> Value:
        return self._integer("sdiv", a, b)

    def srem(self, a: Operand, b: Operand) -> Value:
        return self._integer("srem", a, b)

    def udiv(self, a: Operand, b: Operand) -> Value:
        return self._integer("udiv", a, b)

    def urem(self, a: Operand, b: Operand) -> Value:
        return self._integer("urem", a, b)

    def and_(self, a: Operand, b: Operand) -> Value:
        return self._integer("and", a, b)

    def or_(self, a: Operand, b: Operand) -> Value:
        return self._integer("or", a, b)

    def xor(self, a: Operand, b: Operand) -> Value:
        return self._integer("xor", a, b)

    def shl(self, a: Operand, b: Operand) -> Value:
        return self._integer("shl", a, b)

    def lshr(self, a: Operand, b: Operand) -> Value:
        return self._integer("lshr", a, b)

    def ashr(self, a: Operand, b: Operand) -> Value:
        return self._integer("ashr", a, b)

    def not_(self, a: Value) -> Value:
        """All bits flipped; logical not of ``i1``."""
        return self.xor(a, 1 if element_type(a.type) == "i1" else -1)

    def smin(self, a: Operand, b: Operand) -> Value:
        return self._minmax("smin", min, a, b)

    def smax(self, a: Operand, b: Operand) -> Value:
        return self._minmax("smax", max, a, b)

    def umin(self, a: Operand, b: Operand) -> Value:
        return self._minmax("umin", None, a, b)

    def umax(self, a: Operand, b: Operand) -> Value:
        return self._minmax("umax", None, a, b)

    def _minmax(self, name: str, fold: object, a: Operand, b: Operand) -> Value:
        a, b = self._pair(a, b)
        if callable(fold) and a.const is not None and b.const is not None:
            return constant(fold(a.const, b.const), a.type)
        return self.intrinsic(f"llvm.{name}", a.type, [a, b])

    # --- float arithmetic

    def _floating(self, op: str, a: Operand, b: Operand, flags: str | None) -> Value:
        a, b = self._pair(a, b)
        flags = self.fast if flags is None else flags
        return self._value(
            a.type, f"{op} {flags + ' ' if flags else ''}{a.type} {a.text}, {b.text}"
        )

    def fadd(self, a: Operand, b: Operand, flags: str | None = None) -> Value:
        return self._floating("fadd", a, b, flags)

    def fsub(self, a: Operand, b: Operand, flags: str | None = None) -> Value:
        return self._floating("fsub", a, b, flags)

    def fmul(self, a: Operand, b: Operand, flags: str | None = None) -> Value:
        return self._floating("fmul", a, b, flags)

    def fdiv(self, a: Operand, b: Operand, flags: str | None = None) -> Value:
        return self._floating("fdiv", a, b, flags)

    def frem(self, a: Operand, b: Operand, flags: str | None = None) -> Value:
        return self._floating("frem", a, b, flags)

    def fneg(self, a: Value) -> Value:
        return self._value(a.type, f"fneg {a.type} {a.text}")

    def fma(self, a: Value, b: Operand, c: Operand) -> Value:
        """a * b + c, rounded once (slow where the CPU has no such instruction)."""
        return self.intrinsic(
            "llvm.fma", a.type, [a, self.as_value(b, a.type), self.as_value(c, a.type)]
        )

    def multiply_add(self, a: Value, b: Operand, c: Operand) -> Value:
        """a * b + c, fused where the CPU can."""
        return self.intrinsic(
            "llvm.fmuladd", a.type, [a, self.as_value(b, a.type), self.as_value(c, a.type)]
        )

    # --- comparison and choice

    def icmp(self, predicate: str, a: Operand, b: Operand) -> Value:
        """Integer (or pointer) comparison: eq ne slt sle sgt sge ult ule ugt uge."""
        a, b = self._pair(a, b)
        if a.const is not None and b.const is not None and predicate in _COMPARE:
            return constant(_COMPARE[predicate](a.const, b.const), "i1")
        return self._value(
            with_element(a.type, "i1"), f"icmp {predicate} {a.type} {a.text}, {b.text}"
        )

    def fcmp(self, predicate: str, a: Operand, b: Operand) -> Value:
        """Float comparison: oeq olt ... false on NaN, ueq ult ... true; ord, uno test for NaN."""
        a, b = self._pair(a, b)
        return self._value(
            with_element(a.type, "i1"), f"fcmp {predicate} {a.type} {a.text}, {b.text}"
        )

    def select(self, condition: Value, a: Operand, b: Operand) -> Value:
        """``a`` where the condition holds, else ``b`` (per lane for a vector condition)."""
        a, b = self._pair(a, b)
        if condition.const is not None:
            return a if condition.const else b
        return self._value(a.type, f"select {condition}, {a}, {b}")

    # --- casts

    def cast(self, op: str, value: Value, type: str) -> Value:
        """One LLVM cast: sext zext trunc fpext fptrunc sitofp uitofp fptosi fptoui bitcast ...

        ``type`` may be an element type: lanes are taken from the value (except for bitcast).
        A cast to the value's own type vanishes.
        """
        if op != "bitcast" and type[0] != "<":
            type = with_element(value.type, type)
        if type == value.type:
            return value
        if value.const is not None and op in ("sext", "zext", "trunc"):
            number = value.const
            if op == "zext":
                number &= (1 << int(value.type[1:])) - 1
            return constant(number, type)
        return self._value(type, f"{op} {value} to {type}")

    def bitcast(self, value: Value, type: str) -> Value:
        """Same bits, another type."""
        return self.cast("bitcast", value, type)

    # --- calls

    def call(
        self, name: str, result: str, arguments: Sequence[Value], *, declare: bool = True
    ) -> Value:
        """Call a function by name; it is declared as external unless this module defines it."""
        if declare:
            self.module.declare(name, result, [a.type for a in arguments])
        body = f"call {result} @{name}({', '.join(map(str, arguments))})"
        if result == "void":
            self.line(body)
            return Value("void", "void")
        return self._value(result, body)

    def intrinsic(self, name: str, type: str, arguments: Sequence[Value]) -> Value:
        """Intrinsic overloaded on its result type: ``intrinsic("llvm.sqrt", x.type, [x])``."""
        full = f"{name}.{mangle(type)}"
        self.module.declare(full, type, [a.type for a in arguments])
        flags = f"{self.fast} " if self.fast and is_float(type) else ""
        return self._value(type, f"call {flags}{type} @{full}({', '.join(map(str, arguments))})")
