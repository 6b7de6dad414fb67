"""Indexing and resizing: rows of a table gathered and added back, images resized and sampled."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.harness import NIELLO, PEERS, UNSTITCHED, Contender, Plan, Row, Target, Work, measure
from bench.libraries import jax_jit, niello_executable, torch_compiled, torch_eager
from bench.limits import aligned

ROWS, COLUMNS, CHOSEN = 50_000, 512, 16_384
IMAGE = (8, 64, 128, 128)


def _inputs(*kinds: str) -> list[np.ndarray]:
    """Arrays by name, the same in every row."""
    generator = np.random.default_rng(0)
    made = {
        "table": lambda: generator.standard_normal((ROWS, COLUMNS), dtype=np.float32),
        "places": lambda: generator.integers(0, ROWS, CHOSEN).astype(np.int64),
        "updates": lambda: generator.standard_normal((CHOSEN, COLUMNS), dtype=np.float32),
        "image": lambda: generator.standard_normal(IMAGE, dtype=np.float32),
        "grid": lambda: generator.uniform(-1, 1, (8, 128, 128, 2)).astype(np.float32),
    }
    found = []
    for kind in kinds:
        array = made[kind]()
        found.append(aligned(array.shape, array) if array.dtype == np.float32 else array)
    return found


def _work(
    name: str,
    inputs: list[np.ndarray],
    niello: Any,
    torch: Any,
    jax: Any = None,
    *,
    moved: float,
    atol: float = 1e-5,
) -> Work:
    contenders: list[Contender] = [
        niello_executable(niello, inputs),
        niello_executable(niello, inputs, peer=UNSTITCHED),
        torch_eager(torch, inputs),
        torch_compiled(torch, inputs),
    ]
    if jax is not None:
        contenders.append(jax_jit(jax, inputs))
    return Work(
        name, tuple(contenders), bytes=moved, rtol=1e-4, atol=atol, targets=(Target(1.0, PEERS),)
    )


def gather_work() -> Work:
    """16384 rows of 512 floats out of a table of 50000."""
    return _work(
        f"gather {CHOSEN} of {ROWS} rows of {COLUMNS}",
        _inputs("table", "places"),
        lambda nl, t, i: nl.gather(t, i),
        lambda torch, t, i: torch.nn.functional.embedding(i, t),
        lambda jax, t, i: jax.numpy.take(t, i, axis=0),
        moved=8.0 * CHOSEN * COLUMNS,
    )


def scatter_add_work() -> Work:
    """The same rows added into a copy of the table, repeated indices included."""
    return _work(
        f"scatter-add {CHOSEN} into {ROWS} rows of {COLUMNS}",
        _inputs("table", "places", "updates"),
        lambda nl, t, i, u: nl.scatter(t, i, u, mode="add"),
        lambda torch, t, i, u: torch.index_add(t, 0, i, u),
        lambda jax, t, i, u: t.at[i].add(u),
        moved=8.0 * ROWS * COLUMNS + 8.0 * CHOSEN * COLUMNS,
    )


def scatter_max_work() -> Work:
    """The larger of each row and what is scattered to it."""
    return _work(
        f"scatter-max {CHOSEN} into {ROWS} rows of {COLUMNS}",
        _inputs("table", "places", "updates"),
        lambda nl, t, i, u: nl.scatter(t, i, u, mode="max"),
        lambda torch, t, i, u: torch.index_reduce(t, 0, i, u, "amax"),
        lambda jax, t, i, u: t.at[i].max(u),
        moved=8.0 * ROWS * COLUMNS + 8.0 * CHOSEN * COLUMNS,
    )


def resize_work(mode: str) -> Work:
    """Images twice as large."""
    torch_mode = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}[mode]

    def with_jax(jax: Any, x: Any) -> Any:
        return jax.image.resize(x, (*IMAGE[:2], 256, 256), mode, antialias=False)

    return _work(
        f"resize {mode} 8x64x128x128 by 2",
        _inputs("image"),
        lambda nl, x: nl.interpolate(x, scale_factor=2, mode=torch_mode),
        lambda torch, x: torch.nn.functional.interpolate(x, scale_factor=2, mode=torch_mode),
        with_jax if mode == "nearest" else None,
        moved=20.0 * float(np.prod(IMAGE)),
        atol=1e-4,
    )


def grid_sample_work() -> Work:
    """Images sampled at random positions."""
    return _work(
        "grid sample bilinear 8x64x128x128",
        _inputs("image", "grid"),
        lambda nl, x, g: nl.grid_sample(x, g),
        lambda torch, x, g: torch.nn.functional.grid_sample(x, g, align_corners=False),
        moved=8.0 * float(np.prod(IMAGE)),
        atol=1e-3,
    )


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic."""
    if NIELLO in without:
        without = without | {UNSTITCHED}
    works = [gather_work(), scatter_add_work(), scatter_max_work(), grid_sample_work()]
    works += [resize_work(mode) for mode in ("nearest", "linear", "cubic")]
    return [measure("indexing", work, plan, without) for work in works]
