"""Simple recurrent layers, GRU and LSTM of networks: [sequence, batch, channels, 1, 1]."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.cells import Activation, Cell, State, walk
from niello.frontends.coreml.layers.elementwise import activation
from niello.frontends.coreml.registry import layer


def _activations(at: Layer, messages: Any) -> list[Activation]:
    return [functools.partial(activation, at, m) for m in messages]


def _source(at: Layer) -> nl.Tensor:
    """The input as [time, batch, channels]."""
    shape = at.shape()
    return nl.reshape(at.tensor(), (shape[0], shape[1], int(np.prod(shape[2:], dtype=np.int64))))


def _state(at: Layer, i: int, size: int) -> nl.Tensor:
    """Input i as [batch, h], or zeros."""
    batch = at.shape()[1]
    if len(at.inputs) > i:
        return nl.reshape(at.tensor(i), (batch, size))
    return at.constant(np.zeros((batch, size), np.float32))


def _wide(at: Layer, y: nl.Tensor) -> nl.Tensor:
    """[time, batch, h] or [batch, h] in the rank of the input."""
    sizes = at.sizes(y)
    sizes = sizes if len(sizes) == 3 else (1, *sizes)
    return nl.reshape(y, (*sizes, *(1,) * (at.rank() - 3)))


def _results(at: Layer, rows: nl.Tensor, state: State, every: bool) -> Any:
    steps = at.sizes(rows)[0]
    y = rows if every else nl.slice(rows, [steps - 1], [steps], axes=(0,))
    return (_wide(at, y), *(_wide(at, s) for s in state))


def _gates(at: Layer, p: Any, names: list[str], rows: int, columns: int | None) -> nl.Tensor:
    """The weights of several gates one below the other."""
    shape = (rows,) if columns is None else (rows, columns)
    return nl.concat([at.weights(getattr(p, n), *shape) for n in names], 0)


@layer("simpleRecurrent", fold=False)
def simple_recurrent(at: Layer) -> Any:
    """h = f(W x + R h + b)."""
    p = at.p
    size, inputs = int(p.outputVectorSize), int(p.inputVectorSize)
    cell = Cell(
        "rnn",
        at.weights(p.weightMatrix, size, inputs),
        at.weights(p.recursionMatrix, size, size),
        at.weights(p.biasVector, size) if p.hasBiasVector else None,
        _activations(at, [p.activation]),
    )
    rows, state = walk(cell, _source(at), (_state(at, 1, size),), bool(p.reverseInput))
    return _results(at, rows, state, bool(p.sequenceOutput))


@layer("gru", fold=False)
def gru(at: Layer) -> Any:
    """The gated recurrent unit; the reset gate is applied before the recurrent product."""
    p = at.p
    size, inputs = int(p.outputVectorSize), int(p.inputVectorSize)
    names = ["resetGate", "outputGate", "updateGate"]
    bias = (
        _gates(at, p, [f"{n}BiasVector" for n in names], size, None) if p.hasBiasVectors else None
    )
    cell = Cell(
        "gru",
        _gates(at, p, [f"{n}WeightMatrix" for n in names], size, inputs),
        _gates(at, p, [f"{n}RecursionMatrix" for n in names], size, size),
        bias,
        _activations(at, p.activations),
    )
    rows, state = walk(cell, _source(at), (_state(at, 1, size),), bool(p.reverseInput))
    return _results(at, rows, state, bool(p.sequenceOutput))


def _lstm_cell(at: Layer, p: Any, weights: Any, activations: Any) -> Cell:
    size, inputs = int(p.outputVectorSize), int(p.inputVectorSize)
    s = p.params
    names = ["inputGate", "forgetGate", "outputGate", "blockInput"]
    bias = None
    if s.hasBiasVectors:
        bias = _gates(at, weights, [f"{n}BiasVector" for n in names], size, None)
    if s.forgetBias:
        ones = np.repeat(np.array([0, 1, 0, 0], np.float32), size)
        bias = at.constant(ones) if bias is None else bias + at.constant(ones)
    peephole = None
    if s.hasPeepholeVectors:
        peephole = _gates(at, weights, [f"{n}PeepholeVector" for n in names[:3]], size, None)
    return Cell(
        "lstm",
        _gates(at, weights, [f"{n}WeightMatrix" for n in names], size, inputs),
        _gates(at, weights, [f"{n}RecursionMatrix" for n in names], size, size),
        bias,
        _activations(at, activations),
        peephole,
        bool(s.coupledInputAndForgetGate),
        s.cellClipThreshold or None,
    )


@layer("uniDirectionalLSTM", fold=False)
def lstm(at: Layer) -> Any:
    """Long short-term memory; outputs the states, the last state and the last cell."""
    p = at.p
    size = int(p.outputVectorSize)
    cell = _lstm_cell(at, p, p.weightParams, p.activations)
    given = (_state(at, 1, size), _state(at, 2, size))
    rows, state = walk(cell, _source(at), given, bool(p.reverseInput))
    return _results(at, rows, state, bool(p.params.sequenceOutput))


@layer("biDirectionalLSTM", fold=False)
def bidirectional_lstm(at: Layer) -> Any:
    """Two of them, the second from the end on; each time has both states as channels."""
    p = at.p
    size, x = int(p.outputVectorSize), _source(at)
    found: list[nl.Tensor] = []
    states: list[nl.Tensor] = []
    for backward in (False, True):
        activations = p.activationsBackwardLSTM if backward else p.activationsForwardLSTM
        cell = _lstm_cell(at, p, p.weightParams[int(backward)], activations)
        first = 3 if backward else 1
        given = (_state(at, first, size), _state(at, first + 1, size))
        rows, state = walk(cell, x, given, backward)
        found.append(nl.reverse(rows, 0) if backward and p.params.sequenceOutput else rows)
        states.extend(state)
    return _results(at, nl.concat(found, 2), tuple(states), bool(p.params.sequenceOutput))
