"""Variables seen from Python: reading, setting, saving, restoring."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import niello as nl
from niello.core.dtypes import ALL
from niello.core.errors import CorruptFile, DTypeError, ShapeError


def two_variables() -> tuple[nl.Graph, nl.Variable, nl.Variable]:
    graph = nl.Graph()
    w = graph.variable(np.arange(6, dtype=np.float32).reshape(2, 3), name="w")
    return graph, w, graph.variable(np.int32(7), name="count")


def test_value_is_a_copy() -> None:
    _, w, _ = two_variables()
    seen = w.value
    seen[:] = 0
    assert w.value.sum() == 15


def test_set_value() -> None:
    graph, w, count = two_variables()
    w.value = [[1, 2, 3], [4, 5, 6]]
    w.value = np.full((2, 3), 2.5)  # float64 to float32
    count.value = 8
    y = w * 2.0
    np.testing.assert_array_equal(graph.run({}, [y])[y], np.full((2, 3), 5.0))
    assert count.value == 8


@pytest.mark.parametrize("value", [np.zeros(3), 1.0, [[1, 2], [3]], np.zeros((3, 2))])
def test_set_value_of_another_shape(value: object) -> None:
    _, w, _ = two_variables()
    with pytest.raises(ShapeError) as caught:
        w.value = value  # type: ignore[assignment]
    assert "w" in caught.value.asked
    assert w.value.sum() == 15


def test_set_value_of_another_kind() -> None:
    _, _, count = two_variables()
    with pytest.raises(DTypeError):
        count.value = 1.5  # type: ignore[assignment]
    assert count.value == 7


def test_values_between_runs() -> None:
    graph, w, _ = two_variables()
    step = w.assign(w + 1.0)
    executable = graph.compile({}, [], [step])
    for _ in range(3):
        executable.run()
    assert w.value.sum() == 15 + 18
    w.value = np.zeros((2, 3))
    executable.run()
    assert w.value.sum() == 6


def test_two_graphs_do_not_share_variables() -> None:
    (a, w, _), (_, other, _) = two_variables(), two_variables()
    a.run({}, [], [w.assign(w * 0.0)])
    assert w.value.sum() == 0
    assert other.value.sum() == 15


# --- checkpoints
@pytest.mark.parametrize("dtype", ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3)])
def test_save_and_load(tmp_path: Path, dtype: nl.DType, shape: tuple[int, ...]) -> None:
    start = np.random.default_rng(0).integers(0, 2, shape).astype(dtype.numpy)
    graph = nl.Graph()
    v = graph.variable(start, name="v")
    graph.save_variables(tmp_path / "x.safetensors", {"step": "12"})
    v.value = np.zeros(shape, dtype.numpy)
    assert graph.load_variables(tmp_path / "x.safetensors") == {"step": "12"}
    np.testing.assert_array_equal(v.value, start)
    assert v.value.dtype == dtype.numpy


def test_saving_leaves_no_temporary_files(tmp_path: Path) -> None:
    graph, *_ = two_variables()
    for _ in range(2):
        graph.save_variables(tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, w, _ = two_variables()
    path = tmp_path / "x.safetensors"
    graph.save_variables(path)
    old = path.read_bytes()

    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    w.value = np.zeros((2, 3))
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        graph.save_variables(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_missing_file(tmp_path: Path) -> None:
    graph, *_ = two_variables()
    with pytest.raises(FileNotFoundError):
        graph.load_variables(tmp_path / "none")


def test_partial_load(tmp_path: Path) -> None:
    graph, w, _ = two_variables()
    graph.save_variables(tmp_path / "x")
    bigger = nl.Graph()
    mine = bigger.variable(np.zeros((2, 3), np.float32), name="w")
    extra = bigger.variable(np.ones(2, np.float32), name="extra")
    with pytest.raises(CorruptFile) as caught:
        bigger.load_variables(tmp_path / "x")
    assert caught.value.missing == ["extra"]
    assert caught.value.extra == ["count"]
    assert mine.value.sum() == 0
    bigger.load_variables(tmp_path / "x", strict=False)
    np.testing.assert_array_equal(mine.value, w.value)
    assert extra.value.sum() == 2
