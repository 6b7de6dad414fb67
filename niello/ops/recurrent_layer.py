"""A recurrent layer as one operation, beside the loop that it is: what a vendor library runs.

The functions of `recurrent.py` build a loop over time, from which gradients are made. Where the
layer is one that libraries know, its results pass through this operation: it takes them as its last
inputs, and stands for them where a library runs the layer itself. Everywhere else it vanishes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType, float32, float64
from niello.core.errors import NotDifferentiable
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, functions, register
from niello.graph.tensor import Tensor
from niello.ops.define import check_dtype

Array = np.ndarray
GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}


@register
@frozen
class RecurrentLayer(Op):
    """Inputs: source [time, batch, features], recurrent weight, input weight, those named in
    `given`, and where it is `expanded` the layer's states and, of an LSTM, cells.

    Gates lie in the order of `nl.lstm` and `nl.gru` (reset_after); "tanh" and "relu" are the single
    gate of `nl.rnn`.
    """

    cell: str
    given: tuple[str, ...]
    bidirectional: bool
    reset_gate_first: bool
    expanded: bool
    name: ClassVar[str] = "recurrent_layer"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "States, and of an LSTM cells, [time, batch, hidden] of a recurrent layer (single gate, "
        "LSTM or GRU, as cuDNN has them)."
    )

    @property
    def results(self) -> int:
        """How many tensors the layer has as results."""
        return 2 if self.cell == "lstm" else 1

    def bare(self) -> tuple[Op, int] | None:
        if not self.expanded:
            return None
        op = RecurrentLayer(self.cell, self.given, self.bidirectional, self.reset_gate_first, False)
        return op, self.results

    def infer(self, source: TensorType, recurrent: TensorType, *rest: TensorType) -> Any:
        for t in (recurrent, *rest):
            check_dtype(self.name, t.dtype, (source.dtype,))
        check_dtype(self.name, source.dtype, self.dtypes)
        if self.expanded:
            return tuple(rest[-self.results :])
        lead = (None, None) if source.shape is None else source.shape[:2]
        hidden = None if recurrent.shape is None else recurrent.shape[-1]
        width = None if hidden is None else hidden * (2 if self.bidirectional else 1)
        return (TensorType((*lead, width), source.dtype),) * self.results

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        if self.expanded:
            return tuple(arrays[-self.results :])
        wide = [a.astype(np.float64) for a in arrays]
        named = dict(zip(self.given, wide[3:], strict=True))
        found = [self._direction(wide, named, d) for d in range(2 if self.bidirectional else 1)]
        return tuple(
            np.concatenate(parts, -1).astype(arrays[0].dtype) for parts in zip(*found, strict=True)
        )

    def _direction(self, wide: list[Array], named: dict[str, Array], d: int) -> tuple[Array, ...]:
        source, recurrent, weight = wide[:3]
        r = recurrent[d] if self.bidirectional else recurrent
        hidden, count = r.shape[-1], GATES[self.cell]

        def part(x: Array, width: int) -> Array:
            return x[..., d * width : (d + 1) * width]

        zeros = np.zeros((source.shape[1], hidden))
        h, c = (
            part(named[n], hidden) if n in named else zeros
            for n in ("initial_state", "initial_cell")
        )
        x = source @ part(weight.T, count * hidden)
        if "bias" in named:
            x = x + part(named["bias"], count * hidden)
        second = part(named["secondary_bias"], hidden) if "secondary_bias" in named else 0.0
        times = range(len(source))
        states, cells = np.zeros((2, *source.shape[:2], hidden))
        for t in reversed(times) if d else times:
            h, c = self._step(x[t], h @ r.T, second, h, c)
            states[t], cells[t] = h, c
        return (states, cells)[: self.results]

    def _step(self, x: Array, y: Array, second: Any, h: Array, c: Array) -> tuple[Array, Array]:
        def sigmoid(v: Array) -> Array:
            return 1.0 / (1.0 + np.exp(-v))

        if self.cell == "lstm":
            i, f, z, o = np.split(x + y, 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(z)
            return sigmoid(o) * np.tanh(c), c
        if self.cell == "gru":
            (a, b, m), (ya, yb, ym) = np.split(x, 3, axis=-1), np.split(y, 3, axis=-1)
            gates = sigmoid(a + ya), sigmoid(b + yb)
            z, reset = gates[::-1] if self.reset_gate_first else gates
            candidate = np.tanh(m + reset * (ym + second))
            return candidate + z * (h - candidate), c
        return (np.tanh(x + y) if self.cell == "tanh" else np.maximum(x + y, 0.0)), c

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        if not self.expanded:
            raise NotDifferentiable(
                "gradients",
                "a layer without its loop has no gradient",
                operation=self.name,
                advice="Call nl.lstm, nl.gru or nl.rnn, which have",
            )
        return [*(None for _ in inputs[: -self.results]), *gradients]

    def decompose(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.expanded:
            return inputs[-self.results :]
        source, recurrent, weight, *rest = inputs
        options: dict[str, Any] = dict(zip(self.given, rest, strict=True))
        options["bidirectional"] = self.bidirectional
        if self.cell == "gru":
            options |= {"reset_after": True, "reset_gate_first": self.reset_gate_first}
        if self.cell in ("tanh", "relu"):
            options["activation"] = self.cell
        build = functions()[self.cell if self.cell in ("lstm", "gru") else "rnn"]
        found = build(source, recurrent, weight, **options)
        return found if isinstance(found, tuple) else (found,)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return _samples()


def _samples() -> list[Sample]:
    """Layers with the results that they have: a library may compute those instead."""
    found: list[Sample] = []
    for cell, both, more in itertools.product(GATES, (False, True), (False, True)):
        gates, d = GATES[cell], 2 if both else 1
        optional = {"bias": (d * gates * 2,), "initial_state": (3, d * 2)} if more else {}
        recurrent = (2, gates * 2, 2) if both else (gates * 2, 2)
        shapes = [(4, 3, 3), recurrent, (d * gates * 2, 3), *optional.values()]
        op = RecurrentLayer(cell, tuple(optional), both, more, True)
        rng = np.random.default_rng(len(found))
        given = [rng.uniform(-1, 1, s) for s in shapes]
        alone = op.bare()
        assert alone is not None
        inputs = (*given, *alone[0].reference_all(*given))
        found.append(Sample(inputs, op.attributes, (float32, float64), tolerance=20))
    return found
