"""Reshaping, transposing, slicing, joining, padding and indexing, as users call them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, DTypeError, NielloError, ShapeError
from niello.graph.evaluate import evaluate
from niello.graph.opdef import Trait


def value(tensor: Any, feeds: dict[Any, Any] | None = None) -> np.ndarray:
    return evaluate([tensor], feeds)[0]


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def bind(shape: tuple[int | None, ...] | None, array: np.ndarray) -> tuple[Any, dict[Any, Any]]:
    x = nl.Graph().placeholder(shape, array.dtype)
    return x, {x: array}


# --- reshape and its kin ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "target", "inferred"),
    [
        ((2, 6), (3, -1), (3, 4)),
        ((None, 6), (-1, 3), (None, 3)),
        ((None, 6), (4, 3), (4, 3)),
        ((0, None), (-1, 3), (0, 3)),
        (None, (2, -1), (2, None)),
    ],
)
def test_reshape_infers(shape: Any, target: Any, inferred: Any) -> None:
    assert nl.Graph().placeholder(shape).reshape(target).shape == inferred


def test_reshape_takes_sixteen_dimensions() -> None:
    a = ramp(*[2] * 16)
    x, feeds = bind(a.shape, a)
    found = value(x.reshape((256, 256)).transpose().reshape([2] * 16), feeds)
    assert np.array_equal(found, a.reshape(256, 256).T.reshape([2] * 16))


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ((5, 2), "12 elements cannot take 10 places"),
        ((5, -1), "no size for -1 makes 12 elements"),
        ((-1, -1), "sizes must not be negative, except for one -1"),
        ((0, -1), "no size for -1 makes 12 elements"),
    ],
)
def test_reshape_refuses(target: Any, problem: str) -> None:
    with pytest.raises(ShapeError) as caught:
        nl.Graph().placeholder((2, 6)).reshape(target)
    assert caught.value.problem == problem
    assert caught.value.asked == "reshape"


def test_reshape_of_what_is_not_a_tensor() -> None:
    with pytest.raises(NielloError, match="at least one operand must be a tensor"):
        nl.reshape(np.zeros(3), (3, 1))


@pytest.mark.parametrize(
    ("call", "inferred"),
    [
        (lambda x: x.flatten(), (None, None)),
        (lambda x: x.flatten(-1), (None, 5)),
        (lambda x: x.flatten(3), (None, 1)),
        (lambda x: x.flatten_axes(1), (None, None)),
        (lambda x: x.flatten_axes(0, 1), (None, 5)),
        (lambda x: x.unflatten(2, (5, 1)), (None, None, 5, 1)),
        (lambda x: x.unflatten(1, (2, -1)), (None, 2, None, 5)),
        (lambda x: x.expand_dims((0, -1)), (1, None, None, 5, 1)),
        (lambda x: x.expand_dims(1).squeeze(1), (None, None, 5)),
        (lambda x: x.squeeze(), None),
        (lambda x: x.swap_axes(0, -1), (5, None, None)),
        (lambda x: x.transpose(), (5, None, None)),
        (lambda x: x.tile((2, 1, 3)), (None, None, 15)),
        (lambda x: x.pad(1), (None, None, 7)),
        (lambda x: x.reverse(), (None, None, 5)),
    ],
)
def test_unknown_sizes(call: Any, inferred: Any) -> None:
    assert call(nl.Graph().placeholder((None, None, 5))).shape == inferred


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.transpose(),
        lambda x: x.swap_axes(0, -1),
        lambda x: x.expand_dims(-1),
        lambda x: x.squeeze(),
        lambda x: x.squeeze(-2),
        lambda x: x.flatten(-1),
        lambda x: x.flatten_axes(),
        lambda x: x.reverse(),
        lambda x: x.reverse(-1),
        lambda x: x.sum(),
        lambda x: x.max(-1, True),
        lambda x: x.softmax(),
        lambda x: x.logsumexp(-1),
        lambda x: x[0],
        lambda x: x[..., ::2],
        lambda x: x[..., None, 0],
        lambda x: x.gather([1, 0], -1),
        lambda x: nl.concat([x, x], -1),
        lambda x: nl.stack([x, x], -1),
        lambda x: x.layer_norm(),
        lambda x: x.argmax(-1),
    ],
)
def test_unknown_rank_means_the_same(call: Any) -> None:
    a = ramp(2, 1, 4)
    free, feeds = bind(None, a)
    known, feeds_known = bind(a.shape, a)
    found, expected = call(free), call(known)
    np.testing.assert_allclose(value(found, feeds), value(expected, feeds_known), rtol=1e-6)
    if found.dtype.is_float:
        g, h = (
            t.graph.gradients((t * t).sum(), [p])[p] for t, p in ((found, free), (expected, known))
        )
        np.testing.assert_allclose(value(g, feeds), value(h, feeds_known), rtol=1e-6)
        out = free.graph.run({free: a}, targets=[g], device="numpy")[g]
        np.testing.assert_allclose(np.asarray(out), value(h, feeds_known), rtol=1e-5, atol=1e-6)


def test_squeeze_refuses_other_sizes() -> None:
    with pytest.raises(ShapeError, match="axis 1 has size 3") as caught:
        nl.Graph().placeholder((1, 3)).squeeze(1)
    assert caught.value.axis == 1


def test_transpose_refuses_what_is_no_permutation() -> None:
    x = nl.Graph().placeholder((2, 3))
    for axes in ((0, 0), (0,), (0, 1, 2)):
        with pytest.raises(ShapeError, match="permutation"):
            x.transpose(axes)
    with pytest.raises(ShapeError, match="outside a tensor of rank 2"):
        x.transpose((0, 2))
    with pytest.raises(AttributeValueError, match="must be an integer"):
        x.transpose(("a", "b"))


def test_shape_of_is_a_constant_when_known() -> None:
    x = nl.Graph().placeholder((2, 3))
    assert x.shape_of().operation.op.name == "constant"
    assert value(x.shape_of()).tolist() == [2, 3]
    assert value(x.size()).tolist() == 6


def test_shape_of_unknown_sizes() -> None:
    x, feeds = bind((None, 3), ramp(4, 3))
    assert value(x.shape_of(), feeds).tolist() == [4, 3]
    assert value(x.size(), feeds) == 12
    found = x.graph.run(feeds, targets=[x.size()], device="numpy")
    assert [np.asarray(v).tolist() for v in found.values()] == [12]


# --- broadcasting -----------------------------------------------------------------------------


def test_broadcast_keeps_sizes() -> None:
    x, feeds = bind((None, 1), ramp(2, 1))
    y = x.broadcast_to((3, -1, 4))
    assert y.shape == (3, None, 4)
    assert value(y, feeds).shape == (3, 2, 4)


@pytest.mark.parametrize("target", [(3,), (2, 4), (2,), (-1, 2, 3)])
def test_broadcast_refuses(target: Any) -> None:
    with pytest.raises(ShapeError) as caught:
        nl.Graph().placeholder((2, 3)).broadcast_to(target)
    assert "equal or 1" in caught.value.advice


def test_gradient_of_broadcasting_with_unknown_sizes() -> None:
    g = nl.Graph()
    x, b = g.placeholder((None, None)), g.placeholder((None,))
    loss = (x * b).sum()
    found = g.gradients(loss, [b])[b]
    a = ramp(3, 4)
    for bias in (np.ones(4, np.float32), np.ones(1, np.float32)):
        expected = a.sum(0) if bias.size == 4 else a.sum(keepdims=True).reshape(1)
        assert np.array_equal(value(found, {x: a, b: bias}), expected)
        out = g.run({x: a, b: bias}, targets=[found], device="numpy")[found]
        assert np.array_equal(np.asarray(out), expected)


# --- slice, concat, split, stack ----------------------------------------------------------------

BOUNDS = [None, -9, -5, -3, -1, 0, 1, 2, 4, 5, 9]


def test_slices_are_pythons() -> None:
    a = ramp(5)
    x, feeds = bind((5,), a)
    free, feeds_free = bind((None,), a)
    for start in BOUNDS:
        for end in BOUNDS:
            for step in (1, 2, 7, -1, -2, -7):
                expected = a[start:end:step]
                y = x.slice([start], [end], [step])
                assert y.shape == expected.shape, (start, end, step)
                assert np.array_equal(value(y, feeds), expected), (start, end, step)
                z = free.slice([start], [end], [step])
                assert z.shape in ((None,), expected.shape), (start, end, step)
                assert np.array_equal(value(z, feeds_free), expected), (start, end, step)


def test_gradient_of_slices_puts_back() -> None:
    a = ramp(6, 5)
    for bounds in ((1, 5, 2), (None, None, -1), (4, 0, -3), (-1, None, 1), (3, 3, 1)):
        for shape in ((6, 5), (None, None)):
            x, feeds = bind(shape, a)
            y = x.slice([bounds[0]], [bounds[1]], [bounds[2]], axes=[1])
            expected = np.zeros_like(a)
            expected[:, slice(*bounds)] = a[:, slice(*bounds)] * 2
            found = x.graph.gradients((y * y).sum(), [x])[x]
            assert np.array_equal(value(found, feeds), expected)
            out = x.graph.run(feeds, targets=[found], device="numpy")[found]
            assert np.array_equal(np.asarray(out), expected)


def test_slice_update_writes_the_window() -> None:
    a, u = ramp(5, 4), -ramp(3, 4)
    x, feeds = bind((5, 4), a)
    expected = a.copy()
    expected[::-2] = u
    assert np.array_equal(value(x.slice_update(u, [None], [None], [-2]), feeds), expected)
    with pytest.raises(ShapeError, match="shape of the window"):
        x.slice_update(u, [0], [2])
    with pytest.raises(DTypeError):
        x.slice_update(u.astype(np.float64), [None], [None], [-2])


def test_slice_refuses() -> None:
    x = nl.Graph().placeholder((5, 4))
    with pytest.raises(AttributeValueError, match="must not be 0"):
        x.slice([0], [2], [0])
    with pytest.raises(AttributeValueError, match="differ in number"):
        x.slice([0], [2, 3])
    with pytest.raises(ShapeError, match="given twice"):
        x.slice([0, 0], [2, 2], axes=[1, -1])
    with pytest.raises(AttributeValueError, match="must be an integer"):
        x.slice([0.5], [2])


def test_concat_checks_and_promotes() -> None:
    g = nl.Graph()
    a, b = g.placeholder((2, 3)), g.placeholder((2, 3), nl.int32)
    assert nl.concat([a, b], 1).dtype is nl.float32
    assert nl.concat([a, g.placeholder((None, None))]).shape == (None, 3)
    with pytest.raises(ShapeError, match="differ in more than the axis") as caught:
        nl.concat([a, g.placeholder((2, 4))])
    assert caught.value.shapes == ((2, 3), (2, 4))
    with pytest.raises(ShapeError, match="outside a tensor of rank 2"):
        nl.concat([a, a], 2)
    with pytest.raises(ShapeError, match="A scalar has no axes"):
        nl.concat([g.placeholder(()), g.placeholder(())])
    with pytest.raises(NielloError, match="at least one operand"):
        nl.concat([])


def test_split_takes_numbers_and_sizes() -> None:
    x, feeds = bind((2, 6), ramp(2, 6))
    assert [t.shape for t in x.split(3, 1)] == [(2, 2)] * 3
    first, second = x.split([1, -1], -1)
    assert np.array_equal(value(nl.concat([second, first], 1), feeds), np.roll(ramp(2, 6), -1, 1))
    for parts in (4, [1, 2], [7, -1]):
        with pytest.raises(ShapeError) as caught:
            x.split(parts, 1)
        assert caught.value.size == 6
    for parts in (0, [], [-1, -1, 6], [-2, 8]):
        with pytest.raises(AttributeValueError):
            x.split(parts, 1)


def test_gradient_of_one_part_of_a_split() -> None:
    x, feeds = bind((None, 4), ramp(3, 4))
    part = x.split(2, 1)[1]
    found = x.graph.gradients((part * part).sum(), [x])[x]
    expected = np.concatenate([np.zeros((3, 2)), 2 * ramp(3, 4)[:, 2:]], 1)
    assert np.array_equal(value(found, feeds), expected)
    out = x.graph.run(feeds, targets=[found], device="numpy")[found]
    assert np.array_equal(np.asarray(out), expected)


def test_unstack_needs_the_number() -> None:
    x, feeds = bind((None, 2), ramp(3, 2))
    with pytest.raises(ShapeError, match="size of the axis is unknown"):
        x.unstack()
    assert [value(t, feeds).tolist() for t in x.unstack(number=3)] == ramp(3, 2).tolist()
    assert np.array_equal(value(nl.stack(x.unstack(1), 1), feeds), ramp(3, 2))
    with pytest.raises(ShapeError, match="does not have 3 slices"):
        x.unstack(1, number=3)
    with pytest.raises(ShapeError, match="differ in shape"):
        nl.stack([x, x.transpose()[:, 0]])


# --- pad ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["constant", "reflect", "symmetric", "edge", "wrap"])
def test_pad_and_its_gradient_with_unknown_sizes(mode: str) -> None:
    a = ramp(3, 4) + 1
    widths = [(2, 1), (0, 3)]
    x, feeds = bind((None, None), a)
    y = x.pad(widths, mode=mode)
    assert np.array_equal(value(y, feeds), np.pad(a, widths, mode=mode))
    weights = (
        np.arange(
            1, 1 + y.graph.run(feeds, targets=[y.size()], device="numpy").popitem()[1].__array__()
        )
        .reshape(6, 7)
        .astype(np.float32)
    )
    found = x.graph.gradients((y * weights).sum(), [x])[x]
    places = np.pad(np.arange(12).reshape(3, 4), widths, mode=mode)
    inside = np.pad(np.ones((3, 4)), widths) if mode == "constant" else np.ones((6, 7))
    expected = np.zeros(12)
    np.add.at(expected, places.reshape(-1), (weights * inside).reshape(-1))
    assert np.array_equal(value(found, feeds), expected.reshape(3, 4))
    out = x.graph.run(feeds, targets=[found], device="numpy")[found]
    assert np.array_equal(np.asarray(out), expected.reshape(3, 4))


def test_pad_takes_short_forms() -> None:
    x = nl.Graph().placeholder((2, 3))
    assert x.pad(1).shape == (4, 5)
    assert x.pad((1, 2)).shape == (5, 6)
    assert x.pad((1, 2), axes=-1).shape == (2, 6)
    assert x.pad([(1, 2)], axes=[0]).shape == (5, 3)
    assert x.pad([(0, 0), (1, 0)], value=-np.inf).shape == (2, 4)


def test_pad_refuses() -> None:
    x = nl.Graph().placeholder((2, 3))
    with pytest.raises(AttributeValueError, match="no such mode"):
        x.pad(1, mode="mirror")
    with pytest.raises(AttributeValueError, match="must not be negative"):
        x.pad((1, -1))
    with pytest.raises(ShapeError, match="can add at most 1") as caught:
        x.pad([(2, 0), (0, 0)], mode="reflect")
    assert caught.value.axis == 0
    with pytest.raises(ShapeError, match="1 pairs do not fit rank 2"):
        x.pad([(1, 1)])
    with pytest.raises(ShapeError, match="can add at most 0"):
        nl.Graph().placeholder((0,)).pad(1, mode="edge")


# --- indexing -----------------------------------------------------------------------------------

KEYS: list[Any] = [
    0,
    -1,
    slice(1, None),
    (slice(None), 2),
    (slice(None, None, -1), slice(-3, -1)),
    Ellipsis,
    (Ellipsis, 0),
    (0, Ellipsis),
    (0, Ellipsis, None, 1),
    (None, 0),
    (slice(None), None, 1),
    (Ellipsis, None),
    (1, 2, 3),
    (slice(5, 9), 0),
    np.array([2, 0]),
    (slice(None), np.array([[2, 0], [1, -1]])),
    (Ellipsis, np.array([2, 0, 2])),
    (0, np.array([2, 0])),
    (np.array([2, 0]), 0),
    (slice(1, 3), np.array([2, 0]), None),
    (None, np.array([2, 0]), slice(1, 3), None),
    (np.array([1, 2]), Ellipsis, None),
    (),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_subscripts_are_numpys(key: Any) -> None:
    a = ramp(3, 4, 5)
    for shape in ((3, 4, 5), (None, None, None), None):
        x, feeds = bind(shape, a)
        y = x[key]
        assert np.array_equal(value(y, feeds), a[key]), shape
        if shape == (3, 4, 5):
            assert y.shape == a[key].shape


def test_subscripts_refused() -> None:
    x = nl.Graph().placeholder((3, 4, 5))
    with pytest.raises(ShapeError, match="outside of axis 1") as caught:
        x[:, 4]
    assert caught.value.axis == 1
    with pytest.raises(ShapeError, match="4 indices for a tensor of rank 3"):
        x[0, 0, 0, 0]
    with pytest.raises(ShapeError, match="at most one Ellipsis"):
        x[..., 0, ...]
    with pytest.raises(ShapeError, match="next to each other"):
        x[0, :, [1, 2]]
    with pytest.raises(ShapeError, match="only one axis"):
        x[[0], [1]]
    for key in (True, "a", 1.5, np.array([True, False, True])):
        with pytest.raises(DTypeError):
            x[key]


def test_iteration_and_length() -> None:
    x, feeds = bind((3, 2), ramp(3, 2))
    assert len(x) == 3
    assert [value(t, feeds).tolist() for t in x] == ramp(3, 2).tolist()


def test_gather_outside_is_zero_and_negative_counts_from_the_end() -> None:
    x, feeds = bind((3, 2), ramp(3, 2) + 1)
    y = x.gather([0, -1, 3, -4])
    expected = [[1, 2], [5, 6], [0, 0], [0, 0]]
    assert value(y, feeds).tolist() == expected
    found = x.graph.gradients(y.sum(), [x])[x]
    assert value(found, feeds).tolist() == [[1, 1], [0, 0], [1, 1]]


def test_gather_gradient_with_unknown_sizes() -> None:
    g = nl.Graph()
    x, i = g.placeholder((None, None)), g.placeholder((None,), nl.int32)
    y = x.gather(i, axis=1)
    assert y.shape == (None, None)
    found = g.gradients((y * y).sum(), [x])[x]
    a, chosen = ramp(2, 3), np.array([2, 2, 0], np.int32)
    expected = a * np.array([2, 0, 4])
    assert np.array_equal(value(found, {x: a, i: chosen}), expected)
    out = g.run({x: a, i: chosen}, targets=[found], device="numpy")[found]
    assert np.array_equal(np.asarray(out), expected)


def test_scatter_form_is_the_pull_form() -> None:
    """The plan of additions that scatter_reduce offers, carried out literally, is its reference."""
    from niello.kernel import ir
    from niello.kernel.build import Builder, Value, ravel
    from niello.kernel.interpret import interpret
    from niello.ops.gather import ScatterReduce

    op = ScatterReduce("add", axis=1, batch_dims=1, form="slices", shape=(2, 4, 2))
    dy, places = ramp(2, 3, 2) + 1, np.array([[0, -1, 9], [3, 0, 0]], np.int32)
    params = [
        ir.Param(0, nl.float32, dy.size, False),
        ir.Param(1, nl.int32, places.size, False),
        ir.Param(2, nl.float32, 16, True),
    ]

    k = Builder()

    def input_of(number: int, array: np.ndarray) -> Value:
        return Value(
            array.shape,
            params[number].dtype,
            lambda index: k.load(params[number], ravel(index, array.shape)),
        )

    spec = op.scatter(k, input_of(0, dy), input_of(1, places))
    ranges = k.ranges(spec.extents)
    store = ir.Store(
        params[2],
        ranges,
        ravel(spec.target(*ranges), (2, 4, 2)),
        spec.value(*ranges),
        spec.inside(*ranges),
        spec.combine,
    )
    out = np.full(16, spec.initial, np.float32)
    interpret(ir.Kernel("scatter", tuple(params), (store,)), [dy.ravel(), places.ravel(), out])
    assert np.array_equal(out.reshape(2, 4, 2), op.reference(dy, places))


def test_gather_refuses() -> None:
    g = nl.Graph()
    x = g.placeholder((3, 4))
    with pytest.raises(DTypeError) as caught:
        x.gather(g.placeholder((2,)))
    assert caught.value.received == "float32"
    with pytest.raises(ShapeError, match="batch axes must come before"):
        x.gather(g.placeholder((3,), nl.int32), 0, batch_dims=1)
    with pytest.raises(ShapeError, match="shapes disagree"):
        x.gather(g.placeholder((2, 2), nl.int32), 1, batch_dims=1)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_along_axis_is_take_along_axis(axis: int) -> None:
    a = ramp(3, 4, 5)
    places = np.argsort(-a, axis)
    x, feeds = bind(a.shape, a)
    y = x.gather_along_axis(places, axis)
    assert np.array_equal(value(y, feeds), np.take_along_axis(a, places, axis))
    found = x.graph.gradients((y * a).sum(), [x])[x]
    expected = np.take_along_axis(a, np.argsort(places, axis), axis)
    assert np.array_equal(value(found, feeds), expected)


def test_one_hot() -> None:
    i = nl.Graph().placeholder((None, 2), nl.int64)
    y = nl.one_hot(i, 3, axis=1, dtype=nl.int8, on=2, off=-1)
    assert y.shape == (None, 3, 2)
    found = value(y, {i: np.array([[0, 2], [3, -1]])})
    assert found.dtype == np.int8
    assert found.tolist() == [[[2, -1], [-1, -1], [-1, 2]], [[-1, -1]] * 3]
    with pytest.raises(DTypeError):
        nl.one_hot(nl.Graph().placeholder((2,)), 3)


# --- what the stitcher is told ------------------------------------------------------------------


def test_movements_that_take_from_several_inputs_say_so() -> None:
    from niello.graph.opdef import registry

    many = {n for n, c in registry().items() if Trait.MANY_SOURCES in c.traits}
    assert {"concat", "slice_update"} <= many
    assert all(Trait.MOVEMENT in registry()[n].traits for n in many)


def test_reshape_index_divides_only_where_axes_meet() -> None:
    from niello.kernel.build import Builder
    from niello.ops.reshape import reshape_index

    ranges = Builder().ranges((2, 3, 4))
    assert reshape_index(ranges, (2, 3, 4), (2, 1, 3, 4, 1))[0::2][:2] == (ranges[0], ranges[1])
    outer, inner = reshape_index(ranges, (2, 3, 4), (6, 4))
    assert inner is ranges[2]
    assert outer is ranges[0] * 3 + ranges[1]


def test_canonical_forms_fold_together() -> None:
    g = nl.Graph()
    x = g.placeholder((2, 3, 4))
    y = x.reshape((6, 4)).reshape((4, 6))
    merged = y.operation.op.canonical(*y.operation.inputs)
    assert merged.operation.inputs == (x,)
    z = x.transpose((1, 2, 0)).transpose((2, 0, 1))
    merged = z.operation.op.canonical(*z.operation.inputs)
    assert merged.operation.op.canonical(*merged.operation.inputs) is x
