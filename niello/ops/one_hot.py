"""one_hot: positions as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes as element_types
from niello.core.dtypes import ALL, INTEGERS, DType, bool_, compute_dtype, float32, int64
from niello.core.errors import AttributeValueError
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    function,
    not_differentiable,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import check_dtype
from niello.ops.movement import apply, integer, known_axis, tensor_of


@register
@frozen
class OneHot(Op):
    depth: int
    axis: int  # of the result
    dtype: DType
    on: float
    off: float
    name: ClassVar[str] = "one_hot"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = INTEGERS
    doc: ClassVar[str] = (
        "A new axis of size `depth` that holds `on` at the position of each index and `off` "
        "elsewhere; an index outside of 0 to depth - 1 gives `off` only. As TensorFlow one_hot."
    )
    grad = not_differentiable("its input holds indices")

    def infer(self, index: TensorType) -> TensorType:
        check_dtype(self.name, index.dtype, self.dtypes)
        if index.shape is None:
            return TensorType(None, self.dtype)
        axis = known_axis(self.name, self.axis, len(index.shape) + 1)
        return TensorType((*index.shape[:axis], self.depth, *index.shape[axis:]), self.dtype)

    def reference(self, index: np.ndarray) -> np.ndarray:
        axis = known_axis(self.name, self.axis, index.ndim + 1)
        places = np.arange(self.depth).reshape(-1, *[1] * (index.ndim - axis))
        hit = np.expand_dims(index.astype(np.int64), axis) == places
        return np.where(hit, self.on, self.off).astype(self.dtype.numpy)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        axis = known_axis(self.name, self.axis, len(index))
        found = k.cast(inputs[0](*index[:axis], *index[axis + 1 :]), int64)
        kind = compute_dtype(self.dtype)
        return k.where(found.eq(index[axis]), k.const(self.on, kind), k.const(self.off, kind))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(depth: int, axis: int, dtype: DType, on: float, off: float, *shape: int) -> Sample:
            return sample(
                real(*shape, low=0, high=4),
                depth=depth,
                axis=axis,
                dtype=dtype,
                on=on,
                off=off,
                grad=False,
            )

        outside = np.array([-1, 0, 3, 7], np.int32)
        return [
            one(4, -1, float32, 1.0, 0.0, 3),
            one(4, 0, float32, 1.0, 0.0, 3, 2),
            one(3, 1, ALL[3], 5, -1, 3, 2),
            one(3, 1, bool_, 1, 0, 3),
            one(3, 1, ALL[9], 0.5, 0.25, 3),
            one(0, -1, float32, 1.0, 0.0, 3),
            one(4, -1, float32, 1.0, 0.0),
            sample(outside, depth=4, axis=-1, dtype=float32, on=1.0, off=0.0, grad=False),
        ]


@function
def one_hot(
    indices: Tensor,
    depth: int,
    *,
    axis: int = -1,
    dtype: Any = float32,
    on: float = 1.0,
    off: float = 0.0,
    name: str | None = None,
) -> Tensor:
    """`on` at the position each index names along a new axis of size `depth`, `off` elsewhere.

    The new axis is `axis` of the result. An index outside of 0 to depth - 1 (a negative one too)
    gives `off` only. Raises DTypeError for indices that are not integers. As TensorFlow's one_hot.

    Example:
        >>> import niello as nl
        >>> nl.one_hot(nl.Graph().placeholder((None,), nl.int32), 10).shape
        (None, 10)
    """
    rank = tensor_of("one_hot", indices).rank
    size = integer("one_hot", depth, "the depth")
    if size < 0:
        raise AttributeValueError("one_hot", "the depth must not be negative", received=size)
    kind = element_types.dtype(dtype)
    where = known_axis("one_hot", axis, None if rank is None else rank + 1)
    number = float if kind.is_float else int
    return apply(OneHot(size, where, kind, number(on), number(off)), indices, name=name)
