"""Graphs as text: every op there and back, golden text, and texts that nobody should trust."""

from __future__ import annotations

import contextlib
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
        _, outputs = case.build()
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
        _ = (
            w.read(name="later"),
            first * second,
            free + 1,
            big[::-2],
            strange.pad([(0, 1)], value=-1.5),
        )
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


def lines(*text: str) -> str:
    """A graph of these lines."""
    return 'graph "g" {\n' + "\n".join(text) + "\n}"


def placed(type: str) -> str:
    return lines(f"%x = placeholder() {{type: {type}}}")


def kept(data: str, dtype: str = "float32") -> str:
    return lines(f"%c = constant() {{data: {data}, dtype: {dtype}}}")


def stored(type: str) -> str:
    return f'%v = variable() {{type: {type}, variable: "v"}}'


HOSTILE = {
    "empty": "",
    "not a graph": "hello",
    "unfinished": 'graph "g" {\n  %x = placeholder() {type: float32[2]',
    "text after the end": 'graph "g" {\n}\nmore',
    "unknown operation": lines("%x = launch_missiles()"),
    "python": lines('%x = __import__("os")'),
    "unknown word": placed("evil"),
    "operand not made yet": lines("%y = exp(%x)", "%x = placeholder() {type: float32[2]}"),
    "operand of itself": lines("%y = exp(%y)"),
    "control not made yet": lines("%x = placeholder() {type: float32[2]} after (%z)"),
    "twice": lines(*["%x = placeholder() {type: float32[]}"] * 2),
    "variable twice": lines(stored("float32[1]"), stored("float32[1]").replace("%v", "%w")),
    "negative size": placed("float32[-1]"),
    "fractional size": placed("float32[1.5]"),
    "size nan": placed("float32[nan]"),
    "overflowing sizes": placed("float32[99999999999, 99999999999]"),
    "long number": placed(f"float32[{'9' * 5000}]"),
    "17 dimensions": placed(f"float32[{'1, ' * 16}1]"),
    "huge variable": lines(stored("float32[4611686018427387904]")),
    "variable of unknown size": lines(stored("float32[?]")),
    "variable of no type": lines(stored("3")),
    "placeholder of no type": placed('"float32"'),
    "missing attribute": lines("%x = placeholder()"),
    "extra attribute": placed("float32[], evil: 1"),
    "deep nesting": placed("(" * 5000 + ")" * 5000),
    "wrong constant": kept("dense(float32[2], (1.0))"),
    "constant of words": kept('dense(float32[1], ("a"))'),
    "constant out of range": kept("dense(uint8[1], (300,))", "uint8"),
    "splat of many": kept("splat(float32[2], (1.0, 2.0))"),
    "constant of another dtype": kept("3"),
    "missing data": kept('external(float32[99], "abc")'),
    "data of no name": kept("external(float32[9], ((),))"),
    "axis of no kind": GOOD.replace("axis: 1", 'axis: "one"'),
    "axis nowhere": GOOD.replace("axis: 1", "axis: 99"),
    "axis infinite": GOOD.replace("axis: 1", "axis: inf"),
    "sizes of no kind": GOOD.replace("sizes: none", "sizes: 2.5"),
    "too few operands": GOOD.replace("multiply(%x, %c)", "multiply(%x)"),
    "too many operands": GOOD.replace("multiply(%x, %c)", "multiply(%x, %c, %c, %c)"),
    "wrong number of results": GOOD.replace("%y = mul", "%y, %z = mul"),
    "assign to no variable": GOOD.replace("}\n}", '}\n  %a = assign(%x, %x) {variable: "v"}\n}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts(name: str) -> None:
    with pytest.raises(CorruptFile) as caught:
        parse_graph(HOSTILE[name])
    assert caught.value.asked == "graph text"
    assert caught.value.problem.startswith("line ")


def test_the_text_that_hostile_ones_are_made_of() -> None:
    assert print_graph(parse_graph(GOOD.replace("sizes: none", "sizes: (2,)")))


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 12), st.text(max_size=12))
def test_mutilated_texts(start: int, removed: int, inserted: str) -> None:
    """Whatever is cut out or put in: a graph, or CorruptFile, and nothing else."""
    text = GOOD[:start] + inserted + GOOD[start + removed :]
    with contextlib.suppress(CorruptFile):
        verify(parse_graph(text))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_name(name: str) -> None:
    graph = nl.Graph(name)
    if name:
        graph.placeholder((1,), name=name)
    found = there_and_back(graph)
    assert [o.name for o in found.operations] == [o.name for o in graph.operations]
