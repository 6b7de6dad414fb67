"""What NIELLO_VERIFY asks for: after each pass the graph is well formed (1) and, where evaluating
it is cheap, still has the values it had before (2)."""

from __future__ import annotations

import zlib

import numpy as np

from niello.core import config
from niello.core.errors import CompilerBug, NielloError
from niello.core.types import TensorType
from niello.graph.evaluate import evaluate
from niello.graph.operation import Operation
from niello.graph.region import RegionOp
from niello.graph.structural import Assign, ReadVariable
from niello.graph.tensor import Tensor
from niello.graph.verify import verify
from niello.passes.computation import Computation
from niello.passes.split_complex import as_border

# Graphs with more elements in all tensors than this are verified but not evaluated.
MOST_ELEMENTS = 1 << 20
# Relative difference that another order of the same arithmetic may make.
CLOSE = {2: 5e-2, 4: 1e-3, 8: 1e-7}


class Watch:
    """The verifier of one compilation. Does nothing when NIELLO_VERIFY is 0."""

    def __init__(self, source: Computation, types: tuple[TensorType, ...]) -> None:
        self.level = config.VERIFY.integer(0, 2)
        self.source = source
        self.types = types
        self.expected: list[np.ndarray] | None = None
        if self.level == 0:
            return
        verify(source.graph)
        # Ordered reads depend on assignments, which evaluation does not perform.
        ordered = any(_ordered(o) for o in source.reachable())
        self.compares = self.level >= 2 and not ordered

    def after(self, stage: str, found: Computation, *, rounds: bool = False) -> None:
        """Check a computation that a pass made; raises CompilerBug naming the pass.

        A pass that `rounds` changes values on purpose: those after it are compared with its own.
        """
        if self.level == 0:
            return
        try:
            verify(found.graph)
        except NielloError as error:
            raise CompilerBug(f"pass {stage}", f"left a broken graph: {error}") from error
        if rounds:
            self.source, self.expected = found, None
        elif self.compares:
            self._compare(stage, found)

    def _compare(self, stage: str, found: Computation) -> None:
        sizes = [t.type for o in found.reachable() for t in o.outputs]
        if not all(t.is_static for t in sizes) or sum(t.elements for t in sizes) > MOST_ELEMENTS:
            return
        if self.expected is None:
            self.expected = self._values(self.source)
        for i, (a, b) in enumerate(zip(self.expected, self._values(found), strict=True)):
            if not _close(a, b):
                raise CompilerBug(
                    f"pass {stage}",
                    f"changed the value of {roots(found)[i].name}",
                    received=f"{np.array2string(b, threshold=20)} in place of "
                    f"{np.array2string(a, threshold=20)}",
                    stage=stage,
                )

    def _values(self, computation: Computation) -> list[np.ndarray]:
        given = [arbitrary(kind) for kind in self.types]
        # Complex tensors are pairs of real ones after a pass, and so comparable.
        feeds = {
            t: a if t.dtype.is_complex else as_border(a)
            for t, a in zip(computation.inputs, given, strict=True)
        }
        return [as_border(a) for a in evaluate(roots(computation), feeds)]


def _ordered(operation: Operation) -> bool:
    op = operation.op
    return isinstance(op, ReadVariable) or (isinstance(op, RegionOp) and bool(op.read))


def roots(computation: Computation) -> list[Tensor]:
    """Everything a computation delivers: its targets, then what it assigns."""
    assigned = [o.inputs[1] for o in computation.reachable() if isinstance(o.op, Assign)]
    return [*computation.targets, *assigned]


def arbitrary(kind: TensorType) -> np.ndarray:
    """Values for a placeholder, the same for the same type."""
    rng = np.random.default_rng(zlib.crc32(repr(kind).encode()))
    shape = kind.static_shape
    if kind.dtype.is_complex:
        plane = TensorType((*shape, 2), kind.dtype.plane)
        return arbitrary(plane).view(kind.dtype.numpy).reshape(shape)
    if kind.dtype.is_float:
        return rng.uniform(-1.0, 1.0, shape).astype(kind.dtype.numpy)
    return rng.integers(0, 2, shape).astype(kind.dtype.numpy)


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind in "biu":
        return bool(np.array_equal(a, b))
    limit = CLOSE[a.dtype.itemsize]
    wide = a.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    size = float(finite.max()) if finite.size else 0.0
    return bool(
        np.allclose(b.astype(np.float64), wide, rtol=limit, atol=limit * size, equal_nan=True)
    )
