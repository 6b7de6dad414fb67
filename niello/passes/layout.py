"""Convolutions with channels first, where the device prefers them last.

A convolution of [N, C, ...] data becomes one of [N, ..., C], and so does what lies between two of
them: elementwise operations, pooling, reductions, concatenation, padding and slices. Only where the
values enter and leave such a region are they transposed. Weights that are constants follow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from niello.graph.opdef import Op, Trait
from niello.graph.operation import Operation
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.ops.broadcast import BroadcastTo
from niello.ops.concat import Concat
from niello.ops.conv import (
    ConvolutionOp,
    ConvolutionWeightsGradient,
)
from niello.ops.conv_settings import ConvolutionSettings, WeightsLayout
from niello.ops.gather import Gather
from niello.ops.pad import Pad
from niello.ops.pool import MaxPool, MaxPoolGradient
from niello.ops.pool_average import AveragePool, AveragePoolGradient, LpPool
from niello.ops.reduce import Reduction
from niello.ops.reshape import Reshape
from niello.ops.slice import Slice
from niello.ops.transpose import Transpose
from niello.ops.window import Layout
from niello.passes.computation import Computation, Rebuild, is_pure

# Groups with fewer channels than this, but more than one, are better off with pixels in lanes.
_LEAST_CHANNELS = 8
# Elements that may cross the border of a region for each one that its convolutions read or write.
_MOST_CROSSING = 0.5

_POOLS = (MaxPool, MaxPoolGradient, AveragePool, AveragePoolGradient, LpPool)


@dataclass(frozen=True)
class ChannelsLast:
    """Move the channels of convolutions last, if the transposes at the borders are few enough.

    It wants static shapes and primitive operations, and leaves transposes of constants to be
    folded and pairs of transposes to be cancelled. `inputs_last` puts the input channels of
    constant weights last, instead of the output channels.
    """

    inputs_last: bool = False

    def __call__(self, source: Computation) -> Computation:
        if not any(_is_candidate(o) for o in source.reachable()):
            return source
        regions = _Regions(self.inputs_last)
        made = Rebuild(source, self).run(regions.visit)
        return made if regions.pays(made) else source


@dataclass
class _Regions:
    """What is known with channels last: for tensors of the new graph, the tensor of the same
    values with its axes in that order."""

    inputs_last: bool = False  # see ChannelsLast
    last: dict[Tensor, Tensor] = field(default_factory=dict)
    crossings: set[Operation] = field(default_factory=set)
    convolutions: list[Operation] = field(default_factory=list)

    def visit(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        if not is_pure(operation) or operation.control_inputs or not inputs:
            return None
        if _is_candidate(operation):
            return self._convolution(operation, inputs)
        if not any(t in self.last for t in inputs):
            return None
        moved = self._moved(operation, inputs)
        if moved is None:
            return None
        op, operands = moved
        if isinstance(op, Reduction) and not op.keepdims:
            return self._reduced(operation, op, operands)
        return [self._first(_apply(op, operands))]

    def pays(self, made: Computation) -> bool:
        """Whether little crosses the borders of the regions."""
        needed = set(made.reachable())
        work = sum(
            sum(t.type.elements for t in (*o.inputs, *o.outputs))
            for o in self.convolutions
            if o in needed
        )
        crossing = sum(
            o.outputs[0].type.elements
            for o in self.crossings
            if o in needed and not _is_constant(o.inputs[0])
        )
        return work > 0 and crossing <= _MOST_CROSSING * work

    # --- tensors in both orders

    def _first(self, made: Tensor) -> Tensor:
        """A tensor with channels last in the order that others expect (nobody, perhaps)."""
        rank = len(made.type.static_shape)
        plain = self._in_order(made, (0, rank - 1, *range(1, rank - 1)))
        self.last[plain] = made
        return plain

    def _with_last(self, tensor: Tensor, rank: int) -> Tensor:
        """The values of a tensor, broadcast to a rank by leading axes, with channels last."""
        found = self.last.get(tensor)
        if found is not None and len(found.type.static_shape) == rank:
            return found
        shape = tensor.type.static_shape
        full = tensor
        if len(shape) < rank:
            full = _apply(Reshape((1,) * (rank - len(shape)) + shape), [tensor])
        made = self._in_order(full, (0, *range(2, rank), 1))
        if full is tensor:
            self.last[tensor] = made
        return made

    def _in_order(self, tensor: Tensor, order: tuple[int, ...]) -> Tensor:
        shape = tensor.type.static_shape
        moving = [a for a in order if shape[a] != 1]
        if moving == sorted(moving):
            return _apply(Reshape(tuple(shape[a] for a in order)), [tensor])
        made = _apply(Transpose(order), [tensor])
        self.crossings.add(made.operation)
        return made

    # --- operations

    def _convolution(self, operation: Operation, inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
        op = operation.op
        assert isinstance(op, ConvolutionOp)
        rank = len(op.settings.data.letters)
        settings = _channels_last(op.settings)
        if isinstance(op, ConvolutionWeightsGradient):
            g, x, *like = inputs
            made = _apply(
                dataclasses.replace(op, settings=settings),
                [self._with_last(g, rank), self._with_last(x, rank), *like],
            )
            self.convolutions.append(made.operation)
            return [made]
        x, weights, *like = inputs
        if _is_constant(weights):
            letters = op.settings.weights.letters
            spatial = "".join(c for c in letters if c not in "IO")
            wanted = f"O{spatial}I" if self.inputs_last else f"{spatial}IO"
            weights = _apply(Transpose(tuple(map(letters.index, wanted))), [weights])
            settings = dataclasses.replace(settings, weights=WeightsLayout(wanted))
        operands = [self._with_last(x, rank), weights, *(self._with_last(t, rank) for t in like)]
        made = _apply(dataclasses.replace(op, settings=settings), operands)  # type: ignore[type-var]
        self.convolutions.append(made.operation)
        return [self._first(made)]

    def _moved(
        self, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> tuple[Op, list[Tensor]] | None:
        """The operation on operands with channels last, or None where it is left as it is."""
        op = operation.op
        rank = max(len(t.type.static_shape) for t in inputs)
        here = [self.last[t] for t in inputs if t in self.last]
        if any(len(t.type.static_shape) != rank for t in here) or len(operation.outputs) != 1:
            return None
        if Trait.ELEMENTWISE in op.traits:
            changed: Op | None = op
        else:
            change = next((c for kind, c in _CHANGES if isinstance(op, kind)), None)
            changed = None if change is None else change(op, rank)
        if changed is None:
            return None
        if isinstance(changed, Gather):
            data, index = inputs
            if data not in self.last or len(index.type.static_shape) != 1:
                return None
            return changed, [self._with_last(data, rank), index]
        return changed, [self._with_last(t, rank) for t in inputs]

    def _reduced(self, operation: Operation, op: Reduction, operands: list[Tensor]) -> list[Tensor]:
        """A reduction that drops axes, which leaves the others in the order that they had."""
        kept = dataclasses.replace(op, keepdims=True)  # type: ignore[type-var]
        found = self._first(_apply(kept, operands))
        return [_apply(Reshape(operation.outputs[0].type.static_shape), [found])]


def _is_candidate(operation: Operation) -> bool:
    """Whether an operation is a convolution with channels first that is better off otherwise."""
    op = operation.op
    if not isinstance(op, ConvolutionOp) or not op.settings.data.letters.startswith("NC"):
        return False
    channels = operation.inputs[0].type.static_shape[1]
    groups = op.settings.groups
    return groups == 1 or channels // groups == 1 or channels // groups >= _LEAST_CHANNELS


def _channels_last(settings: ConvolutionSettings) -> ConvolutionSettings:
    letters = settings.data.letters
    return dataclasses.replace(settings, data=Layout(f"N{letters[2:]}C"))


def _axis(axis: int, rank: int) -> int:
    """Where an axis goes."""
    axis %= rank
    return axis if axis == 0 else rank - 1 if axis == 1 else axis - 1


def _pool(op: Op, rank: int) -> Op | None:
    settings = op.settings  # type: ignore[attr-defined]
    axes = tuple(_axis(a, rank) for a in settings.axes)
    if settings.rank != rank or 1 in settings.axes:
        return None
    moved = dataclasses.replace(settings, axes=axes)
    return dataclasses.replace(op, settings=moved)  # type: ignore[type-var]


def _reduction(op: Op, rank: int) -> Op:
    assert isinstance(op, Reduction)
    axes = sorted(_axis(a, rank) for a in op.gone(rank))
    return dataclasses.replace(op, axes=tuple(axes))  # type: ignore[type-var]


def _concat(op: Op, rank: int) -> Op:
    assert isinstance(op, Concat)
    return Concat(_axis(op.axis, rank))


def _pad(op: Op, rank: int) -> Op:
    assert isinstance(op, Pad)
    return dataclasses.replace(op, before=_turned(op.before), after=_turned(op.after))


def _slice(op: Op, rank: int) -> Op:
    assert isinstance(op, Slice)
    return dataclasses.replace(op, axes=tuple(_axis(a, rank) for a in op.axes))


def _gather(op: Op, rank: int) -> Op | None:
    assert isinstance(op, Gather)
    if op.form != "slices" or op.batch_dims:
        return None
    return dataclasses.replace(op, axis=_axis(op.axis, rank))


def _broadcast(op: Op, rank: int) -> Op | None:
    assert isinstance(op, BroadcastTo)
    if len(op.shape) != rank:
        return None
    return BroadcastTo(_turned(op.shape))


def _turned(values: Iterable[int]) -> tuple[int, ...]:
    """One value for each axis, in the new order."""
    first, channels, *rest = values
    return (first, *rest, channels)


_CHANGES: tuple[tuple[tuple[type[Op], ...], Callable[[Op, int], Op | None]], ...] = (
    (_POOLS, _pool),
    ((Reduction,), _reduction),
    ((Concat,), _concat),
    ((Pad,), _pad),
    ((Slice,), _slice),
    ((BroadcastTo,), _broadcast),
    ((Gather,), _gather),
)


def _is_constant(tensor: Tensor) -> bool:
    return isinstance(tensor.operation.op, Constant)


def _apply(op: Op, inputs: Sequence[Tensor]) -> Tensor:
    made = inputs[0].graph.apply(op, *inputs)
    assert isinstance(made, Tensor)
    return made


__all__ = ["ChannelsLast"]
