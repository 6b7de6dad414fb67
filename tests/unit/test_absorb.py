"""Batch normalisation and other constant factors become part of constant weights."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.graph.structural import Constant
from niello.passes.absorb import Absorb
from niello.passes.computation import Computation

RNG = np.random.default_rng(4)


def values(*shape: int, low: float = 0.5, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def names(found: nl.Executable) -> list[str]:
    left = [o.op.name for o in found.optimised.graph.operations]
    return [n for n in left if n not in ("placeholder", "constant", "variable")]


def both(graph: nl.Graph, feeds: dict[nl.Tensor, np.ndarray], y: nl.Tensor) -> nl.Executable:
    """The optimised executable, after comparing it with the one that is not."""
    types = {t: a.shape for t, a in feeds.items()}
    plain = graph.compile(types, [y], options=nl.CompileOptions(optimise=False))
    found = graph.compile(types, [y])
    expected = plain.run(list(feeds.values()))[0].numpy()
    result = found.run(list(feeds.values()))[0].numpy()
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())
    assert "multiply" in names(plain) or "divide" in names(plain)
    return found


def normalised(y: nl.Tensor, channels: int, axis: int) -> nl.Tensor:
    """Inference batch normalisation with constant statistics."""
    shape = [-1 if i == axis else 1 for i in range(len(y.shape))]
    mean, variance, gamma, beta = (values(channels).reshape(shape) for _ in range(4))
    return (y - mean) * (gamma / np.sqrt(variance + np.float32(1e-5))) + beta


LAYOUTS = [
    ("NCHW", "OIHW", 1, 1),
    ("NHWC", "HWIO", 3, 1),
    ("NCHW", "OIHW", 1, 2),
    ("NHWC", "OHWI", 3, 1),
]


@pytest.mark.parametrize(("data", "weights", "axis", "groups"), LAYOUTS)
def test_batch_normalisation_after_a_convolution(
    data: str, weights: str, axis: int, groups: int
) -> None:
    graph = nl.Graph()
    sizes = {"N": 2, "C": 4, "H": 5, "W": 6}
    x = graph.placeholder([sizes[c] for c in data], name="x")
    shape = {"O": 6, "I": 4 // groups, "H": 3, "W": 3}
    w = values(*(shape[c] for c in weights), low=-1.0, high=1.0)
    y = nl.conv2d(
        x, graph.constant(w), padding="same", data_layout=data, weights_layout=weights,
        groups=groups,
    )  # fmt: skip
    found = both(graph, {x: values(*x.shape, low=-1.0, high=1.0)}, normalised(y, 6, axis).relu())
    assert names(found) == ["convolution", "add", "relu"]


def test_the_batch_normalisation_op(rng: np.random.Generator) -> None:
    graph = nl.Graph()
    x = graph.placeholder((1, 3, 5, 5), name="x")
    y = nl.conv2d(x, graph.constant(values(4, 3, 3, 3)))
    statistics = [graph.constant(values(4)) for _ in range(2)]
    y = nl.normalise(
        y, *(s.reshape((4, 1, 1)) for s in statistics), gamma=values(4, 1, 1), beta=values(4, 1, 1)
    )
    assert names(both(graph, {x: values(1, 3, 5, 5)}, y)) == ["convolution", "add"]


def test_matrix_products_on_either_side() -> None:
    for swap in (False, True):
        graph = nl.Graph()
        x = graph.placeholder((3, 5) if not swap else (5, 3), name="x")
        w = graph.constant(values(5, 4) if not swap else values(4, 5))
        y = w @ x if swap else x @ w
        factor = values(4, 1) if swap else values(4)
        found = both(graph, {x: values(*x.shape)}, (y + 1.5) / factor - 0.25)
        assert names(found) == ["matmul", "add"]


def test_a_transposed_convolution() -> None:
    graph = nl.Graph()
    x = graph.placeholder((1, 3, 4, 4), name="x")
    y = nl.conv_transpose2d(x, graph.constant(values(3, 5, 2, 2)), strides=2)
    found = both(graph, {x: values(1, 3, 4, 4)}, normalised(y, 5, 1))
    assert names(found) == ["convolution_data_gradient", "add"]


def test_a_number_is_a_factor_of_every_channel() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 5), name="x")
    found = both(graph, {x: values(2, 5)}, 3.0 - (x @ graph.constant(values(5, 4))) * 2.0)
    assert names(found) == ["matmul", "add"]


def test_a_bias_alone_stays_as_it_is() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 5), name="x")
    w = values(5, 4)
    y = (x @ graph.constant(w)) + values(4)
    made = graph.compile({x: (2, 5)}, [y])
    assert names(made) == ["matmul", "add"]
    held = [o.op.data.array for o in made.optimised.graph.operations if isinstance(o.op, Constant)]
    assert any(np.array_equal(a, w) for a in held)


KEPT = {
    "used elsewhere": lambda y: (y * values(4)) + y,
    "not of a channel": lambda y: y * values(2, 1),
    "of every element": lambda y: y * values(2, 4),
    "not a constant": lambda y: y * y.max(),
    "on the right of a division": lambda y: 2.0 / y,
}


@pytest.mark.parametrize("case", KEPT)
def test_what_cannot_be_absorbed_stays(case: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 5), name="x")
    y = KEPT[case](x @ graph.constant(values(5, 4)))
    found = both(graph, {x: values(2, 5)}, y) if case != "on the right of a division" else None
    if found is not None:
        assert "multiply" in names(found)
    else:
        assert "divide" in names(graph.compile({x: (2, 5)}, [y]))


def test_results_that_are_asked_for_keep_their_values() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 5), name="x")
    w = values(5, 4)
    y = x @ graph.constant(w)
    z = y * 2.0
    feed = values(2, 5)
    found = graph.compile({x: (2, 5)}, [y, z]).run([feed])
    np.testing.assert_allclose(found[0].numpy(), feed @ w, rtol=1e-5)
    np.testing.assert_allclose(found[1].numpy(), 2 * (feed @ w), rtol=1e-5)


def test_variables_are_not_weights_that_change() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 5), name="x")
    w = graph.variable(values(5, 4), name="w")
    made = graph.compile({x: (2, 5)}, [(x @ w) * values(4)])
    assert "multiply" in names(made)


def test_factors_that_overflow_stay() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 5), name="x")
    y = (x @ graph.constant(np.full((5, 4), 1e30, np.float32))) * np.full(4, 1e30, np.float32)
    made = graph.compile({x: (2, 5)}, [y])
    assert "multiply" in names(made)
    assert (made.run([np.zeros((2, 5), np.float32)])[0].numpy() == 0).all()


def test_half_types_are_left_alone() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 5), nl.float16, name="x")
    y = (x @ graph.constant(values(5, 4).astype(np.float16))) * values(4).astype(np.float16)
    assert "multiply" in names(graph.compile({x: (2, 5)}, [y]))


def test_mixed_precision_absorbs_before_it_rounds() -> None:
    graph = nl.Graph()
    x = graph.placeholder((8, 16), name="x")
    y = (x @ graph.constant(values(16, 4), name="w")) * values(4) + values(4)
    made = graph.compile({x: (8, 16)}, [y], options=nl.CompileOptions(autocast=nl.bfloat16))
    assert "multiply" not in names(made)
    products = [o for o in made.optimised.graph.operations if o.op.name == "matmul"]
    assert [o.outputs[0].dtype for o in products] == [nl.bfloat16]
    feed = values(8, 16)
    expected = graph.run({x: feed}, [y])[y].numpy()
    np.testing.assert_allclose(made.run([feed])[0].numpy(), expected, rtol=3e-2)


def test_effects_in_between_are_respected() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 5), name="x")
    v = graph.variable(1.0, name="v")
    y = x @ graph.constant(values(5, 4))
    with graph.control_dependencies([v.assign(v + 1.0)]):
        z = y * values(4)
    source = Computation(graph, (x,), (z,))
    found = Absorb()(source)
    assert any(o.op.name == "multiply" and o.control_inputs for o in found.graph.operations)


def test_unused_results_of_an_operation_are_not_computed() -> None:
    """Dead outputs: only what is read is stored."""
    graph = nl.Graph()
    x = graph.placeholder((6, 4), name="x")
    first, *_ = nl.split(x, 3, axis=0)
    made = graph.compile({x: (6, 4)}, [first.exp()])
    assert made.kernel_count == 1 and made.arena_bytes == 0
    assert made.bytes_moved <= 4 * (24 + 8)
