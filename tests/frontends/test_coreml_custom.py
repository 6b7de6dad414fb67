"""Custom layers and operators, with the code that users give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

import niello as nl
from niello import errors
from niello.frontends.coreml import CustomLayer, custom_layer, load
from niello.frontends.coreml.messages import new_model

Data = Callable[[str], Path]


def model(outputs: int = 1) -> Any:
    spec = new_model()
    spec.specificationVersion = 4
    feature = spec.description.input.add(name="x").type.multiArrayType
    feature.shape.append(3)
    feature.dataType = 65568
    names = ["y", "z"][:outputs]
    for name in names:
        spec.description.output.add(name=name).type.multiArrayType.dataType = 65568
    spec.neuralNetwork.arrayInputShapeMapping = 1
    layer = spec.neuralNetwork.layers.add(name="c", input=["x"], output=names)
    layer.custom.className = "Affine"
    layer.custom.weights.add().floatValue.extend([1.0, 2.0, 3.0])
    layer.custom.weights.add().float16Value = np.array([0.5], np.float16).tobytes()
    layer.custom.parameters["power"].doubleValue = 2.0
    layer.custom.parameters["name"].stringValue = "p"
    layer.custom.parameters["on"].boolValue = True
    return spec


def test_code_of_one_model() -> None:
    seen: list[CustomLayer] = []

    def affine(layer: CustomLayer) -> nl.Tensor:
        seen.append(layer)
        weights, bias = (layer.graph.constant(w) for w in layer.weights)
        return nl.power(layer.inputs[0], layer.parameters["power"]) * weights + bias

    found = load(model(), custom={"Affine": affine}).run({"x": [1.0, 2.0, 3.0]})
    assert found["y"].numpy().tolist() == [1.5, 8.5, 27.5]
    assert dict(seen[0].parameters) == {"power": 2.0, "name": "p", "on": True}
    assert (seen[0].class_name, seen[0].name, seen[0].outputs) == ("Affine", "c", 1)
    with pytest.raises(errors.FrontendError, match=r"custom:Affine .*custom_layer"):
        load(model())


def test_code_for_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from niello.frontends.coreml import custom

    monkeypatch.setattr(custom, "_REGISTERED", {})

    @custom_layer("Affine")
    def affine(layer: CustomLayer) -> list[nl.Tensor]:
        return [layer.inputs[0] + 1.0, layer.inputs[0] * 2.0]

    found = load(model(2)).run({"x": [1.0, 2.0, 3.0]})
    assert found["y"].numpy().tolist() == [2.0, 3.0, 4.0]
    assert found["z"].numpy().tolist() == [2.0, 4.0, 6.0]
    with pytest.raises(errors.AttributeValueError, match="replace=True"):
        custom_layer("Affine")(affine)
    custom_layer("Affine", replace=True)(affine)


@pytest.mark.parametrize("returned", [None, [1.0], []])
def test_code_that_returns_no_tensor(returned: Any) -> None:
    with pytest.raises(errors.FrontendError, match=r"must return 1 tensor"):
        load(model(), custom={"Affine": lambda layer: returned}).run({"x": [1.0, 2.0, 3.0]})


def test_code_that_is_no_function() -> None:
    with pytest.raises(errors.AttributeValueError, match="is no function"):
        load(model(), custom={"Affine": 3})  # type: ignore[dict-item]


def test_style_network_with_its_layers(shared_data: Data) -> None:
    """The network of the data folder runs, with the two lambdas of its training."""
    path = shared_data("coreml") / "FastStyleTransferVanGoghStarryNight.mlmodel"

    def cropped(layer: CustomLayer) -> nl.Tensor:
        return nl.slice(layer.inputs[0], [2, 2], [-2, -2], axes=(-2, -1))

    def rescaled(layer: CustomLayer) -> nl.Tensor:
        return (layer.inputs[0] + 1.0) * 127.5

    code = {"ResCropBlockLambda": cropped, "RescaleOutputLambda": rescaled}
    style = load(path, custom=code)
    ((name, kind),) = style.inputs.items()
    y, x = np.mgrid[: kind.shape[0], : kind.shape[1]]
    picture = np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8)
    (found,) = style.run({name: picture}).values()
    assert found.numpy().dtype == np.uint8
    assert found.shape[-1] == 3
    assert found.numpy().std() > 10
