"""TensorData: sharing memory with NumPy and DLPack."""

from __future__ import annotations

import copy
import gc
import pickle

import numpy as np
import pytest

from niello.core import dtypes
from niello.core.errors import DeviceError, DTypeError, FeedError, ShapeError
from niello.core.types import TensorType
from niello.runtime.device import HOST, HostDevice
from niello.runtime.tensor_data import TensorData

ALL = pytest.mark.parametrize("kind", dtypes.ALL, ids=lambda d: d.name)


def sample(kind, shape=(2, 3)):
    return np.arange(np.prod(shape)).reshape(shape).astype(kind.numpy)


@ALL
def test_numpy_round_trip_shares_memory(kind):
    array = sample(kind)
    value = TensorData.from_numpy(array)
    assert (value.dtype, value.shape, value.ndim, value.size) == (kind, (2, 3), 2, 6)
    assert value.nbytes == array.nbytes
    for view in (np.asarray(value), value.numpy(), np.array(value, copy=False)):
        assert view.dtype == kind.numpy and np.shares_memory(view, array)
        assert (view == array).all()


@ALL
def test_dlpack_round_trip_shares_memory(kind):
    array = sample(kind)
    value = TensorData.from_dlpack(TensorData.from_numpy(array))
    assert value.dtype is kind and value.shape == (2, 3)
    assert np.shares_memory(value.numpy(), array)


@ALL
def test_pickle_and_deepcopy(kind):
    value = TensorData.from_numpy(sample(kind))
    for twin in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value), value.copy()):
        assert twin.type == value.type
        assert (twin.numpy() == value.numpy()).all()
        assert not np.shares_memory(twin.numpy(), value.numpy())


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,) * 16])
def test_unusual_shapes(shape):
    array = np.zeros(shape, np.float32)
    value = TensorData.from_numpy(array)
    assert value.shape == shape and np.asarray(value).shape == shape
    assert TensorData.from_dlpack(value).shape == shape
    assert pickle.loads(pickle.dumps(value)).shape == shape


def test_result_outlives_its_tensor():
    value = TensorData(HOST.allocate(64), TensorType((16,), dtypes.float32))
    value.numpy()[...] = 3
    view, exported = np.asarray(value), np.from_dlpack(value)
    del value
    gc.collect()
    for _ in range(20):
        HOST.allocate(64).array(dtypes.float32, (16,))[...] = 0
    assert (view == 3).all() and (exported == 3).all()


def test_dropping_every_view_frees_the_memory():
    device = HostDevice("test")
    value = TensorData(device.allocate(64), TensorType((16,), dtypes.float32))
    view, exported = np.asarray(value), np.from_dlpack(value)
    del value, view
    assert device.memory_stats()["current"] == 64
    del exported
    assert device.memory_stats()["current"] == 0


def test_offset_into_a_buffer():
    device = HostDevice("test")
    buffer = device.allocate(64)
    buffer.array(dtypes.int32, (16,))[...] = np.arange(16)
    value = TensorData(buffer, TensorType((2, 2), dtypes.int32), offset=32)
    assert value.tolist() == [[8, 9], [10, 11]]
    assert np.asarray(value).tolist() == value.tolist()
    assert value.handle == buffer.handle + 32


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(12, dtype=np.float32)[::2],
        np.arange(4, dtype=">f4"),
        np.frombuffer(b"x" + np.arange(4, dtype=np.float32).tobytes(), np.uint8)[1:].view("f4"),
    ],
    ids=["transposed", "strided", "big endian", "misaligned"],
)
def test_arrays_that_need_a_copy(array):
    value = TensorData.from_numpy(array)
    assert (np.asarray(value) == array).all() and not np.shares_memory(value.numpy(), array)
    assert value.handle % 64 == 0
    with pytest.raises(FeedError, match="without a copy"):
        TensorData.from_numpy(array, copy=False)


def test_copy_argument_of_from_numpy():
    array = np.arange(3.0)
    assert np.shares_memory(TensorData.from_numpy(array, copy=False).numpy(), array)
    assert not np.shares_memory(TensorData.from_numpy(array, copy=True).numpy(), array)


def test_copy_argument_of_array():
    value = TensorData.from_numpy(np.arange(3.0))
    assert not np.shares_memory(np.array(value, copy=True), value.numpy())
    assert np.asarray(value, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.array(value, dtype=np.float32, copy=False)
    with pytest.raises(ValueError, match="copy"):
        value.__array__(np.dtype("f4"), copy=False)


def test_read_only_arrays_stay_read_only():
    array = np.arange(3.0)
    array.flags.writeable = False
    value = TensorData.from_numpy(array)
    assert np.shares_memory(value.numpy(), array)
    assert not np.asarray(value).flags.writeable and not value.numpy().flags.writeable


def test_results_are_writable():
    value = TensorData(HOST.allocate(16), TensorType((4,), dtypes.float32))
    np.asarray(value)[:] = 2
    assert value.tolist() == [2.0] * 4


def test_element_types_without_a_counterpart():
    with pytest.raises(DTypeError, match="M8"):
        TensorData.from_numpy(np.zeros(2, "datetime64[s]"))
    with pytest.raises(DTypeError):
        TensorData.from_numpy(np.array(["a"]))


def test_numbers():
    assert TensorData.from_numpy(np.float32(2.5)).item() == 2.5
    assert float(TensorData.from_numpy([[4]])) == 4.0
    assert int(TensorData.from_numpy([7])) == 7 and bool(TensorData.from_numpy([True]))
    assert len(TensorData.from_numpy([1, 2])) == 2
    with pytest.raises(ShapeError) as error:
        TensorData.from_numpy([1, 2]).item()
    assert error.value.received == TensorType((2,), dtypes.int64)
    with pytest.raises(TypeError):
        len(TensorData.from_numpy(np.float32(1)))


def test_repr_shows_type_device_and_values():
    text = repr(TensorData.from_numpy(np.arange(3, dtype=np.int32)))
    assert text == "TensorData(int32[3], device=host,\n[0 1 2])"
    assert "..." in repr(TensorData.from_numpy(np.zeros((1000, 1000), np.float32)))


class Elsewhere:
    """A tensor of a library whose memory is on a CUDA device."""

    def __dlpack_device__(self):
        return (2, 0)


def test_tensors_of_other_devices_are_refused():
    with pytest.raises(DeviceError, match="host memory") as error:
        TensorData.from_dlpack(Elsewhere())
    assert "2" in error.value.received


class Versioned:
    """Exports with DLPack version 1 capsules only."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **options):
        return self.array.__dlpack__(max_version=(1, 0))


@ALL
def test_versioned_capsules(kind):
    array = sample(kind)
    source = Versioned(TensorData.from_numpy(array))
    value = TensorData.from_dlpack(source)
    assert value.dtype is kind and np.shares_memory(value.numpy(), array)


def test_dlpack_memory_is_returned_to_its_owner():
    device = HostDevice("test")
    value = TensorData.from_dlpack(
        TensorData(device.allocate(64), TensorType((16,), dtypes.bfloat16))
    )
    assert device.memory_stats()["current"] == 64
    del value
    assert device.memory_stats()["current"] == 0


def test_torch():
    torch = pytest.importorskip("torch")
    value = TensorData.from_dlpack(torch.arange(6, dtype=torch.bfloat16).reshape(2, 3))
    assert value.dtype is dtypes.bfloat16 and value.tolist() == [[0, 1, 2], [3, 4, 5]]
    back = torch.from_dlpack(value)
    assert back.dtype is torch.bfloat16
    back[0, 0] = 9
    assert value.tolist()[0][0] == 9
