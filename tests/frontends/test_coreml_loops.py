"""Loops, breaks and branches of Core ML neural networks, against the same loops in Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from niello import errors
from niello.frontends.coreml import load
from niello.frontends.coreml.messages import new_model


def network(*inputs: str) -> Any:
    """A model of vectors of two, with an output y."""
    spec = new_model()
    spec.specificationVersion = 4
    for name in (*inputs, ""):
        put = (
            spec.description.input.add(name=name) if name else spec.description.output.add(name="y")
        )
        put.type.multiArrayType.shape.append(2)
        put.type.multiArrayType.dataType = 65568
    spec.neuralNetwork.arrayInputShapeMapping = 1
    return spec


def add(layers: Any, kind: str, into: str, *names: str, **settings: Any) -> Any:
    """A layer with settings; its parameters."""
    made = layers.add(name=f"{kind}{len(layers)}", input=names, output=[into] if into else [])
    params = getattr(made, kind)
    params.SetInParent()
    for name, value in settings.items():
        setattr(params, name, value)
    return params


def constant(layers: Any, into: str, values: list[float]) -> None:
    p = add(layers, "loadConstantND", into)
    p.shape.append(len(values))
    p.data.floatValue.extend(values)


def run(spec: Any, **feeds: Any) -> list[float]:
    found: list[float] = load(spec).run(feeds)["y"].numpy().tolist()
    return found


@pytest.mark.parametrize("count", [0, 1, 3, 8, 9, 30])
@pytest.mark.parametrize("fed", [False, True])
def test_loop_of_a_number_of_steps(count: int, fed: bool) -> None:
    spec = network("x")
    layers = spec.neuralNetwork.layers
    if fed:
        n = spec.description.input.add(name="n").type.multiArrayType
        n.shape.append(1)
        n.dataType = 65568
    add(layers, "activation", "y", "x").linear.alpha = 1.0
    p = layers.add(name="l", input=["n"] if fed else []).loop
    p.maxLoopIterations = 99 if fed else count
    add(p.bodyNetwork.layers, "multiply", "y", "y", alpha=1.125)
    feeds = {"n": np.array([count], np.float32)} if fed else {}
    wanted = np.array([1, -3], np.float32) * np.float32(1.125**count)
    if count == 0 and not fed:
        wanted = np.array([1, -3], np.float32)
    assert run(spec, x=np.array([1, -3], np.float32), **feeds) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("start", [1.0, 7.0, 1000.0, 2000.0])
@pytest.mark.parametrize("most", [0, 3, 20])
def test_loop_while_a_condition_holds(start: float, most: int) -> None:
    """The condition network writes too: it counts how often it was asked."""
    spec = network("x")
    layers = spec.neuralNetwork.layers
    constant(layers, "asked", [0.0, 0.0])
    add(layers, "activation", "v", "x").linear.alpha = 1.0
    p = layers.add(name="l").loop
    p.maxLoopIterations, p.conditionVar = most, "go"
    inside = p.conditionNetwork.layers
    add(inside, "add", "asked", "asked", alpha=1.0)
    add(inside, "reduceSum", "total", "v", reduceAll=True)
    add(inside, "lessThan", "go", "total", alpha=1000.0)
    add(p.bodyNetwork.layers, "add", "doubled", "v", "v")
    add(p.bodyNetwork.layers, "activation", "v", "doubled").linear.alpha = 1.0
    layers.add(name="c", input=["v", "asked"], output=["y"]).add.SetInParent()
    value, asked, steps = np.array([start, 1.0]), 1, 0
    while value.sum() < 1000 and (not most or steps < most):
        value, steps, asked = value * 2, steps + 1, asked + 1
    assert run(spec, x=np.array([start, 1], np.float32)) == pytest.approx(list(value + asked))


def broken(kind: str, count: int, at: float, nested: bool = False) -> Any:
    """y += 1; total += x; stop where total > at; y *= 2."""
    spec = network("x")
    layers = spec.neuralNetwork.layers
    constant(layers, "y", [0.0, 0.0])
    constant(layers, "total", [0.0])
    p = layers.add(name="l").loop
    p.maxLoopIterations = count
    inside = p.bodyNetwork.layers
    add(inside, "add", "y", "y", alpha=1.0)
    add(inside, "reduceSum", "s", "x", reduceAll=True)
    add(inside, "addBroadcastable", "total", "total", "s")
    add(inside, "greaterThan", "big", "total", alpha=at)
    side = inside.add(name="b", input=["big"]).branch.ifBranch.layers
    if nested:
        add(side, "lessThan", "not_nan", "total", alpha=1e9)
        side = side.add(name="b2", input=["not_nan"]).branch.ifBranch.layers
    add(side, kind, "")
    add(inside, "multiply", "y", "y", alpha=2.0)
    return spec


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["loopBreak", "loopContinue"])
@pytest.mark.parametrize(("count", "at"), [(6, 5.0), (6, 100.0), (12, 15.0)])
def test_steps_that_end_early(kind: str, count: int, at: float, nested: bool) -> None:
    y, total = 0.0, 0.0
    for _ in range(count):
        y, total = y + 1, total + 2
        if total > at:
            if kind == "loopBreak":
                break
            continue
        y *= 2
    found = run(broken(kind, count, at, nested), x=np.array([0.5, 1.5], np.float32))
    assert found == pytest.approx([y, y])


def test_a_break_that_is_always_met() -> None:
    spec = network("x")
    layers = spec.neuralNetwork.layers
    add(layers, "activation", "y", "x").linear.alpha = 1.0
    p = layers.add(name="l").loop
    p.maxLoopIterations = 50
    add(p.bodyNetwork.layers, "add", "y", "y", alpha=1.0)
    add(p.bodyNetwork.layers, "loopBreak", "")
    add(p.bodyNetwork.layers, "add", "y", "y", alpha=100.0)
    assert run(spec, x=np.array([1, 2], np.float32)) == [2.0, 3.0]


def test_loops_inside_of_loops() -> None:
    spec = network("x")
    layers = spec.neuralNetwork.layers
    add(layers, "activation", "y", "x").linear.alpha = 1.0
    outer = layers.add(name="l").loop
    outer.maxLoopIterations = 10
    inner = outer.bodyNetwork.layers.add(name="i").loop
    inner.maxLoopIterations = 11
    add(inner.bodyNetwork.layers, "add", "y", "y", alpha=1.0)
    add(inner.bodyNetwork.layers, "reduceMin", "least", "y", reduceAll=True)
    add(inner.bodyNetwork.layers, "greaterThan", "over", "least", alpha=40.0)
    side = inner.bodyNetwork.layers.add(name="b", input=["over"]).branch.ifBranch.layers
    add(side, "loopBreak", "")
    y = 0
    for _ in range(10):
        for _ in range(11):
            y += 1
            if y > 40:
                break
    assert run(spec, x=np.array([0, 0.5], np.float32)) == [y, y + 0.5]


def test_names_that_nested_branches_write() -> None:
    spec = network("x")
    layers = spec.neuralNetwork.layers
    add(layers, "reduceSum", "s", "x", reduceAll=True)
    add(layers, "greaterThan", "positive", "s", alpha=0.0)
    add(layers, "greaterThan", "large", "s", alpha=10.0)
    first = layers.add(name="b", input=["positive"]).branch
    second = first.ifBranch.layers.add(name="c", input=["large"]).branch
    add(second.ifBranch.layers, "multiply", "y", "x", alpha=3.0)
    add(second.elseBranch.layers, "multiply", "y", "x", alpha=2.0)
    add(first.elseBranch.layers, "multiply", "y", "x", alpha=-1.0)
    for value, factor in ((1.0, 2.0), (20.0, 3.0), (-1.0, -1.0)):
        assert run(spec, x=np.array([value, 1.0], np.float32)) == [value * factor, factor]


def test_a_break_outside_of_loops_is_refused() -> None:
    spec = network("x")
    add(spec.neuralNetwork.layers, "loopBreak", "")
    add(spec.neuralNetwork.layers, "activation", "y", "x").linear.alpha = 1.0
    with pytest.raises(errors.FrontendError, match="outside of a loop"):
        run(spec, x=np.array([1, 2], np.float32))
