"""Classical models (ai.onnx.ml) beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from onnx import TensorProto, helper  # noqa: E402
from onnx_builder import model, node, tensor  # noqa: E402

from niello.frontends.onnx import load  # noqa: E402

ML = "ai.onnx.ml"
draw = np.random.default_rng(3)
ROWS = draw.standard_normal((40, 5)).astype(np.float32)


def tree(owner: int, depth: int, kinds: tuple[str, ...]) -> dict[str, list[Any]]:
    """A complete tree with random splits, as columns of nodes; leaves are the last ones."""
    inner, full = 2**depth - 1, 2 ** (depth + 1) - 1
    numbers = list(range(full))
    return {
        "nodes_treeids": [owner] * full,
        "nodes_nodeids": numbers,
        "nodes_featureids": draw.integers(0, 5, full).tolist(),
        "nodes_values": draw.standard_normal(full).round(2).tolist(),
        "nodes_modes": [str(draw.choice(kinds)) if n < inner else "LEAF" for n in numbers],
        "nodes_truenodeids": [2 * n + 1 if n < inner else 0 for n in numbers],
        "nodes_falsenodeids": [2 * n + 2 if n < inner else 0 for n in numbers],
        "nodes_missing_value_tracks_true": [0] * full,
    }


def forest(prefix: str, targets: list[int], *, positive: bool = True) -> dict[str, Any]:
    """Trees of different depths with a weight of every leaf for each target."""
    columns: dict[str, list[Any]] = {}
    weights: dict[str, list[Any]] = {f"{prefix}_{k}": [] for k in ("treeids", "nodeids", "ids")}
    weights[f"{prefix}_weights"] = []
    for owner, depth in enumerate((3, 2, 1)):
        made = tree(owner, depth, ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"))
        for name, values in made.items():
            columns.setdefault(name, []).extend(values)
        for number in range(2**depth - 1, 2 ** (depth + 1) - 1):
            for target in targets:
                weight = float(draw.random() if positive else draw.standard_normal())
                row = (owner, number, target, weight)
                for name, value in zip(weights, row, strict=True):
                    weights[name].append(value)
    return columns | weights


def both(operator: str, outputs: list[str], x: np.ndarray, **attributes: Any) -> tuple[Any, Any]:
    """Outputs of ONNX Runtime and of Niello."""
    made = node(operator, ["x"], outputs, domain=ML, **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    proto = model([made], [tensor("x", [None, 5], kind)], outputs, opset=15, domains={ML: 3})
    proto.ir_version = 8
    session = runtime.InferenceSession(proto.SerializeToString())
    found = load(proto).run({"x": x})
    return session.run(None, {"x": x}), [
        v if isinstance(v, list) else np.asarray(v) for v in found.values()
    ]


def check(expected: Any, found: Any) -> None:
    for wanted, value in zip(expected, found, strict=True):
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3])
def test_regressor(aggregate: str, targets: int) -> None:
    attributes = forest("target", list(range(targets)), positive=False)
    base = [0.5] * targets
    check(*both(
        "TreeEnsembleRegressor", ["y"], ROWS, n_targets=targets, aggregate_function=aggregate,
        base_values=base, **attributes,
    ))  # fmt: skip


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_classifier(transform: str) -> None:
    attributes = forest("class", [0, 1, 2])
    check(*both(
        "TreeEnsembleClassifier", ["label", "scores"], ROWS, post_transform=transform,
        classlabels_int64s=[7, 8, 9], **attributes,
    ))  # fmt: skip


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_two_classes_by_one_score(positive: bool, transform: str) -> None:
    attributes = forest("class", [0], positive=positive)
    check(*both(
        "TreeEnsembleClassifier", ["label", "scores"], ROWS, post_transform=transform,
        classlabels_int64s=[0, 1], **attributes,
    ))  # fmt: skip


def test_string_labels() -> None:
    attributes = forest("class", [0, 1, 2])
    expected, found = both(
        "TreeEnsembleClassifier", ["label", "scores"], ROWS,
        classlabels_strings=["a", "b", "c"], **attributes,
    )  # fmt: skip
    assert found[0].tolist() == list(expected[0])


def test_zip_map() -> None:
    nodes = [
        node("Softmax", ["x"], ["s"]),
        node("ZipMap", ["s"], ["y"], domain=ML, classlabels_strings=list("abcde")),
    ]
    kind = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    output = helper.make_value_info("y", helper.make_sequence_type_proto(kind))
    proto = model(nodes, [tensor("x", [None, 5])], [output], opset=15, domains={ML: 3})
    proto.ir_version = 8
    (expected,) = runtime.InferenceSession(proto.SerializeToString()).run(None, {"x": ROWS})
    found = load(proto).run({"x": ROWS})["y"]
    assert [list(m) for m in found] == [list(m) for m in expected]
    for wanted, made in zip(expected, found, strict=True):
        np.testing.assert_allclose(list(made.values()), list(wanted.values()), rtol=1e-5)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Scaler", {"offset": [0.1, 0.2, 0.3, 0.4, 0.5], "scale": [2.0] * 5}),
        ("Normalizer", {"norm": "L1"}),
        ("Normalizer", {"norm": "L2"}),
        ("Imputer", {"imputed_value_floats": [1.0], "replaced_value_float": 0.0}),
        ("Binarizer", {"threshold": 0.25}),
        ("LinearRegressor", {"coefficients": [0.5, -1, 2, 0, 1], "intercepts": [0.5]}),
    ],
)
def test_preparation(operator: str, attributes: dict[str, Any]) -> None:
    x = np.where(np.abs(ROWS) < 0.3, 0, ROWS).astype(np.float32)
    check(*both(operator, ["y"], x, **attributes))


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_linear_classifier(transform: str) -> None:
    check(*both(
        "LinearClassifier", ["label", "scores"], ROWS, post_transform=transform,
        coefficients=draw.standard_normal(15).tolist(), intercepts=[0.1, 0.2, -0.1],
        classlabels_ints=[3, 4, 5], multi_class=0,
    ))  # fmt: skip
