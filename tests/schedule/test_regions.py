"""Commands and memory of branches and loops."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.runtime.commands import Copy, Dispatch, Fill, If, Loop, SliceCopy, Space, walk

N = 64


def commands(graph: nl.Graph, feeds, targets, operations=(), **options):
    return graph.compile(
        feeds, targets, operations, device="null", options=nl.CompileOptions(**options)
    )


def the(kind, executable):
    (found,) = [c for c in walk(executable.program.commands) if isinstance(c, kind)]
    return found


def test_a_pointwise_update_happens_in_place() -> None:
    g = nl.Graph()
    x = g.placeholder((N, N), name="x")
    y = nl.for_(9, x, lambda i, a: a * 2.0 + i.cast(nl.float32))
    executable = commands(g, {x: (N, N)}, [y])
    start, loop = executable.program.commands
    assert isinstance(start, Copy) and isinstance(loop, Loop)
    (kernel,) = loop.body
    assert isinstance(kernel, Dispatch)
    assert [b.space for b in kernel.writes] == [Space.OUTPUT]
    assert executable.arena_bytes < 512  # the words of the loop


def test_a_contraction_takes_a_copy() -> None:
    g = nl.Graph()
    x, w = (g.placeholder((N, N), name=n) for n in "xw")
    y = nl.for_(9, x, lambda i, a: (a @ w).tanh())
    loop = the(Loop, commands(g, {x: (N, N), w: (N, N)}, [y]))
    assert [type(c) for c in loop.body] == [Dispatch, Copy]


def test_values_that_change_places() -> None:
    g = nl.Graph()
    x, w = (g.placeholder((N,), name=n) for n in "xw")
    a, b = nl.for_(3, [x, w], lambda i, a, b: [b, a])
    loop = the(Loop, commands(g, {x: (N,), w: (N,)}, [a, b]))
    # One is kept aside; nothing else moves.
    assert [type(c) for c in loop.body] == [Copy] * 3


def test_unchanged_and_unused_values_are_not_carried() -> None:
    g = nl.Graph()
    x, w = (g.placeholder((N,), name=n) for n in "xw")
    y, same, _ = nl.for_(3, [x, w, w], lambda i, a, b, c: [a + b, b, c * 2.0])
    executable = commands(g, {x: (N,), w: (N,)}, [y, same])
    loop = the(Loop, executable)
    assert len(loop.body) == 1 and isinstance(loop.body[0], Dispatch)
    given = [c.source for c in executable.program.commands if isinstance(c, Copy)]
    assert [b.space for b in given] == [Space.INPUT] * 2  # where it begins, and what is unchanged


def test_what_is_the_same_each_time_is_computed_before() -> None:
    g = nl.Graph()
    x, w = (g.placeholder((N, N), name=n) for n in "xw")
    y = nl.for_(9, x, lambda i, a: a + (w @ w).exp())
    executable = commands(g, {x: (N, N), w: (N, N)}, [y])
    loop = the(Loop, executable)
    assert len(loop.body) == 1
    assert "matmul" in executable.program.kernels[executable.program.commands[0].kernel].name


def test_a_row_that_is_copied_goes_straight_to_its_stack() -> None:
    g = nl.Graph()
    x = g.placeholder((5, N), name="x")
    w = g.placeholder((N,), name="w")
    (last,), (before,) = nl.scan([x], [w], lambda i, s, c: ([c[0] + s[0]], [c[0]]))
    loop = the(Loop, commands(g, {x: (5, N), w: (N,)}, [last, before]))
    # A slice in, the carried value to its stack, the update.
    assert [type(c) for c in loop.body] == [SliceCopy, SliceCopy, Dispatch]


def test_stacks_that_may_stay_short_begin_as_zeros() -> None:
    g = nl.Graph()
    x = g.placeholder((N,), name="x")
    n = g.placeholder((), nl.int32, name="n")
    y = nl.for_(n, x, lambda i, a: a.sin(), maximum_iterations=4)
    grad = g.gradients(y.sum(), [x])[x]
    executable = commands(g, {x: (N,), n: ()}, [y, grad])
    assert [
        c for c in executable.program.commands if isinstance(c, Fill) and c.target.bytes == 16 * N
    ]
    known = nl.Graph()
    x = known.placeholder((N,), name="x")
    y = nl.for_(4, x, lambda i, a: a.sin())
    grad = known.gradients(y.sum(), [x])[x]
    executable = commands(known, {x: (N,)}, [y, grad])
    fills = [c for c in executable.program.commands if isinstance(c, Fill)]
    assert not [c for c in fills if c.target.bytes == 16 * N]


def test_branches_share_memory() -> None:
    g = nl.Graph()
    x = g.placeholder((N, N), name="x")

    def long(scale: float):
        return ((x @ x) * scale @ x) @ x

    y = nl.if_(x.sum() > 0.0, lambda: long(1.0), lambda: long(2.0))
    both = commands(g, {x: (N, N)}, [y])
    single = nl.Graph()
    x = single.placeholder((N, N), name="x")
    one = commands(single, {x: (N, N)}, [long(1.0)])
    assert both.arena_bytes <= one.arena_bytes + 1024
    branch = the(If, both)
    assert len(branch.then) == len(branch.otherwise) == one.kernel_count


def test_memory_of_a_loop_does_not_grow_with_its_length() -> None:
    sizes = []
    for n in (2, 50):
        g = nl.Graph()
        x = g.placeholder((N, N), name="x")
        y = nl.for_(n, x, lambda i, a, x=x: ((a @ x) @ x).tanh())
        sizes.append(commands(g, {x: (N, N)}, [y]).arena_bytes)
    assert sizes[0] == sizes[1]


def test_what_is_read_after_a_loop_stays_while_it_runs() -> None:
    """Numbers, not plans: the arena of the loop must not touch what lives around it."""
    g = nl.Graph()
    x = g.placeholder((N, N), name="x")
    kept = (x @ x) * 0.01
    y = nl.for_(3, x, lambda i, a: ((a @ kept) @ kept).tanh())
    executable = g.compile({x: (N, N)}, [kept @ y, y], device="cpu")
    value = np.random.default_rng(0).normal(size=(N, N)).astype(np.float32) / 4
    k = (value @ value) * np.float32(0.01)
    a = value
    for _ in range(3):
        a = np.tanh((a @ k) @ k)
    found = executable.run([value])
    np.testing.assert_allclose(np.asarray(found[1]), a, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(np.asarray(found[0]), k @ a, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("optimise", [True, False])
def test_assignments_around_and_inside_keep_their_order(optimise: bool) -> None:
    g = nl.Graph()
    v = g.variable(np.float32(1), name="v")
    x = g.placeholder((), name="x")
    with g.control_dependencies(v.assign(x)):
        y = nl.for_(2, x, lambda i, a: [a + v.read(), v.assign(v.read() * 10.0)][0])
    with g.control_dependencies(y):
        last = v.assign(v.read() + 1.0)
    options = nl.CompileOptions(optimise=optimise)
    executable = g.compile({x: ()}, [y, v], [last], device="cpu", options=options)
    found = [np.asarray(t).item() for t in executable.run([np.float32(3)])]
    assert found == [3 + 3 + 30, 1]
    assert v.value == 301
