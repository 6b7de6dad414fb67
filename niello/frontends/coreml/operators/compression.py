"""Compressed weights (constexpr operators), quantize and dequantize."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.blobs import unpack
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator


def _count(shape: Any) -> int:
    return int(np.prod(shape, dtype=np.int64))


def along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """A vector in a shape that broadcasts along one axis; a scalar stays."""
    if values.ndim == 0:
        return values
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


@operator("constexpr_affine_dequantize", fold=False)
def affine(at: Op) -> np.ndarray:
    """scale * (data - zero point), of each slice along an axis."""
    data, scale = at.array("quantized_data"), at.array("scale")
    axis = at.integer("axis", 0)
    zero = along(at.array("zero_point").astype(np.float32), axis, data.ndim)
    wide = (data.astype(np.float32) - zero) * along(scale.astype(np.float32), axis, data.ndim)
    return wide.astype(scale.dtype)


@operator("constexpr_cast", fold=False)
def constexpr_cast(at: Op) -> np.ndarray:
    """Weights of another float type."""
    return at.array("source_val").astype({"fp16": np.float16, "fp32": np.float32}[
        at.text("output_dtype")
    ])  # fmt: skip


def looked_up(at: Op, indices: np.ndarray, lut: np.ndarray) -> np.ndarray:
    """Entries of tables [groups..., entries, width]; vectors lie along `vector_axis`."""
    rank = indices.ndim
    place = []
    for i, size in enumerate(indices.shape):
        groups = lut.shape[i]
        number = np.arange(size) // (size // groups)
        place.append(number.reshape([-1 if j == i else 1 for j in range(rank)]))
    if indices.size and int(indices.max()) >= lut.shape[-2]:
        raise at.refuse("a number is beyond the lookup table", f"{lut.shape[-2]} entries")
    found = lut[(*place, indices.astype(np.int64))]  # [..., width]
    if lut.shape[-1] == 1:
        return found[..., 0]
    axis = at.integer("vector_axis", -1) % rank
    moved = np.moveaxis(found, -1, axis + 1)
    shape = list(indices.shape)
    shape[axis] *= lut.shape[-1]
    return moved.reshape(shape)


@operator("constexpr_lut_to_dense", fold=False)
def lut_to_dense(at: Op) -> np.ndarray:
    """Palettized weights: packed numbers with a shape, or numbers in their shape with tables."""
    indices, lut = at.array("indices"), at.array("lut")
    if not at.has("shape"):
        return looked_up(at, indices, lut)
    shape = tuple(at.ints("shape"))
    bits = max(1, int(np.ceil(np.log2(max(2, lut.size)))))
    numbers = unpack(indices.tobytes(), f"UINT{bits}", _count(shape)).astype(np.int64)
    if numbers.size and int(numbers.max()) >= lut.size:
        raise at.refuse("a number is beyond the lookup table", f"{lut.size} entries")
    return lut.reshape(-1)[numbers].reshape(shape)


def _mask(at: Op, name: str) -> np.ndarray:
    mask = at.array(name)
    if not at.has("shape"):
        return mask.astype(bool)
    shape = tuple(at.ints("shape"))
    return unpack(mask.tobytes(), "UINT1", _count(shape)).reshape(shape).astype(bool)


def spread(at: Op, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values where the mask is set, zeros elsewhere."""
    if int(mask.sum()) != values.size:
        raise at.refuse(f"the mask sets {int(mask.sum())} elements", f"{values.size} values")
    found = np.zeros(mask.shape, values.dtype)
    found[mask] = values.reshape(-1)
    return found


@operator("constexpr_sparse_to_dense", fold=False)
def sparse_to_dense(at: Op) -> np.ndarray:
    """Sparse weights: the values that are not zero, and where they are."""
    return spread(at, at.array("nonzero_data"), _mask(at, "mask"))


def blockwise(at: Op, data: np.ndarray) -> np.ndarray:
    """scale * (data - offset), with one scale for each block."""
    scale = at.array("scale")
    wide = data.astype(np.float32)

    def full(values: np.ndarray) -> np.ndarray:
        for axis, size in enumerate(data.shape):
            values = np.repeat(values, size // values.shape[axis], axis)
        return values.astype(np.float32)

    if at.has("offset"):
        wide = wide - full(at.array("offset"))
    return (wide * full(scale)).astype(scale.dtype)


@operator("constexpr_blockwise_shift_scale", fold=False)
def blockwise_shift_scale(at: Op) -> np.ndarray:
    """Weights quantized by blocks."""
    return blockwise(at, at.array("data"))


@operator("constexpr_lut_to_sparse", fold=False)
def lut_to_sparse(at: Op) -> Any:
    """The mask and the values of weights that are palettized and sparse."""
    mask, lut = _mask(at, "indices_mask"), at.array("lut")
    indices = spread(at, at.array("indices_nonzero_data"), mask)
    dense = looked_up(at, indices, lut)
    width = lut.shape[-1]
    wide = np.repeat(mask, width, at.integer("vector_axis", -1)) if width > 1 else mask
    return wide.astype(np.uint8), dense[wide]


@operator("constexpr_sparse_blockwise_shift_scale", fold=False)
def sparse_blockwise(at: Op) -> Any:
    """The mask and the values of weights that are quantized by blocks and sparse."""
    mask = _mask(at, "data_mask")
    dense = blockwise(at, spread(at, at.array("nonzero_data"), mask))
    return mask.astype(np.uint8), dense[mask]


@operator("quantize")
def quantize(at: Op) -> nl.Tensor:
    """round(x / scale) + zero point, within the type."""
    axis = at.axis("axis", 0, at.rank("input")) if at.has("axis") else None
    dtype = getattr(nl, at.text("output_dtype", "int8"))
    zero = at.tensor("zero_point") if at.has("zero_point") else None
    return nl.quantize(at.tensor("input"), at.tensor("scale"), zero, dtype=dtype, axis=axis)


@operator("dequantize")
def dequantize(at: Op) -> nl.Tensor:
    """(q - zero point) * scale."""
    axis = at.axis("axis", 0, at.rank("input")) if at.has("axis") else None
    zero = at.tensor("zero_point") if at.has("zero_point") else None
    scale = at.tensor("scale")
    return nl.dequantize(at.tensor("input"), scale, zero, dtype=scale.dtype, axis=axis)
