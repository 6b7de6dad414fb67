"""Attention, of ONNX and of ONNX Runtime (com.microsoft)."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import MICROSOFT, translates


def heads(x: nl.Tensor, number: int) -> nl.Tensor:
    """[batch, length, heads * width] as [batch, heads, length, width]."""
    assert x.shape is not None
    batch, length, _ = x.shape
    return nl.transpose(nl.reshape(x, (batch, length, number, -1)), (0, 2, 1, 3))


def joined(x: nl.Tensor) -> nl.Tensor:
    """[batch, heads, length, width] as [batch, length, heads * width]."""
    assert x.shape is not None
    batch, _, length, _ = x.shape
    return nl.reshape(nl.transpose(x, (0, 2, 1, 3)), (batch, length, -1))


def mask_of(at: Call, i: int, batch: int, total: int) -> nl.Tensor | None:
    """What a mask in any of its forms adds to the scores [batch, heads, length, total]."""
    if not at.has(i):
        return None
    given, shape = at.tensor(i), at.shape(i)
    fill = at.real("mask_filter_value", -10000.0)
    if len(shape) == 1:
        if shape[0] not in (batch, 2 * batch):
            raise at.refuse("this form of mask is not translated", f"a vector of {shape[0]}")
        places = at.constant(np.arange(total, dtype=np.int32)[None])
        ends = nl.expand_dims(nl.slice(given, [0], [batch], axes=(0,)), 1)
        seen = nl.less(places, ends)
        if shape[0] == 2 * batch and batch:
            starts = nl.expand_dims(nl.slice(given, [batch], [2 * batch], axes=(0,)), 1)
            seen = nl.logical_and(seen, nl.greater_equal(places, starts))
    else:
        seen = nl.not_equal(given, at.constant(np.zeros((), given.dtype.numpy)))
    while seen.rank is not None and seen.rank < 4:
        seen = nl.expand_dims(seen, 1)
    zero = at.constant(np.float32(0))
    return nl.select(seen, zero, at.constant(np.float32(fill)))


def attended(
    at: Call, query: nl.Tensor, key: nl.Tensor, value: nl.Tensor, mask: nl.Tensor | None, bias: int
) -> nl.Tensor:
    """Attention of heads, with the mask, the bias at input `bias`, and causal order if asked."""
    length, total = at.sizes(query)[2], at.sizes(key)[2]
    scale = at.real("scale", 0.0) or None
    added = mask
    if at.has(bias):
        added = at.tensor(bias) if added is None else nl.add(added, at.tensor(bias))
    if at.integer("unidirectional", 0):
        place = np.arange(total)[None] - (total - length) - np.arange(length)[:, None]
        later = np.where(place > 0, np.float32(at.real("mask_filter_value", -10000.0)), 0)
        causal = at.constant(later.astype(np.float32))
        added = causal if added is None else nl.add(added, causal)
    if added is not None:
        added = nl.cast(added, query.dtype)
    return nl.scaled_dot_product_attention(query, key, value, added, scale=scale)


# --- ONNX
@translates("Attention", since=23)
def onnx_attention(at: Call) -> Any:
    """Attention of queries, keys and values, with a cache; by ONNX's definition where scores are
    asked for or capped."""
    if at.wants(3) or at.real("softcap", 0.0):
        return at.expanded()
    query, key, value = (at.tensor(i) for i in range(3))
    flat = at.rank(0) == 3
    if flat:
        query = heads(query, at.integer("q_num_heads"))
        key, value = (heads(t, at.integer("kv_num_heads")) for t in (key, value))
    if at.has(4):
        key, value = nl.concat([at.tensor(4), key], 2), nl.concat([at.tensor(5), value], 2)
    mask, causal = _seen(at, at.sizes(query)[2], at.sizes(key)[2])
    scale = at.real("scale", None)
    y = nl.scaled_dot_product_attention(query, key, value, mask, causal=causal, scale=scale)
    return joined(y) if flat else y, key, value


def _seen(at: Call, length: int, total: int) -> tuple[nl.Tensor | None, bool]:
    """What a query may see, or what is added to its scores; and whether all that is left to say
    is that it sees no later keys."""
    mask = _padded_mask(at, total)
    left, right = at.integer("left_window_size", -1), at.integer("right_window_size", -1)
    causal = bool(at.integer("is_causal", 0))
    past = at.shape(4)[2] if at.has(4) else 0
    if causal and left < 0 and right < 0 and not past and not at.has(6) and mask is None:
        return None, True
    right = (0 if right < 0 else min(right, 0)) if causal else right
    allowed: nl.Tensor | None = None
    if left >= 0 or right >= 0:
        allowed = _window(at, length, total, past, left, right)
    if at.has(6):
        ends = nl.reshape(at.tensor(6), (-1, 1, 1, 1))
        inside = nl.less(at.constant(np.arange(total)), ends)
        allowed = inside if allowed is None else nl.logical_and(allowed, inside)
    if allowed is None or mask is None:
        return (mask if allowed is None else allowed), False
    if mask.dtype is nl.bool_:
        return nl.logical_and(mask, allowed), False
    lowest = at.constant(np.asarray(-np.inf).astype(mask.dtype.numpy))
    return nl.select(allowed, mask, lowest), False


def _padded_mask(at: Call, total: int) -> nl.Tensor | None:
    """The mask over all keys; those that it leaves out are not seen."""
    mask = at.optional(3)
    if mask is None:
        return None
    sizes = at.sizes(mask)
    if sizes[-1] >= total:
        return mask
    pairs = [*[(0, 0)] * (len(sizes) - 1), (0, total - sizes[-1])]
    if mask.dtype is nl.bool_:
        return nl.cast(nl.pad(nl.cast(mask, nl.int32), pairs), nl.bool_)
    return nl.pad(mask, pairs, value=-np.inf)


def _window(at: Call, length: int, total: int, past: int, left: int, right: int) -> nl.Tensor:
    """Which keys lie within so many places before and after each query."""
    distance = np.arange(length)[:, None] - np.arange(total)[None] + past
    if at.has(6) and not at.has(4):  # the query stands at the end of what is valid
        offsets = nl.reshape(at.tensor(6), (-1, 1, 1, 1)) - length
        moved: nl.Tensor = nl.add(at.constant(distance), offsets)
    else:
        moved = at.constant(distance)
    allowed = None
    if left >= 0:
        allowed = nl.less_equal(moved, at.constant(np.int64(left)))
    if right >= 0:
        ahead = nl.greater_equal(moved, at.constant(np.int64(-right)))
        allowed = ahead if allowed is None else nl.logical_and(allowed, ahead)
    assert allowed is not None
    return allowed


# --- ONNX Runtime
@translates("Attention", domain=MICROSOFT)
def attention(at: Call) -> Any:
    """Self-attention with its input projection."""
    number = at.integer("num_heads")
    x, weights = at.tensor(0), at.tensor(1)
    width = at.shape(1)[1]
    sizes = at.ints("qkv_hidden_sizes", None) or [width // 3] * 3
    projected = nl.matmul(x, weights)
    projected = nl.add(projected, at.tensor(2)) if at.has(2) else projected
    query, key, value = (heads(p, number) for p in nl.split(projected, sizes, 2))
    if at.integer("do_rotary", 0):
        raise at.refuse("rotary positions inside of Attention are not translated", "do_rotary=1")
    if at.has(4):
        past_key, past_value = (nl.squeeze(p, 0) for p in nl.split(at.tensor(4), 2, 0))
        key = nl.concat([past_key, key], 2)
        value = nl.concat([past_value, value], 2)
    mask = mask_of(at, 3, at.shape(0)[0], at.sizes(key)[2])
    y = joined(attended(at, query, key, value, mask, 5))
    return (y, nl.stack([key, value], 0)) if at.wants(1) else y


@translates("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(at: Call) -> Any:
    """Attention of projected queries, keys and values."""
    number = at.integer("num_heads")
    query, key, value = _projections(at)
    if at.has(3):
        parts = _bias_parts(at, query, value)
        query = nl.add(query, parts[0])
        if not (at.has(1) and at.rank(1) == 4):  # keys in heads came with their bias
            key, value = nl.add(key, parts[1]), nl.add(value, parts[2])
    query, key, value = (t if t.rank == 4 else heads(t, number) for t in (query, key, value))
    if at.has(6):
        key = nl.concat([at.tensor(6), key], 2)
        value = nl.concat([at.tensor(7), value], 2)
    mask = mask_of(at, 4, at.shape(0)[0], at.sizes(key)[2])
    return joined(attended(at, query, key, value, mask, 5)), key, value


def _bias_parts(at: Call, query: nl.Tensor, value: nl.Tensor) -> list[nl.Tensor]:
    width = at.sizes(query)[-1]
    return nl.split(at.tensor(3), [width, width, at.shape(3)[0] - 2 * width], 0)  # type: ignore[no-any-return]


def _projections(at: Call) -> tuple[nl.Tensor, nl.Tensor, nl.Tensor]:
    """Query, key and value, packed in one or two tensors or apart."""
    if not at.has(1):
        batch, length, number, _, width = at.shape(0)
        parts = nl.split(at.tensor(0), 3, 3)
        query, key, value = (nl.reshape(p, (batch, length, number * width)) for p in parts)
        return query, key, value
    if at.has(2):
        return at.tensor(0), at.tensor(1), at.tensor(2)
    batch, length, number, _, width = at.shape(1)
    parts = nl.split(at.tensor(1), 2, 3)
    key, value = (nl.reshape(p, (batch, length, number * width)) for p in parts)
    return at.tensor(0), key, value
