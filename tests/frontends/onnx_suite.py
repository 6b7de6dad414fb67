"""The official ONNX backend tests, as cases that any runner can take."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


@cache
def cases() -> Mapping[str, Any]:
    """All test cases by name; those of folders are read when they are used."""
    from onnx.backend.test.loader import load_model_tests

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in KINDS:
            for case in load_model_tests(kind=kind):
                found[f"{kind}/{case.name}"] = case
    return found


def model_of(case: Any) -> Any:
    """The case's model: a ModelProto, or a path."""
    return case.model if case.model is not None else str(Path(case.model_dir) / "model.onnx")


def data_sets(case: Any) -> list[tuple[list[Any], list[Any]]]:
    """Inputs and expected outputs of each data set."""
    if case.data_sets is not None:
        return [([_array(v) for v in i], [_array(v) for v in o]) for i, o in case.data_sets]
    return [_read(case, folder) for folder in sorted(Path(case.model_dir).glob("test_data_set_*"))]


def _read(case: Any, folder: Path) -> tuple[list[Any], list[Any]]:
    import onnx

    model = onnx.load(str(Path(case.model_dir) / "model.onnx"))
    found = []
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        files = sorted(
            folder.glob(f"{kind}_*.pb"), key=lambda p: int(re.findall(r"\d+", p.stem)[-1])
        )
        found.append([_value(f, v.type) for f, v in zip(files, values, strict=False)])
    return found[0], found[1]


def _array(value: Any) -> Any:
    """The array of a TensorProto; other values as they are."""
    import onnx
    from onnx import numpy_helper

    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _value(path: Path, declared: Any) -> Any:
    import onnx
    from onnx import numpy_helper

    raw = path.read_bytes()
    if declared.HasField("sequence_type"):
        sequence = onnx.SequenceProto()
        sequence.ParseFromString(raw)
        return numpy_helper.to_list(sequence)
    tensor = onnx.TensorProto()
    tensor.ParseFromString(raw)
    return numpy_helper.to_array(tensor)


def compare(expected: list[Any], found: list[Any], rtol: float, atol: float) -> None:
    """Raise AssertionError unless shapes, types and values agree within the tolerances."""
    from onnx.backend.test.runner import Runner

    assert len(found) >= len(expected)
    for wanted, value in zip(expected, found, strict=False):
        if isinstance(wanted, list):
            assert isinstance(value, list)
            assert len(value) == len(wanted)
            compare(wanted, value, rtol, atol)
        else:
            Runner.assert_similar_outputs([wanted], [value], rtol=rtol, atol=atol)
