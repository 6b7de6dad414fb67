"""Padding that reflects is written to memory before a convolution reads it; short lines of zeros
are not."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl


def convolved(mode: str, width: int) -> tuple[nl.Graph, nl.Tensor, nl.Tensor]:
    rng = np.random.default_rng(0)
    graph = nl.Graph("padded")
    image = graph.placeholder((1, 8, 40, width), name="image")
    weights = graph.constant(rng.normal(size=(3, 8, 5, 5)).astype(np.float32))
    padded = nl.pad(image, ((0, 0), (0, 0), (2, 2), (2, 2)), mode=mode)
    return graph, image, nl.conv2d(padded, weights)


@pytest.mark.parametrize(
    ("mode", "width", "kernels"),
    [("reflect", 40, 2), ("edge", 20, 2), ("constant", 20, 1)],
)
def test_what_a_convolution_reads(mode: str, width: int, kernels: int) -> None:
    graph, image, result = convolved(mode, width)
    value = np.random.default_rng(1).normal(size=(1, 8, 40, width)).astype(np.float32)
    found = {}
    for device in ("cpu", "numpy"):
        made = graph.compile({image: value.shape}, [result], device=device)
        found[device] = made.run([value])[0].numpy()
        if device == "cpu":
            assert made.kernel_count == kernels
    np.testing.assert_allclose(found["cpu"], found["numpy"], rtol=1e-4, atol=1e-4)
