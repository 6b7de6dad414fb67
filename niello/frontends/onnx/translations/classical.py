"""Classical machine learning (ai.onnx.ml): what computes on tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates

ML = "ai.onnx.ml"


@translates("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(at: Call) -> nl.Tensor:
    """Columns of the last axis."""
    x = at.tensor(0) if at.rank(0) > 1 else nl.expand_dims(at.tensor(0), 0)
    return nl.gather(x, nl.reshape(at.tensor(1), (-1,)), -1)


@translates("Binarizer", domain=ML)
def binarizer(at: Call) -> nl.Tensor:
    """1 above a threshold, else 0."""
    x = at.tensor(0)
    return nl.cast(nl.greater(x, at.like(at.real("threshold", 0.0))), x.dtype)


@translates("Scaler", domain=ML)
def scaler(at: Call) -> nl.Tensor:
    """(x - offset) * scale, as float32."""
    x = nl.cast(at.tensor(0), nl.float32)
    offset, scale = (np.array(at.floats(n, [d]), np.float32) for n, d in (("offset", 0), ("scale", 1)))
    return (x - at.constant(offset)) * at.constant(scale)


@translates("Normalizer", domain=ML)
def normalizer(at: Call) -> nl.Tensor:
    """Rows over their largest element, their sum of magnitudes, or their length."""
    x, kind = nl.cast(at.tensor(0), nl.float32), at.text("norm", "MAX")
    if kind == "MAX":
        return nl.divide_no_nan(x, nl.max(x, -1, True))
    size = nl.absolute(x) if kind == "L1" else nl.square(x)
    norm = nl.sum(size, -1, True)
    return nl.divide_no_nan(x, norm if kind == "L1" else nl.sqrt(norm))


@translates("Imputer", domain=ML)
def imputer(at: Call) -> nl.Tensor:
    """One value replaced by another, for each column."""
    x = at.tensor(0)
    if x.dtype.is_float:
        replaced, values = at.real("replaced_value_float", 0.0), at.floats("imputed_value_floats")
    else:
        replaced, values = at.integer("replaced_value_int64", 0), at.ints("imputed_value_int64s")
    hit = nl.is_nan(x) if replaced != replaced else nl.equal(x, at.like(replaced))
    return nl.select(hit, at.like(values), x)


@translates("FeatureVectorizer", domain=ML)
def feature_vectorizer(at: Call) -> nl.Tensor:
    """Columns of several tensors side by side, as float32."""
    parts = []
    for i, width in enumerate(at.ints("inputdimensions")):
        x = nl.cast(at.tensor(i), nl.float32)
        parts.append(nl.slice(x, [0], [width], axes=(-1,)))
    return nl.concat(parts, -1)


@translates("OneHotEncoder", domain=ML)
def one_hot_encoder(at: Call) -> Any:
    """1 for the category of each element, along a new last axis."""
    known = at.texts("cats_strings", None)
    if known is not None:
        hot = at.array(0)[..., None] == np.array(known, object)
        return hot.astype(np.float32)
    x = at.tensor(0)
    wide = nl.expand_dims(x, -1)
    return nl.cast(nl.equal(wide, at.like(at.ints("cats_int64s"))), nl.float32)


@translates("LinearRegressor", domain=ML)
def linear_regressor(at: Call) -> nl.Tensor:
    """x @ coefficients + intercepts for each target."""
    targets = at.integer("targets", 1)
    y = _linear(at, targets)
    return _transformed(at, y)


def _linear(at: Call, rows: int) -> nl.Tensor:
    weights = np.array(at.floats("coefficients"), np.float32).reshape(rows, -1)
    y = nl.matmul(nl.cast(at.tensor(0), nl.float32), at.constant(weights.T))
    offsets = at.floats("intercepts", None)
    return nl.add(y, at.constant(np.array(offsets, np.float32))) if offsets else y


def _transformed(at: Call, y: nl.Tensor) -> nl.Tensor:
    kind = at.text("post_transform", "NONE")
    return _post(at, y, kind)


def _post(at: Call, y: nl.Tensor, kind: str) -> nl.Tensor:
    if kind == "NONE":
        return y
    if kind == "SOFTMAX":
        return nl.softmax(y)
    if kind == "LOGISTIC":
        return nl.sigmoid(y)
    if kind == "PROBIT":
        return nl.normal_quantile(y)
    zero = nl.equal(y, y * 0.0)
    parts = nl.select(zero, y * 0.0, nl.exp(y - nl.max(y, -1, True)))
    return parts / nl.sum(parts, -1, True)


@translates("LinearClassifier", domain=ML)
def linear_classifier(at: Call) -> Any:
    """The class of the largest score, and the scores."""
    texts, numbers = at.texts("classlabels_strings", None), at.ints("classlabels_ints", None)
    labels = texts or numbers or []
    rows = len(at.floats("intercepts", None) or labels)
    scores = _linear(at, rows)
    if rows == 1 and len(labels) == 2:
        scores = nl.concat([-scores, scores], -1)
    best = nl.argmax(scores, -1, dtype=nl.int64)
    scores = _transformed(at, scores)
    if texts:
        return np.array(texts, object)[at.importer.array(best, at)], scores
    return nl.gather(at.constant(np.array(labels, np.int64)), best, 0), scores


@dataclass(frozen=True)
class Trees:
    """Nodes of trees as columns; a child below 0 is leaf number -1 - child."""

    features: np.ndarray
    splits: np.ndarray
    modes: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    missing: np.ndarray
    members: np.ndarray  # [nodes, most], filled up with NaN
    roots: np.ndarray

    @property
    def depth(self) -> int:
        """The number of decisions on the longest way."""
        level = np.unique(self.roots)
        steps = 0
        while len(level):
            steps += 1
            following = np.concatenate([self.yes[level], self.no[level]])
            level = np.unique(following[following >= 0])
        return steps


_COMPARE = (nl.less_equal, nl.less, nl.greater_equal, nl.greater, nl.equal, nl.not_equal)
_MEMBER = len(_COMPARE)


def _leaves(trees: Trees, x: nl.Tensor) -> nl.Tensor:
    """The leaf [rows, trees] that each row of x reaches in each tree."""
    graph = x.graph
    assert x.shape is not None
    rows = x.shape[0]

    def table(values: np.ndarray, at_node: nl.Tensor) -> nl.Tensor:
        return nl.gather(graph.constant(values), at_node, 0)

    start = graph.constant(trees.roots[None])
    place = nl.broadcast_to(start, (rows, len(trees.roots)))
    zero = graph.constant(np.int64(0))
    for _ in range(trees.depth):
        node = nl.maximum(place, zero)
        value = nl.gather_along_axis(x, table(trees.features, node), 1)
        split, mode = table(trees.splits, node), table(trees.modes, node)
        found = nl.cast(table(trees.missing, node), nl.bool_)
        passed = nl.logical_and(found, nl.is_nan(value))
        for number in np.unique(trees.modes):
            if number == _MEMBER:
                members = table(trees.members, node)
                holds = nl.any(nl.equal(nl.expand_dims(value, -1), members), -1)
            else:
                holds = _COMPARE[number](value, split)
            asked = nl.equal(mode, graph.constant(np.int64(number)))
            passed = nl.logical_or(passed, nl.logical_and(asked, holds))
        following = nl.select(passed, table(trees.yes, node), table(trees.no, node))
        place = nl.select(nl.less(place, zero), place, following)
    return -1 - place


@translates("TreeEnsemble", domain=ML, since=5)
def tree_ensemble(at: Call) -> nl.Tensor:
    """Leaf weights of trees, combined for each target."""
    x = at.tensor(0)
    kind = x.dtype.numpy
    modes = at.array_attribute("nodes_modes").astype(np.int64)
    yes, no = np.array(at.ints("nodes_truenodeids")), np.array(at.ints("nodes_falsenodeids"))
    yes = np.where(np.array(at.ints("nodes_trueleafs")) == 1, -1 - yes, yes)
    no = np.where(np.array(at.ints("nodes_falseleafs")) == 1, -1 - no, no)
    count = len(modes)
    trees = Trees(
        np.array(at.ints("nodes_featureids"), np.int64),
        at.array_attribute("nodes_splits").astype(kind),
        modes,
        yes.astype(np.int64),
        no.astype(np.int64),
        np.array(at.ints("nodes_missing_value_tracks_true", None) or [0] * count, np.int64),
        _members(at, modes, kind),
        np.array(at.ints("tree_roots"), np.int64),
    )
    leaf = _leaves(trees, x)
    weights = at.array_attribute("leaf_weights").astype(kind)
    targets, number = np.array(at.ints("leaf_targetids"), np.int64), at.integer("n_targets")
    hot = nl.one_hot(nl.gather(at.constant(targets), leaf, 0), number, dtype=nl.bool_)
    value = nl.expand_dims(nl.gather(at.constant(weights), leaf, 0), -1)
    total = _aggregated(at, hot, value, len(trees.roots))
    names = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    return _post(at, total, names[at.integer("post_transform", 0)])


def _aggregated(at: Call, hot: nl.Tensor, value: nl.Tensor, trees: int) -> nl.Tensor:
    kind = at.integer("aggregate_function", 1)
    zero = at.like(0)
    if kind in (0, 1):
        total = nl.sum(nl.select(hot, value, zero), 1)
        return total / float(trees) if kind == 0 else total
    beyond = at.like(np.inf if kind == 2 else -np.inf)
    function = nl.min if kind == 2 else nl.max
    best = function(nl.select(hot, value, beyond), 1)
    return nl.select(nl.any(hot, 1), best, zero)


def _members(at: Call, modes: np.ndarray, kind: Any) -> np.ndarray:
    """The set of each node that tests membership."""
    sets: list[np.ndarray] = []
    if at.has_attribute("membership_values"):
        values = at.array_attribute("membership_values").astype(kind).reshape(-1)
        ends = np.flatnonzero(np.isnan(values))
        starts = [0, *(ends + 1)]
        sets = [values[a:b] for a, b in zip(starts, [*ends, len(values)], strict=True)]
    most = reduce(max, (len(s) for s in sets), 1)
    found = np.full((len(modes), most), np.nan, kind)
    for node, members in zip(np.flatnonzero(modes == _MEMBER), sets, strict=False):
        found[node, : len(members)] = members
    return found
