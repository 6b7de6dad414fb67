"""The rows of `bench.cuda` for gather, scatter, embeddings and resizing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cuda import Bench, Row
from niello.ops.gather import gather_gradient

Contenders = dict[str, tuple[Callable[[], Any], Any]]

TABLE, WIDTH, TOKENS = 50_304, 1024, 16_384
NODES, FEATURES, EDGES = 100_000, 64, 1 << 20
CELLS, POINTS = 1 << 20, 1 << 24
IMAGES = (16, 64, 128, 128)


def _places(bench: Bench, count: int, below: int) -> Any:
    """Random int64 indices, as PyTorch wants them."""
    found = np.random.default_rng(3).integers(0, below, count)
    return bench.nl.TensorData.from_numpy(found).to(bench.device)


def _rows(
    bench: Bench, build: Callable[..., Any], peer: Callable[..., Any], *values: Any
) -> Contenders:
    graph = bench.nl.Graph()
    places = [graph.placeholder(v.type.shape, v.type.dtype) for v in values]
    feeds = dict(zip(places, values, strict=True))
    return {
        "Niello": bench.executable(graph, feeds, [build(*places)]),
        **bench.torch_rows(peer, list(values)),
    }


def gather(bench: Bench) -> Contenders:
    table = bench.random((TABLE, WIDTH), bench.nl.float32)
    return _rows(
        bench,
        lambda t, i: bench.nl.gather(t, i),
        lambda t, i: bench.torch.nn.functional.embedding(i, t),
        table,
        _places(bench, 8 * TOKENS, TABLE),
    )


def gather_elements(bench: Bench) -> Contenders:
    return _rows(
        bench,
        lambda x, i: bench.nl.take_along_axis(x, i, 0),
        lambda x, i: bench.torch.gather(x, 0, i),
        bench.random((POINTS,), bench.nl.float32),
        _places(bench, POINTS, POINTS),
    )


def embedding_gradient(bench: Bench) -> Contenders:
    nl, torch = bench.nl, bench.torch

    def build(i: Any, g: Any) -> Any:
        table = g.graph.constant(np.float32(0)).broadcast_to((TABLE, WIDTH))
        return gather_gradient(g, i, table, 0, 0, "slices")

    def peer(i: Any, g: Any) -> Any:
        return torch.ops.aten.embedding_dense_backward(g, i, TABLE, -1, False)

    gradient = bench.random((TOKENS, WIDTH), nl.float32)
    return _rows(bench, build, peer, _places(bench, TOKENS, TABLE), gradient)


def index_add(bench: Bench) -> Contenders:
    return _rows(
        bench,
        lambda x, i, u: bench.nl.index_add(x, 0, i, u),
        lambda x, i, u: bench.torch.index_add(x, 0, i, u),
        bench.random((NODES, FEATURES), bench.nl.float32),
        _places(bench, EDGES, NODES),
        bench.random((EDGES, FEATURES), bench.nl.float32),
    )


def scatter_add(bench: Bench) -> Contenders:
    """PyTorch adds in any order; where it is asked for defined results, it sorts, too."""
    nl, torch = bench.nl, bench.torch
    values = [
        bench.random((CELLS,), nl.float32),
        _places(bench, POINTS, CELLS),
        bench.random((POINTS,), nl.float32),
    ]

    def peer(x: Any, i: Any, u: Any) -> Any:
        return torch.scatter_add(x, 0, i, u)

    def defined(x: Any, i: Any, u: Any) -> Any:
        torch.use_deterministic_algorithms(True)
        found = torch.scatter_add(x, 0, i, u)
        torch.use_deterministic_algorithms(False)
        return found

    rows = _rows(
        bench, lambda x, i, u: nl.scatter_along_axis(x, i, u, 0, mode="add"), peer, *values
    )
    for name, row in bench.torch_rows(defined, values).items():
        rows[f"{name}, defined"] = row
    return rows


def scatter_max(bench: Bench) -> Contenders:
    nl = bench.nl
    return _rows(
        bench,
        lambda x, i, u: nl.scatter_along_axis(x, i, u, 0, mode="max"),
        lambda x, i, u: bench.torch.scatter_reduce(x, 0, i, u, "amax"),
        bench.random((CELLS,), nl.float32),
        _places(bench, POINTS, CELLS),
        bench.random((POINTS,), nl.float32),
    )


def resize(bench: Bench) -> Contenders:
    nl, torch = bench.nl, bench.torch

    def peer(t: Any) -> Any:
        return torch.nn.functional.interpolate(t, scale_factor=2, mode="bilinear")

    image = bench.random(IMAGES, nl.float32)
    return _rows(bench, lambda x: nl.interpolate(x, scale_factor=2, mode="bilinear"), peer, image)


ROWS = {
    "gather": Row(
        f"{8 * TOKENS} of {TABLE} rows of {WIDTH} float32", gather, bytes=64.0 * TOKENS * WIDTH
    ),
    "gather_elements": Row("2^24 of 2^24 float32", gather_elements, bytes=16.0 * POINTS),
    "embedding_gradient": Row(
        f"{TOKENS} gradients to {TABLE} rows of {WIDTH} float32",
        embedding_gradient,
        bytes=4.0 * WIDTH * (TOKENS + TABLE),
    ),
    "index_add": Row(
        f"{EDGES} rows of {FEATURES} float32 added to {NODES}",
        index_add,
        bytes=4.0 * FEATURES * (EDGES + 2 * NODES),
    ),
    "scatter_add": Row("2^24 float32 added to 2^20", scatter_add, bytes=12.0 * POINTS),
    "scatter_max": Row("largest of 2^24 float32 at 2^20", scatter_max, bytes=12.0 * POINTS),
    "resize": Row(
        "bilinear resize of 16 x 64 x 128^2 by 2", resize, bytes=20.0 * float(np.prod(IMAGES))
    ),
}
