"""Scaled dot-product attention, in pieces of queries: the matrix of all scores never exists.

A piece's scores are one contraction, its softmax one kernel over rows, its result another
contraction; keys that no query of the piece may see are left out. The gradient recomputes the
scores of a piece from the logarithm of the sums, as in FlashAttention (arXiv 2205.14135).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType, bool_, float32, float64
from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, Shape, broadcast_shapes, show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.attention_pieces import Pieces, backward, forward, second
from niello.ops.define import check_dtype
from niello.ops.movement import tensor_of, zeros_like

Array = np.ndarray


def _same(name: str, what: str, a: Dim, b: Dim, received: str) -> None:
    if a is not None and b is not None and a != b:
        raise ShapeError(name, f"{what}: {a} != {b}", received=received)


def _statistics(dtype: DType) -> DType:
    return float64 if dtype is float64 else float32


def _check_mask(name: str, mask: TensorType, scores: Shape) -> None:
    if mask.dtype is not bool_ and not mask.dtype.is_float:
        raise DTypeError(
            name,
            "a mask holds booleans (true: may be seen) or floats that are added to the scores",
            received=mask.dtype.name,
            advice="Cast the mask to bool",
            dtype=mask.dtype,
        )
    if mask.shape is None:
        return
    together = broadcast_shapes(name, scores, mask.shape)
    if together is None or len(together) != len(scores):
        raise ShapeError(
            name,
            "the mask does not broadcast to the scores",
            received=f"{show(mask.shape)} for scores {show(scores)}",
        )


class Attending(Op):
    """What attention and its gradient have in common: attributes, pieces and checks."""

    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    causal: bool
    scale: float | None
    window: tuple[int, int] | None

    def factor(self, width: int) -> float:
        """What scores are multiplied by."""
        return 1.0 / math.sqrt(max(width, 1)) if self.scale is None else self.scale

    def scores(self, query: TensorType, key: TensorType, value: TensorType) -> Shape | None:
        """The shape of all scores, once the operands fit together."""
        for t in (query, key, value):
            check_dtype(self.name, t.dtype, (query.dtype,))
        q, k, v = query.shape, key.shape, value.shape
        if q is None or k is None or v is None:
            return None
        received = f"query {show(q)}, key {show(k)}, value {show(v)}"
        if not len(q) == len(k) == len(v) or len(q) < 3:
            raise ShapeError(
                self.name,
                "query, key and value need the same rank, of at least [heads, length, width]",
                received=received,
            )
        for axis in range(len(q) - 3):
            _same(
                self.name,
                f"sizes of axis {axis} of query and key differ",
                q[axis],
                k[axis],
                received,
            )
            _same(
                self.name,
                f"sizes of axis {axis} of key and value differ",
                k[axis],
                v[axis],
                received,
            )
        _same(self.name, "widths of query and key differ", q[-1], k[-1], received)
        _same(self.name, "lengths of key and value differ", k[-2], v[-2], received)
        _same(self.name, "heads of key and value differ", k[-3], v[-3], received)
        heads, shared = q[-3], k[-3]
        if heads is not None and shared is not None and (shared == 0 or heads % shared):
            raise ShapeError(
                self.name,
                "the heads of the query must be a multiple of those of key and value",
                received=received,
            )
        return (*q[:-1], k[-2])

    def allowed(self, rows: int, columns: int) -> Array:
        """Which keys (columns) each query (row) may see."""
        ahead = np.arange(columns)[None, :] - np.arange(rows)[:, None]
        seen = np.ones((rows, columns), np.bool_)
        if self.causal:
            seen &= ahead <= 0
        if self.window is not None:
            seen &= (ahead >= -self.window[0]) & (ahead <= self.window[1])
        return seen


def _softmax(op: Attending, q: Array, k: Array, mask: Array | None) -> tuple[Array, Array]:
    """Weights and logarithms of sums, in NumPy; a row that sees nothing has weights of zero."""
    groups = q.shape[-3] // max(k.shape[-3], 1)
    scores = q @ np.swapaxes(np.repeat(k, groups, axis=-3), -1, -2)
    scores = scores * scores.dtype.type(op.factor(q.shape[-1]))
    if mask is not None:
        added = np.where(mask, 0, -np.inf) if mask.dtype == np.bool_ else mask
        scores = scores + added.astype(scores.dtype)
    scores = np.where(op.allowed(*scores.shape[-2:]), scores, -np.inf)
    top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    shift = np.where(np.isneginf(top), np.zeros_like(top), top)
    e = np.exp(scores - shift)
    total = np.sum(e, axis=-1, keepdims=True, dtype=e.dtype)
    weights = e / np.where(total == 0, np.ones_like(total), total)
    return weights, (np.log(total) + shift)[..., 0]


def _wide(*arrays: Array) -> list[Array]:
    return [a.astype(np.float32) if a.dtype.itemsize == 2 else a for a in arrays]


@register
@frozen
class Attention(Attending):
    causal: bool
    scale: float | None
    window: tuple[int, int] | None
    name: ClassVar[str] = "attention"
    half_inputs: ClassVar[tuple[int, ...]] = (0, 1, 2)
    traits: ClassVar[Trait] = Trait.NONE
    doc: ClassVar[str] = (
        "softmax(scale q k^T + mask) v over [..., heads, length, width], and the logarithm of the "
        "sums of exponentials [..., heads, length] (arXiv 1706.03762, 2205.14135)."
    )

    def infer(
        self, query: TensorType, key: TensorType, value: TensorType, *mask: TensorType
    ) -> tuple[TensorType, TensorType]:
        check_dtype(self.name, query.dtype, self.dtypes)
        scores = self.scores(query, key, value)
        if scores is None:
            return TensorType(None, query.dtype), TensorType(None, _statistics(query.dtype))
        if mask:
            _check_mask(self.name, mask[0], scores)
        assert value.shape is not None
        return (
            TensorType((*scores[:-1], value.shape[-1]), query.dtype),
            TensorType(scores[:-1], _statistics(query.dtype)),
        )

    def reference(self, q: Array, k: Array, v: Array, *mask: Array) -> tuple[Array, Array]:
        wq, wk, wv = _wide(q, k, v)
        weights, logs = _softmax(self, wq, wk, mask[0] if mask else None)
        groups = q.shape[-3] // max(k.shape[-3], 1)
        return (weights @ np.repeat(wv, groups, axis=-3)).astype(q.dtype), logs

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        g, by_logs = gradients
        op = AttentionGradient(self.causal, self.scale, self.window)
        found = (
            inputs[0]
            .graph.add(
                op,
                (
                    zeros_like(outputs[0]) if g is None else g,
                    zeros_like(outputs[1]) if by_logs is None else by_logs,
                    *outputs,
                    *inputs,
                ),
            )
            .outputs
        )
        return [*found, None] if len(inputs) == 4 and len(found) == 3 else list(found)

    def decompose(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return forward(Pieces.of(self, *inputs))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return _samples()


@register
@frozen
class AttentionGradient(Attending):
    """Inputs: gradients of both results, both results, query, key, value and, if any, the mask."""

    causal: bool
    scale: float | None
    window: tuple[int, int] | None
    name: ClassVar[str] = "attention_gradient"
    half_inputs: ClassVar[tuple[int, ...]] = (0, 2, 4, 5, 6)
    traits: ClassVar[Trait] = Trait.NONE
    doc: ClassVar[str] = (
        "Gradients of attention with respect to query, key, value and a mask of floats, from the "
        "gradients of its results, its results and its operands (arXiv 2205.14135)."
    )

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        query, key, value, *mask = types[4:]
        check_dtype(self.name, types[0].dtype, (query.dtype,))
        check_dtype(self.name, query.dtype, self.dtypes)
        scores = self.scores(query, key, value)
        if mask and scores is not None:
            _check_mask(self.name, mask[0], scores)
        return (query, key, value, *(m for m in mask if m.dtype.is_float))

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        g, by_logs, y, _, q, k, v = _wide(*arrays[:7])
        mask = arrays[7] if len(arrays) == 8 else None
        groups = q.shape[-3] // max(k.shape[-3], 1)
        weights, _ = _softmax(self, q, k, mask)
        wide_k, wide_v = (np.repeat(a, groups, axis=-3) for a in (k, v))
        inner = (g * y).sum(-1, keepdims=True, dtype=g.dtype) - by_logs[..., None]
        by_scores = weights * (g @ np.swapaxes(wide_v, -1, -2) - inner)
        by_product = by_scores * by_scores.dtype.type(self.factor(q.shape[-1]))

        def grouped(a: Array, like: Array) -> Array:
            split = (*like.shape[:-2], groups, *like.shape[-2:])
            return a.reshape(split).sum(-3, dtype=a.dtype) if a.size else np.zeros_like(like)

        found = [
            (by_product @ wide_k).astype(arrays[4].dtype),
            grouped(np.swapaxes(by_product, -1, -2) @ q, k).astype(arrays[5].dtype),
            grouped(np.swapaxes(weights, -1, -2) @ g, v).astype(arrays[6].dtype),
        ]
        if mask is not None and mask.dtype != np.bool_:
            found.append(_summed_to(by_scores, mask))
        return tuple(found)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        """On whole matrices: second derivatives are rare."""
        g, by_logs, y, logs, *operands = inputs
        pieces = Pieces.of(self, *operands, whole=True)
        return second(pieces, (g, by_logs, y, logs), gradients)

    def decompose(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        g, by_logs, y, logs, *operands = inputs
        return backward(Pieces.of(self, *operands), g, by_logs, y, logs)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return _gradient_samples()


def _summed_to(full: Array, like: Array) -> Array:
    axes = tuple(range(full.ndim - like.ndim))
    axes += tuple(
        i + full.ndim - like.ndim
        for i, n in enumerate(like.shape)
        if n == 1 and full.shape[i + full.ndim - like.ndim] != 1
    )
    return full.sum(axes, dtype=full.dtype).reshape(like.shape).astype(like.dtype)


def _samples() -> list[Sample]:
    plain: dict[str, Any] = {"causal": False, "scale": None, "window": None}
    causal = plain | {"causal": True}
    seen = np.array([[1, 0, 1], [1, 1, 0]], np.bool_)
    return [
        sample(real(2, 3, 4), real(2, 5, 4), real(2, 5, 3), **plain),
        sample(real(2, 4, 5, 3), real(2, 2, 6, 3), real(2, 2, 6, 2), **plain | {"scale": 0.7}),
        sample(real(2, 5, 4), real(2, 5, 4), real(2, 5, 4), **causal),
        sample(real(1, 5, 4), real(1, 3, 4), real(1, 3, 4), **causal),
        sample(real(1, 3, 4), real(1, 6, 4), real(1, 6, 4), **plain | {"window": (1, 0)}),
        sample(real(1, 7, 2), real(1, 7, 2), real(1, 7, 2), **causal | {"window": (2, 2)}),
        sample(real(2, 2, 4), real(2, 3, 4), real(2, 3, 2), seen, **plain),
        sample(real(2, 2, 4), real(2, 3, 4), real(2, 3, 2), real(2, 3), dtypes=(float32,), **plain),
        sample(
            real(2, 2, 4), real(2, 3, 4), real(2, 3, 2), real(2, 1, 3), dtypes=(float32,), **causal
        ),
        sample(
            real(1, 2, 2), real(1, 3, 2), real(1, 3, 2), np.array([False, True, False]), **causal
        ),
        sample(real(1, 0, 2), real(1, 3, 2), real(1, 3, 2), **plain),
        sample(real(1, 2, 2), real(1, 0, 2), real(1, 0, 3), **plain),
        sample(real(2, 130, 8), real(2, 70, 8), real(2, 70, 8), grad=False, tolerance=4, **causal),
    ]


def _gradient_samples() -> list[Sample]:
    """Operands and results of attention; its results need not belong to the operands."""
    found = []
    for s in _samples():
        shapes = [getattr(x, "shape", None) for x in s.inputs]
        query, value = shapes[0], shapes[2]
        assert query is not None and value is not None
        result = (*query[:-1], value[-1])
        q, k, v = (np.random.default_rng(n).uniform(-2, 2, shapes[n] or ()) for n in range(3))
        rest = tuple(
            m if isinstance(m, np.ndarray) else np.random.default_rng(9).uniform(-2, 2, m.shape)
            for m in s.inputs[3:]
        )
        op = Attention(**s.attributes)
        for dtype in (float32, float64):
            arrays = [a.astype(dtype.numpy) if a.dtype != np.bool_ else a for a in (q, k, v, *rest)]
            y, logs = op.reference_all(*arrays)
            found.append(
                sample(
                    real(*result),
                    np.random.default_rng(5).uniform(-1, 1, result[:-1]).astype(dtype.numpy),
                    y,
                    logs,
                    *arrays,
                    dtypes=(dtype,),
                    grad=False,
                    tolerance=8,
                    **s.attributes,
                )
            )
    return found


@function
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    window: tuple[int, int] | None = None,
    name: str | None = None,
) -> Tensor:
    """softmax(scale * query key^T + mask) value, without ever holding all the scores.

    query [..., heads, n, width], key [..., shared, m, width], value [..., shared, m, any]; the
    result is [..., heads, n, any]. `heads` is a multiple of `shared`: a run of heads / shared query
    heads sees the same key head (grouped and multi-query attention). `mask` broadcasts to
    [..., heads, n, m]: booleans say what may be seen, floats are added to the scores. `causal` lets
    query i see the keys 0 to i; `window=(left, right)` those from i - left to i + right. `scale`
    is 1 / sqrt(width) unless given. A query that sees no key gives zeros. Sums are in float32 for
    half types. Raises ShapeError, DTypeError, AttributeValueError.

    Source: arXiv 1706.03762; as PyTorch's scaled_dot_product_attention, except for such queries.

    Example:
        >>> import niello as nl
        >>> x = nl.Graph().placeholder((1, 8, 128, 64))
        >>> nl.scaled_dot_product_attention(x, x, x, causal=True).shape
        (1, 8, 128, 64)
    """
    asked = "scaled_dot_product_attention"
    tensors = [tensor_of(asked, t) for t in (query, key, value)]
    if mask is not None:
        tensors.append(mask if isinstance(mask, Tensor) else query.graph.constant(mask))
    if window is not None:
        window = (int(window[0]), int(window[1]))
        if min(window) < 0:
            raise AttributeValueError(
                asked, "window counts keys to the left and right", received=window
            )
    op = Attention(bool(causal), None if scale is None else float(scale), window)
    return query.graph.add(op, tensors, name=name).outputs[0]
