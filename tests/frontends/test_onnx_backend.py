"""The official ONNX backend tests: node, simple, pytorch-converted and pytorch-operator.

Every test runs. Those in onnx_exceptions.json are compared in another way, for the reason given.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")

from onnx_suite import cases, compare, data_sets, model_of

from niello.frontends.onnx import load
from niello.frontends.onnx.backend import NielloBackend

EXCEPTIONS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "onnx_exceptions.json").read_text()
)
DEVICE = "CPU"


@pytest.mark.parametrize("name", sorted(cases()))
def test_official(name: str) -> None:
    case = cases()[name]
    prepared = NielloBackend.prepare(model_of(case), DEVICE)
    tolerance = EXCEPTIONS["tolerance"].get(name, {"rtol": case.rtol, "atol": case.atol})
    for inputs, expected in data_sets(case):
        found = list(prepared.run(inputs))
        if name in EXCEPTIONS["random"]:
            check_random(name, inputs, expected, found)
        else:
            compare(expected, found, tolerance["rtol"], tolerance["atol"])


def check_random(name: str, inputs: list[Any], expected: list[Any], found: list[Any]) -> None:
    """What holds whatever the random numbers are: shape, type, and the values that can occur."""
    for wanted, value in zip(expected, found, strict=True):
        assert value.shape == wanted.shape
        assert value.dtype == wanted.dtype
    x, y = inputs[0], found[0]
    if "bernoulli" in name:
        assert np.isin(y, (0, 1)).all()
        assert 0 < y.mean() < 1
        return
    ratio = float(inputs[1]) if len(inputs) > 1 else 0.5
    kept = found[1] if len(found) > 1 else y != 0
    np.testing.assert_allclose(y, np.where(kept, x / (1 - ratio), 0), rtol=1e-6)
    assert 0 < kept.mean() < 1


def test_exceptions_name_tests_that_exist() -> None:
    listed = {name for group in EXCEPTIONS.values() for name in group}
    assert listed <= set(cases())


def test_random_operators_draw_anew_in_each_run() -> None:
    """What the suite cannot compare: each run moves the generator on."""
    import onnx

    node = onnx.helper.make_node("RandomNormal", [], ["y"], shape=[64], mean=1.0)
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64])
    model = load(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [y])))
    first, second = (np.array(model.run()["y"]) for _ in range(2))
    assert not np.array_equal(first, second)
    assert abs(first.mean() - 1) < 0.6
