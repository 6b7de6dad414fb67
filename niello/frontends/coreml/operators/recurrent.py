"""Recurrent operators over [time, batch, features]."""

from __future__ import annotations

from typing import Any

import niello as nl
from niello.frontends.coreml.cells import Activation, Cell, State, walk
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator

_ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": nl.sigmoid,
    "tanh": nl.tanh,
    "relu": nl.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: nl.hard_sigmoid(x, 0.2, 0.5),
    "sigmoid_hard": lambda x: nl.hard_sigmoid(x, 0.2, 0.5),
    "scaled_tanh": lambda x: nl.tanh(x * (2.0 / 3.0)) * 1.7159,
}


def _activation(at: Op, name: str, default: str) -> Activation:
    kind = at.text(name, default)
    if kind not in _ACTIVATIONS:
        raise at.refuse("the activation is not one of the operator's", kind)
    return _ACTIVATIONS[kind]


def _results(at: Op, rows: nl.Tensor, state: State) -> Any:
    steps = at.sizes(rows)[0]
    every = at.flag("output_sequence")
    return (rows if every else nl.slice(rows, [steps - 1], [steps], axes=(0,)), *state)


@operator("rnn", fold=False)
def rnn(at: Op) -> Any:
    """h = f(W x + R h + b)."""
    activations = [_activation(at, "activation", "tanh")]
    cell = Cell(
        "rnn", at.tensor("weight_ih"), at.tensor("weight_hh"), at.optional("bias"), activations
    )
    backward = at.text("direction", "forward") == "reverse"
    return _results(at, *walk(cell, at.tensor(), (at.tensor("initial_h"),), backward))


@operator("gru", fold=False)
def gru(at: Op) -> Any:
    """The gated recurrent unit, with gates reset, output, update."""
    after = at.flag("reset_after")
    bias, inner = at.optional("bias"), None
    if at.has("input_bias"):  # then `bias` is that of the recurrent part
        recurrent = bias
        bias = at.tensor("input_bias")
        if recurrent is not None:
            size = at.shape("weight_hh")[1]
            r, o, z = nl.split(recurrent, 3, 0)
            inner = o if after else None
            zero = at.constant([0.0] * size, recurrent.dtype.numpy)
            bias = bias + nl.concat([r, zero if after else o, z], 0)
    activations = [
        _activation(at, "recurrent_activation", "sigmoid"), _activation(at, "activation", "tanh")
    ]  # fmt: skip
    cell = Cell(
        "gru", at.tensor("weight_ih"), at.tensor("weight_hh"), bias, activations,
        reset_after=after, inner_bias=inner,
    )  # fmt: skip
    backward = at.text("direction", "forward") == "reverse"
    return _results(at, *walk(cell, at.tensor(), (at.tensor("initial_h"),), backward))


@operator("lstm", fold=False)
def lstm(at: Op) -> Any:
    """Long short-term memory in one direction or both; the backward half has its own weights."""
    activations = [
        _activation(at, "recurrent_activation", "sigmoid"),
        _activation(at, "cell_activation", "tanh"), _activation(at, "activation", "tanh"),
    ]  # fmt: skip
    clip = at.real("clip") if at.has("clip") else None

    def cell(ending: str) -> Cell:
        return Cell(
            "lstm", at.tensor(f"weight_ih{ending}"), at.tensor(f"weight_hh{ending}"),
            at.optional(f"bias{ending}"), activations, at.optional(f"peephole{ending}"), clip=clip,
        )  # fmt: skip

    x, h, c = at.tensor(), at.tensor("initial_h"), at.tensor("initial_c")
    direction = at.text("direction", "forward")
    if direction != "bidirectional":
        return _results(at, *walk(cell(""), x, (h, c), direction == "reverse"))
    (h1, h2), (c1, c2) = nl.split(h, 2, 1), nl.split(c, 2, 1)
    rows, first = walk(cell(""), x, (h1, c1), False)
    back, second = walk(cell("_back"), x, (h2, c2), True)
    back = nl.reverse(back, 0) if at.flag("output_sequence") else back
    states = tuple(nl.concat(pair, 1) for pair in zip(first, second, strict=True))
    return _results(at, nl.concat([rows, back], 2), states)
