"""What a model or feed has wrong, from the command line: one sentence, exit status 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from niello.cli.app import app

onnx = pytest.importorskip("onnx")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT


@pytest.fixture
def niello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, list(map(str, arguments)))

    return run


def refused(done: Result, *words: str) -> None:
    """Exit status 2, and one sentence with these words on stderr, without a traceback."""
    assert done.exit_code == 2, done.output
    text = " ".join(done.stderr.split())
    assert text.startswith("error: "), text
    assert "Traceback" not in done.output
    for word in words:
        assert word in text, text


def saved(path: Path, nodes: Any, inputs: Any, *, opset: int = 21, weights: Any = ()) -> Path:
    """A model of these nodes, whose output is y."""
    described = [helper.make_tensor_value_info(*i) for i in inputs]
    graph = helper.make_graph(
        nodes, "g", described, [helper.make_empty_tensor_value_info("y")], list(weights)
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.acme", 1)]
    proto = helper.make_model(graph, opset_imports=domains, ir_version=10)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    return saved(tmp_path / "relu.onnx", nodes, [("x", FLOAT, [2, 3])])


COMMANDS = (
    ("run", "m.onnx", "--input", "x=random"),
    ("convert", "m.onnx", "-o", "m.niello"),
    ("inspect", "m.onnx"),
    ("benchmark", "m.onnx"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_no_protobuf(niello, tmp_path: Path, command: Any) -> None:
    (tmp_path / "m.onnx").write_bytes(b"this is text, and no model")
    refused(niello(*command), "m.onnx")
    assert not list(tmp_path.glob("*.niello"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_unknown_operators(niello, tmp_path: Path, command: Any) -> None:
    nodes = [
        helper.make_node("Fold", ["x"], ["a"], "first", domain="com.acme"),
        helper.make_node("Fold", ["a"], ["b"], "second", domain="com.acme"),
        helper.make_node("Spindle", ["b"], ["y"], "third", domain="com.acme"),
    ]
    saved(tmp_path / "m.onnx", nodes, [("x", FLOAT, [2])])
    refused(
        niello(*command),
        "com.acme.Fold (2x, first 'first')",
        "com.acme.Spindle (1x, first 'third')",
    )
    assert not list(tmp_path.glob("*.niello"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_operator_set_of_the_future(niello, tmp_path: Path, command: Any) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    saved(tmp_path / "m.onnx", nodes, [("x", FLOAT, [2])], opset=999)
    refused(niello(*command), "999")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_missing_data_file(niello, tmp_path: Path, command: Any) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, "gone.bin", length=24)
    weight.ClearField("raw_data")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    saved(tmp_path / "m.onnx", nodes, [("x", FLOAT, [2, 3])], weights=[weight])
    refused(niello(*command), "gone.bin")


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda c: c[0])
def test_shape_that_has_no_value(niello, tmp_path: Path, command: Any) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    kind = onnx.TensorProto.INT64
    saved(tmp_path / "m.onnx", nodes, [("x", FLOAT, [2, 3]), ("shape", kind, [2])])
    refused(niello(*command), "'shape'")
    assert not list(tmp_path.glob("*.niello"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["z=x.npy"], ["z", "x"]),
        (["x=x.npy", "x=x.npy"], ["each name once"]),
        (["x=wide.npy"], ["x", "float32"]),
        (["x=long.npy"], ["x", "3"]),
        (["x=missing.npy"], ["missing.npy"]),
        (["x=text.npy"], ["text.npy"]),
        (["x"], ["NAME=VALUE"]),
    ],
    ids=lambda v: "-".join(v) if v and v[0].startswith(("x", "z")) else "",
)
def test_inputs_that_do_not_fit(niello, relu: Path, given: Any, words: Any) -> None:
    np.save("x.npy", np.zeros((2, 3), np.float32))
    np.save("wide.npy", np.zeros((2, 3), np.complex64))
    np.save("long.npy", np.zeros((2, 4), np.float32))
    Path("text.npy").write_text("no array")
    arguments = [a for g in given for a in ("--input", g)]
    refused(niello("run", relu, *arguments), *words)


def test_traceback_where_it_is_asked_for(niello, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"this is text, and no model")
    done = niello("inspect", "m.onnx", "--traceback")
    assert done.exit_code == 1
    assert type(done.exception).__name__ == "FrontendError"


def test_the_page_is_written_beside_the_user(niello, relu: Path, tmp_path: Path) -> None:
    done = niello("inspect", relu, "--html")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "relu.html").read_text().startswith("<!doctype html>")


# --- Core ML


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_core_ml_models(niello, tmp_path: Path, command: str) -> None:
    pytest.importorskip("coremltools")
    from niello.frontends.coreml.messages import new_model

    more = ["-o", "m.niello"] if command == "convert" else []
    (tmp_path / "m.mlmodel").write_bytes(b"\xff\xfe no model")
    refused(niello(command, "m.mlmodel", *more), "m.mlmodel")
    spec = new_model()
    spec.specificationVersion = 4
    for feature, name in (
        (spec.description.input.add(), "x"),
        (spec.description.output.add(), "y"),
    ):
        feature.name = name
        feature.type.multiArrayType.shape.append(3)
        feature.type.multiArrayType.dataType = 65568
    for name in ("a", "b"):
        layer = spec.neuralNetwork.layers.add(name=name, input=["x"], output=["y"])
        layer.custom.className = "Crop"
    (tmp_path / "m.mlmodel").write_bytes(spec.SerializeToString())
    refused(niello(command, "m.mlmodel", *more), "custom:Crop (×2, first 'a')")
    (tmp_path / "m.mlpackage").mkdir()
    refused(niello(command, "m.mlpackage", *more), "Manifest.json")
    assert not list(tmp_path.glob("*.niello"))
