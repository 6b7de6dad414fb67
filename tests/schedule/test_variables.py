"""Assignments: in place where that is legal, old values for who reads them, control respected."""

from __future__ import annotations

import numpy as np
import pytest
from networks import commands, kernels, plan

import niello as nl
from niello.runtime.commands import Copy, Dispatch, Fill, Space

DEVICES = ("cpu", "numpy")
each_device = pytest.mark.parametrize("device", DEVICES)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def counting(n: int = 6) -> np.ndarray:
    return np.arange(n, dtype=np.float32)


# --- in place
def test_update_is_in_place() -> None:
    graph = nl.Graph()
    v = graph.variable(ones(100))
    found = plan(graph, {}, (), [v.assign(v * 2.0)])
    (command,) = found.program.commands
    assert isinstance(command, Dispatch)
    assert [b.space for b in command.buffers] == [Space.VARIABLE]
    assert found.program.arena_bytes == 0


def test_update_from_a_placeholder_is_in_place() -> None:
    graph = nl.Graph()
    v, x = graph.variable(ones(100)), graph.placeholder((100,))
    found = plan(graph, {x: (100,)}, (), [v.assign(x.exp())])
    assert len(found.program.commands) == 1
    assert found.program.arena_bytes == 0


def test_contraction_updates_in_place() -> None:
    graph = nl.Graph()
    a, b = graph.placeholder((32, 16)), graph.placeholder((16, 24))
    w = graph.variable(ones(32, 24))
    found = plan(graph, {a: a.shape, b: b.shape}, (), [w.assign(w - nl.matmul(a, b) * 0.1)])
    assert len(found.program.commands) == 1
    assert found.program.arena_bytes == 0


@each_device
def test_fetching_a_variable_that_is_assigned(device: str) -> None:
    """The fetched value is that at the start of the run, and the update stays in place."""
    graph = nl.Graph()
    v = graph.variable(counting())
    step = v.assign(v + 1.0)
    planned = plan(graph, {}, [v], [step])
    assert kernels(planned.program) == 1
    assert len(commands(planned.program, Copy)) == 1
    for expected in (counting(), counting() + 1):
        found = graph.run({}, [v], [step], device=device)[v]
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(v.value, counting() + 2)


@each_device
def test_fetching_the_new_value_too(device: str) -> None:
    graph = nl.Graph()
    v = graph.variable(counting())
    new = v * 3.0
    found = graph.run({}, [new, v], [v.assign(new)], device=device)
    np.testing.assert_array_equal(found[new], counting() * 3)
    np.testing.assert_array_equal(found[v], counting())
    np.testing.assert_array_equal(v.value, counting() * 3)


@each_device
@pytest.mark.parametrize("form", ["reverse", "transpose", "softmax", "sum", "cumulative"])
def test_not_in_place_where_other_elements_are_read(form: str, device: str) -> None:
    """Each element of these reads others: writing in place would feed new values back."""
    graph = nl.Graph()
    start = np.random.default_rng(0).uniform(-1, 1, (5, 5)).astype(np.float32)
    v = graph.variable(start)
    new = {
        "reverse": lambda: v.reverse(axes=0),
        "transpose": lambda: v.transpose() * 2.0,
        "softmax": lambda: v.softmax(),
        "sum": lambda: v - v.sum(0, True),
        "cumulative": lambda: v + v[::-1] + v.transpose(),
    }[form]()
    expected = nl.graph.evaluate.evaluate([new])[0]
    graph.run({}, [], [v.assign(new)], device=device)
    np.testing.assert_allclose(v.value, expected, rtol=1e-5, atol=1e-6)


# --- old values
@each_device
def test_readers_of_the_old_value_run_first(device: str) -> None:
    graph = nl.Graph()
    v = graph.variable(counting())
    step = v.assign(v * 10.0)
    late = v.sum() + 1.0  # made after the assignment, still the value at the start
    planned = plan(graph, {}, [late], [step])
    assert not commands(planned.program, Copy)
    assert planned.program.arena_bytes <= 64
    found = graph.run({}, [late], [step], device=device)[late]
    assert found.item() == counting().sum() + 1
    np.testing.assert_array_equal(v.value, counting() * 10)


@each_device
def test_two_variables_swap(device: str) -> None:
    """Each needs the other's old value: one is copied first."""
    graph = nl.Graph()
    a, b = graph.variable(counting()), graph.variable(-counting())
    steps = [a.assign(b), b.assign(a)]
    assert len(plan(graph, {}, (), steps).program.commands) == 3
    graph.run({}, [], steps, device=device)
    np.testing.assert_array_equal(a.value, -counting())
    np.testing.assert_array_equal(b.value, counting())


@each_device
def test_two_variables_updated_from_each_other(device: str) -> None:
    graph = nl.Graph()
    a, b = graph.variable(counting()), graph.variable(ones(6))
    steps = [a.assign(a + b), b.assign(a * b)]
    graph.run({}, [], steps, device=device)
    np.testing.assert_array_equal(a.value, counting() + 1)
    np.testing.assert_array_equal(b.value, counting())


@each_device
def test_snapshot_when_an_old_value_is_needed_after_the_assignment(device: str) -> None:
    graph = nl.Graph()
    v = graph.variable(counting())
    step = v.assign(v + 1.0)
    with graph.control_dependencies([step]):
        old = v * 2.0  # an operand stands for the value at the start, whatever ran before
    found = graph.run({}, [old], device=device)[old]
    np.testing.assert_array_equal(found, counting() * 2)
    np.testing.assert_array_equal(v.value, counting() + 1)


@each_device
def test_same_value_assigned_to_two_variables(device: str) -> None:
    graph = nl.Graph()
    a, b = graph.variable(counting()), graph.variable(ones(6))
    new = a + b
    graph.run({}, [], [a.assign(new), b.assign(new)], device=device)
    np.testing.assert_array_equal(a.value, counting() + 1)
    np.testing.assert_array_equal(b.value, counting() + 1)


# --- several assignments, ordered reads
@each_device
def test_several_assignments_run_in_the_order_they_were_made(device: str) -> None:
    graph = nl.Graph()
    v = graph.variable(counting())
    steps = [v.assign(v + 1.0), v.assign(v * 5.0)]
    graph.run({}, [], list(reversed(steps)), device=device)
    np.testing.assert_array_equal(v.value, counting() * 5)


@each_device
def test_the_order_of_assignments_comes_before_the_wish_for_no_copy(device: str) -> None:
    """b's last assignment reads a's old value, yet must run after one that follows a's update."""
    graph = nl.Graph()
    a, b = graph.variable(counting()), graph.variable(ones(6))
    first = a.assign(a - a)
    with graph.control_dependencies([first]):
        second = b.assign(b - b)
    third = b.assign(a)
    graph.run({}, [], [first, second, third], device=device)
    np.testing.assert_array_equal(a.value, np.zeros(6))
    np.testing.assert_array_equal(b.value, counting())


@each_device
def test_a_later_assignment_of_the_old_value(device: str) -> None:
    """The second assignment restores the value at the start, which the first one overwrote."""
    graph = nl.Graph()
    v = graph.variable(counting())
    first = v.assign(v - v)
    with graph.control_dependencies([first]):
        second = v.assign(v.reshape((6,)))
    graph.run({}, [], [second], device=device)
    np.testing.assert_array_equal(v.value, counting())


@each_device
def test_read_after_assign(device: str) -> None:
    graph = nl.Graph()
    v = graph.variable(counting())
    step = v.assign(v + 1.0)
    with graph.control_dependencies([step]):
        new = v.read()
    total = new.sum()
    planned = plan(graph, {}, [total])
    assert len(commands(planned.program, Copy)) <= 1  # no copy of the old value
    assert graph.run({}, [total], device=device)[total].item() == counting().sum() + 6
    np.testing.assert_array_equal(v.value, counting() + 1)


@each_device
def test_read_that_is_fetched(device: str) -> None:
    graph = nl.Graph()
    v = graph.variable(counting())
    with graph.control_dependencies([v.assign(v * 2.0)]):
        new = v.read()
    found = graph.run({}, [new, v, new], device=device)
    np.testing.assert_array_equal(found[new], counting() * 2)
    np.testing.assert_array_equal(found[v], counting())


@each_device
def test_reads_between_assignments(device: str) -> None:
    """A read sees exactly the assignments that it is ordered after."""
    graph = nl.Graph()
    v = graph.variable(counting())
    unordered = v.read()
    first = v.assign(v + 1.0)
    with graph.control_dependencies([first]):
        between = v.read()
    with graph.control_dependencies([between]):
        second = v.assign(v + 100.0)
    with graph.control_dependencies([second]):
        after = v.read()
    found = graph.run({}, [unordered, between, after], device=device)
    np.testing.assert_array_equal(found[unordered], counting())
    np.testing.assert_array_equal(found[between], counting() + 1)
    np.testing.assert_array_equal(found[after], counting() + 100)


@each_device
def test_read_modify_write_twice(device: str) -> None:
    graph = nl.Graph()
    v = graph.variable(counting())
    first = v.assign(v + 1.0)
    with graph.control_dependencies([first]):
        second = v.assign(v.read() * 2.0)
    graph.run({}, [], [second], device=device)
    np.testing.assert_array_equal(v.value, (counting() + 1) * 2)


# --- control dependencies
@each_device
def test_control_dependencies_run_what_they_name(device: str) -> None:
    graph = nl.Graph()
    v, w = graph.variable(counting()), graph.variable(ones(3))
    with graph.control_dependencies([v.assign(v + 1.0)]):
        y = w * 2.0
    graph.run({}, [y], device=device)
    np.testing.assert_array_equal(v.value, counting() + 1)


@each_device
def test_an_assignment_waits_for_its_control_inputs(device: str) -> None:
    """b gets the new value of a, though nothing but control says so."""
    graph = nl.Graph()
    a, b = graph.variable(counting()), graph.variable(ones(6))
    first = a.assign(a + 1.0)
    with graph.control_dependencies([first]):
        second = b.assign(a.read())
    graph.run({}, [], [second], device=device)
    np.testing.assert_array_equal(b.value, counting() + 1)


@each_device
def test_a_constant_made_under_control_carries_no_effect(device: str) -> None:
    """Constants are shared: one that was made beside an effect must not run it for others."""
    graph = nl.Graph()
    v, w = graph.variable(counting()), graph.variable(ones(3))
    with graph.control_dependencies([v.assign(v + 1.0)]):
        inside = v.read() * 2.0
    outside = w * 2.0
    graph.run({}, [outside], device=device)
    np.testing.assert_array_equal(v.value, counting())
    graph.run({}, [inside], device=device)
    np.testing.assert_array_equal(v.value, counting() + 1)


@each_device
def test_control_through_folded_operations(device: str) -> None:
    """An operation that becomes a constant still orders what waits for it."""
    graph = nl.Graph()
    v = graph.variable(counting())
    with graph.control_dependencies([v.assign(v + 1.0)]):
        folded = graph.constant([1.0, 2.0]) + graph.constant([3.0, 4.0])
    with graph.control_dependencies([folded]):
        new = v.read()
    np.testing.assert_array_equal(graph.run({}, [new], device=device)[new], counting() + 1)


# --- targets of every sort
@each_device
def test_targets_that_compute_nothing(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 3))
    v = graph.variable(counting().reshape(2, 3))
    c, s = graph.constant(counting()), graph.constant(7.0, shape=(2, 2))
    array = np.full((2, 3), 2.0, np.float32)
    targets = [x, v, c, s, x.transpose(), v.reshape((6,)), c[::2], x, c]
    executable = graph.compile({x: (2, 3)}, targets, device=device)
    found = [np.asarray(r) for r in executable.run([array])]
    expected = [array, v.value, counting(), np.full((2, 2), 7.0, np.float32), array.T]
    expected += [counting(), counting()[::2], array, counting()]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@each_device
def test_a_target_listed_twice_is_computed_once(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((1000,))
    y = x.exp()
    executable = graph.compile({x: (1000,)}, [y, y, y], device=device)
    assert executable.kernel_count == 1
    found = executable.run([np.zeros(1000, np.float32)])
    assert len(found) == 3
    for r in found:
        np.testing.assert_array_equal(r, ones(1000))


@each_device
def test_assigning_constants_placeholders_and_views(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 3))
    a, b, c, d = (graph.variable(ones(2, 3)) for _ in range(4))
    array = counting().reshape(2, 3)
    steps = [
        a.assign(graph.constant(4.0, shape=(2, 3))),
        b.assign(graph.constant(array)),
        c.assign(x),
        d.assign(x.reshape((3, 2)).transpose()),
    ]
    assert len(commands(plan(graph, {x: (2, 3)}, (), steps).program, Fill)) == 1
    graph.run({x: array}, [], steps, device=device)
    np.testing.assert_array_equal(a.value, ones(2, 3) * 4)
    np.testing.assert_array_equal(b.value, array)
    np.testing.assert_array_equal(c.value, array)
    np.testing.assert_array_equal(d.value, array.reshape(3, 2).T)


@each_device
def test_self_assignment_and_empty_variables(device: str) -> None:
    graph = nl.Graph()
    v, e = graph.variable(counting()), graph.variable(np.zeros((0, 3), np.float32))
    steps = [v.assign(v), e.assign(e + 1.0)]
    assert plan(graph, {}, (), steps).program.commands == ()
    graph.run({}, [], steps, device=device)
    np.testing.assert_array_equal(v.value, counting())
    assert e.value.shape == (0, 3)


@each_device
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32", "uint8", "bool"])
def test_in_place_in_every_width(dtype: str, device: str) -> None:
    graph = nl.Graph()
    start = np.array(
        [0, 1, 0, 1, 1, 0, 1], getattr(nl, dtype if dtype != "bool" else "bool_").numpy
    )
    v = graph.variable(start)
    step = v.assign(~v) if dtype == "bool" else v.assign(v + v)
    assert len(plan(graph, {}, (), [step]).program.commands) == 1
    graph.run({}, [], [step], device=device)
    np.testing.assert_array_equal(v.value, ~start if dtype == "bool" else start + start)
