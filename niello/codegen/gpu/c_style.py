"""Printing for languages of the C family: what CUDA C++ and WGSL write alike, and what differs.

A Dialect turns operations on registers into text. Methods that return text return an expression
that can stand inside another (bracketed); methods called `..._line` return a statement.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from niello.codegen.gpu.blocks import Val
from niello.codegen.gpu.registers import Reg
from niello.core.dtypes import DType
from niello.core.errors import UnsupportedOp
from niello.kernel.ir import Param

SYMBOLS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "eq": "==", "ne": "!=",
    "and": "&", "or": "|", "xor": "^",
}  # fmt: skip
COMPARISONS = frozenset(("lt", "le", "eq", "ne"))
# Functions whose low 32 bits depend on the low 32 bits of the arguments alone.
MODULAR = frozenset(("add", "sub", "mul", "neg", "and", "or", "xor", "not"))
# Functions whose results may leave an integer dtype that is narrower than its register.
WRAPPING = frozenset(("add", "sub", "mul", "neg", "abs", "not", "shl", "truncdiv", "floordiv"))


class Dialect(ABC):
    """How a language writes what the shared code generation asks for."""

    name: str
    has_shuffles: bool  # whether neighbouring threads exchange registers
    vector_bytes: int  # the widest access of memory
    word_bytes: int  # the narrowest access that several elements may share
    stage: int = 0  # the number of the entry point that is being written

    # --- values
    @abstractmethod
    def type(self, reg: Reg) -> str:
        """The name of a register's type."""

    @abstractmethod
    def literal(self, value: int | float | bool, reg: Reg) -> str:
        """A constant."""

    @abstractmethod
    def constant_line(self, reg: Reg, name: str, text: str) -> str:
        """Define a name that keeps its value."""

    @abstractmethod
    def variable_line(self, reg: Reg, name: str, text: str) -> str:
        """Define a name that may be assigned."""

    @abstractmethod
    def select(self, test: str, yes: str, no: str) -> str:
        """`yes` where the test holds; both may be evaluated."""

    @abstractmethod
    def convert(self, text: str, source: Reg, target: Reg) -> str:
        """A value in another register: integers wrap or extend, floats saturate and NaN gives 0."""

    @abstractmethod
    def half_to_float(self, text: str, dtype: DType) -> str:
        """The float32 value of a half's bit pattern."""

    @abstractmethod
    def float_to_half(self, text: str, dtype: DType) -> str:
        """The bit pattern of a float32 rounded to a half type."""

    @abstractmethod
    def bitcast(self, text: str, source: Reg, target: Reg) -> str:
        """The same bits in another register of the same width."""

    @abstractmethod
    def wrapped(self, text: str, dtype: DType) -> str:
        """A 32-bit register wrapped to an integer dtype of 8 or 16 bits."""

    @abstractmethod
    def scalar(self, name: str, dtype: DType, reg: Reg, args: Sequence[str]) -> str:
        """A scalar function of the kernel language on registers of one kind."""

    def opaque(self, text: str) -> str:
        """The same float, where the compiler cannot see how it came about: languages that may
        reassociate override this."""
        return text

    @abstractmethod
    def is_nan(self, text: str, reg: Reg) -> str:
        """Whether a float is NaN."""

    # --- memory
    @abstractmethod
    def load(self, param: Param, index: str) -> str:
        """The element at an index, as its register."""

    @abstractmethod
    def store_lines(self, param: Param, index: str, value: str) -> list[str]:
        """Write one element."""

    @abstractmethod
    def load_lanes(
        self, param: Param, index: str, width: int, name: str, gate: str | None
    ) -> tuple[list[str], list[str]]:
        """Lines that read `width` neighbouring elements at once, and the text of each element.

        `index` is a multiple of `width`; where the gate does not hold, elements are zero.
        """

    @abstractmethod
    def store_lanes(self, param: Param, index: str, values: Sequence[str], name: str) -> list[str]:
        """Lines that write neighbouring elements at once; `index` is a multiple of their number."""

    @abstractmethod
    def gated_line(self, reg: Reg, name: str, gate: str, text: str) -> str:
        """Define a name: `text` where the gate holds, which is not evaluated elsewhere, or zero."""

    def load_shared(
        self, array: str, reg: Reg, index: str, width: int, name: str
    ) -> tuple[list[str], list[str]]:
        """Lines that read neighbouring elements of a shared array, and the text of each."""
        names = [f"{name}_{n}" for n in range(width)]
        lines = [self.constant_line(reg, x, f"{array}[{index} + {n}]") for n, x in enumerate(names)]
        return lines, names

    @abstractmethod
    def multiply_add(self, dtype: DType, reg: Reg, a: str, b: str, total: str) -> str:
        """total + a * b; integers may leave a dtype that is narrower than the register."""

    # --- threads
    @abstractmethod
    def barrier_line(self) -> str:
        """Wait for all threads of the block."""

    wants_agreement: bool = False  # whether what decides on barriers must be known to be uniform
    forever: str = "while (true) {"  # the head of a loop that something inside ends

    def barrier_lines(self, in_buffer: bool) -> list[str]:
        """Wait for all threads of the block, and see what they wrote (to buffers, too)."""
        return [self.barrier_line()]

    @abstractmethod
    def agreed_lines(self, array: str, name: str, reg: Reg, place: str = "") -> list[str]:
        """Define a name, alike for all threads, as the first element of a shared array (or another
        place in it), with barriers around."""

    @abstractmethod
    def array_line(self, reg: Reg, name: str, elements: int) -> str:
        """Declare an array that a thread has for itself."""

    @abstractmethod
    def atomic_load(self, element: str) -> str:
        """The value of an element that threads combine into."""

    @abstractmethod
    def atomic_store(self, element: str, value: str) -> str:
        """A statement that sets such an element."""

    @abstractmethod
    def atomic_line(self, op: str, element: str, value: str) -> str:
        """A statement that combines into an element: add, min, max, and, or, xor."""

    @abstractmethod
    def shuffle(self, value: Val, mask: int) -> str:
        """The value that the thread whose number differs in the bits of `mask` has; CUDA only."""

    @abstractmethod
    def shared_line(self, name: str, reg: Reg, elements: int) -> str:
        """Declare an array that the threads of a block share."""

    @abstractmethod
    def wide_index(self, block: str, step: int) -> str:
        """`block * step + tid` in 64 bits."""

    @abstractmethod
    def loop(self, name: str, start: str, stop: str, step: str) -> str:
        """The head of a loop over an int32."""

    def unrolled(self, head: str, times: int) -> str:
        """The head of a loop that should be unrolled, where the language can say so."""
        return head

    def subscript(self, index: Val) -> str:
        """An index as the subscript of an array."""
        return index.text


class CStyle(Dialect):
    """What C++ and WGSL write alike."""

    def binary(self, name: str, a: str, b: str) -> str:
        """An infix operator."""
        return f"({a} {SYMBOLS[name]} {b})"

    def all_of(self, tests: Iterable[str]) -> str:
        """The conjunction of conditions."""
        found = list(tests)
        return found[0] if len(found) == 1 else "(" + " && ".join(found) + ")"

    def boolean(self, name: str, args: Sequence[str]) -> str:
        """A scalar function of bool."""
        if name in ("and", "mul", "min"):
            return f"({args[0]} && {args[1]})"
        if name in ("or", "max"):
            return f"({args[0]} || {args[1]})"
        if name in ("xor", "ne"):
            return f"({args[0]} != {args[1]})"
        if name == "eq":
            return f"({args[0]} == {args[1]})"
        if name == "lt":
            return f"(!{args[0]} && {args[1]})"
        if name == "le":
            return f"(!{args[0]} || {args[1]})"
        if name == "not":
            return f"(!{args[0]})"
        raise UnsupportedOp(self.name, "no such function of bool", received=name)

    def least(self, name: str, reg: Reg, a: str, b: str) -> str:
        """min or max; NaN in either gives NaN."""
        better = self.compare("lt", reg, *((a, b) if name == "min" else (b, a)))
        if reg.is_float:
            better = f"({better} || {self.is_nan(a, reg)})"
        return self.select(better, a, b)

    def compare(self, name: str, reg: Reg, a: str, b: str) -> str:
        """A comparison of two registers."""
        if reg is Reg.BOOL:
            return self.boolean(name, (a, b))
        if reg.is_float and a == b and name in ("ne", "eq"):
            # Compilers may assume that there is no NaN: look at the bits.
            nan = self.is_nan(a, reg)
            return nan if name == "ne" else f"(!{nan})"
        return self.binary(name, a, b)

    def shift(self, name: str, dtype: DType, reg: Reg, a: str, b: str, amount: int | None) -> str:
        """A shift whose amount may lie outside the width: that gives 0, or the sign."""
        if amount is not None and 0 <= amount < dtype.bits:
            return self.shift_inside(name, reg, a, self.literal(amount, Reg.U32))
        low = self.convert(b, reg, Reg.U32)
        if reg.is_wide:  # the high word must count too
            limit = self.literal(64, reg)
            inside = self.compare("lt", reg, b, limit)
            if reg is Reg.I64:
                inside = f"({inside} && {self.compare('le', reg, self.literal(0, reg), b)})"
        else:
            inside = f"({low} < {self.literal(dtype.bits, Reg.U32)})"
        amount_text = f"({low} & {self.literal(63 if reg.is_wide else 31, Reg.U32)})"
        shifted = self.shift_inside(name, reg, a, amount_text)
        zero = self.literal(0, reg)
        signed = name == "shr" and reg in (Reg.I32, Reg.I64)
        negative = self.compare("lt", reg, a, zero)
        outside = self.select(negative, self.literal(-1, reg), zero) if signed else zero
        return self.select(inside, shifted, outside)

    @abstractmethod
    def shift_inside(self, name: str, reg: Reg, a: str, amount: str) -> str:
        """A shift by a uint32 below the width of the register."""
