"""Passes: each does what it says, keeps what it must, and leaves names and lines readable."""

from __future__ import annotations

import math

import numpy as np
import pytest

import niello as nl
from niello.core.errors import ShapeError
from niello.core.types import TensorType
from niello.graph.structural import Constant
from niello.graph.verify import verify
from niello.passes.canonicalise import Canonicalise
from niello.passes.computation import Computation
from niello.passes.decompose import Decompose
from niello.passes.fold import Fold
from niello.passes.share import Share
from niello.passes.specialise import Specialise


def computation(graph: nl.Graph, *targets: nl.Tensor, effects=()) -> Computation:
    return Computation(graph, graph.placeholders, tuple(targets), tuple(effects))


def ops(found: Computation) -> list[str]:
    """Names of the ops that are left, without inputs and constants."""
    left = [o.op.name for o in found.reachable()]
    return [n for n in left if n not in ("placeholder", "constant")]


def bound(source: Computation) -> Computation:
    found = Specialise(tuple(t.type for t in source.inputs))(source)
    verify(found.graph)
    return found


# --- pruning
def test_what_nobody_needs_is_dropped() -> None:
    graph = nl.Graph()
    x = graph.placeholder((4,))
    y = x.exp()
    _ = y.sin(), graph.variable([1.0]) + 1.0
    assert ops(bound(computation(graph, y))) == ["exp"]


def test_effects_are_kept() -> None:
    graph = nl.Graph()
    v = graph.variable([1.0])
    step = v.assign(v + 1.0)
    assert ops(bound(computation(graph, effects=[step]))) == ["variable", "add", "assign"]
    with graph.control_dependencies([step]):
        y = v * 2.0
    assert ops(bound(computation(graph, y))) == ["variable", "add", "assign", "multiply"]


# --- specialise
def test_sizes_become_known() -> None:
    graph = nl.Graph()
    x = graph.placeholder((None, None))
    y = nl.matmul(x, x.transpose()).sum(0)
    found = Specialise((TensorType((3, 5)),))(computation(graph, y))
    assert found.targets[0].type == TensorType((3,))
    assert all(t.type.is_static for o in found.graph.operations for t in o.outputs)
    assert y.shape == (None,)  # the user's graph stays


def test_sizes_that_do_not_fit_name_the_line() -> None:
    graph = nl.Graph()
    x, z = graph.placeholder((None, 4)), graph.placeholder((None, 3))
    y = nl.matmul(x, z)
    with pytest.raises(ShapeError) as caught:
        Specialise((TensorType((2, 4)), TensorType((5, 3))))(computation(graph, y))
    assert __file__ in caught.value.where


# --- fold
def test_constants_fold() -> None:
    graph = nl.Graph()
    a = graph.constant(np.arange(6, dtype=np.float32).reshape(2, 3))
    x = graph.placeholder((2, 2))
    y = x + nl.matmul(a, a.transpose()).exp()
    found = Fold()(bound(computation(graph, y)))
    assert ops(found) == ["add"]
    folded = found.targets[0].operation.inputs[1].operation.op
    assert isinstance(folded, Constant)
    expected = np.exp(np.arange(6).reshape(2, 3) @ np.arange(6).reshape(2, 3).T, dtype=np.float32)
    np.testing.assert_allclose(folded.data.array, expected, rtol=1e-6)


def test_equal_elements_stay_one_value() -> None:
    graph = nl.Graph()
    y = graph.constant(4.0, shape=(1 << 20, 1 << 10)).sqrt() + graph.constant(1.0, shape=(1 << 10,))
    found = Fold()(bound(computation(graph, y)))
    assert ops(found) == []
    data = found.targets[0].operation.op.data
    assert data.is_splat
    assert data.array.reshape(-1)[0] == 3.0


def test_large_results_are_not_folded() -> None:
    graph = nl.Graph()
    row = graph.constant(np.arange(1000, dtype=np.float32))
    y = row.expand_dims(0) * row.expand_dims(1)
    assert "multiply" in ops(Fold()(bound(computation(graph, y))))


def test_reductions_of_large_repeated_values_are_not_folded() -> None:
    graph = nl.Graph()
    y = graph.constant(1.0, shape=(1 << 40,)).sum()
    assert ops(Fold()(bound(computation(graph, y)))) == ["reduce_sum"]


def test_what_depends_on_state_is_not_folded() -> None:
    graph = nl.Graph()
    v = graph.variable([1.0, 2.0])
    y = v * 2.0
    assert ops(Fold()(bound(computation(graph, y)))) == ["variable", "multiply"]


def test_a_folded_operation_under_control_keeps_the_effect() -> None:
    graph = nl.Graph()
    v = graph.variable([1.0])
    with graph.control_dependencies([v.assign(v + 1.0)]):
        y = graph.constant([1.0, 2.0]) * 2.0
    found = Fold()(bound(computation(graph, y)))
    assert "assign" in ops(found)


def test_division_by_zero_folds_quietly() -> None:
    graph = nl.Graph()
    y = graph.constant([1.0, -1.0, 0.0]) / graph.constant(0.0)
    found = graph.run({}, [y])[y]
    np.testing.assert_array_equal(found, [np.inf, -np.inf, np.nan])


# --- share
def test_equal_expressions_are_shared() -> None:
    graph = nl.Graph()
    x = graph.placeholder((4,))
    y = (x + 1.0).exp() * (x + 1.0).exp()
    assert ops(Share()(bound(computation(graph, y)))) == ["add", "exp", "multiply"]


def test_equal_attributes_are_needed() -> None:
    graph = nl.Graph()
    x = graph.placeholder((4, 4))
    y = x.sum(0) + x.sum(1)
    assert ops(Share()(bound(computation(graph, y)))).count("reduce_sum") == 2


def test_zeros_of_both_signs_are_different() -> None:
    """0.0 == -0.0, but padding with one is not padding with the other."""
    graph = nl.Graph()
    x = graph.placeholder((1,))
    a, b = x.pad([(1, 0)], value=0.0), x.pad([(1, 0)], value=-0.0)
    c, d = x + graph.constant(0.0), x + graph.constant(-0.0)
    found = graph.run({x: np.array([-0.0], np.float32)}, [a, b, c, d])
    signs = [[math.copysign(1.0, v) for v in found[t].tolist()] for t in (a, b, c, d)]
    assert signs == [[1, -1], [-1, -1], [1], [-1]]


def test_ordered_reads_are_not_shared() -> None:
    graph = nl.Graph()
    v = graph.variable([1.0])
    first = v.read()
    with graph.control_dependencies([v.assign(v + first)]):
        second = v.read()
    found = graph.run({}, [first, second])
    assert (found[first].item(), found[second].item()) == (1.0, 2.0)


def test_random_numbers_are_not_shared() -> None:
    graph = nl.Graph()
    a = nl.random_uniform((100,), seed=1, graph=graph)
    b = nl.random_uniform((100,), seed=2, graph=graph)
    found = graph.run({}, [a, b])
    assert not np.array_equal(found[a], found[b])


# --- canonicalise
@pytest.mark.parametrize(
    "build",
    [
        lambda x: x.reshape((8, 2)).reshape((4, 4)).reshape((2, 8)),
        lambda x: x.transpose().transpose(),
        lambda x: x.cast(nl.float32),
        lambda x: x.broadcast_to((4, 4)),
        lambda x: x[:, :],
        lambda x: x.expand_dims(0).squeeze(0),
        lambda x: x.tile([1, 1]),
        lambda x: x.pad([(0, 0), (0, 0)]),
    ],
)
def test_movements_that_cancel(build) -> None:
    graph = nl.Graph()
    x = graph.placeholder((4, 4))
    source = Decompose()(bound(computation(graph, build(x).exp())))
    for _ in range(3):
        source = Canonicalise()(source)
    assert len(ops(source)) <= 2  # exp, and at most one movement


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38])
def test_canonical_forms_keep_special_values(special: float) -> None:
    graph = nl.Graph()
    x = graph.placeholder((3,))
    targets = [
        x * 1.0,
        x + 0.0,
        x - 0.0,
        x / 1.0,
        x**1.0,
        x.negative().negative(),
        x.maximum(x),
        x * 0.0,
        x - x,
    ]
    value = np.array([special, 1.0, -special], np.float32)
    options = [nl.CompileOptions(optimise=o) for o in (True, False)]
    a, b = (
        graph.compile({x: (3,)}, targets, device="numpy", options=o).run([value]) for o in options
    )
    for left, right in zip(a, b, strict=True):
        assert left.numpy().tobytes() == right.numpy().tobytes() or (
            np.array_equal(left, right, equal_nan=True)
            and np.array_equal(np.signbit(left.numpy()), np.signbit(right.numpy()))
        )


# --- names and lines
def test_users_names_survive() -> None:
    graph = nl.Graph()
    x = graph.placeholder((4,), name="x")
    y = nl.softmax(x, name="weights")
    z = x.exp(name="multiply") + y.multiply(y)  # a name that decomposition would have liked
    optimised = graph.compile({x: (4,)}, [z], device="null").optimised
    names = [o.name for o in optimised.reachable()]
    assert {"x", "multiply", "add"} <= set(names)
    assert any(n.startswith("weights/") for n in names)


def test_decomposed_operations_point_at_the_users_line() -> None:
    graph = nl.Graph()
    x = graph.placeholder((4,), name="x")
    y = nl.softmax(x)
    optimised = graph.compile({x: (4,)}, [y], device="null").optimised
    lines = {o.where for o in optimised.reachable() if o.op.name not in ("placeholder",)}
    assert lines == {y.operation.where}
    assert __file__ in next(iter(lines))
