"""Op: an operator of an ML program being translated, with its inputs by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.builder import Builder, Value, show
from niello.frontends.coreml.call import Call


class Op(Call):
    """An operator; inputs are arrays, tensors, text, or tuples of those."""

    def __init__(
        self,
        builder: Builder,
        message: Any,
        inputs: Mapping[str, Value],
        program: Any,
        scope: dict[str, Value],
    ) -> None:
        self.kind = str(message.type)
        self.name = str(message.outputs[0].name) if message.outputs else ""
        super().__init__(builder, f"Core ML {self.kind} operator {self.name!r}")
        self.message = message
        self.inputs = dict(inputs)
        self.program = program
        self.scope = scope

    def has(self, name: str) -> bool:
        """Whether the input is given."""
        return self.inputs.get(name) is not None

    def value(self, name: str = "x") -> Value:
        """An input, which must be there."""
        if not self.has(name):
            raise self.refuse(f"needs an input {name!r}", ", ".join(self.inputs) or "none")
        return self.inputs[name]

    def tensor(self, name: str = "x") -> nl.Tensor:
        """An input as a tensor."""
        found = self.value(name)
        if isinstance(found, tuple) and len(found) == 1:
            found = found[0]
        if not isinstance(found, (nl.Tensor, np.ndarray)):
            raise self.refuse(f"the input {name!r} is a tensor", show(found))
        return self.builder.tensor(found)

    def optional(self, name: str) -> nl.Tensor | None:
        """An input as a tensor, or None."""
        return self.tensor(name) if self.has(name) else None

    def tensors(self, name: str) -> list[nl.Tensor]:
        """A list of inputs."""
        found = self.value(name)
        return [self.builder.tensor(v) for v in (found if isinstance(found, tuple) else (found,))]

    def shape(self, name: str = "x") -> tuple[int, ...]:
        """The sizes of an input."""
        return self.sizes(self.value(name))

    def rank(self, name: str = "x") -> int:
        """The number of axes of an input."""
        return len(self.shape(name))

    def array(self, name: str) -> np.ndarray:
        """An input that must be known while importing."""
        found = self.value(name)
        if isinstance(found, tuple):
            return np.stack([self.known(v) for v in found])
        return self.known(found)

    def ints(self, name: str, default: Any = None) -> list[int]:
        """A known input as integers, or the default."""
        if not self.has(name):
            return list(default)
        return [int(v) for v in self.array(name).reshape(-1)]

    def integer(self, name: str, default: int = 0) -> int:
        """A known integer, or the default."""
        return int(self.array(name).reshape(())) if self.has(name) else default

    def real(self, name: str, default: float = 0.0) -> float:
        """A known number, or the default."""
        return float(self.array(name).reshape(())) if self.has(name) else default

    def flag(self, name: str, default: bool = False) -> bool:
        """A known truth value, or the default."""
        return bool(self.array(name).reshape(())) if self.has(name) else default

    def text(self, name: str, default: str = "") -> str:
        """A text, or the default."""
        found = self.inputs.get(name)
        if found is None:
            return default
        if not isinstance(found, str):
            raise self.refuse(f"the input {name!r} is text", show(found))
        return found

    def flags(self, name: str, count: int) -> list[bool]:
        """Known truth values, or False for each of `count`."""
        return (
            [bool(v) for v in self.array(name).reshape(-1)] if self.has(name) else [False] * count
        )

    def axis(self, name: str = "axis", default: int = -1, rank: int | None = None) -> int:
        """An axis counted from the front, checked."""
        rank = self.rank() if rank is None else rank
        number = self.integer(name, default)
        if not -rank <= number < rank:
            raise self.refuse(f"the axis is one of {rank}", number)
        return number % rank

    def number(self, value: float, like: nl.Tensor) -> nl.Tensor:
        """A number of the same element type."""
        return self.constant(np.asarray(value).astype(like.dtype.numpy))
