"""RNN, GRU and LSTM, one step after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.translations.movement import reversed_steps

Activation = Callable[[nl.Tensor], nl.Tensor]
State = tuple[nl.Tensor, ...]

# Each takes alpha and beta, with these defaults.
_DEFAULTS = {
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, None),
    "ThresholdedRelu": (1.0, None),
    "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, None),
}
# Layers of more steps become loops of the graph.
UNROLLED = 8
_PLAIN = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Softplus": "softplus"}


def _activation(at: Call, name: str, alpha: float, beta: float) -> Activation:
    if name in _PLAIN:
        return getattr(nl, _PLAIN[name])  # type: ignore[no-any-return]
    made: dict[str, Activation] = {
        "Affine": lambda x: x * alpha + beta,
        "LeakyRelu": lambda x: nl.leaky_relu(x, alpha=alpha),
        "ThresholdedRelu": lambda x: nl.select(x > alpha, x, x * 0.0),
        "ScaledTanh": lambda x: nl.tanh(x * beta) * alpha,
        "HardSigmoid": lambda x: nl.hard_sigmoid(x, alpha=alpha, beta=beta),
        "Elu": lambda x: nl.elu(x, alpha=alpha),
        "Softsign": lambda x: x / (nl.absolute(x) + 1.0),
    }
    if name not in made:
        raise at.refuse("the activation is not one of ONNX's", name)
    return made[name]


def _activations(at: Call, default: Sequence[str], directions: int) -> list[list[Activation]]:
    """The activations of each direction; alpha and beta go to those that take them, in order."""
    names = at.texts("activations", None) or [*default] * directions
    alphas, betas = list(at.floats("activation_alpha", [])), list(at.floats("activation_beta", []))
    by_lower = {n.lower(): n for n in (*_DEFAULTS, *_PLAIN, "Softsign")}
    made = []
    for raw in names:
        name = by_lower.get(raw.lower(), raw)
        first, second = _DEFAULTS.get(name, (None, None))
        alpha = alphas.pop(0) if first is not None and alphas else first
        beta = betas.pop(0) if second is not None and betas else second
        made.append(_activation(at, name, alpha or 0.0, beta or 0.0))
    each = len(default)
    return [made[i * each : (i + 1) * each] for i in range(directions)]


@dataclass
class Layer:
    """One direction of a recurrent layer: weights [gates * h, ...] and biases as rows."""

    recurrent: nl.Tensor  # [h, gates * h]
    bias: nl.Tensor | None  # [gates * h], of the recurrent part
    peephole: list[nl.Tensor] | None
    activations: list[Activation]
    clip: float | None
    size: int

    def gates(self, x: nl.Tensor) -> list[nl.Tensor]:
        """A row of all gates in its parts."""
        return nl.split(x, x.shape[-1] // self.size, -1)  # type: ignore[index,operator,no-any-return]

    def clipped(self, x: nl.Tensor) -> nl.Tensor:
        """x within the clip, where there is one."""
        return x if self.clip is None else nl.clamp(x, -self.clip, self.clip)


Step = Callable[[Layer, nl.Tensor, State], State]


@translates("RNN")
def rnn(at: Call) -> Any:
    """The simple recurrent layer."""

    def step(layer: Layer, x: nl.Tensor, state: State) -> State:
        total = x + _product(layer, state[0])
        return (layer.activations[0](layer.clipped(total)),)

    return _layer(at, 1, ["Tanh"], step, 1)


@translates("GRU")
def gru(at: Call) -> Any:
    """The gated recurrent unit, with gates z, r, h."""
    after = bool(at.integer("linear_before_reset", 0))

    def step(layer: Layer, x: nl.Tensor, state: State) -> State:
        (h,) = state
        f, g = layer.activations
        xz, xr, xh = layer.gates(x)
        if after:
            hz, hr, hh = layer.gates(_product(layer, h))
        else:
            size = layer.size
            both = nl.slice(layer.recurrent, [0], [2 * size], axes=(1,))
            last = nl.slice(layer.recurrent, [2 * size], [None], axes=(1,))
            hz, hr = layer.gates(nl.matmul(h, both))
            if layer.bias is not None:
                bz, br, bh = layer.gates(layer.bias)
                hz, hr, xh = hz + bz, hr + br, xh + bh
        z, r = f(layer.clipped(xz + hz)), f(layer.clipped(xr + hr))
        inner = r * hh if after else nl.matmul(r * h, last)
        new = g(layer.clipped(xh + inner))
        return ((1.0 - z) * new + z * h,)

    return _layer(at, 3, ["Sigmoid", "Tanh"], step, 1)


@translates("LSTM")
def lstm(at: Call) -> Any:
    """Long short-term memory, with gates i, o, f, c."""
    coupled = bool(at.integer("input_forget", 0))

    def step(layer: Layer, x: nl.Tensor, state: State) -> State:
        h, c = state
        f, g, last = layer.activations
        i, o, forget, cell = layer.gates(x + _product(layer, h))
        peep = layer.peephole
        if peep is not None:
            i, forget = i + peep[0] * c, forget + peep[2] * c
        i = f(layer.clipped(i))
        forget = 1.0 - i if coupled else f(layer.clipped(forget))
        new = forget * c + i * g(layer.clipped(cell))
        if peep is not None:
            o = o + peep[1] * new
        return f(layer.clipped(o)) * last(new), new

    return _layer(at, 4, ["Sigmoid", "Tanh", "Tanh"], step, 2)


def _product(layer: Layer, h: nl.Tensor) -> nl.Tensor:
    y = nl.matmul(h, layer.recurrent)
    return y if layer.bias is None else y + layer.bias


def _layer(at: Call, gates: int, default: Sequence[str], step: Step, states: int) -> Any:
    """All directions over all steps; outputs Y, Y_h and for LSTM Y_c."""
    batch_first = bool(at.integer("layout", 0))
    x = at.tensor(0)
    x = nl.transpose(x, (1, 0, 2)) if batch_first else x
    directions = at.shape(1)[0]
    kind = at.text("direction", "forward")
    lengths = nl.cast(at.tensor(4), nl.int64) if at.has(4) else None
    activations = _activations(at, default, directions)
    rows, finals = [], []
    for d in range(directions):
        backward = kind == "reverse" or d == 1
        layer, inputs = _weights(at, d, gates, activations[d])
        source = _turned(x, lengths) if backward else x
        state = _initial(at, d, states, batch_first, at.sizes(x)[1], layer.size, x)
        y, final = _steps(layer, _projected(source, inputs), state, lengths, step)
        rows.append(_turned(y, lengths) if backward else y)
        finals.append(final)
    whole = nl.stack(rows, 1)  # steps, directions, batch, size
    ends = [nl.stack([f[i] for f in finals], 0) for i in range(states)]
    if batch_first:
        whole = nl.transpose(whole, (2, 0, 1, 3))
        ends = [nl.transpose(e, (1, 0, 2)) for e in ends]
    return (whole, *ends)


def _turned(x: nl.Tensor, lengths: nl.Tensor | None) -> nl.Tensor:
    return nl.reverse(x, 0) if lengths is None else reversed_steps(x, lengths, 0, 1)


def _part(at: Call, i: int, d: int) -> nl.Tensor | None:
    """The part of input i for direction d."""
    if not at.has(i):
        return None
    return nl.squeeze(nl.slice(at.tensor(i), [d], [d + 1], axes=(0,)), 0)


def _weights(
    at: Call, d: int, gates: int, activations: list[Activation]
) -> tuple[Layer, tuple[nl.Tensor, nl.Tensor | None]]:
    """The layer, and the weights and bias of its inputs."""
    weights, recurrent, bias = _part(at, 1, d), _part(at, 2, d), _part(at, 3, d)
    assert weights is not None and recurrent is not None
    size = at.shape(2)[-1]
    first, second = (None, None) if bias is None else nl.split(bias, 2, 0)
    peephole = _part(at, 7, d) if gates == 4 else None
    linear_first = gates == 3
    if second is not None and first is not None and not linear_first:
        first, second = first + second, None  # one addition for all steps
    layer = Layer(
        nl.transpose(recurrent, (1, 0)),
        second,
        None if peephole is None else nl.split(peephole, 3, 0),
        activations,
        at.real("clip", None),
        size,
    )
    return layer, (nl.transpose(weights, (1, 0)), first)


def _projected(x: nl.Tensor, inputs: tuple[nl.Tensor, nl.Tensor | None]) -> nl.Tensor:
    """The input's part of the gates, for all steps in one product."""
    weights, bias = inputs
    y = nl.matmul(x, weights)
    return y if bias is None else y + bias


def _initial(
    at: Call, d: int, states: int, batch_first: bool, batch: int, size: int, x: nl.Tensor
) -> State:
    found = []
    for i in (5, 6)[:states]:
        if not at.has(i):
            zero = np.zeros((), x.dtype.numpy)
            found.append(at.graph.constant(zero, shape=(batch, size)))
            continue
        given = at.tensor(i)
        axis = 1 if batch_first else 0
        found.append(nl.squeeze(nl.slice(given, [d], [d + 1], axes=(axis,)), axis))
    return tuple(found)


def _steps(
    layer: Layer, x: nl.Tensor, state: State, lengths: nl.Tensor | None, step: Step
) -> tuple[nl.Tensor, State]:
    """Outputs of all steps and the last state; steps beyond an element's length leave it."""

    def one(place: Any, part: nl.Tensor, before: State) -> tuple[State, nl.Tensor]:
        new = step(layer, part, before)
        if lengths is None:
            return new, new[0]
        alive = nl.expand_dims(nl.greater(lengths, place), 1)
        output = nl.select(alive, new[0], new[0] * 0.0)
        kept = tuple(nl.select(alive, n, s) for n, s in zip(new, before, strict=True))
        return kept, output

    assert x.shape is not None and x.shape[0] is not None
    if x.shape[0] > UNROLLED:
        return _looped(x, state, one)
    rows = []
    for i, part in enumerate(nl.unstack(x, 0)):
        state, output = one(np.int64(i), part, state)
        rows.append(output)
    return nl.stack(rows, 0), state


def _looped(x: nl.Tensor, state: State, one: Any) -> tuple[nl.Tensor, State]:
    """The same as a loop of the graph."""

    def body(index: nl.Tensor, parts: list[nl.Tensor], carried: list[nl.Tensor]) -> Any:
        new, output = one(nl.cast(index, nl.int64), parts[0], tuple(carried))
        return list(new), [output]

    last, (rows,) = nl.scan([x], list(state), body)
    return rows, tuple(last)
