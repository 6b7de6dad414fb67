"""Call: a layer or operator being translated, with the values of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.builder import Builder, Unknown, Value, show
from niello.frontends.coreml.weights import weights


class Call:
    """What layers and operators have in common: a title for errors, and values."""

    def __init__(self, builder: Builder, title: str) -> None:
        self.builder = builder
        self.title = title

    @property
    def graph(self) -> nl.Graph:
        """The graph that the translation adds to."""
        return self.builder.graph

    def refuse(self, problem: str, received: Any = None, advice: str = "") -> nl.errors.NielloError:
        """The error for this layer, to be raised."""
        return nl.errors.FrontendError(self.title, problem, received=received, advice=advice)

    def constant(self, value: Any, dtype: Any = None) -> nl.Tensor:
        """An array as a constant of the graph."""
        array = np.asarray(value, dtype)
        return self.builder.tensor(array)

    def known(self, value: Value) -> np.ndarray:
        """A value that must be known while importing."""
        try:
            return self.builder.array(value)
        except Unknown:
            raise self.refuse(
                "an input that decides a shape or setting depends on what is fed",
                show(value),
                "Make it a constant in the model",
            ) from None

    def sizes(self, value: Value) -> tuple[int, ...]:
        """The sizes of a value."""
        found = value.shape
        if found is None or None in found:
            raise self.refuse(
                "needs the sizes of its input, and some are open",
                show(value),
                "Give the model's input sizes: load(..., inputs={name: shape})",
            )
        return tuple(int(d) for d in found)


class Layer(Call):
    """A layer of a neural network; `p` holds its parameters. Values are float32."""

    def __init__(self, builder: Builder, message: Any, inputs: Sequence[Value], network: Any):
        self.kind = message.WhichOneof("layer")
        super().__init__(builder, f"Core ML {self.kind} layer {message.name!r}")
        self.message = message
        self.p = getattr(message, self.kind)
        self.inputs = list(inputs)
        self.network = network
        self.scope: dict[str, Value] = {}
        self.rest: Sequence[Any] = ()  # the layers behind this one
        self.stopped = False  # whether those are not to be translated

    def value(self, i: int = 0) -> Value:
        """Input i, which must be there."""
        if i >= len(self.inputs):
            raise self.refuse(f"needs input {i}", f"{len(self.inputs)} inputs", "The file is wrong")
        return self.inputs[i]

    def tensor(self, i: int = 0) -> nl.Tensor:
        """Input i as a tensor."""
        return self.builder.tensor(self.value(i))

    def tensors(self) -> list[nl.Tensor]:
        """All inputs as tensors."""
        return [self.tensor(i) for i in range(len(self.inputs))]

    def shape(self, i: int = 0) -> tuple[int, ...]:
        """The sizes of input i."""
        return self.sizes(self.value(i))

    def rank(self, i: int = 0) -> int:
        """The number of axes of input i."""
        return len(self.shape(i))

    def ints(self, i: int) -> list[int]:
        """The known value of input i as integers."""
        return [int(v) for v in self.known(self.value(i)).reshape(-1)]

    def indices(self, i: int) -> nl.Tensor:
        """Input i, which holds indices as floats, as integers."""
        return nl.cast(self.tensor(i), nl.int32)

    def axis(self, number: int, rank: int | None = None) -> int:
        """An axis counted from the front, checked."""
        rank = self.rank() if rank is None else rank
        if not -rank <= number < rank:
            raise self.refuse(f"the axis is one of {rank}", number)
        return number % rank

    def weights(self, params: Any, *shape: int) -> nl.Tensor:
        """Weights as a constant of that shape."""
        try:
            return self.constant(weights(params, shape))
        except nl.errors.FrontendError as error:
            raise self.refuse(error.problem, error.received, error.advice) from None

    def images(self, i: int = 0) -> nl.Tensor:
        """Input i as [batch, channels, height, width]; of rank five, sequence and batch in one."""
        shape = self.shape(i)
        x = self.tensor(i)
        if len(shape) == 4:
            return x
        if len(shape) < 3:
            raise self.refuse("takes an input of at least three axes", list(shape))
        return nl.reshape(x, (int(np.prod(shape[:-3])), *shape[-3:]))

    def like(self, y: nl.Tensor, i: int = 0) -> nl.Tensor:
        """An image result with the leading axes of input i."""
        lead = self.shape(i)[:-3]
        if len(lead) == 1:
            return y
        return nl.reshape(y, (*lead, *self.sizes(y)[1:]))
