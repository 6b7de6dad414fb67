"""Mixed precision: policies, loss scaling, and measuring what a half type costs and gains.

graph.autocast = nl.bfloat16                       # contractions in bfloat16, the rest float32

scaler = nl.precision.LossScaler(graph)            # float16 needs its gradients scaled
grads = graph.gradients(scaler.scale(loss), weights)
grads, finite = scaler.unscale(grads)
steps = [scaler.assign(w, nl.sgd(0.1, w, g), finite) for w, g in grads.items()]
steps += scaler.update(finite)

found = nl.precision.measure(graph, feeds, [loss], nl.bfloat16, tolerance=0.01)
graph.autocast = found.policy
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from niello.core.dtypes import DType, float32, int32
from niello.core.errors import AttributeValueError, DTypeError
from niello.core.types import TensorType
from niello.executable.executable import Executable
from niello.executable.feed import fed_type, to_array
from niello.executable.graph import Graph
from niello.graph import opdef
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Op, Trait
from niello.graph.operation import Operation
from niello.graph.structural import Placeholder
from niello.graph.tensor import Tensor, Variable
from niello.passes.autocast import FOLLOW, HALF, KEEP, Autocast
from niello.passes.computation import Computation
from niello.runtime.target import CompileOptions

LEAST_SCALE, MOST_SCALE = 2.0**-24, 2.0**100


class LossScaler:
    """Dynamic loss scaling, so that small gradients do not vanish in float16.

    The loss is multiplied by a factor before gradients are taken, and the gradients are divided by
    it. A step whose gradients are not all finite is skipped and multiplies the factor by
    `backoff`; `growth_interval` good steps in a row multiply it by `growth`. The state is two
    variables of the graph, so it is saved with the others. Source: Micikevicius et al., Mixed
    Precision Training, 2018. Raises AttributeValueError for factors outside their domain.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> scaler = nl.precision.LossScaler(graph, initial=8.0)
        >>> w = graph.variable([1.0], name="w")
        >>> grads = graph.gradients(scaler.scale((w * w).sum()), [w])
        >>> grads, finite = scaler.unscale(grads)
        >>> steps = [scaler.assign(w, nl.sgd(0.25, w, grads[w]), finite), *scaler.update(finite)]
        >>> out = graph.run(targets=[grads[w]], target_operations=steps)
        >>> out[grads[w]].tolist(), w.value.tolist()
        ([2.0], [0.5])
    """

    def __init__(
        self,
        graph: GraphDefinition,
        initial: float = 2.0**15,
        growth_interval: int = 2000,
        *,
        growth: float = 2.0,
        backoff: float = 0.5,
        name: str = "loss_scale",
    ) -> None:
        for what, value, fits in (
            ("initial", initial, LEAST_SCALE <= initial <= MOST_SCALE),
            ("growth_interval", growth_interval, growth_interval >= 1),
            ("growth", growth, growth >= 1.0),
            ("backoff", backoff, 0.0 < backoff < 1.0),
        ):
            if not fits:
                raise AttributeValueError("LossScaler", f"{what} is out of range", received=value)
        self.graph = graph
        self.growth_interval, self.growth, self.backoff = growth_interval, growth, backoff
        self.factor: Variable = graph.variable(initial, float32, name=name)
        self.good_steps: Variable = graph.variable(0, int32, name=f"{name}_good_steps")

    def scale(self, loss: Tensor) -> Tensor:
        """The loss (float32, any shape) times the factor; take the gradients of this."""
        if loss.dtype is not float32:
            raise DTypeError(
                "LossScaler.scale",
                "the loss must be float32: half types cannot hold it scaled",
                received=loss.dtype.name,
                advice="Cast the logits before the loss",
            )
        return loss * self.factor

    def unscale(self, gradients: Any) -> tuple[Any, Tensor]:
        """The gradients of a scaled loss divided by the factor, in float32, and whether all of
        their elements are finite (a bool scalar). Takes and returns a dict or a list."""
        call = opdef.functions()
        if isinstance(gradients, Mapping):
            values, sound = self.unscale(list(gradients.values()))
            return dict(zip(gradients, values, strict=True)), sound
        if not gradients:
            raise AttributeValueError(
                "LossScaler.unscale", "needs at least one gradient", received=repr(gradients)
            )
        inverse = 1.0 / self.factor
        finite: Tensor | None = None
        for g in gradients:
            sound = call["all"](call["is_finite"](g))
            finite = sound if finite is None else call["logical_and"](finite, sound)
        assert finite is not None
        return [call["cast"](g, float32) * inverse for g in gradients], finite

    def assign(self, variable: Variable, value: Tensor, finite: Tensor) -> Operation:
        """Write `value` into a variable if the gradients were finite; else it keeps its value."""
        return variable.assign(opdef.functions()["select"](finite, value, variable))

    def update(self, finite: Tensor) -> list[Operation]:
        """The operations that adapt the factor after a step, for `target_operations`."""
        call = opdef.functions()
        steps = self.good_steps + 1
        enough = steps >= self.growth_interval
        grown = call["minimum"](self.factor * self.growth, MOST_SCALE)
        shrunk = call["maximum"](self.factor * self.backoff, LEAST_SCALE)
        kept = call["select"](enough, grown, self.factor)
        counted = call["select"](enough, 0, steps)
        return [
            self.factor.assign(call["select"](finite, kept, shrunk)),
            self.good_steps.assign(call["select"](finite, counted, 0)),
        ]


@dataclass(frozen=True)
class Measured:
    """One contraction in both precisions. Times in seconds (the best of several); `error` is the
    largest difference, relative to the largest result in float32; `choice` is "half" or "keep"."""

    operation: str
    op: str
    seconds: float
    half_seconds: float
    error: float
    choice: str


@dataclass(frozen=True)
class Measurement:
    """What `measure` found: the rows, and the policy that follows from them."""

    policy: Autocast
    rows: tuple[Measured, ...]

    def as_text(self) -> str:
        """A table, one line for each contraction."""
        name = self.policy.dtype.name
        lines = [f"{'float32 us':>11} {name + ' us':>12} {'error':>9}  choice  operation"]
        for r in self.rows:
            lines.append(
                f"{r.seconds * 1e6:11.1f} {r.half_seconds * 1e6:12.1f} {r.error:9.2e}  "
                f"{r.choice:6}  {r.operation} ({r.op})"
            )
        return "\n".join(lines)


def measure(
    graph: Graph,
    feeds: Mapping[Tensor, Any],
    targets: Sequence[Tensor],
    dtype: Any,
    tolerance: float,
    device: str | None = None,
    *,
    target_operations: Sequence[Operation] = (),
    repeats: int = 5,
) -> Measurement:
    """Run each contraction that the targets need in float32 and in `dtype` on sample input.

    Every contraction gets the inputs that it has in a float32 run of the graph, and runs alone. The
    policy takes `dtype` where that is faster and its error at most `tolerance`, and keeps float32
    elsewhere. Variables keep their values. Raises what `Graph.run` does.

    Example:
        >>> import niello as nl
        >>> import numpy as np
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((8, 16), name="x")
        >>> y = nl.matmul(x, np.ones((16, 4), np.float32), name="y")
        >>> found = nl.precision.measure(
        ...     graph, {x: np.ones((8, 16), np.float32)}, [y], nl.bfloat16, tolerance=0.01
        ... )
        >>> [row.operation for row in found.rows]
        ['y']
    """
    half = Autocast(dtype)
    if not tolerance >= 0:
        raise AttributeValueError("measure", "tolerance is a number from 0", received=tolerance)
    if repeats < 1:
        raise AttributeValueError("measure", "repeats must be at least 1", received=repeats)
    source = Computation(graph, (), tuple(targets), tuple(target_operations))
    contractions = [o for o in source.reachable() if _measurable(o)]
    values = _values(graph, feeds, [t for o in contractions for t in o.inputs], device)
    pairs: dict[Any, tuple[Executable, Executable]] = {}
    rows = []
    for o in contractions:
        inputs = [values[t] for t in o.inputs]
        key = (o.op, tuple(a.shape for a in inputs))
        if key not in pairs:
            pairs[key] = _compile_both(o.op, inputs, half, device)
        rows.append(_compare(o, inputs, pairs[key], tolerance, repeats))
    choices = {r.operation: r.choice for r in rows}
    return Measurement(Autocast(half.dtype, operations=choices), tuple(rows))


def _measurable(operation: Operation) -> bool:
    contraction = Trait.CONTRACTION in operation.op.traits
    return contraction and all(t.dtype is float32 for t in operation.inputs)


def _values(
    graph: Graph, feeds: Mapping[Tensor, Any], wanted: Sequence[Tensor], device: str | None
) -> dict[Tensor, np.ndarray]:
    """The wanted tensors in a float32 run."""
    unique = tuple(dict.fromkeys(wanted))
    if not unique:
        return {}
    needed = {
        o for o in Computation(graph, (), unique).reachable() if isinstance(o.op, Placeholder)
    }
    arrays = {
        t: to_array(v, t.type, t.name)
        for t, v in feeds.items()
        if not isinstance(t, Tensor) or t.operation in needed
    }
    types = {t: fed_type(a, t.type, t.name) for t, a in arrays.items()}
    executable = graph.compile(types, unique, device=device, options=CompileOptions())
    found = executable.run(list(arrays.values()))
    return {t: np.asarray(v) for t, v in zip(unique, found, strict=True)}


def _compile_both(
    op: Op, inputs: Sequence[np.ndarray], half: Autocast, device: str | None
) -> tuple[Executable, Executable]:
    graph = Graph(op.name)
    placeholders = [graph.placeholder(a.shape, float32) for a in inputs]
    result = graph.add(op, placeholders).outputs[0]
    feeds = {p: TensorType(a.shape, float32) for p, a in zip(placeholders, inputs, strict=True)}
    made = [
        graph.compile(feeds, [result], device=device, options=CompileOptions(autocast=cast))
        for cast in (None, half)
    ]
    return made[0], made[1]


def _compare(
    operation: Operation,
    inputs: Sequence[np.ndarray],
    pair: tuple[Executable, Executable],
    tolerance: float,
    repeats: int,
) -> Measured:
    wide, narrow = (np.asarray(e.run(inputs)[0]).astype(np.float64) for e in pair)
    seconds, half_seconds = _best_times(pair, inputs, repeats)
    error = relative_error(wide, narrow)
    choice = HALF if error <= tolerance and half_seconds < seconds else KEEP
    return Measured(operation.name, operation.op.name, seconds, half_seconds, error, choice)


def _best_times(
    pair: tuple[Executable, Executable], inputs: Sequence[np.ndarray], repeats: int
) -> list[float]:
    """Best time of each, run in turns, so that a change of the machine's speed meets both."""
    device = pair[0].device
    ready = [v if device.host_memory else _moved(v, device) for v in inputs]
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        for n, executable in enumerate(pair):
            started = time.perf_counter()
            executable.run(ready)
            device.synchronize()
            best[n] = min(best[n], time.perf_counter() - started)
    return best


def _moved(array: np.ndarray, device: Any) -> Any:
    from niello.runtime.tensor_data import on_device

    return on_device(array, device)


def relative_error(wide: np.ndarray, narrow: np.ndarray) -> float:
    """The largest difference relative to the largest value; infinite where one is not finite."""
    if wide.size == 0:
        return 0.0
    difference = float(np.max(np.abs(wide - narrow)))
    if not np.isfinite(difference):
        return float("inf")
    largest = float(np.max(np.abs(wide)))
    return difference / largest if largest else difference


__all__ = [
    "FOLLOW",
    "HALF",
    "KEEP",
    "Autocast",
    "DType",
    "LossScaler",
    "Measured",
    "Measurement",
    "measure",
    "relative_error",
]
