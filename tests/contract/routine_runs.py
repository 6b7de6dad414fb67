"""Operations one after the other, each by a kernel of its own: for those that have routines."""

from __future__ import annotations

import numpy as np

from niello.graph.opdef import Trait
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.kernel.interpret import interpret
from niello.kernel.verify import verify
from niello.passes.computation import Computation
from niello.schedule.access import is_routine
from niello.schedule.lower import build_routine, lower_group


def has_routines(source: Computation) -> bool:
    return any(is_routine(o) for o in source.reachable())


def run_operations(source: Computation, fed: dict[Tensor, np.ndarray]) -> list[np.ndarray]:
    """Values of the targets, every kernel verified and interpreted."""
    known = {t: np.ascontiguousarray(a).reshape(-1) for t, a in fed.items()}
    for operation in source.reachable():
        if isinstance(operation.op, Constant):
            known[operation.outputs[0]] = np.ascontiguousarray(operation.op.reference()).reshape(-1)
        if Trait.STRUCTURAL in operation.op.traits:
            continue
        if is_routine(operation):
            lowered = build_routine("alone", operation)
        else:
            lowered = lower_group("alone", operation.outputs, lambda o, one=operation: o is one)
        verify(lowered.kernel)
        for t in operation.outputs:
            known[t] = np.full(t.type.elements, 7, t.dtype.numpy)
        interpret(lowered.kernel, [known[t] for t in lowered.tensors])
    return [known[t].reshape(t.type.static_shape) for t in source.targets]
