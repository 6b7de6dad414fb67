"""Factorizations and systems: single large matrices, and a stack of small ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.harness import SCIPY, TORCH_EAGER, Contender, Plan, Prepared, Row, Target, Work, measure
from bench.libraries import import_peer, niello_executable, torch_eager

SIDE = 1024
SPECTRAL = 512
SIDES = 64  # columns of a right side


def _square(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, n), dtype=np.float32)


def _definite(n: int) -> np.ndarray:
    a = _square(n)
    return a @ a.T / np.float32(n) + np.eye(n, dtype=np.float32)


def _library(call: Callable[[Any], Any]) -> Contender:
    """`call(scipy.linalg)` gives an array."""

    def make() -> Prepared:
        linalg = import_peer("scipy.linalg")
        return Prepared(lambda: call(linalg), lambda: [call(linalg)])

    return Contender(SCIPY, "", make)


def _work(
    name: str,
    arrays: list[np.ndarray],
    niello: Callable[..., Any],
    torch: Callable[..., Any],
    scipy: Callable[[Any], Any],
    flops: float,
) -> Work:
    return Work(
        name,
        (niello_executable(niello, arrays), torch_eager(torch, arrays), _library(scipy)),
        flops=flops,
        rtol=1e-2,
        atol=1e-2,
        targets=(Target(0.5, (TORCH_EAGER, SCIPY)),),
    )


def _works() -> list[Work]:
    a, s = _square(SIDE), _definite(SIDE)
    b = np.random.default_rng(1).standard_normal((SIDE, SIDES), dtype=np.float32)
    h = _definite(SPECTRAL)
    cube = float(SIDE) ** 3
    return [
        _work(
            f"Cholesky factor of {SIDE} x {SIDE} float32",
            [s],
            lambda nl, x: nl.cholesky(x),
            lambda torch, x: torch.linalg.cholesky(x),
            lambda linalg: linalg.cholesky(s, lower=True),
            cube / 3,
        ),
        _work(
            f"solve {SIDE} x {SIDE} float32 for {SIDES} right sides",
            [s, b],
            lambda nl, x, y: nl.solve(x, y),
            lambda torch, x, y: torch.linalg.solve(x, y),
            lambda linalg: linalg.solve(s, b),
            cube * 2 / 3,
        ),
        _work(
            f"inverse of {SIDE} x {SIDE} float32",
            [s],
            lambda nl, x: nl.inverse(x),
            lambda torch, x: torch.linalg.inv(x),
            lambda linalg: linalg.inv(s),
            cube * 2,
        ),
        _work(
            f"magnitudes of R in QR of {SIDE} x {SIDE} float32",
            [a],
            lambda nl, x: nl.absolute(nl.qr(x)[1]),
            lambda torch, x: torch.linalg.qr(x)[1].abs(),
            lambda linalg: np.abs(linalg.qr(a, mode="economic")[1]),
            cube * 8 / 3,
        ),
        _work(
            f"eigenvalues, with vectors, of {SPECTRAL} x {SPECTRAL} float32",
            [h],
            lambda nl, x: nl.eigh(x)[0],
            lambda torch, x: torch.linalg.eigh(x)[0],
            lambda linalg: linalg.eigh(h)[0],
            9.0 * SPECTRAL**3,
        ),
        _work(
            f"singular values, with vectors, of {SPECTRAL} x {SPECTRAL} float32",
            [h],
            lambda nl, x: nl.svd(x)[1],
            lambda torch, x: torch.linalg.svd(x, full_matrices=False)[1],
            lambda linalg: linalg.svd(h, full_matrices=False)[1],
            20.0 * SPECTRAL**3,
        ),
    ]


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic whose name contains what is asked for."""
    return [measure("linear_algebra", w, plan, without) for w in _works() if plan.only in w.name]
