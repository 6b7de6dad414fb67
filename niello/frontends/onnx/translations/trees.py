"""Ensembles of decision trees (ai.onnx.ml)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.translations.classical import ML, labelled, post_transformed


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
        level = np.unique(self.roots[self.roots >= 0])
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
    return post_transformed(total, names[at.integer("post_transform", 0)])


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


# --- the form before TreeEnsemble: nodes by tree and number, weights by leaf and target
_MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


@dataclass(frozen=True)
class Forest:
    """Trees, and the weights of their leaves for each target."""

    trees: Trees
    weights: np.ndarray  # [leaves, targets]
    given: np.ndarray  # [leaves, targets]: whether there is a weight


def _forest(at: Call, prefix: str, targets: int) -> Forest:
    owners, numbers = at.ints("nodes_treeids"), at.ints("nodes_nodeids")
    place = {key: i for i, key in enumerate(zip(owners, numbers, strict=True))}
    modes = at.texts("nodes_modes")
    leaves = {i: n for n, i in enumerate(i for i, m in enumerate(modes) if m == "LEAF")}

    def child(name: str) -> np.ndarray:
        found = []
        for owner, number, mode in zip(owners, at.ints(name), modes, strict=True):
            target = 0 if mode == "LEAF" else place[owner, number]
            found.append(-1 - leaves[target] if target in leaves else target)
        return np.array(found, np.int64)

    codes = [0 if m == "LEAF" else _MODES.index(m) for m in modes]
    first: dict[int, int] = {}
    for i, owner in enumerate(owners):
        first.setdefault(owner, i)
    roots = [-1 - leaves[i] if i in leaves else i for i in first.values()]
    if at.has_attribute("nodes_values_as_tensor"):
        values = at.array_attribute("nodes_values_as_tensor")
    else:
        values = np.array(at.floats("nodes_values"), np.float32)
    missing = at.ints("nodes_missing_value_tracks_true", None) or [0] * len(modes)
    trees = Trees(
        np.array(at.ints("nodes_featureids"), np.int64),
        values,
        np.array(codes, np.int64),
        child("nodes_truenodeids"),
        child("nodes_falsenodeids"),
        np.array(missing, np.int64),
        np.full((len(modes), 1), np.nan, values.dtype),
        np.array(roots, np.int64),
    )
    weights = np.zeros((max(len(leaves), 1), targets), values.dtype)
    given = np.zeros(weights.shape, np.bool_)
    rows = zip(
        at.ints(f"{prefix}_treeids"),
        at.ints(f"{prefix}_nodeids"),
        at.ints(f"{prefix}_ids"),
        _weights(at, prefix),
        strict=True,
    )
    for owner, number, target, weight in rows:
        leaf = leaves[place[owner, number]]
        weights[leaf, target] += weight
        given[leaf, target] = True
    return Forest(trees, weights, given)


def _weights(at: Call, prefix: str) -> Any:
    name = f"{prefix}_weights"
    if at.has_attribute(f"{name}_as_tensor"):
        return at.array_attribute(f"{name}_as_tensor")
    return at.floats(name)


def _base(at: Call) -> Any:
    if at.has_attribute("base_values_as_tensor"):
        return at.array_attribute("base_values_as_tensor")
    return at.floats("base_values", None)


@translates("TreeEnsembleRegressor", domain=ML)
def regressor(at: Call) -> nl.Tensor:
    """Leaf weights of trees, combined for each target."""
    targets = at.integer("n_targets", 1)
    forest = _forest(at, "target", targets)
    kind = at.text("aggregate_function", "SUM")
    x = _features(at, forest)
    leaf = _leaves(forest.trees, x)
    value = nl.gather(at.constant(forest.weights), leaf, 0)
    if kind in ("SUM", "AVERAGE"):
        total = nl.sum(value, 1)
        total = total / float(len(forest.trees.roots)) if kind == "AVERAGE" else total
    else:
        hot = nl.gather(at.constant(forest.given), leaf, 0)
        beyond = at.constant(np.asarray(np.inf if kind == "MIN" else -np.inf, x.dtype.numpy))
        best = (nl.min if kind == "MIN" else nl.max)(nl.select(hot, value, beyond), 1)
        total = nl.select(nl.any(hot, 1), best, best * 0.0)
    base = _base(at)
    if base is not None and len(base):
        total = nl.add(total, at.constant(np.asarray(base, total.dtype.numpy)))
    total = post_transformed(total, at.text("post_transform", "NONE"))
    return nl.cast(total, nl.float32)


def _features(at: Call, forest: Forest) -> nl.Tensor:
    x = at.tensor(0)
    wanted = nl.float64 if forest.trees.splits.dtype == np.float64 else nl.float32
    return x if x.dtype is wanted else nl.cast(x, wanted)


@translates("TreeEnsembleClassifier", domain=ML)
def classifier(at: Call) -> Any:
    """The class of the largest sum of leaf weights, and the sums."""
    labels = at.texts("classlabels_strings", None) or at.ints("classlabels_int64s", [])
    used = sorted(set(at.ints("class_ids")))
    forest = _forest(at, "class", max(len(labels), used[-1] + 1))
    leaf = _leaves(forest.trees, _features(at, forest))
    scores = nl.sum(nl.gather(at.constant(forest.weights), leaf, 0), 1)
    base = _base(at)
    binary = len(labels) == 2 and len(used) == 1
    if base is not None and len(base):
        full = np.zeros(forest.weights.shape[1], forest.weights.dtype)
        full[used if binary else slice(0, len(base))] = base
        scores = nl.add(scores, at.constant(full))
    kind = at.text("post_transform", "NONE")
    if binary:
        return _binary(at, nl.slice(scores, [used[0]], [used[0] + 1], axes=(1,)), labels, kind)
    best = nl.argmax(scores, -1, dtype=nl.int64)
    return labelled(labels, best), nl.cast(post_transformed(scores, kind), nl.float32)


def _binary(at: Call, score: nl.Tensor, labels: list[Any], kind: str) -> Any:
    """Two classes by one score: a probability where all weights are positive, else a margin."""
    positive = all(w >= 0 for w in _weights(at, "class"))
    above = nl.greater(score, at.constant(np.asarray(0.5 if positive else 0.0, score.dtype.numpy)))
    best = nl.squeeze(nl.cast(above, nl.int64), 1)
    if kind == "NONE":
        pair = nl.concat([1.0 - score if positive else -score, score], 1)
    elif kind == "LOGISTIC":
        pair = nl.concat([nl.sigmoid(-score), nl.sigmoid(score)], 1)
    else:
        pair = post_transformed(nl.concat([-score, score], 1), kind)
    return labelled(labels, best), nl.cast(pair, nl.float32)
