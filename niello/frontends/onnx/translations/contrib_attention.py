"""Attention with a cache, rotary positions, and quantized attention of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import MICROSOFT, translates
from niello.frontends.onnx.translations.attention import attended, heads, joined, mask_of
from niello.frontends.onnx.translations.quantization import Scale

# No input of the node: where none holds a bias for the scores.
NOWHERE = 99


def rotated(
    x: nl.Tensor, cosine: nl.Tensor, sine: nl.Tensor, interleaved: bool = False
) -> nl.Tensor:
    """x [batch, heads, length, width] turned by angles [batch, 1, length, part / 2]; what is beyond
    the part stays. Pairs are halves of the part, or neighbours where interleaved."""
    assert x.shape is not None and cosine.shape is not None
    width, half = x.shape[-1], cosine.shape[-1]
    assert width is not None and half is not None
    part = nl.slice(x, [0], [2 * half], axes=(-1,)) if 2 * half < width else x
    if interleaved:
        lead = [int(d) for d in x.shape[:-1] if d is not None]
        a, b = nl.unstack(nl.reshape(part, (*lead, half, 2)), -1)
        turned = nl.stack([a * cosine - b * sine, a * sine + b * cosine], -1)
        y = nl.reshape(turned, (*lead, 2 * half))
    else:
        a, b = nl.split(part, 2, -1)
        y = nl.concat([a * cosine - b * sine, a * sine + b * cosine], -1)
    if 2 * half == width:
        return y
    return nl.concat([y, nl.slice(x, [2 * half], [width], axes=(-1,))], -1)


def _angles(at: Call, i: int, places: nl.Tensor) -> list[nl.Tensor]:
    """Cosines and sines, of the tables at inputs i and i + 1, at places [batch, length]."""
    return [nl.expand_dims(nl.gather(at.tensor(j), places, 0), 1) for j in (i, i + 1)]


@translates("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(at: Call) -> nl.Tensor:
    """Pairs of elements turned by angles that belong to their place in the sequence."""
    if at.real("scale", 1.0) != 1.0 or at.integer("is_packed_batching", 0):
        raise at.refuse("a scale and packed batches are not translated")
    flat = at.rank(0) == 3
    batch, length = at.shape(0)[0], at.shape(0)[1 if flat else 2]
    x = at.tensor(0)
    if flat:
        part = at.integer("rotary_embedding_dim", 0)
        width = at.shape(2)[1] * 2
        number = at.integer("num_heads", 0) if part else at.shape(0)[2] // width
        x = heads(x, number)
    places = at.tensor(1)
    if at.rank(1) == 1:
        steps = at.constant(np.arange(length, dtype=np.int64)[None])
        places = nl.broadcast_to(
            nl.cast(nl.reshape(places, (1, 1)), nl.int64) + steps, (batch, length)
        )
    cosine, sine = _angles(at, 2, places)
    y = rotated(x, cosine, sine, bool(at.integer("interleaved", 0)))
    return joined(y) if flat else y


@translates("GemmaRotaryEmbedding", domain=MICROSOFT)
def gemma_rotary_embedding(at: Call) -> Any:
    """Queries and keys turned by angles; their turned halves come as inputs."""
    angle = nl.expand_dims(at.tensor(0), 1)
    kind = at.dtype(1)
    cosine, sine = nl.cast(nl.cos(angle), kind), nl.cast(nl.sin(angle), kind)
    return tuple(at.tensor(i) * cosine + at.tensor(i + 1) * sine for i in (1, 3))


@translates("QAttention", domain=MICROSOFT)
def quantized_attention(at: Call) -> Any:
    """Self-attention whose input and projection are quantized."""
    if at.integer("do_rotary", 0) or at.integer("past_present_share_buffer", 0):
        raise at.refuse("rotary positions and shared buffers are not translated")
    x = Scale(at.tensor(3), at.optional(6)).dequantize(at.tensor(0), nl.float32)
    weights = Scale(at.tensor(4), at.optional(7), 1).dequantize(at.tensor(1), nl.float32)
    projected = nl.add(nl.matmul(x, weights), at.tensor(2))
    query, key, value = (heads(p, at.integer("num_heads")) for p in nl.split(projected, 3, 2))
    if at.has(8):
        past_key, past_value = (nl.squeeze(p, 0) for p in nl.split(at.tensor(8), 2, 0))
        key, value = nl.concat([past_key, key], 2), nl.concat([past_value, value], 2)
    mask = mask_of(at, 5, at.shape(0)[0], at.sizes(key)[2])
    y = joined(attended(at, query, key, value, mask, NOWHERE))
    return (y, nl.stack([key, value], 0)) if at.wants(1) else y


# --- grouped queries
@translates("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(at: Call) -> Any:
    """Attention of more heads of queries than of keys and values, with a cache of those.

    The cache holds `seqlens_k + 1` keys of each sequence when it is over; new ones go behind the
    old ones, and what is left of the buffer is zeros.
    """
    if at.integer("sliding_window_cache", 0) or at.has(12) or at.has(13):
        raise at.refuse("caches of a window's size and quantized ones are not translated")
    number, groups = at.integer("num_heads"), at.integer("kv_num_heads")
    query, key, value = _grouped(at, number, groups)
    batch, _, length, _ = at.sizes(query)
    total = int(at.array(6).reshape(()))
    first = length == total  # of a prompt; sequences may end in padding
    ends = nl.cast(nl.reshape(at.tensor(5), (batch, 1)), nl.int32) + 1
    past = ends * 0 if first else ends - length
    if at.has(14):
        epsilon = at.real("qk_norm_epsilon", 1e-6)
        query, key = (
            nl.rms_norm(t, axes=-1, epsilon=epsilon) * at.tensor(i)
            for t, i in ((query, 14), (key, 15))
        )
    if at.integer("do_rotary", 0):
        cosine, sine = _angles(at, 7, _places(at, past, length, first))
        turn = bool(at.integer("rotary_interleaved", 0))
        query, key = (rotated(t, cosine, sine, turn) for t in (query, key))
    keys, values = (_cached(at, i, t, past, total) for i, t in ((3, key), (4, value)))
    size = at.sizes(keys)[2]
    seen = _seen(at, past, ends, length, size)
    y, weights = _scored(at, query, keys, values, seen)
    return joined(y), keys, values, weights


def _grouped(at: Call, number: int, groups: int) -> tuple[nl.Tensor, nl.Tensor, nl.Tensor]:
    """Queries, keys and values in heads, packed in one tensor or apart."""
    if at.has(1):
        return (
            heads(at.tensor(0), number),
            heads(at.tensor(1), groups),
            heads(at.tensor(2), groups),
        )
    width = at.shape(0)[2] // (number + 2 * groups)
    query, key, value = nl.split(at.tensor(0), [number * width, groups * width, groups * width], 2)
    return heads(query, number), heads(key, groups), heads(value, groups)


def _places(at: Call, past: nl.Tensor, length: int, first: bool) -> nl.Tensor:
    """The places [batch, length] of new tokens in their sequences."""
    steps = at.constant(np.arange(length, dtype=np.int64)[None])
    if at.has(9):
        if not first:
            return at.tensor(9)
        start = nl.slice(at.tensor(9), [0, 0], [1, 1], axes=(0, 1))
        return nl.broadcast_to(start + steps, (at.sizes(past)[0], length))
    return nl.cast(past, nl.int64) + steps


def _cached(at: Call, i: int, new: nl.Tensor, past: nl.Tensor, total: int) -> nl.Tensor:
    """The cache at input i with new keys or values behind the `past` [batch, 1] old ones."""
    batch, groups, length, width = at.sizes(new)
    held = at.shape(i)[2] if at.has(i) else 0
    size = max(held, total)
    if not held and length == size:
        return new
    zeros = at.graph.constant(np.zeros((), new.dtype.numpy), shape=(batch, groups, 1, width))
    parts = [at.tensor(i), new, zeros] if held else [new, zeros]
    place = at.constant(np.arange(size, dtype=np.int32)[None])
    behind = place - past
    source = nl.select(
        nl.less(behind, 0),
        nl.minimum(place, max(held - 1, 0)),
        nl.select(nl.less(behind, length), behind + held, behind * 0 + (held + length)),
    )
    return nl.gather(nl.concat(parts, 2), source, 2, batch_dims=1)


def _seen(at: Call, past: nl.Tensor, ends: nl.Tensor, length: int, size: int) -> nl.Tensor:
    """Which keys [batch, 1, length, size] a query sees."""
    keys = at.constant(np.arange(size, dtype=np.int32).reshape(1, 1, 1, size))
    if not at.integer("causal", 1):
        return nl.less(keys, nl.reshape(ends, (-1, 1, 1, 1)))
    steps = at.constant(np.arange(length, dtype=np.int32).reshape(1, 1, length, 1))
    here = nl.reshape(past, (-1, 1, 1, 1)) + steps
    seen = nl.less_equal(keys, here)
    window = at.integer("local_window_size", -1)
    return nl.logical_and(seen, nl.greater(keys, here - window)) if window > 0 else seen


def _scored(
    at: Call, query: nl.Tensor, keys: nl.Tensor, values: nl.Tensor, seen: nl.Tensor
) -> tuple[nl.Tensor, nl.Tensor | None]:
    """The attention, and the scores where they are asked for."""
    cap, sink, wanted = at.real("softcap", 0.0), at.has(11), at.integer("qk_output", 0)
    smooth = at.integer("smooth_softmax", 0) == 1
    scale = at.real("scale", 0.0) or 1.0 / float(np.sqrt(at.sizes(query)[-1]))
    if not (cap or sink or smooth or wanted):
        mask = seen
        if at.has(10):
            mask = nl.select(seen, _bias(at, at.sizes(keys)[2]), at.like(-np.inf, 10))
        found = nl.scaled_dot_product_attention(query, keys, values, mask, scale=scale)
        return found, None
    number, groups = at.sizes(query)[1], at.sizes(keys)[1]
    keys, values = (nl.repeat(t, number // groups, 1) for t in (keys, values))
    scores = nl.matmul(query, nl.transpose(keys, (0, 1, 3, 2))) * scale
    scores = nl.tanh(scores / cap) * cap if cap else scores
    scores = nl.add(scores, _bias(at, at.sizes(keys)[2])) if at.has(10) else scores
    batch, _, length, size = at.sizes(scores)
    scores = nl.select(seen, scores, at.like(-np.inf))
    whole = scores
    if sink or smooth:
        extra = nl.reshape(at.tensor(11), (1, number, 1, 1)) if sink else at.like(0)
        more = nl.broadcast_to(extra, (batch, number, length, 1))
        whole = nl.concat([scores, more], -1)
    shares = nl.softmax(whole, axis=-1)
    shares = nl.slice(shares, [0], [size], axes=(3,)) if sink or smooth else shares
    y = nl.matmul(shares, values)
    if wanted == 1:  # what is not seen has no score
        return y, nl.select(seen, scores, at.like(0))
    return y, shares if wanted else None


def _bias(at: Call, size: int) -> nl.Tensor:
    """What is added to the scores, over the whole buffer."""
    given, shape = at.tensor(10), at.shape(10)
    missing = size - shape[-1]
    return nl.pad(given, [(0, 0), (0, 0), (0, 0), (0, missing)]) if missing > 0 else given
