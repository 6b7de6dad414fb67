"""The ops a graph is held together by: placeholder, constant, variable, read, assign.

They have no kernels: the scheduler binds them to buffers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, DType
from niello.core.errors import DTypeError
from niello.core.records import frozen
from niello.core.shapes import merge_shapes
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, register


@register
@frozen
class Placeholder(Op):
    """An input of the graph, fed at each run."""

    type: TensorType
    name: ClassVar[str] = "placeholder"
    traits: ClassVar[Trait] = Trait.CREATION | Trait.STRUCTURAL
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "An input of the graph: a tensor of a given type, fed at each run."

    def infer(self) -> TensorType:
        return self.type

    def reference(self) -> np.ndarray:
        raise AssertionError("a placeholder has no value of its own")

    grad = not_differentiable("it has no inputs")

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return ()


class Data:
    """The bytes of a constant; equal content is equal, so constants are shared.

    A splat (one value everywhere) is kept as a zero-stride view and costs no memory.
    """

    __slots__ = ("_digest", "array")

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self._digest: str | None = None

    @property
    def is_splat(self) -> bool:
        return self.array.size <= 1 or not any(self.array.strides)

    @property
    def digest(self) -> str:
        """SHA-256 of type, shape and content."""
        if self._digest is None:
            a = self.array
            body = a.reshape(-1)[:1] if self.is_splat else np.ascontiguousarray(a)
            text = f"{a.dtype.name}{a.shape}{self.is_splat}".encode()
            self._digest = hashlib.sha256(text + body.tobytes()).hexdigest()
        return self._digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Data) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Data({self.array.dtype.name}{list(self.array.shape)}, {self.digest[:8]})"


@register
@frozen
class Constant(Op):
    """A value known when the graph is built."""

    data: Data
    dtype: DType
    name: ClassVar[str] = "constant"
    traits: ClassVar[Trait] = Trait.CREATION | Trait.STRUCTURAL
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "A tensor whose value is part of the graph."

    def infer(self) -> TensorType:
        return TensorType(self.data.array.shape, self.dtype)

    def reference(self) -> np.ndarray:
        return self.data.array

    grad = not_differentiable("it has no inputs")

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return ()


@register
@frozen
class VariableOp(Op):
    """A tensor that keeps its value between runs; its output is the value when a run starts."""

    type: TensorType
    variable: str  # unique name of the storage
    name: ClassVar[str] = "variable"
    traits: ClassVar[Trait] = Trait.CREATION | Trait.STRUCTURAL | Trait.STATEFUL
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "A tensor that keeps its value between runs, as it is when a run starts."

    def infer(self) -> TensorType:
        return self.type

    def reference(self) -> np.ndarray:
        raise AssertionError("a variable's value lives in its storage")

    grad = not_differentiable("it has no inputs")

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return ()


@register
@frozen
class ReadVariable(Op):
    """An ordered read: the value after the operations this one depends on by control.

    The input is the variable's tensor; it names the storage.
    """

    variable: str
    name: ClassVar[str] = "read_variable"
    traits: ClassVar[Trait] = Trait.STRUCTURAL | Trait.STATEFUL
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "The value of a variable after the operations this read is ordered after."

    def infer(self, variable: TensorType) -> TensorType:
        return variable

    def reference(self, variable: np.ndarray) -> np.ndarray:
        return variable

    def grad(self, gradients: Any, inputs: Any, outputs: Any) -> Any:
        return gradients

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return ()


@register
@frozen
class Assign(Op):
    """Write a variable. Inputs: the variable's tensor (names the storage) and the new value."""

    variable: str
    name: ClassVar[str] = "assign"
    traits: ClassVar[Trait] = Trait.STRUCTURAL | Trait.STATEFUL
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "Write a tensor of the same type into a variable."

    def infer(self, variable: TensorType, value: TensorType) -> tuple[TensorType, ...]:
        if variable.dtype is not value.dtype:
            raise DTypeError(
                "assign",
                f"variable {self.variable} holds {variable.dtype.name}",
                received=value.dtype.name,
                advice="Cast the value first",
            )
        merge_shapes(variable.shape, value.shape, f"assign to variable {self.variable}")
        return ()

    def reference(self, variable: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, ...]:
        return ()

    grad = not_differentiable("it has no outputs")

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return ()
