"""Strings: operators that run while the model is imported, on strings that are fed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates


def _text(values: list[str], shape: tuple[int, ...]) -> np.ndarray:
    made = np.empty(shape, object)
    made.reshape(-1)[:] = values
    return made


@translates("StringConcat", host=True)
def concat(at: Call) -> Any:
    """Two strings as one, broadcast."""
    return np.asarray(at.array(0) + at.array(1), object)


@translates("StringSplit", host=True)
def split(at: Call) -> Any:
    """Parts of each string, and how many; rows are filled up with empty strings."""
    x = at.array(0)
    delimiter = at.text("delimiter", "") or None
    limit = at.integer("maxsplit", -1)
    parts = [s.split(delimiter, limit) if s else [] for s in x.reshape(-1)]
    most = max((len(p) for p in parts), default=0)
    rows = [s for p in parts for s in [*p, *[""] * (most - len(p))]]
    counts = np.array([len(p) for p in parts], np.int64).reshape(x.shape)
    return _text(rows, (*x.shape, most)), counts


@translates("RegexFullMatch", host=True)
def regex_full_match(at: Call) -> Any:
    """Whether the whole of each string matches a regular expression."""
    x, pattern = at.array(0), re.compile(at.text("pattern", ""))
    found = [pattern.fullmatch(s) is not None for s in x.reshape(-1)]
    return np.array(found, np.bool_).reshape(x.shape)


@translates("StringNormalizer", host=True)
def normalizer(at: Call) -> Any:
    """Strings without stop words, in upper or lower case."""
    x = at.array(0)
    change = at.text("case_change_action", "NONE")
    stop = at.texts("stopwords", [])
    sensitive = bool(at.integer("is_case_sensitive", 0))
    known = set(stop) if sensitive else {s.lower() for s in stop}
    kept = [s for s in x.reshape(-1) if (s if sensitive else s.lower()) not in known]
    if change != "NONE":
        kept = [s.upper() if change == "UPPER" else s.lower() for s in kept]
    kept = kept or [""]
    return _text(kept, (1, len(kept)) if x.ndim == 2 else (len(kept),))


@translates("TfIdfVectorizer", host=True)
def tf_idf_vectorizer(at: Call) -> Any:
    """Counts of n-grams in each row, weighted."""
    x = at.array(0)
    rows = x.reshape(1, -1) if x.ndim < 2 else x
    pool = _pool(at)
    places, weights = at.ints("ngram_indexes"), at.floats("weights", None)
    found = np.zeros((len(rows), max(places) + 1), np.float32)
    shortest, longest = at.integer("min_gram_length"), at.integer("max_gram_length")
    skips = at.integer("max_skip_count", 0)
    for row, items in zip(found, rows, strict=True):
        for length in range(shortest, longest + 1):
            for gap in range(1, (skips if length > 1 else 0) + 2):
                reach = (length - 1) * gap
                for start in range(len(items) - reach):
                    gram = tuple(items[start : start + reach + 1 : gap].tolist())
                    for i in pool.get(gram, ()):
                        row[places[i]] += 1
    mode = at.text("mode")
    by_place = np.ones(found.shape[1], np.float32)
    if weights is not None:
        by_place[np.array(places)] = weights
    if mode == "IDF":
        found = np.where(found > 0, by_place, 0)
    elif mode == "TFIDF":
        found = found * by_place
    return (found[0] if x.ndim < 2 else found).astype(np.float32)


def _pool(at: Call) -> dict[tuple[Any, ...], list[int]]:
    """N-grams, and their numbers in the pool."""
    items = at.texts("pool_strings", None) or at.ints("pool_int64s", [])
    starts = at.ints("ngram_counts")
    found: dict[tuple[Any, ...], list[int]] = {}
    number = 0
    for length, start in enumerate(starts, 1):
        end = starts[length] if length < len(starts) else len(items)
        for i in range(start, end, length):
            found.setdefault(tuple(items[i : i + length]), []).append(number)
            number += 1
    return found


@translates("LabelEncoder", domain="ai.onnx.ml", host=True)
def label_encoder(at: Call) -> Any:
    """Each element by a table from keys to values."""
    x = at.array(0)
    keys, values, default = _tables(at)
    table = dict(zip(keys, values, strict=True))
    listed = [table.get(_key(v), default) for v in x.reshape(-1)]
    if listed and isinstance(listed[0], str):
        return _text(listed, x.shape)
    kind = np.asarray(values).dtype
    narrow = {"f": np.float32, "i": np.int64}.get(kind.kind, kind)
    final = kind if at.has_attribute("values_tensor") else narrow
    return np.array(listed, final).reshape(x.shape)


def _key(value: Any) -> Any:
    if isinstance(value, str):
        return value
    number = float(value)
    return "nan" if np.isnan(number) else number


def _tables(at: Call) -> tuple[list[Any], list[Any], Any]:
    if at.has_attribute("classes_strings"):
        classes = at.texts("classes_strings")
        if at.inputs[0].dtype == object:  # type: ignore[union-attr]
            return classes, list(range(len(classes))), at.integer("default_int64", -1)
        return (
            [float(i) for i in range(len(classes))],
            classes,
            at.text("default_string", "_Unused"),
        )
    listed: dict[str, list[Any]] = {}
    for part in ("keys", "values"):
        if at.has_attribute(f"{part}_tensor"):
            listed[part] = list(at.array_attribute(f"{part}_tensor").reshape(-1))
        elif at.has_attribute(f"{part}_strings"):
            listed[part] = at.texts(f"{part}_strings")
        elif at.has_attribute(f"{part}_int64s"):
            listed[part] = at.ints(f"{part}_int64s")
        else:
            listed[part] = at.floats(f"{part}_floats")
    keys = [_key(k) for k in listed["keys"]]
    values = listed["values"]
    if at.has_attribute("default_tensor"):
        return keys, values, at.array_attribute("default_tensor").reshape(-1)[0]
    first = values[0]
    if isinstance(first, str):
        return keys, values, at.text("default_string", "_Unused")
    if isinstance(first, (int, np.integer)):
        return keys, values, at.integer("default_int64", -1)
    return keys, values, at.real("default_float", -0.0)
