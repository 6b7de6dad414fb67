"""Operators of ONNX Runtime whose weights are quantized in blocks, or belong to experts."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import MICROSOFT, translates
from niello.frontends.onnx.translations.linear import product
from niello.frontends.onnx.translations.normalisation import layer_norm
from niello.frontends.onnx.translations.quantization import Scale, centred
from niello.frontends.onnx.translations.recurrent import lstm


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Small integers from bytes, the lowest bits first."""
    shifts = np.arange(0, 8, bits)
    spread = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return spread.reshape(*packed.shape[:-1], -1)


@translates("MatMulNBits", domain=MICROSOFT)
def matmul_nbits(at: Call) -> nl.Tensor:
    """A product with weights of 2, 4 or 8 bits, in blocks with a scale and zero point each; or in
    groups that an input (g_idx) names for each row."""
    rows, inner = at.integer("N"), at.integer("K")
    bits, block = at.integer("bits", 4), at.integer("block_size")
    blocks, each = -(-inner // block), 8 // bits
    codes = unpacked(at.array(1).reshape(rows * blocks, -1), bits)[:, :block]
    codes = codes.reshape(rows, blocks * block)[:, :inner].astype(np.float32)
    scales = at.array(2).reshape(rows, blocks)
    if not at.has(3):
        zeros = np.full((rows, blocks), 1 << (bits - 1), np.float32)
    elif at.array(3).dtype == np.uint8:
        packed = at.array(3).reshape(rows, -(-blocks // each))
        zeros = unpacked(packed, bits)[:, :blocks].astype(np.float32)
    else:
        zeros = at.array(3).reshape(rows, blocks).astype(np.float32)
    group = at.array(4).astype(np.int64) if at.has(4) else np.arange(inner) // block
    values = (codes - zeros[:, group]) * scales[:, group].astype(np.float32)
    weights = values.astype(at.dtype(0).numpy)
    y = nl.matmul(at.tensor(0), at.constant(np.ascontiguousarray(weights.T)))
    return nl.add(y, at.tensor(5)) if at.has(5) else y


# What four bits stand for: the quantiles of a normal distribution, and floats of four bits.
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
_FP4 = (0.0, 0.00520833333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)


@translates("MatMulBnb4", domain=MICROSOFT)
def matmul_bnb4(at: Call) -> nl.Tensor:
    """A product with weights of four bits, each a number of a table times its block's scale."""
    rows, inner, block = at.integer("N"), at.integer("K"), at.integer("block_size")
    table = _NF4 if at.integer("quant_type") == 1 else (*_FP4, *(-v for v in _FP4))
    packed = at.array(1).reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], -1).reshape(-1)[: rows * inner]
    scale = np.repeat(at.array(2).astype(np.float32).reshape(-1), block)[: rows * inner]
    values = np.array(table, np.float32)[codes] * scale
    weights = values.reshape(rows, inner).astype(at.dtype(0).numpy)
    turned = weights.T if at.integer("transB", 1) else weights
    return nl.matmul(at.tensor(0), at.constant(np.ascontiguousarray(turned)))


@translates("GatherBlockQuantized", domain=MICROSOFT)
def gather_block_quantized(at: Call) -> nl.Tensor:
    """Slices of a table that is quantized in blocks along an axis, as floats."""
    data, scales = at.array(0), at.tensor(2)
    if data.dtype.name not in ("uint8", "int4", "uint4"):
        raise at.refuse("tables of small floats are not translated", data.dtype.name)
    bits = at.integer("bits", 4)
    plain = data.dtype == np.uint8
    codes = (
        unpacked(data, bits)
        if plain and bits < 8
        else data.astype(np.int8 if not plain else np.uint8)
    )
    rank = codes.ndim
    axis, along = at.integer("gather_axis", 0) % rank, at.integer("quantize_axis", 1) % rank
    block = at.integer("block_size", 128)
    zero: Any = np.float32((1 << (bits - 1)) if plain else 0)
    if at.has(3):
        raw = at.array(3)
        small = unpacked(raw, bits) if plain and bits < 8 else raw
        small = small[tuple(slice(0, n) for n in at.shape(2))]
        zero = np.repeat(small.astype(np.float32), block, along)
        zero = zero[tuple(slice(0, n) for n in codes.shape)]
    centre = at.constant((codes.astype(np.float32) - zero).astype(np.int16))
    place = at.constant(np.arange(codes.shape[along]) // block)
    if axis == along:
        return nl.gather(_scaled(centre, nl.gather(scales, place, along)), at.tensor(1), axis)
    taken, factor = (nl.gather(t, at.tensor(1), axis) for t in (centre, scales))
    # The axes of the indices take the place of the one that is gathered.
    moved = along + at.rank(1) - 1 if along > axis else along
    return _scaled(taken, nl.gather(factor, place, moved))


def _scaled(codes: nl.Tensor, scale: nl.Tensor) -> nl.Tensor:
    wide = nl.multiply(nl.cast(codes, nl.float32), nl.cast(scale, nl.float32))
    return nl.cast(wide, scale.dtype)


@translates("MatMulInteger16", domain=MICROSOFT)
def matmul_integer16(at: Call) -> nl.Tensor:
    """A product of 16-bit integers, in 32 bits."""
    unsigned = not (at.dtype(0).is_signed or at.dtype(1).is_signed)
    wide = nl.uint32 if unsigned else nl.int32
    return product(nl.cast(at.tensor(0), wide), nl.cast(at.tensor(1), wide))


@translates("MulInteger", domain=MICROSOFT)
def mul_integer(at: Call) -> nl.Tensor:
    """(a - its zero point) * (b - its zero point), in int32."""
    return nl.multiply(centred(at.tensor(0), at.optional(1)), centred(at.tensor(2), at.optional(3)))


@translates("ReduceSumInteger", domain=MICROSOFT)
def reduce_sum_integer(at: Call) -> nl.Tensor:
    """A sum of 8-bit integers over axes, in 32 bits."""
    wide = nl.int32 if at.dtype(0).is_signed else nl.uint32
    axes = at.ints("axes", None) or list(range(at.rank(0)))
    return nl.sum(nl.cast(at.tensor(0), wide), tuple(axes), bool(at.integer("keepdims", 1)))


@translates("QEmbedLayerNormalization", domain=MICROSOFT)
def quantized_embedding(at: Call) -> Any:
    """The normalised sum of embeddings that are quantized, and the lengths by a mask."""
    batch, length = at.shape(0)

    def table(i: int, settings: int) -> Scale:
        return Scale(at.tensor(8 + settings), at.tensor(13 + settings))

    total = table(2, 0).dequantize(nl.gather(at.tensor(2), at.tensor(0), 0), nl.float32)
    positions = nl.slice(at.tensor(3), [0], [length], axes=(0,))
    total = total + table(3, 1).dequantize(positions, nl.float32)
    if at.has(1):
        total = total + table(4, 2).dequantize(nl.gather(at.tensor(4), at.tensor(1), 0), nl.float32)
    scale, bias = (table(i, i - 2).dequantize(at.tensor(i), nl.float32) for i in (5, 6))
    y = layer_norm(total, scale, bias, (2,), at.real("epsilon", 1e-12))
    if not at.has(7):
        return y, np.zeros(batch, np.int32)
    return y, nl.cast(nl.sum(nl.cast(at.tensor(7), nl.int32), 1), nl.int32)


@translates("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_quantize_lstm(at: Call) -> Any:
    """An LSTM with quantized weights. Its inputs stay floats, which is the more exact way."""

    def floats(i: int, settings: int) -> nl.Tensor:
        scale, zero = at.tensor(settings), at.tensor(settings + 1)
        whole = nl.cast(at.tensor(i), nl.float32)
        shape = (at.shape(i)[0], 1, -1)
        zero, scale = (nl.reshape(nl.cast(t, nl.float32), shape) for t in (zero, scale))
        return nl.transpose((whole - zero) * scale, (0, 2, 1))

    inputs = [at.inputs[i] if at.has(i) else None for i in range(8)]
    inputs[1], inputs[2] = floats(1, 8), floats(2, 10)
    return lstm(Call(at.importer, at.node, 14, inputs, at.scope))


# --- experts
@translates("MoE", domain=MICROSOFT)
def mixture_of_experts(at: Call) -> nl.Tensor:
    """Layers of which each row takes the k that a router gives the largest shares."""
    if at.integer("use_sparse_mixer", 0):
        raise at.refuse("the sparse mixer is not translated", "use_sparse_mixer=1")
    shape, experts = at.shape(0), at.shape(1)[1]
    x = nl.reshape(at.tensor(0), (1, -1, shape[-1]))
    shares = nl.softmax(at.tensor(1))
    best, which = nl.top_k(shares, at.integer("k", 1), -1)
    if at.integer("normalize_routing_weights", 0):
        best = best / nl.sum(best, -1, True)
    hot = nl.one_hot(which, experts, axis=-1, dtype=best.dtype)
    weight = nl.sum(hot * nl.expand_dims(best, -1), 1)  # [rows, experts]
    inner = _layer(at, x, 2)
    inner = _activated(at, inner, _layer(at, x, 6) if at.has(6) else None)
    y = _layer(at, inner, 4)  # [experts, rows, width]
    mixed = nl.sum(y * nl.expand_dims(nl.transpose(weight, (1, 0)), -1), 0)
    return nl.reshape(mixed, shape)


def _layer(at: Call, x: nl.Tensor, i: int) -> nl.Tensor:
    """x [1 or experts, rows, in] through the weights [experts, out, in] and bias at inputs i."""
    experts = at.shape(i)[0]
    x = nl.broadcast_to(x, (experts, *at.sizes(x)[1:]))
    y = nl.matmul(x, nl.transpose(at.tensor(i), (0, 2, 1)))
    return nl.add(y, nl.expand_dims(at.tensor(i + 1), 1)) if at.has(i + 1) else y


def _activated(at: Call, x: nl.Tensor, other: nl.Tensor | None) -> nl.Tensor:
    kind = at.text("activation_type", "relu")
    if kind == "swiglu":
        return _swiglu(at, x, other)
    plain: dict[str, Any] = {
        "relu": nl.relu, "gelu": nl.gelu, "silu": nl.silu, "identity": nl.identity,
    }  # fmt: skip
    if kind not in plain:
        raise at.refuse("the activation is not translated", kind)
    y = plain[kind](x)
    return y if other is None else y * other  # type: ignore[no-any-return]


def _swiglu(at: Call, x: nl.Tensor, other: nl.Tensor | None) -> nl.Tensor:
    """Half of x, gated by the other half: neighbours, halves, or a layer of its own."""
    fusion = at.integer("swiglu_fusion", 0)
    if fusion == 1:
        experts, rows, width = at.sizes(x)
        gate, linear = nl.unstack(nl.reshape(x, (experts, rows, width // 2, 2)), -1)
    elif fusion == 2:
        gate, linear = nl.split(x, 2, -1)
    elif other is not None:
        gate, linear = x, other
    else:
        raise at.refuse("swiglu needs two layers", "swiglu_fusion=0 without fc3")
    limit = at.real("swiglu_limit", None)
    if limit is not None:
        gate = nl.minimum(gate, float(limit))
        linear = nl.clamp(linear, -float(limit), float(limit))
    opened = gate * nl.sigmoid(gate * at.real("activation_alpha", 1.0))
    return opened * (linear + at.real("activation_beta", 0.0))
