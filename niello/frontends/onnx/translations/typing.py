"""Element types: casts and reinterpretation of bits."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.values import (
    STRING,
    code_of,
    code_of_array,
    dtype_of,
    host_dtype,
    is_text,
    on_host,
)

# Named in the `to` attribute before opset 6, in the order of their codes.
_OLD = (
    *("FLOAT", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64"),
    *("STRING", "BOOL", "FLOAT16", "DOUBLE", "UINT32", "UINT64"),
)
_NAMES = {name: code for code, name in enumerate(_OLD, 1)}
FLOAT8 = (17, 18, 19, 20)
SCALES = 24  # float8_e8m0fnu: powers of two


@translates("Cast")
def cast(at: Call) -> Any:
    """Each element in another type."""
    code = _NAMES[at.text("to")] if at.version < 6 else at.integer("to")
    return converted(at, code)


@translates("CastLike")
def cast_like(at: Call) -> Any:
    """Each element in the type of another tensor."""
    like = at.value(1)
    code = code_of_array(like) if isinstance(like, np.ndarray) else code_of(at.dtype(1))
    return converted(at, code)


def converted(at: Call, code: int) -> Any:
    """Input 0 in an ONNX element type. Types that graphs lack are converted while importing."""
    value = at.value(0)
    host = host_dtype(code)
    if code == STRING or is_text(value):
        return _by_text(at.array(0), code)
    saturate = bool(at.integer("saturate", 1))
    if host is not None or on_host(value):
        return narrow(at.array(0), code, saturate, at.text("round_mode", "up"))
    x = at.tensor(0)
    kind = dtype_of(code)
    if x.dtype is kind:
        return value
    if x.dtype.is_float and kind.is_integer and kind.bits < 8:
        x = nl.cast(x, nl.int32)  # what does not fit loses its higher bits, as from integers
    return nl.cast(x, kind, saturate=saturate and code in FLOAT8)


def narrow(array: np.ndarray, code: int, saturate: bool = True, rounding: str = "up") -> np.ndarray:
    """An array in another type, one of the two being one that graphs lack."""
    host = host_dtype(code)
    target = dtype_of(code).numpy if host is None else host
    if code == SCALES:
        from onnx.numpy_helper import to_float8e8m0

        wide = array.astype(np.float32)
        return np.asarray(to_float8e8m0(wide, saturate, rounding)).astype(target)
    if code in FLOAT8 and saturate:
        import ml_dtypes

        limits = ml_dtypes.finfo(target)  # type: ignore[no-untyped-call]
        low, high = float(limits.min), float(limits.max)
        return np.clip(array.astype(np.float32), low, high).astype(target)
    return array.astype(target)


def _by_text(array: np.ndarray, code: int) -> np.ndarray:
    if code == STRING:
        made = np.empty(array.shape, object)
        made.reshape(-1)[:] = [_text(v) for v in array.reshape(-1)]
        return made
    dtype = dtype_of(code).numpy
    if dtype.kind in "iu":
        return np.array([int(float(v)) for v in array.reshape(-1)], dtype).reshape(array.shape)
    numbers = np.array([float(v) for v in array.reshape(-1)], np.float64)
    return numbers.astype(dtype).reshape(array.shape)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, np.integer):
        return str(int(value))
    number = np.float32(value)
    if np.isnan(number):
        return "NaN"
    return ("-INF" if number < 0 else "INF") if np.isinf(number) else f"{number:.8g}"


@translates("BitCast")
def bit_cast(at: Call) -> nl.Tensor:
    """The same bits as another type of the same width; truth values are bytes of 0 and 1."""
    x, kind = at.tensor(0), dtype_of(at.integer("to"))
    if x.dtype is nl.bool_:
        x = nl.cast(x, nl.uint8)
    if kind is nl.bool_:
        return nl.not_equal(nl.bitcast(x, nl.uint8), at.constant(np.uint8(0)))
    return nl.bitcast(x, kind)
