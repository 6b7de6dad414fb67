"""GraphDefinition: operations in the order they were made, with names, scopes and variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import DType
from niello.core.errors import DTypeError, GraphError, NielloError, ShapeError
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Trait
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
        self._where = ""  # the line that operations made now stand for, when not the caller's
        # The region that a user's function builds now: it takes everything that is made here.
        self._inner: GraphDefinition | None = None

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
        """Append an operation. Infers its output types; errors name the user's source line.

        While a region is built inside this graph (graph/region.py), it goes there.
        """
        line = where if where is not None else self._where or user_line()
        if self._inner is not None:
            return self._inner.add(op, inputs, name=name, control_inputs=control_inputs, where=line)
        local = []
        for t in inputs:
            try:
                local.append(self.local(t))
            except GraphError as error:
                error.asked, error.where = op.name, line
                raise
        return self._append(op, local, name, control_inputs, line)

    def _append(
        self,
        op: Op,
        inputs: Sequence[Tensor],
        name: str | None,
        control_inputs: Iterable[Operation],
        line: str,
    ) -> Operation:
        """Append an operation whose inputs are of this graph."""
        try:
            types = op.infer_all(*(t.type for t in inputs))
        except NielloError as error:
            error.where = error.where or line
            raise
        controls = dict.fromkeys(control_inputs)
        # What has no inputs is not computed, so there is nothing to order. Above all, constants are
        # shared: one made inside a scope must not carry the scope's effects to its other readers.
        if not (Trait.CREATION in op.traits and Trait.STRUCTURAL in op.traits):
            controls = dict.fromkeys(c for group in self._controls for c in group) | controls
        operation = Operation(
            self,
            len(self.operations),
            self.unique_name(op.name if name is None else name, len(types)),
            op,
            tuple(inputs),
            types,
            self._waits(controls),
            line,
        )
        self.operations.append(operation)
        return operation

    def local(self, tensor: Tensor) -> Tensor:
        """The tensor by which this graph knows a tensor: itself. A region (graph/region.py) also
        takes tensors of the graphs around it. Raises GraphError for tensors of other graphs."""
        if tensor.graph is self:
            return tensor
        raise GraphError(
            "graph",
            "an input belongs to another graph",
            received=repr(tensor),
            advice="Build the whole computation in one graph; what a branch or a loop body makes "
            "leaves it as a result",
        )

    def _waits(self, operations: Iterable[Operation]) -> tuple[Operation, ...]:
        """Control inputs of an operation of this graph, out of those that were asked for."""
        return tuple(operations)

    @property
    def innermost(self) -> GraphDefinition:
        """The region that is being built inside this graph, or the graph itself."""
        return self if self._inner is None else self._inner.innermost

    def encloses(self, graph: GraphDefinition) -> bool:
        """Whether `graph` is this graph, or a region being built inside it."""
        return graph is self or (self._inner is not None and self._inner.encloses(graph))

    def apply(
        self, op: Op, *inputs: Tensor, name: str | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Append an operation and return its output, or a tuple when it has several."""
        outputs = self.add(op, inputs, name=name).outputs
        return outputs[0] if len(outputs) == 1 else outputs

    def unique_name(self, wanted: str, outputs: int = 1) -> str:
        """`wanted` inside the current scope, with _1, _2 ... when it, or the name of one of its
        further outputs, is taken."""
        if not isinstance(wanted, str) or not wanted:
            raise GraphError(
                "name",
                "a name is a string of at least one character",
                received=repr(wanted),
                advice="Leave it out to get the name of the operation",
            )
        full = candidate = "/".join((*self._scopes, wanted))
        while any(n in self._names for n in _tensor_names(candidate, outputs)):
            self._names[full] = self._names.get(full, 0) + 1
            candidate = f"{full}_{self._names[full]}"
        self._names.update(dict.fromkeys(_tensor_names(candidate, outputs), 0))
        return candidate

    def placeholder(
        self, shape: Any = None, dtype: Any = dtypes.float32, *, name: str | None = None
    ) -> Tensor:
        """An input of the graph.

        `shape` may hold None for sizes known only at run time; a shape of None leaves the rank
        open too.
        """
        if self._inner is not None:
            raise GraphError(
                "placeholder",
                "a branch or a loop body has no placeholders of its own",
                received=repr(name),
                advice="Make it before, and use it in the function: it is captured by itself",
            )
        op = Placeholder(TensorType(shape, dtype))
        return self.add(op, name="placeholder" if name is None else name).outputs[0]

    def constant(
        self, value: Any, dtype: Any = None, *, shape: Any = None, name: str | None = None
    ) -> Tensor:
        """A tensor whose value is part of the graph: an array, nested list or number.

        `dtype` defaults to the array's own, float32 for Python floats, int32 for Python ints. With
        `shape`, a single value fills it (and takes no memory).
        """
        if self._inner is not None:
            return self._inner.constant(value, dtype, shape=shape, name=name)
        array = _constant_array("constant", value, dtype)
        kind = dtypes.dtype(array.dtype)
        if shape is not None:
            array = _spread(array, shape)
        array.setflags(write=False)
        op = Constant(Data(array), kind)
        known = self._constants.get(op) if name is None and array.size <= 64 else None
        if known is None:
            known = self.add(op, name=name).outputs[0]
            self._constants.setdefault(op, known)
        return known

    def variable(self, initial: Any, dtype: Any = None, *, name: str | None = None) -> Variable:
        """A tensor that keeps its value between runs, starting as `initial` (which is copied).

        Made while a branch or a loop body is built, it belongs to the graph around it.
        """
        array = _constant_array("variable", initial, dtype)
        unique = self.unique_name("variable" if name is None else name)
        del self._names[unique]
        op = VariableOp(TensorType(array.shape, array.dtype), unique)
        self.variable_states[unique] = VariableState(array)
        inside = len("/".join((*self._scopes, "")))
        operation = self._append(op, (), unique[inside:], (), self._where or user_line())
        return operation.outputs[0]  # type: ignore[return-value]

    def as_tensor(self, value: Any, *, dtype: DType | None = None) -> Tensor:
        """A tensor of this graph: tensors pass, arrays and numbers become constants.

        A Python number takes `dtype` when given; an array keeps its own.
        """
        if isinstance(value, Tensor):
            return value
        if isinstance(value, (bool, int, float, complex)) and dtype is not None:
            return self.constant(value, dtype)
        return self.constant(value)

    def call(
        self, symbol: str, inputs: Sequence[Any], output_types: Any, *, name: str | None = None
    ) -> list[Tensor]:
        """The results of another computation, which is named `symbol` when this graph is compiled
        (`callables=`); see niello.call."""
        from niello.graph.control_flow import Call

        given = (output_types,) if isinstance(output_types, TensorType) else tuple(output_types)
        if not isinstance(symbol, str) or not all(isinstance(t, TensorType) for t in given):
            raise GraphError(
                "call",
                "takes a name, tensors, and the types of the results",
                received=f"{symbol!r} and {output_types!r}",
                advice="Types are TensorType(shape, dtype)",
            )
        tensors = [self.as_tensor(v) for v in inputs]
        return list(self.add(Call(symbol, given), tensors, name=name).outputs)

    # --- for passes and regions
    def add_named(
        self,
        op: Op,
        inputs: Sequence[Tensor],
        name: str,
        control_inputs: Iterable[Operation],
    ) -> Operation:
        """Append an operation under a full name that was reserved for it."""
        self._names.pop(name, None)
        scopes, self._scopes = self._scopes, []
        try:
            return self.add(op, inputs, name=name, control_inputs=control_inputs)
        finally:
            self._scopes = scopes

    def reserve(self, operations: Iterable[Operation]) -> None:
        """Keep the names of another graph's operations for their copies."""
        for o in operations:
            self._names.update(dict.fromkeys(_tensor_names(o.name, len(o.outputs)), 0))

    def copy(
        self,
        operation: Operation,
        op: Op,
        inputs: Sequence[Tensor],
        control_inputs: Iterable[Operation],
    ) -> Operation:
        """Another graph's operation, under the name that was reserved for it."""
        for name in _tensor_names(operation.name, len(operation.outputs)):
            self._names.pop(name, None)
        scopes, self._scopes = self._scopes, []
        try:
            return self.add(
                op,
                inputs,
                name=operation.name,
                control_inputs=control_inputs,
                where=operation.where,
            )
        finally:
            self._scopes = scopes

    @contextmanager
    def in_place_of(self, operation: Operation) -> Iterator[None]:
        """Operations made inside are named after the one they replace, and point at its line."""
        scopes, where = self._scopes, self._where
        self._scopes, self._where = [operation.name], operation.where
        try:
            yield
        finally:
            self._scopes, self._where = scopes, where

    # --- scopes
    @contextmanager
    def name_scope(self, name: str) -> Iterator[str]:
        """Names of operations made inside start with `name/`."""
        if not name or "/" in name:
            raise GraphError("name_scope", "a scope needs a name without '/'", received=repr(name))
        if self._inner is not None:
            with self._inner.name_scope(name) as whole:
                yield whole
            return
        self._scopes.append(name)
        try:
            yield "/".join(self._scopes)
        finally:
            self._scopes.pop()

    @contextmanager
    def control_dependencies(
        self, operations: Operation | Tensor | Iterable[Operation | Tensor]
    ) -> Iterator[None]:
        """Operations made inside run after the listed ones (placeholders, constants and variables,
        which do not run, excepted)."""
        given = (operations,) if isinstance(operations, (Operation, Tensor)) else operations
        listed = tuple(o.operation if isinstance(o, Tensor) else o for o in given)
        if self._inner is not None:
            with self._inner.control_dependencies(listed):
                yield
            return
        for o in listed:
            if not isinstance(o, Operation) or not o.graph.encloses(self):
                raise GraphError(
                    "control_dependencies",
                    "takes operations and tensors of this graph",
                    received=repr(o),
                    advice="Name what must run first, such as the result of assign",
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
        raise GraphError(
            "operation",
            "there is none of this name",
            received=repr(name),
            advice=f"The graph has {', '.join(o.name for o in self.operations[:20]) or 'none'}",
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {len(self.operations)} operations>"


def _tensor_names(name: str, outputs: int) -> list[str]:
    """The name of an operation and those of its second, third ... outputs."""
    return [name, *(f"{name}:{i}" for i in range(1, outputs))]


def _constant_array(asked: str, value: Any, dtype: Any) -> np.ndarray:
    """A copy of a user's value as an array. Raises DTypeError for what the dtype cannot hold."""
    raw = _numbers(asked, value)
    kind = _default_dtype(value, raw) if dtype is None else dtypes.dtype(dtype)
    try:
        # An array is converted as asked for; a number that would change is a mistake.
        if raw.dtype.kind == "c" and not kind.is_complex:
            raise ValueError("it has an imaginary part")
        written = not isinstance(value, np.ndarray) and raw.dtype.kind == "f" and kind.is_integer
        if written and not np.array_equal(raw, np.trunc(raw)):
            raise ValueError("it has a fraction")
        return np.array(value, kind.numpy)
    except (ValueError, TypeError, OverflowError) as error:
        raise DTypeError(
            asked,
            f"the value is not one of {kind.name}: {error}",
            received=repr(value)[:80],
            advice="Give another dtype",
        ) from error


def _numbers(asked: str, value: Any) -> np.ndarray:
    try:
        raw = np.asarray(value)
    except ValueError:  # rows of different lengths
        raw = np.asarray(None)
    if raw.dtype.name not in dtypes.BY_NAME:
        raise DTypeError(
            asked,
            "the value is not a rectangular array of numbers that Niello has an element type for",
            received=f"{raw.dtype.name}: {repr(value)[:60]}",
            advice="Give a number, an array, or nested lists of equal lengths",
        )
    return raw


def _default_dtype(value: Any, raw: np.ndarray) -> DType:
    """The dtype of an array; float32 and int32 for Python's numbers and nested lists of them."""
    if isinstance(value, (float, int, complex)) or not isinstance(value, (np.ndarray, np.generic)):
        if raw.dtype == np.float64:
            return dtypes.float32
        if raw.dtype == np.int64:
            return dtypes.int32
        if raw.dtype == np.complex128:
            return dtypes.complex64
    return dtypes.dtype(raw.dtype)


def _spread(array: np.ndarray, shape: Any) -> np.ndarray:
    """A value repeated over a shape, without memory of its own where it is a single one."""
    wanted = TensorType(shape)
    if not wanted.is_static or (array.size != 1 and array.shape != wanted.shape):
        raise ShapeError(
            "constant",
            f"a value of shape {show(array.shape)} does not fill {show(wanted.shape)}",
            received=show(array.shape),
            advice="Give a single value, or one of exactly that shape",
        )
    if array.size != 1:
        return array
    try:
        return np.broadcast_to(array.reshape(()), wanted.static_shape)
    except ValueError as error:
        raise ShapeError(
            "constant",
            "no memory holds so many elements",
            received=show(wanted.shape),
            advice="Give a smaller shape",
        ) from error
