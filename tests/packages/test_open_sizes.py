"""Models whose batch is open: a package holds code for one size, and compiles others from its
graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import niello as nl
from niello.cli.app import app
from niello.core.errors import FeedError, Recompiled

onnx = pytest.importorskip("onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Convolutions, pooling and a dense layer over images of which nobody says how many."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(8, 3, 3, 3)),
        "u": rng.normal(size=(8, 4, 2, 2)),
        "d": rng.normal(size=(4, 10)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ConvTranspose", ["c", "u"], ["e"], strides=[2, 2]),
        helper.make_node("AveragePool", ["e"], ["f"], kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
        helper.make_node("LpPool", ["f"], ["g"], kernel_shape=[2, 2]),
        helper.make_node("GlobalAveragePool", ["g"], ["h"]),
        helper.make_node("Flatten", ["h"], ["i"]),
        helper.make_node("Gemm", ["i", "d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "images",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    path = tmp_path / "images.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path


def convert(model: Path, *options: str) -> Path:
    out = model.with_suffix(".niello")
    done = CliRunner().invoke(app, ["convert", str(model), "-o", str(out), *options])
    assert done.exit_code == 0, done.output
    return out


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("shape", [(), ("--shape", "x=2,3,16,16")])
def test_other_batches_are_compiled_from_the_graph(model: Path, shape: tuple[str, ...]) -> None:
    package = nl.Package(convert(model, *shape))
    (function,) = package.functions
    assert function.types[0].shape == (None, 3, 16, 16)
    held = package.variants[0].inputs[0].static_shape[0]
    assert held == (2 if shape else 1)
    own = package.load().run([images(held)])[0].numpy()
    assert own.shape == (held, 10)
    for count in (1, 2, 5):
        if count == held:
            continue
        with pytest.warns(Recompiled, match=r"it holds main for cpu on float32\["):
            found = package.load("cpu", inputs={"x": (count, 3, 16, 16)})
        rows = [found.run([images(count)])[0].numpy()[n] for n in range(count)]
        again = [np.repeat(images(count)[n : n + 1], held, axis=0) for n in range(count)]
        alone = [package.load().run([a])[0].numpy()[0] for a in again]
        np.testing.assert_allclose(rows, alone, rtol=1e-4, atol=1e-5)


def test_a_size_that_was_not_asked_for_is_named(model: Path) -> None:
    found = nl.load(convert(model))
    with pytest.raises(FeedError, match=r"compiled for float32\[1, 3, 16, 16\]"):
        found.run([images(3)])
