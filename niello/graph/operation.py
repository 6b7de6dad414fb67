"""Operation: one node of a graph."""

from __future__ import annotations

import sys
from types import FrameType
from typing import TYPE_CHECKING

from niello.core.types import TensorType
from niello.graph.opdef import Op

if TYPE_CHECKING:
    from niello.graph.graph import GraphDefinition
    from niello.graph.tensor import Tensor


class Operation:
    """An op applied to tensors. Identity is by object; `name` is unique in its graph.

    `control_inputs` are operations that must run before this one. `where` is the user's source
    line, for error messages.
    """

    __slots__ = ("control_inputs", "graph", "inputs", "name", "number", "op", "outputs", "where")

    def __init__(
        self,
        graph: GraphDefinition,
        number: int,
        name: str,
        op: Op,
        inputs: tuple[Tensor, ...],
        types: tuple[TensorType, ...],
        control_inputs: tuple[Operation, ...],
        where: str,
    ) -> None:
        from niello.graph.structural import VariableOp
        from niello.graph.tensor import Tensor, Variable

        self.graph = graph
        self.number = number
        self.name = name
        self.op = op
        self.inputs = inputs
        self.control_inputs = control_inputs
        self.where = where
        kind = Variable if isinstance(op, VariableOp) else Tensor
        self.outputs = tuple(kind(self, i, t) for i, t in enumerate(types))

    def __repr__(self) -> str:
        results = ", ".join(str(t.type) for t in self.outputs)
        return f"<Operation {self.name!r}: {self.op.name} -> {results}>"


def user_line() -> str:
    """`file:line` of the innermost frame outside Niello, for messages."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("niello."):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
