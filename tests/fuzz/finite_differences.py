"""Gradients of a random graph against differences of its values, in float64."""

from __future__ import annotations

from functools import cache

import numpy as np
from random_graphs import Case
from shaken_values import ancestors, values_of

import niello as nl
from niello.graph.opdef import registry

STEP = 1e-6
NEAR = 1e-5  # error of a derivative, in the size of its terms
ROUGH = 1e-3  # where differences differ by more, the function has a kink or a jump nearby
FINE = (nl.float64, nl.complex128)


@cache
def unlike_their_slope() -> frozenset[str]:
    """Operations whose gradient is not the slope of their value, as their samples say: those that
    stop it, and those that pass it straight through a rounding."""
    return frozenset(
        name
        for name, cls in registry().items()
        if cls.samples() and not any(s.grad for s in cls.samples())
    )


def derivative_problem(case: Case) -> tuple[str, bool]:
    """What is wrong with the gradients that a case holds (or nothing), and whether they could be
    compared: not with less precise types or kinks on the way."""
    if case.derivative is None:
        return "", False
    of, found = case.derivative
    below = ancestors([of])
    tensors = [t for o in below for t in o.outputs if t.dtype.is_inexact]
    if any(t.dtype not in FINE for t in tensors):
        return "", False
    if any(o.op.name in unlike_their_slope() for o in below):
        return "", False
    with np.errstate(all="ignore"):
        return _compared(case, of, found)


def _compared(case: Case, of: nl.Tensor, found: dict) -> tuple[str, bool]:
    rng = np.random.default_rng(case.seed)
    leaves = {t: case.values[t] for t in (*case.feeds, *case.initial)}
    along = {t: _direction(rng, leaves[t]) for t in found}
    gradients = values_of(list(found.values()), leaves, case.callables)
    terms = [np.conj(g) * along[t] for t, g in zip(found, gradients, strict=True)]
    exact = float(sum(np.sum(v.real) for v in terms))
    scale = 1.0 + float(sum(np.sum(np.abs(v)) for v in terms))

    def total(step: float) -> float:
        moved = {t: a + step * along[t] if t in along else a for t, a in leaves.items()}
        return float(np.sum(values_of([of], moved, case.callables)[0].real))

    here = total(0.0)
    ahead, behind = (total(STEP) - here) / STEP, (here - total(-STEP)) / STEP
    near = (ahead + behind) / 2.0
    nearer = (total(STEP / 4.0) - total(-STEP / 4.0)) / (STEP / 2.0)
    rough = max(abs(ahead - behind), abs(near - nearer))
    if not np.isfinite(exact + near + nearer) or rough > ROUGH * scale:
        return "", False
    if abs(exact - near) <= NEAR * scale + 4.0 * abs(near - nearer):
        return "", True
    return f"gradient of {of.name}: differences say {near:.9g}, the gradient {exact:.9g}", True


def _direction(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    made = rng.uniform(-1.0, 1.0, like.shape)
    return made + 1j * rng.uniform(-1.0, 1.0, like.shape) if like.dtype.kind == "c" else made
