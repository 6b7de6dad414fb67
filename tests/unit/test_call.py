"""Calls of other computations: values, variables, gradients, refusals."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.core.errors import GraphError, NielloError
from niello.graph.evaluate import evaluate

PAIR = [nl.TensorType((2,), nl.float64)]


def inner() -> nl.Graph:
    g = nl.Graph("inner")
    p = g.placeholder((None,), nl.float64, name="p")
    _ = p.sin() * p
    return g


def test_executable_with_a_variable_and_an_assignment() -> None:
    called = nl.Graph("called")
    x = called.placeholder((2,), name="x")
    v = called.variable(np.array([1.0, 2.0], np.float32), name="v")
    executable = called.compile({x: (2,)}, [x * v], [v.assign(v + 1.0)])
    g = nl.Graph()
    own = g.variable(np.float32(5), name="v")  # of the same name
    a = g.placeholder((2,), name="a")
    (b,) = g.call("scale", [a * own], [nl.TensorType((2,))])
    for device in ("cpu", "numpy"):
        v.value = [1.0, 2.0]
        made = g.compile({a: (2,)}, [b], device=device, callables={"scale": executable})
        assert np.asarray(made.run([[1.0, 3.0]])[0]).tolist() == [5, 30]
        assert np.asarray(v.value).tolist() == [2, 3]
        assert np.asarray(made.run([[1.0, 3.0]])[0]).tolist() == [10, 45]


def test_graph_by_name_inside_a_loop_and_in_another_callable() -> None:
    middle = nl.Graph("middle")
    q = middle.placeholder((2,), nl.float64, name="q")
    nl.call("inner", [q], PAIR)[0] + 1.0
    g = nl.Graph()
    a = g.placeholder((2,), nl.float64, name="a")
    y = nl.for_(2, a, lambda i, t: nl.call("middle", [t], PAIR)[0])
    made = g.compile({a: (2,)}, [y], callables={"middle": middle, "inner": inner()})
    value = np.array([0.5, -1.0])
    want = value
    for _ in range(2):
        want = np.sin(want) * want + 1
    np.testing.assert_allclose(np.asarray(made.run([value])[0]), want, rtol=1e-12)


def test_gradients_of_every_order() -> None:
    found = []
    for kind in ("call", "operations"):
        g = nl.Graph()
        a = g.placeholder((2,), nl.float64, name="a")

        def f(t, kind=kind):
            return nl.call("f", [t], PAIR)[0] if kind == "call" else t.sin() * t

        targets = []
        for y in (
            f(a),
            f(f(a)),
            nl.for_(2, a, lambda i, t: f(t)),
            nl.if_(a[0] > 0.0, lambda a=a, f=f: f(a), lambda a=a: a),
        ):
            for _ in range(4):
                targets.append(y)
                y = g.gradients(y, [a])[a]
        made = g.compile({a: (2,)}, targets, callables={"f": inner()})
        found.append([np.asarray(t) for t in made.run([np.array([1.0, 3.0])])])
    for called, written in zip(*found, strict=True):
        np.testing.assert_allclose(called, written, rtol=1e-10)


def refused(callables: object, types: list[nl.TensorType] | None = None) -> str:
    g = nl.Graph()
    a = g.placeholder((2,), nl.float64, name="a")
    (b, *_) = g.call("f", [a], PAIR if types is None else types)
    with pytest.raises(GraphError) as error:
        g.compile({a: (2,)}, [b], callables=callables)  # type: ignore[arg-type]
    return str(error.value)


def test_refusals() -> None:
    assert "callables=" in refused(None)
    assert "callables=" in refused({"g": inner()})
    assert "executable or a graph" in refused({"f": 3})
    assert "declared as float32[2]" in refused({"f": inner()}, [nl.TensorType((2,))])
    assert "1 results" in refused({"f": inner()}, PAIR * 2)
    two = nl.Graph("two")
    _ = two.placeholder((2,), nl.float64) + two.placeholder((2,), nl.float64)
    assert "takes 2 inputs" in refused({"f": two})
    wrong = nl.Graph("wrong")
    _ = wrong.placeholder((3,), nl.float64) + 1.0
    assert "input placeholder is declared as float64[3]" in refused({"f": wrong})
    itself = nl.Graph("itself")
    nl.call("f", [itself.placeholder((2,), nl.float64)], PAIR)
    assert "calls itself" in refused({"f": itself})
    with pytest.raises(GraphError, match="none of the inputs is a tensor"):
        nl.call("f", [3.0], PAIR)
    with pytest.raises(GraphError, match="TensorType"):
        nl.Graph().call("f", [], [(2,)])


def test_evaluation_does_not_know_what_is_called() -> None:
    g = nl.Graph()
    a = g.placeholder((2,), nl.float64, name="a")
    (b,) = g.call("f", [a], PAIR)
    with pytest.raises(NielloError, match="callables="):
        evaluate([b], {a: np.zeros(2)})


def test_text_there_and_back() -> None:
    g = nl.Graph()
    a = g.placeholder((2,), nl.float64, name="a")
    g.call("f", [a], PAIR)
    text = nl.print_graph(g)
    assert nl.print_graph(nl.parse_graph(text)) == text
