"""Attention as ordinary operations, a piece of queries at a time.

Keys that no query of a piece may see are not touched, so a causal mask halves the work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from niello.core.dtypes import bool_, compute_dtype
from niello.core.errors import NotDifferentiable
from niello.core.records import frozen
from niello.graph.opdef import functions
from niello.graph.tensor import Tensor
from niello.ops.define import cast_to, unbroadcast
from niello.ops.movement import zeros_like

# Scores that exist at once stay near this many bytes, where the number of pieces allows it: each
# piece is three kernels, and every kernel takes time to compile.
SCORE_BYTES = 16 << 20
MOST_PIECES = 16
# A causal mask leaves out keys by whole pieces; fewer rows make poor contractions.
CAUSAL_PIECES = 8
LEAST_ROWS = 64


@frozen
class Span:
    """Queries `first` to `stop` - 1 of a piece, and the keys that some of them may see."""

    first: int
    stop: int
    key_first: int
    key_stop: int

    @property
    def empty(self) -> bool:
        return self.key_stop <= self.key_first


@frozen
class Pieces:
    """Operands in the dtype of the sums, with the query heads of a key head as an axis."""

    op: Any
    query: Tensor  # [..., shared, group, n, width]
    key: Tensor  # [..., shared, 1, m, width]
    value: Tensor
    mask: Tensor | None
    originals: tuple[Tensor, ...]
    group: int
    whole: bool

    @staticmethod
    def of(op: Any, *operands: Tensor, whole: bool = False) -> Pieces:
        """Pieces of attention over query, key, value and, if any, a mask; their types are static.

        `whole` makes one piece. Raises NotDifferentiable when a size is not known.
        """
        if not all(t.type.is_static for t in operands):
            raise NotDifferentiable(
                "gradients",
                "a second derivative of attention needs known sizes",
                received=", ".join(str(t.type) for t in operands),
                operation=op.name,
                advice="Give the placeholders their sizes",
            )
        query, key, value, *rest = operands
        group = query.type.static_shape[-3] // key.type.static_shape[-3]
        kind = compute_dtype(query.dtype)
        q, k, v = (cast_to(t, kind) for t in (query, key, value))
        mask = rest[0] if rest else None
        if group > 1:
            q = _grouped(q, key.type.static_shape[-3], group)
            k, v = (t.expand_dims(axes=-3) for t in (k, v))
            mask = None if mask is None else _grouped_mask(mask, group)
        return Pieces(op, q, k, v, mask, operands, group, whole)

    @property
    def rows(self) -> int:
        return self.query.type.static_shape[-2]

    @property
    def columns(self) -> int:
        return self.key.type.static_shape[-2]

    def spans(self) -> list[Span]:
        """The pieces, in order."""
        rows = self.rows
        if not rows:
            return []
        bytes = self.query.dtype.itemsize * self.columns * self.query.type.elements
        bytes //= max(self.query.type.static_shape[-1], 1)
        count = min(-(-bytes // SCORE_BYTES), MOST_PIECES)
        if self.op.causal or self.op.window is not None:
            count = max(count, min(CAUSAL_PIECES, rows // LEAST_ROWS))
        count = 1 if self.whole else max(count, 1)
        step = -(-rows // count)
        step = min(-(-step // 16) * 16, rows)
        found = []
        for first in range(0, rows, step):
            stop = min(first + step, rows)
            low, high = 0, self.columns
            if self.op.window is not None:
                left, right = self.op.window
                low, high = max(0, first - left), min(high, stop + right)
            if self.op.causal:
                high = min(high, stop)
            found.append(Span(first, stop, low, high))
        return found

    def scores(self, span: Span) -> Tensor:
        """Scores of a piece, with -infinity where a key may not be seen."""
        swap = functions()["swap_axes"]
        q = _rows(self.query, span.first, span.stop)
        k = _rows(self.key, span.key_first, span.key_stop)
        width = self.query.type.static_shape[-1]
        found: Tensor = q.matmul(swap(k, -1, -2)) * self.op.factor(width)
        if self.mask is not None:
            part = self._mask(self.mask, span)
            if part.dtype is bool_:
                found = part.select(found, -math.inf)
            else:
                found = found + cast_to(part, found.dtype)
        seen = self.visible(span)
        return found if seen is None else seen.select(found, -math.inf)

    def _mask(self, mask: Tensor, span: Span) -> Tensor:
        shape = mask.type.static_shape
        if len(shape) >= 2 and shape[-2] > 1:
            mask = _rows(mask, span.first, span.stop)
        if shape and shape[-1] > 1:
            mask = mask[..., span.key_first : span.key_stop]
        return mask

    def visible(self, span: Span) -> Tensor | None:
        """Which keys of a piece may be seen by the causal flag and the window; None: all."""
        allowed = self.op.allowed(span.stop, span.key_stop)[span.first :, span.key_first :]
        if allowed.all():
            return None
        graph = self.query.graph
        rows = np.arange(span.first, span.stop, dtype=np.int32)[:, None]
        columns = np.arange(span.key_first, span.key_stop, dtype=np.int32)[None, :]
        row, column = graph.constant(rows), graph.constant(columns)
        tests = []
        if self.op.causal:
            tests.append(column.less_equal(row))
        if self.op.window is not None:
            left, right = self.op.window
            tests += [column.greater_equal(row - left), column.less_equal(row + right)]
        found = tests[0]
        for t in tests[1:]:
            found = found.logical_and(t)
        return found

    def ungrouped(self, tensor: Tensor, axes: int) -> Tensor:
        """A result with [shared, group] made one axis of heads; `axes` follow it."""
        if self.group == 1:
            return tensor
        shape = tensor.type.static_shape
        at = len(shape) - axes - 2
        joined: Tensor = tensor.reshape((*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]))
        return joined


def forward(pieces: Pieces) -> tuple[Tensor, Tensor]:
    """The result of attention and the logarithms of its sums."""
    results, logs = [], []
    graph, kind = pieces.query.graph, pieces.query.dtype
    lead = pieces.query.type.static_shape[:-2]
    width = pieces.value.type.static_shape[-1]
    for span in pieces.spans():
        rows = span.stop - span.first
        if span.empty:
            results.append(graph.constant(0.0, kind, shape=(*lead, rows, width)))
            logs.append(graph.constant(-math.inf, kind, shape=(*lead, rows, 1)))
            continue
        scores = pieces.scores(span)
        top = scores.max(-1, True)
        # A query that sees nothing would subtract infinities.
        shift = top.equal(-math.inf).select(0.0, top)
        weights = (scores - shift).exp()
        total = weights.sum(-1, True)
        scale = total.equal(0.0).select(0.0, 1.0 / total)
        value = _rows(pieces.value, span.key_first, span.key_stop)
        results.append(weights.matmul(value) * scale)
        logs.append(total.log() + shift)
    y = _joined(results, graph, (*lead, 0, width), kind)
    sums = _joined(logs, graph, (*lead, 0, 1), kind).squeeze(axes=-1)
    query = pieces.originals[0]
    return cast_to(pieces.ungrouped(y, 2), query.dtype), pieces.ungrouped(sums, 1)


def backward(
    pieces: Pieces, g: Tensor, by_logs: Tensor, y: Tensor, logs: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value and a mask of floats."""
    graph, kind = pieces.query.graph, pieces.query.dtype
    g, by_logs, y, logs = _prepared(pieces, g, by_logs, y, logs)
    inner = (g * y).sum(-1, True) - by_logs.expand_dims(axes=-1)
    # exp(score - infinity) would be NaN for a query that sees nothing: its weights are zero.
    shift = logs.equal(-math.inf).select(math.inf, logs).expand_dims(axes=-1)
    by_query: list[Tensor] = []
    by_key: Tensor | None = None
    by_value: Tensor | None = None
    by_mask: list[tuple[Span, Tensor]] = []
    for span in pieces.spans():
        rows = _rows(g, span.first, span.stop)
        if span.empty:
            by_query.append(_rows(pieces.query, span.first, span.stop) * 0.0)
            continue
        parts = _piece_gradient(pieces, span, rows, inner, shift)
        by_query.append(parts.query)
        by_key = _added(by_key, parts.key, span, pieces.columns)
        by_value = _added(by_value, parts.value, span, pieces.columns)
        by_mask.append((span, parts.scores))
    q, k, v, *mask = pieces.originals
    found = [
        cast_to(pieces.ungrouped(_joined(by_query, graph, pieces.query.shape, kind), 2), q.dtype)
    ]
    for total, like in ((by_key, k), (by_value, v)):
        if total is None:
            found.append(graph.constant(0.0, like.dtype, shape=like.shape))
        else:
            summed = total.sum(-3) if pieces.group > 1 else total
            found.append(cast_to(summed, like.dtype))
    if mask and mask[0].dtype.is_float:
        found.append(_mask_gradient(pieces, by_mask, mask[0]))
    return tuple(found)


def second(
    pieces: Pieces, results: tuple[Tensor, ...], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of `backward` with respect to its four tensors and the operands, in one piece.

    With weights P, M = g v^T, D = P (M - delta) and the gradient R of D: what reaches the weights
    is W = (M - delta) R - rho M + g c^T, where rho are the row sums of P R and c is the gradient of
    that of the value. The result and the logarithms count as functions of the operands.
    """
    swap = functions()["swap_axes"]
    g, by_logs, y, logs = _prepared(pieces, *results)
    span = Span(0, pieces.rows, 0, pieces.columns)
    q, k, v = pieces.query, pieces.key, pieces.value
    factor = pieces.op.factor(q.type.static_shape[-1])
    shift = logs.equal(-math.inf).select(math.inf, logs).expand_dims(axes=-1)
    weights = (pieces.scores(span) - shift).exp()
    products = g.matmul(swap(v, -1, -2))
    centred = products - ((g * y).sum(-1, True) - by_logs.expand_dims(axes=-1))
    a, b, c, m = _incoming(pieces, gradients)
    by_scores = (a.matmul(swap(k, -1, -2)) + q.matmul(swap(b, -1, -2))) * factor
    if m is not None:
        by_scores = by_scores + m
    rho = (weights * by_scores).sum(-1, True)
    inner = weights * (by_scores - rho)
    reached = centred * by_scores - rho * products + g.matmul(swap(c, -1, -2))
    outer = weights * (reached - (weights * reached).sum(-1, True))
    d = weights * centred
    by_query = (d.matmul(b) + outer.matmul(k)) * factor
    by_key = (swap(d, -1, -2).matmul(a) + swap(outer, -1, -2).matmul(q)) * factor
    by_value = swap(inner, -1, -2).matmul(g)
    by_g = inner.matmul(v) + weights.matmul(c)
    query, key, value, *mask = pieces.originals
    shared = [t.sum(-3) if pieces.group > 1 else t for t in (by_key, by_value)]
    found: list[Tensor | None] = [
        cast_to(pieces.ungrouped(by_g, 2), results[0].dtype),
        cast_to(pieces.ungrouped(rho.squeeze(axes=-1), 1), results[1].dtype),
        None,
        None,
        cast_to(pieces.ungrouped(by_query, 2), query.dtype),
        cast_to(shared[0], key.dtype),
        cast_to(shared[1], value.dtype),
    ]
    if mask:
        floats = mask[0].dtype.is_float
        whole = pieces.ungrouped(outer, 2)
        found.append(cast_to(unbroadcast(whole, mask[0]), mask[0].dtype) if floats else None)
    return found


def _incoming(pieces: Pieces, gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Gradients of those of query, key, value and mask, with the groups as an axis."""
    kind = pieces.query.dtype
    found: list[Tensor | None] = []
    for gradient, like in zip(gradients, (pieces.query, pieces.key, pieces.value), strict=False):
        if gradient is None:
            found.append(zeros_like(like))
        elif like is pieces.query and pieces.group > 1:
            shared = like.type.static_shape[-4]
            found.append(_grouped(cast_to(gradient, kind), shared, pieces.group))
        else:
            found.append(cast_to(gradient, kind).reshape(like.shape))
    mask = gradients[3] if len(gradients) == 4 else None
    if mask is not None:
        mask = cast_to(mask, kind)
        if pieces.group > 1:
            mask = _grouped_mask(mask, pieces.group)
    return (*found, mask)


def _prepared(
    pieces: Pieces, g: Tensor, by_logs: Tensor, y: Tensor, logs: Tensor
) -> tuple[Tensor, ...]:
    """Gradients and results of attention in the dtype and the axes of the pieces."""
    g, y = (cast_to(t, pieces.query.dtype) for t in (g, y))
    if pieces.group > 1:
        shared = pieces.key.type.static_shape[-4]
        g, y = (_grouped(t, shared, pieces.group) for t in (g, y))
        by_logs, logs = (_grouped(t, shared, pieces.group, 1) for t in (by_logs, logs))
    return g, by_logs, y, logs


@frozen
class _Parts:
    """What one piece of queries adds to the gradients; `scores` is that of the scores."""

    query: Tensor
    key: Tensor
    value: Tensor
    scores: Tensor


def _piece_gradient(pieces: Pieces, span: Span, g: Tensor, inner: Tensor, shift: Tensor) -> _Parts:
    swap = functions()["swap_axes"]
    factor = pieces.op.factor(pieces.query.type.static_shape[-1])
    q = _rows(pieces.query, span.first, span.stop)
    k = _rows(pieces.key, span.key_first, span.key_stop)
    v = _rows(pieces.value, span.key_first, span.key_stop)
    weights = (pieces.scores(span) - _rows(shift, span.first, span.stop)).exp()
    by_weights = g.matmul(swap(v, -1, -2))
    by_scores = weights * (by_weights - _rows(inner, span.first, span.stop))
    return _Parts(
        by_scores.matmul(k) * factor,
        swap(by_scores, -1, -2).matmul(q) * factor,
        swap(weights, -1, -2).matmul(g),
        by_scores,
    )


def _added(total: Tensor | None, part: Tensor, span: Span, columns: int) -> Tensor:
    """`part` belongs to the keys of a piece: added into a tensor of all keys."""
    before, after = span.key_first, columns - span.key_stop
    if before or after:
        widths = [(0, 0)] * (part.rank or 0)
        widths[-2] = (before, after)
        part = part.pad(widths)
    return part if total is None else total + part


def _mask_gradient(pieces: Pieces, parts: list[tuple[Span, Tensor]], mask: Tensor) -> Tensor:
    """The gradient of the scores, put together and summed over what the mask broadcasts along."""
    graph = pieces.query.graph
    lead = pieces.query.type.static_shape[:-2]
    full = []
    done = dict(parts)
    for span in pieces.spans():
        rows = span.stop - span.first
        if span not in done:
            full.append(
                graph.constant(0.0, pieces.query.dtype, shape=(*lead, rows, pieces.columns))
            )
            continue
        widths = [(0, 0)] * (len(lead) + 1)
        widths.append((span.key_first, pieces.columns - span.key_stop))
        padded = span.key_first or span.key_stop < pieces.columns
        full.append(done[span].pad(widths) if padded else done[span])
    shape = (*lead, 0, pieces.columns)
    scores = pieces.ungrouped(_joined(full, graph, shape, pieces.query.dtype), 2)
    return cast_to(unbroadcast(scores, mask), mask.dtype)


def _rows(x: Tensor, first: int, stop: int) -> Tensor:
    """Rows of the last but one axis."""
    if first == 0 and stop == x.type.static_shape[-2]:
        return x
    found: Tensor = x[..., first:stop, :]
    return found


def _joined(parts: list[Tensor], graph: Any, shape: Any, kind: Any) -> Tensor:
    if not parts:
        return graph.constant(0.0, kind, shape=shape)  # type: ignore[no-any-return]
    return parts[0] if len(parts) == 1 else functions()["concat"](parts, axis=-2)  # type: ignore[no-any-return]


def _grouped(x: Tensor, shared: int, group: int, axes: int = 2) -> Tensor:
    """[..., heads, ...] as [..., shared, group, ...]; `axes` follow the heads."""
    shape = x.type.static_shape
    at = len(shape) - axes - 1
    split: Tensor = x.reshape((*shape[:at], shared, group, *shape[at + 1 :]))
    return split


def _grouped_mask(mask: Tensor, group: int) -> Tensor:
    """A mask that broadcasts to [..., heads, n, m] as one for [..., shared, group, n, m]."""
    shape = mask.type.static_shape
    if len(shape) < 3:
        return mask
    heads = shape[-3]
    split = (1, 1) if heads == 1 else (heads // group, group)
    found: Tensor = mask.reshape((*shape[:-3], *split, *shape[-2:]))
    return found
