"""The graph that users build: names, scopes, unknown sizes, constants, control dependencies."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.core.errors import DTypeError, GraphError, ShapeError

DEVICES = ("cpu", "numpy")
each_device = pytest.mark.parametrize("device", DEVICES)


# --- names and scopes
def test_names_are_unique() -> None:
    graph = nl.Graph()
    names = [graph.placeholder((1,), name="x").name for _ in range(3)]
    assert names == ["x", "x_1", "x_2"]
    assert graph.placeholder((1,), name="x_1").name == "x_1_1"
    assert graph.operation("x_1").outputs[0].name == "x_1"


def test_further_outputs_have_names_of_their_own() -> None:
    graph = nl.Graph()
    x = graph.placeholder((4,), name="x")
    taken = graph.placeholder((4,), name="half:1")
    first, second = x.split(2, name="half")
    names = [taken.name, first.name, second.name]
    assert len(set(names)) == 3
    assert second.name == f"{first.name}:1"
    assert graph.placeholder((1,), name=second.name).name != second.name


def test_scopes() -> None:
    graph = nl.Graph()
    with graph.name_scope("block") as outer:
        x = graph.placeholder((1,), name="x")
        with graph.name_scope("inner") as inner:
            v = graph.variable([1.0], name="w")
        y = x + v
    assert (outer, inner) == ("block", "block/inner")
    assert (x.name, v.name, y.name) == ("block/x", "block/inner/w", "block/add")
    assert list(graph.variable_states) == ["block/inner/w"]
    assert graph.placeholder((1,), name="x").name == "x"


def test_a_scope_is_left_after_an_error() -> None:
    graph = nl.Graph()
    with pytest.raises(ZeroDivisionError), graph.name_scope("block"):
        raise ZeroDivisionError
    assert graph.placeholder((1,), name="x").name == "x"


@pytest.mark.parametrize("name", ["", "a/b"])
def test_bad_scopes(name: str) -> None:
    with pytest.raises(GraphError), nl.Graph().name_scope(name):
        pass


@pytest.mark.parametrize("name", ["", 5])
def test_bad_names(name: object) -> None:
    with pytest.raises(GraphError) as caught:
        nl.Graph().placeholder((1,), name=name)  # type: ignore[arg-type]
    assert caught.value.received == repr(name)


def test_a_variable_keeps_a_name_with_slashes() -> None:
    graph = nl.Graph()
    v = graph.variable([1.0], name="layer/w")
    assert v.name == "layer/w" == next(iter(graph.variable_states))
    assert graph.variable([1.0], name="layer/w").name == "layer/w_1"
    assert list(graph.variable_states) == ["layer/w", "layer/w_1"]


def test_reading_a_graph() -> None:
    graph = nl.Graph("demo")
    a, b = graph.placeholder((2,), name="a"), graph.placeholder((2,), name="b")
    v = graph.variable([1.0, 2.0])
    total = a + b + v
    assert graph.placeholders == (a, b)
    assert graph.variables == (v,)
    assert graph.operation(total.name) is total.operation
    assert "demo" in repr(graph)
    with pytest.raises(GraphError, match="none of this name"):
        graph.operation("missing")


# --- unknown sizes and ranks
@each_device
def test_unknown_sizes(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((None, 3))
    y = (x - x.mean(0, True)).transpose()
    assert y.shape == (3, None)
    for rows in (1, 2, 5):
        value = np.arange(3.0 * rows, dtype=np.float32).reshape(rows, 3)
        found = graph.run({x: value}, [y], device=device)[y]
        np.testing.assert_allclose(found, (value - value.mean(0)).T, rtol=1e-6)
    assert graph.cache_info().size == 3


@each_device
def test_unknown_rank(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder(None, name="x")
    y = (x * 2.0).exp() + x
    assert y.shape is None
    for shape in ((), (3,), (2, 1, 2)):
        value = np.full(shape, 0.5, np.float32)
        found = graph.run({x: value}, [y], device=device)[y]
        assert found.shape == shape
        np.testing.assert_allclose(found, np.exp(value * 2) + value, rtol=1e-6)


def test_unknown_sizes_that_turn_out_not_to_fit() -> None:
    graph = nl.Graph()
    a, b = graph.placeholder((None,)), graph.placeholder((None,))
    y = a + b
    with pytest.raises(ShapeError) as caught:
        graph.run({a: np.ones(2, np.float32), b: np.ones(3, np.float32)}, [y])
    assert __file__ in caught.value.where


# --- shapes
@each_device
def test_sixteen_dimensions(device: str) -> None:
    graph = nl.Graph()
    shape = (1, 2, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 2, 1, 3)
    x = graph.placeholder(shape)
    y = x.transpose(list(range(15, -1, -1))) * 2.0 + x.sum()
    value = np.arange(48, dtype=np.float32).reshape(shape)
    found = graph.run({x: value}, [y], device=device)[y]
    np.testing.assert_allclose(found, value.transpose() * 2 + value.sum())


def test_seventeen_dimensions_are_refused() -> None:
    with pytest.raises(ShapeError, match="at most 16 dimensions"):
        nl.Graph().placeholder((1,) * 17)


@each_device
def test_zero_length_dimensions(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((0, 3))
    w = graph.placeholder((3, 4))
    targets = [
        x + 1.0,
        x.sum(),
        x.sum(1),
        nl.matmul(x, w),
        x.transpose(),
        x.max(1),
        x.reshape((0,)),
    ]
    feeds = {x: np.zeros((0, 3), np.float32), w: np.ones((3, 4), np.float32)}
    found = graph.run(feeds, targets, device=device)
    assert [found[t].shape for t in targets] == [(0, 3), (), (0,), (0, 4), (3, 0), (0,), (0,)]
    assert found[targets[1]].item() == 0.0


@each_device
def test_scalars(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder(())
    y = x * 3.0
    assert graph.run({x: 2.0}, [y], device=device)[y].item() == 6.0
    assert graph.run({x: np.float32(3)}, [y], device=device)[y].item() == 9.0


# --- constants
def test_constants_are_shared() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2,))
    before = len(graph.operations)
    _ = x + 1.5, x * 1.5, x - 1.5
    made = [o for o in graph.operations[before:] if o.op.name == "constant"]
    assert len(made) == 1
    assert graph.constant([1, 2]) is graph.constant(np.array([1, 2], np.int32))
    assert graph.constant(0.0) is not graph.constant(-0.0)
    assert graph.constant(1.0) is not graph.constant(1.0, nl.float64)
    assert graph.constant(1.0, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1, nl.int32),
        (1.0, nl.float32),
        (True, nl.bool_),
        ([1, 2], nl.int32),
        ([[1.0], [2.0]], nl.float32),
        (np.arange(3), nl.int64),
        (np.float32(1), nl.float32),
        (np.float64(1), nl.float32),  # a Python float
        (np.arange(3.0), nl.float64),
        (np.array([True]), nl.bool_),
        (np.zeros(2, np.uint16), nl.uint16),
    ],
)
def test_dtypes_of_constants(value: object, dtype: nl.DType) -> None:
    assert nl.Graph().constant(value).dtype is dtype
    assert nl.Graph().variable(value).dtype is dtype


def test_a_constant_is_a_copy() -> None:
    graph = nl.Graph()
    array = np.ones(3, np.float32)
    plain, shaped = graph.constant(array), graph.constant(array, shape=(3,))
    v = graph.variable(array)
    array[:] = 7
    found = graph.run({}, [plain, shaped])
    np.testing.assert_array_equal(found[plain], np.ones(3))
    np.testing.assert_array_equal(found[shaped], np.ones(3))
    np.testing.assert_array_equal(v.value, np.ones(3))


def test_a_filled_constant_takes_no_memory() -> None:
    graph = nl.Graph()
    big = graph.constant(2.0, shape=(1 << 30, 1 << 10))
    assert big.operation.op.data.array.strides == (0, 0)
    y = big[:3, 0] + 1.0
    np.testing.assert_array_equal(graph.run({}, [y])[y], np.full(3, 3.0))


def test_a_sum_over_a_large_filled_constant_is_not_folded_by_looping_over_it() -> None:
    graph = nl.Graph()
    big = graph.constant(1.0, shape=(1 << 26,))
    executable = graph.compile({}, [big.sum()])
    assert executable.run()[0].item() == 2.0**26


# --- operators
@each_device
def test_operators(device: str) -> None:
    graph = nl.Graph()
    a, b = graph.placeholder((4,)), graph.placeholder((4,))
    i, p = graph.placeholder((4,), nl.int32), graph.placeholder((4,), nl.bool_)
    x, y = np.array([1, -2, 3, 0.5], np.float32), np.array([2, 2, -1, 4], np.float32)
    n, q = np.array([1, 2, 3, 12], np.int32), np.array([True, False, True, True])
    pairs = [
        (a + b, x + y), (2 - a, 2 - x), (a * b, x * y), (1 / b, 1 / y), (a // b, x // y),
        (a % b, x % y), (abs(a) ** b, abs(x) ** y), (-a, -x), (abs(a), abs(x)), (a @ b, x @ y),
        (i << 2, n << 2), (i >> 1, n >> 1), (i & 3, n & 3), (i | 8, n | 8), (i ^ 5, n ^ 5),
        (~i, ~n), (~p, ~q), (p & (a > 0), q & (x > 0)), (p | (a < b), q | (x < y)),
        (p ^ (a <= b), q ^ (x <= y)), (a >= b, x >= y), (a[1:3], x[1:3]), (a[::-2], x[::-2]),
        (a[-1], x[-1]), (y * a, y * x), (a + x, x + x), (i + 1.5, n + np.float32(1.5)),
    ]  # fmt: skip
    found = graph.run({a: x, b: y, i: n, p: q}, [t for t, _ in pairs], device=device)
    for t, expected in pairs:
        assert found[t].shape == np.shape(expected)
        assert found[t].dtype.kind == nl.TensorData.from_numpy(np.asarray(expected)).dtype.kind
        np.testing.assert_allclose(found[t], expected, rtol=1e-6)


def test_a_tensor_is_not_a_value() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2,))
    for use in (lambda: bool(x > 0.0), lambda: np.asarray(x), lambda: 1 if x else 2):
        with pytest.raises(GraphError) as caught:
            use()
        assert caught.value.advice
    assert len(x) == 2
    assert [t.shape for t in x] == [(), ()]
    with pytest.raises(ShapeError):
        len(graph.placeholder((None,)))
    with pytest.raises(AttributeError, match="nonsense"):
        x.nonsense  # noqa: B018
    assert "relu" in dir(x)


# --- control dependencies
def test_control_dependencies_of_what_runs() -> None:
    graph = nl.Graph()
    v = graph.variable([1.0])
    step = v.assign(v + 1.0)
    with graph.control_dependencies([step]), graph.control_dependencies([v]):
        y = v * 2.0
        x = graph.placeholder((1,))
        w = graph.variable([1.0])
    assert y.operation.control_inputs == (step, v.operation)
    assert x.operation.control_inputs == w.operation.control_inputs == ()
    with graph.control_dependencies(step):
        assert (v * 3.0).operation.control_inputs == (step,)
    assert (v * 4.0).operation.control_inputs == ()


def test_control_dependencies_of_another_graph() -> None:
    graph, other = nl.Graph(), nl.Graph()
    v = other.variable([1.0])
    for bad in ([v], [v.operation], ["v"], [None]):
        with pytest.raises(GraphError) as caught, graph.control_dependencies(bad):
            pass
        assert caught.value.received is not None


# --- mixing graphs
def test_tensors_of_two_graphs() -> None:
    a, b = nl.Graph().placeholder((1,)), nl.Graph().placeholder((1,))
    with pytest.raises(GraphError, match="another graph") as caught:
        a + b
    assert __file__ in caught.value.where


def test_python_numbers_keep_the_dtype() -> None:
    graph = nl.Graph()
    for dtype in (nl.float16, nl.bfloat16, nl.float64, nl.int8, nl.uint8):
        assert (graph.placeholder((1,), dtype) + 1).dtype is dtype
    assert (graph.placeholder((1,), nl.int32) + 1.5).dtype is nl.float32
    with pytest.raises(DTypeError):
        graph.placeholder((1,), nl.uint8) + 300
