"""Classical machine learning (ai.onnx.ml): what computes on tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.values import Labels, Maps

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
    offset, scale = (
        np.array(at.floats(n, [d]), np.float32) for n, d in (("offset", 0), ("scale", 1))
    )
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
    return post_transformed(y, at.text("post_transform", "NONE"))


def post_transformed(y: nl.Tensor, kind: str) -> nl.Tensor:
    """Scores as the attribute post_transform wants them."""
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
    return labelled(labels, best), _transformed(at, scores)


def labelled(labels: list[Any], places: nl.Tensor) -> Any:
    """The labels at places; where they are strings, found when the run is over."""
    if labels and isinstance(labels[0], str):
        return Labels(places, tuple(labels))
    return nl.gather(places.graph.constant(np.array(labels, np.int64)), places, 0)


@translates("ZipMap", domain=ML, fold=False)
def zip_map(at: Call) -> Any:
    """A map from class labels to scores for each row, made when the run is over."""
    labels = at.texts("classlabels_strings", None) or at.ints("classlabels_int64s", [])
    return Maps(at.tensor(0), tuple(labels))
