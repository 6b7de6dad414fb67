"""Ordering and running results along an axis: sort, argsort, top-k, cumulative sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.harness import (
    JAX,
    PEERS,
    TORCH_EAGER,
    Contender,
    Plan,
    Prepared,
    Row,
    Target,
    Work,
    measure,
)
from bench.libraries import jax_jit, niello_executable, torch_eager

NUMPY = "NumPy"
Numpy = Callable[[np.ndarray], np.ndarray]


def _numpy(function: Numpy, x: np.ndarray) -> Contender:
    def make() -> Prepared:
        return Prepared(lambda: function(x), lambda: [function(x)])

    return Contender(NUMPY, "", make)


def _work(
    name: str,
    shape: tuple[int, ...],
    niello: Callable[..., Any],
    torch: Callable[..., Any],
    numpy: Numpy | None,
    jax: Callable[..., Any] | None,
    *,
    ratio: float,
    peers: tuple[str, ...],
    atol: float = 0.0,
) -> Work:
    """A row on normally distributed float32 numbers; `ratio` is what Niello aims at."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    contenders = [niello_executable(niello, [x]), torch_eager(torch, [x])]
    if numpy is not None:
        contenders.append(_numpy(numpy, x))
    if jax is not None:
        contenders.append(jax_jit(jax, [x]))
    sizes = " x ".join(str(d) for d in shape)
    return Work(
        f"{name}, {sizes}",
        tuple(contenders),
        bytes=2.0 * x.nbytes,
        atol=atol,
        targets=(Target(ratio, peers),),
    )


def _sorts() -> list[Work]:
    return [
        _work(
            "sort rows",
            shape,
            lambda nl, x: nl.sort(x, -1),
            lambda torch, x: torch.sort(x, -1).values,
            lambda x: np.sort(x, -1),
            lambda jax, x: jax.numpy.sort(x, -1),
            ratio=1.5,
            peers=(NUMPY,),
        )
        for shape in ((1024, 4096), (64, 65536), (100_000, 16))
    ]


def _choices() -> list[Work]:
    stable = _work(
        "stable argsort of rows",
        (1024, 4096),
        lambda nl, x: nl.argsort(x, -1),
        lambda torch, x: torch.argsort(x, dim=-1, stable=True),
        lambda x: np.argsort(x, -1, kind="stable"),
        lambda jax, x: jax.numpy.argsort(x, -1),
        ratio=1.0,
        peers=(NUMPY, *PEERS),
    )
    return [
        stable,
        *(
            _work(
                f"top {k} of rows",
                (1024, 4096),
                lambda nl, x, k=k: nl.top_k(x, k)[0],
                lambda torch, x, k=k: torch.topk(x, k).values,
                None,
                lambda jax, x, k=k: jax.lax.top_k(x, k)[0],
                ratio=1.0,
                peers=(TORCH_EAGER, JAX),
            )
            for k in (10, 64)
        ),
    ]


def _runs() -> list[Work]:
    sums = [
        _work(
            f"cumulative sum along axis {axis}",
            shape,
            lambda nl, x, axis=axis: nl.cumulative_sum(x, axis=axis),
            lambda torch, x, axis=axis: torch.cumsum(x, axis),
            lambda x, axis=axis: np.cumsum(x, axis),
            lambda jax, x, axis=axis: jax.numpy.cumsum(x, axis),
            ratio=1.0,
            peers=PEERS,
            atol=2e-3,
        )
        for shape, axis in (((1024, 4096), 1), ((1024, 4096), 0), ((64, 64, 64, 16), 2))
    ]
    logs = _work(
        "cumulative log-sum-exp along axis 1",
        (1024, 4096),
        lambda nl, x: nl.cumulative_logsumexp(x, axis=1),
        lambda torch, x: torch.logcumsumexp(x, 1),
        lambda x: np.logaddexp.accumulate(x, 1),
        None,
        ratio=1.0,
        peers=PEERS,
        atol=1e-3,
    )
    return [*sums, logs]


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic."""
    works = [*_sorts(), *_choices(), *_runs()]
    return [measure("order", w, plan, without) for w in works]
