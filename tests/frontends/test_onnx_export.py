"""Export to ONNX: every written operation comes back as itself, and models run elsewhere."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")

import onnx
from onnx_builder import model, node, tensor

import niello as nl
from niello.frontends.onnx import export, load
from niello.frontends.onnx.writer import written
from niello.graph.evaluate import evaluate
from niello.graph.opdef import registry
from tests.contract.contract_cases import RELATIVE, Case, cases
from tools.onnx_page import NOT_WRITTEN

FrontendError = nl.errors.FrontendError
# One type of each kind; the writers ask for a type's kind and width only.
NEWEST = onnx.defs.onnx_opset_version()
KINDS = ("float32", "float64", "bfloat16", "int32", "uint8", "int64", "bool")


def came_back(model: onnx.ModelProto, arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """What an exported model computes when it is read again, by the references."""
    loaded = load(model)
    feeds = {f"in{i}": a for i, a in enumerate(arrays) if f"in{i}" in loaded.inputs}
    imported = loaded.specialise(feeds)
    fed = {imported.inputs[n]: a for n, a in feeds.items() if n in imported.inputs}
    tensors = imported.tensors
    values = dict(zip(tensors, evaluate(tensors, fed), strict=True))
    return [values[v] if isinstance(v, nl.Tensor) else v for v in imported.outputs.values()]


def exported(case: Case, opset: int) -> onnx.ModelProto:
    graph = nl.Graph()
    inputs = [graph.placeholder(a.shape, a.dtype, name=f"in{i}") for i, a in enumerate(case.arrays)]
    return export(list(graph.add(case.op, inputs).outputs), opset=opset)


def chosen(name: str) -> list[Case]:
    """Samples of an operation; with many, some of them, the same each time."""
    found = [c for c in cases(name) if c.dtype.name in KINDS or c.sample.dtypes]
    order = sorted(range(len(found)), key=lambda i: zlib.crc32(f"{name}{i}".encode()))
    return [found[i] for i in sorted(order[:40])]


REGIONS = ("if", "loop")  # have no samples: test_branches and those after it


@pytest.mark.parametrize("name", [n for n in written() if n not in REGIONS])
def test_round_trip(name: str) -> None:
    done = 0
    for number, case in enumerate(chosen(name)):
        try:
            proto = exported(case, (21, NEWEST)[number % 2])
        except FrontendError:
            continue  # what ONNX lacks is refused; test_refusals holds the sentence
        onnx.checker.check_model(proto, full_check=True)
        for wanted, found in zip(case.reference(), came_back(proto, case.arrays), strict=True):
            check(case, wanted, found)
        done += 1
    assert done, f"no sample of {name} can be written"


def check(case: Case, wanted: np.ndarray, found: Any) -> None:
    array = np.asarray(found)
    assert array.shape == wanted.shape, str(case)
    assert array.dtype == wanted.dtype, str(case)
    if wanted.dtype.name not in RELATIVE:
        np.testing.assert_array_equal(array, wanted, err_msg=str(case))
        return
    # Settings are float32 in ONNX, whatever the tensors are.
    relative = 20 * max(RELATIVE[wanted.dtype.name], 2e-8)
    np.testing.assert_allclose(
        array.astype(np.float64),
        wanted.astype(np.float64),
        rtol=relative,
        atol=relative,
        err_msg=str(case),
    )


def test_names_sizes_and_weights() -> None:
    graph = nl.Graph("net")
    x = graph.placeholder((None, 3), name="x")
    w = graph.variable(np.eye(3, dtype=np.float32), name="w")
    w.value = 2 * np.eye(3, dtype=np.float32)
    proto = export({"y": nl.relu(x @ w)}, inputs={"picture": x})
    assert [i.name for i in proto.graph.input] == ["picture"]
    assert [o.name for o in proto.graph.output] == ["y"]
    assert {i.name for i in proto.graph.initializer} == {"w"}
    found = load(proto).run({"picture": np.ones((2, 3), np.float32)})["y"]
    assert found.tolist() == [[2, 2, 2], [2, 2, 2]]


def test_files_are_written_at_once(tmp_path: Path) -> None:
    x = nl.Graph().placeholder((2,), name="x")
    path = tmp_path / "model.onnx"
    export([x + 1.0], path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert load(path).run({"x": np.zeros(2, np.float32)})["output_0"].tolist() == [1, 1]


def test_refusals_name_every_operation() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 3), name="x")
    bits = nl.random_bits((2,), seed=1, graph=graph, name="dice")
    with pytest.raises(FrontendError) as caught:
        export([nl.atan2(x, x), nl.atan2(x, x + 1.0), bits])
    assert caught.value.operators == {"atan2": 2, "random_bits": 1}
    assert "atan2 (2x, first 'atan2'" in str(caught.value)


def runs_elsewhere(outputs: list[nl.Tensor], feeds: dict[nl.Tensor, np.ndarray]) -> None:
    """ONNX Runtime computes what Niello does."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    proto = export(outputs)
    onnx.checker.check_model(proto, full_check=True)
    session = runtime.InferenceSession(proto.SerializeToString())
    found = session.run(None, {t.name: a for t, a in feeds.items()})
    wanted = outputs[0].graph.run(feeds, outputs)
    for value, t in zip(found, outputs, strict=True):
        np.testing.assert_allclose(value, wanted[t].numpy(), rtol=1e-5, atol=1e-6)
    again = load(proto).run({t.name: a for t, a in feeds.items()})
    for value, t in zip(again.values(), outputs, strict=True):
        np.testing.assert_allclose(value.numpy(), wanted[t].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [-2.0, 3.0])
def test_branches(value: float) -> None:
    graph = nl.Graph()
    x, y = graph.placeholder((3,), name="x"), graph.placeholder((3,), name="y")
    found = nl.if_(x.sum() > 0.0, lambda: nl.exp(x) + y, lambda: x)
    runs_elsewhere([found * 2.0], {x: np.full(3, value, np.float32), y: np.ones(3, np.float32)})


@pytest.mark.parametrize("start", [1.0, 500.0])
def test_loops_with_a_condition(start: float) -> None:
    graph = nl.Graph()
    x, limit = graph.placeholder((), name="x"), graph.placeholder((), name="limit")
    total, steps = nl.while_(
        [x, graph.constant(0)], lambda v, n: v < limit, lambda v, n: [v * 2.0 + limit * 0.1, n + 1]
    )
    runs_elsewhere(
        [total, steps], {x: np.array(start, np.float32), limit: np.array(100, np.float32)}
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_loops_over_slices(reverse: bool) -> None:
    graph = nl.Graph()
    x, w = graph.placeholder((20, 2), name="x"), graph.placeholder((2, 2), name="w")

    def step(i: nl.Tensor, slices: list, values: list) -> tuple[list, list]:
        new = nl.tanh(slices[0] + values[0] @ w)
        return [new], [new * i.cast(nl.float32)]

    (last,), (rows,) = nl.scan(
        [x], [graph.constant(np.zeros(2, np.float32))], step, reverse=reverse
    )
    draw = np.random.default_rng(0)
    feeds = {t: draw.standard_normal(t.shape).astype(np.float32) for t in (x, w)}
    runs_elsewhere([last, rows], feeds)


def test_what_is_no_tensor() -> None:
    with pytest.raises(FrontendError, match="needs tensors"):
        export([])
    with pytest.raises(FrontendError, match=f"operator sets 18 to {NEWEST}"):
        export([nl.Graph().placeholder((2,))], opset=7)


@pytest.mark.parametrize("opset", [18, 21, 24])
def test_onnx_runtime_runs_what_is_exported(opset: int) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    nodes = [
        node("Conv", ["x", "w"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", "s", "b", "m", "v"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["e"], ["f"]),
        node("Gemm", ["f", "u", "t"], ["g"], transB=1),
        node("Softmax", ["g"], ["y"]),
    ]
    draw = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "s": (4,), "b": (4,), "m": (4,), "u": (5, 64), "t": (5,)}
    weights = {n: draw.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    weights["v"] = np.ones(4, np.float32)
    loaded = load(model(nodes, [tensor("x", [2, 3, 8, 8])], ["y"], weights=weights))
    x = draw.standard_normal((2, 3, 8, 8)).astype(np.float32)
    proto = export(loaded.imported.outputs, opset=opset)
    session = runtime.InferenceSession(proto.SerializeToString())
    (found,) = session.run(None, {"x": x})
    np.testing.assert_allclose(found, loaded.run({"x": x})["y"].numpy(), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_written_is_listed_with_its_reason() -> None:
    listed = {name for names in NOT_WRITTEN.values() for name in names}
    known = registry()
    leaves = {n for n, op in known.items() if not op.has_decompose()} - set(written())
    leaves -= {"placeholder", "variable", "constant", "coordinate"}  # inputs, and what needs none
    assert leaves == listed & set(known)
    assert listed <= set(known)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: nl.resize(x, scale=2.0, mode="linear"),
        lambda x: nl.resize(x, (5, 7), mode="cubic", coordinates="align_corners"),
        lambda x: nl.sort(x, -1, descending=True),
        lambda x: nl.argsort(x, 2),
        lambda x: nl.roll(x, (1, -2), (1, 3)),
        lambda x: nl.depth_to_space(x, 2),
        lambda x: nl.space_to_depth(x, 2),
        lambda x: nl.repeat(x, 3, 1),
        lambda x: nl.diagonal(x, 1, 2, 3),
        lambda x: nl.slice_update(x, x[:, :2], [1], [3], axes=(1,)),
        lambda x: nl.grid_sample(x, nl.tanh(x[:, :2].transpose((0, 2, 3, 1))), padding="border"),
        lambda x: nl.det(x),
    ],
)
def test_rearrangements_elsewhere(build: Any) -> None:
    graph = nl.Graph()
    x = graph.placeholder((1, 4, 4, 4), name="x")
    feed = np.random.default_rng(3).standard_normal((1, 4, 4, 4)).astype(np.float32)
    runs_elsewhere([build(x)], {x: feed})
