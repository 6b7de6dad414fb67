"""DLPack on a CUDA device: memory shared with PyTorch, JAX, CuPy and others without copies.

Streams: whoever takes a tensor names the stream on which it will use it, and whoever gives it makes
that stream wait for what writes the tensor. Memory that goes back is used again only after the
other side's work on it (device.py keeps account).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from niello.core import dtypes
from niello.core.dtypes import DType
from niello.core.errors import DTypeError, FeedError
from niello.core.types import TensorType

CUDA = 2
CUDA_MANAGED = 13

_CODES = {"int": 0, "uint": 1, "float": 2, "complex": 5, "bool": 6}
_BFLOAT = 4


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Managed._fields_ = [
    ("tensor", _Tensor),
    ("context", ctypes.c_void_p),
    ("deleter", _Deleter),
]

# Function objects of our own: argument types are a property of the object. The destructor gets the
# capsule as an address, because it has no references left that Python could count.
_new = ctypes.pythonapi["PyCapsule_New"]
_new.restype = ctypes.py_object
_new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_name = ctypes.pythonapi["PyCapsule_GetName"]
_name.restype = ctypes.c_char_p
_name.argtypes = [ctypes.py_object]
_pointer = ctypes.pythonapi["PyCapsule_GetPointer"]
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_dead_is_valid = ctypes.pythonapi["PyCapsule_IsValid"]
_dead_is_valid.restype = ctypes.c_int
_dead_is_valid.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_dead_pointer = ctypes.pythonapi["PyCapsule_GetPointer"]
_dead_pointer.restype = ctypes.c_void_p
_dead_pointer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]

_PLAIN = b"dltensor"
# The tensor follows version, context, deleter and flags in capsules from version 1 on.
_OFFSETS = {_PLAIN: 0, b"dltensor_versioned": 32}

# What was exported and not yet deleted, by the address of its managed tensor.
_exported: dict[int, tuple[Any, ...]] = {}


def _delete(address: int) -> None:
    entry = _exported.pop(address, None)
    if entry is not None:
        entry[-1]()


def _destroy(capsule: int) -> None:
    # A consumer renames the capsule and deletes the tensor itself.
    if _dead_is_valid(capsule, _PLAIN):
        _delete(_dead_pointer(capsule, _PLAIN))


_deleter = _Deleter(_delete)
_destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_destroy)
_destructor_address = ctypes.cast(_destructor, ctypes.c_void_p).value


def type_code(dtype: DType) -> tuple[int, int]:
    """DLPack's (code, bits) of an element type."""
    if dtype is dtypes.bfloat16:
        return _BFLOAT, 16
    return _CODES[dtype.kind], 8 if dtype is dtypes.bool_ else dtype.bits


_BY_CODE = {type_code(d): d for d in dtypes.ALL}


def export(address: int, type: TensorType, device: int, release: Callable[[], None]) -> Any:
    """A capsule over device memory. `release` is called once, when its last user is done."""
    managed = _Managed()
    rank = len(type.static_shape)
    shape = (ctypes.c_int64 * max(rank, 1))(*type.static_shape)
    strides = (ctypes.c_int64 * max(rank, 1))(*_row_major(type.static_shape))
    code, bits = type_code(type.dtype)
    managed.tensor = _Tensor(address, CUDA, device, rank, code, bits, 1, shape, strides, 0)
    managed.context = None
    managed.deleter = _deleter
    where = ctypes.addressof(managed)
    _exported[where] = (managed, shape, strides, release)
    return _new(where, _PLAIN, _destructor_address)


def read(capsule: Any) -> tuple[int, TensorType]:
    """Address and type of a tensor in an unused capsule.

    Raises DTypeError, and FeedError for elements that do not lie in row-major order.
    """
    asked = "DLPack import"
    name = _name(capsule)
    if name not in _OFFSETS:
        raise FeedError(asked, "this is not an unused DLPack capsule", received=name)
    tensor = _Tensor.from_address(_pointer(capsule, name) + _OFFSETS[name])
    dtype = _BY_CODE.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is None:
        raise DTypeError(
            asked,
            "Niello has no such element type",
            received=f"DLPack type code {tensor.code}, {tensor.bits} bits",
            advice=f"It has {', '.join(d.name for d in dtypes.ALL)}",
        )
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if tensor.strides:
        strides = tuple(tensor.strides[i] for i in range(tensor.ndim))
        expected = _row_major(shape)
        if 0 not in shape and any(
            s != e for s, e, d in zip(strides, expected, shape, strict=True) if d > 1
        ):
            raise FeedError(
                asked,
                "the elements must lie in row-major order",
                received=f"shape {shape}, strides {strides}",
                advice="Make the tensor contiguous first",
            )
    return (tensor.data or 0) + tensor.byte_offset, TensorType(shape, dtype)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
