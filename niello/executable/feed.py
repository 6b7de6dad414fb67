"""What users feed, as arrays: NumPy, DLPack, array-likes, numbers and nested lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from niello.core.errors import FeedError, NielloError
from niello.core.types import TensorType
from niello.runtime.tensor_data import TensorData


def to_array(value: Any, wanted: TensorType, name: str) -> np.ndarray:
    """A NumPy array of what was fed for the placeholder `name`, without a copy where possible.

    Arrays keep their dtype. Python numbers and nested lists of them take the wanted dtype, where
    that changes no value: integers and truth values become floats, but nothing is cut or wrapped.
    Raises FeedError.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, TensorData):
        return value.numpy()
    if isinstance(value, np.generic):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return TensorData.from_dlpack(value).numpy()
    if hasattr(value, "__array__"):
        return np.asarray(value)
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biufc":
        raise _refused(value, wanted, name, "the value is not a rectangular array of numbers")
    if array.dtype.kind == "f" and not wanted.dtype.is_float:
        raise _refused(value, wanted, name, f"fractions are not {wanted.dtype.name}")
    if array.dtype.kind == "c" and not wanted.dtype.is_complex:
        raise _refused(value, wanted, name, f"complex numbers are not {wanted.dtype.name}")
    try:
        return np.array(value, wanted.dtype.numpy)
    except OverflowError as error:
        raise _refused(value, wanted, name, str(error)) from error


def _refused(value: Any, wanted: TensorType, name: str, problem: str) -> FeedError:
    return FeedError(
        f"feed {name}",
        problem,
        received=f"{type(value).__name__} {repr(value)[:60]}",
        advice=f"Feed an array of {wanted}",
        tensor=name,
    )


def fed_type(value: Any, wanted: TensorType, name: str) -> TensorType:
    """The type of a fed array. Raises FeedError for what no tensor can hold."""
    try:
        return TensorType(value.shape, value.dtype)
    except NielloError as error:
        raise FeedError(
            f"feed {name}",
            f"the placeholder is {wanted}",
            received=f"{value.dtype}{list(value.shape)}",
            advice="Convert the array first",
            tensor=name,
        ) from error
