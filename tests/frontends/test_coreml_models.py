"""Trained Core ML models of the data folder: accuracies, and shapes of results."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from niello import errors
from niello.frontends.coreml import load
from niello.frontends.coreml.reader import Source

Data = Callable[[str], Path]
COUNT = 500


def digits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    def read(name: str, start: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=start)

    images = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    return images[:COUNT], read("t10k-labels-idx1-ubyte.gz", 8)[:COUNT]


# Right answers among the first 500 of the test digits.
@pytest.mark.parametrize(
    ("file", "image", "label", "least"),
    [
        ("MNISTClassifier_umerzia.mlmodel", "imageInput", "classLabel", 0.975),
        ("MNIST_omaralbeik.mlmodel", "image", "classLabel", 0.99),
    ],
)
def test_digit_networks(file: str, image: str, label: str, least: float, shared_data: Data) -> None:
    model = load(shared_data("coreml") / file)
    images, labels = digits(shared_data("mnist"))
    found = [model.run({image: x}) for x in images]
    right = np.mean([int(f[label]) == int(y) for f, y in zip(found, labels, strict=True)])
    assert right >= least
    scores = found[0]["output"]
    assert sorted(scores) == [str(i) for i in range(10)]
    assert max(scores, key=scores.__getitem__) == found[0][label]
    assert sum(scores.values()) == pytest.approx(1.0, abs=1e-5)


def test_digit_program_takes_images_as_its_training_did(shared_data: Data) -> None:
    # The graph adds 0.5 to its input, which its training had in [-1, 1]: fed so, it is good; fed
    # with pixels, as its description asks, it is not.
    path = shared_data("coreml") / "MNIST_drawmnist.mlpackage"
    source = Source(path)
    images, labels = digits(shared_data("mnist"))
    pixels = [int(load(path).run({"Input": x})["Prediction"]) for x in images[:1]]
    assert pixels == [7]
    feature = source.spec.description.input[0]
    feature.type.multiArrayType.shape.extend([1, 1, 28, 28])
    feature.type.multiArrayType.dataType = 65568
    model = load(path)
    model.source.spec.CopyFrom(source.spec)
    model = type(model)(model.source, {})
    right = 0
    for x, y in zip(images, labels, strict=True):
        fed = ((x / 255 - 0.5) / 0.5 - 0.5).astype(np.float32)[None, None]
        right += model.run({"Input": fed})["Prediction"] == int(y)
    assert right / COUNT >= 0.96


def test_pose_network(shared_data: Data) -> None:
    model = load(shared_data("coreml") / "pose_cpm.mlmodel")
    imported = model.imported
    assert repr(model.inputs["image__0"]) == "uint8[192, 192, 3]"
    (y,) = imported.outputs.values()
    assert repr(y.type) == "float32[14, 96, 96]"


def test_style_network_has_custom_layers(shared_data: Data) -> None:
    with pytest.raises(errors.FrontendError) as caught:
        load(shared_data("coreml") / "FastStyleTransferVanGoghStarryNight.mlmodel")
    counts: Any = caught.value.operators
    assert counts == {"custom:ResCropBlockLambda": 5, "custom:RescaleOutputLambda": 1}
