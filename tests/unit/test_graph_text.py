"""Graphs as text: every op there and back, golden text, and texts that nobody should trust."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from contract_cases import cases, operations
from hypothesis import given, settings
from hypothesis import strategies as st

import niello as nl
from niello.core.errors import CorruptFile
from niello.graph.evaluate import evaluate
from niello.graph.graph import GraphDefinition
from niello.graph.text import external_data, parse_graph, print_graph
from niello.graph.verify import verify
from niello.passes import pipeline
from niello.passes.computation import Computation


def there_and_back(graph: GraphDefinition) -> GraphDefinition:
    text = print_graph(graph)
    found = parse_graph(text, external_data(graph))
    assert print_graph(found) == text
    verify(found)
    return found


@pytest.mark.parametrize("name", operations())
def test_every_operation_there_and_back(name: str) -> None:
    for case in cases(name):
        inputs, outputs = case.build()
        graph = outputs[0].graph
        found = there_and_back(graph)
        made = found.operations[outputs[0].operation.number]
        assert made.op == outputs[0].operation.op, str(case)
        assert repr(made.op) == repr(outputs[0].operation.op), str(case)
        assert [t.type for t in made.outputs] == [t.type for t in outputs]


def sample() -> nl.Graph:
    graph = nl.Graph('a "quoted" \\ name')
    x = graph.placeholder((None, 3), name="x")
    free = graph.placeholder(None, nl.int32, name="free")
    w = graph.variable(np.ones((3, 2), np.float32), name="layer/w")
    with graph.name_scope("block"):
        y = nl.matmul(x, w).gelu(approximate="tanh") + graph.constant([0.5, -0.0])
    first, second = y.split(2, 1, name="half")
    big = graph.constant(np.arange(20, dtype=np.int64), name="big")
    strange = graph.placeholder((1,), nl.bfloat16, name="with space %")
    step = w.assign(w * float("inf"))
    with graph.control_dependencies([step]):
        _ = w.read(name="later"), first * second, free + 1, big[::-2], strange.pad([(0, 1)], value=-1.5)
    return graph


def test_a_graph_of_everything() -> None:
    graph = sample()
    found = there_and_back(graph)
    assert found.name == graph.name
    assert [o.name for o in found.operations] == [o.name for o in graph.operations]
    for a, b in zip(graph.operations, found.operations, strict=True):
        assert [c.name for c in a.control_inputs] == [c.name for c in b.control_inputs]
    assert list(found.variable_states) == ["layer/w"]
    assert found.variable_states["layer/w"].array.sum() == 0  # values are kept elsewhere


def test_text_of_a_graph(golden: Callable[[str, str], None]) -> None:
    golden(print_graph(sample()) + "\n", "graph.txt")


def test_text_after_each_pass(golden: Callable[[str, str], None]) -> None:
    graph = nl.Graph("passes")
    x = graph.placeholder((None, 4), name="x")
    scale = graph.constant(2.0) * graph.constant(3.0)
    y = nl.softmax(x * 1.0 + graph.constant(0.0)) * scale
    z = nl.softmax(x * 1.0 + graph.constant(0.0)).reshape((-1,)).reshape((-1, 2))
    source = Computation(graph, (x,), (y, z))
    stages = [f"// input\n{print_graph(source.graph)}"]
    types = [nl.TensorType((2, 4))]
    pipeline.run(
        pipeline.optimising(types),
        source,
        lambda stage, made: stages.append(f"// {stage}\n{print_graph(made.graph)}"),
    )
    golden("\n\n".join(stages) + "\n", "passes.txt")


def test_values_survive() -> None:
    graph = nl.Graph()
    x = graph.placeholder((4,), name="x")
    values = [0.1, -0.0, 1e-45, 3.4e38, float("inf"), float("nan")]
    y = x[:1] + graph.constant(np.array(values, np.float32))
    found = there_and_back(graph)
    fed = np.zeros(4, np.float32)
    same = found.operation(y.operation.name).outputs[0]
    (a,) = evaluate([y], {x: fed})
    (b,) = evaluate([same], {found.operation("x").outputs[0]: fed})
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", [d for d in nl.__all__ if isinstance(getattr(nl, d), nl.DType)])
def test_constants_of_every_dtype(dtype: str) -> None:
    kind = getattr(nl, dtype)
    graph = nl.Graph()
    for shape in ((), (1,), (3,), (0, 2), (2, 2), (5, 5)):
        array = np.random.default_rng(0).integers(0, 2, shape).astype(kind.numpy)
        graph.constant(array, name="c")
        graph.constant(1, kind, shape=shape, name="s")
    found = there_and_back(graph)
    for a, b in zip(graph.operations, found.operations, strict=True):
        np.testing.assert_array_equal(a.op.data.array, b.op.data.array)
        assert a.op.data.is_splat == b.op.data.is_splat


# --- texts that cannot be trusted
GOOD = """graph "g" {
  %x = placeholder() {type: float32[2, 3]}
  %c = constant() {data: splat(float32[], 2.0), dtype: float32}
  %y = multiply(%x, %c)
  %s = split(%y) {sizes: none, axis: 1, equal: true}
  %v = variable() {type: float32[3], variable: "v"}
}"""

HOSTILE = {
    "empty": "",
    "not a graph": "hello",
    "unfinished": 'graph "g" {\n  %x = placeholder() {type: float32[2]',
    "text after the end": 'graph "g" {\n}\nmore',
    "unknown operation": 'graph "g" {\n %x = launch_missiles()\n}',
    "python": 'graph "g" {\n %x = __import__("os")\n}',
    "unknown word": 'graph "g" {\n %x = placeholder() {type: evil}\n}',
    "operand not made yet": 'graph "g" {\n %y = exp(%x)\n %x = placeholder() {type: float32[2]}\n}',
    "operand of itself": 'graph "g" {\n %y = exp(%y)\n}',
    "control not made yet": 'graph "g" {\n %x = placeholder() {type: float32[2]} after (%z)\n}',
    "twice": 'graph "g" {\n %x = placeholder() {type: float32[]}\n'
    " %x = placeholder() {type: float32[]}\n}",
    "variable twice": 'graph "g" {\n %a = variable() {type: float32[1], variable: "v"}\n'
    ' %b = variable() {type: float32[1], variable: "v"}\n}',
    "negative size": 'graph "g" {\n %x = placeholder() {type: float32[-1]}\n}',
    "fractional size": 'graph "g" {\n %x = placeholder() {type: float32[1.5]}\n}',
    "size nan": 'graph "g" {\n %x = placeholder() {type: float32[nan]}\n}',
    "overflowing sizes": 'graph "g" {\n %x = placeholder() {type: float32[99999999999, 99999999999]}\n}',
    "long number": 'graph "g" {\n %x = placeholder() {type: float32[' + "9" * 5000 + "]}\n}",
    "17 dimensions": 'graph "g" {\n %x = placeholder() {type: float32[' + "1, " * 16 + "1]}\n}",
    "huge variable": 'graph "g" {\n %v = variable() {type: float32[4611686018427387904], variable: "v"}\n}',
    "variable of unknown size": 'graph "g" {\n %v = variable() {type: float32[?], variable: "v"}\n}',
    "variable of no type": 'graph "g" {\n %v = variable() {type: 3, variable: "v"}\n}',
    "placeholder of no type": 'graph "g" {\n %v = placeholder() {type: "float32"}\n}',
    "missing attribute": 'graph "g" {\n %x = placeholder()\n}',
    "extra attribute": 'graph "g" {\n %x = placeholder() {type: float32[], evil: 1}\n}',
    "deep nesting": 'graph "g" {\n %x = placeholder() {type: ' + "(" * 5000 + ")" * 5000 + "}\n}",
    "wrong constant": 'graph "g" {\n %c = constant() {data: dense(float32[2], (1.0)), dtype: float32}\n}',
    "constant of words": 'graph "g" {\n %c = constant() {data: dense(float32[1], ("a")), dtype: float32}\n}',
    "constant out of range": 'graph "g" {\n %c = constant() {data: dense(uint8[1], (300,)), dtype: uint8}\n}',
    "splat of many": 'graph "g" {\n %c = constant() {data: splat(float32[2], (1.0, 2.0)), dtype: float32}\n}',
    "constant of another dtype": 'graph "g" {\n %c = constant() {data: 3, dtype: float32}\n}',
    "missing data": 'graph "g" {\n %c = constant() {data: external(float32[99], "abc"), dtype: float32}\n}',
    "data of no name": 'graph "g" {\n %c = constant() {data: external(float32[9], ((),)), dtype: float32}\n}',
    "axis of no kind": GOOD.replace("axis: 1", 'axis: "one"'),
    "axis nowhere": GOOD.replace("axis: 1", "axis: 99"),
    "axis infinite": GOOD.replace("axis: 1", "axis: inf"),
    "sizes of no kind": GOOD.replace("sizes: none", "sizes: 2.5"),
    "too few operands": GOOD.replace("multiply(%x, %c)", "multiply(%x)"),
    "too many operands": GOOD.replace("multiply(%x, %c)", "multiply(%x, %c, %c, %c)"),
    "wrong number of results": GOOD.replace("%y = mul", "%y, %z = mul"),
    "assign to no variable": GOOD.replace("}\n}", '}\n  %a = assign(%x, %x) {variable: "v"}\n}'),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts(name: str) -> None:
    with pytest.raises(CorruptFile) as caught:
        verified = parse_graph(HOSTILE[name])
        verify(verified)
    assert caught.value.asked == "graph text"
    assert caught.value.problem.startswith("line ")


def test_the_text_that_hostile_ones_are_made_of() -> None:
    assert print_graph(parse_graph(GOOD.replace("sizes: none", "sizes: (2,)")))


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 12), st.text(max_size=12))
def test_mutilated_texts(start: int, removed: int, inserted: str) -> None:
    """Whatever is cut out or put in: a graph, or CorruptFile, and nothing else."""
    text = GOOD[:start] + inserted + GOOD[start + removed :]
    try:
        parse_graph(text)
    except CorruptFile as error:
        assert error.received is not None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_name(name: str) -> None:
    graph = nl.Graph(name)
    if name:
        graph.placeholder((1,), name=name)
    found = there_and_back(graph)
    assert [o.name for o in found.operations] == [o.name for o in graph.operations]
