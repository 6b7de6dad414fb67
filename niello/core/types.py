"""TensorType: what is known of a tensor before it has a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from niello.core.dtypes import DType, dtype, float32
from niello.core.errors import ShapeError
from niello.core.shapes import MAX_RANK, Shape, StaticShape, as_shape, is_static, show


@dataclass(frozen=True, init=False, repr=False)
class TensorType:
    """Shape and element type of a tensor.

    `shape` is a tuple of sizes, with None for a size known only at run time, or None when the rank
    is unknown too. `dtype` is a Niello dtype, its name, or a NumPy dtype.

    Example:
        >>> import niello as nl
        >>> nl.TensorType((64, None), nl.float32)
        float32[64, ?]
    """

    shape: Shape | None
    dtype: DType

    def __init__(self, shape: Any, dtype_: Any = float32) -> None:
        object.__setattr__(self, "shape", as_shape(shape, "TensorType"))
        object.__setattr__(self, "dtype", dtype(dtype_))
        if self.dtype.is_complex and len(self.shape or ()) == MAX_RANK:
            raise ShapeError(
                "TensorType",
                f"a complex tensor has at most {MAX_RANK - 1} dimensions",
                received=list(self.shape or ()),
                advice="Merge two of them, or keep its parts as two tensors",
            )

    @property
    def is_static(self) -> bool:
        """True when every size is known."""
        return is_static(self.shape)

    @property
    def rank(self) -> int | None:
        """Number of dimensions, or None when unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def static_shape(self) -> StaticShape:
        """The shape as ints. Only for types that are static."""
        assert self.shape is not None and None not in self.shape, f"{self} is not static"
        return self.shape  # type: ignore[return-value]

    @property
    def elements(self) -> int:
        """Number of elements of a static type."""
        return math.prod(self.static_shape)

    @property
    def bytes(self) -> int:
        """Size in memory of a static type."""
        return self.elements * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.dtype.name}{show(self.shape)}"
