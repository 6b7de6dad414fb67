"""A small, fast emitter of LLVM IR text: the pen of the whole CPU back end.

Values are a text (``%v7`` or a constant) and an LLVM type, both plain strings (``"float"``,
``"<16 x float>"``, ``"ptr"``). A :class:`Function` is also its own builder: every helper appends a
line to the current block and returns the result. Python numbers are accepted wherever a value is;
they take the type of the other operand, or ``i64`` where none is known. Integer arithmetic on
constants is folded, so address code may be written plainly.

Example::

    module = Module()
    f = module.function("scale", "void", [("ptr", "x"), ("i64", "n")])
    x, n = f.arguments
    with f.for_range(0, n) as i:
        p = f.gep("float", x, i)
        f.store(f.fmul(f.load("float", p, align=4), 2.0), p, align=4)
    f.ret()
    text = module.text()
"""

from __future__ import annotations

from collections.abc import Sequence

from niello.backends.cpu.llvm_flow import Branches, ControlFlow, Loop
from niello.backends.cpu.llvm_types import (
    Operand,
    Value,
    byte_size,
    constant,
    element_type,
    is_float,
    lanes,
    mangle,
    vector,
    vector_constant,
    with_element,
)

__all__ = [
    "Branches",
    "Function",
    "Loop",
    "Module",
    "Operand",
    "Value",
    "byte_size",
    "constant",
    "element_type",
    "is_float",
    "lanes",
    "mangle",
    "vector",
    "vector_constant",
    "with_element",
]

# --- module ----------------------------------------------------------------------


class Module:
    """Text of one LLVM module: functions, constants, declarations and metadata, each written once.

    ``attributes`` maps a function attribute to its value (``{"target-cpu": "znver5"}``; value
    ``""`` writes the bare keyword) and applies to every function defined in the module.
    """

    def __init__(self, *, attributes: dict[str, str] | None = None, triple: str = "") -> None:
        self.triple = triple
        self.attributes = dict(attributes or {})
        self.functions: dict[str, Function] = {}
        self._declarations: dict[str, str] = {}
        self._globals: dict[str, str] = {}
        self._groups: dict[str, int] = {}
        self._metadata: list[str] = []
        self._loops: dict[str, int] = {}

    def function(
        self,
        name: str,
        result: str = "void",
        parameters: Sequence[tuple[str, str]] = (),
        *,
        internal: bool = False,
        attributes: dict[str, str] | None = None,
        inline: bool | None = None,
    ) -> Function:
        """Start a function; ``parameters`` are ``(type, name)`` pairs.

        A parameter type may carry attributes (``"ptr noalias"``). ``inline=True`` asks for
        ``alwaysinline``, ``False`` for ``noinline``.
        """
        if name in self.functions:
            raise ValueError(f"function {name!r} is already defined in this module")
        merged = {"nounwind": "", **self.attributes, **(attributes or {})}
        if inline is not None:
            merged["alwaysinline" if inline else "noinline"] = ""
        function = Function(self, name, result, parameters, internal, self._group(merged))
        self.functions[name] = function
        return function

    def declare(
        self, name: str, result: str, parameters: Sequence[str], attributes: str = ""
    ) -> None:
        """Declare an external function or intrinsic; a repeated declaration costs nothing."""
        if name not in self._declarations and name not in self.functions:
            tail = f" {attributes}" if attributes else ""
            self._declarations[name] = f"declare {result} @{name}({', '.join(parameters)}){tail}"

    def table(
        self, name: str, element: str, values: Sequence[int | float], *, align: int = 64
    ) -> Value:
        """Address of a constant array in the module; the same name always holds the same table."""
        if name not in self._globals:
            body = ", ".join(f"{element} {constant(v, element).text}" for v in values)
            self._globals[name] = (
                f"@{name} = private unnamed_addr constant [{len(values)} x {element}] [{body}], "
                f"align {align}"
            )
        return Value(f"@{name}", "ptr")

    def zeros(self, name: str, bytes: int, *, align: int = 64) -> Value:
        """Constant block of zero bytes (padding rows); returns its address."""
        if name not in self._globals:
            self._globals[name] = (
                f"@{name} = private unnamed_addr constant [{bytes} x i8] zeroinitializer, "
                f"align {align}"
            )
        return Value(f"@{name}", "ptr")

    def text(self) -> str:
        """The whole module."""
        parts = [f'target triple = "{self.triple}"'] if self.triple else []
        parts += self._globals.values()
        parts += [f.text() for f in self.functions.values()]
        parts += [d for name, d in self._declarations.items() if name not in self.functions]
        parts += [f"attributes #{n} = {{ {body} }}" for body, n in self._groups.items()]
        parts += [f"!{n} = {body}" for n, body in enumerate(self._metadata)]
        return "\n".join(parts) + "\n"

    def _group(self, attributes: dict[str, str]) -> int:
        body = " ".join(f'"{k}"="{v}"' if v else k for k, v in attributes.items())
        return self._groups.setdefault(body, len(self._groups))

    def metadata(self, body: str) -> int:
        """Number of a metadata node with this body (each distinct body is one node)."""
        if body in self._metadata:
            return self._metadata.index(body)
        self._metadata.append(body)
        return len(self._metadata) - 1

    def _loop_metadata(self, unroll: int | None, vectorize: bool) -> int:
        notes = []
        if unroll is not None:
            body = (
                f'!{{!"llvm.loop.unroll.count", i32 {unroll}}}'
                if unroll > 1
                else '!{!"llvm.loop.unroll.disable"}'
            )
            notes.append(self.metadata(body))
        if not vectorize:
            notes.append(self.metadata('!{!"llvm.loop.vectorize.enable", i1 false}'))
        number = len(self._metadata)
        operands = ", ".join([f"!{number}"] + [f"!{n}" for n in notes])
        self._metadata.append(f"distinct !{{{operands}}}")
        return number


class Function(ControlFlow):
    """A function under construction and the builder of its body.

    Instructions are in llvm_build, memory and lanes in llvm_memory, flow in llvm_flow.
    """
