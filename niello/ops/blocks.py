"""Blocks of space moved into another axis and back: to depth, to batch, pixel shuffle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, show
from niello.core.types import TensorType
from niello.graph.opdef import Sample, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value, ravel, unravel
from niello.kernel.ir import Expr
from niello.ops.movement import (
    Movement,
    apply,
    integer,
    integers,
    known_axes,
    known_axis,
    require_rank,
    tensor_of,
)


class Blocks(Movement):
    """Base of both directions. Along `axes`, blocks of the listed sizes; what is inside a block
    lies along the target axis, before its own elements (`first`) or after them."""

    axes: tuple[int, ...]
    target: int
    blocks: tuple[int, ...]
    first: bool

    def parts(self, own: int) -> tuple[int, ...]:
        """The sizes that the target axis is made of."""
        return (*self.blocks, own) if self.first else (own, *self.blocks)

    def places(self, inside: Sequence[Expr], own: Expr) -> Index:
        """An index into those parts."""
        return (*inside, own) if self.first else (own, *inside)

    def divided(self, size: Dim, by: int, axis: int) -> Dim:
        """A size divided by that of the blocks. Raises ShapeError unless it is a multiple."""
        if size is not None and size % by:
            raise ShapeError(
                self.name,
                f"size {size} of axis {axis} is not a multiple of {by}",
                received=size,
                advice="Pad or crop the tensor first",
                axis=axis,
            )
        return None if size is None else size // by

    def check(self, x: TensorType) -> list[Dim]:
        """The sizes of the input, which must have all the axes."""
        assert x.shape is not None
        for a in (*self.axes, self.target):
            known_axis(self.name, a, len(x.shape))
        return list(x.shape)


def _split_out(x: np.ndarray, axes: Sequence[int], blocks: Sequence[int]) -> tuple[Any, list[int]]:
    """NumPy: each axis as two, of blocks and of what is inside; and where each axis went."""
    shape: list[int] = []
    where: list[int] = []
    for a, size in enumerate(x.shape):
        where.append(len(shape))
        if a in axes:
            block = blocks[axes.index(a)]
            shape += [size // block, block]
        else:
            shape.append(size)
    return x.reshape(shape), where


@register
@frozen
class SpaceToAxis(Blocks):
    axes: tuple[int, ...]
    target: int
    blocks: tuple[int, ...]
    first: bool
    name: ClassVar[str] = "space_to_axis"
    doc: ClassVar[str] = (
        "Blocks along some axes moved into a target axis, which grows by what those shrink. As "
        "ONNX SpaceToDepth and TensorFlow SpaceToBatchND."
    )

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x
        sizes = self.check(x)
        for a, block in zip(self.axes, self.blocks, strict=True):
            sizes[a] = self.divided(sizes[a], block, a)
        own = sizes[self.target]
        sizes[self.target] = None if own is None else own * math.prod(self.blocks)
        return TensorType(sizes, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        shape = self.infer(TensorType(x.shape, x.dtype)).static_shape
        cut, where = _split_out(x, self.axes, self.blocks)
        inside = [where[a] + 1 for a in self.axes]
        order: list[int] = []
        for a in range(x.ndim):
            if a == self.target:
                order += [*inside, where[a]] if self.first else [where[a], *inside]
            else:
                order.append(where[a])
        return cut.transpose(order).reshape(shape)  # type: ignore[no-any-return]

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(AxisToSpace(**self.attributes), gradients[0])]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        parts = unravel(index[self.target], self.parts(x.shape[self.target]))
        inside, own = (parts[:-1], parts[-1]) if self.first else (parts[1:], parts[0])
        source = list(index)
        source[self.target] = own
        for a, block, i in zip(self.axes, self.blocks, inside, strict=True):
            source[a] = index[a] * block + i
        return x(*source)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(*shape: int, **attributes: Any) -> Sample:
            return sample(real(*shape), **attributes)

        return [
            one(1, 3, 4, 6, axes=(2, 3), target=1, blocks=(2, 3), first=True),
            one(1, 3, 4, 6, axes=(2, 3), target=1, blocks=(2, 3), first=False),
            one(2, 4, 2, 3, axes=(1, 2), target=0, blocks=(2, 1), first=True),
            one(2, 4, 2, 2, axes=(1, 2, 3), target=0, blocks=(2, 1, 2), first=False),
            one(0, 4, axes=(1,), target=0, blocks=(2,), first=True),
        ]


@register
@frozen
class AxisToSpace(Blocks):
    axes: tuple[int, ...]
    target: int
    blocks: tuple[int, ...]
    first: bool
    name: ClassVar[str] = "axis_to_space"
    doc: ClassVar[str] = (
        "Parts of an axis moved into blocks along others: the way back of space_to_axis. As ONNX "
        "DepthToSpace and TensorFlow BatchToSpaceND."
    )

    def infer(self, x: TensorType) -> TensorType:
        if x.shape is None:
            return x
        sizes = self.check(x)
        own = self.divided(sizes[self.target], math.prod(self.blocks), self.target)
        for a, block in zip(self.axes, self.blocks, strict=True):
            size = sizes[a]
            sizes[a] = None if size is None else size * block
        sizes[self.target] = own
        return TensorType(sizes, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        shape = self.infer(TensorType(x.shape, x.dtype)).static_shape
        own = shape[self.target]
        cut = x.reshape((*x.shape[: self.target], *self.parts(own), *x.shape[self.target + 1 :]))
        count = len(self.blocks)
        start = self.target if self.first else self.target + 1
        order: list[int] = []
        for a in range(x.ndim):
            if a == self.target:
                order.append(self.target + count if self.first else self.target)
            else:
                order.append(a if a < self.target else a + count)
            if a in self.axes:
                order.append(start + self.axes.index(a))
        return cut.transpose(order).reshape(shape)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(SpaceToAxis(**self.attributes), gradients[0])]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        own = x.shape[self.target] // math.prod(self.blocks)
        source = list(index)
        inside = []
        for a, block in zip(self.axes, self.blocks, strict=True):
            source[a] = index[a] // block
            inside.append(index[a] % block)
        places = self.places(inside, index[self.target])
        source[self.target] = ravel(places, self.parts(own))
        return x(*source)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(*shape: int, **attributes: Any) -> Sample:
            return sample(real(*shape), **attributes)

        return [
            one(1, 12, 2, 3, axes=(2, 3), target=1, blocks=(2, 3), first=True),
            one(1, 12, 2, 3, axes=(2, 3), target=1, blocks=(2, 3), first=False),
            one(4, 2, 2, 3, axes=(1, 2), target=0, blocks=(2, 1), first=True),
            one(8, 2, 1, 2, axes=(1, 2, 3), target=0, blocks=(2, 1, 2), first=False),
            one(0, 4, axes=(1,), target=0, blocks=(2,), first=True),
        ]


# --- published
def _sizes(asked: str, blocks: Any, count: int) -> tuple[int, ...]:
    """One positive block size for each axis."""
    found = integers(asked, blocks, "a block size")
    sizes = found * count if len(found) == 1 else found
    if len(sizes) != count or any(b < 1 for b in sizes):
        raise AttributeValueError(
            asked,
            f"needs a positive block size for each of {count} axes",
            received=repr(blocks),
            advice="Give one integer, or one for each axis",
        )
    return sizes


def _image(asked: str, x: Tensor, layout: str) -> tuple[int, tuple[int, ...]]:
    """The channel axis and the spatial axes."""
    rank = require_rank(asked, tensor_of(asked, x).type, "to find the axes")
    if rank < 3:
        raise ShapeError(
            asked,
            "takes a batch of images with channels",
            received=show(x.shape),
            advice="Give [N, C, H, W], or [N, H, W, C] with layout='NHWC'",
        )
    if layout.endswith("C"):
        return rank - 1, tuple(range(1, rank - 1))
    return 1, tuple(range(2, rank))


def _order(asked: str, order: str) -> bool:
    if order not in ("DCR", "CRD"):
        raise AttributeValueError(
            asked,
            "the order is 'DCR' (blocks before channels) or 'CRD' (pixel shuffle)",
            received=repr(order),
        )
    return order == "DCR"


@function
def space_to_depth(
    x: Tensor, block: Any, *, order: str = "DCR", layout: str = "NCHW", name: str | None = None
) -> Tensor:
    """Blocks of the spatial axes moved into the channels.

    [N, C, H, W] becomes [N, C * b * b, H / b, W / b]; `block` is b, or one for each spatial axis.
    Channels are ordered by their place in the block and then by channel ("DCR", ONNX and
    TensorFlow) or by channel first ("CRD", pixel unshuffle). Raises ShapeError for sizes that are
    no multiples of the block.

    Example:
        >>> import niello as nl
        >>> nl.space_to_depth(nl.Graph().placeholder((None, 3, 8, 8)), 2).shape
        (None, 12, 4, 4)
    """
    channel, axes = _image("space_to_depth", x, layout)
    blocks = _sizes("space_to_depth", block, len(axes))
    return apply(SpaceToAxis(axes, channel, blocks, _order("space_to_depth", order)), x, name=name)


@function
def depth_to_space(
    x: Tensor, block: Any, *, order: str = "DCR", layout: str = "NCHW", name: str | None = None
) -> Tensor:
    """Channels moved into blocks of the spatial axes: the way back of `space_to_depth`.

    [N, C * b * b, H, W] becomes [N, C, H * b, W * b]. `order` is "DCR" or "CRD" (pixel shuffle).
    Raises ShapeError for a number of channels that is no multiple. As ONNX's DepthToSpace.

    Example:
        >>> import niello as nl
        >>> nl.depth_to_space(nl.Graph().placeholder((None, 12, 4, 4)), 2).shape
        (None, 3, 8, 8)
    """
    channel, axes = _image("depth_to_space", x, layout)
    blocks = _sizes("depth_to_space", block, len(axes))
    return apply(AxisToSpace(axes, channel, blocks, _order("depth_to_space", order)), x, name=name)


@function
def pixel_shuffle(x: Tensor, factor: int, *, name: str | None = None) -> Tensor:
    """[N, C * r * r, H, W] as [N, C, H * r, W * r]: `depth_to_space` in PyTorch's order.

    Example:
        >>> import niello as nl
        >>> nl.pixel_shuffle(nl.Graph().placeholder((1, 12, 4, 4)), 2).shape
        (1, 3, 8, 8)
    """
    return depth_to_space(x, integer("pixel_shuffle", factor, "the factor"), order="CRD", name=name)


@function
def pixel_unshuffle(x: Tensor, factor: int, *, name: str | None = None) -> Tensor:
    """[N, C, H * r, W * r] as [N, C * r * r, H, W]: the way back of `pixel_shuffle`.

    Example:
        >>> import niello as nl
        >>> nl.pixel_unshuffle(nl.Graph().placeholder((1, 3, 8, 8)), 2).shape
        (1, 12, 4, 4)
    """
    by = integer("pixel_unshuffle", factor, "the factor")
    return space_to_depth(x, by, order="CRD", name=name)


def _block_axes(
    asked: str, x: Tensor, blocks: Any, axes: Any, batch: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Axes, block sizes and the batch axis as numbers from 0."""
    tensor_of(asked, x)
    count = len(integers(asked, blocks, "a block size"))
    rank = require_rank(asked, x.type, "to find the axes")
    chosen = known_axes(asked, range(1, 1 + count) if axes is None else axes, rank) or ()
    target = known_axis(asked, batch, rank)
    if target in chosen:
        raise ShapeError(asked, "the batch axis cannot be a spatial one", received=list(chosen))
    return chosen, _sizes(asked, blocks, len(chosen)), target


def _pairs(asked: str, pairs: Any, count: int) -> list[tuple[int, int]]:
    found = [integers(asked, p, "a width") for p in pairs]
    if len(found) != count or any(len(p) != 2 or min(p) < 0 for p in found):
        raise AttributeValueError(
            asked, f"needs {count} pairs (before, after)", received=repr(pairs)
        )
    return [(p[0], p[1]) for p in found]


@function
def space_to_batch(
    x: Tensor,
    blocks: Any,
    *,
    paddings: Any = None,
    axes: Any = None,
    batch_axis: int = 0,
    order: str = "DCR",
    name: str | None = None,
) -> Tensor:
    """Blocks along spatial axes (1, 2 ... unless `axes` says otherwise) moved into the batch axis.

    The axes are first padded with zeros by `paddings`, (before, after) pairs. The new batch is
    ordered by the place in the block, then by batch ("DCR"), or by batch first ("CRD"). Raises
    ShapeError for sizes that are no multiples of the blocks. As TensorFlow's space_to_batch_nd.

    Example:
        >>> import niello as nl
        >>> nl.space_to_batch(nl.Graph().placeholder((1, 4, 6, 3)), (2, 2)).shape
        (4, 2, 3, 3)
    """
    chosen, sizes, target = _block_axes("space_to_batch", x, blocks, axes, batch_axis)
    if paddings is not None:
        widths = _pairs("space_to_batch", paddings, len(chosen))
        x = x.pad(widths, axes=chosen)
    op = SpaceToAxis(chosen, target, sizes, _order("space_to_batch", order))
    return apply(op, x, name=name)


@function
def batch_to_space(
    x: Tensor,
    blocks: Any,
    *,
    crops: Any = None,
    axes: Any = None,
    batch_axis: int = 0,
    order: str = "DCR",
    name: str | None = None,
) -> Tensor:
    """Parts of the batch axis moved into blocks along spatial axes: the way back of
    `space_to_batch`.

    `crops`, (before, after) pairs, are then cut off the axes. Raises ShapeError for a batch that is
    no multiple. As TensorFlow's batch_to_space.

    Example:
        >>> import niello as nl
        >>> nl.batch_to_space(nl.Graph().placeholder((4, 2, 3, 3)), (2, 2)).shape
        (1, 4, 6, 3)
    """
    chosen, sizes, target = _block_axes("batch_to_space", x, blocks, axes, batch_axis)
    op = AxisToSpace(chosen, target, sizes, _order("batch_to_space", order))
    if crops is None:
        return apply(op, x, name=name)
    widths = _pairs("batch_to_space", crops, len(chosen))
    starts, ends = [a for a, _ in widths], [-b or None for _, b in widths]
    return apply(op, x).slice(starts, ends, axes=chosen, name=name)  # type: ignore[no-any-return]
