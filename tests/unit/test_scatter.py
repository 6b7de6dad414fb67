"""Scatter in the form that visits each update once, against its reference; and what users meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.backends import backend
from niello.core.errors import AttributeValueError, DTypeError, IndexOutOfRange, ShapeError
from niello.core.types import TensorType
from niello.graph.opdef import registry
from niello.schedule import stitch
from tests.contract.contract_cases import cases, mismatch

DEVICES = [d for d in nl.available_devices() if backend(d).runs]
SCATTERS = sorted(n for n, cls in registry().items() if cls.has_scatter())
MODES = ("set", "add", "sub", "mul", "div", "min", "max")


def run(y: Any, feeds: dict[Any, np.ndarray], device: str = "cpu") -> np.ndarray:
    return np.asarray(y.graph.run(feeds, [y], device=device)[y])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SCATTERS)
def test_updates_one_by_one_are_the_reference(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stitch, "SMALL_SCATTER", -1)
    supported = backend(device).limits.dtypes
    checked = 0
    for case in cases(name):
        if not all(t.dtype in supported for t in case.types) or case.dtype.bits < 32:
            continue
        inputs, outputs = case.build()
        graph = inputs[0].graph
        feeds = dict(zip(inputs, case.arrays, strict=True))
        types = {t: TensorType(a.shape, a.dtype) for t, a in feeds.items()}
        made = _compiled(graph, types, outputs, device)
        found = made.run(list(case.arrays))
        for expected, got in zip(case.reference(), found, strict=True):
            text = mismatch(np.asarray(expected), np.asarray(got), case.sample.tolerance, True)
            assert text is None, f"{case}: {text}"
        checked += 1
    assert checked


def _compiled(graph: Any, types: Any, outputs: Any, device: str) -> Any:
    from niello.executable.compile import compile_graph

    return compile_graph(graph, types, list(outputs), [], device, nl.CompileOptions())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(300, 17), (7, 260), (5000,)])
def test_many_updates_with_repeated_indices(mode: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(1, 2, shape).astype(np.float32)
    index = rng.integers(-shape[0], shape[0] + 3, 900).astype(np.int32)
    updates = rng.uniform(0.8, 1.25, (900, *shape[1:])).astype(np.float32)
    expected = x.astype(np.float64)
    for i, u in zip(index, updates.astype(np.float64), strict=True):
        if -shape[0] <= i < shape[0]:
            old = expected[i]
            expected[i] = {
                "set": u,
                "add": old + u,
                "sub": old - u,
                "mul": old * u,
                "div": old / u,
                "min": np.minimum(old, u),
                "max": np.maximum(old, u),
            }[mode]
    graph = nl.Graph()
    a, b = graph.placeholder(shape), graph.placeholder(updates.shape)
    i = graph.placeholder(index.shape, nl.int32)
    y = nl.scatter(a, i, b, mode=mode)
    found = run(y, {a: x, i: index, b: updates})
    assert np.allclose(found, expected, rtol=2e-5, atol=2e-5)
    if mode in ("set", "min", "max"):
        assert np.array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_a_shape_stands_for_the_identity(mode: str) -> None:
    graph = nl.Graph()
    u = graph.placeholder((2,))
    y = nl.scatter_nd((4,), [[1], [3]], u, mode=mode)
    start = {"mul": 1, "div": 1, "min": np.inf, "max": -np.inf}.get(mode, 0)
    values = {"sub": [-2, -5], "div": [0.5, 0.2]}.get(mode, [2, 5])
    expected = np.array([start, values[0], start, values[1]], np.float32)
    assert np.array_equal(run(y, {u: np.array([2, 5], np.float32)}), expected)


def test_one_number_for_all_places() -> None:
    x = nl.Graph().placeholder((2, 3))
    zeros = {x: np.zeros((2, 3), np.float32)}
    assert run(nl.put_along_axis(x, [[0], [2]], 7.0), zeros).tolist() == [[7, 0, 0], [0, 0, 7]]
    assert run(nl.index_fill(x, 1, [-1], 2.0), zeros).tolist() == [[0, 0, 2], [0, 0, 2]]


def test_half_types_are_summed_in_float32() -> None:
    graph = nl.Graph()
    u = graph.placeholder((5000, 2), nl.bfloat16)
    i = graph.placeholder((5000,), nl.int32)
    y = nl.scatter((3, 2), i, u, mode="add").cast(nl.float32)
    ones = np.ones((5000, 2), nl.bfloat16.numpy)
    found = run(y, {u: ones, i: np.full(5000, 1, np.int32)})
    assert found.tolist() == [[0, 0], [4992, 4992], [0, 0]]


def test_names_of_other_libraries() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 5)).astype(np.float32)
    x = nl.Graph().placeholder((4, 5))
    rows = [1, -1, 1]
    up = np.ones((3, 5), np.float32)
    expected = a.copy()
    np.add.at(expected, rows, 2 * up)
    assert np.allclose(run(nl.index_add(x, 0, rows, up, alpha=2.0), {x: a}), expected)
    expected = a.copy()
    expected[rows] = up
    assert np.array_equal(run(nl.index_copy(x, 0, rows, up), {x: a}), expected)
    assert np.array_equal(run(nl.index_select(x, 1, rows), {x: a}), a[:, rows])
    assert np.array_equal(run(nl.take(x, [0, -1]), {x: a}), a.ravel()[[0, -1]])
    order = np.argsort(a[:1], 1).astype(np.int32)
    expected = np.take_along_axis(a, order, 1)
    assert np.array_equal(run(nl.take_along_axis(x, order, 1), {x: a}), expected)


def test_refusals() -> None:
    x = nl.Graph().placeholder((4, 5))
    with pytest.raises(AttributeValueError, match="no such mode"):
        nl.scatter(x, [0], np.zeros((1, 5), np.float32), mode="mean")
    with pytest.raises(DTypeError, match="another element type"):
        nl.scatter(x.cast(nl.int32), [0], x[:1])
    with pytest.raises(DTypeError, match="not supported"):
        nl.scatter(x.cast(nl.int32), [0], x[:1].cast(nl.int32), mode="div")
    with pytest.raises(ShapeError, match="shape that the indices choose"):
        nl.scatter(x, [0, 1], x[:1])
    with pytest.raises(ShapeError, match="coordinates of a point"):
        nl.gather_nd(x, np.zeros((2, 3), np.int32))
    with pytest.raises(ShapeError, match="longer than the data"):
        nl.gather_along_axis(x, np.zeros((5, 5), np.int32), 1)


# --- indices checked at run time
CHECKED = nl.CompileOptions(check_indices=True)


@pytest.mark.parametrize("device", DEVICES)
def test_an_index_outside_raises_and_variables_keep_their_values(device: str) -> None:
    graph = nl.Graph()
    table = graph.variable(np.zeros((5, 2), np.float32), name="table")
    rows = graph.placeholder((3,), nl.int32, name="rows")
    step = table.assign(nl.index_add(table, 0, rows, np.ones((3, 2), np.float32)))
    y = table[rows]
    exe = graph.compile({rows: (3,)}, [y], [step], device=device, options=CHECKED)
    assert len(exe.run([np.array([0, 4, -5], np.int32)])) == 1
    before = table.value
    assert before[:, 0].tolist() == [2, 0, 0, 0, 1]
    for bad, at in ((5, 1), (-6, 2), (1 << 30, 0)):
        index = np.array([0, 1, 2], np.int32)
        index[at] = bad
        with pytest.raises(IndexOutOfRange) as caught:
            exe.run([index])
        error: Any = caught.value
        assert (error.index, error.size, error.position) == (bad, 5, (at,))
        assert "rows" in str(error) and isinstance(error, IndexError)
        assert np.array_equal(table.value, before)
    exe.run([np.array([0, 0, 0], np.int32)])
    assert table.value[0, 0] == 5


def test_points_unsigned_and_empty_axes_are_checked() -> None:
    graph = nl.Graph()
    x = graph.placeholder((3, 4))
    points = graph.placeholder((2, 2), nl.int64)
    small = graph.placeholder((2,), nl.uint8)
    y, z = nl.gather_nd(x, points), x[small]
    exe = graph.compile(
        {x: (3, 4), points: (2, 2), small: (2,)}, [y, z], device="cpu", options=CHECKED
    )
    a = np.zeros((3, 4), np.float32)
    fine = np.array([0, 2], np.uint8)
    exe.run([a, np.array([[2, 3], [-3, -4]]), fine])
    with pytest.raises(IndexOutOfRange, match="size 4; received 4 at"):
        exe.run([a, np.array([[2, 3], [0, 4]]), fine])
    with pytest.raises(IndexOutOfRange, match="size 3; received 200 at"):
        exe.run([a, np.array([[2, 3], [0, 0]]), np.array([0, 200], np.uint8)])
    empty = graph.placeholder((0, 4))
    exe = graph.compile({empty: (0, 4), small: (2,)}, [empty[small]], options=CHECKED)
    with pytest.raises(IndexOutOfRange, match="size 0"):
        exe.run([np.zeros((0, 4), np.float32), fine])


def test_results_given_by_the_caller_and_command_buffers() -> None:
    graph = nl.Graph()
    x, rows = graph.placeholder((4,)), graph.placeholder((2,), nl.int32)
    exe = graph.compile({x: (4,), rows: (2,)}, [x[rows]], device="cpu", options=CHECKED)
    out = np.zeros(2, np.float32)
    a = np.arange(4, dtype=np.float32)
    exe.run([a, np.array([3, 1], np.int32)], results=[out])
    assert out.tolist() == [3, 1]
    buffer = nl.CommandBuffer(nl.CommandQueue("cpu"))
    exe.encode(buffer, [a, np.array([3, 4], np.int32)])
    buffer.commit()
    with pytest.raises(IndexOutOfRange):
        buffer.wait_until_completed()


def test_what_is_not_asked_for_is_not_checked() -> None:
    graph = nl.Graph()
    x, rows = graph.placeholder((4,)), graph.placeholder((2,), nl.int32)
    feeds = {x: np.ones(4, np.float32), rows: np.array([9, 0], np.int32)}
    y = x[rows]
    assert run(y, feeds).tolist() == [0, 1]
    graph.check_indices = True
    with pytest.raises(IndexOutOfRange):
        run(y, feeds)
