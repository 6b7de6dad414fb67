"""Bits seen as another element type, and packed 4-bit integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import ALL, STORAGE, DType, bool_, int4, uint4, uint8
from niello.core.errors import DTypeError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, show
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.kernel.storage import bits_of, of_bits
from niello.ops.define import check_dtype, graph_of

_CASTABLE = tuple(d for d in (*ALL, *STORAGE) if d is not bool_)


@register
@frozen
class Bitcast(Op):
    """See the function `bitcast`."""

    dtype: DType
    name: ClassVar[str] = "bitcast"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = tuple(d for d in ALL if d is not bool_)
    doc: ClassVar[str] = (
        "The same bits as another element type; the last size changes with the width, the lowest "
        "bits come first."
    )
    grad = not_differentiable("bits have no derivative")

    def infer(self, x: TensorType) -> TensorType:
        for d in (x.dtype, self.dtype):
            check_dtype(self.name, d, _CASTABLE)
        if x.shape is None or x.dtype.bits == self.dtype.bits:
            return TensorType(x.shape, self.dtype)
        if not x.shape:
            raise ShapeError(
                self.name,
                f"a scalar of {x.dtype.bits} bits is no whole number of {self.dtype.bits} bits",
                received=str(x),
                advice="Reshape to one dimension first",
            )
        last: Dim = x.shape[-1]
        if last is not None:
            if last * x.dtype.bits % self.dtype.bits:
                raise ShapeError(
                    self.name,
                    f"{last} elements of {x.dtype.bits} bits do not divide into elements of "
                    f"{self.dtype.bits}",
                    received=show(x.shape),
                    advice="Pad the last axis first",
                )
            last = last * x.dtype.bits // self.dtype.bits
        return TensorType((*x.shape[:-1], last), self.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        source, target = dtypes.dtype(x.dtype), self.dtype
        shape = self.infer(TensorType(x.shape, source)).static_shape
        if source.bits == target.bits == 4:
            return x.view(np.uint8).view(target.numpy)
        plain = np.ascontiguousarray(x)
        if source.bits == 4:
            halves = plain.view(np.uint8) & 15
            plain = halves[..., 0::2] | halves[..., 1::2] << 4
        if target.bits == 4:
            octets = plain.reshape(-1).view(np.uint8)
            return np.stack([octets & 15, octets >> 4], -1).view(target.numpy).reshape(shape)
        return np.ascontiguousarray(plain).reshape(-1).view(target.numpy).reshape(shape)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        source, target = x.dtype, self.dtype
        wide = dtypes.BY_NAME[f"uint{max(8, target.bits)}"]
        if source.bits == target.bits:
            return of_bits(bits_of(x(*index), source), target)
        *outer, last = index
        if source.bits > target.bits:  # a part of one element
            parts = source.bits // target.bits
            whole = bits_of(x(*outer, last // parts), source)
            shift = k.cast(last % parts * target.bits, whole.dtype)
            return of_bits(k.cast(whole >> shift, wide), target)
        parts = target.bits // source.bits
        joined: Expr | None = None
        for i in range(parts):
            part = k.cast(bits_of(x(*outer, last * parts + i), source), wide) << i * source.bits
            joined = part if joined is None else joined | part
        assert joined is not None
        return of_bits(joined, target)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        to = dtypes
        found = [
            sample(real(2, 8), dtype=d)
            for d in (to.uint8, to.int16, to.uint32, to.int64, to.uint4, to.int4)
        ]
        found += [
            sample(real(3, 4), dtypes=(to.float32, to.int32), dtype=to.float32),
            sample(real(3, 4), dtypes=(to.float16, to.bfloat16, to.int16), dtype=to.bfloat16),
            sample(real(3, 4), dtypes=(to.int16, to.uint16, to.bfloat16), dtype=to.float16),
            sample(real(), dtypes=(to.float64,), dtype=to.int64),
            sample(real(0, 8), dtypes=(to.int8,), dtype=to.int32),
            sample(np.arange(16).astype(int4.numpy), dtype=uint8),
            sample(np.arange(16).astype(uint4.numpy), dtype=int4),
            sample(np.arange(16, dtype=np.uint8), dtype=to.float8_e5m2),
            sample(np.arange(112, dtype=np.uint8).view(to.float8_e4m3fn.numpy), dtype=to.int16),
        ]
        return found


@opdef.function
def bitcast(x: Any, dtype: Any, *, name: str | None = None) -> Tensor:
    """The bits of `x` as another dtype (reinterpretation, without conversion).

    The last size is multiplied by the ratio of the widths: int32[2, 3] is uint8[2, 12], uint8[4] is
    int4[8]. The lowest bits come first (little-endian). A NaN of float16 or of an 8-bit float has
    the bits of the usual one. Raises DTypeError for bool, ShapeError when the last axis holds no
    whole number of new elements.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> graph.placeholder((2, 3), nl.float32).bitcast(nl.uint8).type
        uint8[2, 12]
    """
    target = dtypes.dtype(dtype)
    tensor = graph_of("bitcast", x).as_tensor(x)
    return tensor.graph.apply(Bitcast(target), tensor, name=name)  # type: ignore[return-value]


@opdef.function
def pack_int4(x: Any, *, name: str | None = None) -> Tensor:
    """4-bit integers two to a byte along the last axis, the first in the low half: [..., 2 n] of
    int4 or uint4 to uint8 [..., n].

    Other integers are cast to int4 or uint4 first, keeping their low four bits. Raises ShapeError
    for an odd last size.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.pack_int4(graph.placeholder((8, 6), nl.int8)).type
        uint8[8, 3]
    """
    tensor = graph_of("pack_int4", x).as_tensor(x)
    if not tensor.dtype.is_integer:
        raise DTypeError(
            "pack_int4",
            "only integers are packed",
            received=tensor.dtype.name,
            advice="Quantize first",
            dtype=tensor.dtype,
        )
    if tensor.dtype not in (int4, uint4):
        tensor = opdef.functions()["cast"](tensor, int4 if tensor.dtype.kind == "int" else uint4)
    return bitcast(tensor, uint8, name=name)


@opdef.function
def unpack_int4(x: Any, *, signed: bool = True, name: str | None = None) -> Tensor:
    """The 4-bit integers that bytes hold, two each, the low half first: uint8 [..., n] to int4 (or
    uint4) [..., 2 n]. In a kernel that reads them, they are read as packed bytes.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.unpack_int4(graph.placeholder((8, 3), nl.uint8)).type
        int4[8, 6]
    """
    tensor = graph_of("unpack_int4", x).as_tensor(x)
    check_dtype("unpack_int4", tensor.dtype, (uint8,))
    return bitcast(tensor, int4 if signed else uint4, name=name)
