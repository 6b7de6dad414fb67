"""Writer: collects the nodes of an ONNX graph while one of Niello is exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

import niello as nl
from niello.frontends.onnx.functions import schema_of
from niello.frontends.onnx.values import code_of

Names = str | tuple[str, ...]
Write = Callable[..., Names]
F = TypeVar("F", bound=Write)

# Names in type constraints that differ from Niello's.
ONNX_NAMES = {
    "float32": "float",
    "float64": "double",
    "float8_e4m3fn": "float8e4m3fn",
    "float8_e5m2": "float8e5m2",
}
_writers: dict[str, Write] = {}


class Unwritable(Exception):
    """An operation with settings that ONNX has no operator for; the message says which."""


def writes(*names: str) -> Callable[[F], F]:
    """Decorator: the function writes these operations of Niello. It takes the writer, the operation
    and the names of its inputs, and returns the names of its outputs."""

    def note(f: F) -> F:
        for name in names:
            if name in _writers:
                raise AssertionError(f"two writers of {name}")
            _writers[name] = f
        return f

    return note


def writer_of(name: str) -> Write | None:
    """The function that writes an operation; None when there is none."""
    from niello.frontends.onnx import writers  # noqa: F401  (registers them)

    return _writers.get(name)


def written() -> tuple[str, ...]:
    """Names of all operations with a writer."""
    writer_of("")
    return tuple(sorted(_writers))


class Writer:
    """Nodes and weights of an ONNX graph in the making, for an operator set."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.prefix = ""  # the operation that is being written
        # Writes a region, given the names of its parameters: its nodes, and names of its results.
        self.region: Callable[[Any, Sequence[str]], tuple[list[Any], list[str]]]
        self._names: set[str] = set()

    def unique(self, wanted: str) -> str:
        """`wanted`, numbered where it is taken."""
        name, count = wanted, 0
        while name in self._names:
            count += 1
            name = f"{wanted}_{count}"
        self._names.add(name)
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; its name."""
        return self.outputs(operator, inputs, 1, **attributes)[0]

    def outputs(
        self, operator: str, inputs: Sequence[str], count: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with several outputs; their names."""
        from onnx import helper

        names = [self.unique(f"{self.prefix}.{operator}") for _ in range(count)]
        kept = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(helper.make_node(operator, list(inputs), names, names[0], **kept))
        return tuple(names)

    def lacking(self, nodes: Sequence[Any], o: nl.Operation) -> str | None:
        """The first operator among `nodes` that does not take the type of the operation's first
        input, though it computes with numbers (not with truth values or indices only)."""
        if not o.inputs:
            return None
        dtype = o.inputs[0].dtype
        wanted = f"tensor({ONNX_NAMES.get(dtype.name, dtype.name)})"
        plain = "tensor(float)" if dtype.is_float else "tensor(int32)"
        for node in nodes:
            schema = schema_of("", node.op_type, self.opset)
            place = 1 if node.op_type == "Where" else 0
            allowed = schema.inputs[min(place, len(schema.inputs) - 1)].types
            numeric = plain in allowed or "tensor(float)" in allowed
            if numeric and wanted not in allowed:
                return str(node.op_type)
        return None

    def weight(self, array: Any, name: str | None = None) -> str:
        """Add an initializer; its name."""
        from onnx import numpy_helper

        unique = self.unique(name or f"{self.prefix}.constant")
        self.weights.append(numpy_helper.from_array(np.array(array, order="C"), unique))
        return unique

    def integers(self, *values: int) -> str:
        """A vector of int64."""
        return self.weight(np.array(values, np.int64))

    def like(self, value: Any, tensor: nl.Tensor) -> str:
        """A scalar with the element type of a tensor."""
        return self.weight(np.asarray(value).astype(tensor.dtype.numpy))

    def cast(self, name: str, dtype: nl.DType) -> str:
        """A tensor in another type."""
        return self.node("Cast", name, to=code_of(dtype))

    def transpose(self, name: str, order: Sequence[int]) -> str:
        """A tensor with its axes in another order, as it is where they stay."""
        plain = list(order) == list(range(len(order)))
        return name if plain else self.node("Transpose", name, perm=list(order))

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """A tensor in another shape."""
        return self.node("Reshape", name, self.integers(*shape), allowzero=1)


def static(tensor: nl.Tensor) -> tuple[int, ...]:
    """The sizes of a tensor, all of which must be known."""
    shape = tensor.shape
    if shape is None or None in shape:
        raise Unwritable(f"needs the sizes of {tensor.name}, which is {tensor.type}")
    return tuple(d for d in shape if d is not None)
