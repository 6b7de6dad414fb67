"""Translate: a model of any kind as operations of one graph, from features to features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import niello as nl
from niello.frontends.coreml.builder import Builder
from niello.frontends.coreml.features import (
    GRAY,
    GRAY16,
    Output,
    array_type,
    classified,
    image_of,
    kind_of,
    planes,
)
from niello.frontends.coreml.network import Network, as_declared, check, in_rank5
from niello.frontends.coreml.program import Program, check_program
from niello.frontends.coreml.reader import Source
from niello.frontends.coreml.weights import weights

NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
# How deep pipelines may lie inside of pipelines.
DEEPEST = 16


def stages(spec: Any) -> list[Any]:
    """The models inside of a pipeline, in order."""
    kind = spec.WhichOneof("Type")
    held = spec.pipeline if kind == "pipeline" else getattr(spec, kind).pipeline
    return list(held.models)


def check_model(source: Source, spec: Any, depth: int = 0) -> None:
    """Refuse kinds of models, layers and operators that have no translation."""
    kind = str(spec.WhichOneof("Type"))
    if kind in NETWORKS:
        check(source, getattr(spec, kind))
    elif kind == "mlProgram":
        check_program(source, spec.mlProgram)
    elif kind in PIPELINES and depth < DEEPEST:
        for stage in stages(spec):
            check_model(source, stage, depth + 1)
    elif kind != "identity":
        raise source.refuse(
            "Niello translates neural networks, ML programs and pipelines of those",
            kind,
            "Other kinds of models have no graph of tensors",
        )


def translated(
    source: Source, spec: Any, builder: Builder, given: Mapping[str, nl.Tensor]
) -> dict[str, Output]:
    """The outputs of a model, by name, from its inputs as they are fed."""
    kind = spec.WhichOneof("Type")
    if kind in PIPELINES:
        return _pipeline(source, spec, builder, given)
    if kind == "identity":
        return {o.name: Output(given[i.name]) for i, o in _pairs(spec)}
    if kind == "mlProgram":
        return _program(source, spec, builder, given)
    return _network(source, spec, builder, given)


def _pairs(spec: Any) -> list[tuple[Any, Any]]:
    return list(zip(spec.description.input, spec.description.output, strict=True))


def _pipeline(
    source: Source, spec: Any, builder: Builder, given: Mapping[str, nl.Tensor]
) -> dict[str, Output]:
    values: dict[str, Output] = {name: Output(t) for name, t in given.items()}
    for stage in stages(spec):
        needed = [f for f in stage.description.input if not f.type.isOptional]
        missing = [f.name for f in needed if f.name not in values]
        if missing:
            raise source.refuse("no model of the pipeline before it computes an input", missing)
        named = {f.name for f in stage.description.input}
        values |= translated(
            source, stage, builder, {n: v.tensor for n, v in values.items() if n in named}
        )
    return {f.name: values[f.name] for f in spec.description.output}


# --- neural networks


def _network(
    source: Source, spec: Any, builder: Builder, given: Mapping[str, nl.Tensor]
) -> dict[str, Output]:
    network = getattr(spec, spec.WhichOneof("Type"))
    made = Network(source, network, builder)
    values = {}
    for feature in spec.description.input:
        if feature.name not in given:
            continue
        x = given[feature.name]
        if kind_of(feature) == "imageType":
            x = planes(x, feature.type.imageType.colorSpace)
            x = _preprocessed(source, network, feature, x, builder)
            x = nl.expand_dims(x, 0) if network.imageInputShapeMapping == 0 else x
        else:
            x = nl.cast(x, nl.float32)
            x = in_rank5(x) if made.rank5 else x
        values[feature.name] = x
    found = made.build(values)
    outputs: dict[str, Output] = {}
    if spec.WhichOneof("Type") == "neuralNetworkClassifier":
        outputs |= _classes(spec, network, found, builder)
    for feature in spec.description.output:
        if feature.name not in outputs:
            if feature.name not in found:
                raise source.refuse("no layer computes an output", repr(feature.name))
            outputs[feature.name] = _output(feature, builder.tensor(found[feature.name]), made)
    return {f.name: outputs[f.name] for f in spec.description.output}


def _preprocessed(
    source: Source, network: Any, feature: Any, x: nl.Tensor, builder: Builder
) -> nl.Tensor:
    """Channels scaled and moved, or less a mean image; without a name it is for any image."""
    color = feature.type.imageType.colorSpace
    for p in network.preprocessing:
        if p.featureName not in ("", feature.name):
            continue
        kind = p.WhichOneof("preprocessor")
        if kind == "scaler":
            s = p.scaler
            biases = (
                [s.grayBias] if color in (GRAY, GRAY16) else [s.redBias, s.greenBias, s.blueBias]
            )
            if len(biases) == 3 and color == 30:
                biases.reverse()
            if s.channelScale not in (0.0, 1.0):
                x = x * s.channelScale
            if any(biases):
                shape = (1, len(biases), 1, 1)
                x = x + nl.reshape(builder.tensor(_floats(biases)), shape)
        elif kind == "meanImage":
            params = _floats(list(p.meanImage.meanImage))
            sizes = tuple(x.shape or ())
            if params.size != x.type.elements:
                raise source.refuse("the mean image has another size", f"{params.size} numbers")
            x = x - nl.reshape(builder.tensor(params), sizes)
    return x


def _floats(values: list[float]) -> Any:
    import numpy as np

    return np.array(values, np.float32)


def labels_of(classifier: Any) -> tuple[Any, ...]:
    """The class labels of a classifier: all text, or all integers."""
    if classifier.WhichOneof("ClassLabels") == "int64ClassLabels":
        return tuple(int(v) for v in classifier.int64ClassLabels.vector)
    return tuple(str(v) for v in classifier.stringClassLabels.vector)


def _classes(
    spec: Any, network: Any, found: Mapping[str, Any], builder: Builder
) -> dict[str, Output]:
    d = spec.description
    names = (network.labelProbabilityLayerName, d.predictedProbabilitiesName)
    name = next((n for n in names if n and n in found), network.layers[-1].output[0])
    label, scores = classified(builder.tensor(found[name]), labels_of(network), builder.graph)
    outputs = {d.predictedFeatureName: label}
    if d.predictedProbabilitiesName:
        outputs[d.predictedProbabilitiesName] = scores
    return outputs


def _output(feature: Any, y: nl.Tensor, made: Network | None) -> Output:
    kind = kind_of(feature)
    if kind == "imageType":
        return Output(image_of(y, feature.type.imageType.colorSpace))
    if kind == "multiArrayType":
        declared = array_type(feature.type.multiArrayType)
        if made is not None:
            shape = declared.shape if declared.shape and None not in declared.shape else ()
            y = as_declared(y, shape) if made.rank5 else y  # type: ignore[arg-type]
        return Output(nl.cast(y, declared.dtype) if y.dtype is not declared.dtype else y)
    if kind in ("doubleType", "int64Type"):
        y = nl.reshape(y, ())
        return Output(nl.cast(y, nl.int32) if kind == "int64Type" else y)
    return Output(y)


# --- ML programs


def _program(
    source: Source, spec: Any, builder: Builder, given: Mapping[str, nl.Tensor]
) -> dict[str, Output]:
    program = Program(source, spec, builder)
    values = {}
    for feature in program.features("input"):
        if feature.name not in given:
            continue
        x = given[feature.name]
        if kind_of(feature) == "imageType":
            x = planes(x, feature.type.imageType.colorSpace)
        values[feature.name] = x
    found = program.build(values)
    outputs = {}
    for feature in program.features("output"):
        value = found.get(feature.name)
        if value is None:
            raise source.refuse("no operator computes an output", repr(feature.name))
        if not isinstance(value, Output):
            value = _output(feature, builder.tensor(value), None)
        outputs[feature.name] = value
    return outputs


__all__ = ["check_model", "labels_of", "stages", "translated", "weights"]
