"""Constants, ranges and masks: tensors that come from no input."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates


@translates("Constant")
def constant(at: Call) -> np.ndarray:
    """A value in the model, in one of several spellings."""
    if at.has_attribute("value"):
        return at.array_attribute("value")
    if at.has_attribute("sparse_value"):
        return at.importer.source.sparse_array(at.attributes["sparse_value"].sparse_tensor)
    if at.has_attribute("value_int"):
        return np.array(at.integer("value_int"), np.int64)
    if at.has_attribute("value_float"):
        return np.array(at.real("value_float"), np.float32)
    if at.has_attribute("value_ints"):
        return np.array(at.ints("value_ints"), np.int64)
    if at.has_attribute("value_floats"):
        return np.array(at.floats("value_floats"), np.float32)
    if at.has_attribute("value_string"):
        return np.array(at.text("value_string"), object)
    return np.array(at.texts("value_strings"), object)


@translates("ConstantOfShape")
def constant_of_shape(at: Call) -> np.ndarray:
    """One value over a shape that is an input."""
    value = at.array_attribute("value") if at.has_attribute("value") else np.zeros(1, np.float32)
    return np.broadcast_to(value.reshape(()), tuple(at.known_ints(0)))


@translates("Range")
def range_(at: Call) -> np.ndarray:
    """Numbers from a start up to a limit."""
    start, limit, delta = (at.array(i).reshape(()) for i in range(3))
    kind = start.dtype
    count = int(max(np.ceil((float(limit) - float(start)) / float(delta)), 0))
    wide = np.int64 if kind.kind in "iu" else np.float64 if kind == np.float64 else np.float32
    steps = start.astype(wide) + np.arange(count).astype(wide) * delta.astype(wide)
    return steps.astype(kind)


@translates("EyeLike")
def eye_like(at: Call) -> Any:
    """Ones on a diagonal."""
    rows, columns = at.shape(0)
    kind = at.dtype_attribute("dtype", at.dtype(0))
    return np.eye(rows, columns, at.integer("k", 0)).astype(kind.numpy)


@translates("OneHot")
def one_hot(at: Call) -> nl.Tensor:
    """`on` where an index points along a new axis, `off` elsewhere."""
    depth, axis = at.known_ints(1)[0], at.integer("axis", -1)
    indices = at.tensor(0)
    if not indices.dtype.is_integer:
        indices = nl.cast(indices, nl.int64)
    if indices.dtype.is_signed:
        size = at.constant(np.array(depth, indices.dtype.numpy))
        zero = at.constant(np.array(0, indices.dtype.numpy))
        indices = nl.select(nl.less(indices, zero), indices + size, indices)
    hot = nl.one_hot(indices, depth, axis=axis, dtype=nl.bool_)
    values = at.tensor(2)
    off, on = nl.split(values, 2, 0)
    return nl.select(hot, nl.reshape(on, ()), nl.reshape(off, ()))


@translates("HannWindow", "HammingWindow", "BlackmanWindow")
def window(at: Call) -> Any:
    """Windows for spectra: periodic unless asked otherwise."""
    size = at.known_ints(0)[0]
    kind = at.dtype_attribute("output_datatype", nl.float32)
    steps = size if at.integer("periodic", 1) else size - 1
    angle = 2 * np.pi * np.arange(size) / max(steps, 1)
    if at.operator == "HannWindow":
        values = 0.5 - 0.5 * np.cos(angle)
    elif at.operator == "HammingWindow":
        values = 25 / 46 - 21 / 46 * np.cos(angle)
    else:
        values = 0.42 - 0.5 * np.cos(angle) + 0.08 * np.cos(2 * angle)
    return values.astype(kind.numpy)


@translates("MelWeightMatrix")
def mel_weight_matrix(at: Call) -> Any:
    """Weights from the bins of a spectrum to bands that are even on the mel scale."""
    bands, length, rate = (at.known_ints(i)[0] for i in range(3))
    low, high = (float(at.array(i).reshape(())) for i in (3, 4))
    kind = at.dtype_attribute("output_datatype", nl.float32)
    bins = length // 2 + 1
    mel = 2595 * np.log10(1 + np.array([low, high]) / 700)
    edges = mel[0] + np.arange(bands + 2) * ((mel[1] - mel[0]) / (bands + 2))
    hertz = 700 * (10 ** (edges / 2595) - 1)
    places = np.floor((length + 1) * hertz / rate).astype(np.int64)
    weights = np.zeros((bins, bands))
    for band in range(bands):
        first, centre, last = places[band : band + 3]
        rising = np.arange(first, centre + 1) if centre != first else np.array([centre])
        weights[rising, band] = (
            (rising - first) / (centre - first) if centre != first else np.ones(1)
        )
        falling = np.arange(centre, last)
        weights[falling, band] = (last - falling) / max(last - centre, 1)
    return weights.astype(kind.numpy)
