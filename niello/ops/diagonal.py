"""Matrices' bands and diagonals: band_part, tril, triu, diagonal, diag_embed, trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, Shape, show
from niello.core.types import TensorType
from niello.graph.opdef import Sample, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.movement import (
    LikeOp,
    Movement,
    apply,
    integer,
    known_axis,
    tensor_of,
)


def _matrices(asked: str, shape: Shape | None) -> None:
    if shape is not None and len(shape) < 2:
        raise ShapeError(
            asked,
            "takes matrices",
            received=show(shape),
            advice="Give a tensor of rank 2 or more",
        )


@register
@frozen
class BandPart(Movement):
    below: int | None  # diagonals kept below the main one; None: all
    above: int | None
    name: ClassVar[str] = "band_part"
    doc: ClassVar[str] = (
        "The matrices of the last two axes with zeros outside of a band of diagonals. As "
        "TensorFlow band_part."
    )

    def infer(self, x: TensorType) -> TensorType:
        _matrices(self.name, x.shape)
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        row, column = np.ogrid[: x.shape[-2], : x.shape[-1]]
        kept = np.ones(x.shape[-2:], bool)
        if self.below is not None:
            kept &= row - column <= self.below
        if self.above is not None:
            kept &= column - row <= self.above
        return np.where(kept, x, np.zeros((), x.dtype))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(self, gradients[0])]

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        return inputs[0] if self.below is None and self.above is None else None

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        row, column = index[-2:]
        kept = []
        if self.below is not None:
            kept.append(row - column <= self.below)
        if self.above is not None:
            kept.append(column - row <= self.above)
        return k.guarded(k.all_of(*kept), lambda: inputs[0](*index), 0)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(3, 4), below=0, above=None),
            sample(real(2, 4, 3), below=None, above=0),
            sample(real(4, 4), below=1, above=1),
            sample(real(4, 4), below=-1, above=2),
            sample(real(2, 2), below=None, above=None),
            sample(real(0, 3), below=0, above=0),
        ]


@function
def band_part(x: Tensor, lower: int = -1, upper: int = -1, *, name: str | None = None) -> Tensor:
    """Matrices with zeros but for `lower` diagonals below, the main one, and `upper` above it.

    A negative number keeps all on its side. Raises ShapeError for less than two axes. As
    TensorFlow's linalg.band_part.

    Example:
        >>> import niello as nl
        >>> nl.band_part(nl.Graph().placeholder((4, 4)), 1, 0).shape
        (4, 4)
    """
    below, above = integer("band_part", lower, "lower"), integer("band_part", upper, "upper")
    op = BandPart(None if below < 0 else below, None if above < 0 else above)
    return apply(op, tensor_of("band_part", x), name=name)


@function
def tril(x: Tensor, offset: int = 0, *, name: str | None = None) -> Tensor:
    """Matrices with zeros above the diagonal that lies `offset` columns to the right of the main
    one. As NumPy's tril.

    Example:
        >>> import niello as nl
        >>> nl.tril(nl.Graph().placeholder((4, 4)), -1).shape
        (4, 4)
    """
    return apply(
        BandPart(None, integer("tril", offset, "the offset")), tensor_of("tril", x), name=name
    )


@function
def triu(x: Tensor, offset: int = 0, *, name: str | None = None) -> Tensor:
    """Matrices with zeros below the diagonal that lies `offset` columns to the right of the main
    one. As NumPy's triu.

    Example:
        >>> import niello as nl
        >>> nl.triu(nl.Graph().placeholder((4, 4)), 1).shape
        (4, 4)
    """
    below = -integer("triu", offset, "the offset")
    return apply(BandPart(below, None), tensor_of("triu", x), name=name)


def _pair(asked: str, axis1: int, axis2: int, rank: int) -> tuple[int, int]:
    """Two different axes."""
    first, second = known_axis(asked, axis1, rank), known_axis(asked, axis2, rank)
    if first == second:
        raise ShapeError(
            asked, "the two axes of the matrices are the same", received=f"{axis1} and {axis2}"
        )
    return first, second


@register
@frozen
class Diagonal(Movement):
    offset: int
    axis1: int
    axis2: int
    name: ClassVar[str] = "diagonal"
    doc: ClassVar[str] = "A diagonal of two axes, which go, as a new last axis. As NumPy diagonal."

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x
        _matrices(self.name, x.shape)
        first, second = _pair(self.name, self.axis1, self.axis2, len(x.shape))
        rest = [d for a, d in enumerate(x.shape) if a not in (first, second)]
        rows, columns = x.shape[first], x.shape[second]
        length: Dim = None
        if rows is not None and columns is not None:
            length = max(0, min(rows + min(self.offset, 0), columns - max(self.offset, 0)))
        return TensorType((*rest, length), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.diagonal(x, self.offset, self.axis1, self.axis2).copy()

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        op = DiagonalGradient(self.offset, self.axis1, self.axis2)
        return [apply(op, gradients[0], inputs[0])]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        first, second = _pair(self.name, self.axis1, self.axis2, len(x.shape))
        rest = iter(index[:-1])
        source = [None if a in (first, second) else next(rest) for a in range(len(x.shape))]
        source[first] = index[-1] + max(-self.offset, 0)
        source[second] = index[-1] + max(self.offset, 0)
        return x(*source)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(3, 4), offset=0, axis1=0, axis2=1),
            sample(real(3, 4), offset=1, axis1=0, axis2=1),
            sample(real(4, 2, 3), offset=-1, axis1=-1, axis2=0),
            sample(real(3, 3), offset=5, axis1=0, axis2=1),
            sample(real(2, 3, 3), offset=0, axis1=-2, axis2=-1),
        ]


@register
@frozen
class DiagonalPlace(Movement):
    offset: int
    axis1: int  # of the result
    axis2: int
    rows: int  # -1, with columns -1: square, and as small as it can be
    columns: int
    name: ClassVar[str] = "diagonal_place"
    doc: ClassVar[str] = (
        "Zeros with the input's last axis on a diagonal of two new axes. As PyTorch diag_embed."
    )

    def _sizes(self, length: Dim) -> tuple[Dim, Dim]:
        if self.rows >= 0:
            return self.rows, self.columns
        size = None if length is None else length + abs(self.offset)
        return size, size

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x if self.rows < 0 else TensorType(None, x.dtype)
        if not x.shape:
            raise ShapeError(
                self.name, "takes vectors", received=show(x.shape), advice="Give one axis or more"
            )
        first, second = _pair(self.name, self.axis1, self.axis2, len(x.shape) + 1)
        sizes = self._sizes(x.shape[-1])
        rest = iter(x.shape[:-1])
        return TensorType(
            [
                sizes[0] if a == first else sizes[1] if a == second else next(rest)
                for a in range(len(x.shape) + 1)
            ],
            x.dtype,
        )

    def reference(self, x: np.ndarray) -> np.ndarray:
        shape = self.infer(TensorType(x.shape, x.dtype)).static_shape
        out = np.zeros(shape, x.dtype)
        # np.diagonal is a read-only view: an index says the same.
        moved = np.moveaxis(out, (self.axis1, self.axis2), (-2, -1))
        i = np.arange(x.shape[-1])
        moved[..., i + max(-self.offset, 0), i + max(self.offset, 0)] = x
        return out

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(Diagonal(self.offset, self.axis1, self.axis2), gradients[0])]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        first, second = _pair(self.name, self.axis1, self.axis2, len(index))
        here = (index[second] - index[first]).eq(self.offset)
        rest = [i for a, i in enumerate(index) if a not in (first, second)]
        along = index[first] - max(-self.offset, 0)
        inside = k.all_of(here, along >= 0, along < x.shape[-1])
        return k.guarded(inside, lambda: x(*rest, along), 0)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(*shape: int, offset: int, axes: tuple[int, int], sizes: tuple[int, int]) -> Sample:
            return sample(
                real(*shape), offset=offset, axis1=axes[0], axis2=axes[1], rows=sizes[0],
                columns=sizes[1],
            )  # fmt: skip

        return [
            one(3, offset=0, axes=(0, 1), sizes=(-1, -1)),
            one(2, 3, offset=1, axes=(-2, -1), sizes=(-1, -1)),
            one(2, 3, offset=-1, axes=(2, 0), sizes=(-1, -1)),
            one(3, offset=1, axes=(0, 1), sizes=(3, 6)),
            one(0, offset=0, axes=(0, 1), sizes=(-1, -1)),
        ]


@register
@frozen
class DiagonalGradient(LikeOp):
    offset: int
    axis1: int
    axis2: int
    name: ClassVar[str] = "diagonal_gradient"
    doc: ClassVar[str] = (
        "Zeros in the shape of the second input with the first on a diagonal: gradient of diagonal."
    )

    def infer(self, g: TensorType, like: TensorType) -> TensorType:
        return TensorType(like.shape, g.dtype)

    def _static(self, shape: Sequence[int]) -> DiagonalPlace:
        first, second = _pair(self.name, self.axis1, self.axis2, len(shape))
        return DiagonalPlace(self.offset, first, second, shape[first], shape[second])

    def reference(self, g: np.ndarray, like: np.ndarray) -> np.ndarray:
        return self._static(like.shape).reference(g)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(Diagonal(self.offset, self.axis1, self.axis2), gradients[0]), None]

    def decompose(self, g: Tensor, like: Tensor) -> Tensor:
        return apply(self._static(like.type.static_shape), g)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(3), real(3, 4), offset=1, axis1=0, axis2=1),
            sample(real(2, 3), real(4, 2, 3), offset=-1, axis1=0, axis2=-1),
        ]


@function
def diagonal(
    x: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1, *, name: str | None = None
) -> Tensor:
    """The diagonal of axes `axis1` (rows) and `axis2` that starts `offset` columns to the right.

    The two axes go; the diagonal is the new last one. Raises ShapeError for axes that are not
    there. As NumPy's diagonal.

    Example:
        >>> import niello as nl
        >>> nl.diagonal(nl.Graph().placeholder((3, 4, 2)), 1).shape
        (2, 3)
    """
    op = Diagonal(integer("diagonal", offset, "the offset"), axis1, axis2)
    return apply(op, tensor_of("diagonal", x), name=name)


@function
def diag_embed(
    x: Tensor, offset: int = 0, axis1: int = -2, axis2: int = -1, *, name: str | None = None
) -> Tensor:
    """Square matrices, along two new axes, with the last axis of `x` on a diagonal.

    Raises ShapeError for axes that do not fit. As PyTorch's diag_embed.

    Example:
        >>> import niello as nl
        >>> nl.diag_embed(nl.Graph().placeholder((None, 3)), 1).shape
        (None, 4, 4)
    """
    op = DiagonalPlace(integer("diag_embed", offset, "the offset"), axis1, axis2, -1, -1)
    return apply(op, tensor_of("diag_embed", x), name=name)


@function
def diag(x: Tensor, offset: int = 0, *, name: str | None = None) -> Tensor:
    """The diagonal of a matrix, or the matrix with a vector on its diagonal. As NumPy's diag.

    Raises ShapeError for other ranks.

    Example:
        >>> import niello as nl
        >>> nl.diag(nl.Graph().placeholder((3,))).shape
        (3, 3)
    """
    rank = tensor_of("diag", x).rank
    if rank not in (1, 2):
        raise ShapeError(
            "diag", "takes a vector or a matrix", received=show(x.shape),
            advice="Use diagonal or diag_embed",
        )  # fmt: skip
    if rank == 1:
        return diag_embed(x, offset, name=name)
    return diagonal(x, offset, name=name)


@function
def trace(
    x: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1, *, name: str | None = None
) -> Tensor:
    """The sum of `diagonal`. As NumPy's trace.

    Example:
        >>> import niello as nl
        >>> nl.trace(nl.Graph().placeholder((5, 3, 3)), axis1=-2, axis2=-1).shape
        (5,)
    """
    return diagonal(x, offset, axis1, axis2).sum(-1, name=name)  # type: ignore[no-any-return]
