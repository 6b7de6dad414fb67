"""Blobs: the weight files of ML programs, and the values written in the program itself.

A weight file holds records of 64 bytes with a type, a size and an offset, and the arrays behind
them; elements below eight bits are packed with the lowest bits first.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import niello as nl

SENTINEL = 0xDEADBEEF
_RECORD = struct.Struct("<IIQQQ")

# MIL's DataType: NumPy's dtype, and the bits of an element where they are fewer than eight.
_DTYPES: dict[str, tuple[Any, int]] = {
    "BOOL": (np.bool_, 0), "FLOAT16": (np.float16, 0), "FLOAT32": (np.float32, 0),
    "FLOAT64": (np.float64, 0), "BFLOAT16": (ml_dtypes.bfloat16, 0), "INT8": (np.int8, 0),
    "INT16": (np.int16, 0), "INT32": (np.int32, 0), "INT64": (np.int64, 0), "INT4": (np.int8, 4),
    "UINT8": (np.uint8, 0), "UINT16": (np.uint16, 0), "UINT32": (np.uint32, 0),
    "UINT64": (np.uint64, 0), "UINT6": (np.uint8, 6), "UINT4": (np.uint8, 4),
    "UINT3": (np.uint8, 3), "UINT2": (np.uint8, 2), "UINT1": (np.uint8, 1),
    "FLOAT8E4M3FN": (ml_dtypes.float8_e4m3fn, 0), "FLOAT8E5M2": (ml_dtypes.float8_e5m2, 0),
}  # fmt: skip
# The types of records in weight files.
_RECORDS = {
    1: "FLOAT16", 2: "FLOAT32", 3: "UINT8", 4: "INT8", 5: "BFLOAT16", 6: "INT16", 7: "UINT16",
    8: "INT4", 9: "UINT1", 10: "UINT2", 11: "UINT4", 12: "UINT3", 13: "UINT6", 14: "INT32",
    15: "UINT32", 16: "FLOAT8E4M3FN", 17: "FLOAT8E5M2",
}  # fmt: skip
PREFIX = "@model_path/"


def type_name(message: Any) -> str:
    """The element type of a TensorType message: FLOAT32, STRING, ..."""
    return str(message.DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number[
        message.dataType
    ].name)  # fmt: skip


def dims(message: Any) -> tuple[int | None, ...]:
    """The sizes of a TensorType message; unknown ones are None."""
    return tuple(
        int(d.constant.size) if d.WhichOneof("dimension") == "constant" else None
        for d in message.dimensions
    )


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype that holds elements of a MIL type. Raises FrontendError."""
    if name not in _DTYPES:
        raise nl.errors.FrontendError(
            "Core ML program", "arrays of this type cannot be held", received=name
        )
    return np.dtype(_DTYPES[name][0])


def unpack(raw: bytes | memoryview, name: str, count: int) -> np.ndarray:
    """`count` elements of a MIL type. Raises FrontendError where there are too few bytes."""
    dtype, bits = numpy_dtype(name), _DTYPES[name][1]
    needed = -(-count * bits // 8) if bits else count * dtype.itemsize
    if len(raw) < needed:
        raise nl.errors.FrontendError(
            "Core ML weights",
            f"{count} elements of {name} take {needed} bytes",
            received=f"{len(raw)} bytes",
            advice="The file is damaged",
        )
    if not bits:
        return np.frombuffer(raw, dtype, count)
    single = np.unpackbits(np.frombuffer(raw, np.uint8, needed), bitorder="little")
    parts = single[: count * bits].reshape(count, bits)
    found = (parts << np.arange(bits, dtype=np.uint8)).sum(axis=1).astype(np.uint8)
    if name == "INT4":
        return (((found ^ 8).astype(np.int16)) - 8).astype(np.int8)
    return found


class Blobs:
    """The weight files beside a program, mapped into memory when they are first needed."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self.folder = folder
        self.name = name
        self._files: dict[str, memoryview] = {}

    def _refuse(self, problem: str, received: Any, advice: str) -> nl.errors.NielloError:
        return nl.errors.FrontendError(
            f"Core ML model {self.name}", problem, received=received, advice=advice
        )

    def _file(self, name: str) -> memoryview:
        if name in self._files:
            return self._files[name]
        if self.folder is None:
            raise self._refuse(
                "its weights are in a file beside it", name, "Load the whole .mlpackage folder"
            )
        path = (self.folder / name.removeprefix(PREFIX)).resolve()
        if self.folder.resolve() not in path.parents:
            raise self._refuse("names a weight file outside of its folder", name, "Do not trust it")
        if not path.is_file() or path.stat().st_size < 64:
            raise self._refuse("its weight file is missing or cut", name, "Copy the whole folder")
        with path.open("rb") as f:
            self._files[name] = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
        return self._files[name]

    def array(self, file: str, offset: int, wanted: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array whose record is at `offset`. Raises FrontendError for damaged files."""
        raw = self._file(file)
        where = f"{file} at {offset}"
        if offset + 64 > len(raw):
            raise self._refuse("a weight lies behind the end of its file", where, "Copy it again")
        sentinel, kind, size, start, _ = _RECORD.unpack_from(raw, offset)
        if sentinel != SENTINEL:
            raise self._refuse("there is no weight where the program says", where, "Copy it again")
        if start + size > len(raw):
            raise self._refuse("a weight is longer than its file", where, "Copy it again")
        held = _RECORDS.get(kind, f"type {kind}")
        if held != wanted and not {held, wanted} <= {"UINT8", "BOOL"}:
            raise self._refuse(f"a weight is of {wanted}", f"{held} in {where}", "Copy it again")
        count = int(np.prod(shape, dtype=np.int64))
        return unpack(raw[start : start + size], wanted, count).reshape(shape)


def value_of(message: Any, blobs: Blobs) -> Any:
    """A Value: an array, text, a list (tuple) of those, or a dictionary."""
    which = message.WhichOneof("value")
    if which == "blobFileValue":
        kind = message.type.tensorType
        b = message.blobFileValue
        return blobs.array(b.fileName, int(b.offset), type_name(kind), _static(kind))
    immediate = message.immediateValue
    inner = immediate.WhichOneof("value")
    if inner == "list":
        return tuple(value_of(v, blobs) for v in immediate.list.values)
    if inner == "tuple":
        return tuple(value_of(v, blobs) for v in immediate.tuple.values)
    if inner == "dictionary":
        pairs = immediate.dictionary.values
        return {_key(value_of(p.key, blobs)): value_of(p.value, blobs) for p in pairs}
    return _tensor_value(message.type.tensorType, immediate.tensor)


def _key(value: Any) -> Any:
    return value if isinstance(value, str) else int(value)


def _static(kind: Any) -> tuple[int, ...]:
    found = dims(kind)
    if None in found:
        raise nl.errors.FrontendError(
            "Core ML program", "a constant has open sizes", received=list(found)
        )
    return tuple(d for d in found if d is not None)


def _tensor_value(kind: Any, tensor: Any) -> Any:
    shape, name = _static(kind), type_name(kind)
    which = tensor.WhichOneof("value")
    if name == "STRING":
        texts = list(tensor.strings.values)
        return texts[0] if not shape and texts else tuple(texts)
    count = int(np.prod(shape, dtype=np.int64))
    dtype = numpy_dtype(name)
    if which == "bytes":
        return unpack(tensor.bytes.values, name, count).reshape(shape)
    values = list(getattr(tensor, which).values) if which else []
    if len(values) != count and not (len(values) == 0 and count <= 1):
        raise nl.errors.FrontendError(
            "Core ML program",
            f"a constant of shape {list(shape)} needs {count} elements",
            received=len(values),
            advice="The file is damaged",
        )
    # A scalar zero may be written as no element at all.
    found = np.array(values or [0] * count)
    return found.astype(dtype).reshape(shape)
