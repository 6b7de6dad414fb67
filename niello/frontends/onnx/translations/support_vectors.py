"""Support vector machines (ai.onnx.ml)."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.translations.classical import ML, labelled, post_transformed


def _kernel(at: Call, x: nl.Tensor, vectors: np.ndarray) -> nl.Tensor:
    """What the kernel gives for rows of x and support vectors: [rows, vectors]."""
    kind = at.text("kernel_type", "LINEAR")
    gamma, offset, degree = at.floats("kernel_params", None) or (0.0, 0.0, 0.0)
    held = at.constant(vectors)
    if kind == "RBF":
        apart = nl.expand_dims(x, 1) - nl.expand_dims(held, 0)
        return nl.exp(nl.sum(nl.square(apart), -1) * -gamma)
    products = nl.matmul(x, at.constant(np.ascontiguousarray(vectors.T)))
    if kind == "LINEAR":
        return products
    y = products * gamma + offset
    if kind == "POLY":
        return nl.power(y, at.constant(np.float32(degree)))
    if kind == "SIGMOID":
        return nl.tanh(y)
    raise at.refuse("there is no such kernel", kind, "The model is not valid ONNX")


@translates("SVMRegressor", domain=ML)
def svm_regressor(at: Call) -> nl.Tensor:
    """A sum of kernels of support vectors (or a linear form), plus an offset; with `one_class`
    its sign."""
    x = nl.cast(at.tensor(0), nl.float32)
    coefficients = np.array(at.floats("coefficients"), np.float32)
    count = at.integer("n_supports", 0)
    if count:
        vectors = np.array(at.floats("support_vectors"), np.float32).reshape(count, -1)
        weights = at.constant(coefficients.reshape(count, 1))
        y = nl.matmul(_kernel(at, x, vectors), weights)
    else:
        y = _kernel(at, x, coefficients.reshape(1, -1))
    y = y + float(at.floats("rho")[0])
    if at.integer("one_class", 0):
        return nl.select(y > 0.0, y * 0.0 + 1.0, y * 0.0 - 1.0)
    return post_transformed(y, at.text("post_transform", "NONE"))


@translates("SVMClassifier", domain=ML)
def svm_classifier(at: Call) -> Any:
    """The class with most votes of pairs of classes, and the scores of pairs, or probabilities;
    without support vectors a linear form for each class."""
    labels = at.texts("classlabels_strings", None) or at.ints("classlabels_ints", None) or []
    x = nl.cast(at.tensor(0), nl.float32)
    x = x if x.rank != 1 else nl.expand_dims(x, 0)
    counts = at.ints("vectors_per_class", None) or []
    if not counts:
        return _linear(at, x, labels)
    scores = _pairs(at, x, counts)
    slopes, kinds = at.floats("prob_a", None), len(counts)
    best = labelled(labels, nl.argmax(_votes(scores, kinds), -1, dtype=nl.int64))
    if slopes:
        return best, _shown(at, _coupled(_paired(at, scores, slopes), kinds))
    return best, _shown(at, _decisions(scores, kinds))


def _shown(at: Call, y: nl.Tensor) -> nl.Tensor:
    return post_transformed(y, at.text("post_transform", "NONE"))


def _linear(at: Call, x: nl.Tensor, labels: list[Any]) -> Any:
    """A linear form for each class."""
    rows = len(labels)
    weights = np.array(at.floats("coefficients"), np.float32).reshape(rows, -1)
    scores = _kernel(at, x, weights) + float(at.floats("rho")[0])
    best = nl.argmax(scores, -1, dtype=nl.int64)
    if rows == 2:  # the second where any score is positive, as ONNX Runtime has it
        best = nl.maximum(best, nl.cast(nl.max(scores, -1) > 0.0, nl.int64))
    return labelled(labels, best), _shown(at, scores)


def _pairs(at: Call, x: nl.Tensor, counts: list[int]) -> nl.Tensor:
    """The decision of each pair of classes i < j: [rows, pairs]."""
    total, kinds = sum(counts), len(counts)
    vectors = np.array(at.floats("support_vectors"), np.float32).reshape(total, -1)
    # Row j - 1 holds what the vectors of a class weigh against class j; row i against i before.
    given = np.array(at.floats("coefficients"), np.float32).reshape(kinds - 1, total)
    ends = np.cumsum([0, *counts])
    pairs = [(i, j) for i in range(kinds) for j in range(i + 1, kinds)]
    weights = np.zeros((total, len(pairs)), np.float32)
    for p, (i, j) in enumerate(pairs):
        mine, other = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
        weights[mine, p] = given[j - 1, mine]
        weights[other, p] = given[i, other]
    offsets = np.array(at.floats("rho"), np.float32)
    return nl.matmul(_kernel(at, x, vectors), at.constant(weights)) + at.constant(offsets)


def _places(kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of classes the rows of an identity that its winner and loser take."""
    pairs = [(i, j) for i in range(kinds) for j in range(i + 1, kinds)]
    eye = np.eye(kinds, dtype=np.float32)
    return np.array([eye[i] for i, _ in pairs]), np.array([eye[j] for _, j in pairs])


def _votes(scores: nl.Tensor, kinds: int) -> nl.Tensor:
    """How many pairs each class wins: [rows, classes]."""
    first, second = (scores.graph.constant(m) for m in _places(kinds))
    wins = nl.cast(scores > 0.0, nl.float32)
    return nl.matmul(wins, first) + nl.matmul(1.0 - wins, second)


def _decisions(scores: nl.Tensor, kinds: int) -> nl.Tensor:
    """The scores as they are shown: of two classes, for and against the second."""
    return nl.concat([-scores, scores], -1) if kinds == 2 else scores


def _paired(at: Call, scores: nl.Tensor, slopes: list[float]) -> nl.Tensor:
    """The probability of the first class of each pair, by its sigmoid."""
    a = at.constant(np.array(slopes, np.float32))
    b = at.constant(np.array(at.floats("prob_b"), np.float32))
    return nl.clamp(nl.sigmoid(-(scores * a + b)), 1e-7, 1.0 - 1e-7)


def _coupled(pairs: nl.Tensor, kinds: int) -> nl.Tensor:
    """Probabilities of classes [rows, kinds] from those of pairs, by Wu, Lin and Weng (2004):
    sweeps of the fixed-point iteration of their second method."""
    index, of = 0, {}
    columns = nl.unstack(pairs, 1)
    for i in range(kinds):
        for j in range(i + 1, kinds):
            of[i, j], of[j, i] = columns[index], 1.0 - columns[index]
            index += 1
    if kinds == 2:
        return nl.stack([of[0, 1], of[1, 0]], 1)
    rows = []
    for i in range(kinds):
        row: list[Any] = [None] * kinds
        for j in range(kinds):
            if i != j:
                row[j] = -(of[j, i] * of[i, j])
        square = [of[j, i] * of[j, i] for j in range(kinds) if j != i]
        row[i] = sum(square[1:], square[0])
        rows.append(nl.stack(row, 1))
    matrix = nl.stack(rows, 1)  # [rows, kinds, kinds]
    start = nl.broadcast_to(
        pairs.graph.constant(np.float32(1.0 / kinds)),
        (pairs.shape[0], kinds),  # type: ignore[index]
    )
    eye = np.eye(kinds, dtype=np.float32)
    diagonal = [nl.sum(matrix * pairs.graph.constant(np.outer(e, e)), (1, 2)) for e in eye]

    def sweep(step: nl.Tensor, p: nl.Tensor) -> nl.Tensor:
        for t in range(kinds):
            product = nl.sum(matrix * nl.expand_dims(p, 1), -1)
            whole = nl.sum(product * p, -1, True)
            mine = nl.sum(product * pairs.graph.constant(eye[t]), -1, True)
            change = (whole - mine) / nl.expand_dims(diagonal[t], 1)
            p = (p + change * pairs.graph.constant(eye[t])) / (change + 1.0)
        return p

    return nl.for_(100, start, sweep)  # type: ignore[no-any-return]
