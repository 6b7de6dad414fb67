"""Branches and loops as they are built, printed, verified and refused."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, GraphError, NielloError, ShapeError
from niello.graph.control_flow import If, Loop
from niello.graph.evaluate import evaluate
from niello.graph.region import every_operation
from niello.graph.verify import verify
from tests.unit.control_flow_cases import CASES


@pytest.mark.parametrize("name", CASES)
def test_text_there_and_back(name: str) -> None:
    built = CASES[name]()
    verify(built.graph)
    text = nl.print_graph(built.graph)
    again = nl.parse_graph(text)
    verify(again)
    assert nl.print_graph(again) == text
    known = {t.name: t for o in again.operations for t in o.outputs}
    feeds = {known[t.name]: np.asarray(a) for t, a in built.feeds.items()}
    found = evaluate([known[t.name] for t in built.targets], feeds)
    for a, b in zip(found, built.expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_text_with_variables_and_effects() -> None:
    g = nl.Graph()
    v = g.variable(np.zeros(2, np.float32), name="v")
    nl.for_(2, [], lambda i: v.assign(v.read() + 1.0) and None, graph=g, name="steps")
    text = nl.print_graph(g)
    again = nl.parse_graph(text)
    assert nl.print_graph(again) == text
    assert again.operation("steps").op.written == ("v",)
    assert list(again.variable_states) == ["v"]


def test_gradients_read_from_text_run_one_forward_loop() -> None:
    g = nl.Graph()
    x = g.placeholder((2,), name="x")
    y = nl.for_(3, x, lambda i, a: a.sin()).sum()
    grad = g.gradients(y, [x])[x]
    again = nl.parse_graph(nl.print_graph(g), make=nl.Graph)
    known = {t.name: t for o in again.operations for t in o.outputs}
    made = again.compile({known["x"]: (2,)}, [known[y.name], known[grad.name]])
    assert made.as_text("graph").count("= loop(") == 2


def test_names_are_unique_in_all_regions() -> None:
    g = nl.Graph()
    x = g.placeholder((), name="x")
    y = nl.for_(2, x, lambda i, a: nl.if_(a > 0.0, lambda: a + 1.0, lambda: a - 1.0), name="loop")
    nl.for_(2, y, lambda i, a: a * 2.0, name="loop")
    names = [o.name for o in every_operation(g)]
    assert len(names) == len(set(names))
    assert "loop/body/if/then/add" in names and "loop_1/body/multiply" in names


def test_results_have_the_form_of_what_was_given() -> None:
    g = nl.Graph()
    x = g.placeholder((2,), name="x")
    assert isinstance(nl.for_(2, x, lambda i, a: a), nl.Tensor)
    assert [t.shape for t in nl.for_(2, [x], lambda i, a: [a])] == [(2,)]
    assert isinstance(nl.if_(x.sum() > 0.0, lambda: x, lambda: 0.0 * x), nl.Tensor)
    found = nl.if_(x.sum() > 0.0, lambda: (x, 1), lambda: [x, x.sum().cast(nl.int32)])
    assert [t.dtype for t in found] == [nl.float32, nl.int32]


def test_python_numbers_take_the_type_of_the_others() -> None:
    g = nl.Graph()
    x = g.placeholder((), nl.float64, name="x")
    assert nl.if_(x > 0.0, lambda: 1, lambda: x).dtype is nl.float64
    assert nl.for_(2, x, lambda i, a: 3).dtype is nl.float64


def test_a_captured_tensor_is_one_parameter() -> None:
    g = nl.Graph()
    x = g.placeholder((2,), name="x")
    w = g.placeholder((2,), name="w")
    nl.for_(2, x, lambda i, a: a * w + w, name="loop")
    op = g.operation("loop").op
    assert isinstance(op, Loop)
    assert len(op.body.parameters) == 3
    nl.if_(x.sum() > 0.0, lambda: w, lambda: w * x, name="branch")
    branch = g.operation("branch").op
    assert isinstance(branch, If)
    assert [len(r.parameters) for r in branch.regions] == [2, 2]


def test_variables_made_inside_belong_to_the_graph() -> None:
    g = nl.Graph()
    x = g.placeholder((), name="x")

    def body(i, a):
        v = g.variable(np.float32(2), name="inner")
        return a * v

    y = nl.for_(3, x, body)
    assert list(g.variable_states) == ["inner"]
    assert g.run({x: 1.0}, [y])[y].item() == 8


def test_gradients_with_respect_to_captured_tensors_inside() -> None:
    g = nl.Graph()
    x = g.placeholder((), name="x")
    y = nl.for_(2, x, lambda i, a: a + g.gradients(x * x * a, [x])[x])
    found = g.run({x: 3.0}, [y])[y].item()
    a = 3.0
    for _ in range(2):
        a = a + 2 * 3.0 * a
    assert found == a


def build(function):
    g = nl.Graph()
    x = g.placeholder((2,), name="x")
    n = g.placeholder((), nl.int32, name="n")
    before = len(g.operations)
    try:
        function(g, x, n)
    except NielloError:
        assert g.innermost is g, "a failed function must not leave its region open"
        assert (x + 1.0).graph is g and len(g.operations) > before
        raise


REFUSED = {
    "dtypes of branches": (
        lambda g, x, n: nl.if_(n > 0, lambda: x, lambda: x.cast(nl.float64)),
        DTypeError,
        "result 0 of the branches",
    ),
    "shapes of branches": (
        lambda g, x, n: nl.if_(n > 0, lambda: x, lambda: x.sum()),
        ShapeError,
        "result 0 of the branches",
    ),
    "counts of branches": (
        lambda g, x, n: nl.if_(n > 0, lambda: [x, x], lambda: [x]),
        GraphError,
        "as many tensors",
    ),
    "one branch without results": (
        lambda g, x, n: nl.if_(n > 0, lambda: x, lambda: None),
        GraphError,
        "nothing from otherwise",
    ),
    "a predicate of several elements": (
        lambda g, x, n: nl.if_(x > 0.0, lambda: x, lambda: x),
        ShapeError,
        "nl.any",
    ),
    "a Python predicate": (
        lambda g, x, n: nl.if_(True, lambda: x, lambda: x),
        GraphError,
        "Python's own if",
    ),
    "no functions": (lambda g, x, n: nl.if_(n > 0, x, x), GraphError, "lambda"),
    "carried dtype": (
        lambda g, x, n: nl.for_(2, x, lambda i, a: a.cast(nl.int32)),
        DTypeError,
        "carried value 0",
    ),
    "carried shape": (
        lambda g, x, n: nl.for_(2, [n, x], lambda i, m, a: [m, nl.concat([a, a])]),
        ShapeError,
        "carried value 1",
    ),
    "too few carried": (
        lambda g, x, n: nl.for_(2, [x, n], lambda i, a, m: a),
        GraphError,
        "the 2 values",
    ),
    "too many carried": (
        lambda g, x, n: nl.while_(x, lambda a: n > 0, lambda a: [a, a]),
        GraphError,
        "the 1 values",
    ),
    "condition of several elements": (
        lambda g, x, n: nl.while_(x, lambda a: a > 0.0, lambda a: a),
        ShapeError,
        "one element",
    ),
    "an assignment returned": (
        lambda g, x, n: nl.for_(2, x, lambda i, a: g.variable(1.0).assign(1.0)),
        GraphError,
        "run by themselves",
    ),
    "an assignment in a condition": (
        lambda g, x, n: nl.while_(
            n, lambda a: [g.variable(1.0).assign(2.0), a > 0][1], lambda a: a
        ),
        GraphError,
        "condition",
    ),
    "a placeholder inside": (
        lambda g, x, n: nl.for_(2, x, lambda i, a: a + g.placeholder((2,))),
        GraphError,
        "placeholders of its own",
    ),
    "a float count": (
        lambda g, x, n: nl.for_(2.5, x, lambda i, a: a),
        AttributeValueError,
        "integers",
    ),
    "a negative count": (
        lambda g, x, n: nl.for_(-1, x, lambda i, a: a),
        AttributeValueError,
        "from 0",
    ),
    "a count of floats": (
        lambda g, x, n: nl.for_(x.sum(), x, lambda i, a: a),
        DTypeError,
        "integers",
    ),
    "step 0": (
        lambda g, x, n: nl.for_((0, 5, 0), x, lambda i, a: a),
        AttributeValueError,
        "must not be 0",
    ),
    "a negative step": (
        lambda g, x, n: nl.for_((0, n, -1), x, lambda i, a: a),
        AttributeValueError,
        "positive",
    ),
    "a bound too many": (
        lambda g, x, n: nl.for_((0, n, 1, 1), x, lambda i, a: a),
        AttributeValueError,
        "bounds are",
    ),
    "no graph": (lambda g, x, n: nl.for_(2, 1.0, lambda i, a: a), GraphError, "graph="),
    "a scan of nothing": (
        lambda g, x, n: nl.scan([], [x], lambda i, s, c: (c, [])),
        GraphError,
        "length=",
    ),
    "a scan of a scalar": (
        lambda g, x, n: nl.scan([n], [x], lambda i, s, c: (c, [])),
        ShapeError,
        "first axis",
    ),
    "scans of different lengths": (
        lambda g, x, n: nl.scan([x, nl.concat([x, x])], [x], lambda i, s, c: (c, [])),
        ShapeError,
        "must be equal",
    ),
    "a scan that returns one list": (
        lambda g, x, n: nl.scan([x], [x], lambda i, s, c: c),
        GraphError,
        "two lists",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words) as error:
        build(function)
    assert not isinstance(error.value, AssertionError)


def test_a_tensor_does_not_leave_its_region() -> None:
    g = nl.Graph()
    x = g.placeholder((2,), name="x")
    kept = []
    nl.for_(2, x, lambda i, a: [kept.append(a), a][1])
    with pytest.raises(GraphError, match="is built"):
        kept[0] + 1.0
    with pytest.raises(GraphError, match="leaves it as a result"):
        x + kept[0]


def test_shapes_that_disagree_once_they_are_known() -> None:
    g = nl.Graph()
    x = g.placeholder((None,), name="x")
    y = nl.for_(2, x, lambda i, a: nl.concat([a, a[:1]]))
    with pytest.raises(ShapeError, match="carried value 0"):
        g.run({x: [1.0, 2.0]}, [y])


def test_where_points_at_the_user() -> None:
    g = nl.Graph()
    x = g.placeholder((2, 3), name="x")
    with pytest.raises(ShapeError) as error:
        nl.for_(2, x, lambda i, a: a @ x)
    assert __file__ in error.value.where


def test_inspection_shows_what_is_inside() -> None:
    built = CASES["nested"]()
    executable = built.graph.compile(built.types(), built.targets)
    text = executable.as_text()
    assert "loop up to" in text and "body:" in text and "if arena" in text and "then:" in text
    deepest = max(len(line) - len(line.lstrip()) for line in text.splitlines())
    assert deepest >= 12
    assert executable.kernel_count >= 4
    assert executable.as_text("graph").count("region ") == 4
