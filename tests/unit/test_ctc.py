"""The CTC loss against a sum over all alignments, and its gradient against differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, NotDifferentiable, ShapeError

TIME, BATCH, CLASSES = 4, 3, 3
TARGETS = np.array([[1, 2], [2, 2], [1, 0]], np.int32)
TIMES = np.array([4, 4, 3], np.int32)
LENGTHS = np.array([2, 2, 1], np.int32)


def _logs(seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((TIME, BATCH, CLASSES))
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for k, _ in itertools.groupby(path) if k != 0)


def _by_alignments(logs: np.ndarray) -> np.ndarray:
    found = []
    for n in range(BATCH):
        wanted = tuple(TARGETS[n, : LENGTHS[n]])
        paths = itertools.product(range(CLASSES), repeat=int(TIMES[n]))
        terms = [
            np.exp(sum(logs[t, n, k] for t, k in enumerate(p)))
            for p in paths
            if _collapsed(p) == wanted
        ]
        found.append(-np.log(sum(terms)))
    return np.array(found)


def _run(logs: np.ndarray, times: np.ndarray = TIMES, **options: object) -> list[np.ndarray]:
    """The loss and its gradient."""
    graph = nl.Graph()
    arrays = (logs, TARGETS, times, LENGTHS)
    tensors = [graph.placeholder(a.shape, a.dtype) for a in arrays]
    loss = nl.ctc_loss(*tensors, **options)
    gradient = graph.gradients(loss.sum(), [tensors[0]])[tensors[0]]
    made = graph.compile({t: t.type for t in tensors}, [loss, gradient], device="cpu")
    return [t.numpy() for t in made.run(list(arrays))]


def test_is_the_sum_over_all_alignments() -> None:
    logs = _logs()
    expected = _by_alignments(logs)
    np.testing.assert_allclose(_run(logs, reduction="none")[0], expected, rtol=1e-12)
    np.testing.assert_allclose(_run(logs, reduction="sum")[0], expected.sum(), rtol=1e-12)
    mean = (expected / LENGTHS).mean()
    np.testing.assert_allclose(_run(logs, reduction="mean")[0], mean, rtol=1e-12)


def test_gradient_is_that_of_differences() -> None:
    logs = _logs(1)
    gradient = _run(logs, reduction="mean")[1]
    for at in np.ndindex(*logs.shape):
        step = np.zeros_like(logs)
        step[at] = 1e-6
        ahead, behind = ((_by_alignments(logs + s) / LENGTHS).mean() for s in (step, -step))
        assert gradient[at] == pytest.approx((ahead - behind) / 2e-6, abs=1e-8)


def test_sequences_that_are_too_short() -> None:
    times = np.array([1, 4, 3], np.int32)
    loss, gradient = _run(_logs(), times, reduction="none")
    assert np.isinf(loss[0]) and np.isfinite(loss[1:]).all()
    assert not gradient[:, 0].any() and np.isfinite(gradient).all()
    loss, gradient = _run(_logs(), times, reduction="sum", zero_infinity=True)
    assert np.isfinite(loss) and not gradient[:, 0].any()


def test_refusals() -> None:
    graph = nl.Graph()
    logs = graph.placeholder((4, 2, 3))
    targets, short = (graph.placeholder(s, nl.int32) for s in ((2, 2), (3,)))
    lengths = graph.placeholder((2,), nl.int32)
    with pytest.raises(ShapeError):
        nl.ctc_loss(logs, targets, short, lengths)
    with pytest.raises(AttributeValueError):
        nl.ctc_loss(logs, targets, lengths, lengths, blank=3)
    with pytest.raises(AttributeValueError):
        nl.ctc_loss(logs, targets, lengths, lengths, reduction="largest")
    loss = nl.ctc_loss(logs, targets, lengths, lengths)
    first = graph.gradients(loss, [logs])[logs]
    with pytest.raises(NotDifferentiable):
        graph.gradients(first.sum(), [logs])
