"""Scale factors of a contraction's results go into its constant weights: batch normalisation.

    (conv(x, W) - m) * s + b    becomes    conv(x, W * s) + (b - m * s)

where m, s and b are constants with one value for each output channel. Products are computed in
float64 and rounded once; results differ from those of the separate steps by rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from niello.core.dtypes import float32, float64
from niello.graph.opdef import Op, registry
from niello.graph.operation import Operation
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.ops.conv import Convolution, ConvolutionDataGradient
from niello.ops.matmul import Matmul
from niello.passes.computation import Computation, Rebuild, is_pure

_DTYPES = (float32, float64)


@dataclass(frozen=True)
class Absorb:
    """Fold constant factors of each channel into the constant weights of contractions."""

    def __call__(self, source: Computation) -> Computation:
        return Rebuild(source, self).run(_Walk(source).visit)


@dataclass(frozen=True)
class _Affine:
    """contraction * scale + shift, with an entry for each output channel.

    `make` gives the contraction with other weights; `made` is the one with scaled weights.
    """

    make: Callable[[np.ndarray], Tensor]
    weights: np.ndarray
    weights_axis: int
    channel: int  # axis of the result
    scale: np.ndarray
    shift: np.ndarray
    made: Tensor | None = None

    @property
    def scaled(self) -> bool:
        """Whether there is anything to absorb."""
        return bool((self.scale != 1).any())

    def times(self, factor: np.ndarray) -> _Affine:
        """The same, times a factor for each channel."""
        return replace(self, scale=self.scale * factor, shift=self.shift * factor, made=None)

    def plus(self, term: np.ndarray) -> _Affine:
        """The same, plus a term for each channel."""
        return replace(self, shift=self.shift + term)


# What a step does to a sum, given its constant and whether the constant is on the left.
_Step = Callable[[_Affine, np.ndarray, bool], _Affine | None]


@cache
def _steps() -> dict[type[Op], _Step]:
    known = registry()
    return {
        known["add"]: lambda a, c, left: a.plus(c),
        known["subtract"]: lambda a, c, left: (
            a.times(-np.ones_like(c)).plus(c) if left else a.plus(-c)
        ),
        known["multiply"]: lambda a, c, left: a.times(c),
        known["divide"]: lambda a, c, left: None if left else a.times(1 / c),
    }


class _Walk:
    """What is known while one computation is rebuilt."""

    def __init__(self, source: Computation) -> None:
        self.sums: dict[Tensor, _Affine] = {}  # by tensors of the new graph
        self.uses: Counter[Tensor] = Counter(source.targets)  # of tensors of the old one
        for o in source.reachable():
            self.uses.update(o.inputs)

    def visit(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        if operation.control_inputs or not is_pure(operation) or len(operation.outputs) != 1:
            return None
        output = operation.outputs[0]
        if output.dtype not in _DTYPES or not output.type.is_static:
            return None
        found = _contraction(operation, inputs)
        if found is None:
            found = self._step(operation, inputs)
        if found is None:
            return None
        made = _absorbed(found, output) if found.scaled else None
        if made is None:  # the step stays as it is; one that follows may scale the sum
            result = rebuild.copy(operation, inputs).outputs[0]
        else:
            result, found = made
        self.sums[result] = found
        return (result,)

    def _step(self, operation: Operation, inputs: tuple[Tensor, ...]) -> _Affine | None:
        """An elementwise step between a contraction's result, used here only, and a constant."""
        combine = _steps().get(type(operation.op))
        if combine is None:
            return None
        for side in (0, 1):
            before = self.sums.get(inputs[side])
            if before is None or self.uses[operation.inputs[side]] != 1:
                continue
            constant = _per_channel(inputs[1 - side], operation.outputs[0], before)
            if constant is not None:
                with np.errstate(all="ignore"):
                    return combine(before, constant, side == 1)
        return None


def _absorbed(found: _Affine, output: Tensor) -> tuple[Tensor, _Affine] | None:
    """The contraction with scaled weights, plus what is left; None where numbers overflow."""
    if found.made is None:
        shape = [1] * found.weights.ndim
        shape[found.weights_axis] = -1
        with np.errstate(all="ignore"):
            wide = found.weights.astype(np.float64) * found.scale.reshape(shape)
            weights = wide.astype(output.dtype.numpy)
        if not np.isfinite(weights).all():
            return None
        found = replace(found, made=found.make(weights))
    assert found.made is not None
    shift = found.shift.astype(output.dtype.numpy)
    if not np.isfinite(shift).all():
        return None
    result = found.made
    if shift.any():
        rank = len(output.type.static_shape)
        term = shift.reshape([-1 if i == found.channel else 1 for i in range(rank)])
        graph = result.graph
        added = graph.apply(registry()["add"](), result, graph.constant(term))
        assert isinstance(added, Tensor)
        result = added
    return result, found


def _contraction(operation: Operation, inputs: tuple[Tensor, ...]) -> _Affine | None:
    """A contraction with constant weights, each output channel of which has weights of its own."""
    op = operation.op
    rank = len(operation.outputs[0].type.static_shape)
    if isinstance(op, Convolution):
        axes = (1, op.settings.weights.letters.index("O"), op.settings.data.channel)
    elif isinstance(op, ConvolutionDataGradient) and op.settings.groups == 1:
        axes = (1, op.settings.weights.letters.index("I"), op.settings.data.channel)
    elif isinstance(op, Matmul) and isinstance(inputs[1].operation.op, Constant):
        axes = (1, inputs[1].rank - 1, rank - 1)  # type: ignore[operator]
    elif isinstance(op, Matmul):
        axes = (0, inputs[0].rank - 2, rank - 2)  # type: ignore[operator]
    else:
        return None
    number, weights_axis, channel = axes
    held = inputs[number].operation.op
    if not isinstance(held, Constant):
        return None
    weights = held.data.array
    size = operation.outputs[0].type.static_shape[channel]
    if weights.shape[weights_axis] != size or not weights.size:
        return None

    def make(scaled: np.ndarray) -> Tensor:
        graph = inputs[0].graph
        taken = list(inputs)
        taken[number] = graph.constant(scaled)
        made = graph.apply(op, *taken)
        assert isinstance(made, Tensor)
        return made

    one, none = np.ones(size, np.float64), np.zeros(size, np.float64)
    return _Affine(make, weights, weights_axis, channel, one, none)


def _per_channel(tensor: Tensor, output: Tensor, before: _Affine) -> np.ndarray | None:
    """A constant as one float64 for each channel of the result; None when it is anything else."""
    op = tensor.operation.op
    shape = output.type.static_shape
    if not isinstance(op, Constant) or before.scale.shape != (shape[before.channel],):
        return None
    array = op.data.array
    if array.ndim > len(shape):
        return None
    padded = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    if op.data.is_splat and array.size:
        return np.full(before.scale.shape, padded.reshape(-1)[0], np.float64)
    if any(n != 1 for axis, n in enumerate(padded.shape) if axis != before.channel):
        return None
    found = padded.reshape(-1).astype(np.float64)
    return np.broadcast_to(found, before.scale.shape)
