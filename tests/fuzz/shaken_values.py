"""Values of a graph by the references of its operations, exactly or with rounding noise.

With noise, each operation that rounds sees its inputs, and leaves its outputs, changed by a few
units in the last place. What a graph gives in several such runs says how far correct results may
be apart: far where it is ill-conditioned, not at all where nothing rounds. An element that jumps
(a comparison of nearly equal numbers, the index of one of two equal maxima) shows itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import ml_dtypes
import numpy as np

from niello.core.dtypes import dtype as dtype_of
from niello.executable.callables import resolve
from niello.graph import control_flow
from niello.graph.control_flow import Call
from niello.graph.evaluate import evaluate
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Op, Trait
from niello.graph.operation import Operation
from niello.graph.region import Region, RegionOp
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Operations that give elements of their inputs, or whole numbers that depend on their order only:
# all implementations agree to the last bit on equal inputs.
STILL = names("""
    absolute argmax argmin argsort argsort_rows assign bitcast bitwise_and bitwise_left_shift
    bitwise_not bitwise_or bitwise_right_shift bitwise_xor call cast ceil clamp complex conjugate
    constant cumulative_max cumulative_min dynamic_slice dynamic_slice_like dynamic_update_slice
    equal floor fmax fmin gather greater greater_equal hamming_distance hard_shrink identity imag
    is_finite is_inf is_nan less less_equal logical_and logical_nand logical_nor logical_not
    logical_or logical_xnor logical_xor max_pool max_pool_indices maximum minimum mode_rows
    mtgp32_words mtgp32_words_like negative not_equal one_hot popcount random_bits
    random_bits_like random_words read_variable real reduce_all reduce_any reduce_max reduce_min
    relu relu_n rint round scatter_wins searchsorted select shape_of sign signbit size sort
    sort_rows stop_gradient suppress_sorted thresholded_relu top_k top_k_rows true_positions trunc
    unravel_index variable placeholder
""")
# They jump where their inputs are what they are: only their result is rounded.
JUMPING = names("floor_divide floor_modulo modulo atan2 divide_no_nan angle")
# Their errors are in proportion to the largest numbers that go in, not to each element.
WHOLE_MODULES = ("eigen", "factor", "fourier", "linear_algebra", "orthogonal", "reflections")
WHOLE_MODULES += ("triangular",)
# Logarithms of sums: their errors are those of numbers near one, however small the result.
LOGARITHMS = names("log_softmax softmax_cross_entropy logsumexp cumulative_logsumexp")
UNITS = 4.0  # units in the last place by which noise moves a number
HALF_UNITS = 1.0


def is_still(operation: Operation) -> bool:
    """Whether an operation rounds nothing."""
    return Trait.MOVEMENT in operation.op.traits or operation.op.name in STILL


def is_whole(op: Op) -> bool:
    """Whether rounding errors spread over the whole result."""
    return type(op).__module__.rsplit(".", 1)[-1].startswith(WHOLE_MODULES)


def as_wide(array: Any) -> np.ndarray:
    """Numbers as float64 or complex128, which hold them exactly (integers pass as they are)."""
    array = np.asarray(array)
    found = dtype_of(array.dtype)
    if found.is_complex:
        return array.astype(np.complex128)
    return array.astype(np.float64) if found.is_float else array


def epsilon(array: np.ndarray) -> float:
    """The distance from 1 to the next number of the (real) type of an array."""
    plane = dtype_of(array.dtype).plane
    return float(ml_dtypes.finfo(plane.numpy).eps) if plane.is_float else 0.0


def least(array: np.ndarray) -> float:
    """The distance from 0 to the next number of the (real) type of an array."""
    plane = dtype_of(array.dtype).plane
    return float(ml_dtypes.finfo(plane.numpy).smallest_subnormal) if plane.is_float else 0.0


class Shake:
    """Rounding noise: `scale` times that of a few roundings of each operation.

    With `driver` the functions are those of a GPU and its driver, which may reorder sums: near zero
    their errors are those of numbers near one.
    """

    def __init__(self, seed: int, scale: float = 1.0, driver: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.scale = scale
        self.driver = driver

    def moved(self, array: Any, op: Op | None = None) -> Any:
        """An array with noise, in its own type; integers stay. The noise is in proportion to each
        element, or to what goes in where `op` makes it of many."""
        found = dtype_of(np.asarray(array).dtype)
        if not found.is_inexact or found.is_storage or not np.size(array):
            return array
        wide = as_wide(array)
        units = self.scale * (HALF_UNITS if found.plane.is_half else UNITS) * epsilon(array)
        with np.errstate(all="ignore"):
            if op is not None and is_whole(op):
                size = np.abs(wide[np.isfinite(wide)]).max(initial=0.0)
                wide = wide + size * units * self._noise(wide.shape)
            if op is not None and (self.driver or op.name in LOGARITHMS):
                unit = min(epsilon(array), float(np.finfo(np.float32).eps))  # halves compute so
                wide = wide + self.scale * UNITS * unit * self._noise(wide.shape)
            if found.is_complex:
                change = np.abs(wide) * (self._noise(wide.shape) + 1j * self._noise(wide.shape))
                made = wide + units * np.where(np.isfinite(change), change, 0.0)
            else:
                made = wide * (1.0 + units * self._noise(wide.shape))
            return np.asarray(made).astype(found.numpy)

    def _noise(self, shape: tuple[int, ...]) -> np.ndarray:
        """From -1 to 1, the ends more often than uniform."""
        return np.clip(self.rng.uniform(-1.5, 1.5, shape), -1.0, 1.0)


def run_operation(
    operation: Operation,
    inputs: Sequence[np.ndarray],
    callables: Mapping[str, Any],
    shake: Shake | None = None,
) -> list[np.ndarray]:
    """Values of an operation's outputs for values of its inputs."""
    if isinstance(operation.op, Call):
        return _called(operation.op, inputs, callables, shake)
    if shake is not None and isinstance(operation.op, RegionOp):
        return _through_regions(operation.op, inputs, shake)
    still = shake is None or is_still(operation)
    if not still and operation.op.name not in JUMPING:
        op = operation.op if is_whole(operation.op) else None
        inputs = [shake.moved(a, op) for a in inputs]
    try:
        with np.errstate(all="ignore"):
            found = evaluate(operation.outputs, dict(zip(operation.inputs, inputs, strict=True)))
    except np.linalg.LinAlgError:  # NumPy's factorizations refuse NaN, which a graph may hold
        found = [_unknown(t) for t in operation.outputs]
    return found if still else [shake.moved(a, operation.op) for a in found]


def _unknown(t: Tensor) -> np.ndarray:
    return np.full(t.type.static_shape, np.nan if t.dtype.is_inexact else 0, t.dtype.numpy)


def _through_regions(op: RegionOp, arrays: Sequence[np.ndarray], shake: Shake) -> list[np.ndarray]:
    """A branch or a loop, with noise in the operations inside."""

    def shaken(region: Region, given: Sequence[Any]) -> tuple[np.ndarray, ...]:
        typed = {
            t: np.asarray(a, t.dtype.numpy) for t, a in zip(region.parameters, given, strict=True)
        }
        return tuple(values_of(region.results, typed, {}, shake))

    with patch.object(control_flow, "run_region", shaken):
        return [np.asarray(a) for a in op.reference_all(*arrays)]


def _called(
    op: Call, arrays: Sequence[np.ndarray], callables: Mapping[str, Any], shake: Shake | None
) -> list[np.ndarray]:
    """What a call gives, through the operations that compilation puts in its place."""
    graph = GraphDefinition("called")
    given = [graph.placeholder(a.shape, a.dtype) for a in arrays]
    made = graph.add(op, given).outputs
    found = resolve(Computation(graph, tuple(given), tuple(made)), callables)
    return values_of(found.targets, dict(zip(found.inputs, arrays, strict=True)), {}, shake)


def ancestors(tensors: Sequence[Tensor], known: Mapping[Tensor, Any] | None = None) -> list:
    """Operations that tensors depend on, in order; nothing behind known ones."""
    known = {} if known is None else known
    needed: dict[Operation, None] = {}
    stack = [t.operation for t in tensors if t not in known]
    while stack:
        operation = stack.pop()
        if operation not in needed:
            needed[operation] = None
            stack += [t.operation for t in operation.inputs if t not in known]
    return sorted(needed, key=lambda o: o.number)


def values_of(
    tensors: Sequence[Tensor],
    known: Mapping[Tensor, np.ndarray],
    callables: Mapping[str, Any],
    shake: Shake | None = None,
) -> list[np.ndarray]:
    """Values of tensors, given those of all placeholders and variables behind them."""
    values = dict(known)
    for operation in ancestors(tensors, known):
        arrays = [values[t] for t in operation.inputs]
        found = run_operation(operation, arrays, callables, shake)
        for t, a in zip(operation.outputs, found, strict=True):
            values.setdefault(t, a)
    return [values[t] for t in tensors]
