"""Fourier transforms: two axes of 1024 x 1024 complex numbers, and rows of real ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.harness import (
    SCIPY,
    TORCH_EAGER,
    Contender,
    Plan,
    Prepared,
    Row,
    Target,
    Work,
    measure,
)
from bench.libraries import import_peer, jax_jit, niello_executable, torch_eager
from bench.limits import aligned
from bench.machine import THREADS

SIDE = 1024
ROWS, COLUMNS = 4096, 1024


def _complex(shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.default_rng(0)
    values = generator.standard_normal((*shape, 2), dtype=np.float32)
    return aligned((*shape, 2), values).view(np.complex64)[..., 0]


def _scipy(name: str, x: np.ndarray) -> Contender:
    def make() -> Prepared:
        fft = import_peer("scipy.fft")
        call = getattr(fft, name)

        def run() -> Any:
            return call(x, workers=THREADS)

        return Prepared(run, lambda: [run()])

    return Contender(SCIPY, "", make)


def square_work() -> Work:
    """fft over both axes of one picture."""
    x = _complex((SIDE, SIDE))
    contenders = (
        niello_executable(lambda nl, t: nl.fft(t, axes=(0, 1)), [x]),
        torch_eager(lambda torch, t: torch.fft.fft2(t), [x]),
        jax_jit(lambda jax, t: jax.numpy.fft.fft2(t), [x]),
        _scipy("fft2", x),
    )
    return Work(
        f"fft over both axes of {SIDE} x {SIDE} complex64",
        contenders,
        flops=5.0 * SIDE * SIDE * 2 * np.log2(SIDE),
        rtol=1e-3,
        atol=1e-2,
        targets=(Target(1.0, (TORCH_EAGER, SCIPY)),),
    )


def real_work() -> Work:
    """rfft of rows."""
    generator = np.random.default_rng(1)
    x = aligned((ROWS, COLUMNS), generator.standard_normal((ROWS, COLUMNS), dtype=np.float32))
    contenders = (
        niello_executable(lambda nl, t: nl.rfft(t), [x]),
        torch_eager(lambda torch, t: torch.fft.rfft(t), [x]),
        jax_jit(lambda jax, t: jax.numpy.fft.rfft(t), [x]),
        _scipy("rfft", x),
    )
    return Work(
        f"rfft of {ROWS} rows of {COLUMNS} float32",
        contenders,
        flops=2.5 * ROWS * COLUMNS * np.log2(COLUMNS),
        rtol=1e-3,
        atol=1e-2,
        targets=(Target(1.0, (TORCH_EAGER, SCIPY)),),
    )


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic."""
    return [measure("fourier", w, plan, without) for w in (square_work(), real_work())]
