"""How many kernels, how many bytes: what stitching promises for the models that people build."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Digits, commands, gelu_of_primitives, kernels, plan

import niello as nl
from niello.runtime.commands import Copy, Dispatch, Fill


def single(shape: tuple[int, ...]) -> tuple[nl.Graph, nl.Tensor]:
    graph = nl.Graph()
    return graph, graph.placeholder(shape, name="x")


# --- elementwise
def test_gelu_of_eight_primitives_is_one_kernel() -> None:
    graph, x = single((1000, 1000))
    y = gelu_of_primitives(x)
    assert len([o for o in graph.operations if o.op.name not in ("constant", "placeholder")]) == 8
    found = plan(graph, {x: x.shape}, [y])
    assert kernels(found.program) == 1
    assert found.program.bytes_moved() == 2 * 4 * 1000 * 1000
    assert found.program.arena_bytes == 0


def test_not_optimised_every_operation_is_a_kernel() -> None:
    graph, x = single((100,))
    found = plan(graph, {x: x.shape}, [gelu_of_primitives(x)], fuse=False)
    assert kernels(found.program) == 8
    assert found.program.bytes_moved() > 8 * 400


def test_a_long_chain_is_one_kernel() -> None:
    graph, x = single((64, 64))
    y = x
    for i in range(100):
        y = (y + 1.0) * 0.5 if i % 2 else y.tanh()
    assert kernels(plan(graph, {x: x.shape}, [y]).program) == 1


def test_two_results_of_one_kernel() -> None:
    graph, x = single((64, 64))
    y = x.exp()
    found = plan(graph, {x: x.shape}, [y, y * 2.0])
    assert kernels(found.program) == 1
    assert found.program.bytes_moved() == 3 * 4 * 64 * 64


# --- views
def test_views_cost_no_kernel() -> None:
    graph, x = single((8, 6, 4))
    y = x.transpose([2, 0, 1]).reshape((32, 6))[::-1, 1:5].expand_dims(0)
    y = y.broadcast_to((3, 32, 4)).reverse(axes=1).pad([(0, 0), (1, 0), (0, 2)]).tile([1, 2, 1])
    found = plan(graph, {x: x.shape}, [y + 1.0])
    assert kernels(found.program) == 1
    assert found.program.arena_bytes == 0


def test_a_view_that_is_fetched_is_one_copy_or_kernel() -> None:
    graph, x = single((8, 6))
    found = plan(graph, {x: x.shape}, [x.transpose()])
    assert len(found.program.commands) == 1


def test_views_of_results_are_read_in_place() -> None:
    graph, x = single((64, 32))
    y = x.exp().sum(0)  # a reduction, so that its reader cannot share the kernel by shape alone
    z = y.reshape((4, 8)).transpose() * 2.0
    found = plan(graph, {x: x.shape}, [z])
    assert kernels(found.program) <= 2
    assert found.program.arena_bytes <= 128


# --- rows
@pytest.mark.parametrize("function", [nl.softmax, nl.log_softmax])
@pytest.mark.parametrize("shape", [(4096, 1024), (64, 10), (2, 3, 7), (5,), (32, 1)])
def test_softmax_is_one_kernel(function, shape) -> None:
    graph, x = single(shape)
    found = plan(graph, {x: shape}, [function(x)])
    assert kernels(found.program) == 1
    assert found.program.bytes_moved() == 2 * 4 * int(np.prod(shape))
    assert found.program.arena_bytes == 0


def test_softmax_of_few_long_rows_keeps_all_threads_busy() -> None:
    """A single long row is split over threads: three passes and no temporary of its size."""
    graph, x = single((1, 100_000))
    found = plan(graph, {x: x.shape}, [nl.softmax(x)])
    assert kernels(found.program) <= 3
    assert found.program.arena_bytes <= 256


def norm_graph(rows: int = 256, row: int = 512):
    graph, x = single((rows, row))
    gamma, beta = graph.placeholder((row,)), graph.placeholder((row,))
    feeds = {x: x.shape, gamma: gamma.shape, beta: beta.shape}
    return graph, feeds, x, gamma, beta, x.layer_norm(gamma, beta)


def test_layer_norm_is_one_kernel() -> None:
    graph, feeds, *_, y = norm_graph()
    found = plan(graph, feeds, [y])
    assert kernels(found.program) == 1
    assert found.program.bytes_moved() == 2 * 4 * 256 * 512 + 2 * 4 * 512
    assert found.program.arena_bytes == 0


def test_layer_norm_data_gradient_is_one_kernel() -> None:
    graph, feeds, x, _, _, y = norm_graph()
    seed = graph.placeholder(y.shape)
    found = plan(graph, {**feeds, seed: seed.shape}, [graph.gradients(y, [x], seed=seed)[x]])
    assert kernels(found.program) == 1
    assert found.program.arena_bytes == 0


def test_layer_norm_backward_is_three_kernels() -> None:
    """Data gradient row by row; the gradients of gamma and beta sum over rows, the other way."""
    graph, feeds, x, gamma, beta, y = norm_graph()
    seed = graph.placeholder(y.shape)
    found = graph.gradients(y, [x, gamma, beta], seed=seed)
    planned = plan(graph, {**feeds, seed: seed.shape}, list(found.values()))
    assert kernels(planned.program) <= 3
    assert planned.program.arena_bytes <= 4 * 256 * 512


def test_reduction_with_prologue_and_epilogue() -> None:
    graph, x = single((128, 64))
    y = ((x * x).sum(-1, True) + 1e-6).sqrt() * 0.5
    found = plan(graph, {x: x.shape}, [y])
    assert kernels(found.program) == 1
    assert found.program.bytes_moved() == 4 * (128 * 64 + 128)


# --- contractions
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_convolution_bias_relu_is_one_kernel(layout: str) -> None:
    graph = nl.Graph()
    nhwc = layout == "NHWC"
    x = graph.placeholder((8, 56, 56, 64) if nhwc else (8, 64, 56, 56))
    w = graph.placeholder((3, 3, 64, 64) if nhwc else (64, 64, 3, 3))
    b = graph.placeholder((64,) if nhwc else (64, 1, 1))
    weights = "HWIO" if nhwc else "OIHW"
    y = nl.conv2d(x, w, padding="same", data_layout=layout, weights_layout=weights)
    found = plan(graph, {t: t.shape for t in (x, w, b)}, [(y + b).relu()])
    assert kernels(found.program) == 1
    assert found.program.bytes_moved() == 4 * (2 * 8 * 56 * 56 * 64 + 9 * 64 * 64 + 64)
    assert found.program.arena_bytes == 0


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_matmul_bias_gelu_is_one_kernel(approximate: str) -> None:
    graph = nl.Graph()
    x, w, b = (graph.placeholder(s) for s in ((128, 4096), (4096, 1024), (1024,)))
    y = nl.gelu(nl.matmul(x, w) + b, approximate=approximate)
    found = plan(graph, {t: t.shape for t in (x, w, b)}, [y])
    assert kernels(found.program) == 1
    assert found.program.arena_bytes == 0


def test_matmul_bias_primitive_gelu_is_one_kernel() -> None:
    graph = nl.Graph()
    x, w, b = (graph.placeholder(s) for s in ((128, 256), (256, 512), (512,)))
    y = gelu_of_primitives(nl.matmul(x, w) + b)
    assert kernels(plan(graph, {t: t.shape for t in (x, w, b)}, [y]).program) == 1


def test_transposed_operands_are_read_in_place() -> None:
    graph = nl.Graph()
    x, w = graph.placeholder((256, 128)), graph.placeholder((512, 256))
    found = plan(graph, {x: x.shape, w: w.shape}, [nl.matmul(x.transpose(), w.transpose())])
    assert kernels(found.program) == 1
    assert found.program.arena_bytes == 0


# --- losses
@pytest.mark.parametrize(("reduction", "most"), [("none", 1), ("sum", 2), ("mean", 2)])
def test_cross_entropy_and_its_gradient(reduction: str, most: int) -> None:
    graph = nl.Graph()
    logits, labels = graph.placeholder((64, 10)), graph.placeholder((64, 10))
    loss = nl.softmax_cross_entropy(logits, labels, reduction=reduction)
    slope = graph.gradients(loss, [logits])[logits]
    found = plan(graph, {logits: (64, 10), labels: (64, 10)}, [loss, slope])
    assert kernels(found.program) <= most
    assert found.program.arena_bytes <= 256  # one number for each row


# --- training
def optimiser(rule: str, count: int = 8):
    """An optimiser step over parameters of different sizes, gradients given."""
    graph = nl.Graph()
    shapes = [(3 * i + 1, 5) for i in range(count)]
    new = lambda s: graph.variable(np.zeros(s, np.float32))  # noqa: E731
    steps, feeds = [], {}
    count_t = graph.placeholder(())
    for shape in shapes:
        value, m, v = new(shape), new(shape), new(shape)
        gradient = graph.placeholder(shape)
        feeds[gradient] = shape
        if rule == "sgd":
            steps.append(value.assign(nl.sgd(0.1, value, gradient)))
        elif rule == "momentum":
            made = nl.momentum(0.1, 0.9, value, m, gradient, nesterov=True)
            steps += [a.assign(b) for a, b in zip((value, m), made, strict=True)]
        else:
            feeds.setdefault(count_t, ())
            made = nl.adam(1e-3, 0.9, 0.999, 1e-8, count_t, value, m, v, gradient)
            steps += [a.assign(b) for a, b in zip((value, m, v), made, strict=True)]
    return graph, feeds, steps


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_optimiser_step_is_one_kernel(rule: str) -> None:
    """All updates in one kernel, in place: no copies, no temporaries."""
    graph, feeds, steps = optimiser(rule)
    found = plan(graph, feeds, (), steps)
    assert kernels(found.program) == 1
    assert len(found.program.commands) == 1
    assert found.program.arena_bytes == 0


def test_many_parameters_respect_the_number_of_buffers() -> None:
    from niello.backends import backend

    graph, feeds, steps = optimiser("adam", 60)
    found = plan(graph, feeds, (), steps)
    most = backend("cpu").limits.max_buffers
    assert all(len(c.buffers) <= most for c in commands(found.program, Dispatch))
    assert kernels(found.program) <= 60 * 4 // most + 2


def test_sgd_step_of_the_digit_network_adds_at_most_two_kernels() -> None:
    network = Digits(side=12, channels=8, hidden=64)
    slopes = network.gradients()
    without = plan(network.graph, network.feeds(16), [network.loss, *slopes.values()])
    steps = [v.assign(nl.sgd(0.05, v, g)) for v, g in slopes.items()]
    whole = plan(network.graph, network.feeds(16), [network.loss], steps)
    assert kernels(whole.program) <= kernels(without.program) + 2
    assert not commands(whole.program, Copy)
    assert not commands(whole.program, Fill)
    assert kernels(whole.program) <= 21


def test_digit_network_inference() -> None:
    """Each layer one kernel: convolution + bias + ReLU, pool, twice; two dense layers."""
    network = Digits(side=12, channels=8, hidden=64)
    shape = {network.image: (16, 12, 12, 1)}
    assert kernels(plan(network.graph, shape, [network.logits]).program) <= 6
