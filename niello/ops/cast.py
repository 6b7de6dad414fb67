"""Conversion between element types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import ALL, COMPLEX, STORAGE, DType, compute_dtype
from niello.core.errors import DTypeError
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Planes, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.kernel.storage import bits_of, of_bits
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
# Around the smallest numbers of the 8-bit floats, their ties, and their largest.
_SMALL = np.array(
    [
        *(2.0**-6, 1.9 * 2.0**-7, 2.0**-9, 2.0**-10, 1.5 * 2.0**-9, 2.0**-14, 2.0**-16, 2.0**-17),
        *(1e-40, 448.0, 464.0, 465.0, 480.0, 57344.0, 61440.0, 61439.0, 1.0625, 1.1875, -0.0),
    ]
)
_BOUNDS = np.array([2.0**31, -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 2.0**64, 2147483520.0])


@register
@frozen
class Cast(Op):
    """See the function `cast`."""

    dtype: DType
    saturate: bool = False
    name: ClassVar[str] = "cast"
    traits: ClassVar[Trait] = Trait.ELEMENTWISE
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "Each element in another dtype: floats become integers by truncation, saturating, NaN 0; "
        "integers wrap, or saturate when asked; anything but zero is true."
    )

    def infer(self, x: TensorType) -> TensorType:
        if x.dtype.is_complex and not self.dtype.is_complex:
            raise DTypeError(
                self.name,
                "a complex tensor has two parts, and a cast to a real type would drop one",
                received=f"{x.dtype.name} to {self.dtype.name}",
                advice="Use nl.real(x), nl.imag(x) or nl.absolute(x)",
                dtype=x.dtype,
            )
        return TensorType(x.shape, self.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        if self.dtype.is_complex:
            return x.astype(np.complex128).astype(self.dtype.numpy)
        target, source = self.dtype, dtypes.dtype(x.dtype)
        plain = x.astype(source.numpy if source.is_native else compute_dtype(source).numpy)
        if source.is_float and target.is_integer:
            return _whole(plain, target).astype(target.numpy)
        if self.saturate:
            plain = _clipped(plain, source, target)
        if target.is_float and target.bits <= 16 and source is not target:
            return plain.astype(np.float32).astype(target.numpy)
        return plain.astype(target.numpy)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        (x,) = inputs
        if gradients[0] is not None and self.dtype.is_complex:
            if x.dtype.is_complex:
                return (cast_to(gradients[0], x.dtype),)
            part = opdef.functions()["real"](gradients[0])
            return (cast_to(part, x.dtype) if x.dtype.is_float else None,)
        if gradients[0] is None or not (x.dtype.is_float and self.dtype.is_float):
            return (None,)
        return (cast_to(gradients[0], x.dtype),)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x = inputs[0](*index)
        target, source = self.dtype, inputs[0].dtype
        if source.is_float and target.is_integer:
            return _truncated(k, x, target)
        if self.saturate and target is not source:
            low, high = _common(source, target)
            if low is not None:
                x = k.max(x, low)
            if high is not None:
                x = k.min(x, high)
        if target.is_half:  # rounded here, wherever the result goes
            return k.cast(k.cast(x, target), dtypes.float32)
        made = k.cast(x, compute_dtype(target))
        return of_bits(bits_of(made, target), target) if target.is_storage else made

    def planes(self, x: Any) -> Any:
        part = self.dtype.plane
        if isinstance(x, Planes):
            return Planes(cast_to(x.real, part), cast_to(x.imaginary, part))
        whole = cast_to(x, part)
        return Planes(whole, whole.graph.constant(0, part, shape=whole.shape))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        plain = (*ALL, *STORAGE)
        every = (*ALL, *STORAGE)
        return [
            # Finite differences need the digits of float64.
            *(
                Sample((real(2, 3, low=-3.0, high=3.0),), {"dtype": d}, ALL, d is dtypes.float64)
                for d in (*ALL, dtypes.complex64)
            ),
            *(
                Sample((real(2, 3),), {"dtype": d}, COMPLEX, d is dtypes.complex128)
                for d in COMPLEX
            ),
            *(
                sample(real(3, 3, low=-40.0, high=40.0), dtypes=plain, grad=False, dtype=d)
                for d in STORAGE
            ),
            *(sample(_EXTREMES, dtype=d, grad=False) for d in every),
            *(sample(_BOUNDS, dtype=d, grad=False) for d in (*dtypes.INTEGERS, *STORAGE)),
            *(sample(_SMALL, dtype=d, grad=False) for d in STORAGE if d.is_float),
            *(sample(_EXTREMES, dtype=d, saturate=True, grad=False) for d in every),
            *(
                Sample(
                    (real(3, 4, low=-300.0, high=300.0),),
                    {"dtype": d, "saturate": True},
                    plain,
                    False,
                )
                for d in (*dtypes.INTEGERS, *STORAGE, dtypes.float16)
            ),
            *(sample(_every(d), dtype=dtypes.float32, grad=False) for d in STORAGE),
            sample(_every(dtypes.int4), dtype=dtypes.uint4, grad=False),
            Sample((real(0, 3),), {"dtype": dtypes.float64}, ALL),
        ]


def _whole(x: np.ndarray, target: DType) -> np.ndarray:
    """Floats as integers of a range, toward zero, saturating, NaN 0."""
    whole = np.trunc(x.astype(np.float64) if x.dtype.itemsize < 8 else x)
    low, high = float(target.min), float(target.max)
    kind = compute_dtype(target).numpy
    # The largest 64-bit integers round up as floats, so compare with >= and never convert them.
    above, below = whole >= high, whole <= low
    inside = np.where(above | below | np.isnan(whole), 0.0, whole).astype(kind)
    inside = np.where(above, kind.type(target.max), inside)
    return np.where(below, kind.type(target.min), inside)


def _truncated(k: Builder, x: Expr, target: DType) -> Expr:
    if target.bits >= 32 and target is not dtypes.uint32:
        return k.cast(x, target)
    # Kernels saturate at int32, int64 and uint64; narrower ranges are clamped there.
    wide = dtypes.int64 if target is dtypes.uint32 else dtypes.int32
    whole = k.cast(x, wide)
    clamped = k.min(k.max(whole, int(target.min)), int(target.max))
    return k.cast(clamped, compute_dtype(target))


def _common(source: DType, target: DType) -> tuple[Any, Any]:
    """Limits of `target` that values of `source` may go beyond; None where they do not."""
    if dtypes.bool_ in (source, target):
        return None, None
    low = target.min if source.min < target.min else None
    high = target.max if source.max > target.max else None
    return low, high


def _clipped(x: np.ndarray, source: DType, target: DType) -> np.ndarray:
    low, high = _common(source, target)
    kind = x.dtype.type
    if low is not None:
        x = np.maximum(x, kind(low))
    return x if high is None else np.minimum(x, kind(high))


def _every(dtype: DType) -> np.ndarray:
    """Every value of a storage type but NaN."""
    codes = np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy)
    return codes[~np.isnan(codes.astype(np.float32))]


@opdef.function
def cast(x: Any, dtype: Any, *, saturate: bool = False, name: str | None = None) -> Tensor:
    """Each element of `x` in another dtype (a Niello dtype, its name, or a NumPy dtype).

    A float becomes an integer by truncation toward zero; what does not fit saturates and NaN gives
    0 (NumPy leaves these undefined). Integers wrap. To floats of 16 and 8 bits values go through
    float32; beyond their range they become infinite, or NaN where there is no infinity
    (float8_e4m3fn), as in ml_dtypes and PyTorch. With `saturate` integers and floats alike stop at
    the largest or smallest finite value of a dtype with a smaller range, infinities too; NaN stays
    NaN. Anything but zero, NaN included, is true. The gradient passes between floats only. Raises
    DTypeError for an unknown dtype.

    int4, uint4, float8_e4m3fn and float8_e5m2 are storage types: they are cast, bitcast and
    quantized, and computed with in another dtype.

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
    return tensor.graph.apply(Cast(target, bool(saturate)), tensor, name=name)  # type: ignore[return-value]
