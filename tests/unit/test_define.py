"""Operand conversion, the elementwise factory, and the functions built on it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, CompilerBug, DTypeError, GraphError, ShapeError
from niello.graph import opdef
from niello.graph.evaluate import evaluate
from niello.graph.opdef import real, sample
from niello.graph.tensor import Tensor
from niello.ops.define import elementwise, half_as_float32, operands, unbroadcast


def value(tensor: Tensor) -> np.ndarray:
    return evaluate([tensor])[0]


@pytest.fixture
def graph() -> nl.Graph:
    return nl.Graph()


# --- operands
@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (nl.int8, nl.int32, nl.int32),
        (nl.uint8, nl.int8, nl.int16),
        (nl.bool_, nl.uint16, nl.uint16),
        (nl.int64, nl.float16, nl.float16),
        (nl.float16, nl.bfloat16, nl.float32),
        (nl.float32, nl.float64, nl.float64),
    ],
)
def test_tensors_promote(graph, left: nl.DType, right: nl.DType, expected: nl.DType) -> None:
    a, b = graph.placeholder((2,), left), graph.placeholder((2,), right)
    assert (a + b).dtype is expected is (b + a).dtype


@pytest.mark.parametrize(
    ("dtype", "number", "expected"),
    [
        (nl.float16, 2.5, nl.float16),
        (nl.float64, 2, nl.float64),
        (nl.int8, 2, nl.int8),
        (nl.int8, 2.5, nl.float32),
        (nl.bool_, 2, nl.int32),
        (nl.bool_, 2.5, nl.float32),
    ],
)
def test_numbers_take_the_dtype_of_tensors(graph, dtype, number, expected) -> None:
    x = graph.placeholder((2,), dtype)
    assert (x * number).dtype is expected is (number * x).dtype


def test_arrays_keep_their_dtype(graph) -> None:
    assert (graph.placeholder((2,)) + np.ones(2)).dtype is nl.float64


def test_unsigned_64_does_not_mix_with_signed(graph) -> None:
    a, b = graph.placeholder((2,), nl.uint64), graph.placeholder((2,), nl.int8)
    with pytest.raises(DTypeError, match="no integer type holds both uint64 and int8"):
        a + b


def test_a_function_needs_a_tensor() -> None:
    with pytest.raises(GraphError, match="at least one operand must be a tensor") as caught:
        nl.add(1.0, [2.0])
    assert caught.value.received == "float, list"


def test_operands_of_two_graphs(graph) -> None:
    other = nl.Graph().placeholder((2,))
    with pytest.raises(GraphError, match="another graph"):
        graph.placeholder((2,)) + other


def test_shapes_that_do_not_broadcast(graph) -> None:
    with pytest.raises(ShapeError, match=r"\[2, 3\] and \[4\]") as caught:
        graph.placeholder((2, 3)) + graph.placeholder((4,))
    assert caught.value.fields["axis"] == -1
    assert __file__ in caught.value.where


def test_operands_are_returned_as_they_are_when_they_fit(graph) -> None:
    x = graph.placeholder((2,))
    assert operands("test", x, 1.0)[0] is x
    assert len(graph.operations) == 2  # no cast was made


def test_refused_dtype_says_which_are_taken(graph) -> None:
    with pytest.raises(DTypeError, match=r"exp: .* received int32.*float16, bfloat16, float32"):
        graph.placeholder((2,), nl.int32).exp()


# --- the factory
def test_a_contract_must_be_complete() -> None:
    class Half(opdef.Op):
        name = "half_a_contract"
        traits = opdef.Trait.NONE

    with pytest.raises(CompilerBug, match="lacks infer, reference, grad, samples, doc, lower"):
        opdef.register(Half)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(CompilerBug, match="registered twice"):
        elementwise(
            "tanh",
            [nl.float32],
            numpy=np.tanh,
            scalar=lambda k, x: k.tanh(x),
            grad="a copy",
            samples=[sample(real(2))],
            doc="A copy.",
        )


def test_made_functions_have_a_signature_and_a_name(graph) -> None:
    x = graph.placeholder((2,))
    named = nl.elu(x, alpha=0.5, name="bent")
    assert named.name == "bent" and named.operation.op.attributes == {"alpha": 0.5}
    assert x.elu(0.5).operation.op == named.operation.op
    with pytest.raises(TypeError, match="unexpected keyword argument 'beta'"):
        nl.elu(x, beta=1.0)


def test_half_types_compute_in_float32_and_round_once() -> None:
    a = np.array([1.0009765625], np.float16)
    seen = []

    def triple(x: np.ndarray) -> np.ndarray:
        seen.append(x.dtype)
        return x * 3

    assert half_as_float32(triple, [a]).dtype == np.float16 and seen == [np.float32]
    assert half_as_float32(triple, [a.astype(np.float64)]).dtype == np.float64


def test_unbroadcast_sums_over_what_was_repeated(graph) -> None:
    g = graph.constant(np.arange(12, dtype=np.float32).reshape(3, 4))
    for shape in ((4,), (3, 1), (1, 4), (), (3, 4)):
        like = graph.placeholder(shape)
        found = unbroadcast(g, like)
        expected = (
            np.arange(12)
            .reshape(3, 4)
            .sum(axis=tuple(i for i, d in enumerate((1,) * (2 - len(shape)) + shape) if d == 1))
        )
        made = evaluate([found], {like: np.zeros(shape, np.float32)})[0]
        assert made.shape == shape and made.reshape(-1).tolist() == expected.reshape(-1).tolist()


# --- functions that choose
@pytest.mark.parametrize("exponent", [1, 2, 3, 0.5, -1, 2.5, 0, -2])
def test_power_of_a_number(graph, exponent: float) -> None:
    array = np.array([0.25, 1.0, 3.0])
    made = value(graph.constant(array) ** exponent)
    np.testing.assert_allclose(made, array**exponent, rtol=1e-15)


def test_power_of_two_is_a_square(graph) -> None:
    x = graph.placeholder((2,), nl.int32)
    assert (x**2).operation.op.name == "square" and (x**1) is x
    assert (2**x).operation.op.name == "power"
    assert (x**0.5).dtype is nl.float32


def test_power_gradient_at_zero(graph) -> None:
    """0**0 and 0**2 have finite gradients; both operands of a power get theirs."""
    a = graph.constant(np.array([0.0, 0.0, 2.0]))
    b = graph.constant(np.array([0.0, 2.0, 3.0]))
    slopes = graph.gradients(nl.power(a, b), [a, b])
    to_a, to_b = evaluate([slopes[a], slopes[b]])
    assert to_a.tolist() == [0.0, 0.0, 12.0]
    np.testing.assert_allclose(to_b, [0.0, 0.0, 8.0 * math.log(2.0)])


def test_integers_divide_as_floats(graph) -> None:
    made = value(nl.divide(graph.constant([7, -7]), 2))
    assert made.dtype == np.float32 and made.tolist() == [3.5, -3.5]


def test_remainders_and_quotients_of_every_sign(graph) -> None:
    a, b = graph.constant([7, 7, -7, -7, 7]), graph.constant([3, -3, 3, -3, 0])
    assert value(nl.modulo(a, b)).tolist() == [1, 1, -1, -1, 0]
    assert value(a % b).tolist() == [1, -2, 2, -1, 0]
    assert value(a // b).tolist() == [2, -3, -3, 2, 0]


def test_minimum_keeps_nan_and_fmin_drops_it(graph) -> None:
    a = graph.constant([math.nan, 1.0, math.nan])
    b = graph.constant([1.0, math.nan, math.nan])
    assert np.isnan(value(nl.minimum(a, b))).tolist() == [True, True, True]
    np.testing.assert_array_equal(value(nl.fmax(a, b)), [1.0, 1.0, math.nan])


def test_clamp_with_one_bound(graph) -> None:
    x = graph.constant([-3, 0, 300], nl.int32)
    assert value(x.clamp(low=-1)).tolist() == [-1, 0, 300]
    assert value(x.clamp(high=5)).tolist() == [-3, 0, 5]
    assert value(graph.constant([-1e30, 2.0]).clamp(high=1.0)).tolist() == [np.float32(-1e30), 1.0]
    with pytest.raises(AttributeValueError, match="needs a bound"):
        x.clamp()


def test_clamp_gradient_goes_to_the_bound_in_force(graph) -> None:
    x = graph.constant([-2.0, -1.0, 0.0, 1.0, 2.0])
    low, high = graph.constant([-1.0] * 5), graph.constant([1.0] * 5)
    slopes = graph.gradients(nl.clamp(x, low, high), [x, low, high])
    assert [v.tolist() for v in evaluate([slopes[t] for t in (x, low, high)])] == [
        [0, 1, 1, 1, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
    ]


def test_select_converts_its_predicate(graph) -> None:
    made = nl.select(graph.constant([0, 2]), 1.5, graph.constant([1, 2]))
    assert value(made).tolist() == [1.0, 1.5] and made.dtype is nl.float32
    assert value(nl.where([True, False], graph.constant([1, 2]), 0)).tolist() == [1, 0]


def test_logic_takes_any_dtype(graph) -> None:
    x = graph.constant([0.0, 2.0, math.nan])
    assert value(nl.logical_not(x)).tolist() == [True, False, False]
    assert value(nl.logical_nand(x, graph.constant([1, 1, 0]))).tolist() == [True, False, True]


def test_operators_on_bits_and_booleans(graph) -> None:
    x, flag = graph.constant([5, -1]), graph.constant([True, False])
    assert value(~x).tolist() == [-6, 0] and value(~flag).tolist() == [False, True]
    assert value(x & 4).tolist() == [4, 4] and value(flag | False).tolist() == [True, False]
    assert value(x >> 1).tolist() == [2, -1] and value(1 ^ x).tolist() == [4, -2]


def test_rounding_of_halves(graph) -> None:
    x = graph.constant([0.5, 1.5, 2.5, -0.5, -2.5, 0.49999997])
    assert value(x.round()).tolist() == [1, 2, 3, -1, -3, 0]
    assert value(x.rint()).tolist() == [0, 2, 2, 0, -2, 0]


def test_sign_keeps_zeros_and_nan(graph) -> None:
    made = value(nl.sign(graph.constant([-0.0, 0.0, math.nan, -math.inf])))
    assert np.signbit(made).tolist()[:2] == [True, False]
    assert np.isnan(made[2]) and made[3] == -1


# --- casts
def test_cast_saturates_and_drops_nan(graph) -> None:
    x = graph.constant([math.nan, 1e10, -1e10, -1.9, 200.5])
    assert value(x.cast(nl.int8)).tolist() == [0, 127, -128, -1, 127]
    assert value(x.cast("uint8")).tolist() == [0, 255, 0, 0, 200]
    assert value(x.cast(np.int32)).tolist() == [0, 2**31 - 1, -(2**31), -1, 200]
    assert value(x.cast(bool)).tolist() == [True] * 5


def test_cast_to_the_same_dtype_is_the_tensor(graph) -> None:
    x = graph.placeholder((2,))
    assert x.cast(nl.float32) is x
    assert x.cast(nl.float32, name="copy").name == "copy"


def test_cast_to_nonsense(graph) -> None:
    with pytest.raises(DTypeError, match="no such element type; received 'float12'"):
        graph.placeholder((2,)).cast("float12")


def test_gradient_stops(graph) -> None:
    x = graph.constant([1.0, 2.0])
    y = x * nl.stop_gradient(x) + x.cast(nl.int32).cast(nl.float32)
    assert evaluate([graph.gradients(y, [x])[x]])[0].tolist() == [1.0, 2.0]


# --- activations at their kinks
@pytest.mark.parametrize(
    ("name", "at", "expected"),
    [
        ("relu", [0.0], [0.0]),
        ("leaky_relu", [0.0], [0.01]),
        ("elu", [0.0], [1.0]),
        ("hard_tanh", [-1.0, 1.0], [0.0, 0.0]),
        ("hard_sigmoid", [-3.0, 3.0], [0.0, 0.0]),
        ("hard_swish", [-3.0, 3.0], [0.0, 1.0]),
        ("softshrink", [-0.5, 0.5], [0.0, 0.0]),
        ("absolute", [0.0], [0.0]),
    ],
)
def test_gradient_at_kinks(graph, name: str, at: list[float], expected: list[float]) -> None:
    x = graph.constant(at)
    slope = evaluate([graph.gradients(getattr(nl, name)(x), [x])[x]])[0]
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["sigmoid", "softplus", "silu", "mish", "gelu", "elu", "selu", "hard_swish", "tanh", "relu"],
)
def test_gradients_stay_finite_far_out(graph, name: str) -> None:
    x = graph.constant([-1e20, -1e4, -200.0, 200.0, 1e4, 1e20])
    slope = evaluate([graph.gradients(getattr(nl, name)(x), [x])[x]])[0]
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[3:], slope[3], rtol=1e-6)


def test_attributes_outside_their_domain(graph) -> None:
    x = graph.placeholder((2,))
    with pytest.raises(AttributeValueError, match="unknown approximation; received 'fast'"):
        nl.gelu(x, approximate="fast")
    with pytest.raises(AttributeValueError, match="must not be negative; received -1"):
        nl.softshrink(x, -1)
