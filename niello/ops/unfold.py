"""Unfold and fold: the patches that windows see, as columns, and their sum back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, NUMBERS, DType
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, Shape, show
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, real, record, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value, ravel, unravel
from niello.kernel.ir import Expr
from niello.ops.define import check_dtype, half_as_float32
from niello.ops.pool import Gradients, Tensors, routed
from niello.ops.pool_windows import Exprs, PoolSettings, Sizes, Sliding
from niello.ops.pooling import check_layout
from niello.ops.window import Layout, Window, as_padding, spatial_pair


@record
@frozen
class Patches:
    """Windows over the spatial axes of a layout. Channels first, columns are [N, C * kernel, L];
    channels last, [N, L, kernel * C]: so that weights of either layout, reshaped, multiply them."""

    windows: Sliding
    data: Layout

    @property
    def pool(self) -> PoolSettings:
        return PoolSettings(self.windows, self.data.spatial, len(self.data.letters))

    @property
    def channels_first(self) -> bool:
        return self.data.channel == 1

    def outputs(self, asked: str, x: TensorType) -> Shape | None:
        """Numbers of windows along the spatial axes."""
        found = self.pool.output(asked, x).shape
        return None if found is None else self.data.pick(found)[2]

    def columns(self, asked: str, x: TensorType) -> TensorType:
        """The type of the columns."""
        outputs = self.outputs(asked, x)
        if outputs is None or x.shape is None:
            return TensorType((None, None, None), x.dtype)
        batch, channels, _ = self.data.pick(x.shape)
        rows = product((channels, *self.windows.kernel))
        count = product(outputs)
        shape = (batch, rows, count) if self.channels_first else (batch, count, rows)
        return TensorType(shape, x.dtype)

    def column_index(
        self, batch: Expr, channel: Expr, offset: Exprs, window: Exprs, channels: int, outs: Sizes
    ) -> tuple[Expr, ...]:
        """Where in the columns an element of a window stands."""
        kernel = self.windows.kernel
        if self.channels_first:
            return (batch, ravel((channel, *offset), (channels, *kernel)), ravel(window, outs))
        return (batch, ravel(window, outs), ravel((*offset, channel), (*kernel, channels)))


def product(sizes: Sequence[Dim]) -> Dim:
    return None if None in sizes else math.prod(sizes)  # type: ignore[arg-type]


@register
@frozen
class Unfold(Op):
    """The elements of each window as a column."""

    patches: Patches
    name: ClassVar[str] = "unfold"
    traits: ClassVar[Trait] = Trait.MOVEMENT
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "The elements that each window of a convolution sees as a column, zeros in the padding "
        "(im2col; PyTorch's unfold)."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return self.patches.columns(self.name, x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        p = self.patches
        found = p.pool.stacked(x, 0)  # [kernel, N, C, out...] or [kernel, N, out..., C]
        outputs = p.outputs(self.name, TensorType(x.shape, x.dtype))
        batch, channels, _ = p.data.pick(x.shape)
        kernel, count = math.prod(p.windows.kernel), math.prod(outputs or ())  # type: ignore[arg-type]
        if p.channels_first:
            moved = np.moveaxis(found, 0, 2).reshape(batch, channels * kernel, count)
        else:
            moved = np.moveaxis(found, 0, -2).reshape(batch, count, kernel * channels)
        return np.ascontiguousarray(moved)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        g, x = gradients[0], inputs[0]
        assert g is not None
        sizes = None if x.shape is None else self.patches.data.pick(x.shape)[2]
        if sizes is not None and None not in sizes:
            return (g.graph.apply(Fold(self.patches, sizes), g),)  # type: ignore[return-value]
        return (g.graph.apply(Fold(self.patches), g, x),)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        p = self.patches
        _, channels, _ = p.data.pick(x.shape)
        outs = p.outputs(self.name, TensorType(x.shape, x.dtype))
        kernel = p.windows.kernel
        if p.channels_first:
            batch, row, column = index
            channel, *offset = unravel(row, (channels, *kernel))
        else:
            batch, column, row = index
            *offset, channel = unravel(row, (*kernel, channels))
        window = unravel(column, outs)  # type: ignore[arg-type]
        place = p.data.build(batch, channel, window)
        return p.pool.element(k, x, place, tuple(offset), 0)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(real(*x), patches=p) for x, p in sample_patches()]


@register
@frozen
class Fold(Op):
    """Adds columns up where their elements came from. Spatial sizes from `sizes`, or from the
    second input, which is used for its shape only."""

    patches: Patches
    sizes: Sizes | None = None
    name: ClassVar[str] = "fold"
    traits: ClassVar[Trait] = Trait.WINDOW | Trait.SHAPE_ONLY | Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "Adds the columns of unfold up where their elements came from (col2im; PyTorch's fold)."
    )

    def _channels(self, rows: Dim) -> Dim:
        kernel = math.prod(self.patches.windows.kernel)
        if rows is not None and rows % kernel:
            raise ShapeError(
                self.name,
                f"{rows} rows do not divide into windows of {kernel} elements",
                received=rows,
                advice="Check the kernel size and the layout",
            )
        return None if rows is None else rows // kernel

    def infer(self, columns: TensorType, *like: TensorType) -> TensorType:
        check_dtype(self.name, columns.dtype, self.dtypes)
        p = self.patches
        if like:
            return TensorType(like[0].shape, columns.dtype)
        if columns.shape is None or self.sizes is None:
            return TensorType(None, columns.dtype)
        if len(columns.shape) != 3:
            raise ShapeError(
                self.name, "columns have three dimensions", received=show(columns.shape)
            )
        batch, *rest = columns.shape
        rows, count = rest if p.channels_first else reversed(rest)
        shape = p.data.build(batch, self._channels(rows), self.sizes)
        expected = product(p.outputs(self.name, TensorType(shape, columns.dtype)) or ())
        if count is not None and expected is not None and count != expected:
            raise ShapeError(
                self.name,
                f"sizes {show(self.sizes)} have {expected} windows",
                received=f"{count} columns",
                advice="Check output_size, strides and padding",
            )
        return TensorType(shape, columns.dtype)

    def _shape(self, columns: Sizes, like: Sequence[Any]) -> Sizes:
        if like:
            return tuple(like[0].shape)
        return self.infer(TensorType(columns)).static_shape

    def reference(self, columns: np.ndarray, *like: np.ndarray) -> np.ndarray:
        p, shape = self.patches, self._shape(columns.shape, like)
        batch, channels, _ = p.data.pick(shape)
        outs = p.outputs(self.name, TensorType(shape))
        kernel = math.prod(p.windows.kernel)

        def total(columns: np.ndarray) -> np.ndarray:
            if p.channels_first:
                apart = columns.reshape(batch, channels, kernel, *outs)  # type: ignore[misc]
                return p.pool.scattered(np.moveaxis(apart, 2, 0), shape)
            apart = columns.reshape(batch, *outs, kernel, channels)  # type: ignore[misc]
            return p.pool.scattered(np.moveaxis(apart, -2, 0), shape)

        return np.asarray(half_as_float32(total, (columns,))).astype(columns.dtype, copy=False)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        h = gradients[0]
        assert h is not None
        found: Any = h.graph.apply(Unfold(self.patches), h)
        return (found, *(None for _ in inputs[1:]))

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        columns = inputs[0]
        p = self.patches
        shape = self._shape(columns.shape, inputs[1:])
        batch, channel, _ = p.data.pick(index)
        _, channels, sizes = p.data.pick(shape)
        outs: Any = p.outputs(self.name, TensorType(shape))

        def share(offset: Exprs, window: Index) -> Expr:
            place = p.data.pick(window)[2]
            return columns(*p.column_index(batch, channel, offset, place, channels, outs))

        return routed(k, p.pool, index, sizes, outs, share)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for x, p in sample_patches():
            columns = p.columns(cls.name, TensorType(x)).static_shape
            found.append(sample(real(*columns), patches=p, sizes=p.data.pick(x)[2]))
        x, p = sample_patches()[0]
        columns = p.columns(cls.name, TensorType(x)).static_shape
        found.append(sample(real(*columns), real(*x), patches=p))
        return found


def sample_patches() -> list[tuple[Sizes, Patches]]:
    """(data shape, patches) that cover every attribute."""

    def patches(letters: str, kernel: Sizes, *window: Any) -> Patches:
        return Patches(Sliding(kernel, Window(*window)), Layout(letters))

    one = (1, 1)
    return [
        ((2, 3, 5, 4), patches("NCHW", (3, 2), one, one, "valid")),
        ((1, 6, 5, 2), patches("NHWC", (2, 3), (2, 1), (1, 2), ((1, 0), (2, 1)))),
        ((1, 2, 5, 5), patches("NCHW", (2, 2), (2, 2), one, "same")),
        ((2, 3, 7), patches("NCW", (3,), (2,), (1,), ((1, 1),))),
        ((1, 3, 2, 4, 2), patches("NDHWC", (2, 1, 2), (1,) * 3, (1,) * 3, "same_lower")),
        ((0, 2, 4, 4), patches("NCHW", (2, 2), one, one, "valid")),
    ]


def make_patches(
    asked: str,
    rank: int,
    kernel_size: Any,
    strides: Any,
    dilations: Any,
    padding: Any,
    data_layout: str | None,
) -> Patches:
    """Checked settings of patches over the spatial axes of a tensor of a rank."""
    if not 3 <= rank <= 5:
        raise ShapeError(asked, "the tensor must have three to five dimensions", received=rank)
    count = rank - 2
    window = Window(
        spatial_pair(strides, count, asked, "strides"),
        spatial_pair(dilations, count, asked, "dilations"),
        as_padding(padding, count, asked),
    )
    kernel = spatial_pair(kernel_size, count, asked, "kernel_size")
    return Patches(Sliding(kernel, window), check_layout(asked, count, data_layout))


@opdef.function
def unfold(
    x: Tensor,
    kernel_size: Any,
    *,
    strides: Any = 1,
    dilations: Any = 1,
    padding: Any = "valid",
    data_layout: str | None = None,
    name: str | None = None,
) -> Tensor:
    """The elements that each window sees as a column (im2col), zeros in the padding.

    x has one to three spatial axes: [N, C, H, W] gives [N, C * kH * kW, L] for L windows, as
    PyTorch's unfold; channels last, [N, H, W, C] gives [N, L, kH * kW * C]. A convolution is the
    product of reshaped weights and these columns. Raises ShapeError when the rank is unknown.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.unfold(graph.placeholder((1, 3, 8, 8)), 3).shape
        (1, 27, 36)
    """
    if x.rank is None:
        raise ShapeError("unfold", "the rank must be known", received=repr(x.type))
    patches = make_patches("unfold", x.rank, kernel_size, strides, dilations, padding, data_layout)
    return x.graph.apply(Unfold(patches), x, name=name)  # type: ignore[return-value]


@opdef.function
def fold(
    columns: Tensor,
    output_size: Any,
    kernel_size: Any,
    *,
    strides: Any = 1,
    dilations: Any = 1,
    padding: Any = "valid",
    data_layout: str | None = None,
    name: str | None = None,
) -> Tensor:
    """The transpose of `unfold` (col2im): adds each column up where its elements came from.

    `output_size` gives the spatial sizes of the result, one for each spatial axis, or is a tensor
    of the result's shape (used for its shape only). The other settings are those of `unfold`.
    Raises ShapeError when the number of columns is another than that of windows.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.fold(graph.placeholder((1, 27, 36)), (8, 8), 3).shape
        (1, 3, 8, 8)
    """
    if isinstance(output_size, Tensor):
        if output_size.rank is None:
            raise ShapeError("fold", "the rank must be known", received=repr(output_size.type))
        patches = make_patches(
            "fold", output_size.rank, kernel_size, strides, dilations, padding, data_layout
        )
        return columns.graph.apply(Fold(patches), columns, output_size, name=name)  # type: ignore[return-value]
    sizes = tuple(output_size)
    patches = make_patches(
        "fold", len(sizes) + 2, kernel_size, strides, dilations, padding, data_layout
    )
    sizes = spatial_pair(sizes, len(sizes), "fold", "output_size", 0)
    return columns.graph.apply(Fold(patches, sizes), columns, name=name)  # type: ignore[return-value]
