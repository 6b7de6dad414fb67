"""What an ONNX value can be while a model is imported, and its element types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

import niello as nl


class EmptyOptional:
    """An ONNX optional that holds nothing."""

    def __repr__(self) -> str:
        return "an empty optional"


EMPTY = EmptyOptional()


@dataclass(frozen=True)
class Labels:
    """Strings at the places that a tensor holds: they exist when a run is over only."""

    places: nl.Tensor
    labels: tuple[str, ...]

    def made(self, places: np.ndarray) -> np.ndarray:
        """The strings."""
        return np.array(self.labels, object)[places]


@dataclass(frozen=True)
class Maps:
    """For each row of a tensor a map from labels to its elements: made when a run is over."""

    scores: nl.Tensor
    labels: tuple[Any, ...]

    def made(self, scores: np.ndarray) -> list[dict[Any, Any]]:
        """The maps."""
        return [dict(zip(self.labels, row, strict=True)) for row in np.atleast_2d(scores)]


# A tensor whose value is known, a tensor that is computed when the model runs, a sequence, or an
# empty optional. (An optional that holds something is that thing.)
Value: TypeAlias = "np.ndarray | nl.Tensor | list[Any] | EmptyOptional | Labels | Maps"

STRING = 8
_NAMES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool_",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
}


def _is_niello(code: int) -> bool:
    return isinstance(getattr(nl, _NAMES.get(code, ""), None), nl.DType)


def host_dtype(code: int) -> np.dtype[Any] | None:
    """The NumPy dtype of an element type that no graph has, only arrays while importing: strings
    and the narrow types of `ml_dtypes`. None for types that graphs have."""
    if code == STRING:
        return np.dtype(object)
    if _is_niello(code):
        return None
    import ml_dtypes

    name = _NAMES.get(code, "")
    kind = getattr(ml_dtypes, name, None) or getattr(np, name, None)
    return None if kind is None else np.dtype(kind)


def is_text(value: Any) -> bool:
    """Whether a value is an array of strings."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "OSU"


def on_host(value: Any) -> bool:
    """Whether a value is an array of elements that no graph has."""
    if not isinstance(value, np.ndarray):
        return False
    if value.dtype.kind in "OSU":
        return True
    try:
        nl.TensorType((), value.dtype)
    except nl.errors.DTypeError:
        return True
    return False


def code_of_array(array: np.ndarray) -> int:
    """The ONNX element type of an array."""
    if array.dtype.kind in "OSU":
        return STRING
    name = "bool_" if array.dtype == np.bool_ else array.dtype.name
    for code, known in _NAMES.items():
        if known == name:
            return code
    raise nl.errors.FrontendError("ONNX", "ONNX has no such element type", received=name)


def type_name(code: int) -> str:
    """The name of an ONNX element type (a TensorProto.DataType), as NumPy spells it."""
    return "string" if code == STRING else _NAMES.get(code, f"type {code}").rstrip("_")


def dtype_of(code: int) -> nl.DType:
    """Niello's dtype for an ONNX element type. Raises FrontendError where it has none."""
    found = getattr(nl, _NAMES.get(code, ""), None)
    if not isinstance(found, nl.DType):
        raise nl.errors.FrontendError(
            "ONNX",
            f"tensors of {type_name(code)} have no element type in Niello",
            received=type_name(code),
            advice="Cast them to another type in the model",
        )
    return found


def code_of(dtype: nl.DType) -> int:
    """The ONNX element type of a dtype. Raises FrontendError where ONNX has none."""
    name = "bool_" if dtype is nl.bool_ else dtype.name
    for code, known in _NAMES.items():
        if known == name:
            return code
    raise nl.errors.FrontendError("ONNX", "ONNX has no such element type", received=dtype.name)


def show(value: Value | None) -> str:
    """A value for an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, (Labels, Maps)):
        return f"{type(value).__name__.lower()} that exist when a run is over only"
    if isinstance(value, list):
        return f"a sequence of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name}{list(value.shape)}"
    return repr(value.type) if isinstance(value, nl.Tensor) else repr(value)
