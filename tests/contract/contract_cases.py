"""Inputs for the contract tests, made from the samples that every op declares."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

import niello.ops  # noqa: F401  (fills the registry)
from niello.core.dtypes import DType, complex128, float32, float64
from niello.core.shapes import MAX_RANK
from niello.core.types import TensorType
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Op, Sample, Spec, Trait, registry
from niello.graph.tensor import Tensor
from niello.passes.split_complex import as_border

# Relative error allowed between the reference and anything else that computes the same.
RELATIVE = {
    "float16": 2e-3,
    "bfloat16": 1.6e-2,
    "float32": 2e-6,
    "float64": 1e-12,
    "complex32": 1e-2,
    "complex64": 1e-5,
    "complex128": 1e-11,
}
RELATIVE |= {"float8_e4m3fn": 1e-9, "float8_e5m2": 1e-9}  # equal, NaN included


@dataclass(frozen=True)
class Case:
    """One op with attributes, applied to arrays of one dtype."""

    op: Op
    number: int
    dtype: DType
    sample: Sample
    arrays: tuple[np.ndarray, ...]

    def __str__(self) -> str:
        attributes = ", ".join(f"{k}={v}" for k, v in self.op.attributes.items())
        shapes = ", ".join(f"{a.dtype.name}{list(a.shape)}" for a in self.arrays)
        return f"{self.op.name}({attributes}) on sample {self.number}: {shapes}"

    @property
    def types(self) -> tuple[TensorType, ...]:
        return tuple(TensorType(a.shape, a.dtype) for a in self.arrays)

    def reference(self) -> tuple[np.ndarray, ...]:
        return self.op.reference_all(*self.arrays)

    def build(self, constant: bool = False) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """A graph of just this op: its inputs and its outputs."""
        graph = GraphDefinition()
        inputs = self.inputs_in(graph, constant)
        return inputs, graph.add(self.op, inputs).outputs

    def inputs_in(self, graph: GraphDefinition, constant: bool = False) -> list[Tensor]:
        if constant:
            return [graph.constant(a) for a in self.arrays]
        return [graph.placeholder(a.shape, a.dtype) for a in self.arrays]


def operations() -> list[str]:
    """Names of all ops that compute something."""
    return sorted(
        n
        for n, cls in registry().items()
        # Shapes that are values have tests of their own (unit/test_shapes_by_value.py).
        if Trait.STRUCTURAL not in cls.traits and not cls.value_inputs
    )


def cases(name: str, keep: Callable[[Sample, DType], bool] | None = None) -> Iterator[Case]:
    """Every sample of an op in every dtype it is for."""
    cls = registry()[name]
    for number, sample in enumerate(cls.samples()):
        for dtype in dtypes_of(cls, sample):
            if keep is not None and not keep(sample, dtype):
                continue
            if dtype.is_complex and any(len(s.shape) == MAX_RANK for s in sample.inputs):
                continue  # a complex tensor has one dimension less
            arrays = tuple(
                make(spec, dtype, seed(name, number, i)) for i, spec in enumerate(sample.inputs)
            )
            yield Case(cls(**sample.attributes), number, dtype, sample, arrays)


def wide_cases(name: str, size: int) -> Iterator[Case]:
    """The cases of an elementwise op with every input stretched to `size` elements."""
    for case in cases(name):
        if not all(a.size for a in case.arrays):
            continue
        arrays = []
        for i, (spec, array) in enumerate(zip(case.sample.inputs, case.arrays, strict=True)):
            if isinstance(spec, np.ndarray):
                arrays.append(np.resize(array, (size,)))
            else:
                wide = replace(spec, shape=(size,))
                arrays.append(make(wide, case.dtype, seed(name, case.number, i)))
        yield replace(case, arrays=tuple(arrays))


def dtypes_of(cls: type[Op], sample: Sample) -> list[DType]:
    """Dtypes of the sample's main inputs; one is enough where no input depends on it."""
    allowed = list(sample.dtypes or cls.dtypes)
    given = [a for a in sample.inputs if isinstance(a, np.ndarray)]
    if any(is_main(a) for a in given):
        allowed = [d for d in allowed if d.is_float]
    if any(a.dtype.kind == "c" for a in given):
        allowed = [d for d in allowed if d.is_complex]
    depends = any(
        is_main(a) if isinstance(a, np.ndarray) else a.kind in ("main", "distinct")
        for a in sample.inputs
    )
    return allowed if depends else allowed[:1]


def is_main(array: np.ndarray) -> bool:
    """An array of a sample that takes the case's dtype: one of NumPy's own floats."""
    return array.dtype.kind == "c" or (array.dtype.kind == "f" and array.dtype.itemsize > 1)


def seed(*what: object) -> int:
    return zlib.crc32(repr(what).encode())


def make(spec: Spec | np.ndarray, dtype: DType, number: int) -> np.ndarray:
    """The array that a sample's input stands for; arrays of floats take the case's dtype."""
    if isinstance(spec, np.ndarray):
        with np.errstate(over="ignore"):
            return spec.astype(dtype.numpy) if is_main(spec) else spec
    rng = np.random.default_rng(number)
    size = int(np.prod(spec.shape))
    if spec.kind == "bool" or (dtype.kind == "bool" and spec.kind in ("main", "distinct")):
        return rng.integers(0, 2, spec.shape).astype(bool)
    if spec.kind == "index":
        return rng.integers(int(spec.low), int(spec.high) + 1, spec.shape).astype(np.int32)
    target = float32 if spec.kind == "float" else dtype
    if target.is_complex:
        parts = [make(spec, target.plane, number + i) for i in (0, 1)]
        return np.stack(parts, -1).view(target.numpy)[..., 0]
    if target.is_float:
        if spec.kind == "distinct":
            values = rng.permutation(np.linspace(spec.low, spec.high, size)).reshape(spec.shape)
        else:
            values = rng.uniform(spec.low, spec.high, spec.shape)
        return np.asarray(values).astype(target.numpy)
    low = max(int(np.ceil(spec.low)), int(target.min))
    high = max(min(int(np.floor(spec.high)), int(target.max)), low)
    if spec.kind == "distinct":
        low = min(low, int(target.max) - size)
        return (rng.permutation(size) + low).astype(target.numpy).reshape(spec.shape)
    return rng.integers(low, high, spec.shape, endpoint=True).astype(target.numpy)


def differentiable(sample: Sample, dtype: DType) -> bool:
    """Finite differences are taken in float64 and complex128 only."""
    return sample.grad and dtype in (float64, complex128)


def mismatch(
    expected: np.ndarray, found: np.ndarray, tolerance: float = 1.0, sums: bool = False
) -> str | None:
    """Why two arrays differ beyond rounding, or None.

    Results that are `sums` may cancel: their error is relative to the typical size of the result.
    """
    found = np.asarray(found)
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{found.dtype}{list(found.shape)} instead of {expected.dtype}{list(expected.shape)}"
    relative = RELATIVE.get(expected.dtype.name)
    if relative is None:
        return None if np.array_equal(expected, found) else differing(expected, found)
    if found.dtype.name.startswith("complex"):
        pairs = [as_border(np.ascontiguousarray(x)) for x in (expected, found)]
        expected, found = pairs
    a, b = expected.astype(np.float64), found.astype(np.float64)
    many_roundings = 10.0 if sums and expected.dtype.itemsize > 2 else 1.0
    limit = relative * tolerance * many_roundings
    finite = a[np.isfinite(a)]
    size = max(1.0, float(np.sqrt(np.mean(finite**2)))) if sums and finite.size else 1.0
    if np.allclose(b, a, rtol=limit, atol=limit * size, equal_nan=True):
        return None
    return differing(
        expected, found, np.isclose(b, a, rtol=limit, atol=limit * size, equal_nan=True)
    )


def differing(expected: np.ndarray, found: np.ndarray, close: np.ndarray | None = None) -> str:
    """The first few elements that differ."""
    wrong = np.argwhere(expected != found if close is None else ~close)
    shown = [f"{i.tolist()}: {found[tuple(i)]!r} for {expected[tuple(i)]!r}" for i in wrong[:4]]
    return f"{len(wrong)} of {expected.size} elements differ, {'; '.join(shown)}"


def unknown_forms(types: tuple[TensorType, ...]) -> Iterator[tuple[TensorType, ...]]:
    """The same types knowing less: each single size unknown, all of one input, all of all."""
    for i, t in enumerate(types):
        for axis in range(t.rank or 0):
            shape = tuple(None if a == axis else d for a, d in enumerate(t.static_shape))
            yield (*types[:i], TensorType(shape, t.dtype), *types[i + 1 :])
    free = tuple(TensorType((None,) * (t.rank or 0), t.dtype) for t in types)
    for chosen in itertools.product(*((False, True) for _ in types)):
        yield tuple(f if c else t for f, t, c in zip(free, types, chosen, strict=True))
