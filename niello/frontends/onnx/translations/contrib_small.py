"""Small operators of ONNX Runtime (com.microsoft): older forms of ONNX's own, and fused sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import MICROSOFT, translates
from niello.frontends.onnx.translations.contrib import activated, fused_matmul
from niello.frontends.onnx.translations.convolution import convolution, with_bias
from niello.frontends.onnx.translations.creation import range_
from niello.frontends.onnx.translations.image import grid_sample
from niello.frontends.onnx.translations.indexing import gather_nd
from niello.frontends.onnx.translations.movement import padded

translates("GatherND", domain=MICROSOFT)(gather_nd)
translates("GridSample", domain=MICROSOFT)(grid_sample)


@translates("Range", domain=MICROSOFT)
def range_of(at: Call) -> np.ndarray:
    """Numbers from a start up to a limit, by ones where no step is given."""
    if not at.has(2):
        at.inputs = [*at.inputs[:2], np.ones((), at.array(0).dtype)]
    return range_(at)


@translates("Unique", domain=MICROSOFT, host=True)
def unique(at: Call) -> Any:
    """Each element once, in the order in which they come; their places, and counts."""
    x = at.array(0)
    _, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return x[np.sort(first)], place[inverse.reshape(-1)], counts[order].astype(np.int64)


@translates("Pad", domain=MICROSOFT)
def pad(at: Call) -> nl.Tensor:
    """Elements added along all axes; negative widths cut off."""
    widths, rank = at.known_ints(1), at.rank(0)
    value = at.array(2).reshape(()).item() if at.has(2) else 0
    pairs = [(widths[i], widths[rank + i]) for i in range(rank)]
    return padded(at.tensor(0), pairs, at.text("mode", "constant"), value)


@translates("ExpandDims", domain=MICROSOFT)
def expand_dims(at: Call) -> nl.Tensor:
    """With a new axis of one."""
    axis, rank = int(at.array(1).reshape(())), at.rank(0) + 1
    return nl.expand_dims(at.tensor(0), axis % rank)


@translates("SampleOp", domain=MICROSOFT)
def sample_op(at: Call) -> nl.Tensor:
    """The input."""
    return nl.identity(at.tensor(0))


@translates("BiasDropout", domain=MICROSOFT)
def bias_dropout(at: Call) -> Any:
    """A sum with a bias, and with a residual; nothing is dropped at inference."""
    if at.has(4) and bool(at.array(4)):
        raise at.refuse("dropping at random is not translated", "training_mode=True")
    y = nl.add(at.tensor(0), at.tensor(1))
    y = nl.add(y, at.tensor(2)) if at.has(2) else y
    kept = at.graph.constant(np.bool_(True), shape=at.sizes(y))
    return y, kept


@translates("BiasAdd", domain=MICROSOFT)
def bias_add(at: Call) -> nl.Tensor:
    """A sum with a bias and a residual."""
    return nl.add(nl.add(at.tensor(0), at.tensor(1)), at.tensor(2))


@translates("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(at: Call) -> nl.Tensor:
    """The left half of a sum times the Gelu of the right half."""
    left, right = nl.split(nl.add(at.tensor(0), at.tensor(1)), 2, -1)
    return left * nl.gelu(right)


@translates("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(at: Call) -> nl.Tensor:
    """Softmax of a sum, over all axes from `axis` on."""
    rank = at.rank(0)
    axes = tuple(range(at.integer("axis", 1) % rank, rank))
    return nl.softmax(nl.add(at.tensor(0), at.tensor(1)), axis=axes)


@translates("GemmFastGelu", domain=MICROSOFT)
def gemm_fast_gelu(at: Call) -> nl.Tensor:
    """Gelu, by its tanh approximation, of a product with a bias."""
    y = nl.matmul(at.tensor(0), at.tensor(1))
    return nl.gelu(nl.add(y, at.tensor(2)) if at.has(2) else y, approximate="tanh")


@translates("FusedMatMulActivation", domain=MICROSOFT)
def fused_matmul_activation(at: Call) -> nl.Tensor:
    """A product, transposed where asked, and an activation."""
    return activated(at, fused_matmul(at))


@translates("NhwcConv", "NhwcFusedConv", domain=MICROSOFT)
def nhwc_conv(at: Call) -> nl.Tensor:
    """A convolution of channels-last tensors, with bias, a tensor to add, and an activation."""
    rank = at.rank(0)
    x = nl.transpose(at.tensor(0), (0, rank - 1, *range(1, rank - 1)))
    y = with_bias(convolution(at, x, at.tensor(1)), at.optional(2))
    y = nl.transpose(y, (0, *range(2, rank), 1))
    return activated(at, nl.add(y, at.tensor(3)) if at.has(3) else y)


@translates("GroupNorm", "SkipGroupNorm", domain=MICROSOFT)
def group_norm(at: Call) -> Any:
    """Groups of channels by their own statistics, of a sum for SkipGroupNorm; then SiLU."""
    last, rank = bool(at.integer("channels_last", 1)), at.rank(0)
    x = at.tensor(0)
    if at.operator == "SkipGroupNorm":
        skip = at.tensor(3)
        if at.rank(3) == 2:
            batch, channels = at.shape(3)
            ones = (1,) * (rank - 2)
            skip = nl.reshape(skip, (batch, *ones, channels) if last else (batch, channels, *ones))
        x = nl.add(x, skip)
        if at.has(4):
            x = nl.add(x, at.tensor(4)) if last else with_bias(x, at.tensor(4))
    total = x
    x = nl.transpose(x, (0, rank - 1, *range(1, rank - 1))) if last else x
    scale, bias = (nl.cast(at.tensor(i), x.dtype) for i in (1, 2))
    y = nl.group_norm(x, at.integer("groups"), scale, bias, epsilon=at.real("epsilon", 1e-5))
    y = nl.transpose(y, (0, *range(2, rank), 1)) if last else y
    return nl.silu(y) if at.integer("activation") else y, total


@translates("ComplexMul", "ComplexMulConj", domain=MICROSOFT)
def complex_mul(at: Call) -> nl.Tensor:
    """A product of complex numbers, whose parts the last axis holds; of the second's conjugate."""
    (a, b), (c, d) = (nl.unstack(at.tensor(i), -1) for i in (0, 1))
    d = -d if at.operator == "ComplexMulConj" else d
    return nl.stack([a * c - b * d, a * d + b * c], -1)


@translates("Inverse", domain=MICROSOFT)
def inverse(at: Call) -> nl.Tensor:
    """The inverse of each matrix."""
    return nl.inverse(at.tensor(0))


@translates("IsAllFinite", domain=MICROSOFT)
def is_all_finite(at: Call) -> nl.Tensor:
    """Whether no element is infinite or NaN."""
    bad: Callable[[nl.Tensor], nl.Tensor] = lambda x: nl.logical_not(nl.is_finite(x))  # noqa: E731
    if at.integer("isinf_only", 0):
        bad = nl.is_inf
    elif at.integer("isnan_only", 0):
        bad = nl.is_nan
    found = [nl.any(bad(x)) for x in at.tensors()]
    total = found[0]
    for more in found[1:]:
        total = nl.logical_or(total, more)
    return nl.logical_not(total)


@translates("TorchEmbedding", domain=MICROSOFT)
def torch_embedding(at: Call) -> nl.Tensor:
    """Rows of a table."""
    return nl.gather(at.tensor(0), at.tensor(1), 0)


@translates("UnfoldTensor", domain=MICROSOFT)
def unfold_tensor(at: Call) -> nl.Tensor:
    """All slices of a size along an axis; a new last axis holds their elements."""
    rank = at.rank(0)
    axis, size, step = (
        at.integer("dim", -1) % rank, at.integer("size"), at.integer("step", 1),
    )  # fmt: skip
    count = (at.shape(0)[axis] - size) // step + 1
    places = np.arange(count)[:, None] * step + np.arange(size)
    y = nl.gather(at.tensor(0), at.constant(places), axis)
    return nl.transpose(y, (*(i for i in range(rank + 1) if i != axis + 1), axis + 1))


@translates("CDist", domain=MICROSOFT)
def cdist(at: Call) -> nl.Tensor:
    """Distances of all rows of one matrix from all rows of another."""
    kind = at.text("metric", "sqeuclidean")
    if kind not in ("euclidean", "sqeuclidean"):
        raise at.refuse("this distance is not translated", kind, "Use euclidean or sqeuclidean")
    apart = nl.expand_dims(at.tensor(0), 1) - nl.expand_dims(at.tensor(1), 0)
    squared = nl.sum(nl.square(apart), -1)
    return nl.sqrt(squared) if kind == "euclidean" else squared


@translates("GatedAdd", domain=MICROSOFT)
def gated_add(at: Call) -> nl.Tensor:
    """A tensor plus another one times a gate for each row."""
    return nl.add(at.tensor(0), nl.multiply(at.tensor(1), at.tensor(2)))


@translates("GatedRMSNorm", domain=MICROSOFT)
def gated_rms_norm(at: Call) -> nl.Tensor:
    """Root-mean-square normalisation of groups of the last axis, times a gate."""
    x, shape, each = at.tensor(0), at.shape(0), at.shape(1)[0]
    wide = nl.reshape(nl.cast(x, nl.float32), (*shape[:-1], -1, each))
    y = nl.rms_norm(wide, axes=-1, epsilon=at.real("epsilon", 1e-5))
    y = nl.reshape(y * nl.cast(at.tensor(1), nl.float32), shape)
    gate = nl.cast(at.tensor(2), nl.float32)
    opened = nl.sigmoid(gate) if at.text("activation", "silu") == "sigmoid" else nl.silu(gate)
    return nl.cast(y * opened, x.dtype)


@translates("ScaledSiLU", domain=MICROSOFT)
def scaled_silu(at: Call) -> nl.Tensor:
    """SiLU of a scaled tensor."""
    x = at.tensor(0)
    if at.has(1):
        scale = nl.reshape(nl.cast(at.tensor(1), nl.float32), ())
        y = nl.cast(nl.cast(x, nl.float32) * scale, x.dtype)
    else:
        y = nl.cast(nl.cast(x, nl.float32) * at.real("alpha", 1.0), x.dtype)
    return y * nl.sigmoid(y)


@translates("NGramRepeatBlock", domain=MICROSOFT)
def ngram_repeat_block(at: Call) -> nl.Tensor:
    """Scores of tokens that would repeat a run of tokens become -infinity."""
    size, (_, length), vocabulary = at.integer("ngram_size"), at.shape(0), at.shape(1)[1]
    tokens, scores = nl.cast(at.tensor(0), nl.int64), at.tensor(1)
    starts = length + 1 - size
    if starts <= 0:
        return nl.identity(scores)
    repeated = None
    for i in range(size - 1):
        before = nl.slice(tokens, [i], [i + starts], axes=(1,))
        now = nl.slice(tokens, [starts + i], [starts + i + 1], axes=(1,))
        same = nl.equal(before, now)
        repeated = same if repeated is None else nl.logical_and(repeated, same)
    following = nl.slice(tokens, [size - 1], [size - 1 + starts], axes=(1,))
    hits = nl.one_hot(following, vocabulary, axis=-1, dtype=nl.bool_)
    if repeated is not None:
        hits = nl.logical_and(hits, nl.expand_dims(repeated, -1))
    lowest = at.constant(np.asarray(-np.inf).astype(scores.dtype.numpy))
    return nl.select(nl.any(hits, 1), lowest, scores)


@translates("CropAndResize", domain=MICROSOFT)
def crop_and_resize(at: Call) -> nl.Tensor:
    """Boxes (y1, x1, y2, x2), from 0 to 1, of the images that are named, at one size."""
    rows, columns = at.known_ints(3)
    _, _, height, width = at.shape(0)
    count = at.shape(1)[0]
    y1, x1, y2, x2 = nl.unstack(at.tensor(1), 1)

    def places(low: nl.Tensor, high: nl.Tensor, size: int, wanted: int) -> nl.Tensor:
        if wanted == 1:
            return nl.expand_dims((low + high) * (0.5 * (size - 1)), 1)
        step = (high - low) * ((size - 1) / (wanted - 1))
        steps = at.constant(np.arange(wanted, dtype=np.float32))
        return nl.expand_dims(low * float(size - 1), 1) + nl.expand_dims(step, 1) * steps

    y, x = places(y1, y2, height, rows), places(x1, x2, width, columns)
    full = (count, rows, columns)
    y, x = (nl.broadcast_to(nl.expand_dims(t, a), full) for t, a in ((y, 2), (x, 1)))
    inside = nl.logical_and(
        nl.logical_and(y >= 0.0, y <= float(height - 1)),
        nl.logical_and(x >= 0.0, x <= float(width - 1)),
    )
    images = nl.gather(at.tensor(0), at.tensor(2), 0)
    mode = "linear" if at.text("mode", "bilinear") == "bilinear" else "nearest"
    found = nl.grid_sample(
        images,
        nl.stack([x, y], 3),
        mode=mode,
        padding="border",
        normalised=False,
        rounding="round_prefer_ceil",
    )
    outside = at.constant(np.float32(at.real("extrapolation_value", 0.0)))
    return nl.select(nl.expand_dims(inside, 1), found, outside)
