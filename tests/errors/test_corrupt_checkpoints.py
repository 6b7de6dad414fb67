"""Checkpoints that cannot be trusted: an error with the file's name, and no variable touched."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import niello as nl
from niello.core.errors import CorruptFile


def graph_of() -> nl.Graph:
    graph = nl.Graph()
    graph.variable(np.arange(6, dtype=np.float32).reshape(2, 3), name="w")
    graph.variable(np.ones(4, np.int32), name="b")
    return graph


def values(graph: nl.Graph) -> list[list]:
    return [v.value.tolist() for v in graph.variables]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    graph_of().save_variables(tmp_path / "good.safetensors", {"epoch": "3"})
    return tmp_path / "good.safetensors"


def refused(path: Path, words: str) -> CorruptFile:
    graph = graph_of()
    for v in graph.variables:
        v.value = np.zeros(v.shape, v.dtype.numpy)
    before = values(graph)
    with pytest.raises(CorruptFile, match=words) as caught:
        graph.load_variables(path)
    assert values(graph) == before
    assert caught.value.asked == f"load {path}"
    assert caught.value.received is not None
    return caught.value


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, shape: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


BROKEN = {
    "empty": b"",
    "seven bytes": b"1234567",
    "text": b"this is not a checkpoint at all",
    "header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "header of no json": with_header(b"{nonsense"),
    "header of a list": with_header([1, 2, 3]),
    "sizes beyond the data": with_header({"w": entry(0, 400, [100])}, bytes(8)),
    "offsets backwards": with_header({"w": entry(8, 0, [2])}, bytes(8)),
    "shape against offsets": with_header({"w": entry(0, 8, [3, 7])}, bytes(8)),
    "shape that overflows": with_header({"w": entry(0, 8, [2**62, 2**62])}, bytes(8)),
    "unknown dtype": with_header({"w": entry(0, 8, [2], "F99")}, bytes(8)),
    "overlapping data": with_header(
        {"w": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").write_bytes(BROKEN[kind])
    refused(tmp_path / "x", "not a complete safetensors file")


@pytest.mark.parametrize("keep", [0, 4, 8, 20, 100, -1])
def test_truncated_files(good: Path, keep: int) -> None:
    good.write_bytes(good.read_bytes()[:keep])
    refused(good, "not a complete safetensors file")


def test_other_names(tmp_path: Path) -> None:
    save_file({"w": np.zeros((2, 3), np.float32), "bias": np.ones(4, np.int32)}, tmp_path / "x")
    error = refused(tmp_path / "x", r"of another graph; received lacks \['b'\], has .*\['bias'\]")
    assert error.missing == ["b"]
    assert error.extra == ["bias"]
    assert "strict=False" in error.advice


@pytest.mark.parametrize(
    ("array", "received"),
    [
        (np.zeros((3, 2), np.float32), r"float32\[3, 2\]"),
        (np.zeros(6, np.float32), r"float32\[6\]"),
        (np.zeros((2, 3), np.float64), r"float64\[2, 3\]"),
        (np.zeros((2, 3), np.float16), r"float16\[2, 3\]"),
    ],
)
def test_other_types(tmp_path: Path, array: np.ndarray, received: str) -> None:
    """The second variable is wrong: the first one is not restored either."""
    save_file({"b": np.full(4, 9, np.int32), "w": array}, tmp_path / "x")
    refused(tmp_path / "x", rf"variable w is float32\[2, 3\]; received {received}")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_flipped_bytes(good: Path, data: st.DataObject) -> None:
    """Some byte is wrong: the old values, or those of a file that is still sound."""
    original = good.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    broken = bytearray(original)
    broken[position] ^= data.draw(st.integers(1, 255))
    path = good.with_name("flipped")
    path.write_bytes(bytes(broken))
    graph = graph_of()
    before = values(graph)
    refused = False
    try:
        graph.load_variables(path)
    except CorruptFile:
        refused = True
    assert not refused or values(graph) == before
