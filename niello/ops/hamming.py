"""Hamming distance: how many bits of two vectors differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import DType, int32, int64, uint8, uint16, uint32
from niello.core.errors import ShapeError
from niello.core.shapes import broadcast_shapes, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, function, not_differentiable, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import broadcast_index, check_dtype, operands
from niello.ops.movement import apply

WORDS = (uint8, uint16, uint32)
RESULTS = (uint32, uint16, int32, int64)


@register
@dataclass(frozen=True)
class HammingDistance(Op):
    """Numbers of bits that differ, for all pairs of vectors."""

    dtype: DType = uint32
    name: ClassVar[str] = "hamming_distance"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = WORDS
    doc: ClassVar[str] = (
        "Numbers of differing bits of all pairs of vectors of words, "
        "[..., m, w] and [..., n, w] -> [..., m, n]; leading axes broadcast."
    )
    grad = not_differentiable("its inputs are integers")

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        check_dtype(self.name, a.dtype, self.dtypes)
        check_dtype(self.name, b.dtype, (a.dtype,))
        if a.shape is None or b.shape is None:
            return TensorType(None, self.dtype)
        if len(a.shape) < 2 or len(b.shape) < 2:
            raise ShapeError(
                self.name,
                "operands need at least two dimensions",
                received=f"{show(a.shape)} and {show(b.shape)}",
                advice="Add an axis for a single vector",
            )
        if None not in (a.shape[-1], b.shape[-1]) and a.shape[-1] != b.shape[-1]:
            raise ShapeError(
                self.name,
                "the vectors differ in length",
                received=f"{show(a.shape)} and {show(b.shape)}",
                advice="The last axis of both holds the words of a vector",
            )
        batch = broadcast_shapes(self.name, a.shape[:-2], b.shape[:-2])
        assert batch is not None
        return TensorType((*batch, a.shape[-2], b.shape[-2]), self.dtype)

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        differing = a[..., :, None, :] ^ b[..., None, :, :]
        octets = np.ascontiguousarray(differing).view(np.uint8)
        counts = np.array([bin(i).count("1") for i in range(256)], np.uint64)
        return counts[octets].sum(-1, dtype=np.uint64).astype(self.dtype.numpy)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        a, b = inputs
        *batch, row, column = index
        at = broadcast_index(tuple(batch), a.shape[:-2])
        bt = broadcast_index(tuple(batch), b.shape[:-2])

        def term(r: Expr) -> Expr:
            return k.cast(k.popcount(a(*at, row, r) ^ b(*bt, column, r)), uint32)

        return k.cast(k.reduce("add", (a.shape[-1],), term), self.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        generator = np.random.default_rng(3)

        def words(*shape: int, kind: Any = np.uint32) -> np.ndarray:
            return generator.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)

        return [
            sample(words(3, 5), words(4, 5)),
            sample(words(2, 3, 4), words(1, 2, 4), dtype=int32),
            sample(words(3, 40, kind=np.uint8), words(2, 40, kind=np.uint8), dtype=uint16),
            sample(words(2, 7, kind=np.uint16), words(2, 7, kind=np.uint16)),
            sample(words(2, 0), words(3, 0)),
            sample(words(0, 2), words(3, 2)),
        ]


@function
def hamming_distance(a: Any, b: Any, *, dtype: Any = uint32, name: str | None = None) -> Tensor:
    """How many bits differ, for all pairs of a vector of `a` and one of `b`.

    The last axis holds the words (uint8, uint16 or uint32) of a vector, the one before it counts
    the vectors: [..., m, w] and [..., n, w] give [..., m, n], leading axes broadcast. The result is
    uint32, or by `dtype` uint16, int32 or int64. No gradient. Raises DTypeError for other words,
    ShapeError for vectors of different lengths. As MPSGraph's HammingDistance.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> d = nl.hamming_distance(g.constant([[7], [8]], nl.uint32), g.constant([[5]], nl.uint32))
        >>> g.run(targets=[d])[d].numpy().tolist()
        [[1], [3]]
    """
    first, second = operands("hamming_distance", a, b)
    wanted = dtypes.dtype(dtype)
    check_dtype("hamming_distance", wanted, RESULTS)
    return apply(HammingDistance(wanted), first, second, name=name)
