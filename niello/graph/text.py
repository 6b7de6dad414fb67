"""Graphs as text: one line for each operation, readable by people and by `parse_graph`.

    graph "digits" {
      %image = placeholder() {type: float32[?, 28, 28, 1]}
      %relu = relu(%image)
      %max, %max:1 = some_op(%relu) {axis: -1} after (%other)
    }

An attribute may be a region, a graph with its parameters, results and effects:

    {then: region "if/then" {
      %if/then/x = placeholder() {type: float32[]}
      %if/then/add = add(%if/then/x, %if/then/x)
    } takes (%if/then/x) gives (%if/then/add) runs (), ...}

Large constants are named by the SHA-256 of their content and kept apart (see `external_data`).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from niello.core.dtypes import BY_NAME, DType, dtype
from niello.core.errors import CorruptFile, ShapeError
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import records, registry
from niello.graph.operation import Operation
from niello.graph.region import Region, every_operation
from niello.graph.structural import Data, VariableOp
from niello.graph.tensor import Tensor, VariableState

INLINE_ELEMENTS = 16
MAX_DEPTH = 16


# --- printing
def print_graph(graph: GraphDefinition) -> str:
    """The text form of a graph."""
    return f"graph {_block(graph)}"


def _block(graph: GraphDefinition) -> str:
    lines = [line for o in graph.operations for line in print_operation(o).split("\n")]
    return "\n".join([f"{_quote(graph.name)} {{", *(f"  {line}" for line in lines), "}"])


def print_operation(operation: Operation) -> str:
    """One line: results, op, operands, attributes, control inputs. Regions take further lines."""
    names = [_name(operation.name + (f":{i}" if i else "")) for i in range(len(operation.outputs))]
    results = ", ".join(names) or _name(operation.name)
    operands = ", ".join(_name(t.name) for t in operation.inputs)
    text = f"{results} = {operation.op.name}({operands})"
    attributes = operation.op.attributes
    if attributes:
        inner = ", ".join(f"{key}: {print_value(value)}" for key, value in attributes.items())
        text += f" {{{inner}}}"
    if operation.control_inputs:
        text += f" after ({', '.join(_name(o.name) for o in operation.control_inputs)})"
    return text


def print_value(value: Any) -> str:
    """An attribute as text."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, DType):
        return value.name
    if isinstance(value, TensorType):
        return f"{value.dtype.name}{show(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(print_value(v) for v in value)}{',' if len(value) == 1 else ''})"
    if isinstance(value, Data):
        return _print_data(value)
    if isinstance(value, Region):
        parts = (("takes", value.parameters), ("gives", value.results), ("runs", value.effects))
        listed = (f"{word} ({', '.join(_name(n.name) for n in names)})" for word, names in parts)  # type: ignore[attr-defined]
        return f"region {_block(value.graph)} {' '.join(listed)}"
    if dataclasses.is_dataclass(value) and type(value).__name__ in records():
        inner = ", ".join(
            f"{f.name}: {print_value(getattr(value, f.name))}" for f in dataclasses.fields(value)
        )
        return f"{type(value).__name__}({inner})"
    raise TypeError(f"no text form for an attribute of type {type(value).__name__}")


def _print_data(data: Data) -> str:
    array = data.array
    kind = f"{array.dtype.name}[{', '.join(map(str, array.shape))}]"
    if data.is_splat and array.size:
        one = _numbers(array.reshape(-1)[:1])
        return f"splat({kind}, {one[0] if len(one) == 1 else '(' + ', '.join(one) + ')'})"
    if array.size <= INLINE_ELEMENTS:
        return f"dense({kind}, ({', '.join(_numbers(array.reshape(-1)))}))"
    return f"external({kind}, {_quote(data.digest)})"


def _numbers(flat: np.ndarray) -> list[str]:
    """The elements of an array; of complex ones the real and the imaginary part."""
    kind = dtype(flat.dtype)
    if kind.is_complex:
        flat = np.ascontiguousarray(flat).view(kind.plane.numpy)
    return [_number(v) for v in flat]


def _number(value: Any) -> str:
    item = value.item() if hasattr(value, "item") else value
    return print_value(item)


def _name(name: str) -> str:
    return "%" + name if re.fullmatch(r"[\w./:-]+", name) else "%" + _quote(name)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def external_data(graph: GraphDefinition) -> dict[str, np.ndarray]:
    """Constants that the text names by digest only."""
    found = {}
    for o in every_operation(graph):
        for value in o.op.attributes.values():
            if isinstance(value, Data) and _print_data(value).startswith("external"):
                found[value.digest] = np.ascontiguousarray(value.array)
    return found


# --- parsing
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<name>%(?:"(?:[^"\\]|\\.)*"|[\w./:-]+))
    | (?P<number>[-+]?(?:inf|nan|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\b|[-+]?\d+\.)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<mark>[(){}\[\],:=?])
    )""",
    re.VERBOSE,
)


def parse_graph(
    text: str,
    external: Mapping[str, np.ndarray] | None = None,
    make: Callable[[str], GraphDefinition] = GraphDefinition,
) -> GraphDefinition:
    """The graph of a text. Raises CorruptFile, with the line, for anything it cannot be.

    `external` holds the large constants by digest. Variables start as zeros.
    """
    return _Parser(text, external or {}, make).graph()


class _Parser:
    def __init__(
        self,
        text: str,
        external: Mapping[str, np.ndarray],
        make: Callable[[str], GraphDefinition],
    ) -> None:
        self.text = text
        self.at = 0
        self.external = external
        self.make = make
        self.depth = 0
        self.tensors: dict[str, Tensor] = {}
        self.operations: dict[str, Operation] = {}
        self.within: list[GraphDefinition] = []  # the graph, and the regions being read inside it

    def fail(self, problem: str) -> CorruptFile:
        line = self.text.count("\n", 0, self.at) + 1
        rest = self.text[self.at : self.at + 40].strip().splitlines()
        return CorruptFile(
            "graph text", f"line {line}: {problem}", received=repr(rest[0] if rest else "the end")
        )

    # --- tokens
    def next(self) -> tuple[str, str]:
        match = _TOKEN.match(self.text, self.at)
        if match is None or match.lastgroup is None:
            raise self.fail("unexpected text")
        self.at = match.end()
        return match.lastgroup, match.group(match.lastgroup)

    def peek(self) -> str:
        match = _TOKEN.match(self.text, self.at)
        return "" if match is None or match.lastgroup is None else match.group(match.lastgroup)

    def expect(self, wanted: str) -> None:
        start = self.at
        _, found = self.next()
        if found != wanted:
            self.at = start
            raise self.fail(f"expected {wanted!r}")

    def take(self, wanted: str) -> bool:
        if self.peek() == wanted:
            self.next()
            return True
        return False

    def kind(self, wanted: str) -> str:
        start = self.at
        kind, found = self.next()
        if kind != wanted:
            self.at = start
            raise self.fail(f"expected a {wanted}")
        return found

    def string(self) -> str:
        return _unquote(self.kind("string"))

    def name(self) -> str:
        found = self.kind("name")[1:]
        return _unquote(found) if found.startswith('"') else found

    # --- grammar
    def graph(self) -> GraphDefinition:
        self.expect("graph")
        graph = self.make(self.string())
        self.block(graph)
        if self.text[self.at :].strip():
            raise self.fail("text after the graph")
        return graph

    def block(self, graph: GraphDefinition) -> None:
        self.within.append(graph)
        self.expect("{")
        while not self.take("}"):
            self.operation(graph)
        self.within.pop()

    def region(self) -> Region:
        """A graph of its own: it knows no names of the graph around it."""
        graph = GraphDefinition(self.string())
        graph.variable_states = self.within[-1].variable_states
        around = self.tensors, self.operations
        self.tensors, self.operations = {}, {}
        self.block(graph)
        self.expect("takes")
        parameters = self.listed(lambda: self.known(self.tensors, "tensor"))
        self.expect("gives")
        results = self.listed(lambda: self.known(self.tensors, "tensor"))
        self.expect("runs")
        effects = self.listed(lambda: self.known(self.operations, "operation"))
        self.tensors, self.operations = around
        return Region(graph, parameters, results, effects)

    def operation(self, graph: GraphDefinition) -> None:
        names = [self.name()]
        while self.take(","):
            names.append(self.name())
        self.expect("=")
        word = self.kind("word")
        op_type = registry().get(word)
        if op_type is None:
            raise self.fail(f"there is no operation {word!r}")
        inputs = self.listed(lambda: self.known(self.tensors, "tensor"))
        attributes = self.attributes() if self.peek() == "{" else {}
        controls: list[Operation] = []
        if self.take("after"):
            controls = self.listed(lambda: self.known(self.operations, "operation"))
        if any(n in self.tensors or n in self.operations for n in names):
            raise self.fail(f"{names[0]!r} is defined twice")
        op = self.build(op_type, attributes)
        # The text may hold anything in place of an attribute: whatever an op makes of that, the
        # text is at fault.
        try:
            if isinstance(op, VariableOp):
                self.variable(op, graph)
            made = graph.add(op, inputs, name=names[0], control_inputs=controls, where="")
        except Exception as error:
            raise self.fail(f"{names[0]}: {type(error).__name__}: {error}") from error
        if not all(isinstance(t.type, TensorType) for t in made.outputs):
            raise self.fail(f"{names[0]}: an attribute has the wrong type")
        if made.name != names[0]:
            raise self.fail(f"{names[0]!r} is defined twice")
        if len(names) != max(len(made.outputs), 1):
            raise self.fail(f"{word} has {len(made.outputs)} results")
        self.operations[names[0]] = made
        self.tensors.update(zip(names, made.outputs, strict=False))

    def variable(self, op: VariableOp, graph: GraphDefinition) -> None:
        known = graph.variable_states.get(op.variable)
        if known is not None and len(self.within) > 1:  # regions name the variables of the graph
            if TensorType(known.array.shape, known.array.dtype) != op.type:
                raise self.fail(f"variable {op.variable!r} has another type outside")
            return
        if known is not None:
            raise self.fail(f"variable {op.variable!r} is defined twice")
        graph.variable_states[op.variable] = VariableState.zeros(op.type)

    def build(self, kind: type[Any], attributes: dict[str, Any]) -> Any:
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        wanted = {f.name for f in fields}
        # Texts from before an attribute existed mean its default.
        needed = {
            f.name
            for f in fields
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        if not needed <= set(attributes) <= wanted:
            raise self.fail(
                f"{getattr(kind, 'name', kind.__name__)} has attributes {sorted(wanted)}"
            )
        try:
            return kind(**attributes)
        except Exception as error:
            raise self.fail(f"{type(error).__name__}: {error}") from error

    def known(self, table: Mapping[str, Any], what: str) -> Any:
        name = self.name()
        if name not in table:
            raise self.fail(f"there is no {what} {name!r} before this line")
        return table[name]

    def listed(self, item: Callable[[], Any]) -> list[Any]:
        self.expect("(")
        found: list[Any] = []
        while not self.take(")"):
            found.append(item())
            if not self.take(","):
                self.expect(")")
                break
        return found

    def attributes(self) -> dict[str, Any]:
        self.expect("{")
        return self.fields("}")

    def fields(self, end: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.take(end):
            key = self.kind("word")
            self.expect(":")
            found[key] = self.value()
            if not self.take(","):
                self.expect(end)
                break
        return found

    def value(self) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail("attributes are nested too deeply")
        try:
            return self._value()
        finally:
            self.depth -= 1

    def _value(self) -> Any:
        if self.peek() == "(":
            return tuple(self.listed(self.value))
        start = self.at
        kind, text = self.next()
        if kind == "string":
            return _unquote(text)
        if kind == "number":
            self.at = start
            return self.number()
        if kind == "word":
            return self.word(text)
        raise self.fail("expected a value")

    def word(self, word: str) -> Any:
        plain = {"none": None, "true": True, "false": False, "inf": math.inf, "nan": math.nan}
        if word in plain:
            return plain[word]
        if word in BY_NAME:
            return self.type(word) if self.peek() == "[" else BY_NAME[word]
        if word in ("splat", "dense", "external"):
            return self.data(word)
        if word == "region":
            return self.region()
        record = records().get(word)
        if record is None:
            raise self.fail(f"unknown word {word!r}")
        self.expect("(")
        return self.build(record, self.fields(")"))

    def type(self, word: str) -> TensorType:
        shape = self.shape()
        try:
            return TensorType(shape, word)
        except ShapeError as error:
            raise self.fail(str(error)) from error

    def number(self) -> int | float:
        text = self.kind("number")
        try:
            return _parse_number(text)
        except ValueError:  # more digits than Python converts
            raise self.fail("a number is too long") from None

    def shape(self) -> tuple[int | None, ...] | None:
        self.expect("[")
        dims: list[int | None] = []
        if self.text.startswith("...", self.at):
            self.at += 3
            self.expect("]")
            return None
        while not self.take("]"):
            size = None if self.take("?") else self.number()
            if isinstance(size, float):
                raise self.fail(f"a dimension cannot be {size}")
            dims.append(size)
            if not self.take(","):
                self.expect("]")
                break
        return tuple(dims)

    def data(self, word: str) -> Data:
        self.expect("(")
        kind = self.value()
        self.expect(",")
        content = self.value()
        self.expect(")")
        if not isinstance(kind, TensorType) or not kind.is_static:
            raise self.fail("a constant needs a static type")
        shape, wanted = kind.static_shape, kind.dtype.numpy
        try:
            if word == "splat":
                array = np.broadcast_to(_array(content, kind.dtype).reshape(()), shape)
            elif word == "dense":
                array = _array(content, kind.dtype).reshape(shape)
            else:
                array = self.external[content].view()
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise self.fail(f"a constant is missing or malformed: {error}") from error
        array.setflags(write=False)
        if array.shape != shape or array.dtype != wanted:
            raise self.fail(f"a constant is {array.dtype.name}{list(array.shape)}")
        return Data(array)


def _array(content: Any, kind: DType) -> np.ndarray:
    """Numbers as elements; two of them make a complex one."""
    if not kind.is_complex:
        return np.array(content, kind.numpy)
    return np.array(content, kind.plane.numpy).reshape(-1).view(kind.numpy)


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text[1:-1])


def _parse_number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
