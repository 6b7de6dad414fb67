"""Kernels as text, and back.

    kernel "softmax" {
      param b0: float32[45]
      param b1: float32[45] written
      %0 = reduce.max(r:9; b0[((x:5 * 9) + r:9)])
      store b1[((x:5 * 9) + y:9)] for (x:5, y:9) = (b0[((x:5 * 9) + y:9)] - %0)
    }

A range is `name:extent`, a literal is `1.5:float32` (or a bare integer for int64, or true, false),
`%n` is a shared expression, `b0[i if gate]` a gated load. The text says everything about a kernel,
and parsing it gives the same nodes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from niello.core.dtypes import BY_NAME, DType, bool_, int64
from niello.core.errors import CorruptFile
from niello.core.nodes import Node, walk
from niello.kernel.ir import (
    REDUCE_OPS,
    SCALAR_FUNCTIONS,
    ArgReduce,
    Bitcast,
    Cast,
    Const,
    Contract,
    Expr,
    Fn,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
)
from niello.kernel.routine import Routine

INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "floordiv": "//",
    "floormod": "%",
    "lt": "<",
    "le": "<=",
    "eq": "==",
    "ne": "!=",
    "and": "&",
    "or": "|",
    "xor": "^",
    "shl": "<<",
    "shr": ">>",
}
_INFIX_NAMES = {symbol: name for name, symbol in INFIX.items()}
_PLAIN = re.compile(r"[A-Za-z_][\w.]*\Z")
MAX_DEPTH = 8  # deeper expressions get a line of their own


# --- printing ------------------------------------------------------------------------------------


def print_kernel(kernel: Kernel | Routine) -> str:
    """The kernel as text that `parse_kernel` reads back to the same nodes."""
    if isinstance(kernel, Routine):
        from niello.kernel.routine_text import print_routine

        return print_routine(kernel)
    lines = [f"kernel {json.dumps(kernel.name)} {{"]
    for p in kernel.params:
        written = " written" if p.written else ""
        lines.append(f"  param b{p.slot}: {p.dtype.name}[{p.elements}]{written}")
    printer = _Printer()
    for store in kernel.stores:
        roots = [e for e in (store.index, store.value, store.gate) if e is not None]
        lines.extend("  " + line for line in printer.shared(roots, kernel.stores))
        lines.append("  " + printer.store(store))
    lines.append("}")
    return "\n".join(lines) + "\n"


def print_expr(expr: Expr) -> str:
    """An expression as text; shared parts come first, one on each line."""
    printer = _Printer()
    lines = printer.shared([expr], [expr])
    return "\n".join([*lines, printer.expr(expr)])


def range_text(r: Node) -> str:
    if not isinstance(r, Range):
        return repr(r)
    name = r.name if _PLAIN.match(r.name) else json.dumps(r.name)
    return f"{name}:{r.extent}"


def const_text(c: Const) -> str:
    if c.dtype is bool_:
        return "true" if c.value else "false"
    if c.dtype is int64:
        return str(int(c.value))
    value = repr(float(c.value)) if c.dtype.is_float else str(int(c.value))
    return f"{value}:{c.dtype.name}"


class _Printer:
    """Prints expressions; `names` holds those that have a line of their own."""

    def __init__(self) -> None:
        self.names: dict[Node, str] = {}
        self.uses: dict[Node, int] | None = None
        self.depth: dict[Node, int] = {}

    def shared(self, roots: Iterable[Node], everything: Iterable[Node]) -> list[str]:
        """Lines for the expressions under `roots` that are used twice or nest too deep."""
        if self.uses is None:
            self.uses = {}
            for node in walk(everything):
                for child in node.children:
                    self.uses[child] = self.uses.get(child, 0) + 1
        lines = []
        for node in walk(roots):
            if node in self.names or isinstance(node, (Const, Range, Param)):
                continue
            inner = [0 if c in self.names else self.depth.get(c, 0) for c in node.children]
            self.depth[node] = 1 + max(inner, default=0)
            if self.uses.get(node, 0) > 1 or self.depth[node] >= MAX_DEPTH:
                line = self.expr(node)
                self.names[node] = f"%{len(self.names)}"
                lines.append(f"{self.names[node]} = {line}")
        return lines

    def store(self, s: Store) -> str:
        text = f"store b{s.param.slot}[{self.expr(s.index)}] for ({self.ranges(s.ranges)})"
        text += f" = {self.expr(s.value)}"
        if s.gate is not None:
            text += f" if {self.expr(s.gate)}"
        return text if s.combine is None else f"{text} combine {s.combine}"

    def ranges(self, ranges: Iterable[Node]) -> str:
        return ", ".join(range_text(r) for r in ranges)

    def expr(self, e: Node) -> str:
        named = self.names.get(e)
        if named is not None:
            return named
        if isinstance(e, Const):
            return const_text(e)
        if isinstance(e, Range):
            return range_text(e)
        if isinstance(e, Load):
            gate = "" if e.gate is None else f" if {self.expr(e.gate)}"
            return f"b{e.param.slot}[{self.expr(e.index)}{gate}]"
        if isinstance(e, Fn):
            symbol = INFIX.get(e.name)
            if symbol is not None and len(e.args) == 2:
                return f"({self.expr(e.args[0])} {symbol} {self.expr(e.args[1])})"
            return f"{e.name}({', '.join(self.expr(a) for a in e.args)})"
        if isinstance(e, (Cast, Bitcast)):
            return f"{type(e).__name__.lower()}<{e.dtype.name}>({self.expr(e.x)})"
        if isinstance(e, (Reduce, ArgReduce)):
            kind = "reduce" if isinstance(e, Reduce) else "arg"
            return f"{kind}.{e.op}({self.ranges(e.ranges)}; {self.expr(e.body)})"
        if isinstance(e, Contract):
            inner = f"{self.ranges(e.ranges)}; {self.expr(e.a)}, {self.expr(e.b)}"
            return f"contract<{e.dtype.name}>({inner})"
        return repr(e)


# --- parsing -------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<const>-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|inf|nan):[a-z]\w*|-?\d+)
    | (?P<range>(?:"(?:[^"\\]|\\.)*"|[A-Za-z_][\w.]*):\d+)
    | (?P<value>%\d+)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<word>[A-Za-z_][\w.]*)
    | (?P<symbol>//|<<|>>|<=|==|!=|[-+*/%<>&|^()\[\]{};:,=])
    )""",
    re.VERBOSE,
)


def parse_kernel(text: str) -> Kernel | Routine:
    """Read what `print_kernel` wrote. Raises CorruptFile that says where the text is wrong."""
    if text.lstrip().startswith("routine"):
        from niello.kernel.routine_text import parse_routine

        return parse_routine(text)
    parser = _Parser(text)
    kernel = parser.kernel()
    if parser.position < len(parser.tokens):
        parser.wrong("the end of the text")
    return kernel


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, int]] = []
        self.position = 0
        self.params: dict[int, Param] = {}
        self.values: dict[str, Expr] = {}
        at = 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                line = text.count("\n", 0, at) + 1
                raise CorruptFile(
                    "kernel text",
                    f"line {line} cannot be read",
                    received=text[at : at + 30].strip(),
                )
            kind = str(match.lastgroup)
            line = text.count("\n", 0, match.start(kind)) + 1
            self.tokens.append((kind, match.group(kind), line))
            at = match.end()

    def wrong(self, wanted: str) -> None:
        here = self.position < len(self.tokens)
        _, text, line = self.tokens[self.position] if here else ("", "the end", 0)
        place = f"line {line}" if here else "the end"
        raise CorruptFile("kernel text", f"{place} should have {wanted}", received=text)

    def peek(self) -> str:
        return self.tokens[self.position][1] if self.position < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.position][0] if self.position < len(self.tokens) else ""

    def take(self, wanted: str = "", kind: str = "") -> str:
        if (wanted and self.peek() != wanted) or (kind and self.kind() != kind):
            self.wrong(repr(wanted) if wanted else f"a {kind}")
        text = self.peek()
        self.position += 1
        return text

    def accept(self, wanted: str) -> bool:
        found = self.peek() == wanted
        self.position += found
        return found

    # --- statements
    def kernel(self) -> Kernel:
        self.take("kernel")
        name = json.loads(self.take(kind="string"))
        self.take("{")
        stores: list[Store] = []
        while not self.accept("}"):
            if self.accept("param"):
                self.param()
            elif self.accept("store"):
                stores.append(self.store())
            else:
                value = self.take(kind="value")
                self.take("=")
                self.values[value] = self.expr()
        return Kernel(name, tuple(self.params.values()), tuple(stores))

    def param(self) -> None:
        slot = self.slot()
        self.take(":")
        dtype = self.dtype()
        self.take("[")
        elements = int(self.take(kind="const"))
        self.take("]")
        self.params[slot] = Param(slot, dtype, elements, self.accept("written"))

    def slot(self) -> int:
        if not re.fullmatch(r"b\d+", self.peek()):
            self.wrong("a parameter such as b0")
        return int(self.take()[1:])

    def known_param(self) -> Param:
        slot = self.slot()
        if slot not in self.params:
            self.position -= 1
            self.wrong("a parameter of this kernel")
        return self.params[slot]

    def dtype(self) -> DType:
        if self.peek() not in BY_NAME:
            self.wrong("an element type")
        return BY_NAME[self.take()]

    def store(self) -> Store:
        param = self.known_param()
        self.take("[")
        index = self.expr()
        self.take("]")
        self.take("for")
        self.take("(")
        ranges = self.ranges()
        self.take(")")
        self.take("=")
        value = self.expr()
        gate = self.expr() if self.accept("if") else None
        combine = self.take(kind="word") if self.accept("combine") else None
        return Store(param, ranges, index, value, gate, combine)

    def ranges(self) -> tuple[Range, ...]:
        found: list[Range] = []
        while self.kind() == "range":
            found.append(self.range())
            if not self.accept(","):
                break
        return tuple(found)

    def range(self) -> Range:
        name, extent = self.take(kind="range").rsplit(":", 1)
        return Range(json.loads(name) if name.startswith('"') else name, int(extent))

    # --- expressions
    def expr(self) -> Expr:
        kind = self.kind()
        if kind == "const":
            return self.const()
        if kind == "range":
            return self.range()
        if kind == "value":
            if self.peek() not in self.values:
                self.wrong("a value that was defined above")
            return self.values[self.take()]
        if self.accept("("):
            return self.infix()
        if kind != "word":
            self.wrong("an expression")
        if self.peek() in ("true", "false"):
            return Const(self.take() == "true", bool_)
        if self.tokens[self.position + 1 : self.position + 2] and (
            self.tokens[self.position + 1][1] == "["
        ):
            return self.load()
        return self.call()

    def const(self) -> Const:
        value, _, dtype = self.take().partition(":")
        if not dtype:
            return Const(int(value), int64)
        if dtype not in BY_NAME:
            self.position -= 1
            self.wrong("a literal of a known element type")
        found = BY_NAME[dtype]
        return Const(float(value) if found.is_float else int(value), found)

    def infix(self) -> Expr:
        left = self.expr()
        if self.peek() not in _INFIX_NAMES:
            self.wrong("an operator")
        name = _INFIX_NAMES[self.take()]
        right = self.expr()
        self.take(")")
        return self.function(name, (left, right))

    def load(self) -> Load:
        param = self.known_param()
        self.take("[")
        index = self.expr()
        gate = self.expr() if self.accept("if") else None
        self.take("]")
        return Load(param, index, gate)

    def call(self) -> Expr:
        word = self.take(kind="word")
        if word in ("cast", "bitcast", "contract"):
            self.take("<")
            dtype = self.dtype()
            self.take(">")
            self.take("(")
            if word != "contract":
                x = self.expr()
                self.take(")")
                return Cast(x, dtype) if word == "cast" else Bitcast(x, dtype)
            ranges = self.bound_ranges()
            a = self.expr()
            self.take(",")
            b = self.expr()
            self.take(")")
            return Contract(ranges, a, b, dtype)
        self.take("(")
        family, _, op = word.partition(".")
        if family in ("reduce", "arg") and op in REDUCE_OPS:
            ranges = self.bound_ranges()
            body = self.expr()
            self.take(")")
            return Reduce(op, ranges, body) if family == "reduce" else ArgReduce(op, ranges, body)
        args = [self.expr()]
        while self.accept(","):
            args.append(self.expr())
        self.take(")")
        return self.function(word, tuple(args))

    def bound_ranges(self) -> tuple[Range, ...]:
        ranges = self.ranges()
        self.take(";")
        return ranges

    def function(self, name: str, args: tuple[Expr, ...]) -> Expr:
        spec = SCALAR_FUNCTIONS.get(name)
        if spec is None or spec.arity != len(args):
            self.position -= 1
            self.wrong(f"a scalar function of {len(args)} arguments instead of {name}")
        assert spec is not None
        result = args[1].dtype if spec.result == "where" else args[0].dtype
        return Fn(name, args, bool_ if spec.result == "bool" else result)
