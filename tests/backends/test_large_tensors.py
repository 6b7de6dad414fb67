"""Tensors of more than 2**31 elements, each value known, on devices that can hold them.

`tests/schedule/test_large_tensors.py` finds the same offsets by arithmetic, on any machine.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import niello as nl
from niello import backends
from niello.core.dtypes import dtype
from niello.core.errors import BackendUnavailable
from niello.core.types import TensorType

pytestmark = pytest.mark.slow

ROWS, COLUMNS = 2**16, 2**15 + 1
TYPE = TensorType((ROWS, COLUMNS), nl.uint8)
PERIOD = 251
# The first and the last element, and those around 2**31.
PLACES = ((0, 0), (ROWS // 2, 77), (ROWS - 3, 5), (ROWS - 2, COLUMNS - 1), (ROWS - 1, COLUMNS - 1))
GIGABYTE = 10**9


def expected(row: np.ndarray | int, column: np.ndarray | int) -> np.ndarray:
    return (np.asarray(row, np.int64) * 7 + np.asarray(column, np.int64) * 11) % PERIOD


def room(name: str) -> int:
    """Bytes that a device can still take; skips where there is no such device."""
    try:
        device = backends.device(name)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    if name == "cuda":
        return int(device.driver.total_memory())  # type: ignore[attr-defined]
    known = Path("/proc/meminfo")
    lines = known.read_text().splitlines() if known.exists() else []
    free = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")]
    return free[0] if free else 0


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    name, needed = request.param, 12 * GIGABYTE
    if room(name) < needed:
        pytest.skip(f"{name} has less than {needed} bytes free")
    yield name
    gc.collect()
    nl.release_memory(name)


@pytest.fixture
def gpu() -> Iterator[str]:
    if room("cuda") < 60 * GIGABYTE:
        pytest.skip("needs a GPU with 60 GB")
    yield "cuda"
    gc.collect()
    nl.release_memory("cuda")


def pattern(device: str) -> nl.TensorData:
    """A matrix of `expected`, made on the device."""
    graph = nl.Graph()
    row, column = (nl.coordinate(TYPE.shape, axis, dtype=nl.int32, graph=graph) for axis in (0, 1))
    made = ((row * 7 + column * 11) % PERIOD).cast(nl.uint8)
    return graph.compile({}, [made], device=device).run([])[0]


def apply(
    device: str, f: Callable[..., nl.Tensor | list[nl.Tensor]], *given: nl.TensorData | np.ndarray
) -> list[nl.TensorData]:
    graph = nl.Graph()
    types = [TensorType(x.shape, dtype(x.dtype)) for x in given]
    inputs = [graph.placeholder(t.shape, t.dtype) for t in types]
    made = f(*inputs)
    targets = made if isinstance(made, list) else [made]
    executable = graph.compile(dict(zip(inputs, types, strict=True)), targets, device=device)
    return executable.run(list(given))


def at(device: str, data: nl.TensorData, places: tuple[tuple[int, int], ...]) -> list[float]:
    """Elements of a large matrix; only these are copied to the host."""
    found = apply(device, lambda x: [x[r : r + 1, c : c + 1] for r, c in places], data)
    return [float(np.asarray(value).item()) for value in found]


def test_elements_are_where_they_belong(device: str) -> None:
    data = pattern(device)
    assert at(device, data, PLACES) == [expected(r, c) for r, c in PLACES]
    assert at(device, apply(device, lambda x: x + 1, data)[0], PLACES) == [
        expected(r, c) + 1 for r, c in PLACES
    ]


def test_sums_reach_everything(device: str) -> None:
    data = pattern(device)
    rows, columns, all_of_it = (
        np.asarray(found)
        for found in apply(
            device,
            lambda x: [x.cast(nl.int64).sum(axes=axes) for axes in (1, 0, (0, 1))],
            data,
        )
    )
    first, second = np.arange(PERIOD), np.arange(COLUMNS)
    of_row = expected(first[:, None], second[None]).sum(axis=1)  # rows repeat after PERIOD
    assert (rows == of_row[np.arange(ROWS) % PERIOD]).all()
    of_column = expected(np.arange(ROWS)[:, None], np.arange(PERIOD)[None]).sum(axis=0)
    assert (columns == of_column[second % PERIOD]).all()
    assert int(all_of_it) == int(rows.sum())


def test_movements(device: str) -> None:
    data = pattern(device)
    turned = apply(device, lambda x: x.transpose((1, 0)) + 1, data)[0]
    assert at(device, turned, tuple((c, r) for r, c in PLACES)) == [
        expected(r, c) + 1 for r, c in PLACES
    ]
    del turned
    reversed_ = apply(device, lambda x: x[::-1, ::-1] + 1, data)[0]
    assert at(device, reversed_, PLACES) == [
        expected(ROWS - 1 - r, COLUMNS - 1 - c) + 1 for r, c in PLACES
    ]


def test_gathered_rows_and_elements(device: str) -> None:
    data = pattern(device)
    rows = np.array([ROWS - 1, 0, ROWS // 2, ROWS - 2], np.int32)
    found = np.asarray(apply(device, lambda x, r: nl.gather(x, r, axis=0), data, rows)[0])
    np.testing.assert_array_equal(found, expected(rows[:, None], np.arange(COLUMNS)[None]))


def test_products_with_many_results(gpu: str) -> None:
    rows, inner, columns = 2**20 + 16, 16, 2048
    a = (np.arange(rows * inner) % 13).reshape(rows, inner).astype(np.float16)
    b = (np.arange(inner * columns) % 7).reshape(inner, columns).astype(np.float16)
    data = apply(gpu, lambda x, y: nl.matmul(x, y), a, b)[0]
    places = ((0, 0), (2**20 - 1, 2047), (2**20, 0), (rows - 1, columns - 1))
    exact = [float(a[r].astype(np.float64) @ b[:, c].astype(np.float64)) for r, c in places]
    assert at(gpu, data, places) == exact


def test_rows_of_a_softmax(gpu: str) -> None:
    data = pattern(gpu)
    found = apply(gpu, lambda x: nl.softmax(x.cast(nl.float16) * 0.05, axis=1), data)[0]
    sums = np.asarray(apply(gpu, lambda x: x.cast(nl.float32).sum(axes=1), found)[0])
    np.testing.assert_allclose(sums, 1.0, rtol=2e-3)
    last = np.asarray(apply(gpu, lambda x: x[-1:, :] + 0.0, found)[0]).astype(np.float64)[0]
    powers = np.exp(expected(ROWS - 1, np.arange(COLUMNS)) * 0.05)
    np.testing.assert_allclose(last, powers / powers.sum(), rtol=2e-2, atol=1e-7)


def test_routines(gpu: str) -> None:
    data = pattern(gpu)
    ordered = apply(gpu, lambda x: nl.sort(x, axis=1), data)[0]
    last = np.asarray(apply(gpu, lambda x: x[-1:, :] + 0, ordered)[0])[0]
    np.testing.assert_array_equal(last, np.sort(expected(ROWS - 1, np.arange(COLUMNS))))
    del ordered
    sums = apply(gpu, lambda x: nl.cumulative_sum(x.cast(nl.int32), axis=0), data)[0]
    places = ((ROWS - 1, 0), (ROWS - 1, COLUMNS - 1))
    assert at(gpu, sums, places) == [float(expected(np.arange(ROWS), c).sum()) for _, c in places]
