"""Core ML files and feeds that are wrong: one clear error each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from niello import errors
from niello.frontends.coreml import load
from niello.frontends.coreml.messages import new_model


def relu() -> Any:
    spec = new_model()
    spec.specificationVersion = 4
    for feature in (spec.description.input.add(), spec.description.output.add()):
        feature.type.multiArrayType.shape.append(3)
        feature.type.multiArrayType.dataType = 65568
    spec.description.input[0].name, spec.description.output[0].name = "x", "y"
    layer = spec.neuralNetwork.layers.add(name="first", input=["x"], output=["y"])
    layer.activation.ReLU.SetInParent()
    return spec


def test_custom_layers_are_named_all_at_once() -> None:
    spec = relu()
    for name, kind in (("a", "Crop"), ("b", "Crop"), ("c", "Scale")):
        added = spec.neuralNetwork.layers.add(name=name, input=["x"], output=["y"])
        added.custom.className = kind
    with pytest.raises(errors.FrontendError) as caught:
        load(spec)
    assert caught.value.operators == {"custom:Crop": 2, "custom:Scale": 1}
    assert caught.value.first == {"custom:Crop": "a", "custom:Scale": "c"}
    assert "custom:Crop (×2, first 'a')" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 20, 40])
def test_cut_files(keep: int) -> None:
    raw = relu().SerializeToString()
    assert keep < len(raw)
    with pytest.raises(errors.FrontendError):
        load(raw[:keep])


def test_other_kinds_of_models() -> None:
    spec = relu()
    spec.treeEnsembleRegressor.SetInParent()
    with pytest.raises(errors.FrontendError, match="treeEnsembleRegressor"):
        load(spec)


@pytest.mark.parametrize(
    ("feeds", "problem"),
    [
        ({}, "must be fed"),
        ({"z": [1, 2, 3]}, "has no input 'z'"),
        ({"x": np.zeros(4, np.float32)}, "the input is float32"),
        ({"x": np.zeros(3, np.int32)}, "holds float32"),
        ({"x": "text"}, "no array of numbers"),
    ],
)
def test_wrong_feeds(feeds: Any, problem: str) -> None:
    with pytest.raises(errors.FeedError, match=problem):
        load(relu()).run(feeds)


def test_layer_without_its_input() -> None:
    spec = relu()
    spec.neuralNetwork.layers[0].input[0] = "nothing"
    with pytest.raises(errors.FrontendError, match="'nothing' is computed by no layer"):
        load(spec).run({"x": [1, 2, 3]})


def test_weights_that_do_not_fit() -> None:
    spec = relu()
    spec.neuralNetwork.layers[0].innerProduct.inputChannels = 3
    spec.neuralNetwork.layers[0].innerProduct.outputChannels = 2
    spec.neuralNetwork.layers[0].innerProduct.weights.floatValue.extend([1.0] * 5)
    with pytest.raises(errors.FrontendError, match="needs 6 numbers"):
        load(spec).run({"x": [1, 2, 3]})


@pytest.mark.parametrize("path", ["../../secret", "missing/model.mlmodel"])
def test_package_that_names_another_file(path: str, tmp_path: Path) -> None:
    package = tmp_path / "m.mlpackage"
    (package / "Data").mkdir(parents=True)
    held = {"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": path}}}
    (package / "Manifest.json").write_text(json.dumps(held), "utf-8")
    with pytest.raises(errors.FrontendError):
        load(package)


def test_package_without_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.mlpackage").mkdir()
    with pytest.raises(errors.FrontendError, match=r"Manifest\.json"):
        load(tmp_path / "m.mlpackage")
