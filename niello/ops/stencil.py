"""Stencil: weighted windows of the last axes, reduced in one of six ways.

Two primitives: the windows of a tensor as further axes (a movement, which a stitched kernel reads
through) and the transpose of that. The rest is a product and a reduction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, NUMBERS, DType, float32
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Planes,
    Sample,
    Trait,
    function,
    functions,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import cast_to, check_dtype, half_as_float32
from niello.ops.movement import apply, integers, tensor_of
from niello.ops.pad import ALIASES, ANTIPERIODIC, MODES, pad
from niello.ops.pool import Gradients, Tensors, routed
from niello.ops.pool_windows import Exprs, PoolSettings, Sizes, Sliding
from niello.ops.window import Pairs, Window, as_padding, spatial_pair

REDUCTIONS = ("sum", "min", "max", "prod", "argmin", "argmax")


@register
@dataclass(frozen=True)
class StencilWindows(Op):
    """[..., outputs..., window...] of [..., sizes...]."""

    settings: PoolSettings
    fill: float = 0.0
    name: ClassVar[str] = "stencil_windows"
    traits: ClassVar[Trait] = Trait.MOVEMENT
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "The elements of each window of the last axes as further axes; a number in the padding."
    )

    def infer(self, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        found = self.settings.output(self.name, x)
        if found.shape is None:
            return found
        return TensorType((*found.shape, *self._kernel), x.dtype)

    @property
    def _kernel(self) -> Sizes:
        windows = self.settings.windows
        assert isinstance(windows, Sliding)
        return windows.kernel

    def reference(self, x: np.ndarray) -> np.ndarray:
        found = np.moveaxis(self.settings.stacked(x, self.fill), 0, -1)
        return np.ascontiguousarray(found.reshape(*found.shape[:-1], *self._kernel))

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        g, x = gradients[0], inputs[0]
        assert g is not None
        return [apply(StencilWindowsSum(self.settings), g, x)]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        rank = self.settings.rank
        return self.settings.element(k, inputs[0], index[:rank], index[rank:], self.fill)

    def planes(self, *inputs: Any) -> Planes:
        (x,) = inputs
        return Planes(apply(self, x.real), apply(StencilWindows(self.settings), x.imaginary))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = [sample(real(*shape), settings=s) for shape, s in stencil_samples()]
        shape, settings = stencil_samples()[1]
        return [*found, sample(real(*shape), settings=settings, fill=3.0)]


@register
@dataclass(frozen=True)
class StencilWindowsSum(Op):
    """The transpose of the windows; the second input serves for its shape."""

    settings: PoolSettings
    name: ClassVar[str] = "stencil_windows_sum"
    traits: ClassVar[Trait] = Trait.WINDOW | Trait.SHAPE_ONLY | Trait.LINEAR
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = (
        "What windows of the last axes hold, added up where their elements came from: in the shape "
        "of the second input."
    )

    def infer(self, parts: TensorType, like: TensorType) -> TensorType:
        check_dtype(self.name, parts.dtype, self.dtypes)
        return TensorType(like.shape, parts.dtype)

    def reference(self, parts: np.ndarray, like: np.ndarray) -> np.ndarray:
        rank = self.settings.rank

        def total(parts: np.ndarray) -> np.ndarray:
            flat = parts.reshape(*parts.shape[:rank], math.prod(parts.shape[rank:]))
            return self.settings.scattered(np.moveaxis(flat, -1, 0), like.shape)

        return np.asarray(half_as_float32(total, (parts,))).astype(parts.dtype, copy=False)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        assert gradients[0] is not None
        return [apply(StencilWindows(self.settings), gradients[0]), None]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        parts, like = inputs
        s = self.settings
        sizes = s.pick(like.shape)
        outputs = s.pick(parts.shape)

        def share(offset: Exprs, window: Index) -> Expr:
            return parts(*window, *offset)

        return routed(k, s, index, sizes, outputs, share)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for shape, s in stencil_samples():
            windows = StencilWindows(s).infer(TensorType(shape)).static_shape
            found.append(sample(real(*windows), real(*shape), settings=s))
        return found


def stencil_samples() -> list[tuple[Sizes, PoolSettings]]:
    """(data shape, settings) that cover every attribute."""

    def settings(rank: int, kernel: Sizes, *window: Any) -> PoolSettings:
        axes = tuple(range(rank - len(kernel), rank))
        return PoolSettings(Sliding(kernel, Window(*window)), axes, rank)

    one, two = (1, 1), (2, 2)
    return [
        ((2, 5, 4), settings(3, (3, 2), one, one, "valid")),
        ((7,), settings(1, (3,), (2,), (2,), ((3, 2),))),
        ((2, 3, 2, 3), settings(4, (2, 2, 1, 2), (1,) * 4, (1, 1, 1, 2), ((1, 1),) * 4)),
        ((5, 6), settings(2, two, two, one, "same")),
        ((0, 4, 4), settings(3, two, one, one, "valid")),
    ]


# --- the function
def _spans(
    asked: str, x: Tensor, kernel: Sizes, strides: Sizes, dilations: Sizes, offsets: Sizes
) -> Pairs:
    """(before, after) of windows that begin at offsets, negative where elements are left out."""
    pairs = []
    sizes: Sequence[Any] = x.shape[-len(kernel) :] if x.shape is not None else [None] * len(kernel)
    for size, n, s, d, start in zip(sizes, kernel, strides, dilations, offsets, strict=True):
        if size is None and s > 1:
            raise ShapeError(
                asked,
                "offsets beside strides need sizes that are known",
                received=str(x.type),
                advice="Give the placeholder its sizes, or use padding",
            )
        last = 0 if size is None else (-(-size // s) - 1) * s - (size - 1)
        pairs.append((-start, last + start + (n - 1) * d))
    return tuple(pairs)


def _bordered(x: Tensor, pairs: Pairs, mode: str, value: float) -> Tensor:
    """x with elements added, or taken away, at the ends of its last axes."""
    first = (x.rank or 0) - len(pairs)
    axes = range(first, first + len(pairs))
    wider = [(max(a, 0), max(b, 0)) for a, b in pairs]
    if any(w != (0, 0) for w in wider):
        x = pad(x, wider, mode=mode, value=value, axes=list(axes))
    for axis, (a, b) in zip(axes, pairs, strict=True):
        if a < 0 or b < 0:
            x = functions()["slice"](x, [max(-a, 0)], [min(b, 0) or None], axes=[axis])
    return x


def _reduced(x: Tensor, weights: Tensor, op: StencilWindows, mode: str) -> Tensor:
    """The windows times the weights, reduced."""
    count = len(op.settings.axes)
    terms = apply(op, x) * weights
    if mode in ("argmin", "argmax"):
        flat = functions()["flatten_axes"](terms, -count, -1) if count > 1 else terms
        return functions()[mode](flat, -1)  # type: ignore[no-any-return]
    return functions()[mode](terms, tuple(range(-count, 0)))  # type: ignore[no-any-return]


@function
def stencil(
    x: Tensor,
    weights: Any,
    *,
    reduction: str = "sum",
    offsets: Any = None,
    strides: Any = 1,
    dilations: Any = 1,
    padding: Any = "valid",
    boundary: str = "constant",
    value: float = 0.0,
    name: str | None = None,
) -> Tensor:
    """`weights` times every window of the last axes of `x`, reduced over the window.

    The weights have one to four dimensions of known sizes; as many last axes of `x` are walked
    over, the leading ones are batches: y[i] = reduce over j of x[i * strides + j * dilations +
    start] * w[j]. `reduction` is "sum", "min", "max", "prod", "argmin" or "argmax" (the row-major
    position of the first extreme in the window, int32).

    `padding` is "valid", "same", "same_lower" (TensorFlow's and ONNX's rules), or numbers (before,
    after) for each axis. With `offsets` in its place window i begins at i * strides + offset, and
    there are ceil(size / strides) of them. What windows read outside of `x` is `value` by the
    boundary "constant" (or "zero"), or x continued: "reflect", "symmetric", "edge" ("clamp"),
    "wrap" ("periodic"), "antiperiodic". Half types are reduced in float32.

    Gradients with respect to both operands, except for positions. Raises ShapeError for windows
    that do not fit and AttributeValueError for unknown words. As MPSGraph's stencil.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> y = nl.stencil(g.constant([1.0, 4.0, 9.0, 16.0]), [-1.0, 1.0])
        >>> g.run(targets=[y])[y].numpy().tolist()
        [3.0, 5.0, 7.0]
    """
    asked = "stencil"
    mode = ALIASES.get(boundary, boundary)
    for found, words in ((reduction, REDUCTIONS), (mode, (*MODES, ANTIPERIODIC))):
        if found not in words:
            raise AttributeValueError(
                asked, "unknown word", received=repr(found), advice=f"Use one of {', '.join(words)}"
            )
    x = tensor_of(asked, x)
    check_dtype(asked, x.dtype, NUMBERS)
    w = cast_to(x.graph.as_tensor(weights, dtype=x.dtype), x.dtype)
    count = w.rank or 0
    if not (w.type.is_static and 1 <= count <= 4) or x.rank is None or x.rank < count:
        raise ShapeError(
            asked,
            "needs weights of one to four known sizes, and a tensor of at least as many dimensions",
            received=f"{x.type} and weights {show(w.shape)}",
            advice="Reshape the weights; leading axes of size 1 are allowed",
        )
    kernel = w.type.static_shape
    steps = spatial_pair(strides, count, asked, "strides")
    spread = spatial_pair(dilations, count, asked, "dilations")
    pads = _padding(asked, x, kernel, steps, spread, offsets, padding)
    if mode != "constant" or (not isinstance(pads, str) and min(min(p) for p in pads) < 0):
        if isinstance(pads, str):
            sizes = x.type.static_shape[-count:]
            pads = Window(steps, spread, pads).amounts(sizes, kernel)
        x, pads = _bordered(x, pads, mode, value), "valid"
    rank = x.rank or 0
    axes = tuple(range(rank - count, rank))
    settings = PoolSettings(Sliding(kernel, Window(steps, spread, pads)), axes, rank)
    op = StencilWindows(settings, float(value))
    if x.dtype in FLOATS and x.dtype.is_half:
        wide = _reduced(x.cast(float32), w.cast(float32), op, reduction)
        result = wide if wide.dtype.is_integer else cast_to(wide, x.dtype)
    else:
        result = _reduced(x, w, op, reduction)
    return result if name is None else functions()["identity"](result, name=name)  # type: ignore[no-any-return]


def _padding(
    asked: str, x: Tensor, kernel: Sizes, steps: Sizes, spread: Sizes, offsets: Any, padding: Any
) -> str | Pairs:
    """Padding by a word, or by numbers that may be negative."""
    if offsets is None:
        return as_padding(padding, len(kernel), asked)
    if padding != "valid":
        raise AttributeValueError(
            asked, "takes either offsets or padding", received=f"padding={padding!r}"
        )
    starts = integers(asked, offsets, "an offset")
    starts = starts * len(kernel) if len(starts) == 1 else starts
    if len(starts) != len(kernel):
        raise AttributeValueError(
            asked, f"offsets are one number, or {len(kernel)} of them", received=repr(offsets)
        )
    return _spans(asked, x, kernel, steps, spread, starts)
