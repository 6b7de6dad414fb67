"""Branches, loops and routines in packages: nested command lists, regions, variables inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from package_files import member_of, members, sealed, write

import niello as nl

Build = Callable[[nl.Graph], tuple[list[nl.Tensor], list[nl.Operation]]]


def branches(graph: nl.Graph) -> tuple[list[nl.Tensor], list[nl.Operation]]:
    x = graph.placeholder((8,), name="x")
    w = graph.constant(np.arange(40, dtype=np.float32).reshape(8, 5), name="w")
    found = nl.if_(x.sum() > 0.0, lambda: x @ w, lambda: (x * 2.0) @ w)
    return [found], []


def loops(graph: nl.Graph) -> tuple[list[nl.Tensor], list[nl.Operation]]:
    x = graph.placeholder((8,), name="x")
    total = graph.variable(np.zeros(8, np.float32), name="total")

    def body(i: nl.Tensor, y: nl.Tensor) -> nl.Tensor:
        total.assign(total.read() + y)
        return nl.if_(y.sum() > 3.0, lambda: y * 0.5, lambda: y + i.cast(nl.float32))

    counted = nl.for_(5, x, body)
    steps, _ = nl.while_(
        [graph.constant(0), abs(counted).sum() + 1.0],
        lambda n, v: v > 1.0,
        lambda n, v: [n + 1, v * 0.5],
    )
    return [counted, steps], []


def routines(graph: nl.Graph) -> tuple[list[nl.Tensor], list[nl.Operation]]:
    x = graph.placeholder((8,), name="x")
    return [nl.sort(x), nl.cumsum(x), nl.argsort(x)], []


CASES: dict[str, Build] = {"branches": branches, "loops": loops, "routines": routines}


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_come_back(tmp_path: Path, case: str, device: str) -> None:
    graph = nl.Graph(case)
    targets, operations = CASES[case](graph)
    x = graph.placeholders[0]
    made = graph.compile({x: (8,)}, targets, operations, device=device)
    path = tmp_path / "p.niello"
    made.save(path)
    found = nl.load(path, device)
    assert found.program.commands == made.program.commands
    assert found.kernel_texts() == made.kernel_texts()
    for sign in (1, -1, 0.25):
        feed = (sign * np.random.default_rng(1).normal(size=8)).astype(np.float32)
        for a, b in zip(found.run([feed]), made.run([feed]), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    for a, b in zip(found.graph.variables, graph.variables, strict=True):
        np.testing.assert_array_equal(a.value, b.value)
    other = nl.load(path, device, machine_code=False)
    feed = np.linspace(-1, 2, 8, dtype=np.float32)
    for a, b in zip(other.run([feed]), nl.load(path, device).run([feed]), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_commands_inside_commands_are_checked(tmp_path: Path) -> None:
    import json

    graph = nl.Graph("branches")
    targets, _ = branches(graph)
    path = tmp_path / "p.niello"
    graph.compile({graph.placeholders[0]: (8,)}, targets, device="numpy").save(path)
    content = members(path)
    name = member_of(content, "code", ".json")
    program = json.loads(content[name])
    outer = next(c for c in program["commands"] if c.get("is") == "If")
    outer["then"][0]["buffers"][-1]["offset"] = 1 << 30
    content[name] = json.dumps(program).encode()
    with pytest.raises(nl.errors.PackageError, match="reaches beyond"):
        nl.load(write(path, sealed(content)))
    inner: object = []
    for _ in range(400):
        inner = [{**outer, "then": inner}]
    program["commands"] = inner
    content[name] = json.dumps(program).encode()
    with pytest.raises(nl.errors.PackageError, match=r"nested too deeply|program|damaged"):
        nl.load(write(path, sealed(content)))


@pytest.mark.parametrize("machine_code", [True, False])
def test_calls_are_part_of_the_package(tmp_path: Path, machine_code: bool) -> None:
    """What is called belongs to other graphs; the package holds it all the same."""
    inner = nl.Graph("inner")
    a = inner.placeholder((3,), name="a")
    count = inner.variable(1.0, name="count")
    step = count.assign(count + 1.0)
    scaled = inner.compile({a: (3,)}, [a * count], [step])
    graph = nl.Graph("outer")
    x = graph.placeholder((3,), name="x")
    (y,) = nl.call("scale", [x + 1.0], [nl.TensorType((3,))])
    made = graph.compile({x: (3,)}, [y * 2.0], callables={"scale": scaled})
    made.save(tmp_path / "p.niello")
    found = nl.load(tmp_path / "p.niello", machine_code=machine_code)
    for factor in (1.0, 2.0, 3.0):
        for each in (found, made):
            assert each.run([[0.0, 1.0, 2.0]])[0].tolist() == [2 * factor, 4 * factor, 6 * factor]


def test_what_calls_others_is_called_itself(tmp_path: Path) -> None:
    """An executable brings what it calls along: nobody gives it a second time."""
    inner = nl.Graph("inner")
    a = inner.placeholder((3,), name="a")
    count = inner.variable(1.0, name="count")
    step = count.assign(count + 1.0)
    scaled = inner.compile({a: (3,)}, [a * count], [step])
    middle = nl.Graph("middle")
    x = middle.placeholder((3,), name="x")
    (y,) = nl.call("scale", [x + 1.0], [nl.TensorType((3,))])
    doubled = middle.compile({x: (3,)}, [y * 2.0], callables={"scale": scaled})
    outer = nl.Graph("outer")
    z = outer.placeholder((3,), name="z")
    (w,) = nl.call("twice", [z], [nl.TensorType((3,))])
    made = outer.compile({z: (3,)}, [w], callables={"twice": doubled})
    made.save(tmp_path / "p.niello")
    with pytest.warns(nl.errors.Recompiled):
        other = nl.load(tmp_path / "p.niello", device="numpy")
    for factor in (1.0, 2.0):
        for each in (other, made):
            assert each.run([[0.0, 1.0, 2.0]])[0].tolist() == [2 * factor, 4 * factor, 6 * factor]
