"""TensorData: the value of a tensor, on a device.

It shares memory with NumPy and with every library that speaks DLPack, without copies where the
layout allows it: C-contiguous, native byte order, aligned to the element size.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from niello.core.dtypes import BY_NAME, DType, bfloat16, complex32, dtype
from niello.core.errors import DeviceError, DTypeError, FeedError, ShapeError
from niello.core.types import TensorType
from niello.runtime.buffer import Buffer
from niello.runtime.device import HOST, opened

_DLPACK_CPU = 1
_DLPACK_HOST_KINDS = (1, 3, 11)  # cpu, CUDA pinned host memory, ROCm pinned host memory
_DLPACK_UINT = 1
# Types that NumPy's own DLPack lacks, and their type codes.
_DLPACK_CODES = {bfloat16: 4, complex32: 5}


class TensorData:
    """The value of a tensor: a shape and element type over a device's buffer.

    NumPy (`np.asarray(value)`), DLPack (`torch.from_dlpack(value)`) and `value.numpy()` see the
    same memory and keep it alive.

    Example:
        >>> import numpy as np
        >>> import niello as nl
        >>> value = nl.TensorData.from_numpy(np.arange(3.0, dtype=np.float32))
        >>> np.asarray(value) + 1
        array([1., 2., 3.], dtype=float32)
    """

    __slots__ = ("__weakref__", "buffer", "offset", "type")

    def __init__(self, buffer: Buffer, type: TensorType, offset: int = 0) -> None:
        self.buffer = buffer
        self.type = type
        self.offset = offset

    # --- making ------------------------------------------------------------------

    @classmethod
    def from_numpy(cls, array: Any, device: Any = None, *, copy: bool | None = None) -> TensorData:
        """A value with the contents of an array (or anything NumPy makes one of).

        `copy`: None shares memory where the layout allows it and copies otherwise, True always
        copies, False raises FeedError instead of copying. `device` is an opened device with host
        memory; None is `HOST`, plain host memory, which every such device takes. Raises
        DTypeError for element types Niello does not have.
        """
        target = _host_device(device)
        source = np.asarray(array)
        kind = dtype(source.dtype)
        sharable = source.flags.c_contiguous and source.flags.aligned and source.dtype.isnative
        if copy is False and not sharable:
            raise FeedError(
                "TensorData.from_numpy",
                "the array cannot be shared without a copy: it must be C-contiguous, aligned, "
                "and in native byte order",
                received=f"shape {source.shape}, strides {source.strides}, {source.dtype.str}",
                advice="Use copy=None, or numpy.ascontiguousarray",
            )
        type = TensorType(source.shape, kind)
        if sharable and not copy:
            return cls(target.adopt(source), type)
        value = cls(target.allocate(type.bytes), type)
        value.numpy()[...] = source
        return value

    @classmethod
    def from_dlpack(cls, tensor: Any, device: Any = None) -> TensorData:
        """A value that shares the memory of another library's tensor (copied if strided).

        Raises DeviceError for tensors that are not in host memory.
        """
        kind = tensor.__dlpack_device__()[0]
        if kind not in _DLPACK_HOST_KINDS:
            raise DeviceError(
                "TensorData.from_dlpack",
                "the tensor is not in host memory",
                received=f"DLPack device type {int(kind)}",
                advice="Copy it to the host first",
            )
        capsule = tensor.__dlpack__()
        odd = [d for d, code in _DLPACK_CODES.items() if _retyped(capsule, d, code)]
        if odd:
            array = np.from_dlpack(_Exported(capsule)).view(odd[0].numpy)
        else:
            array = np.from_dlpack(_Exported(capsule))
        return cls.from_numpy(array, device)

    # --- what it is --------------------------------------------------------------

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.type.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return self.type.static_shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.type.static_shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.type.elements

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.type.bytes

    @property
    def device(self) -> Any:
        """The device that holds it."""
        return self.buffer.device

    @property
    def handle(self) -> Any:
        """What a compiled program takes for it: the address, on devices with host memory."""
        return self.buffer.handle + self.offset if self.offset else self.buffer.handle

    # --- what it holds -----------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """The value for NumPy: a view that keeps the memory alive, or, from a device whose memory
        the host cannot see, a copy."""
        if self.device.host_memory:
            return self.buffer.array(self.type.dtype, self.type.static_shape, self.offset)
        array = np.empty(self.type.static_shape, self.type.dtype.numpy)
        self.device.download(self.buffer, self.offset, array)
        return array

    def to(self, device: Any) -> TensorData:
        """The same value on another device, named or opened; itself when it is there already.

        Devices with host memory share it. Raises BackendUnavailable and OutOfMemory.
        """
        device = opened(device)
        if device is self.device or (device.host_memory and self.device.host_memory):
            return self
        return on_device(self.numpy(), device)

    def item(self) -> Any:
        """The only element, as a Python number. Raises ShapeError for any other size."""
        if self.size != 1:
            raise ShapeError(
                "TensorData.item", "only one element can become a number", received=self.type
            )
        return self.numpy().item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        return self.numpy().tolist()

    def copy(self) -> TensorData:
        """The same value in memory of its own, on the same device."""
        if not self.device.host_memory:
            return on_device(self.numpy(), self.device)
        return TensorData.from_numpy(self.numpy(), self.device, copy=True)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        view = self.numpy()
        wanted = view.dtype if dtype is None else np.dtype(dtype)
        if wanted != view.dtype:
            if copy is False:
                raise ValueError(
                    f"TensorData: {view.dtype} cannot become {wanted} without a copy; "
                    "received copy=False."
                )
            return view.astype(wanted)
        return view.copy() if copy else view

    @property
    def __array_interface__(self) -> dict[str, Any]:
        if self.type.dtype.plain_numpy != self.type.dtype.numpy:
            raise AttributeError(
                f"the array interface has no {self.type.dtype.name}: use __array__ or DLPack"
            )
        if not self.device.host_memory:
            raise AttributeError("the memory of this device is not visible to the host")
        return {
            "version": 3,
            "typestr": self.type.dtype.numpy.str,
            "shape": self.type.static_shape,
            "data": (self.handle, not self.buffer.writable),
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        if not self.device.host_memory:
            return self.device.dlpack_device()  # type: ignore[no-any-return]
        return (_DLPACK_CPU, 0)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if not self.device.host_memory:
            return self.device.export_dlpack(
                self, stream=stream, max_version=max_version, copy=copy
            )
        view = self.numpy()
        options = {"max_version": max_version, "dl_device": dl_device, "copy": copy}
        given: dict[str, Any] = {
            name: value for name, value in options.items() if value is not None
        }
        dtype = self.type.dtype
        if dtype not in _DLPACK_CODES:
            return view.__dlpack__(stream=stream, **given)
        capsule = view.view(dtype.plain_numpy).__dlpack__(stream=stream, **given)
        _retype(capsule, (_DLPACK_UINT, dtype.bits), (_DLPACK_CODES[dtype], dtype.bits))
        return capsule

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("TensorData: a value without dimensions has no length; received ().")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __repr__(self) -> str:
        head = f"TensorData({self.type}, device={self.device.name}"
        return f"{head},\n{np.array2string(self.numpy(), threshold=100, edgeitems=3)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Devices and addresses mean nothing to another process: the value travels as an array.
        # The item bytes go as integers, because not every reader of a pickle knows bfloat16.
        data = np.ascontiguousarray(self.numpy())
        return (_rebuild, (self.dtype.name, self.shape, data.tobytes()))


def _rebuild(name: str, shape: tuple[int, ...], data: bytes) -> TensorData:
    array = np.frombuffer(data, BY_NAME[name].numpy).reshape(shape)
    return TensorData.from_numpy(array, copy=True)


def on_device(array: np.ndarray, device: Any) -> TensorData:
    """A copy of an array in the memory of a device."""
    type = TensorType(array.shape, dtype(array.dtype))
    value = TensorData(device.allocate(max(type.bytes, 1)), type)
    device.upload(value.buffer, 0, np.ascontiguousarray(array))
    return value


def _host_device(device: Any) -> Any:
    if device is None:
        return HOST
    if not device.host_memory:
        raise DeviceError(
            "TensorData",
            "the device does not hold host memory",
            received=device.name,
            advice="Make the value on the cpu device and copy it",
        )
    return device


# --- DLPack ------------------------------------------------------------------------


class _Exported:
    """A tensor that was exported already, as the consumer's side of the protocol wants it."""

    __slots__ = ("_capsule",)

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_DLPACK_CPU, 0)

    def __dlpack__(self, **options: Any) -> Any:
        return self._capsule


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    ]


# From version 1 on the tensor follows version, context, deleter and flags.
_DLPACK_OFFSETS = {b"dltensor": 0, b"dltensor_versioned": 32}

_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype = ctypes.c_char_p
_capsule_name.argtypes = [ctypes.py_object]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _retyped(capsule: Any, dtype: DType, code: int) -> bool:
    """Let a capsule of `dtype` say that it holds integers. False for a capsule of another."""
    return _retype(capsule, (code, dtype.bits), (_DLPACK_UINT, dtype.bits))


def _retype(capsule: Any, old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Changes the element type of an exported tensor if it is `old`; (code, bits) as in DLPack.

    NumPy has no bfloat16 in DLPack: it exports and imports the bits as integers instead.
    """
    name = _capsule_name(capsule)
    if name not in _DLPACK_OFFSETS:
        raise DTypeError(
            "TensorData.from_dlpack", "this is not an unused DLPack capsule", received=name
        )
    address = _capsule_pointer(capsule, name) + _DLPACK_OFFSETS[name]
    tensor = _DLTensor.from_address(address)
    if (tensor.code, tensor.bits) != old:
        return False
    tensor.code, tensor.bits = new
    return True
