"""Call: one ONNX node with the values of its inputs, as the translations see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import niello as nl
from niello.frontends.onnx.values import EmptyOptional, Value, dtype_of, show

if TYPE_CHECKING:
    from niello.frontends.onnx.importer import Importer, Scope

# Begins the names of what is computed ahead.
AHEAD = "\0"


class Call:
    """A node being translated: attributes, and inputs as tensors, arrays or shapes.

    An input that the node leaves out is None; so are inputs beyond those it names.
    """

    def __init__(
        self,
        importer: Importer,
        node: Any,
        version: int,
        inputs: Sequence[Value | None],
        scope: Scope,
    ) -> None:
        self.importer = importer
        self.node = node
        self.version = version
        self.inputs = list(inputs)
        self.scope = scope
        self.attributes = {a.name: a for a in node.attribute}

    # --- the node
    @property
    def operator(self) -> str:
        """The operator's name."""
        return self.node.op_type  # type: ignore[no-any-return]

    @property
    def graph(self) -> nl.Graph:
        """The graph that the translation adds to."""
        return self.importer.graph

    @property
    def outputs(self) -> list[str]:
        """Names of the node's outputs; empty ones are not wanted."""
        return list(self.node.output)

    def wants(self, output: int) -> bool:
        """Whether the node names that output."""
        return output < len(self.node.output) and bool(self.node.output[output])

    def refuse(self, problem: str, received: Any = None, advice: str = "") -> nl.errors.NielloError:
        """The error for this node, to be raised."""
        return nl.errors.FrontendError(
            self.importer.describe(self.node),
            problem,
            received=received,
            advice=advice,
            node=self.node.name,
            operator=self.operator,
        )

    # --- inputs
    def has(self, i: int) -> bool:
        """Whether the node has an input number i."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def value(self, i: int) -> Value:
        """Input i, which must be there."""
        found = self.inputs[i] if i < len(self.inputs) else None
        if found is None:
            raise self.refuse(
                f"needs input {i}", f"{len(self.inputs)} inputs", "The model is not valid ONNX"
            )
        return found

    def tensor(self, i: int) -> nl.Tensor:
        """Input i as a tensor of the graph."""
        return self.importer.tensor(self.value(i), self)

    def optional(self, i: int) -> nl.Tensor | None:
        """Input i as a tensor, or None where the node leaves it out."""
        return self.tensor(i) if self.has(i) else None

    def tensors(self) -> list[nl.Tensor]:
        """All inputs as tensors."""
        return [self.tensor(i) for i in range(len(self.inputs))]

    def array(self, i: int) -> np.ndarray:
        """The value of input i, which must be known while importing.

        Where it depends on inputs of the model, their values are asked for.
        """
        return self.importer.demanded(self.value(i), self)

    def known_ints(self, i: int) -> list[int]:
        """The value of an integer input as a list."""
        return [int(v) for v in self.array(i).reshape(-1)]

    def sequence(self, i: int) -> list[Any]:
        """Input i, which must be a sequence."""
        found = self.value(i)
        if not isinstance(found, list):
            raise self.refuse(f"input {i} must be a sequence", show(found))
        return found

    def shape(self, i: int) -> tuple[int, ...]:
        """The sizes of input i, which must be known."""
        return self.sizes(self.value(i))

    def sizes(self, value: Value) -> tuple[int, ...]:
        """The sizes of a value, which must be known while importing."""
        if isinstance(value, np.ndarray):
            return value.shape
        if not isinstance(value, nl.Tensor):
            raise self.refuse("needs a tensor", show(value))
        found = value.shape
        if found is None or None in found:
            raise self.refuse(
                "needs the sizes of its input, and some have no value yet",
                repr(value.type),
                "Give the model's input sizes: load(..., inputs={name: shape}), or run it",
            )
        return tuple(d for d in found if d is not None)

    def spatial(self, value: Value) -> tuple[int, ...]:
        """The sizes of a value [N, C, ...] from the third axis on; the first two may be open."""
        found = getattr(value, "shape", None)
        if isinstance(value, nl.Tensor) and found is not None and None not in found[2:]:
            return tuple(d for d in found[2:] if d is not None)
        return self.sizes(value)[2:]

    def rank(self, i: int) -> int:
        """The number of dimensions of input i."""
        found = self.value(i)
        shape = getattr(found, "shape", None)
        if shape is None or isinstance(found, (list, EmptyOptional)):
            raise self.refuse(f"needs the rank of input {i}", show(found))
        return len(shape)

    def dtype(self, i: int) -> nl.DType:
        """The element type of input i."""
        found = self.value(i)
        if isinstance(found, nl.Tensor):
            return found.dtype
        return self.tensor(i).dtype

    # --- attributes
    def has_attribute(self, name: str) -> bool:
        """Whether the node states the attribute."""
        return name in self.attributes

    def _attribute(self, name: str, default: Any, field: str) -> Any:
        found = self.attributes.get(name)
        if found is not None:
            return getattr(found, field)
        if default is ...:
            raise self.refuse(
                f"the attribute {name!r} is missing", advice="The model is not valid ONNX"
            )
        return default

    def integer(self, name: str, default: Any = ...) -> Any:
        """An integer attribute."""
        return self._attribute(name, default, "i")

    def real(self, name: str, default: Any = ...) -> Any:
        """A float attribute."""
        return self._attribute(name, default, "f")

    def text(self, name: str, default: Any = ...) -> Any:
        """A string attribute."""
        found = self._attribute(name, default, "s")
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else found

    def texts(self, name: str, default: Any = ...) -> Any:
        """An attribute that is a list of strings."""
        found = self._attribute(name, default, "strings")
        return None if found is None else [s.decode() if isinstance(s, bytes) else s for s in found]

    def ints(self, name: str, default: Any = ...) -> Any:
        """An attribute that is a list of integers."""
        found = self._attribute(name, default, "ints")
        return None if found is None else list(found)

    def floats(self, name: str, default: Any = ...) -> Any:
        """An attribute that is a list of floats."""
        found = self._attribute(name, default, "floats")
        return None if found is None else list(found)

    def array_attribute(self, name: str) -> np.ndarray:
        """An attribute that is a tensor."""
        return self.importer.proto_array(self._attribute(name, ..., "t"), self)

    def body(self, name: str) -> Any:
        """An attribute that is a graph."""
        return self._attribute(name, ..., "g")

    def dtype_attribute(self, name: str, default: nl.DType | None = None) -> nl.DType:
        """An attribute that names an element type."""
        code = self._attribute(name, ... if default is None else 0, "i")
        if not code and default is not None:
            return default
        return dtype_of(code)

    # --- what a graph computed ahead of a node that runs on the host
    def ahead_name(self, name: str) -> str:
        """The name, which no value of a model has, of something that was computed ahead."""
        return f"{AHEAD}{self.node.output[0]}/{name}"

    def ahead(self, name: str) -> np.ndarray | None:
        """What was computed ahead, or None."""
        found = self.scope.find(self.ahead_name(name))
        return found if isinstance(found, np.ndarray) else None

    # --- results
    def expanded(self) -> Any:
        """The node by the operators that ONNX defines it with."""
        return tuple(self.importer.expanded(self))

    def constant(self, value: Any, dtype: Any = None) -> nl.Tensor:
        """A constant of the graph."""
        return self.graph.constant(value, dtype)

    def like(self, value: Any, i: int = 0) -> nl.Tensor:
        """A constant with the element type of input i."""
        return self.graph.constant(np.asarray(value).astype(self.dtype(i).numpy))
