"""Scale factors of a contraction's results go into its constant weights: batch normalisation.

    (conv(x, W) - m) * s + b    becomes    conv(x, W * s) + (b - m * s)

where m, s and b are constants with one value for each output channel. Products are computed in
float64 and rounded once; results differ from those of the separate steps by rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

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
Array = np.ndarray


@dataclass(frozen=True)
class Absorb:
    """Fold constant factors per channel into constant weights of contractions."""

    def __call__(self, source: Computation) -> Computation:
        return Rebuild(source, self).run(_Absorbing(source).visit)


@dataclass(frozen=True)
class _Sum:
    """contraction * scale + shift, where scale and shift have an entry for each output channel.

    `make` gives the contraction with other weights, `plain` is it with these.
    """

    make: Callable[[Array], Tensor]
    weights: Array
    weight_axis: int
    channel: int  # axis of the result
    scale: Array
    shift: Array
    scaled: bool = False
    plain: Tensor | None = None


@dataclass
class _Absorbing:
    """The walk over one computation."""

    source: Computation
    sums: dict[Tensor, _Sum] = field(default_factory=dict)  # by tensors of the new graph
    uses: Counter[Tensor] = field(default_factory=Counter)  # of tensors of the old one

    def __post_init__(self) -> None:
        for o in self.source.reachable():
            self.uses.update(o.inputs)
        self.uses.update(self.source.targets)

    def visit(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        if operation.control_inputs or not is_pure(operation) or len(operation.outputs) != 1:
            return None
        output = operation.outputs[0]
        if output.dtype not in _DTYPES or not output.type.is_static:
            return None
        found = _contraction(rebuild, operation, inputs)
        if found is not None:
            made = rebuild.copy(operation, inputs).outputs[0]
            self.sums[made] = found
            return (made,)
        return self._step(operation, inputs)

    def _step(self, operation: Operation, inputs: tuple[Tensor, ...]) -> Sequence[Tensor] | None:
        """One addition, subtraction, multiplication or division after a contraction."""
        combine = _STEPS.get(type(operation.op))
        if combine is None:
            return None
        for side in (0, 1):
            before = self.sums.get(inputs[side])
            if before is None or self.uses[operation.inputs[side]] != 1:
                continue
            value = _per_channel(inputs[1 - side], operation.outputs[0], before.channel)
            if value is None:
                continue
            with np.errstate(all="ignore"):
                after = combine(before, value, side)
            if after is not None:
                return self._made(operation, after)
        return None

    def _made(self, operation: Operation, after: _Sum) -> Sequence[Tensor] | None:
        if not after.scaled:
            # Nothing to gain yet: the step stays, and what follows may scale it.
            made = _plain_step(operation, after)
            return made
        if after.plain is None:
            shape = [1] * after.weights.ndim
            shape[after.weight_axis] = -1
            weights = (after.weights * after.scale.reshape(shape)).astype(after.weights.dtype)
            if not np.isfinite(weights).all():
                return None
            after = replace(after, plain=after.make(weights))
        assert after.plain is not None
        result = after.plain
        if after.shift.any():
            rank = len(operation.outputs[0].type.static_shape)
            shape = [-1 if i == after.channel else 1 for i in range(rank)]
            kind = result.dtype.numpy
            shift = result.graph.constant(after.shift.reshape(shape).astype(kind))
            result = result.graph.apply(registry()["add"](), result, shift)  # type: ignore[assignment]
        self.sums[result] = after
        return (result,)
