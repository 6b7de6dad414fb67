"""Quantized tensors: integers or small floats with scales.

    q = saturate(round(x / scale) + zero_point),    x = (q - zero_point) * scale

Scales (and zero points, in the shape of the scales) are one number, one for each place along an
axis, or one for each block: of the rank of x, with sizes that divide those of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import ALL, FLOATS, DType, float32, int8, int32, int64, uint8
from niello.core.errors import ShapeError
from niello.core.records import frozen
from niello.core.shapes import normalise_axis, show
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import cast_to, check_dtype, graph_of
from niello.ops.pool_average import AveragePool
from niello.ops.pool_windows import PoolSettings, Sliding
from niello.ops.unary import rint
from niello.ops.window import Window

Gradients = tuple[Tensor | None, ...]
Tensors = tuple[Tensor, ...]
INTEGER_CODES = (dtypes.int4, dtypes.uint4, int8, uint8, dtypes.int16, dtypes.uint16, int32)
FLOAT_CODES = (dtypes.float8_e4m3fn, dtypes.float8_e5m2)
CODES = (*INTEGER_CODES, *FLOAT_CODES)


def blocks_of(asked: str, shape: Sequence[int], scale: Sequence[int], axis: int | None) -> Any:
    """How many places along each axis of `shape` share a scale. Raises ShapeError."""
    if all(s == 1 for s in scale) and len(scale) != len(shape):
        return tuple(shape)
    if len(scale) == 1 and (axis is not None or len(shape) != 1):
        at = normalise_axis(1 if axis is None else axis, len(shape), asked)
        if scale[0] != shape[at]:
            raise ShapeError(
                asked,
                f"axis {at} has {shape[at]} places, each needs a scale",
                received=f"{scale[0]} scales",
                advice="Check the axis",
            )
        return tuple(1 if i == at else n for i, n in enumerate(shape))
    fits = len(scale) == len(shape)
    blocks = tuple(-(-n // max(s, 1)) for n, s in zip(shape, scale, strict=fits)) if fits else ()
    if not fits or any(
        -(-n // max(b, 1)) != s for n, s, b in zip(shape, scale, blocks, strict=True) if n
    ):
        raise ShapeError(
            asked,
            "scales are one, one for each place along an axis, or one for each block of the tensor",
            received=f"scales {show(tuple(scale))} for {show(tuple(shape))}",
            advice="Sizes of scales must divide those of the tensor",
        )
    return blocks


def spread_numpy(asked: str, scale: np.ndarray, shape: Sequence[int], axis: int | None) -> Any:
    """Scales repeated to the shape of the tensor."""
    blocks = blocks_of(asked, shape, scale.shape, axis)
    places = np.indices(shape, sparse=True)
    if scale.size == 1 or len(scale.shape) != len(shape):
        at = normalise_axis(1 if axis is None else axis, len(shape), asked) if scale.size > 1 else 0
        index = np.zeros(shape, int) if scale.size == 1 else np.broadcast_to(places[at], shape)
        return scale.reshape(-1)[index]
    return scale[tuple(np.broadcast_to(p // b, shape) for p, b in zip(places, blocks, strict=True))]


@register
@frozen
class SpreadScales(Op):
    """Scales repeated over the places that share them. The second input gives the shape."""

    axis: int | None = None
    name: ClassVar[str] = "spread_scales"
    traits: ClassVar[Trait] = Trait.MOVEMENT | Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "Scales of a quantized tensor (or of its axis or blocks) in its shape."

    def infer(self, scale: TensorType, like: TensorType) -> TensorType:
        if scale.is_static and like.is_static:
            blocks_of(self.name, like.static_shape, scale.static_shape, self.axis)
        return TensorType(like.shape, scale.dtype)

    def reference(self, scale: np.ndarray, like: np.ndarray) -> np.ndarray:
        return np.asarray(spread_numpy(self.name, scale, like.shape, self.axis))

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        g, scale = gradients[0], inputs[0]
        assert g is not None
        return (g.graph.apply(SumOfBlocks(self.axis), g, scale), None)  # type: ignore[return-value]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        scale, like = inputs
        return scale(*scale_index(self.name, index, like.shape, scale.shape, self.axis))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(*scale), real(*x), dtypes=(*FLOATS, int8), axis=axis)
            for x, scale, axis in sample_scales()
        ]


def scale_index(
    asked: str, index: Index, shape: tuple[int, ...], scale: tuple[int, ...], axis: int | None
) -> tuple[Any, ...]:
    """Where the scale of the element at `index` stands."""
    if all(s == 1 for s in scale):
        return (0,) * len(scale)
    if len(scale) == 1 and (axis is not None or len(shape) != 1):
        return (index[normalise_axis(1 if axis is None else axis, len(shape), asked)],)
    blocks = blocks_of(asked, shape, scale, axis)
    return tuple(i // b if s > 1 else 0 for i, b, s in zip(index, blocks, scale, strict=True))


@register
@frozen
class SumOfBlocks(Op):
    """The transpose of SpreadScales: sums over the places that share a scale."""

    axis: int | None = None
    name: ClassVar[str] = "sum_of_blocks"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Sums over the places of a tensor that share a scale, in the scales' shape."
    )

    def infer(self, g: TensorType, scale: TensorType) -> TensorType:
        check_dtype(self.name, g.dtype, self.dtypes)
        return TensorType(scale.shape, g.dtype)

    def reference(self, g: np.ndarray, scale: np.ndarray) -> np.ndarray:
        numbers = np.arange(scale.size).reshape(scale.shape)
        total = np.zeros(scale.size, np.float64)
        np.add.at(total, spread_numpy(self.name, numbers, g.shape, self.axis), g.astype(np.float64))
        return total.reshape(scale.shape).astype(g.dtype)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        h, (g, _) = gradients[0], inputs
        assert h is not None
        return (h.graph.apply(SpreadScales(self.axis), h, g), None)  # type: ignore[return-value]

    def decompose(self, *inputs: Tensor) -> Tensor:
        g, scale = inputs
        call = opdef.functions()
        shape, sizes = g.type.static_shape, scale.type.static_shape
        if all(s == 1 for s in sizes):
            return call["reshape"](call["sum"](g), sizes)  # type: ignore[no-any-return]
        blocks = blocks_of(self.name, shape, sizes, self.axis)
        if len(sizes) != len(shape) or all(b in (1, n) for b, n in zip(blocks, shape, strict=True)):
            axes = tuple(i for i, b in enumerate(blocks) if b != 1)
            summed = call["sum"](g, axes=axes) if axes else g
            return call["reshape"](summed, sizes)  # type: ignore[no-any-return]
        rank = len(shape)
        blocks = tuple(max(b, 1) for b in blocks)
        window = Window(blocks, (1,) * rank, "valid", True)
        settings = PoolSettings(Sliding(blocks, window), tuple(range(rank)), rank)
        uneven = [b - n % b if n % b else 0 for n, b in zip(shape, blocks, strict=True)]
        if any(uneven):
            g = call["pad"](g, [(0, extra) for extra in uneven])
        return g.graph.apply(AveragePool(settings, "none"), g)  # type: ignore[return-value]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [sample(real(*x), real(*scale), axis=axis) for x, scale, axis in sample_scales()]


def sample_scales() -> list[tuple[tuple[int, ...], tuple[int, ...], int | None]]:
    """(data, scales, axis) that cover every form."""
    return [
        ((2, 3), (), None),
        ((2, 3), (1,), None),
        ((2, 3, 2), (3,), None),
        ((2, 3), (2,), 0),
        ((2, 3), (3,), -1),
        ((4, 6), (2, 3), None),
        ((4, 6), (4, 1), None),
        ((3, 5), (3, 2), None),
        ((4,), (2,), None),
        ((0, 3), (3,), 1),
    ]


def _spread(scale: Tensor, like: Tensor, axis: int | None) -> Tensor:
    if scale.shape is not None and all(s == 1 for s in scale.shape):
        return opdef.functions()["reshape"](scale, ())  # type: ignore[no-any-return]
    return like.graph.apply(SpreadScales(axis), scale, like)  # type: ignore[return-value]


class ScaledOp(Op):
    """What quantization and its reverse have in common; not an op itself."""

    axis: int | None

    def _scales(self, x: TensorType, scale: TensorType, zero: Sequence[TensorType]) -> None:
        check_dtype(self.name, scale.dtype, FLOATS)
        if x.is_static and scale.is_static:
            blocks_of(self.name, x.static_shape, scale.static_shape, self.axis)
        for z in zero:
            if z.is_static and scale.is_static and z.shape != scale.shape:
                raise ShapeError(
                    self.name,
                    f"zero points must have the shape of the scales, {show(scale.shape)}",
                    received=show(z.shape),
                    advice="Give one zero point for each scale",
                )


@register
@frozen
class Quantize(ScaledOp):
    """See the function `quantize`. Inputs: x, scales and, at will, zero points."""

    dtype: DType
    axis: int | None = None
    name: ClassVar[str] = "quantize"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "saturate(round(x / scale) + zero_point), halves to even (ONNX QuantizeLinear); to 8-bit "
        "floats x / scale, saturating."
    )
    grad = not_differentiable("rounding has no slope; fake_quantize passes the gradient through")

    def infer(self, x: TensorType, scale: TensorType, *zero: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        check_dtype(self.name, self.dtype, CODES)
        self._scales(x, scale, zero)
        return TensorType(x.shape, self.dtype)

    def reference(self, x: np.ndarray, scale: np.ndarray, *zero: np.ndarray) -> np.ndarray:
        kind = np.float64 if x.dtype == np.float64 else np.float32
        wide = x.astype(kind) / spread_numpy(self.name, scale.astype(kind), x.shape, self.axis)
        if self.dtype.is_float:
            limit = kind(self.dtype.max)
            return np.clip(wide, -limit, limit).astype(np.float32).astype(self.dtype.numpy)
        found = np.rint(wide)
        if zero:
            found = found + spread_numpy(self.name, zero[0].astype(kind), x.shape, self.axis)
        low, high = self.dtype.min, self.dtype.max
        held = np.clip(np.nan_to_num(found.astype(np.float64), nan=0.0), low, high)
        return (
            held.astype(np.int64)
            .astype(dtypes.compute_dtype(self.dtype).numpy)
            .astype(self.dtype.numpy)
        )

    def decompose(self, *inputs: Tensor) -> Tensor:
        x, scale, *zero = inputs
        kind = dtypes.float64 if x.dtype is dtypes.float64 else float32
        wide = cast_to(x, kind) / _spread(cast_to(scale, kind), x, self.axis)
        cast = opdef.functions()["cast"]
        if self.dtype.is_float:
            return cast(wide, self.dtype, saturate=True)  # type: ignore[no-any-return]
        found = rint(wide)
        if zero:
            found = found + _spread(cast_to(zero[0], kind), x, self.axis)
        return cast(found, self.dtype)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        some = (float32, dtypes.float16)
        rng = np.random.default_rng(3)
        for i, (x, scale, axis) in enumerate(sample_scales()):
            target = INTEGER_CODES[i % len(INTEGER_CODES)]
            zero = rng.integers(0, 6, scale).astype(target.numpy)
            positive = real(*scale, low=0.05, high=0.2)
            found.append(sample(real(*x), positive, zero, dtypes=some, dtype=target, axis=axis))
            found.append(sample(real(*x), positive, dtypes=some, dtype=target, axis=axis))
        ties = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 128.5, -128.5, 1e9, -1e9, np.nan])
        one = np.ones((), np.float32)
        for target in CODES:
            found.append(sample(ties, one, dtypes=(float32,), dtype=target))
        return found


@register
@frozen
class Dequantize(ScaledOp):
    """See the function `dequantize`. Inputs: q, scales and, at will, zero points."""

    dtype: DType = float32
    axis: int | None = None
    name: ClassVar[str] = "dequantize"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS  # of the scales
    doc: ClassVar[str] = "(q - zero_point) * scale (ONNX DequantizeLinear)."

    def infer(self, q: TensorType, scale: TensorType, *zero: TensorType) -> TensorType:
        check_dtype(self.name, q.dtype, CODES)
        check_dtype(self.name, self.dtype, FLOATS)
        self._scales(q, scale, zero)
        return TensorType(q.shape, self.dtype)

    def _wide(self) -> DType:
        return dtypes.float64 if self.dtype is dtypes.float64 else float32

    def reference(self, q: np.ndarray, scale: np.ndarray, *zero: np.ndarray) -> np.ndarray:
        kind = self._wide().numpy
        code = dtypes.dtype(q.dtype)
        value = q.astype(kind) if code.is_float else q.astype(np.int64)
        if zero:
            value = value - spread_numpy(self.name, zero[0].astype(value.dtype), q.shape, self.axis)
        factor = spread_numpy(self.name, scale.astype(kind), q.shape, self.axis)
        return (value.astype(kind) * factor).astype(self.dtype.numpy)

    def _centred(self, q: Tensor, zero: Sequence[Tensor]) -> Tensor:
        """q - zero_point, exactly, as a float."""
        wide = self._wide()
        if not zero:
            return cast_to(q, wide)
        middle = wide if q.dtype.is_float else int32 if q.dtype.bits <= 16 else int64
        return cast_to(cast_to(q, middle) - _spread(cast_to(zero[0], middle), q, self.axis), wide)

    def grad(
        self, gradients: Gradients, inputs: Tensors, outputs: Tensors
    ) -> Sequence[Tensor | None]:
        g, (q, scale, *zero) = gradients[0], inputs
        assert g is not None
        part = cast_to(g, self._wide()) * self._centred(q, zero)
        total: Any = g.graph.apply(SumOfBlocks(self.axis), part, scale)
        return (None, cast_to(total, scale.dtype), *(None for _ in zero))

    def decompose(self, *inputs: Tensor) -> Tensor:
        q, scale, *zero = inputs
        wide = self._wide()
        factor = _spread(cast_to(scale, wide), q, self.axis)
        return cast_to(self._centred(q, zero) * factor, self.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        rng = np.random.default_rng(4)
        for i, (x, scale, axis) in enumerate(sample_scales()):
            code = INTEGER_CODES[i % len(INTEGER_CODES)]
            low, high = max(code.min, -100), min(code.max, 100)
            q = rng.integers(int(low), int(high), x, endpoint=True).astype(code.numpy)
            zero = rng.integers(0, 6, scale).astype(code.numpy)
            scales = rng.uniform(0.05, 0.2, scale).astype(np.float32)
            for kind in (float32, FLOATS[i % 2]):
                found.append(sample(q, scales, zero, dtype=kind, axis=axis, grad=False))
            found.append(sample(q, scales, axis=axis, grad=False))
            found.append(sample(q, scales, zero, dtype=dtypes.float64, axis=axis))
        codes = np.arange(120, dtype=np.uint8)
        one = np.full((), 0.5, np.float32)
        found += [sample(codes.view(d.numpy), one, grad=False) for d in FLOAT_CODES]
        return found


def _as_scales(asked: str, x: Tensor, scale: Any, zero: Any, like: DType) -> list[Tensor]:
    graph = x.graph
    found = [graph.as_tensor(scale, dtype=float32)]
    if zero is not None:
        point = (
            graph.as_tensor(zero, dtype=like) if isinstance(zero, int) else graph.as_tensor(zero)
        )
        if point.shape == () and found[0].shape not in ((), None):
            point = opdef.functions()["broadcast_to"](point, found[0].shape)
        found.append(point)
    return found


@opdef.function
def quantize(
    x: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    dtype: Any = int8,
    axis: int | None = None,
    name: str | None = None,
) -> Tensor:
    """saturate(round(x / scale) + zero_point) in an integer dtype, halves rounded to even.

    `scale` is a number, one for each place along `axis` (1 by default), or a tensor of the rank of
    x whose sizes divide its sizes (blocks). `zero_point` has the shape of the scales. `dtype` is
    int4, uint4, int8, uint8, int16, uint16, int32, or an 8-bit float (x / scale, saturating, not
    rounded to integers). NaN gives 0. Source: ONNX QuantizeLinear. Raises ShapeError for scales
    that do not fit, DTypeError for another dtype.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> nl.quantize(graph.placeholder((8, 64)), 0.02, 128, dtype=nl.uint8).type
        uint8[8, 64]
    """
    tensor = graph_of("quantize", x, scale).as_tensor(x)
    target = dtypes.dtype(dtype)
    scales = _as_scales("quantize", tensor, scale, zero_point, target)
    return tensor.graph.apply(Quantize(target, axis), tensor, *scales, name=name)  # type: ignore[return-value]


@opdef.function
def dequantize(
    q: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    dtype: Any = float32,
    axis: int | None = None,
    name: str | None = None,
) -> Tensor:
    """(q - zero_point) * scale in a float dtype.

    `q` holds int4, uint4, int8, uint8, int16, uint16, int32 or an 8-bit float; scales and zero
    points are those of `quantize`. Differentiable in the scales. Source: ONNX DequantizeLinear.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> packed = graph.placeholder((64, 32), nl.uint8)  # two weights in a byte
        >>> scale = graph.placeholder((64, 2))  # one for each 32 weights
        >>> nl.dequantize(packed.unpack_int4(), scale).type
        float32[64, 64]
    """
    tensor = graph_of("dequantize", q, scale).as_tensor(q)
    scales = _as_scales("dequantize", tensor, scale, zero_point, tensor.dtype)
    op = Dequantize(dtypes.dtype(dtype), axis)
    return tensor.graph.apply(op, tensor, *scales, name=name)  # type: ignore[return-value]
