"""GraphDefinition: operations in the order they were made, with names, scopes and variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import DType
from niello.core.errors import DTypeError, GraphError, NielloError
from niello.core.types import TensorType
from niello.graph.opdef import Op
from niello.graph.operation import Operation, user_line
from niello.graph.structural import Constant, Data, Placeholder, VariableOp
from niello.graph.tensor import Tensor, Variable, VariableState


class GraphDefinition:
    """An append-only list of operations. Passes read one and build another."""

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.operations: list[Operation] = []
        self.variable_states: dict[str, VariableState] = {}
        self._names: dict[str, int] = {}
        self._scopes: list[str] = []
        self._controls: list[tuple[Operation, ...]] = []
        self._constants: dict[Constant, Tensor] = {}

    # --- building
    def add(
        self,
        op: Op,
        inputs: Sequence[Tensor] = (),
        *,
        name: str | None = None,
        control_inputs: Iterable[Operation] = (),
        where: str | None = None,
    ) -> Operation:
        """Append an operation. Infers its output types; errors name the user's source line."""
        line = user_line() if where is None else where
        for t in inputs:
            if t.graph is not self:
                raise GraphError(
                    op.name,
                    "an input belongs to another graph",
                    received=repr(t),
                    advice="Build the whole computation in one graph",
                    where=line,
                )
        try:
            types = op.infer_all(*(t.type for t in inputs))
        except NielloError as error:
            error.where = error.where or line
            raise
        controls = dict.fromkeys(c for group in self._controls for c in group)
        controls.update(dict.fromkeys(control_inputs))
        operation = Operation(
            self,
            len(self.operations),
            self.unique_name(op.name if name is None else name),
            op,
            tuple(inputs),
            types,
            tuple(controls),
            line,
        )
        self.operations.append(operation)
        return operation

    def apply(
        self, op: Op, *inputs: Tensor, name: str | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Append an operation and return its output, or a tuple when it has several."""
        outputs = self.add(op, inputs, name=name).outputs
        return outputs[0] if len(outputs) == 1 else outputs

    def unique_name(self, wanted: str) -> str:
        """`wanted` inside the current scope, with _1, _2 ... when it is taken."""
        full = "/".join((*self._scopes, wanted))
        if full not in self._names:
            self._names[full] = 0
            return full
        while True:
            self._names[full] += 1
            candidate = f"{full}_{self._names[full]}"
            if candidate not in self._names:
                self._names[candidate] = 0
                return candidate

    def placeholder(
        self, shape: Any = None, dtype: Any = dtypes.float32, *, name: str | None = None
    ) -> Tensor:
        """An input of the graph.

        `shape` may hold None for sizes known only at run time; a shape of None leaves the rank
        open too.
        """
        op = Placeholder(TensorType(shape, dtype))
        return self.add(op, name="placeholder" if name is None else name).outputs[0]

    def constant(
        self, value: Any, dtype: Any = None, *, shape: Any = None, name: str | None = None
    ) -> Tensor:
        """A tensor whose value is part of the graph: an array, nested list or number.

        `dtype` defaults to the array's own, float32 for Python floats, int32 for Python ints. With
        `shape`, a single value fills it (and takes no memory).
        """
        kind = _constant_dtype(value, dtype)
        array = np.asarray(value, kind.numpy)
        if shape is not None:
            target = TensorType(shape, kind).static_shape
            array = np.broadcast_to(array, target)
        else:
            array = np.array(array, kind.numpy)
        array.setflags(write=False)
        op = Constant(Data(array), kind)
        known = self._constants.get(op) if name is None and array.size <= 64 else None
        if known is None:
            known = self.add(op, name=name).outputs[0]
            self._constants.setdefault(op, known)
        return known

    def variable(
        self, initial: Any, dtype: Any = None, *, name: str | None = None
    ) -> Variable:
        """A tensor that keeps its value between runs, starting as `initial` (which is copied)."""
        kind = _constant_dtype(initial, dtype)
        array = np.asarray(initial, kind.numpy)
        unique = self.unique_name("variable" if name is None else name)
        del self._names[unique]
        op = VariableOp(TensorType(array.shape, kind), unique)
        self.variable_states[unique] = VariableState(array)
        wanted = unique.rsplit("/", 1)[-1]
        operation = self.add(op, name=wanted)
        return operation.outputs[0]  # type: ignore[return-value]

    def as_tensor(self, value: Any, *, dtype: DType | None = None) -> Tensor:
        """A tensor of this graph: tensors pass, arrays and numbers become constants.

        A Python number takes `dtype` when given; an array keeps its own.
        """
        if isinstance(value, Tensor):
            return value
        if isinstance(value, (bool, int, float)) and dtype is not None:
            return self.constant(value, dtype)
        return self.constant(value)

    # --- scopes
    @contextmanager
    def name_scope(self, name: str) -> Iterator[str]:
        """Names of operations made inside start with `name/`."""
        if not name or "/" in name:
            raise GraphError("name_scope", "a scope needs a name without '/'", received=repr(name))
        self._scopes.append(name)
        try:
            yield "/".join(self._scopes)
        finally:
            self._scopes.pop()

    @contextmanager
    def control_dependencies(self, operations: Iterable[Operation | Tensor]) -> Iterator[None]:
        """Operations made inside run after the listed ones."""
        listed = tuple(o.operation if isinstance(o, Tensor) else o for o in operations)
        for o in listed:
            if o.graph is not self:
                raise GraphError(
                    "control_dependencies", "an operation belongs to another graph", received=repr(o)
                )
        self._controls.append(listed)
        try:
            yield
        finally:
            self._controls.pop()

    # --- reading
    @property
    def placeholders(self) -> tuple[Tensor, ...]:
        """Inputs in the order they were made."""
        return tuple(o.outputs[0] for o in self.operations if isinstance(o.op, Placeholder))

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Variables in the order they were made."""
        return tuple(
            o.outputs[0]  # type: ignore[misc]
            for o in self.operations
            if isinstance(o.op, VariableOp)
        )

    def operation(self, name: str) -> Operation:
        """The operation of that name. Raises GraphError when there is none."""
        for o in self.operations:
            if o.name == name:
                return o
        raise GraphError("operation", "there is none of this name", received=repr(name))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {len(self.operations)} operations>"


def _constant_dtype(value: Any, dtype: Any) -> DType:
    if dtype is not None:
        return dtypes.dtype(dtype)
    if isinstance(value, bool):
        return dtypes.bool_
    if isinstance(value, int):
        return dtypes.int32
    if isinstance(value, float):
        return dtypes.float32
    array = np.asarray(value)
    if array.dtype == object:
        raise DTypeError("constant", "the value is not a rectangular array of numbers",
                         received=type(value).__name__)
    if not isinstance(value, (np.ndarray, np.generic)):
        # Nested lists of Python numbers follow the rule of plain numbers.
        if array.dtype == np.float64:
            return dtypes.float32
        if array.dtype == np.int64:
            return dtypes.int32
    return dtypes.dtype(array.dtype)
