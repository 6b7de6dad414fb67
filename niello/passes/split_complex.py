"""Complex tensors become pairs of real ones: what comes after knows no complex numbers.

At the border of a computation - placeholders, variables, constants, targets - a complex tensor is a
real one with a last axis of two: the same bytes, so nothing is converted when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from niello.core import dtypes
from niello.core.errors import UnsupportedOp
from niello.core.types import TensorType
from niello.graph.opdef import Planes, Trait, functions
from niello.graph.operation import Operation
from niello.graph.region import RegionOp, needed
from niello.graph.structural import Constant, Placeholder, VariableOp
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild
from niello.passes.decompose import Decompose, Keeps
from niello.passes.regions import mapped


@dataclass(frozen=True)
class SplitComplex:
    """Replace every complex tensor by its planes. Types must be static. What that makes is
    decomposed again, but for what `keeps` says (see Decompose)."""

    keeps: Keeps | None = None

    def __call__(self, source: Computation) -> Computation:
        if not any(_is_complex(o) for o in source.reachable()):
            return source
        return Decompose(self.keeps)(_Split(source, self).computation())


def _is_complex(operation: Operation) -> bool:
    op = operation.op
    if isinstance(op, RegionOp) and any(_is_complex(o) for r in op.regions for o in needed(r)):
        return True
    return any(t.dtype.is_complex for t in (*operation.inputs, *operation.outputs))


def border_type(type: TensorType) -> TensorType:
    """The type of the real tensor that stands for a complex one at the border."""
    if not type.dtype.is_complex:
        return type
    return TensorType((*type.static_shape, 2), type.dtype.plane)


def as_border(array: np.ndarray) -> np.ndarray:
    """A complex array as the real one that stands for it; others are their own."""
    kind = dtypes.dtype(array.dtype)
    if not kind.is_complex:
        return array
    flat = np.ascontiguousarray(array).reshape(-1).view(kind.plane.numpy)
    return flat.reshape(*array.shape, 2)


def joined(z: Planes) -> Tensor:
    """The real tensor that stands for a complex one at the border."""
    if z.pairs is not None:
        return z.pairs
    return functions()["stack"]([z.real, z.imaginary], axis=-1)  # type: ignore[no-any-return]


def parted(tensor: Tensor) -> Planes:
    """The planes of the tensor that stands for a complex one."""
    real, imaginary = functions()["unstack"](tensor, axis=-1)
    return Planes(real, imaginary, tensor)


class _Split:
    """The walk: each tensor of the source is a tensor, or planes, of the result."""

    def __init__(self, source: Computation, inside: SplitComplex) -> None:
        self.source = source
        self.inside = inside
        self.rebuild = Rebuild(source)
        self.graph = self.rebuild.graph
        self.found: dict[Tensor, Tensor | Planes] = {}
        self.border: dict[Tensor, Tensor] = {}

    def computation(self) -> Computation:
        for operation in self.source.reachable():
            before = len(self.graph.operations)
            with self.graph.in_place_of(operation):
                outputs = self._outputs(operation)
            made = tuple(self.graph.operations[before:])
            # Control dependencies on what vanished fall on those that made its parts.
            self.rebuild.operations[operation] = made or tuple(
                t.operation for value in outputs for t in _tensors(value)
            )
            for old, new in zip(operation.outputs, outputs, strict=True):
                self.found[old] = new
        return Computation(
            self.graph,
            tuple(self._border(t) for t in self.source.inputs),
            tuple(self._border(t) for t in self.source.targets),
            tuple(n for old in self.source.operations for n in self.rebuild.operations[old]),
        )

    def _border(self, old: Tensor) -> Tensor:
        """A tensor as it crosses the border."""
        known = self.border.get(old)
        if known is None:
            new = self.found[old]
            known = joined(new) if isinstance(new, Planes) else new
            self.border[old] = known
        return known

    def _outputs(self, operation: Operation) -> Sequence[Tensor | Planes]:
        if not _is_complex(operation):
            inputs = [self.found[t] for t in operation.inputs]
            return self.rebuild.copy(operation, inputs).outputs  # type: ignore[arg-type]
        op = operation.op
        if isinstance(op, Constant):
            return [self._constant(op)]
        if Trait.STRUCTURAL in op.traits:
            return self._structural(operation)
        if not type(op).has_planes():
            raise UnsupportedOp(
                op.name,
                "is not made for complex tensors",
                received=", ".join(str(t.type) for t in operation.inputs),
                advice="Take nl.real(x) and nl.imag(x) apart, or nl.absolute(x)",
                where=operation.where,
            )
        with self.graph.control_dependencies(self.rebuild.controls(operation)):
            inputs = [self.found[t] for t in operation.inputs]
            outputs = _applied(operation, inputs)
        return outputs

    def _structural(self, operation: Operation) -> Sequence[Tensor | Planes]:
        """Placeholders, variables, reads and assignments: they hold what stands for the tensor."""
        op: Any = operation.op
        if isinstance(op, Placeholder):
            op = Placeholder(border_type(op.type))
        elif isinstance(op, VariableOp):
            op = VariableOp(border_type(op.type), op.variable)
        elif isinstance(op, RegionOp):  # what a region takes and gives crosses its border alike
            op = mapped(op, self.inside)
        inputs = [self._border(t) for t in operation.inputs]
        outputs = self.rebuild.copy(operation, inputs, op).outputs
        planes: list[Tensor | Planes] = []
        for old, new in zip(operation.outputs, outputs, strict=True):
            self.border[old] = new
            planes.append(parted(new) if old.dtype.is_complex else new)
        return planes

    def _constant(self, op: Constant) -> Planes:
        array = op.data.array
        kind = op.dtype.plane
        if op.data.is_splat and array.size:
            one = as_border(array.reshape(-1)[:1])[0]
            parts = [self.graph.constant(v, kind, shape=array.shape) for v in one]
        else:
            both = as_border(array)
            parts = [self.graph.constant(np.array(both[..., i]), kind) for i in (0, 1)]
        return Planes(*parts)


def _applied(operation: Operation, inputs: Sequence[Tensor | Planes]) -> list[Tensor | Planes]:
    """The operation on planes, by its own rule or by what its traits say."""
    op = operation.op
    found = op.planes(*inputs) if type(op).says_planes() else _by_traits(operation, inputs)
    return list(found) if isinstance(found, (tuple, list)) else [found]


def _tensors(value: Tensor | Planes) -> tuple[Tensor, ...]:
    return (value.real, value.imaginary) if isinstance(value, Planes) else (value,)


def _by_traits(operation: Operation, inputs: Sequence[Tensor | Planes]) -> list[Tensor | Planes]:
    """Additive operations take the parts one after the other, contractions are bilinear."""
    op = operation.op
    complex_results = any(t.dtype.is_complex for t in operation.outputs)

    def applied(*parts: Tensor) -> list[Tensor]:
        made = parts[0].graph.apply(op, *parts)
        return list(made) if isinstance(made, tuple) else [made]

    def part(which: str, values: Sequence[Tensor | Planes]) -> list[Tensor]:
        return [getattr(v, which) if isinstance(v, Planes) else v for v in values]

    if not complex_results:  # only shapes are looked at
        return list(applied(*part("real", inputs)))
    if Trait.CONTRACTION in op.traits:
        a, b, *rest = inputs
        assert isinstance(a, Planes) and isinstance(b, Planes)
        more = part("real", rest)
        products = [
            applied(x, y, *more)[0]
            for x, y in (
                (a.real, b.real),
                (a.imaginary, b.imaginary),
                (a.real, b.imaginary),
                (a.imaginary, b.real),
            )
        ]
        return [Planes(products[0] - products[1], products[2] + products[3])]
    real = applied(*part("real", inputs))
    imaginary = applied(*part("imaginary", inputs))
    return [Planes(x, y) for x, y in zip(real, imaginary, strict=True)]
