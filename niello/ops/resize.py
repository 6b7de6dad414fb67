"""Resizing images and other grids by interpolation: nearest, linear, cubic, area, antialiased."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, FLOATS, DType, compute_dtype, int32
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.define import check_dtype, half_as_float32
from niello.ops.movement import apply, integers, known_axes, require_rank, tensor_of
from niello.ops.resample import (
    COORDINATES,
    KERNELS,
    ROUNDINGS,
    Axis,
    Filter,
    Resample,
    Table,
    table,
)
from niello.ops.select import where

POLICIES = ("stretch", "not_larger", "not_smaller")
_MOST_TAPS = 16  # of all axes together, for resizing them in one step


class Resizing(Op):
    """Base of resize and its gradient. For each axis a size (-1: by the scale) and a scale (0: by
    the size)."""

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    roi: tuple[float, ...]  # starts, then ends
    policy: str
    how: Filter
    extrapolation: float
    traits: ClassVar[Trait] = Trait.NONE

    def plan(self, shape: Sequence[int]) -> list[Axis]:
        """The axes of a tensor of a shape, with everything known."""
        count = len(self.axes)
        scales = list(self.scales)
        sizes = list(self.sizes)
        if self.policy != "stretch":
            wanted = [m / max(shape[a], 1) for a, m in zip(self.axes, sizes, strict=True)]
            scale = min(wanted) if self.policy == "not_larger" else max(wanted)
            scales = [scale] * count
            sizes = [math.floor(scale * shape[a] + 0.5) for a in self.axes]
        found = []
        for i, a in enumerate(self.axes):
            n = shape[a]
            m = sizes[i] if sizes[i] >= 0 else math.floor(n * scales[i])
            scale = scales[i] or (m / n if n and m else 1.0)
            found.append(Axis(n, m, scale, self.offsets[i], self.roi[i], self.roi[count + i]))
            if n == 0 and m != 0:
                raise ShapeError(
                    self.name,
                    f"axis {a} has no elements to make others of",
                    received=f"size 0 to {m}",
                    advice="Give a tensor that is not empty",
                    axis=a,
                )
        return found

    def target(self, shape: Sequence[Dim]) -> list[Dim]:
        """The shape of the result."""
        sizes = list(shape)
        sources = [shape[a] for a in self.axes]
        if self.policy != "stretch" and None in sources:
            for a in self.axes:
                sizes[a] = None
            return sizes
        known = [1 if d is None else d for d in shape]
        for a, axis, m in zip(self.axes, self.plan(known), self.sizes, strict=True):
            sizes[a] = None if shape[a] is None and m < 0 else axis.target
        return sizes

    def resized(self, x: Tensor, shape: Sequence[int], transposed: bool) -> Tensor:
        """`x` through the maps, or their transposes, of a tensor of a shape."""
        found = [
            (a, table(axis, self.how, transposed))
            for a, axis in zip(self.axes, self.plan(shape), strict=True)
        ]
        steps = [(a, t) for a, t in found if not t.is_identity(x.type.static_shape[a])]
        together = math.prod(t.taps for _, t in steps) <= _MOST_TAPS
        if not together:  # what shrinks most comes first
            whole = x.type.static_shape
            steps.sort(key=lambda s: s[1].index.shape[1] / max(1, whole[s[0]]))
        y = x
        for group in [steps] if together else [[s] for s in steps]:
            y = _resample(y, group)
        for a, t in found:
            if t.outside.any():
                line = [-1 if i == a else 1 for i in range(y.rank or 0)]
                mask = y.graph.constant(t.outside.reshape(line))
                y = where(mask, y.graph.constant(self.extrapolation, y.dtype), y)
        return y

    def dense(self, x: np.ndarray, shape: Sequence[int], transposed: bool) -> np.ndarray:
        """The same in NumPy, as products with matrices."""

        def through(x: np.ndarray) -> np.ndarray:
            plan = self.plan(shape)
            for a, axis in zip(self.axes, plan, strict=True):
                t = table(axis, self.how)
                matrix = np.zeros((axis.target, axis.source))
                weight = np.ones(t.index.shape) if t.weight is None else t.weight
                if axis.source:
                    np.add.at(matrix, (np.arange(axis.target), t.index), weight)
                matrix = matrix.T if transposed else matrix
                if t.weight is None and not transposed:
                    x = np.take(x, t.index[0], axis=a)
                else:
                    moved = np.moveaxis(x, a, -1).astype(np.float64) @ matrix.T
                    x = np.moveaxis(moved, -1, a).astype(x.dtype)
                if t.outside.any() and not transposed:
                    line = [-1 if i == a else 1 for i in range(x.ndim)]
                    x = np.where(t.outside.reshape(line), self.extrapolation, x).astype(x.dtype)
            return x

        return np.asarray(half_as_float32(through, [x]))


def _resample(x: Tensor, steps: Sequence[tuple[int, Table]]) -> Tensor:
    """Several axes in one step."""
    if not steps:
        return x
    weighted = any(t.weight is not None for _, t in steps)
    operands: list[Tensor] = []
    for _, t in steps:
        operands.append(x.graph.constant(t.index, int32))
        if weighted:
            ones = np.ones(t.index.shape) if t.weight is None else t.weight
            kind = compute_dtype(x.dtype)
            operands.append(x.graph.constant(ones.astype(kind.numpy)))
    return apply(Resample(tuple(a for a, _ in steps), weighted), x, *operands)


@register
@frozen
class Resize(Resizing):
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    roi: tuple[float, ...]
    policy: str
    how: Filter
    extrapolation: float
    name: ClassVar[str] = "resize"
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "The tensor resized along some axes by nearest, linear, cubic or area interpolation. As "
        "ONNX Resize."
    )

    def infer(self, x: TensorType) -> TensorType:
        if self.how.kernel != "nearest":
            check_dtype(self.name, x.dtype, FLOATS)
        if x.shape is None:
            return x
        return TensorType(self.target(x.shape), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return self.dense(x, x.shape, False)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [apply(ResizeGradient(**self.attributes), gradients[0], inputs[0])]

    def decompose(self, x: Tensor) -> Tensor:
        return self.resized(x, x.type.static_shape, False)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(kernel: str, *shape: int, **attributes: Any) -> Sample:
            kinds = None if kernel == "nearest" else FLOATS
            return sample(real(*shape), dtypes=kinds, **_attributes(kernel, **attributes))

        return [
            one("nearest", 2, 3, 4, axes=(1, 2), sizes=(6, 2)),
            one("nearest", 3, 5, axes=(1,), scales=(1.7,), coordinates="asymmetric",
                rounding="floor"),
            *(one("nearest", 5, axes=(0,), sizes=(3,), rounding=r) for r in ROUNDINGS[1:]),
            one("linear", 2, 3, 4, axes=(1, 2), sizes=(6, 7)),
            one("linear", 2, 4, 2, axes=(0, 1), scales=(1.5, 0.6)),
            *(one("linear", 4, axes=(0,), scales=(0.6,), coordinates=c) for c in COORDINATES[1:]),
            one("linear", 3, 4, axes=(0, 1), sizes=(1, 1), coordinates="pytorch_half_pixel"),
            one("linear", 6, axes=(0,), sizes=(4,), coordinates="tf_crop_and_resize",
                roi=(0.4, 1.3), extrapolation=0.5),
            one("linear", 4, axes=(0,), sizes=(5,), scales=(1.3,), offsets=(-0.4,),
                coordinates="explicit"),
            one("linear", 2, 2, 3, 2, axes=(1, 2, 3), sizes=(3, 2, 4)),
            one("cubic", 4, 5, axes=(0, 1), sizes=(6, 3)),
            one("cubic", 4, axes=(0,), sizes=(6,), cubic=-0.5, exclude_outside=True),
            one("linear", 3, 9, axes=(1,), sizes=(4,), antialias=True),
            one("cubic", 9, axes=(0,), sizes=(2,), antialias=True, cubic=-0.5,
                exclude_outside=True),
            one("area", 7, 3, axes=(0, 1), sizes=(3, 5)),
            one("linear", 4, 6, axes=(0, 1), sizes=(3, 3), policy="not_larger"),
            one("linear", 4, 6, axes=(0, 1), sizes=(3, 3), policy="not_smaller"),
            one("linear", 0, 3, axes=(1,), sizes=(5,)),
            one("linear", 2, 3, axes=(1,), sizes=(3,)),
        ]  # fmt: skip


def _attributes(
    kernel: str,
    *,
    axes: tuple[int, ...],
    sizes: tuple[int, ...] = (),
    scales: tuple[float, ...] = (),
    offsets: tuple[float, ...] = (),
    roi: tuple[float, ...] = (),
    policy: str = "stretch",
    coordinates: str = "half_pixel",
    extrapolation: float = 0.0,
    **how: Any,
) -> dict[str, Any]:
    """All attributes of the op, with defaults."""
    count = len(axes)
    return {
        "axes": axes,
        "sizes": sizes or (-1,) * count,
        "scales": scales or (0.0,) * count,
        "offsets": offsets or (0.0,) * count,
        "roi": roi or (0.0,) * count + (1.0,) * count,
        "policy": policy,
        "how": Filter(kernel, coordinates, **how),
        "extrapolation": extrapolation,
    }


@register
@frozen
class ResizeGradient(Resizing):
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    roi: tuple[float, ...]
    policy: str
    how: Filter
    extrapolation: float
    name: ClassVar[str] = "resize_gradient"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "The transpose of resize: each element shared out, by the weights, to those it was made "
        "of, in the shape of the second input."
    )

    def infer(self, g: TensorType, like: TensorType) -> TensorType:
        check_dtype(self.name, g.dtype, self.dtypes)
        return TensorType(like.shape, g.dtype)

    def reference(self, g: np.ndarray, like: np.ndarray) -> np.ndarray:
        return self.dense(g, like.shape, True)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        # The map without the constant that it adds outside.
        settings = {**self.attributes, "extrapolation": 0.0}
        return [apply(Resize(**settings), gradients[0]), None]

    def decompose(self, g: Tensor, like: Tensor) -> Tensor:
        return self.resized(g, like.type.static_shape, True)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(
                real(2, 6, 7), real(2, 3, 4), **_attributes("linear", axes=(1, 2), sizes=(6, 7))
            ),
            sample(real(3), real(7), **_attributes("nearest", axes=(0,), sizes=(3,))),
            sample(real(6, 3), real(4, 5), **_attributes("cubic", axes=(0, 1), sizes=(6, 3))),
            sample(
                real(4), real(9), **_attributes("linear", axes=(0,), sizes=(4,), antialias=True)
            ),
        ]


# --- published
_ALIASES = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}


def _choice(asked: str, what: str, value: Any, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise AttributeValueError(
            asked, f"there is no such {what}", received=repr(value),
            advice=f"Use one of {', '.join(allowed)}",
        )  # fmt: skip
    return str(value)


def _spatial(asked: str, x: Tensor, axes: Any, layout: str) -> tuple[int, ...]:
    """The axes to resize: those given, or those that a layout does not call batch or channel."""
    rank = require_rank(asked, tensor_of(asked, x).type, "to find the axes")
    if axes is not None:
        return known_axes(asked, axes, rank) or ()
    last = layout.endswith("C")
    if rank < 3 or not layout.startswith("N"):
        raise ShapeError(
            asked,
            "takes a batch of images with channels, such as [N, C, H, W]",
            received=str(x.type),
            advice="Say which axes to resize with axes=",
        )
    return tuple(range(1, rank - 1) if last else range(2, rank))


def _each(asked: str, value: Any, count: int, what: str, default: float) -> tuple[float, ...]:
    """One number for each axis."""
    if value is None:
        return (default,) * count
    listed = tuple(float(v) for v in (value if isinstance(value, Iterable) else [value] * count))
    if len(listed) != count:
        raise AttributeValueError(
            asked, f"needs {what} for each of {count} axes", received=repr(value),
            advice=f"Give {count} numbers",
        )  # fmt: skip
    return listed


def _check_extent(
    asked: str, sizes: Sequence[int], scales: Sequence[float], given: tuple[Any, Any]
) -> None:
    if given == (None, None):
        raise AttributeValueError(asked, "needs a size or a scale", received="neither")
    if any(s <= 0 for s in sizes) and given[0] is not None:
        raise AttributeValueError(asked, "sizes must be positive", received=list(sizes))
    if given[1] is not None and any(not 0 < s < math.inf for s in scales):
        raise AttributeValueError(asked, "scales must be positive", received=list(scales))


@function
def resize(
    x: Tensor,
    size: Any = None,
    *,
    scale: Any = None,
    offset: Any = None,
    mode: str = "nearest",
    coordinates: str = "half_pixel",
    rounding: str = "round_prefer_floor",
    cubic: float = -0.75,
    antialias: bool = False,
    exclude_outside: bool | None = None,
    extrapolation: float = 0.0,
    roi: Any = None,
    policy: str = "stretch",
    axes: Any = None,
    layout: str = "NCHW",
    name: str | None = None,
) -> Tensor:
    """`x` resized along its spatial axes (those of `layout`, or `axes`; one or more).

    `size` gives target sizes, `scale` target elements for each source element (the size is then
    rounded down), as a number or one for each axis; with both, the size is taken and the scale
    enters the coordinates. Modes:

    - "nearest", which rounds by `rounding`: round_prefer_floor, round_prefer_ceil, floor, ceil,
      round_to_even, round_to_odd. Every dtype; the other modes take floats.
    - "linear" ("bilinear", "trilinear") over two neighbours along each axis.
    - "cubic" ("bicubic") over four; `cubic` is the kernel's a: -0.75 as PyTorch and OpenCV, -0.5
      for Catmull-Rom splines.
    - "area": averages over the source elements that a target element covers, as PyTorch.

    `coordinates` says where target element o of m lies among n source elements, s being the scale:
    half_pixel (o + 0.5) / s - 0.5; half_pixel_symmetric, the same about the centre;
    pytorch_half_pixel, 0 when m is 1; align_corners o (n - 1) / (m - 1); align_corners_by_scale
    o (n - 1) / (n s - 1), as the text of ONNX has it; asymmetric o / s;
    tf_half_pixel_for_nn (o + 0.5) / s; tf_crop_and_resize within `roi` (all starts, then all ends,
    as fractions), with `extrapolation` outside of the source; explicit (o - offset) / s.

    `antialias` widens the linear and cubic kernels where the tensor shrinks. Neighbours outside
    repeat the edge or, with `exclude_outside` (the default when antialiasing, as in PyTorch and
    Pillow), are left out. `policy` "not_larger" or "not_smaller" keeps the aspect ratio of `size`.

    Raises AttributeValueError for options that do not fit, DTypeError for integers that would need
    weights. Gradients to any order. Covers ONNX's Upsample and Resize.

    Example:
        >>> import niello as nl
        >>> nl.resize(nl.Graph().placeholder((None, 3, 8, 8)), scale=2.0, mode="linear").shape
        (None, 3, 16, 16)
    """
    where_ = _spatial("resize", x, axes, layout)
    count = len(where_)
    given = (-1,) * count if size is None else integers("resize", size, "a size")
    sizes = given * count if len(given) == 1 and size is not None else given
    if len(sizes) != count:
        raise AttributeValueError("resize", f"needs {count} sizes", received=list(sizes))
    scales = _each("resize", scale, count, "a scale", 0.0)
    _check_extent("resize", sizes, scales, (size, scale))
    if policy != "stretch" and size is None:
        raise AttributeValueError("resize", "a policy needs sizes", received=repr(policy))
    kernel = _choice("resize", "mode", _ALIASES.get(mode, mode), KERNELS)
    how = Filter(
        kernel,
        _choice("resize", "kind of coordinates", coordinates, COORDINATES),
        _choice("resize", "rounding", rounding, ROUNDINGS),
        float(cubic),
        bool(antialias),
        bool(antialias if exclude_outside is None else exclude_outside),
    )
    roi_ = _each("resize", roi, 2 * count, "a start and an end", 0.0) if roi is not None else (
        (0.0,) * count + (1.0,) * count
    )  # fmt: skip
    op = Resize(
        where_,
        sizes,
        scales,
        _each("resize", offset, count, "an offset", 0.0),
        roi_,
        _choice("resize", "policy", policy, POLICIES),
        how,
        float(extrapolation),
    )
    return apply(op, x, name=name)


@function
def interpolate(
    x: Tensor,
    size: Any = None,
    *,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
    antialias: bool = False,
    name: str | None = None,
) -> Tensor:
    """`resize` of [N, C, ...] with PyTorch's names, defaults and coordinates.

    Modes: nearest, nearest-exact, linear, bilinear, trilinear, bicubic, area. Raises
    AttributeValueError for others. As torch.nn.functional.interpolate.

    Example:
        >>> import niello as nl
        >>> nl.interpolate(nl.Graph().placeholder((1, 3, 8, 8)), (4, 6), mode="bilinear").shape
        (1, 3, 4, 6)
    """
    coordinates = "align_corners" if align_corners else "half_pixel"
    rounding = "round_prefer_ceil"
    if mode == "nearest":
        coordinates, rounding = "asymmetric", "floor"
    kernel = "nearest" if mode == "nearest-exact" else mode
    return resize(
        x,
        size,
        scale=scale_factor,
        mode=kernel,
        coordinates=coordinates,
        rounding=rounding,
        cubic=-0.5 if antialias else -0.75,
        antialias=antialias,
        name=name,
    )
