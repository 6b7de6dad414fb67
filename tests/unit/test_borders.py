"""Zero borders of convolutions on the CPU: which are put into memory, and that results stay."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.core.types import TensorType


def convolution(shape, kernel, *, device="cpu", layout="NHWC", **settings):
    """The result of a convolution with bias and ReLU, and the names of its kernels."""
    rng = np.random.default_rng(0)
    graph = nl.Graph()
    x = graph.placeholder(shape)
    weights = graph.constant(rng.standard_normal(kernel, dtype=np.float32))
    y = nl.conv2d(x, weights, data_layout=layout, weights_layout="HWIO", **settings)
    executable = graph.compile({x: TensorType(shape, nl.float32)}, [nl.relu(y)], device=device)
    data = rng.standard_normal(shape, dtype=np.float32)
    names = [k.name for k in executable.scheduled.program.kernels]
    return np.asarray(executable.run([data])[0]), names


@pytest.mark.parametrize(
    ("shape", "kernel", "settings", "count"),
    [
        ((1, 40, 40, 8), (3, 3, 8, 16), {"padding": 1}, 2),
        ((2, 33, 32, 5), (3, 5, 5, 4), {"padding": ((1, 0), (3, 1))}, 2),
        ((1, 40, 40, 8), (3, 3, 8, 16), {"padding": "same", "dilations": 2}, 2),
        ((1, 80, 80, 3), (7, 7, 3, 8), {"padding": 3, "strides": 2}, 2),
        ((1, 80, 80, 8), (3, 3, 8, 8), {"padding": 1, "strides": 2}, 1),
        ((1, 28, 28, 8), (3, 3, 8, 16), {"padding": 1}, 1),
        ((1, 40, 40, 8), (3, 3, 8, 16), {}, 1),
        ((1, 40, 40, 8), (3, 3, 4, 16), {"padding": 1, "groups": 2}, 1),
    ],
)
def test_long_lines_have_their_border_in_memory(shape, kernel, settings, count) -> None:
    found, names = convolution(shape, kernel, **settings)
    assert len(names) == count, names
    wanted, _ = convolution(shape, kernel, device="numpy", **settings)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_other_devices_read_through_the_border() -> None:
    graph = nl.Graph()
    x = graph.placeholder((1, 40, 40, 8))
    weights = graph.constant(np.ones((3, 3, 8, 16), np.float32))
    y = nl.conv2d(x, weights, padding=1, data_layout="NHWC", weights_layout="HWIO")
    executable = graph.compile({x: TensorType(x.shape, nl.float32)}, [y], device="null")
    assert not any(k.name.startswith("pad") for k in executable.scheduled.program.kernels)


def test_a_border_of_the_users_own_is_put_into_memory_too() -> None:
    graph = nl.Graph()
    x = graph.placeholder((1, 40, 40, 8))
    weights = graph.constant(np.ones((3, 3, 8, 16), np.float32))
    padded = nl.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    y = nl.conv2d(padded, weights, data_layout="NHWC", weights_layout="HWIO")
    executable = graph.compile({x: TensorType(x.shape, nl.float32)}, [y], device="cpu")
    assert len(executable.scheduled.program.kernels) == 2
    data = np.random.default_rng(1).standard_normal(x.shape, dtype=np.float32)
    around = np.pad(data, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(1, 2))
    wanted = windows.sum(axis=(3, 4, 5))[..., None] * np.ones(16, np.float32)
    np.testing.assert_allclose(np.asarray(executable.run([data])[0]), wanted, rtol=1e-4, atol=1e-4)
