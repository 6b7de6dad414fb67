"""Recurrent layers: steps of LSTM, GRU and simple cells over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import niello as nl

Activation = Callable[[nl.Tensor], nl.Tensor]
State = tuple[nl.Tensor, ...]
# Layers of more steps become loops of the graph.
UNROLLED = 8


@dataclass
class Cell:
    """Weights of a cell: input [gates * h, in], recurrent [gates * h, h], bias [gates * h].

    LSTM gates are input, forget, output, block; GRU gates reset, output, update. `peephole` is for
    input, forget and output.
    """

    kind: str
    weight: nl.Tensor
    recurrent: nl.Tensor
    bias: nl.Tensor | None
    activations: Sequence[Activation]
    peephole: nl.Tensor | None = None
    coupled: bool = False
    clip: float | None = None
    reset_after: bool = False
    inner_bias: nl.Tensor | None = None

    def step(self, x: nl.Tensor, state: State) -> State:
        """The state after a step, given the input's part of the gates."""
        made: dict[str, Callable[[nl.Tensor, State], State]] = {
            "rnn": self._rnn, "gru": self._gru, "lstm": self._lstm,
        }  # fmt: skip
        return made[self.kind](x, state)

    def _product(self, h: nl.Tensor) -> nl.Tensor:
        return nl.matmul(h, nl.transpose(self.recurrent, (1, 0)))

    def _rnn(self, x: nl.Tensor, state: State) -> State:
        return (self.activations[0](x + self._product(state[0])),)

    def _gru(self, x: nl.Tensor, state: State) -> State:
        (h,) = state
        f, g = self.activations
        xr, xo, xz = nl.split(x, 3, -1)
        if self.reset_after:
            hr, ho, hz = nl.split(self._product(h), 3, -1)
            if self.inner_bias is not None:
                ho = ho + self.inner_bias
            r = f(xr + hr)
            o = g(xo + r * ho)
        else:
            wr, wo, wz = nl.split(self.recurrent, 3, 0)
            hr, hz = (nl.matmul(h, nl.transpose(w, (1, 0))) for w in (wr, wz))
            r = f(xr + hr)
            o = g(xo + nl.matmul(r * h, nl.transpose(wo, (1, 0))))
        z = f(xz + hz)
        return ((1.0 - z) * o + z * h,)

    def _lstm(self, x: nl.Tensor, state: State) -> State:
        h, c = state
        f, g, last = self.activations
        i, forget, o, block = nl.split(x + self._product(h), 4, -1)
        pi, pf, po = (None,) * 3 if self.peephole is None else nl.split(self.peephole, 3, 0)
        i = f(i if pi is None else i + pi * c)
        forget = 1.0 - i if self.coupled else f(forget if pf is None else forget + pf * c)
        new = forget * c + i * g(block)
        if self.clip is not None:
            new = nl.clamp(new, -self.clip, self.clip)
        o = f(o if po is None else o + po * new)
        return o * last(new), new


def walk(cell: Cell, x: nl.Tensor, state: State, reverse: bool) -> tuple[nl.Tensor, State]:
    """Outputs of all steps [time, batch, h], in the order of the steps, and the last state.

    With `reverse` the steps begin at the last time, as in Keras' go_backwards.
    """
    x = nl.reverse(x, 0) if reverse else x
    parts = nl.matmul(x, nl.transpose(cell.weight, (1, 0)))
    if cell.bias is not None:
        parts = parts + cell.bias
    assert x.shape is not None and x.shape[0] is not None
    if x.shape[0] <= UNROLLED:
        rows = []
        for part in nl.unstack(parts, 0):
            state = cell.step(part, state)
            rows.append(state[0])
        return nl.stack(rows, 0), state

    def body(_: Any, given: list[nl.Tensor], carried: list[nl.Tensor]) -> Any:
        new = cell.step(given[0], tuple(carried))
        return list(new), [new[0]]

    final, (outputs,) = nl.scan([parts], list(state), body)
    return outputs, tuple(final)
