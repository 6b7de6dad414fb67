"""Inputs and outputs of Core ML models: images, sizes that vary, states, pipelines, defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

import niello as nl  # noqa: E402
from niello import errors  # noqa: E402
from niello.frontends.coreml import load  # noqa: E402
from niello.frontends.coreml.messages import new_model  # noqa: E402

GRAY, RGB, BGR, GRAY16 = 10, 20, 30, 40
FLOAT32 = 65568
RNG = np.random.default_rng(5)


def empty(kind: str = "neuralNetwork") -> Any:
    spec = new_model()
    spec.specificationVersion = 7
    net = getattr(spec, kind)
    net.SetInParent()
    if kind.startswith("neuralNetwork"):
        net.arrayInputShapeMapping = 1
        net.imageInputShapeMapping = 1
    return spec


def array(features: Any, name: str, *shape: int, dtype: int = FLOAT32) -> Any:
    feature = features.add(name=name)
    feature.type.multiArrayType.shape.extend(shape)
    feature.type.multiArrayType.dataType = dtype
    return feature


def image(features: Any, name: str, color: int, height: int = 4, width: int = 6) -> Any:
    feature = features.add(name=name)
    kind = feature.type.imageType
    kind.height, kind.width, kind.colorSpace = height, width, color
    return feature


def layer(spec: Any, kind: str, into: str, *names: str, **settings: Any) -> Any:
    net = getattr(spec, spec.WhichOneof("Type"))
    params = getattr(
        net.layers.add(name=f"{kind}{len(net.layers)}", input=names, output=[into]), kind
    )
    params.SetInParent()
    for name, value in settings.items():
        setattr(params, name, value)
    return params


def identity(spec: Any, into: str, source: str) -> None:
    layer(spec, "activation", into, source).linear.alpha = 1.0


# --- images


def pixels(color: int, height: int = 4, width: int = 6) -> np.ndarray:
    if color == GRAY16:
        return RNG.uniform(0, 1, (height, width)).astype(np.float16)
    shape = (height, width) if color == GRAY else (height, width, 3)
    return RNG.integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("color", [GRAY, RGB, BGR, GRAY16])
def test_planes_of_an_image(color: int) -> None:
    """The network sees channels in the model's order; users feed red, green, blue."""
    spec = empty()
    image(spec.description.input, "x", color)
    array(spec.description.output, "y")
    identity(spec, "y", "x")
    x = pixels(color)
    found = load(spec).run({"x": x})["y"].numpy()
    planes = x[None] if x.ndim == 2 else x.transpose(2, 0, 1)[:: -1 if color == BGR else 1]
    np.testing.assert_allclose(found.reshape(planes.shape), planes.astype(np.float32))


@pytest.mark.parametrize("color", [RGB, BGR, GRAY])
def test_preprocessing_of_an_image(color: int) -> None:
    """A scale, and biases by colour: blue's belongs to the first plane of a BGR image."""
    spec = empty()
    image(spec.description.input, "x", color)
    array(spec.description.output, "y")
    identity(spec, "y", "x")
    scaler = spec.neuralNetwork.preprocessing.add(featureName="x").scaler
    scaler.channelScale = 0.5
    scaler.redBias, scaler.greenBias, scaler.blueBias, scaler.grayBias = 1.0, 2.0, 3.0, 4.0
    x = pixels(color)
    found = load(spec).run({"x": x})["y"].numpy()
    if color == GRAY:
        wanted = x[None] * 0.5 + 4
    else:
        wanted = (x * 0.5 + np.array([1, 2, 3])).transpose(2, 0, 1)[:: -1 if color == BGR else 1]
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted.astype(np.float32))


def test_mean_image() -> None:
    spec = empty()
    image(spec.description.input, "x", RGB)
    array(spec.description.output, "y")
    identity(spec, "y", "x")
    mean = RNG.uniform(0, 255, (3, 4, 6)).astype(np.float32)
    spec.neuralNetwork.preprocessing.add(featureName="x").meanImage.meanImage.extend(
        mean.reshape(-1)
    )
    x = pixels(RGB)
    found = load(spec).run({"x": x})["y"].numpy().reshape(3, 4, 6)
    np.testing.assert_allclose(found, x.transpose(2, 0, 1) - mean, rtol=1e-5, atol=1e-4)
    spec.neuralNetwork.preprocessing[0].meanImage.meanImage.append(0.0)
    with pytest.raises(errors.FrontendError, match="another size"):
        load(spec).run({"x": x})


@pytest.mark.parametrize("color", [GRAY, RGB, BGR, GRAY16])
def test_image_that_the_model_computes(color: int) -> None:
    """Values are clamped to 0..255 and rounded; half floats stay as they are."""
    spec = empty()
    image(spec.description.input, "x", color)
    image(spec.description.output, "y", color)
    layer(spec, "multiply", "y", "x", alpha=1.5)
    x = pixels(color)
    found = load(spec).run({"x": x})["y"].numpy()
    if color == GRAY16:
        np.testing.assert_allclose(found, (x.astype(np.float32) * 1.5).astype(np.float16))
        assert found.dtype == np.float16
        return
    np.testing.assert_array_equal(found, np.minimum(np.rint(x * 1.5), 255).astype(np.uint8))


def test_image_of_pillow() -> None:
    picture = pytest.importorskip("PIL.Image")
    spec = empty()
    image(spec.description.input, "x", BGR)
    image(spec.description.output, "y", BGR)
    identity(spec, "y", "x")
    x = pixels(BGR)
    np.testing.assert_array_equal(load(spec).run({"x": picture.fromarray(x)})["y"].numpy(), x)


# --- sizes that vary


def test_images_of_some_sizes() -> None:
    spec = empty()
    kind = image(spec.description.input, "x", RGB).type.imageType
    for height, width in ((4, 6), (8, 8)):
        size = kind.enumeratedSizes.sizes.add()
        size.height, size.width = height, width
    array(spec.description.output, "y")
    layer(spec, "pooling", "y", "x", globalPooling=True, type=1)
    model = load(spec)
    assert model.inputs["x"].shape == (None, None, 3)
    for height, width in ((4, 6), (8, 8)):
        x = pixels(RGB, height, width)
        found = model.run({"x": x})["y"].numpy().reshape(3)
        np.testing.assert_allclose(found, x.mean((0, 1)), rtol=1e-5)
    with pytest.raises(errors.FeedError, match="does not allow this size"):
        model.run({"x": pixels(RGB, 5, 6)})


def test_images_within_a_range() -> None:
    spec = empty()
    kind = image(spec.description.input, "x", GRAY).type.imageType
    kind.imageSizeRange.heightRange.lowerBound, kind.imageSizeRange.heightRange.upperBound = 2, 9
    kind.imageSizeRange.widthRange.lowerBound, kind.imageSizeRange.widthRange.upperBound = 3, -1
    image(spec.description.output, "y", GRAY)
    identity(spec, "y", "x")
    model = load(spec)
    for size in ((2, 3), (9, 50)):
        x = pixels(GRAY, *size)
        np.testing.assert_array_equal(model.run({"x": x})["y"].numpy(), x)
    for size in ((1, 3), (10, 3), (2, 2)):
        with pytest.raises(errors.FeedError, match="does not allow this size"):
            model.run({"x": pixels(GRAY, *size)})


@pytest.mark.parametrize("kind", ["listed", "range"])
def test_arrays_of_other_sizes(kind: str) -> None:
    spec = empty()
    declared = array(spec.description.input, "x", 1, 3).type.multiArrayType
    if kind == "listed":
        for shape in ((1, 3), (4, 3)):
            declared.enumeratedShapes.shapes.add().shape.extend(shape)
    else:
        for low, high in ((1, 4), (3, 3)):
            size = declared.shapeRange.sizeRanges.add()
            size.lowerBound, size.upperBound = low, high
    array(spec.description.output, "y")
    layer(spec, "reduceSum", "y", "x").axes.append(0)
    model = load(spec)
    assert model.inputs["x"].shape == (None, 3)
    for rows in (1, 4) if kind == "listed" else (1, 2, 3, 4):
        x = RNG.standard_normal((rows, 3)).astype(np.float32)
        np.testing.assert_allclose(model.run({"x": x})["y"].numpy().reshape(3), x.sum(0), rtol=1e-5)
    with pytest.raises(errors.FeedError, match="does not allow this size"):
        model.run({"x": np.zeros((5, 3), np.float32)})
    with pytest.raises(errors.FeedError, match="the input is float32"):
        model.run({"x": np.zeros((1, 4), np.float32)})
    with pytest.raises(errors.FrontendError, match="leaves open"):
        load(spec).compile()
    assert load(spec, inputs={"x": (4, 3)}).compile().inputs[0].shape == (4, 3)


def test_program_of_some_sizes(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((types_symbol(), 3))])
    def body(x: Any) -> Any:
        flat = mb.reshape(x=mb.relu(x=x), shape=[-1])
        return mb.reduce_sum(x=flat, axes=[0], keep_dims=True, name="y")

    rows = ct.EnumeratedShapes(shapes=[(2, 3), (5, 3)], default=(2, 3))
    made = ct.convert(
        body, convert_to="mlprogram", skip_model_load=True, compute_precision=ct.precision.FLOAT32,
        inputs=[ct.TensorType(name="x", shape=rows)],
    )  # fmt: skip
    made.save(str(tmp_path / "m.mlpackage"))
    model = load(tmp_path / "m.mlpackage")
    for n in (2, 5):
        x = RNG.standard_normal((n, 3)).astype(np.float32)
        found = next(iter(model.run({"x": x}).values())).numpy()
        np.testing.assert_allclose(found.reshape(()), np.maximum(x, 0).sum(), rtol=1e-5)
    with pytest.raises(errors.FeedError, match="does not allow this size"):
        model.run({"x": np.zeros((3, 3), np.float32)})


def types_symbol() -> Any:
    """A size that a program leaves open."""
    from coremltools.converters.mil.mil import get_new_symbol

    return get_new_symbol()


# --- optional inputs, numbers, labels


def test_optional_inputs_have_their_default() -> None:
    spec = empty()
    array(spec.description.input, "x", 2)
    other = array(spec.description.input, "z", 2)
    other.type.isOptional = True
    other.type.multiArrayType.floatDefaultValue = 2.5
    array(spec.description.output, "y")
    layer(spec, "add", "y", "x", "z")
    model = load(spec)
    assert model.run({"x": [1.0, 2.0]})["y"].numpy().tolist() == [3.5, 4.5]
    assert model.run({"x": [1.0, 2.0], "z": [0.0, 1.0]})["y"].numpy().tolist() == [1.0, 3.0]


@pytest.mark.parametrize("labels", [("no", "yes", "perhaps"), (7, 8, 9)])
def test_classes(labels: Any) -> None:
    spec = empty("neuralNetworkClassifier")
    array(spec.description.input, "x", 3)
    named = "stringClassLabels" if isinstance(labels[0], str) else "int64ClassLabels"
    getattr(spec.neuralNetworkClassifier, named).vector.extend(labels)
    d = spec.description
    d.predictedFeatureName, d.predictedProbabilitiesName = "label", "scores"
    d.output.add(name="label").type.stringType.SetInParent()
    d.output.add(name="scores").type.dictionaryType.SetInParent()
    identity(spec, "scores", "x")
    found = load(spec).run({"x": [0.25, 0.5, 0.125]})
    assert found["label"] == labels[1]
    assert found["scores"] == dict(zip(labels, (0.25, 0.5, 0.125), strict=True))


def test_regressor() -> None:
    spec = empty("neuralNetworkRegressor")
    array(spec.description.input, "x", 2)
    spec.description.output.add(name="y").type.doubleType.SetInParent()
    spec.description.predictedFeatureName = "y"
    layer(spec, "reduceSum", "y", "x", reduceAll=True)
    assert float(load(spec).run({"x": [1.5, 2.0]})["y"].numpy()) == 3.5


# --- states


def test_state_of_rows_that_a_program_writes(tmp_path: Path) -> None:
    """A cache of rows, of which each run writes the next, as language models keep theirs."""

    @mb.program(
        input_specs=[
            mb.TensorSpec((1, 3)), mb.TensorSpec((1,), dtype=types.int32),
            mb.StateTensorSpec((4, 3), dtype=types.fp16),
        ],
        opset_version=ct.target.iOS18,
    )  # fmt: skip
    def body(x: Any, at: Any, cache: Any) -> Any:
        held = mb.read_state(input=cache)
        row = mb.cast(x=x, dtype="fp16")
        new = mb.scatter(data=held, indices=at, updates=row, axis=0, mode="update")
        mb.coreml_update_state(state=cache, value=new)
        return mb.reduce_sum(x=mb.cast(x=new, dtype="fp32"), axes=[0], name="y")

    made = ct.convert(
        body, convert_to="mlprogram", skip_model_load=True, compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS18,
    )  # fmt: skip
    made.save(str(tmp_path / "m.mlpackage"))
    model = load(tmp_path / "m.mlpackage")
    total = np.zeros(3, np.float32)
    for i in range(4):
        x = RNG.integers(-4, 5, (1, 3)).astype(np.float32)
        total += x[0]
        found = next(iter(model.run({"x": x, "at": np.array([i], np.int32)}).values()))
        assert found.numpy().tolist() == total.tolist()
    model.reset_states()
    x = np.ones((1, 3), np.float32)
    found = next(iter(model.run({"x": x, "at": np.array([2], np.int32)}).values()))
    assert found.numpy().tolist() == [1, 1, 1]


def test_state_of_a_package(tmp_path: Path) -> None:
    """A compiled model keeps its state too, and a package begins with what it was."""

    @mb.program(
        input_specs=[mb.TensorSpec((2,)), mb.StateTensorSpec((2,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def body(x: Any, total: Any) -> Any:
        after = mb.add(x=mb.cast(x=mb.read_state(input=total), dtype="fp32"), y=x)
        mb.coreml_update_state(state=total, value=mb.cast(x=after, dtype="fp16"))
        return mb.identity(x=after, name="y")

    made = ct.convert(
        body, convert_to="mlprogram", skip_model_load=True, compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS18,
    )  # fmt: skip
    made.save(str(tmp_path / "m.mlpackage"))
    compiled = load(tmp_path / "m.mlpackage").compile()
    x = np.array([1, 2], np.float32)
    assert [compiled.run([x])[0].numpy().tolist() for _ in range(2)] == [[1, 2], [2, 4]]
    compiled.save(tmp_path / "m.niello")
    again = nl.load(tmp_path / "m.niello")
    assert again.run([x])[0].numpy().tolist() == [3, 6]


# --- pipelines


def part(kind: str, into: str, source: str, **settings: Any) -> Any:
    spec = empty()
    array(spec.description.input, source, 2)
    array(spec.description.output, into)
    layer(spec, kind, into, source, **settings)
    return spec


def test_pipeline_of_networks() -> None:
    spec = empty("pipeline")
    array(spec.description.input, "x", 2)
    array(spec.description.output, "y")
    array(spec.description.output, "z")
    spec.pipeline.models.append(part("add", "y", "x", alpha=1.0))
    inner = empty("pipeline")
    array(inner.description.input, "y", 2)
    array(inner.description.output, "z")
    inner.pipeline.models.append(part("multiply", "w", "y", alpha=3.0))
    inner.pipeline.models.append(part("add", "z", "w", alpha=-1.0))
    spec.pipeline.models.append(inner)
    model = load(spec)
    found = model.run({"x": [1.0, 2.0]})
    assert found["y"].numpy().tolist() == [2.0, 3.0]
    assert found["z"].numpy().tolist() == [5.0, 8.0]
    assert model.outputs == ("y", "z")
    del spec.pipeline.models[0]
    with pytest.raises(errors.FrontendError, match="no model of the pipeline"):
        load(spec).run({"x": [1.0, 2.0]})


def test_pipeline_of_a_picture_and_a_classifier() -> None:
    """The first model makes an image, the second one classifies it by its mean colours."""
    first = empty()
    image(first.description.input, "photo", RGB)
    image(first.description.output, "picture", BGR)
    layer(first, "multiply", "swapped", "photo", alpha=0.5)
    layer(first, "reverse", "picture", "swapped").reverseDim.extend([False, True, False, False])
    second = empty("neuralNetworkClassifier")
    image(second.description.input, "picture", BGR)
    second.neuralNetworkClassifier.stringClassLabels.vector.extend(["blue", "green", "red"])
    d = second.description
    d.predictedFeatureName, d.predictedProbabilitiesName = "label", "scores"
    layer(second, "pooling", "scores", "picture", globalPooling=True, type=1)
    spec = empty("pipelineClassifier")
    image(spec.description.input, "photo", RGB)
    for described in (d, spec.description):
        described.output.add(name="label").type.stringType.SetInParent()
        described.output.add(name="scores").type.dictionaryType.SetInParent()
    spec.pipelineClassifier.pipeline.models.extend([first, second])
    x = np.zeros((4, 6, 3), np.uint8)
    x[...] = (200, 100, 40)
    found = load(spec).run({"photo": x})
    assert found["label"] == "red"
    assert found["scores"] == {"blue": 20.0, "green": 50.0, "red": 100.0}


def test_pipeline_with_another_kind_of_model() -> None:
    spec = empty("pipeline")
    array(spec.description.input, "x", 2)
    array(spec.description.output, "y")
    other = new_model()
    other.description.SetInParent()
    other.treeEnsembleRegressor.SetInParent()
    spec.pipeline.models.append(other)
    with pytest.raises(errors.FrontendError, match="treeEnsembleRegressor"):
        load(spec)
