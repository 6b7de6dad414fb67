"""Slices that a loop reads where they are, and weights that are read to and fro."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import niello as nl
from niello.backends.cpu.slices import read_in_place
from niello.runtime.commands import Loop, SliceCopy, walk


def _scanned(width: int, body: Any, steps: int = 5) -> tuple[Any, list[np.ndarray]]:
    """The executable of a walk over rows, and what it gives on the CPU and in NumPy."""
    graph = nl.Graph()
    x = graph.placeholder((steps, 1, width))
    _, (stack,) = nl.scan([x], [graph.constant(np.zeros((1, width), np.float32))], body)
    array = np.random.default_rng(0).standard_normal((steps, 1, width)).astype(np.float32)
    made = [graph.compile({x: x.type}, [stack], device=d) for d in ("cpu", "numpy")]
    return made[0], [e.run([array])[0].numpy() for e in made]


def _copies_left_out(executable: Any) -> int:
    program = executable.program
    loops = [c for c in walk(program.commands) if isinstance(c, Loop)]
    return sum(len(read_in_place(program, loop)) for loop in loops)


def _decayed(index: Any, slices: Any, values: Any) -> Any:
    after = values[0] * 0.5 + slices[0]
    return [after], [after]


@pytest.mark.parametrize("width", [16, 64, 48])
def test_aligned_slices_are_read_in_place(width: int) -> None:
    executable, (found, expected) = _scanned(width, _decayed)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert _copies_left_out(executable) == 1


def test_slices_at_odd_places_are_copied() -> None:
    executable, (found, expected) = _scanned(7, _decayed)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert _copies_left_out(executable) == 0
    assert any(isinstance(c, SliceCopy) for c in walk(executable.program.commands))


def test_a_slice_that_is_carried() -> None:
    """The slice of one time is the carried value of the next."""

    def body(index: Any, slices: Any, values: Any) -> Any:
        return [slices[0]], [slices[0] - values[0]]

    _, (found, expected) = _scanned(32, body)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_weights_beyond_the_cache_in_a_loop(batch: int) -> None:
    rng = np.random.default_rng(1)
    hidden = 512
    x = rng.standard_normal((4, batch, hidden)).astype(np.float32)
    weight = (rng.standard_normal((hidden, hidden * 2)) / hidden**0.5).astype(np.float32)
    graph = nl.Graph()
    source = graph.placeholder(x.shape)
    matrix = graph.constant(weight)

    def body(index: Any, slices: Any, values: Any) -> Any:
        both = values[0].matmul(matrix)
        after = (both[:, :hidden] + both[:, hidden:] + slices[0]).tanh()
        return [after], [after]

    start = graph.constant(np.zeros((batch, hidden), np.float32))
    _, (stack,) = nl.scan([source], [start], body)
    executable = graph.compile({source: source.type}, [stack], device="cpu")
    state, expected = np.zeros((batch, hidden)), []
    for row in x.astype(np.float64):
        both = state @ weight
        state = np.tanh(both[:, :hidden] + both[:, hidden:] + row)
        expected.append(state)
    for _ in range(3):  # to, fro, and to again
        found = executable.run([x])[0].numpy()
        np.testing.assert_allclose(found, np.stack(expected), atol=2e-5)
