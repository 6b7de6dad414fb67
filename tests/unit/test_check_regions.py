"""Indices inside of branches and loops, checked at run time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import IndexOutOfRange

CHECKED = nl.CompileOptions(check_indices=True)
DEVICES = ["cpu", "numpy"]


def refused(exe: Any, *feeds: Any) -> IndexOutOfRange:
    with pytest.raises(IndexOutOfRange) as caught:
        exe.run([np.asarray(f) for f in feeds])
    return caught.value


@pytest.mark.parametrize("device", DEVICES)
def test_only_the_branch_that_runs_is_checked(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((4,), name="x")
    rows = graph.placeholder((2,), nl.int32, name="rows")
    first = graph.placeholder((), nl.bool_, name="first")
    y = nl.if_(first, lambda: nl.gather(x, rows), lambda: nl.gather(nl.concat([x, x]), rows + 1))
    exe = graph.compile({x: (4,), rows: (2,), first: ()}, [y], device=device, options=CHECKED)
    values = np.arange(4, dtype=np.float32)

    def feeds(a: int, b: int, which: bool) -> tuple[Any, ...]:
        return values, np.array([a, b], np.int32), np.bool_(which)

    assert exe.run([*feeds(0, 3, True)])[0].numpy().tolist() == [0, 3]
    assert exe.run([*feeds(0, 6, False)])[0].numpy().tolist() == [1, 3]
    error = refused(exe, *feeds(0, 6, True))
    assert (error.index, error.size, error.position) == (6, 4, (1,))
    error = refused(exe, *feeds(7, 0, False))
    assert (error.index, error.size, error.position) == (8, 8, (0,))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("known", [False, True])
def test_the_first_iteration_that_is_wrong_is_named(device: str, known: bool) -> None:
    graph = nl.Graph()
    x = graph.placeholder((5,), name="x")
    step = graph.placeholder((), nl.int32, name="step")
    count = graph.placeholder((), nl.int32, name="count")
    total = nl.for_(
        12 if known else count, 0.0, lambda i, s: s + nl.gather(x, i * step), graph=graph
    )
    kinds = {x: (5,), step: ()} if known else {x: (5,), step: (), count: ()}
    exe = graph.compile(kinds, [total], device=device, options=CHECKED)
    values = np.arange(5, dtype=np.float32)

    def feeds(by: int, times: int) -> list[Any]:
        return [values, np.int32(by), np.int32(times)][: len(kinds)]

    if not known:
        assert exe.run(feeds(1, 5))[0].numpy() == 10
        assert exe.run(feeds(2, 3))[0].numpy() == 6
    assert exe.run(feeds(0, 12))[0].numpy() == 0
    error = refused(exe, *feeds(2, 12))
    assert (error.index, error.size) == (6, 5)


@pytest.mark.parametrize("device", DEVICES)
def test_conditions_are_checked(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((4,), name="x")
    found = nl.while_(graph.constant(0), lambda i: nl.gather(x, i) < 3.0, lambda i: i + 1)
    exe = graph.compile({x: (4,)}, [found], device=device, options=CHECKED)
    assert exe.run([np.float32([1, 2, 3, 9])])[0].numpy() == 2
    error = refused(exe, np.float32([1, 2, 1, 2]))
    assert (error.index, error.size) == (4, 4)


@pytest.mark.parametrize("device", DEVICES)
def test_branches_inside_of_loops_with_stacked_results(device: str) -> None:
    graph = nl.Graph()
    rows = graph.placeholder((6,), nl.int32, name="rows")
    table = graph.constant(np.arange(3, dtype=np.float32))

    def body(i: Any, parts: Any, carried: Any) -> Any:
        def taken() -> Any:
            return nl.gather(table, parts[0])

        value = nl.if_(parts[0] >= 0, taken, lambda: table.graph.constant(-1.0))
        return [carried[0] + value], [value]

    (last,), (each,) = nl.scan([rows], [0.0], body, graph=graph)
    exe = graph.compile({rows: (6,)}, [last, each], device=device, options=CHECKED)
    total, values = exe.run([np.array([2, -5, 1, 0, -9, 2], np.int32)])
    assert total.numpy() == 3
    assert values.numpy().tolist() == [2, -1, 1, 0, -1, 2]
    error = refused(exe, np.array([2, -5, 1, 3, -9, 7], np.int32))
    assert (error.index, error.size) == (3, 3)


def test_checked_loops_are_packages_like_others(tmp_path: Any) -> None:
    graph = nl.Graph()
    x = graph.placeholder((3,), name="x")
    n = graph.placeholder((), nl.int32, name="n")
    y = nl.for_(n, 0.0, lambda i, s: s + nl.gather(x, i), graph=graph)
    graph.compile({x: (3,), n: ()}, [y], device="cpu", options=CHECKED).save(tmp_path / "c.niello")
    exe = nl.load(tmp_path / "c.niello")
    assert exe.run([np.ones(3, np.float32), np.int32(3)])[0].numpy() == 3
    error = refused(exe, np.ones(3, np.float32), np.int32(4))
    assert (error.index, error.size) == (3, 3)
