"""Weights of neural-network layers: full and half floats, 8-bit integers, quantized bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import niello as nl


def refuse(problem: str, received: Any = None) -> nl.errors.NielloError:
    """The error about weights that do not fit, to be raised."""
    return nl.errors.FrontendError(
        "Core ML weights", problem, received=received, advice="The file is damaged"
    )


def is_given(params: Any) -> bool:
    """Whether the message holds any weights."""
    return bool(
        len(params.floatValue) or params.float16Value or params.rawValue or params.int8RawValue
    )


def unpacked(raw: bytes, bits: int, count: int) -> np.ndarray:
    """`count` unsigned integers of 1 to 8 bits, packed with the highest bit first."""
    if not 1 <= bits <= 8:
        raise refuse("numbers have 1 to 8 bits", f"{bits} bits")
    if len(raw) * 8 < bits * count:
        raise refuse(f"{count} numbers of {bits} bits need more bytes", f"{len(raw)} bytes")
    if bits == 8:
        return np.frombuffer(raw, np.uint8, count)
    single = np.unpackbits(np.frombuffer(raw, np.uint8), count=bits * count).reshape(count, bits)
    return single @ (1 << np.arange(bits - 1, -1, -1)).astype(np.uint8)


def weights(params: Any, shape: Sequence[int]) -> np.ndarray:
    """The weights of a WeightParams message as float32 of that shape.

    Quantized weights have one scale (and offset) for all, or one for each element of the first
    axis. Raises FrontendError for a number of elements that does not fit.
    """
    shape = tuple(int(d) for d in shape)
    count = int(np.prod(shape, dtype=np.int64))
    if len(params.floatValue):
        found = np.array(params.floatValue, np.float32)
    elif params.float16Value:
        found = np.frombuffer(params.float16Value, np.float16).astype(np.float32)
    elif params.int8RawValue:
        raw = np.frombuffer(params.int8RawValue, np.int8).astype(np.float32)
        found = _scaled(raw, params.quantization, shape, count)
    elif params.rawValue:
        bits = int(params.quantization.numberOfBits)
        raw = unpacked(params.rawValue, bits, count)
        if params.quantization.WhichOneof("QuantizationType") == "lookUpTableQuantization" or len(
            params.quantization.lookupTableQuantization.floatValue
        ):
            table = np.array(params.quantization.lookupTableQuantization.floatValue, np.float32)
            if raw.size and int(raw.max()) >= table.size:
                raise refuse("a number is beyond the lookup table", f"{table.size} entries")
            found = table[raw]
        else:
            found = _scaled(raw.astype(np.float32), params.quantization, shape, count)
    else:
        found = np.zeros(0, np.float32)
    if found.size != count:
        raise refuse(f"{list(shape)} needs {count} numbers", f"{found.size}")
    return found.reshape(shape)


def flat_weights(params: Any) -> np.ndarray:
    """The weights of a message without a shape, in one line: as many as it holds.

    Those with one scale for each row need their shape, and cannot be read so.
    """
    if params.int8RawValue:
        count = len(params.int8RawValue)
    elif params.rawValue:
        count = len(params.rawValue) * 8 // max(1, int(params.quantization.numberOfBits))
    else:
        count = len(params.floatValue) or len(params.float16Value) // 2
    return weights(params, (count,))


def _scaled(raw: np.ndarray, quantization: Any, shape: Sequence[int], count: int) -> np.ndarray:
    """raw * scale + bias."""
    if raw.size != count:
        raise refuse(f"{list(shape)} needs {count} numbers", f"{raw.size}")
    linear = quantization.linearQuantization
    scale = np.array(linear.scale, np.float32)
    bias = np.array(linear.bias, np.float32)
    for part in (scale, bias):
        if part.size > 1 and (not shape or count % part.size or shape[0] != part.size):
            raise refuse(f"one scale for each of {shape[:1]} rows is needed", f"{part.size}")
    rows = raw.reshape(max(1, scale.size, bias.size), -1)
    if scale.size:
        rows = rows * scale.reshape(-1, 1)
    return rows + bias.reshape(-1, 1) if bias.size else rows
