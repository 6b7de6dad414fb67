"""Matrix products with batch broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import FLOATS, NUMBERS, DType
from niello.core.errors import DTypeError, ShapeError
from niello.core.records import frozen
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


def accumulator(dtype: DType, asked: DType | None = None) -> DType:
    """The dtype that sums of products are accumulated in: the one asked for, or the default."""
    if asked is not None:
        return asked
    if dtype.is_half:
        return dtypes.float32
    if dtype.is_integer and dtype.bits < 32:
        return dtypes.int32 if dtype.kind == "int" else dtypes.uint32
    return dtype


def check_accumulate(asked: str, dtype: DType, accumulate: DType | None) -> None:
    """Refuse an accumulation dtype that holds less than the default one, or another kind."""
    least = accumulator(dtype)
    if accumulate is None or (accumulate.kind == least.kind and accumulate.bits >= least.bits):
        return
    raise DTypeError(
        asked,
        f"sums of products of {dtype.name} are accumulated in {least.name} or a wider type",
        received=f"accumulate={accumulate.name}",
        advice=f"Use accumulate={least.name}, which is the default",
        dtype=accumulate,
    )


def as_accumulate(value: Any) -> DType | None:
    """A user's `accumulate=`: None, or anything that names a dtype."""
    return None if value is None else dtypes.dtype(value)


def summed(
    call: Callable[..., Any], arrays: Sequence[np.ndarray], accumulate: DType | None
) -> np.ndarray:
    """`call` on arrays in the dtype that a reference sums in, rounded back to theirs."""
    if accumulate is None:
        return np.asarray(half_as_float32(call, arrays)).astype(arrays[0].dtype, copy=False)
    wide = [a.astype(accumulate.numpy) for a in arrays]
    return np.asarray(call(*wide)).astype(arrays[0].dtype)


@register
@frozen
class Matmul(Op):
    """Matrix product of the last two axes; leading axes broadcast."""

    accumulate: DType | None = None  # None: float32 for half types, 32 bits for small integers
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
        check_accumulate(self.name, a.dtype, self.accumulate)
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
        return summed(np.matmul, (a, b), self.accumulate)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        g, (a, b) = gradients[0], inputs
        assert g is not None
        swap = opdef.functions()["swap_axes"]
        acc = self.accumulate
        return (
            unbroadcast(matmul(g, swap(b, -1, -2), accumulate=acc), a),
            unbroadcast(matmul(swap(a, -1, -2), g, accumulate=acc), b),
        )

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        a, b = inputs
        *batch, row, column = index
        acc = accumulator(a.dtype, self.accumulate)
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
            sample(real(3, 4), real(4, 5), dtypes=FLOATS, accumulate=dtypes.float64),
        )


@opdef.function
def matmul(a: Any, b: Any, *, accumulate: Any = None, name: str | None = None) -> Tensor:
    """Matrix product [..., m, k] x [..., k, n] -> [..., m, n]; leading axes broadcast.

    A one-dimensional operand is a row on the left and a column on the right, as in numpy.matmul.
    Half types accumulate in float32, 8- and 16-bit integers in 32 bits; `accumulate` asks for a
    wider dtype. Raises ShapeError when the inner dimensions differ, DTypeError for an `accumulate`
    that holds less than the default.

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
    result = a.graph.apply(Matmul(as_accumulate(accumulate)), a, b, name=name)
    if row:
        result = functions["squeeze"](result, axes=-2)
    if column:
        result = functions["squeeze"](result, axes=-1)
    return result  # type: ignore[return-value]
