"""Graphs and package files that the tests of this folder share."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import niello as nl


def network(rows: int | None = None, seed: int = 0) -> tuple[nl.Graph, nl.Tensor, nl.Tensor]:
    """Two layers with constant weights: graph, input, result."""
    rng = np.random.default_rng(seed)
    graph = nl.Graph("network")
    x = graph.placeholder((rows, 8), name="x")
    first = graph.constant(rng.normal(size=(8, 24)).astype(np.float32), name="first")
    second = graph.constant(rng.normal(size=(24, 5)).astype(np.float32), name="second")
    return graph, x, nl.softmax((x @ first).relu() @ second, name="y")


def features(rows: int = 4, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)


def training() -> tuple[nl.Graph, nl.Executable, nl.Executable]:
    """A network with dropout, trained by Adam: its graph, a step, and its use."""
    rng = np.random.default_rng(5)
    graph = nl.Graph("training")
    x = graph.placeholder((16, 8), name="x")
    label = graph.placeholder((16, 4), name="label")
    w = graph.variable(rng.normal(size=(8, 4)).astype(np.float32), name="w")
    m = graph.variable(np.zeros((8, 4), np.float32), name="adam/m")
    v = graph.variable(np.zeros((8, 4), np.float32), name="adam/v")
    count = graph.variable(1.0, name="adam/step")
    state = graph.variable(nl.random_state(7), name="philox")
    dropped, after = nl.dropout(x, 0.2, state)
    loss = nl.softmax_cross_entropy(dropped @ w, label, axis=-1, reduction="sum")
    gradient = graph.gradients(loss, w)[w]
    new_w, new_m, new_v = nl.adam(0.01, 0.9, 0.999, 1e-8, count, w, m, v, gradient)
    updates = [w.assign(new_w), m.assign(new_m), v.assign(new_v), count.assign(count + 1.0)]
    updates.append(state.assign(after))
    step = graph.compile({x: (16, 8), label: (16, 4)}, [loss], updates)
    return graph, step, graph.compile({x: (16, 8)}, [nl.softmax(x @ w, name="read")])


def batch() -> list[np.ndarray]:
    rng = np.random.default_rng(9)
    inputs = rng.normal(size=(16, 8)).astype(np.float32)
    return [inputs, np.eye(4, dtype=np.float32)[rng.integers(0, 4, 16)]]


ROOT = Path(__file__).parents[2]


def run_in_new_process(program: str, *arguments: object) -> str:
    """What a Python program prints, in a process that shares nothing with this one."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- packages taken apart and put together again

Members = dict[str, bytes]


def members(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {n: archive.read(n) for n in archive.namelist()}


def write(path: Path, content: Members, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, **options)
    return path


def sealed(content: Members, change: Callable[[dict[str, Any]], None] | None = None) -> Members:
    """The members with a manifest whose sizes and hashes are right: damage done on purpose."""
    outer = json.loads(content["manifest.json"])
    for entry in outer["content"]["files"]:
        data = content[entry["name"]]
        entry["size"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    if change is not None:
        change(outer["content"])
    text = json.dumps(outer["content"], sort_keys=True, separators=(",", ":"))
    outer["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return {**content, "manifest.json": json.dumps(outer).encode()}


def member_of(content: Members, folder: str, suffix: str = "") -> str:
    return next(n for n in content if n.startswith(folder + "/") and n.endswith(suffix))


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
