"""Channels move last where convolutions are, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import niello as nl
from niello.graph.verify import verify
from niello.ops.conv import ConvolutionOp
from niello.passes.canonicalise import Canonicalise
from niello.passes.computation import Computation
from niello.passes.decompose import Decompose
from niello.passes.fold import Fold
from niello.passes.layout import ChannelsLast
from niello.passes.share import Share
from niello.passes.specialise import Specialise

RANDOM = np.random.default_rng(3)
Build = Callable[[nl.Tensor], nl.Tensor]


def random(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def moved(build: Build, shape: tuple[int, ...]) -> Computation:
    """The computation after the pass and those that tidy up behind it."""
    graph = nl.Graph()
    x = graph.placeholder(shape)
    found = Computation(graph, (x,), (build(x),))
    for step in (Specialise((nl.TensorType(shape),)), Decompose(), Fold(), Canonicalise()):
        found = step(found)
    found = ChannelsLast()(found)
    verify(found.graph)
    for step in (Canonicalise(), Share(), Fold()):
        found = step(found)
    verify(found.graph)
    return found


def count(found: Computation, name: str) -> int:
    return sum(o.op.name == name for o in found.reachable())


def layouts(found: Computation) -> set[str]:
    settings = [o.op.settings for o in found.reachable() if isinstance(o.op, ConvolutionOp)]
    return {s.data.letters for s in settings}


def agrees(build: Build, shape: tuple[int, ...]) -> None:
    """Results on the cpu device are those without any optimisation."""
    graph = nl.Graph()
    x = graph.placeholder(shape)
    y = build(x)
    value = random(*shape)
    results = []
    for optimise in (True, False):
        options = nl.CompileOptions(optimise=optimise)
        executable = graph.compile(feeds={x: shape}, targets=[y], device="cpu", options=options)
        results.append(np.asarray(executable.run([value])[0]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-3, atol=1e-3)


def block(x: nl.Tensor) -> nl.Tensor:
    """Three convolutions with a residual."""
    y = nl.conv2d(x, random(16, 8, 1, 1) * 0.3) + random(16, 1, 1)
    y = nl.conv2d(y.relu(), random(16, 16, 3, 3) * 0.1, padding=1).relu()
    y = nl.conv2d(y, random(24, 16, 1, 1) * 0.3) + random(1, 24, 1, 1)
    return (y + nl.conv2d(x, random(24, 8, 1, 1) * 0.3)).relu()


def chain(tail: Build) -> Build:
    return lambda x: tail(block(x))


TAILS: dict[str, Build] = {
    "nothing": lambda y: y,
    "max_pool": lambda y: nl.max_pool2d(y, 3, strides=2, padding=1),
    "average_pool": lambda y: nl.average_pool2d(y, 2, strides=2),
    "mean": lambda y: nl.mean(y, axes=(2, 3)),
    "mean_kept": lambda y: nl.mean(y, axes=(2, 3), keepdims=True),
    "channel_sum": lambda y: nl.sum(y, axes=(1,)),
    "row_sum": lambda y: nl.sum(y, axes=(-1,)),
    "concat": lambda y: nl.concat([y, y * 2.0], axis=1),
    "pad": lambda y: nl.pad(y, [(0, 0), (1, 2), (3, 0), (0, 1)]),
    "slice": lambda y: y[:, 2:20:3, 1:, ::2],
    "broadcast": lambda y: nl.broadcast_to(nl.sum(y, axes=(2, 3), keepdims=True), y.shape) * y,
    "scalar": lambda y: nl.where(y > 1.0, y, 0.5),
    "transposed": lambda y: nl.conv_transpose2d(y, random(24, 8, 2, 2) * 0.2, strides=2),
    "depthwise": lambda y: nl.conv2d(y, random(24, 1, 3, 3) * 0.3, padding=1, groups=24),
    "grouped": lambda y: nl.conv2d(y, random(24, 6, 3, 3) * 0.2, padding=1, groups=4),
    "flat": lambda y: nl.matmul(y.reshape((2, -1)), random(24 * 144, 5) * 0.1),
    "softmax": lambda y: nl.softmax(y, axis=1),
}


@pytest.mark.parametrize("tail", TAILS)
def test_results_stay(tail: str) -> None:
    agrees(chain(TAILS[tail]), (2, 8, 12, 12))


@pytest.mark.parametrize("tail", ["max_pool", "average_pool", "concat", "slice", "pad", "scalar"])
def test_what_follows_moves_along(tail: str) -> None:
    found = moved(chain(TAILS[tail]), (2, 8, 12, 12))
    assert layouts(found) == {"NHWC"}
    assert count(found, "transpose") == 2  # the image and the result


def test_a_mean_over_pixels_needs_no_transpose() -> None:
    found = moved(chain(TAILS["mean"]), (2, 8, 12, 12))
    assert layouts(found) == {"NHWC"}
    assert count(found, "transpose") == 1  # the image


def test_constant_weights_follow() -> None:
    found = moved(block, (2, 8, 12, 12))
    letters = [
        o.op.settings.weights.letters for o in found.reachable() if isinstance(o.op, ConvolutionOp)
    ]
    assert letters == ["HWIO"] * 4


def test_a_convolution_between_other_things_stays() -> None:
    lone = moved(lambda x: nl.conv2d(x, random(8, 8, 3, 3)).relu(), (1, 8, 9, 9))
    assert layouts(lone) == {"NCHW"}
    assert count(lone, "transpose") == 0


def test_small_groups_stay() -> None:
    def build(x: nl.Tensor) -> nl.Tensor:
        for _ in range(4):
            x = nl.conv2d(x, random(16, 4, 3, 3), padding=1, groups=4)
        return x

    assert layouts(moved(build, (1, 16, 9, 9))) == {"NCHW"}


def test_other_ranks() -> None:
    def lines(x: nl.Tensor) -> nl.Tensor:
        for _ in range(3):
            x = nl.conv1d(x, random(8, 8, 3) * 0.3, padding=1).relu()
        return x

    agrees(lines, (2, 8, 30))
    assert layouts(moved(lines, (2, 8, 30))) == {"NWC"}

    def volumes(x: nl.Tensor) -> nl.Tensor:
        for _ in range(3):
            x = nl.conv3d(x, random(8, 8, 3, 3, 3) * 0.1, padding=1).relu()
        return x

    agrees(volumes, (1, 8, 5, 6, 7))
    assert layouts(moved(volumes, (1, 8, 5, 6, 7))) == {"NDHWC"}


def test_training_steps_agree() -> None:
    graph = nl.Graph()
    x = graph.placeholder((4, 8, 12, 12))
    first = graph.variable(random(16, 8, 3, 3) * 0.1)
    second = graph.variable(random(16, 16, 3, 3) * 0.1)
    y = nl.max_pool2d(nl.conv2d(x, first, padding=1).relu(), 2, strides=2)
    loss = nl.sum(nl.conv2d(y, second, padding=1).relu() ** 2.0)
    gradients = graph.gradients(loss, [first, second])
    value = random(4, 8, 12, 12)
    found = []
    for optimise in (True, False):
        options = nl.CompileOptions(optimise=optimise)
        targets = [loss, *gradients.values()]
        executable = graph.compile(
            feeds={x: (4, 8, 12, 12)}, targets=targets, device="cpu", options=options
        )
        found.append([np.asarray(r) for r in executable.run([value])])
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3 * np.abs(want).max())


def test_a_network_has_one_kernel_for_each_convolution() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 8, 12, 12))
    y = nl.mean(block(x), axes=(2, 3))
    executable = graph.compile(feeds={x: (2, 8, 12, 12)}, targets=[y], device="cpu")
    # Bias, ReLU and the residual are stitched in; the mean is a kernel, and perhaps the image.
    assert 5 <= executable.kernel_count <= 6


def test_upsampling_by_neighbours_stays_inside() -> None:
    def build(x: nl.Tensor) -> nl.Tensor:
        y = nl.conv2d(x, random(16, 8, 3, 3), padding=1).relu()
        for axis in (2, 3):
            y = nl.gather(y, np.repeat(np.arange(y.shape[axis]), 2), axis)  # type: ignore[index]
        return nl.conv2d(y, random(8, 16, 3, 3) * 0.1, padding=1)

    found = moved(build, (1, 8, 12, 10))
    assert layouts(found) == {"NHWC"}
    assert count(found, "transpose") == 2
    assert [o.op.axis for o in found.reachable() if o.op.name == "gather"] == [1, 2]
    agrees(build, (1, 8, 12, 10))


@pytest.mark.parametrize("inputs_last", [False, True])
def test_the_order_of_weights_is_the_devices(inputs_last: bool) -> None:
    graph = nl.Graph()
    x = graph.placeholder((2, 16, 9, 9))
    y = x
    for _ in range(6):
        y = nl.conv2d(y, random(16, 16, 3, 3), padding=1).relu()
    found = Computation(graph, (x,), (y,))
    for step in (Specialise((x.type,)), Decompose(), ChannelsLast(inputs_last), Fold()):
        found = step(found)
    made = [o for o in found.reachable() if isinstance(o.op, ConvolutionOp)]
    letters = {o.op.settings.weights.letters for o in made}
    assert letters == ({"OHWI"} if inputs_last else {"HWIO"}) and len(made) == 6
