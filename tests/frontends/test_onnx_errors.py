"""What bad models and bad feeds get: one clear sentence each."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")

import onnx
from onnx import TensorProto, helper
from onnx_builder import model, node, tensor

import niello as nl
from niello.frontends.onnx import load

FrontendError = nl.errors.FrontendError
FeedError = nl.errors.FeedError


def relu(shape: list) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], [tensor("x", shape)], ["y"])


def test_bytes_that_are_no_protobuf() -> None:
    with pytest.raises(FrontendError, match="not a complete ONNX file") as caught:
        load(b"\xff\xff\xffnot a model")
    assert caught.value.received == "14 bytes"


@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_truncated_files(part: float, tmp_path: Path) -> None:
    raw = relu([2, 2]).SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(FrontendError, match=r"cut\.onnx"):
        load(path)


def test_empty_file() -> None:
    with pytest.raises(FrontendError, match="holds no graph"):
        load(b"")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FrontendError, match="cannot be read"):
        load(tmp_path / "nothing.onnx")


def test_what_is_no_model() -> None:
    with pytest.raises(FrontendError, match="takes a path, the bytes of a file, or a ModelProto"):
        load(42)


def test_unknown_operators_are_listed_at_once() -> None:
    nodes = [
        node("Whirl", ["x"], ["a"], name="first"),
        node("Whirl", ["a"], ["b"], name="second"),
        node("Twirl", ["b"], ["y"], domain="org.example", name="third"),
    ]
    proto = model(nodes, [tensor("x", [2])], ["y"], domains={"org.example": 1})
    with pytest.raises(FrontendError) as caught:
        load(proto)
    assert caught.value.operators == {"Whirl": 2, "org.example.Twirl": 1}
    assert "Whirl (2x, first 'first')" in str(caught.value)
    assert "org.example.Twirl (1x, first 'third')" in str(caught.value)


def test_unknown_operators_inside_of_branches_and_functions() -> None:
    body = helper.make_graph([node("Whirl", ["x"], ["z"])], "b", [], [tensor("z", [2])])
    nodes = [node("If", ["c"], ["y"], then_branch=body, else_branch=body)]
    proto = model(nodes, [tensor("x", [2]), tensor("c", [], TensorProto.BOOL)], ["y"])
    with pytest.raises(FrontendError) as caught:
        load(proto)
    assert caught.value.operators == {"Whirl": 2}


def test_opset_of_the_future() -> None:
    proto = relu([2])
    proto.opset_import[0].version = 999
    with pytest.raises(FrontendError, match="operator set 999") as caught:
        load(proto)
    assert caught.value.opset == 999


def external(folder: Path, location: str, length: int = 16) -> Path:
    proto = model(
        [node("Add", ["x", "w"], ["y"])],
        [tensor("x", [4])],
        ["y"],
        weights={"w": np.ones(4, np.float32)},
    )
    weights = proto.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    found = load(external(tmp_path, "w.bin")).run({"x": np.ones(4, np.float32)})["y"]
    assert found.tolist() == [1, 2, 3, 4]


def test_missing_external_data(tmp_path: Path) -> None:
    with pytest.raises(FrontendError, match=r"'w\.bin' is missing") as caught:
        load(external(tmp_path, "w.bin"))
    assert caught.value.tensor == "w"


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "a/../../w.bin"])
def test_external_data_outside_of_the_folder(location: str, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(16))
    with pytest.raises(FrontendError, match="outside of the model's folder"):
        load(external(inner, location))


def test_external_data_through_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (inner / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(FrontendError, match="outside of the model's folder"):
        load(external(inner, "w.bin"))


def test_external_data_too_short(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    with pytest.raises(FrontendError, match="does not fit bytes 0 to 16"):
        load(external(tmp_path, "w.bin"))


def test_weights_of_the_wrong_length() -> None:
    proto = model(
        [node("Add", ["x", "w"], ["y"])],
        [tensor("x", [4])],
        ["y"],
        weights={"w": np.ones(4, np.float32)},
    )
    proto.graph.initializer[0].raw_data = bytes(7)
    with pytest.raises(FrontendError, match="does not make an array") as caught:
        load(proto)
    assert caught.value.tensor == "w"


def test_a_shape_without_a_value() -> None:
    loaded = load(
        model(
            [node("Flatten", ["x"], ["y"], name="flat", axis=0)], [tensor("x", ["n", 2, 3])], ["y"]
        )
    )
    with pytest.raises(FrontendError, match="some have no value yet") as caught:
        _ = loaded.graph
    assert "'flat'" in str(caught.value)
    assert "load(..., inputs=" in str(caught.value)
    assert loaded.specialise({"x": (4, 2, 3)}).outputs["y"].shape == (1, 24)


def test_a_value_that_decides_a_shape() -> None:
    nodes = [node("Reshape", ["x", "shape"], ["y"])]
    proto = model(nodes, [tensor("x", [6]), tensor("shape", [2], TensorProto.INT64)], ["y"])
    loaded = load(proto)
    with pytest.raises(FrontendError, match="value of input 'shape'"):
        _ = loaded.graph
    given = loaded.specialise({"shape": np.array([2, 3])})
    assert given.outputs["y"].shape == (2, 3)
    fixed = load(proto, inputs={"shape": np.array([3, 2])})
    assert fixed.imported.outputs["y"].shape == (3, 2)
    assert fixed.run({"x": np.zeros(6, np.float32)})["y"].shape == (3, 2)
    for wanted in ([3, 2], [-1, 1]):
        found = loaded.run({"x": np.arange(6, dtype=np.float32), "shape": np.array(wanted)})["y"]
        assert found.shape == np.arange(6).reshape(wanted).shape


def test_feeds_by_name() -> None:
    loaded = load(relu([2]))
    with pytest.raises(FeedError, match="has no input 'z'"):
        loaded.run({"z": np.zeros(2, np.float32)})
    with pytest.raises(FeedError, match="input 'x' must be fed") as caught:
        loaded.run({})
    assert caught.value.missing == ["x"]
    with pytest.raises(FeedError, match="at most 1"):
        loaded.run([np.zeros(2, np.float32), np.zeros(2, np.float32)])


def test_feeds_by_type_and_shape() -> None:
    loaded = load(relu([2, "n"]))
    with pytest.raises(FeedError, match="holds float32"):
        loaded.run({"x": np.zeros((2, 3))})
    with pytest.raises(FeedError, match=r"the input is float32\[2, \?\]"):
        loaded.run({"x": np.zeros((3, 3), np.float32)})
    with pytest.raises(FeedError, match="no array of numbers"):
        loaded.run({"x": object()})
    assert loaded.run({"x": [[1, -2], [3, -4]]})["y"].tolist() == [[1, 0], [3, 0]]


def test_sizes_of_one_name_must_agree() -> None:
    proto = model([node("Add", ["a", "b"], ["y"])], [tensor("a", ["n"]), tensor("b", ["n"])], ["y"])
    with pytest.raises(FeedError, match="calls a size 'n'"):
        load(proto).run({"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)})


def test_unknown_names_at_loading() -> None:
    with pytest.raises(FeedError, match="has no input 'z'"):
        load(relu([2]), inputs={"z": (2,)})


def test_an_operator_that_refuses_names_its_node() -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"], name="head")]
    proto = model(nodes, [tensor("x", [2, 3])], ["y"], weights={"w": np.ones((4, 5), np.float32)})
    with pytest.raises(nl.errors.ShapeError, match="MatMul node 'head'"):
        load(proto).run({"x": np.zeros((2, 3), np.float32)})


@pytest.mark.parametrize("part", range(8))
def test_files_with_flipped_bytes(part: int) -> None:
    """Whatever a damaged file holds, it loads and runs, or is refused in a sentence."""
    weights = {"w": np.ones((3, 3), np.float32), "s": np.array([3, -1], np.int64)}
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("Reshape", ["a", "s"], ["b"]),
        node("Softmax", ["b"], ["c"], axis=-1),
        node("Concat", ["c", "c"], ["y"], axis=0),
    ]
    raw = model(nodes, [tensor("x", [2, 3])], ["y"], weights=weights).SerializeToString()
    draw = np.random.default_rng(part)
    for _ in range(60):
        damaged = bytearray(raw)
        for place in draw.integers(0, len(raw), draw.integers(1, 4)):
            damaged[place] = draw.integers(0, 256)
        with contextlib.suppress(nl.errors.NielloError):
            loaded = load(bytes(damaged))
            shapes = {
                n: np.zeros([d or 1 for d in t.shape or ()][:4], t.dtype.numpy)
                for n, t in loaded.inputs.items()
                if isinstance(t, nl.TensorType) and (t.shape is None or t.elements < 1000)
            }
            loaded.run(shapes, device="cpu")


def test_a_name_that_no_node_computes() -> None:
    with pytest.raises(FrontendError, match="computed by no node before it"):
        load(model([node("Relu", ["ghost"], ["y"])], [tensor("x", [2])], ["y"])).run(
            {"x": np.zeros(2, np.float32)}
        )
