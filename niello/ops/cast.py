"""Conversion between element types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import ALL, DType, compute_dtype
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import cast_to, graph_of

# What no integer type holds, and what each just does or does not.
_EXTREMES = np.array(
    [
        np.nan,
        np.inf,
        -np.inf,
        1e30,
        -1e30,
        127.5,
        -128.9,
        255.9,
        256.0,
        -0.9,
        -1.0,
        32768.0,
        65536.0,
    ]
)
_BOUNDS = np.array([2.0**31, -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 2.0**64, 2147483520.0])


@register
@dataclass(frozen=True)
class Cast(Op):
    """See the function `cast`."""

    dtype: DType
    name: ClassVar[str] = "cast"
    traits: ClassVar[Trait] = Trait.ELEMENTWISE
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "Each element in another dtype: floats become integers by truncation, saturating, NaN 0; "
        "integers wrap; anything but zero is true."
    )

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(x.shape, self.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        target = self.dtype.numpy
        if self.dtype.is_half and x.dtype != target:
            return x.astype(np.float32).astype(target)
        if not (dtypes.dtype(x.dtype).is_float and self.dtype.is_integer):
            return x.astype(target)
        whole = np.trunc(x.astype(np.float64) if x.dtype.itemsize < 8 else x)
        low, high = float(self.dtype.min), float(self.dtype.max)
        # The largest 64-bit integers round up as floats, so compare with >= and never convert them.
        above, below = whole >= high, whole <= low
        inside = np.where(above | below | np.isnan(whole), 0.0, whole).astype(target)
        inside = np.where(above, target.type(self.dtype.max), inside)
        return np.where(below, target.type(self.dtype.min), inside)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        (x,) = inputs
        if gradients[0] is None or not (x.dtype.is_float and self.dtype.is_float):
            return (None,)
        return (cast_to(gradients[0], x.dtype),)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x = inputs[0](*index)
        target = self.dtype
        narrow = target.is_integer and (target.bits < 32 or target is dtypes.uint32)
        if target.is_half:  # rounded here, wherever the result goes
            return k.cast(k.cast(x, target), dtypes.float32)
        if not (x.dtype.is_float and narrow):
            return k.cast(x, compute_dtype(target))
        # Kernels saturate at int32, int64 and uint64; narrower ranges are clamped there.
        wide = dtypes.int64 if target is dtypes.uint32 else dtypes.int32
        whole = k.cast(x, wide)
        return k.cast(k.min(k.max(whole, int(target.min)), int(target.max)), target)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            # Finite differences need the digits of float64.
            *(
                sample(real(2, 3, low=-3.0, high=3.0), grad=d is dtypes.float64, dtype=d)
                for d in ALL
            ),
            *(sample(_EXTREMES, dtype=d, grad=False) for d in ALL),
            *(sample(_BOUNDS, dtype=d, grad=False) for d in dtypes.INTEGERS),
            sample(real(0, 3), dtype=dtypes.float64),
        ]


@opdef.function
def cast(x: Any, dtype: Any, *, name: str | None = None) -> Tensor:
    """Each element of `x` in another dtype (a Niello dtype, its name, or a NumPy dtype).

    A float becomes an integer by truncation toward zero; what does not fit saturates and NaN gives
    0 (NumPy leaves these undefined). Integers wrap. Anything but zero, NaN included, is true. To
    float16 and bfloat16 values go through float32. The gradient passes between floats only.
    Raises DTypeError for an unknown dtype.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> graph.placeholder((2, 3)).cast(nl.int8).type
        int8[2, 3]
    """
    target = dtypes.dtype(dtype)
    tensor = graph_of("cast", x).as_tensor(x)
    if tensor.dtype is target and name is None:
        return tensor
    return tensor.graph.apply(Cast(target), tensor, name=name)  # type: ignore[return-value]
