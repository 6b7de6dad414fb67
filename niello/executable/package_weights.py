"""Tensors of a package: safetensors files whose tensors begin at multiples of 64 bytes.

Between tensors lie named bytes (`padding.N`), because the format allows no holes: every reader of
safetensors reads these files. Tensors are read from memory-mapped pages, which processes share.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from niello.core.dtypes import BY_NAME, DType, dtype
from niello.executable.package_store import ALIGNMENT, Bytes, Place, Store, refuse
from niello.graph.tensor import aligned_copy

# Niello's names of element types in safetensors files.
CODES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
_NAMES = {code: name for name, code in CODES.items() if name in BY_NAME}
# Types that the format lacks are bytes there, several of them along a further axis, and its
# metadata tells their names.
OTHERS = ("int4", "uint4", "complex32", "complex128")
_MOST_HEADER = 100 << 20  # bytes; the limit of the format
_PADDING = "padding."


def file_of(arrays: Mapping[str, np.ndarray]) -> Callable[[], Iterator[Bytes]]:
    """What a safetensors file of these arrays consists of, in pieces."""
    entries: dict[str, Any] = {}
    named: dict[str, str] = {}
    order: list[np.ndarray | int] = []
    at = 0
    for name, array in arrays.items():
        if at % ALIGNMENT:
            gap = -at % ALIGNMENT
            entries[f"{_PADDING}{len(order)}"] = _entry("U8", (gap,), at, gap)
            order.append(gap)
            at += gap
        kind, shape = dtype(array.dtype), array.shape
        if kind.name in OTHERS:
            named[name] = kind.name
            shape = (*shape, *_bytes_axis(kind))
        code = CODES.get(kind.name, "U8")
        entries[name] = _entry(code, shape, at, array.nbytes)
        order.append(array)
        at += array.nbytes
    if named:
        entries["__metadata__"] = named
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    head = struct.pack("<Q", len(text)) + text

    def pieces() -> Iterator[Bytes]:
        yield head
        for item in order:
            if isinstance(item, int):
                yield bytes(item)
            elif item.nbytes:
                yield np.ascontiguousarray(item).reshape(-1).view(np.uint8).data

    return pieces


def _entry(code: str, shape: Iterable[int], start: int, size: int) -> dict[str, Any]:
    return {"dtype": code, "shape": list(shape), "data_offsets": [start, start + size]}


@dataclass(frozen=True)
class Entry:
    """One tensor: its type, and where its bytes begin in the mapped file."""

    dtype: DType
    shape: tuple[int, ...]
    offset: int


class TensorFile:
    """The tensors of one member, mapped when the first is asked for."""

    def __init__(self, store: Store, member: str) -> None:
        self._path = store.path
        self._place = store.place(member)
        self.entries = _entries(store, member)
        self._shared: mmap.mmap | None = None
        self._private: mmap.mmap | None = None

    def shared(self, name: str) -> np.ndarray:
        """A tensor in pages that all processes share; read only."""
        if self._shared is None:
            self._shared = _map(self._place, mmap.ACCESS_READ)
        return self._view(self._shared, name)

    def private(self, name: str) -> np.ndarray:
        """A tensor that may be written: pages are shared until then, and the file never changes."""
        if self._private is None:
            self._private = _map(self._place, mmap.ACCESS_COPY)
        return self._view(self._private, name)

    def purge(self) -> None:
        """Let the system take back the pages of shared tensors; the next use reads them again."""
        if self._shared is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._shared.madvise(mmap.MADV_DONTNEED)

    def _view(self, mapped: mmap.mmap, name: str) -> np.ndarray:
        entry = self.entries[name]
        count = prod(entry.shape)
        if not count:
            return np.empty(entry.shape, entry.dtype.numpy)
        size = count * entry.dtype.itemsize
        raw = np.frombuffer(mapped, np.uint8, size, entry.offset)
        if raw.ctypes.data % ALIGNMENT:  # another program put the package together
            raw = aligned_copy(raw)
        return raw.view(entry.dtype.numpy).reshape(entry.shape)


def _map(place: Place, access: int) -> mmap.mmap:
    return mmap.mmap(place.file, place.offset + place.size, access=access)


def _entries(store: Store, member: str) -> dict[str, Entry]:
    """The header of a file, every number of it checked."""
    place = store.place(member)
    try:
        head = next(store.pieces(member, 1 << 20), b"")
        (length,) = struct.unpack_from("<Q", head)
        if length > min(_MOST_HEADER, place.size - 8):
            raise ValueError(f"its header has {length} bytes")
        while len(head) < 8 + length:
            head = b"".join(_first(store.pieces(member), 8 + length))
        header = json.loads(head[8 : 8 + length])
        named = dict(header.pop("__metadata__", None) or {})
        found, end = {}, 0
        for name, record in header.items():
            start, stop = record["data_offsets"]
            code, shape = record["dtype"], tuple(record["shape"])
            if not all(type(n) is int and 0 <= n < 1 << 62 for n in (start, stop, *shape)):
                raise ValueError(f"{name} has no sensible sizes")
            kind = BY_NAME[_NAMES[code]]
            if code == "U8" and named.get(name) in OTHERS:
                kind = BY_NAME[named[name]]
                axis = _bytes_axis(kind)
                if shape[len(shape) - len(axis) :] != axis:
                    raise ValueError(f"{name} does not hold {kind.name}")
                shape = shape[: len(shape) - len(axis)]
            if start != end or stop - start != prod(shape) * kind.itemsize or len(shape) > 16:
                raise ValueError(f"the bytes of {name} do not fit its type")
            end = stop
            if not name.startswith(_PADDING):
                found[name] = Entry(kind, shape, place.offset + 8 + length + start)
        if 8 + length + end != place.size:
            raise ValueError(f"it describes {8 + length + end} of {place.size} bytes")
        return found
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise refuse(
            store.path, f"the weights {member} are damaged: {type(error).__name__}: {error}"
        ) from error


def _bytes_axis(kind: DType) -> tuple[int, ...]:
    """The axis of the bytes of one element, where it has several."""
    return (kind.itemsize,) if kind.itemsize > 1 else ()


def _first(pieces: Iterable[bytes], wanted: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        wanted -= len(piece)
        if wanted <= 0:
            return
