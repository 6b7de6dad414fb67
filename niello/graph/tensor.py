"""Tensor: a named result of an operation. Variable: one that keeps its value between runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from niello.core.dtypes import DType
from niello.core.errors import DTypeError, GraphError, ShapeError
from niello.core.shapes import Shape, show
from niello.core.types import TensorType
from niello.graph import opdef

if TYPE_CHECKING:
    from niello.graph.graph import GraphDefinition
    from niello.graph.operation import Operation


def _call(name: str, *args: Any, **keywords: Any) -> Any:
    return opdef.functions()[name](*args, **keywords)


class Tensor:
    """A value in a graph: dtype, shape (None for unknown sizes) and the operation it comes from.

    Arithmetic and comparison operators, indexing with integers and slices, and every function of
    Niello whose first argument is a tensor are available as methods: `x.relu().sum(axes=-1)`.
    """

    __slots__ = ("index", "operation", "type")
    __array_ufunc__ = None  # NumPy arrays on the left defer to our operators

    def __init__(self, operation: Operation, index: int, type: TensorType) -> None:
        self.operation = operation
        self.index = index
        self.type = type

    @property
    def graph(self) -> GraphDefinition:
        """The graph that the tensor belongs to."""
        return self.operation.graph

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.type.dtype

    @property
    def shape(self) -> Shape | None:
        """Sizes, None where unknown; None when even the rank is unknown."""
        return self.type.shape

    @property
    def rank(self) -> int | None:
        """Number of dimensions, or None when unknown."""
        return self.type.rank

    @property
    def name(self) -> str:
        """Unique in the graph: the operation's name, with `:1`, `:2` for further outputs."""
        base = self.operation.name
        return base if self.index == 0 else f"{base}:{self.index}"

    def __repr__(self) -> str:
        return f"<Tensor {self.name!r}: {self.dtype.name}{show(self.shape)}>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = opdef.methods().get(name)
        if method is None:
            raise AttributeError(f"a Tensor has no attribute or operation {name!r}")
        return lambda *args, **keywords: method(self, *args, **keywords)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *opdef.methods()})

    def __bool__(self) -> bool:
        raise GraphError(
            "truth value of a tensor",
            "a tensor has no value while the graph is built",
            received=repr(self),
            advice="Use niello.select, or run the graph first",
        )

    def __array__(self, *args: Any, **keywords: Any) -> np.ndarray:
        raise GraphError(
            "numpy.asarray of a tensor",
            "a tensor has no value while the graph is built",
            received=repr(self),
            advice="Run the graph and convert the result",
        )

    def __len__(self) -> int:
        if self.shape is None or not self.shape or self.shape[0] is None:
            raise ShapeError("len", "the first dimension is not known", received=show(self.shape))
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Tensor:
        return _call("index", self, key)  # type: ignore[no-any-return]

    def __add__(self, other: Any) -> Tensor:
        return _call("add", self, other)  # type: ignore[no-any-return]

    def __radd__(self, other: Any) -> Tensor:
        return _call("add", other, self)  # type: ignore[no-any-return]

    def __sub__(self, other: Any) -> Tensor:
        return _call("subtract", self, other)  # type: ignore[no-any-return]

    def __rsub__(self, other: Any) -> Tensor:
        return _call("subtract", other, self)  # type: ignore[no-any-return]

    def __mul__(self, other: Any) -> Tensor:
        return _call("multiply", self, other)  # type: ignore[no-any-return]

    def __rmul__(self, other: Any) -> Tensor:
        return _call("multiply", other, self)  # type: ignore[no-any-return]

    def __truediv__(self, other: Any) -> Tensor:
        return _call("divide", self, other)  # type: ignore[no-any-return]

    def __rtruediv__(self, other: Any) -> Tensor:
        return _call("divide", other, self)  # type: ignore[no-any-return]

    def __floordiv__(self, other: Any) -> Tensor:
        return _call("floor_divide", self, other)  # type: ignore[no-any-return]

    def __rfloordiv__(self, other: Any) -> Tensor:
        return _call("floor_divide", other, self)  # type: ignore[no-any-return]

    def __mod__(self, other: Any) -> Tensor:
        return _call("floor_modulo", self, other)  # type: ignore[no-any-return]

    def __rmod__(self, other: Any) -> Tensor:
        return _call("floor_modulo", other, self)  # type: ignore[no-any-return]

    def __pow__(self, other: Any) -> Tensor:
        return _call("power", self, other)  # type: ignore[no-any-return]

    def __rpow__(self, other: Any) -> Tensor:
        return _call("power", other, self)  # type: ignore[no-any-return]

    def __matmul__(self, other: Any) -> Tensor:
        return _call("matmul", self, other)  # type: ignore[no-any-return]

    def __rmatmul__(self, other: Any) -> Tensor:
        return _call("matmul", other, self)  # type: ignore[no-any-return]

    def __neg__(self) -> Tensor:
        return _call("negative", self)  # type: ignore[no-any-return]

    def __abs__(self) -> Tensor:
        return _call("absolute", self)  # type: ignore[no-any-return]

    def __invert__(self) -> Tensor:
        name = "logical_not" if self.dtype.kind == "bool" else "bitwise_not"
        return _call(name, self)  # type: ignore[no-any-return]

    def _bits(self, word: str, other: Any, swap: bool = False) -> Tensor:
        name = f"logical_{word}" if self.dtype.kind == "bool" else f"bitwise_{word}"
        return _call(name, other, self) if swap else _call(name, self, other)  # type: ignore[no-any-return]

    def __and__(self, other: Any) -> Tensor:
        return self._bits("and", other)

    def __rand__(self, other: Any) -> Tensor:
        return self._bits("and", other, True)

    def __or__(self, other: Any) -> Tensor:
        return self._bits("or", other)

    def __ror__(self, other: Any) -> Tensor:
        return self._bits("or", other, True)

    def __xor__(self, other: Any) -> Tensor:
        return self._bits("xor", other)

    def __rxor__(self, other: Any) -> Tensor:
        return self._bits("xor", other, True)

    def __lshift__(self, other: Any) -> Tensor:
        return _call("bitwise_left_shift", self, other)  # type: ignore[no-any-return]

    def __rshift__(self, other: Any) -> Tensor:
        return _call("bitwise_right_shift", self, other)  # type: ignore[no-any-return]

    def __lt__(self, other: Any) -> Tensor:
        return _call("less", self, other)  # type: ignore[no-any-return]

    def __le__(self, other: Any) -> Tensor:
        return _call("less_equal", self, other)  # type: ignore[no-any-return]

    def __gt__(self, other: Any) -> Tensor:
        return _call("greater", self, other)  # type: ignore[no-any-return]

    def __ge__(self, other: Any) -> Tensor:
        return _call("greater_equal", self, other)  # type: ignore[no-any-return]

    # Tensors are dictionary keys (feeds, gradients), so == and != keep Python's identity;
    # `niello.equal(a, b)` and `a.equal(b)` compare elements.


class VariableState:
    """The storage of a variable. `lock` is held while a run reads or writes it.

    `array` is host memory, 64-byte aligned, updated in place by devices that see it. Other devices
    keep their own copy in `remote` (an object with `device`, `buffer` and `to_numpy()`); while it
    is set, it is the truth.
    """

    __slots__ = ("array", "lock", "remote")

    def __init__(self, array: np.ndarray) -> None:
        self.array = aligned_copy(array)
        self.remote: Any = None
        self.lock = threading.RLock()

    @classmethod
    def zeros(cls, type: TensorType) -> VariableState:
        """Storage that holds zeros, and takes memory only when it is written."""
        state = cls(np.empty(0, type.dtype.numpy))
        raw = np.zeros(type.bytes + ALIGNMENT, np.uint8)
        state.array = _aligned(raw, type.bytes).view(type.dtype.numpy).reshape(type.static_shape)
        return state

    def read(self) -> np.ndarray:
        """A copy of the current value."""
        with self.lock:
            if self.remote is not None:
                return self.remote.to_numpy()  # type: ignore[no-any-return]
            return self.array.copy()

    def write(self, value: np.ndarray) -> None:
        with self.lock:
            self.remote = None
            self.array[...] = value

    def to_host(self) -> np.ndarray:
        """The host memory, made current. Hold `lock` while using it."""
        if self.remote is not None:
            self.array[...] = self.remote.to_numpy()
            self.remote = None
        return self.array


ALIGNMENT = 64


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A contiguous copy that starts on a multiple of ALIGNMENT bytes."""
    raw = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    out = _aligned(raw, array.nbytes).view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


def _aligned(raw: np.ndarray, size: int) -> np.ndarray:
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


class Variable(Tensor):
    """A tensor that keeps its value between runs.

    Used as an operand it stands for its value when a run starts. `read()` is an ordered read,
    `assign(t)` an ordered write, `value` the current value as a NumPy array, settable at any time.
    """

    __slots__ = ()

    @property
    def state(self) -> VariableState:
        """The storage."""
        return self.graph.variable_states[self.operation.op.variable]  # type: ignore[attr-defined,no-any-return]

    @property
    def value(self) -> np.ndarray:
        """The current value (a copy). Set it with an array of the same shape."""
        return self.state.read()

    @value.setter
    def value(self, new: Any) -> None:
        try:
            array = np.asarray(new)
        except ValueError:  # rows of different lengths
            array = np.asarray(None)
        if array.shape != self.type.static_shape:
            raise ShapeError(
                f"variable {self.name}",
                f"has shape {show(self.shape)}",
                received=show(array.shape),
                advice="Give an array of the same shape",
            )
        if not np.can_cast(array.dtype, self.dtype.numpy, "same_kind"):
            raise DTypeError(
                f"variable {self.name}",
                f"holds {self.dtype.name}",
                received=array.dtype.name,
                advice="Convert the array first",
            )
        self.state.write(array)

    def read(self, *, name: str | None = None) -> Tensor:
        """The value after everything this read is ordered after (see control_dependencies)."""
        from niello.graph.structural import ReadVariable

        op = ReadVariable(self.operation.op.variable)  # type: ignore[attr-defined]
        return self.graph.apply(op, self, name=name)  # type: ignore[return-value]

    def assign(self, value: Any, *, name: str | None = None) -> Operation:
        """Write `value` when a run reaches this operation; returns the operation, for
        `target_operations`."""
        from niello.graph.structural import Assign

        new = self.graph.as_tensor(value, dtype=self.dtype)
        op = Assign(self.operation.op.variable)  # type: ignore[attr-defined]
        return self.graph.add(op, (self, new), name=name)
