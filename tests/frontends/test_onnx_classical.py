"""Support vector machines (ai.onnx.ml) and suppression of boxes, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from onnx_builder import model, node, tensor  # noqa: E402

from niello.frontends.onnx import load  # noqa: E402

ML = "ai.onnx.ml"
DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((6, 4)).astype(np.float32)


def numbers(count: int) -> list[float]:
    return [float(v) for v in DRAW.standard_normal(count)]


def both(operator: str, outputs: list[str], attributes: dict[str, Any]) -> tuple[Any, Any]:
    made = node(operator, ["x"], outputs, domain=ML, **attributes)
    proto = model([made], [tensor("x", list(X.shape))], outputs, opset=13, domains={ML: 1})
    proto.ir_version = 8
    session = runtime.InferenceSession(proto.SerializeToString())
    expected = session.run(None, {"x": X})
    return expected, [np.asarray(v) for v in load(proto).run({"x": X}).values()]


KERNELS = {
    "LINEAR": [0.0, 0.0, 0.0], "RBF": [0.3, 0.0, 0.0], "POLY": [0.3, 0.5, 3.0],
    "SIGMOID": [0.2, 0.1, 0.0],
}  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_regressor(kernel: str, one_class: int) -> None:
    settings = {
        "kernel_type": kernel, "kernel_params": KERNELS[kernel], "n_supports": 5, "rho": [0.3],
        "support_vectors": numbers(20), "coefficients": numbers(5), "one_class": one_class,
    }  # fmt: skip
    (wanted,), (found,) = both("SVMRegressor", ["y"], settings)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_linear_regressor() -> None:
    settings = {
        "kernel_type": "LINEAR", "kernel_params": [0.0] * 3, "n_supports": 0, "rho": [0.3],
        "coefficients": numbers(4),
    }  # fmt: skip
    (wanted,), (found,) = both("SVMRegressor", ["y"], settings)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("kinds", [2, 3, 4])
@pytest.mark.parametrize("form", ["votes", "probabilities", "linear"])
def test_classifier(form: str, kinds: int, text: bool) -> None:
    pairs, counts = kinds * (kinds - 1) // 2, [3, 2, 4, 3][:kinds]
    settings: dict[str, Any] = {"kernel_type": "RBF", "kernel_params": [0.3, 0.0, 0.0]}
    if text:
        settings["classlabels_strings"] = ["a", "b", "c", "d"][:kinds]
    else:
        settings["classlabels_ints"] = list(range(5, 5 + kinds))
    if form == "linear":
        settings |= {"kernel_type": "LINEAR", "coefficients": numbers(4 * kinds), "rho": [0.2]}
    else:
        settings |= {
            "vectors_per_class": counts, "support_vectors": numbers(sum(counts) * 4),
            "coefficients": numbers((kinds - 1) * sum(counts)), "rho": numbers(pairs),
        }  # fmt: skip
    if form == "probabilities":
        settings |= {"prob_a": [-abs(v) for v in numbers(pairs)], "prob_b": numbers(pairs)}
    wanted, found = both("SVMClassifier", ["label", "scores"], settings)
    assert found[0].tolist() == wanted[0].tolist()
    # The runtime ends its iteration of probabilities where they change by less than 0.005.
    near = 5e-3 if form == "probabilities" else 1e-4
    np.testing.assert_allclose(found[1], wanted[1], rtol=near, atol=near)


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("least", [None, 0.6])
def test_suppression_goes_on_in_the_graph_before(centred: int, least: float | None) -> None:
    """Boxes that are computed, and what is taken by the rows that are left."""
    boxes = DRAW.uniform(0, 4, (2, 40, 4)).astype(np.float32)
    scores = DRAW.uniform(0, 1, (2, 3, 40)).astype(np.float32)
    weights = {
        "half": np.float32(0.5), "most": np.int64(7), "overlap": np.float32(0.3),
        "last": np.array([2], np.int64), "least": np.float32(least or 0),
    }  # fmt: skip
    given = ["b", "s", "most", "overlap", *(["least"] if least else [])]
    nodes = [
        node("Mul", ["boxes", "half"], ["b"]),
        node("Sigmoid", ["scores"], ["s"]),
        node("NonMaxSuppression", given, ["rows"], center_point_box=centred),
        node("Gather", ["rows", "last"], ["places"], axis=1),
        node("Squeeze", ["places", "axis"], ["flat"]),
        node("Gather", ["b", "flat"], ["kept"], axis=1),
    ]
    weights["axis"] = np.array([1], np.int64)
    inputs = [tensor("boxes", [2, 40, 4]), tensor("scores", [2, 3, 40])]
    proto = model(nodes, inputs, ["rows", "kept"], opset=13, weights=weights)
    proto.ir_version = 8
    feeds = {"boxes": boxes, "scores": scores}
    wanted = runtime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    loaded = load(proto)
    for _ in range(2):
        found = loaded.run(feeds)
        np.testing.assert_array_equal(np.asarray(found["rows"]), wanted[0])
        np.testing.assert_allclose(np.asarray(found["kept"]), wanted[1], rtol=1e-6)
    names = {o.op.name for i in loaded._staged._imports.values() for o in i.graph.operations}
    assert "suppress_sorted" in names
