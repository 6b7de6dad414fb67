"""What becomes of a model: sizes, values that decide shapes, control flow, training, functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")

from onnx import TensorProto, helper, numpy_helper
from onnx_builder import model, node, tensor

import niello as nl
from niello.frontends.onnx import load

INT64, BOOL = TensorProto.INT64, TensorProto.BOOL


def kinds(graph: nl.Graph) -> list[str]:
    """The operations of a graph, by name."""
    return [o.op.name for o in graph.operations]


def test_shape_arithmetic_leaves_no_trace() -> None:
    """Flatten, written with Shape, Gather, Concat and Reshape."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "rest"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["y"]),
    ]
    weights = {
        "zero": np.array(0, np.int64),
        "axis": np.array([0], np.int64),
        "rest": np.array([-1], np.int64),
    }
    loaded = load(model(nodes, [tensor("x", ["n", 2, 3])], ["y"], weights=weights))
    assert kinds(loaded.specialise({"x": (4, 2, 3)}).graph) == ["placeholder", "reshape"]
    for n in (1, 5):
        found = loaded.run({"x": np.arange(n * 6, dtype=np.float32).reshape(n, 2, 3)})["y"]
        assert found.shape == (n, 6)


def test_open_sizes_stay_open() -> None:
    proto = model([node("Relu", ["x"], ["y"])], [tensor("x", ["n", 3])], ["y"])
    imported = load(proto).imported
    assert imported.inputs["x"].shape == (None, 3)
    assert imported.outputs["y"].shape == (None, 3)


def test_one_graph_for_each_set_of_types() -> None:
    loaded = load(model([node("Relu", ["x"], ["y"])], [tensor("x", ["n"])], ["y"]))
    graphs = {id(loaded.specialise({"x": (n,)}).graph) for n in (1, 2, 1, 2)}
    assert len(graphs) == 2


def training_model() -> Any:
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Add", ["a", "b1"], ["b"]),
        node("Tanh", ["b"], ["c"]),
        node("MatMul", ["c", "w2"], ["y"]),
    ]
    draw = np.random.default_rng(0)
    weights = {
        "w1": draw.standard_normal((2, 16)).astype(np.float32),
        "b1": np.zeros(16, np.float32),
        "w2": draw.standard_normal((16, 1)).astype(np.float32) / 4,
    }
    return model(nodes, [tensor("x", ["n", 2])], ["y"], weights=weights)


def test_training() -> None:
    """A network learns xor; its weights are variables under the model's names."""
    loaded = load(training_model(), inputs={"x": (4, 2)}, trainable=True)
    imported = loaded.imported
    graph, y = imported.graph, imported.outputs["y"]
    assert [v.name for v in graph.variables] == ["w1", "b1", "w2"]
    wanted = graph.placeholder((4, 1), name="wanted")
    loss = nl.mean_squared_error(y, wanted)
    gradients = graph.gradients(loss, graph.variables)
    steps = [v.assign(v - 0.1 * g) for v, g in gradients.items()]
    feeds = {
        imported.inputs["x"]: np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32),
        wanted: np.array([[0], [1], [1], [0]], np.float32),
    }
    losses = [float(graph.run(feeds, [loss], steps)[loss].item()) for _ in range(400)]
    assert losses[-1] < 0.05 < losses[0]
    after = loaded.run({"x": feeds[imported.inputs["x"]]})["y"]
    np.testing.assert_allclose(after.numpy(), feeds[wanted], atol=0.4)


# --- control flow
def branch(name: str, operator: str) -> Any:
    return helper.make_graph([node(operator, ["x"], [name])], name, [], [tensor(name, None)])


def test_if_on_a_known_condition_is_decided() -> None:
    made = node("If", ["c"], ["y"], then_branch=branch("a", "Exp"), else_branch=branch("b", "Neg"))
    proto = model([made], [tensor("x", [2])], ["y"], weights={"c": np.array(False)})
    assert kinds(load(proto).graph) == ["placeholder", "negative"]


def test_if_on_a_fed_condition_is_a_branch() -> None:
    made = node("If", ["c"], ["y"], then_branch=branch("a", "Exp"), else_branch=branch("b", "Neg"))
    proto = model([made], [tensor("x", [2]), tensor("c", [], BOOL)], ["y"])
    loaded = load(proto)
    assert "if" in kinds(loaded.graph)
    x = np.array([1, -1], np.float32)
    for condition, wanted in ((True, np.exp(x)), (False, -x)):
        found = loaded.run({"x": x, "c": np.array(condition)})["y"]
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)


def test_if_with_branches_of_different_shapes() -> None:
    """It cannot be a branch of the graph: the condition is taken from the feeds."""
    both = helper.make_graph(
        [node("Concat", ["x", "x"], ["b"], axis=0)], "b", [], [tensor("b", None)]
    )
    made = node("If", ["c"], ["y"], then_branch=branch("a", "Exp"), else_branch=both)
    loaded = load(model([made], [tensor("x", [2]), tensor("c", [], BOOL)], ["y"]))
    x = np.zeros(2, np.float32)
    assert [loaded.run({"x": x, "c": np.array(c)})["y"].shape for c in (True, False)] == [
        (2,),
        (4,),
    ]


def doubling(condition: str, *more: Any) -> Any:
    """A loop body: v + v, going on while the sum of v is below 100."""
    nodes = [
        node("Add", ["v", "v"], ["w"]),
        node("ReduceSum", ["w"], ["s"], keepdims=0),
        node("Less", ["s", "limit"], ["below"]),
        node("Identity", [condition], ["go"]),
        *more,
    ]
    limit = numpy_helper.from_array(np.array(100, np.float32), "limit")
    inputs = [tensor("i", [], INT64), tensor("c", [], BOOL), tensor("v", [2])]
    outputs = [tensor("go", [], BOOL), tensor("w", [2])]
    if more:
        outputs.append(tensor("scan", [2]))
    return helper.make_graph(nodes, "body", inputs, outputs, [limit])


def test_a_loop_whose_end_is_computed() -> None:
    made = node("Loop", ["", "true", "x"], ["y"], body=doubling("below"))
    proto = model([made], [tensor("x", [2])], ["y"], weights={"true": np.array(True)})
    loaded = load(proto)
    assert "loop" in kinds(loaded.graph)
    for start in (1, 30, 80):
        x = wanted = np.full(2, start, np.float32)
        while True:
            wanted = wanted + wanted
            if wanted.sum() >= 100:
                break
        np.testing.assert_array_equal(loaded.run({"x": x})["y"].numpy(), wanted)


@pytest.mark.parametrize("steps", [3, 20])
def test_counted_loops_stack_their_results(steps: int) -> None:
    """Few steps are unrolled, many are a loop of the graph."""
    body = doubling("c", node("Neg", ["w"], ["scan"]))
    made = node("Loop", ["steps", "", "x"], ["y", "all"], body=body)
    weights = {"steps": np.array(steps, np.int64)}
    loaded = load(model([made], [tensor("x", [2])], ["y", "all"], weights=weights))
    assert ("loop" in kinds(loaded.graph)) == (steps > 8)
    found = loaded.run({"x": np.ones(2, np.float32)})
    powers = 2.0 ** np.arange(1, steps + 1, dtype=np.float32)
    np.testing.assert_array_equal(found["y"].numpy(), [powers[-1]] * 2)
    np.testing.assert_array_equal(found["all"].numpy(), -np.stack([powers, powers], 1))


@pytest.mark.parametrize("steps", [3, 20])
def test_scan(steps: int) -> None:
    nodes = [node("Add", ["s", "e"], ["t"]), node("Mul", ["t", "e"], ["o"])]
    body = helper.make_graph(
        nodes, "body", [tensor("s", [2]), tensor("e", [2])], [tensor("t", [2]), tensor("o", [2])]
    )
    made = node(
        "Scan", ["s0", "x"], ["last", "y"], body=body, num_scan_inputs=1,
        scan_input_axes=[1], scan_output_axes=[1], scan_input_directions=[1],
    )  # fmt: skip
    loaded = load(model([made], [tensor("s0", [2]), tensor("x", [2, steps])], ["last", "y"]))
    assert ("loop" in kinds(loaded.graph)) == (steps > 8)
    x = np.random.default_rng(0).standard_normal((2, steps)).astype(np.float32)
    found = loaded.run({"s0": np.zeros(2, np.float32), "x": x})
    turned = x[:, ::-1]
    sums = np.cumsum(turned, 1)
    np.testing.assert_allclose(found["last"].numpy(), sums[:, -1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["y"].numpy(), sums * turned, rtol=1e-5, atol=1e-6)


# --- functions, sequences, data-dependent shapes
def test_functions_of_the_model_are_inlined() -> None:
    function = helper.make_function(
        "org.example", "Scaled", ["x", "by"], ["y"],
        [node("Mul", ["x", "by"], ["t"]), node("LeakyRelu", ["t"], ["y"])],
        [helper.make_opsetid("", 21)],
        attributes=[], attribute_protos=[helper.make_attribute("alpha", 0.5)],
    )  # fmt: skip
    attribute = function.node[1].attribute.add()
    attribute.name, attribute.ref_attr_name, attribute.type = "alpha", "alpha", 1
    nodes = [
        node("Scaled", ["x", "two"], ["a"], domain="org.example"),
        node("Scaled", ["a", "two"], ["y"], domain="org.example", alpha=0.25),
    ]
    proto = model(
        nodes, [tensor("x", [2])], ["y"],
        weights={"two": np.array(2, np.float32)},
        domains={"org.example": 1}, functions=[function],
    )  # fmt: skip
    found = load(proto).run({"x": np.array([1, -1], np.float32)})["y"]
    assert found.tolist() == [4, -0.5]


def test_sequences_in_and_out() -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None))
    nodes = [
        node("SequenceAt", ["s", "one"], ["a"]),
        node("SequenceInsert", ["s", "a"], ["t"]),
        node("ConcatFromSequence", ["t"], ["y"], axis=0),
    ]
    proto = model(
        nodes, [helper.make_value_info("s", kind)], ["t", "y"],
        weights={"one": np.array(1, np.int64)},
    )  # fmt: skip
    found = load(proto).run({"s": [np.zeros(2, np.float32), np.ones(1, np.float32)]})
    assert [v.tolist() for v in found["t"]] == [[0, 0], [1], [1]]
    assert found["y"].tolist() == [0, 0, 1, 1]


def test_shapes_that_depend_on_values() -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("NonZero", ["r"], ["places"]),
        node("Transpose", ["places"], ["rows"], perm=[1, 0]),
        node("GatherND", ["r", "rows"], ["kept"]),
        node("Exp", ["kept"], ["y"]),
    ]
    loaded = load(model(nodes, [tensor("x", [2, 3])], ["y", "places"]))
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
        found = loaded.run({"x": x})
        np.testing.assert_array_equal(found["places"].numpy(), np.array(np.nonzero(x > 0)))
        np.testing.assert_allclose(found["y"].numpy(), np.exp(x[x > 0]), rtol=1e-6)


def detector() -> Any:
    """A picture, a convolution of some size, boxes and scores, and what NonMaxSuppression keeps."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Sigmoid", ["c"], ["d"]),
        node("Reshape", ["d", "flat"], ["e"]),
        node("Transpose", ["e"], ["f"], perm=[0, 2, 1]),
        node("Split", ["f"], ["boxes", "t"], axis=2, num_outputs=2),
        node("ReduceMean", ["t", "last"], ["s"], keepdims=0),
        node("Unsqueeze", ["s", "one"], ["scores"]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["kept"]),
        node("Gather", ["kept", "two"], ["places"], axis=1),
        node("Squeeze", ["boxes", "zero"], ["all"]),
        node("Gather", ["all", "places"], ["found"], axis=0),
        node("Exp", ["found"], ["y"]),
    ]
    draw = np.random.default_rng(0)
    weights = {
        "w": draw.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "flat": np.array([1, 8, -1]),
        "last": np.array([2]),
        "one": np.array([1]),
        "zero": np.array([0]),
        "two": np.array(2),
        "most": np.array(5),
        "overlap": np.array(0.3, np.float32),
    }
    return model(nodes, [tensor("x", [1, 3, 32, 32])], ["y", "kept"], weights=weights)


def test_values_in_the_middle_split_a_run_into_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes before is computed on the device; pictures of one kind are translated once."""
    from niello.frontends.onnx.importer import Importer

    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    session = runtime.InferenceSession(detector().SerializeToString())
    translations = []
    main = Importer.main

    def counted(self: Any, given: Any, start: int = 0) -> Any:
        translations.append(start)
        return main(self, given, start)

    monkeypatch.setattr(Importer, "main", counted)
    loaded = load(detector())
    draw = np.random.default_rng(1)
    for seed in range(4):
        picture = draw.standard_normal((1, 3, 32, 32)).astype(np.float32)
        found = loaded.run({"x": picture})
        y, kept = session.run(None, {"x": picture})
        np.testing.assert_array_equal(found["kept"].numpy(), kept)
        np.testing.assert_allclose(found["y"].numpy(), y, rtol=1e-5)
        if seed == 0:
            assert translations[0] == 0
            assert translations[-1] == 8  # behind NonMaxSuppression
    assert translations.count(0) == 1
    assert len(translations) <= 1 + 4  # one more for each number of boxes that is new


def test_long_fourier_transforms() -> None:
    proto = model([node("DFT", ["x"], ["y"], axis=1)], [tensor("x", [2, 300, 1])], ["y"], opset=17)
    x = np.random.default_rng(0).standard_normal((2, 300, 1)).astype(np.float32)
    wanted = np.fft.fft(x[..., 0])
    found = load(proto).run({"x": x})["y"].numpy()
    np.testing.assert_allclose(found[..., 0], wanted.real, atol=1e-4)
    np.testing.assert_allclose(found[..., 1], wanted.imag, atol=1e-4)


def test_inputs_that_are_outputs() -> None:
    nodes = [node("Identity", ["a"], ["b"]), node("Neg", ["a"], ["c"])]
    loaded = load(model(nodes, [tensor("a", [2])], ["b", "c"]))
    a = np.array([1, -2], np.float32)
    assert [v.tolist() for v in loaded.run({"a": a}).values()] == [[1, -2], [-1, 2]]
    assert [v.tolist() for v in loaded.compile().run([a])] == [[1, -2], [-1, 2]]


def test_the_examples_of_the_documentation() -> None:
    import doctest

    from niello.frontends import onnx as frontend

    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner()
    for value in (frontend.load, frontend.export, frontend.Model):
        (example,) = finder.find(value)
        assert example.examples
        runner.run(example)
    assert not runner.failures


def test_compiled_models_take_inputs_and_give_outputs_in_order() -> None:
    nodes = [node("Sub", ["a", "b"], ["d"]), node("Add", ["a", "b"], ["s"])]
    loaded = load(model(nodes, [tensor("a", ["n"]), tensor("b", ["n"])], ["s", "d"]))
    executable = loaded.compile({"a": (2,), "b": (2,)})
    s, d = executable.run([np.array([5, 6], np.float32), np.array([1, 2], np.float32)])
    assert (s.tolist(), d.tolist()) == ([6, 8], [4, 4])


def test_batch_norms_go_into_weights_that_the_layout_turns() -> None:
    draw = np.random.default_rng(0)
    nodes, weights, name, width = [], {}, "x", 3
    for i, size in enumerate((16, 32, 32)):
        weights[f"w{i}"] = draw.standard_normal((size, width, 3, 3)).astype(np.float32)
        weights |= {f"{k}{i}": draw.uniform(0.5, 1, size).astype(np.float32) for k in "sbmv"}
        nodes += [
            node("Conv", [name, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]),
            node("BatchNormalization", [f"c{i}", *(f"{k}{i}" for k in "sbmv")], [f"n{i}"]),
            node("Relu", [f"n{i}"], [f"r{i}"]),
            node("MaxPool", [f"r{i}"], [f"p{i}"], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        name, width = f"p{i}", size
    proto = model(nodes, [tensor("x", [1, 3, 32, 32])], [name], weights=weights, opset=17)
    made = load(proto).compile(device="cpu")
    names = {o.op.name for o in made.optimised.graph.operations}
    assert not names & {"multiply", "subtract", "divide"}
    x = draw.standard_normal((1, 3, 32, 32)).astype(np.float32)
    plain = load(proto).compile(device="cpu", options=nl.CompileOptions(optimise=False))
    found, wanted = (e.run([x])[0].numpy() for e in (made, plain))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * float(np.abs(wanted).max()))
