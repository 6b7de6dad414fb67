"""Recurrent layers over time: single gate, LSTM, GRU and MGU, in one or both directions.

Sources are [time, batch, features], states [batch, hidden]. The products of the source with its
weights are one matrix product for all times; the walk over time is a loop that runs on the device,
whose gradients come from `scan`. Weights are [gates * hidden, features], as in PyTorch and ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from niello.core.errors import AttributeValueError, ShapeError
from niello.graph.opdef import functions, plain_function
from niello.graph.tensor import Tensor
from niello.ops.define import graph_of
from niello.ops.movement import tensor_of, zeros_like
from niello.ops.recurrent_layer import RecurrentLayer

ACTIVATIONS = ("none", "relu", "tanh", "sigmoid", "hard_sigmoid")
# One step: the source's part of the gates and the carried values to the next ones; the first of
# these is the state.
Step = Callable[[Tensor, list[Tensor]], list[Tensor]]


def _activated(asked: str, kind: str, x: Tensor) -> Tensor:
    if kind not in ACTIVATIONS:
        raise AttributeValueError(
            asked, f"an activation is one of {', '.join(ACTIVATIONS)}", received=repr(kind)
        )
    if kind == "hard_sigmoid":
        return functions()["hard_sigmoid"](x, 0.2, 0.5)  # type: ignore[no-any-return]
    return x if kind == "none" else functions()[kind](x)  # type: ignore[no-any-return]


class _Layer:
    """Weights of a layer, checked, and those of one direction taken out of them."""

    def __init__(
        self,
        asked: str,
        gates: int,
        source: Any,
        recurrent: Any,
        weight: Any,
        bias: Any,
        bidirectional: bool,
    ) -> None:
        graph = graph_of(asked, source, recurrent)
        self.asked, self.gates = asked, gates
        self.source = graph.as_tensor(source)
        self.recurrent = graph.as_tensor(recurrent)
        self.weight = None if weight is None else graph.as_tensor(weight)
        self.bias = None if bias is None else graph.as_tensor(bias)
        self.directions = 2 if bidirectional else 1
        self.hidden = self._hidden()
        self._check()

    def _hidden(self) -> int:
        shape = self.recurrent.shape
        wanted = (
            "[2, gates * hidden, hidden]" if self.directions == 2 else "[gates * hidden, hidden]"
        )
        rank = self.directions + 1
        if shape is None or len(shape) != rank or None in shape[-2:]:
            raise ShapeError(
                self.asked,
                f"the recurrent weight is {wanted}, of known sizes",
                received=str(self.recurrent.type),
            )
        hidden = shape[-1]
        assert hidden is not None
        if shape[-2] != self.gates * hidden or (rank == 3 and shape[0] != 2):
            raise ShapeError(
                self.asked,
                f"the recurrent weight is {wanted} with {self.gates} gates",
                received=str(self.recurrent.type),
                advice="Stack the gates along the first axis",
            )
        return hidden

    def _check(self) -> None:
        total = self.directions * self.gates * self.hidden
        if self.source.rank != 3:
            raise ShapeError(
                self.asked,
                "the source is [time, batch, features]",
                received=str(self.source.type),
            )
        features = self.source.shape[2] if self.source.shape else None
        if self.weight is None:
            if features not in (None, total):
                raise ShapeError(
                    self.asked,
                    f"without an input weight the source has the {total} values of all gates",
                    received=str(self.source.type),
                )
        elif self.weight.rank != 2 or (self.weight.shape or (total,))[0] != total:
            raise ShapeError(
                self.asked,
                f"the input weight is [{total}, features]",
                received=str(self.weight.type),
            )
        if self.bias is not None and self.bias.shape not in (None, (total,)):
            raise ShapeError(self.asked, f"the bias is [{total}]", received=str(self.bias.type))

    def part(self, x: Tensor | None, direction: int, width: int) -> Tensor | None:
        """The values of one direction along the last axis."""
        if x is None or self.directions == 1:
            return x
        return x[..., direction * width : (direction + 1) * width]  # type: ignore[no-any-return]

    def projected(self, direction: int) -> Tensor:
        """The source's part of the gates at all times [time, batch, gates * hidden]."""
        width = self.gates * self.hidden
        bias = self.part(self.bias, direction, width)
        if self.weight is None:
            found = self.part(self.source, direction, width)
            assert found is not None
        else:
            weight = self.weight
            if self.directions == 2:
                weight = weight[direction * width : (direction + 1) * width]
            found = self._product(weight.transpose((1, 0)))
        return found if bias is None else found + bias

    def _product(self, weight: Tensor) -> Tensor:
        """The source times a weight [features, gates * hidden]: as one matrix where its shape is
        known but for one size, so that the weight's gradient is one product as well."""
        time, batch, features = self.source.shape or (None, None, None)
        width = weight.shape[1] if weight.shape else None
        sizes = (time, batch, features, width)
        if 0 in sizes or None in (features, width) or (time is None and batch is None):
            return self.source.matmul(weight)
        ahead = (-1, batch) if time is None else (time, -1 if batch is None else batch)
        return self.source.reshape((-1, features)).matmul(weight).reshape((*ahead, width))

    def transposed(self, direction: int) -> Tensor:
        """The recurrent weight [hidden, gates * hidden]."""
        one = self.recurrent if self.directions == 1 else self.recurrent[direction]
        found: Tensor = one.transpose((1, 0))
        return found

    def split(self, x: Tensor) -> list[Tensor]:
        """The gates along the last axis."""
        return [x[..., g * self.hidden : (g + 1) * self.hidden] for g in range(self.gates)]

    def walk(
        self,
        step: Callable[[int], Step],
        initial: Sequence[Any],
        reverse: bool,
    ) -> list[Tensor]:
        """The carried values at all times [time, batch, hidden], of both directions side by side;
        `initial` are the first ones (None: zeros)."""
        found: list[list[Tensor]] = []
        for direction in range(self.directions):
            projected = self.projected(direction)
            zeros = zeros_like(projected[0, :, : self.hidden])
            start = [
                zeros if v is None else self.part(tensor_of(self.asked, v), direction, self.hidden)
                for v in initial
            ]
            one = step(direction)

            def body(
                index: Tensor, slices: list[Tensor], values: list[Tensor], one: Step = one
            ) -> tuple[list[Tensor], list[Tensor]]:
                following = one(slices[0], values)
                return following, following

            backwards = bool(reverse) != (direction == 1)
            _, stacks = functions()["scan"]([projected], start, body, reverse=backwards)
            found.append(list(stacks))
        if self.directions == 1:
            return found[0]
        concat = functions()["concat"]
        return [concat([a, b], axis=-1) for a, b in zip(*found, strict=True)]

    def offered(
        self, cell: str, results: list[Tensor], reset_gate_first: bool = False, **given: Any
    ) -> list[Tensor]:
        """The results of a layer that libraries know, so that one may compute them."""
        if self.weight is None:
            return results
        named = {n: tensor_of(self.asked, v) for n, v in given.items() if v is not None}
        op = RecurrentLayer(cell, tuple(named), self.directions == 2, reset_gate_first, True)
        operands = [self.source, self.recurrent, self.weight, *named.values()]
        return list(results[0].graph.add(op, (*operands, *results)).outputs)


def _masked(state: Tensor, mask: Tensor | None) -> Tensor:
    return state if mask is None else state * mask


@plain_function
def rnn(
    source: Tensor,
    recurrent_weight: Any,
    input_weight: Any = None,
    bias: Any = None,
    initial_state: Any = None,
    mask: Any = None,
    *,
    activation: str = "tanh",
    reverse: bool = False,
    bidirectional: bool = False,
) -> Tensor:
    """A single-gate recurrent layer: h[t] = activation(x[t] W^T + (h[t-1] * mask) R^T + bias).

    source [time, batch, features]; recurrent_weight R [hidden, hidden]; input_weight W [hidden,
    features], without which the source has the width of the gates; bias [hidden]; initial_state and
    mask (recurrent dropout) [batch, hidden]. The result is [time, batch, hidden]. `reverse` walks
    from the last time to the first. With `bidirectional` there are two layers, forward and
    backward: R is [2, hidden, hidden], and W, bias, state, mask and result hold the two one after
    the other, [2 * hidden, features] and so on. Raises ShapeError and AttributeValueError.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((None, 2, 3))
        >>> r, w = graph.placeholder((4, 4)), graph.placeholder((4, 3))
        >>> nl.rnn(x, r, w).shape
        (None, 2, 4)
    """
    layer = _Layer("rnn", 1, source, recurrent_weight, input_weight, bias, bidirectional)

    def step(direction: int) -> Step:
        r = layer.transposed(direction)
        m = layer.part(mask, direction, layer.hidden)

        def one(x: Tensor, values: list[Tensor]) -> list[Tensor]:
            return [_activated("rnn", activation, x + _masked(values[0], m).matmul(r))]

        return one

    found = layer.walk(step, [initial_state], reverse)
    if not reverse and mask is None and activation in ("tanh", "relu"):
        found = layer.offered(activation, found, bias=layer.bias, initial_state=initial_state)
    return found[0]


@plain_function
def lstm(
    source: Tensor,
    recurrent_weight: Any,
    input_weight: Any = None,
    bias: Any = None,
    initial_state: Any = None,
    initial_cell: Any = None,
    mask: Any = None,
    peephole: Any = None,
    *,
    input_activation: str = "sigmoid",
    forget_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    output_activation: str = "sigmoid",
    activation: str = "tanh",
    forget_gate_last: bool = False,
    reverse: bool = False,
    bidirectional: bool = False,
) -> tuple[Tensor, Tensor]:
    """A long short-term memory layer: (states, cells), each [time, batch, hidden].

    i, f, z, o = gates of x[t] W^T + (h[t-1] * mask) R^T + bias; c[t] = f c[t-1] + i z; h[t] = o
    activation(c[t]). The gates lie along the first axis of R [4 hidden, hidden], W [4 hidden,
    features] and bias [4 hidden] in the order input, forget, cell, output, or with
    `forget_gate_last` input, cell, forget, output. `peephole` [4 hidden], in the same order, is
    multiplied by the cell and added: by c[t] for the output gate, by c[t-1] for the others.
    Initial state and cell and the mask are [batch, hidden], zeros (ones) where not given. Without
    an input weight the source has the width of the gates. `reverse` and `bidirectional` as in
    `rnn`. The source: Hochreiter and Schmidhuber 1997, Gers et al. 2002 for the peephole.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((10, 2, 3))
        >>> r, w = graph.placeholder((16, 4)), graph.placeholder((16, 3))
        >>> states, cells = nl.lstm(x, r, w)
        >>> states.shape
        (10, 2, 4)
    """
    layer = _Layer("lstm", 4, source, recurrent_weight, input_weight, bias, bidirectional)
    kinds = (input_activation, forget_activation, cell_activation, output_activation)

    def step(direction: int) -> Step:
        r = layer.transposed(direction)
        m = layer.part(mask, direction, layer.hidden)
        p = layer.part(peephole, direction, 4 * layer.hidden)
        weights = None if p is None else layer.split(p)

        def one(x: Tensor, values: list[Tensor]) -> list[Tensor]:
            state, cell = values
            gates = layer.split(x + _masked(state, m).matmul(r))
            if weights is not None:
                gates = [g + w * cell for g, w in zip(gates[:3], weights[:3], strict=True)] + gates[
                    3:
                ]
            if forget_gate_last:
                gates[1], gates[2] = gates[2], gates[1]
            i, f, z = (_activated("lstm", k, g) for k, g in zip(kinds, gates[:3], strict=False))
            following = f * cell + i * z
            last = gates[3] if weights is None else gates[3] + weights[3] * following
            o = _activated("lstm", output_activation, last)
            return [o * _activated("lstm", activation, following), following]

        return one

    found = layer.walk(step, [initial_state, initial_cell], reverse)
    usual = (*kinds, activation) == ("sigmoid", "sigmoid", "tanh", "sigmoid", "tanh")
    if usual and not (reverse or forget_gate_last) and mask is None and peephole is None:
        found = layer.offered(
            "lstm", found, bias=layer.bias, initial_state=initial_state, initial_cell=initial_cell
        )
    states, cells = found
    return states, cells


@plain_function
def gru(
    source: Tensor,
    recurrent_weight: Any,
    input_weight: Any = None,
    bias: Any = None,
    initial_state: Any = None,
    mask: Any = None,
    secondary_bias: Any = None,
    *,
    update_activation: str = "sigmoid",
    reset_activation: str = "sigmoid",
    output_activation: str = "tanh",
    reset_gate_first: bool = False,
    reset_after: bool = False,
    flip_z: bool = False,
    reverse: bool = False,
    bidirectional: bool = False,
) -> Tensor:
    """A gated recurrent unit: the states [time, batch, hidden].

    z, r = update and reset gates of x[t] W^T + (h[t-1] * mask) R^T + bias; the candidate is
    o = activation(x[t] Wo^T + bo + (r h[t-1]) Ro^T), or with `reset_after`
    activation(x[t] Wo^T + bo + r (h[t-1] Ro^T + secondary_bias)), as cuDNN and PyTorch have it;
    h[t] = z h[t-1] + (1 - z) o, with `flip_z` (1 - z) h[t-1] + z o. Gates lie along the first axis
    of R [3 hidden, hidden], W and bias in the order update, reset, candidate, or with
    `reset_gate_first` reset, update, candidate. `secondary_bias` [hidden] is for `reset_after`
    only. The rest as in `rnn`. The source: Cho et al. 2014 (arXiv 1406.1078).

    Raises ShapeError, and AttributeValueError for a secondary bias without `reset_after`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((10, 2, 3))
        >>> r, w = graph.placeholder((12, 4)), graph.placeholder((12, 3))
        >>> nl.gru(x, r, w, reset_after=True).shape
        (10, 2, 4)
    """
    layer = _Layer("gru", 3, source, recurrent_weight, input_weight, bias, bidirectional)
    hidden = layer.hidden
    if secondary_bias is not None and not reset_after:
        raise AttributeValueError(
            "gru",
            "a secondary bias belongs to the product that the reset gate multiplies",
            received="reset_after=False",
            advice="Set reset_after, or leave it out",
        )

    def step(direction: int) -> Step:
        r = layer.transposed(direction)
        m = layer.part(mask, direction, hidden)
        second = layer.part(secondary_bias, direction, hidden)
        gates_weight, output_weight = r[:, : 2 * hidden], r[:, 2 * hidden :]

        def one(x: Tensor, values: list[Tensor]) -> list[Tensor]:
            state = values[0]
            kept = _masked(state, m)
            if reset_after:
                product = kept.matmul(r)
                both, candidate = product[:, : 2 * hidden], product[:, 2 * hidden :]
                if second is not None:
                    candidate = candidate + second
            else:
                both = kept.matmul(gates_weight)
            both = x[:, : 2 * hidden] + both
            first, other = both[:, :hidden], both[:, hidden:]
            z, reset = (other, first) if reset_gate_first else (first, other)
            z = _activated("gru", update_activation, z)
            reset = _activated("gru", reset_activation, reset)
            inner = reset * candidate if reset_after else (reset * kept).matmul(output_weight)
            o = _activated("gru", output_activation, x[:, 2 * hidden :] + inner)
            return [o + z * (state - o)] if not flip_z else [state + z * (o - state)]

        return one

    found = layer.walk(step, [initial_state], reverse)
    kinds = (update_activation, reset_activation, output_activation)
    usual = kinds == ("sigmoid", "sigmoid", "tanh")
    if usual and reset_after and not (reverse or flip_z) and mask is None:
        found = layer.offered(
            "gru", found, reset_gate_first, bias=layer.bias, secondary_bias=secondary_bias,
            initial_state=initial_state,
        )  # fmt: skip
    return found[0]


@plain_function
def mgu(
    source: Tensor,
    recurrent_weight: Any,
    input_weight: Any = None,
    bias: Any = None,
    initial_state: Any = None,
    mask: Any = None,
    *,
    forget_activation: str = "sigmoid",
    output_activation: str = "tanh",
    reverse: bool = False,
    bidirectional: bool = False,
) -> Tensor:
    """A minimal gated unit: the states [time, batch, hidden].

    f = activation of the forget gate of x[t] W^T + (h[t-1] * mask) R^T + bias; the candidate is
    o = activation(x[t] Wo^T + bo + (f h[t-1]) Ro^T); h[t] = (1 - f) h[t-1] + f o. Gates lie along
    the first axis of R [2 hidden, hidden], W and bias in the order forget, candidate. The rest as
    in `rnn`. The source: Zhou et al. 2016 (arXiv 1603.09420).

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((10, 2, 3))
        >>> r, w = graph.placeholder((8, 4)), graph.placeholder((8, 3))
        >>> nl.mgu(x, r, w).shape
        (10, 2, 4)
    """
    layer = _Layer("mgu", 2, source, recurrent_weight, input_weight, bias, bidirectional)
    hidden = layer.hidden

    def step(direction: int) -> Step:
        r = layer.transposed(direction)
        m = layer.part(mask, direction, hidden)
        gate_weight, output_weight = r[:, :hidden], r[:, hidden:]

        def one(x: Tensor, values: list[Tensor]) -> list[Tensor]:
            state = values[0]
            kept = _masked(state, m)
            f = _activated("mgu", forget_activation, x[:, :hidden] + kept.matmul(gate_weight))
            inner = (f * kept).matmul(output_weight)
            o = _activated("mgu", output_activation, x[:, hidden:] + inner)
            return [state + f * (o - state)]

        return one

    return layer.walk(step, [initial_state], reverse)[0]
