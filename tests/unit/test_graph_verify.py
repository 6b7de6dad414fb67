"""The verifier finds what each rule forbids, in graphs that were broken by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import niello as nl
from niello.core.errors import CompilerBug, GraphError
from niello.executable.compile import pipeline
from niello.graph.graph import GraphDefinition
from niello.graph.region import Region, RegionOp
from niello.graph.tensor import Tensor
from niello.graph.verify import RULES, acyclic, verify
from niello.passes.computation import Computation


def graph_of() -> nl.Graph:
    graph = nl.Graph()
    x = graph.placeholder((2, 3), name="x")
    v = graph.variable(np.ones(3, np.float32), name="v")
    y = (x + v).exp() * graph.constant([1.0, 2.0, 3.0], name="c")
    with graph.control_dependencies([v.assign(y.sum(0))]):
        _ = v.read() + 1.0
    return graph


def swap(graph: nl.Graph, a: int, b: int) -> None:
    operations = graph.operations
    operations[a], operations[b] = operations[b], operations[a]
    for i in (a, b):
        operations[i].number = i


def rename(graph: nl.Graph) -> None:
    graph.operations[1].name = "x"


def foreign(graph: nl.Graph) -> None:
    graph.operation("exp").inputs = (nl.Graph().placeholder((2, 3)),)


def wrong_type(graph: nl.Graph) -> None:
    graph.operation("exp").outputs[0].type = nl.TensorType((9,))


def lost_result(graph: nl.Graph) -> None:
    exp = graph.operation("exp")
    graph.operation("multiply").inputs = (Tensor(exp, 0, exp.outputs[0].type),) * 2


def wrong_index(graph: nl.Graph) -> None:
    graph.operation("exp").outputs[0].index = 3


def wrong_number(graph: nl.Graph) -> None:
    graph.operation("exp").number = 77


def no_storage(graph: nl.Graph) -> None:
    graph.variable_states.clear()


def other_storage(graph: nl.Graph) -> None:
    graph.variable_states["v"].array = np.zeros(9, np.float32)


def other_variable(graph: nl.Graph) -> None:
    graph.operation("assign").inputs = (graph.operation("x").outputs[0],) * 2


def writable(graph: nl.Graph) -> None:
    data = graph.operation("c").op.data
    data.array = data.array.copy()


def foreign_control(graph: nl.Graph) -> None:
    other = nl.Graph().placeholder((1,)).operation
    graph.operation("exp").control_inputs = (other,)


def refused_operands(graph: nl.Graph) -> None:
    graph.operation("add").inputs = (graph.operation("x").outputs[0],)


def looped(graph: nl.Graph) -> Region:
    w = graph.placeholder((2, 3), name="w")
    nl.for_(2, graph.operation("x").outputs[0], lambda i, a: a.exp() + w, name="loop")
    op = graph.operation("loop").op
    assert isinstance(op, RegionOp)
    return op.regions[0]


def other_parameters(graph: nl.Graph) -> None:
    looped(graph).parameters[-1].type = nl.TensorType((7,))


def lost_parameter(graph: nl.Graph) -> None:
    region = looped(graph)
    region.parameters = (*region.parameters[:-1], region.parameters[1])


def foreign_result(graph: nl.Graph) -> None:
    looped(graph).results = (graph.operation("x").outputs[0],)


def wrong_inside(graph: nl.Graph) -> None:
    looped(graph).graph.operation("loop/body/exp").number = 77


BREAKS: list[tuple[Callable[[nl.Graph], None], str]] = [
    (rename, "names_are_unique"),
    (foreign, "operands_come_first"),
    (lambda g: swap(g, 0, 2), "operands_come_first"),
    (lost_result, "operands_come_first"),
    (wrong_type, "types_are_inferred"),
    (wrong_index, "results_know_their_place"),
    (wrong_number, "operations_are_numbered"),
    (no_storage, "variables_have_storage"),
    (other_storage, "variables_have_storage"),
    (other_variable, "variables_have_storage"),
    (writable, "constants_are_frozen"),
    (foreign_control, "controls_belong_here"),
    (other_parameters, "regions_fit"),
    (lost_parameter, "regions_fit"),
    (foreign_result, "regions_fit"),
    (wrong_inside, "regions_fit"),
]


def test_a_sound_graph_passes() -> None:
    verify(graph_of())


@pytest.mark.parametrize(("breaks", "rule"), BREAKS, ids=lambda v: getattr(v, "__name__", v))
def test_each_rule(breaks: Callable[[nl.Graph], None], rule: str) -> None:
    graph = graph_of()
    breaks(graph)
    with pytest.raises(CompilerBug) as caught:
        verify(graph)
    assert caught.value.rule == rule
    assert rule in str(caught.value)
    assert caught.value.received


def test_every_rule_is_broken_by_some_test() -> None:
    assert {rule for _, rule in BREAKS} == {r.__name__ for r in RULES}
    assert all(r.__doc__ for r in RULES)


def test_cycles() -> None:
    graph = graph_of()
    first, last = graph.operation("add"), graph.operation("multiply")
    acyclic(graph.operations)
    first.control_inputs = (last,)
    with pytest.raises(GraphError, match="form a cycle") as caught:
        verify(graph)
    assert set(caught.value.cycle) == {"add", "exp", "multiply"}
    assert __file__ in caught.value.where


def test_control_inputs_may_point_forward_without_a_cycle() -> None:
    graph = nl.Graph()
    x = graph.placeholder((1,))
    a, b = x + 1.0, x + 2.0
    a.operation.control_inputs = (b.operation,)
    acyclic(graph.operations)


# --- in compilation
def broken_pass(change: Callable[[Computation], Computation]) -> object:
    class Broken:
        def __call__(self, source: Computation) -> Computation:
            return change(source)

    return Broken()


def with_pass(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Computation], Computation]
) -> None:
    original = pipeline.optimising

    def longer(*given: object) -> tuple[object, ...]:
        return (*original(*given), broken_pass(change))

    monkeypatch.setattr(pipeline, "optimising", longer)


def duplicate_names(source: Computation) -> Computation:
    for o in source.graph.operations:
        o.name = "same"
    return source


def other_value(source: Computation) -> Computation:
    graph: GraphDefinition = source.graph
    (target,) = source.targets
    return Computation(graph, source.inputs, (target + 1.0,))


def compile_exp() -> None:
    graph = nl.Graph()
    x = graph.placeholder((3,))
    graph.compile({x: (3,)}, [x.exp()], device="numpy")


def test_a_pass_that_breaks_the_graph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_pass(monkeypatch, duplicate_names)
    monkeypatch.setenv("NIELLO_VERIFY", "1")
    with pytest.raises(CompilerBug, match="pass broken"):
        compile_exp()
    monkeypatch.setenv("NIELLO_VERIFY", "0")
    compile_exp()


def test_a_pass_that_changes_values_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_pass(monkeypatch, other_value)
    monkeypatch.setenv("NIELLO_VERIFY", "1")
    compile_exp()
    monkeypatch.setenv("NIELLO_VERIFY", "2")
    with pytest.raises(CompilerBug, match="changed the value") as caught:
        compile_exp()
    assert caught.value.stage == "broken"


@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_levels_on_a_graph_with_everything(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("NIELLO_VERIFY", level)
    graph = graph_of()
    x = graph.operation("x").outputs[0]
    late = graph.operations[-1].outputs[0]
    found = graph.run({x: np.zeros((2, 3), np.float32)}, [late], device="numpy")[late]
    expected = 2 * np.e * np.array([1, 2, 3]) + 1
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_kernel_that_is_not_well_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    from niello.executable import compile as stages

    seen = []
    monkeypatch.setenv("NIELLO_VERIFY", "1")
    monkeypatch.setattr(stages, "verify_kernel", seen.append)
    compile_exp()
    assert len(seen) == 1
