"""Matrix products with batch broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import NUMBERS, DType
from niello.core.errors import ShapeError
from niello.core.shapes import broadcast_shapes, show
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import (
    broadcast_index,
    check_dtype,
    half_as_float32,
    operands,
    unbroadcast,
)


def accumulator(dtype: DType) -> DType:
    """The dtype that sums of products are accumulated in."""
    if dtype.is_half:
        return dtypes.float32
    if dtype.is_integer and dtype.bits < 32:
        return dtypes.int32 if dtype.kind == "int" else dtypes.uint32
    return dtype


@register
@dataclass(frozen=True)
class Matmul(Op):
    """Matrix product of the last two axes; leading axes broadcast."""

    name: ClassVar[str] = "matmul"
    traits: ClassVar[Trait] = Trait.CONTRACTION
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "Matrix product [..., m, k] x [..., k, n] -> [..., m, n] with broadcast leading axes; "
        "half types accumulate in float32 (numpy.matmul)."
    )

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        check_dtype(self.name, a.dtype, self.dtypes)
        check_dtype(self.name, b.dtype, (a.dtype,))
        if a.shape is None or b.shape is None:
            return TensorType(None, a.dtype)
        if len(a.shape) < 2 or len(b.shape) < 2:
            raise ShapeError(
                self.name,
                "operands need at least two dimensions",
                received=f"{show(a.shape)} and {show(b.shape)}",
            )
        inner_a, inner_b = a.shape[-1], b.shape[-2]
        if inner_a is not None and inner_b is not None and inner_a != inner_b:
            raise ShapeError(
                self.name,
                f"inner dimensions differ: {inner_a} != {inner_b}",
                received=f"a {show(a.shape)} and b {show(b.shape)}",
                advice="Transpose b, or check the order",
                a=a.shape,
                b=b.shape,
            )
        batch = broadcast_shapes(self.name, a.shape[:-2], b.shape[:-2])
        assert batch is not None
        return TensorType((*batch, a.shape[-2], b.shape[-1]), a.dtype)

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(half_as_float32(np.matmul, (a, b))).astype(a.dtype, copy=False)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        g, (a, b) = gradients[0], inputs
        assert g is not None
        swap = opdef.functions()["swap_axes"]
        return (
            unbroadcast(matmul(g, swap(b, -1, -2)), a),
            unbroadcast(matmul(swap(a, -1, -2), g), b),
        )

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        a, b = inputs
        *batch, row, column = index
        acc = accumulator(a.dtype)
        at = broadcast_index(tuple(batch), a.shape[:-2])
        bt = broadcast_index(tuple(batch), b.shape[:-2])
        found = k.contract(
            (a.shape[-1],),
            lambda r: k.cast(a(*at, row, r), acc),
            lambda r: k.cast(b(*bt, r, column), acc),
            acc,
        )
        return k.cast(found, dtypes.compute_dtype(a.dtype))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return (
            sample(real(3, 4), real(4, 5)),
            sample(real(2, 3, 4), real(4, 2)),
            sample(real(2, 1, 3, 4), real(5, 4, 2)),
            sample(real(1, 1), real(1, 1)),
            sample(real(17, 33), real(33, 19), grad=False),
            sample(real(3, 0), real(0, 2)),
            sample(real(0, 3), real(3, 2)),
        )


@opdef.function
def matmul(a: Any, b: Any, *, name: str | None = None) -> Tensor:
    """Matrix product [..., m, k] x [..., k, n] -> [..., m, n]; leading axes broadcast.

    A one-dimensional operand is a row on the left and a column on the right, as in numpy.matmul.
    Half types accumulate in float32, 8- and 16-bit integers in 32 bits. Raises ShapeError when the
    inner dimensions differ.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.matmul(graph.placeholder((8, 64)), graph.placeholder((64, 10)))
        <Tensor 'matmul': float32[8, 10]>
    """
    a, b = operands("matmul", a, b)
    functions = opdef.functions()
    row, column = a.rank == 1, b.rank == 1
    if a.rank == 0 or b.rank == 0:
        raise ShapeError(
            "matmul",
            "a scalar is no matrix",
            received=f"{a.type} and {b.type}",
            advice="Use * to scale",
        )
    if row:
        a = functions["expand_dims"](a, axes=0)
    if column:
        b = functions["expand_dims"](b, axes=-1)
    result = a.graph.apply(Matmul(), a, b, name=name)
    if row:
        result = functions["squeeze"](result, axes=-2)
    if column:
        result = functions["squeeze"](result, axes=-1)
    return result  # type: ignore[return-value]
